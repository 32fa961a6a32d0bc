//! Supabase's REST API: the kind of key, the two functions, and that nobody else may call them.
//!
//! `tollgate_check_user_limits` is called for an unknown user and `tollgate_log_requests` with no entries, so neither
//! changes anything. The publishable key, where there is one, shows what every stranger with the app can do.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use uuid::Uuid;

use super::api_key::{ApiKey, Kind};
use super::probe::{self, ProbeRequest};
use super::{Check, Deployment, Status, all_of, examination};
use crate::clock::Timestamp;
use crate::config::{Config, Via};
use crate::supabase::PlanAnswer;

const KEY: &str = "supabase key";
const GRANTS: &str = "supabase grants";
const CHECK: &str = "tollgate_check_user_limits";
const LOG: &str = "tollgate_log_requests";
const FUNCTIONS: [&str; 2] = [CHECK, LOG];
const EXAMINE: &str = "tollgate_examine";

/// What makes a key right.
const KEY_FIX: &str = "set SUPABASE_SERVICE_KEY in .env to a secret key, sb_secret_… (dashboard: Project Settings, API Keys)";
/// What makes functions and grants right.
pub(super) const SQL_FIX: &str = "run `tollgate sql` and paste what it prints into the dashboard's SQL Editor \
                       (or: tollgate sql | psql \"$DATABASE_URL\"); it is safe to run again";

/// The lines of the key, of each function, and of the grants.
pub(super) async fn check(deployment: Arc<Deployment>) -> Vec<Check> {
    let Via::Rest {
        supabase_url,
        service_key,
    } = &deployment.config.directory.via
    else {
        let why = format!(
            "plans come by [directory] via = \"{}\"",
            deployment.config.directory.via.as_str()
        );
        let grants = match &deployment.config.auth.supabase_url {
            Some(url) => strangers(&deployment, url).await,
            None => Check::skip(GRANTS, "no SUPABASE_URL"),
        };
        return vec![
            Check::skip(KEY, format!("{why}: the REST API is not used")),
            grants,
        ];
    };
    let read = ApiKey::read(service_key.expose_secret());
    let kind = kind(&read, supabase_url, deployment.clock.now());
    if kind.status == Status::Fail {
        return vec![kind];
    }
    let service = KeyHolder {
        url: supabase_url.clone(),
        key: service_key.clone(),
        kind: read.kind,
    };
    let called = service.call_both(&deployment).await;
    if let Some(Err(trouble)) = called.iter().find(|called| called.is_err()) {
        let fix = format!("check SUPABASE_URL, and try: curl -sv {supabase_url}/rest/v1/");
        return vec![
            kind,
            Check::fail(
                "supabase rest",
                format!("{supabase_url}/rest/v1: {trouble}"),
                fix,
            ),
        ];
    }
    if let Some(Ok(CallResult::KeyRefused(told))) = called
        .iter()
        .find(|called| matches!(called, Ok(CallResult::KeyRefused(_))))
    {
        return vec![Check::fail(
            KEY,
            format!("{}, which Supabase refuses: {told}", read.kind.as_str()),
            KEY_FIX,
        )];
    }
    let is_installed = called
        .iter()
        .flatten()
        .any(|called| !matches!(called, CallResult::Missing));
    let called = FUNCTIONS.into_iter().zip(called.into_iter().flatten());
    let functions = called.map(|(name, called)| function(name, &called, &deployment.config));
    let mut checks: Vec<Check> = [kind].into_iter().chain(functions).collect();
    if is_installed {
        checks.extend(examine(&deployment, &service).await);
    }
    checks.push(strangers(&deployment, supabase_url).await);
    checks
}

/// Whether callers can have code of their own run, and users write what decides their plans.
async fn examine(deployment: &Arc<Deployment>, service: &KeyHolder) -> Vec<Check> {
    let line = "supabase functions";
    match service.call(deployment, EXAMINE, &json!({})).await {
        Ok(CallResult::Ran(answer)) => examination::checks("supabase", &answer),
        Ok(CallResult::Missing) => examination::of_an_older_script("supabase"),
        Ok(CallResult::Denied) => vec![Check::fail(
            line,
            format!("the service role may not call {EXAMINE}"),
            SQL_FIX,
        )],
        Ok(CallResult::KeyRefused(told) | CallResult::Failed(told)) | Err(told) => {
            vec![Check::warn(
                line,
                format!("{EXAMINE} cannot be asked: {told}"),
                SQL_FIX,
            )]
        }
    }
}

/// The key by what it says of itself.
fn kind(key: &ApiKey, url: &str, now: Timestamp) -> Check {
    let what = key.kind.as_str();
    if key.kind.is_public() || key.kind == Kind::OtherJwt {
        return Check::fail(
            KEY,
            format!("SUPABASE_SERVICE_KEY is {what}, and a key for servers is needed"),
            KEY_FIX,
        );
    }
    if let Some(end) = key.expires.filter(|end| *end <= now) {
        return Check::fail(
            KEY,
            format!("{what}, expired at {}", end.rfc3339()),
            KEY_FIX,
        );
    }
    if let Some(other) = key.other_project(url) {
        let detail = format!("{what} of the project {other}, and SUPABASE_URL is {url}");
        return Check::fail(
            KEY,
            detail,
            format!("{KEY_FIX}, of the project in SUPABASE_URL"),
        );
    }
    match key.kind {
        // A Supabase of one's own has no other keys.
        Kind::LegacyService if url.ends_with(".supabase.co") => {
            let detail = format!("{what}; Supabase takes these out of service at the end of 2026");
            Check::warn(KEY, detail, KEY_FIX)
        }
        Kind::Unknown => Check::warn(KEY, format!("SUPABASE_SERVICE_KEY is {what}"), KEY_FIX),
        _ => Check::ok(KEY, what),
    }
}

/// Somebody with a key.
#[derive(Clone)]
struct KeyHolder {
    url: String,
    key: SecretString,
    kind: Kind,
}

/// What calling a function came to.
enum CallResult {
    /// It ran, and answered this.
    Ran(Value),
    /// There is no such function, as far as PostgREST knows.
    Missing,
    /// The function is there and not for this caller.
    Denied,
    /// The key is none that Supabase knows.
    KeyRefused(String),
    /// It was let in, and failed inside.
    Failed(String),
}

impl KeyHolder {
    /// Calls each of [`FUNCTIONS`] in a way that changes nothing; what came of it, in their order.
    async fn call_both(&self, deployment: &Arc<Deployment>) -> Vec<Result<CallResult, String>> {
        let bodies = [
            json!({"user_id": Uuid::now_v7(), "session_id": null}),
            json!({"entries": []}),
        ];
        let calls = FUNCTIONS.into_iter().zip(bodies).map(|(function, body)| {
            let (deployment, caller) = (deployment.clone(), self.clone());
            async move { caller.call(&deployment, function, &body).await }
        });
        all_of(calls.collect()).await
    }

    async fn call(
        &self,
        deployment: &Deployment,
        function: &str,
        body: &Value,
    ) -> Result<CallResult, String> {
        let probe = ProbeRequest::post(format!("{}/rest/v1/rpc/{function}", self.url), body)
            .profile_public()
            .apikey(&self.key);
        let probe = if self.kind.is_jwt() {
            probe.bearer(&self.key)
        } else {
            probe
        };
        called(deployment.http.ask(probe).await?)
    }
}

/// Sorts an answer of PostgREST, or of the gateway before it (the code first, then the status).
fn called(answer: probe::ProbeAnswer) -> Result<CallResult, String> {
    let code = answer
        .body
        .get("code")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let message = answer
        .body
        .get("message")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let told = format!("status {} {code} {message}", answer.status.as_u16())
        .trim_end()
        .to_owned();
    match (answer.status.as_u16(), code) {
        (200..=299, _) => Ok(CallResult::Ran(answer.body)),
        (_, "PGRST202") => Ok(CallResult::Missing),
        (_, "42501") => Ok(CallResult::Denied),
        _ if is_of_function(code) => Ok(CallResult::Failed(told)),
        (401 | 403, _) => Ok(CallResult::KeyRefused(told)),
        _ => Err(told),
    }
}

/// Whether an error came out of the function: an SQLSTATE that does not say that the database was out of reach or out of
/// breath (classes 08, 53, 57, XX).
fn is_of_function(code: &str) -> bool {
    let class = code.get(..2).unwrap_or_default();
    code.len() == 5 && !matches!(class, "08" | "53" | "57" | "XX")
}

/// The line of a function that the service key called.
fn function(name: &str, called: &CallResult, config: &Config) -> Check {
    let line = format!("supabase {name}");
    match called {
        CallResult::Ran(answer) if name == CHECK => unknown_user(line, answer, config),
        CallResult::Ran(_) => Check::ok(line, "is there and takes entries"),
        CallResult::Missing => {
            let fix = format!("{SQL_FIX}. If you just did: notify pgrst, 'reload schema'");
            Check::fail(line, "there is no such function in the schema public", fix)
        }
        CallResult::Denied => Check::fail(line, "the service role may not call it", SQL_FIX),
        CallResult::KeyRefused(told) => Check::fail(line, told.clone(), KEY_FIX),
        CallResult::Failed(told) => {
            let fix = format!(
                "try it in the dashboard's SQL Editor: {}; your version of it may be at fault",
                sample(name)
            );
            Check::fail(line, format!("it fails: {told}"), fix)
        }
    }
}

/// How a person calls the function.
fn sample(name: &str) -> String {
    if name == CHECK {
        return format!("select public.{CHECK}(gen_random_uuid(), null)");
    }
    format!("select public.{LOG}('[]')")
}

/// Checks the function's answer about an unknown user, which a user who has just signed up will get too.
pub(super) fn unknown_user(line: String, answer: &Value, config: &Config) -> Check {
    let fix = "edit tollgate.check_user_limits, or add the plan to [plans]";
    let answer = match PlanAnswer::read(answer) {
        Ok(answer) => answer,
        Err(failure) => {
            return Check::fail(line, failure.to_string(), "edit tollgate.check_user_limits");
        }
    };
    if answer.as_ref().is_some_and(|answer| !answer.allowed) {
        return Check::warn(
            line,
            "it blocks a user whom it does not know: whoever signs up is refused",
            fix,
        );
    }
    match answer.and_then(|answer| answer.assigned.plan) {
        Some(plan) if !config.plans.by_name.contains_key(&plan) => {
            let detail = format!(
                "it gives a user whom it does not know the plan `{plan}`, which there is not"
            );
            Check::warn(line, detail, fix)
        }
        Some(plan) => Check::ok(
            line,
            format!("is there; a user whom it does not know has the plan `{plan}`"),
        ),
        None => Check::ok(
            line,
            "is there; a user whom it does not know has the plan found elsewhere",
        ),
    }
}

/// Whether the functions turn away who comes with the key that is in every copy of the app.
async fn strangers(deployment: &Arc<Deployment>, url: &str) -> Check {
    let Some(key) = deployment.anon_key.clone() else {
        return Check::skip(
            GRANTS,
            "give the publishable or anon key to try what the app's users can do: --anon-key, or SUPABASE_ANON_KEY",
        );
    };
    let kind = ApiKey::read(key.expose_secret()).kind;
    if matches!(kind, Kind::Secret | Kind::LegacyService) {
        let fix = "give the publishable key there, and replace this one if it is in an app (dashboard: API Keys)";
        return Check::fail(
            GRANTS,
            format!("SUPABASE_ANON_KEY is {}", kind.as_str()),
            fix,
        );
    }
    let stranger = KeyHolder {
        url: url.to_owned(),
        key,
        kind,
    };
    guarded(&stranger.call_both(deployment).await)
}

fn guarded(called: &[Result<CallResult, String>]) -> Check {
    let named = || FUNCTIONS.into_iter().zip(called);
    // What ran and failed in the function was let in, too.
    let open = |called: &Result<CallResult, String>| {
        matches!(called, Ok(CallResult::Ran(_) | CallResult::Failed(_)))
    };
    let open: Vec<&str> = named()
        .filter(|(_, called)| open(called))
        .map(|(name, _)| name)
        .collect();
    if !open.is_empty() {
        let detail = format!("everybody with the app can call {}", open.join(" and "));
        return Check::fail(
            GRANTS,
            detail,
            format!("{SQL_FIX}, and takes these grants back"),
        );
    }
    let unsure = called.iter().find_map(|called| match called {
        Err(told) | Ok(CallResult::KeyRefused(told)) => Some(told.as_str()),
        _ => None,
    });
    if let Some(told) = unsure {
        let fix = "set SUPABASE_ANON_KEY to the publishable or anon key of this project (dashboard: API Keys)";
        return Check::warn(
            GRANTS,
            format!("nothing is proved, as the anon key got no answer: {told}"),
            fix,
        );
    }
    if called
        .iter()
        .all(|called| matches!(called, Ok(CallResult::Missing)))
    {
        return Check::skip(
            GRANTS,
            "there are no functions to guard in the schema public",
        );
    }
    Check::ok(GRANTS, "the functions turn the publishable key away")
}
