//! What this node has heard of the others.

use crate::{
    clock::Moment,
    replicate::message::Heartbeat,
    types::{Incarnation, Lsn, Position},
};

/// One other node, as last heard.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Peer {
    /// When anything was last heard of it.
    pub heard_at: Option<Moment>,
    /// Since when it has been heard without a silence, under this life of its store.
    pub steady_since: Moment,
    /// Which life of its store speaks.
    pub incarnation: Incarnation,
    /// Whether it says that it belongs to a cluster.
    pub founded: bool,
    /// Whether it could lead.
    pub eligible: bool,
    /// Whether it says that it leads.
    pub leads: bool,
    /// Its last durable entry.
    pub durable: Position,
    /// What its appliers have done.
    pub applied: Lsn,
    /// What its database does; the core only carries it.
    pub database: u8,
    /// How many commands its database is behind the log: it would have to apply them first.
    pub behind: u64,
}

/// What a node's database makes of the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fitness {
    /// It could lead.
    pub eligible: bool,
    /// What the database does, as a code for the others' status; zero for none.
    pub database: u8,
    /// How many commands of the log it has not applied yet.
    pub behind: u64,
}

impl Fitness {
    /// A node without a database is always fit.
    pub const WITHOUT_DATABASE: Self = Self { eligible: true, database: 0, behind: 0 };
}

impl Peer {
    pub(super) fn heard(&mut self, heartbeat: &Heartbeat, now: Moment) {
        if heartbeat.eligible && !self.eligible {
            self.steady_since = now;
        }
        self.founded = heartbeat.cluster.is_some();
        self.eligible = heartbeat.eligible;
        self.leads = heartbeat.leads;
        self.durable = heartbeat.durable.clone();
        self.applied = heartbeat.applied;
        self.database = heartbeat.database;
        self.behind = heartbeat.behind;
    }
}
