//! What a caller is told of a response that failed. Pure.
//!
//! A provider's message may name the operator's organisation, its key or its hosts. One that is plain prose passes as it came,
//! any other is replaced; the rest of the answer stays.

use std::borrow::Cow;

use serde_json::Value;

use crate::meter::Fault;

/// The longest message and code that pass.
const PROSE_BYTES_MAX: usize = 500;
/// The longest word of prose.
const WORD_BYTES_MAX: usize = 20;

/// The payload of an event, or a whole answer, as the caller is told it.
pub(super) fn told(payload: &[u8]) -> Cow<'_, [u8]> {
    let Ok(mut value) = serde_json::from_slice::<Value>(payload) else {
        return Cow::Borrowed(payload);
    };
    let is_event = value.get("response").is_some_and(Value::is_object);
    let response = if is_event {
        value.get_mut("response")
    } else {
        Some(&mut value)
    };
    let error = response.and_then(|response| response.get_mut("error"));
    match error {
        Some(error) if !error.is_null() && !is_harmless(error) => {
            *error = replaced(error);
            Cow::Owned(value.to_string().into_bytes())
        }
        _ => Cow::Borrowed(payload),
    }
}

/// An error whose code is a word and whose message is prose, and nothing else.
fn is_harmless(error: &Value) -> bool {
    let Some(members) = error.as_object() else {
        return false;
    };
    members
        .iter()
        .all(|(name, value)| match (name.as_str(), value) {
            (_, Value::Null) => true,
            ("code" | "type", Value::String(code)) => is_code(code),
            ("message", Value::String(message)) => is_prose(message),
            _ => false,
        })
}

fn replaced(error: &Value) -> Value {
    let code = error.get("code").and_then(Value::as_str);
    let code = code.filter(|code| is_code(code)).unwrap_or("server_error");
    serde_json::json!({"code": code, "message": Fault::Upstream.refusal().message})
}

fn is_code(code: &str) -> bool {
    let words = code.split('_');
    let is_word = |word: &str| {
        word.len() <= WORD_BYTES_MAX && word.bytes().all(|byte| byte.is_ascii_lowercase())
    };
    code.len() <= PROSE_BYTES_MAX && words.into_iter().all(is_word)
}

/// Words of letters, numbers of a few digits, and what stands at the end of them.
fn is_prose(message: &str) -> bool {
    let is_plain = |word: &str| {
        let word = word.trim_matches(|sign: char| ".,;:!?()'\"`".contains(sign));
        let is_letters = word
            .bytes()
            .all(|byte| byte.is_ascii_alphabetic() || byte == b'\'');
        let is_number = word.len() <= 4 && word.bytes().all(|byte| byte.is_ascii_digit());
        word.len() <= WORD_BYTES_MAX && (is_letters || is_number)
    };
    message.len() <= PROSE_BYTES_MAX && message.split(' ').all(is_plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn prose_passes_and_whatever_may_name_somebody_does_not() {
        for message in [
            "The model failed.",
            "",
            "Try again in 30 seconds (or don't).",
        ] {
            assert!(is_prose(message), "{message}");
        }
        for message in [
            "Incorrect API key sk-proj-1",
            "Limit of organization org-abc reached",
            "see https://example.com",
            "host vllm.internal is down",
            "10.0.0.7",
            "somebody@example.com",
            "AbCdEfGhIjKlMnOpQrStUvWxYz",
            "user 12345678",
        ] {
            assert!(!is_prose(message), "{message}");
        }
    }

    #[test]
    fn only_the_error_is_replaced() {
        let of = |message: &str| {
            json!({"type": "response.failed", "sequence_number": 4, "response": {"id": "resp_1", "status": "failed",
                "error": {"code": "rate_limit_exceeded", "message": message}, "output": []}})
        };
        let plain = of("The model failed.").to_string();
        assert_eq!(told(plain.as_bytes()), plain.as_bytes());
        let named = of("Limit of org-abc reached").to_string();
        let told: Value = serde_json::from_slice(&told(named.as_bytes())).unwrap();
        let mut wanted = of("The model's provider failed in mid-answer.");
        assert_eq!(told, wanted);
        wanted["response"]["error"] = json!({"code": "Org_x1", "message": "", "url": "x"});
        let told: Value =
            serde_json::from_slice(&super::told(wanted.to_string().as_bytes())).unwrap();
        assert_eq!(told["response"]["error"]["code"], "server_error");
    }
}
