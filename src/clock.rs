//! The only reader of wall time.
//!
//! Everything else takes `now` as an argument, so that a rule can be tested at any moment. Tests shift a [`Clock`] by
//! days; the product never does.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment, in whole milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The last moment that [`Timestamp::rfc3339`] can write (near the end of the year 9999).
    pub const MAX: Self = Self(253_402_207_200_000);
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);

    /// From milliseconds since the epoch, clamped to what can be written.
    #[must_use]
    pub const fn from_millis(ms: i64) -> Self {
        if ms > Self::MAX.0 {
            return Self::MAX;
        }
        if ms < 0 {
            return Self::EPOCH;
        }
        Self(ms)
    }

    /// From seconds since the epoch, saturating.
    #[must_use]
    pub const fn from_secs(seconds: i64) -> Self {
        Self::from_millis(seconds.saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    #[must_use]
    pub const fn secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This moment and `wait` more, saturating.
    #[must_use]
    pub fn plus(self, wait: Duration) -> Self {
        Self::from_millis(
            self.0
                .saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// This moment less `wait`, saturating.
    #[must_use]
    pub fn minus(self, wait: Duration) -> Self {
        Self::from_millis(
            self.0
                .saturating_sub(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// How long from `earlier` to this moment; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// RFC 3339 in UTC, with milliseconds only where there are any: `2026-11-25T00:00:00Z`.
    #[must_use]
    pub fn rfc3339(self) -> String {
        jiff::Timestamp::from_millisecond(self.0)
            .map_or_else(|_| String::new(), |moment| moment.to_string())
    }

    /// Reads RFC 3339 (`2026-11-25T00:00:00Z`, any offset).
    ///
    /// # Errors
    /// The text is not a date and time with an offset.
    pub fn parse(text: &str) -> Result<Self, String> {
        text.parse::<jiff::Timestamp>()
            .map(|moment| Self::from_millis(moment.as_millisecond()))
            .map_err(|error| format!("{text:?} is not a time like 2026-11-25T00:00:00Z: {error}"))
    }
}

/// Where `now` comes from.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    shift_ms: Arc<AtomicI64>,
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// The present moment.
    #[must_use]
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the one place that reads wall time"
    )]
    pub fn now(&self) -> Timestamp {
        let ms = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(elapsed) => i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX),
            Err(_) => 0,
        };
        Timestamp::from_millis(ms.saturating_add(self.shift_ms.load(Ordering::Relaxed)))
    }

    /// Moves this clock by so many milliseconds; every clone of it moves too. For tests.
    pub fn shift(&self, by_ms: i64) {
        self.shift_ms.fetch_add(by_ms, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read_in_rfc_3339() {
        let moment = Timestamp::parse("2026-11-25T01:30:00+01:30").unwrap();
        assert_eq!(moment.rfc3339(), "2026-11-25T00:00:00Z");
        assert_eq!(
            Timestamp::from_millis(1).rfc3339(),
            "1970-01-01T00:00:00.001Z"
        );
        assert_eq!(
            Timestamp::parse(&Timestamp::MAX.rfc3339()).unwrap(),
            Timestamp::MAX
        );
    }

    #[test]
    fn arithmetic_saturates_and_a_shift_reaches_every_clone() {
        assert_eq!(Timestamp::MAX.plus(Duration::from_secs(9)), Timestamp::MAX);
        assert_eq!(
            Timestamp::EPOCH.minus(Duration::from_secs(9)),
            Timestamp::EPOCH
        );
        let clock = Clock::system();
        let other = clock.clone();
        let before = clock.now();
        other.shift(86_400_000);
        assert!(clock.now().since(before) >= Duration::from_hours(24));
    }
}
