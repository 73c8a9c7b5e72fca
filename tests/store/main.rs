//! The store and the log on disk: conformance, crashes, formats.

mod conformance;
mod disk;
mod fixtures;
mod power_cut;
mod sled_engine;
mod tools;
