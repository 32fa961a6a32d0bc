//! The shapes of OpenAI's chat completions, and of what compatible servers make of them, as far as the meter looks. Pure.
//!
//! An object is read in one pass, without building a tree: every event of every stream comes through here. A member of a
//! strange type breaks nothing but itself. What is no JSON ends the pass, and [`Watch`] undoes what was noted.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::lenient::{CountSeed, SaysSomething, Text, is_blank};
use super::text::TextSeed;
use super::watch::Watch;

/// The longest name of a model or service tier that is kept, in characters.
const NAME_CHARS_MAX: usize = 128;

/// What an object said. Its choices are noted already.
#[derive(Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent facts of an object"
)]
pub(super) struct ObjectFacts<'a> {
    /// There is a list of choices.
    pub(super) is_completion: bool,
    /// There is a choice in it.
    pub(super) has_choices: bool,
    /// A choice has a `message`, as a whole answer has it, and no `delta`.
    pub(super) has_message: bool,
    /// The upstream says that it failed.
    pub(super) is_error: bool,
    /// The usage, if it is said.
    pub(super) usage: Option<&'a RawValue>,
    /// More of it, where it is said more than once.
    pub(super) usage_again: Vec<&'a RawValue>,
    /// Usage in a choice or in a server's own member. It counts where there is no other.
    pub(super) nested_usage: Vec<NestedUsage<'a>>,
}

/// Usage that does not stand where OpenAI has it.
pub(super) struct NestedUsage<'a> {
    pub(super) raw: &'a RawValue,
    /// The choice in which it stands, by its index: it is about that one. None is about all.
    pub(super) choice: Option<u64>,
    /// The choice ends there.
    pub(super) is_at_end: bool,
}

impl<'a> NestedUsage<'a> {
    const fn of_all(raw: &'a RawValue) -> Self {
        Self {
            raw,
            choice: None,
            is_at_end: false,
        }
    }
}

impl<'a> ObjectFacts<'a> {
    /// Reads an object and notes its choices in `watch`. On `None` it may have noted any of them.
    pub(super) fn read(json: &'a str, watch: &mut Watch) -> Option<Self> {
        let mut reader = serde_json::Deserializer::from_str(json);
        let seen = reader.deserialize_any(Object(watch)).ok()?;
        reader.end().ok()?;
        Some(seen)
    }

    fn usage_said(&mut self, raw: Option<&'a RawValue>) {
        if let Some(raw) = raw
            && let Some(before) = self.usage.replace(raw)
        {
            self.usage_again.push(before);
        }
    }
}

struct Object<'m>(&'m mut Watch);

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Field {
    Choices,
    Usage,
    Error,
    Model,
    ServiceTier,
    /// Both may say `error`.
    #[serde(alias = "type")]
    Object,
    Message,
    #[serde(alias = "status", alias = "status_code", alias = "statusCode")]
    Code,
    #[serde(alias = "errors")]
    Detail,
    XGroq,
    #[serde(other)]
    Other,
}

/// What stands in an error that has no `error`.
#[derive(Default)]
struct BareError {
    has_message: bool,
    has_code: bool,
    has_detail: bool,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = ObjectFacts<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ObjectFacts<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    /// Some servers tell an error in a list.
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut is_error = false;
        while let Some(seen) = items.next_element_seed(Object(self.0))? {
            is_error |= seen.is_error;
        }
        if is_error {
            Ok(ObjectFacts {
                is_error,
                ..ObjectFacts::default()
            })
        } else {
            Err(A::Error::custom("a list of no errors"))
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let Self(watch) = self;
        let mut seen = ObjectFacts::default();
        let mut bare = BareError::default();
        while let Some(field) = members.next_key::<Field>()? {
            match field {
                Field::Choices => members.next_value_seed(Choices {
                    watch,
                    seen: &mut seen,
                })?,
                Field::Usage => seen.usage_said(members.next_value()?),
                Field::Model => {
                    members.next_value_seed(Text(|name: &str| {
                        keep(&mut watch.measured.model, name);
                    }))?;
                }
                Field::ServiceTier => {
                    members.next_value_seed(Text(|name: &str| {
                        keep(&mut watch.measured.service_tier, name);
                    }))?;
                }
                Field::Object => {
                    seen.is_error |=
                        members.next_value_seed(Text(|kind: &str| kind == "error"))? == Some(true);
                }
                Field::Error => seen.is_error |= members.next_value_seed(SaysSomething)?,
                Field::Message => bare.has_message |= members.next_value_seed(SaysSomething)?,
                Field::Detail => bare.has_detail |= members.next_value_seed(SaysSomething)?,
                Field::Code => {
                    members.next_value::<IgnoredAny>()?;
                    bare.has_code = true;
                }
                Field::XGroq => of_groq(members.next_value()?, &mut seen),
                Field::Other => {
                    members.next_value::<IgnoredAny>()?;
                }
            }
        }
        let is_bare = bare.has_detail || (bare.has_message && bare.has_code);
        seen.is_error |= is_bare && !seen.has_choices && seen.usage.is_none();
        Ok(seen)
    }
}

/// Groq's own member: usage on the last chunk, or why the stream stopped.
fn of_groq<'a>(raw: &'a RawValue, seen: &mut ObjectFacts<'a>) {
    #[derive(Deserialize)]
    struct Groq<'b> {
        #[serde(borrow)]
        usage: Option<&'b RawValue>,
        #[serde(borrow)]
        error: Option<&'b RawValue>,
    }
    let Ok(Groq { usage, error }) = serde_json::from_str::<Groq<'_>>(raw.get()) else {
        return;
    };
    seen.nested_usage.extend(usage.map(NestedUsage::of_all));
    let says = |error: &RawValue| {
        SaysSomething.deserialize(&mut serde_json::Deserializer::from_str(error.get()))
    };
    seen.is_error |= error.is_some_and(|error| says(error).unwrap_or(true));
}

/// The name in a value, if it is one.
#[must_use]
pub fn name_reported(raw: &RawValue) -> Option<String> {
    let mut name = None;
    let said: std::borrow::Cow<'_, str> = serde_json::from_str(raw.get()).ok()?;
    keep(&mut name, &said);
    name
}

/// Remembers the last name said, cut to what a name may be.
pub(super) fn keep(name: &mut Option<String>, said: &str) {
    // Every event says it again.
    if said.is_empty() || name.as_deref() == Some(said) {
        return;
    }
    let end = said
        .char_indices()
        .nth(NAME_CHARS_MAX)
        .map_or(said.len(), |(end, _)| end);
    *name = said.get(..end).map(str::to_owned);
}

/// A list of choices, or null. They are read one by one, as an event may hold very many.
struct Choices<'m, 'a> {
    watch: &'m mut Watch,
    seen: &'m mut ObjectFacts<'a>,
}

impl<'de> DeserializeSeed<'de> for Choices<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Choices<'_, 'de> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of choices")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Self { watch, seen } = self;
        seen.is_completion = true;
        while items.next_element_seed(Choice { watch, seen })?.is_some() {
            seen.has_choices = true;
        }
        Ok(())
    }
}

/// How a choice ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finish {
    /// Of itself.
    Stop,
    /// At a cap: its own, or the model's.
    Cap,
    /// Its output was filtered.
    Filter,
    /// The upstream failed.
    Error,
}

impl Finish {
    /// None if that is no end: some servers write an empty `finish_reason` on every chunk.
    pub(super) fn of(reason: &str) -> Option<Self> {
        const CAPS: [&str; 8] = [
            "length",
            "max_tokens",
            "max_output_tokens",
            "max_length",
            "model_length",
            "token_limit",
            "context_length",
            "model_context_window_exceeded",
        ];
        const FILTERS: [&str; 12] = [
            "content_filter",
            "content_filtered",
            "safety",
            "image_safety",
            "recitation",
            "prohibited_content",
            "blocklist",
            "spii",
            "sensitive",
            "moderation",
            "refusal",
            "guardrail_intervened",
        ];
        let is_one_of = |words: &[&str]| words.iter().any(|word| reason.eq_ignore_ascii_case(word));
        match reason {
            "stop" | "tool_calls" => Some(Self::Stop),
            _ if is_blank(reason) => None,
            _ if is_one_of(&CAPS) => Some(Self::Cap),
            _ if is_one_of(&FILTERS) => Some(Self::Filter),
            _ if is_one_of(&["error", "network_error"]) => Some(Self::Error),
            _ => Some(Self::Stop),
        }
    }
}

/// One choice.
struct Choice<'m, 'a> {
    watch: &'m mut Watch,
    seen: &'m mut ObjectFacts<'a>,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Part {
    Index,
    Delta,
    Message,
    Text,
    FinishReason,
    Usage,
    Error,
    #[serde(other)]
    Other,
}

impl<'de> DeserializeSeed<'de> for Choice<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Choice<'_, 'de> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a choice")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let Self { watch, seen } = self;
        let (mut index, mut end, mut shown) = (None, None, None);
        let (mut has_delta, mut has_message) = (false, false);
        let before = watch.text_bytes();
        let reports_before = seen.nested_usage.len();
        while let Some(part) = members.next_key::<Part>()? {
            match part {
                Part::Index => index = members.next_value_seed(CountSeed)?.known(),
                Part::Delta | Part::Message | Part::Text => {
                    has_delta |= matches!(part, Part::Delta);
                    has_message |= matches!(part, Part::Message);
                    let start = watch.text_bytes();
                    members.next_value_seed(TextSeed::answer(watch))?;
                    watch.count_once(&mut shown, start);
                }
                Part::FinishReason => end = members.next_value_seed(Text(Finish::of))?.flatten(),
                Part::Usage => {
                    let usage = members.next_value::<Option<&RawValue>>()?;
                    seen.nested_usage.extend(usage.map(NestedUsage::of_all));
                }
                Part::Error => seen.is_error |= members.next_value_seed(SaysSomething)?,
                Part::Other => {
                    members.next_value::<IgnoredAny>()?;
                }
            }
        }
        seen.has_message |= has_message && !has_delta;
        seen.is_error |= end == Some(Finish::Error);
        let index = index.unwrap_or(0);
        for usage in seen.nested_usage.iter_mut().skip(reports_before) {
            (usage.choice, usage.is_at_end) = (Some(index), end.is_some());
        }
        watch.choice(index, end, watch.text_bytes() > before);
        Ok(())
    }
}
