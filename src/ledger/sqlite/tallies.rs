//! Tallies: what the requests of a user add up to in a window, in every unit, for one name of the plan or for all.
//!
//! They are kept only for users who have limits for one name of their plan, or limits in units that windows do not sum up.
//! The file has what was used; what is held is the sum of the open rows. Nothing of them is in memory but which users have
//! any, so that nobody else's request asks for them. Of dollars they have those that credits did not pay, as windows do.

use rusqlite::{OptionalExtension, params};

use super::{Book, Failure};
use crate::clock::Timestamp;
use crate::plan::{Amounts, Balance, Window};

/// Reads what is written of a tally.
const USED: &str = "
    select requests_used, tokens_used, micros_used, images_used, audio_seconds_used, characters_used
    from tally_sums where user_id = ?1 and ends_at = ?2 and per = ?3 and starts_at = ?4 and model = ?5";

/// The requests of a tally, by its user, its window's ends and its name.
macro_rules! rows_of_tally {
    () => {
        "from requests where user_id = ?1 and started_at >= ?2 and started_at < ?3
           and (?4 = '' or ?4 = coalesce(plan_model, model))"
    };
}

/// What the open rows of a tally add up to.
const HELD: &str = concat!(
    "select count(*), coalesce(sum(held_input_tokens + held_output_tokens), 0),
            coalesce(sum(iif(paid_by = 'credits', 0, held_micros)), 0),
            coalesce(sum(held_images), 0), coalesce(sum(held_audio_seconds), 0), coalesce(sum(held_characters), 0) ",
    rows_of_tally!(),
    " and state = 'held'"
);

/// What the ended rows of a tally add up to.
const USED_BY_ROWS: &str = concat!(
    "select coalesce(sum(case when state = 'voided' then load * ?5 else 1 end), 0),
            coalesce(sum(input_tokens + output_tokens), 0), coalesce(sum(cost_micros - credit_micros), 0),
            coalesce(sum(images), 0), coalesce(sum(audio_seconds), 0), coalesce(sum(characters), 0) ",
    rows_of_tally!(),
    " and state <> 'held'"
);

/// Adds to every tally of a user that a request belongs to, whose id is the last parameter.
pub(super) const ADD_TO_TALLIES: &str = "
    update or fail tally_sums set requests_used = requests_used + iif(per in ('minute', 'hour'), ?4, ?3),
           tokens_used = tokens_used + ?5, micros_used = micros_used + ?6, images_used = images_used + ?7,
           audio_seconds_used = audio_seconds_used + ?8, characters_used = characters_used + ?9
    where user_id = ?1 and ends_at > ?2 and starts_at <= ?2
      and model in ('', (select coalesce(plan_model, model) from requests where id = ?10))";

impl Book {
    /// Where a tally stands; makes it if it is missing.
    pub(super) fn tally_at(
        &self,
        user: &str,
        name: &str,
        window: &Window,
    ) -> Result<Balance, Failure> {
        if let Some(balance) = self.tally(user, name, window)? {
            return Ok(balance);
        }
        let balance = self.sum_of_tally(user, name, window)?;
        let spent = balance.used;
        let mut insert = self.db.prepare_cached(
            "insert or ignore into tally_sums
                 (user_id, ends_at, per, starts_at, model, requests_used, tokens_used, micros_used, images_used,
                  audio_seconds_used, characters_used)
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?;
        insert.execute(params![
            user,
            window.end.millis(),
            window.per.as_str(),
            window.start.millis(),
            name,
            spent.requests,
            spent.tokens,
            spent.cost,
            spent.images,
            spent.audio_seconds,
            spent.characters,
        ])?;
        self.known.borrow_mut().has_tallies(user);
        Ok(balance)
    }

    /// What the file says of a tally; writes nothing.
    pub(super) fn look_at_tally(
        &self,
        user: &str,
        name: &str,
        window: &Window,
    ) -> Result<Balance, Failure> {
        match self.tally(user, name, window)? {
            Some(balance) => Ok(balance),
            None => self.sum_of_tally(user, name, window),
        }
    }

    fn tally(&self, user: &str, name: &str, window: &Window) -> Result<Option<Balance>, Failure> {
        let mut read = self.db.prepare_cached(USED)?;
        let (start, end) = (window.start.millis(), window.end.millis());
        let key = params![user, end, window.per.as_str(), start, name];
        let Some(spent) = read.query_row(key, amounts_of).optional()? else {
            return Ok(None);
        };
        let held = self.held_in_tally(user, name, window)?;
        Ok(Some(Balance { used: spent, held }))
    }

    fn held_in_tally(&self, user: &str, name: &str, window: &Window) -> Result<Amounts, Failure> {
        let mut sum = self.db.prepare_cached(HELD)?;
        let (start, end) = (window.start.millis(), window.end.millis());
        Ok(sum.query_row(params![user, start, end, name], amounts_of)?)
    }

    /// Law 4: what the rows of a tally add up to.
    pub(in crate::ledger) fn sum_of_tally(
        &self,
        user: &str,
        name: &str,
        window: &Window,
    ) -> Result<Balance, Failure> {
        let mut sum = self.db.prepare_cached(USED_BY_ROWS)?;
        let (start, end) = (window.start.millis(), window.end.millis());
        let rows = params![user, start, end, name, window.per.is_rate()];
        Ok(Balance {
            used: sum.query_row(rows, amounts_of)?,
            held: self.held_in_tally(user, name, window)?,
        })
    }

    /// Whether a user has tallies.
    pub(super) fn find_tallies(&self, user: &str) -> Result<bool, Failure> {
        let mut find = self
            .db
            .prepare_cached("select exists (select 1 from tally_sums where user_id = ?1)")?;
        Ok(find.query_row([user], |row| row.get(0))?)
    }

    /// Makes every tally that a month could be asked for, before rows of it are forgotten.
    pub(super) fn keep_tallies(&self, user: &str, month: &Window) -> Result<(), Failure> {
        let mut names = self.db.prepare_cached(
            "select distinct coalesce(plan_model, model) from requests
             where user_id = ?1 and started_at >= ?2 and started_at < ?3 union select ''",
        )?;
        let bounds = params![user, month.start.millis(), month.end.millis()];
        let names = names.query_map(bounds, |row| row.get::<_, String>(0))?;
        for name in names.collect::<Result<Vec<_>, _>>()? {
            self.tally_at(user, &name, month)?;
        }
        Ok(())
    }

    /// Forgets tallies that nobody can ask for any more, some at a time. Gives back how many.
    pub(super) fn prune_tallies(
        &self,
        (short, long): (Timestamp, Timestamp),
    ) -> Result<usize, Failure> {
        let mut forget = self.db.prepare_cached(
            "delete from tally_sums where (user_id, ends_at, per, starts_at, model) in
               (select user_id, ends_at, per, starts_at, model from tally_sums
                where ends_at < iif(per in ('minute', 'hour'), ?1, ?2) and ends_at < ?1 and per <> 'lifetime'
                limit 500)",
        )?;
        Ok(forget.execute([short.millis(), long.millis()])?)
    }
}

/// The six columns of a tally's used or held amounts.
fn amounts_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Amounts> {
    Ok(Amounts {
        requests: row.get(0)?,
        tokens: row.get(1)?,
        cost: row.get(2)?,
        images: row.get(3)?,
        audio_seconds: row.get(4)?,
        characters: row.get(5)?,
    })
}
