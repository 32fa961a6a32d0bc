//! What an operator gives a user: a limit that is raised once, and credits.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::AdminState;
use super::caller::MayWrite;
use super::input::{ChangeRefusals, JsonBody, UserId};
use super::users::shown_to;
use crate::clock::Timestamp;
use crate::error::Refusal;
use crate::ledger::grants::GRANT_MICROS_MAX;
use crate::operator::queries::grants::{GrantRow, give};
use crate::operator::queries::users::{CreditRow, raise};
use crate::plan::{Per, Unit};
use crate::price::MicroUsd;

/// The most that a credit may give, as in the settings' limits.
const COUNT_MAX: i64 = 1_000_000_000_000;
const MICROS_MAX: i64 = 1_000_000_000_000_000;

/// How a limit of a user is raised once.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CreditGiven)]
pub(super) struct CreditChange {
    /// The kind of window: `minute`, `hour`, `day`, `month`, `period` or `lifetime`.
    #[schema(example = "day")]
    per: String,
    /// What the limit counts: `requests`, `tokens`, `cost_usd`, `images`, `audio_seconds` or `characters`.
    #[schema(example = "requests")]
    unit: String,
    /// How much more of it: a whole number, or US dollars as a decimal string.
    #[schema(value_type = crate::plan::Amount)]
    amount: Value,
}

/// Raise a limit of a user once, in the window that is current now
#[utoipa::path(
    post,
    path = "/admin/users/{id}/credit",
    tag = "users",
    params(("id" = Uuid, Path, description = "The user's id")),
    request_body = CreditChange,
    responses((status = 201, body = CreditRow), ChangeRefusals)
)]
pub(super) async fn give_credit(
    State(state): State<AdminState>,
    MayWrite(admin): MayWrite,
    UserId(user_id): UserId,
    JsonBody(given): JsonBody<CreditChange>,
) -> Result<(StatusCode, Json<CreditRow>), Refusal> {
    let asked = credit_asked(&given)?;
    let config = state.app.config();
    let zone = config.server.time_zone.clone();
    let row = state
        .change(admin, move |desk, by| {
            raise(desk, user_id, asked, &zone, by)
        })
        .await?;
    shown_to(&state, user_id);
    Ok((StatusCode::CREATED, Json(row)))
}

fn credit_asked(given: &CreditChange) -> Result<(Per, Unit, i64), Refusal> {
    let per = Per::from_name(&given.per);
    let per = per.ok_or_else(|| {
        Refusal::invalid(
            "per",
            "per is minute, hour, day, month, period or lifetime.",
        )
    })?;
    let unit = Unit::from_name(&given.unit);
    let unit =
        unit.ok_or_else(|| Refusal::invalid("unit", format!("unit is {}.", Unit::names())))?;
    let amount = match unit {
        Unit::CostUsd => given
            .amount
            .as_str()
            .and_then(|text| MicroUsd::parse(text).ok())
            .map(|MicroUsd(micros)| micros),
        _ => given.amount.as_i64(),
    };
    let most = if unit == Unit::CostUsd {
        MICROS_MAX
    } else {
        COUNT_MAX
    };
    let wrong = || {
        Refusal::invalid(
            "amount",
            "amount is a whole number above 0, or US dollars like \"1.50\".",
        )
    };
    amount
        .filter(|amount| (1..=most).contains(amount))
        .map(|amount| (per, unit, amount))
        .ok_or_else(wrong)
}

/// Credits for a user.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = GrantGiven)]
pub(super) struct GrantChange {
    /// How much: US dollars as a decimal string.
    #[schema(example = "5.00")]
    amount: String,
    /// Requests may be held against it until then (RFC 3339); null for good.
    #[schema(format = DateTime)]
    until: Option<String>,
}

/// Give a user credits in dollars
///
/// They pay for what does not fit the plan's limits in dollars.
#[utoipa::path(
    post,
    path = "/admin/users/{id}/grant",
    tag = "users",
    params(("id" = Uuid, Path, description = "The user's id")),
    request_body = GrantChange,
    responses((status = 201, body = GrantRow), ChangeRefusals)
)]
pub(super) async fn grant_credits(
    State(state): State<AdminState>,
    MayWrite(admin): MayWrite,
    UserId(user_id): UserId,
    JsonBody(given): JsonBody<GrantChange>,
) -> Result<(StatusCode, Json<GrantRow>), Refusal> {
    let asked = grant_asked(&given, state.app.clock.now())?;
    let row = state
        .change(admin, move |desk, by| give(desk, user_id, asked, by))
        .await?;
    Ok((StatusCode::CREATED, Json(row)))
}

fn grant_asked(
    given: &GrantChange,
    now: Timestamp,
) -> Result<(MicroUsd, Option<Timestamp>), Refusal> {
    let amount = MicroUsd::parse(&given.amount).ok();
    let amount = amount.filter(|MicroUsd(micros)| (1..=GRANT_MICROS_MAX).contains(micros));
    let amount = amount.ok_or_else(|| {
        Refusal::invalid("amount", "amount is US dollars above 0, like \"5.00\".")
    })?;
    let until = given.until.as_deref().map(Timestamp::parse).transpose();
    let until = until
        .ok()
        .filter(|until| until.is_none_or(|until| now < until));
    let until = until.ok_or_else(|| {
        Refusal::invalid(
            "until",
            "until must be a time to come, like 2027-01-01T00:00:00Z.",
        )
    })?;
    Ok((amount, until))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_credit_is_above_nothing_and_within_the_bounds_of_limits() {
        let asked = |unit: &str, amount: Value| {
            let given = CreditChange {
                per: "day".to_owned(),
                unit: unit.to_owned(),
                amount,
            };
            credit_asked(&given).map(|(_, _, amount)| amount).ok()
        };
        assert_eq!(asked("requests", json!(1)), Some(1));
        assert_eq!(asked("cost_usd", json!("1.50")), Some(1_500_000));
        for wrong in [
            json!(0),
            json!(-1),
            json!(1.5),
            json!("1"),
            json!(null),
            json!(COUNT_MAX + 1),
            json!(1e300),
        ] {
            assert_eq!(asked("tokens", wrong.clone()), None, "{wrong}");
        }
        for wrong in [
            json!("0"),
            json!("-1"),
            json!(1),
            json!("1e3"),
            json!("1000000000.000001"),
        ] {
            assert_eq!(asked("cost_usd", wrong.clone()), None, "{wrong}");
        }
    }
}
