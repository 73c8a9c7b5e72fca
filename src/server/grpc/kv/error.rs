//! The one place that maps the KV's errors to gRPC statuses, and back.

use prost::Message as _;
use tonic::{Code, Status};

use crate::{
    apply::Refusal,
    kv::{KvError, Rejection, outcome::KvRefusal},
    store::StoreError,
    types::NodeId,
    wire::{self, kv_error},
};

const TYPE_URL: &str = "type.googleapis.com/wolfscale.v1.KvError";

/// The status of an error; `address` knows where a node is.
pub fn status(error: &KvError, address: impl Fn(&NodeId) -> Option<String>) -> Status {
    let (grpc, code) = codes(error);
    let leader = match error {
        KvError::Rejected(Rejection::NotLeader { leader }) => leader.as_ref(),
        KvError::Rejected(Rejection::LeaderUnreachable { leader, .. }) => Some(leader),
        _ => None,
    };
    let (happened, may_retry) = match error {
        KvError::Rejected(rejection) => (kv_error::Happened::No, rejection.may_retry()),
        KvError::Indeterminate(_) => (kv_error::Happened::Maybe, true),
    };
    let first_revision = match error {
        KvError::Rejected(Rejection::Compacted { first }) => first.0,
        _ => 0,
    };
    with_details(
        grpc,
        wire::KvError {
            code: code.into(),
            message: error.to_string(),
            happened: happened.into(),
            may_retry,
            leader: leader.map(ToString::to_string).unwrap_or_default(),
            leader_address: leader.and_then(address).unwrap_or_default(),
            first_revision,
        },
    )
}

fn with_details(code: Code, error: wire::KvError) -> Status {
    let value = error.encode_to_vec().into();
    let details = wire::KvStatusDetails {
        code: code as i32,
        message: error.message.clone(),
        details: vec![wire::KvStatusDetail { type_url: TYPE_URL.to_owned(), value }],
    };
    Status::with_details(code, error.message, details.encode_to_vec().into())
}

/// The error in a status, if it is one of ours.
pub fn details(status: &Status) -> Option<wire::KvError> {
    let details = wire::KvStatusDetails::decode(status.details()).ok()?;
    let detail = details.details.into_iter().find(|detail| detail.type_url == TYPE_URL)?;
    wire::KvError::decode(detail.value).ok()
}

fn codes(error: &KvError) -> (Code, kv_error::Code) {
    use kv_error::Code as Kv;
    let rejection = match error {
        KvError::Indeterminate(_) => return (Code::Unknown, Kv::Indeterminate),
        KvError::Rejected(rejection) => rejection,
    };
    match rejection {
        Rejection::NotLeader { .. } => (Code::Unavailable, Kv::NotLeader),
        Rejection::LeaderUnreachable { .. } => (Code::Unavailable, Kv::LeaderUnreachable),
        Rejection::Behind { .. } => (Code::Unavailable, Kv::Behind),
        Rejection::Unavailable(_) => (Code::Unavailable, Kv::Unavailable),
        Rejection::Overloaded => (Code::ResourceExhausted, Kv::Overloaded),
        Rejection::TooManySessions
        | Rejection::Session(Refusal::TooManyAnswers)
        | Rejection::Command(KvRefusal::LeaseFull | KvRefusal::TooManyLeases) => {
            (Code::ResourceExhausted, Kv::TooMany)
        }
        Rejection::Invalid(_)
        | Rejection::Command(KvRefusal::KeyInvalid | KvRefusal::ValueTooLarge) => {
            (Code::InvalidArgument, Kv::Invalid)
        }
        Rejection::Session(Refusal::SessionUnknown) => {
            (Code::FailedPrecondition, Kv::SessionUnknown)
        }
        Rejection::Session(Refusal::AnswerForgotten) => {
            (Code::FailedPrecondition, Kv::AnswerForgotten)
        }
        Rejection::Command(KvRefusal::LeaseUnknown) => (Code::FailedPrecondition, Kv::LeaseUnknown),
        Rejection::Command(KvRefusal::LeaseExists) => (Code::FailedPrecondition, Kv::LeaseExists),
        Rejection::Compacted { .. } => (Code::OutOfRange, Kv::Compacted),
    }
}

/// A read that the store refused.
pub fn failed(error: &StoreError) -> KvError {
    Rejection::Unavailable(error.to_string()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Lsn;

    #[test]
    fn a_status_says_what_happened_and_who_leads() {
        let n2: NodeId = "n2".parse().expect("valid");
        let address = |id: &NodeId| Some(format!("{id}:8080"));
        let not_leader = KvError::from(Rejection::NotLeader { leader: Some(n2) });
        let found = details(&status(&not_leader, address)).expect("ours");
        assert_eq!(found.code(), kv_error::Code::NotLeader);
        assert_eq!((found.happened(), found.may_retry), (kv_error::Happened::No, true));
        assert_eq!((&*found.leader, &*found.leader_address), ("n2", "n2:8080"));

        let maybe = KvError::Indeterminate("the answer was lost".to_owned());
        let status_of_it = status(&maybe, address);
        let found = details(&status_of_it).expect("ours");
        assert_eq!(status_of_it.code(), Code::Unknown);
        assert_eq!((found.happened(), found.may_retry), (kv_error::Happened::Maybe, true));

        let compacted = KvError::from(Rejection::Compacted { first: Lsn(7) });
        let found = details(&status(&compacted, address)).expect("ours");
        assert_eq!((found.first_revision, found.may_retry), (7, false));
        assert_eq!(details(&Status::unavailable("from the network")), None);
    }
}
