use proptest::prelude::*;

use super::*;

const WHOLE: &str = concat!(
    "\u{feff}",
    r#"data: {"model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#,
    "\r\n\r\n",
    ": hi\n\nevent: message\rid: 7\r",
    r#"data:{"service_tier":"default","choices":[{"index":0,"delta":{"content":"Grüße "}}],"usage":null}"#,
    "\r\r",
    "data: {\"choices\":\r\ndata: [{\"index\":0,\"delta\":{\"content\":\"Welt\"},\"finish_reason\":\"stop\"}]}\n\n",
    r#"data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13}}"#,
    "\n\n",
    "data:[DONE]\n\n",
    "data: after the end\n\n",
);

const PASSED: &str = concat!(
    r#"data: {"model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#,
    "\n\n",
    r#"data: {"service_tier":"default","choices":[{"index":0,"delta":{"content":"Grüße "}}],"usage":null}"#,
    "\n\n",
    "data: {\"choices\":\ndata: [{\"index\":0,\"delta\":{\"content\":\"Welt\"},\"finish_reason\":\"stop\"}]}\n\n",
    "data: [DONE]\n\n",
);

fn meter_all<'a>(
    parts: impl IntoIterator<Item = &'a [u8]>,
) -> (Result<(), Fault>, String, Measured) {
    let mut meter = Meter::chat(false);
    let mut out = BytesMut::new();
    let outcome = parts
        .into_iter()
        .try_for_each(|part| meter.push(part, &mut out));
    (
        outcome,
        String::from_utf8(out.to_vec()).unwrap(),
        meter.into_measured(),
    )
}

fn one(payload: &str) -> (Result<(), Fault>, String, Measured) {
    meter_all([format!("data: {payload}\n\n").as_bytes()])
}

fn event(text: &str) -> String {
    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n")
}

#[test]
fn payloads_pass_as_they_are_in_our_framing() {
    let (outcome, out, measured) = meter_all([WHOLE.as_bytes()]);
    assert_eq!(outcome, Ok(()));
    assert_eq!(out, PASSED);
    let usage = Usage {
        input_tokens: 9,
        output_tokens: 4,
        ..Usage::default()
    };
    let wanted = Measured {
        usage: Some(usage),
        text: "Grüße Welt".to_owned(),
        model: Some("gpt-4o-mini-2024-07-18".to_owned()),
        service_tier: Some("default".to_owned()),
        finished: true,
        done: true,
        is_completion: true,
        content_events: 2,
        ..Measured::default()
    };
    assert_eq!(measured, wanted);
}

#[test]
fn a_stream_split_at_any_byte_is_the_same_stream() {
    let whole = meter_all([WHOLE.as_bytes()]);
    for at in 0..=WHOLE.len() {
        let (start, end) = WHOLE.as_bytes().split_at(at);
        assert_eq!(meter_all([start, end]), whole, "split at {at}");
    }
    assert_eq!(meter_all(WHOLE.as_bytes().chunks(1)), whole);
}

proptest! {
    #[test]
    fn any_bytes_in_any_parts_are_the_same_stream(
        bytes in proptest::collection::vec(prop_oneof![
            Just(b'\n'), Just(b'\r'), Just(b':'), Just(b'd'), Just(b' '), any::<u8>()
        ], 0..300),
        size in 1_usize..40,
    ) {
        prop_assert_eq!(meter_all([bytes.as_slice()]), meter_all(bytes.chunks(size)));
    }

    #[test]
    fn text_passes_byte_for_byte_in_any_parts(text in "[^\"\\\\\u{0}-\u{1f}]{0,60}", size in 1_usize..40) {
        let stream = event(&text);
        let (outcome, out, measured) = meter_all(stream.as_bytes().chunks(size));
        prop_assert_eq!(outcome, Ok(()));
        prop_assert_eq!(out, stream);
        prop_assert_eq!(measured.text, text);
    }
}

#[test]
fn the_usage_chunk_passes_only_to_a_caller_who_asked() {
    let stream =
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}\n\n";
    for (wants_usage, wanted) in [(true, stream), (false, "")] {
        let mut out = BytesMut::new();
        Meter::chat(wants_usage)
            .push(stream.as_bytes(), &mut out)
            .unwrap();
        assert_eq!(out, wanted);
    }
    // What has no choices and no usage is something else, and passes.
    assert_ne!(one(r#"{"choices":[],"prompt_filter_results":[]}"#).1, "");
}

#[test]
fn an_event_of_a_mebibyte_is_cut_and_one_below_passes() {
    let (outcome, out, _) = meter_all([event(&"a".repeat(sse::EVENT_BYTES_MAX - 100)).as_bytes()]);
    assert_eq!(
        (outcome, out.len() > sse::EVENT_BYTES_MAX - 100),
        (Ok(()), true)
    );
    let line = [b"data: ".as_slice(), &vec![b'a'; sse::EVENT_BYTES_MAX]].concat();
    assert_eq!(
        meter_all(line.chunks(1000)).0,
        Err(Fault::EventTooLarge),
        "an unbroken line"
    );
    let lines = b"data: a\n".repeat(sse::EVENT_BYTES_MAX / 2);
    assert_eq!(
        meter_all(lines.chunks(1000)).0,
        Err(Fault::EventTooLarge),
        "many lines"
    );
}

#[test]
fn noise_without_end_is_cut_with_memory_flat() {
    let flood = sse::NOISE_BYTES_MAX + 1;
    let floods = [
        vec![b'\n'; flood],
        vec![b':'; flood],
        vec![b'x'; flood],
        b": comment\n\n".repeat(flood / 10),
        b"data:\n\n".repeat(flood / 2),
        b"data\n".repeat(flood / 4),
        b"event: x\r\n".repeat(flood / 8),
    ];
    for bytes in floods {
        let mut splitter = Splitter::new(sse::EVENT_BYTES_MAX);
        let outcome = bytes
            .chunks(100)
            .try_for_each(|part| splitter.push(part, |_| Ok(true)));
        assert_eq!(outcome, Err(Fault::Noise));
        assert!(splitter.held() < 1000, "{} bytes held", splitter.held());
    }
    let slow = format!("{}{}", ": c\n\n".repeat(9000), event("a")).repeat(9);
    assert_eq!(
        meter_all([slow.as_bytes()]).0,
        Ok(()),
        "an event starts anew"
    );
}

#[test]
fn what_cannot_be_read_is_left_out_and_ends_nothing() {
    let half = b"data: {\"choices\":[{\"delta\":{\"content\":\"half \xe2\x82\"}}]}\n\n";
    let unread: [&[u8]; 15] = [
        b"data: nonsense\n\n",
        b"data: <html>\n\n",
        b"data: [null,null,null,null,null]\n\n",
        b"data: {\"choices\":\n\n",
        b"data: {\"choices\":\"abc\"}\n\n",
        b"data: {\"choices\":[7]}\n\n",
        b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]} x\n\n",
        b"data: \xff\n\n",
        b"data: {\"choices\":[{\"delta\":{},\"logprobs\":{\"x\":-Infinity}}]}\n\n",
        b"data: {\"choices\":[{\"delta\":{},\"x\":NaN}]}\n\n",
        half,
        b"data: : keepalive\n\n",
        b"data:  \n\n",
        b"data: \t \ndata:\n\n",
        b"event: ping\ndata: ping\n\n",
    ];
    let [before, after] = ["before", "after"].map(event);
    let end = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";
    for bytes in unread {
        let stream = [before.as_bytes(), bytes, after.as_bytes(), end.as_bytes()].concat();
        let (outcome, out, measured) = meter_all([stream.as_slice()]);
        let shown = String::from_utf8_lossy(bytes);
        assert_eq!(outcome, Ok(()), "{shown}");
        assert_eq!(out, format!("{before}{after}data: [DONE]\n\n"), "{shown}");
        assert_eq!(
            measured.usage.map(|usage| usage.output_tokens),
            Some(2),
            "{shown}"
        );
        assert!(
            measured.text.starts_with("before") && measured.text.ends_with("after"),
            "{shown}"
        );
        assert_eq!(meter_all(stream.chunks(1)).2, measured, "{shown}");
    }
    // Its text counts where nobody reports it: it was generated.
    assert_eq!(meter_all([half.as_slice()]).2.text, "half \u{fffd}");
    let cut = one(r#"{"choices":[{"delta":{"content":"generated"}"#);
    assert!(cut.2.text.contains("generated") && cut.1.is_empty());
}

#[test]
fn events_that_cannot_be_read_have_an_end() {
    let long = format!("data: {{{}\n\n", "x".repeat(1000)).repeat(1000);
    assert_eq!(meter_all([long.as_bytes()]).0, Ok(()));
    assert_eq!(
        meter_all([long.repeat(2).as_bytes()]).0,
        Err(Fault::Nonsense)
    );
    let slow = format!("{long}{}", event("a")).repeat(5);
    assert_eq!(
        meter_all([slow.as_bytes()]).0,
        Ok(()),
        "an event starts anew"
    );
    assert_eq!(
        meter_all(["data: : keepalive\n\n".repeat(10_000).as_bytes()]).0,
        Err(Fault::Noise)
    );
}

#[test]
fn members_that_stand_twice_are_all_counted() {
    let usage =
        |prompt: u32| format!(r#""usage":{{"prompt_tokens":{prompt},"completion_tokens":5}}"#);
    let choice = r#"{"index":0,"delta":{"content":"a"},"delta":{"content":"b"},"finish_reason":null,"finish_reason":"stop"}"#;
    let payload = format!(
        r#"{{"model":"m","model":"n","choices":[{choice}],"choices":[{choice}],{},{}}}"#,
        usage(9),
        usage(7)
    );
    let (outcome, out, measured) = one(&payload);
    assert_eq!((outcome, out), (Ok(()), format!("data: {payload}\n\n")));
    assert_eq!((measured.text.as_str(), measured.finished), ("abab", true));
    assert_eq!(
        (
            measured.usage.unwrap().input_tokens,
            measured.usage_nonsense
        ),
        (9, true),
        "the dearest"
    );
}

#[test]
fn an_error_is_one_in_every_shape() {
    let shapes = [
        r#"{"error":{"message":"key sk-1 is over"}}"#,
        r#"{"choices":[],"error":"org-1"}"#,
        r#"{"error":true}"#,
        r#"{"error":{"message":null,"code":500}}"#,
        r#"{"object":"error","message":"m","code":40303}"#,
        r#"{"type":"error","message":"m"}"#,
        r#"{"type":"error","error":{"type":"overloaded_error","message":"m"}}"#,
        r#"{"message":"m","code":"internal"}"#,
        r#"{"code":500,"message":"m","choices":[],"usage":null}"#,
        r#"{"message":"m","status":500}"#,
        r#"{"detail":"Internal Server Error"}"#,
        r#"{"detail":[{"msg":"m"}]}"#,
        r#"[{"error":{"code":503,"message":"m","status":"UNAVAILABLE"}}]"#,
        r#"{"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error","error":{"code":502}}]}"#,
        r#"{"choices":[{"index":0,"delta":{},"finish_reason":"error"}]}"#,
        r#"{"choices":[{"index":0,"delta":{}}],"x_groq":{"id":"r","error":"over_capacity"}}"#,
    ];
    for payload in shapes {
        let (outcome, out, measured) = one(payload);
        assert_eq!(
            (outcome, out.as_str()),
            (Err(Fault::Upstream), ""),
            "{payload}"
        );
        assert!(measured.is_error && measured.text.is_empty(), "{payload}");
        let later = format!("{}data: {payload}\n\n", event("a"));
        let (outcome, out, measured) = meter_all([later.as_bytes()]);
        assert_eq!(
            (outcome, out),
            (Err(Fault::Upstream), event("a")),
            "{payload}"
        );
        assert!(measured.is_error && measured.text == "a", "{payload}");
        let whole = measure_json(payload.replace("delta", "message").as_bytes());
        assert!(whole.is_error && !whole.is_completion, "{payload}");
    }
    for named in [
        "event: error\ndata: {\"message\":\"m\"}\n\n",
        "event:error\ndata: x\n\n",
        "data: x\nevent: error\n\n",
        "event: error\ndata:\n\n",
    ] {
        assert_eq!(
            meter_all([named.as_bytes()]).0,
            Err(Fault::Upstream),
            "{named}"
        );
        assert_eq!(
            meter_all(named.as_bytes().chunks(1)).0,
            Err(Fault::Upstream),
            "{named}"
        );
    }
}

#[test]
fn what_says_nothing_is_no_error() {
    for error in [
        "null",
        "false",
        "\"\"",
        "{}",
        "[]",
        "0",
        "{\"message\":\"\",\"code\":null}",
    ] {
        let payload = format!(
            r#"{{"choices":[{{"index":0,"delta":{{"content":"a"}},"error":{error}}}],"error":{error}}}"#
        );
        let (outcome, out, measured) = one(&payload);
        assert_eq!((outcome, out), (Ok(()), format!("data: {payload}\n\n")));
        assert!(!measured.is_error);
    }
    for payload in [
        r#"{"choices":[{"index":0,"delta":{"content":"a"}}],"message":"m","code":0}"#,
        r#"{"message":"m","code":0,"usage":{"prompt_tokens":1,"completion_tokens":1}}"#,
        r#"{"choices":[],"prompt_filter_results":[]}"#,
        r#"{"type":"ping"}"#,
        r#"{"message":null,"code":null}"#,
    ] {
        assert_eq!(one(payload).0, Ok(()), "{payload}");
    }
    let named = format!(
        "event: error\n\nevent: message\n{}event: errors\n{}",
        event("a"),
        event("b")
    );
    assert_eq!(
        meter_all([named.as_bytes()]).0,
        Ok(()),
        "the name of another event"
    );
}

#[test]
fn a_stream_ends_at_done_or_when_every_choice_is_finished() {
    let text = event("a");
    let ends = |reason: &str| {
        format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{}},\"finish_reason\":{reason}}}]}}\n\n"
        )
    };
    let stop = ends("\"stop\"");
    let other = "data: {\"choices\":[{\"index\":1,\"delta\":{\"content\":\"b\"}}]}\n\n";
    let usage =
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}\n\n";
    let mut cases = vec![
        (String::new(), Err(Fault::Cut)),
        (text.clone(), Err(Fault::Cut)),
        (format!("{text}{usage}"), Err(Fault::Cut)),
        (format!("{text}{other}{stop}{usage}"), Err(Fault::Cut)),
        (format!("{text}{stop}{text}{usage}"), Err(Fault::Cut)),
        (
            format!("{text}data: {{\"error\":{{\"code\":1}}}}"),
            Err(Fault::Upstream),
        ),
        (
            format!("{text}{stop}data: {{\"error\":{{\"code\":1}}}}"),
            Err(Fault::Upstream),
        ),
        (format!("{text}{stop}"), Ok(())),
        (format!("{text}{stop}{usage}data: {{\"cho"), Ok(())),
        (format!("{text}{stop}{usage}"), Ok(())),
        (format!("{text}{stop}{}", usage.trim_end()), Ok(())),
    ];
    for no_end in [
        "\"\"", "\"null\"", "\" \"", "null", "false", "{}", "\"None\"",
    ] {
        cases.push((format!("{text}{}{usage}", ends(no_end)), Err(Fault::Cut)));
    }
    for done in [
        "[DONE]",
        "[DONE] ",
        " [DONE]",
        "\"[DONE]\"",
        "[done]",
        "data: [DONE]",
    ] {
        cases.push((format!("{text}{stop}data: {done}"), Ok(())));
    }
    for (stream, wanted) in cases {
        let mut meter = Meter::chat(false);
        let mut out = BytesMut::new();
        let read = meter.push(stream.as_bytes(), &mut out);
        assert!(!meter.is_done());
        assert_eq!(
            read.and_then(|()| meter.finish(&mut out)),
            wanted,
            "{stream}"
        );
        assert_eq!(
            (meter.is_done(), out.ends_with(b"data: [DONE]\n\n")),
            (wanted.is_ok(), wanted.is_ok())
        );
    }
}

#[test]
fn how_the_choices_ended_is_told() {
    let ends = |reason: &str| {
        let (.., measured) = one(&format!(
            r#"{{"choices":[{{"index":0,"delta":{{}},"finish_reason":"{reason}"}}]}}"#
        ));
        assert!(measured.finished, "{reason}");
        (measured.cap_reached, measured.filtered)
    };
    for reason in ["length", "max_tokens", "MAX_TOKENS", "model_length"] {
        assert_eq!(ends(reason), (true, false), "{reason}");
    }
    for reason in ["content_filter", "SAFETY", "sensitive"] {
        assert_eq!(ends(reason), (false, true), "{reason}");
    }
    for reason in ["stop", "tool_calls", "function_call", "eos", "STOP"] {
        assert_eq!(ends(reason), (false, false), "{reason}");
    }
}

#[test]
fn usage_after_done_is_waited_for() {
    let start = format!("{}data: [DONE]\n\n", event("a"));
    let usage =
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":9}}\n\n";
    for wants_usage in [false, true] {
        let mut meter = Meter::chat(wants_usage);
        let mut out = BytesMut::new();
        meter.push(start.as_bytes(), &mut out).unwrap();
        assert!(meter.is_waiting() && !meter.is_done());
        assert_eq!(out, event("a"), "held back");
        meter
            .push(format!(": c\n\n{}", event("too late")).as_bytes(), &mut out)
            .unwrap();
        meter.push(usage.as_bytes(), &mut out).unwrap();
        assert!(meter.is_done() && !meter.is_waiting());
        let usage = if wants_usage { usage } else { "" };
        assert_eq!(out, format!("{}{usage}data: [DONE]\n\n", event("a")));
        let measured = meter.into_measured();
        assert_eq!(
            (
                measured.usage.unwrap().output_tokens,
                measured.text.as_str()
            ),
            (9, "a")
        );
    }
    let mut meter = Meter::chat(false);
    let mut out = BytesMut::new();
    meter
        .push(format!("{start}data: xxxxx").as_bytes(), &mut out)
        .unwrap();
    meter
        .push(&vec![b'x'; sse::EVENT_BYTES_MAX], &mut out)
        .unwrap();
    assert!(meter.is_done(), "nothing breaks a stream after its end");
}

#[test]
fn all_that_was_generated_is_text() {
    let (outcome, _, measured) = one(
        r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":"a","refusal":"b","reasoning_content":"c",
        "poem":"d","new_kind":[{"type":"x","deep":{"text":"e"}}],"n":1,"tool_calls":[{"index":0,"id":"call_1",
        "type":"function","function":{"name":"f","arguments":"{\"g\":1}"}},{"function":{"arguments":{"id":2}}}]},"logprobs":{"content":["no"]}},
        {"index":1,"delta":{"content":"h"}}]}"#
            .replace('\n', "")
            .as_str(),
    );
    assert_eq!(
        (outcome, measured.text.as_str()),
        (Ok(()), r#"abcdef{"g":1}{"id":2}h"#)
    );
    let half = r#"{"choices":[{"delta":{"content":"half \ud800"}}]}"#;
    let (outcome, out, measured) = one(half);
    assert_eq!(
        (outcome, out),
        (Ok(()), format!("data: {half}\n\n")),
        "a lone surrogate passes"
    );
    assert!(measured.text.contains("half"), "and is counted");
}

#[test]
fn text_is_kept_up_to_a_bound() {
    let part = event(&"é".repeat(300_000));
    let (outcome, _, measured) = meter_all([part.as_bytes(), part.as_bytes()]);
    assert_eq!(outcome, Ok(()));
    assert!(measured.text_overflow);
    assert_eq!(measured.text.len(), TEXT_BYTES_MAX);
    let (_, _, measured) = one(&format!(
        r#"{{"model":"{}","choices":[]}}"#,
        "m".repeat(9999)
    ));
    assert_eq!(measured.model.unwrap().len(), 128);
}

#[test]
fn usage_never_breaks_a_stream_and_is_the_same_in_one_piece() {
    let reports = [
        "null",
        "[1,1]",
        "\"none\"",
        "{}",
        "7",
        "true",
        r#"{"prompt_tokens":1}"#,
        r#"{"completion_tokens":1}"#,
        r#"{"prompt_tokens":0,"completion_tokens":1}"#,
        r#"{"prompt_tokens":1,"completion_tokens":0}"#,
        r#"{"prompt_tokens":1,"completion_tokens":1}"#,
        r#"{"prompt_tokens":{"a":[]},"completion_tokens":[{}]}"#,
        r#"{"prompt_tokens":1,"completion_tokens":1,"prompt_tokens_details":7}"#,
    ];
    for usage in reports {
        let text =
            r#"{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}],"usage":"#;
        let (outcome, _, measured) = one(&format!("{text}{usage}}}"));
        assert_eq!(outcome, Ok(()), "{usage}");
        let whole =
            measure_json(format!("{}{usage}}}", text.replace("delta", "message")).as_bytes());
        let said = |measured: &Measured| {
            (
                measured.usage,
                measured.partial_usage,
                measured.usage_nonsense,
            )
        };
        assert_eq!(
            (said(&whole), whole.is_completion),
            (said(&measured), true),
            "{usage}"
        );
        assert!(
            measured.usage.is_none() || measured.partial_usage.is_none(),
            "{usage}"
        );
    }
}

#[test]
fn usage_in_odd_places_counts_where_it_is_the_only_one() {
    let odd = [
        r#"{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop","usage":{"prompt_tokens":9,"completion_tokens":4}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}],"x_groq":{"id":"r","usage":{"prompt_tokens":9,"completion_tokens":4}}}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":4}}"#,
    ];
    for payload in odd {
        let (.., measured) = one(payload);
        let usage = measured.usage.unwrap();
        assert_eq!(
            (
                usage.input_tokens,
                usage.output_tokens,
                measured.usage_nonsense
            ),
            (9, 4, false),
            "{payload}"
        );
        let both = format!(
            "data: {payload}\n\ndata: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":9,\"completion_tokens\":5}}}}\n\n"
        );
        let (.., measured) = meter_all([both.as_bytes()]);
        assert_eq!(
            (
                measured.usage.unwrap().output_tokens,
                measured.usage_nonsense
            ),
            (5, false),
            "{payload}"
        );
        let whole = measure_json(payload.replace("delta", "message").as_bytes());
        assert_eq!(whole.usage, Some(usage), "{payload}");
    }
}

#[test]
fn the_last_usage_at_an_end_counts() {
    let usage = |choices: &str, tokens: &str| {
        format!(
            "data: {{\"choices\":[{choices}],\"usage\":{{\"prompt_tokens\":3,\"completion_tokens\":{tokens}}}}}\n\n"
        )
    };
    let running = r#"{"index":0,"delta":{"content":"a"}}"#;
    let ended = r#"{"index":0,"delta":{},"finish_reason":"stop"}"#;
    let done = || "data: [DONE]\n\n".to_owned();
    let cases = [
        (vec![usage(running, "1")], None),
        (vec![usage(running, "1"), usage(ended, "2")], Some(2)),
        (vec![usage(ended, "2"), usage("", "7")], Some(7)),
        (vec![usage(ended, "2"), usage("", "-7")], Some(2)),
        (vec![usage("", "1"), event("more"), event("and more")], None),
        (
            vec![usage(running, "1"), usage(running, "2"), done()],
            Some(2),
        ),
        (vec![usage(running, "1"), event("more"), done()], None),
    ];
    for (events, wanted) in cases {
        let (_, _, measured) = meter_all([events.concat().as_bytes()]);
        assert_eq!(
            measured.usage.map(|usage| usage.output_tokens),
            wanted,
            "{events:?}"
        );
        // What was reported on the way is the least that it was.
        let partial = measured
            .partial_usage
            .map(|partial| partial.completed_by(&Usage::default()));
        let partial = partial.map(|usage| (usage.input_tokens, usage.output_tokens));
        assert_eq!(partial, wanted.is_none().then_some((3, 1)), "{events:?}");
    }
}

#[test]
fn the_same_text_counts_once() {
    let delta = |members: &str| {
        one(&format!(
            r#"{{"choices":[{{"index":0,"delta":{{{members}}}}}]}}"#
        ))
        .2
    };
    let cases = [
        (r#""reasoning":"why","reasoning_content":"why""#, "why"),
        (
            r#""reasoning_content":"why","content":null,"reasoning":"why""#,
            "why",
        ),
        (
            r#""reasoning":"why","reasoning_details":[{"type":"reasoning.text","text":"why","format":"x-v1","index":0}]"#,
            "why",
        ),
        (
            r#""reasoning_content":"why","thinking_blocks":[{"type":"thinking","thinking":"why"}]"#,
            "why",
        ),
        (
            r#""thinking":"wh","reasoning":"why","reasoning_text":"y""#,
            "why",
        ),
        (
            r#""content":"so","reasoning":"why","reasoning_content":"why""#,
            "sowhy",
        ),
        (
            r#""reasoning":"one","reasoning_content":"other""#,
            "oneother",
        ),
        (r#""content":"why","reasoning":"why""#, "whywhy"),
        (
            r#""tool_calls":[{"function":{"arguments":"{}"}},{"function":{"arguments":"{}"}}]"#,
            "{}{}",
        ),
    ];
    for (members, wanted) in cases {
        assert_eq!(delta(members).text, wanted, "{members}");
    }
    let legacy = one(
        r#"{"choices":[{"index":0,"text":"a b","delta":{"content":"a b"}},{"index":1,"text":"c"}]}"#,
    );
    assert_eq!(legacy.2.text, "a bc");
}

#[test]
fn reasoning_that_nobody_sees_is_told() {
    let hidden = |members: &str| {
        let (outcome, _, measured) = one(&format!(
            r#"{{"choices":[{{"index":0,"delta":{{{members}}}}}],"usage":null}}"#
        ));
        assert_eq!(outcome, Ok(()));
        measured.hidden_reasoning
    };
    for members in [
        r#""reasoning_details":[{"type":"reasoning.encrypted","data":"gAAAA"}]"#,
        r#""reasoning_details":[{"type":"reasoning.summary","summary":"in short"}]"#,
        r#""thinking_blocks":[{"type":"thinking","thinking":"t","signature":"EqQB"}]"#,
        r#""tool_calls":[{"extra_content":{"google":{"thought_signature":"EqQB"}}}]"#,
    ] {
        assert!(hidden(members), "{members}");
    }
    for members in [
        r#""reasoning":"t""#,
        r#""content":"a""#,
        r#""reasoning_details":[],"signature":null"#,
    ] {
        assert!(!hidden(members), "{members}");
    }
    let reports = |delta: &str| {
        let usage = r#"{"prompt_tokens":1,"completion_tokens":9,"completion_tokens_details":{"reasoning_tokens":8}}"#;
        one(&format!(
            r#"{{"choices":[{{"delta":{delta}}}],"usage":{usage}}}"#
        ))
        .2
        .hidden_reasoning
    };
    assert!(reports(r#"{"content":"a"}"#) && !reports(r#"{"reasoning":"long"}"#));
}

#[test]
fn a_whole_answer_to_a_stream_comes_as_events() {
    let whole = r#"{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hi","tool_calls":[{"id":"t","type":"function","function":{"name":"f","arguments":{"a":1}}}]},"finish_reason":"length"}],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
    let pretty = format!("\u{feff} \n{}", whole.replace(",\"", ",\n \""));
    for (body, size) in [(whole, usize::MAX), (whole, 1), (pretty.as_str(), 7)] {
        for wants_usage in [false, true] {
            let mut meter = Meter::chat(wants_usage);
            let mut out = BytesMut::new();
            for part in body.as_bytes().chunks(size.min(body.len())) {
                meter.push(part, &mut out).unwrap();
            }
            assert!(out.is_empty() && !meter.is_done());
            assert!(
                meter.measured().text_overflow,
                "nobody knows what it costs before it is there"
            );
            meter.finish(&mut out).unwrap();
            let out = String::from_utf8(out.to_vec()).unwrap();
            let chunks: Vec<_> = out
                .split_terminator("\n\n")
                .map(|event| event.strip_prefix("data: ").unwrap())
                .collect();
            let (done, chunks) = chunks.split_last().unwrap();
            assert_eq!(
                (*done, chunks.len()),
                ("[DONE]", 2 + usize::from(wants_usage)),
                "{out}"
            );
            assert!(
                chunks[0].contains(r#""object":"chat.completion.chunk""#),
                "{out}"
            );
            assert!(chunks[0].contains(r#""delta":{"role":"assistant","content":"Hi","tool_calls":[{"id":"t","type":"function","function":{"name":"f","arguments":"{\"a\":1}"},"index":0}]}"#), "{out}");
            assert!(
                chunks[1].contains(r#""delta":{},"logprobs":null,"finish_reason":"length""#),
                "{out}"
            );
            let measured = meter.into_measured();
            let usage = measured.usage.unwrap();
            assert_eq!((usage.input_tokens, usage.output_tokens), (3, 4));
            assert!(
                measured.done
                    && measured.finished
                    && measured.cap_reached
                    && !measured.text_overflow
            );
            assert_eq!(measured.text, r#"Hif{"a":1}"#);
        }
    }
}

#[test]
fn what_is_no_completion_in_one_piece_is_told_apart() {
    let finished = |body: &str| {
        let mut meter = Meter::chat(false);
        let mut out = BytesMut::new();
        meter.push(body.as_bytes(), &mut out).unwrap();
        let read = meter.finish(&mut out);
        (
            read,
            String::from_utf8(out.to_vec()).unwrap(),
            meter.into_measured(),
        )
    };
    for body in [
        r#"{"error":{"message":"m"}}"#,
        r#"[{"error":{"message":"m"}}]"#,
        r#"{"detail":"m"}"#,
    ] {
        let (read, out, measured) = finished(body);
        assert_eq!((read, out.as_str()), (Err(Fault::Upstream), ""), "{body}");
        assert!(measured.is_error && measured.text.is_empty());
    }
    for body in [
        "{}",
        "[]",
        "{\"id\":1}",
        "{\"choices\":",
        "{\"a\":1}\n{\"b\":2}x\n",
    ] {
        assert!(finished(body).0.is_err(), "{body}");
    }
    let line = |text: &str| {
        event(text)
            .trim_end()
            .trim_start_matches("data: ")
            .to_owned()
    };
    let end = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;
    let (read, out, measured) = finished(&format!("{}\r\n{}\r\n{end}\r\n", line("a"), line("b")));
    assert_eq!(
        (
            read,
            measured.text.as_str(),
            measured.usage.unwrap().output_tokens
        ),
        (Ok(()), "ab", 2),
        "an event a line"
    );
    assert!(out.ends_with("data: [DONE]\n\n"), "{out}");
}

#[test]
fn a_message_in_an_event_becomes_a_delta() {
    let payload = r#"{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;
    let (outcome, out, measured) =
        meter_all([format!("data: {payload}\n\ndata: [DONE]\n\n").as_bytes()]);
    assert_eq!(outcome, Ok(()));
    assert!(
        out.contains(r#""delta":{"role":"assistant","content":"Hi"}"#)
            && !out.contains("message\":"),
        "{out}"
    );
    assert_eq!(
        (
            measured.usage.unwrap().output_tokens,
            measured.text.as_str()
        ),
        (2, "Hi")
    );
}

#[test]
fn events_without_an_empty_line_between_them_are_read_one_by_one() {
    let text = event("a");
    let joined = format!("{}\n{}data: [DONE]\n\n", text.trim_end(), text);
    let (outcome, out, measured) = meter_all([joined
        .replace("\n\ndata: [DONE]", "\ndata: [DONE]")
        .as_bytes()]);
    assert_eq!(
        (outcome, measured.text.as_str(), measured.done),
        (Ok(()), "aa", true)
    );
    assert_eq!(
        out,
        format!("{text}{text}"),
        "the end is held back for the usage"
    );
}

#[test]
fn an_answer_that_is_no_completion_is_told_apart() {
    for body in [
        "",
        "[]",
        "{}",
        "<html>",
        r#"{"choices":{}}"#,
        r#"{"error":{"code":1},"choices":[]}"#,
    ] {
        assert!(!measure_json(body.as_bytes()).is_completion, "{body}");
    }
}
