//! The small tasks that carry news from one part of the node to another.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    database::base_of,
    status::{self, Fixed},
};
use crate::{
    db::{
        controller::{ControllerHandle, StepDown},
        index::DbIndex,
        status::DbStatus,
    },
    log::watermark::Watermark,
    replicate::{
        driver::{ReplicaView, Request},
        transport::grpc::GrpcTransport,
    },
    server::status::NodeStatus,
    types::ClusterId,
};

/// How often the status is put together while nothing changes: the others' silence grows.
const STATUS_EVERY: Duration = Duration::from_millis(100);

/// The database's health decides whether this node may lead; the others are told what it does.
pub(super) async fn fitness(
    mut db: watch::Receiver<DbStatus>,
    requests: mpsc::Sender<Request>,
    stop: CancellationToken,
) {
    let mut told = None;
    loop {
        let state = db.borrow_and_update().state;
        if told != Some(state) {
            told = Some(state);
            let (eligible, database) = (state.eligible(), state.code());
            // If the driver is gone, the node stops anyway.
            let _stopping = requests.send(Request::SetFitness { eligible, database }).await;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = db.changed() => if changed.is_err() { return },
        }
    }
}

/// When the controller cannot lead, the lead is handed over.
pub(super) async fn step_downs(
    controller: ControllerHandle,
    requests: mpsc::Sender<Request>,
    stop: CancellationToken,
) {
    let mut asked = controller.step_down();
    loop {
        let reason =
            asked.borrow_and_update().as_ref().map(|StepDown { reason, .. }| reason.clone());
        if let Some(reason) = reason {
            let (answer, heir) = oneshot::channel();
            // If the driver is gone, the node stops anyway.
            let _stopping = requests.send(Request::HandOver(answer)).await;
            if !heir.await.unwrap_or(false) {
                warn!(reason, "the lead should move on, but nobody else can take it");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = asked.changed() => if changed.is_err() { return },
        }
    }
}

/// The cluster's ID and base GTID, as the configuration brings them.
pub(super) async fn configuration(
    mut view: watch::Receiver<ReplicaView>,
    cluster: watch::Sender<Option<ClusterId>>,
    index: DbIndex,
    stop: CancellationToken,
) {
    loop {
        let found = view.borrow_and_update().configuration.clone();
        if let Some(configuration) = found {
            cluster.send_replace(Some(configuration.cluster));
            index.set_base(base_of(configuration.base_gtid.as_deref()));
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = view.changed() => if changed.is_err() { return },
        }
    }
}

/// Where the status comes from.
pub(super) struct StatusSources {
    pub fixed: Fixed,
    pub view: watch::Receiver<ReplicaView>,
    pub appended: Watermark,
    pub applied: Watermark,
    pub db: Option<watch::Receiver<DbStatus>>,
    pub notices: Vec<watch::Receiver<Option<String>>>,
    pub transport: Arc<GrpcTransport>,
}

impl StatusSources {
    /// The status as of now.
    pub fn compose(&self) -> NodeStatus {
        let marks = (self.appended.at(), self.applied.at());
        let db = self.db.as_ref().map(|db| db.borrow().clone());
        let shown = self.notices.iter().filter_map(|notice| notice.borrow().clone());
        let refused: BTreeMap<_, _> = self
            .transport
            .links()
            .into_iter()
            .filter_map(|link| Some((link.peer.clone(), link.refused?)))
            .collect();
        let refused = refused.into_iter().map(|(peer, why)| format!("{peer} was refused: {why}"));
        let notices = shown.chain(refused).collect();
        status::compose(&self.fixed, &self.view.borrow(), marks, db, notices)
    }

    /// Keeps the status current.
    pub async fn run(self, status: watch::Sender<NodeStatus>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let now = self.compose();
            status.send_if_modified(|shown| {
                let changed = *shown != now;
                *shown = now;
                changed
            });
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(STATUS_EVERY) => {}
            }
        }
    }
}
