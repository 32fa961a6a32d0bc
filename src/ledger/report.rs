//! Reading the ledger, and the operator's few switches in it.
//!
//! A [`Reports`] is a connection of its own, so that reading never waits for the writer nor makes it wait. [`Desk`]
//! changes subscriptions and switches from the command line; the server sees that within a second. Neither touches money.

use serde::Serialize;
use uuid::Uuid;

use super::UserStanding;
use super::db::{Cell, Db, Row};
use super::sqlite::{Book, Failure, id_at};
use crate::clock::Timestamp;
use crate::config::StoreUrl;
use crate::plan::{Amounts, Period, Standing, Subscription, Window};

/// The read side of the ledger.
#[derive(Debug)]
pub struct Reports {
    db: Db,
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

/// How many requests are read at once.
const PAGE_ROWS: i64 = 1000;

impl Reports {
    /// Opens an existing ledger for reading. For Postgres: inside the runtime, and then asked from a thread that may
    /// block; nothing is dialled yet.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn open(store: &StoreUrl) -> Result<Self, Failure> {
        match store {
            StoreUrl::Sqlite(path) if !path.exists() => Err(Failure::new(format!(
                "there is no ledger at {} yet: `tollgate serve` makes it, or set [store] url",
                path.display()
            ))),
            StoreUrl::Sqlite(path) => Ok(Self { db: Db::Sqlite(Book::reader(path)?) }),
            StoreUrl::Postgres(url) => Ok(Self { db: super::postgres::database(url)? }),
        }
    }

    /// What a user has used and holds in each of `windows`.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn standing(&self, user_id: Uuid, now: Timestamp, windows: &[Window]) -> Result<UserStanding, Failure> {
        match &self.db {
            Db::Sqlite(book) => book.standing(user_id, now, windows),
            Db::Postgres(..) | Db::Transaction(..) => super::postgres::standing(&self.db, user_id, windows),
        }
    }

    /// Where a window of the whole app stands: nothing, if none was spent in it.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn app_window(&self, window: &Window) -> Result<Standing, Failure> {
        let columns = ["requests_used", "tokens_used", "micros_used", "requests_held", "tokens_held", "micros_held"];
        let sums = columns.map(|column| format!("cast(coalesce(sum({column}), 0) as bigint)")).join(", ");
        let sql = format!(
            "select {sums} from ledger.windows where user_id = 'app' and per = $1 and starts_at = $2 and ends_at = $3"
        );
        let bounds = [window.per.as_str().into(), window.start.millis().into(), window.end.millis().into()];
        let Some(row) = self.db.query_one(&sql, &bounds)? else { return Ok(Standing::default()) };
        let amounts = |from: usize| -> Result<Amounts, Failure> {
            let at = |step: usize| row.int(from.saturating_add(step));
            Ok(Amounts { requests: at(0)?, tokens: at(1)?, cost: at(2)? })
        };
        Ok(Standing { used: amounts(0)?, held: amounts(3)? })
    }

    /// A user's row in the local subscription table.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn subscription(&self, user_id: Uuid) -> Result<Option<SubscriptionRow>, Failure> {
        let sql = "select plan, period_start, period_end, until, blocked from ledger.subscriptions where user_id = $1";
        let row = self.db.query_one(sql, &[user_id.to_string().into()])?;
        row.map(|row| subscription_of(&row)).transpose()
    }

    /// What a user's ended requests add up to in `[from, until)`, by model, in the order of their names.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn by_model(&self, which: Which) -> Result<Vec<ModelSum>, Failure> {
        let sql = format!(
            "select model, cast(count(*) as bigint), cast(sum(input_tokens) as bigint),
                    cast(sum(cached_input_tokens) as bigint), cast(sum(output_tokens) as bigint),
                    cast(sum(cost_micros) as bigint)
             from ledger.requests {} and state in ('settled', 'lost') group by model order by model",
            filter(which)
        );
        let rows = self.db.query(&sql, &bounds(which))?;
        let sum = |row: &Row| {
            Ok(ModelSum {
                model: row.text(0)?,
                requests: row.int(1)?,
                input_tokens: row.int(2)?,
                cached_input_tokens: row.int(3)?,
                output_tokens: row.int(4)?,
                cost_micros: row.int(5)?,
            })
        };
        rows.iter().map(sum).collect()
    }

    /// Gives each request to `each`, in the order in which they came in, until it fails.
    ///
    /// # Errors
    /// The ledger cannot be read, or `each` failed.
    pub fn requests<E: From<Failure>>(
        &self,
        which: Which,
        mut each: impl FnMut(RequestRow) -> Result<(), E>,
    ) -> Result<(), E> {
        let sql =
            format!("select {REQUEST_COLUMNS} from ledger.requests {} and id > $4 order by id limit $5", filter(which));
        let mut last = String::new();
        loop {
            let mut params = bounds(which).to_vec();
            params.extend([last.clone().into(), PAGE_ROWS.into()]);
            let rows = self.db.query(&sql, &params)?;
            let Some(row) = rows.last() else { return Ok(()) };
            last = row.text(0)?;
            for row in &rows {
                each(request_of(row)?)?;
            }
        }
    }

    /// When the first request of a kind was held.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn first_request(&self, which: Which) -> Result<Option<Timestamp>, Failure> {
        let sql = format!("select min(started_at) from ledger.requests {}", filter(which));
        let first = self.db.query_one(&sql, &bounds(which))?;
        Ok(first.map(|row| row.maybe_int(0)).transpose()?.flatten().map(Timestamp::from_millis))
    }
}

/// All users' rows are found by id, which begins with the time; the margin of an hour covers holds that waited.
const fn filter(which: Which) -> &'static str {
    if which.user_id.is_some() {
        return "where user_id = $1 and started_at >= $2 and started_at < $3";
    }
    "where id >= $1 and started_at >= $2 and started_at < $3"
}

fn bounds(which: Which) -> [Cell; 3] {
    let from = which.from.unwrap_or(Timestamp::EPOCH);
    let until = which.until.unwrap_or(Timestamp::MAX);
    let first = || id_at(from.minus(std::time::Duration::from_hours(1)));
    let subject = which.user_id.map_or_else(first, |id| id.to_string());
    [subject.into(), from.millis().into(), until.millis().into()]
}

fn subscription_of(row: &Row) -> Result<SubscriptionRow, Failure> {
    let time = |column| Ok::<_, Failure>(row.maybe_int(column)?.map(Timestamp::from_millis));
    let period = time(1)?.zip(time(2)?);
    Ok(SubscriptionRow {
        plan: row.maybe_text(0)?,
        period: period.map(|(start, end)| Period { start, end }),
        until: time(3)?,
        blocked: row.int(4)? != 0,
    })
}

/// What [`request_of`] reads, in its order.
pub(super) const REQUEST_COLUMNS: &str = "id, user_id, plan, endpoint, model, upstream, state, flags, input_tokens,
    cached_input_tokens, output_tokens, reasoning_tokens, held_micros, cost_micros, started_at, ended_at, ttft_ms";

pub(super) fn request_of(row: &Row) -> Result<RequestRow, Failure> {
    let time = |ms: i64| Timestamp::from_millis(ms).rfc3339();
    let flags = row.text(7)?;
    Ok(RequestRow {
        id: row.text(0)?,
        user_id: row.text(1)?,
        plan: row.text(2)?,
        endpoint: row.text(3)?,
        model: row.text(4)?,
        upstream: row.text(5)?,
        state: row.text(6)?,
        flags: flags.split(',').filter(|flag| !flag.is_empty()).map(str::to_owned).collect(),
        input_tokens: row.int(8)?,
        cached_input_tokens: row.int(9)?,
        output_tokens: row.int(10)?,
        reasoning_tokens: row.int(11)?,
        held_micros: row.int(12)?,
        cost_micros: row.int(13)?,
        started_at: time(row.int(14)?),
        ended_at: row.maybe_int(15)?.map(time),
        ttft_ms: row.maybe_int(16)?,
    })
}

/// The operator's switches: subscriptions, blocks, pause.
#[derive(Debug)]
pub struct Desk {
    db: Db,
}

impl Desk {
    /// Opens the ledger, making it where there is none. For Postgres as [`Reports::open`].
    ///
    /// # Errors
    /// It cannot be written.
    pub fn open(store: &StoreUrl) -> Result<Self, Failure> {
        match store {
            StoreUrl::Sqlite(path) => {
                super::sqlite::make_folder(path)?;
                Ok(Self { db: Db::Sqlite(Book::open(path, Uuid::nil())?) })
            }
            StoreUrl::Postgres(url) => {
                let db = super::postgres::database(url)?;
                super::postgres::migrate(&db)?;
                Ok(Self { db })
            }
        }
    }

    /// Gives a user a plan (until a moment, or for good; with a period for `period` limits), or takes it away. A block
    /// stays as it is.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub fn set_plan(&self, user_id: Uuid, row: &SubscriptionRow, now: Timestamp) -> Result<(), Failure> {
        let period = row.period;
        self.change(
            "insert into ledger.subscriptions (user_id, plan, until, period_start, period_end, updated_at)
             values ($1, $2, $3, $4, $5, $6)
             on conflict (user_id) do update set plan = excluded.plan, until = excluded.until,
                 period_start = excluded.period_start, period_end = excluded.period_end,
                 updated_at = excluded.updated_at",
            &[
                user_id.to_string().into(),
                row.plan.clone().into(),
                row.until.map(Timestamp::millis).into(),
                period.map(|period| period.start.millis()).into(),
                period.map(|period| period.end.millis()).into(),
                now.millis().into(),
            ],
        )?;
        Ok(())
    }

    /// Blocks a user, or lifts the block.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub fn set_blocked(&self, user_id: Uuid, blocked: bool, now: Timestamp) -> Result<(), Failure> {
        self.change(
            "insert into ledger.subscriptions (user_id, blocked, updated_at) values ($1, $2, $3)
             on conflict (user_id) do update set blocked = excluded.blocked, updated_at = excluded.updated_at",
            &[user_id.to_string().into(), i64::from(blocked).into(), now.millis().into()],
        )?;
        Ok(())
    }

    /// Pauses the whole app for a reason.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub fn pause(&self, reason: &str, now: Timestamp) -> Result<(), Failure> {
        self.change(
            "insert into ledger.switches (name, value, updated_at) values ('paused', $1, $2)
             on conflict (name) do update set value = excluded.value, updated_at = excluded.updated_at",
            &[reason.into(), now.millis().into()],
        )?;
        Ok(())
    }

    /// Lets the app go on. Gives back whether it was paused.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub fn resume(&self) -> Result<bool, Failure> {
        Ok(!self.change("delete from ledger.switches where name = 'paused' returning name", &[])?.is_empty())
    }

    /// Changes something, and tells other processes that there is something new. (On SQLite the file tells them.)
    fn change(&self, sql: &str, params: &[Cell]) -> Result<Vec<Row>, Failure> {
        let rows = self.db.query(sql, params)?;
        if let Db::Postgres(..) = self.db {
            self.db.query(
                "insert into ledger.switches (name, value, updated_at) values ('epoch', '1', 1)
                 on conflict (name) do update set updated_at = ledger.switches.updated_at + 1",
                &[],
            )?;
        }
        Ok(rows)
    }
}
