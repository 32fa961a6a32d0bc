//! A Postgres that crashes, is away, or is behind a pooler, and callers that leave at any moment.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::support::caller::{Call, User, chat, chat_stream};
use crate::support::door::Door;
use crate::support::load::{Dice, keeps_asking};
use crate::support::pgbouncer::PgBouncer;
use crate::support::postgres::Postgres;
use crate::support::relay::Relay;
use crate::support::reply::Talk;
use crate::support::settings::Settings;
use crate::support::tools::{Tool, installed};

/// A prompt that is answered for longer than ten seconds.
const LASTS: &str = "open meanwhile";

/// A server of the test's own with an empty database `ledger`.
async fn server() -> Postgres {
    let server = Postgres::start(false).await;
    server.create_database("ledger").await;
    server
}

fn on(url: &str) -> Settings {
    Settings::new()
        .env("TOLLGATE_STORE__URL", url)
        .env("TOLLGATE_STORE__LEASE", "5s")
}

/// Sixteen callers who keep asking as four users.
fn load(door: &Door, dice: &mut Dice) -> (Vec<User>, Vec<JoinHandle<()>>) {
    door.upstream.always(|seen| {
        // Some are to outlast an outage.
        let lasts = seen.body.to_string().contains(LASTS);
        let (words, pause) = if lasts { (5, 2500) } else { (8, 4) };
        Talk::words(words)
            .every(Duration::from_millis(pause))
            .reply(seen)
    });
    let users: Vec<User> = (0..4)
        .map(|number| door.user(&format!("user-{number}")))
        .collect();
    let asking = (0..16)
        .map(|number| keeps_asking(users[number % users.len()].clone(), dice.another()))
        .collect();
    (users, asking)
}

async fn end(asking: Vec<JoinHandle<()>>) {
    for one in &asking {
        one.abort();
    }
    for one in asking {
        let _ = one.await;
    }
}

/// Waits until a user is served again, which must be so within five seconds.
async fn recovered(user: &User, what: &str) {
    let begun = Instant::now();
    loop {
        let answer = user.ask(chat("is it back")).await;
        if answer.status == 200 {
            break;
        }
        assert_eq!(
            answer.refusal(),
            (503, "store_unavailable".to_owned()),
            "{what}"
        );
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{what}: not back in five seconds"
        );
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_crashes_five_times_under_load_and_the_laws_hold() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let server = server().await;
    let door = Door::open(on(&server.url("ledger"))).await;
    let pid = door.process.pid();
    let mut dice = Dice::thrown();
    let (users, asking) = load(&door, &mut dice);
    let watch = Door::watch(&users[0]);
    for round in 0..5 {
        sleep(Duration::from_millis(100 + dice.below(600))).await;
        tokio::task::block_in_place(|| server.restart_immediate());
        for user in &users {
            recovered(user, &format!("crash {round}")).await;
        }
    }
    sleep(Duration::from_millis(300)).await;
    drop(watch);
    end(asking).await;
    assert!(
        door.process.exit_status().is_none() && door.process.pid() == pid,
        "no restart was needed"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_seconds_without_postgres_are_503_and_nothing_is_sent_unheld() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let server = server().await;
    let door = Door::open(on(&server.url("ledger"))).await;
    let sibling = door.beside().await;
    let mut dice = Dice::thrown();
    let (users, asking) = load(&door, &mut dice);
    sleep(Duration::from_millis(300)).await;
    // Streams of both processes that outlast the outage, and with it their leases.
    let mut open = Vec::new();
    for user in [door.user("alice"), sibling.of(&door.user("bob"))] {
        open.push(user.open(chat_stream(LASTS)).await);
    }
    tokio::task::block_in_place(|| server.stop("immediate"));
    let down = Instant::now();
    sleep(Duration::from_millis(300)).await; // what was held before is sent on
    let dialled = door.upstream.count();
    while down.elapsed() < Duration::from_secs(10) {
        for user in [users[1].clone(), sibling.of(&users[2])] {
            let asked = Instant::now();
            user.ask(chat("down"))
                .await
                .refused(503, "store_unavailable");
            assert!(
                asked.elapsed() < Duration::from_secs(3),
                "a refusal took {:?}",
                asked.elapsed()
            );
        }
        door.send(Call::get("/health/ready")).await.expect(503);
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(
        door.upstream.count(),
        dialled,
        "the upstream was dialled without a durable hold"
    );
    tokio::task::block_in_place(|| server.start_again());
    for user in users.iter().cloned().chain([sibling.of(&users[0])]) {
        recovered(&user, "ten seconds down").await;
    }
    end(asking).await;
    for stream in open {
        let row = door.row(&stream.rest().await).await;
        assert!(
            row.state == "settled" && row.output_tokens == Some(5),
            "a stream over an outage is settled: {row:?}"
        );
    }
    door.send(Call::get("/health/ready")).await.expect(200);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_whose_commit_was_never_heard_of_is_refused_and_taken_back() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let server = server().await;
    let wire = Relay::start(server.port()).await;
    let url = server
        .url("ledger")
        .replace(&server.port().to_string(), &wire.port().to_string());
    let door = Door::open(on(&url)).await;
    let alice = door.user("alice");
    alice.ask(chat("before")).await.expect(200);
    door.quiet_rows().await;

    wire.lose_answers();
    let waiting = tokio::spawn({
        let alice = alice.clone();
        async move { alice.ask(chat("unheard")).await }
    });
    let watching = server.connect("ledger").await;
    let sql = "select count(*) from tollgate_ledger.requests where state = 'held'";
    let begun = Instant::now();
    loop {
        let held: i64 = watching.query_typed_one(sql, &[]).await.unwrap().get(0);
        if held == 1 {
            break;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(4),
            "the hold never arrived"
        );
        sleep(Duration::from_millis(10)).await;
    }
    wire.cut();
    waiting.await.unwrap().refused(503, "store_unavailable");
    recovered(&alice, "after the cut").await;
    // The oracle counts what is charged; this one must not even be there as lost.
    let rows = door.quiet_rows().await;
    let states: Vec<&str> = rows.iter().map(|row| row.state.as_str()).collect();
    assert_eq!(
        states.iter().filter(|state| **state == "voided").count(),
        1,
        "{states:?}"
    );
    assert_eq!(door.upstream.count(), 2);
    door.close().await;
}

/// Leaves a few hundred requests at any moment; meanwhile nobody is ever idle in a transaction.
async fn leaving(door: &Door, server: &Postgres) {
    let watching = server.connect("ledger").await;
    let watch: JoinHandle<()> = tokio::spawn(async move {
        let sql = "select count(*) from pg_stat_activity where state like 'idle in transaction%'";
        loop {
            let idle: i64 = watching.query_typed_one(sql, &[]).await.unwrap().get(0);
            assert_eq!(idle, 0, "somebody is idle in a transaction");
            sleep(Duration::from_millis(5)).await;
        }
    });
    let mut dice = Dice::thrown();
    let users: Vec<User> = (0..8)
        .map(|number| door.user(&format!("leaver-{number}")))
        .collect();
    let mut going = Vec::new();
    for number in 0..300 {
        let (user, mut dice) = (users[number % users.len()].clone(), dice.another());
        going.push(tokio::spawn(async move {
            let begun = user.begin(chat_stream("leaves")).await;
            sleep(Duration::from_micros(dice.below(30_000))).await;
            begun.hang_up();
        }));
        sleep(Duration::from_millis(2)).await;
    }
    for one in going {
        one.await.unwrap();
    }
    let rows = door.quiet_rows().await;
    assert!(rows.iter().all(|row| row.state != "held"), "a hold leaked");
    assert!(!watch.is_finished(), "{:?}", watch.await);
    watch.abort();
    for user in &users {
        user.ask(chat("stays")).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_leave_at_any_moment_leave_no_transaction_open_and_no_hold() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let server = server().await;
    let door = Door::open(on(&server.url("ledger"))).await;
    leaving(&door, &server).await;
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_pooler_with_two_connections_is_enough() {
    if !installed(&[Tool::Postgres, Tool::PgBouncer]) {
        return;
    }
    let server = server().await;
    let pooler = PgBouncer::start(&server, 2).await;
    let settings =
        on(&pooler.url("ledger")).with("plans.free.limits = [{ per = \"day\", requests = 1000 }]");
    let door = Door::open(settings).await;
    let sibling = door.beside().await;
    let alice = door.user("alice");
    for user in [alice.clone(), sibling.of(&alice)] {
        user.ask(chat("a")).await.expect(200);
    }
    leaving(&door, &server).await;
    door.quiet_rows().await;
    assert_eq!(alice.me().await["limits"][0]["used"], 2);
    // And a pooler whose connections all break is as good as new.
    server.restart_immediate();
    for user in [alice.clone(), sibling.of(&alice)] {
        recovered(&user, "behind the pooler").await;
    }
    door.close().await;
}
