//! The product beside a Supabase project of its own: [`Door`] and [`Rest`], joined either way that the product knows.
//!
//! Users are signed in by the project's legacy secret. The ledger is the product's own file, whichever way the project
//! is reached, so that what a test sees of the project's tables came through the two functions.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::sleep;
use tokio_postgres::Client;

use super::caller::User;
use super::door::Door;
use super::postgrest::{Grants, Rest};
use super::process::Printed;
use super::settings::Settings;
use super::tokens::user_id;

/// How the product reaches the project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// `SUPABASE_URL` and the secret key.
    Rest,
    /// `[directory] database_url`.
    Postgres,
}

/// Both ways.
pub(crate) const WAYS: [Way; 2] = [Way::Rest, Way::Postgres];

/// Answers of the project count for a second; everybody signs in to it.
const BASE: &str = r#"
[auth]
issuer = "{supabase}/auth/v1"

[directory]
plan_cache = "1s"

[plans.pro]
models = ["gpt-4o-mini", "gpt-4o"]
limits = [{ per = "day", requests = 500 }, { per = "period", requests = 3 }]
"#;

/// A project and the product beside it.
pub(crate) struct Project {
    pub(crate) rest: Rest,
    pub(crate) door: Door,
}

impl Project {
    /// A project in which the script of `tollgate sql` was run, and the product, running.
    pub(crate) async fn open(way: Way, settings: Settings) -> Self {
        Self::open_on(Rest::with_script(Grants::New).await, way, settings).await
    }

    /// The same on a project that is there already.
    pub(crate) async fn open_on(rest: Rest, way: Way, settings: Settings) -> Self {
        let project = Self::prepare_on(rest, way, settings).await;
        project.door.start().await;
        project
    }

    /// The same, and nothing runs yet.
    pub(crate) async fn prepare_on(rest: Rest, way: Way, settings: Settings) -> Self {
        let door = Door::prepare(joined(settings, way, &rest)).await;
        Self { rest, door }
    }

    /// Runs SQL in the project as its owner does.
    pub(crate) async fn sql(&self, sql: &str) {
        self.owner().await.batch_execute(sql).await.unwrap();
    }

    /// A connection as the one who runs SQL in the dashboard.
    pub(crate) async fn owner(&self) -> Client {
        self.rest.postgres().connect_as("editor", "postgres").await
    }

    /// Gives `check_user_limits` another body: an expression of SQL; `$uid` in it is the user's id.
    pub(crate) async fn answers(&self, expression: &str) {
        let expression = expression.replace("$uid", "check_user_limits.user_id");
        self.sql(&format!(
            "create or replace function tollgate.check_user_limits(user_id uuid) returns jsonb
             language sql volatile security definer set search_path = '' as $f$ select {expression} $f$"
        ))
        .await;
    }

    /// Puts a row into `tollgate.subscriptions`, in place of one that is there: what stands behind the user's id.
    pub(crate) async fn subscribe(&self, name: &str, values: &str) {
        let id = user_id(name);
        let delete = format!("delete from tollgate.subscriptions where user_id = '{id}';");
        self.sql(&format!(
            "{delete} insert into tollgate.subscriptions values ('{id}', {values})"
        ))
        .await;
    }

    /// Every row of `tollgate.usage`, as JSON; money as text.
    pub(crate) async fn usage(&self) -> Vec<Value> {
        let sql = "select to_jsonb(u) || jsonb_build_object('cost_usd', u.cost_usd::text) from tollgate.usage u";
        self.owner()
            .await
            .query(sql, &[])
            .await
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect()
    }

    /// How often a function of the project was called over REST.
    pub(crate) fn calls(&self, function: &str) -> usize {
        self.rest.calls_of(function)
    }

    /// Runs a command and gives what it printed; no secret of the project may stand in it.
    pub(crate) fn tollgate(&self, arguments: &[&str]) -> Printed {
        let printed = self.door.tollgate(arguments);
        self.assert_discreet(&format!("{}{}", printed.stdout, printed.stderr));
        printed
    }

    /// Asks the oracle, and looks for the project's secrets in all that was written.
    pub(crate) async fn close(self) {
        self.assert_discreet(&self.door.process.output());
        self.door.close().await;
    }

    fn assert_discreet(&self, output: &str) {
        let keys = self.rest.keys();
        let secrets = [&keys.secret, &keys.service_role, &keys.jwt_secret];
        let shown = secrets
            .into_iter()
            .map(String::as_str)
            .chain(["canary-database-password"]);
        let shown: Vec<&str> = shown.filter(|secret| output.contains(*secret)).collect();
        assert!(
            shown.is_empty(),
            "secrets of the project were written: {shown:?}"
        );
    }
}

/// Settings that reach a project.
pub(crate) fn joined(settings: Settings, way: Way, rest: &Rest) -> Settings {
    let settings = settings.under_base(BASE).env("SUPABASE_URL", rest.url());
    match way {
        Way::Rest => settings.env("SUPABASE_SERVICE_KEY", &rest.keys().secret),
        Way::Postgres => settings.env("TOLLGATE_DIRECTORY__VIA", "postgres").env(
            "TOLLGATE_DIRECTORY__DATABASE_URL",
            &rest.postgres().url_as("editor", "postgres"),
        ),
    }
}

/// Plan and source of a user, as `/api/me` tells them.
pub(crate) async fn plan(user: &User) -> (String, String) {
    let me = user.me().await;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&me["plan"]["name"]), text(&me["plan"]["source"]))
}

/// A limit of a user's, as `/api/me` tells it.
pub(crate) fn limit<'a>(me: &'a Value, per: &str) -> &'a Value {
    let limits = me["limits"].as_array().unwrap();
    limits
        .iter()
        .find(|limit| limit["per"] == per)
        .unwrap_or_else(|| panic!("no limit per {per} in {me}"))
}

/// Waits until something holds, at most so long.
pub(crate) async fn until(what: &str, patience: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(
            begun.elapsed() < patience,
            "after {patience:?} still not so: {what}"
        );
        sleep(Duration::from_millis(50)).await;
    }
}
