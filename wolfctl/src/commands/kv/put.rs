//! `wolfctl kv put`

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use super::view::AppliedView;
use crate::{
    cli::{Cli, Output, RequestId},
    connect_kv::{OneRequest, Repeat, ask},
    output,
    wire::KvPutRequest,
};

#[derive(Serialize)]
struct View {
    #[serde(flatten)]
    applied: AppliedView,
    previous_revision: u64,
}

/// Sets a key, once.
pub async fn run(
    cli: &Cli,
    (key, value): (&str, &str),
    lease_id: u64,
    given: &RequestId,
) -> Result<ExitCode> {
    let request = OneRequest::begin(cli, given).await?;
    let (key, value) = (key.as_bytes().to_vec(), value.as_bytes().to_vec());
    let put = KvPutRequest { key, value, lease_id, request: Some(request.id.clone()) };
    let answer = ask(cli, Repeat::Safe, |mut client| {
        let put = put.clone();
        async move { client.put(put).await }
    });
    let answer = answer.await?;
    request.end(cli).await;
    let view = View { applied: answer.applied.into(), previous_revision: answer.previous_revision };
    match cli.output {
        Output::Json => output::json(&view)?,
        Output::Table => out!("revision {}", view.applied.revision),
    }
    Ok(ExitCode::SUCCESS)
}
