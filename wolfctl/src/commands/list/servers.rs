//! `wolfctl list servers`

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use crate::{
    cli::{Cli, Output},
    connect::{Retry, ask},
    output::{self, ServerView},
    wire::ListServersRequest,
};

#[derive(Serialize)]
struct View {
    answered_by: String,
    servers: Vec<ServerView>,
}

/// Lists the nodes, with who is dead.
pub async fn run(cli: &Cli) -> Result<ExitCode> {
    let list = ask(cli, Retry::NextNode, |mut client| async move {
        client.list_servers(ListServersRequest {}).await
    });
    let list = list.await?;
    let servers = list.servers.iter().map(ServerView::from).collect();
    let view = View { answered_by: list.answered_by, servers };
    match cli.output {
        Output::Json => output::json(&view)?,
        Output::Table => out!("{}", output::servers(&view.servers)),
    }
    Ok(ExitCode::SUCCESS)
}
