//! What a user's credits hold and pay, in a file's ledger. Law 9.
//!
//! Nothing of them is in memory: only a request that did not fit the plan's limits in dollars asks for them.

use rusqlite::params;

use super::{Book, Failure};
use crate::clock::Timestamp;
use crate::plan::CreditBalance;

/// A user's grants: what is left of each, what is held of it, when it ends. The one that ends first is in front. A refund
/// takes what is left, and what open requests give back, and never more. What is left is as if one request held nothing.
const GRANTS: &str = "
    select g.id, max(g.granted_micros - g.spent_micros - g.held_micros + coalesce(n.held_micros, 0) - g.refunded_micros, 0),
           g.held_micros, g.ends_at
    from grants g left join grant_uses n on n.grant_id = g.id and n.request_id = ?2
    where g.user_id = ?1 order by coalesce(g.ends_at, 9223372036854775807), g.granted_at, g.id";

struct Grant {
    id: String,
    left: i64,
    held: i64,
    ends_at: Option<i64>,
}

impl Grant {
    fn lives_at(&self, now: Timestamp) -> bool {
        self.ends_at.is_none_or(|end| now.millis() < end)
    }
}

impl Book {
    /// What may still be spent of a user's credits, as if a request held nothing of them; none where there are none.
    pub(super) fn credits_left(
        &self,
        user: &str,
        now: Timestamp,
        id: &str,
    ) -> Result<Option<i64>, Failure> {
        let live = self.grants(user, id)?.into_iter();
        let left = live
            .filter(|grant| grant.lives_at(now))
            .map(|grant| grant.left);
        Ok(left.reduce(i64::saturating_add))
    }

    /// A user's credits; none where there are none, and none are held.
    pub(super) fn credits_of(
        &self,
        user: &str,
        now: Timestamp,
    ) -> Result<Option<CreditBalance>, Failure> {
        let mut balance = None;
        for grant in self.grants(user, "")? {
            let lives = grant.lives_at(now);
            if !lives && grant.held == 0 {
                continue;
            }
            let sum = balance.get_or_insert(CreditBalance {
                remaining: 0,
                held: 0,
                next_expiry: None,
            });
            sum.held = sum.held.saturating_add(grant.held);
            if lives && grant.left > 0 {
                sum.remaining = sum.remaining.saturating_add(grant.left);
                let first = || grant.ends_at.map(Timestamp::from_millis);
                sum.next_expiry = sum.next_expiry.or_else(first);
            }
        }
        Ok(balance)
    }

    /// Credits hold what a request holds that they pay for.
    pub(super) fn hold_credits(
        &self,
        id: &str,
        (user, now): (&str, Timestamp),
        amount: i64,
    ) -> Result<(), Failure> {
        let mut hold = self
            .db
            .prepare_cached("update grants set held_micros = held_micros + ?2 where id = ?1")?;
        let mut note = self.db.prepare_cached(
            "insert into grant_uses (request_id, grant_id, held_micros, spent_micros) values (?1, ?2, ?3, 0)",
        )?;
        let rest = self.share_out((user, now), amount, |grant, part| {
            hold.execute(params![grant, part])?;
            note.execute(params![id, grant, part])?;
            Ok(())
        })?;
        if rest > 0 {
            return Err(Failure::new(
                "the credits are less than they were known to be".to_owned(),
            ));
        }
        Ok(())
    }

    /// Credits pay what a request cost that they pay for, and give back what they held of it: what is held was had before
    /// any end, and what an upstream reported beyond it comes from what is left now. Gives back what they paid.
    pub(super) fn settle_credits(
        &self,
        id: &str,
        (user, now): (&str, Timestamp),
        cost: i64,
    ) -> Result<i64, Failure> {
        let mut rest = cost;
        let mut pay = self.db.prepare_cached(
            "update grants set held_micros = held_micros - ?2, spent_micros = spent_micros + ?3 where id = ?1",
        )?;
        let mut note = self.db.prepare_cached(
            "insert into grant_uses (request_id, grant_id, held_micros, spent_micros) values (?1, ?2, 0, ?3)
             on conflict (request_id, grant_id) do update set held_micros = 0, spent_micros = spent_micros + ?3",
        )?;
        for (grant, held) in self.held_by(id)? {
            let part = rest.min(held);
            pay.execute(params![grant, held, part])?;
            note.execute(params![id, grant, part])?;
            rest = rest.saturating_sub(part);
        }
        let rest = self.share_out((user, now), rest, |grant, part| {
            pay.execute(params![grant, 0, part])?;
            note.execute(params![id, grant, part])?;
            Ok(())
        })?;
        let paid = cost.saturating_sub(rest);
        if paid > 0 {
            self.db
                .prepare_cached("update requests set credit_micros = ?2 where id = ?1")?
                .execute(params![id, paid])?;
        }
        Ok(paid)
    }

    /// Credits give back what they hold of a request, which goes on.
    pub(super) fn release_credits(&self, id: &str) -> Result<(), Failure> {
        let mut release = self
            .db
            .prepare_cached("update grants set held_micros = held_micros - ?2 where id = ?1")?;
        for (grant, held) in self.held_by(id)? {
            release.execute(params![grant, held])?;
        }
        self.db
            .prepare_cached("delete from grant_uses where request_id = ?1")?
            .execute([id])?;
        Ok(())
    }

    /// Takes an amount from what is left, the grant that ends first in front. Gives back what is lacking.
    fn share_out(
        &self,
        (user, now): (&str, Timestamp),
        amount: i64,
        mut take: impl FnMut(&str, i64) -> Result<(), Failure>,
    ) -> Result<i64, Failure> {
        let mut rest = amount;
        if rest == 0 {
            return Ok(0);
        }
        for grant in self.grants(user, "")? {
            let part = rest.min(grant.left);
            if part > 0 && grant.lives_at(now) {
                take(&grant.id, part)?;
                rest = rest.saturating_sub(part);
            }
        }
        Ok(rest)
    }

    fn grants(&self, user: &str, id: &str) -> Result<Vec<Grant>, Failure> {
        let mut read = self.db.prepare_cached(GRANTS)?;
        let grants = read.query_map([user, id], |row| {
            Ok(Grant {
                id: row.get(0)?,
                left: row.get(1)?,
                held: row.get(2)?,
                ends_at: row.get(3)?,
            })
        })?;
        Ok(grants.collect::<Result<_, _>>()?)
    }

    /// What each grant holds for a request, the one that ends first in front.
    fn held_by(&self, id: &str) -> Result<Vec<(String, i64)>, Failure> {
        let mut read = self.db.prepare_cached(
            "select n.grant_id, n.held_micros from grant_uses n join grants g on g.id = n.grant_id
             where n.request_id = ?1 order by coalesce(g.ends_at, 9223372036854775807), g.granted_at, g.id",
        )?;
        let held = read.query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(held.collect::<Result<_, _>>()?)
    }
}
