//! A length of time, exact enough that a million frames add up to what they are. Pure.

/// Parts of a second.
const A_SECOND: u128 = 1_000_000_000_000;

/// A length of time, in picoseconds. Sums saturate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct AudioSpan(u128);

impl AudioSpan {
    pub(super) const NONE: Self = Self(0);

    /// So many of what a second has `rate` of; endless where that is nothing.
    pub(super) fn of(count: u64, rate: u64) -> Self {
        let parts = u128::from(count).saturating_mul(A_SECOND);
        Self(parts.checked_div(u128::from(rate)).unwrap_or(u128::MAX))
    }

    pub(super) const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    pub(super) fn times(self, count: u64) -> Self {
        Self(self.0.saturating_mul(u128::from(count)))
    }

    /// In whole seconds, rounded up.
    pub(super) fn seconds(self) -> u64 {
        u64::try_from(self.0.div_ceil(A_SECOND)).unwrap_or(u64::MAX)
    }
}
