//! The fake upstream's moderation: it flags what says so (`flag:violence`).

use serde_json::{Map, Value, json};

use super::reply::Reply;
use super::upstream::Seen;

/// The categories that it knows.
const CATEGORIES: [&str; 3] = ["harassment", "self-harm/intent", "violence"];

/// A finding for each text, or one for all parts together.
pub(crate) fn honest(seen: &Seen) -> Reply {
    let inputs = match &seen.body["input"] {
        Value::Array(items) if items.iter().all(Value::is_string) => items.clone(),
        one => vec![one.clone()],
    };
    let results: Vec<Value> = inputs.iter().map(finding).collect();
    let body = json!({"id": "modr-1", "model": seen.body["model"], "results": results});
    Reply::status(200, "application/json", body.to_string())
}

fn finding(input: &Value) -> Value {
    let text = input.to_string();
    let says = |name: &&str| text.contains(&format!("flag:{name}"));
    let found: Map<String, Value> = CATEGORIES
        .iter()
        .map(|name| ((*name).to_owned(), json!(says(name))))
        .collect();
    json!({"flagged": CATEGORIES.iter().any(says), "categories": found, "category_scores": {}})
}
