//! A request that is sent again with its `Idempotency-Key`: it is charged once, whatever becomes of processes, limits and
//! clocks. Each test asks again where the answer is not kept any more, so that the ledger alone decides.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::caller::{Answer, Call, User, and, chat, chat_stream};
use crate::support::door::Door;
use crate::support::embeddings::embed;
use crate::support::faketime;
use crate::support::reply::{Reply, Step, Talk};
use crate::support::settings::Settings;
use crate::support::tools::{Tool, installed};

const KEY: &str = "idempotency-key";
const HOUR: i64 = 3600;
/// A plan with a model of each kind.
const BOTH: &str = r#"plans.free.models = ["gpt-4o-mini", "text-embedding-3-small"]"#;

fn keyed(user: &User, key: &str, body: &Value) -> Call {
    user.call(body).header(KEY, key)
}

async fn ask(user: &User, key: &str, body: &Value) -> Answer {
    user.front.send(keyed(user, key, body)).await
}

/// Asks again until the answer is final.
async fn ask_until_final(user: &User, key: &str, body: &Value) -> Answer {
    let begun = Instant::now();
    loop {
        let answer = ask(user, key, body).await;
        if answer.header("retry-after").is_empty() || begun.elapsed() > Duration::from_secs(20) {
            return answer;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// The refusal of a request whose answer is gone for good, and what it says of that request.
fn gone(answer: Answer, first: &Answer) -> Value {
    let answer = answer.refused(409, "answer_gone");
    assert_eq!(answer.header("x-should-retry"), "false");
    assert_eq!(answer.header("retry-after"), "");
    assert_ne!(answer.id(), first.id(), "it has an id of its own");
    let request = answer.json()["error"]["request"].clone();
    assert_eq!(request["id"], first.header("x-request-id"));
    request
}

fn dollars(micros: i64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_charged_is_not_charged_again_after_a_restart() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    let body = and(chat("once"), &json!({"temperature": 0.5}));
    let first = ask(&alice, "one", &body).await.expect(200);
    let row = door.row(&first).await;
    door.restart().await;
    let told = gone(ask(&alice, "one", &body).await, &first);
    assert_eq!(
        (&told["state"], &told["cost_usd"]),
        (&json!("settled"), &json!(dollars(row.cost())))
    );
    // In another order and spelling, as an encoder may write it the next time.
    let messages = body["messages"].to_string();
    let spelled = format!(
        "{{ \"temperature\": 5e-1,\n \"messages\": {messages}, \"model\": \"gpt-4o-\\u006dini\" }}"
    );
    let again = keyed(&alice, "one", &Value::Null).bytes(spelled);
    gone(alice.front.send(again).await, &first);
    // Another key is another request, and another user's key is another key.
    ask(&alice, "another", &body).await.expect(200);
    ask(&door.user("bob"), "one", &body).await.expect(200);
    assert_eq!(door.upstream.count(), 3);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_stands_for_one_request_and_no_other() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    let body = chat("this");
    ask(&alice, "one", &body).await.expect(200);
    // What a process keeps of it answers before the ledger is asked.
    door.restart().await;
    let others = [
        keyed(&alice, "one", &chat("that")),
        keyed(&alice, "one", &and(body.clone(), &json!({"n": 1}))),
        keyed(&alice, "one", &body).path("/api/chat"),
    ];
    for call in others {
        let answer = alice.front.send(call).await;
        let answer = answer.refused(422, "idempotency_key_reused");
        let error = &answer.json()["error"];
        assert_eq!(error["param"], "Idempotency-Key");
        assert_eq!(error["type"], "invalid_request_error");
    }
    assert_eq!(door.upstream.count(), 1);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_without_a_charge_frees_its_key() {
    frees_its_key(Settings::new().on_sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_without_a_charge_frees_its_key_on_postgres() {
    if installed(&[Tool::Postgres]) {
        frees_its_key(Settings::new().on_postgres()).await;
    }
}

async fn frees_its_key(settings: Settings) {
    let door = Door::open(settings).await;
    let alice = door.user("alice");
    let body = chat("until it works");
    door.upstream
        .next(|_| Reply::error(400, "their_code", "what they say"));
    door.upstream
        .next(|_| Reply::status(500, "text/html", "<h1>no</h1>"));
    ask(&alice, "one", &body).await.expect(400);
    ask(&alice, "one", &body).await.expect(502);
    let first = ask(&alice, "one", &body).await.expect(200);
    door.restart().await;
    gone(ask(&alice, "one", &body).await, &first);
    assert_eq!(door.upstream.count(), 3);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_died_with_its_process_is_charged_once_and_not_sent_again() {
    let door = Door::open(Settings::new()).await;
    door.upstream.always(|seen| {
        Talk::words(50)
            .every(Duration::from_millis(100))
            .reply(seen)
    });
    let alice = door.user("alice");
    let body = chat_stream("cut off");
    let mut open = alice.front.open(keyed(&alice, "one", &body)).await.unwrap();
    open.take(3).await;
    door.process.kill9();
    let first = open.rest().await;
    door.start().await;
    // On Postgres it is open until the lease of the dead has run out.
    let told = gone(ask_until_final(&alice, "one", &body).await, &first);
    let row = door.row(&first).await;
    assert_eq!(row.cost_micros, row.held_micros);
    assert_eq!(
        (&told["state"], &told["cost_usd"]),
        (&json!("lost"), &json!(dollars(row.cost())))
    );
    assert_eq!(door.upstream.count(), 1);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_key_is_told_before_any_limit_or_pause() {
    let limit = r#"plans.free.limits = [{ per = "day", requests = 1 }]"#;
    let door = Door::open(Settings::new().with(limit)).await;
    let alice = door.user("alice");
    let body = chat("the only one");
    let first = ask(&alice, "one", &body).await.expect(200);
    door.restart().await;
    gone(ask(&alice, "one", &body).await, &first);
    ask(&alice, "two", &body)
        .await
        .refused(402, "quota_exceeded");
    door.must(&["pause"]);
    let begun = Instant::now();
    while alice.ask(chat("paused")).await.status != 503 {
        assert!(begun.elapsed() < Duration::from_secs(5));
        sleep(Duration::from_millis(50)).await;
    }
    gone(ask(&alice, "one", &body).await, &first);
    ask(&alice, "two", &body).await.refused(503, "paused");
    door.must(&["resume"]);
    assert_eq!(door.upstream.count(), 1);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_costs_nothing_is_not_done_twice_either() {
    let free = "[prices.gpt-4o-mini]\nfree = true\n";
    let door = Door::open(Settings::new().with(free)).await;
    let alice = door.user("alice");
    let body = chat("for nothing");
    let first = ask(&alice, "one", &body).await.expect(200);
    door.restart().await;
    let told = gone(ask(&alice, "one", &body).await, &first);
    assert_eq!(told["cost_usd"], "0.000000");
    assert_eq!(door.upstream.count(), 1);
    door.close_without_prices().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_free_again_after_a_day() {
    if !installed(&[Tool::Faketime]) {
        return;
    }
    let door = Door::prepare(faketime::movable(Settings::new())).await;
    faketime::ahead(&door, 0);
    door.start().await;
    let body = chat("once a day");
    let ask_at = async |seconds: i64| {
        faketime::ahead(&door, seconds);
        door.restart().await;
        ask(&door.user("alice"), "one", &body).await
    };
    let first = ask_at(0).await.expect(200);
    gone(ask_at(23 * HOUR + 3000).await, &first);
    let second = ask_at(24 * HOUR + 600).await.expect(200);
    gone(ask_at(47 * HOUR).await, &second);
    assert_eq!(door.upstream.count(), 2);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_with_one_key_one_is_served_whichever_process_is_asked() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let roomy = "plans.free.concurrent_requests = 100";
    let door = Door::open(Settings::new().on_postgres().with(roomy)).await;
    let siblings = [door.beside().await, door.beside().await];
    door.upstream
        .always(|seen| Talk::words(5).every(Duration::from_millis(100)).reply(seen));
    let alice = door.user("alice");
    let mut callers = vec![alice.clone()];
    callers.extend(siblings.iter().map(|sibling| sibling.of(&alice)));
    for round in 0..10 {
        let (key, body) = (format!("round-{round}"), chat("at once"));
        let asking: Vec<_> = (0..30)
            .map(|number| {
                let (user, key, body) = (callers[number % 3].clone(), key.clone(), body.clone());
                tokio::spawn(async move { ask(&user, &key, &body).await })
            })
            .collect();
        let mut served = Vec::new();
        for one in asking {
            let answer = one.await.unwrap();
            match answer.status {
                200 => served.push(answer.header("x-request-id").to_owned()),
                _ => drop(answer.refused(409, "answer_gone")),
            }
        }
        served.dedup();
        assert_eq!(served.len(), 1, "round {round}: {served:?}");
        assert_eq!(door.upstream.count(), round + 1);
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_says_that_a_request_is_open_and_then_how_it_ended() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let door = Door::open(Settings::new().on_postgres()).await;
    let beside = door.beside().await;
    let alice = door.user("alice");
    let elsewhere = beside.of(&alice);
    door.upstream.always(|seen| {
        Talk::words(10)
            .every(Duration::from_millis(100))
            .reply(seen)
    });
    let body = chat_stream("on its way");
    let mut open = alice.front.open(keyed(&alice, "one", &body)).await.unwrap();
    open.take(1).await;
    let early = ask(&elsewhere, "one", &body)
        .await
        .refused(409, "answer_gone");
    assert!(early.header("retry-after").parse::<u64>().unwrap() > 0);
    assert_eq!(early.header("x-should-retry"), "");
    let request = &early.json()["error"]["request"];
    assert_eq!(
        *request,
        json!({"id": open.so_far().header("x-request-id"), "state": null, "cost_usd": null})
    );
    let first = open.rest().await;
    door.quiet_rows().await;
    let told = gone(ask(&elsewhere, "one", &body).await, &first);
    assert_eq!(told["state"], "settled");
    // What is killed here is found there.
    let mut open = alice.front.open(keyed(&alice, "two", &body)).await.unwrap();
    open.take(1).await;
    door.process.kill9();
    let first = open.rest().await;
    let told = gone(ask_until_final(&elsewhere, "two", &body).await, &first);
    assert_eq!(told["state"], "lost");
    assert_eq!(door.upstream.count(), 2);
    door.start().await;
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_odd_key_is_refused_by_name_before_anything_is_held() {
    let door = Door::open(Settings::new().with(BOTH)).await;
    let alice = door.user("alice");
    let too_long = "k".repeat(256);
    for odd in ["", "two words", "schlüssel", too_long.as_str()] {
        for call in [
            alice.call(&chat("odd")),
            Call::post("/v1/embeddings", &embed("odd")).bearer(&alice.token),
        ] {
            let answer = alice.front.send(call.header(KEY, odd)).await;
            let answer = answer.refused(400, "invalid_request");
            assert_eq!(answer.json()["error"]["param"], "Idempotency-Key");
        }
    }
    let longest = "k".repeat(255);
    ask(&alice, &longest, &chat("long")).await.expect(200);
    assert_eq!(door.ledger_rows().len(), 1);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_body_and_an_embedding_have_keys_too() {
    let door = Door::open(Settings::new().with(BOTH)).await;
    let alice = door.user("alice");
    let body = chat("long");
    let long = keyed(&alice, "long", &body).bytes(" ".repeat(200_000) + &body.to_string());
    let first = alice.front.send(long).await.expect(200);
    let vectors = Call::post("/v1/embeddings", &embed("once"))
        .bearer(&alice.token)
        .header(KEY, "vectors");
    let other = alice.front.send(vectors.clone()).await.expect(200);
    door.restart().await;
    gone(ask(&alice, "long", &body).await, &first);
    gone(alice.front.send(vectors).await, &other);
    assert_eq!(door.upstream.count(), 2);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_ledger_still_knows_its_keys() {
    let mut door = Door::open(Settings::new().on_sqlite()).await;
    let alice = door.user("alice");
    let body = chat("before the move");
    let first = ask(&alice, "one", &body).await.expect(200);
    door.quiet_rows().await;
    door.process.term(Duration::from_secs(20)).await;
    door.must(&["ledger", "export", "moved.jsonl"]);
    door.moves_to("TOLLGATE_STORE__URL", "sqlite:data/moved.db");
    door.must(&["ledger", "import", "moved.jsonl"]);
    door.start().await;
    gone(ask(&alice, "one", &body).await, &first);
    assert_eq!(door.upstream.count(), 1);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_been_served_keeps_its_key() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    let body = chat("who knows");
    door.upstream.next(|_| Reply::headless(Step::Reset));
    let lost = ask(&alice, "one", &body).await.expect(502);
    door.restart().await;
    let told = gone(ask(&alice, "one", &body).await, &lost);
    assert_eq!(told["state"], "lost");
    assert_eq!(door.upstream.count(), 1);
    door.close().await;
}
