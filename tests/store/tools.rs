//! Tools of the system that a test needs.

use std::process::Command;

/// A tool that is there if `probe` runs, and the package that has it.
pub struct Tool {
    pub probe: &'static [&'static str],
    pub package: &'static str,
}

pub const STRACE: Tool = Tool { probe: &["strace", "-V"], package: "strace" };
pub const MKFS: Tool = Tool { probe: &["mkfs.ext4", "-V"], package: "e2fsprogs" };
pub const MOUNT: Tool = Tool { probe: &["mount", "--version"], package: "mount" };
pub const LOSETUP: Tool = Tool { probe: &["losetup", "--version"], package: "mount" };

/// Whether a test can run here. Where it cannot, it fails if `CI=true`, else it says that it is
/// skipped.
pub fn have(test: &str, tools: &[Tool], as_root: bool) -> bool {
    let runs = |tool: &Tool| Command::new(tool.probe[0]).args(&tool.probe[1..]).output().is_ok();
    let missing = tools.iter().filter(|tool| !runs(tool));
    let mut needs: Vec<_> = missing
        .map(|tool| format!("{} (apt-get install {})", tool.probe[0], tool.package))
        .collect();
    if as_root && !rustix::process::geteuid().is_root() {
        needs.push("to be run as root, for loop devices".to_owned());
    }
    if needs.is_empty() {
        return true;
    }
    let needs = needs.join(", ");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} needs {needs}");
    eprintln!("SKIPPED {test}: it needs {needs}");
    false
}

/// Runs a command to its end; panics with what it said if it fails.
pub fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("the tool is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}
