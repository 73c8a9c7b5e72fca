//! Configuration, gRPC, HTTP, wolfctl and the peers' transport.

mod admin;
mod command_line;
