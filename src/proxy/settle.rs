//! The last step of a request: what was measured becomes its settlement and its log line.

use std::sync::Arc;

use super::line::{Answered, Line};
use crate::app::App;
use crate::error::Code;
use crate::ledger::{Reservation, Settlement, charge};
use crate::meter::Measured;
use crate::order::Order;
use crate::plan::Hold;
use crate::price::Usage;
use crate::tokens;

/// What is owed once for every request: the end of its hold, and its log line.
pub(super) struct Open {
    pub(super) reservation: Reservation,
    pub(super) line: Line,
}

/// What a request is charged where the upstream did not report its usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreported {
    /// Its prompt, and what was delivered: all that was generated was seen.
    Seen,
    /// Its prompt: nothing was generated.
    Prompt,
    /// What was held: nobody saw what was generated.
    Hold,
}

/// What was measured, and of which request.
pub(super) struct Settle {
    pub(super) order: Arc<Order>,
    pub(super) measured: Measured,
    pub(super) unreported: Unreported,
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
        match self.unreported {
            Unreported::Prompt => false,
            Unreported::Hold => true,
            Unreported::Seen => self.is_hidden() && !self.knows_output(),
        }
    }

    /// More may have been generated than was shown.
    fn is_hidden(&self) -> bool {
        let Measured { text_overflow, cap_reached, filtered, hidden_reasoning, .. } = self.measured;
        self.order.may_reason() || text_overflow || cap_reached || filtered || hidden_reasoning
    }

    /// The output was reported, and only the prompt was not.
    fn knows_output(&self) -> bool {
        self.measured.partial_usage.is_some_and(|partial| partial.knows_output())
    }

    /// What is counted here; what was reported of it stands.
    fn estimate(&self) -> Usage {
        let is_known = self.knows_output();
        let count = || tokens::count(self.order.price().tokenizer, &self.measured.text);
        let output_tokens = if is_known { 0 } else { count() };
        let counted = Usage { input_tokens: self.order.estimate_input_tokens(), output_tokens, ..Usage::default() };
        self.measured.partial_usage.map_or(counted, |partial| partial.completed_by(&counted))
    }

    fn settlement(&self, hold: &Hold, estimate: Option<Usage>) -> Settlement {
        let bounds = (hold, self.order.choices());
        let price = self.order.price();
        let settlement = match estimate.filter(|_| self.knows_output()) {
            Some(usage) => charge(price, bounds, Some(usage), None).flag("estimated"),
            None => charge(price, bounds, self.measured.usage, estimate),
        };
        let settlement = settlement.first_byte_after(self.ttft_ms);
        let (model, tier) = (self.measured.model.as_deref(), self.measured.service_tier.as_deref());
        let seen = [
            (model.is_some_and(|said| !is_same_model(self.order.model(), said)), "other_model"),
            (tier.is_some_and(|tier| tier != "default" && tier != "auto"), "other_tier"),
            (self.measured.usage_nonsense, "usage_nonsense"),
        ];
        let seen = seen.into_iter().filter_map(|(is, flag)| is.then_some(flag));
        self.flags.iter().copied().chain(seen).fold(settlement, Settlement::flag)
    }
}

/// Whether what an answer calls itself is what was ordered: its name, or a dated form of it. (It changes no price.) A
/// provider's prefix counts only where both names have one.
fn is_same_model(ordered: &str, said: &str) -> bool {
    if ordered == said {
        return true;
    }
    let (ordered, said) = (ordered.to_ascii_lowercase(), said.to_ascii_lowercase());
    let bare = |name: &str| name.rsplit_once('/').map_or_else(|| name.to_owned(), |(_, bare)| bare.to_owned());
    let (ordered, said) =
        if ordered.contains('/') == said.contains('/') { (ordered, said) } else { (bare(&ordered), bare(&said)) };
    let family = ordered.strip_suffix("-latest").unwrap_or(&ordered);
    let Some(rest) = said.strip_prefix(family) else { return false };
    rest.is_empty() || rest == "-latest" || rest == ":latest" || rest.strip_prefix(['-', '@']).is_some_and(is_date)
}

/// A date, with or without its year or day: `2024-07-18`, `20240718`, `0613`, `2411`, `11-2025`.
fn is_date(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') && matches!(digits, 4 | 6 | 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dated_form_of_a_name_is_no_other_model() {
        for (ordered, said) in [
            ("gpt-4o-mini", "gpt-4o-mini"),
            ("gpt-4o-mini", "gpt-4o-mini-2024-07-18"),
            ("gpt-4", "gpt-4-0613"),
            ("mistral-large-latest", "mistral-large-2411"),
            ("claude-x", "claude-x@20250101"),
            ("llama3.2", "llama3.2:latest"),
            ("vendor/Some-Model", "vendor/some-model"),
            ("vendor/some-model", "some-model-2026-01-02"),
            ("gemini-3-flash", "models/gemini-3-flash"),
        ] {
            assert!(is_same_model(ordered, said), "{ordered} {said}");
        }
        for (ordered, said) in [
            ("vendor/some-model", "gpt-4"),
            ("vendor/some-model", "other/some-model"),
            ("gpt-4", "gpt-4o"),
            ("gpt-4o", "gpt-4o-mini"),
            ("gpt-4", "gpt-4-turbo-2024-04-09"),
            ("gpt-4o-mini", "gpt-4o"),
            ("free", "gpt-3.5-turbo"),
            ("gpt-4", "gpt-4-"),
            ("gpt-4", "gpt-4-1"),
        ] {
            assert!(!is_same_model(ordered, said), "{ordered} {said}");
        }
    }
}
