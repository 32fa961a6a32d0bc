//! A cache of the developer's database's answers.
//!
//! It knows users, sessions, answers and their age; it does not know what an answer means. Invariants:
//! - A fresh answer costs one look into the cache.
//! - At most one look-up is in progress for one user (and session). It runs in a task of its own, so that a caller that
//!   leaves does not cancel it for the others.
//! - An answer is used for at most `stale` after it was asked for. A failed look-up replaces nothing.
//! - Nobody waits long for a database that does not answer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quick_cache::sync::Cache;
use serde::Serialize;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::circuit::{Circuit, PATIENCE};
use crate::auth::Subject;
use crate::clock::Timestamp;
use crate::plan::{DatabaseAnswer, DatedPeriod, Period};
use crate::single_flight::{Landing, SingleFlight};
use crate::supabase::{AskedUser, DatabaseFailure, DeveloperDatabase, PlanAnswer};

/// How many answers are cached.
const KEPT_MAX: usize = 10_000;
/// How long a failed look-up is not repeated for the same user. Until then callers get the failure at once.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long a caller waits for a look-up, which has a shorter time-out of its own.
const WAIT_MAX: Duration = Duration::from_secs(8);

/// The subject of an answer: a user and, where sessions are checked, one of their sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct UserSession {
    pub(super) user_id: Uuid,
    pub(super) session_id: Option<Uuid>,
}

/// A caller as the database is told of them.
#[derive(Clone, Debug)]
pub(super) struct DatabaseCaller {
    pub(super) session: UserSession,
    /// Whom another issuer's token names.
    pub(super) subject: Option<Arc<Subject>>,
}

/// How long cached answers are used.
#[derive(Clone, Copy, Debug)]
pub(super) struct CacheTimes {
    /// Without asking again.
    pub(super) fresh: Duration,
    /// While the database does not answer.
    pub(super) stale: Duration,
}

/// The database has no answer, and there is no cached one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoAnswer;

/// What readiness tells about the directory. Fields with nothing to say are null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DirectoryHealth {
    /// The last look-up that ended brought an answer, or none was made yet.
    pub ok: bool,
    /// `rest`, `postgres` or `none`.
    pub via: &'static str,
    /// That the last look-up failed. Readiness is public, so the reason is in the log only.
    pub error: Option<&'static str>,
}

/// A database and a cache of its answers. Clones share the cache.
#[derive(Clone)]
pub(super) struct Remote {
    database: DeveloperDatabase,
    tasks: TaskTracker,
    kept: Arc<Cache<UserSession, Arc<CacheSlot>>>,
    circuit: Circuit,
    /// Why the look-up that ended last failed.
    error: Arc<Mutex<Option<String>>>,
    counts: Arc<LookupCounts>,
}

/// Look-ups that have ended.
#[derive(Debug, Default)]
struct LookupCounts {
    answered: AtomicU64,
    no_answer: AtomicU64,
    failed: AtomicU64,
}

/// The cache entry of one user or session.
#[derive(Default)]
struct CacheSlot(Mutex<CacheState>);

#[derive(Default)]
struct CacheState {
    answer: Option<CachedAnswer>,
    failed: Option<Instant>,
    flight: SingleFlight,
}

/// An answer (`None`: there is none, for sure) and when it was asked for, by both clocks: wall time may be set back.
#[derive(Clone)]
struct CachedAnswer {
    answer: Option<Arc<PlanAnswer>>,
    asked: (Timestamp, Instant),
    /// The period as it was said, which may not be the one that counts.
    said: Option<Period>,
}

impl CachedAnswer {
    /// An answer with the period that counts after this one.
    fn successor(
        before: Option<&Self>,
        answer: Option<PlanAnswer>,
        asked: (Timestamp, Instant),
    ) -> Self {
        let said = answer.as_ref().and_then(|answer| answer.assigned.period);
        let then = || {
            let before = before?;
            let counts = before.answer.as_ref()?.assigned.period?;
            let before = DatedPeriod {
                period: before.said?,
                asked: before.asked.0,
            };
            Some(counts.then(
                before,
                DatedPeriod {
                    period: said?,
                    asked: asked.0,
                },
            ))
        };
        let period = then().or(said);
        if period != said {
            warn_about_moving_period();
        }
        let with_period = |answer: PlanAnswer| {
            let assigned = DatabaseAnswer {
                period,
                ..answer.assigned
            };
            Arc::new(PlanAnswer { assigned, ..answer })
        };
        Self {
            answer: answer.map(with_period),
            asked,
            said,
        }
    }

    /// How long ago it was asked for, by the clock that says longer.
    fn age(&self, now: Timestamp) -> Duration {
        now.since(self.asked.0).max(self.asked.1.elapsed())
    }
}

/// Says once that periods are counted from the moment of the look-up.
fn warn_about_moving_period() {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            "check_user_limits counts a period from now(): the window that is open goes on for up to a day. Answer the \
             subscription's own period_start and period_end, or leave both out"
        );
    }
}

/// What a caller is to do.
enum Lookup {
    Serve(Option<Arc<PlanAnswer>>),
    /// For the end of a look-up: until so long at least, whatever others wait for.
    Wait(Landing, Instant),
    Decide,
}

impl Remote {
    pub(super) fn new(database: DeveloperDatabase, tasks: TaskTracker) -> Self {
        let circuit = Circuit::new("the database that says who has which plan", PATIENCE);
        let kept = Arc::new(Cache::new(KEPT_MAX));
        Self {
            database,
            tasks,
            kept,
            circuit,
            error: Arc::default(),
            counts: Arc::default(),
        }
    }

    /// Look-ups that have ended, by what they brought.
    pub(super) fn lookups(&self) -> Vec<(&'static str, u64)> {
        let LookupCounts {
            answered,
            no_answer,
            failed,
        } = &*self.counts;
        let counts = [
            ("answered", answered),
            ("no_answer", no_answer),
            ("failed", failed),
        ];
        counts
            .map(|(outcome, count)| (outcome, count.load(Ordering::Relaxed)))
            .to_vec()
    }

    /// The database's answer about a user: a cached one, or a new one.
    pub(super) async fn answer(
        &self,
        caller: DatabaseCaller,
        times: CacheTimes,
        now: Timestamp,
    ) -> Result<Option<Arc<PlanAnswer>>, NoAnswer> {
        let slot = self.slot(caller.session);
        let has_ended = match self.step(&slot, caller, times, now) {
            Lookup::Serve(answer) => return Ok(answer),
            Lookup::Decide => false,
            Lookup::Wait(landing, at_least) => {
                let landed = self.circuit.while_answering(at_least, landing.landed());
                let waited = timeout(WAIT_MAX, landed).await;
                if waited.is_err() {
                    tracing::warn!("a look-up in the directory takes too long");
                }
                matches!(waited, Ok(Some(())))
            }
        };
        let state = slot.lock();
        let is_current = has_ended && state.failed.is_none();
        let serves = |kept: &&CachedAnswer| is_current || kept.age(now) < times.stale;
        state
            .answer
            .as_ref()
            .filter(serves)
            .map(|kept| kept.answer.clone())
            .ok_or(NoAnswer)
    }

    /// Forgets what is kept about a user: the next request asks again. A look-up that is under way counts for those who
    /// wait for it, and for nobody after them.
    pub(super) fn forget(&self, user_id: Uuid) {
        self.kept.retain(|session, _| session.user_id != user_id);
    }

    /// What the look-up that ended last says.
    pub(super) fn health(&self) -> DirectoryHealth {
        let is_failing = self
            .error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some();
        let error = is_failing.then_some("the last look-up failed: the log says why");
        DirectoryHealth {
            ok: !is_failing,
            via: self.database.via(),
            error,
        }
    }

    fn slot(&self, session: UserSession) -> Arc<CacheSlot> {
        let made = self.kept.get_or_insert_with(&session, || {
            Ok::<_, std::convert::Infallible>(Arc::default())
        });
        match made {
            Ok(slot) => slot,
            Err(never) => match never {},
        }
    }

    fn step(
        &self,
        slot: &Arc<CacheSlot>,
        caller: DatabaseCaller,
        times: CacheTimes,
        now: Timestamp,
    ) -> Lookup {
        let mut state = slot.lock();
        if let Some(kept) = state
            .answer
            .as_ref()
            .filter(|kept| kept.age(now) < times.fresh)
        {
            return Lookup::Serve(kept.answer.clone());
        }
        if let Some(landing) = state.flight.current() {
            return Lookup::Wait(landing.clone(), Instant::now());
        }
        if state
            .failed
            .is_some_and(|failed| failed.elapsed() < RETRY_AFTER)
        {
            return Lookup::Decide;
        }
        match self.look_up(slot, &mut state, caller, now) {
            // Whoever has an answer that serves need not wait for a database that is silent.
            Lookup::Wait(landing, _)
                if state
                    .answer
                    .as_ref()
                    .is_some_and(|kept| kept.age(now) < times.stale) =>
            {
                Lookup::Wait(landing, Instant::now())
            }
            step => step,
        }
    }

    /// Starts the one look-up, where one may be made.
    fn look_up(
        &self,
        slot: &Arc<CacheSlot>,
        state: &mut CacheState,
        caller: DatabaseCaller,
        now: Timestamp,
    ) -> Lookup {
        let Some(permit) = self.circuit.permit() else {
            return Lookup::Decide;
        };
        let waits_until = permit.waits_until();
        let (leader, landing) = state.flight.begin();
        let asked = (now, Instant::now());
        // It counts as failed until it has landed: its task may die without a word.
        state.failed = Some(Instant::now());
        let (remote, slot) = (self.clone(), slot.clone());
        self.tasks.spawn(async move {
            let session = caller.session;
            let asked_for = AskedUser {
                user_id: session.user_id,
                session_id: session.session_id,
                subject: caller.subject.as_deref().map(|it| (&*it.issuer, &*it.id)),
            };
            let outcome = permit.over(remote.database.check_user_limits(asked_for).await);
            let mut state = slot.lock();
            state.flight.end(leader);
            remote.land(&mut state, session.user_id, asked, outcome);
        });
        Lookup::Wait(landing, waits_until)
    }

    /// Takes in what a look-up brought.
    fn land(
        &self,
        state: &mut CacheState,
        user_id: Uuid,
        asked: (Timestamp, Instant),
        outcome: Result<Option<PlanAnswer>, DatabaseFailure>,
    ) {
        let mut error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        let count = match &outcome {
            Ok(Some(_)) => &self.counts.answered,
            Ok(None) => &self.counts.no_answer,
            Err(_) => &self.counts.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Ok(answer) => {
                state.answer = Some(CachedAnswer::successor(
                    state.answer.as_ref(),
                    answer,
                    asked,
                ));
                state.failed = None;
                *error = None;
            }
            Err(failure) => {
                state.failed = Some(Instant::now());
                let told = failure.to_string();
                // An outage is logged once, not once a user.
                if error.as_ref() != Some(&told) {
                    tracing::error!(error = told, via = self.database.via(), %user_id, "a plan cannot be looked up");
                }
                *error = Some(told);
            }
        }
    }
}

impl CacheSlot {
    fn lock(&self) -> MutexGuard<'_, CacheState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
