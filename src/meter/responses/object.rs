//! A response object, as it stands in a whole answer and in the events that begin and end a stream, as far as the meter
//! looks. Pure.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::meter::chat::{Finish, keep};
use crate::meter::lenient::{SaysSomething, Text, others_are};

/// What a response says of itself. Members of a strange type are skipped, and break nothing but themselves.
#[derive(Debug, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent facts of an object"
)]
pub(super) struct ResponseFacts<'a> {
    /// It is one: it has an output, a status, or calls itself so.
    pub(super) is_response: bool,
    /// Its `error` says something, its status is `failed`, or it is an error and nothing else.
    pub(super) is_failed: bool,
    /// Its status is `incomplete`.
    pub(super) is_incomplete: bool,
    /// Why it is incomplete.
    pub(super) reason: Option<Finish>,
    pub(super) model: Option<String>,
    pub(super) service_tier: Option<String>,
    /// All that was generated, item by item.
    pub(super) output: Option<&'a RawValue>,
    /// The last that is no `null`.
    pub(super) usage: Option<&'a RawValue>,
}

impl<'a> ResponseFacts<'a> {
    /// Reads an object; none where it is something else.
    pub(super) fn read(json: &'a str) -> Option<Self> {
        let mut reader = serde_json::Deserializer::from_str(json);
        let facts = reader.deserialize_map(ResponseVisitor).ok()?;
        reader.end().ok()?;
        Some(facts)
    }
}

struct ResponseVisitor;

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum ResponseField {
    Object,
    Status,
    Error,
    IncompleteDetails,
    Model,
    ServiceTier,
    Output,
    Usage,
    Message,
    Code,
    #[serde(other)]
    Other,
}

impl<'de> Visitor<'de> for ResponseVisitor {
    type Value = ResponseFacts<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a response")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut facts = ResponseFacts::default();
        let (mut has_message, mut has_code) = (false, false);
        while let Some(field) = members.next_key::<ResponseField>()? {
            match field {
                ResponseField::Object => {
                    let kind = members
                        .next_value_seed(Text(str::to_owned))?
                        .unwrap_or_default();
                    facts.is_response |= kind == "response";
                    facts.is_failed |= kind == "error";
                }
                ResponseField::Status => {
                    let status = members
                        .next_value_seed(Text(str::to_owned))?
                        .unwrap_or_default();
                    facts.is_response |= !status.is_empty();
                    facts.is_failed |= status == "failed";
                    facts.is_incomplete |= status == "incomplete";
                }
                ResponseField::Error => {
                    facts.is_failed |= members.next_value_seed(SaysSomething)?;
                }
                ResponseField::IncompleteDetails => {
                    facts.reason = facts.reason.or(members.next_value_seed(ReasonSeed)?);
                }
                ResponseField::Model => {
                    members.next_value_seed(Text(|name: &str| keep(&mut facts.model, name)))?;
                }
                ResponseField::ServiceTier => {
                    members
                        .next_value_seed(Text(|name: &str| keep(&mut facts.service_tier, name)))?;
                }
                ResponseField::Output => {
                    let output: &RawValue = members.next_value()?;
                    facts.is_response |= output.get().starts_with('[');
                    facts.output = Some(output);
                }
                ResponseField::Usage => {
                    facts.usage = members.next_value::<Option<&RawValue>>()?.or(facts.usage);
                }
                ResponseField::Message => has_message |= members.next_value_seed(SaysSomething)?,
                ResponseField::Code => {
                    members.next_value::<IgnoredAny>()?;
                    has_code = true;
                }
                ResponseField::Other => {
                    members.next_value::<IgnoredAny>()?;
                }
            }
        }
        // An error that has no `error`.
        facts.is_failed |= has_message && has_code && !facts.is_response;
        Ok(facts)
    }
}

/// The `reason` of `incomplete_details`.
struct ReasonSeed;

impl<'de> DeserializeSeed<'de> for ReasonSeed {
    type Value = Option<Finish>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ReasonSeed {
    type Value = Option<Finish>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        #[derive(Deserialize)]
        #[serde(field_identifier, rename_all = "snake_case")]
        enum ReasonMember {
            Reason,
            #[serde(other)]
            Other,
        }
        let mut reason = None;
        while let Some(detail) = members.next_key::<ReasonMember>()? {
            match detail {
                ReasonMember::Reason => {
                    reason = members.next_value_seed(Text(Finish::of))?.flatten();
                }
                ReasonMember::Other => {
                    members.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(reason)
    }

    others_are!(None => unit bool numbers text list);
}
