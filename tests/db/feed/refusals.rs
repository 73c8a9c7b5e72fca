//! Who is served, who waits, and who is turned away; and the gate for DDL.

use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
};
use wolfscale::{
    db::{
        feed::{FeedGate, OpenGate},
        gtid::Gtid,
    },
    types::Lsn,
};

use super::{
    fake_log::{FEED_SERVER_ID, FakeLog, PASSWORD, USER},
    fidelity::{SOON, applied, assert_equal, follow, leader, point, received_heartbeats},
};
use crate::mariadb::{MariaDb, eventually};

/// A leader's log with a few transactions, the first of them 0-1-1.
async fn small() -> (MariaDb, FakeLog) {
    let leader = leader().await;
    leader
        .sql("CREATE DATABASE t; CREATE TABLE t.a (id INT PRIMARY KEY); INSERT INTO t.a VALUES (1)")
        .await;
    let mut log = FakeLog::new();
    log.take_from(&leader);
    (leader, log)
}

async fn assert_io_error(follower: &MariaDb, number: &str, text: &str) {
    let failed = async || follower.slave_status("Last_IO_Errno").await == number;
    eventually("the I/O thread's error", SOON, failed).await;
    let error = follower.slave_status("Last_IO_Error").await;
    assert!(error.contains(text), "{error}");
}

#[tokio::test]
async fn strays_and_strangers_are_refused_and_the_early_wait() {
    let (leader, mut log) = small().await;
    let feed = log.serve(Arc::new(OpenGate)).await;
    let follower = MariaDb::start(2, "").await;

    point(&follower, feed.port(), "wrong").await;
    follower.sql("START SLAVE").await;
    assert_io_error(&follower, "1045", "Access denied").await;

    for stray in ["0-9-2", "0-1-0"] {
        follower.sql(&format!("STOP SLAVE; SET GLOBAL gtid_slave_pos='{stray}'")).await;
        follow(&follower, feed.port()).await;
        assert_io_error(&follower, "1236", &format!("GTID {stray} is not in the cluster log"))
            .await;
        assert_eq!(follower.slave_status("Slave_IO_Running").await, "No");
    }

    // The follower has what the leader wrote, but the log lags.
    let tables = "STOP SLAVE; CREATE DATABASE t; CREATE TABLE t.a (id INT PRIMARY KEY); \
                  INSERT INTO t.a VALUES (1), (2); RESET MASTER; SET GLOBAL gtid_slave_pos='0-1-4'";
    follower.sql("SET GLOBAL rpl_semi_sync_master_enabled=0").await;
    follower.sql(tables).await;
    follow(&follower, feed.port()).await;
    let before = received_heartbeats(&follower).await;
    let alive = async || received_heartbeats(&follower).await > before + 1;
    eventually("heartbeats while it waits", SOON, alive).await;
    assert_eq!(follower.slave_status("Slave_IO_Running").await, "Yes");
    leader.sql("INSERT INTO t.a VALUES (2); INSERT INTO t.a VALUES (3)").await;
    log.take_from(&leader);
    applied(&follower, log.tail()).await;
    assert_equal(&leader, &follower).await;
    let master = follower.slave_status("Master_Server_Id").await;
    assert_eq!(master, FEED_SERVER_ID.to_string());

    // And one whose sequence the log gives to another transaction in the meantime.
    follower.sql("STOP SLAVE; RESET MASTER; SET GLOBAL gtid_slave_pos='0-7-6'").await;
    follow(&follower, feed.port()).await;
    let connected = async || {
        feed.handle
            .status
            .borrow()
            .values()
            .any(|r| r.started_at.is_some_and(|gtid| gtid.server == 7))
    };
    eventually("it waits", SOON, connected).await;
    leader.sql("INSERT INTO t.a VALUES (4)").await;
    log.take_from(&leader);
    assert_io_error(&follower, "1236", "GTID 0-7-6 is not in the cluster log").await;
    assert_eq!(feed.failure(), None);
}

#[tokio::test]
async fn semi_synchronous_and_annotating_replicas_are_served() {
    let (leader, mut log) = small().await;
    let feed = log.serve(Arc::new(OpenGate)).await;
    let lines = "rpl_semi_sync_slave_enabled=1\nreplicate_annotate_row_events=OFF";
    let follower = MariaDb::start(2, lines).await;
    follow(&follower, feed.port()).await;
    applied(&follower, log.tail()).await;
    leader.sql("INSERT INTO t.a VALUES (2)").await;
    log.take_from(&leader);
    applied(&follower, log.tail()).await;
    assert_equal(&leader, &follower).await;
    let before = received_heartbeats(&follower).await;
    let alive = async || received_heartbeats(&follower).await > before + 1;
    eventually("heartbeats", SOON, alive).await;
    assert_eq!(follower.slave_status("Last_IO_Errno").await, "0");
}

#[tokio::test]
async fn garbage_ends_its_connection_and_nothing_else() {
    let (_leader, log) = small().await;
    let feed = log.serve(Arc::new(OpenGate)).await;
    for garbage in [&b"\x00\x00\x00\x01"[..], b"\x03\x00\x00\x01abc", b"GET / HTTP/1.0\r\n\r\n"] {
        let mut socket = TcpStream::connect(("127.0.0.1", feed.port())).await.expect("connect");
        socket.write_all(garbage).await.expect("write");
        socket.shutdown().await.expect("shut down");
        let mut said = Vec::new();
        let _ = socket.read_to_end(&mut said).await;
        assert!(said.windows(9).any(|w| w == b"wolfscale"), "it greets");
    }
    assert_eq!(feed.failure(), None);
    let follower = MariaDb::start(2, "").await;
    point(&follower, feed.port(), PASSWORD).await;
    follower.sql("START SLAVE").await;
    applied(&follower, log.tail()).await;
}

/// Lets DDL pass up to a sequence, and records the calls.
struct CountingGate {
    calls: Mutex<Vec<(&'static str, u64)>>,
    open_to: watch::Receiver<u64>,
}

impl FeedGate for CountingGate {
    fn before_ddl(&self, gtid: Gtid, _lsn: Lsn) -> BoxFuture<'_, Result<(), String>> {
        self.calls.lock().expect("no panics").push(("before", gtid.sequence));
        Box::pin(async { Ok(()) })
    }

    fn after_ddl(&self, gtid: Gtid) -> BoxFuture<'_, Result<(), String>> {
        self.calls.lock().expect("no panics").push(("after", gtid.sequence));
        let mut open_to = self.open_to.clone();
        Box::pin(async move {
            let opened = open_to.wait_for(|to| *to >= gtid.sequence).await;
            opened.map(|_| ()).map_err(|error| error.to_string())
        })
    }
}

#[tokio::test]
async fn ddl_goes_alone_also_after_a_reconnection() {
    let (_leader, log) = small().await;
    let (open, open_to) = watch::channel(1);
    let gate = Arc::new(CountingGate { calls: Mutex::default(), open_to });
    let feed = log.serve(gate.clone()).await;
    let follower = MariaDb::start(2, "").await;
    follow(&follower, feed.port()).await;
    applied(&follower, "0-1-2".parse().expect("valid")).await;
    assert_eq!(feed.last_sent(), "0-1-2".parse().ok(), "the insert is held");
    follower.sql("STOP SLAVE; START SLAVE").await;
    let before = received_heartbeats(&follower).await;
    let alive = async || received_heartbeats(&follower).await > before + 1;
    eventually("heartbeats while the gate is closed", SOON, alive).await;
    assert_eq!(follower.value("SELECT @@gtid_slave_pos").await, "0-1-2");
    open.send(2).expect("the gate is there");
    applied(&follower, log.tail()).await;
    let calls = gate.calls.lock().expect("no panics").clone();
    let expected = [("before", 1), ("after", 1), ("before", 2), ("after", 2), ("after", 2)];
    assert_eq!(calls, expected);
}

#[tokio::test]
async fn tools_read_it_to_the_end_and_leave() {
    let (_leader, log) = small().await;
    let feed = log.serve(Arc::new(OpenGate)).await;
    let mut tool = tokio::process::Command::new("mariadb-binlog");
    tool.args(["--no-defaults", "-R", "--host=127.0.0.1", "--start-position=0-1-1", "-v"])
        .args([format!("--port={}", feed.port()), format!("--user={USER}")])
        .args([format!("--password={PASSWORD}"), "wolf-bin.000001".to_owned()])
        .kill_on_drop(true);
    let output = tokio::time::timeout(SOON, tool.output()).await.expect("ends").expect("runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("GTID 0-1-2") && text.contains("GTID 0-1-3"), "{text}");
    assert!(text.contains("### INSERT INTO `t`.`a`"), "{text}");
    assert!(!text.contains("GTID 0-1-1"), "{text}");
}
