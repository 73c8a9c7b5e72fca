//! One command, one file: `commands/<noun>/<verb>.rs`.

mod db;
mod list;
mod status;

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::{Cli, Command, Db, List};

/// Done, and the cluster is not healthy.
pub const EXIT_UNHEALTHY: u8 = 3;

/// Runs the command that was asked for.
pub async fn run(cli: &Cli) -> Result<ExitCode> {
    match &cli.command {
        Command::List(List::Servers) => list::servers::run(cli).await,
        Command::Status => status::run(cli).await,
        Command::Db(Db::Diagnose) => db::diagnose::run(cli).await,
        Command::Db(Db::Configure { yes }) => db::configure::run(cli, *yes).await,
        Command::Db(Db::Rebuilt) => db::rebuilt::run(cli).await,
    }
}
