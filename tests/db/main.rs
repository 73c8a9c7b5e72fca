//! Capture, feed and roles against real MariaDB servers.

mod controlled;
mod controller;
mod pair;
#[path = "../support/ports.rs"]
mod ports;
mod requirements;
mod supervisor;
