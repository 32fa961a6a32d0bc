//! Holds and endings, with their statements at hand: a batch of many asks for each of them once.

use std::sync::{Arc, LazyLock};

use rusqlite::{CachedStatement, OptionalExtension, ToSql, params};
use uuid::Uuid;

use super::tallies::ADD_TO_TALLIES;
use super::{Book, Failure, OpenHold, to_i64};
use crate::clock::Timestamp;
use crate::ledger::sqlite::window_cache::{APP, Change};
use crate::ledger::{Charge, EndState, Ending, HoldRequest, NoHold, decide, price_ids};
use crate::plan::{Amounts, Hold, PaidBy, Per, Window};
use crate::price::{MicroUsd, Price, Quantities};

/// Ends a request; its parameters are eight, and the quantities in their order.
pub(super) static END_REQUEST: LazyLock<String> = LazyLock::new(|| end_with(&Quantities::NAMES));

/// The same with the tokens of text alone, which come first: for nearly all requests, whose other quantities stay zero.
pub(super) static END_TEXT_REQUEST: LazyLock<String> =
    LazyLock::new(|| end_with(Quantities::NAMES.split_at(TEXT_QUANTITIES).0));

/// How many of the quantities are tokens of text: they are the first.
const TEXT_QUANTITIES: usize = 4;

fn end_with(quantities: &[&str]) -> String {
    let quantities = (9..)
        .zip(quantities)
        .map(|(place, name)| format!(", {name} = ?{place}"))
        .collect::<Vec<_>>()
        .concat();
    format!(
        "update requests set state = ?2, flags = ?3, load = ?4, ended_at = max(?5, started_at), ttft_ms = ?6,
                cost_micros = ?7, unsent = ?8{quantities}
         where id = ?1 and state = 'held'"
    )
}

/// `or fail`: SQLite copies each page before a statement on several rows that may have to be undone by itself. This one is
/// not: if it fails it takes its whole transaction with it.
const ADD_USED: &str = "
    update or fail window_sums set requests_used = requests_used + iif(per in ('minute', 'hour'), ?4, ?3),
           tokens_used = tokens_used + ?5, micros_used = micros_used + ?6
    where user_id = ?1 and ends_at > ?2 and starts_at <= ?2";

/// Whose the requests of forgotten users are: the max UUID of RFC 9562, which no account has.
const NOBODY: &str = "ffffffff-ffff-ffff-ffff-ffffffffffff";

/// The statements of holds and endings, from their first use on. Whoever else ends requests meanwhile prepares its own.
pub(in crate::ledger) struct Batch<'b> {
    pub(super) book: &'b Book,
    pub(super) insert: Option<CachedStatement<'b>>,
    pub(super) insert_plain: Option<CachedStatement<'b>>,
    end: Option<CachedStatement<'b>>,
    end_text: Option<CachedStatement<'b>>,
    add_used: Option<CachedStatement<'b>>,
}

impl Book {
    /// Makes ready for holds and endings.
    pub(in crate::ledger) const fn batch(&self) -> Batch<'_> {
        Batch {
            book: self,
            insert: None,
            insert_plain: None,
            end: None,
            end_text: None,
            add_used: None,
        }
    }

    /// The id of a price, which is in the file then, or will be with the transaction.
    fn price_id(&self, price: &Price, now: Timestamp) -> Result<Arc<str>, Failure> {
        let known = self.prices.borrow().known(price);
        if let Some(id) = known {
            return Ok(id);
        }
        let stored = price.stored();
        let id = price_ids::id_of(&stored);
        self.db
            .prepare_cached(
                "insert or ignore into prices (id, rates, made_at) values (?1, ?2, ?3)",
            )?
            .execute(params![&*id, stored, now.millis()])?;
        self.prices.borrow_mut().note(price, id.clone());
        Ok(id)
    }

    pub(super) fn at_hand<'s, 'b>(
        &'b self,
        slot: &'s mut Option<CachedStatement<'b>>,
        sql: &str,
    ) -> Result<&'s mut CachedStatement<'b>, Failure> {
        match slot {
            Some(statement) => Ok(statement),
            None => Ok(slot.insert(self.db.prepare_cached(sql)?)),
        }
    }
}

impl Batch<'_> {
    /// Law 1: a hold, or the reason why not.
    pub(in crate::ledger) fn hold(
        &mut self,
        request: &HoldRequest,
    ) -> Result<Result<Hold, NoHold>, Failure> {
        if let Some(first) = self.book.repetition(request)? {
            return Ok(Err(NoHold::Repeated(first)));
        }
        let (user, now) = (request.user_id.to_string(), request.now);
        let lifetime = Window {
            per: Per::Lifetime,
            start: Timestamp::EPOCH,
            end: Timestamp::MAX,
        };
        let standings = request
            .limits
            .iter()
            .map(|limit| self.book.balance_at(&user, now, limit));
        let standings = standings.collect::<Result<Vec<_>, _>>()?;
        let open = self.book.standing_at(&user, now, &lifetime)?.held.requests;
        let ceiling = request
            .ceiling
            .map(|(_, window)| self.book.standing_at(APP, now, &window))
            .transpose()?;
        let credits = if request.credits {
            self.book
                .credits_left(&user, now, &request.id.to_string())?
        } else {
            None
        };
        let hold = match decide(request, &standings, ceiling, open, credits) {
            Ok(hold) => hold,
            Err(no) => return Ok(Err(no)),
        };
        // Before the row is there: whoever reads afterwards finds it counted.
        self.book.know(APP, now)?;
        let price_id = self.book.price_id(&request.quote.price, now)?;
        if let Some(old) = &request.replaces {
            return self.replace(user, request, (old, hold), &price_id);
        }
        self.insert_request(&user, request, &hold, &price_id)?;
        self.book.take_key(request)?;
        let open = OpenHold {
            user,
            at: now,
            held: hold.quantities,
            cost: hold.amounts.cost,
            paid_by: hold.paid_by,
        };
        if open.paid_by == PaidBy::Credits {
            let id = request.id.to_string();
            self.book.hold_credits(&id, (&open.user, now), open.cost)?;
        }
        self.book.change(
            &open,
            &Change {
                held: open.amounts(),
                ..Change::default()
            },
            (open.of_credits(), 0),
        );
        self.book.open.borrow_mut().insert(request.id, open);
        Ok(Ok(hold))
    }

    /// Law 3: ends an open request; a request that has ended, or that is not there, stays as it is.
    /// Gives back whether anything ended.
    pub(in crate::ledger) fn end(
        &mut self,
        ending: &Ending,
        now: Timestamp,
    ) -> Result<bool, Failure> {
        let mut buffer = Uuid::encode_buffer();
        let id = text_of(ending.id, &mut buffer);
        let known = self.book.open.borrow_mut().remove(&ending.id);
        let open = match known {
            Some(open) => open,
            None => match self.open_hold(id)? {
                Some(open) => open,
                None => return Ok(false),
            },
        };
        let settlement = &ending.settlement;
        let state = settlement.charge.end_state();
        let load = matches!(settlement.charge, Charge::Voided { load: true });
        let (usage, MicroUsd(cost)) = match settlement.charge {
            Charge::Voided { .. } => (Quantities::NONE, MicroUsd(0)),
            Charge::Settled { usage, cost } => (usage, cost),
            Charge::WholeHold | Charge::Lost => (open.held, MicroUsd(open.cost)),
        };
        // Before the row has ended, as with a hold.
        self.book.know(APP, open.at)?;
        let said: [&dyn ToSql; 8] = [
            &id,
            &state.as_str(),
            &settlement.flag_words(),
            &load,
            &now.millis(),
            &settlement.ttft_ms,
            &cost,
            // Nobody is told of a request whose user was forgotten meanwhile.
            &(self.book.outbox && state != EndState::Voided && open.user != NOBODY),
        ];
        let ended = self.end_request(&said, &usage)?;
        if ended == 0 {
            return Ok(false);
        }
        let used = match state {
            EndState::Voided => Amounts::default(),
            _ => Amounts::of_request(&usage, MicroUsd(cost)),
        };
        let rate_requests = used.requests.max(i64::from(load));
        let by_credits = match open.paid_by {
            PaidBy::Plan => 0,
            PaidBy::Credits => {
                self.book
                    .settle_credits(id, (&open.user, now.max(open.at)), used.cost)?
            }
        };
        let by_plan = Amounts {
            cost: used.cost.saturating_sub(by_credits),
            ..used
        };
        self.add_used(&open, by_plan, rate_requests)?;
        if rate_requests > 0 && self.book.known.borrow().may_have_tallies(&open.user) {
            self.add_to_tallies((id, &open), by_plan, rate_requests)?;
        }
        let change = Change {
            held: Amounts::default().minus(open.amounts()),
            used: used.in_windows(),
            rate_requests,
        };
        let given_back = open.of_credits().saturating_neg();
        self.book.change(&open, &change, (given_back, by_credits));
        Ok(true)
    }

    /// Ends the row of an open request; gives back how many rows ended.
    fn end_request(&mut self, said: &[&dyn ToSql], used: &Quantities) -> Result<usize, Failure> {
        let values = used.values();
        let (text, others) = values.split_at(TEXT_QUANTITIES);
        let (statement, values) = if others.iter().all(|count| *count == 0) {
            (
                self.book.at_hand(&mut self.end_text, &END_TEXT_REQUEST)?,
                text,
            )
        } else {
            (self.book.at_hand(&mut self.end, &END_REQUEST)?, &values[..])
        };
        for (place, value) in (1_usize..).zip(said) {
            statement.raw_bind_parameter(place, value)?;
        }
        let first = said.len().saturating_add(1);
        for (place, count) in (first..).zip(values) {
            statement.raw_bind_parameter(place, to_i64(*count))?;
        }
        Ok(statement.raw_execute()?)
    }

    /// What an open request holds. (Read before the update and not returned by it: for what an update returns, SQLite
    /// makes a temporary table each time.)
    fn open_hold(&self, id: &str) -> Result<Option<OpenHold>, Failure> {
        let mut read = self.book.db.prepare_cached(
            "select user_id, started_at, held_micros, held_input_tokens, held_output_tokens, held_audio_seconds,
                    held_characters, held_images, paid_by = 'credits'
             from requests where id = ?1 and state = 'held'",
        )?;
        let open = read.query_row([id], |row| {
            let count = |column| {
                Ok::<_, rusqlite::Error>(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
            };
            Ok(OpenHold {
                user: row.get(0)?,
                at: Timestamp::from_millis(row.get(1)?),
                cost: row.get(2)?,
                paid_by: if row.get(8)? {
                    PaidBy::Credits
                } else {
                    PaidBy::Plan
                },
                held: Quantities {
                    input_tokens: count(3)?,
                    output_tokens: count(4)?,
                    audio_seconds: count(5)?,
                    characters: count(6)?,
                    images: count(7)?,
                    ..Quantities::NONE
                },
            })
        });
        Ok(open.optional()?)
    }

    /// Adds what an ended request used to every window of its user that contains it.
    fn add_used(
        &mut self,
        open: &OpenHold,
        used: Amounts,
        rate_requests: i64,
    ) -> Result<(), Failure> {
        if used == Amounts::default() && rate_requests == 0 {
            return Ok(());
        }
        let used = params![
            open.user,
            open.at.millis(),
            used.requests,
            rate_requests,
            used.tokens,
            used.cost
        ];
        self.book
            .at_hand(&mut self.add_used, ADD_USED)?
            .execute(used)?;
        Ok(())
    }
}

impl Batch<'_> {
    /// Adds what an ended request used to every tally of its user that counts it.
    fn add_to_tallies(
        &self,
        (id, open): (&str, &OpenHold),
        used: Amounts,
        rate_requests: i64,
    ) -> Result<(), Failure> {
        let mut add = self.book.db.prepare_cached(ADD_TO_TALLIES)?;
        add.execute(params![
            open.user,
            open.at.millis(),
            used.requests,
            rate_requests,
            used.tokens,
            used.cost,
            used.images,
            used.audio_seconds,
            used.characters,
            id,
        ])?;
        Ok(())
    }
}

pub(super) fn text_of(id: Uuid, buffer: &mut [u8]) -> &str {
    id.hyphenated().encode_lower(buffer)
}
