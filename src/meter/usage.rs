//! The usage that an answer reports, once or again and again. Pure.
//!
//! A count that cannot be right is no count. Some servers report on every chunk what was used up to it: then the last
//! counts. Invariant: of reports that contradict each other none makes an answer cheaper than another.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::price::Usage;

/// The largest count of tokens that is believed.
const TOKENS_MAX: u64 = 10_000_000;

/// What is known of a usage of which a part is missing, or cannot be right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartialUsage {
    /// What was reported. A part that is not known is the least that it can be, as far as was reported.
    reported: Usage,
    knows_input: bool,
    knows_output: bool,
}

impl PartialUsage {
    /// What was reported of the answer: the output is known, or else at least this.
    #[must_use]
    pub const fn reported(&self) -> &Usage {
        &self.reported
    }

    /// The output was reported: only the prompt is to be estimated.
    #[must_use]
    pub const fn knows_output(&self) -> bool {
        self.knows_output
    }

    /// The whole usage, with the unknown parts from an estimate; never less than was reported.
    #[must_use]
    pub fn completed_by(&self, estimate: &Usage) -> Usage {
        let Self { reported, knows_input, knows_output } = *self;
        let mut usage = reported;
        if !knows_input {
            usage.input_tokens = reported.input_tokens.max(estimate.input_tokens);
        }
        if !knows_output {
            usage.output_tokens = reported.output_tokens.max(estimate.output_tokens);
        }
        usage
    }
}

/// Where a report stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// On a chunk in mid-answer. With several choices it may be about one of them.
    Running,
    /// On the chunk that ends the last choice.
    AtTheEnd,
    /// On a chunk without choices, or on the whole answer: it is about all of it.
    OfAll,
}

/// What was reported so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Reports {
    /// The last that was not in mid-answer.
    last: Option<Usage>,
    /// The greatest of each part, wherever it was reported.
    greatest: Option<Usage>,
    /// The smallest part from the cache.
    least_cached: u64,
    nonsense: bool,
}

impl Reports {
    /// Notes a report.
    pub(super) fn note(&mut self, raw: &RawValue, place: Place) {
        let Some((usage, is_sane)) = read(raw) else {
            self.nonsense |= place != Place::Running;
            return;
        };
        let shrinks = self.greatest.is_some_and(|greatest| is_less(&usage, &greatest));
        self.nonsense |= !is_sane || (shrinks && place == Place::OfAll);
        let cached = usage.cached_input_tokens;
        self.least_cached = if self.greatest.is_none() { cached } else { self.least_cached.min(cached) };
        self.greatest = Some(self.greatest.map_or(usage, |greatest| each_greater(&usage, &greatest)));
        if place != Place::Running {
            self.last = Some(usage);
        }
    }

    /// There is a report that may be the whole.
    pub(super) const fn is_there(&self) -> bool {
        self.last.is_some()
    }

    /// What counts, and whether something about it cannot be right.
    pub(super) fn judged(&self) -> (Option<Usage>, bool) {
        match (self.last, self.greatest) {
            (Some(last), Some(greatest)) if is_less(&last, &greatest) => (Some(self.dearest(greatest)), true),
            (last, _) => (last, self.nonsense),
        }
    }

    /// The greatest of each part, but for what came from the cache, which is cheap.
    fn dearest(&self, greatest: Usage) -> Usage {
        let cached = self.least_cached.min(greatest.input_tokens);
        let uncached = greatest.input_tokens.saturating_sub(cached);
        let written = greatest.cache_write_tokens.min(uncached);
        Usage { cached_input_tokens: cached, cache_write_tokens: written, ..greatest }
    }
}

/// The parts of a usage.
const fn parts(usage: &Usage) -> [u64; 5] {
    let Usage { input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens } = *usage;
    [input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens]
}

/// Whether any part of `usage` is less than that of `than`.
fn is_less(usage: &Usage, than: &Usage) -> bool {
    parts(usage).into_iter().zip(parts(than)).any(|(part, than)| part < than)
}

fn each_greater(one: &Usage, other: &Usage) -> Usage {
    Usage {
        input_tokens: one.input_tokens.max(other.input_tokens),
        cached_input_tokens: one.cached_input_tokens.max(other.cached_input_tokens),
        cache_write_tokens: one.cache_write_tokens.max(other.cache_write_tokens),
        output_tokens: one.output_tokens.max(other.output_tokens),
        reasoning_tokens: one.reasoning_tokens.max(other.reasoning_tokens),
    }
}

/// OpenAI's usage, if it can be right: whole numbers that are not negative, no more than ten million, a prompt of
/// more than nothing. Parts are cut to their whole, but for one from the cache that is more than the prompt: nothing of it
/// is believed. False: it can be charged, and something about it cannot be right.
fn read(raw: &RawValue) -> Option<(Usage, bool)> {
    #[derive(Deserialize)]
    struct Reported<'a> {
        prompt_tokens: u64,
        completion_tokens: u64,
        #[serde(borrow)]
        total_tokens: Option<&'a RawValue>,
        prompt_tokens_details: Option<PromptDetails>,
        completion_tokens_details: Option<CompletionDetails>,
    }
    #[derive(Default, Deserialize)]
    struct PromptDetails {
        cached_tokens: Option<u64>,
        cache_write_tokens: Option<u64>,
    }
    #[derive(Default, Deserialize)]
    struct CompletionDetails {
        reasoning_tokens: Option<u64>,
    }
    if !raw.get().starts_with('{') {
        return None;
    }
    let said: Reported<'_> = serde_json::from_str(raw.get()).ok()?;
    let prompt = said.prompt_tokens_details.unwrap_or_default();
    let completion = said.completion_tokens_details.unwrap_or_default();
    let parts = [prompt.cached_tokens, prompt.cache_write_tokens, completion.reasoning_tokens];
    let counts = [said.prompt_tokens, said.completion_tokens].into_iter().chain(parts.into_iter().flatten());
    if said.prompt_tokens == 0 || counts.max().is_some_and(|most| most > TOKENS_MAX) {
        return None;
    }
    let told_cached = prompt.cached_tokens.unwrap_or(0);
    let cached = Some(told_cached).filter(|cached| *cached <= said.prompt_tokens);
    let uncached = said.prompt_tokens.saturating_sub(cached.unwrap_or(0));
    let usage = Usage {
        input_tokens: said.prompt_tokens,
        cached_input_tokens: cached.unwrap_or(0),
        cache_write_tokens: prompt.cache_write_tokens.unwrap_or(0).min(uncached),
        output_tokens: said.completion_tokens,
        reasoning_tokens: completion.reasoning_tokens.unwrap_or(0).min(said.completion_tokens),
    };
    Some((usage, cached.is_some() && said.total_tokens.is_none_or(is_total)))
}

/// Nothing is charged by the total. One that is no count says that the server cannot count.
fn is_total(raw: &RawValue) -> bool {
    raw.get().parse::<u64>().is_ok_and(|total| total <= TOKENS_MAX.saturating_mul(2))
}

#[cfg(test)]
mod tests {
    use super::Place::{AtTheEnd, OfAll, Running};
    use super::*;

    fn judged(told: &[(Place, u64)]) -> (Option<u64>, bool) {
        let mut reports = Reports::default();
        for (place, tokens) in told {
            let raw = format!("{{\"prompt_tokens\":3,\"completion_tokens\":{tokens}}}");
            reports.note(&RawValue::from_string(raw).unwrap(), *place);
        }
        let (usage, nonsense) = reports.judged();
        (usage.map(|usage| usage.output_tokens), nonsense)
    }

    #[test]
    fn reports_that_grow_are_right_and_one_that_shrinks_is_not() {
        let cases: [(&[(Place, u64)], _); 9] = [
            (&[], (None, false)),
            (&[(Running, 1), (Running, 2)], (None, false)),
            (&[(Running, 1), (Running, 2), (AtTheEnd, 3), (OfAll, 3)], (Some(3), false)),
            (&[(OfAll, 4), (OfAll, 40)], (Some(40), false)),
            (&[(OfAll, 40), (OfAll, 4)], (Some(40), true)),
            (&[(OfAll, 40), (OfAll, 4), (OfAll, 40)], (Some(40), true)),
            (&[(Running, 40), (OfAll, 4)], (Some(40), true)),
            (&[(Running, 40), (AtTheEnd, 4)], (Some(40), true)),
            // Of two choices, each with what was used for itself, and at last for both.
            (&[(Running, 1), (Running, 5), (Running, 2), (AtTheEnd, 3), (OfAll, 8)], (Some(8), false)),
        ];
        for (told, wanted) in cases {
            assert_eq!(judged(told), wanted, "{told:?}");
        }
    }

    #[test]
    fn of_what_came_from_the_cache_the_least_counts_once_it_shrinks() {
        let cached = |told: &[u64]| {
            let mut reports = Reports::default();
            for cached in told {
                let raw = format!(
                    r#"{{"prompt_tokens":9,"completion_tokens":1,"prompt_tokens_details":{{"cached_tokens":{cached}}}}}"#
                );
                reports.note(&RawValue::from_string(raw).unwrap(), OfAll);
            }
            let (usage, nonsense) = reports.judged();
            (usage.unwrap().cached_input_tokens, nonsense)
        };
        for (told, wanted) in [
            (&[8][..], (8, false)),
            (&[0, 8], (8, false)),
            (&[8, 0], (0, true)),
            (&[8, 4, 6], (4, true)),
            (&[0, 8, 4], (0, true)),
            (&[10], (0, true)),
        ] {
            assert_eq!(cached(told), wanted, "{told:?}");
        }
    }
}
