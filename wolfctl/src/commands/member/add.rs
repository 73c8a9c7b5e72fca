//! `wolfctl member add`

use std::process::ExitCode;

use anyhow::Result;

use super::change;
use crate::{
    cli::Cli,
    wire::{MemberAddition, change_membership_request::Change},
};

/// Adds a node; it counts when it has caught up.
pub async fn run(cli: &Cli, id: &str, address: &str, never_leader: bool) -> Result<ExitCode> {
    let addition = MemberAddition { id: id.to_owned(), address: address.to_owned(), never_leader };
    let done = format!("{id} is added: start it, and it counts when it has caught up");
    change(cli, Change::Add(addition), &done).await
}
