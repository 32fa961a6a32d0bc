//! The log line of a forwarded request: written once, when it has ended; never a token, a key or a prompt.

use std::time::Instant;

use uuid::Uuid;

use crate::error::Refusal;
use crate::ledger::{Charge, Settlement};

/// What is known of a request so far. Dropped before its end, it says that the caller left.
#[derive(Debug)]
pub(super) struct Line {
    id: Uuid,
    endpoint: &'static str,
    begun: Instant,
    user_id: Option<Uuid>,
    plan: Option<String>,
    model: Option<String>,
    upstream: Option<String>,
    written: bool,
}

impl Line {
    pub(super) fn begin(id: Uuid, endpoint: &'static str) -> Self {
        let begun = Instant::now();
        Self { id, endpoint, begun, user_id: None, plan: None, model: None, upstream: None, written: false }
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

    pub(super) fn upstream(&mut self, name: &str) {
        self.upstream = Some(name.to_owned());
    }

    /// Milliseconds since the request came in.
    pub(super) fn elapsed_ms(&self) -> i64 {
        i64::try_from(self.begun.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// Nothing was sent.
    pub(super) fn refused(mut self, refusal: &Refusal) {
        self.write("refused", refusal.status().as_u16(), Some(refusal.code_str()), None);
    }

    /// It was sent, and ended so.
    pub(super) fn ended(mut self, status: u16, code: Option<&str>, settlement: &Settlement) {
        let outcome = match settlement.charge {
            Charge::Voided { .. } => "voided",
            Charge::Settled { .. } | Charge::WholeHold => "settled",
            Charge::Lost => "lost",
        };
        self.write(outcome, status, code, Some(settlement));
    }

    fn write(&mut self, outcome: &str, status: u16, code: Option<&str>, settlement: Option<&Settlement>) {
        self.written = true;
        let settled = settlement.and_then(|settlement| match settlement.charge {
            Charge::Settled { usage, cost } => Some((usage, cost)),
            Charge::Voided { .. } | Charge::WholeHold | Charge::Lost => None,
        });
        let text = |id: Uuid| id.hyphenated().to_string();
        tracing::info!(
            request_id = %self.id,
            path = self.endpoint,
            user_id = self.user_id.map(text),
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
            ttft_ms = settlement.and_then(|settlement| settlement.ttft_ms),
            duration_ms = self.elapsed_ms(),
            "request"
        );
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.written {
            self.write("cancelled", 499, None, None);
        }
    }
}
