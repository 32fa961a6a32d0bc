//! How a request ends and what it is charged: the table of law 3, as one pure function.

use uuid::Uuid;

use crate::plan::Hold;
use crate::price::{MicroUsd, Price, Usage};

/// No request is charged more than this, whatever an upstream reports (a thousand million dollars).
const COST_MAX: MicroUsd = MicroUsd(1_000_000_000_000_000);

/// The end of a request's hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// What is charged.
    pub charge: Charge,
    /// What the operator should know: `estimated`, `overrun`, `cancelled`, `other_model` …
    pub flags: Vec<&'static str>,
    /// Milliseconds from the hold to the first byte of the answer.
    pub ttft_ms: Option<i64>,
}

/// What a request is charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// Nothing. With `load` it still counts as a request per minute and hour: the upstream answered 4xx.
    Voided {
        /// The upstream was bothered.
        load: bool,
    },
    /// What was used, as reported or estimated.
    Settled {
        /// Tokens.
        usage: Usage,
        /// Their price.
        cost: MicroUsd,
    },
    /// The whole hold, as an estimate: answered, without usage, and more may have been billed than can be counted.
    WholeHold,
    /// The whole hold: nobody knows what was used.
    Lost,
}

/// Which request ends how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The request.
    pub id: Uuid,
    /// Whose it is.
    pub user_id: Uuid,
    /// Its end.
    pub settlement: Settlement,
}

impl Settlement {
    /// Nothing was sent, or nothing was served.
    #[must_use]
    pub const fn void() -> Self {
        Self { charge: Charge::Voided { load: false }, flags: Vec::new(), ttft_ms: None }
    }

    /// The upstream refused the request (4xx): free, but it was load.
    #[must_use]
    pub fn refused_upstream() -> Self {
        Self { charge: Charge::Voided { load: true }, flags: vec!["upstream_rejected"], ttft_ms: None }
    }

    /// Sent, and nobody knows what became of it.
    #[must_use]
    pub const fn lost() -> Self {
        Self { charge: Charge::Lost, flags: Vec::new(), ttft_ms: None }
    }

    /// Adds a flag.
    #[must_use]
    pub fn flag(mut self, flag: &'static str) -> Self {
        if !self.flags.contains(&flag) {
            self.flags.push(flag);
        }
        self
    }

    /// Says when the first byte came.
    #[must_use]
    pub const fn first_byte_after(mut self, ttft_ms: Option<i64>) -> Self {
        self.ttft_ms = ttft_ms;
        self
    }
}

/// What an answered request is charged.
///
/// `reported` is the upstream's own usage, if it gave a believable one; it is charged as reported, and flagged `overrun`
/// above the hold, and above the cap of its `choices` answers, of which a long bound of the prompt may leave nothing to be
/// seen in the hold. Otherwise `estimated` counts: the prompt and what was delivered, never above the hold; `None` there
/// (a model with hidden reasoning, or more text than was kept) charges the hold itself.
#[must_use]
pub fn charge(
    price: &Price,
    (hold, choices): (&Hold, u32),
    reported: Option<Usage>,
    estimated: Option<Usage>,
) -> Settlement {
    if let Some(usage) = reported {
        let cost = price.cost(&usage).min(COST_MAX);
        let settled = Settlement { charge: Charge::Settled { usage, cost }, flags: Vec::new(), ttft_ms: None };
        let tokens = usage.input_tokens.saturating_add(usage.output_tokens);
        let above_hold = cost.0 > hold.amounts.cost || i64::try_from(tokens).unwrap_or(i64::MAX) > hold.amounts.tokens;
        let cap = u64::from(hold.output_cap).saturating_mul(choices.into());
        let above = above_hold || usage.output_tokens > cap;
        return if above { settled.flag("overrun") } else { settled };
    }
    let charge = match estimated {
        None => Charge::WholeHold,
        Some(usage) => {
            let usage = within(&usage, hold);
            Charge::Settled { usage, cost: price.cost(&usage).min(MicroUsd(hold.amounts.cost)) }
        }
    };
    Settlement { charge, flags: vec!["estimated"], ttft_ms: None }
}

/// An estimate cut to the tokens that were held.
fn within(estimate: &Usage, hold: &Hold) -> Usage {
    let all = u64::try_from(hold.amounts.tokens).unwrap_or(0);
    let prompt = estimate.input_tokens.min(all);
    let answer = estimate.output_tokens.min(all.saturating_sub(prompt));
    Usage { input_tokens: prompt, output_tokens: answer, ..*estimate }
}
