//! Replication: the replica core and everything that feeds it.
//!
//! ```text
//!              ┌────────────── host (no clock, no I/O of its own) ──────────────┐
//! transport ──▶│ check runs ─▶ replica (decides) ─▶ effects ─▶ log, answers      │──▶ transport
//! proposals ──▶│                                        └─▶ writer (group commit) │──▶ watermarks
//! ticks ──────▶└──────────────────────────────────────────────────────────────────┘
//! ```
//!
//! `replica/` is the rule book and does no I/O; `host.rs` carries out what it wants; `driver.rs`
//! feeds the host from channels. A simulation runs replica and host as they are.

pub mod boot;
pub mod driver;
pub mod host;
pub mod message;
pub mod propose;
pub mod replica;
pub mod role;
pub mod storage;
pub mod transport;
