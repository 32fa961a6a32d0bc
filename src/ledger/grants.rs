//! Grants: who is given credits, and what a refund takes back. For the operator, and for what a store tells.
//!
//! Both are steps of a transaction of the caller's. What requests hold and pay of a grant, only the ledger's writer writes.

use uuid::Uuid;

use crate::clock::Timestamp;
use crate::ledger::Failure;
use crate::ledger::hex::hex;
use crate::ledger::read::connection::Db;
use crate::price::MicroUsd;

/// The source of what an operator gives.
pub const OPERATOR: &str = "operator";
/// The most that one grant may give: a thousand million dollars.
pub const GRANT_MICROS_MAX: i64 = 1_000_000_000_000_000;
/// A whole share, as Apple counts it: thousandths of a percent.
pub const WHOLE_SHARE: u32 = 100_000;

/// Credits for a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewGrant {
    /// Whose.
    pub user_id: Uuid,
    /// [`OPERATOR`], or the transaction of a store: one gives credits once, whoever tells of it how often.
    pub source: String,
    /// How much; from 1 to [`GRANT_MICROS_MAX`].
    pub amount: MicroUsd,
    /// Requests may be held against it until then; `None` for good.
    pub until: Option<Timestamp>,
}

/// Gives credits. False where this transaction of a store has given credits already.
///
/// # Errors
/// The ledger cannot be written, or the amount is out of bounds.
pub(crate) fn grant(db: &Db, new: &NewGrant, now: Timestamp) -> Result<bool, Failure> {
    let MicroUsd(amount) = new.amount;
    if !(1..=GRANT_MICROS_MAX).contains(&amount) {
        return Err(Failure::new(format!(
            "a grant of {amount} micro-dollars is none"
        )));
    }
    if new.source != OPERATOR && user_of(db, &new.source)?.is_some() {
        return Ok(false);
    }
    let made = db.query(
        "insert into ledger.grants (id, user_id, source, granted_micros, granted_at, ends_at)
         values ($1, $2, $3, $4, $5, $6) on conflict do nothing returning id",
        &[
            Uuid::now_v7().to_string().into(),
            new.user_id.to_string().into(),
            new.source.clone().into(),
            amount.into(),
            now.millis().into(),
            new.until.map(Timestamp::millis).into(),
        ],
    )?;
    Ok(!made.is_empty())
}

/// Whom a transaction of a store has given credits. (One that was forgotten since is the max UUID.)
///
/// # Errors
/// The ledger cannot be read.
pub(crate) fn user_of(db: &Db, source: &str) -> Result<Option<Uuid>, Failure> {
    let sql = "select user_id from ledger.grants where source = $1 or source = $2";
    let row = db.query_one(sql, &[source.into(), forgotten(source).into()])?;
    let Some(row) = row else { return Ok(None) };
    Ok(row.text(0)?.parse().ok())
}

/// Takes back a share of what a transaction of a store gave ([`WHOLE_SHARE`] is all of it, 0 gives back what was taken):
/// at once what is left of it, then what open requests give back of it. What was spent stays spent. False where the
/// transaction gave nothing, or this share of it was taken already.
///
/// # Errors
/// The ledger cannot be written.
pub(crate) fn refund(db: &Db, source: &str, share: u32) -> Result<bool, Failure> {
    let Some(user_id) = user_of(db, source)? else {
        return Ok(false);
    };
    lock_user(db, user_id)?;
    let share = i64::from(share.min(WHOLE_SHARE));
    let whole = i64::from(WHOLE_SHARE);
    // In two parts, so that no product is too large.
    let changed = db.query(
        "update ledger.grants
         set refunded_micros = granted_micros / $4 * $3 + granted_micros % $4 * $3 / $4
         where (source = $1 or source = $2)
           and refunded_micros <> granted_micros / $4 * $3 + granted_micros % $4 * $3 / $4 returning id",
        &[
            source.into(),
            forgotten(source).into(),
            share.into(),
            whole.into(),
        ],
    )?;
    Ok(!changed.is_empty())
}

/// What stands in place of a transaction whose user was forgotten: it still gives credits to nobody else.
pub(crate) fn forgotten(source: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, source.as_bytes());
    format!("forgotten:{}", hex(digest.as_ref()))
}

/// On Postgres nobody holds or ends requests of a user meanwhile; a file has one writer at a time anyway.
pub(crate) fn lock_user(db: &Db, user_id: Uuid) -> Result<(), Failure> {
    if let Db::Transaction(..) = db {
        // As `lock_of` in postgres/functions.sql.
        let sql = "select 1::bigint from (select pg_catalog.pg_advisory_xact_lock(
                       pg_catalog.hashtextextended(pg_catalog.textcat('tollgate:', $1), 7))) as locked";
        db.query(sql, &[user_id.to_string().into()])?;
    }
    Ok(())
}
