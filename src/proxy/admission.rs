//! Order → Reservation: the cheap bound first, the exact count only where that does not fit.
//!
//! And the one place where "nothing was held" becomes what the caller is told.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use uuid::Uuid;

use super::idempotency;
use super::request_log::RequestLog;
use crate::app::{App, Place};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::endpoint::{Endpoint, Incoming, Spec, Terms};
use crate::error::{Code, Refusal};
use crate::ledger::{HoldRequest, IdempotencyKey, NoHold, Reservation};
use crate::plan::{self, Amount, EffectivePlan, Exceeded, Limit, Per, Plan, Unit};
use crate::price::MicroUsd;

/// Who asks for a hold, and under which rules.
pub(super) struct HoldContext<'a> {
    pub(super) app: &'a App,
    pub(super) config: &'a Config,
    pub(super) granted: &'a EffectivePlan,
    pub(super) user_id: Uuid,
    pub(super) upstream: &'a str,
    /// What the app calls the request.
    pub(super) feature: Option<&'a str>,
    /// The key by which the app may send the request again.
    pub(super) idempotency: Option<&'a IdempotencyKey>,
}

/// Where a hold goes.
pub(super) enum HoldSlot<'r> {
    /// It is the first of its request.
    New(&'r mut Option<Reservation>),
    /// It takes the place of the one that is there.
    Replace(&'r mut Reservation),
}

impl HoldSlot<'_> {
    /// The moment whose windows the hold belongs to.
    fn moment(&self, app: &App) -> Timestamp {
        match self {
            Self::New(_) => app.clock.now(),
            Self::Replace(reservation) => reservation.started_at(),
        }
    }
}

/// Why nothing was held.
pub(super) struct Unfit {
    pub(super) refusal: Refusal,
    /// Another model may be cheaper, or count fewer tokens. Nothing was written, for certain.
    pub(super) may_fit_another: bool,
}

/// Nothing was asked of the ledger.
impl From<Refusal> for Unfit {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            may_fit_another: true,
        }
    }
}

/// Longer bodies are read on a thread that may be busy: they would keep others waiting.
const READ_AT_ONCE_BYTES_MAX: usize = 128 * 1024;

/// The key of a request, with what tells that request from others; the request and its place are given back.
///
/// # Errors
/// The server, or this user's share of it, is busy.
pub(super) async fn identify(
    key: Option<String>,
    (incoming, place): (Incoming, Place),
) -> Result<(Option<IdempotencyKey>, Incoming, Place), Refusal> {
    let Some(key) = key else {
        return Ok((None, incoming, place));
    };
    let (digest, place) = if incoming.body.len() <= READ_AT_ONCE_BYTES_MAX {
        (idempotency::digest(&incoming), place)
    } else {
        let incoming = incoming.clone();
        aside(place, move || idempotency::digest(&incoming)).await?
    };
    Ok((Some(IdempotencyKey { key, digest }), incoming, place))
}

/// What a request is measured by; `candidate` as in [`Terms`].
pub(super) fn terms<'a>(
    config: &'a Config,
    plan: &'a Plan,
    (now, candidate): (Timestamp, Option<&'a str>),
) -> Terms<'a> {
    Terms {
        plan,
        prices: &config.prices,
        models: &config.models,
        prompts: &config.prompts,
        now,
        candidate,
    }
}

/// Reads the order in a request.
///
/// # Errors
/// As [`Spec::parse`]; the server, or this user's share of it, is busy.
pub(super) async fn parse(
    spec: &'static Spec,
    (config, plan): (&Arc<Config>, &Arc<Plan>),
    (now, candidate): (Timestamp, Option<&str>),
    (incoming, place): (Incoming, &mut Option<Place>),
) -> Result<Box<dyn Endpoint>, Refusal> {
    if incoming.body.len() <= READ_AT_ONCE_BYTES_MAX {
        return (spec.parse)(&incoming, &terms(config, plan, (now, candidate)));
    }
    let (config, plan, candidate) = (config.clone(), plan.clone(), candidate.map(str::to_owned));
    let parse = move || {
        let terms = terms(&config, &plan, (now, candidate.as_deref()));
        (spec.parse)(&incoming, &terms)
    };
    let (order, back) = aside(taken(place)?, parse).await?;
    *place = Some(back);
    order
}

/// The place of a request; it is gone only where its work could not be done.
fn taken(place: &mut Option<Place>) -> Result<Place, Refusal> {
    place.take().ok_or_else(unread)
}

/// Holds what an order may cost at most.
///
/// # Errors
/// The plan's longest prompt, or whatever limit it does not fit, even counted exactly and with the least output.
pub(super) async fn reserve(
    context: &HoldContext<'_>,
    order: Box<dyn Endpoint>,
    (place, slot): (&mut Option<Place>, HoldSlot<'_>),
    log: &RequestLog,
) -> Result<Box<dyn Endpoint>, Unfit> {
    let plan = &context.granted.plan;
    let (mut order, mut slot) = (order, slot);
    if order.check_input(plan).is_err() {
        order.check_least_input(plan)?;
        order = count(order, place, plan).await?;
        order.check_input(plan)?;
    }
    let now = slot.moment(context.app);
    // Asked for whole: a bound that is too cautious must not shrink the answer.
    let whole = order.quote(order.output_cap());
    let least = context.config.proxy.min_output_tokens;
    // By the plan: credits must not pay what an exact count leaves to it.
    let asked = request(context, &*order, log, (now, whole));
    match hold(context.app, asked, &mut slot).await {
        Ok(()) => return Ok(order),
        Err(no) if !could_fit_smaller(&no) => return Err(unfit(&no, context, now)),
        Err(_) => {}
    }
    order = count(order, place, plan).await?;
    let now = slot.moment(context.app);
    let smaller = order.quote(least);
    let asked = HoldRequest {
        credits: true,
        ..request(context, &*order, log, (now, smaller))
    };
    let held = hold(context.app, asked, &mut slot).await;
    held.map_err(|no| unfit(&no, context, now))?;
    Ok(order)
}

fn unfit(no: &NoHold, context: &HoldContext<'_>, now: Timestamp) -> Unfit {
    Unfit {
        refusal: refusal(no, context, now),
        may_fit_another: matches!(no, NoHold::Limit(_) | NoHold::Ceiling(_)),
    }
}

/// Asks the ledger, and counts how long it took.
async fn hold(app: &App, request: HoldRequest, slot: &mut HoldSlot<'_>) -> Result<(), NoHold> {
    let asked = Instant::now();
    let held = match slot {
        HoldSlot::New(slot) => {
            let held = app.ledger.hold(request).await;
            held.map(|reservation| **slot = Some(reservation))
        }
        HoldSlot::Replace(reservation) => reservation.replace(request).await,
    };
    app.metrics.ledger_write(asked.elapsed());
    held
}

/// Counts with the model's tokenizer, no further than the plan's longest prompt.
async fn count(
    order: Box<dyn Endpoint>,
    place: &mut Option<Place>,
    plan: &Plan,
) -> Result<Box<dyn Endpoint>, Refusal> {
    if order.is_narrowed() {
        return Ok(order);
    }
    let (mut order, most) = (order, u64::from(plan.max_input_tokens));
    let count = move || {
        order.narrow(most);
        order
    };
    let (order, back) = aside(taken(place)?, count).await?;
    *place = Some(back);
    Ok(order)
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
    working.await.map_err(|_| unread())
}

fn unread() -> Refusal {
    Refusal::new(Code::Overloaded, "The prompt could not be read; try again.")
}

/// Fewer tokens help against limits in tokens and cost, and against the ceiling; credits against limits in cost.
const fn could_fit_smaller(no: &NoHold) -> bool {
    match no {
        NoHold::Limit(exceeded) => {
            matches!(exceeded.state.limit.unit, Unit::Tokens | Unit::CostUsd)
        }
        NoHold::Ceiling(_) => true,
        NoHold::Repeated(_) | NoHold::Concurrent { .. } | NoHold::Paused(_) | NoHold::Store => {
            false
        }
    }
}

fn request(
    context: &HoldContext<'_>,
    order: &dyn Endpoint,
    log: &RequestLog,
    (now, quote): (Timestamp, plan::Quote),
) -> HoldRequest {
    let HoldContext {
        config, granted, ..
    } = context;
    let day = || plan::window(Per::Day, now, &config.server.time_zone, None);
    let entry = order.plan_entry();
    let counts = |limit: &Limit| limit.counts(entry);
    let mut limits = granted.limits_at(now, &config.server.time_zone);
    // What costs nothing counts where its load does.
    limits.retain(|(limit, _)| counts(limit) && (!order.is_free() || limit.per.is_rate()));
    HoldRequest {
        id: log.id(),
        user_id: context.user_id,
        now,
        plan: granted.plan.name.clone(),
        endpoint: log.route().path(),
        model: order.model().to_owned(),
        plan_model: (entry != order.model()).then(|| entry.to_owned()),
        requested_model: order.requested_model().map(str::to_owned),
        feature: context.feature.map(str::to_owned),
        prompt_version: order.prompt_version().map(str::to_owned),
        upstream: context.upstream.to_owned(),
        quote,
        limits,
        concurrent: granted.plan.concurrent_requests,
        ceiling: config.ceiling.map(|ceiling| (ceiling.0, day())),
        idempotency: context.idempotency.cloned(),
        replaces: None,
        credits: false,
    }
}

/// What a caller is told when nothing was held.
fn refusal(no: &NoHold, context: &HoldContext<'_>, now: Timestamp) -> Refusal {
    match no {
        NoHold::Repeated(first) => idempotency::refusal(first),
        NoHold::Limit(exceeded) => limit_refusal(exceeded, &context.granted.plan.name, now),
        NoHold::Concurrent { open, limit } => {
            let message = format!(
                "{open} of your requests are still open, and your plan allows {limit} at a time."
            );
            Refusal::new(Code::TooManyConcurrent, message)
                .with("plan", json!(context.granted.plan.name))
        }
        NoHold::Ceiling(ends) => {
            if context
                .app
                .ceiling_reported
                .swap(ends.millis(), Ordering::AcqRel)
                != ends.millis()
            {
                tracing::error!(
                    "the ceiling of the day is reached: requests are refused until it ends or is raised"
                );
            }
            Refusal::new(Code::Paused, "The service is paused for today.")
                .retry_after(ends.since(now))
        }
        NoHold::Paused(_) => {
            Refusal::new(Code::Paused, "The service is paused.").retry_after(Duration::from_mins(1))
        }
        NoHold::Store => Refusal::new(
            Code::StoreUnavailable,
            "Usage cannot be recorded right now, so nothing was sent.",
        ),
    }
}

/// A limit of the plan: 402 is final, 429 is worth a retry when its window has ended.
fn limit_refusal(exceeded: &Exceeded, plan: &str, now: Timestamp) -> Refusal {
    let Exceeded {
        state, requested, ..
    } = exceeded;
    let (per, unit) = (state.limit.per, state.limit.unit);
    let limit: Value = json!({
        "per": per.as_str(),
        "unit": unit.as_str(),
        "model": state.limit.model.as_deref(),
        "limit": Amount::of(unit, state.limit.amount),
        "used": Amount::of(unit, state.used()),
        "held": Amount::of(unit, state.held()),
        "requested": Amount::of(unit, *requested),
        "resets_at": plan::resets_at(&state.window),
    });
    let what = match unit {
        Unit::Requests => "requests",
        Unit::Tokens => "tokens",
        Unit::CostUsd => "spending",
        Unit::Images => "images",
        Unit::AudioSeconds => "seconds of audio",
        Unit::Characters => "characters",
    };
    let what = match &state.limit.model {
        Some(model) => format!("{what} with {model}"),
        None => what.to_owned(),
    };
    let span = per.as_str();
    let credits = credits_left(exceeded);
    let refusal = if exceeded.could_never_fit() {
        let message = format!(
            "This request needs more than your plan's whole limit of {what} ({span}).{credits}"
        );
        Refusal::new(Code::QuotaExceeded, message)
    } else if per.is_rate() {
        let message = format!("Your plan's limit of {what} per {span} is reached.{credits}");
        Refusal::new(Code::RateLimited, message).retry_after(state.window.end.since(now))
    } else {
        let message = format!("Your plan's limit of {what} ({span}) is reached.{credits}");
        Refusal::new(Code::QuotaExceeded, message)
    };
    refusal.with("limit", limit).with("plan", json!(plan))
}

/// What is left of the caller's credits, where they are too little for a request that they could pay for.
fn credits_left(exceeded: &Exceeded) -> String {
    let Some(left) = exceeded.credits else {
        return String::new();
    };
    let left = MicroUsd(left);
    if exceeded.state.limit.unit == Unit::CostUsd {
        let needs = MicroUsd(exceeded.requested);
        return format!(" It needs ${needs}, and ${left} is left of your credits.");
    }
    format!(" Your credits, of which ${left} is left, do not lift this limit.")
}
