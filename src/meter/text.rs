//! The text that was generated, wherever it stands in a delta or a message. Pure.
//!
//! Every string counts but those that nobody generated, so that no new kind of output is free.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::lenient::{SaysSomething, others_are};
use super::watch::Watch;

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Name {
    /// What nobody generated.
    #[serde(alias = "id", alias = "type", alias = "object", alias = "index")]
    Role,
    /// The reasoning, by any server's name. Several of them in one delta say the same.
    #[serde(
        alias = "reasoning_content",
        alias = "reasoning_details",
        alias = "reasoning_text",
        alias = "thinking",
        alias = "thinking_content",
        alias = "thinking_blocks",
        alias = "thought",
        alias = "thoughts"
    )]
    Reasoning,
    /// Of a tool call: some servers write an object, whose names and numbers were generated too.
    #[serde(alias = "input")]
    Arguments,
    /// Reasoning that is sealed.
    #[serde(
        alias = "thought_signature",
        alias = "thoughtSignature",
        alias = "encrypted_content",
        alias = "reasoning_opaque",
        alias = "redacted_thinking"
    )]
    Signature,
    Data,
    Format,
    Summary,
    #[serde(other)]
    Generated,
}

/// Notes every generated string of a value.
pub(super) struct TextSeed<'m> {
    watch: &'m mut Watch,
    is_reasoning: bool,
}

impl<'m> TextSeed<'m> {
    /// Of a delta or a message.
    pub(super) const fn answer(watch: &'m mut Watch) -> Self {
        Self {
            watch,
            is_reasoning: false,
        }
    }

    const fn again(&mut self) -> TextSeed<'_> {
        TextSeed {
            watch: self.watch,
            is_reasoning: self.is_reasoning,
        }
    }

    fn arguments(&mut self, raw: &RawValue) {
        if !raw.get().starts_with('"') {
            self.watch.deliver(raw.get());
            return;
        }
        let mut reader = serde_json::Deserializer::from_str(raw.get());
        if self.again().deserialize(&mut reader).is_err() {
            self.watch.deliver(raw.get());
        }
    }
}

impl<'de> DeserializeSeed<'de> for TextSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TextSeed<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.watch.deliver(text);
        Ok(())
    }

    others_are!(() => unit bool numbers);

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(self.again())?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<(), A::Error> {
        let mut reasoning = None;
        while let Some(name) = members.next_key::<Name>()? {
            match name {
                Name::Generated => members.next_value_seed(self.again())?,
                Name::Role => {
                    members.next_value::<IgnoredAny>()?;
                }
                Name::Reasoning => {
                    let start = self.watch.text_bytes();
                    members.next_value_seed(TextSeed {
                        watch: self.watch,
                        is_reasoning: true,
                    })?;
                    self.watch.progress.shows_reasoning |= self.watch.text_bytes() > start;
                    self.watch.count_once(&mut reasoning, start);
                }
                Name::Arguments => self.arguments(members.next_value()?),
                Name::Signature => {
                    self.watch.progress.hides_reasoning |=
                        members.next_value_seed(SaysSomething)?;
                }
                Name::Data | Name::Format if self.is_reasoning => {
                    let says = members.next_value_seed(SaysSomething)?;
                    self.watch.progress.hides_reasoning |= says && matches!(name, Name::Data);
                }
                Name::Data | Name::Format | Name::Summary => {
                    let start = self.watch.text_bytes();
                    members.next_value_seed(self.again())?;
                    self.watch.progress.hides_reasoning |=
                        self.is_reasoning && self.watch.text_bytes() > start;
                }
            }
        }
        Ok(())
    }
}
