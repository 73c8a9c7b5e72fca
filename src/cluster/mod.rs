//! Who belongs to the cluster, and what makes a node the one that it was.
//!
//! ```text
//! identity.rs   what a node must not forget, kept apart from its log: which life of its store this
//!               is, what it promised, and how far its log had come
//! ```
//!
//! A node that lost what it acknowledged must not vote as if it remembered: it would help a
//! quorum to forget. The identity is what notices. It decides nothing about terms or members.

pub mod change;
pub mod identity;
pub mod membership;
pub mod quorum;
