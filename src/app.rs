//! The composition root: the parts, the routes, the layers in one visible list; serving with limits; draining.
//!
//! Every route asks for a [`Principal`] but for those named in [`open_routes`]. The listener accepts on its own loop,
//! because `axum::serve` bounds neither heads nor idle connections (STYLE.md). What must outlive a caller runs on
//! `work`, which `serve` waits for.

mod closing;
pub(crate) mod descriptors;
#[cfg(debug_assertions)]
mod drill;
mod head_timer;
pub(crate) mod places;
mod reload;
pub(crate) mod requests;
mod seats;
mod serving;
mod socket;
#[cfg(test)]
mod tests;
pub(crate) mod unread;

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use axum::extract::{FromRequestParts, State};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use bytes::Bytes;
use http::header;
use http::request::Parts;
use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use utoipa::ToSchema;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use crate::auth::{Authenticator, Principal};
use crate::clock::{Clock, Timestamp};
use crate::config::{Config, Via};
use crate::database::Database;
use crate::directory::Directory;
use crate::error::{Code, Refusal};
use crate::ledger::{Failure, Ledger, Settings, Writer};
use crate::metrics::Metrics;
use crate::openapi::{self, OpenRefusals, put_described, put_served};
use crate::otlp::Telemetry;
use crate::outbox::{self, Progress};
use crate::upstream::Upstreams;
use crate::{account, proxy};

use descriptors::Descriptors;
#[cfg(debug_assertions)]
pub use drill::panics_when_told;
pub use places::Place;
use places::{Errand, Places};
pub use reload::{hangups, keep_reloaded};
pub use requests::RequestId;
pub use serving::{Listeners, listen, serve};

/// How many requests one user may have open beyond what the plan lets be held: those that are still sending or draining. And,
/// counted by themselves, how many looks at the account.
pub(crate) const USER_PLACES: u32 = 64;

/// Everything a request may use.
pub struct App {
    config: ArcSwap<Config>,
    /// Wall time.
    pub clock: Clock,
    /// Bearer → principal.
    pub auth: Authenticator,
    /// Principal → plan.
    pub directory: Directory,
    /// Money.
    pub ledger: Ledger,
    upstreams: ArcSwap<Upstreams>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The way to a collector, where one is configured.
    pub telemetry: Option<Arc<Telemetry>>,
    /// How far the developer's `log_request` is behind.
    progress: Progress,
    /// Tasks that outlive their caller: drained answers, fetched keys, counted estimates.
    pub work: TaskTracker,
    /// Cancelled when the shutdown's grace is over: what still runs settles at once.
    pub cut: CancellationToken,
    /// It was told to stop: not ready for new callers, though they are served for `shutdown_delay`.
    is_leaving: AtomicBool,
    /// When the day ends whose ceiling was last reported as reached.
    pub ceiling_reported: AtomicI64,
    /// Every way to the developer's database, for keys that change.
    databases: Mutex<Vec<Database>>,
    places: Arc<Places>,
    /// What was there at the start.
    descriptors: Descriptors,
    /// What `/openapi.json` says, once somebody has asked.
    described: OnceLock<Bytes>,
}

impl App {
    /// Puts the parts together and opens the ledger. Dials nobody but the JWKS, in the background.
    ///
    /// # Errors
    /// The ledger cannot be opened.
    pub fn open(config: Config, clock: Clock) -> Result<(Arc<Self>, Writer), Failure> {
        let settings = Settings {
            store: config.store.url.clone(),
            lease: config.store.lease,
            keep_requests: config.store.keep_requests,
            time_zone: config.server.time_zone.clone(),
            outbox: !matches!(config.directory.via, Via::None),
        };
        let work = TaskTracker::new();
        let database = Database::new(&config.directory.via, work.clone()).map_err(Failure::new)?;
        let telemetry = Telemetry::start(&config.telemetry).map_err(Failure::new)?;
        let (ledger, writer) = Ledger::open(settings, clock.clone())?;
        let places = Places::new(config.server.body_bytes_max);
        let app = Self {
            auth: Authenticator::new(&config.auth, work.clone(), clock.clone()),
            databases: Mutex::new(database.iter().cloned().collect()),
            directory: Directory::new(ledger.clone(), database, work.clone()),
            upstreams: ArcSwap::from_pointee(Upstreams::new(&config.proxy)),
            progress: Progress::default(),
            telemetry,
            metrics: Arc::new(Metrics::new(&config, clock.now())),
            descriptors: Descriptors::now(&config),
            config: ArcSwap::from_pointee(config),
            clock,
            ledger,
            work,
            cut: CancellationToken::new(),
            is_leaving: AtomicBool::new(false),
            ceiling_reported: AtomicI64::new(0),
            places,
            described: OnceLock::new(),
        };
        app.auth.warm_up();
        Ok((Arc::new(app), writer))
    }

    /// The settings in force.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// Providers, with the timeouts in force.
    #[must_use]
    pub fn upstreams(&self) -> Arc<Upstreams> {
        self.upstreams.load_full()
    }

    /// What to say where the descriptors of this process are too few for the settings.
    pub(crate) fn too_few_descriptors(&self) -> Option<String> {
        self.descriptors.too_few(self.config.load().server.open_requests_max)
    }

    /// A place among the open requests. A user may take `share` of them: how many may be open by the plan is decided by
    /// the ledger, but bodies are read, and prompts counted, before that.
    ///
    /// # Errors
    /// `overloaded`: all are taken; `too_many_concurrent`: the user's share is.
    pub fn place(&self, user_id: Uuid, share: u32) -> Result<Place, Refusal> {
        self.places.take(user_id, self.places_max(), (Errand::Paid, share))
    }

    fn places_max(&self) -> usize {
        self.config.load().server.open_requests_max.min(self.descriptors.open_requests())
    }

    /// Another way to the developer's database is in use.
    fn use_database(&self, database: &Database) {
        self.databases.lock().unwrap_or_else(PoisonError::into_inner).push(database.clone());
    }

    /// Gives them a new key. False: they differ by more than that.
    fn databases_adopt(&self, via: &Via) -> bool {
        if self.config.load().directory.via == *via {
            return true;
        }
        let databases = self.databases.lock().unwrap_or_else(PoisonError::into_inner);
        !databases.is_empty() && databases.iter().all(|database| database.adopt(via))
    }

    /// How far the outbox is behind, where there is one.
    #[must_use]
    pub fn outbox_health(&self, now: Timestamp) -> Option<outbox::Health> {
        self.ledger.has_outbox().then(|| self.progress.health(now))
    }

    /// How many places are taken.
    #[must_use]
    pub fn open_requests(&self) -> usize {
        self.places.open()
    }
}

/// What needs no token.
macro_rules! open_routes {
    ($put:ident, $router:expr) => { $put!($router; alive; ready; describe;) };
}

/// What needs a user's token.
macro_rules! user_routes {
    ($put:ident, $router:expr) => {
        $put!($router;
            account::me;
            account::usage;
            proxy::api_chat;
            proxy::chat;
            account::models;
            account::model;
        )
    };
}

/// All routes, with the layers outermost last.
pub fn router(app: &Arc<App>) -> Router {
    let routes = user_routes!(put_served, open_routes!(put_served, Router::new()))
        .fallback(|| async { Refusal::new(Code::NotFound, "There is nothing at this path.") })
        .method_not_allowed_fallback(|| async {
            Refusal::new(Code::MethodNotAllowed, "This path takes another method.")
        });
    let layered = match requests::cors(&app.config().server.cors_origins) {
        None => routes.layer(from_fn_with_state(app.clone(), requests::receive)),
        Some(cors) => routes
            .layer(from_fn_with_state(app.clone(), requests::log_request))
            .layer(cors)
            .layer(from_fn_with_state(app.clone(), requests::name_request))
            .layer(from_fn_with_state(app.clone(), unread::let_finish)),
    };
    layered.with_state(app.clone())
}

/// What `/openapi.json` says of the routes.
fn described() -> OpenApi {
    let description = "What an app calls. Sign in with the access token of a Supabase user.";
    let document = openapi::empty("Tollgate", description, "The access token of a Supabase user", None);
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
    Json(Alive { status: "ok", service: "tollgate", version: env!("CARGO_PKG_VERSION") })
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
    ([(header::CONTENT_TYPE, "application/json")], document.clone()).into_response()
}

/// Whether requests can be served, and every part that it depends on
///
/// Tells what the last traffic saw; dials nobody.
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
    let keys = app.auth.health(now);
    let upstreams = app.upstreams().health(&config.upstreams, now);
    let directory = app.directory.health();
    let writable = app.ledger.is_writable();
    // An outbox that lags is told, and turns nobody away.
    let outbox = app.outbox_health(now);
    let an_upstream = upstreams.values().any(|health| health.ok);
    let is_leaving = app.is_leaving.load(Ordering::Acquire);
    let is_ready = writable && keys.ok && an_upstream && !is_leaving;
    let body = json!({
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
    let status = if is_ready { http::StatusCode::OK } else { http::StatusCode::SERVICE_UNAVAILABLE };
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

/// Who calls, with a place among the open requests: what every route with a token asks for but chat, which takes its place
/// once the plan says how many a user may have.
pub struct Caller {
    /// Who.
    pub who: Principal,
    /// Given back when the answer is made.
    pub place: Place,
}

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        let who = Principal::from_request_parts(parts, app).await?;
        let place = app.places.take(who.user_id(), app.places_max(), (Errand::Look, USER_PLACES))?;
        Ok(Self { who, place })
    }
}

/// A handler that names a [`Principal`] cannot run without one.
impl FromRequestParts<Arc<App>> for Principal {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        let config = app.config();
        app.auth.verify(&parts.headers, &config.auth, app.clock.now()).await
    }
}
