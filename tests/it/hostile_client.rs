//! Callers who bend JSON, headers and sizes: check 23 of the threats.

use std::time::Duration;

use serde_json::json;

use crate::smuggling::{PATH, raw};
use crate::support::caller::{Call, and, chat};
use crate::support::door::Door;
use crate::support::raw::{Wire, statuses};
use crate::support::settings::Settings;
use crate::support::upstream::Upstream;

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
    let call = names.iter().fold(alice.call(&chat("a")), |call, name| {
        call.header(name, "header-canary")
    });
    let call = call
        .header("accept", "*/*; header-canary")
        .header("accept-encoding", "gzip, br");
    door.send(call).await.expect(200);
    let headers = door.upstream.last().seen.request.headers.clone();
    assert!(
        headers
            .iter()
            .all(|(_, value)| !value.contains("header-canary")),
        "{headers:?}"
    );
    let mut sent: Vec<String> = headers
        .iter()
        .map(|(name, _)| name.to_lowercase())
        .collect();
    sent.sort();
    let listed = [
        "accept",
        "accept-encoding",
        "authorization",
        "content-length",
        "content-type",
        "host",
        "user-agent",
        "x-client-request-id",
    ];
    assert_eq!(sent, listed);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_its_limit_is_refused_whether_or_not_it_says_its_length() {
    let door = Door::open(Settings::new().with(r#"server.body_bytes_max = "64KiB""#)).await;
    let alice = door.user("alice");
    alice.ask(chat(&"word ".repeat(10_000))).await.expect(200);
    alice
        .ask(chat(&"word ".repeat(20_000)))
        .await
        .refused(413, "body_too_large");
    let long = chat(&"word ".repeat(200_000)).to_string();
    let mut wire = Wire::open(door.front.address()).await;
    let head = [
        format!("Host: a\r\nAuthorization: Bearer {}", alice.token),
        "Transfer-Encoding: chunked".to_owned(),
    ];
    wire.send(&raw(&format!("POST {PATH} HTTP/1.1"), &head, ""))
        .await
        .unwrap();
    let _ = wire
        .send(format!("{:x}\r\n{long}\r\n0\r\n\r\n", long.len()).as_bytes())
        .await;
    let (text, closed) = wire.read(Duration::from_secs(2)).await;
    assert!(
        statuses(&text) == [413] || (text.is_empty() && closed),
        "{text}"
    );
    assert_eq!(door.upstream.count(), 1);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_over_its_limit_is_refused() {
    let door = Door::open(Settings::new().with(r#"server.header_bytes_max = "16KiB""#)).await;
    let alice = door.user("alice");
    let ask = |extra: String| {
        let token = &alice.token;
        format!(
            "GET /api/me HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n{extra}Connection: close\r\n\r\n"
        )
    };
    for (what, extra, expected) in [
        ("4 KiB", format!("X-A: {}\r\n", "a".repeat(4096)), 200),
        (
            "40 KiB in one",
            format!("X-A: {}\r\n", "a".repeat(40 * 1024)),
            431,
        ),
        (
            "40 KiB in forty",
            format!("X-A: {}\r\n", "a".repeat(1024)).repeat(40),
            431,
        ),
        ("2,000 headers", "X: y\r\n".repeat(2000), 431),
    ] {
        let mut wire = Wire::open(door.front.address()).await;
        let _ = wire.send(ask(extra).as_bytes()).await;
        let (text, _) = wire.read(Duration::from_secs(2)).await;
        assert_eq!(
            statuses(&text).first(),
            Some(&expected),
            "{what}: {text:.300}"
        );
    }
    // One that never ends is not taken in until it does.
    let mut wire = Wire::open(door.front.address()).await;
    let _ = wire
        .send(
            format!(
                "GET /api/me HTTP/1.1\r\nHost: a\r\nX-A: {}",
                "a".repeat(256 << 10)
            )
            .as_bytes(),
        )
        .await;
    let (text, closed) = wire.read(Duration::from_secs(5)).await;
    assert_eq!((statuses(&text), closed), (vec![431], true), "{text:.300}");
    let mut wire = Wire::open(door.front.address()).await;
    let _ = wire
        .send(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(60 * 1024)).as_bytes())
        .await;
    let (text, _) = wire.read(Duration::from_secs(2)).await;
    assert_eq!(statuses(&text), [431], "a long target: {text:.300}");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_json_that_is_not_encoded_is_taken() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    let call = || {
        Call::new("POST", PATH)
            .bearer(&alice.token)
            .bytes(chat("a").to_string())
    };
    for kind in [
        "text/plain",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        "text/json; application/json",
    ] {
        door.send(call().header("content-type", kind))
            .await
            .refused(415, "unsupported_media_type");
    }
    for coding in ["gzip", "br", "deflate", "zstd", "gzip, gzip", "x"] {
        let encoded = call()
            .header("content-type", "application/json")
            .header("content-encoding", coding);
        door.send(encoded)
            .await
            .refused(415, "unsupported_media_type");
    }
    assert_eq!(door.upstream.connections(), 0);
    for kind in [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON",
    ] {
        door.send(call().header("content-type", kind))
            .await
            .expect(200);
    }
    door.send(call()).await.expect(200);
    door.close().await;
}

/// Bodies that two parsers would read differently, or that none should.
fn bent_bodies() -> Vec<Vec<u8>> {
    let message = r#""messages":[{"role":"user","content":"hello there"}]"#;
    let model = r#""model":"gpt-4o-mini""#;
    vec![
        format!("{{{model},{message},\"max_tokens\":5,\"max_tokens\":900}}").into_bytes(),
        format!("{{{model},{message},\"n\":1,\"n\":128}}").into_bytes(),
        format!("{{\"model\":\"gpt-4o\",{model},{message}}}").into_bytes(),
        format!("{{{model},{message},{message}}}").into_bytes(),
        format!("{{{model},{message},\"stream\":true,\"stream\":false}}").into_bytes(),
        format!("{{{model},{message},\"max_t\\u006fkens\":5}}").into_bytes(),
        format!("{{{model},{message}}} trailing").into_bytes(),
        format!("{{{model},{message}}}{{{model},{message}}}").into_bytes(),
        format!("[{{{model},{message}}}]").into_bytes(),
        br#"["gpt-4o-mini",[["user","hello"]]]"#.to_vec(),
        format!("\u{feff}{{{model},{message}}}").into_bytes(),
        format!("{{{model},\"messages\":[{{\"role\":\"user\",\"content\":\"\\ud800\"}}]}}")
            .into_bytes(),
        format!("{{{model},\"messages\":[[\"user\",\"hello\"]]}}").into_bytes(),
        format!(
            "{{{model},\"messages\":[{{\"role\":\"user\",\"content\":{}1{}}}]}}",
            "[".repeat(50_000),
            "]".repeat(50_000)
        )
        .into_bytes(),
        "[".repeat(200_000).into_bytes(),
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
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_priced_is_what_is_sent_however_the_json_is_bent() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    for body in bent_bodies() {
        let shown = String::from_utf8_lossy(&body[..body.len().min(120)]).into_owned();
        let before = door.upstream.count();
        let call = Call::new("POST", PATH)
            .bearer(&alice.token)
            .header("content-type", "application/json")
            .bytes(body);
        let answer = door.send(call).await;
        if answer.status != 200 {
            assert_eq!(
                (answer.status, door.upstream.count()),
                (400, before),
                "{shown}: {}",
                answer.text()
            );
            continue;
        }
        let served = door.upstream.last();
        let text = String::from_utf8_lossy(&served.seen.request.body).into_owned();
        for once in [
            "\"max_completion_tokens\"",
            "\"max_tokens\"",
            "\"model\"",
            "\"messages\"",
            "\"n\":",
            "\"stream\":",
        ] {
            assert!(
                text.matches(once).count() <= 1,
                "{shown} was sent as {text}"
            );
        }
        assert!(
            served.seen.body["model"] == "gpt-4o-mini" || served.seen.body["model"] == "gpt-4o"
        );
        assert!(
            served.seen.choices() == 1 && served.seen.cap().unwrap() <= 1000,
            "{shown} was sent as {text}"
        );
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_caller_says_moves_the_upstream() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    let elsewhere = Upstream::start().await;
    let there = elsewhere.base_url().to_owned();
    let host = there
        .trim_start_matches("http://")
        .trim_end_matches("/v1")
        .to_owned();
    for field in [
        "api_base",
        "base_url",
        "openai_api_base",
        "azure_endpoint",
        "endpoint",
        "url",
        "host",
        "proxy",
    ] {
        alice
            .ask(and(chat("a"), &json!({field: there})))
            .await
            .refused(400, "unsupported_field");
    }
    for model in [
        format!("{there}/gpt-4o-mini"),
        format!("openai/{there}"),
        format!("gpt-4o-mini@{host}"),
    ] {
        alice
            .ask(and(chat("a"), &json!({"model": model})))
            .await
            .refused(403, "model_not_allowed");
    }
    assert_eq!(door.upstream.connections(), 0);
    let names = [
        "x-base-url",
        "openai-base-url",
        "x-portkey-custom-host",
        "helicone-openai-api-base",
        "x-forwarded-host",
    ];
    let call = names.iter().fold(alice.call(&chat("a")), |call, name| {
        call.header(name, &there)
    });
    door.send(call.host(&host)).await.expect(200);
    let absolute = alice
        .call(&chat("a"))
        .path(&format!("{there}/chat/completions"))
        .host(&host);
    door.send(absolute).await.expect(200);
    // Both went to the one that the operator named.
    assert_eq!((door.upstream.count(), elsewhere.connections()), (2, 0));
    door.close().await;
}

/// Everything by which OpenAI names what was kept before.
const KEPT_THINGS: [&str; 14] = [
    "/v1/chat/completions/chatcmpl-1",
    "/v1/chat/completions/chatcmpl-1/messages",
    "/v1/responses/resp_1",
    "/v1/responses/resp_1/input_items",
    "/v1/conversations/conv_1",
    "/v1/files/file-1/content",
    "/v1/batches/batch_1",
    "/v1/threads/thread_1/messages",
    "/v1/assistants/asst_1",
    "/v1/vector_stores/vs_1",
    "/v1/fine_tuning/jobs/ftjob-1",
    "/v1/uploads/upload_1",
    "/v1/containers/cntr_1/files",
    "/v1/organization/usage/completions",
];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_another_user_can_be_named() {
    let door = Door::open(Settings::new()).await;
    let (alice, bob) = (door.user("alice"), door.user("bob"));
    let answer = alice.ask(chat("hers")).await.expect(200);
    let (request, hers) = (answer.id().unwrap(), alice.id);
    let named = [
        format!("/v1/chat/completions/{request}"),
        format!("/api/usage/{hers}"),
        format!("/api/me/{hers}"),
    ];
    for path in KEPT_THINGS
        .iter()
        .map(|path| (*path).to_owned())
        .chain(named)
    {
        for method in ["GET", "POST", "DELETE"] {
            let call = Call::post(&path, &json!({}))
                .method(method)
                .bearer(&bob.token);
            door.send(call).await.refused(404, "not_found");
        }
    }
    for (field, value) in [
        ("previous_response_id", json!("resp_1")),
        ("conversation", json!("conv_1")),
        ("thread", json!("thread_1")),
        (
            "messages",
            json!([{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}]),
        ),
        (
            "messages",
            json!([{"role": "assistant", "audio": {"id": "audio_1"}}]),
        ),
        (
            "tools",
            json!([{"type": "file_search", "vector_store_ids": ["vs_1"]}]),
        ),
    ] {
        let answer = bob.ask(and(chat("his"), &json!({field: value}))).await;
        assert_eq!(answer.status, 400, "{field} = {value}: {}", answer.text());
    }
    for query in [
        format!("user={hers}"),
        format!("user_id={hers}"),
        format!("sub={hers}"),
    ] {
        let answer = bob.get(&format!("/api/usage?{query}")).await;
        assert!(
            answer.status == 400 || answer.json()["rows"] == json!([]),
            "{query}: {}",
            answer.text()
        );
    }
    for name in [
        "x-user-id",
        "x-forwarded-user",
        "openai-user",
        "x-supabase-user",
    ] {
        let call = Call::get("/api/me")
            .bearer(&bob.token)
            .header(name, &hers.to_string());
        assert_eq!(
            door.send(call).await.expect(200).json()["limits"][0]["used"],
            0,
            "{name}"
        );
    }
    assert_eq!(door.upstream.count(), 1, "only her own request");
    door.close().await;
}
