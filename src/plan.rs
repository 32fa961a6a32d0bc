//! What a caller may do: plans, limits, windows, and the two decisions. Pure. *The file to change the rules.*
//!
//! [`plan_for`] decides which plan a caller has, from what was looked up. [`admit`] decides whether a request fits what
//! the limits of that plan have left, and how much output it may be granted. Neither reads a clock or a database.

use std::collections::BTreeMap;

use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::clock::Timestamp;
use crate::model::Effort;
use crate::price::{MicroUsd, Price};

/// How exactly a period that is counted from now moves with the clock: a look-up takes some time.
const MOVING_TOLERANCE_MS: i64 = 5_000;
/// How far such a period may move before another window begins.
const MOVING_MAX_MS: i64 = 24 * 3_600_000;

/// The span of time that a limit counts over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// The minute on the clock.
    Minute,
    /// The hour on the clock.
    Hour,
    /// The calendar day in `[server] time_zone`.
    Day,
    /// The calendar month in `[server] time_zone`.
    Month,
    /// The subscription's own period.
    Period,
    /// All time.
    Lifetime,
}

impl Per {
    /// From its name in the config file and in the database.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let all = [Self::Minute, Self::Hour, Self::Day, Self::Month, Self::Period, Self::Lifetime];
        all.into_iter().find(|per| per.as_str() == name)
    }

    /// As in the config file and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
            Self::Period => "period",
            Self::Lifetime => "lifetime",
        }
    }

    /// Limits that are worth a retry soon: 429 rather than 402.
    #[must_use]
    pub const fn is_rate(self) -> bool {
        matches!(self, Self::Minute | Self::Hour)
    }
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// Requests.
    Requests,
    /// Tokens, input and output.
    Tokens,
    /// Micro-dollars.
    CostUsd,
}

impl Unit {
    /// From its name in the config file and in answers.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Requests, Self::Tokens, Self::CostUsd].into_iter().find(|unit| unit.as_str() == name)
    }

    /// As in the config file and in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::CostUsd => "cost_usd",
        }
    }
}

/// A hard ceiling: at most `amount` of `unit` per `per`. `amount` is at least 1; cost is in micro-dollars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The window.
    pub per: Per,
    /// What is counted.
    pub unit: Unit,
    /// Requests, tokens or micro-dollars.
    pub amount: i64,
}

/// What a caller may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its name in the config file.
    pub name: String,
    /// Canonical names of the allowed models; the first is the default. Never empty.
    pub models: Vec<String>,
    /// The highest output cap of one choice, in tokens.
    pub max_output_tokens: u32,
    /// The longest prompt, in tokens.
    pub max_input_tokens: u32,
    /// The highest `n`.
    pub max_choices: u32,
    /// The highest `reasoning_effort`; `None` is no bound.
    pub reasoning_effort_max: Option<Effort>,
    /// How many requests may be open at once; `None` is no bound of the plan's own.
    pub concurrent_requests: Option<u32>,
    /// Every limit, all of them hard.
    pub limits: Vec<Limit>,
}

/// Where a caller's plan came from, as `/api/me` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanSource {
    /// `check_user_limits` in the developer's database.
    Database,
    /// The token.
    Claim,
    /// The local subscription table.
    Local,
    /// Nobody said: the default plan.
    Default,
}

impl PlanSource {
    /// As in `/api/me`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Claim => "claim",
            Self::Local => "local",
            Self::Default => "default",
        }
    }
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
pub struct SaidPeriod {
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
    pub fn then(self, before: SaidPeriod, said: SaidPeriod) -> Self {
        let elapsed = said.asked.millis().saturating_sub(before.asked.millis());
        let of_start = moved(before.period.start, said.period.start);
        let of_end = moved(before.period.end, said.period.end);
        let with_the_clock = |moved: i64| moved.saturating_sub(elapsed).saturating_abs() <= MOVING_TOLERANCE_MS;
        let moves = [of_start, of_end].iter().any(|moved| *moved != 0);
        let moves_so = moves && [of_start, of_end].into_iter().all(|moved| moved == 0 || with_the_clock(moved));
        let near = |one, other| moved(one, other).saturating_abs() < MOVING_MAX_MS;
        let is_near = near(self.start, said.period.start) && near(self.end, said.period.end);
        let counts = self.start <= said.asked && said.asked < self.end;
        if moves_so && is_near && counts { self } else { said.period }
    }
}

/// How far an end has moved, in milliseconds.
const fn moved(before: Timestamp, after: Timestamp) -> i64 {
    after.millis().saturating_sub(before.millis())
}

/// What the developer's own database says about a caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assigned {
    /// The plan's name; `None` is no answer.
    pub plan: Option<String>,
    /// The subscription's period.
    pub period: Option<Period>,
    /// What stands in place of the plan's limits.
    pub limits: Option<Vec<Limit>>,
}

/// What was looked up about a caller, for [`plan_for`].
#[derive(Clone, Debug, Default)]
pub struct Looked {
    /// What the developer's own database says, if it was asked and had an answer.
    pub database: Option<Assigned>,
    /// The plan that the token names, at the configured claim path.
    pub claim: Option<String>,
    /// The row of the local subscription table, if it is in force.
    pub local: Option<Subscription>,
    /// The caller is anonymous, and this plan is for such callers.
    pub anonymous_plan: Option<String>,
    /// Credits that the operator gave the caller.
    pub credits: Vec<Credit>,
}

/// A one-off that raises one limit of one user, in the window in which it was given and in no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credit {
    /// The kind of window of the limit.
    pub per: Per,
    /// What the limit counts.
    pub unit: Unit,
    /// How much more of it; at least 1.
    pub amount: i64,
    /// When it was given: it counts in the window that contains this moment.
    pub given_at: Timestamp,
}

/// A row of the local subscription table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    /// The plan's name; `None` where the row only blocks.
    pub plan: Option<String>,
    /// The subscription's period.
    pub period: Option<Period>,
    /// The operator blocked this user.
    pub blocked: bool,
}

/// A plan as it applies to one caller.
#[derive(Clone, Debug)]
pub struct Granted {
    /// The plan.
    pub plan: std::sync::Arc<Plan>,
    /// Who said so.
    pub source: PlanSource,
    /// The subscription's period, where there is one.
    pub period: Option<Period>,
    /// Names of plans that were looked up and that no plan has; they count as no answer and are worth a log line.
    pub unknown: Vec<String>,
    /// Credits of the caller; those of other windows count for nothing.
    pub credits: Vec<Credit>,
}

impl Granted {
    /// Every limit at a moment, with its window then, and raised by the credits that were given in it.
    #[must_use]
    pub fn limits_at(&self, now: Timestamp, zone: &TimeZone) -> Vec<(Limit, Window)> {
        let at = |limit: &Limit| {
            let window = window(limit.per, now, zone, self.period);
            let raised = |amount: i64, credit: &Credit| amount.saturating_add(credit.amount);
            let amount = self.credits.iter().filter(|credit| credit.raises(limit, &window)).fold(limit.amount, raised);
            (Limit { amount, ..*limit }, window)
        };
        self.plan.limits.iter().map(at).collect()
    }
}

impl Credit {
    fn raises(&self, limit: &Limit, window: &Window) -> bool {
        let is_inside = window.start <= self.given_at && self.given_at < window.end;
        (self.per, self.unit) == (limit.per, limit.unit) && is_inside
    }
}

/// All plans, and which of them is for callers nobody knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plans {
    /// By name.
    pub by_name: BTreeMap<String, std::sync::Arc<Plan>>,
    /// The default plan.
    pub default: std::sync::Arc<Plan>,
}

/// Which plan a caller has: the first of what the database says, the token claims, the local table says, the default.
/// (An anonymous caller has the plan for anonymous callers, whatever else is said.)
///
/// The database's limits and period go with the plan that it names; where it names none, with whichever is granted.
#[must_use]
pub fn plan_for(looked: &Looked, plans: &Plans) -> Granted {
    let mut granted = named_plan(looked, plans);
    let Some(database) = &looked.database else { return granted };
    if database.plan.is_some() && granted.source != PlanSource::Database {
        return granted;
    }
    if database.plan.is_some() || database.period.is_some() {
        granted.period = database.period;
    }
    if let Some(limits) = &database.limits {
        granted.plan = std::sync::Arc::new(Plan { limits: limits.clone(), ..Plan::clone(&granted.plan) });
    }
    granted
}

fn named_plan(looked: &Looked, plans: &Plans) -> Granted {
    let local = looked.local.as_ref();
    let database = looked.database.as_ref();
    let candidates = [
        (looked.anonymous_plan.as_deref(), PlanSource::Default),
        (database.and_then(|says| says.plan.as_deref()), PlanSource::Database),
        (looked.claim.as_deref(), PlanSource::Claim),
        (local.and_then(|row| row.plan.as_deref()), PlanSource::Local),
    ];
    let period = local.and_then(|row| row.period);
    let mut unknown = Vec::new();
    for (name, source) in candidates {
        let Some(name) = name else { continue };
        if let Some(plan) = plans.by_name.get(name) {
            return Granted { plan: plan.clone(), source, period, unknown, credits: looked.credits.clone() };
        }
        unknown.push(name.to_owned());
    }
    let (plan, credits) = (plans.default.clone(), looked.credits.clone());
    Granted { plan, source: PlanSource::Default, period, unknown, credits }
}

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
    let start = now.millis().saturating_sub(now.millis().rem_euclid(length_ms));
    (Timestamp::from_millis(start), Timestamp::from_millis(start.saturating_add(length_ms)))
}

fn calendar_day(now: Timestamp, zone: &TimeZone) -> (Timestamp, Timestamp) {
    calendar(now, zone, |today| today, Date::tomorrow)
}

fn calendar_month(now: Timestamp, zone: &TimeZone) -> (Timestamp, Timestamp) {
    calendar(now, zone, Date::first_of_month, |first| first.last_of_month().tomorrow())
}

/// The calendar unit around `now`.
fn calendar(
    now: Timestamp,
    zone: &TimeZone,
    first: impl Fn(Date) -> Date,
    next: impl Fn(Date) -> Result<Date, jiff::Error>,
) -> (Timestamp, Timestamp) {
    let Ok(moment) = jiff::Timestamp::from_millisecond(now.millis()) else { return (Timestamp::EPOCH, Timestamp::MAX) };
    let first_day = first(moment.to_zoned_datetime(zone.clone()).date());
    let end = next(first_day).map_or(Timestamp::MAX, |day| start_of(day, zone));
    (start_of(first_day, zone), end)
}

/// The first moment of a day, and the first moment after it.
#[must_use]
pub fn day_of(day: Date, zone: &TimeZone) -> (Timestamp, Timestamp) {
    let end = day.tomorrow().map_or(Timestamp::MAX, |next| start_of(next, zone));
    (start_of(day, zone), end)
}

/// A day begins when its zone says so, which is not always at midnight.
fn start_of(day: Date, zone: &TimeZone) -> Timestamp {
    let start = day.to_zoned_datetime(zone.clone());
    start.map_or(Timestamp::MAX, |start| Timestamp::from_millis(start.timestamp().as_millisecond()))
}

/// Requests, tokens and micro-dollars together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Requests.
    pub requests: i64,
    /// Tokens, input and output.
    pub tokens: i64,
    /// Micro-dollars.
    pub cost: i64,
}

impl Amounts {
    /// The amount of one unit.
    #[must_use]
    pub const fn of(self, unit: Unit) -> i64 {
        match unit {
            Unit::Requests => self.requests,
            Unit::Tokens => self.tokens,
            Unit::CostUsd => self.cost,
        }
    }

    /// The sum, saturating.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            tokens: self.tokens.saturating_add(other.tokens),
            cost: self.cost.saturating_add(other.cost),
        }
    }

    /// What is left without the other, saturating.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(other.requests),
            tokens: self.tokens.saturating_sub(other.tokens),
            cost: self.cost.saturating_sub(other.cost),
        }
    }
}

/// What a window says: used by ended requests, held by open ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Of ended requests.
    pub used: Amounts,
    /// Of open requests.
    pub held: Amounts,
}

/// A limit and where its window stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitState {
    /// The limit.
    pub limit: Limit,
    /// Its current window.
    pub window: Window,
    /// What the window says.
    pub standing: Standing,
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

/// What a request asks for: an upper bound of its prompt, and an output cap that may shrink to `output_floor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The price of the model asked for.
    pub price: Price,
    /// At least as many tokens as the prompt has.
    pub input_tokens: u64,
    /// The output cap of one choice.
    pub output_cap: u32,
    /// The smallest cap that is still worth asking the upstream for; at most `output_cap`.
    pub output_floor: u32,
    /// How many choices are generated.
    pub choices: u32,
}

impl Ask {
    /// What is held when each choice may have `output_cap` tokens.
    #[must_use]
    pub fn amounts(&self, output_cap: u32) -> Amounts {
        let output = u64::from(output_cap).saturating_mul(u64::from(self.choices));
        let tokens = self.input_tokens.saturating_add(output);
        let MicroUsd(cost) = self.price.bound(self.input_tokens, output);
        Amounts { requests: 1, tokens: i64::try_from(tokens).unwrap_or(i64::MAX), cost }
    }
}

/// A hold that fits every limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The output cap of one choice, as it will be sent.
    pub output_cap: u32,
    /// What is held.
    pub amounts: Amounts,
}

/// A limit that a request does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// The limit that resets last among those exceeded.
    pub state: LimitState,
    /// The least that the request would have had to hold, in the limit's unit.
    pub requested: i64,
}

/// Fits a request into what every limit has left.
///
/// The output cap shrinks to what is left, but not below the ask's floor (law 7: nobody is refused for output they
/// will not use). The largest cap that fits is granted.
///
/// # Errors
/// The limit that resets last among those that even the floor does not fit.
pub fn admit(ask: &Ask, limits: &[LimitState]) -> Result<Hold, Exceeded> {
    let fits = |cap: u32| {
        let amounts = ask.amounts(cap);
        limits.iter().all(|state| amounts.of(state.limit.unit) <= state.remaining())
    };
    if fits(ask.output_cap) {
        return Ok(Hold { output_cap: ask.output_cap, amounts: ask.amounts(ask.output_cap) });
    }
    let floor = ask.output_floor.min(ask.output_cap);
    if !fits(floor) {
        return Err(exceeded(&ask.amounts(floor), limits));
    }
    // What a cap costs grows with the cap, so the largest that fits is found by halving.
    let (mut fitting, mut beyond) = (floor, ask.output_cap);
    while beyond.saturating_sub(fitting) > 1 {
        let middle = fitting.midpoint(beyond);
        if fits(middle) {
            fitting = middle;
        } else {
            beyond = middle;
        }
    }
    Ok(Hold { output_cap: fitting, amounts: ask.amounts(fitting) })
}

fn exceeded(least: &Amounts, limits: &[LimitState]) -> Exceeded {
    let misfits = limits.iter().filter(|state| least.of(state.limit.unit) > state.remaining());
    let latest = misfits.max_by_key(|state| state.window.end);
    let none = || LimitState {
        limit: Limit { per: Per::Lifetime, unit: Unit::Requests, amount: 0 },
        window: Window { per: Per::Lifetime, start: Timestamp::EPOCH, end: Timestamp::MAX },
        standing: Standing::default(),
    };
    let state = latest.copied().unwrap_or_else(none);
    Exceeded { state, requested: least.of(state.limit.unit) }
}

impl Exceeded {
    /// Waiting for the window to end cannot help: the request is larger than the whole limit.
    #[must_use]
    pub const fn could_never_fit(&self) -> bool {
        self.requested > self.state.limit.amount
    }
}
