//! `wolfscale init` and `check`, as processes.

use std::{
    path::Path,
    process::{Command, Output},
};

fn wolfscale(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wolfscale")).args(arguments).output().expect("runs")
}

fn init(dir: &Path) -> String {
    let path = |name| dir.join(name).to_str().expect("UTF-8").to_owned();
    let (file, secret, data) = (path("wolfscale.toml"), path("secret"), path("data"));
    let made = wolfscale(&[
        "init",
        "--output",
        &file,
        "--make-secret",
        "--secret-file",
        &secret,
        "--data-dir",
        &data,
        "--node-id",
        "n1",
        "--member",
        "n1=h1:8080",
        "--member",
        "n2=h2:8080",
        "--member",
        "n3=h3:8080",
    ]);
    assert!(made.status.success(), "{made:?}");
    file
}

#[test]
fn what_init_writes_check_accepts() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = init(dir.path());
    let checked = wolfscale(&["check", "--config", &file]);
    assert!(checked.status.success(), "{checked:?}");
    assert_eq!(String::from_utf8_lossy(&checked.stdout), "ok: node n1 of 3 members\n");
    let again = wolfscale(&["init", "--output", &file]);
    assert_eq!(again.status.code(), Some(1), "an existing file is not overwritten");
}

#[test]
fn check_refuses_with_code_2_and_says_what_to_write() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = init(dir.path());
    for (set, expected) in [
        ("cluster.heartbeet=1s", "did you mean cluster.heartbeat?"),
        ("cluster.heartbeat=300ms", "write heartbeat = \"125ms\""),
        ("cluster.policy=survivor", "not available in this version"),
    ] {
        let checked = wolfscale(&["check", "--config", &file, "--set", set]);
        assert_eq!(checked.status.code(), Some(2), "{set}");
        let said = String::from_utf8_lossy(&checked.stderr);
        assert!(said.contains(expected), "{set}: {said}");
    }
}
