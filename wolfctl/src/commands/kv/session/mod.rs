//! `wolfctl kv session …`

mod close;
mod keep_alive;
mod open;

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::{Cli, Session};

/// Runs the command that was asked for.
pub async fn run(cli: &Cli, command: &Session) -> Result<ExitCode> {
    match command {
        Session::Close { session } => close::run(cli, session).await,
        Session::KeepAlive { session, answered } => keep_alive::run(cli, session, *answered).await,
        Session::Open { ttl } => open::run(cli, *ttl).await,
    }
}
