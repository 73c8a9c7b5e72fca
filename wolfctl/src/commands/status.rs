//! `wolfctl status`

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use super::EXIT_UNHEALTHY;
use crate::{
    cli::{Cli, Output},
    connect::{Retry, ask},
    output::{self, ServerView},
    wire::{Database, DatabaseState, GetStatusRequest, GetStatusResponse},
};

#[derive(Serialize)]
struct View {
    healthy: bool,
    unhealthy_because: Vec<String>,
    node_id: String,
    incarnation: String,
    cluster_id: String,
    role: &'static str,
    term: u64,
    leader: Option<String>,
    handing_over: bool,
    appended_lsn: u64,
    durable_lsn: u64,
    committed_lsn: u64,
    released_lsn: u64,
    applied_lsn: u64,
    servers: Vec<ServerView>,
    database: Option<DatabaseView>,
    notices: Vec<String>,
}

#[derive(Serialize)]
struct DatabaseView {
    state: &'static str,
    detail: String,
    advice: Vec<String>,
    version: String,
    position: String,
}

impl From<&Database> for DatabaseView {
    fn from(db: &Database) -> Self {
        Self {
            state: output::database(db.state()),
            detail: db.detail.clone(),
            advice: db.advice.clone(),
            version: db.version.clone(),
            position: db.position.clone(),
        }
    }
}

/// Shows a node and its cluster; exit code 3 if it is not healthy.
pub async fn run(cli: &Cli) -> Result<ExitCode> {
    let status = ask(cli, Retry::NextNode, |mut client| async move {
        client.get_status(GetStatusRequest {}).await
    });
    let view = view(status.await?);
    match cli.output {
        Output::Json => output::json(&view)?,
        Output::Table => print(&view),
    }
    Ok(if view.healthy { ExitCode::SUCCESS } else { ExitCode::from(EXIT_UNHEALTHY) })
}

fn view(status: GetStatusResponse) -> View {
    let marks = status.watermarks.unwrap_or_default();
    let unhealthy_because = faults(&status);
    View {
        healthy: unhealthy_because.is_empty(),
        unhealthy_because,
        role: output::role(status.role()),
        servers: status.servers.iter().map(ServerView::from).collect(),
        database: status.database.as_ref().map(DatabaseView::from),
        node_id: status.node_id,
        incarnation: status.incarnation,
        cluster_id: status.cluster_id,
        term: status.term_number,
        leader: Some(status.leader).filter(|leader| !leader.is_empty()),
        handing_over: status.handing_over,
        appended_lsn: marks.appended_lsn,
        durable_lsn: marks.durable_lsn,
        committed_lsn: marks.committed_lsn,
        released_lsn: marks.released_lsn,
        applied_lsn: marks.applied_lsn,
        notices: status.notices,
    }
}

/// Why the cluster is not healthy, as the answering node sees it.
fn faults(status: &GetStatusResponse) -> Vec<String> {
    let mut faults = Vec::new();
    if status.leader.is_empty() {
        faults.push("no leader is known".to_owned());
    }
    for server in &status.servers {
        if output::ServerView::from(server).state == "dead" {
            faults.push(format!("{} is dead", server.id));
        }
    }
    if let Some(db) = &status.database {
        let broken = [
            DatabaseState::Unreachable,
            DatabaseState::Misconfigured,
            DatabaseState::NeedsMigration,
        ];
        if broken.contains(&db.state()) {
            faults.push(format!("the database is {}", output::database(db.state())));
        }
    }
    faults
}

fn print(view: &View) {
    let health = match view.healthy {
        true => "healthy".to_owned(),
        false => format!("not healthy: {}", view.unhealthy_because.join(", ")),
    };
    out!("cluster   {}", health);
    out!("leader    {} (term {})", view.leader.as_deref().unwrap_or("none"), view.term);
    out!("answered  {} ({})", view.node_id, view.role);
    out!(
        "log       appended {} durable {} committed {} released {} applied {}",
        view.appended_lsn,
        view.durable_lsn,
        view.committed_lsn,
        view.released_lsn,
        view.applied_lsn
    );
    if let Some(db) = &view.database {
        out!("database  {} {} {} {}", db.state, db.version, db.position, db.detail);
        db.advice.iter().for_each(|line| out!("          {line}"));
    }
    view.notices.iter().for_each(|notice| out!("notice    {notice}"));
    out!("\n{}", output::servers(&view.servers));
}
