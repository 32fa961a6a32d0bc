//! Names that the operator makes for models (`[models.*]`): what answers for them, what is sent with them, and what the row
//! says.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::caller::{Call, User, and, chat, chat_stream};
use crate::support::door::Door;
use crate::support::embeddings::embed;
use crate::support::postgres::free_port;
use crate::support::reply::honest;
use crate::support::settings::Settings;

const NAMES: &str = r#"
plans.free.models = ["fast", "gpt-4o"]
[models.fast]
use = ["gpt-4o-mini", "gpt-4o"]
"#;

fn sent(door: &Door) -> Value {
    door.upstream.last().seen.body.clone()
}

/// What `usage --requests --json` says of the last request.
fn last_row(door: &Door) -> Value {
    let printed = door.must(&["usage", "--requests", "--json"]);
    serde_json::from_str(printed.lines().last().unwrap()).unwrap()
}

async fn ask(user: &User, model: &str, fields: Value) {
    let body = and(and(chat("Hello"), &json!({"model": model})), &fields);
    user.ask(body).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_asks_for_the_operators_name_and_pays_for_the_model_that_answers() {
    let door = Door::open(Settings::new().with(NAMES)).await;
    let alice = door.user("alice");

    let body = and(chat_stream("Hello"), &json!({"model": "fast"}));
    let answer = alice.ask(body).await.expect(200);
    assert_eq!(sent(&door)["model"], "gpt-4o-mini");
    let row = door.row(&answer).await;
    assert_eq!(row.model.as_deref(), Some("gpt-4o-mini"));
    let row = last_row(&door);
    assert_eq!(
        (&row["requested_model"], &row["model"]),
        (&json!("fast"), &json!("gpt-4o-mini"))
    );

    // Without a model it is the plan's first, and a model by its own name is still one.
    let mut body = chat("Hello");
    body.as_object_mut().unwrap().remove("model");
    alice.ask(body).await.expect(200);
    assert_eq!(sent(&door)["model"], "gpt-4o-mini");
    ask(&alice, "gpt-4o", json!({})).await;
    assert_eq!(sent(&door)["model"], "gpt-4o");
    // What answers for a name is not in the plan by that.
    alice
        .ask(and(chat("Hello"), &json!({"model": "gpt-4o-mini"})))
        .await
        .refused(403, "model_not_allowed");

    assert_eq!(alice.me().await["models"], json!(["fast", "gpt-4o"]));
    let listed = alice.get("/v1/models").await.expect(200).json();
    let ids: Vec<_> = listed["data"].as_array().unwrap().iter().collect();
    assert_eq!((&ids[0]["id"], ids.len()), (&json!("fast"), 2));
    let one = alice.get("/v1/models/fast").await.expect(200).json();
    assert_eq!(one["id"], "fast");
    alice
        .get("/v1/models/gpt-4o-mini")
        .await
        .refused(403, "model_not_allowed");
    assert!(door.must(&["check"]).contains("fast: gpt-4o-mini, gpt-4o"));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_set_is_sent_whatever_the_app_says_and_defaults_only_where_it_says_nothing() {
    let door = Door::open(Settings::new().with(
        r#"
plans.free.models = ["fast", "short", "vectors"]
[models.fast]
use = ["gpt-4o-mini"]
set = { temperature = 0.25, stop = ["END"] }
defaults = { seed = 7, max_tokens = 50 }
[models.short]
use = ["gpt-4o-mini"]
set = { max_completion_tokens = 20 }
[models.vectors]
use = ["text-embedding-3-small"]
set = { dimensions = 2 }
"#,
    ))
    .await;
    let alice = door.user("alice");

    ask(&alice, "fast", json!({})).await;
    let body = sent(&door);
    assert_eq!(
        (&body["temperature"], &body["stop"], &body["seed"]),
        (&json!(0.25), &json!(["END"]), &json!(7))
    );
    assert_eq!(body["max_completion_tokens"], 50);

    let said = json!({"temperature": 1.5, "stop": "x", "seed": 9, "max_completion_tokens": 60});
    ask(&alice, "fast", said).await;
    let body = sent(&door);
    assert_eq!(
        (&body["temperature"], &body["stop"], &body["seed"]),
        (&json!(0.25), &json!(["END"]), &json!(9))
    );
    assert_eq!(body["max_completion_tokens"], 60);

    ask(&alice, "short", json!({"max_tokens": 500})).await;
    assert_eq!(sent(&door)["max_completion_tokens"], 20);
    let row = last_row(&door);
    // Held is what may be generated: 20 tokens and a short prompt.
    assert!(row["held_micros"].as_i64().unwrap() < 60, "{row}");

    let body = and(
        embed("one"),
        &json!({"model": "vectors", "dimensions": 999}),
    );
    alice.post("/v1/embeddings", &body).await.expect(200);
    assert_eq!(sent(&door)["dimensions"], 2);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_answered_by_its_first_model_that_serves_the_endpoint() {
    let door = Door::open(Settings::new().with(
        r#"
plans.free.models = ["words", "all"]
[models.words]
use = ["gpt-4o"]
[models.all]
use = ["text-embedding-3-small", "gpt-4o-mini"]
"#,
    ))
    .await;
    let alice = door.user("alice");
    ask(&alice, "all", json!({})).await;
    assert_eq!(sent(&door)["model"], "gpt-4o-mini");
    let body = and(embed("one"), &json!({"model": "all"}));
    alice.post("/v1/embeddings", &body).await.expect(200);
    assert_eq!(sent(&door)["model"], "text-embedding-3-small");
    // Without a model: the plan's first that has one.
    let mut body = embed("one");
    body.as_object_mut().unwrap().remove("model");
    alice.post("/v1/embeddings", &body).await.expect(200);
    assert_eq!(sent(&door)["model"], "text-embedding-3-small");
    let refused = alice
        .post(
            "/v1/embeddings",
            &and(embed("one"), &json!({"model": "words"})),
        )
        .await
        .refused(403, "model_not_allowed");
    let message = refused.json()["error"]["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(message.contains("It has: all."), "{message}");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_models_own_name_may_be_given_to_others_in_any_of_its_forms() {
    let door = Door::open(Settings::new().with(
        r#"
plans.free.models = ["gpt-4o-mini"]
[models."gpt-4o-mini"]
use = ["gpt-4o"]
"#,
    ))
    .await;
    let alice = door.user("alice");
    for asked in ["gpt-4o-mini", "gpt-4o-mini-2024-07-18"] {
        ask(&alice, asked, json!({})).await;
        assert_eq!(sent(&door)["model"], "gpt-4o", "{asked}");
        let row = last_row(&door);
        assert_eq!(
            (&row["requested_model"], &row["model"]),
            (&json!(asked), &json!("gpt-4o"))
        );
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_outlives_the_model_behind_it_and_each_model_gets_an_effort_that_it_takes() {
    let door = Door::open(Settings::new().with(
        r#"
plans.free.models = ["old", "newer", "plain"]
[models.old]
use = ["gpt-3.5-turbo"]
set = { reasoning_effort = "none" }
[models.newer]
use = ["gpt-6.1-terra"]
set = { reasoning_effort = "none" }
[models.plain]
use = ["gpt-4o"]
set = { reasoning_effort = "none" }
"#,
    ))
    .await;
    door.upstream.always(honest);
    let alice = door.user("alice");
    for (asked, model, effort) in [
        ("old", "gpt-6-luna", json!("none")),
        ("newer", "gpt-6.1-terra", json!("low")),
        ("plain", "gpt-4o", json!(null)),
    ] {
        ask(&alice, asked, json!({"reasoning_effort": "high"})).await;
        let body = sent(&door);
        assert_eq!(
            (&body["model"], &body["reasoning_effort"]),
            (&json!(model), &effort),
            "{asked}"
        );
    }
    assert_eq!(last_row(&door)["requested_model"], "plain");
    door.close_without_prices().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_goes_elsewhere_without_a_restart_and_a_bad_one_changes_nothing() {
    let door = Door::open(Settings::new().with(NAMES)).await;
    let alice = door.user("alice");
    ask(&alice, "fast", json!({})).await;
    assert_eq!(sent(&door)["model"], "gpt-4o-mini");

    let bad = Settings::new()
        .with(NAMES)
        .with("models.fast.use = [\"gpt-99\"]");
    door.write_settings(&bad);
    door.process.until_it_says("models.fast.use").await;
    ask(&alice, "fast", json!({})).await;
    assert_eq!(sent(&door)["model"], "gpt-4o-mini");

    door.write_settings(
        &Settings::new()
            .with(NAMES)
            .with("models.fast.use = [\"gpt-4o\"]"),
    );
    let begun = Instant::now();
    loop {
        ask(&alice, "fast", json!({})).await;
        if sent(&door)["model"] == "gpt-4o" {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "not reloaded");
        sleep(Duration::from_millis(100)).await;
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_ended_with_nothing_in_its_place_is_told_wherever_an_operator_looks() {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let settings = Settings::new().env("TOLLGATE_SERVER__ADMIN_BIND", &address.to_string());
    let door = Door::open(settings.with(
        r#"
plans.free.models = ["old"]
[models.old]
use = ["gpt-3.5-turbo"]
[[upstreams]]
name = "openai"
base_url = "{upstream}"
api_key_env = "OPENAI_API_KEY"
models = ["gpt-3.5-turbo"]
dialect = "openai"
"#,
    ))
    .await;
    let told = "gpt-3.5-turbo (free) was shut down on 2026-10-23: nothing takes its place";
    door.process.until_it_says(told).await;
    assert!(door.must(&["check"]).contains(told));
    let office = door.office(address);
    let asked = |path: &str| Call::get(path).bearer(door.admin_token());
    let page = office.send(asked("/metrics")).await.expect(200).text();
    let labels = r#"{model="gpt-3.5-turbo",plan="free",successor="none"}"#;
    assert!(
        page.contains(&format!("tollgate_model_days_left{labels} -")),
        "{page}"
    );
    let overview = office.send(asked("/admin/overview")).await.expect(200);
    let ends = overview.json()["model_ends"].clone();
    let end = &ends[0];
    assert_eq!(ends.as_array().unwrap().len(), 1, "{ends}");
    assert_eq!(
        (&end["model"], &end["last_day"], &end["successor"]),
        (&json!("gpt-3.5-turbo"), &json!("2026-10-23"), &Value::Null)
    );
    assert_eq!(end["plans"], json!(["free"]));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_name_is_listed_with_what_answers_and_what_it_cost() {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let settings = Settings::new().env("TOLLGATE_SERVER__ADMIN_BIND", &address.to_string());
    let door = Door::open(settings.with(
        r#"
plans.free.models = ["fast", "gpt-4o"]
[models.fast]
use = ["gpt-4o-mini", "gpt-3.5-turbo"]
set = { seed = 1 }
[models.spare]
use = ["gpt-4o"]
"#,
    ))
    .await;
    let alice = door.user("alice");
    ask(&alice, "fast", json!({})).await;
    ask(&alice, "gpt-4o-2024-08-06", json!({})).await;
    let rows = door.quiet_rows().await;

    let office = door.office(address);
    let asked = Call::get("/admin/models").bearer(door.admin_token());
    let listed = office.send(asked).await.expect(200).json()["rows"].clone();
    let names: Vec<&Value> = (0..3).map(|place| &listed[place]["name"]).collect();
    assert_eq!(names, ["fast", "gpt-4o", "spare"]);
    let fast = &listed[0];
    assert_eq!(
        (&fast["plans"], &fast["set"], &fast["defaults"]),
        (&json!(["free"]), &json!({"seed": 1}), &Value::Null)
    );
    let [first, second] = [0, 1].map(|place| &fast["candidates"][place]);
    assert_eq!(
        (&first["model"], &first["upstream"], &first["input_usd"]),
        (&json!("gpt-4o-mini"), &json!("openai"), &json!("0.150000"))
    );
    assert_eq!(
        (&second["answered_by"], &second["last_day"]),
        (&json!("gpt-6-luna"), &json!("2026-10-23"))
    );
    for (place, model) in [(0, "gpt-4o-mini"), (1, "gpt-4o")] {
        let mut of_model = rows
            .iter()
            .filter(|row| row.model.as_deref() == Some(model));
        let cost = of_model.next().unwrap().cost();
        let told = format!("0.{cost:06}");
        assert_eq!(
            (&listed[place]["requests"], &listed[place]["cost_usd"]),
            (&json!(1), &json!(told))
        );
    }
    assert_eq!(
        (&listed[2]["plans"], &listed[2]["cost_usd"]),
        (&json!([]), &json!("0.000000"))
    );

    let lines = door.must(&["models", "--json"]);
    let line: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(&line, fast);
    let table = door.must(&["models"]);
    for words in [
        "gpt-4o-mini",
        "gpt-6-luna (for gpt-3.5-turbo)",
        "$0.15",
        "2026-10-23, then gpt-6-luna",
    ] {
        assert!(table.contains(words), "{words} in {table}");
    }
    door.close().await;
}
