//! What this node is in the cluster right now, as the appliers and the operator see it.

use crate::types::{Lsn, NodeId, Term};

/// A node's part in the current term.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks for promises.
    Candidate,
    /// Leads.
    Leader,
}

/// A snapshot of the replica's leadership, published on every change (`watch`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoleView {
    /// This node's part.
    pub role: Role,
    /// The current term, if any was ever seen.
    pub term: Option<Term>,
    /// Who leads it, once that is known; `None` while there is no live leader.
    pub leader: Option<NodeId>,
    /// On the leader: the LSN of its own term's first entry. Writes open only when it is released.
    pub term_start: Option<Lsn>,
    /// The leader takes no more proposals: it is handing over, or stopping.
    pub handing_over: bool,
}

/// How far the leader of a term says that its log is released. From the moment when that includes
/// an entry of the term itself, it includes everything that any term before it decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReleasedByLeader {
    /// The term.
    pub term: Term,
    /// As the leader last said.
    pub released: Lsn,
}

impl RoleView {
    /// Nobody leads, as far as this node knows.
    pub fn nobody() -> Self {
        Self {
            role: Role::Follower,
            term: None,
            leader: None,
            term_start: None,
            handing_over: false,
        }
    }

    /// Whether this node leads.
    pub fn leads(&self) -> bool {
        self.role == Role::Leader
    }
}
