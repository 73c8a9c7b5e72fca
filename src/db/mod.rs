//! The database path: capture at the leader, feed at the followers (DESIGN §4).

pub mod command;
pub mod feed;
pub mod gtid;
pub mod index;
pub mod protocol;
pub mod status;
