//! Exponential backoff with jitter, so that servers that lost the same database do not retry in step.

use std::time::Duration;

/// Waits that double up to a most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits from `first`, doubling to `most`.
    pub(super) const fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            next: first,
        }
    }

    /// The next wait: somewhere between half of it and the whole.
    pub(super) fn wait(&mut self) -> Duration {
        let whole = self.next;
        self.next = whole.saturating_mul(2).min(self.most);
        let half = whole.checked_div(2).unwrap_or_default();
        let more = half
            .saturating_mul(u32::from(dice()))
            .checked_div(u32::from(u8::MAX))
            .unwrap_or_default();
        half.saturating_add(more)
    }

    /// Starts again with the shortest wait.
    pub(super) const fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A random byte; without randomness the longest wait, which is safe too.
fn dice() -> u8 {
    let mut byte = [0];
    aws_lc_rs::rand::fill(&mut byte).map_or(u8::MAX, |()| u8::from_be_bytes(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_a_minute_with_jitter_and_begin_anew() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));
        for whole in [1, 2, 4, 8, 16, 32, 60, 60, 60].map(Duration::from_secs) {
            let wait = backoff.wait();
            assert!(whole / 2 <= wait && wait <= whole, "{wait:?} of {whole:?}");
        }
        backoff.reset();
        assert!(backoff.wait() <= Duration::from_secs(1));
        let mut waits = (0..32).map(|_| Backoff::new(Duration::from_secs(1), Duration::MAX).wait());
        let first = waits.next().unwrap();
        assert!(waits.any(|wait| wait != first), "no jitter");
    }
}
