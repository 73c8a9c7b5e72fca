//! One command, one file: `commands/<noun>/<verb>.rs`.

mod db;
mod kv;
mod list;
mod status;

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::{Cli, Command, Db, List};

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
        Command::Db(Db::Rebuilt) => db::rebuilt::run(cli).await,
        Command::Kv(command) => kv::run(cli, command).await,
    }
}
