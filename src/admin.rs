//! The operator's listener: what an operator's own programs call, with the operator's token.
//!
//! It is a listener of its own (`[server] admin_bind`), and it is there only when `TOLLGATE_ADMIN_TOKEN` is set. Tokens of
//! users mean nothing here, and the operator's token means nothing on the other listener.

use std::sync::Arc;

use aws_lc_rs::{constant_time, digest};
use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{get, post};
use http::request::Parts;
use http::{StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use crate::app::{App, requests};
use crate::error::{Code, Refusal};

/// A verified operator. Made only in this file.
struct Admin;

/// The routes of the operator's listener. All of them ask for [`Admin`].
pub(crate) fn router(app: &Arc<App>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/admin/users/{id}/refresh", post(refresh))
        .fallback(|| async { Refusal::new(Code::NotFound, "There is nothing at this path.") })
        .method_not_allowed_fallback(|| async {
            Refusal::new(Code::MethodNotAllowed, "This path takes another method.")
        })
        .layer(from_fn_with_state(app.clone(), requests::log_admin_request))
        .layer(from_fn_with_state(app.clone(), requests::name_request))
        .with_state(app.clone())
}

/// `POST /admin/users/{id}/refresh`: what is kept about a user's plan is forgotten, so that their next request asks
/// again. For the server that hears of a purchase. 204.
async fn refresh(
    State(app): State<Arc<App>>,
    _: Admin,
    id: Result<Path<Uuid>, PathRejection>,
) -> Result<StatusCode, Refusal> {
    let Path(user_id) = id.map_err(|_| Refusal::invalid("id", "The user's id must be a UUID."))?;
    app.directory.refresh(user_id);
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /metrics`: for whoever is on this machine, where the listener can be reached from nowhere else; otherwise for the
/// operator.
async fn metrics(State(app): State<Arc<App>>, request: Request) -> Result<Response, Refusal> {
    if !app.config().server.admin_is_local() {
        let (mut head, _) = request.into_parts();
        Admin::from_request_parts(&mut head, &app).await?;
    }
    Ok(crate::metrics::metrics(State(app)).await)
}

impl FromRequestParts<Arc<App>> for Admin {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        let config = app.config();
        let mut given = parts.headers.get_all(header::AUTHORIZATION).iter();
        let Some(value) = given.next() else {
            return Err(Refusal::new(Code::MissingToken, "Send the operator's token: Authorization: Bearer …"));
        };
        let token = value.as_bytes().split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
        let is_right =
            token.zip(config.server.admin_token.as_ref()).is_some_and(|((_, token), right)| same(token, right));
        // A page of another origin has no business here, whatever it knows.
        let is_foreign = parts.headers.contains_key(header::ORIGIN);
        if is_right && !is_foreign && given.next().is_none() {
            return Ok(Self);
        }
        Err(Refusal::new(Code::InvalidToken, "This is not the operator's token."))
    }
}

/// Compared by digests and in constant time, so that the time it takes tells nothing, not even the length.
fn same(given: &[u8], right: &SecretString) -> bool {
    let hash = |bytes: &[u8]| digest::digest(&digest::SHA256, bytes);
    let (given, right) = (hash(given), hash(right.expose_secret().as_bytes()));
    constant_time::verify_slices_are_equal(given.as_ref(), right.as_ref()).is_ok()
}
