//! The ledger's statements, on SQLite.
//!
//! A [`Book`] does one step at a time inside a transaction that the writer opens and commits. It decides nothing: limits
//! are decided by `plan::admit` on what is read here, and there is only one writer, so nothing changes in between.

mod batch;
mod credits;
mod insert;
mod keys;
mod maintenance;
mod replace;
mod tallies;
#[cfg(test)]
mod tests;
pub(crate) mod window_cache;
pub(crate) mod writer;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use uuid::Uuid;

use super::{Ending, UserBalance, file};
use crate::clock::Timestamp;
use crate::ledger::price_ids::PriceIds;
use crate::ledger::sqlite::window_cache::{APP, Change, Known};
use crate::plan::{Amounts, Balance, Limit, LimitCounter, PaidBy, Per, Window};
use crate::price::{MicroUsd, Quantities};

/// How long another process (a command line) may keep the file locked.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Windows that ended so long ago can only be asked for by a clock that stepped back.
pub(super) const KEEP_SHORT_WINDOWS: Duration = Duration::from_hours(48);
pub(super) const KEEP_WINDOWS: Duration = Duration::from_hours(62 * 24);

/// Scripts that bring an older file up to date; `user_version` says how many were run.
const MIGRATIONS: &[&str] = &[
    include_str!("../../../migrations/0001_ledger.sql"),
    include_str!("../../../migrations/0002_outbox.sql"),
    include_str!("../../../migrations/0003_operator.sql"),
    include_str!("../../../migrations/0004_checks.sql"),
    include_str!("../../../migrations/0005_held.sql"),
    include_str!("../../../migrations/0006_quantities.sql"),
    include_str!("../../../migrations/0007_tallies.sql"),
    include_str!("../../../migrations/0008_grants.sql"),
    include_str!("../../../migrations/0009_purchases.sql"),
    include_str!("../../../migrations/0010_purchase_outbox.sql"),
    include_str!("../../../migrations/0011_users.sql"),
    include_str!("../../../migrations/0012_device_keys.sql"),
];

/// What `user_version` is in a file that is up to date.
pub(super) const SCHEMA_VERSION: usize = MIGRATIONS.len();

/// The ledger cannot be used, and what to do about it.
#[derive(Debug)]
pub struct Failure {
    message: String,
    is_constraint: bool,
}

impl Failure {
    /// A failure with a message for the operator.
    #[must_use]
    pub const fn new(message: String) -> Self {
        Self {
            message,
            is_constraint: false,
        }
    }

    /// A database's own words, and whether it refuses the same write however often it is tried.
    pub(super) const fn of_database(message: String, is_constraint: bool) -> Self {
        Self {
            message,
            is_constraint,
        }
    }

    /// The database refuses this write however often it is tried.
    #[must_use]
    pub(super) const fn is_constraint(&self) -> bool {
        self.is_constraint
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        let is_constraint =
            error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation);
        Self {
            message: format!("SQLite: {error}"),
            is_constraint,
        }
    }
}

/// The ledger's file, open for writing.
pub(crate) struct Book {
    pub(super) db: Connection,
    owner: String,
    /// Rows that end settled or lost wait for the outbox.
    outbox: bool,
    /// What windows say, as long as nobody else writes and nothing is undone.
    known: RefCell<Known>,
    /// What was held through this book and has not ended: an ending need not read it again. A row that is not in here is
    /// read; whether it is still open says the row alone.
    open: RefCell<HashMap<Uuid, OpenHold, foldhash::fast::RandomState>>,
    /// The rates that the file has.
    prices: RefCell<PriceIds>,
    /// `data_version` of what is in memory.
    version: Cell<i64>,
}

impl std::fmt::Debug for Book {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Book").finish_non_exhaustive()
    }
}

/// The row that was written last, and whether it had ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Last {
    pub(super) id: Uuid,
    pub(super) ended: bool,
}

/// A request that is open: whose it is, when it was held, and what it holds.
struct OpenHold {
    user: String,
    at: Timestamp,
    held: Quantities,
    cost: i64,
    paid_by: PaidBy,
}

impl OpenHold {
    /// What it takes of a window of the app.
    fn amounts(&self) -> Amounts {
        Amounts::of_request(&self.held, MicroUsd(self.cost)).in_windows()
    }

    /// What credits take of it, and windows of its user do not.
    const fn of_credits(&self) -> i64 {
        match self.paid_by {
            PaidBy::Plan => 0,
            PaidBy::Credits => self.cost,
        }
    }
}

/// A count as a column has it.
fn to_i64(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// How much of the file the writer keeps in memory, in KiB: a 64th of it, within these. It needs two leaves for each user
/// who is busy, and the way to them, which gets longer as the file grows; SQLite's own 2 MB has room for a few hundred.
const CACHE_KIB_MIN: i64 = 8_000;
const CACHE_KIB_MAX: i64 = 64_000;

/// How many KiB the log takes before they are copied into the file: a 64th of it, within these. SQLite's own default is a
/// fourth. A page that changed often meanwhile is copied once, and who waits for a commit seldom waits for a copying too.
const LOG_KIB_MIN: i64 = 16_000;
const LOG_KIB_MAX: i64 = 64_000;

/// Reads a user's windows, in the columns of [`window_of`].
macro_rules! windows_where {
    ($times:literal) => {
        concat!(
            "select per, starts_at, ends_at, requests_used, tokens_used, micros_used, requests_held, tokens_held,
                    micros_held from windows where user_id = ?1 and ",
            $times
        )
    };
}

/// Those that contain a moment.
const WINDOWS_AT: &str = windows_where!("ends_at > ?2 and starts_at <= ?2");

/// Those that end after a moment.
const WINDOWS_AFTER: &str = windows_where!("ends_at > ?2");

/// What the ended and the open rows of a window add up to: of a user's dollars, those that credits did not pay.
const SUM_OF_ROWS: &str = "
    select coalesce(sum(case when state in ('settled', 'lost') then 1 when state = 'voided' then load * ?4 else 0 end), 0),
           coalesce(sum(input_tokens + output_tokens), 0),
           coalesce(sum(cost_micros - iif(?5, 0, credit_micros)), 0),
           coalesce(sum(state = 'held'), 0),
           coalesce(sum(case when state = 'held' then held_input_tokens + held_output_tokens else 0 end), 0),
           coalesce(sum(case when state = 'held' and (?5 or paid_by <> 'credits') then held_micros else 0 end), 0)
    from requests";

impl Book {
    /// Opens the file, or makes it; also whether it did.
    pub(super) fn open_or_make(path: &Path, owner: Uuid) -> Result<(Self, bool), Failure> {
        let made = file::make(path)?;
        file::keep_private(path);
        let db = connect(
            path,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
        )?;
        Ok((Self::up_to_date(db, owner)?, made))
    }

    #[cfg(test)]
    pub(super) fn open(path: &Path, owner: Uuid) -> Result<Self, Failure> {
        Self::open_or_make(path, owner).map(|(book, _)| book)
    }

    /// Opens a ledger that is there, and no other file.
    pub(super) fn existing(path: &Path, owner: Uuid) -> Result<Self, Failure> {
        file::require(path)?;
        file::keep_private(path);
        let db = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        if version(&db)? == 0 {
            return Err(Failure::new(format!(
                "{} is no ledger: look at [store] url",
                path.display()
            )));
        }
        Self::up_to_date(db, owner)
    }

    fn up_to_date(db: Connection, owner: Uuid) -> Result<Self, Failure> {
        db.pragma_update(None, "journal_mode", "wal")?;
        migrate(&db)?;
        Self::for_writing(db, owner)
    }

    /// Opens again the ledger that has this identifier key, and no other: a disk that is gone leaves an empty folder
    /// behind, and a ledger made there would have forgotten what everybody used.
    pub(super) fn reopen(path: &Path, owner: Uuid, identifier_key: &str) -> Result<Self, Failure> {
        let db = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let key: String = db.query_row(
            "select value from switches where name = 'identifier_key'",
            [],
            |row| row.get(0),
        )?;
        if key != identifier_key {
            return Err(Failure::new(format!(
                "another ledger lies at {} now",
                path.display()
            )));
        }
        Self::for_writing(db, owner)
    }

    /// Whether what this process wrote last is in the file: so all that it wrote before is too.
    pub(super) fn has(&self, last: Option<&Last>) -> Result<bool, Failure> {
        let served: i64 = self.db.query_row(
            "select count(*) from owners where id = ?1",
            [&self.owner],
            |row| row.get(0),
        )?;
        let Some(last) = last.filter(|_| served > 0) else {
            return Ok(served > 0);
        };
        let read = "select (state <> 'held') from requests where id = ?1";
        let ended: Option<bool> = self
            .db
            .query_row(read, [last.id.to_string()], |row| row.get(0))
            .optional()?;
        Ok(ended == Some(last.ended))
    }

    /// Copies what waits beside the file into it, as far as readers let it.
    pub(super) fn take_in_log(&self) -> Result<(), Failure> {
        Ok(self
            .db
            .query_row("pragma wal_checkpoint(passive)", [], |_| Ok(()))?)
    }

    fn for_writing(db: Connection, owner: Uuid) -> Result<Self, Failure> {
        db.pragma_update(None, "synchronous", "full")?;
        db.set_prepared_statement_cache_capacity(32);
        let book = Self::on(db, owner.to_string());
        book.fit_to_size()?;
        Ok(book)
    }

    /// Gives the file as much memory and log as fit its size now.
    fn fit_to_size(&self) -> Result<(), Failure> {
        let ask = |what| {
            self.db
                .pragma_query_value(None, what, |row| row.get::<_, i64>(0))
        };
        let (pages, page_bytes) = (ask("page_count")?, ask("page_size")?);
        let (cache_kib, log_kib) = room_for(
            pages
                .saturating_mul(page_bytes)
                .checked_div(1024)
                .unwrap_or(0),
        );
        let log_pages = log_kib
            .saturating_mul(1024)
            .checked_div(page_bytes)
            .unwrap_or(1000);
        self.db
            .pragma_update(None, "cache_size", cache_kib.saturating_neg())?;
        self.db
            .pragma_update(None, "wal_autocheckpoint", log_pages)?;
        Ok(())
    }

    fn on(db: Connection, owner: String) -> Self {
        let (known, open, version) = (RefCell::default(), RefCell::default(), Cell::new(-1));
        Self {
            db,
            owner,
            outbox: false,
            known,
            open,
            prices: RefCell::default(),
            version,
        }
    }

    /// Whether rows that end wait for the outbox from now on.
    pub(super) const fn with_outbox(mut self, outbox: bool) -> Self {
        self.outbox = outbox;
        self
    }

    /// Opens an existing file, only for reading.
    pub(super) fn reader(path: &Path) -> Result<Self, Failure> {
        let db = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        db.pragma_update(None, "query_only", true)?;
        Ok(Self::on(db, String::new()))
    }

    /// For the tests of the laws, which crash the process and not the machine.
    #[cfg(test)]
    pub(super) fn forget_durability(&self) {
        self.db.pragma_update(None, "synchronous", "off").unwrap();
    }

    /// What the file says of a window of the app, if it has one.
    #[cfg(test)]
    pub(super) fn app_standing(&self, now: Timestamp, day: &Window) -> Option<Balance> {
        let found = self.windows(WINDOWS_AT, APP, now).unwrap();
        found
            .into_iter()
            .find(|(window, _)| window == day)
            .map(|(_, standing)| standing)
    }

    pub(super) fn begin(&self) -> Result<(), Failure> {
        self.db.prepare_cached("begin immediate")?.execute([])?;
        // From here to the commit nobody else writes.
        let version = self.data_version().inspect_err(|_| {
            self.roll_back();
        })?;
        if self.version.replace(version) != version {
            self.forget();
        }
        Ok(())
    }

    pub(super) fn commit(&self) -> Result<(), Failure> {
        self.write_app()?;
        self.db.prepare_cached("commit")?.execute([])?;
        Ok(())
    }

    /// Undoes what the transaction did; nothing to do where SQLite has done so itself. True if nothing was undone here:
    /// after a commit that failed, nobody then knows what a crash would bring back.
    pub(super) fn roll_back(&self) -> bool {
        self.forget();
        if self.db.is_autocommit() {
            return true;
        }
        if let Err(error) = self.db.execute_batch("rollback") {
            tracing::warn!(%error, "the ledger could not roll back");
            return true;
        }
        false
    }

    /// A number that differs when another connection has changed the file.
    pub(super) fn data_version(&self) -> Result<i64, Failure> {
        Ok(self
            .db
            .prepare_cached("pragma data_version")?
            .query_row([], |row| row.get(0))?)
    }

    /// Why the app is paused, if it is.
    pub(super) fn paused(&self) -> Result<Option<String>, Failure> {
        let mut read = self
            .db
            .prepare_cached("select value from switches where name = 'paused'")?;
        Ok(read.query_row([], |row| row.get(0)).optional()?)
    }

    /// A random key, as old as the ledger: what is derived from it stays the same across restarts and machines.
    pub(super) fn identifier_key(&self) -> Result<String, Failure> {
        self.db.execute(
            "insert or ignore into switches (name, value, updated_at)
             values ('identifier_key', lower(hex(randomblob(32))), 0)",
            [],
        )?;
        Ok(self.db.query_row(
            "select value from switches where name = 'identifier_key'",
            [],
            |row| row.get(0),
        )?)
    }

    /// Says that this process lives.
    pub(super) fn renew_lease(&self, now: Timestamp, lease: Duration) -> Result<(), Failure> {
        // There is one server on a SQLite file.
        self.db
            .execute("delete from owners where id <> ?1", [&self.owner])?;
        let mut write = self
            .db
            .prepare_cached("insert or replace into owners (id, lease_until) values (?1, ?2)")?;
        write.execute(params![self.owner, now.plus(lease).millis()])?;
        Ok(())
    }

    /// Law 3: ends an open request; a request that has ended, or that is not there, stays as it is.
    /// Gives back whether anything ended.
    pub(super) fn end(&self, ending: &Ending, now: Timestamp) -> Result<bool, Failure> {
        self.batch().end(ending, now)
    }

    /// Tells the memory of a hold or an ending: what its user's windows say, if they are known, and what the app's do, which
    /// must be, since what the app used is written from there. Only the app's count what credits hold and pay.
    fn change(&self, open: &OpenHold, change: &Change, by_credits: (i64, i64)) {
        let mut known = self.known.borrow_mut();
        known.change(&open.user, open.at, &change.without(by_credits));
        known.change(APP, open.at, change);
    }

    /// Where a limit stands whose window contains `now`; makes what is missing.
    fn balance_at(
        &self,
        user: &str,
        now: Timestamp,
        (limit, window): &(Limit, Window),
    ) -> Result<Balance, Failure> {
        match limit.tally() {
            None => self.standing_at(user, now, window),
            Some(name) => self.tally_at(user, name, window),
        }
    }

    /// Where a window stands that contains `now`; makes the window if it is missing.
    fn standing_at(&self, user: &str, now: Timestamp, window: &Window) -> Result<Balance, Failure> {
        self.know(user, now)?;
        if let Some(standing) = self.known.borrow().standing(user, window) {
            return Ok(standing);
        }
        let standing = self.sum_of_rows(user, window)?;
        self.insert_window(user, window, &standing.used)?;
        self.known.borrow_mut().made(user, *window, standing);
        Ok(standing)
    }

    /// Reads a user's windows that end after `moment`, unless they are known.
    fn know(&self, user: &str, moment: Timestamp) -> Result<(), Failure> {
        if !self.known.borrow().lacks(user, moment) {
            return Ok(());
        }
        if user == APP {
            self.write_app()?;
        }
        let found = self.windows(WINDOWS_AFTER, user, moment)?;
        let has_tallies = user != APP && self.find_tallies(user)?;
        let mut known = self.known.borrow_mut();
        known.read(user, (moment, has_tallies), found);
        Ok(())
    }

    /// Writes what the transaction has used of the app's windows.
    fn write_app(&self) -> Result<(), Failure> {
        let unwritten = self.known.borrow_mut().take_unwritten();
        if unwritten.is_empty() {
            return Ok(());
        }
        let mut update = self.db.prepare_cached(
            "update window_sums set requests_used = requests_used + ?5, tokens_used = tokens_used + ?6,
                    micros_used = micros_used + ?7
             where user_id = ?1 and ends_at = ?2 and per = ?3 and starts_at = ?4",
        )?;
        for (Window { per, start, end }, used) in unwritten {
            let key = (APP, end.millis(), per.as_str(), start.millis());
            update.execute(params![
                key.0,
                key.1,
                key.2,
                key.3,
                used.requests,
                used.tokens,
                used.cost
            ])?;
        }
        Ok(())
    }

    /// What is in memory counts no more: somebody else has written, or something was undone.
    fn forget(&self) {
        self.known.take();
        self.open.take();
        self.prices.take();
    }

    /// What a user has used and holds; writes nothing.
    pub(super) fn standing(
        &self,
        user: Uuid,
        now: Timestamp,
        counters: &[LimitCounter],
    ) -> Result<UserBalance, Failure> {
        let user = user.to_string();
        let known = self.windows(WINDOWS_AT, &user, now)?;
        let standing = |counter: &LimitCounter| {
            let wanted = &counter.window;
            if let Some(name) = &counter.tally {
                return self.look_at_tally(&user, name, wanted);
            }
            match known.iter().find(|(window, _)| window == wanted) {
                Some((_, standing)) => Ok(*standing),
                None => self.sum_of_rows(&user, wanted),
            }
        };
        let lifetime = known.iter().find(|(window, _)| window.per == Per::Lifetime);
        let open = lifetime.map_or(0, |(_, standing)| standing.held.requests);
        Ok(UserBalance {
            windows: counters.iter().map(standing).collect::<Result<_, _>>()?,
            open,
            credits: self.credits_of(&user, now)?,
        })
    }

    /// Windows as the file has them.
    fn windows(
        &self,
        which: &str,
        user: &str,
        moment: Timestamp,
    ) -> Result<Vec<(Window, Balance)>, Failure> {
        let mut read = self.db.prepare_cached(which)?;
        let rows = read.query_map(params![user, moment.millis()], window_of)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn insert_window(&self, user: &str, window: &Window, spent: &Amounts) -> Result<(), Failure> {
        let mut insert = self.db.prepare_cached(
            "insert or ignore into window_sums
                 (user_id, ends_at, per, starts_at, requests_used, tokens_used, micros_used)
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        let (from, until) = (window.start.millis(), window.end.millis());
        insert.execute(params![
            user,
            until,
            window.per.as_str(),
            from,
            spent.requests,
            spent.tokens,
            spent.cost
        ])?;
        Ok(())
    }

    /// Law 4, read the other way: what the rows of a window add up to.
    pub(super) fn sum_of_rows(&self, user: &str, window: &Window) -> Result<Balance, Failure> {
        // All users' rows are found by their ids, which begin with the time; the margin covers a hold that waited.
        let narrowed = if user == APP {
            "where id >= ?1 and started_at >= ?2 and started_at < ?3"
        } else {
            "where user_id = ?1 and started_at >= ?2 and started_at < ?3"
        };
        let mut sum = self
            .db
            .prepare_cached(&format!("{SUM_OF_ROWS} {narrowed}"))?;
        let first_id = id_at(window.start.minus(Duration::from_hours(1)));
        let subject = if user == APP { first_id.as_str() } else { user };
        let (start, end) = (window.start.millis(), window.end.millis());
        Ok(sum.query_row(
            params![subject, start, end, window.per.is_rate(), user == APP],
            |row| standing_at(row, 0),
        )?)
    }
}

/// How many KiB of memory and of log a file of so many has.
fn room_for(file_kib: i64) -> (i64, i64) {
    let part = file_kib.checked_div(64).unwrap_or(0);
    (
        part.clamp(CACHE_KIB_MIN, CACHE_KIB_MAX),
        part.clamp(LOG_KIB_MIN, LOG_KIB_MAX),
    )
}

/// Opens a connection that waits for others and asks for nothing twice.
pub(super) fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, Failure> {
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(|error| {
        Failure::new(format!(
            "cannot open the ledger {}: {error}",
            path.display()
        ))
    })?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    keep_plans(&db)?;
    sort_beside(path, &db);
    Ok(db)
}

/// Has SQLite plan a statement once, whatever values are bound to it (the "query planner stability guarantee"). Otherwise it
/// plans anew for each value that is compared with a column of a partial index, and a statement that was kept ready is
/// compiled at every use: that took longer than all the rest of a request.
fn keep_plans(db: &Connection) -> Result<(), Failure> {
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// Has SQLite put what it sorts and rewrites into the ledger's own folder: in a container with a read-only root no other can
/// be written, and then whatever outgrows memory fails. It holds for the whole process. (The pragma is deprecated, but
/// the variable `SQLITE_TMPDIR`, which it should be, cannot be set safely in a process with threads.) Where the folder cannot be
/// written it stays as it was.
fn sort_beside(path: &Path, db: &Connection) {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let Ok(folder) = std::fs::canonicalize(folder) else {
        return;
    };
    drop(db.pragma_update(None, "temp_store_directory", folder.to_str()));
}

/// How many scripts were run on this file.
fn version(db: &Connection) -> Result<usize, Failure> {
    let version = db.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0))?;
    Ok(version.try_into().unwrap_or(usize::MAX))
}

fn migrate(db: &Connection) -> Result<(), Failure> {
    db.execute_batch("begin immediate")?;
    let done = version(db)?;
    if done > MIGRATIONS.len() {
        return Err(Failure::new(
            "the ledger was written by a newer tollgate: run that version".to_owned(),
        ));
    }
    for script in MIGRATIONS.iter().skip(done) {
        db.execute_batch(script)?;
    }
    db.pragma_update(
        None,
        "user_version",
        u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX),
    )?;
    Ok(db.execute_batch("commit")?)
}

/// The smallest `UUIDv7` of a moment (RFC 9562 §5.7: 48 bits of milliseconds lead).
pub(super) fn id_at(moment: Timestamp) -> String {
    let ms = u64::try_from(moment.millis()).unwrap_or(0);
    let hex = format!("{ms:012x}");
    let (high, low) = hex.split_at_checked(8).unwrap_or(("00000000", "0000"));
    format!("{high}-{low}-7000-8000-000000000000")
}

fn standing_at(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Balance> {
    let amounts = |from: usize| -> rusqlite::Result<Amounts> {
        Ok(Amounts {
            requests: row.get(from)?,
            tokens: row.get(from.saturating_add(1))?,
            cost: row.get(from.saturating_add(2))?,
            ..Amounts::default()
        })
    };
    Ok(Balance {
        used: amounts(column)?,
        held: amounts(column.saturating_add(3))?,
    })
}

/// A row of [`WINDOWS_AT`].
fn window_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<(Window, Balance)> {
    let per = per_of(row.get_ref(0)?.as_str()?);
    let time = |column| Ok::<_, rusqlite::Error>(Timestamp::from_millis(row.get(column)?));
    Ok((
        Window {
            per,
            start: time(1)?,
            end: time(2)?,
        },
        standing_at(row, 3)?,
    ))
}

fn per_of(name: &str) -> Per {
    Per::from_name(name).unwrap_or(Per::Lifetime)
}
