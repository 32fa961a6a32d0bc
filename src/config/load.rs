//! From what was said to a [`Config`]: one function a section, and the checks between them.

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::filter::LevelFilter;

use super::findings::{Complaint, Findings, Noted, complaint};
use super::reader::Section;
use super::secrets::bare;
use super::source::{Gathered, SECTIONS, empty, from_variables, gather};
use super::tree::{Node, Value};
use super::{
    Auth, Config, ConfigErrors, DemoUpstream, Directory, Fingerprints, LogFormat, OnDisconnect, Proxy, Server, Sources,
    Store, StoreUrl, Telemetry, Via,
};
use super::{plans, secrets, source, upstreams, urls};
use crate::price::MicroUsd;

/// Shorter tokens of the operator are warned about.
const ADMIN_TOKEN_BYTES: usize = 16;
/// The longest of most waits.
const HOUR: Duration = Duration::from_hours(1);
/// The longest that all of an answer may take.
const DAY: Duration = Duration::from_hours(24);
/// A day, at its longest, and another: the window of a day can always be summed up again from the log.
pub(crate) const KEEP_REQUESTS_MIN: Duration = Duration::from_hours(24 * 2);

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
    /// made up for this process, and the ledger is its own, so that a demo never stands in the real one.
    ///
    /// Without `upstream` it is OpenAI, and the key is needed.
    ///
    /// # Errors
    /// As [`Config::load`]; also when the machine has no random numbers.
    pub fn for_demo((bind, admin_bind): (&str, &str), upstream: &DemoUpstream) -> Result<Self, ConfigErrors> {
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
            set("TOLLGATE_PRICES", &format!("{{ {model:?} = {{ free = true }} }}"));
        }
        let gathered = from_variables(&env, &findings);
        let config = config(&gathered, &Sources::default(), &findings);
        finish(config, findings)
    }
}

/// Where the ledger is, if that is certain though other settings are wrong.
pub(super) fn ledger(sources: &Sources) -> Option<StoreUrl> {
    let findings = Findings::default();
    let gathered = source::readable(sources, "store", &findings)?;
    let nothing = empty();
    let node = gathered.root.at(&["store"]).unwrap_or(&nothing);
    let section = Section::of("store".to_owned(), node, &findings).ok()?;
    store(&section, &sources.directory).ok().map(|store| store.url)
}

fn finish(config: Result<Config, Noted>, findings: Findings) -> Result<Config, ConfigErrors> {
    let warnings = findings.finish()?;
    // Whoever says `Noted` has noted an error, so this is never reached without an error above.
    let mut config = config.map_err(|Noted| ConfigErrors(Vec::new()))?;
    config.warnings = warnings;
    Ok(config)
}

/// 48 random bytes in base64.
fn random_secret(findings: &Findings) -> String {
    use base64::Engine as _;
    let mut bytes = [0_u8; 48];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        let what = complaint("cannot be made up: this machine gives no random numbers", "set JWT_SECRET and use serve");
        findings.error("auth.jwt_secret", "the demo", what);
    }
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Reads every source; what is wrong is in the findings.
pub(super) fn read(sources: &Sources, findings: &Findings) -> Result<Config, Noted> {
    config(&gather(sources, findings)?, sources, findings)
}

fn config(gathered: &Gathered, sources: &Sources, findings: &Findings) -> Result<Config, Noted> {
    let root = Section::of(String::new(), &gathered.root, findings)?;
    for section in SECTIONS {
        root.get(section);
    }
    root.finish();
    let nothing = empty();
    let section = |name| match root.get(name) {
        Some(node) => Section::of(root.path_of(name), node, findings),
        None => Section::of(root.path_of(name), &nothing, findings),
    };
    let server = section("server").and_then(|section| server(&section));
    let auth = section("auth").and_then(|section| auth(&section, gathered));
    let store = section("store").and_then(|section| store(&section, &sources.directory));
    let directory_section = section("directory");
    let directory = directory_section.as_ref().map_err(|Noted| Noted).and_then(directory);
    let proxy = section("proxy").and_then(|section| proxy(&section));
    let ceiling = section("ceiling").and_then(|section| ceiling(&section));
    let telemetry = section("telemetry").and_then(|section| telemetry(&section));
    let prices = section("prices").and_then(|section| plans::prices(&section));
    let upstreams = upstreams::upstreams(&root, gathered);
    let plans = section("plans").and_then(|section| {
        plans::plans(&section, &plans::Served { prices: prices.as_ref().ok(), upstreams: upstreams.as_deref().ok() })
    });
    gathered.refuse_strays(findings);
    let (auth, store, prices, upstreams) = (auth?, store?, prices?, upstreams?);
    let config = Config {
        server: server?,
        directory: directory?.with_via(&directory_section?, &auth, &store)?,
        auth,
        store,
        proxy: proxy?,
        ceiling: ceiling?,
        telemetry: telemetry?,
        fingerprints: Fingerprints::of(gathered),
        models: plans::models_at(&prices, &upstreams),
        upstreams,
        plans: plans?,
        prices,
        file: gathered.file.clone(),
        warnings: Vec::new(),
    };
    check_anonymous_plan(&config, &section("auth")?);
    check_sessions_can_be(&config, &section("auth")?);
    Ok(config)
}

/// Somebody must be there who knows whether a session is alive.
fn check_sessions_can_be(config: &Config, section: &Section<'_>) {
    if config.auth.check_session && matches!(config.directory.via, Via::None) {
        let fix = "set DATABASE_URL, or SUPABASE_URL and SUPABASE_SERVICE_KEY; or write check_session = false";
        section.wrong("check_session", complaint("asks for sessions, and there is no database to ask", fix));
    }
}

/// An anonymous user's plan must be one that there is.
fn check_anonymous_plan(config: &Config, section: &Section<'_>) {
    if let Some(name) = &config.auth.anonymous_plan
        && !config.plans.by_name.contains_key(name)
    {
        let fix = format!("name one of: {}", plans::names(&config.plans));
        section.wrong("anonymous_plan", complaint(format!("names the plan `{name}`, which there is not"), fix));
    }
}

fn seconds(range: RangeInclusive<u64>) -> RangeInclusive<Duration> {
    Duration::from_secs(*range.start())..=Duration::from_secs(*range.end())
}

fn millis_to(least: u64, most: Duration) -> RangeInclusive<Duration> {
    Duration::from_millis(least)..=most
}

/// Where the operator's listener listens if nobody says otherwise.
const ADMIN_BIND: &str = "127.0.0.1:9090";

fn server(section: &Section<'_>) -> Result<Server, Noted> {
    let bind = section.parsed("bind", "0.0.0.0:8080", urls::listener);
    let admin_bind = section.parsed("admin_bind", ADMIN_BIND, |text| match text {
        "" => Ok(None),
        _ => urls::listener(text).map(Some),
    });
    let admin_token = section.secret("admin_token");
    let cors_origins = section.texts("cors_origins");
    let time_zone = section.parsed("time_zone", "UTC", time_zone);
    let body_bytes_max = section.size("body_bytes_max", 1 << 10..=256 << 20);
    // hyper takes no smaller buffer than 8 KiB.
    let header_bytes_max = section.size("header_bytes_max", 8 << 10..=1 << 20);
    let header_timeout = section.duration("header_timeout", millis_to(100, HOUR));
    let body_timeout = section.duration("body_timeout", millis_to(100, HOUR));
    let keep_alive = section.duration("keep_alive", millis_to(100, HOUR));
    let open_requests_max = section.integer("open_requests_max", 1..=1_000_000);
    let shutdown_delay = section.duration("shutdown_delay", millis_to(0, HOUR));
    let shutdown_grace = section.duration("shutdown_grace", millis_to(0, HOUR));
    let log_format = section.parsed("log_format", "auto", log_format);
    let log_level = section.parsed("log_level", "info", log_level);
    section.finish();
    let cors_origins = cors_origins.and_then(|origins| {
        section.note("cors_origins", origins.iter().try_for_each(|text| urls::origin(text)).map(|()| origins))
    });
    let (admin_bind, admin_token) = (admin_bind?, admin_token?);
    // Whoever starts from the example file has chosen nothing by it.
    let admin_bind_is_default = admin_bind.as_deref() == Some(ADMIN_BIND);
    let admin_unguarded = admin_is_guarded(admin_bind.as_deref(), admin_token.as_ref())
        .err()
        .map(|what| section.says("admin_bind", what));
    if admin_token.as_ref().is_some_and(|token| token.expose_secret().len() < ADMIN_TOKEN_BYTES) {
        let key = section.path_of("admin_token");
        section.findings.warn(format!("{key} is short enough to be guessed: make one with openssl rand -base64 32"));
    }
    Ok(Server {
        bind: bind?,
        admin_bind,
        admin_bind_is_default,
        admin_unguarded,
        admin_token,
        cors_origins: cors_origins?,
        time_zone: time_zone?,
        body_bytes_max: body_bytes_max?,
        header_bytes_max: header_bytes_max?,
        header_timeout: header_timeout?,
        body_timeout: body_timeout?,
        keep_alive: keep_alive?,
        open_requests_max: open_requests_max?,
        shutdown_delay: shutdown_delay?,
        shutdown_grace: shutdown_grace?,
        log_format: log_format?,
        log_level: log_level?,
    })
}

fn admin_is_guarded(bind: Option<&str>, token: Option<&SecretString>) -> Result<(), Complaint> {
    let is_open = bind.and_then(urls::host_of).is_some_and(|host| !urls::is_loopback(host));
    if is_open && token.is_none() {
        let fix = "set TOLLGATE_ADMIN_TOKEN, make a token with `tollgate admin-token create`, or bind it to this machine: \
                   admin_bind = \"127.0.0.1:9090\"";
        return Err(complaint("opens the admin listener to the network without a token", fix));
    }
    Ok(())
}

fn time_zone(text: &str) -> Result<jiff::tz::TimeZone, Complaint> {
    let unknown = |_| {
        complaint(format!("`{text}` is not a time zone"), "write its IANA name, such as \"Europe/Paris\" or \"UTC\"")
    };
    jiff::tz::TimeZone::get(text).map_err(unknown)
}

fn log_format(text: &str) -> Result<LogFormat, Complaint> {
    choice(text, &[("auto", LogFormat::Auto), ("pretty", LogFormat::Pretty), ("json", LogFormat::Json)])
}

fn log_level(text: &str) -> Result<String, Complaint> {
    let fix = "write error, warn, info, debug or trace, or directives such as \"info,tollgate=debug\"";
    // A word alone would be a target of which all is written, and of the rest nothing: what a misspelt level would be.
    let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
    let is_target = |name: &str| !name.is_empty() && !name.contains(|letter: char| "[]{}".contains(letter));
    let directive = |part: &str| match part.split_once('=').map(|(target, level)| (target.trim(), level.trim())) {
        None => is_level(part.trim()).then(|| part.trim().to_owned()),
        Some((target, level)) => (is_target(target) && is_level(level)).then(|| format!("{target}={level}")),
    };
    let directives: Option<Vec<String>> = text.split(',').map(directive).collect();
    directives.map(|read| read.join(",")).ok_or_else(|| complaint(format!("`{text}` is not a log level"), fix))
}

/// One of a few words.
pub(super) fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, Complaint> {
    let chosen = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    chosen.ok_or_else(|| {
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        complaint(format!("`{text}` is not one of the choices"), format!("choose {}", words.join(" or ")))
    })
}

fn auth(section: &Section<'_>, gathered: &Gathered) -> Result<Auth, Noted> {
    const PROJECT: &str = "https://<project>.supabase.co";
    let url = section.maybe("supabase_url", PROJECT, supabase_url);
    let jwt_secret = section.secret("jwt_secret");
    let previous = section.secret("jwt_secret_previous");
    let issuer = section.maybe("issuer", "https://<project>.supabase.co/auth/v1", |text| Ok(text.to_owned()));
    let plan_claim = section.parsed("plan_claim", "app_metadata.plan", plan_claim);
    let anonymous_plan = section.maybe("anonymous_plan", "free", |text| Ok(text.to_owned()));
    let check_session = section.flag("check_session");
    section.finish();
    let (url, jwt_secret, jwt_secret_previous) = (url?, jwt_secret?, previous?);
    let is_local = url.as_ref().is_some_and(urls::Address::is_loopback);
    if let Some(address) = url.as_ref().filter(|address| !address.is_https && !urls::is_loopback(&address.host)) {
        let key = section.path_of("supabase_url");
        let what = "whoever is on the network between can put keys of their own in place of those that verify tokens";
        section.findings.warn(format!("{key} is plain http to `{}`: {what}", address.host));
    }
    for (key, secret) in [("jwt_secret", &jwt_secret), ("jwt_secret_previous", &jwt_secret_previous)] {
        if let Some(secret) = secret {
            section.note(key, secrets::jwt_secret(secret.expose_secret(), is_local))?;
        }
    }
    if url.is_none() && jwt_secret.is_none() {
        let fix = format!(
            "set SUPABASE_URL ({PROJECT}), or JWT_SECRET for HS256 tokens, or both; to look around without: tollgate demo"
        );
        let what = complaint("is missing, and so is auth.jwt_secret: nothing could verify a token", fix);
        return Err(section.findings.error("auth.supabase_url", &gathered.place, what));
    }
    let supabase_url = url.map(|address| address.text);
    let default_issuer = supabase_url.as_ref().map(|url| format!("{url}/auth/v1"));
    Ok(Auth {
        supabase_url,
        jwt_secret,
        jwt_secret_previous,
        issuer: issuer?.or(default_issuer).unwrap_or_default(),
        plan_claim: plan_claim?,
        anonymous_plan: anonymous_plan?,
        check_session: check_session?,
    })
}

fn supabase_url(text: &str) -> Result<urls::Address, Complaint> {
    if is_placeholder(text) {
        let fix = "copy the project's own URL from the Supabase dashboard (Settings, Data API)";
        return Err(complaint("is still the placeholder of an example", fix));
    }
    let address = urls::address(text, "https://<project>.supabase.co")?;
    if !address.path.is_empty() {
        let fix = "leave the path out: https://<project>.supabase.co (/auth/v1 is added where it belongs)";
        return Err(complaint("has a path", fix));
    }
    if !address.is_https && !address.is_private() {
        let fix = "write https://; http:// is only for a Supabase on this machine or a private network (localhost, \
                   10.…, 192.168.…, a name without dots such as kong; from a container host.docker.internal)";
        return Err(complaint("would fetch the keys that verify tokens over plain http", fix));
    }
    Ok(address)
}

/// `https://your-project.supabase.co` and its like: what stands in examples for the reference of a project.
fn is_placeholder(url: &str) -> bool {
    const EXAMPLES: [&str; 8] = [
        "yourproject",
        "yourprojectref",
        "yourprojectid",
        "yourprojecturl",
        "yoursupabaseproject",
        "projectref",
        "projectid",
        "xyzcompany",
    ];
    let host = url.trim().trim_start_matches("https://").trim_start_matches("http://");
    let Some((project, _)) = host.split_once(".supabase.co") else { return false };
    let in_brackets = project.contains(['<', '[', '{', '$']);
    let plain: String = project.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let crossed_out = plain.len() > 2 && plain.chars().all(|letter| letter == 'x');
    in_brackets || crossed_out || EXAMPLES.contains(&plain.as_str())
}

fn plan_claim(text: &str) -> Result<Vec<String>, Complaint> {
    let path: Vec<String> = text.split('.').map(str::to_owned).collect();
    if path.iter().any(String::is_empty) {
        return Err(complaint(format!("`{text}` is not a path of claims"), "write it like \"app_metadata.plan\""));
    }
    if path.first().is_some_and(|first| first == "user_metadata") {
        let fix = "use app_metadata, which only the server can write";
        return Err(complaint("trusts user_metadata, which users write themselves", fix));
    }
    Ok(path)
}

fn store(section: &Section<'_>, directory: &Path) -> Result<Store, Noted> {
    let url = section.maybe("url", "sqlite:data/tollgate.db", |text| store_url(text, directory));
    let lease = section.duration("lease", seconds(5..=3600));
    let keep_requests = section.duration("keep_requests", KEEP_REQUESTS_MIN..=DAY.saturating_mul(3660));
    section.finish();
    let url = url?.unwrap_or_else(|| StoreUrl::Sqlite(directory.join("data/tollgate.db")));
    Ok(Store { url, lease: lease?, keep_requests: keep_requests? })
}

fn store_url(text: &str, directory: &Path) -> Result<StoreUrl, Complaint> {
    const FIX: &str =
        "write \"sqlite:data/tollgate.db\" or \"postgres://user:password@host/database\", or take it out for the first";
    bare(text)?;
    // `jdbc:postgresql://`, `postgresql+asyncpg://` and their like are told what Postgres is called here.
    if text.split("//").next().is_some_and(|scheme| scheme.contains("postgres")) {
        return postgres_url(text).map(StoreUrl::Postgres);
    }
    let Some(path) = text.strip_prefix("sqlite:") else { return Err(complaint("is not the URL of a ledger", FIX)) };
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() || path.contains(":memory:") || path.contains(['?', '\0']) {
        return Err(complaint("does not name a file: the ledger must survive a restart", FIX));
    }
    Ok(StoreUrl::Sqlite(directory.join(path)))
}

fn postgres_url(text: &str) -> Result<SecretString, Complaint> {
    bare(text)?;
    let url = SecretString::from(text);
    crate::pg::check_url(&url).map_err(|fault| complaint(fault.problem, fault.fix))?;
    Ok(url)
}

/// `[directory]` as it is written, before it is known what else is.
struct WrittenDirectory {
    directory: Directory,
    via: Option<Wanted>,
    database_url: Option<SecretString>,
    service_key: Option<SecretString>,
}

/// The words of `[directory] via`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    None,
    Rest,
    Postgres,
}

fn directory(section: &Section<'_>) -> Result<WrittenDirectory, Noted> {
    let via = section.maybe("via", "rest", |text| {
        choice(text, &[("none", Wanted::None), ("rest", Wanted::Rest), ("postgres", Wanted::Postgres)])
    });
    let database_url = section.maybe("database_url", "postgres://user:password@host:5432/database", postgres_url);
    let service_key = section.maybe("supabase_service_key", "sb_secret_…", secrets::service_key);
    let plan_cache = section.duration("plan_cache", millis_to(0, HOUR));
    let plan_stale = section.duration("plan_stale", millis_to(0, DAY.saturating_mul(7)));
    section.finish();
    let (plan_cache, plan_stale) = (plan_cache?, plan_stale?);
    if plan_stale < plan_cache {
        let fix = "choose a value of at least plan_cache";
        section.wrong("plan_stale", complaint("is shorter than plan_cache", fix));
    }
    let directory = Directory { via: Via::None, plan_cache, plan_stale };
    Ok(WrittenDirectory { directory, via: via?, database_url: database_url?, service_key: service_key? })
}

impl WrittenDirectory {
    /// How the database is reached: as `via` says, or else by what there is.
    fn with_via(self, section: &Section<'_>, auth: &Auth, store: &Store) -> Result<Directory, Noted> {
        let rest = auth.supabase_url.clone().zip(self.service_key);
        let rest = rest.map(|(supabase_url, service_key)| Via::Rest { supabase_url, service_key });
        let postgres = self.database_url.map(Via::Postgres);
        let missing = |what: &str, fix: &str| section.wrong("via", complaint(what, fix));
        let via = match self.via {
            None => postgres.or(rest).unwrap_or(Via::None),
            Some(Wanted::None) => Via::None,
            Some(Wanted::Rest) => rest.ok_or_else(|| {
                missing("is \"rest\", for which something is missing", "set SUPABASE_URL and SUPABASE_SERVICE_KEY")
            })?,
            Some(Wanted::Postgres) => postgres
                .or_else(|| store.url.as_postgres())
                .ok_or_else(|| missing("is \"postgres\", but no Postgres is named", "set DATABASE_URL=postgres://…"))?,
        };
        Ok(Directory { via, ..self.directory })
    }
}

impl StoreUrl {
    fn as_postgres(&self) -> Option<Via> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(url) => Some(Via::Postgres(url.clone())),
        }
    }
}

fn proxy(section: &Section<'_>) -> Result<Proxy, Noted> {
    let on_disconnect = section.parsed("on_disconnect", "drain", |text| {
        choice(text, &[("drain", OnDisconnect::Drain), ("abort", OnDisconnect::Abort)])
    });
    let drain_timeout = section.duration("drain_timeout", millis_to(0, HOUR));
    let connect_timeout = section.duration("connect_timeout", millis_to(10, HOUR));
    let first_byte_timeout = section.duration("first_byte_timeout", millis_to(10, HOUR));
    let idle_timeout = section.duration("idle_timeout", millis_to(10, HOUR));
    let total_timeout = section.duration("total_timeout", millis_to(100, DAY));
    let min_output_tokens = section.integer("min_output_tokens", 1..=plans::TOKENS_MAX);
    section.finish();
    Ok(Proxy {
        on_disconnect: on_disconnect?,
        drain_timeout: drain_timeout?,
        connect_timeout: connect_timeout?,
        first_byte_timeout: first_byte_timeout?,
        idle_timeout: idle_timeout?,
        total_timeout: total_timeout?,
        min_output_tokens: min_output_tokens?,
    })
}

fn ceiling(section: &Section<'_>) -> Result<Option<MicroUsd>, Noted> {
    let ceiling = section.maybe("cost_usd_per_day", "50", |text| match text {
        "none" => Ok(None),
        _ => dollars(text).map(Some),
    });
    section.finish();
    Ok(ceiling?.flatten())
}

fn telemetry(section: &Section<'_>) -> Result<Telemetry, Noted> {
    const EXAMPLE: &str = "http://127.0.0.1:4318";
    let endpoint = section.maybe("otlp_endpoint", EXAMPLE, |text| urls::address(text, EXAMPLE));
    section.finish();
    let endpoint = endpoint?;
    if endpoint.as_ref().is_some_and(|address| !address.is_https && !address.is_loopback()) {
        let key = section.path_of("otlp_endpoint");
        section.findings.warn(format!("{key} is plain http: what is traced crosses the network readable"));
    }
    Ok(Telemetry { otlp_endpoint: endpoint.map(|address| address.text) })
}

/// Reads US dollars, more than nothing.
pub(super) fn dollars(text: &str) -> Result<MicroUsd, Complaint> {
    const FIX: &str = "write US dollars in quotes, such as \"0.50\"";
    match MicroUsd::parse(text) {
        Ok(MicroUsd(0)) => Err(complaint("is nothing", FIX)),
        Ok(amount) => Ok(amount),
        Err(_) => Err(complaint(format!("`{text}` is not an amount of up to a billion dollars"), FIX)),
    }
}

/// The text of a node, if it is one.
pub(super) fn text_of(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Text(text) | Value::Raw(text) => Some(text),
        _ => None,
    }
}
