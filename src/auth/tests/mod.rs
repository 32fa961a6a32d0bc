//! Tokens, good and hostile, against an [`Authenticator`] and a JWKS server on port 0.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::string_slice,
    clippy::needless_pass_by_value,
    clippy::unused_self,
    reason = "in a test a panic is a finding, and a call is to read like a sentence"
)]

mod claims;
mod forged;
mod keys;
mod rfcs;

use std::sync::LazyLock;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, RSA_PKCS1_SHA256,
};
use aws_lc_rs::signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::header;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::bearer::{API_KEY_MESSAGE, BEARER_BYTES_MAX};
use super::*;
use crate::auth::claims::Grant;
use crate::auth::keys::tests::{KeyServer, ec_jwk, ec_pair, ed_jwk, rsa_jwk};
use crate::auth::token::Scheme;

const SECRET: &str = "a-development-secret-of-more-than-32-bytes";
const USER: &str = "9f8b7c6d-5e4f-4a3b-8c2d-1e0f9a8b7c6d";
const MINUTE_MS: i64 = 60_000;

static RSA: LazyLock<RsaKeyPair> =
    LazyLock::new(|| RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
static EC_PKCS8: LazyLock<Vec<u8>> = LazyLock::new(|| {
    EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
        .unwrap()
        .as_ref()
        .to_vec()
});

/// A project with a shared secret and three keys, and a server that verifies its tokens.
struct Project {
    auth: Auth,
    who: Authenticator,
    server: KeyServer,
    tracker: TaskTracker,
    clock: Clock,
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

impl Project {
    async fn new() -> Self {
        let (tracker, clock) = (TaskTracker::new(), Clock::system());
        let ec = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &EC_PKCS8).unwrap();
        let ed = Ed25519KeyPair::generate().unwrap();
        let set = json!({"keys": [ec_jwk("ec", &ec), ed_jwk("ed", &ed), rsa_jwk("rsa", &RSA)]});
        let server = KeyServer::start(&tracker, set.to_string()).await;
        let auth = Auth {
            supabase_url: Some(server.url.clone()),
            jwt_secret: Some(SecretString::from(SECRET)),
            jwt_secret_previous: None,
            issuer: format!("{}/auth/v1", server.url),
            plan_claim: vec!["app_metadata".into(), "plan".into()],
            anonymous_plan: None,
            check_session: false,
            issuers: Vec::new(),
        };
        let who = Authenticator::new(&auth, tracker.clone(), clock.clone());
        Self {
            auth,
            who,
            server,
            tracker,
            clock,
            ec,
            ed,
        }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn claims(&self) -> Value {
        let now = self.now().secs();
        json!({"sub": USER, "aud": "authenticated", "role": "authenticated", "iss": self.auth.issuer,
               "iat": now - 5, "exp": now + 3600, "email": "ada@example.com", "phone": "", "is_anonymous": false,
               "app_metadata": {"provider": "email", "plan": "pro"}, "user_metadata": {},
               "session_id": "0b5c1f0e-7a34-4f55-9f0b-3b6f1c2d4e5f", "aal": "aal1"})
    }

    /// The good claims with some of them replaced; `null` removes one.
    fn claims_but(&self, changes: Value) -> Value {
        let mut claims = self.claims();
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    }

    fn claims_without(&self, name: &str) -> Value {
        let mut claims = self.claims();
        claims.as_object_mut().unwrap().remove(name);
        claims
    }

    fn hs256(&self, claims: &Value) -> String {
        hmac_signed(
            &json!({"alg": "HS256", "typ": "JWT"}),
            claims,
            SECRET.as_bytes(),
        )
    }

    fn es256(&self, kid: &str, claims: &Value) -> String {
        ec_signed(
            &json!({"alg": "ES256", "typ": "JWT", "kid": kid}),
            claims,
            &self.ec,
        )
    }

    fn publish(&self, keys: &[Value]) {
        self.server.say(200, json!({ "keys": keys }).to_string());
    }

    async fn ask(&self, token: &str) -> Result<Principal, Refusal> {
        self.send(&[&format!("Bearer {token}")]).await
    }

    async fn send(&self, authorization: &[&str]) -> Result<Principal, Refusal> {
        let mut headers = HeaderMap::new();
        for value in authorization {
            headers.append(
                header::AUTHORIZATION,
                http::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        self.who
            .verify((&headers, "/"), &self.auth, self.now())
            .await
    }

    async fn code(&self, token: &str) -> Code {
        self.ask(token).await.unwrap_err().code
    }

    #[track_caller]
    fn judge(&self, claims: &Value, now: Timestamp) -> Result<Grant, Code> {
        super::claims::judge(claims.as_object().unwrap(), &self.auth, now)
            .map_err(|refusal| refusal.code)
    }

    async fn until_hits(&self, hits: usize) {
        for _ in 0..2500 {
            if self.server.hits() >= hits
                && !self
                    .who
                    .shared
                    .current
                    .load()
                    .jwks
                    .as_ref()
                    .unwrap()
                    .is_fetching()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("{} fetches, not {hits}", self.server.hits());
    }
}

fn message(header: &Value, claims: &Value) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", encode(header), encode(claims))
}

fn join(message: &str, signature: impl AsRef<[u8]>) -> String {
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn hmac_signed(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let message = message(header, claims);
    join(
        &message,
        hmac::sign(
            &hmac::Key::new(hmac::HMAC_SHA256, secret),
            message.as_bytes(),
        ),
    )
}

fn ec_signed(header: &Value, claims: &Value, pair: &EcdsaKeyPair) -> String {
    let message = message(header, claims);
    join(
        &message,
        pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap(),
    )
}

fn ed_signed(header: &Value, claims: &Value, pair: &Ed25519KeyPair) -> String {
    let message = message(header, claims);
    join(&message, pair.sign(message.as_bytes()))
}

fn rsa_signed(header: &Value, claims: &Value) -> String {
    let message = message(header, claims);
    let mut signature = vec![0; RSA.public_modulus_len()];
    RSA.sign(
        &RSA_PKCS1_SHA256,
        &SystemRandom::new(),
        message.as_bytes(),
        &mut signature,
    )
    .unwrap();
    join(&message, signature)
}

#[tokio::test]
async fn every_algorithm_of_supabase_names_the_user() {
    let project = Project::new().await;
    let claims = project.claims();
    let tokens = [
        project.hs256(&claims),
        hmac_signed(
            &json!({"alg": "HS256", "kid": "whatever"}),
            &claims,
            SECRET.as_bytes(),
        ),
        project.es256("ec", &claims),
        ec_signed(&json!({"alg": "ES256"}), &claims, &project.ec),
        ed_signed(
            &json!({"alg": "EdDSA", "typ": "jwt", "kid": "ed"}),
            &claims,
            &project.ed,
        ),
        rsa_signed(
            &json!({"alg": "RS256", "typ": "at+jwt", "kid": "rsa"}),
            &claims,
        ),
    ];
    for token in &tokens {
        // The second time it comes from memory.
        for _ in 0..2 {
            let user = project.ask(token).await.unwrap();
            assert_eq!(user.user_id(), Uuid::parse_str(USER).unwrap());
            assert_eq!(user.email(), Some("ada@example.com"));
            assert_eq!(user.plan_claim(), Some("pro"));
            assert_eq!(
                user.session_id().unwrap().to_string(),
                "0b5c1f0e-7a34-4f55-9f0b-3b6f1c2d4e5f"
            );
            assert_eq!(user.expires_at().secs(), claims["exp"].as_i64().unwrap());
            assert!(!user.is_anonymous());
        }
    }
    assert_eq!(project.server.hits(), 1);
    let health = project.who.health(project.now());
    assert!(health.ok && health.keys == 3 && health.error.is_none() && health.fetched_at.is_some());
    assert_eq!(health.algorithms, ["HS256", "ES256", "RS256", "EdDSA"]);
}

#[tokio::test]
async fn tokens_of_another_library_verify() {
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    let project = Project::new().await;
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    let token = encode(&Header::new(Algorithm::HS256), &project.claims(), &secret).unwrap();
    project.ask(&token).await.unwrap();
    let header = Header {
        kid: Some("ec".into()),
        ..Header::new(Algorithm::ES256)
    };
    let token = encode(
        &header,
        &project.claims(),
        &EncodingKey::from_ec_der(&EC_PKCS8),
    )
    .unwrap();
    project.ask(&token).await.unwrap();
}

/// RFC 7520 §4.4: its payload is prose, so no project would let it in.
#[test]
fn the_hs256_example_of_the_cookbook_verifies() {
    let header = "eyJhbGciOiJIUzI1NiIsImtpZCI6IjAxOGMwYWU1LTRkOWItNDcxYi1iZmQ2LWVlZjMxNGJjNzAzNyJ9";
    let payload = "SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwgYW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9mZiB0by4";
    let token = format!("{header}.{payload}.s0h6KThzkfBBBkLspW1h84VsJZFTsPPqMDA7g1Md7p0");
    let key = URL_SAFE_NO_PAD
        .decode("hJtXIZ2uSN5kbQfbtTNWbpdmhkV8FJG-Onbc6mxCcYg")
        .unwrap();
    let parts = Parts::split(&token).ok().unwrap();
    assert_eq!(
        (parts.scheme, parts.kid.as_deref()),
        (Scheme::Secret, Some("018c0ae5-4d9b-471b-bfd6-eef314bc7037"))
    );
    hmac::verify(
        &hmac::Key::new(hmac::HMAC_SHA256, &key),
        parts.message,
        &parts.signature,
    )
    .unwrap();
    assert!(parts.claims().is_none(), "prose is no claims");
}

/// RFC 7515 appendix A.1: its key is binary, so the primitive is tried and not a project.
#[test]
fn the_hs256_example_of_the_rfc_verifies() {
    let message = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let token = format!("{message}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
    let key =
        "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let key = hmac::Key::new(hmac::HMAC_SHA256, &URL_SAFE_NO_PAD.decode(key).unwrap());
    let parts = Parts::split(&token).ok().unwrap();
    assert_eq!((parts.scheme, parts.kid.as_deref()), (Scheme::Secret, None));
    hmac::verify(&key, parts.message, &parts.signature).unwrap();
}

#[tokio::test]
async fn a_remembered_token_ends_with_its_own_time() {
    let project = Project::new().await;
    let claims =
        project.claims_but(json!({"exp": project.now().secs() + 60, "iat": project.now().secs()}));
    for token in [project.hs256(&claims), project.es256("ec", &claims)] {
        project.ask(&token).await.unwrap();
        project.clock.shift(-40_000);
        assert_eq!(
            project.code(&token).await,
            Code::InvalidToken,
            "issued in the future"
        );
        project.clock.shift(40_000);
        project.ask(&token).await.unwrap();
        project.clock.shift(80_000);
        project.ask(&token).await.unwrap();
        project.clock.shift(10_000);
        assert_eq!(project.code(&token).await, Code::TokenExpired);
        project.clock.shift(-90_000);
        project.ask(&token).await.unwrap();
    }
}

#[tokio::test]
async fn only_whole_tokens_that_were_verified_are_remembered() {
    let project = Project::new().await;
    let token = project.hs256(&project.claims());
    let remembered = || project.who.shared.current.load().verified.len();
    project.code(&token[..token.len() - 4]).await;
    project
        .code(&project.hs256(&project.claims_but(json!({"aud": "x"}))))
        .await;
    project
        .code(&project.es256("unknown", &project.claims()))
        .await;
    project
        .code(&project.hs256(&project.claims_but(json!({"is_anonymous": true}))))
        .await;
    assert_eq!(remembered(), 0);
    project.ask(&token).await.unwrap();
    project.ask(&token).await.unwrap();
    assert_eq!(remembered(), 1);
    let (message, _) = token.rsplit_once('.').unwrap();
    assert_eq!(
        project.code(&join(message, [0; 32])).await,
        Code::InvalidToken,
        "the signature is part of the name"
    );
}

#[tokio::test]
async fn changed_settings_forget_what_the_old_ones_verified() {
    let project = Project::new().await;
    let token = project.hs256(&project.claims());
    project.ask(&token).await.unwrap();
    let mut changed = Vec::new();
    let mut but = |change: fn(&mut Auth)| {
        let mut auth = project.auth.clone();
        change(&mut auth);
        changed.push(auth);
    };
    but(|auth| {
        auth.jwt_secret = Some(SecretString::from(
            "another secret that is long enough to be one",
        ));
    });
    but(|auth| auth.jwt_secret = None);
    but(|auth| auth.issuer = "https://other.example/auth/v1".into());
    let mut headers = HeaderMap::new();
    headers.insert(
        header::AUTHORIZATION,
        format!("Bearer {token}").parse().unwrap(),
    );
    for auth in changed {
        let refusal = project
            .who
            .verify((&headers, "/"), &auth, project.now())
            .await
            .unwrap_err();
        assert_eq!(refusal.code, Code::InvalidToken);
        project.ask(&token).await.unwrap();
    }
    // The keys stay when only other settings change, and go with their URL.
    project
        .ask(&project.es256("ec", &project.claims()))
        .await
        .unwrap();
    let mut auth = project.auth.clone();
    auth.plan_claim = vec!["plan".into()];
    project.who.reload(&auth);
    assert_eq!(project.server.hits(), 1);
    let other = KeyServer::start(&project.tracker, r#"{"keys":[]}"#.into()).await;
    auth.supabase_url = Some(other.url.clone());
    headers.insert(
        header::AUTHORIZATION,
        format!("Bearer {}", project.es256("ec", &project.claims()))
            .parse()
            .unwrap(),
    );
    let refusal = project
        .who
        .verify((&headers, "/"), &auth, project.now())
        .await
        .unwrap_err();
    assert_eq!(
        (refusal.code, other.hits(), project.server.hits()),
        (Code::InvalidToken, 1, 1)
    );
}

#[test]
fn settings_are_the_same_only_if_every_field_is() {
    let auth = |issuer: &str, path: &[&str], plan: Option<&str>| Auth {
        supabase_url: None,
        jwt_secret: None,
        jwt_secret_previous: None,
        issuer: issuer.into(),
        plan_claim: path.iter().map(|name| (*name).to_owned()).collect(),
        anonymous_plan: plan.map(str::to_owned),
        check_session: false,
        issuers: Vec::new(),
    };
    let all = [
        auth("", &["a"], None),
        auth("a", &[], None),
        auth("", &[], Some("a")),
        auth("", &[], Some("")),
        auth("", &[], None),
        auth("", &["a", "b"], None),
        auth("", &["ab"], None),
        auth("", &["a\u{1}b"], None),
        Auth {
            supabase_url: Some("a".into()),
            ..auth("", &[], None)
        },
        Auth {
            jwt_secret: Some("a".into()),
            ..auth("", &[], None)
        },
        Auth {
            jwt_secret: Some("b".into()),
            ..auth("", &[], None)
        },
        Auth {
            jwt_secret_previous: Some("a".into()),
            ..auth("", &[], None)
        },
    ];
    for (i, one) in all.iter().enumerate() {
        for (j, other) in all.iter().enumerate() {
            assert_eq!(says_the_same(one, other), i == j);
        }
    }
}

#[tokio::test]
async fn a_minted_token_is_a_users() {
    let mut project = Project::new().await;
    let user_id = Uuid::parse_str(USER).unwrap();
    let issuer = project.auth.issuer.clone();
    let claims = MintClaims {
        is_anonymous: false,
        user_id,
        plan: Some("pro".into()),
        email: Some("ada@example.com".into()),
        expires_in: Duration::from_hours(1),
        issuer: &issuer,
    };
    let secret = SecretString::from(SECRET);
    let token = mint(&secret, claims.clone(), project.now()).unwrap();
    let user = project.ask(&token).await.unwrap();
    assert_eq!(
        (user.user_id(), user.plan_claim(), user.email()),
        (user_id, Some("pro"), Some("ada@example.com"))
    );
    assert!(user.session_id().is_some());
    assert_eq!(
        user.expires_at().secs(),
        project.now().plus(Duration::from_hours(1)).secs()
    );
    assert!(mint(&SecretString::from(""), claims.clone(), project.now()).is_err());
    project.auth.issuer = String::new();
    let bare = MintClaims {
        plan: None,
        email: None,
        issuer: "",
        ..claims
    };
    let user = project
        .ask(&mint(&secret, bare, project.now()).unwrap())
        .await
        .unwrap();
    assert_eq!((user.plan_claim(), user.email()), (None, None));
    project.clock.shift(2 * 60 * MINUTE_MS);
    assert_eq!(project.code(&token).await, Code::TokenExpired);
}
