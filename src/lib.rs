//! WolfScale: high availability for unmodified MariaDB/MySQL, and a replicated file system, on one
//! replicated log.
//!
//! ```text
//! client ─▶ leader's MariaDB ─binlog─▶ capture ─▶ propose ─▶ LOG ─▶ replicate (gRPC) ─▶ apply ─▶ feed ─▶ follower's MariaDB
//! ```
//!
//! Every edge has that shape: *ingress → propose → log → replicate → apply → egress*. Dependencies
//! point one way: types, clock ← store ← {log, cluster} ← {replicate, apply} ← db ← server ← node.

pub mod apply;
pub mod clock;
pub mod cluster;
pub mod db;
pub mod disk;
pub mod kv;
pub mod log;
pub mod replicate;
pub mod server;
pub mod store;
pub mod supervisor;
pub mod tasks;
pub mod types;

/// Wire types, generated from `proto/`. They stop at the edge: only `server` and
/// `replicate/transport` name them.
#[allow(missing_docs, clippy::all)]
pub mod wire {
    tonic::include_proto!("wolfscale.v1");
    /// The compiled descriptors, for server reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/wolfscale.bin"));
}
