//! The plan that is there without a file, against an OpenAI that behaves as today's does: what it shut down is gone, and a
//! model that reasons refuses what does not go with reasoning.

use serde_json::{Value, json};

use crate::support::caller::{and, chat, chat_stream};
use crate::support::door::Door;
use crate::support::faketime;
use crate::support::reply::{Reply, honest};
use crate::support::settings::Settings;
use crate::support::tools::{Tool, installed};
use crate::support::upstream::Seen;

/// The models that OpenAI has, and whether they take the effort `none`.
const ALIVE: [(&str, bool); 6] = [
    ("gpt-6-luna", true),
    ("gpt-4o-mini", false),
    ("gpt-4.1-mini", false),
    ("gpt-5-mini", false),
    ("gpt-5-nano", false),
    ("gpt-6.1-terra", false),
];
/// After 14 January 2027.
const ALIVE_LATER: [(&str, bool); 2] = [("gpt-6-luna", true), ("gpt-6.1-terra", false)];

fn openai(seen: &Seen, alive: &[(&str, bool)]) -> Reply {
    let body = &seen.body;
    let model = body["model"].as_str().unwrap_or_default();
    let Some((_, takes_none)) = alive.iter().find(|(name, _)| *name == model) else {
        return Reply::error(
            404,
            "model_not_found",
            &format!("The model `{model}` has been deprecated."),
        );
    };
    let refuse = |param: &str, message: &str| {
        let error = json!({"message": message, "type": "invalid_request_error", "param": param, "code": "unsupported_value"});
        Reply::status(400, "application/json", json!({"error": error}).to_string())
    };
    if model.starts_with("gpt-4") {
        return if body["reasoning_effort"].is_null() {
            honest(seen)
        } else {
            refuse("reasoning_effort", "no reasoning")
        };
    }
    let effort = body["reasoning_effort"].as_str().unwrap_or("medium");
    let is_older = model.starts_with("gpt-5");
    if (effort == "none" && !takes_none) || (effort == "minimal" && !is_older) {
        return refuse("reasoning_effort", "Unsupported value");
    }
    if effort != "none"
        && ["temperature", "top_p", "logprobs"]
            .iter()
            .any(|field| !body[field].is_null())
    {
        return refuse(
            "temperature",
            "Unsupported value: only the default is supported with reasoning.",
        );
    }
    if effort != "none" && !is_older && !body["tools"].is_null() {
        return refuse(
            "tools",
            "Use /v1/responses, or set reasoning_effort to 'none'.",
        );
    }
    honest(seen)
}

/// Only the quick start's variables, with the fake in OpenAI's place.
fn settings() -> Settings {
    Settings::without_file().env("TOLLGATE_UPSTREAMS__0__DIALECT", "openai")
}

fn seed(model: &str) -> Value {
    and(
        chat("Hello!"),
        &json!({"model": model, "temperature": 0.7, "max_tokens": 1000}),
    )
}

const WEATHER: &str = r#"{"tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]}"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_seeds_request_is_answered_by_what_took_the_place_of_its_model() {
    let door = Door::open(settings()).await;
    door.upstream.always(|seen| openai(seen, &ALIVE));
    let alice = door.user("alice");

    let answer = alice
        .post("/api/chat", &seed("gpt-3.5-turbo"))
        .await
        .expect(200);

    let sent = door.upstream.last().seen.body.clone();
    assert_eq!(
        (&sent["model"], &sent["reasoning_effort"]),
        (&json!("gpt-6-luna"), &json!("none"))
    );
    assert_eq!(
        (&sent["temperature"], &sent["max_completion_tokens"]),
        (&json!(0.7), &json!(1000))
    );
    let row = door.row(&answer).await;
    assert_eq!(row.model.as_deref(), Some("gpt-6-luna"));
    // 0.10 and 0.50 dollars a million tokens.
    let tenths = row.input_tokens.unwrap() + 5 * row.output_tokens.unwrap();
    assert_eq!(row.cost(), (tenths + 9) / 10);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_name_of_the_plan_is_answered_today_with_and_without_tools() {
    let door = Door::open(settings().env(
        "TOLLGATE_PLANS__FREE__LIMITS",
        r#"[{ per = "day", requests = 500 }]"#,
    ))
    .await;
    door.upstream.always(|seen| openai(seen, &ALIVE));
    let alice = door.user("alice");
    let models: Vec<String> = serde_json::from_value(alice.me().await["models"].clone()).unwrap();
    for model in &models {
        alice
            .post("/v1/chat/completions", &seed(model))
            .await
            .expect(200);
        let fields =
            json!({"model": model, "top_p": 0.9, "stream_options": {"include_usage": true}});
        alice
            .ask(and(chat_stream("streamed"), &fields))
            .await
            .expect(200);
        let tools = and(seed(model), &serde_json::from_str(WEATHER).unwrap());
        alice.ask(tools).await.expect(200);
        // A model that does not reason refuses the field, and its caller hears so.
        let status = if ["gpt-4o-mini", "gpt-4.1-mini"].contains(&model.as_str()) {
            400
        } else {
            200
        };
        alice
            .ask(and(seed(model), &json!({"reasoning_effort": "high"})))
            .await
            .expect(status);
    }
    alice.ask(chat("the first of the plan")).await.expect(200);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_app_is_answered_when_the_next_models_are_gone() {
    if !installed(&[Tool::Faketime]) {
        return;
    }
    let door = Door::prepare(faketime::movable(settings())).await;
    // 20 January 2027, whenever this runs before it.
    let then: jiff::Timestamp = "2027-01-20T12:00:00Z".parse().unwrap();
    let seconds = then.as_second() - jiff::Timestamp::now().as_second();
    faketime::ahead(&door, seconds.max(0));
    door.start().await;
    door.upstream.always(|seen| openai(seen, &ALIVE_LATER));
    let alice = door.user("alice");
    for (asked, sent) in [
        ("gpt-4o-mini", "gpt-6-luna"),
        ("gpt-5-nano", "gpt-6-luna"),
        ("gpt-5-mini", "gpt-6.1-terra"),
        ("gpt-4.1-mini", "gpt-6-luna"),
    ] {
        let answer = alice.ask(seed(asked)).await.expect(200);
        assert_eq!(door.upstream.last().seen.body["model"], sent, "{asked}");
        assert_eq!(door.row(&answer).await.model.as_deref(), Some(sent));
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_ones_own_is_asked_by_the_name_that_the_app_says() {
    let door =
        Door::open(Settings::without_file().env("TOLLGATE_UPSTREAMS__0__DIALECT", "compatible"))
            .await;
    let alice = door.user("alice");
    alice.ask(seed("gpt-3.5-turbo")).await.expect(200);
    assert_eq!(door.upstream.last().seen.body["model"], "gpt-3.5-turbo");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_lowers_the_effort_and_without_its_word_the_app_decides() {
    let file = "plans.free.models = [\"gpt-6-luna\"]\nplans.free.reasoning_effort_max = \"low\"\n";
    let effort = |door: &Door| door.upstream.last().seen.body["reasoning_effort"].clone();
    let door = Door::open(Settings::new().with(file)).await;
    let alice = door.user("alice");
    for (asked, sent) in [
        (json!("high"), "low"),
        (json!("none"), "none"),
        (json!(null), "low"),
        (json!("low"), "low"),
    ] {
        alice
            .ask(and(
                chat("a"),
                &json!({"model": "gpt-6-luna", "reasoning_effort": asked}),
            ))
            .await
            .expect(200);
        assert_eq!(effort(&door), sent, "{asked}");
    }
    door.close().await;

    let door = Door::open(Settings::new().with("plans.free.models = [\"gpt-6-luna\"]")).await;
    let alice = door.user("alice");
    alice
        .ask(and(
            chat("a"),
            &json!({"model": "gpt-6-luna", "temperature": 0.5}),
        ))
        .await
        .expect(200);
    // The model reasons by itself, and would refuse a temperature.
    assert_eq!(
        (
            effort(&door),
            &door.upstream.last().seen.body["temperature"]
        ),
        (json!(null), &json!(null))
    );
    alice
        .ask(and(
            chat("a"),
            &json!({"model": "gpt-6-luna", "reasoning_effort": "high"}),
        ))
        .await
        .expect(200);
    assert_eq!(effort(&door), "high");
    door.close().await;
}
