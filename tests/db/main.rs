//! Capture, feed and roles against real MariaDB servers.

mod capture;
mod fake_log;
mod feed;
#[path = "../support/mariadb.rs"]
mod mariadb;
#[path = "../support/ports.rs"]
mod ports;
