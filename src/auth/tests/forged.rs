//! Tokens and headers that nobody of the project made: refused, and nothing happens.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};

use super::*;

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
    let der = [
        URL_SAFE_NO_PAD
            .decode("MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE")
            .unwrap(),
        point[1..].to_vec(),
    ]
    .concat();
    let pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        STANDARD.encode(&der)
    );
    let pkcs1 = RSA.public_key().as_ref().to_vec();
    let spki: PublicKeyX509Der<'_> = RSA.public_key().as_der().unwrap();
    let armoured = |name: &str, der: &[u8]| {
        format!(
            "-----BEGIN {name}-----\n{}\n-----END {name}-----\n",
            STANDARD.encode(der)
        )
        .into_bytes()
    };
    let encodings: Vec<Vec<u8>> = vec![
        armoured("RSA PUBLIC KEY", &pkcs1),
        armoured("PUBLIC KEY", spki.as_ref()),
        spki.as_ref().to_vec(),
        pkcs1,
        jwk.to_string().into_bytes(),
        json!({"keys": [jwk]}).to_string().into_bytes(),
        json!({"keys": [jwk, ed_jwk("ed", &project.ed), rsa_jwk("rsa", &RSA)]})
            .to_string()
            .into_bytes(),
        jwk["x"].as_str().unwrap().as_bytes().to_vec(),
        pem.trim_end().as_bytes().to_vec(),
        pem.into_bytes(),
        der,
        point.clone(),
        point[1..].to_vec(),
        project.ed.public_key().as_ref().to_vec(),
        Vec::new(),
    ];
    for secret in [
        Some(SecretString::from(SECRET)),
        Some(SecretString::from("")),
        None,
    ] {
        project.auth.jwt_secret = secret;
        for encoding in &encodings {
            for header in [
                json!({"alg": "HS256", "kid": "ec"}),
                json!({"alg": "HS256"}),
                json!({"alg": "ES256", "kid": "ec"}),
            ] {
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
    project
        .ask(&hmac_signed(&header, &project.claims(), text.as_bytes()))
        .await
        .unwrap();
    assert_eq!(
        project
            .code(&hmac_signed(&header, &project.claims(), &[7; 48]))
            .await,
        Code::InvalidToken
    );
}

#[tokio::test]
async fn a_key_verifies_its_own_algorithm_only() {
    let project = Project::new().await;
    for (alg, kid) in [
        ("ES256", "rsa"),
        ("ES256", "ed"),
        ("RS256", "ec"),
        ("EdDSA", "ec"),
    ] {
        let token = ec_signed(
            &json!({"alg": alg, "kid": kid}),
            &project.claims(),
            &project.ec,
        );
        assert_eq!(
            project.code(&token).await,
            Code::InvalidToken,
            "{alg} {kid}"
        );
    }
    assert_eq!(
        project.server.hits(),
        1,
        "the kid was known: nothing to ask for"
    );
}

#[tokio::test]
async fn an_es256_signature_with_an_edge_value_a_wrong_length_or_in_der_is_refused() {
    let project = Project::new().await;
    let header = json!({"alg": "ES256", "kid": "ec"});
    let message = message(&header, &project.claims());
    let hex = |text: &str| {
        (0..32)
            .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
            .collect::<Vec<_>>()
    };
    let n = hex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551");
    let less = hex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632550");
    let good = project
        .ec
        .sign(&SystemRandom::new(), message.as_bytes())
        .unwrap()
        .as_ref()
        .to_vec();
    let numbers = [
        vec![0; 32],
        [vec![0; 31], vec![1]].concat(),
        less,
        n,
        vec![0xff; 32],
    ];
    let mut forged: Vec<Vec<u8>> = Vec::new();
    for r in numbers.iter().chain([&good[..32].to_vec()]) {
        forged.extend(numbers.iter().map(|s| [r.clone(), s.clone()].concat()));
    }
    forged.extend(
        numbers
            .iter()
            .map(|r| [r.clone(), good[32..].to_vec()].concat()),
    );
    forged.extend([
        vec![],
        good[..63].to_vec(),
        [good.clone(), vec![0]].concat(),
        [vec![0], good.clone()].concat(),
    ]);
    forged.extend([[good.clone(), good.clone()].concat(), vec![0; 96]]);
    let der = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &EC_PKCS8).unwrap();
    forged.push(
        der.sign(&SystemRandom::new(), message.as_bytes())
            .unwrap()
            .as_ref()
            .to_vec(),
    );
    for signature in forged {
        assert_eq!(
            project.code(&join(&message, &signature)).await,
            Code::InvalidToken,
            "{signature:?}"
        );
    }
    project.ask(&join(&message, good)).await.unwrap();
}

#[tokio::test]
async fn a_header_that_brings_its_own_key_is_refused_and_nobody_is_called() {
    let project = Project::new().await;
    let trap = KeyServer::start(
        &project.tracker,
        json!({"keys": [ec_jwk("trap", &project.ec)]}).to_string(),
    )
    .await;
    let attacker = ec_pair();
    let extras = [
        ("jku", json!(trap.url)),
        ("x5u", json!(trap.url)),
        ("jwk", ec_jwk("ec", &attacker)),
        (
            "x5c",
            json!([STANDARD.encode(attacker.public_key().as_ref())]),
        ),
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
        let token = ec_signed(
            &json!({"alg": "ES256", "kid": kid}),
            &project.claims(),
            &project.ec,
        );
        assert_eq!(
            project.code(&token).await,
            Code::InvalidToken,
            "{:.80}",
            kid.to_string()
        );
    }
    let long = hmac_signed(
        &json!({"alg": "HS256", "kid": "k".repeat(257)}),
        &project.claims(),
        SECRET.as_bytes(),
    );
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
    let mut tokens = vec![
        ".".into(),
        "..".into(),
        "...".into(),
        "a.b.c".into(),
        head.into(),
        message.into(),
    ];
    tokens.extend([
        format!("{good}."),
        format!(".{good}"),
        format!("{good}.{signature}"),
        format!("{good}="),
    ]);
    tokens.extend([
        format!("{head}=.{payload}.{signature}"),
        format!("{payload}.{head}.{signature}"),
    ]);
    tokens.extend([
        format!("{array}.{payload}.{signature}"),
        format!("{head}.{payload}A.{signature}"),
    ]);
    tokens.extend([
        "' or 1=1 --".into(),
        "null".into(),
        "%00".into(),
        "é.é.é".into(),
        "a".repeat(9000),
    ]);
    // The last character of 32 bytes in base64url has two bits that mean nothing: another spelling is another token.
    tokens.push(format!(
        "{}{}",
        &good[..good.len() - 1],
        next_letter(good.chars().last().unwrap())
    ));
    for token in tokens {
        assert_eq!(
            project.code(&token).await,
            Code::InvalidToken,
            "{token:.90}"
        );
    }
    let deep = "[".repeat(3000) + &"]".repeat(3000);
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","x":{deep}}}"#));
    assert_eq!(
        project
            .code(&format!("{header}.{payload}.{signature}"))
            .await,
        Code::InvalidToken
    );
    for claims in [
        json!([]),
        json!("x"),
        Value::Null,
        json!([project.claims()]),
    ] {
        assert_eq!(
            project.code(&project.hs256(&claims)).await,
            Code::InvalidToken
        );
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
        assert_eq!(
            project.send(missing).await.unwrap_err().code,
            Code::MissingToken,
            "{missing:?}"
        );
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
        assert!(
            matches!(refusal.code, Code::InvalidToken | Code::MissingToken),
            "{headers:?}"
        );
    }
    assert_eq!(project.server.hits(), 0);
}
