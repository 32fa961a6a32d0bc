//! All usage that one answer tells, by where it stands. Pure.
//!
//! What stands where OpenAI has it counts first, then a server's own member, then what single choices tell of themselves.

use serde_json::value::RawValue;

use super::report::Counts;
use super::{PartialUsage, Place, Reports, UsageVerdict};
use crate::meter::chat::NestedUsage;
use crate::meter::choices::{Progress, bit_of};
use crate::price::Usage;

/// What was reported so far.
#[derive(Clone, Debug, Default)]
pub(in crate::meter) struct UsageReports {
    of_all: Reports,
    /// In a server's own member.
    nested: Reports,
    /// Of single choices about themselves, by the choices' bits.
    of_choices: Vec<(u128, Reports)>,
}

impl UsageReports {
    /// Notes usage that stands where OpenAI has it.
    pub(in crate::meter) fn note(&mut self, raw: &RawValue, place: Place) {
        self.of_all.note(raw, place);
    }

    /// Notes usage in a choice, or in a server's own member. `place` is that of the object.
    pub(in crate::meter) fn note_nested(&mut self, usage: &NestedUsage<'_>, place: Place) {
        let Some(bit) = usage.choice.map(bit_of) else {
            return self.nested.note(usage.raw, place);
        };
        let place = match place {
            Place::OfAll => place,
            _ if usage.is_at_end => Place::AtTheEnd,
            _ => Place::Running,
        };
        if let Some((_, reports)) = self.of_choices.iter_mut().find(|(of, _)| *of == bit) {
            return reports.note(usage.raw, place);
        }
        let mut reports = Reports::default();
        reports.note(usage.raw, place);
        self.of_choices.push((bit, reports));
    }

    /// Text came after all reports so far: of any choice, and of these.
    pub(in crate::meter) fn text_came(&mut self, of_any: bool, of_choices: u128) {
        if of_any {
            self.of_all.text_came();
            self.nested.text_came();
        }
        for (bit, reports) in &mut self.of_choices {
            if of_choices & *bit != 0 {
                reports.text_came();
            }
        }
    }

    /// What counts. `is_done`: the answer is at its end.
    pub(in crate::meter) fn judged(
        &self,
        progress: &Progress,
        is_done: bool,
        has_text: bool,
    ) -> UsageVerdict {
        let is_of_one = progress.begun.count_ones() <= 1;
        let reports = match self.of_choices.as_slice() {
            _ if !self.of_all.is_empty() => &self.of_all,
            _ if !self.nested.is_empty() => &self.nested,
            [] => &self.of_all,
            [(_, only)] if is_of_one => only,
            all => {
                let told = all.iter().fold(0, |told, (bit, _)| told | bit);
                let judged = all
                    .iter()
                    .map(|(bit, reports)| reports.judged(is_done, progress.with_text & bit != 0));
                return of_choices(judged, told == progress.begun);
            }
        };
        reports.judged(is_done && is_of_one, has_text)
    }
}

/// What counts where each choice reports its own: one prompt for all, and the output of each. `is_complete`: none of them
/// is missing.
///
/// A server that would write the same total in each choice cannot be told from one whose choices are equally long: of the
/// two readings the dearer counts.
fn of_choices(choices: impl Iterator<Item = UsageVerdict>, is_complete: bool) -> UsageVerdict {
    let mut all = Counts::default();
    let mut least_cached = u64::MAX;
    let (mut knows_input, mut knows_output) = (false, is_complete);
    let (mut nonsense, mut has_reasoning) = (false, false);
    for judged in choices {
        nonsense |= judged.nonsense;
        has_reasoning |= judged.has_reasoning;
        let partial = judged.partial.unwrap_or_default();
        let Usage {
            input_tokens,
            cached_input_tokens,
            cache_write_tokens,
            output_tokens,
            reasoning_tokens,
            ..
        } = judged.usage.unwrap_or(partial.reported);
        let has_input = judged.usage.is_some() || partial.knows_input;
        knows_output &= judged.usage.is_some() || partial.knows_output;
        if has_input {
            knows_input = true;
            least_cached = least_cached.min(cached_input_tokens);
        }
        all.input = all.input.max(Some(input_tokens));
        all.written = all.written.max(cache_write_tokens);
        all.output = Some(all.output.unwrap_or(0).saturating_add(output_tokens));
        all.reasoning = all.reasoning.saturating_add(reasoning_tokens);
    }
    if knows_input {
        all.cached = least_cached;
    }
    let usage = all.usage();
    let is_known = knows_input && knows_output;
    let partial = usage.map(|reported| PartialUsage {
        reported,
        knows_input,
        knows_output,
    });
    UsageVerdict {
        usage: usage.filter(|_| is_known),
        partial: partial.filter(|_| !is_known),
        nonsense,
        has_reasoning,
    }
}
