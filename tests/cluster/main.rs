//! The replica core: golden scripts and seeded simulation of whole clusters.

mod simulation;
mod world;
