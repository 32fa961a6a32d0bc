//! Where a ledger's file lies, whether it is still the file that was opened there, and who may read it.
//!
//! A file that is renamed, deleted or replaced stays open: what is written to it then is lost for whoever looks at its
//! path. So a server compares what lies at the path with what it opened, and a command that finds no ledger makes none,
//! unless that is its purpose. Nothing here opens the file itself: closing it again would take SQLite's locks away.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::sqlite::Failure;

/// The owner's alone: a ledger tells who used what.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
/// The ledger, and what SQLite keeps beside it as long as it is open.
const FILES: [&str; 3] = ["", "-wal", "-shm"];

/// Which file of this machine it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Inode {
    device: u64,
    number: u64,
}

impl Inode {
    fn at(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self {
            device: found.dev(),
            number: found.ino(),
        })
    }
}

/// The files of a ledger: the ledger itself, then what lies beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Files([Option<Inode>; 3]);

impl Files {
    /// Those that lie at a path now.
    fn at(path: &Path) -> Self {
        // SQLite puts its own files beside what a symbolic link leads to.
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        Self(FILES.map(|suffix| Inode::at(&with_suffix(&real, suffix))))
    }

    /// For the lock's file: who reads it compares it with what it finds itself.
    fn text(self) -> String {
        let one = |file: Option<Inode>| {
            file.map_or_else(
                || "-".to_owned(),
                |it| format!("{}:{}", it.device, it.number),
            )
        };
        format!("{}\n", self.0.map(one).join(" "))
    }
}

/// The place of a ledger that a server has open. Clones share what is known.
#[derive(Clone, Debug)]
pub struct Place {
    path: PathBuf,
    opened: Arc<Mutex<Files>>,
}

impl Place {
    /// Of a ledger that has just been opened, and written to: so all its files are there.
    pub(super) fn of(path: PathBuf) -> Self {
        let opened = Arc::new(Mutex::new(Files::at(&path)));
        Self { path, opened }
    }

    /// The files that were opened, which still lie there.
    ///
    /// # Errors
    /// They do not: what happened, for the operator.
    pub(crate) fn look(&self) -> Result<Files, Failure> {
        let (opened, now) = (*self.opened(), Files::at(&self.path));
        if opened == now {
            return Ok(opened);
        }
        let path = self.path.display();
        Err(Failure::new(match (opened.0, now.0) {
            (_, [None, ..]) => {
                format!(
                    "the ledger at {path} was moved or deleted: put it back, with its -wal and -shm"
                )
            }
            ([was, ..], [is, ..]) if was != is => {
                format!(
                    "another file lies at {path} now: put the ledger back, or restart to use what lies there"
                )
            }
            _ => format!(
                "the -wal or -shm beside {path} was moved or deleted: put it back, or restart"
            ),
        }))
    }

    /// Whether the ledger itself is where it was, while something beside it is gone and nobody has made it anew.
    pub(super) fn lacks_only_what_lies_beside(&self) -> bool {
        let ([was, ..], [is, wal, shm]) = (self.opened().0, Files::at(&self.path).0);
        was == is && (wal.is_none() || shm.is_none())
    }

    /// Whether none of what lies there now is a file that this process has open: SQLite mixes two that share any.
    pub(super) fn has_other_files(&self) -> bool {
        let (opened, now) = (self.opened().0, Files::at(&self.path).0);
        now[0].is_some()
            && opened
                .iter()
                .zip(now)
                .all(|(was, is)| is.is_none() || *was != is)
    }

    /// Takes what lies there now for the ledger.
    pub(super) fn opened_again(&self) {
        *self.opened() = Files::at(&self.path);
    }

    fn opened(&self) -> std::sync::MutexGuard<'_, Files> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether something was ever written at this path.
pub(super) fn is_there(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.len() > 0)
}

/// Sees to it that there is a ledger, for a command that must not make one.
pub(super) fn require(path: &Path) -> Result<(), Failure> {
    if is_there(path) {
        return Ok(());
    }
    Err(Failure::new(format!(
        "there is no ledger at {} yet: `tollgate serve` makes it, or set [store] url",
        absolute(path).display()
    )))
}

/// Makes an empty file that only its owner may read, where there is none. Whether the ledger will be new.
pub(super) fn make(path: &Path) -> Result<bool, Failure> {
    if is_there(path) {
        return Ok(false);
    }
    // SQLite deletes the -wal of an empty file, and with it what a ledger that was moved away has not taken in yet.
    let wal = with_suffix(path, "-wal");
    if is_there(&wal) {
        return Err(Failure::new(format!(
            "there is no ledger at {}, but its {} is still there: put the ledger back, or move that file away",
            path.display(),
            wal.display()
        )));
    }
    make_folder(path)?;
    let made = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(path);
    made.map_err(|error| cannot("open the ledger", path, &error))?;
    Ok(true)
}

/// Makes the folder of a file.
pub(super) fn make_folder(path: &Path) -> Result<(), Failure> {
    let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    else {
        return Ok(());
    };
    let made = DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(folder);
    made.map_err(|error| cannot("make the folder", folder, &error))
}

/// Takes from everybody but the owner what older versions left open to them. What SQLite makes beside a ledger gets the
/// ledger's own mode.
pub(super) fn keep_private(path: &Path) {
    for suffix in FILES.into_iter().chain([".lock"]) {
        let file = with_suffix(path, suffix);
        let Ok(found) = fs::metadata(&file) else {
            continue;
        };
        let open_to_others = found.mode() & 0o077;
        if !found.is_file() || open_to_others == 0 {
            continue;
        }
        let (path, mode) = (file.display(), format!("{:03o}", found.mode() & 0o777));
        match fs::set_permissions(&file, Permissions::from_mode(FILE_MODE)) {
            Ok(()) => {
                tracing::warn!(%path, mode, "others could read this file: now only its owner can");
            }
            Err(error) => {
                tracing::warn!(%path, mode, %error, "others can read this file: chmod 600 it");
            }
        }
    }
}

/// Opens a file for its owner alone, for writing from the beginning.
///
/// # Errors
/// It cannot be opened.
pub fn private_file(path: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(FILE_MODE)
        .open(path)?;
    if file.metadata()?.is_file() {
        file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    }
    Ok(file)
}

/// The lock of a ledger: one server a file. It goes with the process, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes it.
    pub(super) fn take(ledger: &Path) -> Result<Self, Failure> {
        make_folder(ledger)?;
        let path = with_suffix(ledger, ".lock");
        let cannot = |error: &dyn std::fmt::Display| {
            Failure::new(format!("cannot write {}: {error}", path.display()))
        };
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .append(true)
            .create(true)
            .mode(FILE_MODE)
            .open(&path);
        let file = file.map_err(|error| cannot(&error))?;
        file.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => Failure::new(format!(
                "another tollgate serves from {}: stop it, or give this one its own [store] url",
                ledger.display()
            )),
            fs::TryLockError::Error(error) => cannot(&error),
        })?;
        file.set_len(0).map_err(|error| cannot(&error))?;
        Ok(Self { file, path })
    }

    /// Notes which files are served from, for [`require_served`].
    pub(super) fn note(&mut self, place: &Place) -> Result<(), Failure> {
        let text = place.opened().text();
        let written = self
            .file
            .set_len(0)
            .and_then(|()| self.file.write_all(text.as_bytes()));
        written.map_err(|error| cannot("write", &self.path, &error))
    }

    /// Whether it is still what others look at.
    pub(super) fn is_in_place(&self) -> bool {
        let ours = self.file.metadata().ok().map(|found| Inode {
            device: found.dev(),
            number: found.ino(),
        });
        ours.is_some() && ours == Inode::at(&self.path)
    }
}

/// Refuses to change a ledger in whose place a server has another one open: who pauses means the app that runs.
pub(super) fn require_served(ledger: &Path) -> Result<(), Failure> {
    let path = with_suffix(ledger, ".lock");
    let Ok(mut file) = OpenOptions::new().read(true).open(&path) else {
        return Ok(());
    };
    let mut noted = String::new();
    let is_noted = file
        .rewind()
        .and_then(|()| file.read_to_string(&mut noted))
        .is_ok()
        && !noted.is_empty();
    if !is_noted || noted == Files::at(ledger).text() {
        return Ok(());
    }
    // What a server that was killed has noted says nothing.
    if !matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock)) {
        return Ok(());
    }
    Err(Failure::new(format!(
        "a tollgate serves from another file than the one that lies at {} now: put the ledger back, or restart the server",
        absolute(ledger).display()
    )))
}

/// The path as it can be told to somebody who is elsewhere.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.to_path_buf().into_os_string();
    name.push(suffix);
    PathBuf::from(name)
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot {what} {}: {error}", path.display()))
}
