//! `tollgate user …`: who there is, what one user has, and what the operator gives and takes.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::table::{Look, Table};
use super::usage::{DayOrTime, cells, row_json, usage_table};
use super::{CommandError, by, print};
use crate::clock::{Clock, Timestamp};
use crate::config::{Config, StoreUrl};
use crate::ledger;
use crate::ledger::grants::GRANT_MICROS_MAX;
use crate::ledger::read::report::{Desk, Reports, SubscriptionRow};
use crate::observe::visible::visible;
use crate::operator::queries::grants::GrantRow;
use crate::operator::queries::plan_reasons::DatabaseWord;
use crate::operator::queries::sums::{GroupBy, UsageFilter};
use crate::operator::queries::usage::{UsageRow, list as usage};
use crate::operator::queries::users::{self, CreditRow, Sort, UserPage, UserRow};
use crate::operator::queries::{Cursor, Slice, forget, grants};
use crate::plan::{CreditBalanceRow, Per, Period, Unit};
use crate::price::MicroUsd;
use crate::supabase::{AskedUser, DeveloperDatabase};

/// How long the developer's database may take to name a user's plan.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(5);

/// Look at users, give them plans and credits, block them, forget them
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tollgate user list                                                   who spent most this month
  tollgate user show 7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11
  tollgate user plan 7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11 pro --until 2027-01-01
  tollgate user plan 7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11 --none       as it would be without
  tollgate user grant 7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11 5.00 --until 2027-01-01
  tollgate user raise 7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11 day requests 20
  tollgate user block 7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11
  tollgate user forget 7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11

A running server sees a change within a second.")]
pub(super) struct UserArgs {
    #[command(subcommand)]
    action: UserAction,
}

#[derive(Debug, clap::Subcommand)]
enum UserAction {
    /// Everybody who ever made a request, or of whom you said anything
    List(ListArgs),
    /// The plan, the limits and what was used
    Show {
        /// The user's id, or what another issuer calls them (`sub`)
        user: String,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Put the user on a plan in the local subscription table, or take them off it
    Plan(PlanArgs),
    /// Give the user credits in dollars, which pay for what does not fit the plan's limits in dollars
    #[command(after_help = "Examples:
  tollgate user grant 7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11 5.00
  tollgate user grant 7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11 5.00 --until 2027-01-01")]
    Grant(GrantArgs),
    /// Raise one limit of the user once: in the day, month … that is now, and not in the next
    #[command(after_help = "Examples:
  tollgate user raise 7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11 day requests 20
  tollgate user raise 7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11 month cost_usd 1.50")]
    Raise(RaiseArgs),
    /// The earlier name of `raise`
    #[command(hide = true)]
    Credit(RaiseArgs),
    /// Remove what is known of the user; what their requests cost stays, as nobody's
    Forget {
        /// The user's id
        user: Uuid,
    },
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
struct ListArgs {
    /// Only those whose id begins so
    #[arg(value_name = "BEGINNING", default_value = "")]
    search: String,
    /// What they are sorted by
    #[arg(long, value_enum, default_value = "spend")]
    sort: Sort,
    /// Only so many; 0 for all
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    top: usize,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct GrantArgs {
    /// The user's id
    user: Uuid,
    /// How much, in dollars like 5.00
    #[arg(value_name = "DOLLARS")]
    amount: String,
    /// Requests may be held against it until then (2027-01-01, or 2027-01-01T00:00:00Z); without it, for good
    #[arg(long, value_name = "TIME", value_parser = DayOrTime::parse)]
    until: Option<DayOrTime>,
}

#[derive(Debug, clap::Args)]
struct RaiseArgs {
    /// The user's id
    user: Uuid,
    /// Which limit: minute, hour, day, month, period or lifetime
    #[arg(value_parser = per)]
    per: Per,
    /// … of what: requests, tokens, `cost_usd`, images, `audio_seconds` or characters
    #[arg(value_parser = unit)]
    unit: Unit,
    /// How much more: a whole number, or dollars like 1.50
    amount: String,
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
    /// The plan counts up to here (2027-01-01, or 2027-01-01T00:00:00Z); then it is as it would be without
    #[arg(long, value_name = "TIME", conflicts_with = "none", value_parser = DayOrTime::parse)]
    until: Option<DayOrTime>,
    /// The subscription's period, for `period` limits: its first moment
    #[arg(long, value_name = "TIME", requires = "period_end", value_parser = Timestamp::parse)]
    period_start: Option<Timestamp>,
    /// The first moment after the period
    #[arg(long, value_name = "TIME", requires = "period_start", value_parser = Timestamp::parse)]
    period_end: Option<Timestamp>,
}

fn per(text: &str) -> Result<Per, String> {
    Per::from_name(text)
        .ok_or_else(|| "choose minute, hour, day, month, period or lifetime".to_owned())
}

fn unit(text: &str) -> Result<Unit, String> {
    Unit::from_name(text).ok_or_else(|| format!("choose {}", Unit::names()))
}

/// Does what was asked about a user.
pub(super) fn run(args: UserArgs, config: &Config, look: Look) -> Result<(), CommandError> {
    match args.action {
        UserAction::List(args) => list(config, &args, look),
        UserAction::Show { user, json } => show(config, &user, json, look),
        UserAction::Plan(change) => set_plan(config, change),
        UserAction::Grant(given) => grant(config, &given),
        UserAction::Raise(asked) => raise(config, &asked),
        UserAction::Credit(asked) => {
            print::error_line(
                "`user credit` is `user raise` now. To give credits in dollars: `user grant`.",
            );
            raise(config, &asked)
        }
        UserAction::Forget { user } => forget(config, user),
        UserAction::Block { user } => set_blocked(&config.store.url, user, true),
        UserAction::Unblock { user } => set_blocked(&config.store.url, user, false),
    }
}

/// Blocks somebody while the settings are wrong; nothing else is done then.
pub(super) fn in_need(args: &UserArgs, ledger: &StoreUrl) -> Option<Result<(), CommandError>> {
    match args.action {
        UserAction::Block { user } => Some(set_blocked(ledger, user, true)),
        UserAction::Unblock { user } => Some(set_blocked(ledger, user, false)),
        _ => None,
    }
}

fn list(config: &Config, args: &ListArgs, look: Look) -> Result<(), CommandError> {
    let reports = Reports::open(&config.store.url)?;
    let now = Clock::system().now();
    let (mut rows, mut after) = (Vec::new(), None);
    loop {
        let slice = Slice::new(Some(Slice::MAX), after);
        let page = users::list(&reports, config, (&args.search, args.sort), &slice, now)?;
        rows.extend(page.rows);
        after = page.next.as_deref().and_then(Cursor::parse);
        if after.is_none() || (args.top > 0 && rows.len() > args.top) {
            break;
        }
    }
    let are_all = args.top == 0 || rows.len() <= args.top;
    rows.truncate(if are_all { rows.len() } else { args.top });
    show_list(&rows, args.json, look)?;
    if !are_all && !args.json {
        print::error_line(&format!(
            "These are the first {}; all of them: --top 0",
            args.top
        ));
    }
    Ok(())
}

fn show_list(rows: &[UserRow], as_json: bool, look: Look) -> Result<(), CommandError> {
    if as_json {
        let mut lines = print::Lines::new();
        for row in rows {
            lines.line(&serde_json::to_string(row).unwrap_or_default())?;
        }
        return Ok(lines.finish()?);
    }
    let heads = vec![
        "user",
        "plan",
        "",
        ">today",
        ">cost today",
        ">this month",
        "last request",
    ];
    let mut table = Table::new(heads);
    for row in rows {
        table.row(vec![
            row.id.clone(),
            row.plan.clone(),
            if row.blocked {
                "BLOCKED".to_owned()
            } else {
                String::new()
            },
            row.requests_today.to_string(),
            format!("${}", row.cost_usd_today),
            format!("${}", row.cost_usd_month),
            row.last_request_at
                .clone()
                .unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    Ok(print::text(&table.text(look))?)
}

fn set_plan(config: &Config, change: PlanArgs) -> Result<(), CommandError> {
    let plans = &config.plans.by_name;
    if let Some(name) = change
        .plan
        .as_deref()
        .filter(|name| !plans.contains_key(*name))
    {
        let known: Vec<&str> = plans.keys().map(String::as_str).collect();
        return Err(CommandError::new(
            format!("there is no plan `{name}`"),
            format!("choose one of: {}", known.join(", ")),
        ));
    }
    let period = change
        .period_start
        .zip(change.period_end)
        .map(|(start, end)| Period { start, end });
    if period.is_some_and(|period| period.end <= period.start) {
        return Err(CommandError::new(
            "the period ends before it starts",
            "swap --period-start and --period-end",
        ));
    }
    let by = by();
    let until = change
        .until
        .map(|until| until.start(&config.server.time_zone));
    if let Some(until) = until.filter(|until| *until <= by.at) {
        let problem = format!("--until {} is over", until.rfc3339());
        return Err(CommandError::new(
            problem,
            "choose a later time, or take the plan back with --none",
        ));
    }
    let user = change.user;
    let said = match (&change.plan, until) {
        (None, _) => format!("{user} has no local subscription any more"),
        (Some(name), None) => format!("{user} is on the plan {name}"),
        (Some(name), Some(until)) => {
            format!("{user} is on the plan {name} until {}", until.rfc3339())
        }
    };
    let row = SubscriptionRow {
        plan: change.plan,
        period,
        until,
        blocked: false,
    };
    users::set_plan(&Desk::open(&config.store.url)?, user, &row, by)?;
    let when =
        "A running server sees it within a second. A plan that the user's token names goes first.";
    Ok(print::line(&format!("{said}\n{when}"))?)
}

fn set_blocked(ledger: &StoreUrl, user: Uuid, blocked: bool) -> Result<(), CommandError> {
    users::set_blocked(&Desk::open(ledger)?, user, blocked, by())?;
    Ok(print::line(&format!(
        "{user} is {}",
        if blocked { "blocked" } else { "not blocked" }
    ))?)
}

fn forget(config: &Config, user: Uuid) -> Result<(), CommandError> {
    let forgotten = forget::forget(&Desk::open(&config.store.url)?, user, by())?;
    let said = format!(
        "{user} is forgotten: {} requests and {} grants are nobody's now",
        forgotten.requests, forgotten.grants
    );
    let rest = "Not here: the account itself, and what your own database has of it.";
    Ok(print::line(&format!("{said}\n{rest}"))?)
}

fn grant(config: &Config, given: &GrantArgs) -> Result<(), CommandError> {
    let amount = MicroUsd::parse(&given.amount).ok();
    let Some(amount) = amount.filter(|MicroUsd(amount)| (1..=GRANT_MICROS_MAX).contains(amount))
    else {
        return Err(CommandError::new(
            format!("{:?} is no amount of dollars", given.amount),
            "say dollars above 0, like 5.00",
        ));
    };
    let by = by();
    let until = given
        .until
        .map(|until| until.start(&config.server.time_zone));
    if let Some(until) = until.filter(|until| *until <= by.at) {
        let problem = format!("--until {} is over", until.rfc3339());
        return Err(CommandError::new(problem, "choose a later time"));
    }
    let user = given.user;
    let made = grants::give(&Desk::open(&config.store.url)?, user, (amount, until), by)?;
    let page = users::user(&Reports::open(&config.store.url)?, config, user, by.at)?;
    let until = made
        .until
        .map_or_else(|| "for good".to_owned(), |until| format!("until {until}"));
    let left = page
        .credit_balance
        .as_ref()
        .map_or("0", CreditBalanceRow::remaining);
    print::line(&format!(
        "{user} has ${} more in credits, {until}: ${left} in all",
        made.granted_usd
    ))?;
    let plan = config.plans.by_name.get(&page.user.plan);
    for limit in plan.iter().flat_map(|plan| plan.limits_despite_credits()) {
        let (unit, per) = (limit.unit.as_str(), limit.per.as_str());
        print::error_line(&format!(
            "Credits do not lift the plan's limit of {} {unit} per {per}.",
            limit.amount
        ));
    }
    Ok(())
}

fn raise(config: &Config, asked: &RaiseArgs) -> Result<(), CommandError> {
    let RaiseArgs {
        user,
        per,
        unit,
        ref amount,
    } = *asked;
    let more = match unit {
        Unit::CostUsd => MicroUsd::parse(amount).map(|MicroUsd(micros)| micros).ok(),
        _ => amount.parse().ok(),
    };
    let Some(more) = more.filter(|more| *more > 0) else {
        let next = "say a whole number above 0, or for cost_usd dollars like 1.50";
        return Err(CommandError::new(
            format!("{amount:?} is no amount of {}", unit.as_str()),
            next,
        ));
    };
    let by = by();
    let given = users::raise(
        &Desk::open(&config.store.url)?,
        user,
        (per, unit, more),
        &config.server.time_zone,
        by,
    )?;
    let page = users::user(&Reports::open(&config.store.url)?, config, user, by.at)?;
    let until = given.until.map_or_else(
        || "for as long as it lasts".to_owned(),
        |until| format!("until {until}"),
    );
    print::line(&format!(
        "{user} has {} more {} per {} {until}",
        show_amount(unit, more),
        unit.as_str(),
        per.as_str()
    ))?;
    let Some(state) = page
        .states()
        .iter()
        .find(|state| (state.limit.per, state.limit.unit) == (per, unit))
    else {
        let plan = &page.user.plan;
        print::error_line(&format!(
            "The plan {plan} has no such limit: this counts only if the user has one from elsewhere."
        ));
        return Ok(());
    };
    let [taken, limit] = [state.used(), state.limit.amount].map(|amount| show_amount(unit, amount));
    Ok(print::line(&format!("used {taken} of {limit}"))?)
}

/// Shows a user: the plan, its limits, and what was used.
fn show(config: &Config, user: &str, as_json: bool, look: Look) -> Result<(), CommandError> {
    let (page, models) = facts(config, meant(config, user)?)?;
    let text = if as_json {
        format!("{}\n", page_json(&page, &models))
    } else {
        page_text(&page, &models, look)
    };
    Ok(print::text(&text)?)
}

/// The one user who is called so.
fn meant(config: &Config, user: &str) -> Result<Uuid, CommandError> {
    let found = users::named(&Reports::open(&config.store.url)?, user)?;
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(CommandError::new(
            format!("nobody is called {user:?} here"),
            "write the user's id, or the `sub` of a token of another issuer that has come here",
        )),
        many => {
            let ids: Vec<String> = many.iter().map(Uuid::to_string).collect();
            Err(CommandError::new(
                format!("several issuers have a user {user:?}"),
                format!("write one of the ids: {}", ids.join(", ")),
            ))
        }
    }
}

fn facts(config: &Config, user_id: Uuid) -> Result<(UserPage, Vec<UsageRow>), ledger::Failure> {
    let reports = Reports::open(&config.store.url)?;
    let now = Clock::system().now();
    let mut page = users::user(&reports, config, user_id, now)?;
    let subject = page
        .user
        .issuer
        .as_deref()
        .zip(page.user.subject.as_deref());
    let word = Handle::current().block_on(database_word(config, user_id, subject));
    if !matches!(word, DatabaseWord::NotAsked) {
        page = users::user_by(&reports, config, (user_id, &word), now)?;
    }
    let wanted = UsageFilter {
        by: GroupBy::Model,
        from: Timestamp::EPOCH,
        until: Timestamp::MAX,
        user: Some(user_id),
    };
    let models = usage(
        &reports,
        wanted,
        &config.server.time_zone,
        &Slice::new(Some(Slice::MAX), None),
    )?;
    Ok((page, models.rows))
}

/// What the developer's database says of a user, if there is one.
async fn database_word(
    config: &Config,
    user_id: Uuid,
    subject: Option<(&str, &str)>,
) -> DatabaseWord {
    let database = match DeveloperDatabase::new(&config.directory.via, TaskTracker::new()) {
        Ok(Some(database)) => database,
        Ok(None) => return DatabaseWord::NotAsked,
        Err(why) => return DatabaseWord::Unavailable(why),
    };
    let asked = AskedUser {
        user_id,
        session_id: None,
        subject,
    };
    match timeout(DATABASE_TIMEOUT, database.check_user_limits(asked)).await {
        Err(_) => DatabaseWord::Unavailable("no answer in time".to_owned()),
        Ok(Err(failure)) => DatabaseWord::Unavailable(visible(&failure.to_string()).into_owned()),
        Ok(Ok(Some(answer))) if !answer.allowed => DatabaseWord::Blocks,
        Ok(Ok(answer)) => DatabaseWord::Answered(answer.map(|it| it.assigned)),
    }
}

fn page_json(page: &UserPage, models: &[UsageRow]) -> Value {
    let models: Vec<Value> = models
        .iter()
        .map(|row| row_json(GroupBy::Model, row))
        .collect();
    json!({
        "user_id": page.user.id,
        "issuer": page.user.issuer,
        "subject": page.user.subject,
        "plan": page.user.plan,
        "source": page.user.plan_source,
        "why": page.user.why,
        "until": page.user.plan_until,
        "blocked": page.user.blocked,
        "open": page.concurrent.open,
        "limits": page.limits,
        "credits": page.credits,
        "credit_balance": page.credit_balance,
        "grants": page.grants,
        "month": page.month,
        "models": models,
    })
}

fn page_text(page: &UserPage, models: &[UsageRow], look: Look) -> String {
    let mut text = String::new();
    let mut line = |name: &str, said: String| {
        text.extend([&look.bold(&format!("{name:8}")), said.as_str(), "\n"]);
    };
    let blocked = if page.user.blocked {
        look.alert("   BLOCKED")
    } else {
        String::new()
    };
    line("user", format!("{}{blocked}", page.user.id));
    if let Some((issuer, subject)) = page.user.issuer.as_ref().zip(page.user.subject.as_ref()) {
        line(
            "subject",
            format!("{} of {}", visible(subject), visible(issuer)),
        );
    }
    let source = match page.user.plan_source {
        "local" => "yours; a plan from your database or in the token goes first",
        "purchase" => "bought; yours, or a plan from your database or in the token, goes first",
        "database" => "your database names it",
        "last_request" => "of the last request",
        _ => "nobody named one",
    };
    let until = page
        .user
        .plan_until
        .as_ref()
        .map_or_else(String::new, |until| format!(" until {until}"));
    line("plan", format!("{}{until} ({source})", page.user.plan));
    line("why", page.user.why.clone());
    line("open", format!("{} requests", page.concurrent.open));
    line(
        "month",
        format!("{} requests, ${}", page.month.requests, page.month.cost_usd),
    );
    for state in page.states() {
        let show = |amount| show_amount(state.limit.unit, amount);
        let of_model = state.limit.model.as_ref();
        let name = format!(
            "{} per {}{}",
            state.limit.unit.as_str(),
            state.limit.per.as_str(),
            of_model.map_or_else(String::new, |model| format!(" with {model}"))
        );
        let (used, limit, held) = (
            show(state.used()),
            show(state.limit.amount),
            show(state.held()),
        );
        line(
            "limit",
            format!("{name:22} {used:>12} of {limit:>12} used, {held} held"),
        );
    }
    for CreditRow {
        per,
        unit,
        amount,
        until,
    } in &page.credits
    {
        let amount = amount
            .as_str()
            .map_or_else(|| amount.to_string(), |dollars| format!("${dollars}"));
        let until = until
            .as_ref()
            .map_or_else(String::new, |until| format!(" until {until}"));
        line(
            "raised",
            format!("by {amount} {unit} per {per}{until}, in the limit above"),
        );
    }
    if let Some(balance) = &page.credit_balance {
        line("credits", balance.text());
    }
    for grant in &page.grants {
        line("grant", grant_text(grant));
    }
    if !models.is_empty() {
        let mut table = usage_table("model");
        for row in models {
            table.row(cells(row));
        }
        text.extend(["\n", table.text(look).as_str()]);
    }
    text
}

fn grant_text(grant: &GrantRow) -> String {
    let until = grant
        .until
        .as_ref()
        .map_or_else(String::new, |until| format!(" until {until}"));
    let refunded = if grant.refunded_usd == "0.000000" {
        String::new()
    } else {
        format!(", ${} refunded", grant.refunded_usd)
    };
    format!(
        "${} left of ${}, ${} spent{refunded}{until} ({})",
        grant.remaining_usd, grant.granted_usd, grant.spent_usd, grant.source
    )
}

fn show_amount(unit: Unit, amount: i64) -> String {
    match unit {
        Unit::CostUsd => format!("${}", MicroUsd(amount)),
        _ => amount.to_string(),
    }
}
