//! `tollgate user show|plan|block|unblock`: what one user has, and the local subscription table.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Failure, by, print};
use crate::account::{limit_json, sum_json};
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::ledger;
use crate::ledger::report::{Desk, ModelSum, Reports, SubscriptionRow, Which};
use crate::operator::users;
use crate::plan::{Granted, LimitState, Looked, Period, Unit, plan_for};
use crate::price::MicroUsd;

/// Look at one user, give them a plan, block them
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tollgate user show 7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11
  tollgate user plan 7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11 pro --until 2027-01-01T00:00:00Z
  tollgate user block 7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// The plan, the limits and what was used
    Show {
        /// The user's id
        user: Uuid,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Put the user on a plan in the local subscription table, or take them off it
    Plan(PlanArgs),
    /// Refuse the user, with 403 `user_blocked`
    Block {
        /// The user's id
        user: Uuid,
    },
    /// Let the user in again
    Unblock {
        /// The user's id
        user: Uuid,
    },
}

#[derive(Debug, clap::Args)]
struct PlanArgs {
    /// The user's id
    user: Uuid,
    /// The plan's name
    #[arg(required_unless_present = "none")]
    plan: Option<String>,
    /// Take the local subscription away
    #[arg(long, conflicts_with = "plan")]
    none: bool,
    /// The plan counts up to here: 2027-01-01T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = Timestamp::parse)]
    until: Option<Timestamp>,
    /// The subscription's period, for `period` limits: its first moment
    #[arg(long, value_name = "TIME", requires = "period_end", value_parser = Timestamp::parse)]
    period_start: Option<Timestamp>,
    /// The first moment after the period
    #[arg(long, value_name = "TIME", requires = "period_start", value_parser = Timestamp::parse)]
    period_end: Option<Timestamp>,
}

/// Does what was asked about a user.
pub(super) fn run(args: Args, config: &Config) -> Result<(), Failure> {
    match args.action {
        Action::Show { user, json } => show(config, user, json),
        Action::Plan(change) => set_plan(config, change),
        Action::Block { user } => set_blocked(config, user, true),
        Action::Unblock { user } => set_blocked(config, user, false),
    }
}

fn set_plan(config: &Config, change: PlanArgs) -> Result<(), Failure> {
    let plans = &config.plans.by_name;
    if let Some(name) = change.plan.as_deref().filter(|name| !plans.contains_key(*name)) {
        let known: Vec<&str> = plans.keys().map(String::as_str).collect();
        return Err(Failure::new(format!("there is no plan `{name}`"), format!("choose one of: {}", known.join(", "))));
    }
    let period = change.period_start.zip(change.period_end).map(|(start, end)| Period { start, end });
    if period.is_some_and(|period| period.end <= period.start) {
        return Err(Failure::new("the period ends before it starts", "swap --period-start and --period-end"));
    }
    let user = change.user;
    let said = match (&change.plan, change.until) {
        (None, _) => format!("{user} has no local subscription any more"),
        (Some(name), None) => format!("{user} is on the plan {name}"),
        (Some(name), Some(until)) => format!("{user} is on the plan {name} until {}", until.rfc3339()),
    };
    let row = SubscriptionRow { plan: change.plan, period, until: change.until, blocked: false };
    users::set_plan(&Desk::open(&config.store.url)?, user, &row, by())?;
    let when = "A running server sees it within a second. A plan that the user's token names goes first.";
    Ok(print::line(&format!("{said}\n{when}"))?)
}

fn set_blocked(config: &Config, user: Uuid, blocked: bool) -> Result<(), Failure> {
    users::set_blocked(&Desk::open(&config.store.url)?, user, blocked, by())?;
    Ok(print::line(&format!("{user} is {}", if blocked { "blocked" } else { "not blocked" }))?)
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
fn show(config: &Config, user_id: Uuid, as_json: bool) -> Result<(), Failure> {
    let facts = facts(config, user_id)?;
    let text = if as_json { format!("{}\n", facts.json()) } else { facts.text() };
    Ok(print::text(&text)?)
}

fn facts(config: &Config, user_id: Uuid) -> Result<Facts, ledger::Failure> {
    let reports = Reports::open(&config.store.url)?;
    let now = Clock::system().now();
    let said = reports.said_of(user_id, now)?;
    let (row, local) = (said.subscription.clone(), said.subscription_at(now));
    let granted = plan_for(&Looked { local, credits: said.credits, ..Looked::default() }, &config.plans);
    let limits = granted.limits_at(now, &config.server.time_zone);
    let windows: Vec<_> = limits.iter().map(|(_, window)| *window).collect();
    let standing = reports.standing(user_id, now, &windows)?;
    let states = ledger::limit_states(&limits, &standing.windows);
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

fn show_amount(unit: Unit, amount: i64) -> String {
    match unit {
        Unit::CostUsd => format!("${}", MicroUsd(amount)),
        Unit::Requests | Unit::Tokens => amount.to_string(),
    }
}
