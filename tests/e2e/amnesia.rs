//! A log store that is gone, or older than what its node acknowledged, must not vote.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tokio::time::{Duration, Instant, timeout};

use crate::{
    cluster::{Cluster, SUPERVISOR_GONE},
    load::Writer,
};

const WRITES: usize = 50;
/// How long a cluster without a quorum is watched.
const WATCHED: Duration = Duration::from_secs(4);
/// How often it is tried to write meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A node that lost its log tells so as an error.
const LOST: &str = "amnesia";
/// Ids that no writer uses.
const UNRELEASED: i64 = -3;

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_log_store_never_votes() {
    never_votes(|_log| {}, |log| fs::remove_dir_all(log).expect("delete the log")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolled_back_log_store_never_votes() {
    never_votes(
        |log| copy(log, &kept(log)),
        |log| {
            fs::remove_dir_all(log).expect("delete the log");
            copy(&kept(log), log);
        },
    )
    .await;
}

/// `keep` runs while the third node is down, `lose` when it is down again after more writes, and
/// with it the leader, which holds them.
async fn never_votes(keep: impl FnOnce(&Path), lose: impl FnOnce(&Path)) {
    let mut cluster = Cluster::founded(3).await;
    let writer = Writer::start(&cluster, 0);
    writer.more(WRITES).await;
    let leader = cluster.leader().await;
    let [second, third] = cluster.others(leader)[..] else { panic!("three nodes") };
    let log = cluster.directory(third).join("data/log");

    assert_eq!(cluster.stop(third).await, Some(0));
    keep(&log);
    cluster.start(third);
    cluster.until_follows(third).await;
    cluster.until_counts(leader, 3).await;
    writer.more(WRITES).await;
    holds_all_so_far(&cluster, third, &writer).await;
    // Both within `drop_after`: the cluster is still one of three.
    cluster.crash(third);
    cluster.crash(leader);
    lose(&log);
    cluster.start(third);
    cluster
        .until_status(third, "it says what it lost", |status| {
            status["notices"].to_string().contains("lost what it had acknowledged")
        })
        .await;
    nobody_leads(&cluster, second).await;

    cluster.start(leader);
    // Killed while it receives the log again, its database is ahead of the log, and is not errant.
    cluster.crash(third);
    cluster.start(third);
    writer.more(WRITES).await;
    cluster.until_counts(leader, 3).await;
    cluster.until_follows(third).await;
    cluster.crash(second);
    writer.more(WRITES).await;
    let ledger = writer.stop().await;
    cluster.start(second);
    ledger.assert_kept(&cluster).await;
    cluster.assert_no_errors(&[LOST, SUPERVISOR_GONE]);
}

/// A node with all its memory, and one without: no quorum of three.
async fn nobody_leads(cluster: &Cluster, node: usize) {
    let insert = format!("INSERT INTO test.ledger VALUES ({UNRELEASED}, 'no quorum')");
    let watched = Instant::now();
    while watched.elapsed() < WATCHED {
        let answer = timeout(WATCHED, cluster.app(node, &insert)).await;
        assert!(!matches!(answer, Ok(Ok(()))), "a node that lost its log made a quorum");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn holds_all_so_far(cluster: &Cluster, node: usize, writer: &Writer) {
    let last = writer.last();
    let held = format!("SELECT COUNT(*) FROM test.ledger WHERE id = {last}");
    cluster.until_value(node, &held, "1").await;
}

/// Where a copy of the log is kept.
fn kept(log: &Path) -> PathBuf {
    log.with_extension("kept")
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status().expect("run cp");
    assert!(status.success(), "copy {from:?} to {to:?}");
}
