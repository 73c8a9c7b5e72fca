//! Starting a capture, and what its owner may ask of it.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{
    CaptureError, CaptureSettings, Groups, IN_FLIGHT_BYTES_MAX, IN_FLIGHT_MAX,
    acknowledge::{Acknowledger, Order},
    canonical_format, connect,
    ingest::Ingest,
};
use crate::{
    db::gtid::Gtid,
    replicate::propose::Proposer,
    tasks::{OnEnd, Tasks},
    types::Term,
};

/// Orders that may wait.
const ORDERS_WAITING_MAX: usize = 4;

/// Where a capture is in its life.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CaptureState {
    /// It proposes what the database commits, and acknowledges what is released.
    Running {
        /// The newest transaction that was acknowledged, or the one that it connected at.
        acked: Option<Gtid>,
    },
    /// Its epoch is over: it proposes and acknowledges nothing by itself, but keeps the connection,
    /// so that the groups on their way can be acknowledged by [`CaptureHandle::ack_through`].
    Holding {
        /// The newest transaction that was acknowledged.
        acked: Option<Gtid>,
        /// What ended the epoch.
        why: String,
    },
    /// The connection is closed.
    Ended {
        /// The newest transaction that was acknowledged.
        acked: Option<Gtid>,
        /// Why.
        why: String,
        /// It was lost while its epoch ran: everything that was proposed until then is in the log,
        /// or will be while the term goes on.
        lost: bool,
    },
}

impl CaptureState {
    /// Why it takes no more commits, once that is so.
    pub fn over(&self) -> Option<&str> {
        match self {
            Self::Running { .. } => None,
            Self::Holding { why, .. } | Self::Ended { why, .. } => Some(why),
        }
    }
}

/// Why [`CaptureHandle::ack_through`] did not do it. Rejected: nothing was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AckError {
    /// The connection is closed.
    #[error("the capture has ended: {0}")]
    Ended(String),
    /// A group on its way has that sequence number, but is another one.
    #[error("{asked} was not captured: its number is that of {captured}")]
    Other {
        /// What was asked for.
        asked: Gtid,
        /// What is on its way.
        captured: Gtid,
    },
}

/// Where a capture begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Beginning {
    /// Behind the last transaction of the log.
    Behind(Option<Gtid>),
    /// Where an earlier capture of this term was lost: behind what it acknowledged last.
    Resumed {
        /// That transaction.
        acked: Option<Gtid>,
        /// What the log holds behind it: all of it is released, and is acknowledged as it comes.
        held: VecDeque<Gtid>,
    },
}

/// Capture of the local database.
#[derive(Debug)]
pub struct Capture;

impl Capture {
    /// Connects where it begins, and captures in `term`.
    /// `format_in_log` is the newest binlog format that the log holds. Returns once the binlog
    /// stream has begun. A place that the server does not know is an error, or ends the capture.
    ///
    /// Cancel safe: dropped, the connection is closed, and nothing was proposed.
    pub async fn start(
        settings: CaptureSettings,
        term: Term,
        beginning: Beginning,
        format_in_log: Option<Bytes>,
        proposer: Proposer,
        tasks: &Tasks,
    ) -> Result<CaptureHandle, CaptureError> {
        let resumed = matches!(beginning, Beginning::Resumed { .. });
        let (from, held) = match beginning {
            Beginning::Behind(tail) => (tail, VecDeque::new()),
            Beginning::Resumed { acked, held } => (acked, held),
        };
        let stream = connect::connect(&settings, from).await?;
        let (state_tx, state_rx) = watch::channel(CaptureState::Running { acked: from });
        let (arrivals_tx, arrivals_rx) = mpsc::channel(IN_FLIGHT_MAX);
        let (orders_tx, orders_rx) = mpsc::channel(ORDERS_WAITING_MAX);
        let close = tasks.stopping().child_token();
        let holding = close.child_token();
        let ingest = Ingest {
            reader: stream.reader,
            groups: Groups::default(),
            term,
            last: held.back().copied().or(from),
            held,
            resumed,
            format: format_in_log.and_then(|event| canonical_format(&event).ok()),
            proposer,
            arrivals_tx,
            room: Arc::new(Semaphore::new(IN_FLIGHT_BYTES_MAX)),
            holding: holding.clone(),
            close: close.clone(),
        };
        let reading = tasks.spawn("capture", OnEnd::Ignore, ingest.run(stream.first));
        let acknowledger = Acknowledger {
            writer: stream.writer,
            arrivals_rx,
            orders_rx,
            state_tx,
            holding,
            close: close.clone(),
            acked: from,
            through: None,
        };
        let name = "capture acknowledger";
        tasks.spawn(name, OnEnd::Ignore, acknowledger.run(reading));
        Ok(CaptureHandle { state_rx, orders_tx, close })
    }
}

/// A capture that was started. Dropping it closes the connection; nothing is acknowledged by that.
#[derive(Debug)]
pub struct CaptureHandle {
    state_rx: watch::Receiver<CaptureState>,
    orders_tx: mpsc::Sender<Order>,
    close: CancellationToken,
}

impl CaptureHandle {
    /// Its state, to read and to watch.
    pub fn state(&self) -> watch::Receiver<CaptureState> {
        self.state_rx.clone()
    }

    /// Ends the epoch, if that has not happened, and acknowledges the groups on their way up to
    /// `gtid`, which the log holds although this term is over. Returns when the acknowledgement is
    /// written.
    ///
    /// Not cancel safe: dropped, it may still be acknowledged.
    pub async fn ack_through(&self, gtid: Gtid) -> Result<(), AckError> {
        let (answer, answered) = oneshot::channel();
        let ordered = self.orders_tx.send(Order { through: gtid, answer }).await;
        let answered = match ordered {
            Ok(()) => answered.await.ok(),
            Err(_) => None,
        };
        answered.unwrap_or_else(|| {
            let why = self.state_rx.borrow().over().unwrap_or_default().to_owned();
            Err(AckError::Ended(why))
        })
    }

    /// Closes the connection without acknowledging anything more; returns when it is closed.
    pub async fn stop(&self) {
        self.close.cancel();
        let mut state = self.state_rx.clone();
        // An error means that the task is gone, and the connection with it.
        let _gone = state.wait_for(|s| matches!(s, CaptureState::Ended { .. })).await;
    }
}

impl Drop for CaptureHandle {
    fn drop(&mut self) {
        self.close.cancel();
    }
}
