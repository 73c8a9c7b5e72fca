//! Who belongs to the cluster, and what makes a node the one that it was.

pub mod membership;
