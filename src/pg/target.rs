//! Reads a `postgres://` URL: the address, the user, and how TLS is used.
//!
//! libpq knows parameters that the driver does not, so they are read here. Errors never repeat the URL: it holds a password.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::tls::{Tls, client_config, mode};

/// How long a connection may be silent before the system asks whether the other end is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long what was sent may go unacknowledged.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);

/// What the driver itself understands of a URL's parameters.
const PASSED_ON: [&str; 15] = [
    "user",
    "password",
    "dbname",
    "host",
    "hostaddr",
    "port",
    "options",
    "application_name",
    "connect_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "target_session_attrs",
    "channel_binding",
    "load_balance_hosts",
];

/// Parameters for other clients, which stand in URLs that people copy: of poolers, which need nothing of us that we do not
/// do, and of libraries with other habits. None of them changes which server a connection trusts.
const LEFT_OUT: [&str; 34] = [
    "pgbouncer",
    "supa",
    "schema",
    "currentschema",
    "search_path",
    "connection_limit",
    "pool_timeout",
    "pool_mode",
    "pool_size",
    "pool_max_conns",
    "pool_min_conns",
    "pool_max_conn_lifetime",
    "pool_max_conn_idle_time",
    "pool_health_check_period",
    "max_pool_size",
    "min_pool_size",
    "max_overflow",
    "socket_timeout",
    "statement_timeout",
    "idle_in_transaction_session_timeout",
    "lock_timeout",
    "statement_cache_size",
    "statement_cache_mode",
    "prepared_statements",
    "prepared_statement_cache_size",
    "preparethreshold",
    "default_query_exec_mode",
    "binary_parameters",
    "client_encoding",
    "fallback_application_name",
    "keepalives_count",
    "uselibpqcompat",
    "timezone",
    "reserve",
];

/// What is wrong with a URL, and what to do. Neither has anything of the URL that could be a secret.
#[derive(Debug)]
pub struct UrlProblem {
    /// What is wrong, after the name of the setting.
    pub problem: String,
    /// What to do.
    pub fix: String,
}

impl UrlProblem {
    fn new(problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            problem: problem.into(),
            fix: fix.into(),
        }
    }
}

impl From<String> for UrlProblem {
    fn from(problem: String) -> Self {
        let fix = "write it like postgres://user:password@host:5432/database?sslmode=verify-full&sslrootcert=ca.crt";
        Self::new(problem, fix)
    }
}

impl From<&str> for UrlProblem {
    fn from(problem: &str) -> Self {
        Self::from(problem.to_owned())
    }
}

/// Where a database is and how it is reached. No `Debug`: it holds a password.
#[derive(Clone)]
pub struct Target {
    pub(super) config: tokio_postgres::Config,
    pub(super) tls: MakeRustlsConnect,
}

/// Whether a URL is one that [`Target::parse`] takes; also reads the certificates that it names.
///
/// # Errors
/// Why not, without the URL.
pub fn check_url(url: &SecretString) -> Result<(), UrlProblem> {
    Target::read(url).map(drop)
}

impl Target {
    /// Reads a URL: `postgres://user:password@host:5432/database?sslmode=verify-full&sslrootcert=ca.crt`.
    ///
    /// # Errors
    /// What is wrong with it, without the URL.
    pub fn parse(url: &SecretString) -> Result<Self, String> {
        Self::read(url).map_err(|fault| fault.problem)
    }

    fn read(url: &SecretString) -> Result<Self, UrlProblem> {
        let (plain, tls) = split(url.expose_secret())?;
        authority(&plain)?;
        let mut config: tokio_postgres::Config = plain.parse().map_err(
            |_| "is not a URL of Postgres (special letters of a password are %-encoded)",
        )?;
        if config.get_hosts().is_empty() {
            return Err("names no host".into());
        }
        let (mode, verify) = mode(&tls)?;
        config
            .ssl_mode(mode)
            .keepalives(true)
            .keepalives_idle(KEEPALIVE_IDLE);
        config
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .tcp_user_timeout(TCP_USER_TIMEOUT);
        if config.get_application_name().is_none() {
            config.application_name("tollgate");
        }
        Ok(Self {
            config,
            tls: MakeRustlsConnect::new(client_config(verify, tls.root_cert.as_deref())?),
        })
    }
}

/// The URL without the parameters that the driver does not know, and what they say.
fn split(url: &str) -> Result<(String, Tls), UrlProblem> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        let fix = "write postgres:// for all that stands before the user's name (other libraries add their own)";
        return Err(UrlProblem::new("does not begin with postgres://", fix));
    }
    // A password may hold a question mark, but not after the last @.
    let after_user = url.rfind('@').unwrap_or(0);
    let query = url
        .get(after_user..)
        .and_then(|rest| rest.find('?'))
        .and_then(|found| after_user.checked_add(found));
    let Some((plain, query)) = query.and_then(|at| url.split_at_checked(at)) else {
        return Ok((url.to_owned(), Tls::default()));
    };
    // A name is repeated only where it cannot be a piece of a password.
    let may_name = after_user > 0 && !query.contains("password");
    let mut tls = Tls::default();
    let mut kept = Vec::new();
    for pair in query
        .trim_start_matches('?')
        .split('&')
        .filter(|pair| !pair.is_empty())
    {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match key {
            "sslmode" => tls.mode = Some(decoded(value)?),
            "sslrootcert" => tls.root_cert = Some(decoded(value)?),
            _ if PASSED_ON.contains(&key) && pair.contains('=') => kept.push(pair),
            _ if LEFT_OUT.contains(&key.to_ascii_lowercase().as_str()) => {}
            _ => return Err(unknown(key, may_name)),
        }
    }
    let separator = if kept.is_empty() { "" } else { "?" };
    Ok((format!("{plain}{separator}{}", kept.join("&")), tls))
}

fn unknown(key: &str, may_name: bool) -> UrlProblem {
    let is_word =
        |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '.' | '-');
    let is_plain = !key.is_empty() && key.len() <= 40 && key.chars().all(is_word);
    if matches!(key, "ssl" | "sslaccept" | "tls" | "requiressl") {
        let fix = "write sslmode=require in its place, or sslmode=verify-full with sslrootcert=FILE, as libpq does";
        return UrlProblem::new(
            format!("has the parameter {key}, which says in another library's way how TLS is used"),
            fix,
        );
    }
    let known = format!("known: sslmode, sslrootcert, {}", PASSED_ON.join(", "));
    if is_plain && (may_name || (key.starts_with("ssl") && key.len() < 24)) {
        let what = format!("has the parameter {key}, which is not supported ({known})");
        return UrlProblem::new(what, format!("take it out: {key}=…"));
    }
    UrlProblem::new(
        format!("has an unknown parameter ({known})"),
        "take it out, or correct its name",
    )
}

/// What people get wrong between `postgres://` and the database, each with its own advice.
fn authority(plain: &str) -> Result<(), UrlProblem> {
    let rest = plain.split_once("://").map_or(plain, |(_, rest)| rest);
    let (user, place) = rest
        .rsplit_once('@')
        .map_or((None, rest), |(user, place)| (Some(user), place));
    let host = place.split(['/', '?']).next().unwrap_or_default();
    if has_placeholder(host) {
        let fix =
            "copy the whole URL from the Supabase dashboard (Connect), where it names your project";
        return Err(UrlProblem::new("still has a placeholder for its host", fix));
    }
    let Some(user) = user else { return Ok(()) };
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    if password
        .to_ascii_uppercase()
        .replace(['-', '_', ' '], "")
        .contains("YOURPASSWORD")
    {
        let fix = "put the database's own password in its place, without brackets (dashboard: Database, Settings)";
        return Err(UrlProblem::new(
            "still has the placeholder [YOUR-PASSWORD]",
            fix,
        ));
    }
    if has_placeholder(password) || has_placeholder(name) {
        let fix = "take the brackets of [YOUR-PASSWORD] away with it; one that belongs to the password is %5B or %5D";
        return Err(UrlProblem::new(
            "has brackets around its user or its password",
            fix,
        ));
    }
    for (letter, code) in [('@', "%40"), ('/', "%2F")] {
        if user.contains(letter) {
            let fix = format!("write {code} for each {letter} in it");
            return Err(UrlProblem::new(
                format!("has a {letter} in its user or password"),
                fix,
            ));
        }
    }
    if decoded(user).is_err() {
        let fix = "write %25 for a % that belongs to the password";
        return Err(UrlProblem::new(
            "has a % in its user or password that is no code of a letter",
            fix,
        ));
    }
    Ok(())
}

/// `[YOUR-PASSWORD]`, `<host>`, `db.[PROJECT-REF].supabase.co`; not the `[::1]` of IPv6.
fn has_placeholder(text: &str) -> bool {
    let within = |open: char, close: char| {
        let inner = text
            .split_once(open)
            .and_then(|(_, rest)| rest.split_once(close))
            .map(|(inner, _)| inner);
        inner.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_err())
    };
    within('[', ']') || within('<', '>') || within('{', '}')
}

fn decoded(value: &str) -> Result<String, String> {
    let mut bytes = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next(), rest.next()];
        let digit = |at: Option<u8>| {
            char::from(at?)
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        };
        let [Some(high), Some(low)] = digits.map(digit) else {
            return Err("has a % that two hexadecimal digits do not follow".to_owned());
        };
        bytes.push(high << 4 | low);
    }
    String::from_utf8(bytes).map_err(|_| "has a parameter that is not UTF-8".to_owned())
}
