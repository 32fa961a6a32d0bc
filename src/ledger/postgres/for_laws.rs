//! What the tests of the laws do with a lane, one step at a time.

#![allow(clippy::indexing_slicing, reason = "of JSON, in tests")]

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::Value;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::super::jobs::Job;
use super::super::{Ending, HoldRequest, NoHold, Settings, Shared, UserStanding};
use super::chores::prune;
use super::lane::Lane;
use super::lease::{Sign, dead_json, renew};
use super::wire::{Place, batch_param, ending_json, hold_json, one_value, standing_of};
use super::{Base, ask_standing, open};
use crate::clock::{Clock, Timestamp};
use crate::pg;
use crate::plan::{Hold, Standing, Window};

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
        one_value(&self.base.database.query(sql.to_owned(), params).await.unwrap()).unwrap()
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
        let jobs = batch_param(&[ending_json(&ending, now, self.base.settings.outbox, Place::default())]).unwrap();
        self.one("select tollgate_ledger.write($1)", vec![jobs]).await[0]["ended"] == true
    }

    pub(in crate::ledger) async fn die_and_sweep(&mut self, now: Timestamp) -> usize {
        self.base.database.batch("update tollgate_ledger.owners set lease_until = 0").await.unwrap();
        let dead = Sign { owner: self.base.owner.to_string(), lease_until: 0, lease: Duration::ZERO };
        self.base.owner = Uuid::now_v7();
        renew(&self.base.database, self.base.owner, self.base.settings.lease).await.unwrap();
        let params = vec![dead_json(&[dead]).into(), now.millis().into(), 1000_i64.into(), 1_i64.into()];
        let swept = self.one("select to_jsonb(tollgate_ledger.sweep($1, $2, $3, $4))", params).await;
        usize::try_from(swept.as_u64().unwrap()).unwrap()
    }

    pub(in crate::ledger) async fn prune(&self, before: Timestamp, now: Timestamp) -> usize {
        prune(&self.base.database, &self.base.settings.time_zone, before, now).await.unwrap()
    }

    pub(in crate::ledger) async fn standing(&self, user: Uuid, windows: &[Window]) -> UserStanding {
        ask_standing(&self.base.database, user, windows).await.unwrap()
    }

    pub(in crate::ledger) async fn sum_of_rows(&self, user: Uuid, window: &Window) -> Standing {
        self.sum_for(&user.to_string(), window).await
    }

    pub(in crate::ledger) async fn sum_for(&self, user: &str, window: &Window) -> Standing {
        let sql = "select tollgate_ledger.shown(tollgate_ledger.sum_of($1, $2, $3, $4))";
        self.shown(sql, user, window).await
    }

    /// What the window of the whole app says.
    pub(in crate::ledger) async fn app_window(&self, window: &Window) -> Standing {
        let sql = "select tollgate_ledger.shown(w.*) from tollgate_ledger.windows w
                   where user_id = $1 and per = $2 and starts_at = $3 and ends_at = $4";
        self.shown(sql, "app", window).await
    }

    async fn shown(&self, sql: &str, user: &str, window: &Window) -> Standing {
        let (per, start, end) = (window.per.as_str(), window.start.millis(), window.end.millis());
        standing_of(&self.one(sql, vec![user.to_owned().into(), per.into(), start.into(), end.into()]).await)
    }

    /// A hold's call is cut off before the server has read it, and is read after the lane went on. What is held then.
    pub(in crate::ledger) async fn hold_late(&mut self, request: HoldRequest) -> i64 {
        let cap = request.ask.output_cap;
        let hold = Hold { output_cap: cap, amounts: request.ask.amounts(cap) };
        let late = batch_param(&[hold_json(&request, &hold, self.base.owner, Place::default())]).unwrap();
        let user = request.user_id;
        let (answer, wait) = oneshot::channel();
        self.take(vec![Job::Hold(Box::new(request), answer)]).await;
        self.lose_call();
        assert_eq!(wait.await.unwrap(), Err(NoHold::Store));
        tokio::time::sleep(Duration::from_millis(300)).await;
        self.write().await;
        drop(self.base.database.query("select tollgate_ledger.write($1)", vec![late]).await);
        self.standing(user, &[]).await.open
    }

    /// Takes holds and endings, and writes them in one batch as far as the database lets it.
    pub(in crate::ledger) async fn batch(&mut self, holds: Vec<HoldRequest>, endings: Vec<Ending>) {
        let holds = holds.into_iter().map(|request| Job::Hold(Box::new(request), oneshot::channel().0));
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
    pub(in crate::ledger) async fn ask_standing(&mut self, user_id: Uuid, now: Timestamp) -> Option<UserStanding> {
        let (answer, wait) = oneshot::channel();
        self.take(vec![Job::Standing { user_id, now, windows: Vec::new(), answer }]).await;
        wait.await.unwrap()
    }

    /// A vacuum of the requests, which goes on until it is dropped.
    pub(in crate::ledger) async fn vacuum(&self) -> tokio_postgres::Client {
        let client = self.base.database.connect().await.unwrap();
        client
            .batch_execute("begin; lock table tollgate_ledger.requests in share update exclusive mode")
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

    /// What an operator does by hand.
    pub(in crate::ledger) async fn by_hand(&self, sql: &'static str) {
        self.base.database.batch(sql).await.unwrap();
    }
}
