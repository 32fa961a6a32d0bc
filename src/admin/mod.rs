//! The operator's listener: what an operator's programs and the dashboard call.
//!
//! It is a listener of its own (`[server] admin_bind`). Tokens of users mean nothing here, and the operator's tokens mean
//! nothing on the other listener. A handler that names a [`caller::MayRead`] or a [`caller::MayWrite`] cannot run without
//! one; the routes that name neither are those that say `security(())`.

mod caller;
mod events;
mod input;
mod sessions;
mod sign_in;
mod tokens;
mod users;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::{FromRef, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};
use tokio_util::sync::CancellationToken;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::caller::MayRead;
use self::events::Events;
use self::input::AdminRefusals;
use self::sessions::Sessions;
use self::tokens::Tokens;
pub(crate) use self::tokens::has_made_token;
use crate::app::{App, requests, unread};
use crate::error::{Code, Refusal};
use crate::openapi;

/// What the routes of this listener may use.
#[derive(Clone)]
pub(crate) struct AdminState {
    app: Arc<App>,
    shared: Arc<Shared>,
}

/// What is kept between requests, in memory only.
struct Shared {
    tokens: Tokens,
    sessions: Sessions,
    events: Events,
    /// Cancelled when the server stops: what would go on for ever ends then.
    stop: CancellationToken,
    /// What `/admin/openapi.json` says, once somebody has asked.
    described: OnceLock<Bytes>,
}

impl FromRef<AdminState> for Arc<App> {
    fn from_ref(state: &AdminState) -> Self {
        state.app.clone()
    }
}

/// All routes of the operator's listener, with the layers outermost last.
pub(crate) fn router(app: &Arc<App>, stop: &CancellationToken) -> Router {
    let shared = Shared {
        tokens: Tokens::default(),
        sessions: Sessions::default(),
        events: Events::default(),
        stop: stop.clone(),
        described: OnceLock::new(),
    };
    let state = AdminState { app: app.clone(), shared: Arc::new(shared) };
    Router::from(described_routes())
        .fallback(|| async { Refusal::new(Code::NotFound, "There is nothing at this path.") })
        .method_not_allowed_fallback(|| async {
            Refusal::new(Code::MethodNotAllowed, "This path takes another method.")
        })
        .layer(from_fn(harden))
        .layer(from_fn_with_state(app.clone(), requests::log_request))
        .layer(from_fn_with_state(app.clone(), requests::name_request))
        .layer(from_fn_with_state(app.clone(), unread::let_finish))
        .with_state(state)
}

/// The routes with what `/admin/openapi.json` says of them.
fn described_routes() -> OpenApiRouter<AdminState> {
    let cookie = ApiKey::Cookie(ApiKeyValue::with_description(
        sessions::COOKIE,
        "A session of the dashboard. A method that changes something also needs the header X-Tollgate-Csrf: 1",
    ));
    let document = openapi::empty(
        "Tollgate, the operator's side",
        "What an operator's programs and the dashboard call.",
        "TOLLGATE_ADMIN_TOKEN, or a token made by `tollgate admin-token create`",
        Some(("session", SecurityScheme::ApiKey(cookie))),
    );
    OpenApiRouter::with_openapi(document)
        .routes(routes!(describe))
        .routes(routes!(sign_in::sign_in, sign_in::who_am_i, sign_in::sign_out))
        .routes(routes!(users::refresh))
}

/// These routes, in OpenAPI 3.1
#[utoipa::path(
    get,
    path = "/admin/openapi.json",
    tag = "server",
    responses((status = 200, body = Object), AdminRefusals)
)]
async fn describe(State(state): State<AdminState>, _: MayRead) -> Response {
    let document = state.shared.described.get_or_init(|| openapi::written(&described_routes().into_openapi()));
    ([(header::CONTENT_TYPE, "application/json")], document.clone()).into_response()
}

/// What an answer that says nothing else gets: nobody keeps it, frames it, or takes it for another type.
async fn harden(request: Request, next: Next) -> Response {
    const HEADERS: [(HeaderName, &str); 5] = [
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    let mut response = next.run(request).await;
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}
