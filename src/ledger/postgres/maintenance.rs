//! Everything that is nobody's request: the lease, the sweep, changes by others, old rows.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use serde_json::Value;

use super::super::sqlite::{Failure, KEEP_SHORT_WINDOWS, KEEP_WINDOWS, id_at};
use super::Base;
use super::install::{bring_up_to_date, version, versioned};
use super::lease::{self, Watch};
use super::wire::{window_json, with};
use crate::clock::Timestamp;
use crate::ledger::idempotency::free_since;
use crate::pg;
use crate::plan::{Per, Window, window};

/// How often changes by others are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often it is noted that this process's functions are in use.
const NOTE_FUNCTIONS_EVERY: Duration = Duration::from_hours(1);
/// How often old rows are looked for.
const PRUNE_EVERY: Duration = Duration::from_mins(10);

/// Renews the lease, for as long as it is polled. A loop of its own: whatever else is slow, the others hear in time.
pub(super) async fn keep_lease(base: Base, renewing: pg::Database) {
    let pause = lease::renew_every(base.settings.lease);
    let mut failed = false;
    loop {
        tokio::time::sleep(if failed {
            lease::RENEW_PAUSE_MIN
        } else {
            pause
        })
        .await;
        let done = lease::renew(&renewing, base.owner, base.settings.lease).await;
        if let Err(error) = &done {
            tracing::debug!(%error, "the lease was not renewed");
        }
        // An idle process has no other traffic to tell by. What a lane found out stays as it is.
        if failed || done.is_err() {
            base.shared.writable.store(done.is_ok(), Ordering::Release);
        }
        failed = done.is_err();
    }
}

/// Does all the rest, for as long as it is polled.
pub(super) async fn run(base: Base) {
    let mut watch = Watch::default();
    let mut pruned_at: Option<Instant> = None;
    let mut epoch = None;
    let mut noted_at = Instant::now();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let found = match look_for_changes(&base).await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "the ledger cannot be read");
                continue;
            }
        };
        if epoch.replace(found.epoch) != Some(found.epoch) {
            base.shared.epoch.fetch_add(1, Ordering::AcqRel);
        }
        if !found.has_functions || noted_at.elapsed() >= NOTE_FUNCTIONS_EVERY {
            noted_at = Instant::now();
            note(bring_up_to_date(&base.database).await);
        }
        note(sweep(&base, &mut watch).await);
        if pruned_at.is_none_or(|at| at.elapsed() >= PRUNE_EVERY) {
            let now = base.clock.now();
            let gone = prune(
                &base.database,
                &base.settings.time_zone,
                now.minus(base.settings.keep_requests),
                now,
            )
            .await;
            // A full helping means that there is more.
            if gone.as_ref().map_or(true, |gone| *gone < 500) {
                pruned_at = Some(Instant::now());
            }
            note(gone.map(drop));
        }
    }
}

fn note(done: Result<(), Failure>) {
    if let Err(error) = done {
        tracing::debug!(%error, "a chore of the ledger failed");
    }
}

/// What may have changed in the database meanwhile.
struct Changes {
    /// Differs when subscriptions or switches may differ.
    epoch: i64,
    /// This process's functions are installed.
    has_functions: bool,
}

async fn look_for_changes(base: &Base) -> Result<Changes, Failure> {
    let sql = "select coalesce(sum(updated_at), 0)::bigint,
                      exists (select 1 from tollgate_ledger.functions where version = $1)
               from tollgate_ledger.switches where name in ('epoch', 'paused')";
    let rows = base.database.query(sql, vec![version().into()]).await?;
    let row = rows.first();
    Ok(Changes {
        epoch: row.and_then(|row| row.try_get(0).ok()).unwrap_or(0),
        has_functions: row.and_then(|row| row.try_get(1).ok()).unwrap_or(true),
    })
}

async fn sweep(base: &Base, watch: &mut Watch) -> Result<(), Failure> {
    let dead = watch.look(
        lease::signs_of_others(&base.database, base.owner).await?,
        Instant::now(),
    );
    if dead.is_empty() {
        return Ok(());
    }
    let outbox = i64::from(base.settings.outbox);
    let now = base.clock.now().millis();
    let params = vec![
        lease::dead_json(&dead).into(),
        now.into(),
        100_i64.into(),
        outbox.into(),
    ];
    let rows = base
        .database
        .query(
            versioned("select tollgate_ledger.sweep_v0($1, $2, $3, $4)"),
            params,
        )
        .await?;
    let swept: i64 = rows
        .first()
        .and_then(|row| row.try_get(0).ok())
        .unwrap_or(0);
    if swept > 0 {
        tracing::warn!(
            requests = swept,
            "requests of a process that died are charged their hold"
        );
    }
    Ok(())
}

/// Forgets old rows, some at a time; their months are kept as sums.
pub(in crate::ledger) async fn prune(
    database: &pg::Database,
    zone: &TimeZone,
    before: Timestamp,
    now: Timestamp,
) -> Result<usize, Failure> {
    let before = id_at(before);
    let sql = "select id, user_id, started_at from tollgate_ledger.requests
               where id < $1 and state <> 'held' order by id limit 500";
    let rows = database.query(sql, vec![before.into()]).await?;
    let unreadable = |error: tokio_postgres::Error| Failure::new(format!("Postgres: {error}"));
    let (mut ids, mut months) = (Vec::new(), BTreeSet::new());
    for row in &rows {
        ids.push(Value::String(row.try_get(0).map_err(unreadable)?));
        let (user, at): (String, i64) = (
            row.try_get(1).map_err(unreadable)?,
            row.try_get(2).map_err(unreadable)?,
        );
        months.insert((
            user,
            window(Per::Month, Timestamp::from_millis(at), zone, None),
        ));
    }
    let month = |(user, window): (String, Window)| with(window_json(&window), "user_id", user);
    let months = Value::Array(months.into_iter().map(month).collect());
    let (short, long) = (
        now.minus(KEEP_SHORT_WINDOWS).millis(),
        now.minus(KEEP_WINDOWS).millis(),
    );
    let params = vec![
        Value::Array(ids).into(),
        months.into(),
        short.into(),
        long.into(),
        free_since(now).millis().into(),
    ];
    let gone = database
        .query(
            versioned("select tollgate_ledger.prune_v0($1, $2, $3, $4, $5)"),
            params,
        )
        .await?;
    let gone: i64 = gone
        .first()
        .map_or(Ok(0), |row| row.try_get(0))
        .map_err(unreadable)?;
    Ok(usize::try_from(gone).unwrap_or(0))
}
