//! Ports for servers of the tests, held for as long as they are needed.

use std::{
    fs::{self, File},
    io::ErrorKind,
    net::TcpListener,
    path::{Path, PathBuf},
};

/// Where tests that run side by side tell each other what they use.
const LOCKS: &str = "/tmp/wolfscale-ports";
/// Below the kernel's range of ephemeral ports, so that no client's socket takes them.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;
const ATTEMPTS_MAX: usize = 1000;

/// A port of 127.0.0.1 that no other test uses while this lives, even across restarts of the
/// server on it.
#[derive(Debug)]
pub struct Port {
    number: u16,
    lock: PathBuf,
}

impl Port {
    /// A free one.
    pub fn free() -> Self {
        fs::create_dir_all(LOCKS).expect("create the directory of port locks");
        (0..ATTEMPTS_MAX)
            .find_map(|_| Self::take(FIRST + rand::random_range(0..COUNT)))
            .expect("no free port in 1000 attempts")
    }

    /// The number.
    pub fn number(&self) -> u16 {
        self.number
    }

    fn take(number: u16) -> Option<Self> {
        let lock = Path::new(LOCKS).join(number.to_string());
        forget_dead(&lock);
        match File::create_new(&lock) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return None,
            Err(error) => panic!("lock port {number}: {error}"),
        }
        fs::write(&lock, std::process::id().to_string()).expect("write the port's lock");
        let port = Self { number, lock };
        TcpListener::bind(("127.0.0.1", number)).is_ok().then_some(port)
    }
}

/// Removes the lock of a process that is gone.
fn forget_dead(lock: &Path) {
    let Ok(owner) = fs::read_to_string(lock) else { return };
    let dead =
        owner.trim().parse::<u32>().is_ok_and(|id| !Path::new(&format!("/proc/{id}")).exists());
    if dead {
        let _ = fs::remove_file(lock);
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.lock);
    }
}
