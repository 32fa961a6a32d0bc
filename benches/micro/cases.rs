//! What is measured: the parts of a request's path that only compute.

use std::hint::black_box;

use bytes::BytesMut;
use jiff::tz::TimeZone;
use serde_json::json;

use tollgate::clock::Timestamp;
use tollgate::dialect::Dialect;
use tollgate::endpoint::chat::Order;
use tollgate::endpoint::{Endpoint, Terms};
use tollgate::meter::{Meter, measure_json};
use tollgate::model::ModelTable;
use tollgate::model::Tokenizer;
use tollgate::plan::{self, Amounts, Balance, Limit, LimitState, Per, Plan, Unit};
use tollgate::price::tokenizer;
use tollgate::price::{PriceTable, Quantities, Usage};

use crate::Case;

/// A sentence as people write to an app, with some of what is not English words.
const PROSE: &str = "Could you plan a weekend in Lisbon for two, by train if it can be done, and keep it below 400 €? \
                     My sister doesn't eat fish; she'd rather see the MAAT than the castle. ";

pub(crate) fn all() -> Vec<Case> {
    [
        crate::auth::cases(),
        orders(),
        counts(),
        streams(),
        limits(),
        prices(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn orders() -> Vec<Case> {
    let short = json!({"model": "gpt-4o-mini", "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": PROSE},
    ], "stream": true, "temperature": 0.7, "max_tokens": 300});
    let long = conversation(64);
    let tools = json!({"messages": [{"role": "user", "content": PROSE}], "tools": (0..8).map(tool).collect::<Vec<_>>()});
    let [short, long, tools] = [short.to_string(), long, tools.to_string()];
    let outgoing = parse(&long);
    vec![
        Case::new("order: parse, 2 messages", 20, move || parse(&short)),
        Case::new("order: parse, 64 messages", 20, move || parse(&long)),
        Case::new("order: parse, 8 tools", 20, move || parse(&tools)),
        Case::new("order: body, 64 messages", 20, move || {
            outgoing.body(
                300,
                Dialect::Openai.into(),
                "0123456789abcdef0123456789abcdef",
            )
        }),
    ]
}

fn counts() -> Vec<Case> {
    let order = parse(&conversation(8));
    let (prose, unbroken) = (PROSE.repeat(24), "a".repeat(4096));
    vec![
        Case::new("tokens: count, order of 8 messages", 5, move || {
            order.clone().narrow(u64::MAX);
        }),
        Case::new("tokens: count, 4 KiB of prose", 5, move || count(&prose)),
        Case::new("tokens: count, 4 KiB of one letter", 2, move || {
            count(&unbroken)
        }),
    ]
}

fn count(text: &str) -> u64 {
    tokenizer::count(Tokenizer::O200k, black_box(text))
}

fn streams() -> Vec<Case> {
    let events = stream_of(64);
    let (whole, cut) = (events.concat(), events.concat());
    let last = events
        .iter()
        .rev()
        .take(2)
        .rev()
        .cloned()
        .collect::<Vec<_>>();
    let answer = json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1_780_000_000,
        "model": "gpt-4o-mini-2024-07-18", "service_tier": "default",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": PROSE.repeat(8), "refusal": null},
                     "logprobs": null, "finish_reason": "stop"}],
        "usage": usage_json()});
    let answer = answer.to_string();
    vec![
        Case::new("meter: 64 events, one by one", 10, move || {
            meter(events.iter().map(String::as_bytes));
        }),
        Case::new("meter: 64 events at once", 10, move || {
            meter([whole.as_bytes()]);
        }),
        Case::new("meter: 64 events in 100-byte pieces", 10, move || {
            meter(cut.as_bytes().chunks(100));
        }),
        Case::new("meter: the usage event and the end", 20, move || {
            meter(last.iter().map(String::as_bytes));
        }),
        Case::new("meter: a whole answer", 20, move || {
            assert!(measure_json(answer.as_bytes()).usage.is_some());
        }),
    ]
}

fn limits() -> Vec<Case> {
    let zone = TimeZone::get("Europe/Berlin").expect("a zone of the bundled table");
    let now = Timestamp::from_secs(1_780_000_000);
    let quote = parse(&conversation(8)).quote(64);
    let asked = quote.amounts(quote.output_cap).cost;
    let (all, some, none) = (
        limits_left(i64::MAX),
        limits_left(asked - 100),
        limits_left(1),
    );
    let [fits, shrinks, refused] = [quote.clone(), quote.clone(), quote];
    vec![
        Case::new("plan: admit, fits 3 limits", 100, move || {
            assert!(plan::admit(&fits, &all).is_ok());
        }),
        Case::new("plan: admit, the cap shrinks", 100, move || {
            assert!(
                plan::admit(&shrinks, &some).is_ok_and(|hold| hold.output_cap < shrinks.output_cap)
            );
        }),
        Case::new("plan: admit, refused", 100, move || {
            assert!(plan::admit(&refused, &none).is_err());
        }),
        Case::new("plan: windows of minute, day, month", 100, move || {
            for per in [Per::Minute, Per::Day, Per::Month] {
                black_box(plan::window(per, black_box(now), &zone, None));
            }
        }),
    ]
}

fn prices() -> Vec<Case> {
    let table = PriceTable::shipped();
    let (_, price) = table.resolve("gpt-4o-mini").expect("a shipped price");
    let (cost, bound) = (price.clone(), price.clone());
    let usage = Usage {
        input_tokens: 1234,
        cached_input_tokens: 1024,
        output_tokens: 567,
        ..Usage::default()
    };
    vec![
        Case::new("price: a dated name", 100, move || {
            assert!(table.resolve(black_box("gpt-4o-mini-2024-07-18")).is_some());
        }),
        Case::new("price: cost", 1000, move || cost.cost(black_box(&usage))),
        Case::new("price: bound", 1000, move || {
            let most = Quantities {
                input_tokens: 1234,
                output_tokens: 567,
                ..Quantities::default()
            };
            bound.bound(black_box(&most))
        }),
    ]
}

fn parse(body: &str) -> Order {
    let plan = Plan {
        name: "pro".to_owned(),
        models: ["gpt-4o-mini", "gpt-4o"].map(str::to_owned).to_vec(),
        max_output_tokens: 1024,
        max_input_tokens: 100_000,
        max_choices: 1,
        images: plan::ImageCaps::default(),
        audio_seconds_max: 600,
        reasoning_effort_max: None,
        moderates_input: false,
        attested: None,
        concurrent_requests: Some(8),
        limits: Vec::new(),
    };
    thread_local!(static TABLES: (PriceTable, ModelTable) = (PriceTable::shipped(), ModelTable::shipped()));
    TABLES.with(|(prices, models)| {
        let terms = Terms {
            plan: &plan,
            prices,
            models,
            prompts: &tollgate::prompt::Prompts::new(),
            now: Timestamp::EPOCH,
            candidate: None,
        };
        Order::parse(body.as_bytes(), &terms).expect("a good request")
    })
}

fn conversation(messages: usize) -> String {
    let roles = ["user", "assistant"].into_iter().cycle();
    let messages: Vec<_> = roles
        .take(messages)
        .map(|role| json!({"role": role, "content": PROSE.repeat(2)}))
        .collect();
    json!({"model": "gpt-4o-mini", "messages": messages, "stream": true}).to_string()
}

fn tool(number: u32) -> serde_json::Value {
    json!({"type": "function", "function": {
        "name": format!("look_up_{number}"),
        "description": "Looks up the weather of a place on a day.",
        "parameters": {"type": "object", "properties": {
            "place": {"type": "string", "description": "The place, as people call it."},
            "day": {"type": "string", "format": "date"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        }, "required": ["place"], "additionalProperties": false},
    }})
}

/// The events of a stream as OpenAI sends them: the text, its end, the usage, `[DONE]`.
fn stream_of(events: usize) -> Vec<String> {
    let event = |choices: serde_json::Value, usage: serde_json::Value| {
        let payload = json!({"id": "chatcmpl-BzK4qVdX2mN8pQ1rS5tU7wY9", "object": "chat.completion.chunk",
            "created": 1_780_000_000, "model": "gpt-4o-mini-2024-07-18", "service_tier": "default",
            "system_fingerprint": "fp_0123456789", "choices": choices, "usage": usage, "obfuscation": "x7Kp2Qm"});
        format!("data: {payload}\n\n")
    };
    let text = PROSE
        .split_inclusive(' ')
        .cycle()
        .take(events.saturating_sub(3));
    let delta = |delta: serde_json::Value, end: Option<&str>| json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": end}]);
    let mut all: Vec<_> = text
        .map(|word| event(delta(json!({"content": word}), None), json!(null)))
        .collect();
    all.push(event(delta(json!({}), Some("stop")), json!(null)));
    all.push(event(json!([]), usage_json()));
    all.push("data: [DONE]\n\n".to_owned());
    all
}

fn usage_json() -> serde_json::Value {
    json!({"prompt_tokens": 1234, "completion_tokens": 62, "total_tokens": 1296,
           "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
           "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0,
                                         "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}})
}

/// Reads a stream as the metered body does, and takes what is to be passed on at each step.
fn meter<'a>(parts: impl IntoIterator<Item = &'a [u8]>) {
    let mut meter = Meter::chat(false);
    let mut out = BytesMut::new();
    for part in parts {
        meter.push(part, &mut out).expect("a good stream");
        drop(black_box(out.split().freeze()));
    }
    assert!(meter.into_measured().usage.is_some());
}

/// A limit per minute, day and month, of which the last has so many micro-dollars left.
fn limits_left(left: i64) -> Vec<LimitState> {
    let now = Timestamp::from_secs(1_780_000_000);
    let used = Amounts {
        requests: 3,
        tokens: 4000,
        cost: 0,
        ..Amounts::default()
    };
    [
        (Per::Minute, Unit::Requests, 10),
        (Per::Day, Unit::Requests, 50),
        (Per::Month, Unit::CostUsd, left),
    ]
    .map(|(per, unit, amount)| LimitState {
        limit: Limit::of_all(per, unit, amount),
        window: plan::window(per, now, &TimeZone::UTC, None),
        standing: Balance {
            used,
            held: Amounts::default(),
        },
    })
    .to_vec()
}
