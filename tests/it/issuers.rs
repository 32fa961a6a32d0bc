//! Users of other issuers than the Supabase project: Firebase, Clerk, Auth0, Cognito, anybody. Above all that nobody passes for
//! somebody else.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::identity::{ask, is_turned_away};
use crate::support::caller::{Answer, Call, chat};
use crate::support::door::Door;
use crate::support::jwks::{Publish, Supabase};
use crate::support::keys::Key;
use crate::support::project::{Project, WAYS, until};
use crate::support::settings::Settings;
use crate::support::tokens::{message, now, sign, sign_text, user_id, with};
use crate::support::tools::{Tool, installed};

/// An issuer: its keys on a socket, and how its tokens look.
struct Issuer {
    name: &'static str,
    preset: Option<&'static str>,
    iss: String,
    audience: &'static str,
    key: Key,
    server: Supabase,
}

impl Issuer {
    async fn start(name: &'static str, issuer: &str, audience: &'static str) -> Self {
        let server = Supabase::start().await;
        // Every issuer calls its first key the same: an id says nothing about whose it is.
        let key = Key::rs256("1");
        server.publish(Publish::Keys(vec![key.jwk()]));
        Self {
            name,
            preset: ["firebase", "clerk", "auth0", "cognito"]
                .into_iter()
                .find(|preset| *preset == name),
            iss: issuer.to_owned(),
            audience,
            key,
            server,
        }
    }

    fn toml(&self) -> String {
        let keys = format!("{}/auth/v1/.well-known/jwks.json", self.server.url());
        let preset = self
            .preset
            .map_or_else(String::new, |preset| format!("preset = {preset:?}\n"));
        // Firebase's follows from the audience.
        let issuer = if self.name == "firebase" {
            String::new()
        } else {
            format!("issuer = {:?}\n", self.iss)
        };
        let audience = if self.name == "clerk" {
            String::new()
        } else {
            format!("audience = {:?}\n", self.audience)
        };
        format!(
            "[[auth.issuers]]\nname = {:?}\n{preset}{issuer}{audience}jwks_url = {keys:?}\nplan_claim = \"plan\"\n",
            self.name
        )
    }

    fn claims(&self, subject: &str) -> Value {
        let claims = json!({
            "iss": self.iss, "sub": subject, "iat": now(), "exp": now() + 3600,
            "email": format!("{subject}@{}.test", self.name),
        });
        let own = match self.name {
            "clerk" => json!({"azp": "https://app.example.com", "sid": "sess_1"}),
            "auth0" => json!({"aud": [self.audience, "https://t.auth0.com/userinfo"], "azp": "x"}),
            // An access token; ID tokens have an `aud`.
            "cognito" => json!({"client_id": self.audience, "token_use": "access"}),
            "firebase" => json!({
                "aud": self.audience, "auth_time": now(), "user_id": subject,
                "firebase": {"identities": {}, "sign_in_provider": "google.com"},
            }),
            _ => json!({"aud": self.audience}),
        };
        with(claims, &own)
    }

    fn token(&self, subject: &str) -> String {
        sign(&self.key, &self.claims(subject))
    }

    /// The id that its user has here.
    fn id(&self, subject: &str) -> Uuid {
        name_based(name_based(Uuid::NAMESPACE_URL, &self.iss), subject)
    }
}

/// A UUID of version 5 (RFC 9562 §5.5).
fn name_based(namespace: Uuid, name: &str) -> Uuid {
    let bytes = [namespace.as_bytes(), name.as_bytes()].concat();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &bytes);
    let mut id = [0; 16];
    id.copy_from_slice(&digest.as_ref()[..16]);
    uuid::Builder::from_sha1_bytes(id).into_uuid()
}

async fn all() -> Vec<Issuer> {
    vec![
        Issuer::start(
            "firebase",
            "https://securetoken.google.com/my-project",
            "my-project",
        )
        .await,
        Issuer::start("clerk", "https://clerk.example.com", "").await,
        Issuer::start("auth0", "https://t.auth0.com/", "https://api.example.com").await,
        Issuer::start(
            "cognito",
            "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_x",
            "client-1",
        )
        .await,
        Issuer::start("own", "https://login.example.com", "app").await,
    ]
}

const PLANS: &str = r#"
[plans.pro]
models = ["gpt-4o-mini", "gpt-4o"]
limits = [{ per = "day", requests = 5000 }]
[plans.guest]
models = ["gpt-4o-mini"]
limits = [{ per = "day", requests = 2 }]
"#;

fn settings(issuers: &[Issuer]) -> Settings {
    let text: String = issuers.iter().map(Issuer::toml).collect();
    Settings::new().with(PLANS).with(&text)
}

async fn me(door: &Door, token: &str) -> Value {
    let answer = door.send(Call::get("/api/me").bearer(token)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn is_served(answer: Answer, what: &str) {
    assert_eq!(answer.status, 200, "{what}: {}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_issuers_users_are_let_in_beside_the_projects_and_each_is_somebody() {
    let issuers = all().await;
    let door = Door::open(settings(&issuers)).await;
    let of_the_project = door.user("alice").me().await["user"].clone();
    assert_eq!(of_the_project.get("issuer"), None, "{of_the_project}");
    let mut ids = vec![of_the_project["id"].clone()];
    for issuer in &issuers {
        let token = issuer.token("alice");
        let me = me(&door, &token).await;
        assert_eq!(
            me["user"]["id"],
            json!(issuer.id("alice")),
            "{}",
            issuer.name
        );
        let email = format!("alice@{}.test", issuer.name);
        assert_eq!(me["user"]["email"], json!(email));
        assert_eq!(me["user"]["issuer"], json!(issuer.iss));
        assert_eq!(me["user"]["subject"], "alice");
        is_served(ask(&door, &token).await, issuer.name);
        let paying = sign(
            &issuer.key,
            &with(issuer.claims("paula"), &json!({"plan": "pro"})),
        );
        let me = self::me(&door, &paying).await;
        assert_eq!(
            (&me["plan"]["name"], &me["plan"]["source"]),
            (&json!("pro"), &json!("claim"))
        );
        ids.push(json!(issuer.id("alice")));
    }
    // As Python's uuid5 has it.
    assert_eq!(ids[1], "2dd5ef5f-4657-539c-9df7-dbe7b108bf37");
    ids.sort_by_key(Value::to_string);
    ids.dedup();
    assert_eq!(ids.len(), 6, "the same name at six issuers is six users");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_tried_by_its_own_issuers_keys_and_by_no_others() {
    let issuers = all().await;
    let door = Door::prepare(settings(&issuers)).await;
    let project = Key::rs256("1");
    door.supabase.publish(Publish::Keys(vec![project.jwk()]));
    door.start().await;
    for own in &issuers {
        let claims = own.claims("alice");
        for other in issuers.iter().filter(|other| other.name != own.name) {
            let what = format!("of {} with the key of {}", own.name, other.name);
            is_turned_away(&door, &what, &sign(&other.key, &claims)).await;
            let swapped = with(claims.clone(), &json!({"iss": other.iss}));
            let what = format!("of {} that says it is of {}", own.name, other.name);
            is_turned_away(&door, &what, &sign(&own.key, &swapped)).await;
        }
        let what = format!("of {} with the project's key", own.name);
        is_turned_away(&door, &what, &sign(&project, &claims)).await;
        let what = format!("of {} with the project's secret", own.name);
        is_turned_away(&door, &what, &sign(&door.key, &claims)).await;
        let what = format!("of the project with the key of {}", own.name);
        is_turned_away(&door, &what, &sign(&own.key, &door.claims("alice"))).await;
        for (encoding, bytes) in own.key.public_encodings() {
            let forged = sign_text(
                &Key::hs256(bytes),
                r#"{"alg":"HS256","kid":"1"}"#,
                &claims.to_string(),
            );
            let what = format!("the public key of {} as {encoding} as a secret", own.name);
            is_turned_away(&door, &what, &forged).await;
        }
        let unsigned = message(r#"{"alg":"none"}"#, &claims.to_string());
        is_turned_away(&door, "no signature", &format!("{unsigned}.")).await;
        is_served(ask(&door, &own.token("alice")).await, own.name);
    }
    is_served(
        ask(&door, &sign(&project, &door.claims("alice"))).await,
        "the project",
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_claim_is_checked_by_its_own_issuers_rules() {
    let issuers = all().await;
    let door = Door::open(settings(&issuers)).await;
    for own in &issuers {
        let changed = |changes: Value| sign(&own.key, &with(own.claims("alice"), &changes));
        let mut wrong = vec![
            json!({"iss": null}),
            json!({"iss": format!("{}/", own.iss)}),
            json!({"iss": own.iss.to_uppercase()}),
            json!({"iss": [own.iss]}),
            json!({"sub": null}),
            json!({"sub": ""}),
            json!({"sub": 7}),
            json!({"sub": "x".repeat(256)}),
            json!({"exp": null}),
            json!({"iat": now() + 3600}),
            json!({"is_anonymous": "true"}),
        ];
        if own.name != "clerk" {
            // What Cognito's access tokens have no aud for, is in client_id.
            let audience = json!({"aud": "another", "client_id": "another"});
            wrong.extend([audience, json!({"aud": [], "client_id": []})]);
            wrong.push(json!({"aud": ["another", 7], "client_id": null}));
            wrong.push(json!({"aud": null, "client_id": null}));
        }
        for change in wrong {
            let what = format!("{} and {change}", own.name);
            is_turned_away(&door, &what, &changed(change)).await;
        }
        ask(&door, &changed(json!({"exp": now() - 60})))
            .await
            .refused(401, "token_expired");
        let old = json!({"exp": now() - 60, "sub": null});
        is_turned_away(&door, "old, and nobody's", &changed(old)).await;
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_issuer_can_name_anothers_users_not_even_by_their_ids() {
    let issuers = all().await;
    let door = Door::open(settings(&issuers)).await;
    let alice = user_id("alice");
    let [firebase, ..] = issuers.as_slice() else {
        unreachable!()
    };
    // By the id of a user of the project.
    let token = firebase.token(&alice.to_string());
    assert_eq!(
        me(&door, &token).await["user"]["id"],
        json!(firebase.id(&alice.to_string()))
    );
    // And the project by the id of a user of another issuer.
    let victim = firebase.id("alice");
    let claims = with(door.claims("mallory"), &json!({"sub": victim}));
    is_turned_away(&door, "a name-based sub", &sign(&door.key, &claims)).await;
    // Where there are no others, that is a user like any.
    door.close().await;
    let door = Door::open(Settings::new()).await;
    let claims = with(door.claims("mallory"), &json!({"sub": victim}));
    is_served(
        ask(&door, &sign(&door.key, &claims)).await,
        "version 5, alone",
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anonymous_users_of_firebase_have_the_plan_of_anonymous_users() {
    let firebase = Issuer::start("firebase", "https://securetoken.google.com/p", "p").await;
    let issuers = [firebase];
    let anonymous = json!({"firebase": {"sign_in_provider": "anonymous"}, "email": null});
    let token = sign(
        &issuers[0].key,
        &with(issuers[0].claims("nobody"), &anonymous),
    );
    let door = Door::open(settings(&issuers)).await;
    ask(&door, &token)
        .await
        .refused(403, "anonymous_not_allowed");
    door.close().await;
    let door = Door::open(settings(&issuers).with(r#"auth.anonymous_plan = "guest""#)).await;
    let me = me(&door, &token).await;
    assert_eq!(me["plan"]["name"], "guest");
    assert_eq!(me["user"]["is_anonymous"], true);
    assert_eq!(me["user"]["email"], Value::Null);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_project_other_issuers_suffice_and_readiness_and_the_doctor_know_each() {
    let issuers = [Issuer::start("own", "https://login.example.com", "app").await];
    let alone = settings(&issuers)
        .unset("SUPABASE_URL")
        .unset("SUPABASE_SERVICE_KEY")
        .unset("JWT_SECRET");
    let door = Door::prepare(alone).await;
    issuers[0].server.publish(Publish::Down);
    door.start().await;
    let token = issuers[0].token("alice");
    ask(&door, &token).await.refused(503, "auth_unavailable");
    let ready = door.send(Call::get("/health/ready")).await;
    assert_eq!(ready.status, 503, "{}", ready.text());
    assert_eq!(ready.json()["parts"]["issuers"]["own"]["ok"], false);
    let told = door.tollgate(&["doctor"]);
    assert!(told.stdout.contains("issuer own"), "{}", told.stdout);

    issuers[0]
        .server
        .publish(Publish::Keys(vec![issuers[0].key.jwk()]));
    until("keys come back", Duration::from_secs(40), async || {
        door.send(Call::get("/health/ready")).await.status == 200
    })
    .await;
    is_served(ask(&door, &token).await, "own");
    is_turned_away(&door, "of nobody", &sign(&door.key, &door.claims("alice"))).await;
    let told = door.tollgate(&["doctor"]).stdout;
    assert!(
        told.contains("https://login.example.com for app: RS256"),
        "{told}"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn user_show_takes_the_issuers_word_and_forgetting_takes_it_away() {
    let issuers = [
        Issuer::start("own", "https://login.example.com", "app").await,
        Issuer::start("other", "https://other.example.com", "app").await,
    ];
    let door = Door::open(settings(&issuers)).await;
    is_served(ask(&door, &issuers[0].token("user|7")).await, "own");
    let id = issuers[0].id("user|7").to_string();
    for name in ["user|7", &id] {
        let shown: Value =
            serde_json::from_str(&door.must(&["user", "show", name, "--json"])).unwrap();
        assert_eq!(shown["user_id"], json!(id));
        assert_eq!(shown["issuer"], "https://login.example.com");
        assert_eq!(shown["subject"], "user|7");
    }
    // A UUID may be a subject as well.
    let uuid = user_id("a subject").to_string();
    is_served(ask(&door, &issuers[0].token(&uuid)).await, "own");
    let shown: Value =
        serde_json::from_str(&door.must(&["user", "show", &uuid, "--json"])).unwrap();
    assert_eq!(shown["user_id"], json!(issuers[0].id(&uuid)));
    // Two users of one name are told apart.
    is_served(ask(&door, &issuers[1].token("user|7")).await, "other");
    let told = door.tollgate(&["user", "show", "user|7"]);
    assert!(
        told.code != Some(0) && told.stderr.contains(&id),
        "{}",
        told.stderr
    );

    door.must(&["user", "forget", &id]);
    let shown: Value =
        serde_json::from_str(&door.must(&["user", "show", "user|7", "--json"])).unwrap();
    assert_eq!(shown["issuer"], "https://other.example.com");
    assert!(door.tollgate(&["user", "show", "nobody"]).code != Some(0));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_developers_functions_are_told_of_whom_the_user_is() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    for way in WAYS {
        let issuers = [Issuer::start("own", "https://login.example.com", "app").await];
        let project = Project::open(way, settings(&issuers)).await;
        project
            .sql(
                "create table public.told (issuer text, subject text, entry jsonb);
                 create or replace function tollgate.log_request(entry jsonb) returns void
                 language sql security definer set search_path = pg_catalog, pg_temp as $f$
                    insert into public.told values (entry ->> 'issuer', entry ->> 'subject', entry) $f$",
            )
            .await;
        let named = "jsonb_build_object('plan', case
            when current_setting('tollgate.issuer', true) = 'https://login.example.com'
             and current_setting('tollgate.subject', true) = 'user|7' and $uid <> '00000000-0000-0000-0000-000000000000'
            then 'pro' else 'guest' end)";
        project.answers(named).await;
        let door = &project.door;
        let token = issuers[0].token("user|7");
        assert_eq!(me(door, &token).await["plan"]["name"], "pro", "{way:?}");
        // The setting of one user is not another's.
        let alice = door.user("alice");
        assert_eq!(alice.me().await["plan"]["name"], "guest", "{way:?}");
        is_served(ask(door, &token).await, "own");
        alice.ask(chat("of the project")).await.expect(200);
        let owner = project.owner().await;
        until("both arrived", Duration::from_secs(30), async || {
            owner
                .query("select 1 from public.told", &[])
                .await
                .unwrap()
                .len()
                == 2
        })
        .await;
        let rows = owner
            .query(
                "select issuer, subject from public.told order by issuer nulls last",
                &[],
            )
            .await
            .unwrap();
        let told: Vec<(Option<String>, Option<String>)> =
            rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let issuer = Some("https://login.example.com".to_owned());
        assert_eq!(told, [(issuer, Some("user|7".to_owned())), (None, None)]);
        project.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_would_let_two_issuers_be_one_are_refused() {
    let refused = async |toml: &str, key: &str, fix: &str| {
        let printed = Door::refused_to_start(Settings::new().with(toml)).await;
        let said = &printed.stderr;
        assert!(said.contains(key) && said.contains(fix), "{toml}: {said}");
    };
    let one = |more: &str| format!("[[auth.issuers]]\nname = \"a\"\n{more}");
    refused(
        &one(r#"preset = "auth0""#),
        "auth.issuers[0].issuer",
        "letter for letter",
    )
    .await;
    refused(
        &one(r#"preset = "firebase""#),
        "auth.issuers[0].audience",
        "project's id",
    )
    .await;
    refused(
        &one("issuer = \"https://a.test\"\njwks_url = \"https://a.test/k\""),
        "auth.issuers[0].audience",
        "every app",
    )
    .await;
    refused(
        &one("issuer = \"https://a.test\"\naudience = \"a\""),
        "auth.issuers[0].jwks_url",
        "where its keys are",
    )
    .await;
    refused(
        &one("issuer = \"https://a.test\"\naudience = \"a\"\njwks_url = \"http://a.test/k\""),
        "auth.issuers[0].jwks_url",
        "https://",
    )
    .await;
    refused(
        &one("preset = \"clerk\"\nissuer = \"https://a.test\"\nplan_claim = \"unsafe_metadata.plan\""),
        "auth.issuers[0].plan_claim",
        "only the server",
    )
    .await;
    let twice = |second: &str| {
        format!(
            "{}\n[[auth.issuers]]\nname = \"b\"\npreset = \"clerk\"\nissuer = {second:?}",
            one("preset = \"clerk\"\nissuer = \"https://a.test\"")
        )
    };
    refused(&twice("https://a.test"), "auth.issuers", "of its own").await;
    refused(
        &twice("{supabase}/auth/v1"),
        "auth.issuers",
        "needs no entry",
    )
    .await;
}
