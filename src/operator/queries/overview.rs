//! The day so far, at a glance, from the ledger.

use std::time::Duration;

use jiff::tz::TimeZone;
use serde::Serialize;
use utoipa::ToSchema;

use super::dollars;
use super::sums::Sums;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::ledger::Failure;
use crate::ledger::read::connection::Row;
use crate::ledger::read::report::{Reports, id_before};
use crate::plan::{Per, Window, date_of, window};
use crate::price::MicroUsd;

/// How many of today's answers the times to the first token are taken from.
const SAMPLE: i64 = 2000;

/// What the ledger knows of the day.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Overview)]
pub struct DayOverview {
    /// Why the app is paused; null while it goes on.
    pub paused: Option<String>,
    /// The day so far.
    pub today: Today,
    /// The ceiling of the whole app; null where there is none.
    pub ceiling: Option<CeilingStatus>,
    /// Open requests of every process.
    pub open: i64,
    /// Milliseconds to the first token, of the last answers of today; null where there were none.
    pub ttft_ms: Option<Ttft>,
}

/// The day so far.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Today {
    /// The calendar day in `[server] time_zone`.
    pub day: String,
    /// Settled and lost requests.
    pub requests: i64,
    /// Dollars with six places.
    pub cost_usd: String,
    /// Prompt tokens.
    pub input_tokens: i64,
    /// Generated tokens.
    pub output_tokens: i64,
    /// How many users they are from.
    pub users: i64,
}

/// The ceiling of the whole app; dollars with six places.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Ceiling)]
pub struct CeilingStatus {
    /// What the app may spend today.
    pub limit: String,
    /// What it has spent.
    pub used: String,
    /// What open requests may cost at most.
    pub held: String,
    /// What is left; never below zero.
    pub remaining: String,
    /// When the day ends.
    pub resets_at: String,
}

/// Milliseconds to the first token.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct Ttft {
    /// Half of the answers began so soon.
    pub p50: i64,
    /// Nine of ten.
    pub p90: i64,
    /// Ninety-nine of a hundred.
    pub p99: i64,
}

/// The day so far.
///
/// # Errors
/// The ledger cannot be read.
pub fn overview(
    reports: &Reports,
    config: &Config,
    now: Timestamp,
) -> Result<DayOverview, Failure> {
    let zone = &config.server.time_zone;
    let day = window(Per::Day, now, zone, None);
    let paused = reports.db().query_one(
        "select value from ledger.switches where name = 'paused'",
        &[],
    )?;
    let (today, held, open) = today(reports, &day, zone)?;
    Ok(DayOverview {
        paused: paused.map(|row| row.text(0)).transpose()?,
        ceiling: config
            .ceiling
            .map(|limit| ceiling(reports, &day, limit, (today.1, held)))
            .transpose()?,
        today: today.0,
        open,
        ttft_ms: ttft(reports, &day)?,
    })
}

type Spent = (Today, i64);

/// The day so far with its cost; what its open requests hold; how many are open, whenever they began.
fn today(reports: &Reports, day: &Window, zone: &TimeZone) -> Result<(Spent, i64, i64), Failure> {
    let sql = format!(
        "select {}, cast(count(distinct user_id) as bigint) from ledger.requests
         where id >= $1 and started_at >= $2 and started_at < $3 and state in ('settled', 'lost')",
        Sums::COLUMNS
    );
    let (from, until) = (day.start.millis(), day.end.millis());
    let row = one(reports.db().query_one(
        &sql,
        &[id_before(day.start).into(), from.into(), until.into()],
    )?)?;
    let sums = Sums::read(&row, 0)?;
    let today = Today {
        day: date_of(day.start, zone).to_string(),
        requests: sums.requests,
        cost_usd: dollars(sums.cost_micros),
        input_tokens: sums.input_tokens,
        output_tokens: sums.output_tokens,
        users: row.int(Sums::COUNT)?,
    };
    let sql = "select cast(count(*) as bigint),
                      cast(coalesce(sum(case when started_at >= $1 then held_micros else 0 end), 0) as bigint)
               from ledger.requests where state = 'held'";
    let row = one(reports.db().query_one(sql, &[from.into()])?)?;
    Ok(((today, sums.cost_micros), row.int(1)?, row.int(0)?))
}

/// As the window of the app's day says, which is what decides; as the rows add up while nothing was held in it.
fn ceiling(
    reports: &Reports,
    day: &Window,
    MicroUsd(limit): MicroUsd,
    of_rows: (i64, i64),
) -> Result<CeilingStatus, Failure> {
    let sql = "select micros_used, micros_held from ledger.windows
               where user_id = 'app' and ends_at = $1 and per = $2 and starts_at = $3";
    let params = [
        day.end.millis().into(),
        day.per.as_str().into(),
        day.start.millis().into(),
    ];
    let row = reports.db().query_one(sql, &params)?;
    let (used, held) = row.map_or(Ok::<_, Failure>(of_rows), |row| {
        Ok((row.int(0)?, row.int(1)?))
    })?;
    Ok(CeilingStatus {
        limit: dollars(limit),
        used: dollars(used),
        held: dollars(held),
        remaining: dollars(limit.saturating_sub(used.saturating_add(held)).max(0)),
        resets_at: day.end.rfc3339(),
    })
}

fn ttft(reports: &Reports, day: &Window) -> Result<Option<Ttft>, Failure> {
    let sql = "select ttft_ms from ledger.requests where id >= $1 and ttft_ms is not null order by id desc limit $2";
    let rows = reports
        .db()
        .query(sql, &[id_before(day.start).into(), SAMPLE.into()])?;
    let mut times = rows
        .iter()
        .map(|row| row.int(0))
        .collect::<Result<Vec<_>, _>>()?;
    times.sort_unstable();
    let at = |percent: usize| {
        let place = times
            .len()
            .saturating_sub(1)
            .saturating_mul(percent)
            .div_ceil(100);
        times.get(place).copied()
    };
    let three = at(50).zip(at(90)).zip(at(99));
    Ok(three.map(|((p50, p90), p99)| Ttft { p50, p90, p99 }))
}

/// What was held in the last minute and has ended.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Pace {
    /// Settled and lost requests.
    pub requests: i64,
    /// Prompt tokens.
    pub input_tokens: i64,
    /// Generated tokens.
    pub output_tokens: i64,
    /// Micro-dollars.
    pub cost_micros: i64,
}

/// The last minute.
///
/// # Errors
/// The ledger cannot be read.
pub fn pace(reports: &Reports, now: Timestamp) -> Result<Pace, Failure> {
    let since = now.minus(Duration::from_mins(1));
    let sql = format!(
        "select {} from ledger.requests where id >= $1 and started_at >= $2 and state in ('settled', 'lost')",
        Sums::COLUMNS
    );
    let row = one(reports
        .db()
        .query_one(&sql, &[id_before(since).into(), since.millis().into()])?)?;
    let Sums {
        requests,
        input_tokens,
        output_tokens,
        cost_micros,
        ..
    } = Sums::read(&row, 0)?;
    Ok(Pace {
        requests,
        input_tokens,
        output_tokens,
        cost_micros,
    })
}

fn one(row: Option<Row>) -> Result<Row, Failure> {
    row.ok_or_else(|| Failure::new("the ledger gives no answer".to_owned()))
}
