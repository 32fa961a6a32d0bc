//! What goes to and comes from the functions in `tollgate_ledger`, as JSON. Pure.

use serde_json::{Value, json};
use uuid::Uuid;

use super::super::db::postgres_row;
use super::super::sqlite::Failure;
use super::super::{Charge, Ending, HoldRequest, Lag, Settlement, Turn, UserStanding};
use crate::clock::Timestamp;
use crate::pg;
use crate::plan::{Amounts, Hold, Limit, Standing, Window};
use crate::price::{MicroUsd, Usage};

/// Nothing: what an answer has that lacks a member.
const NOTHING: &Value = &Value::Null;

pub(super) fn member<'a>(value: &'a Value, name: &str) -> &'a Value {
    value.get(name).unwrap_or(NOTHING)
}

/// The one value of an answer.
pub(super) fn one_value(rows: &[pg::Row]) -> Result<Value, Failure> {
    let row = rows.first().ok_or_else(|| Failure::new("Postgres: no answer".to_owned()))?;
    row.try_get(0).map_err(|error| Failure::new(format!("Postgres: {error}")))
}

pub(super) fn window_json(window: &Window) -> Value {
    json!({ "per": window.per.as_str(), "start": window.start.millis(), "end": window.end.millis() })
}

/// An object with one more member.
pub(super) fn with(mut object: Value, name: &str, value: impl Into<Value>) -> Value {
    if let Some(members) = object.as_object_mut() {
        members.insert(name.to_owned(), value.into());
    }
    object
}

/// The answer of `tollgate_ledger.standing`.
pub(super) fn standing_answer(answer: &Value) -> UserStanding {
    let open = member(answer, "open").as_i64().unwrap_or(0);
    UserStanding { windows: standings_of(member(answer, "standings")), open }
}

pub(super) fn standing_of(value: &Value) -> Standing {
    let amounts = |value: &Value| {
        let at = |place: usize| value.get(place).and_then(Value::as_i64).unwrap_or(i64::MAX);
        Amounts { requests: at(0), tokens: at(1), cost: at(2) }
    };
    Standing { used: amounts(member(value, "used")), held: amounts(member(value, "held")) }
}

pub(super) fn standings_of(value: &Value) -> Vec<Standing> {
    value.as_array().map(|all| all.iter().map(standing_of).collect()).unwrap_or_default()
}

pub(super) fn hold_json(request: &HoldRequest, hold: &Hold, owner: Uuid) -> Value {
    let limit = |(limit, window): &(Limit, Window)| {
        json!({
            "per": window.per.as_str(), "unit": limit.unit.as_str(), "amount": limit.amount,
            "start": window.start.millis(), "end": window.end.millis(),
        })
    };
    let ceiling = request.ceiling.map(|(amount, window)| with(window_json(&window), "amount", amount));
    let input = i64::try_from(request.ask.input_tokens).unwrap_or(i64::MAX).min(hold.amounts.tokens);
    json!({
        "id": request.id, "user_id": request.user_id, "now": request.now.millis(), "plan": request.plan,
        "endpoint": request.endpoint, "model": request.model, "upstream": request.upstream, "owner": owner,
        "input": input, "tokens": hold.amounts.tokens, "micros": hold.amounts.cost,
        "concurrent": request.concurrent, "lifetime_ends": Timestamp::MAX.millis(),
        "limits": request.limits.iter().map(limit).collect::<Vec<_>>(), "ceiling": ceiling,
    })
}

pub(super) fn ending_json(ending: &Ending, now: Timestamp, outbox: bool) -> Value {
    let settlement = &ending.settlement;
    let (state, load, charged) = match settlement.charge {
        Charge::Voided { load } => ("voided", load, Some((Usage::default(), MicroUsd(0)))),
        Charge::Settled { usage, cost } => ("settled", false, Some((usage, cost))),
        Charge::WholeHold => ("settled", false, None),
        Charge::Lost => ("lost", false, None),
    };
    let (usage, cost) = charged.unwrap_or_default();
    json!({
        "id": ending.id, "user_id": ending.user_id, "state": state, "flags": settlement.flags.join(","),
        "load": i64::from(load), "now": now.millis(), "ttft_ms": settlement.ttft_ms, "whole": charged.is_none(),
        "input": usage.input_tokens, "cached": usage.cached_input_tokens, "output": usage.output_tokens,
        "reasoning": usage.reasoning_tokens, "micros": cost.0, "unsent": i64::from(outbox && state != "voided"),
    })
}

/// Ends a hold that may be there, or may yet come in late: the voided row keeps its place.
pub(super) fn void_json(request: &HoldRequest, owner: Uuid, now: Timestamp) -> Value {
    let ending = Ending { id: request.id, user_id: request.user_id, settlement: Settlement::void() };
    let astray = json!({
        "plan": request.plan, "endpoint": request.endpoint, "model": request.model, "upstream": request.upstream,
        "now": request.now.millis(), "owner": owner,
    });
    with(ending_json(&ending, now, false), "astray", astray)
}

/// The answer of `tollgate_ledger.outbox_turn`.
pub(super) fn turn_of(rows: &[pg::Row]) -> Result<Turn, Failure> {
    let row = rows.first().ok_or_else(|| Failure::new("Postgres: no answer".to_owned()))?;
    let had: Option<bool> = row.try_get(0).map_err(|error| Failure::new(format!("Postgres: {error}")))?;
    Ok(had.map_or(Turn::Another, |had| if had { Turn::Kept } else { Turn::Given }))
}

pub(super) fn lag_of(rows: &[pg::Row]) -> Result<Lag, Failure> {
    let row = rows.first().ok_or_else(|| Failure::new("Postgres: no answer".to_owned()))?;
    let row = postgres_row(row)?;
    Ok(Lag { unsent: row.int(0)?, oldest: row.maybe_int(1)?.map(Timestamp::from_millis), given_up: row.int(2)? })
}
