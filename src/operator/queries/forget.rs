//! Forgetting a user: what is known of them goes, and what their requests cost stays, as nobody's.
//!
//! A request's row stays, so that the sums of the app, of a model and of a month stay. It belongs to the max UUID then, as
//! those of everybody who was forgotten do, and nothing in the ledger says which of them are of one person.

use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use crate::ledger::Failure;
use crate::ledger::grants;
use crate::ledger::read::connection::{Cell, Db};
use crate::ledger::read::report::{By, Desk};

/// What is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Forgotten {
    /// Requests that are nobody's now.
    pub requests: i64,
    /// Grants of credits that are nobody's now.
    pub grants: i64,
}

/// Rows that go, and names in rows that stay: what a store sold is known without whose it is.
const REMOVALS: [&str; 11] = [
    "delete from ledger.windows where user_id = $1",
    "delete from ledger.tallies where user_id = $1",
    "delete from ledger.subscriptions where user_id = $1",
    "delete from ledger.credits where user_id = $1",
    "delete from ledger.idempotency_keys where user_id = $1",
    "delete from ledger.users where user_id = $1",
    "delete from ledger.device_keys where user_id = $1",
    "delete from ledger.purchase_moves where from_owner = $1 or to_owner = $1",
    // What waits for on_purchase would tell it who this was.
    "update ledger.purchases set unsent = 0 where exists (
         select 1 from ledger.purchase_origins as o
         where o.store = purchases.store and o.original_id = purchases.original_id and (o.user_id = $1 or o.owner = $1))",
    "update ledger.purchase_events set user_id = null where user_id = $1",
    "update ledger.purchase_origins set user_id = null, owner = null, owner_at = 0 where user_id = $1 or owner = $1",
];
/// Windows of the max UUID that pruning has made: more requests are in them now.
const OUTDATED: [&str; 2] = [
    "delete from ledger.windows where user_id = $1",
    "delete from ledger.tallies where user_id = $1",
];

/// Forgets a user. Nobody is told whether there was one.
///
/// # Errors
/// The ledger cannot be written.
pub fn forget(desk: &Desk, user_id: Uuid, by: By<'_>) -> Result<Forgotten, Failure> {
    desk.change(by, ("forget", None), |db| {
        let id = || Cell::from(user_id.to_string());
        let nobody = || Cell::from(Uuid::max().to_string());
        grants::lock_user(db, user_id)?;
        let count = "select cast(count(*) as bigint) from ledger.requests where user_id = $1";
        let requests = db
            .query_one(count, &[id()])?
            .map_or(Ok(0), |row| row.int(0))?;
        // What waits for log_request would tell it who this was.
        let sql = "update ledger.requests set user_id = $2, unsent = 0 where user_id = $1";
        db.query(sql, &[id(), nobody()])?;
        for sql in REMOVALS {
            db.query(sql, &[id()])?;
        }
        for sql in OUTDATED {
            db.query(sql, &[nobody()])?;
        }
        let grants = forget_grants(db, user_id)?;
        // Who changed something, and when, stays.
        let sql = "update ledger.audit set user_id = null, detail = '{}' where user_id = $1";
        db.query(sql, &[id()])?;
        let forgotten = Forgotten { requests, grants };
        Ok((forgotten, Some(json!(forgotten))))
    })
}

/// What was given stays beside what was spent of it, and nobody can spend of it any more. A transaction of a store stays as
/// its digest: it gives credits to no other account.
fn forget_grants(db: &Db, user_id: Uuid) -> Result<i64, Failure> {
    let sql = "select id, source from ledger.grants where user_id = $1";
    let found = db.query(sql, &[user_id.to_string().into()])?;
    let sql = "update ledger.grants set user_id = $2, source = $3, ends_at = 0 where id = $1";
    for row in &found {
        let (id, source) = (row.text(0)?, row.text(1)?);
        let source = match source.as_str() {
            grants::OPERATOR => source,
            _ => grants::forgotten(&source),
        };
        let nobody = Uuid::max().to_string();
        db.query(sql, &[id.into(), nobody.into(), source.into()])?;
    }
    Ok(i64::try_from(found.len()).unwrap_or(i64::MAX))
}
