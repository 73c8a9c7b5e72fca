//! Capture, feed and roles against real MariaDB servers.

mod feed;
#[path = "../support/mariadb.rs"]
mod mariadb;
#[path = "../support/ports.rs"]
mod ports;
