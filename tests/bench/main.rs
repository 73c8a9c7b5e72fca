//! Figures: what a commit, a follower's lag and a failover cost, beside what others cost.

#[allow(dead_code, reason = "each test binary uses a part of the support")]
#[path = "../support/cluster.rs"]
mod cluster;
mod figures;
mod lag;
#[allow(dead_code, reason = "each test binary uses a part of the support")]
#[path = "../e2e/load.rs"]
mod ledger;
mod load;
mod machine;
#[allow(dead_code, reason = "each test binary uses a part of the support")]
#[path = "../support/mariadb.rs"]
mod mariadb;
#[allow(dead_code, reason = "each test binary uses a part of the support")]
#[path = "../support/network.rs"]
mod network;
#[allow(dead_code, reason = "each test binary uses a part of the support")]
#[path = "../support/ports.rs"]
mod ports;
mod report;
mod rig;
#[allow(dead_code, reason = "each test binary uses a part of the support")]
#[path = "../support/tool.rs"]
mod tool;
#[allow(dead_code, reason = "each test binary uses a part of the support")]
#[path = "../support/turn.rs"]
mod turn;
