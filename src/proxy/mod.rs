//! The request from socket to settlement. *Start reading here.*
//!
//! ```text
//! Bearer → Principal → Plan → Order → Reservation (row 'held', durable)      admit
//!                                         │ .dispatched()
//!               upstream.send(&order) → Answer → Metered body → caller       dispatch
//!                     │ did nothing                 │ end · failure · drop, exactly once
//!      hold of the next candidate, or void       Settlement → ledger writer
//! ```
//!
//! A caller that leaves cancels [`serve`] wherever it stands. Before the dispatch the reservation's drop voids the hold;
//! after it the exchange goes on in a task of the app (`outliving::Outliving`), so no money depends on code behind an
//! `.await` here.

mod admission;
mod anthropic;
mod bill;
mod byte_answer;
mod byte_stream;
mod candidates;
mod dispatch;
mod fallback;
mod feature;
mod heads;
mod idempotency;
mod moderation;
mod outliving;
pub(crate) mod replay;
mod request_body;
mod request_context;
mod request_log;
mod settle;
mod streaming;
mod whole;

use std::sync::Arc;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header;
use uuid::Uuid;

use crate::app::{App, RequestId, USER_PLACES};
use crate::config::Config;
use crate::endpoint::{Incoming, Route, Spec};
use crate::error::Refusal;
use crate::plan::Plan;
use replay::{Claimed, FirstRun};
pub(crate) use request_body::check_media_type;
use request_context::{RequestContext, ReservedOrder};
use request_log::RequestLog;

/// A request that may be sent.
struct Admitted {
    config: Arc<Config>,
    user_hash: String,
    spec: &'static Spec,
    reserved: ReservedOrder,
    /// What the caller asks for of Anthropic's API (`anthropic-beta`), before anything is left out.
    betas: String,
    /// It is the first with its key: others may follow its answer.
    turn: Option<FirstRun>,
}

/// What a request is admitted to.
enum Admission {
    Run(Box<Admitted>),
    /// It gets the answer of the one with this id.
    Replay(Uuid, Response),
}

/// Serves a request of an endpoint: the one way of all of them.
pub(crate) async fn serve(
    app: Arc<App>,
    RequestId(id): RequestId,
    spec: &'static Spec,
    request: Request,
) -> Response {
    let route = spec.route(request.uri().path());
    let route = route.unwrap_or(Route::plain(
        spec.paths.first().copied().unwrap_or_default(),
    ));
    let mut log = RequestLog::begin(&app, id, (spec, route), request.headers());
    // Boxed: each has several kilobytes, which every layer above would move.
    match Box::pin(admit(&app, spec, &mut log, request)).await {
        Ok(Admission::Run(admitted)) => Box::pin(dispatch::send(app, *admitted, log)).await,
        Ok(Admission::Replay(first, response)) => {
            log.replayed(first, response.status());
            response
        }
        Err(refusal) => {
            log.refused(&refusal);
            refusal.into_response()
        }
    }
}

/// Everything before the upstream is told: nothing here is written but the hold, last.
async fn admit(
    app: &App,
    spec: &'static Spec,
    log: &mut RequestLog,
    request: Request,
) -> Result<Admission, Refusal> {
    let (mut head, body) = request.into_parts();
    let config = app.config();
    let now = app.clock.now();
    let sender = (&head.headers, head.uri.path());
    let caller = app.verify(sender, &config, now).await?;
    log.caller(caller.user_id());
    App::require_device(&caller, &config)?;
    let feature = feature::read(&head.headers)?;
    let key = idempotency::read(&head.headers)?;
    let granted = app.directory.plan_of(&caller, &config, now).await?;
    log.plan(&granted.plan.name);
    app.admit_new_user(&caller, &head.headers, (&config, now))
        .await?;
    let mut place = app.place(caller.user_id(), share(&granted.plan))?;
    let body = (&head.headers, body);
    let betas = anthropic::betas(spec, &head.headers);
    let incoming = Incoming {
        route: log.route().clone(),
        body: request_body::read(spec.bodies, body, &config.server, &mut place).await?,
        content_type: head.headers.remove(header::CONTENT_TYPE),
    };
    let (idempotency, incoming, place) = admission::identify(key, (incoming, place)).await?;
    let who = (caller.user_id(), log.id());
    let claimed = replay::claim(app, who, idempotency.as_ref(), &head.headers, place).await?;
    let (turn, place) = match claimed {
        Claimed::Runs(turn, place) => (turn, place),
        Claimed::Again(first, response) => return Ok(Admission::Replay(first, response)),
    };
    let plan = granted.plan.clone();
    let request = RequestContext {
        spec,
        incoming,
        user_id: caller.user_id(),
        granted,
        feature,
        idempotency,
        now,
    };
    let mut reserved = request.reserve(app, &config, place, log).await?;
    let (rules, order) = ((app, &*config), &*reserved.order);
    reserved.reservation = moderation::check(rules, &plan, order, reserved.reservation).await?;
    let user_hash = app.ledger.hash_user(caller.user_id());
    Ok(Admission::Run(Box::new(Admitted {
        config,
        user_hash,
        spec,
        reserved,
        betas,
        turn,
    })))
}

/// How many places one user may take: those that the plan lets be open, and some that are still sending or draining.
fn share(plan: &Plan) -> u32 {
    plan.concurrent_requests
        .unwrap_or(USER_PLACES)
        .saturating_mul(2)
        .saturating_add(USER_PLACES)
}
