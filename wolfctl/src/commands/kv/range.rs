//! `wolfctl kv range`

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use super::view::{PairView, consistency};
use crate::{
    cli::{Cli, Freshness, Output},
    connect_kv::{Repeat, ask, hex, unhex},
    output,
    wire::KvRangeRequest,
};

#[derive(Serialize)]
struct View {
    pairs: Vec<PairView>,
    next: Option<String>,
    read_revision: u64,
}

/// Reads the keys that begin so, in order, a page of them.
pub async fn run(
    cli: &Cli,
    prefix: &str,
    limit: u32,
    cursor: Option<&str>,
    freshness: &Freshness,
) -> Result<ExitCode> {
    let (consistency, after_revision) = consistency(freshness);
    let from = cursor.map_or(Ok(prefix.as_bytes().to_vec()), unhex)?;
    let to = behind(prefix.as_bytes());
    let consistency = consistency.into();
    let range = KvRangeRequest { from, to, limit, consistency, after_revision };
    let answer = ask(cli, Repeat::Safe, |mut client| {
        let range = range.clone();
        async move { client.range(range).await }
    });
    let answer = answer.await?;
    let view = View {
        pairs: answer.pairs.iter().map(PairView::from).collect(),
        next: (!answer.next.is_empty()).then(|| hex(&answer.next)),
        read_revision: answer.revision,
    };
    match cli.output {
        Output::Json => output::json(&view)?,
        Output::Table => print(&view),
    }
    Ok(ExitCode::SUCCESS)
}

fn print(view: &View) {
    view.pairs.iter().for_each(|pair| out!("{}\t{}\t{}", pair.key, pair.revision, pair.value));
    if let Some(next) = &view.next {
        eprintln!("wolfctl: there are more; go on with --cursor {next}");
    }
}

/// Behind all keys that begin so; empty for the end of all keys.
pub fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut to = prefix.to_vec();
    while to.pop_if(|last| *last == u8::MAX).is_some() {}
    if let Some(last) = to.last_mut() {
        *last += 1;
    }
    to
}
