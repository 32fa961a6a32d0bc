//! What an upstream says went wrong, in every shape in which servers say it: who is told what, and who pays.

use std::time::Duration;

use serde_json::json;

use crate::hostile_upstream::both_ways;
use crate::support::caller::{Call, chat, chat_stream};
use crate::support::door::Door;
use crate::support::reply::{Reply, Step, Talk};
use crate::support::settings::Settings;

fn says(status: u16, body: &str) -> Reply {
    Reply::status(status, "application/json", body)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_message_of_a_refusal_reaches_the_user_in_whatever_shape_it_comes() {
    let door = Door::open(Settings::new()).await;
    let shapes = [
        r#"{"object":"error","message":"Too long by 7.","type":"BadRequestError","code":400}"#,
        r#"{"detail":"Too long by 7."}"#,
        r#"{"detail":[{"loc":["body","messages",0],"msg":"Too long by 7.","type":"value_error"}]}"#,
        r#"{"message":{"detail":[{"msg":"Too long by 7."}]}}"#,
        r#"[{"error":{"code":400,"message":"Too long by 7.","status":"INVALID_ARGUMENT"}}]"#,
        r#"{"error":"Too long by 7."}"#,
        r#"{"code":"Client specified an invalid argument","error":"Too long by 7."}"#,
        r#"{"error":{"message":"Provider returned error","metadata":{"raw":"{\"detail\":\"Too long by 7.\"}"}}}"#,
    ];
    for status in [400, 422] {
        for shape in shapes {
            for (answer, row) in both_ways(&door, move |_| says(status, shape)).await {
                let error = answer.expect(status).json()["error"].clone();
                assert_eq!(error["message"], "Too long by 7.", "{shape}");
                assert!(
                    error["code"].is_string() && error["type"] == "invalid_request_error",
                    "{error}"
                );
                assert_eq!(row.expect("a row").state, "voided", "{shape}");
            }
        }
    }
    // What is about the operator is taken out of these as well.
    let told = r#"{"detail":"Too long by 7 for org-canary1 at https://canary.example"}"#;
    for (answer, _) in both_ways(&door, move |_| says(422, told)).await {
        assert!(
            !answer.clone().expect(422).text().contains("canary"),
            "{}",
            answer.text()
        );
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_operators_key_is_told_by_its_words_whatever_its_status() {
    let google = r#"{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID","domain":"googleapis.com"}]}}"#;
    let listed = format!("[{google}]");
    let xai = r#"{"code":"Client specified an invalid argument","error":"Incorrect API key provided: xa***key. You can obtain one."}"#;
    for body in [google.to_owned(), listed, xai.to_owned()] {
        let door = Door::open(Settings::new()).await;
        for (answer, row) in both_ways(&door, move |_| says(400, &body)).await {
            answer.refused(502, "upstream_error");
            assert_eq!(row.expect("a row").state, "voided");
        }
        let health =
            door.send(Call::get("/health/ready")).await.json()["parts"]["upstreams"]["openai"]
                .clone();
        assert_eq!(health["last_error"], "unauthorized", "{health}");
        assert!(
            door.process
                .output()
                .contains("\"failure\":\"unauthorized\""),
            "{}",
            door.process.tail()
        );
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_caller_can_cause_is_no_outage_of_the_upstream() {
    let door = Door::open(Settings::new()).await;
    let refusals = [
        (
            403,
            r#"{"error":{"message":"Your input was flagged.","code":403,"metadata":{"reasons":["x"]}}}"#,
        ),
        (
            403,
            r#"{"error":{"message":"No access to this model.","code":"model_not_found"}}"#,
        ),
        (
            403,
            r#"{"error":{"message":"No.","status":"PERMISSION_DENIED"}}"#,
        ),
        (403, "<html>blocked by a firewall</html>"),
        (
            404,
            r#"{"error":{"message":"The model does not exist.","code":"model_not_found"}}"#,
        ),
        (
            400,
            r#"{"error":{"message":"Invalid name 'invalid_api_key'.","param":"invalid_api_key"}}"#,
        ),
        (413, r#"{"error":{"message":"Too large."}}"#),
        (504, ""),
        (524, ""),
    ];
    for (status, body) in refusals {
        for _ in 0..2 {
            both_ways(&door, move |_| says(status, body)).await;
        }
        door.send(Call::get("/health/ready")).await.expect(200);
    }
    door.close_unjudged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_too_large_for_the_upstream_is_not_too_large_for_us() {
    let door = Door::open(Settings::new()).await;
    let groq = r#"{"error":{"message":"Request too large for model `x` on tokens per minute (TPM): Limit 6000, Requested 7000.","type":"tokens","code":"rate_limit_exceeded"}}"#;
    for (body, message) in [
        (groq, "Limit 6000, Requested 7000."),
        ("<html>Entity Too Large</html>", "invalid"),
    ] {
        for (answer, row) in both_ways(&door, move |_| says(413, body)).await {
            let told = answer.expect(400).json()["error"]["message"]
                .as_str()
                .unwrap()
                .to_owned();
            assert!(told.contains(message), "{told}");
            assert_eq!(row.expect("a row").state, "voided");
        }
    }
    door.close_unjudged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_the_upstream_asks_for_is_passed_on_rounded_up() {
    let door = Door::open(Settings::new()).await;
    let delay = r#"{"error":{"code":429,"message":"Slow.","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"39.2s"}]}}"#;
    for status in [429, 503, 529] {
        for (header, value, body, wait) in [
            ("Retry-After", "1.9", "{}", "2"),
            ("Retry-After", "17", "{}", "17"),
            ("retry-after-ms", "2500", "{}", "3"),
            ("X-Nothing", "0", delay, "40"),
            ("Retry-After", "7", delay, "7"),
        ] {
            for (answer, row) in
                both_ways(&door, move |_| says(status, body).header(header, value)).await
            {
                let answer = answer.refused(503, "upstream_unavailable");
                assert_eq!(
                    answer.header("retry-after"),
                    wait,
                    "{status} {header}: {value}"
                );
                assert_eq!(row.expect("a row").state, "voided");
            }
        }
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_comes_after_the_work_is_not_free() {
    let azure = r#"{"error":{"message":"The response was filtered due to the prompt triggering the content management policy.","param":"prompt","code":"content_filter","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#;
    let output = r#"{"error":{"message":"Output data may contain inappropriate content.","code":"data_inspection_failed"}}"#;
    let reached = r#"{"error":{"message":"Could not finish the message because max_tokens or model output limit was reached.","type":"invalid_request_error"}}"#;
    let tool = r#"{"error":{"message":"Failed to call a function.","code":"tool_use_failed","failed_generation":"<x>"}}"#;
    let door = Door::open(Settings::new()).await;
    for (status, body, told, state, whole) in [
        (400, azure, 400, "settled", false),
        (400, output, 400, "settled", true),
        (403, azure, 400, "settled", false),
        (400, reached, 400, "lost", true),
        (400, tool, 400, "lost", true),
        (408, "", 504, "lost", true),
        (499, "", 502, "lost", true),
        (504, "", 504, "lost", true),
        (524, "<html>A timeout occurred</html>", 504, "lost", true),
    ] {
        for (answer, row) in both_ways(&door, move |_| says(status, body)).await {
            answer.expect(told);
            let row = row.expect("a row");
            assert_eq!(row.state, state, "{status} {body}: {row:?}");
            assert_eq!(
                row.cost_micros == row.held_micros,
                whole,
                "{status} {body}: {row:?}"
            );
            assert!(
                row.cost() > 0 && (state == "lost" || row.has("estimated")),
                "{status} {body}: {row:?}"
            );
            if !whole {
                assert_eq!(row.output_tokens, Some(0), "the prompt alone: {row:?}");
            }
        }
    }
    for status in [500, 502, 503, 520, 522, 529] {
        for (_, row) in both_ways(&door, move |_| says(status, "{}")).await {
            assert_eq!(row.expect("a row").state, "voided", "{status}");
        }
    }
    door.close_unjudged();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_in_place_of_an_answer_is_free_whatever_its_status() {
    let door = Door::open(Settings::new()).await;
    for (body, status, code) in [
        (
            r#"{"error":{"message":"Overloaded org-canary.","type":"server_error","code":null}}"#,
            502,
            "upstream_error",
        ),
        (
            r#"{"error":{"message":"Slow.","code":429}}"#,
            503,
            "upstream_unavailable",
        ),
        (
            r#"{"object":"error","message":"x","code":40001}"#,
            502,
            "upstream_error",
        ),
        (r#"{"error":"x","choices":[]}"#, 502, "upstream_error"),
        (r#"{"message":"x","code":"y"}"#, 502, "upstream_error"),
    ] {
        door.upstream.always(move |_| says(200, body));
        let answer = door
            .user("alice")
            .ask(chat("a"))
            .await
            .refused(status, code);
        assert!(!answer.text().contains("canary"), "{}", answer.text());
        let row = door.row(&answer).await;
        assert_eq!(
            (row.state.as_str(), row.cost()),
            ("voided", 0),
            "{body}: {row:?}"
        );
    }
    for error in [
        r#"{"error":{"message":"x","type":"server_error","code":null}}"#,
        r#"{"error":{"message":"x","code":429}}"#,
    ] {
        door.upstream.always(move |_| {
            Reply::events(vec![Step::Body(format!("data: {error}\n\n").into_bytes())])
        });
        let answer = door.user("alice").ask(chat_stream("a")).await.expect(200);
        assert!(
            answer.text().contains("upstream_error") && !answer.text().contains("[DONE]"),
            "{}",
            answer.text()
        );
        let row = door.row(&answer).await;
        assert_eq!(
            (row.state.as_str(), row.cost()),
            ("voided", 0),
            "{error}: {row:?}"
        );
    }
    // After content it is no longer free.
    door.upstream.always(|seen| {
        let mut reply = Talk::words(3).without_usage().reply(seen);
        reply.steps.truncate(4);
        reply.steps.push(Step::Body(
            b"data: {\"error\":{\"message\":\"x\"}}\n\n".to_vec(),
        ));
        reply
    });
    let answer = door.user("alice").ask(chat_stream("a")).await.expect(200);
    let row = door.row(&answer).await;
    assert_eq!(
        (row.state.as_str(), row.output_tokens),
        ("settled", Some(3)),
        "{row:?}"
    );
    door.close_unjudged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_know_a_member_of_ours_is_told_of_with_the_line_to_write() {
    let local = |more: &str| {
        Settings::new().with(&format!(
            "[[upstreams]]\nname = \"local\"\nbase_url = \"{{upstream}}\"\napi_key_env = \"OPENAI_API_KEY\"\nmodels = [\"*\"]\n{more}"
        ))
    };
    let refuses = |name: &'static str| {
        move |seen: &crate::support::upstream::Seen| {
            if seen.request.method == "GET" {
                return says(
                    200,
                    &json!({"data": [{"id": "gpt-4o-mini"}, {"id": "gpt-4o"}]}).to_string(),
                );
            }
            if seen.body.get(name).is_none() {
                return Talk::words(5).reply(seen);
            }
            let body = json!({"detail": [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}]});
            Reply::status(422, "application/json", body.to_string())
        }
    };
    for (name, line, more) in [
        (
            "stream_options",
            "stream_usage = false",
            "stream_usage = false",
        ),
        (
            "max_tokens",
            "cap_name = \"max_completion_tokens\"",
            "cap_name = \"max_completion_tokens\"",
        ),
    ] {
        let door = Door::open(local("")).await;
        door.upstream.always(refuses(name));
        door.user("alice").ask(chat_stream("a")).await.expect(422);
        let in_log = line.replace('"', "\\\"");
        door.process.until_it_says(&in_log).await;
        let told = door.tollgate(&["doctor"]);
        assert!(told.stdout.contains(line), "{}{}", told.stdout, told.stderr);
        door.close_unjudged();

        let door = Door::open(local(more)).await;
        door.upstream.always(refuses(name));
        let answer = door.user("alice").ask(chat_stream("a")).await.expect(200);
        let row = door.row(&answer).await;
        assert_eq!(
            (row.state.as_str(), row.output_tokens),
            ("settled", Some(5)),
            "{row:?}"
        );
        assert!(
            !door
                .tollgate(&["doctor"])
                .stdout
                .contains("requests to local")
        );
        door.close_unjudged();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_of_an_answer_is_waited_for_no_longer_than_all_of_it() {
    let door = Door::open(Settings::new().with(r#"proxy.total_timeout = "1s""#)).await;
    for (answer, row) in both_ways(&door, |seen| {
        Talk::words(5).reply(seen).after(Duration::from_secs(9))
    })
    .await
    {
        answer.refused(504, "upstream_timeout");
        let row = row.expect("a row");
        assert_eq!(
            (row.state.as_str(), row.cost_micros),
            ("lost", row.held_micros),
            "{row:?}"
        );
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_in_the_other_form_is_delivered_in_the_one_that_was_asked_for_and_priced_once() {
    let door = Door::open(Settings::new()).await;
    for kind in ["", "text/plain", "application/json", "text/event-stream"] {
        door.upstream.always(move |seen| {
            let mut other = seen.clone();
            other.body["stream"] = json!(!seen.is_stream());
            other.body["stream_options"] = json!({"include_usage": true});
            let mut reply = Talk::words(5).reply(&other);
            reply.headers.retain(|(name, _)| name != "Content-Type");
            if !kind.is_empty() {
                reply
                    .headers
                    .push(("Content-Type".to_owned(), kind.to_owned()));
            }
            reply
        });
        let stream = door.user("alice").ask(chat_stream("a")).await.expect(200);
        assert_eq!(
            (stream.said(), stream.events().last().unwrap().as_str()),
            (" alpha".repeat(5), "[DONE]"),
            "{kind}"
        );
        assert!(
            stream
                .header("content-type")
                .starts_with("text/event-stream"),
            "{kind}"
        );
        let whole = door.user("alice").ask(chat("a")).await.expect(200);
        assert_eq!(
            whole.json()["choices"][0]["message"]["content"],
            " alpha".repeat(5),
            "{kind}"
        );
        for answer in [stream, whole] {
            let row = door.row(&answer).await;
            assert_eq!(
                (row.state.as_str(), row.output_tokens, row.has("estimated")),
                ("settled", Some(5), false),
                "{row:?}"
            );
        }
    }
    door.close().await;
}
