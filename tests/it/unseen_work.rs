//! Work that nobody saw is charged as it was held: what the provider bills for it is known to nobody.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::caller::{and, chat, chat_stream};
use crate::support::door::Door;
use crate::support::reply::{Bill, Books, Reply, Step, Talk};
use crate::support::settings::Settings;

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_before_the_first_byte_of_what_is_not_waited_for_pays_the_hold() {
    for policy in ["abort", "drain"] {
        let waits = format!("proxy.on_disconnect = {policy:?}\nproxy.drain_timeout = \"1s\"");
        let door = Door::open(Settings::new().with(&waits)).await;
        door.upstream
            .always(|seen| Talk::words(5).reply(seen).after(Duration::from_secs(9)));
        for (index, body) in [chat("a"), chat_stream("a")].into_iter().enumerate() {
            let begun = door.user("alice").begin(body).await;
            door.upstream.until_served(index + 1).await;
            sleep(Duration::from_millis(100)).await;
            begun.hang_up();
            let row = door
                .quiet_rows()
                .await
                .into_iter()
                .max_by_key(|row| row.id)
                .unwrap();
            assert_eq!(
                (row.state.as_str(), row.cost_micros),
                ("settled", row.held_micros),
                "{policy}: {row:?}"
            );
            assert!(
                row.has("estimated") && row.has("cancelled"),
                "{policy}: {row:?}"
            );
        }
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_while_a_refusal_is_read_pays_what_its_body_says() {
    for policy in ["abort", "drain"] {
        let waits = format!("proxy.on_disconnect = {policy:?}");
        let door = Door::open(Settings::new().with(&waits)).await;
        for (index, (code, state)) in [("content_filter", "settled"), ("bad", "voided")]
            .into_iter()
            .enumerate()
        {
            door.upstream.always(move |_| {
                let mut reply = Reply::error(400, code, "no").booked(Books {
                    whole: Bill {
                        prompt: u64::from(state == "settled"),
                        ..Bill::default()
                    },
                    ..Books::free()
                });
                reply
                    .steps
                    .insert(0, Step::Wait(Duration::from_millis(600)));
                reply
            });
            let begun = door.user("alice").begin(chat("a")).await;
            door.upstream.until_served(index + 1).await;
            sleep(Duration::from_millis(200)).await;
            begun.hang_up();
            let row = door.quiet_rows().await.into_iter().max_by_key(|row| row.id);
            let row = row.unwrap();
            assert_eq!(row.state, state, "{policy} {code}: {row:?}");
            assert_eq!(row.has("content_filter"), state == "settled", "{row:?}");
        }
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_cut_before_any_text_pays_the_hold_and_one_after_it_what_was_delivered() {
    let door = Door::open(Settings::new().with(r#"proxy.idle_timeout = "1s""#)).await;
    for step in [Step::Reset, Step::Close, Step::Stall] {
        for words in [0, 4] {
            let cut = step.clone();
            door.upstream
                .always(move |seen| Talk::words(20).cut(words, cut.clone()).reply(seen));
            let answer = door.user("alice").ask(chat_stream("a")).await.expect(200);
            let row = door.row(&answer).await;
            assert!(
                row.state == "settled" && row.has("estimated"),
                "{step:?}: {row:?}"
            );
            // Where we gave up, the upstream may have gone on.
            let gave_up = matches!(step, Step::Stall);
            assert_eq!(
                row.cost_micros == row.held_micros,
                words == 0 || gave_up,
                "{step:?} after {words}: {row:?}"
            );
        }
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_usage_that_reached_its_cap_pays_the_hold() {
    let door = Door::open(Settings::new()).await;
    for body in [chat("a"), chat_stream("a")] {
        for (reason, whole) in [("length", true), ("content_filter", true), ("stop", false)] {
            door.upstream.always(move |seen| {
                let mut reply = Talk::words(5).without_usage().reply(seen);
                for step in &mut reply.steps {
                    if let Step::Generated(bytes, _) = step {
                        let text = String::from_utf8(bytes.clone()).unwrap();
                        *bytes = text
                            .replace(
                                "\"finish_reason\":\"stop\"",
                                &format!("\"finish_reason\":{reason:?}"),
                            )
                            .into();
                    }
                }
                let length = reply
                    .steps
                    .iter()
                    .map(|step| {
                        if let Step::Generated(bytes, _) = step {
                            bytes.len()
                        } else {
                            0
                        }
                    })
                    .sum::<usize>();
                for (name, value) in &mut reply.headers {
                    if name == "Content-Length" {
                        *value = length.to_string();
                    }
                }
                reply
            });
            let answer = door.user("alice").ask(body.clone()).await.expect(200);
            let row = door.row(&answer).await;
            assert_eq!(
                row.cost_micros == row.held_micros,
                whole,
                "{reason}: {row:?}"
            );
        }
    }
    door.close_unjudged();
}

const PRICES: &str = r#"
    [plans.free]
    models = ["vendor/some-model", "local-4", "free"]
    max_output_tokens = 1000
    [prices."vendor/some-model"]
    input = "1"
    output = "4"
    [prices.local-4]
    input = "30"
    output = "60"
    [prices.free]
    free = true
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_model_that_was_ordered_sets_the_price_whatever_the_answer_calls_itself() {
    let door = Door::open(Settings::new().with(PRICES)).await;
    for (ordered, said, flagged) in [
        ("vendor/some-model", "gpt-4", true),
        ("vendor/some-model", "vendor/some-model-2026-01-02", false),
        ("vendor/some-model", "vendor/some-model", false),
        ("free", "gpt-3.5-turbo", true),
        ("free", "gpt-4", true),
        ("local-4", "local-4-0613", false),
        ("local-4", "free", true),
    ] {
        for body in [chat("a"), chat_stream("a")] {
            door.upstream
                .always(move |seen| Talk::words(5).model(said).reply(seen));
            let answer = door
                .user("alice")
                .ask(and(body, &json!({"model": ordered})))
                .await
                .expect(200);
            let row = door.row(&answer).await;
            let (input, output) = match ordered {
                "free" => (0, 0),
                "local-4" => (30, 60),
                _ => (1, 4),
            };
            assert_eq!(
                row.cost(),
                row.input_tokens.unwrap() * input + 5 * output,
                "{ordered} {said}: {row:?}"
            );
            assert_eq!(row.has("other_model"), flagged, "{ordered} {said}: {row:?}");
            assert!(!row.has("overrun"), "{ordered} {said}: {row:?}");
            assert_eq!(row.model.as_deref(), Some(ordered));
        }
    }
    for path in [
        "/v1/models/vendor/some-model",
        "/v1/models/vendor%2Fsome-model",
        "/v1/models/vendor%2fsome-model",
    ] {
        assert_eq!(
            door.user("alice").get(path).await.expect(200).json()["id"],
            "vendor/some-model",
            "{path}"
        );
    }
    for path in [
        "/v1/models/vendor/other",
        "/v1/models/vendor/some-model/",
        "/v1/models/vendor",
    ] {
        door.user("alice")
            .get(path)
            .await
            .refused(403, "model_not_allowed");
    }
    door.close_without_prices().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_tells_whoever_stayed_and_does_not_say_that_they_left() {
    let door = Door::open(Settings::new().with(r#"server.shutdown_grace = "1s""#)).await;
    door.upstream.always(|seen| {
        if seen.is_stream() {
            return Talk::words(900)
                .every(Duration::from_millis(100))
                .reply(seen);
        }
        Talk::words(5).reply(seen).after(Duration::from_mins(1))
    });
    let alice = door.user("alice");
    let mut stream = alice.open(chat_stream("a")).await;
    stream.take(3).await;
    let whole = tokio::spawn({
        let alice = alice.clone();
        async move { alice.ask(chat("a")).await }
    });
    door.upstream.until_served(2).await;
    let status = door.process.term(Duration::from_secs(10)).await;
    assert_eq!(status.code(), Some(0));
    let stream = stream.rest().await;
    assert!(
        stream.whole,
        "the body has its proper end: {}",
        stream.text()
    );
    let events = stream.events();
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert!(
        last["error"]["code"].is_string() && !stream.text().contains("[DONE]"),
        "{events:?}"
    );
    let whole = whole.await.unwrap();
    assert_eq!(whole.status, 503, "{}", whole.text());
    assert!(!whole.header("retry-after").is_empty());
    for answer in [&stream, &whole] {
        let rows = door.ledger_rows();
        let row = rows
            .iter()
            .find(|row| Some(row.id) == answer.id())
            .expect("a row");
        assert!(row.state == "settled" && row.has("estimated"), "{row:?}");
        assert!(row.has("shutdown") && !row.has("cancelled"), "{row:?}");
        assert_eq!(
            row.cost_micros == row.held_micros,
            answer.status == 503,
            "{row:?}"
        );
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_token_is_counted_from_the_moment_that_the_row_begins() {
    let door = Door::open(Settings::new().on_sqlite()).await;
    door.upstream.always(|seen| {
        let mut reply = Talk::words(2).reply(seen);
        reply
            .steps
            .insert(0, Step::Wait(Duration::from_millis(300)));
        reply
    });
    // A body that comes slowly is before the hold, and in neither.
    for _ in 0..10 {
        door.user("alice").ask(chat_stream("a")).await.expect(200);
    }
    door.quiet_rows().await;
    let ledger = rusqlite::Connection::open(door.directory().join("data/tollgate.db")).unwrap();
    let mut rows = ledger
        .prepare("select ttft_ms, ended_at - started_at from requests")
        .unwrap();
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let told: Vec<(i64, i64)> = rows
        .query_map([], read)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(told.len(), 10);
    for (ttft, took) in told {
        assert!((300..=took).contains(&ttft), "{ttft} of {took}");
    }
    drop(rows);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_nothing_of_the_kind_pays_the_hold() {
    let door = Door::open(Settings::new()).await;
    for (status, kind, body) in [
        (200, "text/html", "<html>hi</html>"),
        (202, "application/json", "{}"),
        (204, "x/y", ""),
    ] {
        door.upstream
            .always(move |_| Reply::status(status, kind, body));
        let answer = door
            .user("alice")
            .ask(chat("a"))
            .await
            .refused(502, "upstream_error");
        let row = door.row(&answer).await;
        assert_eq!(
            (row.state.as_str(), row.cost_micros),
            ("settled", row.held_micros),
            "{status}: {row:?}"
        );
    }
    door.close().await;
}
