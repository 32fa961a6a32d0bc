//! Order → Reservation: the cheap bound first, the exact count only where that does not fit.
//!
//! And the one place where "nothing was held" becomes what the caller is told.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::line::Line;
use crate::account::{amount, resets_at};
use crate::app::App;
use crate::auth::Principal;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::error::{Code, Refusal};
use crate::ledger::{HoldRequest, NoHold, Reservation};
use crate::order::Order;
use crate::plan::{self, Exceeded, Granted, Per, Unit};

/// Who asks for a hold, and under which rules.
pub(super) struct Asking<'a> {
    pub(super) app: &'a App,
    pub(super) config: &'a Config,
    pub(super) granted: &'a Granted,
    pub(super) caller: &'a Principal,
    pub(super) upstream: &'a str,
}

/// Holds what an order may cost at most.
///
/// # Errors
/// The plan's longest prompt, or whatever limit it does not fit, even counted exactly and with the least output.
pub(super) async fn reserve(asking: &Asking<'_>, order: Order, line: &Line) -> Result<(Order, Reservation), Refusal> {
    let plan = &asking.granted.plan;
    let mut order = order;
    if order.check_input(plan).is_err() {
        order = count(asking.app, order).await?;
        order.check_input(plan)?;
    }
    let now = asking.app.clock.now();
    // Asked for whole: a bound that is too cautious must not shrink the answer.
    let whole = order.ask(order.output_cap());
    let least = asking.config.proxy.min_output_tokens;
    match hold(asking.app, request(asking, &order, line, (now, whole))).await {
        Ok(reservation) => return Ok((order, reservation)),
        Err(no) if !could_fit_smaller(&no) => return Err(refusal(&no, asking, now)),
        Err(_) => {}
    }
    let order = count(asking.app, order).await?;
    let now = asking.app.clock.now();
    let smaller = order.ask(least);
    let held = hold(asking.app, request(asking, &order, line, (now, smaller))).await;
    let reservation = held.map_err(|no| refusal(&no, asking, now))?;
    Ok((order, reservation))
}

/// Asks the ledger, and counts how long it took.
async fn hold(app: &App, request: HoldRequest) -> Result<Reservation, NoHold> {
    let asked = Instant::now();
    let held = app.ledger.hold(request).await;
    app.metrics.ledger_write(asked.elapsed());
    held
}

/// Counts with the model's tokenizer, on a thread that may be busy for long.
async fn count(app: &App, order: Order) -> Result<Order, Refusal> {
    if order.is_counted() {
        return Ok(order);
    }
    let busy = || Refusal::new(Code::Overloaded, "The prompt could not be counted; try again.");
    let _turn = app.counting.acquire().await.map_err(|_| busy())?;
    let counted = tokio::task::spawn_blocking(move || {
        let mut order = order;
        order.count_exactly();
        order
    });
    counted.await.map_err(|_| busy())
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
