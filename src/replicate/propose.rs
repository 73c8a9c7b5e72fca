//! Handing a command to the log, and learning what became of it.

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::replica::ChangeRefused;
use crate::{
    log::entry::EntryKind,
    types::{Lsn, NodeId, Position, RequestId, Term},
};

/// How many proposals may wait for the replica; more wait at the door.
pub const PROPOSALS_WAITING_MAX: usize = 4096;

/// A command on its way to the log.
#[derive(Debug)]
pub struct Proposal {
    /// What the body is.
    pub kind: EntryKind,
    /// The sealed command, of any size; the log splits it.
    pub body: Bytes,
    /// Makes a retry happen once.
    pub request: Option<RequestId>,
    /// If set, the command is good only in this term; in any other it is rejected.
    pub only_in: Option<Term>,
    /// Where the answer goes; given when the command is *released*, or cannot be.
    pub answer: oneshot::Sender<Result<Released, ProposeError>>,
}

/// The cluster has it: durable where the policy promises, and safe to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// Of its last entry.
    pub position: Position,
    /// LSN of its first entry.
    pub first: Lsn,
    /// Given under an unratified fork (DESIGN §2.3); always false while forks do not exist.
    pub forced: bool,
}

/// Why there is no [`Released`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Rejected: it did not happen. This node does not lead; the other one, if known, does.
    #[error("this node does not lead{}", .leader.as_ref().map(|l| format!("; {l} does")).unwrap_or_default())]
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// Rejected: it did not happen. It was meant for a term that is over.
    #[error("the term it was meant for is over")]
    TermOver,
    /// Rejected: it did not happen. Too much is waiting already.
    #[error("too many commands are waiting for a quorum")]
    Overloaded,
    /// Rejected: it did not happen.
    #[error("the command has {bytes} bytes, over {max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Rejected: it did not happen. A change of the membership that makes no sense, or comes too
    /// early.
    #[error(transparent)]
    Change(#[from] ChangeRefused),
    /// Indeterminate: leadership or the node ended while it waited. It may be released later.
    #[error("leadership ended before the cluster answered: it may or may not have happened")]
    Indeterminate,
}

/// Hands commands to the local replica, in order. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Proposer(mpsc::Sender<Proposal>);

impl Proposer {
    /// A proposer and the end that the replica (or a test) reads.
    pub fn channel() -> (Self, mpsc::Receiver<Proposal>) {
        let (tx, rx) = mpsc::channel(PROPOSALS_WAITING_MAX);
        (Self(tx), rx)
    }

    /// Queues a command behind those that this proposer queued before, and returns its answer to
    /// be awaited; so a caller can have many on their way, in order.
    ///
    /// Cancel safe: if dropped while it waits for room, nothing was queued.
    pub async fn submit(
        &self,
        kind: EntryKind,
        body: Bytes,
        only_in: Option<Term>,
    ) -> oneshot::Receiver<Result<Released, ProposeError>> {
        self.send(kind, body, None, only_in).await
    }

    /// Queues a command of a client's request and waits for its answer. That it is released does
    /// not say that it was executed: its outcome does, where it is applied.
    ///
    /// Not cancel safe: dropped after queueing, the command may still happen.
    pub async fn propose_request(
        &self,
        kind: EntryKind,
        body: Bytes,
        request: Option<RequestId>,
    ) -> Result<Released, ProposeError> {
        let answered = self.send(kind, body, request, None).await;
        answered.await.unwrap_or(Err(ProposeError::Indeterminate))
    }

    async fn send(
        &self,
        kind: EntryKind,
        body: Bytes,
        request: Option<RequestId>,
        only_in: Option<Term>,
    ) -> oneshot::Receiver<Result<Released, ProposeError>> {
        let (answer, answered) = oneshot::channel();
        let proposal = Proposal { kind, body, request, only_in, answer };
        // If the replica is gone, so is the answer's sender: the caller sees a closed channel.
        let _gone = self.0.send(proposal).await;
        answered
    }

    /// Queues a command and waits for its answer.
    ///
    /// Not cancel safe: dropped after queueing, the command may still happen.
    pub async fn propose(
        &self,
        kind: EntryKind,
        body: Bytes,
        only_in: Option<Term>,
    ) -> Result<Released, ProposeError> {
        let answered = self.submit(kind, body, only_in).await;
        answered.await.unwrap_or(Err(ProposeError::Indeterminate))
    }
}
