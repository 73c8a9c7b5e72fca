//! The transport over tonic: streams to every peer, and the service that takes theirs.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc, watch},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Endpoint, Server, server::TcpIncoming};

use super::{
    Transport,
    auth::{Channel, ClusterSecret, random},
    client::{self, Link},
    convert,
    local::{Local, Refusals},
    presence::Presence,
};
pub use super::{
    client::ChannelLink,
    queue::{
        HEARTBEAT_QUEUE_BYTES_MAX, HEARTBEAT_QUEUE_FRAMES_MAX, LOG_QUEUE_BYTES_MAX,
        LOG_QUEUE_FRAMES_MAX,
    },
    server::PeerService,
};
use crate::{
    replicate::message::Envelope,
    tasks::{OnEnd, Tasks},
    types::{ClusterId, Incarnation, NodeId},
    wire::peer_server::PeerServer,
};

/// The largest frame, and so the largest message.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// How many log messages may wait for the core; then the senders' streams wait.
pub const INBOUND_LOG_MAX: usize = 64;
/// How many heartbeats may wait for the core.
pub const INBOUND_HEARTBEATS_MAX: usize = 256;
/// How many handshakes may be under way; more are refused.
pub const HANDSHAKES_MAX: usize = 64;
/// How many members that are not known yet may wait for streams to them.
const STRANGERS_WAITING_MAX: usize = 16;
/// To how many nodes streams are open at most.
const PEERS_MAX: usize = 64;
/// A stream is welcome within this time, or it is ended.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(3);
/// The first pause before a stream is opened again; it doubles.
pub const RECONNECT_MIN: Duration = Duration::from_millis(50);
/// The longest pause before a stream is opened again.
pub const RECONNECT_MAX: Duration = Duration::from_secs(1);
/// Silence on a connection after which HTTP/2 asks for a sign of life.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_millis(500);
/// How long it waits for that sign on a connection for heartbeats.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long it waits on all others, where the sign stands behind what the kernel has taken already.
pub const KEEP_ALIVE_TIMEOUT_BULK: Duration = Duration::from_secs(4);

const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const HTTP2_FRAME_BYTES_MAX: u32 = 1 << 20;

/// What the transport is started with.
#[derive(Debug)]
pub struct GrpcSettings {
    /// This node.
    pub id: NodeId,
    /// Which life of its store.
    pub incarnation: Incarnation,
    /// Its cluster, once bootstrapped.
    pub cluster: watch::Receiver<Option<ClusterId>>,
    /// What all its nodes know.
    pub secret: ClusterSecret,
    /// The nodes and where they listen, as `host:port`: the others, and this one, which tells its
    /// own address to those that do not know it yet.
    pub peers: Vec<(NodeId, String)>,
}

/// Fatal: the transport cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is none.
    #[error("address {address:?} of peer {peer} is not host:port: {source}")]
    Address {
        /// Whose.
        peer: NodeId,
        /// What it says.
        address: String,
        /// What is wrong with it.
        source: tonic::transport::Error,
    },
    /// The system gives no random bytes.
    #[error("no random bytes from the system: {0}")]
    Random(#[from] getrandom::Error),
}

/// What peers have sent, in two queues, so that heartbeats never wait behind entries.
#[derive(Debug)]
pub struct Inbound {
    /// Elections, entries, acknowledgements.
    pub log: mpsc::Receiver<Envelope>,
    /// Heartbeats and their replies.
    pub heartbeats: mpsc::Receiver<Envelope>,
}

/// A started transport.
pub struct Started {
    /// Sends.
    pub transport: Arc<GrpcTransport>,
    /// Receives.
    pub inbound: Inbound,
    /// To be added to the node's gRPC server, which [`server_builder`] makes.
    pub service: PeerServer<PeerService>,
}

/// How this node's streams to a peer are, for status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerLink {
    /// The peer.
    pub peer: NodeId,
    /// Where it is looked for.
    pub address: String,
    /// The stream for entries.
    pub log: ChannelLink,
    /// The stream for heartbeats.
    pub heartbeat: ChannelLink,
    /// Why the peer was refused when it called last; `None` once it is welcome.
    pub refused: Option<String>,
}

/// Sends to all peers over gRPC.
pub struct GrpcTransport {
    local: Arc<Local>,
    peers: RwLock<BTreeMap<NodeId, PeerLinks>>,
}

struct PeerLinks {
    log: Arc<Link>,
    heartbeat: Arc<Link>,
    _ended: DropGuard,
}

impl GrpcTransport {
    /// Starts a task for each stream to each peer; they end when `tasks` is stopped.
    pub fn start(settings: GrpcSettings, tasks: &Tasks) -> Result<Started, StartError> {
        let GrpcSettings { id, incarnation, cluster, secret, peers } = settings;
        let own = peers.iter().find(|(peer, _)| *peer == id).map(|(_, address)| address.clone());
        for (peer, address) in &peers {
            endpoint(address, Channel::Log).map_err(|source| StartError::Address {
                peer: peer.clone(),
                address: address.clone(),
                source,
            })?;
        }
        let (strangers_tx, strangers) = mpsc::channel(STRANGERS_WAITING_MAX);
        let (log_tx, log) = mpsc::channel(INBOUND_LOG_MAX);
        let (heartbeat_tx, heartbeats) = mpsc::channel(INBOUND_HEARTBEATS_MAX);
        let local = Arc::new(Local {
            id,
            incarnation,
            run: random()?,
            cluster,
            address: own.unwrap_or_default(),
            secret,
            log_tx,
            heartbeat_tx,
            presence: Arc::new(Presence::default()),
            handshakes: Semaphore::new(HANDSHAKES_MAX),
            refusals: Refusals::default(),
            strangers_tx,
            tasks: tasks.clone(),
        });
        let service = PeerServer::new(PeerService::new(local.clone()))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let transport = Arc::new(Self { local, peers: RwLock::default() });
        transport.set_peers(&peers);
        tasks.spawn("strangers", OnEnd::StopNode, transport.clone().welcome(strangers));
        Ok(Started { transport, inbound: Inbound { log, heartbeats }, service })
    }

    /// From now on these are the nodes, with their addresses; this one is passed over. Streams to
    /// those that are new or have moved are opened, streams to others end.
    pub fn set_peers(&self, nodes: &[(NodeId, String)]) {
        let others = || nodes.iter().filter(|(peer, _)| *peer != self.local.id);
        self.local.refusals.expect_only(&others().map(|(peer, _)| peer.clone()).collect());
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        peers.retain(|peer, links| {
            others().any(|(id, address)| id == peer && address == links.log.address())
        });
        drop(peers);
        self.add_peers(nodes);
    }

    /// As [`GrpcTransport::set_peers`], but other nodes stay what they are.
    pub fn add_peers(&self, nodes: &[(NodeId, String)]) {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        for (peer, address) in nodes.iter().filter(|(peer, _)| *peer != self.local.id) {
            self.local.refusals.expect(peer);
            peers.entry(peer.clone()).or_insert_with(|| self.open(peer, address));
        }
    }

    /// Opens streams to members that called before this node heard that they are.
    async fn welcome(self: Arc<Self>, mut strangers: mpsc::Receiver<(NodeId, String)>) {
        let stopping = self.local.tasks.stopping();
        while let Some(Some((peer, address))) = stopping.run_until_cancelled(strangers.recv()).await
        {
            let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
            if peers.len() < PEERS_MAX && endpoint(&address, Channel::Log).is_ok() {
                peers.entry(peer.clone()).or_insert_with(|| self.open(&peer, &address));
            }
        }
        stopping.cancelled().await;
    }

    fn open(&self, peer: &NodeId, address: &str) -> PeerLinks {
        let ended = CancellationToken::new();
        let open = |channel| {
            let link = Arc::new(Link::new(peer.clone(), address.to_owned(), channel));
            let kept_up = client::run(link.clone(), self.local.clone(), ended.clone());
            self.local.tasks.spawn("peer link", OnEnd::Ignore, kept_up);
            link
        };
        let (log, heartbeat) = (open(Channel::Log), open(Channel::Heartbeat));
        PeerLinks { log, heartbeat, _ended: ended.drop_guard() }
    }

    fn peers(&self) -> RwLockReadGuard<'_, BTreeMap<NodeId, PeerLinks>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the streams to all peers are, by ID.
    pub fn links(&self) -> Vec<PeerLink> {
        let presence = &self.local.presence;
        let link = |(peer, links): (&NodeId, &PeerLinks)| PeerLink {
            peer: peer.clone(),
            address: links.log.address().to_owned(),
            log: links.log.view(presence.hears(peer, Channel::Log)),
            heartbeat: links.heartbeat.view(presence.hears(peer, Channel::Heartbeat)),
            refused: self.local.refusals.last(peer),
        };
        self.peers().iter().map(link).collect()
    }
}

impl Transport for GrpcTransport {
    fn send(&self, to: &NodeId, envelope: Envelope) {
        let peers = self.peers();
        let Some(peer) = peers.get(to) else { return };
        match convert::channel_of(&envelope.message) {
            Channel::Log => peer.log.send(envelope),
            Channel::Heartbeat => peer.heartbeat.send(envelope),
        }
    }
}

/// A gRPC server set up as peers need it: for bulk, for latency, and to notice who is gone.
pub fn server_builder() -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT_BULK))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES_MAX)
}

/// The connections of a bound listener, for `serve_with_incoming`, which ignores the builder's
/// own TCP settings.
pub fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

/// Where a peer is; made anew for each attempt, so that its name is resolved anew.
pub(super) fn endpoint(
    address: &str,
    channel: Channel,
) -> Result<Endpoint, tonic::transport::Error> {
    let keep_alive_timeout = match channel {
        Channel::Log => KEEP_ALIVE_TIMEOUT_BULK,
        Channel::Heartbeat => KEEP_ALIVE_TIMEOUT,
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(HANDSHAKE_DEADLINE)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(keep_alive_timeout)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES_MAX);
    Ok(endpoint)
}
