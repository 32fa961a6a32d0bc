//! What a caller may do: plans, limits, windows, and the two decisions. Pure. *The file to change the rules.*
//!
//! [`plan_for`] decides which plan a caller has, from what was looked up. [`admit`] decides whether a request fits what
//! the limits of that plan have left, and how much output it may be granted. Neither reads a clock or a database.

mod admit;
mod credits;
mod image;
mod limit;
mod limit_row;
mod purchase;
mod window;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::tz::TimeZone;

use crate::clock::Timestamp;
use crate::model::Effort;

pub use admit::{Amounts, Balance, Exceeded, Hold, LimitState, Quote, admit};
pub use credits::{CreditBalance, PaidBy, admit_with_credits};
pub(crate) use credits::{CreditBalanceRow, limits_with_credits};
pub use image::{ImageCaps, ImageQuality, ImageSize};
pub use limit::{Limit, LimitCounter};
pub(crate) use limit_row::resets_at;
pub use limit_row::{Amount, LimitRow};
pub use purchase::{Gift, LivePurchase, Product, Products, Purchase};
pub use window::{DatedPeriod, DayRange, Period, Window, date_of, day_of, window};

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
        let all = [
            Self::Minute,
            Self::Hour,
            Self::Day,
            Self::Month,
            Self::Period,
            Self::Lifetime,
        ];
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
    /// Images that are made.
    Images,
    /// Seconds of audio.
    AudioSeconds,
    /// Characters that are spoken.
    Characters,
}

impl Unit {
    /// Every unit.
    pub const ALL: [Self; 6] = [
        Self::Requests,
        Self::Tokens,
        Self::CostUsd,
        Self::Images,
        Self::AudioSeconds,
        Self::Characters,
    ];

    /// From its name in the config file and in answers.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|unit| unit.as_str() == name)
    }

    /// The names of all, for people.
    #[must_use]
    pub fn names() -> String {
        let names = Self::ALL.map(Self::as_str);
        let (last, others) = names.split_last().unwrap_or((&"", &[]));
        format!("{} or {last}", others.join(", "))
    }

    /// As in the config file and in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::CostUsd => "cost_usd",
            Self::Images => "images",
            Self::AudioSeconds => "audio_seconds",
            Self::Characters => "characters",
        }
    }
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
    /// What images it allows.
    pub images: ImageCaps,
    /// The longest audio of one request, in seconds.
    pub audio_seconds_max: u32,
    /// The highest `reasoning_effort`; `None` is no bound.
    pub reasoning_effort_max: Option<Effort>,
    /// What the user says is put to a moderation model before it is answered.
    pub moderates_input: bool,
    /// The plan that callers on an attested device have in its place.
    pub attested: Option<String>,
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
    /// A live purchase.
    Purchase,
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
            Self::Purchase => "purchase",
            Self::Default => "default",
        }
    }
}

/// What the developer's own database says about a caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatabaseAnswer {
    /// The plan's name; `None` is no answer.
    pub plan: Option<String>,
    /// The subscription's period.
    pub period: Option<Period>,
    /// What stands in place of the plan's limits.
    pub limits: Option<Vec<Limit>>,
}

/// What was looked up about a caller, for [`plan_for`].
#[derive(Clone, Debug, Default)]
pub struct PlanSources {
    /// What the developer's own database says, if it was asked and had an answer.
    pub database: Option<DatabaseAnswer>,
    /// The plan that the token names, at the configured claim path.
    pub claim: Option<String>,
    /// The row of the local subscription table, if it is in force.
    pub local: Option<Subscription>,
    /// The live purchase that decides, and when it was looked at.
    pub purchase: Option<(LivePurchase, Timestamp)>,
    /// The caller is anonymous, and this plan is the default for such callers.
    pub anonymous_plan: Option<String>,
    /// Credits that the operator gave the caller.
    pub credits: Vec<Credit>,
    /// The caller is on an attested device, and that gives another plan.
    pub is_attested: bool,
}

/// A one-off that raises one limit of one user, in the window in which it was given and in no other. A limit for one name of
/// the plan is raised by none.
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
pub struct EffectivePlan {
    /// The plan.
    pub plan: Arc<Plan>,
    /// Who said so.
    pub source: PlanSource,
    /// The subscription's period, where there is one.
    pub period: Option<Period>,
    /// Names of plans that were looked up and that no plan has; they count as no answer and are worth a log line.
    pub unknown: Vec<String>,
    /// Credits of the caller; those of other windows count for nothing.
    pub credits: Vec<Credit>,
    /// The live purchase that would decide if nobody else said anything.
    pub purchase: Option<LivePurchase>,
}

impl EffectivePlan {
    /// Every limit at a moment, with its window then, and raised by the credits that were given in it.
    #[must_use]
    pub fn limits_at(&self, now: Timestamp, zone: &TimeZone) -> Vec<(Limit, Window)> {
        let at = |limit: &Limit| {
            let window = window(limit.per, now, zone, self.period);
            let raised = |amount: i64, credit: &Credit| amount.saturating_add(credit.amount);
            let amount = self
                .credits
                .iter()
                .filter(|credit| credit.raises(limit, &window))
                .fold(limit.amount, raised);
            let limit = Limit {
                amount,
                ..limit.clone()
            };
            (limit, window)
        };
        self.plan.limits.iter().map(at).collect()
    }
}

impl Credit {
    fn raises(&self, limit: &Limit, window: &Window) -> bool {
        let is_inside = window.start <= self.given_at && self.given_at < window.end;
        let is_of_all = limit.model.is_none();
        (self.per, self.unit) == (limit.per, limit.unit) && is_of_all && is_inside
    }
}

/// All plans, and which of them is for callers nobody knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plans {
    /// By name.
    pub by_name: BTreeMap<String, Arc<Plan>>,
    /// The default plan.
    pub default: Arc<Plan>,
}

/// Which plan a caller has: the first of what the database says, the token claims, the local table says, a live purchase
/// gives, the default (for anonymous callers, the plan for those).
///
/// The database's limits and period go with the plan that it names; where it names none, with whichever is granted. On an
/// attested device the plan that this one names as `attested` takes its place, with its own limits.
#[must_use]
pub fn plan_for(looked: &PlanSources, plans: &Plans) -> EffectivePlan {
    let mut granted = plan_of_caller(looked, plans);
    let attested = granted
        .plan
        .attested
        .as_ref()
        .filter(|_| looked.is_attested);
    if let Some(plan) = attested.and_then(|name| plans.by_name.get(name)) {
        granted.plan = plan.clone();
    }
    granted
}

fn plan_of_caller(looked: &PlanSources, plans: &Plans) -> EffectivePlan {
    let mut granted = named_plan(looked, plans);
    let Some(database) = &looked.database else {
        return granted;
    };
    if database.plan.is_some() && granted.source != PlanSource::Database {
        return granted;
    }
    if database.plan.is_some() || database.period.is_some() {
        granted.period = database.period;
    }
    if let Some(limits) = &database.limits {
        granted.plan = Arc::new(Plan {
            limits: limits.clone(),
            ..Plan::clone(&granted.plan)
        });
    }
    granted
}

fn named_plan(looked: &PlanSources, plans: &Plans) -> EffectivePlan {
    let local = looked.local.as_ref();
    let database = looked.database.as_ref();
    let bought = looked.purchase.as_ref();
    let candidates = [
        (
            database.and_then(|says| says.plan.as_deref()),
            PlanSource::Database,
        ),
        (looked.claim.as_deref(), PlanSource::Claim),
        (local.and_then(|row| row.plan.as_deref()), PlanSource::Local),
        (
            bought.map(|(live, _)| live.plan.as_str()),
            PlanSource::Purchase,
        ),
        (looked.anonymous_plan.as_deref(), PlanSource::Default),
    ];
    let period = |source| match source {
        PlanSource::Purchase => bought.and_then(|(live, at)| live.period(*at)),
        _ => local.and_then(|row| row.period),
    };
    let mut unknown = Vec::new();
    let mut found = (&plans.default, PlanSource::Default);
    for (name, source) in candidates {
        let Some(name) = name else { continue };
        if let Some(plan) = plans.by_name.get(name) {
            found = (plan, source);
            break;
        }
        unknown.push(name.to_owned());
    }
    let (plan, source) = found;
    EffectivePlan {
        plan: plan.clone(),
        source,
        period: period(source),
        unknown,
        credits: looked.credits.clone(),
        purchase: bought.map(|(live, _)| live.clone()),
    }
}
