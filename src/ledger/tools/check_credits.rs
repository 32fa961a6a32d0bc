//! Law 9: no more is spent and held of a grant than was granted, and every credit that is spent stands in a row.

use super::check::{CheckReport, Snapshot};
use crate::clock::Timestamp;
use crate::ledger::sqlite::Failure;

/// How many grants, or requests, are looked at by one question.
const PAGE_ROWS: i64 = 2000;

/// What the grants of a page say, and what their uses say. Of a request that is forgotten its uses are too.
const GRANTS: &str = "
    select g.id, g.granted_micros, g.spent_micros, g.held_micros, g.granted_at,
           cast(coalesce(sum(n.spent_micros), 0) as bigint), cast(coalesce(sum(n.held_micros), 0) as bigint)
    from (select * from ledger.grants where id > $1 order by id limit $2) as g
    left join ledger.grant_uses as n on n.grant_id = g.id
    group by g.id, g.granted_micros, g.spent_micros, g.held_micros, g.granted_at order by g.id";

/// Requests of a page that credits pay for, and what the uses say of them.
const REQUESTS: &str = "
    select r.id, r.credit_micros, case when r.state = 'held' then r.held_micros else 0 end,
           cast(coalesce(sum(n.spent_micros), 0) as bigint), cast(coalesce(sum(n.held_micros), 0) as bigint)
    from (select * from ledger.requests where id in (
              select request_id from (select distinct request_id from ledger.grant_uses where request_id > $1
                                      order by request_id limit $2) as page)) as r
    join ledger.grant_uses as n on n.request_id = r.id
    group by r.id, r.credit_micros, r.state, r.held_micros order by r.id";

/// Requests that credits pay for, and none of them says which.
const PAID_BY_NONE: &str = "
    select r.id from ledger.requests as r
    where r.paid_by = 'credits' and (r.credit_micros > 0 or (r.state = 'held' and r.held_micros > 0))
      and not exists (select 1 from ledger.grant_uses as n where n.request_id = r.id) order by r.id limit $1";

impl Snapshot {
    /// Compares every grant with its uses, and every request that credits pay for.
    pub(super) fn credits(
        &self,
        found: &mut CheckReport,
        whole_since: Timestamp,
    ) -> Result<(), Failure> {
        self.grants(found, whole_since)?;
        self.paid_requests(found)?;
        for row in self.db.query(PAID_BY_NONE, &[PAGE_ROWS.into()])? {
            let what = format!("request {}", row.text(0)?);
            found.note(&what, "9 credits pay for it, and it stands in no grant");
        }
        Ok(())
    }

    fn grants(&self, found: &mut CheckReport, whole_since: Timestamp) -> Result<(), Failure> {
        let mut after = String::new();
        loop {
            let rows = self
                .db
                .query(GRANTS, &[after.clone().into(), PAGE_ROWS.into()])?;
            let Some(last) = rows.last() else {
                return Ok(());
            };
            after = last.text(0)?;
            for row in &rows {
                found.grants = found.grants.saturating_add(1);
                let what = format!("grant {}", row.text(0)?);
                let [granted, spent, held] = [row.int(1)?, row.int(2)?, row.int(3)?];
                let (spent_by_uses, held_by_uses) = (row.int(5)?, row.int(6)?);
                if spent.saturating_add(held) > granted {
                    let because = format!(
                        "9 {spent} of it are spent and {held} held, and {granted} were granted"
                    );
                    found.note(&what, &because);
                }
                // Uses go with their requests: of an older grant only this is known, that it says no less.
                let in_part = row.int(4)? < whole_since.millis();
                let is_spent = spent == spent_by_uses || (in_part && spent > spent_by_uses);
                if !is_spent || held != held_by_uses {
                    let because = format!(
                        "9 it says {spent} spent and {held} held, and its requests add up to {spent_by_uses} and {held_by_uses}"
                    );
                    found.note(&what, &because);
                }
            }
        }
    }

    fn paid_requests(&self, found: &mut CheckReport) -> Result<(), Failure> {
        let mut after = String::new();
        loop {
            let page =
                "select max(request_id) from (select distinct request_id from ledger.grant_uses
                        where request_id > $1 order by request_id limit $2) as page";
            let bounds = [after.into(), PAGE_ROWS.into()];
            let last = self.db.query_one(page, &bounds)?;
            let last = last.map(|row| row.maybe_text(0)).transpose()?.flatten();
            for row in self.db.query(REQUESTS, &bounds)? {
                let says = (row.int(1)?, row.int(2)?);
                let adds_up_to = (row.int(3)?, row.int(4)?);
                if says != adds_up_to {
                    let because = format!(
                        "9 it says that credits paid {} and hold {}, and grants say {} and {}",
                        says.0, says.1, adds_up_to.0, adds_up_to.1
                    );
                    found.note(&format!("request {}", row.text(0)?), &because);
                }
            }
            let Some(last) = last else { return Ok(()) };
            after = last;
        }
    }
}
