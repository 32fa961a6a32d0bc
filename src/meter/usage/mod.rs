//! The usage that an answer reports, once or again and again. Pure.
//!
//! A count that cannot be right is no count, and that part alone is estimated. Some servers report on every chunk what was
//! used up to it: then the last counts. Invariant: of reports that contradict each other none makes an answer cheaper
//! than another.

mod images;
pub(super) mod report;
pub(super) mod reports;
#[cfg(test)]
mod tests;

use serde_json::value::RawValue;

pub(super) use self::images::reported as image_usage;
use self::report::Counts;
use crate::price::Usage;

/// What is known of a usage of which a part is missing, or cannot be right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartialUsage {
    /// What was reported. A part that is not known is the least that it can be, as far as was reported.
    reported: Usage,
    knows_input: bool,
    knows_output: bool,
}

impl PartialUsage {
    /// A report of which a part, or both, are known.
    pub(in crate::meter) const fn of_parts(
        reported: Usage,
        knows_input: bool,
        knows_output: bool,
    ) -> Self {
        Self {
            reported,
            knows_input,
            knows_output,
        }
    }

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
        let Self {
            reported,
            knows_input,
            knows_output,
        } = *self;
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

/// What an endpoint used that generates nothing: all that its report says counts as prompt, the total among it. None where
/// that is missing, zero, or cannot be right.
#[must_use]
pub fn input_reported(raw: &RawValue) -> Option<Usage> {
    let (counts, _) = report::read(raw)?;
    let input_tokens = counts.input?.saturating_add(counts.output.unwrap_or(0));
    Some(Usage {
        input_tokens,
        cached_input_tokens: counts.cached.min(input_tokens),
        ..Usage::default()
    })
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
    /// The last one, if no text came after it.
    last: Option<Counts>,
    /// The last that was at an end, if no text came after it.
    at_the_end: Option<Counts>,
    /// The greatest of each part, wherever it was reported.
    greatest: Counts,
    /// The smallest part from the cache.
    least_cached: Option<u64>,
    nonsense: bool,
}

/// What counts of all reports.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct UsageVerdict {
    /// The usage, where every part of it is known.
    pub(super) usage: Option<Usage>,
    /// What is known of it otherwise.
    pub(super) partial: Option<PartialUsage>,
    /// Something was reported that cannot be right.
    pub(super) nonsense: bool,
    /// Reasoning was reported.
    pub(super) has_reasoning: bool,
}

impl Reports {
    /// Notes a report.
    pub(super) fn note(&mut self, raw: &RawValue, place: Place) {
        let Some((counts, is_sane)) = report::read(raw) else {
            self.nonsense |= place != Place::Running;
            return;
        };
        let shrinks = counts.is_less_than(&self.greatest);
        self.nonsense |= place != Place::Running && !is_sane;
        self.nonsense |= place == Place::OfAll && shrinks;
        self.greatest = self.greatest.each_greater(&counts);
        if counts.input.is_some() {
            self.least_cached = Some(self.least_cached.unwrap_or(u64::MAX).min(counts.cached));
        }
        // A part that cannot be right leaves what was reported of it before.
        self.last = Some(counts.or(self.last));
        if place != Place::Running {
            self.at_the_end = Some(counts.or(self.at_the_end));
        }
    }

    /// Text came after all reports so far: none of them is about the whole answer.
    pub(super) const fn text_came(&mut self) {
        self.last = None;
        self.at_the_end = None;
    }

    /// Nothing that could be read was reported.
    pub(super) fn is_empty(&self) -> bool {
        self.greatest == Counts::default()
    }

    /// What counts. `last_is_whole`: the answer is at its end, so its last report is about all of it.
    pub(super) fn judged(&self, last_is_whole: bool, has_text: bool) -> UsageVerdict {
        let has_reasoning = self.greatest.reasoning > 0;
        let last = self.at_the_end.or(self.last.filter(|_| last_is_whole));
        let Some(last) = last else {
            let partial = self.partial(self.dearest(), false);
            return UsageVerdict {
                usage: None,
                partial,
                nonsense: self.nonsense,
                has_reasoning,
            };
        };
        let contradicts = last.is_less_than(&self.greatest);
        let mut counts = if contradicts { self.dearest() } else { last };
        // What an earlier report said of the prompt stays so.
        if counts.input.is_none() {
            counts = Counts {
                output: counts.output,
                reasoning: counts.reasoning,
                ..self.dearest()
            };
        }
        let mut nonsense = self.nonsense || contradicts;
        // Output of none although there is text was not counted.
        if counts.output == Some(0) && has_text {
            counts.output = None;
        }
        let output_is_known = last.output.is_some() && counts.output.is_some();
        nonsense |= counts.input.is_none() || !output_is_known;
        match (counts.usage(), output_is_known) {
            (Some(usage), true) => UsageVerdict {
                usage: Some(usage),
                partial: None,
                nonsense,
                has_reasoning,
            },
            _ => UsageVerdict {
                usage: None,
                partial: self.partial(counts, output_is_known),
                nonsense,
                has_reasoning,
            },
        }
    }

    /// The greatest of each part, but for what came from the cache, which is cheap.
    fn dearest(&self) -> Counts {
        Counts {
            cached: self.least_cached.unwrap_or(0),
            ..self.greatest
        }
    }

    fn partial(&self, counts: Counts, knows_output: bool) -> Option<PartialUsage> {
        let knows_input = counts.input.is_some();
        let output = counts.output.or(self.greatest.output).unwrap_or(0);
        if !knows_input && output == 0 {
            return None;
        }
        let known = Counts {
            input: Some(counts.input.unwrap_or(0)),
            output: Some(output),
            ..counts
        };
        Some(PartialUsage {
            reported: known.usage()?,
            knows_input,
            knows_output,
        })
    }
}
