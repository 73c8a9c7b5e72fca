//! A database that holds what the cluster does not is rebuilt as docs/operations.md says.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use mysql_async::prelude::Queryable;

use crate::{
    cluster::{Cluster, PASSWORD, until},
    load::Writer,
};

const WRITES: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn a_database_with_a_stray_change_is_rebuilt_from_a_follower_and_follows() {
    let cluster = Cluster::founded(3).await;
    let writer = Writer::start(&cluster, 0);
    writer.more(WRITES).await;
    let leader = cluster.leader().await;
    let [source, broken] = cluster.others(leader)[..] else { panic!("three nodes") };

    let mut stray = cluster.connect_as_admin(broken).await.expect("connect");
    let hangs = tokio::spawn(async move {
        stray.query_drop("CREATE TABLE test.stray (id INT PRIMARY KEY)").await
    });
    cluster
        .until_status(broken, "it must be rebuilt, and how", |status| {
            let database = &status["database"];
            database["state"] == "needs_migration"
                && database["advice"].to_string().contains("wolfctl db rebuilt")
        })
        .await;
    assert!(hangs.await.expect("ends").is_err(), "no OK for it");
    let refused = cluster.wolfctl(broken, &["db", "rebuilt"]).await;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && why.contains("RESET MASTER"), "{refused:?}");

    cluster.kill_database(broken);
    writer.more(WRITES).await;
    copy_database(&cluster, source, broken);
    let early = cluster.wolfctl(broken, &["db", "rebuilt"]).await;
    let why = String::from_utf8_lossy(&early.stderr).into_owned();
    assert!(!early.status.success() && why.contains("start the copy first"), "{early:?}");
    start_database(&cluster, broken).await;
    let taken = cluster.wolfctl(broken, &["db", "rebuilt"]).await;
    assert!(taken.status.success(), "{taken:?}");
    println!("{}", String::from_utf8_lossy(&taken.stdout));

    cluster.until_follows(broken).await;
    writer.more(WRITES).await;
    writer.stop().await.assert_kept(&cluster).await;
    cluster.until_equal(&[0, 1, 2]).await;
    cluster.assert_no_errors(&[]);
}

/// The recipe: a backup of a follower takes the place of the data directory.
fn copy_database(cluster: &Cluster, from: usize, to: usize) {
    let (source, target) = (cluster.directory(from), cluster.directory(to));
    let copy = target.join("copy");
    run(Command::new("mariadb-backup")
        .arg(format!("--defaults-file={}", source.join("my.cnf").display()))
        .args(["--backup", "--user=wolfscale", &format!("--password={PASSWORD}")])
        .arg(format!("--socket={}", source.join("run/db.sock").display()))
        .arg(target_dir(&copy)));
    run(Command::new("mariadb-backup").arg("--prepare").arg(target_dir(&copy)));
    fs::rename(target.join("db"), target.join("db.aside")).expect("set the old data aside");
    run(Command::new("mariadb-backup")
        .arg("--copy-back")
        .arg(target_dir(&copy))
        .arg(format!("--datadir={}", target.join("db").display())));
    run(Command::new("chown").args(["-R", "mysql:mysql"]).arg(target.join("db")));
}

fn target_dir(copy: &Path) -> String {
    format!("--target-dir={}", copy.display())
}

/// As an operator would; the node does not, before it has taken the database back.
async fn start_database(cluster: &Cluster, index: usize) {
    let script = cluster.directory(index).join("db-start");
    let mut server = cluster.command(index, "sh");
    server.args(["-c", "\"$0\" --init-rpl-role=SLAVE &"]).arg(script);
    run(server.stdout(Stdio::null()).stderr(Stdio::null()));
    until("the copy answers", async || cluster.connect_as_admin(index).await.is_ok()).await;
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
}
