//! A fake OpenAI, and the key set of a fake Supabase. One thread, no JSON parser on the way, its events made beforehand:
//! it must never be what is measured.
//!
//! A request says in its prompt what it wants, since no header passes a proxy: `bench:user=7,events=64,interval=10000,`
//! `delay=0;` (microseconds). An answer never has more tokens than the request's cap. `GET /served` tells what was served.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use memchr::memmem;
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, sleep_until};

use crate::http::{Asked, Wire};
use crate::tokens::Key;

/// What every prompt is said to have, whatever it is.
const PROMPT_TOKENS: u64 = 24;
const MODEL: &str = "gpt-4o-mini-2024-07-18";
const BACKLOG: u32 = 8192;
const WORDS: [&str; 8] = [
    " the", " quick", " brown", " fox", " jumps", " over", " it", ".",
];

/// Arguments of `upstream`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// The key whose public half is served; made if it is not there
    #[arg(long)]
    key: PathBuf,
}

/// What a prompt asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    user: u64,
    events: u64,
    interval: Duration,
    delay: Duration,
    stream: bool,
    usage: bool,
    /// A response, and no chat.
    responses: bool,
    /// What a whole answer says it was made by: a proxy may charge by it. Streams are all of the first.
    model: &'static str,
}

/// What was served to one user.
#[derive(Clone, Copy, Debug, Default)]
struct Served {
    requests: u64,
    /// Answered to the last byte.
    whole: u64,
    /// Tokens of answers that were written, whole or cut.
    output_tokens: u64,
}

struct Upstream {
    jwks: String,
    /// The chunks of a stream's events, by the place in [`WORDS`].
    events: Vec<Vec<u8>>,
    /// The same of a stream of responses, whose events have a number each: here always the same one.
    deltas: Vec<Vec<u8>>,
    /// Whole answers of the endpoints that are not asked for so many tokens, by the end of their path.
    others: Vec<(&'static str, Vec<u8>)>,
    served: RefCell<BTreeMap<u64, Served>>,
    open: RefCell<u64>,
}

/// Serves until it is killed.
pub(crate) async fn run(args: Args) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", args.listen);
    let key = Key::open(&args.key)?;
    let address = args.listen.parse().map_err(|error| failed(&error))?;
    let socket = TcpSocket::new_v4().map_err(|error| failed(&error))?;
    socket.set_reuseaddr(true).map_err(|error| failed(&error))?;
    socket.bind(address).map_err(|error| failed(&error))?;
    let listener = socket.listen(BACKLOG).map_err(|error| failed(&error))?;
    println!(
        "http://{}",
        listener.local_addr().map_err(|error| failed(&error))?
    );
    let upstream = Rc::new(Upstream {
        jwks: key.jwks().to_string(),
        events: WORDS
            .iter()
            .map(|word| chunk(&event(json!({"content": word}))))
            .collect(),
        deltas: WORDS.iter().map(|word| delta(word)).collect(),
        others: others(),
        served: RefCell::default(),
        open: RefCell::default(),
    });
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let upstream = Rc::clone(&upstream);
                tokio::task::spawn_local(async move { upstream.connection(stream).await });
            }
            // Out of descriptors: those that are open go on.
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}

impl Upstream {
    async fn connection(&self, stream: TcpStream) -> io::Result<()> {
        let mut wire = Wire::new(stream)?;
        while let Some(asked) = wire.next_request().await? {
            self.answer(&mut wire, &asked).await?;
        }
        Ok(())
    }

    async fn answer(&self, wire: &mut Wire, asked: &Asked) -> io::Result<()> {
        match (asked.method.as_str(), asked.path.as_str()) {
            ("POST", path)
                if path.ends_with("/chat/completions") || path.ends_with("/responses") =>
            {
                let mut wanted = wanted(&asked.body);
                wanted.responses = path.ends_with("/responses");
                self.count(wanted.user, |served| served.requests += 1);
                let _open = Open::new(&self.open);
                sleep_if(wanted.delay).await;
                if wanted.stream {
                    self.stream(wire, wanted).await
                } else {
                    self.whole(wire, wanted).await
                }
            }
            ("GET", "/auth/v1/.well-known/jwks.json") => wire.write(&json_answer(&self.jwks)).await,
            ("GET", "/served") => wire.write(&json_answer(&self.told().to_string())).await,
            ("POST", "/forget") => {
                self.served.borrow_mut().clear();
                wire.write(&json_answer("{}")).await
            }
            (_, path) => match self.others.iter().find(|(end, _)| path.ends_with(end)) {
                Some((_, answer)) => wire.write(answer).await,
                None => wire.write(&json_answer("{}")).await,
            },
        }
    }

    fn count(&self, user: u64, change: impl FnOnce(&mut Served)) {
        change(self.served.borrow_mut().entry(user).or_default());
    }

    async fn whole(&self, wire: &mut Wire, wanted: Wanted) -> io::Result<()> {
        let text: String = (0..wanted.events).filter_map(word).collect();
        let answer = if wanted.responses {
            response("completed", &text, wanted)
        } else {
            json!({
                "id": "chatcmpl-bench000000000000000000000000", "object": "chat.completion", "created": 1_764_000_000,
                "model": wanted.model,
                "choices": [{"index": 0, "message": {"role": "assistant", "content": text, "refusal": null, "annotations": []},
                             "logprobs": null, "finish_reason": "stop"}],
                "usage": usage(wanted.events), "service_tier": "default", "system_fingerprint": "fp_bench",
            })
        };
        // Counted before it is written: a model is paid for what it made, whether anybody reads it or not.
        self.count(wanted.user, |served| served.output_tokens += wanted.events);
        wire.write(&json_answer(&answer.to_string())).await?;
        self.count(wanted.user, |served| served.whole += 1);
        Ok(())
    }

    async fn stream(&self, wire: &mut Wire, wanted: Wanted) -> io::Result<()> {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\
                    transfer-encoding: chunked\r\nx-request-id: req_bench\r\n\r\n";
        let mut first = head.as_bytes().to_vec();
        if wanted.responses {
            let begun = response("in_progress", "", wanted);
            first.extend(named("response.created", json!({"response": begun})));
        } else {
            first.extend(chunk(&event(
                json!({"role": "assistant", "content": "", "refusal": null}),
            )));
        }
        let events = if wanted.responses {
            &self.deltas
        } else {
            &self.events
        };
        wire.write(&first).await?;
        let start = Instant::now();
        for index in 0..wanted.events {
            if !wanted.interval.is_zero() {
                // By the index: one late event moves no other.
                sleep_until(start + wanted.interval * u32::try_from(index).unwrap_or(u32::MAX))
                    .await;
            }
            if let Some(event) = events.get(index as usize % WORDS.len()) {
                wire.write(event).await?;
            }
            self.count(wanted.user, |served| served.output_tokens += 1);
        }
        let mut last = if wanted.responses {
            let text: String = (0..wanted.events).filter_map(word).collect();
            let whole = response("completed", &text, wanted);
            named("response.completed", json!({"response": whole}))
        } else {
            chunk(&finish())
        };
        if wanted.usage {
            last.extend(chunk(&usage_event(wanted.events)));
        }
        if !wanted.responses {
            last.extend(chunk("[DONE]"));
        }
        last.extend(b"0\r\n\r\n");
        wire.write(&last).await?;
        self.count(wanted.user, |served| served.whole += 1);
        Ok(())
    }

    fn told(&self) -> Value {
        let served = self.served.borrow();
        let sum = |of: fn(&Served) -> u64| served.values().map(of).sum::<u64>();
        let users: Vec<Value> = served
            .iter()
            .map(|(user, served)| {
                json!({"user": user, "id": crate::tokens::user_id(*user), "requests": served.requests,
                       "whole": served.whole, "input_tokens": served.requests * PROMPT_TOKENS,
                       "output_tokens": served.output_tokens})
            })
            .collect();
        json!({
            "requests": sum(|served| served.requests), "whole": sum(|served| served.whole),
            "input_tokens": sum(|served| served.requests) * PROMPT_TOKENS,
            "output_tokens": sum(|served| served.output_tokens),
            "open": *self.open.borrow(), "users": users,
        })
    }
}

/// Counts an open request while it lives.
struct Open<'a>(&'a RefCell<u64>);

impl<'a> Open<'a> {
    fn new(open: &'a RefCell<u64>) -> Self {
        *open.borrow_mut() += 1;
        Self(open)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        *self.0.borrow_mut() -= 1;
    }
}

async fn sleep_if(delay: Duration) {
    if !delay.is_zero() {
        sleep(delay).await;
    }
}

fn word(index: u64) -> Option<&'static str> {
    WORDS.get(index as usize % WORDS.len()).copied()
}

fn wanted(body: &[u8]) -> Wanted {
    let told = after(body, b"bench:").unwrap_or_default();
    let told = told.split(|byte| *byte == b';').next().unwrap_or_default();
    let number = |name: &[u8]| after(told, name).and_then(leading_number);
    let cap = [
        b"\"max_completion_tokens\":".as_slice(),
        b"\"max_tokens\":",
        b"\"max_output_tokens\":",
    ];
    let cap = cap
        .iter()
        .find_map(|name| after(body, name).and_then(leading_number))
        .unwrap_or(u64::MAX);
    let is_true = |name: &[u8]| {
        after(body, name).is_some_and(|rest| rest.trim_ascii_start().starts_with(b"true"))
    };
    Wanted {
        user: number(b"user=").unwrap_or(0),
        events: number(b"events=").unwrap_or(16).min(cap),
        interval: Duration::from_micros(number(b"interval=").unwrap_or(0)),
        delay: Duration::from_micros(number(b"delay=").unwrap_or(0)),
        stream: is_true(b"\"stream\":"),
        usage: is_true(b"\"include_usage\":"),
        responses: false,
        model: if memmem::find(body, b"\"gpt-4o\"").is_some() {
            "gpt-4o-2024-08-06"
        } else {
            MODEL
        },
    }
}

fn after<'a>(bytes: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    bytes.get(memmem::find(bytes, name)? + name.len()..)
}

fn leading_number(bytes: &[u8]) -> Option<u64> {
    let bytes = bytes.trim_ascii_start();
    let digits = bytes
        .split(|byte| !byte.is_ascii_digit())
        .next()
        .unwrap_or_default();
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// What the other endpoints answer, as OpenAI and Anthropic do, with the usage that they report.
fn others() -> Vec<(&'static str, Vec<u8>)> {
    let embedding: Vec<f64> = (0..256).map(|place| f64::from(place) / 1000.0).collect();
    let flags = json!({"harassment": false, "hate": false, "self-harm": false, "sexual": false, "violence": false});
    let scores = json!({"harassment": 0.01, "hate": 0.01, "self-harm": 0.01, "sexual": 0.01, "violence": 0.01});
    let json = [
        (
            "/embeddings",
            json!({"object": "list", "model": "text-embedding-3-small",
                   "data": [{"object": "embedding", "index": 0, "embedding": embedding}],
                   "usage": {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS}}),
        ),
        (
            "/moderations",
            json!({"id": "modr-bench", "model": "omni-moderation-latest",
                   "results": [{"flagged": false, "categories": flags, "category_scores": scores}]}),
        ),
        (
            "/images/generations",
            json!({"created": 1_764_000_000, "data": [{"b64_json": "iVBO".repeat(16 * 1024)}],
                   "usage": {"input_tokens": 9, "output_tokens": 272, "total_tokens": 281,
                             "input_tokens_details": {"text_tokens": 9, "image_tokens": 0}}}),
        ),
        (
            "/audio/transcriptions",
            json!({"text": "Two eggs, a leek and rice.", "usage": {"type": "duration", "seconds": 4}}),
        ),
        (
            "/messages",
            json!({"id": "msg_bench", "type": "message", "role": "assistant", "model": "claude-bench",
                   "content": [{"type": "text", "text": "Fried rice with leek and egg."}], "stop_reason": "end_turn",
                   "stop_sequence": null, "usage": {"input_tokens": PROMPT_TOKENS, "output_tokens": 9,
                   "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}}),
        ),
    ];
    let sound = vec![0x55; 32 * 1024];
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ncontent-length: {}\r\n\r\n",
        sound.len()
    );
    let speech = ("/audio/speech", [head.as_bytes(), &sound].concat());
    let json = json.map(|(end, body)| (end, json_answer(&body.to_string())));
    json.into_iter().chain([speech]).collect()
}

fn json_answer(body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// An event as a chunk of its own.
fn chunk(data: &str) -> Vec<u8> {
    let event = format!("data: {data}\n\n");
    format!("{:x}\r\n{event}\r\n", event.len()).into_bytes()
}

/// An event of a stream of responses as a chunk of its own.
fn named(kind: &str, mut event: Value) -> Vec<u8> {
    if let Some(members) = event.as_object_mut() {
        members.insert("type".to_owned(), json!(kind));
        members.insert("sequence_number".to_owned(), json!(0));
    }
    let event = format!("event: {kind}\ndata: {event}\n\n");
    format!("{:x}\r\n{event}\r\n", event.len()).into_bytes()
}

fn delta(word: &str) -> Vec<u8> {
    named(
        "response.output_text.delta",
        json!({"item_id": "msg_bench", "output_index": 0, "content_index": 0, "delta": word, "logprobs": []}),
    )
}

/// A response; one that is in progress has neither output nor usage.
fn response(status: &str, text: &str, wanted: Wanted) -> Value {
    let is_whole = status == "completed";
    let message = json!({"id": "msg_bench", "type": "message", "role": "assistant", "status": status,
        "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]});
    let usage = json!({"input_tokens": PROMPT_TOKENS, "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": wanted.events, "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": PROMPT_TOKENS + wanted.events});
    json!({"id": "resp_bench", "object": "response", "created_at": 1_764_000_000, "status": status, "model": wanted.model,
        "error": null, "incomplete_details": null, "service_tier": "default", "store": false,
        "output": if is_whole { json!([message]) } else { json!([]) },
        "usage": if is_whole { usage } else { Value::Null }})
}

fn usage(output: u64) -> Value {
    json!({"prompt_tokens": PROMPT_TOKENS, "completion_tokens": output, "total_tokens": PROMPT_TOKENS + output,
           "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
           "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0}})
}

fn part(choices: &Value, usage: &Value) -> String {
    json!({"id": "chatcmpl-bench000000000000000000000000", "object": "chat.completion.chunk", "created": 1_764_000_000,
           "model": MODEL, "service_tier": "default", "system_fingerprint": "fp_bench",
           "choices": choices, "usage": usage})
    .to_string()
}

#[expect(clippy::needless_pass_by_value, reason = "a literal at every call")]
fn event(delta: Value) -> String {
    part(
        &json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": null}]),
        &Value::Null,
    )
}

fn finish() -> String {
    part(
        &json!([{"index": 0, "delta": {}, "logprobs": null, "finish_reason": "stop"}]),
        &Value::Null,
    )
}

fn usage_event(output: u64) -> String {
    part(&json!([]), &usage(output))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_says_what_it_wants_and_the_cap_holds() {
        let body = br#"{"model":"m","messages":[{"role":"user","content":"bench:user=7,events=64,interval=10000,delay=5; hi"}],
                        "stream":true,"stream_options":{"include_usage":true},"max_completion_tokens": 9}"#;
        let all = Wanted {
            user: 7,
            events: 9,
            interval: Duration::from_millis(10),
            delay: Duration::from_micros(5),
            stream: true,
            usage: true,
            responses: false,
            model: MODEL,
        };
        assert_eq!(wanted(body), all);
        let none = wanted(br#"{"messages":[],"stream":false}"#);
        assert_eq!((none.events, none.stream, none.usage), (16, false, false));
    }
}
