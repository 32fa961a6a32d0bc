//! What providers in the field report of their usage, and the odd ways in which they write their answers: charged as they bill.

use serde_json::{Value, json};

use crate::hostile_upstream::both_ways;
use crate::support::caller::{Answer, and, chat, chat_stream};
use crate::support::door::Door;
use crate::support::oracle::Row;
use crate::support::reply::{Bill, Reply, Step, Talk, WORD};
use crate::support::settings::Settings;
use crate::support::upstream::Seen;

/// One micro-dollar a prompt token, a tenth cached, four an output token.
async fn priced_door() -> Door {
    let price = "[prices.gpt-4o-mini]\ninput = \"1\"\ncached_input = \"0.1\"\noutput = \"4\"\n";
    Door::open(
        Settings::new()
            .with("plans.free.max_output_tokens = 2000")
            .with(price),
    )
    .await
}

/// A stream of these payloads, as they stand.
fn stream(payloads: &[&str]) -> Reply {
    let text: String = payloads
        .iter()
        .map(|payload| format!("data: {payload}\n\n"))
        .collect();
    Reply::events(vec![Step::Body(text.into_bytes())])
}

fn word(text: &str) -> String {
    let choice = json!({"index": 0, "delta": {"content": text}, "finish_reason": null});
    json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini", "choices": [choice]})
        .to_string()
}

fn end(usage: Option<&Value>) -> String {
    let choice = json!({"index": 0, "delta": {}, "finish_reason": "stop"});
    let mut end = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini", "choices": [choice]});
    if let Some(usage) = usage {
        end["usage"] = usage.clone();
    }
    end.to_string()
}

/// The same answer, with this on the invoice.
fn billed(mut reply: Reply, (prompt, cached, completion): (u64, u64, u64)) -> Reply {
    for step in &mut reply.steps {
        if let Step::Billed(bill) = step {
            *bill = Bill {
                prompt,
                cached,
                completion,
                ..Bill::default()
            };
        }
    }
    reply
}

/// Asks for a stream that is answered so.
async fn streamed(door: &Door, reply: Reply) -> (Answer, Row) {
    door.upstream.next(move |_| reply.clone());
    let answer = door.user("alice").ask(chat_stream("a")).await.expect(200);
    let row = door.row(&answer).await;
    (answer, row)
}

fn is_whole(answer: &Answer) -> bool {
    answer
        .events()
        .last()
        .is_some_and(|event| event == "[DONE]")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_from_the_cache_is_cached_by_any_providers_name() {
    let door = priced_door().await;
    for more in [
        r#""prompt_tokens_details":{"cached_tokens":900}"#,
        r#""prompt_cache_hit_tokens":900,"prompt_cache_miss_tokens":100"#,
        r#""prompt_cache_hit_tokens":900"#,
        r#""cached_tokens":900"#,
        r#""cache_read_input_tokens":900"#,
        r#""cached_content_token_count":900"#,
        r#""num_cached_tokens":900.0"#,
        r#""prompt_tokens_details":{"cached_tokens":900},"prompt_cache_hit_tokens":900,"cached_tokens":950"#,
    ] {
        let usage = format!(
            r#"{{"prompt_tokens":1000,"completion_tokens":10,"total_tokens":1010,{more}}}"#
        );
        let reply =
            move |seen: &Seen| billed(Talk::words(5).usage(&usage).reply(seen), (1000, 900, 10));
        for (answer, row) in both_ways(&door, reply).await {
            answer.expect(200);
            let row = row.expect("a row");
            assert_eq!(
                (row.cached_input_tokens, row.cost()),
                (Some(900), 100 + 90 + 40),
                "{more}: {row:?}"
            );
            assert!(!row.has("usage_nonsense"), "{more}: {row:?}");
        }
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_report_the_dearest_lawful_reading_counts() {
    let door = priced_door().await;
    // What is reported; input and output that are charged; whether it is flagged.
    let cases = [
        (
            r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":95,"completion_tokens_details":{"reasoning_tokens":80}}"#,
            (10, 85),
            false,
        ),
        (
            r#"{"prompt_tokens":10,"completion_tokens":85,"total_tokens":95,"completion_tokens_details":{"reasoning_tokens":80}}"#,
            (10, 85),
            false,
        ),
        (
            r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":95}"#,
            (10, 85),
            false,
        ),
        (
            r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":12}"#,
            (10, 5),
            true,
        ),
        (r#"{"input_tokens":10,"output_tokens":5}"#, (10, 5), false),
        (
            r#"{"prompt_tokens":10.0,"completion_tokens":5}"#,
            (10, 5),
            false,
        ),
        (
            r#"{"prompt_tokens":"10","completion_tokens":"5"}"#,
            (10, 5),
            true,
        ),
        (
            r#"{"prompt_tokens":10,"completion_tokens":5,"completion_tokens":9}"#,
            (10, 9),
            true,
        ),
        (
            r#"{"completion_tokens":5,"total_tokens":15}"#,
            (10, 5),
            true,
        ),
    ];
    for (usage, (input, output), flagged) in cases {
        let bill = (input as u64, 0, output as u64);
        for (answer, row) in both_ways(&door, move |seen| {
            billed(Talk::words(5).usage(usage).reply(seen), bill)
        })
        .await
        {
            answer.expect(200);
            let row = row.expect("a row");
            assert_eq!(
                (row.input_tokens, row.output_tokens),
                (Some(input), Some(output)),
                "{usage}: {row:?}"
            );
            assert_eq!(row.cost(), input + 4 * output, "{usage}: {row:?}");
            assert_eq!(row.has("usage_nonsense"), flagged, "{usage}: {row:?}");
        }
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_cannot_be_right_is_estimated_alone_and_the_others_stand() {
    let door = priced_door().await;
    let estimate = |row: &Row| {
        row.input_tokens
            .is_some_and(|tokens| (5..100).contains(&tokens))
    };
    for usage in [
        r#"{"prompt_tokens":0,"completion_tokens":300}"#,
        r#"{"completion_tokens":300}"#,
        r#"{"prompt_tokens":-1,"completion_tokens":300,"total_tokens":299}"#,
        r#"{"prompt_tokens":null,"completion_tokens":300}"#,
    ] {
        for (answer, row) in
            both_ways(&door, move |seen| Talk::words(5).usage(usage).reply(seen)).await
        {
            answer.expect(200);
            let row = row.expect("a row");
            assert!(
                estimate(&row) && row.output_tokens == Some(300),
                "{usage}: {row:?}"
            );
            assert_eq!(
                row.cost(),
                row.input_tokens.unwrap() + 1200,
                "{usage}: {row:?}"
            );
            assert!(
                row.has("estimated") && row.has("usage_nonsense"),
                "{usage}: {row:?}"
            );
        }
    }
    for usage in [
        r#"{"prompt_tokens":70,"completion_tokens":0}"#,
        r#"{"prompt_tokens":70}"#,
        r#"{"prompt_tokens":70,"completion_tokens":"?"}"#,
    ] {
        for (answer, row) in
            both_ways(&door, move |seen| Talk::words(5).usage(usage).reply(seen)).await
        {
            answer.expect(200);
            let row = row.expect("a row");
            assert_eq!(
                (row.input_tokens, row.output_tokens, row.cost()),
                (Some(70), Some(5), 90),
                "{usage}: {row:?}"
            );
            assert!(
                row.has("estimated") && row.has("usage_nonsense"),
                "{usage}: {row:?}"
            );
        }
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_cannot_be_read_ends_nothing() {
    let door = priced_door().await;
    let usage = json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15});
    let odd: [&[u8]; 10] = [
        b"data: : keepalive\n\n",
        b"data:   \n\n",
        b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\\ud83d\"}}]}\n\n",
        b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\xf0\x9f\"}}]}\n\n",
        b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"},\"logprobs\":{\"content\":[{\"logprob\":-Infinity}]}}]}\n\n",
        b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}],\"t\":NaN}\n\n",
        b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"},\"delta\":{\"content\":\"x\"}}],\"id\":\"c\",\"id\":\"d\"}\n\n",
        b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}],\"error\":\"\"}\n\n",
        b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}],\"error\":false}\n\n",
        b"data: not json\n\n",
    ];
    for event in odd {
        let said = String::from_utf8_lossy(event).into_owned();
        let (before, after) = (word(WORD), word(WORD));
        let (answer, row) = streamed(
            &door,
            Reply::events(vec![
                Step::Body(format!("data: {before}\n\n").into_bytes()),
                Step::Body(event.to_vec()),
                Step::Body(
                    format!(
                        "data: {after}\n\ndata: {}\n\ndata: [DONE]\n\n",
                        end(Some(&usage))
                    )
                    .into_bytes(),
                ),
            ]),
        )
        .await;
        assert!(
            is_whole(&answer) && !answer.text().contains("upstream_error"),
            "{said}: {}",
            answer.text()
        );
        let events = answer.events();
        assert!(
            events.contains(&before) && events.contains(&end(Some(&usage))),
            "{said}: {events:?}"
        );
        assert_eq!(
            (row.input_tokens, row.output_tokens, row.cost()),
            (Some(10), Some(5), 30),
            "{said}: {row:?}"
        );
        assert!(row.flags.is_empty(), "{said}: {row:?}");
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_read_wherever_it_stands() {
    let door = priced_door().await;
    let usage = json!({"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17});
    let text = word(WORD);
    let in_a_choice =
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": usage}]})
            .to_string();
    let of_groq =
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "x_groq": {"id": "r", "usage": usage}})
            .to_string();
    let alone = json!({"choices": [], "usage": usage}).to_string();
    let running =
        json!({"choices": [{"index": 0, "delta": {"content": WORD}}], "usage": usage}).to_string();
    let cases: [&[&str]; 6] = [
        &[&text, &in_a_choice, "[DONE]"],
        &[&text, &of_groq, "[DONE]"],
        &[&text, &end(Some(&usage)), "[DONE]"],
        &[&text, &end(None), "[DONE]", &alone],
        &[&text, &end(None), &alone],
        &[&running, "[DONE]"],
    ];
    for payloads in cases {
        let (answer, row) = streamed(&door, stream(payloads)).await;
        assert!(is_whole(&answer), "{payloads:?}: {}", answer.text());
        assert_eq!(
            (row.input_tokens, row.output_tokens),
            (Some(10), Some(7)),
            "{payloads:?}: {row:?}"
        );
        assert!(row.flags.is_empty(), "{payloads:?}: {row:?}");
    }
    // After the end, in a piece of its own, and the connection stays open; a caller who asked for it gets it before the end.
    let late = Reply::events(vec![
        Step::Body(format!("data: {text}\n\ndata: {}\n\ndata: [DONE]\n\n", end(None)).into_bytes()),
        Step::Wait(std::time::Duration::from_millis(20)),
        Step::Body(format!("data: {alone}\n\n").into_bytes()),
        Step::Stall,
    ]);
    door.upstream.next(move |_| late.clone());
    let asked = and(
        chat_stream("a"),
        &json!({"stream_options": {"include_usage": true}}),
    );
    let answer = door.user("alice").ask(asked).await.expect(200);
    assert_eq!(answer.events()[2..], [alone, "[DONE]".to_owned()]);
    let row = door.row(&answer).await;
    assert_eq!(
        (row.output_tokens, row.flags.len()),
        (Some(7), 0),
        "{row:?}"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_stream_needs_no_done_and_one_that_is_not_finished_does() {
    let door = priced_door().await;
    let text = word(WORD);
    let (answer, row) = streamed(&door, stream(&[&text, &end(None)])).await;
    assert!(
        is_whole(&answer) && !answer.text().contains("error"),
        "{}",
        answer.text()
    );
    assert_eq!(
        (row.output_tokens, row.has("estimated"), row.has("cut")),
        (Some(1), true, false),
        "{row:?}"
    );
    for no_end in ["", "null", " "] {
        let choice = json!({"index": 0, "delta": {"content": WORD}, "finish_reason": no_end});
        let usage = json!({"prompt_tokens": 10, "completion_tokens": 1});
        let chunk = json!({"choices": [choice], "usage": usage}).to_string();
        let (answer, row) = streamed(&door, stream(&[&chunk, &chunk])).await;
        assert!(
            answer.events().last().unwrap().contains("upstream_error"),
            "{no_end:?}: {}",
            answer.text()
        );
        assert!(
            !is_whole(&answer) && row.is_charged() && row.cost() > 0,
            "{no_end:?}: {row:?}"
        );
        let (answer, _) = streamed(&door, stream(&[&chunk, "[DONE] "])).await;
        assert!(is_whole(&answer), "{no_end:?}: {}", answer.text());
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reasoning_that_is_told_under_two_names_is_counted_once() {
    let door = priced_door().await;
    for delta in [
        json!({"reasoning": WORD, "reasoning_content": WORD}),
        json!({"reasoning": WORD, "reasoning_details": [{"type": "reasoning.text", "text": WORD, "format": "x-v1", "index": 0}]}),
        json!({"reasoning_content": WORD, "thinking": WORD, "content": ""}),
    ] {
        let chunk = json!({"choices": [{"index": 0, "delta": delta}]});
        let mut steps = vec![Step::Body(format!("data: {chunk}\n\n").into_bytes()); 40];
        steps.push(Step::Close);
        let (_, row) = streamed(&door, Reply::events(steps)).await;
        assert_eq!(row.output_tokens, Some(40), "{delta}: {row:?}");
        assert!(row.has("estimated"), "{row:?}");
    }
    door.close().await;
}

/// The shapes in which servers tell that they failed. None of their words may reach the caller.
const ERRORS: [&str; 10] = [
    r#"{"error":{"message":"canary","type":"server_error","code":null}}"#,
    r#"{"error":"canary"}"#,
    r#"{"error":{"message":"canary"},"choices":[]}"#,
    r#"{"object":"error","message":"canary","type":"InternalServerError","param":null,"code":500}"#,
    r#"{"message":"canary","code":"500"}"#,
    r#"{"type":"error","error":{"type":"overloaded_error","message":"canary"}}"#,
    r#"{"detail":"canary"}"#,
    r#"[{"error":{"code":503,"message":"canary","status":"UNAVAILABLE"}}]"#,
    r#"{"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error","error":{"message":"canary"}}]}"#,
    r#"{"error":{"code":429,"message":"canary","details":[{"retryDelay":"39s"}]},"usage":null}"#,
];

#[tokio::test(flavor = "multi_thread")]
async fn an_error_in_a_200_is_recognised_in_every_shape_and_free_before_any_content() {
    let door = priced_door().await;
    for error in ERRORS {
        door.upstream
            .next(move |_| Reply::status(200, "application/json", error));
        let whole = door.user("alice").ask(chat("a")).await;
        // One that says that the upstream is busy is told as that.
        assert!(
            matches!(whole.status, 502 | 503),
            "{error}: {}",
            whole.text()
        );
        let (first, _) = streamed(&door, stream(&[error])).await;
        let (in_one_piece, _) =
            streamed(&door, Reply::status(200, "application/json", error)).await;
        let named = Reply::events(vec![Step::Body(
            format!("event: error\ndata: {error}\n\n").into_bytes(),
        )]);
        let (named, _) = streamed(&door, named).await;
        for answer in [whole, first, in_one_piece, named] {
            assert!(
                answer.text().contains("\"upstream_") && !answer.text().contains("canary"),
                "{error}: {}",
                answer.text()
            );
            let row = door.row(&answer).await;
            assert_eq!(
                (row.state.as_str(), row.cost_micros.unwrap_or(0)),
                ("voided", 0),
                "{error}: {row:?}"
            );
        }
        let text = word(WORD);
        let (later, row) = streamed(&door, stream(&[&text, error])).await;
        assert!(
            later.said() == WORD && !later.text().contains("canary") && !is_whole(&later),
            "{error}: {}",
            later.text()
        );
        assert!(
            later.events().last().unwrap().contains("upstream_error"),
            "{error}: {}",
            later.text()
        );
        assert!(row.is_charged() && row.cost() > 0, "{error}: {row:?}");
    }
    // The oracle holds that whatever is answered by a 200 is billed.
    door.close_unjudged();
}

/// The other form than was asked for.
fn other_form(talk: &Talk, seen: &Seen) -> Reply {
    let mut other = seen.clone();
    other.body["stream"] = json!(!seen.is_stream());
    other.body["stream_options"] = json!({"include_usage": true});
    talk.reply(&other)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_comes_in_the_form_that_was_asked_for_and_is_priced_once() {
    let door = priced_door().await;
    for kind in [
        None,
        Some("text/event-stream"),
        Some("application/json"),
        Some("text/plain"),
        Some(""),
    ] {
        let reply = move |seen: &Seen| {
            let mut reply = other_form(&Talk::words(5), seen);
            match kind {
                None => {}
                Some("") => drop(reply.headers.remove(0)),
                Some(kind) => kind.clone_into(&mut reply.headers[0].1),
            }
            reply
        };
        door.upstream.always(reply);
        let whole = door.user("alice").ask(chat("a")).await.expect(200);
        assert!(
            whole.header("content-type").starts_with("application/json"),
            "{kind:?}"
        );
        let body = whole.json();
        assert_eq!(body["object"], "chat.completion", "{kind:?}: {body}");
        assert_eq!(
            body["choices"][0]["message"]["content"],
            WORD.repeat(5),
            "{kind:?}: {body}"
        );
        assert_eq!(
            (
                &body["choices"][0]["finish_reason"],
                &body["usage"]["completion_tokens"]
            ),
            (&json!("stop"), &json!(5))
        );
        let stream = door.user("alice").ask(chat_stream("a")).await.expect(200);
        assert!(
            stream
                .header("content-type")
                .starts_with("text/event-stream"),
            "{kind:?}"
        );
        assert!(
            stream.said() == WORD.repeat(5) && is_whole(&stream),
            "{kind:?}: {}",
            stream.text()
        );
        for answer in [whole, stream] {
            let row = door.row(&answer).await;
            assert_eq!(
                (row.state.as_str(), row.output_tokens, row.flags.len()),
                ("settled", Some(5), 0),
                "{kind:?}: {row:?}"
            );
        }
    }
    // The right form under a wrong name.
    door.upstream.always(|seen| {
        let mut reply = Talk::words(5).reply(seen);
        let kind = if seen.is_stream() {
            "application/json"
        } else {
            "text/event-stream"
        };
        kind.clone_into(&mut reply.headers[0].1);
        reply
    });
    assert_eq!(
        door.user("alice").ask(chat("a")).await.expect(200).json()["object"],
        "chat.completion"
    );
    assert_eq!(
        door.user("alice")
            .ask(chat_stream("a"))
            .await
            .expect(200)
            .said(),
        WORD.repeat(5)
    );
    door.close().await;
}
