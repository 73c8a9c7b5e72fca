//! Wire to message and back. Bytes from a peer never panic: what makes no sense is a [`WireError`].

use std::sync::Arc;

use bytes::Bytes;

use super::auth::{ADDRESS_BYTES_MAX, Channel, Identity};
use crate::{
    clock::Moment,
    log::entry::{Entry, EntryKind, Part},
    replicate::message::{
        Append, Appended, Envelope, Fetch, Fetched, Founding, Heartbeat, HeartbeatReply, Message,
        PreVote, PreVoteReply, Prepare, Promise, Run,
    },
    types::{ChainHash, ClusterId, Incarnation, Lsn, NodeId, Position, RequestId, Term},
    wire::{self, peer_appended, peer_envelope, peer_fetched, peer_frame},
};

/// Bodies below this are copied out of the frame that they came in: a small entry that is kept
/// must not keep a large frame's memory.
const DETACH_BYTES_MAX: usize = 4096;

/// Why a frame makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field holds what it cannot.
    #[error("{field}: {what}")]
    Invalid {
        /// Which.
        field: &'static str,
        /// What is wrong with it.
        what: String,
    },
}

fn invalid(field: &'static str, what: impl ToString) -> WireError {
    WireError::Invalid { field, what: what.to_string() }
}

/// The stream that a message travels on.
pub fn channel_of(message: &Message) -> Channel {
    match message {
        Message::Heartbeat(_) | Message::HeartbeatReply(_) => Channel::Heartbeat,
        _ => Channel::Log,
    }
}

/// An upper bound of the bytes that an envelope takes on the wire, near to what it takes in memory.
pub fn weight(envelope: &Envelope) -> usize {
    let run = match &envelope.message {
        Message::Append(append) => Some(&append.run),
        Message::Fetched(Fetched { result: Ok(run), .. }) => Some(run),
        _ => None,
    };
    512 + run.map_or(0, |run| run.entries.iter().map(|e| e.weight() + 128).sum())
}

/// A frame around an envelope.
pub fn frame(envelope: &Envelope) -> wire::PeerFrame {
    let wire = wire::PeerEnvelope {
        incarnation: envelope.incarnation.0,
        lineage: Bytes::copy_from_slice(&envelope.lineage),
        message: Some(message_to_wire(&envelope.message)),
    };
    wire::PeerFrame { frame: Some(peer_frame::Frame::Envelope(wire)) }
}

/// The envelope that the proved `sender` sent on `channel`.
pub fn envelope(
    wire: wire::PeerEnvelope,
    sender: &Identity,
    channel: Channel,
) -> Result<Envelope, WireError> {
    if wire.incarnation != sender.incarnation.0 {
        return Err(invalid("incarnation", "another than in the handshake"));
    }
    let message = message_from_wire(wire.message.ok_or(WireError::Missing("message"))?)?;
    if channel_of(&message) != channel {
        return Err(invalid("message", format!("not one for the {} stream", channel.name())));
    }
    Ok(Envelope {
        from: sender.node.clone(),
        incarnation: sender.incarnation,
        lineage: array("lineage", &wire.lineage)?,
        message,
    })
}

/// The wire form of an identity.
pub fn identity_to_wire(identity: &Identity) -> wire::PeerIdentity {
    wire::PeerIdentity {
        node: identity.node.to_string(),
        incarnation: identity.incarnation.0,
        run: Bytes::copy_from_slice(&identity.run),
        cluster: cluster_to_wire(identity.cluster),
        address: identity.address.clone(),
    }
}

/// The identity that a peer claims.
pub fn identity(wire: Option<wire::PeerIdentity>) -> Result<Identity, WireError> {
    let wire = wire.ok_or(WireError::Missing("identity"))?;
    Ok(Identity {
        node: node(&wire.node)?,
        incarnation: Incarnation(wire.incarnation),
        run: array("run", &wire.run)?,
        cluster: cluster(&wire.cluster)?,
        address: address(wire.address)?,
    })
}

fn address(text: String) -> Result<String, WireError> {
    if text.len() > ADDRESS_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(invalid("address", format!("{} bytes, or control characters", text.len())));
    }
    Ok(text)
}

/// A node ID from a peer.
pub fn node(text: &str) -> Result<NodeId, WireError> {
    text.parse().map_err(|e| invalid("node ID", e))
}

/// Bytes of a fixed length from a peer.
pub fn array<const N: usize>(field: &'static str, bytes: &[u8]) -> Result<[u8; N], WireError> {
    bytes.try_into().map_err(|_| invalid(field, format!("{} bytes, not {N}", bytes.len())))
}

fn cluster_to_wire(cluster: Option<ClusterId>) -> Bytes {
    cluster.map_or_else(Bytes::new, |c| Bytes::copy_from_slice(&c.0))
}

fn cluster(bytes: &[u8]) -> Result<Option<ClusterId>, WireError> {
    if bytes.is_empty() { Ok(None) } else { array("cluster", bytes).map(|a| Some(ClusterId(a))) }
}

fn term_to_wire(term: &Term) -> wire::PeerTerm {
    wire::PeerTerm { number: term.number, leader: term.leader.to_string() }
}

fn term(wire: Option<wire::PeerTerm>) -> Result<Term, WireError> {
    let wire = wire.ok_or(WireError::Missing("term"))?;
    Ok(Term { number: wire.number, leader: node(&wire.leader)? })
}

fn position_to_wire(position: &Position) -> wire::Position {
    let term = position.term.as_ref();
    wire::Position {
        term_number: term.map_or(0, |t| t.number),
        term_leader: term.map_or_else(String::new, |t| t.leader.to_string()),
        lsn: position.lsn.0,
    }
}

fn position(wire: Option<wire::Position>) -> Result<Position, WireError> {
    let wire = wire.ok_or(WireError::Missing("position"))?;
    let lsn = Lsn(wire.lsn);
    if wire.term_leader.is_empty() {
        if wire.term_number != 0 {
            return Err(invalid("position", "a term number without a leader"));
        }
        return Ok(Position { term: None, lsn });
    }
    let term = Term { number: wire.term_number, leader: node(&wire.term_leader)? };
    Ok(Position { term: Some(term), lsn })
}

fn entry_to_wire(entry: &Arc<Entry>) -> wire::PeerEntry {
    wire::PeerEntry {
        term: Some(term_to_wire(&entry.term)),
        lsn: entry.lsn.0,
        kind: u32::from(entry.kind as u8),
        part_index: entry.part.index,
        part_last: entry.part.last,
        request: entry.request.map(|r| wire::PeerRequestId {
            session: Bytes::copy_from_slice(&r.session),
            number: r.number,
        }),
        chain: Bytes::copy_from_slice(&entry.chain.0),
        body: entry.body.clone(),
    }
}

fn entry(wire: wire::PeerEntry) -> Result<Arc<Entry>, WireError> {
    let kind = u8::try_from(wire.kind)
        .ok()
        .and_then(EntryKind::from_u8)
        .ok_or_else(|| invalid("entry kind", format!("{} is unknown", wire.kind)))?;
    let request = wire
        .request
        .map(|r| Ok(RequestId { session: array("session", &r.session)?, number: r.number }))
        .transpose()?;
    let body = if wire.body.len() < DETACH_BYTES_MAX {
        Bytes::copy_from_slice(&wire.body)
    } else {
        wire.body
    };
    Ok(Arc::new(Entry {
        term: term(wire.term)?,
        lsn: Lsn(wire.lsn),
        kind,
        part: Part { index: wire.part_index, last: wire.part_last },
        request,
        chain: ChainHash(array("chain", &wire.chain)?),
        body,
    }))
}

fn run_to_wire(run: &Run) -> wire::PeerRun {
    wire::PeerRun {
        chain: Bytes::copy_from_slice(&run.chain.0),
        entries: run.entries.iter().map(entry_to_wire).collect(),
    }
}

fn run(wire: wire::PeerRun) -> Result<Run, WireError> {
    Ok(Run {
        chain: ChainHash(array("chain", &wire.chain)?),
        entries: wire.entries.into_iter().map(entry).collect::<Result<_, _>>()?,
    })
}

fn message_to_wire(message: &Message) -> peer_envelope::Message {
    use peer_envelope::Message as Wire;
    match message {
        Message::Heartbeat(m) => Wire::Heartbeat(heartbeat_to_wire(m)),
        Message::HeartbeatReply(m) => Wire::HeartbeatReply(wire::PeerHeartbeatReply {
            term: m.term.as_ref().map(term_to_wire),
            sent_at: m.sent_at.0,
            follows: m.follows,
        }),
        Message::PreVote(m) => {
            Wire::PreVote(wire::PeerPreVote { number: m.number, handover: m.handover })
        }
        Message::PreVoteReply(m) => Wire::PreVoteReply(wire::PeerPreVoteReply {
            number: m.number,
            granted: m.granted,
            seen: m.seen,
            stands: m.stands,
        }),
        Message::Prepare(m) => Wire::Prepare(wire::PeerPrepare {
            term: Some(term_to_wire(&m.term)),
            handover: m.handover,
        }),
        Message::Promise(m) => Wire::Promise(promise_to_wire(m)),
        Message::Fetch(m) => Wire::Fetch(wire::PeerFetch {
            term: Some(term_to_wire(&m.term)),
            after: Some(position_to_wire(&m.after)),
        }),
        Message::Fetched(m) => Wire::Fetched(fetched_to_wire(m)),
        Message::Append(m) => Wire::Append(append_to_wire(m)),
        Message::Appended(m) => Wire::Appended(wire::PeerAppended {
            term: Some(term_to_wire(&m.term)),
            result: Some(match &m.result {
                Ok(lsn) => peer_appended::Result::Durable(lsn.0),
                Err(hint) => peer_appended::Result::Hint(position_to_wire(hint)),
            }),
        }),
        Message::Handover { term } => {
            Wire::Handover(wire::PeerHandover { term: Some(term_to_wire(term)) })
        }
    }
}

fn heartbeat_to_wire(m: &Heartbeat) -> wire::PeerHeartbeat {
    wire::PeerHeartbeat {
        term: m.term.as_ref().map(term_to_wire),
        leads: m.leads,
        sent_at: m.sent_at.0,
        durable: Some(position_to_wire(&m.durable)),
        committed: m.committed.0,
        released: m.released.0,
        applied: m.applied.0,
        eligible: m.eligible,
        cluster: cluster_to_wire(m.cluster),
        database: m.database.into(),
        behind: m.behind,
    }
}

fn promise_to_wire(m: &Promise) -> wire::PeerPromise {
    wire::PeerPromise {
        term: Some(term_to_wire(&m.term)),
        granted: m.granted,
        seen: m.seen,
        last: Some(position_to_wire(&m.last)),
        founding: m.founding.as_ref().map(|f| wire::PeerFounding {
            plan: Bytes::copy_from_slice(&f.plan),
            db_position: f.db_position.clone(),
            never_leader: f.never_leader,
        }),
    }
}

fn fetched_to_wire(m: &Fetched) -> wire::PeerFetched {
    wire::PeerFetched {
        term: Some(term_to_wire(&m.term)),
        after: Some(position_to_wire(&m.after)),
        result: Some(match &m.result {
            Ok(run) => peer_fetched::Result::Run(run_to_wire(run)),
            Err(hint) => peer_fetched::Result::Hint(position_to_wire(hint)),
        }),
        last: Some(position_to_wire(&m.last)),
    }
}

fn append_to_wire(m: &Append) -> wire::PeerAppend {
    wire::PeerAppend {
        term: Some(term_to_wire(&m.term)),
        previous: Some(position_to_wire(&m.previous)),
        run: Some(run_to_wire(&m.run)),
        committed: m.committed.0,
        released: m.released.0,
    }
}

fn message_from_wire(wire: peer_envelope::Message) -> Result<Message, WireError> {
    use peer_envelope::Message as Wire;
    Ok(match wire {
        Wire::Heartbeat(m) => Message::Heartbeat(heartbeat(m)?),
        Wire::HeartbeatReply(m) => Message::HeartbeatReply(HeartbeatReply {
            term: m.term.map(|t| term(Some(t))).transpose()?,
            sent_at: Moment(m.sent_at),
            follows: m.follows,
        }),
        Wire::PreVote(m) => Message::PreVote(PreVote { number: m.number, handover: m.handover }),
        Wire::PreVoteReply(m) => Message::PreVoteReply(PreVoteReply {
            number: m.number,
            granted: m.granted,
            seen: m.seen,
            stands: m.stands,
        }),
        Wire::Prepare(m) => Message::Prepare(Prepare { term: term(m.term)?, handover: m.handover }),
        Wire::Promise(m) => Message::Promise(promise(m)?),
        Wire::Fetch(m) => Message::Fetch(Fetch { term: term(m.term)?, after: position(m.after)? }),
        Wire::Fetched(m) => Message::Fetched(fetched(m)?),
        Wire::Append(m) => Message::Append(append(m)?),
        Wire::Appended(m) => Message::Appended(appended(m)?),
        Wire::Handover(m) => Message::Handover { term: term(m.term)? },
    })
}

fn heartbeat(m: wire::PeerHeartbeat) -> Result<Heartbeat, WireError> {
    Ok(Heartbeat {
        term: m.term.map(|t| term(Some(t))).transpose()?,
        leads: m.leads,
        sent_at: Moment(m.sent_at),
        durable: position(m.durable)?,
        committed: Lsn(m.committed),
        released: Lsn(m.released),
        applied: Lsn(m.applied),
        eligible: m.eligible,
        cluster: cluster(&m.cluster)?,
        // A code of a later program that does not fit is unknown here in any case.
        database: u8::try_from(m.database).unwrap_or_default(),
        behind: m.behind,
    })
}

fn promise(m: wire::PeerPromise) -> Result<Promise, WireError> {
    let founding = m
        .founding
        .map(|f| {
            let plan = array("plan", &f.plan)?;
            Ok(Founding { plan, db_position: f.db_position, never_leader: f.never_leader })
        })
        .transpose()?;
    Ok(Promise {
        term: term(m.term)?,
        granted: m.granted,
        seen: m.seen,
        last: position(m.last)?,
        founding,
    })
}

fn fetched(m: wire::PeerFetched) -> Result<Fetched, WireError> {
    Ok(Fetched {
        term: term(m.term)?,
        after: position(m.after)?,
        result: match m.result.ok_or(WireError::Missing("result"))? {
            peer_fetched::Result::Run(wire) => Ok(run(wire)?),
            peer_fetched::Result::Hint(hint) => Err(position(Some(hint))?),
        },
        last: position(m.last)?,
    })
}

fn append(m: wire::PeerAppend) -> Result<Append, WireError> {
    Ok(Append {
        term: term(m.term)?,
        previous: position(m.previous)?,
        run: run(m.run.ok_or(WireError::Missing("run"))?)?,
        committed: Lsn(m.committed),
        released: Lsn(m.released),
    })
}

fn appended(m: wire::PeerAppended) -> Result<Appended, WireError> {
    Ok(Appended {
        term: term(m.term)?,
        result: match m.result.ok_or(WireError::Missing("result"))? {
            peer_appended::Result::Durable(lsn) => Ok(Lsn(lsn)),
            peer_appended::Result::Hint(hint) => Err(position(Some(hint))?),
        },
    })
}

#[cfg(test)]
mod tests;
