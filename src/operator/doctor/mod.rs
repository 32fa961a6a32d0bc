//! Tries every part of a deployment for real, and says what to type where one fails.
//!
//! A check is a function from a [`Deployment`] to lines. Checks run at once, each within [`LIMIT`], and change nothing
//! but a row that they take back. How lines are printed is not decided here. Invariants: a check that fails has a fix;
//! text from the network cannot control a terminal; no secret of the settings is in a line, whoever repeats it.

mod api_key;
mod clock_skew;
mod examination;
#[cfg(test)]
mod fake;
mod functions;
mod issuer;
mod jwks;
mod ledger;
mod postgres;
mod probe;
mod rest;
mod stores;
#[cfg(test)]
mod tests;
mod upstream;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use tokio::task::JoinSet;

use self::probe::Http;
use crate::clock::{Clock, Timestamp};
use crate::config::{Config, ConfigErrors, StoreUrl, Via};
use crate::observe::visible::visible;
use crate::price::PriceTable;
use crate::upstream::Upstreams;

/// How long one check may take, the waits of all its questions together.
const LIMIT: Duration = Duration::from_secs(5);
/// The longest detail or fix; what comes from a network is cut.
const TEXT_CHARS_MAX: usize = 400;
/// Older built-in prices are worth a warning.
const PRICES_AGE_MAX: Duration = Duration::from_hours(90 * 24);
/// Shorter secrets are words that could stand in a line anyway.
const SECRET_BYTES_MIN: usize = 8;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It is as it should be.
    Ok,
    /// It works, and something about it should be known.
    Warn,
    /// It does not work, or it is open to those who must not use it.
    Fail,
    /// There was nothing to check.
    Skip,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at: `jwks`, `upstream openai`.
    pub name: String,
    /// How it ended.
    pub status: Status,
    /// What was found, in plain words.
    pub detail: String,
    /// What to do about it; always there when the check failed.
    pub fix: Option<String>,
}

impl Check {
    fn ok(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            status: Status::Ok,
            detail: detail.into(),
            fix: None,
        }
    }

    fn skip(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            status: Status::Skip,
            ..Self::ok(name, detail)
        }
    }

    fn warn(name: impl Into<String>, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            status: Status::Warn,
            fix: Some(fix.into()),
            ..Self::ok(name, detail)
        }
    }

    fn fail(name: impl Into<String>, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            status: Status::Fail,
            fix: Some(fix.into()),
            ..Self::ok(name, detail)
        }
    }
}

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Nothing failed.
    pub ok: bool,
    /// One line a finding, in the order in which a request meets the parts.
    pub checks: Vec<Check>,
}

impl Report {
    /// Settings that cannot be used: one failure an error. Nothing else can be looked at without them.
    #[must_use]
    pub fn of_errors(errors: &ConfigErrors) -> Self {
        let told = |error: &crate::config::ConfigError| {
            let detail = format!("{} ({}): {}", error.key, error.place, error.problem);
            Check::fail("config", detail, &error.fix)
        };
        Self::of(errors.0.iter().map(told).collect(), &[])
    }

    /// From lines, in which secrets are blacked out and letters that steer a terminal are escaped.
    fn of(checks: Vec<Check>, secrets: &[SecretString]) -> Self {
        let clean = |text: &str| cleaned(text, secrets);
        let clean = |check: Check| Check {
            name: clean(&check.name),
            detail: clean(&check.detail),
            fix: check.fix.as_deref().map(clean),
            status: check.status,
        };
        let checks: Vec<Check> = checks.into_iter().map(clean).collect();
        Self {
            ok: checks.iter().all(|check| check.status != Status::Fail),
            checks,
        }
    }
}

fn cleaned(text: &str, secrets: &[SecretString]) -> String {
    let known = secrets
        .iter()
        .map(ExposeSecret::expose_secret)
        .filter(|secret| secret.len() >= SECRET_BYTES_MIN);
    let text = known.fold(text.to_owned(), |text, secret| {
        text.replace(secret, "[secret]")
    });
    let short: String = text.chars().take(TEXT_CHARS_MAX).collect();
    visible(&short).into_owned()
}

/// The deployment that is checked.
pub struct Deployment {
    config: Config,
    anon_key: Option<SecretString>,
    clock: Clock,
    http: Http,
    upstreams: Upstreams,
}

impl Deployment {
    /// A deployment by its settings. `anon_key` is the project's publishable or anon key, to try what strangers can do.
    #[must_use]
    pub fn new(config: Config, anon_key: Option<SecretString>, clock: Clock) -> Arc<Self> {
        let upstreams = Upstreams::new(&config.proxy);
        Arc::new(Self {
            config,
            anon_key,
            clock: clock.clone(),
            http: Http::new(clock),
            upstreams,
        })
    }

    fn secrets(&self) -> Vec<SecretString> {
        let Config {
            server,
            auth,
            store,
            directory,
            upstreams,
            webhooks,
            ..
        } = &self.config;
        let keys = upstreams
            .iter()
            .flat_map(|upstream| upstream.secrets())
            .cloned();
        let others = [
            &server.admin_token,
            &auth.jwt_secret,
            &auth.jwt_secret_previous,
            &self.anon_key,
        ]
        .into_iter()
        .filter_map(Clone::clone);
        let stores = webhooks.secrets().cloned();
        let mut secrets: Vec<SecretString> = keys.chain(others).chain(stores).collect();
        if let StoreUrl::Postgres(url) = &store.url {
            secrets.extend(postgres::secrets(url));
        }
        match &directory.via {
            Via::None => {}
            Via::Rest { service_key, .. } => secrets.push(service_key.clone()),
            Via::Postgres(url) => secrets.extend(postgres::secrets(url)),
        }
        secrets
    }
}

/// A check under way: the name to tell when it does not come back, and what it will find.
struct PendingCheck {
    name: String,
    found: Pin<Box<dyn Future<Output = Vec<Check>> + Send>>,
}

impl PendingCheck {
    fn new(
        name: impl Into<String>,
        found: impl Future<Output = Vec<Check>> + Send + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            found: Box::pin(found),
        }
    }

    async fn bounded(self) -> Vec<Check> {
        let Self { name, found } = self;
        tokio::time::timeout(LIMIT, found).await.unwrap_or_else(|_| {
            let fix = "see that the host is up and that no firewall drops what this machine sends, then try again";
            vec![Check::fail(name, format!("no answer within {} s", LIMIT.as_secs()), fix)]
        })
    }
}

/// Runs every check at once. `progress` gets how many have ended, and of how many.
pub async fn examine(
    deployment: &Arc<Deployment>,
    mut progress: impl FnMut(usize, usize),
) -> Report {
    let running = checks(deployment);
    let all = running.len();
    let mut tasks = JoinSet::new();
    for (place, check) in running.into_iter().enumerate() {
        tasks.spawn(async move { (place, check.bounded().await) });
    }
    let mut found = Vec::new();
    progress(0, all);
    while let Some(ended) = tasks.join_next().await {
        found.push(ended.unwrap_or_else(|error| {
            let fix = "this is a fault of tollgate: please report it with the line above";
            (
                all,
                vec![Check::fail(
                    "doctor",
                    format!("a check broke: {error}"),
                    fix,
                )],
            )
        }));
        progress(found.len(), all);
    }
    found.sort_by_key(|(place, _)| *place);
    let lines = found.into_iter().flat_map(|(_, lines)| lines);
    Report::of(
        settings(&deployment.config)
            .into_iter()
            .chain(price_table(deployment.clock.now()))
            .chain(lines)
            .collect(),
        &deployment.secrets(),
    )
}

/// Every check there is, in the order of the report.
fn checks(deployment: &Arc<Deployment>) -> Vec<PendingCheck> {
    let mut checks = vec![
        PendingCheck::new("ledger", ledger::check(deployment.clone())),
        PendingCheck::new("purchases", stores::check(deployment.clone())),
        PendingCheck::new("clock", clock_skew::check(deployment.clone())),
        PendingCheck::new("jwks", jwks::check(deployment.clone())),
        PendingCheck::new("issuer", issuer::check(deployment.clone())),
        PendingCheck::new("issuers", jwks::check_issuers(deployment.clone())),
        PendingCheck::new("supabase", rest::check(deployment.clone())),
        PendingCheck::new("database", postgres::check(deployment.clone())),
    ];
    for (place, upstream) in deployment.config.upstreams.iter().enumerate() {
        let name = format!("upstream {}", upstream.name);
        checks.push(PendingCheck::new(
            name,
            upstream::check(deployment.clone(), place),
        ));
    }
    checks
}

/// Settings that could be read are good; what is odd about them is a warning each.
fn settings(config: &Config) -> Vec<Check> {
    let from = config
        .file
        .as_ref()
        .map_or_else(|| "no file".to_owned(), |path| path.display().to_string());
    let mut checks = vec![Check::ok(
        "config",
        format!("good ({from}, .env and the environment over the defaults)"),
    )];
    let fix = "change it, or leave it if it is meant; what every setting means: tollgate check";
    checks.extend(
        config
            .warnings
            .iter()
            .map(|warning| Check::warn("config", warning, fix)),
    );
    checks
}

/// How old the built-in prices are: they do not change by themselves.
fn price_table(now: Timestamp) -> Option<Check> {
    let day = PriceTable::written_on()?;
    let written = Timestamp::parse(&format!("{day}T00:00:00Z")).ok()?;
    let age = now.since(written);
    let days = age.as_secs().div_euclid(86_400);
    let detail = format!("the built-in prices are of {day}, {days} days old");
    if age <= PRICES_AGE_MAX {
        return Some(Check::ok("prices", detail));
    }
    let fix = "upgrade tollgate, or compare them with your providers' pages and write what has changed under [prices]";
    Some(Check::warn("prices", detail, fix))
}

/// What each of `questions` came to, in their order; all are asked at once.
async fn all_of<T: Send + 'static>(
    questions: Vec<impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let mut tasks = JoinSet::new();
    for (place, question) in questions.into_iter().enumerate() {
        tasks.spawn(async move { (place, question.await) });
    }
    let mut answers = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        answers.extend(ended);
    }
    answers.sort_by_key(|(place, _)| *place);
    answers.into_iter().map(|(_, answer)| answer).collect()
}
