//! `wolfctl demote`

use std::process::ExitCode;

use anyhow::Result;

use super::change;
use crate::{cli::Cli, wire::change_membership_request::Change};

/// Excludes a node from leading, or undoes that.
pub async fn run(cli: &Cli, id: &str, undo: bool) -> Result<ExitCode> {
    if undo {
        let done = format!("{id} may lead again");
        return change(cli, Change::UndoDemote(id.to_owned()), &done).await;
    }
    let done = format!("{id} leads no more, until `wolfctl demote {id} --undo`");
    change(cli, Change::Demote(id.to_owned()), &done).await
}
