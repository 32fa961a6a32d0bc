//! The ledger on Postgres, for several processes on one database.
//!
//! Jobs of a user always go to the same lane, in their order; a lane gathers a batch while its last one is on its way and
//! sends it as one call of `write` in `functions.sql`: one round trip and one commit for many holds. Whether given amounts
//! fit is decided there, under the user's lock; how much to ask for is decided here, by the same `plan::admit` as on
//! SQLite. A user with whom another process is busy is tried again a moment later, and holds nobody up.
//!
//! A call whose outcome is not known is repeated where that is safe (an ending changes nothing twice); a hold is not: it
//! is refused, and voided in case it is there.

#[cfg(test)]
mod for_laws;
pub(super) mod install;
mod lane;
mod lease;
mod maintenance;
mod outbox;
mod wire;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::sqlite::Failure;
use super::{Settings, Shared, UserBalance};
use crate::clock::{Clock, Timestamp};
use crate::ledger::queue::Job;
use crate::ledger::read::connection::Db;
use crate::pg;
use crate::plan::LimitCounter;
use install::{MAKING, bring_up_to_date, versioned};
pub(super) use maintenance::prune;
use wire::{counter_json, one_value, standing_answer};

#[cfg(test)]
pub(super) use lane::Lane;

/// How many batches may be on their way at once, each with its connection.
const LANES: usize = 4;
/// How long a call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call of an export or import may take.
const WHOLE_LEDGER_TIMEOUT: Duration = Duration::from_mins(10);
impl From<pg::PgError> for Failure {
    fn from(error: pg::PgError) -> Self {
        let refuses = error
            .sqlstate
            .as_deref()
            .is_some_and(|state| state.starts_with("23") || state.starts_with("22"));
        Self::of_database(format!("Postgres: {}", error.message), refuses)
    }
}

/// A database for reports, to be asked from a thread that may block.
pub(super) fn database(url: &SecretString) -> Result<Db, Failure> {
    let runtime = Handle::try_current().map_err(|error| Failure::new(error.to_string()))?;
    Ok(Db::Postgres(connect(url, 2)?, runtime))
}

fn connect(url: &SecretString, connections: usize) -> Result<pg::Database, Failure> {
    let settings = pg::PgSettings {
        connections,
        call_timeout: CALL_TIMEOUT,
    };
    pg::Database::new(url, settings, TaskTracker::new()).map_err(Failure::new)
}

/// Whether a ledger's tables are in this database.
pub(super) fn is_there(db: &Db) -> Result<bool, Failure> {
    let tables = "select count(*) from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                  where n.nspname = 'tollgate_ledger' and c.relname = 'requests'";
    Ok(db.query_one(tables, &[])?.map_or(Ok(0), |row| row.int(0))? > 0)
}

/// Sees to it that there is a ledger, for a command that must not make one.
pub(super) fn require(db: &Db) -> Result<(), Failure> {
    if is_there(db)? {
        return Ok(());
    }
    let told =
        "there is no ledger in this database yet: `tollgate serve` makes it, or set [store] url";
    Err(Failure::new(told.to_owned()))
}

/// Makes or migrates the tables, from a thread that may block.
pub(super) fn migrate(db: &Db) -> Result<(), Failure> {
    match db {
        Db::Postgres(database, runtime) => runtime.block_on(bring_up_to_date(database)),
        Db::Sqlite(_) | Db::Transaction(..) => Ok(()),
    }
}

/// The whole ledger for oneself, in one transaction, from a thread that may block: nobody can start to serve meanwhile.
/// A call may read or write it all, and takes as long as that takes.
pub(super) fn alone(url: &SecretString) -> Result<Db, Failure> {
    let Db::Postgres(database, runtime) = database(url)? else {
        return Err(Failure::new("not a Postgres ledger".to_owned()));
    };
    let transaction = runtime.block_on(async {
        bring_up_to_date(&database).await?;
        let transaction = database.begin(WHOLE_LEDGER_TIMEOUT).await?;
        // The first tells who starts what is going on, the second lets nobody say that he serves.
        transaction
            .query(
                format!("select pg_catalog.pg_advisory_xact_lock({MAKING})"),
                Vec::new(),
            )
            .await?;
        transaction
            .query(
                "lock table tollgate_ledger.owners in share mode",
                Vec::new(),
            )
            .await?;
        Ok::<_, Failure>(transaction)
    })?;
    Ok(Db::Transaction(Box::new(transaction), runtime))
}

/// The whole ledger as it is at one moment, only for reading, from a thread that may block.
pub(super) fn snapshot(url: &SecretString) -> Result<Db, Failure> {
    let Db::Postgres(database, runtime) = database(url)? else {
        return Err(Failure::new("not a Postgres ledger".to_owned()));
    };
    let transaction = runtime.block_on(async {
        let transaction = database.begin(WHOLE_LEDGER_TIMEOUT).await?;
        transaction
            .query(
                "set transaction isolation level repeatable read, read only",
                Vec::new(),
            )
            .await?;
        Ok::<_, Failure>(transaction)
    })?;
    Ok(Db::Transaction(Box::new(transaction), runtime))
}

/// What a user has used and holds, from a thread that may block.
pub(super) fn standing(
    db: &Db,
    (user_id, now): (Uuid, Timestamp),
    counters: &[LimitCounter],
) -> Result<UserBalance, Failure> {
    match db {
        Db::Postgres(database, runtime) => {
            runtime.block_on(ask_standing(database, (user_id, now), counters))
        }
        Db::Sqlite(_) | Db::Transaction(..) => {
            Err(Failure::new("not a Postgres ledger".to_owned()))
        }
    }
}

async fn ask_standing(
    db: &pg::Database,
    (user_id, now): (Uuid, Timestamp),
    counters: &[LimitCounter],
) -> Result<UserBalance, Failure> {
    let asked: Vec<Value> = counters.iter().map(counter_json).collect();
    let sql = versioned("select tollgate_ledger.standing_v0($1, $2, $3, $4)");
    let params = vec![
        user_id.to_string().into(),
        Value::Array(asked).into(),
        Timestamp::MAX.millis().into(),
        now.millis().into(),
    ];
    Ok(standing_answer(&one_value(&db.query(sql, params).await?)?))
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
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        match runtime {
            Ok(runtime) => runtime.block_on(async {
                let opened = open(&url, owner, &settings).await;
                let (database, key) = match opened {
                    Ok(opened) => opened,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                shared.writable.store(true, Ordering::Release);
                drop(ready.send(Ok(key)));
                let renewing = match lease::connect(&url, settings.lease) {
                    Ok(renewing) => renewing,
                    Err(error) => {
                        return tracing::error!(%error, "the ledger stops: no lease can be renewed");
                    }
                };
                let base = Base {
                    database,
                    settings,
                    clock,
                    shared,
                    owner,
                };
                run(base, renewing, queues).await;
            }),
            Err(error) => drop(ready.send(Err(Failure::new(format!(
                "no runtime for the ledger: {error}"
            ))))),
        }
    });
    let thread =
        thread.map_err(|error| Failure::new(format!("no thread for the ledger: {error}")))?;
    let key = wait
        .recv()
        .map_err(|error| Failure::new(format!("the ledger did not start: {error}")))??;
    Ok((Lanes(senders.into()), thread, key))
}

async fn open(
    url: &SecretString,
    owner: Uuid,
    settings: &Settings,
) -> Result<(pg::Database, String), Failure> {
    let database = connect(url, LANES.saturating_add(2))?;
    bring_up_to_date(&database).await?;
    // First: an import that is under way, and brings a key of its own, ends before it.
    lease::renew(&database, owner, settings.lease).await?;
    let sql = "insert into tollgate_ledger.switches (name, value, updated_at)
               values ('identifier_key', replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 0)
               on conflict (name) do update set name = excluded.name returning value";
    let rows = database.query(sql, Vec::new()).await?;
    let key = rows.first().and_then(|row| row.try_get(0).ok());
    Ok((
        database,
        key.ok_or_else(|| Failure::new("Postgres: no identifier key".to_owned()))?,
    ))
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

async fn run(base: Base, renewing: pg::Database, queues: Vec<UnboundedReceiver<Job>>) {
    let lanes = TaskTracker::new();
    for queue in queues {
        lanes.spawn(lane::Lane::new(base.clone()).run(queue));
    }
    lanes.close();
    tokio::select! {
        () = lanes.wait() => {}
        () = maintenance::keep_lease(base.clone(), renewing) => {}
        () = maintenance::run(base) => {}
    }
}
