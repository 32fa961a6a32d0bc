//! A reservation: money held for one request, and the duty to end it.
//!
//! It is dropped exactly once, so a hold ends exactly once: by [`Reservation::end`], or by the drop itself — voided before
//! [`Reservation::dispatched`], lost after. Ending only sends a message; nothing here waits.

use uuid::Uuid;

use super::jobs::{Job, Jobs};
use super::settlement::Settlement;
use super::{Ending, HoldRequest, Timestamp};
use crate::plan::{Amounts, Hold};

/// Money held for one request.
#[must_use = "a reservation that is dropped ends at once"]
#[derive(Debug)]
pub struct Reservation {
    id: Uuid,
    user_id: Uuid,
    started_at: Timestamp,
    hold: Hold,
    stage: Stage,
    jobs: Jobs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing was sent to an upstream.
    Held,
    /// The upstream may have begun to work.
    Dispatched,
    /// Ended, or never held.
    Over,
}

impl Reservation {
    pub(super) fn new(request: &HoldRequest, jobs: Jobs) -> Self {
        let hold = Hold { output_cap: 0, amounts: Amounts::default() };
        let HoldRequest { id, user_id, now, .. } = *request;
        Self { id, user_id, started_at: now, hold, stage: Stage::Held, jobs }
    }

    pub(super) fn granted(&mut self, hold: Hold) {
        self.hold = hold;
    }

    /// Nothing was held: there is nothing to end.
    pub(super) fn forget(mut self) {
        self.stage = Stage::Over;
    }

    /// The id of the request.
    #[must_use]
    pub const fn id(&self) -> Uuid {
        self.id
    }

    /// When it was held.
    #[must_use]
    pub const fn started_at(&self) -> Timestamp {
        self.started_at
    }

    /// What is held, and the output cap that it pays for.
    #[must_use]
    pub const fn hold(&self) -> Hold {
        self.hold
    }

    /// From here on the upstream may have been told: dropping this is a loss, not a void.
    pub fn dispatched(&mut self) {
        self.stage = Stage::Dispatched;
    }

    /// Ends the hold.
    pub fn end(mut self, settlement: Settlement) {
        self.send(settlement);
    }

    fn send(&mut self, settlement: Settlement) {
        self.stage = Stage::Over;
        let ending = Ending { id: self.id, user_id: self.user_id, settlement };
        if !self.jobs.send(Job::End(ending)) {
            tracing::error!(request_id = %self.id, "the ledger's writer is gone: the next start ends this request");
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        match self.stage {
            Stage::Held => self.send(Settlement::void()),
            Stage::Dispatched => self.send(Settlement::lost()),
            Stage::Over => {}
        }
    }
}
