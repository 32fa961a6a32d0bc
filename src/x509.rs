//! Chains of certificates that end in a pinned key: those of the App Store's signatures and of App Attest.
//!
//! A root is trusted by its key alone. A root certificate that a caller sends along proves nothing, and is not looked at.
//! Who calls says at which moment the chain is checked: signatures of a store stay good after their certificates end.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1,
    UnparsedPublicKey, VerificationAlgorithm,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::clock::Timestamp;

/// Algorithms and curves, by their OIDs (RFC 5480, RFC 5758).
const EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";
const P256: &str = "1.2.840.10045.3.1.7";
const P384: &str = "1.3.132.0.34";
const ECDSA_WITH_SHA256: &str = "1.2.840.10045.4.3.2";
const ECDSA_WITH_SHA384: &str = "1.2.840.10045.4.3.3";
/// A longer certificate is not read.
const CERTIFICATE_BYTES_MAX: usize = 8 * 1024;
/// Extensions that a chain is checked by, or that bind nothing here: key usage, basic constraints.
const UNDERSTOOD: [&str; 2] = ["2.5.29.15", "2.5.29.19"];

/// The key of a root that is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedRoot {
    /// Its name, as certificates that it signed call their issuer.
    name: Vec<u8>,
    /// Its key: curve and point.
    key: EcKey,
    /// When its own certificate begins and ends, in seconds.
    valid: (i64, i64),
}

/// A public key on one of the two curves that are in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EcKey {
    curve: Curve,
    /// The point, not compressed (SEC 1 §2.3.3).
    pub point: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
}

/// A certificate whose chain was checked.
#[derive(Clone, Debug)]
pub struct CheckedCertificate {
    /// Its key.
    pub key: EcKey,
    extensions: Vec<(String, Vec<u8>)>,
}

impl CheckedCertificate {
    /// What stands in an extension, by its OID in dots.
    #[must_use]
    pub fn extension(&self, oid: &str) -> Option<&[u8]> {
        let mut found = self.extensions.iter().filter(|(name, _)| name == oid);
        found.next().map(|(_, value)| value.as_slice())
    }
}

impl EcKey {
    /// The key is on P-256.
    #[must_use]
    pub fn is_p256(&self) -> bool {
        self.curve == Curve::P256
    }

    fn of(info: &SubjectPublicKeyInfo<'_>) -> Result<Self, &'static str> {
        let kind = info.algorithm.algorithm.to_id_string();
        let named = info.algorithm.parameters.as_ref();
        let named = named.and_then(|named| named.as_oid().ok());
        let named = named.map(|oid| oid.to_id_string());
        let curve = match (kind.as_str(), named.as_deref()) {
            (EC_PUBLIC_KEY, Some(P256)) => Curve::P256,
            (EC_PUBLIC_KEY, Some(P384)) => Curve::P384,
            _ => return Err("a key of another kind than P-256 and P-384"),
        };
        let point = info.subject_public_key.data.to_vec();
        Ok(Self { curve, point })
    }

    fn has_signed(&self, certificate: &X509Certificate<'_>) -> bool {
        let inner = &certificate.tbs_certificate.signature.algorithm;
        let outer = &certificate.signature_algorithm.algorithm;
        let (outer, is_same) = (outer.to_id_string(), inner == outer);
        let sha384 = outer == ECDSA_WITH_SHA384;
        if !is_same || !(sha384 || outer == ECDSA_WITH_SHA256) {
            return false;
        }
        let algorithm: &'static dyn VerificationAlgorithm = match (self.curve, sha384) {
            (Curve::P256, false) => &ECDSA_P256_SHA256_ASN1,
            (Curve::P256, true) => &ECDSA_P256_SHA384_ASN1,
            (Curve::P384, false) => &ECDSA_P384_SHA256_ASN1,
            (Curve::P384, true) => &ECDSA_P384_SHA384_ASN1,
        };
        let signed = certificate.tbs_certificate.as_ref();
        UnparsedPublicKey::new(algorithm, &self.point)
            .verify(signed, &certificate.signature_value.data)
            .is_ok()
    }
}

impl TrustedRoot {
    /// From its certificate, which is trusted as it is.
    ///
    /// # Errors
    /// It is none, or has a key of another kind.
    pub fn from_der(der: &[u8]) -> Result<Self, &'static str> {
        let certificate = parse(der)?;
        let validity = certificate.validity();
        Ok(Self {
            name: certificate.subject().as_raw().to_vec(),
            key: EcKey::of(certificate.public_key())?,
            valid: (
                validity.not_before.timestamp(),
                validity.not_after.timestamp(),
            ),
        })
    }

    /// The first second after its certificate.
    #[must_use]
    pub fn ends_at(&self) -> Timestamp {
        Timestamp::from_secs(self.valid.1)
    }

    /// Whether a certificate has the key of this root. Its other members say nothing.
    #[must_use]
    pub fn has_key_of(&self, der: &[u8]) -> Option<EcKey> {
        let certificate = parse(der).ok()?;
        let key = EcKey::of(certificate.public_key()).ok()?;
        Some(key).filter(|key| *key == self.key)
    }
}

/// Checks that a root signed `intermediate`, which signed `leaf`, and that all of them are in force at a moment. Gives back the
/// leaf and the intermediate.
///
/// # Errors
/// What is wrong with the chain, for a log.
pub fn check_chain(
    (leaf, intermediate): (&[u8], &[u8]),
    roots: &[TrustedRoot],
    at: Timestamp,
) -> Result<(CheckedCertificate, CheckedCertificate), &'static str> {
    let (leaf, intermediate) = (parse(leaf)?, parse(intermediate)?);
    let issuer = intermediate.issuer().as_raw();
    let mut named = roots.iter().filter(|root| root.name == issuer);
    let root = named.find(|root| root.key.has_signed(&intermediate));
    let root = root.ok_or("no trusted root signed the intermediate certificate")?;
    let is_in = |(first, last): (i64, i64)| (first..=last).contains(&at.secs());
    if !is_in(root.valid) || !is_valid(&intermediate, at) || !is_valid(&leaf, at) {
        return Err("a certificate of the chain was not in force at that time");
    }
    if !may_sign(&intermediate) {
        return Err("the intermediate certificate may sign no other");
    }
    if leaf.issuer().as_raw() != intermediate.subject().as_raw() {
        return Err("the intermediate certificate has another name than the leaf's issuer");
    }
    let between = EcKey::of(intermediate.public_key())?;
    if !between.has_signed(&leaf) {
        return Err("the intermediate certificate did not sign the leaf");
    }
    if is_authority(&leaf) {
        return Err("the leaf is a certificate authority");
    }
    Ok((checked(&leaf)?, checked(&intermediate)?))
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, &'static str> {
    if der.len() > CERTIFICATE_BYTES_MAX {
        return Err("a certificate is too long");
    }
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|_| "a certificate cannot be read")?;
    if rest.is_empty() {
        Ok(certificate)
    } else {
        Err("there is something behind a certificate")
    }
}

fn is_valid(certificate: &X509Certificate<'_>, at: Timestamp) -> bool {
    let validity = certificate.validity();
    let span = validity.not_before.timestamp()..=validity.not_after.timestamp();
    span.contains(&at.secs())
}

fn is_authority(certificate: &X509Certificate<'_>) -> bool {
    // What cannot be read, or stands there twice, counts as the worse.
    match certificate.basic_constraints() {
        Ok(found) => found.is_some_and(|found| found.value.ca),
        Err(_) => true,
    }
}

fn may_sign(certificate: &X509Certificate<'_>) -> bool {
    let is_authority = matches!(certificate.basic_constraints(), Ok(Some(found)) if found.value.ca);
    let usage = match certificate.key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
        Err(_) => false,
    };
    is_authority && usage
}

/// A critical extension that nobody here understands makes a certificate useless (RFC 5280 §4.2).
fn checked(certificate: &X509Certificate<'_>) -> Result<CheckedCertificate, &'static str> {
    let mut extensions = Vec::new();
    for extension in certificate.extensions() {
        let oid = extension.oid.to_id_string();
        if extension.critical && !UNDERSTOOD.contains(&oid.as_str()) {
            return Err("a certificate has a critical extension that is not known here");
        }
        extensions.push((oid, extension.value.to_vec()));
    }
    let key = EcKey::of(certificate.public_key())?;
    Ok(CheckedCertificate { key, extensions })
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair,
        KeyUsagePurpose, date_time_ymd,
    };

    use super::*;

    const OID: &[u64] = &[1, 2, 3, 4];

    fn params(name: &str, is_authority: bool) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(2025, 1, 1);
        params.not_after = date_time_ymd(2026, 1, 1);
        if is_authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        }
        let extension = CustomExtension::from_oid_content(OID, vec![5, 0]);
        params.custom_extensions.push(extension);
        params
    }

    struct Authority {
        root: Vec<u8>,
        intermediate: Vec<u8>,
        leaf: Vec<u8>,
    }

    fn authority(change: impl Fn(&mut CertificateParams, &str)) -> Authority {
        let of = |name: &str| {
            let mut params = params(name, name != "leaf");
            change(&mut params, name);
            params
        };
        let [root_key, key, leaf_key] = [(); 3].map(|()| KeyPair::generate().unwrap());
        let root = of("root").self_signed(&root_key).unwrap();
        let by_root = Issuer::new(params("root", true), root_key);
        let between = of("between").signed_by(&key, &by_root).unwrap();
        let by_between = Issuer::new(params("between", true), key);
        let leaf = of("leaf").signed_by(&leaf_key, &by_between).unwrap();
        Authority {
            root: root.der().to_vec(),
            intermediate: between.der().to_vec(),
            leaf: leaf.der().to_vec(),
        }
    }

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn check(authority: &Authority, root: &[u8], moment: &str) -> Result<(), &'static str> {
        let roots = [TrustedRoot::from_der(root).unwrap()];
        let chain = (authority.leaf.as_slice(), authority.intermediate.as_slice());
        check_chain(chain, &roots, at(moment)).map(|(leaf, between)| {
            assert_eq!(leaf.extension("1.2.3.4"), Some([5, 0].as_slice()));
            assert!(between.extension("1.2.3.5").is_none() && leaf.key.is_p256());
        })
    }

    #[test]
    fn a_chain_ends_in_the_pinned_key_and_holds_at_the_moment_that_is_asked_about() {
        let ours = authority(|_, _| ());
        assert_eq!(check(&ours, &ours.root, "2025-06-01T00:00:00Z"), Ok(()));
        for moment in ["2024-12-31T23:59:59Z", "2026-01-01T00:00:01Z"] {
            check(&ours, &ours.root, moment).unwrap_err();
        }
        // Another root of the same name.
        let theirs = authority(|_, _| ());
        check(&theirs, &ours.root, "2025-06-01T00:00:00Z").unwrap_err();
        // A leaf of another chain of the same names.
        let mixed = Authority {
            leaf: theirs.leaf.clone(),
            ..authority(|_, _| ())
        };
        check(&mixed, &mixed.root, "2025-06-01T00:00:00Z").unwrap_err();
        // In the wrong order.
        let swapped = Authority {
            leaf: ours.intermediate.clone(),
            intermediate: ours.leaf.clone(),
            root: ours.root.clone(),
        };
        check(&swapped, &ours.root, "2025-06-01T00:00:00Z").unwrap_err();
    }

    #[test]
    fn each_certificate_must_be_in_force_and_be_what_it_stands_for() {
        type Change = fn(&mut CertificateParams, &str);
        let changes: [(&str, Change); 7] = [
            ("an intermediate that ended", |params, name| {
                if name == "between" {
                    params.not_after = date_time_ymd(2025, 2, 1);
                }
            }),
            ("a leaf that has not begun", |params, name| {
                if name == "leaf" {
                    params.not_before = date_time_ymd(2025, 12, 1);
                }
            }),
            ("a root that ended", |params, name| {
                if name == "root" {
                    params.not_after = date_time_ymd(2025, 2, 1);
                }
            }),
            ("an intermediate that is no authority", |params, name| {
                if name == "between" {
                    params.is_ca = IsCa::ExplicitNoCa;
                }
            }),
            ("an intermediate that may not sign", |params, name| {
                if name == "between" {
                    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
                }
            }),
            ("a leaf that is an authority", |params, name| {
                if name == "leaf" {
                    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                }
            }),
            ("a critical extension that nobody knows", |params, name| {
                if name == "leaf" {
                    let mut extension = CustomExtension::from_oid_content(&[1, 2, 9], vec![5, 0]);
                    extension.set_criticality(true);
                    params.custom_extensions.push(extension);
                }
            }),
        ];
        for (what, change) in changes {
            let chain = authority(change);
            let checked = check(&chain, &chain.root, "2025-06-01T00:00:00Z");
            assert!(checked.is_err(), "{what}");
        }
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        let ours = authority(|_, _| ());
        let mut longer = ours.leaf.clone();
        longer.push(0);
        let mut bent = ours.leaf.clone();
        if let Some(last) = bent.last_mut() {
            *last ^= 1;
        }
        for leaf in [Vec::new(), vec![0x30, 0x80], longer, bent, vec![0; 9000]] {
            let chain = Authority {
                leaf,
                intermediate: ours.intermediate.clone(),
                root: ours.root.clone(),
            };
            check(&chain, &ours.root, "2025-06-01T00:00:00Z").unwrap_err();
        }
    }
}
