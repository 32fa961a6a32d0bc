//! The operator's listener at its door: who may, with what, and what each change does and leaves behind.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::support::caller::{Answer, Call, Front, User, chat};
use crate::support::door::Door;
use crate::support::postgres::free_port;
use crate::support::settings::Settings;
use crate::support::tools::{Tool, installed};

const PLANS: &str = r#"
[plans.pro]
models = ["gpt-4o-mini", "gpt-4o"]
max_output_tokens = 2000
limits = [{ per = "day", requests = 5000 }]
[plans.tight]
models = ["gpt-4o-mini"]
limits = [{ per = "day", requests = 1 }]
"#;

/// A door whose operator's listener is open, and that listener.
struct Office {
    door: Door,
    front: Arc<Front>,
}

impl Office {
    async fn open(settings: Settings) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let door = Door::open(
            settings
                .with(PLANS)
                .env("TOLLGATE_SERVER__ADMIN_BIND", &address.to_string()),
        )
        .await;
        let front = door.office(address);
        Self { door, front }
    }

    async fn send(&self, call: Call) -> Answer {
        self.front.send(call).await
    }

    /// With the token of the settings, which may everything.
    async fn operator(&self, call: Call) -> Answer {
        self.send(call.bearer(self.door.admin_token())).await
    }

    async fn get(&self, path: &str) -> Value {
        self.operator(Call::get(path)).await.expect(200).json()
    }

    /// A token that the command line makes, with this scope.
    fn made(&self, name: &str, scope: &str) -> String {
        let printed = self
            .door
            .must(&["admin-token", "create", name, "--scope", scope]);
        let token = printed
            .split_whitespace()
            .find(|word| word.starts_with("tga_"));
        token
            .unwrap_or_else(|| panic!("no token in {printed}"))
            .to_owned()
    }

    /// A session's cookie.
    async fn session(&self, token: &str) -> String {
        let answer = self
            .send(Call::post("/admin/session", &json!({"token": token})))
            .await
            .expect(204);
        let cookie = answer
            .header("set-cookie")
            .split(';')
            .next()
            .unwrap()
            .to_owned();
        assert!(cookie.starts_with("tollgate_session="), "{answer:?}");
        cookie
    }

    /// Every route with its methods, from what the binary says of itself.
    async fn routes(&self) -> Vec<(String, String)> {
        let document = self.get("/admin/openapi.json").await;
        let paths = document["paths"].as_object().unwrap();
        let methods = |(path, item): (&String, &Value)| {
            let path = path.replace("{id}", &Uuid::from_u128(7).to_string());
            let methods: Vec<_> = item
                .as_object()
                .unwrap()
                .keys()
                .map(|method| method.to_uppercase())
                .collect();
            methods
                .into_iter()
                .map(move |method| (method, path.clone()))
                .collect::<Vec<_>>()
        };
        paths.iter().flat_map(methods).collect()
    }
}

/// Asks until the answer is as wanted, for at most three seconds.
async fn soon(user: &User, what: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
    let begun = Instant::now();
    loop {
        let answer = user.ask(chat("is it so yet")).await;
        if wanted(&answer) {
            return answer;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(3),
            "not {what}: {}",
            answer.text()
        );
        sleep(Duration::from_millis(50)).await;
    }
}

/// A call of a method with a body, where the method takes one.
fn call(method: &str, path: &str) -> Call {
    let body = if matches!(method, "POST" | "PUT") {
        "{}"
    } else {
        ""
    };
    Call::new(method, path)
        .header("content-type", "application/json")
        .bytes(body)
}

/// What asks for no token.
fn is_open(method: &str, path: &str) -> bool {
    matches!(
        (method, path),
        ("GET", "/" | "/metrics") | ("POST", "/admin/session")
    ) || path.starts_with("/assets/")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_refuses_no_token_wrong_ones_and_those_of_users() {
    let office = Office::open(Settings::new()).await;
    let alice = office.door.user("alice");
    let routes = office.routes().await;
    assert!(routes.len() > 5, "{routes:?}");
    for (method, path) in routes
        .iter()
        .filter(|(method, path)| !is_open(method, path))
    {
        let refused = |call: Call| office.send(call);
        let answer = refused(call(method, path))
            .await
            .refused(401, "missing_token");
        assert_eq!(
            answer.header("www-authenticate"),
            r#"Bearer realm="tollgate""#,
            "{method} {path}"
        );
        for token in ["x", alice.token.as_str(), &office.door.admin_token()[1..]] {
            let answer = refused(call(method, path).bearer(token))
                .await
                .refused(401, "invalid_token");
            let challenge = r#"Bearer realm="tollgate", error="invalid_token""#;
            assert_eq!(
                answer.header("www-authenticate"),
                challenge,
                "{method} {path}"
            );
        }
        for odd in ["Basic YTpi", "Bearer", "' or 1=1 --"] {
            refused(call(method, path).header("authorization", odd))
                .await
                .refused(401, "invalid_token");
        }
        let token = office.door.admin_token();
        refused(call(method, path).bearer(token).bearer(token))
            .await
            .refused(401, "invalid_token");
        let foreign = call(method, path)
            .bearer(token)
            .header("origin", "https://evil.test");
        refused(foreign).await.refused(401, "invalid_token");
        refused(
            call(method, path)
                .header("cookie", "tollgate_session=x; a=b")
                .header("x-tollgate-csrf", "1"),
        )
        .await
        .refused(401, "invalid_token");
    }
    office.door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_served_and_what_is_described_are_the_same() {
    let office = Office::open(Settings::new()).await;
    let admin = office.get("/admin/openapi.json").await;
    let users = office
        .door
        .send(Call::get("/openapi.json"))
        .await
        .expect(200);
    assert_eq!(users.header("content-type"), "application/json");
    let users = users.json();
    for (document, front) in [(&admin, &office.front), (&users, &office.door.front)] {
        assert!(
            document["openapi"].as_str().unwrap().starts_with("3.1"),
            "{}",
            document["openapi"]
        );
        for (path, item) in document["paths"].as_object().unwrap() {
            let path = path.replace("{id}", "7").replace("{file}", "style.css");
            for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
                let answer = front.send(call(method, &path)).await;
                let described = item
                    .as_object()
                    .unwrap()
                    .keys()
                    .any(|known| known.eq_ignore_ascii_case(method));
                assert_eq!(
                    answer.status != 405,
                    described,
                    "{method} {path}: {}",
                    answer.text()
                );
                if answer.status == 405 {
                    let allow = answer.header("allow").to_owned();
                    let all = item
                        .as_object()
                        .unwrap()
                        .keys()
                        .all(|known| allow.contains(&known.to_uppercase()));
                    assert!(all, "{path}: {allow}");
                }
            }
        }
    }
    office.door.close().await;
}

/// The same lists are served and described. Nothing else may add a route.
#[test]
fn no_route_is_served_but_through_its_description() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root];
    let (mut looked_at, mut served, mut described) = (0, Vec::new(), Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            // However the format breaks the lines of a macro's arguments.
            let text = text
                .split("!(")
                .map(str::trim_start)
                .collect::<Vec<_>>()
                .join("!(");
            // Asked which of an endpoint's routes a request came by.
            let text = text.replace("spec.route(", "").replace("log.route()", "");
            // The demo's model is no part of the service; the dashboard's files are described beside their mount.
            // `openapi.rs` is how a list is served.
            let others = [
                "src/operator/demo_model/mod.rs",
                "src/operator/api/page.rs",
                "src/openapi.rs",
            ]
            .iter()
            .any(|other| path.ends_with(other));
            if others || path.file_name().is_some_and(|name| name == "tests.rs") {
                continue;
            }
            looked_at += 1;
            for word in [
                ".route(",
                ".route_service(",
                ".nest(",
                ".nest_service(",
                ".fallback_service(",
            ] {
                assert!(
                    !text.contains(word),
                    "{} adds a route with {word}",
                    path.display()
                );
            }
            assert!(
                !text.contains("put_served!"),
                "{} serves a route that is on no list",
                path.display()
            );
            let lists = |put: &str| -> Vec<String> {
                let before = text
                    .split(put)
                    .map(|before| before.rsplit([' ', '\n', '(']).next().unwrap_or_default());
                let count = text.matches(put).count();
                before.take(count).map(str::to_owned).collect()
            };
            served.extend(lists("!(put_served,"));
            described.extend(lists("!(put_described,"));
        }
    }
    assert!(looked_at > 50);
    served.sort_unstable();
    described.sort_unstable();
    assert_eq!(served, described);
    assert_eq!(served, ["open_routes", "operator_routes", "user_routes"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_a_cookie_that_no_script_reads_and_that_ends() {
    let office = Office::open(Settings::new()).await;
    let token = office.door.admin_token().to_owned();
    office
        .send(Call::post("/admin/session", &json!({"token": "x"})))
        .await
        .refused(401, "invalid_token");
    office
        .send(Call::post(
            "/admin/session",
            &json!({"token": token, "x": 1}),
        ))
        .await
        .refused(400, "invalid_request");
    office
        .send(Call::post("/admin/session", &json!([token])))
        .await
        .refused(400, "invalid_request");
    let text =
        Call::post("/admin/session", &json!({"token": token})).header("content-encoding", "gzip");
    office
        .send(text)
        .await
        .refused(415, "unsupported_media_type");
    let large = Call::post("/admin/session", &json!({"token": "x".repeat(70_000)}));
    office.send(large).await.refused(413, "body_too_large");
    let foreign = Call::post("/admin/session", &json!({"token": token}))
        .header("origin", "https://evil.test");
    office.send(foreign).await.refused(403, "cross_origin");

    let sign_in = Call::post("/admin/session", &json!({"token": token})).host("localhost:9090");
    let answer = office.send(sign_in).await.expect(204);
    let cookie = answer.header("set-cookie").to_owned();
    for word in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(word), "{cookie}");
    }
    assert!(
        !cookie.contains("Secure") && !cookie.contains(&token),
        "{cookie}"
    );
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let with = |call: Call| office.send(call.header("cookie", &cookie));
    let who = with(Call::get("/admin/session")).await.expect(200).json();
    assert_eq!(
        who,
        json!({"name": "TOLLGATE_ADMIN_TOKEN", "scopes": ["read", "write"]})
    );
    with(Call::new("DELETE", "/admin/session"))
        .await
        .refused(403, "cross_origin");
    let ended = with(Call::new("DELETE", "/admin/session").header("x-tollgate-csrf", "1"))
        .await
        .expect(204);
    assert!(
        ended.header("set-cookie").contains("Max-Age=0"),
        "{}",
        ended.header("set-cookie")
    );
    with(Call::get("/admin/session"))
        .await
        .refused(401, "invalid_token");
    office.door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_session_a_change_comes_from_our_own_pages_only() {
    let office = Office::open(Settings::new()).await;
    let cookie = office.session(office.door.admin_token()).await;
    let alice = office.door.user("alice");
    let path = format!("/admin/users/{}/block", alice.id);
    let post = || Call::post(&path, &json!({})).header("cookie", &cookie);
    let csrf = |call: Call| call.header("x-tollgate-csrf", "1");
    office.send(post()).await.refused(403, "cross_origin");
    office
        .send(post().header("x-tollgate-csrf", "0"))
        .await
        .refused(403, "cross_origin");
    for origin in [
        "https://evil.test",
        "null",
        "http://tollgate.test:9",
        "file://",
    ] {
        office
            .send(csrf(post()).header("origin", origin))
            .await
            .refused(403, "cross_origin");
        let look = Call::get("/admin/session")
            .header("cookie", &cookie)
            .header("origin", origin);
        office.send(look).await.refused(403, "cross_origin");
    }
    alice.ask(chat("a")).await.expect(200);
    // The calls of these tests name the host `tollgate.test`.
    for origin in ["http://tollgate.test", "https://tollgate.test"] {
        office
            .send(csrf(post()).header("origin", origin))
            .await
            .expect(204);
    }
    soon(&alice, "blocked", |answer| answer.status == 403)
        .await
        .refused(403, "user_blocked");
    office.door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens_are_bounded_by_the_minute_and_keep_no_right_one_out() {
    let office = Office::open(Settings::new()).await;
    let cookie = office.session(office.door.admin_token()).await;
    let unused = office.made("unused", "read");
    let wrong =
        || Call::get("/admin/session").bearer("tga_0000000000000000000000000000000000000000000");
    let mut statuses = Vec::new();
    // A minute may end in between, once.
    for _ in 0..600 {
        let answer = office.send(wrong()).await;
        statuses.push(answer.status);
        if answer.status == 429 {
            answer.refused(429, "rate_limited");
            break;
        }
    }
    assert!(
        statuses.len() > 200 && statuses.last() == Some(&429),
        "{} were looked at",
        statuses.len()
    );
    // One that was made and never used, and one that is made only now.
    office
        .send(Call::get("/admin/session").bearer(&unused))
        .await
        .expect(200);
    let new = office.made("new", "read");
    let begun = Instant::now();
    while office
        .send(Call::get("/admin/session").bearer(&new))
        .await
        .status
        != 200
    {
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "a token that is right is kept out"
        );
        office.send(wrong()).await;
        sleep(Duration::from_millis(100)).await;
    }
    office
        .operator(Call::get("/admin/session"))
        .await
        .expect(200);
    office
        .send(Call::get("/admin/session").header("cookie", &cookie))
        .await
        .expect(200);
    office.door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_kept_by_nobody_and_framed_nowhere() {
    let office = Office::open(Settings::new()).await;
    for answer in [
        office.operator(Call::get("/admin/session")).await,
        office.send(Call::get("/admin/overview")).await,
    ] {
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("x-frame-options"), "DENY");
        assert!(
            answer
                .header("content-security-policy")
                .contains("frame-ancestors 'none'")
        );
    }
    office
        .send(Call::get("/admin/nothing"))
        .await
        .refused(404, "not_found");
    office.door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_somebody_chose_must_be_free() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let printed =
        Door::refused_to_start(Settings::new().env("TOLLGATE_SERVER__ADMIN_BIND", &address)).await;
    assert!(
        printed.code == Some(1) && printed.stderr.contains("admin_bind"),
        "{printed:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_listener_that_nobody_asked_for_may_be_missing() {
    // Whoever has the port, this test or another server: two servers cannot both have it.
    let settings = || {
        Settings::new()
            .unset("TOLLGATE_SERVER__ADMIN_BIND")
            .unset("TOLLGATE_ADMIN_TOKEN")
    };
    let (one, two) = (Door::open(settings()).await, Door::open(settings()).await);
    let without = |door: &Door| door.process.output().contains("no admin listener");
    assert!(without(&one) || without(&two));
    one.user("alice").ask(chat("a")).await.expect(200);
    two.user("alice").ask(chat("a")).await.expect(200);
    one.close().await;
    two.close().await;
}

/// Both ledgers: what a change does, and what stands in the audit log.
#[allow(clippy::too_many_lines, reason = "one story, step by step")]
async fn changes_are_live_at_once_and_noted(settings: Settings) {
    let office = Office::open(settings).await;
    let alice = office.door.user("alice");
    assert_eq!(alice.me().await["plan"]["name"], "free");
    let path = |rest: &str| format!("/admin/users/{}{rest}", alice.id);
    let put =
        |body: Value| office.operator(Call::post("", &body).method("PUT").path(&path("/plan")));

    put(json!({"plan": "platinum"}))
        .await
        .refused(400, "invalid_request");
    put(json!({"plan": "pro", "until": "tomorrow"}))
        .await
        .refused(400, "invalid_request");
    put(json!({"plan": "pro", "until": "2100-01-01T00:00:00Z"}))
        .await
        .expect(204);
    assert_eq!(
        alice.me().await["plan"]["name"],
        "pro",
        "the next request sees it"
    );
    let page = office.get(&path("")).await;
    let user = json!({"id": alice.id, "plan": "pro", "plan_source": "local",
        "plan_until": "2100-01-01T00:00:00Z", "blocked": false, "issuer": null, "subject": null,
        "why": "pro: given by an operator until 2100-01-01T00:00:00Z; without it free: the default"});
    assert_eq!(
        (&page["user"], &page["limits"][0]["limit"]),
        (&user, &json!(5000)),
        "{page}"
    );
    office
        .operator(Call::new("DELETE", &path("/plan")))
        .await
        .expect(204);
    assert_eq!(alice.me().await["plan"]["name"], "free");

    put(json!({"plan": "tight"})).await.expect(204);
    alice.ask(chat("a")).await.expect(200);
    alice.ask(chat("a")).await.refused(402, "quota_exceeded");
    let credit = |body: Value| office.operator(Call::post(&path("/credit"), &body));
    credit(json!({"per": "day", "unit": "requests", "amount": 0}))
        .await
        .refused(400, "invalid_request");
    credit(json!({"per": "week", "unit": "requests", "amount": 1}))
        .await
        .refused(400, "invalid_request");
    let row = credit(json!({"per": "day", "unit": "requests", "amount": 1}))
        .await
        .expect(201)
        .json();
    assert_eq!(
        (&row["per"], &row["amount"]),
        (&json!("day"), &json!(1)),
        "{row}"
    );
    alice.ask(chat("a")).await.expect(200);
    alice.ask(chat("a")).await.refused(402, "quota_exceeded");

    office
        .operator(Call::post(&path("/block"), &json!({})))
        .await
        .expect(204);
    alice.ask(chat("a")).await.refused(403, "user_blocked");
    office
        .operator(Call::post(&path("/unblock"), &json!({})))
        .await
        .expect(204);
    assert_eq!(
        alice.ask(chat("a")).await.status,
        402,
        "in again, and still at the limit"
    );

    office
        .operator(Call::post("/admin/pause", &json!({"reason": " "})))
        .await
        .refused(400, "invalid_request");
    office
        .operator(Call::post(
            "/admin/pause",
            &json!({"reason": "maintenance"}),
        ))
        .await
        .expect(204);
    let bob = office.door.user("bob");
    soon(&bob, "paused", |answer| answer.status == 503)
        .await
        .refused(503, "paused");
    assert_eq!(office.get("/admin/overview").await["paused"], "maintenance");
    office
        .operator(Call::post("/admin/resume", &json!({})))
        .await
        .expect(204);
    soon(&bob, "resumed", |answer| answer.status == 200).await;

    let audit = office.get("/admin/audit").await;
    let rows = audit["rows"].as_array().unwrap();
    let told: Vec<_> = rows
        .iter()
        .map(|row| row["action"].as_str().unwrap())
        .collect();
    assert_eq!(
        told,
        [
            "resume", "pause", "unblock", "block", "credit", "plan", "plan", "plan"
        ],
        "newest first: {audit}"
    );
    assert!(
        rows.iter().all(|row| row["by"] == "TOLLGATE_ADMIN_TOKEN"),
        "{audit}"
    );
    let plan = &rows[7];
    assert_eq!(
        (&plan["user_id"], &plan["detail"]["after"]["plan"]),
        (&json!(alice.id), &json!("pro")),
        "{plan}"
    );
    assert_eq!(rows[1]["detail"]["reason"], "maintenance");
    let first = office.get("/admin/audit?limit=3").await;
    let next = office
        .get(&format!(
            "/admin/audit?limit=5&cursor={}",
            first["next"].as_str().unwrap()
        ))
        .await;
    assert_eq!(next["rows"].as_array().unwrap().as_slice(), &rows[3..]);
    assert_eq!(next["next"], Value::Null);
    office.door.lowers_a_limit();
    office.door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_live_at_once_and_leaves_a_row_in_the_audit_log() {
    changes_are_live_at_once_and_noted(Settings::new().on_sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_live_at_once_and_leaves_a_row_on_postgres_too() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    changes_are_live_at_once_and_noted(Settings::new().on_postgres()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_may_read_changes_nothing_and_one_that_is_revoked_is_none() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    for settings in [Settings::new().on_sqlite(), Settings::new().on_postgres()] {
        let office = Office::open(settings).await;
        let (reads, writes) = (
            office.made("grafana", "read"),
            office.made("billing", "write"),
        );
        let alice = office.door.user("alice");
        for (method, path) in office.routes().await {
            if is_open(&method, &path) || path == "/admin/session" {
                continue;
            }
            if method == "GET" {
                if path != "/admin/events" {
                    office
                        .send(call("GET", &path).bearer(&reads))
                        .await
                        .expect(200);
                }
            } else {
                office
                    .send(call(&method, &path).bearer(&reads))
                    .await
                    .refused(403, "insufficient_scope");
            }
        }
        let cookie = office.session(&reads).await;
        let who = office
            .send(Call::get("/admin/session").header("cookie", &cookie))
            .await
            .expect(200)
            .json();
        assert_eq!(who, json!({"name": "grafana", "scopes": ["read"]}));
        let block = Call::post(&format!("/admin/users/{}/block", alice.id), &json!({}));
        let with_session = block
            .clone()
            .header("cookie", &cookie)
            .header("x-tollgate-csrf", "1");
        office
            .send(with_session)
            .await
            .refused(403, "insufficient_scope");
        alice.ask(chat("a")).await.expect(200);

        office.send(block.bearer(&writes)).await.expect(204);
        alice.ask(chat("a")).await.refused(403, "user_blocked");
        assert_eq!(
            office.get("/admin/audit?limit=1").await["rows"][0]["by"],
            "billing"
        );
        let tokens = office.get("/admin/tokens").await;
        let names: Vec<_> = tokens["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| &row["name"])
            .collect();
        assert_eq!(names, ["billing", "grafana"], "{tokens}");
        assert!(tokens["rows"][0]["last_used_at"].is_string(), "{tokens}");
        assert!(!tokens.to_string().contains("tga_"), "{tokens}");

        office.door.must(&["admin-token", "revoke", "grafana"]);
        let begun = Instant::now();
        while office
            .send(Call::get("/admin/overview").bearer(&reads))
            .await
            .status
            != 401
        {
            assert!(
                begun.elapsed() < Duration::from_secs(3),
                "a revoked token goes on"
            );
            sleep(Duration::from_millis(50)).await;
        }
        let session = office
            .send(Call::get("/admin/session").header("cookie", &cookie))
            .await;
        session.refused(401, "invalid_token");
        let output = office.door.process.output();
        // Once, by the command that made it.
        let told = |token: &str| output.matches(token).count();
        assert_eq!(
            (told(&reads), told(&writes)),
            (1, 1),
            "a token is in the log"
        );
        office.door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_listener_needs_a_token_and_one_that_was_made_is_one() {
    let open = || {
        let address = format!("0.0.0.0:{}", free_port());
        Settings::new()
            .on_sqlite()
            .unset("TOLLGATE_ADMIN_TOKEN")
            .env("TOLLGATE_SERVER__ADMIN_BIND", &address)
    };
    let printed = Door::refused_to_start(open()).await;
    for word in ["server.admin_bind", "TOLLGATE_ADMIN_TOKEN", "admin-token"] {
        assert!(
            printed.code == Some(1) && printed.stderr.contains(word),
            "{printed:?}"
        );
    }
    let door = Door::prepare(open()).await;
    assert_eq!(door.tollgate(&["check"]).code, Some(1));
    door.must(&["admin-token", "create", "laptop", "--scope", "write"]);
    assert_eq!(door.tollgate(&["check"]).code, Some(0));
    door.start().await;
    door.must(&["admin-token", "revoke", "laptop"]);
    assert_eq!(door.tollgate(&["check"]).code, Some(1));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_need_no_token_where_only_this_machine_can_ask() {
    let office = Office::open(Settings::new()).await;
    let local = || Call::get("/metrics").host("localhost:9090");
    let page = office.send(local()).await.expect(200);
    assert!(
        page.header("content-type")
            .starts_with("application/openmetrics-text"),
        "{}",
        page.header("content-type")
    );
    // A page of a stranger whose name leads here.
    let page = |host: &str| {
        office.send(
            Call::get("/metrics")
                .host(host)
                .header("accept-language", "en"),
        )
    };
    page("evil.test:9090").await.refused(401, "missing_token");
    page("localhost:9090").await.expect(200);
    office.operator(Call::get("/metrics")).await.expect(200);
    office.door.close().await;

    let port = free_port();
    let settings = Settings::new().env("TOLLGATE_SERVER__ADMIN_BIND", &format!("0.0.0.0:{port}"));
    let door = Door::open(settings).await;
    let front = door.office(SocketAddr::from(([127, 0, 0, 1], port)));
    front.send(local()).await.refused(401, "missing_token");
    front
        .send(local().bearer(door.admin_token()))
        .await
        .expect(200);
    let cookie = front
        .send(Call::post(
            "/admin/session",
            &json!({"token": door.admin_token()}),
        ))
        .await
        .expect(204);
    assert!(
        cookie.header("set-cookie").ends_with("; Secure"),
        "{}",
        cookie.header("set-cookie")
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overview_is_told_event_by_event_to_a_bounded_number() {
    let office = Office::open(Settings::new().with(r#"server.shutdown_grace = "30s""#)).await;
    let alice = office.door.user("alice");
    let listen = || Call::get("/admin/events").bearer(office.door.admin_token());
    let mut listeners = Vec::new();
    for _ in 0..16 {
        listeners.push(office.front.open(listen()).await.unwrap());
    }
    office.send(listen()).await.refused(503, "overloaded");
    listeners.pop();
    let begun = Instant::now();
    let mut first = loop {
        let open = office.front.open(listen()).await.unwrap();
        if open.so_far().status == 200 {
            break open;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "a place that was left is not given back"
        );
        sleep(Duration::from_millis(100)).await;
    };
    let told = |block: String| {
        let data = block
            .strip_prefix("event: overview\ndata: ")
            .unwrap_or_else(|| panic!("{block}"))
            .to_owned();
        serde_json::from_str::<Value>(&data).unwrap()
    };
    let before = told(first.next_block().await.unwrap());
    assert_eq!(before["today"]["requests"], 0, "{before}");
    alice.ask(chat("a")).await.expect(200);
    office.door.quiet_rows().await;
    let begun = Instant::now();
    while told(first.next_block().await.unwrap())["today"]["requests"] != 1 {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "the overview does not move"
        );
    }
    // The grace is for users' streams: those who only look do not hold up the end.
    let begun = Instant::now();
    let status = office.door.process.term(Duration::from_secs(20)).await;
    assert!(
        status.code() == Some(0) && begun.elapsed() < Duration::from_secs(15),
        "{status}"
    );
    assert_eq!(first.rest().await.status, 200);
    office.door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_used_is_told_as_the_ledger_has_it() {
    let office = Office::open(Settings::new()).await;
    let (alice, bob) = (office.door.user("alice"), office.door.user("bob"));
    for user in [&alice, &alice, &bob] {
        user.ask(chat("a")).await.expect(200);
    }
    let refused = office.door.send(Call::get("/api/me")).await;
    refused.refused(401, "missing_token");
    let rows = office.door.quiet_rows().await;
    let cost: i64 = rows.iter().map(|row| row.cost()).sum();
    let dollars = format!("0.{cost:06}");

    let overview = office.get("/admin/overview").await;
    assert_eq!(
        (&overview["today"]["requests"], &overview["today"]["users"]),
        (&json!(3), &json!(2)),
        "{overview}"
    );
    assert_eq!(
        (&overview["today"]["cost_usd"], &overview["open"]),
        (&json!(dollars), &json!(0)),
        "{overview}"
    );
    assert_eq!(overview["ceiling"]["used"], dollars, "{overview}");
    assert_eq!(
        overview["upstreams"],
        json!([{"name": "openai", "ok": true, "breaker": "closed", "errors": 0, "requests": 3}])
    );
    assert_eq!(
        overview["refusals"],
        json!([{"code": "missing_token", "count": 1}])
    );

    for (by, keys) in [("day", 1), ("user", 2), ("model", 1), ("plan", 1)] {
        let usage = office.get(&format!("/admin/usage?by={by}")).await;
        let rows = usage["rows"].as_array().unwrap();
        let requests: i64 = rows
            .iter()
            .map(|row| row["requests"].as_i64().unwrap())
            .sum();
        assert_eq!(
            (rows.len(), requests, &usage["by"]),
            (keys, 3, &json!(by)),
            "{usage}"
        );
    }
    for step in ["day", "hour"] {
        let series = office.get(&format!("/admin/series?step={step}")).await;
        let rows = series["rows"].as_array().unwrap();
        let requests: i64 = rows
            .iter()
            .map(|row| row["requests"].as_i64().unwrap())
            .sum();
        assert_eq!(
            (requests, rows.len()),
            (3, if step == "day" { 30 } else { 48 }),
            "{step}"
        );
    }
    let users = office.get("/admin/users?sort=recent").await;
    assert_eq!(users["rows"].as_array().unwrap().len(), 2, "{users}");
    let found = office
        .get(&format!(
            "/admin/users?search={}",
            &alice.id.to_string()[..8]
        ))
        .await;
    assert_eq!(
        (&found["rows"][0]["id"], &found["rows"][0]["requests_today"]),
        (&json!(alice.id), &json!(2)),
        "{found}"
    );
    let listed = office
        .get(&format!(
            "/admin/requests?user={}&state=settled&limit=1",
            alice.id
        ))
        .await;
    assert_eq!(
        (
            listed["rows"].as_array().unwrap().len(),
            listed["next"].is_string()
        ),
        (1, true),
        "{listed}"
    );
    assert_eq!(
        office.get("/admin/open").await,
        json!({"rows": [], "next": null})
    );
    let nobody = office
        .get(&format!("/admin/users/{}", Uuid::from_u128(9)))
        .await;
    assert_eq!(
        (&nobody["user"]["plan"], &nobody["month"]["requests"]),
        (&json!("free"), &json!(0)),
        "{nobody}"
    );
    office.door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_is_not_understood_is_refused() {
    let office = Office::open(Settings::new()).await;
    for path in [
        "/admin/usage?by=week",
        "/admin/usage?from=yesterday",
        "/admin/usage?from=2026-01-02&to=2026-01-01",
        "/admin/usage?from=2000-01-01&to=2026-01-01",
        "/admin/usage?limit=0",
        "/admin/usage?limit=501",
        "/admin/usage?cursor=x",
        "/admin/usage?nothing=1",
        "/admin/series?step=minute",
        "/admin/series?step=hour&from=2026-01-01&to=2026-06-01",
        "/admin/users?search=%00",
        "/admin/users?search='",
        "/admin/users?sort=name",
        "/admin/users?cursor=1.%00",
        "/admin/users/7",
        "/admin/requests?user=7",
        "/admin/requests?state=open",
        "/admin/audit?limit=many",
    ] {
        office
            .operator(Call::get(path))
            .await
            .refused(400, "invalid_request");
    }
    let pause = Call::new("POST", "/admin/pause")
        .header("content-type", "text/plain")
        .bytes("{}");
    office
        .operator(pause)
        .await
        .refused(415, "unsupported_media_type");
    office.door.close().await;
}
