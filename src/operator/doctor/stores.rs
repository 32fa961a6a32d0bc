//! Stores that tell of purchases: is there a proof for each, when did it last tell anything, and what does the sandbox give?

use std::sync::Arc;
use std::time::Duration;

use super::{Check, Deployment};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::ledger::Failure;
use crate::ledger::read::report::Reports;
use crate::purchases::event::{Channel, Rules};
use crate::purchases::jws::apple_root;
use crate::purchases::records::last_events;
use crate::purchases::unknown_products::unknown;

/// A store that is silent for longer is worth a look.
const SILENCE_MAX: Duration = Duration::from_hours(24 * 14);
/// A root that ends sooner is worth a look.
const ROOT_LEFT_MIN: Duration = Duration::from_hours(24 * 180);

/// So many products are named.
const NAMES_MAX: usize = 5;

/// A line a store that is set, and one for the sandbox; none where no products are.
pub(super) async fn check(deployment: Arc<Deployment>) -> Vec<Check> {
    let config = &deployment.config;
    let is_used = |channel: &Channel| config.webhooks.has(channel.as_str());
    let set: Vec<Channel> = Channel::ALL
        .into_iter()
        .filter(|channel| *channel != Channel::App && is_used(channel))
        .collect();
    if config.products.by_name.is_empty() && set.is_empty() {
        return Vec::new();
    }
    let now = deployment.clock.now();
    let store = config.store.url.clone();
    let known = deployment.clone();
    let reading = move || {
        let reports = Reports::open(&store)?;
        let products = &known.config.products;
        let unknown = unknown(reports.db(), Rules { products, now })?;
        Ok::<_, Failure>((last_events(reports.db())?, unknown))
    };
    let read = tokio::task::spawn_blocking(reading).await;
    let (last, unknown) = read.ok().and_then(Result::ok).unwrap_or_default();
    let mut checks = products(config, &set);
    checks.extend(bought_unknown(&unknown));
    for channel in set {
        let told = last.iter().find(|(of, _)| *of == channel);
        checks.push(silence(channel, told.map(|(_, at)| *at), now));
    }
    checks.extend(roots(config, now));
    checks
}

fn products(config: &Config, set: &[Channel]) -> Vec<Check> {
    if set.is_empty() {
        let fix = "set [webhooks] appstore, or the secret of another store: docs/purchases.md";
        let detail = "there are [products], and no store can tell that one was bought";
        return vec![Check::warn("purchases", detail, fix)];
    }
    if config.products.by_name.is_empty() {
        let fix = "write a [products.\"…\"] for each product, with its plan or its credits";
        let detail = "stores may tell of purchases, and no product gives anything";
        return vec![Check::warn("purchases", detail, fix)];
    }
    vec![sandbox(config)]
}

/// Products that users have bought, and that give nothing.
fn bought_unknown(names: &[String]) -> Option<Check> {
    let first: Vec<&str> = names.iter().take(NAMES_MAX).map(String::as_str).collect();
    let more = names
        .len()
        .checked_sub(first.len())
        .filter(|more| *more > 0);
    let more = more.map_or_else(String::new, |more| format!(" and {more} more"));
    let name = first.first()?;
    let fix = format!(
        "write [products.\"{name}\"] with its plan or its credits: they are given at once, also for what was bought before"
    );
    let detail = format!(
        "bought, and in no [products], so it gives nothing: {}{more}",
        first.join(", ")
    );
    Some(Check::warn("products", detail, fix))
}

/// App Review and `TestFlight` buy in the sandbox.
fn sandbox(config: &Config) -> Check {
    let detail = config.sandbox_told();
    if config.products.sandbox_plan.is_some() {
        return Check::ok("purchases in the sandbox", detail);
    }
    let fix = "while the app is in review, write sandbox_plan = \"…\" in [webhooks], so that the reviewer sees what was bought";
    Check::warn("purchases in the sandbox", detail, fix)
}

fn silence(channel: Channel, last: Option<Timestamp>, now: Timestamp) -> Check {
    let name = format!("events of {}", channel.as_str());
    let path = format!("/webhooks/{}", channel.as_str());
    let test = match channel {
        Channel::AppStore | Channel::App => {
            "request a test notification from the App Store Server API".to_owned()
        }
        _ => format!("tollgate webhook test {}", channel.as_str()),
    };
    match last {
        None => {
            let fix =
                format!("enter https://<this server>{path} in its dashboard, and try it: {test}");
            Check::warn(name, "none has come yet", fix)
        }
        Some(at) if now.since(at) > SILENCE_MAX => {
            let fix = format!(
                "see in its dashboard whether deliveries to {path} fail, and try it: {test}"
            );
            Check::warn(name, format!("the last came at {}", at.rfc3339()), fix)
        }
        Some(at) => Check::ok(name, format!("the last came at {}", at.rfc3339())),
    }
}

fn roots(config: &Config, now: Timestamp) -> Option<Check> {
    let trust = config.webhooks.appstore.as_ref()?;
    let name = "Apple's root certificate";
    let Some(root) = apple_root() else {
        let fix = "this is a fault of tollgate: please report it";
        return Some(Check::fail(name, "it cannot be read", fix));
    };
    let ends = root.ends_at();
    if ends.since(now) < ROOT_LEFT_MIN {
        let fix = "update tollgate; until then put Apple's new root into root_ca_file";
        return Some(Check::warn(
            name,
            format!("it ends at {}", ends.rfc3339()),
            fix,
        ));
    }
    if !trust.roots.is_empty() {
        let fix = "on a server that sells, take root_ca_file out of [webhooks] appstore";
        let detail = "besides it, root_ca_file is trusted: whoever has that key can make purchases";
        return Some(Check::warn(name, detail, fix));
    }
    Some(Check::ok(
        name,
        format!("it is pinned, and good until {}", ends.rfc3339()),
    ))
}
