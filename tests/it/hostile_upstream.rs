//! An upstream that fails, lies or bites: checks 14, 17 and 25 of the threats.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::caller::{Answer, chat, chat_stream};
use crate::support::door::Door;
use crate::support::jwks::Supabase;
use crate::support::oracle::Row;
use crate::support::postgres::free_port;
use crate::support::reply::{Books, Reply, Step, Talk};
use crate::support::settings::Settings;

/// Asks once, with and without a stream, with the upstream answering so; the answers and their rows.
pub(crate) async fn both_ways(
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
        for (answer, row) in both_ways(&door, move |_| {
            Reply::error(status, "string_above_max_length", "Too long by 7.")
        })
        .await
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
        me["limits"]
            .as_array()
            .unwrap()
            .iter()
            .all(|limit| limit["used"] == 0 || limit["used"] == "0.000000"),
        "{me}"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_upstream_says_about_the_operator_is_not_passed_on() {
    let door = Door::open(Settings::new()).await;
    for (status, code) in [
        (401, "upstream_error"),
        (403, "upstream_error"),
        (500, "upstream_error"),
        (502, "upstream_error"),
    ] {
        for (answer, row) in both_ways(&door, move |_| {
            Reply::error(status, "invalid_api_key", "org-canary is out")
        })
        .await
        {
            let answer = answer.refused(502, code);
            assert!(!answer.text().contains("org-canary"), "{}", answer.text());
            assert!(row.is_none_or(|row| row.state == "voided"));
        }
    }
    for status in [429, 503] {
        let reply = move |_: &_| {
            Reply::error(status, "rate_limit_exceeded", "org-canary is too fast")
                .header("Retry-After", "17")
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
    let limits =
        r#"plans.free.limits = [{ per = "hour", requests = 50 }, { per = "day", requests = 50 }]"#;
    let door = Door::open(Settings::new().with(limits)).await;
    let alice = door.user("alice");
    let used = |me: &Value| {
        (
            me["limits"][0]["used"].as_i64().unwrap(),
            me["limits"][1]["used"].as_i64().unwrap(),
        )
    };
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
    assert!(
        door.quiet_rows()
            .await
            .iter()
            .all(|row| row.state == "voided")
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_says_nothing_in_time_is_charged_as_lost() {
    let door = Door::open(Settings::new().with(r#"proxy.first_byte_timeout = "1s""#)).await;
    for (answer, row) in both_ways(&door, |_| Reply::headless(Step::Stall)).await {
        answer.refused(504, "upstream_timeout");
        let row = row.expect("a row");
        assert_eq!(
            (row.state.as_str(), row.cost_micros),
            ("lost", row.held_micros),
            "{row:?}"
        );
    }
    for (answer, row) in both_ways(&door, |_| Reply::headless(Step::Reset)).await {
        answer.refused(502, "upstream_error");
        let row = row.expect("a row");
        assert!(
            row.is_charged() && row.cost() > 0,
            "sent, and never answered: {row:?}"
        );
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_ends_in_an_error_event_and_without_done() {
    let door = Door::open(Settings::new().with(r#"proxy.idle_timeout = "1s""#)).await;
    let alice = door.user("alice");
    for step in [Step::Reset, Step::Close, Step::Stall] {
        let cut = step.clone();
        door.upstream.always(move |seen| {
            Talk::words(20)
                .every(Duration::from_millis(5))
                .cut(6, cut.clone())
                .reply(seen)
        });
        let answer = alice.ask(chat_stream("a")).await.expect(200);
        let events = answer.events();
        let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
        assert!(
            last["error"]["code"].is_string() && last["error"]["type"].is_string(),
            "{step:?}: {events:?}"
        );
        assert!(
            !events.contains(&"[DONE]".to_owned()),
            "{step:?}: {events:?}"
        );
        assert_eq!(answer.said(), " alpha".repeat(6), "{step:?}");
        let row = door.row(&answer).await;
        // Where we gave up, the upstream may have gone on.
        let gave_up = matches!(step, Step::Stall);
        assert_eq!(
            (row.state.as_str(), row.output_tokens == Some(6)),
            ("settled", !gave_up),
            "{step:?}: {row:?}"
        );
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
    assert!(
        row.has("estimated") && row.output_tokens == Some(3),
        "{row:?}"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed() {
    let door = Door::open(Settings::new()).await;
    let elsewhere = Supabase::start().await;
    for status in [301, 302, 303, 307, 308] {
        let there = format!("{}/v1/chat/completions", elsewhere.url());
        for (answer, _) in both_ways(&door, move |_| {
            Reply::status(status, "text/html", "moved").header("Location", &there)
        })
        .await
        {
            let answer = answer.refused(502, "upstream_error");
            assert_eq!(answer.header("location"), "");
        }
    }
    assert!(
        elsewhere.requests().is_empty(),
        "the operator's key went elsewhere"
    );
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
            // About the user's own request by its code: such messages are passed on, but not these words of them.
            400 | 404 | 422 => marked(Reply::error(status, "string_above_max_length", &echo)),
            _ => marked(Reply::error(status, "invalid_api_key", &echo)),
        };
        for (answer, _) in both_ways(&door, reply).await {
            let headers = format!("{:?}", answer.headers);
            assert!(!headers.contains("canary"), "{status}: {headers}");
            assert!(
                answer.status != 401,
                "an upstream's 401 is never the client's"
            );
            assert!(
                !answer.text().contains("org-canary"),
                "{status}: {}",
                answer.text()
            );
        }
    }
    let in_stream = format!(
        "data: {}\n\n",
        json!({"error": {"message": echo, "type": "server_error", "code": key, "param": null}})
    );
    // An error in place of an answer is free.
    door.upstream.always(move |_| {
        Reply::events(vec![Step::Body(in_stream.clone().into_bytes())]).booked(Books::free())
    });
    let answer = door.user("alice").ask(chat_stream("a")).await;
    assert!(
        !answer.text().contains("canary") && !answer.text().contains("[DONE]"),
        "{}",
        answer.text()
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_and_a_field_of_the_upstream_never_name_the_operator() {
    let door = Door::open(Settings::new()).await;
    let key = door.operator_key().to_owned();
    let telling = [
        key.clone(),
        format!("invalid{key}"),
        format!("messages[0].{key}"),
        key.replace('-', "_"),
        "org-canary9".to_owned(),
        "proj_canary9".to_owned(),
        "badsk-canary9".to_owned(),
        "not_in_org_canary9".to_owned(),
        "127.0.0.1".to_owned(),
    ];
    for status in [400, 404, 422] {
        let ours = if status == 404 {
            "not_found"
        } else {
            "invalid_request"
        };
        for word in &telling {
            let error =
                json!({"error": {"message": "x", "type": "t", "code": word, "param": word}})
                    .to_string();
            for (answer, _) in both_ways(&door, move |_| {
                Reply::status(status, "application/json", error.clone())
            })
            .await
            {
                let told = answer.clone().expect(status).json()["error"].clone();
                assert_eq!(
                    (&told["code"], &told["param"]),
                    (&json!(ours), &Value::Null),
                    "{status} {word}"
                );
                assert_eq!(answer.header("x-tollgate-error"), ours, "{status} {word}");
            }
        }
    }
    // What is about the request passes, but to nobody's log: there only our own words stand.
    for (answer, _) in both_ways(&door, |_| Reply::error(400, "word_of_the_upstream", "x")).await {
        assert_eq!(
            answer.expect(400).json()["error"]["code"],
            "word_of_the_upstream"
        );
    }
    let output = door.process.output();
    assert!(
        output.contains("upstream_rejected"),
        "the lines are there: {output}"
    );
    for word in telling
        .iter()
        .map(String::as_str)
        .filter(|word| *word != "127.0.0.1")
        .chain(["word_of_the_upstream"])
    {
        assert!(!output.contains(word), "the log has {word}");
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_page_of_ten_megabytes_is_neither_kept_nor_shown() {
    let door = Door::open(Settings::new()).await;
    let page = "<html>page-canary</html>".repeat(10 * 1024 * 1024 / 24);
    for status in [400, 500] {
        let page = page.clone();
        for (answer, _) in both_ways(&door, move |_| {
            Reply::status(status, "text/html", page.clone())
        })
        .await
        {
            assert!([400, 502].contains(&answer.status), "{}", answer.status);
            assert!(
                answer.body.len() < 4096 && !answer.text().contains("page-canary"),
                "{} bytes",
                answer.body.len()
            );
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
    door.upstream
        .next(|seen| Talk::words(3).without_usage().reply(seen));
    let warm = alice.ask(chat_stream("a")).await;
    door.row(&warm).await;
    let before = door.process.memory();
    let floods: [(&str, &str); 4] = [
        ("comments", ": x\n"),
        ("empty lines", "\n\n\n\n"),
        ("an unbroken line", "data: xxxxxxxx"),
        ("blank events", "data:\n\n"),
    ];
    for (what, piece) in floods {
        let block = piece.repeat(64 * 1024 / piece.len());
        door.upstream
            .next(move |_| Reply::events(vec![Step::Flood(block.clone().into_bytes(), ENDLESS)]));
        let answer = alice.ask(chat_stream("a")).await.expect(200);
        assert!(!answer.text().contains("[DONE]"), "{what}");
        let row = door.row(&answer).await;
        assert!(row.is_charged() && row.cost() > 0, "{what}: {row:?}");
        assert!(
            door.process.memory() < before + 64,
            "{what}: {} MiB grew to {}",
            before,
            door.process.memory()
        );
    }
    let block = "\"x\",".repeat(16 * 1024);
    door.upstream.next(move |_| {
        let mut reply = Reply::events(vec![
            Step::Body(b"{\"a\":[".to_vec()),
            Step::Flood(block.clone().into_bytes(), ENDLESS),
        ]);
        reply.headers[0].1 = "application/json".to_owned();
        reply
    });
    let answer = alice.ask(chat("a")).await;
    assert!([502, 504].contains(&answer.status), "{}", answer.text());
    assert!(
        door.process.memory() < before + 96,
        "a huge object: {before} MiB grew to {}",
        door.process.memory()
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_a_megabyte_passes_and_a_longer_one_does_not() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    let event = |size: usize| {
        format!(
            "data: {{\"choices\":[],\"pad\":\"{}\"}}\n\n",
            "x".repeat(size)
        )
        .into_bytes()
    };
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
    let bytes = [
        b"SSH-2.0-OpenSSH_9\r\n\r\n".to_vec(),
        b"HTTP/1.1 999999 x\r\n\r\n".to_vec(),
        {
            let mut head = b"HTTP/1.1 200 OK\r\n".to_vec();
            for number in 0..200_000 {
                head.extend_from_slice(format!("X-{number}: y\r\n").as_bytes());
            }
            head
        },
    ];
    for head in bytes {
        let reply = move |_: &_| Reply {
            steps: vec![Step::Body(head.clone()), Step::Close],
            ..Reply::default()
        };
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
    door.upstream.always(|seen| {
        Talk::words(900)
            .every(Duration::from_millis(50))
            .reply(seen)
    });
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
