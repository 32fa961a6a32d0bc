use serde_json::{Value, json};

use super::*;

fn read_text(body: &str) -> Whole {
    read(Bytes::from(body.to_owned()))
}

fn events(chunks: &[Value]) -> String {
    chunks.iter().fold(String::new(), |stream, chunk| {
        stream + "data: " + &chunk.to_string() + "\n\n"
    })
}

#[test]
fn events_are_put_together_to_what_they_say() {
    let chunk = |delta: Value, finish: Value| {
        json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "obfuscation": "x",
               "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], "usage": null})
    };
    let call = |arguments: &str| json!({"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]});
    let stream = events(&[
        chunk(
            json!({"role": "assistant", "content": "", "refusal": null}),
            Value::Null,
        ),
        chunk(
            json!({"content": "Grüße ", "reasoning_content": "wh"}),
            Value::Null,
        ),
        chunk(
            json!({"content": "Welt", "reasoning_content": "y"}),
            json!(""),
        ),
        chunk(
            json!({"tool_calls": [{"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": ""}}]}),
            Value::Null,
        ),
        chunk(call("{\"a\""), Value::Null),
        chunk(call(":1}"), Value::Null),
        chunk(json!({}), json!("tool_calls")),
        json!({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}),
    ]);
    for end in ["data: [DONE]\n\n", "", ": bye\n\n"] {
        let Whole { measured, body } = read_text(&format!("{stream}{end}"));
        let body: Value = serde_json::from_slice(&body.unwrap()).unwrap();
        let wanted = json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Grüße Welt", "refusal": null,
                "reasoning_content": "why", "tool_calls": [{"id": "t", "type": "function",
                "function": {"name": "f", "arguments": "{\"a\":1}"}}]}, "logprobs": null, "finish_reason": "tool_calls"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 4}});
        assert_eq!(body, wanted);
        assert_eq!(measured.usage.unwrap().output_tokens, 4);
        assert!(measured.is_completion);
        // It is read again as what it was.
        assert_eq!(
            super::super::measure_json(body.to_string().as_bytes()).usage,
            measured.usage
        );
    }
}

#[test]
fn several_choices_are_kept_apart() {
    let chunk = |index: u32, text: &str, finish: Value| json!({"choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]});
    let stream = events(&[
        chunk(1, "b", Value::Null),
        chunk(0, "a", Value::Null),
        chunk(1, "d", json!("length")),
        chunk(0, "c", json!("stop")),
    ]);
    let body: Value = serde_json::from_slice(&read_text(&stream).body.unwrap()).unwrap();
    let said: Vec<_> = body["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| (&choice["message"]["content"], &choice["finish_reason"]))
        .collect();
    assert_eq!(
        said,
        [
            (&json!("ac"), &json!("stop")),
            (&json!("bd"), &json!("length"))
        ]
    );
}

#[test]
fn what_fails_is_told_and_measured() {
    let text = events(&[json!({"choices": [{"index": 0, "delta": {"content": "a"}}]})]);
    let Whole { measured, body } = read_text(&text);
    assert_eq!((body, measured.text.as_str()), (Err(Fault::Cut), "a"));
    let Whole { measured, body } = read_text(&format!(
        "{text}data: {{\"error\":{{\"message\":\"sk-1\"}}}}\n\n"
    ));
    assert_eq!(
        (body, measured.is_error, measured.text.as_str()),
        (Err(Fault::Upstream), true, "a")
    );
    for error in [
        r#"{"error":{"message":"m"},"choices":[]}"#,
        r#"{"object":"error","message":"m"}"#,
    ] {
        let Whole { measured, body } = read_text(error);
        assert_eq!(
            (body, measured.is_error),
            (Err(Fault::Upstream), true),
            "{error}"
        );
    }
    for nonsense in [
        "",
        "[]",
        "{}",
        "7",
        "not json",
        "<html>welcome</html>",
        "{\"choices\":",
        r#"{"choices":{}}"#,
    ] {
        let Whole { measured, body } = read_text(nonsense);
        assert!(
            body.is_err() && !measured.is_completion && measured.usage.is_none(),
            "{nonsense}"
        );
    }
    assert!(
        read_text("{\"choices\":[{\"message\":{\"content\":\"generated")
            .measured
            .text
            .contains("generated")
    );
}

#[test]
fn a_completion_passes_as_it_is_unless_nobody_could_read_it() {
    let good = r#"{"choices" : [{"index":0,"message":{"content":"a \ud83d"},"x":1.0}]}"#;
    assert_eq!(read_text(good).body.unwrap(), good);
    let bad = r#"{"choices":[{"index":0,"message":{"content":"a"},"logprobs":-Infinity}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;
    let Whole { measured, body } = read_text(bad);
    assert_eq!(body.unwrap(), bad.replace("-Infinity", "null"));
    assert_eq!(measured.usage.unwrap().output_tokens, 2);
}
