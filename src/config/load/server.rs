//! `[server]`.

use std::time::Duration;

use jiff::tz::TimeZone;
use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::filter::LevelFilter;

use crate::config::findings::{Invalid, Problem};
use crate::config::network::network;
use crate::config::reader::Section;
use crate::config::values::{HOUR, choice, millis_to};
use crate::config::{ConfigErrors, Network, urls};

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
    /// `admin_bind` is the default. If its address is in use, the server runs without that listener.
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
    /// The longest body with a file.
    pub file_bytes_max: usize,
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
    /// How long new requests are still served after SIGTERM, while readiness is red.
    pub shutdown_delay: Duration,
    /// How long open requests may go on after that.
    pub shutdown_grace: Duration,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which of them are written: a level, or directives such as `info,tollgate=debug`.
    pub log_level: String,
    /// Who may say by `X-Forwarded-For` where a request is from.
    pub trusted_proxies: Vec<Network>,
    /// How many users who have made no request yet one address may bring in a day.
    pub new_users_per_address_per_day: Option<u32>,
}

impl Server {
    /// Whether the operator's listener can be reached from this machine only.
    #[must_use]
    pub fn admin_is_local(&self) -> bool {
        self.admin_bind
            .as_deref()
            .and_then(urls::host_of)
            .is_some_and(urls::is_loopback)
    }
}

/// Shorter tokens of the operator are warned about.
const ADMIN_TOKEN_BYTES: usize = 16;
/// The default address of the operator's listener.
const ADMIN_BIND: &str = "127.0.0.1:9090";

/// Reads the section.
pub(super) fn server(section: &Section<'_>) -> Result<Server, Invalid> {
    let bind = section.parsed("bind", "0.0.0.0:8080", urls::listener);
    let admin_bind = section.parsed("admin_bind", ADMIN_BIND, |text| match text {
        "" => Ok(None),
        _ => urls::listener(text).map(Some),
    });
    let admin_token = section.secret("admin_token");
    let cors_origins = section.texts("cors_origins");
    let time_zone = section.parsed("time_zone", "UTC", time_zone);
    let body_bytes_max = section.size("body_bytes_max", 1 << 10..=256 << 20);
    let file_bytes_max = section.size("file_bytes_max", 1 << 10..=256 << 20);
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
    let trusted_proxies = section.texts("trusted_proxies");
    let new_users = section.maybe_integer("new_users_per_address_per_day", 1..=1_000_000);
    section.finish();
    let cors_origins = cors_origins.and_then(|origins| {
        section.note(
            "cors_origins",
            origins
                .iter()
                .try_for_each(|text| urls::origin(text))
                .map(|()| origins),
        )
    });
    let trusted_proxies = trusted_proxies.and_then(|written| {
        let networks = written.iter().map(|text| network(text)).collect();
        section.note("trusted_proxies", networks)
    });
    let (admin_bind, admin_token) = (admin_bind?, admin_token?);
    // A copy of the example file has the default too.
    let admin_bind_is_default = admin_bind.as_deref() == Some(ADMIN_BIND);
    let admin_unguarded = admin_is_guarded(admin_bind.as_deref(), admin_token.as_ref())
        .err()
        .map(|what| section.says("admin_bind", what));
    if admin_token
        .as_ref()
        .is_some_and(|token| token.expose_secret().len() < ADMIN_TOKEN_BYTES)
    {
        let key = section.path_of("admin_token");
        section.findings.warn(format!(
            "{key} is short enough to be guessed: make one with openssl rand -base64 32"
        ));
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
        file_bytes_max: file_bytes_max?,
        header_bytes_max: header_bytes_max?,
        header_timeout: header_timeout?,
        body_timeout: body_timeout?,
        keep_alive: keep_alive?,
        open_requests_max: open_requests_max?,
        shutdown_delay: shutdown_delay?,
        shutdown_grace: shutdown_grace?,
        log_format: log_format?,
        log_level: log_level?,
        trusted_proxies: trusted_proxies?,
        new_users_per_address_per_day: new_users?,
    })
}

fn admin_is_guarded(bind: Option<&str>, token: Option<&SecretString>) -> Result<(), Problem> {
    let is_open = bind
        .and_then(urls::host_of)
        .is_some_and(|host| !urls::is_loopback(host));
    if is_open && token.is_none() {
        let fix = "set TOLLGATE_ADMIN_TOKEN, make a token with `tollgate admin-token create`, or bind it to this machine: \
                   admin_bind = \"127.0.0.1:9090\"";
        return Err(Problem::new(
            "opens the admin listener to the network without a token",
            fix,
        ));
    }
    Ok(())
}

fn time_zone(text: &str) -> Result<TimeZone, Problem> {
    let unknown = |_| {
        Problem::new(
            format!("`{text}` is not a time zone"),
            "write its IANA name, such as \"Europe/Paris\" or \"UTC\"",
        )
    };
    TimeZone::get(text).map_err(unknown)
}

fn log_format(text: &str) -> Result<LogFormat, Problem> {
    choice(
        text,
        &[
            ("auto", LogFormat::Auto),
            ("pretty", LogFormat::Pretty),
            ("json", LogFormat::Json),
        ],
    )
}

fn log_level(text: &str) -> Result<String, Problem> {
    let fix =
        "write error, warn, info, debug or trace, or directives such as \"info,tollgate=debug\"";
    // A word alone would be a target of which all is written, and of the rest nothing: what a misspelt level would be.
    let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
    let is_target =
        |name: &str| !name.is_empty() && !name.contains(|letter: char| "[]{}".contains(letter));
    let directive = |part: &str| match part
        .split_once('=')
        .map(|(target, level)| (target.trim(), level.trim()))
    {
        None => is_level(part.trim()).then(|| part.trim().to_owned()),
        Some((target, level)) => {
            (is_target(target) && is_level(level)).then(|| format!("{target}={level}"))
        }
    };
    let directives: Option<Vec<String>> = text.split(',').map(directive).collect();
    directives
        .map(|read| read.join(","))
        .ok_or_else(|| Problem::new(format!("`{text}` is not a log level"), fix))
}
