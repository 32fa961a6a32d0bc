//! The fake upstream's transcriptions: it knows how long each file really is, bills that, and says it or not.

use serde_json::{Map, Value, json};

use super::caller::{Call, PROMPT_CANARY, User, chat, serial_in};
use super::reply::{Bill, Reply, Step, WORD};
use super::upstream::Seen;
use super::wire::Request;

/// The path.
pub(crate) const PATH: &str = "/v1/audio/transcriptions";
/// The models that it bills: one by the minute, and one by the token.
pub(crate) const PRICES: &str = r#"
    [prices.whisper-1]
    minute = "0.006"
    [prices.scribe]
    input = "6"
    output = "8"
    endpoints = ["transcriptions"]
"#;
/// Micro-dollars a minute of `whisper-1`.
const A_MINUTE: u64 = 6000;
/// Tokens of a second of audio, at the fake.
const AUDIO_TOKENS: u64 = 10;

/// Files of `tests/audio`, and how long they are to the ear, in milliseconds.
const FILES: [(&str, u64); 7] = [
    ("memo.m4a", 2500),
    ("memo.mp3", 2500),
    ("sox.wav", 1250),
    ("memo.flac", 2500),
    ("memo.opus", 2500),
    ("memo.webm", 2500),
    ("gsm.wav", 1250),
];

/// A file of `tests/audio`.
pub(crate) fn file(name: &str) -> Vec<u8> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/audio/");
    std::fs::read(format!("{directory}{name}")).unwrap()
}

/// A sound that is made of nothing: a WAV of so many milliseconds, eight bytes each.
pub(crate) fn wav(millis: u32) -> Vec<u8> {
    let bytes = millis * 8;
    let mut file = b"RIFF".to_vec();
    file.extend((bytes + 36).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend([8000_u32.to_le_bytes(), 8000_u32.to_le_bytes()].concat());
    file.extend(b"\x01\0\x08\0data");
    file.extend(bytes.to_le_bytes());
    file.resize(file.len() + bytes as usize, 0x80);
    file
}

/// What such a file is called.
pub(crate) const MADE: &str = "made.wav";

/// A form with texts and a file, in this order of parts.
#[derive(Clone)]
pub(crate) struct Form {
    parts: Vec<(String, Option<String>, Vec<u8>)>,
    boundary: String,
}

impl Form {
    /// With a prompt that has a serial, by which the oracle finds the upstream's line.
    pub(crate) fn new(model: &str) -> Self {
        Self::saying(model, "Hello")
    }

    /// The same with another text in front of the prompt.
    pub(crate) fn saying(model: &str, text: &str) -> Self {
        let serial = serial_in(chat("").to_string().as_bytes()).unwrap();
        Self {
            parts: Vec::new(),
            boundary: "client-boundary".to_owned(),
        }
        .text("model", model)
        .text("prompt", &format!("{text} {PROMPT_CANARY} ask-{serial};"))
    }

    /// One more text.
    pub(crate) fn text(mut self, name: &str, value: &str) -> Self {
        self.parts.push((name.to_owned(), None, value.into()));
        self
    }

    /// The file.
    pub(crate) fn file(self, name: &str) -> Self {
        let data = file(name);
        self.data(name, data)
    }

    /// A file of this name and content.
    pub(crate) fn data(mut self, name: &str, data: Vec<u8>) -> Self {
        self.parts
            .push(("file".to_owned(), Some(name.to_owned()), data));
        self
    }

    /// The last part first.
    pub(crate) fn reversed(mut self) -> Self {
        self.parts.reverse();
        self
    }

    /// With another boundary.
    pub(crate) fn boundary(mut self, boundary: &str) -> Self {
        boundary.clone_into(&mut self.boundary);
        self
    }

    /// The call of a user.
    pub(crate) fn call(&self, user: &User) -> Call {
        let mut body = Vec::new();
        for (name, file, data) in &self.parts {
            let file = file.as_ref();
            let file = file.map_or_else(String::new, |file| {
                format!("; filename=\"{file}\"\r\nContent-Type: application/octet-stream")
            });
            let head = format!(
                "--{}\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n",
                self.boundary
            );
            body.extend_from_slice(head.as_bytes());
            body.extend_from_slice(data);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(format!("--{}--\r\n", self.boundary).as_bytes());
        let kind = format!("multipart/form-data; boundary={}", self.boundary);
        Call::new("POST", PATH)
            .bearer(&user.token)
            .header("content-type", &kind)
            .bytes(body)
    }
}

/// The texts of a form as an object, and its file as `{"name", "type", "bytes"}`; none where it is none
/// for a transcript.
pub(crate) fn fields(request: &Request) -> Option<Value> {
    (request.target == PATH).then_some(())?;
    let kind = request.header("content-type")?;
    let boundary = kind.strip_prefix("multipart/form-data; boundary=")?;
    let mut fields = Map::new();
    for (head, data) in parts(&request.body, boundary)? {
        let (_, name) = head.split_once("name=\"")?;
        let (name, rest) = name.split_once('"')?;
        if let Some((_, file)) = rest.split_once("filename=\"") {
            let (file, kind) = file.split_once('"')?;
            let kind = kind.trim().strip_prefix("Content-Type: ")?;
            let told = json!({"name": file, "type": kind, "bytes": data.len()});
            fields.insert(name.to_owned(), told);
            continue;
        }
        let text = String::from_utf8(data.to_vec()).ok()?;
        let value = match text.as_str() {
            "true" => json!(true),
            text => json!(text),
        };
        match (name.strip_suffix("[]"), fields.get_mut(name)) {
            (Some(_), Some(Value::Array(items))) => items.push(value),
            (Some(_), _) => _ = fields.insert(name.to_owned(), json!([value])),
            (None, _) => _ = fields.insert(name.to_owned(), value),
        }
    }
    Some(Value::Object(fields))
}

/// The head and the data of each part.
fn parts<'a>(body: &'a [u8], boundary: &str) -> Option<Vec<(String, &'a [u8])>> {
    let mark = format!("\r\n--{boundary}");
    let mut rest = body.strip_prefix(&mark.as_bytes()[2..])?;
    let mut parts = Vec::new();
    while let Some(part) = rest.strip_prefix(b"\r\n") {
        let end = part
            .windows(mark.len())
            .position(|bytes| bytes == mark.as_bytes())?;
        let head = part.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
        parts.push((
            String::from_utf8(part[..head].to_vec()).ok()?,
            &part[head + 4..end],
        ));
        rest = &part[end + mark.len()..];
    }
    (rest == b"--\r\n").then_some(parts)
}

/// The real length of the file that a request carries, in milliseconds.
fn length(seen: &Seen) -> u64 {
    if seen.body["file"]["name"] == MADE {
        let bytes = seen.body["file"]["bytes"].as_u64().unwrap();
        return (bytes - wav(0).len() as u64) / 8;
    }
    let body = &seen.request.body;
    let holds = |data: &[u8]| body.windows(data.len()).any(|bytes| bytes == data);
    let mut found = FILES.iter().filter(|(name, _)| holds(&file(name)));
    found.next().expect("a file that the fake knows").1
}

/// What the fake bills for a request, and the usage that says so.
pub(crate) fn bill(seen: &Seen, words: u64) -> (Bill, Value) {
    let millis = length(seen);
    if seen.body["model"] == "whisper-1" {
        let seconds = millis.div_ceil(1000);
        let bill = Bill {
            other_micros: (seconds * A_MINUTE).div_ceil(60),
            ..Bill::default()
        };
        return (
            bill,
            json!({"type": "duration", "seconds": as_seconds(millis)}),
        );
    }
    let prompt = seen.body["prompt"].as_str().unwrap_or_default();
    let text = prompt.split_whitespace().count() as u64;
    let audio = (millis * AUDIO_TOKENS).div_ceil(1000);
    let bill = Bill {
        prompt: text + audio,
        completion: words,
        ..Bill::default()
    };
    let usage = json!({
        "type": "tokens",
        "input_tokens": text + audio,
        "input_token_details": {"text_tokens": text, "audio_tokens": audio},
        "output_tokens": words,
        "total_tokens": text + audio + words,
    });
    (bill, usage)
}

fn as_seconds(millis: u64) -> Value {
    serde_json::from_str(&format!("{}.{:03}", millis / 1000, millis % 1000)).unwrap()
}

/// What the fake hears in every file.
pub(crate) fn transcript(words: u64) -> String {
    WORD.repeat(usize::try_from(words).unwrap())
}

/// An honest answer in the form that is asked for.
pub(crate) fn honest(seen: &Seen) -> Reply {
    let (bill, usage) = bill(seen, 5);
    let text = transcript(5);
    let mut reply = match seen.body["response_format"].as_str() {
        _ if seen.is_stream() => return stream(seen, 5),
        Some("text") => Reply::status(200, "text/plain; charset=utf-8", format!("{text}\n")),
        Some("srt") => {
            let body = format!("1\n00:00:00,000 --> 00:00:02,000\n{text}\n\n");
            Reply::status(200, "text/plain", body)
        }
        Some("vtt") => {
            let body = format!("WEBVTT\n\n00:00:00.000 --> 00:00:02.000\n{text}\n\n");
            Reply::status(200, "text/plain", body)
        }
        Some("verbose_json") => {
            let body = json!({"task": "transcribe", "language": "english", "duration": 99.5, "text": text, "segments": []});
            Reply::status(200, "application/json", body.to_string())
        }
        _ => {
            let body = json!({"text": text, "usage": usage});
            Reply::status(200, "application/json", body.to_string())
        }
    };
    reply.steps.insert(0, Step::Billed(bill));
    reply
}

/// The payloads of an honest stream.
pub(crate) fn events(usage: &Value, words: u64) -> Vec<String> {
    let mut events: Vec<String> = (0..words)
        .map(|_| format!("{{\"type\":\"transcript.text.delta\",  \"delta\":\"{WORD}\"}}"))
        .collect();
    let end = json!({"type": "transcript.text.done", "text": transcript(words), "usage": usage});
    events.push(end.to_string());
    events
}

/// An honest stream.
pub(crate) fn stream(seen: &Seen, words: u64) -> Reply {
    let (bill, usage) = bill(seen, words);
    let mut steps: Vec<Step> = events(&usage, words)
        .into_iter()
        .map(|event| Step::Body(format!("data: {event}\n\n").into_bytes()))
        .collect();
    steps.insert(0, Step::Billed(bill));
    Reply::events(steps)
}
