//! The log line of a forwarded request: written once, when it has ended; never a token, a key or a prompt.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue};
use uuid::Uuid;

use crate::app::App;
use crate::error::{Code, Refusal};
use crate::ledger::{Charge, Settlement};
use crate::metrics::{Metrics, Told};
use crate::order::Order;
use crate::otlp::{Outcome, Trace};
use crate::plan::Hold;

/// What is known of a request so far, told once to the log and to the metrics. Dropped before its end, it says that the
/// caller left.
#[derive(Debug)]
pub(super) struct Line {
    metrics: Arc<Metrics>,
    id: Uuid,
    endpoint: &'static str,
    begun: Instant,
    /// From there to the hold, from which the row counts.
    before_hold_ms: i64,
    user_id: Option<Uuid>,
    plan: Option<String>,
    model: Option<String>,
    upstream: Option<String>,
    trace: Option<Box<Trace>>,
    written: bool,
}

/// What the caller of a forwarded request got.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    pub(super) status: u16,
    /// Why not, if so: in our own words, also where the caller was told the upstream's. A log and the labels of a metric
    /// take no words that somebody else chooses.
    pub(super) code: Option<Code>,
}

impl Line {
    pub(super) fn begin(app: &App, id: Uuid, endpoint: &'static str, headers: &HeaderMap) -> Self {
        let begun = Instant::now();
        let metrics = app.metrics.clone();
        let trace = app.telemetry.as_ref().map(|telemetry| Box::new(telemetry.begin(headers, endpoint, id)));
        Self {
            metrics,
            id,
            endpoint,
            begun,
            before_hold_ms: 0,
            user_id: None,
            plan: None,
            model: None,
            upstream: None,
            trace,
            written: false,
        }
    }

    pub(super) const fn id(&self) -> Uuid {
        self.id
    }

    pub(super) const fn endpoint(&self) -> &'static str {
        self.endpoint
    }

    pub(super) const fn caller(&mut self, user_id: Uuid) {
        self.user_id = Some(user_id);
    }

    pub(super) fn plan(&mut self, name: &str) {
        self.plan = Some(name.to_owned());
    }

    pub(super) fn model(&mut self, name: &str) {
        self.model = Some(name.to_owned());
    }

    /// Its hold was asked for so long ago.
    pub(super) fn held(&mut self, ago: Duration) {
        let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
        self.before_hold_ms = self.elapsed_ms().saturating_sub(ago).max(0);
    }

    /// It goes to this upstream. The `traceparent` that goes with it.
    pub(super) fn dispatched(&mut self, order: &Order, upstream: &str, user_hash: &str) -> Option<HeaderValue> {
        self.upstream = Some(upstream.to_owned());
        self.trace.as_mut()?.dispatched(order, upstream, user_hash)
    }

    /// The model that the upstream says it used.
    pub(super) fn answered_by(&mut self, model: &str) {
        if let Some(trace) = &mut self.trace {
            trace.answered_by(model);
        }
    }

    /// Milliseconds since the request came in.
    pub(super) fn elapsed_ms(&self) -> i64 {
        i64::try_from(self.begun.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// Nothing was sent.
    pub(super) fn refused(mut self, refusal: &Refusal) {
        self.metrics.request(self.endpoint, Told::Refused(refusal.code), self.begun.elapsed());
        self.write("refused", refusal.status().as_u16(), Some(refusal.code), None);
    }

    /// It was sent, and ended so.
    pub(super) fn ended(mut self, told: Answered, hold: &Hold, settlement: &Settlement) {
        let (model, plan) = (self.model.as_deref().unwrap_or_default(), self.plan.as_deref().unwrap_or_default());
        self.metrics.ended(model, plan, hold, settlement);
        self.metrics.request(self.endpoint, told.code.map_or(Told::Ok, Told::Refused), self.begun.elapsed());
        let outcome = match settlement.charge {
            Charge::Voided { .. } => "voided",
            Charge::Settled { .. } | Charge::WholeHold => "settled",
            Charge::Lost => "lost",
        };
        self.write(outcome, told.status, told.code, Some(settlement));
    }

    fn write(&mut self, outcome: &str, status: u16, code: Option<Code>, settlement: Option<&Settlement>) {
        self.written = true;
        let code = code.map(Code::as_str);
        if let Some(trace) = self.trace.take() {
            trace.ended(self.plan.as_deref(), &Outcome { status, word: code, settlement, took: self.begun.elapsed() });
        }
        let settled = settlement.and_then(|settlement| match settlement.charge {
            Charge::Settled { usage, cost } => Some((usage, cost)),
            Charge::Voided { .. } | Charge::WholeHold | Charge::Lost => None,
        });
        let (mut id, mut user_id) = (Uuid::encode_buffer(), Uuid::encode_buffer());
        tracing::info!(
            request_id = &*self.id.hyphenated().encode_lower(&mut id),
            path = self.endpoint,
            user_id = self.user_id.map(|user| &*user.hyphenated().encode_lower(&mut user_id)),
            plan = self.plan,
            model = self.model,
            upstream = self.upstream,
            status,
            code,
            outcome,
            flags = settlement.map(|settlement| settlement.flags.join(",")).filter(|flags| !flags.is_empty()),
            input_tokens = settled.map(|(usage, _)| usage.input_tokens),
            cached_input_tokens = settled.map(|(usage, _)| usage.cached_input_tokens),
            output_tokens = settled.map(|(usage, _)| usage.output_tokens),
            cost_usd = settled.map(|(_, cost)| cost.to_string()),
            // Counted as `duration_ms` is here: from the request, not from the hold as in the row.
            ttft_ms = settlement.and_then(|settlement| settlement.ttft_ms?.checked_add(self.before_hold_ms)),
            duration_ms = self.elapsed_ms(),
            "request"
        );
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.written {
            self.metrics.request(self.endpoint, Told::Cancelled, self.begun.elapsed());
            self.write("cancelled", 499, None, None);
        }
    }
}
