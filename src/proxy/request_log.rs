//! The log line of a forwarded request: written once, when it has ended; never a token, a key or a prompt.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, StatusCode};
use uuid::Uuid;

use crate::app::App;
use crate::endpoint::{Endpoint, Route, Spec};
use crate::error::{Code, Refusal};
use crate::ledger::{Charge, EndState, Settlement};
use crate::observe::metrics::{Metrics, RequestOutcome};
use crate::observe::traces::{SpanEnd, Trace};
use crate::plan::Hold;

/// The status of a request whose caller left before an answer began. Nobody is told it: logs at proxies have it.
const LEFT_STATUS: u16 = 499;
/// The outcome of a request that nothing was charged for, as its caller left.
const CANCELLED: &str = "cancelled";

/// What is known of a request so far, told once to the log and to the metrics. Dropped before its end, it says that the
/// caller left.
#[derive(Debug)]
pub(super) struct RequestLog {
    metrics: Arc<Metrics>,
    id: Uuid,
    spec: &'static Spec,
    route: Route,
    begun: Instant,
    /// From there to the hold, from which the row counts.
    before_hold_ms: i64,
    user_id: Option<Uuid>,
    plan: Option<String>,
    model: Option<String>,
    upstream: Option<String>,
    /// The request whose answer it gets.
    replay_of: Option<Uuid>,
    trace: Option<Box<Trace>>,
    written: bool,
}

/// What the caller of a forwarded request got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reported {
    status: u16,
    /// Why not, if so: in our own words, also where the caller was told the upstream's. A log and the labels of a metric
    /// take no words that somebody else chooses.
    code: Option<Code>,
}

impl Reported {
    /// An answer: all of it, or as much as the caller waited for.
    pub(super) const OK: Self = Self {
        status: 200,
        code: None,
    };
    /// Nothing: the caller left before an answer began.
    pub(super) const LEFT: Self = Self {
        status: LEFT_STATUS,
        code: None,
    };

    /// A refusal in place of an answer.
    pub(super) fn refused(refusal: &Refusal) -> Self {
        Self {
            status: refusal.status().as_u16(),
            code: Some(refusal.code),
        }
    }

    /// An answer that broke off, and an event that says so.
    pub(super) const fn broken_off(code: Code) -> Self {
        Self {
            status: 200,
            code: Some(code),
        }
    }

    fn told(self) -> RequestOutcome {
        match self.code {
            Some(code) => RequestOutcome::Refused(code),
            None if self == Self::LEFT => RequestOutcome::Cancelled,
            None => RequestOutcome::Ok,
        }
    }
}

impl RequestLog {
    pub(super) fn begin(
        app: &App,
        id: Uuid,
        (spec, route): (&'static Spec, Route),
        headers: &HeaderMap,
    ) -> Self {
        let begun = Instant::now();
        let metrics = app.metrics.clone();
        let trace = app
            .telemetry
            .as_ref()
            .map(|telemetry| Box::new(telemetry.begin(headers, &route, id)));
        Self {
            metrics,
            id,
            spec,
            route,
            begun,
            before_hold_ms: 0,
            user_id: None,
            plan: None,
            model: None,
            upstream: None,
            replay_of: None,
            trace,
            written: false,
        }
    }

    pub(super) const fn id(&self) -> Uuid {
        self.id
    }

    pub(super) const fn route(&self) -> &Route {
        &self.route
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
    pub(super) fn dispatched(
        &mut self,
        order: &dyn Endpoint,
        upstream: &str,
        user_hash: &str,
    ) -> Option<HeaderValue> {
        self.upstream = Some(upstream.to_owned());
        let order = (self.spec.operation, order);
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
        self.metrics.request(
            self.route.pattern,
            RequestOutcome::Refused(refusal.code),
            self.begun.elapsed(),
        );
        self.write("refused", Reported::refused(refusal), None);
    }

    /// It was sent before: it gets the answer of the request with this id.
    pub(super) fn replayed(mut self, first: Uuid, status: StatusCode) {
        self.replay_of = Some(first);
        self.metrics
            .request(self.route.pattern, RequestOutcome::Ok, self.begun.elapsed());
        let reported = Reported {
            status: status.as_u16(),
            code: None,
        };
        self.write("replayed", reported, None);
    }

    /// It was sent, and ended so.
    pub(super) fn ended(mut self, reported: Reported, hold: &Hold, settlement: &Settlement) {
        let (model, plan) = (
            self.model.as_deref().unwrap_or_default(),
            self.plan.as_deref().unwrap_or_default(),
        );
        self.metrics.ended(model, plan, hold, settlement);
        self.metrics
            .request(self.route.pattern, reported.told(), self.begun.elapsed());
        let outcome = match settlement.charge.end_state() {
            EndState::Voided if reported == Reported::LEFT => CANCELLED,
            state => state.as_str(),
        };
        self.write(outcome, reported, Some(settlement));
    }

    fn write(&mut self, outcome: &str, reported: Reported, settlement: Option<&Settlement>) {
        self.written = true;
        let Reported { status, code } = reported;
        let code = code.map(Code::as_str);
        if let Some(trace) = self.trace.take() {
            trace.ended(
                self.plan.as_deref(),
                &SpanEnd {
                    status,
                    word: code,
                    settlement,
                    took: self.begun.elapsed(),
                },
            );
        }
        let settled = settlement.and_then(|settlement| match settlement.charge {
            Charge::Settled { usage, cost } => Some((usage, cost)),
            Charge::Voided { .. } | Charge::WholeHold | Charge::Lost => None,
        });
        let [mut id, mut user_id, mut replay_of] = [Uuid::encode_buffer(); 3];
        tracing::info!(
            request_id = &*self.id.hyphenated().encode_lower(&mut id),
            path = &*self.route.path(),
            user_id = self
                .user_id
                .map(|user| &*user.hyphenated().encode_lower(&mut user_id)),
            plan = self.plan,
            model = self.model,
            upstream = self.upstream,
            status,
            code,
            outcome,
            replay_of = self
                .replay_of
                .map(|first| &*first.hyphenated().encode_lower(&mut replay_of)),
            flags = settlement
                .map(Settlement::flag_words)
                .filter(|flags| !flags.is_empty()),
            input_tokens = settled.map(|(usage, _)| usage.input_tokens),
            cached_input_tokens = settled.map(|(usage, _)| usage.cached_input_tokens),
            output_tokens = settled.map(|(usage, _)| usage.output_tokens),
            cost_usd = settled.map(|(_, cost)| cost.to_string()),
            // Counted as `duration_ms` is here: from the request, not from the hold as in the row.
            ttft_ms = settlement
                .and_then(|settlement| settlement.ttft_ms?.checked_add(self.before_hold_ms)),
            duration_ms = self.elapsed_ms(),
            "request"
        );
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        if !self.written {
            self.metrics.request(
                self.route.pattern,
                RequestOutcome::Cancelled,
                self.begun.elapsed(),
            );
            self.write(CANCELLED, Reported::LEFT, None);
        }
    }
}
