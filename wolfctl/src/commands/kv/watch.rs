//! `wolfctl kv watch`

use std::{io::Write, process::ExitCode};

use anyhow::{Result, bail};
use serde::Serialize;

use super::{range::behind, view::Bytes};
use crate::{
    cli::{Cli, Output},
    connect_kv::{Refused, Repeat, ask, details},
    wire::{KvEvent, KvWatchRequest},
};

/// A change, on a line of its own.
#[derive(Serialize)]
struct View {
    revision: u64,
    key: Bytes,
    value: Option<Bytes>,
    previous_revision: u64,
    lease_id: Option<u64>,
}

impl From<&KvEvent> for View {
    fn from(event: &KvEvent) -> Self {
        Self {
            revision: event.revision,
            key: event.key[..].into(),
            value: event.value.as_deref().map(Bytes::from),
            previous_revision: event.previous_revision,
            lease_id: (event.lease_id != 0).then_some(event.lease_id),
        }
    }
}

/// Tells each change until it is interrupted, or after `count` of them.
pub async fn run(cli: &Cli, prefix: &str, from: u64, count: Option<u64>) -> Result<ExitCode> {
    let watch = KvWatchRequest {
        from: prefix.as_bytes().to_vec(),
        to: behind(prefix.as_bytes()),
        from_revision: from,
    };
    let opened = ask(cli, Repeat::Safe, |mut client| {
        let watch = watch.clone();
        async move { client.watch(watch).await }
    });
    let mut changes = opened.await?;
    let (mut told, mut next) = (0, from);
    loop {
        let message = match changes.message().await {
            Ok(Some(message)) => message,
            Ok(None) => bail!("the node ended the watch; go on with --from {next}"),
            Err(status) => match details(&status) {
                Some(error) => return Err(Refused(error).into()),
                None => bail!("{}; go on with --from {next}", status.message()),
            },
        };
        next = message.next_revision;
        for event in &message.events {
            print(cli.output, &View::from(event))?;
            told += 1;
            if count == Some(told) {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

fn print(output: Output, view: &View) -> Result<()> {
    let line = match (output, &view.value) {
        (Output::Json, _) => serde_json::to_string(view)?,
        (Output::Table, Some(value)) => format!("{}\tset\t{}\t{value}", view.revision, view.key),
        (Output::Table, None) => format!("{}\tremoved\t{}", view.revision, view.key),
    };
    out!("{line}");
    // Whoever reads a pipe wants each change when it comes.
    Ok(std::io::stdout().flush()?)
}
