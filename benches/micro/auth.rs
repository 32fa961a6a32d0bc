//! Verifying tokens: signed by a key of the project, by the shared secret, and remembered.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, header};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use tollgate::auth::{Authenticator, MintClaims, mint};
use tollgate::clock::{Clock, Timestamp};
use tollgate::config::Auth;

use crate::Case;

const SECRET: &str = "a-development-secret-of-more-than-32-bytes";
/// A signature's own bits decide how much work its check is; over so many the differences even out.
const TOKENS: u64 = 32;

pub(crate) fn cases() -> Vec<Case> {
    let project = Rc::new(Project::new());
    let [by_key, by_secret, known] = [project.clone(), project.clone(), project];
    let key_tokens = (0..=TOKENS).map(|_| by_key.signed_by_key()).collect();
    let secret_tokens = (0..=TOKENS).map(|_| by_secret.signed_by_secret()).collect();
    let again = known.signed_by_key();
    vec![
        Case::new(
            "auth: an ES256 token, new",
            TOKENS,
            each_once(by_key, key_tokens),
        ),
        Case::new(
            "auth: an HS256 token, new",
            TOKENS,
            each_once(by_secret, secret_tokens),
        ),
        Case::new("auth: a token seen before", 100, move || {
            known.verify(&again);
        }),
    ]
}

fn each_once(project: Rc<Project>, tokens: Vec<HeaderMap>) -> impl FnMut() {
    let mut tokens = tokens.into_iter();
    move || project.verify(&tokens.next().expect("as many tokens as runs"))
}

/// A project with its keys, all of them already fetched.
struct Project {
    auth: Auth,
    who: Authenticator,
    pair: EcdsaKeyPair,
    now: Timestamp,
    runtime: Runtime,
}

impl Project {
    fn new() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let url = publish(&pair);
        let auth = Auth {
            issuer: format!("{url}/auth/v1"),
            supabase_url: Some(url),
            jwt_secret: Some(SecretString::from(SECRET)),
            jwt_secret_previous: None,
            plan_claim: vec!["app_metadata".to_owned(), "plan".to_owned()],
            anonymous_plan: None,
            check_session: false,
            issuers: Vec::new(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let clock = Clock::system();
        let who = Authenticator::new(&auth, TaskTracker::new(), clock.clone());
        let project = Self {
            auth,
            who,
            pair,
            now: clock.now(),
            runtime,
        };
        let first = project.signed_by_key();
        project
            .runtime
            .block_on(
                project
                    .who
                    .verify((&first, "/"), &project.auth, project.now),
            )
            .expect("a good token");
        project
    }

    /// Nothing is waited for: the keys are here.
    fn verify(&self, headers: &HeaderMap) {
        let _entered = self.runtime.enter();
        let verdict = pin!(self.who.verify((headers, "/"), &self.auth, self.now));
        let verdict = verdict.poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(verdict, Poll::Ready(Ok(_))), "{verdict:?}");
    }

    fn signed_by_key(&self) -> HeaderMap {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({"alg": "ES256", "kid": "bench", "typ": "JWT"});
        let message = format!("{}.{}", encode(&header), encode(&self.claims()));
        let signature = self
            .pair
            .sign(&SystemRandom::new(), message.as_bytes())
            .unwrap();
        bearer(&format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    fn signed_by_secret(&self) -> HeaderMap {
        let claims = MintClaims {
            user_id: Uuid::from_u128(0x9f8b_7c6d_5e4f_4a3b_8c2d_1e0f_9a8b_7c6d),
            plan: Some("pro".to_owned()),
            email: Some("ada@example.com".to_owned()),
            is_anonymous: false,
            expires_in: Duration::from_hours(1),
            issuer: &self.auth.issuer,
        };
        bearer(&mint(&SecretString::from(SECRET), claims, self.now).unwrap())
    }

    /// As Supabase writes them.
    fn claims(&self) -> Value {
        let now = self.now.secs();
        json!({"sub": "9f8b7c6d-5e4f-4a3b-8c2d-1e0f9a8b7c6d", "aud": "authenticated", "role": "authenticated",
               "iss": self.auth.issuer, "iat": now, "exp": now + 3600, "email": "ada@example.com", "phone": "",
               "app_metadata": {"provider": "email", "providers": ["email"], "plan": "pro"}, "user_metadata": {},
               "aal": "aal1", "amr": [{"method": "password", "timestamp": now}],
               "session_id": "0b5c1f0e-7a34-4f55-9f0b-3b6f1c2d4e5f", "is_anonymous": false})
    }
}

fn bearer(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::AUTHORIZATION,
        format!("Bearer {token}").parse().unwrap(),
    );
    headers
}

/// Answers every request with the key set, and gives its URL.
fn publish(pair: &EcdsaKeyPair) -> String {
    let point = pair.public_key().as_ref();
    let (x, y) = point.split_at(1).1.split_at(32);
    let [x, y] = [x, y].map(|number| URL_SAFE_NO_PAD.encode(number));
    let set = json!({"keys": [{"kid": "bench", "alg": "ES256", "use": "sig", "kty": "EC", "crv": "P-256", "x": x, "y": y}]});
    let set = set.to_string();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{set}",
        set.len()
    );
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                connection.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            connection.write_all(answer.as_bytes()).unwrap();
        }
    });
    url
}
