//! `wolfctl member …`, and `promote` and `demote`: all are changes of the membership.

pub mod add;
pub mod demote;
pub mod promote;
pub mod remove;
pub mod reset;

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use crate::{
    cli::{Cli, Output},
    connect::{Retry, ask, ask_at},
    output,
    wire::{ChangeMembershipRequest, ListServersRequest, Role, change_membership_request::Change},
};

#[derive(Serialize)]
struct View {
    lsn: u64,
}

/// Has the leader make the change, and says `done` when the cluster has decided it.
async fn change(cli: &Cli, change: Change, done: &str) -> Result<ExitCode> {
    let leader = leader(cli).await?;
    let request = ChangeMembershipRequest { change: Some(change) };
    let endpoints: Vec<String> = leader.into_iter().chain(cli.endpoints.iter().cloned()).collect();
    let answer = ask_at(cli, &endpoints, Retry::IfRejected, |mut client| {
        let request = request.clone();
        async move { client.change_membership(request).await }
    });
    let view = View { lsn: answer.await?.lsn };
    match cli.output {
        Output::Json => output::json(&view)?,
        Output::Table => out!("{done} (decided at LSN {})", view.lsn),
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the leader is, as a node knows.
async fn leader(cli: &Cli) -> Result<Option<String>> {
    let list = ask(cli, Retry::NextNode, |mut client| async move {
        client.list_servers(ListServersRequest {}).await
    });
    let servers = list.await?.servers;
    Ok(servers.into_iter().find(|server| server.role() == Role::Leader).map(|s| s.address))
}
