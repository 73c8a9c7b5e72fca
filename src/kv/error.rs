//! Why a request of the KV has no answer: *rejected* (it did not happen) or *indeterminate*.

use super::outcome::KvRefusal;
use crate::{
    apply::Refusal,
    replicate::propose::ProposeError,
    types::{Lsn, NodeId},
};

/// A request failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KvError {
    /// This attempt did not happen, and will not.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// It may have happened, or may happen yet. Retry it with the same session and number.
    #[error("it may or may not have happened: {0}")]
    Indeterminate(String),
}

/// Why an attempt did not happen. It says nothing of earlier attempts of the same request.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Rejection {
    /// Only the leader can do it.
    #[error("this node does not lead{}", .leader.as_ref().map(|l| format!("; {l} does")).unwrap_or_default())]
    NotLeader {
        /// Who does, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// The leader cannot be reached from here.
    #[error("{leader}, which leads, cannot be reached: {what}")]
    LeaderUnreachable {
        /// The leader.
        leader: NodeId,
        /// What the network said.
        what: String,
    },
    /// Too much is waiting already.
    #[error("too many requests are waiting")]
    Overloaded,
    /// This node has not applied what the read must see.
    #[error("this node has applied {applied}, and the read must see {wanted}")]
    Behind {
        /// What must be seen.
        wanted: Lsn,
        /// What is applied.
        applied: Lsn,
    },
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The session does not allow it.
    #[error("{}", session_text(*.0))]
    Session(Refusal),
    /// There are too many sessions.
    #[error("there are too many sessions")]
    TooManySessions,
    /// The command changed nothing.
    #[error("{}", command_text(*.0))]
    Command(KvRefusal),
    /// What was to be watched is forgotten.
    #[error(
        "the history before revision {first} is forgotten: read the keys, then watch from there"
    )]
    Compacted {
        /// The first revision that can be watched from.
        first: Lsn,
    },
    /// The node is stopping, or its store failed: another node may do better.
    #[error("{0}")]
    Unavailable(String),
}

impl Rejection {
    /// Whether the same request may succeed later, or at another node.
    pub fn may_retry(&self) -> bool {
        match self {
            Self::NotLeader { .. }
            | Self::LeaderUnreachable { .. }
            | Self::Overloaded
            | Self::Behind { .. }
            | Self::TooManySessions
            | Self::Unavailable(_) => true,
            Self::Session(refusal) => *refusal == Refusal::TooManyAnswers,
            Self::Invalid(_) | Self::Command(_) | Self::Compacted { .. } => false,
        }
    }
}

impl From<ProposeError> for KvError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { leader } => Rejection::NotLeader { leader }.into(),
            ProposeError::TermOver => Rejection::NotLeader { leader: None }.into(),
            ProposeError::Overloaded => Rejection::Overloaded.into(),
            ProposeError::TooLarge { .. } | ProposeError::Change(_) => {
                Rejection::Invalid(error.to_string()).into()
            }
            ProposeError::Indeterminate => Self::Indeterminate(
                "the leader lost the lead, or stopped, before the cluster had answered".to_owned(),
            ),
        }
    }
}

fn session_text(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::SessionUnknown => {
            "there is no such session, or it has expired: this attempt was not executed, and \
             whether an earlier one was is no longer known"
        }
        Refusal::AnswerForgotten => {
            "the client said that it has the answer of this request: it is forgotten"
        }
        Refusal::TooManyAnswers => {
            "the session has too many answers that its client has not confirmed: keep it alive \
             with the number up to which it has them"
        }
    }
}

fn command_text(refusal: KvRefusal) -> &'static str {
    match refusal {
        KvRefusal::LeaseUnknown => "there is no such lease, or it has expired",
        KvRefusal::LeaseExists => "there is such a lease, with another time to live",
        KvRefusal::LeaseFull => "the lease has as many keys as it may",
        KvRefusal::TooManyLeases => "there are as many leases as there may be",
        KvRefusal::KeyInvalid => "a key has 1 to 1024 bytes",
        KvRefusal::ValueTooLarge => "a value has at most 61440 bytes",
    }
}
