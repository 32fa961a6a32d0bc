//! An upstream that fails, lies or bites: checks 14, 17 and 25 of the threats.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::caller::{Answer, and, chat, chat_stream};
use crate::support::door::{Door, free_port};
use crate::support::jwks::Supabase;
use crate::support::oracle::Row;
use crate::support::reply::{Reply, Step, Talk, gzip};
use crate::support::settings::Settings;

/// Asks once, with and without a stream, with the upstream answering so; the answers and their rows.
async fn both_ways(
    door: &Door,
    reply: impl Fn(&crate::support::upstream::Seen) -> Reply + Send + Sync + 'static,
) -> Vec<(Answer, Option<Row>)> {
    door.upstream.always(reply);
    let mut outcomes = Vec::new();
    for body in [chat("a"), chat_stream("a")] {
        let answer = door.user("alice").ask(body).await;
        let rows = door.quiet_rows().await;
        let row = rows.into_iter().find(|row| Some(row.id) == answer.id());
        outcomes.push((answer, row));
    }
    outcomes
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_upstream_says_about_the_users_own_request_is_passed_on() {
    let door = Door::open(Settings::new()).await;
    for status in [400, 404, 422] {
        for (answer, row) in
            both_ways(&door, move |_| Reply::error(status, "string_above_max_length", "Too long by 7.")).await
        {
            let error = answer.clone().expect(status).json()["error"].clone();
            assert_eq!(
                (&error["code"], &error["message"]),
                (&json!("string_above_max_length"), &json!("Too long by 7."))
            );
            assert_eq!(answer.header("x-tollgate-error"), "string_above_max_length");
            assert!(row.is_none_or(|row| row.state == "voided"));
        }
    }
    let me = door.user("alice").me().await;
    assert!(
        me["limits"].as_array().unwrap().iter().all(|limit| limit["used"] == 0 || limit["used"] == "0.000000"),
        "{me}"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_upstream_says_about_the_operator_is_not_passed_on() {
    let door = Door::open(Settings::new()).await;
    for (status, code) in
        [(401, "upstream_error"), (403, "upstream_error"), (500, "upstream_error"), (502, "upstream_error")]
    {
        for (answer, row) in
            both_ways(&door, move |_| Reply::error(status, "invalid_api_key", "org-canary is out")).await
        {
            let answer = answer.refused(502, code);
            assert!(!answer.text().contains("org-canary"), "{}", answer.text());
            assert!(row.is_none_or(|row| row.state == "voided"));
        }
    }
    for status in [429, 503] {
        let reply = move |_: &_| {
            Reply::error(status, "rate_limit_exceeded", "org-canary is too fast").header("Retry-After", "17")
        };
        for (answer, row) in both_ways(&door, reply).await {
            let answer = answer.refused(503, "upstream_unavailable");
            assert_eq!(answer.header("retry-after"), "17");
            assert!(!answer.text().contains("org-canary"), "{}", answer.text());
            assert!(row.is_none_or(|row| row.state == "voided"));
        }
    }
    let odd = |_: &_| Reply::error(429, "x", "y").header("Retry-After", "soon");
    for (answer, _) in both_ways(&door, odd).await {
        answer.refused(503, "upstream_unavailable");
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_upstream_counts_as_load_and_as_nothing_else() {
    let limits = r#"plans.free.limits = [{ per = "hour", requests = 50 }, { per = "day", requests = 50 }]"#;
    let door = Door::open(Settings::new().with(limits)).await;
    let alice = door.user("alice");
    let used = |me: &Value| (me["limits"][0]["used"].as_i64().unwrap(), me["limits"][1]["used"].as_i64().unwrap());
    door.upstream.next(|_| Reply::error(400, "x", "y"));
    alice.ask(chat("a")).await.expect(400);
    door.quiet_rows().await;
    let (hour, day) = used(&alice.me().await);
    assert_eq!((hour, day), (1, 0), "a 400 is load");
    door.upstream.next(|_| Reply::error(500, "x", "y"));
    alice.ask(chat("a")).await.expect(502);
    door.quiet_rows().await;
    assert_eq!(used(&alice.me().await), (1, 0), "a 500 is nothing");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_cannot_be_reached_costs_nothing() {
    let nowhere = format!("http://127.0.0.1:{}/v1", free_port());
    let upstream = format!(
        "[[upstreams]]\nname = \"openai\"\nbase_url = {nowhere:?}\napi_key_env = \"OPENAI_API_KEY\"\nmodels = [\"*\"]\n"
    );
    let door = Door::open(Settings::new().with(&upstream)).await;
    let alice = door.user("alice");
    for body in [chat("a"), chat_stream("a")] {
        alice.ask(body).await.refused(503, "upstream_unavailable");
    }
    assert!(door.quiet_rows().await.iter().all(|row| row.state == "voided"));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_says_nothing_in_time_is_charged_as_lost() {
    let door = Door::open(Settings::new().with(r#"proxy.first_byte_timeout = "1s""#)).await;
    for (answer, row) in both_ways(&door, |_| Reply::headless(Step::Stall)).await {
        answer.refused(504, "upstream_timeout");
        let row = row.expect("a row");
        assert_eq!((row.state.as_str(), row.cost_micros), ("lost", row.held_micros), "{row:?}");
    }
    for (answer, row) in both_ways(&door, |_| Reply::headless(Step::Reset)).await {
        answer.refused(502, "upstream_error");
        let row = row.expect("a row");
        assert!(row.is_charged() && row.cost() > 0, "sent, and never answered: {row:?}");
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_ends_in_an_error_event_and_without_done() {
    let door = Door::open(Settings::new().with(r#"proxy.idle_timeout = "1s""#)).await;
    let alice = door.user("alice");
    for step in [Step::Reset, Step::Close, Step::Stall] {
        let cut = step.clone();
        door.upstream
            .always(move |seen| Talk::words(20).every(Duration::from_millis(5)).cut(6, cut.clone()).reply(seen));
        let answer = alice.ask(chat_stream("a")).await.expect(200);
        let events = answer.events();
        let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
        assert!(last["error"]["code"].is_string() && last["error"]["type"].is_string(), "{step:?}: {events:?}");
        assert!(!events.contains(&"[DONE]".to_owned()), "{step:?}: {events:?}");
        assert_eq!(answer.said(), " alpha".repeat(6), "{step:?}");
        let row = door.row(&answer).await;
        assert_eq!((row.state.as_str(), row.output_tokens), ("settled", Some(6)), "{step:?}: {row:?}");
        assert!(row.has("estimated"));
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_early_by_the_book_is_not_passed_off_as_whole() {
    let door = Door::open(Settings::new()).await;
    door.upstream.next(|seen| {
        let mut reply = Talk::words(4).reply(seen);
        reply.steps.truncate(4); // the role and three words, and then the last chunk of the body
        reply
    });
    let answer = door.user("alice").ask(chat_stream("a")).await.expect(200);
    assert!(!answer.text().contains("[DONE]"), "{}", answer.text());
    let row = door.row(&answer).await;
    assert!(row.has("estimated") && row.output_tokens == Some(3), "{row:?}");
    door.close().await;
}

/// Usage that no honest upstream reports.
const GARBAGE: &[&str] = &[
    "null",
    "[]",
    "{}",
    "7",
    "\"a lot\"",
    "true",
    r#"{"prompt_tokens":-1,"completion_tokens":-1,"total_tokens":-2}"#,
    r#"{"prompt_tokens":10,"completion_tokens":-1000000}"#,
    r#"{"prompt_tokens":1.5,"completion_tokens":2.5}"#,
    r#"{"prompt_tokens":"10","completion_tokens":"5"}"#,
    r#"{"prompt_tokens":null,"completion_tokens":null}"#,
    r#"{"prompt_tokens":[10],"completion_tokens":{"a":1}}"#,
    r#"{"prompt_tokens":1e300,"completion_tokens":1e300}"#,
    r#"{"completion_tokens":5}"#,
    r#"{"prompt_tokens":10}"#,
];

#[tokio::test(flavor = "multi_thread")]
async fn usage_that_is_nonsense_is_estimated_and_flagged() {
    let door = Door::open(Settings::new()).await;
    for garbage in GARBAGE {
        for (answer, row) in both_ways(&door, |seen| Talk::words(5).usage(garbage).reply(seen)).await {
            assert_eq!(answer.status, 200, "{garbage}: {}", answer.text());
            let row = row.expect("a row");
            assert!(row.state == "settled" && !row.flags.is_empty(), "{garbage}: {row:?}");
            assert!(0 < row.cost() && row.cost() <= row.held_micros.unwrap(), "{garbage}: {row:?}");
        }
    }
    for (answer, row) in both_ways(&door, |seen| Talk::words(5).without_usage().reply(seen)).await {
        answer.expect(200);
        let row = row.expect("a row");
        assert!(row.state == "settled" && row.has("estimated") && row.output_tokens == Some(5), "{row:?}");
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_above_the_cap_is_charged_as_reported_and_flagged() {
    let door = Door::open(Settings::new()).await;
    let usage = r#"{"prompt_tokens":20,"completion_tokens":3000,"total_tokens":3020}"#;
    for (answer, row) in both_ways(&door, |seen| Talk::words(5).usage(usage).reply(seen)).await {
        answer.expect(200);
        let row = row.expect("a row");
        assert!(row.has("overrun"), "{row:?}");
        assert_eq!((row.output_tokens, row.cost_micros), (Some(3000), Some(1803)), "{row:?}");
    }
    for huge in ["9223372036854775807", "18446744073709551615", "99999999999999999999999"] {
        let usage = format!("{{\"prompt_tokens\":{huge},\"completion_tokens\":{huge},\"total_tokens\":{huge}}}");
        for (_, row) in both_ways(&door, move |seen| Talk::words(5).usage(&usage).reply(seen)).await {
            let row = row.expect("a row");
            assert!(row.state == "settled" && !row.flags.is_empty() && row.cost() > 0, "{row:?}");
        }
    }
    door.user("bob").ask(chat("still served")).await;
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_that_is_told_twice_is_charged_once() {
    let door = Door::open(Settings::new()).await;
    door.upstream.next(|seen| {
        let mut reply = Talk::words(5).reply(seen);
        let usage = reply.steps.iter().position(|step| matches!(step, Step::Billed(_))).unwrap() - 1;
        let again = reply.steps[usage].clone();
        reply.steps.insert(usage, again);
        reply
    });
    let answer = door.user("alice").ask(chat_stream("a")).await.expect(200);
    let row = door.row(&answer).await;
    assert_eq!((row.state.as_str(), row.output_tokens), ("settled", Some(5)), "{row:?}");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_model_or_tier_than_was_asked_for_is_flagged() {
    let door = Door::open(Settings::new()).await;
    for (_, row) in both_ways(&door, |seen| Talk::words(5).model("mystery-9000").reply(seen)).await {
        let row = row.expect("a row");
        assert!(!row.flags.is_empty() && row.state == "settled", "{row:?}");
        let asked_for = (row.input_tokens.unwrap() * 150_000 + 5 * 600_000 + 999_999) / 1_000_000;
        assert_eq!(row.cost(), asked_for, "charged as the model asked for: {row:?}");
    }
    for (_, row) in both_ways(&door, |seen| Talk::words(5).tier("priority").reply(seen)).await {
        let row = row.expect("a row");
        assert!(!row.flags.is_empty() && row.state == "settled", "{row:?}");
    }
    for (_, row) in both_ways(&door, |seen| Talk::words(5).model("gpt-4o-mini-2024-07-18").reply(seen)).await {
        assert!(row.expect("a row").cost() > 0);
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_answer_hides_no_usage() {
    let door = Door::open(Settings::new()).await;
    let compressed = |seen: &crate::support::upstream::Seen| {
        let plain = Talk::words(5).reply(seen);
        let body: Vec<u8> = plain
            .steps
            .iter()
            .flat_map(|step| match step {
                Step::Body(bytes) | Step::Generated(bytes, _) => bytes.clone(),
                _ => Vec::new(),
            })
            .collect();
        let kind = if seen.is_stream() { "text/event-stream" } else { "application/json" };
        Reply::status(200, kind, gzip(&body)).header("Content-Encoding", "gzip")
    };
    for (answer, row) in both_ways(&door, compressed).await {
        let row = row.expect("a row");
        assert!(row.is_charged() && row.cost() > 0, "{}: {row:?}", answer.status);
        assert!(answer.status == 502 || answer.said().contains("alpha"), "{}", answer.text());
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_no_completion_is_a_502_and_not_free() {
    let door = Door::open(Settings::new()).await;
    for (kind, body) in [
        ("text/html", "<html>welcome</html>"),
        ("application/json", ""),
        ("application/json", "not json"),
        ("application/json", "[]"),
        ("application/json", "7"),
        ("application/octet-stream", "\u{0}\u{1}"),
    ] {
        door.upstream.always(move |_| Reply::status(200, kind, body));
        let answer = door.user("alice").ask(chat("a")).await.refused(502, "upstream_error");
        let row = door.row(&answer).await;
        assert!(row.is_charged() && row.cost() > 0, "{body:?}: {row:?}");
    }
    // A stream where none was asked for, and none where one was.
    door.upstream.always(|seen| {
        let mut other = seen.clone();
        other.body["stream"] = json!(!seen.is_stream());
        Talk::words(5).without_usage().reply(&other)
    });
    for body in [chat("a"), chat_stream("a")] {
        let answer = door.user("alice").ask(body).await;
        let row = door.row(&answer).await;
        assert!(row.is_charged() && row.cost() > 0, "{}: {row:?}", answer.text());
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed() {
    let door = Door::open(Settings::new()).await;
    let elsewhere = Supabase::start().await;
    for status in [301, 302, 303, 307, 308] {
        let there = format!("{}/v1/chat/completions", elsewhere.url());
        for (answer, _) in
            both_ways(&door, move |_| Reply::status(status, "text/html", "moved").header("Location", &there)).await
        {
            let answer = answer.refused(502, "upstream_error");
            assert_eq!(answer.header("location"), "");
        }
    }
    assert!(elsewhere.requests().is_empty(), "the operator's key went elsewhere");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_operators_account_reaches_the_client() {
    let door = Door::open(Settings::new()).await;
    let key = door.operator_key().to_owned();
    let marked = |reply: Reply| {
        reply
            .header("Set-Cookie", "__cf_bm=cookie-canary; path=/")
            .header("OpenAI-Organization", "org-canary")
            .header("OpenAI-Project", "proj-canary")
            .header("X-RateLimit-Remaining-Requests", "limit-canary")
            .header("X-Request-Id", "req-canary")
            .header("Via", "via-canary")
            .header("Server", "server-canary")
            .header("Access-Control-Allow-Origin", "https://cors-canary.test")
            .header("Www-Authenticate", "Bearer realm=realm-canary")
    };
    let echo = format!("Incorrect API key provided: {key}. It belongs to org-canary.");
    for status in [200, 400, 401, 403, 404, 422, 429, 500, 503] {
        let echo = echo.clone();
        let reply = move |seen: &crate::support::upstream::Seen| match status {
            200 => marked(Talk::words(3).reply(seen)),
            _ => marked(Reply::error(status, "invalid_api_key", &echo)),
        };
        for (answer, _) in both_ways(&door, reply).await {
            let headers = format!("{:?}", answer.headers);
            assert!(!headers.contains("canary"), "{status}: {headers}");
            assert!(answer.status != 401, "an upstream's 401 is never the client's");
            assert!(!answer.text().contains("org-canary"), "{status}: {}", answer.text());
        }
    }
    let in_stream = format!(
        "data: {}\n\n",
        json!({"error": {"message": echo, "type": "server_error", "code": key, "param": null}})
    );
    door.upstream.always(move |_| Reply::events(vec![Step::Body(in_stream.clone().into_bytes())]));
    let answer = door.user("alice").ask(chat_stream("a")).await;
    assert!(!answer.text().contains("canary") && !answer.text().contains("[DONE]"), "{}", answer.text());
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_page_of_ten_megabytes_is_neither_kept_nor_shown() {
    let door = Door::open(Settings::new()).await;
    let page = "<html>page-canary</html>".repeat(10 * 1024 * 1024 / 24);
    for status in [400, 500] {
        let page = page.clone();
        for (answer, _) in both_ways(&door, move |_| Reply::status(status, "text/html", page.clone())).await {
            assert!([400, 502].contains(&answer.status), "{}", answer.status);
            assert!(answer.body.len() < 4096 && !answer.text().contains("page-canary"), "{} bytes", answer.body.len());
        }
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_answer_is_cut_with_memory_flat() {
    const ENDLESS: usize = 400 * 1024 * 1024;
    let door = Door::open(Settings::new().with(r#"proxy.total_timeout = "3s""#)).await;
    let alice = door.user("alice");
    // The tokenizer is loaded once and stays: it is not what is measured.
    door.upstream.next(|seen| Talk::words(3).without_usage().reply(seen));
    let warm = alice.ask(chat_stream("a")).await;
    door.row(&warm).await;
    let before = door.memory();
    let floods: [(&str, &str); 4] = [
        ("comments", ": x\n"),
        ("empty lines", "\n\n\n\n"),
        ("an unbroken line", "data: xxxxxxxx"),
        ("blank events", "data:\n\n"),
    ];
    for (what, piece) in floods {
        let block = piece.repeat(64 * 1024 / piece.len());
        door.upstream.next(move |_| Reply::events(vec![Step::Flood(block.clone().into_bytes(), ENDLESS)]));
        let answer = alice.ask(chat_stream("a")).await.expect(200);
        assert!(!answer.text().contains("[DONE]"), "{what}");
        let row = door.row(&answer).await;
        assert!(row.is_charged() && row.cost() > 0, "{what}: {row:?}");
        assert!(door.memory() < before + 64, "{what}: {} MiB grew to {}", before, door.memory());
    }
    let block = "\"x\",".repeat(16 * 1024);
    door.upstream.next(move |_| {
        let mut reply =
            Reply::events(vec![Step::Body(b"{\"a\":[".to_vec()), Step::Flood(block.clone().into_bytes(), ENDLESS)]);
        reply.headers[0].1 = "application/json".to_owned();
        reply
    });
    let answer = alice.ask(chat("a")).await;
    assert!([502, 504].contains(&answer.status), "{}", answer.text());
    assert!(door.memory() < before + 96, "a huge object: {before} MiB grew to {}", door.memory());
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_a_megabyte_passes_and_a_longer_one_does_not() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    let event = |size: usize| format!("data: {{\"choices\":[],\"pad\":\"{}\"}}\n\n", "x".repeat(size)).into_bytes();
    for (size, passes) in [(1000 * 1024, true), (1100 * 1024, false)] {
        let long = event(size);
        door.upstream.next(move |seen| {
            let mut reply = Talk::words(2).reply(seen);
            reply.steps.insert(1, Step::Body(long.clone()));
            reply
        });
        let answer = alice.ask(chat_stream("a")).await.expect(200);
        assert_eq!(answer.text().contains("[DONE]"), passes, "{size} bytes");
        assert!(door.row(&answer).await.is_charged());
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_no_http_or_far_too_long_is_a_502() {
    let door = Door::open(Settings::new()).await;
    let bytes = [b"SSH-2.0-OpenSSH_9\r\n\r\n".to_vec(), b"HTTP/1.1 999999 x\r\n\r\n".to_vec(), {
        let mut head = b"HTTP/1.1 200 OK\r\n".to_vec();
        for number in 0..200_000 {
            head.extend_from_slice(format!("X-{number}: y\r\n").as_bytes());
        }
        head
    }];
    for head in bytes {
        let reply = move |_: &_| Reply { steps: vec![Step::Body(head.clone()), Step::Close], ..Reply::default() };
        for (answer, row) in both_ways(&door, reply).await {
            answer.refused(502, "upstream_error");
            assert!(row.expect("a row").is_charged());
        }
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trickle_ends_when_the_request_has_taken_too_long() {
    let door = Door::open(Settings::new().with(r#"proxy.total_timeout = "2s""#)).await;
    door.upstream.always(|seen| Talk::words(900).every(Duration::from_millis(50)).reply(seen));
    let answer = door.user("alice").ask(chat_stream("a")).await.expect(200);
    let events = answer.events();
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "upstream_timeout", "{events:?}");
    assert!(door.row(&answer).await.has("estimated"));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_went_stale_is_not_the_callers_problem() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    for _ in 0..6 {
        // Answers in full and then closes, without saying so beforehand.
        door.upstream.next(|seen| {
            let mut reply = Talk::words(2).reply(seen);
            reply.steps.push(Step::Close);
            reply
        });
        alice.ask(chat("a")).await.expect(200);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_call_is_counted_when_nobody_reports_it() {
    let door = Door::open(Settings::new()).await;
    door.upstream.next(|_| {
        let chunk = |arguments: &str| {
            let delta = json!({"tool_calls": [{"index": 0, "function": {"name": "look", "arguments": arguments}}]});
            let chunk = json!({"object": "chat.completion.chunk", "model": "gpt-4o-mini", "choices": [{"index": 0, "delta": delta, "finish_reason": null}]});
            Step::Generated(format!("data: {chunk}\n\n").into_bytes(), 8)
        };
        Reply::events(vec![chunk("{\"city\": \"a rather long name\","), chunk(" \"zoom\": 11}"), Step::Reset])
    });
    let answer = door.user("alice").ask(chat_stream("a")).await.expect(200);
    let row = door.row(&answer).await;
    assert!(row.output_tokens.unwrap() >= 8, "{row:?}");
    let more = and(chat("a"), &json!({"max_tokens": 3}));
    door.user("alice").ask(more).await.expect(200);
    door.close().await;
}
