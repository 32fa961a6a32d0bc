//! What some tests need besides Rust: where it is installed, and what to do where it is not.
//!
//! A test that needs one begins with `if !installed(&[Tool::Postgres]) { return; }`. Without the tool it says that it was
//! not checked, and passes. `scripts/test.sh` installs them all.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs, thread};

/// A program or library that a test uses.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Tool {
    /// A Postgres server of the test's own.
    Postgres,
    /// A transaction pooler before it.
    PgBouncer,
    /// What moves the product's clock.
    Faketime,
    /// What makes certificates.
    OpenSsl,
}

impl Tool {
    /// What it is called, for people.
    const fn name(self) -> &'static str {
        match self {
            Self::Postgres => "PostgreSQL",
            Self::PgBouncer => "PgBouncer",
            Self::Faketime => "libfaketime",
            Self::OpenSsl => "openssl",
        }
    }

    /// Where it is: the folder of Postgres's programs (of the newest version), or the one file of another tool.
    pub(crate) fn find(self) -> Option<PathBuf> {
        match self {
            Self::Postgres => postgres(),
            Self::PgBouncer => program("pgbouncer"),
            Self::Faketime => faketime(),
            Self::OpenSsl => program("openssl"),
        }
    }

    /// The same, for a test that has looked whether it is there.
    pub(crate) fn expect(self) -> PathBuf {
        self.find().unwrap_or_else(|| {
            panic!(
                "{} is not installed: scripts/test.sh installs it",
                self.name()
            )
        })
    }
}

/// Whether all of these are installed. Where one is not, it says so for the test that asks, which then ends.
pub(crate) fn installed(tools: &[Tool]) -> bool {
    let missing = tools.iter().find(|tool| tool.find().is_none());
    if let Some(tool) = missing {
        not_checked(&format!(
            "{} is not installed (scripts/test.sh installs it)",
            tool.name()
        ));
    }
    missing.is_none()
}

/// Says that this test, or a part of it, was not checked, and why. It is written past the harness, which shows what a test
/// prints only when the test fails.
pub(crate) fn not_checked(why: &str) {
    let thread = thread::current();
    let line = format!(
        "NOT CHECKED: {}: {why}\n",
        thread.name().unwrap_or("a test")
    );
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

fn postgres() -> Option<PathBuf> {
    let installed = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut versions: Vec<(u32, PathBuf)> = installed
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                entry.path().join("bin"),
            ))
        })
        .collect();
    versions.sort();
    let told = Command::new("pg_config").arg("--bindir").output().ok();
    let told = told.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    let mut places = versions.into_iter().rev().map(|(_, path)| path).chain(told);
    places.find(|path| path.join("initdb").exists())
}

fn faketime() -> Option<PathBuf> {
    let below = fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten()
        .map(|folder| folder.path());
    let mut folders = below.chain(["/usr/lib".into(), "/usr/lib64".into()]);
    folders.find_map(|folder| {
        Some(folder.join("faketime/libfaketimeMT.so.1")).filter(|library| library.exists())
    })
}

/// A program on the path, or where administrators' programs are.
fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/bin".into()]);
    folders.find_map(|folder| Some(folder.join(name)).filter(|program| program.is_file()))
}
