//! The local subscription table, read through a connection that only reads.
//!
//! Answers are cached for `plan_cache`, and dropped as soon as another process changes the ledger, so that a
//! `tollgate user plan` shows within a second. While the table cannot be read, a cached answer serves up to `plan_stale`.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use quick_cache::sync::Cache;
use uuid::Uuid;

use super::unavailable;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::error::Refusal;
use crate::ledger::Ledger;
use crate::ledger::report::{Reports, SubscriptionRow};

/// How many users' answers are kept.
const CACHED_USERS: usize = 10_000;

/// An answer of the subscription table.
#[derive(Clone, Debug)]
struct Answer {
    row: Option<SubscriptionRow>,
    read_at: Timestamp,
    epoch: u64,
}

/// The subscription table and what it said. Clones share what is kept.
#[derive(Clone)]
pub(super) struct Local {
    ledger: Ledger,
    reader: Arc<Reader>,
    cache: Arc<Cache<Uuid, Answer>>,
}

impl Local {
    pub(super) fn new(ledger: Ledger) -> Self {
        let reader = Arc::new(Reader::new(ledger.path().to_owned()));
        Self { ledger, reader, cache: Arc::new(Cache::new(CACHED_USERS)) }
    }

    pub(super) fn reader(&self) -> Arc<Reader> {
        self.reader.clone()
    }

    /// Forgets what is kept about a user.
    pub(super) fn forget(&self, user_id: Uuid) {
        self.cache.remove(&user_id);
    }

    /// A user's row, if there is one.
    pub(super) async fn subscription(
        &self,
        user_id: Uuid,
        config: &Config,
        now: Timestamp,
    ) -> Result<Option<SubscriptionRow>, Refusal> {
        let epoch = self.ledger.epoch();
        let cached = self.cache.get(&user_id);
        let is_fresh = |answer: &Answer| {
            answer.epoch == epoch && now.since(answer.read_at) < config.directory.plan_cache && answer.read_at <= now
        };
        if let Some(answer) = cached.as_ref().filter(|answer| is_fresh(answer)) {
            return Ok(answer.row.clone());
        }
        match self.reader.read(move |reports| reports.subscription(user_id)).await {
            Ok(row) => {
                self.cache.insert(user_id, Answer { row: row.clone(), read_at: now, epoch });
                Ok(row)
            }
            Err(error) => {
                tracing::warn!(error, "the subscription table cannot be read");
                let serves = |answer: &Answer| now.since(answer.read_at) < config.directory.plan_stale;
                let answer = cached.filter(serves).ok_or_else(unavailable)?;
                Ok(answer.row)
            }
        }
    }
}

/// One connection for reading the ledger, opened when it is first needed and again after a failure.
pub struct Reader {
    path: PathBuf,
    reports: Mutex<Option<Reports>>,
}

impl Reader {
    fn new(path: PathBuf) -> Self {
        Self { path, reports: Mutex::new(None) }
    }

    /// Reads on a thread that may block.
    ///
    /// # Errors
    /// The ledger cannot be read: why, for the log.
    pub async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Reports) -> Result<T, crate::ledger::Failure> + Send + 'static,
    ) -> Result<T, String> {
        let reader = self.clone();
        let done = tokio::task::spawn_blocking(move || reader.read_now(read)).await;
        done.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    fn read_now<T>(
        &self,
        read: impl FnOnce(&Reports) -> Result<T, crate::ledger::Failure>,
    ) -> Result<T, crate::ledger::Failure> {
        let mut kept = self.reports.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let reports = match kept.take() {
            Some(reports) => reports,
            None => Reports::open(&self.path)?,
        };
        let answer = read(&reports)?;
        *kept = Some(reports);
        Ok(answer)
    }
}
