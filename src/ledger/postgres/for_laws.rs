//! What the tests of the laws do with a lane, one step at a time.

#![allow(clippy::indexing_slicing, reason = "of JSON, in tests")]

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::Value;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::super::{Ending, HoldRequest, NoHold, Settings, Shared, UserBalance};
use super::install::versioned;
use super::lane::Lane;
use super::lease::{Sign, dead_json, renew};
use super::maintenance::prune;
use super::wire::{Place, batch_param, ending_json, hold_json, one_value, standing_of};
use super::{Base, ask_standing, open};
use crate::clock::{Clock, Timestamp};
use crate::ledger::queue::Job;
use crate::pg;
use crate::plan::{Balance, Hold, LimitCounter, Window};

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
        Self::new(Base {
            database,
            settings,
            clock: Clock::system(),
            shared,
            owner,
        })
    }

    async fn one(&self, sql: &str, params: Vec<pg::Param>) -> Value {
        one_value(
            &self
                .base
                .database
                .query(versioned(sql), params)
                .await
                .unwrap(),
        )
        .unwrap()
    }

    pub(in crate::ledger) async fn empty(&self) {
        let tables = "truncate tollgate_ledger.requests, tollgate_ledger.windows, tollgate_ledger.tallies, tollgate_ledger.owners, tollgate_ledger.idempotency_keys, tollgate_ledger.grants, tollgate_ledger.grant_uses";
        self.base.database.batch(tables).await.unwrap();
        renew(
            &self.base.database,
            self.base.owner,
            self.base.settings.lease,
        )
        .await
        .unwrap();
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
        let jobs = batch_param(&[ending_json(
            &ending,
            now,
            self.base.settings.outbox,
            Place::default(),
        )])
        .unwrap();
        self.one("select tollgate_ledger.write_v0($1)", vec![jobs])
            .await[0]["ended"]
            == true
    }

    pub(in crate::ledger) async fn die_and_sweep(&mut self, now: Timestamp) -> usize {
        self.base
            .database
            .batch("update tollgate_ledger.owners set lease_until = 0")
            .await
            .unwrap();
        let dead = Sign {
            owner: self.base.owner.to_string(),
            lease_until: 0,
            lease: Duration::ZERO,
        };
        self.base.owner = Uuid::now_v7();
        renew(
            &self.base.database,
            self.base.owner,
            self.base.settings.lease,
        )
        .await
        .unwrap();
        let params = vec![
            dead_json(&[dead]).into(),
            now.millis().into(),
            1000_i64.into(),
            1_i64.into(),
        ];
        let swept = self
            .one(
                "select to_jsonb(tollgate_ledger.sweep_v0($1, $2, $3, $4))",
                params,
            )
            .await;
        usize::try_from(swept.as_u64().unwrap()).unwrap()
    }

    pub(in crate::ledger) async fn prune(&self, before: Timestamp, now: Timestamp) -> usize {
        prune(
            &self.base.database,
            &self.base.settings.time_zone,
            before,
            now,
        )
        .await
        .unwrap()
    }

    pub(in crate::ledger) async fn standing(
        &self,
        user: Uuid,
        now: Timestamp,
        counters: &[LimitCounter],
    ) -> UserBalance {
        ask_standing(&self.base.database, (user, now), counters)
            .await
            .unwrap()
    }

    pub(in crate::ledger) async fn sum_of_rows(&self, user: Uuid, window: &Window) -> Balance {
        self.sum_for(&user.to_string(), window).await
    }

    pub(in crate::ledger) async fn sum_for(&self, user: &str, window: &Window) -> Balance {
        let sql = "select tollgate_ledger.shown_v0(tollgate_ledger.sum_of_v0($1, $2, $3, $4))";
        self.shown(sql, user, window).await
    }

    /// What the window of the whole app says.
    pub(in crate::ledger) async fn app_window(&self, window: &Window) -> Balance {
        let sql = "select tollgate_ledger.shown_v0(w.*) from tollgate_ledger.windows w
                   where user_id = $1 and per = $2 and starts_at = $3 and ends_at = $4";
        self.shown(sql, "app", window).await
    }

    async fn shown(&self, sql: &str, user: &str, window: &Window) -> Balance {
        let (per, start, end) = (
            window.per.as_str(),
            window.start.millis(),
            window.end.millis(),
        );
        standing_of(
            &self
                .one(
                    sql,
                    vec![user.to_owned().into(), per.into(), start.into(), end.into()],
                )
                .await,
        )
    }

    /// A hold's call is cut off before the server has read it, and is read after the lane went on. What is held then.
    pub(in crate::ledger) async fn hold_late(&mut self, request: HoldRequest) -> i64 {
        let cap = request.quote.output_cap;
        let hold = request.quote.hold(cap);
        let late = batch_param(&[hold_json(
            &request,
            (&hold, None),
            self.base.owner,
            Place::default(),
        )])
        .unwrap();
        let user = request.user_id;
        let (answer, wait) = oneshot::channel();
        self.take(vec![Job::Hold(Box::new(request), answer)]).await;
        self.lose_call();
        assert_eq!(wait.await.unwrap(), Err(NoHold::Store));
        tokio::time::sleep(Duration::from_millis(300)).await;
        self.write().await;
        drop(
            self.base
                .database
                .query(versioned("select tollgate_ledger.write_v0($1)"), vec![late])
                .await,
        );
        self.standing(user, Timestamp::EPOCH, &[]).await.open
    }

    /// Takes holds and endings, and writes them in one batch as far as the database lets it.
    pub(in crate::ledger) async fn batch(&mut self, holds: Vec<HoldRequest>, endings: Vec<Ending>) {
        let holds = holds
            .into_iter()
            .map(|request| Job::Hold(Box::new(request), oneshot::channel().0));
        let jobs = holds.chain(endings.into_iter().map(Job::End)).collect();
        self.take(jobs).await;
        self.write().await;
    }

    /// Writes jobs in one batch, and what is left of it, until every hold is answered: in the order of the holds.
    pub(in crate::ledger) async fn all(
        &mut self,
        asked: Vec<Result<HoldRequest, Ending>>,
    ) -> Vec<Result<Hold, NoHold>> {
        let mut answers = Vec::new();
        let mut jobs = Vec::new();
        for job in asked {
            match job {
                Ok(request) => {
                    let (answer, wait) = oneshot::channel();
                    answers.push(wait);
                    jobs.push(Job::Hold(Box::new(request), answer));
                }
                Err(ending) => jobs.push(Job::End(ending)),
            }
        }
        self.take(jobs).await;
        let mut told = Vec::new();
        for mut answer in answers {
            told.push(loop {
                if let Ok(told) = answer.try_recv() {
                    break told;
                }
                self.write().await;
            });
        }
        self.write().await;
        told
    }

    /// Asks as a handle does.
    pub(in crate::ledger) async fn ask_standing(
        &mut self,
        user_id: Uuid,
        now: Timestamp,
    ) -> Option<UserBalance> {
        let (answer, wait) = oneshot::channel();
        self.take(vec![Job::Standing {
            user_id,
            now,
            counters: Vec::new(),
            answer,
        }])
        .await;
        wait.await.unwrap()
    }

    /// A vacuum of the requests, which goes on until it is dropped.
    pub(in crate::ledger) async fn vacuum(&self) -> tokio_postgres::Client {
        let client = self.base.database.connect().await.unwrap();
        client
            .batch_execute(
                "begin; lock table tollgate_ledger.requests in share update exclusive mode",
            )
            .await
            .unwrap();
        client
    }

    /// Somebody spends from the app's windows, and does not commit until it is dropped.
    pub(in crate::ledger) async fn spend_slowly(&self) -> tokio_postgres::Client {
        let client = self.base.database.connect().await.unwrap();
        let sql = "begin; update tollgate_ledger.windows set micros_used = micros_used where user_id = 'app'";
        client.batch_execute(sql).await.unwrap();
        client
    }

    /// Writes windows as they are given, by the names of their columns.
    pub(in crate::ledger) async fn insert_windows(&self, rows: Vec<Value>) {
        let sql = "insert into tollgate_ledger.windows
                   select * from jsonb_populate_recordset(null::tollgate_ledger.windows, $1) on conflict do nothing";
        let rows = Value::Array(rows).into();
        self.base.database.query(sql, vec![rows]).await.unwrap();
    }

    /// Writes tallies as they are given, by the names of their columns.
    pub(in crate::ledger) async fn insert_tallies(&self, rows: Vec<Value>) {
        let sql = "insert into tollgate_ledger.tallies
                   select * from jsonb_populate_recordset(null::tollgate_ledger.tallies, $1)";
        let rows = Value::Array(rows).into();
        self.base.database.query(sql, vec![rows]).await.unwrap();
    }

    /// A hold as the functions of `0001_ledger.sql` make it, for a process of an older release. Whether it was made.
    pub(in crate::ledger) async fn hold_by_older_release(&self, request: &HoldRequest) -> bool {
        let hold = request.quote.hold(request.quote.output_cap);
        let job = hold_json(request, (&hold, None), self.base.owner, Place::default());
        self.by_older_release(serde_json::to_value([job]).unwrap())
            .await["held"]
            == true
    }

    /// The same of an ending.
    pub(in crate::ledger) async fn end_by_older_release(&self, ending: &Ending, now: Timestamp) {
        let job = ending_json(ending, now, false, Place::default());
        let mut job = serde_json::to_value(job).unwrap();
        // Its own names for tokens.
        for (name, column) in [
            ("input", "input_tokens"),
            ("cached", "cached_input_tokens"),
            ("output", "output_tokens"),
            ("reasoning", "reasoning_tokens"),
        ] {
            job[name] = job[column].as_i64().unwrap_or(0).into();
        }
        let ended = self.by_older_release(serde_json::json!([job])).await;
        assert_eq!(ended["ended"], true, "{ended}");
    }

    async fn by_older_release(&self, jobs: Value) -> Value {
        let answers = self
            .one("select tollgate_ledger.write($1)", vec![jobs.into()])
            .await;
        answers[0].clone()
    }

    /// The places of the holds that fit, as `fitting` decides.
    pub(in crate::ledger) async fn fitting(
        &self,
        holds: &[&HoldRequest],
    ) -> Result<Vec<usize>, pg::PgError> {
        self.fitting_in(holds, "cost_usd").await
    }

    /// The same, with another word for dollars.
    pub(in crate::ledger) async fn fitting_in(
        &self,
        holds: &[&HoldRequest],
        dollars: &str,
    ) -> Result<Vec<usize>, pg::PgError> {
        let job = |(n, request): (usize, &&HoldRequest)| {
            let hold = request.quote.hold(request.quote.output_cap);
            let place = Place { n, wary: false };
            serde_json::to_value(hold_json(request, (&hold, None), self.base.owner, place)).unwrap()
        };
        let jobs: Vec<_> = holds.iter().enumerate().map(job).collect();
        let jobs = Value::Array(jobs).to_string().replace("cost_usd", dollars);
        let sql = "with jobs as (select j from jsonb_populate_recordset(null::tollgate_ledger.job_v0, $1) as j)
                   select coalesce(to_jsonb(tollgate_ledger.fitting_v0(
                       (select array_agg(j) from jobs),
                       array(select distinct (j).ceiling from jobs where (j).ceiling is not null))), '[]')";
        let params = vec![pg::Param::json(jobs.into_bytes())];
        let rows = self.base.database.query(versioned(sql), params).await?;
        let fitting = one_value(&rows).unwrap();
        Ok(serde_json::from_value(fitting).unwrap())
    }

    /// How many keys there are.
    pub(in crate::ledger) async fn count_keys(&self) -> i64 {
        let sql = "select to_jsonb(count(*)) from tollgate_ledger.idempotency_keys";
        self.one(sql, Vec::new()).await.as_i64().unwrap()
    }

    /// The database, for another process beside this one.
    pub(in crate::ledger) fn database(&self) -> pg::Database {
        self.base.database.clone()
    }

    /// What an operator does by hand.
    pub(in crate::ledger) async fn by_hand(&self, sql: &str) {
        self.base.database.batch(versioned(sql)).await.unwrap();
    }
}
