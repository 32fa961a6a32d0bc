//! What goes to and comes from the functions in `tollgate_ledger`, as JSON. Pure.

use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::db::postgres_row;
use super::super::sqlite::Failure;
use super::super::{Charge, Ending, HoldRequest, Lag, Settlement, Turn, UserStanding};
use crate::clock::Timestamp;
use crate::pg;
use crate::plan::{Amounts, Hold, Limit, Standing, Unit, Window};
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

/// Where a job stands in its batch, and whether its user was busy when last asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    pub(super) n: usize,
    pub(super) wary: bool,
}

/// A hold or an ending, with the names that `tollgate_ledger.job` has.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum JobJson<'a> {
    Hold(HoldJson<'a>),
    Ending(EndingJson<'a>),
}

#[derive(Serialize)]
pub(super) struct HoldJson<'a> {
    n: usize,
    wary: bool,
    id: Uuid,
    user_id: Uuid,
    now: i64,
    plan: &'a str,
    endpoint: &'a str,
    model: &'a str,
    upstream: &'a str,
    owner: Uuid,
    input: i64,
    tokens: i64,
    micros: i64,
    concurrent: Option<u32>,
    lifetime_ends: i64,
    limits: Vec<LimitJson>,
    ceiling: Option<LimitJson>,
}

#[derive(Serialize)]
struct LimitJson {
    per: &'static str,
    unit: &'static str,
    amount: i64,
    start: i64,
    end: i64,
}

#[derive(Serialize)]
pub(super) struct EndingJson<'a> {
    n: usize,
    wary: bool,
    id: Uuid,
    user_id: Uuid,
    now: i64,
    state: &'static str,
    flags: String,
    load: i64,
    ttft_ms: Option<i64>,
    whole: bool,
    input: u64,
    cached: u64,
    output: u64,
    reasoning: u64,
    micros: i64,
    unsent: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    astray: Option<AstrayJson<'a>>,
}

#[derive(Serialize)]
struct AstrayJson<'a> {
    plan: &'a str,
    endpoint: &'a str,
    model: &'a str,
    upstream: &'a str,
    now: i64,
    owner: Uuid,
}

/// The jobs of a batch as one parameter, written without a tree in between.
pub(super) fn batch_param(jobs: &[JobJson<'_>]) -> Result<pg::Param, pg::PgError> {
    let text = serde_json::to_vec(jobs);
    let text = text.map_err(|error| pg::PgError {
        sqlstate: None,
        message: error.to_string(),
        unavailable: false,
        late: false,
    })?;
    Ok(pg::Param::json(text))
}

fn limit_json(limit: Limit, window: &Window) -> LimitJson {
    LimitJson {
        per: window.per.as_str(),
        unit: limit.unit.as_str(),
        amount: limit.amount,
        start: window.start.millis(),
        end: window.end.millis(),
    }
}

pub(super) fn hold_json<'a>(request: &'a HoldRequest, hold: &Hold, owner: Uuid, place: Place) -> JobJson<'a> {
    let ceiling =
        |(amount, window): (i64, Window)| limit_json(Limit { per: window.per, unit: Unit::CostUsd, amount }, &window);
    JobJson::Hold(HoldJson {
        n: place.n,
        wary: place.wary,
        id: request.id,
        user_id: request.user_id,
        now: request.now.millis(),
        plan: &request.plan,
        endpoint: request.endpoint,
        model: &request.model,
        upstream: &request.upstream,
        owner,
        input: i64::try_from(request.ask.input_tokens).unwrap_or(i64::MAX).min(hold.amounts.tokens),
        tokens: hold.amounts.tokens,
        micros: hold.amounts.cost,
        concurrent: request.concurrent,
        lifetime_ends: Timestamp::MAX.millis(),
        limits: request.limits.iter().map(|(limit, window)| limit_json(*limit, window)).collect(),
        ceiling: request.ceiling.map(ceiling),
    })
}

pub(super) fn ending_json<'a>(ending: &Ending, now: Timestamp, outbox: bool, place: Place) -> JobJson<'a> {
    JobJson::Ending(ending_parts(ending, now, outbox, place))
}

fn ending_parts<'a>(ending: &Ending, now: Timestamp, outbox: bool, place: Place) -> EndingJson<'a> {
    let settlement = &ending.settlement;
    let (state, load, charged) = match settlement.charge {
        Charge::Voided { load } => ("voided", load, Some((Usage::default(), MicroUsd(0)))),
        Charge::Settled { usage, cost } => ("settled", false, Some((usage, cost))),
        Charge::WholeHold => ("settled", false, None),
        Charge::Lost => ("lost", false, None),
    };
    let (usage, cost) = charged.unwrap_or_default();
    EndingJson {
        n: place.n,
        wary: place.wary,
        id: ending.id,
        user_id: ending.user_id,
        now: now.millis(),
        state,
        flags: settlement.flags.join(","),
        load: i64::from(load),
        ttft_ms: settlement.ttft_ms,
        whole: charged.is_none(),
        input: usage.input_tokens,
        cached: usage.cached_input_tokens,
        output: usage.output_tokens,
        reasoning: usage.reasoning_tokens,
        micros: cost.0,
        unsent: i64::from(outbox && state != "voided"),
        astray: None,
    }
}

/// Ends a hold that may be there, or may yet come in late: the voided row keeps its place.
pub(super) fn void_json(request: &HoldRequest, owner: Uuid, now: Timestamp, place: Place) -> JobJson<'_> {
    let ending = Ending { id: request.id, user_id: request.user_id, settlement: Settlement::void() };
    let astray = AstrayJson {
        plan: &request.plan,
        endpoint: request.endpoint,
        model: &request.model,
        upstream: &request.upstream,
        now: request.now.millis(),
        owner,
    };
    JobJson::Ending(EndingJson { astray: Some(astray), ..ending_parts(&ending, now, false, place) })
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
