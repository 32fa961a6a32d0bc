//! Order → Reservation: the cheap bound first, the exact count only where that does not fit.
//!
//! And the one place where "nothing was held" becomes what the caller is told.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};

use super::line::Line;
use crate::account::{amount, resets_at};
use crate::app::{App, Place};
use crate::auth::Principal;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::error::{Code, Refusal};
use crate::ledger::{HoldRequest, NoHold, Reservation};
use crate::order::{Order, Terms};
use crate::plan::{self, Exceeded, Granted, Per, Plan, Unit};

/// Who asks for a hold, and under which rules.
pub(super) struct Asking<'a> {
    pub(super) app: &'a App,
    pub(super) config: &'a Config,
    pub(super) granted: &'a Granted,
    pub(super) caller: &'a Principal,
    pub(super) upstream: &'a str,
}

/// Longer bodies are read on a thread that may be busy: they would keep others waiting.
const READ_AT_ONCE_BYTES_MAX: usize = 128 * 1024;

/// Reads the order in a body, which is gone afterwards.
///
/// # Errors
/// As [`Order::parse`]; the server, or this user's share of it, is busy.
pub(super) async fn parse(
    (config, now): (&Arc<Config>, Timestamp),
    plan: &Arc<Plan>,
    body: Bytes,
    place: Place,
) -> Result<(Order, Place), Refusal> {
    if body.len() <= READ_AT_ONCE_BYTES_MAX {
        let terms = Terms { plan, prices: &config.prices, models: &config.models, now };
        return Ok((Order::parse(&body, &terms)?, place));
    }
    let (config, plan) = (config.clone(), plan.clone());
    let parse =
        move || Order::parse(&body, &Terms { plan: &plan, prices: &config.prices, models: &config.models, now });
    let (order, place) = aside(place, parse).await?;
    Ok((order?, place))
}

/// Holds what an order may cost at most.
///
/// # Errors
/// The plan's longest prompt, or whatever limit it does not fit, even counted exactly and with the least output.
pub(super) async fn reserve(
    asking: &Asking<'_>,
    (order, place): (Order, Place),
    line: &Line,
) -> Result<(Order, Place, Reservation), Refusal> {
    let plan = &asking.granted.plan;
    let (mut order, mut place) = (order, place);
    if order.check_input(plan).is_err() {
        order.check_least_input(plan)?;
        (order, place) = count(order, place, plan).await?;
        order.check_input(plan)?;
    }
    let now = asking.app.clock.now();
    // Asked for whole: a bound that is too cautious must not shrink the answer.
    let whole = order.ask(order.output_cap());
    let least = asking.config.proxy.min_output_tokens;
    match hold(asking.app, request(asking, &order, line, (now, whole))).await {
        Ok(reservation) => return Ok((order, place, reservation)),
        Err(no) if !could_fit_smaller(&no) => return Err(refusal(&no, asking, now)),
        Err(_) => {}
    }
    let (order, place) = count(order, place, plan).await?;
    let now = asking.app.clock.now();
    let smaller = order.ask(least);
    let held = hold(asking.app, request(asking, &order, line, (now, smaller))).await;
    let reservation = held.map_err(|no| refusal(&no, asking, now))?;
    Ok((order, place, reservation))
}

/// Asks the ledger, and counts how long it took.
async fn hold(app: &App, request: HoldRequest) -> Result<Reservation, NoHold> {
    let asked = Instant::now();
    let held = app.ledger.hold(request).await;
    app.metrics.ledger_write(asked.elapsed());
    held
}

/// Counts with the model's tokenizer, no further than the plan's longest prompt.
async fn count(order: Order, place: Place, plan: &Plan) -> Result<(Order, Place), Refusal> {
    if order.is_counted() {
        return Ok((order, place));
    }
    let (mut order, most) = (order, u64::from(plan.max_input_tokens));
    let count = move || {
        order.count_exactly(most);
        order
    };
    aside(place, count).await
}

/// Does work on a thread that may be busy for long, one piece for a user at a time. The place and the turn go with it: a
/// caller who leaves has them until it is done, so there are never more at once than turns.
async fn aside<T: Send + 'static>(
    place: Place,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<(T, Place), Refusal> {
    let turn = place.work_turn().await?;
    let working = tokio::task::spawn_blocking(move || {
        let done = work();
        drop(turn);
        (done, place)
    });
    working.await.map_err(|_| Refusal::new(Code::Overloaded, "The prompt could not be read; try again."))
}

/// Fewer tokens help against limits in tokens and cost, and against the ceiling.
const fn could_fit_smaller(no: &NoHold) -> bool {
    match no {
        NoHold::Limit(exceeded) => !matches!(exceeded.state.limit.unit, Unit::Requests),
        NoHold::Ceiling(_) => true,
        NoHold::Concurrent { .. } | NoHold::Paused(_) | NoHold::Store => false,
    }
}

fn request(asking: &Asking<'_>, order: &Order, line: &Line, (now, ask): (Timestamp, plan::Ask)) -> HoldRequest {
    let Asking { config, granted, .. } = asking;
    let day = || plan::window(Per::Day, now, &config.server.time_zone, None);
    HoldRequest {
        id: line.id(),
        user_id: asking.caller.user_id(),
        now,
        plan: granted.plan.name.clone(),
        endpoint: line.endpoint(),
        model: order.model().to_owned(),
        upstream: asking.upstream.to_owned(),
        ask,
        limits: granted.limits_at(now, &config.server.time_zone),
        concurrent: granted.plan.concurrent_requests,
        ceiling: config.ceiling.map(|ceiling| (ceiling.0, day())),
    }
}

/// What a caller is told when nothing was held.
fn refusal(no: &NoHold, asking: &Asking<'_>, now: Timestamp) -> Refusal {
    match no {
        NoHold::Limit(exceeded) => limit_refusal(exceeded, &asking.granted.plan.name, now),
        NoHold::Concurrent { open, limit } => {
            let message = format!("{open} of your requests are still open, and your plan allows {limit} at a time.");
            Refusal::new(Code::TooManyConcurrent, message).with("plan", json!(asking.granted.plan.name))
        }
        NoHold::Ceiling(ends) => {
            if asking.app.ceiling_reported.swap(ends.millis(), Ordering::AcqRel) != ends.millis() {
                tracing::error!("the ceiling of the day is reached: requests are refused until it ends or is raised");
            }
            Refusal::new(Code::Paused, "The service is paused for today.").retry_after(ends.since(now))
        }
        NoHold::Paused(_) => Refusal::new(Code::Paused, "The service is paused.").retry_after(Duration::from_mins(1)),
        NoHold::Store => {
            Refusal::new(Code::StoreUnavailable, "Usage cannot be recorded right now, so nothing was sent.")
        }
    }
}

/// A limit of the plan: 402 is final, 429 is worth a retry when its window has ended.
fn limit_refusal(exceeded: &Exceeded, plan: &str, now: Timestamp) -> Refusal {
    let Exceeded { state, requested } = exceeded;
    let (per, unit) = (state.limit.per, state.limit.unit);
    let limit: Value = json!({
        "per": per.as_str(),
        "unit": unit.as_str(),
        "limit": amount(unit, state.limit.amount),
        "used": amount(unit, state.used()),
        "held": amount(unit, state.held()),
        "requested": amount(unit, *requested),
        "resets_at": resets_at(&state.window),
    });
    let what = match unit {
        Unit::Requests => "requests",
        Unit::Tokens => "tokens",
        Unit::CostUsd => "spending",
    };
    let span = per.as_str();
    let refusal = if exceeded.could_never_fit() {
        let message = format!("This request needs more than your plan's whole limit of {what} ({span}).");
        Refusal::new(Code::QuotaExceeded, message)
    } else if per.is_rate() {
        let message = format!("Your plan's limit of {what} per {span} is reached.");
        Refusal::new(Code::RateLimited, message).retry_after(state.window.end.since(now))
    } else {
        Refusal::new(Code::QuotaExceeded, format!("Your plan's limit of {what} ({span}) is reached."))
    };
    refusal.with("limit", limit).with("plan", json!(plan))
}
