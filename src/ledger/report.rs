//! Reading the ledger, and the operator's few switches in it.
//!
//! A [`Reports`] is a connection of its own, so that reading never waits for the writer nor makes it wait. [`Desk`]
//! changes subscriptions and switches from the command line; the server sees that within a second. Neither touches money.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use serde::Serialize;
use uuid::Uuid;

use super::UserStanding;
use super::sqlite::{Book, Failure, connect, id_at};
use crate::clock::Timestamp;
use crate::plan::{Period, Subscription, Window};

/// The read side of the ledger.
#[derive(Debug)]
pub struct Reports {
    book: Book,
}

/// A row of the ledger, as `tollgate usage --requests --json` prints it.
#[derive(Clone, Debug, Serialize)]
pub struct RequestRow {
    /// The request's id.
    pub id: String,
    /// Whose.
    pub user_id: String,
    /// The plan at that time.
    pub plan: String,
    /// The path that was called.
    pub endpoint: String,
    /// The canonical model.
    pub model: String,
    /// Who served it.
    pub upstream: String,
    /// `held`, `settled`, `voided` or `lost`.
    pub state: String,
    /// `estimated`, `overrun` …
    pub flags: Vec<String>,
    /// Prompt tokens.
    pub input_tokens: i64,
    /// The part of them read from a cache.
    pub cached_input_tokens: i64,
    /// Generated tokens.
    pub output_tokens: i64,
    /// The part of them that nobody sees.
    pub reasoning_tokens: i64,
    /// What was held, in micro-dollars.
    pub held_micros: i64,
    /// What it cost, in micro-dollars.
    pub cost_micros: i64,
    /// RFC 3339.
    pub started_at: String,
    /// RFC 3339; null while it is open.
    pub ended_at: Option<String>,
    /// Milliseconds to the first byte, where there was one.
    pub ttft_ms: Option<i64>,
}

/// A row of the local subscription table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionRow {
    /// The plan's name; `None` where the row only blocks.
    pub plan: Option<String>,
    /// The subscription's period, for `period` limits.
    pub period: Option<Period>,
    /// The plan counts up to here; `None` for good.
    pub until: Option<Timestamp>,
    /// The operator blocked this user.
    pub blocked: bool,
}

impl SubscriptionRow {
    /// The row as it counts at `now`: a plan that has run out counts as none.
    #[must_use]
    pub fn at(&self, now: Timestamp) -> Subscription {
        let in_force = self.until.is_none_or(|until| now < until);
        Subscription {
            plan: self.plan.clone().filter(|_| in_force),
            period: self.period.filter(|_| in_force),
            blocked: self.blocked,
        }
    }
}

/// What ended requests of one model add up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSum {
    /// The model.
    pub model: String,
    /// Settled and lost requests.
    pub requests: i64,
    /// Prompt tokens.
    pub input_tokens: i64,
    /// The part of them read from a cache.
    pub cached_input_tokens: i64,
    /// Generated tokens.
    pub output_tokens: i64,
    /// Micro-dollars.
    pub cost_micros: i64,
}

/// Which requests are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Which {
    /// Of this user only.
    pub user_id: Option<Uuid>,
    /// Held at this moment or later.
    pub from: Option<Timestamp>,
    /// Held before this moment.
    pub until: Option<Timestamp>,
}

impl Reports {
    /// Opens an existing ledger for reading.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        if !path.exists() {
            return Err(Failure::new(format!(
                "there is no ledger at {} yet: `tollgate serve` makes it, or set [store] url",
                path.display()
            )));
        }
        Ok(Self { book: Book::reader(path)? })
    }

    /// What a user has used and holds in each of `windows`.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn standing(&self, user_id: Uuid, now: Timestamp, windows: &[Window]) -> Result<UserStanding, Failure> {
        self.book.standing(user_id, now, windows)
    }

    /// A user's row in the local subscription table.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn subscription(&self, user_id: Uuid) -> Result<Option<SubscriptionRow>, Failure> {
        let mut read = self.book.db.prepare_cached(
            "select plan, period_start, period_end, until, blocked from subscriptions where user_id = ?1",
        )?;
        Ok(read.query_row([user_id.to_string()], subscription_of).optional()?)
    }

    /// What a user's ended requests add up to in `[from, until)`, by model, in the order of their names.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn by_model(&self, which: Which) -> Result<Vec<ModelSum>, Failure> {
        let sql = format!(
            "select model, count(*), sum(input_tokens), sum(cached_input_tokens), sum(output_tokens), sum(cost_micros)
             from requests {} and state in ('settled', 'lost') group by model order by model",
            filter(which)
        );
        let mut read = self.book.db.prepare_cached(&sql)?;
        let rows = read.query_map(bounds(which), |row| {
            Ok(ModelSum {
                model: row.get(0)?,
                requests: row.get(1)?,
                input_tokens: row.get(2)?,
                cached_input_tokens: row.get(3)?,
                output_tokens: row.get(4)?,
                cost_micros: row.get(5)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Gives each request to `each`, oldest first, until it fails.
    ///
    /// # Errors
    /// The ledger cannot be read, or `each` failed.
    pub fn requests<E: From<Failure>>(
        &self,
        which: Which,
        mut each: impl FnMut(RequestRow) -> Result<(), E>,
    ) -> Result<(), E> {
        let sql = format!(
            "select {REQUEST_COLUMNS} from requests {} order by {}",
            filter(which),
            if which.user_id.is_some() { "started_at, id" } else { "id" }
        );
        let mut read = self.book.db.prepare(&sql).map_err(Failure::from)?;
        let mut rows = read.query(bounds(which)).map_err(Failure::from)?;
        while let Some(row) = rows.next().map_err(Failure::from)? {
            each(request_of(row).map_err(Failure::from)?)?;
        }
        Ok(())
    }

    /// Why the app is paused, if it is.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn paused(&self) -> Result<Option<String>, Failure> {
        let mut read = self.book.db.prepare_cached("select value from switches where name = 'paused'")?;
        Ok(read.query_row([], |row| row.get(0)).optional()?)
    }

    /// When the first request of a kind was held.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn first_request(&self, which: Which) -> Result<Option<Timestamp>, Failure> {
        let sql = format!("select min(started_at) from requests {}", filter(which));
        let first: Option<i64> = self.book.db.prepare_cached(&sql)?.query_row(bounds(which), |row| row.get(0))?;
        Ok(first.map(Timestamp::from_millis))
    }
}

/// All users' rows are found by id, which begins with the time; the margin of an hour covers holds that waited.
const fn filter(which: Which) -> &'static str {
    if which.user_id.is_some() {
        return "where user_id = ?1 and started_at >= ?2 and started_at < ?3";
    }
    "where id >= ?1 and started_at >= ?2 and started_at < ?3"
}

fn bounds(which: Which) -> (String, i64, i64) {
    let from = which.from.unwrap_or(Timestamp::EPOCH);
    let until = which.until.unwrap_or(Timestamp::MAX);
    let first = || id_at(from.minus(std::time::Duration::from_hours(1)));
    let subject = which.user_id.map_or_else(first, |id| id.to_string());
    (subject, from.millis(), until.millis())
}

fn subscription_of(row: &Row<'_>) -> rusqlite::Result<SubscriptionRow> {
    let time = |ms: Option<i64>| ms.map(Timestamp::from_millis);
    let period = time(row.get(1)?).zip(time(row.get(2)?));
    Ok(SubscriptionRow {
        plan: row.get(0)?,
        period: period.map(|(start, end)| Period { start, end }),
        until: time(row.get(3)?),
        blocked: row.get(4)?,
    })
}

/// What [`request_of`] reads, in its order.
pub(super) const REQUEST_COLUMNS: &str = "id, user_id, plan, endpoint, model, upstream, state, flags, input_tokens,
    cached_input_tokens, output_tokens, reasoning_tokens, held_micros, cost_micros, started_at, ended_at, ttft_ms";

pub(super) fn request_of(row: &Row<'_>) -> rusqlite::Result<RequestRow> {
    let time = |ms: i64| Timestamp::from_millis(ms).rfc3339();
    let flags: String = row.get(7)?;
    Ok(RequestRow {
        id: row.get(0)?,
        user_id: row.get(1)?,
        plan: row.get(2)?,
        endpoint: row.get(3)?,
        model: row.get(4)?,
        upstream: row.get(5)?,
        state: row.get(6)?,
        flags: flags.split(',').filter(|flag| !flag.is_empty()).map(str::to_owned).collect(),
        input_tokens: row.get(8)?,
        cached_input_tokens: row.get(9)?,
        output_tokens: row.get(10)?,
        reasoning_tokens: row.get(11)?,
        held_micros: row.get(12)?,
        cost_micros: row.get(13)?,
        started_at: time(row.get(14)?),
        ended_at: row.get::<_, Option<i64>>(15)?.map(time),
        ttft_ms: row.get(16)?,
    })
}

/// The operator's switches: subscriptions, blocks, pause.
#[derive(Debug)]
pub struct Desk {
    db: Connection,
}

impl Desk {
    /// Opens the ledger, making it where there is none.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .map_err(|error| Failure::new(format!("cannot make the folder {}: {error}", folder.display())))?;
        }
        // Opening it as a book makes its tables.
        drop(Book::open(path, Uuid::nil())?);
        Ok(Self { db: connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)? })
    }

    /// Gives a user a plan (until a moment, or for good; with a period for `period` limits), or takes it away. A block
    /// stays as it is.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub fn set_plan(&self, user_id: Uuid, row: &SubscriptionRow, now: Timestamp) -> Result<(), Failure> {
        let period = row.period;
        self.db.execute(
            "insert into subscriptions (user_id, plan, until, period_start, period_end, updated_at)
             values (?1, ?2, ?3, ?4, ?5, ?6)
             on conflict (user_id) do update set plan = excluded.plan, until = excluded.until,
                 period_start = excluded.period_start, period_end = excluded.period_end,
                 updated_at = excluded.updated_at",
            params![
                user_id.to_string(),
                row.plan,
                row.until.map(Timestamp::millis),
                period.map(|period| period.start.millis()),
                period.map(|period| period.end.millis()),
                now.millis()
            ],
        )?;
        Ok(())
    }

    /// Blocks a user, or lifts the block.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub fn set_blocked(&self, user_id: Uuid, blocked: bool, now: Timestamp) -> Result<(), Failure> {
        self.db.execute(
            "insert into subscriptions (user_id, blocked, updated_at) values (?1, ?2, ?3)
             on conflict (user_id) do update set blocked = excluded.blocked, updated_at = excluded.updated_at",
            params![user_id.to_string(), blocked, now.millis()],
        )?;
        Ok(())
    }

    /// Pauses the whole app for a reason.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub fn pause(&self, reason: &str, now: Timestamp) -> Result<(), Failure> {
        self.db.execute(
            "insert or replace into switches (name, value, updated_at) values ('paused', ?1, ?2)",
            params![reason, now.millis()],
        )?;
        Ok(())
    }

    /// Lets the app go on. Gives back whether it was paused.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub fn resume(&self) -> Result<bool, Failure> {
        Ok(self.db.execute("delete from switches where name = 'paused'", [])? > 0)
    }
}
