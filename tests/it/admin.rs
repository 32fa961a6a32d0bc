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
    address: SocketAddr,
}

impl Office {
    async fn open(settings: Settings) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let door = Door::open(settings.with(PLANS).env("TOLLGATE_SERVER__ADMIN_BIND", &address.to_string())).await;
        Self { door, front: Arc::new(Front::new(address)), address }
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
        let printed = self.door.must(&["admin-token", "create", name, "--scope", scope]);
        let token = printed.split_whitespace().find(|word| word.starts_with("tga_"));
        token.unwrap_or_else(|| panic!("no token in {printed}")).to_owned()
    }

    /// A session's cookie.
    async fn session(&self, token: &str) -> String {
        let answer = self.send(Call::post("/admin/session", &json!({"token": token}))).await.expect(204);
        let cookie = answer.header("set-cookie").split(';').next().unwrap().to_owned();
        assert!(cookie.starts_with("tollgate_session="), "{answer:?}");
        cookie
    }

    /// Every route with its methods, from what the binary says of itself.
    async fn routes(&self) -> Vec<(String, String)> {
        let document = self.get("/admin/openapi.json").await;
        let paths = document["paths"].as_object().unwrap();
        let methods = |(path, item): (&String, &Value)| {
            let path = path.replace("{id}", &Uuid::from_u128(7).to_string());
            let methods: Vec<_> = item.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
            methods.into_iter().map(move |method| (method, path.clone())).collect::<Vec<_>>()
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
        assert!(begun.elapsed() < Duration::from_secs(3), "not {what}: {}", answer.text());
        sleep(Duration::from_millis(50)).await;
    }
}

/// A call of a method with a body, where the method takes one.
fn call(method: &str, path: &str) -> Call {
    let body = if matches!(method, "POST" | "PUT") { "{}" } else { "" };
    Call::new(method, path).header("content-type", "application/json").bytes(body)
}

/// What asks for no token.
fn is_open(method: &str, path: &str) -> bool {
    matches!((method, path), ("GET", "/" | "/metrics") | ("POST", "/admin/session")) || path.starts_with("/assets/")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_refuses_no_token_wrong_ones_and_those_of_users() {
    let office = Office::open(Settings::new()).await;
    let alice = office.door.user("alice");
    let routes = office.routes().await;
    assert!(routes.len() > 5, "{routes:?}");
    for (method, path) in routes.iter().filter(|(method, path)| !is_open(method, path)) {
        let refused = |call: Call| office.send(call);
        refused(call(method, path)).await.refused(401, "missing_token");
        for token in ["x", alice.token.as_str(), &office.door.admin_token()[1..]] {
            let answer = refused(call(method, path).bearer(token)).await.refused(401, "invalid_token");
            assert_eq!(answer.header("www-authenticate"), "Bearer", "{method} {path}");
        }
        for odd in ["Basic YTpi", "Bearer", "' or 1=1 --"] {
            refused(call(method, path).header("authorization", odd)).await.refused(401, "invalid_token");
        }
        let token = office.door.admin_token();
        refused(call(method, path).bearer(token).bearer(token)).await.refused(401, "invalid_token");
        let foreign = call(method, path).bearer(token).header("origin", "https://evil.test");
        refused(foreign).await.refused(401, "invalid_token");
        refused(call(method, path).header("cookie", "tollgate_session=x; a=b").header("x-tollgate-csrf", "1"))
            .await
            .refused(401, "invalid_token");
    }
    office.door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_served_and_what_is_described_are_the_same() {
    let office = Office::open(Settings::new()).await;
    let admin = office.get("/admin/openapi.json").await;
    let users = office.door.send(Call::get("/openapi.json")).await.expect(200);
    assert_eq!(users.header("content-type"), "application/json");
    let users = users.json();
    for (document, front) in [(&admin, &office.front), (&users, &office.door.front)] {
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
        for (path, item) in document["paths"].as_object().unwrap() {
            let path = path.replace("{id}", "7").replace("{file}", "style.css");
            for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
                let answer = front.send(call(method, &path)).await;
                let described = item.as_object().unwrap().keys().any(|known| known.eq_ignore_ascii_case(method));
                assert_eq!(answer.status != 405, described, "{method} {path}: {}", answer.text());
                if answer.status == 405 {
                    let allow = answer.header("allow").to_owned();
                    let all = item.as_object().unwrap().keys().all(|known| allow.contains(&known.to_uppercase()));
                    assert!(all, "{path}: {allow}");
                }
            }
        }
    }
    office.door.close().await;
}

/// `routes!` serves what it describes. Nothing else may add a route.
#[test]
fn no_route_is_served_but_through_its_description() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root];
    let mut looked_at = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            // The demo's model is no part of the service.
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if path.ends_with("src/standin.rs") || path.file_name().is_some_and(|name| name == "tests.rs") {
                continue;
            }
            looked_at += 1;
            for word in [".route(", ".route_service(", ".nest(", ".nest_service(", ".fallback_service("] {
                assert!(!text.contains(word), "{} adds a route with {word}", path.display());
            }
        }
    }
    assert!(looked_at > 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_a_cookie_that_no_script_reads_and_that_ends() {
    let office = Office::open(Settings::new()).await;
    let token = office.door.admin_token().to_owned();
    office.send(Call::post("/admin/session", &json!({"token": "x"}))).await.refused(401, "invalid_token");
    office.send(Call::post("/admin/session", &json!({"token": token, "x": 1}))).await.refused(400, "invalid_request");
    office.send(Call::post("/admin/session", &json!([token]))).await.refused(400, "invalid_request");
    let text = Call::post("/admin/session", &json!({"token": token})).header("content-encoding", "gzip");
    office.send(text).await.refused(415, "unsupported_media_type");
    let large = Call::post("/admin/session", &json!({"token": "x".repeat(70_000)}));
    office.send(large).await.refused(413, "body_too_large");
    let foreign = Call::post("/admin/session", &json!({"token": token})).header("origin", "https://evil.test");
    office.send(foreign).await.refused(403, "cross_origin");

    let answer = office.send(Call::post("/admin/session", &json!({"token": token}))).await.expect(204);
    let cookie = answer.header("set-cookie").to_owned();
    for word in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(word), "{cookie}");
    }
    assert!(!cookie.contains("Secure") && !cookie.contains(&token), "{cookie}");
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let with = |call: Call| office.send(call.header("cookie", &cookie));
    let who = with(Call::get("/admin/session")).await.expect(200).json();
    assert_eq!(who, json!({"name": "TOLLGATE_ADMIN_TOKEN", "scopes": ["read", "write"]}));
    with(Call::new("DELETE", "/admin/session")).await.refused(403, "cross_origin");
    let ended = with(Call::new("DELETE", "/admin/session").header("x-tollgate-csrf", "1")).await.expect(204);
    assert!(ended.header("set-cookie").contains("Max-Age=0"), "{}", ended.header("set-cookie"));
    with(Call::get("/admin/session")).await.refused(401, "invalid_token");
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
    office.send(post().header("x-tollgate-csrf", "0")).await.refused(403, "cross_origin");
    for origin in ["https://evil.test", "null", "http://tollgate.test:9", "file://"] {
        office.send(csrf(post()).header("origin", origin)).await.refused(403, "cross_origin");
        let look = Call::get("/admin/session").header("cookie", &cookie).header("origin", origin);
        office.send(look).await.refused(403, "cross_origin");
    }
    alice.ask(chat("a")).await.expect(200);
    // The calls of these tests name the host `tollgate.test`.
    for origin in ["http://tollgate.test", "https://tollgate.test"] {
        office.send(csrf(post()).header("origin", origin)).await.expect(204);
    }
    soon(&alice, "blocked", |answer| answer.status == 403).await.refused(403, "user_blocked");
    office.door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens_are_bounded_by_the_minute_and_disturb_nobody_who_is_known() {
    let office = Office::open(Settings::new()).await;
    let cookie = office.session(office.door.admin_token()).await;
    let wrong = || Call::get("/admin/session").bearer("tga_0000000000000000000000000000000000000000000");
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
    assert!(statuses.len() > 200 && statuses.last() == Some(&429), "{} were looked at", statuses.len());
    office.operator(Call::get("/admin/session")).await.expect(200);
    office.send(Call::get("/admin/session").header("cookie", &cookie)).await.expect(200);
    office.door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_kept_by_nobody_and_framed_nowhere() {
    let office = Office::open(Settings::new()).await;
    for answer in [office.operator(Call::get("/admin/session")).await, office.send(Call::get("/admin/overview")).await]
    {
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("x-frame-options"), "DENY");
        assert!(answer.header("content-security-policy").contains("frame-ancestors 'none'"));
    }
    office.send(Call::get("/admin/nothing")).await.refused(404, "not_found");
    office.door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_somebody_chose_must_be_free() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let printed = Door::refused_to_start(Settings::new().env("TOLLGATE_SERVER__ADMIN_BIND", &address)).await;
    assert!(printed.code == Some(1) && printed.stderr.contains("admin_bind"), "{printed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_listener_that_nobody_asked_for_may_be_missing() {
    // Whoever has the port, this test or another server: two servers cannot both have it.
    let settings = || Settings::new().unset("TOLLGATE_SERVER__ADMIN_BIND").unset("TOLLGATE_ADMIN_TOKEN");
    let (one, two) = (Door::open(settings()).await, Door::open(settings()).await);
    let without = |door: &Door| door.process.output().contains("no admin listener");
    assert!(without(&one) || without(&two));
    one.user("alice").ask(chat("a")).await.expect(200);
    two.user("alice").ask(chat("a")).await.expect(200);
    one.close().await;
    two.close().await;
}
