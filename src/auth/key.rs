//! One public key of a JSON Web Key Set.
//!
//! It turns a JWK (RFC 7517, RFC 7518 §6, RFC 8037) into a key that verifies signatures, and does not know where the
//! JWK came from. Invariant: a [`PublicKey`] verifies exactly one algorithm, fixed when it is read. It cannot be asked
//! for another, and it cannot be made from a symmetric or private key.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RsaPublicKeyComponents,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

/// The longest `kid` that is looked at, in a key or in a token.
pub(crate) const KID_BYTES_MAX: usize = 256;

/// Members that only a private or symmetric key has (RFC 7518 §6.2.2, §6.3.2, §6.4).
const PRIVATE_MEMBERS: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "k"];

/// The asymmetric algorithms that Supabase signs with. HS256 is not one: its key is never in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256, 2048 bits or more.
    Rs256,
    /// Ed25519 (RFC 8037).
    EdDsa,
}

impl Algorithm {
    /// Reads `alg`, exactly as RFC 7518 §3.1 and RFC 8037 §3.1 spell it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "ES256" => Some(Self::Es256),
            "RS256" => Some(Self::Rs256),
            "EdDSA" => Some(Self::EdDsa),
            _ => None,
        }
    }

    /// `alg` as it is written.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// A public key and the one algorithm it verifies.
#[derive(Clone, Debug)]
pub(crate) struct PublicKey {
    kid: Option<String>,
    algorithm: Algorithm,
    encoded: Vec<u8>,
    parsed: ParsedPublicKey,
}

impl PublicKey {
    /// Reads one member of `keys`.
    ///
    /// # Errors
    /// Why the key is left out: not for signatures, not public, too weak, malformed, or of an unsupported kind.
    pub(crate) fn from_jwk(jwk: &Value) -> Result<Self, &'static str> {
        let jwk = jwk.as_object().ok_or("not an object")?;
        if PRIVATE_MEMBERS
            .iter()
            .any(|member| jwk.contains_key(*member))
        {
            return Err("a private or symmetric key");
        }
        if !is_for_signatures(jwk) {
            return Err("not a key that verifies signatures");
        }
        let (algorithm, encoded, parsed) = match text(jwk, "kty") {
            Some("EC") => p256(jwk)?,
            Some("RSA") => rsa(jwk)?,
            Some("OKP") => ed25519(jwk)?,
            _ => return Err("a kty that is not EC, RSA or OKP"),
        };
        if jwk.contains_key("alg") && text(jwk, "alg") != Some(algorithm.as_str()) {
            return Err("an alg that its kty and crv do not have");
        }
        Ok(Self {
            kid: kid(jwk)?,
            algorithm,
            encoded,
            parsed,
        })
    }

    /// The key's id, where it has one.
    pub(crate) fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The one algorithm it verifies.
    pub(crate) const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether `signature` is this key's signature of `message`. ECDSA signatures are `r ‖ s` of 64 bytes (RFC 7518 §3.4).
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.parsed.verify_sig(message, signature).is_ok()
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.kid == other.kid && self.algorithm == other.algorithm && self.encoded == other.encoded
    }
}

type Parts = (Algorithm, Vec<u8>, ParsedPublicKey);

fn p256(jwk: &Map<String, Value>) -> Result<Parts, &'static str> {
    if text(jwk, "crv") != Some("P-256") {
        return Err("a curve that is not P-256");
    }
    let (x, y) = (bytes(jwk, "x")?, bytes(jwk, "y")?);
    if x.len() != 32 || y.len() != 32 {
        return Err("a coordinate that is not 32 bytes");
    }
    let point = [vec![4], x, y].concat();
    let parsed = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point)
        .map_err(|_| "a point that is not on P-256")?;
    Ok((Algorithm::Es256, point, parsed))
}

fn rsa(jwk: &Map<String, Value>) -> Result<Parts, &'static str> {
    let (n, e) = (bytes(jwk, "n")?, bytes(jwk, "e")?);
    // 2048 to 8192 bits: the first byte of the shortest modulus allowed has its high bit set.
    let long_enough =
        n.len() > 256 || (n.len() == 256 && n.first().is_some_and(|byte| *byte >= 0x80));
    if !long_enough || n.len() > 1024 || e.len() > 8 {
        return Err("an RSA key under 2048 or over 8192 bits");
    }
    let encoded = [n.as_slice(), e.as_slice()].concat();
    let parsed = RsaPublicKeyComponents { n, e }
        .to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256)
        .map_err(|_| "numbers that are no RSA key")?;
    Ok((Algorithm::Rs256, encoded, parsed))
}

fn ed25519(jwk: &Map<String, Value>) -> Result<Parts, &'static str> {
    if text(jwk, "crv") != Some("Ed25519") {
        return Err("a curve that is not Ed25519");
    }
    let x = bytes(jwk, "x")?;
    let parsed = ParsedPublicKey::new(&ED25519, &x).map_err(|_| "bytes that are no Ed25519 key")?;
    Ok((Algorithm::EdDsa, x, parsed))
}

/// `use` is absent or `sig`; `key_ops` is absent or names `verify` (RFC 7517 §4.2, §4.3).
fn is_for_signatures(jwk: &Map<String, Value>) -> bool {
    let used = jwk.get("use").is_none_or(|value| value == "sig");
    let operated = jwk.get("key_ops").is_none_or(|value| {
        value
            .as_array()
            .is_some_and(|operations| operations.iter().any(|operation| operation == "verify"))
    });
    used && operated
}

fn kid(jwk: &Map<String, Value>) -> Result<Option<String>, &'static str> {
    match jwk.get("kid") {
        None => Ok(None),
        Some(Value::String(kid)) if kid.len() <= KID_BYTES_MAX => Ok(Some(kid.clone())),
        Some(_) => Err("a kid that is too long or no string"),
    }
}

fn text<'a>(jwk: &'a Map<String, Value>, member: &str) -> Option<&'a str> {
    jwk.get(member).and_then(Value::as_str)
}

fn bytes(jwk: &Map<String, Value>, member: &str) -> Result<Vec<u8>, &'static str> {
    let encoded = text(jwk, member).ok_or("a number is missing")?;
    URL_SAFE_NO_PAD
        .decode(encoded)
        .map_err(|_| "a number that is not base64url")
}
