//! The streams that peers open to this node: proved, then emptied into the core's inbox.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info};

use super::{
    auth::{Channel, Identity, PROTOCOL, Side, Transcript, random},
    convert::{self, WireError, array, identity_to_wire},
    grpc::HANDSHAKE_DEADLINE,
    local::Local,
    presence::{Claim, Direction},
};
use crate::{
    tasks::OnEnd,
    types::NodeId,
    wire::{self, peer_frame::Frame, peer_refused::Reason, peer_server::Peer},
};

/// How many frames may wait to be sent back: handshakes need one at a time.
const ANSWERS_MAX: usize = 4;
/// How long a refused caller may take to read why, before the stream is cut.
const REFUSAL_READ_DEADLINE: Duration = Duration::from_secs(1);

type AnswerTx = mpsc::Sender<Result<wire::PeerFrame, Status>>;

/// The service `Peer`.
pub struct PeerService(Arc<Local>);

/// Why a stream is ended, for the caller to know.
struct Refusal {
    caller: Option<NodeId>,
    reason: Reason,
    message: String,
}

impl PeerService {
    pub(super) fn new(local: Arc<Local>) -> Self {
        Self(local)
    }

    /// Answers at once; a task of its own goes on with the stream.
    fn accept(&self, channel: Channel, incoming: Streaming<wire::PeerFrame>) -> Answers {
        let (answer_tx, answer_rx) = mpsc::channel(ANSWERS_MAX);
        let stream = Inbound { local: self.0.clone(), channel, incoming, answer_tx };
        self.0.tasks.spawn("peer stream", OnEnd::Ignore, stream.run());
        Ok(Response::new(ReceiverStream::new(answer_rx)))
    }
}

type Answers = Result<Response<ReceiverStream<Result<wire::PeerFrame, Status>>>, Status>;

#[tonic::async_trait]
impl Peer for PeerService {
    type LogStream = ReceiverStream<Result<wire::PeerFrame, Status>>;
    type HeartbeatStream = ReceiverStream<Result<wire::PeerFrame, Status>>;

    async fn log(&self, request: Request<Streaming<wire::PeerFrame>>) -> Answers {
        self.accept(Channel::Log, request.into_inner())
    }

    async fn heartbeat(&self, request: Request<Streaming<wire::PeerFrame>>) -> Answers {
        self.accept(Channel::Heartbeat, request.into_inner())
    }
}

/// One stream that a peer opened.
struct Inbound {
    local: Arc<Local>,
    channel: Channel,
    incoming: Streaming<wire::PeerFrame>,
    answer_tx: AnswerTx,
}

impl Inbound {
    async fn run(mut self) {
        let stopping = self.local.tasks.stopping();
        match stopping.run_until_cancelled(self.serve()).await {
            Some(Ok(())) => {}
            Some(Err(refusal)) => self.refuse(refusal).await,
            None => {
                let _ = self.answer_tx.try_send(Ok(refused(Reason::Stopping, "it is stopping")));
            }
        }
    }

    /// Tells the caller why, and leaves it the time to read it.
    async fn refuse(&self, refusal: Refusal) {
        let Refusal { caller, reason, message } = refusal;
        self.local.refusals.note(caller.as_ref(), &message);
        let _ = self.answer_tx.try_send(Ok(refused(reason, &message)));
        let stopping = self.local.tasks.stopping();
        let read = timeout(REFUSAL_READ_DEADLINE, self.answer_tx.closed());
        let _ = stopping.run_until_cancelled(read).await;
    }

    async fn serve(&mut self) -> Result<(), Refusal> {
        let (sender, claim) = self.welcome().await?;
        self.local.refusals.clear(&sender.node);
        if !self.local.refusals.knows(&sender.node) {
            // If many come at once, the next stream of this one tries again.
            let _full =
                self.local.strangers_tx.try_send((sender.node.clone(), sender.address.clone()));
        }
        info!(peer = %sender.node, channel = self.channel.name(), "a peer's stream is up");
        let end = self.receive(&sender, &claim).await;
        debug!(peer = %sender.node, channel = self.channel.name(), "a peer's stream ended");
        end
    }

    /// Passes on what comes, until the stream ends. Where there is no room in the inbox, it waits:
    /// that is what slows the sender.
    async fn receive(&mut self, sender: &Identity, claim: &Claim) -> Result<(), Refusal> {
        let local = self.local.clone();
        let inbox = local.inbox(self.channel);
        loop {
            let frame = tokio::select! {
                () = claim.replaced() => return Ok(()),
                () = self.answer_tx.closed() => return Ok(()),
                frame = self.incoming.message() => frame,
            };
            let frame = match frame {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(()),
                Err(status) => return ended(sender, &status),
            };
            let Some(Frame::Envelope(wire)) = frame.frame else {
                return Err(malformed(&sender.node, "a frame that is no envelope"));
            };
            let envelope = convert::envelope(wire, sender, self.channel)
                .map_err(|error| malformed(&sender.node, &error.to_string()))?;
            let room = tokio::select! {
                () = claim.replaced() => return Ok(()),
                () = self.answer_tx.closed() => return Ok(()),
                room = inbox.reserve() => room,
            };
            let Ok(room) = room else {
                return Err(Refusal::new(&sender.node, Reason::Stopping, "it is stopping"));
            };
            room.send(envelope);
        }
    }

    /// The handshake, within its deadline and number.
    async fn welcome(&mut self) -> Result<(Identity, Claim), Refusal> {
        let local = self.local.clone();
        let busy = |message: &str| Refusal {
            caller: None,
            reason: Reason::Busy,
            message: message.to_owned(),
        };
        let _place = local
            .handshakes
            .try_acquire()
            .map_err(|_| busy("too many handshakes at once; try again"))?;
        timeout(HANDSHAKE_DEADLINE, self.handshake())
            .await
            .unwrap_or_else(|_| Err(busy("the handshake took too long")))
    }

    async fn handshake(&mut self) -> Result<(Identity, Claim), Refusal> {
        let Some(Frame::Hello(hello)) = self.next().await? else {
            return Err(stranger(Reason::Malformed, "a stream begins with a hello"));
        };
        let (opener, opener_nonce) = self.check_hello(hello)?;
        let called = self.local.identity();
        let called_nonce = random()
            .map_err(|error| Refusal::new(&opener.node, Reason::Busy, error.to_string()))?;
        self.answer(Frame::Challenge(wire::PeerChallenge {
            from: Some(identity_to_wire(&called)),
            nonce: called_nonce.to_vec().into(),
        }));

        let Some(Frame::Proof(proof)) = self.next().await? else {
            return Err(malformed(&opener.node, "a frame instead of a proof"));
        };
        let channel = self.channel;
        let transcript = Transcript { channel, opener, called, opener_nonce, called_nonce };
        let claim = self.admit(&transcript, &proof.mac)?;
        let mac = transcript.prove(&self.local.secret, Side::Called).to_vec().into();
        self.answer(Frame::Welcome(wire::PeerWelcome { mac }));
        Ok((transcript.opener, claim))
    }

    /// What can be judged before the proof: is it for us, and from a peer?
    fn check_hello(&self, hello: wire::PeerHello) -> Result<(Identity, [u8; 32]), Refusal> {
        let me = &self.local.id;
        if hello.protocol != PROTOCOL {
            let message =
                format!("{me} speaks protocol version {PROTOCOL}, not {}", hello.protocol);
            return Err(stranger(Reason::Protocol, message));
        }
        let senseless = |error: WireError| stranger(Reason::Malformed, error.to_string());
        let from = convert::identity(hello.from).map_err(senseless)?;
        let nonce = array("nonce", &hello.nonce).map_err(senseless)?;
        let refuse = |reason, message| Err(Refusal::new(&from.node, reason, message));
        if hello.channel != i32::from(self.channel as u8) {
            return refuse(Reason::Malformed, "the hello is for another stream".to_owned());
        }
        if hello.to != me.as_str() {
            let asked: String = hello.to.escape_debug().take(NODE_CHARS_SHOWN_MAX).collect();
            return refuse(Reason::WrongNode, format!("this node is {me}, not {asked}"));
        }
        if from.node == *me {
            let message = format!("the caller has this node's own ID, {me}: each needs its own");
            return refuse(Reason::SameId, message);
        }
        // Who belongs to this cluster, which the proof will show, may have joined it while this
        // node was away.
        let fellow = from.cluster.is_some() && from.cluster == *self.local.cluster.borrow();
        if !fellow && !self.local.refusals.knows(&from.node) {
            let message = format!(
                "{} is none of {me}'s peers: if it should join this cluster, \
                 `wolfctl member add {}=HOST:PORT` lets it in",
                from.node, from.node
            );
            return refuse(Reason::UnknownNode, message);
        }
        Ok((from, nonce))
    }

    /// Judges the proof, and what counts only once it holds.
    fn admit(&self, transcript: &Transcript, proof: &[u8]) -> Result<Claim, Refusal> {
        let Transcript { opener, called, .. } = transcript;
        let refuse = |reason, message| Err(Refusal::new(&opener.node, reason, message));
        if !transcript.verify(&self.local.secret, Side::Opener, proof) {
            let message = format!(
                "wrong proof: the cluster secrets of {} and {} differ",
                opener.node, called.node
            );
            return refuse(Reason::Secret, message);
        }
        if !opener.same_cluster(called) {
            let message =
                format!("{} and {} belong to different clusters", opener.node, called.node);
            return refuse(Reason::Cluster, message);
        }
        self.local
            .presence
            .claim(opener, Direction::Inbound, self.channel)
            .map_err(|same| Refusal::new(&opener.node, Reason::SameId, same.to_string()))
    }

    async fn next(&mut self) -> Result<Option<Frame>, Refusal> {
        match self.incoming.message().await {
            Ok(frame) => Ok(frame.and_then(|frame| frame.frame)),
            Err(status) => Err(stranger(Reason::Malformed, status.message())),
        }
    }

    /// A handshake has at most two answers and a refusal, so there is always room; a caller that
    /// is gone needs none.
    fn answer(&self, frame: Frame) {
        let _ = self.answer_tx.try_send(Ok(wire::PeerFrame { frame: Some(frame) }));
    }
}

/// How much of an ID that is not ours is repeated in a message.
const NODE_CHARS_SHOWN_MAX: usize = 80;

impl Refusal {
    fn new(caller: &NodeId, reason: Reason, message: impl Into<String>) -> Self {
        Self { caller: Some(caller.clone()), reason, message: message.into() }
    }
}

fn stranger(reason: Reason, message: impl Into<String>) -> Refusal {
    Refusal { caller: None, reason, message: message.into() }
}

fn malformed(caller: &NodeId, what: &str) -> Refusal {
    Refusal::new(caller, Reason::Malformed, what)
}

/// A stream ended by its status: bytes that do not decode are refused, all else is a broken wire.
fn ended(sender: &Identity, status: &Status) -> Result<(), Refusal> {
    match status.code() {
        tonic::Code::Internal | tonic::Code::OutOfRange if is_decoding(status) => {
            Err(malformed(&sender.node, status.message()))
        }
        _ => Ok(()),
    }
}

fn is_decoding(status: &Status) -> bool {
    status.message().contains("decode") || status.code() == tonic::Code::OutOfRange
}

fn refused(reason: Reason, message: &str) -> wire::PeerFrame {
    let refused = wire::PeerRefused { reason: reason.into(), message: message.to_owned() };
    wire::PeerFrame { frame: Some(Frame::Refused(refused)) }
}
