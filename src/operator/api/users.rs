//! Users: the list, one user, and what the operator gives and takes.
//!
//! A change is in the ledger, with who made it, before it is answered, and this server acts on it from then on. Other
//! servers on the same ledger see it within a second.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::caller::{MayRead, MayWrite};
use super::input::{AdminRefusals, ChangeRefusals, JsonBody, StrictQuery, UserId, slice};
use super::{AdminState, page_of};
use crate::clock::Timestamp;
use crate::error::Refusal;
use crate::ledger::read::report::SubscriptionRow;
use crate::operator::queries::forget::forget;
use crate::operator::queries::users::{Sort, UserPage, UserRow, list, set_blocked, set_plan, user};
use crate::operator::queries::{Page, tokens};

/// The longest beginning of an id that is looked for.
const SEARCH_BYTES_MAX: usize = 36;

/// Which users.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct UsersQuery {
    /// The beginning of an id.
    search: Option<String>,
    /// `spend`, the highest of this month first, or `recent`.
    #[param(inline)]
    sort: Option<Sort>,
    /// The most rows on a page.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// Everybody who ever made a request, or of whom an operator said anything
#[utoipa::path(
    get,
    path = "/admin/users",
    tag = "users",
    params(UsersQuery),
    responses((status = 200, body = Page<UserRow>), AdminRefusals)
)]
pub(super) async fn users(
    State(state): State<AdminState>,
    _: MayRead,
    StrictQuery(query): StrictQuery<UsersQuery>,
) -> Result<Json<Page<UserRow>>, Refusal> {
    let search = query.search.unwrap_or_default();
    let is_begun = search.len() <= SEARCH_BYTES_MAX
        && search.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    if !is_begun {
        return Err(Refusal::invalid(
            "search",
            "search is the beginning of a user's id.",
        ));
    }
    let sort = query.sort.unwrap_or_default();
    let slice = slice(query.limit, query.cursor.as_deref())?;
    let (config, now) = (state.app.config(), state.app.clock.now());
    state
        .read(move |reports| list(reports, &config, (&search, sort), &slice, now))
        .await
        .map(Json)
}

/// One user: the plan, the limits, the credits, the month
///
/// A user who was never seen has the default plan and has used nothing.
#[utoipa::path(
    get,
    path = "/admin/users/{id}",
    tag = "users",
    params(("id" = Uuid, Path, description = "The user's id")),
    responses((status = 200, body = UserPage), AdminRefusals)
)]
pub(super) async fn one_user(
    State(state): State<AdminState>,
    _: MayRead,
    UserId(user_id): UserId,
) -> Result<Json<UserPage>, Refusal> {
    let (config, now) = (state.app.config(), state.app.clock.now());
    state
        .read(move |reports| user(reports, &config, user_id, now))
        .await
        .map(Json)
}

/// A plan for a user.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PlanGiven)]
pub(super) struct PlanChange {
    /// One of the plans in the settings.
    #[schema(example = "pro")]
    plan: String,
    /// The plan counts up to here (RFC 3339); null for good.
    #[schema(format = DateTime)]
    until: Option<String>,
}

/// Give a user a plan, until a moment or for good
///
/// What the developer's own database says of the user goes first, and so does a plan that the user's token names.
#[utoipa::path(
    put,
    path = "/admin/users/{id}/plan",
    tag = "users",
    params(("id" = Uuid, Path, description = "The user's id")),
    request_body = PlanChange,
    responses((status = 204, description = "Given"), ChangeRefusals)
)]
pub(super) async fn give_plan(
    State(state): State<AdminState>,
    MayWrite(admin): MayWrite,
    UserId(user_id): UserId,
    JsonBody(given): JsonBody<PlanChange>,
) -> Result<StatusCode, Refusal> {
    let config = state.app.config();
    if !config.plans.by_name.contains_key(&given.plan) {
        let known: Vec<&str> = config.plans.by_name.keys().map(String::as_str).collect();
        return Err(Refusal::invalid(
            "plan",
            format!("No plan has this name. There are: {}.", known.join(", ")),
        ));
    }
    let until = given.until.as_deref().map(Timestamp::parse).transpose();
    let until = until.map_err(|_| {
        Refusal::invalid("until", "until must be a time like 2027-01-01T00:00:00Z.")
    })?;
    let row = SubscriptionRow {
        plan: Some(given.plan),
        until,
        ..SubscriptionRow::default()
    };
    state
        .change(admin, move |desk, by| set_plan(desk, user_id, &row, by))
        .await?;
    Ok(shown_to(&state, user_id))
}

/// Take the plan back that an operator gave
#[utoipa::path(
    delete,
    path = "/admin/users/{id}/plan",
    tag = "users",
    params(("id" = Uuid, Path, description = "The user's id")),
    responses((status = 204, description = "Taken back"), ChangeRefusals)
)]
pub(super) async fn take_plan(
    State(state): State<AdminState>,
    MayWrite(admin): MayWrite,
    UserId(user_id): UserId,
) -> Result<StatusCode, Refusal> {
    state
        .change(admin, move |desk, by| {
            set_plan(desk, user_id, &SubscriptionRow::default(), by)
        })
        .await?;
    Ok(shown_to(&state, user_id))
}

/// Refuse a user from now on, with 403 `user_blocked`
#[utoipa::path(
    post,
    path = "/admin/users/{id}/block",
    tag = "users",
    params(("id" = Uuid, Path, description = "The user's id")),
    responses((status = 204, description = "Blocked"), ChangeRefusals)
)]
pub(super) async fn block(
    State(state): State<AdminState>,
    MayWrite(admin): MayWrite,
    UserId(user_id): UserId,
) -> Result<StatusCode, Refusal> {
    state
        .change(admin, move |desk, by| set_blocked(desk, user_id, true, by))
        .await?;
    Ok(shown_to(&state, user_id))
}

/// Let a user in again
#[utoipa::path(
    post,
    path = "/admin/users/{id}/unblock",
    tag = "users",
    params(("id" = Uuid, Path, description = "The user's id")),
    responses((status = 204, description = "Let in"), ChangeRefusals)
)]
pub(super) async fn unblock(
    State(state): State<AdminState>,
    MayWrite(admin): MayWrite,
    UserId(user_id): UserId,
) -> Result<StatusCode, Refusal> {
    state
        .change(admin, move |desk, by| set_blocked(desk, user_id, false, by))
        .await?;
    Ok(shown_to(&state, user_id))
}

/// Forget a user: what is known of them goes, and what their requests cost stays, as nobody's
///
/// The account itself, and what the developer's own database has of it, are not here. A user who is still signed in may
/// make requests again, as somebody new.
#[utoipa::path(
    delete,
    path = "/admin/users/{id}",
    tag = "users",
    params(("id" = Uuid, Path, description = "The user's id")),
    responses((status = 204, description = "Forgotten"), ChangeRefusals)
)]
pub(super) async fn forget_user(
    State(state): State<AdminState>,
    MayWrite(admin): MayWrite,
    UserId(user_id): UserId,
) -> Result<StatusCode, Refusal> {
    state
        .change(admin, move |desk, by| forget(desk, user_id, by))
        .await?;
    state.app.answers.forget(user_id);
    Ok(shown_to(&state, user_id))
}

/// Forget what is kept about a user's plan, so that their next request asks again
///
/// For the server that hears of a purchase. Each process of the product keeps its own.
#[utoipa::path(
    post,
    path = "/admin/users/{id}/refresh",
    tag = "users",
    params(("id" = Uuid, Path, description = "The user's id")),
    responses((status = 204, description = "Forgotten"), ChangeRefusals)
)]
pub(super) async fn refresh(
    State(state): State<AdminState>,
    _: MayWrite,
    UserId(user_id): UserId,
) -> StatusCode {
    shown_to(&state, user_id)
}

/// This server looks at the user again with the next request.
pub(super) fn shown_to(state: &AdminState, user_id: Uuid) -> StatusCode {
    state.app.directory.refresh(user_id);
    StatusCode::NO_CONTENT
}

/// The tokens that were made, and what became of them
///
/// They are made and revoked by `tollgate admin-token` only.
#[utoipa::path(
    get,
    path = "/admin/tokens",
    tag = "server",
    responses((status = 200, body = Page<tokens::TokenRow>), AdminRefusals)
)]
pub(super) async fn made_tokens(
    State(state): State<AdminState>,
    _: MayRead,
) -> Result<Json<Page<tokens::TokenRow>>, Refusal> {
    state.read(tokens::list).await.map(page_of)
}
