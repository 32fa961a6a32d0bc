//! `tollgate user show|plan|block|unblock`: what one user has, and the local subscription table.

use serde_json::{Value, json};
use uuid::Uuid;

use super::print::out;
use crate::account::{limit_json, sum_json, windows};
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::ledger::Failure;
use crate::ledger::report::{Desk, ModelSum, Reports, SubscriptionRow, Which};
use crate::plan::{Granted, Limit, LimitState, Looked, Period, Unit, plan_for};
use crate::price::MicroUsd;

/// What `user plan` sets.
#[derive(Debug)]
pub struct PlanChange {
    /// The plan's name; `None` takes the subscription away.
    pub plan: Option<String>,
    /// The plan counts up to here.
    pub until: Option<Timestamp>,
    /// The subscription's period, for `period` limits.
    pub period: Option<Period>,
}

/// Gives a user a plan, or takes it away.
///
/// # Errors
/// No plan has this name, or the ledger cannot be written.
pub fn set_plan(config: &Config, user_id: Uuid, change: PlanChange) -> Result<(), String> {
    let plans = &config.plans.by_name;
    if let Some(name) = change.plan.as_deref().filter(|name| !plans.contains_key(*name)) {
        let known: Vec<&str> = plans.keys().map(String::as_str).collect();
        return Err(format!("there is no plan `{name}`; the plans are: {}", known.join(", ")));
    }
    let desk = desk(config)?;
    let said = match (&change.plan, change.until) {
        (None, _) => format!("{user_id} has no local subscription any more"),
        (Some(name), None) => format!("{user_id} is on the plan {name}"),
        (Some(name), Some(until)) => format!("{user_id} is on the plan {name} until {}", until.rfc3339()),
    };
    let row = SubscriptionRow { plan: change.plan, period: change.period, until: change.until, blocked: false };
    desk.set_plan(user_id, &row, Clock::system().now()).map_err(|error| error.to_string())?;
    out(&format!("{said}\nA running server sees it within a second; a plan named in the user's token goes first.\n"))
}

/// Blocks a user, or lifts the block.
///
/// # Errors
/// The ledger cannot be written.
pub fn set_blocked(config: &Config, user_id: Uuid, blocked: bool) -> Result<(), String> {
    let desk = desk(config)?;
    desk.set_blocked(user_id, blocked, Clock::system().now()).map_err(|error| error.to_string())?;
    out(&format!("{user_id} is {}\n", if blocked { "blocked" } else { "not blocked" }))
}

pub(super) fn desk(config: &Config) -> Result<Desk, String> {
    Desk::open(&config.store.path).map_err(|error| error.to_string())
}

/// What is known of a user.
struct Facts {
    user_id: Uuid,
    row: Option<SubscriptionRow>,
    granted: Granted,
    states: Vec<LimitState>,
    open: i64,
    sums: Vec<ModelSum>,
}

/// Shows a user: the local subscription, the limits of the plan it gives, and what was used.
///
/// # Errors
/// There is no ledger, or it cannot be read.
pub fn show(config: &Config, user_id: Uuid, as_json: bool) -> Result<(), String> {
    let facts = facts(config, user_id).map_err(|error| error.to_string())?;
    out(&if as_json { format!("{}\n", facts.json()) } else { facts.text() })
}

fn facts(config: &Config, user_id: Uuid) -> Result<Facts, Failure> {
    let reports = Reports::open(&config.store.path)?;
    let now = Clock::system().now();
    let row = reports.subscription(user_id)?;
    let local = row.as_ref().map(|row| row.at(now));
    let granted = plan_for(&Looked { local, ..Looked::default() }, &config.plans);
    let windows = windows(&granted, config, now);
    let standing = reports.standing(user_id, now, &windows)?;
    let limits = granted.plan.limits.iter().zip(windows).zip(standing.windows);
    let state = |((limit, window), standing): ((&Limit, _), _)| LimitState { limit: *limit, window, standing };
    let states = limits.map(state).collect();
    let sums = reports.by_model(Which { user_id: Some(user_id), ..Which::default() })?;
    Ok(Facts { user_id, row, states, open: standing.open, sums, granted })
}

impl Facts {
    fn blocked(&self) -> bool {
        self.row.as_ref().is_some_and(|row| row.blocked)
    }

    fn json(&self) -> Value {
        let limits: Vec<_> = self.states.iter().map(limit_json).collect();
        let models: Vec<_> = self.sums.iter().map(sum_json).collect();
        json!({
            "user_id": self.user_id,
            "plan": self.granted.plan.name,
            "source": self.granted.source.as_str(),
            "until": self.row.as_ref().and_then(|row| row.until).map(Timestamp::rfc3339),
            "blocked": self.blocked(),
            "open": self.open,
            "limits": limits,
            "models": models,
        })
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |said: String| text.extend([said.as_str(), "\n"]);
        line(format!("user   {}{}", self.user_id, if self.blocked() { "   BLOCKED" } else { "" }));
        let (plan, source) = (&self.granted.plan.name, self.granted.source.as_str());
        line(format!("plan   {plan} ({source}; a plan named in the token would go first)"));
        line(format!("open   {} requests", self.open));
        for state in &self.states {
            let show = |amount| show_amount(state.limit.unit, amount);
            let name = format!("{} per {}", state.limit.unit.as_str(), state.limit.per.as_str());
            let (used, limit, held) = (show(state.used()), show(state.limit.amount), show(state.held()));
            line(format!("limit  {name:22} {used:>12} of {limit:>12} used, {held} held"));
        }
        for sum in &self.sums {
            line(format!("used   {}", super::usage::sum_text(sum)));
        }
        text
    }
}

pub(super) fn show_amount(unit: Unit, amount: i64) -> String {
    match unit {
        Unit::CostUsd => format!("${}", MicroUsd(amount)),
        Unit::Requests | Unit::Tokens => amount.to_string(),
    }
}
