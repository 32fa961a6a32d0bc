//! Percentiles, and when a request of an open loop is due. Pure.

use std::time::Duration;

use serde_json::{Value, json};

/// Durations of one kind.
#[derive(Debug, Default)]
pub(crate) struct Durations(Vec<Duration>);

impl Durations {
    /// One more.
    pub(crate) fn add(&mut self, duration: Duration) {
        self.0.push(duration);
    }

    /// Percentiles, mean and extremes in milliseconds; null where nothing was measured.
    pub(crate) fn summary(&mut self) -> Value {
        self.0.sort_unstable();
        let Some(largest) = self.0.last().copied() else {
            return Value::Null;
        };
        let at = |share| percentile(&self.0, share).map(millis);
        let mean = self.0.iter().sum::<Duration>().as_secs_f64() * 1000.0 / self.0.len() as f64;
        json!({
            "count": self.0.len(),
            "mean": round(mean),
            "p50": at(0.50),
            "p90": at(0.90),
            "p99": at(0.99),
            "p999": at(0.999),
            "max": millis(largest),
        })
    }
}

/// The smallest value that at least this share of the sorted values does not exceed (nearest rank).
pub(crate) fn percentile(sorted: &[Duration], share: f64) -> Option<Duration> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

/// When request `index` of an open loop is due, counted from its start. Computed from the index, so that no delay of
/// one moves the next.
pub(crate) fn due(index: u64, per_second: f64) -> Duration {
    Duration::from_secs_f64(index as f64 / per_second)
}

/// Milliseconds with three places.
pub(crate) fn millis(duration: Duration) -> f64 {
    round(duration.as_secs_f64() * 1000.0)
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// A small generator of random numbers (xorshift64*): reproducible, and good enough to choose a moment to hang up.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// A generator of its own sequence.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number, from 0 up to but not 1.
    pub(crate) fn roll(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(millis: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        millis.into_iter().map(Duration::from_millis).collect()
    }

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let hundred = of(1..=100);
        for (share, wanted) in [
            (0.0, 1),
            (0.01, 1),
            (0.5, 50),
            (0.501, 51),
            (0.99, 99),
            (1.0, 100),
        ] {
            assert_eq!(
                percentile(&hundred, share),
                Some(Duration::from_millis(wanted)),
                "{share}"
            );
        }
        assert_eq!(percentile(&of([7]), 0.5), Some(Duration::from_millis(7)));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn a_summary_does_not_depend_on_the_order() {
        let mut durations = Durations::default();
        for value in of([30, 10, 20]) {
            durations.add(value);
        }
        let summary = durations.summary();
        assert_eq!(
            (&summary["p50"], &summary["max"], &summary["mean"]),
            (&json!(20.0), &json!(30.0), &json!(20.0))
        );
        assert_eq!(Durations::default().summary(), Value::Null);
    }

    #[test]
    fn requests_of_an_open_loop_are_due_at_even_distances_and_do_not_drift() {
        assert_eq!(due(0, 200.0), Duration::ZERO);
        assert_eq!(due(1, 200.0), Duration::from_millis(5));
        assert_eq!(due(3, 3.0), Duration::from_secs(1));
        assert_eq!(due(720_000, 200.0), Duration::from_hours(1));
    }

    #[test]
    fn dice_fall_everywhere_between_zero_and_one() {
        let mut dice = Dice::new(1);
        let rolls: Vec<f64> = (0..1000).map(|_| dice.roll()).collect();
        assert!(rolls.iter().all(|roll| (0.0..1.0).contains(roll)));
        let tenths: std::collections::BTreeSet<u64> =
            rolls.iter().map(|roll| (roll * 10.0) as u64).collect();
        assert_eq!(tenths.len(), 10);
    }
}
