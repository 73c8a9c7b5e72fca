//! The replica's hands: carries out its effects on the log, the transport and the watermarks.
//!
//! Synchronous and without a clock of its own, so that a simulation runs this very code; the task
//! that feeds it from channels is `driver.rs`.

use std::{collections::BTreeMap, sync::Arc};

use ::metrics::{counter, histogram};
use tokio::sync::{oneshot, watch};
use tracing::{error, info, warn};

use super::{
    message::{Append, Envelope, Fetched, Message, Run},
    propose::{Proposal, ProposeError, Released},
    replica::{
        ChangeRefused, CommittedV1, Effect, Entries, HardState, ReadTicket, Replica, Ticket, Write,
    },
    role::{ReleasedByLeader, RoleView},
    transport::Transport,
};
use crate::{
    clock::Moment,
    cluster::change::Change,
    log::{
        Draft, EntrySource, Log, LogError, LogReader,
        entry::{BODY_BYTES_MAX, Part},
        watermark::{Watermark, WatermarkSetter, watermark},
    },
    metrics,
    store::{
        Batch, StoreError,
        codec::{self, Compress},
        keys,
    },
    types::{ChainHash, Incarnation, Lsn, NodeId, Position, Term},
};

/// The largest command, in bytes.
pub const COMMAND_BYTES_MAX: usize = 1 << 30;
/// The most bytes of proposed commands that may wait for their release.
pub const WAITING_BYTES_MAX: usize = 1 << 30;
/// About how many bytes of entries travel in one message.
const MESSAGE_BYTES: usize = 1 << 20;

/// One write on its way to the log store.
#[derive(Debug)]
pub struct LogWrite {
    /// Reported back by [`Host::written`].
    pub ticket: Ticket,
    /// The changes of the log store.
    pub batch: Batch,
    /// The promise to be kept also outside the log store (DESIGN §2.4), before it is reported.
    pub hard: Option<HardState>,
    /// Where the log is cut first, if it is: the durable watermark (§2.4) must be lowered to there
    /// before, lest a crash in between looks like a loss.
    pub cut_to: Option<(Lsn, ChainHash)>,
    /// The end of the log after this write.
    pub end: (Lsn, ChainHash),
}

/// Makes writes durable, in order, and reports each to [`Host::written`].
pub trait LogWriter: Send {
    /// Takes a write; does not wait for it.
    fn submit(&mut self, write: LogWrite);
}

/// The readable sides of the watermarks.
#[derive(Clone, Debug)]
pub struct Watermarks {
    /// Held, perhaps not yet on disk.
    pub appended: Watermark,
    /// On disk.
    pub durable: Watermark,
    /// Decided by the cluster.
    pub committed: Watermark,
    /// Shown to the outside.
    pub released: Watermark,
}

/// The replica with its log and its connections.
pub struct Host<W> {
    id: NodeId,
    incarnation: Incarnation,
    replica: Replica,
    log: Log,
    reader: LogReader,
    writer: W,
    transport: Arc<dyn Transport>,
    waiting: BTreeMap<Lsn, Waiting>,
    waiting_bytes: usize,
    reads: BTreeMap<ReadTicket, oneshot::Sender<Option<Lsn>>>,
    committed_stored: Lsn,
    setters: Setters,
    marks: Watermarks,
    role: watch::Sender<RoleView>,
    released_by_leader: watch::Sender<Option<ReleasedByLeader>>,
    notice: watch::Sender<Option<String>>,
    fatal: Option<String>,
}

/// A proposal that waits for its release, under the LSN of its last entry.
struct Waiting {
    term: Term,
    first: Lsn,
    bytes: usize,
    since: Moment,
    answer: oneshot::Sender<Result<Released, ProposeError>>,
}

struct Setters {
    appended: WatermarkSetter,
    durable: WatermarkSetter,
    committed: WatermarkSetter,
    released: WatermarkSetter,
}

impl<W: LogWriter> Host<W> {
    /// A host of `replica`, which must have been started from `log`.
    pub fn new(
        (id, incarnation): (NodeId, Incarnation),
        replica: Replica,
        log: Log,
        writer: W,
        transport: Arc<dyn Transport>,
    ) -> Self {
        let last = log.shape().last_lsn();
        let (appended, appended_mark) = watermark(last);
        let (durable, durable_mark) = watermark(last);
        let (committed, committed_mark) = watermark(replica.committed());
        let (released, released_mark) = watermark(replica.released());
        Self {
            id,
            incarnation,
            committed_stored: replica.committed(),
            reader: log.reader(),
            replica,
            log,
            writer,
            transport,
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            reads: BTreeMap::new(),
            setters: Setters { appended, durable, committed, released },
            marks: Watermarks {
                appended: appended_mark,
                durable: durable_mark,
                committed: committed_mark,
                released: released_mark,
            },
            role: watch::channel(RoleView::nobody()).0,
            released_by_leader: watch::channel(None).0,
            notice: watch::channel(None).0,
            fatal: None,
        }
    }

    /// A message arrived.
    pub fn receive(&mut self, envelope: Envelope, now: Moment) {
        if let Err(error) = self.check(&envelope.message) {
            match error {
                LogError::Unlinked(lsn) => {
                    warn!(from = %envelope.from, %lsn, "dropped entries that are not linked");
                }
                other => self.fail(format!("entries from {}: {other}", envelope.from)),
            }
            return;
        }
        self.replica.step(envelope, now);
        self.settle(now);
    }

    /// Time passed.
    pub fn tick(&mut self, now: Moment) {
        self.replica.tick(now);
        self.settle(now);
        let released = self.replica.released_by_leader();
        self.released_by_leader.send_if_modified(|told| {
            let changed = *told != released;
            *told = released;
            changed
        });
    }

    /// The write of that ticket and all before it are durable.
    pub fn written(&mut self, ticket: Ticket, now: Moment) {
        self.replica.written(ticket, now);
        let durable = self.replica.durable().lsn;
        self.log.set_durable(durable);
        self.setters.durable.set(durable);
        self.settle(now);
    }

    /// Takes a command. Call [`Host::settle`] after the last one of a group.
    pub fn propose(&mut self, proposal: Proposal, now: Moment) {
        match self.order(&proposal) {
            Ok((term, first, last)) => {
                let bytes = proposal.body.len();
                self.waiting_bytes += bytes;
                let waiting = Waiting { term, first, bytes, since: now, answer: proposal.answer };
                self.waiting.insert(last, waiting);
            }
            // The proposer may have gone; then nobody needs the answer.
            Err(error) => drop(proposal.answer.send(Err(error))),
        }
    }

    /// Orders a change of the membership. Call [`Host::settle`] after it.
    pub fn change(
        &mut self,
        change: &Change,
        answer: oneshot::Sender<Result<Released, ProposeError>>,
        now: Moment,
    ) {
        let view = self.replica.role_view();
        let ordered = match self.replica.change(change) {
            Err(ChangeRefused::NotLeader) => Err(ProposeError::NotLeader { leader: view.leader }),
            Err(refused) => Err(refused.into()),
            Ok(lsn) => view.term.map(|term| (term, lsn)).ok_or(ProposeError::Indeterminate),
        };
        match ordered {
            Ok((term, lsn)) => {
                info!(?change, %lsn, "the membership changes");
                let waiting = Waiting { term, first: lsn, bytes: 0, since: now, answer };
                self.waiting.insert(lsn, waiting);
            }
            // Whoever asked may have gone; then nobody needs the answer.
            Err(error) => drop(answer.send(Err(error))),
        }
    }

    /// Up to where a linearizable read must see; `None` if this node does not lead, or loses the
    /// lead before a quorum has confirmed it.
    pub fn read_index(&mut self, answer: oneshot::Sender<Option<Lsn>>, now: Moment) {
        match self.replica.ask_read_index(now) {
            Some(ticket) => drop(self.reads.insert(ticket, answer)),
            // Whoever asked may have gone; then nobody needs the answer.
            None => drop(answer.send(None)),
        }
        self.settle(now);
    }

    /// Carries out what the replica wants, until it wants nothing more.
    pub fn settle(&mut self, now: Moment) {
        for effect in self.replica.take_effects(now) {
            if self.fatal.is_some() {
                return;
            }
            if let Err(error) = self.carry_out(effect, now) {
                self.fail(error.to_string());
            }
        }
        for (ticket, index) in self.replica.take_read_answers() {
            // Whoever asked may have gone; then nobody needs the answer.
            let _gone = self.reads.remove(&ticket).map(|answer| answer.send(index));
        }
    }

    /// The replica, for its status.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The replica, to tell it what it cannot hear by messages.
    pub fn replica_mut(&mut self) -> &mut Replica {
        &mut self.replica
    }

    /// The writer of the log.
    pub fn writer_mut(&mut self) -> &mut W {
        &mut self.writer
    }

    /// The node stops: nobody gets another answer from here.
    pub fn stop(&mut self) {
        self.answer_all(&ProposeError::Indeterminate);
    }

    /// A reader of the log for other threads.
    pub fn reader(&self) -> LogReader {
        self.reader.clone()
    }

    /// The watermarks.
    pub fn watermarks(&self) -> Watermarks {
        self.marks.clone()
    }

    /// Leadership, as it changes.
    pub fn role(&self) -> watch::Receiver<RoleView> {
        self.role.subscribe()
    }

    /// How far the leader says that its log is released, as of the last tick.
    pub fn released_by_leader(&self) -> watch::Receiver<Option<ReleasedByLeader>> {
        self.released_by_leader.subscribe()
    }

    /// What an operator should know about the cluster's formation.
    pub fn notice(&self) -> watch::Receiver<Option<String>> {
        self.notice.subscribe()
    }

    /// Why the node must stop, if it must.
    pub fn fatal(&self) -> Option<&str> {
        self.fatal.as_deref()
    }

    /// The node must not go on.
    pub fn fail(&mut self, what: String) {
        error!(what, "the replica stops");
        self.fatal.get_or_insert(what);
        self.answer_all(&ProposeError::Indeterminate);
    }

    fn check(&self, message: &Message) -> Result<(), LogError> {
        match message {
            Message::Append(m) => self.log.check_run(&m.previous, m.run.chain, &m.run.entries),
            Message::Fetched(Fetched { after, result: Ok(run), .. }) => {
                self.log.check_run(after, run.chain, &run.entries)
            }
            _ => Ok(()),
        }
    }

    fn order(&mut self, proposal: &Proposal) -> Result<(Term, Lsn, Lsn), ProposeError> {
        let view = self.replica.role_view();
        let not_leader = ProposeError::NotLeader { leader: view.leader.clone() };
        let Some(term) = view.term.clone().filter(|_| view.leads() && !view.handing_over) else {
            return Err(not_leader);
        };
        if proposal.only_in.as_ref().is_some_and(|only| *only != term) {
            return Err(ProposeError::TermOver);
        }
        let bytes = proposal.body.len();
        if bytes > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes, max: COMMAND_BYTES_MAX });
        }
        if self.waiting_bytes > 0 && self.waiting_bytes + bytes > WAITING_BYTES_MAX {
            return Err(ProposeError::Overloaded);
        }
        let drafts = split(proposal, &term);
        let count = drafts.len() as u64;
        let first = self.replica.propose(drafts).ok_or(not_leader)?;
        Ok((term, first, Lsn(first.0 + count - 1)))
    }

    fn carry_out(&mut self, effect: Effect, now: Moment) -> Result<(), StoreError> {
        match effect {
            Effect::Write(write) => self.write(write)?,
            Effect::Send(to, message) => self.send(&to, message),
            Effect::SendEntries { to, term, previous, last, committed, released } => {
                self.send_entries(&to, &term, previous, last, (committed, released))?;
            }
            Effect::SendFetched { to, term, after } => self.send_fetched(&to, term, after)?,
            Effect::Committed(lsn) => self.setters.committed.set(lsn),
            Effect::Released(lsn) => self.release(lsn, now),
            Effect::Role(view) => self.role_changed(view),
            Effect::Notice(what) => {
                warn!(what, "notice");
                self.notice.send_replace(Some(what));
            }
            Effect::Fatal(what) => self.fail(what),
        }
        Ok(())
    }

    fn write(&mut self, write: Write) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        if let Some(from) = write.truncate_from {
            info!(%from, last = %self.log.shape().last(), "removing entries that were not committed");
            self.log.truncate_from(from, &mut batch)?;
        }
        let cut_to =
            write.truncate_from.map(|_| (self.log.shape().last_lsn(), self.log.last_chain()));
        match write.entries {
            Entries::None => {}
            Entries::Own(drafts) => drop(self.log.append_drafts(drafts, &mut batch)),
            Entries::Received(entries) => self.log.append_received(&entries, &mut batch),
        }
        if let Some(hard) = &write.hard {
            batch.put(keys::LOG_META, keys::HARD_STATE, hard.encode());
        }
        if self.replica.committed() > self.committed_stored {
            self.committed_stored = self.replica.committed();
            let committed = CommittedV1 { lsn: self.committed_stored.0 };
            let committed = codec::encode(&committed, Compress::Never);
            batch.put(keys::LOG_META, keys::COMMITTED, committed);
        }
        let end = (self.log.shape().last_lsn(), self.log.last_chain());
        self.setters.appended.set(end.0);
        self.writer.submit(LogWrite { ticket: write.ticket, batch, hard: write.hard, cut_to, end });
        Ok(())
    }

    fn send(&self, to: &NodeId, message: Message) {
        let envelope = Envelope {
            from: self.id.clone(),
            incarnation: self.incarnation,
            lineage: [0; 16],
            message,
        };
        self.transport.send(to, envelope);
    }

    fn send_entries(
        &self,
        to: &NodeId,
        term: &Term,
        mut previous: Position,
        last: Lsn,
        (committed, released): (Lsn, Lsn),
    ) -> Result<(), StoreError> {
        loop {
            let run = self.run_after(previous.lsn, last)?;
            let next = run.entries.last().map(|entry| entry.position());
            let append = Append { term: term.clone(), previous, run, committed, released };
            self.send(to, Message::Append(append));
            match next {
                Some(next) if next.lsn < last => previous = next,
                _ => return Ok(()),
            }
        }
    }

    fn send_fetched(&self, to: &NodeId, term: Term, after: Position) -> Result<(), StoreError> {
        let last = self.log.shape().last();
        let run = self.run_after(after.lsn, last.lsn)?;
        self.send(to, Message::Fetched(Fetched { term, after, result: Ok(run), last }));
        Ok(())
    }

    fn run_after(&self, previous: Lsn, last: Lsn) -> Result<Run, StoreError> {
        let entries = self.reader.read(previous.next(), last, MESSAGE_BYTES)?;
        Ok(Run { chain: self.log.chain_at(previous)?, entries })
    }

    fn release(&mut self, released: Lsn, now: Moment) {
        self.setters.released.set(released);
        while let Some(first) = self.waiting.first_entry() {
            let last = *first.key();
            if last > released {
                return;
            }
            let waiting = first.remove();
            self.waiting_bytes -= waiting.bytes;
            histogram!(metrics::COMMIT_SECONDS).record(now.since(waiting.since));
            let same = self.log.shape().term_at(last) == Some(&waiting.term);
            let answer = if same {
                let position = Position { term: Some(waiting.term), lsn: last };
                Ok(Released { position, first: waiting.first, forced: false })
            } else {
                Err(ProposeError::TermOver)
            };
            // The proposer may have gone; then nobody needs the answer.
            drop(waiting.answer.send(answer));
        }
    }

    fn role_changed(&mut self, view: RoleView) {
        info!(role = ?view.role, term = ?view.term, leader = ?view.leader, "leadership");
        if !view.leads() {
            self.answer_all(&ProposeError::Indeterminate);
        }
        if view.leader.is_some() {
            counter!(metrics::LEADER_CHANGES).increment(1);
            self.notice.send_if_modified(|notice| notice.take().is_some());
        }
        self.role.send_replace(view);
    }

    fn answer_all(&mut self, error: &ProposeError) {
        self.waiting_bytes = 0;
        for (_, waiting) in std::mem::take(&mut self.waiting) {
            // The proposer may have gone; then nobody needs the answer.
            drop(waiting.answer.send(Err(error.clone())));
        }
    }
}

/// One draft, or as many parts as a large command needs.
fn split(proposal: &Proposal, term: &Term) -> Vec<Draft> {
    let draft = |part, body| Draft {
        term: term.clone(),
        kind: proposal.kind,
        part,
        request: proposal.request,
        body,
    };
    let bytes = proposal.body.len();
    if bytes <= BODY_BYTES_MAX {
        return vec![draft(Part::WHOLE, proposal.body.clone())];
    }
    let count = bytes.div_ceil(BODY_BYTES_MAX);
    (0..count)
        .map(|index| {
            let from = index * BODY_BYTES_MAX;
            let body = proposal.body.slice(from..bytes.min(from + BODY_BYTES_MAX));
            let index_u32 = u32::try_from(index).expect("commands stay below COMMAND_BYTES_MAX");
            draft(Part { index: index_u32, last: index + 1 == count }, body)
        })
        .collect()
}
