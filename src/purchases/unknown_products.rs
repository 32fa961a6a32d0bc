//! Purchases of products that the settings did not have when a store told of them: what they give once the settings do.
//!
//! The plan of a product is looked up each time, so nothing is to be done for it. Credits are given when an event is taken.
//! Products that were known are left alone: credits that one is given later are for purchases of which a store tells later.

use uuid::Uuid;

use super::event::Rules;
use super::records::{Outcome, give, lock};
use super::rows::{chain_of, let_wait, user_of};
use crate::ledger::Failure;
use crate::ledger::read::connection::Db;
use crate::ledger::read::report::{By, Desk, note};

/// How many share a transaction of the ledger: holds and webhooks wait for it.
const BATCH: usize = 50;

/// An event that told of an unknown product.
struct UnknownPurchase {
    channel: String,
    event: String,
    store: String,
    transaction: String,
    original: String,
    product: String,
}

/// Gives what products that are known by now give. Whose purchases it touched. Told twice, or by two processes at once, it gives
/// nothing twice: a grant is found again by its transaction.
///
/// # Errors
/// The ledger cannot be written.
pub(super) fn catch_up(desk: &Desk, rules: Rules<'_>) -> Result<Vec<Uuid>, Failure> {
    let all = waiting(desk.db(), rules)?;
    let mut users = Vec::new();
    for some in all.chunks(BATCH) {
        users.extend(desk.db().in_transaction(|db| {
            lock(db)?;
            let settled = some.iter().map(|it| settle(db, it, rules));
            settled.collect::<Result<Vec<_>, Failure>>()
        })?);
    }
    let mut users: Vec<_> = users.into_iter().flatten().collect();
    users.sort_unstable();
    users.dedup();
    Ok(users)
}

/// Products that somebody has bought, whose purchase counts, and that the settings do not have.
///
/// # Errors
/// The ledger cannot be read.
pub(crate) fn unknown(db: &Db, rules: Rules<'_>) -> Result<Vec<String>, Failure> {
    let sql = "select distinct product from ledger.purchases
               where product is not null and state = 'live' and (ends_at is null or ends_at > $1) order by 1";
    let rows = db.query(sql, &[rules.now.millis().into()])?;
    let names = rows.iter().map(|row| row.text(0));
    let mut names = names.collect::<Result<Vec<_>, Failure>>()?;
    names.retain(|name| rules.products.get(name).is_none());
    Ok(names)
}

fn waiting(db: &Db, rules: Rules<'_>) -> Result<Vec<UnknownPurchase>, Failure> {
    let sql = "select e.channel, e.event_id, p.store, p.transaction_id, p.original_id, p.product
               from ledger.purchase_events as e
               join ledger.purchases as p on p.store = e.store and p.transaction_id = e.transaction_id
               where e.outcome = $1 and p.product is not null order by 3, 4, 1, 2";
    let rows = db.query(sql, &[Outcome::NoProduct.as_str().into()])?;
    let all = rows.iter().map(|row| {
        Ok(UnknownPurchase {
            channel: row.text(0)?,
            event: row.text(1)?,
            store: row.text(2)?,
            transaction: row.text(3)?,
            original: row.text(4)?,
            product: row.text(5)?,
        })
    });
    let mut all = all.collect::<Result<Vec<_>, Failure>>()?;
    all.retain(|it| rules.products.get(&it.product).is_some());
    Ok(all)
}

fn settle(db: &Db, purchase: &UnknownPurchase, rules: Rules<'_>) -> Result<Option<Uuid>, Failure> {
    let place = (purchase.store.as_str(), purchase.original.as_str());
    let user = user_of(db, place)?;
    let chain = chain_of(db, place.0, place.1)?;
    let by = By {
        name: "settings",
        at: rules.now,
    };
    for detail in give(db, place, (&chain, user), rules)? {
        note(db, by, ("purchase", user), &detail)?;
    }
    let transaction = (place.0, purchase.transaction.as_str());
    let_wait(db, transaction, rules.now)?;
    let outcome = match user {
        Some(_) => Outcome::Applied,
        None => Outcome::NoUser,
    };
    db.query(
        "update ledger.purchase_events set outcome = $3, user_id = $4
         where channel = $1 and event_id = $2 and outcome = $5",
        &[
            purchase.channel.clone().into(),
            purchase.event.clone().into(),
            outcome.as_str().into(),
            user.map(|user| user.to_string()).into(),
            Outcome::NoProduct.as_str().into(),
        ],
    )?;
    Ok(user)
}
