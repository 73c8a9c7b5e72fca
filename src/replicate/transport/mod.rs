//! Carrying messages between nodes: `grpc.rs` over tonic, in simulation a queue.

use super::message::Envelope;
use crate::types::NodeId;

/// Sends messages; never waits. A message that cannot be queued is dropped, and the protocol
/// copes: a queue that is full means that the peer is slow, and catch-up reads the log instead.
pub trait Transport: Send + Sync + 'static {
    /// Queues a message for a peer. Heartbeats never wait behind entries.
    fn send(&self, to: &NodeId, envelope: Envelope);
}
