//! One entry of the log: who ordered it, where, what kind, and the hash of everything before it.
//!
//! The body is opaque here: the proposer sealed it (`store::codec`), compressed where it pays, and
//! it travels and is stored in that form, so that it is compressed once in its life.

use std::fmt;

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    store::codec::{self, CodecError, Compress, Stored},
    types::{ChainHash, Lsn, NodeId, Position, RequestId, Term},
};

/// The largest body of one entry; with its header it fits [`crate::store::VALUE_BYTES_MAX`].
pub const BODY_BYTES_MAX: usize = 60 * 1024;

/// What a body is. The discriminants are stored and never change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// The first entry of a term; its body is empty.
    Noop = 1,
    /// A configuration of the cluster; entry 1 is the bootstrap.
    Config = 2,
    /// A forced take-over, from which a lineage forks.
    Fork = 3,
    /// A client session is opened, kept alive or closed.
    Session = 4,
    /// A command of the replicated KV.
    Kv = 5,
    /// A command of the disk's metadata.
    Disk = 6,
    /// A database transaction, or the binlog format of those that follow.
    Db = 7,
}

impl EntryKind {
    /// The kind of a stored or received discriminant.
    pub fn from_u8(kind: u8) -> Option<Self> {
        Some(match kind {
            1 => Self::Noop,
            2 => Self::Config,
            3 => Self::Fork,
            4 => Self::Session,
            5 => Self::Kv,
            6 => Self::Disk,
            7 => Self::Db,
            _ => return None,
        })
    }
}

/// Which part of a command an entry holds. A command larger than [`BODY_BYTES_MAX`] travels as
/// consecutive entries of one term and takes effect at the last; a new term voids an unfinished one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Part {
    /// 0 for the first.
    pub index: u32,
    /// Whether the command is complete with this one.
    pub last: bool,
}

impl Part {
    /// The only part of a command that fits one entry.
    pub const WHOLE: Part = Part { index: 0, last: true };
}

/// One entry of the log.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The reign that ordered it.
    pub term: Term,
    /// Its place.
    pub lsn: Lsn,
    /// What the body is.
    pub kind: EntryKind,
    /// Which part of its command it holds.
    pub part: Part,
    /// Makes a retried request happen once.
    pub request: Option<RequestId>,
    /// Over the history up to and including this entry.
    pub chain: ChainHash,
    /// The sealed command, or a part of it.
    pub body: Bytes,
}

impl Entry {
    /// Where it stands.
    pub fn position(&self) -> Position {
        Position { term: Some(self.term.clone()), lsn: self.lsn }
    }

    /// The chain hash that this entry must carry after `previous`:
    /// SHA-256 of previous ‖ term number ‖ leader length, leader ‖ lsn ‖ kind ‖ part index, last ‖
    /// session, number (zeroes if none) ‖ body.
    pub fn chain_after(&self, previous: ChainHash) -> ChainHash {
        let mut hasher = Sha256::new();
        hasher.update(previous.0);
        hasher.update(self.term.number.to_be_bytes());
        hasher.update([u8::try_from(self.term.leader.as_str().len()).expect("IDs are short")]);
        hasher.update(self.term.leader.as_str());
        hasher.update(self.lsn.0.to_be_bytes());
        hasher.update([self.kind as u8]);
        hasher.update(self.part.index.to_be_bytes());
        hasher.update([u8::from(self.part.last)]);
        let request = self.request.unwrap_or(RequestId { session: [0; 16], number: 0 });
        hasher.update(request.session);
        hasher.update(request.number.to_be_bytes());
        hasher.update(&self.body);
        ChainHash(hasher.finalize().into())
    }

    /// About how much memory it takes.
    pub fn weight(&self) -> usize {
        self.body.len() + 128
    }

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let stored = EntryV1 {
            term_number: self.term.number,
            term_leader: self.term.leader.as_str().to_owned(),
            lsn: self.lsn.0,
            kind: self.kind as u8,
            part_index: self.part.index,
            part_last: self.part.last,
            session: self.request.map_or([0; 16], |r| r.session),
            request: self.request.map_or(0, |r| r.number),
            chain: self.chain.0,
            body: self.body.to_vec(),
        };
        codec::encode(&stored, Compress::Never)
    }

    /// The entry that was stored.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let stored: EntryV1 = codec::decode(bytes)?;
        let invalid = |what: String| CodecError::Body { name: EntryV1::NAME, what };
        Ok(Self {
            term: Term {
                number: stored.term_number,
                leader: stored.term_leader.parse::<NodeId>().map_err(|e| invalid(e.to_string()))?,
            },
            lsn: Lsn(stored.lsn),
            kind: EntryKind::from_u8(stored.kind)
                .ok_or_else(|| invalid(format!("unknown entry kind {}", stored.kind)))?,
            part: Part { index: stored.part_index, last: stored.part_last },
            request: (stored.request != 0)
                .then_some(RequestId { session: stored.session, number: stored.request }),
            chain: ChainHash(stored.chain),
            body: stored.body.into(),
        })
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} {:?}", self.lsn, self.term, self.kind)?;
        if self.part != Part::WHOLE {
            write!(f, " part {}{}", self.part.index, if self.part.last { " last" } else { "" })?;
        }
        write!(f, " {} B", self.body.len())
    }
}

/// The stored form of [`Entry`], frozen.
#[derive(Archive, Serialize, Deserialize, PartialEq, Debug)]
pub struct EntryV1 {
    /// Term number.
    pub term_number: u64,
    /// Leader of the term.
    pub term_leader: String,
    /// LSN.
    pub lsn: u64,
    /// [`EntryKind`] discriminant.
    pub kind: u8,
    /// Part index.
    pub part_index: u32,
    /// Whether the command is complete.
    pub part_last: bool,
    /// Session, or zeroes.
    pub session: [u8; 16],
    /// Request number, or zero for none.
    pub request: u64,
    /// Chain hash.
    pub chain: [u8; 32],
    /// Sealed body.
    pub body: Vec<u8>,
}

impl Stored for EntryV1 {
    const VERSION: u8 = 1;
    const NAME: &'static str = "log entry";
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            term: Term { number: 3, leader: "n1".parse().expect("valid") },
            lsn: Lsn(7),
            kind: EntryKind::Db,
            part: Part { index: 2, last: false },
            request: Some(RequestId { session: [9; 16], number: 4 }),
            chain: ChainHash([5; 32]),
            body: Bytes::from_static(b"body"),
        }
    }

    #[test]
    fn round_trips() {
        let entry = entry();
        assert_eq!(Entry::decode(&entry.encode()).expect("decodes"), entry);
    }

    #[test]
    fn the_largest_body_fits_a_value() {
        let entry = Entry { body: vec![0x5a; BODY_BYTES_MAX].into(), ..entry() };
        assert!(entry.encode().len() <= crate::store::VALUE_BYTES_MAX);
    }

    #[test]
    fn the_chain_covers_every_field() {
        let base = entry();
        let hash = |e: &Entry| e.chain_after(ChainHash([1; 32]));
        let variants = [
            Entry { term: Term { number: 4, ..base.term.clone() }, ..base.clone() },
            Entry {
                term: Term { leader: "n2".parse().expect("valid"), ..base.term.clone() },
                ..base.clone()
            },
            Entry { lsn: Lsn(8), ..base.clone() },
            Entry { kind: EntryKind::Kv, ..base.clone() },
            Entry { part: Part { index: 3, last: false }, ..base.clone() },
            Entry { part: Part { index: 2, last: true }, ..base.clone() },
            Entry { request: None, ..base.clone() },
            Entry { body: Bytes::from_static(b"Body"), ..base.clone() },
        ];
        for variant in &variants {
            assert_ne!(hash(variant), hash(&base), "{variant:?}");
        }
        assert_ne!(base.chain_after(ChainHash::default()), hash(&base), "and what was before");
    }
}
