//! The log on one node: appended in memory at once, on disk by the committer's next group.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError, RwLock},
};

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};

use super::{
    EntrySource,
    entry::{Entry, EntryKind, Part},
    shape::Shape,
};
use crate::{
    store::{
        Batch, Direction, Durability, Engine, StoreError,
        codec::{self, CodecError, Compress, Stored},
        keys,
    },
    types::{ChainHash, Lsn, NodeId, Position, RequestId, Term},
};

/// How much of the newest entries is kept in memory, beyond those not yet durable.
const TAIL_BYTES_MAX: usize = 64 << 20;
/// How many entries at the end are verified (checksum, order, chain) when a log is opened.
const VERIFY_ENTRIES: u64 = 100_000;
/// How many configuration entries a log may hold until old ones are trimmed.
const CONFIGURATIONS_MAX: usize = 1 << 20;
/// Rows per read of the engine.
const SCAN_ROWS: usize = 256;

/// An entry that has its place, but not yet its hash.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Draft {
    /// The reign that orders it.
    pub term: Term,
    /// What the body is.
    pub kind: EntryKind,
    /// Which part of its command it holds.
    pub part: Part,
    /// Makes a retried request happen once.
    pub request: Option<RequestId>,
    /// The sealed command, or a part of it.
    pub body: Bytes,
}

/// What opening a log found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovery {
    /// Entries verified at the end.
    pub verified: u64,
    /// The log ends before this entry, since it or its link to the one before is damaged. What
    /// followed is left out; the node may no longer vote as if it remembered (DESIGN §2.4).
    pub damaged: Option<(Lsn, String)>,
}

/// Why a log does not open, or a run of entries does not fit it.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The table of terms does not describe a log.
    #[error("the log's table of terms is damaged: set the log store aside and restart")]
    Terms,
    /// Fatal: two nodes hold different histories under one position.
    #[error("entry {at} follows another history here: chain {own} here, {theirs} there")]
    Chain {
        /// The position.
        at: Position,
        /// Hash here.
        own: ChainHash,
        /// Hash there.
        theirs: ChainHash,
    },
    /// An entry of a run is not linked to the one before it.
    #[error("entry {0} is not linked to the one before it")]
    Unlinked(Lsn),
}

/// The log of one node. One owner changes it; [`Log::reader`] gives shared readers.
///
/// Invariants: LSNs are contiguous from 1; terms never descend; each entry's chain hash covers the
/// one before it; whatever is not yet durable is in the tail.
pub struct Log {
    shape: Shape,
    last_chain: ChainHash,
    durable: Lsn,
    reader: LogReader,
}

/// Reads the log from any thread.
#[derive(Clone)]
pub struct LogReader {
    engine: Arc<dyn Engine>,
    tail: Arc<RwLock<Tail>>,
}

#[derive(Default)]
struct Tail {
    last: Lsn,
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
}

impl Log {
    /// Opens the log in `engine`, verifying its end.
    pub fn open(engine: Arc<dyn Engine>) -> Result<(Self, Recovery), LogError> {
        let end = engine.scan(keys::ENTRIES, &[], &[0xff; 9], Direction::Backward, 1)?;
        let last = end.first().and_then(|(key, _)| keys::parse_lsn(key)).unwrap_or(Lsn::ZERO);
        let tail = Arc::new(RwLock::new(Tail { last, ..Tail::default() }));
        let reader = LogReader { engine, tail };
        let (kept, chain, recovery) = reader.verify_end(last)?;
        if recovery.damaged.is_some() {
            reader.cut_after(kept, last)?;
        }
        let shape = Shape::new(reader.runs()?, kept).ok_or(LogError::Terms)?;
        Ok((Self { shape, last_chain: chain, durable: kept, reader }, recovery))
    }

    /// Which terms its entries have.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The chain hash of the last entry.
    pub fn last_chain(&self) -> ChainHash {
        self.last_chain
    }

    /// The last entry known to be on disk.
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// A reader for other threads.
    pub fn reader(&self) -> LogReader {
        self.reader.clone()
    }

    /// The chain hash at an LSN that the log holds.
    pub fn chain_at(&self, lsn: Lsn) -> Result<ChainHash, StoreError> {
        if lsn == self.shape.last_lsn() {
            return Ok(self.last_chain);
        }
        self.reader.chain_at(lsn)
    }

    /// Checks that a received run is linked in itself and, where this log holds `previous`, to
    /// the history here.
    pub fn check_run(
        &self,
        previous: &Position,
        chain: ChainHash,
        entries: &[Arc<Entry>],
    ) -> Result<(), LogError> {
        if self.shape.holds(previous) {
            let own = self.chain_at(previous.lsn)?;
            if own != chain {
                return Err(LogError::Chain { at: previous.clone(), own, theirs: chain });
            }
        }
        let mut before = (previous.lsn, chain);
        for entry in entries {
            if entry.lsn != before.0.next() || entry.chain_after(before.1) != entry.chain {
                return Err(LogError::Unlinked(entry.lsn));
            }
            before = (entry.lsn, entry.chain);
        }
        Ok(())
    }

    /// Appends new entries, and returns them with their LSNs and hashes. The changes for the
    /// engine go into `batch`.
    pub fn append_drafts(&mut self, drafts: Vec<Draft>, batch: &mut Batch) -> Vec<Arc<Entry>> {
        let mut entries = Vec::with_capacity(drafts.len());
        for draft in drafts {
            let mut entry = Entry {
                term: draft.term,
                lsn: self.shape.last_lsn().next(),
                kind: draft.kind,
                part: draft.part,
                request: draft.request,
                chain: ChainHash::default(),
                body: draft.body,
            };
            entry.chain = entry.chain_after(self.last_chain);
            let entry = Arc::new(entry);
            self.push(&entry, batch);
            entries.push(entry);
        }
        entries
    }

    /// Appends received entries; they must continue this log (checked by [`Log::check_run`]).
    pub fn append_received(&mut self, entries: &[Arc<Entry>], batch: &mut Batch) {
        for entry in entries {
            assert_eq!(entry.lsn, self.shape.last_lsn().next(), "received entries must continue");
            self.push(entry, batch);
        }
    }

    /// Removes the entries from `lsn` on. What is released never comes here: the replica asserts
    /// that.
    pub fn truncate_from(&mut self, lsn: Lsn, batch: &mut Batch) -> Result<(), StoreError> {
        let last = self.shape.last_lsn();
        if lsn > last {
            return Ok(());
        }
        let chain = self.reader.chain_at(lsn.previous())?;
        batch.delete_range(keys::ENTRIES, keys::lsn(lsn), keys::lsn(last.next()));
        batch.delete_range(keys::TERM_RUNS, keys::lsn(lsn), keys::lsn(last.next()));
        batch.delete_range(keys::CONFIGURATIONS, keys::lsn(lsn), keys::lsn(last.next()));
        self.shape.truncate_from(lsn);
        self.last_chain = chain;
        self.durable = self.durable.min(self.shape.last_lsn());
        self.reader.write_tail().truncate_from(lsn);
        Ok(())
    }

    /// Everything up to `lsn` is on disk.
    pub fn set_durable(&mut self, lsn: Lsn) {
        self.durable = self.durable.max(lsn.min(self.shape.last_lsn()));
        self.reader.write_tail().shrink(self.durable);
    }

    fn push(&mut self, entry: &Arc<Entry>, batch: &mut Batch) {
        if self.shape.term_at(self.shape.last_lsn()) != Some(&entry.term) {
            let run = TermRunV1 {
                number: entry.term.number,
                leader: entry.term.leader.as_str().to_owned(),
                lineage: [0; 16],
            };
            batch.put(keys::TERM_RUNS, keys::lsn(entry.lsn), codec::encode(&run, Compress::Never));
        }
        if matches!(entry.kind, EntryKind::Config | EntryKind::Fork) {
            batch.put(keys::CONFIGURATIONS, keys::lsn(entry.lsn), Bytes::new());
        }
        batch.put(keys::ENTRIES, keys::lsn(entry.lsn), entry.encode());
        self.shape.push(&entry.term);
        self.last_chain = entry.chain;
        self.reader.write_tail().push(entry.clone());
    }
}

impl LogReader {
    /// The entry at `lsn`, if the log holds it.
    pub fn entry(&self, lsn: Lsn) -> Result<Option<Arc<Entry>>, StoreError> {
        Ok(self.read(lsn, lsn, 0)?.into_iter().next())
    }

    /// The LSN of the last entry.
    pub fn last(&self) -> Lsn {
        self.read_tail().last
    }

    /// The configuration and fork entries of the log, oldest first.
    pub fn configurations(&self) -> Result<Vec<Arc<Entry>>, StoreError> {
        let to = keys::lsn(self.last().next());
        let rows = self.engine.scan(
            keys::CONFIGURATIONS,
            &keys::lsn(Lsn(1)),
            &to,
            Direction::Forward,
            CONFIGURATIONS_MAX,
        )?;
        let mut entries = Vec::with_capacity(rows.len());
        for lsn in rows.iter().filter_map(|(key, _)| keys::parse_lsn(key)) {
            entries.extend(self.entry(lsn)?);
        }
        Ok(entries)
    }

    fn chain_at(&self, lsn: Lsn) -> Result<ChainHash, StoreError> {
        if lsn == Lsn::ZERO {
            return Ok(ChainHash::default());
        }
        let entry = self.entry(lsn)?;
        Ok(entry.expect("asked only for what the log holds").chain)
    }

    fn runs(&self) -> Result<Vec<(Lsn, Term)>, LogError> {
        let mut runs = Vec::new();
        let mut from = keys::lsn(Lsn(1)).to_vec();
        loop {
            let rows = self.engine.scan(
                keys::TERM_RUNS,
                &from,
                &[0xff; 9],
                Direction::Forward,
                SCAN_ROWS,
            )?;
            let Some((end, _)) = rows.last() else { return Ok(runs) };
            from = [&end[..], &[0]].concat();
            for (key, value) in &rows {
                let run: TermRunV1 = codec::decode(value).map_err(StoreError::from)?;
                let leader: NodeId = run.leader.parse().map_err(|_| LogError::Terms)?;
                let first = keys::parse_lsn(key).ok_or(LogError::Terms)?;
                runs.push((first, Term { number: run.number, leader }));
            }
        }
    }

    /// Verifies the last entries up to `last`; the last good LSN, its chain and what was found.
    fn verify_end(&self, last: Lsn) -> Result<(Lsn, ChainHash, Recovery), LogError> {
        let mut recovery = Recovery::default();
        let first = Lsn(last.0.saturating_sub(VERIFY_ENTRIES).max(1));
        let mut before: Option<Arc<Entry>> = None;
        let mut lsn = first;
        while lsn <= last {
            let rows = self.engine.scan(
                keys::ENTRIES,
                &keys::lsn(lsn),
                &keys::lsn(Lsn(lsn.0.saturating_add(SCAN_ROWS as u64))),
                Direction::Forward,
                SCAN_ROWS,
            )?;
            for (key, value) in &rows {
                match verified(before.as_deref(), lsn, key, value) {
                    Ok(entry) => before = Some(Arc::new(entry)),
                    Err(what) => {
                        recovery.damaged = Some((lsn, what));
                        return Ok((
                            lsn.previous(),
                            before
                                .map_or_else(|| self.chain_at(lsn.previous()), |e| Ok(e.chain))?,
                            recovery,
                        ));
                    }
                }
                recovery.verified += 1;
                lsn = lsn.next();
            }
            if rows.is_empty() {
                recovery.damaged = Some((lsn, "the entry is missing".into()));
                break;
            }
        }
        let kept = before.as_ref().map_or(Lsn::ZERO, |entry| entry.lsn);
        Ok((kept, before.map_or(ChainHash::default(), |entry| entry.chain), recovery))
    }

    /// Removes what follows the last good entry, so that it is not taken for a log again.
    fn cut_after(&self, kept: Lsn, last: Lsn) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        batch.delete_range(keys::ENTRIES, keys::lsn(kept.next()), keys::lsn(last.next()));
        batch.delete_range(keys::TERM_RUNS, keys::lsn(kept.next()), keys::lsn(last.next()));
        batch.delete_range(keys::CONFIGURATIONS, keys::lsn(kept.next()), keys::lsn(last.next()));
        self.engine.commit(batch, Durability::Durable)?;
        self.write_tail().last = kept;
        Ok(())
    }

    fn read_tail(&self) -> std::sync::RwLockReadGuard<'_, Tail> {
        self.tail.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_tail(&self) -> std::sync::RwLockWriteGuard<'_, Tail> {
        self.tail.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EntrySource for LogReader {
    fn read(&self, from: Lsn, to: Lsn, bytes_max: usize) -> Result<Vec<Arc<Entry>>, StoreError> {
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut from = from;
        loop {
            let below = {
                let tail = self.read_tail();
                let to = to.min(tail.last);
                if from > to || from == Lsn::ZERO || (bytes > bytes_max && !found.is_empty()) {
                    return Ok(found);
                }
                match tail.entries.front().map(|entry| entry.lsn) {
                    Some(front) if from >= front => {
                        tail.collect(from, to, bytes_max.saturating_sub(bytes), &mut found);
                        return Ok(found);
                    }
                    Some(front) => to.min(front.previous()),
                    None => to,
                }
            };
            let rows = self.engine.scan(
                keys::ENTRIES,
                &keys::lsn(from),
                &keys::lsn(below.next()),
                Direction::Forward,
                SCAN_ROWS,
            )?;
            if rows.is_empty() {
                return Ok(found);
            }
            for (_, value) in &rows {
                let entry = Arc::new(Entry::decode(value)?);
                bytes += entry.weight();
                from = entry.lsn.next();
                found.push(entry);
                if bytes > bytes_max {
                    return Ok(found);
                }
            }
        }
    }
}

impl Tail {
    fn push(&mut self, entry: Arc<Entry>) {
        self.last = entry.lsn;
        self.bytes += entry.weight();
        self.entries.push_back(entry);
    }

    fn truncate_from(&mut self, lsn: Lsn) {
        self.last = lsn.previous();
        while self.entries.back().is_some_and(|entry| entry.lsn >= lsn) {
            let dropped = self.entries.pop_back().map_or(0, |entry| entry.weight());
            self.bytes -= dropped;
        }
    }

    fn shrink(&mut self, durable: Lsn) {
        while self.bytes > TAIL_BYTES_MAX
            && self.entries.front().is_some_and(|entry| entry.lsn <= durable)
        {
            let dropped = self.entries.pop_front().map_or(0, |entry| entry.weight());
            self.bytes -= dropped;
        }
    }

    fn collect(&self, from: Lsn, to: Lsn, bytes_max: usize, into: &mut Vec<Arc<Entry>>) {
        let front = self.entries.front().map_or(0, |entry| entry.lsn.0);
        let start = usize::try_from(from.0 - front).unwrap_or(usize::MAX);
        let mut bytes = 0;
        for entry in self.entries.iter().skip(start).take_while(|entry| entry.lsn <= to) {
            bytes += entry.weight();
            into.push(entry.clone());
            if bytes > bytes_max {
                return;
            }
        }
    }
}

fn verified(before: Option<&Entry>, lsn: Lsn, key: &[u8], value: &[u8]) -> Result<Entry, String> {
    if keys::parse_lsn(key) != Some(lsn) {
        return Err("the entry is missing".into());
    }
    let entry = Entry::decode(value).map_err(|e| e.to_string())?;
    if entry.lsn != lsn {
        return Err(format!("it says that it is entry {}", entry.lsn));
    }
    let chain = before.map(|e| e.chain).or((lsn == Lsn(1)).then(ChainHash::default));
    if chain.is_some_and(|chain| entry.chain_after(chain) != entry.chain) {
        return Err("its hash does not continue the history before it".into());
    }
    Ok(entry)
}

/// Where a term starts in the log, frozen; kept past trimming.
#[derive(Archive, Serialize, Deserialize, PartialEq, Debug)]
pub struct TermRunV1 {
    /// Term number.
    pub number: u64,
    /// Its leader.
    pub leader: String,
    /// Hash of the lineage of forks up to there; zeroes for none.
    pub lineage: [u8; 16],
}

impl Stored for TermRunV1 {
    const VERSION: u8 = 1;
    const NAME: &'static str = "term run";
}

impl From<CodecError> for LogError {
    fn from(error: CodecError) -> Self {
        Self::Store(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryEngine;

    fn draft(number: u64, kind: EntryKind, body: &'static [u8]) -> Draft {
        Draft {
            term: Term { number, leader: "n1".parse().expect("valid") },
            kind,
            part: Part::WHOLE,
            request: None,
            body: Bytes::from_static(body),
        }
    }

    fn open(engine: &MemoryEngine) -> (Log, Recovery) {
        Log::open(Arc::new(engine.clone())).expect("it opens")
    }

    /// A log of five entries in two terms, on disk.
    fn written(engine: &MemoryEngine) -> Log {
        let (mut log, _) = open(engine);
        let mut batch = Batch::default();
        let config = draft(1, EntryKind::Config, b"configuration");
        let first = [config, draft(1, EntryKind::Kv, b"a"), draft(1, EntryKind::Kv, b"b")];
        log.append_drafts(first.to_vec(), &mut batch);
        let second = [draft(2, EntryKind::Noop, b""), draft(2, EntryKind::Kv, b"c")];
        log.append_drafts(second.to_vec(), &mut batch);
        engine.commit(batch, Durability::Durable).expect("memory");
        log.set_durable(Lsn(5));
        log
    }

    #[test]
    fn a_log_comes_back_as_it_was() {
        let engine = MemoryEngine::new();
        let log = written(&engine);
        let (again, recovery) = open(&engine);
        assert_eq!((again.shape(), again.last_chain()), (log.shape(), log.last_chain()));
        assert_eq!(recovery, Recovery { verified: 5, damaged: None });
        let configurations = again.reader().configurations().expect("readable");
        assert_eq!(configurations.iter().map(|e| e.lsn).collect::<Vec<_>>(), [Lsn(1)]);
    }

    #[test]
    fn a_damaged_entry_ends_the_log_before_it_and_is_reported() {
        for (at, kept) in [(5, 4), (4, 3), (1, 0)] {
            let engine = MemoryEngine::new();
            written(&engine);
            let key = keys::lsn(Lsn(at));
            let mut value =
                engine.get(keys::ENTRIES, &key).expect("memory").expect("there").to_vec();
            *value.last_mut().expect("not empty") ^= 1;
            let mut batch = Batch::default();
            batch.put(keys::ENTRIES, key, value);
            engine.commit(batch, Durability::Durable).expect("memory");

            let (log, recovery) = open(&engine);
            let (lsn, what) = recovery.damaged.expect("found");
            assert_eq!((lsn, log.shape().last_lsn()), (Lsn(at), Lsn(kept)), "{what}");
            assert!(what.contains("checksum"), "{what}");
            assert_eq!(open(&engine).1.damaged, None, "what followed is gone for good");
        }
    }

    #[test]
    fn a_missing_or_foreign_entry_ends_the_log_too() {
        let engine = MemoryEngine::new();
        written(&engine);
        let mut batch = Batch::default();
        batch.delete(keys::ENTRIES, keys::lsn(Lsn(3)));
        engine.commit(batch, Durability::Durable).expect("memory");
        let (log, recovery) = open(&engine);
        assert_eq!(log.shape().last_lsn(), Lsn(2));
        assert_eq!(recovery.damaged.map(|(lsn, _)| lsn), Some(Lsn(3)));

        let engine = MemoryEngine::new();
        written(&engine);
        let stranger = Entry {
            term: Term { number: 2, leader: "n1".parse().expect("valid") },
            lsn: Lsn(5),
            kind: EntryKind::Kv,
            part: Part::WHOLE,
            request: None,
            chain: ChainHash([9; 32]),
            body: Bytes::from_static(b"c"),
        };
        let mut batch = Batch::default();
        batch.put(keys::ENTRIES, keys::lsn(Lsn(5)), stranger.encode());
        engine.commit(batch, Durability::Durable).expect("memory");
        let (log, recovery) = open(&engine);
        assert_eq!(log.shape().last_lsn(), Lsn(4));
        assert!(recovery.damaged.expect("found").1.contains("history"));
    }

    #[test]
    fn truncation_is_seen_by_readers_and_outlives_a_restart() {
        let engine = MemoryEngine::new();
        let mut log = written(&engine);
        let reader = log.reader();
        let mut batch = Batch::default();
        log.truncate_from(Lsn(4), &mut batch).expect("readable");
        log.append_drafts(vec![draft(3, EntryKind::Kv, b"other")], &mut batch);
        let read = reader.read(Lsn(3), Lsn(9), usize::MAX).expect("readable");
        let bodies: Vec<&[u8]> = read.iter().map(|entry| &entry.body[..]).collect();
        assert_eq!(bodies, [&b"b"[..], b"other"], "before it is on disk");
        assert_eq!(log.durable(), Lsn(3));
        engine.commit(batch, Durability::Durable).expect("memory");
        let (again, recovery) = open(&engine);
        assert_eq!((again.shape(), again.last_chain()), (log.shape(), log.last_chain()));
        assert_eq!(recovery.damaged, None);
    }

    #[test]
    fn runs_that_are_not_linked_or_of_another_history_are_refused() {
        let engine = MemoryEngine::new();
        let log = written(&engine);
        let entries = log.reader().read(Lsn(4), Lsn(5), usize::MAX).expect("readable");
        let previous = log.shape().position_at(Lsn(3)).expect("held");
        let chain = log.chain_at(Lsn(3)).expect("readable");
        log.check_run(&previous, chain, &entries).expect("its own entries fit");
        let other = log.check_run(&previous, ChainHash([1; 32]), &entries);
        assert!(matches!(other, Err(LogError::Chain { .. })), "{other:?}");
        let gap = log.check_run(&previous, chain, &entries[1..]);
        assert!(matches!(gap, Err(LogError::Unlinked(Lsn(5)))), "{gap:?}");
    }
}
