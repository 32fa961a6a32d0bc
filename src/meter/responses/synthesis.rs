//! The two forms of a response, made from each other: one object, and the events of a stream. Pure.
//!
//! Only for a server that did not give the form that was asked for. Members that nobody here knows are kept.

use bytes::BytesMut;
use serde_json::{Map, Value, json};

use crate::meter::sse::write_named_event;

/// The events of a whole response. None if it is none.
pub(super) fn events_of(body: &[u8]) -> Option<BytesMut> {
    let Value::Object(response) = serde_json::from_slice(body).ok()? else {
        return None;
    };
    let mut events = EventScript::default();
    let mut begun = response.clone();
    begun.insert("status".to_owned(), json!("in_progress"));
    begun.insert("output".to_owned(), json!([]));
    begun.insert("usage".to_owned(), Value::Null);
    events.write("response.created", json!({"response": begun}));
    events.write("response.in_progress", json!({"response": begun}));
    let items = response.get("output").and_then(Value::as_array);
    for (index, item) in items.into_iter().flatten().enumerate() {
        events.item(index, item);
    }
    let status = response.get("status").and_then(Value::as_str);
    let end = match status {
        Some("incomplete") => "response.incomplete",
        Some("failed") => "response.failed",
        _ => "response.completed",
    };
    events.write(end, json!({"response": response}));
    Some(events.out)
}

/// Events, numbered as they are written.
#[derive(Default)]
struct EventScript {
    out: BytesMut,
    number: u64,
}

impl EventScript {
    fn write(&mut self, kind: &str, members: Value) {
        let mut event = Map::new();
        event.insert("type".to_owned(), json!(kind));
        event.insert("sequence_number".to_owned(), json!(self.number));
        if let Value::Object(members) = members {
            event.extend(members);
        }
        self.number = self.number.saturating_add(1);
        let payload = Value::Object(event).to_string();
        write_named_event(kind.as_bytes(), payload.as_bytes(), &mut self.out);
    }

    fn item(&mut self, index: usize, item: &Value) {
        let id = item.get("id").cloned().unwrap_or_default();
        self.write(
            "response.output_item.added",
            json!({"output_index": index, "item": opened(item)}),
        );
        for (stem, name) in [
            ("response.function_call_arguments", "arguments"),
            ("response.custom_tool_call_input", "input"),
        ] {
            if let Some(text) = item.get(name).and_then(Value::as_str) {
                let at = json!({"item_id": id, "output_index": index});
                self.text(stem, (name, text), &at);
            }
        }
        for (list, place) in [("summary", "summary_index"), ("content", "content_index")] {
            let parts = item.get(list).and_then(Value::as_array);
            for (number, part) in parts.into_iter().flatten().enumerate() {
                let at = json!({"item_id": id, "output_index": index, place: number});
                self.part(part, list == "summary", &at);
            }
        }
        self.write(
            "response.output_item.done",
            json!({"output_index": index, "item": item}),
        );
    }

    fn part(&mut self, part: &Value, is_summary: bool, at: &Value) {
        let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
        let (stem, name) = match kind {
            "summary_text" => ("response.reasoning_summary_text", "text"),
            "reasoning_text" => ("response.reasoning_text", "text"),
            "refusal" => ("response.refusal", "refusal"),
            _ => ("response.output_text", "text"),
        };
        let around = if is_summary {
            "response.reasoning_summary_part"
        } else {
            "response.content_part"
        };
        let mut empty = part.clone();
        if let Some(text) = empty.get_mut(name) {
            *text = json!("");
        }
        self.write(&format!("{around}.added"), with(at, "part", empty));
        if let Some(text) = part.get(name).and_then(Value::as_str) {
            self.text(stem, (name, text), at);
        }
        self.write(&format!("{around}.done"), with(at, "part", part.clone()));
    }

    fn text(&mut self, stem: &str, (name, text): (&str, &str), at: &Value) {
        self.write(&format!("{stem}.delta"), with(at, "delta", json!(text)));
        self.write(&format!("{stem}.done"), with(at, name, json!(text)));
    }
}

fn with(members: &Value, name: &str, value: Value) -> Value {
    let mut members = members.clone();
    if let Some(members) = members.as_object_mut() {
        members.insert(name.to_owned(), value);
    }
    members
}

/// An item as it begins: nothing of it was generated yet.
fn opened(item: &Value) -> Value {
    let mut item = item.clone();
    let Some(members) = item.as_object_mut() else {
        return item;
    };
    for (name, value) in members.iter_mut() {
        match name.as_str() {
            "status" => *value = json!("in_progress"),
            "arguments" | "input" if value.is_string() => *value = json!(""),
            "content" | "summary" if value.is_array() => *value = json!([]),
            "encrypted_content" => *value = Value::Null,
            _ => {}
        }
    }
    item
}

/// Puts the events of a stream together to one response.
#[derive(Debug, Default)]
pub(super) struct MergedResponse {
    last: Option<Map<String, Value>>,
    is_ended: bool,
    items: Vec<Value>,
}

impl MergedResponse {
    /// One more event.
    pub(super) fn add(&mut self, payload: &[u8]) {
        let Ok(Value::Object(mut event)) = serde_json::from_slice(payload) else {
            return;
        };
        let kind = event
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default();
        self.is_ended |= super::ResponseEnd::of(kind).is_some();
        let is_item = kind == "response.output_item.done";
        if let Some(Value::Object(response)) = event.remove("response") {
            self.last = Some(response);
        }
        if let Some(item) = event.remove("item").filter(|_| is_item) {
            self.items.push(item);
        }
    }

    /// The response; none where none was told. Without the event that ends it, it is made of its items.
    pub(super) fn into_json(self) -> Option<Vec<u8>> {
        let mut response = self.last?;
        let is_empty = |value: &Value| value.as_array().is_none_or(Vec::is_empty);
        if !self.items.is_empty() && response.get("output").is_none_or(is_empty) {
            response.insert("output".to_owned(), Value::Array(self.items));
        }
        if !self.is_ended {
            response.insert("status".to_owned(), json!("completed"));
        }
        Some(Value::Object(response).to_string().into_bytes())
    }
}
