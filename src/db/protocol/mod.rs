//! As much of the MySQL client/server protocol and of MariaDB's binlog format as capture and feed
//! need. Sources: the protocol as MariaDB documents it, and what 10.11 sends (tests against it).
//!
//! Nothing here decides anything; bytes from outside are checked and never panic.

pub mod client;
pub mod event;
pub mod packet;
pub mod server;
pub mod value;
