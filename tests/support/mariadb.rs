//! Real MariaDB servers for tests, configured as WolfScale wants them.
//!
//! A data directory is made once per version and copied for every server. A server dies with its
//! [`MariaDb`], and its directory goes with it.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use mysql_async::{Conn, OptsBuilder, Row, Value, prelude::Queryable};
use tempfile::TempDir;

const SERVER: &str = "mariadbd";
const INSTALLER: &str = "mariadb-install-db";
const HOME: &str = "/var/tmp";
const START_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// Small and the same for the template and its copies: another size means slow work at the start.
pub const STORAGE: &str = "innodb_buffer_pool_size=64M\ninnodb_log_file_size=32M\n";

/// What every node of a cluster is configured with.
const CONFIG: &str = "\
character-set-server=utf8mb4
skip_name_resolve=ON
performance_schema=OFF
max_allowed_packet=1G
event_scheduler=OFF
log_bin=binlog
binlog_format=ROW
binlog_row_image=FULL
sync_binlog=1
gtid_strict_mode=ON
log_slave_updates=OFF
replicate_same_server_id=1
init_rpl_role=SLAVE
skip_slave_start=ON
relay_log=relay
relay_log_recovery=ON
sync_relay_log=0
sync_master_info=0
sync_relay_log_info=0
slave_net_timeout=10
slave_parallel_threads=4
slave_parallel_mode=optimistic
slave_max_allowed_packet=1G
rpl_semi_sync_master_wait_point=AFTER_SYNC
rpl_semi_sync_master_timeout=18446744073709551615
";

/// Runs after crash recovery and before clients: with semi-sync in the configuration instead,
/// recovery of a DDL waits for an ACK that nobody can give.
const INIT: &str = "SET GLOBAL rpl_semi_sync_master_enabled=1;\n";

/// A running server, or one that was killed and not restarted yet.
pub struct MariaDb {
    directory: TempDir,
    child: Option<Child>,
}

impl MariaDb {
    /// A new, empty server, reachable over its socket. `extra_lines` go to the end of its
    /// configuration; to listen, say `skip_networking=OFF`, `bind_address=127.0.0.1` and `port`
    /// there. Semi-sync is on: without a semi-synchronous replica every write waits.
    pub async fn start(server_id: u32, extra_lines: &str) -> Self {
        let template = tokio::task::spawn_blocking(template).await.expect("template");
        let directory = tempfile::Builder::new().prefix("ws-").tempdir_in(HOME).expect("directory");
        let root = directory.path();
        let from = template.join("data");
        run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(root.join("data")));
        let path = root.display();
        let config = format!(
            "[mariadbd]\nserver_id={server_id}\ndatadir={path}/data\nsocket={path}/s\n\
             tmpdir={path}/tmp\n\
             pid_file={path}/pid\nlog_error={path}/error.log\ninit_file={path}/init.sql\n\
             {STORAGE}{CONFIG}skip_networking=ON\n{extra_lines}\n"
        );
        fs::write(root.join("my.cnf"), config).expect("configuration");
        fs::write(root.join("init.sql"), INIT).expect("init file");
        // Not shared: a server that starts removes the temporary tables of all others there.
        fs::create_dir(root.join("tmp")).expect("directory of temporary files");
        fs::set_permissions(root, fs::Permissions::from_mode(0o755)).expect("permissions");
        run(Command::new("chown").args(["-R", "mysql:mysql"]).arg(root));
        let mut server = Self { directory, child: None };
        server.launch().await;
        server
    }

    /// The path of its socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    /// Its data directory, with its binlogs `binlog.NNNNNN`.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// What it logs.
    pub fn error_log(&self) -> String {
        fs::read_to_string(self.directory.path().join("error.log")).unwrap_or_default()
    }

    /// A connection as root.
    pub async fn connect(&self) -> mysql_async::Result<Conn> {
        let options = OptsBuilder::default()
            .ip_or_hostname("localhost")
            .socket(Some(self.socket().to_string_lossy()))
            .prefer_socket(true)
            .max_allowed_packet(Some(1 << 30))
            .user(Some("root"));
        Conn::new(options).await
    }

    /// Runs statements, joined by `;`, as root; returns the rows of the last, NULL as "NULL".
    pub async fn sql(&self, statements: &str) -> Vec<Vec<String>> {
        self.try_sql(statements).await.unwrap_or_else(|error| panic!("{statements:.200}: {error}"))
    }

    /// As [`MariaDb::sql`], for statements that may fail.
    pub async fn try_sql(&self, statements: &str) -> mysql_async::Result<Vec<Vec<String>>> {
        let mut connection = self.connect().await?;
        let mut result = connection.query_iter(statements).await?;
        let mut rows: Vec<Row> = Vec::new();
        while !result.is_empty() {
            rows = result.collect().await?;
        }
        drop(result);
        connection.disconnect().await?;
        Ok(rows.into_iter().map(text_of).collect())
    }

    /// The only value that a query returns.
    pub async fn value(&self, query: &str) -> String {
        self.sql(query).await.concat().into_iter().next().unwrap_or_default()
    }

    /// A field of SHOW SLAVE STATUS.
    pub async fn slave_status(&self, field: &str) -> String {
        let mut connection = self.connect().await.expect("connect");
        let row: Option<Row> = connection.query_first("SHOW SLAVE STATUS").await.expect("status");
        let _ = connection.disconnect().await;
        let value = row.and_then(|row| row.get::<Value, _>(field));
        value.map(text).unwrap_or_default()
    }

    /// Kills it as a crash would.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again, after killing it if it still runs.
    pub async fn restart(&mut self) {
        self.kill9();
        self.launch().await;
    }

    async fn launch(&mut self) {
        let config = self.directory.path().join("my.cnf");
        let child = Command::new(SERVER)
            .arg(format!("--defaults-file={}", config.display()))
            .arg("--user=mysql")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start mariadbd");
        self.child = Some(child);
        let deadline = Instant::now() + START_TIMEOUT;
        while self.try_sql("SELECT 1").await.is_err() {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if ended.is_some() || Instant::now() > deadline {
                panic!("mariadbd did not start ({ended:?}):\n{}", self.error_log());
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// Polls until the condition holds; panics with `what` when it does not in time.
pub async fn eventually(what: &str, timeout: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + timeout;
    while !holds().await {
        assert!(Instant::now() < deadline, "not in {timeout:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// The directory with the template's `data`, made by whoever comes first.
pub fn template() -> PathBuf {
    let version = output(Command::new(SERVER).arg("--version"));
    let version = version.split_whitespace().nth(2).expect("a version").to_owned();
    let beside =
        |suffix: &str| Path::new(HOME).join(format!("wolfscale-test-template-{version}{suffix}"));
    let template = beside("");
    let lock = File::create(beside(".lock")).expect("lock file");
    lock.lock().expect("lock the template");
    if template.exists() {
        return template;
    }
    let fresh = beside(".new");
    let _ = fs::remove_dir_all(&fresh);
    fs::create_dir(&fresh).expect("directory of the template");
    fs::write(fresh.join("my.cnf"), format!("[mariadbd]\n{STORAGE}")).expect("configuration");
    run(Command::new(INSTALLER)
        .arg(format!("--defaults-file={}", fresh.join("my.cnf").display()))
        .arg(format!("--datadir={}", fresh.join("data").display()))
        .args(["--user=mysql", "--auth-root-authentication-method=normal", "--skip-test-db"])
        // A machine whose own name does not resolve is fine: no account names it.
        .arg("--force"));
    fs::rename(&fresh, &template).expect("template in place");
    template
}

fn run(command: &mut Command) {
    output(command);
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A row's values, NULL as "NULL".
pub fn text_of(row: Row) -> Vec<String> {
    row.unwrap().into_iter().map(text).collect()
}

fn text(value: Value) -> String {
    match value {
        Value::NULL => "NULL".to_owned(),
        Value::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        other => other.as_sql(true),
    }
}
