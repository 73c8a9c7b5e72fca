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
    replicate::role::{Role, RoleView},
    store::{Durability, Engine, MemoryEngine},
    tasks::Tasks,
    types::Position,
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
        let inputs = Inputs {
            role,
            began: Position::default(),
            released: log.applied(),
            applied: log.applied(),
            log: entries.clone(),
            index: Arc::new(log.index()),
            capture: Box::new(LocalCapture::new(
                capture,
                entries,
                log.index(),
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
        let alone = Self { server, log, handle, role_tx, tasks };
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
        let _ = self.role_tx.send(RoleView {
            role: Role::Leader,
            leader: Some(term.leader.clone()),
            term: Some(term),
            term_start: Some(first),
            handing_over: false,
        });
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
    alone.next_term(false).await;
    alone.becomes(DbState::NeedsMigration).await;
    assert!(!row.await.expect("ends") && !ddl.await.expect("ends"), "no OK for either");
    let status = alone.handle.status().borrow().clone();
    assert!(status.detail.contains("0-1-4"), "{status:?}");
    assert_eq!(alone.server.value("SELECT @@read_only").await, "1");
    eventually("it asks to step down", async || {
        let asked = alone.handle.step_down().borrow().clone();
        asked.is_some_and(|asked| asked.term == alone.log.term())
    })
    .await;
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
