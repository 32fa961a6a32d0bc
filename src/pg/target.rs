//! A `postgres://` URL → where to connect to, and by which TLS.
//!
//! `sslmode` and `sslrootcert` mean what they mean to libpq, which knows more of them than the driver does. Complaints
//! never repeat the URL: it holds a password.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

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
/// do, and of libraries with other habits. None of them is about whom a connection trusts.
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
pub struct Fault {
    /// What is wrong, after the name of the setting.
    pub problem: String,
    /// What to do.
    pub fix: String,
}

impl Fault {
    fn new(problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { problem: problem.into(), fix: fix.into() }
    }
}

impl From<String> for Fault {
    fn from(problem: String) -> Self {
        let fix = "write it like postgres://user:password@host:5432/database?sslmode=verify-full&sslrootcert=ca.crt";
        Self::new(problem, fix)
    }
}

impl From<&str> for Fault {
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

/// How much of the server's certificate is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verify {
    /// Nothing: what is sent is encrypted, to whomever.
    Nothing,
    /// An authority that is trusted signed it.
    Chain,
    /// And it is this host's.
    Host,
}

/// What stands in a URL about TLS.
#[derive(Debug, Default)]
struct Tls {
    mode: Option<String>,
    root_cert: Option<String>,
}

/// Whether a URL is one that [`Target::parse`] takes; also reads the certificates that it names.
///
/// # Errors
/// Why not, without the URL.
pub fn check_url(url: &SecretString) -> Result<(), Fault> {
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

    fn read(url: &SecretString) -> Result<Self, Fault> {
        let (plain, tls) = split(url.expose_secret())?;
        authority(&plain)?;
        let mut config: tokio_postgres::Config =
            plain.parse().map_err(|_| "is not a URL of Postgres (special letters of a password are %-encoded)")?;
        if config.get_hosts().is_empty() {
            return Err("names no host".into());
        }
        let (mode, verify) = mode(&tls)?;
        config.ssl_mode(mode).keepalives(true).keepalives_idle(KEEPALIVE_IDLE);
        config.keepalives_interval(KEEPALIVE_INTERVAL).tcp_user_timeout(TCP_USER_TIMEOUT);
        if config.get_application_name().is_none() {
            config.application_name("tollgate");
        }
        Ok(Self { config, tls: MakeRustlsConnect::new(client_config(verify, tls.root_cert.as_deref())?) })
    }
}

/// The URL without the parameters that the driver does not know, and what they say.
fn split(url: &str) -> Result<(String, Tls), Fault> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        let fix = "write postgres:// for all that stands before the user's name (other libraries add their own)";
        return Err(Fault::new("does not begin with postgres://", fix));
    }
    // A password may hold a question mark, but not after the last @.
    let after_user = url.rfind('@').unwrap_or(0);
    let query = url.get(after_user..).and_then(|rest| rest.find('?')).and_then(|found| after_user.checked_add(found));
    let Some((plain, query)) = query.and_then(|at| url.split_at_checked(at)) else {
        return Ok((url.to_owned(), Tls::default()));
    };
    // A name is repeated only where it cannot be a piece of a password.
    let may_name = after_user > 0 && !query.contains("password");
    let mut tls = Tls::default();
    let mut kept = Vec::new();
    for pair in query.trim_start_matches('?').split('&').filter(|pair| !pair.is_empty()) {
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

fn unknown(key: &str, may_name: bool) -> Fault {
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '.' | '-');
    let is_plain = !key.is_empty() && key.len() <= 40 && key.chars().all(is_word);
    if matches!(key, "ssl" | "sslaccept" | "tls" | "requiressl") {
        let fix = "write sslmode=require in its place, or sslmode=verify-full with sslrootcert=FILE, as libpq does";
        return Fault::new(
            format!("has the parameter {key}, which says in another library's way how TLS is used"),
            fix,
        );
    }
    let known = format!("known: sslmode, sslrootcert, {}", PASSED_ON.join(", "));
    if is_plain && (may_name || (key.starts_with("ssl") && key.len() < 24)) {
        let what = format!("has the parameter {key}, which is not supported ({known})");
        return Fault::new(what, format!("take it out: {key}=…"));
    }
    Fault::new(format!("has an unknown parameter ({known})"), "take it out, or correct its name")
}

/// What people get wrong between `postgres://` and the database, each with its own advice.
fn authority(plain: &str) -> Result<(), Fault> {
    let rest = plain.split_once("://").map_or(plain, |(_, rest)| rest);
    let (user, place) = rest.rsplit_once('@').map_or((None, rest), |(user, place)| (Some(user), place));
    let host = place.split(['/', '?']).next().unwrap_or_default();
    if has_placeholder(host) {
        let fix = "copy the whole URL from the Supabase dashboard (Connect), where it names your project";
        return Err(Fault::new("still has a placeholder for its host", fix));
    }
    let Some(user) = user else { return Ok(()) };
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    if password.to_ascii_uppercase().replace(['-', '_', ' '], "").contains("YOURPASSWORD") {
        let fix = "put the database's own password in its place, without brackets (dashboard: Database, Settings)";
        return Err(Fault::new("still has the placeholder [YOUR-PASSWORD]", fix));
    }
    if has_placeholder(password) || has_placeholder(name) {
        let fix = "take the brackets of [YOUR-PASSWORD] away with it; one that belongs to the password is %5B or %5D";
        return Err(Fault::new("has brackets around its user or its password", fix));
    }
    for (letter, code) in [('@', "%40"), ('/', "%2F")] {
        if user.contains(letter) {
            let fix = format!("write {code} for each {letter} in it");
            return Err(Fault::new(format!("has a {letter} in its user or password"), fix));
        }
    }
    if decoded(user).is_err() {
        let fix = "write %25 for a % that belongs to the password";
        return Err(Fault::new("has a % in its user or password that is no code of a letter", fix));
    }
    Ok(())
}

/// `[YOUR-PASSWORD]`, `<host>`, `db.[PROJECT-REF].supabase.co`; not the `[::1]` of IPv6.
fn has_placeholder(text: &str) -> bool {
    let within = |open: char, close: char| {
        let inner = text.split_once(open).and_then(|(_, rest)| rest.split_once(close)).map(|(inner, _)| inner);
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
        let digit = |at: Option<u8>| char::from(at?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let [Some(high), Some(low)] = digits.map(digit) else {
            return Err("has a % that two hexadecimal digits do not follow".to_owned());
        };
        bytes.push(high << 4 | low);
    }
    String::from_utf8(bytes).map_err(|_| "has a parameter that is not UTF-8".to_owned())
}

/// As libpq: `require` with a certificate to trust is `verify-ca`.
fn mode(tls: &Tls) -> Result<(SslMode, Verify), String> {
    match (tls.mode.as_deref().unwrap_or("prefer"), &tls.root_cert) {
        ("disable", _) => Ok((SslMode::Disable, Verify::Nothing)),
        ("allow" | "prefer", _) => Ok((SslMode::Prefer, Verify::Nothing)),
        ("require", None) => Ok((SslMode::Require, Verify::Nothing)),
        ("require" | "verify-ca", _) => Ok((SslMode::Require, Verify::Chain)),
        ("verify-full", _) => Ok((SslMode::Require, Verify::Host)),
        _ => Err("has an sslmode that is none of disable, prefer, require, verify-ca and verify-full".to_owned()),
    }
}

/// Trusts the certificates in the file alone; without one, or with `system`, the web's public roots.
fn client_config(verify: Verify, root_cert: Option<&str>) -> Result<ClientConfig, String> {
    let failed = |error: rustls::Error| format!("needs TLS, which could not be set up: {error}");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = match verify {
        Verify::Nothing => None,
        Verify::Chain | Verify::Host => Some(verifier(root_cert, provider.clone())?),
    };
    let verifier = Arc::new(Verifier { chain, check_host: verify == Verify::Host, provider: provider.clone() });
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(failed)?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

fn verifier(root_cert: Option<&str>, provider: Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, String> {
    let mut roots = RootCertStore::empty();
    match root_cert {
        None | Some("system") => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| format!("has an sslrootcert that cannot be used: {error}"))?;
            }
        }
    }
    let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    built.map_err(|error| format!("has an sslrootcert that cannot be used: {error}"))
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let cannot = |error: &dyn std::fmt::Display| format!("has an sslrootcert, {path}, that cannot be read: {error}");
    let found = CertificateDer::pem_file_iter(path).map_err(|error| cannot(&error))?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|error| cannot(&error))?;
    if found.is_empty() { Err(cannot(&"there is no certificate in it")) } else { Ok(found) }
}

/// Verifies as much as `sslmode` says, and always that the server has the key of the certificate it shows.
#[derive(Debug)]
struct Verifier {
    chain: Option<Arc<WebPkiServerVerifier>>,
    check_host: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(certificate, intermediates, host, ocsp, now) {
            // The name is looked at last: everything else was right.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.check_host => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
