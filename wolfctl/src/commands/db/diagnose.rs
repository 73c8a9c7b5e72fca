//! `wolfctl db diagnose`

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use crate::{
    cli::{Cli, Output},
    commands::EXIT_UNHEALTHY,
    connect::{Retry, ask},
    output,
    wire::DiagnoseDatabaseRequest,
};

#[derive(Serialize)]
struct View {
    findings: Vec<String>,
    diff: String,
}

/// Says what is wrong with the database's settings, of the first node that answers.
pub async fn run(cli: &Cli) -> Result<ExitCode> {
    let answer = ask(cli, Retry::NextNode, |mut client| async move {
        client.diagnose_database(DiagnoseDatabaseRequest {}).await
    });
    let answer = answer.await?;
    let view = View { findings: answer.findings, diff: answer.diff };
    match cli.output {
        Output::Json => output::json(&view)?,
        Output::Table => print(&view),
    }
    let sound = view.findings.is_empty();
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::from(EXIT_UNHEALTHY) })
}

fn print(view: &View) {
    if view.findings.is_empty() {
        out!("the database is set as it must be");
    }
    view.findings.iter().for_each(|finding| out!("{finding}"));
    if !view.diff.is_empty() {
        out!("\n{}\nhave the node write it: wolfctl db configure --yes", view.diff);
    }
}
