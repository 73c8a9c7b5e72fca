//! A node that dies leaves no leader database behind.

use std::{path::Path, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wolfscale::supervisor::{EXIT_OK, EXIT_REFUSED, Fence, SupervisorSettings, run_until};

use crate::controlled::{Controlled, eventually};

/// A supervisor whose node is a shell script; stopped when dropped.
struct Supervised {
    stop: CancellationToken,
    task: JoinHandle<u8>,
    dir: tempfile::TempDir,
}

impl Supervised {
    /// The script finds its directory in `$0`.
    fn spawn(script: &str, server: Option<&Controlled>) -> Self {
        let dir = tempfile::TempDir::new().expect("temporary directory");
        let settings = SupervisorSettings {
            program: "/bin/sh".into(),
            lease: Duration::from_millis(400),
            fence: server.map(|s| Fence { control: s.control(), db: s.db() }),
        };
        let stop = CancellationToken::new();
        let arguments = vec!["-c".into(), script.into(), dir.path().into()];
        let stopped = stop.clone();
        let task = tokio::spawn(async move { run_until(&settings, &arguments, &stopped).await });
        Self { stop, task, dir }
    }

    async fn nth_pid(&self, nth: usize) -> i32 {
        let file = self.dir.path().join("pids");
        eventually("the node is started", async || pids(&file).len() >= nth).await;
        pids(&file)[nth - 1]
    }

    async fn stop(self) -> u8 {
        self.stop.cancel();
        self.task.await.expect("the supervisor ends")
    }
}

fn pids(file: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a process ID");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
}

/// Notes its process ID, and ends cleanly on SIGTERM or when its parent is gone (stdin ends).
const NODE: &str = "echo $$ >> $0/pids; trap 'exit 0' TERM; read line; exit 0";

#[tokio::test]
async fn a_dead_node_has_its_leader_database_killed_and_is_started_again() {
    let server = Controlled::configured(1);
    server.start().await;
    server.aside(&["SET GLOBAL read_only=0"]).await;
    let (before, mut reader) = (server.pid(), server.client().await);

    let node = Supervised::spawn(NODE, Some(&server));
    kill(node.nth_pid(1).await);
    node.nth_pid(2).await;
    server.answers().await;
    assert_ne!(server.pid(), before, "the leader's database was killed");
    assert_eq!(server.value("SELECT @@read_only").await, "1", "and came back as follower");
    let read: Result<Vec<u8>, _> =
        mysql_async::prelude::Queryable::query(&mut reader, "SELECT 1").await;
    assert!(read.is_err(), "its clients were cut off");

    let follower = server.pid();
    kill(node.nth_pid(2).await);
    node.nth_pid(3).await;
    assert_eq!(server.pid(), follower, "a database that only follows is left alone");
    assert_eq!(node.stop().await, EXIT_OK, "a stop is passed on, and is clean");
}

#[tokio::test]
async fn a_node_that_refuses_to_run_is_not_started_again() {
    let node = Supervised::spawn("echo $$ >> $0/pids; exit 78", None);
    eventually("the supervisor ends", async || node.task.is_finished()).await;
    assert_eq!(pids(&node.dir.path().join("pids")).len(), 1);
    assert_eq!(node.stop().await, EXIT_REFUSED);
}
