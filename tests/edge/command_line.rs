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
        ("cluster.lease=600ms", "600ms"),
        ("node.id=n9", "n9"),
        ("listen.http=0.0.0.0:8081", "http.allow_unauthenticated"),
    ] {
        let checked = wolfscale(&["check", "--config", &file, "--set", set]);
        assert_eq!(checked.status.code(), Some(2), "{set}");
        let said = String::from_utf8_lossy(&checked.stderr);
        assert!(said.contains(expected), "{set}: {said}");
    }
}

#[test]
fn a_secret_that_others_can_read_is_refused_and_not_shown() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = init(dir.path());
    let secret = dir.path().join("secret");
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    let held = std::fs::read_to_string(&secret).expect("the secret was made");
    let made = std::fs::metadata(&secret).expect("is there").permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&made) & 0o777, 0o600);
    std::fs::set_permissions(&secret, mode(0o644)).expect("chmod");
    // Of a start the service manager must know that trying again is of no use.
    for (command, code) in [("check", 2), ("start", 78)] {
        let refused = wolfscale(&[command, "--config", &file]);
        assert_eq!(refused.status.code(), Some(code), "{command}");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(said.contains(&format!("chmod 600 {}", secret.display())), "{said}");
        assert!(!said.contains(held.trim()), "secrets are not shown");
    }
}
