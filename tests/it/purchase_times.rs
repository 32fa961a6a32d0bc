//! When a purchase counts, and until when: at once by whichever way it is told, to the second, and from the moment that the
//! settings have its product.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::sleep;

use crate::purchases::{
    counts_within_a_second, credits, now, open_with, plan, revenuecat_tells, settings,
    settings_with_credits, told_by_revenuecat,
};
use crate::support::apple::Apple;
use crate::support::caller::{User, chat};
use crate::support::settings::Settings;
use crate::support::tools::{Tool, installed};

/// Asks until the plan has ended. No answer says that it counts when its time is over, or that it has ended before.
async fn ends_at(user: &User, end: i64) {
    loop {
        let before = now();
        let plan = plan(user).await;
        if plan != "pro by purchase" {
            assert!(now() >= end, "{plan} too early");
            return;
        }
        assert!(before < end, "still, {} ms late", before - end);
        sleep(Duration::from_millis(10)).await;
    }
}

async fn check_end(settings: Settings, is_on_postgres: bool) {
    let door = open_with(settings, &[&Apple::new()]).await;
    let sibling = if is_on_postgres {
        Some(door.beside().await)
    } else {
        None
    };
    let alice = door.user("alice");
    let there = sibling.as_ref().map(|sibling| sibling.of(&alice));
    let end = now() + 1200;
    let event = json!({"expiration_at_ms": end});
    let event = told_by_revenuecat("INITIAL_PURCHASE", &alice, "GPA.1", &event);
    assert_eq!(revenuecat_tells(&door, &event).await, "applied");
    let answer = alice.ask(chat("while it counts")).await.expect(200);
    assert_eq!(door.row(&answer).await.plan.as_deref(), Some("pro"));
    if let Some(there) = &there {
        counts_within_a_second(there, "pro by purchase", Instant::now()).await;
        tokio::join!(ends_at(&alice, end), ends_at(there, end));
    } else {
        ends_at(&alice, end).await;
    }
    let answer = alice.ask(chat("afterwards")).await.expect(200);
    assert_eq!(door.row(&answer).await.plan.as_deref(), Some("free"));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_ends_with_its_purchase_to_the_second_and_without_an_event() {
    if installed(&[Tool::Postgres]) {
        tokio::join!(
            check_end(settings(), false),
            check_end(settings().on_postgres(), true)
        );
    } else {
        check_end(settings(), false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_replayed_from_a_file_counts_in_the_running_server_within_a_second() {
    let door = open_with(settings(), &[&Apple::new()]).await;
    let alice = door.user("alice");
    assert_eq!(plan(&alice).await, "free by default");
    let event = told_by_revenuecat("INITIAL_PURCHASE", &alice, "GPA.1", &json!({}));
    door.write_file("events.jsonl", &format!("{event}\n\n{event}\n"));
    let replay = ["purchases", "replay", "events.jsonl"];
    let told = door.must(&replay);
    let outcomes: Vec<bool> = ["applied", "unchanged"].map(|it| told.contains(it)).into();
    assert_eq!(outcomes, [true, true], "{told}");
    counts_within_a_second(&alice, "pro by purchase", Instant::now()).await;
    let audit = door.must(&["purchases", "--events", "--json"]);
    assert_eq!(audit.lines().count(), 1, "{audit}");
    // Nothing is taken of a file of which one event cannot be read.
    let end = json!({"expiration_at_ms": now() - 1});
    let end = told_by_revenuecat("EXPIRATION", &alice, "GPA.1", &end);
    door.write_file("events.jsonl", &format!("{end}\n{{\"a\": 1}}\n"));
    let refused = door.tollgate(&replay);
    assert!(
        refused.code == Some(1) && refused.stderr.contains("event 2"),
        "{}",
        refused.stderr
    );
    assert_eq!(plan(&alice).await, "pro by purchase");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_bought_before_the_settings_had_its_product_is_given_once_they_do() {
    let door = open_with(settings_with_credits(), &[&Apple::new()]).await;
    let (alice, bob) = (door.user("alice"), door.user("bob"));
    let bought = |user: &User, transaction: &str, product: &str| {
        let more = json!({"product_id": product, "expiration_at_ms": null});
        told_by_revenuecat("NON_RENEWING_PURCHASE", user, transaction, &more)
    };
    let coins = bought(&alice, "GPA.1", "com.example.coins");
    assert_eq!(revenuecat_tells(&door, &coins).await, "no_product");
    let life = bought(&bob, "GPA.2", "com.example.life");
    assert_eq!(revenuecat_tells(&door, &life).await, "no_product");
    assert_eq!(revenuecat_tells(&door, &coins).await, "repeated");
    assert_eq!(
        (credits(&alice).await, plan(&bob).await.as_str()),
        (None, "free by default")
    );
    // Told again from a file it changes nothing, and still waits.
    door.write_file("events.jsonl", &format!("{coins}\n"));
    door.must(&["purchases", "replay", "events.jsonl"]);
    // The operator hears of it in the log, in the list of events, and of `doctor`.
    door.process.until_it_says("in no [products]").await;
    let told = door.must(&["purchases", "--events"]);
    assert_eq!(told.matches("no_product").count(), 2, "{told}");
    let doctor = door.tollgate(&["doctor"]);
    let line = "it gives nothing: com.example.coins, com.example.life";
    assert!(doctor.stdout.contains(line), "{}", doctor.stdout);

    let more = r#"
        products."com.example.coins" = { credit_usd = "0.003" }
        products."com.example.life" = { plan = "pro" }
    "#;
    door.write_settings(&settings_with_credits().with(more));
    door.process.until_it_says("it was given").await;
    assert_eq!(credits(&alice).await, Some(3000));
    assert_eq!(plan(&bob).await, "pro by purchase");
    let told = door.must(&["purchases", "--events"]);
    assert_eq!(told.matches("applied").count(), 2, "{told}");
    // Once: also after a restart, and by the event itself.
    door.restart().await;
    assert_eq!(revenuecat_tells(&door, &coins).await, "repeated");
    assert_eq!(credits(&alice).await, Some(3000));
    door.must(&["ledger", "check"]);
    door.close().await;
}
