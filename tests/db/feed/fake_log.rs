//! A log in memory, filled from a real server's binlog files, and a feed that serves it.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use wolfscale::{
    apply::Applier,
    db::{
        command::{DbCommand, Transaction},
        feed::{FeedGate, FeedHandle, FeedServer, FeedSettings},
        gtid::Gtid,
        index::{DbIndex, DbIndexer},
        protocol::event::{self, FLAG_STANDALONE, Header, kind},
    },
    log::{
        EntrySource,
        entry::{BODY_BYTES_MAX, Entry, EntryKind, Part},
    },
    store::{MemoryEngine, StoreError},
    tasks::Tasks,
    types::{ChainHash, Lsn, Term},
};

use crate::{mariadb::MariaDb, ports::Port};

pub const USER: &str = "wolf";
pub const PASSWORD: &str = "p4ss word";
pub const FEED_SERVER_ID: u32 = 4_000_000_001;
const MAGIC: &[u8] = b"\xfebin";
const IN_USE: u8 = 1;

/// Entries in memory.
#[derive(Clone, Default)]
pub struct Entries(Arc<Mutex<Vec<Arc<Entry>>>>);

impl EntrySource for Entries {
    fn read(&self, from: Lsn, to: Lsn, bytes_max: usize) -> Result<Vec<Arc<Entry>>, StoreError> {
        let entries = self.0.lock().expect("no panics");
        let mut weight = 0;
        let within = |entry: &&Arc<Entry>| entry.lsn >= from && entry.lsn <= to;
        let fits = |entry: &&Arc<Entry>| {
            let fits = weight <= bytes_max;
            weight += entry.weight();
            fits
        };
        Ok(entries.iter().filter(within).take_while(fits).cloned().collect())
    }
}

/// A log that holds what a leader's binlog does.
pub struct FakeLog {
    entries: Entries,
    state: MemoryEngine,
    applier: Applier,
    /// The next binlog file of the leader, and where in it to go on.
    read_to: (u32, usize),
    open: Option<OpenGroup>,
    format: Vec<u8>,
}

struct OpenGroup {
    gtid: Gtid,
    flags: u8,
    events: Vec<u8>,
}

impl FakeLog {
    pub fn new() -> Self {
        let (entries, state) = (Entries::default(), MemoryEngine::new());
        let machines: Vec<Box<dyn wolfscale::apply::StateMachine>> = vec![Box::new(DbIndexer)];
        let applier = Applier::open(Arc::new(entries.clone()), Arc::new(state.clone()), machines)
            .expect("opens");
        let (open, format) = (None, Vec::new());
        Self { entries, state, applier, read_to: (1, MAGIC.len()), open, format }
    }

    pub fn index(&self) -> DbIndex {
        DbIndex::new(Arc::new(self.state.clone()))
    }

    /// The newest GTID.
    pub fn tail(&self) -> Gtid {
        self.index().tail().expect("readable").expect("not empty").gtid
    }

    /// Appends what the leader has written since the last time.
    pub fn take_from(&mut self, leader: &MariaDb) {
        loop {
            let (file, mut at) = self.read_to;
            let bytes = fs::read(binlog(leader, file)).expect("binlog");
            while let Some(event) = event_at(&bytes, at) {
                at += event.len();
                self.take_event(event);
            }
            self.read_to = (file, at);
            if !binlog(leader, file + 1).exists() {
                break;
            }
            self.read_to = (file + 1, MAGIC.len());
        }
        assert!(self.open.is_none(), "the binlog ends within a group");
    }

    fn take_event(&mut self, event: &[u8]) {
        let mut event = event.to_vec();
        if event[4] == kind::FORMAT_DESCRIPTION {
            event[17] &= !IN_USE;
            if self.format.is_empty() {
                self.format = event.clone();
                self.append(&DbCommand::Format(event.into()));
            }
            return;
        }
        let header = event::checked(&event).expect("an intact binlog");
        if header.kind == kind::GTID {
            let parsed = event::parse_gtid(&header, &event).expect("GTID");
            let (gtid, flags) = (parsed.gtid, parsed.flags);
            self.open = Some(OpenGroup { gtid, flags, events: event });
            return;
        }
        let Some(open) = &mut self.open else { return };
        open.events.extend_from_slice(&event);
        let standalone = open.flags & FLAG_STANDALONE != 0;
        if event::ends_group(&header, &event, standalone).expect("readable") {
            let OpenGroup { gtid, flags, events } = self.open.take().expect("open");
            self.append(&DbCommand::Transaction(Transaction {
                gtid,
                flags,
                events: events.into(),
            }));
        }
    }

    /// A format of a server with another version takes over.
    pub fn change_format(&mut self) {
        let mut event = self.format.clone();
        event[21..21 + 50].fill(0);
        event[21..35].copy_from_slice(b"10.11.99-Maria");
        event::seal(&mut event);
        self.append(&DbCommand::Format(event.into()));
    }

    /// An entry that is none of the database's.
    pub fn append_noop(&mut self) {
        self.push(EntryKind::Noop, Part::WHOLE, &[]);
        self.apply();
    }

    fn append(&mut self, command: &DbCommand) {
        let body = command.encode();
        let parts: Vec<_> = body.chunks(BODY_BYTES_MAX).collect();
        for (index, part) in parts.iter().enumerate() {
            let last = index + 1 == parts.len();
            let index = u32::try_from(index).expect("few");
            self.push(EntryKind::Db, Part { index, last }, part);
        }
        self.apply();
    }

    fn push(&mut self, kind: EntryKind, part: Part, body: &[u8]) {
        let mut entries = self.entries.0.lock().expect("no panics");
        let lsn = Lsn(entries.len() as u64 + 1);
        entries.push(Arc::new(Entry {
            term: Term { number: 1, leader: "n1".parse().expect("valid") },
            lsn,
            kind,
            part,
            request: None,
            chain: ChainHash::default(),
            body: body.to_vec().into(),
        }));
    }

    fn apply(&mut self) {
        let end = Lsn(self.entries.0.lock().expect("no panics").len() as u64);
        while self.applier.apply_some(end).expect("applies") < end {}
    }

    /// Serves the log.
    pub async fn serve(&self, gate: Arc<dyn FeedGate>) -> Feed {
        let port = Port::free();
        let server = FeedServer::bind(FeedSettings {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port.number())),
            user: USER.to_owned(),
            password: PASSWORD.to_owned(),
            server_id: FEED_SERVER_ID,
        });
        let server = server.await.expect("bind the feed");
        let tasks = Tasks::default();
        let (source, applied) = (Arc::new(self.entries.clone()), self.applier.applied());
        let handle = server.start(self.index(), source, applied, gate, &tasks);
        Feed { tasks, handle, _port: port }
    }
}

fn binlog(leader: &MariaDb, file: u32) -> PathBuf {
    leader.data().join(format!("binlog.{file:06}"))
}

fn event_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let rest = bytes.get(at..)?;
    let header = Header::parse(rest).ok()?;
    rest.get(..header.length as usize)
}

/// A feed that serves until it is dropped.
pub struct Feed {
    tasks: Tasks,
    pub handle: FeedHandle,
    _port: Port,
}

impl Feed {
    pub fn port(&self) -> u16 {
        self.handle.local_addr.port()
    }

    /// The newest GTID that the only replica was sent.
    pub fn last_sent(&self) -> Option<Gtid> {
        let replicas = self.handle.status.borrow();
        replicas.values().next().and_then(|replica| replica.last_sent)
    }

    pub fn failure(&self) -> Option<String> {
        self.tasks.failure()
    }

    /// Ends it, and waits until its port is free.
    pub async fn stop(self) {
        self.tasks.stop();
        assert!(self.tasks.ended(Duration::from_secs(10)).await, "the feed does not end");
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}
