//! The bound and the body, tried from outside. What is refused is tried at the door.
#![allow(
    clippy::arithmetic_side_effects,
    reason = "a test that overflows fails"
)]

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::clock::Timestamp;
use crate::model::ModelTable;
use crate::price::{PriceTable, Rate};
use crate::prompt::Prompts;

/// Models with OpenAI's tokenizers, and one whose tokenizer nobody knows.
const MODELS: [&str; 3] = ["gpt-4o-mini", "gpt-4", "local"];

fn plan() -> Plan {
    Plan {
        name: "free".to_owned(),
        models: MODELS.map(str::to_owned).to_vec(),
        max_output_tokens: 1024,
        max_input_tokens: 16_000,
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

fn parse(body: &Value) -> Result<ResponseOrder, Refusal> {
    static PRICES: LazyLock<PriceTable> = LazyLock::new(|| {
        let mut prices = PriceTable::shipped();
        let mut local = prices.models["gpt-4o"].clone();
        (local.tokenizer, local.rates.input) = (Tokenizer::Unknown, Rate(7));
        prices.models.insert("local".to_owned(), local);
        prices
    });
    let terms = Terms {
        plan: &plan(),
        prices: &PRICES,
        models: &ModelTable::shipped(),
        prompts: &Prompts::new(),
        now: Timestamp::EPOCH,
        candidate: None,
    };
    ResponseOrder::parse(body.to_string().as_bytes(), &terms)
}

fn bound(order: &ResponseOrder) -> u64 {
    order.quote(64).base.input_tokens
}

#[test]
fn the_floor_of_the_cap_is_what_the_api_takes_and_the_operator_wants() {
    let order = |cap: Value| parse(&json!({"input": "x", "max_output_tokens": cap})).unwrap();
    for (cap, min, wanted) in [
        (json!(null), 1, (1024, 16)),
        (json!(500), 64, (500, 64)),
        (json!(20), 64, (20, 20)),
        (json!(16), 1, (16, 16)),
    ] {
        let ask = order(cap).quote(min);
        assert_eq!((ask.output_cap, ask.output_floor), wanted);
    }
}

#[test]
fn sealed_reasoning_counts_by_its_bytes_and_stays_so() {
    let order = |sealed: &str| {
        let item =
            json!({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": sealed});
        parse(&json!({"model": "gpt-4o-mini", "input": [{"role": "user", "content": "x"}, item]}))
            .unwrap()
    };
    let (short, mut long) = (order(""), order(&"gA".repeat(500)));
    assert_eq!(bound(&long), bound(&short) + 1000);
    long.narrow(u64::MAX);
    let nothing = Measured::default();
    assert!(bound(&long) >= 1000 && long.estimate(&nothing).input_tokens >= 1000);
}

#[test]
fn every_part_of_a_request_makes_its_bound_larger() {
    let base = json!({"model": "gpt-4o-mini", "input": [{"role": "user", "content": "x"}]});
    let least = bound(&parse(&base).unwrap());
    let text = "word ".repeat(200);
    let item = |item: Value| json!({"input": [{"role": "user", "content": "x"}, item]});
    let part = |part: Value| item(json!({"role": "user", "content": [part]}));
    for members in [
        json!({"instructions": text}),
        json!({"input": text}),
        item(json!({"role": "developer", "content": text})),
        part(json!({"type": "input_text", "text": text})),
        item(json!({"role": "assistant", "content": [{"type": "output_text", "text": text}]})),
        item(json!({"role": "assistant", "content": [{"type": "refusal", "refusal": text}]})),
        item(json!({"type": "function_call", "call_id": "a", "name": "b", "arguments": text})),
        item(json!({"type": "function_call_output", "call_id": "a", "output": text})),
        item(
            json!({"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": text}]}),
        ),
        item(json!({"type": "custom_tool_call", "call_id": "a", "name": "b", "input": text})),
        item(json!({"type": "custom_tool_call_output", "call_id": "a", "output": text})),
        item(json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]})),
        item(json!({"type": "reasoning", "content": [{"type": "reasoning_text", "text": text}]})),
        json!({"tools": [{"type": "function", "name": "a", "description": text}]}),
        json!({"tools": [{"type": "function", "name": "a", "parameters": {"type": "object", "description": text}}]}),
        json!({"tools": [{"type": "custom", "name": "a", "description": text}]}),
        json!({"tools": [{"type": "custom", "name": "a", "format": {"type": "grammar", "syntax": "lark", "definition": text}}]}),
        json!({"text": {"format": {"type": "json_schema", "name": "a", "schema": {"description": text}}}}),
        json!({"text": {"format": {"type": "json_schema", "name": "a", "description": text, "schema": {}}}}),
    ] {
        let mut body = base.clone();
        body.as_object_mut()
            .unwrap()
            .extend(members.as_object().unwrap().clone());
        let mut order = parse(&body).unwrap();
        assert!(
            bound(&order) >= least + 900,
            "{members:.60}: {} of {least}",
            bound(&order)
        );
        order.narrow(u64::MAX);
        assert!(bound(&order) >= 200, "{members:.60}: {}", bound(&order));
    }
}

#[test]
fn what_is_sent_back_as_it_came_is_taken() {
    let output = json!([
        {"id": "rs_1", "type": "reasoning", "summary": [], "content": null, "encrypted_content": null, "status": null},
        {"id": "fc_1", "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "status": "completed",
         "namespace": null, "parsed_arguments": {"a": 1}},
        {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "phase": null, "content": [
            {"type": "output_text", "text": "x", "annotations": [{"type": "url_citation"}], "logprobs": null, "parsed": {"a": 1}}]},
    ]);
    let order = parse(&json!({"model": "local", "input": output})).unwrap();
    let sent = order.body(99, Dialect::Compatible.into(), "someone");
    let sent: Value = serde_json::from_slice(&sent).unwrap();
    assert_eq!(
        sent["input"][2]["content"][0],
        json!({"type": "output_text", "text": "x", "annotations": []})
    );
    assert_eq!(sent["input"].as_array().unwrap().len(), 3);
    assert!(!sent.to_string().contains("parsed"), "{sent}");
    let order = parse(&json!({"model": "gpt-4o-mini", "input": output})).unwrap();
    let sent = order.body(99, Dialect::Openai.into(), "someone");
    let sent: Value = serde_json::from_slice(&sent).unwrap();
    assert_eq!(
        (
            sent["input"].as_array().unwrap().len(),
            &sent["max_output_tokens"]
        ),
        (2, &json!(99))
    );
}

#[test]
fn what_the_user_said_since_the_last_answer_is_known() {
    let said = |input: Value| {
        let order =
            parse(&json!({"model": "local", "input": input, "instructions": "no"})).unwrap();
        order.user_input().unwrap().texts.join(",")
    };
    let by = |role: &str, text: &str| json!({"role": role, "content": text});
    let call = json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"});
    let output = json!({"type": "function_call_output", "call_id": "c", "output": "no"});
    assert_eq!(said(json!("a")), "a");
    assert_eq!(
        said(json!([
            by("system", "no"),
            by("user", "a"),
            by("system", "b")
        ])),
        "a,b"
    );
    assert_eq!(
        said(json!([
            by("user", "no"),
            by("assistant", "no"),
            by("user", "a")
        ])),
        "a"
    );
    assert_eq!(
        said(json!([
            by("user", "a"),
            by("assistant", "no"),
            call,
            output
        ])),
        "a"
    );
    assert_eq!(said(json!([by("user", "a"), by("assistant", "b")])), "a,b");
}

proptest! {
    #[test]
    fn a_bound_is_above_every_count_and_never_grows(
        texts in prop::collection::vec("\\PC{1,40}", 1..6),
        model in prop::sample::select(MODELS.to_vec()),
    ) {
        let items: Vec<Value> = texts.iter().enumerate().map(|(place, text)| match place % 4 {
            0 => json!({"role": "user", "content": text}),
            1 => json!({"type": "function_call", "call_id": text, "name": "f", "arguments": text}),
            2 => json!({"type": "function_call_output", "call_id": text, "output": text}),
            _ => json!({"role": "assistant", "content": [{"type": "output_text", "text": text}]}),
        }).collect();
        let mut order = parse(&json!({"model": model, "input": items, "instructions": texts[0]})).unwrap();
        let cheap = bound(&order);
        order.narrow(u64::MAX);
        let counted = texts.iter().map(|text| tokenizer::count(order.model.price.tokenizer, text)).sum::<u64>();
        prop_assert!(bound(&order) <= cheap && bound(&order) >= counted, "{} {cheap} {counted}", bound(&order));
        prop_assert!(order.estimate(&Measured::default()).input_tokens <= bound(&order));
        let sent: Value = serde_json::from_slice(&order.body(7, Dialect::Compatible.into(), "u")).unwrap();
        prop_assert_eq!(&sent["input"], &json!(items));
    }
}
