//! Callers who take their time, and many of them: check 18 of the threats.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::smuggling::{PATH, raw};
use crate::support::caller::{Call, User, and, chat, chat_stream};
use crate::support::door::Door;
use crate::support::raw::{Wire, statuses};
use crate::support::reply::{Reply, Step, Talk};
use crate::support::settings::Settings;

/// Asks for a whole stream again and again while something else goes on. How long the fastest took.
async fn serves_well(door: &Door, what: &str) -> Duration {
    let bob = door.user("bob");
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        let begun = Instant::now();
        let answer = bob.ask(chat_stream("an honest stream")).await.expect(200);
        assert!(answer.text().ends_with("data: [DONE]\n\n"), "{what}: {}", answer.text());
        fastest = fastest.min(begun.elapsed());
    }
    fastest
}

/// What one machine does twice may take thrice as long by chance, and not ten times.
fn as_fast_as_before(now: Duration, before: Duration, what: &str) {
    assert!(now < before * 10, "{what}: an honest stream took {before:?} before, and now {now:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_sent_heads_are_closed_and_nobody_notices() {
    let door = Door::open(Settings::new().with(r#"server.header_timeout = "2s""#)).await;
    let before = serves_well(&door, "alone").await;
    let mut wires = Vec::new();
    for number in 0..500 {
        let mut wire = Wire::open(door.front.address()).await;
        let head = format!("POST {PATH} HTTP/1.1\r\nHost: a\r\nX-{number}: a");
        wire.send(&head.as_bytes()[..number % head.len()]).await.unwrap();
        wires.push(wire);
    }
    let now = serves_well(&door, "with 500 half-sent heads").await;
    as_fast_as_before(now, before, "with 500 half-sent heads");
    sleep(Duration::from_secs(3)).await;
    for (number, wire) in wires.iter_mut().enumerate() {
        assert!(wire.is_closed_within(Duration::from_secs(5)).await, "half-sent head {number} is still open");
    }
    assert_eq!(door.ledger_rows().len(), 10);
    door.close().await;
}

/// Few descriptors, and fewer yet for a server that does not ask for all of them.
const FEW_DESCRIPTORS: &[&str] = &["sh", "-c", "ulimit -Sn 128; ulimit -Hn 256; exec \"$@\"", "sh"];

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_say_nothing_keep_nobody_out_and_take_no_descriptor_that_is_needed() {
    // Nobody is waited for: silence is closed only after this test.
    let settings = Settings::new().with(r#"server.header_timeout = "60s""#).under(FEW_DESCRIPTORS);
    let door = Door::open(settings).await;
    door.process.until_it_says("and 256 are allowed").await;
    door.upstream.next(|seen| Talk::words(20).every(Duration::from_millis(200)).reply(seen));
    let mut open = door.user("alice").open(chat_stream("a long one")).await;
    open.next_block().await.unwrap();
    let mut wires = Vec::new();
    for number in 0..400 {
        let mut wire = Wire::open(door.front.address()).await;
        // Every other begins a head; it may have been closed already.
        if number % 2 == 0 {
            drop(wire.send(b"GET / HTTP/1.1\r\nHost: a\r\nX").await);
        }
        wires.push(wire);
    }
    let honest = serves_well(&door, "with 400 silent connections");
    timeout(Duration::from_secs(20), honest).await.expect("an honest stream is kept waiting");
    for path in ["/", "/health/ready"] {
        assert_eq!(door.send(Call::get(path)).await.status, 200, "{path}");
    }
    let whole = open.rest().await;
    assert!(whole.text().ends_with("data: [DONE]\n\n"), "who was heard is not cut: {}", whole.text());
    let output = door.process.output();
    assert!(!output.contains("cannot accept a connection"), "{}", door.process.tail());
    drop(wires);
    door.close().await;
}

/// Sends a head and then a byte now and then, until it is told off or cut. What it was told.
async fn drips(address: SocketAddr, head: Vec<u8>) -> String {
    let mut wire = Wire::open(address).await;
    wire.send(&head).await.unwrap();
    let begun = Instant::now();
    while wire.send(b" ").await.is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(15), "a dripping body is still open");
        if let (text, true) = wire.read(Duration::from_millis(300)).await {
            return text;
        }
    }
    String::new()
}

#[tokio::test(flavor = "multi_thread")]
async fn dripping_bodies_are_cut_and_nobody_notices() {
    let door = Door::open(Settings::new().with(r#"server.body_timeout = "2s""#)).await;
    let mallory = door.user("mallory");
    let lines = [format!("Host: a\r\nAuthorization: Bearer {}", mallory.token), "Content-Length: 5000".to_owned()];
    let head = raw(&format!("POST {PATH} HTTP/1.1"), &lines, "{\"messages\":");
    let before = serves_well(&door, "alone").await;
    let dripping: Vec<_> = (0..100).map(|_| tokio::spawn(drips(door.front.address(), head.clone()))).collect();
    let now = serves_well(&door, "with 100 dripping bodies").await;
    as_fast_as_before(now, before, "with 100 dripping bodies");
    for one in dripping {
        let text = one.await.unwrap();
        assert!(statuses(&text).iter().all(|status| (400..500).contains(status)), "{text}");
    }
    assert_eq!(door.upstream.count(), 10);
    door.close().await;
}

/// So many bytes of events, or as many as the other side takes.
fn flood(bytes: usize) -> Reply {
    let event = r#"data: {"choices":[{"index":0,"delta":{"content":" alpha"},"finish_reason":null}],"usage":null}"#;
    Reply::events(vec![Step::Flood(format!("{event}\n\n").repeat(300).into_bytes(), bytes)])
}

/// Asks for a long stream with a small window, and reads none of it.
async fn asks_and_never_reads(door: &Door, user: &User) -> Wire {
    let mut wire = Wire::open_narrow(door.front.address()).await;
    let body = and(chat_stream("never read"), &json!({"max_tokens": 30_000})).to_string();
    let lines = [format!("Host: a\r\nAuthorization: Bearer {}", user.token), format!("Content-Length: {}", body.len())];
    wire.send(&raw(&format!("POST {PATH} HTTP/1.1"), &lines, &body)).await.unwrap();
    wire
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_never_read_are_bounded_and_nobody_notices() {
    let settings = Settings::new()
        .with("plans.free.max_output_tokens = 30000\nplans.free.concurrent_requests = 200")
        .with("proxy.total_timeout = \"8s\"\nproxy.idle_timeout = \"3s\"\nproxy.drain_timeout = \"2s\"");
    let door = Door::open(settings).await;
    // Each never-read answer is 6 MB of events; only the sockets' buffers may take some of it.
    door.upstream.always(|seen| match seen.cap() {
        Some(30_000) => flood(6_000_000),
        _ => Talk::words(5).reply(seen),
    });
    let mallory = door.user("mallory");
    let before = door.process.memory();
    let mut wires = Vec::new();
    for _ in 0..100 {
        wires.push(asks_and_never_reads(&door, &mallory).await);
    }
    serves_well_capped(&door).await;
    let grown = door.process.memory().saturating_sub(before);
    assert!(grown < 200, "100 unread answers took {grown} MiB");
    // Nobody reads on, and still everything ends.
    let begun = Instant::now();
    while mallory.me().await["concurrent"]["open"] != 0 {
        assert!(begun.elapsed() < Duration::from_secs(40), "unread answers are open for ever");
        sleep(Duration::from_millis(200)).await;
    }
    drop(wires);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_never_reads_is_closed_long_before_its_answer_may_end() {
    let settings = Settings::new()
        .with("plans.free.max_output_tokens = 30000\nserver.body_timeout = \"2s\"")
        .with("proxy.total_timeout = \"5m\"\nproxy.drain_timeout = \"1s\"");
    let door = Door::open(settings).await;
    door.upstream.always(|_| flood(60_000_000));
    let mallory = door.user("mallory");
    let wire = asks_and_never_reads(&door, &mallory).await;
    let begun = Instant::now();
    while door.upstream.count() == 0 || mallory.me().await["concurrent"]["open"] != 0 {
        assert!(begun.elapsed() < Duration::from_secs(40), "an unread answer is open for ever");
        sleep(Duration::from_millis(200)).await;
    }
    drop(wire);
    door.close().await;
}

async fn serves_well_capped(door: &Door) {
    let bob = door.user("bob");
    for _ in 0..5 {
        let answer = bob.ask(and(chat_stream("honest"), &json!({"max_tokens": 5}))).await.expect(200);
        assert!(answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_and_a_busy_one_is_kept() {
    let door = Door::open(Settings::new().with(r#"server.header_timeout = "2s""#)).await;
    let mut wire = Wire::open(door.front.address()).await;
    let get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for _ in 0..3 {
        wire.send(get).await.unwrap();
        let (text, closed) = wire.read(Duration::from_millis(300)).await;
        assert_eq!((statuses(&text), closed), (vec![200], false));
    }
    assert!(wire.is_closed_within(Duration::from_secs(8)).await, "an idle connection is kept for ever");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_open_requests_than_the_server_takes_are_told_so() {
    let door = Door::open(Settings::new().with("server.open_requests_max = 3")).await;
    door.upstream.always(|seen| Talk::words(1).every(Duration::from_secs(2)).reply(seen));
    let mut open = Vec::new();
    for number in 0..3 {
        let mut stream = door.user(&format!("user-{number}")).open(chat_stream("a")).await;
        stream.next_block().await.unwrap();
        open.push(stream);
    }
    let refused = door.user("late").ask(chat("a")).await;
    refused.refused(503, "overloaded");
    assert_eq!(door.send(Call::get("/")).await.status, 200, "liveness is no request");
    for stream in open {
        stream.rest().await;
    }
    door.user("late").ask(chat("a")).await.expect(200);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_cannot_make_it_read_a_body() {
    let door = Door::open(Settings::new()).await;
    let mut wire = Wire::open(door.front.address()).await;
    wire.send(format!("POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 8000000\r\n\r\n").as_bytes()).await.unwrap();
    let (text, _) = wire.read(Duration::from_millis(700)).await;
    assert_eq!(statuses(&text), [401], "a stranger waits for an answer until the body is there: {text}");
    let body: Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(body["error"]["code"], "missing_token");
    door.close().await;
}
