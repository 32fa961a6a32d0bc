//! The request from socket to settlement. *Start reading here.*
//!
//! ```text
//! Bearer → Principal → Plan → Order → Reservation (row 'held', durable)      admit
//!                                         │ .dispatched()
//!               upstream.send(&order) → Answer → Metered body → caller       dispatch
//!                     │ cannot connect              │ end · failure · drop, exactly once
//!                  void                          Settlement → ledger writer
//! ```
//!
//! A caller that leaves cancels [`chat`] wherever it stands. Before the dispatch the reservation's drop voids the hold;
//! after it the exchange goes on in a task of the app (`dispatch::Outliving`), so no money depends on code behind an
//! `.await` here.

mod admission;
mod dispatch;
mod line;
mod settle;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::app::{App, Place, RequestId};
use crate::config::{Config, Server, UpstreamConfig};
use crate::error::{Code, Refusal};
use crate::ledger::Reservation;
use crate::openapi::{ChatCompletion, ChatRefusals, ChatRequest, Event};
use crate::order::{Order, Terms};
use crate::plan::Plan;
use crate::upstream;
use line::Line;

/// The paths that end up here: the seed's and OpenAI's own, one path through the code.
pub const ENDPOINTS: [&str; 2] = ["/v1/chat/completions", "/api/chat"];

/// The places of a user beyond what the plan lets be open.
const SHARE: u32 = 64;

/// A request that may be sent: its order, the hold that pays for it, and where it goes.
struct Admitted {
    config: Arc<Config>,
    user_hash: String,
    order: Order,
    reservation: Reservation,
    upstream: Arc<UpstreamConfig>,
    place: Place,
}

/// A chat completion, as OpenAI's API has it: whole, or event by event
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    tag = "openai",
    request_body = ChatRequest,
    responses(
        (status = 200, description = "With `stream`, events", content(
            (ChatCompletion = "application/json"),
            (Event = "text/event-stream"),
        )),
        ChatRefusals
    )
)]
pub async fn chat(State(app): State<Arc<App>>, RequestId(id): RequestId, request: Request) -> Response {
    let path = request.uri().path();
    let endpoint = ENDPOINTS.into_iter().find(|known| *known == path).unwrap_or("/v1/chat/completions");
    let mut line = Line::begin(&app, id, endpoint, request.headers());
    match admit(&app, &mut line, request).await {
        Ok(admitted) => dispatch::send(app, admitted, line).await,
        Err(refusal) => {
            line.refused(&refusal);
            refusal.into_response()
        }
    }
}

/// The same by a shorter path, for an app without OpenAI's client
#[utoipa::path(
    post,
    path = "/api/chat",
    tag = "account",
    request_body = ChatRequest,
    responses(
        (status = 200, description = "With `stream`, events", content(
            (ChatCompletion = "application/json"),
            (Event = "text/event-stream"),
        )),
        ChatRefusals
    )
)]
pub async fn api_chat(state: State<Arc<App>>, id: RequestId, request: Request) -> Response {
    chat(state, id, request).await
}

/// Everything before the upstream is told: nothing here is written but the hold, last.
async fn admit(app: &App, line: &mut Line, request: Request) -> Result<Admitted, Refusal> {
    let (head, body) = request.into_parts();
    let config = app.config();
    let now = app.clock.now();
    let caller = app.auth.verify(&head.headers, &config.auth, now).await?;
    line.caller(caller.user_id());
    let granted = app.directory.plan_of(&caller, &config, now).await?;
    line.plan(&granted.plan.name);
    let place = app.place(caller.user_id(), share(&granted.plan))?;
    let body = read_body(&head.headers, body, &config.server).await?;
    let terms = Terms { plan: &granted.plan, prices: &config.prices, models: &config.models, now };
    let order = Order::parse(&body, &terms)?;
    line.model(order.model());
    let upstream = upstream::route(&config.upstreams, order.model()).cloned().ok_or_else(no_upstream)?;
    let asking =
        admission::Asking { app, config: &config, granted: &granted, caller: &caller, upstream: &upstream.name };
    let (order, reservation) = admission::reserve(&asking, order, line).await?;
    let user_hash = app.ledger.hash_user(caller.user_id());
    Ok(Admitted { config, user_hash, order, reservation, upstream, place })
}

/// How many places one user may take: those that the plan lets be open, and some that are still sending or draining.
fn share(plan: &Plan) -> u32 {
    plan.concurrent_requests.unwrap_or(SHARE).saturating_mul(2).saturating_add(SHARE)
}

/// A model that the plan names and no upstream serves; the settings are checked for it, so only a reload gets here.
fn no_upstream() -> Refusal {
    Refusal::new(Code::UpstreamUnavailable, "No provider serves this model right now.")
}

/// The body, bounded in bytes and time; JSON as it is, or nothing is read at all.
async fn read_body(headers: &HeaderMap, body: Body, server: &Server) -> Result<Bytes, Refusal> {
    check_media_type(headers)?;
    let reading = Limited::new(body, server.body_bytes_max).collect();
    let slow = || Refusal::new(Code::InvalidRequest, "The body took too long to arrive.");
    match tokio::time::timeout(server.body_timeout, reading).await.map_err(|_| slow())? {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(Refusal::new(Code::BodyTooLarge, format!("The body is larger than {} bytes.", server.body_bytes_max)))
        }
        Err(_) => Err(Refusal::new(Code::InvalidRequest, "The body did not arrive whole.")),
    }
}

/// JSON or no Content-Type is taken; anything else, and any Content-Encoding, is not.
pub(crate) fn check_media_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let refuse = |message: &str| Err(Refusal::new(Code::UnsupportedMediaType, message));
    if headers.contains_key(header::CONTENT_ENCODING) {
        return refuse("Send the body as it is, without Content-Encoding.");
    }
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let kind = kind.to_str().unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    refuse("Send JSON, with Content-Type: application/json.")
}
