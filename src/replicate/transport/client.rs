//! This node's own stream to one peer on one channel: opened, proved, fed, and opened again.

use std::{
    error::Error,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::StreamExt as _;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::{error, info, warn};

use super::{
    auth::{Channel, Identity, PROTOCOL, Side, Transcript, random},
    convert::{self, WireError, array, identity_to_wire},
    grpc::{HANDSHAKE_DEADLINE, MESSAGE_BYTES_MAX, RECONNECT_MAX, RECONNECT_MIN, endpoint},
    local::{Local, renew},
    presence::{Claim, Direction, SameId},
    queue::{Frames, Pushed, Queue},
};
use crate::{
    clock::{self, Moment},
    replicate::message::Envelope,
    types::NodeId,
    wire::{self, peer_client::PeerClient, peer_frame::Frame},
};

/// How one stream to a peer is, for status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelLink {
    /// Since when this node's stream is up and proved; `None` while it is not.
    pub connected_since: Option<Moment>,
    /// Whether the peer's own stream to this node is up and proved.
    pub inbound: bool,
    /// Why this node's stream ended or could not be opened last; `None` while it is up.
    pub last_error: Option<String>,
    /// Whether the peer refused it last: waiting will not help.
    pub refused: bool,
    /// Messages queued since the start of the process.
    pub queued_total: u64,
    /// Messages dropped because the queue was full.
    pub dropped_full: u64,
    /// Messages dropped because there was no stream.
    pub dropped_down: u64,
    /// Messages waiting now.
    pub waiting: usize,
    /// Their bytes.
    pub waiting_bytes: usize,
}

/// Why a stream is not up.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("connect to {address}: {why}")]
    Connect { address: String, why: String },
    #[error("the stream broke: {0}")]
    Broken(String),
    #[error("{address} did not answer the handshake within {HANDSHAKE_DEADLINE:?}")]
    Deadline { address: String },
    #[error("refused by {peer}: {why}")]
    Refused { peer: NodeId, why: String },
    #[error("the node at {address} is {found}, not {peer}")]
    WrongNode { address: String, found: NodeId, peer: NodeId },
    #[error("the node at {address} does not prove the cluster secret: the secrets differ")]
    Secret { address: String },
    #[error("{peer} belongs to another cluster")]
    Cluster { peer: NodeId },
    #[error(transparent)]
    SameId(#[from] SameId),
    #[error("{peer} sent what makes no sense: {source}")]
    Malformed { peer: NodeId, source: WireError },
    #[error("no random bytes from the system: {0}")]
    Random(#[from] getrandom::Error),
}

/// One stream to one peer.
pub struct Link {
    peer: NodeId,
    address: String,
    channel: Channel,
    state: Mutex<State>,
    queued: AtomicU64,
    dropped_full: AtomicU64,
    dropped_down: AtomicU64,
    oversized: AtomicBool,
}

#[derive(Default)]
struct State {
    up: Option<(Moment, Arc<Queue>)>,
    last_error: Option<String>,
    refused: bool,
}

impl Link {
    /// One that is not up yet.
    pub fn new(peer: NodeId, address: String, channel: Channel) -> Self {
        Self {
            peer,
            address,
            channel,
            state: Mutex::default(),
            queued: AtomicU64::new(0),
            dropped_full: AtomicU64::new(0),
            dropped_down: AtomicU64::new(0),
            oversized: AtomicBool::new(false),
        }
    }

    /// Where the peer is looked for.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Queues a message, or drops it. Never waits.
    pub fn send(&self, envelope: Envelope) {
        self.warn_oversized(&envelope);
        let queue = self.lock().up.as_ref().map(|(_, queue)| queue.clone());
        let pushed = queue.map_or(Pushed::Closed, |queue| queue.push(envelope));
        match pushed {
            Pushed::Queued => self.queued.fetch_add(1, Relaxed),
            Pushed::DroppedOldest => {
                self.queued.fetch_add(1, Relaxed);
                self.dropped_full.fetch_add(1, Relaxed)
            }
            Pushed::DroppedNewest => self.dropped_full.fetch_add(1, Relaxed),
            Pushed::Closed => self.dropped_down.fetch_add(1, Relaxed),
        };
    }

    /// A message that no frame can hold would be dropped for ever: say so once.
    fn warn_oversized(&self, envelope: &Envelope) {
        let bytes = convert::weight(envelope);
        if bytes > MESSAGE_BYTES_MAX && !self.oversized.swap(true, Relaxed) {
            error!(peer = %self.peer, bytes, max = MESSAGE_BYTES_MAX, "a message is too large to send");
        }
    }

    /// For status.
    pub fn view(&self, inbound: bool) -> ChannelLink {
        let state = self.lock();
        let (waiting, waiting_bytes) = state.up.as_ref().map_or((0, 0), |(_, q)| q.waiting());
        ChannelLink {
            connected_since: state.up.as_ref().map(|(since, _)| *since),
            inbound,
            last_error: state.last_error.clone(),
            refused: state.refused,
            queued_total: self.queued.load(Relaxed),
            dropped_full: self.dropped_full.load(Relaxed),
            dropped_down: self.dropped_down.load(Relaxed),
            waiting,
            waiting_bytes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the stream up until the node stops, or the peer is none any more.
pub async fn run(link: Arc<Link>, local: Arc<Local>, ended: CancellationToken) {
    let stopping = local.tasks.stopping();
    let kept_up = ended.run_until_cancelled(keep_up(&link, &local));
    stopping.run_until_cancelled(kept_up).await;
}

/// Opens the stream again and again. A reason is logged when it is new, not at each attempt.
async fn keep_up(link: &Link, local: &Arc<Local>) {
    let mut pause = RECONNECT_MIN;
    loop {
        let why = match open(link, local).await {
            Ok(stream) => {
                pause = RECONNECT_MIN;
                stream.last(link).await
            }
            Err(why) => why,
        };
        note(link, &why);
        sleep(pause).await;
        pause = next_pause(pause);
    }
}

fn next_pause(pause: Duration) -> Duration {
    (pause * 2).min(RECONNECT_MAX)
}

fn note(link: &Link, why: &LinkError) {
    let refused = matches!(why, LinkError::Refused { .. });
    let why = why.to_string();
    let mut state = link.lock();
    state.refused = refused;
    if renew(&mut state.last_error, &why) {
        warn!(peer = %link.peer, channel = link.channel.name(), why, "no stream to a peer");
    }
}

/// A stream that both sides have proved.
struct Stream {
    incoming: Streaming<wire::PeerFrame>,
    queue: OpenQueue,
    _claim: Claim,
}

/// Closes the queue with its stream, so that nothing takes from it any more.
struct OpenQueue(Arc<Queue>);

impl Drop for OpenQueue {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The link is up as long as this lives.
struct Up<'a>(&'a Link);

impl<'a> Up<'a> {
    fn new(link: &'a Link, queue: Arc<Queue>) -> Self {
        let mut state = link.lock();
        state.up = Some((clock::now(), queue));
        (state.last_error, state.refused) = (None, false);
        info!(peer = %link.peer, channel = link.channel.name(), "stream to a peer is up");
        Self(link)
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        self.0.lock().up = None;
    }
}

impl Stream {
    /// Lets messages flow until the stream ends; tells why it did.
    async fn last(mut self, link: &Link) -> LinkError {
        let _up = Up::new(link, self.queue.0.clone());
        match next(&mut self.incoming, link).await {
            Ok(_) => unexpected(link, "frame after the welcome"),
            Err(why) => why,
        }
    }
}

/// Connects and proves, or says what is wrong, within the deadline.
async fn open(link: &Link, local: &Arc<Local>) -> Result<Stream, LinkError> {
    timeout(HANDSHAKE_DEADLINE, handshake(link, local))
        .await
        .unwrap_or_else(|_| Err(LinkError::Deadline { address: link.address.clone() }))
}

async fn handshake(link: &Link, local: &Arc<Local>) -> Result<Stream, LinkError> {
    let queue = OpenQueue(Arc::new(Queue::new(link.channel)));
    let (proof_tx, proof_rx) = mpsc::channel(2);
    let outgoing = ReceiverStream::new(proof_rx).chain(Frames(queue.0.clone()));
    let mut incoming = call(link, outgoing).await?;

    let (opener, opener_nonce) = (local.identity(), random()?);
    let hello = hello(link, &opener, opener_nonce);
    send(&proof_tx, Frame::Hello(hello)).await?;
    let Frame::Challenge(challenge) = next(&mut incoming, link).await? else {
        return Err(unexpected(link, "frame instead of a challenge"));
    };
    let malformed = |source| LinkError::Malformed { peer: link.peer.clone(), source };
    let called = convert::identity(challenge.from).map_err(malformed)?;
    let called_nonce = array("nonce", &challenge.nonce).map_err(malformed)?;
    check(link, &opener, &called)?;

    let channel = link.channel;
    let transcript = Transcript { channel, opener, called, opener_nonce, called_nonce };
    let mac = transcript.prove(&local.secret, Side::Opener).to_vec().into();
    send(&proof_tx, Frame::Proof(wire::PeerProof { mac })).await?;
    let Frame::Welcome(welcome) = next(&mut incoming, link).await? else {
        return Err(unexpected(link, "frame instead of a welcome"));
    };
    if !transcript.verify(&local.secret, Side::Called, &welcome.mac) {
        return Err(LinkError::Secret { address: link.address.clone() });
    }
    let claim = local.presence.claim(&transcript.called, Direction::Outbound, channel)?;
    Ok(Stream { incoming, queue, _claim: claim })
}

fn hello(link: &Link, opener: &Identity, nonce: [u8; 32]) -> wire::PeerHello {
    wire::PeerHello {
        protocol: PROTOCOL,
        channel: i32::from(link.channel as u8),
        from: Some(identity_to_wire(opener)),
        to: link.peer.to_string(),
        nonce: nonce.to_vec().into(),
    }
}

/// Whether the called node is who should be there.
fn check(link: &Link, opener: &Identity, called: &Identity) -> Result<(), LinkError> {
    if called.node != link.peer {
        return Err(LinkError::WrongNode {
            address: link.address.clone(),
            found: called.node.clone(),
            peer: link.peer.clone(),
        });
    }
    if !opener.same_cluster(called) {
        return Err(LinkError::Cluster { peer: link.peer.clone() });
    }
    Ok(())
}

/// Connects, resolving the name anew, and calls the stream's method.
async fn call<S>(link: &Link, outgoing: S) -> Result<Streaming<wire::PeerFrame>, LinkError>
where
    S: futures::Stream<Item = wire::PeerFrame> + Send + 'static,
{
    let failed =
        |e: &dyn Error| LinkError::Connect { address: link.address.clone(), why: chain(e) };
    let endpoint = endpoint(&link.address, link.channel).map_err(|e| failed(&e))?;
    let connection = endpoint.connect().await.map_err(|e| failed(&e))?;
    let mut client = PeerClient::new(connection)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let answer = match link.channel {
        Channel::Log => client.log(outgoing).await,
        Channel::Heartbeat => client.heartbeat(outgoing).await,
    };
    answer.map(tonic::Response::into_inner).map_err(|status| broken(&status))
}

async fn send(to: &mpsc::Sender<wire::PeerFrame>, frame: Frame) -> Result<(), LinkError> {
    let frame = wire::PeerFrame { frame: Some(frame) };
    to.send(frame).await.map_err(|_| LinkError::Broken("it ended in the handshake".into()))
}

/// The peer's next frame; a refusal is an error.
async fn next(incoming: &mut Streaming<wire::PeerFrame>, link: &Link) -> Result<Frame, LinkError> {
    let frame = incoming.message().await.map_err(|status| broken(&status))?;
    let frame = frame.ok_or_else(|| LinkError::Broken("the peer ended it".into()))?;
    match frame.frame {
        Some(Frame::Refused(refused)) => {
            Err(LinkError::Refused { peer: link.peer.clone(), why: printable(&refused.message) })
        }
        Some(frame) => Ok(frame),
        None => Err(unexpected(link, "empty or unknown frame")),
    }
}

fn unexpected(link: &Link, what: &str) -> LinkError {
    let source = WireError::Invalid { field: "frame", what: what.to_owned() };
    LinkError::Malformed { peer: link.peer.clone(), source }
}

fn broken(status: &Status) -> LinkError {
    let why = status.source().map_or_else(|| status.message().to_owned(), chain);
    LinkError::Broken(why)
}

/// A refusal comes from who has proved nothing: it is cut, and made harmless for a terminal.
fn printable(message: &str) -> String {
    const REFUSAL_CHARS_MAX: usize = 300;
    message.chars().filter(|c| !c.is_control()).take(REFUSAL_CHARS_MAX).collect()
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut pauses = vec![RECONNECT_MIN];
        for _ in 0..6 {
            pauses.push(next_pause(*pauses.last().expect("not empty")));
        }
        let ms: Vec<_> = pauses.iter().map(Duration::as_millis).collect();
        assert_eq!(ms, [50, 100, 200, 400, 800, 1000, 1000]);
    }

    #[test]
    fn a_refusal_cannot_paint_the_terminal() {
        assert_eq!(printable("no\x1b[31m\nway"), "no[31mway");
        assert_eq!(printable(&"x".repeat(9999)).len(), 300);
    }
}
