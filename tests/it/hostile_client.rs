//! Callers who bend HTTP and JSON, or take their time: checks 18 and 23 of the threats.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::caller::{Call, and, chat, chat_stream};
use crate::support::door::Door;
use crate::support::keys::Key;
use crate::support::raw::{Wire, statuses};
use crate::support::reply::Talk;
use crate::support::settings::Settings;
use crate::support::tokens::sign;

const PATH: &str = "/v1/chat/completions";

/// A request as bytes, with these lines between the first and the blank one.
fn raw(first: &str, lines: &[String], body: &str) -> Vec<u8> {
    format!("{first}\r\n{}\r\n\r\n{body}", lines.join("\r\n")).into_bytes()
}

/// What is tried on a socket: its name, and the bytes.
fn smuggling_forms(token: &str) -> Vec<(&'static str, Vec<u8>)> {
    let body = chat("smuggled").to_string();
    let (length, auth) = (format!("Content-Length: {}", body.len()), format!("Authorization: Bearer {token}"));
    let kind = "Content-Type: application/json".to_owned();
    let host = "Host: tollgate.test".to_owned();
    let post = format!("POST {PATH} HTTP/1.1");
    let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let inner = format!("POST {PATH} HTTP/1.1\r\nHost: a\r\n{auth}\r\n{kind}\r\n{length}\r\n\r\n{body}");
    let common = |more: &[&str]| {
        let mut lines = vec![host.clone(), auth.clone(), kind.clone()];
        lines.extend(more.iter().map(|line| (*line).to_owned()));
        lines
    };
    let chunked = "Transfer-Encoding: chunked";
    let first = |target: &str| format!("POST {target} HTTP/1.1");
    let whole = |target: &str| raw(&first(target), &common(&[&length]), &body);
    vec![
        ("length and chunked", raw(&post, &common(&[&length, chunked]), &format!("0\r\n\r\n{inner}"))),
        ("chunked and length", raw(&post, &common(&[chunked, "Content-Length: 5"]), &format!("{chunks}{inner}"))),
        ("two lengths", raw(&post, &common(&[&length, "Content-Length: 0"]), &format!("{body}{inner}"))),
        ("two lengths in one", raw(&post, &common(&["Content-Length: 0, 5"]), &inner)),
        ("a signed length", raw(&post, &common(&[&format!("Content-Length: +{}", body.len())]), &body)),
        ("a negative length", raw(&post, &common(&["Content-Length: -1"]), &body)),
        ("a length beyond u64", raw(&post, &common(&["Content-Length: 99999999999999999999999"]), &body)),
        ("a length in hex", raw(&post, &common(&["Content-Length: 0x10"]), &body)),
        ("chunked twice", raw(&post, &common(&[chunked, chunked]), &format!("{chunks}{inner}"))),
        (
            "chunked, then identity",
            raw(&post, &common(&["Transfer-Encoding: chunked, identity"]), &format!("{chunks}{inner}")),
        ),
        ("an unknown coding", raw(&post, &common(&["Transfer-Encoding: xchunked"]), &format!("{chunks}{inner}"))),
        (
            "a coding after a tab",
            raw(&post, &common(&["Transfer-Encoding:\tchunked", "Content-Length: 3"]), &format!("{chunks}{inner}")),
        ),
        (
            "a coding before a colon",
            raw(&post, &common(&["Transfer-Encoding : chunked", &length]), &format!("{body}{inner}")),
        ),
        ("a chunk size with 0x", raw(&post, &common(&[chunked]), &format!("0x{chunks}{inner}"))),
        ("a chunk size with a sign", raw(&post, &common(&[chunked]), &format!("+{chunks}{inner}"))),
        ("a chunk size beyond u64", raw(&post, &common(&[chunked]), &format!("fffffffffffffffff\r\n{body}"))),
        (
            "a chunk without its end",
            raw(&post, &common(&[chunked]), &format!("{:x}\r\n{body}0\r\n\r\n{inner}", body.len())),
        ),
        ("a folded header", raw(&post, &common(&[&length, "X-A: b\r\n folded: c"]), &body)),
        ("a header with NUL", raw(&post, &common(&[&length, "X-A: b\0c"]), &body)),
        ("a bare CR", raw(&post, &common(&[&length, "X-A: b\rTransfer-Encoding: chunked"]), &body)),
        ("a header without a name", raw(&post, &common(&[&length, ": b"]), &body)),
        ("two hosts", raw(&post, &common(&[&length, "Host: other.test"]), &body)),
        ("an absolute target", whole("http://169.254.169.254/v1/chat/completions")),
        ("an absolute target of another scheme", whole("gopher://localhost/v1/chat/completions")),
        ("doubled slashes", whole("//v1/chat/completions")),
        ("doubled slashes inside", whole("/v1//chat/completions")),
        ("an encoded letter", whole("/v1/%63hat/completions")),
        ("an encoded slash", whole("/v1%2fchat/completions")),
        ("dots", whole("/v1/chat/../chat/completions")),
        ("encoded dots", whole("/v1/%2e%2e/v1/chat/completions")),
        ("a trailing slash", whole("/v1/chat/completions/")),
        ("another case", whole("/V1/Chat/Completions")),
        ("a semicolon", whole("/v1/chat/completions;x=1")),
        ("a fragment", whole("/v1/chat/completions#x")),
        ("an asterisk", whole("*")),
        ("a target with a space", whole("/v1/chat/completions HTTP/1.1 x")),
        ("a preface of HTTP/2", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), inner.clone().into_bytes()].concat()),
        ("HTTP/1.0 with a body", raw(&format!("POST {PATH} HTTP/1.0"), &common(&[&length]), &body)),
        ("HTTP/3.9", raw(&format!("POST {PATH} HTTP/3.9"), &common(&[&length]), &body)),
        (
            "bare line feeds",
            String::from_utf8(raw(&post, &common(&[&length]), &body)).unwrap().replace("\r\n", "\n").into_bytes(),
        ),
        (
            "a body on GET",
            raw("GET / HTTP/1.1", &common(&["Content-Length: 0", chunked]), &format!("0\r\n\r\n{inner}")),
        ),
        ("an upgrade", raw(&post, &common(&[&length, "Connection: Upgrade", "Upgrade: websocket"]), &body)),
        ("CONNECT", raw("CONNECT example.test:443 HTTP/1.1", &common(&[]), "")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn smuggling_forms_cause_a_clean_refusal_or_one_clean_request() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    let (mut total, mut unclean) = (0, Vec::new());
    for (form, bytes) in smuggling_forms(&alice.token) {
        let before = door.upstream.count();
        let mut wire = Wire::open(door.front.address()).await;
        let _ = wire.send(&bytes).await;
        let (text, closed) = wire.read(Duration::from_millis(400)).await;
        let statuses = statuses(&text);
        let served = door.upstream.count() - before;
        total += served;
        let successes = statuses.iter().filter(|status| **status == 200).count();
        let known =
            statuses.iter().all(|status| [200, 400, 404, 405, 411, 413, 414, 417, 431, 501, 505].contains(status));
        if served > 1 || served > successes || !known || !(closed || !statuses.is_empty()) {
            unclean.push(format!("{form}: {served} served, answers {statuses:?}, closed {closed}"));
        }
    }
    assert!(unclean.is_empty(), "{}", unclean.join("\n"));
    assert!(total <= 12, "{total} odd requests were served: most should be refused");
    alice.ask(chat("still here")).await.expect(200);
    door.close().await;
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
    wire.send(head(&door.user("alice").token).as_bytes()).await.unwrap();
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

#[tokio::test(flavor = "multi_thread")]
async fn only_listed_headers_reach_the_upstream() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    let names = [
        "cookie",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-real-ip",
        "forwarded",
        "via",
        "openai-organization",
        "openai-project",
        "openai-beta",
        "api-key",
        "x-api-key",
        "apikey",
        "proxy-authorization",
        "x-stainless-os",
        "idempotency-key",
        "referer",
        "origin",
        "user-agent",
        "x-request-id",
        "x-client-request-id",
        "traceparent-x",
        "x-openai-service-tier",
        "accept-language",
        "range",
        "if-none-match",
        "te",
        "x-http-method-override",
    ];
    let call = names.iter().fold(alice.call(&chat("a")), |call, name| call.header(name, "header-canary"));
    let call = call.header("accept", "*/*; header-canary").header("accept-encoding", "gzip, br");
    door.send(call).await.expect(200);
    let headers = door.upstream.last().seen.request.headers.clone();
    assert!(headers.iter().all(|(_, value)| !value.contains("header-canary")), "{headers:?}");
    let sent: Vec<String> = headers.iter().map(|(name, _)| name.to_lowercase()).collect();
    assert!(sent.len() <= 10, "{sent:?}");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_its_limit_is_refused_whether_or_not_it_says_its_length() {
    let door = Door::open(Settings::new().with(r#"server.body_bytes_max = "64KiB""#)).await;
    let alice = door.user("alice");
    alice.ask(chat(&"word ".repeat(10_000))).await.expect(200);
    alice.ask(chat(&"word ".repeat(20_000))).await.refused(413, "body_too_large");
    let long = chat(&"word ".repeat(200_000)).to_string();
    let mut wire = Wire::open(door.front.address()).await;
    let head = [format!("Host: a\r\nAuthorization: Bearer {}", alice.token), "Transfer-Encoding: chunked".to_owned()];
    wire.send(&raw(&format!("POST {PATH} HTTP/1.1"), &head, "")).await.unwrap();
    let _ = wire.send(format!("{:x}\r\n{long}\r\n0\r\n\r\n", long.len()).as_bytes()).await;
    let (text, closed) = wire.read(Duration::from_secs(2)).await;
    assert!(statuses(&text) == [413] || (text.is_empty() && closed), "{text}");
    assert_eq!(door.upstream.count(), 1);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_over_its_limit_is_refused() {
    let door = Door::open(Settings::new().with(r#"server.header_bytes_max = "16KiB""#)).await;
    let alice = door.user("alice");
    let ask = |extra: String| {
        let token = &alice.token;
        format!("GET /api/me HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n{extra}Connection: close\r\n\r\n")
    };
    for (what, extra, expected) in [
        ("4 KiB", format!("X-A: {}\r\n", "a".repeat(4096)), 200),
        ("40 KiB in one", format!("X-A: {}\r\n", "a".repeat(40 * 1024)), 431),
        ("40 KiB in forty", format!("X-A: {}\r\n", "a".repeat(1024)).repeat(40), 431),
        ("2,000 headers", "X: y\r\n".repeat(2000), 431),
    ] {
        let mut wire = Wire::open(door.front.address()).await;
        let _ = wire.send(ask(extra).as_bytes()).await;
        let (text, _) = wire.read(Duration::from_secs(2)).await;
        assert_eq!(statuses(&text).first(), Some(&expected), "{what}: {text:.300}");
    }
    let mut wire = Wire::open(door.front.address()).await;
    let _ = wire.send(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(60 * 1024)).as_bytes()).await;
    let (text, _) = wire.read(Duration::from_secs(2)).await;
    assert!(
        statuses(&text).first().is_none_or(|status| [404, 414, 431].contains(status)),
        "a long target: {text:.300}"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_json_that_is_not_encoded_is_taken() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    let call = || Call::new("POST", PATH).bearer(&alice.token).bytes(chat("a").to_string());
    for kind in [
        "text/plain",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        "text/json; application/json",
    ] {
        door.send(call().header("content-type", kind)).await.refused(415, "unsupported_media_type");
    }
    for coding in ["gzip", "br", "deflate", "zstd", "gzip, gzip", "x"] {
        let encoded = call().header("content-type", "application/json").header("content-encoding", coding);
        door.send(encoded).await.refused(415, "unsupported_media_type");
    }
    assert_eq!(door.upstream.connections(), 0);
    for kind in ["application/json", "application/json; charset=utf-8", "Application/JSON"] {
        door.send(call().header("content-type", kind)).await.expect(200);
    }
    door.send(call()).await.expect(200);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_priced_is_what_is_sent_however_the_json_is_bent() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    let message = r#""messages":[{"role":"user","content":"hello there"}]"#;
    let model = r#""model":"gpt-4o-mini""#;
    let bent: Vec<Vec<u8>> = vec![
        format!("{{{model},{message},\"max_tokens\":5,\"max_tokens\":900}}").into_bytes(),
        format!("{{{model},{message},\"n\":1,\"n\":128}}").into_bytes(),
        format!("{{\"model\":\"gpt-4o\",{model},{message}}}").into_bytes(),
        format!("{{{model},{message},{message}}}").into_bytes(),
        format!("{{{model},{message},\"stream\":true,\"stream\":false}}").into_bytes(),
        format!("{{{model},{message},\"max_t\\u006fkens\":5}}").into_bytes(),
        format!("{{{model},{message}}} trailing").into_bytes(),
        format!("{{{model},{message}}}{{{model},{message}}}").into_bytes(),
        format!("[{{{model},{message}}}]").into_bytes(),
        format!("[\"gpt-4o-mini\",[[\"user\",\"hello\"]]]").into_bytes(),
        format!("\u{feff}{{{model},{message}}}").into_bytes(),
        format!("{{{model},\"messages\":[{{\"role\":\"user\",\"content\":\"\\ud800\"}}]}}").into_bytes(),
        format!("{{{model},\"messages\":[[\"user\",\"hello\"]]}}").into_bytes(),
        format!(
            "{{{model},\"messages\":[{{\"role\":\"user\",\"content\":{}1{}}}]}}",
            "[".repeat(50_000),
            "]".repeat(50_000)
        )
        .into_bytes(),
        format!("{}", "[".repeat(200_000)).into_bytes(),
        format!("{{\"a\":{}", "{\"a\":".repeat(100_000)).into_bytes(),
        format!("{{{model},{message},\"temperature\":1e999}}").into_bytes(),
        format!("{{{model},{message},\"max_tokens\":5.0}}").into_bytes(),
        format!("{{{model},{message},\"max_tokens\":0005}}").into_bytes(),
        format!("{{{model},{message},\"max_tokens\":NaN}}").into_bytes(),
        [
            format!("{{{model},\"messages\":[{{\"role\":\"user\",\"content\":\"").into_bytes(),
            vec![0xff, 0xfe],
            b"\"}]}".to_vec(),
        ]
        .concat(),
        b"null".to_vec(),
        b"\"\"".to_vec(),
        b"0".to_vec(),
        b"".to_vec(),
        b"{}".to_vec(),
        b"{".to_vec(),
        b"{\"messages\":[{}]}".to_vec(),
        b"{\"messages\":[{\"role\":\"user\"}]}".to_vec(),
        b"{\"messages\":[{\"role\":\"root\",\"content\":\"a\"}]}".to_vec(),
    ];
    for body in bent {
        let shown = String::from_utf8_lossy(&body[..body.len().min(120)]).into_owned();
        let before = door.upstream.count();
        let call = Call::new("POST", PATH).bearer(&alice.token).header("content-type", "application/json").bytes(body);
        let answer = door.send(call).await;
        if answer.status != 200 {
            assert_eq!((answer.status, door.upstream.count()), (400, before), "{shown}: {}", answer.text());
            continue;
        }
        let served = door.upstream.last();
        let text = String::from_utf8_lossy(&served.seen.request.body).into_owned();
        for once in
            ["\"max_completion_tokens\"", "\"max_tokens\"", "\"model\"", "\"messages\"", "\"n\":", "\"stream\":"]
        {
            assert!(text.matches(once).count() <= 1, "{shown} was sent as {text}");
        }
        assert!(served.seen.body["model"] == "gpt-4o-mini" || served.seen.body["model"] == "gpt-4o");
        assert!(served.seen.choices() == 1 && served.seen.cap().unwrap() <= 1000, "{shown} was sent as {text}");
    }
    door.close().await;
}

/// Asks for a whole stream again and again while something else goes on.
async fn serves_well(door: &Door, what: &str) {
    let bob = door.user("bob");
    for _ in 0..5 {
        let begun = Instant::now();
        let answer = bob.ask(chat_stream("an honest stream")).await.expect(200);
        assert!(answer.text().ends_with("data: [DONE]\n\n"), "{what}: {}", answer.text());
        assert!(begun.elapsed() < Duration::from_secs(5), "{what}: an honest stream took {:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_sent_heads_are_closed_and_nobody_notices() {
    let door = Door::open(Settings::new().with(r#"server.header_timeout = "2s""#)).await;
    let mut wires = Vec::new();
    for number in 0..500 {
        let mut wire = Wire::open(door.front.address()).await;
        let head = format!("POST {PATH} HTTP/1.1\r\nHost: a\r\nX-{number}: a");
        wire.send(&head.as_bytes()[..number % head.len()]).await.unwrap();
        wires.push(wire);
    }
    serves_well(&door, "with 500 half-sent heads").await;
    sleep(Duration::from_secs(3)).await;
    for (number, wire) in wires.iter_mut().enumerate() {
        assert!(wire.is_closed_within(Duration::from_secs(5)).await, "half-sent head {number} is still open");
    }
    assert_eq!(door.ledger_rows().len(), 5);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dripping_bodies_are_cut_and_nobody_notices() {
    let door = Door::open(Settings::new().with(r#"server.body_timeout = "2s""#)).await;
    let mallory = door.user("mallory");
    let lines = [format!("Host: a\r\nAuthorization: Bearer {}", mallory.token), "Content-Length: 5000".to_owned()];
    let dripping: Vec<_> = (0..100)
        .map(|_| {
            let (address, head) =
                (door.front.address(), raw(&format!("POST {PATH} HTTP/1.1"), &lines, "{\"messages\":"));
            tokio::spawn(async move {
                let mut wire = Wire::open(address).await;
                wire.send(&head).await.unwrap();
                let begun = Instant::now();
                while wire.send(b" ").await.is_ok() {
                    assert!(begun.elapsed() < Duration::from_secs(15), "a dripping body is still open");
                    if let (text, true) = wire.read(Duration::from_millis(300)).await {
                        return text;
                    }
                }
                String::new()
            })
        })
        .collect();
    serves_well(&door, "with 100 dripping bodies").await;
    for one in dripping {
        let text = one.await.unwrap();
        assert!(statuses(&text).iter().all(|status| (400..500).contains(status)), "{text}");
    }
    assert_eq!(door.upstream.count(), 5);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_never_read_are_bounded_and_nobody_notices() {
    let settings = Settings::new()
        .with("plans.free.max_output_tokens = 30000\nplans.free.concurrent_requests = 200")
        .with("proxy.total_timeout = \"6s\"\nproxy.idle_timeout = \"3s\"\nproxy.drain_timeout = \"2s\"");
    let door = Door::open(settings).await;
    // Each never-read answer is 6 MB of events; only the sockets' buffers may take some of it.
    door.upstream.always(|seen| Talk::words(if seen.cap() == Some(30_000) { 30_000 } else { 5 }).reply(seen));
    let mallory = door.user("mallory");
    let before = door.memory();
    let mut wires = Vec::new();
    for _ in 0..100 {
        let mut wire = Wire::open_narrow(door.front.address()).await;
        let body = and(chat_stream("never read"), &json!({"max_tokens": 30_000})).to_string();
        let lines =
            [format!("Host: a\r\nAuthorization: Bearer {}", mallory.token), format!("Content-Length: {}", body.len())];
        wire.send(&raw(&format!("POST {PATH} HTTP/1.1"), &lines, &body)).await.unwrap();
        wires.push(wire);
    }
    serves_well_capped(&door).await;
    let grown = door.memory().saturating_sub(before);
    assert!(grown < 200, "100 unread answers took {grown} MiB");
    // Nobody reads on, and still everything ends.
    let begun = Instant::now();
    while door.user("mallory").me().await["concurrent"]["open"] != 0 {
        assert!(begun.elapsed() < Duration::from_secs(25), "unread answers are open for ever");
        sleep(Duration::from_millis(200)).await;
    }
    drop(wires);
    door.close().await;
}

async fn serves_well_capped(door: &Door) {
    let bob = door.user("bob");
    for _ in 0..5 {
        let answer = bob.ask(and(chat_stream("honest"), &json!({"max_tokens": 5}))).await.expect(200);
        assert!(answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_and_a_busy_one_is_kept() {
    let door = Door::open(Settings::new().with(r#"server.header_timeout = "2s""#)).await;
    let mut wire = Wire::open(door.front.address()).await;
    let get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for _ in 0..3 {
        wire.send(get).await.unwrap();
        let (text, closed) = wire.read(Duration::from_millis(300)).await;
        assert_eq!((statuses(&text), closed), (vec![200], false));
    }
    assert!(wire.is_closed_within(Duration::from_secs(8)).await, "an idle connection is kept for ever");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_open_requests_than_the_server_takes_are_told_so() {
    let door = Door::open(Settings::new().with("server.open_requests_max = 3")).await;
    door.upstream.always(|seen| Talk::words(1).every(Duration::from_secs(2)).reply(seen));
    let mut open = Vec::new();
    for number in 0..3 {
        let mut stream = door.user(&format!("user-{number}")).open(chat_stream("a")).await;
        stream.next_block().await.unwrap();
        open.push(stream);
    }
    let refused = door.user("late").ask(chat("a")).await;
    refused.refused(503, "overloaded");
    assert_eq!(door.send(Call::get("/")).await.status, 200, "liveness is no request");
    for stream in open {
        stream.rest().await;
    }
    door.user("late").ask(chat("a")).await.expect(200);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_cannot_make_it_read_a_body() {
    let door = Door::open(Settings::new()).await;
    let mut wire = Wire::open(door.front.address()).await;
    wire.send(format!("POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 8000000\r\n\r\n").as_bytes()).await.unwrap();
    let (text, _) = wire.read(Duration::from_millis(700)).await;
    assert_eq!(statuses(&text), [401], "a stranger waits for an answer until the body is there: {text}");
    let body: Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(body["error"]["code"], "missing_token");
    door.close().await;
}
