//! Usage sums, series over time, requests, and the audit log.

use axum::Json;
use axum::extract::State;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::caller::MayRead;
use super::input::{AdminRefusals, StrictQuery, slice};
use super::{AdminState, page_of};
use crate::account::days;
use crate::clock::Timestamp;
use crate::error::Refusal;
use crate::ledger::EndState;
use crate::ledger::read::report::RequestRow;
use crate::operator::queries::series::{Interval, Series, Steps};
use crate::operator::queries::sums::{GroupBy, UsageFilter};
use crate::operator::queries::usage::UsageRow;
use crate::operator::queries::{Page, audit, requests, series, usage};
use crate::plan::date_of;

/// How many days are summed up by default.
const DAYS: i64 = 30;
impl AdminState {
    fn zone(&self) -> TimeZone {
        self.app.config().server.time_zone.clone()
    }

    fn today(&self, zone: &TimeZone) -> Date {
        date_of(self.app.clock.now(), zone)
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
    step: Option<Interval>,
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
    StrictQuery(query): StrictQuery<SeriesQuery>,
) -> Result<Json<Series>, Refusal> {
    let zone = state.zone();
    let (step, default) = match query.step {
        Some(Interval::Hour) => (Interval::Hour, 2),
        Some(Interval::Day) | None => (Interval::Day, DAYS),
    };
    let asked = (query.from.as_deref(), query.to.as_deref());
    let range = days(asked, default, state.today(&zone))?;
    let steps = Steps::new(step, range, &zone).map_err(|told| Refusal::invalid("from", told))?;
    state
        .read(move |reports| series::series(reports, &steps))
        .await
        .map(Json)
}

/// Which usage.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct UsageParams {
    /// `day`, the newest first, or another, the highest spend first; without it, days.
    #[param(inline)]
    by: Option<GroupBy>,
    /// The first day (`2026-11-01`); without it, thirty days.
    #[param(format = Date)]
    from: Option<String>,
    /// The last day, included; without it, today.
    #[param(format = Date)]
    to: Option<String>,
    /// The most rows on a page.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// What was used, summed up.
#[derive(Serialize, ToSchema)]
pub(super) struct UsagePage {
    by: GroupBy,
    from: String,
    to: String,
    rows: Vec<UsageRow>,
    next: Option<String>,
}

/// What was used, summed up by day, user, model, plan, endpoint or feature
#[utoipa::path(
    get,
    path = "/admin/usage",
    tag = "usage",
    params(UsageParams),
    responses((status = 200, body = UsagePage), AdminRefusals)
)]
pub(super) async fn summed_up(
    State(state): State<AdminState>,
    _: MayRead,
    StrictQuery(query): StrictQuery<UsageParams>,
) -> Result<Json<UsagePage>, Refusal> {
    let zone = state.zone();
    let by = query.by.unwrap_or(GroupBy::Day);
    let asked = (query.from.as_deref(), query.to.as_deref());
    let range = days(asked, DAYS, state.today(&zone))?;
    let slice = slice(query.limit, query.cursor.as_deref())?;
    let (start, end) = range.span(&zone);
    let wanted = UsageFilter {
        by,
        from: start,
        until: end,
        user: None,
    };
    let page = state
        .read(move |reports| usage::list(reports, wanted, &zone, &slice))
        .await?;
    Ok(Json(UsagePage {
        by,
        from: range.from().to_string(),
        to: range.to().to_string(),
        rows: page.rows,
        next: page.next,
    }))
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
    state: Option<EndState>,
    /// The most rows on a page.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
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
    StrictQuery(query): StrictQuery<RequestsQuery>,
) -> Result<Json<Page<RequestRow>>, Refusal> {
    let wanted = requests::RequestFilter {
        user: query.user,
        state: query.state,
    };
    let slice = slice(query.limit, query.cursor.as_deref())?;
    state
        .read(move |reports| requests::list(reports, wanted, &slice))
        .await
        .map(Json)
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
    state
        .read(move |reports| requests::open(reports, now))
        .await
        .map(page_of)
}

/// Which part of the audit log.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditQuery {
    /// The most rows on a page.
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
    responses((status = 200, body = Page<audit::AuditEntry>), AdminRefusals)
)]
pub(super) async fn audit_log(
    State(state): State<AdminState>,
    _: MayRead,
    StrictQuery(query): StrictQuery<AuditQuery>,
) -> Result<Json<Page<audit::AuditEntry>>, Refusal> {
    let slice = slice(query.limit, query.cursor.as_deref())?;
    state
        .read(move |reports| audit::list(reports, &slice))
        .await
        .map(Json)
}
