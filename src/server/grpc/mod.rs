//! The gRPC edge: the admin API, health and reflection, and whatever service the node adds (the
//! peers' transport shares the port). Admin calls need the token; peers prove the secret themselves.
//!
//! Reflection and health are open, as they tell nothing about the cluster.

mod auth;
mod convert;
mod error;
pub mod kv;
mod serve;
mod service;

pub use auth::TokenCheck;
pub use serve::{ServeError, routes, serve};
pub use service::AdminService;
