//! A reservation: money held for one request, and the duty to end it.
//!
//! It is dropped exactly once, so a hold ends exactly once: by [`Reservation::end`], or by the drop itself — voided before
//! [`Reservation::dispatched`], lost after. Ending only sends a message; nothing here waits.

use std::sync::mpsc::Sender;

use uuid::Uuid;

use super::settlement::Settlement;
use super::writer::Job;
use super::{Ending, Timestamp};
use crate::plan::{Amounts, Hold};

/// Money held for one request.
#[must_use = "a reservation that is dropped ends at once"]
#[derive(Debug)]
pub struct Reservation {
    id: Uuid,
    started_at: Timestamp,
    hold: Hold,
    stage: Stage,
    jobs: Sender<Job>,
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
    pub(super) fn new(id: Uuid, started_at: Timestamp, jobs: Sender<Job>) -> Self {
        let hold = Hold { output_cap: 0, amounts: Amounts::default() };
        Self { id, started_at, hold, stage: Stage::Held, jobs }
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
        if self.jobs.send(Job::End(Ending { id: self.id, settlement })).is_err() {
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
