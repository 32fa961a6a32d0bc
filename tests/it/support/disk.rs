//! A disk that is full: a small file system, or a file that may not grow.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A small file system of its own, unmounted when it is dropped.
pub(crate) struct Tmpfs(PathBuf);

impl Tmpfs {
    /// One of so many MiB; `None` where we may not mount any.
    pub(crate) fn mount(at: PathBuf, size_mib: u64) -> Option<Self> {
        fs::create_dir_all(&at).unwrap();
        let size = format!("size={size_mib}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tollgate-test"])
            .arg(&at)
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then_some(Self(at))
    }

    /// Leaves no room.
    pub(crate) fn fill(&self) {
        if let Ok(mut file) = fs::File::create(self.filler()) {
            // Ends with the error that is wanted.
            let _ = std::io::copy(
                &mut std::io::Read::take(std::io::repeat(7), 1 << 30),
                &mut file,
            );
        }
    }

    /// Gives the room back.
    pub(crate) fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Whoever had the disk may have unmounted it.
        let _ = Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .stderr(Stdio::null())
            .status();
    }
}

/// The wrapper under which a write beyond [`limit_files`] is an error (EFBIG) and not a signal.
pub(crate) const MAY_BE_LIMITED: &[&str] = &["bash", "-c", "trap '' XFSZ; exec \"$@\"", "bash"];

/// From now on a process writes no file beyond so many bytes (or `unlimited`).
pub(crate) fn limit_files(pid: u32, bytes: &str) {
    let status = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--fsize={bytes}:")])
        .status()
        .unwrap();
    assert!(status.success(), "prlimit --fsize={bytes} (of util-linux)");
}

/// What a ledger on SQLite says of itself: `ok`.
pub(crate) fn integrity(ledger: &Path) -> String {
    let ledger = rusqlite::Connection::open(ledger).unwrap();
    ledger
        .query_row("pragma integrity_check", [], |row| row.get(0))
        .unwrap()
}
