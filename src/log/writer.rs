//! Group commit: one thread a database drains a bounded queue into one durable commit at a time.
//!
//! ```text
//! submit(batch, ticket) ─▶ queue ─▶ [thread] merge what waits ─▶ Engine::commit ─▶ done(up_to_ticket)
//! ```
//!
//! While one fdatasync runs, the next group gathers, so that the disk and not the number of
//! writers sets the pace. Order is kept: a ticket is done when it and everything before it is.
//! After a failed commit everything later fails too, without being tried: it would be on top of
//! something that may not be there.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread::{self, JoinHandle},
};

use crate::store::{Batch, Change, Durability, Engine, StoreError, check_values};

/// How many batches may wait for the thread; the submitter of one more waits itself.
pub const COMMITS_WAITING_MAX: usize = 1024;
/// A group is closed once its keys and values weigh this much, in bytes.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// A group is done, well or badly.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Every ticket up to this one, and after the previous group's, had this result.
    pub up_to_ticket: u64,
    /// `Ok`: committed, and durable if any of the group asked for it. `Err` is fatal, see
    /// [`StoreError::WriteFailed`].
    pub result: Result<(), Arc<StoreError>>,
}

/// Why a batch was not queued: it did not happen, and will not.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// One of its values is too large.
    #[error(transparent)]
    Rejected(StoreError),
    /// [`COMMITS_WAITING_MAX`] batches wait already; the batch comes back.
    #[error("{COMMITS_WAITING_MAX} batches wait for the disk already")]
    Full(Batch),
    /// The committer's thread is gone: it panicked.
    #[error("the committer has ended")]
    Ended,
}

/// What a committer has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CommitterCounts {
    /// Groups committed.
    pub groups: u64,
    /// Of those, the ones that were made durable.
    pub durable_groups: u64,
    /// Batches in them.
    pub batches: u64,
    /// Changes in them.
    pub changes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    groups: AtomicU64,
    durable_groups: AtomicU64,
    batches: AtomicU64,
    changes: AtomicU64,
}

#[derive(Debug)]
struct Request {
    batch: Batch,
    durability: Durability,
    ticket: u64,
}

/// The committer of one database. Dropped, it commits what waits, then ends its thread.
#[derive(Debug)]
pub struct Committer {
    /// `None` only while it is dropped.
    requests_tx: Option<SyncSender<Request>>,
    /// Tickets enter the queue in the order of this lock.
    last_ticket: Mutex<u64>,
    counters: Arc<Counters>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    /// Starts the thread `name`. It calls `done` after each group, which should be short: the next
    /// group waits for it.
    pub fn spawn(
        engine: Arc<dyn Engine>,
        name: &str,
        done: impl Fn(Committed) + Send + 'static,
    ) -> std::io::Result<Committer> {
        let (requests_tx, requests_rx) = mpsc::sync_channel(COMMITS_WAITING_MAX);
        let counters = Arc::new(Counters::default());
        let counted = counters.clone();
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(&*engine, &requests_rx, &counted, done))?;
        Ok(Committer {
            requests_tx: Some(requests_tx),
            last_ticket: Mutex::new(0),
            counters,
            thread: Some(thread),
        })
    }

    /// Queues a batch. Tickets must grow. Blocks while the queue is full, so a caller on an async
    /// worker bounds what it has under way, or uses [`Committer::try_submit`].
    pub fn submit(
        &self,
        batch: Batch,
        durability: Durability,
        ticket: u64,
    ) -> Result<(), SubmitError> {
        self.queue(Request { batch, durability, ticket }, |requests_tx, request| {
            requests_tx.send(request).map_err(|_| SubmitError::Ended)
        })
    }

    /// Queues a batch if there is room for it.
    pub fn try_submit(
        &self,
        batch: Batch,
        durability: Durability,
        ticket: u64,
    ) -> Result<(), SubmitError> {
        self.queue(Request { batch, durability, ticket }, |requests_tx, request| {
            requests_tx.try_send(request).map_err(|e| match e {
                TrySendError::Full(request) => SubmitError::Full(request.batch),
                TrySendError::Disconnected(_) => SubmitError::Ended,
            })
        })
    }

    /// What it has done so far.
    pub fn counts(&self) -> CommitterCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CommitterCounts {
            groups: read(&self.counters.groups),
            durable_groups: read(&self.counters.durable_groups),
            batches: read(&self.counters.batches),
            changes: read(&self.counters.changes),
        }
    }

    fn queue(
        &self,
        request: Request,
        send: impl FnOnce(&SyncSender<Request>, Request) -> Result<(), SubmitError>,
    ) -> Result<(), SubmitError> {
        // One bad batch must not take its group with it.
        check_values(&request.batch).map_err(SubmitError::Rejected)?;
        let mut last_ticket = self.last_ticket.lock().unwrap_or_else(PoisonError::into_inner);
        let ticket = request.ticket;
        assert!(ticket > *last_ticket, "tickets grow: {ticket} after {last_ticket}");
        send(self.requests_tx.as_ref().ok_or(SubmitError::Ended)?, request)?;
        *last_ticket = ticket;
        Ok(())
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.requests_tx = None;
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
        {
            // Its panic was reported when it happened, and to submitters as `Ended`.
            let _panicked = thread.join();
        }
    }
}

/// The requests that go into one commit.
struct Group {
    batch: Batch,
    durability: Durability,
    up_to_ticket: u64,
    batches: u64,
}

fn run(
    engine: &dyn Engine,
    requests_rx: &Receiver<Request>,
    counters: &Counters,
    done: impl Fn(Committed),
) {
    let mut failure: Option<Arc<StoreError>> = None;
    while let Ok(first) = requests_rx.recv() {
        let group = gather(first, requests_rx);
        let up_to_ticket = group.up_to_ticket;
        if failure.is_none() {
            failure = commit(engine, group, counters).err().map(Arc::new);
        }
        done(Committed { up_to_ticket, result: failure.clone().map_or(Ok(()), Err) });
    }
}

fn gather(first: Request, requests_rx: &Receiver<Request>) -> Group {
    let mut bytes = weight(&first.batch);
    let mut group = Group {
        batch: first.batch,
        durability: first.durability,
        up_to_ticket: first.ticket,
        batches: 1,
    };
    while bytes < GROUP_BYTES_MAX {
        let Ok(next) = requests_rx.try_recv() else { break };
        bytes += weight(&next.batch);
        group.batch.extend(next.batch);
        if next.durability == Durability::Durable {
            group.durability = Durability::Durable;
        }
        group.up_to_ticket = next.ticket;
        group.batches += 1;
    }
    group
}

fn commit(engine: &dyn Engine, group: Group, counters: &Counters) -> Result<(), StoreError> {
    let changes = group.batch.0.len() as u64;
    engine.commit(group.batch, group.durability)?;
    counters.groups.fetch_add(1, Ordering::Relaxed);
    counters.batches.fetch_add(group.batches, Ordering::Relaxed);
    counters.changes.fetch_add(changes, Ordering::Relaxed);
    if group.durability == Durability::Durable {
        counters.durable_groups.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn weight(batch: &Batch) -> usize {
    let weights = batch.0.iter().map(|change| match change {
        Change::Put(_, key, value) => key.len() + value.len(),
        Change::Delete(_, key) => key.len(),
        Change::DeleteRange(_, from, to) => from.len() + to.len(),
    });
    weights.sum()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::{MemoryEngine, Space, SyncFault, VALUE_BYTES_MAX};

    const SPACE: Space = Space(1);
    const DEADLINE: Duration = Duration::from_secs(10);

    fn put(key: u64) -> Batch {
        let mut batch = Batch::default();
        batch.put(SPACE, key.to_be_bytes(), vec![1]);
        batch
    }

    fn committer(engine: &Arc<dyn Engine>) -> (Committer, Receiver<Committed>) {
        let (done_tx, done_rx) = mpsc::channel();
        let done = move |committed| done_tx.send(committed).expect("the test listens");
        (Committer::spawn(engine.clone(), "committer", done).expect("spawns"), done_rx)
    }

    /// Waits until `ticket` is done; asserts that tickets come in order.
    fn done_up_to(done_rx: &Receiver<Committed>, ticket: u64) -> Committed {
        let mut last = 0;
        loop {
            let committed = done_rx.recv_timeout(DEADLINE).expect("is done in time");
            assert!(committed.up_to_ticket > last, "{committed:?} after {last}");
            last = committed.up_to_ticket;
            if last >= ticket {
                assert_eq!(last, ticket);
                return committed;
            }
        }
    }

    /// Lets commits through one by one, so that a test knows what waits meanwhile.
    struct Gated {
        inner: MemoryEngine,
        gate_rx: Mutex<Receiver<()>>,
        entered_tx: Mutex<mpsc::Sender<()>>,
    }

    impl Engine for Gated {
        fn get(&self, space: Space, key: &[u8]) -> Result<Option<bytes::Bytes>, StoreError> {
            self.inner.get(space, key)
        }
        fn scan(
            &self,
            space: Space,
            from: &[u8],
            to: &[u8],
            direction: crate::store::Direction,
            limit: usize,
        ) -> Result<crate::store::Rows, StoreError> {
            self.inner.scan(space, from, to, direction, limit)
        }
        fn commit(&self, batch: Batch, durability: Durability) -> Result<(), StoreError> {
            self.entered_tx.lock().expect("no panic").send(()).expect("the test listens");
            self.gate_rx.lock().expect("no panic").recv_timeout(DEADLINE).expect("is let in");
            self.inner.commit(batch, durability)
        }
        fn sync(&self) -> Result<(), StoreError> {
            self.inner.sync()
        }
        fn snapshot(&self, to: &std::path::Path) -> Result<(), StoreError> {
            self.inner.snapshot(to)
        }
        fn reclaim(&self) -> Result<crate::store::Reclaimed, StoreError> {
            self.inner.reclaim()
        }
    }

    fn gated(inner: &MemoryEngine) -> (Arc<dyn Engine>, mpsc::Sender<()>, Receiver<()>) {
        let (gate_tx, gate_rx) = mpsc::channel();
        let (entered_tx, entered_rx) = mpsc::channel();
        let engine = Gated {
            inner: inner.clone(),
            gate_rx: Mutex::new(gate_rx),
            entered_tx: Mutex::new(entered_tx),
        };
        (Arc::new(engine), gate_tx, entered_rx)
    }

    #[test]
    fn what_waits_goes_into_one_durable_commit() {
        let memory = MemoryEngine::new();
        let (engine, gate_tx, entered_rx) = gated(&memory);
        let (committer, done_rx) = committer(&engine);
        committer.submit(put(1), Durability::Volatile, 1).expect("queues");
        entered_rx.recv_timeout(DEADLINE).expect("the first commit runs");
        for ticket in 2..=100 {
            let durability = match ticket {
                50 => Durability::Durable,
                _ => Durability::Volatile,
            };
            committer.submit(put(ticket), durability, ticket).expect("queues");
        }
        gate_tx.send(()).expect("runs");
        gate_tx.send(()).expect("runs");
        done_up_to(&done_rx, 1).result.expect("commits");
        done_up_to(&done_rx, 100).result.expect("commits");
        let counts = CommitterCounts { groups: 2, durable_groups: 1, batches: 100, changes: 100 };
        assert_eq!(committer.counts(), counts);
        assert_eq!(memory.sync_count(), 1, "one group wanted to be durable");
        memory.power_cut();
        assert!(memory.get(SPACE, &100u64.to_be_bytes()).expect("reads").is_some());
    }

    #[test]
    fn after_a_failure_everything_fails_untried() {
        for (fault, survives) in [(SyncFault::Lost, false), (SyncFault::Done, true)] {
            let memory = MemoryEngine::new();
            let engine: Arc<dyn Engine> = Arc::new(memory.clone());
            let (committer, done_rx) = committer(&engine);
            committer.submit(put(1), Durability::Durable, 1).expect("queues");
            done_up_to(&done_rx, 1).result.expect("commits");
            memory.fail_next_sync(fault);
            for ticket in [2, 3] {
                committer.submit(put(ticket), Durability::Durable, ticket).expect("queues");
                let error = done_up_to(&done_rx, ticket).result.expect_err("fails");
                assert!(matches!(*error, StoreError::WriteFailed { .. }), "{error}");
            }
            memory.power_cut();
            committer.submit(put(4), Durability::Durable, 4).expect("queues");
            done_up_to(&done_rx, 4).result.expect_err("fails though the disk would work again");
            let there = |key: u64| memory.get(SPACE, &key.to_be_bytes()).expect("reads").is_some();
            assert_eq!([1, 2, 3, 4].map(there), [true, survives, false, false]);
        }
    }

    #[test]
    fn a_value_that_is_too_large_is_refused_alone() {
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
        let (committer, done_rx) = committer(&engine);
        let mut large = Batch::default();
        large.put(SPACE, [1], vec![0; VALUE_BYTES_MAX + 1]);
        let refused = committer.submit(large, Durability::Durable, 1);
        assert!(matches!(refused, Err(SubmitError::Rejected(StoreError::ValueTooLarge { .. }))));
        committer.submit(put(1), Durability::Durable, 2).expect("queues");
        done_up_to(&done_rx, 2).result.expect("commits");
    }

    #[test]
    fn the_queue_is_bounded_and_drained_at_the_end() {
        let memory = MemoryEngine::new();
        let (engine, gate_tx, entered_rx) = gated(&memory);
        let (committer, done_rx) = committer(&engine);
        committer.submit(put(1), Durability::Volatile, 1).expect("queues");
        entered_rx.recv_timeout(DEADLINE).expect("the first commit runs");
        let last = 1 + COMMITS_WAITING_MAX as u64;
        for ticket in 2..=last {
            committer.try_submit(put(ticket), Durability::Volatile, ticket).expect("has room");
        }
        let full = committer.try_submit(put(last + 1), Durability::Volatile, last + 1);
        assert!(matches!(full, Err(SubmitError::Full(_))), "{full:?}");
        gate_tx.send(()).expect("runs");
        gate_tx.send(()).expect("runs");
        drop(committer);
        done_up_to(&done_rx, last).result.expect("commits");
        assert!(done_rx.recv().is_err(), "the thread has ended");
        assert!(memory.get(SPACE, &last.to_be_bytes()).expect("reads").is_some());
    }
}
