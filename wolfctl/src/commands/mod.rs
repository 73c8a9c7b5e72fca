//! One command, one file: `commands/<noun>/<verb>.rs`.

mod db;
mod kv;
mod list;
mod member;
mod status;

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::{Cli, Command, Db, List, Member};

/// Done, and the cluster is not healthy.
pub const EXIT_UNHEALTHY: u8 = 3;
/// There is no such key, lease or session, or the revision is another.
pub const EXIT_NOT_SO: u8 = 4;
/// It may or may not have happened.
pub const EXIT_MAYBE: u8 = 5;

/// Runs the command that was asked for.
pub async fn run(cli: &Cli) -> Result<ExitCode> {
    match &cli.command {
        Command::List(List::Servers) => list::servers::run(cli).await,
        Command::Status => status::run(cli).await,
        Command::Db(Db::Diagnose) => db::diagnose::run(cli).await,
        Command::Db(Db::Configure { yes }) => db::configure::run(cli, *yes).await,
        Command::Member(Member::Add { node: (id, address), never_leader }) => {
            member::add::run(cli, id, address, *never_leader).await
        }
        Command::Member(Member::Remove { id }) => member::remove::run(cli, id).await,
        Command::Member(Member::Reset { id }) => member::reset::run(cli, id).await,
        Command::Promote { id, .. } => member::promote::run(cli, id.as_deref()).await,
        Command::Demote { id, undo } => member::demote::run(cli, id, *undo).await,
        Command::Db(Db::Rebuilt) => db::rebuilt::run(cli).await,
        Command::Kv(command) => kv::run(cli, command).await,
    }
}
