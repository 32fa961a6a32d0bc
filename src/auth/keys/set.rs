//! A set of public keys (RFC 7517), read from what the project answered.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Moment;
use crate::auth::key::{Algorithm, PublicKey};

/// The most keys a set may have.
pub(super) const KEYS_MAX: usize = 64;
/// How many keys are tried for one token: several have its `kid`, or it names none.
const TRIED_MAX: usize = 8;

/// A set as it was fetched.
#[derive(Debug)]
pub(crate) struct KeySet {
    pub(super) keys: Vec<PublicKey>,
    pub(super) generation: u64,
    pub(super) fetched: Moment,
}

impl KeySet {
    /// Changes exactly when the keys do: what was verified by another generation must be verified again.
    pub(crate) const fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether one of the keys that this `kid` and algorithm choose signed the message.
    pub(crate) fn verifies(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
        signed: (&[u8], &[u8]),
    ) -> bool {
        self.keys
            .iter()
            .filter(|key| key.algorithm() == algorithm && (kid.is_none() || key.kid() == kid))
            .take(TRIED_MAX)
            .any(|key| key.verifies(signed.0, signed.1))
    }

    /// Whether fetching again could not help: the `kid` is here, or, without one, a key of the algorithm.
    pub(super) fn knows(&self, kid: Option<&str>, algorithm: Algorithm) -> bool {
        self.keys
            .iter()
            .any(|key| kid.map_or(key.algorithm() == algorithm, |kid| key.kid() == Some(kid)))
    }

    pub(super) fn algorithms(&self) -> impl Iterator<Item = Algorithm> {
        self.keys
            .iter()
            .map(PublicKey::algorithm)
            .collect::<BTreeSet<_>>()
            .into_iter()
    }
}

/// Reads `{"keys": […]}`; keys that cannot be used are left out, a set of none is a set.
pub(super) fn read_set(body: &[u8]) -> Result<Vec<PublicKey>, String> {
    let set: Value = serde_json::from_slice(body).map_err(|_| "the answer is not JSON")?;
    let keys = set
        .get("keys")
        .and_then(Value::as_array)
        .ok_or("the answer is not a JSON Web Key Set")?;
    if keys.len() > KEYS_MAX {
        return Err(format!("the set has more than {KEYS_MAX} keys"));
    }
    Ok(keys.iter().filter_map(usable_key).collect())
}

fn usable_key(jwk: &Value) -> Option<PublicKey> {
    PublicKey::from_jwk(jwk)
        .map_err(|reason| tracing::debug!(reason, "a key of the JWKS is left out"))
        .ok()
}
