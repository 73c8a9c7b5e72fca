//! `wolfctl kv session keep-alive`

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use crate::{
    cli::{Cli, Output},
    connect_kv::{Repeat, ask, unhex},
    output,
    wire::KvSessionKeepAliveRequest,
};

#[derive(Serialize)]
struct View {
    session: String,
    expires_unix_ms: u64,
}

/// A sign of life of a session; exit code 4 if it is not there.
pub async fn run(cli: &Cli, session: &str, answered: u64) -> Result<ExitCode> {
    let keep = KvSessionKeepAliveRequest { session: unhex(session)?, answered };
    let answer = ask(cli, Repeat::Safe, |mut client| {
        let keep = keep.clone();
        async move { client.session_keep_alive(keep).await }
    });
    let answer = answer.await?;
    let view = View { session: session.to_owned(), expires_unix_ms: answer.expires_unix_ms };
    match cli.output {
        Output::Json => output::json(&view)?,
        Output::Table => out!("alive"),
    }
    Ok(ExitCode::SUCCESS)
}
