//! Answers that survive the phone: a retry gets the same answer and costs nothing, the rest of an answer is had after a cut,
//! and what is kept no longer is said to be gone.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::metrics::samples;
use crate::support::caller::{Answer, Call, User, and, chat, chat_stream};
use crate::support::door::Door;
use crate::support::embeddings::embed;
use crate::support::postgres::free_port;
use crate::support::reply::{Reply, Step, Talk};
use crate::support::settings::Settings;
use crate::support::tools::{Tool, installed};

const KEY: &str = "idempotency-key";
const RESUME: &str = "x-tollgate-resume";
const REPLAYED: &str = "idempotent-replayed";

/// A request with a key.
pub(crate) fn keyed(user: &User, key: &str, body: &Value) -> Call {
    user.call(body).header(KEY, key)
}

async fn ask(user: &User, key: &str, body: &Value) -> Answer {
    user.front.send(keyed(user, key, body)).await
}

/// The call that gets an answer again.
pub(crate) fn get(user: &User, id: &str) -> Call {
    Call::get(&format!("/api/answers/{id}")).bearer(&user.token)
}

fn stop(user: &User, id: &str) -> Call {
    get(user, id).method("DELETE")
}

fn id(answer: &Answer) -> String {
    answer.header("x-request-id").to_owned()
}

/// The numbered blocks that belong to these events.
fn numbered(events: &[String]) -> String {
    let number = |(place, event): (usize, &String)| format!("id: {}\ndata: {event}\n\n", place + 1);
    events.iter().enumerate().map(number).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_sent_again_gets_the_same_answer_and_costs_nothing() {
    let models = r#"plans.free.models = ["gpt-4o-mini", "text-embedding-3-small"]"#;
    let door = Door::open(Settings::new().with(models)).await;
    let alice = door.user("alice");
    let calls = [
        keyed(&alice, "whole", &chat("a")),
        keyed(&alice, "stream", &chat_stream("b")),
        keyed(&alice, "vectors", &embed("c")).path("/v1/embeddings"),
    ];
    for call in calls {
        let first = door.send(call.clone()).await.expect(200);
        assert_eq!(first.header(REPLAYED), "");
        for _ in 0..2 {
            let again = door.send(call.clone()).await.expect(200);
            assert_eq!(again.text(), first.text());
            assert_eq!(again.header(REPLAYED), "true");
            for name in ["x-request-id", "content-type", "cache-control"] {
                assert_eq!(again.header(name), first.header(name), "{name}");
            }
        }
        let got = door.send(get(&alice, &id(&first))).await.expect(200);
        assert_eq!(got.header("x-request-id"), first.header("x-request-id"));
        assert_eq!(got.header("content-type"), first.header("content-type"));
        let is_stream = first.header("content-type") == "text/event-stream";
        let expected = if is_stream {
            numbered(&first.events())
        } else {
            first.text()
        };
        assert_eq!(got.text(), expected);
    }
    assert_eq!((door.upstream.count(), door.ledger_rows().len()), (3, 3));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_at_their_limit_gets_what_was_paid_for() {
    let limit = r#"plans.free.limits = [{ per = "day", requests = 1 }]"#;
    let door = Door::open(Settings::new().with(limit)).await;
    let alice = door.user("alice");
    let body = chat("once");
    let first = ask(&alice, "one", &body).await.expect(200);
    alice.ask(chat("more")).await.refused(402, "quota_exceeded");
    let again = ask(&alice, "one", &body).await.expect(200);
    assert_eq!((again.text(), id(&again)), (first.text(), id(&first)));
    ask(&alice, "one", &chat("other"))
        .await
        .refused(422, "idempotency_key_reused");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_with_one_key_at_once_one_runs_and_all_get_its_answer() {
    for body in [chat("whole"), chat_stream("stream")] {
        let door = Door::open(Settings::new()).await;
        door.upstream.always(|seen| {
            Talk::words(9)
                .every(Duration::from_millis(30))
                .reply(seen)
                .after(Duration::from_millis(300))
        });
        let alice = door.user("alice");
        let all: Vec<_> = (0..12)
            .map(|_| {
                let (alice, body) = (alice.clone(), body.clone());
                tokio::spawn(async move { ask(&alice, "one", &body).await })
            })
            .collect();
        let mut answers = Vec::new();
        for one in all {
            answers.push(one.await.unwrap().expect(200));
        }
        let firsts = answers.iter().filter(|one| one.header(REPLAYED).is_empty());
        assert_eq!(firsts.count(), 1);
        for answer in &answers {
            assert_eq!(answer.said(), answers[0].said());
            assert_eq!(id(answer), id(&answers[0]));
        }
        assert_eq!((door.upstream.count(), door.ledger_rows().len()), (1, 1));
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_without_a_charge_is_told_to_all_who_wait_and_frees_the_key() {
    let door = Door::open(Settings::new()).await;
    door.upstream
        .next(|_| Reply::status(500, "text/html", "<h1>no</h1>").after(Duration::from_millis(500)));
    let alice = door.user("alice");
    let body = chat("until it works");
    let first = alice
        .front
        .begin(keyed(&alice, "one", &body))
        .await
        .unwrap();
    door.upstream.until_served(1).await;
    let second = ask(&alice, "one", &body)
        .await
        .refused(502, "upstream_error");
    let first = first.head().await.unwrap().rest().await;
    assert_eq!(first.refusal(), (502, "upstream_error".to_owned()));
    assert_eq!(id(&first), id(&second));
    assert_eq!(second.header(REPLAYED), "true");
    let third = ask(&alice, "one", &body).await.expect(200);
    assert_ne!(id(&third), id(&first));
    assert_eq!(door.upstream.count(), 2);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_goes_on_without_its_caller_whatever_on_disconnect_says() {
    let abort = r#"proxy.on_disconnect = "abort""#;
    let door = Door::open(Settings::new().with(abort)).await;
    door.upstream
        .always(|seen| Talk::words(20).every(Duration::from_millis(50)).reply(seen));
    let alice = door.user("alice");
    let body = and(chat_stream("a"), &json!({"max_tokens": 20}));
    let mut open = alice.front.open(keyed(&alice, "one", &body)).await.unwrap();
    open.take(4).await;
    let first = id(open.so_far());
    open.hang_up();
    // From another address, as a phone that comes back: what it has not got yet, live.
    let rest = get(&alice, &first).header("last-event-id", "4");
    let rest = door.send(rest).await.expect(200);
    assert!(rest.text().starts_with("id: 5\ndata: "), "{}", rest.text());
    assert!(rest.text().ends_with("data: [DONE]\n\n"), "{}", rest.text());
    let row = door.row(&rest).await;
    assert_eq!(
        (row.state.as_str(), row.flags.len()),
        ("settled", 0),
        "{row:?}"
    );
    let whole = ask(&alice, "one", &body).await.expect(200);
    let blocks = numbered(&whole.events());
    assert!(blocks.ends_with(&rest.text()));
    // A request without a key is cut off as before.
    let mut open = alice.open(chat_stream("b")).await;
    open.take(3).await;
    open.hang_up();
    let rows = door.quiet_rows().await;
    assert!(rows.iter().any(|row| row.has("cancelled")), "{rows:?}");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_leaves_before_the_head_finds_the_answer_later() {
    let abort = r#"proxy.on_disconnect = "abort""#;
    let door = Door::open(Settings::new().with(abort)).await;
    door.upstream
        .always(|seen| Talk::words(5).reply(seen).after(Duration::from_millis(700)));
    let alice = door.user("alice");
    let body = chat("a");
    let begun = alice
        .front
        .begin(keyed(&alice, "one", &body))
        .await
        .unwrap();
    door.upstream.until_served(1).await;
    begun.hang_up();
    sleep(Duration::from_millis(100)).await;
    // The id is not known to anybody who got no head; the key is.
    let answer = ask(&alice, "one", &body).await.expect(200);
    assert_eq!(answer.header(REPLAYED), "true");
    assert_eq!(door.upstream.count(), 1);
    let row = door.row(&answer).await;
    assert_eq!(
        (row.state.as_str(), row.flags.len()),
        ("settled", 0),
        "{row:?}"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_to_go_on_is_said_by_header_or_parameter_and_read_strictly() {
    let door = Door::open(Settings::new()).await;
    let (alice, bob) = (door.user("alice"), door.user("bob"));
    let body = chat_stream("a");
    let first = ask(&alice, "one", &body).await.expect(200);
    let (first, events) = (id(&first), first.events());
    let call = get(&alice, &first);
    let path = |query: &str| call.clone().path(&format!("/api/answers/{first}{query}"));
    let rest = |after: usize| {
        let all = numbered(&events);
        let blocks: Vec<&str> = all.split_inclusive("\n\n").skip(after).collect();
        blocks.concat()
    };
    for (call, after) in [
        (path(""), 0),
        (path("?after=0"), 0),
        (path("?after=2"), 2),
        (path("").header("last-event-id", "3"), 3),
        (path("?after=1").header("last-event-id", "2"), 2),
        (path("?after=1").header("last-event-id", ""), 1),
        (path(&format!("?after={}", events.len())), events.len()),
        (path("?after=1000000"), events.len()),
    ] {
        let answer = door.send(call).await.expect(200);
        assert_eq!(answer.text(), rest(after), "{}", answer.what);
    }
    for (call, name) in [
        (path("?after=-1"), "after"),
        (path("?after=x"), "after"),
        (path("?after="), "after"),
        (path("?after=+1"), "after"),
        (path("?before=1"), "after"),
        (path("?after=1&after=2"), "after"),
        (path("?after=99999999999999999999"), "after"),
        (path("").header("last-event-id", "1.5"), "Last-Event-ID"),
        (path("").header("last-event-id", " x"), "Last-Event-ID"),
    ] {
        let answer = door.send(call).await.refused(400, "invalid_request");
        assert_eq!(answer.json()["error"]["param"], name, "{}", answer.what);
    }
    // Nobody else's, and none that there is not.
    let keyless = alice.ask(chat("b")).await.expect(200);
    for call in [
        get(&bob, &first),
        stop(&bob, &first),
        get(&alice, &id(&keyless)),
        get(&alice, "0192f0c1-2345-7abc-8def-0123456789ab"),
        get(&alice, "x"),
        stop(&alice, "x"),
    ] {
        door.send(call).await.refused(404, "not_found");
    }
    door.send(Call::get(&format!("/api/answers/{first}")))
        .await
        .refused(401, "missing_token");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_numbered_only_for_those_who_ask() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    let body = chat_stream("a");
    let ours = keyed(&alice, "one", &body).header(RESUME, "1");
    let first = door.send(ours.clone()).await.expect(200);
    let plain = ask(&alice, "one", &body).await.expect(200);
    assert_eq!(first.text(), numbered(&plain.events()));
    assert!(!plain.text().contains("id: "));
    let again = door.send(ours).await.expect(200);
    assert_eq!(again.text(), first.text());
    let not_asked = keyed(&alice, "two", &body).header(RESUME, "0");
    let not_asked = door.send(not_asked).await.expect(200);
    assert!(!not_asked.text().contains("id: "));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_stops_an_answer_settles_it_and_lets_go_of_it() {
    let door = Door::open(Settings::new()).await;
    door.upstream.always(|seen| {
        Talk::words(500)
            .every(Duration::from_millis(50))
            .reply(seen)
    });
    let alice = door.user("alice");
    let body = chat_stream("a");
    let mut open = alice.front.open(keyed(&alice, "one", &body)).await.unwrap();
    open.take(4).await;
    let first = id(open.so_far());
    door.send(stop(&alice, &first)).await.expect(204);
    let heard = open.rest().await;
    assert!(!heard.text().contains("[DONE]"), "{}", heard.text());
    door.upstream
        .until("the end of its connection", |log| log[0].peer_left)
        .await;
    let row = door.row(&heard).await;
    assert_eq!(row.state, "settled", "{row:?}");
    assert!(row.has("cancelled") && row.has("estimated"), "{row:?}");
    assert!(row.cost() < row.held_micros.unwrap(), "{row:?}");
    for call in [get(&alice, &first), stop(&alice, &first)] {
        let gone = door.send(call).await.refused(410, "answer_gone");
        let request = &gone.json()["error"]["request"];
        assert_eq!(request["id"], first.as_str());
        assert_eq!(request["state"], "settled");
    }
    let gone = ask(&alice, "one", &body).await.refused(409, "answer_gone");
    assert_eq!(gone.header("x-should-retry"), "false");
    assert_eq!(door.upstream.count(), 1);
    // One that has ended is let go of as well.
    door.upstream.always(|seen| Talk::words(3).reply(seen));
    let second = ask(&alice, "two", &chat("b")).await.expect(200);
    door.send(stop(&alice, &id(&second))).await.expect(204);
    door.send(get(&alice, &id(&second)))
        .await
        .refused(410, "answer_gone");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_kept_for_its_time_and_then_gone() {
    let door = Door::open(Settings::new().with("answers.keep = \"1s\"")).await;
    let alice = door.user("alice");
    let body = chat("a");
    let first = ask(&alice, "one", &body).await.expect(200);
    door.send(get(&alice, &id(&first))).await.expect(200);
    sleep(Duration::from_millis(1300)).await;
    let gone = ask(&alice, "one", &body).await.refused(409, "answer_gone");
    assert_eq!(gone.json()["error"]["request"]["id"], id(&first).as_str());
    let mut got = door.send(get(&alice, &id(&first))).await;
    // Known as gone once it is swept; before that, by the ledger.
    for _ in 0..60 {
        if got.status == 410 {
            break;
        }
        got.refused(409, "answer_gone");
        sleep(Duration::from_millis(100)).await;
        got = door.send(get(&alice, &id(&first))).await;
    }
    got.refused(410, "answer_gone");
    // Nobody follows this one: it is read on for a second, and settled by what was seen.
    door.upstream.always(|seen| {
        Talk::words(500)
            .every(Duration::from_millis(50))
            .reply(seen)
    });
    let stream = chat_stream("b");
    let mut open = alice
        .front
        .open(keyed(&alice, "two", &stream))
        .await
        .unwrap();
    open.take(3).await;
    let left = open.so_far().clone();
    open.hang_up();
    door.upstream
        .until("the end of its connection", |log| log[1].peer_left)
        .await;
    let row = door.row(&left).await;
    assert_eq!(row.state, "settled", "{row:?}");
    assert!(row.output_tokens.unwrap() > 10, "{row:?}");
    assert_eq!(door.upstream.count(), 2);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_too_long_to_be_kept_is_delivered_and_gone() {
    let small = "answers = { answer_bytes_max = \"2KiB\", bytes_max = \"1MiB\" }";
    let door = Door::open(Settings::new().with(small)).await;
    door.upstream.always(|seen| Talk::words(200).reply(seen));
    let alice = door.user("alice");
    for (key, body) in [
        ("whole", and(chat("a"), &json!({"max_tokens": 200}))),
        ("stream", and(chat_stream("b"), &json!({"max_tokens": 200}))),
    ] {
        door.upstream.always(|seen| Talk::words(600).reply(seen));
        let body = and(body, &json!({"max_tokens": 600}));
        let first = ask(&alice, key, &body).await.expect(200);
        assert_eq!(first.said().matches("alpha").count(), 600);
        assert!(first.body.len() > 2048);
        door.quiet_rows().await;
        ask(&alice, key, &body).await.refused(409, "answer_gone");
        door.send(get(&alice, &id(&first)))
            .await
            .refused(410, "answer_gone");
    }
    assert_eq!(door.upstream.count(), 2);
    door.close().await;
}

/// What another process has, this one cannot know.
#[tokio::test(flavor = "multi_thread")]
async fn another_process_says_that_it_has_no_answer_and_whether_to_ask_again() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let door = Door::open(Settings::new().on_postgres()).await;
    let other = door.beside().await;
    door.upstream
        .next(|seen| Talk::words(5).reply(seen).after(Duration::from_secs(2)));
    let alice = door.user("alice");
    let there = other.of(&alice);
    let body = chat("a");
    let begun = alice
        .front
        .begin(keyed(&alice, "one", &body))
        .await
        .unwrap();
    door.upstream.until_served(1).await;
    let open = ask(&there, "one", &body).await.refused(409, "answer_gone");
    assert_ne!(open.header("retry-after"), "");
    let error = open.json()["error"]["request"].clone();
    assert_eq!(
        (&error["state"], &error["cost_usd"]),
        (&Value::Null, &Value::Null)
    );
    let first = error["id"].as_str().unwrap().to_owned();
    let got = there.front.send(get(&there, &first)).await;
    let got = got.refused(409, "answer_gone");
    assert_ne!(got.header("retry-after"), "");
    begun.head().await.unwrap().rest().await.expect(200);
    door.quiet_rows().await;
    for call in [
        get(&there, &first),
        stop(&there, &first),
        keyed(&there, "one", &body),
    ] {
        let gone = there.front.send(call).await.refused(409, "answer_gone");
        assert_eq!(gone.header("x-should-retry"), "false");
        assert_eq!(gone.json()["error"]["request"]["state"], "settled");
    }
    door.send(get(&alice, &first)).await.expect(200);
    assert_eq!(door.upstream.count(), 1);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_may_send_what_resuming_needs_and_read_what_it_gets() {
    let ours = "https://app.example.test";
    let door = Door::open(Settings::new().with(&format!("server.cors_origins = [{ours:?}]"))).await;
    let asks = "authorization,content-type,idempotency-key,last-event-id,x-tollgate-resume,x-tollgate-token";
    for method in ["GET", "POST", "DELETE"] {
        let preflight = Call::new(
            "OPTIONS",
            "/api/answers/0192f0c1-2345-7abc-8def-0123456789ab",
        )
        .header("origin", ours)
        .header("access-control-request-method", method)
        .header("access-control-request-headers", asks);
        let answer = door.send(preflight).await;
        let allowed = answer.header("access-control-allow-headers");
        assert_eq!(allowed, asks);
        assert!(
            answer
                .header("access-control-allow-methods")
                .contains(method),
            "{answer:?}"
        );
    }
    let alice = door.user("alice");
    let call = keyed(&alice, "one", &chat("a")).header("origin", ours);
    door.send(call.clone()).await.expect(200);
    let again = door.send(call).await.expect(200);
    let exposed = again.header("access-control-expose-headers").to_lowercase();
    for name in ["x-request-id", "x-tollgate-error", "retry-after", REPLAYED] {
        assert!(exposed.contains(name), "{exposed}");
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_and_replayed_stands_in_the_metrics_and_the_log() {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let settings = Settings::new().env("TOLLGATE_SERVER__ADMIN_BIND", &address.to_string());
    let door = Door::open(settings).await;
    let alice = door.user("alice");
    let body = chat("a");
    let first = ask(&alice, "one", &body).await.expect(200);
    ask(&alice, "one", &body).await.expect(200);
    let second = ask(&alice, "two", &body).await.expect(200);
    door.send(stop(&alice, &id(&second))).await.expect(204);
    let page = Call::get("/metrics").host("127.0.0.1:9090");
    let page = samples(&door.office(address).send(page).await.expect(200).text());
    let sample = |name: &str| page.get(name).copied().unwrap_or(-1.0);
    assert_eq!(sample("tollgate_answers"), 1.0);
    assert!(sample("tollgate_answers_bytes") > 0.0);
    assert_eq!(sample("tollgate_answers_replayed_total"), 1.0);
    assert_eq!(sample(r#"tollgate_answers_gone_total{reason="stop"}"#), 1.0);
    let output = door.process.output();
    let lines = output
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let replays: Vec<Value> = lines.filter(|line| line["outcome"] == "replayed").collect();
    assert_eq!(replays.len(), 1, "{output}");
    assert_eq!(replays[0]["replay_of"], id(&first).as_str());
    assert_ne!(replays[0]["request_id"], id(&first).as_str());
    door.close().await;
}

/// A stream that fails in its middle is kept as it was told.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_broke_off_is_given_again_as_it_was() {
    let door = Door::open(Settings::new()).await;
    door.upstream
        .always(|seen| Talk::words(9).cut(4, Step::Reset).reply(seen));
    let alice = door.user("alice");
    let body = chat_stream("a");
    let first = ask(&alice, "one", &body).await.expect(200);
    assert!(first.text().contains("upstream_error"), "{}", first.text());
    let again = ask(&alice, "one", &body).await.expect(200);
    assert_eq!(again.text(), first.text());
    let got = door.send(get(&alice, &id(&first))).await.expect(200);
    assert_eq!(got.text(), numbered(&first.events()));
    assert_eq!(door.upstream.count(), 1);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_kept_answers_take_little_more_than_their_own_bytes() {
    const KEPT: usize = 1000;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let settings = Settings::new()
        .with("plans.free.limits = []")
        .env("TOLLGATE_SERVER__ADMIN_BIND", &address.to_string());
    let door = Door::open(settings).await;
    door.upstream.always(|seen| Talk::words(150).reply(seen));
    let users: Vec<User> = (0..25)
        .map(|user| door.user(&format!("user-{user}")))
        .collect();
    let round = async |number: usize| {
        let asked = users.iter().enumerate().map(async |(user, alice)| {
            let key = format!("{user}-{number}");
            let answer = ask(alice, &key, &chat_stream("a")).await.expect(200);
            (id(&answer), answer.text().len() as u64)
        });
        join_all(asked).await
    };
    // What is made once is there when it is measured for the first time.
    round(KEPT).await;
    round(KEPT + 1).await;
    let before = door.process.memory();
    let (mut ids, mut bytes) = (Vec::new(), 0);
    for number in 0..KEPT / 25 {
        for (user, (id, length)) in users.iter().zip(round(number).await) {
            ids.push((user, id));
            bytes += length;
        }
    }
    let more = door.process.memory().saturating_sub(before);
    let page = Call::get("/metrics").host("127.0.0.1:9090");
    let page = samples(&door.office(address).send(page).await.expect(200).text());
    assert_eq!(page["tollgate_answers"], (KEPT + 50) as f64);
    let told = page["tollgate_answers_bytes"] as u64;
    println!("{KEPT} kept answers of {bytes} bytes: {told} counted, {more} MiB more");
    assert!(told >= bytes, "{told} counted of {bytes}");
    assert!(
        more < 16 + 2 * bytes / (1024 * 1024),
        "{more} MiB more for {bytes} bytes"
    );
    for (user, id) in ids.iter().step_by(100) {
        door.send(get(user, id)).await.expect(200);
    }
    door.close().await;
}
