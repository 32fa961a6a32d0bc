//! Requests of every endpoint at once, against one limit in dollars.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::json;

use crate::support::caller::{Call, User, and, chat};
use crate::support::door::Door;
use crate::support::embeddings::{self, embed};
use crate::support::moderations;
use crate::support::oracle::invoice;
use crate::support::pictures;
use crate::support::reply::{Bill, Reply, Talk};
use crate::support::responses::{Play, Server, respond};
use crate::support::settings::Settings;
use crate::support::speech::{self, speak};
use crate::support::transcriptions::{self, Form, MADE, wav};
use crate::support::upstream::Seen;
use crate::support::zoo::{Scene, claude};

/// What a user may spend, in micro-dollars: one request of each endpoint comes to some seven thousand.
const LIMIT: i64 = 20_000;
/// So many of each endpoint at once.
const EACH: usize = 16;

fn settings() -> Settings {
    Settings::new().with(
        r#"
        [[upstreams]]
        name = "openai"
        base_url = "{upstream}"
        api_key_env = "OPENAI_API_KEY"
        models = ["gpt-*", "text-*", "voice", "whisper-1", "scribe", "omni-*"]
        dialect = "openai"
        [[upstreams]]
        preset = "anthropic"
        base_url = "{upstream}"
        api_key_env = "OPENAI_API_KEY"
        [prices.claude-talks]
        input = "0.4"
        output = "2"
        [prices.gpt-image-2]
        input = "0.5"
        image_input = "3.5"
        output = "0.3"
        endpoints = ["images"]
        [prices.voice]
        characters = "15"
        endpoints = ["speech"]
        [plans.free]
        models = ["gpt-4o-mini", "claude-talks", "text-embedding-3-small", "gpt-image-2", "voice", "whisper-1", "scribe", "omni-moderation-latest"]
        concurrent_requests = 1000
        limits = [{ per = "lifetime", cost_usd = "0.020000" }]
        "#,
    )
    .with(transcriptions::PRICES)
}

/// One request of each endpoint, or two where a model may be paid in two ways.
fn calls(user: &User) -> Vec<Call> {
    let json = |path: &str, body| Call::post(path, &body).bearer(&user.token);
    let said = json!({"model": "claude-talks", "max_tokens": 1000});
    let drawn = and(pictures::draw("a"), &json!({"size": "1024x1024"}));
    let prompt = pictures::prompt("a");
    let (kind, form) = pictures::form(&[
        ("name=\"model\"", b"gpt-image-2"),
        ("name=\"prompt\"", prompt.as_bytes()),
        ("name=\"image\"; filename=\"a.png\"", &pictures::png(64, 64)),
    ]);
    let edited = Call::new("POST", "/v1/images/edits")
        .bearer(&user.token)
        .header("content-type", &kind)
        .bytes(form);
    let heard = |model: &str| Form::new(model).data(MADE, wav(1250)).call(user);
    vec![
        user.call(&chat("a")),
        user.call(&and(chat("a"), &json!({"stream": true}))),
        json("/v1/messages", and(chat("a"), &said)),
        json("/v1/responses", respond("a")),
        json("/v1/responses", and(respond("a"), &json!({"stream": true}))),
        json("/v1/embeddings", embed(&"a ".repeat(2000))),
        json("/v1/images/generations", drawn),
        edited,
        json("/v1/audio/speech", speak("a")),
        heard("whisper-1"),
        heard("scribe"),
        json("/v1/moderations", json!({"input": "a"})),
    ]
}

/// As much as each request allows, after a while: all are open at once.
fn answer(seen: &Seen) -> Reply {
    let reply = match seen.request.target.as_str() {
        "/v1/chat/completions" => Talk::to_the_cap().reply(seen),
        "/v1/messages" => claude::reply(&Scene::words(100_000), seen),
        "/v1/responses" => Server::OPENAI.reply(&Play::words(100_000), seen),
        "/v1/embeddings" => embeddings::honest(seen),
        "/v1/audio/speech" => speech::honest(seen),
        "/v1/audio/transcriptions" => transcriptions::honest(seen),
        "/v1/moderations" => moderations::honest(seen),
        _ => pictures::honest(seen),
    };
    reply.after(Duration::from_millis(300))
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_every_endpoint_at_once_never_pass_one_limit_in_dollars() {
    let door = Door::open(settings()).await;
    door.upstream.always(answer);
    let alice = door.user("alice");
    let mut open = Vec::new();
    for _ in 0..EACH {
        for call in calls(&alice) {
            let front = alice.front.clone();
            open.push(tokio::spawn(async move { front.send(call).await }));
        }
    }
    let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
    for answer in open {
        *statuses.entry(answer.await.unwrap().status).or_default() += 1;
    }
    let told: BTreeSet<u16> = statuses.keys().copied().collect();
    assert_eq!(told, BTreeSet::from([200, 402]), "{statuses:?}");

    let (mut billed, mut paths) = (0, BTreeSet::new());
    for served in door.upstream.log() {
        let model = pictures::sent(&served.seen, "model").unwrap();
        let is_free = served.seen.is_moderation() || served.bill() == Bill::default();
        if !is_free {
            let price = settings().price(&model).unwrap();
            billed += invoice(&served, price);
        }
        paths.insert(served.seen.request.target.clone());
    }
    assert!(billed <= LIMIT, "{billed} were billed");
    assert!(billed > LIMIT * 9 / 10, "{billed} were billed");
    assert!(paths.len() >= 5, "{paths:?}");
    let charged: i64 = door
        .quiet_rows()
        .await
        .iter()
        .map(crate::support::oracle::Row::cost)
        .sum();
    assert_eq!(charged, billed);
    door.close().await;
}
