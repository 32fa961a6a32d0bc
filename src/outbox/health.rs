//! How far behind the outbox is, as readiness tells it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::clock::Timestamp;
use crate::ledger::Lag;

/// Readiness says that the outbox is not well when its oldest row has waited longer.
const LAG_MAX: Duration = Duration::from_mins(5);

/// The lag as it was last seen, for readiness: reading it costs no query.
#[derive(Clone, Debug, Default)]
pub struct OutboxLag(Arc<Mutex<Lag>>);

/// `{"ok", "unsent", "oldest_seconds", "given_up"}`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct OutboxHealth {
    /// Nothing has waited longer than five minutes. Requests are served either way.
    pub ok: bool,
    /// Rows that wait, counted to 100,000.
    pub unsent: i64,
    /// How long the oldest of them has waited; null where none waits.
    pub oldest_seconds: Option<u64>,
    /// Dead letters, counted to 100,000.
    pub given_up: i64,
}

impl OutboxLag {
    /// Takes over what was seen.
    pub(super) fn set(&self, lag: Lag) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = lag;
    }

    /// How far behind the outbox is at `now`.
    #[must_use]
    pub fn health(&self, now: Timestamp) -> OutboxHealth {
        let lag = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = lag.oldest.map(|ended| now.since(ended));
        OutboxHealth {
            ok: oldest.is_none_or(|waited| waited <= LAG_MAX),
            unsent: lag.unsent,
            oldest_seconds: oldest.map(|waited| waited.as_secs()),
            given_up: lag.given_up,
        }
    }
}
