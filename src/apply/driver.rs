//! From the released log to the state machines: one thread, in order, one batch at a time.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use rkyv::{Archive, Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{
    ApplyError, Assembler, Outcome, Outcomes, StateMachine, View,
    exactly_once::{apply_session, once},
};
use crate::{
    log::{
        EntrySource,
        entry::{Entry, EntryKind},
        watermark::{Watermark, WatermarkSetter, watermark},
    },
    store::{
        Durability, Engine,
        codec::{self, Compress, Stored},
        keys,
    },
    types::{ChainHash, Lsn},
};

/// Entries per batch, in bytes.
const BATCH_BYTES: usize = 1 << 20;
/// The state store is made durable about so often; the log brings back what a crash took.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Feeds released entries to the state machines and counts what is applied.
///
/// Invariant: the state store holds exactly the effects of the entries up to `applied`, and says
/// so itself, in the same batch.
pub struct Applier {
    source: Arc<dyn EntrySource>,
    state: Arc<dyn Engine>,
    machines: HashMap<EntryKind, Box<dyn StateMachine>>,
    assembler: Assembler,
    applied: Lsn,
    chain: ChainHash,
    outcomes: Outcomes,
    setter: WatermarkSetter,
    mark: Watermark,
}

/// What the state store says of itself, as it is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StateCheck {
    /// It continues the log.
    Fits,
    /// It is ahead of the log, or of another history: set it aside and rebuild it from the log.
    Stale,
}

/// Compares a state store with the log that it was made from.
pub fn check_state(source: &dyn EntrySource, state: &dyn Engine) -> Result<StateCheck, ApplyError> {
    let applied = load(state)?;
    if applied.lsn == 0 {
        return Ok(StateCheck::Fits);
    }
    let lsn = Lsn(applied.lsn);
    let entry = source.read(lsn, lsn, 0)?.into_iter().next();
    let fits = entry.is_some_and(|entry| entry.chain.0 == applied.chain);
    Ok(if fits { StateCheck::Fits } else { StateCheck::Stale })
}

impl Applier {
    /// An applier that goes on where the state store ends; check that first ([`check_state`]).
    pub fn open(
        source: Arc<dyn EntrySource>,
        state: Arc<dyn Engine>,
        machines: Vec<Box<dyn StateMachine>>,
    ) -> Result<Self, ApplyError> {
        let stored = load(&*state)?;
        let applied = Lsn(stored.lsn);
        let (setter, mark) = watermark(applied);
        let mut applier = Self {
            source,
            state,
            machines: machines.into_iter().map(|machine| (machine.kind(), machine)).collect(),
            assembler: Assembler::default(),
            applied,
            chain: ChainHash(stored.chain),
            outcomes: Outcomes::default(),
            setter,
            mark,
        };
        applier.reopen_parts(Lsn(stored.open_since))?;
        Ok(applier)
    }

    /// How far it has come.
    pub fn applied(&self) -> Watermark {
        self.mark.clone()
    }

    /// What became of the newest commands: kept before `applied` moves.
    pub fn outcomes(&self) -> Outcomes {
        self.outcomes.clone()
    }

    /// Applies entries up to `to`, at most one batch; returns how far it has come.
    pub fn apply_some(&mut self, to: Lsn) -> Result<Lsn, ApplyError> {
        let entries = self.source.read(self.applied.next(), to, BATCH_BYTES)?;
        let Some(last) = entries.last().cloned() else { return Ok(self.applied) };
        let state = self.state.clone();
        let (mut view, mut outcomes) = (View::new(&*state), Vec::new());
        for entry in &entries {
            outcomes.extend(self.apply_entry(entry, &mut view)?);
        }
        let mut batch = view.into_batch();
        let open_since = self.assembler.open_since().map_or(0, |lsn| lsn.0);
        let applied = AppliedV1 { lsn: last.lsn.0, chain: last.chain.0, open_since };
        batch.put(keys::APPLIED, keys::APPLIED_AT, codec::encode(&applied, Compress::Never));
        self.state.commit(batch, Durability::Volatile)?;
        (self.applied, self.chain) = (last.lsn, last.chain);
        self.outcomes.keep(outcomes);
        self.setter.set(self.applied);
        Ok(self.applied)
    }

    /// Applies what is released and durable here, until it is stopped. Blocks: for a thread of its
    /// own.
    pub fn run(
        mut self,
        mut released: Watermark,
        mut durable: Watermark,
        stop: &CancellationToken,
    ) -> Result<(), ApplyError> {
        let runtime = tokio::runtime::Handle::current();
        let mut synced_at = Instant::now();
        loop {
            let next = self.applied.next();
            let ready = async {
                released.reached(next).await?;
                durable.reached(next).await
            };
            let waited = runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => None,
                    ready = ready => ready.ok(),
                }
            });
            if waited.is_none() {
                self.state.sync()?;
                return Ok(());
            }
            self.apply_some(released.at().min(durable.at()))?;
            if synced_at.elapsed() >= SYNC_EVERY {
                self.state.sync()?;
                synced_at = Instant::now();
            }
        }
    }

    /// Applies the command that an entry completes; its outcome, if somebody may ask for it.
    fn apply_entry(
        &mut self,
        entry: &Arc<Entry>,
        view: &mut View<'_>,
    ) -> Result<Option<(Lsn, Outcome)>, ApplyError> {
        let Some(command) = self.assembler.push(entry) else { return Ok(None) };
        let lsn = command.at.lsn;
        if command.kind == EntryKind::Session {
            return Ok(Some((lsn, Outcome::Session(apply_session(&command, view)?))));
        }
        let Some(machine) = self.machines.get_mut(&command.kind) else { return Ok(None) };
        let outcome = once(&command, view, |view| machine.apply(&command, view))?;
        let nobody_asks = matches!(&outcome, Outcome::Executed { result, .. } if result.is_empty());
        Ok((!nobody_asks).then_some((lsn, outcome)))
    }

    /// Takes up the parts of a command that was not complete when the state was stored.
    fn reopen_parts(&mut self, since: Lsn) -> Result<(), ApplyError> {
        let mut next = since;
        while since != Lsn::ZERO && next <= self.applied {
            let entries = self.source.read(next, self.applied, BATCH_BYTES)?;
            let Some(last) = entries.last() else { break };
            next = last.lsn.next();
            for entry in &entries {
                let complete = self.assembler.push(entry);
                debug_assert!(complete.is_none(), "only parts of one open command are read again");
            }
        }
        Ok(())
    }
}

fn load(state: &dyn Engine) -> Result<AppliedV1, ApplyError> {
    let stored = state.get(keys::APPLIED, keys::APPLIED_AT)?;
    let nothing = AppliedV1 { lsn: 0, chain: [0; 32], open_since: 0 };
    let decode = |bytes: bytes::Bytes| codec::decode(&bytes);
    Ok(stored.map_or(Ok(nothing), decode).map_err(crate::store::StoreError::from)?)
}

/// How far the state store has come, frozen.
#[derive(Archive, Serialize, Deserialize, PartialEq, Debug)]
pub struct AppliedV1 {
    /// The last applied entry.
    pub lsn: u64,
    /// Its chain hash.
    pub chain: [u8; 32],
    /// The first part of a command that is not complete at `lsn`; zero if there is none.
    pub open_since: u64,
}

impl Stored for AppliedV1 {
    const VERSION: u8 = 1;
    const NAME: &'static str = "applied position";
}
