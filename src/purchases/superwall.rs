//! Superwall's webhook, delivered as Standard Webhooks: its events of every store, in our own words.

use serde::Deserialize;

use super::event::{
    Channel, Facts, PurchaseChange, PurchaseEvent, PurchaseState, ReportedState, WHOLE_SHARE,
};
use super::revenuecat::{plain, store_name};
use crate::clock::Timestamp;

#[derive(Deserialize)]
struct Body {
    r#type: String,
    timestamp: Option<i64>,
    data: SuperwallData,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SuperwallData {
    name: Option<String>,
    product_id: Option<String>,
    purchased_at: Option<i64>,
    expiration_at: Option<i64>,
    original_app_user_id: Option<String>,
    original_transaction_id: Option<String>,
    transaction_id: Option<String>,
    environment: Option<String>,
    store: Option<String>,
    price: Option<f64>,
    cancel_reason: Option<String>,
    ts: Option<i64>,
}

/// Reads an event. `id` is that of its delivery.
///
/// # Errors
/// It has another form: what is wrong, for whoever sent it.
pub fn event(id: &str, body: &[u8]) -> Result<PurchaseEvent, String> {
    let read: Result<Body, _> = serde_json::from_slice(body);
    let body = read.map_err(|error| format!("The event cannot be read: {error}."))?;
    let at = body.timestamp.or(body.data.ts);
    let at = at.ok_or("The event has no timestamp.")?;
    let at = Timestamp::from_millis(at);
    let kind = body.data.name.as_ref().unwrap_or(&body.r#type);
    let kind = kind.to_ascii_lowercase();
    Ok(PurchaseEvent {
        channel: Channel::Superwall,
        id: plain(id),
        change: body.data.change(&kind, at)?,
        kind,
        at,
        moves: Vec::new(),
    })
}

impl SuperwallData {
    fn change(&self, kind: &str, at: Timestamp) -> Result<Option<PurchaseChange>, String> {
        let will_renew = self.will_renew(kind);
        let Some(state) = self.effect(kind, at) else {
            let Some(product) = self.product_id.as_deref().filter(|_| will_renew.is_some()) else {
                return Ok(None);
            };
            return Ok(Some(PurchaseChange {
                will_renew,
                ..self.named(product)
            }));
        };
        let product = self.product_id.as_deref();
        let product = product.ok_or_else(|| format!("{kind} without productId."))?;
        let facts = Facts {
            product: product.to_owned(),
            purchased_at: self.purchased_at.map_or(at, Timestamp::from_millis),
            quantity: 1,
            is_sandbox: self.environment.as_deref() != Some("PRODUCTION"),
        };
        Ok(Some(PurchaseChange {
            facts: Some(facts),
            state: Some(ReportedState::of(state)),
            grace_until: Some(None),
            will_renew,
            ..self.named(product)
        }))
    }

    fn effect(&self, kind: &str, at: Timestamp) -> Option<PurchaseState> {
        let until = self.expiration_at.map(Timestamp::from_millis);
        let is_refund = self.price.is_some_and(|price| price < 0.0)
            || (kind == "cancellation"
                && self.cancel_reason.as_deref() == Some("CUSTOMER_SUPPORT"));
        if is_refund && kind != "test" {
            let share = WHOLE_SHARE;
            return Some(PurchaseState::Revoked { at, share });
        }
        match kind {
            "initial_purchase"
            | "renewal"
            | "uncancellation"
            | "non_renewing_purchase"
            | "billing_issue" => Some(PurchaseState::Live(until)),
            "expiration" => Some(PurchaseState::Ended(
                until.map_or(at, |until| until.min(at)),
            )),
            _ => None,
        }
    }

    fn will_renew(&self, kind: &str) -> Option<bool> {
        self.expiration_at?;
        match kind {
            "initial_purchase" | "renewal" | "uncancellation" => Some(true),
            "cancellation" if self.cancel_reason.as_deref() == Some("BILLING_ERROR") => None,
            "cancellation" | "expiration" | "subscription_paused" => Some(false),
            _ => None,
        }
    }

    fn named(&self, product: &str) -> PurchaseChange {
        let owner = self.original_app_user_id.as_deref().map(plain);
        let without = || format!("{}:{product}", owner.as_deref().unwrap_or_default());
        let ids = [&self.transaction_id, &self.original_transaction_id];
        let transaction = ids.into_iter().flatten().next().cloned();
        let transaction = transaction.unwrap_or_else(without);
        let original = self.original_transaction_id.as_ref();
        PurchaseChange {
            store: store_name(self.store.as_deref()),
            original: plain(original.unwrap_or(&transaction)),
            transaction: plain(&transaction),
            owner: owner.clone(),
            ..PurchaseChange::default()
        }
    }
}
