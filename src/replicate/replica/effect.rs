//! What the replica asks of its host.

use std::sync::Arc;

use rkyv::{Archive, Deserialize, Serialize};

use crate::{
    log::{Draft, entry::Entry},
    replicate::{message::Message, role::RoleView},
    store::codec::{self, CodecError, Compress, Stored},
    types::{Lsn, NodeId, Position, Term},
};

/// Names a write; tickets ascend, and writes become durable in their order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Ticket(pub u64);

/// What a node must not forget.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HardState {
    /// The highest term promised, its leader being whom it was promised to.
    pub promised: Option<Term>,
    /// The term of the leader whose entries this node last took, or its own.
    pub accepted: Option<Term>,
}

impl HardState {
    /// The highest term number that is used up.
    pub fn seen(&self) -> u64 {
        let number = |term: &Option<Term>| term.as_ref().map_or(0, |t| t.number);
        number(&self.promised).max(number(&self.accepted))
    }

    /// The highest term promised or accepted.
    pub fn newest(&self) -> Option<&Term> {
        self.promised.iter().chain(&self.accepted).max_by_key(|term| term.number)
    }

    /// Of two records of one node, kept in two places, the later promise and acceptance.
    pub fn later(self, other: HardState) -> HardState {
        let later = |a: Option<Term>, b: Option<Term>| a.into_iter().chain(b).max();
        HardState {
            promised: later(self.promised, other.promised),
            accepted: later(self.accepted, other.accepted),
        }
    }

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(
            &HardStateV1 {
                promised: self.promised.as_ref().map(stored_term),
                accepted: self.accepted.as_ref().map(stored_term),
            },
            Compress::Never,
        )
    }

    /// The hard state that was stored.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let stored: HardStateV1 = codec::decode(bytes)?;
        Ok(Self {
            promised: stored.promised.map(loaded_term).transpose()?,
            accepted: stored.accepted.map(loaded_term).transpose()?,
        })
    }
}

fn stored_term(term: &Term) -> (u64, String) {
    (term.number, term.leader.as_str().to_owned())
}

fn loaded_term((number, leader): (u64, String)) -> Result<Term, CodecError> {
    let invalid = |e| CodecError::Body { name: HardStateV1::NAME, what: format!("{e}") };
    Ok(Term { number, leader: leader.parse().map_err(invalid)? })
}

/// The stored form of [`HardState`], frozen.
#[derive(Archive, Serialize, Deserialize, PartialEq, Debug)]
pub struct HardStateV1 {
    /// Promised term: number and leader.
    pub promised: Option<(u64, String)>,
    /// Accepted term: number and leader.
    pub accepted: Option<(u64, String)>,
}

impl Stored for HardStateV1 {
    const VERSION: u8 = 1;
    const NAME: &'static str = "hard state";
}

/// What a node last knew to be committed, frozen: a hint that saves waiting after a restart.
#[derive(Archive, Serialize, Deserialize, PartialEq, Debug)]
pub struct CommittedV1 {
    /// LSN of the last committed entry.
    pub lsn: u64,
}

impl Stored for CommittedV1 {
    const VERSION: u8 = 1;
    const NAME: &'static str = "commit index";
}

/// Entries to append.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entries {
    /// None.
    None,
    /// This node orders them.
    Own(Vec<Draft>),
    /// Another node ordered them; they continue the log after the truncation.
    Received(Vec<Arc<Entry>>),
}

/// One atomic change of the log store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// Reported back by `written`.
    pub ticket: Ticket,
    /// First remove the entries from here on.
    pub truncate_from: Option<Lsn>,
    /// Then append these.
    pub entries: Entries,
    /// And remember this.
    pub hard: Option<HardState>,
}

/// What the replica asks of its host, in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Change the log store.
    Write(Write),
    /// Send a message as it is.
    Send(NodeId, Message),
    /// Send an `Append` with the entries after `previous` up to `last`, as many as fit.
    SendEntries {
        /// The peer.
        to: NodeId,
        /// The leader's term.
        term: Term,
        /// The entry before the first.
        previous: Position,
        /// The last to be sent; `previous` for none.
        last: Lsn,
        /// What the cluster has decided.
        committed: Lsn,
        /// What the outside may see.
        released: Lsn,
    },
    /// Answer a `Fetch` with the entries after `after`, as many as fit one message.
    SendFetched {
        /// The candidate.
        to: NodeId,
        /// Its term.
        term: Term,
        /// Which entries.
        after: Position,
    },
    /// The watermark moved.
    Committed(Lsn),
    /// The watermark moved.
    Released(Lsn),
    /// Leadership changed, as far as this node sees.
    Role(RoleView),
    /// An operator should know; said once until it changes.
    Notice(String),
    /// A rule was broken: the node must stop.
    Fatal(String),
}
