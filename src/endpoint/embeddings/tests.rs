//! The bounds and the answers, tried from outside.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::clock::Timestamp;
use crate::model::{ModelTable, Tokenizer};

use crate::price::{PriceTable, Rate};
use crate::prompt::Prompts;

/// A model with OpenAI's tokenizer, and one whose tokenizer nobody knows.
const MODELS: [&str; 2] = ["text-embedding-3-small", "local"];

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

fn parse(body: &Value) -> Result<EmbeddingsOrder, Refusal> {
    let mut prices = PriceTable::shipped_for(&MODELS.into());
    let mut local = prices.models["text-embedding-3-small"].clone();
    (local.tokenizer, local.rates.input) = (Tokenizer::Unknown, Rate(7));
    prices.models.insert("local".to_owned(), local);
    let models = ModelTable::shipped().with_endpoints("local", vec![Capability::Embeddings]);
    let terms = Terms {
        plan: &plan(),
        prices: &prices,
        models: &models,
        prompts: &Prompts::new(),
        now: Timestamp::EPOCH,
        candidate: None,
    };
    EmbeddingsOrder::parse(body.to_string().as_bytes(), &terms)
}

fn order(model: &str, input: &Value) -> EmbeddingsOrder {
    parse(&json!({"model": model, "input": input})).unwrap()
}

#[test]
fn tokens_are_counted_by_length_and_texts_by_bytes_until_they_are_narrowed() {
    let bound = |order: &EmbeddingsOrder| order.quote(64).base.input_tokens;
    let tokens = order("text-embedding-3-small", &json!([[1, 2, 3], [4]]));
    assert_eq!(bound(&tokens), 4);
    let mut texts = order("text-embedding-3-small", &json!(["one two", "three"]));
    assert_eq!(bound(&texts), 12);
    texts.narrow(1000);
    assert_eq!((bound(&texts), texts.is_narrowed()), (3, true));
    assert!(bound(&order("local", &json!(["one two", "three"]))) > 12 + 2 * 16);
    assert_eq!(texts.quote(64).amounts(0).tokens, 3);
}

#[test]
fn a_long_input_is_within_the_plan_only_as_it_is_counted() {
    let plan = plan();
    let mut long = order("text-embedding-3-small", &json!("word ".repeat(900)));
    assert!(long.check_input(&plan).is_err() && long.check_least_input(&plan).is_ok());
    long.narrow(1000);
    assert!(long.check_input(&plan).is_ok());
    let mut longer = order("text-embedding-3-small", &json!("word ".repeat(1100)));
    longer.narrow(1000);
    assert_eq!(
        longer.check_input(&plan).unwrap_err().param.as_deref(),
        Some("input")
    );
    let hopeless = order("text-embedding-3-small", &json!("word ".repeat(30_000)));
    assert!(hopeless.check_least_input(&plan).is_err());
}

#[test]
fn more_vectors_than_an_answer_may_hold_are_refused_before_they_are_paid() {
    let with = |items: usize, fields: &str| {
        let mut body: Value = serde_json::from_str(fields).unwrap();
        body["input"] = json!(vec!["a"; items]);
        body["model"] = json!("local");
        parse(&body).is_ok()
    };
    assert!(with(900, "{}") && !with(1000, "{}"));
    assert!(with(2048, r#"{"encoding_format": "base64"}"#));
    assert!(with(2048, r#"{"dimensions": 1024}"#));
}

#[test]
fn an_answer_is_read_for_its_usage_and_model_and_passes() {
    let read = |answer: &Value| answer::read(Bytes::from(answer.to_string()));
    let data = json!([{"object": "embedding", "index": 0, "embedding": "AAAA"}]);
    let answer =
        json!({"data": data, "model": "m", "usage": {"prompt_tokens": 8, "total_tokens": 8}});
    let whole = read(&answer);
    assert_eq!(whole.measured.usage.unwrap().input_tokens, 8);
    assert_eq!(whole.measured.model.as_deref(), Some("m"));
    assert_eq!(whole.body.unwrap(), answer.to_string());
    let without = read(&json!({"data": data}));
    assert_eq!(
        (without.measured.usage, without.measured.usage_nonsense),
        (None, false)
    );
    assert!(without.body.is_ok());
    for nonsense in [
        json!([]),
        json!({}),
        json!({"data": []}),
        json!({"data": 1}),
    ] {
        assert!(read(&nonsense).body.is_err(), "{nonsense}");
    }
}

proptest! {
    #[test]
    fn a_bound_is_above_every_count_and_what_is_sent_is_what_was_priced(
        texts in prop::collection::vec("\\PC{1,40}", 1..6),
        which in 0..2_usize,
    ) {
        let mut order = order(MODELS[which], &json!(texts));
        let by_bytes = order.quote(64).base.input_tokens;
        let estimate = order.estimate(&Measured::default()).input_tokens;
        order.narrow(u64::MAX);
        let counted = order.quote(64).base.input_tokens;
        prop_assert!(estimate <= counted && counted <= by_bytes);
        let sent: Value = serde_json::from_slice(&order.body(0, Dialect::Compatible.into(), "x")).unwrap();
        prop_assert_eq!(&sent, &json!({"model": MODELS[which], "input": texts}));
    }
}
