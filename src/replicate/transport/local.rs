//! What this node brings to every stream: its identity, its secret, its peers and its inbox.

use std::{
    collections::{BTreeMap, BTreeSet},
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
    pub address: String,
    pub secret: ClusterSecret,
    pub log_tx: mpsc::Sender<Envelope>,
    pub heartbeat_tx: mpsc::Sender<Envelope>,
    pub presence: Arc<Presence>,
    pub handshakes: Semaphore,
    pub refusals: Refusals,
    /// Members that this node does not know yet, with their addresses.
    pub strangers_tx: mpsc::Sender<(NodeId, String)>,
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
            address: self.address.clone(),
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

/// How many reasons are logged for callers that are no peers; they could think of ever new ones.
const STRANGERS_LOGGED_MAX: usize = 64;

/// Why callers were refused last, by peer; each reason is logged once, not at each attempt.
#[derive(Default)]
pub struct Refusals {
    known: Mutex<BTreeMap<NodeId, Option<String>>>,
    strangers: Mutex<BTreeSet<String>>,
}

impl Refusals {
    /// From now on they may be peers, and no others.
    pub fn expect_only(&self, peers: &BTreeSet<NodeId>) {
        self.known().retain(|peer, _| peers.contains(peer));
        peers.iter().for_each(|peer| self.expect(peer));
    }

    /// From now on it may be a peer too.
    pub fn expect(&self, peer: &NodeId) {
        self.known().entry(peer.clone()).or_default();
    }

    /// Whether a caller may be a peer.
    pub fn knows(&self, peer: &NodeId) -> bool {
        self.known().contains_key(peer)
    }

    /// Notes why a caller, as far as it told who it is, was refused.
    pub fn note(&self, caller: Option<&NodeId>, why: &str) {
        let fresh = match caller.and_then(|c| self.known().get_mut(c).map(|s| renew(s, why))) {
            Some(fresh) => fresh,
            None => self.fresh_stranger(why),
        };
        if fresh {
            warn!(peer = caller.map(NodeId::as_str), why, "refused a peer");
        }
    }

    fn fresh_stranger(&self, why: &str) -> bool {
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        strangers.len() < STRANGERS_LOGGED_MAX && strangers.insert(why.to_owned())
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

/// Keeps the reason; tells whether it is another than before.
pub fn renew(slot: &mut Option<String>, why: &str) -> bool {
    let fresh = slot.as_deref() != Some(why);
    *slot = Some(why.to_owned());
    fresh
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_fresh_once_and_again_after_a_welcome() {
        let peer: NodeId = "n2".parse().expect("valid");
        let refusals = Refusals::default();
        refusals.expect_only(&BTreeSet::from([peer.clone()]));
        let mut slot = None;
        assert!(renew(&mut slot, "a") && !renew(&mut slot, "a") && renew(&mut slot, "b"));
        refusals.note(Some(&peer), "no");
        assert_eq!(refusals.last(&peer).as_deref(), Some("no"));
        refusals.clear(&peer);
        assert_eq!(refusals.last(&peer), None);

        assert!(refusals.fresh_stranger("who") && !refusals.fresh_stranger("who"));
        let logged = (0..1000).filter(|n| refusals.fresh_stranger(&n.to_string())).count();
        assert_eq!(logged, STRANGERS_LOGGED_MAX - 1);
    }
}
