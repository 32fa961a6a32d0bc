//! The ledger on Postgres, for several processes on one database.
//!
//! Jobs of a user always go to the same lane, in their order; a lane gathers a batch while its last one is on its way and
//! sends it as one call of `tollgate_ledger.write`: one round trip and one commit for many holds. Whether given amounts
//! fit is decided there, under the user's lock; how much to ask for is decided here, by the same `plan::admit` as on
//! SQLite. A user with whom another process is busy is tried again a moment later, and holds nobody up.
//!
//! A call whose outcome is not known is repeated where that is safe (an ending changes nothing twice); a hold is not: it
//! is refused, and voided in case it is there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::db::{Db, postgres_row};
use super::jobs::{Job, Marking};
use super::report::{REQUEST_COLUMNS, request_of};
use super::sqlite::{Failure, KEEP_SHORT_WINDOWS, KEEP_WINDOWS, id_at};
use super::{Charge, Ending, HoldRequest, Lag, Mark, NoHold, Settings, Settlement, Shared, UserStanding, decide};
use crate::clock::{Clock, Timestamp};
use crate::pg;
use crate::plan::{Amounts, Hold, Per, Standing, Window, window};
use crate::price::{MicroUsd, Usage};

/// How many batches may be on their way at once, each with its connection.
const LANES: usize = 4;
/// How many jobs share a commit at most.
const BATCH_MAX: usize = 256;
/// How soon a user is tried again with whom another process is busy.
const BUSY_PAUSE: Duration = Duration::from_millis(3);
/// How soon a database that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// How long a call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How often changes by others are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often old rows are looked for.
const PRUNE_EVERY: Duration = Duration::from_mins(10);
/// How often a hold may shrink and ask again before it is refused: others spend meanwhile.
const SHRINK_TRIES: u8 = 8;

/// Scripts that bring an older database up to date.
const MIGRATIONS: &[&str] = &[include_str!("../../migrations/postgres/0001_ledger.sql")];

impl From<pg::PgError> for Failure {
    fn from(error: pg::PgError) -> Self {
        let refuses = error.sqlstate.as_deref().is_some_and(|state| state.starts_with("23") || state.starts_with("22"));
        Self::of_database(format!("Postgres: {}", error.message), refuses)
    }
}

/// A database for reports, to be asked from a thread that may block.
pub(super) fn database(url: &SecretString) -> Result<Db, Failure> {
    let runtime = Handle::try_current().map_err(|error| Failure::new(error.to_string()))?;
    Ok(Db::Postgres(connect(url, 2)?, runtime))
}

fn connect(url: &SecretString, connections: usize) -> Result<pg::Database, Failure> {
    let settings = pg::Settings { connections, call_timeout: CALL_TIMEOUT };
    pg::Database::new(url, settings, TaskTracker::new()).map_err(Failure::new)
}

/// Makes or migrates the tables, from a thread that may block.
pub(super) fn migrate(db: &Db) -> Result<(), Failure> {
    match db {
        Db::Postgres(database, runtime) => runtime.block_on(bring_up_to_date(database)),
        Db::Sqlite(_) => Ok(()),
    }
}

/// One transaction under a lock: processes that start together make the tables once.
async fn bring_up_to_date(db: &pg::Database) -> Result<(), Failure> {
    // Whoever may use the schema need not have the right to make one: then somebody else made it, empty.
    let mut script = String::from(
        "select pg_catalog.pg_advisory_xact_lock(7160412533);
         do $schema$ begin
            if not exists (select 1 from pg_catalog.pg_namespace where nspname = 'tollgate_ledger') then
                create schema tollgate_ledger;
                revoke all on schema tollgate_ledger from public;
            end if;
            if to_regclass('tollgate_ledger.migrations') is null then
                create table tollgate_ledger.migrations (number bigint primary key);
            end if;
         end $schema$;",
    );
    for (place, migration) in MIGRATIONS.iter().enumerate() {
        let number = place.saturating_add(1);
        script.push_str(&format!(
            "do $migration$ begin
                if not exists (select 1 from tollgate_ledger.migrations where number = {number}) then
                    execute $script$ {migration} $script$;
                    insert into tollgate_ledger.migrations values ({number});
                end if;
             end $migration$;"
        ));
    }
    Ok(db.batch(script).await?)
}

/// What a user has used and holds, from a thread that may block.
pub(super) fn standing(db: &Db, user_id: Uuid, windows: &[Window]) -> Result<UserStanding, Failure> {
    match db {
        Db::Postgres(database, runtime) => runtime.block_on(ask_standing(database, user_id, windows)),
        Db::Sqlite(_) => Err(Failure::new("not a Postgres ledger".to_owned())),
    }
}

async fn ask_standing(db: &pg::Database, user_id: Uuid, windows: &[Window]) -> Result<UserStanding, Failure> {
    let asked: Vec<Value> = windows.iter().map(window_json).collect();
    let sql = "select tollgate_ledger.standing($1, $2, $3)";
    let params = vec![user_id.to_string().into(), Value::Array(asked).into(), Timestamp::MAX.millis().into()];
    let answer = one_value(db.query(sql, params).await?)?;
    Ok(UserStanding { windows: standings_of(&answer["standings"]), open: answer["open"].as_i64().unwrap_or(0) })
}

fn one_value(rows: Vec<pg::Row>) -> Result<Value, Failure> {
    let row = rows.first().ok_or_else(|| Failure::new("Postgres: no answer".to_owned()))?;
    row.try_get(0).map_err(|error| Failure::new(format!("Postgres: {error}")))
}

fn window_json(window: &Window) -> Value {
    json!({ "per": window.per.as_str(), "start": window.start.millis(), "end": window.end.millis() })
}

fn standing_of(value: &Value) -> Standing {
    let amounts = |value: &Value| {
        let at = |place: usize| value.get(place).and_then(Value::as_i64).unwrap_or(i64::MAX);
        Amounts { requests: at(0), tokens: at(1), cost: at(2) }
    };
    Standing { used: amounts(&value["used"]), held: amounts(&value["held"]) }
}

fn standings_of(value: &Value) -> Vec<Standing> {
    value.as_array().map(|all| all.iter().map(standing_of).collect()).unwrap_or_default()
}

/// The lanes that jobs are sent to.
#[derive(Clone, Debug)]
pub(super) struct Lanes(Arc<[UnboundedSender<Job>]>);

impl Lanes {
    /// Sends a job to its user's lane; gives it back when the lanes have stopped.
    pub(super) fn send(&self, job: Job) -> Result<(), Job> {
        let user = job.user_id().as_u128();
        let count = u128::try_from(self.0.len().max(1)).unwrap_or(1);
        let place = usize::try_from(user.checked_rem(count).unwrap_or(0)).unwrap_or(0);
        match self.0.get(place) {
            Some(lane) => lane.send(job).map_err(|refused| refused.0),
            None => Err(job),
        }
    }

    /// Tells every lane to write what it has and stop.
    pub(super) fn stop(&self) {
        self.0.iter().for_each(|lane| drop(lane.send(Job::Stop)));
    }
}

/// Connects, migrates, and starts the thread that all lanes run on.
pub(super) fn start(
    url: &SecretString,
    settings: Settings,
    clock: Clock,
    shared: Arc<Shared>,
) -> Result<(Lanes, JoinHandle<()>, String), Failure> {
    let (senders, queues): (Vec<_>, Vec<_>) = (0..LANES).map(|_| unbounded_channel()).unzip();
    let (ready, wait) = std::sync::mpsc::channel();
    let (url, owner) = (url.clone(), Uuid::now_v7());
    let builder = std::thread::Builder::new().name("ledger".to_owned());
    let thread = builder.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(async {
                let opened = open(&url, owner, &settings).await;
                let (database, key) = match opened {
                    Ok(opened) => opened,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                shared.writable.store(true, Ordering::Release);
                drop(ready.send(Ok(key)));
                let base = Base { database, settings, clock, shared, owner };
                run(base, queues).await;
            }),
            Err(error) => drop(ready.send(Err(Failure::new(format!("no runtime for the ledger: {error}"))))),
        }
    });
    let thread = thread.map_err(|error| Failure::new(format!("no thread for the ledger: {error}")))?;
    let key = wait.recv().map_err(|error| Failure::new(format!("the ledger did not start: {error}")))??;
    Ok((Lanes(senders.into()), thread, key))
}

async fn open(url: &SecretString, owner: Uuid, settings: &Settings) -> Result<(pg::Database, String), Failure> {
    let database = connect(url, LANES.saturating_add(2))?;
    bring_up_to_date(&database).await?;
    let sql = "insert into tollgate_ledger.switches (name, value, updated_at)
               values ('identifier_key', replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 0)
               on conflict (name) do update set name = excluded.name returning value";
    let rows = database.query(sql, Vec::new()).await?;
    let key = rows.first().and_then(|row| row.try_get(0).ok());
    renew(&database, owner, settings.lease).await?;
    Ok((database, key.ok_or_else(|| Failure::new("Postgres: no identifier key".to_owned()))?))
}

async fn renew(database: &pg::Database, owner: Uuid, lease: Duration) -> Result<(), Failure> {
    let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
    let params = vec![owner.to_string().into(), lease_ms.into()];
    database.query("select tollgate_ledger.renew($1, $2)", params).await?;
    Ok(())
}

/// What all lanes and chores share.
#[derive(Clone)]
struct Base {
    database: pg::Database,
    settings: Settings,
    clock: Clock,
    shared: Arc<Shared>,
    owner: Uuid,
}

async fn run(base: Base, queues: Vec<UnboundedReceiver<Job>>) {
    let lanes = TaskTracker::new();
    for queue in queues {
        lanes.spawn(Lane::new(base.clone()).run(queue));
    }
    lanes.close();
    tokio::select! {
        () = lanes.wait() => {}
        () = chores(base) => {}
    }
}

/// A job on its way to the database.
enum Pending {
    /// A hold of so much output at most; how often it has shrunk; who waits.
    Hold(Box<HoldRequest>, Hold, u8, oneshot::Sender<Result<Hold, NoHold>>),
    End(Ending),
}

impl Pending {
    fn json(&self, owner: Uuid, now: Timestamp, outbox: bool) -> Value {
        match self {
            Self::Hold(request, hold, ..) => hold_json(request, hold, owner),
            Self::End(ending) => ending_json(ending, now, outbox),
        }
    }

    fn user_id(&self) -> Uuid {
        match self {
            Self::Hold(request, ..) => request.user_id,
            Self::End(ending) => ending.user_id,
        }
    }
}

fn hold_json(request: &HoldRequest, hold: &Hold, owner: Uuid) -> Value {
    let limit = |(limit, window): &(crate::plan::Limit, Window)| {
        json!({
            "per": window.per.as_str(), "unit": limit.unit.as_str(), "amount": limit.amount,
            "start": window.start.millis(), "end": window.end.millis(),
        })
    };
    let ceiling = request.ceiling.map(|(amount, window)| {
        let mut ceiling = window_json(&window);
        ceiling["amount"] = amount.into();
        ceiling
    });
    let input = i64::try_from(request.ask.input_tokens).unwrap_or(i64::MAX).min(hold.amounts.tokens);
    json!({
        "id": request.id, "user_id": request.user_id, "now": request.now.millis(), "plan": request.plan,
        "endpoint": request.endpoint, "model": request.model, "upstream": request.upstream, "owner": owner,
        "input": input, "tokens": hold.amounts.tokens, "micros": hold.amounts.cost,
        "concurrent": request.concurrent, "lifetime_ends": Timestamp::MAX.millis(),
        "limits": request.limits.iter().map(limit).collect::<Vec<_>>(), "ceiling": ceiling,
    })
}

fn ending_json(ending: &Ending, now: Timestamp, outbox: bool) -> Value {
    let settlement = &ending.settlement;
    let (state, load, charged) = match settlement.charge {
        Charge::Voided { load } => ("voided", load, Some((Usage::default(), MicroUsd(0)))),
        Charge::Settled { usage, cost } => ("settled", false, Some((usage, cost))),
        Charge::WholeHold => ("settled", false, None),
        Charge::Lost => ("lost", false, None),
    };
    let (usage, cost) = charged.unwrap_or_default();
    json!({
        "id": ending.id, "user_id": ending.user_id, "state": state, "flags": settlement.flags.join(","),
        "load": i64::from(load), "now": now.millis(), "ttft_ms": settlement.ttft_ms, "whole": charged.is_none(),
        "input": usage.input_tokens, "cached": usage.cached_input_tokens, "output": usage.output_tokens,
        "reasoning": usage.reasoning_tokens, "micros": cost.0, "unsent": i64::from(outbox && state != "voided"),
    })
}

/// One batch at a time, on a connection of its own.
pub(super) struct Lane {
    base: Base,
    /// In order; the first come first.
    waiting: VecDeque<Pending>,
    failures: u32,
    tried_at: Instant,
}

impl Lane {
    fn new(base: Base) -> Self {
        Self { base, waiting: VecDeque::new(), failures: 0, tried_at: Instant::now() }
    }

    async fn run(mut self, mut queue: UnboundedReceiver<Job>) {
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
            tracing::error!(requests = self.waiting.len(), "not written: another process ends these requests as lost");
        }
    }

    /// What has come meanwhile; waits for something if there is nothing to do. `None`: nothing will come any more.
    async fn next(&self, queue: &mut UnboundedReceiver<Job>) -> Option<Vec<Job>> {
        let mut jobs = Vec::new();
        if self.waiting.is_empty() {
            jobs.push(queue.recv().await?);
        } else {
            let pause = if self.failures > 0 { RETRY_PAUSE } else { BUSY_PAUSE };
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
    async fn take(&mut self, jobs: Vec<Job>) -> bool {
        let mut going = true;
        for job in jobs {
            match job {
                Job::Hold(request, answer) => {
                    let cap = request.ask.output_cap;
                    let hold = Hold { output_cap: cap, amounts: request.ask.amounts(cap) };
                    self.waiting.push_back(Pending::Hold(request, hold, 0, answer));
                }
                // A hold that was not sent yet, and whose caller has let go, need not be made.
                Job::End(ending) if self.withdraw(&ending) => {}
                Job::End(ending) => self.waiting.push_back(Pending::End(ending)),
                Job::Standing { user_id, windows, answer, .. } => {
                    // It is to see what was ended before it was asked.
                    self.write().await;
                    let standing = ask_standing(&self.base.database, user_id, &windows).await;
                    if let Err(error) = &standing {
                        tracing::warn!(%error, "the ledger cannot be read");
                    }
                    drop(answer.send(standing.ok()));
                }
                Job::Unsent { .. } | Job::Lag(_) | Job::Mark(_) => {
                    self.write().await;
                    self.for_outbox(job).await;
                }
                Job::Stop => going = false,
            }
        }
        going
    }

    /// What the outbox asks. One process at a time gets rows to send.
    async fn for_outbox(&self, job: Job) {
        let database = &self.base.database;
        match job {
            Job::Unsent { limit, except, answer } => {
                let params = vec![self.base.owner.to_string().into(), except.into(), i64::from(limit).into()];
                let sql = format!("select {REQUEST_COLUMNS} from tollgate_ledger.unsent($1, $2, $3)");
                let rows = database.query(sql, params).await.map_err(Failure::from);
                let read = |row: &pg::Row| request_of(&postgres_row(row)?);
                drop(answer.send(rows.and_then(|rows| rows.iter().map(read).collect())));
            }
            Job::Lag(answer) => {
                let rows = database.query("select * from tollgate_ledger.unsent_lag()", Vec::new()).await;
                let lag = rows.map_err(Failure::from).and_then(|rows| lag_of(&rows));
                drop(answer.send(lag));
            }
            Job::Mark(Marking { ids, mark, answer }) => {
                let mark: i64 = match mark {
                    Mark::Sent => 0,
                    Mark::LeftBehind => 2,
                };
                let sql = "update tollgate_ledger.requests set unsent = $1 where id = any($2) and unsent = 1";
                let done = database.query(sql, vec![mark.into(), ids.into()]).await;
                drop(answer.send(done.map(drop).map_err(Failure::from)));
            }
            Job::Hold(..) | Job::End(_) | Job::Standing { .. } | Job::Stop => {}
        }
    }

    fn withdraw(&mut self, ending: &Ending) -> bool {
        let is_it = |pending: &Pending| matches!(pending, Pending::Hold(request, ..) if request.id == ending.id);
        let place = self.waiting.iter().position(is_it);
        place.and_then(|place| self.waiting.remove(place)).is_some()
    }

    async fn write(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        if self.failures > 0 && self.tried_at.elapsed() < RETRY_PAUSE {
            return self.refuse_holds();
        }
        self.tried_at = Instant::now();
        let most = self.waiting.len().min(BATCH_MAX);
        let batch: Vec<Pending> = self.waiting.drain(..most).collect();
        match self.call(&batch).await {
            Ok(answers) => {
                self.succeeded();
                if batch.iter().any(|pending| matches!(pending, Pending::End(_))) {
                    self.base.shared.ended.notify_one();
                }
                self.answer(batch, &answers);
            }
            Err(error) if error.unavailable && !is_lock(&error) => self.failed(&error, batch),
            Err(error) => self.one_user_at_a_time(&error, batch).await,
        }
    }

    async fn call(&self, batch: &[Pending]) -> Result<Vec<Value>, pg::PgError> {
        let now = self.base.clock.now();
        let jobs: Vec<Value> =
            batch.iter().map(|pending| pending.json(self.base.owner, now, self.base.settings.outbox)).collect();
        let rows =
            self.base.database.query("select tollgate_ledger.write($1)", vec![Value::Array(jobs).into()]).await?;
        let answer: Option<Value> = rows.first().and_then(|row| row.try_get(0).ok());
        let answers = answer.and_then(|value| value.as_array().cloned()).unwrap_or_default();
        if answers.len() == batch.len() {
            return Ok(answers);
        }
        let message = "tollgate_ledger.write gave another number of answers than it was asked".to_owned();
        Err(pg::PgError { sqlstate: None, message, unavailable: true })
    }

    /// Tells who waits; keeps what is to be tried again in front, in its order.
    fn answer(&mut self, batch: Vec<Pending>, answers: &[Value]) {
        let mut again = VecDeque::new();
        for (pending, answer) in batch.into_iter().zip(answers) {
            if answer["busy"] == true {
                again.push_back(pending);
                continue;
            }
            let Pending::Hold(request, hold, shrunk, waiting) = pending else { continue };
            if answer["held"] == true {
                drop(waiting.send(Ok(hold)));
                continue;
            }
            match decision(&request, answer) {
                Ok(smaller) if shrunk < SHRINK_TRIES => {
                    again.push_back(Pending::Hold(request, smaller, shrunk.saturating_add(1), waiting));
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
        tracing::debug!(error = error.message, jobs = batch.len(), "a batch goes in user by user");
        let mut groups: Vec<Vec<Pending>> = Vec::new();
        for pending in batch {
            let same =
                |group: &&mut Vec<Pending>| group.first().is_some_and(|first| first.user_id() == pending.user_id());
            match groups.iter_mut().find(same) {
                Some(group) => group.push(pending),
                None => groups.push(vec![pending]),
            }
        }
        for group in groups {
            match self.call(&group).await {
                Ok(answers) => self.answer(group, &answers),
                Err(error) if is_lock(&error) => self.keep(group),
                Err(error) if error.unavailable => self.failed(&error, group),
                Err(error) => self.give_up(&error, group),
            }
        }
    }

    fn keep(&mut self, group: Vec<Pending>) {
        group.into_iter().rev().for_each(|pending| self.waiting.push_front(pending));
    }

    /// What the database refuses however often it is tried must not stop the others.
    fn give_up(&mut self, error: &pg::PgError, group: Vec<Pending>) {
        for pending in group {
            match pending {
                Pending::Hold(.., waiting) => drop(waiting.send(Err(NoHold::Store))),
                Pending::End(ending) => {
                    tracing::error!(error = error.message, request_id = %ending.id, "the ledger refuses this ending");
                }
            }
        }
    }

    /// Nobody knows whether the batch went in: endings are kept, holds are refused and voided.
    fn failed(&mut self, error: &pg::PgError, batch: Vec<Pending>) {
        self.failures = self.failures.saturating_add(1);
        self.base.shared.writable.store(false, Ordering::Release);
        if self.failures.is_power_of_two() {
            tracing::error!(error = error.message, "the ledger cannot be written");
        }
        let mut kept = VecDeque::new();
        for pending in batch {
            match pending {
                Pending::End(ending) => kept.push_back(Pending::End(ending)),
                Pending::Hold(request, _, _, waiting) => {
                    let (id, user_id) = (request.id, request.user_id);
                    kept.push_back(Pending::End(Ending { id, user_id, settlement: Settlement::void() }));
                    drop(waiting.send(Err(NoHold::Store)));
                }
            }
        }
        kept.append(&mut self.waiting);
        self.waiting = kept;
        self.refuse_holds();
    }

    /// While the database is down: holds that were never sent are refused at once.
    fn refuse_holds(&mut self) {
        for pending in std::mem::take(&mut self.waiting) {
            match pending {
                Pending::Hold(.., waiting) => drop(waiting.send(Err(NoHold::Store))),
                ending @ Pending::End(_) => self.waiting.push_back(ending),
            }
        }
    }

    fn succeeded(&mut self) {
        if self.failures > 0 {
            tracing::info!("the ledger can be written again");
        }
        self.failures = 0;
        self.base.shared.writable.store(true, Ordering::Release);
    }
}

/// Somebody has locked what is wanted: try again.
fn is_lock(error: &pg::PgError) -> bool {
    error.is("55P03") || error.is("40P01") || error.is("40001")
}

/// A hold that did not fit: a smaller one that does, by what the windows say, or the reason why not.
fn decision(request: &HoldRequest, answer: &Value) -> Result<Hold, NoHold> {
    if let Some(reason) = answer["paused"].as_str() {
        return Err(NoHold::Paused(reason.to_owned()));
    }
    let ceiling = answer.get("ceiling").filter(|ceiling| !ceiling.is_null()).map(standing_of);
    let open = answer["open"].as_i64().unwrap_or(i64::MAX);
    decide(request, &standings_of(&answer["standings"]), ceiling, open)
}

fn lag_of(rows: &[pg::Row]) -> Result<Lag, Failure> {
    let row = rows.first().ok_or_else(|| Failure::new("Postgres: no answer".to_owned()))?;
    let row = postgres_row(row)?;
    Ok(Lag { unsent: row.int(0)?, oldest: row.maybe_int(1)?.map(Timestamp::from_millis), given_up: row.int(2)? })
}

/// Everything that is nobody's request: the lease, the sweep, changes by others, old rows.
async fn chores(base: Base) {
    let mut healthy_since: Option<Instant> = None;
    let mut renewed_at = Instant::now();
    let mut pruned_at: Option<Instant> = None;
    let mut epoch = None;
    let renew_every = base.settings.lease.checked_div(3).unwrap_or(base.settings.lease);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        match look_for_changes(&base).await {
            Ok(now) if epoch.replace(now) != Some(now) => drop(base.shared.epoch.fetch_add(1, Ordering::AcqRel)),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "the ledger cannot be read"),
        }
        if renewed_at.elapsed() >= renew_every || healthy_since.is_none() {
            let done = renew(&base.database, base.owner, base.settings.lease).await;
            base.shared.writable.store(done.is_ok(), Ordering::Release);
            if done.is_ok() {
                renewed_at = Instant::now();
                healthy_since = healthy_since.or(Some(renewed_at));
            } else {
                healthy_since = None;
            }
        }
        // After an outage the others are given the time to renew their leases first.
        if healthy_since.is_some_and(|since| since.elapsed() >= renew_every) {
            note(sweep(&base).await);
            if pruned_at.is_none_or(|at| at.elapsed() >= PRUNE_EVERY) {
                let now = base.clock.now();
                let gone = prune(&base, now.minus(base.settings.keep_requests), now).await;
                // A full helping means that there is more.
                if gone.as_ref().map_or(true, |gone| *gone < 500) {
                    pruned_at = Some(Instant::now());
                }
                note(gone.map(drop));
            }
        }
    }
}

fn note(done: Result<(), Failure>) {
    if let Err(error) = done {
        tracing::debug!(%error, "a chore of the ledger failed");
    }
}

async fn look_for_changes(base: &Base) -> Result<i64, Failure> {
    let sql =
        "select coalesce(sum(updated_at), 0)::bigint from tollgate_ledger.switches where name in ('epoch', 'paused')";
    let rows = base.database.query(sql, Vec::new()).await?;
    Ok(rows.first().and_then(|row| row.try_get(0).ok()).unwrap_or(0))
}

async fn sweep(base: &Base) -> Result<(), Failure> {
    let outbox = i64::from(base.settings.outbox);
    let now = base.clock.now().millis();
    let params = vec![base.owner.to_string().into(), now.into(), 100_i64.into(), outbox.into()];
    let rows = base.database.query("select tollgate_ledger.sweep($1, $2, $3, $4)", params).await?;
    let swept: i64 = rows.first().and_then(|row| row.try_get(0).ok()).unwrap_or(0);
    if swept > 0 {
        tracing::warn!(requests = swept, "requests of a process that died are charged their hold");
    }
    Ok(())
}

/// Forgets old rows, some at a time; their months are kept as sums.
async fn prune(base: &Base, before: Timestamp, now: Timestamp) -> Result<usize, Failure> {
    let before = id_at(before);
    let sql = "select id, user_id, started_at from tollgate_ledger.requests
               where id < $1 and state <> 'held' order by id limit 500";
    let rows = base.database.query(sql, vec![before.into()]).await?;
    let unreadable = |error: tokio_postgres::Error| Failure::new(format!("Postgres: {error}"));
    let (mut ids, mut months) = (Vec::new(), std::collections::BTreeSet::new());
    for row in &rows {
        ids.push(Value::String(row.try_get(0).map_err(unreadable)?));
        let (user, at): (String, i64) = (row.try_get(1).map_err(unreadable)?, row.try_get(2).map_err(unreadable)?);
        months.insert((user, window(Per::Month, Timestamp::from_millis(at), &base.settings.time_zone, None)));
    }
    let month = |(user, window): (String, Window)| {
        let mut month = window_json(&window);
        month["user_id"] = user.into();
        month
    };
    let months = Value::Array(months.into_iter().map(month).collect());
    let (short, long) = (now.minus(KEEP_SHORT_WINDOWS).millis(), now.minus(KEEP_WINDOWS).millis());
    let params = vec![Value::Array(ids).into(), months.into(), short.into(), long.into()];
    base.database.query("select tollgate_ledger.prune($1, $2, $3, $4)", params).await?;
    Ok(rows.len())
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "of JSON, in tests")]
mod for_laws {
    //! What the tests of the laws do with a lane, one step at a time.

    use super::*;

    impl Lane {
        pub(in crate::ledger) async fn for_laws(url: &SecretString, zone: jiff::tz::TimeZone) -> Self {
            let settings = Settings {
                store: crate::config::StoreUrl::Postgres(url.clone()),
                lease: Duration::from_mins(1),
                keep_requests: Duration::from_hours(48),
                time_zone: zone,
                outbox: true,
            };
            let owner = Uuid::now_v7();
            let (database, _) = open(url, owner, &settings).await.unwrap();
            let shared = Arc::new(Shared::default());
            Self::new(Base { database, settings, clock: Clock::system(), shared, owner })
        }

        async fn one(&self, sql: &str, params: Vec<pg::Param>) -> Value {
            one_value(self.base.database.query(sql.to_owned(), params).await.unwrap()).unwrap()
        }

        pub(in crate::ledger) async fn empty(&self) {
            let tables = "truncate tollgate_ledger.requests, tollgate_ledger.windows, tollgate_ledger.owners";
            self.base.database.batch(tables).await.unwrap();
            renew(&self.base.database, self.base.owner, self.base.settings.lease).await.unwrap();
        }

        pub(in crate::ledger) async fn hold(&mut self, request: HoldRequest) -> Result<Hold, NoHold> {
            let (answer, mut wait) = oneshot::channel();
            self.take(vec![Job::Hold(Box::new(request), answer)]).await;
            loop {
                self.write().await;
                if let Ok(answer) = wait.try_recv() {
                    return answer;
                }
            }
        }

        pub(in crate::ledger) async fn end(&mut self, ending: Ending, now: Timestamp) -> bool {
            let jobs = Value::Array(vec![ending_json(&ending, now, self.base.settings.outbox)]);
            self.one("select tollgate_ledger.write($1)", vec![jobs.into()]).await[0]["ended"] == true
        }

        pub(in crate::ledger) async fn die_and_sweep(&mut self, now: Timestamp) -> usize {
            self.base.database.batch("update tollgate_ledger.owners set lease_until = 0").await.unwrap();
            self.base.owner = Uuid::now_v7();
            renew(&self.base.database, self.base.owner, self.base.settings.lease).await.unwrap();
            let params = vec![self.base.owner.to_string().into(), now.millis().into(), 1000_i64.into(), 1_i64.into()];
            let swept = self.one("select to_jsonb(tollgate_ledger.sweep($1, $2, $3, $4))", params).await;
            usize::try_from(swept.as_u64().unwrap()).unwrap()
        }

        pub(in crate::ledger) async fn prune(&self, before: Timestamp, now: Timestamp) -> usize {
            prune(&self.base, before, now).await.unwrap()
        }

        pub(in crate::ledger) async fn standing(&self, user: Uuid, windows: &[Window]) -> UserStanding {
            ask_standing(&self.base.database, user, windows).await.unwrap()
        }

        pub(in crate::ledger) async fn sum_of_rows(&self, user: Uuid, window: &Window) -> Standing {
            let sql = "select tollgate_ledger.shown(tollgate_ledger.sum_of($1, $2, $3, $4))";
            let (per, start, end) = (window.per.as_str(), window.start.millis(), window.end.millis());
            standing_of(&self.one(sql, vec![user.to_string().into(), per.into(), start.into(), end.into()]).await)
        }
    }
}
