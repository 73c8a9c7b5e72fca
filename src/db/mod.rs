//! The database path: capture at the leader, feed at the followers (DESIGN §4).

pub mod capture;
pub mod command;
pub mod control;
pub mod controller;
pub mod ddl_fence;
pub mod ddl_gate;
pub mod feed;
pub mod gtid;
pub mod health;
pub mod index;
pub mod mariadb;
pub mod protocol;
pub mod requirements;
pub mod server_log;
pub mod status;
