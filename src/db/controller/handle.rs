//! The node's side of the controller.

use tokio::sync::{mpsc, oneshot, watch};

use super::rebuilt::{Rebuilt, RebuiltError};
use crate::{db::status::DbStatus, types::Term};

/// Requests that may wait; the node makes one at a time.
pub(super) const REQUESTS_WAITING_MAX: usize = 4;

/// The controller asks the node to give up this term's lead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StepDown {
    /// The term; one that is over needs nothing.
    pub term: Term,
    /// Why.
    pub reason: String,
}

/// Why writes were not closed; they are open again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseError {
    /// Rejected: the database does not lead.
    #[error("the local database does not lead")]
    NotLeading,
    /// Rejected: what was under way did not end in time, or the database failed.
    #[error("close writes: {0}")]
    Failed(String),
    /// The controller has ended.
    #[error("the controller has ended")]
    Ended,
}

/// What the node may ask.
#[derive(Debug)]
pub(super) enum Request {
    /// Close writes for a graceful hand-over.
    CloseWrites(oneshot::Sender<Result<(), CloseError>>),
    /// The hand-over for which writes were closed did not come about.
    OpenWrites,
    /// Take back a database that was rebuilt.
    TakeBack(oneshot::Sender<Result<Rebuilt, RebuiltError>>),
}

/// The node's side. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ControllerHandle {
    pub(super) status_rx: watch::Receiver<DbStatus>,
    pub(super) step_down_rx: watch::Receiver<Option<StepDown>>,
    pub(super) requests_tx: mpsc::Sender<Request>,
}

impl ControllerHandle {
    /// The database's status.
    pub fn status(&self) -> watch::Receiver<DbStatus> {
        self.status_rx.clone()
    }

    /// The newest request to step down; it comes again every second until the lead is given up. A
    /// node that keeps it for long fails: the supervisor starts it again, as a follower.
    pub fn step_down(&self) -> watch::Receiver<Option<StepDown>> {
        self.step_down_rx.clone()
    }

    /// Closes writes, and returns when everything that was committed is released: call it *before*
    /// the replica stops taking proposals. If the lead is not handed over soon after, writes open
    /// again by themselves.
    ///
    /// Not cancel safe: dropped, writes may close nevertheless, and open again.
    pub async fn close_writes(&self) -> Result<(), CloseError> {
        let (answer, answered) = oneshot::channel();
        let asked = self.requests_tx.send(Request::CloseWrites(answer)).await;
        asked.map_err(|_| CloseError::Ended)?;
        answered.await.unwrap_or(Err(CloseError::Ended))
    }

    /// The hand-over did not come about: writes open again at once, if this node still leads.
    pub async fn open_writes(&self) {
        // If the controller has ended, the node stops anyway.
        let _ended = self.requests_tx.send(Request::OpenWrites).await;
    }

    /// Takes back a database that had to be migrated, once it is a copy of another node's.
    ///
    /// Not cancel safe: dropped, it may be taken back nevertheless.
    pub async fn take_back(&self) -> Result<Rebuilt, RebuiltError> {
        let (answer, answered) = oneshot::channel();
        let asked = self.requests_tx.send(Request::TakeBack(answer)).await;
        asked.map_err(|_| RebuiltError::Ended)?;
        answered.await.unwrap_or(Err(RebuiltError::Ended))
    }
}
