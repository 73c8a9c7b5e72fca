//! Three replicas on the real transport: they found a cluster, carry commands of every size, and go
//! on without their leader.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    sync::{mpsc, oneshot, watch},
};
use wolfscale::{
    clock,
    cluster::{
        identity::{Identity, MemoryIdentity},
        membership::Policy,
    },
    config::Timing,
    log::{Log, entry::EntryKind, watermark::watermark},
    replicate::{
        boot::{Boot, start_replica},
        driver::{self, Inputs, ReplicaView, Request},
        host::Host,
        propose::{Proposal, ProposeError, Released},
        replica::{Fitness, FoundingPlan, HardState},
        storage::LogStorage,
        transport::{
            auth::ClusterSecret,
            grpc::{GrpcSettings, GrpcTransport, incoming, server_builder},
        },
    },
    store::MemoryEngine,
    tasks::{OnEnd, Tasks},
    types::{ClusterId, Incarnation, Lsn, NodeId},
};

use crate::{ports::Port, turn::Turn};

const DEADLINE: Duration = Duration::from_secs(60);
const MIB: usize = 1 << 20;

/// A node without a database, on a runtime of its own: dropping it is a crash.
struct Node {
    runtime: Option<Runtime>,
    view: watch::Receiver<ReplicaView>,
    proposal_tx: mpsc::Sender<Proposal>,
    _request_tx: mpsc::Sender<Request>,
    _cluster_tx: watch::Sender<Option<ClusterId>>,
}

impl Node {
    fn start(number: u64, members: &[(NodeId, String)], port: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("build a runtime");
        let started = runtime.block_on(start(number, members, port));
        let (view, proposal_tx, request_tx, cluster_tx) = started;
        Self {
            runtime: Some(runtime),
            view,
            proposal_tx,
            _request_tx: request_tx,
            _cluster_tx: cluster_tx,
        }
    }

    fn leads(&self) -> bool {
        let view = self.view.borrow();
        view.role.leads() && view.role.term_start.is_some_and(|start| view.released >= start)
    }

    fn released(&self) -> Lsn {
        self.view.borrow().released
    }

    fn propose(&self, body: Bytes) -> Result<Released, ProposeError> {
        let (answer, answer_rx) = oneshot::channel();
        let kind = EntryKind::Kv;
        let proposal = Proposal { kind, body, request: None, only_in: None, answer };
        self.proposal_tx.blocking_send(proposal).expect("the driver runs");
        answer_rx.blocking_recv().expect("it answers")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

type Started = (
    watch::Receiver<ReplicaView>,
    mpsc::Sender<Proposal>,
    mpsc::Sender<Request>,
    watch::Sender<Option<ClusterId>>,
);

async fn start(number: u64, members: &[(NodeId, String)], port: u16) -> Started {
    let tasks = Tasks::default();
    let (id, incarnation) =
        (format!("n{number}").parse::<NodeId>().expect("valid"), Incarnation(number));
    let (cluster_tx, cluster) = watch::channel(None);
    let secret = ClusterSecret::new(b"the secret of the tests' cluster".to_vec());
    let settings = GrpcSettings {
        id: id.clone(),
        incarnation,
        cluster,
        secret: secret.expect("long enough"),
        peers: members.to_vec(),
    };
    let peers = GrpcTransport::start(settings, &tasks).expect("starts");
    let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("bind");
    let server = server_builder().add_service(peers.service);
    tokio::spawn(server.serve_with_incoming(incoming(listener)));

    let engine = Arc::new(MemoryEngine::new());
    let (log, _) = Log::open(engine.clone()).expect("opens");
    let initial_peers = members.iter().map(|(id, _)| id.clone()).filter(|peer| *peer != id);
    let boot = Boot {
        id: id.clone(),
        incarnation,
        remembers: true,
        hard: HardState::default(),
        timing: Timing::default(),
        initial_peers: initial_peers.collect(),
        founding: Some(FoundingPlan {
            members: members.to_vec(),
            policy: Policy::Majority,
            cluster: ClusterId([u8::try_from(number).expect("small"); 16]),
            never_leader: false,
            db_position: None,
        }),
        now: clock::now(),
    };
    let replica = start_replica(engine.as_ref(), &log, boot).expect("starts");
    let identity = MemoryIdentity::new(Identity::new(id.clone(), incarnation));
    let (storage, events) = LogStorage::start(engine, Box::new(identity)).expect("starts");
    let host = Host::new((id, incarnation), replica, log, storage, peers.transport);
    let (proposal_tx, proposals) = mpsc::channel(64);
    let (request_tx, requests) = mpsc::channel(4);
    request_tx.send(Request::SetFitness(Fitness::WITHOUT_DATABASE)).await.expect("there is room");
    let (view_tx, view) = watch::channel(driver::look(&host));
    let inputs = Inputs {
        heartbeats: peers.inbound.heartbeats,
        log: peers.inbound.log,
        proposals,
        storage: events,
        requests,
        applied: watermark(Lsn::ZERO).1,
    };
    let stop = tasks.stopping();
    let run = driver::run(host, inputs, view_tx, tasks.clone(), stop);
    tasks.spawn("replica", OnEnd::StopNode, run);
    (view, proposal_tx, request_tx, cluster_tx)
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "never {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn three_replicas_carry_commands_of_every_size_and_survive_their_leader() {
    let _turn = Turn::come_blocking();
    let ports = [Port::free(), Port::free(), Port::free()];
    let address = |port: &Port| format!("127.0.0.1:{}", port.number());
    let members: Vec<(NodeId, String)> = (1..)
        .zip(&ports)
        .map(|(n, port)| (format!("n{n}").parse().expect("valid"), address(port)))
        .collect();
    let start = |number: u64, port: &Port| Node::start(number, &members, port.number());
    let mut nodes: Vec<_> = (1..).zip(&ports).map(|(n, port)| start(n, port)).collect();
    until("n1 leads", || nodes[0].leads());

    // 100 MiB is more than a queue and a frame hold: it takes several rounds.
    let mut last = Lsn::ZERO;
    for bytes in [0, 1, 60 * 1024, MIB, 100 * MIB, 200] {
        let released = nodes[0].propose(Bytes::from(vec![7; bytes])).expect("is released");
        assert!(released.position.lsn > last);
        last = released.position.lsn;
    }
    until("released everywhere", || nodes.iter().all(|node| node.released() >= last));

    drop(nodes.remove(0));
    until("n2 leads", || nodes[0].leads());
    let after = nodes[0].propose(Bytes::from_static(b"without n1")).expect("is released");
    assert!(after.position.lsn > last);
    until("released on both", || nodes.iter().all(|n| n.released() >= after.position.lsn));
}
