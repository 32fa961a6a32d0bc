//! `/v1/moderations`, and plans that have what their users say checked, from the door.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::caller::{Answer, User, and, chat, chat_stream};
use crate::support::door::Door;
use crate::support::embeddings::embed;
use crate::support::reply::{Reply, Step};
use crate::support::settings::Settings;
use crate::support::upstream::Served;

const PATH: &str = "/v1/moderations";
/// A PNG of one pixel, as far as its header.
const PICTURE: &str = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAAB";

fn settings() -> Settings {
    Settings::new()
        .with(r#"plans.free.models = ["gpt-4o-mini", "omni-moderation-latest", "gpt-4o"]"#)
}

/// A plan with moderation, and limits that have room for little.
fn moderated() -> Settings {
    Settings::new().with(
        r#"
        [plans.free]
        models = ["gpt-4o-mini", "gpt-4o", "text-embedding-3-small"]
        moderate = "input"
        "#,
    )
}

async fn ask(user: &User, body: Value) -> Answer {
    user.post(PATH, &body).await
}

fn checks(served: &[Served]) -> Vec<Value> {
    let checks = served.iter().filter(|served| served.seen.is_moderation());
    checks
        .map(|served| served.seen.body["input"].clone())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn moderation_is_free_counts_as_a_request_and_passes_as_it_came() {
    let door = Door::open(
        settings().with(r#"plans.free.limits = [{ per = "day", requests = 6 }, { per = "day", tokens = 1 }, { per = "day", cost_usd = "0.000001" }]"#),
    )
    .await;
    let alice = door.user("alice");
    let picture = |url: &str| json!({"type": "image_url", "image_url": {"url": url}});
    let inputs = [
        json!("a long text ".repeat(5000)),
        json!(["one", "two flag:violence"]),
        json!([{"type": "text", "text": "a"}, picture(PICTURE)]),
        json!([picture("https://example.com/a.png")]),
        json!(""),
    ];
    for input in &inputs {
        let answer = ask(&alice, json!({"input": input})).await.expect(200);
        let seen = door.upstream.last();
        assert_eq!(
            seen.seen.body,
            json!({"model": "omni-moderation-latest", "input": input})
        );
        assert_eq!(answer.json()["model"], "omni-moderation-latest");
        let row = door.row(&answer).await;
        let told = (row.endpoint.as_deref(), row.state.as_str(), row.cost_micros);
        assert_eq!(told, (Some(PATH), "settled", Some(0)), "{row:?}");
        let counted = (row.held_micros, row.tokens(), row.flags.len());
        assert_eq!(counted, (Some(0), 0, 0), "{row:?}");
    }
    let flagged = ask(&alice, json!({"input": ["a", "flag:violence"]}))
        .await
        .expect(200);
    assert_eq!(flagged.json()["results"][1]["categories"]["violence"], true);
    let limits = alice.me().await["limits"].clone();
    let used: Vec<_> = (0..3).map(|place| limits[place]["used"].clone()).collect();
    assert_eq!(used, [json!(6), json!(0), json!("0.000000")]);
    ask(&alice, json!({"input": "a"}))
        .await
        .refused(402, "quota_exceeded");
    door.close().await;
}

#[allow(clippy::too_many_lines, reason = "one list of cases")]
#[tokio::test(flavor = "multi_thread")]
async fn what_moderation_does_not_take_is_refused_by_name() {
    let door = Door::open(settings()).await;
    let alice = door.user("alice");
    let part = |part: Value| json!({"input": [part]});
    let image = |url: Value| part(json!({"type": "image_url", "image_url": {"url": url}}));
    let cases = [
        (json!({}), "invalid_request", "input"),
        (json!({"input": []}), "invalid_request", "input"),
        (json!({"input": 7}), "invalid_request", "input"),
        (
            json!({"input": ["a", {"type": "text", "text": "a"}]}),
            "invalid_request",
            "input",
        ),
        (
            json!({"input": vec!["a"; 2049]}),
            "invalid_request",
            "input",
        ),
        (
            json!({"input": "a", "user": "me"}),
            "unsupported_field",
            "user",
        ),
        (
            part(json!({"text": "a"})),
            "invalid_request",
            "input[0].type",
        ),
        (
            part(json!({"type": "text"})),
            "invalid_request",
            "input[0].text",
        ),
        (
            part(json!({"type": "audio", "text": "a"})),
            "unsupported_field",
            "input[0].type",
        ),
        (
            part(json!({"type": "text", "text": "a", "image_url": {"url": PICTURE}})),
            "invalid_request",
            "input[0].image_url",
        ),
        (
            part(json!({"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}})),
            "unsupported_field",
            "input[0].image_url.detail",
        ),
        (
            image(json!(null)),
            "invalid_request",
            "input[0].image_url.url",
        ),
        (
            image(json!("http://127.0.0.1/a")),
            "invalid_request",
            "input[0].image_url.url",
        ),
        (
            image(json!("data:image/png;base64,*")),
            "invalid_request",
            "input[0].image_url.url",
        ),
    ];
    for (body, code, param) in cases {
        let answer = ask(&alice, body.clone()).await.refused(400, code);
        let shown: String = body.to_string().chars().take(80).collect();
        assert_eq!(
            answer.json()["error"]["param"],
            param,
            "{shown}: {}",
            answer.text()
        );
    }
    for model in ["gpt-4o-mini", "omni-moderation-2024-09-26"] {
        let body = json!({"model": model, "input": "a"});
        ask(&alice, body).await.refused(403, "model_not_allowed");
    }
    alice
        .ask(and(chat("a"), &json!({"model": "omni-moderation-latest"})))
        .await
        .refused(403, "model_not_allowed");
    assert_eq!((door.upstream.count(), door.ledger_rows().len()), (0, 0));
    door.upstream
        .next(|_| Reply::status(200, "application/json", r#"{"results": []}"#));
    ask(&alice, json!({"input": "a"}))
        .await
        .refused(502, "upstream_error");
    door.close().await;

    // Without the provider's default: the first that serves it, at its price, if it has one.
    let door = Door::open(Settings::new().with(
        r#"
        [prices.sorter]
        input = "1"
        output = "0"
        endpoints = ["moderations"]
        [plans.free]
        models = ["gpt-4o-mini", "sorter"]
        "#,
    ))
    .await;
    let alice = door.user("alice");
    let answer = ask(&alice, json!({"input": ["one two", "three"]}))
        .await
        .expect(200);
    let row = door.row(&answer).await;
    assert_eq!(row.model.as_deref(), Some("sorter"));
    assert!(row.cost() >= 3 && row.has("estimated"), "{row:?}");
    let body = json!({"input": [{"type": "image_url", "image_url": {"url": PICTURE}}]});
    let refused = ask(&alice, body).await.refused(400, "unsupported_field");
    assert_eq!(refused.json()["error"]["param"], "input[0].image_url");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_says_is_checked_before_it_is_sent_and_never_charged() {
    let limits = r#"plans.free.limits = [{ per = "day", requests = 4 }, { per = "minute", requests = 100 }]"#;
    let door = Door::open(moderated().with(limits)).await;
    let alice = door.user("alice");

    for body in [
        chat("flag:violence flag:harassment"),
        chat_stream("flag:violence flag:harassment"),
    ] {
        let refused = alice.ask(body).await.refused(400, "content_flagged");
        let error = refused.json()["error"].clone();
        assert_eq!(error["categories"], json!(["harassment", "violence"]));
        assert!(
            error["message"].as_str().unwrap().contains("violence"),
            "{error}"
        );
        let row = door.row(&refused).await;
        assert_eq!((row.state.as_str(), row.cost()), ("voided", 0));
        assert_eq!(row.flags, ["content_flagged"]);
    }
    let asked = door.upstream.log();
    assert!(asked.iter().all(|served| served.seen.is_moderation()));
    let me = alice.me().await;
    assert_eq!(
        (&me["limits"][0]["used"], &me["limits"][1]["used"]),
        (&json!(0), &json!(0))
    );

    // A stream and a whole answer, each checked once; a key is freed by a flagged run, and checked once by a kept one.
    for body in [chat("good"), chat_stream("good")] {
        let before = checks(&door.upstream.log()).len();
        alice.ask(body).await.expect(200);
        assert_eq!(checks(&door.upstream.log()).len(), before + 1);
    }
    let keyed = |body: &Value| alice.call(body).header("idempotency-key", "k");
    door.send(keyed(&chat("flag:violence")))
        .await
        .refused(400, "content_flagged");
    let good = chat("good");
    let before = checks(&door.upstream.log()).len();
    door.send(keyed(&good)).await.expect(200);
    let again = door.send(keyed(&good)).await.expect(200);
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(checks(&door.upstream.log()).len(), before + 1);

    // Who has reached a limit asks for nothing.
    alice.ask(chat("good")).await.expect(200);
    let before = door.upstream.count();
    alice
        .ask(chat("flag:violence"))
        .await
        .refused(402, "quota_exceeded");
    assert_eq!(door.upstream.count(), before);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_was_said_since_the_last_answer_is_checked_and_nothing_else() {
    let door = Door::open(moderated().with(
        r#"
        [prompts.greet]
        model = "gpt-4o-mini"
        system = "Greet {{name}}."
        "#,
    ))
    .await;
    let alice = door.user("alice");
    let message = |role: &str, text: &str| json!({"role": role, "content": text});
    let call = json!({"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]});
    let result = json!({"role": "tool", "tool_call_id": "c", "content": "found"});
    let picture = json!({"role": "user", "content": [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": PICTURE}},
        {"type": "image_url", "image_url": {"url": "https://example.com/b.png"}},
    ]});
    let (system, old, answer, new) = (
        message("system", "be kind"),
        message("user", "old"),
        message("assistant", "sure"),
        message("user", "new"),
    );
    let image = |url: &str| json!({"type": "image_url", "image_url": {"url": url}});
    let cases = [
        (json!([system, old]), vec![json!("old")]),
        (json!([system, old, answer, new]), vec![json!("new")]),
        (
            json!([system, old, answer, new, system]),
            vec![json!("new\n\nbe kind")],
        ),
        (json!([old, answer, new, call, result]), vec![json!("new")]),
        (json!([old, answer]), vec![json!("old\n\nsure")]),
        (json!([system]), vec![json!("be kind")]),
        (
            json!([old, answer, picture]),
            vec![
                json!([{"type": "text", "text": "see"}, image(PICTURE)]),
                json!([image("https://example.com/b.png")]),
            ],
        ),
    ];
    let mut seen = 0;
    for (messages, questions) in cases {
        alice
            .ask(json!({"model": "gpt-4o", "messages": messages}))
            .await
            .expect(200);
        let mut asked = checks(&door.upstream.log()).split_off(seen);
        seen += asked.len();
        asked.sort_by_key(|question| std::cmp::Reverse(question.to_string().len()));
        let mut questions = questions;
        questions.sort_by_key(|question| std::cmp::Reverse(question.to_string().len()));
        assert_eq!(asked, questions, "{messages}");
    }
    let prompt = json!({"variables": {"name": "Bob flag:violence"}, "messages": [new]});
    alice
        .post("/api/prompts/greet", &prompt)
        .await
        .refused(400, "content_flagged");
    assert_eq!(
        checks(&door.upstream.log())[seen],
        "Bob flag:violence\n\nnew"
    );
    let flagged = alice.post("/v1/embeddings", &embed("flag:violence")).await;
    flagged.refused(400, "content_flagged");
    let tokens = alice
        .post("/v1/embeddings", &json!({"input": [1, 2]}))
        .await;
    assert_eq!(
        tokens.refused(400, "unsupported_field").json()["error"]["param"],
        "input"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_checked_is_not_sent() {
    let door = Door::open(moderated().with(r#"server.admin_bind = "127.0.0.1:0""#)).await;
    let alice = door.user("alice");
    let answers: [Reply; 5] = [
        Reply::error(429, "slow", "No."),
        Reply::error(400, "bad", "No."),
        Reply::status(200, "application/json", r#"{"results": [{}]}"#),
        Reply::status(200, "text/html", "<html>"),
        Reply::headless(Step::Reset),
    ];
    for reply in answers {
        door.upstream.next(move |_| reply.clone());
        let refused = alice
            .ask(chat("good"))
            .await
            .refused(503, "upstream_unavailable");
        assert_eq!(door.row(&refused).await.state, "voided");
    }
    // Three seconds, and no longer; a caller who leaves before is charged nothing.
    door.upstream.next(|_| Reply::headless(Step::Stall));
    let left = alice.begin(chat("good")).await;
    door.upstream.until_served(6).await;
    left.hang_up();
    door.upstream.next(|_| Reply::headless(Step::Stall));
    let begun = std::time::Instant::now();
    alice
        .ask(chat("good"))
        .await
        .refused(503, "upstream_unavailable");
    assert!(
        (2..6).contains(&begun.elapsed().as_secs()),
        "{:?}",
        begun.elapsed()
    );
    assert!(
        door.upstream
            .log()
            .iter()
            .all(|served| served.seen.is_moderation())
    );
    alice.ask(chat("good")).await.expect(200);
    let _ = Duration::ZERO;
    door.close().await;

    let refused = Door::refused_to_start(moderated().with(
        r#"
        [[upstreams]]
        name = "local"
        base_url = "{upstream}"
        api_key_env = "OPENAI_API_KEY"
        models = ["gpt-*", "text-*"]
        "#,
    ))
    .await;
    assert!(
        refused.stderr.contains("plans.free.moderate"),
        "{}",
        refused.stderr
    );
}
