//! What may be asked on the command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

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
    is not healthy; 4 (kv) no such key, lease or session, or another revision than expected; 5 (kv) it \
    may or may not have happened.\nThe token: --token-file, --secret-file, or the environment (WOLFSCALE_API_TOKEN, \
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
    /// Who is in the cluster.
    #[command(subcommand)]
    Member(Member),
    /// Have a node lead before lower IDs, as long as it can.
    Promote {
        /// The node's ID.
        #[arg(required_unless_present = "auto", conflicts_with = "auto")]
        id: Option<String>,
        /// The lowest ID leads again.
        #[arg(long)]
        auto: bool,
    },
    /// Exclude a node from leading.
    Demote {
        /// The node's ID.
        id: String,
        /// It may lead again.
        #[arg(long)]
        undo: bool,
    },
    /// The replicated key-value store, through any node.
    #[command(subcommand)]
    Kv(Kv),
}

/// What to list.
#[derive(Subcommand)]
pub enum List {
    /// The nodes, with who is dead.
    Servers,
}

/// What to do with a node of the cluster.
#[derive(Subcommand)]
pub enum Member {
    /// Add a node: it learns the log first, and counts when it has caught up.
    Add {
        /// The node's ID and its gRPC address.
        #[arg(value_name = "ID=HOST:PORT", value_parser = id_and_address)]
        node: (String, String),
        /// It votes, but never leads.
        #[arg(long)]
        never_leader: bool,
    },
    /// Remove a node for good.
    Remove {
        /// The node's ID.
        id: String,
    },
    /// A node's store was replaced: what it once promised and held no longer counts.
    Reset {
        /// The node's ID.
        id: String,
    },
}

fn id_and_address(text: &str) -> Result<(String, String), String> {
    let (id, address) = text.split_once('=').ok_or("write ID=HOST:PORT")?;
    Ok((id.to_owned(), address.to_owned()))
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

/// What to do with the key-value store.
#[derive(Subcommand)]
pub enum Kv {
    /// Set a key.
    Put {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// The lease that it goes with.
        #[arg(long, value_name = "ID", default_value_t = 0)]
        lease: u64,
        /// Which request it is.
        #[command(flatten)]
        request: RequestId,
    },
    /// Read a key; exit code 4 if it is absent.
    Get {
        /// The key.
        key: String,
        /// How fresh it must be.
        #[command(flatten)]
        freshness: Freshness,
    },
    /// Remove a key; absent is fine.
    Delete {
        /// The key.
        key: String,
        /// Which request it is.
        #[command(flatten)]
        request: RequestId,
    },
    /// Set a key if its revision is as expected; exit code 4 if it is another.
    Cas {
        /// The key.
        key: String,
        /// Its new value; without one the key is removed.
        value: Option<String>,
        /// The revision that it must have; 0: it must be absent.
        #[arg(long, value_name = "REVISION")]
        expect: u64,
        /// The lease that it goes with.
        #[arg(long, value_name = "ID", default_value_t = 0)]
        lease: u64,
        /// Which request it is.
        #[command(flatten)]
        request: RequestId,
    },
    /// Read the keys that begin so, in order.
    Range {
        /// How they begin.
        #[arg(default_value = "")]
        prefix: String,
        /// How many at most.
        #[arg(long, default_value_t = 1000)]
        limit: u32,
        /// Go on at this key, in hexadecimal: `next` of the answer before.
        #[arg(long, value_name = "HEX")]
        cursor: Option<String>,
        /// How fresh it must be.
        #[command(flatten)]
        freshness: Freshness,
    },
    /// Tell each change of the keys that begin so, a line each, until it is interrupted.
    Watch {
        /// How they begin.
        #[arg(default_value = "")]
        prefix: String,
        /// The first revision to tell; without one, from now on.
        #[arg(long, value_name = "REVISION", default_value_t = 0)]
        from: u64,
        /// End after so many changes.
        #[arg(long, value_name = "N")]
        count: Option<u64>,
    },
    /// Leases: when one ends, its keys are removed.
    #[command(subcommand)]
    Lease(Lease),
    /// Sessions: their requests are executed once, however often they are sent.
    #[command(subcommand)]
    Session(Session),
}

/// What to do with a lease.
#[derive(Subcommand)]
pub enum Lease {
    /// Open one.
    Grant {
        /// How long it lasts without a sign of life.
        #[arg(long, value_parser = duration)]
        ttl: Duration,
        /// Its ID; without one, the node chooses it.
        #[arg(long, default_value_t = 0)]
        id: u64,
    },
    /// Begin its time anew; exit code 4 if it is not there.
    KeepAlive {
        /// The lease.
        id: u64,
    },
    /// End it and remove its keys; absent is fine.
    Revoke {
        /// The lease.
        id: u64,
    },
}

/// What to do with a session.
#[derive(Subcommand)]
pub enum Session {
    /// Open one.
    Open {
        /// How long it lasts without a sign of life.
        #[arg(long, value_parser = duration)]
        ttl: Duration,
    },
    /// A sign of life; exit code 4 if it is not there.
    KeepAlive {
        /// The session: 32 hexadecimal digits.
        session: String,
        /// The answers of all requests up to this number have come.
        #[arg(long, value_name = "NUMBER", default_value_t = 0)]
        answered: u64,
    },
    /// End it; absent is fine.
    Close {
        /// The session: 32 hexadecimal digits.
        session: String,
    },
}

/// Makes a request happen once. Without these, a session is opened for this one request.
#[derive(Args)]
pub struct RequestId {
    /// A session: 32 hexadecimal digits.
    #[arg(long, value_name = "HEX", requires = "request")]
    pub session: Option<String>,
    /// The number of the request in its session, from 1; the same number is the same request.
    #[arg(long, value_name = "NUMBER", requires = "session")]
    pub request: Option<u64>,
}

/// How fresh a read must be. Without these it sees all that was acknowledged before.
#[derive(Args)]
pub struct Freshness {
    /// What the answering node has applied will do.
    #[arg(long, conflicts_with = "after")]
    pub stale: bool,
    /// It must see this revision.
    #[arg(long, value_name = "REVISION")]
    pub after: Option<u64>,
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
