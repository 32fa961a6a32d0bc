//! Reads usage and delivered text off a passing answer.
//!
//! It knows OpenAI's chat completions, streamed and whole; it does not know prices, plans or who asked. Payloads pass
//! byte for byte, the framing is ours. What the upstream says is judged strictly: a count that cannot be right is no
//! count, and the owner estimates instead. Invariant: memory is bounded whatever the upstream sends.

pub mod body;
pub mod sse;

use std::borrow::Cow;
use std::fmt;

use bytes::{BufMut, BytesMut};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use self::sse::Splitter;
use crate::error::{Code, Refusal};
use crate::price::Usage;

/// The most text that is kept for an estimate, in bytes.
pub const TEXT_BYTES_MAX: usize = 1024 * 1024;
/// The largest count of tokens that is believed.
const TOKENS_MAX: u64 = 10_000_000;
/// The longest name of a model or service tier that is kept, in characters.
const NAME_CHARS_MAX: usize = 128;
const DONE: &[u8] = b"[DONE]";

/// Why a stream failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
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
pub struct Measured {
    /// The last valid usage reported at an end; none if it was missing or cannot be right.
    pub usage: Option<Usage>,
    /// Some usage was reported that cannot be right.
    pub usage_nonsense: bool,
    /// What was generated, of all choices: content, refusals, visible reasoning, names and arguments of tool calls.
    pub text: String,
    /// There was more text than [`TEXT_BYTES_MAX`]; `text` is its beginning.
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
    /// How many events carried text.
    pub content_events: u64,
}

/// Watches one streamed answer.
#[derive(Clone, Debug)]
pub struct Meter {
    splitter: Splitter,
    watch: Watch,
}

impl Meter {
    /// A meter of a stream; `wants_usage` says whether the caller asked for the usage-only chunk.
    #[must_use]
    pub fn new(wants_usage: bool) -> Self {
        Self { splitter: Splitter::default(), watch: Watch { wants_usage, ..Watch::default() } }
    }

    /// Reads the next bytes of the upstream, and appends to `out` what the caller is to get of them.
    ///
    /// # Errors
    /// The stream is not to be read on. What was appended before is still the caller's.
    pub fn push(&mut self, chunk: &[u8], out: &mut BytesMut) -> Result<(), Fault> {
        let Self { splitter, watch } = self;
        if watch.measured.done {
            return Ok(());
        }
        splitter.push(chunk, |payload| watch.event(payload, out))
    }

    /// The upstream has ended its stream in good order. Without `[DONE]` that is an end only if every choice is
    /// finished and the usage is known, as nothing comes after that; then the `[DONE]` is added.
    ///
    /// # Errors
    /// [`Fault::Cut`], or what the last bytes say.
    pub fn finish(&mut self, out: &mut BytesMut) -> Result<(), Fault> {
        let Self { splitter, watch } = self;
        if watch.measured.done {
            return Ok(());
        }
        let last = splitter.finish(|payload| watch.event(payload, out));
        if watch.measured.done {
            return Ok(());
        }
        let is_whole = watch.measured.finished && watch.measured.usage.is_some();
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

    /// What is known so far.
    #[must_use]
    pub fn measured(&self) -> Measured {
        self.watch.measured.clone().judged()
    }

    /// What is known at the end.
    #[must_use]
    pub fn into_measured(self) -> Measured {
        self.watch.measured.judged()
    }
}

/// Reads usage and text off a whole answer.
#[must_use]
pub fn measure_json(body: &[u8]) -> Measured {
    let mut watch = Watch::default();
    if let Some(seen) = Seen::parse(body) {
        // A body that fails in the middle of its choices keeps what was read, for the estimate.
        let is_read = watch.read(&seen, true).is_ok();
        watch.measured.is_completion = is_read && seen.choices.is_some() && seen.error.is_none();
    }
    watch.measured.judged()
}

impl Measured {
    /// Output of none although there is text was not counted.
    fn judged(mut self) -> Self {
        if self.usage.is_some_and(|usage| usage.output_tokens == 0) && !self.text.is_empty() {
            self.usage = None;
            self.usage_nonsense = true;
        }
        self
    }

    fn deliver(&mut self, text: &str) {
        let room = TEXT_BYTES_MAX.saturating_sub(self.text.len());
        let fitting = text.get(..text.floor_char_boundary(room)).unwrap_or_default();
        self.text.push_str(fitting);
        self.text_overflow |= fitting.len() < text.len();
    }

    fn report(&mut self, raw: &RawValue) {
        match usage(raw) {
            Some(usage) => self.usage = Some(usage),
            None => self.usage_nonsense = true,
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Watch {
    measured: Measured,
    wants_usage: bool,
    /// One bit a choice, by its index.
    begun: u128,
    ended: u128,
}

impl Watch {
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
        let seen = Seen::parse(payload).ok_or(Fault::Nonsense)?;
        if seen.error.is_some() {
            return Err(Fault::Upstream);
        }
        let has_choices = self.read(&seen, false)?;
        self.measured.is_completion = true;
        let is_usage_only = !has_choices && seen.usage.is_some();
        if self.wants_usage || !is_usage_only {
            write_event(payload, out);
        }
        Ok(())
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
        if self.measured.text.len() > before {
            self.measured.content_events = self.measured.content_events.saturating_add(1);
        }
        self.measured.finished = self.begun != 0 && self.begun == self.ended;
        // Some servers report on every chunk what was used up to it; only at an end is that the whole.
        if let Some(raw) = seen.usage.filter(|_| is_whole || !has_choices || self.measured.finished) {
            self.measured.report(raw);
        }
        Ok(has_choices)
    }

    fn choice(&mut self, choice: &Choice<'_>) {
        let index = choice.index.and_then(|raw| raw.get().parse::<u32>().ok()).unwrap_or(0);
        let bit = 1_u128.checked_shl(index).unwrap_or(0);
        self.begun |= bit;
        if choice.finish_reason.is_some() {
            self.ended |= bit;
        }
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

/// What is looked at of a chunk or a completion. Raw, so that a strange field breaks nothing but itself.
#[derive(Deserialize)]
struct Seen<'a> {
    #[serde(borrow)]
    choices: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    service_tier: Option<&'a RawValue>,
}

impl<'a> Seen<'a> {
    /// None if it is no JSON object. (A derived struct would also take an array.)
    fn parse(json: &'a [u8]) -> Option<Self> {
        let is_object = json.trim_ascii_start().first() == Some(&b'{');
        if is_object { serde_json::from_slice(json).ok() } else { None }
    }
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    index: Option<&'a RawValue>,
    #[serde(borrow)]
    delta: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    finish_reason: Option<&'a RawValue>,
}

/// Reads choices one by one, as an event may hold very many; whether there are any.
struct Choices<'m>(&'m mut Watch);

impl<'de> DeserializeSeed<'de> for Choices<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Choices<'_> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of choices")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<bool, A::Error> {
        let mut any = false;
        while let Some(choice) = items.next_element::<Choice<'de>>()? {
            self.0.choice(&choice);
            any = true;
        }
        Ok(any)
    }
}

/// Remembers the last name said, cut to what a name may be.
fn keep(name: &mut Option<String>, raw: Option<&RawValue>) {
    let Some(said) = raw.and_then(|raw| serde_json::from_str::<Cow<'_, str>>(raw.get()).ok()) else { return };
    if !said.is_empty() && name.as_deref() != Some(said.as_ref()) {
        *name = Some(said.chars().take(NAME_CHARS_MAX).collect());
    }
}

/// OpenAI's usage, if it can be right: whole numbers that are not negative, no more than ten million, a prompt of
/// more than nothing. Parts are cut to their whole.
fn usage(raw: &RawValue) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Reported {
        prompt_tokens: u64,
        completion_tokens: u64,
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
    let said: Reported = serde_json::from_str(raw.get()).ok()?;
    let prompt = said.prompt_tokens_details.unwrap_or_default();
    let completion = said.completion_tokens_details.unwrap_or_default();
    let parts = [prompt.cached_tokens, prompt.cache_write_tokens, completion.reasoning_tokens];
    let counts = [said.prompt_tokens, said.completion_tokens].into_iter().chain(parts.into_iter().flatten());
    if said.prompt_tokens == 0 || counts.max().is_some_and(|most| most > TOKENS_MAX) {
        return None;
    }
    let cached = prompt.cached_tokens.unwrap_or(0).min(said.prompt_tokens);
    let uncached = said.prompt_tokens.saturating_sub(cached);
    Some(Usage {
        input_tokens: said.prompt_tokens,
        cached_input_tokens: cached,
        cache_write_tokens: prompt.cache_write_tokens.unwrap_or(0).min(uncached),
        output_tokens: said.completion_tokens,
        reasoning_tokens: completion.reasoning_tokens.unwrap_or(0).min(said.completion_tokens),
    })
}

/// Every string in a delta or message but those that nobody generated: so no new kind of output is free.
struct Delivered<'m>(&'m mut Measured);

impl<'de> DeserializeSeed<'de> for Delivered<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Delivered<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.deliver(text);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Delivered(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(name) = members.next_key::<Cow<'de, str>>()? {
            if matches!(name.as_ref(), "role" | "id" | "type" | "object" | "index") {
                members.next_value::<IgnoredAny>()?;
                continue;
            }
            members.next_value_seed(Delivered(self.0))?;
        }
        Ok(())
    }
}
