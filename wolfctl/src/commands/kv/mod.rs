//! `wolfctl kv …`

mod cas;
mod delete;
mod get;
mod lease;
mod put;
mod range;
mod session;
mod view;
mod watch;

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::{Cli, Kv};

/// Runs the command that was asked for.
pub async fn run(cli: &Cli, command: &Kv) -> Result<ExitCode> {
    match command {
        Kv::Put { key, value, lease, request } => {
            put::run(cli, (key, value), *lease, request).await
        }
        Kv::Get { key, freshness } => get::run(cli, key, freshness).await,
        Kv::Delete { key, request } => delete::run(cli, key, request).await,
        Kv::Cas { key, value, expect, lease, request } => {
            cas::run(cli, (key, value.as_deref()), *expect, *lease, request).await
        }
        Kv::Range { prefix, limit, cursor, freshness } => {
            range::run(cli, prefix, *limit, cursor.as_deref(), freshness).await
        }
        Kv::Watch { prefix, from, count } => watch::run(cli, prefix, *from, *count).await,
        Kv::Lease(command) => lease::run(cli, command).await,
        Kv::Session(command) => session::run(cli, command).await,
    }
}
