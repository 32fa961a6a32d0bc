//! Callers who take their time, and many of them: check 18 of the threats.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::smuggling::{PATH, raw};
use crate::support::caller::{Call, User, and, chat, chat_stream};
use crate::support::door::Door;
use crate::support::raw::{After, Wire, statuses, told};
use crate::support::reply::{Reply, Step, Talk};
use crate::support::settings::Settings;

/// What who is slow is answered: rows of docs/odd-requests.md, which the tests below hold.
pub(crate) const ANSWERS: [(&str, &str); 5] = [
    ("nothing at all, for `[server] keep_alive`", SILENT),
    (
        "half a head, and then nothing, for `[server] header_timeout`",
        HALF_SENT,
    ),
    (
        "a body that is not there after `[server] body_timeout`, however often a byte of it comes",
        DRIPPED,
    ),
    ("nothing after an answer, for `[server] keep_alive`", SILENT),
    (
        "an answer that nobody reads, for `[server] body_timeout`",
        UNREAD,
    ),
];
const SILENT: &str = "closed without an answer";
const HALF_SENT: &str = "closed without an answer";
const DRIPPED: &str = "400, closed";
const UNREAD: &str = "200, closed before its end";

/// How many streams are asked for to compare two products.
const ROUNDS: usize = 21;

/// What [`ROUNDS`] honest streams took of each of two products.
struct Compared {
    busy: Duration,
    quiet: Duration,
    /// Of the processor, all streams together.
    busy_cpu: Duration,
    quiet_cpu: Duration,
}

/// Asks each of two products for a whole stream in turn, so that whatever the machine does meanwhile meets both.
async fn side_by_side(busy: &Door, quiet: &Door) -> Compared {
    let mut took = [Vec::new(), Vec::new()];
    let cpu = [busy, quiet].map(|door| door.process.cpu());
    for _ in 0..ROUNDS {
        for (took, door) in took.iter_mut().zip([busy, quiet]) {
            let begun = Instant::now();
            let body = and(chat_stream("an honest stream"), &json!({"max_tokens": 5}));
            let answer = door.user("bob").ask(body).await.expect(200);
            assert!(
                answer.text().ends_with("data: [DONE]\n\n"),
                "{}",
                answer.text()
            );
            took.push(begun.elapsed());
        }
    }
    let spent = [0, 1].map(|which| {
        [busy, quiet][which]
            .process
            .cpu()
            .saturating_sub(cpu[which])
    });
    let [busy, quiet] = took.map(|mut took| {
        took.sort();
        took[ROUNDS / 2]
    });
    Compared {
        busy,
        quiet,
        busy_cpu: spent[0],
        quiet_cpu: spent[1],
    }
}

/// Whether who is honest waits no longer than twice as long: the medians of streams asked for in turn.
fn is_as_fast(compared: &Compared) -> bool {
    compared.busy <= compared.quiet * 2
}

/// And whether it costs no more than twice the work. (What is measured comes in hundredths of a second.)
fn is_as_cheap(compared: &Compared) -> bool {
    compared.busy_cpu <= compared.quiet_cpu * 2 + Duration::from_millis(50)
}

fn shown(compared: &Compared) -> String {
    let Compared {
        busy,
        quiet,
        busy_cpu,
        quiet_cpu,
    } = compared;
    format!(
        "an honest stream took {busy:?} beside {quiet:?} elsewhere; the processor's time was {busy_cpu:?} and {quiet_cpu:?}"
    )
}

/// Half of what a head might be, cut at another place each.
async fn half_sent_heads(door: &Door, count: usize) -> Vec<Wire> {
    let mut wires = Vec::new();
    for number in 0..count {
        let mut wire = Wire::open(door.front.address()).await;
        let head = format!("POST {PATH} HTTP/1.1\r\nHost: a\r\nX-{number}: a");
        wire.send(&head.as_bytes()[..number % head.len()])
            .await
            .unwrap();
        wires.push(wire);
    }
    wires
}

#[tokio::test(flavor = "multi_thread")]
async fn half_sent_heads_are_closed_and_nobody_notices() {
    let settings = || Settings::new().with(r#"server.keep_alive = "10s""#);
    let (door, quiet) = (Door::open(settings()).await, Door::open(settings()).await);
    let mut tries = Vec::new();
    let mut wires = Vec::new();
    // A machine that others use has bad moments: it is measured once more.
    while tries.len() < 2
        && !tries
            .last()
            .is_some_and(|last| is_as_fast(last) && is_as_cheap(last))
    {
        drop(std::mem::replace(
            &mut wires,
            half_sent_heads(&door, 500).await,
        ));
        tries.push(side_by_side(&door, &quiet).await);
        eprintln!("with 500 half-sent heads {}", shown(tries.last().unwrap()));
        let (text, closed) = wires[0].read(Duration::from_millis(1)).await;
        assert!(
            text.is_empty() && !closed,
            "the measuring outlasted `header_timeout`: nothing was held open"
        );
    }
    let last = tries.last().unwrap();
    assert!(
        is_as_fast(last) && is_as_cheap(last),
        "with 500 half-sent heads {}",
        shown(last)
    );
    for (number, wire) in wires.iter_mut().enumerate() {
        let (text, closed) = wire.read(Duration::from_secs(15)).await;
        assert!(closed, "half-sent head {number} is still open");
        // The first of them sent nothing at all.
        assert_eq!(
            told((&statuses(&text), After::Closed)),
            if number == 0 { SILENT } else { HALF_SENT },
            "{number}: {text}"
        );
    }
    assert_eq!(door.ledger_rows().len(), ROUNDS * tries.len());
    door.close().await;
    quiet.close().await;
}

/// Few descriptors, and fewer yet for a server that does not ask for all of them.
const FEW_DESCRIPTORS: &[&str] = &[
    "sh",
    "-c",
    "ulimit -Sn 128; ulimit -Hn 256; exec \"$@\"",
    "sh",
];

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_say_nothing_keep_nobody_out_and_take_no_descriptor_that_is_needed() {
    // Nobody is waited for: silence is closed only after this test.
    let settings = Settings::new()
        .with(r#"server.header_timeout = "60s""#)
        .under(FEW_DESCRIPTORS);
    let door = Door::open(settings).await;
    door.process.until_it_says("and 256 are allowed").await;
    door.upstream.next(|seen| {
        Talk::words(20)
            .every(Duration::from_millis(200))
            .reply(seen)
    });
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
    for number in 0..5 {
        let bob = door.user("bob");
        let honest = timeout(
            Duration::from_secs(20),
            bob.ask(chat_stream("an honest stream")),
        );
        let answer = honest
            .await
            .expect("an honest stream is kept waiting")
            .expect(200);
        assert!(
            answer.text().ends_with("data: [DONE]\n\n"),
            "{number}: {}",
            answer.text()
        );
    }
    for path in ["/", "/health/ready"] {
        assert_eq!(door.send(Call::get(path)).await.status, 200, "{path}");
    }
    let whole = open.rest().await;
    assert!(
        whole.text().ends_with("data: [DONE]\n\n"),
        "who was heard is not cut: {}",
        whole.text()
    );
    let output = door.process.output();
    assert!(
        !output.contains("cannot accept a connection"),
        "{}",
        door.process.tail()
    );
    drop(wires);
    door.close().await;
}

/// Sends a head and then a byte now and then, until it is told off or cut. What it was told.
async fn drips(address: SocketAddr, head: Vec<u8>) -> String {
    let mut wire = Wire::open(address).await;
    wire.send(&head).await.unwrap();
    let (mut begun, mut heard) = (Instant::now(), String::new());
    loop {
        let sent = wire.send(b" ").await;
        let (text, closed) = wire.read(Duration::from_millis(300)).await;
        if heard.is_empty() && !text.is_empty() {
            begun = Instant::now();
        }
        heard += &text;
        if closed || sent.is_err() {
            return heard;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(40),
            "a dripping body is still open; it was told {heard:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dripping_bodies_are_cut_and_nobody_notices() {
    let settings = || Settings::new().with(r#"server.body_timeout = "6s""#);
    let (door, quiet) = (Door::open(settings()).await, Door::open(settings()).await);
    let mallory = door.user("mallory");
    let lines = [
        format!("Host: a\r\nAuthorization: Bearer {}", mallory.token),
        "Content-Length: 5000".to_owned(),
    ];
    let head = raw(&format!("POST {PATH} HTTP/1.1"), &lines, "{\"messages\":");
    let mut tries = Vec::new();
    while tries.len() < 2 && !tries.last().is_some_and(is_as_fast) {
        let dripping: Vec<_> = (0..100)
            .map(|_| tokio::spawn(drips(door.front.address(), head.clone())))
            .collect();
        tries.push(side_by_side(&door, &quiet).await);
        eprintln!("with 100 dripping bodies {}", shown(tries.last().unwrap()));
        assert!(
            dripping.iter().all(|one| !one.is_finished()),
            "the measuring outlasted `body_timeout`"
        );
        for one in dripping {
            let text = one.await.unwrap();
            assert_eq!(told((&statuses(&text), After::Closed)), DRIPPED, "{text}");
        }
    }
    let last = tries.last().unwrap();
    assert!(is_as_fast(last), "with 100 dripping bodies {}", shown(last));
    assert_eq!(door.upstream.count(), ROUNDS * tries.len());
    door.close().await;
    quiet.close().await;
}

/// So many bytes of events, or as many as the other side takes.
fn flood(bytes: usize) -> Reply {
    let event = r#"data: {"choices":[{"index":0,"delta":{"content":" alpha"},"finish_reason":null}],"usage":null}"#;
    Reply::events(vec![Step::Flood(
        format!("{event}\n\n").repeat(300).into_bytes(),
        bytes,
    )])
}

/// Asks for a long stream with a small window, and reads none of it.
async fn asks_and_never_reads(door: &Door, user: &User) -> Wire {
    let mut wire = Wire::open_narrow(door.front.address()).await;
    let body = and(chat_stream("never read"), &json!({"max_tokens": 30_000})).to_string();
    let lines = [
        format!("Host: a\r\nAuthorization: Bearer {}", user.token),
        format!("Content-Length: {}", body.len()),
    ];
    wire.send(&raw(&format!("POST {PATH} HTTP/1.1"), &lines, &body))
        .await
        .unwrap();
    wire
}

/// A product whose long answers are six megabytes of events, of which only the sockets' buffers may take some.
async fn with_long_answers() -> Door {
    let settings = Settings::new()
        .with(
            "plans.free.max_output_tokens = 30000\nplans.free.concurrent_requests = 200\nserver.body_timeout = \"40s\"",
        )
        .with("proxy.total_timeout = \"90s\"\nproxy.idle_timeout = \"60s\"\nproxy.drain_timeout = \"2s\"");
    let door = Door::open(settings).await;
    door.upstream.always(|seen| match seen.cap() {
        Some(30_000) => flood(6_000_000),
        _ => Talk::words(5).reply(seen),
    });
    door
}

/// Waits until the product has nothing to do but to wait: every buffer is full.
async fn settles_down(door: &Door) {
    let begun = Instant::now();
    loop {
        let before = door.process.cpu();
        sleep(Duration::from_millis(300)).await;
        if door.process.cpu().saturating_sub(before) <= Duration::from_millis(30) {
            return;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "it never rests while nobody reads"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_never_read_are_bounded_and_nobody_notices() {
    let (door, quiet) = (with_long_answers().await, with_long_answers().await);
    let mallory = door.user("mallory");
    let before = door.process.memory();
    let mut wires = Vec::new();
    for _ in 0..100 {
        wires.push(asks_and_never_reads(&door, &mallory).await);
    }
    door.upstream.until_served(100).await;
    settles_down(&door).await;
    let grown = door.process.memory().saturating_sub(before);
    assert!(grown < 200, "100 unread answers took {grown} MiB");
    let mut compared = side_by_side(&door, &quiet).await;
    if !(is_as_fast(&compared) && is_as_cheap(&compared)) {
        eprintln!("with 100 unread answers {}", shown(&compared));
        compared = side_by_side(&door, &quiet).await;
    }
    eprintln!("with 100 unread answers {}", shown(&compared));
    assert!(
        is_as_fast(&compared) && is_as_cheap(&compared),
        "with 100 unread answers {}",
        shown(&compared)
    );
    assert!(
        mallory.me().await["concurrent"]["open"].as_u64() > Some(90),
        "the measuring outlasted the answers"
    );
    is_idle_again(&door, &mallory, "unread answers are").await;
    drop(wires);
    door.close().await;
    quiet.close().await;
}

/// Nobody reads on, and still everything ends.
async fn is_idle_again(door: &Door, user: &User, what: &str) {
    let begun = Instant::now();
    while door.upstream.count() == 0 || user.me().await["concurrent"]["open"] != 0 {
        assert!(
            begun.elapsed() < Duration::from_mins(2),
            "{what} open for ever"
        );
        sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_never_reads_is_closed_long_before_its_answer_may_end() {
    let settings = Settings::new()
        .with("plans.free.max_output_tokens = 30000\nserver.body_timeout = \"2s\"")
        .with("proxy.total_timeout = \"5m\"\nproxy.drain_timeout = \"1s\"");
    let door = Door::open(settings).await;
    door.upstream.always(|_| flood(60_000_000));
    let mallory = door.user("mallory");
    let mut wire = asks_and_never_reads(&door, &mallory).await;
    is_idle_again(&door, &mallory, "an unread answer is").await;
    // What was in the buffers is there, and then no end.
    let (text, closed) = wire.read(Duration::from_secs(5)).await;
    assert!(
        closed && !text.ends_with("0\r\n\r\n"),
        "the answer has an end"
    );
    assert_eq!(
        format!("{}, closed before its end", statuses(&text)[0]),
        UNREAD
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_and_a_busy_one_is_kept() {
    let settings = r#"server.header_timeout = "300ms"
server.keep_alive = "2s""#;
    let door = Door::open(Settings::new().with(settings)).await;
    let mut wire = Wire::open(door.front.address()).await;
    let get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for _ in 0..3 {
        wire.send(get).await.unwrap();
        let (text, closed) = wire.read(Duration::from_millis(300)).await;
        assert_eq!((statuses(&text), closed), (vec![200], false));
        // Longer than a head may take, and than a balancer waits between two requests.
        sleep(Duration::from_millis(800)).await;
    }
    let (text, closed) = wire.read(Duration::from_secs(8)).await;
    assert!(closed, "an idle connection is kept for ever");
    assert_eq!(told((&statuses(&text), After::Closed)), SILENT);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_open_requests_than_the_server_takes_are_told_so() {
    let door = Door::open(Settings::new().with("server.open_requests_max = 3")).await;
    door.upstream
        .always(|seen| Talk::words(1).every(Duration::from_secs(2)).reply(seen));
    let mut open = Vec::new();
    for number in 0..3 {
        let mut stream = door
            .user(&format!("user-{number}"))
            .open(chat_stream("a"))
            .await;
        stream.next_block().await.unwrap();
        open.push(stream);
    }
    let refused = door.user("late").ask(chat("a")).await;
    refused.refused(503, "overloaded");
    assert_eq!(
        door.send(Call::get("/")).await.status,
        200,
        "liveness is no request"
    );
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
    wire.send(
        format!("POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 8000000\r\n\r\n").as_bytes(),
    )
    .await
    .unwrap();
    let (text, _) = wire.read(Duration::from_millis(700)).await;
    assert_eq!(
        statuses(&text),
        [401],
        "a stranger waits for an answer until the body is there: {text}"
    );
    let body: Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(body["error"]["code"], "missing_token");
    door.close().await;
}
