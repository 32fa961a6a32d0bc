//! What one event of a stream of responses says, as far as the meter looks. Pure.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::meter::lenient::{CountSeed, SaysSomething, Text};

/// An event, member by member.
#[derive(Debug, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent facts of an event"
)]
pub(super) struct EventFacts<'a> {
    /// Its `type`.
    pub(super) kind: Option<String>,
    pub(super) sequence_number: Option<u64>,
    /// The item that it is about, by its place.
    pub(super) item_index: Option<u64>,
    /// The part of that item.
    pub(super) part_index: Option<u64>,
    /// The item, by its id.
    pub(super) item_id: Option<String>,
    /// What was generated since the last one.
    pub(super) deltas: Vec<&'a RawValue>,
    /// What was generated of a part so far, or anything that nobody knows.
    pub(super) wholes: Vec<&'a RawValue>,
    pub(super) part: Option<&'a RawValue>,
    pub(super) item: Option<&'a RawValue>,
    pub(super) response: Option<&'a RawValue>,
    /// Beside the response, where some servers have it.
    pub(super) usage: Option<&'a RawValue>,
    pub(super) has_error: bool,
    has_message: bool,
    has_code: bool,
}

impl<'a> EventFacts<'a> {
    /// Reads an object; none where it is something else.
    pub(super) fn read(json: &'a str) -> Option<Self> {
        let mut reader = serde_json::Deserializer::from_str(json);
        let facts = reader.deserialize_any(EventVisitor).ok()?;
        reader.end().ok()?;
        Some(facts)
    }

    /// The upstream says that it failed, in whatever shape.
    pub(super) fn is_error(&self) -> bool {
        let kind = self.kind.as_deref();
        let is_bare = kind.is_none() && self.has_message && self.has_code;
        kind == Some("error") || self.has_error || is_bare
    }
}

struct EventVisitor;

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum EventField {
    Type,
    Object,
    SequenceNumber,
    OutputIndex,
    #[serde(alias = "summary_index", alias = "command_index")]
    ContentIndex,
    ItemId,
    Delta,
    Part,
    Item,
    Response,
    Usage,
    Error,
    Message,
    Code,
    /// What nobody generated, or what repeats it.
    #[serde(
        alias = "logprobs",
        alias = "annotation",
        alias = "annotation_index",
        alias = "partial_image_index",
        alias = "status",
        alias = "name",
        alias = "id",
        alias = "event_id",
        alias = "response_id",
        alias = "call_id",
        alias = "param",
        alias = "size",
        alias = "quality",
        alias = "background",
        alias = "output_format"
    )]
    Obfuscation,
    #[serde(other)]
    Other,
}

impl<'de> Visitor<'de> for EventVisitor {
    type Value = EventFacts<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an event")
    }

    /// Some servers tell an error in a list.
    fn visit_seq<A: serde::de::SeqAccess<'de>>(
        self,
        mut items: A,
    ) -> Result<Self::Value, A::Error> {
        let mut is_error = false;
        while let Some(item) = items.next_element::<&RawValue>()? {
            is_error |= EventFacts::read(item.get()).is_some_and(|item| item.is_error());
        }
        if is_error {
            Ok(EventFacts {
                has_error: true,
                ..EventFacts::default()
            })
        } else {
            Err(A::Error::custom("a list of no errors"))
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut facts = EventFacts::default();
        while let Some(field) = members.next_key::<EventField>()? {
            match field {
                EventField::Type => {
                    let kind = members.next_value_seed(Text(str::to_owned))?;
                    facts.kind = kind.filter(|kind| !kind.is_empty()).or(facts.kind);
                }
                EventField::Object => {
                    let says = members.next_value_seed(Text(|kind: &str| kind == "error"))?;
                    facts.has_error |= says == Some(true);
                }
                EventField::SequenceNumber => {
                    facts.sequence_number = members.next_value_seed(CountSeed)?.known();
                }
                EventField::OutputIndex => {
                    facts.item_index = members.next_value_seed(CountSeed)?.known();
                }
                EventField::ContentIndex => {
                    facts.part_index = members.next_value_seed(CountSeed)?.known();
                }
                EventField::ItemId => {
                    facts.item_id = members.next_value_seed(Text(str::to_owned))?;
                }
                EventField::Delta => facts.deltas.push(members.next_value()?),
                EventField::Part => facts.part = Some(members.next_value()?),
                EventField::Item => facts.item = Some(members.next_value()?),
                EventField::Response => facts.response = Some(members.next_value()?),
                EventField::Usage => facts.usage = members.next_value()?,
                EventField::Error => facts.has_error |= members.next_value_seed(SaysSomething)?,
                EventField::Message => {
                    facts.has_message |= members.next_value_seed(SaysSomething)?;
                }
                EventField::Code => {
                    facts.wholes.push(members.next_value()?);
                    facts.has_code = true;
                }
                EventField::Obfuscation => {
                    members.next_value::<IgnoredAny>()?;
                }
                EventField::Other => facts.wholes.push(members.next_value()?),
            }
        }
        Ok(facts)
    }
}

/// The name of a part, as its deltas and its end have it in common: `response.output_text` of `response.output_text.delta`.
pub(super) fn stem(kind: &str) -> &str {
    kind.rsplit_once('.').map_or(kind, |(stem, _)| stem)
}
