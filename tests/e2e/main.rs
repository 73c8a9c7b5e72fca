//! Whole clusters of real processes and real databases.

mod amnesia;
#[allow(dead_code, reason = "each test binary uses a part of the support")]
#[path = "../support/cluster.rs"]
mod cluster;
mod failover;
mod load;
#[allow(dead_code, reason = "each test binary uses a part of the support")]
#[path = "../support/mariadb.rs"]
mod mariadb;
mod membership;
mod namespaces;
#[path = "../support/network.rs"]
mod network;
#[allow(dead_code, reason = "each test binary uses a part of the support")]
#[path = "../support/ports.rs"]
mod ports;
mod quorum;
mod rebuild;
mod seeing;
mod setup;
mod stop;
#[path = "../support/tool.rs"]
mod tool;
#[allow(dead_code, reason = "each test binary uses a part of the support")]
#[path = "../support/turn.rs"]
mod turn;
