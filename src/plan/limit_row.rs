//! A limit as a paywall and the operator see it: money as decimal strings, counts as numbers.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{LimitState, Unit, Window};
use crate::clock::Timestamp;
use crate::price::MicroUsd;

/// A limit as a paywall shows it: money as decimal strings, counts as numbers.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LimitRow {
    /// `minute`, `hour`, `day`, `month`, `period` or `lifetime`.
    per: &'static str,
    /// `requests`, `tokens`, `cost_usd`, `images`, `audio_seconds` or `characters`.
    unit: &'static str,
    /// The only model whose requests count, by its name in the plan; null where all count.
    model: Option<String>,
    limit: Amount,
    used: Amount,
    held: Amount,
    remaining: Amount,
    /// Null for all time.
    resets_at: Option<String>,
}

/// So much of a unit: US dollars as a decimal string of six places, counts as numbers.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Amount {
    /// A count of anything else.
    Count(i64),
    /// US dollars.
    Usd(String),
}

impl LimitRow {
    pub(crate) fn of(state: &LimitState) -> Self {
        let unit = state.limit.unit;
        Self {
            per: state.limit.per.as_str(),
            unit: unit.as_str(),
            model: state.limit.model.as_deref().map(str::to_owned),
            limit: Amount::of(unit, state.limit.amount),
            used: Amount::of(unit, state.used()),
            held: Amount::of(unit, state.held()),
            remaining: Amount::of(unit, state.remaining()),
            resets_at: resets_at(&state.window).as_str().map(str::to_owned),
        }
    }
}

impl Amount {
    pub(crate) fn of(unit: Unit, amount: i64) -> Self {
        match unit {
            Unit::CostUsd => Self::Usd(MicroUsd(amount).to_string()),
            Unit::Requests
            | Unit::Tokens
            | Unit::Images
            | Unit::AudioSeconds
            | Unit::Characters => Self::Count(amount),
        }
    }
}

/// When a window ends; null for all time.
pub(crate) fn resets_at(window: &Window) -> Value {
    if window.end == Timestamp::MAX {
        Value::Null
    } else {
        window.end.rfc3339().into()
    }
}
