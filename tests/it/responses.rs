//! `/v1/responses` from the door: what it takes, what it holds, what it is charged, and how its streams are told.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::caller::{Answer, Call, Open, User, and};
use crate::support::door::Door;
use crate::support::reply::{Reply, Step, WORD};
use crate::support::responses::{Play, Server, respond};
use crate::support::settings::Settings;

const PATH: &str = "/v1/responses";

/// The ordinary upstream, and one for the servers of the house that speak the same API.
fn settings() -> Settings {
    let price = "input = \"1\"\ncached_input = \"0.1\"\noutput = \"4\"\n";
    let prices: String = Server::ALL[1..]
        .iter()
        .map(|server| format!("[prices.\"{}\"]\n{price}", server.model))
        .collect();
    Settings::new()
        .with(&format!(
            "[[upstreams]]\nname = \"openai\"\nbase_url = \"{{upstream}}\"\napi_key_env = \"OPENAI_API_KEY\"\n\
             dialect = \"openai\"\nmodels = [\"gpt-*\", \"talks-*\"]\n\
             [[upstreams]]\nname = \"house\"\nbase_url = \"{{upstream}}\"\napi_key_env = \"OPENAI_API_KEY\"\n\
             dialect = \"compatible\"\nmodels = [\"*-model\"]\n{prices}"
        ))
        .with(r#"plans.free.models = ["gpt-4o-mini", "vllm-model", "llamacpp-model", "terse-model", "gpt-6-luna"]"#)
}

async fn ask(user: &User, body: &Value) -> Answer {
    user.post(PATH, body).await
}

async fn open(user: &User, body: &Value) -> Open {
    let call = Call::post(PATH, body).bearer(&user.token);
    user.front.open(call).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_server_is_charged_as_its_books_say() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    for server in Server::ALL {
        for stream in [false, true] {
            for play in [
                Play::words(7),
                Play::words(0),
                Play {
                    cached: 3,
                    ..Play::words(3)
                },
                Play {
                    thinks: 9,
                    ..Play::words(5)
                },
                Play {
                    calls: true,
                    ..Play::words(6)
                },
                Play {
                    other_form: true,
                    ..Play::words(4)
                },
                Play {
                    thinks: 9,
                    other_form: true,
                    ..Play::words(4)
                },
                // More than it may: the cap cuts it off.
                Play::words(500),
                Play {
                    thinks: 500,
                    ..Play::words(5)
                },
                Play {
                    mute: true,
                    ..Play::words(8)
                },
                Play {
                    mute: true,
                    thinks: 9,
                    ..Play::words(8)
                },
            ] {
                let fields =
                    json!({"model": server.model, "stream": stream, "max_output_tokens": 60});
                let told = play.clone();
                door.upstream.next(move |seen| server.reply(&told, seen));
                let answer = ask(&alice, &and(respond("tell me"), &fields))
                    .await
                    .expect(200);
                let what = format!("{} {stream} {play:?}: {}", server.model, answer.text());
                let kind = if stream {
                    "text/event-stream"
                } else {
                    "application/json"
                };
                assert_eq!(answer.header("content-type"), kind, "{what}");
                if !play.calls {
                    let most = 60 - play.thinks.min(60);
                    let heard = answer.said().matches(WORD).count() as u64;
                    assert!(heard >= play.words.min(most), "{what}");
                }
                let row = door.row(&answer).await;
                assert_eq!(
                    (row.state.as_str(), row.endpoint.as_deref()),
                    ("settled", Some(PATH)),
                    "{what}"
                );
                // A stream of the terse server has no end with a usage in it.
                let is_terse = server.model == "terse-model" && stream != play.other_form;
                assert_eq!(
                    row.has("estimated"),
                    play.mute || is_terse,
                    "{what} {row:?}"
                );
                assert!(!row.has("usage_nonsense"), "{what} {row:?}");
            }
        }
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_was_served_before_a_cut_is_charged() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    for server in Server::ALL {
        for after in [0, 1, 2, 5, 11] {
            for step in [
                Step::Reset,
                Step::Close,
                Step::Body(b"event: x\ndata: {\"type\": \"resp".to_vec()),
            ] {
                let is_plain = !matches!(step, Step::Body(_));
                let play = Play {
                    cut: Some((after, step)),
                    ..Play::words(12)
                };
                door.upstream.next(move |seen| server.reply(&play, seen));
                let fields = json!({"model": server.model, "stream": true});
                let answer = ask(&alice, &and(respond("cut"), &fields)).await.expect(200);
                let last: Value = serde_json::from_str(&answer.events().pop().unwrap()).unwrap();
                assert!(
                    answer.text().contains("\n\nevent: error\ndata: "),
                    "{}",
                    answer.text()
                );
                assert_eq!(
                    (&last["type"], &last["code"]),
                    (&json!("error"), &json!("upstream_error"))
                );
                assert_eq!(last["error"]["message"], last["message"]);
                let row = door.row(&answer).await;
                // Without a byte of text nobody knows what was generated.
                let charged = if after == 0 && is_plain {
                    row.held_micros
                } else {
                    row.cost_micros
                };
                assert_eq!(
                    (row.cost_micros, row.has("cut")),
                    (charged, true),
                    "{row:?}"
                );
                assert!(row.output_tokens >= Some(after as i64), "{row:?}");
            }
        }
        // A failure that the server tells: by its usage, by what was said, or nothing.
        for (after, tells) in [(3, true), (3, false), (0, false)] {
            let play = Play {
                fails: Some((after, tells)),
                ..Play::words(9)
            };
            door.upstream.next(move |seen| server.reply(&play, seen));
            let fields = json!({"model": server.model, "stream": true});
            let answer = ask(&alice, &and(respond("fail"), &fields))
                .await
                .expect(200);
            let text = answer.text();
            assert!(
                text.contains("event: response.failed\ndata: ") && !text.contains("event: error"),
                "{text}"
            );
            assert!(
                text.contains("\"code\":\"server_error\"") && !text.contains("org-secret"),
                "{text}"
            );
            let row = door.row(&answer).await;
            let state = if after == 0 { "voided" } else { "settled" };
            assert_eq!(
                (row.state.as_str(), row.has("upstream_failed")),
                (state, true),
                "{row:?}"
            );
            assert_eq!(row.has("estimated"), after > 0 && !tells, "{row:?}");
        }
    }
    // The caller leaves: what is left is read to its end.
    let play = Play {
        pause: Duration::from_millis(10),
        ..Play::words(30)
    };
    door.upstream
        .next(move |seen| Server::OPENAI.reply(&play, seen));
    let mut stream = open(&alice, &and(respond("leave"), &json!({"stream": true}))).await;
    stream.take(4).await;
    stream.hang_up();
    let rows = door.quiet_rows().await;
    assert!(
        rows.iter()
            .any(|row| row.has("cancelled") && row.output_tokens == Some(30)),
        "{rows:?}"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_is_sent_and_what_is_always_said_is_said() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    let input = json!([
        {"role": "user", "content": "one"},
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "two"}]},
        {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": "gAAAA"},
        {"id": "rs_2", "type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"id": "fc_1", "type": "function_call", "status": "completed", "call_id": "call_1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "seen"},
        {"type": "custom_tool_call", "call_id": "call_2", "name": "run", "input": "ls"},
        {"type": "custom_tool_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "a b"}]},
        {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "phase": "final_answer", "content": [
            {"type": "output_text", "text": "three", "annotations": [], "logprobs": []}, {"type": "refusal", "refusal": "no"}]},
    ]);
    let passed = json!({
        "instructions": "be brief", "temperature": 0.5, "top_p": 0.9, "parallel_tool_calls": false, "truncation": "auto",
        "include": ["reasoning.encrypted_content", "message.output_text.logprobs"], "top_logprobs": 2,
        "tools": [{"type": "function", "name": "look", "description": "looks", "parameters": {"type": "object", "properties": {}},
                   "strict": true},
                  {"type": "custom", "name": "run", "format": {"type": "grammar", "syntax": "lark", "definition": "start: x"}}],
        "tool_choice": {"type": "function", "name": "look"},
        "text": {"format": {"type": "json_schema", "name": "answer", "schema": {"type": "object"}, "strict": true}, "verbosity": "low"},
        "reasoning": {"summary": "auto"}, "stream": true, "stream_options": {"include_obfuscation": false},
    });
    let taken = json!({
        "store": false, "background": false, "service_tier": "auto", "user": "somebody", "safety_identifier": "somebody",
        "metadata": {"a": "somebody"}, "prompt_cache_key": "somebody", "max_tool_calls": 3, "previous_response_id": null,
        "conversation": null, "moderation": null, "max_output_tokens": 2000,
    });
    let body = and(and(respond("x"), &passed), &taken);
    let serial = json!({"role": "user", "content": body["input"]});
    let mut with_serial = input.as_array().unwrap().clone();
    with_serial.push(serial.clone());
    for model in ["gpt-4o-mini", "vllm-model"] {
        let body = and(body.clone(), &json!({"model": model, "input": with_serial}));
        let answer = ask(&alice, &body).await.expect(200);
        let sent = door.upstream.last().seen.body.clone();
        for (name, value) in passed.as_object().unwrap() {
            assert_eq!(sent[name], *value, "{name}");
        }
        let is_openai = model == "gpt-4o-mini";
        let mut wanted = with_serial.clone();
        if is_openai {
            // OpenAI keeps nothing of it, so it could not be found again.
            wanted.remove(3);
        }
        assert_eq!(sent["input"], json!(wanted));
        assert_eq!(
            (&sent["store"], &sent["max_output_tokens"], &sent["model"]),
            (&json!(false), &json!(1000), &json!(model))
        );
        let hashed = |name: &str| sent[name].as_str().map(str::len);
        assert_eq!(hashed("safety_identifier").is_some(), is_openai);
        assert_eq!(hashed("prompt_cache_key"), is_openai.then_some(32));
        assert_eq!(
            sent["service_tier"].as_str(),
            is_openai.then_some("default")
        );
        for name in [
            "metadata",
            "max_tool_calls",
            "user",
            "background",
            "previous_response_id",
        ] {
            assert!(sent.get(name).is_none(), "{name}: {sent}");
        }
        assert!(!sent.to_string().contains("somebody"), "{sent}");
        assert!(
            answer
                .text()
                .starts_with("event: response.created\ndata: {\"type\":\"response.created\"")
        );
    }
    // The same key of two users is two keys, and of one user it is one.
    let key_of = async |user: &User| {
        ask(
            user,
            &and(respond("x"), &json!({"prompt_cache_key": "shared"})),
        )
        .await
        .expect(200);
        door.upstream.last().seen.body["prompt_cache_key"].clone()
    };
    let bob = door.user("bob");
    let keys = (
        key_of(&alice).await,
        key_of(&bob).await,
        key_of(&alice).await,
    );
    assert!(keys.0 != keys.1 && keys.0 == keys.2, "{keys:?}");
    door.close().await;
}

/// A body with one field, and what names it in the refusal.
#[allow(clippy::too_many_lines, reason = "one list")]
fn refused() -> Vec<(Value, &'static str, &'static str)> {
    let item = |item: Value| json!({"input": [item]});
    let part = |part: Value| item(json!({"role": "user", "content": [part]}));
    let (bad, unsupported) = ("invalid_request", "unsupported_field");
    let mut cases = vec![
        (json!({"input": null}), bad, "input"),
        (json!({"input": ""}), bad, "input"),
        (json!({"input": []}), bad, "input"),
        (json!({"input": 7}), bad, "input"),
        (json!({"max_output_tokens": 15}), bad, "max_output_tokens"),
        (json!({"max_output_tokens": 1.5}), bad, "max_output_tokens"),
        (json!({"temperature": 3}), bad, "temperature"),
        (json!({"top_logprobs": 21}), bad, "top_logprobs"),
        (json!({"truncation": "some"}), bad, "truncation"),
        (
            json!({"stream_options": {"include_obfuscation": true}}),
            bad,
            "stream_options",
        ),
        (json!({"messages": []}), unsupported, "messages"),
        (json!({"max_tokens": 5}), unsupported, "max_tokens"),
        (
            json!({"service_tier": "priority"}),
            unsupported,
            "service_tier",
        ),
        (
            json!({"include": ["file_search_call.results"]}),
            unsupported,
            "include[0]",
        ),
        (
            json!({"reasoning": {"mode": "pro"}}),
            unsupported,
            "reasoning.mode",
        ),
        (
            json!({"reasoning": {"effort": "huge"}}),
            bad,
            "reasoning.effort",
        ),
        (
            json!({"text": {"format": {"type": "json_schema", "name": "a"}}}),
            bad,
            "text.format.schema",
        ),
        (
            json!({"text": {"format": {"type": "grammar"}}}),
            unsupported,
            "text.format.type",
        ),
        (
            json!({"tool_choice": {"type": "web_search"}}),
            unsupported,
            "tool_choice.type",
        ),
        (
            json!({"tools": [{"type": "function", "function": {"name": "a"}}]}),
            unsupported,
            "tools[0].function",
        ),
        (
            json!({"tools": [{"type": "function", "name": "a b"}]}),
            bad,
            "tools[0].name",
        ),
        (
            item(json!({"type": "item_reference", "id": "msg_1"})),
            unsupported,
            "input[0].type",
        ),
        (
            item(json!({"type": "computer_call_output"})),
            unsupported,
            "input[0].type",
        ),
        (item(json!({"id": "msg_1"})), bad, "input[0].type"),
        (item(json!({"role": "user"})), bad, "input[0].content"),
        (
            item(json!({"role": "robot", "content": "x"})),
            bad,
            "input[0].role",
        ),
        (
            item(json!({"role": "user", "content": "x", "extra": 1})),
            unsupported,
            "input[0].extra",
        ),
        (
            item(json!({"type": "function_call", "name": "a", "arguments": "{}"})),
            bad,
            "input[0].call_id",
        ),
        (
            item(json!({"type": "function_call_output", "call_id": "a"})),
            bad,
            "input[0].output",
        ),
        (
            item(json!({"type": "reasoning", "role": "user"})),
            bad,
            "input[0].role",
        ),
        (
            part(json!({"type": "input_image", "file_id": "file-1"})),
            unsupported,
            "input[0].content[0].file_id",
        ),
        (
            part(json!({"type": "input_file", "file_url": "https://a.b"})),
            unsupported,
            "input[0].content[0].file_url",
        ),
        (
            part(json!({"type": "input_file", "filename": "a.pdf"})),
            unsupported,
            "input[0].content[0].type",
        ),
        (
            part(json!({"type": "input_image"})),
            bad,
            "input[0].content[0].image_url",
        ),
        (
            part(json!({"type": "input_image", "image_url": "http://a.b/c"})),
            bad,
            "input[0].content[0].image_url",
        ),
        (
            part(json!({"type": "input_text", "text": "x", "prompt_cache_breakpoint": {}})),
            unsupported,
            "input[0].content[0].prompt_cache_breakpoint",
        ),
        (
            part(json!({"type": "output_text", "text": "x"})),
            unsupported,
            "input[0].content[0].type",
        ),
        (json!({"input": "word ".repeat(40_000)}), bad, "input"),
    ];
    for (name, value) in [
        ("previous_response_id", json!("resp_1")),
        ("conversation", json!("conv_1")),
        ("background", json!(true)),
        ("prompt", json!({"id": "pmpt_1"})),
        ("store", json!(true)),
        ("context_management", json!([{"type": "compaction"}])),
        ("moderation", json!({"model": "omni-moderation-latest"})),
        ("prompt_cache_options", json!({})),
        ("prompt_cache_retention", json!("24h")),
        ("unheard_of", json!(null)),
    ] {
        cases.push((json!({name: value}), unsupported, name));
    }
    for hosted in [
        "web_search",
        "file_search",
        "code_interpreter",
        "image_generation",
        "mcp",
        "shell",
        "computer_use_preview",
        "namespace",
    ] {
        cases.push((
            json!({"tools": [{"type": hosted}]}),
            unsupported,
            "tools[0].type",
        ));
    }
    cases
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_endpoint_does_not_take_is_refused_by_name() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    for (fields, code, param) in refused() {
        let answer = ask(&alice, &and(respond("a"), &fields))
            .await
            .refused(400, code);
        let shown: String = fields.to_string().chars().take(80).collect();
        assert_eq!(
            answer.json()["error"]["param"],
            param,
            "{shown}: {}",
            answer.text()
        );
    }
    assert_eq!((door.upstream.count(), door.ledger_rows().len()), (0, 0));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn near_a_limit_the_cap_shrinks_and_not_below_sixteen() {
    // Forty tokens fit with a prompt of some hundred and fifty; the floor of the settings is lower than the API's own.
    let door = Door::open(
        settings()
            .with("proxy.min_output_tokens = 1")
            .with(r#"plans.free.limits = [{ per = "day", tokens = 220 }]"#),
    )
    .await;
    let alice = door.user("alice");
    let answer = ask(&alice, &respond("short")).await.expect(200);
    let cap = door.upstream.last().seen.cap().unwrap();
    assert!((16..220).contains(&cap), "{cap}");
    let row = door.row(&answer).await;
    assert!(row.flags.is_empty() && row.tokens() < 40, "{row:?}");
    let mut refused = None;
    for _ in 0..12 {
        let answer = ask(&alice, &respond("short")).await;
        if answer.status == 402 {
            refused = Some(answer);
            break;
        }
        assert!(door.upstream.last().seen.cap().unwrap() >= 16);
    }
    let refused = refused
        .expect("a limit is a limit")
        .refused(402, "quota_exceeded");
    assert_eq!(refused.json()["error"]["limit"]["unit"], "tokens");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_lowers_the_effort_and_an_operators_name_says_how_to_ask() {
    let door = Door::open(
        settings()
            .with(
                r#"
                [models.fast]
                use = ["gpt-6-luna"]
                set = { reasoning_effort = "low", max_tokens = 500 }
                defaults = { verbosity = "low", temperature = 0.3 }
                [prices."talks-only"]
                free = true
                endpoints = ["chat"]
                "#,
            )
            .with(r#"plans.free.models = ["talks-only", "gpt-6-luna", "fast", "gpt-4o-mini"]"#)
            .with(r#"plans.free.reasoning_effort_max = "medium""#),
    )
    .await;
    let alice = door.user("alice");
    let sent = async |fields: Value| {
        ask(&alice, &and(respond("x"), &fields)).await.expect(200);
        door.upstream.last().seen.body.clone()
    };
    let body = sent(json!({"model": "gpt-6-luna", "temperature": 1, "reasoning": {"effort": "xhigh", "summary": "auto"},
        "include": ["message.output_text.logprobs"], "top_logprobs": 1}))
    .await;
    assert_eq!(
        body["reasoning"],
        json!({"effort": "medium", "summary": "auto"})
    );
    assert!(
        body.get("temperature").is_none()
            && body.get("include").is_none()
            && body.get("top_logprobs").is_none(),
        "{body}"
    );
    let body =
        sent(json!({"model": "gpt-6-luna", "temperature": 1, "reasoning": {"effort": "none"}}))
            .await;
    assert_eq!(
        (&body["reasoning"]["effort"], &body["temperature"]),
        (&json!("none"), &json!(1))
    );
    let body =
        sent(json!({"model": "fast", "text": {"verbosity": "high"}, "max_output_tokens": 900}))
            .await;
    assert_eq!(
        (
            &body["model"],
            &body["reasoning"]["effort"],
            &body["max_output_tokens"],
            &body["text"]["verbosity"]
        ),
        (
            &json!("gpt-6-luna"),
            &json!("low"),
            &json!(500),
            &json!("high")
        )
    );
    // Without a model it is the first that serves the endpoint.
    let body = sent(json!({"model": null})).await;
    assert_eq!(body["model"], "gpt-6-luna");
    let refused = ask(&alice, &and(respond("x"), &json!({"model": "talks-only"}))).await;
    let message = refused.refused(403, "model_not_allowed").json()["error"]["message"].to_string();
    assert!(
        message.contains("does not serve responses") && message.contains("gpt-4o-mini"),
        "{message}"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_held_by_its_size_and_by_url_at_its_most() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    let png = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
    let with = |url: &str, detail: &str| {
        let body = respond("look");
        let text = json!({"type": "input_text", "text": body["input"]});
        let image = json!({"type": "input_image", "image_url": url, "detail": detail});
        and(
            body,
            &json!({"input": [{"role": "user", "content": [text, image]}]}),
        )
    };
    let answer = ask(&alice, &with(png, "low")).await.expect(200);
    assert_eq!(
        door.upstream.last().seen.body["input"][0]["content"][1]["image_url"],
        png
    );
    let held = door.row(&answer).await.held_micros.unwrap();
    // 2,833 tokens at fifteen cents a million, and the cap's worth.
    assert!((400..1_200).contains(&held), "{held}");
    let refused = ask(&alice, &with("https://example.com/a.png", "high"))
        .await
        .refused(400, "invalid_request");
    assert_eq!(
        refused.json()["error"]["param"],
        "input[0].content[1].image_url"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_replayed_with_its_names_and_numbered_when_asked() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    let body = and(respond("again"), &json!({"stream": true}));
    let call = |resume: bool| {
        let call = Call::post(PATH, &body)
            .bearer(&alice.token)
            .header("idempotency-key", "key-1");
        if resume {
            call.header("x-tollgate-resume", "1")
        } else {
            call
        }
    };
    let first = door.send(call(false)).await.expect(200);
    let again = door.send(call(false)).await.expect(200);
    assert_eq!(
        (again.text(), again.header("idempotent-replayed")),
        (first.text(), "true")
    );
    assert!(
        first.text().ends_with("\n\n")
            && first.text().contains("event: response.completed\ndata: {")
    );
    let numbered = door.send(call(true)).await.expect(200).text();
    assert!(
        numbered.starts_with("id: 1\nevent: response.created\ndata: {"),
        "{numbered}"
    );
    let rest = alice
        .get(&format!(
            "/api/answers/{}?after=3",
            first.header("x-request-id")
        ))
        .await
        .expect(200)
        .text();
    let (_, after) = numbered.split_once("\n\nid: 4\n").unwrap();
    assert_eq!(rest, format!("id: 4\n{after}"));
    let other = and(body.clone(), &json!({"stream": false}));
    let reused = Call::post(PATH, &other)
        .bearer(&alice.token)
        .header("idempotency-key", "key-1");
    door.send(reused)
        .await
        .refused(422, "idempotency_key_reused");
    assert_eq!(
        (door.upstream.count(), door.quiet_rows().await.len()),
        (1, 1)
    );
    door.close().await;
}

#[allow(clippy::too_many_lines, reason = "one list of cases")]
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_fails_is_told_and_charged_as_for_a_chat() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    let json = "application/json";
    let failed = json!({"id": "resp_1", "object": "response", "status": "failed", "output": [], "usage": null,
        "error": {"code": "server_error", "message": "sk-secret"}});
    let cases: [(Reply, u16, &str, &str); 7] = [
        (
            Reply::error(400, "bad_input", "No."),
            400,
            "bad_input",
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
            Reply::status(200, json, r#"{"error": {"message": "No."}}"#),
            502,
            "upstream_error",
            "voided",
        ),
        (
            Reply::status(200, json, failed.to_string()),
            502,
            "upstream_error",
            "voided",
        ),
        (
            Reply::status(200, json, r#"{"choices": []}"#),
            502,
            "upstream_error",
            "settled",
        ),
        (
            Reply::status(200, "text/html", "<html>"),
            502,
            "upstream_error",
            "settled",
        ),
    ];
    for (reply, status, code, state) in cases {
        use crate::support::reply::Books;
        let books = if state == "voided" {
            Books::free()
        } else {
            Books {
                works_on: true,
                ..Books::default()
            }
        };
        let is_error = reply.status == Some(200) && state == "voided";
        let reply = if is_error { reply.booked(books) } else { reply };
        door.upstream.next(move |_| reply.clone());
        let answer = ask(&alice, &respond("a")).await.refused(status, code);
        assert!(!answer.text().contains("sk-secret"), "{}", answer.text());
        let row = door.row(&answer).await;
        let charged = if state == "voided" {
            Some(0)
        } else {
            row.held_micros
        };
        assert_eq!(
            (row.state.as_str(), row.cost_micros),
            (state, charged),
            "{code}: {row:?}"
        );
    }
    // The upstream's own error in a stream is rewritten, with the number that comes next.
    for payload in [
        r#"{"type":"error","code":"x","message":"sk-secret","param":null,"sequence_number":3}"#,
        r#"{"error":{"message":"sk-secret"}}"#,
    ] {
        door.upstream.next(move |_| {
            let begun = "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{}}\n\n";
            let text = "data: {\"type\":\"response.output_text.delta\",\"sequence_number\":1,\"delta\":\" alpha\"}\n\n";
            let all = format!("{begun}{text}event: error\ndata: {payload}\n\n");
            Reply::events(vec![Step::Generated(all.into_bytes(), 1)])
        });
        let answer = ask(&alice, &and(respond("a"), &json!({"stream": true})))
            .await
            .expect(200);
        let told: Value = serde_json::from_str(&answer.events()[2]).unwrap();
        assert_eq!(
            (&told["type"], &told["sequence_number"]),
            (&json!("error"), &json!(2)),
            "{}",
            answer.text()
        );
        assert_eq!(told["error"]["code"], "upstream_error");
        assert!(!answer.text().contains("sk-secret"));
        assert!(door.row(&answer).await.has("upstream_failed"));
    }
    door.close().await;
}

/// What `OpenAIForFoundationModels` sends in its mode for proxies, written from its source: no `Authorization`, the app's own
/// headers, and a tool in two rounds with a schema for the answer.
#[tokio::test(flavor = "multi_thread")]
async fn apples_package_for_openai_works_through_its_proxied_mode() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    let serial = respond("What is the weather in Paris?")["input"].clone();
    let tool = json!({"type": "function", "name": "get_weather", "description": "The weather of a city", "strict": true,
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": false}});
    let body = |input: Value| {
        json!({"model": "gpt-4o-mini", "instructions": "You are a helpful assistant.", "input": input, "stream": true, "store": false,
            "temperature": 0.7, "max_output_tokens": 256, "tools": [tool], "tool_choice": "auto", "parallel_tool_calls": true,
            "text": {"format": {"type": "json_schema", "name": "WeatherReport", "strict": true, "schema": {"type": "object",
                "title": "WeatherReport", "properties": {"summary": {"type": "string"}}, "required": ["summary"],
                "additionalProperties": false}}}})
    };
    let call = |body: &Value| {
        Call::new("POST", PATH)
            .header("accept", "text/event-stream")
            .header("content-type", "application/json")
            .header("x-tollgate-token", &alice.token)
            .bytes(body.to_string())
    };
    let question = json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": serial}]});
    door.upstream.next(|seen| {
        Server::OPENAI.reply(
            &Play {
                calls: true,
                ..Play::words(3)
            },
            seen,
        )
    });
    let first = door.send(call(&body(json!([question])))).await.expect(200);
    let ended: Value = serde_json::from_str(&first.events().pop().unwrap()).unwrap();
    let mut call_item = ended["response"]["output"][0].clone();
    assert_eq!(
        (&ended["type"], &call_item["name"]),
        (&json!("response.completed"), &json!("look"))
    );
    call_item.as_object_mut().unwrap().remove("status");
    let output =
        json!({"type": "function_call_output", "call_id": "call_1", "output": "{\"celsius\":21}"});
    let second = door
        .send(call(&body(json!([question, call_item, output]))))
        .await
        .expect(200);
    let numbers: Vec<i64> = second
        .events()
        .iter()
        .map(|event| {
            serde_json::from_str::<Value>(event).unwrap()["sequence_number"]
                .as_i64()
                .unwrap()
        })
        .collect();
    assert!(
        numbers.iter().copied().eq(0..numbers.len() as i64),
        "{numbers:?}"
    );
    assert!(second.said().contains(WORD));
    door.close().await;
}
