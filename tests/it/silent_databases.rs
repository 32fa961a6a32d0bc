//! A Postgres that hangs: it takes connections and says nothing. Nobody waits for it in turn, and when it speaks again
//! nothing has to be started anew.

use std::time::{Duration, Instant};

use crate::support::caller::{User, chat};
use crate::support::door::Door;
use crate::support::postgres::Postgres;
use crate::support::postgrest::{Grants, Rest};
use crate::support::project::{Project, Way, joined, plan, until};
use crate::support::relay::Relay;
use crate::support::settings::Settings;
use crate::support::tools::{Tool, installed};

/// How many users nobody knows yet come at once.
const CROWD: u32 = 40;
/// How long a look-up in the developer's database may take.
const LOOK_UP: Duration = Duration::from_secs(3);
/// How long a call of the ledger may take.
const LEDGER_CALL: Duration = Duration::from_secs(5);

/// The address of a server's database by way of a relay.
fn by_way_of(relay: &Relay, server: &Postgres, url: &str) -> String {
    url.replace(
        &format!(":{}/", server.port()),
        &format!(":{}/", relay.port()),
    )
}

fn crowd(door: &Door, name: &str) -> Vec<User> {
    (0..CROWD)
        .map(|number| door.user(&format!("{name}-{number}")))
        .collect()
}

/// All of them ask at once and are refused; what they waited, added up.
async fn refused(users: &[User], code: &str) -> Duration {
    let asking = users.iter().cloned().map(|user| {
        let code = code.to_owned();
        tokio::spawn(async move {
            let begun = Instant::now();
            let answer = user.ask(chat("into the silence")).await;
            let waited = begun.elapsed();
            let refused = answer.refused(503, &code);
            assert!(refused.header("retry-after").parse::<u64>().unwrap() > 0);
            waited
        })
    });
    let mut sum = Duration::ZERO;
    for one in asking.collect::<Vec<_>>() {
        sum += one.await.unwrap();
    }
    sum
}

/// Waits until all of them are served.
async fn served(users: &[User]) {
    for user in users {
        until("it speaks again", Duration::from_secs(15), async || {
            user.ask(chat("heard")).await.status == 200
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_database_of_plans_keeps_neither_new_users_waiting_nor_those_it_knew() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let rest = Rest::with_script(Grants::New).await;
    let relay = Relay::start(rest.postgres().port()).await;
    let url = by_way_of(
        &relay,
        rest.postgres(),
        &rest.postgres().url_as("editor", "postgres"),
    );
    let settings =
        joined(Settings::new(), Way::Postgres, &rest).env("TOLLGATE_DIRECTORY__DATABASE_URL", &url);
    let project = Project {
        rest,
        door: Door::open(settings).await,
    };
    let door = &project.door;
    let known = [door.user("alice"), door.user("bob")];
    // No limit that what was used before is above.
    let pro = r#"'pro', null, null, true, '[{"per": "day", "requests": 500}]'"#;
    project.subscribe("alice", pro).await;
    served(&known).await;
    tokio::time::sleep(Duration::from_millis(1200)).await; // what is known of them is no longer fresh
    let dialled = door.upstream.count();

    relay.lose_answers();
    let strangers = crowd(door, "stranger");
    let first = refused(&strangers, "directory_unavailable").await;
    assert!(
        first < LOOK_UP * CROWD * 3 / 4,
        "they waited for one call-time-out each: {first:?}"
    );
    let second = refused(&crowd(door, "later"), "directory_unavailable").await;
    assert!(
        second < LOOK_UP * 8,
        "whoever comes later knows that it is silent: {second:?}"
    );
    assert_eq!(
        door.upstream.count(),
        dialled,
        "nobody is served without a plan"
    );
    let begun = Instant::now();
    for _ in 0..10 {
        for user in &known {
            user.ask(chat("known")).await.expect(200);
        }
    }
    assert!(
        begun.elapsed() < LOOK_UP,
        "those it knew go on: {:?}",
        begun.elapsed()
    );
    assert_eq!(
        plan(&known[0]).await,
        ("pro".to_owned(), "database".to_owned())
    );

    relay.hear_again();
    served(&strangers).await;
    project.subscribe("bob", pro).await;
    until(
        "news of those it knew",
        Duration::from_secs(15),
        async || plan(&known[1]).await.0 == "pro",
    )
    .await;
    project.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_database_of_plans_is_waited_for_however_many_ask() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let project = Project::open(
        Way::Postgres,
        Settings::new().with("[directory]\nplan_cache = \"60s\"\n"),
    )
    .await;
    project
        .answers("(select '{\"plan\": \"pro\"}'::jsonb from pg_catalog.pg_sleep(0.3))")
        .await;
    // Four at a time: the last of them waits for 1.8 s, and the next look-up comes when nobody waits.
    for crowd in [24, 1] {
        let users: Vec<User> = (0..crowd)
            .map(|number| project.door.user(&format!("{crowd}-{number}")))
            .collect();
        let asking = users
            .into_iter()
            .map(|user| tokio::spawn(async move { user.ask(chat("slow")).await }));
        for one in asking.collect::<Vec<_>>() {
            one.await.unwrap().expect(200);
        }
    }
    project.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_takes_longer_than_anybody_waits_serves_them_when_they_come_again() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let server = Postgres::start(false).await;
    server.create_database("ledger").await;
    let door = Door::open(Settings::new().env("TOLLGATE_STORE__URL", &server.url("ledger"))).await;
    let slow = "alter table tollgate_ledger.subscriptions rename to quick;
        create function tollgate_ledger.slow() returns setof tollgate_ledger.quick language plpgsql volatile as $$ begin
            perform pg_sleep(2.5);
            return query select * from tollgate_ledger.quick;
        end $$;
        create view tollgate_ledger.subscriptions as select * from tollgate_ledger.slow()";
    server
        .connect("ledger")
        .await
        .batch_execute(slow)
        .await
        .unwrap();
    let alice = door.user("alice");
    alice
        .ask(chat("slow"))
        .await
        .refused(503, "store_unavailable");
    served(&[alice]).await;
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_ledger_refuses_at_once_and_takes_holds_again_when_it_speaks() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let server = Postgres::start(false).await;
    server.create_database("ledger").await;
    let relay = Relay::start(server.port()).await;
    let url = by_way_of(&relay, &server, &server.url("ledger"));
    let door = Door::open(Settings::new().env("TOLLGATE_STORE__URL", &url)).await;
    // One for each way into the ledger, as it were: their ids decide.
    let known: Vec<User> = (0..8)
        .map(|number| door.user(&format!("known-{number}")))
        .collect();
    served(&known).await;
    let dialled = door.upstream.count();

    relay.lose_answers();
    let strangers = crowd(&door, "stranger");
    let first = refused(&strangers, "store_unavailable").await;
    assert!(
        first < LEDGER_CALL * CROWD / 2,
        "they waited for one reader in turn: {first:?}"
    );
    let second = refused(&crowd(&door, "later"), "store_unavailable").await;
    assert!(
        second < LEDGER_CALL * 5,
        "whoever comes later knows that it is silent: {second:?}"
    );
    // These have plans, and their holds are what finds out.
    refused(&known, "store_unavailable").await;
    let begun = Instant::now();
    for _ in 0..5 {
        refused(&known, "store_unavailable").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(
        begun.elapsed() < LEDGER_CALL,
        "each of their holds was sent into the silence: {:?}",
        begun.elapsed()
    );
    assert_eq!(
        door.upstream.count(),
        dialled,
        "the upstream was dialled without a durable hold"
    );

    relay.hear_again();
    served(&known).await;
    served(&strangers).await;
    door.close().await;
}
