//! The replica core: golden scripts and seeded simulation of whole clusters.

mod scenarios;
mod simulation;
mod world;
