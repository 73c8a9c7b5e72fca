//! Carrying messages between nodes: `grpc` over tonic, in simulation a queue.
//!
//! ```text
//! core ─send─▶ queue ─▶ client stream ═══ gRPC ═══▶ server stream ─▶ inbound ─▶ the peer's core
//!              (full: dropped)       proved by auth      (awaits room: slows the sender's stream)
//! ```
//!
//! Each node opens its own streams to each peer, one for the log and one for heartbeats, on a
//! connection each. Nothing here decides: a lost message is the protocol's to repeat.

pub mod auth;
mod client;
mod convert;
pub mod grpc;
mod local;
mod presence;
mod queue;
mod server;

use super::message::Envelope;
use crate::types::NodeId;

/// Sends messages; never waits. A message that cannot be queued is dropped, and the protocol
/// copes: a queue that is full means that the peer is slow, and catch-up reads the log instead.
pub trait Transport: Send + Sync + 'static {
    /// Queues a message for a peer. Heartbeats never wait behind entries.
    fn send(&self, to: &NodeId, envelope: Envelope);
}
