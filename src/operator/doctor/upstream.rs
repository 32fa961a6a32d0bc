//! An upstream: does it accept the key, does it have the models of the plans, and does it accept requests as we write
//! them?

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;
use tokio::sync::oneshot;

use super::{Check, Deployment};
use crate::clock::Timestamp;
use crate::config::{Config, TOLD_AHEAD, UpstreamConfig};
use crate::dialect::Dialect;
use crate::ledger::read::report::Reports;
use crate::model::Model;
use crate::upstream::Advice;

/// The most names that a line repeats.
const NAMES_MAX: usize = 8;
/// How far back refused requests are looked for.
const LOOKS_BACK: Duration = Duration::from_hours(24);

/// The lines of the upstream at `place` among the settings': the key, and the models.
pub(super) async fn check(deployment: Arc<Deployment>, place: usize) -> Vec<Check> {
    let Some(upstream) = deployment.config.upstreams.get(place) else {
        return Vec::new();
    };
    let name = format!("upstream {}", upstream.name);
    let url = format!("{}/models", upstream.base_url);
    let mut lines = match deployment
        .upstreams
        .ask(upstream, list_path(upstream))
        .await
    {
        Err(trouble) => vec![Check::fail(
            name,
            format!("{url}: {trouble}"),
            way_fix(upstream, &trouble, &url),
        )],
        Ok((StatusCode::OK, body)) => {
            let list = serde_json::from_slice(&body).unwrap_or_default();
            let key = if upstream.api_key.is_some() {
                "takes the key"
            } else {
                "answers, without a key"
            };
            let mut lines = vec![Check::ok(&name, format!("{} {key}", upstream.base_url))];
            lines.push(models(&deployment, upstream, &list));
            lines.extend(model_ends(&deployment, upstream, &list));
            lines
        }
        Ok((status, body)) => vec![refused(name, upstream, status, &body)],
    };
    lines.extend(manner(deployment.clone(), place).await);
    lines
}

/// Anthropic tells twenty at a time unless it is asked for more.
const fn list_path(upstream: &UpstreamConfig) -> &'static str {
    match upstream.manner.dialect {
        Dialect::Anthropic => "/models?limit=1000",
        Dialect::Openai | Dialect::Compatible => "/models",
    }
}

fn way_fix(upstream: &UpstreamConfig, trouble: &str, url: &str) -> String {
    if trouble.contains("certificate") {
        return "if the server has a certificate of your own authority, name its file with [[upstreams]] ca_file"
            .to_owned();
    }
    if upstream.proxy.is_some() {
        return "check [[upstreams]] proxy (or HTTPS_PROXY and NO_PROXY): its address, name and password".to_owned();
    }
    format!("check [[upstreams]] base_url (OPENAI_BASE_URL for openai), and try: curl -sv {url}")
}

/// Whether the server takes requests as we write them, by what the ledger says of the last day: to ask it would cost. A line
/// only where something is to be changed.
async fn manner(deployment: Arc<Deployment>, place: usize) -> Vec<Check> {
    let (tell, told) = oneshot::channel();
    // A thread of its own, as a disk that hangs would keep tokio's from ending.
    let runtime = tokio::runtime::Handle::current();
    let work = move || {
        // A ledger on Postgres is asked on the runtime.
        let _entered = runtime.enter();
        drop(tell.send(refused_members(&deployment, place)));
    };
    match std::thread::Builder::new()
        .name("doctor".to_owned())
        .spawn(work)
    {
        Ok(_) => told.await.unwrap_or_default(),
        Err(_) => Vec::new(),
    }
}

fn refused_members(deployment: &Deployment, place: usize) -> Vec<Check> {
    let Some(upstream) = deployment.config.upstreams.get(place) else {
        return Vec::new();
    };
    // A ledger that cannot be read has a line of its own.
    let Ok(reports) = Reports::open(&deployment.config.store.url) else {
        return Vec::new();
    };
    let since = deployment.clock.now().minus(LOOKS_BACK);
    let is_refused = |advice: &Advice| {
        reports
            .is_flagged(&upstream.name, advice.flag, since)
            .unwrap_or(false)
    };
    let line = |advice: Advice| {
        let detail = "it refused requests of the last day for a member that we add to them";
        Check::fail(
            format!("requests to {}", upstream.name),
            detail,
            advice.line,
        )
    };
    Advice::of(upstream.manner)
        .filter(is_refused)
        .map(line)
        .collect()
}

/// What an answer other than 200 means.
fn refused(name: String, upstream: &UpstreamConfig, status: StatusCode, body: &[u8]) -> Check {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let message = body
        .pointer("/error/message")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let status = status.as_u16();
    let detail = format!("{}/models answered with status {status}", upstream.base_url);
    // A restricted key may be good for requests and not for this list.
    if message.contains("Missing scopes") {
        let fix = "nothing, if requests work; to have the models checked too, give the key the scope api.model.read";
        return Check::warn(name, "the key is known, but may not list models", fix);
    }
    match status {
        401 | 403 => Check::fail(
            name,
            format!("{detail}: the key is refused"),
            key_fix(upstream),
        ),
        404 | 405 if upstream.manner.dialect == Dialect::Compatible => {
            let fix =
                "nothing, if requests work; otherwise check base_url, which usually ends in /v1";
            Check::warn(
                name,
                format!("{detail}: the server does not list models"),
                fix,
            )
        }
        404 | 405 => {
            let fix = "check base_url (or OPENAI_BASE_URL): it usually ends in /v1, as https://api.openai.com/v1 does";
            Check::fail(name, detail, fix)
        }
        429 => Check::warn(
            name,
            detail,
            "see the provider's console: the budget or the rate of the key is used up",
        ),
        _ => Check::fail(
            name,
            detail,
            format!("try it: curl -sv {}/models", upstream.base_url),
        ),
    }
}

fn key_fix(upstream: &UpstreamConfig) -> String {
    if upstream.manner.dialect == Dialect::Openai || upstream.name == "openai" {
        return "set OPENAI_API_KEY (or the variable that api_key_env names) in .env to a key that is in force: \
                https://platform.openai.com/api-keys"
            .to_owned();
    }
    format!(
        "name the variable that holds the key of `{}` with [[upstreams]] api_key_env, and set it",
        upstream.name
    )
}

/// Whether the models of the plans that this upstream serves are in its list.
fn models(deployment: &Deployment, upstream: &UpstreamConfig, list: &Value) -> Check {
    let config = &deployment.config;
    let name = format!("models of {}", upstream.name);
    let wanted = wanted(config, upstream, deployment.clock.now());
    if wanted.is_empty() {
        let fix = "name one of its models in a plan, or take this upstream out";
        return Check::warn(name, "no plan names a model that this upstream serves", fix);
    }
    let Some(listed) = list.get("data").and_then(Value::as_array) else {
        let fix = "check base_url, which usually ends in /v1";
        return Check::warn(name, "the answer is no list of models", fix);
    };
    let listed: BTreeSet<&str> = listed
        .iter()
        .filter_map(|model| model.get("id")?.as_str())
        .collect();
    // Anthropic lists its models by their dated names.
    let dated = |model: &str| {
        let base = |listed: &&str| config.prices.resolve(listed).map(|(base, _)| base);
        let is_anthropics = upstream.manner.dialect == Dialect::Anthropic;
        is_anthropics && listed.iter().any(|listed| base(listed) == Some(model))
    };
    let has = |model: &str| {
        listed.contains(model)
            || listed.contains(format!("{model}:latest").as_str())
            || dated(model)
    };
    let missing: Vec<&str> = wanted.iter().copied().filter(|model| !has(model)).collect();
    if !missing.is_empty() {
        return absent(name, upstream, &missing);
    }
    let unpriced: Vec<&str> = wanted
        .iter()
        .copied()
        .filter(|model| config.prices.resolve(model).is_none())
        .collect();
    if !unpriced.is_empty() {
        let fix = format!(
            "write [prices.\"{}\"] with input and output",
            unpriced.join("\"], [prices.\"")
        );
        return Check::fail(name, format!("without a price: {}", some(&unpriced)), fix);
    }
    let wanted: Vec<&str> = wanted.into_iter().collect();
    Check::ok(name, format!("listed and priced: {}", some(&wanted)))
}

/// OpenAI lists every model that a key may use; another server may serve more than it lists.
fn absent(name: String, upstream: &UpstreamConfig, missing: &[&str]) -> Check {
    let detail = format!("not listed: {}", some(missing));
    if upstream.manner.dialect == Dialect::Openai {
        let fix = "take the model out of [plans.*] models, or allow it: platform.openai.com, the key's project, Limits";
        return Check::fail(name, detail, fix);
    }
    let fix = format!(
        "see what it has: curl -s {}/models; then load the model, or correct the plan",
        upstream.base_url
    );
    Check::warn(name, detail, fix)
}

/// Which models of the plans are shut down soon, by the program's own table and by the provider's list, which may know better.
fn model_ends(deployment: &Deployment, upstream: &UpstreamConfig, list: &Value) -> Option<Check> {
    let (config, now) = (&deployment.config, deployment.clock.now());
    let soon = now.plus(TOLD_AHEAD);
    let mut ends = Vec::new();
    for model in candidates(config, upstream) {
        let ours = config.models.get(model).and_then(Model::end);
        let ours = ours.map(|(day, _)| day.to_string());
        let theirs = listed_end(list, model);
        let is_soon = |day: &&String| {
            Timestamp::parse(&format!("{day}T00:00:00Z")).is_ok_and(|day| day <= soon)
        };
        let Some(day) = theirs.as_ref().or(ours.as_ref()).filter(is_soon) else {
            continue;
        };
        let differs = ours
            .as_ref()
            .filter(|ours| theirs.is_some() && *ours != day);
        let differs =
            differs.map_or_else(String::new, |ours| format!(" (models.toml says {ours})"));
        let next = match config.models.living(model, Timestamp::MAX) {
            next if next == model => "nothing".to_owned(),
            next => next.to_owned(),
        };
        ends.push(format!("{model} on {day}{differs}, then {next}"));
    }
    if ends.is_empty() {
        return None;
    }
    let fix = "see that you agree with what takes their place, or say it yourself: [models.\"NAME\"] use = [\"…\"]";
    let name = format!("shutdowns at {}", upstream.name);
    Some(Check::warn(name, ends.join("; "), fix))
}

/// `shutdown_date` of a model in a provider's list.
fn listed_end(list: &Value, model: &str) -> Option<String> {
    let listed = list.get("data")?.as_array()?;
    let entry = listed
        .iter()
        .find(|entry| entry.get("id").and_then(Value::as_str) == Some(model))?;
    let day: jiff::civil::Date = entry.get("shutdown_date")?.as_str()?.parse().ok()?;
    Some(day.to_string())
}

/// The models of all plans and prompts that go to this upstream, which is the first that serves them; a model that was shut down by
/// the name of its successor.
fn wanted<'a>(config: &'a Config, upstream: &UpstreamConfig, now: Timestamp) -> BTreeSet<&'a str> {
    let models = all_candidates(config).map(|model| config.models.living(model, now));
    here(config, upstream, models)
}

/// The same by the names that stand in the settings.
fn candidates<'a>(config: &'a Config, upstream: &UpstreamConfig) -> BTreeSet<&'a str> {
    here(config, upstream, all_candidates(config))
}

fn all_candidates(config: &Config) -> impl Iterator<Item = &str> {
    let of_plans = config.plans.by_name.values().flat_map(|plan| &plan.models);
    let of_prompts = config.prompts.values().map(|prompt| &prompt.model);
    let entries = of_plans.chain(of_prompts);
    entries.flat_map(|entry| config.models.candidates(entry))
}

fn here<'a>(
    config: &Config,
    upstream: &UpstreamConfig,
    models: impl Iterator<Item = &'a str>,
) -> BTreeSet<&'a str> {
    let server = |model: &str| {
        config
            .upstreams
            .iter()
            .find(|upstream| upstream.serves(model))
    };
    let is_here = |model: &&str| server(model).is_some_and(|server| server.name == upstream.name);
    models.filter(is_here).collect()
}

/// The first names of many.
fn some(names: &[&str]) -> String {
    let shown: Vec<&str> = names.iter().copied().take(NAMES_MAX).collect();
    let more = names.len().saturating_sub(shown.len());
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!("{}{more}", shown.join(", "))
}
