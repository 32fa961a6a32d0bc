//! `tollgate check`: prints what the settings mean.

use std::fmt::Write as _;

use super::{CommandError, print};
use crate::app::descriptors::Descriptors;
use crate::clock::{Clock, Timestamp};
use crate::config::units::{show_duration, show_size};
use crate::config::{Config, UpstreamConfig, Via};
use crate::dialect::Dialect;
use crate::plan::{Limit, Plan, Unit};
use crate::price::MicroUsd;
use crate::prompt::Prompt;

/// Check the settings without connecting to anything
///
/// Prints what they mean: listeners, sign-in, ledger, upstreams, plans with their limits, and warnings. When something
/// is wrong it prints all of it: each with the key, where it stands, and the fix.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tollgate check --config staging.toml")]
pub(super) struct CheckArgs {}

/// Prints what the settings mean.
pub(super) fn run(config: &Config) -> Result<(), CommandError> {
    super::serve::guarded(config)?;
    Ok(print::line(
        report(config, Clock::system().now()).trim_end(),
    )?)
}

fn report(config: &Config, now: Timestamp) -> String {
    let mut page = SettingsPage::default();
    let from = config
        .file
        .as_ref()
        .map_or_else(|| "no file".to_owned(), |path| path.display().to_string());
    page.title(&format!(
        "The settings are good ({from}, .env and the environment over the defaults)"
    ));
    listeners(&mut page, config);
    sign_in(&mut page, config);
    ledger(&mut page, config);
    directory(&mut page, config);
    page.title("Upstreams, the first that lists a model serves it");
    config
        .upstreams
        .iter()
        .for_each(|upstream| page.tick(&upstream_line(upstream)));
    model_lines(&mut page, config);
    page.title("Plans");
    for plan in config.plans.by_name.values() {
        plan_lines(&mut page, plan, plan.name == config.plans.default.name);
    }
    if !config.prompts.is_empty() {
        page.title("Prompts");
        config
            .prompts
            .values()
            .for_each(|prompt| page.tick(&prompt_line(prompt)));
    }
    purchase_lines(&mut page, config);
    let ends = config.model_ends(now);
    if !ends.is_empty() {
        page.title("Models of these plans that are shut down soon");
        for end in &ends {
            page.warning(&end.to_string());
        }
    }
    if !config.warnings.is_empty() {
        page.title("Warnings");
        config
            .warnings
            .iter()
            .for_each(|warning| page.warning(warning));
    }
    page.0
}

/// Titles, and lines with a mark.
#[derive(Default)]
struct SettingsPage(String);

impl SettingsPage {
    fn title(&mut self, text: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        self.line(&format!("{gap}{text}"));
    }

    fn tick(&mut self, text: &str) {
        self.line(&format!("  ✓ {text}"));
    }

    fn more(&mut self, text: &str) {
        self.line(&format!("      {text}"));
    }

    fn warning(&mut self, text: &str) {
        self.line(&format!("  ! {text}"));
    }

    fn line(&mut self, text: &str) {
        self.0.push_str(text);
        self.0.push('\n');
    }
}

fn listeners(page: &mut SettingsPage, config: &Config) {
    let server = &config.server;
    page.title("Listeners");
    page.tick(&format!("{} for apps", server.bind));
    let bounds = [
        format!(
            "bodies up to {} (with a file {}) within {}",
            show_size(server.body_bytes_max),
            show_size(server.file_bytes_max),
            show_duration(server.body_timeout)
        ),
        format!("{} open requests", server.open_requests_max),
        format!("{} to drain", show_duration(server.shutdown_grace)),
    ];
    page.more(&bounds.join(", "));
    if let Some(warning) = Descriptors::at_most(config).too_few(server.open_requests_max) {
        page.warning(&warning);
    }
    if !server.cors_origins.is_empty() {
        page.more(&format!("browsers from {}", server.cors_origins.join(", ")));
    }
}

fn sign_in(page: &mut SettingsPage, config: &Config) {
    let auth = &config.auth;
    page.title("Sign-in");
    if let Some(url) = &auth.supabase_url {
        page.tick(&format!("the keys of {url}"));
    }
    if auth.jwt_secret.is_some() {
        let rotating = if auth.jwt_secret_previous.is_some() {
            ", and by the one before it"
        } else {
            ""
        };
        page.tick(&format!("HS256 by JWT_SECRET{rotating}"));
    }
    let issuer = if auth.issuer.is_empty() {
        "anybody"
    } else {
        &auth.issuer
    };
    page.more(&format!(
        "issued by {issuer}; the plan is in {}",
        auth.plan_claim.join(".")
    ));
    match &auth.anonymous_plan {
        Some(plan) => page.more(&format!("anonymous users have the plan {plan}")),
        None => page.more("anonymous users are refused"),
    }
}

fn ledger(page: &mut SettingsPage, config: &Config) {
    let store = &config.store;
    page.title("Ledger");
    page.tick(&format!(
        "{}, requests kept for {}",
        store.url,
        show_duration(store.keep_requests)
    ));
    match config.ceiling {
        Some(ceiling) => page.tick(&format!(
            "everybody together up to {} a day",
            dollars(ceiling)
        )),
        None => page.warning("everybody together up to any sum: there is no [ceiling]"),
    }
}

fn directory(page: &mut SettingsPage, config: &Config) {
    let directory = &config.directory;
    page.title("Plans come from");
    match &directory.via {
        Via::None => page.tick("the token, the local table, the default plan"),
        Via::Rest { supabase_url, .. } => page.tick(&format!(
            "your database, over the REST API of {supabase_url}"
        )),
        Via::Postgres(_) => page.tick("your database, over Postgres"),
    }
    if !matches!(directory.via, Via::None) {
        let (fresh, stale) = (
            show_duration(directory.plan_cache),
            show_duration(directory.plan_stale),
        );
        page.more(&format!(
            "asked again after {fresh}; while it is down, an answer serves for {stale}"
        ));
        page.more("where it has no answer: the token, the local table, the default plan");
    }
}

fn upstream_line(upstream: &UpstreamConfig) -> String {
    let dialect = match upstream.manner.dialect {
        Dialect::Openai => "openai",
        Dialect::Compatible => "compatible",
        Dialect::Anthropic => "anthropic",
    };
    let key = if upstream.api_key.is_some() {
        "with a key"
    } else {
        "without a key"
    };
    let UpstreamConfig { name, base_url, .. } = upstream;
    format!(
        "{name} at {base_url} ({dialect}, {key}) for {}",
        upstream.models.join(", ")
    )
}

/// The operator's names.
fn model_lines(page: &mut SettingsPage, config: &Config) {
    let aliases = config.models.aliases();
    if !aliases.is_empty() {
        page.title("Models of your own names");
    }
    for (name, alias) in aliases {
        page.tick(&format!("{name}: {}", alias.candidates.join(", ")));
        if let Some(set) = &alias.set {
            page.more(&format!("always with {set}"));
        }
        if let Some(defaults) = &alias.defaults {
            page.more(&format!("with {defaults} where the app says nothing"));
        }
    }
}

/// What is sold, who tells of it, and what a reviewer gets.
fn purchase_lines(page: &mut SettingsPage, config: &Config) {
    if config.products.by_name.is_empty() {
        return;
    }
    page.title("Products, and what they give");
    for (name, product) in &config.products.by_name {
        let plan = product.plan.as_ref();
        let plan = plan.map(|plan| format!("the plan {plan}, rank {}", product.rank));
        let credit = product.credit.map(|amount| {
            let kept = product.credit_expires.map(show_duration);
            let kept = kept.map_or_else(String::new, |kept| format!(" for {kept}"));
            format!("{} of credits{kept}", dollars(amount))
        });
        let given: Vec<String> = plan.into_iter().chain(credit).collect();
        page.tick(&format!("{name}: {}", given.join(", ")));
    }
    let stores = ["appstore", "revenuecat", "superwall", "stripe"];
    let set: Vec<&str> = stores
        .into_iter()
        .filter(|it| config.webhooks.has(it))
        .collect();
    if set.is_empty() {
        page.warning("nobody can tell that one was bought: [webhooks] names no store");
    } else {
        page.more(&format!("told by {}", set.join(", ")));
    }
    if config
        .products
        .by_name
        .values()
        .any(|it| it.credit.is_some())
    {
        let plans = config.plans.by_name.values();
        let warnings = plans.filter_map(|plan| stops_who_paid(plan));
        warnings.for_each(|warning| page.warning(&warning));
    }
    if config.products.sandbox_plan.is_none() {
        page.warning(&config.sandbox_told());
    } else {
        page.more(&config.sandbox_told());
    }
}

/// Credits pay for what does not fit limits in dollars, and lift no other: what to say of a plan that has both.
fn stops_who_paid(plan: &Plan) -> Option<String> {
    let is_lifted = |limit: &&Limit| limit.unit == Unit::CostUsd;
    plan.limits.iter().find(is_lifted)?;
    let stopping: Vec<String> = plan.limits_despite_credits().map(limit).collect();
    (!stopping.is_empty()).then(|| {
        format!(
            "{}: credits do not lift {}: whoever bought some is refused there, too. Limit that per minute or hour, or in \
             dollars, instead",
            plan.name,
            stopping.join(", ")
        )
    })
}

fn plan_lines(page: &mut SettingsPage, plan: &Plan, is_default: bool) {
    let default = if is_default { " (default)" } else { "" };
    page.tick(&format!(
        "{}{default}: {}",
        plan.name,
        plan.models.join(", ")
    ));
    let mut limits: Vec<String> = plan.limits.iter().map(limit).collect();
    if limits.is_empty() {
        limits.push("no limits".to_owned());
    }
    page.more(&limits.join(", "));
    let mut caps = format!(
        "answers up to {} tokens, prompts up to {}",
        plan.max_output_tokens, plan.max_input_tokens
    );
    if let Some(open) = plan.concurrent_requests {
        // Writing to a String cannot fail.
        write!(caps, ", {open} open at once").unwrap_or_default();
    }
    page.more(&caps);
}

fn prompt_line(prompt: &Prompt) -> String {
    let plans = prompt.plans.iter().flatten().cloned().collect::<Vec<_>>();
    let plans = if plans.is_empty() {
        "for all plans".to_owned()
    } else {
        format!("for {}", plans.join(", "))
    };
    let Prompt {
        name,
        model,
        version,
        ..
    } = prompt;
    format!("{name}: {model}, version {version}, {plans}")
}

fn limit(limit: &Limit) -> String {
    let amount = match limit.unit {
        Unit::Requests => format!("{} requests", limit.amount),
        Unit::Tokens => format!("{} tokens", limit.amount),
        Unit::CostUsd => dollars(MicroUsd(limit.amount)),
        Unit::Images => format!("{} images", limit.amount),
        Unit::AudioSeconds => format!("{} seconds of audio", limit.amount),
        Unit::Characters => format!("{} characters", limit.amount),
    };
    let of_model = limit.model.as_ref();
    let of_model = of_model.map_or_else(String::new, |model| format!(" with {model}"));
    format!("{amount} per {}{of_model}", limit.per.as_str())
}

/// Dollars with at least two places: `$0.50`, `$0.000123`.
fn dollars(MicroUsd(micros): MicroUsd) -> String {
    let text = MicroUsd(micros).to_string();
    let (whole, places) = text.split_once('.').unwrap_or((&text, ""));
    let places = places.trim_end_matches('0');
    format!("${whole}.{places:0<2}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;
    use crate::plan::Per;

    fn sources() -> Sources {
        let env = [
            ("JWT_SECRET", "f3kP0s9ZQm1xT7vB2nR8cJ5wL4hD6gYa"),
            ("OPENAI_API_KEY", "sk-canary"),
        ];
        Sources {
            file: None,
            env: env
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            directory: std::path::PathBuf::from("/nowhere-at-all"),
        }
    }

    #[test]
    fn the_report_tells_plans_limits_and_warnings_and_no_secret() {
        let secrets = ["f3kP0s9ZQm1xT7vB2nR8cJ5wL4hD6gYa", "sk-canary"];
        let variables = [
            ("JWT_SECRET", secrets[0]),
            ("OPENAI_API_KEY", secrets[1]),
            ("OPENAI_BASE_URL", "http://llm.internal/v1"),
        ];
        let env = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let sources = Sources {
            env: env.into(),
            ..sources()
        };
        let now = Timestamp::parse("2026-11-30T12:00:00Z").unwrap();
        let told = report(&Config::load(&sources).unwrap(), now);
        for words in [
            "✓ 0.0.0.0:8080 for apps",
            "✓ HS256 by JWT_SECRET",
            "up to $50.00 a day",
            "openai at http://llm.internal/v1 (compatible, with a key) for gpt-*, o*, chatgpt-*",
            "✓ the token, the local table, the default plan",
            "✓ free (default): gpt-6-luna, gpt-4o-mini, gpt-3.5-turbo, gpt-4.1-mini, gpt-4.1-nano, gpt-5-mini, gpt-5-nano",
            "10 requests per minute, 50 requests per day, $0.50 per month",
            "2 open at once",
            "! upstreams[0].base_url is plain http",
        ] {
            assert!(told.contains(words), "{words} in:\n{told}");
        }
        assert!(!secrets.iter().any(|secret| told.contains(secret)));
    }

    #[test]
    fn limits_that_credits_do_not_lift_are_told() {
        let of = |limits: &[(Per, Unit, i64)]| {
            let limits = limits.iter().map(|(per, unit, amount)| Limit {
                per: *per,
                unit: *unit,
                amount: *amount,
                model: None,
            });
            let mut plan = Plan::clone(&Config::load(&sources()).unwrap().plans.default);
            plan.limits = limits.collect();
            stops_who_paid(&plan)
        };
        let dollars = (Per::Month, Unit::CostUsd, 500_000);
        let told = of(&[
            dollars,
            (Per::Day, Unit::Requests, 50),
            (Per::Lifetime, Unit::Tokens, 9),
            (Per::Hour, Unit::Requests, 5),
        ])
        .unwrap();
        assert!(
            told.starts_with(
                "free: credits do not lift 50 requests per day, 9 tokens per lifetime:"
            ),
            "{told}"
        );
        assert_eq!(of(&[dollars, (Per::Hour, Unit::Requests, 5)]), None);
        assert_eq!(
            of(&[(Per::Day, Unit::Requests, 50)]),
            None,
            "no credits pay"
        );
    }

    #[test]
    fn dollars_have_at_least_two_places() {
        for (micros, text) in [
            (500_000, "$0.50"),
            (123, "$0.000123"),
            (50_000_000, "$50.00"),
        ] {
            assert_eq!(dollars(MicroUsd(micros)), text);
        }
    }
}
