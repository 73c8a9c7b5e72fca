//! The controller against real servers: promote, demote, hand over, rejoin.

use std::{sync::Arc, time::Duration};

use mysql_async::prelude::Queryable;
use wolfscale::{
    db::{ddl_fence::Fence, ddl_gate::DdlGate, gtid::Gtid, status::DbState},
    types::Lsn,
};

use crate::{
    controlled::{Controlled, eventually},
    pair::{Index, LogServer, Member, begin},
};

async fn write(member: &Member, id: u32) {
    let mut client = member.server.client_as("app").await;
    client.query_drop(format!("INSERT INTO app.t VALUES ({id})")).await.expect("a commit");
}

/// A commit that no one acknowledges; it ends with an error, or never.
fn write_unheard(member: &Member, id: u32) -> tokio::task::JoinHandle<bool> {
    let connecting = member.server.connect_as("app");
    tokio::spawn(async move {
        let mut client = connecting.await;
        client.query_drop(format!("INSERT INTO app.t VALUES ({id})")).await.is_ok()
    })
}

async fn ids(member: &Member) -> String {
    let rows = "SELECT GROUP_CONCAT(id ORDER BY id) FROM app.t";
    member.server.try_value(rows).await.unwrap_or_default()
}

async fn waits(member: &Member) {
    eventually("the commit waits", async || {
        let mut session = member.server.db().session().await.expect("connects");
        session.waiting_commits().await.expect("reads") == 1
    })
    .await;
}

async fn both_hold(members: [&Member; 2], wanted: &str) {
    for member in members {
        eventually("both hold the same rows", async || ids(member).await == wanted).await;
    }
}

async fn pair() -> (Arc<LogServer>, Member, Member) {
    let log = LogServer::start().await;
    let (a, b) = (Member::start(1, &log).await, Member::start(2, &log).await);
    a.becomes(DbState::Following).await;
    b.becomes(DbState::Following).await;
    begin(1, &log, [&a, &b]);
    a.becomes(DbState::Leading).await;
    let mut client = a.server.client_as("app").await;
    client.query_drop("CREATE DATABASE app").await.expect("creates");
    client.query_drop("CREATE TABLE app.t (id INT PRIMARY KEY)").await.expect("creates");
    write(&a, 1).await;
    both_hold([&a, &b], "1").await;
    let written = a.server.value("SELECT @@gtid_binlog_pos").await;
    eventually("the log's index shows all of it", async || {
        log.tail().is_some_and(|tail| tail.to_string() == written)
    })
    .await;
    (log, a, b)
}

#[tokio::test]
async fn a_leader_that_is_killed_loses_what_was_not_acknowledged_and_follows() {
    let (log, a, b) = pair().await;
    assert_eq!(a.server.value("SELECT @@innodb_flush_log_at_trx_commit").await, "1");
    assert_eq!(b.server.value("SELECT @@innodb_flush_log_at_trx_commit").await, "2");
    assert_eq!(a.server.value("SELECT @@event_scheduler").await, "ON");

    log.mute().await;
    let unheard = write_unheard(&a, 99);
    waits(&a).await;
    assert_eq!(ids(&a).await, "1", "nobody sees it before the cluster has it");
    a.server.kill().await;
    begin(2, &log, [&a, &b]);
    assert!(!unheard.await.expect("ends"), "its client never got an OK");

    b.becomes(DbState::Leading).await;
    write(&b, 2).await;
    a.becomes(DbState::Following).await;
    both_hold([&a, &b], "1,2").await;
    assert_eq!(a.position().await, b.position().await);
    assert_eq!(a.server.value("SELECT @@read_only").await, "1");
}

#[tokio::test]
async fn a_graceful_hand_over_kills_nobody_and_loses_nothing() {
    let (log, a, b) = pair().await;
    let pids = (a.server.pid(), b.server.pid());

    a.handle.close_writes().await.expect("closes");
    let mut client = a.server.client_as("app").await;
    assert!(client.query_drop("INSERT INTO app.t VALUES (50)").await.is_err(), "read-only");
    begin(2, &log, [&a, &b]);
    b.becomes(DbState::Leading).await;
    a.becomes(DbState::Following).await;
    write(&b, 2).await;
    both_hold([&a, &b], "1,2").await;

    // Lost without a warning, but with nothing under way: settled without a kill, too.
    begin(3, &log, [&a, &b]);
    a.becomes(DbState::Leading).await;
    b.becomes(DbState::Following).await;
    write(&a, 3).await;
    both_hold([&a, &b], "1,2,3").await;
    assert_eq!((a.server.pid(), b.server.pid()), pids, "no database was killed");
}

#[tokio::test]
async fn writes_open_again_if_nobody_takes_over() {
    let (_log, a, _b) = pair().await;
    a.handle.close_writes().await.expect("closes");
    a.becomes(DbState::Demoting).await;
    a.becomes(DbState::Leading).await;
    write(&a, 2).await;
}

#[tokio::test]
async fn a_leader_cut_off_with_commits_under_way_is_killed_and_follows() {
    let (log, a, b) = pair().await;
    let before = a.server.pid();
    log.mute().await;
    let unheard = write_unheard(&a, 99);
    waits(&a).await;
    begin(2, &log, [&a, &b]);
    b.becomes(DbState::Leading).await;
    write(&b, 2).await;
    assert!(!unheard.await.expect("ends"), "its client never got an OK");
    a.becomes(DbState::Following).await;
    assert_ne!(a.server.pid(), before, "it was killed");
    both_hold([&a, &b], "1,2").await;
}

#[tokio::test]
async fn a_follower_that_is_killed_is_started_and_catches_up() {
    let (_log, a, b) = pair().await;
    b.server.kill().await;
    write(&a, 2).await;
    both_hold([&a, &b], "1,2").await;
    b.becomes(DbState::Following).await;
    assert!(b.handle.step_down().borrow().is_none());
}

#[tokio::test]
async fn a_leader_whose_database_dies_asks_to_step_down() {
    let (log, a, b) = pair().await;
    a.server.kill().await;
    let mut asked = a.handle.step_down();
    let asked = asked.wait_for(Option::is_some).await.expect("asks").clone().expect("some");
    assert_eq!(asked.term.number, 1);
    begin(2, &log, [&a, &b]);
    b.becomes(DbState::Leading).await;
    write(&b, 2).await;
    a.becomes(DbState::Following).await;
    both_hold([&a, &b], "1,2").await;
}

#[tokio::test]
async fn a_schema_change_that_the_log_does_not_have_needs_migration() {
    let (_log, a, b) = pair().await;
    let mut stray = b.server.client().await;
    let hangs = tokio::spawn(async move { stray.query_drop("CREATE DATABASE stray").await });
    b.becomes(DbState::NeedsMigration).await;
    let status = b.handle.status().borrow().clone();
    assert!(status.detail.contains("0-2-4"), "{status:?}");
    assert!(!status.eligible());
    eventually("it is recorded", async || b.records.needs_migration().expect("reads").is_some())
        .await;
    assert!(hangs.await.expect("ends").is_err(), "no OK for it");
    write(&a, 2).await;

    let refused = b.handle.take_back().await.expect_err("nothing was rebuilt").to_string();
    assert!(refused.contains("0-2-4") && refused.contains("RESET MASTER"), "{refused}");
    assert_eq!(b.handle.status().borrow().state, DbState::NeedsMigration);
    // It is made what a copy is: without the stray change, and without a binlog.
    b.server.aside(&["DROP DATABASE stray", "RESET MASTER"]).await;
    let taken = b.handle.take_back().await.expect("nothing speaks against it");
    assert_eq!(taken.position, "0-1-3");
    assert!(taken.reason.contains("0-2-4"), "{taken:?}");
    both_hold([&a, &b], "1,2").await;
    b.becomes(DbState::Following).await;
    assert_eq!(b.records.needs_migration().expect("reads"), None);
    assert!(b.handle.take_back().await.is_err(), "there is nothing to take back");
}

#[tokio::test]
async fn a_stray_row_is_cut_off_by_a_restart() {
    let (_log, a, b) = pair().await;
    let before = b.server.pid();
    let mut stray = b.server.client().await; // root writes in spite of read_only
    let hangs =
        tokio::spawn(async move { stray.query_drop("INSERT INTO app.t VALUES (66)").await });
    assert!(hangs.await.expect("ends").is_err(), "no OK for it");
    eventually("it was restarted", async || b.server.pid() != before).await;
    b.server.answers().await;
    b.becomes(DbState::Following).await;
    write(&a, 2).await;
    both_hold([&a, &b], "1,2").await;
}

#[tokio::test]
async fn a_database_is_not_judged_by_a_log_that_is_still_received_again() {
    let (log, a, b) = pair().await;
    // The log was lost; an entry of the term is here again, far from all that is released.
    b.hears(1, 50);
    log.show(Some(1));
    b.becomes(DbState::Starting).await;
    let mut status = b.handle.status();
    let judged = status.wait_for(|status| status.state == DbState::NeedsMigration);
    let judged = tokio::time::timeout(Duration::from_secs(3), judged).await;
    assert!(judged.is_err(), "{judged:?}");
    log.show(None);
    b.hears(1, 1);
    b.becomes(DbState::Following).await;
    write(&a, 2).await;
    both_hold([&a, &b], "1,2").await;
}

#[tokio::test]
async fn an_unclean_stop_behind_a_ddl_fence_needs_migration() {
    let (log, _a, b) = pair().await;
    let tail = log.tail().expect("rows");
    let applied = Fence::now(tail, Lsn(1));
    b.records.raise_fence(&applied).expect("records");
    eventually("a fence that was passed is lowered", async || {
        b.records.fence().expect("reads").is_none()
    })
    .await;

    let next = Gtid { sequence: tail.sequence + 1, ..tail };
    b.records.raise_fence(&Fence::now(next, Lsn(1))).expect("records");
    b.server.kill().await;
    b.becomes(DbState::NeedsMigration).await;
    assert!(b.handle.status().borrow().detail.contains(&next.to_string()));
}

#[tokio::test]
async fn a_schema_change_is_recorded_when_its_predecessors_are_applied_and_until_it_is() {
    let (log, a, b) = pair().await;
    let gate = DdlGate::new(b.server.db(), 2, Box::new(Index(log.clone())), b.records.clone());
    assert!(gate.covers(2) && !gate.covers(1), "only the local database");

    let tail = log.tail().expect("rows");
    let next = Gtid { sequence: tail.sequence + 1, ..tail };
    b.server.aside(&["STOP SLAVE SQL_THREAD"]).await; // the controller starts it again
    gate.before_ddl(next, Lsn(1)).await.expect("its predecessors are applied");
    assert_eq!(b.records.fence().expect("reads").map(|f| f.gtid), Some(next));

    let mut lowered = std::pin::pin!(gate.after_ddl(next));
    let early = tokio::time::timeout(Duration::from_millis(100), &mut lowered).await;
    assert!(early.is_err(), "it is not applied yet: {early:?}");
    let mut client = a.server.client_as("app").await;
    client.query_drop("CREATE TABLE app.u (id INT)").await.expect("creates");
    lowered.await.expect("it is applied");
    assert_eq!(b.records.fence().expect("reads"), None);
}

#[tokio::test]
async fn a_wrongly_set_server_is_misconfigured_until_it_is_set_right_and_restarted() {
    let log = LogServer::start().await;
    let server = Controlled::plain(1);
    server.start().await;
    let member = Member::control(server, &log);
    member.becomes(DbState::Misconfigured).await;
    let advice = member.handle.status().borrow().advice.clone();
    assert!(advice.iter().any(|line| line.starts_with("init_rpl_role = SLAVE")), "{advice:#?}");
    wolfscale::db::requirements::write(&member.server.wanted()).expect("writes");
    member.server.control().stop().await.expect("stops");
    // The controller finds it stopped and starts it, now with the drop-in.
    member.becomes(DbState::Following).await;
    assert!(member.handle.status().borrow().advice.is_empty());
}
