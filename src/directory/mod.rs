//! Where a caller's plan comes from: the developer's own database, the token's claim, the local subscription table.
//!
//! It asks, and says no to those who are blocked; which of the answers counts is decided by `plan::plan_for`, not here.
//! When the database is configured and can say nothing, now or lately, nobody is let in on a guess.

mod circuit;
mod local;
mod remote;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::auth::Principal;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::database::{Answer, Database};
use crate::error::{Code, Refusal};
use crate::ledger::Ledger;
use crate::ledger::kept::Reader;
use crate::plan::{Granted, Looked, plan_for};
use local::Local;
use remote::{Keep, Remote, Unavailable, Whom};

pub use remote::DirectoryHealth;

/// Looks plans up. Cheap to clone.
#[derive(Clone)]
pub struct Directory {
    local: Local,
    remote: Option<Remote>,
}

impl Directory {
    /// A directory over the ledger's subscription table and, where there is one, the developer's database.
    /// Look-ups run on `tasks`.
    #[must_use]
    pub fn new(ledger: Ledger, database: Option<Database>, tasks: TaskTracker) -> Self {
        Self { local: Local::new(ledger), remote: database.map(|database| Remote::new(database, tasks)) }
    }

    /// The connection it reads with, for others who only read.
    #[must_use]
    pub fn reader(&self) -> Arc<Reader> {
        self.local.reader()
    }

    /// The plan of a caller.
    ///
    /// # Errors
    /// `user_blocked`; `invalid_token` for a session that is over; `directory_unavailable` when nobody can say.
    pub async fn plan_of(&self, principal: &Principal, config: &Config, now: Timestamp) -> Result<Granted, Refusal> {
        let said = self.local.said_of(principal.user_id(), config, now).await?;
        if said.is_blocked() {
            return Err(blocked());
        }
        let (local, credits) = (said.subscription_at(now), said.credits);
        let answer = self.answer(principal, config, now).await?;
        if answer.as_ref().is_some_and(|answer| !answer.allowed) {
            return Err(blocked());
        }
        let database = answer.map(|answer| answer.assigned.clone());
        let anonymous_plan = config.auth.anonymous_plan.clone().filter(|_| principal.is_anonymous());
        let claim = principal.plan_claim().map(str::to_owned);
        let granted = plan_for(&Looked { database, claim, local, anonymous_plan, credits }, &config.plans);
        for name in &granted.unknown {
            tracing::warn!(user_id = %principal.user_id(), plan = name, "no plan has this name: it counts as no answer");
        }
        Ok(granted)
    }

    /// Forgets what is kept about a user, so that the next request sees what has changed.
    pub fn refresh(&self, user_id: Uuid) {
        self.local.forget(user_id);
        if let Some(remote) = &self.remote {
            remote.forget(user_id);
        }
    }

    /// What is known, without asking anybody.
    #[must_use]
    pub fn health(&self) -> DirectoryHealth {
        let none = || DirectoryHealth { ok: true, via: "none", error: None };
        self.remote.as_ref().map_or_else(none, Remote::health)
    }

    /// Look-ups in the developer's database since the start, by what they brought.
    #[must_use]
    pub fn lookups(&self) -> Vec<(&'static str, u64)> {
        self.remote.as_ref().map(Remote::lookups).unwrap_or_default()
    }

    /// What the database says about a caller, whose session it knows to be alive where that is asked for.
    async fn answer(
        &self,
        principal: &Principal,
        config: &Config,
        now: Timestamp,
    ) -> Result<Option<Arc<Answer>>, Refusal> {
        let Some(remote) = &self.remote else { return Ok(None) };
        let is_checked = config.auth.check_session;
        if is_checked && principal.session_id().is_none() {
            return Err(Refusal::new(Code::InvalidToken, "The token names no session: sign in again."));
        }
        let whom = Whom { user_id: principal.user_id(), session_id: principal.session_id().filter(|_| is_checked) };
        let keep = Keep { fresh: config.directory.plan_cache, stale: config.directory.plan_stale };
        let answer = remote.answer(whom, keep, now).await.map_err(|Unavailable| unavailable())?;
        if is_checked {
            check_session(answer.as_deref())?;
        }
        Ok(answer)
    }
}

/// A session that is over, or whose user is banned, is a token no more. A database that cannot say is not taken for a
/// yes: the operator asked for this check.
fn check_session(answer: Option<&Answer>) -> Result<(), Refusal> {
    match answer.map(|answer| (answer.session_alive, answer.banned)) {
        Some((Some(false), _) | (_, Some(true))) => {
            Err(Refusal::new(Code::InvalidToken, "You were signed out: sign in again."))
        }
        Some((Some(true), _)) => Ok(()),
        _ => {
            tracing::error!(
                "check_session = true, but the database does not say whether a session is alive: run what \
                             `tollgate sql` prints, in the database that has auth.sessions"
            );
            Err(unavailable())
        }
    }
}

fn blocked() -> Refusal {
    Refusal::new(Code::UserBlocked, "This account is blocked.")
}

fn unavailable() -> Refusal {
    Refusal::new(Code::DirectoryUnavailable, "Your plan cannot be looked up right now.")
}
