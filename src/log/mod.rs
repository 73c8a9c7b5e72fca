//! The write-ahead log: entries in order, durable by group commit, with watermarks to wait for.
//!
//! `entry.rs` is the entry and its hash chain, `writer.rs` the group commit, `watermark.rs` how far
//! things have come. The log
//! never knows what a command means.

pub mod entry;
#[allow(clippy::module_inception)]
mod log;
mod shape;
mod source;
pub mod watermark;
mod writer;

pub use log::{Draft, Log, LogError, LogReader, Recovery, TermRunV1};
pub use shape::Shape;
pub use source::EntrySource;
pub use writer::{COMMITS_WAITING_MAX, Committed, Committer, CommitterCounts, SubmitError};
