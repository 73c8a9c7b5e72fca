//! `wolfctl kv session open`

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use serde::Serialize;

use crate::{
    cli::{Cli, Output},
    connect_kv::{Repeat, ask, hex},
    output,
    wire::KvSessionOpenRequest,
};

#[derive(Serialize)]
struct View {
    session: String,
    expires_unix_ms: u64,
}

/// Opens a session.
pub async fn run(cli: &Cli, ttl: Duration) -> Result<ExitCode> {
    let ttl_ms = u64::try_from(ttl.as_millis())?;
    let open = KvSessionOpenRequest { session: Vec::new(), ttl_ms };
    let answer = ask(cli, Repeat::Safe, |mut client| {
        let open = open.clone();
        async move { client.session_open(open).await }
    });
    let answer = answer.await?;
    let view = View { session: hex(&answer.session), expires_unix_ms: answer.expires_unix_ms };
    match cli.output {
        Output::Json => output::json(&view)?,
        Output::Table => out!("{}", view.session),
    }
    Ok(ExitCode::SUCCESS)
}
