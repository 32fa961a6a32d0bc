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
mod body;
mod dispatch;
mod line;
mod settle;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

use crate::app::{App, Place, RequestId, USER_PLACES};
use crate::config::{Config, UpstreamConfig};
use crate::error::{Code, Refusal};
use crate::ledger::Reservation;
use crate::openapi::{ChatCompletion, ChatRefusals, ChatRequest, Event};
use crate::order::Order;
use crate::plan::Plan;
use crate::upstream;
pub(crate) use body::check_media_type;
use line::Line;

/// The paths that end up here: the seed's and OpenAI's own, one path through the code.
pub const ENDPOINTS: [&str; 2] = ["/v1/chat/completions", "/api/chat"];

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
    let mut place = app.place(caller.user_id(), share(&granted.plan))?;
    let body = body::read(&head.headers, body, &config.server, &mut place).await?;
    let (order, place) = admission::parse((&config, now), &granted.plan, body, place).await?;
    line.model(order.model());
    let upstream = upstream::route(&config.upstreams, order.model()).cloned().ok_or_else(no_upstream)?;
    let asking =
        admission::Asking { app, config: &config, granted: &granted, caller: &caller, upstream: &upstream.name };
    let (order, place, reservation) = admission::reserve(&asking, (order, place), line).await?;
    let user_hash = app.ledger.hash_user(caller.user_id());
    Ok(Admitted { config, user_hash, order, reservation, upstream, place })
}

/// How many places one user may take: those that the plan lets be open, and some that are still sending or draining.
fn share(plan: &Plan) -> u32 {
    plan.concurrent_requests.unwrap_or(USER_PLACES).saturating_mul(2).saturating_add(USER_PLACES)
}

/// A model that the plan names and no upstream serves; the settings are checked for it, so only a reload gets here.
fn no_upstream() -> Refusal {
    Refusal::new(Code::UpstreamUnavailable, "No provider serves this model right now.")
}
