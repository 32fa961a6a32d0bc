//! A form with files. What is sent is written anew, and a reader of its own finds in it the caller's file byte for byte, the
//! fields that may go out, and nothing that the caller framed; read again, it holds the same.

use std::sync::LazyLock;

use bytes::Bytes;
use http::HeaderValue;
use tollgate::clock::Timestamp;
use tollgate::config::Config;
use tollgate::dialect::Dialect;
use tollgate::endpoint::{
    Endpoint, Incoming, Route, Spec, Terms, image_generation, transcriptions,
};
use tollgate::error::Code;

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    super::settings(&[
        ("JWT_SECRET", "kU7vX1pQ9zR4tW8yB3nM6cL2dF5gH0jS"),
        ("OPENAI_API_KEY", "sk-x"),
        ("TOLLGATE_UPSTREAMS__0__MODELS", r#"["*"]"#),
        (
            "TOLLGATE_PLANS",
            r#"{ free = { default = true, models = ["whisper-1", "gpt-4o-transcribe", "gpt-image-2"], max_output_tokens = 1000, max_images = 3, max_image_size = "1536x1024", max_image_quality = "high", limits = [{ per = "day", requests = 9 }] } }"#,
        ),
    ])
});

/// The boundary of every form that is tried.
const BOUNDARY: &str = "cut";

/// The fields that may go out, of both endpoints; a list has brackets.
const PASSED: [&str; 29] = [
    "model",
    "language",
    "languages[]",
    "keywords[]",
    "prompt",
    "response_format",
    "temperature",
    "include[]",
    "timestamp_granularities[]",
    "stream",
    "chunking_strategy",
    "chunking_strategy[type]",
    "chunking_strategy[prefix_padding_ms]",
    "chunking_strategy[silence_duration_ms]",
    "chunking_strategy[threshold]",
    "input_fidelity",
    "n",
    "size",
    "quality",
    "background",
    "moderation",
    "style",
    "output_format",
    "output_compression",
    "partial_images",
    "user",
    "image[]",
    "image",
    "mask",
];

/// Tries a body as each of the two endpoints that take forms.
///
/// # Panics
/// It breaks a promise.
pub fn check(body: &[u8]) {
    taken(body);
}

/// The same; how many of the two take it.
///
/// # Panics
/// It breaks a promise.
pub fn taken(body: &[u8]) -> usize {
    let mut taken = 0;
    for (spec, path) in [
        (&transcriptions::SPEC, "/v1/audio/transcriptions"),
        (&image_generation::EDITS, "/v1/images/edits"),
    ] {
        let typed = format!("multipart/form-data; boundary={BOUNDARY}");
        if let Some(order) = parse(spec, path, &typed, body) {
            what_is_sent(spec, path, &*order, body);
            taken += 1;
        }
    }
    taken
}

fn parse(
    spec: &Spec,
    path: &'static str,
    content_type: &str,
    body: &[u8],
) -> Option<Box<dyn Endpoint>> {
    let terms = Terms {
        plan: &CONFIG.plans.default,
        prices: &CONFIG.prices,
        models: &CONFIG.models,
        prompts: &CONFIG.prompts,
        now: Timestamp::EPOCH,
        candidate: None,
    };
    let incoming = Incoming {
        route: Route::plain(path),
        content_type: Some(HeaderValue::try_from(content_type).expect("plain letters")),
        body: Bytes::copy_from_slice(body),
    };
    match (spec.parse)(&incoming, &terms) {
        Ok(order) => Some(order),
        Err(refusal) => {
            let allowed = [
                Code::InvalidRequest,
                Code::UnsupportedField,
                Code::ModelNotAllowed,
            ];
            assert!(allowed.contains(&refusal.code), "{:?}", refusal.code);
            None
        }
    }
}

fn what_is_sent(spec: &Spec, path: &'static str, order: &dyn Endpoint, came: &[u8]) {
    let sent = order.body(u32::MAX, Dialect::Openai.into(), "someone");
    let content_type = order.content_type();
    let content_type = content_type.to_str().expect("ASCII");
    let Some((_, boundary)) = content_type.split_once("boundary=") else {
        // An edit may go out as JSON, where that says the same.
        serde_json::from_slice::<serde_json::Value>(&sent).expect("JSON");
        return;
    };
    let parts = parts(&sent, boundary);
    let mut files = 0;
    for part in &parts {
        assert!(
            part.name == "file" || PASSED.contains(&part.name),
            "{}",
            part.name
        );
        if part.is_file {
            files += 1;
            assert!(contains(came, part.data), "a file that nobody sent");
        } else {
            std::str::from_utf8(part.data).expect("a text");
        }
    }
    let models: Vec<_> = parts.iter().filter(|part| part.name == "model").collect();
    let [model] = models[..] else {
        panic!("{} models", models.len());
    };
    assert_eq!(model.data, order.model().as_bytes());
    assert!(files > 0, "no file");
    let once_more = parse(spec, path, content_type, &sent).expect("what is sent can be read");
    let hold = |order: &dyn Endpoint| order.quote(0).hold(order.output_cap());
    assert_eq!(
        hold(&*once_more),
        hold(order),
        "what is sent costs what was held"
    );
}

/// A part of a form that we wrote.
struct Part<'a> {
    name: &'a str,
    is_file: bool,
    data: &'a [u8],
}

/// Reads a form as strictly as it can be read: no word before the first boundary, none after the last, two headers at most.
fn parts<'a>(form: &'a [u8], boundary: &str) -> Vec<Part<'a>> {
    let between = format!("\r\n--{boundary}");
    let first = &between.as_bytes()[2..];
    let mut rest = form.strip_prefix(first).expect("begins with its boundary");
    let mut parts = Vec::new();
    while rest != b"--\r\n" {
        rest = rest.strip_prefix(b"\r\n").expect("a part follows");
        let head_end = position(rest, b"\r\n\r\n").expect("a head ends");
        let head = std::str::from_utf8(&rest[..head_end]).expect("a head is text");
        let body = &rest[head_end + 4..];
        let end = position(body, between.as_bytes()).expect("a part ends");
        let disposition = head.lines().next().expect("a line");
        let name = disposition
            .strip_prefix("Content-Disposition: form-data; name=\"")
            .expect("it is named");
        let name = &name[..name.find('"').expect("its name ends")];
        parts.push(Part {
            name,
            is_file: disposition.contains("; filename=\""),
            data: &body[..end],
        });
        assert!(head.lines().count() <= 2, "{head}");
        rest = &body[end + between.len()..];
    }
    parts
}

fn position(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

fn contains(text: &[u8], what: &[u8]) -> bool {
    what.is_empty() || position(text, what).is_some()
}
