//! Private MariaDB servers for the tests: made from a template, killed and removed when dropped.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use mysql_async::{Conn, OptsBuilder, prelude::Queryable};
use tempfile::TempDir;

use crate::ports::Port;

/// How long a server may take to start, or a condition to come true, before the test fails.
pub const DEADLINE: Duration = Duration::from_secs(40);
/// The user that servers run as.
const SERVER_USER: &str = "mysql";
/// The administrator that the template holds, for TCP and socket.
pub const ADMIN: (&str, &str) = ("admin", "admin-secret");
/// The user that the template holds for capture: REPLICATION SLAVE only.
pub const CAPTURE: (&str, &str) = ("capture", "capture-secret");

/// A server that is set as the cluster asks (read-write, replica threads not started).
pub struct MariaDb {
    dir: TempDir,
    port: Port,
    server_id: u32,
    child: Option<Child>,
}

impl MariaDb {
    /// A fresh server that runs and answers.
    pub async fn start(server_id: u32) -> Self {
        Self::start_with(server_id, "").await
    }

    /// The same with more lines of configuration.
    pub async fn start_with(server_id: u32, lines: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("ws-")
            .tempdir_in("/var/tmp")
            .expect("create the server's directory");
        copy(&template().join("data"), &dir.path().join("data"));
        let mut server = Self { dir, port: Port::free(), server_id, child: None };
        server.configure(lines);
        server.launch(&[]).await;
        server
    }

    /// Ends it as a crash does: SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it after [`MariaDb::kill`], with these further arguments.
    pub async fn launch(&mut self, arguments: &[&str]) {
        let output = File::create(self.path("output.log")).expect("create the output file");
        let child = Command::new("/usr/sbin/mariadbd")
            .arg(format!("--defaults-file={}", self.path("my.cnf").display()))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("second handle"))
            .stderr(output)
            .spawn()
            .expect("mariadbd starts");
        self.child = Some(child);
        let deadline = Instant::now() + DEADLINE;
        while !self.answers().await {
            let child = self.child.as_mut().expect("it was started");
            let ended = child.try_wait().expect("its state can be asked");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "mariadbd does not answer ({ended:?}): {}",
                self.error_log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The unix socket.
    pub fn socket(&self) -> PathBuf {
        self.path("s")
    }

    /// `@@server_id`.
    pub fn server_id(&self) -> u32 {
        self.server_id
    }

    /// What it logged.
    pub fn error_log(&self) -> String {
        let read = |name| fs::read_to_string(self.path(name)).unwrap_or_default();
        read("error.log") + &read("output.log")
    }

    /// An administrator's connection.
    pub async fn conn(&self) -> Conn {
        self.try_conn().await.unwrap_or_else(|e| panic!("connect: {e}\n{}", self.error_log()))
    }

    /// Runs a statement.
    pub async fn run(&self, sql: &str) {
        let mut conn = self.conn().await;
        conn.query_drop(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        let _ = conn.disconnect().await;
    }

    /// The first column of the first row as text, if there is one.
    pub async fn ask(&self, sql: &str) -> Option<String> {
        let mut conn = self.conn().await;
        let row: Option<Option<String>> =
            conn.query_first(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        let _ = conn.disconnect().await;
        row.flatten()
    }

    /// Points the replica threads to a feed on 127.0.0.1 and starts them.
    pub async fn follow(&self, port: u16, user: &str, password: &str) {
        self.run(&format!(
            "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='{user}', \
             MASTER_PASSWORD='{password}', MASTER_HEARTBEAT_PERIOD=1, MASTER_CONNECT_RETRY=1, \
             MASTER_USE_GTID=slave_pos"
        ))
        .await;
        self.run("START SLAVE").await;
    }

    /// A field of `SHOW SLAVE STATUS`, empty if there is none.
    pub async fn slave_status(&self, field: &str) -> String {
        let mut conn = self.conn().await;
        let row: Option<mysql_async::Row> =
            conn.query_first("SHOW SLAVE STATUS").await.expect("shows");
        let value: Option<Option<String>> = row.and_then(|mut row| row.take(field));
        let _ = conn.disconnect().await;
        value.flatten().unwrap_or_default()
    }

    /// Waits until the server has applied `gtid` as a replica.
    pub async fn applied(&self, gtid: &str) {
        let seconds = DEADLINE.as_secs();
        let waited = self.ask(&format!("SELECT MASTER_GTID_WAIT('{gtid}', {seconds})")).await;
        if waited.as_deref() != Some("0") {
            panic!(
                "{gtid} is not applied: io {:?} {:?}, sql {:?} {:?}, at {:?}\n{}",
                self.slave_status("Slave_IO_Running").await,
                self.slave_status("Last_IO_Error").await,
                self.slave_status("Slave_SQL_Running").await,
                self.slave_status("Last_SQL_Error").await,
                self.ask("SELECT @@gtid_slave_pos").await,
                self.error_log()
            );
        }
    }

    async fn try_conn(&self) -> mysql_async::Result<Conn> {
        let opts = OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(self.port())
            .user(Some(ADMIN.0))
            .pass(Some(ADMIN.1))
            .max_allowed_packet(Some(1 << 30))
            .prefer_socket(false);
        Conn::new(opts).await
    }

    async fn answers(&self) -> bool {
        match self.try_conn().await {
            Ok(conn) => conn.disconnect().await.is_ok(),
            Err(_) => false,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn configure(&self, lines: &str) {
        let at = |name: &str| self.path(name).display().to_string();
        let enable = "SET GLOBAL rpl_semi_sync_master_enabled=1;\n";
        fs::write(self.path("init.sql"), enable).expect("write the init file");
        let options = format!(
            "[mariadbd]\nuser={SERVER_USER}\ndatadir={data}\nsocket={socket}\npid-file={pid}\n\
             log-error={log}\nport={port}\nbind-address=127.0.0.1\nserver_id={id}\n\
             init_file={init}\n{SETTINGS}{lines}\n",
            data = at("data"),
            socket = at("s"),
            pid = at("pid"),
            log = at("error.log"),
            port = self.port(),
            id = self.server_id,
            init = at("init.sql"),
        );
        fs::write(self.path("my.cnf"), options).expect("write the option file");
        own(self.dir.path());
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        self.kill();
    }
}

/// As notes on the feed ask, and small.
const SETTINGS: &str = "\
log_bin=bin
binlog_format=ROW
binlog_row_image=FULL
sync_binlog=1
gtid_strict_mode=ON
log_slave_updates=OFF
replicate_same_server_id=1
init_rpl_role=SLAVE
skip_slave_start
relay_log=relay
relay_log_recovery=ON
sync_relay_log=0
sync_master_info=0
sync_relay_log_info=0
slave_net_timeout=10
slave_parallel_threads=4
slave_parallel_mode=optimistic
slave_max_allowed_packet=1G
max_allowed_packet=1G
rpl_semi_sync_master_wait_point=AFTER_SYNC
rpl_semi_sync_master_wait_no_slave=ON
rpl_semi_sync_master_timeout=18446744073709551615
innodb_flush_log_at_trx_commit=1
innodb_buffer_pool_size=64M
innodb_log_file_size=96M
skip_name_resolve
";

/// An empty data directory with the test users, made once for all tests of this server version.
fn template() -> PathBuf {
    let version = Command::new("/usr/sbin/mariadbd").arg("--version").output().expect("mariadbd");
    let version = String::from_utf8_lossy(&version.stdout);
    let version = version.split_whitespace().nth(2).expect("a version").replace('+', "-");
    let root = PathBuf::from(format!("/var/tmp/wolfscale-test-template-{version}-2"));
    let lock = File::create(root.with_extension("lock")).expect("create the template's lock");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("lock");
    if !root.join("complete").exists() {
        make_template(&root);
    }
    root
}

fn make_template(root: &Path) {
    let _ = fs::remove_dir_all(root);
    fs::create_dir_all(root).expect("create the template's directory");
    own(root);
    let data = format!("--datadir={}", root.join("data").display());
    let user = format!("--user={SERVER_USER}");
    let made = Command::new("mariadb-install-db")
        .args(["--no-defaults", &user, "--auth-root-authentication-method=normal", &data])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("mariadb-install-db runs");
    assert!(made.success(), "mariadb-install-db: {made}");
    let mut bootstrap = Command::new("/usr/sbin/mariadbd")
        .args(["--no-defaults", "--bootstrap", &user, &data])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("mariadbd --bootstrap starts");
    let users = format!(
        "FLUSH PRIVILEGES;\n\
         CREATE USER '{}'@'%' IDENTIFIED BY '{}';\n\
         GRANT ALL PRIVILEGES ON *.* TO '{}'@'%' WITH GRANT OPTION;\n\
         CREATE USER '{}'@'%' IDENTIFIED BY '{}';\n\
         GRANT REPLICATION SLAVE ON *.* TO '{}'@'%';\n\
         DROP USER IF EXISTS ''@'localhost';\n\
         CREATE DATABASE IF NOT EXISTS test;\n",
        ADMIN.0, ADMIN.1, ADMIN.0, CAPTURE.0, CAPTURE.1, CAPTURE.0
    );
    let mut input = bootstrap.stdin.take().expect("its input is a pipe");
    input.write_all(users.as_bytes()).expect("write the users");
    drop(input);
    let status = bootstrap.wait().expect("it ends");
    assert!(status.success(), "mariadbd --bootstrap: {status}");
    fs::write(root.join("complete"), "").expect("mark the template complete");
}

fn copy(from: &Path, to: &Path) {
    let status =
        Command::new("cp").args(["-a", "--reflink=auto"]).args([from, to]).status().expect("cp");
    assert!(status.success(), "cp: {status}");
}

fn own(dir: &Path) {
    let owner = format!("{SERVER_USER}:");
    let status = Command::new("chown").arg("-R").arg(owner).arg(dir).status().expect("chown");
    assert!(status.success(), "chown: {status}");
}
