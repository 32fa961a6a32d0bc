//! Supabase's REST API: the kind of key, the two functions, and that nobody else may call them.
//!
//! `tollgate_check_user_limits` is called for a user whom nobody knows and `tollgate_log_requests` with no entries, so
//! that neither changes anything. The publishable key, where there is one, stands for every stranger with the app.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use uuid::Uuid;

use super::api_key::{ApiKey, Kind};
use super::question::{self, Question};
use super::{Case, Check, Status, all_of, examined};
use crate::clock::Timestamp;
use crate::config::{Config, Via};
use crate::database::Answer;

const KEY: &str = "supabase key";
const GRANTS: &str = "supabase grants";
const CHECK: &str = "tollgate_check_user_limits";
const LOG: &str = "tollgate_log_requests";
const FUNCTIONS: [&str; 2] = [CHECK, LOG];
const EXAMINE: &str = "tollgate_examine";

/// What makes a key right.
const KEY_FIX: &str =
    "set SUPABASE_SERVICE_KEY in .env to a secret key, sb_secret_… (dashboard: Project Settings, API Keys)";
/// What makes functions and grants right.
pub(super) const SQL_FIX: &str = "run `tollgate sql` and paste what it prints into the dashboard's SQL Editor \
                       (or: tollgate sql | psql \"$DATABASE_URL\"); it is safe to run again";

/// The lines of the key, of each function, and of the grants.
pub(super) async fn check(case: Arc<Case>) -> Vec<Check> {
    let Via::Rest { supabase_url, service_key } = &case.config.directory.via else {
        let why = format!("plans come by [directory] via = \"{}\"", case.config.directory.via.as_str());
        let grants = match &case.config.auth.supabase_url {
            Some(url) => strangers(&case, url).await,
            None => Check::skip(GRANTS, "no SUPABASE_URL"),
        };
        return vec![Check::skip(KEY, format!("{why}: the REST API is not used")), grants];
    };
    let read = ApiKey::read(service_key.expose_secret());
    let kind = kind(&read, supabase_url, case.clock.now());
    if kind.status == Status::Fail {
        return vec![kind];
    }
    let service = Caller { url: supabase_url.clone(), key: service_key.clone(), kind: read.kind };
    let called = service.call_both(&case).await;
    if let Some(Err(trouble)) = called.iter().find(|called| called.is_err()) {
        let fix = format!("check SUPABASE_URL, and try: curl -sv {supabase_url}/rest/v1/");
        return vec![kind, Check::fail("supabase rest", format!("{supabase_url}/rest/v1: {trouble}"), fix)];
    }
    if let Some(Ok(Called::KeyRefused(told))) = called.iter().find(|called| matches!(called, Ok(Called::KeyRefused(_))))
    {
        return vec![Check::fail(KEY, format!("{}, which Supabase refuses: {told}", read.kind.as_str()), KEY_FIX)];
    }
    let is_installed = called.iter().flatten().any(|called| !matches!(called, Called::Missing));
    let called = FUNCTIONS.into_iter().zip(called.into_iter().flatten());
    let functions = called.map(|(name, called)| function(name, &called, &case.config));
    let mut checks: Vec<Check> = [kind].into_iter().chain(functions).collect();
    if is_installed {
        checks.extend(examine(&case, &service).await);
    }
    checks.push(strangers(&case, supabase_url).await);
    checks
}

/// Whether callers can have code of their own run, and users write what decides their plans.
async fn examine(case: &Arc<Case>, service: &Caller) -> Vec<Check> {
    let line = "supabase functions";
    match service.call(case, EXAMINE, &json!({})).await {
        Ok(Called::Ran(answer)) => examined::checks("supabase", &answer),
        Ok(Called::Missing) => examined::of_an_older_script("supabase"),
        Ok(Called::Denied) => vec![Check::fail(line, format!("the service role may not call {EXAMINE}"), SQL_FIX)],
        Ok(Called::KeyRefused(told) | Called::Failed(told)) | Err(told) => {
            vec![Check::warn(line, format!("{EXAMINE} cannot be asked: {told}"), SQL_FIX)]
        }
    }
}

/// The key by what it says of itself.
fn kind(key: &ApiKey, url: &str, now: Timestamp) -> Check {
    let what = key.kind.as_str();
    if key.kind.is_public() || key.kind == Kind::OtherJwt {
        return Check::fail(KEY, format!("SUPABASE_SERVICE_KEY is {what}, and a key for servers is needed"), KEY_FIX);
    }
    if let Some(end) = key.expires.filter(|end| *end <= now) {
        return Check::fail(KEY, format!("{what}, expired at {}", end.rfc3339()), KEY_FIX);
    }
    if let Some(other) = key.other_project(url) {
        let detail = format!("{what} of the project {other}, and SUPABASE_URL is {url}");
        return Check::fail(KEY, detail, format!("{KEY_FIX}, of the project in SUPABASE_URL"));
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
struct Caller {
    url: String,
    key: SecretString,
    kind: Kind,
}

/// What calling a function came to.
enum Called {
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

impl Caller {
    /// Calls each of [`FUNCTIONS`] in a way that changes nothing; what came of it, in their order.
    async fn call_both(&self, case: &Arc<Case>) -> Vec<Result<Called, String>> {
        let bodies = [json!({"user_id": Uuid::now_v7(), "session_id": null}), json!({"entries": []})];
        let calls = FUNCTIONS.into_iter().zip(bodies).map(|(function, body)| {
            let (case, caller) = (case.clone(), self.clone());
            async move { caller.call(&case, function, &body).await }
        });
        all_of(calls.collect()).await
    }

    async fn call(&self, case: &Case, function: &str, body: &Value) -> Result<Called, String> {
        let question =
            Question::post(format!("{}/rest/v1/rpc/{function}", self.url), body).profile_public().apikey(&self.key);
        let question = if self.kind.is_jwt() { question.bearer(&self.key) } else { question };
        called(case.http.ask(question).await?)
    }
}

/// Sorts an answer of PostgREST, or of the gateway before it (the code first, then the status).
fn called(answer: question::Answer) -> Result<Called, String> {
    let code = answer.body.get("code").and_then(Value::as_str).unwrap_or_default();
    let message = answer.body.get("message").and_then(Value::as_str).unwrap_or_default();
    let told = format!("status {} {code} {message}", answer.status.as_u16()).trim_end().to_owned();
    match (answer.status.as_u16(), code) {
        (200..=299, _) => Ok(Called::Ran(answer.body)),
        (_, "PGRST202") => Ok(Called::Missing),
        (_, "42501") => Ok(Called::Denied),
        _ if is_of_function(code) => Ok(Called::Failed(told)),
        (401 | 403, _) => Ok(Called::KeyRefused(told)),
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
fn function(name: &str, called: &Called, config: &Config) -> Check {
    let line = format!("supabase {name}");
    match called {
        Called::Ran(answer) if name == CHECK => unknown_user(line, answer, config),
        Called::Ran(_) => Check::ok(line, "is there and takes entries"),
        Called::Missing => {
            let fix = format!("{SQL_FIX}. If you just did: notify pgrst, 'reload schema'");
            Check::fail(line, "there is no such function in the schema public", fix)
        }
        Called::Denied => Check::fail(line, "the service role may not call it", SQL_FIX),
        Called::KeyRefused(told) => Check::fail(line, told.clone(), KEY_FIX),
        Called::Failed(told) => {
            let fix =
                format!("try it in the dashboard's SQL Editor: {}; your version of it may be at fault", sample(name));
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

/// What the function says of a user whom nobody knows, which is what it will say of who signs up next.
pub(super) fn unknown_user(line: String, answer: &Value, config: &Config) -> Check {
    let fix = "edit tollgate.check_user_limits, or add the plan to [plans]";
    let answer = match Answer::read(answer) {
        Ok(answer) => answer,
        Err(failure) => return Check::fail(line, failure.to_string(), "edit tollgate.check_user_limits"),
    };
    if answer.as_ref().is_some_and(|answer| !answer.allowed) {
        return Check::warn(line, "it blocks a user whom it does not know: whoever signs up is refused", fix);
    }
    match answer.and_then(|answer| answer.assigned.plan) {
        Some(plan) if !config.plans.by_name.contains_key(&plan) => {
            let detail = format!("it gives a user whom it does not know the plan `{plan}`, which there is not");
            Check::warn(line, detail, fix)
        }
        Some(plan) => Check::ok(line, format!("is there; a user whom it does not know has the plan `{plan}`")),
        None => Check::ok(line, "is there; a user whom it does not know has the plan found elsewhere"),
    }
}

/// Whether the functions turn away who comes with the key that is in every copy of the app.
async fn strangers(case: &Arc<Case>, url: &str) -> Check {
    let Some(key) = case.anon_key.clone() else {
        return Check::skip(
            GRANTS,
            "give the publishable or anon key to try what the app's users can do: --anon-key, or SUPABASE_ANON_KEY",
        );
    };
    let kind = ApiKey::read(key.expose_secret()).kind;
    if matches!(kind, Kind::Secret | Kind::LegacyService) {
        let fix = "give the publishable key there, and replace this one if it is in an app (dashboard: API Keys)";
        return Check::fail(GRANTS, format!("SUPABASE_ANON_KEY is {}", kind.as_str()), fix);
    }
    let stranger = Caller { url: url.to_owned(), key, kind };
    guarded(&stranger.call_both(case).await)
}

fn guarded(called: &[Result<Called, String>]) -> Check {
    let named = || FUNCTIONS.into_iter().zip(called);
    // What ran and failed in the function was let in, too.
    let open = |called: &Result<Called, String>| matches!(called, Ok(Called::Ran(_) | Called::Failed(_)));
    let open: Vec<&str> = named().filter(|(_, called)| open(called)).map(|(name, _)| name).collect();
    if !open.is_empty() {
        let detail = format!("everybody with the app can call {}", open.join(" and "));
        return Check::fail(GRANTS, detail, format!("{SQL_FIX}, and takes these grants back"));
    }
    let unsure = called.iter().find_map(|called| match called {
        Err(told) | Ok(Called::KeyRefused(told)) => Some(told.as_str()),
        _ => None,
    });
    if let Some(told) = unsure {
        let fix = "set SUPABASE_ANON_KEY to the publishable or anon key of this project (dashboard: API Keys)";
        return Check::warn(GRANTS, format!("nothing is proved, as the anon key got no answer: {told}"), fix);
    }
    if called.iter().all(|called| matches!(called, Ok(Called::Missing))) {
        return Check::skip(GRANTS, "there are no functions to guard in the schema public");
    }
    Check::ok(GRANTS, "the functions turn the publishable key away")
}
