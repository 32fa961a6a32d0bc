//! The text that was generated, wherever it stands in an item, in a part of one, or in what an event says of them. Pure.
//!
//! Every string counts but those that nobody generated, so that no new kind of output is free.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::meter::lenient::{SaysSomething, others_are};

/// What was generated of one or more items.
#[derive(Debug, Default)]
pub(super) struct GeneratedText {
    pub(super) text: String,
    /// Reasoning in words.
    pub(super) shows_reasoning: bool,
    /// Reasoning that is sealed, or summed up.
    pub(super) hides_reasoning: bool,
    /// An item of reasoning without a word of it.
    pub(super) is_silent: bool,
}

impl GeneratedText {
    /// Reads a value. What is no JSON counts as it is written.
    pub(super) fn of(raw: &RawValue) -> Self {
        let mut generated = Self::default();
        let mut reader = serde_json::Deserializer::from_str(raw.get());
        if Walk(&mut generated).deserialize(&mut reader).is_err() {
            raw.get().clone_into(&mut generated.text);
        }
        generated
    }
}

struct Walk<'g>(&'g mut GeneratedText);

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum GeneratedName {
    /// What nobody generated, or what repeats it.
    #[serde(
        alias = "role",
        alias = "object",
        alias = "status",
        alias = "phase",
        alias = "call_id",
        alias = "item_id",
        alias = "index",
        alias = "annotations",
        alias = "logprobs",
        alias = "parsed",
        alias = "parsed_arguments",
        alias = "namespace"
    )]
    Id,
    Type,
    /// Of a tool call: some servers write an object, whose names and numbers were generated too.
    #[serde(alias = "input")]
    Arguments,
    #[serde(alias = "signature")]
    EncryptedContent,
    Summary,
    #[serde(other)]
    Generated,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.text.push_str(text);
        Ok(())
    }

    others_are!(() => unit bool numbers);

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Walk(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let Self(generated) = self;
        let before = generated.text.len();
        let (mut kind, mut summed) = (PartKind::Other, 0);
        while let Some(name) = members.next_key::<GeneratedName>()? {
            match name {
                GeneratedName::Id => {
                    members.next_value::<IgnoredAny>()?;
                }
                GeneratedName::Type => kind = members.next_value_seed(PartKindSeed)?,
                GeneratedName::Arguments => {
                    let raw: &RawValue = members.next_value()?;
                    if raw.get().starts_with('"') {
                        let mut reader = serde_json::Deserializer::from_str(raw.get());
                        // A string was read as JSON already.
                        Walk(generated).deserialize(&mut reader).unwrap_or_default();
                    } else if raw.get() != "null" {
                        generated.text.push_str(raw.get());
                    }
                }
                GeneratedName::EncryptedContent => {
                    generated.hides_reasoning |= members.next_value_seed(SaysSomething)?;
                }
                GeneratedName::Summary => {
                    let start = generated.text.len();
                    members.next_value_seed(Walk(generated))?;
                    summed = generated.text.len().saturating_sub(start);
                    generated.hides_reasoning |= summed > 0;
                }
                GeneratedName::Generated => members.next_value_seed(Walk(generated))?,
            }
        }
        let words = generated.text.len().saturating_sub(before);
        match kind {
            PartKind::Reasoning => {
                let is_shown = words > summed;
                generated.shows_reasoning |= is_shown;
                generated.is_silent |= !is_shown;
            }
            PartKind::Summary => generated.hides_reasoning |= words > 0,
            PartKind::ReasoningText => generated.shows_reasoning |= words > 0,
            PartKind::Other => {}
        }
        Ok(())
    }
}

/// What an item or a part of one is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PartKind {
    Reasoning,
    ReasoningText,
    Summary,
    Other,
}

struct PartKindSeed;

impl<'de> DeserializeSeed<'de> for PartKindSeed {
    type Value = PartKind;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<PartKind, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for PartKindSeed {
    type Value = PartKind;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON")
    }

    fn visit_str<E>(self, kind: &str) -> Result<PartKind, E> {
        Ok(match kind {
            "reasoning" => PartKind::Reasoning,
            "reasoning_text" => PartKind::ReasoningText,
            "summary_text" => PartKind::Summary,
            _ => PartKind::Other,
        })
    }

    others_are!(PartKind::Other => unit bool numbers list object);
}
