use bytes::Bytes;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::meter::Meter;
use crate::price::Usage;

/// A stream as Anthropic writes it: thoughts, a text and a call.
const STREAM: &str = concat!(
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-test-20260101\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":10,\"cache_creation_input_tokens\":30,\"cache_read_input_tokens\":100,\"cache_creation\":{\"ephemeral_5m_input_tokens\":20,\"ephemeral_1h_input_tokens\":10},\"output_tokens\":1,\"service_tier\":\"standard\"}}}\n\n",
    "event: ping\ndata: {\"type\": \"ping\"}\n\n",
    "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hi \\u00e9\"}}\n\n",
    "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n",
    "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":1,\"content_block\":{\"type\":\"tool_use\",\"id\":\"toolu_1\",\"name\":\"look\",\"input\":{}}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\\\"a\\\":\"}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"1}\"}}\n\n",
    "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":1}\n\n",
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":42,\"output_tokens_details\":{\"thinking_tokens\":7}}}\n\n",
    "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
);

fn usage() -> Usage {
    Usage {
        input_tokens: 140,
        cached_input_tokens: 100,
        cache_write_tokens: 20,
        cache_write_1h_tokens: 10,
        output_tokens: 42,
        reasoning_tokens: 7,
        ..Usage::default()
    }
}

/// What the caller gets of a stream that is written in pieces of so many bytes, how it ended, and what was measured.
fn play(stream: &str, piece: usize) -> (String, Result<(), Fault>, Measured) {
    let mut meter = Meter::messages(false, Uuid::nil());
    let mut out = BytesMut::new();
    let mut read = Ok(());
    for piece in stream.as_bytes().chunks(piece) {
        read = read.and_then(|()| meter.push(piece, &mut out));
    }
    let read = read.and_then(|()| meter.finish(&mut out));
    if let Err(fault) = read {
        meter.fail(fault, &mut out);
    }
    let text = String::from_utf8(out.to_vec()).unwrap();
    (text, read, meter.into_measured())
}

fn events(list: &[Value]) -> String {
    let event = |event: &Value| format!("data: {event}\n\n");
    list.iter().map(event).collect()
}

#[test]
fn a_stream_passes_byte_for_byte_with_the_names_of_its_events() {
    for piece in [1, 7, 64, STREAM.len()] {
        let (text, read, measured) = play(STREAM, piece);
        assert_eq!((text.as_str(), read), (STREAM, Ok(())));
        assert_eq!(measured.usage, Some(usage()));
        assert_eq!(measured.text, "Hi élook{\"a\":1}");
        assert_eq!(measured.model.as_deref(), Some("claude-test-20260101"));
        assert_eq!(measured.content_events, 4);
        assert!(measured.done && measured.finished && measured.is_completion);
        assert!(
            !measured.usage_nonsense
                && !measured.hidden_reasoning
                && measured.service_tier.is_none()
        );
    }
    // Anthropic's clients need names where a gateway leaves them out.
    let bare: String = STREAM
        .lines()
        .filter(|line| !line.starts_with("event:"))
        .flat_map(|line| [line, "\n"])
        .collect();
    assert_eq!(play(&bare, 9).0, STREAM);
    // What comes after the end is nobody's.
    let more = format!("{STREAM}event: x\ndata: {{}}\n\n");
    assert_eq!(play(&more, 50).0, STREAM);
}

#[test]
fn a_cut_stream_keeps_what_was_reported_of_its_prompt() {
    let ends: Vec<usize> = STREAM.match_indices("\n\n").map(|(at, _)| at + 2).collect();
    let last = ends.len() - 1;
    for (at, end) in ends.into_iter().enumerate() {
        let (text, read, measured) = play(STREAM.get(..end).unwrap(), 100);
        match at {
            at if at == last => assert_eq!(read, Ok(())),
            // The end is told, if not by its last event.
            at if at + 1 == last => {
                assert_eq!((text.as_str(), read), (STREAM, Ok(())));
                assert_eq!(measured.usage, Some(usage()));
            }
            _ => {
                let error = r#"event: error
data: {"type":"error","error":{"type":"api_error","message":"The model's provider failed in mid-answer."},"request_id":"00000000-0000-0000-0000-000000000000"}

"#;
                assert_eq!(text, format!("{}{error}", STREAM.get(..end).unwrap()));
                assert_eq!((read, measured.usage), (Err(Fault::Cut), None));
                let partial = measured.partial_usage.unwrap();
                assert_eq!(partial.reported().input_tokens, 140);
                assert!(!partial.knows_output());
            }
        }
    }
}

#[test]
fn an_error_in_any_shape_is_not_passed_on() {
    let start = STREAM.split_inclusive("\n\n").next().unwrap();
    for error in [
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"sk-1\"}}\n\n",
        "data: {\"type\":\"error\",\"error\":{}}\n\n",
        "data: {\"error\":{\"message\":\"sk-1\"}}\n\n",
        "event: error\ndata: sk-1\n\n",
        "event: error\ndata:\n\n",
    ] {
        let (text, read, measured) = play(&format!("{start}{error}"), 1_000);
        assert_eq!(read, Err(Fault::Upstream), "{error}");
        assert!(measured.is_error && !text.contains("sk-1"), "{text}");
    }
}

#[test]
fn the_last_report_counts_and_none_makes_an_answer_cheaper() {
    let report = |start: Value, end: Value| {
        let list = [
            json!({"type": "message_start", "message": {"usage": start}}),
            json!({"type": "content_block_delta", "delta": {"text": "hi"}}),
            json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": end}),
            json!({"type": "message_stop"}),
        ];
        play(&events(&list), 1_000).2
    };
    let spent = |input, output| {
        Some(Usage {
            input_tokens: input,
            output_tokens: output,
            ..Usage::default()
        })
    };
    let ten = json!({"input_tokens": 10, "output_tokens": 1});
    for (start, end, usage, nonsense) in [
        (
            ten.clone(),
            json!({"output_tokens": 5}),
            spent(10, 5),
            false,
        ),
        // A longer prompt, after tools.
        (
            ten.clone(),
            json!({"input_tokens": 90, "output_tokens": 5}),
            spent(90, 5),
            false,
        ),
        (
            ten.clone(),
            json!({"input_tokens": 3, "output_tokens": 5}),
            spent(10, 5),
            true,
        ),
        (
            Value::Null,
            json!({"input_tokens": 10, "output_tokens": 5}),
            spent(10, 5),
            false,
        ),
        (ten.clone(), json!({"output_tokens": 0}), spent(10, 1), true),
        (ten.clone(), json!({"output_tokens": -4}), None, true),
        (ten.clone(), json!({"output_tokens": 1.5}), None, true),
        (ten.clone(), Value::Null, None, false),
        (ten, json!([]), None, true),
        (
            json!({"input_tokens": 0}),
            json!({"output_tokens": 5}),
            None,
            true,
        ),
        (
            json!({"input_tokens": 1_u64 << 40}),
            json!({"output_tokens": 5}),
            None,
            true,
        ),
    ] {
        let shown = format!("{start} {end}");
        let measured = report(start, end);
        assert_eq!(
            (measured.usage, measured.usage_nonsense),
            (usage, nonsense),
            "{shown}"
        );
    }
    // What is not told apart was written for what the request asks.
    let body = json!({"type": "message", "content": [], "stop_reason": "end_turn",
                      "usage": {"input_tokens": 1, "cache_creation_input_tokens": 50, "output_tokens": 0}});
    let bytes = || Bytes::from(body.to_string());
    let (short, long) = (
        read(bytes()).measured.usage.unwrap(),
        read_of_an_hour(bytes()).measured.usage.unwrap(),
    );
    assert_eq!(
        (short.cache_write_tokens, short.cache_write_1h_tokens),
        (50, 0)
    );
    assert_eq!(
        (long.cache_write_tokens, long.cache_write_1h_tokens),
        (0, 50)
    );
}

#[test]
fn thoughts_caps_and_refusals_hide_what_was_generated() {
    let of = |block: Value, reason: &str| {
        let list = [
            json!({"type": "content_block_start", "content_block": block}),
            json!({"type": "message_delta", "delta": {"stop_reason": reason}}),
        ];
        let measured = play(&events(&list), 1_000).2;
        (
            measured.hidden_reasoning,
            measured.cap_reached,
            measured.filtered,
        )
    };
    let text = json!({"type": "text", "text": ""});
    assert_eq!(of(text.clone(), "end_turn"), (false, false, false));
    assert_eq!(of(text.clone(), "max_tokens"), (false, true, false));
    assert_eq!(of(text, "refusal"), (false, false, true));
    let thoughts = json!({"type": "thinking", "thinking": "", "signature": ""});
    assert_eq!(of(thoughts, "end_turn"), (true, false, false));
    let sealed = json!({"type": "redacted_thinking", "data": "x"});
    assert_eq!(of(sealed, "end_turn"), (true, false, false));
}

#[test]
fn an_answer_in_the_other_form_is_delivered_as_it_was_asked_for() {
    let whole = read(Bytes::from_static(STREAM.as_bytes()));
    assert_eq!(whole.measured.usage, Some(usage()));
    let body = whole.body.unwrap();
    let message: Value = serde_json::from_slice(&body).unwrap();
    let content = json!([
        {"type": "text", "text": "Hi é"},
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"a": 1}},
    ]);
    assert_eq!(
        (&message["content"], &message["stop_reason"]),
        (&content, &json!("tool_use"))
    );
    assert_eq!(message["usage"]["output_tokens"], 42);
    assert_eq!(message["usage"]["cache_read_input_tokens"], 100);
    // And back.
    let (text, read_as, measured) = play(std::str::from_utf8(&body).unwrap(), 77);
    assert_eq!((read_as, measured.usage), (Ok(()), Some(usage())));
    let again = read(Bytes::from(text.clone())).body.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&again).unwrap(), message);
    assert!(
        text.starts_with("event: message_start\n")
            && text.ends_with("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n")
    );
    for nonsense in ["", "{}", "<html>", "{\"type\":\"message\"}", "data: x\n\n"] {
        assert!(
            read(Bytes::from_static(nonsense.as_bytes())).body.is_err(),
            "{nonsense}"
        );
    }
    let error = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
    assert!(read(Bytes::from_static(error.as_bytes())).measured.is_error);
    assert_eq!(play(error, 10).1, Err(Fault::Upstream));
}

#[test]
fn memory_is_bounded_whatever_comes() {
    let mut meter = Meter::messages(false, Uuid::nil());
    let mut out = BytesMut::new();
    let piece =
        events(&[json!({"type": "content_block_delta", "delta": {"text": "x".repeat(100_000)}})]);
    for _ in 0..40 {
        meter.push(piece.as_bytes(), &mut out).unwrap();
        out.clear();
    }
    assert!(
        meter.bytes_held() < 4 * 1024 * 1024,
        "{}",
        meter.bytes_held()
    );
    assert!(meter.into_measured().text_overflow);
    let noise = "data: {not json\n\n".repeat(200_000);
    assert_eq!(play(&noise, 65_536).1, Err(Fault::Noise));
    let long = format!("data: {{not json {}\n\n", "x".repeat(900_000)).repeat(2);
    assert_eq!(play(&long, 65_536).1, Err(Fault::Nonsense));
}
