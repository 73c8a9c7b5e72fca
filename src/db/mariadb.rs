//! The admin connection to the local server: every SQL statement that the product sends is here.
//!
//! While two or more commits wait for an acknowledgement, the server holds its binlog lock: `SHOW
//! MASTER STATUS`, `FLUSH` and the like hang, and `SET GLOBAL read_only=1` hangs behind even one.
//! So what observes uses only variables, `SHOW STATUS` and new connections, which do not; what can
//! hang has a `lock_wait_timeout` on the server and a time-out here. No session writes a binlog
//! (`sql_log_bin=0`), so the product never makes a transaction of its own.

use std::{
    fmt,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use mysql_async::{Conn, Opts, OptsBuilder, Row, Value, prelude::Queryable};

use super::{gtid::Gtid, protocol::client::Endpoint};
use crate::clock::{self, Moment};

/// How long the server lets a statement of ours wait for a metadata or backup lock.
pub const LOCK_WAIT_SECONDS: u32 = 1;
/// The replica's heartbeat and reconnect period, in seconds.
const REPLICA_PERIOD_SECONDS: u32 = 1;
/// Schemas that every server has.
const SYSTEM_SCHEMAS: [&str; 4] = ["information_schema", "mysql", "performance_schema", "sys"];

/// Where the server listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// A unix socket.
    Socket(PathBuf),
    /// A host and port.
    Tcp(String, u16),
}

impl From<&Address> for Endpoint {
    /// Where our own protocol code finds it.
    fn from(address: &Address) -> Self {
        match address {
            Address::Socket(path) => Self::Socket(path.clone()),
            Address::Tcp(host, port) => Self::Tcp(host.clone(), *port),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// How the local server is reached by its administrator.
#[derive(Clone)]
pub struct AdminSettings {
    /// Where it listens.
    pub address: Address,
    /// A user with ALL PRIVILEGES, GRANT OPTION not needed.
    pub user: String,
    /// Its password; empty for `unix_socket` authentication or none.
    pub password: String,
    /// How long a connection or one statement may take.
    pub timeout: Duration,
}

impl fmt::Debug for AdminSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AdminSettings({}@{}, {:?})", self.user, self.address, self.timeout)
    }
}

/// Why the server did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DbError {
    /// Rejected: no connection, so nothing happened.
    #[error("connect to {address}: {why}")]
    Unreachable {
        /// Where.
        address: String,
        /// What failed.
        why: String,
    },
    /// Rejected: the server answered with an error.
    #[error("{what}: error {code}: {message}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// The server's error number.
        code: u16,
        /// Its text.
        message: String,
    },
    /// Indeterminate: no answer in time, or the connection broke. The server may still do it.
    #[error("{what}: {why}")]
    Indeterminate {
        /// What was asked.
        what: &'static str,
        /// What failed.
        why: String,
    },
    /// The answer is not what this server version is known to give.
    #[error("{what}: unexpected answer: {found}")]
    Unexpected {
        /// What was asked.
        what: &'static str,
        /// What came.
        found: String,
    },
}

/// The local server. Each [`Session`] is a new connection: those work also while commits wait.
#[derive(Clone, Debug)]
pub struct MariaDb {
    settings: AdminSettings,
}

impl MariaDb {
    /// Nothing is connected yet.
    pub fn new(settings: AdminSettings) -> Self {
        Self { settings }
    }

    /// Connects.
    pub async fn session(&self) -> Result<Session, DbError> {
        let unreachable =
            |why: String| DbError::Unreachable { address: self.settings.address.to_string(), why };
        let connect = tokio::time::timeout(self.settings.timeout, Conn::new(self.opts()));
        let conn = connect
            .await
            .map_err(|_| unreachable(format!("no answer in {:?}", self.settings.timeout)))?
            .map_err(|e| unreachable(e.to_string()))?;
        let mut session = Session { conn, timeout: self.settings.timeout };
        session.prepare().await?;
        Ok(session)
    }

    fn opts(&self) -> Opts {
        let builder = OptsBuilder::default()
            .user(Some(&self.settings.user))
            .pass(Some(&self.settings.password).filter(|p| !p.is_empty()))
            .prefer_socket(false)
            .max_allowed_packet(Some(1 << 24))
            .wait_timeout(Some(60));
        match &self.settings.address {
            Address::Socket(path) => builder.socket(Some(path.to_string_lossy())),
            Address::Tcp(host, port) => builder.ip_or_hostname(host).tcp_port(*port),
        }
        .into()
    }
}

/// Positions of a server, as GTIDs of one domain, and whether it takes writes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Positions {
    /// `@@gtid_slave_pos`: what its replica threads have applied.
    pub replica: Vec<Gtid>,
    /// `@@gtid_binlog_pos`: the last group in its own binlog.
    pub binlog: Vec<Gtid>,
    /// `@@gtid_current_pos`, as text, for the founding check and for messages.
    pub current: String,
    /// `@@read_only`.
    pub read_only: bool,
    /// No events, relaxed redo flush: as [`Session::relax`] sets a follower.
    pub relaxed: bool,
    /// Which run of the server this is; `None` if its process is not of this machine.
    pub run: Option<ServerRun>,
}

/// One run of a server's process: another one means that it was restarted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServerRun {
    /// Its process ID.
    pub pid: u32,
    /// When it started, in ticks since boot.
    pub ticks: u64,
}

/// A tick of /proc: USER_HZ is 100 on every Linux.
const TICK_MS: u64 = 10;

impl ServerRun {
    /// The run that `@@pid_file` names, relative to `@@datadir`.
    pub fn of(pid_file: &str, datadir: &str) -> Option<Self> {
        let path = PathBuf::from(datadir).join(pid_file);
        let pid: u32 = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
        // Field 22 of /proc/PID/stat (proc(5)); the name before it may hold spaces.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let ticks = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
        Some(Self { pid, ticks })
    }

    /// When it started, rounded up by a tick.
    pub fn started(self) -> Option<SystemTime> {
        let start = Moment::default() + Duration::from_millis((self.ticks + 1) * TICK_MS);
        SystemTime::now().checked_sub(clock::now().since(start))
    }
}

/// What `SHOW SLAVE STATUS` says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReplicaStatus {
    /// Host and port that it is told to follow.
    pub endpoint: (String, u16),
    /// Uses GTIDs by `slave_pos`.
    pub by_slave_pos: bool,
    /// The I/O thread runs (connecting counts).
    pub io_running: bool,
    /// The SQL thread runs.
    pub sql_running: bool,
    /// Its last I/O error: number and text; 0 for none.
    pub io_error: (u16, String),
    /// Its last SQL error: number and text; 0 for none.
    pub sql_error: (u16, String),
}

/// Where the local feed listens, and as whom the replica threads log in there.
#[derive(Clone, PartialEq, Eq)]
pub struct FeedEndpoint {
    /// Loopback address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User of the feed.
    pub user: String,
    /// Its password.
    pub password: String,
}

impl fmt::Debug for FeedEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FeedEndpoint({}@{}:{})", self.user, self.host, self.port)
    }
}

/// How a server starts to follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entrance {
    /// From its `gtid_slave_pos`.
    ReplicaPosition,
    /// It led: its binlog position becomes its replica position first (`MASTER_DEMOTE_TO_SLAVE`).
    Demote,
}

/// A client connection of the server, from its process list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientSession {
    /// Connection ID.
    pub id: u64,
    /// User.
    pub user: String,
    /// `host:port`, or `localhost` for a unix socket.
    pub host: String,
}

/// One admin connection.
pub struct Session {
    conn: Conn,
    timeout: Duration,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({})", self.conn.id())
    }
}

/// What one statement returns: rows of nullable texts, with the columns' names.
type Texts = Vec<Vec<(String, Option<String>)>>;

impl Session {
    async fn prepare(&mut self) -> Result<(), DbError> {
        let sql = format!(
            "SET SESSION sql_log_bin=0, sql_mode='', lock_wait_timeout={LOCK_WAIT_SECONDS}"
        );
        self.run("prepare session", sql).await
    }

    /// `@@version`, such as `10.11.19-MariaDB-log`.
    pub async fn version(&mut self) -> Result<String, DbError> {
        self.scalar("read version", "SELECT @@version").await
    }

    /// Answers at once, also while commits wait, if the server and InnoDB work.
    pub async fn ping(&mut self) -> Result<(), DbError> {
        let what = "health check";
        self.texts(what, "SELECT @@gtid_binlog_pos".into()).await?;
        self.texts(what, "SELECT 1 FROM mysql.gtid_slave_pos LIMIT 1".into()).await.map(|_| ())
    }

    /// GTID positions within `domain`, and `read_only`. Cannot hang behind waiting commits.
    pub async fn positions(&mut self, domain: u32) -> Result<Positions, DbError> {
        let what = "read positions";
        let sql = "SELECT @@gtid_slave_pos, @@gtid_binlog_pos, @@gtid_current_pos, @@read_only, \
                   @@innodb_flush_log_at_trx_commit=2 AND @@event_scheduler='OFF', \
                   @@pid_file, @@datadir";
        let row = self.row(what, sql.into()).await?;
        let text = |i: usize| row.get(i).and_then(|c| c.1.clone()).unwrap_or_default();
        let within = |i: usize| {
            let all = parse_gtids(&text(i))
                .ok_or_else(|| DbError::Unexpected { what, found: text(i) })?;
            Ok(all.into_iter().filter(|g| g.domain == domain).collect())
        };
        Ok(Positions {
            replica: within(0)?,
            binlog: within(1)?,
            current: text(2),
            read_only: text(3) == "1",
            relaxed: text(4) == "1",
            run: ServerRun::of(&text(5), &text(6)),
        })
    }

    /// `@@gtid_binlog_state`: the newest group of each server in its own binlog; empty for none.
    pub async fn binlog_state(&mut self) -> Result<String, DbError> {
        self.scalar("read binlog state", "SELECT @@gtid_binlog_state").await
    }

    /// Where it writes its error log; `None` if that is its standard error.
    pub async fn error_log(&mut self) -> Result<Option<PathBuf>, DbError> {
        let row = self.row("read error log", "SELECT @@log_error, @@datadir".into()).await?;
        let text = |i: usize| row.get(i).and_then(|c| c.1.clone()).unwrap_or_default();
        Ok(Some(text(0)).filter(|log| !log.is_empty()).map(|log| PathBuf::from(text(1)).join(log)))
    }

    /// Global variables by name, lower case; absent ones are unknown to the server.
    pub async fn variables(&mut self, names: &[&str]) -> Result<Vec<(String, String)>, DbError> {
        let list = names.iter().map(|n| quoted(n)).collect::<Vec<_>>().join(",");
        let sql = format!("SHOW GLOBAL VARIABLES WHERE Variable_name IN ({list})");
        let rows = self.texts("read variables", sql).await?;
        Ok(rows
            .into_iter()
            .filter_map(|row| {
                let mut cells = row.into_iter().map(|(_, text)| text.unwrap_or_default());
                Some((cells.next()?.to_lowercase(), cells.next()?))
            })
            .collect())
    }

    /// How many sessions wait for an acknowledgement right now.
    pub async fn waiting_commits(&mut self) -> Result<u64, DbError> {
        let what = "read waiting commits";
        let sql = "SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_master_wait_sessions'";
        let row = self.row(what, sql.into()).await?;
        let text = row.get(1).and_then(|c| c.1.clone()).unwrap_or_default();
        text.parse().map_err(|_| DbError::Unexpected { what, found: text })
    }

    /// The default connection's replica status; `None` if it follows nobody.
    pub async fn replica_status(&mut self) -> Result<Option<ReplicaStatus>, DbError> {
        let rows = self.texts("read replica status", "SHOW SLAVE STATUS".into()).await?;
        Ok(rows.first().map(|row| replica_status(row)))
    }

    /// Points the replica threads to the local feed and starts them.
    pub async fn follow(&mut self, feed: &FeedEndpoint, entrance: Entrance) -> Result<(), DbError> {
        self.run("stop replica", "STOP SLAVE".into()).await?;
        self.run("point replica to the feed", change_master(feed, entrance)).await?;
        self.start_replica().await
    }

    /// Starts both replica threads.
    pub async fn start_replica(&mut self) -> Result<(), DbError> {
        self.run("start replica", "START SLAVE".into()).await
    }

    /// Stops both replica threads; running is not needed.
    pub async fn stop_replica(&mut self) -> Result<(), DbError> {
        self.run("stop replica", "STOP SLAVE".into()).await
    }

    /// What a follower runs with: no events, relaxed redo flush (the feed sends lost ones again).
    pub async fn relax(&mut self) -> Result<(), DbError> {
        let sql = "SET GLOBAL event_scheduler=OFF, innodb_flush_log_at_trx_commit=2";
        self.run("set follower's durability", sql.into()).await
    }

    /// What a leader must run with *before* it takes writes.
    pub async fn harden(&mut self) -> Result<(), DbError> {
        let sql = "SET GLOBAL innodb_flush_log_at_trx_commit=1, sync_binlog=1, \
                   rpl_semi_sync_master_enabled=1";
        self.run("set leader's durability", sql.into()).await
    }

    /// Whether commits wait for an acknowledgement before anyone sees them, for ever.
    pub async fn commits_wait(&mut self) -> Result<bool, DbError> {
        let sql = "SELECT @@rpl_semi_sync_master_enabled=1 \
                   AND @@rpl_semi_sync_master_wait_point='AFTER_SYNC' \
                   AND @@rpl_semi_sync_master_timeout=18446744073709551615 \
                   AND @@rpl_semi_sync_master_wait_no_slave=1 \
                   AND @@innodb_flush_log_at_trx_commit=1 AND @@sync_binlog=1";
        Ok(self.scalar("verify leader's durability", sql).await? == "1")
    }

    /// Takes clients' writes from now on.
    pub async fn open_writes(&mut self, event_scheduler: bool) -> Result<(), DbError> {
        self.run("open writes", "SET GLOBAL read_only=0".into()).await?;
        if event_scheduler {
            self.run("start events", "SET GLOBAL event_scheduler=ON".into()).await?;
        }
        Ok(())
    }

    /// Takes no more writes of ordinary users. Waits for running commits, at most
    /// [`LOCK_WAIT_SECONDS`]: then it is refused, and nothing changed.
    pub async fn close_writes(&mut self) -> Result<(), DbError> {
        self.run("close writes", "SET GLOBAL event_scheduler=OFF".into()).await?;
        self.run("close writes", "SET GLOBAL read_only=1".into()).await
    }

    /// Client connections, without ours, replica threads, dump threads and daemons.
    pub async fn clients(&mut self) -> Result<Vec<ClientSession>, DbError> {
        let sql = "SELECT ID, USER, HOST FROM information_schema.PROCESSLIST \
                   WHERE ID <> CONNECTION_ID() AND COMMAND NOT IN ('Daemon', 'Slave_IO', \
                   'Slave_SQL', 'Slave_worker', 'Binlog Dump') AND USER <> 'system user'";
        let rows = self.texts("list clients", sql.into()).await?;
        Ok(rows.iter().filter_map(|row| client_session(row)).collect())
    }

    /// Schemas that are not the server's own.
    pub async fn user_schemas(&mut self) -> Result<Vec<String>, DbError> {
        let rows = self.texts("list schemas", "SHOW DATABASES".into()).await?;
        let names = rows.into_iter().filter_map(|row| row.into_iter().next()?.1);
        Ok(names.filter(|n| !SYSTEM_SCHEMAS.contains(&n.to_lowercase().as_str())).collect())
    }

    async fn scalar(&mut self, what: &'static str, sql: &str) -> Result<String, DbError> {
        let row = self.row(what, sql.into()).await?;
        let cell = row.into_iter().next().and_then(|(_, text)| text);
        cell.ok_or_else(|| DbError::Unexpected { what, found: "NULL".into() })
    }

    async fn row(
        &mut self,
        what: &'static str,
        sql: String,
    ) -> Result<Vec<(String, Option<String>)>, DbError> {
        let rows = self.texts(what, sql).await?;
        rows.into_iter().next().ok_or_else(|| DbError::Unexpected { what, found: "no row".into() })
    }

    async fn run(&mut self, what: &'static str, sql: String) -> Result<(), DbError> {
        self.texts(what, sql).await.map(|_| ())
    }

    /// Runs one statement. After an indeterminate error the session must not be used again.
    async fn texts(&mut self, what: &'static str, sql: String) -> Result<Texts, DbError> {
        let answer = tokio::time::timeout(self.timeout, self.conn.query::<Row, _>(sql)).await;
        match answer {
            Ok(Ok(rows)) => Ok(rows.iter().map(texts_of).collect()),
            Ok(Err(mysql_async::Error::Server(e))) => {
                Err(DbError::Refused { what, code: e.code, message: e.message })
            }
            Ok(Err(e)) => Err(DbError::Indeterminate { what, why: e.to_string() }),
            Err(_) => {
                let why = format!("no answer in {:?}", self.timeout);
                Err(DbError::Indeterminate { what, why })
            }
        }
    }
}

fn texts_of(row: &Row) -> Vec<(String, Option<String>)> {
    let columns = row.columns_ref().iter().enumerate();
    columns.map(|(i, c)| (c.name_str().into_owned(), row.as_ref(i).and_then(text_of))).collect()
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::NULL => None,
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        other => Some(other.as_sql(true)),
    }
}

fn replica_status(row: &[(String, Option<String>)]) -> ReplicaStatus {
    let text = |name: &str| {
        let cell = row.iter().find(|(column, _)| column == name);
        cell.and_then(|(_, text)| text.clone()).unwrap_or_default()
    };
    let error = |number: &str, words: &str| (text(number).parse().unwrap_or(0), text(words));
    ReplicaStatus {
        endpoint: (text("Master_Host"), text("Master_Port").parse().unwrap_or(0)),
        by_slave_pos: text("Using_Gtid").eq_ignore_ascii_case("slave_pos"),
        io_running: text("Slave_IO_Running") != "No",
        sql_running: text("Slave_SQL_Running") == "Yes",
        io_error: error("Last_IO_Errno", "Last_IO_Error"),
        sql_error: error("Last_SQL_Errno", "Last_SQL_Error"),
    }
}

fn client_session(row: &[(String, Option<String>)]) -> Option<ClientSession> {
    let text = |i: usize| row.get(i).and_then(|c| c.1.clone());
    Some(ClientSession { id: text(0)?.parse().ok()?, user: text(1)?, host: text(2)? })
}

fn change_master(feed: &FeedEndpoint, entrance: Entrance) -> String {
    let position = match entrance {
        Entrance::ReplicaPosition => "MASTER_USE_GTID=slave_pos",
        Entrance::Demote => "MASTER_DEMOTE_TO_SLAVE=1",
    };
    format!(
        "CHANGE MASTER TO MASTER_HOST={}, MASTER_PORT={}, MASTER_USER={}, MASTER_PASSWORD={}, \
         MASTER_HEARTBEAT_PERIOD={REPLICA_PERIOD_SECONDS}, \
         MASTER_CONNECT_RETRY={REPLICA_PERIOD_SECONDS}, {position}",
        quoted(&feed.host),
        feed.port,
        quoted(&feed.user),
        quoted(&feed.password),
    )
}

/// A string literal; sessions run with backslash escapes on.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// A GTID list such as `0-1-5,1-2-3`; empty for none.
fn parse_gtids(text: &str) -> Option<Vec<Gtid>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_cannot_end_early() {
        assert_eq!(quoted(r"a'b\"), r"'a\'b\\'");
    }

    #[test]
    fn gtid_lists_parse() {
        assert_eq!(parse_gtids(""), Some(vec![]));
        let two = parse_gtids("0-1-5, 1-2-3").expect("valid");
        assert_eq!(two.iter().map(Gtid::to_string).collect::<Vec<_>>(), ["0-1-5", "1-2-3"]);
        assert_eq!(parse_gtids("0-1"), None);
    }

    #[test]
    fn a_former_leader_is_demoted_by_the_server_itself() {
        let feed = FeedEndpoint {
            host: "127.0.0.1".into(),
            port: 8009,
            user: "feed".into(),
            password: "it's".into(),
        };
        let sql = change_master(&feed, Entrance::Demote);
        assert!(sql.contains("MASTER_DEMOTE_TO_SLAVE=1") && !sql.contains("MASTER_USE_GTID"));
        assert!(sql.contains(r"'it\'s'"), "{sql}");
        assert!(!format!("{feed:?}").contains("it's"));
    }
}
