//! How the local database is started, stopped and killed.
//!
//! Rule: a leader with waiting commits is never stopped by SIGTERM, which would commit what the
//! cluster does not have; it is killed, and cuts that off when it starts as follower. So `stop` is
//! for a server of which the caller knows that nothing waits.

use std::{
    fs::OpenOptions,
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tracing::info;

/// How often a dying process is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long a killed server may take to vanish.
pub const KILL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a graceful stop may take.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(120);
/// How long systemctl may take to answer anything but start and stop.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// How many lines of the journal of one start are read.
const JOURNAL_LINES_MAX: u32 = 500;
/// What `/proc/PID/comm` of a database server starts with.
const SERVER_NAMES: [&str; 2] = ["mariadbd", "mysqld"];

/// How the node controls its database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Control {
    /// By systemd; the unit's option files hold `init_rpl_role=SLAVE`.
    Systemd {
        /// Its unit.
        unit: String,
    },
    /// By commands, run without a shell.
    Commands(Commands),
    /// Not at all: someone else does.
    None,
}

/// Argument lists, each run without a shell in the node's environment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Commands {
    /// Starts the server as follower. It may stay (the server itself) or end (a starter).
    pub start: Vec<String>,
    /// Starts it with `init_rpl_role=MASTER`; may be empty, if there is no such command.
    pub start_default_role: Vec<String>,
    /// Stops it gracefully; may be empty: then SIGTERM by `pid_file`.
    pub stop: Vec<String>,
    /// Kills it (-9); may be empty: then SIGKILL by `pid_file`.
    pub kill: Vec<String>,
    /// Where the server writes its process ID.
    pub pid_file: Option<PathBuf>,
    /// Where the commands' output is appended; `None` discards it. (Never a pipe of the node: a
    /// server must not die of a node that is gone.)
    pub output: Option<PathBuf>,
}

/// What a starting server does with the unacknowledged tail of its binlog.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartRole {
    /// Cuts it off (`init_rpl_role=SLAVE`): how every start is tried first.
    Follower,
    /// Commits it: only after the server itself refused to cut it off ("unsafe statement").
    Default,
}

/// Why the database could not be controlled.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Rejected: nothing was done, as there is no way to do it.
    #[error("{what}: [db] control gives no way to do that")]
    NoWay {
        /// What was asked.
        what: &'static str,
    },
    /// Rejected: the command could not be run.
    #[error("{what}: run {program}: {source}")]
    Run {
        /// What was asked.
        what: &'static str,
        /// The command.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// The command ended with a failure.
    #[error("{what}: {program} ended with {status}")]
    Failed {
        /// What was asked.
        what: &'static str,
        /// The command.
        program: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// Indeterminate: not done in time.
    #[error("{what}: not done after {after:?}")]
    Timeout {
        /// What was asked.
        what: &'static str,
        /// The limit.
        after: Duration,
    },
}

/// A start that is under way: the server answers soon, or the command fails.
#[derive(Debug)]
pub struct Launch {
    program: String,
    child: Child,
}

impl Launch {
    /// The failure of the start command, if it has ended with one. One that stays, or ended well,
    /// has not failed; whether the server answers is asked of the server.
    pub fn failure(&mut self) -> Option<ControlError> {
        let status = self.child.try_wait().ok().flatten().filter(|status| !status.success())?;
        Some(ControlError::Failed { what: "start database", program: self.program.clone(), status })
    }
}

impl Control {
    /// Whether it can start a server and kill it, which fencing needs.
    pub fn can_fence(&self) -> bool {
        match self {
            Self::Systemd { .. } => true,
            Self::Commands(c) => {
                !c.start.is_empty() && (!c.kill.is_empty() || c.pid_file.is_some())
            }
            Self::None => false,
        }
    }

    /// Starts the server and returns at once.
    pub async fn start(&self, role: StartRole) -> Result<Launch, ControlError> {
        let what = "start database";
        info!(?role, "starting the database");
        match self {
            Self::Systemd { unit } => {
                // Debian's unit passes $MYSQLD_OPTS to the server; its command line wins.
                let options = match role {
                    StartRole::Follower => ["unset-environment", "MYSQLD_OPTS"],
                    StartRole::Default => ["set-environment", "MYSQLD_OPTS=--init-rpl-role=MASTER"],
                };
                finish(what, &systemctl(&options), None, ASK_TIMEOUT).await?;
                launch(what, &systemctl(&["start", unit]), None)
            }
            Self::Commands(commands) => {
                let argv = match role {
                    StartRole::Follower => &commands.start,
                    StartRole::Default => &commands.start_default_role,
                };
                launch(what, argv, commands.output.as_deref())
            }
            Self::None => Err(ControlError::NoWay { what }),
        }
    }

    /// Stops it gracefully and waits for its end. Never for a server in which a commit waits.
    pub async fn stop(&self) -> Result<(), ControlError> {
        let what = "stop database";
        info!("stopping the database");
        match self {
            Self::Systemd { unit } => {
                finish(what, &systemctl(&["stop", unit]), None, STOP_TIMEOUT).await
            }
            Self::Commands(c) if c.stop.is_empty() => {
                self.signal_pid(what, Signal::TERM)?;
                self.ended(what, STOP_TIMEOUT).await
            }
            Self::Commands(c) => {
                finish(what, &c.stop, c.output.as_deref(), STOP_TIMEOUT).await?;
                self.ended(what, STOP_TIMEOUT).await
            }
            Self::None => Err(ControlError::NoWay { what }),
        }
    }

    /// Kills it (SIGKILL) and waits for its end. One that does not run is fine.
    pub async fn kill(&self) -> Result<(), ControlError> {
        let what = "kill database";
        info!("killing the database");
        match self {
            Self::Systemd { unit } => {
                let kill = ["kill", "--kill-whom=main", "--signal=SIGKILL", unit];
                if self.is_running().await != Some(false) {
                    finish(what, &systemctl(&kill), None, ASK_TIMEOUT).await?;
                }
            }
            Self::Commands(c) if c.kill.is_empty() => self.signal_pid(what, Signal::KILL)?,
            Self::Commands(c) => finish(what, &c.kill, c.output.as_deref(), KILL_TIMEOUT).await?,
            Self::None => return Err(ControlError::NoWay { what }),
        }
        self.ended(what, KILL_TIMEOUT).await
    }

    /// Whether the server's process lives; `None` if there is no way to know.
    pub async fn is_running(&self) -> Option<bool> {
        match self {
            Self::Systemd { .. } => Some(self.pid().await?.is_some_and(is_server)),
            Self::Commands(c) => c.pid_file.as_deref().map(|file| server_pid(file).is_some()),
            Self::None => None,
        }
    }

    /// Which start of its unit was the last; `None` without a unit, or if it never started.
    pub(super) async fn invocation(&self) -> Option<String> {
        let Self::Systemd { unit } = self else { return None };
        let ask = ["show", "--property=InvocationID", "--value", unit];
        let id = output("systemctl", &ask).await?.trim().to_owned();
        Some(id).filter(|id| !id.is_empty())
    }

    /// What the journal holds of one start of the unit; empty if it cannot be read.
    pub(super) async fn journal(&self, invocation: &str) -> String {
        let of_it = format!("_SYSTEMD_INVOCATION_ID={invocation}");
        let lines = format!("--lines={JOURNAL_LINES_MAX}");
        let ask = ["--no-pager", "--output=cat", &lines, &of_it];
        output("journalctl", &ask).await.unwrap_or_default()
    }

    /// The main process of the unit; `Some(None)` if it has none.
    async fn pid(&self) -> Option<Option<Pid>> {
        let Self::Systemd { unit } = self else { return None };
        let ask = ["show", "--property=MainPID", "--value", unit];
        Some(parse_pid(&output("systemctl", &ask).await?))
    }

    fn signal_pid(&self, what: &'static str, signal: Signal) -> Result<(), ControlError> {
        let Self::Commands(Commands { pid_file: Some(file), .. }) = self else {
            return Err(ControlError::NoWay { what });
        };
        let Some(pid) = server_pid(file) else { return Ok(()) };
        match kill_process(pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => {
                let program = format!("kill {}", pid.as_raw_nonzero());
                Err(ControlError::Run { what, program, source: e.into() })
            }
        }
    }

    async fn ended(&self, what: &'static str, after: Duration) -> Result<(), ControlError> {
        let gone = async {
            while self.is_running().await == Some(true) {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        let waited = tokio::time::timeout(after, gone).await;
        waited.map_err(|_| ControlError::Timeout { what, after })
    }
}

/// What a program that only tells says; `None` if it cannot be asked.
async fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = tokio::time::timeout(ASK_TIMEOUT, output).await.ok()?.ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn systemctl(arguments: &[&str]) -> Vec<String> {
    ["systemctl"].iter().chain(arguments).map(|a| (*a).to_owned()).collect()
}

/// Starts a command in a process group of its own, so that no signal to the node reaches it.
fn launch(
    what: &'static str,
    argv: &[String],
    output: Option<&Path>,
) -> Result<Launch, ControlError> {
    let [program, arguments @ ..] = argv else { return Err(ControlError::NoWay { what }) };
    let failed = |source| ControlError::Run { what, program: program.clone(), source };
    let sink = || match output {
        Some(path) => OpenOptions::new().create(true).append(true).open(path).map(Stdio::from),
        None => Ok(Stdio::null()),
    };
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(sink().map_err(failed)?)
        .stderr(sink().map_err(failed)?)
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    Ok(Launch { program: program.clone(), child })
}

async fn finish(
    what: &'static str,
    argv: &[String],
    output: Option<&Path>,
    after: Duration,
) -> Result<(), ControlError> {
    let mut launched = launch(what, argv, output)?;
    let program = launched.program.clone();
    let status = match tokio::time::timeout(after, launched.child.wait()).await {
        Ok(Ok(status)) => status,
        Ok(Err(source)) => return Err(ControlError::Run { what, program, source }),
        Err(_) => return Err(ControlError::Timeout { what, after }),
    };
    if status.success() { Ok(()) } else { Err(ControlError::Failed { what, program, status }) }
}

/// The live server that a PID file names: a stale file may name anybody.
fn server_pid(file: &Path) -> Option<Pid> {
    let pid = parse_pid(&std::fs::read_to_string(file).ok()?)?;
    is_server(pid).then_some(pid)
}

fn parse_pid(text: &str) -> Option<Pid> {
    Pid::from_raw(text.trim().parse().ok()?)
}

fn is_server(pid: Pid) -> bool {
    let process = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
    let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
    // A killed process whose parent has not asked yet is a zombie: it holds nothing any more.
    let stat = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
    let zombie = stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'));
    !zombie && SERVER_NAMES.iter().any(|server| name.starts_with(server))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    #[tokio::test]
    async fn a_start_command_that_fails_says_so_and_one_that_ends_well_does_not() {
        for (program, fails) in [("false", true), ("true", false)] {
            let control =
                Control::Commands(Commands { start: argv(&[program]), ..Default::default() });
            let mut launched = control.start(StartRole::Follower).await.expect("runs");
            launched.child.wait().await.expect("ends");
            assert_eq!(launched.failure().is_some(), fails, "{program}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_done_is_said() {
        let none = Control::None;
        assert!(matches!(none.kill().await, Err(ControlError::NoWay { .. })));
        assert!(!none.can_fence());
        let start_only = Control::Commands(Commands { start: argv(&["x"]), ..Default::default() });
        assert!(matches!(
            start_only.start(StartRole::Default).await,
            Err(ControlError::NoWay { .. })
        ));
        assert!(!start_only.can_fence());
    }

    #[tokio::test]
    async fn a_stale_pid_file_names_nobody() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(file.path(), std::process::id().to_string()).expect("writes");
        let pid_file = Some(file.path().to_owned());
        let control = Control::Commands(Commands { pid_file, ..Default::default() });
        assert_eq!(control.is_running().await, Some(false), "this test is no database");
        control.kill().await.expect("nobody to kill, and so not this test");
    }
}
