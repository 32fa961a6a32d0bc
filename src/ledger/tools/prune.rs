//! Old requests forgotten at the operator's word, beside a server that goes on.

use jiff::tz::TimeZone;

use crate::clock::Timestamp;
use crate::ledger::read::connection::Db;
use crate::ledger::read::report::Desk;
use crate::ledger::sqlite::{Failure, id_at};
use crate::ledger::tools::check::PRUNED;

/// How many requests from before a moment the outbox has not sent yet.
///
/// # Errors
/// The ledger cannot be read.
pub fn unsent(desk: &Desk, before: Timestamp) -> Result<i64, Failure> {
    let sql = "select cast(count(*) as bigint) from ledger.requests where unsent = 1 and id < $1";
    desk.db()
        .query_one(sql, &[id_at(before).into()])?
        .map_or(Ok(0), |row| row.int(0))
}

/// Forgets ended requests from before a moment, some at a time, and windows that nobody can ask for any more; what other
/// windows say does not change. Gives back how many rows went; there may be more while it is not zero.
///
/// # Errors
/// The ledger cannot be written.
pub fn prune(
    desk: &Desk,
    before: Timestamp,
    now: Timestamp,
    zone: &TimeZone,
) -> Result<usize, Failure> {
    let gone = match desk.db() {
        Db::Sqlite(_) => desk.db().in_transaction(|db| match db {
            Db::Sqlite(book) => book.prune(before, now, zone),
            Db::Postgres(..) | Db::Transaction(..) => Ok(0),
        }),
        Db::Postgres(database, runtime) => {
            runtime.block_on(crate::ledger::postgres::prune(database, zone, before, now))
        }
        Db::Transaction(..) => Ok(0),
    }?;
    if gone > 0 {
        // From here on windows that reach further back cannot be compared with their requests.
        let sql = "insert into ledger.switches (name, value, updated_at) values ($1, $2, $3)
                   on conflict (name) do update set value = excluded.value, updated_at = excluded.updated_at
                       where ledger.switches.updated_at < excluded.updated_at";
        desk.db().query(
            sql,
            &[
                PRUNED.into(),
                before.rfc3339().into(),
                before.millis().into(),
            ],
        )?;
    }
    Ok(gone)
}
