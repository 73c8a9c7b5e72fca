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

#[cfg(test)]
mod tests {
    use super::*;

    async fn question(requests: &mut mpsc::Receiver<Request>) -> oneshot::Sender<Option<Lsn>> {
        match requests.recv().await {
            Some(Request::ReadIndex(answer)) => answer,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_read_is_answered_by_a_question_that_was_asked_after_it_came() {
        let (reads, reads_rx) = channel();
        let (requests, mut requests_rx) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(reads_rx, requests, stop.clone()));
        let read = || {
            let (waiting, index) = oneshot::channel();
            reads.try_send(waiting).expect("the task runs, and there is room");
            index
        };
        let first = read();
        let asked = question(&mut requests_rx).await;
        let (second, third) = (read(), read());
        asked.send(Some(Lsn(5))).expect("it waits");
        assert_eq!(first.await, Ok(Some(Lsn(5))));
        question(&mut requests_rx).await.send(Some(Lsn(8))).expect("it waits");
        assert_eq!((second.await, third.await), (Ok(Some(Lsn(8))), Ok(Some(Lsn(8)))));
        assert!(requests_rx.try_recv().is_err(), "one question for both");
        stop.cancel();
        task.await.expect("joins");
    }
}
