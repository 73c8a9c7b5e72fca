//! `wolfscale start` is a small parent that runs the node as its child and fences for it.
//!
//! ```text
//! parent ──pipe──▶ child (the node)      child dies  ▶ wait lease × 1.1, fence, start it again
//!    │                                   parent dies ▶ the child's pipe ends: it fences and exits
//!    └─ on fence: the local database is killed and started as follower
//! ```
//!
//! A node that is gone cannot cut its leader database off: its clients would read on from a server
//! that no longer leads. The parent therefore does nothing that could fail before it must fence: it
//! opens no store and speaks to no peer.
//!
//! A database that only follows (`read_only`, nothing waits) is left alone: killing it gains nothing.

use std::{
    ffi::OsString,
    io::Read,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::db::{
    control::{Control, ControlError, StartRole},
    mariadb::MariaDb,
};

/// Exit code of a clean stop.
pub const EXIT_OK: u8 = 0;
/// Exit code of a node that failed and will not be started again.
pub const EXIT_FAILED: u8 = 1;
/// Exit code of a child that refuses to run (configuration, wrong cluster): starting it again would
/// not help. `EX_CONFIG` of sysexits(3).
pub const EXIT_REFUSED: u8 = 78;
/// Exit code of a child whose parent died.
pub const EXIT_ORPHANED: u8 = 79;

/// A child that ran this long starts the back-off anew.
const STEADY_AFTER: Duration = Duration::from_secs(60);
/// The first and the longest pause before a child is started again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long a child may take to stop after a signal before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the database may take to answer whether it takes writes.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// What the parent needs to know.
#[derive(Clone, Debug)]
pub struct SupervisorSettings {
    /// The program to run as the node: usually `std::env::current_exe()`.
    pub program: PathBuf,
    /// The leader's lease; a database is fenced once it is over.
    pub lease: Duration,
    /// The local database; `None` on a node without one.
    pub fence: Option<Fence>,
}

/// How to fence the local database.
#[derive(Clone, Debug)]
pub struct Fence {
    /// How it is killed and started.
    pub control: Control,
    /// How it is asked whether it takes writes.
    pub db: MariaDb,
}

impl Fence {
    /// Makes sure that the database serves nobody as leader: kills it and starts it as follower,
    /// unless it follows already.
    pub async fn fence(&self) -> Result<(), ControlError> {
        if self.follows().await {
            info!("the database only follows; it needs no fencing");
            return Ok(());
        }
        warn!("fencing the database: kill it and start it as follower");
        self.control.kill().await?;
        self.control.start(StartRole::Follower).await.map(|_launched| ())
    }

    async fn follows(&self) -> bool {
        let asked = async {
            let mut session = self.db.session().await.ok()?;
            let read_only = session.positions(0).await.ok()?.read_only;
            Some(read_only && session.waiting_commits().await.ok()? == 0)
        };
        matches!(tokio::time::timeout(ASK_TIMEOUT, asked).await, Ok(Some(true)))
    }
}

/// How a child's end is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// It stopped as it should; so does the parent.
    Clean,
    /// It refuses to run; so does the parent, with its code.
    Refused,
    /// It died: fence, then start it again.
    Died,
}

fn end_of(status: ExitStatus) -> End {
    match status.code() {
        Some(code) if code == i32::from(EXIT_OK) => End::Clean,
        Some(code) if code == i32::from(EXIT_REFUSED) => End::Refused,
        _ => End::Died,
    }
}

/// Runs the node as a child with `arguments` until it stops cleanly, refuses to run, or a signal
/// stops it; returns the exit code of the whole.
pub async fn run(settings: SupervisorSettings, arguments: Vec<OsString>) -> u8 {
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            let stop = CancellationToken::new();
            let asked = async {
                tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
                info!("asked to stop");
                stop.cancel();
                std::future::pending::<u8>().await
            };
            tokio::select! {
                code = run_until(&settings, &arguments, &stop) => code,
                code = asked => code,
            }
        }
        (Err(e), _) | (_, Err(e)) => {
            error!(error = %e, "cannot listen for signals");
            EXIT_FAILED
        }
    }
}

/// As [`run`], stopped by a token instead of a signal.
pub async fn run_until(
    settings: &SupervisorSettings,
    arguments: &[OsString],
    stop: &CancellationToken,
) -> u8 {
    let mut pause = BACK_OFF.0;
    loop {
        let started = Instant::now();
        let mut child = match spawn(settings, arguments) {
            Ok(child) => child,
            Err(e) => {
                error!(error = %e, program = %settings.program.display(), "cannot run the node");
                return EXIT_FAILED;
            }
        };
        let status = watch(&mut child, stop).await;
        match status.map_or(End::Died, end_of) {
            End::Clean => return EXIT_OK,
            End::Refused => return EXIT_REFUSED,
            End::Died => error!(status = ?status.map(|s| s.to_string()), "the node died"),
        }
        fence_after_lease(settings).await;
        if stop.is_cancelled() {
            return EXIT_FAILED;
        }
        if started.elapsed() > STEADY_AFTER {
            pause = BACK_OFF.0;
        }
        info!(?pause, "starting the node again");
        tokio::select! {
            () = tokio::time::sleep(pause) => (),
            () = stop.cancelled() => return EXIT_FAILED,
        }
        pause = (pause * 2).min(BACK_OFF.1);
    }
}

fn spawn(settings: &SupervisorSettings, arguments: &[OsString]) -> std::io::Result<Child> {
    // In a group of its own: a terminal's Ctrl-C comes once, through the parent.
    Command::new(&settings.program)
        .args(arguments)
        .stdin(Stdio::piped())
        .process_group(0)
        .kill_on_drop(false)
        .spawn()
}

/// Waits for the child's end; passes a stop on and kills what does not obey.
async fn watch(child: &mut Child, stop: &CancellationToken) -> Option<ExitStatus> {
    // Taking the pipe's end out keeps it open while `wait` runs: wait() closes the child's stdin.
    let _pipe = child.stdin.take();
    tokio::select! {
        status = child.wait() => return status.ok(),
        () = stop.cancelled() => (),
    }
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(Err(e)) = pid.map(|pid| kill_process(pid, Signal::TERM)) {
        warn!(error = %e, "cannot pass the signal on");
    }
    match tokio::time::timeout(STOP_TIMEOUT, child.wait()).await {
        Ok(status) => status.ok(),
        Err(_) => {
            error!(after = ?STOP_TIMEOUT, "the node does not stop; killing it");
            child.kill().await.ok()?;
            None
        }
    }
}

async fn fence_after_lease(settings: &SupervisorSettings) {
    tokio::time::sleep(settings.lease.mul_f64(1.1)).await;
    let Some(fence) = &settings.fence else { return };
    if let Err(e) = fence.fence().await {
        error!(error = %e, "the database is not fenced: stop it by hand if it takes writes");
    }
}

/// In the child: ends when the parent is gone. Without a parent (stdin is no pipe of ours) it ends
/// at once as well, so call it only in a child that [`run`] started.
pub async fn parent_gone() {
    let (gone_tx, gone_rx) = tokio::sync::oneshot::channel();
    // A thread of its own: a blocking read on the runtime's pool would hold up its shutdown.
    let reader = std::thread::Builder::new().name("parent-watch".into()).spawn(move || {
        let mut byte = [0; 1];
        while matches!(std::io::stdin().read(&mut byte), Ok(1)) {}
        let _nobody_waits = gone_tx.send(());
    });
    match reader {
        Ok(_) => gone_rx.await.unwrap_or(()),
        Err(e) => {
            error!(error = %e, "cannot watch the parent");
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn only_a_clean_stop_and_a_refusal_end_the_parent() {
        let exited = |code: i32| ExitStatus::from_raw(code << 8);
        assert_eq!(end_of(exited(0)), End::Clean);
        assert_eq!(end_of(exited(78)), End::Refused);
        assert_eq!(end_of(exited(1)), End::Died);
        assert_eq!(end_of(exited(101)), End::Died, "a panic");
        assert_eq!(end_of(ExitStatus::from_raw(9)), End::Died, "SIGKILL");
    }
}
