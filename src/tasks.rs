//! Every task has a name, a span and a meaning of its end. Nothing spawns without it.

use std::{fmt::Display, future::Future, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, error, error_span};

/// What it means when a task ends by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnEnd {
    /// Nothing: it was done.
    Ignore,
    /// The node cannot go on: unless it is stopping already, it stops.
    StopNode,
}

/// The node's tasks. Cheap to clone; all clones are the same group.
#[derive(Clone, Debug)]
pub struct Tasks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tracker: TaskTracker,
    stop: CancellationToken,
    fatal: watch::Sender<Option<String>>,
}

impl Default for Tasks {
    fn default() -> Self {
        let (fatal, _) = watch::channel(None);
        Self(Arc::new(Inner { tracker: TaskTracker::new(), stop: CancellationToken::new(), fatal }))
    }
}

impl Tasks {
    /// Runs a future as a named task.
    pub fn spawn<F>(&self, name: &'static str, on_end: OnEnd, future: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let tasks = self.clone();
        let watched = async move {
            let _end = EndOf { tasks, name, on_end };
            future.await;
        };
        self.0.tracker.spawn(watched.instrument(error_span!("task", name)))
    }

    /// Cancelled when the node stops; every loop selects on it.
    pub fn stopping(&self) -> CancellationToken {
        self.0.stop.clone()
    }

    /// Asks all tasks to end.
    pub fn stop(&self) {
        self.0.stop.cancel();
    }

    /// Stops the node because it must not go on; the first reason is kept.
    pub fn fail(&self, reason: impl Display) {
        let reason = reason.to_string();
        error!(reason, "the node cannot go on");
        self.0.fatal.send_if_modified(|kept| {
            let first = kept.is_none();
            kept.get_or_insert(reason);
            first
        });
        self.stop();
    }

    /// Why the node failed, if it did.
    pub fn failure(&self) -> Option<String> {
        self.0.fatal.borrow().clone()
    }

    /// Waits until all tasks have ended, or `deadline` is over; tells whether they have.
    pub async fn ended(&self, deadline: Duration) -> bool {
        self.0.tracker.close();
        tokio::time::timeout(deadline, self.0.tracker.wait()).await.is_ok()
    }
}

/// Notices the end of a task also when it panics or is dropped.
struct EndOf {
    tasks: Tasks,
    name: &'static str,
    on_end: OnEnd,
}

impl Drop for EndOf {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tasks.fail(format!("task {} panicked", self.name));
        } else if self.on_end == OnEnd::StopNode && !self.tasks.0.stop.is_cancelled() {
            self.tasks.fail(format!("task {} ended", self.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_needed_task_stops_the_node() {
        let tasks = Tasks::default();
        tasks.spawn("chore", OnEnd::Ignore, async {}).await.expect("joins");
        assert!(!tasks.stopping().is_cancelled());
        tasks.spawn("core", OnEnd::StopNode, async {}).await.expect("joins");
        assert!(tasks.stopping().is_cancelled());
        assert_eq!(tasks.failure().as_deref(), Some("task core ended"));
        assert!(tasks.ended(Duration::from_secs(5)).await);
    }

    #[tokio::test]
    async fn a_panic_stops_the_node() {
        let tasks = Tasks::default();
        let joined = tasks.spawn("bad", OnEnd::Ignore, async { panic!("on purpose") }).await;
        assert!(joined.is_err());
        assert_eq!(tasks.failure().as_deref(), Some("task bad panicked"));
    }
}
