//! Keys by which a request is known that is sent again: at most one charged request for each, within a day.
//!
//! A key is written in the transaction of its hold, and never again. Whether it is taken follows from the row of its
//! request, so the two cannot disagree: it is free once that row is voided, or a day after it was held.

use std::time::Duration;

use uuid::Uuid;

use super::EndState;
use crate::clock::Timestamp;
use crate::ledger::hex::hex;
use crate::price::MicroUsd;

/// How long a key is taken whose request was charged, or is open.
const TAKEN: Duration = Duration::from_hours(24);

/// What a caller calls a request, and which request that was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The caller's word. Each user has words of their own.
    pub key: String,
    /// Of the request as it was understood: the same key with another digest is a mistake of the caller's.
    pub digest: [u8; 32],
}

impl IdempotencyKey {
    /// The digest as the ledger stores it.
    pub(super) fn digest_text(&self) -> String {
        hex(&self.digest)
    }
}

/// The request that took a key first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repetition {
    /// Its id.
    pub id: Uuid,
    /// Whether it was the same request.
    pub same: bool,
    /// How it ended; none while it is open. Never voided: that frees the key.
    pub state: Option<EndState>,
    /// What it was charged.
    pub cost: MicroUsd,
}

impl Repetition {
    /// Of what the two tables say. A row that is gone is not known to be free.
    pub(super) fn of_row(id: &str, same: bool, state: Option<&str>, cost_micros: i64) -> Self {
        let state = state.and_then(EndState::from_word);
        Self {
            id: id.parse().unwrap_or_default(),
            same,
            state: Some(state.unwrap_or(EndState::Lost)).filter(|state| *state != EndState::Held),
            cost: MicroUsd(cost_micros),
        }
    }
}

/// Keys of requests that were held at this moment, or before, are free at `now`.
pub(super) fn free_since(now: Timestamp) -> Timestamp {
    now.minus(TAKEN)
}
