//! What users bought, and what stores told of it.

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Cursor, Page, Slice, time_at};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::ledger::Failure;
use crate::ledger::read::connection::Row;
use crate::ledger::read::report::Reports;
use crate::price::MicroUsd;

/// A transaction of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PurchaseRow {
    /// `app_store`, `play_store`, `stripe` …
    pub store: String,
    /// The store's id of it.
    pub transaction: String,
    /// The id of the first transaction of the same purchase.
    pub original: String,
    /// Whose it is; null where nobody knows.
    pub user_id: Option<String>,
    /// The store's name of the product. (A payment of which only the refund was told is not listed.)
    pub product: Option<String>,
    /// What the settings say that it gives.
    pub gives: String,
    /// `live`, `ended`, `revoked`; `over` where its time is.
    pub state: String,
    /// `production` or `sandbox`.
    pub environment: &'static str,
    /// When it was bought.
    pub purchased_at: Option<String>,
    /// When it stops to count; null for never.
    pub ends_at: Option<String>,
    /// Whether the store will renew it; null where it did not say.
    pub will_renew: Option<bool>,
    /// When the store said the last thing that changed it.
    pub changed_at: String,
    #[serde(skip)]
    score: i64,
}

/// Transactions, those that changed last first; of one user, if one is named.
///
/// # Errors
/// The ledger cannot be read.
pub fn list(
    reports: &Reports,
    config: &Config,
    user: Option<Uuid>,
    slice: &Slice,
    now: Timestamp,
) -> Result<Page<PurchaseRow>, Failure> {
    let (score, key) = slice.after(i64::MAX);
    let sql = "select p.store, p.transaction_id, p.original_id, o.user_id, p.product, p.state, p.sandbox, p.purchased_at,
                      p.ends_at, o.will_renew, p.state_at, p.quantity
               from ledger.purchases as p
               join ledger.purchase_origins as o on o.store = p.store and o.original_id = p.original_id
               where p.product is not null and ($1 = '' or o.user_id = $1)
                 and (p.state_at < $2 or (p.state_at = $2 and p.store || ' ' || p.transaction_id > $3))
               order by p.state_at desc, p.store || ' ' || p.transaction_id limit $4";
    let user = user.map(|user| user.to_string()).unwrap_or_default();
    let params = [user.into(), score.into(), key.into(), slice.asked().into()];
    let rows = reports.db().query(sql, &params)?;
    let rows = rows.iter().map(|row| purchase(row, config, now));
    let rows = rows.collect::<Result<Vec<_>, Failure>>()?;
    Ok(slice.page(rows, |row| Cursor {
        score: row.score,
        key: format!("{} {}", row.store, row.transaction),
    }))
}

fn purchase(row: &Row, config: &Config, now: Timestamp) -> Result<PurchaseRow, Failure> {
    let product = row.maybe_text(4)?;
    let is_sandbox = row.int(6)? != 0;
    let is_over = row.maybe_int(8)?.is_some_and(|end| end <= now.millis());
    let state = row.text(5)?;
    let changed = row.int(10)?;
    Ok(PurchaseRow {
        store: row.text(0)?,
        transaction: row.text(1)?,
        original: row.text(2)?,
        user_id: row.maybe_text(3)?,
        gives: gives(product.as_deref(), row.int(11)?, is_sandbox, config),
        product,
        state: if state == "live" && is_over {
            "over".to_owned()
        } else {
            state
        },
        environment: if is_sandbox { "sandbox" } else { "production" },
        purchased_at: time_at(row, 7)?,
        ends_at: time_at(row, 8)?,
        will_renew: row.maybe_int(9)?.map(|renews| renews != 0),
        changed_at: Timestamp::from_millis(changed).rfc3339(),
        score: changed,
    })
}

/// What a product gives, in words.
fn gives(name: Option<&str>, quantity: i64, is_sandbox: bool, config: &Config) -> String {
    let products = &config.products;
    let Some(product) = name.and_then(|name| products.get(name)) else {
        return "nothing: [products] does not have it".to_owned();
    };
    let plan = if is_sandbox {
        let given = product.plan.as_ref().and(products.sandbox_plan.as_ref());
        given.map_or_else(
            || "nothing: the sandbox".to_owned(),
            |plan| format!("plan {plan}"),
        )
    } else {
        let plan = product.plan.as_ref();
        plan.map_or_else(String::new, |plan| format!("plan {plan}"))
    };
    let credit = product.credit.filter(|_| !is_sandbox);
    let credit = credit.map(|MicroUsd(micros)| {
        let all = MicroUsd(micros.saturating_mul(quantity));
        format!("${all} of credits")
    });
    let both: Vec<String> = [plan]
        .into_iter()
        .chain(credit)
        .filter(|text| !text.is_empty())
        .collect();
    both.join(", ")
}

/// An event of a store that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct StoreEvent {
    /// `appstore`, `revenuecat`, `superwall`, `stripe`, or `app` for what an app sent.
    pub channel: String,
    /// The event's own id.
    pub id: String,
    /// Its type, as the store calls it.
    pub kind: String,
    /// When it happened, by the store's clock.
    pub at: String,
    /// When it came.
    pub received_at: String,
    /// The store's id of its transaction.
    pub transaction: Option<String>,
    /// Whose it is.
    pub user_id: Option<String>,
    /// `applied`, `unchanged`, `no_user`, or `no_product` where `[products]` does not have what was bought.
    pub outcome: String,
    #[serde(skip)]
    score: i64,
}

/// Events of the last ninety days, the newest first.
///
/// # Errors
/// The ledger cannot be read.
pub fn events(reports: &Reports, slice: &Slice) -> Result<Page<StoreEvent>, Failure> {
    let (score, key) = slice.after(i64::MAX);
    let sql = "select channel, event_id, kind, at, received_at, transaction_id, user_id, outcome
               from ledger.purchase_events
               where received_at < $1 or (received_at = $1 and channel || ' ' || event_id > $2)
               order by received_at desc, channel || ' ' || event_id limit $3";
    let params = [score.into(), key.into(), slice.asked().into()];
    let event = |row: &Row| {
        let received = row.int(4)?;
        Ok(StoreEvent {
            channel: row.text(0)?,
            id: row.text(1)?,
            kind: row.text(2)?,
            at: Timestamp::from_millis(row.int(3)?).rfc3339(),
            received_at: Timestamp::from_millis(received).rfc3339(),
            transaction: row.maybe_text(5)?,
            user_id: row.maybe_text(6)?,
            outcome: row.text(7)?,
            score: received,
        })
    };
    let rows = reports.db().query(sql, &params)?;
    let rows = rows
        .iter()
        .map(event)
        .collect::<Result<Vec<_>, Failure>>()?;
    Ok(slice.page(rows, |row| Cursor {
        score: row.score,
        key: format!("{} {}", row.channel, row.id),
    }))
}

/// When a channel last told anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ChannelRow {
    /// `appstore`, `revenuecat`, `superwall`, `stripe` or `app`.
    pub channel: &'static str,
    /// The settings have its proof.
    pub is_set: bool,
    /// When the last event was taken; null for none in ninety days.
    pub last_event_at: Option<String>,
    /// When this server last refused something, and why; null where it did not since its start.
    pub last_refusal_at: Option<String>,
    /// Why.
    pub last_refusal: Option<String>,
}
