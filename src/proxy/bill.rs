//! What a request is charged: by how it ended, by the price of what was ordered, and by what was measured of the answer.
//! Pure.

use std::sync::Arc;

use super::settle::{Basis, Unreported};
use crate::endpoint::Endpoint;
use crate::ledger::{Flag, Settlement, charge};
use crate::meter::Measured;
use crate::plan::Hold;
use crate::price::Usage;

/// What a request is charged by: what was ordered, and what was measured of the answer.
#[derive(Debug)]
pub(super) struct Bill {
    pub(super) order: Arc<dyn Endpoint>,
    pub(super) measured: Measured,
    pub(super) basis: Basis,
    pub(super) flags: Vec<Flag>,
    /// Milliseconds from the hold to the first byte.
    pub(super) ttft_ms: Option<i64>,
}

impl Bill {
    /// Whether the answer has to be counted, which may take long.
    pub(super) fn needs_count(&self) -> bool {
        let Basis::Reported(unreported) = self.basis else {
            return false;
        };
        self.measured.usage.is_none() && !self.charges_hold(unreported)
    }

    /// The end of the hold.
    pub(super) fn settlement(&self, hold: &Hold) -> Settlement {
        let settlement = match self.basis {
            Basis::Fixed(charge) => Settlement {
                charge,
                flags: Vec::new(),
                ttft_ms: None,
            },
            Basis::Reported(_) => self.charged(hold),
        };
        let settlement = settlement.first_byte_after(self.ttft_ms);
        let flags = self.flags.iter().copied().chain(self.seen_flags());
        flags.fold(settlement, Settlement::flag)
    }

    fn charged(&self, hold: &Hold) -> Settlement {
        let bounds = (hold, self.order.choices());
        let price = self.order.price();
        let estimate = self.needs_count().then(|| self.estimate());
        match estimate.filter(|_| self.knows_output()) {
            Some(usage) => charge(price, bounds, Some(usage), None).flag(Flag::Estimated),
            None => charge(price, bounds, self.measured.usage, estimate),
        }
    }

    /// What the answer itself says that is not as usual.
    fn seen_flags(&self) -> impl Iterator<Item = Flag> {
        let Measured {
            model,
            service_tier,
            usage_nonsense,
            ..
        } = &self.measured;
        let is_other_model = model
            .as_deref()
            .is_some_and(|said| !is_same_model(self.order.model(), said));
        let is_other_tier = service_tier
            .as_deref()
            .is_some_and(|tier| tier != "default" && tier != "auto");
        let seen = [
            (is_other_model, Flag::OtherModel),
            (is_other_tier, Flag::OtherTier),
            (*usage_nonsense, Flag::UsageNonsense),
        ];
        seen.into_iter().filter_map(|(is, flag)| is.then_some(flag))
    }

    /// What cannot be counted from outside is charged as it was held.
    fn charges_hold(&self, unreported: Unreported) -> bool {
        match unreported {
            Unreported::Prompt => false,
            Unreported::Hold => true,
            Unreported::Seen => self.is_hidden() && !self.knows_output(),
        }
    }

    /// More may have been generated than was shown.
    fn is_hidden(&self) -> bool {
        let Measured {
            text_overflow,
            cap_reached,
            filtered,
            hidden_reasoning,
            ..
        } = self.measured;
        self.order.may_reason() || text_overflow || cap_reached || filtered || hidden_reasoning
    }

    /// The output was reported, and only the prompt was not.
    fn knows_output(&self) -> bool {
        self.measured
            .partial_usage
            .is_some_and(|partial| partial.knows_output())
    }

    /// What is counted here; what was reported of it stands.
    fn estimate(&self) -> Usage {
        let counted = self.order.estimate(&self.measured);
        self.measured
            .partial_usage
            .map_or(counted, |partial| partial.completed_by(&counted))
    }
}

/// Whether what an answer calls itself is what was ordered: its name, or a dated form of it. (It changes no price.) A
/// provider's prefix counts only where both names have one.
fn is_same_model(ordered: &str, said: &str) -> bool {
    // By the second name OpenAI answers for the first.
    let ada = ("text-embedding-ada-002", "text-embedding-ada-002-v2");
    if ordered == said || (ordered, said) == ada {
        return true;
    }
    let (ordered, said) = (ordered.to_ascii_lowercase(), said.to_ascii_lowercase());
    let bare = |name: &str| {
        name.rsplit_once('/')
            .map_or_else(|| name.to_owned(), |(_, bare)| bare.to_owned())
    };
    let (ordered, said) = if ordered.contains('/') == said.contains('/') {
        (ordered, said)
    } else {
        (bare(&ordered), bare(&said))
    };
    let family = ordered.strip_suffix("-latest").unwrap_or(&ordered);
    let Some(rest) = said.strip_prefix(family) else {
        return false;
    };
    rest.is_empty()
        || rest == "-latest"
        || rest == ":latest"
        || rest.strip_prefix(['-', '@']).is_some_and(is_date)
}

/// A date, with or without its year or day: `2024-07-18`, `20240718`, `0613`, `2411`, `11-2025`.
fn is_date(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    text.bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'-')
        && matches!(digits, 4 | 6 | 8)
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
            ("text-embedding-ada-002", "text-embedding-ada-002-v2"),
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
