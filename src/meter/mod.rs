//! Reads usage and delivered text off a passing answer.
//!
//! It knows OpenAI's chat completions, streamed and whole; it does not know prices, plans or who asked. Payloads pass
//! byte for byte, the framing is ours. What the upstream says is judged strictly: a count that cannot be right is no
//! count, and the owner estimates instead. Invariant: memory is bounded whatever the upstream sends.

pub mod body;
mod chat;
pub mod compressed;
pub mod sse;
mod usage;
pub mod whole;

use bytes::{BufMut, BytesMut};
use serde::de::DeserializeSeed;
use serde_json::value::RawValue;

use self::chat::{Choice, Choices, Delivered, Pass, Seen, keep};
use self::compressed::Start;
use self::sse::Splitter;
pub use self::usage::PartialUsage;
use self::usage::{Place, Reports};
use crate::error::{Code, Refusal};
use crate::price::Usage;

/// The most text that is kept for an estimate, in bytes.
pub const TEXT_BYTES_MAX: usize = 1024 * 1024;
const DONE: &[u8] = b"[DONE]";

/// Why a stream failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is compressed, and does not say so.
    Compressed,
    /// An event longer than [`sse::EVENT_BYTES_MAX`].
    EventTooLarge,
    /// More than [`sse::NOISE_BYTES_MAX`] of comments and the like without an event.
    Noise,
    /// A payload that is no JSON object, or whose `choices` are none.
    Nonsense,
    /// The upstream said that it failed, by an event with an `error`.
    Upstream,
    /// The connection broke.
    Broken,
    /// It ended before its end was told.
    Cut,
    /// No byte for `idle_timeout`.
    Idle,
    /// Not at its end by the deadline.
    Deadline,
}

impl Fault {
    /// What the caller is told.
    #[must_use]
    pub fn refusal(self) -> Refusal {
        match self {
            Self::Idle | Self::Deadline => {
                Refusal::new(Code::UpstreamTimeout, "The model's provider did not finish in time.")
            }
            _ => Refusal::new(Code::UpstreamError, "The model's provider failed in mid-answer."),
        }
    }

    /// A word for logs and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Compressed => "compressed",
            Self::EventTooLarge => "event_too_large",
            Self::Noise => "noise",
            Self::Nonsense => "nonsense",
            Self::Upstream => "upstream",
            Self::Broken => "broken",
            Self::Cut => "cut",
            Self::Idle => "idle",
            Self::Deadline => "deadline",
        }
    }
}

/// What an answer said of itself, and what of it was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts, each asked for by itself")]
pub struct Measured {
    /// The last valid usage reported at an end, or the greatest of several that contradict each other; none if it was
    /// missing or cannot be right.
    pub usage: Option<Usage>,
    /// Without a whole usage: what was reported of it, to be completed by an estimate.
    pub partial_usage: Option<PartialUsage>,
    /// Some usage was reported that cannot be right, whole or in part.
    pub usage_nonsense: bool,
    /// What was generated, of all choices: content, refusals, visible reasoning, names and arguments of tool calls.
    pub text: String,
    /// There was more text than [`TEXT_BYTES_MAX`], or it cannot be read; `text` is its beginning.
    pub text_overflow: bool,
    /// The model that the upstream says it used.
    pub model: Option<String>,
    /// The service tier that the upstream says it used.
    pub service_tier: Option<String>,
    /// Every choice that began has a `finish_reason`, and there is one.
    pub finished: bool,
    /// `[DONE]` was seen.
    pub done: bool,
    /// It is a chat completion: an object with `choices`.
    pub is_completion: bool,
    /// The upstream said that it failed, in whatever shape. Without `text` and usage it failed before any content.
    pub is_error: bool,
    /// A choice ended because a cap was reached: more may have been generated than was shown.
    pub cap_reached: bool,
    /// A choice ended because its output was filtered: more may have been generated than was shown.
    pub filtered: bool,
    /// Some reasoning was done that is not in `text`: it was reported in tokens, or shown encrypted or as a summary. An
    /// estimate by `text` would be too low.
    pub hidden_reasoning: bool,
    /// How many events carried text; with 0 nothing that was generated was delivered.
    pub content_events: u64,
}

/// Watches one streamed answer.
#[derive(Clone, Debug)]
pub struct Meter {
    start: Start,
    splitter: Splitter,
    watch: Watch,
}

impl Meter {
    /// A meter of a stream; `wants_usage` says whether the caller asked for the usage-only chunk.
    #[must_use]
    pub fn new(wants_usage: bool) -> Self {
        let watch = Watch { wants_usage, ..Watch::default() };
        Self { start: Start::default(), splitter: Splitter::default(), watch }
    }

    /// Reads the next bytes of the upstream, and appends to `out` what the caller is to get of them.
    ///
    /// # Errors
    /// The stream is not to be read on. What was appended before is still the caller's.
    pub fn push(&mut self, chunk: &[u8], out: &mut BytesMut) -> Result<(), Fault> {
        let Self { start, splitter, watch } = self;
        if watch.measured.done {
            return Ok(());
        }
        if start.is_compressed_with(chunk) {
            watch.measured.text_overflow = true;
            return Err(Fault::Compressed);
        }
        splitter.push(chunk, |payload| watch.event(payload, out))
    }

    /// The upstream has ended its stream in good order. Without `[DONE]` that is an end only if every choice is
    /// finished and the usage is known, as nothing comes after that; then the `[DONE]` is added.
    ///
    /// # Errors
    /// [`Fault::Cut`], or what the last bytes say.
    pub fn finish(&mut self, out: &mut BytesMut) -> Result<(), Fault> {
        let Self { splitter, watch, .. } = self;
        if watch.measured.done {
            return Ok(());
        }
        let last = splitter.finish(|payload| watch.event(payload, out));
        if watch.measured.done {
            return Ok(());
        }
        let is_whole = watch.measured.finished && watch.reports.is_there();
        if !is_whole {
            return Err(if last == Err(Fault::Upstream) { Fault::Upstream } else { Fault::Cut });
        }
        last?;
        watch.event(DONE, out)
    }

    /// `[DONE]` has passed.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.watch.measured.done
    }

    /// How many bytes it holds.
    #[must_use]
    pub fn bytes_held(&self) -> usize {
        self.splitter.held().saturating_add(self.watch.measured.text.capacity())
    }

    /// What is known so far.
    #[must_use]
    pub fn measured(&self) -> Measured {
        self.watch.clone().judged()
    }

    /// What is known at the end.
    #[must_use]
    pub fn into_measured(self) -> Measured {
        self.watch.judged()
    }
}

/// Reads usage and text off a whole answer.
#[must_use]
pub fn measure_json(body: &[u8]) -> Measured {
    let mut watch = Watch::default();
    if let Some(pass) = watch.pass(body, true) {
        watch.measured.is_completion = pass.is_completion;
    } else if let Some(seen) = Seen::parse(body) {
        // A body that fails in the middle of its choices keeps what was read, for the estimate.
        let is_read = watch.read(&seen, true).is_ok();
        watch.measured.is_completion = is_read && seen.choices.is_some() && seen.error.is_none();
    }
    watch.judged()
}

impl Measured {
    fn deliver(&mut self, text: &str) {
        let room = TEXT_BYTES_MAX.saturating_sub(self.text.len());
        let fitting = text.get(..text.floor_char_boundary(room)).unwrap_or_default();
        self.text.push_str(fitting);
        self.text_overflow |= fitting.len() < text.len();
    }
}

#[derive(Clone, Debug, Default)]
struct Watch {
    /// But for the usage, which is judged at the end.
    measured: Measured,
    reports: Reports,
    wants_usage: bool,
    /// One bit a choice, by its index.
    begun: u128,
    ended: u128,
}

impl Watch {
    fn judged(self) -> Measured {
        let Self { mut measured, reports, .. } = self;
        (measured.usage, measured.usage_nonsense) = reports.judged();
        // Output of none although there is text was not counted.
        if measured.usage.is_some_and(|usage| usage.output_tokens == 0) && !measured.text.is_empty() {
            measured.usage = None;
            measured.usage_nonsense = true;
        }
        measured
    }

    /// One event: what it says is noted, and it is passed on unless it is not for the caller.
    fn event(&mut self, payload: &[u8], out: &mut BytesMut) -> Result<(), Fault> {
        if self.measured.done {
            return Ok(());
        }
        if payload.trim_ascii() == DONE {
            self.measured.done = true;
            write_event(DONE, out);
            return Ok(());
        }
        let is_usage_only = match self.pass(payload, false) {
            Some(pass) => !pass.has_choices && pass.usage.is_some(),
            None => self.layers(payload)?,
        };
        self.measured.is_completion = true;
        if self.wants_usage || !is_usage_only {
            write_event(payload, out);
        }
        Ok(())
    }

    /// Notes what an object says, in one pass. With `None` nothing is noted: it is to be read in layers.
    fn pass<'a>(&mut self, json: &'a [u8], is_whole: bool) -> Option<Pass<'a>> {
        let before = (self.measured.text.len(), self.measured.text_overflow, self.begun, self.ended);
        let Some(pass) = Pass::read(json, self) else {
            self.measured.text.truncate(before.0);
            (_, self.measured.text_overflow, self.begun, self.ended) = before;
            return None;
        };
        keep(&mut self.measured.model, pass.model);
        keep(&mut self.measured.service_tier, pass.service_tier);
        self.noted(before.0, pass.usage, is_whole || !pass.has_choices);
        Some(pass)
    }

    /// Notes what a strange event says, field by field; whether it is nothing but usage.
    fn layers(&mut self, payload: &[u8]) -> Result<bool, Fault> {
        let seen = Seen::parse(payload).ok_or(Fault::Nonsense)?;
        if seen.error.is_some() {
            return Err(Fault::Upstream);
        }
        Ok(!self.read(&seen, false)? && seen.usage.is_some())
    }

    /// Notes what an object says, which may be the whole answer; whether it has choices.
    fn read(&mut self, seen: &Seen<'_>, is_whole: bool) -> Result<bool, Fault> {
        keep(&mut self.measured.model, seen.model);
        keep(&mut self.measured.service_tier, seen.service_tier);
        let before = self.measured.text.len();
        let mut has_choices = false;
        if let Some(raw) = seen.choices {
            let mut reader = serde_json::Deserializer::from_str(raw.get());
            has_choices = Choices(self).deserialize(&mut reader).map_err(|_| Fault::Nonsense)?;
        }
        self.noted(before, seen.usage, is_whole || !has_choices);
        Ok(has_choices)
    }

    const fn is_finished(&self) -> bool {
        self.begun != 0 && self.begun == self.ended
    }

    /// All of an object is noted, and the text before it was so long. `is_of_all`: its usage is about the whole answer.
    fn noted(&mut self, text_before: usize, usage: Option<&RawValue>, is_of_all: bool) {
        if self.measured.text.len() > text_before {
            self.measured.content_events = self.measured.content_events.saturating_add(1);
        }
        self.measured.finished = self.is_finished();
        let place = match (is_of_all, self.measured.finished) {
            (true, _) => Place::OfAll,
            (false, true) => Place::AtTheEnd,
            (false, false) => Place::Running,
        };
        if let Some(raw) = usage {
            self.reports.note(raw, place);
        }
    }

    fn begin(&mut self, index: Option<&RawValue>, has_ended: bool) {
        let index = index.and_then(|raw| raw.get().parse::<u32>().ok()).unwrap_or(0);
        let bit = 1_u128.checked_shl(index).unwrap_or(0);
        self.begun |= bit;
        if has_ended {
            self.ended |= bit;
        }
    }

    fn choice(&mut self, choice: &Choice<'_>) {
        self.begin(choice.index, choice.finish_reason.is_some());
        for raw in [choice.delta, choice.message, choice.text].into_iter().flatten() {
            let mut reader = serde_json::Deserializer::from_str(raw.get());
            // What cannot be read (a lone surrogate) still costs: its raw form is longer than the text it stands for.
            if Delivered(&mut self.measured).deserialize(&mut reader).is_err() {
                self.measured.deliver(raw.get());
            }
        }
    }
}

/// `data: …` and an empty line; a payload of several lines takes several `data` lines.
fn write_event(payload: &[u8], out: &mut BytesMut) {
    for line in payload.split(|byte| *byte == b'\n') {
        out.reserve(line.len().saturating_add(8));
        out.put_slice(b"data: ");
        out.put_slice(line);
        out.put_slice(b"\n");
    }
    out.put_slice(b"\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WHOLE: &str = concat!(
        "\u{feff}",
        r#"data: {"model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#,
        "\r\n\r\n",
        ": hi\n\nevent: message\rid: 7\r",
        r#"data:{"service_tier":"default","choices":[{"index":0,"delta":{"content":"Grüße "}}],"usage":null}"#,
        "\r\r",
        "data: {\"choices\":\r\ndata: [{\"index\":0,\"delta\":{\"content\":\"Welt\"},\"finish_reason\":\"stop\"}]}\n\n",
        r#"data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13}}"#,
        "\n\n",
        "data:[DONE]\n\n",
        "data: after the end\n\n",
    );

    const PASSED: &str = concat!(
        r#"data: {"model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#,
        "\n\n",
        r#"data: {"service_tier":"default","choices":[{"index":0,"delta":{"content":"Grüße "}}],"usage":null}"#,
        "\n\n",
        "data: {\"choices\":\ndata: [{\"index\":0,\"delta\":{\"content\":\"Welt\"},\"finish_reason\":\"stop\"}]}\n\n",
        "data: [DONE]\n\n",
    );

    fn meter_all<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> (Result<(), Fault>, String, Measured) {
        let mut meter = Meter::new(false);
        let mut out = BytesMut::new();
        let outcome = parts.into_iter().try_for_each(|part| meter.push(part, &mut out));
        (outcome, String::from_utf8(out.to_vec()).unwrap(), meter.into_measured())
    }

    fn one(payload: &str) -> (Result<(), Fault>, String, Measured) {
        meter_all([format!("data: {payload}\n\n").as_bytes()])
    }

    fn event(text: &str) -> String {
        format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n")
    }

    #[test]
    fn payloads_pass_as_they_are_in_our_framing() {
        let (outcome, out, measured) = meter_all([WHOLE.as_bytes()]);
        assert_eq!(outcome, Ok(()));
        assert_eq!(out, PASSED);
        let usage = Usage { input_tokens: 9, output_tokens: 4, ..Usage::default() };
        let wanted = Measured {
            usage: Some(usage),
            text: "Grüße Welt".to_owned(),
            model: Some("gpt-4o-mini-2024-07-18".to_owned()),
            service_tier: Some("default".to_owned()),
            finished: true,
            done: true,
            is_completion: true,
            content_events: 2,
            ..Measured::default()
        };
        assert_eq!(measured, wanted);
    }

    #[test]
    fn a_stream_split_at_any_byte_is_the_same_stream() {
        let whole = meter_all([WHOLE.as_bytes()]);
        for at in 0..=WHOLE.len() {
            let (start, end) = WHOLE.as_bytes().split_at(at);
            assert_eq!(meter_all([start, end]), whole, "split at {at}");
        }
        assert_eq!(meter_all(WHOLE.as_bytes().chunks(1)), whole);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_parts_are_the_same_stream(
            bytes in proptest::collection::vec(prop_oneof![
                Just(b'\n'), Just(b'\r'), Just(b':'), Just(b'd'), Just(b' '), any::<u8>()
            ], 0..300),
            size in 1_usize..40,
        ) {
            prop_assert_eq!(meter_all([bytes.as_slice()]), meter_all(bytes.chunks(size)));
        }

        #[test]
        fn text_passes_byte_for_byte_in_any_parts(text in "[^\"\\\\\u{0}-\u{1f}]{0,60}", size in 1_usize..40) {
            let stream = event(&text);
            let (outcome, out, measured) = meter_all(stream.as_bytes().chunks(size));
            prop_assert_eq!(outcome, Ok(()));
            prop_assert_eq!(out, stream);
            prop_assert_eq!(measured.text, text);
        }
    }

    #[test]
    fn the_usage_chunk_passes_only_to_a_caller_who_asked() {
        let stream = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}\n\n";
        for (wants_usage, wanted) in [(true, stream), (false, "")] {
            let mut out = BytesMut::new();
            Meter::new(wants_usage).push(stream.as_bytes(), &mut out).unwrap();
            assert_eq!(out, wanted);
        }
        // What has no choices and no usage is something else, and passes.
        assert_ne!(one(r#"{"choices":[],"prompt_filter_results":[]}"#).1, "");
    }

    #[test]
    fn an_event_of_a_mebibyte_is_cut_and_one_below_passes() {
        let (outcome, out, _) = meter_all([event(&"a".repeat(sse::EVENT_BYTES_MAX - 100)).as_bytes()]);
        assert_eq!((outcome, out.len() > sse::EVENT_BYTES_MAX - 100), (Ok(()), true));
        let line = [b"data: ".as_slice(), &vec![b'a'; sse::EVENT_BYTES_MAX]].concat();
        assert_eq!(meter_all(line.chunks(1000)).0, Err(Fault::EventTooLarge), "an unbroken line");
        let lines = b"data: a\n".repeat(sse::EVENT_BYTES_MAX / 2);
        assert_eq!(meter_all(lines.chunks(1000)).0, Err(Fault::EventTooLarge), "many lines");
    }

    #[test]
    fn noise_without_end_is_cut_with_memory_flat() {
        let flood = sse::NOISE_BYTES_MAX + 1;
        let floods = [
            vec![b'\n'; flood],
            vec![b':'; flood],
            vec![b'x'; flood],
            b": comment\n\n".repeat(flood / 10),
            b"data:\n\n".repeat(flood / 2),
            b"data\n".repeat(flood / 4),
            b"event: x\r\n".repeat(flood / 8),
        ];
        for bytes in floods {
            let mut splitter = Splitter::default();
            let outcome = bytes.chunks(100).try_for_each(|part| splitter.push(part, |_| Ok(())));
            assert_eq!(outcome, Err(Fault::Noise));
            assert!(splitter.held() < 1000, "{} bytes held", splitter.held());
        }
        let slow = format!("{}{}", ": c\n\n".repeat(9000), event("a")).repeat(9);
        assert_eq!(meter_all([slow.as_bytes()]).0, Ok(()), "an event starts anew");
    }

    #[test]
    fn what_is_no_chunk_is_not_passed() {
        let cases = [
            ("nonsense", Fault::Nonsense),
            ("[null,null,null,null,null]", Fault::Nonsense),
            ("{\"choices\":", Fault::Nonsense),
            (r#"{"choices":"abc"}"#, Fault::Nonsense),
            (r#"{"choices":[7]}"#, Fault::Nonsense),
            (r#"{"error":{"message":"key sk-1 is over"}}"#, Fault::Upstream),
            (r#"{"choices":[],"error":"org-1"}"#, Fault::Upstream),
        ];
        for (payload, fault) in cases {
            let (outcome, out, _) = one(payload);
            assert_eq!((outcome, out.as_str()), (Err(fault), ""), "{payload}");
        }
        assert_eq!(one(r#"{"error":null,"choices":[]}"#).0, Ok(()));
        assert_eq!(meter_all([b"data: \xff\n\n".as_slice()]).0, Err(Fault::Nonsense));
    }

    #[test]
    fn a_stream_ends_at_done_or_when_nothing_can_be_missing() {
        let text = event("a");
        let stop = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
        let other = "data: {\"choices\":[{\"index\":1,\"delta\":{\"content\":\"b\"}}]}\n\n";
        let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}\n\n";
        let cases = [
            (String::new(), Err(Fault::Cut)),
            (text.clone(), Err(Fault::Cut)),
            (format!("{text}{stop}"), Err(Fault::Cut)),
            (format!("{text}{usage}"), Err(Fault::Cut)),
            (format!("{text}{other}{stop}{usage}"), Err(Fault::Cut)),
            (format!("{text}{stop}{usage}data: {{\"cho"), Err(Fault::Nonsense)),
            (format!("{text}data: {{\"error\":{{}}}}"), Err(Fault::Upstream)),
            (format!("{text}{stop}{usage}"), Ok(())),
            (format!("{text}{stop}{}", usage.trim_end()), Ok(())),
            (format!("{text}data: [DONE]"), Ok(())),
        ];
        for (stream, wanted) in cases {
            let mut meter = Meter::new(false);
            let mut out = BytesMut::new();
            meter.push(stream.as_bytes(), &mut out).unwrap();
            assert!(!meter.is_done());
            assert_eq!(meter.finish(&mut out), wanted, "{stream}");
            assert_eq!((meter.is_done(), out.ends_with(b"data: [DONE]\n\n")), (wanted.is_ok(), wanted.is_ok()));
        }
    }

    #[test]
    fn all_that_was_generated_is_text() {
        let (outcome, _, measured) = one(
            r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":"a","refusal":"b","reasoning_content":"c",
            "reasoning":"d","new_kind":[{"type":"x","deep":{"text":"e"}}],"n":1,"tool_calls":[{"index":0,"id":"call_1",
            "type":"function","function":{"name":"f","arguments":"{\"g\":1}"}}]},"logprobs":{"content":["no"]}},
            {"index":1,"delta":{"content":"h"}}]}"#
                .replace('\n', "")
                .as_str(),
        );
        assert_eq!((outcome, measured.text.as_str()), (Ok(()), r#"abcdef{"g":1}h"#));
        let half = r#"{"choices":[{"delta":{"content":"half \ud800"}}]}"#;
        let (outcome, out, measured) = one(half);
        assert_eq!((outcome, out), (Ok(()), format!("data: {half}\n\n")), "a lone surrogate passes");
        assert!(measured.text.contains("half"), "and is counted");
    }

    #[test]
    fn text_is_kept_up_to_a_bound() {
        let part = event(&"é".repeat(300_000));
        let (outcome, _, measured) = meter_all([part.as_bytes(), part.as_bytes()]);
        assert_eq!(outcome, Ok(()));
        assert!(measured.text_overflow);
        assert_eq!(measured.text.len(), TEXT_BYTES_MAX);
        let (_, _, measured) = one(&format!(r#"{{"model":"{}","choices":[]}}"#, "m".repeat(9999)));
        assert_eq!(measured.model.unwrap().len(), 128);
    }

    #[test]
    fn usage_that_cannot_be_right_is_no_usage() {
        let good = |usage: &str| {
            let text = r#"{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}],"usage":"#;
            let (outcome, _, measured) = one(&format!("{text}{usage}}}"));
            assert_eq!(outcome, Ok(()), "usage never breaks a stream");
            assert_eq!(measured.usage.is_some(), !measured.usage_nonsense, "{usage}");
            let whole = measure_json(format!("{}{usage}}}", text.replace("delta", "message")).as_bytes());
            assert_eq!((whole.usage, whole.is_completion), (measured.usage, true), "{usage}");
            measured.usage
        };
        let nonsense = [
            r#"{"prompt_tokens":-1,"completion_tokens":1}"#,
            r#"{"prompt_tokens":1.0,"completion_tokens":1}"#,
            r#"{"prompt_tokens":1,"completion_tokens":1e3}"#,
            r#"{"prompt_tokens":"1","completion_tokens":1}"#,
            r#"{"prompt_tokens":1}"#,
            r#"{"completion_tokens":1}"#,
            r#"{"prompt_tokens":0,"completion_tokens":1}"#,
            r#"{"prompt_tokens":1,"completion_tokens":0}"#,
            r#"{"prompt_tokens":10000001,"completion_tokens":1}"#,
            r#"{"prompt_tokens":1,"completion_tokens":18446744073709551616}"#,
            r#"{"prompt_tokens":1,"completion_tokens":1,"prompt_tokens":1}"#,
            r#"{"prompt_tokens":1,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":-1}}"#,
            "[1,1]",
            "\"none\"",
            "{}",
        ];
        for usage in nonsense {
            assert_eq!(good(usage), None, "{usage}");
        }
        let details = r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":8,
            "cache_write_tokens":9,"audio_tokens":null},"completion_tokens_details":{"reasoning_tokens":6}}"#;
        let usage = Usage {
            input_tokens: 10,
            cached_input_tokens: 8,
            cache_write_tokens: 2,
            output_tokens: 5,
            reasoning_tokens: 5,
        };
        assert_eq!(good(&details.replace('\n', "")), Some(usage));
        assert!(good(r#"{"prompt_tokens":10000000,"completion_tokens":1,"prompt_tokens_details":null}"#).is_some());
    }

    #[test]
    fn the_last_valid_usage_at_an_end_counts() {
        let usage = |choices: &str, tokens: &str| {
            format!(
                "data: {{\"choices\":[{choices}],\"usage\":{{\"prompt_tokens\":3,\"completion_tokens\":{tokens}}}}}\n\n"
            )
        };
        let running = r#"{"index":0,"delta":{"content":"a"}}"#;
        let ended = r#"{"index":0,"delta":{},"finish_reason":"stop"}"#;
        let cases = [
            (vec![usage(running, "1")], None),
            (vec![usage(running, "1"), usage(ended, "2")], Some(2)),
            (vec![usage(ended, "2"), usage("", "7")], Some(7)),
            (vec![usage(ended, "2"), usage("", "-7")], Some(2)),
        ];
        for (events, wanted) in cases {
            let (_, _, measured) = meter_all([events.concat().as_bytes()]);
            assert_eq!(measured.usage.map(|usage| usage.output_tokens), wanted);
        }
    }

    #[test]
    fn an_answer_that_is_no_completion_is_told_apart() {
        for body in ["", "[]", "{}", "<html>", r#"{"choices":{}}"#, r#"{"error":{},"choices":[]}"#] {
            assert!(!measure_json(body.as_bytes()).is_completion, "{body}");
        }
    }
}
