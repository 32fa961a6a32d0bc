//! Every route of the app's listener, and the layers around them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use http::header;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;

use super::anthropic;
use super::devices;
use super::endpoints;
use super::kept_answers;
use super::layers::{self, Listener};
use super::media;
use super::purchases;
use crate::account;
use crate::app::App;
use crate::error::{Code, Refusal};
use crate::openapi::{self, OpenRefusals, put_described, put_served};

/// What needs no token of a user.
macro_rules! open_routes {
    ($put:ident, $router:expr) => {
        $put!($router;
            alive;
            ready;
            describe;
            purchases::from_appstore;
            purchases::from_revenuecat;
            purchases::from_superwall;
            purchases::from_stripe;
        )
    };
}

/// What needs a user's token.
macro_rules! user_routes {
    ($put:ident, $router:expr) => {
        $put!($router;
            account::me;
            account::usage;
            devices::challenge;
            devices::register;
            devices::token;
            endpoints::api_chat;
            endpoints::chat;
            endpoints::embeddings;
            media::images;
            media::image_edits;
            endpoints::moderations;
            media::speech;
            media::transcriptions;
            anthropic::messages;
            anthropic::count_tokens;
            kept_answers::answer, kept_answers::stop_answer;
            endpoints::prompt;
            endpoints::responses;
            purchases::bind;
            account::models;
            account::model;
        )
    };
}

/// All routes, with the layers around them.
pub fn router(app: &Arc<App>) -> Router {
    let routes = user_routes!(put_served, open_routes!(put_served, Router::new()))
        .fallback(|| async { Refusal::new(Code::NotFound, "There is nothing at this path.") })
        .method_not_allowed_fallback(|| async {
            Refusal::new(Code::MethodNotAllowed, "This path takes another method.")
        });
    layers::around(routes, Listener::Users, app).with_state(app.clone())
}

/// What `/openapi.json` says of the routes.
pub(super) fn described() -> OpenApi {
    let description = "What an app calls. Sign in with the access token of a Supabase user.";
    let document = openapi::empty(
        "Tollgate",
        description,
        "The access token of a Supabase user",
        Some((
            "token",
            SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(
                "X-Tollgate-Token",
                "The same, for clients that cannot send `Authorization`",
            ))),
        )),
    );
    let router = OpenApiRouter::<Arc<App>>::with_openapi(document);
    user_routes!(put_described, open_routes!(put_described, router)).into_openapi()
}

/// The server lives.
#[derive(Serialize, ToSchema)]
struct Alive {
    status: &'static str,
    service: &'static str,
    version: &'static str,
}

/// That the server lives
#[utoipa::path(get, path = "/", tag = "server", security(()), responses((status = 200, body = Alive), OpenRefusals))]
async fn alive() -> Json<Alive> {
    Json(Alive {
        status: "ok",
        service: "tollgate",
        version: env!("CARGO_PKG_VERSION"),
    })
}

/// These routes, in OpenAPI 3.1
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "server",
    security(()),
    responses((status = 200, body = Object), OpenRefusals)
)]
async fn describe(State(app): State<Arc<App>>) -> Response {
    let document = app.described.get_or_init(|| openapi::written(&described()));
    (
        [(header::CONTENT_TYPE, "application/json")],
        document.clone(),
    )
        .into_response()
}

/// Whether requests can be served, and every part that it depends on
///
/// Reports the state of the last traffic; it connects to nothing.
#[utoipa::path(
    get,
    path = "/health/ready",
    tag = "server",
    security(()),
    responses(
        (status = 200, description = "Ready", body = Readiness),
        (status = 503, description = "Not ready, with the same body", body = Readiness),
        OpenRefusals
    )
)]
async fn ready(State(app): State<Arc<App>>) -> Response {
    let config = app.config();
    let now = app.clock.now();
    let (keys, issuers) = (app.auth.health(now), app.auth.issuers_health(now));
    let upstreams = app.upstreams().health(&config.upstreams, now);
    let directory = app.directory.health();
    let writable = app.ledger.is_writable();
    // A lag of the outbox is reported, and does not make the server unready.
    let outbox = app.outbox_health(now);
    let an_upstream = upstreams.values().any(|health| health.ok);
    let is_leaving = app.is_leaving.load(Ordering::Acquire);
    let can_verify = keys.can_verify() || issuers.values().any(|keys| keys.ok);
    let is_ready = writable && can_verify && an_upstream && !is_leaving;
    let mut body = json!({
        "status": if is_ready { "ready" } else { "not_ready" },
        "parts": {
            "server": { "ok": !is_leaving, "stopping": is_leaving },
            "store": { "ok": writable, "kind": app.ledger.store().kind() },
            "jwks": keys,
            "directory": directory,
            "outbox": outbox,
            "upstreams": upstreams,
        },
    });
    // Nobody who has only Supabase need read of others.
    let parts = body
        .get_mut("parts")
        .and_then(serde_json::Value::as_object_mut);
    if let Some(parts) = parts.filter(|_| !issuers.is_empty()) {
        parts.insert("issuers".to_owned(), json!(issuers));
    }
    let status = if is_ready {
        http::StatusCode::OK
    } else {
        http::StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(body)).into_response()
}

/// What a load balancer asks.
#[derive(ToSchema)]
#[allow(dead_code, reason = "it says what `ready` writes")]
struct Readiness {
    /// `ready` or `not_ready`.
    status: String,
    /// `server`, `store`, `jwks`, `directory`, `outbox` and `upstreams`, each with `ok`.
    parts: serde_json::Value,
}
