//! The whole path of a transaction: leader, capture, log, feed, follower, with real servers.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use mysql_async::{Conn, Params, prelude::Queryable};
use wolfscale::{
    db::{
        capture::{Beginning, Capture, CaptureHandle, CaptureSettings},
        feed::{FeedServer, FeedSettings, OpenGate},
        protocol::client::Endpoint,
    },
    tasks::Tasks,
};

use crate::{
    fake_log::FakeLog,
    mariadb::{MariaDb, eventually},
    ports::Port,
};

const DEADLINE: Duration = Duration::from_secs(60);
/// Ids that no database uses.
const CAPTURE_ID: u32 = 4_000_000_001;
const FEED_ID: u32 = 4_000_000_002;
const FEED_USER: (&str, &str) = ("feed", "feed-secret");

/// Two databases and the log between them.
struct Pipeline {
    log: FakeLog,
    leader: MariaDb,
    follower: MariaDb,
    port: Port,
    tasks: Tasks,
    feed: Tasks,
    capture: CaptureHandle,
}

impl Pipeline {
    async fn start() -> Self {
        let log = FakeLog::start();
        let leader = MariaDb::start(1, "innodb_flush_log_at_trx_commit=1").await;
        let follower = MariaDb::start(2, "innodb_flush_log_at_trx_commit=2").await;
        let (port, tasks, feed) = (Port::free(), Tasks::default(), Tasks::default());
        let capture = capture(&log, &leader, &tasks).await;
        serve(&log, &port, &feed).await;
        follow(&follower, port.number()).await;
        Self { log, leader, follower, port, tasks, feed, capture }
    }

    /// The feed's process dies and comes back.
    async fn restart_feed(&mut self) {
        self.feed.stop();
        assert!(self.feed.ended(DEADLINE).await, "the feed ends");
        self.feed = Tasks::default();
        serve(&self.log, &self.port, &self.feed).await;
    }

    /// Waits until the follower has applied all that the log holds.
    async fn caught_up(&self) {
        let tail = self.log.gtids().pop().expect("the log is not empty");
        let wait = format!("SELECT MASTER_GTID_WAIT('{tail}', {})", DEADLINE.as_secs());
        let waited = self.follower.value(&wait).await;
        if waited != "0" {
            let io = self.follower.slave_status("Last_IO_Error").await;
            let sql = self.follower.slave_status("Last_SQL_Error").await;
            panic!("{tail} is not applied: {io} {sql}\n{}", self.follower.error_log());
        }
    }

    /// Both databases hold the same in these tables.
    async fn equal(&self, tables: &str) {
        self.caught_up().await;
        let query = format!("CHECKSUM TABLE {tables} EXTENDED");
        let (leader, follower) = (self.leader.sql(&query).await, self.follower.sql(&query).await);
        assert_eq!(leader, follower);
        assert!(leader.iter().flatten().all(|value| value != "NULL"), "all exist: {leader:?}");
    }
}

async fn capture(log: &FakeLog, server: &MariaDb, tasks: &Tasks) -> CaptureHandle {
    let settings = CaptureSettings {
        endpoint: Endpoint::Socket(server.socket()),
        user: "root".into(),
        password: String::new().into(),
        server_id: CAPTURE_ID,
        connect_timeout: DEADLINE,
    };
    let from = log.index().tail().expect("readable").map(|place| place.gtid);
    let started = Capture::start(
        settings,
        log.term(),
        Beginning::Behind(from),
        log.format(),
        log.proposer(),
        tasks,
    )
    .await;
    started.expect("capture starts")
}

async fn serve(log: &FakeLog, port: &Port, tasks: &Tasks) {
    let settings = FeedSettings {
        listen: SocketAddr::from(([127, 0, 0, 1], port.number())),
        user: FEED_USER.0.into(),
        password: FEED_USER.1.into(),
        server_id: FEED_ID,
    };
    let server = FeedServer::bind(settings).await.expect("the port is free");
    server.start(log.index(), Arc::new(log.clone()), log.applied(), Arc::new(OpenGate), tasks);
}

async fn follow(server: &MariaDb, port: u16) {
    let (user, password) = FEED_USER;
    server
        .sql(&format!(
            "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='{user}', \
             MASTER_PASSWORD='{password}', MASTER_HEARTBEAT_PERIOD=1, MASTER_CONNECT_RETRY=1, \
             MASTER_USE_GTID=slave_pos; START SLAVE"
        ))
        .await;
}

async fn run(conn: &mut Conn, statements: &[&str]) {
    for sql in statements {
        conn.query_drop(*sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_on_the_leader_is_on_the_follower() {
    let pipeline = Pipeline::start().await;
    let mut conn = pipeline.leader.connect().await.expect("connects");
    run(
        &mut conn,
        &[
            "CREATE DATABASE d",
            "CREATE TABLE d.t (id INT AUTO_INCREMENT PRIMARY KEY, at DATETIME(6), r DOUBLE, \
             u CHAR(36), s VARCHAR(100) CHARACTER SET latin1, n VARCHAR(100) CHARACTER SET utf8mb4)",
            "CREATE TABLE d.audit (id INT AUTO_INCREMENT PRIMARY KEY, what TEXT)",
            "CREATE TRIGGER d.noted AFTER INSERT ON d.t FOR EACH ROW \
             INSERT INTO d.audit (what) VALUES (CONCAT(NEW.id, NEW.u))",
            "INSERT INTO d.t (at, r, u, s, n) VALUES (NOW(6), RAND(), UUID(), 'é', '狼🐺')",
            "INSERT INTO d.t (at, r, u) SELECT NOW(6), RAND(), UUID() FROM d.seq_1_to_100",
            "SET NAMES latin1",
            "INSERT INTO d.t (s, n) VALUES (_latin1 X'E9', _latin1 X'E9')",
            "SET NAMES utf8mb4",
            "ALTER TABLE d.t ADD COLUMN w INT DEFAULT 7",
            "UPDATE d.t SET w = FLOOR(RAND() * 1000) LIMIT 50",
            "DELETE FROM d.t ORDER BY RAND() LIMIT 10",
            "CREATE TABLE d.b (id INT PRIMARY KEY, b LONGBLOB)",
            "XA START 'x'",
            "INSERT INTO d.audit (what) VALUES ('xa')",
            "XA END 'x'",
            "XA PREPARE 'x'",
            "XA COMMIT 'x'",
            "SET time_zone = '+05:30'",
            "CREATE TABLE d.z (at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, v INT)",
            "INSERT INTO d.z (v) VALUES (1), (2), (3)",
            "FLUSH BINARY LOGS",
            "START TRANSACTION",
        ],
    )
    .await;
    for n in 0..300 {
        let insert = format!("INSERT INTO d.audit (what) VALUES (UUID()), ('{n}')");
        conn.query_drop(insert).await.expect("inserts");
    }
    conn.query_drop("COMMIT").await.expect("commits");
    let every_byte: Vec<u8> = (0..=255).collect();
    for (id, blob) in [(1, every_byte), (2, vec![0xfe; 20 << 20])] {
        let parameters = Params::from((id, blob));
        conn.exec_drop("INSERT INTO d.b VALUES (?, ?)", parameters).await.expect("inserts");
    }
    pipeline.equal("d.t, d.audit, d.b, d.z").await;
    let position = pipeline.follower.value("SELECT @@gtid_slave_pos").await;
    assert_eq!(position, pipeline.leader.value("SELECT @@gtid_binlog_pos").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_is_killed_goes_on_exactly_once() {
    let mut pipeline = Pipeline::start().await;
    let mut conn = pipeline.leader.connect().await.expect("connects");
    let setup = "CREATE TABLE d.c (id INT PRIMARY KEY, n INT)";
    run(&mut conn, &["CREATE DATABASE d", setup, "INSERT INTO d.c VALUES (1, 0)"]).await;
    let writer = tokio::spawn(async move {
        for n in 0..600 {
            run(&mut conn, &["UPDATE d.c SET n = n + 1 WHERE id = 1"]).await;
            run(&mut conn, &[&format!("INSERT INTO d.c VALUES ({}, 0)", n + 2)]).await;
        }
    });
    for written in [300, 800] {
        eventually("it is mid-stream", DEADLINE, async || {
            let applied = pipeline.follower.value("SELECT @@gtid_slave_pos").await;
            applied.rsplit('-').next().and_then(|s| s.parse().ok()).unwrap_or(0) > written
        })
        .await;
        pipeline.follower.restart().await;
        pipeline.follower.sql("START SLAVE").await;
    }
    writer.await.expect("every commit is answered");
    pipeline.equal("d.c").await;
    assert_eq!(pipeline.follower.value("SELECT n FROM d.c WHERE id = 1").await, "600");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_is_cut_in_a_large_group_goes_on_there() {
    let mut pipeline = Pipeline::start().await;
    let mut conn = pipeline.leader.connect().await.expect("connects");
    let table = "CREATE TABLE d.b (id INT PRIMARY KEY, b LONGBLOB)";
    run(&mut conn, &["CREATE DATABASE d", table]).await;
    pipeline.caught_up().await;
    run(&mut conn, &["START TRANSACTION"]).await;
    for id in 0..20 {
        // Random, so that it is as long in the log as in the database.
        let insert = format!(
            "INSERT INTO d.b SELECT {id}, GROUP_CONCAT(UUID(), RAND() SEPARATOR '') \
             FROM d.seq_1_to_90000"
        );
        run(&mut conn, &["SET SESSION group_concat_max_len = 64 << 20", &insert]).await;
    }
    run(&mut conn, &["COMMIT"]).await;
    eventually("it is in transfer", DEADLINE, async || {
        let read = pipeline.follower.slave_status("Relay_Log_Space").await;
        read.parse().unwrap_or(0) > 4 << 20
    })
    .await;
    pipeline.restart_feed().await;
    pipeline.equal("d.b").await;
    assert_eq!(pipeline.follower.value("SELECT COUNT(*) FROM d.b").await, "20");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_takes_over_and_numbers_go_on() {
    let pipeline = Pipeline::start().await;
    pipeline.leader.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY)").await;
    pipeline.leader.sql("INSERT INTO d.t VALUES (1)").await;
    pipeline.caught_up().await;
    pipeline.capture.stop().await;
    pipeline.log.new_term(0);
    pipeline.follower.sql("STOP SLAVE").await;

    let _capture = capture(&pipeline.log, &pipeline.follower, &pipeline.tasks).await;
    pipeline.follower.sql("INSERT INTO d.t VALUES (2)").await;
    assert_eq!(pipeline.log.gtids(), ["0-1-1", "0-1-2", "0-1-3", "0-2-4"]);
    let (user, password) = FEED_USER;
    let demote = format!(
        "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={}, MASTER_USER='{user}', \
         MASTER_PASSWORD='{password}', MASTER_DEMOTE_TO_SLAVE=1; START SLAVE",
        pipeline.port.number()
    );
    pipeline.leader.sql(&demote).await;
    let waited = pipeline.leader.value("SELECT MASTER_GTID_WAIT('0-2-4', 60)").await;
    assert_eq!(waited, "0", "the old leader follows");
    assert_eq!(pipeline.leader.value("SELECT GROUP_CONCAT(id) FROM d.t").await, "1,2");
}

/// Prints the time from a client's OK until the row shows on the follower.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a check"]
async fn lag() {
    let pipeline = Pipeline::start().await;
    let table = "CREATE TABLE d.t (id INT PRIMARY KEY)";
    pipeline.leader.sql(&format!("CREATE DATABASE d; {table}")).await;
    pipeline.caught_up().await;
    let mut leader = pipeline.leader.connect().await.expect("connects");
    let mut follower = pipeline.follower.connect().await.expect("connects");
    let (mut commits, mut lags) = (Vec::new(), Vec::new());
    for id in 0..500 {
        let started = Instant::now();
        run(&mut leader, &[&format!("INSERT INTO d.t VALUES ({id})")]).await;
        let ok = Instant::now();
        let wait = format!("SELECT MASTER_GTID_WAIT('0-1-{}', 10)", id + 3);
        run(&mut follower, &[&wait]).await;
        commits.push(ok - started);
        lags.push(ok.elapsed());
    }
    for (name, times) in [("commit", &mut commits), ("OK to visible", &mut lags)] {
        times.sort();
        println!(
            "{name}: p50 {:?}, p99 {:?}",
            times[times.len() / 2],
            times[times.len() * 99 / 100]
        );
    }
}
