//! Requests that two servers would read differently: the socket's part of check 23 of the threats.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use crate::limits_page::HEADERS_MAX;
use crate::slow_client;
use crate::support::caller::{and, chat};
use crate::support::door::Door;
use crate::support::keys::Key;
use crate::support::raw::{Wire, statuses, told};
use crate::support::settings::Settings;
use crate::support::tokens::sign;

pub(crate) const PATH: &str = "/v1/chat/completions";

/// A request as bytes, with these lines between the first and the blank one.
pub(crate) fn raw(first: &str, lines: &[String], body: &str) -> Vec<u8> {
    format!("{first}\r\n{}\r\n\r\n{body}", lines.join("\r\n")).into_bytes()
}

/// A request for a chat completion, in the parts that the forms below put together wrongly.
struct Parts {
    body: String,
    length: String,
    common: Vec<String>,
    /// The same body, chunked.
    chunks: String,
    /// A whole request, to hide in another.
    inner: String,
}

impl Parts {
    fn new(token: &str) -> Self {
        let body = chat("smuggled").to_string();
        let length = format!("Content-Length: {}", body.len());
        let common: Vec<String> = [
            "Host: tollgate.test",
            &format!("Authorization: Bearer {token}"),
            "Content-Type: application/json",
        ]
        .map(str::to_owned)
        .to_vec();
        let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        let inner = format!(
            "POST {PATH} HTTP/1.1\r\n{}\r\n{length}\r\n\r\n{body}",
            common.join("\r\n")
        );
        Self {
            body,
            length,
            common,
            chunks,
            inner,
        }
    }

    /// A request with these lines more.
    fn with(&self, first: &str, more: &[&str], body: &str) -> Vec<u8> {
        let mut lines = self.common.clone();
        lines.extend(more.iter().map(|line| (*line).to_owned()));
        raw(first, &lines, body)
    }

    fn post(&self, more: &[&str], body: &str) -> Vec<u8> {
        self.with(&format!("POST {PATH} HTTP/1.1"), more, body)
    }

    /// A well-formed request to another target.
    fn to(&self, target: &str) -> Vec<u8> {
        self.with(
            &format!("POST {target} HTTP/1.1"),
            &[&self.length],
            &self.body,
        )
    }
}

/// Two opinions about where the body ends.
#[allow(clippy::too_many_lines, reason = "one story, step by step")]
fn odd_lengths(parts: &Parts) -> Vec<(&'static str, Vec<u8>)> {
    let Parts {
        body,
        length,
        chunks,
        inner,
        ..
    } = parts;
    let (chunked, size) = ("Transfer-Encoding: chunked", body.len());
    vec![
        (
            "length and chunked",
            parts.post(&[length, chunked], &format!("0\r\n\r\n{inner}")),
        ),
        (
            "chunked and length",
            parts.post(&[chunked, "Content-Length: 5"], &format!("{chunks}{inner}")),
        ),
        (
            "two lengths",
            parts.post(&[length, "Content-Length: 0"], &format!("{body}{inner}")),
        ),
        (
            "two lengths in one",
            parts.post(&["Content-Length: 0, 5"], inner),
        ),
        (
            "a signed length",
            parts.post(&[&format!("Content-Length: +{size}")], body),
        ),
        (
            "a negative length",
            parts.post(&["Content-Length: -1"], body),
        ),
        (
            "a length beyond u64",
            parts.post(&["Content-Length: 99999999999999999999999"], body),
        ),
        (
            "a length in hex",
            parts.post(&["Content-Length: 0x10"], body),
        ),
        (
            "chunked twice",
            parts.post(&[chunked, chunked], &format!("{chunks}{inner}")),
        ),
        (
            "chunked, chunked",
            parts.post(
                &["Transfer-Encoding: chunked, chunked"],
                &format!("{chunks}{inner}"),
            ),
        ),
        (
            "chunked, then identity",
            parts.post(
                &["Transfer-Encoding: chunked, identity"],
                &format!("{chunks}{inner}"),
            ),
        ),
        (
            "an unknown coding",
            parts.post(
                &["Transfer-Encoding: xchunked"],
                &format!("{chunks}{inner}"),
            ),
        ),
        (
            "a coding after a tab",
            parts.post(
                &["Transfer-Encoding:\tchunked", "Content-Length: 3"],
                &format!("{chunks}{inner}"),
            ),
        ),
        (
            "a coding before a colon",
            parts.post(
                &["Transfer-Encoding : chunked", length],
                &format!("{body}{inner}"),
            ),
        ),
        (
            "a chunk size with 0x",
            parts.post(&[chunked], &format!("0x{chunks}{inner}")),
        ),
        (
            "a chunk size with a sign",
            parts.post(&[chunked], &format!("+{chunks}{inner}")),
        ),
        (
            "a chunk size beyond u64",
            parts.post(&[chunked], &format!("fffffffffffffffff\r\n{body}")),
        ),
        (
            "a chunk without its end",
            parts.post(&[chunked], &format!("{size:x}\r\n{body}0\r\n\r\n{inner}")),
        ),
        (
            "a body on GET",
            parts.with(
                "GET / HTTP/1.1",
                &["Content-Length: 0", chunked],
                &format!("0\r\n\r\n{inner}"),
            ),
        ),
    ]
}

/// Lines that are no headers, or that say who is meant twice.
fn odd_lines(parts: &Parts) -> Vec<(&'static str, Vec<u8>)> {
    let Parts {
        body,
        length,
        inner,
        ..
    } = parts;
    let bare = String::from_utf8(parts.to(PATH))
        .unwrap()
        .replace("\r\n", "\n")
        .into_bytes();
    let preface = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        inner.clone().into_bytes(),
    ]
    .concat();
    vec![
        (
            "a folded header",
            parts.post(&[length, "X-A: b\r\n folded: c"], body),
        ),
        (
            "a header with NUL",
            parts.post(&[length, "X-A: b\0c"], body),
        ),
        (
            "a bare CR",
            parts.post(&[length, "X-A: b\rTransfer-Encoding: chunked"], body),
        ),
        (
            "a header without a name",
            parts.post(&[length, ": b"], body),
        ),
        ("two hosts", parts.post(&[length, "Host: other.test"], body)),
        ("bare line feeds", bare),
        (
            "an upgrade",
            parts.post(&[length, "Connection: Upgrade", "Upgrade: websocket"], body),
        ),
        (
            "HTTP/1.0 with a body",
            parts.with(&format!("POST {PATH} HTTP/1.0"), &[length], body),
        ),
        (
            "HTTP/3.9",
            parts.with(&format!("POST {PATH} HTTP/3.9"), &[length], body),
        ),
        ("a preface of HTTP/2", preface),
        (
            "CONNECT",
            parts.with("CONNECT example.test:443 HTTP/1.1", &[], ""),
        ),
    ]
}

/// Targets that one server resolves and another does not.
fn odd_targets(parts: &Parts) -> Vec<(&'static str, Vec<u8>)> {
    [
        (
            "an absolute target",
            "http://169.254.169.254/v1/chat/completions",
        ),
        (
            "an absolute target of another scheme",
            "gopher://localhost/v1/chat/completions",
        ),
        ("doubled slashes", "//v1/chat/completions"),
        ("doubled slashes inside", "/v1//chat/completions"),
        ("an encoded letter", "/v1/%63hat/completions"),
        ("an encoded slash", "/v1%2fchat/completions"),
        ("dots", "/v1/chat/../chat/completions"),
        ("encoded dots", "/v1/%2e%2e/v1/chat/completions"),
        ("a trailing slash", "/v1/chat/completions/"),
        ("another case", "/V1/Chat/Completions"),
        ("a semicolon", "/v1/chat/completions;x=1"),
        ("a fragment", "/v1/chat/completions#x"),
        ("an asterisk", "*"),
        ("a target with a space", "/v1/chat/completions HTTP/1.1 x"),
    ]
    .map(|(form, target)| (form, parts.to(target)))
    .to_vec()
}

/// Heads and bodies that are too long, too many or encoded.
fn odd_sizes(parts: &Parts) -> Vec<(&'static str, Vec<u8>)> {
    let Parts { body, length, .. } = parts;
    let long = and(
        chat("long"),
        &json!({"messages": [{"role": "user", "content": "word ".repeat(30_000)}]}),
    )
    .to_string();
    let (long_length, chunked) = (
        format!("Content-Length: {}", long.len()),
        "Transfer-Encoding: chunked",
    );
    let padding = |count: usize| {
        (0..count)
            .map(|number| format!("X-{number}: a"))
            .collect::<Vec<_>>()
    };
    let many = |count: usize| {
        let lines = padding(count - parts.common.len() - 1);
        let mut more: Vec<&str> = lines.iter().map(String::as_str).collect();
        more.push(length);
        parts.post(&more, body)
    };
    let with_coding =
        |coding: &str| parts.post(&[length, &format!("Content-Encoding: {coding}")], body);
    vec![
        (
            "a header longer than `[server] header_bytes_max`",
            parts.post(&[length, &format!("X-A: {}", "a".repeat(40 << 10))], body),
        ),
        ("headers that are longer together", {
            let line = format!("X-A: {}", "a".repeat(1 << 10));
            parts.post(&[vec![length.as_str()], vec![&line; 40]].concat(), body)
        }),
        (
            "a target longer than `[server] header_bytes_max`",
            parts.to(&format!("/{}", "a".repeat(60 << 10))),
        ),
        ("100 headers", many(HEADERS_MAX)),
        ("101 headers", many(HEADERS_MAX + 1)),
        (
            "a body longer than `[server] body_bytes_max`, which its length says",
            parts.post(&[&long_length], &long),
        ),
        (
            "the same, chunked",
            parts.post(
                &[chunked],
                &format!("{:x}\r\n{long}\r\n0\r\n\r\n", long.len()),
            ),
        ),
        ("`Content-Encoding: gzip`", with_coding("gzip")),
        ("`Content-Encoding: br`", with_coding("br")),
        ("`Content-Encoding: identity`", with_coding("identity")),
        ("`Content-Type: text/plain`", {
            let lines: Vec<String> = parts
                .common
                .iter()
                .map(|line| line.replace("application/json", "text/plain"))
                .collect();
            raw(
                &format!("POST {PATH} HTTP/1.1"),
                &[lines, vec![length.clone()]].concat(),
                body,
            )
        }),
    ]
}

/// What each form is answered, and how many requests the upstream got.
async fn tried(door: &Door, forms: Vec<(&'static str, Vec<u8>)>) -> String {
    let (mut table, mut unclean) = ("| request | answer |\n|---|---|\n".to_owned(), Vec::new());
    for (form, bytes) in forms {
        let before = door.upstream.count();
        let mut wire = Wire::open(door.front.address()).await;
        let (statuses, after) = wire.ask_and_look_behind(&bytes).await;
        let served = door.upstream.count() - before;
        let successes = statuses.iter().filter(|status| **status == 200).count();
        let told = told((&statuses, after));
        if served > 1 || served > successes {
            unclean.push(format!("{form}: {served} served, and answered {told}"));
        }
        writeln!(table, "| {form} | {told} |").unwrap();
    }
    assert!(unclean.is_empty(), "{}", unclean.join("\n"));
    table
}

/// Where the page is, beside the sources.
fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/odd-requests.md")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_odd_request_gets_its_documented_answer_and_is_at_most_one_clean_request() {
    let settings = Settings::new()
        .with("server.header_bytes_max = \"16KiB\"\nserver.body_bytes_max = \"64KiB\"");
    let door = Door::open(settings).await;
    let alice = door.user("alice");
    let parts = Parts::new(&alice.token);
    let mut made = include_str!("odd_requests.md").to_owned();
    for (title, forms) in [
        ("Bodies that could end in two places", odd_lengths(&parts)),
        (
            "Lines that are not headers, or that repeat one",
            odd_lines(&parts),
        ),
        (
            "Request targets that only some servers resolve",
            odd_targets(&parts),
        ),
        ("Sizes and encodings", odd_sizes(&parts)),
    ] {
        write!(made, "\n## {title}\n\n{}", tried(&door, forms).await).unwrap();
    }
    made += "\n## Time\n\n| request | answer |\n|---|---|\n";
    for (form, told) in slow_client::ANSWERS {
        writeln!(made, "| {form} | {told} |").unwrap();
    }
    alice.ask(chat("still here")).await.expect(200);
    door.close().await;
    if std::env::var_os("TOLLGATE_WRITE_PAGES").is_some() {
        std::fs::write(page(), &made).unwrap();
    }
    let kept = std::fs::read_to_string(page()).unwrap_or_default();
    let differ = made
        .lines()
        .zip(kept.lines())
        .filter(|(made, kept)| made != kept)
        .collect::<Vec<_>>();
    assert!(
        kept == made,
        "docs/odd-requests.md says otherwise (if what is new is right: TOLLGATE_WRITE_PAGES=1 cargo test --test it \
         each_odd_request): {differ:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_for_100_continue_gets_it_and_an_impostor_does_not() {
    let door = Door::open(Settings::new()).await;
    let body = chat("patiently").to_string();
    let head = |token: &str| {
        let length = body.len();
        format!(
            "POST {PATH} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
        )
    };
    let mut wire = Wire::open(door.front.address()).await;
    wire.send(head(&door.user("alice").token).as_bytes())
        .await
        .unwrap();
    let (text, _) = wire.read(Duration::from_millis(700)).await;
    assert_eq!(statuses(&text), [100], "{text}");
    wire.send(body.as_bytes()).await.unwrap();
    let (text, _) = wire.read(Duration::from_millis(700)).await;
    assert_eq!(statuses(&text), [200], "{text}");

    let mut wire = Wire::open(door.front.address()).await;
    let forged = sign(&Key::hs256("x".repeat(32)), &door.claims("alice"));
    wire.send(head(&forged).as_bytes()).await.unwrap();
    let (text, _) = wire.read(Duration::from_millis(700)).await;
    assert_eq!(statuses(&text), [401], "{text}");
    door.close().await;
}
