//! A whole message as events, and events as a whole message: for a caller who asked for the other form. Pure.

use bytes::BytesMut;
use serde_json::{Map, Value, json};

use crate::meter::sse::write_named_event;

/// Members of a block that a stream tells piece by piece, each with the delta that tells it.
const PIECES: [(&str, &str); 3] = [
    ("text", "text_delta"),
    ("thinking", "thinking_delta"),
    ("signature", "signature_delta"),
];

/// Writes the events that say what a message says.
pub(super) fn write_events(message: &Value, out: &mut BytesMut) {
    let Some(members) = message.as_object() else {
        return;
    };
    let mut start = members.clone();
    start.insert("content".to_owned(), json!([]));
    start.insert("stop_reason".to_owned(), Value::Null);
    start.insert("stop_sequence".to_owned(), Value::Null);
    write("message_start", json!({ "message": start }), out);
    let blocks = message.get("content").and_then(Value::as_array);
    for (index, block) in blocks.into_iter().flatten().enumerate() {
        write_block(index, block, out);
    }
    let told = |name: &str| message.get(name).cloned().unwrap_or_default();
    let delta = json!({"stop_reason": told("stop_reason"), "stop_sequence": told("stop_sequence")});
    let end = json!({"delta": delta, "usage": told("usage")});
    write("message_delta", end, out);
    write("message_stop", json!({}), out);
}

fn write_block(index: usize, block: &Value, out: &mut BytesMut) {
    let mut start = block.clone();
    let mut deltas = Vec::new();
    if let Some(members) = start.as_object_mut() {
        for (name, delta) in PIECES {
            if let Some(text) = members.get_mut(name).filter(|text| text.is_string()) {
                deltas.push(json!({"type": delta, name: text.take()}));
                *text = json!("");
            }
        }
        let is_call = members.get("type").and_then(Value::as_str) == Some("tool_use");
        if let Some(input) = members.get_mut("input").filter(|_| is_call) {
            deltas.push(
                json!({"type": "input_json_delta", "partial_json": input.take().to_string()}),
            );
            *input = json!({});
        }
    }
    let begun = json!({"index": index, "content_block": start});
    write("content_block_start", begun, out);
    for delta in deltas {
        let piece = json!({"index": index, "delta": delta});
        write("content_block_delta", piece, out);
    }
    write("content_block_stop", json!({ "index": index }), out);
}

fn write(kind: &str, event: Value, out: &mut BytesMut) {
    let mut event = event;
    if let Some(members) = event.as_object_mut() {
        members.insert("type".to_owned(), json!(kind));
    }
    write_named_event(kind.as_bytes(), event.to_string().as_bytes(), out);
}

/// A message that is put together from events.
#[derive(Debug, Default)]
pub(super) struct MergedMessage {
    message: Option<Map<String, Value>>,
    /// Each with the JSON of its input, as far as it has come.
    blocks: Vec<(Value, String)>,
}

impl MergedMessage {
    /// Takes the next event.
    pub(super) fn add(&mut self, event: &Value) {
        match event.get("type").and_then(Value::as_str) {
            Some("message_start") => {
                self.message = event.get("message").and_then(Value::as_object).cloned();
            }
            Some("content_block_start") => {
                let block = event.get("content_block").cloned().unwrap_or_default();
                self.blocks.push((block, String::new()));
            }
            Some("content_block_delta") => self.grow(event),
            Some("message_delta") => self.end(event),
            _ => {}
        }
    }

    fn grow(&mut self, event: &Value) {
        let (Some((block, input)), Some(delta)) = (self.blocks.last_mut(), event.get("delta"))
        else {
            return;
        };
        if let Some(piece) = delta.get("partial_json").and_then(Value::as_str) {
            input.push_str(piece);
        }
        for (name, _) in PIECES {
            let Some(piece) = delta.get(name).and_then(Value::as_str) else {
                continue;
            };
            let before = block.get(name).and_then(Value::as_str).unwrap_or_default();
            let grown = json!(format!("{before}{piece}"));
            if let Some(members) = block.as_object_mut() {
                members.insert(name.to_owned(), grown);
            }
        }
    }

    fn end(&mut self, event: &Value) {
        let Some(message) = &mut self.message else {
            return;
        };
        let delta = event.get("delta").and_then(Value::as_object);
        message.extend(delta.cloned().unwrap_or_default());
        let usage = event.get("usage").and_then(Value::as_object);
        if let Some(all) = message.get_mut("usage").and_then(Value::as_object_mut) {
            all.extend(usage.cloned().unwrap_or_default());
        } else if let Some(usage) = usage {
            message.insert("usage".to_owned(), Value::Object(usage.clone()));
        }
    }

    /// The message, if it began.
    pub(super) fn into_json(self) -> Option<Value> {
        let block = |(mut block, input): (Value, String)| {
            if let Ok(input) = serde_json::from_str::<Value>(&input)
                && let Some(members) = block.as_object_mut()
            {
                members.insert("input".to_owned(), input);
            }
            block
        };
        let mut message = self.message?;
        let content = self.blocks.into_iter().map(block).collect();
        message.insert("content".to_owned(), Value::Array(content));
        Some(Value::Object(message))
    }
}
