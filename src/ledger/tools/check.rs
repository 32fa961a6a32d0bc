//! The laws of the ledger, on the data at hand: what every row says of itself, and what every window says of its rows.
//!
//! All is read in one snapshot, so that a server may go on meanwhile. Law 1 is not among them: what a limit was when a
//! request was held is nowhere written, and one that was lowered since stands below what was rightly used.

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;

use crate::clock::Timestamp;
use crate::config::StoreUrl;
use crate::ledger::price_ids::id_of;
use crate::ledger::read::connection::{Db, Row};
use crate::ledger::read::report::quantities_of;
use crate::ledger::settlement::COST_MAX;
use crate::ledger::sqlite::{Book, Failure};
use crate::price::{Price, Quantities};

/// How many rows are looked at by one question.
const PAGE_ROWS: i64 = 5000;
/// How many broken rows are named.
pub const NAMED_MAX: usize = 200;
/// Where it is noted how far back an operator had rows forgotten.
pub(crate) const PRUNED: &str = "pruned_before";

/// Something that is not as the laws say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// Which law.
    pub law: i64,
    /// The request's id, or the user and the window.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
}

/// What was looked at, and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Requests that were looked at.
    pub requests: i64,
    /// Windows and tallies that were looked at.
    pub windows: i64,
    /// Windows some of whose requests are forgotten: they can only be seen not to say too little.
    pub windows_in_part: i64,
    /// Settled requests whose quantities were priced again, at the rates that they name.
    pub priced_again: i64,
    /// Grants of credits that were looked at.
    pub grants: i64,
    /// How much is broken.
    pub broken: i64,
    /// The first of it.
    pub named: Vec<Broken>,
}

/// A ledger as it is at one moment.
pub struct Snapshot {
    pub(super) db: Db,
}

/// What a request must not be, in the order of the laws. `because` is `law sentence`.
const WRONG_REQUEST: &str = "case
    when state = 'held' and (ended_at is not null or cost_micros <> 0 or input_tokens + output_tokens <> 0)
        then '3 it is open, and yet ended or charged'
    when state <> 'held' and ended_at is null then '3 it ended, and nobody knows when'
    when ended_at < started_at then '3 it ended before it was held'
    when state = 'voided' and (cost_micros <> 0 or input_tokens + output_tokens <> 0)
        then '3 it is voided, and yet charged'
    when state = 'lost' and (cost_micros <> held_micros
                             or input_tokens + output_tokens <> held_input_tokens + held_output_tokens
                             or images <> held_images or audio_seconds <> held_audio_seconds
                             or characters <> held_characters)
        then '3 it is lost, and not charged what it held'
    when state = 'settled' and ',' || flags || ',' not like '%,overrun,%'
         and (cost_micros > held_micros or input_tokens + output_tokens > held_input_tokens + held_output_tokens
              or images > held_images or audio_seconds > held_audio_seconds or characters > held_characters)
        then '6 it is charged more than it held, and not flagged `overrun`'
    when credit_micros < 0 or credit_micros > cost_micros or (credit_micros > 0 and paid_by <> 'credits')
        then '9 credits pay what is not theirs to pay'
    when cost_micros < 0 or held_micros < 0 or input_tokens < 0 or output_tokens < 0 then '8 an amount is negative'
end";

/// What the rows `r` of a window `w` add up to. Of a user's dollars, those that credits did not pay.
pub(super) const SUMS: &str = "
    cast(coalesce(sum(case when r.state in ('settled', 'lost') then 1
                           when r.state = 'voided' and w.per in ('minute', 'hour') then r.load else 0 end), 0) as bigint),
    cast(coalesce(sum(r.input_tokens + r.output_tokens), 0) as bigint),
    cast(coalesce(sum(r.cost_micros - case when w.user_id = 'app' then 0 else r.credit_micros end), 0) as bigint),
    cast(coalesce(sum(case when r.state = 'held' then 1 else 0 end), 0) as bigint),
    cast(coalesce(sum(case when r.state = 'held' then r.held_input_tokens + r.held_output_tokens else 0 end), 0)
         as bigint),
    cast(coalesce(sum(case when r.state = 'held' and (w.user_id = 'app' or r.paid_by <> 'credits')
                           then r.held_micros else 0 end), 0) as bigint)";

pub(super) const WINDOW: &str =
    "w.user_id, w.ends_at, w.per, w.starts_at, w.requests_used, w.tokens_used, w.micros_used,
    w.requests_held, w.tokens_held, w.micros_held";

impl Snapshot {
    /// A ledger as it is now. For Postgres as [`crate::ledger::read::report::Reports::open`].
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(store: &StoreUrl) -> Result<Self, Failure> {
        match store {
            StoreUrl::Sqlite(path) => {
                crate::ledger::file::require(path)?;
                let book = Book::reader(path)?;
                book.db.execute_batch("begin")?;
                Ok(Self {
                    db: Db::Sqlite(Box::new(book)),
                })
            }
            StoreUrl::Postgres(url) => Ok(Self {
                db: crate::ledger::postgres::snapshot(url)?,
            }),
        }
    }

    /// Looks at everything. `keep` is how long requests are kept; `progress` is told how many rows were looked at.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn check(
        &self,
        keep: Duration,
        now: Timestamp,
        mut progress: impl FnMut(i64),
    ) -> Result<CheckReport, Failure> {
        let mut found = CheckReport::default();
        let prices = self.prices(&mut found)?;
        self.requests(&mut found, &prices, &mut progress)?;
        let whole_since = self.whole_since(now.minus(keep))?;
        self.windows_of_users(&mut found, whole_since, &mut progress)?;
        self.tallies(&mut found, whole_since, &mut progress)?;
        self.windows_of_the_app(&mut found, whole_since)?;
        self.credits(&mut found, whole_since)?;
        Ok(found)
    }

    /// Every price by its id; none where a newer version wrote it. The id is the rates' own digest: other rates are told.
    fn prices(&self, found: &mut CheckReport) -> Result<Prices, Failure> {
        let rows = self
            .db
            .query("select id, rates from ledger.prices order by id", &[])?;
        let mut prices = Prices::new();
        for row in rows {
            let (id, rates) = (row.text(0)?, row.text(1)?);
            if *id_of(&rates) != *id {
                found.note(&format!("rates {id}"), "8 they are not what they were");
            }
            prices.insert(id, Price::from_stored(&rates));
        }
        Ok(prices)
    }

    fn requests(
        &self,
        found: &mut CheckReport,
        prices: &Prices,
        progress: &mut impl FnMut(i64),
    ) -> Result<(), Failure> {
        let mut after = String::new();
        loop {
            let page = "select max(id), cast(count(*) as bigint)
                        from (select id from ledger.requests where id > $1 order by id limit $2) as page";
            let row = self
                .db
                .query_one(page, &[after.clone().into(), PAGE_ROWS.into()])?;
            let Some((row, last)) =
                row.and_then(|row| row.maybe_text(0).ok().flatten().map(|last| (row, last)))
            else {
                return Ok(());
            };
            let sql = format!(
                "select id, because from (select id, {WRONG_REQUEST} as because from ledger.requests
                                          where id > $1 and id <= $2) as judged
                 where because is not null order by id"
            );
            let bounds = [after.into(), last.clone().into()];
            for broken in self.db.query(&sql, &bounds)? {
                found.note(&format!("request {}", broken.text(0)?), &broken.text(1)?);
            }
            for row in self.db.query(&priced(), &bounds)? {
                found.price_again(&row, prices)?;
            }
            found.requests = found.requests.saturating_add(row.int(1)?);
            progress(found.requests);
            after = last;
        }
    }

    /// Since when every request is still there.
    fn whole_since(&self, kept_since: Timestamp) -> Result<Timestamp, Failure> {
        let first = self
            .db
            .query_one("select min(started_at) from ledger.requests", &[])?;
        let first = first
            .map(|row| row.maybe_int(0))
            .transpose()?
            .flatten()
            .map(Timestamp::from_millis);
        let sql = "select updated_at from ledger.switches where name = $1";
        let pruned = self
            .db
            .query_one(sql, &[PRUNED.into()])?
            .map(|row| row.int(0))
            .transpose()?;
        let pruned = pruned.map_or(Timestamp::EPOCH, Timestamp::from_millis);
        // Where the first request is younger than what is kept, and none was forgotten by hand, all are there.
        let gone_before = kept_since.max(pruned);
        Ok(match first {
            Some(first) if first >= gone_before && pruned == Timestamp::EPOCH => Timestamp::EPOCH,
            _ => gone_before,
        })
    }

    fn windows_of_users(
        &self,
        found: &mut CheckReport,
        whole_since: Timestamp,
        progress: &mut impl FnMut(i64),
    ) -> Result<(), Failure> {
        let mut after = String::new();
        loop {
            // Users, some at a time: their windows are few.
            let page = "select max(user_id) from (select distinct user_id from ledger.windows
                        where user_id > $1 and user_id <> 'app' order by user_id limit 500) as page";
            let last = self
                .db
                .query_one(page, &[after.clone().into()])?
                .map(|row| row.maybe_text(0))
                .transpose()?;
            let Some(last) = last.flatten() else {
                return Ok(());
            };
            let sql = format!(
                "select {WINDOW}, {SUMS} from ledger.windows as w left join ledger.requests as r
                     on r.user_id = w.user_id and r.started_at >= w.starts_at and r.started_at < w.ends_at
                 where w.user_id > $1 and w.user_id <= $2 and w.user_id <> 'app' group by {WINDOW}"
            );
            for row in self.db.query(&sql, &[after.into(), last.clone().into()])? {
                found.compare(&row, whole_since)?;
            }
            progress(found.requests.saturating_add(found.windows));
            after = last;
        }
    }
}

/// Prices by their ids.
type Prices = HashMap<String, Option<Price>>;

/// Reads what settled requests were charged, and by which rates.
fn priced() -> String {
    format!(
        "select id, price_id, flags, cost_micros, held_micros, held_input_tokens + held_output_tokens, {}
         from ledger.requests where id > $1 and id <= $2 and state = 'settled' and price_id is not null order by id",
        Quantities::NAMES.join(", ")
    )
}

/// Where quantities begin in a row of [`priced`].
const QUANTITIES: usize = 6;

/// In the order of the columns of windows, and of tallies after them.
pub(super) const AMOUNTS: [&str; 12] = [
    "requests used",
    "tokens used",
    "micro-dollars used",
    "requests held",
    "tokens held",
    "micro-dollars held",
    "images used",
    "seconds of audio used",
    "characters used",
    "images held",
    "seconds of audio held",
    "characters held",
];
/// How many of them windows have.
pub(super) const AMOUNTS_OF_WINDOWS: usize = 6;
/// Where the first of them stands in a row.
pub(super) const FIRST_AMOUNT: usize = 4;

impl CheckReport {
    /// `because` is the law's number and a sentence.
    pub(super) fn note(&mut self, what: &str, because: &str) {
        self.broken = self.broken.saturating_add(1);
        if self.named.len() >= NAMED_MAX {
            return;
        }
        let (law, why) = because.split_once(' ').unwrap_or(("0", because));
        let law = law.parse().unwrap_or(0);
        self.named.push(Broken {
            law,
            what: what.to_owned(),
            why: why.to_owned(),
        });
    }

    /// Law 8: a settled request costs what its quantities cost at the rates that it names. An estimate costs no more than
    /// was held, and where nothing was counted it is the hold itself.
    fn price_again(&mut self, row: &Row, prices: &Prices) -> Result<(), Failure> {
        let (id, price_id) = (row.text(0)?, row.text(1)?);
        let Some(price) = prices.get(&price_id) else {
            let because = format!("8 it names the rates {price_id}, which the ledger has not");
            self.note(&format!("request {id}"), &because);
            return Ok(());
        };
        let Some(price) = price else { return Ok(()) };
        self.priced_again = self.priced_again.saturating_add(1);
        let used = quantities_of(row, QUANTITIES)?;
        let (charged, held) = (row.int(3)?, row.int(4)?);
        let cost = price.cost(&used).min(COST_MAX).0;
        let is_estimate = row.text(2)?.split(',').any(|flag| flag == "estimated");
        let is_held = i64::try_from(used.tokens()).unwrap_or(i64::MAX) == row.int(5)?;
        if charged == cost || (is_estimate && charged == held && (cost > held || is_held)) {
            return Ok(());
        }
        let because = format!(
            "8 what it used costs {cost} micro-dollars at the rates {price_id}, and it is charged {charged}"
        );
        self.note(&format!("request {id}"), &because);
        Ok(())
    }

    /// Laws 4 and 5: a window says what its rows add up to. Of a window whose first requests are forgotten only this is
    /// known: it says no less.
    pub(super) fn compare(&mut self, row: &Row, whole_since: Timestamp) -> Result<(), Failure> {
        let start = Timestamp::from_millis(row.int(3)?).rfc3339();
        let what = format!("window {} of {} from {start}", row.text(2)?, row.text(0)?);
        let sums = FIRST_AMOUNT.saturating_add(AMOUNTS_OF_WINDOWS);
        let amounts = AMOUNTS.get(..AMOUNTS_OF_WINDOWS).unwrap_or_default();
        self.compare_amounts(row, (&what, amounts, sums), whole_since)
    }

    /// Amounts stand from [`FIRST_AMOUNT`] on, what rows add up to from `sums` on.
    pub(super) fn compare_amounts(
        &mut self,
        row: &Row,
        (what, amounts, sums): (&str, &[&str], usize),
        whole_since: Timestamp,
    ) -> Result<(), Failure> {
        self.windows = self.windows.saturating_add(1);
        let in_part = row.int(3)? < whole_since.millis();
        self.windows_in_part = self.windows_in_part.saturating_add(i64::from(in_part));
        for (place, name) in amounts.iter().enumerate() {
            let (says, sum) = (
                row.int(place.saturating_add(FIRST_AMOUNT))?,
                row.int(place.saturating_add(sums))?,
            );
            let is_held = name.ends_with("held");
            // What is held is never forgotten.
            if says == sum || (in_part && !is_held && says > sum) {
                continue;
            }
            let law = if is_held { 5 } else { 4 };
            self.note(
                what,
                &format!("{law} it says {says} {name}, and its requests add up to {sum}"),
            );
        }
        Ok(())
    }
}
