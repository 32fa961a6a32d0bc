//! What a user may see of their own account: `/api/me`, `/api/usage`, `/v1/models`. Reads only.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::app::App;
use crate::auth::Principal;
use crate::clock::Timestamp;
use crate::error::{Code, Refusal};
use crate::ledger::limit_states;
use crate::ledger::report::{ModelSum, Reports, Which};
use crate::plan::{self, LimitState, Unit, Window};
use crate::price::MicroUsd;

/// How many rows of history a page has at most.
const PAGE_ROWS: usize = 500;
/// How many days one question may span.
const DAYS_MAX: i32 = 800;

/// `GET /api/me`: the user, the plan, every limit, the allowed models.
///
/// # Errors
/// The plan or the ledger cannot be read, or the user is blocked.
pub async fn me(State(app): State<Arc<App>>, caller: Principal) -> Result<Json<Value>, Refusal> {
    let config = app.config();
    let now = app.clock.now();
    let granted = app.directory.plan_of(&caller, &config, now).await?;
    let limits = granted.limits_at(now, &config.server.time_zone);
    let windows = limits.iter().map(|(_, window)| *window).collect();
    let standing = app.ledger.standing(caller.user_id(), now, windows).await?;
    let limits: Vec<Value> = limit_states(&limits, &standing.windows).iter().map(limit_json).collect();
    Ok(Json(json!({
        "user": { "id": caller.user_id(), "email": caller.email(), "is_anonymous": caller.is_anonymous() },
        "plan": {
            "name": granted.plan.name,
            "source": granted.source.as_str(),
            "period_ends_at": granted.period.map(|period| period.end.rfc3339()),
        },
        "limits": limits,
        "concurrent": { "limit": granted.plan.concurrent_requests, "open": standing.open },
        "models": granted.plan.models,
        "max_output_tokens": granted.plan.max_output_tokens,
    })))
}

/// A limit as a paywall shows it: money as decimal strings, counts as numbers.
pub(crate) fn limit_json(state: &LimitState) -> Value {
    json!({
        "per": state.limit.per.as_str(),
        "unit": state.limit.unit.as_str(),
        "limit": amount(state.limit.unit, state.limit.amount),
        "used": amount(state.limit.unit, state.used()),
        "held": amount(state.limit.unit, state.held()),
        "remaining": amount(state.limit.unit, state.remaining()),
        "resets_at": resets_at(&state.window),
    })
}

/// An amount of a unit: micro-dollars as a decimal string in dollars.
pub(crate) fn amount(unit: Unit, amount: i64) -> Value {
    match unit {
        Unit::CostUsd => Value::String(MicroUsd(amount).to_string()),
        Unit::Requests | Unit::Tokens => amount.into(),
    }
}

/// When a window ends; null for all time.
pub(crate) fn resets_at(window: &Window) -> Value {
    if window.end == Timestamp::MAX { Value::Null } else { window.end.rfc3339().into() }
}

/// `GET /v1/models`: the models of the caller's plan, in OpenAI's shape.
///
/// # Errors
/// The plan cannot be read, or the user is blocked.
pub async fn models(State(app): State<Arc<App>>, caller: Principal) -> Result<Json<Value>, Refusal> {
    let granted = app.directory.plan_of(&caller, &app.config(), app.clock.now()).await?;
    let data: Vec<Value> = granted.plan.models.iter().map(|name| model_json(name)).collect();
    Ok(Json(json!({ "object": "list", "data": data })))
}

/// `GET /v1/models/{id}`: one of them.
///
/// # Errors
/// As [`models`]; `model_not_allowed` for any other name.
pub async fn model(
    State(app): State<Arc<App>>,
    caller: Principal,
    id: Result<Path<String>, axum::extract::rejection::PathRejection>,
) -> Result<Json<Value>, Refusal> {
    let Path(id) = id.map_err(|_| Refusal::invalid("model", "The model's name in the path is not UTF-8."))?;
    let config = app.config();
    let granted = app.directory.plan_of(&caller, &config, app.clock.now()).await?;
    let canonical = config.prices.resolve(&id).map(|(name, _)| name);
    let known = granted.plan.models.iter().find(|name| canonical == Some(name.as_str()));
    let name =
        known.ok_or_else(|| Refusal::new(Code::ModelNotAllowed, "This model is not in your plan.").at("model"))?;
    Ok(Json(model_json(name)))
}

fn model_json(name: &str) -> Value {
    json!({ "id": name, "object": "model", "created": 0, "owned_by": "tollgate" })
}

/// The query of `/api/usage`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageQuery {
    from: Option<String>,
    to: Option<String>,
    cursor: Option<String>,
}

/// `GET /api/usage`: the caller's own history by day and model, newest first.
///
/// Without `from` and `to`: the last thirty days. `cursor` is the `next` of the page before.
///
/// # Errors
/// A date that is none, or a ledger that cannot be read.
pub async fn usage(
    State(app): State<Arc<App>>,
    caller: Principal,
    query: Result<Query<UsageQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, Refusal> {
    let Query(query) = query.map_err(|_| {
        Refusal::new(Code::InvalidRequest, "Known parameters: from and to (like 2026-11-01), and cursor.")
    })?;
    let config = app.config();
    let zone = config.server.time_zone.clone();
    let pages = Pages::of(&query, today(app.clock.now(), &zone))?;
    let (from, to, user_id) = (pages.from, pages.to, caller.user_id());
    let page = app.directory.reader().read(move |reports| pages.read(reports, user_id, &zone)).await;
    let (rows, next) = page.map_err(|error| {
        tracing::warn!(error, "the usage log cannot be read");
        Refusal::new(Code::StoreUnavailable, "The usage log cannot be read right now.")
    })?;
    Ok(Json(json!({ "from": from.to_string(), "to": to.to_string(), "rows": rows, "next": next })))
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
    ) -> Result<(Vec<Value>, Option<String>), crate::ledger::Failure> {
        let mut rows = Vec::new();
        let (mut day, mut skip) = (self.newest, self.skip);
        // Days before the first request are empty, however many they are.
        let first = reports.first_request(Which { user_id: Some(user_id), ..Which::default() })?;
        let oldest = first.map_or(self.newest, |first| today(first, zone)).max(self.from);
        while day >= oldest {
            let (start, end) = plan::day_of(day, zone);
            let sums = reports.by_model(Which { user_id: Some(user_id), from: Some(start), until: Some(end) })?;
            for (place, sum) in sums.iter().enumerate().skip(skip) {
                if rows.len() == PAGE_ROWS {
                    return Ok((rows, Some(format!("{day}.{place}"))));
                }
                rows.push(row_json(day, sum));
            }
            skip = 0;
            match day.yesterday() {
                Ok(before) => day = before,
                Err(_) => break,
            }
        }
        Ok((rows, None))
    }
}

fn row_json(day: Date, sum: &ModelSum) -> Value {
    let mut row = json!({ "day": day.to_string() });
    if let (Some(row), Value::Object(sum)) = (row.as_object_mut(), sum_json(sum)) {
        row.extend(sum);
    }
    row
}

/// What requests of one model add up to.
pub(crate) fn sum_json(sum: &ModelSum) -> Value {
    json!({
        "model": sum.model,
        "requests": sum.requests,
        "input_tokens": sum.input_tokens,
        "cached_input_tokens": sum.cached_input_tokens,
        "output_tokens": sum.output_tokens,
        "cost_usd": MicroUsd(sum.cost_micros).to_string(),
    })
}

fn date(name: &'static str, text: Option<&str>) -> Result<Option<Date>, Refusal> {
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
