//! The developer's database: the functions that `tollgate sql` installs there, over REST or over Postgres.
//!
//! It knows their names, arguments and answers. It does not know plans and caches nothing: the directory caches, the
//! outbox retries. Invariant: an answer that cannot be understood is a failure and is logged for the operator; it is
//! never taken for something else.

mod answer;
mod postgres;
mod rest;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::config::Via;

pub use answer::PlanAnswer;

/// The script for the developer's database: the schema `tollgate`, its two functions to edit, tables, grants and row-level
/// security.
pub(crate) const SCRIPT: &str = include_str!("../../sql/supabase.sql");

/// How long a look-up may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a batch of entries may take: with the cancelling of a call that took longer, less than the 15 s for which a
/// process has the outbox to itself (`unsent` in ledger/postgres/functions.sql), so that no two send the same batch at once.
const LOG_TIMEOUT: Duration = Duration::from_secs(12);

/// Why a call of the database failed. The texts are for the log and are not sent to callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseFailure {
    /// It cannot be reached or does not let us in, or its answer makes no sense: the same call may succeed later.
    Unavailable(String),
    /// It looked at what it was given and said no: the same call will not succeed.
    Refused(String),
    /// The function is not there.
    Missing,
}

impl fmt::Display for DatabaseFailure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(why) | Self::Refused(why) => out.write_str(why),
            Self::Missing => out.write_str("the function is not installed: see `tollgate sql`"),
        }
    }
}

impl std::error::Error for DatabaseFailure {}

/// Whose plan is asked for.
#[derive(Clone, Copy, Debug)]
pub struct AskedUser<'a> {
    /// The user.
    pub user_id: Uuid,
    /// The session that is to be alive, where that is asked for.
    pub session_id: Option<Uuid>,
    /// Another issuer, and what it calls the user.
    pub subject: Option<(&'a str, &'a str)>,
}

/// The developer's database. Cheap to clone.
#[derive(Clone)]
pub struct DeveloperDatabase {
    transport: Transport,
    said_missing: Arc<AtomicBool>,
}

#[derive(Clone)]
enum Transport {
    Rest(Arc<rest::RestApi>),
    Postgres(crate::pg::Database),
}

impl DeveloperDatabase {
    /// The database in the settings; `None` for [`Via::None`]. It does not connect yet.
    ///
    /// # Errors
    /// The URL cannot be used, or TLS cannot be set up.
    pub fn new(via: &Via, tasks: TaskTracker) -> Result<Option<Self>, String> {
        let transport = match via {
            Via::None => return Ok(None),
            Via::Rest {
                supabase_url,
                service_key,
            } => Transport::Rest(Arc::new(rest::RestApi::new(supabase_url, service_key)?)),
            Via::Postgres(url) => Transport::Postgres(postgres::open(url, tasks)?),
        };
        Ok(Some(Self {
            transport,
            said_missing: Arc::default(),
        }))
    }

    /// Takes a new key over, for the calls that come from now on. False: what differs is more than the key of the REST API,
    /// and nothing is taken over.
    #[must_use]
    pub fn adopt(&self, via: &Via) -> bool {
        match (&self.transport, via) {
            (
                Transport::Rest(rest),
                Via::Rest {
                    supabase_url,
                    service_key,
                },
            ) => rest.adopt(supabase_url, service_key),
            _ => false,
        }
    }

    /// `rest` or `postgres`.
    #[must_use]
    pub const fn via(&self) -> &'static str {
        match &self.transport {
            Transport::Rest(_) => "rest",
            Transport::Postgres(_) => "postgres",
        }
    }

    /// What `check_user_limits` says about a user; `None` is no answer, which it also is when the function is not
    /// there. With a session, the answer also says whether that is alive.
    ///
    /// # Errors
    /// Nobody can say. Never [`DatabaseFailure::Missing`].
    pub async fn check_user_limits(
        &self,
        user: AskedUser<'_>,
    ) -> Result<Option<PlanAnswer>, DatabaseFailure> {
        let asked = match &self.transport {
            Transport::Rest(rest) => rest.check_user(user).await,
            Transport::Postgres(database) => postgres::check_user(database, user).await,
        };
        match asked {
            Ok(value) => {
                self.said_missing.store(false, Ordering::Relaxed);
                PlanAnswer::read(&value)
            }
            Err(DatabaseFailure::Missing) => {
                if !self.said_missing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        via = self.via(),
                        "check_user_limits is not installed, so no plan comes from your database: run what `tollgate \
                         sql` prints there, or write [directory] via = \"none\""
                    );
                }
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Hands entries to `log_request`, in their order: all of them, or none.
    ///
    /// # Errors
    /// Nothing was logged. For [`DatabaseFailure::Unavailable`] it is unknown whether something was.
    pub async fn log_requests(&self, entries: &[Value]) -> Result<(), DatabaseFailure> {
        match &self.transport {
            Transport::Rest(rest) => rest.log_requests(entries).await,
            Transport::Postgres(database) => postgres::log_requests(database, entries).await,
        }
    }

    /// Hands entries to `on_purchase`, in their order: all of them, or none.
    ///
    /// # Errors
    /// As [`Self::log_requests`]; [`DatabaseFailure::Missing`] where the developer has no such function, which is as good.
    pub async fn on_purchases(&self, entries: &[Value]) -> Result<(), DatabaseFailure> {
        let is_there = match &self.transport {
            Transport::Rest(rest) => rest.on_purchases(entries).await?,
            Transport::Postgres(database) => postgres::on_purchases(database, entries).await?,
        };
        is_there.then_some(()).ok_or(DatabaseFailure::Missing)
    }
}

/// Errors of the functions themselves about what they were given: bad data, a broken constraint, a `raise` of their own
/// (appendix A of the Postgres manual; `PT…` is a `raise` that PostgREST turns into a status).
fn is_about_the_call(sqlstate: &str) -> bool {
    ["22", "23", "P0", "PT"]
        .iter()
        .any(|class| sqlstate.starts_with(class))
}

/// What the log may hold of a text from outside.
fn short(text: &str) -> String {
    text.chars()
        .filter(|letter| !letter.is_control())
        .take(300)
        .collect()
}
