//! The database path: capture at the leader, feed at the followers (DESIGN §4).

pub mod command;
pub mod control;
pub mod gtid;
pub mod mariadb;
pub mod requirements;
pub mod status;
