//! What an operator sees.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{Cluster, SUPERVISOR_GONE, until};

/// The promise is 3 s; this test machine may be busy with other work.
const SEEN_DEAD_WITHIN: Duration = Duration::from_secs(3);
const HEALTHY: i32 = 0;
const UNHEALTHY: i32 = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_is_dead_within_3_s() {
    let mut cluster = Cluster::founded(3).await;
    let leader = cluster.leader().await;
    until("all are healthy", async || {
        cluster.wolfctl(leader, &["status"]).await.status.code() == Some(HEALTHY)
    })
    .await;
    let follower = cluster.others(leader)[1];
    let dead = cluster.id(follower).to_owned();
    assert_eq!(state(&cluster, leader, &dead).await, "alive");
    // Any node tells what every database does.
    for asked in [leader, follower] {
        until("all databases are seen", async || {
            let seen = databases(&cluster, asked).await;
            seen.iter().filter(|word| *word == "leading").count() == 1
                && seen.iter().filter(|word| *word == "following").count() == 2
        })
        .await;
    }

    let killed = Instant::now();
    cluster.crash(follower);
    for witness in cluster.others(follower) {
        until("it is seen dead", async || state(&cluster, witness, &dead).await == "dead").await;
        println!("{} sees {dead} dead {:?} after", cluster.id(witness), killed.elapsed());
    }
    let took = killed.elapsed();
    assert!(took < SEEN_DEAD_WITHIN, "seen dead after {took:?}");

    let table = cluster.wolfctl(leader, &["list", "servers"]).await;
    assert_eq!(table.status.code(), Some(HEALTHY), "a list is a list");
    let text = String::from_utf8_lossy(&table.stdout).into_owned();
    let row = text.lines().find(|line| line.trim_start().starts_with(&dead)).expect("its row");
    assert!(row.contains("dead"), "{text}");
    let status = cluster.wolfctl(leader, &["status"]).await;
    assert_eq!(status.status.code(), Some(UNHEALTHY), "a dead member is no health");
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(text.contains(&format!("{dead} is dead")), "{text}");
    let unreached = cluster.wolfctl(follower, &["status"]).await;
    assert_eq!(unreached.status.code(), Some(1), "a dead node does not answer");

    cluster.start(follower);
    until("it is alive again", async || state(&cluster, leader, &dead).await == "alive").await;
    until("all are healthy again", async || {
        cluster.wolfctl(leader, &["status"]).await.status.code() == Some(HEALTHY)
    })
    .await;
    cluster.assert_no_errors(&[SUPERVISOR_GONE]);
}

/// A server's state in the list that a node gives.
async fn state(cluster: &Cluster, asked: usize, id: &str) -> String {
    let servers = servers(cluster, asked).await;
    let server = servers.into_iter().find(|server| server["id"] == id).expect("it is listed");
    server["state"].as_str().expect("a word").to_owned()
}

/// What the databases do, in the list that a node gives; empty words for what it does not know.
async fn databases(cluster: &Cluster, asked: usize) -> Vec<String> {
    let servers = servers(cluster, asked).await;
    servers.iter().map(|s| s["database"].as_str().unwrap_or_default().to_owned()).collect()
}

async fn servers(cluster: &Cluster, asked: usize) -> Vec<Value> {
    let output = cluster.wolfctl(asked, &["--output", "json", "list", "servers"]).await;
    let list: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    list["servers"].as_array().expect("servers").clone()
}
