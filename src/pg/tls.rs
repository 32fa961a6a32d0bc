//! `sslmode` and `sslrootcert`, as libpq understands them, for rustls.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio_postgres::config::SslMode;

/// How much of the server's certificate is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verify {
    /// Nothing: what is sent is encrypted, to whomever.
    Nothing,
    /// An authority that is trusted signed it.
    Chain,
    /// And it is this host's.
    Host,
}

/// What the parameters of a URL say about TLS.
#[derive(Debug, Default)]
pub(super) struct Tls {
    pub(super) mode: Option<String>,
    pub(super) root_cert: Option<String>,
}

/// As libpq: `require` with a certificate to trust is `verify-ca`.
pub(super) fn mode(tls: &Tls) -> Result<(SslMode, Verify), String> {
    match (tls.mode.as_deref().unwrap_or("prefer"), &tls.root_cert) {
        ("disable", _) => Ok((SslMode::Disable, Verify::Nothing)),
        ("allow" | "prefer", _) => Ok((SslMode::Prefer, Verify::Nothing)),
        ("require", None) => Ok((SslMode::Require, Verify::Nothing)),
        ("require" | "verify-ca", _) => Ok((SslMode::Require, Verify::Chain)),
        ("verify-full", _) => Ok((SslMode::Require, Verify::Host)),
        _ => Err(
            "has an sslmode that is none of disable, prefer, require, verify-ca and verify-full"
                .to_owned(),
        ),
    }
}

/// With a file, only its certificates are trusted; without one, or with `system`, the public roots of the web.
pub(super) fn client_config(
    verify: Verify,
    root_cert: Option<&str>,
) -> Result<ClientConfig, String> {
    let failed = |error: rustls::Error| format!("needs TLS, which could not be set up: {error}");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = match verify {
        Verify::Nothing => None,
        Verify::Chain | Verify::Host => Some(verifier(root_cert, provider.clone())?),
    };
    let verifier = Arc::new(TlsVerifier {
        chain,
        check_host: verify == Verify::Host,
        provider: provider.clone(),
    });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

fn verifier(
    root_cert: Option<&str>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, String> {
    let mut roots = RootCertStore::empty();
    match root_cert {
        None | Some("system") => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => {
            for certificate in certificates(path)? {
                roots
                    .add(certificate)
                    .map_err(|error| format!("has an sslrootcert that cannot be used: {error}"))?;
            }
        }
    }
    let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    built.map_err(|error| format!("has an sslrootcert that cannot be used: {error}"))
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let cannot = |error: &dyn std::fmt::Display| {
        format!("has an sslrootcert, {path}, that cannot be read: {error}")
    };
    let found = CertificateDer::pem_file_iter(path).map_err(|error| cannot(&error))?;
    let found: Vec<_> = found
        .collect::<Result<_, _>>()
        .map_err(|error| cannot(&error))?;
    if found.is_empty() {
        Err(cannot(&"there is no certificate in it"))
    } else {
        Ok(found)
    }
}

/// Verifies as much as `sslmode` says, and always that the server has the key of the certificate it shows.
#[derive(Debug)]
struct TlsVerifier {
    chain: Option<Arc<WebPkiServerVerifier>>,
    check_host: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for TlsVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
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
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
