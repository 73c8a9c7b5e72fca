//! The validated configuration, as the rest of the node uses it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{secret::Secret, timing::Timing};
use crate::types::NodeId;

/// Everything that an operator has set, validated.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: Node,
    /// Its cluster.
    pub cluster: Cluster,
    /// Where it listens.
    pub listen: Listen,
    /// Who may use the gRPC API.
    pub api: Api,
    /// Who may use HTTP.
    pub http: Http,
    /// The database beside it; `None` if there is no `[db]` section.
    pub db: Option<Db>,
    /// What it logs.
    pub log: Log,
}

/// `[node]`
#[derive(Clone, Debug)]
pub struct Node {
    /// Its ID, unique in the cluster; the lowest live ID leads.
    pub id: NodeId,
    /// Where it keeps its stores.
    pub data_dir: PathBuf,
}

/// `[cluster]`
#[derive(Clone, Debug)]
pub struct Cluster {
    /// What all its nodes know and nobody else; at least [`super::SECRET_BYTES_MIN`] bytes.
    pub secret: Secret,
    /// The members that found it, by ID; this node among them.
    pub initial_members: Vec<Member>,
    /// How it fails over.
    pub policy: Policy,
    /// Its intervals.
    pub timing: Timing,
    /// This node holds data and votes but never leads.
    pub never_leader: bool,
}

/// A founding member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its ID.
    pub id: NodeId,
    /// `host:port` of its gRPC endpoint; the host may be a DNS name.
    pub address: String,
}

/// The failover policy (DESIGN §2.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// Released is what a quorum has committed; never without a quorum.
    Majority,
}

/// `[listen]`
#[derive(Clone, Debug)]
pub struct Listen {
    /// gRPC: peers and the admin API.
    pub grpc: SocketAddr,
    /// HTTP: metrics and health.
    pub http: SocketAddr,
}

/// `[api]`
#[derive(Clone, Debug)]
pub struct Api {
    /// The bearer token that every call must bring.
    pub token: Secret,
}

/// `[http]`
#[derive(Clone, Debug)]
pub struct Http {
    /// The bearer token that every request must bring; `None` leaves it open, which is only
    /// possible on loopback or where `allow_unauthenticated` says so.
    pub token: Option<Secret>,
}

/// `[db]`
#[derive(Clone, Debug)]
pub struct Db {
    /// Where it listens.
    pub address: DbAddress,
    /// Its administrator.
    pub admin: DbUser,
    /// Who captures its binlog; the administrator unless set.
    pub capture: DbUser,
    /// How long a connection or a statement of the node may take.
    pub timeout: Duration,
    /// How it is stopped, killed and started.
    pub control: Control,
    /// The server's option file that `wolfctl db configure` writes.
    pub dropin_path: PathBuf,
    /// The server's `init_file` that `wolfctl db configure` writes.
    pub init_file: PathBuf,
    /// `@@server_id` of this server, unique in the cluster.
    pub server_id: u32,
    /// Where the node serves the binlog to its own database.
    pub feed_listen: SocketAddr,
    /// As whom the database connects there.
    pub feed_user: String,
    /// With what password; `None`: one that the node derives from the cluster secret.
    pub feed_password: Option<Secret>,
    /// A database that lags more than this does not let its node lead.
    pub apply_lag_max: Duration,
    /// Whether the leader's event scheduler runs (a follower's never does).
    pub event_scheduler: bool,
}

/// Where the database listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DbAddress {
    /// A unix socket.
    Socket(PathBuf),
    /// A host and port.
    Tcp {
        /// Host name or address.
        host: String,
        /// Port.
        port: u16,
    },
}

/// A user of the database.
#[derive(Clone, Debug)]
pub struct DbUser {
    /// Its name.
    pub name: String,
    /// Its password; `None` for `unix_socket` authentication.
    pub password: Option<Secret>,
}

/// How the database is stopped, killed and started.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Control {
    /// By its systemd unit.
    Systemd {
        /// The unit's name.
        unit: String,
    },
    /// By commands, run without a shell.
    Commands(ControlCommands),
    /// Not at all.
    None,
}

/// Argument lists, each run without a shell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlCommands {
    /// Starts the server as follower (`init_rpl_role=SLAVE`).
    pub start: Vec<String>,
    /// Starts it without that; may be empty.
    pub start_default_role: Vec<String>,
    /// Stops it gracefully; may be empty: SIGTERM by `pid_file`.
    pub stop: Vec<String>,
    /// Kills it; may be empty: SIGKILL by `pid_file`.
    pub kill: Vec<String>,
    /// Where the server writes its process ID.
    pub pid_file: Option<PathBuf>,
    /// Where the commands' output is appended; `None` discards it.
    pub output: Option<PathBuf>,
}

/// `[log]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Log {
    /// A level, or `tracing` directives such as `info,wolfscale::db=debug`.
    pub level: String,
    /// The form of a line.
    pub format: LogFormat,
}

/// The form of a log line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
