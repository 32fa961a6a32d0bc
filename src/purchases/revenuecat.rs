//! RevenueCat's webhook: its events of every store, in our own words.

use serde::Deserialize;

use super::event::{
    Channel, Facts, NAME_BYTES_MAX, OwnerMove, PurchaseChange, PurchaseEvent, PurchaseState,
    ReportedState, WHOLE_SHARE, user_named,
};
use crate::clock::Timestamp;

#[derive(Deserialize)]
struct Body {
    event: RevenuecatEvent,
}

#[derive(Deserialize)]
struct RevenuecatEvent {
    id: String,
    r#type: String,
    event_timestamp_ms: i64,
    app_user_id: Option<String>,
    original_app_user_id: Option<String>,
    #[serde(default)]
    aliases: Option<Vec<String>>,
    product_id: Option<String>,
    purchased_at_ms: Option<i64>,
    expiration_at_ms: Option<i64>,
    grace_period_expiration_at_ms: Option<i64>,
    environment: Option<String>,
    store: Option<String>,
    transaction_id: Option<String>,
    original_transaction_id: Option<String>,
    cancel_reason: Option<String>,
    price: Option<f64>,
    transferred_from: Option<Vec<String>>,
    transferred_to: Option<Vec<String>>,
}

/// Reads an event.
///
/// # Errors
/// It has another form: what is wrong, for whoever sent it.
pub fn event(body: &[u8]) -> Result<PurchaseEvent, String> {
    let read: Result<Body, _> = serde_json::from_slice(body);
    let Body { event } = read.map_err(|error| format!("The event cannot be read: {error}."))?;
    let change = event.change()?;
    Ok(PurchaseEvent {
        channel: Channel::RevenueCat,
        at: Timestamp::from_millis(event.event_timestamp_ms),
        moves: event.moves(),
        change,
        id: event.id,
        kind: event.r#type,
    })
}

impl RevenuecatEvent {
    /// What belongs to another name from now on.
    fn moves(&self) -> Vec<OwnerMove> {
        if self.r#type != "TRANSFER" {
            return Vec::new();
        }
        let to = self.transferred_to.as_deref().unwrap_or_default();
        let user = to.iter().find(|name| user_named(name).is_some());
        let Some(to) = user.or_else(|| to.first()) else {
            return Vec::new();
        };
        let from = self.transferred_from.iter().flatten();
        let moved = from.filter(|from| *from != to).map(|from| OwnerMove {
            from: plain(from),
            to: plain(to),
        });
        moved.collect()
    }

    fn change(&self) -> Result<Option<PurchaseChange>, String> {
        let Some((state, grace_until)) = self.effect() else {
            return Ok(self.renewal_only());
        };
        let missing = |name| format!("{} without {name}.", self.r#type);
        let product = self
            .product_id
            .clone()
            .ok_or_else(|| missing("product_id"))?;
        let mut change = self.named(&product);
        change.facts = Some(Facts {
            purchased_at: time(self.purchased_at_ms).unwrap_or(self.at()),
            product,
            quantity: 1,
            // What is not said to be of production is none.
            is_sandbox: self.environment.as_deref() != Some("PRODUCTION"),
        });
        change.state = state.map(ReportedState::of);
        change.grace_until = Some(grace_until);
        change.will_renew = self.will_renew();
        Ok(Some(change))
    }

    /// What says only whether it will be renewed, or whose it is.
    fn renewal_only(&self) -> Option<PurchaseChange> {
        let about = ["CANCELLATION", "PRODUCT_CHANGE", "SUBSCRIPTION_PAUSED"];
        let product = self.product_id.as_ref()?;
        let change = PurchaseChange {
            will_renew: self.will_renew(),
            ..self.named(product)
        };
        about.contains(&self.r#type.as_str()).then_some(change)
    }

    /// What an event makes of its transaction, and the end of a grace period; nothing where it changes neither.
    fn effect(&self) -> Option<(Option<PurchaseState>, Option<Timestamp>)> {
        let until = time(self.expiration_at_ms);
        let live = (Some(PurchaseState::Live(until)), None);
        let revoked = PurchaseState::Revoked {
            at: self.at(),
            share: WHOLE_SHARE,
        };
        let is_negative = self.price.is_some_and(|price| price < 0.0);
        Some(match self.r#type.as_str() {
            "CANCELLATION" if self.is_refund() => (Some(revoked), None),
            "INITIAL_PURCHASE" | "RENEWAL" | "NON_RENEWING_PURCHASE" if is_negative => {
                (Some(revoked), None)
            }
            "INITIAL_PURCHASE"
            | "RENEWAL"
            | "UNCANCELLATION"
            | "SUBSCRIPTION_EXTENDED"
            | "REFUND_REVERSED"
            | "TEMPORARY_ENTITLEMENT_GRANT"
            | "NON_RENEWING_PURCHASE" => live,
            "BILLING_ISSUE" => {
                let grace = time(self.grace_period_expiration_at_ms);
                (live.0, grace)
            }
            "EXPIRATION" => {
                let ended = until.map_or(self.at(), |until| until.min(self.at()));
                (Some(PurchaseState::Ended(ended)), None)
            }
            _ => return None,
        })
    }

    fn is_refund(&self) -> bool {
        self.cancel_reason.as_deref() == Some("CUSTOMER_SUPPORT")
    }

    fn will_renew(&self) -> Option<bool> {
        self.expiration_at_ms?;
        match self.r#type.as_str() {
            "INITIAL_PURCHASE" | "RENEWAL" | "UNCANCELLATION" => Some(true),
            // A billing issue is tried again.
            "CANCELLATION" if self.cancel_reason.as_deref() == Some("BILLING_ERROR") => None,
            "CANCELLATION" | "EXPIRATION" | "SUBSCRIPTION_PAUSED" => Some(false),
            _ => None,
        }
    }

    /// Which transaction, and whose.
    fn named(&self, product: &str) -> PurchaseChange {
        let owner = self.owner();
        // A grant of RevenueCat's own has no transaction.
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

    /// The first of its names that is a user's id, else the name that it goes by.
    fn owner(&self) -> Option<String> {
        let named = self.app_user_id.iter();
        let others = self.aliases.iter().flatten();
        let mut all = named
            .clone()
            .chain(others)
            .chain(&self.original_app_user_id);
        let user = all.find(|name| user_named(name).is_some());
        let mut named = named;
        user.or_else(|| named.next()).map(|name| plain(name))
    }

    const fn at(&self) -> Timestamp {
        Timestamp::from_millis(self.event_timestamp_ms)
    }
}

/// The store's name in rows: what Apple tells itself is the same store.
pub(super) fn store_name(store: Option<&str>) -> String {
    match store {
        Some("APP_STORE" | "MAC_APP_STORE") => super::appstore::STORE.to_owned(),
        Some(other) => plain(&other.to_ascii_lowercase()),
        None => "unknown".to_owned(),
    }
}

/// A name, cut to what is stored. A user's id in its usual spelling.
pub(super) fn plain(name: &str) -> String {
    match user_named(name) {
        Some(user) => user.to_string(),
        None => name.chars().take(NAME_BYTES_MAX).collect(),
    }
}

fn time(millis: Option<i64>) -> Option<Timestamp> {
    millis.map(Timestamp::from_millis)
}
