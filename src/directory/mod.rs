//! Where a caller's plan comes from: the developer's database, the token's claim, the local subscription table, a
//! purchase.
//!
//! It collects the answers and refuses blocked users. Which answer counts is decided by `plan::plan_for`. If the
//! database is configured, cannot answer and has no cached answer, the caller is refused: no plan is guessed.

mod circuit;
mod local;
mod remote;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::auth::{Device, Principal};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::error::{Code, Refusal};
use crate::ledger::Ledger;
use crate::ledger::read::shared::Reader;
use crate::plan::{EffectivePlan, Plan, PlanSources, plan_for};
use crate::supabase::{DeveloperDatabase, PlanAnswer};
use local::Local;
use remote::{CacheTimes, DatabaseCaller, NoAnswer, Remote, UserSession};

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
    pub fn new(ledger: Ledger, database: Option<DeveloperDatabase>, tasks: TaskTracker) -> Self {
        Self {
            local: Local::new(ledger),
            remote: database.map(|database| Remote::new(database, tasks)),
        }
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
    pub async fn plan_of(
        &self,
        principal: &Principal,
        config: &Config,
        now: Timestamp,
    ) -> Result<EffectivePlan, Refusal> {
        let said = self.local.said_of(principal.user_id(), config, now).await?;
        if said.is_blocked() {
            return Err(blocked());
        }
        let live = config.products.live(&said.purchases, &config.plans, now);
        let purchase = live.into_iter().next().map(|live| (live, now));
        let (local, credits) = (said.subscription_at(now), said.credits);
        let answer = self.answer(principal, config, now).await?;
        if answer.as_ref().is_some_and(|answer| !answer.allowed) {
            return Err(blocked());
        }
        let database = answer.map(|answer| answer.assigned.clone());
        let anonymous_plan = config
            .auth
            .anonymous_plan
            .clone()
            .filter(|_| principal.is_anonymous());
        let claim = principal.plan_claim().map(str::to_owned);
        let mut granted = plan_for(
            &PlanSources {
                database,
                claim,
                local,
                purchase,
                anonymous_plan,
                credits,
                is_attested: config.attest.raises() && principal.device() == Device::Attested,
            },
            &config.plans,
        );
        resolve_models(&mut granted, config);
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
        let none = || DirectoryHealth {
            ok: true,
            via: "none",
            error: None,
        };
        self.remote.as_ref().map_or_else(none, Remote::health)
    }

    /// Look-ups in the developer's database since the start, by what they brought.
    #[must_use]
    pub fn lookups(&self) -> Vec<(&'static str, u64)> {
        self.remote
            .as_ref()
            .map(Remote::lookups)
            .unwrap_or_default()
    }

    /// What the database says about a caller, whose session it knows to be alive where that is asked for.
    async fn answer(
        &self,
        principal: &Principal,
        config: &Config,
        now: Timestamp,
    ) -> Result<Option<Arc<PlanAnswer>>, Refusal> {
        let Some(remote) = &self.remote else {
            return Ok(None);
        };
        // Other issuers' sessions are not in the project's database.
        let is_checked = config.auth.check_session && principal.subject().is_none();
        if is_checked && principal.session_id().is_none() {
            return Err(Refusal::new(
                Code::InvalidToken,
                "The token names no session: sign in again.",
            ));
        }
        let session = UserSession {
            user_id: principal.user_id(),
            session_id: principal.session_id().filter(|_| is_checked),
        };
        let times = CacheTimes {
            fresh: config.directory.plan_cache,
            stale: config.directory.plan_stale,
        };
        let caller = DatabaseCaller {
            session,
            subject: principal.subject().cloned(),
        };
        let answer = remote
            .answer(caller, times, now)
            .await
            .map_err(|NoAnswer| unavailable())?;
        if is_checked {
            check_session(answer.as_deref())?;
        }
        Ok(answer)
    }
}

/// Limits of the database name a model as its author does: they get the name that the plan has for it. A limit for a model
/// that the plan does not have counts nothing, and is worth a log line.
fn resolve_models(granted: &mut EffectivePlan, config: &Config) {
    let is_known = |plan: &Plan, name: &str| plan.models.iter().any(|model| model == name);
    let plan = &granted.plan;
    let mut named = plan
        .limits
        .iter()
        .filter_map(|limit| limit.model.as_deref());
    if named.all(|name| is_known(plan, name)) {
        return;
    }
    let mut plan = Plan::clone(plan);
    let mut limits = std::mem::take(&mut plan.limits);
    for limit in &mut limits {
        let Some(name) = limit.model.take() else {
            continue;
        };
        let resolved = config.prices.entry(&name, &config.models);
        if !is_known(&plan, resolved.unwrap_or(&name)) {
            tracing::warn!(
                plan = plan.name,
                model = &*name,
                "a limit from the database is for a model that the plan does not have: it counts nothing"
            );
        }
        limit.model = Some(resolved.map_or(name.clone(), Arc::from));
    }
    plan.limits = limits;
    granted.plan = Arc::new(plan);
}

/// A session that is over, or whose user is banned, is a token no more. A database that cannot say is not taken for a
/// yes: the operator asked for this check.
fn check_session(answer: Option<&PlanAnswer>) -> Result<(), Refusal> {
    match answer.map(|answer| (answer.session_alive, answer.banned)) {
        Some((Some(false), _) | (_, Some(true))) => Err(Refusal::new(
            Code::InvalidToken,
            "You were signed out: sign in again.",
        )),
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
    Refusal::new(
        Code::DirectoryUnavailable,
        "Your plan cannot be looked up right now.",
    )
}
