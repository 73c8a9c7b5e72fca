//! Capture, feed and roles against real MariaDB servers.

mod controlled;
#[path = "../support/mariadb.rs"]
mod mariadb;
#[path = "../support/ports.rs"]
mod ports;
mod requirements;
mod supervisor;
