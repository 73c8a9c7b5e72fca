//! A leader whose peers do not answer.

use std::{pin::pin, time::Duration};

use tokio::time::{sleep, timeout};

use crate::{
    cluster::{Cluster, SOON},
    load::Writer,
};

/// An id that no writer uses.
const ALONE: i64 = -7;
/// How long a commit without peers is watched.
const WATCHED: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(100);
const WRITES: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn without_peers_a_commit_neither_returns_nor_shows() {
    let cluster = Cluster::founded(3).await;
    let writer = Writer::start(&cluster, 0);
    writer.more(WRITES).await;
    let before = writer.stop().await;
    let leader = cluster.leader().await;
    let peers = cluster.others(leader);
    peers.iter().for_each(|peer| cluster.freeze(*peer, true));

    let mut insert = pin!(insert(&cluster, leader));
    let watched = async {
        loop {
            let seen = cluster.rows(leader, &count()).await;
            // A database that is being restarted as follower does not answer, and shows nothing.
            assert_ne!(seen, Ok(vec!["1".to_owned()]), "another session sees the commit");
            sleep(LOOK).await;
        }
    };
    let mut answer = None;
    let watching = async {
        tokio::select! {
            early = &mut insert => answer = Some(early),
            () = watched => {}
        }
        // It failed, as its node gave up the lead; the row must still not show.
        std::future::pending::<()>().await;
    };
    let _elapsed = timeout(WATCHED, watching).await;
    assert_ne!(answer, Some(true), "a commit came back OK without the peers");

    peers.iter().for_each(|peer| cluster.freeze(*peer, false));
    let acknowledged = match answer {
        Some(early) => early,
        None => timeout(SOON, insert).await.expect("the client gets some answer"),
    };
    let leader = cluster.leader().await;
    let writer = Writer::start(&cluster, before.tried);
    writer.more(WRITES).await;
    writer.stop().await.assert_kept(&cluster).await;
    let rows = cluster.rows(leader, &count()).await.expect("the leader answers");
    println!("acknowledged: {acknowledged}; rows on all nodes: {rows:?}");
    assert!(rows == ["1"] || (rows == ["0"] && !acknowledged), "{rows:?}, {acknowledged}");
    cluster.assert_no_errors(&[]);
}

/// Whether the INSERT came back OK.
async fn insert(cluster: &Cluster, leader: usize) -> bool {
    use mysql_async::prelude::Queryable;
    let Ok(mut connection) = cluster.connect(leader).await else { return false };
    let insert = format!("INSERT INTO test.ledger VALUES ({ALONE}, 'alone')");
    connection.query_drop(insert).await.is_ok()
}

fn count() -> String {
    format!("SELECT COUNT(*) FROM test.ledger WHERE id = {ALONE}")
}
