//! The answer of `check_user_limits`. Pure.
//!
//! Its shape is documented with the script: `{"plan", "allowed", "period_start", "period_end", "limits"}`, and, where a
//! session was asked about, `session_alive` and `banned`. A member of a wrong type is a failure, never a default: a
//! `limits` that was ignored would be a limit that nobody enforces.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value};

use super::{DatabaseFailure, short};
use crate::clock::Timestamp;
use crate::config::limits_of_answer;
use crate::plan::{DatabaseAnswer, Period};

/// The longest name of a plan.
const PLAN_BYTES_MAX: usize = 64;

/// The members that mean something.
const KNOWN: [&str; 7] = [
    "plan",
    "allowed",
    "period_start",
    "period_end",
    "limits",
    "session_alive",
    "banned",
];

/// An answer, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanAnswer {
    /// The plan, its period, the limits in place of its own.
    pub assigned: DatabaseAnswer,
    /// Whether the user may do anything at all.
    pub allowed: bool,
    /// Whether the session that was asked about is alive; `None` where the database cannot say.
    pub session_alive: Option<bool>,
    /// Whether the user is banned from signing in; `None` where the database cannot say.
    pub banned: Option<bool>,
}

impl PlanAnswer {
    /// Reads an answer; null is none.
    ///
    /// # Errors
    /// It is not of the contract's shape.
    pub(crate) fn read(value: &Value) -> Result<Option<Self>, DatabaseFailure> {
        match value {
            Value::Null => Ok(None),
            Value::Object(members) => Self::of(members).map(Some),
            _ => Err("neither an object nor null".to_owned()),
        }
        .map_err(|what| {
            DatabaseFailure::Unavailable(format!(
                "the answer of check_user_limits is wrong: {}",
                short(&what)
            ))
        })
    }

    fn of(members: &Map<String, Value>) -> Result<Self, String> {
        tell_unknown(members);
        let limits = match members.get("limits") {
            None | Some(Value::Null) => None,
            Some(limits) => Some(limits_of_answer(limits)?),
        };
        Ok(Self {
            assigned: DatabaseAnswer {
                plan: plan(members)?,
                period: period(members)?,
                limits,
            },
            allowed: flag(members, "allowed")?.unwrap_or(true),
            session_alive: flag(members, "session_alive")?,
            banned: flag(members, "banned")?,
        })
    }
}

/// Says once that something was answered which means nothing: it may be a slip of the pen.
fn tell_unknown(members: &Map<String, Value>) {
    static SAID: AtomicBool = AtomicBool::new(false);
    let Some(key) = members.keys().find(|key| !KNOWN.contains(&key.as_str())) else {
        return;
    };
    if !SAID.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            member = short(key),
            known = KNOWN.join(", "),
            "check_user_limits answers what means nothing"
        );
    }
}

fn plan(members: &Map<String, Value>) -> Result<Option<String>, String> {
    match members.get("plan") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(name)) if name.len() <= PLAN_BYTES_MAX => {
            Ok(Some(name.clone()).filter(|name| !name.is_empty()))
        }
        Some(_) => Err(format!(
            "plan is not a text of up to {PLAN_BYTES_MAX} letters"
        )),
    }
}

fn flag(members: &Map<String, Value>, key: &str) -> Result<Option<bool>, String> {
    match members.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(_) => Err(format!("{key} is neither true nor false")),
    }
}

/// Both ends, or none: half a period is no window that could be counted in.
fn period(members: &Map<String, Value>) -> Result<Option<Period>, String> {
    let (start, end) = (time(members, "period_start")?, time(members, "period_end")?);
    let Some((start, end)) = start.zip(end) else {
        return Ok(None);
    };
    if start >= end {
        return Err("period_start is not before period_end".to_owned());
    }
    Ok(Some(Period { start, end }))
}

/// A `timestamptz` as Postgres writes it in JSON.
fn time(members: &Map<String, Value>, key: &str) -> Result<Option<Timestamp>, String> {
    match members.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text == "infinity" => Ok(Some(Timestamp::MAX)),
        Some(Value::String(text)) if text == "-infinity" => Ok(Some(Timestamp::EPOCH)),
        Some(Value::String(text)) => match Timestamp::parse(text) {
            Ok(time) => Ok(Some(time)),
            Err(_) => Err(format!(
                "{key} is not a time with an offset, such as 2026-11-25T00:00:00Z"
            )),
        },
        Some(_) => Err(format!("{key} is not a time (timestamptz)")),
    }
}
