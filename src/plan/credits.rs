//! Credits: dollars that a user owns beside the plan. They pay what does not fit the plan's limits in dollars. Pure.
//!
//! A request is paid by one of the two, wholly. What the plan has left pays first, and credits pay before an answer is
//! made shorter.

use serde::Serialize;
use utoipa::ToSchema;

use super::{Balance, Exceeded, Hold, Limit, LimitState, Per, Plan, Quote, Unit, Window, admit};
use crate::clock::Timestamp;
use crate::price::MicroUsd;

/// Who pays for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PaidBy {
    /// The plan: it counts in the limits in dollars.
    #[default]
    Plan,
    /// The user's credits: it counts in no limit in dollars.
    Credits,
}

impl PaidBy {
    /// The word in the ledger, in the log and in labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Credits => "credits",
        }
    }
}

impl Plan {
    /// Limits beyond the hour that credits do not lift: who has bought credits is refused for them all the same.
    pub(crate) fn limits_despite_credits(&self) -> impl Iterator<Item = &Limit> {
        let is_such = |limit: &&Limit| limit.unit != Unit::CostUsd && !limit.per.is_rate();
        self.limits.iter().filter(is_such)
    }
}

/// What a user's credits say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreditBalance {
    /// Neither spent nor held, in micro-dollars.
    pub remaining: i64,
    /// Held by open requests.
    pub held: i64,
    /// When the first of what remains ends; `None` where nothing ends.
    pub next_expiry: Option<Timestamp>,
}

/// Credits as a paywall shows them: money as decimal strings.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Credits)]
pub struct CreditBalanceRow {
    /// US dollars with six places.
    remaining: String,
    /// What open requests hold of them.
    held: String,
    /// When the first of what remains ends; null where nothing ends.
    next_expiry: Option<String>,
}

impl CreditBalanceRow {
    pub(crate) fn of(balance: &CreditBalance) -> Self {
        Self {
            remaining: MicroUsd(balance.remaining).to_string(),
            held: MicroUsd(balance.held).to_string(),
            next_expiry: balance.next_expiry.map(Timestamp::rfc3339),
        }
    }

    /// Dollars that remain.
    pub(crate) fn remaining(&self) -> &str {
        &self.remaining
    }

    /// In a line, for people.
    pub(crate) fn text(&self) -> String {
        let next = self
            .next_expiry
            .as_ref()
            .map_or_else(String::new, |next| format!("; the next end at {next}"));
        format!("${} left, ${} held{next}", self.remaining, self.held)
    }
}

/// Fits a request into what every limit of the plan has left, or else into `credits`, the limits of a request that credits
/// pay for ([`limits_with_credits`]). Tried in this order: the plan whole, the credits whole, the plan with less output, the
/// credits with less output.
///
/// # Errors
/// As [`admit`] by the plan.
pub fn admit_with_credits(
    quote: &Quote,
    plan: &[LimitState],
    credits: Option<&[LimitState]>,
) -> Result<Hold, Exceeded> {
    let Some(credits) = credits else {
        return admit(quote, plan);
    };
    let whole = Quote {
        output_floor: quote.output_cap,
        ..quote.clone()
    };
    let by_credits = |hold| Hold {
        paid_by: PaidBy::Credits,
        ..hold
    };
    let of = |quote: &Quote| {
        admit(quote, plan).or_else(|no| admit(quote, credits).map(by_credits).map_err(|_| no))
    };
    of(&whole).or_else(|_| of(quote))
}

/// The limits of a request that credits pay for: all that are not in dollars, and what is left of the credits.
pub(crate) fn limits_with_credits(plan: &[LimitState], left: i64) -> Vec<LimitState> {
    let others = plan
        .iter()
        .filter(|state| state.limit.unit != Unit::CostUsd);
    let credits = LimitState {
        limit: Limit::of_all(Per::Lifetime, Unit::CostUsd, left),
        window: Window {
            per: Per::Lifetime,
            start: Timestamp::EPOCH,
            end: Timestamp::MAX,
        },
        standing: Balance::default(),
    };
    others.cloned().chain(std::iter::once(credits)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Amounts;
    use crate::price::{Price, Quantities, Rate, Rates};

    /// A micro-dollar a token; the prompt has ten.
    fn quote() -> Quote {
        let rate = Rate(1_000_000);
        let rates = Rates {
            input: rate,
            cached_input: rate,
            cache_write: rate,
            output: rate,
            ..Rates::default()
        };
        Quote {
            price: Price {
                rates,
                ..Price::default()
            },
            base: Quantities::of_input(10),
            output_cap: 90,
            output_floor: 20,
            choices: 1,
        }
    }

    fn state(unit: Unit, left: i64) -> LimitState {
        let limit = Limit::of_all(Per::Day, unit, 1_000);
        let window = Window {
            per: Per::Day,
            start: Timestamp::EPOCH,
            end: Timestamp::from_millis(1),
        };
        let used = Amounts {
            requests: 1_000_i64.saturating_sub(left),
            tokens: 1_000_i64.saturating_sub(left),
            cost: 1_000_i64.saturating_sub(left),
            ..Amounts::default()
        };
        LimitState {
            limit,
            window,
            standing: Balance {
                used,
                held: Amounts::default(),
            },
        }
    }

    #[test]
    fn the_plan_whole_the_credits_whole_the_plan_shortened_the_credits_shortened() {
        let try_with = |left: i64, credits: Option<i64>| {
            let plan = [state(Unit::CostUsd, left)];
            let credits = credits.map(|left| limits_with_credits(&plan, left));
            let held = admit_with_credits(&quote(), &plan, credits.as_deref());
            held.map(|hold| (hold.paid_by, hold.output_cap))
                .map_err(|_| ())
        };
        let (plan, credits) = (PaidBy::Plan, PaidBy::Credits);
        assert_eq!(try_with(100, Some(100)), Ok((plan, 90)));
        assert_eq!(try_with(99, Some(100)), Ok((credits, 90)));
        assert_eq!(try_with(99, Some(99)), Ok((plan, 89)));
        assert_eq!(try_with(30, Some(99)), Ok((plan, 20)));
        assert_eq!(try_with(29, Some(99)), Ok((credits, 89)));
        assert_eq!(try_with(29, Some(30)), Ok((credits, 20)));
        assert_eq!(try_with(29, Some(29)), Err(()));
        assert_eq!(try_with(29, None), Err(()));
    }

    #[test]
    fn every_limit_that_is_not_in_dollars_holds_for_credits_too() {
        let poor = state(Unit::CostUsd, 0);
        for (other, granted) in [
            (state(Unit::Tokens, 40), Some(30)),
            (state(Unit::Tokens, 29), None),
            (state(Unit::Requests, 0), None),
            (state(Unit::Requests, 1), Some(90)),
        ] {
            let plan = [poor.clone(), other.clone()];
            let credits = limits_with_credits(&plan, 500);
            let held = admit_with_credits(&quote(), &plan, Some(&credits));
            assert_eq!(held.ok().map(|hold| hold.output_cap), granted, "{other:?}");
        }
    }
}
