//! The store and the log on disk: conformance, crashes, formats.

mod conformance;
mod sled_engine;
