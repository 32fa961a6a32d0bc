//! `/v1/embeddings` from the door: what it takes, what it holds, what it is charged, and which models serve what.

use serde_json::{Value, json};

use crate::support::caller::{Answer, User, and, chat};
use crate::support::door::Door;
use crate::support::embeddings::{embed, honest, reply};
use crate::support::reply::{Bill, Books, Reply, Step};
use crate::support::settings::Settings;

const PATH: &str = "/v1/embeddings";

/// A plan with a model of each kind; the first is one for chats.
fn settings() -> Settings {
    Settings::new().with(r#"plans.free.models = ["gpt-4o-mini", "text-embedding-3-small"]"#)
}

/// The same with other limits.
fn limited(limits: &str) -> Settings {
    settings().with(&format!("plans.free.limits = [{limits}]"))
}

async fn ask(user: &User, body: Value) -> Answer {
    user.post(PATH, &body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_passes_as_it_came_and_is_charged_as_reported() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    let body = and(
        embed("The quick brown fox"),
        &json!({"encoding_format": "float", "dimensions": 2, "user": "somebody"}),
    );
    let answer = ask(&alice, body.clone()).await.expect(200);

    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.json()["data"][0]["embedding"], json!([0.25, -0.5]));
    let sent = door.upstream.last().seen.body.clone();
    assert_eq!(
        (
            &sent["model"],
            &sent["input"],
            &sent["dimensions"],
            &sent["encoding_format"]
        ),
        (&body["model"], &body["input"], &json!(2), &json!("float"))
    );
    let user = sent["user"].as_str().unwrap();
    assert!(user.len() >= 16 && user != "somebody", "{user}");
    let row = door.row(&answer).await;
    assert_eq!(
        (
            row.endpoint.as_deref(),
            row.model.as_deref(),
            row.state.as_str()
        ),
        (Some(PATH), Some("text-embedding-3-small"), "settled")
    );
    // Six words at two cents a million tokens, rounded up.
    assert_eq!(
        (row.input_tokens, row.output_tokens, row.cost_micros),
        (Some(6), Some(0), Some(1))
    );
    assert!(
        row.flags.is_empty() && row.held_micros >= row.cost_micros,
        "{row:?}"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_input_is_sent_as_it_came_and_held_by_its_tokens() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    for (input, tokens) in [
        (json!(["one", "two words"]), 3),
        (json!([1212, 318, 257, 1332, 13]), 5),
        (json!([[1212, 318], [257]]), 3),
        (json!(vec![7; 8192]), 8192),
    ] {
        let body = json!({"model": "text-embedding-3-small", "input": input});
        let answer = ask(&alice, body).await.expect(200);
        assert_eq!(door.upstream.last().seen.body["input"], input);
        let row = door.row(&answer).await;
        assert_eq!(
            (row.input_tokens, row.flags.len()),
            (Some(tokens), 0),
            "{row:?}"
        );
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_endpoint_does_not_take_is_refused_by_name() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    let cases = [
        (json!({"input": null}), "invalid_request", "input"),
        (json!({"input": ""}), "invalid_request", "input"),
        (json!({"input": []}), "invalid_request", "input"),
        (json!({"input": ["a", ""]}), "invalid_request", "input[1]"),
        (json!({"input": [[1], []]}), "invalid_request", "input[1]"),
        (json!({"input": ["a", 1]}), "invalid_request", "input"),
        (json!({"input": [1, -1]}), "invalid_request", "input[1]"),
        (json!({"input": [1.5]}), "invalid_request", "input[0]"),
        (
            json!({"input": [[1, "a"]]}),
            "invalid_request",
            "input[0][1]",
        ),
        (json!({"input": {"a": 1}}), "invalid_request", "input"),
        (
            json!({"input": vec!["a"; 2049]}),
            "invalid_request",
            "input",
        ),
        (json!({"input": vec![1; 8193]}), "invalid_request", "input"),
        (
            json!({"input": [vec![1; 8193]]}),
            "invalid_request",
            "input[0]",
        ),
        (
            json!({"input": vec!["a"; 1500]}),
            "invalid_request",
            "input",
        ),
        (
            json!({"encoding_format": "int8"}),
            "invalid_request",
            "encoding_format",
        ),
        (json!({"dimensions": 0}), "invalid_request", "dimensions"),
        (json!({"dimensions": "2"}), "invalid_request", "dimensions"),
        (json!({"stream": true}), "unsupported_field", "stream"),
        (
            json!({"input_type": "query"}),
            "unsupported_field",
            "input_type",
        ),
        (
            json!({"input": "word ".repeat(16_001)}),
            "invalid_request",
            "input",
        ),
    ];
    for (fields, code, param) in cases {
        let answer = ask(&alice, and(embed("a"), &fields))
            .await
            .refused(400, code);
        let shown: String = fields.to_string().chars().take(80).collect();
        assert_eq!(
            answer.json()["error"]["param"],
            param,
            "{shown}: {}",
            answer.text()
        );
    }
    assert_eq!((door.upstream.count(), door.ledger_rows().len()), (0, 0));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_serves_its_endpoints_and_no_others() {
    let door = Door::open(settings().with(
        r#"
        [prices.local-embedder]
        free = true
        endpoints = ["embeddings"]
        [prices.local-all]
        free = true
        endpoints = ["chat", "embeddings"]
        [plans.local]
        models = ["local-embedder", "local-all"]
        "#,
    ))
    .await;
    let alice = door.user("alice");
    let in_plan = |plan: &str| json!({"app_metadata": {"plan": plan}});
    let bob = door.user_with("bob", &in_plan("local"));

    let wrong = ask(&alice, and(embed("a"), &json!({"model": "gpt-4o-mini"}))).await;
    let message = wrong.refused(403, "model_not_allowed").json()["error"]["message"].to_string();
    assert!(
        message.contains("text-embedding-3-small") && !message.contains("It has: gpt"),
        "{message}"
    );
    alice
        .ask(and(chat("a"), &json!({"model": "text-embedding-3-small"})))
        .await
        .refused(403, "model_not_allowed");
    bob.ask(and(chat("a"), &json!({"model": "local-embedder"})))
        .await
        .refused(403, "model_not_allowed");

    // Without a model: the first of the plan that serves the endpoint.
    for (user, path, body, model) in [
        (&alice, PATH, embed("a"), "text-embedding-3-small"),
        (&alice, "/v1/chat/completions", chat("a"), "gpt-4o-mini"),
        (&bob, PATH, embed("a"), "local-embedder"),
        (&bob, "/v1/chat/completions", chat("a"), "local-all"),
    ] {
        let mut body = body;
        body.as_object_mut().unwrap().remove("model");
        let answer = user.post(path, &body).await.expect(200);
        assert_eq!(door.row(&answer).await.model.as_deref(), Some(model));
    }
    let listed = alice.get("/v1/models").await.expect(200).json();
    assert_eq!(listed["data"][1]["id"], "text-embedding-3-small");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_without_a_model_for_it_refuses_the_endpoint() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    let body = json!({"input": "a"});
    ask(&alice, body).await.refused(403, "model_not_allowed");
    assert_eq!(door.upstream.count(), 0);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_in_requests_tokens_and_cost_hold_for_embeddings_too() {
    let door = Door::open(limited(r#"{ per = "day", requests = 1 }"#)).await;
    let alice = door.user("alice");
    ask(&alice, embed("a")).await.expect(200);
    let refused = ask(&alice, embed("a")).await.refused(402, "quota_exceeded");
    assert_eq!(refused.json()["error"]["limit"]["unit"], "requests");
    door.close().await;

    // Sixty words are far more bytes: they fit only as the tokenizer counts them.
    let door = Door::open(limited(r#"{ per = "day", tokens = 100 }"#)).await;
    let alice = door.user("alice");
    let body = and(embed(""), &json!({"input": "word ".repeat(60)}));
    ask(&alice, body.clone()).await.expect(200);
    let refused = ask(&alice, body).await.refused(402, "quota_exceeded");
    assert_eq!(refused.json()["error"]["limit"]["unit"], "tokens");
    let refused = ask(&alice, json!({"input": vec![1; 101]})).await;
    refused.refused(402, "quota_exceeded");
    door.close().await;

    // A thousand tokens at two cents a million are twenty millionths of a dollar.
    let door = Door::open(limited(r#"{ per = "hour", cost_usd = "0.000030" }"#)).await;
    let alice = door.user("alice");
    ask(&alice, json!({"input": vec![1; 1000]}))
        .await
        .expect(200);
    let refused = ask(&alice, json!({"input": vec![1; 1000]})).await;
    let refused = refused.refused(429, "rate_limited");
    assert_eq!(refused.json()["error"]["limit"]["unit"], "cost_usd");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_that_is_missing_or_nonsense_is_counted() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    let usages = [
        (None, false),
        (Some(json!({})), true),
        (Some(json!({"prompt_tokens": 0, "total_tokens": 0})), true),
        (Some(json!({"prompt_tokens": -3})), true),
    ];
    for (usage, is_nonsense) in usages {
        door.upstream.next(move |seen| reply(seen, usage.as_ref()));
        let answer = ask(&alice, json!({"input": ["one two three", "four"]}))
            .await
            .expect(200);
        let row = door.row(&answer).await;
        assert_eq!(
            (row.state.as_str(), row.input_tokens),
            ("settled", Some(4)),
            "{row:?}"
        );
        assert_eq!(
            (row.has("estimated"), row.has("usage_nonsense")),
            (true, is_nonsense),
            "{row:?}"
        );
    }
    // The total is among what is reported.
    door.upstream
        .next(|seen| reply(seen, Some(&json!({"prompt_tokens": 3, "total_tokens": 5}))));
    let answer = ask(&alice, json!({"input": [1, 2, 3, 4, 5]}))
        .await
        .expect(200);
    assert_eq!(door.row(&answer).await.input_tokens, Some(5));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_fails_is_told_and_charged_as_for_a_chat() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    let json = "application/json";
    let worked = Books {
        whole: Bill {
            prompt: 3,
            ..Bill::default()
        },
        works_on: true,
        ..Books::default()
    };
    let cases: [(Reply, u16, &str, &str); 6] = [
        (
            Reply::error(400, "bad_input", "No."),
            400,
            "bad_input",
            "voided",
        ),
        (
            Reply::error(500, "oops", "No."),
            502,
            "upstream_error",
            "voided",
        ),
        (
            Reply::error(429, "slow_down", "No."),
            503,
            "upstream_unavailable",
            "voided",
        ),
        (
            Reply::error(504, "late", "No.").booked(worked),
            504,
            "upstream_timeout",
            "lost",
        ),
        (
            Reply::status(200, json, r#"{"error": {"message": "No."}}"#).booked(Books::free()),
            502,
            "upstream_error",
            "voided",
        ),
        (
            Reply::status(200, json, r#"{"object": "list", "data": []}"#),
            502,
            "upstream_error",
            "settled",
        ),
    ];
    for (reply, status, code, state) in cases {
        door.upstream.next(move |_| reply.clone());
        let answer = ask(&alice, embed("a")).await.refused(status, code);
        let row = door.row(&answer).await;
        assert_eq!(row.state, state, "{code}: {row:?}");
        let charged = if state == "voided" {
            Some(0)
        } else {
            row.held_micros
        };
        assert_eq!(row.cost_micros, charged, "{code}: {row:?}");
    }
    door.upstream.next(|seen| {
        let mut cut = honest(seen);
        let Some(Step::Body(body)) = cut.steps.last_mut() else {
            panic!("an answer has a body");
        };
        body.truncate(20);
        cut.steps.push(Step::Reset);
        cut
    });
    let answer = ask(&alice, embed("a")).await.refused(502, "upstream_error");
    let row = door.row(&answer).await;
    assert_eq!(
        (row.state.as_str(), row.cost_micros),
        ("lost", row.held_micros),
        "{row:?}"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_megabytes_passes_unchanged() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    door.upstream.next(|seen| {
        let vector = "A".repeat(8192);
        let items: Vec<_> = (0..1024)
            .map(|index| json!({"object": "embedding", "index": index, "embedding": vector}))
            .collect();
        let usage = json!({"prompt_tokens": seen.prompt_tokens(), "total_tokens": seen.prompt_tokens()});
        let body = json!({"object": "list", "data": items, "model": "text-embedding-3-small", "usage": usage});
        Reply::status(200, "application/json", body.to_string())
    });
    let inputs = vec!["word"; 1024];
    let body = json!({"input": inputs, "encoding_format": "base64"});
    let answer = ask(&alice, body).await.expect(200);
    let data = answer.json()["data"].as_array().unwrap().len();
    assert_eq!((data, answer.body.len() > 8 * 1024 * 1024), (1024, true));
    let row = door.row(&answer).await;
    assert_eq!(
        (row.input_tokens, row.flags.len()),
        (Some(1024), 0),
        "{row:?}"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_openai_gets_no_user() {
    let settings = settings().with(
        r#"
        [[upstreams]]
        name = "local"
        base_url = "{upstream}"
        api_key_env = "OPENAI_API_KEY"
        models = ["*"]
        dialect = "compatible"
        "#,
    );
    let door = Door::open(settings).await;
    ask(&door.user("alice"), embed("a")).await.expect(200);
    let sent = door.upstream.last().seen.body.clone();
    let names: Vec<_> = sent
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(names, ["model", "input"]);
    door.close().await;
}
