//! One report of usage, by whatever names a provider gives its parts. Pure.
//!
//! Of all that a report says the dearest lawful reading counts, its total among it. Where it does not add up it is called
//! insane, and still read so that nothing becomes cheaper.

mod members;

use serde::de::Deserializer;
use serde_json::value::RawValue;

use super::super::lenient::Count;
use crate::price::Usage;

/// The largest count of tokens that is believed.
const TOKENS_MAX: u64 = 10_000_000;

/// What a report says. A part that is missing or cannot be right is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::meter) struct Counts {
    pub(in crate::meter) input: Option<u64>,
    /// Of the input.
    pub(super) cached: u64,
    /// Of the input.
    pub(super) written: u64,
    pub(in crate::meter) output: Option<u64>,
    /// Of the output.
    pub(super) reasoning: u64,
}

impl Counts {
    /// The whole usage, if its two parts are known.
    pub(super) fn usage(&self) -> Option<Usage> {
        let Self {
            input: Some(input),
            output: Some(output),
            ..
        } = *self
        else {
            return None;
        };
        let cached = self.cached.min(input);
        Some(Usage {
            input_tokens: input,
            cached_input_tokens: cached,
            cache_write_tokens: self.written.min(input.saturating_sub(cached)),
            output_tokens: output,
            reasoning_tokens: self.reasoning.min(output),
            ..Usage::default()
        })
    }

    /// Whether any part that is known is less than that of `than`.
    pub(super) fn is_less_than(&self, than: &Self) -> bool {
        let is_less =
            |part: Option<u64>, than: Option<u64>| part.is_some_and(|part| Some(part) < than);
        let of_input =
            self.input.is_some() && (self.cached < than.cached || self.written < than.written);
        let of_output = self.output.is_some() && self.reasoning < than.reasoning;
        is_less(self.input, than.input)
            || is_less(self.output, than.output)
            || of_input
            || of_output
    }

    /// The parts that are not known here as `before` has them.
    pub(super) fn or(&self, before: Option<Self>) -> Self {
        let before = before.unwrap_or_default();
        let of_input = if self.input.is_some() { self } else { &before };
        let of_output = if self.output.is_some() { self } else { &before };
        let Self {
            input,
            cached,
            written,
            ..
        } = *of_input;
        let Self {
            output, reasoning, ..
        } = *of_output;
        Self {
            input,
            cached,
            written,
            output,
            reasoning,
        }
    }

    pub(super) fn each_greater(&self, other: &Self) -> Self {
        Self {
            input: self.input.max(other.input),
            cached: self.cached.max(other.cached),
            written: self.written.max(other.written),
            output: self.output.max(other.output),
            reasoning: self.reasoning.max(other.reasoning),
        }
    }
}

/// Reads a report. None if it is no object. False: it can be charged, and something about it cannot be right.
pub(in crate::meter) fn read(raw: &RawValue) -> Option<(Counts, bool)> {
    if !raw.get().starts_with('{') {
        return None;
    }
    let mut report = Report::default();
    serde_json::Deserializer::from_str(raw.get())
        .deserialize_map(&mut report)
        .ok()?;
    Some(report.counts())
}

/// What stands under one meaning, by one name or by several.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    least: Option<u64>,
    most: Option<u64>,
    /// Something was no count, or not written as one.
    is_odd: bool,
}

impl Slot {
    fn say(&mut self, count: Count, most: u64) {
        self.is_odd |= matches!(count, Count::Nonsense | Count::Text(_));
        match count.known() {
            Some(count) if count <= most => {
                self.least = Some(self.least.map_or(count, |least| least.min(count)));
                self.most = self.most.max(Some(count));
            }
            Some(_) => self.is_odd = true,
            None => {}
        }
    }

    /// Two names that say different things. Zero is how some servers say nothing.
    fn disagrees(&self) -> bool {
        self.least != self.most && self.least != Some(0)
    }
}

/// A report, member by member.
#[derive(Debug, Default)]
struct Report {
    input: Slot,
    /// The prompt is called `input_tokens` and nothing else, as Anthropic does, who leaves out what the cache did.
    is_input_by_anthropic: bool,
    is_input_by_openai: bool,
    output: Slot,
    total: Slot,
    /// From the cache: of the details.
    cached: Slot,
    /// From the cache: beside the prompt's tokens, by names of those who count it among them.
    cached_beside: Slot,
    /// From the cache, and not: `DeepSeek`'s two parts of a prompt.
    hit: Slot,
    miss: Slot,
    /// From the cache, by Anthropic's name.
    read: Slot,
    written: Slot,
    /// Written to the cache, by Anthropic's name.
    created: Slot,
    reasoning: Slot,
}

impl Report {
    fn counts(&self) -> (Counts, bool) {
        let mut is_sane = self.is_plausible();
        let mut input = self.input.most.filter(|input| *input > 0);
        let mut output = self.output.most;
        let total = self.total.most.filter(|total| *total > 0);
        is_sane &= self.total.most != Some(0) || (input.is_none() && output.unwrap_or(0) == 0);
        if let (Some(hit), Some(miss)) = (self.hit.most, self.miss.most) {
            let sum = Some(hit.saturating_add(miss)).filter(|sum| *sum > 0);
            is_sane &= sum <= input;
            input = input.max(sum);
        }
        input = input.map(|input| input.saturating_add(self.apart(input, output, total)));
        let cached = self.cached.least.or_else(|| {
            [self.cached_beside, self.hit, self.read]
                .iter()
                .filter_map(|slot| slot.least)
                .min()
        });
        let cached = cached.unwrap_or(0);
        is_sane &= input.is_none_or(|input| cached <= input);
        let reasoning = self.reasoning.most.unwrap_or(0);
        let mut beside = 0;
        match (input, output, total) {
            (Some(input), Some(output), Some(total)) => {
                let sum = input.saturating_add(output);
                is_sane &= total >= sum;
                beside = total.saturating_sub(sum);
            }
            // What is missing is the rest of the total.
            (Some(input), None, Some(total)) if total > input => {
                output = Some(total.saturating_sub(input));
            }
            (None, Some(output), Some(total)) if total > output => {
                input = Some(total.saturating_sub(output));
            }
            _ => {}
        }
        let reported = output;
        output = output.map(|output| output.saturating_add(beside));
        if let (Some(reported), Some(whole)) = (reported, output)
            && reasoning > whole
        {
            // It cannot be a part of the output, so it stands beside it.
            is_sane &= total.is_none();
            output = Some(reported.saturating_add(reasoning));
        }
        let is_believed = |count: &u64| *count <= TOKENS_MAX;
        let counts = Counts {
            input: input.filter(is_believed),
            cached: if input.is_some_and(|input| cached <= input) {
                cached
            } else {
                0
            },
            written: self.written.most.max(self.created.most).unwrap_or(0),
            output: output.filter(is_believed),
            reasoning: if reasoning == 0 { beside } else { reasoning },
        };
        (
            counts,
            is_sane && counts.input == input && counts.output == output,
        )
    }

    /// Every count is one, no two names contradict each other, and nothing is zero that cannot be.
    fn is_plausible(&self) -> bool {
        let slots = [
            &self.output,
            &self.total,
            &self.cached,
            &self.cached_beside,
            &self.hit,
            &self.miss,
            &self.read,
        ];
        let more = [&self.written, &self.created, &self.reasoning];
        let is_odd = slots
            .into_iter()
            .chain(more)
            .any(|slot| slot.is_odd || slot.disagrees());
        // Anthropic's prompt beside OpenAI's lacks what the cache did.
        let explained = self
            .input
            .least
            .map(|least| least.saturating_add(self.of_the_cache()));
        let is_input_odd =
            self.input.is_odd || (self.input.disagrees() && explained != self.input.most);
        let is_missing = self.input.most == Some(0)
            || (self.total.most.is_some()
                && (self.input.most.is_none() || self.output.most.is_none()));
        !is_odd && !is_input_odd && !is_missing
    }

    fn of_the_cache(&self) -> u64 {
        self.read
            .most
            .unwrap_or(0)
            .saturating_add(self.created.most.unwrap_or(0))
    }

    /// What the cache did to the prompt and is not counted in its tokens: Anthropic counts so, and the total may say it.
    fn apart(&self, input: u64, output: Option<u64>, total: Option<u64>) -> u64 {
        let apart = self.of_the_cache();
        if apart == 0 || self.cached.most.is_some() || self.input.disagrees() {
            return 0;
        }
        let without = output.map(|output| input.saturating_add(output));
        let is_apart = match (without, total) {
            (Some(without), Some(total)) if total == without => false,
            (Some(without), Some(total)) if total == without.saturating_add(apart) => true,
            _ => (self.is_input_by_anthropic && !self.is_input_by_openai) || apart > input,
        };
        if is_apart { apart } else { 0 }
    }
}
