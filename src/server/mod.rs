//! What the outside reaches: gRPC for people and programs, HTTP for metrics and health.
//!
//! ```text
//! NodeStatus (watch) ─┬▶ grpc: Admin, health, reflection, and the peers' service ─▶ :8080
//! AdminBackend ───────┤
//! KvFront ────────────┘  Kv: here, or passed on to the leader
//! NodeStatus, metrics ─▶ http: /metrics, /health/live, /health/ready ─▶ :8081
//! ```
//!
//! It decides nothing about the cluster: it shows what `node` publishes and passes actions on.

pub mod backend;
pub mod grpc;
pub mod http;
pub mod status;
