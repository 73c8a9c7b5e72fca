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
    /// [`COMMITS_WAITING_MAX`] batches wait already.
    #[error("{COMMITS_WAITING_MAX} batches wait for the disk already")]
    Full,
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
                TrySendError::Full(_) => SubmitError::Full,
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
