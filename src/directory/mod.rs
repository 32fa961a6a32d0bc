//! Where a caller's plan comes from: the token's claim and the local subscription table.
//!
//! Answers of the table are cached for `plan_cache`, and dropped as soon as another process changes the ledger, so a
//! `tollgate user plan` shows within a second. While the table cannot be read, a cached answer serves up to `plan_stale`.
//! Which of the answers counts is decided by `plan::plan_for`, not here.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use quick_cache::sync::Cache;
use uuid::Uuid;

use crate::auth::Principal;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::error::{Code, Refusal};
use crate::ledger::Ledger;
use crate::ledger::report::{Reports, SubscriptionRow};
use crate::plan::{Granted, Looked, plan_for};

/// How many users' answers are kept.
const CACHED_USERS: usize = 10_000;

/// An answer of the subscription table.
#[derive(Clone, Debug)]
struct Answer {
    row: Option<SubscriptionRow>,
    read_at: Timestamp,
    epoch: u64,
}

/// Looks plans up. Cheap to clone.
#[derive(Clone)]
pub struct Directory {
    ledger: Ledger,
    reader: Arc<Reader>,
    cache: Arc<Cache<Uuid, Answer>>,
}

impl Directory {
    /// A directory over the ledger's subscription table.
    #[must_use]
    pub fn new(ledger: Ledger) -> Self {
        let reader = Arc::new(Reader::new(ledger.path().to_owned()));
        Self { ledger, reader, cache: Arc::new(Cache::new(CACHED_USERS)) }
    }

    /// The connection it reads with, for others who only read.
    #[must_use]
    pub fn reader(&self) -> Arc<Reader> {
        self.reader.clone()
    }

    /// The plan of a caller.
    ///
    /// # Errors
    /// `user_blocked`; `directory_unavailable` when nobody can say.
    pub async fn plan_of(&self, principal: &Principal, config: &Config, now: Timestamp) -> Result<Granted, Refusal> {
        let local = self.subscription(principal.user_id(), config, now).await?.map(|row| row.at(now));
        if local.as_ref().is_some_and(|row| row.blocked) {
            return Err(Refusal::new(Code::UserBlocked, "This account is blocked."));
        }
        let anonymous_plan = config.auth.anonymous_plan.clone().filter(|_| principal.is_anonymous());
        let claim = principal.plan_claim().map(str::to_owned);
        let granted = plan_for(&Looked { claim, local, anonymous_plan }, &config.plans);
        for name in &granted.unknown {
            tracing::warn!(user_id = %principal.user_id(), plan = name, "no plan has this name: it counts as no answer");
        }
        Ok(granted)
    }

    async fn subscription(
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
                let answer = cached.filter(serves).ok_or_else(|| {
                    Refusal::new(Code::DirectoryUnavailable, "Your plan cannot be looked up right now.")
                })?;
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
