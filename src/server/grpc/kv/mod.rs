//! The KV's service: translates between the wire and [`crate::kv`], and passes on to the leader what
//! only the leader can do.
//!
//! ```text
//! call ─▶ service.rs ─▶ this node leads? ─ yes ─▶ KvFront ─▶ answer
//!                        │ no
//!                        └▶ leader.rs: the same call, to the leader's Kv service, marked as passed on
//! ```
//!
//! Requests are passed on over gRPC, not over the peers' streams: those are one-way, may drop a
//! message, and carry the log, which no client's request may delay; gRPC brings an answer to a
//! question, deadlines and flow control. A node proves by a token derived from the cluster's secret
//! that it is one, since `api.token_file` may differ between nodes. A call is passed on once: the
//! receiver executes it or says that it does not lead.

mod convert;
mod error;
mod leader;
mod route;
mod service;

pub use leader::Leaders;
pub use service::{KvService, kv_service};
