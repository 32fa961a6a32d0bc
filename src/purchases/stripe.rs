//! Stripe's webhook: subscriptions by their own events, other products by the checkout that names them.
//!
//! A subscription is one transaction of ours, by its own id, and so is a payment, by the id of its payment intent: a refund names
//! that. Whose a subscription is, its checkout says (`client_reference_id`) or its metadata (`user_id`); a customer whom a checkout
//! named once is known from then on. Thin events have no object inside and are not read.

use std::time::Duration;

use serde_json::Value;

use super::event::{
    Channel, Facts, OwnerMove, PurchaseChange, PurchaseEvent, PurchaseState, ReportedState,
    WHOLE_SHARE, user_named,
};
use super::revenuecat::plain;
use crate::clock::Timestamp;
use crate::plan::Products;

/// The store in rows.
const STORE: &str = "stripe";

/// What a reader knows beside the event.
#[derive(Clone, Copy, Debug)]
pub struct StripeRules<'a> {
    /// Which of the names of a product is in the settings.
    pub products: &'a Products,
    /// How long a subscription counts whose renewal could not be paid.
    pub grace: Duration,
}

/// Reads an event.
///
/// # Errors
/// It has another form: what is wrong, for whoever sent it.
pub fn event(body: &[u8], rules: StripeRules<'_>) -> Result<PurchaseEvent, String> {
    let read: Result<Value, _> = serde_json::from_slice(body);
    let body = read.map_err(|error| format!("The event cannot be read: {error}."))?;
    let text = |name| body.get(name).and_then(Value::as_str);
    let missing = |name: &str| format!("The event has no {name}.");
    let id = text("id").ok_or_else(|| missing("id"))?;
    let kind = text("type").ok_or_else(|| missing("type"))?;
    let Some(created) = body.get("created").and_then(Value::as_i64) else {
        let is_thin = text("object") == Some("v2.core.event");
        let thin =
            "This is a thin event, without its object: choose snapshot events for this endpoint.";
        return Err(if is_thin {
            thin.to_owned()
        } else {
            missing("created")
        });
    };
    let at = Timestamp::from_secs(created);
    let is_live = body.get("livemode").and_then(Value::as_bool) == Some(true);
    let object = body.pointer("/data/object").map(Object);
    let object = object.ok_or_else(|| missing("data.object"))?;
    let said = StripeObject {
        object,
        at,
        is_sandbox: !is_live,
        rules,
    };
    let (change, moves) = said.read(kind)?;
    Ok(PurchaseEvent {
        channel: Channel::Stripe,
        id: plain(id),
        kind: kind.to_owned(),
        at,
        change,
        moves,
    })
}

/// An object of Stripe's. Whatever names another object is its id, or the object itself.
#[derive(Clone, Copy)]
struct Object<'a>(&'a Value);

impl<'a> Object<'a> {
    fn text(self, path: &str) -> Option<&'a str> {
        let found = self.0.pointer(path)?;
        let text = found.as_str().or_else(|| found.get("id")?.as_str());
        text.filter(|text| !text.is_empty())
    }

    fn number(self, path: &str) -> Option<i64> {
        self.0.pointer(path)?.as_i64()
    }

    fn time(self, path: &str) -> Option<Timestamp> {
        self.number(path).map(Timestamp::from_secs)
    }
}

struct StripeObject<'a> {
    object: Object<'a>,
    at: Timestamp,
    is_sandbox: bool,
    rules: StripeRules<'a>,
}

type Read = Result<(Option<PurchaseChange>, Vec<OwnerMove>), String>;

impl StripeObject<'_> {
    fn read(&self, kind: &str) -> Read {
        match kind {
            "checkout.session.completed" | "checkout.session.async_payment_succeeded" => {
                Ok(self.checkout())
            }
            "customer.subscription.created" => self.subscription(1),
            "customer.subscription.updated"
            | "customer.subscription.paused"
            | "customer.subscription.resumed" => self.subscription(2),
            "customer.subscription.deleted" => self.subscription(4),
            "charge.refunded" => Ok((self.refund(), Vec::new())),
            _ => Ok((None, Vec::new())),
        }
    }

    /// The user whom an app named.
    fn user(&self) -> Option<String> {
        let paths = ["/client_reference_id", "/metadata/user_id"];
        let mut named = paths.iter().filter_map(|path| self.object.text(path));
        named.next().map(plain)
    }

    fn checkout(&self) -> (Option<PurchaseChange>, Vec<OwnerMove>) {
        let user = self.user();
        let customer = self.object.text("/customer");
        let known = user.clone().filter(|user| user_named(user).is_some());
        let moves = customer.zip(known).map(|(customer, to)| OwnerMove {
            from: plain(customer),
            to,
        });
        let moves = moves.into_iter().collect();
        let named = |transaction: &str| PurchaseChange {
            store: STORE.to_owned(),
            transaction: plain(transaction),
            original: plain(transaction),
            owner: user.clone().or_else(|| customer.map(plain)),
            ..PurchaseChange::default()
        };
        if let Some(subscription) = self.object.text("/subscription") {
            return (Some(named(subscription)), moves);
        }
        let is_paid = matches!(
            self.object.text("/payment_status"),
            Some("paid" | "no_payment_required")
        );
        let product = self.object.text("/metadata/product").filter(|_| is_paid);
        let payment = self
            .object
            .text("/payment_intent")
            .or(self.object.text("/id"));
        let change = product
            .zip(payment)
            .map(|(product, payment)| PurchaseChange {
                facts: Some(self.facts(product, self.at)),
                state: Some(ReportedState::of(PurchaseState::Live(None))),
                ..named(payment)
            });
        (change, moves)
    }

    /// `rank` decides between two events of the same second.
    fn subscription(&self, rank: i64) -> Read {
        let object = self.object;
        let id = object.text("/id").ok_or("The subscription has no id.")?;
        let product = self.product().ok_or("The subscription has no price.")?;
        // Since 2025-03-31 the period stands in each item, before in the subscription.
        let time = |name: &str| {
            let in_item = object.time(&format!("/items/data/0/{name}"));
            in_item.or_else(|| object.time(&format!("/{name}")))
        };
        let (start, end) = (time("current_period_start"), time("current_period_end"));
        let is_deleted = rank > 3;
        let state = match object.text("/status") {
            _ if is_deleted => PurchaseState::Ended(self.at),
            Some("active" | "trialing") => PurchaseState::Live(end),
            Some("past_due") => {
                let due = start.unwrap_or(self.at);
                PurchaseState::Live(Some(due.plus(self.rules.grace)))
            }
            _ => PurchaseState::Ended(self.at),
        };
        let ends = object
            .0
            .pointer("/cancel_at_period_end")
            .and_then(Value::as_bool);
        let is_cancelled = ends == Some(true) || object.number("/cancel_at").is_some();
        let change = PurchaseChange {
            store: STORE.to_owned(),
            transaction: plain(id),
            original: plain(id),
            owner: self.user().or_else(|| object.text("/customer").map(plain)),
            facts: Some(self.facts(product, start.unwrap_or(self.at))),
            state: Some(ReportedState { state, rank }),
            grace_until: Some(None),
            will_renew: match state {
                PurchaseState::Live(_) => Some(!is_cancelled),
                // It has not begun.
                _ if object.text("/status") == Some("incomplete") => None,
                _ => Some(false),
            },
        };
        Ok((Some(change), Vec::new()))
    }

    /// The one of its names that the settings know: that of a price, of its product, of its look-up key.
    fn product(&self) -> Option<&str> {
        let items = self.object.0.pointer("/items/data")?.as_array()?;
        let names = items.iter().flat_map(|item| {
            let item = Object(item);
            let paths = ["/price/id", "/price/product", "/price/lookup_key"];
            paths.into_iter().filter_map(move |path| item.text(path))
        });
        let known = |name: &&str| self.rules.products.get(name).is_some();
        names.clone().find(known).or_else(|| names.clone().next())
    }

    fn facts(&self, product: &str, purchased_at: Timestamp) -> Facts {
        Facts {
            product: plain(product),
            purchased_at,
            quantity: 1,
            is_sandbox: self.is_sandbox,
        }
    }

    /// A refund of a payment that a checkout made. That of a subscription's invoice
    /// ends nothing: the subscription ends by its own events.
    fn refund(&self) -> Option<PurchaseChange> {
        let payment = self.object.text("/payment_intent")?;
        let (refunded, all) = (
            self.object.number("/amount_refunded")?,
            self.object.number("/amount")?,
        );
        let share = refunded
            .saturating_mul(WHOLE_SHARE)
            .checked_div(all)
            .unwrap_or(WHOLE_SHARE)
            .clamp(0, WHOLE_SHARE);
        Some(PurchaseChange {
            store: STORE.to_owned(),
            transaction: plain(payment),
            original: plain(payment),
            state: Some(ReportedState::of(PurchaseState::Revoked {
                at: self.at,
                share,
            })),
            ..PurchaseChange::default()
        })
    }
}
