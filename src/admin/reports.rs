//! What was used and what was done: sums, series, requests, the audit log.

use axum::Json;
use axum::extract::State;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::caller::MayRead;
use super::input::{AdminRefusals, Asked, slice};
use super::{AdminState, page_of};
use crate::account::date;
use crate::clock::Timestamp;
use crate::error::Refusal;
use crate::ledger::report::RequestRow;
use crate::operator::series::{Series, Step, Steps};
use crate::operator::usage::{Key, UsageRow};
use crate::operator::{Page, audit, day_of, requests, series, span_of, usage};

/// How many days are summed up where nobody says.
const DAYS: i64 = 30;
/// How many days may be summed up.
const DAYS_MAX: i64 = 800;

/// Some days, both included.
fn days(from: Option<&str>, to: Option<&str>, days: i64, today: Date) -> Result<(Date, Date), Refusal> {
    let to = date("to", to)?.unwrap_or(today);
    let before = || to.saturating_sub(Span::new().days(days.saturating_sub(1)));
    let from = date("from", from)?.unwrap_or_else(before);
    if from > to {
        return Err(Refusal::invalid("from", format!("from ({from}) is after to ({to}).")));
    }
    if to.duration_since(from) > SignedDuration::from_hours(DAYS_MAX.saturating_mul(24)) {
        return Err(Refusal::invalid("from", format!("Ask for at most {DAYS_MAX} days at a time.")));
    }
    Ok((from, to))
}

impl AdminState {
    fn zone(&self) -> TimeZone {
        self.app.config().server.time_zone.clone()
    }

    fn today(&self, zone: &TimeZone) -> Date {
        day_of(self.app.clock.now(), zone)
    }
}

/// Which steps.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct SeriesQuery {
    /// The first day (`2026-11-01`); without it, thirty days, or two with hours.
    #[param(format = Date)]
    from: Option<String>,
    /// The last day, included; without it, today.
    #[param(format = Date)]
    to: Option<String>,
    /// `hour` or `day`; without it, days.
    #[param(inline)]
    step: Option<StepBy>,
}

#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum StepBy {
    Hour,
    Day,
}

/// Requests and spending over time, oldest first
///
/// At most a thousand steps; those without requests are zeros. Days are in `[server] time_zone`.
#[utoipa::path(
    get,
    path = "/admin/series",
    tag = "usage",
    params(SeriesQuery),
    responses((status = 200, body = Series), AdminRefusals)
)]
pub(super) async fn over_time(
    State(state): State<AdminState>,
    _: MayRead,
    Asked(query): Asked<SeriesQuery>,
) -> Result<Json<Series>, Refusal> {
    let zone = state.zone();
    let (step, default) = match query.step {
        Some(StepBy::Hour) => (Step::Hour, 2),
        Some(StepBy::Day) | None => (Step::Day, DAYS),
    };
    let (from, to) = days(query.from.as_deref(), query.to.as_deref(), default, state.today(&zone))?;
    let steps = Steps::new(step, from, to, &zone).map_err(|told| Refusal::invalid("from", told))?;
    state.read(move |reports| series::series(reports, &steps)).await.map(Json)
}

/// Which usage.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct UsageQuery {
    /// `day`, newest first, or `user`, `model`, `plan`, the highest spend first; without it, days.
    #[param(inline)]
    by: Option<SumBy>,
    /// The first day (`2026-11-01`); without it, thirty days.
    #[param(format = Date)]
    from: Option<String>,
    /// The last day, included; without it, today.
    #[param(format = Date)]
    to: Option<String>,
    /// At most so many rows.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
}

#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum SumBy {
    Day,
    User,
    Model,
    Plan,
}

/// What was used, summed up.
#[derive(Serialize, ToSchema)]
pub(super) struct UsagePage {
    by: Key,
    from: String,
    to: String,
    rows: Vec<UsageRow>,
    next: Option<String>,
}

/// What was used, summed up by day, user, model or plan
#[utoipa::path(
    get,
    path = "/admin/usage",
    tag = "usage",
    params(UsageQuery),
    responses((status = 200, body = UsagePage), AdminRefusals)
)]
pub(super) async fn summed_up(
    State(state): State<AdminState>,
    _: MayRead,
    Asked(query): Asked<UsageQuery>,
) -> Result<Json<UsagePage>, Refusal> {
    let zone = state.zone();
    let by = match query.by {
        Some(SumBy::Day) | None => Key::Day,
        Some(SumBy::User) => Key::User,
        Some(SumBy::Model) => Key::Model,
        Some(SumBy::Plan) => Key::Plan,
    };
    let (from, to) = days(query.from.as_deref(), query.to.as_deref(), DAYS, state.today(&zone))?;
    let slice = slice(query.limit, query.cursor.as_deref())?;
    let (start, end) = span_of(from, to, &zone);
    let wanted = usage::Wanted { by, from: start, until: end, user: None };
    let page = state.read(move |reports| usage::list(reports, wanted, &zone, &slice)).await?;
    Ok(Json(UsagePage { by, from: from.to_string(), to: to.to_string(), rows: page.rows, next: page.next }))
}

/// Which requests.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestsQuery {
    /// Of this user only.
    user: Option<Uuid>,
    /// In this state only: `held`, `settled`, `voided` or `lost`.
    #[param(inline)]
    state: Option<InState>,
    /// At most so many rows.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
}

#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum InState {
    Held,
    Settled,
    Voided,
    Lost,
}

/// Requests, newest first, as `tollgate usage --requests --json` prints them
#[utoipa::path(
    get,
    path = "/admin/requests",
    tag = "requests",
    params(RequestsQuery),
    responses((status = 200, body = Page<RequestRow>), AdminRefusals)
)]
pub(super) async fn all_requests(
    State(state): State<AdminState>,
    _: MayRead,
    Asked(query): Asked<RequestsQuery>,
) -> Result<Json<Page<RequestRow>>, Refusal> {
    let in_state = query.state.map(|state| match state {
        InState::Held => requests::State::Held,
        InState::Settled => requests::State::Settled,
        InState::Voided => requests::State::Voided,
        InState::Lost => requests::State::Lost,
    });
    let wanted = requests::Wanted { user: query.user, state: in_state };
    let slice = slice(query.limit, query.cursor.as_deref())?;
    state.read(move |reports| requests::list(reports, wanted, &slice)).await.map(Json)
}

/// Open requests of every process, oldest first, at most 500
#[utoipa::path(
    get,
    path = "/admin/open",
    tag = "requests",
    responses((status = 200, body = Page<requests::OpenRow>), AdminRefusals)
)]
pub(super) async fn open_requests(
    State(state): State<AdminState>,
    _: MayRead,
) -> Result<Json<Page<requests::OpenRow>>, Refusal> {
    let now: Timestamp = state.app.clock.now();
    state.read(move |reports| requests::open(reports, now)).await.map(page_of)
}

/// Which part of the audit log.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditQuery {
    /// At most so many rows.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// The changes that operators made, newest first
#[utoipa::path(
    get,
    path = "/admin/audit",
    tag = "server",
    params(AuditQuery),
    responses((status = 200, body = Page<audit::Entry>), AdminRefusals)
)]
pub(super) async fn audit_log(
    State(state): State<AdminState>,
    _: MayRead,
    Asked(query): Asked<AuditQuery>,
) -> Result<Json<Page<audit::Entry>>, Refusal> {
    let slice = slice(query.limit, query.cursor.as_deref())?;
    state.read(move |reports| audit::list(reports, &slice)).await.map(Json)
}
