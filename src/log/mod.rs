//! The write-ahead log: entries in order, durable by group commit, with watermarks to wait for.
//!
//! `entry.rs` is the entry and its hash chain, `watermark.rs` how far things have come. The log
//! never knows what a command means.

pub mod entry;
mod source;
pub mod watermark;

pub use source::EntrySource;
