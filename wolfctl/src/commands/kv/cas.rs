//! `wolfctl kv cas`

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use super::view::AppliedView;
use crate::{
    cli::{Cli, Output, RequestId},
    commands::EXIT_NOT_SO,
    connect_kv::{OneRequest, Repeat, ask},
    output,
    wire::KvCompareAndSetRequest,
};

#[derive(Serialize)]
struct View {
    succeeded: bool,
    #[serde(flatten)]
    applied: AppliedView,
    previous_revision: u64,
}

/// Sets or removes a key if its revision is the expected one, once; exit code 4 if it is another.
pub async fn run(
    cli: &Cli,
    (key, value): (&str, Option<&str>),
    expected_revision: u64,
    lease_id: u64,
    given: &RequestId,
) -> Result<ExitCode> {
    let request = OneRequest::begin(cli, given).await?;
    let cas = KvCompareAndSetRequest {
        key: key.as_bytes().to_vec(),
        expected_revision,
        value: value.map(|value| value.as_bytes().to_vec()),
        lease_id,
        request: Some(request.id.clone()),
    };
    let answer = ask(cli, Repeat::Safe, |mut client| {
        let cas = cas.clone();
        async move { client.compare_and_set(cas).await }
    });
    let answer = answer.await?;
    request.end(cli).await;
    let view = View {
        succeeded: answer.succeeded,
        applied: answer.applied.into(),
        previous_revision: answer.previous_revision,
    };
    match (cli.output, view.succeeded) {
        (Output::Json, _) => output::json(&view)?,
        (Output::Table, true) => out!("revision {}", view.applied.revision),
        (Output::Table, false) => {
            out!("not changed: its revision is {}", view.previous_revision)
        }
    }
    Ok(if view.succeeded { ExitCode::SUCCESS } else { ExitCode::from(EXIT_NOT_SO) })
}
