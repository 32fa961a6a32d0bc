//! What a user may see of their own account: `/api/me`, `/api/usage`, `/v1/models`. Reads only.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::app::{App, Caller};
use crate::clock::Timestamp;
use crate::error::{Code, Refusal};
use crate::ledger::limit_states;
use crate::ledger::report::{ModelSum, Reports, Which};
use crate::openapi::{ModelRefusals, UserRefusals};
use crate::plan::{self, LimitState, Unit, Window};
use crate::price::MicroUsd;

/// How many rows of history a page has at most.
const PAGE_ROWS: usize = 500;
/// How many days one question may span.
const DAYS_MAX: i32 = 800;

/// Who calls, what they may, and what is left of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Me {
    user: MyUser,
    plan: MyPlan,
    limits: Vec<LimitRow>,
    concurrent: Concurrent,
    /// Their names; the first is taken when none is asked for.
    models: Vec<String>,
    max_output_tokens: u32,
}

#[derive(Debug, Serialize, ToSchema)]
struct MyUser {
    id: Uuid,
    email: Option<String>,
    is_anonymous: bool,
}

#[derive(Debug, Serialize, ToSchema)]
struct MyPlan {
    name: String,
    /// Who said so: `database`, `claim`, `local` or `default`.
    source: &'static str,
    period_ends_at: Option<String>,
}

/// Open requests, and how many the plan lets be open.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Concurrent {
    pub(crate) limit: Option<u32>,
    pub(crate) open: i64,
}

/// A limit as a paywall shows it: money as decimal strings, counts as numbers.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LimitRow {
    /// `minute`, `hour`, `day`, `month`, `period` or `lifetime`.
    per: &'static str,
    /// `requests`, `tokens` or `cost_usd`.
    unit: &'static str,
    limit: Amount,
    used: Amount,
    held: Amount,
    remaining: Amount,
    /// Null for all time.
    resets_at: Option<String>,
}

/// So much of a unit: US dollars as a decimal string of six places, counts as numbers.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Amount {
    /// Requests or tokens.
    Count(i64),
    /// US dollars.
    Usd(String),
}

impl LimitRow {
    pub(crate) fn of(state: &LimitState) -> Self {
        let unit = state.limit.unit;
        Self {
            per: state.limit.per.as_str(),
            unit: unit.as_str(),
            limit: Amount::of(unit, state.limit.amount),
            used: Amount::of(unit, state.used()),
            held: Amount::of(unit, state.held()),
            remaining: Amount::of(unit, state.remaining()),
            resets_at: resets_at(&state.window).as_str().map(str::to_owned),
        }
    }
}

impl Amount {
    pub(crate) fn of(unit: Unit, amount: i64) -> Self {
        match unit {
            Unit::CostUsd => Self::Usd(MicroUsd(amount).to_string()),
            Unit::Requests | Unit::Tokens => Self::Count(amount),
        }
    }
}

/// The user, the plan, every limit, the allowed models
///
/// # Errors
/// The plan or the ledger cannot be read, or the user is blocked.
#[utoipa::path(get, path = "/api/me", tag = "account", responses((status = 200, body = Me), UserRefusals))]
pub async fn me(
    State(app): State<Arc<App>>,
    Caller { who: caller, place: _place }: Caller,
) -> Result<Json<Me>, Refusal> {
    let config = app.config();
    let now = app.clock.now();
    let granted = app.directory.plan_of(&caller, &config, now).await?;
    let limits = granted.limits_at(now, &config.server.time_zone);
    let windows = limits.iter().map(|(_, window)| *window).collect();
    let standing = app.ledger.standing(caller.user_id(), now, windows).await?;
    let is_anonymous = caller.is_anonymous();
    Ok(Json(Me {
        user: MyUser { id: caller.user_id(), email: caller.email().map(str::to_owned), is_anonymous },
        limits: limit_states(&limits, &standing.windows).iter().map(LimitRow::of).collect(),
        concurrent: Concurrent { limit: granted.plan.concurrent_requests, open: standing.open },
        models: granted.plan.models.clone(),
        max_output_tokens: granted.plan.max_output_tokens,
        plan: MyPlan {
            name: granted.plan.name.clone(),
            source: granted.source.as_str(),
            period_ends_at: granted.period.map(|period| period.end.rfc3339()),
        },
    }))
}

/// A limit as a paywall shows it.
pub(crate) fn limit_json(state: &LimitState) -> Value {
    json!(LimitRow::of(state))
}

/// An amount of a unit: micro-dollars as a decimal string in dollars.
pub(crate) fn amount(unit: Unit, amount: i64) -> Value {
    json!(Amount::of(unit, amount))
}

/// When a window ends; null for all time.
pub(crate) fn resets_at(window: &Window) -> Value {
    if window.end == Timestamp::MAX { Value::Null } else { window.end.rfc3339().into() }
}

/// The models of a plan, in OpenAI's shape.
#[derive(Debug, Serialize, ToSchema)]
pub struct Models {
    object: &'static str,
    data: Vec<Model>,
}

/// A model, in OpenAI's shape.
#[derive(Debug, Serialize, ToSchema)]
pub struct Model {
    id: String,
    object: &'static str,
    created: i64,
    owned_by: &'static str,
}

impl Model {
    fn named(name: &str) -> Self {
        Self { id: name.to_owned(), object: "model", created: 0, owned_by: "tollgate" }
    }
}

/// The models of the caller's plan, in OpenAI's shape
///
/// # Errors
/// The plan cannot be read, or the user is blocked.
#[utoipa::path(get, path = "/v1/models", tag = "openai", responses((status = 200, body = Models), UserRefusals))]
pub async fn models(
    State(app): State<Arc<App>>,
    Caller { who: caller, place: _place }: Caller,
) -> Result<Json<Models>, Refusal> {
    let granted = app.directory.plan_of(&caller, &app.config(), app.clock.now()).await?;
    Ok(Json(Models { object: "list", data: granted.plan.models.iter().map(|name| Model::named(name)).collect() }))
}

/// One of them
///
/// # Errors
/// As [`models`]; `model_not_allowed` for any other name.
#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    tag = "openai",
    params(("id" = String, Path, description = "The model's name")),
    responses((status = 200, body = Model), ModelRefusals)
)]
pub async fn model(
    State(app): State<Arc<App>>,
    Caller { who: caller, place: _place }: Caller,
    id: Result<Path<String>, axum::extract::rejection::PathRejection>,
) -> Result<Json<Model>, Refusal> {
    let Path(id) = id.map_err(|_| Refusal::invalid("model", "The model's name in the path is not UTF-8."))?;
    let config = app.config();
    let granted = app.directory.plan_of(&caller, &config, app.clock.now()).await?;
    let canonical = config.prices.resolve(&id).map(|(name, _)| name);
    let known = granted.plan.models.iter().find(|name| canonical == Some(name.as_str()));
    let name =
        known.ok_or_else(|| Refusal::new(Code::ModelNotAllowed, "This model is not in your plan.").at("model"))?;
    Ok(Json(Model::named(name)))
}

/// The query of `/api/usage`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct UsageQuery {
    /// The first day (`2026-11-01`); without it, the last thirty days.
    #[param(format = Date)]
    from: Option<String>,
    /// The last day, included; without it, today.
    #[param(format = Date)]
    to: Option<String>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// A page of a history, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct Usage {
    from: String,
    to: String,
    rows: Vec<UsageRow>,
    /// The cursor of the next page; null on the last one.
    next: Option<String>,
}

/// What the requests of a day and a model add up to.
#[derive(Debug, Serialize, ToSchema)]
pub struct UsageRow {
    day: String,
    #[serde(flatten)]
    sum: Sum,
}

/// What requests of one model add up to.
#[derive(Debug, Serialize, ToSchema)]
struct Sum {
    model: String,
    requests: i64,
    input_tokens: i64,
    cached_input_tokens: i64,
    output_tokens: i64,
    cost_usd: String,
}

/// The caller's own history by day and model, newest first
///
/// Without `from` and `to`: the last thirty days. `cursor` is the `next` of the page before.
///
/// # Errors
/// A date that is none, or a ledger that cannot be read.
#[utoipa::path(
    get,
    path = "/api/usage",
    tag = "account",
    params(UsageQuery),
    responses((status = 200, body = Usage), UserRefusals)
)]
pub async fn usage(
    State(app): State<Arc<App>>,
    Caller { who: caller, place }: Caller,
    query: Result<Query<UsageQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Usage>, Refusal> {
    let Query(query) = query.map_err(|_| {
        Refusal::new(Code::InvalidRequest, "Known parameters: from and to (like 2026-11-01), and cursor.")
    })?;
    let config = app.config();
    let zone = config.server.time_zone.clone();
    let pages = Pages::of(&query, today(app.clock.now(), &zone))?;
    let (from, to, user_id) = (pages.from, pages.to, caller.user_id());
    let turn = place.read_turn().await?;
    let read = move |reports: &Reports| {
        let page = pages.read(reports, user_id, &zone);
        // Only now: a caller who leaves has both until it is read.
        drop((turn, place));
        page
    };
    let page = app.directory.reader().read(read).await;
    let (rows, next) = page.map_err(|error| {
        tracing::warn!(error, "the usage log cannot be read");
        Refusal::new(Code::StoreUnavailable, "The usage log cannot be read right now.")
    })?;
    Ok(Json(Usage { from: from.to_string(), to: to.to_string(), rows, next }))
}

fn today(now: Timestamp, zone: &TimeZone) -> Date {
    let moment = jiff::Timestamp::from_millisecond(now.millis()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    moment.to_zoned_datetime(zone.clone()).date()
}

/// Days still to be told, the newest first; on the first of them `skip` models were told already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pages {
    from: Date,
    to: Date,
    newest: Date,
    skip: usize,
}

impl Pages {
    fn of(query: &UsageQuery, today: Date) -> Result<Self, Refusal> {
        let to = date("to", query.to.as_deref())?.unwrap_or(today);
        let month_ago = || to.saturating_sub(jiff::SignedDuration::from_hours(24 * 29));
        let from = date("from", query.from.as_deref())?.unwrap_or_else(month_ago);
        let span = to.duration_since(from).as_hours().div_euclid(24);
        if span < 0 {
            return Err(Refusal::invalid("from", format!("from ({from}) is after to ({to}).")));
        }
        if span > i64::from(DAYS_MAX) {
            return Err(Refusal::invalid("from", format!("Ask for at most {DAYS_MAX} days at a time.")));
        }
        let all = Self { from, to, newest: to, skip: 0 };
        query.cursor.as_deref().map_or(Ok(all), |cursor| all.after(cursor))
    }

    fn after(self, cursor: &str) -> Result<Self, Refusal> {
        let read = || {
            let (day, skip) = cursor.split_once('.')?;
            let newest = parse_date(day)?;
            let inside = self.from <= newest && newest <= self.to;
            Some(Self { newest, skip: skip.parse().ok()?, ..self }).filter(|_| inside)
        };
        read().ok_or_else(|| Refusal::invalid("cursor", "Not a cursor of this query: take `next` of the page before."))
    }

    /// One page, and the cursor of the next.
    fn read(
        self,
        reports: &Reports,
        user_id: Uuid,
        zone: &TimeZone,
    ) -> Result<(Vec<UsageRow>, Option<String>), crate::ledger::Failure> {
        let mut rows = Vec::new();
        let (mut day, mut skip) = (self.newest, self.skip);
        while day >= self.from {
            let (start, end) = plan::day_of(day, zone);
            let of_day = Which { user_id: Some(user_id), from: Some(start), until: Some(end) };
            let sums = reports.by_model(of_day)?;
            for (place, sum) in sums.iter().enumerate().skip(skip) {
                if rows.len() == PAGE_ROWS {
                    return Ok((rows, Some(format!("{day}.{place}"))));
                }
                rows.push(UsageRow { day: day.to_string(), sum: Sum::of(sum) });
            }
            skip = 0;
            let Ok(before) = day.yesterday() else { break };
            day = before;
            if sums.is_empty() {
                // Days without requests cost nothing, however many they are.
                let before = Which { from: None, until: Some(start), ..of_day };
                let Some(last) = reports.last_request(before)? else { break };
                day = today(last, zone).min(day);
            }
        }
        Ok((rows, None))
    }
}

impl Sum {
    fn of(sum: &ModelSum) -> Self {
        Self {
            model: sum.model.clone(),
            requests: sum.requests,
            input_tokens: sum.input_tokens,
            cached_input_tokens: sum.cached_input_tokens,
            output_tokens: sum.output_tokens,
            cost_usd: MicroUsd(sum.cost_micros).to_string(),
        }
    }
}

pub(crate) fn date(name: &'static str, text: Option<&str>) -> Result<Option<Date>, Refusal> {
    let Some(text) = text else { return Ok(None) };
    let read = parse_date(text);
    read.map(Some).ok_or_else(|| Refusal::invalid(name, format!("{name} must be a date like 2026-11-01.")))
}

/// `YYYY-MM-DD` and nothing else, in years that a timestamp can hold.
fn parse_date(text: &str) -> Option<Date> {
    let date: Date = text.parse().ok()?;
    let plain = text.len() == 10 && date.to_string() == text;
    Some(date).filter(|date| plain && (1970..9999).contains(&date.year()))
}
