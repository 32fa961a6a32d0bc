//! Takes everything about the operator out of an upstream's message. Pure.
//!
//! Whole words go, and rather one too many: what is left is for the user of an app, who needs none of them.

use std::net::{IpAddr, SocketAddr};

use secrecy::ExposeSecret;

use crate::config::UpstreamConfig;

/// The longest message passed on, in characters.
const MESSAGE_CHARS_MAX: usize = 500;
/// The longest code or path of a field that is passed on.
const WORD_BYTES_MAX: usize = 128;
/// What stands where something was taken out.
const REMOVED: &str = "[removed]";
/// How the names of keys, organisations, projects, requests, users and accounts begin.
const PREFIXES: [&str; 16] = [
    "sk-", "sk_", "key-", "key_", "org-", "org_", "proj-", "proj_", "req-", "req_", "user-",
    "user_", "acct-", "acct_", "bearer", "sess-",
];
/// A run of letters and digits of this length is nobody's word.
const RUN_MAX: usize = 24;

/// `message` in one line and at most 500 characters, without identifiers, keys, addresses and URLs.
pub(super) fn redact(message: &str, from: &UpstreamConfig) -> String {
    let operator = Operator::of(from);
    let mut plain = String::new();
    for word in message
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
    {
        if !plain.is_empty() {
            plain.push(' ');
        }
        plain.push_str(if operator.is_named_by(word) {
            REMOVED
        } else {
            word
        });
    }
    match plain.char_indices().nth(MESSAGE_CHARS_MAX) {
        None => plain,
        Some((end, _)) => format!("{}…", plain.get(..end).unwrap_or_default()),
    }
}

/// Whether `text` may be told as an error's code or the field that it is about: short, of the letters, digits and signs
/// that these are made of, and nothing about the operator. A hyphen is not among them: keys and ids have one, in the
/// middle of a word too.
pub(super) fn is_harmless_word(text: &str, from: &UpstreamConfig) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"_.[]".contains(&b);
    (1..=WORD_BYTES_MAX).contains(&text.len())
        && text.bytes().all(known)
        && !Operator::of(from).is_named_by(text)
}

/// What the operator is known by at an upstream.
struct Operator<'a> {
    host: String,
    keys: Vec<&'a str>,
}

impl<'a> Operator<'a> {
    fn of(from: &'a UpstreamConfig) -> Self {
        let keys = from.secrets().map(ExposeSecret::expose_secret);
        Self {
            host: host(&from.base_url),
            keys: keys.filter(|key| !key.is_empty()).collect(),
        }
    }

    /// A word with a key or the host in it, or that looks like an identifier of anybody.
    fn is_named_by(&self, word: &str) -> bool {
        let known = self.keys.iter().any(|key| word.contains(key))
            || word.to_lowercase().contains(&self.host);
        known || is_identifier(word)
    }
}

/// The host of a URL, in lower case and without its port.
fn host(url: &str) -> String {
    let uri = url.parse::<http::Uri>().ok();
    // A URL that cannot be read is looked for as it stands.
    uri.as_ref()
        .and_then(http::Uri::host)
        .unwrap_or(url)
        .to_lowercase()
}

fn is_identifier(word: &str) -> bool {
    let word = word.trim_matches(|c: char| c.is_ascii_punctuation() && c != '[' && c != ']');
    word.contains('@')
        || word.contains("://")
        || word.to_lowercase().contains("www.")
        || has_prefix(&word.to_lowercase())
        || word.parse::<IpAddr>().is_ok()
        || word.parse::<SocketAddr>().is_ok()
        || has_long_run(word)
}

/// A prefix at the start of the word, or after anything but a letter or digit, with something after it.
fn has_prefix(word: &str) -> bool {
    PREFIXES.iter().any(|prefix| {
        word.match_indices(prefix).any(|(at, _)| {
            let before = word.get(..at).and_then(|before| before.chars().next_back());
            before.is_none_or(|c| !c.is_alphanumeric())
        })
    })
}

/// Letters and digits mixed, as in a key or a UUID. Names of fields and models are words, or shorter.
fn has_long_run(word: &str) -> bool {
    word.split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
        .any(|run| {
            run.len() >= RUN_MAX
                && run.bytes().any(|b| b.is_ascii_digit())
                && run.bytes().any(|b| b.is_ascii_alphabetic())
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::tests::upstream;

    #[test]
    fn what_is_about_the_operator_goes_and_what_is_about_the_request_stays() {
        let from = upstream(
            "https://LLM.example.internal:8443/v1",
            Some("local-operator-key"),
        );
        let cases = [
            (
                "This model's maximum context length is 128000 tokens.",
                None,
            ),
            (
                "Invalid value for 'messages[0].content': risk-free, task-based.",
                None,
            ),
            ("The model `gpt-4o-mini-2024-07-18` does not exist.", None),
            (
                "Incorrect API key provided: sk-abcd***wxyz. Find",
                Some("sk-abcd***wxyz."),
            ),
            ("in (org-AbC123) now", Some("(org-AbC123)")),
            ("project \"proj_9xyz\" has", Some("\"proj_9xyz\"")),
            ("id=req_011CabcDEF said", Some("id=req_011CabcDEF")),
            ("write to ops@example.com please", Some("ops@example.com")),
            (
                "see https://platform.example.com/x for",
                Some("https://platform.example.com/x"),
            ),
            ("host llm.EXAMPLE.internal is", Some("llm.EXAMPLE.internal")),
            ("at 10.0.0.7:8000, or", Some("10.0.0.7:8000,")),
            ("key local-operator-key is", Some("local-operator-key")),
            (
                "of 7d4b6f0e-9f4c-4f0e-8a51-0f6a2f7f0b11 here",
                Some("7d4b6f0e-9f4c-4f0e-8a51-0f6a2f7f0b11"),
            ),
        ];
        for (message, secret) in cases {
            let wanted = secret.map_or_else(
                || message.to_owned(),
                |secret| message.replace(secret, REMOVED),
            );
            assert_eq!(redact(message, &from), wanted);
        }
    }

    #[test]
    fn a_code_or_field_is_told_only_if_it_names_nobody() {
        let from = upstream(
            "https://LLM.example.internal:8443/v1",
            Some("localOperatorKey"),
        );
        for word in [
            "context_length_exceeded",
            "model_not_found",
            "unsupported_parameter",
            "BadRequestError",
            "messages[0].content[1].image_url",
            "response_format.json_schema",
            "logit_bias.1234",
            "max_completion_tokens",
        ] {
            assert!(is_harmless_word(word, &from), "{word}");
        }
        for word in [
            "",
            "localOperatorKey",
            "xlocalOperatorKeyx",
            "sk-abcd",
            "task-abcd",
            "in_org-AbC123",
            "org_AbC123",
            "in_proj_9xyz",
            "messages[0].sk_abcd",
            "llm.example.internal",
            "10.0.0.7",
            "7d4b6f0e9f4c4f0e8a510f6a2f7f0b11",
            "two words",
            "a/b",
            &"a".repeat(129),
        ] {
            assert!(!is_harmless_word(word, &from), "{word}");
        }
    }

    #[test]
    fn a_message_is_one_line_and_cut() {
        let from = upstream("http://127.0.0.1:1/v1", None);
        assert_eq!(redact("two\r\n lines\u{0}!", &from), "two lines !");
        let long = redact(&"é ".repeat(9000), &from);
        assert_eq!(long.chars().count(), MESSAGE_CHARS_MAX + 1);
        assert!(long.ends_with('…'));
    }
}
