//! The order of what is kept: engine, identity and report, each against a failure of another.

use std::thread;

use super::*;
use crate::{
    cluster::identity::{MemoryIdentity, SaveFault},
    store::{MemoryEngine, Space, SyncFault},
    types::{Incarnation, NodeId, Term},
};

const SPACE: Space = Space(1);
const DEADLINE: Duration = Duration::from_secs(10);

struct Disk {
    engine: MemoryEngine,
    identity: MemoryIdentity,
    storage: LogStorage,
    events: mpsc::UnboundedReceiver<StorageEvent>,
}

fn node() -> NodeId {
    "n1".parse().expect("valid")
}

fn disk() -> Disk {
    let engine = MemoryEngine::new();
    let identity = MemoryIdentity::new(Identity::new(node(), Incarnation(1)));
    let (storage, events) =
        LogStorage::start(Arc::new(engine.clone()), Box::new(identity.clone())).expect("starts");
    Disk { engine, identity, storage, events }
}

fn mark(lsn: u64) -> (Lsn, ChainHash) {
    (Lsn(lsn), ChainHash([u8::try_from(lsn).expect("small"); 32]))
}

fn durable(lsn: u64) -> DurableMark {
    let (lsn, chain) = mark(lsn);
    DurableMark { lsn, chain }
}

fn promise(number: u64) -> HardState {
    let term = Term { number, leader: node() };
    HardState { promised: Some(term.clone()), accepted: Some(term) }
}

/// The write of that ticket puts a row under it; the log ends at `end` then.
fn write(ticket: u64, end: u64) -> LogWrite {
    let mut batch = Batch::default();
    batch.put(SPACE, ticket.to_be_bytes(), vec![1]);
    LogWrite { ticket: Ticket(ticket), batch, hard: None, cut_to: None, end: mark(end) }
}

fn holds(engine: &MemoryEngine, ticket: u64) -> bool {
    engine.get(SPACE, &ticket.to_be_bytes()).expect("reads").is_some()
}

impl Disk {
    fn kept(&self) -> Identity {
        self.identity.load().expect("loads")
    }

    /// Submits it and waits until it is reported.
    fn written(&mut self, write: LogWrite) {
        let ticket = write.ticket;
        self.storage.submit(write);
        match self.events.blocking_recv() {
            Some(StorageEvent::Written(done)) => assert_eq!(done, ticket),
            other => panic!("{other:?}"),
        }
    }

    /// Ends the storage; what it had not reported yet.
    fn ended(self) -> (Vec<StorageEvent>, MemoryEngine) {
        let Self { engine, storage, mut events, .. } = self;
        drop(storage);
        let rest = std::iter::from_fn(|| events.blocking_recv()).collect();
        (rest, engine)
    }

    /// Submits it and waits until its failure is reported.
    fn fails(&mut self, write: LogWrite) {
        self.storage.submit(write);
        let event = self.events.blocking_recv();
        assert!(matches!(event, Some(StorageEvent::Failed(_))), "{event:?}");
    }

    /// Ends it and asserts that nothing was reported written any more.
    fn only_failures(self) -> MemoryEngine {
        let (rest, engine) = self.ended();
        assert!(rest.iter().all(|e| matches!(e, StorageEvent::Failed(_))), "{rest:?}");
        engine
    }
}

fn keeper(identity: &MemoryIdentity) -> Keeper {
    Keeper {
        identity: identity.load().expect("loads"),
        store: Box::new(identity.clone()),
        pending: VecDeque::new(),
        saved_at: Instant::now(),
        stale: false,
        failed: false,
    }
}

fn pending(ticket: u64, cut_to: Option<u64>, end: u64) -> Pending {
    Pending {
        ticket,
        hard: None,
        cut_to: cut_to.map(durable),
        end: durable(end),
        submitted_at: Instant::now(),
    }
}

#[test]
fn a_promise_is_in_the_identity_before_it_is_reported() {
    let mut disk = disk();
    for number in 1..20 {
        disk.written(LogWrite { hard: Some(promise(number)), ..write(number, 1) });
        disk.identity.power_cut();
        assert_eq!(disk.kept().promised, promise(number).promised);
        assert_eq!(disk.kept().accepted, promise(number).accepted);
    }
}

#[test]
fn a_promise_that_is_not_kept_is_not_reported_and_nothing_after_it() {
    for fault in [SaveFault::Lost, SaveFault::Done] {
        let mut disk = disk();
        disk.written(write(1, 1));
        disk.identity.fail_next_save(fault);
        disk.fails(LogWrite { hard: Some(promise(3)), ..write(2, 2) });
        disk.storage.submit(write(3, 3));
        disk.only_failures();
    }
}

#[test]
fn after_a_failed_sync_nothing_is_reported_written() {
    for fault in [SyncFault::Lost, SyncFault::Done] {
        let mut disk = disk();
        disk.written(write(1, 1));
        disk.engine.fail_next_sync(fault);
        disk.fails(LogWrite { hard: Some(promise(3)), ..write(2, 2) });
        disk.storage.submit(write(3, 3));
        let identity = disk.identity.clone();
        let engine = disk.only_failures();
        engine.power_cut();
        assert!(!holds(&engine, 3));
        let kept = identity.load().expect("loads");
        assert_eq!(kept.promised, None, "a promise is kept after the log has it");
    }
}

#[test]
fn the_watermark_is_lowered_before_the_log_is_cut() {
    let mut disk = disk();
    disk.written(LogWrite { hard: Some(promise(1)), ..write(1, 10) });
    assert_eq!(disk.kept().durable, durable(10));
    // The engine fails, so that only what was saved before its commit can be there.
    disk.engine.fail_next_sync(SyncFault::Lost);
    disk.fails(LogWrite { cut_to: Some(mark(5)), ..write(2, 6) });
    let identity = disk.identity.clone();
    disk.only_failures();
    identity.power_cut();
    assert_eq!(identity.load().expect("loads").durable, durable(5));
}

#[test]
fn without_a_lowered_watermark_the_log_is_not_cut() {
    let mut disk = disk();
    disk.written(LogWrite { hard: Some(promise(1)), ..write(1, 10) });
    disk.identity.fail_next_save(SaveFault::Lost);
    disk.fails(LogWrite { cut_to: Some(mark(5)), ..write(2, 6) });
    disk.storage.submit(write(3, 7));
    let engine = disk.only_failures();
    assert_eq!([1, 2, 3].map(|ticket| holds(&engine, ticket)), [true, false, false]);
}

#[test]
fn earlier_writes_do_not_raise_the_watermark_above_a_cut_that_waits() {
    let identity = MemoryIdentity::new(Identity::new(node(), Incarnation(1)));
    let mut keeper = keeper(&identity);
    keeper.expect_write(pending(2, None, 10)).expect("saves");
    keeper.expect_write(pending(4, None, 12)).expect("saves");
    keeper.expect_write(pending(6, Some(5), 6)).expect("saves");
    keeper.expect_write(pending(8, None, 8)).expect("saves");
    for (ticket, expected) in [(2, 5), (4, 5), (6, 6), (8, 8)] {
        keeper.committed(ticket).expect("saves");
        assert_eq!(keeper.identity.durable, durable(expected), "after {ticket}");
    }
}

#[test]
fn the_watermark_follows_once_the_log_is_idle() {
    let mut disk = disk();
    disk.written(write(1, 7));
    let started = Instant::now();
    while disk.kept().durable != durable(7) {
        assert!(started.elapsed() < DEADLINE, "{:?}", disk.kept().durable);
        disk.storage.tick();
        thread::yield_now();
    }
    // Many ticks came while the idle group was under way; none took the next write's place.
    disk.storage.submit(write(2, 8));
    let (rest, engine) = disk.ended();
    assert!(holds(&engine, 2));
    let tickets = rest.iter().map(|event| match event {
        StorageEvent::Written(ticket) => ticket.0,
        StorageEvent::Failed(what) => panic!("{what}"),
    });
    let tickets: Vec<_> = tickets.collect();
    assert!(matches!(tickets[..], [1, 2] | [2]), "{tickets:?}");
}
