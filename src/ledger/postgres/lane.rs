//! One lane: the jobs of some users, in their order, a batch at a time on a connection of its own.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::super::sqlite::Failure;
use super::super::{Ending, HoldRequest, Mark, NoHold, UserBalance, decide};
use super::install::versioned;
use super::outbox::{lag_of, turn_of};
use super::wire::{
    JobJson, Place, batch_param, ending_json, hold_json, member, repetition_of, standing_of,
    standings_of, void_json,
};
use super::{Base, CALL_TIMEOUT, ask_standing};
use crate::clock::Timestamp;
use crate::ledger::price_ids::{self, PriceIds};
use crate::ledger::queue::{Job, Marking};
use crate::ledger::read::connection::postgres_row;
use crate::ledger::read::report::{request_columns, unsent_of};
use crate::ledger::users::{NewUser, note_on_postgres};
use crate::pg;
use crate::plan::{Hold, LimitCounter};

/// How many jobs share a commit at most. Each may be another user's, and takes a place in the server's table of locks,
/// which has 6,400 as Postgres comes: three processes of four lanes with their chores take fewer than 3,400.
const BATCH_MAX: usize = 128;
const _: () = assert!(
    3 * super::LANES * (BATCH_MAX + 32) < 6_400,
    "three processes must fit in the table of locks"
);
/// How soon a user is tried again with whom another process is busy.
const BUSY_PAUSE: Duration = Duration::from_millis(3);
/// The longest such pause: it doubles with every few tries in which nothing went in.
const BUSY_PAUSE_MAX: Duration = Duration::from_millis(100);
/// How many tries a pause serves before it doubles.
const BUSY_TRIES: u32 = 8;
/// How soon a database that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// How long a database that had no answer in time may take to answer a question that costs it nothing.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a batch that meets a lock is tried as a whole before its users are tried by themselves.
const LOCKED_TRIES: u32 = 3;
/// How often a hold may shrink and ask again before it is refused: others spend meanwhile.
const SHRINK_TRIES: u8 = 8;

/// A job on its way to the database.
enum Pending {
    /// A hold of so much output at most; how often it has shrunk; who waits.
    Hold(
        Box<HoldRequest>,
        Hold,
        u8,
        oneshot::Sender<Result<Hold, NoHold>>,
    ),
    End(Ending),
    /// A hold that was refused because nobody knows whether it is there, and that must never be.
    Void(Box<HoldRequest>),
}

impl Pending {
    fn json(
        &self,
        (base, prices): (&Base, &PriceIds),
        now: Timestamp,
        place: Place,
    ) -> JobJson<'_> {
        let owner = base.owner;
        match self {
            Self::Hold(request, hold, ..) => {
                let price_id = prices.known(&request.quote.price);
                hold_json(request, (hold, price_id.as_deref()), owner, place)
            }
            Self::End(ending) => ending_json(ending, now, base.settings.outbox, place),
            Self::Void(request) => void_json(request, owner, now, place),
        }
    }

    fn user_id(&self) -> Uuid {
        match self {
            Self::Hold(request, ..) | Self::Void(request) => request.user_id,
            Self::End(ending) => ending.user_id,
        }
    }
}

/// One batch at a time, on a connection of its own.
pub(in crate::ledger) struct Lane {
    pub(super) base: Base,
    /// In order; the first come first.
    waiting: VecDeque<Pending>,
    failures: u32,
    /// Users who were busy when last asked for: somebody from outside may have locked their rows.
    busy: Vec<Uuid>,
    /// How often a batch met a lock, since one went in or was divided.
    locked: u32,
    /// How often in a row nothing went in because others were busy.
    stuck: u32,
    tried_at: Instant,
    /// The rates that the database has.
    prices: PriceIds,
    /// A call had no answer in time: whether the database answers at all is asked before another is sent.
    probe: Option<Probe>,
}

/// A question that is on its way, or is to be asked.
type Probe = Option<Pin<Box<dyn Future<Output = Result<Vec<pg::Row>, pg::PgError>> + Send + Sync>>>;

impl Lane {
    pub(super) fn new(base: Base) -> Self {
        Self {
            base,
            waiting: VecDeque::new(),
            failures: 0,
            busy: Vec::new(),
            locked: 0,
            stuck: 0,
            tried_at: Instant::now(),
            prices: PriceIds::default(),
            probe: None,
        }
    }

    pub(super) async fn run(mut self, mut queue: UnboundedReceiver<Job>) {
        let mut going = true;
        while going {
            if let Some(jobs) = self.next(&mut queue).await {
                going = self.take(jobs).await;
            } else {
                going = false;
            }
            self.write().await;
        }
        // What waits for a busy user, or for the database, gets a few more tries.
        let until = Instant::now().checked_add(CALL_TIMEOUT);
        while !self.waiting.is_empty() && until.is_some_and(|until| Instant::now() < until) {
            tokio::time::sleep(BUSY_PAUSE).await;
            self.write().await;
        }
        if !self.waiting.is_empty() {
            tracing::error!(
                requests = self.waiting.len(),
                "not written: another process ends these requests as lost"
            );
        }
    }

    /// What has come meanwhile; waits for something if there is nothing to do. `None`: nothing will come any more.
    async fn next(&self, queue: &mut UnboundedReceiver<Job>) -> Option<Vec<Job>> {
        let mut jobs = Vec::new();
        if self.waiting.is_empty() {
            jobs.push(queue.recv().await?);
        } else {
            let pause = if self.failures > 0 {
                RETRY_PAUSE
            } else {
                busy_pause(self.stuck)
            };
            match tokio::time::timeout(pause, queue.recv()).await {
                Ok(job) => jobs.push(job?),
                Err(_) => return Some(jobs),
            }
        }
        while let Ok(job) = queue.try_recv() {
            jobs.push(job);
            if jobs.len() >= BATCH_MAX {
                break;
            }
        }
        Some(jobs)
    }

    /// Sorts new jobs in; false when told to stop.
    pub(super) async fn take(&mut self, jobs: Vec<Job>) -> bool {
        let mut going = true;
        for job in jobs {
            match job {
                Job::Hold(request, answer) => {
                    let cap = request.quote.output_cap;
                    let hold = request.quote.hold(cap);
                    self.waiting
                        .push_back(Pending::Hold(request, hold, 0, answer));
                }
                // A hold that was not sent yet, and whose caller has let go, need not be made.
                Job::End(ending) if self.withdraw(&ending) => {}
                Job::End(ending) => self.waiting.push_back(Pending::End(ending)),
                Job::Standing {
                    user_id,
                    counters,
                    answer,
                    ..
                } => {
                    // It is to see what was ended before it was asked, as far as that can be written now.
                    self.write().await;
                    // Nobody's holds wait while a database that is down is asked once for each who wants to know.
                    let standing = if self.is_down() || answer.is_closed() {
                        None
                    } else {
                        self.read_standing(user_id, &counters).await
                    };
                    drop(answer.send(standing));
                }
                Job::Unsent { .. } | Job::Turn(_) | Job::Lag(_) | Job::Mark(_) => {
                    self.write().await;
                    // Without an answer the outbox comes again later.
                    if !self.is_down() {
                        self.for_outbox(job).await;
                    }
                }
                Job::Note(user) => self.note_user(user).await,
                Job::Stop => going = false,
            }
        }
        going
    }

    /// Where the database is down, the user is noted when they come again.
    async fn note_user(&self, user: NewUser) {
        if self.is_down() {
            return;
        }
        if let Err(error) = note_on_postgres(&self.base.database, user).await {
            tracing::warn!(%error, "a user is not noted");
        }
    }

    async fn read_standing(
        &mut self,
        user_id: Uuid,
        counters: &[LimitCounter],
    ) -> Option<UserBalance> {
        let now = self.base.clock.now();
        let standing = ask_standing(&self.base.database, (user_id, now), counters).await;
        if let Err(error) = &standing {
            tracing::warn!(%error, "the ledger cannot be read");
            self.failures = self.failures.saturating_add(1);
            self.tried_at = Instant::now();
        }
        standing.ok()
    }

    /// What the outbox asks. One process at a time gets rows to send.
    async fn for_outbox(&self, job: Job) {
        let database = &self.base.database;
        match job {
            Job::Unsent {
                limit,
                except,
                answer,
            } => {
                let params = vec![
                    self.base.owner.to_string().into(),
                    except.into(),
                    i64::from(limit).into(),
                ];
                let sql = versioned("tollgate_ledger.unsent_v0($1, $2, $3)");
                let of_user = "from tollgate_ledger.users as u where u.user_id = r.user_id";
                let sql = format!(
                    "select {}, (select issuer {of_user}), (select subject {of_user}) from {sql} as r",
                    request_columns()
                );
                let rows = database.query(sql, params).await.map_err(Failure::from);
                let read = |row: &pg::Row| unsent_of(&postgres_row(row)?);
                drop(answer.send(rows.and_then(|rows| rows.iter().map(read).collect())));
            }
            Job::Turn(answer) => {
                let sql = versioned("select tollgate_ledger.outbox_turn_v0($1, 'outbox')");
                let rows = database
                    .query(sql, vec![self.base.owner.to_string().into()])
                    .await
                    .map_err(Failure::from);
                drop(answer.send(rows.and_then(|rows| turn_of(&rows))));
            }
            Job::Lag(answer) => {
                let sql = versioned("select * from tollgate_ledger.unsent_lag_v0()");
                let rows = database.query(sql, Vec::new()).await;
                let lag = rows.map_err(Failure::from).and_then(|rows| lag_of(&rows));
                drop(answer.send(lag));
            }
            Job::Mark(Marking { ids, mark, answer }) => {
                let mark: i64 = match mark {
                    Mark::Sent => 0,
                    Mark::DeadLetter => 2,
                };
                let sql = "update tollgate_ledger.requests set unsent = $1 where id = any($2) and unsent = 1";
                let done = database.query(sql, vec![mark.into(), ids.into()]).await;
                drop(answer.send(done.map(drop).map_err(Failure::from)));
            }
            Job::Hold(..) | Job::End(_) | Job::Standing { .. } | Job::Note(_) | Job::Stop => {}
        }
    }

    fn withdraw(&mut self, ending: &Ending) -> bool {
        let is_it = |pending: &Pending| matches!(pending, Pending::Hold(request, ..) if request.id == ending.id);
        let place = self.waiting.iter().position(is_it);
        let withdrawn = place.and_then(|place| self.waiting.remove(place));
        // What was to take the place of a hold leaves that to be ended.
        matches!(withdrawn, Some(Pending::Hold(request, ..)) if request.replaces.is_none())
    }

    /// The database failed a moment ago: it is not asked again yet.
    fn is_down(&self) -> bool {
        self.failures > 0 && (self.probe.is_some() || self.tried_at.elapsed() < RETRY_PAUSE)
    }

    /// After a call without an answer: asks whether there are answers again, and waits for none. A batch would wait for as
    /// long again, and every hold that comes meanwhile with it.
    async fn probe(&mut self) {
        let Some(probe) = self
            .probe
            .as_mut()
            .filter(|_| self.tried_at.elapsed() >= RETRY_PAUSE)
        else {
            return;
        };
        let database = self.base.database.clone();
        let asking = probe.get_or_insert_with(|| {
            Box::pin(async move {
                database
                    .query_within(PROBE_TIMEOUT, "select 1", Vec::new())
                    .await
            })
        });
        match poll_fn(|context| Poll::Ready(asking.as_mut().poll(context))).await {
            Poll::Pending => {}
            Poll::Ready(Ok(_)) => self.probe = None,
            Poll::Ready(Err(_)) => {
                self.probe = Some(None);
                self.tried_at = Instant::now();
            }
        }
    }

    pub(super) async fn write(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        self.probe().await;
        if self.is_down() {
            return self.refuse_holds();
        }
        let most = self.waiting.len().min(BATCH_MAX);
        let batch: Vec<Pending> = self.waiting.drain(..most).collect();
        match self.call(&batch).await {
            Ok(answers) => {
                self.succeeded();
                self.locked = 0;
                if batch
                    .iter()
                    .any(|pending| matches!(pending, Pending::End(_)))
                {
                    self.base.shared.ended.notify_one();
                }
                self.answer(batch, &answers);
            }
            Err(error) if error.unavailable && !is_lock(&error) => self.failed(&error, batch),
            // Most likely the app's window, of which all spend: in pieces the batch would wait for it with each.
            Err(error) if is_lock(&error) && self.failures == 0 && self.locked < LOCKED_TRIES => {
                self.locked = self.locked.saturating_add(1);
                self.keep(batch);
            }
            Err(error) => {
                self.locked = 0;
                self.one_user_at_a_time(&error, batch).await;
            }
        }
    }

    /// Writes the prices of holds that the database is not known to have, before any row names them.
    async fn store_prices(&mut self, batch: &[Pending]) -> Result<(), pg::PgError> {
        for pending in batch {
            let Pending::Hold(request, ..) = pending else {
                continue;
            };
            let price = &request.quote.price;
            if self.prices.known(price).is_some() {
                continue;
            }
            let stored = price.stored();
            let id = price_ids::id_of(&stored);
            let sql = "insert into tollgate_ledger.prices (id, rates, made_at) values ($1, $2, $3)
                       on conflict do nothing";
            let made_at = request.now.millis();
            let params = vec![id.to_string().into(), stored.into(), made_at.into()];
            self.base.database.query(sql.to_owned(), params).await?;
            self.prices.note(price, id);
        }
        Ok(())
    }

    async fn call(&mut self, batch: &[Pending]) -> Result<Vec<Value>, pg::PgError> {
        self.store_prices(batch).await?;
        let now = self.base.clock.now();
        let database = &self.base.database;
        let known = (&self.base, &self.prices);
        let jobs = batch.iter().enumerate().map(|(n, pending)| {
            let wary = self.busy.contains(&pending.user_id());
            pending.json(known, now, Place { n, wary })
        });
        let jobs = batch_param(&jobs.collect::<Vec<_>>())?;
        let rows = database
            .query(versioned("select tollgate_ledger.write_v0($1)"), vec![jobs])
            .await?;
        let answer: Option<Value> = rows.first().and_then(|row| row.try_get(0).ok());
        let answers = answer
            .and_then(|value| value.as_array().cloned())
            .unwrap_or_default();
        if answers.len() == batch.len() {
            return Ok(answers);
        }
        let message =
            "the function write gave another number of answers than it was asked".to_owned();
        Err(pg::PgError {
            sqlstate: None,
            message,
            unavailable: true,
            late: false,
        })
    }

    /// Tells who waits; keeps what is to be tried again in front, in its order.
    fn answer(&mut self, batch: Vec<Pending>, answers: &[Value]) {
        let mut again = VecDeque::new();
        let is_busy = |answer: &Value| *member(answer, "busy") == true;
        self.stuck = if answers.iter().all(is_busy) {
            self.stuck.saturating_add(1)
        } else {
            0
        };
        self.busy.clear();
        for (pending, answer) in batch.into_iter().zip(answers) {
            if is_busy(answer) {
                self.busy.push(pending.user_id());
                again.push_back(pending);
                continue;
            }
            let Pending::Hold(request, hold, shrunk, waiting) = pending else {
                continue;
            };
            if *member(answer, "held") == true {
                drop(waiting.send(Ok(hold)));
                continue;
            }
            match decision(&request, answer) {
                Ok(smaller) if shrunk < SHRINK_TRIES => {
                    again.push_back(Pending::Hold(
                        request,
                        smaller,
                        shrunk.saturating_add(1),
                        waiting,
                    ));
                }
                Ok(_) => drop(waiting.send(Err(NoHold::Store))),
                Err(no) => drop(waiting.send(Err(no))),
            }
        }
        again.append(&mut self.waiting);
        self.waiting = again;
    }

    /// A batch that cannot go in as a whole (a row that somebody has locked, a value that is refused) goes in by user.
    async fn one_user_at_a_time(&mut self, error: &pg::PgError, batch: Vec<Pending>) {
        tracing::debug!(
            error = error.message,
            jobs = batch.len(),
            "a batch goes in user by user"
        );
        let mut groups: VecDeque<Vec<Pending>> = VecDeque::new();
        for pending in batch {
            let same = |group: &&mut Vec<Pending>| {
                group
                    .first()
                    .is_some_and(|first| first.user_id() == pending.user_id())
            };
            match groups.iter_mut().find(same) {
                Some(group) => group.push(pending),
                None => groups.push_back(vec![pending]),
            }
        }
        // A hold writes no row that is there already, but those that all need: its lock is everybody's. First, then.
        let is_telling = |group: &Vec<Pending>| {
            group
                .iter()
                .all(|pending| matches!(pending, Pending::Hold(..)))
        };
        groups
            .make_contiguous()
            .sort_by_key(|group| !is_telling(group));
        let tries = if self.failures > 0 { 1 } else { LOCKED_TRIES };
        let (mut down, mut locked, mut any) = (false, 0_u32, false);
        while let Some(group) = groups.pop_front() {
            if down {
                self.keep(group);
                continue;
            }
            match self.call(&group).await {
                Ok(answers) => {
                    any = true;
                    self.succeeded();
                    self.answer(group, &answers);
                }
                Err(error) if is_lock(&error) => {
                    locked = locked.saturating_add(u32::from(is_telling(&group)));
                    let was_last = locked > 0 && !groups.front().is_some_and(is_telling);
                    self.keep(group);
                    // The others would only wait for the same lock in their turn.
                    if !any && (locked >= tries || was_last) {
                        self.shut_out(&error);
                        down = true;
                    }
                }
                // Which one is refused? It must not take the others with it.
                Err(error) if is_data(&error) && group.len() > 1 => {
                    group
                        .into_iter()
                        .rev()
                        .for_each(|pending| groups.push_front(vec![pending]));
                }
                Err(error) if is_data(&error) => give_up(&error, group),
                Err(error) => {
                    self.failed(&error, group);
                    down = true;
                }
            }
        }
        if down {
            self.refuse_holds();
        }
    }

    fn keep(&mut self, group: Vec<Pending>) {
        group
            .into_iter()
            .rev()
            .for_each(|pending| self.waiting.push_front(pending));
    }

    /// Nobody knows whether the batch went in: endings are kept, holds are refused and voided.
    fn failed(&mut self, error: &pg::PgError, batch: Vec<Pending>) {
        self.failures = self.failures.saturating_add(1);
        self.probe = self.probe.take().or_else(|| error.late.then_some(None));
        // The pause begins now: a call that hung has taken longer than it.
        self.tried_at = Instant::now();
        self.base.shared.writable.store(false, Ordering::Release);
        if self.failures.is_power_of_two() {
            tracing::error!(error = error.message, "the ledger cannot be written");
        }
        let mut kept = VecDeque::new();
        for pending in batch {
            match pending {
                Pending::Hold(request, _, _, waiting) => {
                    // One that has a hold already ends as its caller says.
                    if request.replaces.is_none() {
                        kept.push_back(Pending::Void(request));
                    }
                    drop(waiting.send(Err(NoHold::Store)));
                }
                ending => kept.push_back(ending),
            }
        }
        kept.append(&mut self.waiting);
        self.waiting = kept;
        self.refuse_holds();
    }

    /// Somebody keeps locked what the batch needs. Nothing of it went in: endings wait, holds are refused, and until the
    /// lock is gone it is tried once a pause.
    fn shut_out(&mut self, error: &pg::PgError) {
        self.failures = self.failures.saturating_add(1);
        self.tried_at = Instant::now();
        self.base.shared.writable.store(false, Ordering::Release);
        if self.failures.is_power_of_two() {
            tracing::error!(
                error = error.message,
                "somebody keeps the ledger locked (look at pg_locks): holds are refused"
            );
        }
        self.refuse_holds();
    }

    /// While the database is down: holds that were never sent are refused at once.
    fn refuse_holds(&mut self) {
        for pending in std::mem::take(&mut self.waiting) {
            match pending {
                Pending::Hold(.., waiting) => drop(waiting.send(Err(NoHold::Store))),
                ending => self.waiting.push_back(ending),
            }
        }
    }

    /// What waits is sent, and nobody hears of it again.
    #[cfg(test)]
    pub(super) fn lose_call(&mut self) {
        let batch: Vec<Pending> = self.waiting.drain(..).collect();
        let message = "lost by a test".to_owned();
        self.failed(
            &pg::PgError {
                sqlstate: None,
                message,
                unavailable: true,
                late: false,
            },
            batch,
        );
    }

    fn succeeded(&mut self) {
        if self.failures > 0 {
            tracing::info!("the ledger can be written again");
        }
        self.failures = 0;
        self.base.shared.writable.store(true, Ordering::Release);
    }
}

/// How long to leave others alone with whom they are busy.
fn busy_pause(stuck: u32) -> Duration {
    let doubled = stuck
        .checked_div(BUSY_TRIES)
        .and_then(|times| 2_u32.checked_pow(times))
        .unwrap_or(u32::MAX);
    BUSY_PAUSE.saturating_mul(doubled).min(BUSY_PAUSE_MAX)
}

/// Somebody has locked what is wanted: try again.
fn is_lock(error: &pg::PgError) -> bool {
    error.is("55P03") || error.is("40P01") || error.is("40001")
}

/// The values themselves are refused, as they would be each time. (Of any other error, missing rights or a missing
/// function, an operator can get out: what is to be ended waits for that.)
fn is_data(error: &pg::PgError) -> bool {
    error
        .sqlstate
        .as_deref()
        .is_some_and(|state| state.starts_with("22") || state.starts_with("23"))
}

/// A hold that did not fit: a smaller one that does, by what the windows say, or the reason why not.
fn decision(request: &HoldRequest, answer: &Value) -> Result<Hold, NoHold> {
    if let Some(first) = repetition_of(answer) {
        return Err(NoHold::Repeated(first));
    }
    if let Some(reason) = member(answer, "paused").as_str() {
        return Err(NoHold::Paused(reason.to_owned()));
    }
    let ceiling = answer
        .get("ceiling")
        .filter(|ceiling| !ceiling.is_null())
        .map(standing_of);
    let open = member(answer, "open").as_i64().unwrap_or(i64::MAX);
    decide(
        request,
        &standings_of(member(answer, "standings")),
        ceiling,
        open,
        member(answer, "credits").as_i64(),
    )
}

/// What the database refuses however often it is tried must not stop the others.
fn give_up(error: &pg::PgError, group: Vec<Pending>) {
    let refused = |id: Uuid| tracing::error!(error = error.message, request_id = %id, "the ledger refuses this ending");
    for pending in group {
        match pending {
            Pending::Hold(.., waiting) => drop(waiting.send(Err(NoHold::Store))),
            Pending::End(Ending { id, .. }) => refused(id),
            Pending::Void(request) => refused(request.id),
        }
    }
}
