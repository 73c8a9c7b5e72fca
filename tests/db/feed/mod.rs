//! Real replicas against the feed.

mod cuts;
mod fake_log;
mod fidelity;
mod refusals;
