//! Who belongs to the cluster and who leads it, changed while clients write.

use std::time::{Duration, Instant};

use crate::{
    cluster::{Cluster, SUPERVISOR_GONE, until},
    load::Writer,
};

/// Writes before and after each change.
const WRITES: usize = 50;
/// A write may wait so long for a hand-over; the promise is about its median, on a quiet machine.
const STALL_MAX: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn the_lowest_id_leads_again_when_it_has_been_steady() {
    let mut cluster = Cluster::prepared(3).await;
    (0..3).for_each(|node| {
        cluster.reconfigure(node, "preempt_after = \"10m\"", "preempt_after = \"2s\"")
    });
    cluster.found().await;
    let writer = Writer::start(&cluster, 0);
    writer.more(WRITES).await;
    assert_eq!(cluster.leader().await, 0);
    cluster.crash(0);
    until("the next one leads without the first", async || cluster.leader().await == 1).await;
    cluster.until_counts(1, 2).await;
    writer.more(WRITES).await;

    cluster.start(0);
    cluster.until_counts(1, 3).await;
    until("the lowest ID leads again", async || cluster.leader().await == 0).await;
    writer.more(WRITES).await;
    println!("longest wait for a write, hand-over included: {:?}", longest_wait(&writer));
    writer.stop().await.assert_kept(&cluster).await;
    cluster.assert_no_errors(&[SUPERVISOR_GONE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_moves_the_lead_while_clients_write() {
    let cluster = Cluster::founded(3).await;
    let writer = Writer::start(&cluster, 0);
    writer.more(WRITES).await;
    let ids: Vec<String> = (0..3).map(|node| cluster.id(node).to_owned()).collect();
    let [first, second, third] = [&ids[0], &ids[1], &ids[2]].map(String::as_str);

    did(&cluster, 2, &["promote", third]).await;
    until("the pinned one leads", async || cluster.leader().await == 2).await;
    writer.more(WRITES).await;
    refused(&cluster, 0, &["promote", "nobody"], "nobody is not in the cluster").await;
    did(&cluster, 0, &["demote", third]).await;
    until("the lowest ID leads", async || cluster.leader().await == 0).await;
    writer.more(WRITES).await;
    did(&cluster, 1, &["demote", second]).await;
    refused(&cluster, 1, &["demote", first], "nobody could lead").await;
    did(&cluster, 1, &["demote", second, "--undo"]).await;
    did(&cluster, 1, &["demote", third, "--undo"]).await;
    refused(&cluster, 1, &["promote", "--auto"], "it is so already").await;
    assert!(longest_wait(&writer) < STALL_MAX, "a write waited {:?}", longest_wait(&writer));
    writer.stop().await.assert_kept(&cluster).await;
    cluster.assert_no_errors(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_holds_all_and_leaves() {
    let mut cluster = Cluster::prepared(4).await;
    let fourth = cluster.member(3);
    (0..3).for_each(|node| cluster.reconfigure(node, &format!(", {fourth}"), ""));
    cluster.found_by(3).await;
    let writer = Writer::start_among(&cluster, 0, &[0, 1, 2]);
    writer.more(WRITES).await;

    cluster.start(3);
    cluster
        .until_status(3, "it waits to be added", |status| {
            status["notices"].to_string().contains("wolfctl member add")
        })
        .await;
    let address = cluster.grpc_address(3);
    let node = format!("{}={address}", cluster.id(3));
    did(&cluster, 1, &["member", "add", &node]).await;
    cluster.until_counts(0, 4).await;
    cluster.until_follows(3).await;
    writer.more(WRITES).await;
    refused(&cluster, 1, &["member", "add", &node], "is in the cluster already").await;

    let first = cluster.id(0).to_owned();
    did(&cluster, 1, &["member", "remove", &first]).await;
    until("the removed one leads no more", async || cluster.leader().await == 1).await;
    cluster.until_counts(1, 3).await;
    cluster.crash(0);
    writer.more(WRITES).await;

    // It comes back and leads. Who now reads the log from its beginning meets the entry that once
    // removed the present leader, and must go on listening to it.
    did(&cluster, 1, &["member", "add", &format!("{first}={}", cluster.grpc_address(0))]).await;
    cluster.start(0);
    cluster.until_counts(1, 4).await;
    did(&cluster, 1, &["promote", &first]).await;
    until("the one that is back leads", async || cluster.leader().await == 0).await;
    cluster.crash(3);
    let log = cluster.directory(3).join("data/log");
    std::fs::remove_dir_all(log).expect("delete the log");
    cluster.start(3);
    cluster.until_counts(0, 4).await;
    cluster.until_follows(3).await;
    writer.more(WRITES).await;
    writer.stop().await.assert_kept(&cluster).await;
    cluster.assert_no_errors(&[SUPERVISOR_GONE, "amnesia"]);
}

async fn did(cluster: &Cluster, asked: usize, arguments: &[&str]) {
    let output = cluster.wolfctl(asked, arguments).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "wolfctl {arguments:?}: {said}");
}

async fn refused(cluster: &Cluster, asked: usize, arguments: &[&str], why: &str) {
    let output = cluster.wolfctl(asked, arguments).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "wolfctl {arguments:?}");
    assert!(said.contains(why), "wolfctl {arguments:?}: {said}");
}

/// Between two acknowledgements.
fn longest_wait(writer: &Writer) -> Duration {
    let at: Vec<Instant> = writer.acks().iter().map(|ack| ack.at).collect();
    at.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}
