//! What was used, summed up by day, user, model, plan, endpoint or feature.

use std::collections::BTreeMap;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Serialize;
use utoipa::ToSchema;

use super::series::{Steps, TimeBuckets};
use super::sums::{GroupBy, Sums, UsageFilter};
use super::{Cursor, Page, Slice, dollars};
use crate::clock::Timestamp;
use crate::ledger::Failure;
use crate::ledger::read::connection::Row;
use crate::ledger::read::report::{Reports, id_before};
use crate::plan::{self, date_of};

/// A row of usage.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct UsageRow {
    /// The day, user, model, plan, endpoint or feature.
    pub key: String,
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
            images: sums.images,
            audio_seconds: sums.audio_seconds,
            characters: sums.characters,
            cost_usd: dollars(sums.cost_micros),
            cost_micros: sums.cost_micros,
        }
    }
}

/// What was used. Days without requests have no row.
///
/// # Errors
/// The ledger cannot be read.
pub fn list(
    reports: &Reports,
    wanted: UsageFilter,
    zone: &TimeZone,
    slice: &Slice,
) -> Result<Page<UsageRow>, Failure> {
    if wanted.by == GroupBy::Day {
        by_day(reports, wanted, zone, slice)
    } else {
        by_column(reports, wanted, slice)
    }
}

fn by_column(
    reports: &Reports,
    wanted: UsageFilter,
    slice: &Slice,
) -> Result<Page<UsageRow>, Failure> {
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
    let params = [
        subject.into(),
        from.into(),
        until.into(),
        cost.into(),
        key.into(),
        slice.asked().into(),
    ];
    let rows = reports.db().query(&sql, &params)?;
    let row = |row: &Row| Ok(UsageRow::new(row.text(0)?, &Sums::read(row, 1)?));
    let rows = rows.iter().map(row).collect::<Result<Vec<_>, Failure>>()?;
    Ok(slice.page(rows, |row| Cursor {
        score: row.cost_micros,
        key: row.key.clone(),
    }))
}

/// Days begin where their zone says so, which no database is asked to know: rows are summed up in even steps of time
/// that no day cuts, and those into days.
fn by_day(
    reports: &Reports,
    wanted: UsageFilter,
    zone: &TimeZone,
    slice: &Slice,
) -> Result<Page<UsageRow>, Failure> {
    let none = || {
        Ok(Page {
            rows: Vec::new(),
            next: None,
        })
    };
    let Some((first, last)) = first_and_last(reports, wanted)? else {
        return none();
    };
    let (first, last) = (
        date_of(first.max(wanted.from), zone),
        date_of(last.min(wanted.until), zone),
    );
    let (before, _) = slice.after(i64::MAX);
    let mut days: BTreeMap<i64, (Date, Sums)> = BTreeMap::new();
    let steps = Steps::days(first, last, zone);
    let buckets = TimeBuckets::read(reports, &steps, wanted)?;
    for (at, sums) in buckets.sums {
        let day = date_of(at, zone);
        let start = plan::day_of(day, zone).0.millis();
        if start < before {
            days.entry(start)
                .or_insert_with(|| (day, Sums::default()))
                .1
                .add(&sums);
        }
    }
    let asked = usize::try_from(slice.asked()).unwrap_or(usize::MAX);
    let rows = days.into_iter().rev().take(asked);
    let rows = rows
        .map(|(start, (day, sums))| (start, UsageRow::new(day.to_string(), &sums)))
        .collect();
    let page = slice.page(rows, |(start, _)| Cursor {
        score: *start,
        key: String::new(),
    });
    Ok(Page {
        rows: page.rows.into_iter().map(|(_, row)| row).collect(),
        next: page.next,
    })
}

/// When the first and the last request of those wanted were held.
fn first_and_last(
    reports: &Reports,
    wanted: UsageFilter,
) -> Result<Option<(Timestamp, Timestamp)>, Failure> {
    let (narrowed, subject) = match wanted.user {
        Some(user) => ("user_id = $1", user.to_string()),
        None => ("id >= $1", id_before(wanted.from)),
    };
    let sql = format!(
        "select min(started_at), max(started_at) from ledger.requests
         where {narrowed} and started_at >= $2 and started_at < $3"
    );
    let params = [
        subject.into(),
        wanted.from.millis().into(),
        wanted.until.millis().into(),
    ];
    let Some(row) = reports.db().query_one(&sql, &params)? else {
        return Ok(None);
    };
    let time = |column| Ok::<_, Failure>(row.maybe_int(column)?.map(Timestamp::from_millis));
    Ok(time(0)?.zip(time(1)?))
}
