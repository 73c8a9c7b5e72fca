//! Two databases with their controllers, and a log that a third server stands in for: it
//! acknowledges what the leader commits (a native semi-synchronous replica), keeps it, and feeds it
//! to the follower. So the controller is tested on real servers, without our own protocol code.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::future::BoxFuture;
use mysql_async::prelude::Queryable;
use tokio::sync::watch;
use wolfscale::{
    db::{
        controller::{
            CaptureControl, CaptureEnd, CaptureError, Controller, ControllerHandle,
            ControllerSettings, GtidIndex, Inputs,
        },
        ddl_fence::DbRecords,
        gtid::Gtid,
        status::DbState,
    },
    log::{
        EntrySource,
        entry::{Entry, EntryKind, Part},
        watermark::{WatermarkSetter, watermark},
    },
    replicate::role::{ReleasedByLeader, Role, RoleView},
    store::{Durability, MemoryEngine, StoreError},
    tasks::Tasks,
    types::{ChainHash, Lsn, NodeId, Term},
};

use crate::controlled::{Controlled, DEADLINE};

/// What the log holds: its newest GTID, and from which sequence on each server wrote.
#[derive(Default)]
struct Written {
    tail: Option<Gtid>,
    reigns: Vec<(u64, u32)>,
    /// The index shows no more than this.
    shown: Option<u64>,
    term: u64,
}

/// The stand-in of the log.
pub struct LogServer {
    server: Controlled,
    written: Mutex<Written>,
    task: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl LogServer {
    pub async fn start() -> Arc<Self> {
        // Quiet unless RUST_LOG asks.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let server = Controlled::plain(9);
        let drop_in = server.wanted().drop_in;
        let options = "[mariadbd]\nserver_id=9\nlog_slave_updates=ON\nbinlog_format=ROW\n\
                       gtid_strict_mode=ON\nrpl_semi_sync_slave_enabled=ON\nskip_slave_start\n\
                       slave_net_timeout=10\nreplicate_same_server_id=0\n";
        std::fs::write(drop_in, options).expect("writes");
        server.start().await;
        server
            .aside(&[
                "CREATE USER replica@'%' IDENTIFIED BY 'secret'",
                "GRANT REPLICATION SLAVE ON *.* TO replica@'%'",
            ])
            .await;
        let log = Arc::new(Self { server, written: Mutex::default(), task: Mutex::default() });
        let watched = log.clone();
        let task = tokio::spawn(async move {
            loop {
                watched.refresh().await;
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        });
        *log.task.lock().expect("not poisoned") = Some(task);
        log
    }

    async fn refresh(&self) {
        let text = self.server.value("SELECT @@gtid_slave_pos").await;
        self.written.lock().expect("not poisoned").tail = text.parse().ok();
    }

    pub fn tail(&self) -> Option<Gtid> {
        let written = self.written.lock().expect("not poisoned");
        let tail = written.tail?;
        let sequence = tail.sequence.min(written.shown.unwrap_or(u64::MAX));
        Some(Gtid { sequence, ..tail })
    }

    /// The index shows the log up to a sequence only, as while it is received again.
    pub fn show(&self, up_to: Option<u64>) {
        self.written.lock().expect("not poisoned").shown = up_to;
    }

    /// Stops taking and acknowledging, as a leader without a quorum.
    pub async fn mute(&self) {
        self.server.aside(&["STOP SLAVE"]).await;
    }

    async fn taking(&self) {
        let mut conn = self.server.client().await;
        loop {
            let row: Option<mysql_async::Row> =
                conn.query_first("SHOW SLAVE STATUS").await.expect("reads");
            let running = row.and_then(|r| r.get::<String, _>("Slave_IO_Running"));
            if running.as_deref() == Some("Yes") {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    fn begin(&self, term: u64) {
        self.written.lock().expect("not poisoned").term = term;
    }
}

impl Drop for LogServer {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().expect("not poisoned").take() {
            task.abort();
        }
    }
}

/// The log's index, as of the last refresh.
pub struct Index(pub Arc<LogServer>);

impl GtidIndex for Index {
    fn base(&self) -> Option<Gtid> {
        None
    }

    fn tail(&self) -> Result<Option<Gtid>, StoreError> {
        Ok(self.0.tail())
    }

    fn holds(&self, gtid: Gtid) -> Result<bool, StoreError> {
        let tail = self.0.tail();
        let written = self.0.written.lock().expect("not poisoned");
        let reign = written.reigns.iter().rev().find(|(from, _)| *from <= gtid.sequence);
        let passed = tail.is_some_and(|tail| gtid.sequence <= tail.sequence);
        Ok(passed && reign.is_some_and(|(_, server)| *server == gtid.server))
    }

    fn uses(&self, _domain: u32, sequence: u64) -> Result<bool, StoreError> {
        let tail = self.0.tail().map_or(0, |tail| tail.sequence);
        Ok((1..=tail).contains(&sequence))
    }
}

/// The entry at the released watermark is always of the current term here.
struct Entries(Arc<LogServer>);

impl EntrySource for Entries {
    fn read(&self, from: Lsn, _to: Lsn, _max: usize) -> Result<Vec<Arc<Entry>>, StoreError> {
        let term = term(self.0.written.lock().expect("not poisoned").term);
        Ok(vec![Arc::new(Entry {
            term,
            lsn: from,
            kind: EntryKind::Noop,
            part: Part::WHOLE,
            request: None,
            chain: ChainHash::default(),
            body: Bytes::new(),
        })])
    }
}

/// Capture: the log's server follows the leader.
struct Following {
    log: Arc<LogServer>,
    leader: wolfscale::db::mariadb::FeedEndpoint,
    server_id: u32,
}

impl CaptureControl for Following {
    fn start(
        &mut self,
        _term: Term,
        after: Option<Gtid>,
    ) -> BoxFuture<'_, Result<(), CaptureError>> {
        Box::pin(async move {
            let from = after.map_or(1, |gtid| gtid.sequence + 1);
            self.log.written.lock().expect("not poisoned").reigns.push((from, self.server_id));
            let change = format!(
                "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={}, MASTER_USER='{}', \
                 MASTER_PASSWORD='{}', MASTER_CONNECT_RETRY=1, MASTER_USE_GTID=slave_pos",
                self.leader.port, self.leader.user, self.leader.password
            );
            self.log.server.aside(&["STOP SLAVE", &change, "START SLAVE"]).await;
            self.log.taking().await;
            Ok(())
        })
    }

    fn ack_through(&mut self, _gtid: Gtid) -> BoxFuture<'_, Result<(), CaptureError>> {
        Box::pin(async { Ok(()) }) // what the log's server has, it has acknowledged
    }

    fn stop(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn resume(&mut self, _term: Term) -> BoxFuture<'_, Result<(), CaptureError>> {
        Box::pin(async { Err(CaptureError("the server's own replica goes on by itself".into())) })
    }

    fn ended(&self) -> Option<CaptureEnd> {
        None
    }
}

/// One database with its controller.
pub struct Member {
    pub server: Controlled,
    pub handle: ControllerHandle,
    pub records: DbRecords,
    role_tx: watch::Sender<RoleView>,
    told_tx: watch::Sender<Option<ReleasedByLeader>>,
    marks: (WatermarkSetter, WatermarkSetter),
    tasks: Tasks,
}

impl Member {
    /// A fit server that runs, with its users, under a controller.
    pub async fn start(server_id: u32, log: &Arc<LogServer>) -> Self {
        let server = Controlled::configured(server_id);
        server.start().await;
        server
            .aside(&[
                "CREATE USER replica@'%' IDENTIFIED BY 'secret'",
                "GRANT REPLICATION SLAVE ON *.* TO replica@'%'",
                "CREATE USER app@'%'",
                "GRANT ALL ON app.* TO app@'%'",
            ])
            .await;
        Self::control(server, log)
    }

    /// A controller beside a server.
    pub fn control(server: Controlled, log: &Arc<LogServer>) -> Self {
        let (role_tx, role) = watch::channel(RoleView::nobody());
        let (told_tx, told) = watch::channel(None);
        let (released_setter, released) = watermark(Lsn(1));
        let (applied_setter, applied) = watermark(Lsn(1));
        let engine = Arc::new(MemoryEngine::new());
        let writer = engine.clone();
        let commit =
            move |batch| wolfscale::store::Engine::commit(&*writer, batch, Durability::Durable);
        let records = DbRecords::new(engine, Arc::new(commit));
        let capture = Following {
            log: log.clone(),
            leader: server.endpoint(),
            server_id: server.wanted().server_id,
        };
        let inputs = Inputs {
            role,
            released_by_leader: told,
            released,
            applied,
            log: Arc::new(Entries(log.clone())),
            index: Arc::new(Index(log.clone())),
            capture: Box::new(capture),
            records: records.clone(),
        };
        let settings = ControllerSettings {
            admin: server.admin(),
            control: server.control(),
            wanted: server.wanted(),
            feed: log.server.endpoint(),
            event_scheduler: true,
            start_timeout: DEADLINE,
        };
        let tasks = Tasks::default();
        let handle = Controller::spawn(settings, inputs, &tasks);
        let marks = (released_setter, applied_setter);
        Self { server, handle, records, role_tx, told_tx, marks, tasks }
    }

    pub async fn becomes(&self, state: DbState) {
        let mut status = self.handle.status();
        let reached = tokio::time::timeout(DEADLINE, status.wait_for(|s| s.state == state)).await;
        assert!(reached.is_ok(), "not {state:?} but {:?}", self.handle.status().borrow());
    }

    /// The leader of a term says that so much is released, be it here or not.
    pub fn hears(&self, number: u64, released: u64) {
        let (term, released) = (term(number), Lsn(released));
        let _ = self.told_tx.send(Some(ReleasedByLeader { term, released }));
    }

    fn set_role(&self, role: Role, number: u64, leader: &str) {
        let term = Term { number, leader: leader.parse().expect("valid") };
        let told = ReleasedByLeader { term: term.clone(), released: Lsn(number) };
        let _ = self.told_tx.send(Some(told));
        let _ = self.role_tx.send(RoleView {
            role,
            term: Some(term),
            leader: Some(leader.parse().expect("valid")),
            term_start: (role == Role::Leader).then_some(Lsn(number)),
            handing_over: false,
        });
        // The term's first entry is released and applied everywhere.
        self.marks.0.set(Lsn(number));
        self.marks.1.set(Lsn(number));
    }

    /// The newest GTID that its replica threads or its clients brought.
    pub async fn position(&self) -> Option<Gtid> {
        self.server.value("SELECT @@gtid_current_pos").await.parse().ok()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

fn term(number: u64) -> Term {
    let leader: NodeId = leader_of(number).parse().expect("valid");
    Term { number, leader }
}

/// Odd terms are the first member's.
fn leader_of(number: u64) -> &'static str {
    if number % 2 == 1 { "n1" } else { "n2" }
}

/// The term begins: its leader is told first, or last, as it happens in life.
pub fn begin(term: u64, log: &LogServer, members: [&Member; 2]) {
    log.begin(term);
    for (i, member) in members.iter().enumerate() {
        let leads = (term % 2 == 1) == (i == 0);
        let role = if leads { Role::Leader } else { Role::Follower };
        member.set_role(role, term, leader_of(term));
    }
}
