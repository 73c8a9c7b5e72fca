//! Whole clusters for tests: real nodes, each with its own real MariaDB, as an operator sets them up.
//!
//! A node is two processes (the supervising parent and the node itself), and starts, stops and kills
//! its database by commands. Everything lives below one directory of its own, by which its processes
//! are known; it ends with its [`Cluster`], also in a panic, which prints the tails of all logs.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use mysql_async::{Conn, OptsBuilder, prelude::Queryable};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::{mariadb, network::Network, ports::Port, turn::Turn};

/// A child logs this as an error when its parent was killed before it.
pub const SUPERVISOR_GONE: &str = "its supervisor is gone";
/// A parent logs this as an error when its child was killed.
pub const CHILD_DIED: &str = "the node died";
/// For whatever comes by itself: generous, as the machine may be busy.
pub const SOON: Duration = Duration::from_secs(60);
/// How long a statement may take before its client gives up.
const SQL_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a node or a database is asked: asking costs a process.
const POLL: Duration = Duration::from_millis(100);
const SECRET: &str = "a-secret-of-the-tests-0123456789abcdef";
/// The databases' users' password.
pub const PASSWORD: &str = "test-password";
const LOG_LINES_SHOWN: usize = 60;

/// A cluster, of which any part may be down.
pub struct Cluster {
    nodes: Vec<Node>,
    directory: TempDir,
    network: Option<Network>,
    _turn: Turn,
}

/// One node and its database.
pub struct Node {
    id: String,
    directory: PathBuf,
    address: String,
    /// The database's, the peers', HTTP's and the feed's.
    ports: [Port; 4],
    parent: Option<Child>,
}

impl Cluster {
    /// The files of `count` nodes with equal, empty databases; nothing runs.
    pub async fn prepared(count: usize) -> Self {
        Self::prepared_in(count, |_| None).await
    }

    /// As [`Cluster::prepared`], each node in a network namespace of its own, with its database on
    /// that namespace's loopback.
    pub async fn prepared_in_namespaces(count: usize) -> Self {
        Self::prepared_in(count, |count| Some(Network::new(count))).await
    }

    async fn prepared_in(count: usize, network: impl FnOnce(usize) -> Option<Network>) -> Self {
        let turn = Turn::come().await;
        let directory =
            tempfile::Builder::new().prefix("ws-e2e-").tempdir_in("/var/tmp").expect("directory");
        open_to_all(directory.path());
        write_private(&directory.path().join("secret"), SECRET);
        write_private(&directory.path().join("password"), PASSWORD);
        let network = network(count);
        let address = |index| match &network {
            Some(network) => network.address(index),
            None => "127.0.0.1".to_owned(),
        };
        let nodes: Vec<_> =
            (0..count).map(|index| Node::new(directory.path(), index, address(index))).collect();
        let cluster = Self { nodes, directory, network, _turn: turn };
        let root = cluster.directory.path().to_owned();
        tokio::task::spawn_blocking(move || make_base(&root)).await.expect("base of databases");
        for index in 0..count {
            cluster.write_files(index);
        }
        cluster
    }

    /// A cluster that runs, with the schema `test` and the table `ledger` in it.
    pub async fn founded(count: usize) -> Self {
        let mut cluster = Self::prepared(count).await;
        cluster.found().await;
        cluster
    }

    /// Starts all nodes and waits until the first write is on all of them.
    pub async fn found(&mut self) {
        self.found_by(self.nodes.len()).await;
    }

    /// As [`Cluster::found`], by the first so many nodes; the others stay down.
    pub async fn found_by(&mut self, founders: usize) {
        for index in 0..founders {
            self.start(index);
        }
        let leader = self.leader().await;
        // Without a unique key, so that a row applied twice shows.
        let ledger = "CREATE TABLE test.ledger (id BIGINT NOT NULL, text VARCHAR(80), KEY (id))";
        for statement in ["CREATE DATABASE test", ledger] {
            self.app(leader, statement)
                .await
                .unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
        for index in 0..founders {
            let made = "SELECT COUNT(*) FROM information_schema.tables \
                        WHERE table_schema='test' AND table_name='ledger'";
            self.until_value(index, made, "1").await;
        }
    }

    /// How many nodes.
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// A node's ID.
    pub fn id(&self, index: usize) -> &str {
        &self.nodes[index].id
    }

    /// A node's directory.
    pub fn directory(&self, index: usize) -> &Path {
        &self.nodes[index].directory
    }

    /// The port of a node's database, on its machine's loopback.
    pub fn database_port(&self, index: usize) -> u16 {
        self.nodes[index].ports[0].number()
    }

    /// The network of namespaces.
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("this cluster has namespaces")
    }

    /// All but one.
    pub fn others(&self, index: usize) -> Vec<usize> {
        (0..self.nodes.len()).filter(|other| *other != index).collect()
    }

    /// Replaces a part of a node's configuration file; it takes effect when the node starts.
    pub fn reconfigure(&self, index: usize, from: &str, to: &str) {
        let file = self.nodes[index].directory.join("wolfscale.toml");
        let text = fs::read_to_string(&file).expect("configuration");
        assert!(text.contains(from), "{from} is not in {}", file.display());
        fs::write(&file, text.replace(from, to)).expect("configuration");
    }

    /// A node as `initial_members` names it.
    pub fn member(&self, index: usize) -> String {
        self.nodes[index].member()
    }

    /// Where peers and operators reach a node.
    pub fn grpc_address(&self, index: usize) -> String {
        let node = &self.nodes[index];
        format!("{}:{}", node.address, node.ports[1].number())
    }

    // --- processes -----------------------------------------------------------------------------

    /// Starts a node; it starts its database if that does not run.
    pub fn start(&mut self, index: usize) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.nodes[index].directory.join("node.log"))
            .expect("open the log");
        let mut command = self.command(index, env!("CARGO_BIN_EXE_wolfscale"));
        command.args(["start", "--config"]).arg(self.nodes[index].directory.join("wolfscale.toml"));
        let errors = log.try_clone().expect("a second handle of the log");
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        self.nodes[index].parent = Some(command.spawn().expect("start the node"));
    }

    /// A command that runs where the node runs.
    pub fn command(&self, index: usize, program: &str) -> Command {
        match &self.network {
            Some(network) => network.command(index, program),
            None => Command::new(program),
        }
    }

    /// Kills a node, parent and child, and leaves its database alone.
    pub fn kill_node(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        kill_all(&[node.parents(), node.children()].concat());
        node.reap();
    }

    /// Kills the child alone: its parent must act.
    pub fn kill_child(&self, index: usize) {
        let children = self.nodes[index].children();
        assert!(!children.is_empty(), "{} has a child", self.id(index));
        kill_all(&children);
    }

    /// Kills the parent alone: its child must notice, and leave no leader's database behind.
    pub fn kill_parent(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        kill_all(&node.parents());
        node.reap();
    }

    /// Whether a process of the node itself runs.
    pub fn node_runs(&self, index: usize) -> bool {
        let node = &self.nodes[index];
        !node.parents().is_empty() || !node.children().is_empty()
    }

    /// The pids of a node's database: one, or none.
    pub fn databases(&self, index: usize) -> Vec<i32> {
        self.nodes[index].databases()
    }

    /// Kills a node's database.
    pub fn kill_database(&self, index: usize) {
        let databases = self.nodes[index].databases();
        assert!(!databases.is_empty(), "{} has a database", self.id(index));
        kill_all(&databases);
    }

    /// Kills a node and its database at once, as if the machine died.
    pub fn crash(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        kill_all(&[node.parents(), node.children(), node.databases()].concat());
        node.reap();
        node.end_all();
    }

    /// Asks a node to stop; returns its exit code.
    pub async fn stop(&mut self, index: usize) -> Option<i32> {
        for pid in self.nodes[index].parents() {
            signal(pid, Signal::TERM);
        }
        let mut parent = self.nodes[index].parent.take().expect("it runs");
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(status) = parent.try_wait().expect("wait for the node") {
                return status.code();
            }
            if Instant::now() > deadline {
                self.nodes[index].parent = Some(parent);
                panic!("{} does not stop", self.id(index));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops or continues a node's processes, as a machine that hangs; its database goes on.
    pub fn freeze(&self, index: usize, frozen: bool) {
        let node = &self.nodes[index];
        let kind = if frozen { Signal::STOP } else { Signal::CONT };
        for pid in [node.parents(), node.children()].concat() {
            signal(pid, kind);
        }
    }

    // --- asking the cluster --------------------------------------------------------------------

    /// Runs `wolfctl` against one node.
    pub async fn wolfctl(&self, index: usize, arguments: &[&str]) -> Output {
        let wolfctl = Path::new(env!("CARGO_BIN_EXE_wolfscale")).with_file_name("wolfctl");
        assert!(wolfctl.exists(), "{wolfctl:?} is missing: cargo build --workspace --bins");
        let node = &self.nodes[index];
        let mut command = self.command(index, wolfctl.to_str().expect("UTF-8"));
        command
            .args(["--endpoint", &format!("{}:{}", node.address, node.ports[1].number())])
            .arg("--secret-file")
            .arg(self.directory.path().join("secret"))
            .args(["--timeout", "2s"])
            .args(arguments);
        let ran = tokio::task::spawn_blocking(move || command.output()).await;
        ran.expect("wolfctl runs to its end").expect("run wolfctl")
    }

    /// A node's status; none if it does not answer.
    pub async fn status(&self, index: usize) -> Option<Value> {
        let output = self.wolfctl(index, &["--output", "json", "status"]).await;
        serde_json::from_slice(&output.stdout).ok()
    }

    /// The node that leads and whose database takes writes; waits for one.
    pub async fn leader(&self) -> usize {
        let deadline = Instant::now() + SOON;
        loop {
            for index in (0..self.nodes.len()).filter(|index| self.nodes[*index].parent.is_some()) {
                let leads = self.status(index).await.is_some_and(|status| leads(&status));
                let writable = "SELECT @@global.read_only";
                if leads && self.rows(index, writable).await.is_ok_and(|rows| rows == ["0"]) {
                    return index;
                }
            }
            assert!(Instant::now() < deadline, "nobody leads and takes writes");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until a status is as it should be.
    pub async fn until_status(&self, index: usize, what: &str, holds: impl Fn(&Value) -> bool) {
        let what = format!("{}: {what}", self.id(index));
        until(&what, async || self.status(index).await.is_some_and(|status| holds(&status))).await;
    }

    /// Waits until a node's database follows, and says so.
    pub async fn until_follows(&self, index: usize) {
        self.until_status(index, "its database follows", |status| {
            status["database"]["state"] == "following"
        })
        .await;
    }

    /// Waits until so many nodes count, as a node says.
    pub async fn until_counts(&self, index: usize, many: usize) {
        self.until_status(index, "that many nodes count", |status| {
            let servers = status["servers"].as_array();
            let members = servers.into_iter().flatten().filter(|s| s["standing"] == "member");
            members.count() == many
        })
        .await;
    }

    // --- asking the databases ------------------------------------------------------------------

    /// A connection as the application: by TCP, or by socket where TCP does not reach.
    pub async fn connect(&self, index: usize) -> mysql_async::Result<Conn> {
        self.nodes[index].connect("app", self.network.is_some()).await
    }

    /// A connection as the node's own user, by the socket: it may do everything.
    pub async fn connect_as_admin(&self, index: usize) -> mysql_async::Result<Conn> {
        self.nodes[index].connect("wolfscale", true).await
    }

    /// What a connection as the application needs, for clients that outlive a borrow.
    pub fn options(&self, index: usize) -> OptsBuilder {
        self.nodes[index].options("app", self.network.is_some())
    }

    /// The arguments by which sysbench reaches a node's database.
    pub fn sysbench(&self, index: usize) -> Vec<String> {
        let port = self.nodes[index].ports[0].number();
        vec![
            "--mysql-host=127.0.0.1".to_owned(),
            format!("--mysql-port={port}"),
            "--mysql-user=app".to_owned(),
            format!("--mysql-password={PASSWORD}"),
            "--mysql-db=test".to_owned(),
        ]
    }

    /// Runs a statement as the application.
    pub async fn app(&self, index: usize, statement: &str) -> Result<(), String> {
        let run = async {
            let mut connection = self.connect(index).await?;
            connection.query_drop(statement).await?;
            connection.disconnect().await
        };
        match timeout(SQL_TIMEOUT, run).await {
            Ok(done) => done.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {SQL_TIMEOUT:?}")),
        }
    }

    /// The rows of a query, each as one text, columns joined by `|`.
    pub async fn rows(&self, index: usize, query: &str) -> Result<Vec<String>, String> {
        let run = async {
            let mut connection = self.connect(index).await?;
            let rows: Vec<mysql_async::Row> = connection.query(query).await?;
            connection.disconnect().await?;
            Ok::<_, mysql_async::Error>(rows)
        };
        let rows = match timeout(SQL_TIMEOUT, run).await {
            Ok(rows) => rows.map_err(|error| error.to_string())?,
            Err(_) => return Err(format!("no answer within {SQL_TIMEOUT:?}")),
        };
        Ok(rows.into_iter().map(|row| mariadb::text_of(row).join("|")).collect())
    }

    /// Waits until a query's only value is as given, on one node.
    pub async fn until_value(&self, index: usize, query: &str, expected: &str) {
        let what = format!("{}: {query} is {expected}", self.id(index));
        until(&what, async || self.rows(index, query).await.is_ok_and(|rows| rows == [expected]))
            .await;
    }

    /// Waits until all tables of `test` are equal on these nodes; returns the checksums.
    pub async fn until_equal(&self, nodes: &[usize]) -> Vec<String> {
        let mut last = Vec::new();
        let deadline = Instant::now() + SOON;
        loop {
            let mut all = Vec::new();
            for index in nodes {
                all.push(self.checksums(*index).await);
            }
            if let Ok(first) = &all[0]
                && all.iter().all(|one| one.as_ref() == Ok(first))
            {
                return first.clone();
            }
            assert!(Instant::now() < deadline, "the databases differ: {all:#?}\nbefore: {last:#?}");
            last = all;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn checksums(&self, index: usize) -> Result<Vec<String>, String> {
        let tables = self.rows(index, "SHOW TABLES FROM test").await?;
        let tables: Vec<_> = tables.iter().map(|table| format!("test.{table}")).collect();
        self.rows(index, &format!("CHECKSUM TABLE {} EXTENDED", tables.join(", "))).await
    }

    // --- logs ----------------------------------------------------------------------------------

    /// What a node has logged.
    pub fn log(&self, index: usize) -> String {
        fs::read_to_string(self.nodes[index].directory.join("node.log")).unwrap_or_default()
    }

    /// Fails if a node logged an error, or panicked, except lines that hold one of `expected`.
    pub fn assert_no_errors(&self, expected: &[&str]) {
        let logs = (0..self.nodes.len()).map(|index| (self.id(index), self.log(index)));
        let bad: Vec<_> = logs
            .flat_map(|(id, log)| {
                let bad = |line: &&str| line.contains(" ERROR ") || line.contains("panicked at");
                let lines = log.lines().filter(bad).map(|line| format!("{id}: {line}"));
                lines.collect::<Vec<_>>()
            })
            .filter(|line| !expected.iter().any(|expected| line.contains(expected)))
            .collect();
        assert!(bad.is_empty(), "unexpected errors in the logs:\n{}", bad.join("\n"));
    }

    fn print_tails(&self) {
        for node in &self.nodes {
            for file in ["node.log", "run/db.log", "run/db-commands.log"] {
                let text = fs::read_to_string(node.directory.join(file)).unwrap_or_default();
                let lines: Vec<_> = text.lines().collect();
                let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
                eprintln!("--- {} {file}\n{}", node.id, lines[from..].join("\n"));
            }
        }
    }

    // --- files ---------------------------------------------------------------------------------

    /// Runs SQL in a node's database while that does not run, past every log.
    pub fn bootstrap(&self, index: usize, sql: &str) {
        bootstrap(&self.nodes[index].directory.join("db"), sql);
    }

    fn write_files(&self, index: usize) {
        let node = &self.nodes[index];
        let root = &node.directory;
        for directory in ["", "run", "conf.d", "data"] {
            fs::create_dir_all(root.join(directory)).expect("directory of the node");
            open_to_all(&root.join(directory));
        }
        fs::write(root.join("my.cnf"), node.server_config()).expect("configuration");
        fs::write(root.join("conf.d/99-wolfscale.cnf"), node.drop_in(index + 1)).expect("drop-in");
        fs::write(root.join("init.sql"), INIT).expect("init file");
        for (name, script) in node.scripts() {
            fs::write(root.join(name), script).expect("script");
            open_to_all(&root.join(name));
        }
        let members: Vec<_> = self.nodes.iter().map(Node::member).collect();
        let config = node.config(index + 1, self.directory.path(), &members.join(", "));
        fs::write(root.join("wolfscale.toml"), config).expect("configuration");
        let base = self.directory.path().join("base");
        run(Command::new("cp").arg("-a").arg(base).arg(root.join("db")));
        run(Command::new("chown").arg("mysql:mysql").arg(root.join("run")));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_tails();
        }
        for node in &mut self.nodes {
            node.end_all();
        }
    }
}

impl Node {
    fn new(root: &Path, index: usize, address: String) -> Self {
        let id = format!("n{}", index + 1);
        let directory = root.join(&id);
        let ports = [Port::free(), Port::free(), Port::free(), Port::free()];
        Self { id, directory, address, ports, parent: None }
    }

    fn options(&self, user: &str, by_socket: bool) -> OptsBuilder {
        let options = OptsBuilder::default().user(Some(user)).pass(Some(PASSWORD));
        if by_socket {
            let socket = self.directory.join("run/db.sock");
            let socket = Some(socket.to_string_lossy().into_owned());
            return options.ip_or_hostname("localhost").socket(socket).prefer_socket(true);
        }
        options.ip_or_hostname("127.0.0.1").tcp_port(self.ports[0].number()).prefer_socket(false)
    }

    async fn connect(&self, user: &str, by_socket: bool) -> mysql_async::Result<Conn> {
        Conn::new(self.options(user, by_socket)).await
    }

    fn member(&self) -> String {
        let (id, address, port) = (&self.id, &self.address, self.ports[1].number());
        format!("{{ id = \"{id}\", address = \"{address}:{port}\" }}")
    }

    /// The pids of this node's processes whose command line holds that text after the directory.
    fn pids(&self, holds: impl Fn(&str) -> bool) -> Vec<i32> {
        let mark = format!("{}/", self.directory.display());
        let ours = |line: &str| line.contains(&mark) && holds(line);
        processes().into_iter().filter(|(_, line)| ours(line)).map(|(pid, _)| pid).collect()
    }

    fn parents(&self) -> Vec<i32> {
        self.pids(|line| line.contains("wolfscale start "))
    }

    fn children(&self) -> Vec<i32> {
        self.pids(|line| line.contains("wolfscale node "))
    }

    fn databases(&self) -> Vec<i32> {
        self.pids(|line| line.starts_with("mariadbd "))
    }

    fn reap(&mut self) {
        if let Some(mut parent) = self.parent.take() {
            let _ = parent.wait();
        }
    }

    /// Kills whatever is left of it, until nothing is: a node that dies starts its database again.
    fn end_all(&mut self) {
        for _ in 0..1000 {
            let all = [self.parents(), self.children(), self.pids(|_| true)].concat();
            if all.is_empty() {
                break;
            }
            kill_all(&all);
        }
        self.reap();
    }

    fn server_config(&self) -> String {
        let (root, port) = (self.directory.display(), self.ports[0].number());
        format!(
            "[mariadbd]\ndatadir={root}/db\nsocket={root}/run/db.sock\npid_file={root}/run/db.pid\n\
             log_error={root}/run/db.log\nport={port}\nbind_address=127.0.0.1\nuser=mysql\n\
             skip_name_resolve=1\nperformance_schema=OFF\n{}!includedir {root}/conf.d\n",
            mariadb::STORAGE
        )
    }

    fn drop_in(&self, number: usize) -> String {
        let root = self.directory.display();
        format!("[mariadbd]\nserver_id={number}\ninit_file={root}/init.sql\n{DROP_IN}")
    }

    fn scripts(&self) -> [(&'static str, String); 3] {
        let root = self.directory.display();
        let kill = |signal| {
            format!(
                "#!/bin/sh\npid=$(cat {root}/run/db.pid 2>/dev/null) || exit 0\n\
                 kill -{signal} \"$pid\" 2>/dev/null || true\n"
            )
        };
        let start = format!(
            "#!/bin/sh\nexec setsid mariadbd --defaults-file={root}/my.cnf \"$@\" </dev/null\n"
        );
        [("db-start", start), ("db-stop", kill("TERM")), ("db-kill", kill("KILL"))]
    }

    fn config(&self, number: usize, shared: &Path, members: &str) -> String {
        let (id, root, shared) = (&self.id, self.directory.display(), shared.display());
        let [_, grpc, http, feed] = self.ports.each_ref().map(Port::number);
        let address = &self.address;
        format!(
            r#"[node]
id = "{id}"
data_dir = "{root}/data"

[cluster]
secret_file = "{shared}/secret"
policy = "majority"
preempt_after = "10m"
initial_members = [{members}]

[listen]
grpc = "{address}:{grpc}"
http = "127.0.0.1:{http}"

[db]
socket = "{root}/run/db.sock"
user = "wolfscale"
password_file = "{shared}/password"
capture_user = "wolfscale"
capture_password_file = "{shared}/password"
server_id = {number}
feed_listen = "127.0.0.1:{feed}"
dropin_path = "{root}/conf.d/99-wolfscale.cnf"
init_file = "{root}/init.sql"
control = "commands"
start_command = ["{root}/db-start", "--init-rpl-role=SLAVE"]
start_default_role_command = ["{root}/db-start", "--init-rpl-role=MASTER"]
stop_command = ["{root}/db-stop"]
kill_command = ["{root}/db-kill"]
pid_file = "{root}/run/db.pid"
command_output = "{root}/run/db-commands.log"
"#
        )
    }
}

/// Polls until the condition holds; panics with `what` when it does not in time.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// Whether a status is that of a leader whose database takes writes.
fn leads(status: &Value) -> bool {
    status["role"] == "leader" && status["database"]["state"] == "leading"
}

const INIT: &str = "SET GLOBAL rpl_semi_sync_master_enabled=1;\n";

/// What the cluster needs of each MariaDB (docs/operations.md).
const DROP_IN: &str = "\
log_bin=binlog
binlog_format=ROW
binlog_row_image=FULL
binlog_checksum=CRC32
sync_binlog=1
gtid_domain_id=0
gtid_strict_mode=ON
log_slave_updates=OFF
replicate_same_server_id=1
init_rpl_role=SLAVE
skip_slave_start=1
read_only=1
event_scheduler=OFF
relay_log_recovery=ON
sync_relay_log=0
sync_master_info=0
sync_relay_log_info=0
slave_net_timeout=10
slave_parallel_threads=4
slave_parallel_mode=optimistic
slave_max_allowed_packet=1073741824
rpl_semi_sync_master_wait_point=AFTER_SYNC
rpl_semi_sync_master_timeout=18446744073709551615
rpl_semi_sync_master_wait_no_slave=ON
";

/// The data directory that all nodes begin with.
fn make_base(root: &Path) {
    let base = root.join("base");
    run(Command::new("cp")
        .args(["-a", "--reflink=auto"])
        .arg(mariadb::template().join("data"))
        .arg(&base));
    let users = format!(
        "FLUSH PRIVILEGES;\n\
         CREATE USER wolfscale@localhost IDENTIFIED BY '{PASSWORD}';\n\
         GRANT ALL PRIVILEGES ON *.* TO wolfscale@localhost;\n\
         CREATE USER app@'%' IDENTIFIED BY '{PASSWORD}';\n\
         GRANT ALL PRIVILEGES ON test.* TO app@'%';\n"
    );
    bootstrap(&base, &users);
}

fn bootstrap(datadir: &Path, sql: &str) {
    let statements = tempfile::NamedTempFile::new().expect("file of statements");
    fs::write(statements.path(), sql).expect("write statements");
    let mut command = Command::new("mariadbd");
    command.args(["--no-defaults", "--bootstrap", "--user=mysql"]);
    command.args(mariadb::STORAGE.lines().map(|line| format!("--{line}")));
    command.arg(format!("--datadir={}", datadir.display()));
    run(command.stdin(File::open(statements.path()).expect("open statements")));
}

/// Every process's pid and command line, arguments joined by spaces and ended by one.
fn processes() -> Vec<(i32, String)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok().filter(|line| !line.is_empty())?;
        Some((pid, String::from_utf8_lossy(&line).replace('\0', " ")))
    })
    .collect()
}

fn signal(pid: i32, kind: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // One that is gone needs no signal.
        let _ = kill_process(pid, kind);
    }
}

/// Kills them in order, then waits until all are gone.
fn kill_all(pids: &[i32]) {
    for pid in pids {
        signal(*pid, Signal::KILL);
    }
    let deadline = Instant::now() + SOON;
    while pids.iter().any(|pid| runs(*pid)) {
        assert!(Instant::now() < deadline, "killed processes do not end: {pids:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a process runs; a zombie does not.
fn runs(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("permissions");
}

fn write_private(path: &Path, text: &str) {
    fs::write(path, text).expect("write a secret");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("permissions");
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
}
