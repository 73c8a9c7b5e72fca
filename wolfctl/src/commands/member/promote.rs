//! `wolfctl promote`

use std::process::ExitCode;

use anyhow::Result;

use super::change;
use crate::{cli::Cli, wire::change_membership_request::Change};

/// Pins the leader, or with `None` lets the lowest ID lead again.
pub async fn run(cli: &Cli, id: Option<&str>) -> Result<ExitCode> {
    match id {
        Some(id) => {
            let done = format!("{id} leads as soon as it can, and before lower IDs");
            change(cli, Change::Prefer(id.to_owned()), &done).await
        }
        None => change(cli, Change::PreferLowest(true), "the lowest ID leads again").await,
    }
}
