//! The database path: capture at the leader, feed at the followers (DESIGN §4).

pub mod capture;
pub mod command;
pub mod gtid;
pub mod index;
pub mod protocol;
pub mod status;
