//! Holds and endings, with their statements at hand: a batch of many asks for each of them once.

use rusqlite::{CachedStatement, OptionalExtension, params};
use uuid::Uuid;

use super::{Book, Failure, OpenHold};
use crate::clock::Timestamp;
use crate::ledger::known::{APP, Change};
use crate::ledger::{Charge, Ending, HoldRequest, NoHold, decide};
use crate::plan::{Amounts, Hold, Per, Window};
use crate::price::{MicroUsd, Usage};

pub(super) const INSERT_REQUEST: &str = "
    insert into requests (id, user_id, plan, endpoint, model, upstream, state, held_input_tokens, held_output_tokens,
                          held_micros, started_at, owner)
    values (?1, ?2, ?3, ?4, ?5, ?6, 'held', ?7, ?8, ?9, ?10, ?11)";

pub(super) const END_REQUEST: &str = "
    update requests set state = ?2, flags = ?3, load = ?4, ended_at = max(?5, started_at), ttft_ms = ?6,
           input_tokens = ?7, cached_input_tokens = ?8, output_tokens = ?9, reasoning_tokens = ?10,
           cost_micros = ?11, unsent = ?12
    where id = ?1 and state = 'held'";

/// `or fail`: SQLite copies each page before a statement on several rows that may have to be undone by itself. This one is
/// not: if it fails it takes its whole transaction with it.
const ADD_USED: &str = "
    update or fail window_sums set requests_used = requests_used + iif(per in ('minute', 'hour'), ?4, ?3),
           tokens_used = tokens_used + ?5, micros_used = micros_used + ?6
    where user_id = ?1 and ends_at > ?2 and starts_at <= ?2";

/// The statements of holds and endings, from their first use on. Whoever else ends requests meanwhile prepares its own.
pub(in crate::ledger) struct Batch<'b> {
    book: &'b Book,
    insert: Option<CachedStatement<'b>>,
    end: Option<CachedStatement<'b>>,
    add_used: Option<CachedStatement<'b>>,
}

impl Book {
    /// Makes ready for holds and endings.
    pub(in crate::ledger) const fn batch(&self) -> Batch<'_> {
        Batch { book: self, insert: None, end: None, add_used: None }
    }

    fn at_hand<'s, 'b>(
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
    pub(in crate::ledger) fn hold(&mut self, request: &HoldRequest) -> Result<Result<Hold, NoHold>, Failure> {
        let (user, now) = (request.user_id.to_string(), request.now);
        let lifetime = Window { per: Per::Lifetime, start: Timestamp::EPOCH, end: Timestamp::MAX };
        let standings = request.limits.iter().map(|(_, window)| self.book.standing_at(&user, now, window));
        let standings = standings.collect::<Result<Vec<_>, _>>()?;
        let open = self.book.standing_at(&user, now, &lifetime)?.held.requests;
        let ceiling = request.ceiling.map(|(_, window)| self.book.standing_at(APP, now, &window)).transpose()?;
        let hold = match decide(request, &standings, ceiling, open) {
            Ok(hold) => hold,
            Err(no) => return Ok(Err(no)),
        };
        let input = i64::try_from(request.ask.input_tokens).unwrap_or(i64::MAX).min(hold.amounts.tokens);
        let output = hold.amounts.tokens.saturating_sub(input);
        // Before the row is there: whoever reads afterwards finds it counted.
        self.book.know(APP, now)?;
        self.insert_request(&user, request, &hold, (input, output))?;
        let open = OpenHold { user, at: now, input, output, cost: hold.amounts.cost };
        self.book.change(&open, &Change { held: open.amounts(), ..Change::default() });
        self.book.open.borrow_mut().insert(request.id, open);
        Ok(Ok(hold))
    }

    fn insert_request(
        &mut self,
        user: &str,
        request: &HoldRequest,
        hold: &Hold,
        (input, output): (i64, i64),
    ) -> Result<(), Failure> {
        self.book.at_hand(&mut self.insert, INSERT_REQUEST)?.execute(params![
            text_of(request.id, &mut Uuid::encode_buffer()),
            user,
            request.plan,
            request.endpoint,
            request.model,
            request.upstream,
            input,
            output,
            hold.amounts.cost,
            request.now.millis(),
            self.book.owner,
        ])?;
        Ok(())
    }

    /// Law 3: ends an open request; a request that has ended, or that is not there, stays as it is.
    /// Gives back whether anything ended.
    pub(in crate::ledger) fn end(&mut self, ending: &Ending, now: Timestamp) -> Result<bool, Failure> {
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
        let (state, load) = match settlement.charge {
            Charge::Voided { load } => ("voided", load),
            Charge::Settled { .. } | Charge::WholeHold => ("settled", false),
            Charge::Lost => ("lost", false),
        };
        let from_i64 = |tokens| u64::try_from(tokens).unwrap_or(0);
        let whole =
            Usage { input_tokens: from_i64(open.input), output_tokens: from_i64(open.output), ..Usage::default() };
        let (usage, MicroUsd(cost)) = match settlement.charge {
            Charge::Voided { .. } => (Usage::default(), MicroUsd(0)),
            Charge::Settled { usage, cost } => (usage, cost),
            Charge::WholeHold | Charge::Lost => (whole, MicroUsd(open.cost)),
        };
        let (input, output) = (to_i64(usage.input_tokens), to_i64(usage.output_tokens));
        // Before the row has ended, as with a hold.
        self.book.know(APP, open.at)?;
        let ended = self.book.at_hand(&mut self.end, END_REQUEST)?.execute(params![
            id,
            state,
            settlement.flags.join(","),
            load,
            now.millis(),
            settlement.ttft_ms,
            input,
            to_i64(usage.cached_input_tokens),
            output,
            to_i64(usage.reasoning_tokens),
            cost,
            self.book.outbox && state != "voided"
        ])?;
        if ended == 0 {
            return Ok(false);
        }
        let used = Amounts { requests: i64::from(state != "voided"), tokens: input.saturating_add(output), cost };
        let rate_requests = used.requests.max(i64::from(load));
        self.add_used(&open, used, rate_requests)?;
        self.book.change(&open, &Change { held: Amounts::default().minus(open.amounts()), used, rate_requests });
        Ok(true)
    }

    /// What an open request holds. (Read before the update and not returned by it: for what an update returns, SQLite
    /// makes a temporary table each time.)
    fn open_hold(&self, id: &str) -> Result<Option<OpenHold>, Failure> {
        let mut read = self.book.db.prepare_cached(
            "select user_id, started_at, held_input_tokens, held_output_tokens, held_micros
             from requests where id = ?1 and state = 'held'",
        )?;
        let open = read.query_row([id], |row| {
            Ok(OpenHold {
                user: row.get(0)?,
                at: Timestamp::from_millis(row.get(1)?),
                input: row.get(2)?,
                output: row.get(3)?,
                cost: row.get(4)?,
            })
        });
        Ok(open.optional()?)
    }

    /// Adds what an ended request used to every window of its user that contains it.
    fn add_used(&mut self, open: &OpenHold, used: Amounts, rate_requests: i64) -> Result<(), Failure> {
        if used == Amounts::default() && rate_requests == 0 {
            return Ok(());
        }
        let used = params![open.user, open.at.millis(), used.requests, rate_requests, used.tokens, used.cost];
        self.book.at_hand(&mut self.add_used, ADD_USED)?.execute(used)?;
        Ok(())
    }
}

fn text_of(id: Uuid, buffer: &mut [u8]) -> &str {
    id.hyphenated().encode_lower(buffer)
}

fn to_i64(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
