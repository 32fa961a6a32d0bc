//! The ledger: the only writer of money.
//!
//! A [`Ledger`] is a handle on one writer thread that owns the database. Many holds and endings share a commit; a hold is
//! answered only after its row is durable. The row that holds the money is the row of the usage log, so they cannot
//! disagree. The handle knows no HTTP, no prices and no time zones: windows and amounts are arguments.
//!
//! Invariants (the laws in the README's words): used + held ≤ limit; every hold ends exactly once; the ended rows of a
//! window add up to what the window says; nothing held when nothing is open.

pub mod device_keys;
pub mod file;
pub mod grants;
pub(crate) mod hex;
mod idempotency;
#[cfg(test)]
mod law_one;
#[cfg(test)]
mod laws;
mod postgres;
mod price_ids;
pub mod purchase_queue;
mod queue;
pub mod read;
mod reservation;
mod settlement;
mod sqlite;
pub mod tools;
pub mod users;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::hmac;
use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

use crate::clock::{Clock, Timestamp};
use crate::config::StoreUrl;
use crate::error::{Code, Refusal};
use crate::ledger::read::report::RequestRow;
use crate::plan::{
    self, Amounts, Balance, CreditBalance, Exceeded, Hold, Limit, LimitCounter, LimitState, PaidBy,
    Quote, Unit, Window,
};

pub use idempotency::{IdempotencyKey, Repetition};
pub(crate) use postgres::install::versioned;
use queue::{Job, Jobs};
pub use reservation::Reservation;
pub use settlement::{Charge, EndState, Ending, Flag, Settlement, charge};
pub use sqlite::Failure;
use users::NewUser;

/// How long a hold waits for its commit before the store counts as unavailable.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);

/// What a device's token is marked as.
const MARK_PREFIX: &[u8] = b"tollgate device token 1: ";

/// What is asked of the ledger before an upstream is dialled.
#[derive(Clone, Debug)]
pub struct HoldRequest {
    /// The id of the request, and of its row (`UUIDv7`).
    pub id: Uuid,
    /// Whose limits.
    pub user_id: Uuid,
    /// The moment of the hold; every window given here contains it.
    pub now: Timestamp,
    /// The plan's name, for the row.
    pub plan: String,
    /// The path that was called, for the row.
    pub endpoint: Cow<'static, str>,
    /// The canonical name of the model, for the row.
    pub model: String,
    /// The name in the plan that it goes by, where that is another: what limits for one name count by.
    pub plan_model: Option<String>,
    /// The name that the app asked for, where that is another; for the row.
    pub requested_model: Option<String>,
    /// What the app calls the request; for the row.
    pub feature: Option<String>,
    /// The version of the server's prompt that the request begins with; for the row.
    pub prompt_version: Option<String>,
    /// The upstream's name, for the row.
    pub upstream: String,
    /// What is held.
    pub quote: Quote,
    /// Every limit of the caller's plan that counts this request, with its current window.
    pub limits: Vec<(Limit, Window)>,
    /// How many requests of this caller may be open.
    pub concurrent: Option<u32>,
    /// What the whole app may spend: micro-dollars, and the current day.
    pub ceiling: Option<(i64, Window)>,
    /// The key that the request takes, and no other may take within a day.
    pub idempotency: Option<IdempotencyKey>,
    /// What the request holds already, where this is to take its place: then nothing new is counted as open.
    pub replaces: Option<Hold>,
    /// Whether credits may pay for it, where it does not fit the plan's limits in dollars.
    pub credits: bool,
}

impl HoldRequest {
    /// The key that is to be free. A request that holds something has taken its key.
    pub(crate) fn key_to_take(&self) -> Option<&IdempotencyKey> {
        self.idempotency
            .as_ref()
            .filter(|_| self.replaces.is_none())
    }
}

/// Why nothing was held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoHold {
    /// The request's key is taken. Decided before anything else: nothing of it needs to fit any more.
    Repeated(Repetition),
    /// A limit of the plan.
    Limit(Exceeded),
    /// So many requests are open, and the plan allows no more.
    Concurrent {
        /// Open requests.
        open: i64,
        /// The plan's bound.
        limit: u32,
    },
    /// The app's ceiling for the day, which ends then.
    Ceiling(Timestamp),
    /// The operator paused the app, for this reason.
    Paused(String),
    /// The ledger cannot be written.
    Store,
}

/// What a user has used and holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserBalance {
    /// In the order of the counters that were asked for.
    pub windows: Vec<Balance>,
    /// Open requests.
    pub open: i64,
    /// The user's credits; `None` where there are none.
    pub credits: Option<CreditBalance>,
}

/// What the writer shares with its handles.
#[derive(Debug, Default)]
struct Shared {
    /// The last write succeeded.
    writable: AtomicBool,
    /// Grows when another process changed the file: subscriptions and switches may differ.
    epoch: AtomicU64,
    /// Told when rows have ended, for the outbox.
    ended: Notify,
    /// Told when purchases have changed, for theirs.
    purchases: Notify,
}

/// Whether a process may send what waits for the outbox. Of several on one ledger one at a time may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It could already, and nobody else could since.
    Renewed,
    /// It may now. Others may have sent something since it could before.
    Acquired,
    /// Another process may.
    HeldElsewhere,
}

/// How much waits for the outbox. Counted to 100,000 and no further.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Rows that wait.
    pub unsent: i64,
    /// When the oldest of them ended.
    pub oldest: Option<Timestamp>,
    /// Dead letters: rows that were refused for good.
    pub given_up: i64,
}

/// What became of rows that waited for the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// They were taken.
    Sent,
    /// They were refused for good.
    DeadLetter,
}

/// A handle on the ledger. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ledger {
    jobs: Jobs,
    shared: Arc<Shared>,
    store: StoreUrl,
    /// Where the ledger's file lies; none where it is no file.
    place: Option<file::Place>,
    has_outbox: bool,
    identifier_key: Arc<hmac::Key>,
}

/// The writer thread; whoever has it flushes the ledger by [`Writer::close`].
#[derive(Debug)]
pub struct Writer {
    jobs: Jobs,
    thread: std::thread::JoinHandle<()>,
}

/// How the ledger is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it is.
    pub store: StoreUrl,
    /// How long a hold outlives the last sign of life of its process.
    pub lease: Duration,
    /// How long ended requests are kept.
    pub keep_requests: Duration,
    /// Where months begin, for the sums of pruned ones.
    pub time_zone: jiff::tz::TimeZone,
    /// Whether rows that end settled or lost wait for [`Ledger::unsent`].
    pub outbox: bool,
}

impl Ledger {
    /// Opens the ledger for writing, makes or migrates its tables, and ends what an earlier process left open.
    ///
    /// # Errors
    /// The file cannot be made, read or written, or another server has it open.
    pub fn open(settings: Settings, clock: Clock) -> Result<(Self, Writer), Failure> {
        let (store, has_outbox) = (settings.store.clone(), settings.outbox);
        let shared = Arc::new(Shared::default());
        let (jobs, thread, key, place) = match &store {
            StoreUrl::Sqlite(path) => {
                let (jobs, queue) = std::sync::mpsc::channel();
                let (thread, key, place) =
                    sqlite::writer::start(path.clone(), settings, clock, shared.clone(), queue)?;
                (Jobs::Sqlite(jobs), thread, key, Some(place))
            }
            StoreUrl::Postgres(url) => {
                let (lanes, thread, key) = postgres::start(url, settings, clock, shared.clone())?;
                (Jobs::Postgres(lanes), thread, key, None)
            }
        };
        let identifier_key = Arc::new(hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()));
        let handle = Self {
            jobs: jobs.clone(),
            shared,
            store,
            place,
            has_outbox,
            identifier_key,
        };
        Ok((handle, Writer { jobs, thread }))
    }

    /// Holds the worst cost of a request against every limit, durably.
    ///
    /// The reservation exists before the writer is asked, so a caller that leaves while waiting leaves no hold behind.
    ///
    /// # Errors
    /// Why nothing was held.
    pub async fn hold(&self, request: HoldRequest) -> Result<Reservation, NoHold> {
        let (answer, wait) = oneshot::channel();
        let mut reservation = Reservation::new(&request, self.jobs.clone());
        if !self.jobs.send(Job::Hold(Box::new(request), answer)) {
            reservation.forget();
            return Err(NoHold::Store);
        }
        match tokio::time::timeout(COMMIT_TIMEOUT, wait).await {
            Ok(Ok(Ok(hold))) => {
                reservation.granted(hold);
                Ok(reservation)
            }
            Ok(Ok(Err(no))) => {
                reservation.forget();
                Err(no)
            }
            // Nobody knows whether the row is there: the reservation's drop voids it if it is.
            Ok(Err(_)) | Err(_) => Err(NoHold::Store),
        }
    }

    /// What a user has used and holds by each of `counters`. What was ended before the call is seen as ended once it is
    /// written, which is before the answer unless the ledger cannot be written or, on Postgres, another process is busy
    /// with this user: then it still counts as held. So what is left is never overstated.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn standing(
        &self,
        user_id: Uuid,
        now: Timestamp,
        counters: Vec<LimitCounter>,
    ) -> Result<UserBalance, Refusal> {
        let (answer, wait) = oneshot::channel();
        let unavailable = || {
            Refusal::new(
                Code::StoreUnavailable,
                "The usage ledger cannot be read right now.",
            )
        };
        if !self.jobs.send(Job::Standing {
            user_id,
            now,
            counters,
            answer,
        }) {
            return Err(unavailable());
        }
        let answered = tokio::time::timeout(COMMIT_TIMEOUT, wait).await;
        answered
            .ok()
            .and_then(Result::ok)
            .flatten()
            .ok_or_else(unavailable)
    }

    /// Notes whom an id stands for, before whatever is asked of the ledger for this user next. Nobody waits for it: where it is
    /// lost, it is noted when the user comes again.
    pub fn note_user(&self, user: NewUser) {
        if !self.jobs.send(Job::Note(user)) {
            tracing::debug!("a user is not noted: the ledger is closed");
        }
    }

    /// Rows that wait for the outbox, at most `limit`, in the order in which they ended, but for those of the users in
    /// `except`. What was ended and is not written yet comes later.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn unsent(
        &self,
        limit: u32,
        except: Vec<String>,
    ) -> Result<Vec<RequestRow>, Failure> {
        self.ask(|answer| Job::Unsent {
            limit,
            except,
            answer,
        })
        .await
    }

    /// Takes or keeps the turn to send, for the next fifteen seconds. [`Ledger::unsent`] does too: this is for what takes
    /// longer, and for who kept something of an earlier turn.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub async fn outbox_turn(&self) -> Result<Turn, Failure> {
        self.ask(Job::Turn).await
    }

    /// Marks rows of [`Ledger::unsent`], durably; rows that do not wait stay as they are.
    ///
    /// # Errors
    /// The ledger cannot be written: the rows may go on waiting.
    pub async fn mark(&self, ids: Vec<String>, mark: Mark) -> Result<(), Failure> {
        self.ask(|answer| Job::Mark(queue::Marking { ids, mark, answer }))
            .await
    }

    /// Rows that end wait for the outbox.
    #[must_use]
    pub const fn has_outbox(&self) -> bool {
        self.has_outbox
    }

    /// How much waits for the outbox.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn unsent_lag(&self) -> Result<Lag, Failure> {
        self.ask(Job::Lag).await
    }

    /// Waits until rows have ended since the last call. A hint: rows that a sweep ended may come without it.
    pub async fn rows_ended(&self) {
        self.shared.ended.notified().await;
    }

    /// Purchases have changed.
    pub fn tell_of_purchases(&self) {
        self.shared.purchases.notify_one();
    }

    /// Waits until [`Ledger::tell_of_purchases`] was called since the last call. A hint: another process may have changed
    /// some.
    pub async fn purchases_changed(&self) {
        self.shared.purchases.notified().await;
    }

    async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, Failure>>) -> Job,
    ) -> Result<T, Failure> {
        let (answer, wait) = oneshot::channel();
        let gone = || Failure::new("the ledger's writer does not answer".to_owned());
        if !self.jobs.send(job(answer)) {
            return Err(gone());
        }
        let answered = tokio::time::timeout(COMMIT_TIMEOUT, wait).await;
        answered.map_err(|_| gone())?.map_err(|_| gone())?
    }

    /// The last write succeeded.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.shared.writable.load(Ordering::Acquire)
    }

    /// A number that grows when another process changed subscriptions or switches.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.shared.epoch.load(Ordering::Acquire)
    }

    /// A user's id as an upstream may know it: a keyed hash (64 hexadecimal digits), the same for as long as the ledger.
    #[must_use]
    pub fn hash_user(&self, user_id: Uuid) -> String {
        hex::hex(hmac::sign(&self.identifier_key, user_id.as_bytes()).as_ref())
    }

    /// A mark that only who has this ledger can make of a text. What it is for stands in it: no mark is a user's hash.
    #[must_use]
    pub fn mark_of(&self, text: &[u8]) -> hmac::Tag {
        hmac::sign(&self.identifier_key, &[MARK_PREFIX, text].concat())
    }

    /// Whether a mark is that of a text.
    #[must_use]
    pub fn has_marked(&self, text: &[u8], mark: &[u8]) -> bool {
        hmac::verify(&self.identifier_key, &[MARK_PREFIX, text].concat(), mark).is_ok()
    }

    /// Where it is, for [`report`].
    #[must_use]
    pub const fn store(&self) -> &StoreUrl {
        &self.store
    }

    /// Where its file lies, for whoever opens it beside the writer.
    pub(crate) const fn place(&self) -> Option<&file::Place> {
        self.place.as_ref()
    }
}

impl Writer {
    /// Writes what is queued and stops the thread. Blocks until then.
    pub fn close(self) {
        let stopped = self.jobs.stop() && self.thread.join().is_ok();
        if !stopped {
            tracing::error!("the ledger's writer had already stopped");
        }
    }
}

/// Limits with where their windows stand, for [`crate::plan::admit`].
pub(crate) fn limit_states(limits: &[(Limit, Window)], standings: &[Balance]) -> Vec<LimitState> {
    let states = limits.iter().zip(standings);
    states
        .map(|((limit, window), standing)| LimitState {
            limit: limit.clone(),
            window: *window,
            standing: *standing,
        })
        .collect()
}

/// Decides a hold from what the windows say, and from what is left of the user's credits, where they may pay. Pure: the
/// one place where law 1 is kept. What the request holds already stands in the windows, and does not count against it;
/// `credits` are what is left as if it held nothing.
fn decide(
    request: &HoldRequest,
    standings: &[Balance],
    ceiling: Option<Balance>,
    open: i64,
    credits: Option<i64>,
) -> Result<Hold, NoHold> {
    let own = request.replaces.map(|hold| hold.amounts);
    let own = own.unwrap_or_default();
    let is_by_credits = |hold: Hold| hold.paid_by == PaidBy::Credits;
    let own_by_plan = Amounts {
        cost: if request.replaces.is_some_and(is_by_credits) {
            0
        } else {
            own.cost
        },
        ..own
    };
    let of_others = |balance: Balance, own: Amounts| Balance {
        held: balance.held.minus(own),
        ..balance
    };
    let open = open.saturating_sub(own.requests);
    let ceiling = ceiling.map(|balance| of_others(balance, own));
    if let Some(limit) = request.concurrent.filter(|limit| open >= i64::from(*limit)) {
        return Err(NoHold::Concurrent { open, limit });
    }
    let mut states = limit_states(&request.limits, standings);
    for state in &mut states {
        state.standing = of_others(state.standing, own_by_plan);
    }
    let mut by_credits = credits.map(|left| plan::limits_with_credits(&states, left));
    let fit = |states: &[LimitState], by_credits: &Option<Vec<LimitState>>| {
        plan::admit_with_credits(&request.quote, states, by_credits.as_deref())
    };
    let of_plan = |exceeded| {
        NoHold::Limit(Exceeded {
            credits,
            ..exceeded
        })
    };
    let (Some((amount, window)), Some(standing)) = (request.ceiling, ceiling) else {
        return fit(&states, &by_credits).map_err(of_plan);
    };
    let ceiling = LimitState {
        limit: Limit::of_all(window.per, Unit::CostUsd, amount),
        window,
        standing,
    };
    if let Some(states) = &mut by_credits {
        states.push(ceiling.clone());
    }
    states.push(ceiling);
    fit(&states, &by_credits).map_err(|_| {
        // Too much for the plan, or for the ceiling alone?
        for states in [Some(&mut states), by_credits.as_mut()]
            .into_iter()
            .flatten()
        {
            states.pop();
        }
        match fit(&states, &by_credits) {
            Err(exceeded) => of_plan(exceeded),
            Ok(_) => NoHold::Ceiling(window.end),
        }
    })
}
