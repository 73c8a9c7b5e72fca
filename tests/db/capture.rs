//! Capture of a real server: what it promises to a client's COMMIT.

use std::time::Duration;

use mysql_async::{Params, prelude::Queryable};
use tokio::task::JoinHandle;
use wolfscale::{
    db::{
        capture::{Beginning, Capture, CaptureError, CaptureHandle, CaptureSettings, CaptureState},
        command::DbCommand,
        gtid::Gtid,
        protocol::{client::Endpoint, packet::WireError},
    },
    log::{EntrySource, entry::BODY_BYTES_MAX},
    tasks::Tasks,
    types::Lsn,
};

use crate::{
    fake_log::FakeLog,
    mariadb::{MariaDb, eventually},
};

const DEADLINE: Duration = Duration::from_secs(30);
/// An id that no database uses.
const CAPTURE_ID: u32 = 4_000_000_001;

/// A leader's server and its log.
struct Rig {
    server: MariaDb,
    log: FakeLog,
    tasks: Tasks,
}

impl Rig {
    async fn start() -> Self {
        let server = MariaDb::start(1, "innodb_flush_log_at_trx_commit=1").await;
        Self { server, log: FakeLog::start(), tasks: Tasks::default() }
    }

    /// A rig whose capture runs, with a table `test.t (id, v)`.
    async fn captured() -> (Self, CaptureHandle) {
        let rig = Self::start().await;
        let capture = rig.capture().await;
        rig.server.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, v INT)").await;
        (rig, capture)
    }

    fn settings(&self) -> CaptureSettings {
        CaptureSettings {
            endpoint: Endpoint::Socket(self.server.socket()),
            user: "root".into(),
            password: String::new().into(),
            server_id: CAPTURE_ID,
            connect_timeout: DEADLINE,
        }
    }

    async fn capture(&self) -> CaptureHandle {
        self.try_capture(self.settings()).await.expect("capture starts")
    }

    async fn try_capture(&self, settings: CaptureSettings) -> Result<CaptureHandle, CaptureError> {
        let from = self.log.index().tail().expect("readable").map(|place| place.gtid);
        self.begin(settings, Beginning::Behind(from)).await
    }

    async fn begin(
        &self,
        settings: CaptureSettings,
        beginning: Beginning,
    ) -> Result<CaptureHandle, CaptureError> {
        let log = &self.log;
        let (term, format, proposer) = (log.term(), log.format(), log.proposer());
        Capture::start(settings, term, beginning, format, proposer, &self.tasks).await
    }

    /// A client that runs a statement on a connection of its own, and ends when it is answered.
    async fn client(&self, sql: &str) -> JoinHandle<mysql_async::Result<()>> {
        let mut conn = self.server.connect().await.expect("connects");
        let sql = sql.to_owned();
        tokio::spawn(async move { conn.query_drop(sql).await })
    }

    /// Waits until that many commands wait in the log.
    async fn waiting(&self, count: usize) {
        eventually("commands wait in the log", DEADLINE, async || self.log.waiting() >= count)
            .await;
    }

    async fn count(&self) -> String {
        self.server.value("SELECT COUNT(*) FROM d.t").await
    }
}

async fn over(capture: &CaptureHandle) -> CaptureState {
    let mut state = capture.state();
    let over = tokio::time::timeout(DEADLINE, state.wait_for(|s| s.over().is_some())).await;
    over.expect("in time").expect("the state stays readable").clone()
}

async fn answered(client: JoinHandle<mysql_async::Result<()>>) {
    let joined = tokio::time::timeout(DEADLINE, client).await.expect("the client is answered");
    joined.expect("joins").expect("OK");
}

/// The server says that a commit waits for an ACK.
async fn commit_waits(rig: &Rig) {
    let query = "SELECT COUNT(*) FROM information_schema.processlist \
                 WHERE state LIKE 'Waiting for semi-sync ACK%'";
    eventually("a commit waits", DEADLINE, async || rig.server.value(query).await != "0").await;
}

#[tokio::test]
async fn a_commit_returns_and_shows_only_when_it_is_released() {
    let (rig, _capture) = Rig::captured().await;
    rig.log.close();
    let client = rig.client("INSERT INTO d.t VALUES (1, 1)").await;
    rig.waiting(1).await;
    commit_waits(&rig).await;
    assert_eq!(rig.count().await, "0", "another session must not see it");
    assert!(!client.is_finished());
    rig.log.open();
    answered(client).await;
    assert_eq!(rig.count().await, "1");
}

#[tokio::test]
async fn every_kind_of_group_enters_the_log_whole_and_in_order() {
    let (rig, _capture) = Rig::captured().await;
    let mut conn = rig.server.connect().await.expect("connects");
    let all_bytes: Vec<u8> = (0..=255).collect();
    conn.query_drop("CREATE TABLE d.b (id INT PRIMARY KEY, b LONGBLOB)").await.expect("DDL");
    let blob = |id: i32, bytes: Vec<u8>| Params::from((id, bytes));
    let insert = "INSERT INTO d.b VALUES (?, ?)";
    conn.exec_drop(insert, blob(1, all_bytes)).await.expect("blob");
    conn.exec_drop(insert, blob(2, vec![0xfe; 20 << 20])).await.expect("20 MB row");
    conn.query_drop("START TRANSACTION").await.expect("starts");
    for id in 0..200 {
        let sql = format!("INSERT INTO d.t VALUES ({id}, RAND() * 100), ({}, 2)", id + 1000);
        conn.query_drop(sql).await.expect("inserts");
    }
    conn.query_drop("COMMIT").await.expect("commits");
    conn.query_drop("FLUSH BINARY LOGS").await.expect("rotates");
    for sql in ["XA START 'x'", "UPDATE d.t SET v = 3", "XA END 'x'", "XA PREPARE 'x'"] {
        conn.query_drop(sql).await.expect(sql);
    }
    conn.query_drop("XA COMMIT 'x'").await.expect("XA commits");
    conn.query_drop("ALTER TABLE d.t ADD COLUMN w INT DEFAULT 5").await.expect("DDL");

    let position = rig.server.value("SELECT @@gtid_binlog_pos").await;
    eventually("all is in the log", DEADLINE, async || rig.log.gtids().last() == Some(&position))
        .await;
    let count = rig.log.gtids().len() as u64;
    let expected: Vec<String> = (1..=count).map(|n| format!("0-1-{n}")).collect();
    assert_eq!(rig.log.gtids(), expected, "contiguous, each once");
    let commands = rig.log.commands();
    assert!(matches!(commands[0], DbCommand::Format(_)), "the format comes first");
    let formats = commands.iter().filter(|c| matches!(c, DbCommand::Format(_))).count();
    assert_eq!(formats, 1, "a new file of the same server is no new format");
    let ddl = commands.iter().filter(|c| matches!(c, DbCommand::Transaction(t) if t.is_ddl()));
    assert_eq!(ddl.count(), 4);
    let large = commands
        .iter()
        .any(|c| matches!(c, DbCommand::Transaction(t) if t.events.len() > 20 << 20));
    assert!(large, "the large row is in one command");
    let entries = rig.log.read(Lsn(1), rig.log.applied().at(), usize::MAX).expect("readable");
    assert!(entries.len() > commands.len(), "in several entries");
    assert!(entries.iter().all(|entry| entry.body.len() <= BODY_BYTES_MAX));
}

#[tokio::test]
async fn concurrent_commits_are_all_released_in_order() {
    let (rig, capture) = Rig::captured().await;
    let before = rig.log.gtids().len();
    let mut writers = Vec::new();
    for writer in 0..8 {
        let mut conn = rig.server.connect().await.expect("connects");
        writers.push(tokio::spawn(async move {
            for n in 0..50 {
                let sql = format!("INSERT INTO d.t VALUES ({}, 1)", writer * 1000 + n);
                conn.query_drop(sql).await.expect("OK");
            }
        }));
    }
    for writer in writers {
        tokio::time::timeout(DEADLINE, writer).await.expect("in time").expect("joins");
    }
    assert_eq!(rig.count().await, "400");
    assert_eq!(rig.log.gtids().len(), before + 400);
    assert!(rig.log.gtids().is_sorted_by_key(|g| g.parse::<Gtid>().expect("valid").sequence));
    let tail = rig.log.index().tail().expect("readable").expect("not empty").gtid;
    let acked = CaptureState::Running { acked: Some(tail) };
    let mut state = capture.state();
    let all = tokio::time::timeout(DEADLINE, state.wait_for(|s| *s == acked)).await;
    assert!(all.is_ok(), "all is acknowledged");
}

#[tokio::test]
async fn the_end_of_the_term_acknowledges_nothing_until_told() {
    let (rig, capture) = Rig::captured().await;
    rig.log.close();
    let client = rig.client("INSERT INTO d.t VALUES (1, 1)").await;
    rig.waiting(1).await;
    commit_waits(&rig).await;
    rig.log.new_term(1);
    assert!(matches!(over(&capture).await, CaptureState::Holding { .. }));
    commit_waits(&rig).await;
    assert_eq!(rig.count().await, "0");
    assert!(!client.is_finished());

    let tail = rig.log.index().tail().expect("readable").expect("not empty").gtid;
    let stray = Gtid { server: 9, ..tail };
    assert!(capture.ack_through(stray).await.is_err(), "that one was not captured");
    commit_waits(&rig).await;
    capture.ack_through(tail).await.expect("the log holds it");
    answered(client).await;
    assert_eq!(rig.count().await, "1");
    capture.stop().await;
}

#[tokio::test]
async fn of_several_commits_only_what_the_log_holds_is_acknowledged() {
    let (rig, capture) = Rig::captured().await;
    rig.log.close();
    let first = rig.client("INSERT INTO d.t VALUES (1, 1)").await;
    rig.waiting(1).await;
    let second = rig.client("INSERT INTO d.t VALUES (2, 2)").await;
    rig.waiting(2).await;
    rig.log.new_term(1);
    over(&capture).await;
    let tail = rig.log.index().tail().expect("readable").expect("not empty").gtid;
    capture.ack_through(tail).await.expect("the log holds it");
    answered(first).await;
    assert_eq!(rig.server.value("SELECT GROUP_CONCAT(id) FROM d.t").await, "1");
    assert!(!second.is_finished());
    capture.stop().await;
    commit_waits(&rig).await;
    assert!(!second.is_finished(), "the log does not hold it");
    assert!(capture.ack_through(tail).await.is_err(), "it is closed");
}

#[tokio::test]
async fn a_group_that_was_cut_off_is_captured_again_in_the_next_term() {
    let (rig, capture) = Rig::captured().await;
    rig.log.close();
    let client = rig.client("INSERT INTO d.t VALUES (1, 1)").await;
    rig.waiting(1).await;
    commit_waits(&rig).await;
    rig.log.new_term(0);
    over(&capture).await;
    capture.stop().await;
    assert!(matches!(*capture.state().borrow(), CaptureState::Ended { .. }));
    commit_waits(&rig).await;
    assert!(!client.is_finished(), "closing the connection is no ACK");

    let _capture = rig.capture().await;
    rig.waiting(1).await;
    assert!(!client.is_finished(), "nor is connecting");
    rig.log.open();
    answered(client).await;
    let gtids = rig.log.gtids();
    assert_eq!(gtids, ["0-1-1", "0-1-2", "0-1-3"], "each once");
    assert_eq!(rig.log.commands().len(), 4, "the format was not entered again");
}

#[tokio::test]
async fn a_capture_resumes_only_where_the_binlog_is_the_log() {
    let (rig, capture) = Rig::captured().await;
    capture.stop().await;
    let client = rig.client("INSERT INTO d.t VALUES (1, 1)").await;
    commit_waits(&rig).await;
    let gtid = |text: &str| text.parse::<Gtid>().expect("valid");
    let resumed = |acked, held: &[&str]| {
        let held = held.iter().map(|text| gtid(text)).collect();
        rig.begin(rig.settings(), Beginning::Resumed { acked: Some(gtid(acked)), held })
    };
    for held in [["0-2-2"], ["0-1-3"]] {
        let other = resumed("0-1-1", &held).await.expect("connects");
        let CaptureState::Ended { why, .. } = over(&other).await else { panic!("it goes on") };
        assert!(why.contains("the log goes on with"), "{why}");
        assert!(!client.is_finished() && rig.log.gtids().len() == 2, "nothing came of it");
    }
    let _capture = resumed("0-1-1", &["0-1-2"]).await.expect("connects");
    answered(client).await;
    assert_eq!(rig.log.gtids(), ["0-1-1", "0-1-2", "0-1-3"], "each once");
}

#[tokio::test]
async fn a_crash_of_the_server_ends_it() {
    let (mut rig, capture) = Rig::captured().await;
    rig.server.kill9();
    assert!(matches!(over(&capture).await, CaptureState::Ended { .. }));
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why() {
    let rig = Rig::start().await;
    let wrong = CaptureSettings { password: "wrong".to_owned().into(), ..rig.settings() };
    match rig.try_capture(wrong).await {
        Err(CaptureError::Connect { source: WireError::Server { code: 1045, .. }, .. }) => {}
        other => panic!("{other:?}"),
    }
    let create = "SET sql_log_bin=0; CREATE USER c@localhost IDENTIFIED BY 'right'";
    rig.server.sql(create).await;
    let known =
        CaptureSettings { user: "c".into(), password: "right".to_owned().into(), ..rig.settings() };
    assert!(matches!(rig.try_capture(known.clone()).await, Err(CaptureError::Refused { .. })));
    rig.server.sql("SET sql_log_bin=0; GRANT REPLICATION SLAVE ON *.* TO c@localhost").await;
    rig.try_capture(known.clone()).await.expect("REPLICATION SLAVE is enough").stop().await;
    rig.server.sql("SET GLOBAL rpl_semi_sync_master_enabled=0").await;
    assert!(matches!(rig.try_capture(known).await, Err(CaptureError::NotSemiSync)));
}

#[tokio::test]
async fn a_transaction_of_many_events_is_captured_and_rolled_back_ones_are_not() {
    let (rig, _capture) = Rig::captured().await;
    let mut conn = rig.server.connect().await.expect("connects");
    let before = rig.log.gtids().len();
    conn.query_drop("CREATE TABLE d.m (id INT PRIMARY KEY, b LONGBLOB)").await.expect("DDL");
    conn.query_drop("START TRANSACTION").await.expect("starts");
    for id in 0..12 {
        let sql = format!("INSERT INTO d.m VALUES ({id}, REPEAT(CHAR(65 + {id}), 10 << 20))");
        conn.query_drop(sql).await.expect("inserts");
    }
    conn.query_drop("COMMIT").await.expect("commits");
    for sql in ["START TRANSACTION", "DELETE FROM d.m", "ROLLBACK"] {
        conn.query_drop(sql).await.expect(sql);
    }
    conn.query_drop("INSERT INTO d.t VALUES (1, 1)").await.expect("inserts");
    assert_eq!(rig.log.gtids().len(), before + 3);
    let large = rig.log.commands().into_iter().rev().nth(1).expect("there");
    assert!(matches!(large, DbCommand::Transaction(t) if t.events.len() > 120 << 20));
}

#[tokio::test]
async fn what_a_client_wrote_into_a_comment_is_kept() {
    let (rig, _capture) = Rig::captured().await;
    rig.server.sql("INSERT INTO d.t VALUES (1, 1) /* ws:0123456789abcdef */").await;
    let DbCommand::Transaction(last) = rig.log.commands().pop().expect("there") else {
        panic!("the newest command is no transaction");
    };
    let token = b"ws:0123456789abcdef";
    assert!(last.events.windows(token.len()).any(|window| window == token));
}

/// Prints commits a second with and without capture: `cargo test --test db figures -- --ignored
/// --nocapture`.
#[tokio::test]
#[ignore = "a measurement, not a check"]
async fn figures() {
    let rig = Rig::start().await;
    let setup = "CREATE DATABASE d; CREATE TABLE d.t (id INT AUTO_INCREMENT PRIMARY KEY, v INT)";
    rig.server.sql(&format!("SET GLOBAL rpl_semi_sync_master_enabled=0; {setup}")).await;
    for clients in [1, 16] {
        let plain = commits_per_second(&rig, clients).await;
        println!("plain, {clients} clients: {plain:.0}/s");
    }
    rig.server.sql("RESET MASTER; SET GLOBAL rpl_semi_sync_master_enabled=1").await;
    let _capture = rig.capture().await;
    for clients in [1, 16] {
        let captured = commits_per_second(&rig, clients).await;
        println!("captured, {clients} clients: {captured:.0}/s");
    }
}

async fn commits_per_second(rig: &Rig, clients: usize) -> f64 {
    const SPAN: Duration = Duration::from_secs(3);
    let started = std::time::Instant::now();
    let mut writers = Vec::new();
    for _ in 0..clients {
        let mut conn = rig.server.connect().await.expect("connects");
        writers.push(tokio::spawn(async move {
            let mut commits = 0u32;
            while started.elapsed() < SPAN {
                conn.query_drop("INSERT INTO d.t (v) VALUES (1)").await.expect("OK");
                commits += 1;
            }
            commits
        }));
    }
    let mut commits = 0;
    for writer in writers {
        commits += writer.await.expect("joins");
    }
    f64::from(commits) / started.elapsed().as_secs_f64()
}
