//! A stand-in for Apple: a certificate authority made for one test, and what it signs.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use serde_json::{Value, json};

/// What marks the leaf and the intermediate of the App Store.
const LEAF: &[u64] = &[1, 2, 840, 113_635, 100, 6, 11, 1];
const INTERMEDIATE: &[u64] = &[1, 2, 840, 113_635, 100, 6, 2, 1];

/// What is wrong with a chain; nothing by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Flaw {
    #[default]
    None,
    LeafWithoutMark,
    IntermediateWithoutMark,
    LeafEnded,
    IntermediateEnded,
    IntermediateIsNoAuthority,
}

/// A root, an intermediate and a leaf.
pub(crate) struct Apple {
    /// Leaf, intermediate, root: base64 of each.
    pub(crate) x5c: [String; 3],
    root: Vec<u8>,
    leaf_key: EcdsaKeyPair,
}

impl Apple {
    pub(crate) fn new() -> Self {
        Self::with(Flaw::None)
    }

    pub(crate) fn with(flaw: Flaw) -> Self {
        let [root_key, between_key, leaf_key] = [(); 3].map(|()| KeyPair::generate().unwrap());
        let root_params = authority("Test Root");
        let mut between_params = authority("Test Intermediate");
        if flaw != Flaw::IntermediateWithoutMark {
            mark(&mut between_params, INTERMEDIATE);
        }
        if flaw == Flaw::IntermediateEnded {
            between_params.not_after = date_time_ymd(2021, 1, 1);
        }
        if flaw == Flaw::IntermediateIsNoAuthority {
            between_params.is_ca = IsCa::ExplicitNoCa;
        }
        let mut leaf_params = named("Test Leaf");
        if flaw != Flaw::LeafWithoutMark {
            mark(&mut leaf_params, LEAF);
        }
        if flaw == Flaw::LeafEnded {
            leaf_params.not_after = date_time_ymd(2021, 1, 1);
        }
        let root = root_params.self_signed(&root_key).unwrap();
        let by_root = Issuer::new(root_params, root_key);
        let between = between_params.signed_by(&between_key, &by_root).unwrap();
        let by_between = Issuer::new(between_params, between_key);
        let leaf = leaf_params.signed_by(&leaf_key, &by_between).unwrap();
        let pkcs8 = leaf_key.serialize_der();
        let encode = |der: &[u8]| STANDARD.encode(der);
        Self {
            x5c: [
                encode(leaf.der()),
                encode(between.der()),
                encode(root.der()),
            ],
            root: root.der().to_vec(),
            leaf_key: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8).unwrap(),
        }
    }

    /// The root, as `root_ca_file` takes it.
    pub(crate) fn root_pem(&self) -> String {
        let text = STANDARD.encode(&self.root);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    }

    /// A JWS over a payload.
    pub(crate) fn sign(&self, payload: &Value) -> String {
        self.sign_with(payload, &json!({"alg": "ES256", "x5c": self.x5c}))
    }

    /// The same with a header of one's own.
    pub(crate) fn sign_with(&self, payload: &Value, header: &Value) -> String {
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", encode(header), encode(payload));
        let signed = self.leaf_key.sign(&SystemRandom::new(), message.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(signed.unwrap());
        format!("{message}.{signature}")
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2040, 1, 1);
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn mark(params: &mut CertificateParams, oid: &[u64]) {
    let extension = CustomExtension::from_oid_content(oid, vec![5, 0]);
    params.custom_extensions.push(extension);
}
