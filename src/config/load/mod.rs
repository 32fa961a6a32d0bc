//! From the raw settings to a [`Config`]: one file a section, and here the checks between them.

mod answers;
mod attest;
mod auth;
mod directory;
mod issuers;
mod proxy;
mod server;
mod store;
mod telemetry;
mod webhooks;

use std::sync::Arc;

use secrecy::ExposeSecret;

use super::findings::{Findings, Invalid, Problem};
use super::models::{self, ServedModels};
use super::names::SECTIONS;
use super::reader::Section;
use super::source::{self, RawSettings, empty, from_variables, gather};
use super::values::dollars;
use super::{Config, ConfigErrors, DemoUpstream, Fingerprints, Sources};
use super::{plans, prices, products, prompts, upstreams};
use crate::plan::Products;
use crate::price::MicroUsd;

pub use answers::AnswerLimits;
pub use attest::{AppAttest, AppCheck, Attest, AttestMode};
pub use auth::Auth;
pub use directory::{DirectoryConfig, Via};
pub(crate) use issuers::is_users_own;
pub use issuers::{IssuerConfig, IssuerPreset};
pub use proxy::{OnDisconnect, Proxy};
pub use server::{LogFormat, Server};
pub(crate) use store::KEEP_REQUESTS_MIN;
pub use store::{Store, StoreUrl};
pub use telemetry::TelemetryConfig;
pub(crate) use webhooks::webhook_key;
pub use webhooks::{AppStore, RotatingSecret, Webhooks};

impl Config {
    /// Reads and checks every source.
    ///
    /// # Errors
    /// Everything that is wrong, each with its key, where it was said, and the fix.
    pub fn load(sources: &Sources) -> Result<Self, ConfigErrors> {
        let findings = Findings::default();
        let config = read(sources, &findings);
        finish(config, findings)
    }

    /// The settings of `tollgate demo`: no file and no variable of the operator's is read; a development secret is
    /// made for this process, and the demo has a ledger of its own.
    ///
    /// Without `upstream` it is OpenAI, and the key is needed.
    ///
    /// # Errors
    /// As [`Config::load`]; also when the machine has no random numbers.
    pub fn for_demo(
        (bind, admin_bind): (&str, &str),
        upstream: &DemoUpstream,
    ) -> Result<Self, ConfigErrors> {
        let findings = Findings::default();
        let mut env = std::collections::BTreeMap::new();
        let mut set = |name: &str, value: &str| drop(env.insert(name.to_owned(), value.to_owned()));
        set("TOLLGATE_SERVER__BIND", bind);
        set("TOLLGATE_SERVER__ADMIN_BIND", admin_bind);
        set("TOLLGATE_ADMIN_TOKEN", &random_secret(&findings));
        set("TOLLGATE_STORE__URL", "sqlite:data/demo.db");
        set("JWT_SECRET", &random_secret(&findings));
        if let Some(url) = &upstream.url {
            set("OPENAI_BASE_URL", url);
            set("TOLLGATE_UPSTREAMS__0__DIALECT", "compatible");
        }
        if let Some(key) = &upstream.api_key {
            set("OPENAI_API_KEY", key.expose_secret());
        }
        if let Some(model) = &upstream.model {
            set("TOLLGATE_UPSTREAMS__0__MODELS", &format!("[{model:?}]"));
            set("TOLLGATE_PLANS__FREE__MODELS", &format!("[{model:?}]"));
            set(
                "TOLLGATE_PRICES",
                &format!("{{ {model:?} = {{ free = true }} }}"),
            );
        }
        let raw = from_variables(&env, &findings);
        let config = config(&raw, &Sources::default(), &findings);
        let mut config = finish(config, findings)?;
        if upstream.model.is_none() {
            let plans = &mut config.plans;
            for plan in plans.by_name.values_mut().chain([&mut plans.default]) {
                let models = &mut Arc::make_mut(plan).models;
                models.push("text-embedding-3-small".to_owned());
            }
        }
        Ok(config)
    }
}

/// Where the ledger is, if that is certain even though other settings have errors.
pub(super) fn ledger(sources: &Sources) -> Option<StoreUrl> {
    let findings = Findings::default();
    let raw = source::readable(sources, "store", &findings)?;
    let nothing = empty();
    let node = raw.root.at(&["store"]).unwrap_or(&nothing);
    let section = Section::of("store".to_owned(), node, &findings).ok()?;
    store::store(&section, &sources.directory)
        .ok()
        .map(|store| store.url)
}

fn finish(config: Result<Config, Invalid>, findings: Findings) -> Result<Config, ConfigErrors> {
    let warnings = findings.finish()?;
    // `Invalid` means that there is an error in the findings, so the line above has returned it.
    let mut config = config.map_err(|Invalid| ConfigErrors(Vec::new()))?;
    config.warnings = warnings;
    Ok(config)
}

/// 48 random bytes in base64.
fn random_secret(findings: &Findings) -> String {
    use base64::Engine as _;
    let mut bytes = [0_u8; 48];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        let what = Problem::new(
            "cannot be made up: this machine gives no random numbers",
            "set JWT_SECRET and use serve",
        );
        findings.error("auth.jwt_secret", "the demo", what);
    }
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Reads every source. Errors go into the findings.
pub(super) fn read(sources: &Sources, findings: &Findings) -> Result<Config, Invalid> {
    config(&gather(sources, findings)?, sources, findings)
}

fn config(raw: &RawSettings, sources: &Sources, findings: &Findings) -> Result<Config, Invalid> {
    let root = Section::of(String::new(), &raw.root, findings)?;
    for section in SECTIONS {
        root.get(section);
    }
    root.finish();
    let nothing = empty();
    let section = |name| match root.get(name) {
        Some(node) => Section::of(root.path_of(name), node, findings),
        None => Section::of(root.path_of(name), &nothing, findings),
    };
    let server = section("server").and_then(|section| server::server(&section));
    let auth = section("auth").and_then(|section| auth::auth(&section, raw));
    let store = section("store").and_then(|section| store::store(&section, &sources.directory));
    let directory_section = section("directory");
    let directory = directory_section
        .as_ref()
        .map_err(|Invalid| Invalid)
        .and_then(directory::directory);
    let proxy = section("proxy").and_then(|section| proxy::proxy(&section));
    let answers = section("answers").and_then(|section| answers::answers(&section));
    let attest = section("attest").and_then(|section| attest::attest(&section));
    let ceiling = section("ceiling").and_then(|section| ceiling(&section));
    let telemetry = section("telemetry").and_then(|section| telemetry::telemetry(&section));
    let prices = section("prices").and_then(|section| prices::prices(&section, &raw.root));
    let upstreams = upstreams::upstreams(&root, raw);
    let mut known = ServedModels {
        prices: prices.as_ref().ok(),
        upstreams: upstreams.as_deref().ok(),
        aliases: None,
    };
    let aliases = section("models").and_then(|section| models::models(&section, &known));
    known.aliases = aliases.as_ref().ok();
    let plans = section("plans").and_then(|section| plans::plans(&section, &known));
    let prompts = section("prompts")
        .and_then(|section| prompts::prompts(&section, &known, plans.as_ref().ok()));
    let ranks = section("plans").and_then(|section| plans::ranks(&section));
    let products = section("products").and_then(|section| {
        let ranks = ranks.unwrap_or_default();
        products::products(&section, plans.as_ref().ok(), &ranks)
    });
    let sandbox_plan = section("webhooks")
        .and_then(|section| webhooks::sandbox_plan(&section, plans.as_ref().ok()));
    let webhooks = section("webhooks").and_then(|section| webhooks::webhooks(&section, raw));
    raw.refuse_unknown_variables(findings);
    let (auth, store, prices, upstreams) = (auth?, store?, prices?, upstreams?);
    let config = Config {
        server: server?,
        directory: directory?.with_via(&directory_section?, &auth, &store)?,
        auth,
        store,
        proxy: proxy?,
        answers: answers?,
        attest: attest?,
        ceiling: ceiling?,
        telemetry: telemetry?,
        fingerprints: Fingerprints::of(raw),
        models: models::table(&prices, &upstreams, aliases?),
        moderator: models::moderator(&prices, &upstreams),
        upstreams,
        plans: plans?,
        products: Products {
            sandbox_plan: sandbox_plan?,
            ..products?
        },
        webhooks: webhooks?,
        prompts: prompts?,
        prices,
        file: raw.file.clone(),
        warnings: Vec::new(),
    };
    check_anonymous_plan(&config, &section("auth")?);
    check_sessions_can_be(&config, &section("auth")?);
    Ok(config)
}

/// `check_session` needs a database that knows the sessions.
fn check_sessions_can_be(config: &Config, section: &Section<'_>) {
    if config.auth.check_session && matches!(config.directory.via, Via::None) {
        let fix = "set DATABASE_URL, or SUPABASE_URL and SUPABASE_SERVICE_KEY; or write check_session = false";
        section.wrong(
            "check_session",
            Problem::new("asks for sessions, and there is no database to ask", fix),
        );
    }
}

/// The plan of anonymous users must exist.
fn check_anonymous_plan(config: &Config, section: &Section<'_>) {
    if let Some(name) = &config.auth.anonymous_plan
        && !config.plans.by_name.contains_key(name)
    {
        let fix = format!("name one of: {}", plans::names(&config.plans));
        section.wrong(
            "anonymous_plan",
            Problem::new(format!("names the plan `{name}`, which there is not"), fix),
        );
    }
}

fn ceiling(section: &Section<'_>) -> Result<Option<MicroUsd>, Invalid> {
    let ceiling = section.maybe("cost_usd_per_day", "50", |text| match text {
        "none" => Ok(None),
        _ => dollars(text).map(Some),
    });
    section.finish();
    Ok(ceiling?.flatten())
}
