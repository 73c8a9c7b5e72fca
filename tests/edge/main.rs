//! Configuration, gRPC, HTTP, wolfctl and the peers' transport.

mod admin;
mod command_line;
#[path = "../support/ports.rs"]
mod ports;
mod replicas;
mod transport;
