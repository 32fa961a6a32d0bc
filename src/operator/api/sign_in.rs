//! Signing in to the dashboard: a token becomes a session, whose cookie no script can read.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, Uri, header};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AdminState;
use super::caller::{MayRead, check_origin, is_direct};
use super::input::{AdminRefusals, JsonBody, SignInRefusals};
use super::sessions;
use crate::error::Refusal;
use crate::operator::queries::tokens::Scope;

/// A token of the operator.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SignIn {
    token: String,
}

/// Whose session or token it is.
#[derive(Serialize, ToSchema)]
pub(super) struct WhoAmI {
    /// The token's name, as in the audit log.
    name: String,
    /// `read`, or `read` and `write`.
    scopes: &'static [&'static str],
}

/// Begin a session: the answer sets its cookie
#[utoipa::path(
    post,
    path = "/admin/session",
    tag = "session",
    security(()),
    request_body = SignIn,
    responses((status = 204, description = "Signed in"), SignInRefusals)
)]
pub(super) async fn sign_in(
    State(state): State<AdminState>,
    headers: HeaderMap,
    JsonBody(sent): JsonBody<SignIn>,
) -> Result<Response, Refusal> {
    check_origin(&headers)?;
    let app = &state.app;
    let admin = state
        .shared
        .tokens
        .verify(app, sent.token.as_bytes())
        .await?;
    let session = state.shared.sessions.begin(admin.token, app.clock.now())?;
    tracing::info!(name = admin.name, "an operator signed in");
    Ok(cookie_answer(&state, &headers, Some(&session)))
}

/// Whose session or token this is, and what it may be used for
#[utoipa::path(
    get,
    path = "/admin/session",
    tag = "session",
    responses((status = 200, body = WhoAmI), AdminRefusals)
)]
pub(super) async fn who_am_i(MayRead(admin): MayRead) -> Json<WhoAmI> {
    let scopes: &[&str] = match admin.scope {
        Scope::Read => &["read"],
        Scope::Write => &["read", "write"],
    };
    Json(WhoAmI {
        name: admin.name,
        scopes,
    })
}

/// End the session, and take its cookie away
#[utoipa::path(
    delete,
    path = "/admin/session",
    tag = "session",
    responses((status = 204, description = "Signed out"), AdminRefusals)
)]
pub(super) async fn sign_out(
    State(state): State<AdminState>,
    _: MayRead,
    headers: HeaderMap,
) -> Response {
    if let Some(cookie) = sessions::cookie(&headers) {
        state.shared.sessions.end(cookie);
    }
    cookie_answer(&state, &headers, None)
}

fn cookie_answer(state: &AdminState, headers: &HeaderMap, session: Option<&str>) -> Response {
    let mut answer = StatusCode::NO_CONTENT.into_response();
    // Behind a proxy, or by a name, a browser is elsewhere: the cookie goes nowhere but through TLS.
    let is_direct = state.shared.is_local && is_direct(headers, &Uri::default());
    if let Some(cookie) = sessions::set_cookie(session, is_direct) {
        answer.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    answer
}
