//! A caller's token. The first byte says how: `r`, an Authorization header as it stands; `h`, `e`, `p`, `s`: a header and,
//! on the next line, claims, signed by us as HS256, EdDSA, ES256 or RS256 would be. Whoever is let in has a token that another
//! library verifies too, with claims that hold by another reading of them.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::LazyLock;
use std::time::Duration;

use aws_lc_rs::encoding::{AsBigEndian, EcPublicKeyUncompressedBin};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, header};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use tollgate::auth::{Authenticator, Principal};
use tollgate::clock::{Clock, Timestamp};
use tollgate::config::Config;
use tollgate::error::Code;

use super::json::Json;

const SECRET: &str = "kU7vX1pQ9zR4tW8yB3nM6cL2dF5gH0jS";
/// Made for this: making one takes too long for every start.
const RSA_KEY: &str = "\
    MIIEowIBAAKCAQEAzDDqlpWYmH8fxGIZ865iBszZNGh+l/ps972Q84XA5VZMLGHb8y2R/VbTzwm84EdstNsj+bOo1pBjWFAPieD+KuNhcJEhpZBTv+KO\
    7Wzp6Irf+hb2UOdGyvuZZ89rocugTeKuoPM1/hTPhsJc7pK/0d9PV3ic2YWh8jGQmyG5u9xovBkKlBRJSPNQXcB+1y47a8lykkCcfEd2QDRNR1yydaZ3\
    6d93x5SnFA7txmJqHUHS0+XEpXX5G+pRlrvLTaCLBKgHY+U305ch7drMatUWs2bJzak7Hs0PBuSG1phcDiYHqIfxCH/OPnJ+2nNEHG9I5twdeZZnkYxK\
    zCICNQToxwIDAQABAoIBABm92PUe6tveutyBGZB03XrJ/F/1BHCYa4BX75wjsou282ds9tOTXSI4/f7N1XfYyUWLkt953MEf9sY9YZgaOzCg9bnBMiKz\
    LTu1jhs0bdCZIV9f4bGVVoFkcpR5u7Hr/8uR1j4IKzha20a73gddjL0ij9gRJoTtqdrkkLxd5hJenzmHpesSQrTvQHqQY1uPll8Tcdr8mlPIHReiOEbt\
    YH6qEJruVedUrupfi7F5icIuYhg3bkcbXuLIB1b//0Or6zzhcrdkJ6gr6GQPnzgs9NAHBdOyuC9Dkc7+CWgmMP26CJU+cF992PACY6vof33socek7msj\
    9J1Y7Zkp92vtl9ECgYEA884MeWhXt+DN/WGgznPhJ+nLx9UHy7JWl9p2o8VKnRiX7ay8YwrNaSodoJZRndrIyBzQlcjZQr4GAIsYoi4IgctGl/YIzI6x\
    RCA5B7hDBkZPdPYpaw2YlMXwK4sk8G8v5ghOBErwZCo9VWWxDj5K7aoPkSjtkg/aWD3yH2C0OnMCgYEA1mebrIocsOmqVLnJ3MKk89IAHe3K5rbm/QTH\
    RTRO9NPmGI3a+8YOQJuY/dV9FYR3i8f0E1SJMSAkFJemMGJchCYWJ1TcI39JnxcRBxL9vPvAk8gNO6YA8mWlVPfNnTMpvj9lkFg7TqFlsdgHsqnF7C2I\
    QTRjrrwV4GUtFEj5X10CgYBVcYj9o4vabXbDrktlD0eBbXZ1ejtZMA8Y+P9LNgGIPO5B5Z/ANjD3AkOP3B6Oa/ah6zdOxy0dLut7lUP00p04n70F1LwQ\
    tJF7hq91/SXANTPzkbHCSumGejhJimJPwSfQPmjZKEpHUGZeX11F2J752/fIr8dSwSuMcWlBheqj8QKBgDRBelK6MrX3rXkK8yUoF5YJd9fTjiFfMLs4\
    P+0hC6FmR+1yHY5BvlWG1un+74agC5b4/Ab+EpXzlHekYm/meVAIDFw3tZO9QU9SCudjfI5j+ZLLLlZ8ZjyuA3bLEsUepCznPLTKnGHUunl3AqFL+Z5P\
    lqb1wtnio55Wan9ILedNAoGBANsVumdKba9LUHdLz1hN24x0TZqGJtKCxYm0Zsktkr/rnsW5By4i4bOk3ZTU06xliuS0l7ktrpXbLyHl8omDAQ4/RtZr\
    FRoOv+ryRTzC75rfjbg016s9In96UikIN2b/fYC1ajYOfyVKlizq7h3LmuW2CcSw/lZkazDL5d8GLokc";
const ISSUER: &str = "https://project.test/auth/v1";
/// The moment at which every token comes.
const NOW: i64 = 2_000_000_000;
const LEEWAY: f64 = 30.0;

struct Door {
    runtime: tokio::runtime::Runtime,
    config: Config,
    who: Authenticator,
    ed25519: Ed25519KeyPair,
    p256: EcdsaKeyPair,
    rsa: RsaKeyPair,
    jwks: [String; 3],
}

static DOOR: LazyLock<Door> = LazyLock::new(|| {
    let ed25519 = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed");
    let p256 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("random numbers");
    let point: EcPublicKeyUncompressedBin<'_> = p256.public_key().as_be_bytes().expect("a point");
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let (x, y) = point.as_ref()[1..].split_at(32);
    let rsa = RsaKeyPair::from_der(&STANDARD.decode(RSA_KEY).expect("base64")).expect("a key");
    // RSAPublicKey (RFC 8017 A.1.1) of 2048 bits: 4 bytes of sequence, 5 of integer with its leading zero, n, 02 03, e.
    let numbers = rsa.public_key().as_ref();
    let (n, e) = (encode(&numbers[9..265]), encode(&numbers[267..]));
    let jwks = [
        format!(
            r#"{{"kty":"OKP","crv":"Ed25519","kid":"e","x":"{}"}}"#,
            encode(ed25519.public_key().as_ref())
        ),
        format!(
            r#"{{"kty":"EC","crv":"P-256","kid":"p","x":"{}","y":"{}"}}"#,
            encode(x),
            encode(y)
        ),
        format!(r#"{{"kty":"RSA","kid":"s","n":"{n}","e":"{e}"}}"#),
    ];
    let url = publish(format!(r#"{{"keys":[{}]}}"#, jwks.join(",")));
    let config = super::settings(&[
        ("SUPABASE_URL", &url),
        ("JWT_SECRET", SECRET),
        ("OPENAI_API_KEY", "sk-x"),
        ("TOLLGATE_AUTH__ISSUER", ISSUER),
        ("TOLLGATE_DIRECTORY__VIA", "none"),
    ]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let clock = Clock::system();
    clock.shift((NOW * 1000) - clock.now().millis());
    let who = Authenticator::new(&config.auth, tokio_util::task::TaskTracker::new(), clock);
    Door {
        runtime,
        config,
        who,
        ed25519,
        p256,
        rsa,
        jwks,
    }
});

/// Serves one text at a URL, for ever.
fn publish(text: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 2048];
            drop(stream.set_read_timeout(Some(Duration::from_secs(2))));
            drop(stream.read(&mut head));
            let length = text.len();
            drop(write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}"
            ));
        }
    });
    url
}

/// Tries a token.
///
/// # Panics
/// It breaks a promise.
pub fn check(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else {
        return;
    };
    let door = &*DOOR;
    let Some(value) = header_value(*mode, rest, door) else {
        return;
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, value.clone());
    let quote = || {
        let verified = door.who.verify(
            (&headers, "/"),
            &door.config.auth,
            Timestamp::from_secs(NOW),
        );
        door.runtime.block_on(verified)
    };
    let answer = quote();
    match &answer {
        Ok(principal) => let_in(&value, principal, door),
        Err(refusal) => {
            let known = [
                Code::MissingToken,
                Code::InvalidToken,
                Code::TokenExpired,
                Code::AnonymousNotAllowed,
                Code::AuthUnavailable,
            ];
            assert!(known.contains(&refusal.code), "{:?}", refusal.code);
            assert!(
                refusal.message.len() < 200,
                "nothing of the token is in the answer"
            );
            if refusal.code == Code::TokenExpired {
                let claims = parts(&value)
                    .and_then(|parts| Json::read(&parts.1))
                    .expect("only the claims are wrong");
                assert!(
                    time(&claims, "exp").is_some_and(|exp| exp + LEEWAY <= now()),
                    "it has expired"
                );
                proven(&value, door);
            }
        }
    }
    // Remembered or not, it is the same answer.
    assert_eq!(
        answer.map_err(|refusal| refusal.code),
        quote().map_err(|refusal| refusal.code)
    );
}

fn header_value(mode: u8, rest: &[u8], door: &Door) -> Option<HeaderValue> {
    if mode == b'r' {
        return HeaderValue::from_bytes(rest).ok();
    }
    let at = rest.iter().position(|byte| *byte == b'\n')?;
    let (header, claims) = (rest.get(..at)?, rest.get(at + 1..)?);
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims)
    );
    let signature = match mode {
        b'h' => {
            let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
            hmac::sign(&key, message.as_bytes()).as_ref().to_vec()
        }
        b'e' => door.ed25519.sign(message.as_bytes()).as_ref().to_vec(),
        b'p' => door
            .p256
            .sign(&SystemRandom::new(), message.as_bytes())
            .ok()?
            .as_ref()
            .to_vec(),
        b's' => {
            let mut signature = vec![0; door.rsa.public_modulus_len()];
            door.rsa
                .sign(
                    &RSA_PKCS1_SHA256,
                    &SystemRandom::new(),
                    message.as_bytes(),
                    &mut signature,
                )
                .ok()?;
            signature
        }
        _ => return None,
    };
    HeaderValue::from_str(&format!(
        "Bearer {message}.{}",
        URL_SAFE_NO_PAD.encode(signature)
    ))
    .ok()
}

type Parts = (Vec<u8>, Vec<u8>, Vec<u8>);

fn token(value: &HeaderValue) -> Option<&str> {
    value
        .to_str()
        .ok()?
        .split_once(' ')
        .map(|(_, token)| token.trim_matches(' '))
}

fn parts(value: &HeaderValue) -> Option<Parts> {
    let mut parts = token(value)?
        .split('.')
        .map(|part| URL_SAFE_NO_PAD.decode(part));
    let all = (
        parts.next()?.ok()?,
        parts.next()?.ok()?,
        parts.next()?.ok()?,
    );
    parts.next().is_none().then_some(all)
}

/// jsonwebtoken says so too, with the one key of the algorithm.
fn proven(value: &HeaderValue, door: &Door) {
    let (header, _, _) = parts(value).expect("three parts of base64url");
    let header = Json::read(&header).expect("a header of JSON");
    let (algorithm, key) = match header.get("alg").and_then(Json::text) {
        Some("HS256") => (
            Algorithm::HS256,
            DecodingKey::from_secret(SECRET.as_bytes()),
        ),
        Some("EdDSA") => (Algorithm::EdDSA, public(&door.jwks[0])),
        Some("ES256") => (Algorithm::ES256, public(&door.jwks[1])),
        Some("RS256") => (Algorithm::RS256, public(&door.jwks[2])),
        other => panic!("an algorithm that no key here has: {other:?}"),
    };
    for name in ["crit", "b64", "jwk", "jku", "x5u", "x5c", "zip", "enc"] {
        assert!(header.get(name).is_none(), "{name} was let in");
    }
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    (validation.validate_exp, validation.validate_aud) = (false, false);
    let (message, signature) = token(value)
        .and_then(|token| token.rsplit_once('.'))
        .expect("a token");
    let verified = jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key, algorithm);
    assert!(
        verified.is_ok_and(|is| is),
        "another library does not verify it"
    );
}

fn public(jwk: &str) -> DecodingKey {
    let jwk: Jwk = serde_json::from_str(jwk).expect("a JWK");
    DecodingKey::from_jwk(&jwk).expect("a key")
}

#[allow(clippy::cast_precision_loss, reason = "a time is small")]
fn now() -> f64 {
    NOW as f64
}

fn time(claims: &Json, name: &str) -> Option<f64> {
    claims.get(name).and_then(Json::number)
}

fn let_in(value: &HeaderValue, principal: &Principal, door: &Door) {
    proven(value, door);
    let (_, claims, _) = parts(value).expect("three parts");
    let claims = Json::read(&claims).expect("claims of JSON");
    let text = |name| claims.get(name).and_then(Json::text);
    assert_eq!(
        (text("role"), text("iss")),
        (Some("authenticated"), Some(ISSUER))
    );
    let audience = claims.get("aud").expect("an audience");
    let named = |one: &Json| one.text() == Some("authenticated");
    assert!(named(audience) || audience.items().iter().any(named));
    assert!(
        time(&claims, "exp").is_some_and(|exp| exp + LEEWAY > now()),
        "it has not expired"
    );
    for name in ["nbf", "iat"] {
        assert!(
            claims.get(name).is_none()
                || time(&claims, name).is_some_and(|time| time <= now() + LEEWAY)
        );
    }
    let hex = |text: &str| {
        text.chars()
            .filter(char::is_ascii_hexdigit)
            .collect::<String>()
            .to_ascii_lowercase()
    };
    let sub = text("sub").expect("a subject").to_ascii_lowercase();
    let sub = sub.trim_start_matches("urn:uuid:");
    assert_eq!(hex(sub), hex(&principal.user_id().to_string()));
    assert!(!principal.user_id().is_nil());
    assert!(
        matches!(claims.get("is_anonymous"), None | Some(Json::Bool(false))),
        "an anonymous user has no plan here"
    );
    let plan = claims
        .get("app_metadata")
        .and_then(|data| data.get("plan"))
        .and_then(Json::text);
    assert!(
        principal
            .plan_claim()
            .is_none_or(|claim| Some(claim) == plan)
    );
}
