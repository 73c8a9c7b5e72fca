//! From what is on disk to a running replica.

use super::replica::{CommittedV1, FoundingPlan, HardState, Replica, Start, configuration_in};
use crate::{
    clock::Moment,
    cluster::membership::Configuration,
    config::Timing,
    log::{Log, LogError},
    store::{
        Engine, StoreError,
        codec::{self, CodecError},
        keys,
    },
    types::{Incarnation, Lsn, NodeId},
};

/// What a node knows of itself besides its log.
#[derive(Clone, Debug)]
pub struct Boot {
    /// This node.
    pub id: NodeId,
    /// Which life of its store.
    pub incarnation: Incarnation,
    /// Whether the log is what this life once acknowledged (DESIGN §2.4).
    pub remembers: bool,
    /// The promise kept beside the log store; the later one of the two counts.
    pub hard: HardState,
    /// The cluster's intervals.
    pub timing: Timing,
    /// Who to talk to before a configuration is known.
    pub initial_peers: Vec<NodeId>,
    /// What to found if nothing is there yet.
    pub founding: Option<FoundingPlan>,
    /// The node's clock.
    pub now: Moment,
}

/// A replica that continues `log`, whose store is `engine`.
pub fn start_replica(engine: &dyn Engine, log: &Log, boot: Boot) -> Result<Replica, LogError> {
    let stored = engine.get(keys::LOG_META, keys::HARD_STATE)?;
    let stored = stored.map_or(Ok(HardState::default()), |bytes| HardState::decode(&bytes))?;
    let committed = engine.get(keys::LOG_META, keys::COMMITTED)?;
    let committed = committed.map(|bytes| codec::decode::<CommittedV1>(&bytes)).transpose()?;
    Ok(Replica::new(Start {
        id: boot.id,
        incarnation: boot.incarnation,
        remembers: boot.remembers,
        timing: boot.timing,
        shape: log.shape().clone(),
        hard: stored.later(boot.hard),
        committed: committed.map_or(Lsn::ZERO, |stored| Lsn(stored.lsn)),
        configurations: configurations(log)?,
        initial_peers: boot.initial_peers,
        founding: boot.founding,
        now: boot.now,
    }))
}

/// The configurations in a log, oldest first.
pub fn configurations(log: &Log) -> Result<Vec<(Lsn, Configuration)>, LogError> {
    let entries = log.reader().configurations()?;
    let decoded = entries.iter().filter_map(|entry| {
        let found = configuration_in(entry).transpose()?;
        Some(found.map(|configuration| (entry.lsn, configuration)))
    });
    decoded.collect::<Result<_, CodecError>>().map_err(|error| StoreError::from(error).into())
}
