//! What must never be seen: check 24 of the threats. After every test the oracle looks for every secret in every byte that
//! left the process (`support/leaks.rs`); here everything is provoked that likes to print them.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use tollgate::config::{Config, Sources};

use crate::support::caller::{Call, Front, PROMPT_CANARY, User, and, chat, chat_stream};
use crate::support::collector::Collector;
use crate::support::door::Door;
use crate::support::jwks::Publish;
use crate::support::keys::Key;
use crate::support::postgres::free_port;
use crate::support::raw::Wire;
use crate::support::reply::{Reply, Step, Talk};
use crate::support::settings::Settings;
use crate::support::tokens::sign;
use crate::support::tools::{Tool, installed};
use crate::support::wire::Request;

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_any_answer_line_or_file_however_much_is_logged() {
    everything_that_likes_to_print(Settings::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_gets_out_with_a_ledger_on_postgres_either() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    everything_that_likes_to_print(Settings::new().on_postgres()).await;
}

/// The oracle looks through all of it when the door closes.
async fn everything_that_likes_to_print(settings: Settings) {
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let collector = Collector::start(true).await;
    let settings = settings
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url)
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .env("OTEL_METRIC_EXPORT_INTERVAL", "300")
        .env("RUST_LOG", "trace")
        .env("RUST_BACKTRACE", "full")
        .env("TOLLGATE_SERVER__ADMIN_BIND", &admin.to_string())
        .with("server.body_bytes_max = \"64KiB\"");
    let door = Door::open(settings).await;
    let alice = door.user_with("alice", &json!({"app_metadata": {"plan": "no-such-plan"}}));
    let key = door.operator_key().to_owned();
    alice.ask(chat("a")).await.expect(200);
    alice.ask(chat_stream("a")).await.expect(200);
    for body in [
        and(chat("a"), &json!({"n": 99})),
        and(chat("a"), &json!({"store": true})),
        and(chat("a"), &json!({"model": "o1"})),
        chat(&"a ".repeat(50_000)),
    ] {
        alice.ask(body).await;
    }
    let broken = format!(
        "{{\"model\":\"gpt-4o-mini\",\"messages\":[{{\"role\":\"user\",\"content\":\"{PROMPT_CANARY}"
    );
    door.send(
        Call::new("POST", "/v1/chat/completions")
            .bearer(&alice.token)
            .bytes(broken),
    )
    .await
    .expect(400);
    let mistyped =
        json!({"model": "gpt-4o-mini", "messages": PROMPT_CANARY, "temperature": PROMPT_CANARY});
    alice.ask(mistyped).await.expect(400);
    for status in [400, 401, 404, 429, 500] {
        // What is said about the user's own request may reach this user; the operator's key may not.
        let passed_on = matches!(status, 400 | 404);
        let echo = if passed_on {
            key.clone()
        } else {
            format!("{key} {PROMPT_CANARY}")
        };
        door.upstream
            .next(move |_| Reply::error(status, "echo", &echo));
        alice.ask(chat("a")).await;
    }
    door.upstream
        .next(|_| Reply::status(200, "text/html", "<html>"));
    alice.ask(chat("a")).await.expect(502);
    door.upstream.next(|_| Reply::headless(Step::Reset));
    alice.ask(chat("a")).await.expect(502);
    door.upstream
        .next(|seen| Talk::words(9).cut(3, Step::Reset).reply(seen));
    alice.ask(chat_stream("a")).await.expect(200);
    strangers_try(&door, &alice).await;
    operators_do_what_they_do(&door, &alice, admin).await;
    door.panics().await;
    alice.ask(chat("after a panic")).await.expect(200);
    door.process.signal("HUP");
    door.restart().await;
    // None of the places that are searched is empty.
    collector.until_spans(2).await;
    let got = |target: &str| {
        collector
            .requests()
            .iter()
            .any(|request| request.target == target)
    };
    assert!(
        got("/v1/traces") && got("/v1/metrics"),
        "the collector got less than it should"
    );
    let is_asked = |request: &Request| request.header("apikey") == Some(door.service_key());
    assert!(
        door.supabase.requests().iter().any(is_asked),
        "the project was not asked with its key"
    );
    door.tells(collector);
    door.close().await;
}

/// Tokens that are none, keys that cannot be had, and a request that is none.
async fn strangers_try(door: &Door, alice: &User) {
    for forged in [
        sign(&Key::hs256("x".repeat(32)), &door.claims("alice")),
        format!("{}x", alice.token),
        door.service_key().to_owned(),
        door.jwt_secret().to_owned(),
    ] {
        door.send(Call::get("/api/me").bearer(&forged))
            .await
            .expect(401);
    }
    door.supabase
        .publish(Publish::Answer(500, "text/plain", "broken"));
    door.send(Call::get("/api/me").bearer(&sign(&Key::es256("new"), &door.claims("alice"))))
        .await;
    let mut wire = Wire::open(door.front.address()).await;
    let _ = wire
        .send(
            format!(
                "GET /api/me HTTP/1.1\r\nAuthorization: Bearer {}\0\r\n\r\n",
                alice.token
            )
            .as_bytes(),
        )
        .await;
    wire.read(std::time::Duration::from_millis(300)).await;
}

async fn operators_do_what_they_do(door: &Door, alice: &User, admin: SocketAddr) {
    let admin = door.office(admin);
    for token in [
        door.admin_token(),
        &door.admin_token()[1..],
        door.service_key(),
        &alice.token,
    ] {
        let path = format!("/admin/users/{}/refresh", alice.id);
        admin
            .send(Call::post(&path, &json!({"plan": PROMPT_CANARY})).bearer(token))
            .await;
    }
    every_route_is_called(door, alice, &admin).await;
    for command in [
        &["check"][..],
        &["check", "--json"],
        &["usage", "--requests"],
        &["user", "show", &alice.id.to_string()],
        &["health"],
        &["doctor"],
        &["usage", "--config", "/proc/self/environ"],
        &["serve"],
    ] {
        door.tollgate(command);
    }
}

/// Each of the operator's routes, from what the binary says of itself: without a token, with a user's, with a body that
/// is wrong and with one that is right.
async fn every_route_is_called(door: &Door, alice: &User, admin: &Arc<Front>) {
    let token = door.admin_token();
    let document = admin
        .send(Call::get("/admin/openapi.json").bearer(token))
        .await
        .expect(200)
        .json();
    let mut answered = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let place = path
            .replace("{id}", &alice.id.to_string())
            .replace("{file}", "app.js");
        for method in item
            .as_object()
            .unwrap()
            .keys()
            .map(|method| method.to_uppercase())
        {
            if path == "/admin/events" {
                admin
                    .open(Call::get(path).bearer(token))
                    .await
                    .unwrap()
                    .take(1)
                    .await;
                continue;
            }
            let call = |body: &Value| Call::post(&place, body).method(&method);
            let body = body_of(path, token);
            admin.send(call(&body)).await;
            admin.send(call(&body).bearer(&alice.token)).await;
            admin
                .send(
                    call(&json!({"token": token, "plan": PROMPT_CANARY, "per": [token]}))
                        .bearer(token),
                )
                .await;
            let answer = admin.send(call(&body).bearer(token)).await;
            answered += usize::from(answer.status < 300);
        }
    }
    assert!(answered > 20, "only {answered} routes did what they do");
    for path in [
        "/admin/resume".to_owned(),
        format!("/admin/users/{}/unblock", alice.id),
    ] {
        admin
            .send(Call::post(&path, &json!({})).bearer(token))
            .await
            .expect(204);
    }
}

/// What a route takes.
fn body_of(path: &str, token: &str) -> Value {
    match path {
        "/admin/session" => json!({"token": token}),
        "/admin/pause" => json!({"reason": "a look at what is told"}),
        "/admin/users/{id}/plan" => json!({"plan": "free"}),
        "/admin/users/{id}/grant" => json!({"amount": "1"}),
        "/admin/users/{id}/credit" => json!({"per": "day", "unit": "requests", "amount": 1}),
        _ => json!({}),
    }
}

/// Whatever a panic prints of what it holds, the settings keep their secrets.
#[test]
fn a_panic_with_the_settings_in_its_hands_shows_no_secret() {
    let secrets = [
        ("JWT_SECRET", "canary-panic-jwt-4be1c7a09d52f8360e"),
        ("OPENAI_API_KEY", "sk-canary-panic-operator"),
        ("SUPABASE_URL", "https://canarypanic.supabase.co"),
        ("SUPABASE_SERVICE_KEY", "sb_secret_canary-panic-service"),
        (
            "DATABASE_URL",
            "postgres://tollgate:canary-panic-password@127.0.0.1/app",
        ),
        (
            "TOLLGATE_ADMIN_TOKEN",
            "canary-panic-admin-9b3f5d7e1c2a4806",
        ),
    ];
    let env = secrets
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let sources = Sources {
        file: None,
        env,
        directory: std::env::temp_dir().join("tollgate-no-such-folder"),
    };
    let config = Config::load(&sources).expect("good settings");
    let shown = std::thread::spawn(move || panic!("{config:?} {config:#?}"))
        .join()
        .unwrap_err();
    let shown = shown.downcast::<String>().expect("a message");
    assert!(
        shown.contains("canarypanic.supabase.co"),
        "the settings are shown: {shown}"
    );
    for (name, secret) in secrets.iter().filter(|(name, _)| *name != "SUPABASE_URL") {
        let hidden = secret
            .split([':', '@', '/'])
            .find(|part| part.contains("canary"))
            .unwrap();
        assert!(!shown.contains(hidden), "{name} is shown");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_to_start_shows_no_secret() {
    let secret = "short-canary-secret";
    let printed = Door::refused_to_start(Settings::new().env("JWT_SECRET", secret)).await;
    assert!(!printed.stderr.contains(secret), "{}", printed.stderr);
    let printed = Door::refused_to_start(
        Settings::new()
            .env("TOLLGATE_AUTH__JWT_SECRET", secret)
            .unset("JWT_SECRET"),
    )
    .await;
    assert!(!printed.stderr.contains(secret), "{}", printed.stderr);
    let printed = Door::refused_to_start(
        Settings::new()
            .with(&format!("auth.jwt_secret = {secret:?}"))
            .unset("JWT_SECRET"),
    )
    .await;
    assert!(!printed.stderr.contains(secret), "{}", printed.stderr);
    // A key in the wrong place: the line at fault is told of, its value is not.
    let printed =
        Door::refused_to_start(Settings::new().with(&format!("auth.jwt_sercet = {secret:?}")))
            .await;
    assert!(
        printed.stderr.contains("jwt_sercet") && !printed.stderr.contains(secret),
        "{}",
        printed.stderr
    );
    let printed = Door::refused_to_start(
        Settings::new()
            .with("auth.jwt_secret = [\"short-canary-secret\"]")
            .unset("JWT_SECRET"),
    )
    .await;
    assert!(!printed.stderr.contains(secret), "{}", printed.stderr);
}
