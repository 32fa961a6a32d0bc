#![allow(
    clippy::arithmetic_side_effects,
    clippy::needless_pass_by_value,
    clippy::cloned_ref_to_slice_refs,
    reason = "a test that overflows fails, and events are written in place, by json!"
)]

use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::meter::Meter;
use crate::price::Usage;

/// Every event of OpenAI's description but the error.
const KINDS: [&str; 57] = [
    "response.audio.delta",
    "response.audio.done",
    "response.audio.transcript.delta",
    "response.audio.transcript.done",
    "response.code_interpreter_call_code.delta",
    "response.code_interpreter_call_code.done",
    "response.code_interpreter_call.completed",
    "response.code_interpreter_call.in_progress",
    "response.code_interpreter_call.interpreting",
    "response.content_part.added",
    "response.content_part.done",
    "response.created",
    "response.custom_tool_call_input.delta",
    "response.custom_tool_call_input.done",
    "response.file_search_call.completed",
    "response.file_search_call.in_progress",
    "response.file_search_call.searching",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.image_generation_call.completed",
    "response.image_generation_call.generating",
    "response.image_generation_call.in_progress",
    "response.image_generation_call.partial_image",
    "response.in_progress",
    "response.mcp_call_arguments.delta",
    "response.mcp_call_arguments.done",
    "response.mcp_call.completed",
    "response.mcp_call.failed",
    "response.mcp_call.in_progress",
    "response.mcp_list_tools.completed",
    "response.mcp_list_tools.failed",
    "response.mcp_list_tools.in_progress",
    "response.output_item.added",
    "response.output_item.done",
    "response.output_text.annotation.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.queued",
    "response.reasoning_summary_part.added",
    "response.reasoning_summary_part.done",
    "response.reasoning_summary_text.delta",
    "response.reasoning_summary_text.done",
    "response.reasoning_text.delta",
    "response.reasoning_text.done",
    "response.refusal.delta",
    "response.refusal.done",
    "response.shell_call_command.added",
    "response.shell_call_command.delta",
    "response.shell_call_command.done",
    "response.shell_call_output_content.delta",
    "response.shell_call_output_content.done",
    "response.web_search_call.completed",
    "response.web_search_call.in_progress",
    "response.web_search_call.searching",
    "response.completed",
    "response.incomplete",
    "response.failed",
];

fn usage_json() -> Value {
    json!({"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 5,
           "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": 14})
}

fn usage_told() -> Usage {
    Usage {
        input_tokens: 9,
        cached_input_tokens: 4,
        output_tokens: 5,
        reasoning_tokens: 2,
        ..Usage::default()
    }
}

fn written(event: &Value) -> String {
    let kind = event["type"].as_str().unwrap();
    format!("event: {kind}\ndata: {event}\n\n")
}

/// What a meter makes of a stream that ends there.
fn metered(stream: &str) -> (Result<(), Fault>, String, Measured) {
    let mut meter = Meter::responses();
    let mut out = BytesMut::new();
    let read = meter.push(stream.as_bytes(), &mut out);
    let read = read.and_then(|()| meter.finish(&mut out));
    if let Err(fault) = read {
        meter.fail(fault, &mut out);
    }
    let out = String::from_utf8(out.to_vec()).unwrap();
    (read, out, meter.into_measured())
}

fn text(text: &str) -> Vec<Value> {
    let at = |kind: &str, name: &str, value: Value| json!({"type": format!("response.{kind}"), "item_id": "msg_1", "output_index": 0, "content_index": 0, name: value});
    let part = json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []});
    let item = json!({"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]});
    vec![
        json!({"type": "response.created", "response": {"id": "resp_1", "status": "in_progress", "model": "gpt-6-luna", "usage": null}}),
        json!({"type": "response.output_item.added", "output_index": 0, "item": {"id": "msg_1", "type": "message", "content": []}}),
        at("output_text.delta", "delta", json!(text)),
        at("output_text.done", "text", json!(text)),
        at("content_part.done", "part", part),
        json!({"type": "response.output_item.done", "output_index": 0, "item": item}),
    ]
}

fn stream(events: &[Value]) -> String {
    let numbered = events.iter().enumerate().map(|(number, event)| {
        let mut event = event.clone();
        event["sequence_number"] = json!(number);
        written(&event)
    });
    numbered.collect()
}

fn ended(kind: &str, usage: Value) -> Value {
    let status = kind.rsplit('.').next().unwrap();
    json!({"type": kind, "response": {"id": "resp_1", "status": status, "model": "gpt-6-luna", "output": [], "usage": usage}})
}

#[test]
fn every_event_passes_byte_for_byte_with_its_name_and_number() {
    for (number, kind) in KINDS.iter().enumerate() {
        let event = json!({"type": kind, "sequence_number": number, "output_index": 0, "delta": "a\u{e9}", "unknown": [1, "x"],
            "item": {"id": "x"}, "part": {"type": "output_text", "text": "b"}, "response": {"usage": usage_json()}});
        let stream = written(&event);
        let (read, out, _) = metered(&stream);
        let cut = matches!(read, Err(Fault::Cut));
        assert!(out.starts_with(&stream), "{kind}: {out}");
        assert_eq!(out.len() > stream.len(), cut, "{kind}: {out}");
    }
    // Without an `event` line it gets its own; a comment and other fields are the upstream's.
    let bare = "id: 7\nretry: 1\ndata: {\"type\":\"response.queued\"}\n\n: x\n\n";
    let out = metered(bare).1;
    assert!(
        out.starts_with(
            "event: response.queued\ndata: {\"type\":\"response.queued\"}\n\nevent: error\n"
        ),
        "{out}"
    );
    // A server's own event passes too, by the name that it has.
    let own = "event: response.reasoning_part.added\ndata: {\"part\":{}}\n\n";
    assert!(metered(own).1.starts_with(own));
}

#[test]
fn usage_stands_in_the_event_that_ends_a_stream() {
    for (kind, read, cap) in [
        ("response.completed", Ok(()), false),
        ("response.incomplete", Ok(()), true),
        ("response.failed", Err(Fault::Upstream), false),
    ] {
        let mut events = text("one two");
        events.push(ended(kind, usage_json()));
        let (outcome, out, measured) = metered(&stream(&events));
        assert_eq!(
            (outcome, out.as_str()),
            (read, stream(&events).as_str()),
            "{kind}"
        );
        assert_eq!(measured.usage, Some(usage_told()), "{kind}");
        assert_eq!(
            (measured.text.as_str(), measured.cap_reached),
            ("one two", cap)
        );
        assert_eq!(measured.model.as_deref(), Some("gpt-6-luna"));
        assert!(!measured.usage_nonsense && !measured.text_overflow);
        // Without a usage, or with one that is empty, it is counted.
        for nothing in [
            json!(null),
            json!({"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}),
        ] {
            *events.last_mut().unwrap() = ended(kind, nothing);
            let measured = metered(&stream(&events)).2;
            assert_eq!(
                (measured.usage, measured.text.as_str()),
                (None, "one two"),
                "{kind}"
            );
        }
    }
    // What follows the end is nobody's.
    let more = format!(
        "{}{}",
        stream(&[ended("response.completed", usage_json())]),
        written(&text("x")[2])
    );
    assert_eq!(
        metered(&more).1,
        stream(&[ended("response.completed", usage_json())])
    );
}

#[test]
fn a_stream_may_end_without_its_last_event_once_its_items_have() {
    let whole = text("one two");
    let (read, out, measured) = metered(&stream(&whole));
    assert_eq!(
        (read, out, measured.text.as_str()),
        (Ok(()), stream(&whole), "one two")
    );
    assert!(
        measured.done && measured.finished && measured.content_events == 1,
        "{measured:?}"
    );
    assert_eq!(metered("data: [DONE]\n\n").0, Ok(()));
    let (read, out, measured) = metered(&stream(&whole[..4]));
    assert_eq!((read, measured.text.as_str()), (Err(Fault::Cut), "one two"));
    let error: Value = serde_json::from_str(out.rsplit_once("data: ").unwrap().1.trim()).unwrap();
    assert!(out.contains("\n\nevent: error\ndata: {"), "{out}");
    assert_eq!(
        (
            &error["type"],
            &error["sequence_number"],
            &error["code"],
            &error["param"]
        ),
        (
            &json!("error"),
            &json!(4),
            &json!("upstream_error"),
            &Value::Null
        )
    );
    assert_eq!(
        (&error["message"], &error["code"]),
        (&error["error"]["message"], &error["error"]["code"])
    );
    assert_eq!(error["error"]["type"], "api_error");
}

#[test]
fn an_error_of_the_upstream_is_rewritten_in_whatever_shape_it_comes() {
    for error in [
        r#"{"type":"error","code":"x","message":"sk-secret","param":null,"sequence_number":1}"#,
        r#"{"type":"error","error":{"message":"sk-secret"}}"#,
        r#"{"error":{"message":"sk-secret"}}"#,
        r#"{"error":"sk-secret"}"#,
        r#"{"object":"error","message":"sk-secret"}"#,
        r#"{"message":"sk-secret","code":500}"#,
        r#"[{"error":{"message":"sk-secret"}}]"#,
    ] {
        let (read, out, measured) = metered(&format!("data: {error}\n\n"));
        assert_eq!(
            (read, measured.is_error, measured.text.as_str()),
            (Err(Fault::Upstream), true, ""),
            "{error}"
        );
        assert!(
            out.starts_with("event: error\ndata: {\"type\":\"error\"") && !out.contains("sk-"),
            "{out}"
        );
        let (read, out, measured) = metered(error);
        assert_eq!(
            (read, measured.is_error),
            (Err(Fault::Upstream), true),
            "{error}"
        );
        assert!(!out.contains("sk-"), "{out}");
    }
    let (read, out, _) = metered("event: error\ndata: sk-secret\n\n");
    assert!(
        read == Err(Fault::Upstream) && !out.contains("sk-"),
        "{out}"
    );
    let failed = json!({"type": "response.failed", "sequence_number": 0, "response": {"status": "failed", "usage": null,
        "error": {"code": "rate_limit_exceeded", "message": "Limit of org-1 reached"}}});
    let (read, out, measured) = metered(&written(&failed));
    assert!(
        read == Err(Fault::Upstream) && measured.text.is_empty(),
        "{measured:?}"
    );
    assert!(
        out.starts_with("event: response.failed\n") && out.contains("rate_limit_exceeded"),
        "{out}"
    );
    assert!(
        !out.contains("org-") && !out.contains("event: error"),
        "{out}"
    );
}

#[test]
fn reasoning_that_nobody_sees_is_noticed() {
    let hides = |events: &[Value]| metered(&stream(events)).2.hidden_reasoning;
    let begun = json!({"type": "response.output_item.added", "output_index": 0, "item": {"id": "rs_1", "type": "reasoning", "summary": []}});
    let item = |content: Value, sealed: Value| {
        json!({"type": "response.output_item.done", "output_index": 0,
            "item": {"id": "rs_1", "type": "reasoning", "summary": [], "content": content, "encrypted_content": sealed}})
    };
    let words = json!({"type": "response.reasoning_text.delta", "output_index": 0, "delta": "hm"});
    let shown = json!([{"type": "reasoning_text", "text": "hm"}]);
    assert!(hides(&[begun.clone()]) && hides(&[begun.clone(), item(json!([]), json!(null))]));
    assert!(!hides(&[begun.clone(), words.clone()]));
    assert!(!hides(&[
        begun.clone(),
        words.clone(),
        item(shown.clone(), json!(null))
    ]));
    assert!(hides(&[begun, words, item(shown, json!("gAAA"))]));
    let summary =
        json!({"type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "hm"});
    assert!(hides(&[summary]));
    let mut events = text("x");
    assert!(!hides(&events));
    events.push(ended("response.completed", usage_json()));
    assert!(hides(&events), "the report says so");
}

#[test]
fn a_response_in_one_piece_becomes_the_events_of_a_stream_and_back() {
    let output = json!([
        {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "gAAA"},
        {"id": "fc_1", "type": "function_call", "status": "completed", "call_id": "call_1", "name": "add", "arguments": "{\"a\":1}"},
        {"id": "ct_1", "type": "custom_tool_call", "call_id": "call_2", "name": "run", "input": "ls"},
        {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [
            {"type": "output_text", "text": "one", "annotations": []}, {"type": "refusal", "refusal": "no"}]},
    ]);
    let whole = json!({"id": "resp_1", "object": "response", "status": "completed", "model": "gpt-6-luna", "error": null,
        "incomplete_details": null, "output": output, "usage": usage_json()});
    let body = whole.to_string();
    let read = whole::read(Bytes::from(body.clone()));
    assert_eq!(read.body, Ok(Bytes::from(body.clone())));
    assert_eq!(
        (read.measured.usage, read.measured.text.as_str()),
        (Some(usage_told()), "hmadd{\"a\":1}runlsoneno")
    );

    let (outcome, out, measured) = metered(&body);
    assert_eq!((outcome, &measured), (Ok(()), &read.measured));
    assert_eq!(out.matches("event: response.output_item.done").count(), 4);
    assert!(
        out.starts_with("event: response.created\n")
            && out.contains("response.reasoning_summary_text.delta"),
        "{out}"
    );
    let again = whole::read(Bytes::from(out));
    assert_eq!(
        serde_json::from_slice::<Value>(&again.body.unwrap()).unwrap(),
        whole
    );
    assert_eq!(
        (again.measured.usage, again.measured.text),
        (read.measured.usage, read.measured.text)
    );

    // Without the last event it is made of its items.
    let merged = whole::read(Bytes::from(stream(&text("one two"))));
    let merged: Value = serde_json::from_slice(&merged.body.unwrap()).unwrap();
    assert_eq!(
        (
            &merged["status"],
            &merged["output"][0]["content"][0]["text"]
        ),
        (&json!("completed"), &json!("one two"))
    );
    for (status, error, is_delivered) in [
        ("failed", json!({"message": "org-1"}), true),
        ("incomplete", json!(null), true),
    ] {
        let mut odd = whole.clone();
        (odd["status"], odd["error"]) = (json!(status), error);
        let read = whole::read(Bytes::from(odd.to_string()));
        assert_eq!(
            (read.body.is_ok(), read.measured.usage),
            (is_delivered, Some(usage_told())),
            "{status}"
        );
        assert!(
            !String::from_utf8(read.body.unwrap().to_vec())
                .unwrap()
                .contains("org-1")
        );
    }
    let empty = json!({"status": "failed", "error": {"code": "server_error", "message": "x"}, "output": [], "usage": null});
    assert_eq!(
        whole::read(Bytes::from(empty.to_string())).body,
        Err(Fault::Upstream)
    );
    assert_eq!(
        whole::read(Bytes::from_static(b"{\"choices\":[]}")).body,
        Err(Fault::Nonsense)
    );
    assert_eq!(
        whole::read(Bytes::from_static(b"<html>")).body,
        Err(Fault::Nonsense)
    );
}

/// What a caller was shown, by a reader of its own: of each part the most that was said of it at once.
fn shown(out: &str) -> usize {
    let mut deltas: HashMap<String, usize> = HashMap::new();
    let mut wholes: HashMap<String, usize> = HashMap::new();
    let mut items: HashMap<String, usize> = HashMap::new();
    for event in out
        .split("\n\n")
        .filter_map(|event| event.split_once("data: "))
    {
        let event: Value = serde_json::from_str(event.1).unwrap();
        let (kind, at) = (
            event["type"].as_str().unwrap(),
            event["output_index"].to_string(),
        );
        let length = |value: &Value| value.as_str().map_or(0, str::len);
        if kind.ends_with("text.delta") {
            *deltas.entry(at).or_default() += length(&event["delta"]);
        } else if kind.ends_with("text.done") {
            *wholes.entry(at).or_default() = length(&event["text"]);
        } else if kind.ends_with("item.done") {
            *items.entry(at).or_default() = length(&event["item"]["content"][0]["text"]);
        } else if kind == "response.completed" {
            for (index, item) in event["response"]["output"]
                .as_array()
                .unwrap()
                .iter()
                .enumerate()
            {
                *items.entry(index.to_string()).or_default() = length(&item["content"][0]["text"]);
            }
        }
    }
    let all: std::collections::HashSet<_> = [&deltas, &wholes, &items]
        .into_iter()
        .flat_map(HashMap::keys)
        .collect();
    let most = |at: &String| {
        [&deltas, &wholes, &items]
            .into_iter()
            .filter_map(|by| by.get(at))
            .max()
    };
    all.into_iter().filter_map(most).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn whatever_was_shown_before_a_cut_is_counted(
        texts in prop::collection::vec("[a-zé ]{0,12}", 1..4),
        left_out in prop::collection::vec(any::<bool>(), 60),
        at in any::<prop::sample::Index>(),
        interleaved in any::<bool>(),
    ) {
        let (mut events, mut output) = (Vec::new(), Vec::new());
        for (index, words) in texts.iter().enumerate() {
            let item = json!({"type": "message", "content": [{"type": "output_text", "text": words}]});
            let of = |kind: &str, name: &str, value: Value| json!({"type": kind, "output_index": index, "content_index": 0, name: value});
            let mut of_item = vec![of("response.output_item.added", "item", json!({"type": "message", "content": []}))];
            let letters: Vec<char> = words.chars().collect();
            of_item.extend(letters.chunks(3).map(|piece| of("response.output_text.delta", "delta", json!(piece.iter().collect::<String>()))));
            of_item.push(of("response.output_text.done", "text", json!(words)));
            of_item.push(of("response.output_item.done", "item", item.clone()));
            output.push(item);
            events.push(of_item);
        }
        let mut all = Vec::new();
        if interleaved {
            let longest = events.iter().map(Vec::len).max().unwrap();
            for place in 0..longest {
                all.extend(events.iter().filter_map(|of_item| of_item.get(place)).cloned());
            }
        } else {
            all = events.concat();
        }
        all.push(json!({"type": "response.completed", "response": {"status": "completed", "output": output, "usage": null}}));
        let mut left_out = left_out.into_iter();
        all.retain(|_| left_out.next().unwrap_or(true));
        let whole = stream(&all);
        let mut end = at.index(whole.len() + 1);
        while !whole.is_char_boundary(end) { end -= 1; }
        let mut meter = Meter::responses();
        let mut out = BytesMut::new();
        meter.push(&whole.as_bytes()[..end], &mut out).unwrap();
        let out = String::from_utf8(out.to_vec()).unwrap();
        prop_assert!(whole.starts_with(&out));
        let shown = shown(&out);
        let measured = meter.into_measured();
        prop_assert!(measured.text.len() >= shown, "{} of {shown}: {out}", measured.text.len());
    }

    #[test]
    fn any_bytes_in_any_parts_are_the_same_stream(
        picks in prop::collection::vec((0_usize..8, any::<u8>()), 0..30), size in 1_usize..40,
    ) {
        let parts = [
            "data: {\"type\":\"response.output_text.delta\",\"delta\":\"x\"}\n\n", "event: response.created\n", "\n", "data: {",
            "data: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":3,\"output_tokens\":1}}}\n\n", "}", "\r", "data: \"\n",
        ];
        let mut bytes = Vec::new();
        for (pick, byte) in picks {
            bytes.extend_from_slice(parts[pick].as_bytes());
            if byte % 5 == 0 { bytes.push(byte); }
        }
        let read = |size: usize| {
            let (mut meter, mut out) = (Meter::responses(), BytesMut::new());
            let read = bytes.chunks(size).try_for_each(|part| meter.push(part, &mut out));
            (read, out.to_vec(), meter.into_measured())
        };
        prop_assert_eq!(read(size), read(bytes.len().max(1)));
    }
}
