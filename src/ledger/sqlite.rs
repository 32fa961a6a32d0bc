//! The ledger's statements, on SQLite.
//!
//! A [`Book`] does one step at a time inside a transaction that the writer opens and commits. It decides nothing: limits
//! are decided by `plan::admit` on what is read here, and there is only one writer, so nothing changes in between.

mod chores;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use uuid::Uuid;

use super::app_windows::{AppWindows, Change};
use super::{Charge, Ending, HoldRequest, NoHold, UserStanding, decide};
use crate::clock::Timestamp;
use crate::plan::{Amounts, Hold, Per, Standing, Window};
use crate::price::{MicroUsd, Usage};

/// The windows of the whole app stand under this name in place of a user's id.
const APP: &str = "app";

/// How long another process (a command line) may keep the file locked.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Windows that ended so long ago can only be asked for by a clock that stepped back.
pub(super) const KEEP_SHORT_WINDOWS: Duration = Duration::from_hours(48);
pub(super) const KEEP_WINDOWS: Duration = Duration::from_hours(62 * 24);

/// Scripts that bring an older file up to date; `user_version` says how many were run.
const MIGRATIONS: &[&str] = &[
    include_str!("../../migrations/0001_ledger.sql"),
    include_str!("../../migrations/0002_outbox.sql"),
    include_str!("../../migrations/0003_operator.sql"),
    include_str!("../../migrations/0004_checks.sql"),
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
        Self { message, is_constraint: false }
    }

    /// A database's own words, and whether it refuses the same write however often it is tried.
    pub(super) const fn of_database(message: String, is_constraint: bool) -> Self {
        Self { message, is_constraint }
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
        let is_constraint = error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation);
        Self { message: format!("SQLite: {error}"), is_constraint }
    }
}

/// The ledger's file, open for writing.
pub(crate) struct Book {
    pub(super) db: Connection,
    owner: String,
    /// Rows that end settled or lost wait for the outbox.
    outbox: bool,
    /// The app's windows, for as long as a transaction is open.
    app: RefCell<AppWindows>,
    /// What was held through this book and has not ended: an ending need not read it again. A row that is not in here is
    /// read; whether it is still open says the row alone.
    open: RefCell<HashMap<Uuid, OpenHold>>,
}

impl std::fmt::Debug for Book {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Book").finish_non_exhaustive()
    }
}

/// A request that is open: whose it is, when it was held, and what it holds.
struct OpenHold {
    user: String,
    at: Timestamp,
    input: i64,
    output: i64,
    cost: i64,
}

/// How much of the file the writer keeps in memory at most, in KiB. Of a large ledger it needs two leaves for each user who
/// is busy, and the way to them; SQLite's own 2 MiB has room for a few hundred.
const CACHE_KIB: i64 = 16_000;

/// How many pages the log takes before they are copied into the file: 16 MB, four times SQLite's own default. A page that
/// changed often meanwhile is copied once, and who waits for a commit seldom waits for a copying too.
const CHECKPOINT_PAGES: i64 = 4_000;

const INSERT_REQUEST: &str = "
    insert into requests (id, user_id, plan, endpoint, model, upstream, state, held_input_tokens, held_output_tokens,
                          held_micros, started_at, owner)
    values (?1, ?2, ?3, ?4, ?5, ?6, 'held', ?7, ?8, ?9, ?10, ?11)";

const END_REQUEST: &str = "
    update requests set state = ?2, flags = ?3, load = ?4, ended_at = max(?5, started_at), ttft_ms = ?6,
           input_tokens = ?7, cached_input_tokens = ?8, output_tokens = ?9, reasoning_tokens = ?10,
           cost_micros = ?11, unsent = ?12
    where id = ?1 and state = 'held'";

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

/// Those that end within a time.
const WINDOWS_ENDING: &str = windows_where!("ends_at > ?2 and ends_at <= ?3");

/// What the ended and the open rows of a window add up to.
const SUM_OF_ROWS: &str = "
    select coalesce(sum(case when state in ('settled', 'lost') then 1 when state = 'voided' then load * ?4 else 0 end), 0),
           coalesce(sum(input_tokens + output_tokens), 0),
           coalesce(sum(cost_micros), 0),
           coalesce(sum(state = 'held'), 0),
           coalesce(sum(case when state = 'held' then held_input_tokens + held_output_tokens else 0 end), 0),
           coalesce(sum(case when state = 'held' then held_micros else 0 end), 0)
    from requests";

impl Book {
    /// Opens (and makes) the file.
    pub(super) fn open(path: &Path, owner: Uuid) -> Result<Self, Failure> {
        let db = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        db.pragma_update(None, "journal_mode", "wal")?;
        migrate(&db)?;
        Self::for_writing(db, owner)
    }

    /// Opens again the ledger that has this identifier key, and no other: a disk that is gone leaves an empty folder
    /// behind, and a ledger made there would have forgotten what everybody used.
    pub(super) fn reopen(path: &Path, owner: Uuid, identifier_key: &str) -> Result<Self, Failure> {
        let db = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let key: String =
            db.query_row("select value from switches where name = 'identifier_key'", [], |row| row.get(0))?;
        if key != identifier_key {
            return Err(Failure::new(format!("another ledger lies at {} now", path.display())));
        }
        Self::for_writing(db, owner)
    }

    fn for_writing(db: Connection, owner: Uuid) -> Result<Self, Failure> {
        db.pragma_update(None, "synchronous", "full")?;
        db.pragma_update(None, "cache_size", -CACHE_KIB)?;
        db.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        db.set_prepared_statement_cache_capacity(32);
        Ok(Self { db, owner: owner.to_string(), outbox: false, app: RefCell::default(), open: RefCell::default() })
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
        Ok(Self { db, owner: String::new(), outbox: false, app: RefCell::default(), open: RefCell::default() })
    }

    /// For the tests of the laws, which crash the process and not the machine.
    #[cfg(test)]
    pub(super) fn forget_durability(&self) {
        self.db.pragma_update(None, "synchronous", "off").unwrap();
    }

    pub(super) fn begin(&self) -> Result<(), Failure> {
        self.db.prepare_cached("begin immediate")?.execute([])?;
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
        self.app.take();
        self.forget_open();
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
        Ok(self.db.prepare_cached("pragma data_version")?.query_row([], |row| row.get(0))?)
    }

    /// Why the app is paused, if it is.
    pub(super) fn paused(&self) -> Result<Option<String>, Failure> {
        let mut read = self.db.prepare_cached("select value from switches where name = 'paused'")?;
        Ok(read.query_row([], |row| row.get(0)).optional()?)
    }

    /// A random key, as old as the ledger: what is derived from it stays the same across restarts and machines.
    pub(super) fn identifier_key(&self) -> Result<String, Failure> {
        self.db.execute(
            "insert or ignore into switches (name, value, updated_at)
             values ('identifier_key', lower(hex(randomblob(32))), 0)",
            [],
        )?;
        Ok(self.db.query_row("select value from switches where name = 'identifier_key'", [], |row| row.get(0))?)
    }

    /// Says that this process lives.
    pub(super) fn renew_lease(&self, now: Timestamp, lease: Duration) -> Result<(), Failure> {
        // There is one server on a SQLite file.
        self.db.execute("delete from owners where id <> ?1", [&self.owner])?;
        let mut write = self.db.prepare_cached("insert or replace into owners (id, lease_until) values (?1, ?2)")?;
        write.execute(params![self.owner, now.plus(lease).millis()])?;
        Ok(())
    }

    /// Law 1: a hold, or the reason why not.
    pub(super) fn hold(&self, request: &HoldRequest) -> Result<Result<Hold, NoHold>, Failure> {
        let user = request.user_id.to_string();
        let lifetime = Window { per: Per::Lifetime, start: Timestamp::EPOCH, end: Timestamp::MAX };
        let windows: Vec<Window> = request.limits.iter().map(|(_, window)| *window).collect();
        let known = self.windows(&user, request.now)?;
        let standings = self.ensure(&user, &known, &windows)?;
        let open = self.ensure(&user, &known, &[lifetime])?.first().map_or(0, |all| all.held.requests);
        let ceiling = request.ceiling.map(|(_, window)| self.app_standing(request.now, window)).transpose()?;
        let hold = match decide(request, &standings, ceiling, open) {
            Ok(hold) => hold,
            Err(no) => return Ok(Err(no)),
        };
        let input = i64::try_from(request.ask.input_tokens).unwrap_or(i64::MAX).min(hold.amounts.tokens);
        let output = hold.amounts.tokens.saturating_sub(input);
        self.insert_request(&user, request, &hold, (input, output))?;
        self.add_held(&user, request.now, hold.amounts)?;
        let open = OpenHold { user, at: request.now, input, output, cost: hold.amounts.cost };
        self.open.borrow_mut().insert(request.id, open);
        Ok(Ok(hold))
    }

    fn insert_request(
        &self,
        user: &str,
        request: &HoldRequest,
        hold: &Hold,
        (input, output): (i64, i64),
    ) -> Result<(), Failure> {
        let mut insert = self.db.prepare_cached(INSERT_REQUEST)?;
        insert.execute(params![
            request.id.to_string(),
            user,
            request.plan,
            request.endpoint,
            request.model,
            request.upstream,
            input,
            output,
            hold.amounts.cost,
            request.now.millis(),
            self.owner,
        ])?;
        Ok(())
    }

    /// Adds a hold to every window that contains `at`, the app's too.
    ///
    /// `or fail`, here and where a hold is moved to what is used: SQLite copies each page before a statement on several rows
    /// that may have to be undone by itself. These are not: a statement that fails takes its whole transaction with it.
    fn add_held(&self, user: &str, at: Timestamp, held: Amounts) -> Result<(), Failure> {
        let mut update = self.db.prepare_cached(
            "update or fail windows set requests_held = requests_held + ?3, tokens_held = tokens_held + ?4,
                                micros_held = micros_held + ?5
             where user_id = ?1 and ends_at > ?2 and starts_at <= ?2",
        )?;
        update.execute(params![user, at.millis(), held.requests, held.tokens, held.cost])?;
        self.change_app(at, &Change { held, ..Change::default() })
    }

    /// Law 3: ends an open request; a request that has ended, or that is not there, stays as it is.
    /// Gives back whether anything ended.
    pub(super) fn end(&self, ending: &Ending, now: Timestamp) -> Result<bool, Failure> {
        let id = ending.id.to_string();
        let known = self.open.borrow_mut().remove(&ending.id);
        let open = match known {
            Some(open) => open,
            None => match self.open_hold(&id)? {
                Some(open) => open,
                None => return Ok(false),
            },
        };
        let settlement = &ending.settlement;
        let (state, load) = match settlement.charge {
            Charge::Voided { load } => ("voided", load),
            Charge::Settled { .. } | Charge::WholeHold => ("settled", false),
            Charge::Lost => ("lost", false),
        };
        let from_i64 = |tokens| u64::try_from(tokens).unwrap_or(0);
        let whole =
            Usage { input_tokens: from_i64(open.input), output_tokens: from_i64(open.output), ..Usage::default() };
        let (usage, MicroUsd(cost)) = match settlement.charge {
            Charge::Voided { .. } => (Usage::default(), MicroUsd(0)),
            Charge::Settled { usage, cost } => (usage, cost),
            Charge::WholeHold | Charge::Lost => (whole, MicroUsd(open.cost)),
        };
        let (input, output) = (to_i64(usage.input_tokens), to_i64(usage.output_tokens));
        let mut update = self.db.prepare_cached(END_REQUEST)?;
        let ended = update.execute(params![
            id,
            state,
            settlement.flags.join(","),
            load,
            now.millis(),
            settlement.ttft_ms,
            input,
            to_i64(usage.cached_input_tokens),
            output,
            to_i64(usage.reasoning_tokens),
            cost,
            self.outbox && state != "voided"
        ])?;
        if ended == 0 {
            return Ok(false);
        }
        let used = Amounts { requests: i64::from(state != "voided"), tokens: input.saturating_add(output), cost };
        self.move_to_used(&open, used, load)?;
        Ok(true)
    }

    /// What an open request holds. (Read before the update and not returned by it: for what an update returns, SQLite
    /// makes a temporary table each time.)
    fn open_hold(&self, id: &str) -> Result<Option<OpenHold>, Failure> {
        let mut read = self.db.prepare_cached(
            "select user_id, started_at, held_input_tokens, held_output_tokens, held_micros
             from requests where id = ?1 and state = 'held'",
        )?;
        let open = read.query_row([id], |row| {
            Ok(OpenHold {
                user: row.get(0)?,
                at: Timestamp::from_millis(row.get(1)?),
                input: row.get(2)?,
                output: row.get(3)?,
                cost: row.get(4)?,
            })
        });
        Ok(open.optional()?)
    }

    /// Moves an ended hold to what is used, in every window that contains it, the app's too.
    fn move_to_used(&self, open: &OpenHold, used: Amounts, load: bool) -> Result<(), Failure> {
        let mut update = self.db.prepare_cached(
            "update or fail windows set
                requests_held = requests_held - ?3, tokens_held = tokens_held - ?4, micros_held = micros_held - ?5,
                requests_used = requests_used + iif(per in ('minute', 'hour'), ?7, ?6),
                tokens_used = tokens_used + ?8, micros_used = micros_used + ?9
             where user_id = ?1 and ends_at > ?2 and starts_at <= ?2",
        )?;
        let held = Amounts { requests: 1, tokens: open.input.saturating_add(open.output), cost: open.cost };
        let rate_requests = used.requests.max(i64::from(load));
        update.execute(params![
            open.user,
            open.at.millis(),
            held.requests,
            held.tokens,
            held.cost,
            used.requests,
            rate_requests,
            used.tokens,
            used.cost
        ])?;
        let given_back = Amounts {
            requests: held.requests.saturating_neg(),
            tokens: held.tokens.saturating_neg(),
            cost: held.cost.saturating_neg(),
        };
        self.change_app(open.at, &Change { held: given_back, used, rate_requests })
    }

    /// Where the app stands in `window`, which contains `now`; makes the window if it is missing.
    fn app_standing(&self, now: Timestamp, window: Window) -> Result<Standing, Failure> {
        self.read_app(now)?;
        if let Some(standing) = self.app.borrow().standing(&window) {
            return Ok(standing);
        }
        let standing = self.sum_of_rows(APP, &window)?;
        self.insert_window(APP, &window, &standing)?;
        self.app.borrow_mut().made(window, standing);
        Ok(standing)
    }

    fn change_app(&self, at: Timestamp, change: &Change) -> Result<(), Failure> {
        self.read_app(at)?;
        self.app.borrow_mut().change(at, change);
        Ok(())
    }

    /// Reads the app's windows that end after `moment`, unless this transaction has.
    fn read_app(&self, moment: Timestamp) -> Result<(), Failure> {
        let Some((after, until)) = self.app.borrow().missing(moment) else { return Ok(()) };
        let mut read = self.db.prepare_cached(WINDOWS_ENDING)?;
        let rows = read.query_map(params![APP, after.millis(), until.millis()], window_of)?;
        let rows = rows.collect::<Result<Vec<_>, _>>()?;
        self.app.borrow_mut().read(after, rows);
        Ok(())
    }

    /// Writes what the transaction has changed of the app's windows.
    fn write_app(&self) -> Result<(), Failure> {
        let changed = self.app.borrow_mut().take_changed();
        if changed.is_empty() {
            return Ok(());
        }
        let mut update = self.db.prepare_cached(
            "update windows set requests_used = ?5, tokens_used = ?6, micros_used = ?7,
                                requests_held = ?8, tokens_held = ?9, micros_held = ?10
             where user_id = ?1 and ends_at = ?2 and per = ?3 and starts_at = ?4",
        )?;
        for (window, Standing { used, held }) in changed {
            update.execute(params![
                APP,
                window.end.millis(),
                window.per.as_str(),
                window.start.millis(),
                used.requests,
                used.tokens,
                used.cost,
                held.requests,
                held.tokens,
                held.cost
            ])?;
        }
        Ok(())
    }

    /// From now on an ending reads what it ends.
    pub(super) fn forget_open(&self) {
        self.open.take();
    }

    /// What a user has used and holds; writes nothing.
    pub(super) fn standing(&self, user: Uuid, now: Timestamp, windows: &[Window]) -> Result<UserStanding, Failure> {
        let user = user.to_string();
        let known = self.windows(&user, now)?;
        let standings = windows.iter().map(|window| self.look(&user, &known, window).map(|(found, _)| found));
        let lifetime = known.iter().find(|(window, _)| window.per == Per::Lifetime);
        let open = lifetime.map_or(0, |(_, standing)| standing.held.requests);
        Ok(UserStanding { windows: standings.collect::<Result<_, _>>()?, open })
    }

    /// Where each of `windows` stands; makes those that are missing.
    fn ensure(&self, user: &str, known: &[(Window, Standing)], windows: &[Window]) -> Result<Vec<Standing>, Failure> {
        let mut standings = Vec::with_capacity(windows.len());
        for window in windows {
            let (standing, is_new) = self.look(user, known, window)?;
            standings.push(standing);
            if is_new {
                self.insert_window(user, window, &standing)?;
            }
        }
        Ok(standings)
    }

    /// Where a window stands, and whether it is missing from the table.
    fn look(&self, user: &str, known: &[(Window, Standing)], window: &Window) -> Result<(Standing, bool), Failure> {
        if let Some((_, standing)) = known.iter().find(|(other, _)| other == window) {
            return Ok((*standing, false));
        }
        Ok((self.sum_of_rows(user, window)?, true))
    }

    /// The windows of the table that contain `now`.
    fn windows(&self, user: &str, now: Timestamp) -> Result<Vec<(Window, Standing)>, Failure> {
        let mut read = self.db.prepare_cached(WINDOWS_AT)?;
        let rows = read.query_map(params![user, now.millis()], window_of)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn insert_window(&self, user: &str, window: &Window, standing: &Standing) -> Result<(), Failure> {
        let mut insert = self.db.prepare_cached(
            "insert or ignore into windows (user_id, ends_at, per, starts_at, requests_used, tokens_used, micros_used,
                                  requests_held, tokens_held, micros_held)
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?;
        let Standing { used, held } = standing;
        let (from, until) = (window.start.millis(), window.end.millis());
        insert.execute(params![
            user,
            until,
            window.per.as_str(),
            from,
            used.requests,
            used.tokens,
            used.cost,
            held.requests,
            held.tokens,
            held.cost
        ])?;
        Ok(())
    }

    /// Law 4, read the other way: what the rows of a window add up to.
    pub(super) fn sum_of_rows(&self, user: &str, window: &Window) -> Result<Standing, Failure> {
        // All users' rows are found by their ids, which begin with the time; the margin covers a hold that waited.
        let narrowed = if user == APP {
            "where id >= ?1 and started_at >= ?2 and started_at < ?3"
        } else {
            "where user_id = ?1 and started_at >= ?2 and started_at < ?3"
        };
        let mut sum = self.db.prepare_cached(&format!("{SUM_OF_ROWS} {narrowed}"))?;
        let first_id = id_at(window.start.minus(Duration::from_hours(1)));
        let subject = if user == APP { first_id.as_str() } else { user };
        let (start, end) = (window.start.millis(), window.end.millis());
        Ok(sum.query_row(params![subject, start, end, window.per.is_rate()], |row| standing_at(row, 0))?)
    }
}

/// Makes the folder of a file.
pub(super) fn make_folder(path: &Path) -> Result<(), Failure> {
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    std::fs::create_dir_all(folder)
        .map_err(|error| Failure::new(format!("cannot make the folder {}: {error}", folder.display())))
}

/// Opens a connection that waits for others and asks for nothing twice.
pub(super) fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, Failure> {
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)
        .map_err(|error| Failure::new(format!("cannot open the ledger {}: {error}", path.display())))?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    Ok(db)
}

fn migrate(db: &Connection) -> Result<(), Failure> {
    db.execute_batch("begin immediate")?;
    let done: usize = db.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0))?.try_into().unwrap_or(0);
    if done > MIGRATIONS.len() {
        return Err(Failure::new("the ledger was written by a newer tollgate: run that version".to_owned()));
    }
    for script in MIGRATIONS.iter().skip(done) {
        db.execute_batch(script)?;
    }
    db.pragma_update(None, "user_version", u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX))?;
    Ok(db.execute_batch("commit")?)
}

/// The smallest `UUIDv7` of a moment (RFC 9562 §5.7: 48 bits of milliseconds lead).
pub(super) fn id_at(moment: Timestamp) -> String {
    let ms = u64::try_from(moment.millis()).unwrap_or(0);
    let hex = format!("{ms:012x}");
    let (high, low) = hex.split_at_checked(8).unwrap_or(("00000000", "0000"));
    format!("{high}-{low}-7000-8000-000000000000")
}

fn standing_at(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Standing> {
    let amounts = |from: usize| -> rusqlite::Result<Amounts> {
        Ok(Amounts {
            requests: row.get(from)?,
            tokens: row.get(from.saturating_add(1))?,
            cost: row.get(from.saturating_add(2))?,
        })
    };
    Ok(Standing { used: amounts(column)?, held: amounts(column.saturating_add(3))? })
}

/// A row of [`WINDOWS_AT`].
fn window_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<(Window, Standing)> {
    let per = per_of(row.get_ref(0)?.as_str()?);
    let time = |column| Ok::<_, rusqlite::Error>(Timestamp::from_millis(row.get(column)?));
    Ok((Window { per, start: time(1)?, end: time(2)? }, standing_at(row, 3)?))
}

fn per_of(name: &str) -> Per {
    Per::from_name(name).unwrap_or(Per::Lifetime)
}

fn to_i64(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
