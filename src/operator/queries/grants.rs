//! Credits: what a user owns of them, and what an operator gives.

use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{dollars, time_at};
use crate::clock::Timestamp;
use crate::ledger::Failure;
use crate::ledger::grants::{NewGrant, OPERATOR, grant};
use crate::ledger::read::connection::{Db, Row};
use crate::ledger::read::report::{By, Desk};
use crate::price::MicroUsd;

/// How many grants of a user are shown.
const SHOWN_MAX: i64 = 200;

/// Credits that a user was given at once. Amounts are US dollars with six places.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Grant)]
pub struct GrantRow {
    /// Its id.
    pub id: String,
    /// `operator`, or the transaction of a store.
    pub source: String,
    /// How much was given.
    pub granted_usd: String,
    /// What ended requests cost of it.
    pub spent_usd: String,
    /// What open requests hold of it.
    pub held_usd: String,
    /// What a refund takes of it: at once what is left, then what open requests give back.
    pub refunded_usd: String,
    /// What may still be spent; nothing after its end.
    pub remaining_usd: String,
    /// When it was given.
    pub granted_at: String,
    /// Requests may be held against it until then; null for good.
    pub until: Option<String>,
}

/// The grants of a user, the newest first.
///
/// # Errors
/// The ledger cannot be read.
pub(super) fn of_user(db: &Db, user_id: Uuid, now: Timestamp) -> Result<Vec<GrantRow>, Failure> {
    let sql = "select id, source, granted_micros, spent_micros, held_micros, refunded_micros, granted_at, ends_at
               from ledger.grants where user_id = $1 order by id desc limit $2";
    let rows = db.query(sql, &[user_id.to_string().into(), SHOWN_MAX.into()])?;
    rows.iter().map(|row| grant_of(row, now)).collect()
}

fn grant_of(row: &Row, now: Timestamp) -> Result<GrantRow, Failure> {
    let [granted, spent, held, refunded] = [row.int(2)?, row.int(3)?, row.int(4)?, row.int(5)?];
    let is_over = row.maybe_int(7)?.is_some_and(|end| end <= now.millis());
    let left = granted
        .saturating_sub(spent)
        .saturating_sub(held)
        .saturating_sub(refunded);
    Ok(GrantRow {
        id: row.text(0)?,
        source: row.text(1)?,
        granted_usd: dollars(granted),
        spent_usd: dollars(spent),
        held_usd: dollars(held),
        refunded_usd: dollars(refunded),
        remaining_usd: dollars(if is_over { 0 } else { left.max(0) }),
        granted_at: Timestamp::from_millis(row.int(6)?).rfc3339(),
        until: time_at(row, 7)?,
    })
}

/// Gives a user credits, until a moment or for good.
///
/// # Errors
/// The ledger cannot be written.
pub fn give(
    desk: &Desk,
    user_id: Uuid,
    (amount, until): (MicroUsd, Option<Timestamp>),
    by: By<'_>,
) -> Result<GrantRow, Failure> {
    desk.change(by, ("grant", Some(user_id)), |db| {
        let new = NewGrant {
            user_id,
            source: OPERATOR.to_owned(),
            amount,
            until,
        };
        grant(db, &new, by.at)?;
        let detail =
            json!({ "amount_usd": amount.to_string(), "until": until.map(Timestamp::rfc3339) });
        let made = of_user(db, user_id, by.at)?.into_iter().next();
        let made = made.ok_or_else(|| Failure::new("the grant is not there".to_owned()))?;
        Ok((made, Some(detail)))
    })
}
