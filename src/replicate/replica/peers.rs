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
    /// Which life of its store speaks.
    pub incarnation: Incarnation,
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
}

impl Peer {
    pub(super) fn heard(&mut self, heartbeat: &Heartbeat) {
        self.eligible = heartbeat.eligible;
        self.leads = heartbeat.leads;
        self.durable = heartbeat.durable.clone();
        self.applied = heartbeat.applied;
        self.database = heartbeat.database;
    }
}
