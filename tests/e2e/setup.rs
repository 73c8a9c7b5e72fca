//! Databases that are not as they must be.

use std::fs;

use crate::cluster::{Cluster, until};

const UNHEALTHY: i32 = 3;
const WRONG: [&str; 3] =
    ["log_slave_updates = OFF", "init_rpl_role = SLAVE", "replicate_same_server_id = 1"];

#[tokio::test(flavor = "multi_thread")]
async fn a_misconfigured_server_is_named() {
    let mut cluster = Cluster::prepared(3).await;
    let wrong = 2;
    let drop_in = cluster.directory(wrong).join("conf.d/99-wolfscale.cnf");
    let text = fs::read_to_string(&drop_in).expect("drop-in");
    // MariaDB itself refuses log_slave_updates together with replicate_same_server_id.
    let text =
        text.replace("init_rpl_role=SLAVE\n", "").replace("replicate_same_server_id=1\n", "");
    fs::write(&drop_in, text.replace("log_slave_updates=OFF", "log_slave_updates=ON"))
        .expect("write the drop-in");
    // The start command must not say what the option files do not.
    let config = cluster.directory(wrong).join("wolfscale.toml");
    let text = fs::read_to_string(&config).expect("configuration");
    fs::write(&config, text.replace(", \"--init-rpl-role=SLAVE\"", "")).expect("configuration");
    (0..3).for_each(|index| cluster.start(index));

    cluster
        .until_status(wrong, "it is misconfigured", |status| {
            status["database"]["state"] == "misconfigured"
        })
        .await;
    let diagnosed = cluster.wolfctl(wrong, &["db", "diagnose"]).await;
    assert_eq!(diagnosed.status.code(), Some(UNHEALTHY), "{diagnosed:?}");
    let said = String::from_utf8_lossy(&diagnosed.stdout).into_owned();
    let findings: Vec<_> = said.lines().take_while(|line| !line.is_empty()).collect();
    assert_eq!(findings.len(), WRONG.len(), "exactly the wrong lines: {said}");
    for line in WRONG {
        assert!(findings.iter().any(|finding| finding.starts_with(line)), "{line}: {said}");
    }

    let shown = cluster.wolfctl(wrong, &["db", "configure"]).await;
    assert!(shown.status.success(), "{shown:?}");
    let now = fs::read_to_string(&drop_in).expect("drop-in");
    assert!(now.contains("log_slave_updates=ON"), "without --yes nothing is written");
    let written = cluster.wolfctl(wrong, &["db", "configure", "--yes"]).await;
    assert!(written.status.success(), "{written:?}");
    let said = String::from_utf8_lossy(&written.stdout).into_owned();
    assert!(said.contains("restart the database"), "{said}");

    // The node starts its database again.
    cluster.kill_database(wrong);
    cluster.until_follows(wrong).await;
    let sound = cluster.wolfctl(wrong, &["db", "diagnose"]).await;
    assert_eq!(sound.status.code(), Some(0), "{sound:?}");
    cluster.leader().await;
    cluster.assert_no_errors(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_start_says_why_and_starts_when_that_is_mended() {
    let cluster = Cluster::founded(3).await;
    let follower = cluster.others(cluster.leader().await)[0];
    let broken = cluster.directory(follower).join("conf.d/50-broken.cnf");
    fs::write(&broken, "[mariadbd]\nno_such_option=1\n").expect("write the option file");
    cluster.kill_database(follower);
    let why = "unknown variable 'no_such_option=1'";
    cluster
        .until_status(follower, "it says why its database does not start", |status| {
            let database = &status["database"];
            database["state"] == "unreachable" && database["detail"].to_string().contains(why)
        })
        .await;
    let shown = cluster.wolfctl(follower, &["status"]).await;
    assert_eq!(shown.status.code(), Some(UNHEALTHY), "{shown:?}");
    assert!(String::from_utf8_lossy(&shown.stdout).contains(why), "{shown:?}");
    fs::remove_file(&broken).expect("remove the option file");
    cluster.until_follows(follower).await;
    cluster.assert_no_errors(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_database_is_refused() {
    let mut cluster = Cluster::prepared(3).await;
    cluster.bootstrap(1, "CREATE DATABASE shop;\nCREATE TABLE shop.orders (id INT PRIMARY KEY);\n");
    (0..3).for_each(|index| cluster.start(index));
    cluster
        .until_status(1, "it says what its database holds", |status| {
            let notices = status["notices"].to_string();
            notices.contains("shop") && notices.contains("no GTID history")
        })
        .await;
    not_founded(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_with_another_history_is_refused() {
    let mut cluster = Cluster::prepared(3).await;
    cluster.bootstrap(1, "INSERT INTO mysql.gtid_slave_pos VALUES (0, 1, 9, 5);\n");
    (0..3).for_each(|index| cluster.start(index));
    until("a node says that the databases differ", async || {
        for index in 0..3 {
            let status = cluster.status(index).await.unwrap_or_default();
            if status["notices"].to_string().contains("0-9-5") {
                println!("{}: {}", cluster.id(index), status["notices"]);
                return true;
            }
        }
        false
    })
    .await;
    not_founded(&cluster).await;
}

/// No node leads, and no log begins.
async fn not_founded(cluster: &Cluster) {
    for index in 0..cluster.count() {
        let status = cluster.status(index).await.expect("the node answers");
        assert!(status["leader"].is_null(), "{status}");
        assert_eq!(status["appended_lsn"], 0, "{status}");
    }
    cluster.assert_no_errors(&[]);
}
