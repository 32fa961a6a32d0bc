//! Requests and spending over time, in steps of an hour or a day.

use std::collections::BTreeMap;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::dollars;
use super::sums::{GroupBy, Sums, UsageFilter};
use crate::clock::Timestamp;
use crate::ledger::Failure;
use crate::ledger::read::connection::Row;
use crate::ledger::read::report::{Reports, id_before};
use crate::plan::{self, DayRange};

/// How many steps there are at most.
pub const STEPS_MAX: usize = 1000;
/// An hour.
const HOUR_MS: i64 = 3_600_000;

/// How long a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Step)]
pub enum Interval {
    /// An hour.
    Hour,
    /// A calendar day in `[server] time_zone`.
    Day,
}

/// Moments at which steps begin, and the end of the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steps {
    step: Interval,
    starts: Vec<Timestamp>,
    end: Timestamp,
    /// Every step is so many milliseconds long, or a multiple of that.
    unit_ms: i64,
}

impl Steps {
    /// The steps of some days.
    ///
    /// # Errors
    /// They are too many: a sentence for whoever asked.
    pub fn new(step: Interval, range: DayRange, zone: &TimeZone) -> Result<Self, String> {
        let (start, end) = range.span(zone);
        let length = end.since(start).as_millis();
        let step_ms: u128 = if step == Interval::Hour {
            3_600_000
        } else {
            86_400_000
        };
        if length.div_euclid(step_ms) > u128::try_from(STEPS_MAX).unwrap_or(0) {
            return Err(format!(
                "At most {STEPS_MAX} steps at a time: ask for fewer days, or for longer steps."
            ));
        }
        Ok(match step {
            Interval::Day => Self::days(range.from(), range.to(), zone),
            Interval::Hour => Self::hours(start, end),
        })
    }

    pub(super) fn days(from: Date, to: Date, zone: &TimeZone) -> Self {
        let mut starts = Vec::new();
        let mut day = from;
        while day <= to {
            starts.push(plan::day_of(day, zone).0);
            match day.tomorrow() {
                Ok(next) => day = next,
                Err(_) => break,
            }
        }
        Self::of(Interval::Day, starts, plan::day_of(to, zone).1)
    }

    fn hours(start: Timestamp, end: Timestamp) -> Self {
        let after = |hours: i64| {
            Timestamp::from_millis(start.millis().saturating_add(hours.saturating_mul(HOUR_MS)))
        };
        let hours = end
            .millis()
            .saturating_sub(start.millis())
            .saturating_add(HOUR_MS - 1)
            .div_euclid(HOUR_MS);
        Self::of(Interval::Hour, (0..hours).map(after).collect(), end)
    }

    fn of(step: Interval, starts: Vec<Timestamp>, end: Timestamp) -> Self {
        let first = starts.first().map_or(0, |first| first.millis());
        let lengths = starts
            .iter()
            .map(|start| start.millis().saturating_sub(first));
        let unit_ms = match lengths.fold(0, common) {
            // One step only.
            0 => HOUR_MS,
            unit_ms => unit_ms,
        };
        Self {
            step,
            starts,
            end,
            unit_ms,
        }
    }

    fn first(&self) -> Timestamp {
        self.starts.first().copied().unwrap_or(self.end)
    }

    /// The place of the step that a moment is in.
    fn place_of(&self, moment: Timestamp) -> usize {
        self.starts
            .partition_point(|start| *start <= moment)
            .saturating_sub(1)
    }
}

/// The greatest common divisor.
const fn common(a: i64, b: i64) -> i64 {
    let (mut a, mut b) = (a, b);
    while b != 0 {
        (a, b) = (b, a.rem_euclid(b));
    }
    a
}

/// Sums in even steps of time, by the moment at which each begins.
pub(super) struct TimeBuckets {
    pub(super) sums: BTreeMap<Timestamp, Sums>,
    odd: BTreeMap<Timestamp, Odd>,
}

/// Requests that ended otherwise than most.
#[derive(Clone, Copy, Debug, Default)]
struct Odd {
    lost: i64,
    estimated: i64,
}

impl TimeBuckets {
    pub(super) fn read(
        reports: &Reports,
        steps: &Steps,
        wanted: UsageFilter,
    ) -> Result<Self, Failure> {
        let (narrowed, subject) = match wanted.user {
            Some(user) => ("user_id = $3", user.to_string()),
            None => ("id >= $3", id_before(steps.first().max(wanted.from))),
        };
        let sql = format!(
            "select (started_at - $1) / $2 as bucket, {}, cast(sum(case when state = 'lost' then 1 else 0 end) as bigint),
                    cast(sum(case when ',' || flags || ',' like '%,estimated,%' then 1 else 0 end) as bigint)
             from ledger.requests
             where {narrowed} and started_at >= $1 and started_at >= $4 and started_at < $5
               and state in ('settled', 'lost') group by 1",
            Sums::COLUMNS
        );
        let origin = steps.first().millis();
        let (from, until) = (wanted.from.millis(), wanted.until.min(steps.end).millis());
        let params = [
            origin.into(),
            steps.unit_ms.into(),
            subject.into(),
            from.into(),
            until.into(),
        ];
        let mut buckets = Self {
            sums: BTreeMap::new(),
            odd: BTreeMap::new(),
        };
        let lost = Sums::COUNT.saturating_add(1);
        for row in reports.db().query(&sql, &params)? {
            let at = moment(steps, row.int(0)?);
            buckets.sums.insert(at, Sums::read(&row, 1)?);
            buckets.odd.insert(
                at,
                Odd {
                    lost: row.int(lost)?,
                    estimated: row.int(lost.saturating_add(1))?,
                },
            );
        }
        Ok(buckets)
    }
}

fn moment(steps: &Steps, bucket: i64) -> Timestamp {
    Timestamp::from_millis(
        steps
            .first()
            .millis()
            .saturating_add(bucket.saturating_mul(steps.unit_ms)),
    )
}

/// Requests and spending over time.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Series {
    /// How long a step is.
    pub step: Interval,
    /// The steps, the oldest first; those without requests are zeros.
    pub rows: Vec<SeriesRow>,
}

/// One step.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct SeriesRow {
    /// When it begins.
    pub at: String,
    /// Settled and lost requests.
    pub requests: i64,
    /// Dollars with six places.
    pub cost_usd: String,
    /// Prompt tokens.
    pub input_tokens: i64,
    /// Generated tokens.
    pub output_tokens: i64,
    /// Half of the answers began so soon (to about a twentieth), in milliseconds; null where none is known.
    pub ttft_p50_ms: Option<i64>,
    /// Requests that ended nobody knows how.
    pub lost: i64,
    /// Requests that were charged an estimate.
    pub estimated: i64,
}

/// Requests and spending over time.
///
/// # Errors
/// The ledger cannot be read.
pub fn series(reports: &Reports, steps: &Steps) -> Result<Series, Failure> {
    let wanted = UsageFilter {
        by: GroupBy::Day,
        from: steps.first(),
        until: steps.end,
        user: None,
    };
    let buckets = TimeBuckets::read(reports, steps, wanted)?;
    let mut rows = vec![(Sums::default(), Odd::default()); steps.starts.len()];
    for (at, sums) in &buckets.sums {
        let Some((all, odd)) = rows.get_mut(steps.place_of(*at)) else {
            continue;
        };
        let more = buckets.odd.get(at).copied().unwrap_or_default();
        all.add(sums);
        odd.lost = odd.lost.saturating_add(more.lost);
        odd.estimated = odd.estimated.saturating_add(more.estimated);
    }
    let medians = medians(reports, steps)?;
    let mut told = Vec::with_capacity(rows.len());
    for ((start, (sums, odd)), ttft_p50_ms) in steps.starts.iter().zip(rows).zip(medians) {
        told.push(SeriesRow {
            at: start.rfc3339(),
            requests: sums.requests,
            cost_usd: dollars(sums.cost_micros),
            input_tokens: sums.input_tokens,
            output_tokens: sums.output_tokens,
            ttft_p50_ms,
            lost: odd.lost,
            estimated: odd.estimated,
        });
    }
    Ok(Series {
        step: steps.step,
        rows: told,
    })
}

/// The median of each step, off a histogram whose bars are a millisecond wide below 100 ms and a twentieth above.
fn medians(reports: &Reports, steps: &Steps) -> Result<Vec<Option<i64>>, Failure> {
    let sql = "select (started_at - $1) / $2 as bucket,
                      case when ttft_ms < 100 then ttft_ms when ttft_ms < 1000 then ttft_ms / 50 * 50
                           when ttft_ms < 10000 then ttft_ms / 500 * 500 else ttft_ms / 5000 * 5000 end as bar,
                      cast(count(*) as bigint)
               from ledger.requests
               where id >= $3 and started_at >= $1 and started_at < $4 and ttft_ms is not null
                 and state in ('settled', 'lost') group by 1, 2";
    let first = steps.first();
    let params = [
        first.millis().into(),
        steps.unit_ms.into(),
        id_before(first).into(),
        steps.end.millis().into(),
    ];
    let mut bars: Vec<BTreeMap<i64, i64>> = vec![BTreeMap::new(); steps.starts.len()];
    let add = |bars: &mut Vec<BTreeMap<i64, i64>>, row: &Row| {
        let place = steps.place_of(moment(steps, row.int(0)?));
        if let Some(bars) = bars.get_mut(place) {
            let count = bars.entry(row.int(1)?).or_default();
            *count = count.saturating_add(row.int(2)?);
        }
        Ok::<(), Failure>(())
    };
    for row in reports.db().query(sql, &params)? {
        add(&mut bars, &row)?;
    }
    Ok(bars.iter().map(median).collect())
}

fn median(bars: &BTreeMap<i64, i64>) -> Option<i64> {
    let all = bars
        .values()
        .fold(0_i64, |sum, count| sum.saturating_add(*count));
    let mut seen = 0_i64;
    bars.iter().find_map(|(bar, count)| {
        seen = seen.saturating_add(*count);
        (seen.saturating_mul(2) >= all).then_some(*bar)
    })
}
