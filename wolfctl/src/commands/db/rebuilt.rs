//! `wolfctl db rebuilt`

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use crate::{
    cli::{Cli, Output},
    connect::{Retry, ask},
    output,
    wire::TakeDatabaseBackRequest,
};

#[derive(Serialize)]
struct View {
    reason: String,
    position: String,
}

/// Has the node take back its database, which was replaced by a copy of another node's.
pub async fn run(cli: &Cli) -> Result<ExitCode> {
    let answer = ask(cli, Retry::Never, |mut client| async move {
        client.take_database_back(TakeDatabaseBackRequest {}).await
    });
    let answer = answer.await?;
    let view = View { reason: answer.reason, position: answer.position };
    match cli.output {
        Output::Json => output::json(&view)?,
        Output::Table => print(&view),
    }
    Ok(ExitCode::SUCCESS)
}

fn print(view: &View) {
    let from = match view.position.as_str() {
        "" => "from the beginning of the log".to_owned(),
        position => format!("from {position} on"),
    };
    out!("the database follows again, {from}");
    out!("it had to be rebuilt because: {}", view.reason);
}
