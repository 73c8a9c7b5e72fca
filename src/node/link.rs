//! The small tasks that carry news from one part of the node to another.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    database::base_of,
    status::{self, Fixed},
    stop,
};
use crate::{
    cluster::membership::Configuration,
    config,
    db::{
        controller::{ControllerHandle, StepDown},
        index::DbIndex,
        status::DbStatus,
    },
    log::watermark::Watermark,
    replicate::{
        driver::{ReplicaView, Request},
        replica::Fitness,
        role::RoleView,
        transport::grpc::GrpcTransport,
    },
    server::status::NodeStatus,
    types::{ClusterId, NodeId},
};

/// How often the status is put together while nothing changes: the others' silence grows.
const STATUS_EVERY: Duration = Duration::from_millis(100);

/// Tells the replica how fit this node is to lead, as its `source` changes.
pub(super) async fn fitness<T>(
    mut source: watch::Receiver<T>,
    fitness_of: impl Fn(&T) -> Fitness,
    requests: mpsc::Sender<Request>,
    stop: CancellationToken,
) {
    let mut told = None;
    loop {
        let fitness = fitness_of(&source.borrow_and_update());
        if told != Some(fitness) {
            told = Some(fitness);
            // If the driver is gone, the node stops anyway.
            let _stopping = requests.send(Request::SetFitness(fitness)).await;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = source.changed() => if changed.is_err() { return },
        }
    }
}

/// The database's health decides whether this node may lead; the others are told what it does.
pub(super) fn fitness_by_database(db: &DbStatus) -> Fitness {
    Fitness { eligible: db.eligible(), database: db.state.code(), behind: db.behind }
}

/// A node without a database may lead a cluster without databases; if it led one with them, nobody
/// could write to any.
pub(super) fn fitness_without_database(view: &ReplicaView) -> Fitness {
    let databases = view.configuration.as_ref().is_some_and(|c| c.base_gtid.is_some());
    Fitness { eligible: !databases, ..Fitness::WITHOUT_DATABASE }
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
            let _stopping = requests.send(Request::HandOver { to: None, answer }).await;
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

/// The cluster's ID, base GTID and members, as the configuration brings them.
pub(super) async fn configuration(
    mut view: watch::Receiver<ReplicaView>,
    cluster: watch::Sender<Option<ClusterId>>,
    index: DbIndex,
    (transport, initial): (Arc<GrpcTransport>, Vec<config::Member>),
    stop: CancellationToken,
) {
    let mut in_force = None;
    loop {
        let (found, counts, leader) = {
            let view = view.borrow_and_update();
            (view.configuration.clone(), view.counts, view.role.leader.clone())
        };
        let found = found.map(|configuration| (configuration, counts, leader));
        if let Some((configuration, counts, leader)) = &found
            && found != in_force
        {
            cluster.send_replace(Some(configuration.cluster));
            index.set_base(base_of(configuration.base_gtid.as_deref()));
            let nodes = addresses(configuration, &initial);
            // A node that receives the log again meets configurations of long ago: it must not end
            // the streams to who is a member by now.
            let of_today =
                *counts && leader.as_ref().is_some_and(|id| configuration.member(id).is_some());
            if of_today {
                transport.set_peers(&nodes)
            } else {
                transport.add_peers(&nodes)
            }
            in_force = found;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = view.changed() => if changed.is_err() { return },
        }
    }
}

/// Where the members are: as this node's own file says, which its operator can change at any time,
/// else as the configuration says.
fn addresses(configuration: &Configuration, initial: &[config::Member]) -> Vec<(NodeId, String)> {
    let here = |id: &NodeId| initial.iter().find(|member| member.id == *id);
    let addresses = configuration.members.iter().map(|member| {
        let address = here(&member.id).map_or(&member.address, |here| &here.address);
        (member.id.clone(), address.clone())
    });
    addresses.collect()
}

/// When another node should lead, the lead is handed over to it, gracefully.
pub(super) async fn preemptions(
    mut view: watch::Receiver<ReplicaView>,
    controller: Option<ControllerHandle>,
    requests: mpsc::Sender<Request>,
    role: watch::Receiver<RoleView>,
    (again_after, stop): (Duration, CancellationToken),
) {
    let hand_over = async {
        loop {
            let heir = match view.wait_for(|view| view.heir.is_some()).await {
                Ok(due) => due.heir.clone(),
                Err(_) => return,
            };
            let to = heir.as_ref().map(NodeId::as_str);
            info!(to, "another node should lead: handing over");
            stop::hand_over(controller.as_ref(), &requests, role.clone(), heir).await;
            if role.borrow().leads() {
                if let Some(controller) = &controller {
                    controller.open_writes().await;
                }
                // It was not taken; the next attempt must not stall writes again at once.
                tokio::time::sleep(again_after).await;
            }
        }
    };
    stop.run_until_cancelled(hand_over).await;
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
        let links = self.transport.links();
        let refused = links.iter().filter_map(|link| {
            Some(format!("{} was refused: {}", link.peer, link.refused.as_ref()?))
        });
        let refusing = links.iter().filter(|link| link.log.refused);
        let refusing = refusing.filter_map(|link| link.log.last_error.clone());
        let notices = shown.chain(refused).chain(refusing).collect();
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
