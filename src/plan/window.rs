//! Windows of time: where the one that contains a moment begins and ends, and periods that move with the clock.

use jiff::SignedDuration;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::Per;
use crate::clock::Timestamp;

/// How many days one question about usage may span.
const DAYS_MAX: i64 = 800;
/// How exactly a period that is counted from now moves with the clock: a look-up takes some time.
const MOVING_TOLERANCE_MS: i64 = 5_000;
/// How far such a period may move before another window begins.
const MOVING_MAX_MS: i64 = 24 * 3_600_000;

/// One window of time: a limit counts what was held in it, whenever that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    /// Its kind.
    pub per: Per,
    /// Its first moment.
    pub start: Timestamp,
    /// The first moment after it; [`Timestamp::MAX`] for all time.
    pub end: Timestamp,
}

/// The window of a kind that contains `now`. Without a subscription period, a `period` is the calendar month.
#[must_use]
pub fn window(per: Per, now: Timestamp, zone: &TimeZone, period: Option<Period>) -> Window {
    let (start, end) = match per {
        Per::Minute => clock_window(now, 60_000),
        Per::Hour => clock_window(now, 3_600_000),
        Per::Day => calendar_day(now, zone),
        Per::Month => calendar_month(now, zone),
        Per::Period => match period.filter(|period| period.start <= now && now < period.end) {
            Some(period) => (period.start, period.end),
            None => calendar_month(now, zone),
        },
        Per::Lifetime => (Timestamp::EPOCH, Timestamp::MAX),
    };
    Window { per, start, end }
}

fn clock_window(now: Timestamp, length_ms: i64) -> (Timestamp, Timestamp) {
    let start = now
        .millis()
        .saturating_sub(now.millis().rem_euclid(length_ms));
    (
        Timestamp::from_millis(start),
        Timestamp::from_millis(start.saturating_add(length_ms)),
    )
}

fn calendar_day(now: Timestamp, zone: &TimeZone) -> (Timestamp, Timestamp) {
    calendar(now, zone, |today| today, Date::tomorrow)
}

fn calendar_month(now: Timestamp, zone: &TimeZone) -> (Timestamp, Timestamp) {
    calendar(now, zone, Date::first_of_month, |first| {
        first.last_of_month().tomorrow()
    })
}

/// The calendar unit around `now`.
fn calendar(
    now: Timestamp,
    zone: &TimeZone,
    first: impl Fn(Date) -> Date,
    next: impl Fn(Date) -> Result<Date, jiff::Error>,
) -> (Timestamp, Timestamp) {
    let Ok(moment) = jiff::Timestamp::from_millisecond(now.millis()) else {
        return (Timestamp::EPOCH, Timestamp::MAX);
    };
    let first_day = first(moment.to_zoned_datetime(zone.clone()).date());
    let end = next(first_day).map_or(Timestamp::MAX, |day| start_of(day, zone));
    (start_of(first_day, zone), end)
}

/// The calendar day of a moment.
#[must_use]
pub fn date_of(moment: Timestamp, zone: &TimeZone) -> Date {
    let moment =
        jiff::Timestamp::from_millisecond(moment.millis()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    moment.to_zoned_datetime(zone.clone()).date()
}

/// The days that somebody asks about, both included: in order, and not too many at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DayRange {
    from: Date,
    to: Date,
}

impl DayRange {
    /// From a first to a last day.
    ///
    /// # Errors
    /// They are none, or too many: a sentence for whoever asked.
    pub fn new(from: Date, to: Date) -> Result<Self, String> {
        if from > to {
            return Err(format!("from ({from}) is after to ({to})."));
        }
        let most = SignedDuration::from_hours(DAYS_MAX.saturating_mul(24));
        if to.duration_since(from) > most {
            return Err(format!("Ask for at most {DAYS_MAX} days at a time."));
        }
        Ok(Self { from, to })
    }

    /// The first.
    #[must_use]
    pub const fn from(self) -> Date {
        self.from
    }

    /// The last.
    #[must_use]
    pub const fn to(self) -> Date {
        self.to
    }

    /// The first moment of the first day, and the first moment after the last.
    #[must_use]
    pub fn span(self, zone: &TimeZone) -> (Timestamp, Timestamp) {
        (day_of(self.from, zone).0, day_of(self.to, zone).1)
    }
}

/// The first moment of a day, and the first moment after it.
#[must_use]
pub fn day_of(day: Date, zone: &TimeZone) -> (Timestamp, Timestamp) {
    let end = day
        .tomorrow()
        .map_or(Timestamp::MAX, |next| start_of(next, zone));
    (start_of(day, zone), end)
}

/// A day begins when its zone says so, which is not always at midnight.
fn start_of(day: Date, zone: &TimeZone) -> Timestamp {
    let start = day.to_zoned_datetime(zone.clone());
    start.map_or(Timestamp::MAX, |start| {
        Timestamp::from_millis(start.timestamp().as_millisecond())
    })
}

/// The subscription's own period, for `period` limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// Its first moment.
    pub start: Timestamp,
    /// The first moment after it.
    pub end: Timestamp,
}

/// A period, and when the database was asked that said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatedPeriod {
    /// As it was said.
    pub period: Period,
    /// When it was asked for.
    pub asked: Timestamp,
}

impl Period {
    /// The period that counts from now on, where this one counts and the database says another.
    ///
    /// That is what it says, unless it counts its ends from the moment when it is asked (`now() - interval '30 days'`): such a
    /// period would be a new window at each look-up. It is known by this: since the look-up before, an end has moved by as
    /// much as the clock. Then this one goes on until it is over, or a day behind.
    #[must_use]
    pub fn then(self, before: DatedPeriod, said: DatedPeriod) -> Self {
        let elapsed = said.asked.millis().saturating_sub(before.asked.millis());
        let of_start = moved(before.period.start, said.period.start);
        let of_end = moved(before.period.end, said.period.end);
        let with_the_clock =
            |moved: i64| moved.saturating_sub(elapsed).saturating_abs() <= MOVING_TOLERANCE_MS;
        let moves = [of_start, of_end].iter().any(|moved| *moved != 0);
        let moves_so = moves
            && [of_start, of_end]
                .into_iter()
                .all(|moved| moved == 0 || with_the_clock(moved));
        let near = |one, other| moved(one, other).saturating_abs() < MOVING_MAX_MS;
        let is_near = near(self.start, said.period.start) && near(self.end, said.period.end);
        let counts = self.start <= said.asked && said.asked < self.end;
        if moves_so && is_near && counts {
            self
        } else {
            said.period
        }
    }
}

/// How far an end has moved, in milliseconds.
const fn moved(before: Timestamp, after: Timestamp) -> i64 {
    after.millis().saturating_sub(before.millis())
}
