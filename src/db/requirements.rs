//! What a server must be set to, checked against the live one: one table, with reasons.
//!
//! Four options have no variable (`init_rpl_role`, `replicate_same_server_id`, `skip_slave_start`)
//! or are read at start only; those are read as the server read them: its option files (through
//! `my_print_defaults`) and then its command line (through /proc). A drop-in that is newer than the
//! server's start counts as not yet in force.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::process::Command;

use super::mariadb::{DbError, ServerRun, Session};

/// Where Debian's MariaDB reads drop-ins; ours sorts last.
pub const DROP_IN: &str = "/etc/mysql/mariadb.conf.d/99-wolfscale.cnf";
/// Where the statements for `init_file` go by default.
pub const INIT_FILE: &str = "/etc/mysql/wolfscale-init.sql";
/// The oldest server that is supported: `init_rpl_role` truncates from 10.6 on, and from 10.10 on a
/// former leader can follow by `MASTER_DEMOTE_TO_SLAVE`.
pub const VERSION_MIN: (u32, u32) = (10, 10);
/// What `init_file` runs: after recovery and before the first client.
pub const INIT_SQL: &str = "SET GLOBAL rpl_semi_sync_master_enabled=1;\n";
const ROLE: &str = "init_rpl_role";
const SEMI_SYNC: &str = "rpl_semi_sync_master_enabled";
/// How long `my_print_defaults` may take.
const PRINT_DEFAULTS_TIMEOUT: Duration = Duration::from_secs(5);
/// The option groups that the server reads, apart from those with its version in their name.
const GROUPS: [&str; 4] = ["mysqld", "server", "mariadb", "mariadbd"];

/// How a required option is seen on a live server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seen {
    /// By `SHOW VARIABLES`.
    Variable,
    /// By its option files and command line only.
    Option,
}

/// One required option.
struct Requirement {
    name: &'static str,
    wanted: &'static str,
    seen: Seen,
    why: &'static str,
}

const fn variable(name: &'static str, wanted: &'static str, why: &'static str) -> Requirement {
    Requirement { name, wanted, seen: Seen::Variable, why }
}

const fn option(name: &'static str, wanted: &'static str, why: &'static str) -> Requirement {
    Requirement { name, wanted, seen: Seen::Option, why }
}

/// Everything that is the same on every server. `server_id` and `init_file` are in [`Wanted`].
const REQUIRED: &[Requirement] = &[
    variable("log_bin", "ON", "the binlog is what is replicated"),
    variable("binlog_format", "ROW", "statements do not give the same rows on every server"),
    variable("binlog_row_image", "FULL", "a row must be undoable from its event alone"),
    variable("binlog_checksum", "CRC32", "events are stored with their checksums"),
    variable("gtid_domain_id", "0", "the cluster has one GTID domain"),
    variable("gtid_strict_mode", "ON", "a sequence number must never be used twice"),
    variable("log_slave_updates", "OFF", "the cluster's log holds them; twice would hang replicas"),
    variable("relay_log_recovery", "ON", "relay logs are not synced; they are fetched again"),
    variable("sync_relay_log", "0", "the cluster's log is durable; the relay log need not be"),
    variable("sync_master_info", "0", "positions come from gtid_slave_pos alone"),
    variable("sync_relay_log_info", "0", "positions come from gtid_slave_pos alone"),
    variable("slave_net_timeout", "10", "a dead feed is noticed in seconds"),
    variable("slave_parallel_threads", "4", "followers must keep up with the leader"),
    variable("slave_parallel_mode", "optimistic", "followers must keep up with the leader"),
    variable("slave_max_allowed_packet", "1073741824", "large rows must reach followers"),
    variable(
        "rpl_semi_sync_master_wait_point",
        "AFTER_SYNC",
        "nobody may see a commit before the cluster has it",
    ),
    variable(
        "rpl_semi_sync_master_timeout",
        "18446744073709551615",
        "a commit must never stop waiting for the cluster",
    ),
    variable(
        "rpl_semi_sync_master_wait_no_slave",
        "ON",
        "a commit must wait also while the node is away",
    ),
    option(ROLE, "SLAVE", "at restart, what was not acknowledged must be cut off, not committed"),
    option(
        "replicate_same_server_id",
        "1",
        "a server must take its own transactions back from the cluster",
    ),
    option("skip_slave_start", "1", "the node decides when the server follows"),
    option("read_only", "1", "nobody writes until the node knows the server's part"),
];

/// What is wanted of one particular server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Its distinct `server_id`.
    pub server_id: u32,
    /// Where the drop-in goes.
    pub drop_in: PathBuf,
    /// Where the statements for `init_file` go.
    pub init_file: PathBuf,
}

impl Wanted {
    /// With the usual paths.
    pub fn new(server_id: u32) -> Self {
        Self { server_id, drop_in: DROP_IN.into(), init_file: INIT_FILE.into() }
    }

    /// The drop-in's text, with the reason beside each line.
    pub fn drop_in_text(&self) -> String {
        let mut text = String::from(
            "# Written by wolfscale: what the cluster needs of this server.\n\
             # Do not set rpl_semi_sync_master_enabled in any option file: recovery of an\n\
             # interrupted DDL would wait for an acknowledgement before anyone can connect.\n\
             [mariadbd]\n",
        );
        for (name, wanted, why) in self.lines() {
            writeln!(text, "# {why}\n{}", line(name, &wanted)).expect("a string takes all");
        }
        text
    }

    fn lines(&self) -> Vec<(&'static str, String, &'static str)> {
        let own = [
            ("server_id", self.server_id.to_string(), "every server needs its own"),
            (
                "init_file",
                self.init_file.display().to_string(),
                "turns semi-synchronous replication on after recovery, before the first client",
            ),
        ];
        own.into_iter()
            .chain(REQUIRED.iter().map(|r| (r.name, r.wanted.to_owned(), r.why)))
            .collect()
    }
}

/// One thing that is set wrong, and the line that sets it right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The option.
    pub name: String,
    /// Its value on the server; `None` if it is not set or unknown.
    pub found: Option<String>,
    /// The line to have in the drop-in (or to remove from an option file, if it starts with `-`).
    pub line: String,
    /// Why.
    pub why: String,
}

impl Finding {
    /// One row of advice: the line, then what is there now and why it must change.
    pub fn advice(&self) -> String {
        let found = self.found.as_deref().unwrap_or("not set");
        format!("{}    # now {found}: {}", self.line, self.why)
    }
}

/// Why a server cannot be used at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// The server cannot be asked right now.
    #[error(transparent)]
    Db(#[from] DbError),
    /// Rejected: this version is not supported.
    #[error(
        "server version {found} is not supported: WolfScale needs MariaDB {}.{} or newer \
         (MySQL is not supported yet)", VERSION_MIN.0, VERSION_MIN.1
    )]
    Version {
        /// `@@version`.
        found: String,
    },
}

/// Refuses what is no MariaDB, or too old a one.
pub fn supported(version: &str) -> Result<(), CheckError> {
    let refused = || CheckError::Version { found: version.to_owned() };
    if !version.to_lowercase().contains("mariadb") {
        return Err(refused());
    }
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let at = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if at < VERSION_MIN { Err(refused()) } else { Ok(()) }
}

/// What is set wrong on the live server; empty if it is fit.
pub async fn check(session: &mut Session, wanted: &Wanted) -> Result<Vec<Finding>, CheckError> {
    supported(&session.version().await?)?;
    let mut names: Vec<&str> =
        REQUIRED.iter().filter(|r| r.seen == Seen::Variable).map(|r| r.name).collect();
    names.extend(["server_id", "init_file", SEMI_SYNC, "pid_file", "datadir"]);
    let live: BTreeMap<_, _> = session.variables(&names).await?.into_iter().collect();
    let options = options_of(&live, wanted).await;
    Ok(findings(&live, &options, wanted))
}

/// The server's options as it read them at its start.
#[derive(Default, Debug)]
struct StartOptions {
    /// Name (with underscores) to value; the last one counts, as for the server.
    values: BTreeMap<String, String>,
    /// The drop-in changed since the server started.
    stale: bool,
    /// Whether they could be read at all: not if the server runs on another machine.
    readable: bool,
}

fn findings(
    live: &BTreeMap<String, String>,
    options: &StartOptions,
    wanted: &Wanted,
) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut expect = |name: &str, at: Option<&String>, want: &str, why: &str| {
        if !at.is_some_and(|at| same(at, want)) {
            let (found_at, line) = (at.cloned(), line(name, want));
            found.push(Finding { name: name.into(), found: found_at, line, why: why.into() });
        }
    };
    for (name, want, why) in wanted.lines() {
        match REQUIRED.iter().find(|r| r.name == name).map_or(Seen::Variable, |r| r.seen) {
            Seen::Variable => expect(name, live.get(name), &want, why),
            Seen::Option if options.readable && !options.stale => {
                expect(name, options.values.get(name), &want, why);
            }
            Seen::Option if options.readable => {
                expect(name, Some(&"set, but not in force until a restart".into()), &want, why);
            }
            Seen::Option => {}
        }
    }
    found.extend(semi_sync(live, options));
    found
}

/// Semi-sync must be on, and only by `init_file`.
fn semi_sync(live: &BTreeMap<String, String>, options: &StartOptions) -> Option<Finding> {
    let in_file = options.values.get(SEMI_SYNC);
    let finding = |found: Option<&String>, line: String, why: &str| Finding {
        name: SEMI_SYNC.into(),
        found: found.cloned(),
        line,
        why: why.into(),
    };
    if in_file.is_some_and(|v| same(v, "ON")) {
        let why = "in an option file it makes recovery of an interrupted DDL hang for ever";
        return Some(finding(in_file, format!("-{SEMI_SYNC} = ON"), why));
    }
    let on = live.get(SEMI_SYNC).is_some_and(|v| same(v, "ON"));
    let why = "put this into the file that init_file names: a commit must wait for the cluster";
    (!on).then(|| finding(live.get(SEMI_SYNC), INIT_SQL.trim().into(), why))
}

/// The findings as a diff of the drop-in as it is and as it must be.
pub fn diff(wanted: &Wanted) -> String {
    let now = std::fs::read_to_string(&wanted.drop_in).unwrap_or_default();
    let then = wanted.drop_in_text();
    let path = wanted.drop_in.display();
    let mut text = format!("--- {path}\n+++ {path}\n");
    let missing_from = |all: &str, line: &str| !all.lines().any(|l| l == line);
    for line in now.lines().filter(|line| missing_from(&then, line)) {
        writeln!(text, "-{line}").expect("a string takes all");
    }
    for line in then.lines() {
        let sign = if missing_from(&now, line) { '+' } else { ' ' };
        writeln!(text, "{sign}{line}").expect("a string takes all");
    }
    text
}

/// Writes the drop-in and the file that `init_file` names; each is replaced whole or not at all, and
/// not touched if it says that already.
/// The server reads them at its next start.
pub fn write(wanted: &Wanted) -> io::Result<()> {
    replace(&wanted.init_file, INIT_SQL)?;
    replace(&wanted.drop_in, &wanted.drop_in_text())
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|now| now == text) {
        // Its time must stay: a drop-in newer than the server's start counts as not in force.
        return Ok(());
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    let fresh = path.with_extension("wolfscale-new");
    let mut file = std::fs::File::create(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    std::fs::File::open(directory)?.sync_all()
}

fn line(name: &str, value: &str) -> String {
    format!("{name} = {value}")
}

/// Whether two spellings of a value mean the same to the server.
fn same(a: &str, b: &str) -> bool {
    let plain = |v: &str| match v.trim().to_lowercase().as_str() {
        "" | "1" | "on" | "true" => "on".to_owned(),
        "0" | "off" | "false" => "off".to_owned(),
        "1g" => "1073741824".to_owned(),
        other => other.to_owned(),
    };
    plain(a) == plain(b)
}

async fn options_of(live: &BTreeMap<String, String>, wanted: &Wanted) -> StartOptions {
    let text = |name: &str| live.get(name).map_or("", String::as_str);
    let Some(run) = ServerRun::of(text("pid_file"), text("datadir")) else {
        return StartOptions::default();
    };
    let Ok(cmdline) = std::fs::read(format!("/proc/{}/cmdline", run.pid)) else {
        return StartOptions::default();
    };
    let arguments: Vec<String> = cmdline
        .split(|byte| *byte == 0)
        .skip(1)
        .filter(|argument| !argument.is_empty())
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect();
    let from_files = print_defaults(&arguments).await;
    let mut values: BTreeMap<_, _> =
        from_files.iter().chain(&arguments).filter_map(|argument| parse_option(argument)).collect();
    // The role counts at a start only. What matters is that of the next one, in the files; a server
    // that could not start as follower was started by us with another one on its command line.
    let in_files = from_files.iter().rev().filter_map(|argument| parse_option(argument));
    values.extend(in_files.filter(|(name, _)| name == ROLE).take(1));
    let changed = std::fs::metadata(&wanted.drop_in).and_then(|m| m.modified()).ok();
    let stale = matches!((changed, run.started()), (Some(at), Some(start)) if at > start);
    StartOptions { values, stale, readable: true }
}

/// What the server read from its option files. An argument such as `--defaults-file` leads.
async fn print_defaults(arguments: &[String]) -> Vec<String> {
    let leading = |a: &&String| a.starts_with("--defaults-") || a.as_str() == "--no-defaults";
    let run = Command::new("my_print_defaults")
        .args(arguments.iter().take_while(leading))
        .args(GROUPS)
        .output();
    match tokio::time::timeout(PRINT_DEFAULTS_TIMEOUT, run).await {
        Ok(Ok(output)) => {
            String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

/// `--name=value` or `--name` (which means on), with the name in underscores.
fn parse_option(argument: &str) -> Option<(String, String)> {
    let option = argument.strip_prefix("--")?;
    let (name, value) = option.split_once('=').unwrap_or((option, "1"));
    let name = name.replace('-', "_").to_lowercase();
    let off = name.strip_prefix("skip_").filter(|plain| *plain != "slave_start");
    Some(match off {
        Some(plain) => (plain.to_owned(), "0".to_owned()),
        None => (name, value.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_recent_mariadb_is_supported() {
        for good in ["10.10.2-MariaDB", "10.11.19-MariaDB-0+deb12u1-log", "11.8.2-MariaDB"] {
            assert_eq!(supported(good), Ok(()), "{good}");
        }
        for bad in ["8.0.36", "9.7.0-log", "10.6.21-MariaDB", "5.5.5"] {
            let words = supported(bad).expect_err("refused").to_string();
            assert!(words.contains(bad) && words.contains("MariaDB 10.10"), "{words}");
        }
    }

    fn fit(wanted: &Wanted) -> (BTreeMap<String, String>, StartOptions) {
        let all = wanted.lines().into_iter().map(|(n, v, _)| (n.to_owned(), v));
        let mut live: BTreeMap<_, _> = all.collect();
        let values = live.clone();
        live.insert(SEMI_SYNC.into(), "ON".into());
        (live, StartOptions { values, stale: false, readable: true })
    }

    #[test]
    fn a_fit_server_has_no_findings_and_each_wrong_line_has_one() {
        let wanted = Wanted::new(3);
        let (live, options) = fit(&wanted);
        assert_eq!(findings(&live, &options, &wanted), []);
        for requirement in REQUIRED {
            let (mut live, mut options) = fit(&wanted);
            live.insert(requirement.name.into(), "wrong".into());
            options.values.insert(requirement.name.into(), "wrong".into());
            let found = findings(&live, &options, &wanted);
            let want = line(requirement.name, requirement.wanted);
            assert_eq!(found.iter().map(|f| f.line.clone()).collect::<Vec<_>>(), [want]);
            assert!(found[0].advice().contains("now wrong"), "{}", found[0].advice());
        }
    }

    #[test]
    fn semi_sync_belongs_into_the_init_file_only() {
        let wanted = Wanted::new(3);
        let (mut live, mut options) = fit(&wanted);
        options.values.insert(SEMI_SYNC.into(), "ON".into());
        assert_eq!(findings(&live, &options, &wanted)[0].line, format!("-{SEMI_SYNC} = ON"));
        options.values.remove(SEMI_SYNC);
        live.insert(SEMI_SYNC.into(), "OFF".into());
        assert_eq!(findings(&live, &options, &wanted)[0].line, INIT_SQL.trim());
        let text = wanted.drop_in_text();
        assert!(!text.lines().any(|line| line.starts_with(SEMI_SYNC)), "{text}");
    }

    #[test]
    fn options_read_as_the_server_reads_them() {
        let parsed = |a: &str| parse_option(a).map(|(n, v)| format!("{n}={v}"));
        assert_eq!(parsed("--init-rpl-role=SLAVE").as_deref(), Some("init_rpl_role=SLAVE"));
        assert_eq!(parsed("--skip-slave-start").as_deref(), Some("skip_slave_start=1"));
        assert_eq!(parsed("--skip-log-bin").as_deref(), Some("log_bin=0"));
        assert_eq!(parsed("positional"), None);
    }
}
