//! What the functions in `tollgate_ledger` answer about the outbox. Pure.

use super::super::sqlite::Failure;
use super::super::{Lag, Turn};
use crate::clock::Timestamp;
use crate::ledger::read::connection::postgres_row;
use crate::pg;

/// The answer of `tollgate_ledger.outbox_turn`.
pub(super) fn turn_of(rows: &[pg::Row]) -> Result<Turn, Failure> {
    let row = rows
        .first()
        .ok_or_else(|| Failure::new("Postgres: no answer".to_owned()))?;
    let had: Option<bool> = row
        .try_get(0)
        .map_err(|error| Failure::new(format!("Postgres: {error}")))?;
    Ok(had.map_or(Turn::HeldElsewhere, |had| {
        if had { Turn::Renewed } else { Turn::Acquired }
    }))
}

pub(super) fn lag_of(rows: &[pg::Row]) -> Result<Lag, Failure> {
    let row = rows
        .first()
        .ok_or_else(|| Failure::new("Postgres: no answer".to_owned()))?;
    let row = postgres_row(row)?;
    Ok(Lag {
        unsent: row.int(0)?,
        oldest: row.maybe_int(1)?.map(Timestamp::from_millis),
        given_up: row.int(2)?,
    })
}
