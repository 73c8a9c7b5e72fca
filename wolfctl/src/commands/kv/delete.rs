//! `wolfctl kv delete`

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use super::view::AppliedView;
use crate::{
    cli::{Cli, Output, RequestId},
    connect_kv::{OneRequest, Repeat, ask},
    output,
    wire::KvDeleteRequest,
};

#[derive(Serialize)]
struct View {
    #[serde(flatten)]
    applied: AppliedView,
    previous_revision: u64,
}

/// Removes a key, once.
pub async fn run(cli: &Cli, key: &str, given: &RequestId) -> Result<ExitCode> {
    let request = OneRequest::begin(cli, given).await?;
    let delete =
        KvDeleteRequest { key: key.as_bytes().to_vec(), request: Some(request.id.clone()) };
    let answer = ask(cli, Repeat::Safe, |mut client| {
        let delete = delete.clone();
        async move { client.delete(delete).await }
    });
    let answer = answer.await?;
    request.end(cli).await;
    let view = View { applied: answer.applied.into(), previous_revision: answer.previous_revision };
    match (cli.output, view.previous_revision) {
        (Output::Json, _) => output::json(&view)?,
        (Output::Table, 0) => out!("it was absent"),
        (Output::Table, before) => out!("removed; its revision was {before}"),
    }
    Ok(ExitCode::SUCCESS)
}
