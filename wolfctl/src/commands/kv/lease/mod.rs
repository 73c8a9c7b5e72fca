//! `wolfctl kv lease …`

mod grant;
mod keep_alive;
mod revoke;

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::{Cli, Lease};

/// Runs the command that was asked for.
pub async fn run(cli: &Cli, command: &Lease) -> Result<ExitCode> {
    match command {
        Lease::Grant { ttl, id } => grant::run(cli, *ttl, *id).await,
        Lease::KeepAlive { id } => keep_alive::run(cli, *id).await,
        Lease::Revoke { id } => revoke::run(cli, *id).await,
    }
}
