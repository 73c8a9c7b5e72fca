//! Leaving in order: close writes and hand the lead over; to stop, then end every task.

use std::time::Duration;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tracing::{info, warn};

use crate::{
    db::controller::ControllerHandle,
    replicate::{driver::Request, role::RoleView},
    tasks::Tasks,
    types::NodeId,
};

/// How long the database may take to finish what it has begun.
const CLOSE_WRITES_MAX: Duration = Duration::from_secs(10);
/// How long the heir may take to lead.
const HAND_OVER_MAX: Duration = Duration::from_secs(5);
/// How long the tasks may take to end.
const TASKS_END_MAX: Duration = Duration::from_secs(20);

/// Waits for a signal, or until the node fails or is orphaned.
pub(super) async fn asked(tasks: &Tasks, orphaned: impl Future<Output = ()>) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tasks.fail("cannot listen for signals");
        return;
    };
    tokio::select! {
        _ = terminate.recv() => info!("asked to stop by SIGTERM"),
        _ = interrupt.recv() => info!("asked to stop by SIGINT"),
        () = tasks.stopping().cancelled_owned() => {}
        () = orphaned => tasks.fail(ORPHANED),
    }
}

/// The failure of a node whose supervisor died.
pub(super) const ORPHANED: &str = "its supervisor is gone";

/// Gives the lead away, to `to` or to whoever ranks first, if it has it and somebody can take it.
pub(super) async fn hand_over(
    controller: Option<&ControllerHandle>,
    requests: &mpsc::Sender<Request>,
    mut role: watch::Receiver<RoleView>,
    to: Option<NodeId>,
) {
    if !role.borrow().leads() {
        return;
    }
    if let Some(controller) = controller {
        match timeout(CLOSE_WRITES_MAX, controller.close_writes()).await {
            Ok(Ok(())) => info!("writes are closed"),
            Ok(Err(error)) => warn!(%error, "writes were not closed"),
            Err(_) => warn!("writes were not closed within {CLOSE_WRITES_MAX:?}"),
        }
    }
    let (answer, heir) = oneshot::channel();
    // If the driver is gone, there is no lead to give.
    let _stopping = requests.send(Request::HandOver { to, answer }).await;
    if !heir.await.unwrap_or(false) {
        info!("nobody can take the lead");
        return;
    }
    match timeout(HAND_OVER_MAX, role.wait_for(|role| !role.leads())).await {
        Ok(_) => info!("the lead is handed over"),
        Err(_) => warn!("the lead was not taken within {HAND_OVER_MAX:?}"),
    }
}

/// Ends all tasks.
pub(super) async fn end(tasks: &Tasks) {
    tasks.stop();
    if !tasks.ended(TASKS_END_MAX).await {
        warn!("not all tasks ended within {TASKS_END_MAX:?}: stopping all the same");
    }
}
