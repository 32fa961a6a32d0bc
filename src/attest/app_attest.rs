//! Apple's App Attest: a key in a device's Secure Enclave, which Apple says is of a real app on a real device (attestation), and
//! which then signs (assertions).
//!
//! Source: Apple, "Validating apps that connect to your server". Pure: challenges, keys, roots and the time are arguments. What is
//! hashed is the SHA-256 of the challenge's text, both times. iOS 27 writes a map behind the authenticator data, whatever its flags
//! say: the category of the app in it decides, where it is there.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::cbor::Cbor;
use crate::clock::Timestamp;
use crate::config::AppAttest;
use crate::x509::{TrustedRoot, check_chain};

/// Apple App Attestation Root CA, to be found at <https://www.apple.com/certificateauthority/private/>. Its SHA-256 is
/// `1cb9823ba28ba6ad2d33a006941de2ae4f513ef1d4e831b9f7e0fa7b6242c932`.
const APPLE_ROOT: &str = "MIICITCCAaegAwIBAgIQC/O+DvHN0uD7jG5yH2IXmDAKBggqhkjOPQQDAzBSMSYwJAYDVQQDDB1BcHBsZSBBcHAgQXR0ZXN0YXRpb24gUm9vdCBDQTETMBEGA1UECg\
     wKQXBwbGUgSW5jLjETMBEGA1UECAwKQ2FsaWZvcm5pYTAeFw0yMDAzMTgxODMyNTNaFw00NTAzMTUwMDAwMDBaMFIxJjAkBgNVBAMMHUFwcGxlIEFwcCBBdHRlc3Rh\
     dGlvbiBSb290IENBMRMwEQYDVQQKDApBcHBsZSBJbmMuMRMwEQYDVQQIDApDYWxpZm9ybmlhMHYwEAYHKoZIzj0CAQYFK4EEACIDYgAERTHhmLW07ATaFQIEVwTtT4\
     dyctdhNbJhFs/Ii2FdCgAHGbpphY3+d8qjuDngIN3WVhQUBHAoMeQ/cLiP1sOUtgjqK9auYen1mMEvRq9Sk3Jm5X8U62H+xTD3FE9TgS41o0IwQDAPBgNVHRMBAf8E\
     BTADAQH/MB0GA1UdDgQWBBSskRBTM72+aEH/pwyp5frq5eWKoTAOBgNVHQ8BAf8EBAMCAQYwCgYIKoZIzj0EAwMDaAAwZQIwQgFGnByvsiVbpTKwSga0kP0e8EeDS4\
     +sQmTvb7vn53O5+FRXgeLhpJ06ysC5PrOyAjEAp5U4xDgEgllF7En3VcE3iexZZtKeYnpqtijVoyFraWVIyd/dganmrduC1bmTBGwD";
/// Where a leaf has the nonce that it was made for.
const NONCE_OID: &str = "1.2.840.113635.100.8.2";
/// The DER around it: a sequence of one tagged octet string of 32 bytes.
const NONCE_PREFIX: [u8; 6] = [0x30, 0x24, 0xa1, 0x22, 0x04, 0x20];
/// The environments of keys.
const PRODUCTION: &[u8] = b"appattest\0\0\0\0\0\0\0";
const DEVELOPMENT: &[u8] = b"appattestdevelop";
/// How iOS 27 calls the category of an app, and three of them: `TestFlight`, development, App Store.
const CATEGORY: &str = "apple_validation_category_01";
const TESTFLIGHT: u64 = 2;
const DEVELOPED: u64 = 3;
const APP_STORE: u64 = 4;

/// Apple's root.
fn apple_root() -> Option<&'static TrustedRoot> {
    static ROOT: LazyLock<Option<TrustedRoot>> = LazyLock::new(|| {
        let der = STANDARD.decode(APPLE_ROOT).ok()?;
        TrustedRoot::from_der(&der).ok()
    });
    ROOT.as_ref()
}

/// Checks an attestation of a new key. Gives back its public key (a point on P-256, not compressed), and the challenge that it
/// answers, of those that are open.
///
/// # Errors
/// What is wrong with it, for a log.
pub(crate) fn check_attestation<'c>(
    (key_id, attestation): (&[u8], &[u8]),
    open: &'c [String],
    rules: &AppAttest,
    now: Timestamp,
) -> Result<(Vec<u8>, &'c str), &'static str> {
    let object = Cbor::whole(attestation).ok_or("the attestation cannot be read")?;
    if object.get("fmt") != Some(&Cbor::Text("apple-appattest")) {
        return Err("the attestation is of another format");
    }
    let chain = object
        .get("attStmt")
        .and_then(|statement| statement.get("x5c"));
    let Some(Cbor::List(chain)) = chain else {
        return Err("the attestation has no certificates");
    };
    let [Cbor::Bytes(leaf), Cbor::Bytes(intermediate), ..] = chain.as_slice() else {
        return Err("the attestation has too few certificates");
    };
    let roots: Vec<TrustedRoot> = apple_root()
        .into_iter()
        .chain(&rules.roots)
        .cloned()
        .collect();
    let (leaf, _) = check_chain((leaf, intermediate), &roots, now)?;
    let data = object.get("authData").and_then(Cbor::bytes);
    let data = data.ok_or("the attestation has no authenticator data")?;
    let nonce = leaf
        .extension(NONCE_OID)
        .and_then(|it| it.strip_prefix(&NONCE_PREFIX));
    let nonce = nonce.ok_or("the leaf has no nonce")?;
    let challenge = open.iter().find(|open| nonce_of(data, open) == nonce);
    let challenge = challenge.ok_or("the attestation answers no open challenge")?;
    if !leaf.key.is_p256() || sha256(&leaf.key.point) != key_id {
        return Err("the key id is not that of the attested key");
    }
    let read = AuthenticatorData::read(data, true)?;
    read.is_of(rules)?;
    let environment = read.environment;
    if environment != PRODUCTION && !(rules.development && environment == DEVELOPMENT) {
        return Err("the key is of another environment");
    }
    if read.counter != 0 || read.credential != key_id {
        return Err("the authenticator data is not that of a new key");
    }
    Ok((leaf.key.point, challenge))
}

/// Checks an assertion by a key that is known. Gives back its counter, which must be higher than any before, and the challenge
/// that it answers.
///
/// # Errors
/// What is wrong with it, for a log.
pub(crate) fn check_assertion<'c>(
    (point, assertion): (&[u8], &[u8]),
    open: &'c [String],
    rules: &AppAttest,
) -> Result<(u32, &'c str), &'static str> {
    let object = Cbor::whole(assertion).ok_or("the assertion cannot be read")?;
    let part = |name| object.get(name).and_then(Cbor::bytes);
    let signature = part("signature").ok_or("the assertion has no signature")?;
    let data = part("authenticatorData").ok_or("the assertion has no authenticator data")?;
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point);
    let is_signed = |open: &&String| key.verify(&nonce_of(data, open), signature).is_ok();
    let challenge = open.iter().find(is_signed);
    let challenge = challenge.ok_or("the assertion is not this key's for an open challenge")?;
    let read = AuthenticatorData::read(data, false)?;
    read.is_of(rules)?;
    Ok((read.counter, challenge))
}

/// What a device signs, or has in its certificate, for a challenge.
fn nonce_of(data: &[u8], challenge: &str) -> Vec<u8> {
    sha256(&[data, &sha256(challenge.as_bytes())].concat())
}

pub(super) fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}

/// What an authenticator says (`WebAuthn` §6.1), as far as it is asked for.
struct AuthenticatorData<'a> {
    app: &'a [u8],
    counter: u32,
    /// Of an attestation; empty in assertions.
    environment: &'a [u8],
    credential: &'a [u8],
    category: Option<u64>,
}

impl<'a> AuthenticatorData<'a> {
    fn read(bytes: &'a [u8], has_credential: bool) -> Result<Self, &'static str> {
        Self::try_read(bytes, has_credential).ok_or("the authenticator data cannot be read")
    }

    fn try_read(bytes: &'a [u8], has_credential: bool) -> Option<Self> {
        let (app, rest) = bytes.split_at_checked(32)?;
        // The flags are not looked at: Apple leaves the bit for extensions clear, and sets the one for a credential in assertions.
        let (_, rest) = rest.split_at_checked(1)?;
        let (counter, mut rest) = rest.split_first_chunk::<4>()?;
        let (mut environment, mut credential) = (&[][..], &[][..]);
        if has_credential {
            (environment, rest) = rest.split_at_checked(16)?;
            let (length, behind) = rest.split_first_chunk::<2>()?;
            (credential, rest) =
                behind.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
            // The key once more, as COSE writes it. The certificate's is the one that counts.
            (_, rest) = Cbor::read(rest)?;
        }
        let category = if rest.is_empty() {
            None
        } else {
            let extensions = Cbor::whole(rest)?;
            match extensions.get(CATEGORY) {
                None if matches!(extensions, Cbor::Map(_)) => None,
                Some(Cbor::Int(category)) => Some(*category),
                Some(Cbor::Bytes(bytes)) => {
                    Some(u64::from(u32::from_le_bytes((*bytes).try_into().ok()?)))
                }
                _ => return None,
            }
        };
        Some(Self {
            app,
            counter: u32::from_be_bytes(*counter),
            environment,
            credential,
            category,
        })
    }

    /// It is one of the apps, from where apps are taken.
    fn is_of(&self, rules: &AppAttest) -> Result<(), &'static str> {
        let id = |bundle: &String| sha256(format!("{}.{bundle}", rules.team_id).as_bytes());
        if !rules.bundle_ids.iter().any(|bundle| id(bundle) == self.app) {
            return Err("the app is another");
        }
        match self.category {
            None | Some(APP_STORE) => Ok(()),
            Some(TESTFLIGHT | DEVELOPED) if rules.development => Ok(()),
            Some(_) => Err("the app is not from the App Store"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a device with iOS 27 wrote it: a development build.
    const OF_IOS_27: &str = "/3PQmDDZvKc1qrflz10gRrcebJM0xpafxRfN6ujU13/AAAAAAGFwcGF0dGVzdGRldmVsb3AAIEAAk2q9eHprerZmvx9QYVNe/TzH8t2tosuYiIs414s1pQECAyYgASFYIESVZHRrpydBHQg0wy/OjBC3Q2tSVZCfSQ3q3wrTI2kzIlggwd0u/mQpFQPijjFgX59bwG1WeRsULAb0CGuE6EgKtgKid2FwcGxlX2J1bmRsZV92ZXJzaW9uXzAxYTF4HGFwcGxlX3ZhbGlkYXRpb25fY2F0ZWdvcnlfMDFEAwAAAA==";

    #[test]
    fn apples_root_is_the_one_whose_digest_is_known() {
        let der = STANDARD.decode(APPLE_ROOT).unwrap();
        let known = "1cb9823ba28ba6ad2d33a006941de2ae4f513ef1d4e831b9f7e0fa7b6242c932";
        assert_eq!(crate::ledger::hex::hex(&sha256(&der)), known);
        assert!(apple_root().is_some());
    }

    #[test]
    fn the_map_that_ios_27_writes_is_read_whatever_the_flags_say() {
        let mut bytes = STANDARD.decode(OF_IOS_27).unwrap();
        for flags in [0xc0, 0x40] {
            bytes[32] = flags;
            let read = AuthenticatorData::read(&bytes, true).unwrap();
            assert_eq!((read.counter, read.category), (0, Some(DEVELOPED)));
            assert_eq!((read.environment, read.credential.len()), (DEVELOPMENT, 32));
        }
        assert!(AuthenticatorData::read(&bytes[..bytes.len() - 1], true).is_err());
        bytes.push(0);
        assert!(AuthenticatorData::read(&bytes, true).is_err());
        assert!(
            AuthenticatorData::read(&bytes[..37], false)
                .unwrap()
                .category
                .is_none()
        );
    }

    /// Where attestations of real devices lie, as other projects have published them: they are no part of this one.
    fn real_attestations() -> Option<serde_json::Value> {
        #[allow(
            clippy::disallowed_methods,
            reason = "where test data lies is no setting"
        )]
        let named = std::env::var_os("TOLLGATE_APPATTEST_VECTORS").map(std::path::PathBuf::from);
        let beside = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../shared/vectors/appattest.json");
        let text = std::fs::read_to_string(named.unwrap_or(beside)).ok();
        if text.is_none() {
            use std::io::Write;
            let line = "NOT CHECKED: attestations of real devices: TOLLGATE_APPATTEST_VECTORS names no file of them\n";
            // Past the harness, which shows what a test prints only when it fails.
            std::io::stderr().write_all(line.as_bytes()).unwrap();
        }
        Some(serde_json::from_str(&text?).unwrap())
    }

    /// An hour after the leaf of an attestation begins to be valid.
    fn time_of(attestation: &[u8]) -> Timestamp {
        use x509_parser::prelude::FromDer;
        let object = Cbor::whole(attestation).unwrap();
        let chain = object.get("attStmt").and_then(|it| it.get("x5c"));
        let Some(Cbor::List(chain)) = chain else {
            panic!("no chain")
        };
        let (_, leaf) =
            x509_parser::certificate::X509Certificate::from_der(chain[0].bytes().unwrap()).unwrap();
        Timestamp::from_secs(leaf.validity().not_before.timestamp().saturating_add(3600))
    }

    #[test]
    fn what_real_devices_have_attested_is_taken_in_its_time_and_for_its_app_only() {
        let Some(file) = real_attestations() else {
            return;
        };
        let (mut keys, mut asserted) = (std::collections::BTreeMap::new(), 0);
        for vector in file["vectors"].as_array().unwrap() {
            let text = |name: &str| vector[name].as_str().unwrap_or_default();
            let bytes = |name: &str| STANDARD.decode(text(name)).unwrap();
            // One hashed its challenge in a way that is not ours.
            if text("teamIdentifier").is_empty() {
                continue;
            }
            let key = bytes("keyIdBase64");
            let challenge = String::from_utf8(bytes("clientDataBase64")).unwrap();
            let open = ["another".to_owned(), challenge.clone()];
            let of = |bundle: &str, development| AppAttest {
                team_id: text("teamIdentifier").to_owned(),
                bundle_ids: vec![bundle.to_owned()],
                development,
                roots: Vec::new(),
            };
            let (bundle, develops) = (
                text("bundleIdentifier"),
                text("environment") == "development",
            );
            let rules = of(bundle, develops);
            if text("type") == "assertion" {
                let point: &Vec<u8> = &keys[&key];
                let assertion = bytes("assertionBase64");
                let asserting = (point.as_slice(), assertion.as_slice());
                let counter = text("counter").parse().unwrap();
                let read = check_assertion(asserting, &open, &rules);
                assert_eq!(read, Ok((counter, challenge.as_str())));
                check_assertion(asserting, &open[..1], &rules).unwrap_err();
                let other = of("com.example.other", develops);
                check_assertion(asserting, &open, &other).unwrap_err();
                asserted += 1;
                continue;
            }
            let attestation = bytes("attestationBase64");
            let at = time_of(&attestation);
            let attested = (key.as_slice(), attestation.as_slice());
            let (point, answered) = check_attestation(attested, &open, &rules, at).unwrap();
            assert_eq!(answered, challenge);
            let years = std::time::Duration::from_hours(24 * 800);
            check_attestation(attested, &open, &rules, at.plus(years)).unwrap_err();
            check_attestation(attested, &open[..1], &rules, at).unwrap_err();
            let other = of("com.example.other", develops);
            check_attestation(attested, &open, &other, at).unwrap_err();
            if develops {
                check_attestation(attested, &open, &of(bundle, false), at).unwrap_err();
            }
            keys.insert(key, point);
        }
        assert_eq!((keys.len(), asserted), (5, 3));
    }
}
