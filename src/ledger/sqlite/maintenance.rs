//! What a file's ledger does beside requests: it sweeps, waits for the outbox, and forgets.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use rusqlite::params;
use uuid::Uuid;

use super::{Book, Failure, KEEP_SHORT_WINDOWS, KEEP_WINDOWS, id_at};
use crate::clock::Timestamp;
use crate::ledger::read::connection::sqlite_query;
use crate::ledger::read::report::{RequestRow, request_columns, unsent_of};
use crate::ledger::{Ending, Flag, Lag, Mark, Settlement};
use crate::plan::{Per, window};

/// The lag of the outbox is counted up to here, so that telling it stays cheap.
const LAG_MAX: i64 = 100_000;

impl Book {
    /// Law 5: what other processes left open, their lease being over, is lost. `at_start` trusts no lease: there is one
    /// server on a SQLite file. Ends at most `limit` and gives back how many.
    pub(in crate::ledger) fn sweep(
        &self,
        now: Timestamp,
        at_start: bool,
        limit: u32,
    ) -> Result<usize, Failure> {
        let mut read = self.db.prepare_cached(
            "select id from requests where state = 'held' and owner <> ?1
               and (?2 or not exists (select 1 from owners where owners.id = owner and lease_until > ?3)) limit ?4",
        )?;
        let ids = read.query_map(params![self.owner, at_start, now.millis(), limit], |row| {
            row.get::<_, String>(0)
        })?;
        let ids = ids.collect::<Result<Vec<_>, _>>()?;
        for id in &ids {
            let id = id
                .parse()
                .map_err(|_| Failure::new(format!("a request's id is not a UUID: {id:?}")))?;
            let (settlement, user_id) = (Settlement::lost().flag(Flag::Swept), Uuid::nil());
            self.end(
                &Ending {
                    id,
                    user_id,
                    settlement,
                },
                now,
            )?;
        }
        Ok(ids.len())
    }

    /// The oldest rows that wait for the outbox, but for those of some users.
    pub(in crate::ledger) fn unsent(
        &self,
        limit: u32,
        except: &[String],
    ) -> Result<Vec<RequestRow>, Failure> {
        // The inner query reads only the index, however many rows it skips.
        let sql = format!(
            "select {}, (select issuer from users as u where u.user_id = requests.user_id),
                    (select subject from users as u where u.user_id = requests.user_id)
             from requests where id in
               (select id from requests where unsent = 1 and user_id not in (select value from json_each($1))
                order by ended_at, id limit $2)
             order by ended_at, id",
            request_columns()
        );
        let except = serde_json::Value::from(except).to_string();
        let rows = sqlite_query(&self.db, &sql, &[except.into(), i64::from(limit).into()])?;
        rows.iter().map(unsent_of).collect()
    }

    /// Rows that waited for the outbox wait no longer.
    pub(in crate::ledger) fn mark(&self, ids: &[String], as_what: Mark) -> Result<(), Failure> {
        let state = match as_what {
            Mark::Sent => 0,
            Mark::DeadLetter => 2,
        };
        let mut update = self
            .db
            .prepare_cached("update requests set unsent = $1 where id = $2 and unsent = 1")?;
        for id in ids {
            update.execute(params![state, id])?;
        }
        Ok(())
    }

    /// How much waits for the outbox. Counts to [`LAG_MAX`] and no further.
    pub(in crate::ledger) fn unsent_lag(&self) -> Result<Lag, Failure> {
        let mut read = self.db.prepare_cached(
            "select count(*), min(ended_at),
                    (select count(*) from (select 1 from requests where unsent = 2 limit $1) behind)
             from (select ended_at from requests where unsent = 1 order by ended_at, id limit $1) waiting",
        )?;
        Ok(read.query_row([LAG_MAX], |row| {
            let oldest: Option<i64> = row.get(1)?;
            Ok(Lag {
                unsent: row.get(0)?,
                oldest: oldest.map(Timestamp::from_millis),
                given_up: row.get(2)?,
            })
        })?)
    }

    /// Forgets ended requests made before `requests_before`, some at a time, and windows and keys that nobody can ask for
    /// any more. What a window says does not change: a month whose rows go is kept as a sum. Gives back how many rows
    /// went.
    pub(in crate::ledger) fn prune(
        &self,
        requests_before: Timestamp,
        now: Timestamp,
        zone: &TimeZone,
    ) -> Result<usize, Failure> {
        self.fit_to_size()?;
        // What is made and deleted here must not be in memory.
        self.write_app()?;
        self.known.take();
        let mut old = self.db.prepare_cached(
            "select id, user_id, started_at, unsent = 1 from requests where id < ?1 and state <> 'held'
             order by id limit 500",
        )?;
        let mut unsent = 0_u32;
        let rows = old.query_map([id_at(requests_before)], |row| {
            unsent = unsent.saturating_add(row.get(3)?);
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, String>(1)?,
                Timestamp::from_millis(row.get(2)?),
            ))
        })?;
        let rows = rows.collect::<Result<Vec<_>, _>>()?;
        if unsent > 0 {
            tracing::error!(
                requests = unsent,
                "older than [store] keep_requests and forgotten, though they never reached log_request"
            );
        }
        let (short, long) = (now.minus(KEEP_SHORT_WINDOWS), now.minus(KEEP_WINDOWS));
        let month_of = |(_, user, at): &(String, String, Timestamp)| {
            (user.clone(), window(Per::Month, *at, zone, None))
        };
        for (user, month) in rows.iter().map(month_of).collect::<BTreeSet<_>>() {
            self.standing_at(&user, month.start, &month)?;
            // A limit for one name may come later, and ask about this month.
            if month.end >= long {
                self.keep_tallies(&user, &month)?;
            }
        }
        let mut forget = self
            .db
            .prepare_cached("delete from requests where id = ?1")?;
        let mut forget_uses = self
            .db
            .prepare_cached("delete from grant_uses where request_id = ?1")?;
        for (id, ..) in &rows {
            forget.execute([id])?;
            forget_uses.execute([id])?;
        }
        let mut windows = self.db.prepare_cached(
            "delete from window_sums where (user_id, ends_at, per, starts_at) in
               (select user_id, ends_at, per, starts_at from window_sums
                where ends_at < iif(per in ('minute', 'hour'), ?1, ?2) and ends_at < ?1 and per <> 'lifetime'
                limit 500)",
        )?;
        let windows = windows.execute([short.millis(), long.millis()])?;
        let tallies = self.prune_tallies((short, long))?;
        self.known.take();
        let keys = self.forget_keys(now)?;
        let sums = windows.saturating_add(tallies);
        Ok(rows.len().saturating_add(sums).saturating_add(keys))
    }
}
