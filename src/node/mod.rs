//! The composition root: opens the stores, starts every part, joins them by channels, stops them in
//! order.
//!
//! ```text
//!            ┌ transport ─▶ driver (host, replica) ─▶ log storage
//! node ──────┤                 │ released
//!            ├ applier ◀───────┘ ─▶ GTID index ─▶ feed ─▶ local database
//!            ├ controller ─ capture ─▶ proposer ─▶ driver
//!            └ servers: gRPC (peers, admin), HTTP
//! ```
//!
//! It decides nothing: leadership is the replica's, the database's part the controller's.

mod backend;
mod database;
mod founding;
mod gate;
mod link;
mod run;
mod status;
mod stop;
mod stores;

use std::{io, net::SocketAddr, path::PathBuf};

pub use database::{admin_settings, control};
pub use run::run;

use crate::{
    apply::ApplyError, cluster::identity::IdentityError, log::LogError, replicate::transport::grpc,
    store::StoreError,
};

/// Why a node does not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data directory cannot be used.
    #[error("data directory {path}: {source}")]
    DataDir {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The data directory belongs to another node.
    #[error("{path} belongs to node {kept}: set node.id back, or use another data_dir")]
    OtherNode {
        /// The identity file.
        path: PathBuf,
        /// Whose it is.
        kept: String,
    },
    /// A port cannot be had.
    #[error("listen on {address} for {what}: {source}; is another node running here?")]
    Listen {
        /// For what.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The store does not open.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log does not open.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The identity is not readable.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The state does not open.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The log's storage does not start.
    #[error(transparent)]
    Storage(#[from] crate::replicate::storage::StartError),
    /// The transport does not start.
    #[error(transparent)]
    Transport(#[from] grpc::StartError),
    /// The cluster secret is none.
    #[error(transparent)]
    Secret(#[from] crate::replicate::transport::auth::SecretTooShort),
    /// The gRPC server does not start.
    #[error(transparent)]
    Grpc(#[from] crate::server::grpc::ServeError),
    /// The metrics' recorder does not start.
    #[error("metrics: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    /// No random bytes.
    #[error("no random bytes from the system: {0}")]
    Random(#[from] getrandom::Error),
    /// It ran, and its supervisor died: somebody must fence the database, and that is the caller.
    #[error("the node had to stop: its supervisor is gone")]
    Orphaned,
    /// It ran, and had to stop.
    #[error("the node had to stop: {0}")]
    Failed(String),
}
