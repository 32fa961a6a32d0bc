//! The only writer of money.

use std::time::Duration;

use uuid::Uuid;

use crate::clock::Timestamp;
use crate::error::Refusal;
use crate::plan::{Ask, Hold, Limit, LimitState, Period};
use crate::price::{Price, Usage};

/// What is asked of the ledger before an upstream is dialled.
#[derive(Clone, Debug)]
pub struct HoldRequest {
    /// The id of the request, and of its row.
    pub id: Uuid,
    /// Whose limits.
    pub user_id: Uuid,
    /// The plan's name, for the row.
    pub plan: String,
    /// The path that was called, for the row.
    pub endpoint: &'static str,
    /// The canonical name of the model, for the row.
    pub model: String,
    /// The upstream's name, for the row.
    pub upstream: String,
    /// What is held.
    pub ask: Ask,
    /// Every limit of the caller's plan.
    pub limits: Vec<Limit>,
    /// How many requests of this caller may be open.
    pub concurrent: Option<u32>,
    /// The subscription's period.
    pub period: Option<Period>,
    /// What the whole app may spend in a day, in micro-dollars.
    pub ceiling: Option<i64>,
}
