//! Connections and servers that die in the middle: everything is applied exactly once.

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};
use wolfscale::db::feed::OpenGate;

use super::{
    fake_log::FakeLog,
    fidelity::{SOON, applied, assert_equal, follow, leader},
};
use crate::{
    mariadb::{MariaDb, eventually},
    ports::Port,
};

/// Forwards to a port of this host, and cuts its first connection after so many bytes.
struct Cutter {
    port: Port,
    target: Arc<AtomicU16>,
    cut: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Cutter {
    async fn start(target: u16, first_bytes: u64) -> Self {
        let port = Port::free();
        let listener = TcpListener::bind(("127.0.0.1", port.number())).await.expect("bind");
        let target = Arc::new(AtomicU16::new(target));
        let cut = Arc::new(Notify::new());
        let (to, notify) = (target.clone(), cut.clone());
        let task = tokio::spawn(async move {
            let mut bytes_max = first_bytes;
            while let Ok((client, _)) = listener.accept().await {
                let port = to.load(Ordering::SeqCst);
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                forward(client, server, bytes_max).await;
                notify.notify_one();
                bytes_max = u64::MAX;
            }
        });
        Self { port, target, cut, task }
    }
}

async fn forward(client: TcpStream, server: TcpStream, bytes_max: u64) {
    let (mut from_client, mut to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    let mut limited = from_server.take(bytes_max);
    tokio::select! {
        _ = copy(&mut from_client, &mut to_server) => {}
        _ = copy(&mut limited, &mut to_client) => {}
    }
    let _ = to_client.shutdown().await;
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn another_feed_goes_on_in_the_middle_of_a_transaction() {
    let leader = leader().await;
    leader
        .sql(
            "CREATE DATABASE t; USE t; CREATE TABLE t.big (id INT AUTO_INCREMENT PRIMARY KEY, \
             b LONGBLOB); INSERT INTO t.big (b) VALUES ('first'); SET group_concat_max_len=1<<30; \
             BEGIN; INSERT INTO t.big (b) SELECT GROUP_CONCAT(a.x SEPARATOR '') FROM \
             (SELECT seq % 40 AS n, RANDOM_BYTES(1000) AS x FROM seq_1_to_40000) a GROUP BY a.n; \
             COMMIT; INSERT INTO t.big (b) VALUES ('last')",
        )
        .await;
    let mut log = FakeLog::new();
    log.take_from(&leader);
    let one = log.serve(Arc::new(OpenGate)).await;
    let two = log.serve(Arc::new(OpenGate)).await;
    let cutter = Cutter::start(one.port(), 20 << 20).await;
    let follower = MariaDb::start(2, "").await;
    cutter.target.store(one.port(), Ordering::SeqCst);
    follow(&follower, cutter.port.number()).await;
    cutter.cut.notified().await;
    assert_eq!(one.last_sent(), None, "its replica is gone");
    cutter.target.store(two.port(), Ordering::SeqCst);
    one.stop().await;
    applied(&follower, log.tail()).await;
    assert_equal(&leader, &follower).await;
    assert_eq!(two.last_sent(), Some(log.tail()));
    let log = follower.error_log();
    assert!(log.contains("already received events including the gtid one"), "{log}");
}

#[tokio::test]
async fn a_follower_that_is_killed_applies_everything_once() {
    let leader = leader().await;
    leader
        .sql(
            "CREATE DATABASE t; CREATE TABLE t.n (id INT PRIMARY KEY, n INT); \
              INSERT INTO t.n VALUES (1, 0)",
        )
        .await;
    let body = "BEGIN NOT ATOMIC DECLARE i INT DEFAULT 0; WHILE i < 4000 DO \
                INSERT INTO t.n VALUES (i + 10, i); UPDATE t.n SET n = n + 1 WHERE id = 1; \
                SET i = i + 1; END WHILE; END";
    leader.sql(body).await;
    let mut log = FakeLog::new();
    log.take_from(&leader);
    let feed = log.serve(Arc::new(OpenGate)).await;
    let mut follower = MariaDb::start(2, "innodb_flush_log_at_trx_commit=2").await;
    follow(&follower, feed.port()).await;
    for rows in [300, 1500] {
        let far = async || {
            let count = follower.try_sql("SELECT COUNT(*) FROM t.n").await.unwrap_or_default();
            count.concat().first().and_then(|n| n.parse().ok()).unwrap_or(0) > rows
        };
        eventually("some rows", SOON, far).await;
        follower.kill9();
        follower.restart().await;
        assert_ne!(follower.value("SELECT @@gtid_slave_pos").await, log.tail().to_string());
        follower.sql("START SLAVE").await;
    }
    applied(&follower, log.tail()).await;
    assert_equal(&leader, &follower).await;
    assert_eq!(follower.value("SELECT n FROM t.n WHERE id = 1").await, "4000");
}
