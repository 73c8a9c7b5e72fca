//! The log's writer on a real disk: group commit, and the identity kept beside it (DESIGN §2.4).
//!
//! ```text
//! submit(write) ─▶ [cut? lower the watermark first] ─▶ committer ─▶ durable ─▶ [promise? keep it] ─▶ Written
//! ```
//!
//! The watermark in the identity file follows the log by at most [`WATERMARK_EVERY`]: a store that
//! is older than that when it comes back does not vote as if it remembered. It is lowered *before*
//! entries are removed, since a crash in between would look like a loss.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ::metrics::histogram;
use tokio::sync::mpsc;

use super::{
    host::{LogWrite, LogWriter},
    replica::{HardState, Ticket},
};
use crate::{
    cluster::identity::{DurableMark, Identity, IdentityError, IdentityStore},
    log::{Committed, Committer, CommitterCounts, SubmitError},
    metrics,
    store::{Batch, Durability, Engine},
    types::{ChainHash, ClusterId, Lsn},
};

/// How far the watermark in the identity file may be behind the log.
pub const WATERMARK_EVERY: Duration = Duration::from_millis(50);

/// What the log's storage reports.
#[derive(Debug)]
pub enum StorageEvent {
    /// That write and all before it are durable.
    Written(Ticket),
    /// Fatal: a write or sync failed, so nothing later can be trusted.
    Failed(String),
}

/// Writes the log through a [`Committer`], keeping the identity in step.
pub struct LogStorage {
    committer: Committer,
    keeper: Arc<Mutex<Keeper>>,
    backlog: VecDeque<(Batch, u64)>,
    events: mpsc::UnboundedSender<StorageEvent>,
    last_ticket: u64,
}

struct Keeper {
    identity: Identity,
    store: Box<dyn IdentityStore>,
    pending: VecDeque<Pending>,
    saved_at: Instant,
    stale: bool,
    /// A write or a save failed: nothing later counts, since it would be on top of a hole.
    failed: bool,
}

struct Pending {
    ticket: u64,
    hard: Option<HardState>,
    cut_to: Option<DurableMark>,
    end: DurableMark,
    submitted_at: Instant,
}

impl LogStorage {
    /// Starts the committer of the log store.
    pub fn start(
        engine: Arc<dyn Engine>,
        store: Box<dyn IdentityStore>,
    ) -> Result<(Self, mpsc::UnboundedReceiver<StorageEvent>), StartError> {
        let identity = store.load()?;
        let keeper = Arc::new(Mutex::new(Keeper {
            identity,
            store,
            pending: VecDeque::new(),
            saved_at: Instant::now(),
            stale: false,
            failed: false,
        }));
        // Bounded by the writes that the committer's queue holds, one event a group.
        let (events, events_rx) = mpsc::unbounded_channel();
        let (kept, reports) = (keeper.clone(), events.clone());
        let committer = Committer::spawn(engine, "log-committer", move |committed| {
            // The receiver is gone only while the node stops.
            drop(reports.send(report(&kept, &committed)));
        })?;
        let storage = Self { committer, keeper, backlog: VecDeque::new(), events, last_ticket: 0 };
        Ok((storage, events_rx))
    }

    /// The node belongs to that cluster for good.
    pub fn set_cluster(&mut self, cluster: ClusterId) -> Result<(), IdentityError> {
        let mut keeper = lock(&self.keeper);
        if keeper.identity.cluster == Some(cluster) {
            return Ok(());
        }
        keeper.identity.cluster = Some(cluster);
        keeper.save()
    }

    /// What the committer has done so far.
    pub fn counts(&self) -> CommitterCounts {
        self.committer.counts()
    }

    /// Hands on what waits, and lets the watermark catch up once the log is idle.
    pub fn tick(&mut self) {
        self.drain_backlog();
        let idle = {
            let keeper = lock(&self.keeper);
            keeper.stale
                && keeper.pending.is_empty()
                && keeper.saved_at.elapsed() >= WATERMARK_EVERY
        };
        // One idle group after a write is enough; a second would take the next write's ticket.
        if idle && self.backlog.is_empty() && self.last_ticket.is_multiple_of(2) {
            // An empty group: the committer's thread saves, not this one.
            self.last_ticket += 1;
            self.queue(Batch::default(), self.last_ticket);
        }
    }

    fn queue(&mut self, batch: Batch, ticket: u64) {
        self.backlog.push_back((batch, ticket));
        self.drain_backlog();
    }

    fn drain_backlog(&mut self) {
        while let Some((batch, ticket)) = self.backlog.pop_front() {
            match self.committer.try_submit(batch, Durability::Durable, ticket) {
                Ok(()) => {}
                Err(SubmitError::Full(batch)) => {
                    self.backlog.push_front((batch, ticket));
                    return;
                }
                Err(error) => return self.fail(&error),
            }
        }
    }

    fn fail(&mut self, error: &dyn std::error::Error) {
        self.backlog.clear();
        lock(&self.keeper).failed = true;
        // The receiver is gone only while the node stops.
        drop(self.events.send(StorageEvent::Failed(format!("log store: {error}"))));
    }
}

impl LogWriter for LogStorage {
    fn submit(&mut self, write: LogWrite) {
        let mark = |(lsn, chain): (Lsn, ChainHash)| DurableMark { lsn, chain };
        let ticket = committer_ticket(write.ticket);
        self.last_ticket = ticket;
        let pending = Pending {
            ticket,
            hard: write.hard,
            cut_to: write.cut_to.map(mark),
            end: mark(write.end),
            submitted_at: Instant::now(),
        };
        let cut = {
            let mut keeper = lock(&self.keeper);
            if keeper.failed {
                return;
            }
            keeper.expect_write(pending)
        };
        match cut {
            Ok(()) => self.queue(write.batch, ticket),
            Err(error) => self.fail(&error),
        }
    }
}

/// Replica tickets are even for the committer; the odd ones between are its idle groups.
fn committer_ticket(ticket: Ticket) -> u64 {
    ticket.0 * 2
}

impl Keeper {
    fn expect_write(&mut self, pending: Pending) -> Result<(), IdentityError> {
        let lower = pending.cut_to.filter(|cut| cut.lsn < self.identity.durable.lsn);
        self.pending.push_back(pending);
        match lower {
            Some(cut) => {
                self.identity.durable = cut;
                self.save()
            }
            None => Ok(()),
        }
    }

    /// Everything up to `ticket` is durable in the log store.
    fn committed(&mut self, ticket: u64) -> Result<(), IdentityError> {
        let mut promised = false;
        self.measure(ticket);
        while self.pending.front().is_some_and(|pending| pending.ticket <= ticket) {
            let Some(done) = self.pending.pop_front() else { break };
            if let Some(hard) = done.hard {
                self.identity.promised = hard.promised;
                self.identity.accepted = hard.accepted;
                promised = true;
            }
            let cuts = self.pending.iter().filter_map(|pending| pending.cut_to);
            let lowest = cuts.min_by_key(|cut| cut.lsn).filter(|cut| cut.lsn < done.end.lsn);
            self.identity.durable = lowest.unwrap_or(done.end);
            self.stale = true;
        }
        if promised || (self.stale && self.saved_at.elapsed() >= WATERMARK_EVERY) {
            self.save()?;
        }
        Ok(())
    }

    /// Counts the group that ends with `ticket`, before it is taken from what is pending.
    fn measure(&self, ticket: u64) {
        let Some(first) = self.pending.front().filter(|first| first.ticket <= ticket) else {
            return;
        };
        histogram!(metrics::SYNC_SECONDS).record(first.submitted_at.elapsed());
        let done = self.pending.iter().take_while(|pending| pending.ticket <= ticket);
        let last = done.last().map_or(Lsn::ZERO, |pending| pending.end.lsn);
        let entries = u32::try_from(last.0.saturating_sub(self.identity.durable.lsn.0));
        histogram!(metrics::GROUP_ENTRIES).record(entries.unwrap_or(u32::MAX));
    }

    fn save(&mut self) -> Result<(), IdentityError> {
        self.store.save(&self.identity).inspect_err(|_| self.failed = true)?;
        self.saved_at = Instant::now();
        self.stale = false;
        Ok(())
    }
}

fn report(keeper: &Mutex<Keeper>, committed: &Committed) -> StorageEvent {
    let mut keeper = lock(keeper);
    if let Err(error) = &committed.result {
        keeper.failed = true;
        return StorageEvent::Failed(format!("log store: {error}"));
    }
    if keeper.failed {
        return StorageEvent::Failed("an earlier write of the log's storage failed".into());
    }
    match keeper.committed(committed.up_to_ticket) {
        Ok(()) => StorageEvent::Written(Ticket(committed.up_to_ticket / 2)),
        Err(error) => StorageEvent::Failed(error.to_string()),
    }
}

fn lock(keeper: &Mutex<Keeper>) -> MutexGuard<'_, Keeper> {
    keeper.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fatal: the log's storage does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The identity is not readable.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The system gives no thread.
    #[error("start the committer's thread: {0}")]
    Thread(#[from] std::io::Error),
}

#[cfg(test)]
mod tests;
