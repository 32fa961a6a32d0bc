//! Every route and what it tells, and how each refusal looks.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::caller::{Call, and, chat, chat_stream};
use crate::support::door::Door;
use crate::support::settings::Settings;

#[tokio::test(flavor = "multi_thread")]
async fn liveness_says_who_is_there_and_needs_nothing() {
    let door = Door::open(Settings::new()).await;
    let answer = door.send(Call::get("/")).await.expect(200);
    let body = answer.json();
    assert_eq!(
        (&body["status"], &body["service"]),
        (&json!("ok"), &json!("tollgate"))
    );
    assert_eq!(body["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(door.upstream.connections(), 0);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_tells_of_every_part_and_dials_nobody() {
    let door = Door::open(Settings::new()).await;
    let begun = Instant::now();
    let ready = loop {
        let answer = door.send(Call::get("/health/ready")).await;
        if answer.status == 200 && answer.json()["parts"]["jwks"]["ok"] == true {
            break answer.json();
        }
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "not ready: {}",
            answer.text()
        );
        sleep(Duration::from_millis(20)).await; // the keys are being fetched
    };
    assert_eq!(ready["status"], "ready");
    for part in ["store", "jwks"] {
        assert_eq!(ready["parts"][part]["ok"], true, "{ready}");
    }
    assert!(
        ready["parts"]["upstreams"]["openai"].is_object()
            && ready["parts"].get("directory").is_some(),
        "{ready}"
    );
    let fetches = door.supabase.fetches();
    for _ in 0..20 {
        door.send(Call::get("/health/ready")).await.expect(200);
    }
    assert_eq!(
        (door.supabase.fetches(), door.upstream.connections()),
        (fetches, 0)
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_turns_red_when_every_upstream_is_out_of_use_and_green_again() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    door.upstream
        .always(|_| crate::support::reply::Reply::error(401, "invalid_api_key", "no"));
    for _ in 0..10 {
        alice.ask(chat("a")).await.expect(502);
    }
    let ready = door
        .send(Call::get("/health/ready"))
        .await
        .expect(503)
        .json();
    assert_eq!(
        (
            &ready["status"],
            &ready["parts"]["upstreams"]["openai"]["ok"]
        ),
        (&json!("not_ready"), &json!(false)),
        "{ready}"
    );
    door.upstream.always(crate::support::reply::honest);
    alice.ask(chat("a")).await.expect(200);
    door.send(Call::get("/health/ready")).await.expect(200);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_told_their_plan_every_limit_and_what_is_left() {
    let limits = r#"plans.free.limits = [{ per = "minute", requests = 30 }, { per = "day", tokens = 5000 }, { per = "month", cost_usd = "0.50" }, { per = "lifetime", requests = 9 }]"#;
    let door = Door::open(
        Settings::new()
            .with(limits)
            .with("plans.free.concurrent_requests = 2"),
    )
    .await;
    let alice = door.user("alice");
    alice.ask(chat("a")).await.expect(200);
    door.quiet_rows().await;
    let me = alice.me().await;
    assert_eq!(
        me["user"],
        json!({"id": alice.id.to_string(), "email": "alice@example.test", "is_anonymous": false})
    );
    assert_eq!(
        me["plan"],
        json!({"name": "free", "source": "default", "period_ends_at": null})
    );
    assert_eq!(me["models"], json!(["gpt-4o-mini", "gpt-4o"]));
    assert_eq!(
        (&me["max_output_tokens"], &me["concurrent"]),
        (&json!(1000), &json!({"limit": 2, "open": 0}))
    );
    let tokens = door.upstream.last().bill();
    let used = tokens.prompt + tokens.completion;
    let limits = me["limits"].as_array().unwrap();
    let told = |index: usize| {
        let limit = &limits[index];
        (
            limit["per"].as_str().unwrap(),
            limit["unit"].as_str().unwrap(),
            limit["limit"].clone(),
            limit["used"].clone(),
        )
    };
    assert_eq!(told(1), ("day", "tokens", json!(5000), json!(used)));
    assert_eq!(limits[1]["remaining"], 5000 - used);
    assert_eq!(told(2).2, json!("0.500000"));
    assert_eq!(
        (
            limits[3]["remaining"].clone(),
            limits[3]["resets_at"].clone()
        ),
        (json!(8), Value::Null)
    );
    assert!(
        limits[2]["resets_at"]
            .as_str()
            .unwrap()
            .ends_with("-01T00:00:00Z"),
        "{me}"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_seeds_chat_is_the_same_path_with_the_plans_first_model() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    let mut body = chat("a");
    body.as_object_mut().unwrap().remove("model");
    for path in ["/api/chat", "/v1/chat/completions"] {
        let answer = alice.post(path, &body).await.expect(200);
        assert_eq!(door.upstream.last().seen.body["model"], "gpt-4o-mini");
        let row = door.row(&answer).await;
        assert_eq!(
            (
                row.endpoint.as_deref(),
                row.model.as_deref(),
                row.plan.as_deref()
            ),
            (Some(path), Some("gpt-4o-mini"), Some("free"))
        );
    }
    let seed = json!({"messages": [{"role": "user", "content": "Hello!"}], "model": "gpt-4o", "temperature": 0.7, "max_tokens": 50});
    assert_eq!(
        alice.post("/api/chat", &seed).await.expect(200).json()["model"],
        "gpt-4o"
    );
    let stream = alice.post("/api/chat", &chat_stream("a")).await.expect(200);
    assert_eq!(stream.events().last().unwrap(), "[DONE]");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_those_of_the_plan_in_openais_shape() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    let list = alice.get("/v1/models").await.expect(200).json();
    assert_eq!(list["object"], "list");
    let ids: Vec<&str> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["gpt-4o-mini", "gpt-4o"]);
    for model in list["data"].as_array().unwrap() {
        assert_eq!(model["object"], "model");
        assert!(
            model["created"].is_i64() && model["owned_by"].is_string(),
            "{model}"
        );
    }
    let one = alice.get("/v1/models/gpt-4o").await.expect(200).json();
    assert_eq!(
        (&one["id"], &one["object"]),
        (&json!("gpt-4o"), &json!("model"))
    );
    for absent in ["o1", "gpt-4", "..%2f..", "%00"] {
        let answer = alice.get(&format!("/v1/models/{absent}")).await;
        assert!(
            [403, 404].contains(&answer.status),
            "{absent}: {}",
            answer.text()
        );
    }
    door.send(Call::get("/v1/models"))
        .await
        .refused(401, "missing_token");
    assert_eq!(door.upstream.connections(), 0);
    door.close().await;
}

/// Today in UTC.
fn today() -> String {
    jiff::Timestamp::now().to_string()[..10].to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_the_users_own_by_day_and_model_with_exact_costs() {
    let door = Door::open(Settings::new()).await;
    let (alice, bob) = (door.user("alice"), door.user("bob"));
    for model in ["gpt-4o-mini", "gpt-4o", "gpt-4o-mini"] {
        alice
            .ask(and(chat("a b c"), &json!({"model": model})))
            .await
            .expect(200);
    }
    bob.ask(chat("somebody else")).await.expect(200);
    let rows = door.quiet_rows().await;
    let day = today();
    let usage = alice
        .get(&format!("/api/usage?from={day}&to={day}"))
        .await
        .expect(200)
        .json();
    assert_eq!(
        (&usage["from"], &usage["to"], &usage["next"]),
        (&json!(day), &json!(day), &Value::Null)
    );
    let lines = usage["rows"].as_array().unwrap();
    assert_eq!(lines.len(), 2, "{usage}");
    let mini = lines
        .iter()
        .find(|line| line["model"] == "gpt-4o-mini")
        .unwrap();
    let own = rows
        .iter()
        .filter(|row| row.user_id == alice.id && row.model.as_deref() == Some("gpt-4o-mini"));
    let cost: i64 = own.clone().map(crate::support::oracle::Row::cost).sum();
    assert_eq!(
        (&mini["day"], &mini["requests"], &mini["output_tokens"]),
        (&json!(day), &json!(2), &json!(10))
    );
    assert_eq!(
        mini["input_tokens"],
        own.map(|row| row.input_tokens.unwrap()).sum::<i64>()
    );
    assert_eq!(mini["cached_input_tokens"], 0);
    assert_eq!(mini["cost_usd"], format!("0.{cost:06}"));
    let default = alice.get("/api/usage").await.expect(200).json();
    assert_eq!(default["rows"].as_array().unwrap().len(), 2, "{default}");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn history_includes_both_days_and_refuses_what_is_no_day() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    alice.ask(chat("a")).await.expect(200);
    door.quiet_rows().await;
    let day: jiff::civil::Date = today().parse().unwrap();
    let (before, after) = (day.yesterday().unwrap(), day.tomorrow().unwrap());
    for (from, to, rows) in [
        (day, day, 1),
        (before, day, 1),
        (day, after, 1),
        (before, before, 0),
        (after, after, 0),
    ] {
        let usage = alice
            .get(&format!("/api/usage?from={from}&to={to}"))
            .await
            .expect(200)
            .json();
        assert_eq!(
            usage["rows"].as_array().unwrap().len(),
            rows,
            "{from} to {to}: {usage}"
        );
    }
    for (query, param) in [
        ("from=yesterday", "from"),
        ("to=2026-02-30", "to"),
        ("from=2026-13-01", "from"),
        ("from=", "from"),
        ("to=99999-01-01", "to"),
        ("from=2026-11-01T00:00:00Z", "from"),
        ("cursor=%00", "cursor"),
        ("cursor='%20OR%201=1", "cursor"),
    ] {
        let answer = alice
            .get(&format!("/api/usage?{query}"))
            .await
            .refused(400, "invalid_request");
        assert_eq!(answer.json()["error"]["param"], param, "{query}");
    }
    let backwards = alice
        .get(&format!("/api/usage?from={after}&to={before}"))
        .await;
    assert!(
        backwards.status == 400 || backwards.json()["rows"] == json!([]),
        "{}",
        backwards.text()
    );
    door.send(Call::get("/api/usage"))
        .await
        .refused(401, "missing_token");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_told_in_pages_newest_first_and_nothing_twice() {
    // 600 models make 600 lines of one day: more than a page.
    let names: Vec<String> = (0..600)
        .map(|number| format!("model-{number:03}"))
        .collect();
    let mut toml = format!("plans.free.models = {names:?}\n");
    for name in &names {
        toml.extend(["[prices.", name, "]\ninput = \"1\"\noutput = \"1\"\n"]);
    }
    let everything = "[[upstreams]]\nname = \"all\"\nbase_url = \"{upstream}\"\napi_key_env = \"OPENAI_API_KEY\"\nmodels = [\"*\"]\n";
    let settings = Settings::new().with(&toml).with(everything);
    let door = Door::open(settings).await;
    let alice = door.user("alice");
    let asking: Vec<_> = names
        .chunks(100)
        .map(|names| {
            let (alice, names) = (alice.clone(), names.to_vec());
            tokio::spawn(async move {
                for name in names {
                    alice
                        .ask(and(chat("a"), &json!({"model": name})))
                        .await
                        .expect(200);
                }
            })
        })
        .collect();
    for one in asking {
        one.await.unwrap();
    }
    door.quiet_rows().await;
    let (mut seen, mut pages, mut path) = (Vec::new(), 0, "/api/usage".to_owned());
    loop {
        let page = alice.get(&path).await.expect(200).json();
        let rows = page["rows"].as_array().unwrap();
        assert!(
            !rows.is_empty() && rows.len() <= 500,
            "{} rows on a page",
            rows.len()
        );
        seen.extend(
            rows.iter()
                .map(|row| format!("{} {}", row["day"], row["model"])),
        );
        pages += 1;
        let Some(next) = page["next"].as_str() else {
            break;
        };
        path = format!("/api/usage?cursor={next}");
    }
    let told = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!((pages, told, seen.len()), (2, 600, 600));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_path_is_404_without_asking_who_is_there() {
    let door = Door::open(Settings::new()).await;
    for path in [
        "/nothing",
        "/v1",
        "/v1/",
        "/api",
        "/v1/files",
        "/v1/responses/resp_1",
        "/v1/threads",
        "/v1/batches",
        "/v1/chat/completions/x",
        "/.env",
        "/admin/users",
        "/metrics",
        "/api/../etc",
    ] {
        door.send(Call::get(path)).await.refused(404, "not_found");
    }
    door.send(Call::post("/v1/files", &json!({})))
        .await
        .refused(404, "not_found");
    door.send(Call::new("DELETE", "/v1/chat/completions/chatcmpl-1"))
        .await
        .refused(404, "not_found");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_path_with_another_method_is_405_and_says_which() {
    let door = Door::open(Settings::new()).await;
    for (path, allowed) in [
        ("/", "GET"),
        ("/health/ready", "GET"),
        ("/api/me", "GET"),
        ("/api/usage", "GET"),
        ("/api/chat", "POST"),
        ("/v1/chat/completions", "POST"),
        ("/v1/models", "GET"),
        ("/v1/models/gpt-4o", "GET"),
    ] {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"]
            .into_iter()
            .filter(|method| *method != allowed)
        {
            let answer = door
                .send(Call::new(method, path))
                .await
                .refused(405, "method_not_allowed");
            assert!(
                answer
                    .header("allow")
                    .split(',')
                    .any(|method| method.trim() == allowed),
                "{path}: {}",
                answer.header("allow")
            );
        }
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_may_call_from_listed_origins_only() {
    let preflight = |origin: &str| {
        Call::new("OPTIONS", "/v1/chat/completions")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "authorization,content-type",
            )
    };
    let (ours, theirs) = ("https://app.example.test", "https://evil.test");
    let door = Door::open(Settings::new().with(&format!("server.cors_origins = [{ours:?}]"))).await;
    let answer = door.send(preflight(ours)).await;
    assert!([200, 204].contains(&answer.status), "{}", answer.status);
    assert_eq!(answer.header("access-control-allow-origin"), ours);
    assert!(
        answer
            .header("access-control-allow-headers")
            .to_lowercase()
            .contains("authorization")
    );
    assert_eq!(
        door.send(preflight(theirs))
            .await
            .header("access-control-allow-origin"),
        ""
    );
    let alice = door.user("alice");
    let answer = door
        .send(alice.call(&chat("a")).header("origin", ours))
        .await
        .expect(200);
    assert_eq!(answer.header("access-control-allow-origin"), ours);
    let exposed = answer
        .header("access-control-expose-headers")
        .to_lowercase();
    assert!(
        exposed.contains("x-tollgate-error") && exposed.contains("x-request-id"),
        "{exposed}"
    );
    let refused = door
        .send(Call::get("/api/me").header("origin", ours))
        .await
        .refused(401, "missing_token");
    assert_eq!(
        refused.header("access-control-allow-origin"),
        ours,
        "an app must be able to read why"
    );
    door.close().await;

    let door = Door::open(Settings::new().with(r#"server.cors_origins = ["*"]"#)).await;
    assert_eq!(
        door.send(preflight(theirs))
            .await
            .header("access-control-allow-origin"),
        "*"
    );
    door.close().await;

    let door = Door::open(Settings::new()).await;
    assert_eq!(
        door.send(preflight(ours))
            .await
            .header("access-control-allow-origin"),
        ""
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answers_id_is_ours_and_is_the_rows() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    let call = alice
        .call(&chat("a"))
        .header("x-request-id", "00000000-0000-7000-8000-000000000000");
    let answer = door.send(call).await.expect(200);
    let id = answer.id().unwrap();
    assert_eq!((id.get_version_num(), door.row(&answer).await.id), (7, id));
    assert_ne!(id.to_string(), "00000000-0000-7000-8000-000000000000");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_by_address_is_bounded_by_rule_or_refused() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    for part in [
        json!({"type": "image_url", "image_url": {"url": "https://example.test/a.png", "detail": "high"}}),
        json!({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
        json!({"type": "file", "file": {"file_id": "file-1"}}),
        json!({"type": "no_such_part"}),
    ] {
        let body =
            json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": [part]}]});
        let answer = alice.ask(body).await;
        assert!(
            answer.status == 400 || (answer.status == 200 && part["type"] == "image_url"),
            "{part}: {}",
            answer.text()
        );
    }
    door.close().await;
}
