//! Whether a request fits what is left of every limit, and with how much output. Law 1, as one pure function.

use super::{Limit, PaidBy, Per, Unit, Window};
use crate::clock::Timestamp;
use crate::price::{MicroUsd, Price, Quantities};

/// What limits count, in every unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Requests.
    pub requests: i64,
    /// Tokens, input and output.
    pub tokens: i64,
    /// Micro-dollars.
    pub cost: i64,
    /// Images that are made.
    pub images: i64,
    /// Seconds of audio.
    pub audio_seconds: i64,
    /// Characters that are spoken.
    pub characters: i64,
}

impl Amounts {
    /// What a request of these quantities and this cost counts as.
    #[must_use]
    pub fn of_request(quantities: &Quantities, MicroUsd(cost): MicroUsd) -> Self {
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        Self {
            requests: 1,
            tokens: count(quantities.tokens()),
            cost,
            images: count(quantities.images),
            audio_seconds: count(quantities.audio_seconds),
            characters: count(quantities.characters),
        }
    }

    /// What windows sum up themselves: requests, tokens, cost.
    #[must_use]
    pub const fn in_windows(self) -> Self {
        Self {
            images: 0,
            audio_seconds: 0,
            characters: 0,
            ..self
        }
    }

    /// The amount of one unit.
    #[must_use]
    pub const fn of(self, unit: Unit) -> i64 {
        match unit {
            Unit::Requests => self.requests,
            Unit::Tokens => self.tokens,
            Unit::CostUsd => self.cost,
            Unit::Images => self.images,
            Unit::AudioSeconds => self.audio_seconds,
            Unit::Characters => self.characters,
        }
    }

    /// The sum, saturating.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            tokens: self.tokens.saturating_add(other.tokens),
            cost: self.cost.saturating_add(other.cost),
            images: self.images.saturating_add(other.images),
            audio_seconds: self.audio_seconds.saturating_add(other.audio_seconds),
            characters: self.characters.saturating_add(other.characters),
        }
    }

    /// What is left without the other, saturating.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(other.requests),
            tokens: self.tokens.saturating_sub(other.tokens),
            cost: self.cost.saturating_sub(other.cost),
            images: self.images.saturating_sub(other.images),
            audio_seconds: self.audio_seconds.saturating_sub(other.audio_seconds),
            characters: self.characters.saturating_sub(other.characters),
        }
    }
}

/// What a window or a tally says: used by ended requests, held by open ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Of ended requests.
    pub used: Amounts,
    /// Of open requests.
    pub held: Amounts,
}

/// A limit and where its window stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitState {
    /// The limit.
    pub limit: Limit,
    /// Its current window.
    pub window: Window,
    /// What the window says, or its tally.
    pub standing: Balance,
}

impl LimitState {
    /// What is neither used nor held; never below zero.
    #[must_use]
    pub const fn remaining(&self) -> i64 {
        let taken = self.used().saturating_add(self.held());
        let left = self.limit.amount.saturating_sub(taken);
        if left > 0 { left } else { 0 }
    }

    /// Used, in the limit's unit.
    #[must_use]
    pub const fn used(&self) -> i64 {
        self.standing.used.of(self.limit.unit)
    }

    /// Held, in the limit's unit.
    #[must_use]
    pub const fn held(&self) -> i64 {
        self.standing.held.of(self.limit.unit)
    }
}

/// What a request asks for: an upper bound of all but its text, and an output cap that may shrink to `output_floor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// The price of the model asked for.
    pub price: Price,
    /// At least what it uses whatever its output cap: the prompt, images, audio.
    pub base: Quantities,
    /// The output cap of one choice.
    pub output_cap: u32,
    /// The smallest cap that is still worth asking the upstream for; at most `output_cap`.
    pub output_floor: u32,
    /// How many choices are generated.
    pub choices: u32,
}

impl Quote {
    /// What is held when each choice may have `output_cap` tokens.
    #[must_use]
    pub fn amounts(&self, output_cap: u32) -> Amounts {
        self.hold(output_cap).amounts
    }

    /// The most of everything that it uses when each choice may have `output_cap` tokens.
    #[must_use]
    pub fn quantities(&self, output_cap: u32) -> Quantities {
        let text = u64::from(output_cap).saturating_mul(u64::from(self.choices));
        Quantities {
            output_tokens: self.base.output_tokens.saturating_add(text),
            ..self.base
        }
    }

    /// The hold when each choice may have `output_cap` tokens.
    #[must_use]
    pub fn hold(&self, output_cap: u32) -> Hold {
        let quantities = self.quantities(output_cap);
        Hold {
            output_cap,
            quantities,
            amounts: Amounts::of_request(&quantities, self.price.bound(&quantities)),
            paid_by: PaidBy::Plan,
        }
    }
}

/// A hold that fits every limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The output cap of one choice, as it will be sent.
    pub output_cap: u32,
    /// The most that it uses.
    pub quantities: Quantities,
    /// What that comes to in the units of limits.
    pub amounts: Amounts,
    /// Who pays for it.
    pub paid_by: PaidBy,
}

/// A limit that a request does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// The limit that resets last among those exceeded.
    pub state: LimitState,
    /// The least that the request would have had to hold, in the limit's unit.
    pub requested: i64,
    /// What is left of the caller's credits, in micro-dollars: too little. `None` where there are none, or they were not
    /// asked.
    pub credits: Option<i64>,
}

/// Fits a request into what every limit has left.
///
/// The output cap shrinks to what is left, but not below the quote's floor (law 7: nobody is refused for output they
/// will not use). The largest cap that fits is granted.
///
/// # Errors
/// The limit that resets last among those that even the floor does not fit.
pub fn admit(quote: &Quote, limits: &[LimitState]) -> Result<Hold, Exceeded> {
    let has_room = |amounts: Amounts| {
        limits
            .iter()
            .all(|state| amounts.of(state.limit.unit) <= state.remaining())
    };
    let fits = |cap: u32| has_room(quote.amounts(cap));
    let whole = quote.hold(quote.output_cap);
    if has_room(whole.amounts) {
        return Ok(whole);
    }
    let floor = quote.output_floor.min(quote.output_cap);
    if !fits(floor) {
        return Err(exceeded(&quote.amounts(floor), limits));
    }
    // What a cap costs grows with the cap, so the largest that fits is found by halving.
    let (mut fitting, mut beyond) = (floor, quote.output_cap);
    while beyond.saturating_sub(fitting) > 1 {
        let middle = fitting.midpoint(beyond);
        if fits(middle) {
            fitting = middle;
        } else {
            beyond = middle;
        }
    }
    Ok(quote.hold(fitting))
}

fn exceeded(least: &Amounts, limits: &[LimitState]) -> Exceeded {
    let misfits = limits
        .iter()
        .filter(|state| least.of(state.limit.unit) > state.remaining());
    // On the last day of a month, the month is told and not the day.
    let latest = misfits.max_by_key(|state| (state.window.end, state.window.per));
    let none = || LimitState {
        limit: Limit::of_all(Per::Lifetime, Unit::Requests, 0),
        window: Window {
            per: Per::Lifetime,
            start: Timestamp::EPOCH,
            end: Timestamp::MAX,
        },
        standing: Balance::default(),
    };
    let state = latest.cloned().unwrap_or_else(none);
    Exceeded {
        requested: least.of(state.limit.unit),
        state,
        credits: None,
    }
}

impl Exceeded {
    /// Waiting for the window to end cannot help: the request is larger than the whole limit.
    #[must_use]
    pub const fn could_never_fit(&self) -> bool {
        self.requested > self.state.limit.amount
    }
}
