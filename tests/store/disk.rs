//! A disk that can lose power: ext4 in an image file on a loop device.
//!
//! What the file system has not sent to its device is not in the image. So a copy of the image is
//! what a power cut at that moment leaves behind, for a drive without a volatile cache.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

use crate::tools::run;

/// A mounted image. Unmounted when dropped, the device freed and the files removed with it.
pub struct Disk {
    image: PathBuf,
    mount: PathBuf,
    /// Removed last.
    _directory: tempfile::TempDir,
}

impl Disk {
    /// An empty disk.
    pub fn new(bytes: u64) -> Self {
        let disk = Self::unmounted();
        File::create(&disk.image).and_then(|file| file.set_len(bytes)).expect("has room");
        run("mkfs.ext4", &["-q", "-F", text(&disk.image)]);
        disk.mounted()
    }

    /// Where its files are.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// The disk as it would be found after a power cut now.
    pub fn after_power_cut(&self) -> Disk {
        let disk = Self::unmounted();
        run("cp", &["--sparse=always", text(&self.image), text(&disk.image)]);
        disk.mounted()
    }

    fn unmounted() -> Self {
        let directory = tempfile::Builder::new().prefix("wolfscale-disk-").tempdir();
        let directory = directory.expect("tempdir");
        let mount = directory.path().join("mount");
        std::fs::create_dir(&mount).expect("creates");
        Self { image: directory.path().join("image"), mount, _directory: directory }
    }

    fn mounted(self) -> Self {
        run("mount", &["-o", "loop", text(&self.image), text(&self.mount)]);
        self
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmount = |arguments: &[&str]| {
            let status = Command::new("umount").args(arguments).arg(&self.mount).output();
            status.is_ok_and(|output| output.status.success())
        };
        if !unmount(&[]) && !unmount(&["--lazy"]) {
            eprintln!("{} stays mounted", self.mount.display());
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}
