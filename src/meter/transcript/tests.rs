use bytes::{Bytes, BytesMut};
use serde_json::json;

use super::*;
use crate::meter::{Fault, Measured, Meter};

const BY_SECONDS: TranscriptBound = TranscriptBound {
    seconds: 7,
    input_tokens: 0,
    audio_tokens: 0,
};
const BY_TOKENS: TranscriptBound = TranscriptBound {
    seconds: 7,
    input_tokens: 150,
    audio_tokens: 140,
};

fn measured(bound: &TranscriptBound, usage: &str) -> Measured {
    let body = format!(r#"{{"text":"Hello there","usage":{usage}}}"#);
    let whole = read(bound, Bytes::from(body.clone()));
    assert_eq!(whole.body, Ok(Bytes::from(body)));
    whole.measured
}

#[test]
fn seconds_are_charged_as_reported_rounded_up() {
    for (usage, seconds) in [
        (r#"{"type":"duration","seconds":9}"#, Some(9)),
        (r#"{"type":"duration","seconds":8.000001}"#, Some(9)),
        (r#"{"type":"duration","seconds":8.0}"#, Some(8)),
        (r#"{"type":"duration","seconds":0}"#, None),
        (r#"{"type":"duration","seconds":-1}"#, None),
        (r#"{"type":"duration","seconds":1e300}"#, None),
        (r#"{"type":"duration","seconds":"8"}"#, None),
    ] {
        let measured = measured(&BY_SECONDS, usage);
        let told = measured.usage.map(|usage| usage.audio_seconds);
        assert_eq!(told, seconds, "{usage}");
        assert_eq!(measured.usage_nonsense, seconds.is_none(), "{usage}");
    }
    for usage in [
        "null",
        "{}",
        r#"{"type":"tokens","input_tokens":14,"output_tokens":3}"#,
    ] {
        let measured = measured(&BY_SECONDS, usage);
        assert_eq!((measured.usage, measured.usage_nonsense), (None, false));
    }
}

#[test]
fn tokens_are_charged_as_reported_and_what_is_not_text_is_audio() {
    for (usage, (input, audio, output)) in [
        (
            r#"{"type":"tokens","input_tokens":14,"input_token_details":{"text_tokens":4,"audio_tokens":10},"output_tokens":45,"total_tokens":59}"#,
            (14, 10, 45),
        ),
        (
            r#"{"type":"tokens","input_tokens":14,"output_tokens":45,"total_tokens":59}"#,
            (14, 14, 45),
        ),
        (
            r#"{"input_tokens":14,"input_token_details":{"text_tokens":0},"output_tokens":45}"#,
            (14, 14, 45),
        ),
    ] {
        let usage_told = measured(&BY_TOKENS, usage).usage.unwrap();
        let told = (
            usage_told.input_tokens,
            usage_told.audio_input_tokens,
            usage_told.output_tokens,
        );
        assert_eq!(told, (input, audio, output), "{usage}");
        assert_eq!(usage_told.audio_seconds, 7, "as long as the file is");
    }
}

#[test]
fn a_part_that_cannot_be_is_bound_or_estimated_alone() {
    let without_input = measured(&BY_TOKENS, r#"{"input_tokens":0,"output_tokens":5}"#);
    let usage = without_input.usage.unwrap();
    assert_eq!(
        (
            usage.input_tokens,
            usage.audio_input_tokens,
            usage.output_tokens
        ),
        (150, 140, 5)
    );
    assert!(without_input.usage_nonsense);
    let without_output = measured(&BY_TOKENS, r#"{"input_tokens":80,"output_tokens":0}"#);
    assert!(without_output.usage.is_none() && without_output.usage_nonsense);
    let partial = without_output.partial_usage.unwrap();
    assert!(!partial.knows_output());
    assert_eq!(partial.reported().audio_input_tokens, 80);
    for (usage, is_nonsense) in [
        (r#"{"type":"duration","seconds":3}"#, false),
        ("{}", true),
        ("[]", true),
        (r#"{"input_tokens":-4,"output_tokens":1e99}"#, true),
    ] {
        let measured = measured(&BY_TOKENS, usage);
        assert_eq!(measured.usage, None, "{usage}");
        assert_eq!(measured.usage_nonsense, is_nonsense, "{usage}");
    }
}

#[test]
fn text_alone_says_nothing_of_what_it_used() {
    let body = Bytes::from_static(b"1\n00:00:00,000 --> 00:00:02,000\nHello\n");
    let whole = read_text(&BY_SECONDS, body.clone());
    assert_eq!(whole.body, Ok(body));
    assert_eq!(whole.measured.usage, None);
    assert!(whole.measured.text.contains("Hello"));
    let json = Bytes::from(json!({"text": "Hello\n", "usage": {"seconds": 2}}).to_string());
    let whole = read_text(&BY_SECONDS, json);
    assert_eq!(whole.body, Ok(Bytes::from_static(b"Hello\n")));
    assert_eq!(whole.measured.usage.unwrap().audio_seconds, 2);
    for wrong in [&b"{\"error\":{\"message\":\"no\"}}"[..], b"\xff\xfe"] {
        let whole = read_text(&BY_SECONDS, Bytes::from_static(wrong));
        assert_eq!(whole.body, Err(Fault::Nonsense));
    }
    for wrong in ["{}", "[]", "Hello", r#"{"text":7}"#] {
        let whole = read(&BY_SECONDS, Bytes::from_static(wrong.as_bytes()));
        assert_eq!(whole.body, Err(Fault::Nonsense), "{wrong}");
    }
}

/// What a caller gets of a stream, how it ends, and what was measured, cut into pieces of `size`.
fn streamed(
    bound: TranscriptBound,
    stream: &str,
    size: usize,
) -> (String, Result<(), Fault>, Measured) {
    let mut meter = Meter::transcript(bound);
    let mut out = BytesMut::new();
    let mut read = Ok(());
    for piece in stream.as_bytes().chunks(size) {
        read = read.and_then(|()| meter.push(piece, &mut out));
    }
    let read = read.and_then(|()| meter.finish(&mut out));
    let text = String::from_utf8(out.to_vec()).unwrap();
    (text, read, meter.into_measured())
}

const DONE_EVENT: &str = r#"{"type":"transcript.text.done","text":"Hello there","usage":{"type":"tokens","input_tokens":14,"input_token_details":{"text_tokens":4,"audio_tokens":10},"output_tokens":3,"total_tokens":17}}"#;

#[test]
fn events_pass_as_they_came_and_the_last_one_tells_the_usage() {
    let delta = |text: &str| format!(r#"{{"type":"transcript.text.delta", "delta":"{text}"}}"#);
    let (one, two) = (delta("Hello"), delta(" there"));
    let bare = format!("data: {one}\n\ndata: {two}\n\ndata: {DONE_EVENT}\n\n");
    let with_end = format!("{bare}data: [DONE]\n\n");
    let named = format!(
        "event: transcript.text.delta\ndata: {one}\n\nevent: transcript.text.done\ndata: {DONE_EVENT}\n\n"
    );
    for stream in [&bare, &with_end, &named] {
        for size in [1, 7, 4096] {
            let (out, end, measured) = streamed(BY_TOKENS, stream, size);
            assert_eq!((&out, end), (stream, Ok(())));
            let usage = measured.usage.unwrap();
            assert_eq!((usage.audio_input_tokens, usage.output_tokens), (10, 3));
            assert_eq!(measured.text, "Hello there");
            assert!(measured.done && !measured.usage_nonsense);
        }
    }
    // Segments repeat what deltas say, or stand alone.
    let segment = r#"{"type":"transcript.text.segment","text":"Hello there","speaker":"A"}"#;
    let (_, end, measured) = streamed(BY_TOKENS, &format!("data: {segment}\n\n"), 99);
    assert_eq!(
        (end, measured.text.as_str()),
        (Err(Fault::Cut), "Hello there")
    );
}

#[test]
fn a_stream_that_breaks_off_or_fails_is_told_so() {
    let delta = r#"data: {"type":"transcript.text.delta","delta":"Hello"}"#;
    let (out, end, measured) = streamed(BY_TOKENS, &format!("{delta}\n\n"), 9);
    assert_eq!(
        (out.as_str(), end),
        (&*format!("{delta}\n\n"), Err(Fault::Cut))
    );
    assert_eq!((measured.text.as_str(), measured.usage), ("Hello", None));
    for error in [
        "event: error\ndata: {\"message\":\"no\"}\n\n",
        "data: {\"error\":{\"message\":\"no\"}}\n\n",
        "data: {\"type\":\"error\",\"message\":\"no\"}\n\n",
    ] {
        let (out, end, measured) = streamed(BY_TOKENS, error, 9);
        assert_eq!((out.as_str(), end), ("", Err(Fault::Upstream)), "{error}");
        assert!(measured.is_error);
    }
    let (out, end, _) = streamed(BY_TOKENS, "data: {\"type\":\n\n", 9);
    assert_eq!((out.as_str(), end), ("", Err(Fault::Cut)));
}

#[test]
fn one_piece_in_place_of_a_stream_becomes_its_events() {
    let body = r#"{"text":"Hello","usage":{"type":"duration","seconds":2.5}}"#;
    let (out, end, measured) = streamed(BY_SECONDS, body, 5);
    assert_eq!(end, Ok(()));
    let lines: Vec<_> = out.split("\n\n").collect();
    assert_eq!(
        lines[0],
        r#"data: {"type":"transcript.text.delta","delta":"Hello"}"#
    );
    assert!(lines[1].contains("transcript.text.done") && lines[1].contains("2.5"));
    assert_eq!(measured.usage.unwrap().audio_seconds, 3);
}

#[test]
fn the_chunks_of_a_server_that_writes_them_as_chats_do_pass() {
    let chunk =
        r#"data: {"object":"transcription.chunk","choices":[{"delta":{"content":"Hello"}}]}"#;
    let usage = r#"data: {"object":"transcription.chunk","choices":[],"usage":{"prompt_tokens":10,"completion_tokens":2,"total_tokens":12}}"#;
    let stream = format!("{chunk}\n\n{usage}\n\ndata: [DONE]\n\n");
    let (out, end, measured) = streamed(BY_TOKENS, &stream, 11);
    assert_eq!((out, end), (stream, Ok(())));
    assert_eq!(measured.text, "Hello");
    assert_eq!(measured.usage.unwrap().output_tokens, 2);
}
