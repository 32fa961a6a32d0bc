//! Limits for one name of the plan: what they count, what they let pass, and what they tell.

use serde_json::{Value, json};

use crate::support::caller::{User, and, chat};
use crate::support::door::Door;
use crate::support::settings::Settings;
use crate::support::tools::{Tool, installed};

fn with_limits(limits: &str) -> Settings {
    Settings::new().with(&format!("plans.free.limits = [{limits}]"))
}

fn asking(model: &str) -> Value {
    and(chat("one of many"), &json!({"model": model}))
}

/// How many of so many requests at once are answered; the others are refused for a limit, which is the last that is given
/// back.
async fn at_once(user: &User, model: &str, count: usize) -> (usize, Value) {
    let asking: Vec<_> = (0..count)
        .map(|_| {
            let (user, body) = (user.clone(), asking(model));
            tokio::spawn(async move { user.ask(body).await })
        })
        .collect();
    let (mut answered, mut limit) = (0, Value::Null);
    for one in asking {
        let answer = one.await.unwrap();
        if answer.status == 200 {
            answered += 1;
        } else {
            limit = answer.refused(402, "quota_exceeded").json()["error"]["limit"].clone();
        }
    }
    (answered, limit)
}

/// Of requests at once a limit for one name lets as many through as it says, and all of another name.
async fn one_name_is_refused_while_another_passes(settings: Settings) {
    let door = Door::open(settings).await;
    let (alice, bob) = (door.user("alice"), door.user("bob"));
    let watch = Door::watch(&alice);
    let (large, small) = tokio::join!(
        at_once(&alice, "gpt-4o", 40),
        at_once(&alice, "gpt-4o-mini", 20)
    );
    drop(watch);
    assert_eq!((large.0, small.0, door.upstream.count()), (3, 20, 23));
    assert_eq!(
        (
            &large.1["per"],
            &large.1["unit"],
            &large.1["model"],
            &large.1["limit"]
        ),
        (
            &json!("day"),
            &json!("requests"),
            &json!("gpt-4o"),
            &json!(3)
        )
    );
    // What counts all names counts these, and another user has their own.
    let told = |limit: &Value| (limit["model"].clone(), limit["used"].clone());
    let me = alice.me().await;
    assert_eq!(told(&me["limits"][0]), (json!("gpt-4o"), json!(3)));
    assert_eq!(told(&me["limits"][1]), (Value::Null, json!(23)));
    bob.ask(asking("gpt-4o")).await.expect(200);
    door.quiet_rows().await;

    // What was used is as old as its rows, not as the process.
    door.restart().await;
    assert_eq!(at_once(&alice, "gpt-4o", 2).await.0, 0);
    alice.ask(asking("gpt-4o-mini")).await.expect(200);
    door.quiet_rows().await;
    let told = door.must(&["user", "show", &alice.id.to_string()]);
    assert!(told.contains("requests per day with gpt-4o"), "{told}");
    let told = door.must(&["check"]);
    assert!(told.contains("3 requests per day with gpt-4o"), "{told}");
    door.must(&["ledger", "check"]);
    door.close().await;
}

const LIMITS: &str =
    r#"{ per = "day", requests = 3, model = "gpt-4o" }, { per = "day", requests = 100 }"#;

#[tokio::test(flavor = "multi_thread")]
async fn of_requests_at_once_one_name_is_refused_while_another_passes() {
    one_name_is_refused_while_another_passes(with_limits(LIMITS).on_sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_requests_at_once_one_name_is_refused_while_another_passes_on_postgres() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    one_name_is_refused_while_another_passes(with_limits(LIMITS).on_postgres()).await;
}

/// A plan gains a limit while its users have used something: the rows say how much.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_comes_later_counts_what_was_used_before() {
    let door = Door::open(with_limits(r#"{ per = "day", requests = 100 }"#)).await;
    let alice = door.user("alice");
    for model in ["gpt-4o", "gpt-4o", "gpt-4o-mini"] {
        alice.ask(asking(model)).await.expect(200);
    }
    door.quiet_rows().await;
    door.write_settings(&with_limits(
        r#"{ per = "day", requests = 3, model = "gpt-4o" }"#,
    ));
    door.restart().await;
    assert_eq!(alice.me().await["limits"][0]["used"], 2);
    assert_eq!(at_once(&alice, "gpt-4o", 5).await.0, 1);
    door.close().await;
}

/// A name whose model was shut down is answered by another model, and counts as itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_counts_by_its_name_in_the_plan_and_not_by_the_model_that_answers() {
    let settings = with_limits(r#"{ per = "day", requests = 1, model = "gpt-3.5-turbo" }"#)
        .with(r#"plans.free.models = ["gpt-6-luna", "gpt-3.5-turbo"]"#);
    let door = Door::open(settings).await;
    let alice = door.user("alice");
    alice.ask(asking("gpt-6-luna")).await.expect(200);
    let first = alice.ask(asking("gpt-3.5-turbo")).await.expect(200);
    assert_eq!(door.row(&first).await.model.as_deref(), Some("gpt-6-luna"));
    let refused = alice.ask(asking("gpt-3.5-turbo")).await;
    let refused = refused.refused(402, "quota_exceeded").json();
    assert_eq!(refused["error"]["limit"]["model"], "gpt-3.5-turbo");
    alice.ask(asking("gpt-6-luna")).await.expect(200);
    door.close().await;
}
