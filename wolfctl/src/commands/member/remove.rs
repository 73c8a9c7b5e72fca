//! `wolfctl member remove`

use std::process::ExitCode;

use anyhow::Result;

use super::change;
use crate::{cli::Cli, wire::change_membership_request::Change};

/// Removes a node for good.
pub async fn run(cli: &Cli, id: &str) -> Result<ExitCode> {
    let done = format!("{id} is removed: stop it, if it runs");
    change(cli, Change::Remove(id.to_owned()), &done).await
}
