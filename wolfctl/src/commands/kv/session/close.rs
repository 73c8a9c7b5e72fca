//! `wolfctl kv session close`

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use crate::{
    cli::{Cli, Output},
    connect_kv::{Repeat, ask, unhex},
    output,
    wire::KvSessionCloseRequest,
};

#[derive(Serialize)]
struct View {
    session: String,
    closed: bool,
}

/// Ends a session.
pub async fn run(cli: &Cli, session: &str) -> Result<ExitCode> {
    let close = KvSessionCloseRequest { session: unhex(session)? };
    let answer = ask(cli, Repeat::Safe, |mut client| {
        let close = close.clone();
        async move { client.session_close(close).await }
    });
    let answer = answer.await?;
    let view = View { session: session.to_owned(), closed: answer.applied.is_some() };
    match cli.output {
        Output::Json => output::json(&view)?,
        Output::Table => out!("closed"),
    }
    Ok(ExitCode::SUCCESS)
}
