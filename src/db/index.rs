//! Which GTID stands where in the log: the database's deterministic applier, and its readers.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};

use super::{command::DbCommand, gtid::Gtid};
use crate::{
    apply::{ApplyError, Command, StateMachine, View},
    log::entry::EntryKind,
    store::{
        Direction, Engine, StoreError,
        codec::{self, Compress, Stored},
        keys,
    },
    types::Lsn,
};

/// Where a transaction stands in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its whole GTID.
    pub gtid: Gtid,
    /// The entry that it starts with.
    pub first: Lsn,
    /// The entry that completes it.
    pub last: Lsn,
    /// The number of the term that ordered it.
    pub term: u64,
}

/// Applies database entries: nothing but the index, since the database itself is fed.
#[derive(Debug, Default)]
pub struct DbIndexer;

impl StateMachine for DbIndexer {
    fn kind(&self) -> EntryKind {
        EntryKind::Db
    }

    fn apply(&mut self, command: &Command, state: &mut View<'_>) -> Result<Bytes, ApplyError> {
        let lsn = command.at.lsn;
        let decoded = DbCommand::decode(&command.body);
        match decoded.map_err(|source| ApplyError::Command { lsn, source })? {
            DbCommand::Format(_) => state.put(keys::DB_FORMATS, keys::lsn(lsn), Bytes::new()),
            DbCommand::Transaction(transaction) => {
                let gtid = transaction.gtid;
                let place = DbPlaceV1 {
                    domain: gtid.domain,
                    server: gtid.server,
                    sequence: gtid.sequence,
                    first: command.first.0,
                    last: lsn.0,
                    term: command.at.term.as_ref().map_or(0, |term| term.number),
                };
                let place = codec::encode(&place, Compress::Never);
                let key = keys::gtid(gtid.domain, gtid.sequence);
                state.put(keys::DB_GTIDS, key, place.clone());
                state.put(keys::DB_META, keys::DB_TAIL, place);
            }
        }
        Ok(Bytes::new())
    }
}

/// Reads the index. It shows what is applied, so what is released.
#[derive(Clone)]
pub struct DbIndex {
    state: Arc<dyn Engine>,
    base: Arc<OnceLock<Option<Gtid>>>,
}

impl DbIndex {
    /// The index in a state store.
    pub fn new(state: Arc<dyn Engine>) -> Self {
        Self { state, base: Arc::default() }
    }

    /// Where the founders' databases stood: the log goes on from there. Set once, from the
    /// cluster's first configuration.
    pub fn set_base(&self, base: Option<Gtid>) {
        // A cluster is founded once, so a second value is the same.
        let _same = self.base.set(base);
    }

    /// Where the log goes on from; `None` for databases that were empty, or while not known.
    pub fn base(&self) -> Option<Gtid> {
        self.base.get().copied().flatten()
    }

    /// The transaction of that domain and sequence. Compare its server: another one means that
    /// the same number was given to two transactions.
    pub fn place(&self, domain: u32, sequence: u64) -> Result<Option<Place>, StoreError> {
        decode(self.state.get(keys::DB_GTIDS, &keys::gtid(domain, sequence))?)
    }

    /// The newest transaction.
    pub fn tail(&self) -> Result<Option<Place>, StoreError> {
        decode(self.state.get(keys::DB_META, keys::DB_TAIL)?)
    }

    /// The oldest transaction of the domain after that sequence.
    pub fn next_after(&self, domain: u32, sequence: u64) -> Result<Option<Place>, StoreError> {
        let from = keys::gtid(domain, sequence.saturating_add(1));
        let to = keys::gtid(domain, u64::MAX);
        let rows = self.state.scan(keys::DB_GTIDS, &from, &to, Direction::Forward, 1)?;
        decode(rows.into_iter().next().map(|(_, value)| value))
    }

    /// Whether that very transaction is in the log.
    pub fn holds(&self, gtid: Gtid) -> Result<bool, StoreError> {
        let place = self.place(gtid.domain, gtid.sequence)?;
        Ok(place.is_some_and(|place| place.gtid == gtid))
    }

    /// The entry with the binlog format of a transaction that starts at `lsn`.
    pub fn format_before(&self, lsn: Lsn) -> Result<Option<Lsn>, StoreError> {
        let from = keys::lsn(Lsn::ZERO);
        let to = keys::lsn(lsn);
        let rows = self.state.scan(keys::DB_FORMATS, &from, &to, Direction::Backward, 1)?;
        Ok(rows.first().and_then(|(key, _)| keys::parse_lsn(key)))
    }
}

fn decode(stored: Option<Bytes>) -> Result<Option<Place>, StoreError> {
    let Some(bytes) = stored else { return Ok(None) };
    let stored: DbPlaceV1 = codec::decode(&bytes)?;
    let (domain, server, sequence) = (stored.domain, stored.server, stored.sequence);
    Ok(Some(Place {
        gtid: Gtid { domain, server, sequence },
        first: Lsn(stored.first),
        last: Lsn(stored.last),
        term: stored.term,
    }))
}

/// The stored form of [`Place`], frozen.
#[derive(Archive, Serialize, Deserialize, PartialEq, Debug)]
pub struct DbPlaceV1 {
    /// GTID domain.
    pub domain: u32,
    /// GTID server.
    pub server: u32,
    /// GTID sequence.
    pub sequence: u64,
    /// First entry.
    pub first: u64,
    /// Last entry.
    pub last: u64,
    /// Term number.
    pub term: u64,
}

impl Stored for DbPlaceV1 {
    const VERSION: u8 = 1;
    const NAME: &'static str = "place of a GTID";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        db::command::Transaction,
        store::{Durability, MemoryEngine},
        types::{Position, Term},
    };

    fn apply(engine: &MemoryEngine, lsn: u64, command: &DbCommand) {
        let term = Term { number: 4, leader: "n1".parse().expect("valid") };
        let command = Command {
            kind: EntryKind::Db,
            first: Lsn(lsn - 1),
            at: Position { term: Some(term), lsn: Lsn(lsn) },
            request: None,
            body: command.encode().into(),
        };
        let mut view = View::new(engine);
        DbIndexer.apply(&command, &mut view).expect("applies");
        engine.commit(view.into_batch(), Durability::Volatile).expect("memory");
    }

    fn transaction(gtid: &str) -> DbCommand {
        let gtid = gtid.parse().expect("valid");
        DbCommand::Transaction(Transaction { gtid, flags: 0, events: Bytes::from_static(b"x") })
    }

    #[test]
    fn finds_transactions_formats_and_the_tail() {
        let engine = MemoryEngine::new();
        let index = DbIndex::new(Arc::new(engine.clone()));
        assert_eq!(index.tail().expect("readable"), None);
        apply(&engine, 2, &DbCommand::Format(Bytes::from_static(b"fde")));
        apply(&engine, 4, &transaction("0-1-7"));
        apply(&engine, 9, &transaction("0-2-8"));
        let place = index.place(0, 7).expect("readable").expect("there");
        assert_eq!((place.first, place.last, place.term), (Lsn(3), Lsn(4), 4));
        assert!(index.holds("0-1-7".parse().expect("valid")).expect("readable"));
        assert!(!index.holds("0-3-7".parse().expect("valid")).expect("readable"));
        let next = index.next_after(0, 7).expect("readable").expect("there");
        assert_eq!(next.gtid, "0-2-8".parse().expect("valid"));
        assert_eq!(index.tail().expect("readable"), Some(next));
        assert_eq!(index.format_before(Lsn(3)).expect("readable"), Some(Lsn(2)));
        assert_eq!(index.format_before(Lsn(2)).expect("readable"), None);
    }
}
