//! An upstream that reports its usage wrongly or not at all: the second half of check 17 of the threats.

use serde_json::json;

use crate::hostile_upstream::both_ways;
use crate::support::caller::{and, chat, chat_stream};
use crate::support::door::Door;
use crate::support::reply::{GARBAGE, Reply, Step, Talk, gzip};
use crate::support::settings::Settings;

#[tokio::test(flavor = "multi_thread")]
async fn usage_that_is_nonsense_is_estimated_and_flagged() {
    let door = Door::open(Settings::new()).await;
    for garbage in GARBAGE {
        for (answer, row) in
            both_ways(&door, |seen| Talk::words(5).usage(garbage).reply(seen)).await
        {
            assert_eq!(answer.status, 200, "{garbage}: {}", answer.text());
            let row = row.expect("a row");
            assert!(
                row.state == "settled" && !row.flags.is_empty(),
                "{garbage}: {row:?}"
            );
            assert!(
                0 < row.cost() && row.cost() <= row.held_micros.unwrap(),
                "{garbage}: {row:?}"
            );
        }
    }
    for (answer, row) in both_ways(&door, |seen| Talk::words(5).without_usage().reply(seen)).await {
        answer.expect(200);
        let row = row.expect("a row");
        assert!(
            row.state == "settled" && row.has("estimated") && row.output_tokens == Some(5),
            "{row:?}"
        );
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_above_the_cap_is_charged_as_reported_and_flagged() {
    let door = Door::open(Settings::new()).await;
    for (answer, row) in
        both_ways(&door, |seen| Talk::words(3000).beyond_the_cap().reply(seen)).await
    {
        answer.expect(200);
        let row = row.expect("a row");
        assert!(row.has("overrun"), "{row:?}");
        assert_eq!(
            (row.output_tokens, row.cost_micros),
            (Some(3000), Some(1802)),
            "{row:?}"
        );
    }
    for huge in [
        "9223372036854775807",
        "18446744073709551615",
        "99999999999999999999999",
    ] {
        let usage = format!(
            "{{\"prompt_tokens\":{huge},\"completion_tokens\":{huge},\"total_tokens\":{huge}}}"
        );
        for (_, row) in both_ways(&door, move |seen| Talk::words(5).usage(&usage).reply(seen)).await
        {
            let row = row.expect("a row");
            assert!(
                row.state == "settled" && !row.flags.is_empty() && row.cost() > 0,
                "{row:?}"
            );
        }
    }
    door.user("bob").ask(chat("still served")).await;
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_above_the_cap_is_flagged_even_where_the_hold_would_pay_for_it() {
    let door = Door::open(Settings::new().with("plans.free.max_choices = 3")).await;
    let alice = door.user("alice");
    // A bound of the prompt leaves room in every hold: what is above the cap need not be above the hold.
    for (cap, choices, words, above) in [
        (1, 1, 4, true),
        (4, 1, 4, false),
        (2, 2, 2, false),
        (2, 2, 3, true),
    ] {
        for body in [
            chat("a prompt of some length"),
            chat_stream("a prompt of some length"),
        ] {
            door.upstream
                .next(move |seen| Talk::words(words).beyond_the_cap().reply(seen));
            let answer = alice
                .ask(and(body, &json!({"max_tokens": cap, "n": choices})))
                .await
                .expect(200);
            let row = door.row(&answer).await;
            assert!(
                row.cost_micros <= row.held_micros,
                "within the hold: {row:?}"
            );
            let used = i64::try_from(words).unwrap() * choices;
            assert_eq!(
                (row.output_tokens, row.has("overrun")),
                (Some(used), above),
                "{cap} x {choices}: {row:?}"
            );
        }
    }
    assert!(
        door.process
            .output()
            .contains("the upstream reports more than it was capped to")
    );
    door.must(&["ledger", "check"]);
    door.close().await;
}

/// Prompt, cached, completion.
type Tokens = (u64, u64, u64);

/// A stream of five words whose usage chunk is each of these, one after the other.
fn told_in_turn(seen: &crate::support::upstream::Seen, reports: &[Tokens]) -> Reply {
    let mut reply = Talk::words(5).without_usage().reply(seen);
    let end = reply
        .steps
        .iter()
        .position(|step| matches!(step, Step::Billed(_)))
        .unwrap();
    for (prompt, cached, completion) in reports.iter().rev() {
        let chunk = json!({"object": "chat.completion.chunk", "model": "gpt-4o-mini", "choices": [], "usage": {
            "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached}}});
        reply
            .steps
            .insert(end, Step::Body(format!("data: {chunk}\n\n").into_bytes()));
    }
    reply
}

#[tokio::test(flavor = "multi_thread")]
async fn of_reports_that_contradict_each_other_the_dearest_counts_and_is_flagged() {
    let door = Door::open(Settings::new()).await;
    // What is told in turn, and then what counts.
    let cases: [(&[Tokens], Tokens, bool); 7] = [
        (&[(10, 0, 40), (10, 0, 4)], (10, 0, 40), true),
        (&[(10, 0, 4), (10, 0, 40), (10, 0, 4)], (10, 0, 40), true),
        (&[(10, 0, 40), (9, 0, 50)], (10, 0, 50), true),
        (&[(10, 8, 40), (10, 0, 40)], (10, 0, 40), true),
        (&[(10, 0, 40), (10, 0, 4), (10, 0, 40)], (10, 0, 40), true),
        (&[(10, 0, 4), (10, 8, 40)], (10, 8, 40), false),
        (&[(10, 0, 40), (10, 0, 40)], (10, 0, 40), false),
    ];
    for (reports, counts, flagged) in cases {
        door.upstream.next(move |seen| told_in_turn(seen, reports));
        let answer = door.user("alice").ask(chat_stream("a")).await.expect(200);
        let row = door.row(&answer).await;
        let charged = [row.input_tokens, row.cached_input_tokens, row.output_tokens]
            .map(|count| count.unwrap() as u64);
        assert_eq!(
            charged,
            [counts.0, counts.1, counts.2],
            "{reports:?}: {row:?}"
        );
        assert_eq!(row.has("usage_nonsense"), flagged, "{reports:?}: {row:?}");
    }
    door.close_without_prices().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_a_report_that_cannot_be_right_are_flagged_and_never_make_it_cheaper() {
    let door = Door::open(Settings::new()).await;
    for (more, flagged) in [
        (r#""prompt_tokens_details":{"cached_tokens":10}"#, false),
        (r#""prompt_tokens_details":{"cached_tokens":11}"#, true),
        (
            r#""prompt_tokens_details":{"cached_tokens":10000000}"#,
            true,
        ),
        (r#""total_tokens":15"#, false),
        (r#""total_tokens":null"#, false),
        (r#""total_tokens":-15"#, true),
        (r#""total_tokens":15.5"#, true),
        (r#""total_tokens":1e300"#, true),
        (r#""total_tokens":"15""#, true),
        (r#""total_tokens":99999999999999999999"#, true),
    ] {
        let usage = format!("{{\"prompt_tokens\":10,\"completion_tokens\":5,{more}}}");
        for (answer, row) in
            both_ways(&door, move |seen| Talk::words(5).usage(&usage).reply(seen)).await
        {
            answer.expect(200);
            let row = row.expect("a row");
            assert_eq!(
                (row.input_tokens, row.output_tokens),
                (Some(10), Some(5)),
                "{more}: {row:?}"
            );
            let is_cached = more.ends_with(":10}");
            assert_eq!(
                row.cached_input_tokens,
                Some(if is_cached { 10 } else { 0 }),
                "{more}: {row:?}"
            );
            assert_eq!(
                (row.has("usage_nonsense"), row.has("estimated")),
                (flagged, false),
                "{more}: {row:?}"
            );
        }
    }
    door.close_without_prices().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_that_is_told_twice_is_charged_once() {
    let door = Door::open(Settings::new()).await;
    door.upstream.next(|seen| {
        let mut reply = Talk::words(5).reply(seen);
        let usage = reply
            .steps
            .iter()
            .position(|step| matches!(step, Step::Billed(_)))
            .unwrap()
            - 1;
        let again = reply.steps[usage].clone();
        reply.steps.insert(usage, again);
        reply
    });
    let answer = door.user("alice").ask(chat_stream("a")).await.expect(200);
    let row = door.row(&answer).await;
    assert_eq!(
        (row.state.as_str(), row.output_tokens),
        ("settled", Some(5)),
        "{row:?}"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_model_or_tier_than_was_asked_for_is_flagged() {
    let door = Door::open(Settings::new()).await;
    for (_, row) in both_ways(&door, |seen| {
        Talk::words(5).model("mystery-9000").reply(seen)
    })
    .await
    {
        let row = row.expect("a row");
        assert!(!row.flags.is_empty() && row.state == "settled", "{row:?}");
        let asked_for = (row.input_tokens.unwrap() * 150_000 + 5 * 600_000 + 999_999) / 1_000_000;
        assert_eq!(
            row.cost(),
            asked_for,
            "charged as the model asked for: {row:?}"
        );
    }
    for (_, row) in both_ways(&door, |seen| Talk::words(5).tier("priority").reply(seen)).await {
        let row = row.expect("a row");
        assert!(!row.flags.is_empty() && row.state == "settled", "{row:?}");
    }
    for (_, row) in both_ways(&door, |seen| {
        Talk::words(5).model("gpt-4o-mini-2024-07-18").reply(seen)
    })
    .await
    {
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
        let kind = if seen.is_stream() {
            "text/event-stream"
        } else {
            "application/json"
        };
        Reply::status(200, kind, gzip(&body)).header("Content-Encoding", "gzip")
    };
    for (answer, row) in both_ways(&door, compressed).await {
        answer.refused(502, "upstream_error");
        let row = row.expect("a row");
        assert!(row.is_charged() && row.cost() > 0, "{row:?}");
        assert_eq!(
            row.cost_micros, row.held_micros,
            "nobody knows what it used: {row:?}"
        );
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_answer_that_does_not_say_so_hides_no_usage() {
    let door = Door::open(Settings::new()).await;
    let zstd = [&[0x28, 0xb5, 0x2f, 0xfd][..], &[7; 60]].concat();
    for bytes in [gzip(b"{\"choices\":[]}"), zstd] {
        // At once, and a byte at a time.
        for size in [bytes.len(), 1] {
            let pieces: Vec<Step> = bytes
                .chunks(size)
                .map(|piece| Step::Body(piece.to_vec()))
                .collect();
            door.upstream.always(move |seen| {
                let mut reply = Reply::events(pieces.clone());
                if !seen.is_stream() {
                    reply.headers[0].1 = "application/json".to_owned();
                }
                reply
            });
            let whole = door
                .user("alice")
                .ask(chat("a"))
                .await
                .refused(502, "upstream_error");
            let stream = door.user("alice").ask(chat_stream("a")).await.expect(200);
            assert!(
                stream.events().last().unwrap().contains("upstream_error"),
                "{}",
                stream.text()
            );
            for answer in [whole, stream] {
                let row = door.row(&answer).await;
                assert!(row.state == "settled" && row.has("estimated"), "{row:?}");
                assert_eq!(
                    row.cost_micros, row.held_micros,
                    "nobody knows what it used: {row:?}"
                );
            }
        }
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
        door.upstream
            .always(move |_| Reply::status(200, kind, body));
        let answer = door
            .user("alice")
            .ask(chat("a"))
            .await
            .refused(502, "upstream_error");
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
        assert!(
            row.is_charged() && row.cost() > 0,
            "{}: {row:?}",
            answer.text()
        );
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
