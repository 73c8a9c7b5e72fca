//! Real replicas against the feed.

mod fake_log;
mod fidelity;
