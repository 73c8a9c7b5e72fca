//! Serves the log as a binlog, so that MariaDB's own replication applies it.
//!
//! ```text
//! released log ─▶ entries ─▶ Assembler ─▶ transactions ─▶ Outbox ─▶ the replica's I/O thread
//!                    ▲                        │ DDL
//!            applied watermark             FeedGate
//! ```
//!
//! The node is the fake primary of its own database, and of any other replica that asks. GTIDs and
//! events go through byte for byte; positions and checksums are made anew (`coordinates.rs`).
//! A transaction is sent identically each time, so that a replica which was cut off in its middle
//! goes on there.
//!
//! Invariants:
//! - only applied entries are sent, so released ones: a replica never has what the cluster lacks;
//! - a replica is served from behind exactly the transaction it names, or not at all;
//! - a replica that is ahead of this node waits: it may be the node that lags.
//!
//! It does not write, does not merge transactions, and knows one GTID domain a replica.

mod coordinates;
mod error;
mod gate;
mod outbox;
mod query;
mod server;
mod session;
mod start;
mod stream;

pub use coordinates::{Coordinates, file_name};
pub use error::FeedError;
pub use gate::{FeedGate, OpenGate};
pub use query::{NotUnderstood, Request, parse};
pub use server::{FeedHandle, FeedServer, FeedSettings, ReplicaStatus, Replicas};
