//! The replicated file system: an applier of metadata commands; chunks travel beside the log.
//!
//! ```text
//! FUSE ─▶ operation ─▶ command.rs ─▶ log ─▶ (later) applier ─▶ spaces 40–4f
//! ```
//!
//! So far only its commands are here, since their stored form must not change once a log holds
//! them.

pub mod command;
