//! The two forms of a chat completion, made from each other: one object, and the chunks of a stream. Pure.
//!
//! Only for a server that did not give the form that was asked for. Members that nobody here knows are kept.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::mend;

/// The events of a whole completion: what every choice says, how it ended, and the usage for a caller that asked. Without
/// `[DONE]`. None if it is no completion.
pub(super) fn of_whole(body: &[u8], wants_usage: bool) -> Option<Vec<u8>> {
    let Value::Object(mut head) = parse(body)? else {
        return None;
    };
    let Value::Array(choices) = head.remove("choices")? else {
        return None;
    };
    let usage = head.remove("usage").filter(Value::is_object);
    head.insert("object".to_owned(), Value::from("chat.completion.chunk"));
    let mut out = Vec::new();
    let mut event = |choices: Vec<Value>, usage: Option<&Value>| {
        let mut chunk = head.clone();
        chunk.insert("choices".to_owned(), Value::Array(choices));
        chunk.extend(usage.map(|usage| ("usage".to_owned(), usage.clone())));
        out.extend_from_slice(format!("data: {}\n\n", Value::Object(chunk)).as_bytes());
    };
    for (place, choice) in choices.into_iter().enumerate() {
        let Value::Object(mut choice) = choice else {
            return None;
        };
        let index = choice
            .get("index")
            .cloned()
            .filter(Value::is_u64)
            .unwrap_or_else(|| json!(place));
        let finish = choice
            .remove("finish_reason")
            .filter(Value::is_string)
            .unwrap_or_else(|| json!("stop"));
        let logprobs = choice.remove("logprobs").unwrap_or_default();
        let delta = delta(choice);
        event(
            vec![
                json!({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": null}),
            ],
            None,
        );
        event(
            vec![json!({"index": index, "delta": {}, "logprobs": null, "finish_reason": finish})],
            None,
        );
    }
    if let Some(usage) = usage.as_ref().filter(|_| wants_usage) {
        event(Vec::new(), Some(usage));
    }
    Some(out)
}

fn parse(body: &[u8]) -> Option<Value> {
    let value = serde_json::from_slice(body).ok();
    value.or_else(|| serde_json::from_str(&mend::json(body)).ok())
}

/// What a choice says, as a chunk says it.
fn delta(mut choice: Map<String, Value>) -> Map<String, Value> {
    let message = choice.remove("message").or_else(|| choice.remove("delta"));
    let mut delta = match message {
        Some(Value::Object(message)) => message,
        _ => Map::new(),
    };
    if let Some(text) = choice.remove("text") {
        delta.entry("content").or_insert(text);
    }
    delta.entry("role").or_insert_with(|| json!("assistant"));
    let calls = delta.get_mut("tool_calls").and_then(Value::as_array_mut);
    for (place, call) in calls.into_iter().flatten().enumerate() {
        let Some(call) = call.as_object_mut() else {
            continue;
        };
        call.entry("index").or_insert_with(|| json!(place));
        if let Some(arguments) = call
            .get_mut("function")
            .and_then(|function| function.get_mut("arguments"))
            && !arguments.is_string()
        {
            *arguments = Value::from(arguments.to_string());
        }
    }
    delta
}

/// Puts the chunks of a stream together to one completion.
#[derive(Debug, Default)]
pub(super) struct MergedCompletion {
    head: Map<String, Value>,
    /// By their index.
    choices: BTreeMap<u64, Map<String, Value>>,
    usage: Option<Value>,
}

impl MergedCompletion {
    /// One more chunk. False: it is no chunk.
    pub(super) fn add(&mut self, payload: &[u8]) -> bool {
        let Some(Value::Object(mut chunk)) = parse(payload) else {
            return false;
        };
        let choices = chunk.remove("choices");
        self.usage = chunk
            .remove("usage")
            .filter(Value::is_object)
            .or_else(|| self.usage.take());
        chunk.remove("obfuscation");
        for (name, value) in chunk {
            if !value.is_null() || !self.head.contains_key(&name) {
                self.head.insert(name, value);
            }
        }
        let Some(Value::Array(choices)) = choices else {
            return true;
        };
        for choice in choices {
            let Value::Object(mut choice) = choice else {
                continue;
            };
            let index = choice
                .remove("index")
                .and_then(|index| index.as_u64())
                .unwrap_or(0);
            if let Some(delta) = choice.remove("delta") {
                choice.insert("message".to_owned(), delta);
            }
            add(self.choices.entry(index).or_default(), choice);
        }
        true
    }

    /// The completion.
    pub(super) fn into_json(self) -> Vec<u8> {
        let Self {
            mut head,
            choices,
            usage,
        } = self;
        let choices: Vec<Value> = choices
            .into_iter()
            .map(|(index, choice)| whole_choice(index, choice))
            .collect();
        head.insert("object".to_owned(), Value::from("chat.completion"));
        head.insert("choices".to_owned(), Value::Array(choices));
        head.extend(usage.map(|usage| ("usage".to_owned(), usage)));
        Value::Object(head).to_string().into_bytes()
    }
}

/// With the members that every choice of a whole completion has.
fn whole_choice(index: u64, mut choice: Map<String, Value>) -> Value {
    let mut message = match choice.remove("message") {
        Some(Value::Object(message)) => message,
        _ => Map::new(),
    };
    message.entry("role").or_insert_with(|| json!("assistant"));
    message.entry("content").or_insert(Value::Null);
    let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
    for call in calls.into_iter().flatten() {
        call.as_object_mut().and_then(|call| call.remove("index"));
    }
    let finish = choice
        .remove("finish_reason")
        .filter(Value::is_string)
        .unwrap_or_else(|| json!("stop"));
    let mut whole = Map::new();
    whole.insert("index".to_owned(), json!(index));
    whole.insert("message".to_owned(), Value::Object(message));
    whole.insert(
        "logprobs".to_owned(),
        choice.remove("logprobs").unwrap_or_default(),
    );
    whole.insert("finish_reason".to_owned(), finish);
    whole.extend(choice);
    Value::Object(whole)
}

/// Strings that are said whole each time, and not piece by piece.
const WHOLE_STRINGS: [&str; 7] = [
    "role",
    "id",
    "type",
    "object",
    "finish_reason",
    "stop_reason",
    "format",
];

/// Adds what a delta says: text goes on, lists go on, anything else replaces what was said before.
fn add(all: &mut Map<String, Value>, delta: Map<String, Value>) {
    for (name, value) in delta {
        let is_whole = WHOLE_STRINGS.contains(&name.as_str());
        match (all.get_mut(&name), value) {
            (Some(_), Value::Null) => {}
            (Some(Value::String(text)), Value::String(more)) if is_whole && more.is_empty() => {
                drop((text, more));
            }
            (Some(Value::String(text)), Value::String(more)) if !is_whole => text.push_str(&more),
            (Some(Value::Object(object)), Value::Object(more)) => add(object, more),
            (Some(Value::Array(items)), Value::Array(more)) => add_items(items, more),
            (_, value) => {
                all.insert(name, value);
            }
        }
    }
}

/// Items with an `index` go on where it stood before.
fn add_items(items: &mut Vec<Value>, more: Vec<Value>) {
    for item in more {
        let index = item.get("index").filter(|index| index.is_u64());
        let known = index.and_then(|index| {
            items
                .iter_mut()
                .find(|known| known.get("index") == Some(index))
        });
        match (known, item) {
            (Some(Value::Object(known)), Value::Object(item)) => add(known, item),
            (_, item) => items.push(item),
        }
    }
}
