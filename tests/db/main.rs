//! Capture, feed and roles against real MariaDB servers.

mod capture;
mod captured;
mod controlled;
mod controller;
mod fake_log;
mod feed;
#[allow(dead_code, reason = "each test binary uses a part of the support")]
#[path = "../support/mariadb.rs"]
mod mariadb;
mod pair;
mod pipeline;
#[allow(dead_code, reason = "each test binary uses a part of the support")]
#[path = "../support/ports.rs"]
mod ports;
mod requirements;
mod supervisor;
