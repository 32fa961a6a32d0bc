//! Who answers when the first candidate cannot: only where it certainly did nothing, under a hold of its own, charged once.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::caller::{Call, User, and, chat, chat_stream};
use crate::support::door::Door;
use crate::support::embeddings::embed;
use crate::support::oracle::Row;
use crate::support::postgres::free_port;
use crate::support::reply::{Bill, Books, Reply, Step, honest};
use crate::support::settings::Settings;
use crate::support::upstream::{Seen, Served};

/// Two upstreams at the fake; `fast` is answered by the first's model, or else by the second's.
const TWO: &str = r#"
plans.free.models = ["fast", "gpt-4o-mini"]
plans.free.limits = [{ per = "day", requests = 1000 }]
[models.fast]
use = ["gpt-4o-mini", "gpt-4o"]
[[upstreams]]
name = "first"
base_url = "{upstream}"
api_key_env = "OPENAI_API_KEY"
models = ["gpt-4o-mini"]
dialect = "openai"
[[upstreams]]
name = "second"
base_url = "{upstream}"
api_key_env = "OPENAI_API_KEY"
models = ["gpt-4o"]
dialect = "openai"
"#;

const FIRST: &str = "gpt-4o-mini";
const SECOND: &str = "gpt-4o";

/// The first's model is answered so, the other honestly.
fn first_says(door: &Door, reply: impl Fn(&Seen) -> Reply + Send + Sync + 'static) {
    door.upstream.always(move |seen| {
        if seen.body["model"] == FIRST {
            reply(seen)
        } else {
            honest(seen)
        }
    });
}

fn fast(body: &Value) -> Value {
    and(body.clone(), &json!({"model": "fast"}))
}

/// The models that the fake was asked for, from this place in its log on.
fn asked(door: &Door, from: usize) -> Vec<String> {
    let log = door.upstream.log();
    let model = |served: &Served| served.seen.body["model"].as_str().unwrap().to_owned();
    log[from..].iter().map(model).collect()
}

/// A success of the first by its own name: no breaker opens.
async fn mend(door: &Door, user: &User) {
    door.upstream.always(honest);
    user.ask(and(chat("Hello"), &json!({"model": FIRST})))
        .await
        .expect(200);
}

fn json_error(status: u16, body: &str) -> Reply {
    Reply::status(status, "application/json", body)
}

/// What the second's model costs.
fn price_of_second(row: &Row) -> i64 {
    let (input, output) = (row.input_tokens.unwrap(), row.output_tokens.unwrap());
    (input * 2_500_000 + output * 10_000_000 + 999_999) / 1_000_000
}

fn is_of_second(row: &Row) {
    assert_eq!(row.model.as_deref(), Some(SECOND), "{row:?}");
    assert_eq!(row.upstream.as_deref(), Some("second"), "{row:?}");
    assert_eq!(row.requested_model.as_deref(), Some("fast"), "{row:?}");
    assert_eq!(row.flags, ["fallback"], "{row:?}");
    assert_eq!(
        (row.state.as_str(), row.cost()),
        ("settled", price_of_second(row))
    );
}

/// Somebody worked for it.
fn worked() -> Books {
    let whole = Bill {
        prompt: 1,
        completion: 1,
        ..Bill::default()
    };
    Books {
        whole,
        works_on: true,
        ..Books::free()
    }
}

type Recipe = fn(&Seen) -> Reply;

/// Nothing was done, for certain.
const FALLS: &[(&str, Recipe)] = &[
    ("429", |_| {
        Reply::error(429, "rate_limit_exceeded", "slow down")
    }),
    ("500", |_| Reply::error(500, "server_error", "oh")),
    ("503", |_| json_error(503, "{}")),
    ("529", |_| json_error(529, "{}")),
    ("the operator's key", |_| {
        Reply::error(401, "invalid_api_key", "no")
    }),
    ("the operator's budget", |_| {
        Reply::error(429, "insufficient_quota", "no")
    }),
    ("the key, as Google says it", |_| {
        json_error(
            400,
            r#"{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT"}}"#,
        )
    }),
    ("no such model", |_| {
        Reply::error(
            404,
            "model_not_found",
            "The model `gpt-4o-mini` does not exist",
        )
    }),
    ("no such model, as 400", |_| {
        json_error(
            400,
            r#"{"object":"error","message":"Invalid model: gpt-4o-mini","type":"invalid_model","code":"1500"}"#,
        )
    }),
    ("an error in place of an answer", |seen| {
        let error = r#"{"error":{"message":"overloaded","code":"overloaded_error"}}"#;
        let reply = if seen.is_stream() {
            Reply::events(vec![Step::Body(format!("data: {error}\n\n").into_bytes())])
        } else {
            json_error(200, error)
        };
        reply.booked(Books::free())
    }),
    ("an error before content", |seen| {
        if !seen.is_stream() {
            return json_error(500, "{}");
        }
        let role = r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-4o-mini","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#;
        let error = r#"{"error":{"message":"overloaded"}}"#;
        let events =
            [role, error].map(|event| Step::Body(format!("data: {event}\n\n").into_bytes()));
        Reply::events(events.to_vec()).booked(Books::free())
    }),
];

/// It was refused itself, or nobody knows what was done.
const STAYS: &[(&str, Recipe)] = &[
    ("400", |_| {
        Reply::error(400, "invalid_value", "temperature is too high")
    }),
    ("413", |_| Reply::error(413, "too_large", "too long")),
    ("422", |_| Reply::error(422, "invalid", "no")),
    ("403 about its content", |_| {
        Reply::error(403, "content_policy_violation", "no").booked(worked())
    }),
    ("400 about its content", |_| {
        Reply::error(400, "content_filter", "the prompt was flagged").booked(worked())
    }),
    ("408", |_| json_error(408, "{}").booked(worked())),
    ("504", |_| json_error(504, "{}").booked(worked())),
    ("524", |_| json_error(524, "{}").booked(worked())),
    ("a cut", |_| Reply::headless(Step::Close)),
    ("a refusal in a success", |seen| {
        let error = r#"{"error":{"message":"bad temperature","code":400}}"#;
        if seen.is_stream() {
            return json_error(400, error);
        }
        json_error(200, error).booked(Books::free())
    }),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_next_is_asked_only_where_the_one_before_certainly_did_nothing() {
    let door = Door::open(Settings::new().with(TWO)).await;
    let alice = door.user("alice");
    let mut answers = Vec::new();
    let cases = FALLS.iter().map(|case| (case, true));
    for ((what, reply), falls) in cases.chain(STAYS.iter().map(|case| (case, false))) {
        for body in [chat("Hello"), chat_stream("Hello")] {
            first_says(&door, reply);
            let from = door.upstream.count();
            let answer = alice.ask(fast(&body)).await;
            let expected: &[&str] = if falls { &[FIRST, SECOND] } else { &[FIRST] };
            assert_eq!(asked(&door, from), expected, "{what}");
            assert_eq!(answer.status == 200, falls, "{what}: {}", answer.text());
            assert_eq!(!answer.said().is_empty(), falls, "{what}");
            answers.push((what, falls, answer.id().unwrap()));
            mend(&door, &alice).await;
        }
    }
    let rows = door.quiet_rows().await;
    for (what, falls, id) in answers {
        let row = rows.iter().find(|row| row.id == id).unwrap();
        if falls {
            is_of_second(row);
        } else {
            assert_eq!(row.model.as_deref(), Some(FIRST), "{what}");
            assert!(!row.has("fallback"), "{what}");
        }
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_is_one_charge_whoever_answers_and_where_all_fail_nothing_is() {
    let closed = format!("http://127.0.0.1:{}/v1", free_port());
    let settings = Settings::new().with(&TWO.replacen("{upstream}", &closed, 1));
    let door = Door::open(settings).await;
    let alice = door.user("alice");
    let keyed = |key: &str, body: &Value| {
        Call::post("/v1/chat/completions", &fast(body))
            .bearer(&alice.token)
            .header("idempotency-key", key)
    };
    // The first cannot be reached, and the second is busy: the last refusal is told, and the key is free again.
    door.upstream
        .next(|_| Reply::error(429, "rate_limit_exceeded", "slow down").header("retry-after", "7"));
    let body = chat("Hello");
    let refused = door.send(keyed("k", &body)).await;
    assert_eq!(refused.header("retry-after"), "7");
    let refused = refused.refused(503, "upstream_unavailable");
    let first = door.send(keyed("k", &body)).await.expect(200);
    let again = door.send(keyed("k", &body)).await.expect(200);
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!((first.id(), first.text()), (again.id(), again.text()));
    let stream = door
        .send(keyed("s", &chat_stream("Hello")))
        .await
        .expect(200);
    let rows = door.quiet_rows().await;
    assert_eq!(rows.len(), 3, "one key, one charge");
    for answer in [&first, &stream] {
        is_of_second(rows.iter().find(|row| Some(row.id) == answer.id()).unwrap());
    }
    let row = rows
        .iter()
        .find(|row| Some(row.id) == refused.id())
        .unwrap();
    assert_eq!(
        (row.state.as_str(), row.upstream.as_deref()),
        ("voided", Some("second"))
    );
    assert!(
        row.has("upstream_rejected") && row.has("fallback"),
        "{row:?}"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_whose_hold_does_not_fit_is_passed_over() {
    let settings = TWO.replace(
        r#"limits = [{ per = "day", requests = 1000 }]"#,
        r#"limits = [{ per = "day", cost_usd = "0.0005" }]"#,
    );
    let third = settings
        .replace(
            r#"use = ["gpt-4o-mini", "gpt-4o"]"#,
            r#"use = ["gpt-4o-mini", "gpt-4o", "small-1"]"#,
        )
        .replace(
            r#"models = ["gpt-4o"]"#,
            r#"models = ["gpt-4o", "small-1"]"#,
        )
        + "\n[prices.small-1]\ninput = \"0.1\"\noutput = \"0.4\"\n";
    for (settings, answers) in [(settings, false), (third, true)] {
        let door = Door::open(Settings::new().with(&settings)).await;
        let alice = door.user("alice");
        first_says(&door, |_| json_error(500, "{}"));
        let answer = alice.ask(fast(&chat("Hello"))).await;
        let row = door.row(&answer).await;
        if answers {
            answer.expect(200);
            assert_eq!(asked(&door, 0), [FIRST, "small-1"]);
            assert_eq!(row.model.as_deref(), Some("small-1"));
            assert_eq!(row.flags, ["fallback"]);
            assert!(row.cost() > 0 && row.cost() <= row.held_micros.unwrap());
        } else {
            answer.refused(502, "upstream_error");
            assert_eq!(asked(&door, 0), [FIRST]);
            assert_eq!(row.model.as_deref(), Some(FIRST));
            assert_eq!(row.flags, ["upstream_failed"]);
        }
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_asked_falls_back_to_another_model_or_to_the_same_one_elsewhere() {
    let door = Door::open(Settings::new().with(
        r#"
plans.free.models = ["gpt-4o-mini", "vectors"]
[models.vectors]
use = ["text-embedding-3-small", "text-embedding-3-large"]
[prompts.hello]
model = "gpt-4o-mini"
system = "Say hello."
[[upstreams]]
name = "first"
base_url = "{upstream}"
api_key_env = "OPENAI_API_KEY"
models = ["*"]
dialect = "compatible"
[[upstreams]]
name = "second"
base_url = "{upstream}"
api_key_env = "OPENAI_API_KEY"
models = ["gpt-4o-mini", "text-embedding-3-large"]
dialect = "openai"
"#,
    ))
    .await;
    let alice = door.user("alice");
    // By the manner of the second: it is another request, and not the same one sent on.
    let is_first = |seen: &Seen| {
        seen.body["max_tokens"].is_u64() || seen.body["model"] == "text-embedding-3-small"
    };
    door.upstream.always(move |seen| {
        if is_first(seen) {
            return json_error(500, "{}");
        }
        honest(seen)
    });
    let hello = json!({"messages": [{"role": "user", "content": "ask-0"}]});
    let plain = alice
        .ask(and(chat("Hello"), &json!({"model": FIRST})))
        .await
        .expect(200);
    let prompt = alice.post("/api/prompts/hello", &hello).await.expect(200);
    let body = and(embed("one"), &json!({"model": "vectors"}));
    let vectors = alice.post("/v1/embeddings", &body).await.expect(200);
    let rows = door.quiet_rows().await;
    for (answer, model, upstream) in [
        (plain, FIRST, "second"),
        (prompt, FIRST, "second"),
        (vectors, "text-embedding-3-large", "first"),
    ] {
        let row = rows.iter().find(|row| Some(row.id) == answer.id()).unwrap();
        assert_eq!(row.model.as_deref(), Some(model));
        assert_eq!(row.upstream.as_deref(), Some(upstream));
        assert_eq!(row.flags, ["fallback"], "{row:?}");
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_failed_lately_is_asked_last_and_every_page_says_so() {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let settings = Settings::new().env("TOLLGATE_SERVER__ADMIN_BIND", &address.to_string());
    let door = Door::open(settings.with(TWO)).await;
    let alice = door.user("alice");
    first_says(&door, |_| json_error(503, "{}"));
    for _ in 0..3 {
        alice.ask(fast(&chat("Hello"))).await.expect(200);
    }
    let from = door.upstream.count();
    let answer = alice.ask(fast(&chat("Hello"))).await.expect(200);
    assert_eq!(asked(&door, from), [SECOND]);
    is_of_second(&door.row(&answer).await);
    let ready = door
        .send(Call::get("/health/ready"))
        .await
        .expect(200)
        .json();
    let health = &ready["parts"]["upstreams"];
    assert_eq!(
        (&health["first"]["breaker"], &health["first"]["ok"]),
        (&json!("open"), &json!(true))
    );
    assert_eq!(health["second"]["breaker"], "closed");
    let office = door.office(address);
    let ask = |path: &str| Call::get(path).bearer(door.admin_token());
    let page = office.send(ask("/metrics")).await.expect(200).text();
    assert!(
        page.contains(r#"tollgate_upstream_breaker{upstream="first",state="open"} 1"#),
        "{page}"
    );
    assert!(
        page.contains(r#"tollgate_upstream_breaker{upstream="second",state="open"} 0"#),
        "{page}"
    );
    let overview = office.send(ask("/admin/overview")).await.expect(200).json();
    assert_eq!(overview["upstreams"][0]["breaker"], "open", "{overview}");
    // It is asked last, and no less.
    door.upstream.always(|seen| {
        if seen.body["model"] == FIRST {
            honest(seen)
        } else {
            json_error(500, "{}")
        }
    });
    let from = door.upstream.count();
    let answer = alice.ask(fast(&chat("Hello"))).await.expect(200);
    assert_eq!(asked(&door, from), [SECOND, FIRST]);
    let row = door.row(&answer).await;
    assert_eq!(
        (row.model.as_deref(), row.flags.is_empty()),
        (Some(FIRST), true)
    );
    // And that was a success.
    let from = door.upstream.count();
    alice.ask(fast(&chat("Hello"))).await.expect(200);
    assert_eq!(asked(&door, from), [FIRST]);
    door.close().await;
}

/// From an empty directory: two keys, three commands, one line in an editor.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_operators_app_is_answered_by_the_second_provider_while_the_first_is_down() {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let settings = Settings::without_file()
        .unset("OPENAI_BASE_URL")
        .env("TOLLGATE_SERVER__ADMIN_BIND", &address.to_string());
    let door = Door::prepare(settings).await;
    door.must(&[
        "init",
        "--yes",
        "--provider",
        "openai",
        "--plan",
        "free=0.50",
    ]);
    let keys = std::fs::read_to_string(door.directory().join(".env")).unwrap();
    door.write_file(
        ".env",
        &format!("{keys}GEMINI_API_KEY={}\n", door.another_key()),
    );
    door.must(&["upstream", "add", "gemini"]);
    let file = door.directory().join("tollgate.toml");
    let written = std::fs::read_to_string(&file).unwrap();
    let with_second = written.replace(
        "use = [\"gpt-6-luna\"]",
        "use = [\"gpt-6-luna\", \"gemini-3.8-flash\"]",
    );
    assert_ne!(with_second, written, "the line that an operator changes");
    // Nobody is at the first's address, and the second's is the fake.
    let at = |preset: &str, url: &str| format!("preset = {preset:?}\nbase_url = {url:?}");
    let moved = with_second
        .replace(
            "preset = \"openai\"",
            &at("openai", "http://127.0.0.1:1/v1"),
        )
        .replace(
            "preset = \"gemini\"",
            &at("gemini", door.upstream.base_url()),
        );
    door.write_file("tollgate.toml", &moved);
    door.start().await;
    let alice = door.user("alice");
    let answer = alice.ask(fast(&chat("Hello"))).await.expect(200);
    let row = door.row(&answer).await;
    assert_eq!(
        (row.model.as_deref(), row.upstream.as_deref()),
        (Some("gemini-3.8-flash"), Some("gemini"))
    );
    assert_eq!(row.requested_model.as_deref(), Some("fast"));
    assert!(row.has("fallback"), "{row:?}");
    // 0.75 and 3.75 dollars a million, rounded up once.
    let (input, output) = (row.input_tokens.unwrap(), row.output_tokens.unwrap());
    assert_eq!(
        row.cost(),
        (input * 75 + output * 375 + 99) / 100,
        "{row:?}"
    );
    let office = door.office(address);
    let ask = |path: &str| Call::get(path).bearer(door.admin_token());
    let overview = office.send(ask("/admin/overview")).await.expect(200).json();
    let failures = |place: usize| overview["upstreams"][place]["errors"].clone();
    assert_eq!(
        [failures(0), failures(1)],
        [json!(0), json!(1)],
        "{overview}"
    );
    let models = office.send(ask("/admin/models")).await.expect(200).json();
    let text = models.to_string();
    assert!(
        text.contains("gemini-3.8-flash") && text.contains("\"fast\""),
        "{text}"
    );
    door.close_without_prices().await;
}
