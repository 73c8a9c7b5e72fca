//! `wolfctl member reset`

use std::process::ExitCode;

use anyhow::Result;

use super::change;
use crate::{cli::Cli, wire::change_membership_request::Change};

/// Has a node whose store was replaced learn anew.
pub async fn run(cli: &Cli, id: &str) -> Result<ExitCode> {
    let done = format!("{id} learns anew: it counts when it has caught up");
    change(cli, Change::Reset(id.to_owned()), &done).await
}
