//! What waits to be sent to one peer on one stream: bounded in count and bytes, never waited for.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use super::{
    auth::Channel,
    convert::{self, weight},
};
use crate::{replicate::message::Envelope, wire};

/// How many messages may wait for a peer's log stream.
pub const LOG_QUEUE_FRAMES_MAX: usize = 1024;
/// How many bytes may wait for a peer's log stream.
pub const LOG_QUEUE_BYTES_MAX: usize = 64 << 20;
/// How many heartbeats may wait: an old one is worth nothing.
pub const HEARTBEAT_QUEUE_FRAMES_MAX: usize = 16;
/// How many bytes of heartbeats may wait.
pub const HEARTBEAT_QUEUE_BYTES_MAX: usize = 64 << 10;

/// What became of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pushed {
    /// It waits.
    Queued,
    /// It waits, and an older one was dropped for it.
    DroppedOldest,
    /// It was dropped: the queue is full.
    DroppedNewest,
    /// It was dropped: there is no stream.
    Closed,
}

/// The queue of one stream. It lives as long as the stream: what waits when a stream breaks is
/// history, and the core says again what still holds.
///
/// A full log queue drops the newest, so that what is sent stays a prefix; a full heartbeat queue
/// drops the oldest.
pub struct Queue {
    channel: Channel,
    frames_max: usize,
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(usize, Envelope)>,
    bytes: usize,
    closed: bool,
    reader: Option<Waker>,
}

impl Queue {
    /// An empty one with the limits of its channel.
    pub fn new(channel: Channel) -> Self {
        let (frames_max, bytes_max) = match channel {
            Channel::Log => (LOG_QUEUE_FRAMES_MAX, LOG_QUEUE_BYTES_MAX),
            Channel::Heartbeat => (HEARTBEAT_QUEUE_FRAMES_MAX, HEARTBEAT_QUEUE_BYTES_MAX),
        };
        Self { channel, frames_max, bytes_max, state: Mutex::default() }
    }

    /// Takes a message, if there is room.
    pub fn push(&self, envelope: Envelope) -> Pushed {
        let bytes = weight(&envelope);
        let mut state = self.lock();
        if state.closed {
            return Pushed::Closed;
        }
        let full = state.waiting.len() >= self.frames_max || state.bytes + bytes > self.bytes_max;
        if full && self.channel == Channel::Log {
            return Pushed::DroppedNewest;
        }
        if full && let Some((old, _)) = state.waiting.pop_front() {
            state.bytes -= old;
        }
        state.bytes += bytes;
        state.waiting.push_back((bytes, envelope));
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        if full { Pushed::DroppedOldest } else { Pushed::Queued }
    }

    /// Ends the stream: what waits is dropped.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.bytes = 0;
        state.waiting.clear();
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    /// How many messages and bytes wait.
    pub fn waiting(&self) -> (usize, usize) {
        let state = self.lock();
        (state.waiting.len(), state.bytes)
    }

    fn poll_pop(&self, cx: &mut Context<'_>) -> Poll<Option<Envelope>> {
        let mut state = self.lock();
        match state.waiting.pop_front() {
            Some((bytes, envelope)) => {
                state.bytes -= bytes;
                Poll::Ready(Some(envelope))
            }
            None if state.closed => Poll::Ready(None),
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The frames of a queue, made when they are sent: the transport packs all that are ready.
pub struct Frames(pub std::sync::Arc<Queue>);

impl futures::Stream for Frames {
    type Item = wire::PeerFrame;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_pop(cx).map(|next| next.map(|envelope| convert::frame(&envelope)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use futures::StreamExt as _;

    use super::*;
    use crate::{
        log::entry::{Entry, EntryKind, Part},
        replicate::message::{Append, Message, PreVote, Run},
        types::{ChainHash, Incarnation, Lsn, Position, Term},
        wire::{peer_envelope, peer_frame},
    };

    fn envelope(message: Message) -> Envelope {
        let from = "n1".parse().expect("valid");
        Envelope { from, incarnation: Incarnation(1), lineage: [0; 16], message }
    }

    fn vote(number: u64) -> Envelope {
        envelope(Message::PreVote(PreVote { number, handover: false }))
    }

    fn append(bytes: usize) -> Envelope {
        let term = Term { number: 1, leader: "n1".parse().expect("valid") };
        let entry = Arc::new(Entry {
            term: term.clone(),
            lsn: Lsn(1),
            kind: EntryKind::Kv,
            part: Part::WHOLE,
            request: None,
            chain: ChainHash::default(),
            body: Bytes::from(vec![0; bytes]),
        });
        envelope(Message::Append(Append {
            term,
            previous: Position::default(),
            run: Run { chain: ChainHash::default(), entries: vec![entry] },
            committed: Lsn(0),
            released: Lsn(0),
        }))
    }

    fn number(frame: wire::PeerFrame) -> Option<u64> {
        match frame.frame? {
            peer_frame::Frame::Envelope(e) => match e.message? {
                peer_envelope::Message::PreVote(vote) => Some(vote.number),
                _ => None,
            },
            _ => None,
        }
    }

    #[tokio::test]
    async fn a_full_log_queue_keeps_the_oldest_and_a_full_heartbeat_queue_the_newest() {
        let log = Arc::new(Queue::new(Channel::Log));
        for n in 0..LOG_QUEUE_FRAMES_MAX as u64 {
            assert_eq!(log.push(vote(n)), Pushed::Queued);
        }
        assert_eq!(log.push(vote(9999)), Pushed::DroppedNewest);
        assert_eq!(Frames(log).next().await.and_then(number), Some(0));

        let beats = Arc::new(Queue::new(Channel::Heartbeat));
        for n in 0..HEARTBEAT_QUEUE_FRAMES_MAX as u64 {
            assert_eq!(beats.push(vote(n)), Pushed::Queued);
        }
        assert_eq!(beats.push(vote(9999)), Pushed::DroppedOldest);
        assert_eq!(Frames(beats).next().await.and_then(number), Some(1));
    }

    #[tokio::test]
    async fn bytes_are_bounded_and_given_back() {
        let queue = Arc::new(Queue::new(Channel::Log));
        let big = || append(30 << 20);
        assert_eq!([queue.push(big()), queue.push(big())], [Pushed::Queued; 2]);
        assert_eq!(queue.push(big()), Pushed::DroppedNewest);
        assert!(queue.waiting().1 > 60 << 20);
        Frames(queue.clone()).next().await.expect("a frame");
        assert_eq!(queue.push(big()), Pushed::Queued);
        queue.close();
        assert_eq!(queue.waiting(), (0, 0));
        assert_eq!(queue.push(vote(1)), Pushed::Closed);
        assert!(Frames(queue).next().await.is_none());
    }
}
