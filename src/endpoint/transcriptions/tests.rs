//! The bounds and the form that is sent, tried from outside.

use std::fs;

use serde_json::json;

use super::*;
use crate::clock::Timestamp;
use crate::dialect::Dialect;
use crate::endpoint::Route;
use crate::model::ModelTable;
use crate::price::{MicroUsd, PriceTable};
use crate::prompt::Prompts;

const MODELS: [&str; 3] = ["whisper-1", "gpt-4o-transcribe", "gpt-transcribe"];

fn memo() -> Vec<u8> {
    fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/audio/memo.m4a")).unwrap()
}

fn plan() -> Plan {
    Plan {
        name: "free".to_owned(),
        models: MODELS.map(str::to_owned).to_vec(),
        max_output_tokens: 1024,
        max_input_tokens: 1000,
        max_choices: 1,
        images: crate::plan::ImageCaps::default(),
        audio_seconds_max: 600,
        reasoning_effort_max: None,
        moderates_input: false,
        attested: None,
        concurrent_requests: None,
        limits: Vec::new(),
    }
}

/// A form with these texts, and the file last.
fn form(texts: &[(&str, &str)], files: &[(&str, &[u8])]) -> Incoming {
    let mut body = Vec::new();
    for (name, value) in texts {
        let part =
            format!("--x\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        body.extend_from_slice(part.as_bytes());
    }
    for (name, data) in files {
        let head = format!(
            "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(data);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--x--\r\n");
    Incoming {
        route: Route::plain("/v1/audio/transcriptions"),
        content_type: Some(HeaderValue::from_static("multipart/form-data; boundary=x")),
        body: body.into(),
    }
}

fn parse(incoming: &Incoming, plan: &Plan) -> Result<TranscriptionOrder, Refusal> {
    let prices = PriceTable::shipped_for(&MODELS.into());
    let terms = Terms {
        plan,
        prices: &prices,
        models: &ModelTable::shipped(),
        prompts: &Prompts::new(),
        now: Timestamp::EPOCH,
        candidate: None,
    };
    TranscriptionOrder::parse(incoming, &terms)
}

fn order(texts: &[(&str, &str)]) -> TranscriptionOrder {
    parse(&form(texts, &[("memo.m4a", &memo())]), &plan()).unwrap()
}

fn refused(texts: &[(&str, &str)]) -> (String, String) {
    let refusal = parse(&form(texts, &[("memo.m4a", &memo())]), &plan()).unwrap_err();
    (refusal.param.unwrap_or_default(), refusal.message)
}

#[test]
fn a_model_that_is_paid_by_the_minute_is_held_by_the_second() {
    let order = order(&[("model", "whisper-1"), ("prompt", "Hello")]);
    let quote = order.quote(64);
    assert_eq!(
        quote.quantities(quote.output_cap),
        Quantities {
            audio_seconds: 3,
            ..Quantities::NONE
        }
    );
    // Three seconds of $0.006 a minute.
    assert_eq!(quote.hold(quote.output_cap).amounts.cost, 300);
    let seen = Measured {
        text: "Hello there".to_owned(),
        ..Measured::default()
    };
    assert_eq!(order.estimate(&seen).audio_seconds, 3);
    assert_eq!(order.estimate(&seen).tokens(), 0);
}

#[test]
fn a_model_that_is_paid_by_the_token_is_held_by_its_prompt_and_its_seconds() {
    let mut order = order(&[
        ("model", "gpt-4o-transcribe"),
        ("prompt", "Hello"),
        ("keywords[]", "Tollgate"),
    ]);
    let quote = order.quote(64);
    let most = quote.quantities(quote.output_cap);
    assert_eq!((quote.output_cap, quote.output_floor), (45, 45));
    assert_eq!(
        (
            most.input_tokens,
            most.audio_input_tokens,
            most.audio_seconds
        ),
        (60 + 5 + 8, 60, 3)
    );
    let before = most.input_tokens;
    order.narrow(1000);
    assert!(order.quote(1).base.input_tokens <= before);
    let seen = Measured {
        text: "Hello there".to_owned(),
        ..Measured::default()
    };
    let estimate = order.estimate(&seen);
    assert_eq!(
        (estimate.output_tokens, estimate.audio_input_tokens),
        (2, 60)
    );
    let price = order.price();
    let held = price.bound(&order.quote(1).quantities(45));
    assert!(price.cost(&estimate) > MicroUsd(0) && price.cost(&estimate) <= held);
}

#[test]
fn what_is_sent_is_written_anew() {
    let order = order(&[
        ("timestamp_granularities[]", "word"),
        ("timestamp_granularities[]", "segment"),
        ("response_format", "verbose_json"),
        ("temperature", "0.2"),
        ("language", "en"),
        ("prompt", ""),
        (
            "chunking_strategy",
            r#"{"type":"server_vad","threshold":0.4}"#,
        ),
    ]);
    assert_eq!(order.model(), "whisper-1", "the first that serves it");
    let sent = Incoming {
        content_type: Some(order.content_type()),
        body: order.body(0, Dialect::Openai.into(), "user"),
        ..form(&[], &[])
    };
    let mut form = FormBody::read(&sent).unwrap();
    let files = form.take_files("file");
    assert_eq!(files[0].file_name.as_deref(), Some("memo.m4a"));
    assert_eq!(files[0].data, memo());
    let text = String::from_utf8_lossy(&sent.body).into_owned();
    assert!(text.contains("Content-Type: audio/mp4"), "{text}");
    for (name, value) in [
        ("model", "whisper-1"),
        ("language", "en"),
        ("response_format", "verbose_json"),
        ("temperature", "0.2"),
        ("timestamp_granularities[]", "segment"),
        ("chunking_strategy[type]", "server_vad"),
        ("chunking_strategy[threshold]", "0.4"),
    ] {
        let part = format!("name=\"{name}\"\r\n\r\n{value}\r\n");
        assert!(text.contains(&part), "{part}: {text}");
    }
    assert!(
        !text.contains("prompt") && !text.contains("--x\r\n"),
        "{text}"
    );
}

#[test]
fn what_is_wrong_is_named() {
    for (texts, param, says) in [
        (&[("model", "gpt-9")][..], "model", "is not in this plan"),
        (
            &[("stream", "true"), ("model", "whisper-1")],
            "stream",
            "is not possible with `whisper-1`",
        ),
        (&[("stream", "perhaps")], "stream", "must be a boolean"),
        (
            &[
                ("stream", "true"),
                ("model", "gpt-transcribe"),
                ("response_format", "srt"),
            ],
            "response_format",
            "in a stream",
        ),
        (
            &[("response_format", "xml")],
            "response_format",
            "`verbose_json`",
        ),
        (&[("temperature", "1.5")], "temperature", "between 0 and 1"),
        (&[("temperature", "NaN")], "temperature", "between 0 and 1"),
        (&[("include", "usage")], "include[0]", "logprobs"),
        (
            &[("timestamp_granularities[]", "word")],
            "timestamp_granularities",
            "verbose_json",
        ),
        (
            &[
                ("response_format", "verbose_json"),
                ("timestamp_granularities", "letter"),
            ],
            "timestamp_granularities[0]",
            "segment",
        ),
        (
            &[("chunking_strategy", "manual")],
            "chunking_strategy",
            "auto",
        ),
        (
            &[("chunking_strategy", "{\"type\":1}")],
            "chunking_strategy.type",
            "cannot be read",
        ),
        (
            &[("chunking_strategy[type]", "mine")],
            "chunking_strategy[type]",
            "server_vad",
        ),
        (
            &[("chunking_strategy[threshold]", "2")],
            "chunking_strategy[threshold]",
            "between",
        ),
        (
            &[("known_speaker_names[]", "Ann")],
            "known_speaker_names",
            "not supported",
        ),
        (&[("service_tier", "flex")], "service_tier", "not supported"),
        (
            &[("language", "en"), ("language", "de")],
            "language",
            "only once",
        ),
    ] {
        let (at, message) = refused(texts);
        assert_eq!(at, param, "{message}");
        assert!(message.contains(says), "{message}");
    }
    let file = memo();
    for (files, says) in [
        (&[][..], "is missing"),
        (&[("a.m4a", &b""[..])], "is empty"),
        (&[("a.m4a", &file), ("b.m4a", &file)], "only once"),
    ] {
        let refusal = parse(&form(&[], files), &plan()).unwrap_err();
        assert_eq!(refusal.param.as_deref(), Some("file"));
        assert!(refusal.message.contains(says), "{}", refusal.message);
    }
}

#[test]
fn a_file_that_is_too_long_or_may_be_is_refused() {
    let short = Plan {
        audio_seconds_max: 2,
        ..plan()
    };
    let unreadable = vec![7; 40_000];
    for (plan, file, says) in [
        (short, memo(), "is 3 seconds long, and the plan allows 2"),
        (
            plan(),
            unreadable,
            "cannot be read; by its bytes it may be 712 seconds",
        ),
    ] {
        let refusal = parse(&form(&[], &[("a.m4a", &file)]), &plan).unwrap_err();
        assert_eq!(refusal.param.as_deref(), Some("file"));
        assert!(refusal.message.contains(says), "{}", refusal.message);
    }
}

#[test]
fn settings_for_a_name_are_read_as_the_forms_fields_are() {
    let check = |fields: serde_json::Value| (SPEC.settable.check)(&fields.to_string());
    assert!(check(json!({"language": "en", "temperature": 0})).is_ok());
    assert!(check(json!({"temperature": 3})).is_err());
}
