//! Connections as a balancer keeps them, and a server that is told to stop behind one.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::support::caller::{Call, chat};
use crate::support::door::Door;
use crate::support::raw::{Wire, statuses};
use crate::support::settings::Settings;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// As the example file has it.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_idle_for_a_minute_are_still_there() {
    let door = Door::open(Settings::new()).await;
    let (mut silent, mut used) = (
        Wire::open(door.front.address()).await,
        Wire::open(door.front.address()).await,
    );
    used.send(GET).await.unwrap();
    assert_eq!(statuses(&used.read(Duration::from_secs(1)).await.0), [200]);
    sleep(Duration::from_secs(62)).await;
    for wire in [&mut silent, &mut used] {
        wire.send(GET).await.unwrap();
        let (text, closed) = wire.read(Duration::from_secs(2)).await;
        assert_eq!((statuses(&text), closed), (vec![200], false));
    }
    door.close().await;
}

/// A head on a connection that was idle has no longer than any other.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_begins_late_has_header_timeout_from_then_on() {
    let settings = "server.header_timeout = \"1s\"\nserver.keep_alive = \"30s\"";
    let door = Door::open(Settings::new().with(settings)).await;
    let mut wire = Wire::open(door.front.address()).await;
    wire.send(GET).await.unwrap();
    assert_eq!(
        statuses(&wire.read(Duration::from_millis(300)).await.0),
        [200]
    );
    sleep(Duration::from_secs(2)).await;
    wire.send(b"GET / HT").await.unwrap();
    let begun = Instant::now();
    let (text, closed) = wire.read(Duration::from_secs(10)).await;
    assert!(
        closed && text.is_empty(),
        "half a head is waited for as long as an idle connection: {text}"
    );
    assert!(
        begun.elapsed() > Duration::from_millis(800),
        "it had no time to be sent"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_stop_it_is_not_ready_and_serves_newcomers_for_shutdown_delay() {
    let door = Door::open(Settings::new().with("server.shutdown_delay = \"4s\"")).await;
    door.send(Call::get("/health/ready")).await.expect(200);
    door.process.signal("TERM");
    let begun = Instant::now();
    while door.send(Call::get("/health/ready")).await.status == 200 {
        assert!(begun.elapsed() < Duration::from_secs(2), "it stays ready");
        sleep(Duration::from_millis(20)).await;
    }
    let ready = door
        .send(Call::get("/health/ready"))
        .await
        .expect(503)
        .json();
    assert_eq!(
        (&ready["status"], &ready["parts"]["server"]["ok"]),
        (&json!("not_ready"), &json!(false)),
        "{ready}"
    );
    while begun.elapsed() < Duration::from_millis(2500) {
        door.user("alice")
            .ask(chat("just after SIGTERM"))
            .await
            .expect(200);
        sleep(Duration::from_millis(20)).await;
    }
    let status = door.process.exited(Duration::from_secs(20)).await;
    assert!(
        status.success() && begun.elapsed() >= Duration::from_secs(4),
        "{status:?} after {:?}",
        begun.elapsed()
    );
    door.start().await;
    door.close().await;
}
