//! What a leader wrote is what a follower has.

use std::{sync::Arc, time::Duration};

use wolfscale::db::{feed::OpenGate, gtid::Gtid};

use super::fake_log::{FakeLog, PASSWORD, USER};
use crate::mariadb::MariaDb;

pub const APPLY_SECONDS: u32 = 60;
pub const SOON: Duration = Duration::from_secs(30);

/// A server that writes without waiting for anybody.
pub async fn leader() -> MariaDb {
    let leader = MariaDb::start(1, "").await;
    leader.sql("SET GLOBAL rpl_semi_sync_master_enabled=0").await;
    leader
}

/// Points a server at a feed, without starting it.
pub async fn point(follower: &MariaDb, port: u16, password: &str) {
    follower
        .sql(&format!(
            "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='{USER}', \
             MASTER_PASSWORD='{password}', MASTER_HEARTBEAT_PERIOD=1, MASTER_CONNECT_RETRY=1, \
             MASTER_USE_GTID=slave_pos"
        ))
        .await;
}

/// Lets a server follow a feed.
pub async fn follow(follower: &MariaDb, port: u16) {
    point(follower, port, PASSWORD).await;
    follower.sql("START SLAVE").await;
}

/// Waits until a transaction is applied.
pub async fn applied(follower: &MariaDb, gtid: Gtid) {
    let wait = format!("SELECT MASTER_GTID_WAIT('{gtid}', {APPLY_SECONDS})");
    let waited = follower.value(&wait).await;
    if waited != "0" {
        let io = follower.slave_status("Last_IO_Error").await;
        let sql = follower.slave_status("Last_SQL_Error").await;
        let at = follower.value("SELECT @@gtid_slave_pos").await;
        panic!("{gtid} is not applied, but {at}: {io:?} {sql:?}\n{}", follower.error_log());
    }
}

/// Compares all tables of the schema `t`, and their definitions.
pub async fn assert_equal(leader: &MariaDb, follower: &MariaDb) {
    let names = "SELECT table_name FROM information_schema.tables WHERE table_schema='t' \
                 ORDER BY table_name";
    let tables = leader.sql(names).await;
    assert!(!tables.is_empty());
    assert_eq!(follower.sql(names).await, tables);
    for table in tables.concat() {
        for query in [format!("CHECKSUM TABLE t.{table}"), format!("SHOW CREATE TABLE t.{table}")] {
            assert_eq!(follower.sql(&query).await, leader.sql(&query).await, "{query}");
        }
    }
}

const VARIETY: &[&str] = &[
    "CREATE DATABASE t",
    "CREATE TABLE t.plain (id INT AUTO_INCREMENT PRIMARY KEY, a TEXT, b DOUBLE, c DATETIME(6), \
     u CHAR(36))",
    "INSERT INTO t.plain (a, b, c, u) VALUES (NULL, RAND(), NOW(6), UUID())",
    "USE t; INSERT INTO t.plain (a, b, c, u) SELECT seq, RAND(), NOW(6), UUID() FROM seq_1_to_500",
    "CREATE TABLE t.bytes (id INT PRIMARY KEY, b BLOB)",
    "USE t; INSERT INTO t.bytes SELECT seq, CHAR(seq) FROM seq_0_to_255",
    "USE t; INSERT INTO t.bytes SELECT 1000, GROUP_CONCAT(CHAR(seq) ORDER BY seq SEPARATOR '') \
     FROM seq_0_to_255",
    "CREATE TABLE t.latin (id INT PRIMARY KEY, a VARCHAR(50)) CHARACTER SET latin1",
    "SET NAMES latin1; INSERT INTO t.latin VALUES (1, X'E4F6FC'), (2, 'abc'); SET NAMES utf8mb4",
    "CREATE TABLE t.emoji (id INT PRIMARY KEY, a VARCHAR(50)) CHARACTER SET utf8mb4",
    "INSERT INTO t.emoji VALUES (1, '🐺 é 漢字')",
    "BEGIN; UPDATE t.plain SET b = b + 1 WHERE id % 2; DELETE FROM t.plain WHERE id % 7 = 0; \
     SAVEPOINT s; INSERT INTO t.plain (a) VALUES ('gone'); ROLLBACK TO s; \
     INSERT INTO t.emoji VALUES (2, 'x'); COMMIT",
    "BEGIN; INSERT INTO t.emoji VALUES (3, 'never'); ROLLBACK",
    "ALTER TABLE t.plain ADD COLUMN d DECIMAL(30,10) DEFAULT 1.5, ADD INDEX (b)",
    "CREATE TABLE t.copied AS SELECT * FROM t.plain WHERE id < 50",
    "CREATE TABLE t.child (id INT PRIMARY KEY, p INT, \
     FOREIGN KEY (p) REFERENCES t.plain (id) ON DELETE CASCADE)",
    "INSERT INTO t.child SELECT id, id FROM t.plain LIMIT 40",
    "DELETE FROM t.plain WHERE id < 10",
    "CREATE TRIGGER t.trig AFTER INSERT ON t.latin FOR EACH ROW \
     INSERT INTO t.plain (a, b) VALUES (NEW.a, RAND())",
    "INSERT INTO t.latin VALUES (3, 'triggered')",
    "CREATE TABLE t.aria (id INT PRIMARY KEY) ENGINE=Aria",
    "INSERT INTO t.aria VALUES (1), (2)",
    "TRUNCATE t.bytes",
    "USE t; INSERT INTO t.bytes SELECT seq, CHAR(seq, 255 - seq) FROM seq_0_to_255",
    "XA START 'x'; INSERT INTO t.emoji VALUES (9, 'xa'); XA END 'x'; XA PREPARE 'x'; XA COMMIT 'x'",
];

#[tokio::test]
async fn a_follower_is_the_same_from_the_beginning_and_live() {
    let leader = leader().await;
    for statement in VARIETY {
        leader.sql(statement).await;
    }
    let mut log = FakeLog::new();
    log.append_noop();
    log.take_from(&leader);
    let feed = log.serve(Arc::new(OpenGate)).await;
    let follower = MariaDb::start(2, "").await;
    follow(&follower, feed.port()).await;
    applied(&follower, log.tail()).await;
    assert_equal(&leader, &follower).await;

    for round in 0..20 {
        let insert = "INSERT INTO t.plain (a, b, u) VALUES ('live', RAND(), UUID())";
        leader.sql(insert).await;
        if round == 10 {
            log.change_format();
            log.append_noop();
        }
        log.take_from(&leader);
    }
    applied(&follower, log.tail()).await;
    assert_equal(&leader, &follower).await;
    assert_eq!(feed.last_sent(), Some(log.tail()));
    assert_eq!(follower.slave_status("Last_IO_Errno").await, "0");
    assert_eq!(follower.value("SELECT @@gtid_binlog_pos").await, "", "nothing of its own");
}

#[tokio::test]
async fn rows_and_transactions_larger_than_packets_come_whole() {
    let leader = leader().await;
    leader
        .sql(
            "CREATE DATABASE t; USE t; CREATE TABLE t.big (id INT PRIMARY KEY, b LONGBLOB); \
             INSERT INTO t.big VALUES (1, REPEAT('wolf', 5000000)); \
             SET group_concat_max_len=1 << 30; INSERT INTO t.big \
             SELECT 2, GROUP_CONCAT(RANDOM_BYTES(1000) SEPARATOR '') FROM seq_1_to_20000; \
             BEGIN; INSERT INTO t.big SELECT seq, REPEAT(RANDOM_BYTES(1000), 1500) \
             FROM seq_10_to_40; COMMIT; INSERT INTO t.big VALUES (99, 'end')",
        )
        .await;
    let mut log = FakeLog::new();
    log.take_from(&leader);
    let feed = log.serve(Arc::new(OpenGate)).await;
    let follower = MariaDb::start(2, "").await;
    follow(&follower, feed.port()).await;
    applied(&follower, log.tail()).await;
    assert_equal(&leader, &follower).await;
    // Idle for some heartbeats: positions must still agree after compressed entries.
    let before: u64 = received_heartbeats(&follower).await;
    let idle = async || received_heartbeats(&follower).await > before + 1;
    crate::mariadb::eventually("heartbeats", SOON, idle).await;
    assert_eq!(follower.slave_status("Last_IO_Errno").await, "0", "{}", follower.error_log());
    assert_eq!(feed.handle.status.borrow().len(), 1, "connected once");
}

pub async fn received_heartbeats(follower: &MariaDb) -> u64 {
    let row = follower.sql("SHOW STATUS LIKE 'Slave_received_heartbeats'").await;
    row[0][1].parse().expect("a number")
}
