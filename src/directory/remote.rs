//! Answers of the developer's database, kept for a while.
//!
//! It knows users, sessions, answers and how old they are; it does not know what an answer means. Invariants: an answer
//! that is fresh costs one look into the cache; of one user (and session) at most one look-up is under way; it runs in a
//! task of its own, so that a caller who leaves does not cancel it for the others; an answer serves at most `stale` after
//! it was asked for; a failed look-up replaces nothing; nobody waits long for a database that says nothing at all.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quick_cache::sync::Cache;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::circuit::{Circuit, PATIENCE};
use crate::clock::Timestamp;
use crate::database::{Answer, Database, Failure};
use crate::plan::{Assigned, Period, SaidPeriod};

/// How many users' answers are kept.
const KEPT_MAX: usize = 10_000;
/// How long a failed look-up is not repeated for the same user: those who would wait for the next one are told at once.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long a caller waits for a look-up, which has a shorter time-out of its own.
const WAIT_MAX: Duration = Duration::from_secs(8);

/// Whom an answer is about: a user and, where sessions are checked, one of their sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Whom {
    pub(super) user_id: Uuid,
    pub(super) session_id: Option<Uuid>,
}

/// For how long answers serve.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    /// Without asking again.
    pub(super) fresh: Duration,
    /// While nobody can be asked.
    pub(super) stale: Duration,
}

/// Nobody can say, and nobody could lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unavailable;

/// What readiness tells about the directory. Fields with nothing to say are null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DirectoryHealth {
    /// The last look-up that ended brought an answer, or none was made yet.
    pub ok: bool,
    /// `rest`, `postgres` or `none`.
    pub via: &'static str,
    /// That the last look-up failed. Readiness is open to everybody, so why stands in the log alone.
    pub error: Option<&'static str>,
}

/// A database and what it said. Clones share what is kept.
#[derive(Clone)]
pub(super) struct Remote {
    database: Database,
    tasks: TaskTracker,
    kept: Arc<Cache<Whom, Arc<Slot>>>,
    circuit: Circuit,
    /// Why the look-up that ended last failed.
    error: Arc<Mutex<Option<String>>>,
    counts: Arc<Counts>,
}

/// Look-ups that have ended.
#[derive(Debug, Default)]
struct Counts {
    answered: AtomicU64,
    no_answer: AtomicU64,
    failed: AtomicU64,
}

/// What is kept about somebody.
#[derive(Default)]
struct Slot(Mutex<State>);

#[derive(Default)]
struct State {
    answer: Option<Kept>,
    failed: Option<Instant>,
    flight: Option<watch::Receiver<()>>,
}

/// An answer (`None`: there is none, for sure) and when it was asked for, by both clocks: wall time may be set back.
#[derive(Clone)]
struct Kept {
    answer: Option<Arc<Answer>>,
    asked: (Timestamp, Instant),
    /// The period as it was said, which may not be the one that counts.
    said: Option<Period>,
}

impl Kept {
    /// An answer with the period that counts after this one.
    fn followed_by(before: Option<&Self>, answer: Option<Answer>, asked: (Timestamp, Instant)) -> Self {
        let said = answer.as_ref().and_then(|answer| answer.assigned.period);
        let then = || {
            let before = before?;
            let counts = before.answer.as_ref()?.assigned.period?;
            let before = SaidPeriod { period: before.said?, asked: before.asked.0 };
            Some(counts.then(before, SaidPeriod { period: said?, asked: asked.0 }))
        };
        let period = then().or(said);
        if period != said {
            tell_moving();
        }
        let with_period = |answer: Answer| {
            let assigned = Assigned { period, ..answer.assigned };
            Arc::new(Answer { assigned, ..answer })
        };
        Self { answer: answer.map(with_period), asked, said }
    }

    /// How long ago it was asked for, by the clock that says longer.
    fn age(&self, now: Timestamp) -> Duration {
        now.since(self.asked.0).max(self.asked.1.elapsed())
    }
}

/// Says once that periods are counted from the moment of the look-up.
fn tell_moving() {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            "check_user_limits counts a period from now(): the window that is open goes on for up to a day. Answer the \
             subscription's own period_start and period_end, or leave both out"
        );
    }
}

/// What a caller is to do.
enum Step {
    Serve(Option<Arc<Answer>>),
    /// For the end of a look-up: until so long at least, whatever others wait for.
    Wait(watch::Receiver<()>, Instant),
    Decide,
}

impl Remote {
    pub(super) fn new(database: Database, tasks: TaskTracker) -> Self {
        let circuit = Circuit::new("the database that says who has which plan", PATIENCE);
        let kept = Arc::new(Cache::new(KEPT_MAX));
        Self { database, tasks, kept, circuit, error: Arc::default(), counts: Arc::default() }
    }

    /// Look-ups that have ended, by what they brought.
    pub(super) fn lookups(&self) -> Vec<(&'static str, u64)> {
        let Counts { answered, no_answer, failed } = &*self.counts;
        let counts = [("answered", answered), ("no_answer", no_answer), ("failed", failed)];
        counts.map(|(outcome, count)| (outcome, count.load(Ordering::Relaxed))).to_vec()
    }

    /// What the database says about somebody: lately, or now.
    pub(super) async fn answer(
        &self,
        whom: Whom,
        keep: Keep,
        now: Timestamp,
    ) -> Result<Option<Arc<Answer>>, Unavailable> {
        let slot = self.slot(whom);
        let has_landed = match self.step(&slot, whom, keep, now) {
            Step::Serve(answer) => return Ok(answer),
            Step::Decide => false,
            // The sender says nothing: it is dropped when the look-up has ended, whichever way.
            Step::Wait(mut flight, at_least) => {
                let landing = self.circuit.unless_silent(at_least, flight.changed());
                let waited = timeout(WAIT_MAX, landing).await;
                if waited.is_err() {
                    tracing::warn!("a look-up in the directory takes too long");
                }
                matches!(waited, Ok(Some(_)))
            }
        };
        let state = slot.lock();
        let is_current = has_landed && state.failed.is_none();
        let serves = |kept: &&Kept| is_current || kept.age(now) < keep.stale;
        state.answer.as_ref().filter(serves).map(|kept| kept.answer.clone()).ok_or(Unavailable)
    }

    /// Forgets what is kept about a user: the next request asks again. A look-up that is under way counts for those who
    /// wait for it, and for nobody after them.
    pub(super) fn forget(&self, user_id: Uuid) {
        self.kept.retain(|whom, _| whom.user_id != user_id);
    }

    /// What the look-up that ended last says.
    pub(super) fn health(&self) -> DirectoryHealth {
        let is_failing = self.error.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let error = is_failing.then_some("the last look-up failed: the log says why");
        DirectoryHealth { ok: !is_failing, via: self.database.via(), error }
    }

    fn slot(&self, whom: Whom) -> Arc<Slot> {
        let made = self.kept.get_or_insert_with(&whom, || Ok::<_, std::convert::Infallible>(Arc::default()));
        match made {
            Ok(slot) => slot,
            Err(never) => match never {},
        }
    }

    fn step(&self, slot: &Arc<Slot>, whom: Whom, keep: Keep, now: Timestamp) -> Step {
        let mut state = slot.lock();
        if let Some(kept) = state.answer.as_ref().filter(|kept| kept.age(now) < keep.fresh) {
            return Step::Serve(kept.answer.clone());
        }
        if let Some(flight) = state.flight() {
            return Step::Wait(flight.clone(), Instant::now());
        }
        if state.failed.is_some_and(|failed| failed.elapsed() < RETRY_AFTER) {
            return Step::Decide;
        }
        match self.look_up(slot, &mut state, whom, now) {
            // Whoever has an answer that serves need not wait for a database that is silent.
            Step::Wait(flight, _) if state.answer.as_ref().is_some_and(|kept| kept.age(now) < keep.stale) => {
                Step::Wait(flight, Instant::now())
            }
            step => step,
        }
    }

    /// Starts the one look-up, where one may be made; the receiver closes when it has ended.
    fn look_up(&self, slot: &Arc<Slot>, state: &mut State, whom: Whom, now: Timestamp) -> Step {
        let Some(pass) = self.circuit.pass() else { return Step::Decide };
        let waits_until = pass.waits_until();
        let (ended, flight) = watch::channel(());
        let asked = (now, Instant::now());
        state.flight = Some(flight.clone());
        // It counts as failed until it has landed: its task may die without a word.
        state.failed = Some(Instant::now());
        let (remote, slot) = (self.clone(), slot.clone());
        self.tasks.spawn(async move {
            let outcome = pass.over(remote.database.check_user_limits(whom.user_id, whom.session_id).await);
            remote.land(&slot, whom.user_id, asked, outcome);
            drop(ended);
        });
        Step::Wait(flight, waits_until)
    }

    /// Takes in what a look-up brought.
    fn land(&self, slot: &Slot, user_id: Uuid, asked: (Timestamp, Instant), outcome: Result<Option<Answer>, Failure>) {
        let mut state = slot.lock();
        state.flight = None;
        let mut error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        let count = match &outcome {
            Ok(Some(_)) => &self.counts.answered,
            Ok(None) => &self.counts.no_answer,
            Err(_) => &self.counts.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Ok(answer) => {
                state.answer = Some(Kept::followed_by(state.answer.as_ref(), answer, asked));
                state.failed = None;
                *error = None;
            }
            Err(failure) => {
                state.failed = Some(Instant::now());
                let told = failure.to_string();
                // An outage is told once, not once a user.
                if error.as_ref() != Some(&told) {
                    tracing::error!(error = told, via = self.database.via(), %user_id, "a plan cannot be looked up");
                }
                *error = Some(told);
            }
        }
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The look-up under way. One whose task died without a word has closed its channel and does not count.
    fn flight(&self) -> Option<&watch::Receiver<()>> {
        self.flight.as_ref().filter(|flight| flight.has_changed().is_ok())
    }
}
