//! The allow-list, the caps, the body and the bound, tried from outside.
#![allow(
    clippy::needless_pass_by_value,
    reason = "requests are written in place, by json!"
)]

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::clock::Timestamp;
use crate::error::Code;
use crate::model::ModelTable;
use crate::price::tokenizer;
use crate::price::{PriceTable, Rate};
use crate::prompt::Prompts;

fn plan() -> Plan {
    Plan {
        name: "free".to_owned(),
        models: ["gpt-4o-mini", "gpt-4", "local", "gpt-4o"]
            .map(str::to_owned)
            .to_vec(),
        max_output_tokens: 1024,
        max_input_tokens: 16_000,
        max_choices: 3,
        images: crate::plan::ImageCaps::default(),
        audio_seconds_max: 600,
        reasoning_effort_max: None,
        moderates_input: false,
        attested: None,
        concurrent_requests: None,
        limits: Vec::new(),
    }
}

/// Read once: it is long.
fn prices() -> &'static PriceTable {
    static PRICES: LazyLock<PriceTable> = LazyLock::new(|| {
        let mut prices = PriceTable::shipped();
        let mut local = prices.models["gpt-4o"].clone();
        (local.tokenizer, local.rates.input) = (Tokenizer::Unknown, Rate(7));
        prices.models.insert("local".to_owned(), local);
        prices
    });
    &PRICES
}

fn parse(body: &str) -> Result<Order, Refusal> {
    Order::parse(
        body.as_bytes(),
        &Terms {
            plan: &plan(),
            prices: prices(),
            models: &ModelTable::shipped(),
            prompts: &Prompts::new(),
            now: Timestamp::EPOCH,
            candidate: None,
        },
    )
}

/// A request with these members over one that is fine.
fn with(members: Value) -> Result<Order, Refusal> {
    let mut request = json!({"messages": [{"role": "user", "content": "Hi"}]});
    request
        .as_object_mut()
        .unwrap()
        .extend(members.as_object().unwrap().clone());
    parse(&request.to_string())
}

/// A request of one message.
fn message(message: Value) -> Result<Order, Refusal> {
    with(json!({"messages": [message]}))
}

fn sent(order: &Order, dialect: Dialect) -> Value {
    serde_json::from_slice(&order.body(u32::MAX, dialect.into(), "someone")).unwrap()
}

fn fault(result: Result<Order, Refusal>) -> (Code, String) {
    let refusal = result.unwrap_err();
    (refusal.code, refusal.param.unwrap_or_default())
}

fn unsupported(result: Result<Order, Refusal>, param: &str) {
    assert_eq!(fault(result), (Code::UnsupportedField, param.to_owned()));
}

fn invalid(result: Result<Order, Refusal>, param: &str) {
    assert_eq!(fault(result), (Code::InvalidRequest, param.to_owned()));
}

/// A request with every field that is passed on.
fn everything() -> Value {
    json!({
        "model": "gpt-4o",
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "system", "content": [{"type": "text", "text": "Be kind."}], "name": "ops"},
            {"role": "user", "content": [
                {"type": "text", "text": "What is this? 👩‍👩‍👧"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAACAAAAAg", "detail": "low"}},
                {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
            ]},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "refusal": "No."},
            {"role": "assistant", "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Paris\"}"}},
            ]},
            {"role": "tool", "tool_call_id": "call_1", "content": "{\"celsius\":21}"},
        ],
        "stream": true, "temperature": 0.5, "top_p": 1, "n": 2, "stop": ["\n", "END"],
        "presence_penalty": -2.0, "frequency_penalty": 2, "logit_bias": {"50256": -100, "7": 5},
        "logprobs": true, "top_logprobs": 20, "seed": i64::MIN,
        "response_format": {"type": "json_schema", "json_schema": {
            "name": "answer", "description": "An answer", "strict": true, "schema": {"type": "object"}}},
        "tools": [{"type": "function", "function": {
            "name": "weather", "description": "The weather\nof a city", "strict": false,
            "parameters": {"type": "object", "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}}}}}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": false, "reasoning_effort": "low", "verbosity": "high",
    })
}

#[test]
fn everything_on_the_list_is_sent_as_it_came() {
    let mut request = everything();
    request["max_completion_tokens"] = json!(100);
    let order = parse(&request.to_string()).unwrap();
    let mut expected = request;
    expected["stream_options"] = json!({"include_usage": true});
    let by_both_names = Manner {
        cap_name: CapName::Both,
        ..Dialect::Compatible.into()
    };
    assert_eq!(
        serde_json::from_slice::<Value>(&order.body(u32::MAX, by_both_names, "")).unwrap(),
        {
            let mut expected = expected.clone();
            expected["max_tokens"] = json!(100);
            expected
        }
    );
    for (name, value) in [
        ("store", json!(false)),
        ("service_tier", json!("default")),
        ("safety_identifier", json!("someone")),
    ] {
        expected[name] = value;
    }
    assert_eq!(sent(&order, Dialect::Openai), expected);
}

#[test]
fn the_least_request_gets_the_plans_model_and_cap() {
    let order = with(json!({})).unwrap();
    assert_eq!(
        (order.model(), order.output_cap(), order.choices()),
        ("gpt-4o-mini", 1024, 1)
    );
    assert!(!order.stream() && !order.wants_usage() && !order.is_narrowed());
    let message = json!({"role": "user", "content": "Hi"});
    let expected = json!({"model": "gpt-4o-mini", "messages": [message], "max_tokens": 1024});
    assert_eq!(sent(&order, Dialect::Compatible), expected);
}

#[test]
fn what_happens_anyway_may_be_said_and_is_not_passed_on() {
    let order = with(
        json!({"service_tier": "auto", "store": false, "modalities": ["text"], "user": "alice"}),
    )
    .unwrap();
    assert_eq!(
        sent(&order, Dialect::Compatible),
        sent(&with(json!({})).unwrap(), Dialect::Compatible)
    );
    with(json!({"service_tier": "default"})).unwrap();
}

#[test]
fn what_costs_money_or_keeps_state_is_refused_by_name() {
    for tier in [
        "flex",
        "priority",
        "scale",
        "fast",
        "ultrafast",
        "Default",
        "",
    ] {
        unsupported(with(json!({"service_tier": tier})), "service_tier");
    }
    unsupported(with(json!({"store": true})), "store");
    for modalities in [
        json!(["audio"]),
        json!(["text", "audio"]),
        json!([]),
        json!(["text", "text"]),
    ] {
        unsupported(with(json!({"modalities": modalities})), "modalities");
    }
    let names = [
        "metadata",
        "functions",
        "function_call",
        "web_search_options",
        "prediction",
        "audio",
        "moderation",
        "background",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "previous_response_id",
        "api_base",
        "base_url",
        "extra_body",
        "serviceTier",
        "Stream",
        "messages ",
        "max_output_tokens",
        "",
    ];
    for name in names {
        unsupported(with(json!({name: {"a": [1]}})), name);
    }
    unsupported(with(json!({"top_k": null})), "top_k");
}

#[test]
fn an_unknown_member_is_refused_by_its_path_at_any_depth() {
    let paths = [
        ("/messages/0", "messages[0].x"),
        ("/messages/2/content/0", "messages[2].content[0].x"),
        (
            "/messages/2/content/1/image_url",
            "messages[2].content[1].image_url.x",
        ),
        ("/messages/4/tool_calls/0", "messages[4].tool_calls[0].x"),
        (
            "/messages/4/tool_calls/0/function",
            "messages[4].tool_calls[0].function.x",
        ),
        ("/tools/0", "tools[0].x"),
        ("/tools/0/function", "tools[0].function.x"),
        ("/tool_choice", "tool_choice.x"),
        ("/tool_choice/function", "tool_choice.function.x"),
        ("/response_format", "response_format.x"),
        (
            "/response_format/json_schema",
            "response_format.json_schema.x",
        ),
        ("/stream_options", "stream_options.x"),
        ("", "x"),
    ];
    for (pointer, path) in paths {
        let mut request = everything();
        request["stream_options"] = json!({"include_usage": true});
        request.pointer_mut(pointer).unwrap()["x"] = json!([{"a": 1}]);
        unsupported(parse(&request.to_string()), path);
    }
    unsupported(
        with(json!({"stream": true, "stream_options": {"include_obfuscation": false}})),
        "stream_options.include_obfuscation",
    );
}

#[test]
fn null_is_absent() {
    let names = [
        "model",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "n",
        "stop",
        "max_tokens",
        "max_completion_tokens",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "seed",
        "response_format",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "reasoning_effort",
        "verbosity",
        "service_tier",
        "store",
        "modalities",
        "user",
        "metadata",
        "functions",
        "function_call",
        "audio",
        "prediction",
    ];
    let nulls: serde_json::Map<String, Value> = names
        .iter()
        .map(|name| ((*name).to_owned(), Value::Null))
        .collect();
    assert_eq!(
        with(Value::Object(nulls)).unwrap(),
        with(json!({})).unwrap()
    );
    invalid(with(json!({"messages": null})), "messages");
}

#[test]
fn a_message_that_the_model_sent_can_be_sent_back() {
    let order = message(json!({
        "role": "assistant", "content": "Hi", "refusal": null, "annotations": [{"type": "url_citation"}], "audio": null,
        "function_call": null, "tool_calls": [], "parsed": {"a": [1]}, "prefix": false, "citations": [], "note": "",
        "meta": {"refusal": null}, "reasoning_content": "", "reasoning_details": [], "extra_content": null
    }))
    .unwrap();
    for dialect in [Dialect::Compatible, Dialect::Openai] {
        assert_eq!(
            sent(&order, dialect)["messages"][0],
            json!({"role": "assistant", "content": "Hi"})
        );
    }
    unsupported(
        message(json!({"role": "user", "content": "Hi", "note": ""})),
        "messages[0].note",
    );
    invalid(
        message(json!({"role": "user", "content": "Hi", "annotations": []})),
        "messages[0].annotations",
    );
    unsupported(
        message(json!({"role": "assistant", "audio": {"id": "a"}, "content": ""})),
        "messages[0].audio",
    );
    for note in [
        json!("a"),
        json!(0),
        json!(true),
        json!([0]),
        json!({"a": ""}),
        json!([[]]),
    ] {
        unsupported(
            message(json!({"role": "assistant", "content": "Hi", "z": null, "note": note})),
            "messages[0].note",
        );
    }
}

/// An answer with everything that servers add to one, as it is sent back.
fn thoughtful() -> Value {
    json!({
        "role": "assistant", "content": [
            {"type": "thinking", "thinking": [{"type": "text", "text": "t1"}], "signature": "t2", "closed": true},
            {"type": "text", "text": "Hi"},
        ],
        "reasoning": "t3", "reasoning_content": "t4", "reasoning_details": [{"type": "reasoning.text", "text": "t5"}],
        "thinking_blocks": [{"thinking": "t6"}], "extra_content": {"google": {"thought_signature": "t7"}},
        "provider_specific_fields": {"a": "t8"},
        "tool_calls": [{
            "id": "c", "type": "function", "extra_content": {"google": {"thought_signature": "t9"}},
            "provider_specific_fields": {"a": "t10"}, "thought_signature": "t11",
            "function": {"name": "f", "arguments": "{}", "provider_specific_fields": {"a": "t12"}, "thought_signature": "t13"},
        }],
    })
}

#[test]
fn thoughts_go_back_to_servers_that_had_them_and_not_to_openai() {
    let order = message(thoughtful()).unwrap();
    assert_eq!(
        sent(&order, Dialect::Compatible)["messages"][0],
        thoughtful()
    );
    let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let plain = json!({"role": "assistant", "content": [{"type": "text", "text": "Hi"}], "tool_calls": [call]});
    assert_eq!(sent(&order, Dialect::Openai)["messages"][0], plain);
    let mut only = thoughtful();
    only["content"].as_array_mut().unwrap().truncate(1);
    only["tool_calls"] = json!([]);
    let order = message(only).unwrap();
    assert_eq!(
        sent(&order, Dialect::Openai)["messages"][0],
        json!({"role": "assistant", "content": ""})
    );
    for name in [
        "reasoning",
        "reasoning_content",
        "reasoning_details",
        "thinking_blocks",
        "extra_content",
        "parsed",
    ] {
        for role in ["user", "system", "tool"] {
            let value = if name.ends_with("content") || name == "reasoning" {
                json!("a")
            } else {
                json!([1])
            };
            let said = json!({"role": role, "content": "Hi", "tool_call_id": "c", name: value});
            invalid(message(said), &format!("messages[0].{name}"));
        }
    }
    invalid(
        message(json!({"role": "assistant", "reasoning": {"a": 1}})),
        "messages[0].reasoning",
    );
}

#[test]
fn what_libraries_make_of_an_answer_is_dropped() {
    let call =
        json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}});
    let mut made = call.clone();
    made["index"] = json!(0);
    made["function"]["parsed_arguments"] = json!({"a": 1});
    made["caller"] = json!({});
    let order =
        message(json!({"role": "assistant", "content": [], "parsed": null, "tool_calls": [made]}))
            .unwrap();
    let expected = json!({"role": "assistant", "tool_calls": [call]});
    assert_eq!(sent(&order, Dialect::Compatible)["messages"][0], expected);
    let mut unknown = call;
    unknown["function"]["x"] = json!([null, 1]);
    unsupported(
        message(json!({"role": "assistant", "tool_calls": [unknown]})),
        "messages[0].tool_calls[0].function.x",
    );
}

#[test]
fn every_thought_is_weighed() {
    let text = "Ünïcode 👩‍👩‍👧 \"quoted\" {\"a\":[1,2]}\n\n\t x".repeat(20);
    let bytes = |message_of: Value| message(message_of).unwrap().quote(1).base.input_tokens;
    let base = bytes(thoughtful());
    for number in 1..=13 {
        let long = thoughtful()
            .to_string()
            .replace(&format!("\"t{number}\""), &json!(text).to_string());
        let weight = bytes(serde_json::from_str(&long).unwrap());
        assert!(
            weight + 4 >= base + tokenizer::bytes_bound(Tokenizer::O200k, &text),
            "t{number}"
        );
    }
}

#[test]
fn messages_are_checked_by_role() {
    invalid(with(json!({"messages": []})), "messages");
    invalid(message(json!({"content": "Hi"})), "messages[0].role");
    invalid(
        message(json!({"role": "User", "content": "Hi"})),
        "messages[0].role",
    );
    unsupported(
        message(json!({"role": "function", "name": "f", "content": "Hi"})),
        "messages[0].role",
    );
    invalid(message(json!({"role": "user"})), "messages[0].content");
    invalid(
        message(json!({"role": "user", "content": null})),
        "messages[0].content",
    );
    invalid(
        message(json!({"role": "user", "content": []})),
        "messages[0].content",
    );
    invalid(
        message(json!({"role": "user", "content": 1})),
        "messages[0].content",
    );
    invalid(
        message(json!({"role": "user", "content": {"type": "text", "text": "Hi"}})),
        "messages[0].content",
    );
    // A server that spent its cap on thoughts answers without content, and that can be sent back.
    message(json!({"role": "assistant"})).unwrap();
    message(json!({"role": "assistant", "content": null, "tool_calls": []})).unwrap();
    invalid(
        message(json!({"role": "user", "content": "Hi", "tool_calls": [{}]})),
        "messages[0].tool_calls",
    );
    invalid(
        message(json!({"role": "user", "content": "Hi", "refusal": "No"})),
        "messages[0].refusal",
    );
    invalid(
        message(json!({"role": "user", "content": "Hi", "tool_call_id": "a"})),
        "messages[0].tool_call_id",
    );
    invalid(
        message(json!({"role": "tool", "content": "Hi"})),
        "messages[0].tool_call_id",
    );
    invalid(
        message(json!({"role": "user", "content": "Hi", "name": 7})),
        "messages[0].name",
    );
    message(json!({"role": "user", "content": "", "name": "Ann"})).unwrap();
    message(json!({"role": "assistant", "refusal": "No."})).unwrap();
}

#[test]
fn parts_are_checked_by_type_and_role() {
    let part = |role: &str, part: Value| {
        message(json!({"role": role, "content": [{"type": "text", "text": "a"}, part]}))
    };
    let kind = "messages[0].content[1].type";
    unsupported(
        part(
            "user",
            json!({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
        ),
        kind,
    );
    unsupported(
        part("user", json!({"file": {"file_id": "f"}, "type": "file"})),
        kind,
    );
    invalid(part("user", json!({"text": "a"})), kind);
    invalid(
        part("user", json!({"type": "refusal", "refusal": "No"})),
        kind,
    );
    let image = json!({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}});
    for role in ["system", "developer", "assistant"] {
        invalid(part(role, image.clone()), kind);
    }
    invalid(
        part("user", json!({"type": "text"})),
        "messages[0].content[1].text",
    );
    invalid(
        part(
            "user",
            json!({"type": "text", "text": "a", "image_url": {}}),
        ),
        "messages[0].content[1].image_url",
    );
    invalid(
        part("user", json!({"type": "image_url", "image_url": {}})),
        "messages[0].content[1].image_url.url",
    );
    invalid(
        part(
            "user",
            json!({"type": "image_url", "image_url": "https://a.b/c"}),
        ),
        "messages[0].content[1].image_url",
    );
    let image = |members: Value| part("user", json!({"type": "image_url", "image_url": members}));
    invalid(
        image(json!({"url": "http://example.com/a.png"})),
        "messages[0].content[1].image_url.url",
    );
    invalid(
        image(json!({"url": "https://a.b/c", "detail": "max"})),
        "messages[0].content[1].image_url.detail",
    );
    unsupported(
        image(json!({"url": "https://a.b/c", "detail": "original"})),
        "messages[0].content[1].image_url.detail",
    );
    unsupported(
        part(
            "user",
            json!({"type": "text", "text": "", "prompt_cache_breakpoint": {}}),
        ),
        "messages[0].content[1].prompt_cache_breakpoint",
    );
}

#[test]
fn tools_are_functions() {
    unsupported(
        with(json!({"tools": [{"type": "web_search", "filters": {}}]})),
        "tools[0].type",
    );
    unsupported(
        with(json!({"tools": [{"type": "custom", "custom": {"name": "a"}}]})),
        "tools[0].type",
    );
    invalid(
        with(json!({"tools": [{"function": {"name": "a"}}]})),
        "tools[0].type",
    );
    invalid(
        with(json!({"tools": [{"type": "function"}]})),
        "tools[0].function",
    );
    invalid(with(json!({"tools": []})), "tools");
    invalid(with(json!({"tools": {}})), "tools");
    for name in ["", "a b", "é", &"a".repeat(65)] {
        invalid(
            with(json!({"tools": [{"type": "function", "function": {"name": name}}]})),
            "tools[0].function.name",
        );
    }
    invalid(
        with(json!({"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]})),
        "tools[0].function.parameters",
    );
    unsupported(
        with(json!({"tool_choice": {"type": "allowed_tools", "allowed_tools": {}}})),
        "tool_choice.type",
    );
    unsupported(
        with(json!({"tool_choice": {"type": "custom", "custom": {"name": "a"}}})),
        "tool_choice.type",
    );
    invalid(with(json!({"tool_choice": "any"})), "tool_choice");
    invalid(with(json!({"tool_choice": ["auto"]})), "tool_choice");
    for mode in ["none", "auto", "required"] {
        with(json!({"tool_choice": mode})).unwrap();
    }
    let call = |call: Value| message(json!({"role": "assistant", "tool_calls": [call]}));
    unsupported(
        call(json!({"id": "a", "type": "custom", "custom": {}})),
        "messages[0].tool_calls[0].type",
    );
    invalid(
        call(json!({"type": "function", "function": {"name": "a", "arguments": ""}})),
        "messages[0].tool_calls[0].id",
    );
    invalid(
        call(json!({"id": "a", "type": "function", "function": {"name": "a"}})),
        "messages[0].tool_calls[0].function.arguments",
    );
}

#[test]
fn answers_have_a_known_format() {
    for kind in ["text", "json_object"] {
        with(json!({"response_format": {"type": kind}})).unwrap();
    }
    let format = |format: Value| with(json!({"response_format": format}));
    unsupported(format(json!({"type": "text", "x": 1})), "response_format.x");
    unsupported(
        format(json!({"type": "grammar", "grammar": "x"})),
        "response_format.type",
    );
    invalid(format(json!({})), "response_format.type");
    invalid(format(json!("json")), "response_format");
    invalid(
        format(json!({"type": "json_schema"})),
        "response_format.json_schema",
    );
    invalid(
        format(json!({"type": "text", "json_schema": {"name": "a"}})),
        "response_format.json_schema",
    );
    invalid(
        format(json!({"type": "json_schema", "json_schema": {"schema": {}}})),
        "response_format.json_schema.name",
    );
    let schema = json!({"type": "json_schema", "json_schema": {"name": "a", "schema": "{}"}});
    invalid(format(schema), "response_format.json_schema.schema");
}

#[test]
fn numbers_have_their_type_and_range() {
    let wrong = [
        ("temperature", "-0.1"),
        ("temperature", "2.1"),
        ("temperature", "\"1\""),
        ("temperature", "1e999"),
        ("top_p", "1.01"),
        ("top_p", "true"),
        ("presence_penalty", "-2.1"),
        ("frequency_penalty", "3"),
        ("n", "0"),
        ("n", "-1"),
        ("n", "4"),
        ("n", "1.0"),
        ("n", "99999999999999999999"),
        ("seed", "0.5"),
        ("seed", "1e400"),
        ("seed", "9223372036854775808"),
        ("top_logprobs", "21"),
        ("top_logprobs", "5"),
        ("logprobs", "1"),
        ("stream", "\"true\""),
        ("parallel_tool_calls", "0"),
        ("reasoning_effort", "\"huge\""),
        ("verbosity", "\"\""),
        ("stop", "[]"),
        ("stop", "[\"a\",\"b\",\"c\",\"d\",\"e\"]"),
        ("stop", "{}"),
        ("stop", "7"),
        ("logit_bias", "[]"),
        ("stream_options", "{}"),
        ("stream_options", "[true]"),
        ("model", "7"),
        ("user", "{}"),
    ];
    for (name, value) in wrong {
        let body = format!(
            "{{\"messages\":[{{\"role\":\"user\",\"content\":\"Hi\"}}],\"{name}\":{value}}}"
        );
        invalid(parse(&body), name);
    }
    invalid(with(json!({"logit_bias": {"7": 101}})), "logit_bias.7");
    invalid(with(json!({"logit_bias": {"7": -101}})), "logit_bias.7");
    invalid(with(json!({"logit_bias": {"7": 1.5}})), "logit_bias.7");
    assert_eq!(
        fault(with(json!({"logit_bias": {"hello": 1}}))).0,
        Code::InvalidRequest
    );
    assert_eq!(
        fault(with(json!({"stop": ["a", 7]}))),
        (Code::InvalidRequest, "stop[1]".to_owned())
    );
    with(json!({"stop": "a", "logprobs": true, "top_logprobs": 0})).unwrap();
}

#[test]
fn caps_are_lowered_to_the_plans_or_refused() {
    for name in ["max_tokens", "max_completion_tokens"] {
        for wrong in [
            json!(0),
            json!(-1),
            json!(1.5),
            json!(1.0),
            json!(2_147_483_649_u64),
            json!(u64::MAX),
            json!("5"),
            json!([5]),
        ] {
            invalid(with(json!({name: wrong})), name);
        }
        for (asked, granted) in [
            (1, 1),
            (1024, 1024),
            (1025, 1024),
            (2_147_483_648_u64, 1024_u64),
        ] {
            let order = with(json!({name: asked})).unwrap();
            assert_eq!(u64::from(order.output_cap()), granted);
            let told = |manner: Manner| {
                let sent: Value =
                    serde_json::from_slice(&order.body(u32::MAX, manner, "x")).unwrap();
                (
                    sent["max_tokens"].as_u64(),
                    sent["max_completion_tokens"].as_u64(),
                )
            };
            let (cap, other) = (Some(granted), Manner::from(Dialect::Compatible));
            assert_eq!(told(other), (cap, None), "whatever the caller called it");
            assert_eq!(
                told(Manner {
                    cap_name: CapName::MaxCompletionTokens,
                    ..other
                }),
                (None, cap)
            );
            assert_eq!(
                told(Manner {
                    cap_name: CapName::Both,
                    ..other
                }),
                (cap, cap)
            );
            assert_eq!(told(Dialect::Openai.into()), (None, cap));
        }
    }
    invalid(
        with(json!({"max_tokens": 5, "max_completion_tokens": 6})),
        "max_completion_tokens",
    );
    let both = with(json!({"max_tokens": 5, "max_completion_tokens": 5})).unwrap();
    assert_eq!(both.output_cap(), 5);
}

#[test]
fn the_granted_cap_is_sent_and_never_more_than_the_order_has() {
    let order = with(json!({"max_tokens": 500, "n": 3})).unwrap();
    let granted: Value =
        serde_json::from_slice(&order.body(100, Dialect::Openai.into(), "x")).unwrap();
    assert_eq!(
        (&granted["max_completion_tokens"], &granted["n"]),
        (&json!(100), &json!(3))
    );
    assert_eq!(sent(&order, Dialect::Openai)["max_completion_tokens"], 500);
    let ask = order.quote(64);
    assert_eq!(
        (ask.output_cap, ask.output_floor, ask.choices),
        (500, 64, 3)
    );
    assert_eq!(
        with(json!({"max_tokens": 5}))
            .unwrap()
            .quote(64)
            .output_floor,
        5
    );
}

#[test]
fn streams_always_carry_usage() {
    let order = with(json!({"stream": true})).unwrap();
    assert!(order.stream() && !order.wants_usage());
    assert_eq!(
        sent(&order, Dialect::Openai)["stream_options"],
        json!({"include_usage": true})
    );
    let declined =
        with(json!({"stream": true, "stream_options": {"include_usage": false}})).unwrap();
    assert!(!declined.wants_usage());
    assert_eq!(
        sent(&declined, Dialect::Compatible)["stream_options"],
        json!({"include_usage": true})
    );
    let without = Manner {
        stream_usage: false,
        ..Dialect::Compatible.into()
    };
    assert!(
        !String::from_utf8(order.body(1, without, "").to_vec())
            .unwrap()
            .contains("stream_options")
    );
    assert!(
        with(json!({"stream": true, "stream_options": {"include_usage": true}}))
            .unwrap()
            .wants_usage()
    );
    assert_eq!(
        sent(&with(json!({"stream": false})).unwrap(), Dialect::Openai)["stream_options"],
        Value::Null
    );
    invalid(
        with(json!({"stream": false, "stream_options": {"include_usage": true}})),
        "stream_options",
    );
}

#[test]
fn only_models_of_the_plan_are_sent_by_their_canonical_name() {
    let order = with(json!({"model": "gpt-4o-2024-08-06"})).unwrap();
    assert_eq!(
        (order.model(), &sent(&order, Dialect::Openai)["model"]),
        ("gpt-4o", &json!("gpt-4o"))
    );
    assert_eq!(order.price(), &prices().models["gpt-4o"]);
    let strangers = [
        "gpt-5",
        "GPT-4o",
        "openai/gpt-4o",
        "gpt-4o-2024-05-13",
        "gpt-4o-latest",
        "",
        "auto",
        "gpt-4o\0",
    ];
    for name in strangers
        .map(str::to_owned)
        .into_iter()
        .chain(["m".repeat(10_000)])
    {
        let refusal = with(json!({"model": name})).unwrap_err();
        assert_eq!(
            (refusal.code, refusal.param.as_deref()),
            (Code::ModelNotAllowed, Some("model"))
        );
        assert!(
            refusal.message.contains("gpt-4o-mini") && refusal.message.len() < 400,
            "{}",
            refusal.message
        );
    }
}

#[test]
fn a_body_that_two_readers_could_read_in_two_ways_is_refused() {
    let fine = "\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]";
    let doubled = [
        (format!("{{{fine},{fine}}}"), "messages"),
        (format!("{{{fine},\"n\":1,\"n\":1}}"), "n"),
        (format!("{{{fine},\"n\":null,\"n\":1}}"), "n"),
        (format!("{{{fine},\"\\u006e\":1,\"n\":1}}"), "n"),
        (
            "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\",\"content\":\"Ho\"}]}".to_owned(),
            "messages[0].content",
        ),
    ];
    for (body, param) in doubled {
        invalid(parse(&body), param);
    }
    for behind in ["x", "{}", ",", "\0", "null"] {
        let refusal = parse(&format!("{{{fine}}} {behind}")).unwrap_err();
        assert_eq!(
            refusal.message, "The body is not valid JSON: something follows the object.",
            "{behind:?}"
        );
    }
    let schema = |schema: &str| {
        let tool = format!(
            "{{\"type\":\"function\",\"function\":{{\"name\":\"a\",\"parameters\":{schema}}}}}"
        );
        parse(&format!("{{{fine},\"tools\":[{tool}]}}"))
    };
    let (deep, too_deep) = (nested(64), nested(65));
    for wrong in [
        "{\"a\":1,\"a\":2}",
        "{\"a\":{\"b\":1,\"\\u0062\":2}}",
        "{\"a\":\"\\ud800\"}",
        "{\"a\":1e999}",
        &too_deep,
    ] {
        invalid(schema(wrong), "tools[0].function.parameters");
    }
    let order = schema(&deep).unwrap();
    assert!(
        String::from_utf8(order.body(1, Dialect::Openai.into(), "").to_vec())
            .unwrap()
            .contains(&deep)
    );
}

fn nested(levels: usize) -> String {
    let outer = levels.saturating_sub(1);
    format!("{}{{{}", "{\"a\":".repeat(outer), "}".repeat(levels))
}

#[test]
fn arrays_do_not_stand_for_objects() {
    invalid(parse("[]"), "");
    invalid(
        parse("[\"gpt-4o\",[{\"role\":\"user\",\"content\":\"Hi\"}]]"),
        "",
    );
    invalid(parse("{\"messages\":[[\"user\",\"Hi\"]]}"), "messages[0]");
    invalid(
        parse("{\"messages\":{\"role\":\"user\",\"content\":\"Hi\"}}"),
        "messages",
    );
    invalid(
        with(json!({"response_format": ["text"]})),
        "response_format",
    );
    invalid(with(json!({"tools": [["function", ["a"]]]})), "tools[0]");
}

#[test]
fn what_is_not_json_is_refused_without_a_field() {
    let fine = "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}";
    let bodies: Vec<Vec<u8>> = vec![
        Vec::new(),
        b" ".to_vec(),
        b"null".to_vec(),
        b"1".to_vec(),
        b"\"Hi\"".to_vec(),
        b"{".to_vec(),
        b"{\"messages\":".to_vec(),
        [fine, "x"].concat().into(),
        [fine, fine].concat().into(),
        ["\u{feff}", fine].concat().into(),
        fine.replace("Hi", "\\ud800").into(),
        fine.replace("Hi", "\\udc00\\ud800").into(),
        fine.replace("Hi", "\n").into(),
        fine.replace('"', "'").into(),
        fine.replace("]}", "],}").into(),
        fine.as_bytes().iter().map(|byte| byte ^ 0x80).collect(),
        b"{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\xfe\"}]}".to_vec(),
    ];
    for body in bodies {
        let refusal = Order::parse(
            &body,
            &Terms {
                plan: &plan(),
                prices: prices(),
                models: &ModelTable::shipped(),
                prompts: &Prompts::new(),
                now: Timestamp::EPOCH,
                candidate: None,
            },
        )
        .unwrap_err();
        assert_eq!(
            (refusal.code, &refusal.param),
            (Code::InvalidRequest, &None),
            "{}",
            String::from_utf8_lossy(&body)
        );
    }
    assert!(parse(&format!(" \n{fine}\t ")).is_ok());
}

#[test]
fn depth_does_not_overflow_the_stack() {
    let deep = |open: &str| open.repeat(1_000_000);
    unsupported(parse(&format!("{{\"x\":{}{}}}", deep("["), deep("]"))), "x");
    for body in [
        deep("["),
        deep("{\"a\":"),
        format!("{{\"messages\":{}", deep("[")),
        format!("{{\"stop\":{}", deep("[")),
    ] {
        assert_eq!(fault(parse(&body)).0, Code::InvalidRequest);
    }
    let schema = format!(
        "{{\"tools\":[{{\"function\":{{\"parameters\":{{\"a\":{}{}}}}}}}]}}",
        deep("["),
        deep("]")
    );
    invalid(parse(&schema), "tools[0].function.parameters");
}

#[test]
fn lists_are_bounded() {
    let messages = vec![json!({"role": "user", "content": "Hi"}); 2049];
    invalid(with(json!({"messages": messages})), "messages");
    with(json!({"messages": messages[..2048]})).unwrap();
    let tools = vec![json!({"type": "function", "function": {"name": "a"}}); 129];
    invalid(with(json!({"tools": tools})), "tools");
    // Of messages, parts and calls there are at most 8192 in all.
    let parts = vec![json!({"type": "text", "text": "a"}); 2047];
    let message = json!({"role": "user", "content": parts});
    with(json!({"messages": vec![&message; 4]})).unwrap();
    invalid(with(json!({"messages": vec![&message; 5]})), "messages");
}

#[test]
fn a_refusal_says_the_field_and_the_fix_and_nothing_of_the_prompt() {
    let secret = "correct horse battery staple";
    let said = |result: Result<Order, Refusal>| result.unwrap_err().message;
    assert_eq!(
        said(with(json!({"temperature": 3}))),
        "`temperature` must be between 0 and 2."
    );
    assert_eq!(
        said(with(json!({"n": 4}))),
        "`n` must be between 1 and 3 in this plan."
    );
    assert_eq!(
        said(with(json!({"seed": 1.5}))),
        "`seed` must be an integer."
    );
    assert_eq!(
        said(with(json!({"stop": 1}))),
        "`stop` must be a string, or the array or object described for it."
    );
    assert_eq!(said(parse("[]")), "The body must be an object.");
    assert_eq!(said(parse("{\"n\":1,\"n\":1}")), "`n` is given twice.");
    assert_eq!(
        said(with(json!({"x\u{7}": 1}))),
        "`x\u{FFFD}` is not supported: remove it."
    );
    assert!(said(with(json!({"x".repeat(5000): 1}))).len() < 300);
    let hostile = format!("{secret}, expected {secret}");
    let results = [
        with(json!({"temperature": hostile})),
        with(json!({"n": hostile})),
        with(json!({"stream": hostile})),
        with(json!({"messages": hostile})),
        message(json!({"role": hostile, "content": hostile})),
        with(json!({"tools": [hostile]})),
        with(json!({"tool_choice": hostile})),
        with(
            json!({"tools": [{"type": "function", "function": {"name": hostile, "parameters": hostile}}]}),
        ),
        message(json!({"role": "user", "content": [{"type": hostile}]})),
        with(json!({"response_format": hostile})),
        parse(&format!("{{\"a\": \"{secret}")),
        parse(&format!("{{\"messages\": [{{\"content\": \"{secret}\\x\"")),
    ];
    for result in results {
        let refusal = result.unwrap_err();
        assert!(!refusal.message.contains("horse"), "{}", refusal.message);
    }
    assert!(
        !format!(
            "{:?}",
            message(json!({"role": "user", "content": secret})).unwrap()
        )
        .contains("horse")
    );
}

#[test]
fn a_prompt_over_the_plan_is_refused_with_both_numbers() {
    let mut order = message(json!({"role": "user", "content": "word ".repeat(4_000)})).unwrap();
    let refusal = order.check_input(&plan()).unwrap_err();
    assert_eq!(
        (refusal.code, refusal.param.as_deref()),
        (Code::InvalidRequest, Some("messages"))
    );
    assert!(
        refusal.message.contains("20112") && refusal.message.contains("16000"),
        "{}",
        refusal.message
    );
    order.narrow(u64::MAX);
    assert!(order.is_narrowed());
    assert_eq!(order.check_input(&plan()), Ok(()));
    assert_eq!(order.estimate_input_tokens(), 4_001 + 6);
}

#[test]
fn an_unknown_tokenizer_is_counted_as_the_dearest_that_is_known() {
    let text = "Die Straße ist gesperrt, weil dort gebaut wird. ".repeat(400);
    let local = json!({"model": "local", "messages": [{"role": "user", "content": text}]});
    let mut order = parse(&local.to_string()).unwrap();
    let bytes = order.quote(1).base.input_tokens;
    order.narrow(u64::MAX);
    let counted = order.quote(1).base.input_tokens;
    let tokens = tokenizer::count(Tokenizer::Cl100k, &text);
    assert!(
        counted < bytes && counted > tokens + tokens / 2,
        "{counted} of {bytes} bytes and {tokens} tokens"
    );
    assert!(
        order.estimate_input_tokens() < tokens + 20,
        "what is likely is no bound"
    );
    let small = with(json!({"model": "local"}))
        .unwrap()
        .quote(1)
        .base
        .input_tokens;
    assert!(
        small > with(json!({})).unwrap().quote(1).base.input_tokens,
        "an unknown template may say more"
    );
}

/// Seen with real templates and tokenizers (`scripts/bound-check.sh`): what each body was rendered to.
#[test]
fn bodies_that_were_once_bounded_too_low() {
    let tool = |parameters: Value| {
        let function = json!({"name": "f", "description": "", "parameters": parameters});
        json!({"messages": [{"role": "user", "content": "Hi"}], "tools": [{"type": "function", "function": function}]})
    };
    let numbers = |count: usize| Value::from(vec![json!(1e15); count]);
    let nested = (0..51).fold(Value::from(vec![json!([[[[1]]]]); 4_000]), |inner, _| {
        json!([inner])
    });
    let parts = Value::from(vec![json!({"type": "text", "text": ""}); 2_000]);
    let answers: Vec<Value> = (0..4)
        .map(|_| json!({"role": "tool", "tool_call_id": "a", "content": parts}))
        .collect();
    let cases = [
        (
            "local",
            tool(json!({"properties": {"a": {"enum": numbers(8_000)}}})),
            160_126,
        ),
        ("local", tool(json!({"default": nested})), 240_000),
        (
            "local",
            json!({"messages": [{"role": "user", "content": "\u{1D160}".repeat(10_000)}]}),
            120_000,
        ),
        (
            "gpt-4o",
            tool(json!({"type": "object", "properties": {"a": {"default": numbers(6_000)}}})),
            60_000,
        ),
        ("local", json!({"messages": answers}), 80_000),
    ];
    for (model, mut body, rendered) in cases {
        body["model"] = json!(model);
        let mut order = parse(&body.to_string()).unwrap();
        let cheap = order.quote(1).base.input_tokens;
        order.narrow(u64::MAX);
        let counted = order.quote(1).base.input_tokens;
        assert!(
            counted <= cheap && counted >= rendered,
            "{counted} of {cheap} for {rendered}: {:.80}",
            body.to_string()
        );
    }
}

/// A PNG of this size, of so many bytes.
fn png(width: u32, height: u32, bytes: usize) -> Value {
    let header = [
        &b"\x89PNG\r\n\x1a\n\0\0\0\x0DIHDR"[..],
        &width.to_be_bytes(),
        &height.to_be_bytes(),
    ]
    .concat();
    let url = format!(
        "data:image/png;base64,{}",
        STANDARD.encode([header, vec![0; bytes]].concat())
    );
    json!({"type": "image_url", "image_url": {"url": url}})
}

#[test]
fn images_count_by_their_size_and_not_by_their_bytes() {
    let with_image = |detail: &str, bytes: usize| {
        let mut part = png(2000, 1000, bytes);
        part["image_url"]["detail"] = json!(detail);
        message(json!({"role": "user", "content": [part]}))
            .unwrap()
            .quote(1)
            .base
            .input_tokens
    };
    assert_eq!(with_image("high", 4), with_image("high", 400_000));
    assert_eq!(with_image("high", 4) - with_image("low", 4), 6 * 5_667);
}

#[test]
fn a_prompt_that_is_too_long_for_its_images_names_the_dearest() {
    let parts = json!([{"type": "text", "text": "Hi"}, png(512, 512, 0), png(4000, 2000, 0)]);
    let order = message(json!({"role": "user", "content": parts})).unwrap();
    let refusal = order.check_input(&plan()).unwrap_err();
    assert_eq!(
        (refusal.code, refusal.param.as_deref()),
        (
            Code::InvalidRequest,
            Some("messages[0].content[2].image_url")
        )
    );
    assert!(
        refusal.message.contains("36835") && refusal.message.contains("16000"),
        "{}",
        refusal.message
    );
    // Where the text alone is too long, the messages are at fault.
    let parts = json!([{"type": "text", "text": "word ".repeat(20_000)}, png(512, 512, 0)]);
    let order = message(json!({"role": "user", "content": parts})).unwrap();
    assert_eq!(
        order.check_input(&plan()).unwrap_err().param.as_deref(),
        Some("messages")
    );
}

/// Whatever is added to a request, in any place, weighs at least as many tokens as its text has.
#[test]
fn every_text_of_a_prompt_is_weighed() {
    let places = [
        "/messages/0/content",
        "/messages/1/content/0/text",
        "/messages/1/name",
        "/messages/2/content/0/text",
        "/messages/3/content/0/refusal",
        "/messages/3/refusal",
        "/messages/4/tool_calls/0/id",
        "/messages/4/tool_calls/0/function/arguments",
        "/messages/5/content",
        "/messages/5/tool_call_id",
        "/tools/0/function/description",
        "/response_format/json_schema/description",
        "/tools/0/function/parameters/properties/city/type",
        "/response_format/json_schema/schema/type",
    ];
    let base = parse(&everything().to_string()).unwrap();
    for pointer in places {
        let text = "Ünïcode 👩‍👩‍👧 <|endoftext|> \"quoted\" {\"a\":[1,2]}\n\n\t x".repeat(20);
        let mut request = everything();
        *request.pointer_mut(pointer).unwrap() = json!(text);
        let mut order = parse(&request.to_string()).unwrap();
        let base_bytes = base.quote(1).base.input_tokens;
        assert!(
            order.quote(1).base.input_tokens + 64
                >= base_bytes + tokenizer::bytes_bound(Tokenizer::O200k, &text),
            "{pointer}"
        );
        order.narrow(u64::MAX);
        let mut base = base.clone();
        base.narrow(u64::MAX);
        let tokens = tokenizer::count(Tokenizer::O200k, &text);
        assert!(
            order.quote(1).base.input_tokens + 64 >= base.quote(1).base.input_tokens + tokens,
            "{pointer}"
        );
    }
    for pointer in [
        "/messages/4/tool_calls/0/function/name",
        "/tools/0/function/name",
        "/response_format/json_schema/name",
        "/tool_choice/function/name",
    ] {
        let mut request = everything();
        *request.pointer_mut(pointer).unwrap() = json!("x".repeat(64));
        assert!(
            parse(&request.to_string())
                .unwrap()
                .quote(1)
                .base
                .input_tokens
                >= base.quote(1).base.input_tokens + 56,
            "{pointer}"
        );
    }
}

#[test]
fn the_margin_on_a_count_is_one_part_in_32() {
    let mut order = message(json!({"role": "user", "content": "word ".repeat(3_199)})).unwrap();
    order.narrow(u64::MAX);
    assert_eq!(order.quote(1).base.input_tokens, 3_200 + 100 + 96 + 16);
}

#[test]
fn counting_never_widens_the_bound() {
    // A token a byte: with the margin, the count is above the bytes.
    let mut order = message(json!({"role": "user", "content": "𓀀".repeat(40_000)})).unwrap();
    let bytes = order.quote(1).base.input_tokens;
    order.narrow(u64::MAX);
    assert_eq!(order.quote(1).base.input_tokens, bytes);
    assert!(order.estimate_input_tokens() <= bytes);
}

/// The tools of a request, as OpenAI's models have been seen to read them.
fn as_typescript(tools: &Value) -> String {
    let types = |schema: &Value| match schema["enum"].as_array() {
        Some(items) => items
            .iter()
            .map(Value::to_string)
            .collect::<Vec<_>>()
            .join(" | "),
        None => schema["type"].as_str().unwrap().to_owned(),
    };
    let comment = |text: &Value| match text.as_str().unwrap() {
        "" => String::new(),
        text => format!("// {}\n", text.replace('\n', "\n// ")),
    };
    let mut lines = vec!["# Tools\n\n## functions\n\nnamespace functions {\n".to_owned()];
    for function in tools
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| &tool["function"])
    {
        lines.push(format!(
            "{}type {} = (_: {{",
            comment(&function["description"]),
            function["name"].as_str().unwrap()
        ));
        for (name, member) in function["parameters"]["properties"].as_object().unwrap() {
            lines.push(format!(
                "{}{name}?: {},",
                comment(&member["description"]),
                types(member)
            ));
        }
        lines.push("}) => any;\n".to_owned());
    }
    lines.push("} // namespace functions".to_owned());
    lines.join("\n")
}

fn tools_of_every_shape() -> Vec<Value> {
    let lines = "1\n2\n".repeat(40);
    let enums: Vec<String> = (0..200).map(|item| format!("{item}")).collect();
    let members: serde_json::Map<String, Value> = (0..200)
        .map(|item| {
            (
                format!("m{item}"),
                json!({"type": "string", "description": "A b\nC"}),
            )
        })
        .collect();
    let function = |properties: Value| {
        let parameters = json!({"type": "object", "properties": properties});
        json!([{"type": "function", "function": {"name": "f", "description": lines, "parameters": parameters}}])
    };
    vec![
        json!([{"type": "function", "function": {"name": "f", "description": "", "parameters": {"properties": {}}}}]),
        function(json!({})),
        function(json!({"a": {"type": "string", "description": "", "enum": enums}})),
        function(json!({"a": {"type": "string", "description": lines}})),
        function(Value::Object(members)),
    ]
}

#[test]
fn tools_weigh_more_than_any_way_they_are_shown() {
    for tools in tools_of_every_shape() {
        let without = |model: &str| with(json!({"model": model})).unwrap();
        let weigh =
            |model: &str, tools: &Value| with(json!({"model": model, "tools": tools})).unwrap();
        let (mut order, mut plain) = (weigh("gpt-4o", &tools), without("gpt-4o"));
        order.narrow(u64::MAX);
        plain.narrow(u64::MAX);
        let shown = tokenizer::count(Tokenizer::O200k, &as_typescript(&tools));
        let weight = order.quote(1).base.input_tokens - plain.quote(1).base.input_tokens;
        assert!(
            weight >= shown + 100,
            "{weight} for {shown}: {:.200}",
            tools.to_string()
        );
        // A template that prints JSON within JSON, safe for HTML, and a tokenizer that knows single bytes only.
        let escaped = json!(tools.to_string()).to_string();
        let weight = weigh("local", &tools).quote(1).base.input_tokens
            - without("local").quote(1).base.input_tokens;
        assert!(
            weight >= tokenizer::bytes_bound(Tokenizer::O200k, &escaped),
            "{weight}: {:.200}",
            tools.to_string()
        );
    }
    let quotes = message(json!({"role": "tool", "tool_call_id": "a", "content": "<".repeat(1000)}));
    let quotes = quotes.unwrap();
    let local = with(
        json!({"model": "local", "messages": [{"role": "tool", "tool_call_id": "a", "content": "<".repeat(1000)}]}),
    );
    assert!(
        local.unwrap().quote(1).base.input_tokens >= 6000
            && quotes.quote(1).base.input_tokens < 1400
    );
}

#[test]
fn blanks_between_the_tokens_of_a_schema_are_neither_sent_nor_weighed() {
    let body = |parameters: &str| {
        let tool = format!(
            "{{\"type\":\"function\",\"function\":{{\"name\":\"a\",\"parameters\":{parameters}}}}}"
        );
        format!("{{\"messages\":[{{\"role\":\"user\",\"content\":\"Hi\"}}],\"tools\":[{tool}]}}")
    };
    let (tight, loose) = (
        "{\"b\":[1,2],\"a\":\"x \\\" y\"}",
        "{ \"b\" : [ 1,\n\t2 ] , \"a\":\"x \\\" y\" }",
    );
    assert_eq!(parse(&body(loose)).unwrap(), parse(&body(tight)).unwrap());
    let sent = parse(&body(loose))
        .unwrap()
        .body(1, Dialect::Openai.into(), "");
    assert!(String::from_utf8(sent.to_vec()).unwrap().contains(tight));
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,60}",
        "[a-z ,.\\n\\t]{0,200}",
        "[\u{4e00}-\u{4fff}\u{3041}-\u{3090}。，]{0,80}",
        "(👩‍👩‍👧|🇫🇷|é|\u{301}|\u{200d}){0,40}",
        ("[a =\\n0'\"{\\[]", 0usize..600).prop_map(|(unit, times)| unit.repeat(times)),
        "(<\\|endoftext\\|>|<\\|im_start\\|>|fn main\\(\\) \\{\\}|  return x;\\n|\\{\"a\":\\[1,2\\]\\}){0,20}",
    ]
}

fn any_schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any_text().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from)
    ];
    let inner = leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("\\PC{0,8}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    prop::collection::btree_map("[a-z]{1,8}", inner, 0..4)
        .prop_map(|map| Value::Object(map.into_iter().collect()))
}

fn any_request() -> impl Strategy<Value = (Value, Vec<String>)> {
    let model = prop_oneof![
        Just("gpt-4o"),
        Just("gpt-4"),
        Just("local"),
        Just("gpt-4o-mini")
    ];
    let numbers = (any::<i64>(), -2.0..2.0f64, 1u32..4000, any::<bool>());
    let texts = prop::collection::vec(any_text(), 1..5);
    (model, texts, any_schema(), numbers).prop_map(|(model, texts, schema, (seed, penalty, cap, modern))| {
        let mut messages: Vec<Value> = texts
            .iter()
            .map(|text| json!({"role": "user", "content": [{"type": "text", "text": text}], "name": text}))
            .collect();
        messages.push(json!({"role": "assistant", "tool_calls": [
            {"id": texts[0], "type": "function", "function": {"name": "f", "arguments": texts[0]}}]}));
        messages.push(json!({"role": "tool", "tool_call_id": texts[0], "content": texts[0]}));
        let request = json!({
            "model": model, "messages": messages, "seed": seed, "presence_penalty": penalty, "stop": texts[0],
            "logit_bias": {"1": 2}, (if modern { "max_completion_tokens" } else { "max_tokens" }): cap,
            "tools": [{"type": "function", "function": {"name": "f", "description": texts[0], "parameters": schema}}],
        });
        (request, texts)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_sent_reads_as_what_was_priced((request, _) in any_request()) {
        let order = parse(&request.to_string()).unwrap();
        let body = order.body(u32::MAX, Dialect::Compatible.into(), "");
        let again = parse(std::str::from_utf8(&body).unwrap()).unwrap();
        prop_assert_eq!(&again, &order);
        prop_assert_eq!(again.body(u32::MAX, Dialect::Compatible.into(), ""), body);
    }

    #[test]
    fn the_cheap_bound_is_above_the_exact_one_and_that_above_the_tokens((request, texts) in any_request()) {
        let mut order = parse(&request.to_string()).unwrap();
        let cheap = order.quote(1).base.input_tokens;
        let estimate_first = order.estimate_input_tokens();
        order.narrow(u64::MAX);
        let exact = order.quote(1).base.input_tokens;
        let tokenizer = order.price().tokenizer;
        let rendered = &request["messages"].to_string();
        let tokens: u64 = texts.iter().map(|text| tokenizer::count(tokenizer, text).saturating_mul(2)).sum();
        let tools = tokenizer::count(tokenizer, &request["tools"][0]["function"]["parameters"].to_string());
        prop_assert!(cheap >= exact);
        let around = tokenizer::count(tokenizer, &texts[0]).saturating_mul(5);
        prop_assert!(exact >= tokens.saturating_add(tools).saturating_add(around), "{}", rendered);
        prop_assert!(estimate_first <= cheap && order.estimate_input_tokens() <= exact);
    }

    #[test]
    fn no_bytes_break_the_parser(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[\\[\\]{}\":,a-z0-9\\\\ .\\-]{0,200}") {
        let _refused = Order::parse(&bytes, &Terms { plan: &plan(), prices: prices(), models: &ModelTable::shipped(), prompts: &Prompts::new(), now: Timestamp::EPOCH, candidate: None });
        let _refused = parse(&text);
    }
}
