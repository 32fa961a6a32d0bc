//! A copy of a ledger that is a file, made while it is served from, and put in place of it while it is not.
//!
//! A copy is a database of its own, as the ledger was at one moment: SQLite's `VACUUM INTO` reads in one transaction and
//! keeps no writer waiting. It becomes visible under its name only whole, checked and flushed, and never in place of a
//! file that is there. What stands in the way of a restore is kept beside it under another name.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use uuid::Uuid;

use crate::ledger::file::{Lock, keep_private, make_folder};
use crate::ledger::sqlite::{Failure, SCHEMA_VERSION, connect};

/// What a ledger consists of, told after every copy so that two can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Rows of requests.
    pub requests: i64,
    /// Those of them that had not ended.
    pub open: i64,
    /// Users who have a row.
    pub users: i64,
    /// What the ended ones cost.
    pub cost_micros: i64,
    /// What they used.
    pub tokens: i64,
    /// What is held for the open ones.
    pub held_micros: i64,
}

const CONTENTS: &str = "
    select count(*), coalesce(sum(state = 'held'), 0), count(distinct user_id), coalesce(sum(cost_micros), 0),
           coalesce(sum(input_tokens + output_tokens), 0),
           coalesce(sum(case when state = 'held' then held_micros else 0 end), 0)
    from requests";

/// Users' windows that say something else than the rows they were made from. (Of what is used, rows may have been forgotten
/// since; of what is held, none is.)
const ODD_WINDOWS: &str = "
    select count(*) from (
        select 1 from windows as w
        left join requests as r on r.user_id = w.user_id and r.started_at >= w.starts_at and r.started_at < w.ends_at
        where w.user_id <> 'app'
        group by w.user_id, w.ends_at, w.per, w.starts_at
        having w.requests_held <> coalesce(sum(r.state = 'held'), 0)
            or w.micros_held <> coalesce(sum(iif(r.state = 'held', r.held_micros, 0)), 0)
            or w.requests_used < coalesce(sum(r.state in ('settled', 'lost')), 0)
            or w.tokens_used < coalesce(sum(r.input_tokens + r.output_tokens), 0)
            or w.micros_used < coalesce(sum(r.cost_micros), 0))";

/// What SQLite keeps beside a file.
const BESIDE: [&str; 2] = ["-wal", "-shm"];

/// Copies the ledger at `ledger`, which may be served from, to `to`, where no file may be.
///
/// # Errors
/// There is no ledger, or there is a file at `to`, or the copy cannot be written, or it is not sound; then nothing is left.
pub fn back_up(ledger: &Path, to: &Path) -> Result<Contents, Failure> {
    if fs::symlink_metadata(to).is_ok() {
        return Err(Failure::new(format!("{} is there already", to.display())));
    }
    let (part, contents) = copied(ledger, to)?;
    // Fails where somebody made a file of this name meanwhile.
    renameat_with(CWD, &part.0, CWD, to, RenameFlags::NOREPLACE)
        .map_err(|error| cannot("name", to, &error.into()))?;
    flush_folder(to)?;
    Ok(contents)
}

/// The same to a stream: out of a container, which has no other way. Meanwhile the copy lies beside the ledger.
///
/// # Errors
/// As [`back_up`]; what was written by then is no whole copy, and [`restore`] would say so.
pub fn back_up_to_stream(ledger: &Path, to: &mut dyn Write) -> Result<Contents, Failure> {
    let (part, contents) = copied(ledger, ledger)?;
    let mut from = File::open(&part.0).map_err(|error| cannot("read", &part.0, &error))?;
    let written = std::io::copy(&mut from, to).and_then(|_| to.flush());
    written.map_err(|error| Failure::new(format!("cannot write the copy: {error}")))?;
    Ok(contents)
}

/// A sound copy, in the folder of `beside`.
fn copied(ledger: &Path, beside: &Path) -> Result<(Part, Contents), Failure> {
    if !ledger.exists() {
        return Err(Failure::new(format!(
            "there is no ledger at {}",
            ledger.display()
        )));
    }
    let part = Part::beside(beside)?;
    let db = connect(ledger, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let name = part
        .0
        .to_str()
        .ok_or_else(|| Failure::new("the path of the copy is not UTF-8".to_owned()))?;
    db.execute("vacuum main into ?1", [name])?;
    let contents = part.sound()?;
    Ok((part, contents))
}

/// Where a ledger that was in the way is now, if there was one, and what was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The old ledger.
    pub kept: Option<PathBuf>,
    /// The new one.
    pub contents: Contents,
}

/// Puts a copy in the place of the ledger, which nobody may serve from. A ledger with rows stays, unless `replace`:
/// then it is kept under another name.
///
/// # Errors
/// Somebody serves from it, or it has rows, or the copy is not sound; then the ledger is as before.
pub fn restore(copy: &Path, ledger: &Path, replace: bool) -> Result<Restored, Failure> {
    if !copy.is_file() {
        return Err(Failure::new(format!("there is no file {}", copy.display())));
    }
    let mut from = File::open(copy).map_err(|error| cannot("read", copy, &error))?;
    restore_from_stream(&mut from, ledger, replace)
}

/// The same from a stream, which ends with the copy.
///
/// # Errors
/// As [`restore`].
pub fn restore_from_stream(
    from: &mut dyn Read,
    ledger: &Path,
    replace: bool,
) -> Result<Restored, Failure> {
    let _alone = Lock::take(ledger)?;
    if !replace && ledger.exists() {
        let there = contents(&connect(ledger, OpenFlags::SQLITE_OPEN_READ_WRITE)?);
        // One without tables was never used.
        if there.as_ref().is_ok_and(|there| there.requests > 0)
            || there.is_err() && has_tables(ledger)?
        {
            return Err(Failure::new(format!(
                "the ledger at {} is not empty",
                ledger.display()
            )));
        }
    }
    let part = Part::beside(ledger)?;
    let mut into = OpenOptions::new()
        .write(true)
        .open(&part.0)
        .map_err(|error| cannot("write", &part.0, &error))?;
    std::io::copy(from, &mut into).map_err(|error| cannot("write", &part.0, &error))?;
    let contents = part.sound()?;
    keep_private(ledger);
    let kept = put_aside(ledger)?;
    fs::rename(&part.0, ledger).map_err(|error| cannot("replace", ledger, &error))?;
    flush_folder(ledger)?;
    Ok(Restored { kept, contents })
}

fn has_tables(ledger: &Path) -> Result<bool, Failure> {
    let db = connect(ledger, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    Ok(
        db.query_row("select count(*) from sqlite_schema", [], |row| {
            row.get::<_, i64>(0)
        })? > 0,
    )
}

/// Gives the old ledger another name. What SQLite keeps beside it belongs to it and to no other: left behind, it would be
/// read into the new one. There is a ledger under the old name until the new one takes it.
fn put_aside(ledger: &Path) -> Result<Option<PathBuf>, Failure> {
    let kept = with_suffix(ledger, &format!(".before-restore-{}", Uuid::now_v7()));
    let is_there = ledger.exists();
    if is_there {
        // All that was committed comes into the file itself, where it can still be read.
        if let Ok(db) = connect(ledger, OpenFlags::SQLITE_OPEN_READ_WRITE) {
            drop(db.execute_batch("pragma wal_checkpoint(truncate)"));
        }
        let linked = fs::hard_link(ledger, &kept).or_else(|_| fs::copy(ledger, &kept).map(drop));
        linked.map_err(|error| cannot("write", &kept, &error))?;
    }
    for suffix in BESIDE {
        match fs::rename(with_suffix(ledger, suffix), with_suffix(&kept, suffix)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(cannot("move", ledger, &error));
            }
            _ => {}
        }
    }
    Ok(is_there.then_some(kept))
}

/// A file that is not whole yet; gone when it is dropped, unless it was given its name.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        for path in [self.0.clone()]
            .into_iter()
            .chain(BESIDE.map(|suffix| with_suffix(&self.0, suffix)))
        {
            drop(fs::remove_file(path));
        }
    }
}

impl Part {
    /// An empty one, which nobody else may read: a ledger tells who used what.
    fn beside(path: &Path) -> Result<Self, Failure> {
        make_folder(path)?;
        let part = with_suffix(path, &format!(".part-{}", Uuid::now_v7()));
        let made = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&part);
        made.map_err(|error| cannot("write", &part, &error))?;
        Ok(Self(part))
    }

    /// Reads it all back, and flushes it to the disk.
    fn sound(&self) -> Result<Contents, Failure> {
        let contents = check(&self.0)?;
        let flushed = File::open(&self.0).and_then(|file| file.sync_all());
        flushed.map_err(|error| cannot("write", &self.0, &error))?;
        Ok(contents)
    }
}

/// Whether a copy is a whole ledger: every page, every index, and the laws as far as its rows can show them.
fn check(copy: &Path) -> Result<Contents, Failure> {
    let db = connect(copy, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let said: String = db.query_row("pragma integrity_check(1)", [], |row| row.get(0))?;
    if said != "ok" {
        return Err(Failure::new(format!("the copy is damaged: {said}")));
    }
    let version = db.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0))?;
    let version = usize::try_from(version).unwrap_or(usize::MAX);
    if version == 0 || version > SCHEMA_VERSION {
        return Err(Failure::new(
            "the copy is no ledger, or was written by a newer tollgate".to_owned(),
        ));
    }
    let odd: i64 = db.query_row(ODD_WINDOWS, [], |row| row.get(0))?;
    if odd > 0 {
        return Err(Failure::new(format!(
            "in the copy {odd} windows disagree with the rows they were made from"
        )));
    }
    contents(&db)
}

fn contents(db: &Connection) -> Result<Contents, Failure> {
    Ok(db.query_row(CONTENTS, [], |row| {
        Ok(Contents {
            requests: row.get(0)?,
            open: row.get(1)?,
            users: row.get(2)?,
            cost_micros: row.get(3)?,
            tokens: row.get(4)?,
            held_micros: row.get(5)?,
        })
    })?)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.to_path_buf().into_os_string();
    name.push(suffix);
    PathBuf::from(name)
}

/// A name is on the disk once its folder is.
fn flush_folder(path: &Path) -> Result<(), Failure> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let flushed = File::open(folder).and_then(|folder| folder.sync_all());
    flushed.map_err(|error| cannot("write", folder, &error))
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot {what} {}: {error}", path.display()))
}
