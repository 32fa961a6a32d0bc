//! `/metrics`: what Prometheus reads.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::support::caller::{Call, Front, and, chat, chat_stream};
use crate::support::door::Door;
use crate::support::postgres::free_port;
use crate::support::reply::Reply;
use crate::support::settings::Settings;

/// As a program on this machine asks.
fn look() -> Call {
    Call::get("/metrics").host("127.0.0.1:9090")
}

/// Every sample of the page: its name with its labels, and its value.
pub(crate) fn samples(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line
            .rsplit_once(' ')
            .unwrap_or_else(|| panic!("no sample: {line:?}"));
        (
            name.to_owned(),
            value
                .parse()
                .unwrap_or_else(|_| panic!("no number: {line:?}")),
        )
    };
    lines.map(sample).collect()
}

async fn page(operator: &Arc<Front>) -> BTreeMap<String, f64> {
    let answer = operator.send(look()).await.expect(200);
    assert!(
        answer
            .header("content-type")
            .starts_with("application/openmetrics-text; version=1.0.0")
    );
    let text = answer.text();
    assert!(text.ends_with("# EOF\n"), "{text}");
    samples(&text)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_counted_once_by_what_became_of_it() {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let settings = Settings::new().env("TOLLGATE_SERVER__ADMIN_BIND", &address.to_string());
    let door = Door::open(settings).await;
    let operator = door.office(address);
    let alice = door.user("alice");
    let before = page(&operator).await;
    assert_eq!(before["tollgate_ledger_up"], 1.0);
    assert_eq!(
        before[r#"tollgate_cost_usd_total{model="gpt-4o-mini",plan="free"}"#], 0.0,
        "there before it counts"
    );

    alice.ask(chat("a")).await.expect(200);
    alice.ask(chat_stream("b")).await.expect(200);
    alice
        .ask(and(chat("c"), &json!({"model": "gpt-9"})))
        .await
        .refused(403, "model_not_allowed");
    door.send(Call::post("/v1/chat/completions", &chat("d")))
        .await
        .refused(401, "missing_token");
    door.upstream
        .next(|_| Reply::status(500, "text/plain", "no"));
    alice.ask(chat("e")).await.refused(502, "upstream_error");
    door.upstream.next(|_| {
        Reply::status(
            400,
            "application/json",
            r#"{"error":{"message":"x","code":"odd_code"}}"#,
        )
    });
    alice.ask(chat("f")).await.expect(400);
    door.send(Call::get("/no/such/path")).await.expect(404);
    let rows = door.quiet_rows().await;

    let after = page(&operator).await;
    let asked = |code: &str| {
        after[&format!(
            r#"tollgate_requests_total{{endpoint="/v1/chat/completions",code="{code}"}}"#
        )]
    };
    assert_eq!(
        [
            "ok",
            "model_not_allowed",
            "missing_token",
            "upstream_error",
            "invalid_request"
        ]
        .map(asked),
        [2.0, 1.0, 1.0, 1.0, 1.0]
    );
    assert_eq!(
        after[r#"tollgate_requests_total{endpoint="other",code="not_found"}"#],
        1.0
    );
    assert_eq!(
        after[r#"tollgate_refusals_total{code="missing_token"}"#],
        1.0
    );
    let upstream = |outcome: &str| {
        after[&format!(
            r#"tollgate_upstream_requests_total{{upstream="openai",outcome="{outcome}"}}"#
        )]
    };
    assert_eq!(["ok", "error", "cancelled"].map(upstream), [3.0, 1.0, 0.0]);
    let ended = |end: &str| after[&format!(r#"tollgate_ended_total{{end="{end}"}}"#)];
    assert_eq!(["settled", "voided", "lost"].map(ended), [2.0, 2.0, 0.0]);
    assert_eq!(after["tollgate_time_to_first_token_seconds_count"], 2.0);
    assert_eq!(after["tollgate_ledger_write_seconds_count"], 4.0);
    assert_eq!(
        after[r#"tollgate_request_duration_seconds_count{endpoint="/v1/chat/completions"}"#],
        6.0
    );
    assert_eq!(after["tollgate_open_requests"], 0.0);

    // Money is told as the ledger has it.
    let micros = |name: &str| (after[name] * 1e6).round() as i64;
    let cost: i64 = rows.iter().map(|row| row.cost()).sum();
    assert!(cost > 0);
    assert_eq!(
        micros(r#"tollgate_cost_usd_total{model="gpt-4o-mini",plan="free"}"#),
        cost
    );
    assert_eq!(
        (
            micros("tollgate_ceiling_usd"),
            micros("tollgate_ceiling_spent_usd")
        ),
        (1_000_000_000, cost)
    );
    assert_eq!(micros("tollgate_ceiling_held_usd"), 0);
    let tokens: i64 = rows.iter().map(|row| row.tokens()).sum();
    let of = |kind: &str| {
        after[&format!(r#"tollgate_tokens_total{{model="gpt-4o-mini",kind="{kind}"}}"#)] as i64
    };
    assert_eq!(of("input") + of("output"), tokens);

    let text = operator.send(look()).await.text();
    assert!(
        !text.contains(&alice.id.to_string()) && !text.contains("gpt-9"),
        "a label that has no bound"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_to_the_operators_listener_is_no_request_of_a_users() {
    let port = free_port();
    let settings = Settings::new().unset("TOLLGATE_SERVER__ADMIN_BIND");
    let door =
        Door::open(settings.with(&format!("server.admin_bind = \"127.0.0.1:{port}\""))).await;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut wire = crate::support::raw::Wire::open(address).await;
    let odd = b"GET /admin/odd HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n";
    wire.send(odd).await.unwrap();
    let (answer, _) = wire.read(Duration::from_secs(2)).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let operator = door.office(address);
    let page = operator.send(Call::get("/metrics").host("localhost")).await;
    let counted = page.expect(200).text();
    let counted: Vec<&str> = counted
        .lines()
        .filter(|line| line.starts_with("tollgate_requests_total{"))
        .filter(|line| line.contains("invalid_request"))
        .collect();
    assert_eq!(counted, Vec::<&str>::new());
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_name_or_a_proxy_on_this_machine_makes_nobody_local() {
    let port = free_port();
    let settings = Settings::new().unset("TOLLGATE_SERVER__ADMIN_BIND");
    let door =
        Door::open(settings.with(&format!("server.admin_bind = \"127.0.0.1:{port}\""))).await;
    let operator = door.office(SocketAddr::from(([127, 0, 0, 1], port)));
    let local = format!("127.0.0.1:{port}");
    for host in [
        local.as_str(),
        "localhost",
        "LOCALHOST:1",
        "[::1]:9090",
        "127.1.2.3",
    ] {
        operator
            .send(Call::get("/metrics").host(host))
            .await
            .expect(200);
    }
    for host in [
        "evil.test",
        "evil.test:9090",
        "127.0.0.1.evil.test",
        "10.0.0.1:9090",
        "[fe80::1]",
        "",
        "localhost@evil.test",
    ] {
        operator
            .send(Call::get("/metrics").host(host))
            .await
            .refused(401, "missing_token");
        operator
            .send(Call::get("/metrics").host(host).bearer(door.admin_token()))
            .await
            .expect(200);
    }
    for name in [
        "Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Anything",
        "Via",
        "X-Real-IP",
    ] {
        let call = || Call::get("/metrics").host(&local).header(name, "1");
        operator.send(call()).await.refused(401, "missing_token");
        operator
            .send(call().bearer(door.admin_token()))
            .await
            .expect(200);
    }
    operator
        .send(Call::get("http://evil.test/metrics").host(&local))
        .await
        .refused(401, "missing_token");

    let token = serde_json::json!({"token": door.admin_token()});
    for (name, value, is_secure) in [
        ("x-a", "1", false),
        ("x-forwarded-proto", "https", true),
        ("forwarded", "proto=https", true),
        ("via", "1.1 x", true),
    ] {
        let signed_in = operator
            .send(
                Call::post("/admin/session", &token)
                    .host(&local)
                    .header(name, value),
            )
            .await;
        assert_eq!(
            signed_in
                .expect(204)
                .header("set-cookie")
                .contains("; Secure"),
            is_secure,
            "{name}"
        );
    }
    let signed_in = operator
        .send(Call::post("/admin/session", &token).host("admin.example.com"))
        .await
        .expect(204);
    assert!(
        signed_in.header("set-cookie").ends_with("; Secure"),
        "by another name"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_for_the_operator_alone_unless_nobody_else_can_get_there() {
    let port = free_port();
    let settings = Settings::new().unset("TOLLGATE_SERVER__ADMIN_BIND");
    let door = Door::open(
        settings
            .clone()
            .with(&format!("server.admin_bind = \"0.0.0.0:{port}\"")),
    )
    .await;
    let operator = door.office(SocketAddr::from(([127, 0, 0, 1], port)));
    let alice = door.user("alice");
    operator.send(look()).await.refused(401, "missing_token");
    for token in ["x", &alice.token, door.operator_key()] {
        operator
            .send(look().bearer(token))
            .await
            .refused(401, "invalid_token");
    }
    operator
        .send(look().bearer(door.admin_token()))
        .await
        .expect(200);
    door.send(Call::get("/metrics").bearer(door.admin_token()))
        .await
        .refused(404, "not_found");
    // Other settings do not move the listener, and so open nothing.
    door.write_settings(&settings.with(&format!("server.admin_bind = \"127.0.0.1:{port}\"")));
    door.process.signal("HUP");
    door.process.until_it_says("only at a restart").await;
    operator.send(look()).await.refused(401, "missing_token");
    door.close().await;
}
