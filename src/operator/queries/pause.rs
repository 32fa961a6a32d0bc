//! The kill switch: refuses all requests until it is released.

use serde_json::json;

use crate::ledger::Failure;
use crate::ledger::read::report::{By, Desk};

/// Refuses every new request of every user, for a reason.
///
/// # Errors
/// The ledger cannot be written.
pub fn pause(desk: &Desk, reason: &str, by: By<'_>) -> Result<(), Failure> {
    desk.change(by, ("pause", None), |db| {
        db.query(
            "insert into ledger.switches (name, value, updated_at) values ('paused', $1, $2)
             on conflict (name) do update set value = excluded.value, updated_at = excluded.updated_at",
            &[reason.into(), by.at.millis().into()],
        )?;
        Ok(((), Some(json!({ "reason": reason }))))
    })
}

/// Lets the app go on. Gives back whether it was paused.
///
/// # Errors
/// The ledger cannot be written.
pub fn resume(desk: &Desk, by: By<'_>) -> Result<bool, Failure> {
    desk.change(by, ("resume", None), |db| {
        let sql = "delete from ledger.switches where name = 'paused' returning value";
        let reason = db.query_one(sql, &[])?.map(|row| row.text(0)).transpose()?;
        Ok((
            reason.is_some(),
            reason.map(|reason| json!({ "before": { "reason": reason } })),
        ))
    })
}
