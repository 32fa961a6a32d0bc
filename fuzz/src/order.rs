//! The body of a request. What is priced is what is sent: what goes out is read by another reader and compared with what
//! came in, and its prompt is counted once more.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use tollgate::clock::Timestamp;
use tollgate::config::Config;
use tollgate::dialect::Dialect;
use tollgate::endpoint::chat::Order;
use tollgate::endpoint::{Endpoint, Terms};
use tollgate::error::Code;
use tollgate::model::Tokenizer;
use tollgate::price::tokenizer;

use super::json::Json;

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    super::settings(&[
        ("JWT_SECRET", "kU7vX1pQ9zR4tW8yB3nM6cL2dF5gH0jS"),
        ("OPENAI_API_KEY", "sk-x"),
        ("TOLLGATE_UPSTREAMS__0__MODELS", r#"["*"]"#),
        (
            "TOLLGATE_PRICES",
            r#"{ local = { input = "0.1", output = "0.2" } }"#,
        ),
        (
            "TOLLGATE_PLANS",
            r#"{ free = { default = true, models = ["gpt-4o-mini", "gpt-3.5-turbo", "local"], max_output_tokens = 1000, max_choices = 3, limits = [{ per = "day", requests = 9 }] } }"#,
        ),
    ])
});

/// What a request says by itself, and what is said anew on its way out.
const SAID_ANEW: [&str; 9] = [
    "model",
    "max_tokens",
    "max_completion_tokens",
    "stream_options",
    "store",
    "service_tier",
    "safety_identifier",
    "modalities",
    "user",
];

/// Every member that may go out.
const PASSED: [&str; 25] = [
    "model",
    "messages",
    "stream",
    "temperature",
    "top_p",
    "n",
    "stop",
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
    "max_completion_tokens",
    "max_tokens",
    "stream_options",
    "store",
    "service_tier",
    "safety_identifier",
];

/// Tries a body.
///
/// # Panics
/// It breaks a promise.
pub fn check(body: &[u8]) {
    let plan = &CONFIG.plans.default;
    let terms = Terms {
        plan,
        prices: &CONFIG.prices,
        models: &CONFIG.models,
        prompts: &CONFIG.prompts,
        now: Timestamp::EPOCH,
        candidate: None,
    };
    let order = match Order::parse(body, &terms) {
        Ok(order) => order,
        Err(refusal) => {
            let allowed = [
                Code::InvalidRequest,
                Code::UnsupportedField,
                Code::ModelNotAllowed,
            ];
            assert!(allowed.contains(&refusal.code), "{:?}", refusal.code);
            return;
        }
    };
    let came = Json::read(body).expect("what was accepted is JSON");
    assert!(plan.models.iter().any(|model| model == order.model()));
    for dialect in [Dialect::Openai, Dialect::Compatible] {
        for granted in [u32::MAX, 1] {
            let sent = order.body(granted, dialect.into(), "someone");
            let sent = Json::read(&sent).expect("what is sent is JSON");
            what_is_said_anew(&order, &came, &sent, (dialect, granted));
            let openai = dialect == Dialect::Openai;
            assert_eq!(
                meaning(&sent, openai),
                meaning(&came, openai),
                "what is sent is what was said"
            );
        }
    }
    the_bound(
        order.clone(),
        &order.body(u32::MAX, Dialect::Compatible.into(), ""),
    );
    let again = order.body(u32::MAX, Dialect::Compatible.into(), "");
    let reread = Order::parse(&again, &terms).expect("what is sent would be accepted");
    assert_eq!(reread.quote(64), order.quote(64), "and costs the same");
    let third = reread.body(u32::MAX, Dialect::Compatible.into(), "");
    assert_eq!(
        third, again,
        "what is sent is sent the same when it is read again"
    );
}

fn what_is_said_anew(order: &Order, came: &Json, sent: &Json, (dialect, granted): (Dialect, u32)) {
    let plan = &CONFIG.plans.default;
    let mut names: Vec<&str> = sent
        .members()
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    names.sort_unstable();
    assert!(
        names.windows(2).all(|pair| pair[0] != pair[1]),
        "no member twice: {names:?}"
    );
    assert!(names.iter().all(|name| PASSED.contains(name)), "{names:?}");
    assert_eq!(sent.get("model").and_then(Json::text), Some(order.model()));
    let asked = ["max_completion_tokens", "max_tokens"]
        .iter()
        .find_map(|name| came.get(name)?.whole());
    let wanted = asked
        .unwrap_or(i128::MAX)
        .min(i128::from(plan.max_output_tokens))
        .min(i128::from(granted));
    let caps: Vec<_> = ["max_completion_tokens", "max_tokens"]
        .iter()
        .filter_map(|name| sent.get(name).and_then(Json::whole))
        .collect();
    assert_eq!(
        caps,
        [wanted],
        "one cap, within the plan and what was granted"
    );
    let choices = came.get("n").and_then(Json::whole).unwrap_or(1);
    assert_eq!(sent.get("n").and_then(Json::whole).unwrap_or(1), choices);
    assert_eq!(
        i128::from(order.quote(64).choices),
        choices,
        "the choices sent are the choices priced"
    );
    let streams = sent.get("stream") == Some(&Json::Bool(true));
    assert_eq!(streams, order.stream());
    let told = sent
        .get("stream_options")
        .and_then(|options| options.get("include_usage"));
    assert_eq!(
        told,
        streams.then_some(&Json::Bool(true)),
        "usage is asked for on every stream"
    );
    let openai = dialect == Dialect::Openai;
    assert_eq!(sent.get("store"), openai.then_some(&Json::Bool(false)));
    assert_eq!(
        sent.get("service_tier").and_then(Json::text),
        openai.then_some("default")
    );
    assert_eq!(
        sent.get("safety_identifier").and_then(Json::text),
        openai.then_some("someone")
    );
}

/// What is taken in a message and sent to nobody, and where it stands.
const DROPPED: [(&str, &str); 4] = [
    ("messages", "annotations"),
    ("messages", "parsed"),
    ("tool_calls", "index"),
    ("function", "parsed_arguments"),
];

/// What is not sent to OpenAI.
const THOUGHTS: [&str; 9] = [
    "reasoning",
    "reasoning_content",
    "reasoning_details",
    "thinking_blocks",
    "extra_content",
    "provider_specific_fields",
    "thought_signature",
    "thinking",
    "signature",
];

/// A request without what is said anew, nulls and the order of members; and, in messages, without what says nothing.
fn meaning(request: &Json, openai: bool) -> Meaning {
    let Json::Object(members) = request else {
        panic!("a request is an object")
    };
    let kept = members
        .iter()
        .filter(|(name, _)| !SAID_ANEW.contains(&name.as_str()));
    Meaning::object(kept, "", openai)
}

#[derive(Debug, PartialEq)]
enum Meaning {
    /// In a JSON Schema nothing is changed but blanks.
    Schema(Json),
    Value(Json),
    Number(f64),
    List(Vec<Meaning>),
    Object(BTreeMap<String, Meaning>),
}

impl Meaning {
    fn object<'a>(
        members: impl Iterator<Item = &'a (String, Json)>,
        within: &str,
        openai: bool,
    ) -> Self {
        let in_messages = matches!(within, "messages" | "content" | "tool_calls" | "function");
        let mut kept = BTreeMap::new();
        for (name, value) in members {
            let is_dropped =
                DROPPED.contains(&(within, name)) || (openai && THOUGHTS.contains(&name.as_str()));
            if *value == Json::Null || (in_messages && (is_dropped || says_nothing(value))) {
                continue;
            }
            let meaning = Self::of(name, value, openai);
            if !(in_messages && meaning == Self::List(Vec::new())) {
                kept.insert(name.clone(), meaning);
            }
        }
        Self::Object(kept)
    }

    fn of(name: &str, value: &Json, openai: bool) -> Self {
        let is_thought =
            |item: &&Json| openai && item.get("type").and_then(Json::text) == Some("thinking");
        match value {
            Json::Object(_) if matches!(name, "parameters" | "schema") => {
                Self::Schema(value.clone())
            }
            Json::Object(_) | Json::List(_) if THOUGHTS.contains(&name) => {
                Self::Schema(value.clone())
            }
            Json::Object(members) => Self::object(members.iter(), name, openai),
            Json::List(items) => {
                let kept = items
                    .iter()
                    .filter(|item| !(name == "content" && is_thought(item)));
                Self::List(kept.map(|item| Self::of(name, item, openai)).collect())
            }
            Json::Number(text) => match text.parse::<i64>() {
                Ok(whole) if text != "-0" => Self::Value(Json::Number(whole.to_string())),
                _ => Self::Number(text.parse().unwrap_or(f64::NAN)),
            },
            _ => Self::Value(value.clone()),
        }
    }
}

fn says_nothing(value: &Json) -> bool {
    match value {
        Json::Null | Json::Bool(false) => true,
        Json::Text(text) => text.is_empty(),
        Json::List(items) => items.iter().all(|item| *item == Json::Null),
        Json::Object(members) => members.iter().all(|(_, value)| *value == Json::Null),
        _ => false,
    }
}

fn the_bound(mut order: Order, sent: &[u8]) {
    let sent = Json::read(sent).expect("JSON");
    let mut prompt = String::new();
    for name in ["messages", "tools", "response_format", "tool_choice"] {
        written(name, sent.get(name).unwrap_or(&Json::Null), &mut prompt);
    }
    let tokenizer = order.price().tokenizer;
    let messages =
        u64::try_from(sent.get("messages").map_or(0, |list| list.items().len())).expect("few");
    let framed =
        tokenizer::count(tokenizer, &prompt) + 4 * messages + 3 + images("", &sent, order.model());
    let by_bytes = order.quote(64).base.input_tokens;
    assert!(
        by_bytes >= framed,
        "{by_bytes} tokens held by bytes, {framed} counted"
    );
    if tokenizer == Tokenizer::Unknown {
        let bytes = u64::try_from(prompt.len()).expect("short");
        assert!(
            by_bytes >= bytes,
            "an unknown tokenizer may take a token a byte"
        );
    }
    order.narrow(u64::MAX);
    let counted = order.quote(64).base.input_tokens;
    assert!(counted <= by_bytes && order.is_narrowed());
    assert!(counted >= framed, "{counted} tokens held, {framed} counted");
    assert!(order.estimate_input_tokens() <= counted);
    let amounts = order.quote(64).amounts(order.output_cap());
    assert!(
        amounts.cost >= 0
            && amounts.tokens >= i64::try_from(counted).expect("few")
            && amounts.requests == 1
    );
    assert!(
        order.quote(64).amounts(1).cost <= amounts.cost,
        "a smaller cap is no dearer"
    );
}

/// What images are charged at least by any rule: the base of tiles for gpt-4o-mini, a patch elsewhere. (What each size
/// costs is the matter of the tests of `endpoint::chat::image`.)
fn images(name: &str, value: &Json, model: &str) -> u64 {
    let below = match value {
        Json::List(items) => items.iter().map(|item| images(name, item, model)).sum(),
        Json::Object(members) if !matches!(name, "parameters" | "schema") => members
            .iter()
            .map(|(name, value)| images(name, value, model))
            .sum(),
        _ => 0,
    };
    match (name, value, model) {
        ("image_url", Json::Object(_), "gpt-4o-mini") => 2_833 + below,
        ("image_url", Json::Object(_), _) => 1 + below,
        _ => below,
    }
}

/// Every text of a prompt, as it might be laid before a model.
fn written(name: &str, value: &Json, prompt: &mut String) {
    match value {
        Json::Text(text) if !matches!(name, "role" | "type" | "url" | "detail" | "tool_choice") => {
            prompt.push_str(text);
        }
        Json::List(items) => items.iter().for_each(|item| written(name, item, prompt)),
        Json::Object(members) => members
            .iter()
            .for_each(|(name, value)| written(name, value, prompt)),
        _ => {}
    }
}
