//! The operator's listener: the API for an operator's programs and the dashboard.
//!
//! It is a listener of its own (`[server] admin_bind`). Tokens of users are not valid here, and the operator's tokens
//! are not valid on the other listener. A handler that names a [`caller::MayRead`] or a [`caller::MayWrite`] cannot run
//! without one; the routes that name neither say `security(())`.

mod caller;
mod credits;
mod digest;
mod events;
mod input;
mod metrics;
mod models;
mod overview;
mod page;
mod prompts;
mod purchases;
mod reports;
mod sessions;
mod sign_in;
mod tokens;
mod users;

use std::sync::{Arc, OnceLock};

use axum::extract::{FromRef, FromRequestParts, Request, State};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, header};
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;

use self::caller::{Admin, MayRead};
use self::events::Events;
use self::input::{AdminRefusals, PageRefusals};
use self::sessions::Sessions;
use self::tokens::TokenCache;
pub(crate) use self::tokens::has_made_token;
use crate::app::App;
use crate::clock::Timestamp;
use crate::error::{Code, Refusal};
use crate::ledger::Failure;
use crate::ledger::read::report::{By, Desk, Reports};
use crate::ledger::read::shared::{Reader, SharedConnection};
use crate::openapi::{self, OpenRefusals, put_described, put_served};
use crate::operator::queries::Page;
use crate::server::layers::{self, Listener};

/// What the routes of this listener may use.
#[derive(Clone)]
pub(crate) struct AdminState {
    app: Arc<App>,
    shared: Arc<AdminMemory>,
}

/// State between requests, in memory only.
struct AdminMemory {
    started_at: Timestamp,
    /// The listener is on this machine only. As it was when it began to listen: settings that are read later change that
    /// nowhere but in the file.
    is_local: bool,
    /// Looking, beside the users' own looks at what they used.
    reader: Arc<Reader>,
    /// Changing.
    desk: Arc<SharedConnection<Desk>>,
    tokens: TokenCache,
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

impl AdminState {
    /// Reads the ledger.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reports) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Refusal> {
        self.shared.reader.read(read).await.map_err(|error| {
            tracing::warn!(error, "the ledger cannot be read for the operator");
            Refusal::new(
                Code::StoreUnavailable,
                "The ledger cannot be read right now.",
            )
        })
    }

    /// Changes something in the ledger, which notes who did.
    async fn change<T: Send + 'static>(
        &self,
        admin: Admin,
        change: impl FnOnce(&Desk, By<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Refusal> {
        let at = self.app.clock.now();
        self.shared
            .desk
            .ask(move |desk| {
                change(
                    desk,
                    By {
                        name: &admin.name,
                        at,
                    },
                )
            })
            .await
            .map_err(|error| {
                tracing::warn!(error, "the ledger cannot be changed for the operator");
                Refusal::new(
                    Code::StoreUnavailable,
                    "The ledger cannot be written right now.",
                )
            })
    }
}

/// A list on one page.
fn page_of<T>(rows: Vec<T>) -> Json<Page<T>> {
    Json(Page { rows, next: None })
}

/// What an operator may ask for; the dashboard's own files come from `page`.
macro_rules! operator_routes {
    ($put:ident, $router:expr) => {
        $put!($router;
            describe;
            sign_in::sign_in, sign_in::who_am_i, sign_in::sign_out;
            overview::overview;
            overview::pause_all;
            overview::resume;
            events::events;
            reports::over_time;
            reports::summed_up;
            reports::all_requests;
            reports::open_requests;
            reports::audit_log;
            models::all_models;
            prompts::all;
            purchases::all_purchases;
            purchases::store_events;
            purchases::channels;
            users::users;
            users::one_user, users::forget_user;
            users::give_plan, users::take_plan;
            users::block;
            users::unblock;
            credits::give_credit;
            credits::grant_credits;
            users::refresh;
            users::made_tokens;
            metrics;
        )
    };
}

/// All routes of the operator's listener, with the layers around them.
pub(crate) fn router(app: &Arc<App>, stop: &CancellationToken) -> Router {
    let desk = Arc::new(SharedConnection::changing(&app.ledger));
    let shared = AdminMemory {
        started_at: app.clock.now(),
        is_local: app.config().server.admin_is_local(),
        reader: Arc::new(Reader::reading(&app.ledger)),
        tokens: TokenCache::new(desk.clone()),
        desk,
        sessions: Sessions::default(),
        events: Events::default(),
        stop: stop.clone(),
        described: OnceLock::new(),
    };
    let state = AdminState {
        app: app.clone(),
        shared: Arc::new(shared),
    };
    let routes = operator_routes!(put_served, Router::new())
        .merge(page::router())
        .fallback(|| async { Refusal::new(Code::NotFound, "There is nothing at this path.") })
        .method_not_allowed_fallback(|| async {
            Refusal::new(Code::MethodNotAllowed, "This path takes another method.")
        })
        .layer(from_fn(harden));
    layers::around(routes, Listener::Operator, app).with_state(state)
}

/// What `/admin/openapi.json` says of the routes.
fn described() -> utoipa::openapi::OpenApi {
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
    let router = operator_routes!(
        put_described,
        OpenApiRouter::<AdminState>::with_openapi(document)
    );
    let mut document = router.into_openapi();
    document.merge(DashboardFiles::openapi());
    document
}

/// The OpenAPI description of the dashboard's files. They need no token.
#[derive(OpenApi)]
#[openapi(paths(dashboard, asset))]
struct DashboardFiles;

/// The dashboard
#[utoipa::path(
    get,
    path = "/",
    tag = "dashboard",
    security(()),
    responses((status = 200, content_type = "text/html", body = String), OpenRefusals)
)]
#[allow(dead_code, reason = "it describes what `page` serves")]
fn dashboard() {}

/// What the dashboard consists of
#[utoipa::path(
    get,
    path = "/assets/{file}",
    tag = "dashboard",
    security(()),
    params(("file" = String, Path, description = "The file's name", example = "style.css")),
    responses(
        (status = 200, content(
            (String = "text/css"),
            (String = "text/javascript"),
            (String = "text/plain"),
            (String = "image/svg+xml"),
        )),
        PageRefusals
    )
)]
#[allow(dead_code, reason = "it describes what `page` serves")]
fn asset() {}

/// Counters for Prometheus
///
/// On a listener that only this machine reaches, they need no token; through a proxy, or by another name, they do.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "server",
    security((), ("bearer" = []), ("session" = [])),
    responses((status = 200, content_type = "application/openmetrics-text", body = String), AdminRefusals)
)]
async fn metrics(State(state): State<AdminState>, mut head: Parts) -> Result<Response, Refusal> {
    let is_open = state.shared.is_local && caller::is_direct(&head.headers, &head.uri);
    if !is_open {
        MayRead::from_request_parts(&mut head, &state).await?;
    }
    Ok(metrics::page(&state.app).await)
}

/// These routes, in OpenAPI 3.1
#[utoipa::path(
    get,
    path = "/admin/openapi.json",
    tag = "server",
    responses((status = 200, body = Object), AdminRefusals)
)]
async fn describe(State(state): State<AdminState>, _: MayRead) -> Response {
    let document = state
        .shared
        .described
        .get_or_init(|| openapi::written(&described()));
    (
        [(header::CONTENT_TYPE, "application/json")],
        document.clone(),
    )
        .into_response()
}

/// The default headers of an answer: it is not cached, not framed, and not sniffed for another type.
async fn harden(request: Request, next: Next) -> Response {
    const HEADERS: [(HeaderName, &str); 5] = [
        (header::CACHE_CONTROL, "no-store"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    let mut response = next.run(request).await;
    for (name, value) in HEADERS {
        response
            .headers_mut()
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    response
}
