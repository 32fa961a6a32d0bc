//! Sends settled and lost rows to the developer's `log_request`, and purchases that changed to their `on_purchase`, at least
//! once. Each of the two goes its own way: neither delays the other.
//!
//! There is no copy here: a row waits in the ledger until it is marked, so after a crash it is sent again. It knows a
//! ledger and a function that delivers entries, not whether that is REST or Postgres. Invariants:
//! - A row is marked only after it was accepted.
//! - The rows of one user are sent in the order in which they ended, or changed.
//! - No entry, however wrong, delays other users' rows.
//! - Of several processes on one ledger, one at a time sends.

mod backoff;
mod entry;
mod health;
mod queue;
mod retries;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::pin::Pin;
use std::slice::from_ref;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::ledger::purchase_queue::PurchaseQueue;
use crate::ledger::{Failure, Ledger, Mark, Turn};
use crate::supabase::{DatabaseFailure, DeveloperDatabase};
use backoff::Backoff;
use entry::Entry;
pub use health::{OutboxHealth, OutboxLag};
pub use queue::CurrentProducts;
use queue::EntryQueue;
use retries::RetryQueue;

/// The most entries of a call.
const CALL_ENTRIES_MAX: u32 = 100;
/// A turn to send that was taken longer ago is renewed before the next call, which must end within it.
const RENEW_TURN_AFTER: Duration = Duration::from_millis(500);
/// How long the last try may take when the server stops.
const LAST_TRY_TIMEOUT: Duration = Duration::from_millis(900);
/// How long a database without the function is left alone, where it need not have it.
const ABSENT_WAIT: Duration = Duration::from_mins(1);

/// The answer of [`Deliver`].
type Delivery = Pin<Box<dyn Future<Output = Result<(), DatabaseFailure>> + Send>>;
/// Hands entries to the function, all of them or none, in their order.
type Deliver = Box<dyn Fn(Vec<Value>) -> Delivery + Send + Sync>;

/// The outbox's intervals and time limits.
#[derive(Clone, Copy, Debug)]
struct OutboxTiming {
    /// How often it polls the ledger.
    poll: Duration,
    /// How long rows gather after the first one, to share a call.
    gather: Duration,
    /// How long a call may take.
    call_timeout: Duration,
    /// How old a turn may be when a call begins.
    renew_turn_after: Duration,
    /// Waits after a failure.
    backoff: Backoff,
}

impl Default for OutboxTiming {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(5),
            gather: Duration::from_millis(100),
            call_timeout: Duration::from_secs(30),
            renew_turn_after: RENEW_TURN_AFTER,
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_mins(1)),
        }
    }
}

/// Sends what waits in a ledger.
pub struct Outbox {
    queue: EntryQueue,
    deliver: Deliver,
    timing: OutboxTiming,
    progress: OutboxLag,
    looked_at: Option<Instant>,
    backoff: Backoff,
    setbacks: u32,
    refused: RetryQueue,
    /// When its turn to send was last renewed.
    turn_since: Option<Instant>,
    /// Calls that were taken.
    taken: u64,
    /// The most entries of the next call: fewer after a call that failed, in case it was too much at once.
    entries_max: u32,
}

/// What to do after a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// There may be more.
    GoOn,
    /// Nothing waits.
    Wait,
    /// It failed: wait this long.
    Later(Duration),
}

/// Nothing more can be sent for now, and why.
enum Setback {
    /// The database has no such function.
    Missing,
    /// Something failed.
    Failed(String),
}

impl From<Failure> for Setback {
    fn from(error: Failure) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<DatabaseFailure> for Setback {
    fn from(failure: DatabaseFailure) -> Self {
        match failure {
            DatabaseFailure::Missing => Self::Missing,
            other => Self::Failed(other.to_string()),
        }
    }
}

impl Outbox {
    /// Requests, from a ledger that was opened with `outbox` to a database; tells `progress` how far behind it is.
    #[must_use]
    pub fn of_requests(ledger: Ledger, database: DeveloperDatabase, progress: OutboxLag) -> Self {
        let deliver = move |entries: Vec<Value>| -> Delivery {
            let database = database.clone();
            Box::pin(async move { database.log_requests(&entries).await })
        };
        Self {
            progress,
            ..Self::with_pace(
                EntryQueue::Requests(ledger),
                Box::new(deliver),
                OutboxTiming::default(),
            )
        }
    }

    /// Purchases that changed, from a ledger to a database.
    #[must_use]
    pub fn of_purchases(
        ledger: Ledger,
        database: DeveloperDatabase,
        products: CurrentProducts,
    ) -> Self {
        let deliver = move |entries: Vec<Value>| -> Delivery {
            let database = database.clone();
            Box::pin(async move { database.on_purchases(&entries).await })
        };
        let queue = EntryQueue::Purchases(PurchaseQueue::new(ledger), products);
        Self::with_pace(queue, Box::new(deliver), OutboxTiming::default())
    }

    fn with_pace(queue: EntryQueue, deliver: Deliver, timing: OutboxTiming) -> Self {
        Self {
            queue,
            deliver,
            timing,
            progress: OutboxLag::default(),
            looked_at: None,
            backoff: timing.backoff,
            setbacks: 0,
            refused: RetryQueue::default(),
            turn_since: None,
            taken: 0,
            entries_max: CALL_ENTRIES_MAX,
        }
    }

    /// Sends until `stop` is cancelled, then for at most a second what still waits.
    pub async fn run(mut self, stop: CancellationToken) {
        // A call that is cut off here may have been carried out: its rows go again, as after a crash.
        let stopped = stop
            .run_until_cancelled(self.keep_sending())
            .await
            .is_none();
        let rest = async { while self.round().await == Next::GoOn {} };
        if stopped && timeout(LAST_TRY_TIMEOUT, rest).await.is_err() {
            tracing::warn!("the outbox stops before all was sent: the next start goes on");
        }
    }

    async fn keep_sending(&mut self) {
        loop {
            match self.round().await {
                Next::GoOn => {}
                Next::Wait => self.wait_for_rows().await,
                Next::Later(wait) => sleep(wait).await,
            }
        }
    }

    async fn wait_for_rows(&self) {
        let due = self
            .refused
            .next_due()
            .map(|due| due.saturating_duration_since(Instant::now()));
        let wait = due.map_or(self.timing.poll, |due| due.min(self.timing.poll));
        tokio::select! {
            () = sleep(wait) => {}
            () = self.queue.more() => sleep(self.timing.gather).await,
        }
    }

    /// One call or so, and what came of it.
    async fn round(&mut self) -> Next {
        let next = match self.send_some().await {
            Ok(more) => {
                if self.setbacks > 0 {
                    let function = self.queue.function();
                    tracing::info!("{function} takes entries again");
                }
                self.setbacks = 0;
                self.backoff.reset();
                if more { Next::GoOn } else { Next::Wait }
            }
            Err(Setback::Missing) if self.queue.is_optional() => Next::Later(ABSENT_WAIT),
            Err(setback) => {
                self.report(setback);
                Next::Later(self.backoff.wait())
            }
        };
        self.look(next == Next::GoOn).await;
        next
    }

    /// Says that entries wait, ever more rarely.
    fn report(&mut self, setback: Setback) {
        let error = match setback {
            Setback::Missing => DatabaseFailure::Missing.to_string(),
            Setback::Failed(why) => why,
        };
        let function = self.queue.function();
        self.setbacks = self.setbacks.saturating_add(1);
        if self.setbacks.is_power_of_two() {
            tracing::warn!(error, tries = self.setbacks, "entries for {function} wait");
        }
    }

    /// Sees how far behind it is; in the middle of work only so often.
    async fn look(&mut self, busy: bool) {
        if busy
            && self
                .looked_at
                .is_some_and(|at| at.elapsed() < self.timing.poll)
        {
            return;
        }
        if let Ok(lag) = self.queue.lag().await {
            self.progress.set(lag);
            self.looked_at = Some(Instant::now());
        }
    }

    /// Sends one batch; true if anything was sent.
    async fn send_some(&mut self) -> Result<bool, Setback> {
        // What was refused was read in an earlier turn.
        if !self.refused.is_empty() && !self.has_turn().await? {
            return Ok(false);
        }
        self.retry_refused().await?;
        self.turn_since = Some(Instant::now());
        let unsent = self.queue.unsent(self.entries_max, self.refused.users());
        let entries = entry::batch(unsent.await?);
        if entries.is_empty() {
            return Ok(false);
        }
        match self.call(&entries).await {
            Ok(()) => {
                let ids = entries.into_iter().map(|entry| entry.id).collect();
                self.queue.mark(ids, Mark::Sent).await?;
                self.entries_max = self.entries_max.saturating_mul(2).min(CALL_ENTRIES_MAX);
                Ok(true)
            }
            Err(DatabaseFailure::Refused(_)) => self.one_by_one(entries).await,
            Err(unavailable) => {
                self.entries_max = self.entries_max.div_euclid(2).max(1);
                Err(unavailable.into())
            }
        }
    }

    /// Whether this process may send now, for as long as a call takes. What it kept of a turn that ended is forgotten:
    /// others may have sent it since, and what is still due comes again with the rows.
    async fn has_turn(&mut self) -> Result<bool, Setback> {
        if self
            .turn_since
            .is_some_and(|since| since.elapsed() < self.timing.renew_turn_after)
        {
            return Ok(true);
        }
        self.turn_since = None;
        let asked = Instant::now();
        let turn = self.queue.turn().await?;
        if turn != Turn::Renewed {
            self.refused = RetryQueue::default();
        }
        self.turn_since = (turn != Turn::HeldElsewhere).then_some(asked);
        Ok(turn == Turn::Renewed)
    }

    async fn call(&mut self, entries: &[Entry]) -> Result<(), DatabaseFailure> {
        let values = entries.iter().map(|entry| entry.value.clone()).collect();
        let answer = timeout(self.timing.call_timeout, (self.deliver)(values)).await;
        answer.map_err(|_| DatabaseFailure::Unavailable("no answer in time".to_owned()))??;
        self.taken = self.taken.saturating_add(1);
        Ok(())
    }

    /// One of a batch was refused: finds out which. What ended after it waits, where it is of the same user.
    async fn one_by_one(&mut self, entries: Vec<Entry>) -> Result<bool, Setback> {
        let (mut sent, mut waiting, mut setback) = (Vec::new(), BTreeSet::new(), None);
        for entry in entries {
            if waiting.contains(&entry.user_id) {
                continue;
            }
            match self.has_turn().await {
                Ok(true) => {}
                Ok(false) => break,
                Err(unknown) => {
                    self.queue.mark(sent, Mark::Sent).await?;
                    return Err(unknown);
                }
            }
            match self.call(from_ref(&entry)).await {
                Ok(()) => sent.push(entry.id),
                Err(DatabaseFailure::Refused(why)) => {
                    let function = self.queue.function();
                    tracing::warn!(entry = entry.id, error = why, "{function} refuses an entry");
                    self.refused
                        .refused(&entry, Instant::now(), self.timing.backoff, self.taken);
                    waiting.insert(entry.user_id);
                    setback = setback.or(Some(Setback::Failed(why)));
                }
                Err(unavailable) => {
                    self.queue.mark(sent, Mark::Sent).await?;
                    return Err(unavailable.into());
                }
            }
        }
        let any = !sent.is_empty();
        self.queue.mark(sent, Mark::Sent).await?;
        // A function that takes nothing at all is out of order, most likely.
        setback.filter(|_| !any).map_or(Ok(true), Err)
    }

    /// Tries again what was refused, each entry by itself when its time has come.
    async fn retry_refused(&mut self) -> Result<(), Setback> {
        for entry in self.refused.due(Instant::now()) {
            if !self.has_turn().await? {
                return Ok(());
            }
            match self.call(from_ref(&entry)).await {
                Ok(()) => self.queue.mark(vec![entry.id], Mark::Sent).await?,
                Err(DatabaseFailure::Refused(why)) => {
                    if !self.refused.refused(
                        &entry,
                        Instant::now(),
                        self.timing.backoff,
                        self.taken,
                    ) {
                        continue;
                    }
                    let function = self.queue.function();
                    tracing::error!(
                        entry = entry.id,
                        error = why,
                        "given up: {function} refuses this entry; its row stays in the ledger, marked unsent = 2"
                    );
                    self.queue.mark(vec![entry.id], Mark::DeadLetter).await?;
                }
                Err(unavailable) => return Err(unavailable.into()),
            }
            self.refused.release(&entry.user_id);
        }
        Ok(())
    }
}
