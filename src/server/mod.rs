//! What the outside reaches: gRPC for people and programs, HTTP for metrics.

pub mod status;
