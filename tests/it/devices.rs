//! What the device of a caller proves: each mode with each kind of proof, from the door. And how many new users an address brings.

use serde_json::{Value, json};

use crate::support::caller::{Answer, Call, chat};
use crate::support::door::Door;
use crate::support::jwks::{Publish, Supabase};
use crate::support::keys::Key;
use crate::support::settings::Settings;
use crate::support::tokens::{message, now, sign, sign_text, with};

const NUMBER: &str = "1234567890";
const APP: &str = "1:1234567890:ios:0a1b2c3d4e5f67890";

/// Google, as far as App Check goes.
struct Google {
    key: Key,
    server: Supabase,
}

impl Google {
    async fn start() -> Self {
        let (key, server) = (Key::rs256("g1"), Supabase::start().await);
        server.publish(Publish::Keys(vec![key.jwk()]));
        Self { key, server }
    }

    fn settings(&self, mode: &str) -> Settings {
        Settings::new().with(&format!(
            "[attest]
             mode = {mode:?}
             firebase_project_number = {NUMBER:?}
             firebase_app_ids = [{APP:?}]
             firebase_jwks_url = \"{}/auth/v1/.well-known/jwks.json\"
             [plans.free]
             attested = \"free_plus\"
             [plans.free_plus]
             models = [\"gpt-4o-mini\"]
             limits = [{{ per = \"day\", requests = 5000 }}]",
            self.server.url()
        ))
    }

    fn claims() -> Value {
        json!({
            "iss": format!("https://firebaseappcheck.googleapis.com/{NUMBER}"),
            "aud": [format!("projects/{NUMBER}"), "projects/my-project"],
            "sub": APP, "iat": now(), "exp": now() + 3600, "jti": "1",
        })
    }

    fn token(&self) -> String {
        sign(&self.key, &Self::claims())
    }

    /// Tokens that prove nothing, each for one reason.
    fn bad_tokens(&self, door: &Door) -> Vec<(String, String)> {
        let changed = |changes: Value| sign(&self.key, &with(Self::claims(), &changes));
        let mut bad: Vec<(String, String)> = [
            json!({"iss": "https://firebaseappcheck.googleapis.com/1"}),
            json!({"iss": format!("https://evil.test/{NUMBER}")}),
            json!({"iss": null}),
            json!({"aud": ["projects/1"]}),
            json!({"aud": null}),
            json!({"sub": "1:1234567890:ios:another"}),
            json!({"sub": null}),
            json!({"exp": now() - 60}),
            json!({"exp": null}),
            json!({"iat": now() + 600}),
        ]
        .into_iter()
        .map(|change| (change.to_string(), changed(change)))
        .collect();
        let claims = Self::claims().to_string();
        let (_, modulus) = self.key.public_encodings().remove(0);
        let forged = [
            ("another's key", sign(&Key::rs256("g1"), &Self::claims())),
            ("a user's token", sign(&door.key, &door.claims("alice"))),
            ("our own secret", sign(&door.key, &Self::claims())),
            (
                "a public key as a secret",
                sign_text(&Key::hs256(modulus), r#"{"alg":"HS256"}"#, &claims),
            ),
            (
                "no signature",
                format!("{}.", message(r#"{"alg":"none"}"#, &claims)),
            ),
            ("nothing of the kind", "x".to_owned()),
            ("too long", "x".repeat(9000)),
        ];
        bad.extend(forged.map(|(what, token)| (what.to_owned(), token)));
        bad
    }
}

/// A request with this in `X-Firebase-AppCheck`.
async fn ask(door: &Door, token: Option<&str>) -> Answer {
    let call = door.user("alice").call(&chat("from a device"));
    let call = token.map_or(call.clone(), |token| {
        call.header("X-Firebase-AppCheck", token)
    });
    door.send(call).await
}

async fn me(door: &Door, token: Option<&str>) -> Value {
    let call = Call::get("/api/me").bearer(&door.user("alice").token);
    let call = token.map_or(call.clone(), |token| {
        call.header("X-Firebase-AppCheck", token)
    });
    door.send(call).await.expect(200).json()
}

fn plan_and_device(me: &Value) -> (&str, &Value) {
    (me["plan"]["name"].as_str().unwrap_or("?"), &me["device"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_raises_the_plan_and_a_wrong_one_is_as_none() {
    let google = Google::start().await;
    let door = Door::open(google.settings("raise")).await;
    let attested = json!({"attested": true});
    let raised = me(&door, Some(&google.token())).await;
    assert_eq!(plan_and_device(&raised), ("free_plus", &attested));
    assert_eq!(raised["plan"]["source"], "default");
    assert_eq!(raised["limits"][0]["limit"], 5000);
    ask(&door, Some(&google.token())).await.expect(200);
    for (what, token) in google.bad_tokens(&door) {
        let other = me(&door, Some(&token)).await;
        assert_eq!(plan_and_device(&other), ("free", &Value::Null), "{what}");
    }
    assert_eq!(
        plan_and_device(&me(&door, None).await),
        ("free", &Value::Null)
    );
    ask(&door, Some("x")).await.expect(200);
    // Two proofs are none: nobody can say which one counts.
    let twice = Call::get("/api/me")
        .bearer(&door.user("alice").token)
        .header("X-Firebase-AppCheck", &google.token())
        .header("X-Firebase-AppCheck", &google.token());
    assert_eq!(
        plan_and_device(&door.send(twice).await.json()),
        ("free", &Value::Null)
    );
    // It is no user's token.
    let instead = Call::post("/v1/chat/completions", &chat("no user")).bearer(&google.token());
    door.send(instead).await.refused(401, "invalid_token");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_is_required_no_other_device_is_answered() {
    let google = Google::start().await;
    let door = Door::open(google.settings("require")).await;
    ask(&door, None).await.refused(403, "attestation_required");
    for (what, token) in google.bad_tokens(&door) {
        let refused = ask(&door, Some(&token)).await;
        assert_eq!(
            refused.refusal(),
            (403, "attestation_required".to_owned()),
            "{what}"
        );
    }
    assert_eq!(door.upstream.count(), 0);
    ask(&door, Some(&google.token())).await.expect(200);
    // The account can be looked at, so that the app can say what is wrong.
    assert_eq!(me(&door, None).await["device"], Value::Null);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_counts_and_changes_nothing_and_off_does_not_look() {
    let google = Google::start().await;
    let address =
        std::net::SocketAddr::from(([127, 0, 0, 1], crate::support::postgres::free_port()));
    let settings = google
        .settings("audit")
        .env("TOLLGATE_SERVER__ADMIN_BIND", &address.to_string());
    let door = Door::open(settings).await;
    assert_eq!(
        plan_and_device(&me(&door, Some(&google.token())).await),
        ("free", &json!({"attested": true}))
    );
    ask(&door, Some("x")).await.expect(200);
    ask(&door, None).await.expect(200);
    let office = door.office(address);
    let page = office
        .send(Call::get("/metrics").bearer(door.admin_token()))
        .await
        .text();
    for line in [
        "tollgate_devices_total{device=\"attested\"} 1",
        "tollgate_devices_total{device=\"unattested\"} 2",
    ] {
        assert!(page.contains(line), "{page}");
    }
    let overview = office
        .send(Call::get("/admin/overview").bearer(door.admin_token()))
        .await
        .json();
    assert_eq!(overview["devices"], json!({"attested": 1, "requests": 3}));
    door.close().await;

    let door = Door::open(google.settings("off")).await;
    let before = google.server.fetches();
    assert_eq!(
        plan_and_device(&me(&door, Some(&google.token())).await),
        ("free", &Value::Null)
    );
    assert_eq!(google.server.fetches(), before);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_googles_keys_a_proof_is_as_none_and_where_it_is_required_nobody_can_say() {
    let google = Google::start().await;
    google.server.publish(Publish::Down);
    let door = Door::open(google.settings("raise")).await;
    assert_eq!(
        plan_and_device(&me(&door, Some(&google.token())).await),
        ("free", &Value::Null)
    );
    ask(&door, Some(&google.token())).await.expect(200);
    door.close().await;
    let door = Door::open(google.settings("require")).await;
    ask(&door, Some(&google.token()))
        .await
        .refused(503, "auth_unavailable");
    ask(&door, None).await.refused(403, "attestation_required");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_without_a_way_to_prove_anything_are_refused() {
    let refused = async |toml: &str, key: &str, fix: &str| {
        let printed = Door::refused_to_start(Settings::new().with(toml)).await;
        let said = &printed.stderr;
        assert!(said.contains(key) && said.contains(fix), "{toml}: {said}");
    };
    refused(
        "attest.mode = \"raise\"",
        "attest.mode",
        "firebase_project_number",
    )
    .await;
    refused("attest.mode = \"on\"", "attest.mode", "audit").await;
    refused(
        "attest.firebase_project_number = \"my-project\"",
        "project_number",
        "another thing",
    )
    .await;
    refused(
        "attest.firebase_project_number = 7",
        "firebase_app_ids",
        "name your apps",
    )
    .await;
    refused(
        "plans.free.attested = \"none\"",
        "plans.free.attested",
        "name one of",
    )
    .await;
    refused(
        "server.trusted_proxies = [\"localhost\"]",
        "server.trusted_proxies",
        "10.0.0.0/8",
    )
    .await;
}

const NEW_USERS: &str = r#"
[auth]
anonymous_plan = "free"
[server]
new_users_per_address_per_day = 3
"#;

/// A new anonymous user's request, with this in `X-Forwarded-For`.
async fn sign_up(door: &Door, name: &str, forwarded: &str) -> u16 {
    let user = door.user_with(name, &json!({"is_anonymous": true}));
    let call = user.call(&chat("a new one"));
    let call = if forwarded.is_empty() {
        call
    } else {
        call.header("X-Forwarded-For", forwarded)
    };
    let answer = door.send(call).await;
    if answer.status == 429 {
        assert_eq!(answer.code(), "rate_limited");
        assert!(answer.header("retry-after").parse::<u64>().unwrap() <= 86_400);
    }
    answer.status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_users_made_at_one_address_get_what_three_get() {
    let door = Door::open(Settings::new().with(NEW_USERS)).await;
    let old = door.user("old");
    old.ask(chat("first")).await.expect(200);
    let mut served = Vec::new();
    for number in 0..1000 {
        let name = format!("made-{number}");
        // Whoever is no proxy of ours says nothing by this.
        if sign_up(&door, &name, &format!("198.51.100.{}", number % 250)).await == 200 {
            served.push(name);
        }
    }
    // The first user was new as well.
    assert_eq!(served, ["made-0", "made-1"]);
    assert_eq!(door.upstream.count(), 3);
    assert_eq!(
        sign_up(&door, "made-0", "").await,
        200,
        "who was let in stays in"
    );
    old.ask(chat("again")).await.expect(200);
    // A refused one may look at the account.
    let late = door.user_with("made-999", &json!({"is_anonymous": true}));
    assert_eq!(late.me().await["plan"]["name"], "free");
    door.restart().await;
    old.ask(chat("after a restart")).await.expect(200);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_the_address_is_the_nearest_that_is_no_proxys() {
    let settings = Settings::new()
        .with(NEW_USERS)
        .with(r#"server.trusted_proxies = ["127.0.0.0/8", "10.0.0.0/8", "fd00::/8"]"#);
    let door = Door::open(settings).await;
    let mut number = 0;
    let mut all = async |forwarded: &[&str]| {
        let mut statuses = Vec::new();
        for forwarded in forwarded {
            number += 1;
            statuses.push(sign_up(&door, &format!("user-{number}"), forwarded).await);
        }
        statuses
    };
    let v4 = [
        "192.0.2.1",
        "192.0.2.1, 10.1.2.3",
        "8.8.8.8, 192.0.2.1",
        "evil, 192.0.2.1:443, ::ffff:10.9.9.9",
    ];
    assert_eq!(
        all(&v4).await,
        [200, 200, 200, 429],
        "one address, whatever stands further left"
    );
    assert_eq!(all(&["192.0.2.2"]).await, [200]);
    let v6 = [
        "2001:db8:1:2::1",
        "2001:db8:1:2:ffff::2",
        "[2001:db8:1:2::3]:443",
        "2001:db8:1:2::4, fd00::1",
    ];
    assert_eq!(
        all(&v6).await,
        [200, 200, 200, 429],
        "one customer's network"
    );
    assert_eq!(all(&["2001:db8:1:3::1"]).await, [200]);
    // What is no address ends the reading: the last known one is counted.
    let odd = ["unknown", "10.1.1.1, unknown", ""];
    assert_eq!(all(&odd).await, [200, 200, 200]);
    assert_eq!(all(&["unknown"]).await, [429]);
    door.close().await;
}
