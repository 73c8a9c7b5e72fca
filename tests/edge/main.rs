//! Configuration, gRPC, HTTP, wolfctl, the peers' transport; the documents and the layout.

mod admin;
mod command_line;
mod docs;
mod kv;
mod kv_forward;
mod kv_shrink;
mod layout;
mod nodes;
#[path = "../support/ports.rs"]
mod ports;
mod replicas;
mod transport;
#[allow(dead_code, reason = "each test binary uses a part of the support")]
#[path = "../support/turn.rs"]
mod turn;
