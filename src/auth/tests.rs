//! Tokens, good and hostile, against an [`Authenticator`] and a JWKS server on port 0.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::string_slice,
    clippy::needless_pass_by_value,
    clippy::unused_self,
    reason = "in a test a panic is a finding, and a call is to read like a sentence"
)]

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, RSA_PKCS1_SHA256};
use aws_lc_rs::signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::*;
use crate::jwks::tests::{KeyServer, ec_jwk, ec_pair, ed_jwk, rsa_jwk};

const SECRET: &str = "a-development-secret-of-more-than-32-bytes";
const USER: &str = "9f8b7c6d-5e4f-4a3b-8c2d-1e0f9a8b7c6d";
const MINUTE_MS: i64 = 60_000;

static RSA: LazyLock<RsaKeyPair> = LazyLock::new(|| RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
static EC_PKCS8: LazyLock<Vec<u8>> = LazyLock::new(|| {
    EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap().as_ref().to_vec()
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
            issuer: format!("{}/auth/v1", server.url),
            plan_claim: vec!["app_metadata".into(), "plan".into()],
            anonymous_plan: None,
        };
        let who = Authenticator::new(&auth, tracker.clone(), clock.clone());
        Self { auth, who, server, tracker, clock, ec, ed }
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
        hmac_signed(&json!({"alg": "HS256", "typ": "JWT"}), claims, SECRET.as_bytes())
    }

    fn es256(&self, kid: &str, claims: &Value) -> String {
        ec_signed(&json!({"alg": "ES256", "typ": "JWT", "kid": kid}), claims, &self.ec)
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
            headers.append(header::AUTHORIZATION, http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        self.who.verify(&headers, &self.auth, self.now()).await
    }

    async fn code(&self, token: &str) -> Code {
        self.ask(token).await.unwrap_err().code
    }

    #[track_caller]
    fn judge(&self, claims: &Value, now: Timestamp) -> Result<Grant, Code> {
        claims::judge(claims.as_object().unwrap(), &self.auth, now).map_err(|refusal| refusal.code)
    }

    async fn until_hits(&self, hits: usize) {
        for _ in 0..2500 {
            if self.server.hits() >= hits && !self.who.shared.current.load().jwks.as_ref().unwrap().is_fetching() {
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
    join(&message, hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes()))
}

fn ec_signed(header: &Value, claims: &Value, pair: &EcdsaKeyPair) -> String {
    let message = message(header, claims);
    join(&message, pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap())
}

fn ed_signed(header: &Value, claims: &Value, pair: &Ed25519KeyPair) -> String {
    let message = message(header, claims);
    join(&message, pair.sign(message.as_bytes()))
}

fn rsa_signed(header: &Value, claims: &Value) -> String {
    let message = message(header, claims);
    let mut signature = vec![0; RSA.public_modulus_len()];
    RSA.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
    join(&message, signature)
}

#[tokio::test]
async fn every_algorithm_of_supabase_names_the_user() {
    let project = Project::new().await;
    let claims = project.claims();
    let tokens = [
        project.hs256(&claims),
        hmac_signed(&json!({"alg": "HS256", "kid": "whatever"}), &claims, SECRET.as_bytes()),
        project.es256("ec", &claims),
        ec_signed(&json!({"alg": "ES256"}), &claims, &project.ec),
        ed_signed(&json!({"alg": "EdDSA", "typ": "jwt", "kid": "ed"}), &claims, &project.ed),
        rsa_signed(&json!({"alg": "RS256", "typ": "at+jwt", "kid": "rsa"}), &claims),
    ];
    for token in &tokens {
        // The second time it comes from memory.
        for _ in 0..2 {
            let user = project.ask(token).await.unwrap();
            assert_eq!(user.user_id(), Uuid::parse_str(USER).unwrap());
            assert_eq!(user.email(), Some("ada@example.com"));
            assert_eq!(user.plan_claim(), Some("pro"));
            assert_eq!(user.session_id().unwrap().to_string(), "0b5c1f0e-7a34-4f55-9f0b-3b6f1c2d4e5f");
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
    let header = Header { kid: Some("ec".into()), ..Header::new(Algorithm::ES256) };
    let token = encode(&header, &project.claims(), &EncodingKey::from_ec_der(&EC_PKCS8)).unwrap();
    project.ask(&token).await.unwrap();
}

/// RFC 7515 appendix A.1: its key is binary, so the primitive is tried and not a project.
#[test]
fn the_hs256_example_of_the_rfc_verifies() {
    let message = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let token = format!("{message}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
    let key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let key = hmac::Key::new(hmac::HMAC_SHA256, &URL_SAFE_NO_PAD.decode(key).unwrap());
    let parts = Parts::split(&token).ok().unwrap();
    assert_eq!((parts.scheme, parts.kid.as_deref()), (Scheme::Secret, None));
    hmac::verify(&key, parts.message, &parts.signature).unwrap();
}

#[tokio::test]
async fn an_alg_that_is_not_one_of_four_is_refused_whatever_the_signature() {
    let project = Project::new().await;
    let algs = json!(["none", "None", "NONE", "nOnE", "none ", "", "hs256", "HS256 ", "HS384", "HS512", "ES384", "ES512",
                      "ES256K", "PS256", "RS512", "Ed25519", "HS256\u{0}", null, 0, true, ["HS256"], {"alg": "HS256"}]);
    for alg in algs.as_array().unwrap() {
        for kid in ["ec", "rsa", "none"] {
            let header = json!({"alg": alg, "typ": "JWT", "kid": kid});
            let message = message(&header, &project.claims());
            for token in [
                format!("{message}."),
                message.clone(),
                hmac_signed(&header, &project.claims(), SECRET.as_bytes()),
                ec_signed(&header, &project.claims(), &project.ec),
            ] {
                assert_eq!(project.code(&token).await, Code::InvalidToken, "{header}");
            }
        }
    }
    let unnamed = hmac_signed(&json!({"typ": "JWT"}), &project.claims(), SECRET.as_bytes());
    assert_eq!(project.code(&unnamed).await, Code::InvalidToken);
    let unsigned = format!("{}.", message(&json!({"alg": "HS256"}), &project.claims()));
    assert_eq!(project.code(&unsigned).await, Code::InvalidToken);
    assert_eq!(project.server.hits(), 0, "no key is looked for");
}

#[tokio::test]
async fn a_public_key_is_no_shared_secret_in_any_encoding() {
    let mut project = Project::new().await;
    let jwk = ec_jwk("ec", &project.ec);
    let point = project.ec.public_key().as_ref().to_vec();
    // SubjectPublicKeyInfo of a P-256 point (RFC 5480).
    let der = [URL_SAFE_NO_PAD.decode("MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE").unwrap(), point[1..].to_vec()].concat();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(&der));
    let encodings: Vec<Vec<u8>> = vec![
        jwk.to_string().into_bytes(),
        json!({"keys": [jwk]}).to_string().into_bytes(),
        json!({"keys": [jwk, ed_jwk("ed", &project.ed), rsa_jwk("rsa", &RSA)]}).to_string().into_bytes(),
        jwk["x"].as_str().unwrap().as_bytes().to_vec(),
        pem.trim_end().as_bytes().to_vec(),
        pem.into_bytes(),
        der,
        point.clone(),
        point[1..].to_vec(),
        project.ed.public_key().as_ref().to_vec(),
        RSA.public_key().as_ref().to_vec(),
        Vec::new(),
    ];
    for secret in [Some(SecretString::from(SECRET)), Some(SecretString::from("")), None] {
        project.auth.jwt_secret = secret;
        for encoding in &encodings {
            for header in
                [json!({"alg": "HS256", "kid": "ec"}), json!({"alg": "HS256"}), json!({"alg": "ES256", "kid": "ec"})]
            {
                let token = hmac_signed(&header, &project.claims(), encoding);
                assert_eq!(project.code(&token).await, Code::InvalidToken);
            }
        }
    }
}

#[tokio::test]
async fn a_symmetric_key_in_the_set_is_never_used() {
    let project = Project::new().await;
    let key = b"a key that an attacker put into the set";
    let oct = |alg: &str| json!({"kty": "oct", "kid": alg, "alg": alg, "use": "sig", "k": URL_SAFE_NO_PAD.encode(key)});
    project.publish(&[oct("HS256"), oct("ES256")]);
    for alg in ["HS256", "ES256"] {
        let token = hmac_signed(&json!({"alg": alg, "kid": alg}), &project.claims(), key);
        assert_eq!(project.code(&token).await, Code::InvalidToken);
    }
}

#[tokio::test]
async fn the_secret_is_its_text_and_not_base64_of_something() {
    let mut project = Project::new().await;
    let text = STANDARD.encode([7_u8; 48]);
    project.auth.jwt_secret = Some(SecretString::from(text.clone()));
    let header = json!({"alg": "HS256"});
    project.ask(&hmac_signed(&header, &project.claims(), text.as_bytes())).await.unwrap();
    assert_eq!(project.code(&hmac_signed(&header, &project.claims(), &[7; 48])).await, Code::InvalidToken);
}

#[tokio::test]
async fn a_key_verifies_its_own_algorithm_only() {
    let project = Project::new().await;
    for (alg, kid) in [("ES256", "rsa"), ("ES256", "ed"), ("RS256", "ec"), ("EdDSA", "ec")] {
        let token = ec_signed(&json!({"alg": alg, "kid": kid}), &project.claims(), &project.ec);
        assert_eq!(project.code(&token).await, Code::InvalidToken, "{alg} {kid}");
    }
    assert_eq!(project.server.hits(), 1, "the kid was known: nothing to ask for");
}

#[tokio::test]
async fn an_es256_signature_with_an_edge_value_a_wrong_length_or_in_der_is_refused() {
    let project = Project::new().await;
    let header = json!({"alg": "ES256", "kid": "ec"});
    let message = message(&header, &project.claims());
    let hex =
        |text: &str| (0..32).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect::<Vec<_>>();
    let n = hex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551");
    let less = hex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632550");
    let good = project.ec.sign(&SystemRandom::new(), message.as_bytes()).unwrap().as_ref().to_vec();
    let numbers = [vec![0; 32], [vec![0; 31], vec![1]].concat(), less, n, vec![0xff; 32]];
    let mut forged: Vec<Vec<u8>> = Vec::new();
    for r in numbers.iter().chain([&good[..32].to_vec()]) {
        forged.extend(numbers.iter().map(|s| [r.clone(), s.clone()].concat()));
    }
    forged.extend(numbers.iter().map(|r| [r.clone(), good[32..].to_vec()].concat()));
    forged.extend([vec![], good[..63].to_vec(), [good.clone(), vec![0]].concat(), [vec![0], good.clone()].concat()]);
    forged.extend([[good.clone(), good.clone()].concat(), vec![0; 96]]);
    let der = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &EC_PKCS8).unwrap();
    forged.push(der.sign(&SystemRandom::new(), message.as_bytes()).unwrap().as_ref().to_vec());
    for signature in forged {
        assert_eq!(project.code(&join(&message, &signature)).await, Code::InvalidToken, "{signature:?}");
    }
    project.ask(&join(&message, good)).await.unwrap();
}

#[tokio::test]
async fn a_header_that_brings_its_own_key_is_refused_and_nobody_is_called() {
    let project = Project::new().await;
    let trap = KeyServer::start(&project.tracker, json!({"keys": [ec_jwk("trap", &project.ec)]}).to_string()).await;
    let attacker = ec_pair();
    let extras = [
        ("jku", json!(trap.url)),
        ("x5u", json!(trap.url)),
        ("jwk", ec_jwk("ec", &attacker)),
        ("x5c", json!([STANDARD.encode(attacker.public_key().as_ref())])),
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("crit", Value::Null),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("enc", json!("A128GCM")),
        ("typ", json!("JWE")),
        ("typ", json!(1)),
    ];
    for (name, value) in extras {
        for (alg, kid) in [("ES256", "ec"), ("ES256", "trap"), ("HS256", "ec")] {
            let mut header = json!({"alg": alg, "kid": kid});
            header[name] = value.clone();
            // Even the project's own keys do not make up for it.
            let good = ec_signed(&header, &project.claims(), &project.ec);
            let forged = ec_signed(&header, &project.claims(), &attacker);
            let shared = hmac_signed(&header, &project.claims(), SECRET.as_bytes());
            for token in [good, forged, shared] {
                assert_eq!(project.code(&token).await, Code::InvalidToken, "{header}");
            }
        }
    }
    assert_eq!((trap.hits(), project.server.hits()), (0, 0));
}

#[tokio::test]
async fn odd_kids_are_refused_and_dangerous_to_nothing() {
    let project = Project::new().await;
    let kids = json!(["../../../../etc/passwd", "/dev/null", "' or 1=1 --", "\u{0}", "ec\u{0}", "EC", "", " ec", "ec\n",
                      "http://127.0.0.1/keys", "k".repeat(256), "k".repeat(257), "k".repeat(4096), "k".repeat(300 * 1024),
                      null, 7, true, ["ec"], {"kid": "ec"}]);
    for kid in kids.as_array().unwrap() {
        let token = ec_signed(&json!({"alg": "ES256", "kid": kid}), &project.claims(), &project.ec);
        assert_eq!(project.code(&token).await, Code::InvalidToken, "{:.80}", kid.to_string());
    }
    let long = hmac_signed(&json!({"alg": "HS256", "kid": "k".repeat(257)}), &project.claims(), SECRET.as_bytes());
    assert_eq!(project.code(&long).await, Code::InvalidToken);
    assert!(project.server.hits() <= 2);
}

#[tokio::test]
async fn a_token_that_is_no_jwt_is_refused() {
    let project = Project::new().await;
    let good = project.hs256(&project.claims());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (head, payload) = message.split_once('.').unwrap();
    let array = URL_SAFE_NO_PAD.encode(r#"["HS256"]"#);
    let mut tokens = vec![".".into(), "..".into(), "...".into(), "a.b.c".into(), head.into(), message.into()];
    tokens.extend([format!("{good}."), format!(".{good}"), format!("{good}.{signature}"), format!("{good}=")]);
    tokens.extend([format!("{head}=.{payload}.{signature}"), format!("{payload}.{head}.{signature}")]);
    tokens.extend([format!("{array}.{payload}.{signature}"), format!("{head}.{payload}A.{signature}")]);
    tokens.extend(["' or 1=1 --".into(), "null".into(), "%00".into(), "é.é.é".into(), "a".repeat(9000)]);
    // The last character of 32 bytes in base64url has two bits that mean nothing: another spelling is another token.
    tokens.push(format!("{}{}", &good[..good.len() - 1], next_letter(good.chars().last().unwrap())));
    for token in tokens {
        assert_eq!(project.code(&token).await, Code::InvalidToken, "{token:.90}");
    }
    let deep = "[".repeat(3000) + &"]".repeat(3000);
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","x":{deep}}}"#));
    assert_eq!(project.code(&format!("{header}.{payload}.{signature}")).await, Code::InvalidToken);
    for claims in [json!([]), json!("x"), Value::Null, json!([project.claims()])] {
        assert_eq!(project.code(&project.hs256(&claims)).await, Code::InvalidToken);
    }
}

fn next_letter(last: char) -> char {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = ALPHABET.find(last).unwrap();
    ALPHABET.chars().nth(at ^ 1).unwrap()
}

#[tokio::test]
async fn a_token_is_at_most_eight_kibibytes() {
    let project = Project::new().await;
    let sized = |pad: usize| project.hs256(&project.claims_but(json!({"pad": "x".repeat(pad)})));
    let base = sized(0).len();
    // Base64 makes four characters of three bytes.
    let most = (BEARER_BYTES_MAX - "Bearer ".len() - base) * 3 / 4 - 3;
    project.ask(&sized(most)).await.unwrap();
    assert_eq!(project.code(&sized(most + 12)).await, Code::InvalidToken);
}

#[tokio::test]
async fn there_is_exactly_one_bearer_token() {
    let project = Project::new().await;
    let token = project.hs256(&project.claims());
    let good = format!("Bearer {token}");
    for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
        project.send(&[&format!("{scheme} {token}")]).await.unwrap();
    }
    for missing in [&[][..], &[""]] {
        assert_eq!(project.send(missing).await.unwrap_err().code, Code::MissingToken, "{missing:?}");
    }
    let bad: &[&[&str]] = &[
        &["Basic dXNlcjpwYXNz"],
        &["Bearer"],
        &["Bearer "],
        &["Bearer   "],
        &[&token],
        &[&format!("Token {token}")],
        &[&format!("Bearer{token}")],
        &[&format!("Bearer\t{token}")],
        &[&format!("Bearer {token} {token}")],
        &[&format!("Bearer {token},Bearer {token}")],
        &[&format!("Bearer {token}, Bearer {token}")],
        &[&format!("Bearer Bearer {token}")],
        &["' or 1=1; --"],
        &["Bearer ' or 1=1; --"],
        &["Bearer \u{e9}"],
        &[&good, &good],
        &[&good, ""],
        &["", &good],
        &["Basic dXNlcjpwYXNz", &good],
        &[&good, "Basic dXNlcjpwYXNz"],
    ];
    for headers in bad {
        let refusal = project.send(headers).await.unwrap_err();
        assert_eq!(refusal.status(), 401, "{headers:?}");
        assert!(matches!(refusal.code, Code::InvalidToken | Code::MissingToken), "{headers:?}");
    }
    assert_eq!(project.server.hits(), 0);
}

#[tokio::test]
async fn times_are_whole_seconds_with_thirty_seconds_of_leeway() {
    let project = Project::new().await;
    let now = Timestamp::from_secs(1_800_000_000);
    let base = project.claims_but(json!({"exp": 1_800_000_100, "iat": 1_799_999_000}));
    let but = |name: &str, value: Value| {
        let mut claims = base.clone();
        claims[name] = value;
        claims
    };
    for exp in [json!(1_799_999_971), json!(1_800_000_000.0), json!(1.8e9), json!(253_402_300_799_i64)] {
        assert!(project.judge(&but("exp", exp.clone()), now).is_ok(), "{exp}");
    }
    for exp in [json!(1_799_999_970), json!(1), json!(0), json!(0.0)] {
        assert_eq!(project.judge(&but("exp", exp.clone()), now).unwrap_err(), Code::TokenExpired, "{exp}");
    }
    let justly = Timestamp::from_millis(1_800_000_129_999);
    assert!(project.judge(&base, justly).is_ok());
    assert_eq!(project.judge(&base, justly.plus(Duration::from_millis(1))).unwrap_err(), Code::TokenExpired);
    for name in ["nbf", "iat"] {
        for time in [json!(1_800_000_030), json!(1_800_000_030.0), json!(0)] {
            assert!(project.judge(&but(name, time.clone()), now).is_ok(), "{name} {time}");
        }
        for time in [json!(1_800_000_031), json!(9_999_999_999_i64)] {
            assert_eq!(project.judge(&but(name, time.clone()), now).unwrap_err(), Code::InvalidToken, "{name} {time}");
        }
    }
    let nonsense = json!([
        "1800000100",
        "",
        null,
        true,
        [1_800_000_100],
        {},
        -1,
        -1.0,
        -0.5,
        1_800_000_100.5,
        1e300,
        -1e300,
        1e15,
        253_402_300_800_i64,
        u64::MAX,
        i64::MIN
    ]);
    for name in ["exp", "nbf", "iat"] {
        for value in nonsense.as_array().unwrap() {
            let code = project.judge(&but(name, value.clone()), now).unwrap_err();
            assert_eq!(code, Code::InvalidToken, "{name} {value}");
        }
    }
    assert_eq!(project.judge(&project.claims_without("exp"), project.now()).unwrap_err(), Code::InvalidToken);
    assert!(project.judge(&project.claims_without("iat"), project.now()).is_ok());
}

#[tokio::test]
async fn expired_is_said_only_when_nothing_else_is_wrong() {
    let project = Project::new().await;
    let past = json!(project.now().secs() - 31);
    let expired = project.claims_but(json!({"exp": past}));
    assert_eq!(project.code(&project.hs256(&expired)).await, Code::TokenExpired);
    assert_eq!(project.code(&project.es256("ec", &expired)).await, Code::TokenExpired);
    let header = json!({"alg": "HS256"});
    assert_eq!(project.code(&hmac_signed(&header, &expired, b"another secret")).await, Code::InvalidToken);
    for change in [
        json!({"aud": "other"}),
        json!({"role": "anon"}),
        json!({"iss": "https://other.example/auth/v1"}),
        json!({"sub": "nobody"}),
        json!({"is_anonymous": 1}),
        json!({"nbf": project.now().secs() + 3600}),
    ] {
        let mut claims = expired.clone();
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        assert_eq!(project.code(&project.hs256(&claims)).await, Code::InvalidToken, "{change}");
    }
}

#[tokio::test]
async fn audience_role_and_issuer_are_exactly_those_of_a_user_of_this_project() {
    let mut project = Project::new().await;
    let ok = |project: &Project, changes: Value| project.judge(&project.claims_but(changes), project.now()).is_ok();
    assert!(ok(&project, json!({"aud": ["authenticated"]})) && ok(&project, json!({"aud": ["x", "authenticated"]})));
    for aud in [json!("anon"), json!("Authenticated"), json!(""), json!([]), json!(["x"]), json!(["authenticated", 1])]
    {
        assert!(!ok(&project, json!({"aud": aud})), "{aud}");
    }
    for wrong in [Value::Null, json!(1), json!({"authenticated": true}), json!("supabase_admin"), json!(["anon"])] {
        assert!(!ok(&project, json!({"aud": wrong})) && !ok(&project, json!({"role": wrong})), "{wrong}");
    }
    assert!(!ok(&project, json!({"role": ["authenticated"]})));
    let issuer = project.auth.issuer.clone();
    for iss in
        [json!(""), Value::Null, json!([issuer]), json!(format!("{issuer}/")), json!("https://x.supabase.co/auth/v1")]
    {
        assert!(!ok(&project, json!({"iss": iss})), "{iss}");
    }
    for required in ["aud", "role", "iss", "sub", "exp"] {
        assert!(project.judge(&project.claims_without(required), project.now()).is_err(), "{required}");
    }
    project.auth.issuer = String::new();
    assert!(ok(&project, json!({"iss": "https://x.supabase.co/auth/v1"})));
    assert!(project.judge(&project.claims_without("iss"), project.now()).is_ok());
}

#[tokio::test]
async fn one_user_in_any_spelling_and_nobody_else() {
    let project = Project::new().await;
    let user = Uuid::parse_str(USER).unwrap();
    let simple = USER.replace('-', "");
    for sub in [USER.to_uppercase(), simple, format!("{{{USER}}}"), format!("urn:uuid:{USER}")] {
        let grant = project.judge(&project.claims_but(json!({"sub": sub})), project.now()).unwrap();
        assert_eq!(grant.principal.user_id(), user);
    }
    let nil = Uuid::nil().to_string();
    for sub in [
        json!(""),
        json!("me"),
        json!(nil),
        json!(nil.replace('-', "")),
        json!(7),
        Value::Null,
        json!([USER]),
        json!(format!("{USER} ")),
        json!(format!("{USER}\u{0}")),
        json!("' or 1=1 --"),
    ] {
        assert!(project.judge(&project.claims_but(json!({"sub": sub})), project.now()).is_err(), "{sub}");
    }
}

#[tokio::test]
async fn api_keys_are_never_users_and_are_told_so() {
    let mut project = Project::new().await;
    project.auth.issuer = String::new();
    let later = project.now().secs() + 3600;
    for role in ["anon", "service_role"] {
        let legacy = json!({"iss": "supabase", "ref": "abcdefghijklmnopqrst", "role": role, "iat": 1, "exp": later});
        let refusal = project.ask(&project.hs256(&legacy)).await.unwrap_err();
        assert_eq!((refusal.code, refusal.message.as_str()), (Code::InvalidToken, API_KEY_MESSAGE));
        let dressed_up = project.claims_but(json!({"role": role}));
        assert_eq!(project.code(&project.hs256(&dressed_up)).await, Code::InvalidToken);
    }
    for key in ["sb_publishable_ACJWlzQHlZjBrEguHvfOxg_3BJgxAaH", "sb_secret_N7UND0UgjKTVK-Uodkm0Hg_xSvEMPvz"] {
        let refusal = project.ask(key).await.unwrap_err();
        assert_eq!((refusal.code, refusal.message.as_str()), (Code::InvalidToken, API_KEY_MESSAGE));
    }
}

#[tokio::test]
async fn what_users_write_themselves_decides_nothing() {
    let mut project = Project::new().await;
    let claims = project.claims_but(json!({
        "app_metadata": {"provider": "email"},
        "user_metadata": {"plan": "pro", "role": "service_role", "app_metadata": {"plan": "pro"}, "is_anonymous": false},
        "plan": "top",
    }));
    assert_eq!(project.ask(&project.hs256(&claims)).await.unwrap().plan_claim(), None);
    project.auth.plan_claim = vec!["user_metadata".into(), "plan".into()];
    assert_eq!(project.ask(&project.hs256(&claims)).await.unwrap().plan_claim(), None);
    project.auth.plan_claim = vec!["plan".into()];
    assert_eq!(project.ask(&project.hs256(&claims)).await.unwrap().plan_claim(), Some("top"));
    project.auth.plan_claim = vec![];
    assert_eq!(project.ask(&project.hs256(&claims)).await.unwrap().plan_claim(), None);
}

#[tokio::test]
async fn a_plan_or_address_that_is_no_short_text_is_none() {
    let project = Project::new().await;
    let grant = |changes: Value| project.judge(&project.claims_but(changes), project.now()).unwrap().principal;
    for plan in [json!(""), json!("p".repeat(65)), json!(1), Value::Null, json!(["pro"]), json!({"name": "pro"})] {
        assert_eq!(grant(json!({"app_metadata": {"plan": plan}})).plan_claim(), None, "{plan}");
    }
    for metadata in [json!("plan"), json!(["plan"]), Value::Null] {
        assert_eq!(grant(json!({"app_metadata": metadata})).plan_claim(), None);
    }
    let longest = "p".repeat(64);
    assert_eq!(grant(json!({"app_metadata": {"plan": longest}})).plan_claim(), Some(longest.as_str()));
    for email in [json!(""), json!("e".repeat(321)), json!(1), Value::Null] {
        assert_eq!(grant(json!({"email": email})).email(), None, "{email}");
    }
}

#[tokio::test]
async fn anonymous_users_need_a_plan_of_their_own() {
    let mut project = Project::new().await;
    let token = project.hs256(&project.claims_but(json!({"is_anonymous": true})));
    assert_eq!(project.code(&token).await, Code::AnonymousNotAllowed);
    project.auth.anonymous_plan = Some("guest".into());
    assert!(project.ask(&token).await.unwrap().is_anonymous());
    project.auth.anonymous_plan = None;
    assert_eq!(project.code(&token).await, Code::AnonymousNotAllowed, "what was remembered is forgotten");
    for wrong in [json!("true"), json!("false"), json!(0), Value::Null, json!([])] {
        let token = project.hs256(&project.claims_but(json!({"is_anonymous": wrong})));
        assert_eq!(project.code(&token).await, Code::InvalidToken, "{wrong}");
    }
    assert!(!project.ask(&project.hs256(&project.claims_without("is_anonymous"))).await.unwrap().is_anonymous());
}

#[tokio::test]
async fn a_flood_of_unknown_kids_costs_one_fetch() {
    let project = Project::new().await;
    let good = project.es256("ec", &project.claims());
    project.ask(&good).await.unwrap();
    project.server.delay(Duration::from_secs(1));
    let mut flood = tokio::task::JoinSet::new();
    for n in 0..2000 {
        let (who, auth, now) = (project.who.clone(), project.auth.clone(), project.now());
        let token = project.es256(&format!("kid-{n}"), &json!({"sub": n}));
        flood.spawn(async move {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
            who.verify(&headers, &auth, now).await.unwrap_err().code
        });
        if n == 1000 {
            let fresh = project.es256("ec", &project.claims_but(json!({"phone": "1"})));
            let begun = std::time::Instant::now();
            project.ask(&fresh).await.unwrap();
            assert!(begun.elapsed() < Duration::from_millis(900), "a good token does not wait for the flood's fetch");
        }
    }
    while let Some(code) = flood.join_next().await {
        assert_eq!(code.unwrap(), Code::InvalidToken);
    }
    assert_eq!(project.server.hits(), 2);
    let begun = std::time::Instant::now();
    assert_eq!(project.code(&project.es256("one more", &project.claims())).await, Code::InvalidToken);
    assert!(begun.elapsed() < Duration::from_millis(900), "within the cool-down nobody waits");
    project.clock.shift(31_000);
    assert_eq!(project.code(&project.es256("later", &project.claims())).await, Code::InvalidToken);
    assert_eq!(project.server.hits(), 3);
}

#[tokio::test]
async fn a_rotation_is_noticed_at_once_and_what_the_old_key_verified_is_forgotten() {
    let project = Project::new().await;
    let old = project.es256("ec", &project.claims());
    project.ask(&old).await.unwrap();
    let next = ec_pair();
    project.publish(&[ec_jwk("ec", &project.ec), ec_jwk("next", &next)]);
    let new = ec_signed(&json!({"alg": "ES256", "kid": "next"}), &project.claims(), &next);
    project.ask(&new).await.unwrap();
    project.ask(&old).await.unwrap();
    assert_eq!(project.server.hits(), 2);
    // The old key is revoked; the set is asked for again when it is ten minutes old.
    project.publish(&[ec_jwk("next", &next)]);
    project.clock.shift(10 * MINUTE_MS);
    project.ask(&old).await.unwrap();
    project.until_hits(3).await;
    project.ask(&new).await.unwrap();
    assert_eq!(project.code(&old).await, Code::InvalidToken);
    // The same kid with another key is another key.
    project.publish(&[ec_jwk("next", &project.ec)]);
    project.clock.shift(10 * MINUTE_MS);
    project.ask(&new).await.unwrap();
    project.until_hits(5).await;
    assert_eq!(project.code(&new).await, Code::InvalidToken);
}

#[tokio::test]
async fn keys_ten_minutes_old_are_refreshed_behind_the_request() {
    let project = Project::new().await;
    let token = project.es256("ec", &project.claims());
    project.ask(&token).await.unwrap();
    project.clock.shift(10 * MINUTE_MS - 1000);
    project.ask(&token).await.unwrap();
    assert_eq!(project.server.hits(), 1);
    project.clock.shift(1000);
    project.server.delay(Duration::from_secs(1));
    let begun = std::time::Instant::now();
    for _ in 0..20 {
        project.ask(&token).await.unwrap();
    }
    assert!(begun.elapsed() < Duration::from_millis(900), "nobody waits for the refresh");
    project.until_hits(2).await;
    project.ask(&token).await.unwrap();
    assert_eq!(project.server.hits(), 2);
}

#[tokio::test]
async fn with_the_jwks_down_keys_serve_for_an_hour_and_then_nobody_is_let_in() {
    let project = Project::new().await;
    let lasting = project.claims_but(json!({"exp": project.now().secs() + 86_400}));
    let remembered = project.es256("ec", &lasting);
    project.ask(&remembered).await.unwrap();
    project.server.say(500, "");
    project.clock.shift(59 * MINUTE_MS);
    project.ask(&remembered).await.unwrap();
    project.ask(&project.es256("ec", &project.claims())).await.unwrap();
    project.until_hits(2).await;
    project.ask(&remembered).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(project.server.hits(), 2, "a refresh that failed is tried again after the cool-down");
    assert!(project.who.health(project.now()).ok);
    assert_eq!(project.who.health(project.now()).error.as_deref(), Some("answered with status 500"));
    project.clock.shift(2 * MINUTE_MS);
    assert_eq!(project.code(&remembered).await, Code::AuthUnavailable);
    assert_eq!(project.code(&project.es256("ec", &project.claims())).await, Code::AuthUnavailable);
    assert_eq!(project.server.hits(), 3, "the second is within the cool-down");
    assert!(!project.who.health(project.now()).ok);
    project.ask(&project.hs256(&project.claims())).await.unwrap();
    project.publish(&[ec_jwk("ec", &project.ec)]);
    project.clock.shift(MINUTE_MS);
    project.ask(&remembered).await.unwrap();
    assert!(project.who.health(project.now()).ok);
}

#[tokio::test]
async fn an_unknown_kid_is_unavailable_while_the_jwks_fails_and_the_good_set_stays() {
    let project = Project::new().await;
    project.ask(&project.es256("ec", &project.claims())).await.unwrap();
    let not_json: [(u16, &str); 5] =
        [(200, "<html>maintenance</html>"), (200, ""), (200, "[]"), (503, r#"{"keys":[]}"#), (404, "")];
    for (status, body) in not_json {
        project.server.say(status, body);
        let refusal = project.ask(&project.es256("new", &project.claims())).await.unwrap_err();
        assert_eq!(refusal.code, Code::AuthUnavailable, "{status} {body}");
        assert!(refusal.retry_after.is_some());
        assert_eq!(project.code(&project.es256("new2", &project.claims())).await, Code::AuthUnavailable);
        project.ask(&project.es256("ec", &project.claims_but(json!({"phone": body})))).await.unwrap();
        project.clock.shift(31_000);
    }
    assert_eq!(project.server.hits(), 6);
}

#[tokio::test]
async fn down_at_start_is_not_ready_and_never_open() {
    let project = Project::new().await;
    project.server.say(503, "");
    assert!(!project.who.health(project.now()).ok, "nothing was fetched yet");
    project.who.warm_up();
    project.until_hits(1).await;
    let health = project.who.health(project.now());
    assert!(!health.ok && health.error.is_some() && health.algorithms == ["HS256"]);
    for kid in ["ec", "x"] {
        assert_eq!(project.code(&project.es256(kid, &project.claims())).await, Code::AuthUnavailable);
    }
    assert_eq!(project.server.hits(), 2);
    project.ask(&project.hs256(&project.claims())).await.unwrap();
    project.publish(&[ec_jwk("ec", &project.ec)]);
    project.who.warm_up();
    project.until_hits(3).await;
    project.ask(&project.es256("ec", &project.claims())).await.unwrap();
    assert!(project.who.health(project.now()).ok);
    // The fetch that ended the outage was nobody's answer to an unknown kid: a rotation right after it is noticed.
    let next = ec_pair();
    project.publish(&[ec_jwk("next", &next)]);
    project.ask(&ec_signed(&json!({"alg": "ES256", "kid": "next"}), &project.claims(), &next)).await.unwrap();
}

#[tokio::test]
async fn an_empty_set_is_an_answer() {
    let mut project = Project::new().await;
    project.publish(&[]);
    assert_eq!(project.code(&project.es256("ec", &project.claims())).await, Code::InvalidToken);
    project.ask(&project.hs256(&project.claims())).await.unwrap();
    let health = project.who.health(project.now());
    assert!(health.ok && health.keys == 0 && health.algorithms == ["HS256"]);
    project.auth.jwt_secret = None;
    assert_eq!(project.code(&project.hs256(&project.claims())).await, Code::InvalidToken);
    assert!(!project.who.health(project.now()).ok, "no token whatever can be verified");
}

#[tokio::test]
async fn without_a_url_public_keys_verify_nothing_and_health_says_so() {
    let mut project = Project::new().await;
    project.auth.supabase_url = None;
    assert_eq!(project.code(&project.es256("ec", &project.claims())).await, Code::InvalidToken);
    project.ask(&project.hs256(&project.claims())).await.unwrap();
    let health = project.who.health(project.now());
    assert!(health.ok && health.note.is_some());
    assert!(!serde_json::to_string(&health).unwrap().contains(SECRET));
}

#[tokio::test]
async fn a_caller_who_leaves_does_not_take_the_fetch_along() {
    let project = Project::new().await;
    project.server.delay(Duration::from_millis(300));
    let token = project.es256("ec", &project.claims());
    let hasty = tokio::time::timeout(Duration::from_millis(30), project.ask(&token)).await;
    assert!(hasty.is_err());
    project.ask(&token).await.unwrap();
    assert_eq!(project.server.hits(), 1);
}

#[tokio::test]
async fn an_idle_server_keeps_its_keys_fresh_by_itself() {
    let project = Project::new().await;
    let who = project.who.clone();
    let keeper = project.tracker.spawn(async move { who.keep_fresh().await });
    project.until_hits(1).await;
    keeper.abort();
    assert!(project.who.health(project.now()).ok);
    project.clock.shift(120 * MINUTE_MS);
    assert!(!project.who.health(project.now()).ok);
    project.who.warm_up();
    project.until_hits(2).await;
    assert!(project.who.health(project.now()).ok);
}

#[tokio::test]
async fn a_clock_set_back_by_days_neither_stops_fetches_nor_lets_the_future_in() {
    let project = Project::new().await;
    project.ask(&project.es256("ec", &project.claims())).await.unwrap();
    let token = project.es256("ec", &project.claims());
    project.clock.shift(-10 * 24 * 60 * MINUTE_MS);
    assert_eq!(project.code(&token).await, Code::InvalidToken);
    project.ask(&project.es256("ec", &project.claims())).await.unwrap();
    let next = ec_pair();
    project.publish(&[ec_jwk("next", &next)]);
    project.ask(&ec_signed(&json!({"alg": "ES256", "kid": "next"}), &project.claims(), &next)).await.unwrap();
}

#[tokio::test]
async fn a_remembered_token_ends_with_its_own_time() {
    let project = Project::new().await;
    let claims = project.claims_but(json!({"exp": project.now().secs() + 60, "iat": project.now().secs()}));
    for token in [project.hs256(&claims), project.es256("ec", &claims)] {
        project.ask(&token).await.unwrap();
        project.clock.shift(-40_000);
        assert_eq!(project.code(&token).await, Code::InvalidToken, "issued in the future");
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
    project.code(&project.hs256(&project.claims_but(json!({"aud": "x"})))).await;
    project.code(&project.es256("unknown", &project.claims())).await;
    project.code(&project.hs256(&project.claims_but(json!({"is_anonymous": true})))).await;
    assert_eq!(remembered(), 0);
    project.ask(&token).await.unwrap();
    project.ask(&token).await.unwrap();
    assert_eq!(remembered(), 1);
    let (message, _) = token.rsplit_once('.').unwrap();
    assert_eq!(project.code(&join(message, [0; 32])).await, Code::InvalidToken, "the signature is part of the name");
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
    but(|auth| auth.jwt_secret = Some(SecretString::from("another secret that is long enough to be one")));
    but(|auth| auth.jwt_secret = None);
    but(|auth| auth.issuer = "https://other.example/auth/v1".into());
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    for auth in changed {
        let refusal = project.who.verify(&headers, &auth, project.now()).await.unwrap_err();
        assert_eq!(refusal.code, Code::InvalidToken);
        project.ask(&token).await.unwrap();
    }
    // The keys stay when only other settings change, and go with their URL.
    project.ask(&project.es256("ec", &project.claims())).await.unwrap();
    let mut auth = project.auth.clone();
    auth.plan_claim = vec!["plan".into()];
    project.who.reload(&auth);
    assert_eq!(project.server.hits(), 1);
    let other = KeyServer::start(&project.tracker, r#"{"keys":[]}"#.into()).await;
    auth.supabase_url = Some(other.url.clone());
    headers
        .insert(header::AUTHORIZATION, format!("Bearer {}", project.es256("ec", &project.claims())).parse().unwrap());
    let refusal = project.who.verify(&headers, &auth, project.now()).await.unwrap_err();
    assert_eq!((refusal.code, other.hits(), project.server.hits()), (Code::InvalidToken, 1, 1));
}

#[test]
fn settings_have_one_digest_and_no_field_flows_into_the_next() {
    let auth = |issuer: &str, path: &[&str], plan: Option<&str>| Auth {
        supabase_url: None,
        jwt_secret: None,
        issuer: issuer.into(),
        plan_claim: path.iter().map(|name| (*name).to_owned()).collect(),
        anonymous_plan: plan.map(str::to_owned),
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
    ];
    for (i, one) in all.iter().enumerate() {
        for (j, other) in all.iter().enumerate() {
            assert_eq!(settings_digest(one) == settings_digest(other), i == j);
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
    assert_eq!((user.user_id(), user.plan_claim(), user.email()), (user_id, Some("pro"), Some("ada@example.com")));
    assert!(user.session_id().is_some());
    assert_eq!(user.expires_at().secs(), project.now().plus(Duration::from_hours(1)).secs());
    assert!(mint(&SecretString::from(""), claims.clone(), project.now()).is_err());
    project.auth.issuer = String::new();
    let bare = MintClaims { plan: None, email: None, issuer: "", ..claims };
    let user = project.ask(&mint(&secret, bare, project.now()).unwrap()).await.unwrap();
    assert_eq!((user.plan_claim(), user.email()), (None, None));
    project.clock.shift(2 * 60 * MINUTE_MS);
    assert_eq!(project.code(&token).await, Code::TokenExpired);
}
