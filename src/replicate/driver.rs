//! The task that owns the host: it feeds it from channels and from the clock.

use std::time::Duration;

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    host::Host,
    message::Envelope,
    propose::{Proposal, ProposeError, Released},
    replica::{Fitness, FoundingPlan, Peer},
    role::RoleView,
    storage::{LogStorage, StorageEvent},
};
use crate::{
    clock,
    cluster::{change::Change, membership::Configuration},
    log::watermark::Watermark,
    tasks::Tasks,
    types::{Lsn, NodeId, Position},
};

/// How often the replica looks at the clock.
const TICK: Duration = Duration::from_millis(10);
/// How many proposals form one group at most.
const PROPOSALS_PER_GROUP: usize = 512;
/// How many requests may wait.
pub const REQUESTS_WAITING_MAX: usize = 64;

/// What the node asks of the replica, beyond proposals.
#[derive(Debug)]
pub enum Request {
    /// Whether this node is fit to lead.
    SetFitness(Fitness),
    /// What this node would found became known.
    SetFounding(FoundingPlan),
    /// Give the lead to another.
    HandOver {
        /// To this one only; else to whoever ranks first.
        to: Option<NodeId>,
        /// Whether there is one to wait for.
        answer: oneshot::Sender<bool>,
    },
    /// Change the membership.
    Change {
        /// How.
        change: Change,
        /// Given when the cluster has it.
        answer: oneshot::Sender<Result<Released, ProposeError>>,
    },
    /// Up to where a linearizable read must see; `None` unless this node leads, and is confirmed.
    ReadIndex(oneshot::Sender<Option<Lsn>>),
}

/// The replica as it is, for status.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaView {
    /// Leadership.
    pub role: RoleView,
    /// The last entry.
    pub last: Position,
    /// Watermarks: durable, committed, released.
    pub durable: Lsn,
    /// What the cluster has decided.
    pub committed: Lsn,
    /// What the outside may see.
    pub released: Lsn,
    /// The configuration in force.
    pub configuration: Option<Configuration>,
    /// Whether this node's promises count.
    pub counts: bool,
    /// On the leader: who should lead instead.
    pub heir: Option<NodeId>,
    /// The other nodes, with the milliseconds since each was heard.
    pub peers: Vec<(NodeId, Option<u64>, Peer)>,
}

/// Where the driver's inputs come from.
pub struct Inputs {
    /// Heartbeats of peers.
    pub heartbeats: mpsc::Receiver<Envelope>,
    /// Other messages of peers.
    pub log: mpsc::Receiver<Envelope>,
    /// Commands.
    pub proposals: mpsc::Receiver<Proposal>,
    /// The log's storage.
    pub storage: mpsc::UnboundedReceiver<StorageEvent>,
    /// The node.
    pub requests: mpsc::Receiver<Request>,
    /// How far the appliers have come.
    pub applied: Watermark,
}

/// Runs the host until it is stopped or must stop.
pub async fn run(
    mut host: Host<LogStorage>,
    mut inputs: Inputs,
    view: watch::Sender<ReplicaView>,
    tasks: Tasks,
    stop: CancellationToken,
) {
    let mut tick_at = Instant::now();
    while !stop.is_cancelled() {
        if Instant::now() >= tick_at {
            tick_at = Instant::now() + TICK;
            tick(&mut host, &inputs, &view);
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = tokio::time::sleep_until(tick_at) => {}
            Some(event) = inputs.storage.recv() => stored(&mut host, event),
            Some(envelope) = inputs.heartbeats.recv() => host.receive(envelope, clock::now()),
            Some(envelope) = inputs.log.recv() => host.receive(envelope, clock::now()),
            Some(proposal) = inputs.proposals.recv() => {
                host.propose(proposal, clock::now());
                for _ in 1..PROPOSALS_PER_GROUP {
                    let Ok(proposal) = inputs.proposals.try_recv() else { break };
                    host.propose(proposal, clock::now());
                }
                host.settle(clock::now());
            }
            Some(request) = inputs.requests.recv() => asked(&mut host, request),
        }
        if let Some(reason) = host.fatal() {
            tasks.fail(reason);
            return;
        }
    }
    host.stop();
}

fn tick(host: &mut Host<LogStorage>, inputs: &Inputs, view: &watch::Sender<ReplicaView>) {
    host.replica_mut().set_applied(inputs.applied.at());
    host.tick(clock::now());
    host.writer_mut().tick();
    let founded = host.replica().durable().lsn > Lsn::ZERO;
    let cluster = host.replica().configuration().map(|c| c.cluster).filter(|_| founded);
    if let Some(Err(error)) = cluster.map(|cluster| host.writer_mut().set_cluster(cluster)) {
        host.fail(error.to_string());
    }
    view.send_if_modified(|shown| {
        let seen = look(host);
        let changed = *shown != seen;
        *shown = seen;
        changed
    });
}

fn stored(host: &mut Host<LogStorage>, event: StorageEvent) {
    match event {
        StorageEvent::Written(ticket) => host.written(ticket, clock::now()),
        StorageEvent::Failed(what) => host.fail(what),
    }
}

fn asked(host: &mut Host<LogStorage>, request: Request) {
    match request {
        Request::SetFitness(fitness) => host.replica_mut().set_fitness(fitness),
        Request::SetFounding(plan) => host.replica_mut().set_founding(plan),
        Request::Change { change, answer } => {
            host.change(&change, answer, clock::now());
            host.settle(clock::now());
        }
        Request::HandOver { to, answer } => {
            let heir = host.replica_mut().hand_over(to, clock::now());
            host.settle(clock::now());
            // Whoever asked may have given up waiting.
            let _gone = answer.send(heir);
        }
        Request::ReadIndex(answer) => host.read_index(answer, clock::now()),
    }
}

/// The replica as it is now.
pub fn look(host: &Host<LogStorage>) -> ReplicaView {
    let replica = host.replica();
    let now = clock::now();
    let peers = replica.peers().iter().map(|(id, peer)| {
        let silent = peer.heard_at.map(|at| now.since(at).as_millis());
        (id.clone(), silent.map(|ms| u64::try_from(ms).unwrap_or(u64::MAX)), peer.clone())
    });
    ReplicaView {
        role: replica.role_view(),
        last: replica.last(),
        durable: replica.durable().lsn,
        committed: replica.committed(),
        released: replica.released(),
        configuration: replica.configuration().cloned(),
        counts: replica.counts(),
        heir: replica.heir(now),
        peers: peers.collect(),
    }
}
