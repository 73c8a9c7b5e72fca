//! The replica core: golden scripts and seeded simulation of whole clusters, also of the KV on them.

mod golden;
mod kv;
mod linearizable;
mod scenarios;
mod simulation;
mod world;
