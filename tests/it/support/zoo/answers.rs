//! How a family writes an answer: the same facts in its own words.

use serde_json::{Value, json};

use super::{Account, Cached, Family, Habit, Place, Reasoning, Scene};
use crate::support::reply::{Reply, Step, WORD};
use crate::support::upstream::Seen;

/// What the envelope of a function call comes to.
pub(super) const CALL_TOKENS: u64 = 8;

/// What a family says of its usage.
pub(super) fn usage(family: &Family, scene: &Scene, account: &Account) -> Value {
    let Account {
        prompt,
        cached,
        shown,
        reasoning,
    } = *account;
    let inside = matches!(family.reasoning, Reasoning::Inside | Reasoning::Unnamed);
    let completion = if inside { shown + reasoning } else { shown };
    let mut usage = json!({"prompt_tokens": prompt, "completion_tokens": completion,
                           "total_tokens": prompt + shown + reasoning});
    match family.cached {
        Cached::Never => {}
        Cached::Nested => {
            usage["prompt_tokens_details"] = json!({"cached_tokens": cached, "audio_tokens": 0});
        }
        Cached::Top => usage["cached_tokens"] = json!(cached),
        Cached::HitAndMiss => {
            usage["prompt_cache_hit_tokens"] = json!(cached);
            usage["prompt_cache_miss_tokens"] = json!(prompt - cached);
        }
        Cached::CacheRead => {
            usage["cache_read_input_tokens"] = json!(cached);
            usage["cache_creation_input_tokens"] = json!(0);
        }
    }
    if matches!(family.reasoning, Reasoning::Inside | Reasoning::Beside) {
        usage["completion_tokens_details"] =
            json!({"reasoning_tokens": reasoning, "audio_tokens": 0});
    }
    if scene.habit == Habit::PromptOfNone {
        usage["prompt_tokens"] = json!(0);
        usage["total_tokens"] = json!(completion);
    }
    usage
}

fn named(family: &Family, scene: &Scene, seen: &Seen) -> String {
    let asked = seen.body["model"].as_str().unwrap_or("?");
    if scene.habit == Habit::NamesAnother {
        "gpt-4".to_owned()
    } else {
        family.calls_itself.replace("{}", asked)
    }
}

fn finish(family: &Family, scene: &Scene, seen: &Seen, account: &Account) -> &'static str {
    let is_cut_off = (account.shown + account.reasoning) / seen.choices() >= family.cap(seen);
    match (is_cut_off, scene.calls_a_tool) {
        (true, _) => "length",
        (false, true) => "tool_calls",
        (false, false) => "stop",
    }
}

fn arguments(words: u64) -> String {
    format!("{{\"q\":\"{}\"}}", WORD.repeat(words as usize))
}

/// An answer in one piece; with a cut it comes to nothing, after all the work.
pub(super) fn whole(family: &Family, scene: &Scene, seen: &Seen, account: &Account) -> Reply {
    if let Some((_, step)) = &scene.cut {
        return Reply::headless(step.clone());
    }
    let (shown, reasoning) = (
        account.shown / seen.choices(),
        account.reasoning / seen.choices(),
    );
    let mut message = json!({"role": "assistant", "content": WORD.repeat(shown as usize)});
    if scene.calls_a_tool {
        let function =
            json!({"name": "look", "arguments": arguments(shown.saturating_sub(CALL_TOKENS))});
        message["tool_calls"] = json!([{"id": "call_1", "type": "function", "function": function}]);
        message["content"] = Value::Null;
    }
    for name in family.shows {
        message[*name] = json!(WORD.repeat(reasoning as usize));
    }
    let finish = finish(family, scene, seen, account);
    let choices: Vec<Value> = (0..seen.choices())
        .map(|index| json!({"index": index, "message": message, "logprobs": null, "finish_reason": finish}))
        .collect();
    let mut body = json!({"id": "gen-1", "object": "chat.completion", "created": 1,
                          "model": named(family, scene, seen), "choices": choices});
    if !scene.mute && family.usage != Place::Never && scene.habit != Habit::EndsEarly {
        body["usage"] = usage(family, scene, account);
    }
    let bytes = format!("{}{body}", family.before_whole).into_bytes();
    let mut reply = Reply::status(200, "application/json", bytes.clone());
    let hidden = if family.shows.is_empty() {
        account.reasoning
    } else {
        0
    };
    reply.steps = vec![
        Step::Hidden(hidden),
        Step::Generated(bytes, account.shown + account.reasoning - hidden),
    ];
    reply
}

/// A stream on its way: the events so far, and what they come to.
struct Writer<'a> {
    family: &'a Family,
    scene: &'a Scene,
    seen: &'a Seen,
    steps: Vec<Step>,
    so_far: Account,
    pieces: u64,
}

/// An answer as a stream.
pub(super) fn stream(family: &Family, scene: &Scene, seen: &Seen, account: &Account) -> Reply {
    let so_far = Account {
        prompt: account.prompt,
        cached: account.cached,
        ..Account::default()
    };
    let mut writer = Writer {
        family,
        scene,
        seen,
        steps: Vec::new(),
        so_far,
        pieces: 0,
    };
    if writer.body(account).is_some() {
        writer.end(account);
    }
    Reply::events(writer.steps)
}

impl Writer<'_> {
    /// Every piece up to the end. `None`: it was cut.
    fn body(&mut self, account: &Account) -> Option<()> {
        let choices = self.seen.choices();
        self.event(
            &self.chunk(0, &json!({"role": "assistant", "content": ""}), None),
            0,
        );
        for _ in 0..account.reasoning / choices {
            self.before_a_piece()?;
            for choice in 0..choices {
                self.so_far.reasoning += 1;
                self.thought(choice);
            }
        }
        let shown = account.shown / choices;
        for word in 0..shown {
            self.before_a_piece()?;
            for choice in 0..choices {
                self.so_far.shown += 1;
                let delta = self.word(word, shown);
                self.event(&self.chunk(choice, &delta, None), 1);
            }
        }
        self.before_a_piece()
    }

    fn thought(&mut self, choice: u64) {
        if self.family.shows.is_empty() {
            self.steps.push(Step::Hidden(1));
            return;
        }
        let mut delta = json!({"content": ""});
        for name in self.family.shows {
            delta[*name] = json!(WORD);
        }
        self.event(&self.chunk(choice, &delta, None), 1);
    }

    fn word(&self, word: u64, of: u64) -> Value {
        if !self.scene.calls_a_tool {
            return json!({"content": WORD});
        }
        // The envelope's tokens come with the first pieces.
        let call = match word {
            0 => {
                json!({"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": ""}})
            }
            1 => json!({"index": 0, "function": {"arguments": "{\"q\":\""}}),
            last if last + 1 == of => json!({"index": 0, "function": {"arguments": "\"}"}}),
            _ if word < CALL_TOKENS => json!({"index": 0, "function": {"arguments": ""}}),
            _ => json!({"index": 0, "function": {"arguments": WORD}}),
        };
        json!({"tool_calls": [call]})
    }

    /// Waits, unless here is the end. `None`: it is.
    fn before_a_piece(&mut self) -> Option<()> {
        if let Some((after, step)) = &self.scene.cut
            && *after == self.pieces
        {
            self.steps.push(step.clone());
            return None;
        }
        self.pieces += 1;
        if !self.scene.pause.is_zero() {
            self.steps.push(Step::Wait(self.scene.pause));
        }
        Some(())
    }

    fn chunk(&self, choice: u64, delta: &Value, finish: Option<&str>) -> Value {
        let (family, scene) = (self.family, self.scene);
        let unfinished: Value = serde_json::from_str(family.unfinished).unwrap();
        let finish_reason = finish.map_or(unfinished, |finish| json!(finish));
        let mut chunk = json!({"id": "gen-1", "object": "chat.completion.chunk", "created": 1,
            "model": named(family, scene, self.seen),
            "choices": [{"index": choice, "delta": delta, "logprobs": null, "finish_reason": finish_reason}]});
        if family.usage == Place::Asked && self.seen.include_usage() {
            chunk["usage"] = Value::Null;
        }
        if family.usage == Place::Every && !scene.mute {
            chunk["usage"] = usage(family, scene, &self.so_far);
        }
        if scene.habit == Habit::EmptyErrors {
            chunk["error"] = json!("");
        }
        chunk
    }

    fn event(&mut self, chunk: &Value, tokens: u64) {
        let mut text = chunk.to_string();
        match self.scene.habit {
            Habit::Infinity if self.pieces == 1 => {
                text = text.replacen(
                    "\"logprobs\":null",
                    "\"logprobs\":{\"content\":[{\"logprob\":-Infinity}]}",
                    1,
                );
            }
            Habit::DoubledMembers => {
                text = text.replacen('{', "{\"id\":\"gen-0\",\"created\":0,", 1);
            }
            _ => {}
        }
        let between = if self.scene.habit == Habit::DataComments {
            "data: : keepalive\n\n"
        } else {
            self.family.between
        };
        self.steps.push(Step::Generated(
            format!("{between}data: {text}\n\n").into_bytes(),
            tokens,
        ));
    }

    /// The chunk that finishes, the usage, and the end, each as the family has it.
    fn end(&mut self, account: &Account) {
        let (family, scene) = (self.family, self.scene);
        let told = !scene.mute && scene.habit != Habit::EndsEarly;
        let late = scene.habit == Habit::UsageAfterDone && family.usage != Place::Never;
        let usage = usage(family, scene, account);
        let finish = finish(family, scene, self.seen, account);
        for choice in 0..self.seen.choices() {
            let mut last = self.chunk(choice, &json!({}), Some(finish));
            let is_last = choice + 1 == self.seen.choices();
            match family.usage {
                Place::Last if told && is_last && !late => last["usage"] = usage.clone(),
                Place::Choice if told && is_last && !late => {
                    last["choices"][0]["usage"] = usage.clone();
                }
                Place::XGroq if told && is_last && !late => {
                    last["x_groq"] = json!({"id": "req_1", "usage": usage});
                }
                _ => {}
            }
            self.event(&last, 0);
        }
        let asks = self.seen.include_usage();
        let own = (family.usage == Place::Own || family.usage == Place::Asked && asks) && told;
        let own_chunk = json!({"id": "gen-1", "object": "chat.completion.chunk", "created": 1,
                               "model": named(family, scene, self.seen), "choices": [], "usage": usage});
        if own && !late {
            self.event(&own_chunk, 0);
        }
        if family.done && scene.habit != Habit::EndsEarly {
            self.steps.push(Step::Body(b"data: [DONE]\n\n".to_vec()));
        }
        if late {
            self.event(&own_chunk, 0);
        }
    }
}
