//! Tries the way out against servers that misbehave, on loopback.

mod connection;

use std::pin::Pin;
use std::sync::atomic::AtomicUsize;
use std::task::Poll;

use axum::serve::ListenerExt;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use http::StatusCode;

use super::rejection::{Rejection, Work};
use super::*;
use crate::config::OnDisconnect;
use crate::dialect::Dialect;
use crate::error::Code;
use crate::meter::Meter;
use crate::meter::body::{End, Limits, Metered};

pub(super) fn upstream(base_url: &str, key: Option<&str>) -> UpstreamConfig {
    UpstreamConfig {
        name: "openai".to_owned(),
        base_url: base_url.to_owned(),
        base_uri: base_url.parse().unwrap(),
        api_key: key.map(secrecy::SecretString::from),
        api_key_previous: None,
        models: vec!["gpt-*".to_owned()],
        manner: Dialect::Openai.into(),
        keep_alive: Duration::from_secs(30),
        anthropic_beta: Vec::new(),
        headers: Vec::new(),
        proxy: None,
        authorities: None,
    }
}

fn chat(body: Bytes, stream: bool) -> Outgoing {
    Outgoing {
        content_type: HeaderValue::from_static("application/json"),
        path: "/chat/completions",
        body,
        stream,
        anthropic_beta: None,
    }
}

fn proxy() -> Proxy {
    Proxy {
        on_disconnect: OnDisconnect::Drain,
        drain_timeout: Duration::from_secs(5),
        connect_timeout: Duration::from_millis(300),
        first_byte_timeout: Duration::from_millis(600),
        idle_timeout: Duration::from_secs(5),
        total_timeout: Duration::from_secs(9),
        min_output_tokens: 64,
    }
}

/// Reads one request, head and body.
async fn request_of(socket: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut part = [0; 4096];
    while !text.contains("\r\n\r\n") || !text.ends_with('}') {
        let read = socket.read(&mut part).await.unwrap();
        if read == 0 {
            break;
        }
        text.push_str(std::str::from_utf8(&part[..read]).unwrap());
    }
    text
}

/// A server that gives every connection this answer to its first request, and closes it; and what it was sent.
async fn server(answer: impl Into<String>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (log, answer) = (seen.clone(), answer.into());
    #[allow(
        clippy::disallowed_methods,
        reason = "the test's own server ends with its runtime"
    )]
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let request = request_of(&mut socket).await;
            log.lock().unwrap().push(request);
            // The client may have left, which is its right.
            drop(socket.write_all(answer.as_bytes()).await);
        }
    });
    (url, seen)
}

fn answer(head: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn send(url: &str) -> (Result<Answer, SendError>, bool) {
    let to = upstream(url, Some("sk-canary"));
    let mut exchange =
        Upstreams::new(&proxy()).send(&to, chat(Bytes::from_static(b"{}"), true), Uuid::now_v7());
    assert!(!exchange.sent());
    let outcome = (&mut exchange).await;
    (outcome, exchange.sent())
}

async fn rejection(head: &str, body: &str) -> Rejection {
    let (url, _) = server(answer(head, body)).await;
    let (outcome, _) = send(&url).await;
    let now = Timestamp::parse("2026-11-24T10:00:00Z").unwrap();
    Rejection::read(outcome.unwrap(), &upstream(&url, Some("sk-canary")), now).await
}

#[test]
fn a_model_goes_to_the_first_upstream_whose_pattern_fits_all_of_it() {
    for (pattern, model, fits) in [
        ("gpt-4o", "gpt-4o", true),
        ("gpt-4o", "gpt-4o-mini", false),
        ("gpt-*", "gpt-4o-mini", true),
        ("gpt-*", "my-gpt-4o", false),
        ("*-mini", "gpt-4o-mini", true),
        ("*-mini", "gpt-4o-mini-2", false),
        ("*", "", true),
        ("a*a", "a", false),
        ("a*b*a", "a-b-a", true),
        ("a*b*b*a", "abba", true),
        ("a*b*b*a", "aba", false),
        ("**x**", "x", true),
        ("o*", "O1", false),
        ("", "x", false),
    ] {
        let one = UpstreamConfig {
            models: vec![pattern.to_owned()],
            ..upstream("http://a/v1", None)
        };
        assert_eq!(one.serves(model), fits, "{pattern} {model}");
    }
    let mut second = upstream("http://b/v1", None);
    second.models = vec!["llama".to_owned(), "*".to_owned()];
    let both = [upstream("http://a/v1", None), second].map(Arc::new);
    let url = |model| routes(&both, model).next().map(|to| to.base_url.as_str());
    assert_eq!(
        (url("gpt-5"), url("llama")),
        (Some("http://a/v1"), Some("http://b/v1"))
    );
    assert_eq!(routes(&both[..1], "llama").next().map(|to| &to.name), None);
}

#[tokio::test]
async fn only_headers_of_the_allow_list_are_sent() {
    let (url, seen) = server(answer("200 OK", "{}")).await;
    let (outcome, sent) = send(&url).await;
    assert_eq!((outcome.unwrap().status, sent), (StatusCode::OK, true));
    let request = seen.lock().unwrap().pop().unwrap();
    let mut lines = request.lines();
    assert_eq!(lines.next(), Some("POST /v1/chat/completions HTTP/1.1"));
    let mut headers: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
    headers.sort_unstable();
    let id = headers.pop().unwrap();
    assert!(id.starts_with("x-client-request-id: ") && id.len() == 21 + 36);
    let wanted = [
        "accept-encoding: identity".to_owned(),
        "accept: text/event-stream".to_owned(),
        "authorization: Bearer sk-canary".to_owned(),
        "content-length: 2".to_owned(),
        "content-type: application/json".to_owned(),
        format!("host: {}", url.split('/').nth(2).unwrap()),
        concat!("user-agent: tollgate/", env!("CARGO_PKG_VERSION")).to_owned(),
    ];
    assert_eq!(headers, wanted);
}

#[tokio::test]
async fn what_was_not_sent_is_known_for_certain() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (plain, _) = server("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    for url in [
        format!("http://{closed}/v1"),
        // A handshake that gets no answer, and one that gets another protocol.
        format!("https://{}/v1", silent.local_addr().unwrap()),
        plain.replace("http:", "https:"),
        "http://no-such-host.invalid/v1".to_owned(),
        "/v1".to_owned(),
        "ftp://127.0.0.1/v1".to_owned(),
    ] {
        let start = Instant::now();
        let (outcome, sent) = send(&url).await;
        assert_eq!(
            (outcome.err(), sent),
            (Some(SendError::Connect), false),
            "{url}"
        );
        // Bounded by `connect_timeout`, however busy the machine is: by no other wait, all of which are far longer.
        assert!(start.elapsed() < Duration::from_secs(20), "{url}");
    }
}

#[tokio::test]
async fn what_was_sent_and_not_answered_may_be_running() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (outcome, sent) = send(&format!("http://{}/v1", silent.local_addr().unwrap())).await;
    assert_eq!((outcome.err(), sent), (Some(SendError::TimedOut), true));
    for broken in ["", "HTTP/1.1 200 OK\r\nContent-", "no http\r\n\r\n"] {
        let (url, seen) = server(broken).await;
        let (outcome, sent) = send(&url).await;
        assert_eq!(
            (outcome.err(), sent),
            (Some(SendError::Broken), true),
            "{broken}"
        );
        assert_eq!(seen.lock().unwrap().len(), 1, "and it is not sent again");
    }
}

#[tokio::test]
async fn a_head_without_end_is_cut() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let serve = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        request_of(&mut socket).await;
        let head = format!("HTTP/1.1 200 OK\r\nx: {}", "a".repeat(1024 * 1024));
        // The client breaks off in the middle of it.
        drop(socket.write_all(head.as_bytes()).await);
        socket
    };
    let ((outcome, _), _socket) = tokio::join!(send(&url), serve);
    assert_eq!(outcome.err(), Some(SendError::Broken));
}

#[tokio::test]
async fn a_request_goes_on_in_another_task() {
    let (url, _) = server(answer("200 OK", "{}")).await;
    let to = upstream(&url, None);
    let mut exchange =
        Upstreams::new(&proxy()).send(&to, chat(Bytes::from_static(b"{}"), false), Uuid::now_v7());
    while !exchange.sent() {
        let next =
            std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut exchange).poll(context)));
        assert!(
            next.await.is_pending(),
            "the answer cannot be there before the request"
        );
        tokio::task::yield_now().await;
    }
    #[allow(clippy::disallowed_methods, reason = "awaited on the next line")]
    let other = tokio::spawn(exchange);
    assert_eq!(other.await.unwrap().unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (elsewhere, seen) = server(answer("200 OK", "{}")).await;
    for status in [
        "301 Moved",
        "302 Found",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        let rejected = rejection(
            &format!("{status}\r\nLocation: {elsewhere}/chat/completions"),
            "",
        )
        .await;
        assert_eq!(rejected.refusal.code, Code::UpstreamError);
        assert_eq!(rejected.work, Work::Failed);
    }
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "one table of what upstreams answer")]
async fn an_upstreams_errors_are_told_by_the_table() {
    let error = |code: &str, message: &str| {
        format!(
            r#"{{"error":{{"message":"{message}","type":"t","code":{code},"param":"messages[0].role"}}}}"#
        )
    };
    let html = format!("<html>{}</html>", "sk-canary ".repeat(200_000));
    let google = r#"[{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT","details":[{"reason":"API_KEY_INVALID"}]}}]"#;
    let (unauthorized, budget, failed) = (
        Some(Failure::Unauthorized),
        Some(Failure::Budget),
        Some(Failure::Error),
    );
    let (busy, forbidden) = (Some(Failure::Busy), Some(Failure::Forbidden));
    let cases = [
        (
            "400 Bad",
            error(r#""context_length_exceeded""#, "Too long."),
            400,
            "context_length_exceeded",
            None,
            Work::Refused,
        ),
        (
            "422 Bad",
            error("null", "No."),
            422,
            "invalid_request",
            None,
            Work::Refused,
        ),
        (
            "422 Bad",
            r#"{"detail":[{"msg":"No."}]}"#.to_owned(),
            422,
            "invalid_request",
            None,
            Work::Refused,
        ),
        (
            "404 Gone",
            error(r#""model_not_found""#, "No such model."),
            404,
            "model_not_found",
            None,
            Work::Refused,
        ),
        (
            "404 Gone",
            r#"{"object":"error","message":"No such model.","code":404}"#.to_owned(),
            404,
            "not_found",
            None,
            Work::Refused,
        ),
        (
            "400 Bad",
            error(r#""token_expired""#, "No."),
            400,
            "invalid_request",
            None,
            Work::Refused,
        ),
        (
            "400 Bad",
            error("\"a\\nb\"", "No."),
            400,
            "invalid_request",
            None,
            Work::Refused,
        ),
        (
            "400 Bad",
            error("\"400\"", "No."),
            400,
            "invalid_request",
            None,
            Work::Refused,
        ),
        (
            "400 Bad",
            html.clone(),
            400,
            "invalid_request",
            None,
            Work::Refused,
        ),
        (
            "413 Large",
            error(r#""rate_limit_exceeded""#, "Too large."),
            400,
            "rate_limit_exceeded",
            None,
            Work::Refused,
        ),
        (
            "413 Large",
            html.clone(),
            400,
            "invalid_request",
            None,
            Work::Refused,
        ),
        (
            "400 Bad",
            error(r#""content_filter""#, "The prompt."),
            400,
            "content_filter",
            None,
            Work::Prompt,
        ),
        (
            "400 Bad",
            error(r#""content_filter""#, "The output."),
            400,
            "content_filter",
            None,
            Work::Output,
        ),
        (
            "403 No",
            error(r#""content_filter""#, "The prompt."),
            400,
            "content_filter",
            None,
            Work::Prompt,
        ),
        (
            "400 Bad",
            error(r#""tool_use_failed""#, "Failed."),
            400,
            "tool_use_failed",
            None,
            Work::Unknown,
        ),
        (
            "400 Bad",
            error("null", "max_tokens or model output limit was reached."),
            400,
            "invalid_request",
            None,
            Work::Unknown,
        ),
        (
            "400 Bad",
            google.to_owned(),
            502,
            "upstream_error",
            unauthorized,
            Work::Refused,
        ),
        (
            "400 Bad",
            error(r#""billing_hard_limit_reached""#, "No."),
            502,
            "upstream_error",
            budget,
            Work::Refused,
        ),
        (
            "404 Gone",
            error("null", "Invalid URL (POST /v1/x)"),
            502,
            "upstream_error",
            failed,
            Work::Refused,
        ),
        (
            "404 Gone",
            "nginx".to_owned(),
            502,
            "upstream_error",
            failed,
            Work::Refused,
        ),
        (
            "401 No",
            error(r#""invalid_api_key""#, "sk-canary"),
            502,
            "upstream_error",
            unauthorized,
            Work::Refused,
        ),
        (
            "403 No",
            error(r#""invalid_api_key""#, "sk-canary"),
            502,
            "upstream_error",
            unauthorized,
            Work::Refused,
        ),
        (
            "403 No",
            String::new(),
            502,
            "upstream_error",
            forbidden,
            Work::Refused,
        ),
        (
            "403 No",
            error(r#""model_not_found""#, "No access."),
            502,
            "upstream_error",
            forbidden,
            Work::Refused,
        ),
        (
            "402 Pay",
            String::new(),
            502,
            "upstream_error",
            budget,
            Work::Refused,
        ),
        (
            "429 Slow",
            error(r#""rate_limit_exceeded""#, "org-1"),
            503,
            "upstream_unavailable",
            busy,
            Work::Refused,
        ),
        (
            "429 Slow",
            error(r#""insufficient_quota""#, "org-1"),
            502,
            "upstream_error",
            budget,
            Work::Refused,
        ),
        (
            "429 Slow",
            error(r#""project_spend_limit_exceeded""#, "x"),
            502,
            "upstream_error",
            budget,
            Work::Refused,
        ),
        (
            "503 Busy",
            html,
            503,
            "upstream_unavailable",
            busy,
            Work::Failed,
        ),
        (
            "529 Busy",
            String::new(),
            503,
            "upstream_unavailable",
            busy,
            Work::Failed,
        ),
        (
            "408 Late",
            String::new(),
            504,
            "upstream_timeout",
            failed,
            Work::TimedOut,
        ),
        (
            "418 Tea",
            String::new(),
            502,
            "upstream_error",
            failed,
            Work::Refused,
        ),
        (
            "499 Left",
            String::new(),
            502,
            "upstream_error",
            failed,
            Work::Unknown,
        ),
        (
            "500 Oh",
            error("null", "sk-canary"),
            502,
            "upstream_error",
            failed,
            Work::Failed,
        ),
        (
            "504 Late",
            String::new(),
            504,
            "upstream_timeout",
            failed,
            Work::TimedOut,
        ),
        (
            "524 Late",
            String::new(),
            504,
            "upstream_timeout",
            failed,
            Work::TimedOut,
        ),
        (
            "202 Later",
            String::new(),
            502,
            "upstream_error",
            failed,
            Work::Strange,
        ),
    ];
    for (head, body, status, code, failure, work) in cases {
        let rejected = rejection(&format!("{head}\r\nSet-Cookie: a=sk-canary"), &body).await;
        let refusal = &rejected.refusal;
        let told = (
            refusal.status().as_u16(),
            refusal.code_str(),
            rejected.failure,
            rejected.work,
        );
        assert_eq!(
            told,
            (status, code, failure, work),
            "{head} {}",
            body.chars().take(200).collect::<String>()
        );
        assert!(!format!("{refusal:?}").contains("canary"), "{refusal:?}");
        assert!(!format!("{refusal:?}").contains("org-"), "{refusal:?}");
    }
    let rejected = rejection("400 Bad", &error(r#""x""#, "Bad role for sk-canary."))
        .await
        .refusal;
    assert_eq!(
        (rejected.message.as_str(), rejected.param.as_deref()),
        ("Bad role for [removed]", Some("messages[0].role"))
    );
}

#[tokio::test]
async fn a_wait_is_passed_on_within_an_hour() {
    for (header, millis) in [
        ("Retry-After: 7", 7_000),
        ("Retry-After: 1.9", 1_900),
        ("Retry-After: 39.2s", 39_200),
        ("retry-after-ms: 1500.5", 1_500),
        ("Retry-After: 86400", 3_600_000),
        ("Retry-After: 99999999999999999999", 5_000),
        ("Retry-After: -1", 5_000),
        ("Retry-After: Tue, 24 Nov 2026 10:00:42 GMT", 42_000),
        ("Retry-After: Tue, 24 Nov 2026 09:00:00 GMT", 0),
        ("Retry-After: soon", 5_000),
        ("Retry-After: 9\r\nretry-after-ms: 2000", 2_000),
        ("X: y", 5_000),
    ] {
        for status in ["429 Slow", "503 Busy", "529 Busy"] {
            let told = rejection(&format!("{status}\r\n{header}"), "")
                .await
                .refusal
                .retry_after;
            assert_eq!(
                told.map(|wait| wait.as_millis()),
                Some(millis),
                "{status} {header}"
            );
        }
    }
    let delay = r#"{"error":{"code":429,"message":"x","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"39.2s"}]}}"#;
    let told = rejection("429 Slow", delay).await.refusal.retry_after;
    assert_eq!(told, Some(Duration::from_millis(39_200)));
}

#[tokio::test]
async fn an_encoded_answer_is_nonsense() {
    for (head, encoding_ok, is_stream) in [
        ("Content-Encoding: gzip", false, false),
        (
            "Content-Encoding: identity\r\nContent-Encoding: br",
            false,
            false,
        ),
        (
            "Content-Encoding: identity\r\nContent-Type: text/event-stream; charset=utf-8",
            true,
            true,
        ),
        ("Content-Type: application/json", true, false),
    ] {
        let (url, _) = server(answer(&format!("200 OK\r\n{head}"), "{}")).await;
        let answer = send(&url).await.0.unwrap();
        assert_eq!(
            (answer.encoding_ok(), answer.is_event_stream()),
            (encoding_ok, is_stream),
            "{head}"
        );
    }
    let body = r#"{"error":{"message":"not to be read"}}"#;
    let rejected = rejection("400 Bad\r\nContent-Encoding: gzip", body)
        .await
        .refusal;
    assert!(!rejected.message.contains("read"), "{}", rejected.message);
}

#[tokio::test]
async fn a_stream_leaves_its_connection_to_the_next() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = connections.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = upstream(
        &format!("http://{}/v1", listener.local_addr().unwrap()),
        None,
    );
    let listener = listener.tap_io(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    #[allow(
        clippy::disallowed_methods,
        reason = "the test's own server ends with its runtime"
    )]
    tokio::spawn(axum::serve(listener, crate::operator::demo_model::router()).into_future());
    let upstreams = Upstreams::new(&proxy());
    let body = r#"{"model":"gpt-4o","stream":true,"max_tokens":2,"messages":[{"content":"hi"}]}"#;
    for _ in 0..3 {
        let answer = upstreams
            .send(
                &to,
                chat(Bytes::from_static(body.as_bytes()), true),
                Uuid::now_v7(),
            )
            .await
            .unwrap();
        let ended = Arc::new(Mutex::new(None));
        let tell = ended.clone();
        let limits = Limits {
            idle_timeout: Duration::from_secs(5),
            deadline: Instant::now() + Duration::from_secs(9),
        };
        let stream = Metered::new(answer.body, Meter::chat(false), limits, move |end| {
            *tell.lock().unwrap() = Some(end.end);
        });
        let text = stream.collect().await.unwrap().to_bytes();
        assert!(text.ends_with(b"data: [DONE]\n\n"));
        assert_eq!(*ended.lock().unwrap(), Some(End::Complete));
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_connection_that_the_upstream_closed_is_not_used_again() {
    let (url, seen) = server(answer("200 OK", "{}")).await;
    let (to, upstreams) = (upstream(&url, None), Upstreams::new(&proxy()));
    for _ in 0..3 {
        let answer = upstreams
            .send(&to, chat(Bytes::from_static(b"{}"), false), Uuid::now_v7())
            .await
            .unwrap();
        answer.body.collect().await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert_eq!(seen.lock().unwrap().len(), 3);
}

/// Answers each connection's first request, then says when the other side closed it.
async fn server_that_waits(
    body: &'static str,
) -> (String, tokio::sync::mpsc::UnboundedReceiver<Duration>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let (tell, closed) = tokio::sync::mpsc::unbounded_channel();
    #[allow(
        clippy::disallowed_methods,
        reason = "the test's own server ends with its runtime"
    )]
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            request_of(&mut socket).await;
            socket
                .write_all(answer("200 OK", body).as_bytes())
                .await
                .unwrap();
            let answered = Instant::now();
            assert_eq!(
                socket.read(&mut [0]).await.unwrap_or(0),
                0,
                "a request that was not asked for"
            );
            tell.send(answered.elapsed()).unwrap();
        }
    });
    (url, closed)
}

#[tokio::test]
async fn a_connection_that_nobody_uses_is_closed_in_time() {
    let (url, mut closed) = server_that_waits("{}").await;
    let keep_alive = Duration::from_millis(200);
    let (to, upstreams) = (
        UpstreamConfig {
            keep_alive,
            ..upstream(&url, None)
        },
        Upstreams::new(&proxy()),
    );
    let answer = upstreams
        .send(&to, chat(Bytes::from_static(b"{}"), false), Uuid::now_v7())
        .await
        .unwrap();
    assert_eq!(answer.body.collect().await.unwrap().to_bytes(), "{}");
    let open_for = tokio::time::timeout(Duration::from_secs(9), closed.recv())
        .await
        .unwrap()
        .unwrap();
    assert!(open_for >= keep_alive, "{open_for:?}");
}

#[tokio::test]
async fn an_answer_that_is_not_read_to_its_end_closes_its_connection() {
    let (url, mut closed) = server_that_waits("{}").await;
    let (to, upstreams) = (upstream(&url, None), Upstreams::new(&proxy()));
    let answer = upstreams
        .send(&to, chat(Bytes::from_static(b"{}"), false), Uuid::now_v7())
        .await
        .unwrap();
    drop(answer);
    tokio::time::timeout(Duration::from_secs(9), closed.recv())
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn health_is_told_by_upstream() {
    let upstreams = Upstreams::new(&proxy());
    let now = Timestamp::from_secs(10);
    let second = UpstreamConfig {
        name: "b".to_owned(),
        ..upstream("http://b/v1", None)
    };
    let both = [upstream("http://a/v1", None), second].map(Arc::new);
    for second in 0..3 {
        upstreams.clone().record_failure(
            "b",
            Failure::Connect,
            Uuid::nil(),
            Timestamp::from_secs(second),
        );
    }
    let health = upstreams.with_settings(&proxy()).health(&both, now);
    assert_eq!((health["openai"].ok, health["b"].ok), (true, false));
    upstreams.record_ok("b", Timestamp::from_secs(9));
    assert!(upstreams.health(&both, now)["b"].ok);
}

#[tokio::test]
async fn a_second_try_that_finds_nobody_was_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    #[allow(
        clippy::disallowed_methods,
        reason = "the test's own server ends with its runtime"
    )]
    let served = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let request = request_of(&mut socket).await;
        drop(listener);
        socket
            .write_all(answer("401 No\r\nConnection: close", "{}").as_bytes())
            .await
            .unwrap();
        request
    });
    let previous = Some(secrecy::SecretString::from("sk-before"));
    let to = UpstreamConfig {
        api_key_previous: previous,
        ..upstream(&url, Some("sk-now"))
    };
    let mut exchange =
        Upstreams::new(&proxy()).send(&to, chat(Bytes::from_static(b"{}"), false), Uuid::now_v7());
    let outcome = (&mut exchange).await;
    assert_eq!(
        (outcome.err(), exchange.sent()),
        (Some(SendError::Connect), false)
    );
    assert!(
        served.await.unwrap().contains("Bearer sk-now"),
        "the key in force comes first"
    );
}

/// Reads heads and answers nobody; the ids of the requests that it was sent.
async fn server_that_only_listens() -> (String, Arc<Mutex<Vec<Uuid>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    #[allow(
        clippy::disallowed_methods,
        reason = "the test's own server ends with its runtime"
    )]
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let log = log.clone();
            tokio::spawn(async move {
                let request = request_of(&mut socket).await;
                let id = request.lines().find_map(|line| {
                    line.strip_prefix("x-client-request-id: ")?
                        .parse::<Uuid>()
                        .ok()
                });
                log.lock().unwrap().extend(id);
                // It stays open and says nothing.
                std::future::pending::<()>().await;
            });
        }
    });
    (url, seen)
}

/// What is told as not sent is free for the user, so it must not arrive later: whoever gives up at whatever moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_that_was_given_up_unsent_never_arrives() {
    let (url, seen) = server_that_only_listens().await;
    let (to, upstreams) = (upstream(&url, None), Upstreams::new(&proxy()));
    let (mut unsent, mut sent) = (Vec::new(), 0);
    for wait in 0..3000_u64 {
        let id = Uuid::now_v7();
        let mut exchange = upstreams.send(&to, chat(Bytes::from_static(b"{}"), true), id);
        let until = std::time::Instant::now() + Duration::from_micros(wait % 1200);
        std::future::poll_fn(|context| {
            let answered = Pin::new(&mut exchange).poll(context).is_ready();
            if answered || std::time::Instant::now() >= until {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        let was_sent = exchange.sent();
        drop(exchange);
        if was_sent { sent += 1 } else { unsent.push(id) }
    }
    // What must not come is given time to.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let seen = seen.lock().unwrap();
    assert!(
        sent > 10 && unsent.len() > 10,
        "{sent} sent, {} not: the moments do not differ",
        unsent.len()
    );
    let late: Vec<_> = unsent.iter().filter(|id| seen.contains(id)).collect();
    assert!(
        late.is_empty(),
        "{} of {} arrived all the same",
        late.len(),
        unsent.len()
    );
}
