//! One network namespace a node: nothing passes between machines but the nodes' own ports.

use std::{process::Output, time::Instant};

use crate::{cluster::Cluster, load::Writer, tool::can_run};

const WRITES: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn only_the_nodes_ports_pass() {
    if !can_run(&[("ip", "iproute2"), ("ss", "iproute2")]) {
        return;
    }
    let mut cluster = Cluster::prepared_in_namespaces(3).await;
    cluster.found().await;
    let leader = cluster.leader().await;
    let follower = cluster.others(leader)[0];
    let reached = connect_from(&cluster, follower, leader);
    assert!(!reached.status.success(), "a follower reaches the leader's MariaDB: {reached:?}");
    let reached = connect_from(&cluster, leader, leader);
    assert!(reached.status.success(), "from its own machine it is reached: {reached:?}");

    let writer = Writer::start(&cluster, 0);
    writer.more(WRITES).await;
    let cut = Instant::now();
    cluster.network().connect(leader, false);
    let first = writer.first_elsewhere(leader, cut).await;
    println!("the leader was cut off: the next write {:?} later", first.at - cut);
    let late = writer.acks().into_iter().filter(|ack| ack.node == leader && ack.at > first.at);
    assert_eq!(late.count(), 0, "two leaders took writes at once");
    writer.more(WRITES).await;

    cluster.network().connect(leader, true);
    let missed = format!("SELECT COUNT(*) FROM test.ledger WHERE id = {}", first.id);
    cluster.until_value(leader, &missed, "1").await;
    writer.more(WRITES).await;
    writer.stop().await.assert_kept(&cluster).await;
    cluster.assert_no_errors(&[]);
}

/// Connects to a node's MariaDB by TCP from some node's machine: by loopback on its own, else by its
/// address in the network.
fn connect_from(cluster: &Cluster, from: usize, to: usize) -> Output {
    let host = if from == to { "127.0.0.1".to_owned() } else { cluster.network().address(to) };
    let port = cluster.database_port(to).to_string();
    let mut command = cluster.command(from, "mariadb");
    command.args(["--no-defaults", "--protocol=tcp", "--connect-timeout=3", "--user=app"]);
    command.args(["--host", &host, "--port", &port, "--execute=SELECT 1"]);
    command.env("MYSQL_PWD", crate::cluster::PASSWORD).output().expect("run mariadb")
}
