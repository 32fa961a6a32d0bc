//! `/v1/audio/transcriptions` from the door: what it takes, what it holds, what it is charged, and what is sent. The fake knows
//! how long each file really is.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::caller::{Answer, Call, User};
use crate::support::door::Door;
use crate::support::reply::{Bill, Books, Reply, Step};
use crate::support::settings::Settings;
use crate::support::transcriptions::{Form, PATH, PRICES, bill, events, file, stream, transcript};

/// A model that is paid by the minute, and one that is paid by the token.
fn settings() -> Settings {
    let models = r#"plans.free.models = ["gpt-4o-mini", "whisper-1", "scribe"]"#;
    Settings::new().with(models).with(PRICES)
}

fn limited(limits: &str) -> Settings {
    settings().with(&format!("plans.free.limits = [{limits}]"))
}

async fn ask(user: &User, form: &Form) -> Answer {
    user.front.send(form.call(user)).await
}

/// What the operator sees of the last row.
fn last_row(door: &Door) -> Value {
    let lines = door.must(&["usage", "--requests", "--json"]);
    serde_json::from_str(lines.lines().last().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voice_memo_is_charged_by_the_second_as_reported_and_sent_as_it_was_understood() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    let form = Form::new("whisper-1")
        .data("../My memo.m4a", file("memo.m4a"))
        .text("language", "en")
        .text("temperature", "0.2");
    for form in [form.clone(), form.reversed()] {
        let answer = ask(&alice, &form).await.expect(200);
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(answer.json()["text"], transcript(5));
        let row = door.row(&answer).await;
        assert_eq!(
            (
                row.endpoint.as_deref(),
                row.model.as_deref(),
                row.state.as_str()
            ),
            (Some(PATH), Some("whisper-1"), "settled")
        );
        // Two and a half seconds are three, of $0.006 a minute.
        assert_eq!((row.cost_micros, row.held_micros), (Some(300), Some(300)));
        assert!(row.flags.is_empty() && row.tokens() == 0, "{row:?}");
        assert_eq!(last_row(&door)["audio_seconds"], 3);
        let seen = door.upstream.last().seen.clone();
        let sent = &seen.body;
        assert_eq!(
            sent["file"],
            json!({"name": "My_memo.m4a", "type": "audio/mp4", "bytes": file("memo.m4a").len()})
        );
        assert_eq!(
            (&sent["model"], &sent["language"], &sent["temperature"]),
            (&json!("whisper-1"), &json!("en"), &json!("0.2"))
        );
        assert!(sent["prompt"].as_str().unwrap().starts_with("Hello"));
        assert!(!String::from_utf8_lossy(&seen.request.body).contains("client-boundary"));
    }
    let usage = alice.get("/api/usage").await.expect(200).json();
    assert!(usage.to_string().contains("\"audio_seconds\":6"), "{usage}");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_every_container_holds_is_at_least_what_is_billed() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    for (name, kind, seconds) in [
        ("memo.m4a", "audio/mp4", 3),
        ("memo.mp3", "audio/mpeg", 3),
        ("sox.wav", "audio/wav", 2),
        ("memo.flac", "audio/flac", 3),
        ("memo.opus", "audio/ogg", 3),
        ("memo.webm", "audio/webm", 3),
    ] {
        for model in ["whisper-1", "scribe"] {
            let answer = ask(&alice, &Form::new(model).file(name)).await.expect(200);
            let row = door.row(&answer).await;
            assert!(
                row.flags.is_empty() && row.held_micros >= row.cost_micros,
                "{row:?}"
            );
            assert_eq!(last_row(&door)["audio_seconds"], seconds, "{name} {model}");
            assert_eq!(door.upstream.last().seen.body["file"]["type"], kind);
        }
    }
    // How long it is cannot be read: by its bytes, until the provider says it.
    let answer = ask(&alice, &Form::new("whisper-1").file("gsm.wav"))
        .await
        .expect(200);
    let row = door.row(&answer).await;
    assert_eq!((row.cost_micros, row.held_micros), (Some(200), Some(3900)));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_charged_as_reported_within_a_hold_by_the_second() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    let answer = ask(&alice, &Form::new("scribe").file("memo.m4a"))
        .await
        .expect(200);
    let row = door.row(&answer).await;
    // Three words and 25 tokens of audio; five words.
    assert_eq!((row.input_tokens, row.output_tokens), (Some(28), Some(5)));
    assert_eq!(row.cost_micros, Some(28 * 6 + 5 * 8));
    // Three seconds of 20 and of 15 tokens, and the bytes of the prompt.
    assert!(row.held_micros >= Some((60 + 3) * 6 + 45 * 8), "{row:?}");
    let told = last_row(&door);
    assert_eq!(
        (&told["audio_input_tokens"], &told["audio_seconds"]),
        (&json!(25), &json!(3))
    );
    // Nothing is said of it: all of the audio, and what was heard.
    let text = Form::new("scribe")
        .file("memo.m4a")
        .text("response_format", "text");
    let answer = ask(&alice, &text).await.expect(200);
    let row = door.row(&answer).await;
    assert!(
        row.has("estimated") && row.cost_micros > Some(60 * 6),
        "{row:?}"
    );
    assert!(row.cost_micros < row.held_micros, "{row:?}");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_an_answer_passes_as_it_came_and_is_priced_by_its_length_where_it_says_nothing()
 {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    for (format, kind, beginning) in [
        ("text", "text/plain; charset=utf-8", " alpha alpha"),
        ("srt", "text/plain; charset=utf-8", "1\n00:00:00,000 --> "),
        ("vtt", "text/vtt; charset=utf-8", "WEBVTT\n\n"),
        (
            "verbose_json",
            "application/json",
            "{\"task\":\"transcribe\"",
        ),
    ] {
        let form = Form::new("whisper-1")
            .file("memo.m4a")
            .text("response_format", format);
        let answer = ask(&alice, &form).await.expect(200);
        assert_eq!(answer.header("content-type"), kind, "{format}");
        assert!(answer.text().starts_with(beginning), "{}", answer.text());
        assert_eq!(door.upstream.last().seen.body["response_format"], format);
        let row = door.row(&answer).await;
        assert_eq!(row.cost_micros, Some(300), "{format}: {row:?}");
        assert_eq!(last_row(&door)["audio_seconds"], 3);
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_passes_byte_for_byte_and_only_where_the_model_can() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    let streamed = |model| Form::new(model).file("memo.m4a").text("stream", "true");
    let answer = ask(&alice, &streamed("scribe")).await.expect(200);
    assert_eq!(answer.header("content-type"), "text/event-stream");
    let (_, usage) = bill(&door.upstream.last().seen, 5);
    let sent: String = events(&usage, 5)
        .into_iter()
        .map(|event| format!("data: {event}\n\n"))
        .collect();
    assert_eq!(answer.text(), sent);
    let row = door.row(&answer).await;
    assert!(row.flags.is_empty(), "{row:?}");
    assert_eq!(row.cost_micros, Some(28 * 6 + 5 * 8));
    // A server that does not stream.
    door.upstream.next(|seen| {
        let (bill, usage) = bill(seen, 5);
        let body = json!({"text": transcript(5), "usage": usage});
        let mut reply = Reply::status(200, "application/json", body.to_string());
        reply.steps.insert(0, Step::Billed(bill));
        reply
    });
    let answer = ask(&alice, &streamed("scribe")).await.expect(200);
    assert!(
        answer.text().contains("transcript.text.done"),
        "{}",
        answer.text()
    );
    assert_eq!(door.row(&answer).await.cost_micros, Some(28 * 6 + 5 * 8));

    let refused = ask(&alice, &streamed("whisper-1"))
        .await
        .refused(400, "unsupported_field");
    assert_eq!(refused.json()["error"]["param"], "stream");
    assert_eq!(door.upstream.count(), 2);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_endpoint_does_not_take_is_refused_by_name_before_anything_is_sent() {
    let door = Door::open(settings().with("plans.free.max_audio_seconds = 2")).await;
    let alice = door.user("alice");
    let short = || Form::new("whisper-1").file("sox.wav");
    for (form, code, param) in [
        (Form::new("whisper-1"), "invalid_request", "file"),
        (
            Form::new("whisper-1").data("a.wav", Vec::new()),
            "invalid_request",
            "file",
        ),
        (short().file("sox.wav"), "invalid_request", "file"),
        (
            Form::new("whisper-1").file("memo.m4a"),
            "invalid_request",
            "file",
        ),
        (
            Form::new("whisper-1").data("a.mp3", vec![7; 2000]),
            "invalid_request",
            "file",
        ),
        (short().text("seed", "1"), "unsupported_field", "seed"),
        (
            short().text("known_speaker_names[]", "A"),
            "unsupported_field",
            "known_speaker_names",
        ),
        (
            short().text("response_format", "xml"),
            "invalid_request",
            "response_format",
        ),
        (
            short().text("temperature", "2"),
            "invalid_request",
            "temperature",
        ),
        (
            short().text("temperature", "hot"),
            "invalid_request",
            "temperature",
        ),
        (
            short().text("model", "whisper-1"),
            "invalid_request",
            "model",
        ),
        (
            short().text("language", &"x".repeat(36)),
            "invalid_request",
            "language",
        ),
    ] {
        let answer = ask(&alice, &form).await.refused(400, code);
        assert_eq!(answer.json()["error"]["param"], param, "{}", answer.text());
    }
    let other = Form::new("gpt-4o-mini").file("sox.wav");
    ask(&alice, &other).await.refused(403, "model_not_allowed");
    let json = Call::post(PATH, &json!({"model": "whisper-1"})).bearer(&alice.token);
    door.send(json).await.refused(415, "unsupported_media_type");
    let broken = short()
        .call(&alice)
        .bytes("--client-boundary\r\nand no more");
    door.send(broken).await.refused(400, "invalid_request");
    assert_eq!((door.upstream.count(), door.ledger_rows().len()), (0, 0));
    ask(&alice, &short()).await.expect(200);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_in_seconds_holds_under_requests_at_once() {
    let door = Door::open(limited("{ per = \"day\", audio_seconds = 10 }")).await;
    let alice = door.user("alice");
    let asked = (0..8).map(|_| {
        let alice = alice.clone();
        tokio::spawn(async move { ask(&alice, &Form::new("whisper-1").file("memo.m4a")).await })
    });
    let mut statuses = Vec::new();
    for asked in asked.collect::<Vec<_>>() {
        statuses.push(asked.await.unwrap().status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 402, 402, 402, 402, 402]);
    door.quiet_rows().await;
    let limit = alice.me().await["limits"][0].clone();
    assert_eq!(
        (
            &limit["unit"],
            &limit["used"],
            &limit["held"],
            &limit["remaining"]
        ),
        (&json!("audio_seconds"), &json!(9), &json!(0), &json!(1))
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_pays_what_the_provider_bills_for_all_of_it_whatever_the_settings_say() {
    for policy in ["abort", "drain"] {
        let leaves = format!("proxy.on_disconnect = {policy:?}\nproxy.drain_timeout = \"1s\"");
        let door = Door::open(settings().with(&leaves)).await;
        let alice = door.user("alice");
        for is_stream in [false, true] {
            door.upstream.next(move |seen| {
                let (bill, usage) = bill(seen, 5);
                let mut reply = if is_stream {
                    let mut reply = stream(seen, 5);
                    reply.steps.insert(2, Step::Wait(Duration::from_secs(2)));
                    reply
                } else {
                    let body = json!({"text": transcript(5), "usage": usage});
                    Reply::status(200, "application/json", body.to_string())
                        .after(Duration::from_secs(2))
                };
                reply.steps.insert(0, Step::Billed(bill));
                reply.booked(Books {
                    whole: bill,
                    works_on: true,
                    ..Books::free()
                })
            });
            let before = door.upstream.count();
            let form = Form::new("scribe").file("memo.m4a");
            let form = if is_stream {
                form.text("stream", "true")
            } else {
                form
            };
            let begun = alice.front.begin(form.call(&alice)).await.unwrap();
            door.upstream.until_served(before + 1).await;
            sleep(Duration::from_millis(150)).await;
            begun.hang_up();
            let row = door.quiet_rows().await.into_iter().max_by_key(|row| row.id);
            let row = row.unwrap();
            assert_eq!(
                row.cost_micros,
                Some(28 * 6 + 5 * 8),
                "{policy} {is_stream}: {row:?}"
            );
            assert!(row.has("cancelled") && !row.has("estimated"), "{row:?}");
            assert!(!door.upstream.last().peer_left);
        }
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_that_is_sent_again_gets_its_answer_and_another_is_refused() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    let form = Form::new("whisper-1").file("memo.m4a");
    let keyed = |form: &Form| form.call(&alice).header("Idempotency-Key", "memo-1");
    let first = door.send(keyed(&form)).await.expect(200);
    let again = form.clone().boundary("another-boundary");
    let second = door.send(keyed(&again)).await.expect(200);
    assert_eq!(second.header("idempotent-replayed"), "true");
    assert_eq!((second.id(), second.text()), (first.id(), first.text()));
    let other = form.text("language", "en");
    door.send(keyed(&other))
        .await
        .refused(422, "idempotency_key_reused");
    assert_eq!(door.upstream.count(), 1);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_was_counted_is_charged_as_reported_and_flagged() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    for (seconds, cost, flag) in [
        (json!(100.25), 10_100, "overrun"),
        (json!(0), 300, "usage_nonsense"),
        (json!("long"), 300, "usage_nonsense"),
    ] {
        door.upstream.next(move |_| {
            let usage = json!({"type": "duration", "seconds": seconds});
            let body = json!({"text": transcript(5), "usage": usage}).to_string();
            let mut reply = Reply::status(200, "application/json", body);
            let bill = Bill {
                other_micros: cost,
                ..Bill::default()
            };
            reply.steps.insert(0, Step::Billed(bill));
            reply
        });
        let answer = ask(&alice, &Form::new("whisper-1").file("memo.m4a"))
            .await
            .expect(200);
        let row = door.row(&answer).await;
        assert!(row.has(flag), "{row:?}");
        assert_eq!(
            row.cost_micros,
            Some(i64::try_from(cost).unwrap()),
            "{row:?}"
        );
    }
    // A refusal of the provider costs nothing.
    door.upstream
        .next(|_| Reply::error(400, "bad", "The audio file could not be decoded."));
    let answer = ask(&alice, &Form::new("whisper-1").file("memo.m4a")).await;
    assert_eq!(answer.status, 400);
    assert_eq!(door.row(&answer).await.state, "voided");
    door.close().await;
}
