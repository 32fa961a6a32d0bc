//! What Apple signed: a JWS whose certificates come along (`x5c`) and end in a root that is pinned by its key.
//!
//! The chain is checked at the moment when Apple signed (`signedDate`), so what was signed years ago is still good. A root in
//! `x5c` proves nothing. Xcode signs with one certificate of its own; it counts only where that is named by `root_ca_file`.

use std::sync::LazyLock;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::clock::Timestamp;
use crate::x509::{EcKey, TrustedRoot, check_chain};

/// Apple Root CA - G3, to be found at <https://www.apple.com/certificateauthority/>. Its SHA-256 is
/// `63343abfb89a6a03ebb57e9b3f5fa7be7c4f5c756f3017b3a8c488c3653e9179`.
const APPLE_ROOT: &str = "MIICQzCCAcmgAwIBAgIILcX8iNLFS5UwCgYIKoZIzj0EAwMwZzEbMBkGA1UEAwwSQXBwbGUgUm9vdCBDQSAtIEczMSYwJAYDVQQL\
     DB1BcHBsZSBDZXJ0aWZpY2F0aW9uIEF1dGhvcml0eTETMBEGA1UECgwKQXBwbGUgSW5jLjELMAkGA1UEBhMCVVMwHhcNMTQwNDMwMTgxOTA2WhcNMzkwNDMwMTgx\
     OTA2WjBnMRswGQYDVQQDDBJBcHBsZSBSb290IENBIC0gRzMxJjAkBgNVBAsMHUFwcGxlIENlcnRpZmljYXRpb24gQXV0aG9yaXR5MRMwEQYDVQQKDApBcHBsZSBJ\
     bmMuMQswCQYDVQQGEwJVUzB2MBAGByqGSM49AgEGBSuBBAAiA2IABJjpLz1AcqTtkyJygRMc3RCV8cWjTnHcFBbZDuWmBSp3ZHtfTjjTuxxEtX/1H7YyYl3J6YRb\
     TzBPEVoA/VhYDKX1DyxNB0cTddqXl5dvMVztK517IDvYuVTZXpmkOlEKMaNCMEAwHQYDVR0OBBYEFLuw3qFYM4iapIqZ3r6966/ayySrMA8GA1UdEwEB/wQFMAMB\
     Af8wDgYDVR0PAQH/BAQDAgEGMAoGCCqGSM49BAMDA2gAMGUCMQCD6cHEFl4aXTQY2e3v9GwOAEZLuN+yRhHFD/3meoyhpmvOwgPUnPWTxnS4at+qIxUCMG1mihDK\
     1A3UT82NQz60imOlM27jbdoXt2QfyFMm+YhidDkLF1vLUagM6BgD56KyKA==";

/// Signs receipts and notifications of the App Store.
const LEAF_OID: &str = "1.2.840.113635.100.6.11.1";
/// Apple Worldwide Developer Relations.
const INTERMEDIATE_OID: &str = "1.2.840.113635.100.6.2.1";

/// Apple's root.
#[must_use]
pub fn apple_root() -> Option<&'static TrustedRoot> {
    static ROOT: LazyLock<Option<TrustedRoot>> = LazyLock::new(|| {
        let der = STANDARD.decode(APPLE_ROOT).ok()?;
        TrustedRoot::from_der(&der).ok()
    });
    ROOT.as_ref()
}

/// Who signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signer {
    /// A certificate below a trusted root.
    Store,
    /// A root itself: Xcode.
    Xcode,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    x5c: Vec<String>,
    crit: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DatedPayload {
    signed_date: i64,
}

/// Reads what was signed, once it is certain who did; `more` are roots beside Apple's.
///
/// # Errors
/// What is wrong with it, for a log.
pub fn verify<T: DeserializeOwned>(
    text: &str,
    more: &[TrustedRoot],
) -> Result<(T, Signer), &'static str> {
    let parts: Vec<&str> = text.split('.').collect();
    let [head, payload, signature] = parts.as_slice() else {
        return Err("it is no JWS of three parts");
    };
    let decode = |part: &str| {
        URL_SAFE_NO_PAD
            .decode(part)
            .map_err(|_| "a part of it is not base64url")
    };
    let header: Header =
        serde_json::from_slice(&decode(head)?).map_err(|_| "its header names no certificates")?;
    if header.alg != "ES256" || header.crit.is_some() {
        return Err("its header has another algorithm than ES256, or `crit`");
    }
    let body = decode(payload)?;
    let dated: DatedPayload = serde_json::from_slice(&body).map_err(|_| "it has no signedDate")?;
    let at = Timestamp::from_millis(dated.signed_date);
    let (key, signer) = key_of(&header.x5c, more, at)?;
    if !key.is_p256() {
        return Err("its certificate has a key of another kind than P-256");
    }
    let signature = decode(signature)?;
    // What was signed is the text before the last dot.
    let (message, _) = text.rsplit_once('.').ok_or("it is no JWS of three parts")?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &key.point)
        .verify(message.as_bytes(), &signature)
        .map_err(|_| "its signature is wrong")?;
    let read = serde_json::from_slice(&body).map_err(|_| "what was signed has another form")?;
    Ok((read, signer))
}

/// The key of the leaf, when its chain has been checked.
fn key_of(
    x5c: &[String],
    more: &[TrustedRoot],
    at: Timestamp,
) -> Result<(EcKey, Signer), &'static str> {
    let decode = |text: &String| {
        STANDARD
            .decode(text)
            .map_err(|_| "a certificate is not base64")
    };
    match x5c {
        [leaf, intermediate, _] => {
            let (leaf, intermediate) = (decode(leaf)?, decode(intermediate)?);
            let roots: Vec<TrustedRoot> = apple_root().into_iter().chain(more).cloned().collect();
            let (leaf, between) = check_chain((&leaf, &intermediate), &roots, at)?;
            if leaf.extension(LEAF_OID).is_none() || between.extension(INTERMEDIATE_OID).is_none() {
                return Err("its certificates are not for the App Store");
            }
            Ok((leaf.key, Signer::Store))
        }
        [only] => {
            let only = decode(only)?;
            let key = more.iter().find_map(|root| root.has_key_of(&only));
            key.map(|key| (key, Signer::Xcode))
                .ok_or("its one certificate is not that of root_ca_file")
        }
        _ => Err("it has another number of certificates than three"),
    }
}
