//! Requests of every endpoint, and an upstream that treats each as its prompt says and bills it by that endpoint's own rule.

use std::time::Duration;

use serde_json::{Value, json};

use crate::load;
use crate::script::Mood;
use crate::support::caller::{Call, User, and, chat};
use crate::support::embeddings::{self, embed};
use crate::support::load::Dice;
use crate::support::moderations;
use crate::support::pictures;
use crate::support::reply::{Bill, Books, GARBAGE, Reply, Step};
use crate::support::responses::{Play, Server, respond};
use crate::support::speech::{self, SOUND, speak};
use crate::support::transcriptions::{self, Form, MADE, transcript, wav};
use crate::support::upstream::Seen;
use crate::support::zoo::claude;

/// Every path that is asked.
pub(crate) const PATHS: [&str; 9] = [
    "/v1/chat/completions",
    "/v1/messages",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/audio/speech",
    "/v1/audio/transcriptions",
    "/v1/moderations",
];

/// Paid by the table: micro-dollars of a picture of low and of medium quality.
const PICTURES: [(&str, u64); 2] = [("low", 200), ("medium", 400)];

/// The models of every endpoint but chat.
pub(crate) const MODELS: [&str; 11] = [
    claude::TALKS,
    "vllm-model",
    "llamacpp-model",
    "terse-model",
    "text-embedding-3-small",
    "gpt-image-2",
    "painter",
    "voice",
    "whisper-1",
    "scribe",
    "omni-moderation-latest",
];

/// Who serves them, and what they cost: little, so that no ceiling is used up by a few pictures.
pub(crate) const UPSTREAMS: &str = r#"
[[upstreams]]
name = "pieces"
base_url = "{upstream}"
api_key_env = "OPENAI_API_KEY"
models = ["text-embedding-3-small", "gpt-image-2", "painter", "voice", "whisper-1", "scribe", "omni-moderation-latest"]
dialect = "openai"
[[upstreams]]
name = "house"
base_url = "{upstream}"
api_key_env = "OPENAI_API_KEY"
models = ["*-model"]
dialect = "compatible"
[[upstreams]]
name = "claude"
preset = "anthropic"
base_url = "{upstream}"
api_key_env = "OPENAI_API_KEY"
[prices.claude-talks]
input = "0.4"
cached_input = "0.04"
cache_write = "0.5"
output = "2"
[prices.vllm-model]
input = "1"
cached_input = "0.1"
output = "4"
[prices.llamacpp-model]
input = "1"
cached_input = "0.1"
output = "4"
[prices.terse-model]
input = "1"
cached_input = "0.1"
output = "4"
[prices.gpt-image-2]
input = "0.5"
cached_input = "0.1"
image_input = "3.5"
output = "0.3"
endpoints = ["images"]
[prices.painter]
image = { "1024x1024-low" = "0.0002", "1024x1024-medium" = "0.0004" }
endpoints = ["images"]
[prices.voice]
characters = "15"
endpoints = ["speech"]
"#;

/// A request of some endpoint.
pub(crate) struct Ask {
    path: &'static str,
    body: Body,
}

enum Body {
    Json(Value),
    Form(Box<Form>),
    /// Its media type, and its bytes.
    Parts(String, Vec<u8>),
}

impl Ask {
    /// A chat.
    pub(crate) fn chat(body: Value) -> Self {
        let (path, body) = (PATHS[0], Body::Json(body));
        Self { path, body }
    }

    /// A request of another endpoint that says this.
    pub(crate) fn other(text: &str, dice: &mut Dice) -> Self {
        let streams = if dice.below(5) < 3 {
            json!({"stream": true})
        } else {
            json!({})
        };
        let number = dice.below(1000);
        let of = |names: &[&'static str]| names[number as usize % names.len()];
        let (path, body) = match dice.below(16) {
            0..3 => {
                let body = json!({"model": claude::TALKS, "max_tokens": 1 + number % 250});
                (PATHS[1], and(and(chat(text), &body), &streams))
            }
            3..7 => {
                let server = Server::ALL[number as usize % Server::ALL.len()];
                let about = json!({"model": server.model, "max_output_tokens": 16 + number % 250});
                (PATHS[2], and(and(respond(text), &about), &streams))
            }
            7 | 8 => (PATHS[3], embed(text)),
            9 => {
                let model = of(&["gpt-image-2", "painter"]);
                let quality = PICTURES[number as usize / 2 % 2].0;
                let body = json!({"model": model, "prompt": pictures::prompt(text), "quality": quality, "size": "1024x1024"});
                let more = match (model, number % 3) {
                    (_, 0) => json!({"n": 2}),
                    ("gpt-image-2", 1) => json!({"stream": true, "partial_images": number % 4}),
                    _ => json!({}),
                };
                (PATHS[4], and(body, &more))
            }
            10 | 11 => {
                let prompt = pictures::prompt(text);
                let (kind, bytes) = pictures::form(&[
                    ("name=\"model\"", b"gpt-image-2"),
                    ("name=\"prompt\"", prompt.as_bytes()),
                    ("name=\"quality\"", b"low"),
                    ("name=\"image\"; filename=\"a.png\"", &pictures::png(64, 64)),
                ]);
                return Self {
                    path: PATHS[5],
                    body: Body::Parts(kind, bytes),
                };
            }
            12 => (PATHS[6], speak(text)),
            13 | 14 => {
                let model = of(&["whisper-1", "scribe"]);
                let mut form = Form::saying(model, text);
                if model == "scribe" && number % 4 < 2 {
                    form = form.text("stream", "true");
                }
                let form = form.data(MADE, wav(200 + number as u32 * 3));
                return Self {
                    path: PATHS[7],
                    body: Body::Form(Box::new(form)),
                };
            }
            _ => {
                let body =
                    json!({"model": "omni-moderation-latest", "input": respond(text)["input"]});
                (PATHS[8], body)
            }
        };
        let body = Body::Json(body);
        Self { path, body }
    }

    /// As a user's call, with the members of an object moved by so many places.
    pub(crate) fn call(&self, user: &User, places: usize) -> Call {
        match &self.body {
            Body::Json(body) => Call::post(self.path, &rotated(body, places)).bearer(&user.token),
            Body::Form(form) => form.call(user),
            Body::Parts(kind, bytes) => Call::new("POST", self.path)
                .bearer(&user.token)
                .header("content-type", kind)
                .bytes(bytes.clone()),
        }
    }
}

/// The same object with its members in another order.
fn rotated(body: &Value, places: usize) -> Value {
    let members: Vec<_> = body.as_object().unwrap().clone().into_iter().collect();
    let (last, first) = members.split_at(places % members.len());
    first.iter().chain(last).cloned().collect()
}

/// What the upstream answers to what is no chat; none where it is one.
pub(crate) fn answer(seen: &Seen, (deed, number): (&str, u64), mood: Mood) -> Option<Reply> {
    let deed = match mood {
        Mood::Scripted => deed,
        Mood::Resets => "reset",
        Mood::Stalls => "stall",
        Mood::FalseUsage => "garbage",
        Mood::Errors => "error",
    };
    let path = seen.request.target.as_str();
    if path == PATHS[0] {
        return None;
    }
    if path == PATHS[1] {
        return Some(claude::reply(
            &load::scene(deed, number, Mood::Scripted),
            seen,
        ));
    }
    if deed == "error" {
        let status = [400, 401, 404, 422, 429, 500, 502, 503][number as usize % 8];
        return Some(Reply::error(status, "their_code", "what they say"));
    }
    let cut = match deed {
        "reset" | "dead" => Some(Step::Reset),
        "stall" | "dumb" => Some(Step::Stall),
        "close" => Some(Step::Close),
        _ => None,
    };
    if path == PATHS[2] {
        return Some(response(seen, deed, number, cut));
    }
    let reply = match path {
        "/v1/embeddings" => {
            let told = usage(
                deed,
                number,
                || json!({"prompt_tokens": seen.prompt_tokens()}),
            );
            embeddings::reply(seen, told.as_ref()).booked(Books {
                whole: Bill {
                    prompt: seen.prompt_tokens(),
                    ..Bill::default()
                },
                works_on: true,
                ..Books::default()
            })
        }
        "/v1/images/generations" | "/v1/images/edits" => picture(seen, deed, number),
        "/v1/audio/speech" => {
            let piece = [
                Step::Body(SOUND.to_vec()),
                Step::Wait(Duration::from_millis(number % 20)),
            ];
            let pieces = vec![piece; 1 + number as usize % 5].concat();
            speech::sound(seen, "audio/mpeg", pieces)
        }
        "/v1/audio/transcriptions" => transcript_of(seen, deed, number),
        _ => moderations::honest(seen),
    };
    let reply = reply.after(Duration::from_millis(match deed {
        "slow" => number * 10,
        _ => number % 9,
    }));
    Some(match cut {
        Some(step) => broken(reply, number, step),
        None => reply,
    })
}

/// A stream that ends after some of its steps; of a whole answer nothing is heard.
fn broken(mut reply: Reply, number: u64, step: Step) -> Reply {
    if reply.chunked {
        reply.steps.truncate(number as usize % 4);
        reply.steps.push(step);
        return reply;
    }
    Reply {
        books: reply.books,
        ..Reply::headless(step)
    }
}

/// What is said of the usage: the truth, nothing, or what nobody can take for it.
fn usage(deed: &str, number: u64, truth: impl FnOnce() -> Value) -> Option<Value> {
    match deed {
        "mute" => None,
        "garbage" | "over" => serde_json::from_str(GARBAGE[number as usize % 7]).ok(),
        _ => Some(truth()),
    }
}

fn response(seen: &Seen, deed: &str, number: u64, cut: Option<Step>) -> Reply {
    let server = Server::ALL
        .into_iter()
        .find(|server| seen.body["model"] == server.model)
        .unwrap();
    let words = Play {
        // The first is known not to think.
        thinks: if number.is_multiple_of(3) && server.model != Server::OPENAI.model {
            number % 7
        } else {
            0
        },
        cached: if number.is_multiple_of(4) {
            number % 5
        } else {
            0
        },
        calls: number.is_multiple_of(5),
        pause: Duration::from_millis(number % 9),
        ..Play::words(number % 20)
    };
    let play = match deed {
        "cap" => Play::words(100_000),
        "slow" => Play {
            pause: Duration::from_millis(number),
            ..words
        },
        "long" => Play {
            pause: Duration::from_millis(number),
            ..Play::words(30)
        },
        "mute" => Play {
            mute: true,
            ..words
        },
        "model" => Play {
            other_form: true,
            ..words
        },
        "garbage" | "over" if seen.is_stream() => Play {
            fails: Some((number % 5, number.is_multiple_of(2))),
            thinks: 0,
            ..Play::words(10)
        },
        _ => words,
    };
    match cut {
        None => server.reply(&play, seen),
        Some(step) if seen.is_stream() => {
            let cut = Some((number % 6, step));
            server.reply(&Play { cut, ..play }, seen)
        }
        Some(step) => broken(server.reply(&play, seen), number, step),
    }
}

fn picture(seen: &Seen, deed: &str, number: u64) -> Reply {
    if pictures::sent(seen, "model").as_deref() == Some("painter") {
        let quality = pictures::sent(seen, "quality");
        let each = PICTURES
            .iter()
            .find(|(name, _)| quality.as_deref() == Some(name));
        let whole = Bill {
            other_micros: each.unwrap().1 * pictures::count(seen),
            ..Bill::default()
        };
        let body = pictures::answer(seen, false).to_string();
        return Reply::status(200, "application/json", body).booked(Books {
            whole,
            works_on: true,
            ..Books::default()
        });
    }
    if seen.is_stream() {
        return pictures::honest(seen);
    }
    let mut body = pictures::answer(seen, false);
    if let Some(told) = usage(deed, number, || {
        pictures::usage(seen, pictures::count(seen))
    }) {
        body["usage"] = told;
    }
    Reply::status(200, "application/json", body.to_string()).booked(pictures::books(seen))
}

fn transcript_of(seen: &Seen, deed: &str, number: u64) -> Reply {
    let words = number % 10;
    let (whole, truth) = transcriptions::bill(seen, words);
    let told = usage(deed, number, || truth);
    let reply = if seen.is_stream() {
        let events = transcriptions::events(&told.unwrap_or_default(), words);
        let steps = events
            .iter()
            .map(|event| Step::Body(format!("data: {event}\n\n").into_bytes()));
        Reply::events(steps.collect())
    } else {
        let mut body = json!({"text": transcript(words)});
        if let Some(told) = told {
            body["usage"] = told;
        }
        Reply::status(200, "application/json", body.to_string())
    };
    reply.booked(Books {
        whole,
        works_on: true,
        ..Books::default()
    })
}
