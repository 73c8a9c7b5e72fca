//! How far things have come, and waiting for it: nothing sleeps to wait.
//!
//! ```text
//! appended ≥ durable              what this node holds
//! committed ≥ released ≥ applied  what the cluster decided · what the outside may see · what was applied
//! ```

use tokio::sync::watch;

use crate::types::Lsn;

/// The side that moves a watermark.
#[derive(Debug)]
pub struct WatermarkSetter(watch::Sender<Lsn>);

/// The side that reads a watermark and waits for it.
#[derive(Clone, Debug)]
pub struct Watermark(watch::Receiver<Lsn>);

/// The node is stopping: the watermark will not move again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node is stopping")]
pub struct Stopped;

/// A watermark at `start`.
pub fn watermark(start: Lsn) -> (WatermarkSetter, Watermark) {
    let (tx, rx) = watch::channel(start);
    (WatermarkSetter(tx), Watermark(rx))
}

impl WatermarkSetter {
    /// Moves it; waiters wake only if it changed. `appended` may move back by a truncation.
    pub fn set(&self, to: Lsn) {
        self.0.send_if_modified(|at| {
            let moved = *at != to;
            *at = to;
            moved
        });
    }

    /// Where it is.
    pub fn at(&self) -> Lsn {
        *self.0.borrow()
    }
}

impl Watermark {
    /// Where it is now.
    pub fn at(&self) -> Lsn {
        *self.0.borrow()
    }

    /// Waits until it is at `lsn` or past it. Cancel safe: it takes nothing.
    pub async fn reached(&mut self, lsn: Lsn) -> Result<Lsn, Stopped> {
        self.0.wait_for(|at| *at >= lsn).await.map(|at| *at).map_err(|_| Stopped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiters_wake_when_it_is_reached_and_when_it_ends() {
        let (setter, mark) = watermark(Lsn(3));
        assert_eq!(mark.clone().reached(Lsn(2)).await, Ok(Lsn(3)));
        let mut waiting = mark.clone();
        let task = tokio::spawn(async move { waiting.reached(Lsn(5)).await });
        setter.set(Lsn(4));
        setter.set(Lsn(6));
        assert_eq!(task.await.expect("joins"), Ok(Lsn(6)));
        let mut waiting = mark.clone();
        drop(setter);
        assert_eq!(waiting.reached(Lsn(7)).await, Err(Stopped));
    }
}
