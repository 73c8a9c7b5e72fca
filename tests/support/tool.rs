//! Tools that some tests need.

use std::{env, process::Command};

/// Whether a tool is there, on the search path.
pub fn have(tool: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output();
    found.is_ok_and(|output| output.status.success())
}

/// Whether the test can run: all tools are there. In CI a missing one fails the test; elsewhere it
/// says that it was skipped.
pub fn can_run(tools: &[(&str, &str)]) -> bool {
    let missing: Vec<_> = tools.iter().filter(|(tool, _)| !have(tool)).collect();
    if missing.is_empty() {
        return true;
    }
    let packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    let what = format!("install {}", packages.join(" "));
    assert!(env::var("CI").as_deref() != Ok("true"), "{what}");
    eprintln!("skipped: {what}");
    false
}
