//! Laws 4 and 5 of tallies: each says what its requests add up to.

use super::check::{AMOUNTS, CheckReport, SUMS, Snapshot};
use crate::clock::Timestamp;
use crate::ledger::read::connection::Row;
use crate::ledger::sqlite::Failure;

/// What the rows `r` of a tally `w` add up to, beside [`SUMS`].
const SUMS_OF_TALLIES: &str = "
    cast(coalesce(sum(r.images), 0) as bigint),
    cast(coalesce(sum(r.audio_seconds), 0) as bigint),
    cast(coalesce(sum(r.characters), 0) as bigint),
    cast(coalesce(sum(case when r.state = 'held' then r.held_images else 0 end), 0) as bigint),
    cast(coalesce(sum(case when r.state = 'held' then r.held_audio_seconds else 0 end), 0) as bigint),
    cast(coalesce(sum(case when r.state = 'held' then r.held_characters else 0 end), 0) as bigint)";

const TALLY: &str =
    "w.user_id, w.ends_at, w.per, w.starts_at, w.requests_used, w.tokens_used, w.micros_used,
    w.requests_held, w.tokens_held, w.micros_held, w.images_used, w.audio_seconds_used, w.characters_used,
    w.images_held, w.audio_seconds_held, w.characters_held, w.model";

/// Where the name stands in a row of tallies.
const NAME_OF_TALLY: usize = 16;

impl Snapshot {
    /// Compares every tally.
    pub(super) fn tallies(
        &self,
        found: &mut CheckReport,
        whole_since: Timestamp,
        progress: &mut impl FnMut(i64),
    ) -> Result<(), Failure> {
        let sums = format!("{SUMS}, {SUMS_OF_TALLIES}");
        let sql = format!(
            "select {TALLY}, {sums} from ledger.tallies as w left join ledger.requests as r
                 on r.user_id = w.user_id and r.started_at >= w.starts_at and r.started_at < w.ends_at
                    and (w.model = '' or w.model = coalesce(r.plan_model, r.model))
             where w.user_id > $1 and w.user_id <= $2 group by {TALLY}"
        );
        let mut after = String::new();
        loop {
            let page = "select max(user_id) from (select distinct user_id from ledger.tallies
                        where user_id > $1 order by user_id limit 500) as page";
            let last = self
                .db
                .query_one(page, &[after.clone().into()])?
                .map(|row| row.maybe_text(0))
                .transpose()?;
            let Some(last) = last.flatten() else {
                return Ok(());
            };
            for row in self.db.query(&sql, &[after.into(), last.clone().into()])? {
                found.compare_tally(&row, whole_since)?;
            }
            progress(found.requests.saturating_add(found.windows));
            after = last;
        }
    }
}

impl CheckReport {
    /// As [`CheckReport::compare`] of a window.
    fn compare_tally(&mut self, row: &Row, whole_since: Timestamp) -> Result<(), Failure> {
        let start = Timestamp::from_millis(row.int(3)?).rfc3339();
        let (per, user, name) = (row.text(2)?, row.text(0)?, row.text(NAME_OF_TALLY)?);
        let what = format!("tally {per} of {name:?} of {user} from {start}");
        let sums = NAME_OF_TALLY.saturating_add(1);
        self.compare_amounts(row, (&what, &AMOUNTS, sums), whole_since)
    }
}
