//! Who is let in: checks 1 to 7 of the threats.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::caller::{Answer, Call, User, chat};
use crate::support::door::Door;
use crate::support::jwks::{Publish, Supabase};
use crate::support::keys::{Key, base64url, der_signature};
use crate::support::raw::{Wire, statuses};
use crate::support::settings::Settings;
use crate::support::tokens::{assemble, message, now, sign, sign_text, with};

/// The order of P-256.
const N: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// Asks with this token.
pub(crate) async fn ask(door: &Door, token: &str) -> Answer {
    door.send(Call::post("/v1/chat/completions", &chat("let me in")).bearer(token))
        .await
}

/// Asks with this token and must be turned away as an impostor.
pub(crate) async fn is_turned_away(door: &Door, what: &str, token: &str) {
    let answer = ask(door, token).await;
    assert_eq!(
        answer.refusal(),
        (401, "invalid_token".to_owned()),
        "{what}: {}",
        answer.text()
    );
}

/// Nothing may have happened for anybody who was turned away.
fn nothing_happened(door: &Door) {
    assert_eq!(door.upstream.connections(), 0, "the upstream was dialled");
    assert!(
        door.ledger_rows().is_empty(),
        "somebody without a token has a row"
    );
}

/// A door whose project publishes this key.
pub(crate) async fn door_with(key: &Key) -> Door {
    let door = Door::prepare(Settings::new()).await;
    door.supabase.publish(Publish::Keys(vec![key.jwk()]));
    door.start().await;
    door
}

#[tokio::test(flavor = "multi_thread")]
async fn without_one_good_authorization_header_nothing_happens() {
    let door = Door::open(Settings::new()).await;
    let good = sign(&door.key, &door.claims("alice"));
    let call = || Call::post("/v1/chat/completions", &chat("let me in"));

    door.send(call()).await.refused(401, "missing_token");
    let odd = [
        "Basic YWxpY2U6c2VjcmV0",
        "",
        "Bearer",
        "Bearer ",
        "Bearer  ",
        "' OR 1=1 --",
        "Bearer ' OR 1=1 --",
        "Bearer a.b.c",
        "Bearer ..",
        "Bearer null",
    ];
    for value in odd {
        let answer = door
            .send(call().header("authorization", value))
            .await
            .expect(401);
        assert!(
            ["missing_token", "invalid_token"].contains(&answer.code().as_str()),
            "{value:?}: {}",
            answer.text()
        );
    }
    let doubled = call().bearer(&good).bearer(&good);
    door.send(doubled).await.expect(401);
    let joined = call().header("authorization", &format!("Bearer {good}, Bearer {good}"));
    door.send(joined).await.expect(401);
    for header in [
        "x-api-key",
        "api-key",
        "apikey",
        "x-authorization",
        "cookie",
    ] {
        door.send(call().header(header, &format!("Bearer {good}")))
            .await
            .refused(401, "missing_token");
    }
    door.send(Call::post(
        &format!("/v1/chat/completions?access_token={good}"),
        &chat("a"),
    ))
    .await
    .refused(401, "missing_token");

    nothing_happened(&door);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_names_no_algorithm_is_turned_away_in_any_spelling() {
    let door = Door::open(Settings::new()).await;
    let claims = door.claims("alice").to_string();
    let algorithms = [
        json!("none"),
        json!("None"),
        json!("NONE"),
        json!("nOnE"),
        json!(""),
        json!(null),
        json!(["HS256"]),
        json!(0),
    ];
    for algorithm in algorithms {
        let header = json!({"alg": algorithm, "typ": "JWT"}).to_string();
        let bare = message(&header, &claims);
        is_turned_away(&door, "no signature", &assemble(&bare, b"")).await;
        is_turned_away(&door, "two parts", &bare).await;
        is_turned_away(
            &door,
            "a right signature",
            &sign_text(&door.key, &header, &claims),
        )
        .await;
    }
    is_turned_away(
        &door,
        "no algorithm at all",
        &sign_text(&door.key, "{}", &claims),
    )
    .await;
    is_turned_away(
        &door,
        "no header",
        &format!(".{}.", base64url(claims.as_bytes())),
    )
    .await;
    is_turned_away(
        &door,
        "another hash",
        &sign_text(&door.key, r#"{"alg":"HS384"}"#, &claims),
    )
    .await;

    nothing_happened(&door);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_key_is_no_shared_secret_in_any_encoding() {
    for published in [Key::es256("k1"), Key::rs256("k1"), Key::eddsa("k1")] {
        let door = door_with(&published).await;
        let claims = door.claims("alice").to_string();
        for (encoding, bytes) in published.public_encodings() {
            let forger = Key::hs256(bytes);
            for header in [
                json!({"alg": "HS256", "kid": "k1"}),
                json!({"alg": "HS256"}),
                json!({"alg": published.alg(), "kid": "k1"}),
            ] {
                let what = format!("{} as {encoding} under {header}", published.alg());
                is_turned_away(
                    &door,
                    &what,
                    &sign_text(&forger, &header.to_string(), &claims),
                )
                .await;
            }
        }
        // And the other way about: the algorithm belongs to the key.
        for other in ["ES256", "RS256", "EdDSA", "PS256"]
            .into_iter()
            .filter(|other| *other != published.alg())
        {
            let header = json!({"alg": other, "kid": "k1"}).to_string();
            is_turned_away(&door, other, &sign_text(&published, &header, &claims)).await;
        }
        ask(&door, &sign(&published, &door.claims("alice")))
            .await
            .expect(200);
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_degenerate_elliptic_signature_is_turned_away() {
    let key = Key::es256("k1");
    let door = door_with(&key).await;
    let message = message(&key.header().to_string(), &door.claims("alice").to_string());
    let good = key.sign(message.as_bytes());
    let zero = [0; 32];
    let mut less = N;
    less[31] -= 1;
    let forged: Vec<(&str, Vec<u8>)> = vec![
        ("r = s = 0", [zero, zero].concat()),
        ("r = 0", [&zero, &good[32..]].concat()),
        ("s = 0", [&good[..32], &zero].concat()),
        ("r = n", [&N, &good[32..]].concat()),
        ("s = n", [&good[..32], &N].concat()),
        ("r = s = n", [N, N].concat()),
        ("r = n - 1", [&less, &good[32..]].concat()),
        ("s = n - 1", [&good[..32], &less].concat()),
        ("one byte short", good[..63].to_vec()),
        ("one byte long", [&good[..], &[0]].concat()),
        ("twice", [&good[..], &good[..]].concat()),
        ("empty", Vec::new()),
        ("of P-384's length", [&good[..], &zero].concat()),
        ("in DER", der_signature(&good)),
    ];
    for (what, signature) in forged {
        is_turned_away(&door, what, &assemble(&message, &signature)).await;
    }
    nothing_happened(&door);
    ask(&door, &assemble(&message, &good)).await.expect(200);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_addresses_inside_a_token_are_not_looked_at() {
    let published = Key::es256("k1");
    let door = door_with(&published).await;
    let listener = Supabase::start().await;
    let forger = Key::es256("k1");
    listener.publish(Publish::Keys(vec![forger.jwk()]));
    let there = format!("{}/auth/v1/.well-known/jwks.json", listener.url());
    let claims = door.claims("alice").to_string();
    let certificate = base64url(b"not a certificate");
    for extra in [
        json!({"jwk": forger.jwk()}),
        json!({"jku": there}),
        json!({"x5u": there}),
        json!({"x5c": [certificate]}),
        json!({"jku": there, "kid": "new"}),
        json!({"kid": there}),
    ] {
        let header = with(json!({"alg": "ES256", "kid": "k1"}), &extra).to_string();
        is_turned_away(&door, &header, &sign_text(&forger, &header, &claims)).await;
    }
    assert!(
        listener.requests().is_empty(),
        "it asked an address out of a token: {:?}",
        listener.requests()
    );
    nothing_happened(&door);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_odd_key_id_is_only_an_unknown_one() {
    let door = door_with(&Key::es256("k1")).await;
    let forger = Key::es256("k2");
    let claims = door.claims("alice").to_string();
    let odd = [
        json!("../../../../etc/passwd"),
        json!("/dev/null"),
        json!("' UNION SELECT 'x' --"),
        json!("k1\u{0}"),
        json!("\u{0}"),
        json!(""),
        json!("k".repeat(6000)),
        json!(7),
        json!(null),
        json!(["k1"]),
    ];
    for kid in odd {
        let header = json!({"alg": "ES256", "kid": kid}).to_string();
        is_turned_away(
            &door,
            &header[..header.len().min(80)],
            &sign_text(&forger, &header, &claims),
        )
        .await;
    }
    let header = json!({"alg": "ES256", "kid": "k".repeat(300_000)}).to_string();
    let token = sign_text(&forger, &header, &claims);
    let mut wire = Wire::open(door.front.address()).await;
    let request =
        format!("GET /api/me HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n");
    let sent = wire.send(request.as_bytes()).await;
    let (text, closed) = wire.read(Duration::from_secs(2)).await;
    let refused = statuses(&text)
        .first()
        .is_some_and(|status| [401, 431].contains(status));
    assert!(
        refused || sent.is_err() || closed,
        "a kid of 300 KB: {text:.200}"
    );

    nothing_happened(&door);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_within_its_time_and_thirty_seconds() {
    let door = Door::open(Settings::new()).await;
    let at = |exp: i64| sign(&door.key, &with(door.claims("alice"), &json!({"exp": exp})));
    ask(&door, &at(now() - 15)).await.expect(200);
    ask(&door, &at(now() - 31))
        .await
        .refused(401, "token_expired");

    let claim = |changes: Value| sign(&door.key, &with(door.claims("alice"), &changes));
    ask(&door, &claim(json!({"nbf": now() + 15})))
        .await
        .expect(200);
    ask(&door, &claim(json!({"iat": now() + 15})))
        .await
        .expect(200);
    is_turned_away(&door, "nbf in a minute", &claim(json!({"nbf": now() + 90}))).await;
    is_turned_away(
        &door,
        "iat in an hour",
        &claim(json!({"iat": now() + 3600})),
    )
    .await;
    is_turned_away(&door, "nbf as text", &claim(json!({"nbf": "0"}))).await;
    is_turned_away(&door, "no exp", &claim(json!({"exp": null}))).await;
    is_turned_away(
        &door,
        "exp as text",
        &claim(json!({"exp": (now() + 3600).to_string()})),
    )
    .await;
    let text = |exp: &str| {
        door.claims("alice").to_string().replace(
            &format!("\"exp\":{}", now() + 3600),
            &format!("\"exp\":{exp}"),
        )
    };
    for exp in ["null", "1e300", "true", "[]", "{}", "18446744073709551616"] {
        let claims = text(exp);
        // A second may have begun in between: then the claim was not replaced and there is nothing to try.
        if claims.contains(&format!("\"exp\":{exp}")) {
            is_turned_away(
                &door,
                exp,
                &sign_text(&door.key, &door.key.header().to_string(), &claims),
            )
            .await;
        }
    }
    is_turned_away(&door, "nbf far beyond", &claim(json!({"nbf": 1e300}))).await;
    ask(&door, &claim(json!({"exp": -1}))).await.expect(401);
    ask(&door, &claim(json!({"exp": 0}))).await.expect(401);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_token_is_told_to_refresh_only_if_nothing_else_is_wrong() {
    let door = Door::open(Settings::new()).await;
    let old = with(door.claims("alice"), &json!({"exp": now() - 600}));
    ask(&door, &sign(&door.key, &old))
        .await
        .refused(401, "token_expired");
    is_turned_away(
        &door,
        "old and forged",
        &sign(&Key::hs256("x".repeat(40)), &old),
    )
    .await;
    for change in [
        json!({"aud": "anon"}),
        json!({"role": "service_role"}),
        json!({"iss": "https://x.test"}),
        json!({"sub": "7"}),
    ] {
        is_turned_away(
            &door,
            &format!("old and {change}"),
            &sign(&door.key, &with(old.clone(), &change)),
        )
        .await;
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_users_token_of_this_project_is_a_users_token() {
    let door = Door::open(Settings::new()).await;
    let wrong = [
        json!({"aud": null}),
        json!({"aud": "anon"}),
        json!({"aud": []}),
        json!({"aud": ["anon"]}),
        json!({"aud": {"a": "authenticated"}}),
        json!({"role": null}),
        json!({"role": "anon"}),
        json!({"role": "service_role"}),
        json!({"role": ["authenticated"]}),
        json!({"iss": null}),
        json!({"iss": "https://other.supabase.co/auth/v1"}),
        json!({"iss": "supabase"}),
        json!({"sub": null}),
        json!({"sub": ""}),
        json!({"sub": "alice"}),
        json!({"sub": 7}),
        json!({"sub": ["6ba7b810-9dad-11d1-80b4-00c04fd430c8"]}),
    ];
    for change in wrong {
        let token = sign(&door.key, &with(door.claims("alice"), &change));
        is_turned_away(&door, &change.to_string(), &token).await;
    }
    for critical in [json!(["exp"]), json!(["b64"]), json!([]), json!("exp")] {
        let header = json!({"alg": "HS256", "crit": critical, "b64": true}).to_string();
        is_turned_away(
            &door,
            &header,
            &sign_text(&door.key, &header, &door.claims("alice").to_string()),
        )
        .await;
    }
    let array = sign(
        &door.key,
        &with(
            door.claims("alice"),
            &json!({"aud": ["other", "authenticated"]}),
        ),
    );
    ask(&door, &array).await.expect(200);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_on_this_machine_is_one_by_any_of_its_names() {
    let door = Door::open(Settings::new()).await;
    let own = door.claims("alice")["iss"].as_str().unwrap().to_owned();
    for name in ["localhost", "[::1]", "127.0.0.1", "host.docker.internal"] {
        let claims = with(
            door.claims("alice"),
            &json!({"iss": own.replace("127.0.0.1", name)}),
        );
        ask(&door, &sign(&door.key, &claims)).await.expect(200);
    }
    for other in [
        own.replace("127.0.0.1", "127.0.0.1.example.com"),
        format!("{own}/"),
        own.replace("http:", "https:"),
    ] {
        let token = sign(
            &door.key,
            &with(door.claims("alice"), &json!({"iss": other})),
        );
        ask(&door, &token).await.refused(401, "invalid_token");
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_of_a_project_are_never_users() {
    let door = Door::open(Settings::new()).await;
    for role in ["anon", "service_role"] {
        let claims = json!({"iss": "supabase", "ref": "abcdefghijklmnopqrst", "role": role, "iat": now(), "exp": now() + 999_999});
        let dressed_up = with(door.claims("alice"), &json!({"role": role}));
        for claims in [claims, dressed_up] {
            let refused = ask(&door, &sign(&door.key, &claims))
                .await
                .refused(401, "invalid_token");
            // Its role alone would be refused too; the developer is told what it is.
            assert!(
                refused.text().contains("an API key of the project"),
                "{role}: {}",
                refused.text()
            );
        }
    }
    for key in [
        door.service_key(),
        door.jwt_secret(),
        "sb_publishable_0123456789abcdefghijkl_01234567",
        door.operator_key(),
    ] {
        is_turned_away(&door, key, key).await;
    }
    nothing_happened(&door);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_user_in_any_spelling_is_one_user() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    let id = alice.me().await["user"]["id"].clone();
    let upper = sign(
        &door.key,
        &with(
            door.claims("alice"),
            &json!({"sub": alice.id.to_string().to_uppercase()}),
        ),
    );
    let spelled = [
        upper.clone(),
        sign(
            &door.key,
            &with(
                door.claims("alice"),
                &json!({"sub": alice.id.simple().to_string()}),
            ),
        ),
    ];
    for token in &spelled {
        let answer = door.send(Call::get("/api/me").bearer(token)).await;
        let same = answer.status == 401 || answer.json()["user"]["id"] == id;
        assert!(same, "another user: {}", answer.text());
    }
    ask(&door, &upper).await.expect(200);
    assert_eq!(alice.me().await["limits"][0]["used"], 1);
    door.close().await;
}

const TWO_PLANS: &str = r#"
[plans.pro]
models = ["gpt-4o-mini", "gpt-4o"]
limits = [{ per = "day", requests = 5000 }]
[plans.guest]
models = ["gpt-4o-mini"]
limits = [{ per = "day", requests = 2 }]
"#;

async fn plan_of(user: &User) -> (String, String) {
    let me = user.me().await;
    let text = |member: &str| me["plan"][member].as_str().unwrap_or("?").to_owned();
    (text("name"), text("source"))
}

fn plan(name: &str, source: &str) -> (String, String) {
    (name.to_owned(), source.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_comes_from_what_the_developer_writes_and_never_from_what_the_user_writes() {
    let door = Door::open(Settings::new().with(TWO_PLANS)).await;
    let boastful = door.user_with(
        "mallory",
        &json!({"user_metadata": {"plan": "pro", "role": "service_role", "app_metadata": {"plan": "pro"}}, "plan": "pro"}),
    );
    assert_eq!(plan_of(&boastful).await, plan("free", "default"));
    let paying = door.user_with("paula", &json!({"app_metadata": {"plan": "pro"}}));
    assert_eq!(plan_of(&paying).await, plan("pro", "claim"));
    let mistaken = door.user_with("misty", &json!({"app_metadata": {"plan": "platinum"}}));
    assert_eq!(plan_of(&mistaken).await, plan("free", "default"));
    door.process.until_it_says("platinum").await;
    for odd in [json!(7), json!(["pro"]), json!({"name": "pro"}), json!("")] {
        let odd = door.user_with("odette", &json!({"app_metadata": {"plan": odd}}));
        let answer = odd.get("/api/me").await;
        assert!(
            answer.status == 401 || answer.json()["plan"]["name"] == "free",
            "{}",
            answer.text()
        );
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_claim_that_names_a_plan_can_be_another() {
    let settings = Settings::new()
        .with(TWO_PLANS)
        .with(r#"auth.plan_claim = "billing.tier""#);
    let door = Door::open(settings).await;
    let paying = door.user_with("paula", &json!({"billing": {"tier": "pro"}}));
    assert_eq!(plan_of(&paying).await, plan("pro", "claim"));
    let other = door.user_with("oscar", &json!({"app_metadata": {"plan": "pro"}}));
    assert_eq!(plan_of(&other).await, plan("free", "default"));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anonymous_user_is_refused_unless_a_plan_is_made_for_them() {
    let door = Door::open(Settings::new().with(TWO_PLANS)).await;
    let nobody = door.user_with(
        "nobody",
        &json!({"is_anonymous": true, "app_metadata": {"plan": "pro"}}),
    );
    nobody
        .ask(chat("a"))
        .await
        .refused(403, "anonymous_not_allowed");
    let text = door.user_with("nobody", &json!({"is_anonymous": "true"}));
    let answer = text.ask(chat("a")).await;
    assert!(
        [401, 403].contains(&answer.status),
        "is_anonymous as text: {}",
        answer.text()
    );
    nothing_happened(&door);
    door.close().await;

    let door = Door::open(
        Settings::new()
            .with(TWO_PLANS)
            .with(r#"auth.anonymous_plan = "guest""#),
    )
    .await;
    let nobody = door.user_with("nobody", &json!({"is_anonymous": true}));
    let me = nobody.me().await;
    assert_eq!(
        (&me["plan"]["name"], &me["user"]["is_anonymous"]),
        (&json!("guest"), &json!(true))
    );
    nobody.ask(chat("a")).await.expect(200);
    // It stands in the default's place, and nothing else is different.
    let upgraded = door.user_with(
        "upgraded",
        &json!({"is_anonymous": true, "app_metadata": {"plan": "pro"}}),
    );
    let me = upgraded.me().await;
    assert_eq!(
        (&me["plan"]["name"], &me["plan"]["source"]),
        (&json!("pro"), &json!("claim"))
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_good_once_is_not_remembered_beyond_itself() {
    let door = Door::open(Settings::new()).await;
    let claims = with(door.claims("alice"), &json!({"exp": now() - 26}));
    let token = sign(&door.key, &claims);
    ask(&door, &token).await.expect(200);

    let other_user = message(
        &door.key.header().to_string(),
        &door.claims("bob").to_string(),
    );
    let signature = token.rsplit('.').next().unwrap();
    is_turned_away(
        &door,
        "a known signature under other claims",
        &format!("{other_user}.{signature}"),
    )
    .await;
    let message = token.rsplit_once('.').unwrap().0;
    is_turned_away(
        &door,
        "known claims under another signature",
        &assemble(message, &[7; 32]),
    )
    .await;
    is_turned_away(
        &door,
        "known claims without a signature",
        &format!("{message}."),
    )
    .await;

    sleep(Duration::from_secs(7)).await;
    ask(&door, &token).await.refused(401, "token_expired");
    door.close().await;
}
