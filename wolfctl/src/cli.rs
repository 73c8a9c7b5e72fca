//! What may be asked on the command line.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};

/// Shows and steers a WolfScale cluster.
#[derive(Parser)]
#[command(name = "wolfctl", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// A node's gRPC address; several (comma-separated, or repeated) are tried in turn.
    #[arg(
        long = "endpoint",
        env = "WOLFSCALE_ENDPOINTS",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:8080",
        value_delimiter = ',',
        global = true
    )]
    pub endpoints: Vec<String>,
    /// A file with the API token (a node's `api.token_file`).
    #[arg(long, env = "WOLFSCALE_TOKEN_FILE", value_name = "FILE", global = true)]
    pub token_file: Option<PathBuf>,
    /// A file with the cluster secret, from which the token is derived.
    #[arg(
        long,
        env = "WOLFSCALE_SECRET_FILE",
        value_name = "FILE",
        global = true,
        conflicts_with = "token_file"
    )]
    pub secret_file: Option<PathBuf>,
    /// How long one node may take to answer: "500ms", "5s" or "1m".
    #[arg(long, value_name = "DURATION", default_value = "5s", global = true, value_parser = duration)]
    pub timeout: Duration,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Output::Table, global = true)]
    pub output: Output,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 it failed; 2 wrong usage; 3 done, and the cluster \
    is not healthy.\nThe token: --token-file, --secret-file, or the environment (WOLFSCALE_API_TOKEN, \
    WOLFSCALE_CLUSTER_SECRET).";

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs: stable keys.
    Json,
}

/// A noun, or `status`.
#[derive(Subcommand)]
pub enum Command {
    /// List things of the cluster.
    #[command(subcommand)]
    List(List),
    /// Show a node and its cluster; exit code 3 if it is not healthy.
    Status,
    /// The database beside the node that answers.
    #[command(subcommand)]
    Db(Db),
}

/// What to list.
#[derive(Subcommand)]
pub enum List {
    /// The nodes, with who is dead.
    Servers,
}

/// What to do with the database.
#[derive(Subcommand)]
pub enum Db {
    /// Say what is wrong with its settings. Exit code 3 if anything is.
    Diagnose,
    /// Show what must change in its settings; with --yes, have the node write it.
    Configure {
        /// Write it.
        #[arg(long)]
        yes: bool,
    },
    /// Say that a database in needs_migration was replaced by a copy of another node's: the node
    /// looks whether that can be, and lets it follow.
    Rebuilt,
}

/// A duration with its unit: `ms`, `s` or `m`; from one millisecond to one hour.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err(format!("{text:?} has no unit: write 500ms, 5s or 1m")),
    };
    let ms = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit_ms));
    match ms {
        Some(ms @ 1..=3_600_000) => Ok(Duration::from_millis(ms)),
        _ => Err(format!("{text:?} is not between 1ms and 60m")),
    }
}
