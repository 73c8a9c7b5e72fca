//! Replication: the replica core and everything that feeds it.

pub mod message;
pub mod propose;
pub mod replica;
pub mod role;
pub mod transport;
