//! What a server itself says about a start that fails.
//!
//! It says that in its error log; before it has opened that, on standard error: that is the output
//! of its start command, or the journal of its unit. Only what came since the start began counts:
//! an older message is no evidence of anything.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use super::control::Control;

/// How much of the end of a log is read.
const TAIL_BYTES_MAX: u64 = 64 << 10;
/// How many of the server's messages are shown.
const LINES_MAX: usize = 3;
/// How many characters of each.
const LINE_CHARS_MAX: usize = 400;
/// How the server marks an error.
const ERROR_MARK: &str = "[ERROR]";
/// It says so after each error that ends it; that is no reason.
const NO_REASON: &str = "[ERROR] Aborting";
/// MariaDB refuses to start as follower with these words: DDL or a table without transactions is
/// in its binlog behind a transaction that was not acknowledged (sql/log.cc, `Recovery_context`).
const REFUSAL: [&str; 2] = ["Cannot truncate the binary log", "unsafe statement is found"];

/// Where to read what is said from now on.
#[derive(Debug)]
pub struct StartLog {
    control: Control,
    files: Vec<(PathBuf, u64)>,
    /// The unit's last start before.
    invocation: Option<String>,
}

impl StartLog {
    /// What `control` starts is listened to from now on, by its error log too, where that is known.
    pub async fn begin(control: &Control, error_log: Option<&Path>) -> Self {
        let output = match control {
            Control::Commands(commands) => commands.output.as_deref(),
            _ => None,
        };
        let paths = [error_log, output].into_iter().flatten();
        let files = paths.map(|path| (path.to_owned(), length(path))).collect();
        Self { control: control.clone(), files, invocation: control.invocation().await }
    }

    /// What was said since. What cannot be read counts as not said.
    pub async fn words(&self) -> Words {
        let files = self.files.clone();
        let read = move || {
            let text = |(path, from): &(PathBuf, u64)| since(path, *from).unwrap_or_default();
            files.iter().map(text).collect::<Vec<_>>().join("\n")
        };
        let mut text = tokio::task::spawn_blocking(read).await.unwrap_or_default();
        let invocation = self.control.invocation().await;
        if let Some(invocation) = invocation.filter(|now| self.invocation.as_ref() != Some(now)) {
            text += &self.control.journal(&invocation).await;
        }
        Words(text)
    }
}

/// What a server said.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Words(String);

impl Words {
    /// Whether it refused to cut off its tail.
    pub fn refuse_to_cut(&self) -> bool {
        self.0.lines().any(|line| REFUSAL.iter().all(|words| line.contains(words)))
    }

    /// Its last errors, or its last words if it called nothing an error; empty if it said nothing.
    pub fn errors(&self) -> String {
        let lines = || self.0.lines().map(str::trim).filter(|line| !line.is_empty());
        let errors = lines().filter_map(|line| line.find(ERROR_MARK).map(|at| &line[at..]));
        let mut shown: Vec<&str> = errors.filter(|error| *error != NO_REASON).collect();
        if shown.is_empty() {
            shown = lines().filter(|line| !line.contains(ERROR_MARK)).collect();
        }
        shown.dedup();
        let from = shown.len().saturating_sub(LINES_MAX);
        let short = |line: &&str| line.chars().take(LINE_CHARS_MAX).collect::<String>();
        shown[from..].iter().map(short).collect::<Vec<_>>().join("; ")
    }
}

/// 0 for a file that is not there yet.
fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}

/// The end of what a file holds behind `from`; all of it, if it is another file by now.
fn since(path: &Path, from: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let end = file.metadata()?.len();
    let from = if end < from { 0 } else { from };
    file.seek(SeekFrom::Start(from.max(end.saturating_sub(TAIL_BYTES_MAX))))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::control::Commands;

    fn words(text: &str) -> Words {
        Words(text.to_owned())
    }

    #[test]
    fn its_errors_are_shown_and_not_that_it_aborts() {
        let said = words(
            "2026-11-25 14:24:40 0 [Note] InnoDB: Using io_uring\n\
             2026-11-25 14:24:40 0 [ERROR] mariadbd: unknown variable 'nonsense=1'\n\
             2026-11-25 14:24:40 0 [ERROR] Aborting\n",
        );
        assert_eq!(said.errors(), "[ERROR] mariadbd: unknown variable 'nonsense=1'");
        let early = words(
            "error: Found option without preceding group in config file: /etc/my.cnf at line: 1\n\
             Fatal error in defaults handling. Program aborted\n",
        );
        assert!(early.errors().contains("without preceding group"), "{}", early.errors());
        assert_eq!(words("\n").errors(), "");
        let many: String = (0..9).map(|n| format!("[ERROR] {n}\n")).collect();
        assert_eq!(words(&many).errors(), "[ERROR] 6; [ERROR] 7; [ERROR] 8");
    }

    #[test]
    fn only_its_refusal_to_cut_is_one() {
        let refused = "2026-11-25 14:24:40 0 [ERROR] Cannot truncate the binary log to \
                       file:./binlog.000001 pos:1024 as unsafe statement is found at \
                       file:./binlog.000001 pos:1300 which is beyond the truncation position;all \
                       transactions in doubt are left intact. ";
        assert!(words(refused).refuse_to_cut());
        for other in [
            "[ERROR] Failed to truncate the binary log to file:./binlog.000001 pos:1024.",
            "[ERROR] mariadbd: unknown variable 'nonsense=1'",
            "[Warning] Unsafe statement written to the binary log",
            "",
        ] {
            assert!(!words(other).refuse_to_cut(), "{other}");
        }
    }

    #[tokio::test]
    async fn what_was_said_before_is_no_evidence() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        let log = file.path();
        std::fs::write(log, "[ERROR] of yesterday\n").expect("writes");
        let control = Control::Commands(Commands::default());
        let listening = StartLog::begin(&control, Some(log)).await;
        assert_eq!(listening.words().await.errors(), "");
        std::fs::write(log, "[ERROR] of yesterday\n[ERROR] of today\n").expect("writes");
        assert_eq!(listening.words().await.errors(), "[ERROR] of today");
        std::fs::write(log, "[ERROR] rotated\n").expect("writes");
        assert_eq!(listening.words().await.errors(), "[ERROR] rotated");
        std::fs::remove_file(log).expect("removes");
        assert_eq!(listening.words().await.errors(), "");
    }
}
