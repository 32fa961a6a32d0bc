//! JSON that is free in form within a request, and unambiguous: a JSON Schema, and what servers add to their answers.
//!
//! It is kept as text, because the order of its members matters to the model. So that it cannot say one thing to us and
//! another to whoever reads it next, it has no doubled members, no lone surrogates, no numbers out of range and at most
//! 64 levels.

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;

use foldhash::quality::RandomState;
use memchr::memchr;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::json::Name;
use crate::endpoint::json_text::split_string;

/// The deepest nesting.
const DEPTH_MAX: u32 = 64;
/// How many members its objects may have, all together. (OpenAI takes 5000 properties, each with a few members.) Their names
/// are remembered while a schema is read, which takes several times their bytes.
const MEMBERS_MAX: usize = 32_768;

/// A JSON Schema in the caller's order, without blanks between its tokens.
#[derive(Clone)]
pub(crate) struct Schema(Box<RawValue>);

impl Schema {
    /// As it is sent.
    pub(crate) fn text(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for Schema {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Serialize for Schema {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Schema {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Where it stands in the caller's bytes: a copy of its own would double what a schema takes.
        let raw = <&'de RawValue>::deserialize(deserializer)?;
        if !raw.get().starts_with('{') {
            return Err(D::Error::custom("must be an object: a JSON Schema"));
        }
        unambiguous(raw, "a JSON Schema").map(Self)
    }
}

/// Any JSON value: what a server said in a form of its own, and wants to have back.
#[derive(Clone)]
pub(crate) struct Json(Box<RawValue>);

impl Json {
    /// As it is sent.
    pub(crate) fn text(&self) -> &str {
        self.0.get()
    }

    /// It says nothing, as far as one sees without looking inside.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.text(), "[]" | "{}" | "\"\"" | "false")
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        unambiguous(<&'de RawValue>::deserialize(deserializer)?, "JSON").map(Self)
    }
}

/// The value without blanks, if it can be understood in one way only.
fn unambiguous<E: Error>(raw: &RawValue, what: &str) -> Result<Box<RawValue>, E> {
    let mut reader = serde_json::Deserializer::from_str(raw.get());
    let members = Cell::new(MEMBERS_MAX);
    Unambiguous {
        depth: 1,
        members: &members,
    }
    .deserialize(&mut reader)
    .map_err(|fault| E::custom(json_fault(&fault, what)))?;
    RawValue::from_string(without_blanks(raw.get())).map_err(E::custom)
}

/// Ours start with `must`; the parser's own say what is wrong with the JSON and quote nothing.
fn json_fault(fault: &serde_json::Error, what: &str) -> String {
    let text = fault.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    if text.starts_with("must ") {
        text.to_owned()
    } else {
        format!("must be {what}: {text}")
    }
}

/// Reads any JSON value and keeps nothing of it, but refuses what two readers could understand in two ways.
#[derive(Clone, Copy)]
struct Unambiguous<'a> {
    depth: u32,
    /// How many more members there may be.
    members: &'a Cell<usize>,
}

impl Unambiguous<'_> {
    /// What is within an array or object.
    fn inner<E: Error>(self) -> Result<Self, E> {
        if self.depth > DEPTH_MAX {
            return Err(E::custom(format_args!(
                "must not be nested deeper than {DEPTH_MAX} levels"
            )));
        }
        Ok(Self {
            depth: self.depth.saturating_add(1),
            ..self
        })
    }

    fn count_member<E: Error>(self) -> Result<(), E> {
        let left = self.members.get().checked_sub(1);
        self.members.set(left.ok_or_else(|| {
            E::custom(format_args!(
                "must not have more than {MEMBERS_MAX} members"
            ))
        })?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Unambiguous<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unambiguous<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let inner = self.inner()?;
        while seq.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.inner()?;
        let mut names = HashSet::with_hasher(RandomState::default());
        while let Some(Name(name)) = map.next_key::<Name<'de>>()? {
            self.count_member()?;
            if !names.insert(name) {
                return Err(A::Error::custom("must not have a member twice"));
            }
            map.next_value_seed(inner)?;
        }
        Ok(())
    }
}

/// Valid JSON without the blanks between its tokens. Strings, which are most of a schema, are copied whole.
fn without_blanks(json: &str) -> String {
    const BLANKS: [char; 4] = [' ', '\t', '\n', '\r'];
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    while !rest.is_empty() {
        let before_string = memchr(b'"', rest.as_bytes()).unwrap_or(rest.len());
        let (marks, from_string) = rest.split_at_checked(before_string).unwrap_or((rest, ""));
        out.extend(marks.split(BLANKS));
        let length = if from_string.is_empty() {
            0
        } else {
            split_string(from_string).1
        };
        let (string, after) = from_string
            .split_at_checked(length)
            .unwrap_or((from_string, ""));
        out.push_str(string);
        rest = after;
    }
    out
}
