//! All settings, read and checked once.
//!
//! Defaults, then `tollgate.toml`, then `.env`, then the environment; the later wins. Nothing else in the program
//! reads a file of settings or an environment variable. A [`Config`] that exists is valid.

use std::path::PathBuf;
use std::time::Duration;

use jiff::tz::TimeZone;
use secrecy::SecretString;

use crate::plan::Plans;
use crate::price::{MicroUsd, PriceTable};

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
    pub upstreams: Vec<UpstreamConfig>,
    /// `[plans.*]`
    pub plans: Plans,
    /// The shipped price table with `[prices.*]` over it.
    pub prices: PriceTable,
    /// The file it came from, where there was one.
    pub file: Option<PathBuf>,
}

/// `[server]`
#[derive(Clone, Debug)]
pub struct Server {
    /// Where it listens, `host:port`.
    pub bind: String,
    /// Origins that browsers may call from; `*` for all.
    pub cors_origins: Vec<String>,
    /// Where days and months begin.
    pub time_zone: TimeZone,
    /// The longest body of a request.
    pub body_bytes_max: usize,
    /// The longest head of a request.
    pub header_bytes_max: usize,
    /// How long a head may take, and how long a connection may idle.
    pub header_timeout: Duration,
    /// How long a body may take.
    pub body_timeout: Duration,
    /// How long a caller may leave what was written to it unread.
    pub write_timeout: Duration,
    /// How many requests may be open at once.
    pub open_requests_max: usize,
    /// How long open requests may go on after SIGTERM.
    pub shutdown_grace: Duration,
}

/// `[auth]`
#[derive(Clone, Debug)]
pub struct Auth {
    /// The project's URL without a trailing slash: `https://<ref>.supabase.co`.
    pub supabase_url: Option<String>,
    /// The shared secret of HS256 tokens.
    pub jwt_secret: Option<SecretString>,
    /// What `iss` must be; empty accepts any. Default: `<supabase_url>/auth/v1`, or any without a URL.
    pub issuer: String,
    /// Where in the claims a plan is named: `["app_metadata", "plan"]`.
    pub plan_claim: Vec<String>,
    /// The plan of anonymous users; without one they are refused.
    pub anonymous_plan: Option<String>,
}

/// `[store]`
#[derive(Clone, Debug)]
pub struct Store {
    /// The SQLite file.
    pub path: PathBuf,
    /// How long a hold outlives the last sign of life of its process.
    pub lease: Duration,
    /// How long ended requests are kept.
    pub keep_requests: Duration,
}

/// `[directory]`
#[derive(Clone, Debug)]
pub struct Directory {
    /// How long an answer counts as fresh.
    pub plan_cache: Duration,
    /// How long an answer serves while the database is down.
    pub plan_stale: Duration,
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

/// `[[upstreams]]`
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    /// Its name in logs, rows and readiness.
    pub name: String,
    /// Without a trailing slash: `https://api.openai.com/v1`.
    pub base_url: String,
    /// The operator's key; none for a local server without one.
    pub api_key: Option<SecretString>,
    /// Which models it serves: names, or patterns with `*`.
    pub models: Vec<String>,
    /// What it wants to be told.
    pub dialect: Dialect,
    /// How long an idle connection to it is kept for the next request.
    pub keep_alive: Duration,
}
/// tmp
#[derive(Clone, Debug)]
pub struct Sources {}
impl Sources {
    /// t
    pub fn files(&self) -> Vec<PathBuf> {
        vec![]
    }
}
impl Config {
    /// t
    pub fn load(_: &Sources) -> Result<Self, String> {
        Err(String::new())
    }
}
