//! Credits: what pays when, what an operator gives, and a user who is forgotten.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::caller::{Answer, Call, Front, User, and, chat};
use crate::support::door::Door;
use crate::support::oracle::Row;
use crate::support::postgres::free_port;
use crate::support::reply::Talk;
use crate::support::settings::{Settings, micros};

/// A whole answer of this plan costs 600 micro-dollars, and the least that is worth asking for 38.
fn settings(address: SocketAddr) -> Settings {
    let limits = r#"{ per = "month", cost_usd = "0.0001" }, { per = "day", requests = 100 }"#;
    Settings::new()
        .with(&format!("plans.free.limits = [{limits}]"))
        .env("TOLLGATE_SERVER__ADMIN_BIND", &address.to_string())
}

async fn open() -> (Door, Arc<Front>) {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let door = Door::open(settings(address)).await;
    let front = door.office(address);
    (door, front)
}

async fn operator(door: &Door, front: &Arc<Front>, call: Call) -> Answer {
    front.send(call.bearer(door.admin_token())).await
}

fn whole() -> Value {
    and(chat("a"), &json!({"max_tokens": 1000}))
}

async fn row_of(door: &Door, user: &User) -> Row {
    let answer = user.ask(whole()).await.expect(200);
    door.quiet_rows().await;
    door.row(&answer).await
}

fn paid_by(row: &Row) -> &str {
    row.paid_by.as_deref().unwrap()
}

fn left(me: &Value) -> i64 {
    micros(me["credits"]["remaining"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plan_pays_first_then_credits_then_both_for_less_and_then_nobody() {
    let (door, front) = open().await;
    let alice = door.user("alice");
    let id = alice.id.to_string();
    assert_eq!(alice.me().await["credits"], Value::Null);
    // Without credits an answer is made shorter.
    let short = row_of(&door, &alice).await;
    assert!(short.held_micros.unwrap() <= 100 && paid_by(&short) == "plan");

    let told = door.must(&["user", "grant", &id, "0.001", "--until", "2099-01-01"]);
    assert!(told.contains("$0.001000"), "{told}");
    let used = alice.me().await["limits"][0]["used"].clone();
    door.upstream.always(|seen| Talk::to_the_cap().reply(seen));
    let row = row_of(&door, &alice).await;
    assert_eq!(paid_by(&row), "credits");
    let (held, cost) = (row.held_micros.unwrap(), row.cost());
    assert!(held > 600 && cost > 590, "whole: {row:?}");
    let me = alice.me().await;
    assert_eq!(left(&me), 1000 - cost, "{me}");
    assert_eq!(me["credits"]["held"], "0.000000");
    assert_eq!(me["credits"]["next_expiry"], "2099-01-01T00:00:00Z");
    assert_eq!(me["limits"][0]["used"], used, "it counts in no window");
    assert_eq!(me["limits"][1]["used"], 2, "and as a request");

    // Neither has enough for a whole answer.
    let row = row_of(&door, &alice).await;
    assert_eq!(paid_by(&row), "plan", "{row:?}");
    let row = row_of(&door, &alice).await;
    assert_eq!(paid_by(&row), "credits", "{row:?}");
    assert!(row.held_micros.unwrap() < 600, "shorter: {row:?}");
    let rest = left(&alice.me().await);
    let refused = alice.ask(whole()).await.refused(402, "quota_exceeded");
    let message = refused.json()["error"]["message"].to_string();
    let told = format!("${}.{:06} is left of your credits", 0, rest);
    assert!(message.contains(&told), "{message}");

    // The operator's API gives more, and says what was given.
    let path = |rest: &str| format!("/admin/users/{id}{rest}");
    for (wrong, param) in [
        (json!({"amount": "0"}), "amount"),
        (json!({"amount": "1e3"}), "amount"),
        (
            json!({"amount": "1", "until": "2020-01-01T00:00:00Z"}),
            "until",
        ),
        (json!({"amount": "1", "until": "tomorrow"}), "until"),
    ] {
        let call = Call::post(&path("/grant"), &wrong);
        let refused = operator(&door, &front, call).await;
        let refused = refused.refused(400, "invalid_request").json();
        assert_eq!(refused["error"]["param"], param);
    }
    let call = Call::post(&path("/grant"), &json!({"amount": "2.50"}));
    let grant = operator(&door, &front, call).await.expect(201).json();
    assert_eq!(
        (&grant["granted_usd"], &grant["until"], &grant["source"]),
        (&json!("2.500000"), &Value::Null, &json!("operator"))
    );
    assert_eq!(left(&alice.me().await), rest + 2_500_000);
    let page = operator(&door, &front, Call::get(&path(""))).await.json();
    assert_eq!(page["grants"].as_array().unwrap().len(), 2);
    assert_eq!(page["credit_balance"], alice.me().await["credits"]);
    assert_eq!(paid_by(&row_of(&door, &alice).await), "credits");
    let told = door.must(&["user", "show", &id]);
    assert!(
        told.contains("credits") && told.contains("operator"),
        "{told}"
    );
    let told = door.tollgate(&["user", "credit", &id, "day", "requests", "1"]);
    assert!(told.stderr.contains("user raise"), "{told:?}");
    for wrong in ["0", "-1", "five", "1.0000001"] {
        let told = door.tollgate(&["user", "grant", &id, wrong]);
        assert_ne!(told.code, Some(0), "{told:?}");
    }
    door.must(&["ledger", "check"]);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_is_forgotten_is_nowhere_and_the_sums_stay() {
    let (door, front) = open().await;
    let (alice, bob) = (door.user("alice"), door.user("bob"));
    let id = alice.id.to_string();
    door.must(&["user", "grant", &id, "1"]);
    door.must(&["user", "raise", &id, "day", "requests", "3"]);
    door.must(&["user", "plan", &id, "free", "--until", "2099-01-01"]);
    door.upstream.always(|seen| Talk::to_the_cap().reply(seen));
    let call = || alice.call(&whole()).header("idempotency-key", "k");
    let first = alice.front.send(call()).await.expect(200);
    assert_eq!(paid_by(&row_of(&door, &alice).await), "credits");
    bob.ask(whole()).await.expect(200);
    let before = door.quiet_rows().await;
    let answer = format!("/api/answers/{}", first.id().unwrap());
    alice.get(&answer).await.expect(200);

    let path = format!("/admin/users/{id}");
    operator(&door, &front, Call::new("DELETE", &path))
        .await
        .expect(204);
    alice.get(&answer).await.refused(404, "not_found");
    let me = alice.me().await;
    assert_eq!(me["credits"], Value::Null);
    assert_eq!(
        (&me["limits"][0]["used"], &me["limits"][1]["limit"]),
        (&json!("0.000000"), &json!(100))
    );
    assert_eq!(me["plan"]["source"], "default");

    let after = door.ledger_rows();
    let cost = |rows: &[Row]| rows.iter().map(Row::cost).sum::<i64>();
    assert_eq!((cost(&after), after.len()), (cost(&before), before.len()));
    let of_nobody = after.iter().filter(|row| row.user_id == Uuid::max());
    assert_eq!(of_nobody.count(), 2);
    let audit = operator(&door, &front, Call::get("/admin/audit")).await;
    let (users, audit) = (door.must(&["user", "list"]), audit.text());
    assert!(!audit.contains(&id) && audit.contains("forget"), "{audit}");
    assert!(
        !users.contains(&id) && !users.contains(&Uuid::max().to_string()),
        "{users}"
    );
    // As somebody new, with a key that is free again.
    alice.front.send(call()).await.expect(200);
    door.quiet_rows().await;
    let told = door.must(&["user", "forget", &bob.id.to_string()]);
    assert!(told.contains("1 requests"), "{told}");
    door.must(&["ledger", "check"]);
    door.close().await;
}
