//! The command line of the node.

use std::{
    ffi::OsString,
    fs,
    io::{IsTerminal, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::{EnvFilter, fmt};
use wolfscale::{
    config::{self, Config, Loaded, LogFormat, Member, Sources, Template},
    db::mariadb::MariaDb,
    metrics,
    node::{self, NodeError},
    supervisor::{self, Fence, SupervisorSettings},
    types::NodeId,
};

/// Exit code of a configuration that is refused.
const EXIT_REFUSED: u8 = 2;

/// High availability for unmodified MariaDB, on a replicated log.
#[derive(Parser)]
#[command(name = "wolfscale", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node.
    Start(Configured),
    /// Run the node in this process.
    #[command(hide = true)]
    Node(Configured),
    /// Validate a configuration. Exit code 2 if it is refused.
    Check(Configured),
    /// Write a commented configuration file.
    Init(Init),
    /// Print the parts of the documentation that follow the code.
    #[command(hide = true)]
    Docs { part: Part },
}

#[derive(Args)]
struct Configured {
    /// The configuration file (TOML).
    #[arg(long, env = "WOLFSCALE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Overrides one setting.
    #[arg(long = "set", value_name = "SECTION.NAME=VALUE")]
    set: Vec<String>,
}

#[derive(Args)]
struct Init {
    /// Where to write it; standard output if not given. An existing file is not overwritten.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The node's ID.
    #[arg(long, default_value = "node-1")]
    node_id: NodeId,
    /// A founding member; once for each, this node included.
    #[arg(long = "member", value_name = "ID=HOST:PORT", value_parser = member)]
    members: Vec<Member>,
    /// Where the node keeps its stores.
    #[arg(long, default_value = "/var/lib/wolfscale", value_name = "DIR")]
    data_dir: PathBuf,
    /// Where the cluster secret is.
    #[arg(long, default_value = "/etc/wolfscale/secret", value_name = "FILE")]
    secret_file: PathBuf,
    /// Make a random secret there, unless there is one. Copy it to every node.
    #[arg(long)]
    make_secret: bool,
    /// The node runs no database.
    #[arg(long)]
    no_db: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Part {
    Configuration,
    Metrics,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Start(arguments) => start(arguments),
        Command::Node(arguments) => run_node(arguments),
        Command::Check(arguments) => Ok(check(arguments)),
        Command::Init(arguments) => init(&arguments),
        Command::Docs { part } => docs(part),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("wolfscale: {error:#}");
        ExitCode::FAILURE
    })
}

/// Loads and shows what is wrong, or worth a look.
fn load(arguments: Configured) -> Result<Loaded, ExitCode> {
    let sources = Sources::of_process(arguments.config, arguments.set);
    match config::load(&sources) {
        Ok(loaded) => {
            loaded.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
            Ok(loaded)
        }
        Err(invalid) => {
            invalid.0.iter().for_each(|problem| eprintln!("error: {problem}"));
            Err(ExitCode::from(EXIT_REFUSED))
        }
    }
}

/// The parent: runs the node as its child, and fences for it when it dies.
fn start(arguments: Configured) -> anyhow::Result<ExitCode> {
    let child = child_arguments(&arguments);
    let config = match load(arguments) {
        Ok(loaded) => loaded.config,
        // A service manager must not start it again.
        Err(_) => return Ok(ExitCode::from(supervisor::EXIT_REFUSED)),
    };
    trace(&config.log);
    let settings = SupervisorSettings {
        program: std::env::current_exe().context("find this program")?,
        lease: config.cluster.timing.lease,
        fence: fence(&config),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(ExitCode::from(runtime.block_on(supervisor::run(settings, child))))
}

fn child_arguments(arguments: &Configured) -> Vec<OsString> {
    let mut child = vec![OsString::from("node")];
    if let Some(config) = &arguments.config {
        child.extend([OsString::from("--config"), config.into()]);
    }
    for set in &arguments.set {
        child.extend([OsString::from("--set"), set.into()]);
    }
    child
}

/// How parent and child fence the local database, if there is one.
fn fence(config: &Config) -> Option<Fence> {
    config.db.as_ref().map(|db| Fence {
        control: node::control(&db.control),
        db: MariaDb::new(node::admin_settings(db)),
    })
}

/// The child: the node itself, for as long as its parent lives.
fn run_node(arguments: Configured) -> anyhow::Result<ExitCode> {
    let config = match load(arguments) {
        Ok(loaded) => loaded.config,
        Err(_) => return Ok(ExitCode::from(supervisor::EXIT_REFUSED)),
    };
    trace(&config.log);
    let fence = fence(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(node::run(config, supervisor::parent_gone()));
    let Err(error) = outcome else { return Ok(ExitCode::SUCCESS) };
    let orphaned = matches!(error, NodeError::Orphaned);
    eprintln!("wolfscale: {:#}", anyhow::Error::from(error).context("run node"));
    if orphaned {
        if let Some(Err(error)) = fence.map(|fence| runtime.block_on(fence.fence())) {
            eprintln!("wolfscale: the database is not fenced ({error}): stop it by hand");
        }
        return Ok(ExitCode::from(supervisor::EXIT_ORPHANED));
    }
    Ok(ExitCode::FAILURE)
}

/// Log lines on standard error.
fn trace(log: &config::Log) {
    let lines = fmt().with_env_filter(EnvFilter::new(&log.level)).with_writer(std::io::stderr);
    let set = match log.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    set.expect("log lines are set up once in a process");
}

fn check(arguments: Configured) -> ExitCode {
    match load(arguments) {
        Ok(loaded) => {
            let members = loaded.config.cluster.initial_members.len();
            println!("ok: node {} of {members} members", loaded.config.node.id);
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}

fn init(arguments: &Init) -> anyhow::Result<ExitCode> {
    let own = arguments.members.iter().any(|member| member.id == arguments.node_id);
    if !arguments.members.is_empty() && !own {
        let id = &arguments.node_id;
        bail!("--member: this node ({id}) is missing: add --member {id}=HOST:PORT");
    }
    let text = config::commented_file(&Template {
        node_id: arguments.node_id.clone(),
        members: arguments.members.clone(),
        secret_file: arguments.secret_file.clone(),
        data_dir: arguments.data_dir.clone(),
        db: !arguments.no_db,
    });
    match &arguments.output {
        Some(path) => create(path, text.as_bytes(), 0o644)?,
        None => std::io::stdout().write_all(text.as_bytes())?,
    }
    if arguments.make_secret && !arguments.secret_file.exists() {
        let secret = config::random_secret().context("random bytes for the secret")?;
        create(&arguments.secret_file, secret.expose(), 0o600)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a new file; an existing one stays as it is.
fn create(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = file.with_context(|| format!("create {}", path.display()))?;
    file.write_all(content).with_context(|| format!("write {}", path.display()))
}

fn docs(part: Part) -> anyhow::Result<ExitCode> {
    match part {
        Part::Configuration => print!("{}", config::markdown()),
        Part::Metrics => print!("{}", metrics::markdown()),
    }
    Ok(ExitCode::SUCCESS)
}

fn member(text: &str) -> Result<Member, String> {
    let (id, address) = text.split_once('=').ok_or("write ID=HOST:PORT")?;
    let id = id.parse().map_err(|error: wolfscale::types::InvalidNodeId| error.to_string())?;
    Ok(Member { id, address: address.to_owned() })
}
