//! The replicated key-value store: an applier like the others, the smallest one.
//!
//! ```text
//! put, delete, compare-and-set, leases ─▶ command.rs ─▶ log ─▶ (later) applier ─▶ spaces 30–3f
//! ```
//!
//! So far only its commands are here, since their stored form must not change once a log holds
//! them. A read is no command: it waits for the applied LSN that its consistency asks for.

pub mod command;
