//! What was used, summed up by day, user, model or plan.

use std::collections::BTreeMap;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::series::{Buckets, Steps};
use super::{Cursor, Page, Slice, day_of, dollars};
use crate::clock::Timestamp;
use crate::ledger::Failure;
use crate::ledger::db::Row;
use crate::ledger::report::{Reports, id_before};
use crate::plan;

/// What usage is summed up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// The calendar day in `[server] time_zone`, the newest first.
    Day,
    /// The user, the highest spend first.
    User,
    /// The model, the highest spend first.
    Model,
    /// The plan at that time, the highest spend first.
    Plan,
}

impl Key {
    /// From its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Day, Self::User, Self::Model, Self::Plan].into_iter().find(|key| key.as_str() == name)
    }

    /// As in the query.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::User => "user",
            Self::Model => "model",
            Self::Plan => "plan",
        }
    }

    const fn column(self) -> &'static str {
        match self {
            Self::Day | Self::User => "user_id",
            Self::Model => "model",
            Self::Plan => "plan",
        }
    }
}

/// Which usage is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Summed up by this.
    pub by: Key,
    /// Held at this moment or later.
    pub from: Timestamp,
    /// Held before this moment.
    pub until: Timestamp,
    /// Of this user only.
    pub user: Option<Uuid>,
}

/// What settled and lost requests add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
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

impl Sums {
    /// The columns that [`Sums::read`] reads.
    pub(super) const COLUMNS: &str = "cast(count(*) as bigint) as requests,
        cast(coalesce(sum(input_tokens), 0) as bigint) as input_tokens,
        cast(coalesce(sum(cached_input_tokens), 0) as bigint) as cached_input_tokens,
        cast(coalesce(sum(output_tokens), 0) as bigint) as output_tokens,
        cast(coalesce(sum(cost_micros), 0) as bigint) as cost";

    pub(super) fn read(row: &Row, first: usize) -> Result<Self, Failure> {
        let at = |offset: usize| row.int(first.saturating_add(offset));
        Ok(Self {
            requests: at(0)?,
            input_tokens: at(1)?,
            cached_input_tokens: at(2)?,
            output_tokens: at(3)?,
            cost_micros: at(4)?,
        })
    }

    pub(super) const fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.input_tokens = self.input_tokens.saturating_add(other.input_tokens);
        self.cached_input_tokens = self.cached_input_tokens.saturating_add(other.cached_input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
        self.cost_micros = self.cost_micros.saturating_add(other.cost_micros);
    }
}

/// A row of usage.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct UsageRow {
    /// The day, user, model or plan.
    pub key: String,
    /// Settled and lost requests.
    pub requests: i64,
    /// Prompt tokens.
    pub input_tokens: i64,
    /// The part of them read from a cache.
    pub cached_input_tokens: i64,
    /// Generated tokens.
    pub output_tokens: i64,
    /// Dollars with six places.
    pub cost_usd: String,
    #[serde(skip)]
    cost_micros: i64,
}

impl UsageRow {
    fn new(key: String, sums: &Sums) -> Self {
        Self {
            key,
            requests: sums.requests,
            input_tokens: sums.input_tokens,
            cached_input_tokens: sums.cached_input_tokens,
            output_tokens: sums.output_tokens,
            cost_usd: dollars(sums.cost_micros),
            cost_micros: sums.cost_micros,
        }
    }
}

/// What was used. Days without requests have no row.
///
/// # Errors
/// The ledger cannot be read.
pub fn list(reports: &Reports, wanted: Wanted, zone: &TimeZone, slice: &Slice) -> Result<Page<UsageRow>, Failure> {
    if wanted.by == Key::Day { by_day(reports, wanted, zone, slice) } else { by_column(reports, wanted, slice) }
}

fn by_column(reports: &Reports, wanted: Wanted, slice: &Slice) -> Result<Page<UsageRow>, Failure> {
    let (cost, key) = slice.after(i64::MAX);
    let column = wanted.by.column();
    let (narrowed, subject) = match wanted.user {
        Some(user) => ("user_id = $1", user.to_string()),
        None => ("id >= $1", id_before(wanted.from)),
    };
    let sql = format!(
        "select * from (select {column} as name, {} from ledger.requests
                        where {narrowed} and started_at >= $2 and started_at < $3 and state in ('settled', 'lost')
                        group by {column}) as sums
         where cost < $4 or (cost = $4 and name > $5) order by cost desc, name limit $6",
        Sums::COLUMNS
    );
    let (from, until) = (wanted.from.millis(), wanted.until.millis());
    let params = [subject.into(), from.into(), until.into(), cost.into(), key.into(), slice.asked().into()];
    let rows = reports.db().query(&sql, &params)?;
    let row = |row: &Row| Ok(UsageRow::new(row.text(0)?, &Sums::read(row, 1)?));
    let rows = rows.iter().map(row).collect::<Result<Vec<_>, Failure>>()?;
    Ok(slice.page(rows, |row| Cursor { score: row.cost_micros, key: row.key.clone() }))
}

/// Days begin where their zone says so, which no database is asked to know: rows are summed up in even steps of time
/// that no day cuts, and those into days.
fn by_day(reports: &Reports, wanted: Wanted, zone: &TimeZone, slice: &Slice) -> Result<Page<UsageRow>, Failure> {
    let none = || Ok(Page { rows: Vec::new(), next: None });
    let Some((first, last)) = first_and_last(reports, wanted)? else { return none() };
    let (first, last) = (day_of(first.max(wanted.from), zone), day_of(last.min(wanted.until), zone));
    let (before, _) = slice.after(i64::MAX);
    let mut days: BTreeMap<i64, (Date, Sums)> = BTreeMap::new();
    let steps = Steps::days(first, last, zone);
    let buckets = Buckets::read(reports, &steps, wanted)?;
    for (at, sums) in buckets.sums {
        let day = day_of(at, zone);
        let start = plan::day_of(day, zone).0.millis();
        if start < before {
            days.entry(start).or_insert_with(|| (day, Sums::default())).1.add(&sums);
        }
    }
    let asked = usize::try_from(slice.asked()).unwrap_or(usize::MAX);
    let rows = days.into_iter().rev().take(asked);
    let rows = rows.map(|(start, (day, sums))| (start, UsageRow::new(day.to_string(), &sums))).collect();
    let page = slice.page(rows, |(start, _)| Cursor { score: *start, key: String::new() });
    Ok(Page { rows: page.rows.into_iter().map(|(_, row)| row).collect(), next: page.next })
}

/// When the first and the last request of those wanted were held.
fn first_and_last(reports: &Reports, wanted: Wanted) -> Result<Option<(Timestamp, Timestamp)>, Failure> {
    let (narrowed, subject) = match wanted.user {
        Some(user) => ("user_id = $1", user.to_string()),
        None => ("id >= $1", id_before(wanted.from)),
    };
    let sql = format!(
        "select min(started_at), max(started_at) from ledger.requests
         where {narrowed} and started_at >= $2 and started_at < $3"
    );
    let params = [subject.into(), wanted.from.millis().into(), wanted.until.millis().into()];
    let Some(row) = reports.db().query_one(&sql, &params)? else { return Ok(None) };
    let time = |column| Ok::<_, Failure>(row.maybe_int(column)?.map(Timestamp::from_millis));
    Ok(time(0)?.zip(time(1)?))
}
