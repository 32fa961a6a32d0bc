//! The body of an upstream's error, in whatever shape it comes. Pure.
//!
//! OpenAI's shape is one of many: servers send an error as an object or the only element of a list, flat, nested, as a
//! list of details, or as a bare text. What counts is looked for where errors have it, and nowhere else: a server may
//! also repeat the user's request. Invariant: the words that decide who is at fault come from codes, types, statuses and
//! reasons, which no user writes; of a message only its beginning or a phrase of the provider's is believed.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::{Map, Value};

use super::health::Failure;

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

/// Words that say that the operator's budget is used up.
const BUDGET: [&str; 9] = [
    "insufficient_quota",
    "insufficient_balance",
    "insufficient_credit",
    "credit_balance",
    "spend_limit",
    "usage_limit_exceeded",
    "billing",
    "current_quota",
    "payment_required",
];
/// Words that say that the operator's key or account is refused.
const ACCOUNT: [&str; 18] = [
    "api_key",
    "apikey",
    "authentication",
    "unauthenticated",
    "unauthorized",
    "access_token",
    "access_terminated",
    "credential",
    "deactivated",
    "suspended",
    "invalid_organization",
    "mismatched_",
    "unsupported_country",
    "consumer_",
    "service_disabled",
    "account_state",
    "location_policy",
    "user_project_denied",
];
/// The same, where the status does not say that permission is missing: then it may be for one model only.
const PERMISSION: [&str; 3] = ["permission_error", "permission_denied", "failed_precondition"];
/// How messages begin that say so without a word of the account.
const ACCOUNT_MESSAGES: [&str; 9] = [
    "incorrect api key",
    "invalid api key",
    "api key not valid",
    "api key not found",
    "api key expired",
    "no api key",
    "missing api key",
    "please pass a valid api key",
    "user location is not supported",
];
const BUDGET_MESSAGES: [&str; 2] = ["your credit balance", "insufficient balance"];

/// Words that say that a filter stopped the content.
const FILTER: [&str; 13] = [
    "content_filter",
    "contentfilter",
    "content_policy",
    "contentpolicy",
    "responsibleai",
    "moderation",
    "data_inspection",
    "datainspection",
    "prohibited_content",
    "content_blocked",
    "guardrail",
    "invalid_prompt",
    "safety",
];
const FILTER_MESSAGES: [&str; 8] = [
    "content exists risk",
    "content violates usage guidelines",
    "content management policy",
    "input was flagged",
    "prompt was flagged",
    "output was flagged",
    "inappropriate content",
    "considered high risk",
];

/// Words of an error that comes when the answer was generated already.
const LATE: [&str; 7] = [
    "tool_use_failed",
    "json_validate_failed",
    "output_parse_failed",
    "max_tokens_reached",
    "max_output_tokens_reached",
    "output_limit_reached",
    "invalid_model_output",
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

/// What a filter stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filtered {
    /// The request: nothing was generated.
    Prompt,
    /// What was generated.
    Output,
}

impl ErrorBody {
    /// Reads a body, if it says anything. `is_text`: it is meant to be read by people, and no page of a browser.
    pub(super) fn parse(body: &[u8], is_text: bool) -> Option<Self> {
        let text = String::from_utf8_lossy(body);
        let text = text.trim_start_matches('\u{feff}').trim();
        match serde_json::from_str(payload(text)) {
            Ok(value) => Self::of(&value),
            Err(_) if is_text && !text.is_empty() && !text.starts_with('<') && text.len() <= TEXT_BYTES_MAX => {
                Some(Self { message: text.to_owned(), ..Self::default() })
            }
            Err(_) => None,
        }
    }

    /// The error that a body with status 200 is in truth: an object that is no completion and says that it failed.
    pub(super) fn in_success(body: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(body).ok()?;
        let only = value.as_array().filter(|list| list.len() == 1).and_then(|list| list.first());
        let object = only.unwrap_or(&value).as_object()?;
        let has = |name: &str| object.get(name).is_some_and(is_said);
        if object.get("choices").and_then(Value::as_array).is_some_and(|list| !list.is_empty()) || has("usage") {
            return None;
        }
        let is_error = has("error")
            || has("errors")
            || object.get("object").or(object.get("type")).and_then(Value::as_str) == Some("error")
            || (has("message") && has("code"))
            || (has("detail") && object.len() == 1);
        is_error.then(|| Self::of(&value).unwrap_or_default())
    }

    fn of(value: &Value) -> Option<Self> {
        let mut read = Self { message: message_of(value, DEPTH_MAX).unwrap_or_default(), ..Self::default() };
        read.walk(value, DEPTH_MAX);
        (!read.message.is_empty() || !read.words.is_empty()).then_some(read)
    }

    fn walk(&mut self, value: &Value, depth: u8) {
        let Some(depth) = depth.checked_sub(1) else { return };
        match value {
            Value::Array(items) => items.iter().take(ITEMS_MAX).for_each(|item| self.walk(item, depth)),
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
            ("retrydelay" | "retry_delay", _) => self.retry_after = self.retry_after.or_else(|| proto_duration(value)),
            ("failed_generation", _) => self.has_generation = true,
            (_, Value::String(word)) if WORDS.contains(&name) => {
                self.words.push(word.to_ascii_lowercase());
                if name == "code" {
                    self.code.get_or_insert_with(|| word.clone());
                }
            }
            ("code" | "status" | "status_code", Value::Number(number)) => {
                let status = number.as_u64().and_then(|status| u16::try_from(status).ok());
                self.status = self.status.or(status.filter(|status| (400..600).contains(status)));
            }
            _ if PARTS.contains(&name) => self.walk(value, depth),
            _ => {}
        }
    }

    /// The operator's account is at fault: its budget, or its key. `is_permission`: the status says that permission is
    /// missing, which may be for this one model or content.
    pub(super) fn account_fault(&self, is_permission: bool) -> Option<Failure> {
        let message = self.message.to_lowercase();
        let begins = |starts: &[&str]| starts.iter().any(|start| message.starts_with(start));
        if self.says(&BUDGET) || begins(&BUDGET_MESSAGES) {
            return Some(Failure::Budget);
        }
        let of_account = |word: &String| word.starts_with("organization_") || word.starts_with("project_");
        let is_refused = self.says(&ACCOUNT)
            || self.words.iter().any(of_account)
            || begins(&ACCOUNT_MESSAGES)
            || (!is_permission && self.says(&PERMISSION));
        is_refused.then_some(Failure::Unauthorized)
    }

    /// A filter stopped the request, or what it generated. Where that is not said it was the request.
    pub(super) fn filtered(&self) -> Option<Filtered> {
        let message = self.message.to_lowercase();
        if !self.says(&FILTER) && !FILTER_MESSAGES.iter().any(|phrase| message.contains(phrase)) {
            return None;
        }
        let is_of_output = |text: &str| ["output", "completion", "generated"].iter().any(|word| text.contains(word));
        // Azure says of a prompt that "the response was filtered due to the prompt".
        let of_prompt = ["prompt", "input"].iter().any(|word| message.contains(word));
        let of_response = !of_prompt && message.contains("response");
        let says_output = self.words.iter().any(|word| is_of_output(word)) || is_of_output(&message) || of_response;
        Some(if says_output { Filtered::Output } else { Filtered::Prompt })
    }

    /// It comes after the work: the answer reached its cap, or could not be used.
    pub(super) fn is_late(&self) -> bool {
        let message = self.message.to_lowercase();
        let reached = message.contains("output limit was reached")
            || (message.contains("tokens") && message.contains("was reached"))
            || message.starts_with("could not finish the message");
        self.has_generation || self.says(&LATE) || reached
    }

    /// The operator's base URL is at fault: the server knows no such path.
    pub(super) fn is_about_the_path(&self) -> bool {
        let message = self.message.to_lowercase();
        let begins = ["invalid url", "404", "cannot post", "no route", "unexpected endpoint", "unknown request url"];
        let plain = message.trim_end_matches(['.', '!']);
        let whole = ["not found", "resource not found", "file not found", "page not found", "path not found"];
        begins.iter().any(|start| message.starts_with(start)) || whole.contains(&plain)
    }

    /// It refuses a member of the request by name, as one that it does not know.
    pub(super) fn refuses(&self, member: &str) -> bool {
        let message = self.message.to_lowercase();
        let names = |text: &str| {
            let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
            text.split(|letter| !is_of_name(letter)).any(|word| word == member)
        };
        let unknown = ["not support", "unsupported", "unrecognized", "unknown", "unexpected", "permitted", "forbidden"];
        let is_unknown = |text: &str| unknown.iter().any(|word| text.contains(word));
        let is_named = names(&message) || self.param.as_deref().is_some_and(names);
        is_named && (is_unknown(&message) || self.words.iter().any(|word| is_unknown(word)))
    }

    fn says(&self, known: &[&str]) -> bool {
        self.words.iter().any(|word| known.iter().any(|part| word.contains(part)))
    }
}

/// The JSON of an error: some servers frame it as an event.
fn payload(text: &str) -> &str {
    let data = text.lines().find_map(|line| line.strip_prefix("data:"));
    data.filter(|_| !text.starts_with(['{', '['])).map_or(text, str::trim)
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
    if text.starts_with(['{', '[']) { serde_json::from_str(text).ok() } else { None }
}

fn message_of(value: &Value, depth: u8) -> Option<String> {
    let depth = depth.checked_sub(1)?;
    match value {
        Value::String(text) => match json_in(text) {
            Some(inner) => message_of(&inner, depth),
            None => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
        },
        Value::Array(items) => {
            let messages: Vec<String> =
                items.iter().take(ITEMS_MAX).filter_map(|item| message_of(item, depth)).collect();
            (!messages.is_empty()).then(|| messages.join("; "))
        }
        Value::Object(members) => {
            let raw = members.get("metadata").and_then(|metadata| metadata.get("raw"));
            let raw = raw.and_then(|raw| message_of(raw, depth));
            raw.or_else(|| MESSAGES.iter().find_map(|name| message_of(member(members, name)?, depth)))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

fn member<'a>(members: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    members.get(name).or_else(|| {
        let mut all = members.iter();
        all.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
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
            Some(Duration::new(of("seconds")?, of("nanos").and_then(|nanos| u32::try_from(nanos).ok()).unwrap_or(0)))
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
    Some(Duration::new(whole.parse().ok()?, nanos.get(..9)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> ErrorBody {
        ErrorBody::parse(body.as_bytes(), false).unwrap_or_else(|| panic!("{body}"))
    }

    #[test]
    fn an_error_is_read_in_every_shape() {
        for body in [
            r#"{"error":{"message":"Too long.","type":"t","code":"c","param":null}}"#,
            r#"[{"error":{"code":400,"message":"Too long.","status":"INVALID_ARGUMENT"}}]"#,
            r#"{"object":"error","message":"Too long.","type":"BadRequestError","param":null,"code":400}"#,
            r#"{"detail":"Too long."}"#,
            r#"{"detail":[{"loc":["body","messages"],"msg":"Too long.","type":"value_error","input":{"message":"x"}}]}"#,
            r#"{"message":{"detail":[{"msg":"Too long."}]}}"#,
            r#"{"detail":{"error":"Too long."}}"#,
            r#"{"error":"Too long."}"#,
            r#"{"code":"Client specified an invalid argument","error":"Too long."}"#,
            r#"{"error":"Too long.","error_type":"validation"}"#,
            r#"{"statusCode":400,"error":"Bad Request","message":"Too long."}"#,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"Too long."}}"#,
            r#"{"success":false,"errors":[{"code":7003,"message":"Too long."}]}"#,
            r#"{"__type":"ValidationException","Message":"Too long."}"#,
            r#"{"fault":{"faultstring":"Too long.","detail":{"errorcode":"x"}}}"#,
            r#"{"title":"Bad Request","status":400,"detail":"Too long."}"#,
            r#"{"error":{"message":"Provider returned error","metadata":{"raw":"{\"error\":{\"message\":\"Too long.\"}}"}}}"#,
            r#"{"error":{"message":"{\"error\":{\"message\":\"Too long.\"}}"}}"#,
            r#""Too long.""#,
            "data: {\"error\":{\"message\":\"Too long.\"}}\n\n",
            "event: error\ndata: {\"error\":{\"message\":\"Too long.\"}}\n\n",
        ] {
            assert_eq!(read(body).message, "Too long.", "{body}");
        }
        let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
        for body in ["", "nothing", "<html>", "7", "null", "{}", "[]", r#"{"error":null}"#, &deep] {
            assert!(ErrorBody::parse(body.as_bytes(), false).is_none(), "{body}");
        }
        assert_eq!(ErrorBody::parse(b" missing field `x` ", true).unwrap().message, "missing field `x`");
        assert!(ErrorBody::parse(b"<html>x", true).is_none());
        assert_eq!(
            read(r#"{"detail":[{"loc":["body","messages",0,"role"],"msg":"x"}]}"#).param.unwrap(),
            "messages[0].role"
        );
    }

    #[test]
    fn what_is_about_the_operators_account_is_known_by_its_words() {
        let google = |reason: &str| {
            format!(
                r#"{{"error":{{"code":400,"message":"Bad.","status":"INVALID_ARGUMENT","details":[{{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"{reason}","domain":"googleapis.com"}}]}}}}"#
            )
        };
        let unauthorized = [
            google("API_KEY_INVALID"),
            format!("[{}]", google("API_KEY_EXPIRED")),
            google("API_KEY_SERVICE_BLOCKED"),
            google("CONSUMER_SUSPENDED"),
            google("SERVICE_DISABLED"),
            r#"{"error":{"message":"x","status":"UNAUTHENTICATED"}}"#.to_owned(),
            r#"{"error":{"message":"User location is not supported for the API use.","status":"FAILED_PRECONDITION"}}"#
                .to_owned(),
            r#"{"code":"Client specified an invalid argument","error":"Incorrect API key provided: xa***. "}"#
                .to_owned(),
            r#"{"error":{"message":"x","type":"invalid_authentication_error"}}"#.to_owned(),
            r#"{"error":{"message":"x","code":"organization_restricted"}}"#.to_owned(),
        ];
        for body in &unauthorized {
            assert_eq!(read(body).account_fault(false), Some(Failure::Unauthorized), "{body}");
        }
        for body in [
            google("BILLING_DISABLED"),
            r#"{"error":{"message":"Your credit balance is too low to access the API.","type":"invalid_request_error"}}"#.to_owned(),
            r#"{"error":{"message":"x","type":"exceeded_current_quota_error"}}"#.to_owned(),
            r#"{"error":{"message":"Insufficient Balance","code":"invalid_request_error"}}"#.to_owned(),
        ] {
            assert_eq!(read(&body).account_fault(false), Some(Failure::Budget), "{body}");
        }
        // What a user wrote and the provider repeats is no word of its own.
        for body in [
            r#"{"error":{"message":"Invalid 'tools[0].function.name': 'incorrect api key'","type":"invalid_request_error","param":"api_key"}}"#,
            r#"{"detail":[{"loc":["body","x"],"msg":"no","type":"string_type","input":{"code":"invalid_api_key","reason":"API_KEY_INVALID"}}]}"#,
            r#"{"error":{"message":"Quota exceeded.","status":"RESOURCE_EXHAUSTED","details":[{"reason":"RATE_LIMIT_EXCEEDED"}]}}"#,
        ] {
            assert_eq!(read(body).account_fault(false), None, "{body}");
        }
        let no_permission =
            read(r#"{"error":{"message":"No permission for this model.","status":"PERMISSION_DENIED"}}"#);
        assert_eq!(
            (no_permission.account_fault(true), no_permission.account_fault(false)),
            (None, Some(Failure::Unauthorized))
        );
    }

    #[test]
    fn a_filter_is_known_and_what_it_stopped() {
        for (body, stopped) in [
            (
                r#"{"error":{"message":"The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please modify your prompt and retry.","type":null,"param":"prompt","code":"content_filter","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation","content_filter_result":{"hate":{"filtered":true,"severity":"high"}}}}}"#,
                Filtered::Prompt,
            ),
            (r#"{"error":{"message":"x","innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#, Filtered::Prompt),
            (
                r#"{"error":{"message":"x","code":"content_filter","content_filters":[{"blocked":false,"source_type":"completion"},{"blocked":true,"source_type":"prompt"}]}}"#,
                Filtered::Prompt,
            ),
            (
                r#"{"error":{"message":"x","code":"content_filter","content_filters":[{"blocked":true,"source_type":"completion"}]}}"#,
                Filtered::Output,
            ),
            (
                r#"{"error":{"message":"Output data may contain inappropriate content.","code":"data_inspection_failed"}}"#,
                Filtered::Output,
            ),
            (
                r#"{"error":{"message":"Input data may contain inappropriate content.","code":"data_inspection_failed"}}"#,
                Filtered::Prompt,
            ),
            (r#"{"error":{"message":"The generated text was stopped.","code":"content_filter"}}"#, Filtered::Output),
            (r#"{"error":{"message":"The response was filtered.","code":"content_filter"}}"#, Filtered::Output),
            (r#"{"error":{"message":"Content Exists Risk","type":"invalid_request_error"}}"#, Filtered::Prompt),
            (
                r#"{"error":{"message":"The request was rejected because it was considered high risk","type":"content_filter"}}"#,
                Filtered::Prompt,
            ),
            (
                r#"{"code":"The caller does not have permission","error":"Content violates usage guidelines. Failed check: X"}"#,
                Filtered::Prompt,
            ),
            (
                r#"{"error":{"code":403,"message":"The model requires moderation and your input was flagged","metadata":{"reasons":["violence"]}}}"#,
                Filtered::Prompt,
            ),
        ] {
            assert_eq!(read(body).filtered(), Some(stopped), "{body}");
        }
        let about_the_request = r#"{"error":{"message":"This model's maximum context length is 8192 tokens.","type":"invalid_request_error","code":"context_length_exceeded"}}"#;
        assert_eq!(read(about_the_request).filtered(), None);
    }

    #[test]
    fn what_comes_after_the_work_is_told_from_what_comes_before() {
        for body in [
            r#"{"error":{"message":"Could not finish the message because max_tokens or model output limit was reached. Please try again with higher max_tokens.","type":"invalid_request_error"}}"#,
            r#"{"error":{"message":"max_tokens of 20 was reached.","type":"x"}}"#,
            r#"{"error":{"message":"Failed to call a function.","type":"invalid_request_error","code":"tool_use_failed","failed_generation":"<f>"}}"#,
            r#"{"error":{"message":"x","code":"json_validate_failed"}}"#,
            r#"{"error":{"message":"x","failed_generation":""}}"#,
        ] {
            assert!(read(body).is_late(), "{body}");
        }
        for body in [
            r#"{"error":{"message":"max_tokens is too large: 999999. This model supports at most 16384 completion tokens.","code":"invalid_value"}}"#,
            r#"{"error":{"message":"This model's maximum context length is 8192 tokens. However, you requested 9000.","code":"context_length_exceeded"}}"#,
        ] {
            assert!(!read(body).is_late(), "{body}");
        }
    }

    #[test]
    fn a_member_that_the_server_does_not_know_is_named() {
        for body in [
            r#"{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"Extra inputs are not permitted","input":{}}]}"#,
            r#"{"message":{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"x"}]}}"#,
            r#"{"error":{"message":"Unrecognized request argument supplied: stream_options"}}"#,
            r#"{"error":{"message":"Unsupported parameter.","param":"stream_options.include_usage"}}"#,
            r#"{"error":{"message":"json: unknown field \"stream_options\""}}"#,
        ] {
            assert!(read(body).refuses("stream_options"), "{body}");
        }
        let instead = r#"{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.","param":"max_tokens"}}"#;
        assert!(read(instead).refuses("max_tokens"));
        let range =
            r#"{"error":{"message":"max_tokens is too large: 5000.","param":"max_tokens","code":"invalid_value"}}"#;
        assert!(!read(range).refuses("max_tokens"));
    }

    #[test]
    fn a_wait_is_read_to_the_part_of_a_second() {
        let wait = |delay: &str| {
            read(&format!(r#"{{"error":{{"message":"x","details":[{{"retryDelay":{delay}}}]}}}}"#)).retry_after
        };
        assert_eq!(wait("\"39.2s\""), Some(Duration::from_millis(39_200)));
        assert_eq!(wait(r#"{"seconds":3,"nanos":500000000}"#), Some(Duration::from_millis(3_500)));
        assert_eq!((wait("\"soon\""), wait("7")), (None, None));
        assert_eq!(seconds("1.9"), Some(Duration::from_millis(1_900)));
        assert_eq!(seconds("0.1234567891"), Some(Duration::from_nanos(123_456_789)));
        for odd in ["", ".", "1.", ".5", "-1", "1.9.3", "1e3", "99999999999999999999999"] {
            assert_eq!(seconds(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_success_that_is_an_error_is_known() {
        for body in [
            r#"{"error":{"message":"x","code":429}}"#,
            r#"{"error":"x"}"#,
            r#"[{"error":{"message":"x"}}]"#,
            r#"{"object":"error","message":"x"}"#,
            r#"{"type":"error","error":{"type":"overloaded_error","message":"x"}}"#,
            r#"{"message":"x","code":"y"}"#,
            r#"{"choices":[],"error":{"message":"x"}}"#,
            r#"{"choices":null,"usage":null,"error":{"message":"x"}}"#,
        ] {
            assert!(ErrorBody::in_success(body.as_bytes()).is_some(), "{body}");
        }
        for body in [
            "{}",
            "[]",
            "x",
            r#"{"error":null}"#,
            r#"{"error":""}"#,
            r#"{"error":false}"#,
            r#"{"message":"x"}"#,
            r#"{"error":{"message":"x"},"choices":[{"index":0}]}"#,
            r#"{"error":{"message":"x"},"usage":{"prompt_tokens":1}}"#,
        ] {
            assert!(ErrorBody::in_success(body.as_bytes()).is_none(), "{body}");
        }
    }
}
