//! What a node tells about itself and the cluster; filled by `node`, served by gRPC and HTTP.

use crate::{
    cluster::membership::Member,
    db::status::{DbState, DbStatus},
    replicate::role::RoleView,
    types::{ClusterId, Incarnation, Lsn, NodeId, Position},
};

/// Whether a member answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Liveness {
    /// Heard within `suspect_after`.
    Alive,
    /// Silent for longer.
    Dead,
}

/// One member, as this node sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberStatus {
    /// Its ID.
    pub id: NodeId,
    /// `host:port` of its peers' endpoint.
    pub address: String,
    /// Whether it answers.
    pub liveness: Liveness,
    /// Milliseconds since it was last heard; `None` if never. Zero for this node.
    pub silent_ms: Option<u64>,
    /// Whether it leads, as far as this node knows.
    pub leads: bool,
    /// Its last durable entry, as last heard.
    pub durable: Lsn,
    /// What its appliers have done, as last heard.
    pub applied: Lsn,
    /// Whether it could lead.
    pub eligible: bool,
    /// What its database does, as last heard; `None` if it runs none, or never said.
    pub database: Option<DbState>,
    /// As the configuration names it; `None` before there is one.
    pub named: Option<Member>,
    /// It leads before lower IDs.
    pub preferred: bool,
}

/// The log's watermarks on this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Marks {
    /// Held, perhaps not yet on disk.
    pub appended: Lsn,
    /// On disk.
    pub durable: Lsn,
    /// Decided by the cluster.
    pub committed: Lsn,
    /// Shown to the outside.
    pub released: Lsn,
    /// Applied here.
    pub applied: Lsn,
}

/// A node's view of itself and the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeStatus {
    /// Its ID.
    pub id: NodeId,
    /// Which life of its store.
    pub incarnation: Incarnation,
    /// Its cluster, once bootstrapped.
    pub cluster: Option<ClusterId>,
    /// Its part.
    pub role: RoleView,
    /// Its last entry.
    pub last: Position,
    /// Its watermarks.
    pub marks: Marks,
    /// All members, by ID.
    pub members: Vec<MemberStatus>,
    /// Its database; `None` if it runs none.
    pub db: Option<DbStatus>,
    /// What an operator should know or do, a sentence each.
    pub notices: Vec<String>,
}
