//! `wolfctl kv get`

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use super::view::{PairView, consistency};
use crate::{
    cli::{Cli, Freshness, Output},
    commands::EXIT_NOT_SO,
    connect_kv::{Repeat, ask},
    output,
    wire::KvGetRequest,
};

#[derive(Serialize)]
struct View {
    found: bool,
    pair: Option<PairView>,
    read_revision: u64,
}

/// Reads a key; exit code 4 if it is absent.
pub async fn run(cli: &Cli, key: &str, freshness: &Freshness) -> Result<ExitCode> {
    let (consistency, after_revision) = consistency(freshness);
    let key = key.as_bytes().to_vec();
    let get = KvGetRequest { key, consistency: consistency.into(), after_revision };
    let answer = ask(cli, Repeat::Safe, |mut client| {
        let get = get.clone();
        async move { client.get(get).await }
    });
    let answer = answer.await?;
    let pair = answer.pair.as_ref().map(PairView::from);
    let view = View { found: pair.is_some(), pair, read_revision: answer.revision };
    match (cli.output, &view.pair) {
        (Output::Json, _) => output::json(&view)?,
        (Output::Table, Some(pair)) => out!("{}", pair.value),
        (Output::Table, None) => eprintln!("wolfctl: there is no such key"),
    }
    Ok(if view.found { ExitCode::SUCCESS } else { ExitCode::from(EXIT_NOT_SO) })
}
