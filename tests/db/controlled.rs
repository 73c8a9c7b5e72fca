//! A private MariaDB server that the product starts, kills and configures, as in production: it
//! has its option file, a directory of drop-ins and a PID file.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use mysql_async::{Conn, OptsBuilder, prelude::Queryable};
use tempfile::TempDir;
use tokio::time::Instant;
use wolfscale::db::{
    control::{Commands, Control, StartRole},
    mariadb::{Address, AdminSettings, FeedEndpoint, MariaDb},
    requirements::{self, Wanted},
};

use crate::ports::Port;

/// How long anything may take here before the test fails.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// An empty data directory, made once a process.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<TempDir> = OnceLock::new();
    let made = TEMPLATE.get_or_init(|| {
        let dir = TempDir::new().expect("temporary directory");
        let status = Command::new("mariadb-install-db")
            .args(["--no-defaults", "--user=root", "--skip-test-db", "--force"])
            .arg("--auth-root-authentication-method=normal")
            .arg(format!("--datadir={}", dir.path().join("data").display()))
            .stdout(Stdio::null())
            .status()
            .expect("mariadb-install-db runs");
        assert!(status.success(), "mariadb-install-db: {status}");
        dir
    });
    made.path()
}

/// One server; killed and removed when dropped.
pub struct Controlled {
    dir: TempDir,
    port: Port,
    server_id: u32,
}

impl Controlled {
    /// A server with Debian's defaults and nothing else; it does not run yet.
    pub fn plain(server_id: u32) -> Self {
        let dir = TempDir::new().expect("temporary directory");
        let copied = Command::new("cp")
            .args(["-a", "--reflink=auto"])
            .args([template().join("data"), dir.path().join("data")])
            .status()
            .expect("cp runs");
        assert!(copied.success(), "cp: {copied}");
        fs::create_dir(dir.path().join("conf.d")).expect("creates");
        let server = Self { dir, port: Port::free(), server_id };
        let at = |name: &str| server.dir.path().join(name).display().to_string();
        let options = format!(
            "[mariadbd]\nuser=root\ndatadir={}\nsocket={}\npid-file={}\nlog-error={}\nport={}\n\
             bind-address=127.0.0.1\ninnodb_buffer_pool_size=32M\ninnodb_log_file_size=16M\n\
             log_bin=binlog\n!includedir {}\n",
            at("data"),
            at("socket"),
            at("pid"),
            at("error.log"),
            server.port.number(),
            at("conf.d"),
        );
        fs::write(server.option_file(), options).expect("writes");
        server.mend_start();
        server
    }

    /// A server that is set as the product asks; it does not run yet.
    pub fn configured(server_id: u32) -> Self {
        let server = Self::plain(server_id);
        requirements::write(&server.wanted()).expect("writes the drop-in");
        server
    }

    fn option_file(&self) -> PathBuf {
        self.dir.path().join("my.cnf")
    }

    /// What it must be set to.
    pub fn wanted(&self) -> Wanted {
        Wanted {
            server_id: self.server_id,
            drop_in: self.dir.path().join("conf.d/99-wolfscale.cnf"),
            init_file: self.dir.path().join("init.sql"),
        }
    }

    /// Arguments that only its starts as follower get.
    fn broken_start(&self) -> PathBuf {
        self.dir.path().join("broken-start")
    }

    /// From now on it starts as follower with this argument, too.
    pub fn break_start(&self, argument: &str) {
        fs::write(self.broken_start(), argument).expect("writes");
    }

    /// It starts as before.
    pub fn mend_start(&self) {
        self.break_start("");
    }

    /// What it wrote into its error log.
    pub fn error_log(&self) -> String {
        fs::read_to_string(self.dir.path().join("error.log")).unwrap_or_default()
    }

    /// How the product controls it.
    pub fn control(&self) -> Control {
        let options = format!("--defaults-file={}", self.option_file().display());
        let default_role = "--init-rpl-role=MASTER".to_owned();
        let start_default_role = vec!["mariadbd".to_owned(), options.clone(), default_role];
        let script = format!("exec mariadbd {options} $(cat {})", self.broken_start().display());
        let start = vec!["sh".into(), "-c".into(), script];
        Control::Commands(Commands {
            start,
            start_default_role,
            stop: Vec::new(),
            kill: Vec::new(),
            pid_file: Some(self.dir.path().join("pid")),
            output: Some(self.dir.path().join("output.log")),
        })
    }

    /// How the product administers it.
    pub fn admin(&self) -> AdminSettings {
        AdminSettings {
            address: Address::Socket(self.dir.path().join("socket")),
            user: "root".into(),
            password: String::new(),
            timeout: Duration::from_secs(5),
        }
    }

    /// The product's admin connection.
    pub fn db(&self) -> MariaDb {
        MariaDb::new(self.admin())
    }

    /// Itself, as something to follow.
    pub fn endpoint(&self) -> FeedEndpoint {
        FeedEndpoint {
            host: "127.0.0.1".into(),
            port: self.port.number(),
            user: "replica".into(),
            password: "secret".into(),
        }
    }

    /// Starts it and waits until it answers.
    pub async fn start(&self) {
        let _launch = self.control().start(StartRole::Follower).await.expect("starts");
        self.answers().await;
    }

    /// Waits until it answers.
    pub async fn answers(&self) {
        eventually("the server answers", async || self.db().session().await.is_ok()).await;
    }

    /// A client's connection, over TCP.
    pub async fn client(&self) -> Conn {
        self.client_as("root").await
    }

    /// A client's connection, over TCP, as some user without a password.
    pub async fn client_as(&self, user: &str) -> Conn {
        self.connect_as(user).await
    }

    /// As [`Self::client_as`], to be awaited elsewhere.
    pub fn connect_as(&self, user: &str) -> impl Future<Output = Conn> + use<> {
        let opts = self.opts(user);
        async move { Conn::new(opts).await.expect("a client connects") }
    }

    fn opts(&self, user: &str) -> OptsBuilder {
        OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(self.port.number())
            .prefer_socket(false)
            .user(Some(user))
    }

    /// Runs statements as root that leave no trace in the binlog.
    pub async fn aside(&self, statements: &[&str]) {
        let mut conn = self.client().await;
        conn.query_drop("SET sql_log_bin=0").await.expect("not logged");
        for sql in statements.iter().map(|sql| (*sql).to_owned()).collect::<Vec<_>>() {
            conn.query_drop(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        }
    }

    /// One value.
    pub async fn value(&self, sql: &str) -> String {
        self.try_value(sql).await.expect("reads")
    }

    /// One value, from a server that may be down.
    pub async fn try_value(&self, sql: &str) -> Result<String, mysql_async::Error> {
        let mut conn = Conn::new(self.opts("root")).await?;
        let value: Option<Option<String>> = conn.query_first(sql).await?;
        Ok(value.flatten().unwrap_or_default())
    }

    /// Its process ID.
    pub fn pid(&self) -> i32 {
        let text = fs::read_to_string(self.dir.path().join("pid")).expect("it runs");
        text.trim().parse().expect("a number")
    }

    /// Kills it (-9) from outside and waits for its end.
    pub async fn kill(&self) {
        self.control().kill().await.expect("killed");
    }
}

impl Drop for Controlled {
    fn drop(&mut self) {
        let Ok(text) = fs::read_to_string(self.dir.path().join("pid")) else { return };
        let Ok(pid) = text.trim().parse::<i32>() else { return };
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if let Some(pid) = rustix::process::Pid::from_raw(pid)
            && name.starts_with("mariadbd")
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Waits until something holds; fails the test if it does not within [`DEADLINE`].
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds().await {
        assert!(Instant::now() < deadline, "not in {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
