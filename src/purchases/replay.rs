//! Events from a file: bodies of webhooks that somebody kept. Whoever replays them vouches for them; only what Apple signed proves
//! itself again.

use serde_json::Value;

use super::event::PurchaseEvent;
use super::stripe::StripeRules;
use super::{appstore, revenuecat, stripe, superwall};
use crate::config::Config;

/// Reads the bodies in a text: one JSON object, a list of them, or one a line.
///
/// # Errors
/// One cannot be read: which, and why.
pub fn events(text: &str, config: &Config) -> Result<Vec<PurchaseEvent>, String> {
    let bodies: Vec<Value> = match serde_json::from_str(text) {
        Ok(Value::Array(bodies)) => bodies,
        Ok(body) => vec![body],
        Err(_) => lines(text)?,
    };
    let numbered = bodies.iter().zip(1..);
    numbered
        .map(|(body, number): (_, u64)| {
            event(body, config).map_err(|why| format!("event {number}: {why}"))
        })
        .collect()
}

fn lines(text: &str) -> Result<Vec<Value>, String> {
    let lines = text.lines().zip(1_u64..);
    let written = lines.filter(|(line, _)| !line.trim().is_empty());
    written
        .map(|(line, number)| {
            serde_json::from_str(line).map_err(|error| format!("line {number} is no JSON: {error}"))
        })
        .collect()
}

/// Each store's body has members of its own.
fn event(body: &Value, config: &Config) -> Result<PurchaseEvent, String> {
    let bytes = body.to_string().into_bytes();
    if body.get("signedPayload").is_some() {
        let trust = config.webhooks.appstore.as_ref();
        let trust = trust.ok_or("it is Apple's, and [webhooks] appstore is not set")?;
        return appstore::notification(&bytes, trust).map_err(str::to_owned);
    }
    if body.pointer("/event/event_timestamp_ms").is_some() {
        return revenuecat::event(&bytes);
    }
    if body.pointer("/data/object").is_some() {
        let rules = StripeRules {
            products: &config.products,
            grace: config.webhooks.stripe_grace,
        };
        return stripe::event(&bytes, rules);
    }
    let id = body.pointer("/data/id").and_then(Value::as_str);
    match id {
        Some(id) => superwall::event(id, &bytes),
        None => Err("it is the body of no store that is known here".to_owned()),
    }
}
