//! `/v1/messages` and its counting from the door: what is sent, what is charged, and how it is refused.

use serde_json::{Value, json};

use crate::support::caller::{Answer, Call, User, and, chat};
use crate::support::door::Door;
use crate::support::oracle::invoice;
use crate::support::reply::{Reply, Step, WORD};
use crate::support::settings::Settings;
use crate::support::zoo::claude::{self, TALKS};
use crate::support::zoo::{Scene, Stage, Trouble};

const PATH: &str = "/v1/messages";
const COUNT: &str = "/v1/messages/count_tokens";

/// A request, with a serial by which the oracle finds the upstream's line.
fn message(text: &str) -> Value {
    and(chat(text), &json!({"model": TALKS, "max_tokens": 400}))
}

async fn ask(user: &User, body: &Value) -> Answer {
    user.post(PATH, body).await
}

/// A door with Anthropic behind it.
async fn open(settings: Settings) -> (Door, Stage, User) {
    let door = Door::open(claude::with(settings)).await;
    let (stage, alice) = (Stage::of(&door.upstream), door.user("alice"));
    (door, stage, alice)
}

fn limited(limits: &str) -> Settings {
    Settings::new().with(&format!("plans.free.limits = [{limits}]"))
}

/// All bytes that the upstream wrote last.
fn written(stage_of: &Reply) -> Vec<u8> {
    let bytes = stage_of.steps.iter().filter_map(|step| match step {
        Step::Generated(bytes, _) | Step::Body(bytes) => Some(bytes.clone()),
        _ => None,
    });
    bytes.flatten().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_and_streamed_answers_pass_as_they_came_and_are_charged_as_the_books_say() {
    let (door, stage, alice) = open(Settings::new()).await;
    let thinking =
        json!({"thinking": {"type": "enabled", "budget_tokens": 1100}, "max_tokens": 2000});
    let hour = json!({"cache_control": {"type": "ephemeral", "ttl": "1h"}});
    let minutes = json!({"cache_control": {"type": "ephemeral"}});
    let tool = json!({"tools": [{"name": "look", "description": "Looks.", "input_schema": {"type": "object"}}]});
    let plain = json!({});
    let cached = Scene {
        cached: true,
        ..Scene::words(7)
    };
    let thinks = Scene {
        thinks: 900,
        cached: true,
        ..Scene::words(20)
    };
    let calls = Scene {
        calls_a_tool: true,
        ..Scene::words(6)
    };
    for stream in [false, true] {
        for (scene, fields) in [
            (Scene::words(7), &plain),
            (Scene::words(0), &plain),
            (Scene::words(5_000), &plain),
            (cached.clone(), &minutes),
            (cached.clone(), &hour),
            (thinks.clone(), &thinking),
            (calls.clone(), &tool),
        ] {
            let body = and(and(message("tell me"), fields), &json!({"stream": stream}));
            stage.plays(&body, scene.clone());
            let answer = ask(&alice, &body).await.expect(200);
            let served = door.upstream.last();
            let wrote = written(&claude::reply(&scene, &served.seen));
            assert_eq!(answer.text(), String::from_utf8(wrote).unwrap());
            let kind = ["application/json", "text/event-stream"][usize::from(stream)];
            assert_eq!(answer.header("content-type"), kind);
            let row = door.row(&answer).await;
            let billed = invoice(&served, (4_000_000, 400_000, 20_000_000));
            assert_eq!(row.cost(), billed, "{fields} {scene:?} {row:?}");
            assert!(
                row.flags.is_empty() && row.cost() <= row.held_micros.unwrap(),
                "{row:?}"
            );
            assert_eq!(
                (row.endpoint.as_deref(), row.upstream.as_deref()),
                (Some(PATH), Some("anthropic"))
            );
        }
    }
    // What is sent: the user is a hash, the tier the standard one, of the betas those that the settings list.
    let body = and(
        message("as me"),
        &json!({"metadata": {"user_id": "me"}, "service_tier": "auto", "model": "claude-haiku-4-5-20251001", "temperature": 1}),
    );
    let call = Call::post("/v1/messages?beta=true", &body)
        .header("x-api-key", &alice.token)
        .header("anthropic-version", "2099-01-01")
        .header("anthropic-beta", "fast-mode-2026-02-01, other-2026-01-01")
        .header("anthropic-beta", "context-1m-2025-08-07")
        .header("anthropic-dangerous-direct-browser-access", "true");
    let answer = door.send(call).await.expect(200);
    let seen = door.upstream.last().seen;
    assert_eq!(
        seen.request.header("anthropic-beta"),
        Some("context-1m-2025-08-07,other-2026-01-01")
    );
    assert_eq!(
        seen.request
            .header("anthropic-dangerous-direct-browser-access"),
        None
    );
    assert_eq!(
        (
            &seen.body["model"],
            &seen.body["service_tier"],
            &seen.body["temperature"]
        ),
        (
            &json!("claude-haiku-4-5"),
            &json!("standard_only"),
            &json!(1)
        )
    );
    let user = seen.body["metadata"]["user_id"].as_str().unwrap();
    assert!(user.len() >= 16 && user != "me", "{user}");
    let row = door.row(&answer).await;
    assert_eq!(
        (row.model.as_deref(), row.requested_model.as_deref()),
        (Some("claude-haiku-4-5"), Some("claude-haiku-4-5-20251001"))
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::too_many_lines, reason = "a table of cases")]
async fn refusals_have_anthropics_shape_and_our_code() {
    let (door, stage, alice) = open(limited(r#"{ per = "day", requests = 40 }"#)).await;
    let post = |body: &Value| Call::post(PATH, body).bearer(&alice.token);
    let ok = message("hi");
    let mut uncapped = ok.clone();
    uncapped.as_object_mut().unwrap().remove("max_tokens");
    let file = json!({"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}]});
    let bodies = [
        (uncapped, "invalid_request", "max_tokens"),
        (
            and(
                ok.clone(),
                &json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
            ),
            "unsupported_field",
            "tools[0].type",
        ),
        (
            and(ok.clone(), &json!({"mcp_servers": [{}]})),
            "unsupported_field",
            "mcp_servers",
        ),
        (
            and(ok.clone(), &json!({"container": "x"})),
            "unsupported_field",
            "container",
        ),
        (
            and(ok.clone(), &json!({"service_tier": "priority"})),
            "unsupported_field",
            "service_tier",
        ),
        (
            and(ok.clone(), &file),
            "unsupported_field",
            "messages[0].content[0].source.file_id",
        ),
        (
            and(ok.clone(), &json!({"system": "word ".repeat(40_000)})),
            "invalid_request",
            "messages",
        ),
    ];
    for (body, code, path) in bodies {
        let answer = door.send(post(&body)).await.refused(400, code);
        let told = answer.json();
        assert_eq!(told["error"]["type"], "invalid_request_error");
        let message = told["error"]["message"].as_str().unwrap();
        assert!(message.contains(path), "{message}");
        assert_eq!(told["error"].as_object().unwrap().len(), 2, "{told}");
    }
    let calls = [
        (Call::post(PATH, &ok), 401, "missing_token"),
        (
            Call::post(PATH, &ok).header("x-api-key", "nonsense"),
            401,
            "invalid_token",
        ),
        (
            Call::post(PATH, &ok)
                .header("x-api-key", &alice.token)
                .bearer(&door.user("bob").token),
            401,
            "invalid_token",
        ),
        (
            post(&and(ok.clone(), &json!({"model": "gpt-4o-mini"}))),
            403,
            "model_not_allowed",
        ),
        (
            post(&and(ok.clone(), &json!({"model": "claude-opus-4-5"}))),
            403,
            "model_not_allowed",
        ),
        (post(&ok).path("/v1/messages/batches"), 404, "not_found"),
        (post(&ok).method("GET"), 405, "method_not_allowed"),
        (post(&ok).bytes("x".repeat(9 << 20)), 413, "body_too_large"),
        (
            post(&ok).header("content-encoding", "gzip"),
            415,
            "unsupported_media_type",
        ),
        (
            post(&ok).header("x-much", &"x".repeat(33_000)),
            431,
            "headers_too_large",
        ),
    ];
    for (call, status, code) in calls {
        door.send(call).await.refused(status, code);
    }
    // What the upstream says: about the request, about itself, in mid-stream.
    for (trouble, status, code) in [
        (Trouble::Invalid, 400, "invalid_request"),
        (Trouble::TooLarge, 400, "invalid_request"),
        (Trouble::BadKey, 502, "upstream_error"),
        (Trouble::Failure, 502, "upstream_error"),
        (Trouble::Busy, 503, "upstream_unavailable"),
        (Trouble::Overloaded, 503, "upstream_unavailable"),
    ] {
        let body = message("trouble");
        stage.plays(&body, Scene::trouble(trouble));
        let answer = ask(&alice, &body).await.refused(status, code);
        let row = door.row(&answer).await;
        assert_eq!(
            (row.state.as_str(), row.cost()),
            ("voided", 0),
            "{trouble:?}"
        );
    }
    let body = and(message("fails"), &json!({"stream": true}));
    stage.plays(&body, Scene::trouble(Trouble::ErrorFirst));
    let answer = ask(&alice, &body).await.expect(200);
    let id = answer.header("x-request-id");
    let error =
        json!({"type": "api_error", "message": "The model's provider failed in mid-answer."});
    let told = json!({"type": "error", "error": error, "request_id": id});
    assert_eq!(answer.text(), format!("event: error\ndata: {told}\n\n"));
    assert_eq!(door.row(&answer).await.state, "voided");
    door.close().await;

    // A limit says which one it is, and when it ends.
    let (door, _, alice) = open(limited(
        r#"{ per = "day", requests = 1 }, { per = "minute", requests = 2 }"#,
    ))
    .await;
    ask(&alice, &message("one")).await.expect(200);
    let refused = ask(&alice, &message("two"))
        .await
        .refused(402, "quota_exceeded");
    let error = refused.json()["error"].clone();
    assert_eq!(
        (&error["type"], &error["limit"]["per"]),
        (&json!("billing_error"), &json!("day"))
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn near_a_limit_the_cap_and_the_budget_of_thoughts_shrink() {
    let tokens = |tokens: u32| limited(&format!(r#"{{ per = "day", tokens = {tokens} }}"#));
    let (door, stage, alice) = open(tokens(2_600)).await;
    let thinking = |budget: u32| {
        let fields =
            json!({"max_tokens": 4000, "thinking": {"type": "enabled", "budget_tokens": budget}});
        and(message("think"), &fields)
    };
    let body = thinking(3_500);
    let scene = Scene {
        thinks: 4_000,
        ..Scene::words(4_000)
    };
    stage.plays(&body, scene);
    let answer = ask(&alice, &body).await.expect(200);
    let sent = door.upstream.last().seen.body.clone();
    let (cap, budget) = (
        sent["max_tokens"].as_u64().unwrap(),
        sent["thinking"]["budget_tokens"].as_u64().unwrap(),
    );
    assert!(
        (1_088..2_600).contains(&cap) && budget == cap - 64,
        "{sent}"
    );
    assert_eq!(door.row(&answer).await.output_tokens, Some(cap as i64));
    // Less is left than the least that a model can be given to think.
    let refused = ask(&alice, &thinking(1_024))
        .await
        .refused(402, "quota_exceeded");
    assert_eq!(refused.json()["error"]["limit"]["unit"], "tokens");
    door.close().await;

    // The plan's own cap is too small for thoughts; without them it is only lowered.
    let small = claude::with(tokens(100_000)).with("plans.free.max_output_tokens = 300");
    let door = Door::open(small).await;
    let (_stage, alice) = (Stage::of(&door.upstream), door.user("alice"));
    ask(&alice, &thinking(1_024))
        .await
        .refused(402, "quota_exceeded");
    ask(&alice, &and(message("a"), &json!({"max_tokens": 16_000})))
        .await
        .expect(200);
    assert_eq!(door.upstream.last().seen.body["max_tokens"], 300);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_cut_or_says_nothing_of_its_usage_is_estimated_or_charged_its_hold() {
    let (door, stage, alice) = open(Settings::new()).await;
    let cut = |words: u64, step: Step| Scene {
        cut: Some((words, step)),
        ..Scene::words(50)
    };
    let thinks = Scene {
        thinks: 300,
        ..cut(9, Step::Reset)
    };
    let mute = Scene {
        mute: true,
        ..Scene::words(12)
    };
    let fields = json!({"max_tokens": 2000, "thinking": {"type": "adaptive"}});
    for (scene, fields, is_hold) in [
        (cut(0, Step::Reset), json!({}), true),
        (cut(9, Step::Reset), json!({}), false),
        (cut(9, Step::Close), json!({}), false),
        (thinks, fields.clone(), true),
        (mute.clone(), json!({}), false),
        (
            Scene {
                thinks: 300,
                ..mute
            },
            fields,
            true,
        ),
    ] {
        let body = and(and(message("long"), &fields), &json!({"stream": true}));
        stage.plays(&body, scene.clone());
        let answer = ask(&alice, &body).await.expect(200);
        let row = door.row(&answer).await;
        let is_held = row.cost_micros == row.held_micros;
        assert!(
            row.has("estimated") && is_held == is_hold,
            "{scene:?} {row:?}"
        );
        let heard = answer.said().matches(WORD).count() as i64;
        assert!(is_hold || row.output_tokens >= Some(heard), "{row:?}");
        if scene.cut.is_some() {
            assert!(
                answer.text().contains("event: error\ndata: {"),
                "{}",
                answer.text()
            );
        }
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_kept_with_the_names_of_its_events() {
    let (door, stage, alice) = open(Settings::new()).await;
    for stream in [false, true] {
        let body = and(message("once"), &json!({"stream": stream}));
        stage.plays(&body, Scene::words(9));
        let call = || {
            let call = Call::post(PATH, &body).header("x-api-key", &alice.token);
            call.header("idempotency-key", &format!("key-{stream}"))
        };
        let first = door.send(call()).await.expect(200);
        let again = door.send(call()).await.expect(200);
        assert_eq!((again.text(), again.id()), (first.text(), first.id()));
        assert_eq!(again.header("idempotent-replayed"), "true");
        let other = call().bytes(message("other").to_string());
        door.send(other)
            .await
            .refused(422, "idempotency_key_reused");
        let id = first.header("x-request-id");
        let rest = alice
            .get(&format!("/api/answers/{id}?after=3"))
            .await
            .expect(200);
        if stream {
            let text = rest.text();
            assert!(
                text.starts_with("id: 4\nevent: content_block_delta\ndata: {"),
                "{text}"
            );
            assert!(
                text.ends_with("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"),
                "{text}"
            );
        }
    }
    assert_eq!(door.upstream.count(), 2);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counting_is_free_and_counts_per_minute_and_hour_only() {
    let limits = r#"{ per = "hour", requests = 3 }, { per = "day", requests = 1 }, { per = "day", tokens = 500 }"#;
    let (door, _, alice) = open(limited(limits)).await;
    let body = |text: &str| {
        let mut body = message(text);
        body.as_object_mut().unwrap().remove("max_tokens");
        body
    };
    ask(&alice, &message("paid")).await.expect(200);
    ask(&alice, &message("paid"))
        .await
        .refused(402, "quota_exceeded");
    let long = and(body("count"), &json!({"system": "word ".repeat(40_000)}));
    for body in [body("count"), long] {
        let call = Call::post(COUNT, &body).header("x-api-key", &alice.token);
        let answer = door.send(call).await.expect(200);
        assert!(answer.json()["input_tokens"].as_u64().unwrap() > 8);
        let seen = door.upstream.last().seen;
        assert_eq!(seen.request.target, COUNT);
        assert_eq!(
            (&seen.body["metadata"], &seen.body["max_tokens"]),
            (&Value::Null, &Value::Null)
        );
        let row = door.row(&answer).await;
        assert_eq!(
            (row.state.as_str(), row.cost(), row.endpoint.as_deref()),
            ("voided", 0, Some(COUNT))
        );
    }
    alice
        .post(COUNT, &body("more"))
        .await
        .refused(429, "rate_limited");
    let me = alice.me().await;
    let used: Vec<&Value> = me["limits"]
        .as_array()
        .unwrap()
        .iter()
        .map(|limit| &limit["used"])
        .collect();
    assert_eq!(used[..2], [&json!(3), &json!(1)], "{me}");
    let wrong = and(body("x"), &json!({"max_tokens": 5}));
    alice
        .post(COUNT, &wrong)
        .await
        .refused(400, "unsupported_field");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn models_of_anthropics_api_serve_messages_and_nothing_else() {
    let (door, _, alice) = open(Settings::new()).await;
    alice
        .ask(and(chat("a"), &json!({"model": TALKS})))
        .await
        .refused(403, "model_not_allowed");
    let mut unnamed = message("a");
    unnamed.as_object_mut().unwrap().remove("model");
    let answer = ask(&alice, &unnamed).await.expect(200);
    assert_eq!(door.row(&answer).await.model.as_deref(), Some(TALKS));
    let models = Call::get("/v1/models").header("x-api-key", &alice.token);
    let listed = door.send(models).await.expect(200).json();
    assert_eq!(listed["data"][1]["id"], TALKS);
    let checked = door.must(&["check"]);
    assert!(checked.contains("(anthropic, with a key)"), "{checked}");
    door.close().await;
    // A server that speaks both APIs, as Ollama does.
    let both = r#"
        [prices.gpt-local]
        free = true
        endpoints = ["chat", "messages"]
        [plans.free]
        models = ["gpt-local"]
        "#;
    let door = Door::open(Settings::new().with(both)).await;
    let alice = door.user("alice");
    door.upstream.next(|seen| {
        assert_eq!(seen.request.header("anthropic-version"), Some("2023-06-01"));
        let body = json!({"type": "message", "content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn",
                          "usage": {"input_tokens": 9, "output_tokens": 1}});
        Reply::status(200, "application/json", body.to_string())
    });
    let answer = ask(&alice, &and(message("a"), &json!({"model": "gpt-local"})))
        .await
        .expect(200);
    assert_eq!(door.row(&answer).await.tokens(), 10);
    door.close_unjudged();
}

/// What Anthropic's package for Apple's Foundation Models sends where it is proxied: fixed headers, adaptive thinking with
/// a summary, the whole prompt cached, 16,000 tokens at most, always as a stream.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_swift_package_for_foundation_models_sends_is_taken() {
    let (door, stage, alice) = open(Settings::new()).await;
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": false});
    let asked = json!({
        "system": "Be concise.", "max_tokens": 16_000, "stream": true,
        "thinking": {"type": "adaptive", "display": "summarized"},
        "cache_control": {"type": "ephemeral"},
        "tools": [{"name": "getWeather", "description": "Returns weather.", "input_schema": schema}],
        "output_config": {"format": {"type": "json_schema", "schema": schema}, "effort": "high"},
    });
    let first = and(message("Weather in SF?"), &asked);
    stage.plays(
        &first,
        Scene {
            calls_a_tool: true,
            thinks: 50,
            cached: true,
            ..Scene::words(4)
        },
    );
    let question = first["messages"][0].clone();
    let turn = json!([
        {"role": "user", "content": [{"type": "text", "text": question["content"]}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "I should check.", "signature": "qrs="},
            {"type": "tool_use", "id": "call_1", "name": "getWeather", "input": {"city": "SF", "n": [1.5, null, {}]}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "72F sunny"}]},
        ]},
    ]);
    let second = and(
        and(message("x"), &asked),
        &json!({"messages": turn, "tool_choice": {"type": "any"}}),
    );
    for body in [first, second] {
        let call = Call::post(PATH, &body)
            .header("anthropic-version", "2023-06-01")
            .header("user-agent", "ClaudeForFoundationModels/0.1.4")
            .header("accept", "text/event-stream")
            .header("X-Tollgate-Token", &alice.token);
        let answer = door.send(call).await.expect(200);
        assert!(answer.text().starts_with("event: message_start\n"));
        let mut sent = door.upstream.last().seen.body.clone();
        let mut wanted = body.clone();
        assert_eq!(sent["max_tokens"], 4_000);
        for name in ["max_tokens", "metadata", "service_tier"] {
            sent.as_object_mut().unwrap().remove(name);
            wanted.as_object_mut().unwrap().remove(name);
        }
        assert_eq!(sent, wanted);
        assert!(door.row(&answer).await.flags.is_empty());
    }
    door.close().await;
}
