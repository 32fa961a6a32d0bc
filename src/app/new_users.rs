//! How many new users one address may bring in a day: so that whoever makes anonymous users by the thousand gets what one gets.
//!
//! A user is new who has made no request yet, by the ledger. Counted is in this process's memory, which is bounded: where it is
//! full, some address is counted anew.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::HeaderMap;
use quick_cache::sync::Cache;
use serde_json::json;
use uuid::Uuid;

use super::App;
use super::sender_address::address_of;
use crate::auth::Principal;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::error::{Code, Refusal};
use crate::ledger::users::has_requests;
use crate::plan::{Per, window};

/// How many addresses are counted at once.
const ADDRESSES_MAX: usize = 64 * 1024;
/// How many users are remembered who were let in.
const USERS_MAX: usize = 64 * 1024;

/// New users by address and day, and who was let in.
pub(super) struct NewUsers {
    /// By address, or network of one customer, and the first moment of the day.
    counts: Cache<(IpAddr, Timestamp), Arc<AtomicU32>>,
    known: Cache<Uuid, ()>,
}

impl Default for NewUsers {
    fn default() -> Self {
        Self {
            counts: Cache::new(ADDRESSES_MAX),
            known: Cache::new(USERS_MAX),
        }
    }
}

impl App {
    /// Lets a user in who has made a request before, or whose address has brought few new ones today.
    ///
    /// # Errors
    /// `rate_limited` until the day ends; `store_unavailable`: nobody can say who is new.
    pub(crate) async fn admit_new_user(
        &self,
        who: &Principal,
        headers: &HeaderMap,
        (config, now): (&Config, Timestamp),
    ) -> Result<(), Refusal> {
        let Some(most) = config.server.new_users_per_address_per_day else {
            return Ok(());
        };
        let (id, known) = (who.user_id(), &self.new_users.known);
        if known.get(&id).is_some() {
            return Ok(());
        }
        let Some(address) = address_of(headers, &config.server) else {
            return Ok(());
        };
        let reader = self.directory.reader();
        let asked = reader
            .read(move |reports| has_requests(reports.db(), id))
            .await;
        let has_requests = asked.map_err(|error| {
            tracing::warn!(error, "nobody can say who is new");
            Refusal::new(
                Code::StoreUnavailable,
                "The usage ledger cannot be read right now.",
            )
        })?;
        // Two first requests at once are one new user.
        let is_first = known.get(&id).is_none();
        if !has_requests && is_first {
            let day = window(Per::Day, now, &config.server.time_zone, None);
            let counts = &self.new_users.counts;
            let made = counts.get_or_insert_with(&(address, day.start), || {
                Ok::<_, std::convert::Infallible>(Arc::default())
            });
            let count = match made {
                Ok(count) => count,
                Err(never) => match never {},
            };
            let one_more = |count: u32| count.checked_add(1).filter(|count| *count <= most);
            let counted = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
            if counted.is_err() {
                return Err(too_many(most, day.end, now));
            }
        }
        known.insert(id, ());
        Ok(())
    }
}

fn too_many(most: u32, until: Timestamp, now: Timestamp) -> Refusal {
    let message = "Too many new users came from your network today: try again tomorrow.";
    let limit = json!({
        "per": "day", "unit": "new_users", "model": null, "limit": most, "used": most, "held": 0, "requested": 1,
        "resets_at": until.rfc3339(),
    });
    Refusal::new(Code::RateLimited, message)
        .retry_after(until.since(now))
        .with("limit", limit)
}
