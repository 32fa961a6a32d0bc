//! A look at the ledger's file from outside, for `tollgate doctor`: a server may have it open meanwhile.
//!
//! It migrates nothing, ends nothing and takes no lock but that of one short write, which it takes back.

use std::fs::File;
use std::path::Path;

use rusqlite::{OpenFlags, params};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::ledger::file::require_served;
use crate::ledger::sqlite::{Failure, SCHEMA_VERSION, connect};

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A row was written, read and taken back, each durably.
    Works,
    /// There is no file yet, and one can be made.
    NotThereYet,
}

/// Writes a row, reads it and takes it back; without a file, tries whether its folder can be written.
///
/// # Errors
/// It cannot be used, and why: the path, the permissions, the disk, a newer version's tables.
pub fn probe(path: &Path, now: Timestamp) -> Result<Probe, Failure> {
    if !path.exists() {
        return try_folder(path).map(|()| Probe::NotThereYet);
    }
    require_served(path)?;
    let db = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    db.pragma_update(None, "synchronous", "full")?;
    let version: usize = db
        .pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0))?
        .try_into()
        .unwrap_or(usize::MAX);
    if version > SCHEMA_VERSION {
        return Err(Failure::new(
            "the ledger was written by a newer tollgate: run that version".to_owned(),
        ));
    }
    if version == 0 {
        // Made and never used: `serve` writes the tables.
        db.execute_batch("begin immediate; create table probe (x integer); rollback")?;
        return Ok(Probe::Works);
    }
    let name = format!("doctor {}", Uuid::now_v7());
    let value = now.rfc3339();
    db.execute(
        "insert into switches (name, value, updated_at) values (?1, ?2, ?3)",
        params![name, value, now.millis()],
    )?;
    let read: Result<String, _> = db.query_row(
        "select value from switches where name = ?1",
        [&name],
        |row| row.get(0),
    );
    db.execute("delete from switches where name = ?1", [&name])?;
    if read? == value {
        Ok(Probe::Works)
    } else {
        Err(Failure::new(
            "a row was read otherwise than written".to_owned(),
        ))
    }
}

/// Makes a file in the nearest folder that is there, and removes it.
fn try_folder(path: &Path) -> Result<(), Failure> {
    let above = path
        .ancestors()
        .skip(1)
        .find(|folder| folder.is_dir())
        .unwrap_or(Path::new("."));
    let trial = above.join(format!(".tollgate-doctor-{}", Uuid::now_v7()));
    let made = File::options()
        .create_new(true)
        .write(true)
        .open(&trial)
        .and_then(|file| file.sync_all());
    let removed = std::fs::remove_file(&trial);
    let tried = made.and(removed);
    tried.map_err(|error| Failure::new(format!("{} cannot be written: {error}", above.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::sqlite::Book;

    #[test]
    fn a_probe_writes_reads_and_leaves_nothing() {
        let folder = std::env::temp_dir().join(format!("tollgate-probe-{}", Uuid::now_v7()));
        let path = folder.join("deeper/x.db");
        std::fs::create_dir_all(&folder).unwrap();
        let now = Timestamp::from_secs(1000);
        assert_eq!(probe(&path, now).unwrap(), Probe::NotThereYet);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let book = Book::open(&path, Uuid::nil()).unwrap();
        assert_eq!(probe(&path, now).unwrap(), Probe::Works);
        let rows: i64 = book
            .db
            .query_row("select count(*) from switches", [], |row| row.get(0))
            .unwrap();
        assert_eq!(rows, 0);
        book.db.pragma_update(None, "user_version", 999).unwrap();
        assert!(
            probe(&path, now)
                .unwrap_err()
                .to_string()
                .contains("newer tollgate")
        );
        drop(book);
        std::fs::write(
            &path,
            "this is no database, however long it may be".repeat(40),
        )
        .unwrap();
        assert!(
            probe(&path, now)
                .unwrap_err()
                .to_string()
                .contains("not a database")
        );
        std::fs::remove_dir_all(folder).unwrap();
    }
}
