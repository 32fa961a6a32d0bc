//! Takes everything about the operator out of an upstream's message. Pure.
//!
//! Whole words go, and rather one too many: what is left is for the user of an app, who needs none of them.

use std::net::{IpAddr, SocketAddr};

use secrecy::ExposeSecret;

use crate::config::UpstreamConfig;

/// The longest message passed on, in characters.
const MESSAGE_CHARS_MAX: usize = 500;
/// What stands where something was taken out.
const REMOVED: &str = "[removed]";
/// How the names of keys, organisations, projects, requests, users and accounts begin.
const PREFIXES: [&str; 16] = [
    "sk-", "sk_", "key-", "key_", "org-", "org_", "proj-", "proj_", "req-", "req_", "user-", "user_", "acct-", "acct_",
    "bearer", "sess-",
];
/// A run of letters and digits of this length is nobody's word.
const RUN_MAX: usize = 24;

/// `message` in one line and at most 500 characters, without identifiers, keys, addresses and URLs.
pub(super) fn strip(message: &str, from: &UpstreamConfig) -> String {
    let host = host(&from.base_url);
    let keys = [&from.api_key, &from.api_key_previous].into_iter().flatten().map(ExposeSecret::expose_secret);
    let keys: Vec<&str> = keys.filter(|key| !key.is_empty()).collect();
    let mut plain = String::new();
    for word in message.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        if !plain.is_empty() {
            plain.push(' ');
        }
        let names_operator = keys.iter().any(|key| word.contains(key)) || word.to_lowercase().contains(&host);
        plain.push_str(if names_operator || is_identifier(word) { REMOVED } else { word });
    }
    match plain.char_indices().nth(MESSAGE_CHARS_MAX) {
        None => plain,
        Some((end, _)) => format!("{}…", plain.get(..end).unwrap_or_default()),
    }
}

/// The host of a URL, in lower case and without its port.
fn host(url: &str) -> String {
    let uri = url.parse::<http::Uri>().ok();
    // A URL that cannot be read is looked for as it stands.
    uri.as_ref().and_then(http::Uri::host).unwrap_or(url).to_lowercase()
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
    word.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').any(|run| {
        run.len() >= RUN_MAX && run.bytes().any(|b| b.is_ascii_digit()) && run.bytes().any(|b| b.is_ascii_alphabetic())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::tests::upstream;

    #[test]
    fn what_is_about_the_operator_goes_and_what_is_about_the_request_stays() {
        let from = upstream("https://LLM.example.internal:8443/v1", Some("local-operator-key"));
        let cases = [
            ("This model's maximum context length is 128000 tokens.", None),
            ("Invalid value for 'messages[0].content': risk-free, task-based.", None),
            ("The model `gpt-4o-mini-2024-07-18` does not exist.", None),
            ("Incorrect API key provided: sk-abcd***wxyz. Find", Some("sk-abcd***wxyz.")),
            ("in (org-AbC123) now", Some("(org-AbC123)")),
            ("project \"proj_9xyz\" has", Some("\"proj_9xyz\"")),
            ("id=req_011CabcDEF said", Some("id=req_011CabcDEF")),
            ("write to ops@example.com please", Some("ops@example.com")),
            ("see https://platform.example.com/x for", Some("https://platform.example.com/x")),
            ("host llm.EXAMPLE.internal is", Some("llm.EXAMPLE.internal")),
            ("at 10.0.0.7:8000, or", Some("10.0.0.7:8000,")),
            ("key local-operator-key is", Some("local-operator-key")),
            ("of 7d4b6f0e-9f4c-4f0e-8a51-0f6a2f7f0b11 here", Some("7d4b6f0e-9f4c-4f0e-8a51-0f6a2f7f0b11")),
        ];
        for (message, secret) in cases {
            let wanted = secret.map_or_else(|| message.to_owned(), |secret| message.replace(secret, REMOVED));
            assert_eq!(strip(message, &from), wanted);
        }
    }

    #[test]
    fn a_message_is_one_line_and_cut() {
        let from = upstream("http://127.0.0.1:1/v1", None);
        assert_eq!(strip("two\r\n lines\u{0}!", &from), "two lines !");
        let long = strip(&"é ".repeat(9000), &from);
        assert_eq!(long.chars().count(), MESSAGE_CHARS_MAX + 1);
        assert!(long.ends_with('…'));
    }
}
