//! What a chat request may say: checks 11 and 13 of the threats, and what is always sent upstream.

use serde_json::{Value, json};

use crate::support::caller::{and, chat, chat_stream};
use crate::support::door::Door;
use crate::support::settings::Settings;

/// A field, what it is set to, and what `param` then names.
fn refused_fields() -> Vec<(&'static str, Value, &'static str)> {
    let function =
        json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}});
    vec![
        ("service_tier", json!("flex"), "service_tier"),
        ("service_tier", json!("priority"), "service_tier"),
        ("service_tier", json!("scale"), "service_tier"),
        ("service_tier", json!("fast"), "service_tier"),
        ("service_tier", json!("DEFAULT"), "service_tier"),
        ("serviceTier", json!("default"), "serviceTier"),
        ("speed", json!("fast"), "speed"),
        ("store", json!(true), "store"),
        ("store", json!("false"), "store"),
        ("metadata", json!({"a": "b"}), "metadata"),
        ("modalities", json!(["text", "audio"]), "modalities"),
        ("modalities", json!(["audio"]), "modalities"),
        ("audio", json!({"voice": "alloy", "format": "wav"}), "audio"),
        (
            "prediction",
            json!({"type": "content", "content": "a"}),
            "prediction",
        ),
        ("web_search_options", json!({}), "web_search_options"),
        ("functions", json!([{"name": "f"}]), "functions"),
        ("function_call", json!("auto"), "function_call"),
        ("background", json!(true), "background"),
        (
            "previous_response_id",
            json!("resp_1"),
            "previous_response_id",
        ),
        ("conversation", json!("conv_1"), "conversation"),
        ("api_base", json!("http://127.0.0.1:1/v1"), "api_base"),
        ("base_url", json!("http://127.0.0.1:1/v1"), "base_url"),
        ("api_key", json!("sk-other"), "api_key"),
        ("extra_headers", json!({"a": "b"}), "extra_headers"),
        (
            "extra_body",
            json!({"service_tier": "priority"}),
            "extra_body",
        ),
        ("provider", json!("openai"), "provider"),
        ("fallbacks", json!(["gpt-4o"]), "fallbacks"),
        ("models", json!(["gpt-4o"]), "models"),
        (
            "prompt_cache_options",
            json!({"ttl": "30m"}),
            "prompt_cache_options",
        ),
        (
            "prompt_cache_retention",
            json!("24h"),
            "prompt_cache_retention",
        ),
        ("best_of", json!(20), "best_of"),
        ("max_output_tokens", json!(10), "max_output_tokens"),
        ("N", json!(5), "N"),
        ("Max_Tokens", json!(5), "Max_Tokens"),
        ("no_such_field", json!(null), "no_such_field"),
        ("tools", json!([{"type": "web_search"}]), "tools[0].type"),
        (
            "tools",
            json!([{"type": "code_interpreter"}]),
            "tools[0].type",
        ),
        (
            "tools",
            json!([{"type": "custom", "custom": {"name": "c"}}]),
            "tools[0].type",
        ),
        (
            "tools",
            json!([function, {"type": "file_search"}]),
            "tools[1].type",
        ),
        (
            "stream_options",
            json!({"include_obfuscation": false, "x": 1}),
            "stream_options",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_costs_money_or_keeps_state_or_is_unknown_is_refused_by_name() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    for (field, value, param) in refused_fields() {
        let body = and(chat_stream("a"), &json!({field: value}));
        let answer = alice.ask(body).await;
        let error = answer.json()["error"].clone();
        assert_eq!(answer.status, 400, "{field} = {value}: {}", answer.text());
        let named = error["param"].as_str().unwrap_or("");
        assert!(
            named == param || named.starts_with(&format!("{param}.")),
            "{field} = {value} is blamed on {named:?}"
        );
    }
    alice
        .ask(and(chat("a"), &json!({"api_base": "x"})))
        .await
        .refused(400, "unsupported_field");
    alice
        .ask(and(chat("a"), &json!({"service_tier": "flex"})))
        .await
        .refused(400, "unsupported_field");
    alice
        .ask(and(chat("a"), &json!({"tools": [{"type": "web_search"}]})))
        .await
        .refused(400, "unsupported_field");
    assert_eq!(door.upstream.connections(), 0, "a refused request was sent");
    assert!(door.ledger_rows().iter().all(|row| !row.is_charged()));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_of_the_wrong_type_or_range_is_refused_by_name() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    let wrong = [
        ("temperature", json!("hot")),
        ("temperature", json!(-1)),
        ("temperature", json!(1e300)),
        ("top_p", json!([])),
        ("stream", json!("true")),
        ("stream", json!(1)),
        ("stream_options", json!("yes")),
        ("stop", json!(7)),
        ("seed", json!("seven")),
        ("logprobs", json!("yes")),
        ("top_logprobs", json!(-1)),
        ("presence_penalty", json!("a")),
        ("parallel_tool_calls", json!("yes")),
        ("reasoning_effort", json!(3)),
        ("logit_bias", json!([1])),
        ("response_format", json!("json")),
        ("tools", json!({"type": "function"})),
        ("messages", json!("hello")),
        ("messages", json!([])),
        ("messages", json!({"role": "user", "content": "a"})),
        ("messages", json!(null)),
    ];
    for (field, value) in wrong {
        let answer = alice.ask(and(chat("a"), &json!({field: value}))).await;
        assert_eq!(answer.status, 400, "{field} = {value}: {}", answer.text());
        let param = answer.json()["error"]["param"]
            .as_str()
            .unwrap_or("")
            .to_owned();
        assert!(
            param.starts_with(field),
            "{field} = {value} is blamed on {param:?}"
        );
    }
    assert_eq!(door.upstream.connections(), 0);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_type_deep_inside_a_field_is_named_by_its_path() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    let function = |parameters: Value| json!([{"type": "function", "function": {"name": "f", "parameters": parameters}}]);
    let wrong = [
        ("logit_bias", json!({"abc": 1})),
        ("logit_bias", json!({"": 1})),
        ("logit_bias", json!({"-1": 1})),
        ("logit_bias", json!({"+1": 1})),
        ("logit_bias", json!({"1.5": 1})),
        ("logit_bias", json!({"99999999999": 1})),
        ("logit_bias", json!({"05": 1})),
        ("logit_bias.1", json!({"1": "a"})),
        ("logit_bias.1", json!({"1": 1.5})),
        ("logit_bias.1", json!({"1": 101})),
        ("stop[1]", json!(["a", 7])),
        ("stop[0]", json!([["a"]])),
        ("stop", json!({"a": 1})),
        ("stop", json!(true)),
        ("seed", json!(1.5)),
        ("seed", json!([1])),
        ("logprobs", json!([true])),
        ("top_logprobs", json!("3")),
        ("response_format.type", json!({"type": 1})),
        (
            "response_format.json_schema",
            json!({"type": "json_schema", "json_schema": "x"}),
        ),
        (
            "response_format.json_schema.schema",
            json!({"type": "json_schema", "json_schema": {"name": "a", "schema": []}}),
        ),
        (
            "response_format.json_schema.strict",
            json!({"type": "json_schema", "json_schema": {"name": "a", "strict": 1}}),
        ),
        ("tools[0]", json!([7])),
        ("tools[0].type", json!([{"type": 7}])),
        (
            "tools[0].function",
            json!([{"type": "function", "function": "f"}]),
        ),
        (
            "tools[0].function.name",
            json!([{"type": "function", "function": {"name": 7}}]),
        ),
        ("tools[0].function.parameters", function(json!("x"))),
        (
            "tool_choice.function.name",
            json!({"type": "function", "function": {"name": 7}}),
        ),
        ("tool_choice", json!(7)),
        (
            "messages[0].content[0].text",
            json!([{"role": "user", "content": [{"type": "text", "text": 7}]}]),
        ),
        (
            "stream_options.include_usage",
            json!({"include_usage": "yes"}),
        ),
        ("n", json!("1")),
        ("temperature", json!({"a": 1})),
        ("modalities[0]", json!([7])),
    ];
    for (path, value) in wrong {
        let field = path.split(['.', '[']).next().unwrap();
        let answer = alice
            .ask(and(chat("a"), &json!({field: value})))
            .await
            .refused(400, "invalid_request");
        let error = answer.json()["error"].clone();
        assert_eq!(error["param"], path, "{field} = {value}: {error}");
    }
    assert_eq!(door.upstream.connections(), 0);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_openai_understands_and_costs_nothing_extra_is_passed_on() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    let tool = json!({"type": "function", "function": {"name": "look", "description": "d", "parameters": {"type": "object", "properties": {}}}});
    let passed = json!({
        "temperature": 0.5, "top_p": 0.9, "n": 1, "stop": ["x", "y"], "presence_penalty": 0.1, "frequency_penalty": -0.1,
        "logit_bias": {"50256": -100}, "logprobs": true, "top_logprobs": 2, "seed": 42,
        "response_format": {"type": "json_object"}, "tools": [tool], "tool_choice": "auto",
        "parallel_tool_calls": false, "reasoning_effort": "low", "verbosity": "low",
    });
    let answer = alice.ask(and(chat("a"), &passed)).await.expect(200);
    let sent = door.upstream.last().seen.body.clone();
    for (field, value) in passed.as_object().unwrap() {
        assert_eq!(&sent[field], value, "{field}");
    }
    assert_eq!(sent["messages"].as_array().unwrap().len(), 1);
    assert_eq!(answer.json()["object"], "chat.completion");

    let said_anyway = json!({"service_tier": "auto", "store": false, "modalities": ["text"], "user": "device-canary-1"});
    alice.ask(and(chat("a"), &said_anyway)).await.expect(200);
    let choice =
        json!({"tools": [tool], "tool_choice": {"type": "function", "function": {"name": "look"}}});
    alice.ask(and(chat("a"), &choice)).await.expect(200);
    let text = String::from_utf8_lossy(&door.upstream.log()[1].seen.request.body).into_owned();
    assert!(
        !text.contains("device-canary-1"),
        "the client's own user name was sent: {text}"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_with_tools_is_passed_on_message_by_message() {
    let door = Door::open(Settings::new()).await;
    let messages = json!([
        {"role": "system", "content": "be brief"},
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "what time is it?"}], "name": "ann"},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "noon"},
        {"role": "user", "content": "thanks \u{1f600}"},
    ]);
    let body = json!({"model": "gpt-4o-mini", "messages": messages});
    door.user("alice").ask(body).await.expect(200);
    let mut sent = door.upstream.last().seen.body["messages"].clone();
    let absent = sent[3]
        .as_object_mut()
        .unwrap()
        .entry("content")
        .or_insert(Value::Null);
    assert!(
        absent.is_null(),
        "content that is null may be left out: {absent}"
    );
    assert_eq!(sent, messages);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_itself_is_told_not_to_store_and_who_asks_only_as_a_hash() {
    let door = Door::open(Settings::new()).await;
    let (alice, bob) = (door.user("alice"), door.user("bob"));
    for user in [&alice, &alice, &bob] {
        user.ask(chat("a")).await.expect(200);
    }
    let sent: Vec<Value> = door
        .upstream
        .log()
        .iter()
        .map(|served| served.seen.body.clone())
        .collect();
    for body in &sent {
        assert_eq!(
            (&body["store"], &body["service_tier"]),
            (&json!(false), &json!("default"))
        );
        assert!(body.get("user").is_none(), "{body}");
        let hash = body["safety_identifier"].as_str().unwrap();
        assert!((8..=64).contains(&hash.len()), "{hash}");
        assert!(
            !body.to_string().contains(&alice.id.to_string())
                && !body.to_string().contains(&alice.id.simple().to_string())
        );
    }
    assert_eq!(sent[0]["safety_identifier"], sent[1]["safety_identifier"]);
    assert_ne!(sent[0]["safety_identifier"], sent[2]["safety_identifier"]);
    door.restart().await;
    alice.ask(chat("a")).await.expect(200);
    assert_eq!(
        door.upstream.last().seen.body["safety_identifier"],
        sent[0]["safety_identifier"]
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_gets_the_cap_by_the_name_it_knows_and_nothing_of_openais() {
    let settings = Settings::new().with(
        r#"
        [[upstreams]]
        name = "local"
        base_url = "{upstream}"
        api_key_env = "OPENAI_API_KEY"
        models = ["*"]
        "#,
    );
    let door = Door::open(settings).await;
    let alice = door.user("alice");
    for (fields, name) in [
        (json!({}), "max_tokens"),
        (json!({"max_tokens": 7}), "max_tokens"),
        (json!({"max_completion_tokens": 7}), "max_tokens"),
    ] {
        alice.ask(and(chat_stream("a"), &fields)).await.expect(200);
        let sent = door.upstream.last().seen.body.clone();
        let caps = ["max_tokens", "max_completion_tokens"]
            .into_iter()
            .filter(|cap| sent.get(cap).is_some());
        assert_eq!(caps.collect::<Vec<_>>(), [name]);
        for absent in ["store", "service_tier", "safety_identifier"] {
            assert!(sent.get(absent).is_none(), "{absent} in {sent}");
        }
    }
    assert_eq!(door.ledger_rows()[0].upstream.as_deref(), Some("local"));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_always_asked_for_and_reaches_only_who_asked() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    for (options, asked) in [
        (json!({}), false),
        (json!({"stream_options": null}), false),
        (json!({"stream_options": {}}), false),
        (json!({"stream_options": {"include_usage": false}}), false),
        (json!({"stream_options": {"include_usage": null}}), false),
        (json!({"stream_options": {"include_usage": true}}), true),
    ] {
        let answer = alice.ask(and(chat_stream("a"), &options)).await.expect(200);
        assert!(door.upstream.last().seen.include_usage(), "{options}");
        let events = answer.events();
        let usage_only = events
            .iter()
            .filter(|event| event.contains("\"choices\":[]"))
            .count();
        assert_eq!(usage_only, usize::from(asked), "{options}: {events:?}");
        assert_eq!(events.last().unwrap(), "[DONE]");
        assert_eq!(answer.said(), " alpha alpha alpha alpha alpha");
        let row = door.row(&answer).await;
        assert_eq!(
            (row.state.as_str(), row.output_tokens),
            ("settled", Some(5))
        );
    }
    for options in [
        json!({"include_usage": "yes"}),
        json!({"include_usage": 1}),
        json!([]),
        json!(7),
    ] {
        alice
            .ask(and(chat_stream("a"), &json!({"stream_options": options})))
            .await
            .expect(400);
    }
    let unasked = alice
        .ask(and(chat("a"), &json!({"stream": false})))
        .await
        .expect(200);
    assert_eq!(unasked.json()["usage"]["completion_tokens"], 5);
    assert!(
        door.upstream
            .last()
            .seen
            .body
            .get("stream_options")
            .is_none()
    );
    door.close().await;
}

/// A conversation as clients send it back: with what `vLLM`, `OpenRouter` and Gemini answer, and what libraries add.
fn sent_back() -> Value {
    let call = json!({
        "id": "c1", "index": 0, "type": "function", "extra_content": {"google": {"thought_signature": "sig"}},
        "function": {"name": "clock", "arguments": "{}", "parsed_arguments": {}},
    });
    json!([
        {"role": "user", "content": "what time is it?"},
        {"role": "assistant", "content": null, "reasoning_content": "I ask the clock.", "refusal": null, "audio": null,
         "annotations": [], "function_call": null, "tool_calls": [call], "provider_note": {"a": null}},
        {"role": "tool", "tool_call_id": "c1", "content": "noon"},
        {"role": "assistant", "content": [], "tool_calls": [], "reasoning": "Noon.",
         "reasoning_details": [{"type": "reasoning.text", "text": "Noon.", "index": 0}]},
        {"role": "assistant", "content": "{\"a\":1}", "parsed": {"a": 1}, "tool_calls": [], "prefix": false},
        {"role": "user", "content": "thanks"},
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_answered_can_be_sent_back_to_it_and_counts_as_prompt() {
    let local = r#"
        [[upstreams]]
        name = "local"
        base_url = "{upstream}"
        api_key_env = "OPENAI_API_KEY"
        models = ["*"]
        dialect = "compatible"
        "#;
    let door = Door::open(Settings::new().with(local)).await;
    let alice = door.user("alice");
    alice
        .ask(json!({"model": "gpt-4o-mini", "messages": sent_back()}))
        .await
        .expect(200);
    let sent = door.upstream.last().seen.body["messages"].clone();
    let call = json!({
        "id": "c1", "type": "function", "extra_content": {"google": {"thought_signature": "sig"}},
        "function": {"name": "clock", "arguments": "{}"},
    });
    assert_eq!(
        sent,
        json!([
            {"role": "user", "content": "what time is it?"},
            {"role": "assistant", "reasoning_content": "I ask the clock.", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "noon"},
            {"role": "assistant", "content": "", "reasoning": "Noon.",
             "reasoning_details": [{"type": "reasoning.text", "text": "Noon.", "index": 0}]},
            {"role": "assistant", "content": "{\"a\":1}"},
            {"role": "user", "content": "thanks"},
        ])
    );
    let mut long = sent_back();
    long[1]["reasoning_content"] = json!("a thought ".repeat(40_000));
    let refused = alice
        .ask(json!({"model": "gpt-4o-mini", "messages": long}))
        .await
        .refused(400, "invalid_request");
    assert_eq!(
        refused.json()["error"]["param"],
        "messages",
        "a thought is prompt: {}",
        refused.text()
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_gets_a_message_back_without_the_thoughts_of_other_servers() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    alice
        .ask(json!({"model": "gpt-4o-mini", "messages": sent_back()}))
        .await
        .expect(200);
    let sent = door.upstream.last().seen.body["messages"].clone();
    let call =
        json!({"id": "c1", "type": "function", "function": {"name": "clock", "arguments": "{}"}});
    assert_eq!(sent[1], json!({"role": "assistant", "tool_calls": [call]}));
    assert_eq!(sent[3], json!({"role": "assistant", "content": ""}));
    assert_eq!(
        sent[4],
        json!({"role": "assistant", "content": "{\"a\":1}"})
    );
    let unknown = json!([{"role": "assistant", "content": "a", "mood": "glad"}]);
    let refused = alice
        .ask(json!({"messages": unknown}))
        .await
        .refused(400, "unsupported_field");
    assert_eq!(refused.json()["error"]["param"], "messages[0].mood");
    door.close().await;
}
