//! Who dies, and what must survive: everything that was acknowledged.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::{
    cluster::{CHILD_DIED, Cluster, SUPERVISOR_GONE, until},
    load::{Sysbench, Writer},
    tool::can_run,
};

const KILLS: usize = 5;
const KILLS_LONG: usize = 15;
/// Writes between two kills, so that each kill hits a cluster at work.
const WRITES_BETWEEN: usize = 50;
/// An id that no writer uses, written where no cluster is.
const STRAY: i64 = -1;
/// Where a second writer's ids begin.
const NEWCOMER: i64 = 1_000_000;
/// How long a database that nobody releases is watched.
const ALONE: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_survive_five_leader_kills() {
    leader_kills(KILLS).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn acknowledged_writes_survive_many_leader_kills_long() {
    leader_kills(KILLS_LONG).await;
}

async fn leader_kills(kills: usize) {
    if !can_run(&[("sysbench", "sysbench")]) {
        return;
    }
    let mut cluster = Cluster::founded(3).await;
    let sysbench = Sysbench::start(&cluster, cluster.leader().await).await;
    let writer = Writer::start(&cluster, 0);
    let mut outages = Vec::new();
    for round in 1..=kills {
        let leader = cluster.leader().await;
        sysbench.go_to(leader);
        writer.more(WRITES_BETWEEN).await;
        let killed = Instant::now();
        cluster.crash(leader);
        let first = writer.first_elsewhere(leader, killed).await;
        outages.push(first.at - killed);
        let next = cluster.leader().await;
        sysbench.go_to(next);
        println!(
            "kill {round}: {} died, {} acknowledged a write {:?} after the kill",
            cluster.id(leader),
            cluster.id(first.node),
            first.at - killed
        );
        rejoin(&mut cluster, leader, first.id).await;
    }
    sysbench.stop().await;
    let ledger = writer.stop().await;
    print_outages(&mut outages);
    ledger.assert_kept(&cluster).await;
    cluster.assert_no_errors(&[SUPERVISOR_GONE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_and_its_database_killed_catch_up() {
    let mut cluster = Cluster::founded(3).await;
    let writer = Writer::start(&cluster, 0);
    writer.more(WRITES_BETWEEN).await;
    let leader = cluster.leader().await;
    let follower = cluster.others(leader)[1];

    cluster.crash(follower);
    writer.more(WRITES_BETWEEN).await;
    rejoin(&mut cluster, follower, writer.last()).await;

    cluster.kill_database(follower);
    writer.more(WRITES_BETWEEN).await;
    holds(&cluster, follower, writer.last()).await;

    cluster.kill_child(follower);
    writer.more(WRITES_BETWEEN).await;
    holds(&cluster, follower, writer.last()).await;
    cluster.until_follows(follower).await;

    let moved = writer.acks().iter().any(|ack| ack.node != leader);
    assert!(!moved, "a follower's death moved the lead");
    writer.stop().await.assert_kept(&cluster).await;
    cluster.assert_no_errors(&[SUPERVISOR_GONE, CHILD_DIED]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leaders_database_alone_dies() {
    let cluster = Cluster::founded(3).await;
    let writer = Writer::start(&cluster, 0);
    writer.more(WRITES_BETWEEN).await;
    let leader = cluster.leader().await;
    let killed = Instant::now();
    cluster.kill_database(leader);
    let first = writer.first_elsewhere(leader, killed).await;
    println!("the leader's database died: the next write {:?} later", first.at - killed);
    holds(&cluster, leader, first.id).await;
    writer.stop().await.assert_kept(&cluster).await;
    cluster.assert_no_errors(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leaders_node_alone_is_killed() {
    let mut cluster = Cluster::founded(3).await;
    let writer = Writer::start(&cluster, 0);
    writer.more(WRITES_BETWEEN).await;
    let leader = cluster.leader().await;
    let database = cluster.databases(leader);
    let killed = Instant::now();
    cluster.kill_node(leader);
    // The first writer's session hangs in the old database: a new client finds the new leader.
    let newcomer = Writer::start_among(&cluster, NEWCOMER, &cluster.others(leader));
    let stray = format!("INSERT INTO test.ledger VALUES ({STRAY}, 'past the cluster')");
    let answer = timeout(ALONE, cluster.app(leader, &stray)).await;
    assert!(!matches!(answer, Ok(Ok(()))), "a commit came back OK without the cluster");
    assert_eq!(cluster.databases(leader), database, "nobody is there to restart the database");
    let first = newcomer.first_elsewhere(leader, killed).await;
    println!("the leader's node died: the next write {:?} later", first.at - killed);
    rejoin(&mut cluster, leader, first.id).await;
    let ledger = writer.stop().await.and(newcomer.stop().await);
    ledger.assert_kept(&cluster).await;
    for index in 0..cluster.count() {
        holds_not(&cluster, index, STRAY).await;
    }
    cluster.assert_no_errors(&[SUPERVISOR_GONE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_supervisor_fences_for_a_leader_that_died() {
    let cluster = Cluster::founded(3).await;
    let writer = Writer::start(&cluster, 0);
    writer.more(WRITES_BETWEEN).await;
    let leader = cluster.leader().await;
    let database = cluster.databases(leader);
    let killed = Instant::now();
    cluster.kill_child(leader);
    let first = writer.first_elsewhere(leader, killed).await;
    println!("the leader's child died: the next write {:?} later", first.at - killed);
    until("the old leader's database is fenced", async || {
        let now = cluster.databases(leader);
        !now.is_empty() && now != database
    })
    .await;
    holds(&cluster, leader, first.id).await;
    writer.stop().await.assert_kept(&cluster).await;
    cluster.assert_no_errors(&[CHILD_DIED]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_supervisor_died_fences_itself_and_ends() {
    let mut cluster = Cluster::founded(3).await;
    let writer = Writer::start(&cluster, 0);
    writer.more(WRITES_BETWEEN).await;
    let leader = cluster.leader().await;
    let killed = Instant::now();
    cluster.kill_parent(leader);
    let first = writer.first_elsewhere(leader, killed).await;
    println!("the leader's supervisor died: the next write {:?} later", first.at - killed);
    until("the child ends", async || !cluster.node_runs(leader)).await;
    // Killed and started again as follower, or set read-only by the child itself before it ended.
    until("its database runs", async || !cluster.databases(leader).is_empty()).await;
    cluster.until_value(leader, "SELECT @@global.read_only", "1").await;
    rejoin(&mut cluster, leader, first.id).await;
    writer.stop().await.assert_kept(&cluster).await;
    cluster.assert_no_errors(&[SUPERVISOR_GONE]);
}

/// Waits until a node's database holds an id, once.
async fn holds(cluster: &Cluster, node: usize, id: i64) {
    let held = format!("SELECT COUNT(*) FROM test.ledger WHERE id = {id}");
    cluster.until_value(node, &held, "1").await;
}

async fn holds_not(cluster: &Cluster, node: usize, id: i64) {
    let held = format!("SELECT COUNT(*) FROM test.ledger WHERE id = {id}");
    assert_eq!(cluster.rows(node, &held).await, Ok(vec!["0".to_owned()]), "{id} on {node}");
}

/// Starts a node again, as a service manager would, and waits until it has an id that it missed.
async fn rejoin(cluster: &mut Cluster, node: usize, missed: i64) {
    let began = Instant::now();
    cluster.start(node);
    holds(cluster, node, missed).await;
    println!("{} holds what it missed {:?} after its start", cluster.id(node), began.elapsed());
}

fn print_outages(outages: &mut [Duration]) {
    outages.sort();
    let (median, worst) = (outages[outages.len() / 2], outages[outages.len() - 1]);
    println!("from the kill to the next acknowledged write: median {median:?}, worst {worst:?}");
}
