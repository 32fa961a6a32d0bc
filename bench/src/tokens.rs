//! Access tokens as Supabase writes them: ES256, by a key that is made once and kept in a file.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

const KID: &str = "bench";
const GOOD_FOR_SECONDS: u64 = 24 * 3600;

/// Arguments of `tokens`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The signing key; made if it is not there
    #[arg(long)]
    key: PathBuf,
    /// The project's URL (the address of `upstream`): the tokens' issuer is its /auth/v1
    #[arg(long)]
    project: String,
    /// How many
    #[arg(long, default_value_t = 1000)]
    users: u64,
    /// One user in so many: 1000 takes users 0, 1000, 2000 …
    #[arg(long, default_value_t = 1)]
    step: u64,
    /// The number of the first
    #[arg(long, default_value_t = 0)]
    first: u64,
}

/// A key that signs.
pub(crate) struct Key(EcdsaKeyPair);

impl Key {
    /// The key of a file, made if it is not there.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        if !path.exists() {
            let made = EcdsaKeyPair::generate_pkcs8(
                &ECDSA_P256_SHA256_FIXED_SIGNING,
                &SystemRandom::new(),
            );
            fs::write(path, made.map_err(|error| failed(&error))?.as_ref())
                .map_err(|error| failed(&error))?;
        }
        let file = fs::read(path).map_err(|error| failed(&error))?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &file);
        pair.map(Self).map_err(|error| failed(&error))
    }

    /// What `/auth/v1/.well-known/jwks.json` answers.
    pub(crate) fn jwks(&self) -> Value {
        // An uncompressed point: 4, x, y.
        let point = self.0.public_key().as_ref();
        let (x, y) = point
            .get(1..)
            .unwrap_or_default()
            .split_at_checked(32)
            .unwrap_or_default();
        json!({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": KID, "key_ops": ["verify"],
                         "x": base64url(x), "y": base64url(y)}]})
    }

    fn token(&self, user: u64, issuer: &str, now: u64) -> Result<String, String> {
        let header = json!({"alg": "ES256", "kid": KID, "typ": "JWT"});
        let claims = json!({
            "iss": issuer,
            "sub": user_id(user),
            "aud": "authenticated",
            "exp": now + GOOD_FOR_SECONDS,
            "iat": now,
            "email": format!("user{user}@example.test"),
            "phone": "",
            "app_metadata": {"provider": "email", "providers": ["email"]},
            "user_metadata": {},
            "role": "authenticated",
            "aal": "aal1",
            "amr": [{"method": "password", "timestamp": now}],
            "session_id": user_id(user),
            "is_anonymous": false,
        });
        let signed = format!(
            "{}.{}",
            base64url(header.to_string()),
            base64url(claims.to_string())
        );
        let signature = self
            .0
            .sign(&SystemRandom::new(), signed.as_bytes())
            .map_err(|error| error.to_string())?;
        Ok(format!("{signed}.{}", base64url(signature)))
    }
}

/// The id of a user: neighbours lie far apart, as random ids do. `run.py` has the same in SQL.
pub(crate) fn user_id(user: u64) -> String {
    let scattered = user.wrapping_mul(2_654_435_761) % (1 << 32);
    format!("{scattered:08x}-0000-4000-8000-{user:012x}")
}

fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Prints the tokens.
pub(crate) fn run(args: &Args) -> Result<(), String> {
    let key = Key::open(&args.key)?;
    let issuer = format!("{}/auth/v1", args.project.trim_end_matches('/'));
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(|error| error.to_string())?
        .as_secs();
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for index in 0..args.users {
        let token = key.token(args.first + index * args.step, &issuer, now)?;
        writeln!(out, "{token}").map_err(|error| error.to_string())?;
    }
    out.flush().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_have_different_ids_that_lie_far_apart() {
        assert_eq!(user_id(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(user_id(1), "9e3779b1-0000-4000-8000-000000000001");
        assert_eq!(user_id(1_000_000), "fc9d0e40-0000-4000-8000-0000000f4240");
    }
}
