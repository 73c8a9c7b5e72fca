//! The write-ahead log: entries in order, durable by group commit, with watermarks to wait for.
//!
//! `entry.rs` is the entry and its hash chain, `watermark.rs` how far things have come. The log
//! never knows what a command means.

pub mod entry;
#[allow(clippy::module_inception)]
mod log;
mod shape;
mod source;
pub mod watermark;

pub use log::{Draft, Log, LogError, LogReader, Recovery, TermRunV1};
pub use shape::Shape;
pub use source::EntrySource;
