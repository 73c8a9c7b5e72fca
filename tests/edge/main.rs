//! Configuration, gRPC, HTTP, wolfctl and the peers' transport.

#[path = "../support/ports.rs"]
mod ports;
mod transport;
