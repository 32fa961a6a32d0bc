//! Secrets that change while users are served: two are valid while the operator goes from one to the other.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::support::caller::{Call, User, chat};
use crate::support::door::Door;
use crate::support::keys::{Key, random_hex};
use crate::support::reply::{Reply, Step, honest};
use crate::support::settings::Settings;
use crate::support::tokens;

fn signed(door: &Door, user: &User, secret: &str) -> String {
    let name = "alice";
    assert_eq!(user.id, tokens::user_id(name));
    tokens::sign(&Key::hs256(secret.to_owned()), &door.claims(name))
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_two_secrets_are_good_while_one_replaces_the_other() {
    let door = Door::prepare(Settings::new().unset("JWT_SECRET")).await;
    let (old, new) = (
        door.jwt_secret().to_owned(),
        format!("canary-jwt-{}", random_hex(24)),
    );
    door.write_file(".env", &format!("JWT_SECRET='{old}'\n"));
    door.start().await;
    let alice = door.user("alice");
    let (of_old, of_new) = (signed(&door, &alice, &old), signed(&door, &alice, &new));
    let status = async |token: &str| door.send(Call::get("/api/me").bearer(token)).await.status;
    assert_eq!((status(&of_old).await, status(&of_new).await), (200, 401));

    door.write_file(
        ".env",
        &format!("JWT_SECRET='{new}'\nJWT_SECRET_PREVIOUS='{old}'\n"),
    );
    door.process.signal("HUP");
    door.process.until_it_says("auth.jwt_secret_previous").await;
    assert_eq!((status(&of_old).await, status(&of_new).await), (200, 200));
    door.process
        .until_it_says("tokens of the previous JWT secret are still in use")
        .await;

    // A weak one is refused, and what is in force stays.
    door.write_file(".env", "JWT_SECRET=secretsecretsecretsecretsecretsecret\n");
    door.process.signal("HUP");
    door.process.until_it_says("the old ones stay").await;
    assert_eq!((status(&of_old).await, status(&of_new).await), (200, 200));

    door.write_file(
        ".env",
        &format!("JWT_SECRET='{new}'\nJWT_SECRET_PREVIOUS=\n"),
    );
    door.process.signal("HUP");
    let begun = Instant::now();
    while status(&of_old).await != 401 {
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "the old secret is still good"
        );
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(status(&of_new).await, 200);
    let output = door.process.output();
    assert!(
        !output.contains(&new) && !output.contains(&old),
        "a secret is in the log"
    );
    // The oracle asks on with the token that it knows.
    door.write_file(".env", &format!("JWT_SECRET='{old}'\n"));
    door.process.signal("HUP");
    let begun = Instant::now();
    while status(&of_old).await != 200 {
        assert!(begun.elapsed() < Duration::from_secs(5));
        sleep(Duration::from_millis(50)).await;
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_upstream_does_not_know_yet_costs_nobody_a_request() {
    let door = Door::prepare(Settings::new().unset("OPENAI_API_KEY")).await;
    let (old, new) = (door.operator_key().to_owned(), door.another_key());
    door.write_file(".env", &format!("OPENAI_API_KEY={old}\n"));
    let known = std::sync::Arc::new(std::sync::Mutex::new(format!("Bearer {old}")));
    let knows = known.clone();
    door.upstream.always(move |seen| {
        if seen.request.header("authorization") == Some(knows.lock().unwrap().as_str()) {
            return honest(seen);
        }
        Reply::status(
            401,
            "application/json",
            r#"{"error":{"message":"Incorrect API key","code":"invalid_api_key"}}"#,
        )
    });
    door.start().await;
    let alice = door.user("alice");
    alice.ask(chat("a")).await.expect(200);
    assert_eq!(door.upstream.count(), 1);

    // The new key comes before the upstream knows it: the one before it serves, at one try more.
    door.write_file(
        ".env",
        &format!("OPENAI_API_KEY={new}\nOPENAI_API_KEY_PREVIOUS={old}\n"),
    );
    door.process.signal("HUP");
    door.process.until_it_says("openai_api_key_previous").await;
    let answer = alice.ask(chat("b")).await.expect(200);
    assert_eq!(door.upstream.count(), 3);
    assert_eq!(door.row(&answer).await.state, "settled");
    door.process.until_it_says("the previous one is used").await;

    // Now it does, and the old one is gone.
    *known.lock().unwrap() = format!("Bearer {new}");
    alice.ask(chat("c")).await.expect(200);
    assert_eq!(door.upstream.count(), 4);
    door.process
        .until_it_says("the previous one is not used any more")
        .await;

    // Neither: the request is refused, it costs nothing, and the upstream was asked twice and no more.
    *known.lock().unwrap() = "Bearer of nothing".to_owned();
    let refused = alice.ask(chat("d")).await.refused(502, "upstream_error");
    assert_eq!(door.upstream.count(), 6);
    let row = door.row(&refused).await;
    assert_eq!((row.state.as_str(), row.cost()), ("voided", 0));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_try_that_breaks_is_charged_as_any_that_breaks() {
    let door = Door::prepare(Settings::new()).await;
    door.write_file(
        ".env",
        &format!("OPENAI_API_KEY_PREVIOUS={}\n", door.another_key()),
    );
    door.start().await;
    let alice = door.user("alice");
    // The second try meets a closed connection: the upstream may have begun, so the hold is lost. The first was free.
    door.upstream
        .next(|_| Reply::status(401, "application/json", "{}"));
    door.upstream.next(|_| Reply {
        steps: vec![Step::Reset],
        ..Reply::default()
    });
    let answer = alice.ask(chat("a")).await.refused(502, "upstream_error");
    assert_eq!(door.row(&answer).await.state, "lost");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_is_told_by_name_and_never_by_value() {
    let settings = Settings::new();
    let door = Door::open(settings.clone()).await;
    let alice = door.user("alice");
    let more = settings.with(
        "plans.free.max_output_tokens = 777\nserver.shutdown_grace = \"4s\"\n[prices.gpt-4o-mini]\ninput = \"0.15\"\n\
         cached_input = \"0.075\"\noutput = \"0.60\"\n",
    );
    door.write_settings(&more);
    door.process.signal("HUP");
    door.process.until_it_says("settings reloaded").await;
    let output = door.process.output();
    let line = output
        .lines()
        .find(|line| line.contains("settings reloaded"))
        .unwrap();
    for name in [
        "plans.free.max_output_tokens",
        "prices.gpt-4o-mini.input",
        "server.shutdown_grace",
    ] {
        assert!(line.contains(name), "{name} is not in {line}");
    }
    assert!(
        !line.contains("777") && !line.contains("plans.free.models"),
        "{line}"
    );
    let late = output
        .lines()
        .find(|line| line.contains("only at a restart"))
        .unwrap();
    assert!(
        late.contains("server.shutdown_grace") && !late.contains("plans.free"),
        "{late}"
    );
    assert_eq!(alice.me().await["max_output_tokens"], 777);
    door.process.signal("HUP");
    door.process.until_it_says("nothing has changed").await;
    door.close().await;
}
