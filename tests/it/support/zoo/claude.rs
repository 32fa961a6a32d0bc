//! Anthropic's own API, with books of its own: a prompt in three parts, each at its price, and thoughts that are billed
//! whole and shown as a summary.

use serde_json::{Value, json};

use super::answers::CALL_TOKENS;
use super::{Scene, Trouble};
use crate::support::reply::{Bill, Books, Reply, Step, WORD};
use crate::support::settings::Settings;
use crate::support::upstream::Seen;

/// The model that answers at once, and the one that thinks where it is asked to.
pub(crate) const TALKS: &str = "claude-talks";
/// A picture of any size comes to so many tokens; the tests send small ones.
const PICTURE: u64 = 64;

/// Whether a request is for this API.
pub(crate) fn is_asked(seen: &Seen) -> bool {
    seen.request.target.starts_with("/v1/messages")
}

/// Settings with Anthropic beside the ordinary upstream, and a plan whose first model is not its.
pub(crate) fn with(settings: Settings) -> Settings {
    settings.with(
        r#"
        [[upstreams]]
        preset = "anthropic"
        base_url = "{upstream}"
        api_key_env = "OPENAI_API_KEY"
        anthropic_beta = ["context-1m-2025-08-07", "other-2026-01-01"]
        [[upstreams]]
        name = "openai"
        base_url = "{upstream}"
        api_key_env = "OPENAI_API_KEY"
        models = ["gpt-*"]
        dialect = "openai"
        [prices.claude-talks]
        input = "4"
        cached_input = "0.4"
        cache_write = "5"
        output = "20"
        [plans.free]
        models = ["gpt-4o-mini", "claude-talks", "claude-haiku-4-5"]
        max_output_tokens = 4000
        "#,
    )
}

/// What a request comes to, whoever listens.
struct Spent {
    bill: Bill,
    words: u64,
    thoughts: u64,
}

fn spent(scene: &Scene, seen: &Seen) -> Spent {
    let body = &seen.body;
    let cap = body["max_tokens"].as_u64().unwrap_or(1);
    let thinking = &body["thinking"];
    let budget = match thinking["type"].as_str() {
        Some("enabled") => thinking["budget_tokens"].as_u64().unwrap_or(0),
        Some("adaptive") => cap,
        _ => 0,
    };
    let thoughts = scene.thinks.min(budget).min(cap);
    let call = if scene.calls_a_tool { CALL_TOKENS } else { 0 };
    let words = (scene.words + call).min(cap - thoughts);
    let prompt = prompt_tokens(body);
    let (mut cached, mut written, mut written_1h) = (0, 0, 0);
    if scene.cached {
        cached = prompt / 2;
        if body.to_string().contains(r#""ttl":"1h""#) {
            written_1h = prompt / 4;
        } else {
            written = prompt / 4;
        }
    }
    Spent {
        bill: Bill {
            prompt,
            cached,
            completion: words + thoughts,
            written,
            written_1h,
            other_micros: 0,
        },
        words,
        thoughts,
    }
}

/// Eight tokens around everything, a page on tools where there are any, and of each text a token for three bytes.
fn prompt_tokens(body: &Value) -> u64 {
    let tools = if body["tools"].is_null() { 0 } else { 346 };
    let parts = ["system", "messages", "tools", "output_config"];
    8 + tools + parts.map(|part| tokens(&body[part])).iter().sum::<u64>()
}

fn tokens(value: &Value) -> u64 {
    match value {
        Value::String(text) => (text.len() as u64).div_ceil(3),
        Value::Array(items) => items.iter().map(|item| tokens(item) + 1).sum(),
        Value::Object(members) if members.get("type") == Some(&json!("image")) => PICTURE,
        Value::Object(members) => members.values().map(tokens).sum(),
        _ => 1,
    }
}

/// The answer to a request, and its books.
pub(crate) fn reply(scene: &Scene, seen: &Seen) -> Reply {
    if seen.request.target.ends_with("/count_tokens") {
        let count = json!({"input_tokens": prompt_tokens(&seen.body)});
        let reply = Reply::status(200, "application/json", count.to_string());
        return reply.booked(Books::free());
    }
    if let Some(trouble) = scene.trouble {
        return refusal(trouble, seen).booked(Books::free());
    }
    let spent = spent(scene, seen);
    let books = Books {
        whole: spent.bill,
        hidden: spent.thoughts,
        works_on: !seen.is_stream(),
    };
    let reply = if seen.is_stream() {
        Reply::events(stream(scene, seen, &spent))
    } else {
        whole(scene, seen, &spent)
    };
    reply.booked(books)
}

fn refusal(trouble: Trouble, seen: &Seen) -> Reply {
    let say = |status: u16, kind: &str, message: &str| {
        let body = json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_011"});
        Reply::status(status, "application/json", body.to_string())
    };
    match trouble {
        Trouble::BadKey => say(401, "authentication_error", "invalid x-api-key"),
        Trouble::Busy => say(429, "rate_limit_error", "Too many").header("Retry-After", "17"),
        Trouble::Overloaded => say(529, "overloaded_error", "Overloaded"),
        Trouble::TooLarge => say(413, "request_too_large", "Request exceeds the maximum size"),
        Trouble::Failure => say(500, "api_error", "Internal server error"),
        Trouble::ErrorFirst if seen.is_stream() => {
            let error = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
            Reply::events(vec![Step::Body(event("error", &error))])
        }
        _ => say(
            400,
            "invalid_request_error",
            "messages: roles must alternate",
        ),
    }
}

fn usage(scene: &Scene, bill: &Bill) -> Value {
    if scene.mute {
        return Value::Null;
    }
    let written = bill.written + bill.written_1h;
    json!({
        "input_tokens": bill.prompt - bill.cached - written,
        "cache_read_input_tokens": bill.cached,
        "cache_creation_input_tokens": written,
        "cache_creation": {"ephemeral_5m_input_tokens": bill.written, "ephemeral_1h_input_tokens": bill.written_1h},
        "output_tokens": bill.completion,
        "service_tier": "standard",
    })
}

fn stop_reason(scene: &Scene, seen: &Seen, spent: &Spent) -> &'static str {
    if Some(spent.bill.completion) >= seen.body["max_tokens"].as_u64() {
        "max_tokens"
    } else if scene.calls_a_tool {
        "tool_use"
    } else {
        "end_turn"
    }
}

fn message(seen: &Seen, content: &Value) -> Value {
    let model = seen.body["model"].as_str().unwrap_or("?");
    json!({"id": "msg_1", "type": "message", "role": "assistant", "model": format!("{model}-20260101"),
           "content": content, "stop_reason": null, "stop_sequence": null})
}

fn whole(scene: &Scene, seen: &Seen, spent: &Spent) -> Reply {
    let mut content = Vec::new();
    if spent.thoughts > 0 {
        content.push(json!({"type": "thinking", "thinking": "In short.", "signature": "c2ln"}));
    }
    let words = WORD.repeat(spent.words as usize);
    content.push(if scene.calls_a_tool {
        let words = WORD.repeat(spent.words.saturating_sub(CALL_TOKENS) as usize);
        json!({"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"q": words}})
    } else {
        json!({"type": "text", "text": words})
    });
    let mut body = message(seen, &json!(content));
    body["stop_reason"] = json!(stop_reason(scene, seen, spent));
    body["usage"] = usage(scene, &spent.bill);
    let bytes = body.to_string().into_bytes();
    let mut reply = Reply::status(200, "application/json", bytes.clone());
    reply.steps = vec![
        Step::Hidden(spent.thoughts),
        Step::Generated(bytes, spent.words),
    ];
    reply
}

fn event(name: &str, data: &Value) -> Vec<u8> {
    format!("event: {name}\ndata: {data}\n\n").into_bytes()
}

fn stream(scene: &Scene, seen: &Seen, spent: &Spent) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut say = |kind: &str, mut data: Value, tokens: u64| {
        data["type"] = json!(kind);
        steps.push(Step::Generated(event(kind, &data), tokens));
    };
    let begun = Bill {
        completion: spent.bill.completion.min(1),
        ..spent.bill
    };
    let mut start = message(seen, &json!([]));
    start["usage"] = usage(scene, &begun);
    say("message_start", json!({ "message": start }), 0);
    say("ping", json!({}), 0);
    let mut index = 0;
    if spent.thoughts > 0 {
        let block = json!({"type": "thinking", "thinking": "", "signature": ""});
        say(
            "content_block_start",
            json!({"index": 0, "content_block": block}),
            0,
        );
        let delta = json!({"type": "thinking_delta", "thinking": "In short."});
        say(
            "content_block_delta",
            json!({"index": 0, "delta": delta}),
            spent.thoughts,
        );
        let delta = json!({"type": "signature_delta", "signature": "c2ln"});
        say(
            "content_block_delta",
            json!({"index": 0, "delta": delta}),
            0,
        );
        say("content_block_stop", json!({"index": 0}), 0);
        index = 1;
    }
    let block = if scene.calls_a_tool {
        json!({"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}})
    } else {
        json!({"type": "text", "text": ""})
    };
    say(
        "content_block_start",
        json!({"index": index, "content_block": block}),
        0,
    );
    let mut cut_at = None;
    for word in 0..spent.words {
        if scene.cut.as_ref().is_some_and(|(after, _)| *after == word) {
            cut_at = Some(());
            break;
        }
        let delta = match (scene.calls_a_tool, word) {
            (false, _) => json!({"type": "text_delta", "text": WORD}),
            (true, 0) => json!({"type": "input_json_delta", "partial_json": "{\"q\":\""}),
            (true, last) if last + 1 == spent.words => {
                json!({"type": "input_json_delta", "partial_json": "\"}"})
            }
            (true, _) => json!({"type": "input_json_delta", "partial_json": WORD}),
        };
        say(
            "content_block_delta",
            json!({"index": index, "delta": delta}),
            1,
        );
    }
    if cut_at.is_some() {
        steps.push(scene.cut.clone().unwrap().1);
        return steps;
    }
    say("content_block_stop", json!({ "index": index }), 0);
    let delta = json!({"stop_reason": stop_reason(scene, seen, spent), "stop_sequence": null});
    let end = usage(scene, &spent.bill);
    let end = json!({"output_tokens": end["output_tokens"]});
    let end = if scene.mute { Value::Null } else { end };
    say("message_delta", json!({"delta": delta, "usage": end}), 0);
    say("message_stop", json!({}), 0);
    steps
}
