//! The local subscription table and the credits, read through a connection that only reads.
//!
//! Answers are cached for `plan_cache`. The cache is dropped as soon as another process changes the ledger, so that a
//! `tollgate user plan` shows within a second. While the table cannot be read, a cached answer is used for up to
//! `plan_stale`; while its Postgres does not answer at all, nobody waits for it.

use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::time::Instant;
use uuid::Uuid;

use super::circuit::{Circuit, PATIENCE};
use crate::clock::Timestamp;
use crate::config::{Config, StoreUrl};
use crate::error::{Code, Refusal};
use crate::ledger::Ledger;
use crate::ledger::read::report::UserOverrides;
use crate::ledger::read::shared::Reader;

/// Connections that the usage log is read with. A user has one of them at a time (`Place::read_turn`), so that whose history
/// is long keeps no other waiting.
const USAGE_READERS: usize = 2;
/// How many users' answers are kept.
const CACHED_USERS: usize = 10_000;
/// How long a read of the ledger's file may take. A file does not hang; it is only slow on a busy machine.
const FILE_PATIENCE: Duration = Duration::from_secs(30);

/// An answer of the subscription table.
#[derive(Clone, Debug)]
struct SubscriptionAnswer {
    said: UserOverrides,
    read_at: Timestamp,
    epoch: u64,
}

/// The subscription table and a cache of its rows. Clones share the cache.
#[derive(Clone)]
pub(super) struct Local {
    ledger: Ledger,
    reader: Arc<Reader>,
    reports: [Arc<Reader>; USAGE_READERS],
    cache: Arc<Cache<Uuid, SubscriptionAnswer>>,
    circuit: Circuit,
}

impl Local {
    pub(super) fn new(ledger: Ledger) -> Self {
        let reader = || Arc::new(Reader::reading(&ledger));
        let (reader, reports) = (reader(), std::array::from_fn(|_| reader()));
        let patience = if matches!(ledger.store(), StoreUrl::Postgres(_)) {
            PATIENCE
        } else {
            FILE_PATIENCE
        };
        let circuit = Circuit::new("the ledger's table of subscriptions", patience);
        Self {
            ledger,
            reader,
            reports,
            cache: Arc::new(Cache::new(CACHED_USERS)),
            circuit,
        }
    }

    /// A connection for others who only read, one that nobody uses if there is one. It is not the one that plans are read
    /// with: a long look at the usage log must make nobody wait for a plan.
    pub(super) fn reader(&self) -> Arc<Reader> {
        let [first, ..] = &self.reports;
        self.reports
            .iter()
            .find(|reader| reader.is_free())
            .unwrap_or(first)
            .clone()
    }

    /// Forgets what is kept about a user.
    pub(super) fn forget(&self, user_id: Uuid) {
        self.cache.remove(&user_id);
    }

    /// What the operator said about a user.
    pub(super) async fn said_of(
        &self,
        user_id: Uuid,
        config: &Config,
        now: Timestamp,
    ) -> Result<UserOverrides, Refusal> {
        let epoch = self.ledger.epoch();
        let cached = self.cache.get(&user_id);
        let is_fresh = |answer: &SubscriptionAnswer| {
            answer.epoch == epoch
                && now.since(answer.read_at) < config.directory.plan_cache
                && answer.read_at <= now
        };
        if let Some(answer) = cached.as_ref().filter(|answer| is_fresh(answer)) {
            return Ok(answer.said.clone());
        }
        let serves =
            |answer: &SubscriptionAnswer| now.since(answer.read_at) < config.directory.plan_stale;
        let cached = cached.filter(serves);
        if let Some(said) = self.read(user_id, epoch, now, cached.is_some()).await {
            return Ok(said);
        }
        Ok(cached.ok_or_else(unreadable)?.said)
    }

    /// Reads what is said about a user and keeps it; `None`: it cannot be read now. While the table is silent, nobody
    /// waits for it who has an answer of it.
    async fn read(
        &self,
        user_id: Uuid,
        epoch: u64,
        now: Timestamp,
        has_answer: bool,
    ) -> Option<UserOverrides> {
        let permit = self.circuit.permit()?;
        let waits_until = if has_answer {
            Instant::now()
        } else {
            permit.waits_until()
        };
        let cache = self.cache.clone();
        let reading = self.reader.read(move |reports| {
            let said = permit.over(reports.said_of(user_id, now))?;
            // The cache is filled here, because the caller may have left.
            cache.insert(
                user_id,
                SubscriptionAnswer {
                    said: said.clone(),
                    read_at: now,
                    epoch,
                },
            );
            Ok(said)
        });
        let read = self.circuit.while_answering(waits_until, reading).await?;
        read.inspect_err(|error| tracing::warn!(error, "the subscription table cannot be read"))
            .ok()
    }
}

/// The table is the ledger's: what is down is the store, and not the developer's database.
fn unreadable() -> Refusal {
    Refusal::new(
        Code::StoreUnavailable,
        "The usage ledger cannot be read right now.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::config::StoreUrl;
    use crate::ledger::Settings;

    #[tokio::test]
    async fn a_long_look_at_the_usage_log_makes_nobody_wait_for_a_plan() {
        let folder = std::env::temp_dir().join(format!("tollgate-directory-{}", Uuid::now_v7()));
        let settings = Settings {
            store: StoreUrl::Sqlite(folder.join("ledger.db")),
            outbox: false,
            lease: Duration::from_mins(1),
            keep_requests: Duration::from_hours(24 * 400),
            time_zone: jiff::tz::TimeZone::UTC,
        };
        let (ledger, writer) = Ledger::open(settings, Clock::system()).unwrap();
        let directory = Local::new(ledger);
        let (hurry, wait) = std::sync::mpsc::channel::<()>();
        let reports = directory.reader();
        let long = reports.read(move |_| Ok(wait.recv().is_ok()));
        let reader = directory.reader.clone();
        let look = async {
            let looked =
                reader.read(|reports| reports.said_of(Uuid::from_u128(1), Timestamp::EPOCH));
            let looked = tokio::time::timeout(Duration::from_secs(5), looked).await;
            hurry.send(()).unwrap();
            looked
        };
        let (long, looked) = tokio::join!(long, look);
        assert_eq!(long, Ok(true));
        assert_eq!(looked, Ok(Ok(UserOverrides::default())));
        writer.close();
        drop(std::fs::remove_dir_all(folder));
    }
}
