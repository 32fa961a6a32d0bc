//! Strangers who send the body of a webhook slowly: they take no place from a store.

use std::time::Duration;

use serde_json::json;

use crate::purchases::{open_with, plan, revenuecat_tells, settings, told_by_revenuecat};
use crate::support::apple::Apple;
use crate::support::door::Door;
use crate::support::raw::{Wire, statuses};

/// As many as have a place, and some more.
const STRANGERS: usize = 150;

/// A connection that has sent the head of a webhook and no more, from an address that a trusted proxy has seen.
async fn begun(door: &Door, address: &str, more: &str, length: usize) -> Wire {
    let mut wire = Wire::open(door.front.address()).await;
    let head = format!(
        "POST /webhooks/revenuecat HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
         x-forwarded-for: {address}\r\n{more}content-length: {length}\r\n\r\n"
    );
    wire.send(head.as_bytes()).await.unwrap();
    wire
}

async fn strangers(door: &Door) -> Vec<Wire> {
    let mut wires = Vec::new();
    for _ in 0..STRANGERS {
        let mut wire = begun(door, "198.51.100.7", "", 60_000).await;
        wire.send(b"{").await.unwrap();
        wires.push(wire);
    }
    wires
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_send_slowly_take_no_place_from_a_store() {
    let settings = settings().with(r#"server.trusted_proxies = ["127.0.0.0/8"]"#);
    let door = open_with(settings, &[&Apple::new()]).await;
    let (alice, bob) = (door.user("alice"), door.user("bob"));
    // A store whose body comes in two parts, with a crowd of strangers between them.
    let event = told_by_revenuecat("INITIAL_PURCHASE", &alice, "GPA.1", &json!({})).to_string();
    let proof = "authorization: Bearer canary-rc-auth-5c0d\r\n";
    let mut store = begun(&door, "203.0.113.5", proof, event.len()).await;
    let (first, second) = event.split_at(100);
    store.send(first.as_bytes()).await.unwrap();
    let mut crowd = strangers(&door).await;

    // Its other events are taken at once.
    let other = told_by_revenuecat("INITIAL_PURCHASE", &bob, "GPA.2", &json!({}));
    assert_eq!(revenuecat_tells(&door, &other).await, "applied");
    assert_eq!(plan(&bob).await, "pro by purchase");
    store.send(second.as_bytes()).await.unwrap();
    let (answer, _) = store.read(Duration::from_millis(500)).await;
    assert_eq!(statuses(&answer), [200], "{answer}");
    assert_eq!(plan(&alice).await, "pro by purchase");

    // The first of the strangers made room for the last.
    let (answer, _) = crowd[0].read(Duration::from_millis(200)).await;
    assert_eq!(statuses(&answer), [503], "{answer}");
    let last = crowd.last_mut().unwrap();
    let (answer, is_closed) = last.read(Duration::from_millis(200)).await;
    assert!(answer.is_empty() && !is_closed, "{answer}");
    door.close().await;
}
