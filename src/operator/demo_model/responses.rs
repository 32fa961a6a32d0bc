//! `/v1/responses` of the demo's model: the same words as in a chat, in the form of OpenAI's Responses API.

use std::collections::VecDeque;

use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{DemoAnswer, DemoRequest, Message, Script, error, is_known, json_response};

/// The fields that are read; the others are ignored.
#[derive(Deserialize)]
struct ResponseRequest {
    model: String,
    #[serde(default)]
    input: Value,
    #[serde(default)]
    instructions: Value,
    #[serde(default)]
    stream: bool,
    max_output_tokens: Option<usize>,
}

impl ResponseRequest {
    /// The chat that says the same: an item without text is a message of none.
    fn into_chat(self) -> DemoRequest {
        let text = |content: Value| Message { content };
        let mut messages = vec![text(self.instructions)];
        match self.input {
            Value::Array(items) => messages.extend(items.into_iter().map(|mut item| {
                let output = item.get_mut("output").map(Value::take);
                let content = item.get_mut("content").map(Value::take);
                text(output.or(content).unwrap_or_default())
            })),
            input => messages.push(text(input)),
        }
        DemoRequest {
            model: self.model,
            messages,
            stream: self.stream,
            stream_options: None,
            max_tokens: self.max_output_tokens,
            max_completion_tokens: None,
            n: None,
        }
    }
}

pub(super) async fn responses(body: Bytes) -> Response {
    let request: ResponseRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(reason) => {
            let message = format!("Not a request for a response: {reason}.");
            return error(StatusCode::BAD_REQUEST, &message, None);
        }
    };
    if !is_known(&request.model) {
        let message = format!("The model `{}` does not exist.", request.model);
        return error(StatusCode::NOT_FOUND, &message, Some("model_not_found"));
    }
    let chat = request.into_chat();
    let question = chat.messages.last().map(Message::text).unwrap_or_default();
    let answer = DemoAnswer::to(&chat, &question);
    let response = DemoResponse {
        id: format!("resp_{}", Uuid::now_v7().simple()),
        answer,
    };
    if !chat.stream {
        return json_response(StatusCode::OK, &response.whole());
    }
    let script = Script::new(response.events(), question.trim() == "/cut");
    let mut streamed = Response::new(axum::body::Body::new(script));
    streamed.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    streamed
}

/// An answer in this API's form.
struct DemoResponse {
    id: String,
    answer: DemoAnswer,
}

impl DemoResponse {
    fn of_status(&self, status: &str, output: &[Value], usage: &Value) -> Value {
        json!({
            "id": self.id, "object": "response", "created_at": 0, "status": status, "model": self.answer.model,
            "error": null, "output": output, "usage": usage, "service_tier": "default", "store": false,
            "incomplete_details": if status == "incomplete" { json!({"reason": "max_output_tokens"}) } else { Value::Null },
            "parallel_tool_calls": true, "tool_choice": "auto", "tools": [],
        })
    }

    fn whole(&self) -> Value {
        let is_cut = self.answer.finish_reason == "length";
        let status = if is_cut { "incomplete" } else { "completed" };
        self.of_status(status, &[self.item()], &self.usage())
    }

    fn usage(&self) -> Value {
        let (input, output) = (self.answer.prompt_tokens, self.answer.words.len());
        json!({
            "input_tokens": input, "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": output, "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": input.saturating_add(output),
        })
    }

    fn part(&self) -> Value {
        let text = self.answer.words.concat();
        json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
    }

    fn item(&self) -> Value {
        json!({"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [self.part()]})
    }

    /// The events of a stream, in order.
    fn events(&self) -> VecDeque<Bytes> {
        let begun = json!({"response": self.of_status("in_progress", &[], &Value::Null)});
        let at = |name: &str, value: Value| json!({"item_id": "msg_1", "output_index": 0, "content_index": 0, name: value});
        let empty = json!({"type": "output_text", "text": "", "annotations": [], "logprobs": []});
        let item = json!({"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []});
        let mut events = vec![
            ("response.created", begun.clone()),
            ("response.in_progress", begun),
            (
                "response.output_item.added",
                json!({"output_index": 0, "item": item}),
            ),
            ("response.content_part.added", at("part", empty)),
        ];
        let words = self.answer.words.iter();
        events.extend(words.map(|word| ("response.output_text.delta", at("delta", json!(word)))));
        let whole = self.whole();
        let is_cut = whole.get("status").and_then(Value::as_str) == Some("incomplete");
        let end = if is_cut {
            "response.incomplete"
        } else {
            "response.completed"
        };
        events.extend([
            (
                "response.output_text.done",
                at("text", json!(self.answer.words.concat())),
            ),
            ("response.content_part.done", at("part", self.part())),
            (
                "response.output_item.done",
                json!({"output_index": 0, "item": self.item()}),
            ),
            (end, json!({"response": whole})),
        ]);
        let numbered = events.into_iter().enumerate();
        numbered
            .map(|(number, event)| written(number, event))
            .collect()
    }
}

fn written(number: usize, (kind, mut event): (&str, Value)) -> Bytes {
    if let Some(members) = event.as_object_mut() {
        members.insert("type".to_owned(), json!(kind));
        members.insert("sequence_number".to_owned(), json!(number));
    }
    Bytes::from(format!("event: {kind}\ndata: {event}\n\n"))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use http_body_util::BodyExt;

    use super::*;
    use crate::meter::Meter;
    use crate::meter::responses::whole;

    #[tokio::test(start_paused = true)]
    async fn a_response_says_what_it_used_whole_or_streamed() {
        for (cap, tokens) in [("", 12), (r#","max_output_tokens":3"#, 3)] {
            let ask = async |stream: bool| {
                let body =
                    format!(r#"{{"model":"gpt-4o-mini","input":"hello","stream":{stream}{cap}}}"#);
                let answer = responses(Bytes::from(body)).await;
                answer.into_body().collect().await.unwrap().to_bytes()
            };
            let usage = whole::read(ask(false).await).measured.usage.unwrap();
            assert_eq!(usage.output_tokens, tokens);
            let (mut meter, mut out) = (Meter::responses(), BytesMut::new());
            let streamed = ask(true).await;
            meter.push(&streamed, &mut out).unwrap();
            assert_eq!(out, streamed, "every event passes as it came");
            assert!(meter.is_done() && meter.into_measured().usage == Some(usage));
        }
    }
}
