//! One question to the replica serves all reads that wait while the one before is on its way.

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::limits::REQUESTS_WAITING_MAX;
use crate::{replicate::driver::Request, types::Lsn};

/// A read that waits for its index; it gets `None` where this node does not lead.
pub type Waiting = oneshot::Sender<Option<Lsn>>;

/// The ends of the queue of reads: the front's and the task's.
pub fn channel() -> (mpsc::Sender<Waiting>, mpsc::Receiver<Waiting>) {
    mpsc::channel(REQUESTS_WAITING_MAX)
}

/// Asks the replica, one question at a time, until it is stopped. A read is answered by a question
/// that was asked after it came, never by one that was on its way already.
pub async fn run(
    mut reads: mpsc::Receiver<Waiting>,
    requests: mpsc::Sender<Request>,
    stop: CancellationToken,
) {
    let mut waiting = Vec::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            count = reads.recv_many(&mut waiting, REQUESTS_WAITING_MAX) => if count == 0 { return },
        }
        let (answer, index) = oneshot::channel();
        // If the driver is gone, so is the answer's sender.
        let _stopping = requests.send(Request::ReadIndex(answer)).await;
        let index = index.await.unwrap_or(None);
        for read in waiting.drain(..) {
            // Whoever asked may have gone.
            let _gone = read.send(index);
        }
    }
}
