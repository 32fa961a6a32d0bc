//! The model of the demo: a small server that speaks OpenAI's API for chat, responses and embeddings.
//!
//! It checks no keys and is meant for loopback. It says that it is a stand-in, repeats the question, and counts a word
//! as a token. `/error 429` as the last message makes it answer that status, and `/cut` makes it break off in
//! mid-stream. Invariant: the usage that it reports is what it sent.

mod embeddings;
mod responses;

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body::Frame;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{Instant, Sleep, sleep_until};
use uuid::Uuid;

/// The time from word to word.
const PACE: Duration = Duration::from_millis(30);
/// The longest request, in bytes; a little more than Tollgate's own default.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How much of a question is repeated, in characters.
const ECHO_CHARS_MAX: usize = 300;
/// The most choices of a request (OpenAI's own limit).
const CHOICES_MAX: usize = 128;
/// What OpenAI counts for each message and for the answer's beginning, in tokens.
const MESSAGE_TOKENS: usize = 3;
/// The models that it lists.
const MODELS: [&str; 8] = [
    "gpt-6-luna",
    "gpt-4o-mini",
    "gpt-3.5-turbo",
    "gpt-4.1-mini",
    "gpt-4.1-nano",
    "gpt-5-mini",
    "gpt-5-nano",
    "text-embedding-3-small",
];

/// Serves the stand-in until `shutdown`; open streams go on to their end, which is seconds away.
///
/// # Errors
/// The listener fails.
pub async fn serve<F>(listener: TcpListener, shutdown: F) -> std::io::Result<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = listener.tap_io(|socket| {
        // Without it a stream is as it should be, only late.
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY cannot be set");
        }
    });
    axum::serve(listener, router())
        .with_graceful_shutdown(shutdown)
        .await
}

/// `POST /v1/chat/completions`, `POST /v1/embeddings`, `POST /v1/responses`, `GET /v1/models`.
pub fn router() -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/embeddings", post(embeddings::embeddings))
        .route("/v1/responses", post(responses::responses))
        .route("/v1/models", get(models))
        .fallback(|| async { error(StatusCode::NOT_FOUND, "Invalid URL.", None) })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

async fn models() -> Response {
    let model =
        |id: &&str| json!({"id": id, "object": "model", "created": 0, "owned_by": "stand-in"});
    json_response(
        StatusCode::OK,
        &json!({"object": "list", "data": MODELS.iter().map(model).collect::<Vec<_>>()}),
    )
}

/// It answers for any of OpenAI's chat models.
fn is_known(model: &str) -> bool {
    ["gpt-", "o1", "o3", "o4"]
        .iter()
        .any(|start| model.starts_with(start))
}

async fn chat(body: Bytes) -> Response {
    let request: DemoRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(reason) => {
            return error(
                StatusCode::BAD_REQUEST,
                &format!("Not a chat request: {reason}."),
                None,
            );
        }
    };
    if !is_known(&request.model) {
        let message = format!("The model `{}` does not exist.", request.model);
        return error(StatusCode::NOT_FOUND, &message, Some("model_not_found"));
    }
    let question = request
        .messages
        .last()
        .map(Message::text)
        .unwrap_or_default();
    if let Some(status) = question
        .trim()
        .strip_prefix("/error ")
        .and_then(|word| word.trim().parse::<u16>().ok())
    {
        let status = StatusCode::from_u16(status)
            .ok()
            .filter(|status| status.as_u16() >= 400);
        return error(
            status.unwrap_or(StatusCode::BAD_REQUEST),
            "You asked for this error.",
            Some("asked_for"),
        );
    }
    let answer = DemoAnswer::to(&request, &question);
    if !request.stream {
        return json_response(StatusCode::OK, &answer.whole());
    }
    let script = Script::new(
        answer.events(request.wants_usage()),
        question.trim() == "/cut",
    );
    let mut response = Response::new(axum::body::Body::new(script));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    response
}

/// The fields that are read; the others are ignored.
#[derive(Deserialize)]
struct DemoRequest {
    model: String,
    messages: Vec<Message>,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    n: Option<usize>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    content: Value,
}

impl Message {
    /// The text, or the text parts one after the other.
    fn text(&self) -> String {
        match &self.content {
            Value::String(text) => text.clone(),
            Value::Array(parts) => {
                let texts: Vec<&str> = parts
                    .iter()
                    .filter_map(|part| part.get("text")?.as_str())
                    .collect();
                texts.join(" ")
            }
            _ => String::new(),
        }
    }
}

impl DemoRequest {
    fn wants_usage(&self) -> bool {
        self.stream_options
            .as_ref()
            .is_some_and(|options| options.include_usage)
    }

    /// Its words, and OpenAI's small change for each message: no more than any tokenizer counts.
    fn prompt_tokens(&self) -> usize {
        let message = |message: &Message| {
            message
                .text()
                .split_whitespace()
                .count()
                .saturating_add(MESSAGE_TOKENS)
        };
        self.messages
            .iter()
            .map(message)
            .fold(MESSAGE_TOKENS, usize::saturating_add)
    }
}

/// An answer: the same words for each choice.
struct DemoAnswer {
    id: String,
    model: String,
    words: Vec<String>,
    finish_reason: &'static str,
    choices: usize,
    prompt_tokens: usize,
}

impl DemoAnswer {
    fn to(request: &DemoRequest, question: &str) -> Self {
        let start: String = question.chars().take(ECHO_CHARS_MAX).collect();
        let echo: Vec<&str> = start.split_whitespace().collect();
        let text = format!(
            "I am Tollgate's stand-in model, not a real one. You said: {}",
            echo.join(" ")
        );
        let cap = request
            .max_completion_tokens
            .or(request.max_tokens)
            .unwrap_or(usize::MAX);
        let all: Vec<&str> = text.split_inclusive(' ').collect();
        Self {
            id: format!("chatcmpl-{}", Uuid::now_v7().simple()),
            model: request.model.clone(),
            words: all
                .iter()
                .take(cap)
                .map(|word| (*word).to_owned())
                .collect(),
            finish_reason: if all.len() > cap { "length" } else { "stop" },
            choices: request.n.unwrap_or(1).clamp(1, CHOICES_MAX),
            prompt_tokens: request.prompt_tokens(),
        }
    }

    fn usage(&self) -> Value {
        let completion_tokens = self.words.len().saturating_mul(self.choices);
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": self.prompt_tokens.saturating_add(completion_tokens),
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        })
    }

    /// A `chat.completion`.
    fn whole(&self) -> Value {
        let message = json!({"role": "assistant", "content": self.words.concat(), "refusal": null});
        let choice = |index: usize| json!({"index": index, "message": message, "logprobs": null, "finish_reason": self.finish_reason});
        json!({
            "id": self.id, "object": "chat.completion", "created": 0, "model": self.model,
            "choices": (0..self.choices).map(choice).collect::<Vec<_>>(),
            "usage": self.usage(), "service_tier": "default",
        })
    }

    /// The events of a stream; those of one moment together.
    fn events(&self, with_usage: bool) -> VecDeque<Bytes> {
        let step = |delta: &Value, reason: Option<&str>| {
            let choice =
                |index: usize| json!([{"index": index, "delta": delta, "finish_reason": reason}]);
            let chunks =
                (0..self.choices).map(|index| self.chunk(&choice(index), &Value::Null, with_usage));
            Bytes::from(chunks.collect::<String>())
        };
        let mut events = VecDeque::from([step(&json!({"role": "assistant", "content": ""}), None)]);
        events.extend(
            self.words
                .iter()
                .map(|word| step(&json!({"content": word}), None)),
        );
        events.push_back(step(&json!({}), Some(self.finish_reason)));
        if with_usage {
            events.push_back(Bytes::from(self.chunk(&json!([]), &self.usage(), true)));
        }
        events.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
        events
    }

    fn chunk(&self, choices: &Value, usage: &Value, with_usage: bool) -> String {
        let mut chunk = json!({
            "id": self.id, "object": "chat.completion.chunk", "created": 0, "model": self.model,
            "service_tier": "default", "choices": choices,
        });
        if let Some(members) = chunk.as_object_mut().filter(|_| with_usage) {
            members.insert("usage".to_owned(), usage.clone());
        }
        format!("data: {chunk}\n\n")
    }
}

/// A body that hands out its events at a human pace. It needs no task of its own.
struct Script {
    events: VecDeque<Bytes>,
    /// Break off when so few events are left.
    cut_at: Option<usize>,
    next: Pin<Box<Sleep>>,
}

/// The connection is broken on purpose.
#[derive(Debug)]
struct Disconnect;

impl fmt::Display for Disconnect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("cut as asked for")
    }
}

impl std::error::Error for Disconnect {}

impl Script {
    fn new(events: VecDeque<Bytes>, cut: bool) -> Self {
        let cut_at = cut.then_some(events.len() / 2);
        Self {
            events,
            cut_at,
            next: Box::pin(sleep_until(Instant::now())),
        }
    }
}

impl http_body::Body for Script {
    type Data = Bytes;
    type Error = Disconnect;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Disconnect>>> {
        ready!(self.next.as_mut().poll(context));
        if self.cut_at == Some(self.events.len()) {
            return Poll::Ready(Some(Err(Disconnect)));
        }
        let now = Instant::now();
        self.next
            .as_mut()
            .reset(now.checked_add(PACE).unwrap_or(now));
        Poll::Ready(self.events.pop_front().map(|event| Ok(Frame::data(event))))
    }
}

/// OpenAI's shape of an error.
fn error(status: StatusCode, message: &str, code: Option<&str>) -> Response {
    let kind = if status.is_server_error() {
        "server_error"
    } else {
        "invalid_request_error"
    };
    let body = json!({"error": {"message": message, "type": kind, "param": null, "code": code}});
    let mut response = json_response(status, &body);
    if matches!(status.as_u16(), 429 | 503) {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from_static("7"));
    }
    response
}

fn json_response(status: StatusCode, body: &Value) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (status, kind, body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;
    use crate::meter::{Measured, Meter, measure_json};

    async fn ask(body: &str) -> (StatusCode, Bytes) {
        post_to("/v1/chat/completions", body).await
    }

    async fn post_to(path: &str, body: &str) -> (StatusCode, Bytes) {
        let request = http::Request::post(path).header("content-type", "application/json");
        let request = request
            .body(axum::body::Body::from(body.to_owned()))
            .unwrap();
        let response = router().oneshot(request).await.unwrap();
        (
            response.status(),
            response.into_body().collect().await.unwrap().to_bytes(),
        )
    }

    async fn stream(body: &str) -> Measured {
        let (status, bytes) = ask(body).await;
        assert_eq!(status, StatusCode::OK);
        let mut meter = Meter::chat(true);
        meter.push(&bytes, &mut bytes::BytesMut::new()).unwrap();
        meter.into_measured()
    }

    #[tokio::test(start_paused = true)]
    async fn it_says_the_same_streamed_and_whole_and_reports_what_it_sent() {
        let question = r#""model":"gpt-4o-mini","n":2,"messages":[{"role":"system","content":[{"type":"text","text":"be"}]},
            {"role":"user","content":"good day"}]"#;
        let options = r#""stream":true,"stream_options":{"include_usage":true}"#;
        let streamed = stream(&format!("{{{question},{options}}}")).await;
        let whole = measure_json(&ask(&format!("{{{question}}}")).await.1);
        assert_eq!(streamed.usage, whole.usage);
        assert_eq!(whole.usage.unwrap().input_tokens, 3 + 3 + 3 + 3);
        assert!(whole.text.ends_with("You said: good day"), "{}", whole.text);
        let words = whole.text.split_inclusive(' ').count() + 1;
        assert_eq!(
            whole.usage.unwrap().output_tokens,
            u64::try_from(words).unwrap()
        );
        assert!(streamed.done && streamed.finished);
    }

    #[tokio::test]
    async fn every_input_becomes_a_vector_and_a_word_is_a_token() {
        for (input, vectors, tokens) in [
            (r#""three short words""#, 1, 3),
            (r#"["one", "and two"]"#, 2, 3),
            ("[1, 2, 3]", 1, 3),
            ("[[1, 2], [3]]", 2, 3),
        ] {
            let body = |format: &str| {
                format!(r#"{{"model":"text-embedding-3-small","input":{input}{format}}}"#)
            };
            let (status, bytes) = post_to("/v1/embeddings", &body("")).await;
            assert_eq!(status, StatusCode::OK);
            let answer: Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(answer["data"].as_array().unwrap().len(), vectors, "{input}");
            assert_eq!(answer["usage"]["prompt_tokens"], tokens, "{input}");
            assert_eq!(answer["data"][0]["embedding"][1], -0.5);
            let (_, bytes) =
                post_to("/v1/embeddings", &body(r#","encoding_format":"base64""#)).await;
            let answer: Value = serde_json::from_slice(&bytes).unwrap();
            // Four numbers of four bytes.
            assert_eq!(answer["data"][0]["embedding"].as_str().unwrap().len(), 24);
        }
        let (status, _) = post_to("/v1/embeddings", r#"{"model":"gpt-4o","input":"a"}"#).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    }

    #[tokio::test(start_paused = true)]
    async fn it_keeps_to_the_cap_and_says_so() {
        let body = r#"{"model":"gpt-4o","messages":[{"content":"hi"}],"max_completion_tokens":3}"#;
        let answer: Value = serde_json::from_slice(&ask(body).await.1).unwrap();
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
        assert_eq!(
            answer["choices"][0]["message"]["content"],
            "I am Tollgate's "
        );
        assert_eq!(answer["usage"]["completion_tokens"], 3);
    }

    #[tokio::test(start_paused = true)]
    async fn it_fails_when_told_to() {
        let asked = |text: &str| {
            format!(r#"{{"model":"gpt-4o","stream":true,"messages":[{{"content":"{text}"}}]}}"#)
        };
        for (body, status) in [
            (asked("/error 429"), 429),
            (asked("/error 500"), 500),
            (asked("/error 200"), 400),
            (asked("").replace("gpt-4o", "cat"), 404),
            ("{".to_owned(), 400),
        ] {
            let (answered, bytes) = ask(&body).await;
            assert_eq!(answered.as_u16(), status, "{body}");
            assert!(
                serde_json::from_slice::<Value>(&bytes).unwrap()["error"]["message"].is_string()
            );
        }
        let mut script = Script::new(VecDeque::from(vec![Bytes::from_static(b"a"); 4]), true);
        for is_ok in [true, true, false] {
            assert_eq!(script.frame().await.unwrap().is_ok(), is_ok);
        }
    }
}
