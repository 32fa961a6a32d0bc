//! How a request that did not come to its end is told: in its row, in the log, to the metrics and on the readiness page.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;
use uuid::Uuid;

use crate::metrics::samples;
use crate::support::caller::{Call, and, chat, chat_stream};
use crate::support::door::Door;
use crate::support::oracle::Row;
use crate::support::postgres::free_port;
use crate::support::reply::{Books, Reply, Step, Talk};
use crate::support::settings::Settings;

fn settings(address: SocketAddr) -> Settings {
    Settings::new().env("TOLLGATE_SERVER__ADMIN_BIND", &address.to_string())
}

fn office() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

/// The line of a request, once it is written.
async fn line(door: &Door, id: Uuid) -> Value {
    let id = id.to_string();
    for _ in 0..200 {
        let output = door.process.output();
        let lines = output
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut lines =
            lines.filter(|line| line["request_id"] == *id && line["message"] == "request");
        if let Some(line) = lines.next() {
            return line;
        }
        sleep(Duration::from_millis(25)).await;
    }
    panic!("no line of {id} in {}", door.process.output());
}

async fn counted(door: &Door, address: SocketAddr) -> BTreeMap<String, f64> {
    let page = Call::get("/metrics").host("127.0.0.1:9090");
    samples(&door.office(address).send(page).await.expect(200).text())
}

/// A sample that is not there was never counted.
fn sample(page: &BTreeMap<String, f64>, name: &str) -> f64 {
    page.get(name).copied().unwrap_or_default()
}

fn upstream_outcome(page: &BTreeMap<String, f64>, outcome: &str) -> f64 {
    let name =
        format!(r#"tollgate_upstream_requests_total{{upstream="openai",outcome="{outcome}"}}"#);
    sample(page, &name)
}

fn requests(page: &BTreeMap<String, f64>, code: &str) -> f64 {
    let name =
        format!(r#"tollgate_requests_total{{endpoint="/v1/chat/completions",code="{code}"}}"#);
    sample(page, &name)
}

fn newest(rows: Vec<Row>) -> Row {
    rows.into_iter().max_by_key(|row| row.id).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_given_up_before_it_is_sent_is_a_cancelled_one_and_no_failure_of_the_upstream()
 {
    // It takes connections, and never answers a TLS handshake.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = format!("https://{}/v1", silent.local_addr().unwrap());
    for policy in ["abort", "drain"] {
        let address = office();
        let settings = settings(address).with(&format!("proxy.on_disconnect = {policy:?}"));
        let mut door = Door::prepare(settings).await;
        door.moves_to("OPENAI_BASE_URL", &base_url);
        door.start().await;
        let begun = door.user("alice").begin(chat("a")).await;
        while door.ledger_rows().is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
        sleep(Duration::from_millis(100)).await;
        begun.hang_up();
        let row = newest(door.quiet_rows().await);
        assert_eq!((row.state.as_str(), row.cost()), ("voided", 0), "{row:?}");
        assert_eq!(row.flags, ["cancelled"], "{policy}: {row:?}");
        let line = line(&door, row.id).await;
        assert_eq!(
            (&line["status"], &line["outcome"], &line["flags"]),
            (&json!(499), &json!("cancelled"), &json!("cancelled")),
            "{policy}: {line}"
        );
        assert_eq!(line["code"], Value::Null, "{policy}: {line}");
        let page = counted(&door, address).await;
        assert_eq!(
            ["cancelled", "upstream_error", "upstream_unavailable", "ok"]
                .map(|code| requests(&page, code)),
            [1.0, 0.0, 0.0, 0.0],
            "{policy}"
        );
        assert_eq!(
            ["cancelled", "connect", "error"].map(|outcome| upstream_outcome(&page, outcome)),
            [1.0, 0.0, 0.0],
            "{policy}"
        );
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_left_before_an_answer_was_not_told_200() {
    let address = office();
    let door = Door::open(settings(address).with(r#"proxy.on_disconnect = "abort""#)).await;
    door.upstream
        .always(|seen| Talk::words(5).reply(seen).after(Duration::from_secs(9)));
    let begun = door.user("alice").begin(chat("a")).await;
    door.upstream.until_served(1).await;
    sleep(Duration::from_millis(100)).await;
    begun.hang_up();
    let row = newest(door.quiet_rows().await);
    assert_eq!(row.cost_micros, row.held_micros, "{row:?}");
    let line = line(&door, row.id).await;
    assert_eq!(
        (&line["status"], &line["outcome"]),
        (&json!(499), &json!("settled")),
        "{line}"
    );
    let page = counted(&door, address).await;
    assert_eq!(
        ["cancelled", "ok"].map(|code| requests(&page, code)),
        [1.0, 0.0]
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_stream_broke_off_stands_in_its_line_its_row_and_the_metrics() {
    let address = office();
    let times = "proxy.idle_timeout = \"1s\"";
    let door = Door::open(settings(address).with(times)).await;
    let error = Step::Body(b"data: {\"error\":{\"message\":\"overloaded\"}}\n\n".to_vec());
    let cases = [
        (error, "upstream_error", "upstream_failed", "error"),
        (Step::Reset, "upstream_error", "cut", "broken"),
        (Step::Close, "upstream_error", "cut", "broken"),
        (Step::Stall, "upstream_timeout", "timeout", "timeout"),
    ];
    for (step, code, flag, outcome) in cases {
        let before = counted(&door, address).await;
        let cut = step.clone();
        door.upstream
            .always(move |seen| Talk::words(20).cut(4, cut.clone()).reply(seen));
        let answer = door.user("alice").ask(chat_stream("a")).await.expect(200);
        let row = door.row(&answer).await;
        assert_eq!(row.flags, ["estimated", flag], "{step:?}: {row:?}");
        let line = line(&door, row.id).await;
        assert_eq!(
            (&line["status"], &line["code"], &line["outcome"]),
            (&json!(200), &json!(code), &json!("settled")),
            "{step:?}: {line}"
        );
        assert_eq!(line["flags"], format!("estimated,{flag}"), "{line}");
        let after = counted(&door, address).await;
        assert_eq!(requests(&after, code), requests(&before, code) + 1.0);
        assert_eq!(
            upstream_outcome(&after, outcome),
            upstream_outcome(&before, outcome) + 1.0,
            "{step:?}"
        );
        assert_eq!(requests(&after, "ok"), 0.0, "{step:?}");
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_we_gave_up_pays_the_hold_as_nobody_knows_what_was_generated() {
    for (times, pace) in [
        ("proxy.idle_timeout = \"1s\"", Duration::ZERO),
        ("proxy.total_timeout = \"2s\"", Duration::from_millis(200)),
    ] {
        let door = Door::open(Settings::new().with(times)).await;
        let step = Step::Stall;
        door.upstream.always(move |seen| {
            let talk = Talk::words(900).every(pace);
            if pace.is_zero() {
                return talk.cut(4, step.clone()).reply(seen);
            }
            talk.reply(seen)
        });
        let answer = door.user("alice").ask(chat_stream("a")).await.expect(200);
        assert!(answer.text().contains("upstream_timeout"), "{times}");
        let row = door.row(&answer).await;
        assert_eq!(
            (row.state.as_str(), row.cost_micros),
            ("settled", row.held_micros),
            "{times}: {row:?}"
        );
        assert_eq!(row.flags, ["estimated", "timeout"], "{times}: {row:?}");
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_users_slow_requests_put_no_upstream_out_of_use_and_several_users_do() {
    let door = Door::open(Settings::new().with(r#"proxy.first_byte_timeout = "1s""#)).await;
    door.upstream
        .always(|seen| Talk::words(5).reply(seen).after(Duration::from_mins(1)));
    let ready = || door.send(Call::get("/health/ready"));
    for _ in 0..4 {
        door.user("alice").ask(chat("a")).await.expect(504);
    }
    ready().await.expect(200);
    for name in ["bob", "carol"] {
        door.user(name).ask(chat("a")).await.expect(504);
    }
    ready().await.expect(503);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_in_a_stream_is_no_text() {
    let door = Door::open(Settings::new().with(r#"proxy.idle_timeout = "1s""#)).await;
    let noise = "data: ping\n\ndata: [heartbeat]\n\n";
    for (after, state) in [
        ("data: {\"error\":{\"message\":\"busy\"}}\n\n", "voided"),
        ("", "settled"),
    ] {
        let text = format!("{noise}{after}");
        let reply = Reply::events(vec![Step::Body(text.into_bytes()), Step::Close]);
        let reply = if state == "voided" {
            reply.booked(Books::free())
        } else {
            reply
        };
        door.upstream.next(move |_| reply.clone());
        let answer = door.user("alice").ask(chat_stream("a")).await.expect(200);
        let row = door.row(&answer).await;
        let cost = if state == "voided" {
            Some(0)
        } else {
            row.held_micros
        };
        assert_eq!(
            (row.state.as_str(), row.cost_micros),
            (state, cost),
            "{after:?}: {row:?}"
        );
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn choices_that_report_their_own_usage_are_summed_up_and_share_one_prompt() {
    let settings = Settings::new()
        .with("plans.free.max_choices = 3")
        .with("plans.free.max_output_tokens = 2000");
    let door = Door::open(settings).await;
    let usage = |output: u64| json!({"prompt_tokens": 10, "completion_tokens": output, "total_tokens": 10 + output});
    let whole = json!({"id": "c", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini", "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "one"}, "finish_reason": "stop", "usage": usage(7)},
        {"index": 1, "message": {"role": "assistant", "content": "two"}, "finish_reason": "stop", "usage": usage(11)},
        {"index": 2, "message": {"role": "assistant", "content": "six"}, "finish_reason": "stop", "usage": usage(11)},
    ]})
    .to_string();
    let chunk = |index: u64, more: Value| {
        let mut choice = json!({"index": index, "delta": {}, "finish_reason": null});
        choice
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini", "choices": [choice]})
            .to_string()
    };
    let end = |index, output| {
        chunk(
            index,
            json!({"finish_reason": "stop", "usage": usage(output)}),
        )
    };
    let text = |index| chunk(index, json!({"delta": {"content": "hi"}}));
    // The first choice ends while the others go on.
    let events = [
        text(0),
        text(1),
        end(0, 7),
        text(1),
        text(2),
        end(1, 11),
        end(2, 11),
        "[DONE]".to_owned(),
    ]
    .map(|payload| format!("data: {payload}\n\n"))
    .concat();
    let replies = [
        Reply::status(200, "application/json", whole),
        Reply::events(vec![Step::Body(events.into_bytes())]),
    ];
    for (reply, body) in replies.into_iter().zip([chat("a"), chat_stream("a")]) {
        door.upstream.next(move |_| reply.clone());
        let body = and(body, &json!({"n": 3}));
        let answer = door.user("alice").ask(body).await.expect(200);
        let row = door.row(&answer).await;
        assert_eq!(
            (row.input_tokens, row.output_tokens),
            (Some(10), Some(29)),
            "{row:?}"
        );
        assert!(row.flags.is_empty(), "{row:?}");
    }
    door.close().await;
}
