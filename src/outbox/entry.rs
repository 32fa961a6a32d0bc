//! A row of the ledger as `log_request` or `on_purchase` gets it, and how many of them go in one call. Pure.

use serde_json::{Value, json};

use crate::clock::Timestamp;
use crate::ledger::purchase_queue::UnsentPurchase;
use crate::ledger::read::report::RequestRow;
use crate::plan::{Gift, Products};
use crate::price::{MicroUsd, Quantities};

/// The most bytes of entries in a call (the first entry is sent whatever its size).
const CALL_BYTES_MAX: usize = 1024 * 1024;

/// One request, as `log_request` gets it, or one purchase, as `on_purchase` does.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The request's id, or the change's.
    pub(super) id: String,
    /// Whose: entries of one user go in order.
    pub(super) user_id: String,
    /// The object itself.
    pub(super) value: Value,
}

impl From<RequestRow> for Entry {
    fn from(row: RequestRow) -> Self {
        Self {
            value: value(&row),
            id: row.id,
            user_id: row.user_id,
        }
    }
}

/// The object that `tollgate.log_request` takes, field by field as documented.
fn value(row: &RequestRow) -> Value {
    let moment = |text: &str| Timestamp::parse(text).ok();
    let ended_at = row.ended_at.as_deref();
    let duration = ended_at
        .and_then(moment)
        .zip(moment(&row.started_at))
        .map(|(end, start)| end.since(start));
    let mut entry = json!({
        "id": row.id,
        "user_id": row.user_id,
        "plan": row.plan,
        "endpoint": row.endpoint,
        "model": row.model,
        "upstream": row.upstream,
        "started_at": row.started_at,
        "ended_at": ended_at,
        "end": row.state,
        "flags": row.flags,
        "input_tokens": row.used.input_tokens,
        "cached_input_tokens": row.used.cached_input_tokens,
        "output_tokens": row.used.output_tokens,
        "reasoning_tokens": row.used.reasoning_tokens,
        "cost_usd": MicroUsd(row.cost_micros).to_string(),
        "ttft_ms": row.ttft_ms,
        "duration_ms": duration.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        "requested_model": row.requested_model,
        "feature": row.feature,
        "paid_by": row.paid_by,
        "issuer": row.issuer,
        "subject": row.subject,
    });
    if let Some(members) = entry.as_object_mut() {
        let used = Quantities::NAMES.into_iter().zip(row.used.values());
        for (name, count) in used.filter(|(_, count)| *count > 0) {
            members.insert(name.to_owned(), json!(count));
        }
    }
    entry
}

/// A purchase as `tollgate.on_purchase` takes it, field by field as documented.
pub(super) fn of_purchase(row: UnsentPurchase, products: &Products) -> Entry {
    let bought = &row.purchase;
    let Gift {
        plan,
        credit,
        ends_at,
    } = products.gift(bought);
    let credit = credit.map(|MicroUsd(each)| MicroUsd(each.saturating_mul(row.quantity)));
    let (whole, part) = (row.share.div_euclid(100_000), row.share.rem_euclid(100_000));
    let value = json!({
        "id": row.id,
        "revision": row.revision,
        "user_id": row.user_id,
        "store": bought.store,
        "transaction_id": row.transaction,
        "original_transaction_id": row.original,
        "product": bought.product,
        "plan": plan,
        "credit_usd": credit.map(|credit| credit.to_string()),
        "quantity": row.quantity,
        "state": row.state,
        "until": ends_at.map(Timestamp::rfc3339),
        "purchased_at": bought.purchased_at.rfc3339(),
        "environment": if bought.is_sandbox { "sandbox" } else { "production" },
        "refunded_share": format!("{whole}.{part:05}"),
        "changed_at": row.changed_at.rfc3339(),
    });
    Entry {
        user_id: row.lane(),
        id: row.id,
        value,
    }
}

/// As many of the entries, from the first on, as fit in one call.
pub(super) fn batch(entries: Vec<Entry>) -> Vec<Entry> {
    let mut bytes = 0_usize;
    let fitting = entries
        .into_iter()
        .enumerate()
        .take_while(|(place, entry)| {
            // One more for the comma or the bracket.
            bytes = bytes
                .saturating_add(entry.value.to_string().len())
                .saturating_add(1);
            *place == 0 || bytes <= CALL_BYTES_MAX
        });
    fitting.map(|(_, entry)| entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(model: &str) -> RequestRow {
        RequestRow {
            id: "0193".to_owned(),
            user_id: "u".to_owned(),
            plan: "pro".to_owned(),
            endpoint: "/api/chat".to_owned(),
            model: model.to_owned(),
            upstream: "openai".to_owned(),
            state: "settled".to_owned(),
            flags: vec!["estimated".to_owned()],
            used: Quantities {
                input_tokens: 12,
                cached_input_tokens: 3,
                output_tokens: 4,
                reasoning_tokens: 2,
                audio_seconds: 9,
                ..Quantities::NONE
            },
            held_micros: 99,
            cost_micros: 1_000_123,
            started_at: "2026-11-24T10:00:00.5Z".to_owned(),
            ended_at: Some("2026-11-24T10:00:02Z".to_owned()),
            ttft_ms: None,
            requested_model: "asked".to_owned(),
            paid_by: "plan".to_owned(),
            price_id: None,
            feature: None,
            prompt_version: None,
            plan_model: None,
            credit_micros: 0,
            issuer: None,
            subject: None,
        }
    }

    #[test]
    fn an_entry_is_the_documented_object() {
        let expected = json!({
            "id": "0193", "user_id": "u", "plan": "pro", "endpoint": "/api/chat", "model": "m", "upstream": "openai",
            "started_at": "2026-11-24T10:00:00.5Z", "ended_at": "2026-11-24T10:00:02Z", "end": "settled",
            "flags": ["estimated"], "input_tokens": 12, "cached_input_tokens": 3, "output_tokens": 4,
            "reasoning_tokens": 2, "cost_usd": "1.000123", "ttft_ms": null, "duration_ms": 1500,
            "requested_model": "asked", "feature": null, "paid_by": "plan", "audio_seconds": 9,
            "issuer": null, "subject": null,
        });
        assert_eq!(value(&row("m")), expected);
    }

    #[test]
    fn a_call_stays_under_a_mebibyte_and_never_carries_nothing() {
        let large = "m".repeat(300_000);
        let call = batch(
            [&large, &large, &large, &large, "m"]
                .map(|model| row(model).into())
                .into(),
        );
        assert_eq!(
            call.len(),
            3,
            "the fourth does not fit, and nothing overtakes it"
        );
        assert!(
            call.into_iter()
                .map(|entry| entry.value)
                .collect::<Value>()
                .to_string()
                .len()
                <= CALL_BYTES_MAX
        );
        assert_eq!(
            batch(vec![row(&"m".repeat(2_000_000)).into(), row("m").into()]).len(),
            1
        );
    }
}
