//! Reading JSON strictly, for every endpoint.
//!
//! An object is an object (never an array of its values), a known member stands once. Members nobody knows are noted, and
//! refused by the endpoint's checks, which know their path; their values are skipped. `null` is the same as absent. What is
//! sent is written out of what was understood, never the caller's bytes.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_path_to_error::Segment;

use super::field_error::FieldError;
use crate::error::{Code, Refusal};

/// Members that OpenAI knows and that are not passed on: clients send them as `null`, which says nothing.
const MAY_BE_NULL: [&str; 13] = [
    "audio",
    "function_call",
    "functions",
    "metadata",
    "moderation",
    "prediction",
    "prompt_cache_breakpoint",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "web_search_options",
    "include_obfuscation",
];

/// Reads the object that a body is.
///
/// # Errors
/// `invalid_request`: no JSON object of this shape. It names the field, and never repeats what the caller wrote.
pub(super) fn read<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, Refusal> {
    let not_json = |why: &str| {
        Refusal::new(
            Code::InvalidRequest,
            format!("The body is not valid JSON: {why}."),
        )
    };
    let text = std::str::from_utf8(body).map_err(|_| not_json("it is not UTF-8"))?;
    if text.starts_with('\u{FEFF}') {
        return Err(not_json("it starts with a byte order mark"));
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let request = T::deserialize(&mut reader)
        .map_err(|error| FieldError::of_json(&error, path_of_error::<T>(text)))?;
    reader
        .end()
        .map_err(|_| not_json("something follows the object"))?;
    Ok(request)
}

/// Where reading a text fails, as `messages[0].content`; empty for the whole. It is read a second time for it: a reader that
/// keeps the path as it goes copies every name, and a body that can be read must not cost that.
fn path_of_error<'de, T: Deserialize<'de>>(text: &'de str) -> String {
    let mut reader = serde_json::Deserializer::from_str(text);
    let Err(error) = serde_path_to_error::deserialize::<_, T>(&mut reader) else {
        return String::new();
    };
    let mut path = String::new();
    for segment in error.path() {
        match segment {
            Segment::Seq { index } => _ = write!(path, "[{index}]"),
            Segment::Map { key } if path.is_empty() => path.push_str(key),
            Segment::Map { key } => _ = write!(path, ".{key}"),
            // A name that could not be read.
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    path
}

/// Defines an object of the API: for each member its field, its name on the wire and its type. All are optional here;
/// `unknown` is the first member that is not among them.
macro_rules! object {
    ($(#[$doc:meta])* $name:ident { $($field:ident = $wire:literal: $kind:ty,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Default, PartialEq, serde::Serialize)]
        pub(super) struct $name {
            $(#[serde(rename = $wire, skip_serializing_if = "Option::is_none")]
            pub(super) $field: Option<$kind>,)+
            #[serde(skip)]
            pub(super) unknown: Option<Box<$crate::endpoint::json::Unknown>>,
        }

        impl $crate::endpoint::members::Members for $name {
            fn cover(&mut self, over: Self) {
                $(self.$field = over.$field.or_else(|| self.$field.take());)+
            }

            fn fill(&mut self, under: Self) {
                $(self.$field = self.$field.take().or(under.$field);)+
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Members;

                impl<'de> serde::de::Visitor<'de> for Members {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<$name, A::Error> {
                        let mut unknown = None;
                        $(let mut $field: $crate::endpoint::json::Slot<$kind> = $crate::endpoint::json::Slot::Empty;)+
                        while let Some($crate::endpoint::json::Name(name)) = map.next_key::<$crate::endpoint::json::Name<'de>>()? {
                            match name.as_ref() {
                                $($wire => $crate::endpoint::json::read_member(&mut $field, $wire, &mut map)?,)+
                                _ => $crate::endpoint::json::read_unknown(&mut unknown, name, &mut map)?,
                            }
                        }
                        Ok($name { $($field: $field.into_value(),)+ unknown })
                    }
                }

                deserializer.deserialize_map(Members)
            }
        }
    };
}

pub(super) use object;

/// The name of a member, where it stands in the caller's bytes unless it is written with escapes.
pub(super) struct Name<'a>(pub(super) Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

/// A member while its object is read. `null` counts as given, so that it cannot stand beside a value.
pub(super) enum Slot<T> {
    Empty,
    Given(Option<T>),
}

impl<T> Slot<T> {
    pub(super) fn into_value(self) -> Option<T> {
        match self {
            Self::Empty => None,
            Self::Given(value) => value,
        }
    }
}

pub(super) fn read_member<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    slot: &mut Slot<T>,
    name: &'static str,
    map: &mut A,
) -> Result<(), A::Error> {
    if matches!(slot, Slot::Given(_)) {
        return Err(A::Error::duplicate_field(name));
    }
    *slot = Slot::Given(map.next_value()?);
    Ok(())
}

pub(super) fn read_unknown<'de, A: MapAccess<'de>>(
    unknown: &mut Option<Box<Unknown>>,
    name: Cow<'_, str>,
    map: &mut A,
) -> Result<(), A::Error> {
    let value: Option<Presence> = map.next_value()?;
    let is_null = value.is_none();
    let is_empty = value.is_none_or(|Presence(anything)| !anything);
    let says_nothing = is_null && MAY_BE_NULL.contains(&name.as_ref());
    if !says_nothing
        && unknown
            .as_ref()
            .is_none_or(|first| first.is_empty && !is_empty)
    {
        *unknown = Some(Box::new(Unknown {
            name: name.into_owned(),
            is_empty,
        }));
    }
    Ok(())
}

/// A member that nobody knows: the first with content, or else the first.
#[derive(Clone, PartialEq)]
pub(super) struct Unknown {
    pub(super) name: String,
    /// Its value says nothing: `null`, `false`, an empty text, or a list or object of nothing but nulls.
    pub(super) is_empty: bool,
}

/// Whether a value says anything. It is not kept.
struct Presence(bool);

impl<'de> Deserialize<'de> for Presence {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Anything)
    }
}

struct Anything;

impl<'de> Visitor<'de> for Anything {
    type Value = Presence;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Presence, E> {
        Ok(Presence(false))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Presence, E> {
        Ok(Presence(value))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Presence, E> {
        Ok(Presence(true))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Presence, E> {
        Ok(Presence(true))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Presence, E> {
        Ok(Presence(true))
    }

    fn visit_str<E>(self, text: &str) -> Result<Presence, E> {
        Ok(Presence(!text.is_empty()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Presence, A::Error> {
        let mut said = false;
        while let Some(item) = seq.next_element::<Option<IgnoredAny>>()? {
            said |= item.is_some();
        }
        Ok(Presence(said))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Presence, A::Error> {
        let mut said = false;
        while let Some((_, value)) = map.next_entry::<IgnoredAny, Option<IgnoredAny>>()? {
            said |= value.is_some();
        }
        Ok(Presence(said))
    }
}

/// An array of at most `MOST` items; the rest of a longer one is not even read.
#[derive(Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub(super) struct List<T, const MOST: usize>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for List<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Items(PhantomData))
    }
}

struct Items<T, const MOST: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Items<T, MOST> {
    type Value = List<T, MOST>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            if items.len() >= MOST {
                return Err(A::Error::custom(format_args!(
                    "must be an array of at most {MOST} items"
                )));
            }
            items.push(item);
        }
        // A vector that has grown may be half empty.
        items.shrink_to_fit();
        Ok(List(items))
    }
}

/// A value that is taken and not kept.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(transparent)]
pub(super) struct Ignored(IgnoredAny);

/// It is never written: whatever holds one drops it first.
impl Serialize for Ignored {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

/// A string, or something with a structure.
#[derive(Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum TextOr<T> {
    /// A string.
    Text(String),
    /// The other.
    Other(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for TextOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = TextOr<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, or the array or object described for it")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(TextOr::Text(text.to_owned()))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<Self::Value, E> {
                Ok(TextOr::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                T::deserialize(SeqAccessDeserializer::new(seq)).map(TextOr::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(TextOr::Other)
            }
        }

        deserializer.deserialize_any(Either(PhantomData))
    }
}
