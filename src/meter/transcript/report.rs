//! The usage of one transcription: seconds, or tokens. Pure.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::TranscriptBound;
use crate::meter::usage::report;
use crate::meter::{Measured, PartialUsage};
use crate::price::Usage;

/// No audio of a request is longer, in seconds.
const SECONDS_MAX: f64 = 10_000_000.0;

/// A report, as far as it is not about tokens of text alone.
#[derive(Default, Deserialize)]
struct TranscriptReport<'a> {
    #[serde(borrow)]
    seconds: Option<&'a RawValue>,
    #[serde(
        borrow,
        alias = "input_tokens_details",
        alias = "prompt_tokens_details"
    )]
    input_token_details: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct InputDetails {
    text_tokens: Option<u64>,
    audio_tokens: Option<u64>,
}

/// Notes what is reported, in the unit that is paid. `has_text`: there is a transcript.
pub(super) fn note(
    raw: &RawValue,
    bound: &TranscriptBound,
    has_text: bool,
    measured: &mut Measured,
) {
    let report: TranscriptReport<'_> = serde_json::from_str(raw.get()).unwrap_or_default();
    if bound.is_paid_in_tokens() {
        note_tokens(raw, &report, (bound, has_text), measured);
        return;
    }
    let Some(told) = report.seconds else {
        return;
    };
    let seconds = seconds(told).filter(|seconds| *seconds > 0);
    measured.usage_nonsense = seconds.is_none();
    measured.usage = seconds.map(|audio_seconds| Usage {
        audio_seconds,
        ..Usage::default()
    });
}

/// Whole seconds, rounded up.
fn seconds(raw: &RawValue) -> Option<u64> {
    let seconds: f64 = serde_json::from_str(raw.get()).ok()?;
    let is_sane = (0.0..=SECONDS_MAX).contains(&seconds);
    let whole = is_sane.then(|| format!("{:.0}", seconds.ceil()))?;
    whole.parse().ok()
}

/// The prompt cannot be nothing, as there is audio, nor the answer where there is text. A part that is missing or cannot be
/// is charged as it was bound, or estimated; the other stands.
fn note_tokens(
    raw: &RawValue,
    said: &TranscriptReport<'_>,
    (bound, has_text): (&TranscriptBound, bool),
    measured: &mut Measured,
) {
    let Some((counts, is_sane)) = report::read(raw) else {
        measured.usage_nonsense = true;
        return;
    };
    let input = counts.input.filter(|input| *input > 0);
    let output = counts.output.filter(|output| *output > 0 || !has_text);
    if input.is_none() && output.is_none() {
        measured.usage_nonsense = said.seconds.is_none();
        return;
    }
    measured.usage_nonsense = !is_sane || input.is_none() || output.is_none();
    let (input_tokens, audio_input_tokens) = match input {
        Some(input) => (input, audio_of(input, said)),
        None => (bound.input_tokens, bound.audio_tokens),
    };
    let usage = Usage {
        input_tokens,
        audio_input_tokens,
        output_tokens: output.unwrap_or(0),
        audio_seconds: bound.seconds,
        ..Usage::default()
    };
    if output.is_some() {
        measured.usage = Some(usage);
    } else {
        measured.partial_usage = Some(PartialUsage::of_parts(usage, true, false));
    }
}

/// Of the input, what is not said to be text: audio is dearer.
fn audio_of(input: u64, said: &TranscriptReport<'_>) -> u64 {
    let details = said
        .input_token_details
        .and_then(|details| serde_json::from_str::<InputDetails>(details.get()).ok())
        .unwrap_or_default();
    let text = details.text_tokens.unwrap_or(0);
    let audio = details.audio_tokens.unwrap_or(0);
    input.saturating_sub(text).max(audio).min(input)
}
