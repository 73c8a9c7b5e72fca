//! `wolfctl kv lease revoke`

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use crate::{
    cli::{Cli, Output},
    connect_kv::{Repeat, ask},
    output,
    wire::KvLeaseRevokeRequest,
};

#[derive(Serialize)]
struct View {
    lease_id: u64,
    removed_keys: u32,
}

/// Ends a lease and removes its keys.
pub async fn run(cli: &Cli, lease_id: u64) -> Result<ExitCode> {
    let revoke = KvLeaseRevokeRequest { lease_id, request: None };
    let answer = ask(cli, Repeat::Safe, |mut client| {
        let revoke = revoke.clone();
        async move { client.lease_revoke(revoke).await }
    });
    let answer = answer.await?;
    let view = View { lease_id, removed_keys: answer.removed_keys };
    match cli.output {
        Output::Json => output::json(&view)?,
        Output::Table => out!("{} keys removed", view.removed_keys),
    }
    Ok(ExitCode::SUCCESS)
}
