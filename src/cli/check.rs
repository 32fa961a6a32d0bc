//! `tollgate check`: what the settings mean, in a page.

use std::fmt::Write as _;

use super::{Failure, print};
use crate::app::descriptors::Descriptors;
use crate::config::units::{show_duration, show_size};
use crate::config::{Config, Dialect, UpstreamConfig, Via};
use crate::plan::{Limit, Plan, Unit};
use crate::price::MicroUsd;

/// Check the settings, without connecting to anything
///
/// Prints what they mean: listeners, sign-in, ledger, upstreams, plans with their limits, and warnings. When something
/// is wrong it prints all of it: each with the key, where it stands, and the fix.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tollgate check --config staging.toml")]
pub(super) struct Args {}

/// Prints what the settings mean.
pub(super) fn run(config: &Config) -> Result<(), Failure> {
    super::serve::guarded(config)?;
    Ok(print::line(report(config).trim_end())?)
}

fn report(config: &Config) -> String {
    let mut page = Page::default();
    let from = config.file.as_ref().map_or_else(|| "no file".to_owned(), |path| path.display().to_string());
    page.title(&format!("The settings are good ({from}, .env and the environment over the defaults)"));
    listeners(&mut page, config);
    sign_in(&mut page, config);
    ledger(&mut page, config);
    directory(&mut page, config);
    page.title("Upstreams, the first that lists a model serves it");
    config.upstreams.iter().for_each(|upstream| page.tick(&upstream_line(upstream)));
    page.title("Plans");
    for plan in config.plans.by_name.values() {
        plan_lines(&mut page, plan, plan.name == config.plans.default.name);
    }
    if !config.warnings.is_empty() {
        page.title("Warnings");
        config.warnings.iter().for_each(|warning| page.warning(warning));
    }
    page.0
}

/// Titles, and lines with a mark.
#[derive(Default)]
struct Page(String);

impl Page {
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

fn listeners(page: &mut Page, config: &Config) {
    let server = &config.server;
    page.title("Listeners");
    page.tick(&format!("{} for apps", server.bind));
    let bounds = [
        format!("bodies up to {} within {}", show_size(server.body_bytes_max), show_duration(server.body_timeout)),
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

fn sign_in(page: &mut Page, config: &Config) {
    let auth = &config.auth;
    page.title("Sign-in");
    if let Some(url) = &auth.supabase_url {
        page.tick(&format!("the keys of {url}"));
    }
    if auth.jwt_secret.is_some() {
        let rotating = if auth.jwt_secret_previous.is_some() { ", and by the one before it" } else { "" };
        page.tick(&format!("HS256 by JWT_SECRET{rotating}"));
    }
    let issuer = if auth.issuer.is_empty() { "anybody" } else { &auth.issuer };
    page.more(&format!("issued by {issuer}; the plan is in {}", auth.plan_claim.join(".")));
    match &auth.anonymous_plan {
        Some(plan) => page.more(&format!("anonymous users have the plan {plan}")),
        None => page.more("anonymous users are refused"),
    }
}

fn ledger(page: &mut Page, config: &Config) {
    let store = &config.store;
    page.title("Ledger");
    page.tick(&format!("{}, requests kept for {}", store.url, show_duration(store.keep_requests)));
    match config.ceiling {
        Some(ceiling) => page.tick(&format!("everybody together up to {} a day", dollars(ceiling))),
        None => page.warning("everybody together up to any sum: there is no [ceiling]"),
    }
}

fn directory(page: &mut Page, config: &Config) {
    let directory = &config.directory;
    page.title("Plans come from");
    match &directory.via {
        Via::None => page.tick("the token, the local table, the default plan"),
        Via::Rest { supabase_url, .. } => page.tick(&format!("your database, over the REST API of {supabase_url}")),
        Via::Postgres(_) => page.tick("your database, over Postgres"),
    }
    if !matches!(directory.via, Via::None) {
        let (fresh, stale) = (show_duration(directory.plan_cache), show_duration(directory.plan_stale));
        page.more(&format!("asked again after {fresh}; while it is down, an answer serves for {stale}"));
        page.more("where it has no answer: the token, the local table, the default plan");
    }
}

fn upstream_line(upstream: &UpstreamConfig) -> String {
    let dialect = match upstream.manner.dialect {
        Dialect::Openai => "openai",
        Dialect::Compatible => "compatible",
    };
    let key = if upstream.api_key.is_some() { "with a key" } else { "without a key" };
    let UpstreamConfig { name, base_url, .. } = upstream;
    format!("{name} at {base_url} ({dialect}, {key}) for {}", upstream.models.join(", "))
}

fn plan_lines(page: &mut Page, plan: &Plan, is_default: bool) {
    let default = if is_default { " (default)" } else { "" };
    page.tick(&format!("{}{default}: {}", plan.name, plan.models.join(", ")));
    let mut limits: Vec<String> = plan.limits.iter().map(limit).collect();
    if limits.is_empty() {
        limits.push("no limits".to_owned());
    }
    page.more(&limits.join(", "));
    let mut caps = format!("answers up to {} tokens, prompts up to {}", plan.max_output_tokens, plan.max_input_tokens);
    if let Some(open) = plan.concurrent_requests {
        // Writing to a String cannot fail.
        write!(caps, ", {open} open at once").unwrap_or_default();
    }
    page.more(&caps);
}

fn limit(limit: &Limit) -> String {
    let amount = match limit.unit {
        Unit::Requests => format!("{} requests", limit.amount),
        Unit::Tokens => format!("{} tokens", limit.amount),
        Unit::CostUsd => dollars(MicroUsd(limit.amount)),
    };
    format!("{amount} per {}", limit.per.as_str())
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

    #[test]
    fn the_report_tells_plans_limits_and_warnings_and_no_secret() {
        let secrets = ["f3kP0s9ZQm1xT7vB2nR8cJ5wL4hD6gYa", "sk-canary"];
        let variables =
            [("JWT_SECRET", secrets[0]), ("OPENAI_API_KEY", secrets[1]), ("OPENAI_BASE_URL", "http://llm.internal/v1")];
        let env = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let sources = Sources { file: None, env, directory: std::path::PathBuf::from("/nowhere-at-all") };
        let told = report(&Config::load(&sources).unwrap());
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
    fn dollars_have_at_least_two_places() {
        for (micros, text) in [(500_000, "$0.50"), (123, "$0.000123"), (50_000_000, "$50.00")] {
            assert_eq!(dollars(MicroUsd(micros)), text);
        }
    }
}
