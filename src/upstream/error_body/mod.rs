//! The body of an upstream's error, in whatever shape it comes. Pure.
//!
//! OpenAI's shape is one of many: servers send an error as an object or the only element of a list, flat, nested, as a
//! list of details, or as a bare text. What counts is looked for where errors have it, and nowhere else: a server may
//! also repeat the user's request. What it means is in `meaning.rs`.

mod meaning;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::time::Duration;

use serde_json::{Map, Value};

pub(super) use self::meaning::FilterTarget;

/// How deep an error is looked into.
const DEPTH_MAX: u8 = 8;
/// How many elements of a list are looked at.
const ITEMS_MAX: usize = 8;
/// The longest plain text that is taken for a message, in bytes.
const TEXT_BYTES_MAX: usize = 2048;

/// Members that hold a message, the most telling first.
const MESSAGES: [&str; 15] = [
    "message",
    "msg",
    "error",
    "detail",
    "details",
    "errors",
    "error_description",
    "error_message",
    "error_msg",
    "errormessage",
    "status_msg",
    "faultstring",
    "fault",
    "base_resp",
    "title",
];
/// Members that say in a word what went wrong.
const WORDS: [&str; 11] = [
    "code",
    "type",
    "status",
    "reason",
    "error_type",
    "error_code",
    "errorcode",
    "kind",
    "__type",
    "source_type",
    "finish_reason",
];
/// Members that hold more of an error.
const PARTS: [&str; 13] = [
    "error",
    "errors",
    "message",
    "detail",
    "details",
    "innererror",
    "inner_error",
    "metadata",
    "raw",
    "cause",
    "fault",
    "base_resp",
    "content_filters",
];

/// What an upstream says went wrong.
#[derive(Debug, Default)]
pub(super) struct ErrorBody {
    /// In its own words.
    pub(super) message: String,
    /// Its outermost code that is a text.
    pub(super) code: Option<String>,
    /// The field that it is about.
    pub(super) param: Option<String>,
    /// The HTTP status that it says, where that is a number.
    pub(super) status: Option<u16>,
    /// When to try again.
    pub(super) retry_after: Option<Duration>,
    /// Every code, type, status and reason, in lower case.
    words: Vec<String>,
    /// It shows what was generated in vain.
    has_generation: bool,
}

impl ErrorBody {
    /// Reads a body, if it says anything. `is_text`: it is meant to be read by people, and no page of a browser.
    pub(super) fn parse(body: &[u8], is_text: bool) -> Option<Self> {
        let text = String::from_utf8_lossy(body);
        let text = text.trim_start_matches('\u{feff}').trim();
        match serde_json::from_str(payload(text)) {
            Ok(value) => Self::of(&value),
            Err(_)
                if is_text
                    && !text.is_empty()
                    && !text.starts_with('<')
                    && text.len() <= TEXT_BYTES_MAX =>
            {
                Some(Self {
                    message: text.to_owned(),
                    ..Self::default()
                })
            }
            Err(_) => None,
        }
    }

    /// The error that a body with status 200 is in truth: an object that is no completion and says that it failed.
    pub(super) fn in_success(body: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(body).ok()?;
        let only = value
            .as_array()
            .filter(|list| list.len() == 1)
            .and_then(|list| list.first());
        let object = only.unwrap_or(&value).as_object()?;
        let has = |name: &str| object.get(name).is_some_and(is_said);
        if object
            .get("choices")
            .and_then(Value::as_array)
            .is_some_and(|list| !list.is_empty())
            || has("usage")
        {
            return None;
        }
        let is_error = has("error")
            || has("errors")
            || object
                .get("object")
                .or(object.get("type"))
                .and_then(Value::as_str)
                == Some("error")
            || (has("message") && has("code"))
            || (has("detail") && object.len() == 1);
        is_error.then(|| Self::of(&value).unwrap_or_default())
    }

    fn of(value: &Value) -> Option<Self> {
        let mut read = Self {
            message: message_of(value, DEPTH_MAX).unwrap_or_default(),
            ..Self::default()
        };
        read.walk(value, DEPTH_MAX);
        (!read.message.is_empty() || !read.words.is_empty()).then_some(read)
    }

    fn walk(&mut self, value: &Value, depth: u8) {
        let Some(depth) = depth.checked_sub(1) else {
            return;
        };
        match value {
            Value::Array(items) => items
                .iter()
                .take(ITEMS_MAX)
                .for_each(|item| self.walk(item, depth)),
            Value::Object(members) if members.get("blocked") == Some(&Value::Bool(false)) => {}
            Value::Object(members) => {
                for (name, value) in members {
                    self.member(&name.to_ascii_lowercase(), value, depth);
                }
            }
            Value::String(text) => {
                if let Some(inner) = json_in(text) {
                    self.walk(&inner, depth);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn member(&mut self, name: &str, value: &Value, depth: u8) {
        match (name, value) {
            ("param", Value::String(param)) => _ = self.param.get_or_insert_with(|| param.clone()),
            ("loc", Value::Array(way)) => _ = self.param.get_or_insert_with(|| path(way)),
            ("retrydelay" | "retry_delay", _) => {
                self.retry_after = self.retry_after.or_else(|| proto_duration(value));
            }
            ("failed_generation", _) => self.has_generation = true,
            (_, Value::String(word)) if WORDS.contains(&name) => {
                self.words.push(word.to_ascii_lowercase());
                if name == "code" {
                    self.code.get_or_insert_with(|| word.clone());
                }
            }
            ("code" | "status" | "status_code", Value::Number(number)) => {
                let status = number
                    .as_u64()
                    .and_then(|status| u16::try_from(status).ok());
                self.status = self
                    .status
                    .or(status.filter(|status| (400..600).contains(status)));
            }
            _ if PARTS.contains(&name) => self.walk(value, depth),
            _ => {}
        }
    }
}

/// The JSON of an error: some servers frame it as an event.
fn payload(text: &str) -> &str {
    let data = text.lines().find_map(|line| line.strip_prefix("data:"));
    data.filter(|_| !text.starts_with(['{', '[']))
        .map_or(text, str::trim)
}

/// A member that says something: not null, false or empty.
fn is_said(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
        Value::Bool(true) | Value::Number(_) => true,
    }
}

/// JSON that stands in a text, as providers of providers send it.
fn json_in(text: &str) -> Option<Value> {
    let text = text.trim();
    if text.starts_with(['{', '[']) {
        serde_json::from_str(text).ok()
    } else {
        None
    }
}

fn message_of(value: &Value, depth: u8) -> Option<String> {
    let depth = depth.checked_sub(1)?;
    match value {
        Value::String(text) => match json_in(text) {
            Some(inner) => message_of(&inner, depth),
            None => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
        },
        Value::Array(items) => {
            let messages: Vec<String> = items
                .iter()
                .take(ITEMS_MAX)
                .filter_map(|item| message_of(item, depth))
                .collect();
            (!messages.is_empty()).then(|| messages.join("; "))
        }
        Value::Object(members) => {
            let raw = members
                .get("metadata")
                .and_then(|metadata| metadata.get("raw"));
            let raw = raw.and_then(|raw| message_of(raw, depth));
            raw.or_else(|| {
                MESSAGES
                    .iter()
                    .find_map(|name| message_of(member(members, name)?, depth))
            })
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

fn member<'a>(members: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    members.get(name).or_else(|| {
        let mut all = members.iter();
        all.find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    })
}

/// `["body", "messages", 0, "content"]` as `messages[0].content`.
fn path(way: &[Value]) -> String {
    way.iter().fold(String::new(), |path, step| match step {
        Value::String(name) if path.is_empty() && name == "body" => path,
        Value::String(name) if path.is_empty() => name.clone(),
        Value::String(name) => path + "." + name,
        step => format!("{path}[{step}]"),
    })
}

/// A duration as Google writes it: `"39.2s"`, or in two parts.
fn proto_duration(value: &Value) -> Option<Duration> {
    match value {
        Value::String(text) => seconds(text.trim().strip_suffix('s')?),
        Value::Object(parts) => {
            let of = |name: &str| parts.get(name).and_then(Value::as_u64);
            Some(Duration::new(
                of("seconds")?,
                of("nanos")
                    .and_then(|nanos| u32::try_from(nanos).ok())
                    .unwrap_or(0),
            ))
        }
        _ => None,
    }
}

/// A number of seconds that need not be whole: `1.9`.
pub(super) fn seconds(text: &str) -> Option<Duration> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(part) {
        return None;
    }
    let nanos: Cow<'_, str> = format!("{part:0<9}").into();
    Some(Duration::new(
        whole.parse().ok()?,
        nanos.get(..9)?.parse().ok()?,
    ))
}
