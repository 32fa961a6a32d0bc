//! Reading the ledger, and the operator's few switches in it.
//!
//! A [`Reports`] is a connection of its own, so that reading never waits for the writer nor makes it wait. [`Desk`] is
//! where the operator's changes are written; every server sees them within a second. Neither touches money.

use std::sync::LazyLock;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::config::StoreUrl;
use crate::ledger::read::connection::{Cell, Db, Row};
use crate::ledger::sqlite::{Book, Failure, id_at};
use crate::ledger::{Flag, Repetition, UserBalance, file};
use crate::plan::{
    Amounts, Balance, Credit, LimitCounter, Per, Period, Purchase, Subscription, Unit, Window,
};
use crate::price::Quantities;

/// The read side of the ledger.
#[derive(Debug)]
pub struct Reports {
    db: Db,
}

/// A row of the ledger, as `tollgate usage --requests --json` prints it.
#[derive(Clone, Debug, Serialize, ToSchema)]
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
    /// What it used.
    #[serde(flatten)]
    pub used: Quantities,
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
    /// The name that the app asked for.
    pub requested_model: String,
    /// `plan` or `credits`.
    pub paid_by: String,
    /// The rates that it was priced by; null in rows that are older than that.
    pub price_id: Option<String>,
    /// What the app calls the request, by `X-Tollgate-Feature`.
    pub feature: Option<String>,
    /// The version of a prompt that lives on the server.
    pub prompt_version: Option<String>,
    /// The name in the plan that it goes by, where that is not `model`.
    pub plan_model: Option<String>,
    /// What of its cost credits paid, in micro-dollars.
    pub credit_micros: i64,
    /// Of whom the user is, if not the project's; read for the outbox only.
    #[serde(skip)]
    pub issuer: Option<String>,
    /// What that issuer calls the user.
    #[serde(skip)]
    pub subject: Option<String>,
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

/// What the operator said about a user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserOverrides {
    /// The row in the local subscription table, if there is one.
    pub subscription: Option<SubscriptionRow>,
    /// Credits that may count; in most cases none.
    pub credits: Vec<Credit>,
    /// What the user bought and may count.
    pub purchases: Vec<Purchase>,
}

impl UserOverrides {
    /// The operator blocked this user.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.subscription.as_ref().is_some_and(|row| row.blocked)
    }

    /// The subscription as it counts at `now`.
    #[must_use]
    pub fn subscription_at(&self, now: Timestamp) -> Option<Subscription> {
        self.subscription.as_ref().map(|row| row.at(now))
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
    /// Images that were made.
    pub images: i64,
    /// Seconds of audio.
    pub audio_seconds: i64,
    /// Characters that were spoken.
    pub characters: i64,
    /// Micro-dollars.
    pub cost_micros: i64,
}

/// Which requests are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReportRange {
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
            StoreUrl::Sqlite(path) => {
                file::require(path)?;
                Ok(Self {
                    db: Db::Sqlite(Box::new(Book::reader(path)?)),
                })
            }
            StoreUrl::Postgres(url) => Ok(Self {
                db: crate::ledger::postgres::database(url)?,
            }),
        }
    }

    pub(crate) const fn db(&self) -> &Db {
        &self.db
    }

    /// What a user has used and holds by each of `counters`.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn standing(
        &self,
        user_id: Uuid,
        now: Timestamp,
        counters: &[LimitCounter],
    ) -> Result<UserBalance, Failure> {
        match &self.db {
            Db::Sqlite(book) => book.standing(user_id, now, counters),
            Db::Postgres(..) | Db::Transaction(..) => {
                crate::ledger::postgres::standing(&self.db, (user_id, now), counters)
            }
        }
    }

    /// Where a window of the whole app stands: nothing, if none was spent in it.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn app_window(&self, window: &Window) -> Result<Balance, Failure> {
        let columns = [
            "requests_used",
            "tokens_used",
            "micros_used",
            "requests_held",
            "tokens_held",
            "micros_held",
        ];
        let sums = columns
            .map(|column| format!("cast(coalesce(sum({column}), 0) as bigint)"))
            .join(", ");
        let sql = format!(
            "select {sums} from ledger.windows where user_id = 'app' and per = $1 and starts_at = $2 and ends_at = $3"
        );
        let bounds = [
            window.per.as_str().into(),
            window.start.millis().into(),
            window.end.millis().into(),
        ];
        let Some(row) = self.db.query_one(&sql, &bounds)? else {
            return Ok(Balance::default());
        };
        let amounts = |from: usize| -> Result<Amounts, Failure> {
            let at = |step: usize| row.int(from.saturating_add(step));
            Ok(Amounts {
                requests: at(0)?,
                tokens: at(1)?,
                cost: at(2)?,
                ..Amounts::default()
            })
        };
        Ok(Balance {
            used: amounts(0)?,
            held: amounts(3)?,
        })
    }

    /// What the operator said about a user: the subscription, and credits that may count at `now`. One question, so
    /// that it costs no more than the subscription alone.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn said_of(&self, user_id: Uuid, now: Timestamp) -> Result<UserOverrides, Failure> {
        said_of(&self.db, user_id, now)
    }

    /// What a user's ended requests add up to in `[from, until)`, by model, in the order of their names.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn by_model(&self, which: ReportRange) -> Result<Vec<ModelSum>, Failure> {
        let sql = format!(
            "select model, cast(count(*) as bigint), cast(sum(input_tokens) as bigint),
                    cast(sum(cached_input_tokens) as bigint), cast(sum(output_tokens) as bigint),
                    cast(sum(cost_micros) as bigint), cast(sum(images) as bigint),
                    cast(sum(audio_seconds) as bigint), cast(sum(characters) as bigint)
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
                images: row.int(6)?,
                audio_seconds: row.int(7)?,
                characters: row.int(8)?,
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
        which: ReportRange,
        mut each: impl FnMut(RequestRow) -> Result<(), E>,
    ) -> Result<(), E> {
        let sql = format!(
            "select {} from ledger.requests {} and id > $4 order by id limit $5",
            request_columns(),
            filter(which)
        );
        let mut last = String::new();
        loop {
            let mut params = bounds(which).to_vec();
            params.extend([last.clone().into(), PAGE_ROWS.into()]);
            let rows = self.db.query(&sql, &params)?;
            let Some(row) = rows.last() else {
                return Ok(());
            };
            last = row.text(0)?;
            for row in &rows {
                each(request_of(row)?)?;
            }
        }
    }

    /// A user's request with this id, if it was sent with an `Idempotency-Key` that it still has.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn keyed_request(&self, user_id: Uuid, id: Uuid) -> Result<Option<Repetition>, Failure> {
        let sql = "select r.state, coalesce(r.cost_micros, 0) from ledger.requests r
                   where r.id = $1 and r.user_id = $2 and exists (select 1 from ledger.idempotency_keys k
                         where k.user_id = r.user_id and k.request_id = r.id)";
        let names = [id.to_string().into(), user_id.to_string().into()];
        let row = self.db.query_one(sql, &names)?;
        row.map(|row| {
            let (state, cost) = (row.text(0)?, row.int(1)?);
            Ok(Repetition::of_row(
                &id.to_string(),
                true,
                Some(&state),
                cost,
            ))
        })
        .transpose()
    }

    /// When the last request of a kind was held.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn last_request(&self, which: ReportRange) -> Result<Option<Timestamp>, Failure> {
        let sql = format!(
            "select max(started_at) from ledger.requests {}",
            filter(which)
        );
        let last = self.db.query_one(&sql, &bounds(which))?;
        Ok(last
            .map(|row| row.maybe_int(0))
            .transpose()?
            .flatten()
            .map(Timestamp::from_millis))
    }
}

impl Reports {
    /// Whether a request to an upstream since then has a flag.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn is_flagged(
        &self,
        upstream: &str,
        flag: Flag,
        since: Timestamp,
    ) -> Result<bool, Failure> {
        let sql = "select flags from ledger.requests
                   where id >= $1 and upstream = $2 and ',' || flags || ',' like '%,' || $3 || ',%' limit 1";
        let params = [
            id_before(since).into(),
            upstream.to_owned().into(),
            flag.as_str().to_owned().into(),
        ];
        Ok(self.db.query_one(sql, &params)?.is_some())
    }
}

/// Below the id of every request that was held at a moment or later: an id begins with the time, and the margin of an
/// hour covers holds that waited.
pub(crate) fn id_before(moment: Timestamp) -> String {
    id_at(moment.minus(Duration::from_hours(1)))
}

/// All users' rows are found by id, which begins with the time; the margin of an hour covers holds that waited.
const fn filter(which: ReportRange) -> &'static str {
    if which.user_id.is_some() {
        return "where user_id = $1 and started_at >= $2 and started_at < $3";
    }
    "where id >= $1 and started_at >= $2 and started_at < $3"
}

fn bounds(which: ReportRange) -> [Cell; 3] {
    let from = which.from.unwrap_or(Timestamp::EPOCH);
    let until = which.until.unwrap_or(Timestamp::MAX);
    let first = || id_before(from);
    let subject = which.user_id.map_or_else(first, |id| id.to_string());
    [subject.into(), from.millis().into(), until.millis().into()]
}

/// The subscription, the credits and the purchases of a user, in this order.
const SAID_OF: &str = "select plan, period_start, period_end, until, blocked, null, null, cast(null as bigint), cast(null as bigint)
    from ledger.subscriptions where user_id = $1
    union all
    select null, null, null, given_at, amount, per, unit, null, null from ledger.credits
    where user_id = $1 and counts_until > $2
    union all
    select p.product, p.purchased_at, p.expires_at, p.ends_at, p.sandbox, 'purchase', p.store, o.will_renew, 1
    from ledger.purchase_origins as o
    join ledger.purchases as p on p.store = o.store and p.original_id = o.original_id
    where o.user_id = $1 and p.product is not null and p.state <> 'unknown'
      and (p.ends_at is null or p.ends_at > $3)";

pub(crate) fn said_of(db: &Db, user_id: Uuid, now: Timestamp) -> Result<UserOverrides, Failure> {
    // The margin is for a time zone that was changed since.
    let since = now.minus(Duration::from_hours(26)).millis();
    let mut said = UserOverrides::default();
    let params = [
        user_id.to_string().into(),
        since.into(),
        now.millis().into(),
    ];
    for row in db.query(SAID_OF, &params)? {
        match row.maybe_text(5)? {
            None => said.subscription = Some(subscription_of(&row)?),
            Some(_) if row.maybe_int(8)?.is_some() => said.purchases.push(purchase_of(&row)?),
            Some(per) => said.credits.extend(credit_of(&row, &per)?),
        }
    }
    Ok(said)
}

fn purchase_of(row: &Row) -> Result<Purchase, Failure> {
    let time = |column| Ok::<_, Failure>(row.maybe_int(column)?.map(Timestamp::from_millis));
    Ok(Purchase {
        product: row.text(0)?,
        purchased_at: time(1)?.unwrap_or(Timestamp::EPOCH),
        expires_at: time(2)?,
        ends_at: time(3)?,
        is_sandbox: row.int(4)? != 0,
        store: row.text(6)?,
        will_renew: row.maybe_int(7)?.map(|renews| renews != 0),
    })
}

/// None where a newer version knows more kinds of limits.
fn credit_of(row: &Row, per: &str) -> Result<Option<Credit>, Failure> {
    let (given_at, amount) = (Timestamp::from_millis(row.int(3)?), row.int(4)?);
    let kind = Per::from_name(per).zip(Unit::from_name(&row.text(6)?));
    Ok(kind.map(|(per, unit)| Credit {
        per,
        unit,
        amount,
        given_at,
    }))
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
pub(crate) fn request_columns() -> &'static str {
    static COLUMNS: LazyLock<String> = LazyLock::new(|| {
        format!(
            "id, user_id, plan, endpoint, model, upstream, state, flags, held_micros, cost_micros, started_at, ended_at,
             ttft_ms, coalesce(requested_model, model), paid_by, price_id, feature, prompt_version,
             plan_model, credit_micros, {}",
            Quantities::NAMES.join(", ")
        )
    });
    &COLUMNS
}

/// Where `started_at` stands among [`request_columns`].
pub(crate) const STARTED_AT: usize = 10;
/// Where quantities begin among [`request_columns`].
const QUANTITIES: usize = 20;

pub(crate) fn request_of(row: &Row) -> Result<RequestRow, Failure> {
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
        flags: flags
            .split(',')
            .filter(|flag| !flag.is_empty())
            .map(str::to_owned)
            .collect(),
        used: quantities_of(row, QUANTITIES)?,
        held_micros: row.int(8)?,
        cost_micros: row.int(9)?,
        started_at: time(row.int(STARTED_AT)?),
        ended_at: row.maybe_int(11)?.map(time),
        ttft_ms: row.maybe_int(12)?,
        requested_model: row.text(13)?,
        paid_by: row.text(14)?,
        price_id: row.maybe_text(15)?,
        feature: row.maybe_text(16)?,
        prompt_version: row.maybe_text(17)?,
        plan_model: row.maybe_text(18)?,
        credit_micros: row.int(19)?,
        issuer: None,
        subject: None,
    })
}

/// A row for the outbox: behind [`request_columns`] stand issuer and subject.
pub(crate) fn unsent_of(row: &Row) -> Result<RequestRow, Failure> {
    let first = QUANTITIES.saturating_add(Quantities::NAMES.len());
    Ok(RequestRow {
        issuer: row.maybe_text(first)?,
        subject: row.maybe_text(first.saturating_add(1))?,
        ..request_of(row)?
    })
}

/// Quantities that stand in a row from a column on, in the order of their names.
pub(crate) fn quantities_of(row: &Row, first: usize) -> Result<Quantities, Failure> {
    let mut values = Quantities::NONE.values();
    for (place, value) in (first..).zip(&mut values) {
        *value = u64::try_from(row.int(place)?).unwrap_or(0);
    }
    Ok(Quantities::from_values(values))
}

/// The ledger, open for what an operator changes: see [`crate::operator::queries`]. It writes no money.
#[derive(Debug)]
pub struct Desk {
    db: Db,
}

/// Who changes something, and when.
#[derive(Clone, Copy, Debug)]
pub struct By<'a> {
    /// The name of a token, or of the command line.
    pub name: &'a str,
    /// When.
    pub at: Timestamp,
}

impl Desk {
    /// Opens a ledger that is there: what is meant for the app that runs must not go into a new one. For Postgres as
    /// [`Reports::open`].
    ///
    /// # Errors
    /// There is none, or it cannot be written, or a server has another one open in its place.
    pub fn open(store: &StoreUrl) -> Result<Self, Failure> {
        match store {
            StoreUrl::Sqlite(path) => {
                file::require(path)?;
                file::require_served(path)?;
                Ok(Self {
                    db: Db::Sqlite(Box::new(Book::existing(path, Uuid::nil())?)),
                })
            }
            StoreUrl::Postgres(url) => {
                let db = crate::ledger::postgres::database(url)?;
                crate::ledger::postgres::require(&db)?;
                crate::ledger::postgres::migrate(&db)?;
                Ok(Self { db })
            }
        }
    }

    /// Opens the ledger, or makes it where there is none; also whether it did. For Postgres as [`Reports::open`].
    ///
    /// # Errors
    /// It cannot be written.
    pub fn open_or_make(store: &StoreUrl) -> Result<(Self, bool), Failure> {
        match store {
            StoreUrl::Sqlite(path) => {
                file::require_served(path)?;
                let (book, made) = Book::open_or_make(path, Uuid::nil())?;
                Ok((
                    Self {
                        db: Db::Sqlite(Box::new(book)),
                    },
                    made,
                ))
            }
            StoreUrl::Postgres(url) => {
                let db = crate::ledger::postgres::database(url)?;
                let made = !crate::ledger::postgres::is_there(&db)?;
                crate::ledger::postgres::migrate(&db)?;
                Ok((Self { db }, made))
            }
        }
    }

    pub(crate) const fn db(&self) -> &Db {
        &self.db
    }

    /// Changes something and notes who did, in one transaction, and tells other processes that there is something new.
    /// (On SQLite the file tells them.) `steps` gives back what to note, or nothing where nothing changed.
    pub(crate) fn change<T>(
        &self,
        by: By<'_>,
        (action, user_id): (&str, Option<Uuid>),
        steps: impl FnOnce(&Db) -> Result<(T, Option<Value>), Failure>,
    ) -> Result<T, Failure> {
        self.db.in_transaction(|db| {
            let (value, detail) = steps(db)?;
            if let Some(detail) = detail {
                note(db, by, (action, user_id), &detail)?;
            }
            Ok(value)
        })
    }
}

/// Notes who changed what, inside the transaction of the change, and tells other processes.
pub(crate) fn note(
    db: &Db,
    by: By<'_>,
    (action, user_id): (&str, Option<Uuid>),
    detail: &Value,
) -> Result<(), Failure> {
    db.query(
        "insert into ledger.audit (id, at, actor, action, user_id, detail) values ($1, $2, $3, $4, $5, $6)",
        &[
            Uuid::now_v7().to_string().into(),
            by.at.millis().into(),
            by.name.into(),
            action.into(),
            user_id.map(|id| id.to_string()).into(),
            detail.to_string().into(),
        ],
    )?;
    if let Db::Transaction(..) = db {
        db.query(
            "insert into ledger.switches (name, value, updated_at) values ('epoch', '1', 1)
             on conflict (name) do update set updated_at = ledger.switches.updated_at + 1",
            &[],
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;
    use crate::ledger::read::connection::on_sqlite;

    /// Every request of somebody who asks seldom reads this: it must not be compiled each time.
    #[test]
    fn what_is_said_of_a_user_is_planned_once() {
        let path = std::env::temp_dir().join(format!("tollgate-said-{}.db", Uuid::now_v7()));
        let db = Db::Sqlite(Box::new(Book::open(&path, Uuid::now_v7()).unwrap()));
        for user in 1..=3 {
            let said = said_of(&db, Uuid::from_u128(user), Timestamp::from_millis(7)).unwrap();
            assert_eq!(said, UserOverrides::default());
        }
        let Db::Sqlite(book) = &db else {
            panic!("it is a file");
        };
        let kept = book.db.prepare_cached(&on_sqlite(SAID_OF)).unwrap();
        assert_eq!(kept.get_status(StatementStatus::Run), 3, "it is kept");
        assert_eq!(kept.get_status(StatementStatus::RePrepare), 0);
        drop(kept);
        drop(db);
        drop(std::fs::remove_file(&path));
    }
}
