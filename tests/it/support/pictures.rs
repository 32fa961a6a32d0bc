//! The fake upstream's pictures: what it bills by its own rules, and what it answers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::caller::{PROMPT_CANARY, chat, serial_in};
use super::reply::{Bill, Books, Reply, Step};
use super::upstream::Seen;
use super::wire::Request;

/// A PNG of this size, as far as anybody reads it.
pub(crate) fn png(width: u32, height: u32) -> Vec<u8> {
    let sides = [width.to_be_bytes(), height.to_be_bytes()].concat();
    [
        &b"\x89PNG\r\n\x1a\n\0\0\0\x0DIHDR"[..],
        &sides,
        b"\x08\x06\0\0\0",
    ]
    .concat()
}

/// A prompt with a serial by which the oracle finds the upstream's line.
pub(crate) fn prompt(text: &str) -> String {
    let serial = serial_in(chat("").to_string().as_bytes()).unwrap();
    format!("{text} {PROMPT_CANARY} ask-{serial};")
}

/// A request to draw something, by tokens.
pub(crate) fn draw(text: &str) -> Value {
    json!({"model": "gpt-image-2", "prompt": prompt(text)})
}

/// A field of what was sent, in JSON or in a form.
pub(crate) fn sent(seen: &Seen, name: &str) -> Option<String> {
    if seen.body.is_object() {
        let value = &seen.body[name];
        return match value {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
    }
    let mut named = parts(&seen.request)
        .into_iter()
        .filter(|part| part.name == name);
    named
        .next()
        .map(|part| String::from_utf8_lossy(&part.data).into_owned())
}

/// A part of a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SentPart {
    pub(crate) name: String,
    pub(crate) file: Option<String>,
    pub(crate) media_type: Option<String>,
    pub(crate) data: Vec<u8>,
}

/// The parts of a form, read by hand.
pub(crate) fn parts(request: &Request) -> Vec<SentPart> {
    let kind = request.header("content-type").unwrap_or_default();
    let Some((_, boundary)) = kind.split_once("boundary=") else {
        return Vec::new();
    };
    let mark = format!("--{boundary}").into_bytes();
    let mut rest = request.body.as_slice();
    let mut parts = Vec::new();
    while let Some(at) = find(rest, &mark) {
        rest = &rest[at + mark.len()..];
        let Some(end) = find(rest, &mark) else { break };
        let part = rest[..end].strip_prefix(b"\r\n").unwrap();
        let part = part.strip_suffix(b"\r\n").unwrap();
        let blank = find(part, b"\r\n\r\n").unwrap();
        let head = String::from_utf8_lossy(&part[..blank]).into_owned();
        let between = |before: &str, after: &str| {
            let (_, rest) = head.split_once(before)?;
            Some(rest.split(after).next()?.to_owned())
        };
        parts.push(SentPart {
            name: between("; name=\"", "\"").unwrap(),
            file: between("; filename=\"", "\""),
            media_type: between("Content-Type: ", "\r\n"),
            data: part[blank + 4..].to_vec(),
        });
    }
    parts
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// How many are made.
pub(crate) fn count(seen: &Seen) -> u64 {
    sent(seen, "n").map_or(1, |n| n.parse().unwrap())
}

/// Tokens of one picture: by quality, and by its area; and of the pictures in the prompt, a token for each 16 × 16 pixels.
struct Spent {
    text: u64,
    seen: u64,
    made: u64,
}

fn spent(seen: &Seen) -> Spent {
    let text = sent(seen, "prompt").unwrap_or_default();
    let size = sent(seen, "size").expect("a size is always sent");
    let (width, height) = size.split_once('x').expect("never auto");
    let area: u64 = width.parse::<u64>().unwrap() * height.parse::<u64>().unwrap();
    let unit = match sent(seen, "quality").as_deref() {
        Some("low") => 272,
        Some("medium") => 1_767,
        Some("high") => 7_033,
        other => panic!("a quality is always sent: {other:?}"),
    };
    let partial = sent(seen, "partial_images").map_or(0, |n| n.parse().unwrap());
    let pictures = parts(&seen.request)
        .into_iter()
        .filter(|part| part.file.is_some())
        .count() as u64;
    let refs = seen.body["images"].as_array().map_or(0, Vec::len) as u64;
    Spent {
        text: text.split_whitespace().count() as u64 + 8,
        seen: (pictures + refs) * 388,
        made: (unit * area).div_ceil(1024 * 1024) + 100 * partial,
    }
}

/// Dollars a million: five for text, eight for pictures that are seen, thirty for those that are made.
pub(crate) fn bill(seen: &Seen) -> Bill {
    let spent = spent(seen);
    Bill {
        prompt: spent.text + spent.seen,
        completion: spent.made * count(seen),
        // Three dollars a million more than text.
        other_micros: (spent.seen * 3),
        ..Bill::default()
    }
}

/// As OpenAI reports it.
pub(crate) fn usage(seen: &Seen, count: u64) -> Value {
    let Spent { text, seen, made } = spent(seen);
    let output = made * count;
    json!({"total_tokens": text + seen + output, "input_tokens": text + seen, "output_tokens": output,
           "input_tokens_details": {"text_tokens": text, "image_tokens": seen},
           "output_tokens_details": {"text_tokens": 0, "image_tokens": output}})
}

/// Everything is billed once the request is read: a provider works on when nobody listens.
pub(crate) fn books(seen: &Seen) -> Books {
    Books {
        whole: bill(seen),
        works_on: true,
        ..Books::default()
    }
}

/// The body of a whole answer, with usage or without.
pub(crate) fn answer(seen: &Seen, has_usage: bool) -> Value {
    let picture = json!({"b64_json": STANDARD.encode(png(8, 8))});
    let mut body = json!({"created": 1, "data": vec![picture; count(seen) as usize]});
    if has_usage {
        body["usage"] = usage(seen, count(seen));
    }
    body
}

/// The events of a stream: partial pictures, and one for each that is finished.
pub(crate) fn events(seen: &Seen) -> Vec<String> {
    let kind = if seen.request.target.ends_with("/edits") {
        "image_edit"
    } else {
        "image_generation"
    };
    let event = |name: &str, more: Value| {
        let mut data =
            json!({"type": format!("{kind}.{name}"), "b64_json": "AAAA", "created_at": 1});
        data.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        format!("event: {kind}.{name}\ndata: {data}\n\n")
    };
    let partial: u64 = sent(seen, "partial_images").map_or(0, |n| n.parse().unwrap());
    let mut events: Vec<_> = (0..partial)
        .map(|index| event("partial_image", json!({"partial_image_index": index})))
        .collect();
    events.push(event("completed", json!({"usage": usage(seen, 1)})));
    events
}

/// An honest answer, in the form that was asked for.
pub(crate) fn honest(seen: &Seen) -> Reply {
    if sent(seen, "stream").as_deref() == Some("true") {
        let steps = events(seen)
            .into_iter()
            .map(|event| Step::Body(event.into_bytes()));
        return Reply::events(steps.collect()).booked(books(seen));
    }
    Reply::status(200, "application/json", answer(seen, true).to_string()).booked(books(seen))
}

/// A form as curl sends it: names, perhaps with a file, and contents.
pub(crate) fn form(parts: &[(&str, &[u8])]) -> (String, Vec<u8>) {
    let mut body = Vec::new();
    for (disposition, data) in parts {
        body.extend_from_slice(b"--x-1\r\nContent-Disposition: form-data; ");
        body.extend_from_slice(disposition.as_bytes());
        body.extend_from_slice(b"\r\nContent-Type: application/octet-stream\r\n\r\n");
        body.extend_from_slice(data);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--x-1--\r\n");
    ("multipart/form-data; boundary=x-1".to_owned(), body)
}
