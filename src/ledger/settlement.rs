//! How a request ends and what it is charged: the table of law 3, as one pure function.

use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::plan::Hold;
use crate::price::{MicroUsd, Price, Usage};

/// No request is charged more than this, whatever an upstream reports (a thousand million dollars).
pub(super) const COST_MAX: MicroUsd = MicroUsd(1_000_000_000_000_000);

/// Where the hold of a request stands: the word in its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndState {
    /// It has not ended.
    Held,
    /// Ended and charged.
    Settled,
    /// Ended and not charged.
    Voided,
    /// Nobody knows how it ended: the hold is charged.
    Lost,
}

impl EndState {
    /// The states in which a request ends.
    pub const ENDED: [Self; 3] = [Self::Settled, Self::Voided, Self::Lost];

    /// The word in the ledger, in the log and in labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Settled => "settled",
            Self::Voided => "voided",
            Self::Lost => "lost",
        }
    }

    /// The state of a word in the ledger.
    pub(super) fn from_word(word: &str) -> Option<Self> {
        [Self::Held]
            .into_iter()
            .chain(Self::ENDED)
            .find(|state| state.as_str() == word)
    }
}

/// Declares the flags once: each with its word and what it says.
macro_rules! flags {
    ($($(#[doc = $doc:literal])+ $name:ident = $word:literal,)+) => {
        /// What was not as usual about a request: its row carries any number of them. `docs/metrics.md` lists them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Flag {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Flag {
            /// Every flag.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The word in the ledger, in the log and in labels.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                }
            }
        }
    };
}

flags! {
    /// The caller left before the end.
    Cancelled = "cancelled",
    /// A filter of the upstream stopped it.
    ContentFilter = "content_filter",
    /// What the user said was flagged by the moderation of the plan, and nothing was sent.
    ContentFlagged = "content_flagged",
    /// The connection to the upstream broke, or the answer ended before its end was told.
    Cut = "cut",
    /// The usage is counted here, or the hold, as none that can be right was reported.
    Estimated = "estimated",
    /// Another than the first that may answer for the name was asked, as the first could not.
    Fallback = "fallback",
    /// The upstream does not know `max_completion_tokens`.
    MaxCompletionTokensRefused = "max_completion_tokens_refused",
    /// The upstream does not know `max_tokens`.
    MaxTokensRefused = "max_tokens_refused",
    /// The answer is no completion, or compressed.
    Nonsense = "nonsense",
    /// The upstream could not be reached.
    NotConnected = "not_connected",
    /// The answer calls itself another model than the ordered one.
    OtherModel = "other_model",
    /// The answer names a service tier that was not ordered.
    OtherTier = "other_tier",
    /// The upstream reports more than it was capped to, or than was held.
    Overrun = "overrun",
    /// The upstream refused after it had worked.
    RefusedLate = "refused_late",
    /// The server stopped before the end.
    Shutdown = "shutdown",
    /// The upstream does not know `stream_options`.
    StreamOptionsRefused = "stream_options_refused",
    /// The process that held it died.
    Swept = "swept",
    /// The upstream was silent for too long, or not at its end in time.
    Timeout = "timeout",
    /// The upstream said that it failed.
    UpstreamFailed = "upstream_failed",
    /// The upstream refused the request (4xx).
    UpstreamRejected = "upstream_rejected",
    /// Usage was reported that cannot be right.
    UsageNonsense = "usage_nonsense",
}

/// The end of a request's hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// What is charged.
    pub charge: Charge,
    /// What was not as usual.
    pub flags: Vec<Flag>,
    /// Milliseconds from the hold to the first byte of the answer.
    pub ttft_ms: Option<i64>,
}

/// What a request is charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// Nothing. With `load` it still counts as a request per minute and hour: the upstream answered 4xx.
    Voided {
        /// The upstream was bothered.
        load: bool,
    },
    /// What was used, as reported or estimated.
    Settled {
        /// What was used.
        usage: Usage,
        /// Their price.
        cost: MicroUsd,
    },
    /// The whole hold, as an estimate: answered, without usage, and more may have been billed than can be counted.
    WholeHold,
    /// The whole hold: nobody knows what was used.
    Lost,
}

impl Charge {
    /// The state of the row.
    #[must_use]
    pub const fn end_state(&self) -> EndState {
        match self {
            Self::Voided { .. } => EndState::Voided,
            Self::Settled { .. } | Self::WholeHold => EndState::Settled,
            Self::Lost => EndState::Lost,
        }
    }
}

/// Which request ends how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The request.
    pub id: Uuid,
    /// Whose it is.
    pub user_id: Uuid,
    /// Its end.
    pub settlement: Settlement,
}

impl Settlement {
    /// Nothing was sent, or nothing was served.
    #[must_use]
    pub const fn void() -> Self {
        Self {
            charge: Charge::Voided { load: false },
            flags: Vec::new(),
            ttft_ms: None,
        }
    }

    /// The upstream refused the request (4xx): free, but it was load.
    #[must_use]
    pub fn refused_upstream() -> Self {
        Self {
            charge: Charge::Voided { load: true },
            flags: vec![Flag::UpstreamRejected],
            ttft_ms: None,
        }
    }

    /// Sent, and nobody knows what became of it.
    #[must_use]
    pub const fn lost() -> Self {
        Self {
            charge: Charge::Lost,
            flags: Vec::new(),
            ttft_ms: None,
        }
    }

    /// Adds a flag.
    #[must_use]
    pub fn flag(mut self, flag: Flag) -> Self {
        if !self.flags.contains(&flag) {
            self.flags.push(flag);
        }
        self
    }

    /// The words of its flags, separated by commas, as a row has them.
    #[must_use]
    pub fn flag_words(&self) -> String {
        let words: Vec<_> = self.flags.iter().map(|flag| flag.as_str()).collect();
        words.join(",")
    }

    /// Says when the first byte came.
    #[must_use]
    pub const fn first_byte_after(mut self, ttft_ms: Option<i64>) -> Self {
        self.ttft_ms = ttft_ms;
        self
    }
}

/// What an answered request is charged.
///
/// `reported` is the upstream's own usage, if it gave a believable one; it is charged as reported, and flagged `overrun`
/// above the hold, and above the cap of its `choices` answers, of which a long bound of the prompt may leave nothing to be
/// seen in the hold. Otherwise `estimated` counts: the prompt and what was delivered, never above the hold; `None` there
/// (a model with hidden reasoning, or more text than was kept) charges the hold itself.
#[must_use]
pub fn charge(
    price: &Price,
    (hold, choices): (&Hold, u32),
    reported: Option<Usage>,
    estimated: Option<Usage>,
) -> Settlement {
    if let Some(usage) = reported {
        let cost = price.cost(&usage).min(COST_MAX);
        let settled = Settlement {
            charge: Charge::Settled { usage, cost },
            flags: Vec::new(),
            ttft_ms: None,
        };
        let most = &hold.quantities;
        let above_hold = cost.0 > hold.amounts.cost
            || i64::try_from(usage.tokens()).unwrap_or(i64::MAX) > hold.amounts.tokens
            || usage.audio_seconds > most.audio_seconds
            || usage.characters > most.characters
            || usage.images > most.images;
        let cap = u64::from(hold.output_cap).saturating_mul(choices.into());
        // Images and sound are held in tokens beside the cap.
        let above = above_hold || usage.output_tokens > cap.max(most.output_tokens);
        return if above {
            settled.flag(Flag::Overrun)
        } else {
            settled
        };
    }
    let charge = match estimated {
        None => Charge::WholeHold,
        Some(usage) => {
            let usage = within(&usage, hold);
            Charge::Settled {
                usage,
                cost: price.cost(&usage).min(MicroUsd(hold.amounts.cost)),
            }
        }
    };
    Settlement {
        charge,
        flags: vec![Flag::Estimated],
        ttft_ms: None,
    }
}

/// An estimate cut to what was held.
fn within(estimate: &Usage, hold: &Hold) -> Usage {
    let all = u64::try_from(hold.amounts.tokens).unwrap_or(0);
    let prompt = estimate.input_tokens.min(all);
    let answer = estimate.output_tokens.min(all.saturating_sub(prompt));
    Usage {
        input_tokens: prompt,
        output_tokens: answer,
        audio_seconds: estimate.audio_seconds.min(hold.quantities.audio_seconds),
        characters: estimate.characters.min(hold.quantities.characters),
        images: estimate.images.min(hold.quantities.images),
        ..*estimate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_has_a_word_of_its_own_and_a_line_in_the_page_for_operators() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md"))
            .unwrap();
        for (place, flag) in Flag::ALL.iter().enumerate() {
            let word = flag.as_str();
            assert!(page.contains(&format!("`{word}`")), "{word}");
            let first = Flag::ALL.iter().position(|other| other.as_str() == word);
            assert_eq!(first, Some(place), "{word}");
        }
    }
}
