//! Which process speaks for each peer: two live ones under one ID are a clone, and are told so.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

use super::auth::{Channel, Identity};
use crate::types::{Incarnation, NodeId};

/// Who opened a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Direction {
    /// The peer.
    Inbound,
    /// This node.
    Outbound,
}

/// Another live process speaks for the same peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "two live processes are node {node}: one under incarnation {known}, one under {new}; \
     stop the copy, or give it an ID and a store of its own"
)]
pub struct SameId {
    node: NodeId,
    known: Incarnation,
    new: Incarnation,
}

/// The proved, live streams of all peers.
#[derive(Default)]
pub struct Presence(Mutex<State>);

#[derive(Default)]
struct State {
    next: u64,
    streams: HashMap<(NodeId, Direction, Channel), Live>,
}

struct Live {
    number: u64,
    identity: Identity,
    replaced: CancellationToken,
}

/// A live stream; it is gone when this is dropped.
pub struct Claim {
    presence: Arc<Presence>,
    key: (NodeId, Direction, Channel),
    number: u64,
    replaced: CancellationToken,
}

impl Presence {
    /// Counts a proved stream in. A new stream of the same process replaces its older one.
    pub fn claim(
        self: &Arc<Self>,
        identity: &Identity,
        direction: Direction,
        channel: Channel,
    ) -> Result<Claim, SameId> {
        let mut state = self.lock();
        let other = state
            .streams
            .iter()
            .find(|((node, ..), live)| *node == identity.node && live.identity.run != identity.run);
        if let Some((_, live)) = other {
            return Err(SameId {
                node: identity.node.clone(),
                known: live.identity.incarnation,
                new: identity.incarnation,
            });
        }
        state.next += 1;
        let number = state.next;
        let key = (identity.node.clone(), direction, channel);
        let replaced = CancellationToken::new();
        let live = Live { number, identity: identity.clone(), replaced: replaced.clone() };
        if let Some(older) = state.streams.insert(key.clone(), live) {
            older.replaced.cancel();
        }
        Ok(Claim { presence: self.clone(), key, number, replaced })
    }

    /// Whether a peer's own stream is up.
    pub fn hears(&self, node: &NodeId, channel: Channel) -> bool {
        self.lock().streams.contains_key(&(node.clone(), Direction::Inbound, channel))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// Resolves when a newer stream of the same process took this one's place.
    pub async fn replaced(&self) {
        self.replaced.cancelled().await;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.presence.lock();
        if state.streams.get(&self.key).is_some_and(|live| live.number == self.number) {
            state.streams.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(run: u8) -> Identity {
        Identity {
            node: "n1".parse().expect("valid"),
            incarnation: Incarnation(u64::from(run)),
            run: [run; 16],
            cluster: None,
            address: String::new(),
        }
    }

    #[tokio::test]
    async fn one_process_speaks_for_a_node() {
        let presence = Arc::new(Presence::default());
        let claim = |run, direction, channel| presence.claim(&identity(run), direction, channel);
        let log = claim(1, Direction::Inbound, Channel::Log).expect("first");
        let beat = claim(1, Direction::Inbound, Channel::Heartbeat).expect("same process");
        assert!(claim(2, Direction::Inbound, Channel::Log).is_err(), "a copy");
        assert!(claim(2, Direction::Outbound, Channel::Log).is_err(), "a copy that we reached");

        let newer = claim(1, Direction::Inbound, Channel::Log).expect("replaces");
        log.replaced().await;
        drop(log);
        assert!(presence.hears(&identity(1).node, Channel::Log), "the newer one still counts");
        drop((newer, beat));
        assert!(!presence.hears(&identity(1).node, Channel::Log));
        claim(2, Direction::Inbound, Channel::Log).expect("the first is gone");
    }
}
