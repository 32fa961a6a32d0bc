//! Laws 4 and 5 of the windows of the whole app.

use super::check::{AMOUNTS_OF_WINDOWS, CheckReport, FIRST_AMOUNT, SUMS, Snapshot, WINDOW};
use crate::clock::Timestamp;
use crate::ledger::read::connection::{Cell, Row};
use crate::ledger::read::report::id_before;
use crate::ledger::sqlite::Failure;

impl Snapshot {
    /// These are few, and their requests are found by their ids.
    pub(super) fn windows_of_the_app(
        &self,
        found: &mut CheckReport,
        whole_since: Timestamp,
    ) -> Result<(), Failure> {
        let sql = "select starts_at, ends_at, per from ledger.windows where user_id = 'app'";
        for window in self.db.query(sql, &[])? {
            let (starts, ends) = (window.int(0)?, window.int(1)?);
            let sql = format!(
                "select {WINDOW}, {SUMS} from ledger.windows as w left join ledger.requests as r
                     on r.id >= $1 and r.started_at >= $2 and r.started_at < $3
                 where w.user_id = 'app' and w.starts_at = $2 and w.ends_at = $3 and w.per = $4 group by {WINDOW}"
            );
            let per = window.text(2)?;
            let sums = |first: String| {
                let params: [Cell; 4] =
                    [first.into(), starts.into(), ends.into(), per.clone().into()];
                self.db.query(&sql, &params)
            };
            for row in sums(id_before(Timestamp::from_millis(starts)))? {
                let in_part = row.int(3)? < whole_since.millis();
                if in_part || agrees(&row)? {
                    found.compare(&row, whole_since)?;
                    continue;
                }
                // A clock that was set forth in between makes an id of long before its request was held.
                for row in sums(String::new())? {
                    found.compare(&row, whole_since)?;
                }
            }
        }
        Ok(())
    }
}

/// Whether a window says what its rows add up to.
fn agrees(row: &Row) -> Result<bool, Failure> {
    for place in FIRST_AMOUNT..FIRST_AMOUNT.saturating_add(AMOUNTS_OF_WINDOWS) {
        if row.int(place)? != row.int(place.saturating_add(AMOUNTS_OF_WINDOWS))? {
            return Ok(false);
        }
    }
    Ok(true)
}
