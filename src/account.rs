//! What a user may see of their own account: `/api/me`, `/api/usage`, `/v1/models`. Reads only.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use jiff::Span;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::app::{App, Caller};
use crate::auth::{Device, Principal};
use crate::clock::Timestamp;
use crate::error::{Code, Refusal};
use crate::ledger::limit_states;
use crate::ledger::read::report::{ModelSum, ReportRange, Reports};
use crate::openapi::{ModelRefusals, UserRefusals};
use crate::plan::{self, CreditBalanceRow, DayRange, LimitRow, LivePurchase};
use crate::price::MicroUsd;

/// How many rows of history a page has at most.
const PAGE_ROWS: usize = 500;
/// How many days of history are told where nobody says how many.
const DAYS: i64 = 30;

/// Who calls, what they may, and what is left of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Me {
    user: MyUser,
    plan: MyPlan,
    limits: Vec<LimitRow>,
    /// Dollars beside the plan; null where there are none.
    credits: Option<CreditBalanceRow>,
    concurrent: Concurrent,
    /// Their names; the first is taken when none is asked for.
    models: Vec<String>,
    max_output_tokens: u32,
    /// The live purchase that gives a plan, whether or not something else goes first.
    purchase: Option<MyPurchase>,
    /// What the device proves of itself; null where it proves nothing.
    device: Option<MyDevice>,
}

/// The device that asks.
#[derive(Debug, Serialize, ToSchema)]
struct MyDevice {
    attested: bool,
}

#[derive(Debug, Serialize, ToSchema)]
struct MyUser {
    id: Uuid,
    #[schema(required)]
    email: Option<String>,
    is_anonymous: bool,
    /// The issuer of the token, where that is another than the project; left out for users of the project.
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<String>,
    /// What that issuer calls the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct MyPlan {
    name: String,
    /// Who said so: `database`, `claim`, `local`, `purchase` or `default`.
    source: &'static str,
    period_ends_at: Option<String>,
}

/// What was bought in a store.
#[derive(Debug, Serialize, ToSchema)]
struct MyPurchase {
    /// The store's name of the product.
    product: String,
    /// `app_store`, `play_store`, `stripe` …
    store: String,
    /// When the plan that it gives ends; null for never.
    expires_at: Option<String>,
    /// Whether the store will renew it; null where it did not say.
    will_renew: Option<bool>,
}

impl MyPurchase {
    fn of(live: LivePurchase) -> Self {
        Self {
            product: live.purchase.product,
            store: live.purchase.store,
            expires_at: live.ends_at.map(Timestamp::rfc3339),
            will_renew: live.purchase.will_renew,
        }
    }
}

/// Open requests, and how many the plan lets be open.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Concurrent {
    pub(crate) limit: Option<u32>,
    pub(crate) open: i64,
}

/// The user, the plan, every limit, the allowed models
///
/// # Errors
/// The plan or the ledger cannot be read, or the user is blocked.
#[utoipa::path(get, path = "/api/me", tag = "account", responses((status = 200, body = Me), UserRefusals))]
pub async fn me(
    State(app): State<Arc<App>>,
    Caller {
        who: caller,
        place: _place,
    }: Caller,
) -> Result<Json<Me>, Refusal> {
    seen_by(&app, &caller).await
}

/// What `/api/me` tells a user.
pub(crate) async fn seen_by(app: &Arc<App>, caller: &Principal) -> Result<Json<Me>, Refusal> {
    let config = app.config();
    let now = app.clock.now();
    let granted = app.directory.plan_of(caller, &config, now).await?;
    let limits = granted.limits_at(now, &config.server.time_zone);
    let counters = limits
        .iter()
        .map(|(limit, window)| limit.counter(*window))
        .collect();
    let standing = app.ledger.standing(caller.user_id(), now, counters).await?;
    let is_anonymous = caller.is_anonymous();
    Ok(Json(Me {
        user: MyUser {
            id: caller.user_id(),
            email: caller.email().map(str::to_owned),
            is_anonymous,
            issuer: caller.subject().map(|named| named.issuer.clone()),
            subject: caller.subject().map(|named| named.id.clone()),
        },
        limits: limit_states(&limits, &standing.windows)
            .iter()
            .map(LimitRow::of)
            .collect(),
        credits: standing.credits.as_ref().map(CreditBalanceRow::of),
        concurrent: Concurrent {
            limit: granted.plan.concurrent_requests,
            open: standing.open,
        },
        models: granted.plan.models.clone(),
        max_output_tokens: granted.plan.max_output_tokens,
        plan: MyPlan {
            name: granted.plan.name.clone(),
            source: granted.source.as_str(),
            period_ends_at: granted.period.map(|period| period.end.rfc3339()),
        },
        purchase: granted.purchase.map(MyPurchase::of),
        device: (caller.device() == Device::Attested).then_some(MyDevice { attested: true }),
    }))
}

/// The models of a plan, in OpenAI's shape.
#[derive(Debug, Serialize, ToSchema)]
pub struct Models {
    object: &'static str,
    data: Vec<ModelObject>,
}

/// A model, in OpenAI's shape.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Model)]
pub struct ModelObject {
    id: String,
    object: &'static str,
    created: i64,
    owned_by: &'static str,
}

impl ModelObject {
    fn named(name: &str) -> Self {
        Self {
            id: name.to_owned(),
            object: "model",
            created: 0,
            owned_by: "tollgate",
        }
    }
}

/// The models of the caller's plan, in OpenAI's shape
///
/// # Errors
/// The plan cannot be read, or the user is blocked.
#[utoipa::path(get, path = "/v1/models", tag = "openai", responses((status = 200, body = Models), UserRefusals))]
pub async fn models(
    State(app): State<Arc<App>>,
    Caller {
        who: caller,
        place: _place,
    }: Caller,
) -> Result<Json<Models>, Refusal> {
    let granted = app
        .directory
        .plan_of(&caller, &app.config(), app.clock.now())
        .await?;
    Ok(Json(Models {
        object: "list",
        data: granted
            .plan
            .models
            .iter()
            .map(|name| ModelObject::named(name))
            .collect(),
    }))
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
    responses((status = 200, body = ModelObject), ModelRefusals)
)]
pub async fn model(
    State(app): State<Arc<App>>,
    Caller {
        who: caller,
        place: _place,
    }: Caller,
    id: Result<Path<String>, axum::extract::rejection::PathRejection>,
) -> Result<Json<ModelObject>, Refusal> {
    let Path(id) =
        id.map_err(|_| Refusal::invalid("model", "The model's name in the path is not UTF-8."))?;
    let config = app.config();
    let granted = app
        .directory
        .plan_of(&caller, &config, app.clock.now())
        .await?;
    let entry = config.prices.entry(&id, &config.models);
    let known = granted
        .plan
        .models
        .iter()
        .find(|name| entry == Some(name.as_str()));
    let name = known.ok_or_else(|| {
        Refusal::new(Code::ModelNotAllowed, "This model is not in your plan.").at("model")
    })?;
    Ok(Json(ModelObject::named(name)))
}

/// The query of `/api/usage`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct HistoryQuery {
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
#[schema(as = Usage)]
pub struct UsageHistory {
    from: String,
    to: String,
    rows: Vec<HistoryRow>,
    /// The cursor of the next page; null on the last one.
    next: Option<String>,
}

/// What the requests of a day and a model add up to.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UsageRow)]
pub struct HistoryRow {
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
    images: i64,
    audio_seconds: i64,
    characters: i64,
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
    params(HistoryQuery),
    responses((status = 200, body = UsageHistory), UserRefusals)
)]
pub async fn usage(
    State(app): State<Arc<App>>,
    Caller { who: caller, place }: Caller,
    query: Result<Query<HistoryQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<UsageHistory>, Refusal> {
    let Query(query) = query.map_err(|_| {
        Refusal::new(
            Code::InvalidRequest,
            "Known parameters: from and to (like 2026-11-01), and cursor.",
        )
    })?;
    let config = app.config();
    let zone = config.server.time_zone.clone();
    let pages = DayCursor::of(&query, plan::date_of(app.clock.now(), &zone))?;
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
        Refusal::new(
            Code::StoreUnavailable,
            "The usage log cannot be read right now.",
        )
    })?;
    Ok(Json(UsageHistory {
        from: from.to_string(),
        to: to.to_string(),
        rows,
        next,
    }))
}

/// Days still to be told, the newest first; on the first of them `skip` models were told already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DayCursor {
    from: Date,
    to: Date,
    newest: Date,
    skip: usize,
}

impl DayCursor {
    fn of(query: &HistoryQuery, today: Date) -> Result<Self, Refusal> {
        let range = days((query.from.as_deref(), query.to.as_deref()), DAYS, today)?;
        let all = Self {
            from: range.from(),
            to: range.to(),
            newest: range.to(),
            skip: 0,
        };
        query
            .cursor
            .as_deref()
            .map_or(Ok(all), |cursor| all.after(cursor))
    }

    fn after(self, cursor: &str) -> Result<Self, Refusal> {
        let read = || {
            let (day, skip) = cursor.split_once('.')?;
            let newest = parse_date(day)?;
            let inside = self.from <= newest && newest <= self.to;
            Some(Self {
                newest,
                skip: skip.parse().ok()?,
                ..self
            })
            .filter(|_| inside)
        };
        read().ok_or_else(|| {
            Refusal::invalid(
                "cursor",
                "Not a cursor of this query: take `next` of the page before.",
            )
        })
    }

    /// One page, and the cursor of the next.
    fn read(
        self,
        reports: &Reports,
        user_id: Uuid,
        zone: &TimeZone,
    ) -> Result<(Vec<HistoryRow>, Option<String>), crate::ledger::Failure> {
        let mut rows = Vec::new();
        let (mut day, mut skip) = (self.newest, self.skip);
        while day >= self.from {
            let (start, end) = plan::day_of(day, zone);
            let of_day = ReportRange {
                user_id: Some(user_id),
                from: Some(start),
                until: Some(end),
            };
            let sums = reports.by_model(of_day)?;
            for (place, sum) in sums.iter().enumerate().skip(skip) {
                if rows.len() == PAGE_ROWS {
                    return Ok((rows, Some(format!("{day}.{place}"))));
                }
                rows.push(HistoryRow {
                    day: day.to_string(),
                    sum: Sum::of(sum),
                });
            }
            skip = 0;
            let Ok(before) = day.yesterday() else { break };
            day = before;
            if sums.is_empty() {
                // Days without requests cost nothing, however many they are.
                let before = ReportRange {
                    from: None,
                    until: Some(start),
                    ..of_day
                };
                let Some(last) = reports.last_request(before)? else {
                    break;
                };
                day = plan::date_of(last, zone).min(day);
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
            images: sum.images,
            audio_seconds: sum.audio_seconds,
            characters: sum.characters,
            cost_usd: MicroUsd(sum.cost_micros).to_string(),
        }
    }
}

/// The days that a query names; where it says nothing, `count` of them up to today.
pub(crate) fn days(
    (from, to): (Option<&str>, Option<&str>),
    count: i64,
    today: Date,
) -> Result<DayRange, Refusal> {
    let to = date("to", to)?.unwrap_or(today);
    let before = || to.saturating_sub(Span::new().days(count.saturating_sub(1)));
    let from = date("from", from)?.unwrap_or_else(before);
    DayRange::new(from, to).map_err(|told| Refusal::invalid("from", told))
}

fn date(name: &'static str, text: Option<&str>) -> Result<Option<Date>, Refusal> {
    let Some(text) = text else { return Ok(None) };
    let read = parse_date(text);
    read.map(Some)
        .ok_or_else(|| Refusal::invalid(name, format!("{name} must be a date like 2026-11-01.")))
}

/// `YYYY-MM-DD` and nothing else, in years that a timestamp can hold.
fn parse_date(text: &str) -> Option<Date> {
    let date: Date = text.parse().ok()?;
    let plain = text.len() == 10 && date.to_string() == text;
    Some(date).filter(|date| plain && (1970..9999).contains(&date.year()))
}
