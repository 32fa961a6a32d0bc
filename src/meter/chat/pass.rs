//! One pass over a chunk or a completion that has nothing strange about it. Pure.
//!
//! Whatever it is not sure to read as [`super::Seen`] would is an error: then the caller undoes what was noted, and reads
//! in layers. So what is strange is decided in one place, and an event costs one scan.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::super::Watch;
use super::Delivered;

/// What one pass has seen. The choices are noted, the rest is to be noted.
pub(in crate::meter) struct Pass<'a> {
    /// The model, if it is said.
    pub(in crate::meter) model: Option<&'a RawValue>,
    /// The service tier, if it is said.
    pub(in crate::meter) service_tier: Option<&'a RawValue>,
    /// There is a list of choices.
    pub(in crate::meter) is_completion: bool,
    /// There is a choice in it.
    pub(in crate::meter) has_choices: bool,
    /// The usage, if it is said.
    pub(in crate::meter) usage: Option<&'a RawValue>,
}

impl<'a> Pass<'a> {
    /// Reads an object and notes its choices in `watch`. On `None` it may have noted any of them.
    pub(in crate::meter) fn read(json: &'a [u8], watch: &mut Watch) -> Option<Self> {
        // All of it: a text that is skipped is not looked at again.
        let json = str::from_utf8(json).ok()?;
        let mut reader = serde_json::Deserializer::from_str(json);
        let pass = reader.deserialize_map(Whole(watch)).ok()?;
        reader.end().ok()?;
        Some(pass)
    }
}

/// Fills a field that may be there once.
fn once<T, E: Error>(field: &mut Option<T>, value: T) -> Result<(), E> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(E::custom("said twice")),
    }
}

struct Whole<'m>(&'m mut Watch);

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Field {
    Choices,
    Usage,
    Error,
    Model,
    ServiceTier,
    #[serde(other)]
    Other,
}

impl<'de> Visitor<'de> for Whole<'_> {
    type Value = Pass<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let (mut choices, mut usage, mut error, mut model, mut tier) = (None, None, None, None, None);
        while let Some(field) = members.next_key::<Field>()? {
            match field {
                Field::Choices => once(&mut choices, members.next_value_seed(Choices(self.0))?)?,
                Field::Usage => once(&mut usage, members.next_value::<Option<&RawValue>>()?)?,
                Field::Model => once(&mut model, members.next_value::<Option<&RawValue>>()?)?,
                Field::ServiceTier => once(&mut tier, members.next_value::<Option<&RawValue>>()?)?,
                Field::Error => once(&mut error, members.next_value::<Option<IgnoredAny>>()?)?,
                Field::Other => {
                    members.next_value::<IgnoredAny>()?;
                }
            }
        }
        if error.flatten().is_some() {
            return Err(A::Error::custom("an error"));
        }
        let has_choices = choices.flatten();
        Ok(Pass {
            model: model.flatten(),
            service_tier: tier.flatten(),
            is_completion: has_choices.is_some(),
            has_choices: has_choices.unwrap_or(false),
            usage: usage.flatten(),
        })
    }
}

/// A list of choices, or null: whether there are any in it.
struct Choices<'m>(&'m mut Watch);

impl<'de> DeserializeSeed<'de> for Choices<'_> {
    type Value = Option<bool>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Choices<'_> {
    type Value = Option<bool>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of choices")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut any = false;
        while items.next_element_seed(Choice(self.0))?.is_some() {
            any = true;
        }
        Ok(Some(any))
    }
}

/// One choice.
struct Choice<'m>(&'m mut Watch);

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Part {
    Index,
    Delta,
    Message,
    Text,
    FinishReason,
    #[serde(other)]
    Other,
}

impl<'de> DeserializeSeed<'de> for Choice<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Choice<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a choice")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let (mut index, mut text, mut end) = (None, None, None);
        while let Some(part) = members.next_key::<Part>()? {
            match part {
                Part::Index => once(&mut index, members.next_value::<Option<&RawValue>>()?)?,
                // The order of several in one choice is for the other reader.
                Part::Delta | Part::Message | Part::Text => {
                    once(&mut text, members.next_value_seed(Delivered(&mut self.0.measured))?)?;
                }
                Part::FinishReason => once(&mut end, members.next_value::<Option<IgnoredAny>>()?)?,
                Part::Other => {
                    members.next_value::<IgnoredAny>()?;
                }
            }
        }
        self.0.begin(index.flatten(), end.flatten().is_some());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::Seen;
    use super::*;

    /// What a watch knows after an event, and whether it was nothing but usage.
    fn state(watch: &Watch, is_usage_only: bool) -> String {
        format!("{watch:?} {is_usage_only}")
    }

    /// Reads `json` both ways. Whether one pass was enough for it.
    fn same(json: &[u8]) -> bool {
        let mut one = Watch::default();
        let Some(pass) = one.pass(json, false) else {
            assert_eq!(state(&one, false), state(&Watch::default(), false), "nothing is noted");
            return false;
        };
        let is_usage_only = !pass.has_choices && pass.usage.is_some();
        let mut layers = Watch::default();
        let told = layers.layers(json).expect("what one pass reads is read in layers");
        assert_eq!(state(&one, is_usage_only), state(&layers, told));
        assert_eq!(pass.is_completion, Seen::parse(json).unwrap().choices.is_some());
        true
    }

    fn text() -> impl Strategy<Value = Value> {
        prop_oneof![
            ".{0,6}".prop_map(Value::from),
            Just(json!("a\nb\"c")),
            Just(Value::Null),
            any::<i32>().prop_map(Value::from)
        ]
    }

    fn delta() -> impl Strategy<Value = Value> {
        let names = ["role", "id", "content", "type", "refusal", "tool_calls", "object", "index", "reasoning", "x"];
        let leaf =
            prop_oneof![4 => text(), 1 => any::<bool>().prop_map(Value::from), 1 => any::<f64>().prop_map(Value::from)];
        leaf.prop_recursive(3, 12, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::hash_map(prop::sample::select(names.to_vec()), inner, 0..4).prop_map(|map| {
                    Value::from(map.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<serde_json::Map<_, _>>())
                }),
            ]
        })
    }

    /// Members in any order, some of them twice.
    fn object(members: Vec<(&'static str, Value)>) -> String {
        let members: Vec<_> = members.into_iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", members.join(","))
    }

    fn choice() -> impl Strategy<Value = String> {
        let names = ["index", "delta", "finish_reason", "logprobs", "delta", "message", "text"];
        let value = prop_oneof![3 => delta(), 1 => (0_u32..200).prop_map(Value::from), 1 => Just(json!("stop"))];
        prop::collection::vec((prop::sample::select(names.to_vec()), value), 0..4).prop_map(object)
    }

    fn chunk() -> impl Strategy<Value = String> {
        let usage = json!({"prompt_tokens": 3, "completion_tokens": 4});
        let value = prop_oneof![3 => Just(Value::Null), 2 => Just(json!("gpt-4o")), 1 => Just(usage), 1 => delta()];
        let names = ["usage", "model", "service_tier", "id", "error", "object"];
        let members = prop::collection::vec((prop::sample::select(names.to_vec()), value), 0..4);
        (members, prop::option::of(prop::collection::vec(choice(), 0..3)), any::<bool>()).prop_map(
            |(members, choices, first)| {
                let rest = object(members);
                let Some(choices) = choices else { return rest };
                let choices = format!("\"choices\":[{}]", choices.join(","));
                let inner = rest.trim_matches(['{', '}']);
                match (inner.is_empty(), first) {
                    (true, _) => format!("{{{choices}}}"),
                    (false, true) => format!("{{{choices},{inner}}}"),
                    (false, false) => format!("{{{inner},{choices}}}"),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn what_one_pass_reads_is_what_the_layers_read(json in chunk(), cut in any::<prop::sample::Index>(), byte in any::<u8>()) {
            same(json.as_bytes());
            let mut bytes = json.into_bytes();
            same(&[bytes.as_slice(), b" x"].concat());
            let at = cut.index(bytes.len());
            bytes[at] = byte;
            same(&bytes);
            bytes.truncate(at);
            same(&bytes);
        }
    }

    #[test]
    fn one_pass_is_enough_for_what_servers_send() {
        let usual = [
            r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-4o-mini","service_tier":"default",
                "choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}],"usage":null}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"a\u00e9\n"}},{"index":1,"delta":{},"finish_reason":"stop"}],"error":null}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#,
            r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":"{"}}]}}]}"#,
        ];
        for json in usual {
            assert!(same(json.as_bytes()), "{json}");
        }
        let strange = [
            r#"{"choices":[{"delta":{"content":"a"}},{"delta":{"content":"\ud800"}}]}"#,
            r#"{"choices":[{"delta":{"content":"a"},"message":{"content":"b"}}]}"#,
            r#"{"choices":[{"delta":{"content":"a"}},7]}"#,
            r#"{"choices":[{"delta":{"content":"a"}}],"error":{}}"#,
            r#"{"choices":[],"choices":[]}"#,
            r#"{"model":"m","choices":[{"delta":{"content":"a"}}]} x"#,
            "[[],null,null,null,null]",
        ];
        for json in strange {
            assert!(!same(json.as_bytes()), "{json}");
        }
        assert!(!same(b"{\"choices\":[{\"delta\":{\"content\":\"a\"},\"x\":\"\xff\"}]}"));
    }
}
