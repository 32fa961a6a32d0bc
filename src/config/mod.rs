//! All settings, read and checked once.
//!
//! Defaults, then `tollgate.toml`, then `.env`, then the environment; the later wins. Nothing else in the program
//! reads a file of settings or an environment variable. A [`Config`] that exists is valid.

mod changes;
mod dotenv;
mod findings;
pub(crate) mod load;
mod plans;
mod reader;
#[cfg(test)]
mod refused;
mod secrets;
mod source;
#[cfg(test)]
mod tests;
mod tree;
pub mod units;
mod upstreams;
pub(crate) mod urls;
mod way;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use secrecy::{ExposeSecret, SecretString};

pub use changes::Fingerprints;
pub use plans::limits_of_answer;

use crate::model::ModelTable;
use crate::plan::Plans;
use crate::price::{MicroUsd, PriceTable};

/// Every key with its default, in the words of people: what a new installation copies and edits.
pub const EXAMPLE: &str = include_str!("../../tollgate.example.toml");

/// Where settings come from. No `Debug`: the environment holds secrets.
#[derive(Clone, Default)]
pub struct Sources {
    /// `--config` or `TOLLGATE_CONFIG`: a file that must exist, or a folder for `tollgate.toml` and `.env`. Without it, they
    /// are looked for in `directory`.
    pub file: Option<PathBuf>,
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// The working directory; empty for the process's own.
    pub directory: PathBuf,
}

impl Sources {
    /// The process's environment and working directory. Variables that are not UTF-8 are left out.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    pub fn from_process(config_flag: Option<PathBuf>) -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let env: BTreeMap<_, _> = std::env::vars_os().filter_map(text).collect();
        let said = env.get(source::CONFIG_VARIABLE).filter(|path| !path.is_empty());
        Self { file: config_flag.or_else(|| said.map(PathBuf::from)), env, directory: PathBuf::new() }
    }

    /// The files that are read, whether they are there or not: `tollgate.toml`, or what is named in its place, and `.env`.
    /// A folder is looked into each time, so that an editor may put a new file in the place of the old one.
    #[must_use]
    pub fn files(&self) -> [PathBuf; 2] {
        let named = self.file.as_ref().map(|named| self.directory.join(named));
        match named {
            Some(folder) if folder.is_dir() => [folder.join(source::FILE), folder.join(source::DOT_ENV)],
            Some(file) => [file, self.directory.join(source::DOT_ENV)],
            None => [self.directory.join(source::FILE), self.directory.join(source::DOT_ENV)],
        }
    }
}

impl Sources {
    /// Where the server listens, from what can be read of the settings. For `tollgate health`: a server that keeps its old settings
    /// because the new ones are wrong is well.
    #[must_use]
    pub fn bind(&self) -> String {
        source::text_at(self, &["server", "bind"]).unwrap_or_else(|| "0.0.0.0:8080".to_owned())
    }

    /// Where the ledger is, if that is certain. For what must not wait until the settings are right again, such as
    /// `tollgate pause`.
    #[must_use]
    pub fn ledger(&self) -> Option<StoreUrl> {
        load::ledger(self)
    }
}

impl Sources {
    /// `OPENAI_API_KEY`, from the environment or else from `.env`, unless it is empty. For the demo, which reads no
    /// other setting.
    #[must_use]
    pub fn openai_api_key(&self) -> Option<SecretString> {
        source::lookup(self, "OPENAI_API_KEY").filter(|key| !key.is_empty()).map(SecretString::from)
    }
}

impl Sources {
    /// The project's key for apps, `SUPABASE_PUBLISHABLE_KEY` or `SUPABASE_ANON_KEY`, from the environment or `.env`.
    /// For `tollgate doctor`, which tries what can be done with it; the server has no use for it.
    #[must_use]
    pub fn supabase_anon_key(&self) -> Option<SecretString> {
        let names = ["SUPABASE_PUBLISHABLE_KEY", "SUPABASE_ANON_KEY"];
        let said = names.iter().filter_map(|name| source::lookup(self, name));
        said.into_iter().find(|key| !key.is_empty()).map(SecretString::from)
    }
}

/// The model of `tollgate demo`.
#[derive(Clone, Debug, Default)]
pub struct DemoUpstream {
    /// The base URL of a server that speaks `OpenAI`'s API; none for `OpenAI` itself.
    pub url: Option<String>,
    /// Its key, if it wants one.
    pub api_key: Option<SecretString>,
    /// The model to serve in place of the built-in plan's.
    pub model: Option<String>,
}

/// One thing that is wrong: which key, where it was said, what is wrong with it, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The dotted path of the key: `plans.free.limits[0].requests`.
    pub key: String,
    /// Where it was said: `tollgate.toml:12`, `the variable PORT`.
    pub place: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub fix: String,
}

/// Everything that is wrong with the settings; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

/// Everything that can be set. Made only by `load`, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[server]`
    pub server: Server,
    /// `[auth]`
    pub auth: Auth,
    /// `[store]`
    pub store: Store,
    /// `[directory]`
    pub directory: Directory,
    /// `[proxy]`
    pub proxy: Proxy,
    /// `[ceiling] cost_usd_per_day`: what the whole app may spend in a day.
    pub ceiling: Option<MicroUsd>,
    /// `[[upstreams]]`, in the order in which a model is looked for. Never empty.
    pub upstreams: Vec<Arc<UpstreamConfig>>,
    /// `[plans.*]`
    pub plans: Plans,
    /// The shipped price table with `[prices.*]` over it.
    pub prices: PriceTable,
    /// What else is known of models. Names that OpenAI shut down go on to their successors where OpenAI is asked.
    pub models: ModelTable,
    /// `[telemetry]`
    pub telemetry: Telemetry,
    /// What tells which settings another reading changed.
    pub fingerprints: Fingerprints,
    /// The file it came from, where there was one.
    pub file: Option<PathBuf>,
    /// What is odd, but not wrong; said at start and by `check`.
    pub warnings: Vec<String>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `Pretty` on a terminal, `Json` otherwise.
    Auto,
    /// For people.
    Pretty,
    /// One object a line.
    Json,
}

/// `[server]`
#[derive(Clone, Debug)]
pub struct Server {
    /// Where it listens, `host:port`.
    pub bind: String,
    /// Where the operator's listener listens; `None` for none.
    pub admin_bind: Option<String>,
    /// `admin_bind` is as it comes: where the address is taken, the server goes on without that listener.
    pub admin_bind_is_default: bool,
    /// The operator's listener is open to the network and there is no `admin_token`: what to say unless the ledger has a
    /// token that was made.
    pub admin_unguarded: Option<ConfigErrors>,
    /// What the operator's listener asks for.
    pub admin_token: Option<SecretString>,
    /// Origins that browsers may call from; `*` for all.
    pub cors_origins: Vec<String>,
    /// Where days and months begin.
    pub time_zone: TimeZone,
    /// The longest body of a request.
    pub body_bytes_max: usize,
    /// The longest head of a request.
    pub header_bytes_max: usize,
    /// How long a head may take.
    pub header_timeout: Duration,
    /// How long a connection may idle.
    pub keep_alive: Duration,
    /// How long a body may take.
    pub body_timeout: Duration,
    /// How many requests may be open at once.
    pub open_requests_max: usize,
    /// How long it goes on as before after SIGTERM, while readiness is red.
    pub shutdown_delay: Duration,
    /// How long open requests may go on after that.
    pub shutdown_grace: Duration,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which of them are written: a level, or directives such as `info,tollgate=debug`.
    pub log_level: String,
}

impl Server {
    /// Whether the operator's listener can be reached from this machine only.
    #[must_use]
    pub fn admin_is_local(&self) -> bool {
        self.admin_bind.as_deref().and_then(urls::host_of).is_some_and(urls::is_loopback)
    }
}

/// `[auth]`
#[derive(Clone, Debug)]
pub struct Auth {
    /// The project's URL without a trailing slash: `https://<ref>.supabase.co`.
    pub supabase_url: Option<String>,
    /// The shared secret of HS256 tokens.
    pub jwt_secret: Option<SecretString>,
    /// The secret before it, whose tokens are still good while it is here.
    pub jwt_secret_previous: Option<SecretString>,
    /// What `iss` must be; empty accepts any. Default: `<supabase_url>/auth/v1`, or any without a URL.
    pub issuer: String,
    /// Where in the claims a plan is named: `["app_metadata", "plan"]`.
    pub plan_claim: Vec<String>,
    /// The plan of anonymous users; without one they are refused.
    pub anonymous_plan: Option<String>,
    /// A token is good only while the database knows its session, and its user is not banned. Needs a [`Via`].
    pub check_session: bool,
}

/// `[store]`
#[derive(Clone, Debug)]
pub struct Store {
    /// Where the ledger is.
    pub url: StoreUrl,
    /// How long a hold outlives the last sign of life of its process.
    pub lease: Duration,
    /// How long ended requests are kept.
    pub keep_requests: Duration,
}

/// Where the ledger is.
#[derive(Clone, Debug)]
pub enum StoreUrl {
    /// In an SQLite file.
    Sqlite(PathBuf),
    /// In the Postgres at this URL.
    Postgres(SecretString),
}

impl StoreUrl {
    /// `sqlite` or `postgres`, as readiness tells it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Postgres(_) => "postgres",
        }
    }

    /// The SQLite file, where it is one.
    #[must_use]
    pub fn sqlite(&self) -> Option<&std::path::Path> {
        match self {
            Self::Sqlite(path) => Some(path),
            Self::Postgres(_) => None,
        }
    }
}

impl std::fmt::Display for StoreUrl {
    /// The file, or no more than that it is Postgres: the URL holds a password.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(out),
            Self::Postgres(_) => out.write_str("Postgres"),
        }
    }
}

impl PartialEq for StoreUrl {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Sqlite(one), Self::Sqlite(two)) => one == two,
            (Self::Postgres(one), Self::Postgres(two)) => one.expose_secret() == two.expose_secret(),
            _ => false,
        }
    }
}

/// How the developer's own database is reached, with all that it takes.
#[derive(Clone, Debug)]
pub enum Via {
    /// Not at all.
    None,
    /// Over Supabase's REST API.
    Rest {
        /// The project's URL without a trailing slash.
        supabase_url: String,
        /// A secret key, or the legacy service-role key.
        service_key: SecretString,
    },
    /// Over Postgres, at this URL.
    Postgres(SecretString),
}

impl Via {
    /// As in the config file and in readiness.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Rest { .. } => "rest",
            Self::Postgres(_) => "postgres",
        }
    }
}

impl PartialEq for Via {
    fn eq(&self, other: &Self) -> bool {
        let parts = |via: &Self| match via {
            Self::None => None,
            Self::Rest { supabase_url, service_key } => Some((supabase_url.clone(), service_key.clone())),
            Self::Postgres(url) => Some((String::new(), url.clone())),
        };
        let same = |(one, two): ((String, SecretString), (String, SecretString))| {
            one.0 == two.0 && one.1.expose_secret() == two.1.expose_secret()
        };
        match (parts(self), parts(other)) {
            (Some(one), Some(two)) => self.as_str() == other.as_str() && same((one, two)),
            (one, two) => one.is_none() && two.is_none(),
        }
    }
}

/// `[directory]`
#[derive(Clone, Debug)]
pub struct Directory {
    /// How the developer's own database is reached.
    pub via: Via,
    /// How long an answer counts as fresh.
    pub plan_cache: Duration,
    /// How long an answer serves while the database is down.
    pub plan_stale: Duration,
}

/// `[telemetry]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// Where traces and metrics are sent by OTLP over HTTP, without `/v1/traces`; `None` for nowhere.
    pub otlp_endpoint: Option<String>,
}

/// What happens to the upstream's answer when the caller hangs up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDisconnect {
    /// Read it to its end, for the exact usage.
    Drain,
    /// Cut it.
    Abort,
}

/// `[proxy]`
#[derive(Clone, Debug)]
pub struct Proxy {
    /// `on_disconnect`
    pub on_disconnect: OnDisconnect,
    /// How long a drained answer may take.
    pub drain_timeout: Duration,
    /// How long connecting to an upstream may take.
    pub connect_timeout: Duration,
    /// How long the head of an answer may take.
    pub first_byte_timeout: Duration,
    /// How long an answer may be silent.
    pub idle_timeout: Duration,
    /// How long a request may take, all in all.
    pub total_timeout: Duration,
    /// The least output worth asking for when little is left of a limit.
    pub min_output_tokens: u32,
}

/// What a server that speaks OpenAI's API wants to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// OpenAI itself.
    Openai,
    /// Another server that speaks its API.
    Compatible,
}

/// How an upstream wants the output cap to be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapName {
    /// `max_tokens`: what every server but OpenAI knows.
    MaxTokens,
    /// `max_completion_tokens`
    MaxCompletionTokens,
    /// By both names.
    Both,
}

/// How an upstream wants a request to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// What it wants to be told.
    pub dialect: Dialect,
    /// How it calls the output cap.
    pub cap_name: CapName,
    /// It takes `stream_options`, which asks for the usage of a stream.
    pub stream_usage: bool,
}

impl From<Dialect> for Manner {
    fn from(dialect: Dialect) -> Self {
        let cap_name = match dialect {
            Dialect::Openai => CapName::MaxCompletionTokens,
            Dialect::Compatible => CapName::MaxTokens,
        };
        Self { dialect, cap_name, stream_usage: true }
    }
}

/// An HTTP proxy on the way to an upstream. Its password is printed nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyServer {
    /// Where it is: scheme, host and port.
    pub address: http::Uri,
    /// `Proxy-Authorization`, where it wants a name and a password.
    pub authorization: Option<http::HeaderValue>,
}

/// `[[upstreams]]`
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    /// Its name in logs, rows and readiness.
    pub name: String,
    /// Without a trailing slash: `https://api.openai.com/v1`.
    pub base_url: String,
    /// Where chat requests go: `https://api.openai.com/v1/chat/completions`.
    pub chat_url: http::Uri,
    /// The operator's key; none for a local server without one.
    pub api_key: Option<SecretString>,
    /// The key before it, tried once where the upstream does not know `api_key`.
    pub api_key_previous: Option<SecretString>,
    /// Which models it serves: names, or patterns with `*`.
    pub models: Vec<String>,
    /// How it wants a request to be written.
    pub manner: Manner,
    /// How long an idle connection to it is kept for the next request.
    pub keep_alive: Duration,
    /// Sent with every request beside ours. The values may be secrets.
    pub headers: Vec<(http::HeaderName, SecretString)>,
    /// The proxy on the way to it.
    pub proxy: Option<Arc<ProxyServer>>,
    /// Certificates of authorities that it may prove itself by, beside the web's.
    pub authorities: Option<Arc<[rustls::pki_types::CertificateDer<'static>]>>,
}

impl UpstreamConfig {
    /// What of it must not be shown to anybody, whoever repeats it.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretString> {
        let keys = self.api_key.iter().chain(&self.api_key_previous);
        keys.chain(self.headers.iter().map(|(_, value)| value))
    }

    /// Whether it serves a model, by one of its names or patterns; each `*` stands for any text, also none.
    #[must_use]
    pub fn serves(&self, model: &str) -> bool {
        self.models.iter().any(|pattern| matches(pattern, model))
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(name) = name.strip_prefix(start) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    let Some(mut left) = name.strip_suffix(end) else { return false };
    // The leftmost place of each part leaves the most to those after it.
    parts.into_iter().all(|part| left.split_once(part).map(|(_, after)| left = after).is_some())
}
