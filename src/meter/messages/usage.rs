//! The usage that an answer of Anthropic's API reports: at its beginning for the prompt, at its end for all of it. Pure.
//!
//! The whole prompt is `input_tokens` and what the cache read and wrote, each at a price of its own. A later report counts
//! in place of an earlier one, and never makes an answer cheaper than that said.

use serde_json::Value;

use crate::meter::PartialUsage;
use crate::price::Usage;

/// The largest count of tokens that is believed.
const TOKENS_MAX: u64 = 10_000_000;

/// What was reported so far, the greatest of each part.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReportedUsage {
    /// The prompt without what the cache did.
    input: Option<u64>,
    read: u64,
    /// Written to the cache in all, and of that for an hour and for five minutes, where that is told.
    written: u64,
    written_1h: Option<u64>,
    written_5m: Option<u64>,
    output: Option<u64>,
    /// Of the output.
    thinking: u64,
    /// No text came after the last report of the output, and the answer was at its end.
    knows_output: bool,
    is_nonsense: bool,
}

impl ReportedUsage {
    /// Notes a report. `is_at_end`: it is about the whole answer.
    pub(super) fn note(&mut self, usage: &Value, is_at_end: bool) {
        if usage.is_null() {
            return;
        }
        if !usage.is_object() {
            self.is_nonsense = true;
            return;
        }
        let input = self.count(usage, "/input_tokens");
        self.input = self.greater(self.input, input);
        let read = self.count(usage, "/cache_read_input_tokens");
        self.read = self.greater(Some(self.read), read).unwrap_or(0);
        let written = self.count(usage, "/cache_creation_input_tokens");
        self.written = self.greater(Some(self.written), written).unwrap_or(0);
        let of_hour = self.count(usage, "/cache_creation/ephemeral_1h_input_tokens");
        self.written_1h = self.greater(self.written_1h, of_hour);
        let of_minutes = self.count(usage, "/cache_creation/ephemeral_5m_input_tokens");
        self.written_5m = self.greater(self.written_5m, of_minutes);
        let thinking = self.count(usage, "/output_tokens_details/thinking_tokens");
        self.thinking = self.greater(Some(self.thinking), thinking).unwrap_or(0);
        let output = self.count(usage, "/output_tokens");
        self.output = self.greater(self.output, output);
        self.knows_output |= is_at_end && output.is_some();
        self.is_nonsense |= is_at_end && output.is_none();
    }

    /// More was generated after all reports so far.
    pub(super) const fn text_came(&mut self) {
        self.knows_output = false;
    }

    fn count(&mut self, usage: &Value, path: &str) -> Option<u64> {
        let value = usage.pointer(path).filter(|value| !value.is_null())?;
        let count = value.as_u64().filter(|count| *count <= TOKENS_MAX);
        self.is_nonsense |= count.is_none();
        count
    }

    fn greater(&mut self, before: Option<u64>, now: Option<u64>) -> Option<u64> {
        self.is_nonsense |= now.is_some() && now < before;
        before.max(now)
    }

    /// What counts, whole or in part, and whether something cannot be right. `asks_hour`: the request has something kept for
    /// an hour, so what is not told apart was written for that.
    pub(super) fn judged(
        &self,
        asks_hour: bool,
        has_text: bool,
    ) -> (Option<Usage>, Option<PartialUsage>, bool) {
        let told = [self.written_1h, self.written_5m].into_iter().flatten();
        let told = told.fold(0, u64::saturating_add);
        let written = self.written.max(told);
        let untold = written.saturating_sub(told);
        let untold_1h = if asks_hour { untold } else { 0 };
        let written_1h = self.written_1h.unwrap_or(0).saturating_add(untold_1h);
        let mut nonsense = self.is_nonsense || (told > 0 && told != self.written);
        let prompt = self
            .input
            .map(|input| input.saturating_add(self.read).saturating_add(written))
            .filter(|prompt| *prompt > 0);
        nonsense |= self.input.is_some() && prompt.is_none();
        let output = self.output.filter(|output| *output > 0 || !has_text);
        let knows_output = self.knows_output && output.is_some();
        nonsense |= self.knows_output && !knows_output;
        let reported = Usage {
            input_tokens: prompt.unwrap_or(0),
            cached_input_tokens: self.read,
            cache_write_tokens: written.saturating_sub(written_1h),
            cache_write_1h_tokens: written_1h,
            output_tokens: output.unwrap_or(0),
            reasoning_tokens: self.thinking.min(output.unwrap_or(0)),
            ..Usage::default()
        };
        if prompt.is_some() && knows_output {
            return (Some(reported), None, nonsense);
        }
        let is_something = prompt.is_some() || output.is_some_and(|output| output > 0);
        let partial =
            is_something.then(|| PartialUsage::of_parts(reported, prompt.is_some(), knows_output));
        (None, partial, nonsense)
    }
}
