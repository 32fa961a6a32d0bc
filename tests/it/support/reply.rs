//! What the fake upstream answers, as values.
//!
//! A [`Reply`] is a head and a script of steps, played byte by byte. [`Talk`] writes the honest one: an OpenAI chat
//! completion or its stream, whose words, pace, usage and end can be bent one at a time.

use std::time::Duration;

use serde_json::{Value, json};

use super::upstream::Seen;

/// Each word of an answer; `o200k_base` makes one token of it.
pub(crate) const WORD: &str = " alpha";

/// Usage that no honest upstream reports.
pub(crate) const GARBAGE: &[&str] = &[
    "null",
    "[]",
    "{}",
    "7",
    "\"a lot\"",
    "true",
    r#"{"prompt_tokens":-1,"completion_tokens":-1,"total_tokens":-2}"#,
    r#"{"prompt_tokens":10,"completion_tokens":-1000000}"#,
    r#"{"prompt_tokens":1.5,"completion_tokens":2.5}"#,
    r#"{"prompt_tokens":"10","completion_tokens":"5"}"#,
    r#"{"prompt_tokens":null,"completion_tokens":null}"#,
    r#"{"prompt_tokens":[10],"completion_tokens":{"a":1}}"#,
    r#"{"prompt_tokens":1e300,"completion_tokens":1e300}"#,
    r#"{"completion_tokens":5}"#,
    r#"{"prompt_tokens":10}"#,
];

/// What an upstream puts on the operator's invoice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bill {
    pub(crate) prompt: u64,
    pub(crate) cached: u64,
    pub(crate) completion: u64,
    /// Of the prompt, written to a cache for five minutes and for an hour, at 1.25 and 2 times its price.
    pub(crate) written: u64,
    pub(crate) written_1h: u64,
    /// Micro-dollars for what is not paid in tokens of text: characters, images, seconds.
    pub(crate) other_micros: u64,
}

/// What a provider enters into its books for a request it has accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Books {
    /// The price of all the work.
    pub(crate) whole: Bill,
    /// So much of the output is never shown to anybody.
    pub(crate) hidden: u64,
    /// The work goes on when nobody listens any more; else it stops at what was generated.
    pub(crate) works_on: bool,
}

impl Books {
    /// The books of a request that is free.
    pub(crate) fn free() -> Self {
        Self::default()
    }

    /// What stands in them once so much was generated.
    pub(crate) fn after(self, generated: u64) -> Bill {
        let completion = if self.works_on {
            self.whole.completion
        } else {
            generated.min(self.whole.completion)
        };
        Bill {
            completion,
            ..self.whole
        }
    }

    /// Nothing is ever billed.
    pub(crate) fn is_free(self) -> bool {
        self.whole == Bill::default()
    }
}

/// One step of an answer.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Bytes of the body (made a chunk where the body is chunked).
    Body(Vec<u8>),
    /// Bytes of the body that carry so many generated tokens.
    Generated(Vec<u8>, u64),
    /// So many tokens are generated, and nobody is shown them.
    Hidden(u64),
    /// From here on this is what is billed.
    Billed(Bill),
    /// The same bytes again and again until so many went out or the peer left.
    Flood(Vec<u8>, usize),
    /// Nothing, for so long.
    Wait(Duration),
    /// Nothing, until the peer leaves.
    Stall,
    /// RST.
    Reset,
    /// FIN, wherever the framing is.
    Close,
}

/// A whole answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    /// `None` answers nothing at all before the steps.
    pub(crate) status: Option<u16>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) before_head: Duration,
    pub(crate) chunked: bool,
    pub(crate) steps: Vec<Step>,
    /// Entered as soon as the request is read, whatever becomes of the answer.
    pub(crate) books: Option<Books>,
}

impl Reply {
    /// Any status with any body.
    pub(crate) fn status(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let headers = vec![
            ("Content-Type".to_owned(), content_type.to_owned()),
            ("Content-Length".to_owned(), body.len().to_string()),
        ];
        Self {
            status: Some(status),
            headers,
            steps: vec![Step::Body(body)],
            ..Self::default()
        }
    }

    /// An error in OpenAI's shape.
    pub(crate) fn error(status: u16, code: &str, message: &str) -> Self {
        let body = json!({"error": {"message": message, "type": "invalid_request_error", "param": "messages", "code": code}});
        Self::status(status, "application/json", body.to_string())
    }

    /// A chunked event stream of these steps.
    pub(crate) fn events(steps: Vec<Step>) -> Self {
        let headers = vec![
            (
                "Content-Type".to_owned(),
                "text/event-stream; charset=utf-8".to_owned(),
            ),
            ("Transfer-Encoding".to_owned(), "chunked".to_owned()),
        ];
        Self {
            status: Some(200),
            headers,
            chunked: true,
            steps,
            ..Self::default()
        }
    }

    /// No head: only these steps.
    pub(crate) fn headless(step: Step) -> Self {
        Self {
            steps: vec![step],
            ..Self::default()
        }
    }

    /// One more header.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Says nothing for a while before the head.
    pub(crate) fn after(mut self, wait: Duration) -> Self {
        self.before_head = wait;
        self
    }

    /// With these books.
    pub(crate) fn booked(mut self, books: Books) -> Self {
        self.books = Some(books);
        self
    }

    /// The head as bytes, where there is one.
    pub(crate) fn head(&self) -> Option<Vec<u8>> {
        let mut head = format!("HTTP/1.1 {} Whatever\r\n", self.status?);
        for (name, value) in &self.headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        head.push_str("\r\n");
        Some(head.into_bytes())
    }
}

/// What the upstream says it used.
#[derive(Clone, Debug)]
enum Told {
    Honestly,
    Never,
    /// This instead, as raw JSON.
    Raw(String),
}

/// An honest chat completion, with one thing or another bent.
#[derive(Clone, Debug)]
pub(crate) struct Talk {
    words: u64,
    to_the_cap: bool,
    beyond_the_cap: bool,
    every: Duration,
    cached: u64,
    told: Told,
    model: Option<String>,
    tier: String,
    cut: Option<(u64, Step)>,
    slice: usize,
    crlf: bool,
}

impl Talk {
    /// So many words, as far as the cap allows.
    pub(crate) fn words(words: u64) -> Self {
        Self {
            words,
            to_the_cap: false,
            beyond_the_cap: false,
            every: Duration::ZERO,
            cached: 0,
            told: Told::Honestly,
            model: None,
            tier: "default".to_owned(),
            cut: None,
            slice: usize::MAX,
            crlf: false,
        }
    }

    /// As many words as the request allows: the worst case that a hold must cover.
    pub(crate) fn to_the_cap() -> Self {
        Self {
            to_the_cap: true,
            ..Self::words(0)
        }
    }

    /// Ignores the cap.
    pub(crate) fn beyond_the_cap(mut self) -> Self {
        self.beyond_the_cap = true;
        self
    }

    /// A pause after each word of a stream.
    pub(crate) fn every(mut self, pause: Duration) -> Self {
        self.every = pause;
        self
    }

    /// So many prompt tokens came from the provider's cache.
    pub(crate) fn cached(mut self, tokens: u64) -> Self {
        self.cached = tokens;
        self
    }

    /// Reports no usage, whatever was asked.
    pub(crate) fn without_usage(mut self) -> Self {
        self.told = Told::Never;
        self
    }

    /// Reports this as its usage (any text: the rest of the answer is JSON around it).
    pub(crate) fn usage(mut self, raw: &str) -> Self {
        self.told = Told::Raw(raw.to_owned());
        self
    }

    /// Says that another model answered.
    pub(crate) fn model(mut self, name: &str) -> Self {
        self.model = Some(name.to_owned());
        self
    }

    /// Says that another tier was used.
    pub(crate) fn tier(mut self, name: &str) -> Self {
        name.clone_into(&mut self.tier);
        self
    }

    /// After so many words of a stream does this instead of the rest.
    pub(crate) fn cut(mut self, after: u64, step: Step) -> Self {
        self.cut = Some((after, step));
        self
    }

    /// Writes a stream in pieces of so many bytes.
    pub(crate) fn slice(mut self, bytes: usize) -> Self {
        self.slice = bytes;
        self
    }

    /// Ends the lines of a stream with CRLF.
    pub(crate) fn crlf(mut self) -> Self {
        self.crlf = true;
        self
    }

    /// The answer to a request: a stream where it asked for one.
    pub(crate) fn reply(&self, seen: &Seen) -> Reply {
        if seen.is_stream() {
            self.stream(seen)
        } else {
            self.completion(seen)
        }
    }

    fn words_for(&self, seen: &Seen) -> u64 {
        let cap = seen.cap().unwrap_or(u64::MAX);
        match (self.to_the_cap, self.beyond_the_cap) {
            (true, _) => cap.min(100_000),
            (false, true) => self.words,
            (false, false) => self.words.min(cap),
        }
    }

    /// What an honest answer costs.
    pub(crate) fn bill(&self, seen: &Seen) -> Bill {
        let prompt = seen.prompt_tokens();
        Bill {
            prompt,
            cached: self.cached.min(prompt),
            completion: self.words_for(seen) * seen.choices(),
            ..Bill::default()
        }
    }

    fn told_usage(&self, seen: &Seen) -> Option<String> {
        match &self.told {
            Told::Honestly => Some(usage_json(self.bill(seen)).to_string()),
            Told::Never => None,
            Told::Raw(raw) => Some(raw.clone()),
        }
    }

    fn model_for(&self, seen: &Seen) -> String {
        self.model
            .clone()
            .unwrap_or_else(|| seen.body["model"].as_str().unwrap_or("?").to_owned())
    }

    fn completion(&self, seen: &Seen) -> Reply {
        let words = self.words_for(seen);
        let content = WORD.repeat(words as usize);
        let choices: Vec<Value> = (0..seen.choices())
            .map(|index| {
                json!({"index": index, "logprobs": null, "finish_reason": "stop",
                       "message": {"role": "assistant", "content": content, "refusal": null}})
            })
            .collect();
        let head = json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": self.model_for(seen),
                          "service_tier": self.tier, "system_fingerprint": "fp_1", "choices": choices});
        let mut body = head.to_string();
        if let Some(usage) = self.told_usage(seen) {
            body.pop();
            body.extend([",\"usage\":", &usage, "}"]);
        }
        let mut reply = Reply::status(200, "application/json", body.clone());
        reply.steps = vec![
            Step::Generated(body.into_bytes(), words * seen.choices()),
            Step::Billed(self.bill(seen)),
        ];
        reply.after(self.every * words as u32)
    }

    fn stream(&self, seen: &Seen) -> Reply {
        let mut steps = Vec::new();
        self.push_event(
            &mut steps,
            &self.chunk(seen, 0, &json!({"role": "assistant", "content": ""}), None),
            0,
        );
        for word in 0..self.words_for(seen) {
            if let Some((after, step)) = &self.cut
                && *after == word
            {
                steps.push(step.clone());
                return Reply::events(steps);
            }
            for choice in 0..seen.choices() {
                self.push_event(
                    &mut steps,
                    &self.chunk(seen, choice, &json!({"content": WORD}), None),
                    1,
                );
            }
            if !self.every.is_zero() {
                steps.push(Step::Wait(self.every));
            }
        }
        if let Some((_, step)) = &self.cut {
            steps.push(step.clone());
            return Reply::events(steps);
        }
        self.push_event(
            &mut steps,
            &self.chunk(seen, 0, &json!({}), Some("stop")),
            0,
        );
        if let Some(usage) = self.told_usage(seen).filter(|_| seen.include_usage()) {
            self.push_event(&mut steps, &self.usage_chunk(seen, &usage), 0);
        }
        steps.push(Step::Billed(self.bill(seen)));
        self.push_event(&mut steps, "[DONE]", 0);
        Reply::events(steps)
    }

    fn push_event(&self, steps: &mut Vec<Step>, payload: &str, tokens: u64) {
        let end = if self.crlf { "\r\n\r\n" } else { "\n\n" };
        let event = format!("data: {payload}{end}").into_bytes();
        let (last, pieces) = event
            .chunks(self.slice.min(event.len()))
            .collect::<Vec<_>>()
            .split_last()
            .map_or_else(
                || (Vec::new(), Vec::new()),
                |(last, pieces)| {
                    (
                        last.to_vec(),
                        pieces.iter().map(|piece| piece.to_vec()).collect(),
                    )
                },
            );
        steps.extend(pieces.into_iter().map(Step::Body));
        steps.push(Step::Generated(last, tokens));
    }

    /// A chunk as OpenAI writes it: with `"usage":null` where usage was asked for.
    fn chunk(&self, seen: &Seen, choice: u64, delta: &Value, finish: Option<&str>) -> String {
        let mut chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1,
            "model": self.model_for(seen), "service_tier": self.tier, "system_fingerprint": "fp_1",
            "choices": [{"index": choice, "delta": delta, "logprobs": null, "finish_reason": finish}]});
        if seen.include_usage() {
            chunk["usage"] = Value::Null;
        }
        chunk.to_string()
    }

    fn usage_chunk(&self, seen: &Seen, usage: &str) -> String {
        let mut chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1,
            "model": self.model_for(seen), "service_tier": self.tier, "system_fingerprint": "fp_1", "choices": []})
        .to_string();
        chunk.pop();
        format!("{chunk},\"usage\":{usage}}}")
    }
}

/// Usage as OpenAI reports it.
pub(crate) fn usage_json(bill: Bill) -> Value {
    json!({
        "prompt_tokens": bill.prompt,
        "completion_tokens": bill.completion,
        "total_tokens": bill.prompt + bill.completion,
        "prompt_tokens_details": {"cached_tokens": bill.cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0},
    })
}

/// A gzip member that stores its input (RFC 1951 §3.2.4): compressed to everybody who only reads the headers.
pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let blocks: Vec<&[u8]> = data.chunks(65_535).collect();
    for (index, block) in blocks.iter().enumerate() {
        let length = block.len() as u16;
        out.push(u8::from(index + 1 == blocks.len()));
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(block);
    }
    out.extend_from_slice(&crc32(data).to_le_bytes());
    out.extend_from_slice(&(data.len() as u32).to_le_bytes());
    out
}

fn crc32(data: &[u8]) -> u32 {
    !data.iter().fold(!0_u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            if sum & 1 == 1 {
                (sum >> 1) ^ 0xEDB8_8320
            } else {
                sum >> 1
            }
        })
    })
}

/// What the fake answers when a test says nothing else: five words.
pub(crate) fn honest(seen: &Seen) -> Reply {
    if seen.request.method == "GET" {
        return Reply::status(404, "application/json", "{}");
    }
    if seen.is_embeddings() {
        return super::embeddings::honest(seen);
    }
    if seen.is_moderation() {
        return super::moderations::honest(seen);
    }
    if seen.is_images() {
        return super::pictures::honest(seen);
    }
    if seen.is_speech() {
        return super::speech::honest(seen);
    }
    if seen.is_transcription() {
        return super::transcriptions::honest(seen);
    }
    if seen.is_responses() {
        return super::responses::Server::OPENAI.reply(&super::responses::Play::words(5), seen);
    }
    Talk::words(5).reply(seen)
}
