//! `wolfctl db configure`

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use crate::{
    cli::{Cli, Output},
    connect::{Retry, ask},
    output,
    wire::ConfigureDatabaseRequest,
};

#[derive(Serialize)]
struct View {
    diff: String,
    written: bool,
    path: String,
    restart_needed: bool,
}

/// Shows the change; with `yes` the node writes it.
pub async fn run(cli: &Cli, yes: bool) -> Result<ExitCode> {
    let retry = if yes { Retry::Never } else { Retry::NextNode };
    let answer = ask(cli, retry, |mut client| async move {
        client.configure_database(ConfigureDatabaseRequest { dry_run: !yes }).await
    });
    let answer = answer.await?;
    let view = View {
        diff: answer.diff,
        written: answer.written,
        path: answer.path,
        restart_needed: answer.restart_needed,
    };
    match cli.output {
        Output::Json => output::json(&view)?,
        Output::Table => print(&view),
    }
    Ok(ExitCode::SUCCESS)
}

fn print(view: &View) {
    if view.diff.is_empty() {
        return out!("nothing to change in {}", view.path);
    }
    out!("{}", view.diff);
    match (view.written, view.restart_needed) {
        (false, _) => out!("nothing was written; to write {}: add --yes", view.path),
        (true, true) => out!("{} was written; restart the database", view.path),
        (true, false) => out!("{} was written", view.path),
    }
}
