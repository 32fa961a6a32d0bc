//! Who lives: a process says it by renewing its lease, and the others believe it by their own clocks.
//!
//! No two clocks are compared. A process counts as dead when its lease stood still for as long as the lease is, on the
//! monotonic clock of the process that watches it, and while that one could read it all the time. So neither a jump of
//! the database's clock, nor hosts that sleep together, nor an outage of the database ends what somebody still works on.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use secrecy::SecretString;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::sqlite::Failure;
use super::install::versioned;
use crate::pg;

/// How long telling the database that a process lives may take at most; less under a short lease.
const RENEW_TIMEOUT: Duration = Duration::from_secs(4);
/// The shortest such wait, and the shortest pause between two renewals.
pub(super) const RENEW_PAUSE_MIN: Duration = Duration::from_secs(1);
/// A watcher who saw nothing for longer than that begins to watch anew: the others had nobody to tell either.
const WATCH_GAP_MAX: Duration = Duration::from_secs(3);

/// How often a lease is renewed: five times while it lasts.
pub(super) fn renew_every(lease: Duration) -> Duration {
    lease.checked_div(5).unwrap_or(lease).max(RENEW_PAUSE_MIN)
}

/// Connections of their own for renewing: it waits for no lane, and no lane for it.
pub(super) fn connect(url: &SecretString, lease: Duration) -> Result<pg::Database, Failure> {
    let call_timeout = renew_every(lease).min(RENEW_TIMEOUT);
    let settings = pg::PgSettings {
        connections: 2,
        call_timeout,
    };
    pg::Database::new(url, settings, tokio_util::task::TaskTracker::new()).map_err(Failure::new)
}

/// Says that a process lives, and for how long it wants to be believed.
pub(super) async fn renew(
    database: &pg::Database,
    owner: Uuid,
    lease: Duration,
) -> Result<(), Failure> {
    let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
    let params = vec![owner.to_string().into(), lease_ms.into()];
    database
        .query(versioned("select tollgate_ledger.renew_v0($1, $2)"), params)
        .await?;
    Ok(())
}

/// Another process with open requests, as its row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sign {
    pub(super) owner: String,
    /// On whatever clock; only whether it changes matters.
    pub(super) lease_until: i64,
    pub(super) lease: Duration,
}

/// The other processes with open requests.
pub(super) async fn signs_of_others(
    database: &pg::Database,
    owner: Uuid,
) -> Result<Vec<Sign>, Failure> {
    let sql = "select held.owner, coalesce(o.lease_until, 0), coalesce(o.lease_ms, 0)
               from (select distinct owner from tollgate_ledger.requests where state = 'held' and owner <> $1) as held
               left join tollgate_ledger.owners o on o.id = held.owner";
    let rows = database.query(sql, vec![owner.to_string().into()]).await?;
    let read = |row: &pg::Row| {
        let lease: i64 = row.try_get(2)?;
        let lease = Duration::from_millis(u64::try_from(lease).unwrap_or_default());
        Ok(Sign {
            owner: row.try_get(0)?,
            lease_until: row.try_get(1)?,
            lease,
        })
    };
    let unreadable = |error: tokio_postgres::Error| Failure::new(format!("Postgres: {error}"));
    rows.iter()
        .map(read)
        .collect::<Result<_, _>>()
        .map_err(unreadable)
}

/// Since when each of the others has given no sign of life.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: HashMap<String, (i64, Instant)>,
    looked_at: Option<Instant>,
}

impl Watch {
    /// Takes in what was read now; gives back who is dead.
    pub(super) fn look(&mut self, signs: Vec<Sign>, now: Instant) -> Vec<Sign> {
        let gap = self
            .looked_at
            .replace(now)
            .map(|at| now.saturating_duration_since(at));
        let mut before = std::mem::take(&mut self.seen);
        if gap.is_none_or(|gap| gap > WATCH_GAP_MAX) {
            before.clear();
        }
        let mut dead = Vec::new();
        for sign in signs {
            let same = before
                .get(&sign.owner)
                .filter(|(lease_until, _)| *lease_until == sign.lease_until);
            let since = same.map_or(now, |(_, since)| *since);
            self.seen
                .insert(sign.owner.clone(), (sign.lease_until, since));
            if same.is_some() && now.saturating_duration_since(since) >= sign.lease {
                dead.push(sign);
            }
        }
        dead
    }
}

/// The dead as the sweep wants them: it ends nothing of a process that has given a sign meanwhile.
pub(super) fn dead_json(dead: &[Sign]) -> Value {
    dead.iter()
        .map(|sign| json!({ "owner": sign.owner, "lease_until": sign.lease_until }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(5);

    fn sign(lease_until: i64) -> Vec<Sign> {
        vec![Sign {
            owner: "other".to_owned(),
            lease_until,
            lease: LEASE,
        }]
    }

    /// Looks every half second for so long; whether the other one was taken for dead at any time.
    fn look_for(watch: &mut Watch, now: &mut Instant, seconds: f64, lease_until: i64) -> bool {
        let until = now.checked_add(Duration::from_secs_f64(seconds)).unwrap();
        let mut died = false;
        while *now < until {
            *now = now.checked_add(Duration::from_millis(500)).unwrap();
            died |= !watch.look(sign(lease_until), *now).is_empty();
        }
        died
    }

    #[test]
    fn a_lease_that_stands_still_for_as_long_as_it_is_belongs_to_the_dead() {
        let (mut watch, mut now) = (Watch::default(), Instant::now());
        assert!(!look_for(&mut watch, &mut now, 5.0, 1));
        assert!(look_for(&mut watch, &mut now, 1.0, 1));
    }

    #[test]
    fn whoever_renews_lives_whatever_the_clocks_say() {
        let (mut watch, mut now) = (Watch::default(), Instant::now());
        for lease_until in [9_000, 14_000, -1, 3, 90_000_000, 0] {
            assert!(!look_for(&mut watch, &mut now, 4.5, lease_until));
        }
    }

    #[test]
    fn who_could_not_look_knows_nothing_of_that_time() {
        let (mut watch, mut now) = (Watch::default(), Instant::now());
        assert!(!look_for(&mut watch, &mut now, 4.5, 1));
        now = now.checked_add(Duration::from_mins(10)).unwrap();
        assert!(!look_for(&mut watch, &mut now, 5.0, 1));
        assert!(look_for(&mut watch, &mut now, 1.0, 1));
    }

    #[test]
    fn one_without_a_lease_is_dead_at_the_second_look() {
        let (mut watch, now) = (Watch::default(), Instant::now());
        let none = Sign {
            owner: "none".to_owned(),
            lease_until: 0,
            lease: Duration::ZERO,
        };
        assert!(watch.look(vec![none.clone()], now).is_empty());
        assert_eq!(watch.look(vec![none.clone()], now), [none]);
    }
}
