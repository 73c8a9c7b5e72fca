//! `wolfctl kv lease grant`

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use serde::Serialize;

use crate::{
    cli::{Cli, Output},
    connect_kv::{Repeat, ask},
    output,
    wire::KvLeaseGrantRequest,
};

#[derive(Serialize)]
struct View {
    lease_id: u64,
    expires_unix_ms: u64,
}

/// Opens a lease.
pub async fn run(cli: &Cli, ttl: Duration, lease_id: u64) -> Result<ExitCode> {
    let ttl_ms = u64::try_from(ttl.as_millis())?;
    let grant = KvLeaseGrantRequest { lease_id, ttl_ms, request: None };
    let answer = ask(cli, Repeat::Safe, |mut client| {
        let grant = grant.clone();
        async move { client.lease_grant(grant).await }
    });
    let answer = answer.await?;
    let view = View { lease_id: answer.lease_id, expires_unix_ms: answer.expires_unix_ms };
    match cli.output {
        Output::Json => output::json(&view)?,
        Output::Table => out!("{}", view.lease_id),
    }
    Ok(ExitCode::SUCCESS)
}
