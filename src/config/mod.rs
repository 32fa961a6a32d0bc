//! All settings, read and checked once.
//!
//! The order is: defaults, `tollgate.toml`, `.env`, environment variables; a later source overrides an earlier one. Nothing
//! else in the program reads a file of settings or an environment variable. A [`Config`] that exists is valid.

mod changes;
mod dotenv;
mod files;
mod findings;
pub(crate) mod load;
mod model_ends;
mod models;
mod names;
mod network;
mod plans;
mod presets;
mod prices;
mod products;
mod prompts;
mod reader;
#[cfg(test)]
mod refused;
mod secrets;
mod source;
#[cfg(test)]
mod tests;
mod tree;
pub mod units;
mod upstream_keys;
mod upstreams;
pub(crate) mod urls;
mod values;
mod way;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

pub use changes::Fingerprints;
pub use load::{
    AnswerLimits, AppAttest, AppCheck, AppStore, Attest, AttestMode, Auth, DirectoryConfig,
    IssuerConfig, IssuerPreset, LogFormat, OnDisconnect, Proxy, RotatingSecret, Server, Store,
    StoreUrl, TelemetryConfig, Via, Webhooks,
};
pub(crate) use load::{is_users_own, webhook_key};
pub use model_ends::{ModelEnd, TOLD_AHEAD};
pub use network::Network;
pub use plans::limits_of_answer;
pub use presets::{PRESETS, Preset};

use crate::dialect::Manner;
use crate::model::ModelTable;
use crate::plan::{Plans, Products};
use crate::price::{MicroUsd, PriceTable};
use crate::prompt::Prompts;

/// Every key with its default and an explanation. New installations copy and edit it.
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
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the environment"
    )]
    pub fn from_process(config_flag: Option<PathBuf>) -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let env: BTreeMap<_, _> = std::env::vars_os().filter_map(text).collect();
        let said = env
            .get(names::CONFIG_VARIABLE)
            .filter(|path| !path.is_empty());
        Self {
            file: config_flag.or_else(|| said.map(PathBuf::from)),
            env,
            directory: PathBuf::new(),
        }
    }

    /// The files that are read, whether they are there or not: `tollgate.toml`, or what is named in its place, and `.env`.
    /// A folder is read again each time, because an editor may replace the file.
    #[must_use]
    pub fn files(&self) -> [PathBuf; 2] {
        let named = self.file.as_ref().map(|named| self.directory.join(named));
        match named {
            Some(folder) if folder.is_dir() => {
                [folder.join(names::FILE), folder.join(names::DOT_ENV)]
            }
            Some(file) => [file, self.directory.join(names::DOT_ENV)],
            None => [
                self.directory.join(names::FILE),
                self.directory.join(names::DOT_ENV),
            ],
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
        files::lookup(self, "OPENAI_API_KEY")
            .filter(|key| !key.is_empty())
            .map(SecretString::from)
    }
}

impl Sources {
    /// The project's key for apps, `SUPABASE_PUBLISHABLE_KEY` or `SUPABASE_ANON_KEY`, from the environment or `.env`.
    /// For `tollgate doctor`, which tries what can be done with it; the server has no use for it.
    #[must_use]
    pub fn supabase_anon_key(&self) -> Option<SecretString> {
        let names = ["SUPABASE_PUBLISHABLE_KEY", "SUPABASE_ANON_KEY"];
        let said = names.iter().filter_map(|name| files::lookup(self, name));
        said.into_iter()
            .find(|key| !key.is_empty())
            .map(SecretString::from)
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

/// One error: which key, where it is set, what is wrong with it, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The dotted path of the key: `plans.free.limits[0].requests`.
    pub key: String,
    /// Where it is set: `tollgate.toml:12`, `the variable PORT`.
    pub place: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub fix: String,
}

/// Everything that is wrong with the settings; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

/// All settings, checked. Made only by `load`.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[server]`
    pub server: Server,
    /// `[auth]`
    pub auth: Auth,
    /// `[store]`
    pub store: Store,
    /// `[directory]`
    pub directory: DirectoryConfig,
    /// `[proxy]`
    pub proxy: Proxy,
    /// `[answers]`
    pub answers: AnswerLimits,
    /// `[attest]`
    pub attest: Attest,
    /// `[ceiling] cost_usd_per_day`: what the whole app may spend in a day.
    pub ceiling: Option<MicroUsd>,
    /// `[[upstreams]]`, in the order in which a model is looked for. Never empty.
    pub upstreams: Vec<Arc<UpstreamConfig>>,
    /// `[plans.*]`
    pub plans: Plans,
    /// `[products.*]`, with what the sandbox gives.
    pub products: Products,
    /// `[webhooks]`
    pub webhooks: Webhooks,
    /// `[prompts.*]`, and those in files of their own.
    pub prompts: Prompts,
    /// The shipped price table with `[prices.*]` over it.
    pub prices: PriceTable,
    /// What else is known of models, and `[models.*]`. Names that OpenAI shut down go on to their successors where OpenAI is asked.
    pub models: ModelTable,
    /// What checks the words of users whose plan says so; none where no upstream has a model for it.
    pub moderator: Option<Moderator>,
    /// `[telemetry]`
    pub telemetry: TelemetryConfig,
    /// Digests, to report which settings a reload changed.
    pub fingerprints: Fingerprints,
    /// The file it came from, where there was one.
    pub file: Option<PathBuf>,
    /// Warnings; printed at start and by `check`.
    pub warnings: Vec<String>,
}

/// A model that checks what users say.
#[derive(Clone, Debug)]
pub struct Moderator {
    /// Where it is.
    pub upstream: Arc<UpstreamConfig>,
    /// Its name there.
    pub model: String,
}

/// An HTTP proxy on the way to an upstream. Its password is never printed.
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
    /// The same, read: requests go to paths below it.
    pub base_uri: http::Uri,
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
    /// What of `anthropic-beta` passes to it.
    pub anthropic_beta: Vec<String>,
    /// Sent with every request beside ours. The values may be secrets.
    pub headers: Vec<(http::HeaderName, SecretString)>,
    /// The proxy on the way to it.
    pub proxy: Option<Arc<ProxyServer>>,
    /// Certificate authorities that are trusted for it, besides the public ones.
    pub authorities: Option<Arc<[rustls::pki_types::CertificateDer<'static>]>>,
}

impl UpstreamConfig {
    /// Its secrets, which must be blacked out wherever they are repeated.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretString> {
        let keys = self.api_key.iter().chain(&self.api_key_previous);
        keys.chain(self.headers.iter().map(|(_, value)| value))
    }

    /// Whether it serves a model, by one of its names or patterns; each `*` matches any text, also none.
    #[must_use]
    pub fn serves(&self, model: &str) -> bool {
        self.models.iter().any(|pattern| matches(pattern, model))
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(name) = name.strip_prefix(start) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    let Some(mut left) = name.strip_suffix(end) else {
        return false;
    };
    // Taking the leftmost match of each part leaves the most text for the next ones.
    parts.into_iter().all(|part| {
        left.split_once(part)
            .map(|(_, after)| left = after)
            .is_some()
    })
}
