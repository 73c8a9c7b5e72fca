//! What this node brings to every stream: its identity, its secret, its peers and its inbox.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Semaphore, mpsc, watch};
use tracing::warn;

use super::{
    auth::{Channel, ClusterSecret, Identity},
    presence::Presence,
};
use crate::{
    replicate::message::Envelope,
    tasks::Tasks,
    types::{ClusterId, Incarnation, NodeId},
};

/// Shared by all streams of a node.
pub struct Local {
    pub id: NodeId,
    pub incarnation: Incarnation,
    pub run: [u8; 16],
    pub cluster: watch::Receiver<Option<ClusterId>>,
    pub secret: ClusterSecret,
    pub log_tx: mpsc::Sender<Envelope>,
    pub heartbeat_tx: mpsc::Sender<Envelope>,
    pub presence: Arc<Presence>,
    pub handshakes: Semaphore,
    pub refusals: Refusals,
    pub tasks: Tasks,
}

impl Local {
    /// Who this node is, by now.
    pub fn identity(&self) -> Identity {
        Identity {
            node: self.id.clone(),
            incarnation: self.incarnation,
            run: self.run,
            cluster: *self.cluster.borrow(),
        }
    }

    /// Where messages of a channel go.
    pub fn inbox(&self, channel: Channel) -> &mpsc::Sender<Envelope> {
        match channel {
            Channel::Log => &self.log_tx,
            Channel::Heartbeat => &self.heartbeat_tx,
        }
    }
}

/// Why callers were refused last, by peer; each reason is logged once, not at each attempt.
pub struct Refusals {
    known: Mutex<BTreeMap<NodeId, Option<String>>>,
    strangers: Mutex<Option<String>>,
}

impl Refusals {
    /// Of none of these peers yet.
    pub fn new(peers: impl Iterator<Item = NodeId>) -> Self {
        let known = peers.map(|peer| (peer, None)).collect();
        Self { known: Mutex::new(known), strangers: Mutex::default() }
    }

    /// Whether a caller may be a peer.
    pub fn knows(&self, peer: &NodeId) -> bool {
        self.known().contains_key(peer)
    }

    /// Notes why a caller, as far as it told who it is, was refused.
    pub fn note(&self, caller: Option<&NodeId>, why: &str) {
        let mut known = self.known();
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = match caller.and_then(|c| known.get_mut(c)) {
            Some(slot) => slot,
            None => &mut *strangers,
        };
        if slot.as_deref() != Some(why) {
            warn!(peer = caller.map(NodeId::as_str), why, "refused a peer");
            *slot = Some(why.to_owned());
        }
    }

    /// The peer is welcome now.
    pub fn clear(&self, peer: &NodeId) {
        if let Some(slot) = self.known().get_mut(peer) {
            *slot = None;
        }
    }

    /// Why a peer was refused last, if it has not been welcome since.
    pub fn last(&self, peer: &NodeId) -> Option<String> {
        self.known().get(peer).cloned().flatten()
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<NodeId, Option<String>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
