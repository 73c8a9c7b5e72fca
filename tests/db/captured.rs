//! The controller with the real capture, over a log that releases, holds back or drops.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use mysql_async::prelude::Queryable;
use tokio::{sync::watch, task::JoinHandle};
use wolfscale::{
    db::{
        capture::CaptureSettings,
        controller::{Controller, ControllerHandle, ControllerSettings, Inputs, LocalCapture},
        ddl_fence::DbRecords,
        mariadb::{Address, FeedEndpoint},
        status::DbState,
    },
    log::entry::EntryKind,
    replicate::role::{ReleasedByLeader, Role, RoleView},
    store::{Durability, Engine, MemoryEngine},
    tasks::Tasks,
    types::{Lsn, Term},
};

use crate::{
    controlled::{Controlled, DEADLINE, eventually},
    fake_log::FakeLog,
};

/// One database that leads alone.
struct Alone {
    server: Controlled,
    log: FakeLog,
    handle: ControllerHandle,
    role_tx: watch::Sender<RoleView>,
    told_tx: watch::Sender<Option<ReleasedByLeader>>,
    tasks: Tasks,
}

impl Alone {
    async fn start() -> Self {
        let server = Controlled::configured(1);
        server.start().await;
        server
            .aside(&[
                "CREATE USER capture@localhost IDENTIFIED BY 'secret'",
                "GRANT REPLICATION SLAVE ON *.* TO capture@localhost",
                "CREATE USER app@'%'",
                "GRANT ALL ON app.* TO app@'%'",
            ])
            .await;
        let (log, tasks) = (FakeLog::start(), Tasks::default());
        let Address::Socket(socket) = server.admin().address else { unreachable!("a socket") };
        let capture = CaptureSettings {
            endpoint: (&Address::Socket(socket)).into(),
            user: "capture".into(),
            password: String::from("secret").into(),
            server_id: 4_000_000_001,
            connect_timeout: Duration::from_secs(5),
        };
        let entries = Arc::new(log.clone());
        let engine = Arc::new(MemoryEngine::new());
        let writer = engine.clone();
        let (role_tx, role) = watch::channel(RoleView::nobody());
        let (told_tx, told) = watch::channel(None);
        let inputs = Inputs {
            role,
            released_by_leader: told,
            released: log.applied(),
            applied: log.applied(),
            log: entries.clone(),
            index: Arc::new(log.index()),
            capture: Box::new(LocalCapture::new(
                capture,
                entries,
                (log.index(), log.applied()),
                log.proposer(),
                tasks.clone(),
            )),
            records: DbRecords::new(
                engine,
                Arc::new(move |batch| writer.commit(batch, Durability::Durable)),
            ),
        };
        let settings = ControllerSettings {
            admin: server.admin(),
            control: server.control(),
            wanted: server.wanted(),
            // Nobody listens there: nothing needs to be fed to a server that wrote everything.
            feed: FeedEndpoint {
                host: "127.0.0.1".into(),
                port: 9,
                user: "feed".into(),
                password: "secret".into(),
            },
            event_scheduler: false,
            start_timeout: DEADLINE,
        };
        let handle = Controller::spawn(settings, inputs, &tasks);
        let alone = Self { server, log, handle, role_tx, told_tx, tasks };
        alone.becomes(DbState::Following).await;
        alone.lead().await;
        alone.becomes(DbState::Leading).await;
        alone
    }

    /// The log's term begins: its first entry is released.
    async fn lead(&self) {
        let term = self.log.term();
        let (proposer, body) = (self.log.proposer(), Bytes::from_static(b"-"));
        let noop = proposer.propose(EntryKind::Noop, body, None).await;
        let first = noop.expect("released").first;
        self.told(&term, first);
        let _ = self.role_tx.send(RoleView {
            role: Role::Leader,
            leader: Some(term.leader.clone()),
            term: Some(term),
            term_start: Some(first),
            handing_over: false,
        });
    }

    fn told(&self, term: &Term, released: Lsn) {
        let _ = self.told_tx.send(Some(ReleasedByLeader { term: term.clone(), released }));
    }

    async fn becomes(&self, state: DbState) {
        let mut status = self.handle.status();
        let reached = tokio::time::timeout(DEADLINE, status.wait_for(|s| s.state == state)).await;
        assert!(reached.is_ok(), "not {state:?} but {:?}", self.handle.status().borrow());
    }

    async fn run(&self, sql: &str) {
        self.server.client_as("app").await.query_drop(sql).await.expect("a commit");
    }

    /// A commit that the log does not release.
    async fn run_unheard(&self, sql: &'static str) -> JoinHandle<bool> {
        self.log.close();
        let connecting = self.server.connect_as("app");
        let commit = tokio::spawn(async move { connecting.await.query_drop(sql).await.is_ok() });
        eventually("the commit waits in the log", async || self.log.waiting() == 1).await;
        commit
    }

    /// The next term begins, under the same leader.
    async fn next_term(&self, kept: bool) {
        self.log.new_term(usize::from(kept));
        self.log.open();
        self.lead().await;
    }

    /// The next term begins, under another leader.
    async fn lose_to_another(&self) {
        self.log.new_term(0);
        self.log.open();
        let (proposer, body) = (self.log.proposer(), Bytes::from_static(b"-"));
        let noop = proposer.propose(EntryKind::Noop, body, None).await.expect("released");
        let term = self.log.term();
        self.told(&term, noop.first);
        let leader = Some(term.leader.clone());
        let role = RoleView { leader, term: Some(term), ..RoleView::nobody() };
        let _ = self.role_tx.send(role);
    }

    /// That statement for the connection of capture; empty if there is none.
    async fn dump_thread(&self, statement: &str) -> String {
        let list = "SELECT MAX(id) FROM information_schema.processlist WHERE command='Binlog Dump'";
        match self.server.value(list).await.as_str() {
            "" => String::new(),
            id => format!("{statement} {id}"),
        }
    }

    async fn ids(&self) -> String {
        let rows = "SELECT GROUP_CONCAT(id ORDER BY id) FROM app.t";
        self.server.try_value(rows).await.unwrap_or_default()
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

#[tokio::test]
async fn what_waits_at_a_lost_lead_stays_if_the_log_holds_it_and_is_cut_off_if_not() {
    let alone = Alone::start().await;
    alone.run("CREATE DATABASE app").await;
    alone.run("CREATE TABLE app.t (id INT PRIMARY KEY)").await;
    alone.run("INSERT INTO app.t VALUES (1)").await;
    assert_eq!(alone.log.gtids(), ["0-1-1", "0-1-2", "0-1-3"]);
    let before = alone.server.pid();

    let kept = alone.run_unheard("INSERT INTO app.t VALUES (2)").await;
    assert_eq!(alone.ids().await, "1", "not visible before it is released");
    alone.next_term(true).await;
    eventually("it is visible", async || alone.ids().await == "1,2").await;
    alone.becomes(DbState::Leading).await;
    kept.await.expect("ends");
    assert_eq!(alone.server.pid(), before, "it was acknowledged, nothing was killed");
    eventually("it takes writes", async || alone.server.value("SELECT @@read_only").await == "0")
        .await;

    let cut = alone.run_unheard("INSERT INTO app.t VALUES (3)").await;
    alone.next_term(false).await;
    assert!(!cut.await.expect("ends"), "its client never got an OK");
    eventually("it was killed and leads again", async || {
        let status = alone.handle.status().borrow().state;
        status == DbState::Leading && alone.server.pid() != before
    })
    .await;
    assert_eq!(alone.ids().await, "1,2");
    alone.run("INSERT INTO app.t VALUES (4)").await;
    assert_eq!(alone.log.gtids().last().map(String::as_str), Some("0-1-5"), "its number is free");
}

#[tokio::test]
async fn a_lost_capture_is_resumed_in_its_term_and_nothing_is_cut_off_or_captured_twice() {
    let alone = Alone::start().await;
    alone.run("CREATE DATABASE app").await;
    alone.run("CREATE TABLE app.t (id INT PRIMARY KEY)").await;
    let before = alone.server.pid();
    let proposed = alone.run_unheard("INSERT INTO app.t VALUES (1)").await;
    alone.server.aside(&[&alone.dump_thread("KILL").await]).await;
    // These wait behind the first in the database, and capture never saw them.
    let mut unseen = Vec::new();
    for sql in ["INSERT INTO app.t VALUES (2)", "INSERT INTO app.t VALUES (3)"] {
        let connecting = alone.server.connect_as("app");
        let commit = async move { connecting.await.query_drop(sql).await.is_ok() };
        unseen.push(tokio::spawn(commit));
    }
    eventually("it waits for what is on its way", async || alone.log.waiting() == 2).await;
    alone.log.open();
    assert!(proposed.await.expect("ends"), "the log holds it, and it was acknowledged");
    for commit in unseen {
        assert!(commit.await.expect("ends"), "it was captured and acknowledged");
    }
    assert_eq!(alone.ids().await, "1,2,3");
    assert_eq!(alone.log.gtids(), ["0-1-1", "0-1-2", "0-1-3", "0-1-4", "0-1-5"], "each once");
    assert_eq!(alone.server.pid(), before, "nothing was killed");
    assert!(alone.handle.step_down().borrow().is_none(), "it leads on");
}

#[tokio::test]
async fn a_capture_that_is_lost_again_and_again_costs_the_lead() {
    let alone = Alone::start().await;
    eventually("it asks to step down", async || {
        let kill = alone.dump_thread("KILL").await;
        if !kill.is_empty() {
            alone.server.aside(&[&kill]).await;
        }
        alone.handle.step_down().borrow().is_some()
    })
    .await;
    let asked = alone.handle.step_down().borrow().clone().expect("it asked");
    assert!(asked.reason.contains("capture ended"), "{}", asked.reason);
}

#[tokio::test]
async fn a_tail_that_cannot_be_cut_off_starts_with_the_default_role_and_needs_migration() {
    let alone = Alone::start().await;
    alone.run("CREATE DATABASE app").await;
    alone.run("CREATE TABLE app.t (id INT PRIMARY KEY)").await;
    let row = alone.run_unheard("INSERT INTO app.t VALUES (1)").await;
    let connecting = alone.server.connect_as("app");
    let ddl = tokio::spawn(async move {
        connecting.await.query_drop("CREATE TABLE app.u (id INT)").await.is_ok()
    });
    eventually("both are in the binlog", async || {
        alone.server.value("SELECT @@gtid_binlog_pos").await == "0-1-4"
    })
    .await;
    alone.lose_to_another().await;
    alone.becomes(DbState::NeedsMigration).await;
    assert!(!row.await.expect("ends") && !ddl.await.expect("ends"), "no OK for either");
    let status = alone.handle.status().borrow().clone();
    assert!(status.detail.contains("0-1-4"), "{status:?}");
    assert_eq!(alone.server.value("SELECT @@read_only").await, "1");
    alone.next_term(false).await;
    eventually("it asks to step down", async || {
        let asked = alone.handle.step_down().borrow().clone();
        asked.is_some_and(|asked| asked.term == alone.log.term())
    })
    .await;
}

#[tokio::test]
async fn a_server_that_does_not_start_says_why_and_never_commits_what_nobody_acknowledged() {
    let alone = Alone::start().await;
    alone.run("CREATE DATABASE app").await;
    alone.run("CREATE TABLE app.t (id INT PRIMARY KEY)").await;
    let row = alone.run_unheard("INSERT INTO app.t VALUES (1)").await;
    alone.server.break_start("--no-such-option=1");
    alone.lose_to_another().await;
    assert!(!row.await.expect("ends"), "no OK for it");
    eventually("it is started again and again", async || {
        alone.server.error_log().matches("unknown variable 'no-such-option=1'").count() >= 4
    })
    .await;
    alone.becomes(DbState::Unreachable).await;
    let status = alone.handle.status().borrow().clone();
    assert!(status.detail.contains("unknown variable 'no-such-option=1'"), "{status:?}");

    alone.server.mend_start();
    alone.becomes(DbState::Following).await;
    assert_eq!(alone.server.value("SELECT COUNT(*) FROM app.t").await, "0", "it was cut off");
}

#[tokio::test]
async fn a_node_that_keeps_the_lead_without_a_database_fails() {
    let alone = Alone::start().await;
    alone.server.kill().await;
    eventually("the node fails", async || alone.tasks.failure().is_some()).await;
    let failure = alone.tasks.failure().expect("failed");
    assert!(failure.contains("the lead is not given up"), "{failure}");
    eventually("its database is up again, as follower", async || {
        alone.server.try_value("SELECT @@read_only").await.is_ok_and(|value| value == "1")
    })
    .await;
}
