//! The last step of a request: what was measured becomes its settlement and its log line.

use std::sync::Arc;

use super::line::{Answered, Line};
use crate::app::App;
use crate::config::Config;
use crate::error::Code;
use crate::ledger::{Reservation, Settlement, charge};
use crate::meter::Measured;
use crate::order::Order;
use crate::plan::Hold;
use crate::price::{Price, Usage};
use crate::tokens;

/// What is owed once for every request: the end of its hold, and its log line.
pub(super) struct Open {
    pub(super) reservation: Reservation,
    pub(super) line: Line,
}

/// What was measured, and of which request.
pub(super) struct Settle {
    pub(super) config: Arc<Config>,
    pub(super) order: Arc<Order>,
    pub(super) measured: Measured,
    pub(super) ttft_ms: Option<i64>,
    pub(super) flags: Vec<&'static str>,
    /// The status and code that the caller got.
    pub(super) told: (u16, Option<Code>),
}

impl Settle {
    /// Ends a request: at once where the upstream reported its usage, else on a thread that may count for long.
    pub(super) fn run(self, open: Open, app: &App) {
        if self.measured.usage.is_some() || self.charges_hold() {
            return self.end(open, None);
        }
        app.work.spawn_blocking(move || {
            let estimate = self.estimate();
            self.end(open, Some(estimate));
        });
    }

    fn end(&self, open: Open, estimate: Option<Usage>) {
        let Open { reservation, mut line } = open;
        let settlement = self.settlement(&reservation.hold(), estimate);
        if settlement.flags.contains(&"overrun") {
            tracing::error!(request_id = %reservation.id(), "the upstream reports more than it was capped to");
        }
        let (status, code) = self.told;
        if let Some(model) = &self.measured.model {
            line.answered_by(model);
        }
        let told = Answered { status, code };
        line.ended(told, &reservation.hold(), &settlement);
        reservation.end(settlement);
    }

    /// What cannot be counted from outside is charged as it was held.
    fn charges_hold(&self) -> bool {
        self.order.may_reason() || self.measured.text_overflow
    }

    fn estimate(&self) -> Usage {
        let output_tokens = tokens::count(self.order.price().tokenizer, &self.measured.text);
        Usage { input_tokens: self.order.estimate_input_tokens(), output_tokens, ..Usage::default() }
    }

    fn settlement(&self, hold: &Hold, estimate: Option<Usage>) -> Settlement {
        let (price, other_model) = self.price();
        let bounds = (hold, self.order.choices());
        let settlement = charge(price, bounds, self.measured.usage, estimate).first_byte_after(self.ttft_ms);
        let tier = self.measured.service_tier.as_deref();
        let seen = [
            (other_model, "other_model"),
            (tier.is_some_and(|tier| tier != "default" && tier != "auto"), "other_tier"),
            (self.measured.usage_nonsense, "usage_nonsense"),
        ];
        let seen = seen.into_iter().filter_map(|(is, flag)| is.then_some(flag));
        self.flags.iter().copied().chain(seen).fold(settlement, Settlement::flag)
    }

    /// The price of the model that the upstream says it used, and whether that is another than was asked for. One
    /// without a price is charged as the one asked for.
    fn price(&self) -> (&Price, bool) {
        let asked = (self.order.model(), self.order.price());
        let Some(said) = self.measured.model.as_deref() else { return (asked.1, false) };
        match self.config.prices.resolve(said) {
            Some((name, price)) => (price, name != asked.0),
            None => (asked.1, said != asked.0),
        }
    }
}
