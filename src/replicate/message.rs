//! What nodes say to each other. `transport/` carries it; the replica core decides by it.
//!
//! ```text
//! all pairs      Heartbeat ─────▶ HeartbeatReply                        (a stream of its own)
//! no leader      PreVote ───────▶ PreVoteReply
//!                Prepare ───────▶ Promise          a term number is promised at most once
//!                Fetch ─────────▶ Fetched          a candidate adopts, bound to the promised term
//! leader         Append ────────▶ Appended         answered when durable
//!                Handover ──────▶                  the target stands at once
//! ```

use std::sync::Arc;

use crate::{
    clock::Moment,
    log::entry::Entry,
    types::{ChainHash, ClusterId, Incarnation, Lsn, NodeId, Position, Term},
};

/// A message with its sender, as the handshake of the stream proved it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// Who sent it.
    pub from: NodeId,
    /// Which life of the sender's store.
    pub incarnation: Incarnation,
    /// Hash of the sender's lineage of forks; zeroes for none. Messages of another lineage are
    /// only for a merge.
    pub lineage: [u8; 16],
    /// What it says.
    pub message: Message,
}

/// What one node says to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Every heartbeat period, from every node to every other.
    Heartbeat(Heartbeat),
    /// At once, to the sender of a heartbeat.
    HeartbeatReply(HeartbeatReply),
    /// Would you promise me this term number? Binds nobody.
    PreVote(PreVote),
    /// The answer.
    PreVoteReply(PreVoteReply),
    /// Promise me this term.
    Prepare(Prepare),
    /// The answer, sent when the promise is durable.
    Promise(Promise),
    /// Send me your entries, for the term that you promised me.
    Fetch(Fetch),
    /// The answer.
    Fetched(Fetched),
    /// The leader's entries.
    Append(Append),
    /// The answer, sent when they are durable; or a refusal with a hint.
    Appended(Appended),
    /// From a leader that stops: stand now, you hold everything.
    Handover {
        /// The term that ends.
        term: Term,
    },
}

/// "I am here", and from a leader "I still lead".
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Heartbeat {
    /// The sender's current term.
    pub term: Option<Term>,
    /// Whether the sender leads that term.
    pub leads: bool,
    /// The sender's clock when it was sent; echoed.
    pub sent_at: Moment,
    /// The sender's log: its last durable entry.
    pub durable: Position,
    /// What the cluster has decided, as the sender knows.
    pub committed: Lsn,
    /// What the outside may see, as the sender knows.
    pub released: Lsn,
    /// What the sender's appliers have done.
    pub applied: Lsn,
    /// Whether the sender could lead: allowed to, remembers its promises, database healthy.
    pub eligible: bool,
    /// The cluster that the sender belongs to, once it does.
    pub cluster: Option<ClusterId>,
    /// What the sender's database does, as a code for status; zero for none.
    pub database: u8,
    /// How many commands of the log the sender's database has not applied yet.
    pub behind: u64,
}

/// The answer to a heartbeat.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeartbeatReply {
    /// The replier's current term.
    pub term: Option<Term>,
    /// Echo of [`Heartbeat::sent_at`]: a lease counts from there.
    pub sent_at: Moment,
    /// The replier follows the sender in the sender's term.
    pub follows: bool,
}

/// Would you promise me?
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PreVote {
    /// The term number that the sender would stand with.
    pub number: u64,
    /// The leader asked the sender to stand: a live leader is no reason to refuse.
    pub handover: bool,
}

/// The answer to a pre-vote.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PreVoteReply {
    /// Echo.
    pub number: u64,
    /// Whether the replier would promise.
    pub granted: bool,
    /// The highest term number that the replier has seen.
    pub seen: u64,
    /// Refused because the replier, of a lower ID, stands itself.
    pub stands: bool,
}

/// Promise me this term.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prepare {
    /// The term; its leader is the sender.
    pub term: Term,
    /// The leader asked the sender to stand.
    pub handover: bool,
}

/// The answer to [`Prepare`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Promise {
    /// The term asked for.
    pub term: Term,
    /// Whether it is promised.
    pub granted: bool,
    /// The highest term number that the replier has seen.
    pub seen: u64,
    /// The replier's last durable entry; no older term will move it after the promise.
    pub last: Position,
    /// Before bootstrap: what this node brings to the cluster. `None` once it holds entry 1.
    pub founding: Option<Founding>,
}

/// What a node brings into a new cluster; the founders must agree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Founding {
    /// Hash of the initial members and settings that all founders must share.
    pub plan: [u8; 32],
    /// `@@gtid_current_pos` of its database; empty for none. `None`: it runs no database.
    pub db_position: Option<String>,
    /// It may vote, but not lead.
    pub never_leader: bool,
}

/// Send me entries after a point that we may share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetch {
    /// The term that the receiver promised to the sender.
    pub term: Term,
    /// The sender's entry there; the answer starts behind it if the receiver has the same.
    pub after: Position,
}

/// The answer to [`Fetch`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetched {
    /// Echo.
    pub term: Term,
    /// Echo of [`Fetch::after`].
    pub after: Position,
    /// `Ok`: the chain hash at `after` and entries from there on. `Err`: no such entry here; the
    /// newest position at or below it that may be shared.
    pub result: Result<Run, Position>,
    /// The replier's last entry.
    pub last: Position,
}

/// Consecutive entries and the history they continue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// Chain hash of the entry before the first.
    pub chain: ChainHash,
    /// The entries.
    pub entries: Vec<Arc<Entry>>,
}

/// Entries of the leader's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Append {
    /// The leader's term.
    pub term: Term,
    /// The entry before the first one sent.
    pub previous: Position,
    /// The entries, which may be none, and the chain hash at `previous`.
    pub run: Run,
    /// What the cluster has decided.
    pub committed: Lsn,
    /// What the outside may see.
    pub released: Lsn,
}

/// The answer to [`Append`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Appended {
    /// The term of the append.
    pub term: Term,
    /// `Ok`: everything up to there equals the leader's log and is durable. `Err`: the entry at
    /// `previous` is not here; the newest position that may be shared.
    pub result: Result<Lsn, Position>,
}
