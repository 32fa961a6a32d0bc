//! App Store Server Notifications V2, and transactions of `StoreKit` 2 that an app sends: what Apple signed, in our own words.

use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::event::{
    Channel, Facts, PurchaseChange, PurchaseEvent, PurchaseState, ReportedState, WHOLE_SHARE,
};
use super::jws::{Signer, verify};
use crate::clock::Timestamp;
use crate::config::AppStore;

/// The store in rows, whichever channel tells.
pub const STORE: &str = "app_store";
/// Transactions of Xcode have the ids 0, 1, 2 on every machine: they are a store of their own.
const XCODE: &str = "xcode";

/// What Apple signed in a notification.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    notification_type: String,
    subtype: Option<String>,
    #[serde(rename = "notificationUUID")]
    notification_uuid: String,
    signed_date: i64,
    data: Option<Data>,
    summary: Option<App>,
    external_purchase_token: Option<App>,
    app_data: Option<App>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    #[serde(flatten)]
    app: App,
    signed_transaction_info: Option<String>,
    signed_renewal_info: Option<String>,
}

/// Whose notification it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct App {
    bundle_id: Option<String>,
    #[serde(rename = "appAppleId")]
    apple_id: Option<i64>,
    environment: Option<String>,
}

/// A transaction.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bought {
    transaction_id: String,
    original_transaction_id: Option<String>,
    bundle_id: String,
    product_id: String,
    purchase_date: i64,
    expires_date: Option<i64>,
    quantity: Option<i64>,
    r#type: Option<String>,
    app_account_token: Option<Uuid>,
    revocation_date: Option<i64>,
    revocation_percentage: Option<i64>,
    is_upgraded: Option<bool>,
    environment: Option<String>,
    signed_date: i64,
}

/// What will come after it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Renewal {
    auto_renew_status: Option<i64>,
    grace_period_expires_date: Option<i64>,
    app_account_token: Option<Uuid>,
}

/// Reads a notification: the body of Apple's request.
///
/// # Errors
/// Apple signed nothing of the kind for this app: why, for a log.
pub fn notification(body: &[u8], trust: &AppStore) -> Result<PurchaseEvent, &'static str> {
    let envelope: Value = serde_json::from_slice(body).map_err(|_| "the body is not JSON")?;
    let text = envelope.get("signedPayload").and_then(Value::as_str);
    let text = text.ok_or("there is no signedPayload")?;
    let (payload, signer): (Payload, _) = verify(text, &trust.roots)?;
    let at = Timestamp::from_millis(payload.signed_date);
    let others = [
        &payload.summary,
        &payload.external_purchase_token,
        &payload.app_data,
    ];
    let app = payload.data.as_ref().map(|data| &data.app);
    let app = app.or_else(|| others.into_iter().flatten().next());
    check_app(app.ok_or("it is about no app")?, trust, signer)?;
    let subtype = payload.subtype.as_deref().unwrap_or_default();
    let kind = format!("{} {subtype}", payload.notification_type);
    let change = match &payload.data {
        Some(data) => change_of(&payload, data, at, trust)?,
        None => None,
    };
    Ok(PurchaseEvent {
        channel: Channel::AppStore,
        id: payload.notification_uuid.clone(),
        kind: kind.trim_end().to_owned(),
        at,
        change,
        moves: Vec::new(),
    })
}

/// Reads a transaction that an app sends, and the user whose purchase it says it is.
///
/// # Errors
/// Apple signed nothing of the kind for this app: why, for a log.
pub fn transaction(
    text: &str,
    trust: &AppStore,
) -> Result<(PurchaseEvent, Option<Uuid>), &'static str> {
    let (bought, signer): (Bought, _) = verify(text, &trust.roots)?;
    bought.check(trust, signer)?;
    let at = Timestamp::from_millis(bought.signed_date);
    let state = match bought.revoked() {
        Some(state) => state,
        None if bought.is_upgraded == Some(true) => PurchaseState::Ended(at),
        None => bought.live(),
    };
    let change = PurchaseChange {
        state: Some(ReportedState::of(state)),
        ..bought.change(signer)
    };
    let event = PurchaseEvent {
        channel: Channel::App,
        id: format!("{}:{}", bought.transaction_id, bought.signed_date),
        kind: "transaction".to_owned(),
        at,
        change: Some(change),
        moves: Vec::new(),
    };
    Ok((event, bought.app_account_token))
}

fn check_app(app: &App, trust: &AppStore, signer: Signer) -> Result<(), &'static str> {
    let bundle = app.bundle_id.as_ref();
    if !bundle.is_some_and(|bundle| trust.bundle_ids.contains(bundle)) {
        return Err("it is about another bundle id");
    }
    check_environment(app.environment.as_deref(), signer)?;
    let is_production = app.environment.as_deref() == Some(PRODUCTION);
    let is_right = trust
        .app_apple_id
        .is_none_or(|ours| app.apple_id == Some(ours));
    if is_production && !is_right {
        return Err("it is about another app id");
    }
    Ok(())
}

const PRODUCTION: &str = "Production";

/// Xcode's certificate signs for Xcode only.
fn check_environment(environment: Option<&str>, signer: Signer) -> Result<(), &'static str> {
    let is_local = matches!(environment, Some("Xcode" | "LocalTesting"));
    if signer == Signer::Xcode && !is_local {
        return Err("Xcode signed for another environment than its own");
    }
    Ok(())
}

fn change_of(
    payload: &Payload,
    data: &Data,
    at: Timestamp,
    trust: &AppStore,
) -> Result<Option<PurchaseChange>, &'static str> {
    let Some(text) = &data.signed_transaction_info else {
        return Ok(None);
    };
    let (bought, signer): (Bought, _) = verify(text, &trust.roots)?;
    bought.check(trust, signer)?;
    let renewal = data.signed_renewal_info.as_ref();
    let renewal = renewal.map(|text| verify::<Renewal>(text, &trust.roots));
    let renewal = renewal.transpose()?.map(|(renewal, _)| renewal);
    let mut change = told(payload, (&bought, renewal.as_ref()), signer, at);
    if data.app.environment.as_deref() != Some(PRODUCTION)
        && let Some(facts) = &mut change.facts
    {
        facts.is_sandbox = true;
    }
    Ok(Some(change))
}

/// What a notification says of its transaction.
fn told(
    payload: &Payload,
    (bought, renewal): (&Bought, Option<&Renewal>),
    signer: Signer,
    at: Timestamp,
) -> PurchaseChange {
    let mut change = bought.change(signer);
    if let Some((state, grace_until)) = effect(payload, bought, renewal, at) {
        change.state = Some(ReportedState::of(state));
        change.grace_until = Some(grace_until);
    }
    change.will_renew = will_renew(payload, bought, renewal);
    let owner = renewal.and_then(|renewal| renewal.app_account_token);
    change.owner = change.owner.or(owner.map(|owner| owner.to_string()));
    change
}

/// A notification that nobody signed.
#[cfg(test)]
pub(super) fn unsigned(payload: Value, bought: Value, renewal: Value) -> PurchaseEvent {
    let payload: Payload = serde_json::from_value(payload).unwrap();
    let bought: Bought = serde_json::from_value(bought).unwrap();
    let renewal: Renewal = serde_json::from_value(renewal).unwrap();
    let at = Timestamp::from_millis(payload.signed_date);
    let change = told(&payload, (&bought, Some(&renewal)), Signer::Store, at);
    PurchaseEvent {
        channel: Channel::AppStore,
        id: payload.notification_uuid,
        kind: payload.notification_type,
        at,
        change: Some(change),
        moves: Vec::new(),
    }
}

/// What a notification makes of its transaction, and the end of a grace period; nothing where it changes neither.
fn effect(
    payload: &Payload,
    bought: &Bought,
    renewal: Option<&Renewal>,
    at: Timestamp,
) -> Option<(PurchaseState, Option<Timestamp>)> {
    let subtype = payload.subtype.as_deref();
    let counts = || bought.revoked().unwrap_or_else(|| bought.live());
    let revoked = |share| PurchaseState::Revoked {
        at: time(bought.revocation_date).unwrap_or(at),
        share,
    };
    Some(match payload.notification_type.as_str() {
        "SUBSCRIBED" | "DID_RENEW" | "OFFER_REDEEMED" | "RENEWAL_EXTENDED" | "ONE_TIME_CHARGE" => {
            (counts(), None)
        }
        "REFUND_REVERSED" => (bought.live(), None),
        "DID_CHANGE_RENEWAL_PREF" if subtype == Some("UPGRADE") => (counts(), None),
        "DID_FAIL_TO_RENEW" => {
            let grace = renewal.and_then(|renewal| time(renewal.grace_period_expires_date));
            (counts(), grace.filter(|_| subtype == Some("GRACE_PERIOD")))
        }
        "GRACE_PERIOD_EXPIRED" | "EXPIRED" => {
            let ended = time(bought.expires_date).map_or(at, |end| end.min(at));
            (PurchaseState::Ended(ended), None)
        }
        "REFUND" => (revoked(bought.share()), None),
        "REVOKE" => (revoked(WHOLE_SHARE), None),
        _ => return None,
    })
}

fn will_renew(payload: &Payload, bought: &Bought, renewal: Option<&Renewal>) -> Option<bool> {
    let renews = bought
        .r#type
        .as_deref()
        .is_none_or(|kind| kind == "Auto-Renewable Subscription");
    if bought.expires_date.is_none() || !renews {
        return None;
    }
    let said = renewal.and_then(|renewal| renewal.auto_renew_status);
    if let Some(status) = said {
        return Some(status == 1);
    }
    let subtype = payload.subtype.as_deref();
    match payload.notification_type.as_str() {
        "SUBSCRIBED" | "DID_RENEW" | "OFFER_REDEEMED" => Some(true),
        "DID_CHANGE_RENEWAL_STATUS" => Some(subtype == Some("AUTO_RENEW_ENABLED")),
        "EXPIRED" | "REFUND" | "REVOKE" => Some(false),
        _ => None,
    }
}

fn time(millis: Option<i64>) -> Option<Timestamp> {
    millis.map(Timestamp::from_millis)
}

impl Bought {
    fn check(&self, trust: &AppStore, signer: Signer) -> Result<(), &'static str> {
        if !trust.bundle_ids.contains(&self.bundle_id) {
            return Err("its transaction is of another bundle id");
        }
        check_environment(self.environment.as_deref(), signer)?;
        if self.transaction_id.is_empty()
            || self.transaction_id.len() > super::event::NAME_BYTES_MAX
        {
            return Err("its transaction has no id");
        }
        Ok(())
    }

    fn live(&self) -> PurchaseState {
        PurchaseState::Live(time(self.expires_date))
    }

    fn revoked(&self) -> Option<PurchaseState> {
        let share = self.share();
        time(self.revocation_date).map(|at| PurchaseState::Revoked { at, share })
    }

    /// How much was refunded; all of it where Apple does not say.
    fn share(&self) -> i64 {
        let share = self.revocation_percentage.unwrap_or(WHOLE_SHARE);
        share.clamp(0, WHOLE_SHARE)
    }

    /// What it is about, without whether it counts.
    fn change(&self, signer: Signer) -> PurchaseChange {
        let store = match signer {
            Signer::Store => STORE,
            Signer::Xcode => XCODE,
        };
        let original = self.original_transaction_id.as_ref();
        PurchaseChange {
            store: store.to_owned(),
            transaction: self.transaction_id.clone(),
            original: original.unwrap_or(&self.transaction_id).clone(),
            owner: self.app_account_token.map(|user| user.to_string()),
            facts: Some(Facts {
                product: self.product_id.clone(),
                purchased_at: Timestamp::from_millis(self.purchase_date),
                quantity: self.quantity.unwrap_or(1).max(1),
                is_sandbox: self.environment.as_deref() != Some(PRODUCTION),
            }),
            ..PurchaseChange::default()
        }
    }
}
