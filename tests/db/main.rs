//! Capture, feed and roles against real MariaDB servers.

mod capture;
mod controlled;
mod fake_log;
mod feed;
#[allow(dead_code, reason = "each test binary uses a part of the support")]
#[path = "../support/mariadb.rs"]
mod mariadb;
mod pipeline;
#[allow(dead_code, reason = "each test binary uses a part of the support")]
#[path = "../support/ports.rs"]
mod ports;
mod requirements;
mod supervisor;
