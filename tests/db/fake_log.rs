//! A log of one node in memory: it orders proposals, splits them, and releases when it may.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use wolfscale::{
    apply::{Assembler, Command, StateMachine, View},
    db::{
        command::DbCommand,
        index::{DbIndex, DbIndexer},
    },
    log::{
        EntrySource,
        entry::{BODY_BYTES_MAX, Entry, EntryKind, Part},
        watermark::{Watermark, WatermarkSetter, watermark},
    },
    replicate::propose::{Proposal, ProposeError, Proposer, Released},
    store::{Durability, Engine, MemoryEngine, StoreError},
    types::{ChainHash, Lsn, Term},
};

type Answer = oneshot::Sender<Result<Released, ProposeError>>;

/// The log. Clones are the same log.
#[derive(Clone)]
pub struct FakeLog {
    inner: Arc<Mutex<Inner>>,
    applied: Watermark,
    proposer: Proposer,
}

struct Inner {
    term: Term,
    entries: Vec<Arc<Entry>>,
    waiting: VecDeque<(Released, Answer)>,
    /// Releases what comes at once.
    open: bool,
    assembler: Assembler,
    engine: MemoryEngine,
    applied_tx: WatermarkSetter,
    applied: usize,
    commands: Vec<Command>,
}

impl FakeLog {
    /// An empty log in term 1, which releases at once.
    pub fn start() -> Self {
        let (proposer, proposals_rx) = Proposer::channel();
        let (applied_tx, applied) = watermark(Lsn::ZERO);
        let inner = Inner {
            term: term(1),
            entries: Vec::new(),
            waiting: VecDeque::new(),
            open: true,
            assembler: Assembler::default(),
            engine: MemoryEngine::new(),
            applied_tx,
            applied: 0,
            commands: Vec::new(),
        };
        let log = Self { inner: Arc::new(Mutex::new(inner)), applied, proposer };
        tokio::spawn(take(log.inner.clone(), proposals_rx));
        log
    }

    /// Where capture proposes.
    pub fn proposer(&self) -> Proposer {
        self.proposer.clone()
    }

    /// The current term.
    pub fn term(&self) -> Term {
        self.lock().term.clone()
    }

    /// How far it is applied.
    pub fn applied(&self) -> Watermark {
        self.applied.clone()
    }

    /// The index of what is applied.
    pub fn index(&self) -> DbIndex {
        DbIndex::new(Arc::new(self.lock().engine.clone()))
    }

    /// From now on nothing is released.
    pub fn close(&self) {
        self.lock().open = false;
    }

    /// Releases what waits, and what comes.
    pub fn open(&self) {
        let mut inner = self.lock();
        inner.open = true;
        inner.release();
    }

    /// How many commands wait to be released.
    pub fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// A new term starts: what waits is answered as indeterminate. The first `kept` commands of it
    /// stay in the log, and are released there; the others are cut off.
    pub fn new_term(&self, kept: usize) {
        let mut inner = self.lock();
        inner.term = term(inner.term.number + 1);
        let end = kept.checked_sub(1).map(|last| inner.waiting[last].0.position.lsn.0 as usize);
        let end = end.unwrap_or(inner.applied);
        for (_, answer) in std::mem::take(&mut inner.waiting) {
            let _ = answer.send(Err(ProposeError::Indeterminate));
        }
        inner.entries.truncate(end);
        inner.apply();
    }

    /// The released commands of the database, in order.
    pub fn commands(&self) -> Vec<DbCommand> {
        let commands = self.lock().commands.clone();
        commands.iter().map(|c| DbCommand::decode(&c.body).expect("sealed by capture")).collect()
    }

    /// The GTIDs of the released transactions, in order.
    pub fn gtids(&self) -> Vec<String> {
        let gtid = |command: DbCommand| match command {
            DbCommand::Transaction(transaction) => Some(transaction.gtid.to_string()),
            DbCommand::Format(_) => None,
        };
        self.commands().into_iter().filter_map(gtid).collect()
    }

    /// The newest format in it.
    pub fn format(&self) -> Option<Bytes> {
        let format = |command: DbCommand| match command {
            DbCommand::Format(event) => Some(event),
            DbCommand::Transaction(_) => None,
        };
        self.commands().into_iter().rev().find_map(format)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EntrySource for FakeLog {
    fn read(&self, from: Lsn, to: Lsn, bytes_max: usize) -> Result<Vec<Arc<Entry>>, StoreError> {
        let inner = self.lock();
        let mut bytes = 0;
        let held = inner.entries.iter().skip_while(|e| e.lsn < from).take_while(|e| e.lsn <= to);
        let fits = held.take_while(|entry| {
            let first = bytes == 0;
            bytes += entry.weight();
            first || bytes <= bytes_max
        });
        Ok(fits.cloned().collect())
    }
}

impl Inner {
    fn propose(&mut self, proposal: Proposal) {
        if proposal.only_in.as_ref().is_some_and(|term| *term != self.term) {
            let _ = proposal.answer.send(Err(ProposeError::TermOver));
            return;
        }
        let first = Lsn(self.entries.len() as u64 + 1);
        let parts: Vec<Bytes> =
            proposal.body.chunks(BODY_BYTES_MAX).map(Bytes::copy_from_slice).collect();
        let count = parts.len();
        for (index, body) in parts.into_iter().enumerate() {
            let part = Part { index: index as u32, last: index + 1 == count };
            self.append(proposal.kind, part, body);
        }
        let position = self.entries.last().expect("bodies are not empty").position();
        self.waiting.push_back((Released { position, first, forced: false }, proposal.answer));
        if self.open {
            self.release();
        }
    }

    fn append(&mut self, kind: EntryKind, part: Part, body: Bytes) {
        let mut entry = Entry {
            term: self.term.clone(),
            lsn: Lsn(self.entries.len() as u64 + 1),
            kind,
            part,
            request: None,
            chain: ChainHash::default(),
            body,
        };
        let before = self.entries.last().map(|e| e.chain).unwrap_or_default();
        entry.chain = entry.chain_after(before);
        self.entries.push(Arc::new(entry));
    }

    fn release(&mut self) {
        self.apply();
        for (released, answer) in std::mem::take(&mut self.waiting) {
            let _ = answer.send(Ok(released));
        }
    }

    fn apply(&mut self) {
        let engine = self.engine.clone();
        let mut view = View::new(&engine);
        for entry in &self.entries[self.applied..] {
            let command = self.assembler.push(entry);
            if let Some(command) = command.filter(|c| c.kind == EntryKind::Db) {
                DbIndexer.apply(&command, &mut view).expect("applies");
                self.commands.push(command);
            }
        }
        self.engine.commit(view.into_batch(), Durability::Volatile).expect("memory does not fail");
        self.applied = self.entries.len();
        self.applied_tx.set(Lsn(self.applied as u64));
    }
}

async fn take(inner: Arc<Mutex<Inner>>, mut proposals_rx: mpsc::Receiver<Proposal>) {
    while let Some(proposal) = proposals_rx.recv().await {
        inner.lock().unwrap_or_else(PoisonError::into_inner).propose(proposal);
    }
}

fn term(number: u64) -> Term {
    Term { number, leader: "n1".parse().expect("valid") }
}
