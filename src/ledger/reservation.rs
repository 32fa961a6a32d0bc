//! A reservation: money held for one request, and the duty to end it.
//!
//! It is dropped exactly once, so a hold ends exactly once: by [`Reservation::end`], or by the drop itself — voided before
//! [`Reservation::dispatched`], lost after. Ending only sends a message and waits for nothing.

use tokio::sync::oneshot;
use uuid::Uuid;

use super::settlement::Settlement;
use super::{COMMIT_TIMEOUT, Ending, HoldRequest, NoHold, Timestamp};
use crate::ledger::queue::{Job, Jobs};
use crate::plan::{Amounts, Hold, PaidBy};
use crate::price::Quantities;

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
        let hold = Hold {
            output_cap: 0,
            quantities: Quantities::NONE,
            amounts: Amounts::default(),
            paid_by: PaidBy::Plan,
        };
        let HoldRequest {
            id, user_id, now, ..
        } = *request;
        Self {
            id,
            user_id,
            started_at: now,
            hold,
            stage: Stage::Held,
            jobs,
        }
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

    /// Whose request it is.
    #[must_use]
    pub const fn user_id(&self) -> Uuid {
        self.user_id
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

    /// Puts the hold of `request` in the place of the one that is there, in one step of the ledger: when this is done the
    /// row has the one or the other. It belongs to the windows of the first, whose id and moment it has, and may be
    /// followed by a dispatch. Whatever was dispatched before must be certain to have used nothing.
    ///
    /// # Errors
    /// Why not: what was held is held still. After [`NoHold::Store`] nobody knows which of the two it is, and the
    /// reservation can only be ended as void.
    pub async fn replace(&mut self, request: HoldRequest) -> Result<(), NoHold> {
        let request = HoldRequest {
            id: self.id,
            user_id: self.user_id,
            now: self.started_at,
            concurrent: None,
            replaces: Some(self.hold),
            ..request
        };
        self.stage = Stage::Held;
        let (answer, wait) = oneshot::channel();
        if !self.jobs.send(Job::Hold(Box::new(request), answer)) {
            return Err(NoHold::Store);
        }
        match tokio::time::timeout(COMMIT_TIMEOUT, wait).await {
            Ok(Ok(answer)) => answer.map(|hold| self.hold = hold),
            Ok(Err(_)) | Err(_) => Err(NoHold::Store),
        }
    }

    /// Ends the hold.
    pub fn end(mut self, settlement: Settlement) {
        self.send(settlement);
    }

    fn send(&mut self, settlement: Settlement) {
        self.stage = Stage::Over;
        let ending = Ending {
            id: self.id,
            user_id: self.user_id,
            settlement,
        };
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;
    use crate::config::StoreUrl;
    use crate::ledger::{Ledger, Settings};

    async fn hold(ledger: &Ledger, id: Uuid) -> Reservation {
        let price = crate::price::PriceTable::shipped()
            .models
            .remove("gpt-4o-mini")
            .unwrap();
        let quote = crate::plan::Quote {
            price,
            base: Quantities::of_input(1000),
            output_cap: 1000,
            output_floor: 10,
            choices: 1,
        };
        let request = HoldRequest {
            id,
            user_id: Uuid::from_u128(7),
            now: Clock::system().now(),
            plan: "free".to_owned(),
            endpoint: "/v1/chat/completions".into(),
            model: "gpt-4o-mini".to_owned(),
            plan_model: None,
            requested_model: None,
            feature: None,
            prompt_version: None,
            upstream: "openai".to_owned(),
            quote,
            limits: Vec::new(),
            concurrent: None,
            ceiling: None,
            idempotency: None,
            replaces: None,
            credits: false,
        };
        ledger.hold(request).await.unwrap()
    }

    /// Whoever has the reservation panics: nothing but its drop is left to end it.
    #[test]
    fn a_panic_voids_what_was_not_sent_and_loses_what_was() {
        let folder = std::env::temp_dir().join(format!("tollgate-reservation-{}", Uuid::now_v7()));
        let path = folder.join("ledger.db");
        let settings = Settings {
            store: StoreUrl::Sqlite(path.clone()),
            lease: Duration::from_mins(1),
            keep_requests: Duration::from_hours(24 * 400),
            time_zone: jiff::tz::TimeZone::UTC,
            outbox: false,
        };
        let (ledger, writer) = Ledger::open(settings, Clock::system()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let (unsent, sent) = (Uuid::from_u128(1), Uuid::from_u128(2));
        for id in [unsent, sent] {
            let mut reservation = runtime.block_on(hold(&ledger, id));
            let stumbled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
                if id == sent {
                    reservation.dispatched();
                }
                panic!("a handler with a reservation in its hands");
            }));
            assert!(stumbled.is_err());
        }
        drop(ledger);
        writer.close();
        let db = rusqlite::Connection::open(&path).unwrap();
        let row = |id: Uuid| {
            let read = |row: &rusqlite::Row<'_>| {
                Ok((row.get(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
            };
            let sql = "select state, cost_micros, held_micros from requests where id = ?1";
            let (state, cost, held): (String, i64, i64) =
                db.query_row(sql, [id.to_string()], read).unwrap();
            (state, cost, held)
        };
        assert_eq!((row(unsent).0.as_str(), row(unsent).1), ("voided", 0));
        let (state, cost, held) = row(sent);
        assert_eq!(
            (state.as_str(), cost),
            ("lost", held),
            "it is charged what it held"
        );
        assert!(held > 0);
        drop(std::fs::remove_dir_all(&folder));
    }
}
