//! `/v1/audio/speech` from the door: sound that passes as it comes, and characters that are held and charged.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::caller::{Answer, Call, User, and};
use crate::support::door::Door;
use crate::support::reply::{Books, Reply, Step};
use crate::support::settings::Settings;
use crate::support::speech::{MICROS, SOUND, sound, speak};

const PATH: &str = "/v1/audio/speech";

/// A plan with a chat model and one that speaks.
fn settings() -> Settings {
    Settings::new().with(
        r#"
        plans.free.models = ["gpt-4o-mini", "voice", "gpt-4o-mini-tts", "tts-1"]
        [prices.voice]
        characters = "15"
        endpoints = ["speech"]
        "#,
    )
}

fn limited(limits: &str) -> Settings {
    settings().with(&format!("plans.free.limits = [{limits}]"))
}

fn call(user: &User, body: &Value) -> Call {
    Call::post(PATH, body).bearer(&user.token)
}

async fn ask(user: &User, body: Value) -> Answer {
    user.post(PATH, &body).await
}

fn characters(body: &Value) -> i64 {
    body["input"].as_str().unwrap().chars().count() as i64
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_passes_as_it_comes_and_its_characters_are_charged() {
    let door = Door::open(limited(r#"{ per = "day", characters = 1000 }"#)).await;
    let alice = door.user("alice");
    let pause = Step::Wait(Duration::from_millis(600));
    let steps = vec![
        Step::Body(SOUND.to_vec()),
        pause,
        Step::Body(SOUND.to_vec()),
    ];
    door.upstream
        .next(move |seen| sound(seen, "audio/mpeg", steps.clone()));
    let extra = json!({"instructions": "Whisper.", "speed": 1.5, "response_format": "mp3", "stream_format": "audio"});
    let body = and(speak("Grüß dich 👋🏽"), &extra);
    let mut open = alice.front.open(call(&alice, &body)).await.unwrap();
    assert!(open.read_on().await);
    assert_eq!(open.so_far().body.len(), SOUND.len());
    assert!(
        !door.upstream.last().finished,
        "the first piece comes first"
    );
    let answer = open.rest().await.expect(200);

    assert_eq!(
        ["content-type", "cache-control", "x-content-type-options"].map(|name| answer.header(name)),
        ["audio/mpeg", "no-store", "nosniff"]
    );
    assert_eq!(answer.body, [SOUND, SOUND].concat());
    assert!(answer.whole);
    let mut expected = body.clone();
    expected.as_object_mut().unwrap().remove("stream_format");
    assert_eq!(door.upstream.last().seen.body, expected);
    let row = door.row(&answer).await;
    let spoken = characters(&body);
    assert_eq!(
        (row.endpoint.as_deref(), row.state.as_str(), row.tokens()),
        (Some(PATH), "settled", 0)
    );
    assert_eq!(
        (row.characters, row.cost()),
        (Some(spoken), spoken * MICROS as i64)
    );
    assert!(row.flags.is_empty(), "{row:?}");

    let limit = &alice.me().await["limits"][0];
    assert_eq!(
        (&limit["unit"], &limit["used"]),
        (&json!("characters"), &json!(spoken))
    );
    let usage = alice.get("/api/usage").await.expect(200).json();
    assert_eq!(usage["rows"][0]["characters"], spoken);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_endpoint_does_not_take_is_refused_by_name() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    let cases = [
        (json!({"input": null}), "invalid_request", "input"),
        (json!({"input": ""}), "invalid_request", "input"),
        (json!({"input": ["a"]}), "invalid_request", "input"),
        (
            json!({"input": "é".repeat(4097)}),
            "invalid_request",
            "input",
        ),
        (json!({"voice": null}), "invalid_request", "voice"),
        (json!({"voice": ""}), "invalid_request", "voice"),
        (json!({"voice": {}}), "invalid_request", "voice.id"),
        (
            json!({"voice": {"id": "v", "name": "n"}}),
            "unsupported_field",
            "voice.name",
        ),
        (
            json!({"instructions": "é".repeat(4097)}),
            "invalid_request",
            "instructions",
        ),
        (
            json!({"response_format": "midi"}),
            "invalid_request",
            "response_format",
        ),
        (json!({"speed": 0.2}), "invalid_request", "speed"),
        (json!({"speed": 4.1}), "invalid_request", "speed"),
        (json!({"speed": "1"}), "invalid_request", "speed"),
        (
            json!({"stream_format": "sse"}),
            "unsupported_field",
            "stream_format",
        ),
        (
            json!({"stream_format": "raw"}),
            "invalid_request",
            "stream_format",
        ),
        (json!({"stream": true}), "unsupported_field", "stream"),
        (json!({"user": "me"}), "unsupported_field", "user"),
    ];
    for (fields, code, param) in cases {
        let answer = ask(&alice, and(speak("a"), &fields)).await;
        let answer = answer.refused(400, code);
        let shown: String = fields.to_string().chars().take(80).collect();
        assert_eq!(
            answer.json()["error"]["param"],
            param,
            "{shown}: {}",
            answer.text()
        );
    }
    let chat = and(speak("a"), &json!({"model": "gpt-4o-mini"}));
    ask(&alice, chat).await.refused(403, "model_not_allowed");
    assert_eq!((door.upstream.count(), door.ledger_rows().len()), (0, 0));

    // Without a model: the first of the plan that speaks.
    let mut body = speak("a");
    body.as_object_mut().unwrap().remove("model");
    let answer = ask(&alice, body).await.expect(200);
    assert_eq!(door.row(&answer).await.model.as_deref(), Some("voice"));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_in_characters_is_never_passed_by_requests_at_once() {
    let door = Door::open(limited(r#"{ per = "day", characters = 350 }"#)).await;
    let alice = door.user("alice");
    let watch = Door::watch(&alice);
    door.upstream.always(|seen| {
        let steps = vec![
            Step::Wait(Duration::from_millis(150)),
            Step::Body(SOUND.to_vec()),
        ];
        sound(seen, "audio/mpeg", steps)
    });
    // A hundred characters each: three fit.
    let asked = (0..12).map(|_| {
        let alice = alice.clone();
        let text = "a".repeat(100);
        tokio::spawn(async move { ask(&alice, json!({"input": text, "voice": "v"})).await })
    });
    let mut spoken = 0;
    for answer in asked.collect::<Vec<_>>() {
        let answer = answer.await.unwrap();
        if answer.status == 200 {
            spoken += 1;
        } else {
            let answer = answer.refused(402, "quota_exceeded");
            assert_eq!(answer.json()["error"]["limit"]["unit"], "characters");
        }
    }
    assert_eq!((spoken, door.upstream.count()), (3, 3));
    drop(watch);
    let rows = door.quiet_rows().await;
    assert_eq!(
        rows.iter().filter_map(|row| row.characters).sum::<i64>(),
        300
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_in_mid_answer_pays_for_what_was_ordered() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    door.upstream.next(|seen| {
        sound(
            seen,
            "audio/mpeg",
            vec![Step::Body(SOUND.to_vec()), Step::Stall],
        )
    });
    let body = speak("a");
    let mut open = alice.front.open(call(&alice, &body)).await.unwrap();
    assert!(open.read_on().await);
    let answer = open.so_far().clone();
    open.hang_up();
    let row = door.row(&answer).await;
    assert_eq!(row.cost(), characters(&body) * MICROS as i64, "{row:?}");
    assert_eq!(
        (row.state.as_str(), row.flags),
        ("settled", vec!["cancelled".to_owned()])
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_that_breaks_off_breaks_off_for_its_caller_and_is_charged() {
    let door = Door::open(settings().with(r#"proxy.idle_timeout = "1s""#)).await;
    let alice = door.user("alice");
    for (step, flag) in [
        (Step::Reset, "cut"),
        (Step::Close, "cut"),
        (Step::Stall, "timeout"),
    ] {
        let heard = Step::Wait(Duration::from_millis(200));
        let steps = vec![Step::Body(SOUND.to_vec()), heard, step];
        door.upstream
            .next(move |seen| sound(seen, "audio/mpeg", steps.clone()));
        let body = speak("a");
        let open = alice.front.open(call(&alice, &body)).await.unwrap();
        let answer = open.rest().await;
        assert_eq!((answer.status, answer.whole), (200, false), "{flag}");
        let row = door.row(&answer).await;
        assert_eq!(
            (row.cost(), row.state.as_str(), row.flags),
            (
                characters(&body) * MICROS as i64,
                "settled",
                vec![flag.to_owned()]
            )
        );
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_with_a_key_that_breaks_off_at_once_is_heard_or_told_how_it_ended() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    let steps = [Step::Body(SOUND.to_vec()), Step::Reset];
    door.upstream
        .always(move |seen| sound(seen, "audio/mpeg", steps.to_vec()));
    // Its caller is told of the head and of the end at nearly the same time: whichever is heard first.
    for number in 0..60 {
        let body = speak("a");
        let keyed = call(&alice, &body).header("idempotency-key", &number.to_string());
        let answer = alice.front.open(keyed).await.unwrap().rest().await;
        if answer.status == 200 || answer.code() == "upstream_error" {
            continue;
        }
        let is_open = !answer.header("retry-after").is_empty();
        let request = answer.refused(409, "answer_gone").json()["error"]["request"].clone();
        assert_eq!(is_open, request["state"].is_null(), "{request}");
        assert_eq!(is_open, request["cost_usd"].is_null(), "{request}");
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_sound_is_passed_on_as_such() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    for (said, format, told) in [
        ("audio/L16; rate=24000", "pcm", "audio/l16; rate=24000"),
        ("application/octet-stream", "opus", "audio/ogg"),
        ("", "wav", "audio/wav"),
    ] {
        door.upstream
            .next(move |seen| sound(seen, said, vec![Step::Body(SOUND.to_vec())]));
        let body = and(speak("a"), &json!({"response_format": format}));
        let answer = ask(&alice, body).await.expect(200);
        assert_eq!(answer.header("content-type"), told);
    }
    let json = "application/json";
    let cases: [(Reply, u16, &str, &str); 5] = [
        (
            Reply::error(400, "bad_voice", "No."),
            400,
            "bad_voice",
            "voided",
        ),
        (
            Reply::error(500, "oops", "No."),
            502,
            "upstream_error",
            "voided",
        ),
        (
            Reply::error(429, "slow_down", "No."),
            503,
            "upstream_unavailable",
            "voided",
        ),
        (
            Reply::status(200, json, r#"{"error": {"message": "No."}}"#).booked(Books::free()),
            502,
            "upstream_error",
            "voided",
        ),
        (
            Reply::status(200, "text/html", "<script>alert(1)</script>"),
            502,
            "upstream_error",
            "settled",
        ),
    ];
    for (reply, status, code, state) in cases {
        door.upstream.next(move |_| reply.clone());
        let answer = ask(&alice, speak("a")).await.refused(status, code);
        let row = door.row(&answer).await;
        assert_eq!(row.state, state, "{code}: {row:?}");
        let charged = if state == "voided" {
            Some(0)
        } else {
            row.held_micros
        };
        assert_eq!(row.cost_micros, charged, "{code}: {row:?}");
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_with_a_key_is_there_for_who_comes_back() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    let body = speak("a");
    let keyed = call(&alice, &body).header("Idempotency-Key", "say-1");
    door.upstream.next(|seen| {
        let pause = Step::Wait(Duration::from_millis(300));
        let piece = Step::Body(SOUND.to_vec());
        sound(seen, "audio/mpeg", vec![piece.clone(), pause, piece])
    });
    let mut open = alice.front.open(keyed.clone()).await.unwrap();
    assert!(open.read_on().await);
    let first = open.so_far().clone();
    open.hang_up();

    let id = first.id().unwrap();
    let kept = alice.get(&format!("/api/answers/{id}")).await.expect(200);
    assert_eq!(kept.body, [SOUND, SOUND].concat());
    assert_eq!(kept.header("content-type"), "audio/mpeg");
    let again = door.send(keyed).await.expect(200);
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(again.body, kept.body);
    let row = door.row(&first).await;
    assert_eq!((door.upstream.count(), row.flags.len()), (1, 0), "{row:?}");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn built_in_models_are_charged_by_their_own_prices() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    let answer = ask(
        &alice,
        json!({"model": "tts-1", "input": "é".repeat(100), "voice": "v"}),
    );
    let row = door.row(&answer.await.expect(200)).await;
    assert_eq!((row.characters, row.cost()), (Some(100), 1500));

    // Priced in tokens, of which sound tells none: three of text, and eight of sound for each.
    let body = json!({"model": "gpt-4o-mini-tts", "input": "one two three", "voice": "v"});
    let row = door.row(&ask(&alice, body).await.expect(200)).await;
    assert_eq!(
        (row.input_tokens, row.output_tokens, row.characters),
        (Some(3), Some(24), Some(13))
    );
    assert_eq!((row.cost(), row.cost_micros), (290, row.held_micros));
    assert_eq!(row.flags, ["estimated"]);
    door.close_without_prices().await;
}
