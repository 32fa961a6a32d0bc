//! Killed, out of space, cut off: checks 19 and 21 of the threats.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::support::caller::{Answer, Call, User, chat, chat_stream};
use crate::support::disk::{self, MAY_BE_LIMITED, Tmpfs, limit_files};
use crate::support::door::Door;
use crate::support::load::{Dice, keeps_asking};
use crate::support::oracle::Row;
use crate::support::reply::Talk;
use crate::support::settings::Settings;
use crate::support::tools::not_checked;

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_under_load_the_laws_hold() {
    let limits = r#"plans.free.limits = [{ per = "lifetime", cost_usd = "0.0200" }, { per = "day", requests = 100000 }]"#;
    let door = Door::open(Settings::new().with(limits)).await;
    door.upstream
        .always(|seen| Talk::words(8).every(Duration::from_millis(4)).reply(seen));
    let mut dice = Dice::thrown();
    let users: Vec<User> = (0..4)
        .map(|number| door.user(&format!("user-{number}")))
        .collect();
    let asking: Vec<_> = (0..16)
        .map(|number| keeps_asking(users[number % users.len()].clone(), dice.another()))
        .collect();
    let watch = Door::watch(&users[0]);
    let mut left_open = Vec::new();
    for _ in 0..5 {
        sleep(Duration::from_millis(30 + dice.below(500))).await;
        door.process.kill9();
        // What it had sent to Postgres may still be carried out there.
        sleep(Duration::from_millis(500)).await;
        left_open.extend(
            door.ledger_rows()
                .into_iter()
                .filter(|row| row.state == "held"),
        );
        door.start().await;
    }
    assert!(
        !left_open.is_empty(),
        "no moment was one at which something was open"
    );
    sleep(Duration::from_millis(300)).await;
    drop(watch);
    for one in &asking {
        one.abort();
    }
    for one in asking {
        let _ = one.await;
    }
    // What a dead process held is not held any more, nor is it forgotten or given back.
    let rows: HashMap<Uuid, Row> = door
        .quiet_rows()
        .await
        .into_iter()
        .map(|row| (row.id, row))
        .collect();
    for before in left_open {
        let after = &rows[&before.id];
        assert_eq!(
            (after.state.as_str(), after.cost_micros),
            ("lost", before.held_micros),
            "{before:?} became {after:?}"
        );
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_died_with_the_process_is_lost_and_charged_its_hold() {
    let door = Door::open(Settings::new()).await;
    door.upstream.always(|seen| {
        Talk::words(50)
            .every(Duration::from_millis(100))
            .reply(seen)
    });
    let alice = door.user("alice");
    let mut open = alice.open(chat_stream("a")).await;
    open.take(3).await;
    door.process.kill9();
    let heard = open.rest().await;
    assert!(!heard.text().contains("[DONE]"));
    door.start().await;
    door.swept().await;
    let me = alice.me().await;
    assert!(
        me["limits"]
            .as_array()
            .unwrap()
            .iter()
            .all(|limit| limit["held"] == 0 || limit["held"] == "0.000000"),
        "{me}"
    );
    let row = door.row(&heard).await;
    assert_eq!(
        (row.state.as_str(), row.cost_micros),
        ("lost", row.held_micros),
        "{row:?}"
    );
    assert!(row.cost() > 0);
    door.close().await;
}

/// What a ledger says of itself.
fn integrity(door: &Door) -> String {
    disk::integrity(&door.directory().join("data/tollgate.db"))
}

/// Asks until the answer has this status.
async fn until(user: &User, status: u16) -> Answer {
    let begun = Instant::now();
    loop {
        let answer = user.ask(chat("is it so yet")).await;
        if answer.status == status {
            return answer;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "no {status} in ten seconds: {}",
            answer.text()
        );
        sleep(Duration::from_millis(50)).await;
    }
}

/// While the ledger cannot be written: 503, and the upstream is not dialled. Then all is well again, by itself.
async fn full_and_then_not(door: &Door, fill: impl Fn(), free: impl Fn()) {
    let alice = door.user("alice");
    for _ in 0..3 {
        alice.ask(chat("before")).await.expect(200);
    }
    door.upstream
        .next(|seen| Talk::words(5).every(Duration::from_millis(400)).reply(seen));
    let mut open = alice.open(chat_stream("open meanwhile")).await;
    open.take(1).await;
    fill();
    until(&alice, 503).await.refused(503, "store_unavailable");
    let served = door.upstream.count();
    for _ in 0..5 {
        alice
            .ask(chat("full"))
            .await
            .refused(503, "store_unavailable");
    }
    assert_eq!(
        door.upstream.count(),
        served,
        "the upstream was dialled without a durable hold"
    );
    assert_eq!(door.send(Call::get("/")).await.status, 200);
    door.send(Call::get("/health/ready")).await.expect(503);
    let heard = open.rest().await;
    free();
    until(&alice, 200).await;
    let row = door.row(&heard).await;
    assert!(
        row.state == "settled" && row.output_tokens == Some(5),
        "what ended meanwhile is settled when it can be: {row:?}"
    );
    door.send(Call::get("/health/ready")).await.expect(200);
    assert_eq!(integrity(door), "ok");
    door.restart().await;
    assert_eq!(integrity(door), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_may_not_grow_is_503_and_recovers() {
    let door = Door::open(Settings::new().on_sqlite().under(MAY_BE_LIMITED)).await;
    let pid = door.process.pid();
    full_and_then_not(
        &door,
        || limit_files(pid, "4096"),
        || limit_files(pid, "unlimited"),
    )
    .await;
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_503_and_recovers() {
    let door = Door::prepare(Settings::new().on_sqlite()).await;
    let Some(disk) = Tmpfs::mount(door.directory().join("data"), 4) else {
        not_checked(
            "this user may not mount a small disk, but a ledger that may not grow is tested",
        );
        door.start().await;
        return door.close().await;
    };
    door.start().await;
    full_and_then_not(&door, || disk.fill(), || disk.free()).await;
    door.close().await;
}
