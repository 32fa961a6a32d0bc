//! Signing keys of the kinds Supabase has, made anew for each test.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use aws_lc_rs::{hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// A key that signs tokens.
pub(crate) enum Key {
    Hs256(Vec<u8>),
    Es256(String, EcdsaKeyPair),
    Rs256(String, RsaKeyPair),
    EdDsa(String, Ed25519KeyPair),
}

impl Key {
    /// The shared secret.
    pub(crate) fn hs256(secret: impl Into<Vec<u8>>) -> Self {
        Self::Hs256(secret.into())
    }

    /// A P-256 key.
    pub(crate) fn es256(kid: &str) -> Self {
        Self::Es256(
            kid.to_owned(),
            EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
        )
    }

    /// An RSA key of 2048 bits.
    pub(crate) fn rs256(kid: &str) -> Self {
        Self::Rs256(
            kid.to_owned(),
            RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
        )
    }

    /// An Ed25519 key.
    pub(crate) fn eddsa(kid: &str) -> Self {
        Self::EdDsa(kid.to_owned(), Ed25519KeyPair::generate().unwrap())
    }

    /// Its name for `alg`.
    pub(crate) fn alg(&self) -> &'static str {
        match self {
            Self::Hs256(_) => "HS256",
            Self::Es256(..) => "ES256",
            Self::Rs256(..) => "RS256",
            Self::EdDsa(..) => "EdDSA",
        }
    }

    /// Its id; the shared secret has none.
    pub(crate) fn kid(&self) -> Option<&str> {
        match self {
            Self::Hs256(_) => None,
            Self::Es256(kid, _) | Self::Rs256(kid, _) | Self::EdDsa(kid, _) => Some(kid),
        }
    }

    /// The header of an ordinary token.
    pub(crate) fn header(&self) -> Value {
        match self.kid() {
            Some(kid) => json!({"alg": self.alg(), "kid": kid, "typ": "JWT"}),
            None => json!({"alg": self.alg(), "typ": "JWT"}),
        }
    }

    /// The signature of a message, as a token carries it.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Hs256(secret) => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message)
                .as_ref()
                .to_vec(),
            Self::Es256(_, pair) => pair
                .sign(&SystemRandom::new(), message)
                .unwrap()
                .as_ref()
                .to_vec(),
            Self::Rs256(_, pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(
                    &RSA_PKCS1_SHA256,
                    &SystemRandom::new(),
                    message,
                    &mut signature,
                )
                .unwrap();
                signature
            }
            Self::EdDsa(_, pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// Its public half as Supabase publishes it.
    pub(crate) fn jwk(&self) -> Value {
        let common =
            json!({"kid": self.kid(), "alg": self.alg(), "use": "sig", "key_ops": ["verify"]});
        let own = match self {
            Self::Hs256(_) => panic!("Supabase publishes no shared secret"),
            Self::Es256(_, pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "x": base64url(&point[1..33]), "y": base64url(&point[33..])})
            }
            Self::Rs256(_, pair) => {
                let (modulus, exponent) = rsa_numbers(pair.public_key().as_ref());
                json!({"kty": "RSA", "n": base64url(&modulus), "e": base64url(&exponent)})
            }
            Self::EdDsa(_, pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key().as_ref())})
            }
        };
        merged(common, &own)
    }

    /// Every way in which somebody may have the public half at hand, to try as a shared secret.
    pub(crate) fn public_encodings(&self) -> Vec<(&'static str, Vec<u8>)> {
        let (raw, der) = match self {
            Self::Hs256(_) => panic!("a shared secret has no public half"),
            Self::Es256(_, pair) => (
                pair.public_key().as_ref().to_vec(),
                spki(&pair.public_key().as_der()),
            ),
            Self::Rs256(_, pair) => (
                pair.public_key().as_ref().to_vec(),
                spki(&pair.public_key().as_der()),
            ),
            Self::EdDsa(_, pair) => (
                pair.public_key().as_ref().to_vec(),
                spki(&pair.public_key().as_der()),
            ),
        };
        let pem = pem(&der);
        let jwk = self.jwk();
        vec![
            ("raw", raw),
            ("DER", der),
            ("PEM", pem.clone().into_bytes()),
            (
                "PEM without the last newline",
                pem.trim_end().as_bytes().to_vec(),
            ),
            ("JWK", jwk.to_string().into_bytes()),
            ("JWKS", json!({"keys": [jwk]}).to_string().into_bytes()),
            ("nothing", Vec::new()),
        ]
    }
}

fn spki(der: &Result<PublicKeyX509Der<'_>, aws_lc_rs::error::Unspecified>) -> Vec<u8> {
    der.as_ref().unwrap().as_ref().to_vec()
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<String> = text
        .as_bytes()
        .chunks(64)
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect();
    format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        lines.join("\n")
    )
}

fn merged(mut into: Value, from: &Value) -> Value {
    into.as_object_mut()
        .unwrap()
        .extend(from.as_object().unwrap().clone());
    into
}

/// The modulus and the exponent of an `RSAPublicKey` (RFC 8017 appendix A.1.1), without leading zeros.
fn rsa_numbers(der: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (sequence, _) = der_value(der);
    let (modulus, rest) = der_value(sequence);
    let (exponent, _) = der_value(rest);
    let trimmed = |number: &[u8]| {
        number
            .iter()
            .copied()
            .skip_while(|byte| *byte == 0)
            .collect()
    };
    (trimmed(modulus), trimmed(exponent))
}

/// The contents of the first DER element, and what follows it.
fn der_value(der: &[u8]) -> (&[u8], &[u8]) {
    let (length, header) = match der[1] {
        short @ 0..=127 => (usize::from(short), 2),
        long => {
            let count = usize::from(long & 0x7f);
            let length = der[2..2 + count]
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            (length, 2 + count)
        }
    };
    der[header..].split_at(length)
}

/// An ECDSA signature of two numbers in DER, which a token must not carry (RFC 7518 §3.4 wants them bare).
pub(crate) fn der_signature(bare: &[u8]) -> Vec<u8> {
    let integer = |number: &[u8]| {
        let mut digits: Vec<u8> = number
            .iter()
            .copied()
            .skip_while(|byte| *byte == 0)
            .collect();
        if digits.first().is_none_or(|byte| *byte > 127) {
            digits.insert(0, 0);
        }
        let mut out = vec![2, digits.len() as u8];
        out.extend(digits);
        out
    };
    let (r, s) = bare.split_at(bare.len() / 2);
    let body = [integer(r), integer(s)].concat();
    [vec![0x30, body.len() as u8], body].concat()
}

/// Base64url without padding, as tokens are written.
pub(crate) fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// So many random bytes in hexadecimal.
pub(crate) fn random_hex(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    rand::fill(&mut random).unwrap();
    random
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}
