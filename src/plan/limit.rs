//! A limit of a plan, and the sums that it is held against. Pure.

use std::sync::Arc;

use super::{Per, Unit, Window};

/// A hard ceiling: at most `amount` of `unit` per `per`. `amount` is at least 1; cost is in micro-dollars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The window.
    pub per: Per,
    /// What is counted.
    pub unit: Unit,
    /// So much of the unit.
    pub amount: i64,
    /// The only name of the plan whose requests count; `None` counts all.
    pub model: Option<Arc<str>>,
}

/// What a limit is held against: the sums of a window, or of a tally in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitCounter {
    /// The window of time.
    pub window: Window,
    /// The tally ([`Limit::tally`]); `None` for the window's own sums.
    pub tally: Option<Arc<str>>,
}

impl Limit {
    /// A limit that counts all requests.
    #[must_use]
    pub const fn of_all(per: Per, unit: Unit, amount: i64) -> Self {
        Self {
            per,
            unit,
            amount,
            model: None,
        }
    }

    /// Whether it counts requests that go by this name of the plan.
    #[must_use]
    pub fn counts(&self, plan_model: &str) -> bool {
        self.model
            .as_ref()
            .is_none_or(|model| **model == *plan_model)
    }

    /// The tally that it is held against: a name of the plan, or `""` for all requests in a unit that windows do not
    /// sum up. `None`: the sums of the window itself.
    #[must_use]
    pub fn tally(&self) -> Option<&str> {
        let of_all = match self.unit {
            Unit::Requests | Unit::Tokens | Unit::CostUsd => None,
            Unit::Images | Unit::AudioSeconds | Unit::Characters => Some(""),
        };
        self.model.as_deref().or(of_all)
    }

    /// What it is held against in a window.
    #[must_use]
    pub fn counter(&self, window: Window) -> LimitCounter {
        LimitCounter {
            window,
            tally: self.tally().map(Arc::from),
        }
    }
}
