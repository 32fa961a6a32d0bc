//! Stand-ins for servers that speak OpenAI's Responses: what they bill, and what they answer.
//!
//! A [`Server`] is a row of facts about one of them. What it bills is entered when a request is accepted, by its own rule,
//! and depends on nothing that it says afterwards. The facts are from the servers' sources and documents.

#![allow(
    clippy::excessive_nesting,
    clippy::struct_excessive_bools,
    clippy::unused_self,
    clippy::needless_pass_by_value,
    reason = "one stand-in that plays four servers by a table"
)]

use std::time::Duration;

use serde_json::{Value, json};

use super::caller::{PROMPT_CANARY, chat, serial_in};
use super::reply::{Bill, Books, Reply, Step, WORD};
use super::upstream::Seen;

/// A request for a response, with a serial by which the oracle finds the upstream's line.
pub(crate) fn respond(text: &str) -> Value {
    let serial = serial_in(chat("").to_string().as_bytes()).unwrap();
    json!({"model": "gpt-4o-mini", "input": format!("{text} {PROMPT_CANARY} ask-{serial};")})
}

/// A count of the input that no tokenizer goes below: its words, and OpenAI's own overhead of an item.
pub(crate) fn prompt_tokens(body: &Value) -> u64 {
    fn words(value: &Value) -> u64 {
        match value {
            Value::String(text) => text.split_whitespace().count() as u64,
            Value::Array(items) => items.iter().map(words).sum(),
            Value::Object(members) => {
                let counted = ["content", "text", "output", "arguments", "refusal"];
                let members = members.iter();
                members
                    .filter(|(name, _)| counted.contains(&name.as_str()))
                    .map(|(_, value)| words(value))
                    .sum()
            }
            _ => 0,
        }
    }
    let items = body["input"].as_array().map_or(1, Vec::len) as u64;
    words(&body["input"]) + words(&body["instructions"]) + items * 3 + 3
}

/// Facts about one server.
#[derive(Debug)]
pub(crate) struct Server {
    /// Its model.
    pub(crate) model: &'static str,
    /// It sends `event:` lines.
    names: bool,
    /// It numbers its events and places its deltas.
    numbers: bool,
    /// It tells its usage at the end of a stream that comes to its end, of one that is cut off by the cap, and of one that
    /// fails; it knows no other end than the first where this is false.
    knows_other_ends: bool,
    /// Its reasoning is shown.
    shows: bool,
    /// It ends a stream without the event that ends one.
    ends_silently: bool,
}

/// What is to happen to a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Play {
    /// Words that are shown, a token each.
    pub(crate) words: u64,
    /// Tokens of reasoning before them.
    pub(crate) thinks: u64,
    pub(crate) cached: u64,
    /// The words are the arguments of a call of a function.
    pub(crate) calls: bool,
    /// It fails after so many words, and tells its usage or not.
    pub(crate) fails: Option<(u64, bool)>,
    /// After so many words of a stream this happens instead of the rest.
    pub(crate) cut: Option<(u64, Step)>,
    /// Usage is never told.
    pub(crate) mute: bool,
    /// After each word of a stream.
    pub(crate) pause: Duration,
    /// A whole answer to a stream, and the other way round.
    pub(crate) other_form: bool,
}

impl Play {
    pub(crate) fn words(words: u64) -> Self {
        Self {
            words,
            ..Self::default()
        }
    }
}

impl Server {
    pub(crate) const OPENAI: Self = Self {
        model: "gpt-4o-mini",
        names: true,
        numbers: true,
        knows_other_ends: true,
        shows: false,
        ends_silently: false,
    };
    pub(crate) const VLLM: Self = Self {
        model: "vllm-model",
        knows_other_ends: false,
        shows: true,
        ..Self::OPENAI
    };
    pub(crate) const LLAMA_CPP: Self = Self {
        model: "llamacpp-model",
        names: true,
        numbers: false,
        knows_other_ends: false,
        shows: true,
        ends_silently: false,
    };
    /// One that leaves out whatever can be left out.
    pub(crate) const TERSE: Self = Self {
        model: "terse-model",
        names: false,
        numbers: false,
        knows_other_ends: false,
        shows: true,
        ends_silently: true,
    };
    pub(crate) const ALL: [&Self; 4] = [&Self::OPENAI, &Self::VLLM, &Self::LLAMA_CPP, &Self::TERSE];

    /// What the work comes to, whoever listens: the cap holds for reasoning and words together.
    fn account(&self, play: &Play, seen: &Seen) -> (Bill, u64, u64) {
        let cap = seen.cap().unwrap_or(32_000);
        let thinks = play.thinks.min(cap);
        let words = play.words.min(cap - thinks);
        let prompt = seen.prompt_tokens();
        let bill = Bill {
            prompt,
            cached: play.cached.min(prompt),
            completion: thinks + words,
            ..Bill::default()
        };
        (bill, thinks, words)
    }

    fn usage(&self, bill: Bill, thinks: u64) -> Value {
        let named = if self.numbers { thinks } else { 0 };
        json!({"input_tokens": bill.prompt, "input_tokens_details": {"cached_tokens": bill.cached},
               "output_tokens": bill.completion, "output_tokens_details": {"reasoning_tokens": named},
               "total_tokens": bill.prompt + bill.completion})
    }

    fn items(&self, play: &Play, thinks: u64, words: u64) -> Vec<Value> {
        let said = WORD.repeat(words as usize);
        let mut items = Vec::new();
        if thinks > 0 {
            let mut item = json!({"id": "rs_1", "type": "reasoning", "summary": []});
            if self.shows {
                item["content"] =
                    json!([{"type": "reasoning_text", "text": WORD.repeat(thinks as usize)}]);
            }
            items.push(item);
        }
        items.push(if play.calls {
            json!({"id": "fc_1", "type": "function_call", "status": "completed", "call_id": "call_1", "name": "look",
                   "arguments": said})
        } else {
            json!({"id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
                   "content": [{"type": "output_text", "text": said, "annotations": [], "logprobs": []}]})
        });
        items
    }

    fn response(&self, seen: &Seen, status: &str, output: &[Value], usage: Option<Value>) -> Value {
        let error = json!({"code": "server_error", "message": "organization org-secret failed"});
        let details = json!({"reason": "max_output_tokens"});
        json!({"id": "resp_1", "object": "response", "created_at": 1, "status": status, "model": seen.body["model"],
               "error": if status == "failed" { error } else { Value::Null },
               "incomplete_details": if status == "incomplete" { details } else { Value::Null },
               "instructions": seen.body["instructions"], "service_tier": "default", "store": false,
               "output": output, "usage": usage.unwrap_or(Value::Null)})
    }

    /// The answer to a request, and its books.
    pub(crate) fn reply(&self, play: &Play, seen: &Seen) -> Reply {
        let (bill, thinks, words) = self.account(play, seen);
        let streams = seen.is_stream() != play.other_form;
        let hidden = if self.shows { 0 } else { thinks };
        let works_on = !streams;
        let mut books = Books {
            whole: bill,
            hidden,
            works_on,
        };
        if let Some((after, true)) = play.fails {
            books.whole.completion = thinks + after;
        }
        if play.fails == Some((0, false)) {
            books = Books::free();
        }
        let reply = if streams {
            Reply::events(self.stream(play, seen))
        } else {
            let is_cut_off = bill.completion >= seen.cap().unwrap_or(u64::MAX);
            let status = if is_cut_off && self.knows_other_ends {
                "incomplete"
            } else {
                "completed"
            };
            let usage = Some(self.usage(bill, thinks)).filter(|_| !play.mute);
            let body = self.response(seen, status, &self.items(play, thinks, words), usage);
            let mut reply = Reply::status(200, "application/json", body.to_string());
            let bytes = body.to_string().into_bytes();
            reply.steps = vec![
                Step::Hidden(hidden),
                Step::Generated(bytes, bill.completion - hidden),
            ];
            reply
        };
        // OpenAI's own row has its tokenizer, and is held against what it says of itself.
        reply.booked(books)
    }

    fn stream(&self, play: &Play, seen: &Seen) -> Vec<Step> {
        let (bill, thinks, words) = self.account(play, seen);
        let mut writer = Writer {
            server: self,
            steps: Vec::new(),
            number: 0,
        };
        let begun = json!({"response": self.response(seen, "in_progress", &[], None)});
        writer.event("response.created", begun.clone(), 0);
        writer.event("response.in_progress", begun, 0);
        let items = self.items(play, thinks, words);
        let ended = play
            .fails
            .map(|(after, _)| after)
            .or(play.cut.as_ref().map(|(after, _)| *after));
        for (index, item) in items.iter().enumerate() {
            let is_reasoning = item["type"] == "reasoning";
            let tokens = if is_reasoning { thinks } else { words };
            let shown = tokens.min(ended.filter(|_| !is_reasoning).unwrap_or(tokens));
            let mut opened = item.clone();
            for empty in ["content", "arguments"] {
                if !opened[empty].is_null() {
                    opened[empty] = if empty == "content" {
                        json!([])
                    } else {
                        json!("")
                    };
                }
            }
            writer.event(
                "response.output_item.added",
                json!({"output_index": index, "item": opened}),
                0,
            );
            let kind = match (is_reasoning, play.calls) {
                (true, _) => "response.reasoning_text",
                (_, true) => "response.function_call_arguments",
                _ => "response.output_text",
            };
            if is_reasoning && !self.shows {
                writer.steps.push(Step::Hidden(thinks));
            } else {
                for _ in 0..shown {
                    let at = json!({"item_id": item["id"], "output_index": index, "content_index": 0, "delta": WORD});
                    writer.event(&format!("{kind}.delta"), at, 1);
                    if !play.pause.is_zero() {
                        writer.steps.push(Step::Wait(play.pause));
                    }
                }
            }
            if shown < tokens || (!is_reasoning && ended.is_some()) {
                break;
            }
            writer.event(
                "response.output_item.done",
                json!({"output_index": index, "item": item}),
                0,
            );
        }
        if let Some((_, step)) = &play.cut {
            writer.steps.push(step.clone());
            return writer.steps;
        }
        if let Some((after, tells)) = play.fails {
            let spent = Bill {
                completion: thinks + after,
                ..bill
            };
            let usage = Some(self.usage(spent, thinks)).filter(|_| tells);
            let failed = self.response(seen, "failed", &[], usage);
            writer.event("response.failed", json!({"response": failed}), 0);
            return writer.steps;
        }
        if self.ends_silently {
            return writer.steps;
        }
        let is_cut_off = bill.completion >= seen.cap().unwrap_or(u64::MAX) && self.knows_other_ends;
        let status = if is_cut_off {
            "incomplete"
        } else {
            "completed"
        };
        let usage = Some(self.usage(bill, thinks)).filter(|_| !play.mute);
        let whole = self.response(seen, status, &items, usage);
        writer.event(&format!("response.{status}"), json!({"response": whole}), 0);
        writer.steps
    }
}

struct Writer<'a> {
    server: &'a Server,
    steps: Vec<Step>,
    number: u64,
}

impl Writer<'_> {
    fn event(&mut self, kind: &str, members: Value, tokens: u64) {
        let mut event = json!({"type": kind});
        if self.server.numbers {
            event["sequence_number"] = json!(self.number);
        }
        for (name, value) in members.as_object().unwrap() {
            let is_place = ["output_index", "content_index"].contains(&name.as_str());
            if self.server.numbers || !is_place {
                event[name] = value.clone();
            }
        }
        self.number += 1;
        let name = if self.server.names {
            format!("event: {kind}\n")
        } else {
            String::new()
        };
        let bytes = format!("{name}data: {event}\n\n").into_bytes();
        self.steps.push(Step::Generated(bytes, tokens));
    }
}
