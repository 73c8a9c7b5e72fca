//! The peers' transport over real sockets: whole nodes, impostors, silence and floods.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use wolfscale::{
    clock::Moment,
    log::entry::{Entry, EntryKind, Part},
    replicate::{
        message::{
            Append, Appended, Envelope, Fetch, Fetched, Founding, Heartbeat, HeartbeatReply,
            Message, PreVote, PreVoteReply, Prepare, Promise, Run,
        },
        transport::{
            Transport,
            auth::{Channel, ClusterSecret, Identity, PROTOCOL, Side, Transcript},
            grpc::{
                ChannelLink, GrpcSettings, GrpcTransport, INBOUND_LOG_MAX, Inbound,
                LOG_QUEUE_BYTES_MAX, PeerLink, incoming, server_builder,
            },
        },
    },
    tasks::Tasks,
    types::{ChainHash, ClusterId, Incarnation, Lsn, NodeId, Position, RequestId, Term},
    wire::{self, peer_client::PeerClient, peer_frame::Frame, peer_refused::Reason, peer_server},
};

use crate::ports::Port;

const SECRET: &str = "the secret of the tests' cluster";
const DEADLINE: Duration = Duration::from_secs(20);

fn id(text: &str) -> NodeId {
    text.parse().expect("valid")
}

fn secret(text: &str) -> ClusterSecret {
    ClusterSecret::new(text.as_bytes().to_vec()).expect("long enough")
}

/// One node, on a runtime of its own, so that dropping it is a crash.
struct Node {
    id: NodeId,
    transport: Arc<GrpcTransport>,
    inbound: Inbound,
    runtime: Option<Runtime>,
    _cluster: watch::Sender<Option<ClusterId>>,
}

/// What a node is started with.
struct Setup<'a> {
    id: &'a str,
    incarnation: u64,
    secret: &'a str,
    cluster: Option<ClusterId>,
}

fn setup(id: &str) -> Setup<'_> {
    Setup { id, incarnation: 1, secret: SECRET, cluster: None }
}

impl Node {
    fn start(setup: Setup<'_>, port: u16, peers: &[(&str, u16)]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("build a runtime");
        let (cluster_tx, cluster) = watch::channel(setup.cluster);
        let settings = GrpcSettings {
            id: id(setup.id),
            incarnation: Incarnation(setup.incarnation),
            cluster,
            secret: secret(setup.secret),
            peers: peers.iter().map(|(p, port)| (id(p), format!("localhost:{port}"))).collect(),
        };
        let started = runtime.block_on(async {
            let started = GrpcTransport::start(settings, &Tasks::default()).expect("starts");
            let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("bind");
            let server = server_builder().add_service(started.service.clone());
            tokio::spawn(server.serve_with_incoming(incoming(listener)));
            started
        });
        Self {
            id: id(setup.id),
            transport: started.transport,
            inbound: started.inbound,
            runtime: Some(runtime),
            _cluster: cluster_tx,
        }
    }

    fn send(&self, to: &str, message: Message) {
        self.transport.send(&id(to), self.envelope(message));
    }

    fn envelope(&self, message: Message) -> Envelope {
        let from = self.id.clone();
        Envelope { from, incarnation: Incarnation(1), lineage: [7; 16], message }
    }

    fn link(&self, peer: &str) -> PeerLink {
        let links = self.transport.links();
        links.into_iter().find(|link| link.peer == id(peer)).expect("a peer")
    }

    fn up(&self, peer: &str) -> bool {
        let link = self.link(peer);
        link.log.connected_since.is_some() && link.heartbeat.connected_since.is_some()
    }

    fn why(&self, peer: &str) -> String {
        self.link(peer).log.last_error.unwrap_or_default()
    }

    fn take_log(&mut self) -> mpsc::Receiver<Envelope> {
        std::mem::replace(&mut self.inbound.log, mpsc::channel(1).1)
    }

    fn next_log(&mut self) -> Envelope {
        let runtime = self.runtime.as_ref().expect("it runs");
        let next = async { tokio::time::timeout(DEADLINE, self.inbound.log.recv()).await };
        runtime.block_on(next).expect("in time").expect("open")
    }

    fn next_heartbeat(&mut self) -> Envelope {
        let runtime = self.runtime.as_ref().expect("it runs");
        let next = async { tokio::time::timeout(DEADLINE, self.inbound.heartbeats.recv()).await };
        runtime.block_on(next).expect("in time").expect("open")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Polls a condition until it holds, or fails with what it last saw.
fn until<T: std::fmt::Debug>(what: &str, mut look: impl FnMut() -> (bool, T)) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let (holds, seen) = look();
        if holds {
            return;
        }
        assert!(Instant::now() < deadline, "never {what}: {seen:?}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn until_up(node: &Node, peer: &str) {
    until("up", || (node.up(peer), node.link(peer)));
}

/// Two nodes whose streams are up both ways.
fn pair(ports: &[Port; 2]) -> (Node, Node) {
    let [p1, p2] = [ports[0].number(), ports[1].number()];
    let n1 = Node::start(setup("n1"), p1, &[("n1", p1), ("n2", p2)]);
    let n2 = Node::start(setup("n2"), p2, &[("n1", p1), ("n2", p2)]);
    until_up(&n1, "n2");
    until_up(&n2, "n1");
    (n1, n2)
}

fn two_ports() -> [Port; 2] {
    [Port::free(), Port::free()]
}

fn term() -> Term {
    Term { number: 4, leader: id("n1") }
}

fn at(lsn: u64) -> Position {
    Position { term: Some(term()), lsn: Lsn(lsn) }
}

fn vote(number: u64) -> Message {
    Message::PreVote(PreVote { number, handover: false })
}

fn beat(sent_at: u64) -> Message {
    Message::HeartbeatReply(HeartbeatReply { term: None, sent_at: Moment(sent_at), follows: false })
}

fn run(bodies: &[Bytes]) -> Run {
    let entry = |(lsn, body): (u64, &Bytes)| {
        Arc::new(Entry {
            term: term(),
            lsn: Lsn(lsn),
            kind: EntryKind::Db,
            part: Part { index: 3, last: true },
            request: Some(RequestId { session: [2; 16], number: lsn }),
            chain: ChainHash([6; 32]),
            body: body.clone(),
        })
    };
    Run { chain: ChainHash([5; 32]), entries: (1..).zip(bodies).map(entry).collect() }
}

fn append(lsn: u64, bodies: &[Bytes]) -> Message {
    Message::Append(Append {
        term: term(),
        previous: at(lsn),
        run: run(bodies),
        committed: Lsn(1),
        released: Lsn(1),
    })
}

/// One of each kind.
fn all_kinds() -> Vec<Message> {
    let founding =
        Some(Founding { plan: [8; 32], db_position: Some(String::new()), never_leader: true });
    let (term, after, last) = (term(), at(5), at(9));
    let fetched = |result| {
        Message::Fetched(Fetched { term: term.clone(), after: at(5), result, last: at(9) })
    };
    let appended = |result| Message::Appended(Appended { term: term.clone(), result });
    vec![
        vote(1),
        Message::PreVoteReply(PreVoteReply { number: 1, granted: true, seen: 2, stands: true }),
        Message::Prepare(Prepare { term: term.clone(), handover: true }),
        Message::Promise(Promise { term: term.clone(), granted: true, seen: 4, last, founding }),
        Message::Fetch(Fetch { term: term.clone(), after }),
        fetched(Ok(run(&[Bytes::from_static(b"one"), Bytes::new()]))),
        fetched(Err(Position::default())),
        append(7, &[Bytes::from(vec![9; 60_000])]),
        appended(Ok(Lsn(3))),
        appended(Err(at(2))),
        Message::Handover { term },
    ]
}

fn heartbeats() -> Vec<Message> {
    let heartbeat = Message::Heartbeat(Heartbeat {
        term: Some(term()),
        leads: true,
        sent_at: Moment(u64::MAX),
        durable: at(3),
        committed: Lsn(3),
        released: Lsn(2),
        applied: Lsn(1),
        eligible: true,
        cluster: Some(ClusterId([1; 16])),
        database: 3,
        behind: 5,
    });
    vec![heartbeat, beat(12)]
}

#[test]
fn three_nodes_exchange_messages_of_every_kind() {
    let ports = [Port::free(), Port::free(), Port::free()];
    let names = ["n1", "n2", "n3"];
    let peers: Vec<_> = names.iter().copied().zip(ports.iter().map(Port::number)).collect();
    let mut nodes: Vec<_> =
        peers.iter().map(|(name, port)| Node::start(setup(name), *port, &peers)).collect();
    for node in &nodes {
        names.iter().filter(|n| **n != node.id.as_str()).for_each(|peer| until_up(node, peer));
    }
    for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
        for message in all_kinds().into_iter().chain(heartbeats()) {
            nodes[from].send(names[to], message);
        }
        for message in all_kinds() {
            let got = nodes[to].next_log();
            assert_eq!(got, nodes[from].envelope(message));
        }
        for message in heartbeats() {
            let got = nodes[to].next_heartbeat();
            assert_eq!(got, nodes[from].envelope(message));
        }
    }
    assert!(nodes.iter().all(|n| n.transport.links().iter().all(|l| l.log.inbound)));
}

#[test]
fn a_wrong_secret_is_refused_in_both_directions() {
    let ports = two_ports();
    let [p1, p2] = [ports[0].number(), ports[1].number()];
    let n1 = Node::start(setup("n1"), p1, &[("n2", p2)]);
    let other = Setup { secret: "quite another secret", ..setup("n2") };
    let n2 = Node::start(other, p2, &[("n1", p1)]);
    let differ = |node: &Node, peer: &str| {
        let link = node.link(peer);
        let why = link.log.last_error.clone().unwrap_or_default();
        let refused = link.refused.clone().unwrap_or_default();
        (why.contains("secrets") && refused.contains("secrets"), link)
    };
    until("refused at n1", || differ(&n1, "n2"));
    until("refused at n2", || differ(&n2, "n1"));
    n1.send("n2", vote(1));
    assert!(!n1.up("n2") && !n2.up("n1"));
    assert_eq!(n1.link("n2").log.dropped_down, 1);
}

#[test]
fn an_impostor_without_the_secret_gets_no_message() {
    /// Answers as n2 would, and welcomes everyone with a made-up proof.
    struct Impostor(Arc<AtomicBool>);

    #[tonic::async_trait]
    impl peer_server::Peer for Impostor {
        type LogStream = ReceiverStream<Result<wire::PeerFrame, tonic::Status>>;
        type HeartbeatStream = Self::LogStream;

        async fn log(
            &self,
            request: tonic::Request<Streaming<wire::PeerFrame>>,
        ) -> Result<tonic::Response<Self::LogStream>, tonic::Status> {
            let (answer_tx, answer_rx) = mpsc::channel(4);
            let mut incoming = request.into_inner();
            let heard = self.0.clone();
            tokio::spawn(async move {
                let from = Some(identity_on_wire("n2", 1));
                let nonce = vec![1; 32].into();
                let challenge = Frame::Challenge(wire::PeerChallenge { from, nonce });
                let welcome = Frame::Welcome(wire::PeerWelcome { mac: vec![3; 32].into() });
                for frame in [challenge, welcome] {
                    let seen = incoming.message().await.ok().flatten().and_then(|f| f.frame);
                    heard.fetch_or(matches!(seen, Some(Frame::Envelope(_))), Relaxed);
                    let frame = wire::PeerFrame { frame: Some(frame) };
                    let _ = answer_tx.send(Ok(frame)).await;
                }
                let more = incoming.message().await.is_ok_and(|frame| frame.is_some());
                heard.fetch_or(more, Relaxed);
            });
            Ok(tonic::Response::new(ReceiverStream::new(answer_rx)))
        }

        async fn heartbeat(
            &self,
            request: tonic::Request<Streaming<wire::PeerFrame>>,
        ) -> Result<tonic::Response<Self::HeartbeatStream>, tonic::Status> {
            self.log(request).await
        }
    }

    let ports = two_ports();
    let [p1, p2] = [ports[0].number(), ports[1].number()];
    let runtime = Runtime::new().expect("build a runtime");
    let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", p2))).expect("bind");
    let heard = Arc::new(AtomicBool::new(false));
    let server =
        server_builder().add_service(peer_server::PeerServer::new(Impostor(heard.clone())));
    runtime.spawn(server.serve_with_incoming(incoming(listener)));
    let n1 = Node::start(setup("n1"), p1, &[("n2", p2)]);
    until("found out", || {
        n1.send("n2", vote(1));
        let why = n1.why("n2");
        (why.contains("does not prove the cluster secret"), why)
    });
    assert_eq!(n1.link("n2").log.queued_total, 0, "nothing was even queued");
    assert!(!heard.load(Relaxed), "the impostor heard what was not for it");
    runtime.shutdown_background();
}

#[test]
fn another_node_than_expected_is_refused() {
    let ports = two_ports();
    let [p1, p2] = [ports[0].number(), ports[1].number()];
    let n1 = Node::start(setup("n1"), p1, &[("n3", p2)]);
    let n2 = Node::start(setup("n2"), p2, &[("n1", p1)]);
    until("wrong node", || {
        let why = n1.why("n3");
        (why == "refused by n3: this node is n2, not n3", why)
    });
    until("unknown node", || {
        let why = n2.why("n1");
        (why.starts_with("refused by n1: n2 is none of n1's peers"), why)
    });
}

/// A node that was away while another joined hears of it from that one first, and can answer.
#[test]
fn a_member_that_is_not_known_yet_is_welcome_and_answered() {
    let ports = two_ports();
    let [p1, p2] = [ports[0].number(), ports[1].number()];
    let cluster = Some(ClusterId([1; 16]));
    let n1 = Node::start(Setup { cluster, ..setup("n1") }, p1, &[("n1", p1)]);
    let n2 = Node::start(Setup { cluster, ..setup("n2") }, p2, &[("n1", p1), ("n2", p2)]);
    until_up(&n2, "n1");
    until("answered", || {
        let known = n1.transport.links().iter().any(|link| link.peer == id("n2"));
        (known && n1.up("n2"), known)
    });

    // Who is no member any more is not spoken to.
    n1.transport.set_peers(&[]);
    assert!(n1.transport.links().is_empty());
    until("gone", || {
        let inbound = n2.link("n1").log.inbound;
        (!inbound, inbound)
    });
}

#[test]
fn a_node_that_reaches_itself_and_one_with_our_own_id_are_told() {
    let ports = two_ports();
    let [p1, p2] = [ports[0].number(), ports[1].number()];
    let itself = Node::start(setup("n1"), p1, &[("n2", p1)]);
    until("reached itself", || {
        let why = itself.why("n2");
        (why == "refused by n2: this node is n1, not n2", why)
    });
    drop(itself);
    // A caller that says it is n2, to n2.
    let n2 = Node::start(setup("n2"), p2, &[("n1", p1)]);
    let mut caller = Caller::new("n2", 9, p2);
    let refused = caller.hello("n2").expect_err("is refused");
    assert_eq!(refused.reason(), Reason::SameId);
    assert!(refused.message.contains("own ID, n2"), "{}", refused.message);
    drop(n2);
}

#[test]
fn nodes_of_two_clusters_are_refused() {
    let ports = two_ports();
    let [p1, p2] = [ports[0].number(), ports[1].number()];
    let of = |node, cluster| Setup { cluster: Some(ClusterId([cluster; 16])), ..setup(node) };
    let n1 = Node::start(of("n1", 1), p1, &[("n2", p2)]);
    let n2 = Node::start(of("n2", 2), p2, &[("n1", p1)]);
    until("other cluster", || {
        let why = n1.why("n2");
        (why == "n2 belongs to another cluster", why)
    });
    assert!(!n2.up("n1"));
    // A caller that does not look for itself is refused by the called node.
    let mut caller = Caller::new("n2", 2, p1);
    caller.identity.cluster = Some(ClusterId([2; 16]));
    let refused = caller.handshake("n1").expect_err("is refused");
    assert_eq!(refused.reason(), Reason::Cluster);
}

#[test]
fn a_second_live_process_of_one_id_is_refused_until_the_first_is_gone() {
    let ports = [Port::free(), Port::free(), Port::free()];
    let [p1, p2, p3] = [ports[0].number(), ports[1].number(), ports[2].number()];
    let n1 = Node::start(setup("n1"), p1, &[("n2", p2)]);
    let first = Node::start(setup("n2"), p2, &[("n1", p1)]);
    until_up(&first, "n1");
    until_up(&n1, "n2");
    let copy = Node::start(Setup { incarnation: 2, ..setup("n2") }, p3, &[("n1", p1)]);
    until("the copy is told", || {
        let why = copy.why("n1");
        (why.contains("two live processes are node n2"), why)
    });
    assert!(first.up("n1"), "the first is left alone");
    until("n1 tells", || {
        let refused = n1.link("n2").refused.unwrap_or_default();
        (refused.contains("two live processes are node n2"), refused)
    });
    drop(first);
    until_up(&copy, "n1");
}

#[test]
fn streams_come_back_after_a_crash_and_carry_on() {
    let ports = two_ports();
    let [p1, p2] = [ports[0].number(), ports[1].number()];
    let (n1, mut n2) = pair(&ports);
    for round in 1..=2 {
        drop(n2);
        until("down", || {
            let link = n1.link("n2");
            let down = |l: &ChannelLink| l.connected_since.is_none() && l.last_error.is_some();
            (down(&link.log) && down(&link.heartbeat), link)
        });
        n1.send("n2", vote(99));
        n2 = Node::start(setup("n2"), p2, &[("n1", p1)]);
        until_up(&n1, "n2");
        n1.send("n2", vote(round));
        assert_eq!(n2.next_log().message, vote(round), "and nothing that was said to the dead");
    }
}

#[test]
fn a_stopping_node_ends_its_tasks_and_tells_its_peers() {
    let ports = two_ports();
    let [p1, p2] = [ports[0].number(), ports[1].number()];
    let n1 = Node::start(setup("n1"), p1, &[("n2", p2)]);
    let runtime = Runtime::new().expect("build a runtime");
    let tasks = Tasks::default();
    let (_cluster_tx, cluster) = watch::channel(None);
    let settings = GrpcSettings {
        id: id("n2"),
        incarnation: Incarnation(1),
        cluster,
        secret: secret(SECRET),
        peers: vec![(id("n1"), format!("127.0.0.1:{p1}"))],
    };
    let started = runtime.block_on(async {
        let started = GrpcTransport::start(settings, &tasks).expect("starts");
        let listener = TcpListener::bind(("127.0.0.1", p2)).await.expect("bind");
        let server = server_builder().add_service(started.service.clone());
        tokio::spawn(server.serve_with_incoming(incoming(listener)));
        started
    });
    until_up(&n1, "n2");
    tasks.stop();
    assert!(runtime.block_on(tasks.ended(Duration::from_secs(5))), "all tasks end");
    assert_eq!(tasks.failure(), None);
    until("told", || {
        let why = n1.why("n2");
        (why.contains("stopping") || why.contains("connect"), why)
    });
    drop(started);
    runtime.shutdown_background();
}

#[test]
fn a_full_queue_drops_and_never_blocks() {
    let ports = two_ports();
    let (n1, mut n2) = pair(&ports);
    let bodies = vec![Bytes::from(vec![1; 60_000]); 16];
    let message = append(0, &bodies);
    // Nobody empties n2's inbox: its stream stops taking, and n1's queue fills.
    let mut longest = Duration::ZERO;
    until("full", || {
        let before = Instant::now();
        n1.send("n2", message.clone());
        longest = longest.max(before.elapsed());
        (n1.link("n2").log.dropped_full > 1000, n1.link("n2"))
    });
    assert!(longest < Duration::from_secs(1), "send took {longest:?}");
    let link = n1.link("n2").log;
    assert!(link.waiting_bytes <= LOG_QUEUE_BYTES_MAX, "{link:?}");
    // Heartbeats still pass, and the log goes on once there is room.
    n1.send("n2", beat(1));
    assert_eq!(n2.next_heartbeat().message, beat(1));
    let sent = link.queued_total;
    (0..sent).for_each(|_| assert_eq!(n2.next_log().message, message));
    n1.send("n2", vote(7));
    assert_eq!(n2.next_log().message, vote(7));
}

#[test]
fn heartbeats_pass_64_mib_of_appends() {
    let ports = two_ports();
    let (n1, mut n2) = pair(&ports);
    let big = Bytes::from(vec![1; 60 * 1024]);
    let message = append(0, &vec![big; 17]);
    // More than n2's inbox takes while nobody empties it; the rest waits in n1's queue.
    let appends = INBOUND_LOG_MAX + 64;
    while n1.link("n2").log.queued_total < appends as u64 {
        n1.send("n2", message.clone());
    }
    for n in 0..100 {
        n1.send("n2", beat(n));
        assert_eq!(n2.next_heartbeat().message, beat(n));
    }
    assert!(n1.link("n2").log.waiting > 0, "the appends were before the heartbeats");
    (0..appends).for_each(|_| assert_eq!(n2.next_log().message, message));
}

/// Passes bytes between a port and another, until told to be silent: a stopped machine.
fn relay(runtime: &Runtime, from: u16, to: u16) -> watch::Sender<bool> {
    let (silent_tx, silent_rx) = watch::channel(false);
    let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", from))).expect("bind");
    runtime.spawn(async move {
        while let Ok((mut caller, _)) = listener.accept().await {
            let mut silent = silent_rx.clone();
            tokio::spawn(async move {
                let mut called = TcpStream::connect(("127.0.0.1", to)).await.expect("connect");
                let silence = silent.wait_for(|silent| *silent);
                tokio::select! {
                    _ = copy_bidirectional(&mut caller, &mut called) => return,
                    _ = silence => {}
                }
                std::future::pending::<()>().await;
            });
        }
    });
    silent_tx
}

#[test]
fn a_silent_peer_is_found_by_keep_alive() {
    let ports = [Port::free(), Port::free(), Port::free()];
    let [p1, p2, p3] = [ports[0].number(), ports[1].number(), ports[2].number()];
    let runtime = Runtime::new().expect("build a runtime");
    let silent_tx = relay(&runtime, p3, p2);
    let n1 = Node::start(setup("n1"), p1, &[("n2", p3)]);
    let n2 = Node::start(setup("n2"), p2, &[("n1", p1)]);
    until_up(&n1, "n2");
    until("n2 hears n1", || (n2.link("n1").heartbeat.inbound, n2.link("n1")));
    let before = Instant::now();
    silent_tx.send_replace(true);
    until("found by the caller", || (!n1.up("n2"), n1.link("n2")));
    until("found by the called", || (!n2.link("n1").heartbeat.inbound, n2.link("n1")));
    assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
    assert!(n2.up("n1"), "the other direction is a connection of its own");
    runtime.shutdown_background();
}

/// A raw client of the peers' service, to say what no node says.
struct Caller {
    runtime: Runtime,
    identity: Identity,
    secret: ClusterSecret,
    frame_tx: mpsc::Sender<wire::PeerFrame>,
    incoming: Streaming<wire::PeerFrame>,
}

fn identity_on_wire(node: &str, run: u8) -> wire::PeerIdentity {
    wire::PeerIdentity {
        node: node.to_owned(),
        incarnation: 1,
        run: vec![run; 16].into(),
        cluster: Bytes::new(),
        address: String::new(),
    }
}

impl Caller {
    /// Opens a log stream.
    fn new(node: &str, run: u8, port: u16) -> Self {
        let runtime = Runtime::new().expect("build a runtime");
        let (frame_tx, frame_rx) = mpsc::channel(8);
        let incoming = runtime.block_on(async {
            let mut client =
                PeerClient::connect(format!("http://127.0.0.1:{port}")).await.expect("connects");
            client.log(ReceiverStream::new(frame_rx)).await.expect("calls").into_inner()
        });
        let identity = Identity {
            node: id(node),
            incarnation: Incarnation(1),
            run: [run; 16],
            cluster: None,
            address: String::new(),
        };
        Self { runtime, identity, secret: secret(SECRET), frame_tx, incoming }
    }

    fn say(&self, frame: Frame) {
        self.say_raw(wire::PeerFrame { frame: Some(frame) });
    }

    fn say_raw(&self, frame: wire::PeerFrame) {
        self.frame_tx.try_send(frame).expect("there is room");
    }

    /// What the node answers; `Err` is a refusal.
    fn hear(&mut self) -> Result<Frame, wire::PeerRefused> {
        let next = async { tokio::time::timeout(DEADLINE, self.incoming.message()).await };
        let frame = self.runtime.block_on(next).expect("in time").expect("no status");
        match frame.expect("not ended").frame.expect("a known frame") {
            Frame::Refused(refused) => Err(refused),
            frame => Ok(frame),
        }
    }

    fn hello(&mut self, to: &str) -> Result<wire::PeerChallenge, wire::PeerRefused> {
        self.say(Frame::Hello(self.hello_frame(to)));
        match self.hear()? {
            Frame::Challenge(challenge) => Ok(challenge),
            other => panic!("no challenge but {other:?}"),
        }
    }

    fn hello_frame(&self, to: &str) -> wire::PeerHello {
        let cluster = self.identity.cluster.map_or_else(Bytes::new, |c| c.0.to_vec().into());
        let name = self.identity.node.as_str();
        wire::PeerHello {
            protocol: PROTOCOL,
            channel: i32::from(Channel::Log as u8),
            from: Some(wire::PeerIdentity {
                cluster,
                ..identity_on_wire(name, self.identity.run[0])
            }),
            to: to.to_owned(),
            nonce: vec![5; 32].into(),
        }
    }

    /// The proof that the challenge asks for.
    fn proof(&self, challenge: &wire::PeerChallenge) -> Vec<u8> {
        let from = challenge.from.as_ref().expect("an identity");
        let transcript = Transcript {
            channel: Channel::Log,
            opener: self.identity.clone(),
            called: Identity {
                node: id(&from.node),
                incarnation: Incarnation(from.incarnation),
                run: from.run.as_ref().try_into().expect("16 bytes"),
                cluster: from.cluster.as_ref().try_into().ok().map(ClusterId),
                address: from.address.clone(),
            },
            opener_nonce: [5; 32],
            called_nonce: challenge.nonce.as_ref().try_into().expect("32 bytes"),
        };
        transcript.prove(&self.secret, Side::Opener).to_vec()
    }

    /// Proves itself; gives the proof that it used.
    fn handshake(&mut self, to: &str) -> Result<Vec<u8>, wire::PeerRefused> {
        let challenge = self.hello(to)?;
        let mac = self.proof(&challenge);
        self.say(Frame::Proof(wire::PeerProof { mac: mac.clone().into() }));
        match self.hear()? {
            Frame::Welcome(_) => Ok(mac),
            other => panic!("no welcome but {other:?}"),
        }
    }
}

fn envelope(message: Option<wire::peer_envelope::Message>) -> wire::PeerEnvelope {
    wire::PeerEnvelope { incarnation: 1, lineage: vec![0; 16].into(), message }
}

#[test]
fn a_replayed_proof_is_refused() {
    let port = Port::free();
    let _n1 = Node::start(setup("n1"), port.number(), &[("n2", 1)]);
    let used = Caller::new("n2", 3, port.number()).handshake("n1").expect("is welcome");
    // The same hello, nonce and identity once more: only the called node's nonce differs.
    let mut replay = Caller::new("n2", 3, port.number());
    replay.hello("n1").expect("is challenged");
    replay.say(Frame::Proof(wire::PeerProof { mac: used.into() }));
    let refused = replay.hear().expect_err("is refused");
    assert_eq!(refused.reason(), Reason::Secret);
    // And one that says nothing is no better than a wrong one.
    let mut mute = Caller::new("n2", 3, port.number());
    mute.hello("n1").expect("is challenged");
    mute.say(Frame::Proof(wire::PeerProof { mac: Bytes::new() }));
    assert_eq!(mute.hear().expect_err("is refused").reason(), Reason::Secret);
}

#[test]
fn frames_that_make_no_sense_end_their_stream_and_nothing_else() {
    let port = Port::free();
    let mut n1 = Node::start(setup("n1"), port.number(), &[("n2", 1)]);
    let call = || Caller::new("n2", 3, port.number());
    let refused = |mut caller: Caller| {
        let refused = caller.hear().expect_err("is refused");
        (refused.reason(), refused.message)
    };

    let early = call();
    early.say(Frame::Envelope(envelope(None)));
    assert_eq!(refused(early).0, Reason::Malformed, "an envelope before the proof");

    let newer = call();
    newer.say(Frame::Hello(wire::PeerHello { protocol: 99, ..newer.hello_frame("n1") }));
    assert_eq!(refused(newer).0, Reason::Protocol);

    let short = call();
    let hello = wire::PeerHello { nonce: vec![1; 3].into(), ..short.hello_frame("n1") };
    short.say(Frame::Hello(hello));
    assert_eq!(refused(short), (Reason::Malformed, "nonce: 3 bytes, not 32".to_owned()));

    let nameless = call();
    nameless.say(Frame::Hello(wire::PeerHello { from: None, ..nameless.hello_frame("n1") }));
    assert_eq!(refused(nameless), (Reason::Malformed, "identity is missing".to_owned()));

    let other_stream = call();
    let hello = wire::PeerHello { channel: 2, ..other_stream.hello_frame("n1") };
    other_stream.say(Frame::Hello(hello));
    assert_eq!(refused(other_stream).0, Reason::Malformed);

    let beat = wire::peer_envelope::Message::HeartbeatReply(wire::PeerHeartbeatReply::default());
    let wrong: [(Option<wire::peer_envelope::Message>, &str); 3] = [
        (None, "message is missing"),
        (Some(beat), "message: not one for the log stream"),
        (
            Some(wire::peer_envelope::Message::Prepare(wire::PeerPrepare::default())),
            "term is missing",
        ),
    ];
    for (message, why) in wrong {
        let mut caller = call();
        caller.handshake("n1").expect("is welcome");
        caller.say(Frame::Envelope(envelope(message)));
        assert_eq!(refused(caller), (Reason::Malformed, why.to_owned()));
    }
    let mut unknown = call();
    unknown.handshake("n1").expect("is welcome");
    unknown.say_raw(wire::PeerFrame { frame: None });
    assert_eq!(refused(unknown).0, Reason::Malformed);

    let mut good = call();
    good.handshake("n1").expect("the node lives");
    let vote = wire::peer_envelope::Message::PreVote(wire::PeerPreVote::default());
    good.say(Frame::Envelope(envelope(Some(vote))));
    let got = n1.next_log();
    assert_eq!((got.from, got.message), (id("n2"), self::vote(0)));
}

#[test]
fn bytes_that_are_no_frame_end_their_stream_and_nothing_else() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let port = Port::free();
    let _n1 = Node::start(setup("n1"), port.number(), &[("n2", 1)]);
    let runtime = Runtime::new().expect("build a runtime");
    runtime.block_on(async {
        for noise in [&b"GET / HTTP/1.0\r\n\r\n"[..], &[0xff; 4096], b"PRI * HTTP/2.0\r\n\r\nSM"] {
            let mut socket = TcpStream::connect(("127.0.0.1", port.number())).await.expect("up");
            let _ = socket.write_all(noise).await;
            let _ = socket.shutdown().await;
            let _ = tokio::time::timeout(DEADLINE, socket.read_to_end(&mut Vec::new())).await;
        }
    });
    Caller::new("n2", 3, port.number()).handshake("n1").expect("the node lives");
}

const PINGS: usize = 20_000;

/// Measures, and prints: `tests/run.sh long transport`.
#[test]
#[ignore = "a measurement"]
fn measure_ping_pong_and_bulk() {
    let ports = two_ports();
    let (mut n1, mut n2) = pair(&ports);
    let small = append(1, &[Bytes::from(vec![1; 200])]);
    echo(&mut n2, "n1", small.clone());
    let mut took = ping(&mut n1, "n2", small);
    took.sort_unstable();
    let us = |permille: usize| took[PINGS * permille / 1000].as_micros();
    println!("ping-pong of 200 B appends: p50 {} µs, p99 {} µs", us(500), us(990));
    drop((n1, n2));
    let (n1, mut n2) = pair(&ports);
    println!("bulk of 1 MiB appends: {:.0} MB/s", bulk(&n1, &mut n2));
}

/// Answers on the node's own runtime.
fn echo(node: &mut Node, to: &'static str, reply: Message) {
    let reply = node.envelope(reply);
    let (mut log_rx, transport) = (node.take_log(), node.transport.clone());
    node.runtime.as_ref().expect("it runs").spawn(async move {
        while log_rx.recv().await.is_some() {
            transport.send(&id(to), reply.clone());
        }
    });
}

/// Asks on the node's own runtime, one at a time; how long each answer took.
fn ping(node: &mut Node, to: &'static str, ask: Message) -> Vec<Duration> {
    let ask = node.envelope(ask);
    let (mut log_rx, transport) = (node.take_log(), node.transport.clone());
    let runtime = node.runtime.as_ref().expect("it runs");
    let asking = runtime.spawn(async move {
        let mut took = Vec::with_capacity(PINGS);
        for _ in 0..PINGS {
            let before = Instant::now();
            transport.send(&id(to), ask.clone());
            log_rx.recv().await.expect("open");
            took.push(before.elapsed());
        }
        took
    });
    runtime.block_on(asking).expect("joins")
}

/// MB/s from one node to the other, the queue never empty.
fn bulk(n1: &Node, n2: &mut Node) -> f64 {
    const APPENDS: usize = 2000;
    const BODIES: usize = 17;
    const BODY_BYTES: usize = 60 * 1024;
    let message = append(0, &vec![Bytes::from(vec![1; BODY_BYTES]); BODIES]);
    let before = Instant::now();
    let mut sent = 0;
    for _ in 0..APPENDS {
        while sent < APPENDS && n1.link("n2").log.waiting_bytes < LOG_QUEUE_BYTES_MAX / 2 {
            n1.send("n2", message.clone());
            sent += 1;
        }
        n2.next_log();
    }
    (APPENDS * BODIES * BODY_BYTES) as f64 / 1e6 / before.elapsed().as_secs_f64()
}
