//! The fake upstream's embeddings: what it bills, and what it answers.

use serde_json::{Value, json};

use super::caller::{PROMPT_CANARY, chat, serial_in};
use super::reply::{Bill, Reply, Step};
use super::upstream::Seen;

/// A request to embed a text, with a serial by which the oracle finds the upstream's line.
pub(crate) fn embed(text: &str) -> Value {
    let serial = serial_in(chat("").to_string().as_bytes()).unwrap();
    json!({
        "model": "text-embedding-3-small",
        "input": format!("{text} {PROMPT_CANARY} ask-{serial};"),
    })
}

/// What is billed: a token for each word of a text, and each token that is one already.
pub(crate) fn tokens(input: &Value) -> u64 {
    match input {
        Value::String(text) => text.split_whitespace().count() as u64,
        Value::Array(items) => items.iter().map(tokens).sum(),
        _ => 1,
    }
}

/// An honest answer: a vector for each input, and the usage.
pub(crate) fn honest(seen: &Seen) -> Reply {
    let prompt = seen.prompt_tokens();
    reply(
        seen,
        Some(&json!({"prompt_tokens": prompt, "total_tokens": prompt})),
    )
}

/// The same, with another usage or none.
pub(crate) fn reply(seen: &Seen, usage: Option<&Value>) -> Reply {
    let inputs = match &seen.body["input"] {
        Value::Array(items) if !items.iter().all(Value::is_u64) => items.len(),
        _ => 1,
    };
    let vector = |index| json!({"object": "embedding", "index": index, "embedding": [0.25, -0.5]});
    let mut body = json!({
        "object": "list",
        "data": (0..inputs).map(vector).collect::<Vec<_>>(),
        "model": seen.body["model"],
    });
    if let Some(usage) = usage {
        body["usage"] = usage.clone();
    }
    let bill = Bill {
        prompt: seen.prompt_tokens(),
        ..Bill::default()
    };
    let mut reply = Reply::status(200, "application/json", body.to_string());
    reply.steps.insert(0, Step::Billed(bill));
    reply
}
