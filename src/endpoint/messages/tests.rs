//! What is taken, what is refused, what is held and what is sent.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::count::CountOrder;
use super::*;
use crate::clock::Timestamp;
use crate::dialect::Dialect;
use crate::error::Code;
use crate::model::{Alias, Effort, ModelTable, Tokenizer};
use crate::price::{Price, PriceEntry, PriceTable, tokenizer};
use crate::prompt::Prompts;

/// A plan whose models are Claude's; one reasons by efforts, of one nothing is known.
struct World {
    plan: Plan,
    prices: PriceTable,
    models: ModelTable,
}

impl World {
    fn new() -> Self {
        let price = PriceEntry {
            input: Some("3".to_owned()),
            cached_input: Some("0.3".to_owned()),
            cache_write: Some("3.75".to_owned()),
            output: Some("15".to_owned()),
            ..PriceEntry::default()
        };
        let names = ["claude-test", "claude-opus-5", "claude-fable-5"];
        let price = Price::try_from(price).unwrap();
        let prices = PriceTable {
            models: names
                .iter()
                .map(|name| ((*name).to_owned(), price.clone()))
                .collect(),
            endpoints: BTreeMap::new(),
        };
        let messages = || vec![Capability::Messages];
        let models = names.iter().fold(ModelTable::shipped(), |table, name| {
            table.with_endpoints(name, messages())
        });
        let plan = Plan {
            name: "free".to_owned(),
            models: names.iter().map(|name| (*name).to_owned()).collect(),
            max_output_tokens: 20_000,
            max_input_tokens: 32_000,
            max_choices: 1,
            images: crate::plan::ImageCaps::default(),
            audio_seconds_max: 600,
            moderates_input: false,
            attested: None,
            concurrent_requests: None,
            reasoning_effort_max: None,
            limits: Vec::new(),
        };
        Self {
            plan,
            prices,
            models,
        }
    }

    fn up_to(most: Effort) -> Self {
        let mut world = Self::new();
        world.plan.reasoning_effort_max = Some(most);
        world
    }

    fn terms(&self) -> Terms<'_> {
        static PROMPTS: std::sync::LazyLock<Prompts> = std::sync::LazyLock::new(Prompts::default);
        Terms {
            plan: &self.plan,
            prices: &self.prices,
            models: &self.models,
            prompts: &PROMPTS,
            now: Timestamp::EPOCH,
            candidate: None,
        }
    }

    fn order(&self, body: &Value) -> MessagesOrder {
        MessagesOrder::parse(body.to_string().as_bytes(), &self.terms())
            .unwrap_or_else(|refusal| panic!("{}: {body}", refusal.message))
    }

    fn refusal(&self, body: &Value) -> Refusal {
        MessagesOrder::parse(body.to_string().as_bytes(), &self.terms())
            .expect_err(&body.to_string())
    }

    /// What is sent with this cap.
    fn sent(&self, body: &Value, cap: u32) -> Value {
        let sent = self
            .order(body)
            .body(cap, Dialect::Anthropic.into(), "hashed");
        serde_json::from_slice(&sent).unwrap()
    }
}

fn with(fields: &Value) -> Value {
    let mut body = json!({
        "model": "claude-test",
        "max_tokens": 16_000,
        "messages": [{"role": "user", "content": "Hello"}],
    });
    let members = body.as_object_mut().unwrap();
    members.extend(fields.as_object().unwrap().clone());
    body
}

fn user(block: &Value) -> Value {
    with(&json!({"messages": [{"role": "user", "content": [block]}]}))
}

fn assistant(block: &Value) -> Value {
    with(&json!({"messages": [{"role": "assistant", "content": [block]}]}))
}

fn png(width: u32, height: u32) -> Value {
    let header = [
        &b"\x89PNG\r\n\x1a\n\0\0\0\x0DIHDR"[..],
        &width.to_be_bytes(),
        &height.to_be_bytes(),
    ];
    let data = STANDARD.encode(header.concat());
    json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}})
}

#[test]
fn everything_on_the_list_is_sent_as_it_came() {
    let world = World::new();
    let fields = json!({
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        "messages": [
            {"role": "user", "content": [
                {"type": "text", "text": "Look", "cache_control": {"type": "ephemeral"}},
                png(20, 30),
                {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
                {"type": "document", "title": "T", "context": "C", "citations": {"enabled": false},
                 "source": {"type": "text", "media_type": "text/plain", "data": "words"}},
                {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "x"}]}},
            ]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
                {"type": "redacted_thinking", "data": "ZGF0YQ=="},
                {"type": "text", "text": "I call."},
                {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"b": 1, "a": [2]}, "caller": {"type": "direct"}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "is_error": false,
                 "content": [{"type": "text", "text": "found"}, png(2, 2)]},
            ]},
            {"role": "system", "content": "Now be brief."},
        ],
        "tools": [
            {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {"b": {}, "a": {}}},
             "type": "custom", "strict": true, "input_examples": [{"b": 1}], "cache_control": {"type": "ephemeral"}},
            {"type": "bash_20250124", "name": "bash"},
        ],
        "tool_choice": {"type": "tool", "name": "look", "disable_parallel_tool_use": true},
        "thinking": {"type": "enabled", "budget_tokens": 2_000, "display": "summarized"},
        "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        "cache_control": {"type": "ephemeral", "ttl": "5m"},
        "stop_sequences": ["END"], "stream": true, "temperature": 0.5, "top_p": 1, "top_k": 40,
        "metadata": {"user_id": "somebody"}, "service_tier": "auto",
    });
    let body = with(&fields);
    let mut wanted = body.clone();
    wanted["metadata"] = json!({"user_id": "hashed"});
    wanted["service_tier"] = json!("standard_only");
    wanted["max_tokens"] = json!(9_000);
    assert_eq!(world.sent(&body, 9_000), wanted);
    // What a server left empty goes back with the rest.
    let answered = json!({"type": "text", "text": "Hi", "citations": null, "toolset_name": null});
    world.order(&assistant(&answered));
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table of cases")]
fn everything_else_is_refused_by_its_path() {
    let world = World::new();
    let invalid = Code::InvalidRequest;
    let unsupported = Code::UnsupportedField;
    let mut without = with(&json!({}));
    without.as_object_mut().unwrap().remove("max_tokens");
    let tool = |tool: Value| with(&json!({ "tools": [tool] }));
    let text = json!({"type": "text", "text": "a"});
    let document = |source: Value| user(&json!({"type": "document", "source": source}));
    let cases = [
        (without, invalid, "max_tokens"),
        (with(&json!({"max_tokens": 0})), invalid, "max_tokens"),
        (with(&json!({"max_tokens": 1.5})), invalid, "max_tokens"),
        (
            with(&json!({"max_tokens": 1_u64 << 33})),
            invalid,
            "max_tokens",
        ),
        (with(&json!({"messages": []})), invalid, "messages"),
        (with(&json!({"messages": null})), invalid, "messages"),
        (
            with(&json!({"mcp_servers": []})),
            unsupported,
            "mcp_servers",
        ),
        (with(&json!({"container": "c"})), unsupported, "container"),
        (with(&json!({"speed": "fast"})), unsupported, "speed"),
        (
            with(&json!({"inference_geo": "us"})),
            unsupported,
            "inference_geo",
        ),
        (
            with(&json!({"service_tier": "priority"})),
            unsupported,
            "service_tier",
        ),
        (with(&json!({"temperature": 1.1})), invalid, "temperature"),
        (with(&json!({"top_k": -1})), invalid, "top_k"),
        (
            with(&json!({"stop_sequences": ["a", ""]})),
            invalid,
            "stop_sequences[1]",
        ),
        (
            with(&json!({"metadata": {"email": "x"}})),
            unsupported,
            "metadata.email",
        ),
        (
            with(&json!({"cache_control": {"type": "ephemeral", "ttl": "2h"}})),
            invalid,
            "cache_control.ttl",
        ),
        (
            with(&json!({"thinking": {"type": "enabled"}})),
            invalid,
            "thinking.budget_tokens",
        ),
        (
            with(&json!({"thinking": {"type": "enabled", "budget_tokens": 1_023}})),
            invalid,
            "thinking.budget_tokens",
        ),
        (
            with(&json!({"thinking": {"type": "enabled", "budget_tokens": 16_000}})),
            invalid,
            "thinking.budget_tokens",
        ),
        (
            with(&json!({"thinking": {"type": "adaptive", "budget_tokens": 2_000}})),
            invalid,
            "thinking.budget_tokens",
        ),
        (
            with(&json!({"output_config": {"effort": "none"}})),
            invalid,
            "output_config.effort",
        ),
        (
            with(&json!({"output_config": {"format": {"type": "grammar"}}})),
            unsupported,
            "output_config.format.type",
        ),
        (
            with(&json!({"output_config": {"task_budget": {}}})),
            unsupported,
            "output_config.task_budget",
        ),
        (
            tool(json!({"type": "web_search_20250305", "name": "web_search"})),
            unsupported,
            "tools[0].type",
        ),
        (
            tool(json!({"type": "code_execution_20250825", "name": "code_execution"})),
            unsupported,
            "tools[0].type",
        ),
        (
            tool(json!({"name": "a b", "input_schema": {}})),
            invalid,
            "tools[0].name",
        ),
        (tool(json!({"name": "a"})), invalid, "tools[0].input_schema"),
        (
            tool(json!({"name": "a", "input_schema": {}, "defer_loading": true})),
            unsupported,
            "tools[0].defer_loading",
        ),
        (
            with(&json!({"tool_choice": {"type": "tool"}})),
            invalid,
            "tool_choice.name",
        ),
        (
            with(&json!({"system": [png(1, 1)]})),
            invalid,
            "system[0].type",
        ),
        (
            user(&json!({"type": "tool_use", "id": "a", "name": "b", "input": {}})),
            invalid,
            "messages[0].content[0].type",
        ),
        (
            assistant(&png(1, 1)),
            invalid,
            "messages[0].content[0].type",
        ),
        (
            user(&json!({"type": "server_tool_use", "id": "a"})),
            unsupported,
            "messages[0].content[0].type",
        ),
        (
            user(&json!({"type": "text"})),
            invalid,
            "messages[0].content[0].text",
        ),
        (
            user(&json!({"type": "text", "text": "a", "toolset_name": null})),
            unsupported,
            "messages[0].content[0].toolset_name",
        ),
        (
            user(&json!({"type": "text", "text": "a", "source": {}})),
            invalid,
            "messages[0].content[0].source",
        ),
        (
            assistant(&json!({"type": "text", "text": "a", "citations": [{"type": "x"}]})),
            unsupported,
            "messages[0].content[0].citations",
        ),
        (
            user(&json!({"type": "image", "source": {"type": "file", "file_id": "f"}})),
            unsupported,
            "messages[0].content[0].source.file_id",
        ),
        (
            user(&json!({"type": "image", "source": {"type": "url", "url": "http://localhost/a"}})),
            invalid,
            "messages[0].content[0].source.url",
        ),
        (
            user(
                &json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}),
            ),
            invalid,
            "messages[0].content[0].source.data",
        ),
        (
            document(json!({"type": "base64", "media_type": "application/pdf", "data": "AAAA"})),
            unsupported,
            "messages[0].content[0].source.type",
        ),
        (
            document(json!({"type": "url", "url": "https://example.com/a.pdf"})),
            unsupported,
            "messages[0].content[0].source.type",
        ),
        (
            user(
                &json!({"type": "document", "citations": {"enabled": true}, "source": {"type": "text", "media_type": "text/plain", "data": "a"}}),
            ),
            unsupported,
            "messages[0].content[0].citations",
        ),
        (
            user(
                &json!({"type": "tool_result", "tool_use_id": "a", "content": [{"type": "tool_result", "text": "a"}]}),
            ),
            invalid,
            "messages[0].content[0].content[0].text",
        ),
        (
            assistant(&json!({"type": "tool_use", "id": "a", "name": "b", "input": [1]})),
            invalid,
            "messages[0].content[0].input",
        ),
        (
            with(&json!({"messages": [{"role": "tool", "content": "a"}]})),
            invalid,
            "messages[0].role",
        ),
        (
            with(&json!({"messages": [{"role": "user", "content": [text, 1]}]})),
            invalid,
            "messages[0].content[1]",
        ),
    ];
    for (body, code, param) in cases {
        let refusal = world.refusal(&body);
        let told = (refusal.code, refusal.param.as_deref());
        assert_eq!(told, (code, Some(param)), "{}", refusal.message);
        assert!(refusal.message.contains(param), "{}", refusal.message);
    }
    let other = with(&json!({"model": "gpt-4o"}));
    assert_eq!(world.refusal(&other).code, Code::ModelNotAllowed);
}

#[test]
fn the_cap_and_the_budget_of_thoughts_shrink_together() {
    let mut world = World::new();
    let thinking = json!({"thinking": {"type": "enabled", "budget_tokens": 10_000}});
    let body = with(&thinking);
    for (cap, budget) in [
        (16_000, 10_000),
        (10_064, 10_000),
        (10_000, 9_936),
        (2_000, 1_936),
        (1_088, 1_024),
        (1_025, 1_024),
    ] {
        let sent = world.sent(&body, cap);
        assert_eq!(
            (&sent["max_tokens"], &sent["thinking"]["budget_tokens"]),
            (&json!(cap), &json!(budget))
        );
    }
    let floor = |body: &Value| world.order(body).quote(64).output_floor;
    assert_eq!((floor(&body), floor(&with(&json!({})))), (1_025, 64));
    world.plan.max_output_tokens = 1_024;
    let refusal = world.refusal(&body);
    assert_eq!(refusal.code, Code::QuotaExceeded, "{}", refusal.message);
    assert!(refusal.message.contains("1025"), "{}", refusal.message);
    assert_eq!(world.order(&with(&json!({}))).output_cap(), 1_024);
    let adaptive = with(&json!({"thinking": {"type": "adaptive"}}));
    assert_eq!(world.order(&adaptive).output_cap(), 1_024);
}

#[test]
fn an_hour_in_the_cache_is_held_at_its_price() {
    let world = World::new();
    let mark = json!({"type": "ephemeral", "ttl": "1h"});
    let marked = |mut block: Value| {
        block["cache_control"] = mark.clone();
        block
    };
    let text = json!({"type": "text", "text": "a"});
    let result =
        json!({"type": "tool_result", "tool_use_id": "a", "content": [marked(text.clone())]});
    let tool = json!({"name": "a", "input_schema": {}});
    for body in [
        with(&json!({ "cache_control": mark })),
        with(&json!({"system": [marked(text.clone())]})),
        user(&marked(text.clone())),
        user(&result),
        with(&json!({"tools": [marked(tool)]})),
    ] {
        let order = world.order(&body);
        let ask = order.quote(64);
        assert_eq!(
            ask.base.cache_write_1h_tokens, ask.base.input_tokens,
            "{body}"
        );
        // Six dollars a million.
        let bound = ask.price.bound(&ask.base).0;
        assert_eq!(u64::try_from(bound).unwrap(), ask.base.input_tokens * 6);
    }
    let five = with(&json!({"cache_control": {"type": "ephemeral"}}));
    assert_eq!(world.order(&five).quote(64).base.cache_write_1h_tokens, 0);
}

#[test]
fn a_picture_is_bounded_by_its_real_size() {
    let world = World::new();
    let plain = world.order(&user(&json!({"type": "text", "text": ""})));
    for (width, height, tokens) in [
        (200, 200, 64),
        (1_000, 1_000, 1_334),
        (1, 8_000, 286),
        (8_000, 8_000, 8_848),
    ] {
        let order = world.order(&user(&png(width, height)));
        assert_eq!(
            order.input_tokens - plain.input_tokens,
            tokens,
            "{width} × {height}"
        );
    }
    let url =
        json!({"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}});
    let order = world.order(&user(&url));
    assert_eq!(order.input_tokens - plain.input_tokens, 8_848);
}

#[test]
fn the_closer_bound_is_never_above_the_cheap_one_and_covers_all_texts() {
    let world = World::new();
    let words = "The quick brown fox jumps over the lazy dog. ".repeat(200);
    let bodies = [
        with(&json!({ "system": words })),
        user(&json!({"type": "text", "text": words})),
        user(&json!({"type": "tool_result", "tool_use_id": "a", "content": words})),
        assistant(&json!({"type": "tool_use", "id": "a", "name": "b", "input": {"x": words}})),
        assistant(&json!({"type": "thinking", "thinking": words, "signature": ""})),
        with(&json!({"tools": [{"name": "a", "description": words, "input_schema": {}}]})),
        user(
            &json!({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": words}}),
        ),
        with(
            &json!({"output_config": {"format": {"type": "json_schema", "schema": {"description": words}}}}),
        ),
    ];
    for body in bodies {
        let mut order = world.order(&body);
        let cheap = order.input_tokens;
        assert!(cheap > 9_000, "{cheap}: {body:.80}");
        order.narrow(u64::MAX);
        // Two thousand tokens of any real vocabulary.
        assert!((2_000..cheap).contains(&order.input_tokens), "{body:.80}");
        let likely = order.estimate(&Measured::default()).input_tokens;
        assert!((1_900..=order.input_tokens).contains(&likely), "{likely}");
    }
    // What is signed or sealed is never counted closer than its bytes.
    let sealed = "QUJD".repeat(1_000);
    let mut order = world.order(&assistant(
        &json!({"type": "redacted_thinking", "data": sealed}),
    ));
    order.narrow(u64::MAX);
    assert!(order.input_tokens >= 4_000);
}

#[test]
fn a_prompt_that_is_too_long_is_refused() {
    let world = World::new();
    let mut order = world.order(&with(&json!({"system": "word ".repeat(40_000)})));
    let plan = &world.plan;
    assert!(order.check_least_input(plan).is_err());
    order.narrow(u64::MAX);
    let refusal = order.check_input(plan).unwrap_err();
    assert_eq!(refusal.param.as_deref(), Some("messages"));
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table of cases")]
fn the_plans_effort_lowers_effort_and_thoughts() {
    let sent = |most: Effort, model: &str, fields: Value| {
        let mut body = with(&fields);
        body["model"] = json!(model);
        let sent = World::up_to(most).sent(&body, 16_000);
        (
            sent["output_config"]["effort"].clone(),
            sent["thinking"].clone(),
        )
    };
    let enabled = json!({"thinking": {"type": "enabled", "budget_tokens": 10_000}});
    let asks = json!({"output_config": {"effort": "max"}, "thinking": {"type": "adaptive"}});
    let (disabled, adaptive) = (json!({"type": "disabled"}), json!({"type": "adaptive"}));
    let budget = |tokens: u32| json!({"type": "enabled", "budget_tokens": tokens});
    let low = json!("low");
    for (most, model, fields, effort, thinking) in [
        // Of a model that is not known nothing is said that it was not asked.
        (
            Effort::None,
            "claude-test",
            json!({}),
            Value::Null,
            Value::Null,
        ),
        (
            Effort::None,
            "claude-test",
            enabled.clone(),
            Value::Null,
            disabled.clone(),
        ),
        (
            Effort::Low,
            "claude-test",
            enabled.clone(),
            Value::Null,
            budget(2_048),
        ),
        (
            Effort::Medium,
            "claude-test",
            enabled.clone(),
            Value::Null,
            budget(8_192),
        ),
        (
            Effort::Max,
            "claude-test",
            enabled,
            Value::Null,
            budget(10_000),
        ),
        (
            Effort::Low,
            "claude-test",
            asks.clone(),
            low.clone(),
            adaptive.clone(),
        ),
        // It thinks unless it is told not to.
        (
            Effort::None,
            "claude-opus-5",
            json!({}),
            low.clone(),
            disabled.clone(),
        ),
        (
            Effort::None,
            "claude-opus-5",
            asks.clone(),
            low.clone(),
            disabled,
        ),
        (
            Effort::Medium,
            "claude-opus-5",
            json!({}),
            json!("medium"),
            Value::Null,
        ),
        (
            Effort::Xhigh,
            "claude-opus-5",
            asks.clone(),
            json!("xhigh"),
            adaptive.clone(),
        ),
        (
            Effort::Max,
            "claude-opus-5",
            json!({}),
            Value::Null,
            Value::Null,
        ),
        // It always thinks.
        (Effort::None, "claude-fable-5", asks, low.clone(), adaptive),
        (Effort::None, "claude-fable-5", json!({}), low, Value::Null),
    ] {
        let shown = format!("{most:?} {model} {fields}");
        assert_eq!(sent(most, model, fields), (effort, thinking), "{shown}");
    }
    // What a model refuses whatever it thinks is left out.
    let world = World::new();
    let fields = json!({"model": "claude-opus-5", "temperature": 0.5, "top_k": 4});
    let sent = world.sent(&with(&fields), 100);
    assert_eq!(
        (&sent["temperature"], &sent["top_k"]),
        (&Value::Null, &Value::Null)
    );
}

#[test]
fn a_name_of_the_operators_sets_its_fields() {
    let mut world = World::new();
    let alias = Alias {
        candidates: vec!["claude-test".to_owned()],
        set: Some(r#"{"temperature":0.1}"#.to_owned()),
        defaults: Some(r#"{"top_k":5,"stop_sequences":["X"]}"#.to_owned()),
    };
    world.models = world
        .models
        .with_aliases([("clever".to_owned(), alias)].into());
    world.plan.models = vec!["clever".to_owned()];
    let body = with(&json!({"model": "clever", "temperature": 0.9, "top_k": 7}));
    let sent = world.sent(&body, 100);
    assert_eq!(
        (
            &sent["model"],
            &sent["temperature"],
            &sent["top_k"],
            &sent["stop_sequences"]
        ),
        (&json!("claude-test"), &json!(0.1), &json!(7), &json!(["X"]))
    );
    let count = json!({"model": "clever", "messages": [{"role": "user", "content": "Hello"}]});
    let count = CountOrder::parse(count.to_string().as_bytes(), &world.terms()).unwrap();
    let sent: Value =
        serde_json::from_slice(&count.body(0, Dialect::Anthropic.into(), "hashed")).unwrap();
    let wanted =
        json!({"model": "claude-test", "messages": [{"role": "user", "content": "Hello"}]});
    assert_eq!(sent, wanted);
}

#[test]
fn what_the_user_said_since_the_last_answer_is_told() {
    let world = World::new();
    let picture = png(2, 2);
    let data = picture["source"]["data"].as_str().unwrap().to_owned();
    let call = json!({"type": "tool_use", "id": "a", "name": "b", "input": {}});
    let result = json!({"type": "tool_result", "tool_use_id": "a", "content": "tool"});
    let document = json!({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "paper"}});
    let body = with(&json!({
        "system": "the app's",
        "messages": [
            {"role": "user", "content": "old"},
            {"role": "assistant", "content": "answer"},
            {"role": "user", "content": [{"type": "text", "text": "new"}, picture, document]},
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result]},
            {"role": "system", "content": "late"},
            {"role": "assistant", "content": "begun"},
        ],
    }));
    let order = world.order(&body);
    let said = order.user_input().unwrap();
    assert_eq!(said.texts, ["new", "paper", "late", "begun"]);
    assert_eq!(said.images, [format!("data:image/png;base64,{data}")]);
}

proptest! {
    #[test]
    fn a_bound_has_every_text_and_half_of_it_on_top_and_never_grows(
        texts in prop::collection::vec("[a-z ]{100,300}|\\PC{1,100}", 1..6),
    ) {
        let world = World::new();
        let blocks: Vec<Value> = texts.iter().enumerate().map(|(place, text)| match place % 3 {
            0 => json!({"type": "text", "text": text}),
            1 => json!({"type": "tool_result", "tool_use_id": "toolu_1", "content": text}),
            _ => json!({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": text}}),
        }).collect();
        let mut order = world.order(&with(&json!({"messages": [{"role": "user", "content": blocks}]})));
        let bound = |order: &MessagesOrder| order.quote(64).base.input_tokens;
        let cheap = bound(&order);
        order.narrow(u64::MAX);
        let unknown = |text: &String| tokenizer::bound_up_to(Tokenizer::Unknown, text, u64::MAX);
        let texts = texts.iter().map(unknown).sum::<u64>();
        let least = texts.saturating_mul(3).div_ceil(2).saturating_add(64).min(cheap);
        prop_assert!(bound(&order) <= cheap && bound(&order) >= least, "{} {cheap} {least}", bound(&order));
        prop_assert!(order.estimate(&Measured::default()).input_tokens <= bound(&order));
    }
}
