//! A node that is asked to stop.

use std::time::Instant;

use crate::{cluster::Cluster, load::Writer};

/// Writes before and after the stop.
const WRITES: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_hands_over() {
    let mut cluster = Cluster::founded(3).await;
    let writer = Writer::start(&cluster, 0);
    writer.more(WRITES).await;
    let leader = cluster.leader().await;
    let asked = Instant::now();
    let code = cluster.stop(leader).await;
    println!("{} stopped {:?} after SIGTERM", cluster.id(leader), asked.elapsed());
    assert_eq!(code, Some(0), "a stop that was asked for is no failure");
    let first = writer.first_elsewhere(leader, asked).await;
    println!(
        "{} acknowledged a write {:?} after SIGTERM",
        cluster.id(first.node),
        first.at - asked
    );
    let heir = cluster.others(leader)[0];
    assert_eq!(first.node, heir, "the lead goes to the next in rank");
    let read_only = cluster.rows(leader, "SELECT @@global.read_only").await;
    assert_eq!(read_only, Ok(vec!["1".to_owned()]), "the database left behind takes no writes");
    writer.more(WRITES).await;
    cluster.start(leader);
    writer.stop().await.assert_kept(&cluster).await;
    cluster.assert_no_errors(&[]);
}
