//! `wolfctl kv lease keep-alive`

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use crate::{
    cli::{Cli, Output},
    connect_kv::{Repeat, ask},
    output,
    wire::KvLeaseKeepAliveRequest,
};

#[derive(Serialize)]
struct View {
    lease_id: u64,
    expires_unix_ms: u64,
}

/// Begins a lease's time anew; exit code 4 if it is not there.
pub async fn run(cli: &Cli, lease_id: u64) -> Result<ExitCode> {
    let keep = KvLeaseKeepAliveRequest { lease_id, request: None };
    let answer = ask(cli, Repeat::Safe, |mut client| {
        let keep = keep.clone();
        async move { client.lease_keep_alive(keep).await }
    });
    let answer = answer.await?;
    let view = View { lease_id, expires_unix_ms: answer.expires_unix_ms };
    match cli.output {
        Output::Json => output::json(&view)?,
        Output::Table => out!("alive"),
    }
    Ok(ExitCode::SUCCESS)
}
