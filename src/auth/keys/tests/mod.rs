//! Keys in every form, and a JWKS server that counts who asks.

mod rfcs;

use std::sync::Arc;
use std::sync::Mutex as StdMutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
use aws_lc_rs::signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use axum::Router;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::set::KEYS_MAX;
use super::*;

/// A server that answers every path with what it was last told to, and counts.
#[derive(Clone)]
pub(crate) struct KeyServer {
    pub(crate) url: String,
    hits: Arc<AtomicUsize>,
    answer: Arc<StdMutex<Answer>>,
}

#[derive(Clone)]
struct Answer {
    status: u16,
    location: Option<String>,
    body: Vec<u8>,
    delay: Duration,
}

impl KeyServer {
    pub(crate) async fn start(tracker: &TaskTracker, body: String) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer = Answer {
            status: 200,
            location: None,
            body: body.into_bytes(),
            delay: Duration::ZERO,
        };
        let server = Self {
            url,
            hits: Arc::default(),
            answer: Arc::new(StdMutex::new(answer)),
        };
        let serving = server.clone();
        let app = Router::new().fallback(move || serving.clone().respond());
        tracker.spawn(async move { axum::serve(listener, app).await });
        server
    }

    async fn respond(self) -> Response {
        self.hits.fetch_add(1, Ordering::SeqCst);
        let answer = self.answer.lock().unwrap().clone();
        tokio::time::sleep(answer.delay).await;
        let mut response = answer.body.into_response();
        *response.status_mut() = StatusCode::from_u16(answer.status).unwrap();
        if let Some(location) = answer.location {
            response
                .headers_mut()
                .insert(header::LOCATION, location.parse().unwrap());
        }
        response
    }

    pub(crate) fn say(&self, status: u16, body: impl Into<Vec<u8>>) {
        let mut answer = self.answer.lock().unwrap();
        answer.status = status;
        answer.body = body.into();
    }

    pub(crate) fn redirect_to(&self, url: &str) {
        let mut answer = self.answer.lock().unwrap();
        answer.status = 302;
        answer.location = Some(url.to_owned());
    }

    pub(crate) fn delay(&self, delay: Duration) {
        self.answer.lock().unwrap().delay = delay;
    }

    pub(crate) fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

pub(crate) fn ec_jwk(kid: &str, pair: &EcdsaKeyPair) -> Value {
    let point = pair.public_key().as_ref();
    json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "key_ops": ["verify"], "ext": true, "kid": kid,
           "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..])})
}

pub(crate) fn ed_jwk(kid: &str, pair: &Ed25519KeyPair) -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": kid,
           "x": URL_SAFE_NO_PAD.encode(pair.public_key().as_ref())})
}

pub(crate) fn rsa_jwk(kid: &str, pair: &RsaKeyPair) -> Value {
    // RSAPublicKey (RFC 8017 A.1.1) of 2048 bits: 4 bytes of sequence, 5 of integer with its leading zero, n, 02 03, e.
    let der = pair.public_key().as_ref();
    json!({"kty": "RSA", "alg": "RS256", "use": "sig", "kid": kid,
           "n": URL_SAFE_NO_PAD.encode(&der[9..265]), "e": URL_SAFE_NO_PAD.encode(&der[267..])})
}

pub(crate) fn ec_pair() -> EcdsaKeyPair {
    EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()
}

fn with(mut jwk: Value, member: &str, value: Value) -> Value {
    jwk[member] = value;
    jwk
}

fn without(mut jwk: Value, member: &str) -> Value {
    jwk.as_object_mut().unwrap().remove(member);
    jwk
}

#[test]
fn keys_of_the_three_kinds_are_read_with_or_without_what_is_optional() {
    let ec = ec_jwk("a", &ec_pair());
    let ed = ed_jwk("b", &Ed25519KeyPair::generate().unwrap());
    let rsa = rsa_jwk("c", &RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
    for (jwk, algorithm) in [
        (ec, Algorithm::Es256),
        (ed, Algorithm::EdDsa),
        (rsa, Algorithm::Rs256),
    ] {
        assert_eq!(PublicKey::from_jwk(&jwk).unwrap().algorithm(), algorithm);
        for optional in ["alg", "use", "key_ops", "kid", "ext"] {
            assert_eq!(
                PublicKey::from_jwk(&without(jwk.clone(), optional))
                    .unwrap()
                    .algorithm(),
                algorithm
            );
        }
    }
}

#[test]
fn keys_that_are_secret_weak_malformed_or_for_something_else_are_left_out() {
    let pair = ec_pair();
    let point = pair.public_key().as_ref();
    let ec = ec_jwk("a", &pair);
    let rsa = rsa_jwk("c", &RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
    let ed = ed_jwk("b", &Ed25519KeyPair::generate().unwrap());
    let n = |bytes: Vec<u8>| json!(URL_SAFE_NO_PAD.encode(bytes));
    let odd = |length: usize, first: u8| [vec![first], vec![0xff; length - 1]].concat();
    let bad = [
        json!({"kty": "oct", "kid": "o", "k": "c2VjcmV0", "alg": "HS256"}),
        json!({"kty": "oct", "kid": "o", "k": "c2VjcmV0", "alg": "ES256", "use": "sig"}),
        with(ec.clone(), "d", json!("AAAA")),
        with(rsa.clone(), "p", json!("AAAA")),
        with(ec.clone(), "use", json!("enc")),
        with(ec.clone(), "use", Value::Null),
        with(ec.clone(), "key_ops", json!(["sign"])),
        with(ec.clone(), "alg", json!("HS256")),
        with(ec.clone(), "alg", json!("RS256")),
        with(ec.clone(), "alg", Value::Null),
        with(rsa.clone(), "alg", json!("PS256")),
        with(ec.clone(), "crv", json!("P-384")),
        with(ec.clone(), "kty", json!("OKP")),
        with(ec.clone(), "kid", json!(7)),
        with(ec.clone(), "kid", json!("k".repeat(257))),
        with(ec.clone(), "x", n(vec![0; 31])),
        with(ec.clone(), "x", n(vec![1; 32])),
        with(
            with(ec.clone(), "x", n(point[1..32].to_vec())),
            "y",
            n(point[32..].to_vec()),
        ),
        with(ec.clone(), "y", json!("===")),
        without(ec.clone(), "y"),
        with(rsa.clone(), "n", n(odd(128, 0xff))),
        with(rsa.clone(), "n", n(odd(256, 0x7f))),
        with(rsa.clone(), "n", n(odd(1025, 0xff))),
        with(rsa.clone(), "e", n(vec![1; 9])),
        with(rsa, "e", n(vec![])),
        with(ed.clone(), "crv", json!("X25519")),
        with(ed, "x", n(vec![1; 31])),
        json!([]),
        json!("EC"),
        Value::Null,
    ];
    for jwk in bad {
        assert!(PublicKey::from_jwk(&jwk).is_err(), "{jwk}");
    }
    let set = json!({"keys": [{"kty": "oct", "k": "AA"}, ec, 3]}).to_string();
    assert_eq!(
        read_set(set.as_bytes()).unwrap().len(),
        1,
        "one bad key does not spoil the others"
    );
}

#[test]
fn what_is_not_a_key_set_is_a_failure_and_an_empty_one_is_not() {
    let many = json!({"keys": vec![json!({}); KEYS_MAX + 1]}).to_string();
    for body in [
        "",
        "<html></html>",
        "null",
        "[]",
        "{}",
        r#"{"keys":{}}"#,
        r#"{"keys":[]"#,
        &many,
    ] {
        assert!(read_set(body.as_bytes()).is_err(), "{body}");
    }
    assert_eq!(read_set(br#"{"keys":[]}"#).unwrap(), []);
}

/// RFC 8037 appendix A.4, RFC 7515 appendices A.3 and A.2, RFC 7520 §4.1, by the primitive that verifies tokens.
#[test]
fn the_examples_of_the_rfcs_verify_and_do_not_once_a_bit_is_changed() {
    let ed =
        json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    let ec = json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"});
    let cases = [
        (
            ed,
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
        ),
        (
            ec,
            "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ",
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
        (
            json!({"kty": "RSA", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}),
            "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ",
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        ),
        (
            json!({"kty": "RSA", "e": "AQAB", "n": "n4EPtAOCc9AlkeQHPzHStgAbgs7bTZLwUBZdR8_KuKPEHLd4rHVTeT-O-XV2jRojdNhxJWTDvNd7nqQ0VEiZQHz_AJmSCpMaJMRBSFKrKb2wqVwGU_NsYOYL-QtiWN2lbzcEe6XC0dApr5ydQLrHqkHHig3RBordaZ6Aj-oBHqFEHYpPe7Tpe-OfVfHd1E6cS6M1FZcD1NNLYD5lFHpPI9bTwJlsde3uhGqC0ZCuEHg8lhzwOHrtIQbS0FVbb9k3-tVTU4fg_3L_vniUFAKwuCLqKnS2BYwdq_mzSnbLY7h_qixoR7jig3__kRhuaxwUkRz5iaiQkqgc5gHdrNP5zw"}),
            "eyJhbGciOiJSUzI1NiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9.SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwgYW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9mZiB0by4",
            "MRjdkly7_-oTPTS3AXP41iQIGKa80A0ZmTuV5MEaHoxnW2e5CZ5NlKtainoFmKZopdHM1O2U4mwzJdQx996ivp83xuglII7PNDi84wnB-BDkoBwA78185hX-Es4JIwmDLJK3lfWRa-XtL0RnltuYv746iYTh_qHRD68BNt1uSNCrUCTJDt5aAE6x8wW1Kt9eRo4QPocSadnHXFxnt8Is9UzpERV0ePPQdLuW3IS_de3xyIrDaLGdjluPxUAhb6L2aXic1U12podGU0KLUQSE_oI-ZnmKJ3F4uOZDnd6QZWJushZ41Axf_fcIe8u9ipH84ogoree7vjbU5y18kDquDg",
        ),
    ];
    for (jwk, message, signature) in cases {
        let key = PublicKey::from_jwk(&jwk).unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        assert!(key.verifies(message.as_bytes(), &signature));
        for at in 0..signature.len() {
            let mut broken = signature.clone();
            broken[at] ^= 1;
            assert!(!key.verifies(message.as_bytes(), &broken));
        }
        assert!(!key.verifies(&message.as_bytes()[1..], &signature));
    }
}

#[tokio::test]
async fn an_answer_that_is_too_long_a_redirect_or_an_error_is_a_failure() {
    let tracker = TaskTracker::new();
    let server = KeyServer::start(&tracker, r#"{"keys":[]}"#.to_owned()).await;
    let other = KeyServer::start(&tracker, r#"{"keys":[]}"#.to_owned()).await;
    let jwks = Jwks::new(
        format!("{}/keys", server.url),
        tracker.clone(),
        Clock::system(),
    );
    assert_eq!(jwks.shared.fetch().await.unwrap(), []);
    server.say(
        200,
        format!(r#"{{"keys":[],"pad":"{}"}}"#, "x".repeat(BODY_BYTES_MAX)),
    );
    assert!(jwks.shared.fetch().await.unwrap_err().contains("256 KiB"));
    for status in [201, 204, 401, 404, 500, 503] {
        server.say(status, r#"{"keys":[]}"#);
        assert_eq!(
            jwks.shared.fetch().await.unwrap_err(),
            format!("answered with status {status}")
        );
    }
    server.redirect_to(&other.url);
    assert_eq!(
        jwks.shared.fetch().await.unwrap_err(),
        "answered with status 302"
    );
    assert_eq!(other.hits(), 0);
}

#[tokio::test]
async fn an_answer_that_never_comes_is_given_up() {
    let tracker = TaskTracker::new();
    let server = KeyServer::start(&tracker, String::new()).await;
    server.delay(Duration::from_hours(1));
    let jwks = Jwks::new(server.url.clone(), tracker, Clock::system());
    let begun = std::time::Instant::now();
    assert_eq!(
        jwks.shared.fetch().await.unwrap_err(),
        "no answer within 5 s"
    );
    assert!(begun.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn nobody_listening_or_nobody_who_speaks_tls_is_cannot_connect() {
    let tracker = TaskTracker::new();
    let server = KeyServer::start(&tracker, String::new()).await;
    let jwks = Jwks::new(
        server.url.replace("http:", "https:"),
        tracker,
        Clock::system(),
    );
    assert_eq!(jwks.shared.fetch().await.unwrap_err(), "cannot connect");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let jwks = Jwks::new(url, TaskTracker::new(), Clock::system());
    assert_eq!(jwks.shared.fetch().await.unwrap_err(), "cannot connect");
}

#[tokio::test]
async fn a_fetch_whose_task_died_is_not_waited_for_and_one_that_hangs_not_for_ever() {
    let tracker = TaskTracker::new();
    let server = KeyServer::start(
        &tracker,
        json!({"keys": [ec_jwk("ec", &ec_pair())]}).to_string(),
    )
    .await;
    let clock = Clock::system();
    let jwks = Jwks::new(server.url.clone(), tracker, clock.clone());
    let (dead, _) = jwks.state().flight.begin();
    drop(dead);
    jwks.set_for(Some("ec"), Algorithm::Es256, clock.now())
        .await
        .unwrap();
    let (_hanging, _) = jwks.state().flight.begin();
    let begun = std::time::Instant::now();
    jwks.set_for(Some("other"), Algorithm::Es256, clock.now())
        .await
        .unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(8));
    jwks.set_for(Some("ec"), Algorithm::Es256, clock.now())
        .await
        .unwrap();
}
