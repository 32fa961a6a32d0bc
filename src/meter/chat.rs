//! The shapes of OpenAI's chat completions, as far as the meter looks at them. Pure.
//!
//! It reads without building a tree. A field of a strange type breaks nothing but itself. What usage says is read in
//! [`super::usage`].
//!
//! There are two readers of one meaning. [`Seen`] reads in layers, each field by itself, and decides what is strange.
//! [`Pass`] reads what is not strange, which is nearly every event, in one pass; it gives up on anything else.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Measured, Watch};

pub(super) use self::pass::Pass;

mod pass;

/// The longest name of a model or service tier that is kept, in characters.
const NAME_CHARS_MAX: usize = 128;

/// What is looked at of a chunk or a completion. Raw, so that a strange field breaks nothing but itself.
#[derive(Deserialize)]
pub(super) struct Seen<'a> {
    #[serde(borrow)]
    pub(super) choices: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) usage: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) error: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) model: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) service_tier: Option<&'a RawValue>,
}

impl<'a> Seen<'a> {
    /// None if it is no JSON object. (A derived struct would also take an array.)
    pub(super) fn parse(json: &'a [u8]) -> Option<Self> {
        let is_object = json.trim_ascii_start().first() == Some(&b'{');
        if is_object { serde_json::from_slice(json).ok() } else { None }
    }
}

#[derive(Deserialize)]
pub(super) struct Choice<'a> {
    #[serde(borrow)]
    pub(super) index: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) delta: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) message: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) text: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) finish_reason: Option<&'a RawValue>,
}

/// Reads choices one by one, as an event may hold very many; whether there are any.
pub(super) struct Choices<'m>(pub(super) &'m mut Watch);

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
pub(super) fn keep(name: &mut Option<String>, raw: Option<&RawValue>) {
    let Some(raw) = raw else { return };
    let plain = raw.get().strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).filter(|said| !said.contains('\\'));
    let said = match plain {
        Some(said) => Cow::Borrowed(said),
        None => match serde_json::from_str::<String>(raw.get()) {
            Ok(said) => Cow::Owned(said),
            Err(_) => return,
        },
    };
    // Every event says it again.
    if said.is_empty() || name.as_deref() == Some(said.as_ref()) {
        return;
    }
    let end = said.char_indices().nth(NAME_CHARS_MAX).map_or(said.len(), |(end, _)| end);
    *name = said.get(..end).map(str::to_owned);
}

/// The names of what nobody generated, and of everything else.
#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Name {
    Role,
    Id,
    Type,
    Object,
    Index,
    #[serde(other)]
    Generated,
}

/// Every string in a delta or message but those that nobody generated: so no new kind of output is free.
pub(super) struct Delivered<'m>(pub(super) &'m mut Measured);

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
        while let Some(name) = members.next_key::<Name>()? {
            match name {
                Name::Generated => members.next_value_seed(Delivered(self.0))?,
                Name::Role | Name::Id | Name::Type | Name::Object | Name::Index => {
                    members.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}
