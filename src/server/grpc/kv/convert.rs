//! Between the wire and the KV.

use bytes::Bytes;

use crate::{
    apply::SessionOutcome,
    kv::{
        Applied, KvError, Rejection,
        command::LeaseId,
        outcome::KvOutcome,
        reader::{Event, Pair},
    },
    types::{Lsn, RequestId},
    wire,
};

/// A request's ID, if it has one.
pub fn request(id: Option<wire::KvRequestId>) -> Result<Option<RequestId>, KvError> {
    let Some(id) = id else { return Ok(None) };
    Ok(Some(RequestId { session: session(&id.session)?, number: id.number }))
}

/// A session's ID.
pub fn session(bytes: &Bytes) -> Result<[u8; 16], KvError> {
    let wrong = |_| Rejection::Invalid(format!("a session has 16 bytes, not {}", bytes.len()));
    Ok(<[u8; 16]>::try_from(&bytes[..]).map_err(wrong)?)
}

/// A lease's ID; zero is none.
pub fn lease(id: u64) -> Option<LeaseId> {
    (id != 0).then_some(LeaseId(id))
}

/// The part of an answer that all have.
pub fn applied<T>(done: &Applied<T>) -> Option<wire::KvApplied> {
    let (forced, repeated) = (done.forced, done.repeated);
    Some(wire::KvApplied { revision: done.lsn.0, forced, repeated })
}

/// The answer of a put.
pub fn put(done: Applied<KvOutcome>) -> Result<wire::KvPutResponse, KvError> {
    let applied = applied(&done);
    match done.result {
        KvOutcome::Put { previous } => {
            Ok(wire::KvPutResponse { applied, previous_revision: previous.0 })
        }
        other => Err(unexpected(other)),
    }
}

/// The answer of a delete.
pub fn delete(done: Applied<KvOutcome>) -> Result<wire::KvDeleteResponse, KvError> {
    let applied = applied(&done);
    match done.result {
        KvOutcome::Deleted { previous } => {
            Ok(wire::KvDeleteResponse { applied, previous_revision: previous.0 })
        }
        other => Err(unexpected(other)),
    }
}

/// The answer of a compare-and-set.
pub fn compare_and_set(done: Applied<KvOutcome>) -> Result<wire::KvCompareAndSetResponse, KvError> {
    let applied = applied(&done);
    let answer = |succeeded, previous: Lsn| wire::KvCompareAndSetResponse {
        applied,
        succeeded,
        previous_revision: previous.0,
    };
    match done.result {
        KvOutcome::Put { previous } | KvOutcome::Deleted { previous } => Ok(answer(true, previous)),
        KvOutcome::Conflict { present } => Ok(answer(false, present)),
        other => Err(unexpected(other)),
    }
}

/// When a lease ends that was granted or kept alive.
pub fn lease_deadline(done: &Applied<KvOutcome>) -> Result<u64, KvError> {
    match done.result {
        KvOutcome::LeaseAlive { expires_ms } => Ok(expires_ms),
        other => Err(unexpected(other)),
    }
}

/// How many keys went with a lease.
pub fn lease_keys(done: &Applied<KvOutcome>) -> Result<u32, KvError> {
    match done.result {
        KvOutcome::LeaseEnded { keys } => Ok(keys),
        other => Err(unexpected(other)),
    }
}

/// When a session ends; zero for one that has.
pub fn session_deadline(done: &Applied<SessionOutcome>) -> u64 {
    match done.result {
        SessionOutcome::Open { expires_ms } => expires_ms,
        _ => 0,
    }
}

/// A refusal, or the answer of another command: a request's number was used twice.
fn unexpected(outcome: KvOutcome) -> KvError {
    match outcome {
        KvOutcome::Refused(refusal) => Rejection::Command(refusal).into(),
        other => Rejection::Invalid(format!(
            "this number of the session was used for another request, whose answer was {other:?}"
        ))
        .into(),
    }
}

/// A pair.
pub fn pair(pair: Pair) -> wire::KvPair {
    wire::KvPair {
        key: pair.key,
        value: pair.value,
        revision: pair.revision.0,
        created_revision: pair.created.0,
        lease_id: pair.lease.map_or(0, |lease| lease.0),
    }
}

/// An event.
pub fn event(event: Event) -> wire::KvEvent {
    wire::KvEvent {
        revision: event.revision.0,
        key: event.key,
        value: event.value,
        lease_id: event.lease.map_or(0, |lease| lease.0),
        previous_revision: event.previous.0,
    }
}
