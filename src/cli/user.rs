//! `tollgate user show|plan|block|unblock`: what one user has, and the local subscription table.

use std::fmt::Write as _;

use serde_json::json;
use uuid::Uuid;

use super::print::out;
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::ledger::report::{Desk, Reports, SubscriptionRow, Which};
use crate::plan::{self, LimitState, Looked, Period, Unit, plan_for};
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

/// Shows a user: the local subscription, the limits of the plan it gives, and what was used.
///
/// # Errors
/// There is no ledger, or it cannot be read.
pub fn show(config: &Config, user_id: Uuid, as_json: bool) -> Result<(), String> {
    let failed = |error: crate::ledger::Failure| error.to_string();
    let reports = Reports::open(&config.store.path).map_err(failed)?;
    let now = Clock::system().now();
    let row = reports.subscription(user_id).map_err(failed)?;
    let local = row.as_ref().map(|row| row.at(now));
    let granted = plan_for(&Looked { local, ..Looked::default() }, &config.plans);
    let window = |limit: &plan::Limit| plan::window(limit.per, now, &config.server.time_zone, granted.period);
    let windows: Vec<_> = granted.plan.limits.iter().map(window).collect();
    let standing = reports.standing(user_id, now, &windows).map_err(failed)?;
    let states: Vec<LimitState> = granted
        .plan
        .limits
        .iter()
        .zip(windows)
        .zip(standing.windows)
        .map(|((limit, window), standing)| LimitState { limit: *limit, window, standing })
        .collect();
    let sums = reports.by_model(Which { user_id: Some(user_id), ..Which::default() }).map_err(failed)?;
    let blocked = row.as_ref().is_some_and(|row| row.blocked);
    if as_json {
        let limits: Vec<_> = states.iter().map(crate::account::limit_json).collect();
        let models: Vec<_> = sums
            .iter()
            .map(|sum| {
                json!({
                    "model": sum.model, "requests": sum.requests, "input_tokens": sum.input_tokens,
                    "cached_input_tokens": sum.cached_input_tokens, "output_tokens": sum.output_tokens,
                    "cost_usd": MicroUsd(sum.cost_micros).to_string(),
                })
            })
            .collect();
        let body = json!({
            "user_id": user_id, "plan": granted.plan.name, "source": granted.source.as_str(), "blocked": blocked,
            "until": row.as_ref().and_then(|row| row.until).map(Timestamp::rfc3339),
            "limits": limits, "open": standing.open, "models": models,
        });
        return out(&format!("{body}\n"));
    }
    let mut text = String::new();
    let mut line = |said: String| drop(writeln!(text, "{said}"));
    line(format!("user     {user_id}{}", if blocked { "   BLOCKED" } else { "" }));
    line(format!(
        "plan     {} ({}; a plan named in the token would go first)",
        granted.plan.name,
        granted.source.as_str()
    ));
    line(format!("open     {}", standing.open));
    for state in &states {
        let show = |amount| show_amount(state.limit.unit, amount);
        line(format!(
            "limit    {:9} {:9} {:>12} of {:>12} used, {} held",
            state.limit.per.as_str(),
            state.limit.unit.as_str(),
            show(state.used()),
            show(state.limit.amount),
            show(state.held())
        ));
    }
    for sum in &sums {
        line(format!(
            "used     {:24} {:>7} requests {:>10} in {:>10} out  ${}",
            sum.model,
            sum.requests,
            sum.input_tokens,
            sum.output_tokens,
            MicroUsd(sum.cost_micros)
        ));
    }
    out(&text)
}

pub(super) fn show_amount(unit: Unit, amount: i64) -> String {
    match unit {
        Unit::CostUsd => format!("${}", MicroUsd(amount)),
        Unit::Requests | Unit::Tokens => amount.to_string(),
    }
}
