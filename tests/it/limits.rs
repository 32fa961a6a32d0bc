//! What a limit lets through: checks 9, 12 and 15 of the threats, and laws 1, 5, 6 and 7.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::caller::{Answer, User, and, chat, chat_stream};
use crate::support::door::Door;
use crate::support::oracle::{amount, invoice};
use crate::support::reply::Talk;
use crate::support::settings::Settings;
use crate::support::tokens::now;

/// The standard settings with other limits for everybody.
fn limited(limits: &str) -> Settings {
    Settings::new().with(&format!("plans.free.limits = [{limits}]"))
}

/// Waits while a clock window of so many seconds is about to end.
async fn away_from_the_end_of(seconds: i64) {
    let left = seconds - now().rem_euclid(seconds);
    if left < 20 {
        sleep(Duration::from_secs(left as u64 + 1)).await;
    }
}

/// So many callers at once, each with a body of its own.
async fn at_once(users: &[User], body: impl Fn() -> Value) -> Vec<Answer> {
    let asking: Vec<_> = users
        .iter()
        .map(|user| {
            let (user, body) = (user.clone(), body());
            tokio::spawn(async move { user.ask(body).await })
        })
        .collect();
    let mut answers = Vec::new();
    for one in asking {
        answers.push(one.await.unwrap());
    }
    answers
}

fn count(answers: &[Answer], status: u16) -> usize {
    answers
        .iter()
        .filter(|answer| answer.status == status)
        .count()
}

/// A limit as `/api/me` tells it.
async fn limit_of(user: &User, index: usize) -> Value {
    user.me().await["limits"][index].clone()
}

/// What all that the upstream served costs, by the upstream's own log.
fn invoiced(door: &Door, price: (u128, u128, u128)) -> i64 {
    door.upstream
        .log()
        .iter()
        .map(|served| invoice(served, price))
        .sum()
}

const MINI: (u128, u128, u128) = (150_000, 75_000, 600_000);

#[tokio::test(flavor = "multi_thread")]
async fn of_fifty_requests_at_once_a_limit_of_three_lets_three_through() {
    let door = Door::open(limited(r#"{ per = "day", requests = 3 }"#)).await;
    let alice = door.user("alice");
    let watch = Door::watch(&alice);
    let answers = at_once(&vec![alice.clone(); 50], || chat("one of fifty")).await;
    drop(watch);

    assert_eq!(
        (
            count(&answers, 200),
            count(&answers, 402),
            door.upstream.count()
        ),
        (3, 47, 3)
    );
    let refused = answers
        .iter()
        .find(|answer| answer.status == 402)
        .unwrap()
        .json();
    let limit = &refused["error"]["limit"];
    assert_eq!(
        (&limit["per"], &limit["unit"], &limit["limit"]),
        (&json!("day"), &json!("requests"), &json!(3))
    );
    assert_eq!(
        (&refused["error"]["code"], &refused["error"]["plan"]),
        (&json!("quota_exceeded"), &json!("free"))
    );
    assert!(
        limit["resets_at"].as_str().unwrap().ends_with("T00:00:00Z"),
        "{limit}"
    );
    door.user("bob")
        .ask(chat("somebody else"))
        .await
        .expect(200);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_per_minute_or_hour_is_a_rate_and_says_when_to_come_back() {
    away_from_the_end_of(3600).await;
    let door = Door::open(limited(
        r#"{ per = "hour", requests = 2 }, { per = "month", requests = 100 }"#,
    ))
    .await;
    let alice = door.user("alice");
    let answers = at_once(&vec![alice.clone(); 20], || chat("one of twenty")).await;
    assert_eq!(
        (
            count(&answers, 200),
            count(&answers, 429),
            door.upstream.count()
        ),
        (2, 18, 2)
    );
    let refused = answers
        .into_iter()
        .find(|answer| answer.status == 429)
        .unwrap();
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=3600).contains(&wait), "Retry-After: {wait}");
    let error = refused.refused(429, "rate_limited").json()["error"].clone();
    assert_eq!(
        (&error["limit"]["per"], &error["type"]),
        (&json!("hour"), &json!("rate_limit_error"))
    );
    door.close().await;

    away_from_the_end_of(60).await;
    let door = Door::open(limited(r#"{ per = "minute", requests = 1 }"#)).await;
    let alice = door.user("alice");
    alice.ask(chat("first")).await.expect(200);
    let refused = alice.ask(chat("second")).await.refused(429, "rate_limited");
    assert!(refused.header("retry-after").parse::<u64>().unwrap() <= 60);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_limits_that_are_exceeded_the_one_that_resets_last_is_told() {
    let limits = r#"{ per = "minute", requests = 1 }, { per = "month", requests = 1 }, { per = "day", requests = 1 }"#;
    let door = Door::open(limited(limits)).await;
    let alice = door.user("alice");
    alice.ask(chat("first")).await.expect(200);
    let refused = alice
        .ask(chat("second"))
        .await
        .refused(402, "quota_exceeded");
    assert_eq!(refused.json()["error"]["limit"]["per"], "month");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_billed_for_fifty_requests_at_once_never_passes_a_limit_in_dollars() {
    let door = Door::open(limited(r#"{ per = "month", cost_usd = "0.002000" }"#)).await;
    door.upstream.always(|seen| Talk::to_the_cap().reply(seen));
    let alice = door.user("alice");
    let watch = Door::watch(&alice);
    let answers = at_once(&vec![alice.clone(); 50], || {
        and(chat("one of fifty"), &json!({"max_tokens": 400}))
    })
    .await;

    let billed = invoiced(&door, MINI);
    assert!(billed <= 2000, "{billed} micro-dollars were billed of 2000");
    assert!(
        count(&answers, 200) >= 5,
        "five worst cases fit at once: {answers:?}"
    );
    assert_eq!(count(&answers, 200) + count(&answers, 402), 50);
    // What the first left over serves on, down to the least that is worth asking for.
    while alice
        .ask(and(chat("the rest"), &json!({"max_tokens": 400})))
        .await
        .status
        == 200
    {}
    drop(watch);
    let billed = invoiced(&door, MINI);
    assert!(
        (1900..=2000).contains(&billed),
        "{billed} micro-dollars were billed of 2000"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_at_once_never_pass_a_limit_in_tokens() {
    let door = Door::open(limited(r#"{ per = "lifetime", tokens = 3000 }"#)).await;
    door.upstream.always(|seen| Talk::to_the_cap().reply(seen));
    let alice = door.user("alice");
    let watch = Door::watch(&alice);
    let answers = at_once(&vec![alice.clone(); 30], || {
        and(chat_stream("one of thirty"), &json!({"max_tokens": 300}))
    })
    .await;
    drop(watch);
    let bills = door.upstream.log().into_iter().map(|served| served.bill());
    let tokens: u64 = bills.map(|bill| bill.prompt + bill.completion).sum();
    assert!(
        tokens <= 3000 && count(&answers, 200) >= 5,
        "{tokens} tokens of 3000 in {} answers",
        count(&answers, 200)
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_apps_ceiling_holds_for_many_users_at_once() {
    let door = Door::open(Settings::new().with(r#"ceiling.cost_usd_per_day = "0.002""#)).await;
    door.upstream.always(|seen| Talk::to_the_cap().reply(seen));
    let users: Vec<User> = (0..40)
        .map(|number| door.user(&format!("user-{number}")))
        .collect();
    let answers = at_once(&users, || {
        and(chat("one of forty"), &json!({"max_tokens": 400}))
    })
    .await;
    assert_eq!(count(&answers, 200) + count(&answers, 503), 40);
    assert!(count(&answers, 200) >= 5);
    let refused = answers
        .into_iter()
        .find(|answer| answer.status == 503)
        .unwrap();
    refused.refused(503, "paused");
    let billed = invoiced(&door, MINI);
    assert!(billed <= 2000, "{billed} micro-dollars were billed of 2000");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_open_requests_than_the_plan_has_are_refused_until_one_ends() {
    let door = Door::open(Settings::new().with("plans.free.concurrent_requests = 2")).await;
    door.upstream
        .always(|seen| Talk::words(1).every(Duration::from_secs(2)).reply(seen));
    let alice = door.user("alice");
    let (mut one, two) = (
        alice.open(chat_stream("one")).await,
        alice.open(chat_stream("two")).await,
    );
    one.next_block().await.unwrap();
    let me = alice.me().await;
    assert_eq!(me["concurrent"], json!({"limit": 2, "open": 2}));
    alice
        .ask(chat("three"))
        .await
        .refused(429, "too_many_concurrent");
    let bob = door.user("bob").begin(chat("somebody else")).await;
    one.rest().await;
    two.rest().await;
    alice.ask(chat("four")).await.expect(200);
    bob.head().await.unwrap().rest().await.expect(200);
    assert_eq!(door.upstream.count(), 4);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_open_requests_fit_as_their_worst_cases_do_and_the_next_when_they_end() {
    // No cap may shrink here: the least that is worth asking for is all that is asked for.
    let settings = limited(r#"{ per = "month", cost_usd = "0.001" }"#);
    let door = Door::open(settings).await;
    door.upstream
        .always(|seen| Talk::words(1).every(Duration::from_secs(4)).reply(seen));
    let alice = door.user("alice");
    let body = || and(chat_stream("the same length"), &json!({"max_tokens": 64}));
    let mut open = vec![alice.open(body()).await];
    open[0].next_block().await.unwrap();
    let each = amount(&limit_of(&alice, 0).await, "held");
    let least = 64 * 600_000 / 1_000_000;
    assert!(
        (least..=90).contains(&each),
        "{each} micro-dollars are held for at least {least}"
    );
    let fitting = 1000 / each;
    while (open.len() as i64) < fitting - 1 {
        let next = alice.open(body()).await;
        assert_eq!(
            next.so_far().status,
            200,
            "number {} of {fitting} worst cases that fit was refused",
            open.len() + 1
        );
        open.push(next);
    }
    let refused = loop {
        let next = alice.open(body()).await;
        if next.so_far().status != 200 {
            break next.rest().await;
        }
        open.push(next);
        assert!(
            open.len() as i64 <= fitting + 1,
            "more worst cases than fit are open"
        );
    };
    refused.refused(402, "quota_exceeded");
    for stream in open {
        stream.rest().await;
    }
    alice.ask(body()).await.expect(200);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn near_a_limit_the_output_cap_shrinks_before_anybody_is_refused() {
    for unit in ["tokens = 420", r#"cost_usd = "0.000250""#] {
        let door = Door::open(limited(&format!("{{ per = \"day\", {unit} }}"))).await;
        door.upstream.always(|seen| Talk::to_the_cap().reply(seen));
        let alice = door.user("alice");
        let answer = alice
            .ask(and(chat("hello"), &json!({"max_tokens": 1000})))
            .await
            .expect(200);
        let cap = door.upstream.last().seen.cap().unwrap();
        assert!((200..=416).contains(&cap), "{unit}: the cap became {cap}");
        assert_eq!(answer.json()["usage"]["completion_tokens"], cap);
        let refused = alice
            .ask(chat("and again"))
            .await
            .refused(402, "quota_exceeded");
        let limit = &refused.json()["error"]["limit"];
        assert!(
            amount(limit, "requested") > 0 && amount(limit, "used") > 0,
            "{limit}"
        );
        assert_eq!(door.upstream.count(), 1);
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cap_that_shrank_is_held_as_it_is_sent() {
    let ask = and(chat("hello"), &json!({"model": "gpt-4o"}));
    let tight = Door::open(limited(r#"{ per = "day", tokens = 420 }"#)).await;
    let answer = tight
        .user("alice")
        .ask(and(ask.clone(), &json!({"max_tokens": 1000})))
        .await
        .expect(200);
    let cap = tight.upstream.last().seen.cap().unwrap();
    let held = tight.row(&answer).await.held_micros;
    tight.close().await;
    // With a little more room, a request for just as much holds just as much: each token of it is ten micro-dollars.
    let roomy = Door::open(limited(r#"{ per = "day", tokens = 425 }"#)).await;
    let answer = roomy
        .user("alice")
        .ask(and(ask, &json!({"max_tokens": cap})))
        .await
        .expect(200);
    assert_eq!(roomy.upstream.last().seen.cap(), Some(cap));
    assert_eq!(
        held,
        roomy.row(&answer).await.held_micros,
        "held for a cap of {cap}, when it shrank and when it was asked for"
    );
    roomy.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cap_shrinks_to_the_least_that_is_worth_it_and_no_further() {
    let door = Door::open(
        limited(r#"{ per = "day", tokens = 500 }"#).with("proxy.min_output_tokens = 300"),
    )
    .await;
    let alice = door.user("alice");
    alice
        .ask(and(chat("hello"), &json!({"max_tokens": 1000})))
        .await
        .expect(200);
    assert!(door.upstream.last().seen.cap().unwrap() >= 300);
    // 15 or so are used: a cap of 300 fits, and twice of that does not.
    for _ in 0..20 {
        let answer = alice
            .ask(and(chat("hello"), &json!({"max_tokens": 1000})))
            .await;
        if answer.status != 200 {
            answer.refused(402, "quota_exceeded");
            break;
        }
    }
    let log = door.upstream.log();
    assert!(
        log.len() < 20 && log.iter().all(|served| served.seen.cap().unwrap() >= 300),
        "a cap below the least was sent"
    );
    // Who asks for less than the least is not refused for it.
    alice
        .ask(and(chat("hello"), &json!({"max_tokens": 5})))
        .await
        .expect(200);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_could_never_fit_is_final() {
    for per in ["minute", "day", "lifetime"] {
        let door = Door::open(limited(&format!("{{ per = \"{per}\", tokens = 20 }}"))).await;
        let refused = door
            .user("alice")
            .ask(chat("too long for this plan"))
            .await
            .refused(402, "quota_exceeded");
        assert_eq!(refused.json()["error"]["limit"]["per"], per);
        assert_eq!(door.upstream.connections(), 0);
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_output_cap_is_always_sent_and_never_above_the_plans() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    for (fields, cap) in [
        (json!({}), 1000),
        (json!({"max_tokens": null}), 1000),
        (json!({"max_tokens": 7}), 7),
        (json!({"max_completion_tokens": 8}), 8),
        (json!({"max_tokens": 9, "max_completion_tokens": 9}), 9),
        (json!({"max_tokens": 1}), 1),
        (json!({"max_tokens": 1001}), 1000),
        (json!({"max_completion_tokens": 2_147_483_647_i64}), 1000),
    ] {
        alice.ask(and(chat("a"), &fields)).await.expect(200);
        let sent = door.upstream.last().seen.body.clone();
        assert_eq!(
            (&sent["max_completion_tokens"], sent.get("max_tokens")),
            (&json!(cap), None),
            "{fields}"
        );
    }
    let served = door.upstream.count();
    for (field, value) in [
        ("max_tokens", json!(0)),
        ("max_tokens", json!(-1)),
        ("max_tokens", json!(1.5)),
        ("max_tokens", json!("5")),
        ("max_tokens", json!([5])),
        ("max_tokens", json!(true)),
        ("max_completion_tokens", json!(0)),
        ("max_completion_tokens", json!(-2_147_483_648_i64)),
        ("max_completion_tokens", json!(2_147_483_649_i64)),
        ("max_completion_tokens", json!(u64::MAX)),
        ("max_completion_tokens", json!(1e300)),
    ] {
        let refused = alice
            .ask(and(chat("a"), &json!({field: value})))
            .await
            .refused(400, "invalid_request");
        assert_eq!(refused.json()["error"]["param"], field, "{value}");
    }
    let disagreeing = json!({"max_tokens": 5, "max_completion_tokens": 6});
    alice
        .ask(and(chat("a"), &disagreeing))
        .await
        .refused(400, "invalid_request");
    assert_eq!(door.upstream.count(), served);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn choices_multiply_the_hold_and_stay_within_the_plan() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    alice
        .ask(and(chat("a"), &json!({"n": 1})))
        .await
        .expect(200);
    for n in [
        json!(0),
        json!(-1),
        json!(1.5),
        json!("1"),
        json!(2),
        json!(128),
        json!(u64::MAX),
    ] {
        let refused = alice
            .ask(and(chat("a"), &json!({"n": n})))
            .await
            .refused(400, "invalid_request");
        assert_eq!(refused.json()["error"]["param"], "n", "{n}");
    }
    assert_eq!(door.upstream.count(), 1);
    door.close().await;

    let settings =
        limited(r#"{ per = "lifetime", tokens = 100000 }"#).with("plans.free.max_choices = 4");
    let door = Door::open(settings).await;
    door.upstream.always(|seen| Talk::to_the_cap().reply(seen));
    door.upstream
        .next(|seen| Talk::words(1).every(Duration::from_secs(2)).reply(seen));
    let alice = door.user("alice");
    let mut open = alice
        .open(and(chat_stream("a"), &json!({"n": 4, "max_tokens": 500})))
        .await;
    open.next_block().await.unwrap();
    let held = amount(&limit_of(&alice, 0).await, "held");
    assert!(
        (2004..2400).contains(&held),
        "four choices of 500 tokens hold {held}"
    );
    open.rest().await;
    let answer = alice
        .ask(and(chat("a"), &json!({"n": 3, "max_tokens": 20})))
        .await
        .expect(200);
    assert_eq!(answer.json()["choices"].as_array().unwrap().len(), 3);
    alice
        .ask(and(chat("a"), &json!({"n": 5})))
        .await
        .refused(400, "invalid_request");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hold_covers_every_prompt_that_a_tokenizer_takes_badly() {
    let tokenizer = tiktoken_rs::o200k_base_singleton();
    let door = Door::open(Settings::new().with("plans.free.max_input_tokens = 100000")).await;
    let alice = door.user("alice");
    let nasty = [
        "\u{4f60}\u{597d}".repeat(300),
        "\u{1f469}\u{200d}\u{1f469}\u{200d}\u{1f467}".repeat(80),
        "\u{0e01}\u{0e33}".repeat(300),
        "a".repeat(3000),
        " \n\t".repeat(900),
        "\u{0}\u{1}\u{7f}".repeat(200),
        "<|endoftext|><|im_start|>".repeat(60),
        "\u{fdfa}".repeat(200),
        "0123456789".repeat(200),
        "{}[]\"\\/;:".repeat(200),
    ];
    for prompt in nasty {
        let tokens = tokenizer.encode_ordinary(&prompt).len() as u64;
        door.upstream.next(move |seen| {
            let completion = seen.cap().unwrap();
            // As OpenAI counts: the text, and three tokens for the message and for the answer's beginning each.
            let prompt = tokens + 4 + 3;
            let usage =
                json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion});
            Talk::to_the_cap().usage(&usage.to_string()).reply(seen)
        });
        let body = json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": prompt}], "max_tokens": 10});
        let answer = alice.ask(body).await.expect(200);
        let row = door.row(&answer).await;
        assert!(
            row.flags.is_empty(),
            "{tokens} tokens in {} bytes: {row:?}",
            prompt.len()
        );
        assert_eq!(row.input_tokens, Some(tokens as i64 + 7));
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_longer_than_the_plan_has_is_refused() {
    let door = Door::open(Settings::new().with("plans.free.max_input_tokens = 400")).await;
    let alice = door.user("alice");
    alice.ask(chat("short enough")).await.expect(200);
    let long = alice.ask(chat(&"word ".repeat(500))).await;
    assert_eq!(
        long.refusal(),
        (400, "invalid_request".to_owned()),
        "{}",
        long.text()
    );
    // What only looks long by its bytes is counted before it is refused.
    alice
        .ask(chat(&"information ".repeat(250)))
        .await
        .expect(200);
    assert_eq!(door.upstream.count(), 2);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_plans_models_by_their_names_are_let_through() {
    let door = Door::open(Settings::new().with(r#"plans.free.models = ["gpt-4o-mini"]"#)).await;
    let alice = door.user("alice");
    let odd = [
        "gpt-4o",
        "o1",
        "GPT-4O-MINI",
        " gpt-4o-mini",
        "gpt-4o-mini ",
        "gpt-4o-mini\u{0}",
        "openai/gpt-4o-mini",
        "*",
        "",
        "gpt-*",
    ];
    for model in odd {
        let answer = alice.ask(and(chat("a"), &json!({"model": model}))).await;
        assert!(
            answer.refusal() == (403, "model_not_allowed".to_owned()) || answer.status == 400,
            "{model:?}: {}",
            answer.text()
        );
    }
    for model in [json!(7), json!(["gpt-4o-mini"]), json!({})] {
        let refused = alice
            .ask(and(chat("a"), &json!({"model": model})))
            .await
            .refused(400, "invalid_request");
        assert_eq!(refused.json()["error"]["param"], "model");
    }
    assert_eq!(door.upstream.connections(), 0);
    alice.ask(chat("a")).await.expect(200);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_limits_of_money_is_still_counted() {
    let door = Door::open(limited("")).await;
    let alice = door.user("alice");
    let answer = alice.ask(chat("a")).await.expect(200);
    assert_eq!(alice.me().await["limits"], json!([]));
    assert!(door.row(&answer).await.cost() > 0);
    door.close().await;
}
