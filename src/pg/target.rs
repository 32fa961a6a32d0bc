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

/// Parameters for other clients, which stand in URLs that people copy: a pooler needs nothing of us that we do not do.
const LEFT_OUT: [&str; 3] = ["pgbouncer", "connection_limit", "pool_timeout"];

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
pub fn check_url(url: &SecretString) -> Result<(), String> {
    Target::parse(url).map(drop)
}

impl Target {
    /// Reads a URL: `postgres://user:password@host:5432/database?sslmode=verify-full&sslrootcert=ca.crt`.
    ///
    /// # Errors
    /// What is wrong with it, without the URL.
    pub fn parse(url: &SecretString) -> Result<Self, String> {
        let (plain, tls) = split(url.expose_secret())?;
        let mut config: tokio_postgres::Config =
            plain.parse().map_err(|_| "is not a URL of Postgres (special letters of a password are %-encoded)")?;
        if config.get_hosts().is_empty() {
            return Err("names no host".to_owned());
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
fn split(url: &str) -> Result<(String, Tls), String> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err("does not begin with postgres://".to_owned());
    }
    // A password may hold a question mark, but not after the last @.
    let query = url.rfind('@').unwrap_or(0);
    let query = url.get(query..).and_then(|rest| rest.find('?')).and_then(|found| query.checked_add(found));
    let Some((plain, query)) = query.and_then(|at| url.split_at_checked(at)) else {
        return Ok((url.to_owned(), Tls::default()));
    };
    let mut tls = Tls::default();
    let mut kept = Vec::new();
    for pair in query.trim_start_matches('?').split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or("has a parameter without a value")?;
        match key {
            "sslmode" => tls.mode = Some(decoded(value)?),
            "sslrootcert" => tls.root_cert = Some(decoded(value)?),
            _ if PASSED_ON.contains(&key) => kept.push(pair),
            _ if LEFT_OUT.contains(&key) => {}
            _ => return Err(unknown(key)),
        }
    }
    let separator = if kept.is_empty() { "" } else { "?" };
    Ok((format!("{plain}{separator}{}", kept.join("&")), tls))
}

/// A name is repeated only where it cannot be a piece of a password.
fn unknown(key: &str) -> String {
    if key.starts_with("ssl") && key.len() < 24 && key.chars().all(|letter| letter.is_ascii_lowercase()) {
        return format!("has the parameter {key}, which is not supported (sslmode and sslrootcert are)");
    }
    format!("has an unknown parameter (known: sslmode, sslrootcert, {})", PASSED_ON.join(", "))
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
