//! What goes to and comes from the functions in `tollgate_ledger`, as JSON. Pure.

use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::sqlite::Failure;
use super::super::{
    Charge, EndState, Ending, HoldRequest, IdempotencyKey, Repetition, Settlement, UserBalance,
};
use crate::clock::Timestamp;
use crate::ledger::idempotency::free_since;
use crate::pg;
use crate::plan::{
    Amounts, Balance, CreditBalance, Hold, Limit, LimitCounter, PaidBy, Unit, Window,
};
use crate::price::{MicroUsd, Quantities};

/// Nothing: what an answer has that lacks a member.
const NOTHING: &Value = &Value::Null;

pub(super) fn member<'a>(value: &'a Value, name: &str) -> &'a Value {
    value.get(name).unwrap_or(NOTHING)
}

/// The one value of an answer.
pub(super) fn one_value(rows: &[pg::Row]) -> Result<Value, Failure> {
    let row = rows
        .first()
        .ok_or_else(|| Failure::new("Postgres: no answer".to_owned()))?;
    row.try_get(0)
        .map_err(|error| Failure::new(format!("Postgres: {error}")))
}

pub(super) fn window_json(window: &Window) -> Value {
    json!({ "per": window.per.as_str(), "start": window.start.millis(), "end": window.end.millis() })
}

/// What is asked of `tollgate_ledger.balances`.
pub(super) fn counter_json(counter: &LimitCounter) -> Value {
    with(
        window_json(&counter.window),
        "tally",
        counter.tally.as_deref(),
    )
}

/// An object with one more member.
pub(super) fn with(mut object: Value, name: &str, value: impl Into<Value>) -> Value {
    if let Some(members) = object.as_object_mut() {
        members.insert(name.to_owned(), value.into());
    }
    object
}

/// The answer of `tollgate_ledger.standing`.
pub(super) fn standing_answer(answer: &Value) -> UserBalance {
    let open = member(answer, "open").as_i64().unwrap_or(0);
    UserBalance {
        windows: standings_of(member(answer, "standings")),
        open,
        credits: credits_of(member(answer, "credits")),
    }
}

/// The answer of `tollgate_ledger.shown_credits`; none where there are none.
fn credits_of(value: &Value) -> Option<CreditBalance> {
    let of = |name| member(value, name).as_i64();
    Some(CreditBalance {
        remaining: of("remaining")?,
        held: of("held").unwrap_or(0),
        next_expiry: of("next_expiry").map(Timestamp::from_millis),
    })
}

/// What a window or a tally says: the first has three units, the other all.
pub(super) fn standing_of(value: &Value) -> Balance {
    let amounts = |value: &Value| {
        let at = |place: usize| value.get(place).and_then(Value::as_i64).unwrap_or(i64::MAX);
        let is_window = value.as_array().is_some_and(|all| all.len() == 3);
        let in_tally = |place| if is_window { 0 } else { at(place) };
        Amounts {
            requests: at(0),
            tokens: at(1),
            cost: at(2),
            images: in_tally(3),
            audio_seconds: in_tally(4),
            characters: in_tally(5),
        }
    };
    Balance {
        used: amounts(member(value, "used")),
        held: amounts(member(value, "held")),
    }
}

pub(super) fn standings_of(value: &Value) -> Vec<Balance> {
    value
        .as_array()
        .map(|all| all.iter().map(standing_of).collect())
        .unwrap_or_default()
}

/// The request that took a hold's key, if that is the answer.
pub(super) fn repetition_of(answer: &Value) -> Option<Repetition> {
    let first = answer.get("repeated")?;
    Some(Repetition::of_row(
        member(first, "id").as_str().unwrap_or_default(),
        *member(first, "same") == true,
        member(first, "state").as_str(),
        member(first, "cost_micros").as_i64().unwrap_or(0),
    ))
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
    limits: Vec<LimitJson<'a>>,
    ceiling: Option<LimitJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan_model: Option<&'a str>,
    requested_model: Option<&'a str>,
    feature: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_version: Option<&'a str>,
    price_id: Option<String>,
    held_audio_seconds: i64,
    held_characters: i64,
    held_images: i64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    by_credits: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    asks_credits: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_since: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    own_tokens: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    own_micros: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    own_images: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    own_audio_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    own_characters: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    own_by_credits: Option<bool>,
}

#[derive(Serialize)]
struct LimitJson<'a> {
    per: &'static str,
    unit: &'static str,
    amount: i64,
    start: i64,
    end: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tally: Option<&'a str>,
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
    #[serde(flatten)]
    used: UsedJson,
    micros: i64,
    unsent: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    astray: Option<AstrayJson<'a>>,
}

/// Quantities under the names of their columns, without those that are zero.
struct UsedJson(Quantities);

impl Serialize for UsedJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let named = Quantities::NAMES.into_iter().zip(self.0.values());
        serializer.collect_map(named.filter(|(_, count)| *count > 0))
    }
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

fn limit_json<'a>(limit: &'a Limit, window: &Window) -> LimitJson<'a> {
    LimitJson {
        tally: limit.tally(),
        ..window_limit_json(limit.unit, limit.amount, window)
    }
}

/// A limit that the window itself counts.
fn window_limit_json(unit: Unit, amount: i64, window: &Window) -> LimitJson<'static> {
    LimitJson {
        per: window.per.as_str(),
        unit: unit.as_str(),
        amount,
        start: window.start.millis(),
        end: window.end.millis(),
        tally: None,
    }
}

pub(super) fn hold_json<'a>(
    request: &'a HoldRequest,
    (hold, price_id): (&Hold, Option<&str>),
    owner: Uuid,
    place: Place,
) -> JobJson<'a> {
    let ceiling =
        |(amount, window): (i64, Window)| window_limit_json(Unit::CostUsd, amount, &window);
    let idempotency = request.key_to_take();
    let own = request.replaces.map(|hold| hold.amounts);
    JobJson::Hold(HoldJson {
        n: place.n,
        wary: place.wary,
        id: request.id,
        user_id: request.user_id,
        now: request.now.millis(),
        plan: &request.plan,
        endpoint: &request.endpoint,
        model: &request.model,
        upstream: &request.upstream,
        owner,
        input: i64::try_from(hold.quantities.input_tokens)
            .unwrap_or(i64::MAX)
            .min(hold.amounts.tokens),
        tokens: hold.amounts.tokens,
        micros: hold.amounts.cost,
        concurrent: request.concurrent,
        lifetime_ends: Timestamp::MAX.millis(),
        limits: request
            .limits
            .iter()
            .map(|(limit, window)| limit_json(limit, window))
            .collect(),
        ceiling: request.ceiling.map(ceiling),
        plan_model: request.plan_model.as_deref(),
        requested_model: request.requested_model.as_deref(),
        feature: request.feature.as_deref(),
        prompt_version: request.prompt_version.as_deref(),
        price_id: price_id.map(str::to_owned),
        held_audio_seconds: hold.amounts.audio_seconds,
        held_characters: hold.amounts.characters,
        held_images: hold.amounts.images,
        by_credits: hold.paid_by == PaidBy::Credits,
        asks_credits: request.credits,
        idempotency_key: idempotency.map(|taken| taken.key.as_str()),
        idempotency_digest: idempotency.map(IdempotencyKey::digest_text),
        idempotency_since: idempotency.map(|_| free_since(request.now).millis()),
        own_tokens: own.map(|own| own.tokens),
        own_micros: own.map(|own| own.cost),
        own_images: own.map(|own| own.images),
        own_audio_seconds: own.map(|own| own.audio_seconds),
        own_characters: own.map(|own| own.characters),
        own_by_credits: request.replaces.map(|hold| hold.paid_by == PaidBy::Credits),
    })
}

pub(super) fn ending_json<'a>(
    ending: &Ending,
    now: Timestamp,
    outbox: bool,
    place: Place,
) -> JobJson<'a> {
    JobJson::Ending(ending_parts(ending, now, outbox, place))
}

fn ending_parts<'a>(ending: &Ending, now: Timestamp, outbox: bool, place: Place) -> EndingJson<'a> {
    let settlement = &ending.settlement;
    let state = settlement.charge.end_state();
    let (load, charged) = match settlement.charge {
        Charge::Voided { load } => (load, Some((Quantities::NONE, MicroUsd(0)))),
        Charge::Settled { usage, cost } => (false, Some((usage, cost))),
        Charge::WholeHold | Charge::Lost => (false, None),
    };
    let (usage, cost) = charged.unwrap_or_default();
    EndingJson {
        n: place.n,
        wary: place.wary,
        id: ending.id,
        user_id: ending.user_id,
        now: now.millis(),
        state: state.as_str(),
        flags: settlement.flag_words(),
        load: i64::from(load),
        ttft_ms: settlement.ttft_ms,
        whole: charged.is_none(),
        used: UsedJson(usage),
        micros: cost.0,
        unsent: i64::from(outbox && state != EndState::Voided),
        astray: None,
    }
}

/// Ends a hold that may be there, or may yet come in late: the voided row keeps its place.
pub(super) fn void_json(
    request: &HoldRequest,
    owner: Uuid,
    now: Timestamp,
    place: Place,
) -> JobJson<'_> {
    let ending = Ending {
        id: request.id,
        user_id: request.user_id,
        settlement: Settlement::void(),
    };
    let astray = AstrayJson {
        plan: &request.plan,
        endpoint: &request.endpoint,
        model: &request.model,
        upstream: &request.upstream,
        now: request.now.millis(),
        owner,
    };
    JobJson::Ending(EndingJson {
        astray: Some(astray),
        ..ending_parts(&ending, now, false, place)
    })
}
