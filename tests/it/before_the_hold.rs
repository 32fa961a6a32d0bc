//! What a stranger or one user can make the server spend before anything is held for them. Each test measures: the memory
//! of the process at its peak, the memory of the kernel, the threads that are busy, and how long a neighbour waits.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::support::caller::{Answer, Call, User, and, chat};
use crate::support::door::Door;
use crate::support::process::Process;
use crate::support::raw::Wire;
use crate::support::settings::Settings;

const MIB: usize = 1024 * 1024;
const PATH: &str = "/v1/chat/completions";

/// The memory that the kernel has for TCP, of this whole machine, in MiB.
fn of_the_kernel() -> u64 {
    let text = std::fs::read_to_string("/proc/net/sockstat").unwrap();
    let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap();
    line.rsplit(' ').next().unwrap().parse::<u64>().unwrap() * 4096 / MIB as u64
}

/// Forgets the peak of a process's memory.
fn forget_peak(process: &Process) {
    std::fs::write(format!("/proc/{}/clear_refs", process.pid()), "5").unwrap();
}

/// The peak of its memory since then, in MiB.
fn peak(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        / 1024
}

/// How many of its threads are running or want to.
fn busy_threads(process: &Process) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", process.pid()))
        .unwrap()
        .flatten();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    stats
        .filter(|stat| {
            stat.rsplit_once(')')
                .is_some_and(|(_, rest)| rest.trim_start().starts_with('R'))
        })
        .count()
}

fn processors() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

/// A body that is no chat that [`chat`] makes.
async fn send(user: &User, body: impl Into<Vec<u8>>) -> std::io::Result<Answer> {
    let call = Call::new("POST", PATH)
        .header("content-type", "application/json")
        .bearer(&user.token)
        .bytes(body);
    user.front.try_send(call).await
}

/// `item` again and again, between commas, until it is about so long.
fn repeated(item: &str, bytes: usize) -> String {
    let mut all = String::with_capacity(bytes + item.len());
    while all.len() + 2 * item.len() + 2 < bytes {
        all += item;
        all.push(',');
    }
    all + item
}

/// Members with names of their own.
fn members(bytes: usize) -> String {
    let mut all = String::with_capacity(bytes + 16);
    for number in 0.. {
        write!(all, "\"{number}\":1,").unwrap();
        if all.len() > bytes {
            break;
        }
    }
    all.trim_end_matches(',').to_owned()
}

/// Bodies that cost little to send, and what each stands for.
fn cheap_bodies(bytes: usize) -> Vec<(&'static str, String)> {
    let chat =
        |content: String| format!(r#"{{"messages":[{{"role":"user","content":{content}}}]}}"#);
    let with =
        |more: String| format!(r#"{{"messages":[{{"role":"user","content":"hi"}}],{more}}}"#);
    let text_part = r#"{"type":"text","text":""}"#;
    let message_of_parts = format!(
        r#"{{"role":"user","content":[{}]}}"#,
        repeated(text_part, 2000 * 26)
    );
    let call = r#"{"id":"","type":"function","function":{"name":"a","arguments":""}}"#;
    let tool = |schema: String| {
        with(format!(
            r#""tools":[{{"type":"function","function":{{"name":"a","parameters":{schema}}}}}]"#
        ))
    };
    vec![
        ("empty parts", chat(format!("[{}]", repeated("{}", bytes)))),
        (
            "empty text parts",
            format!(r#"{{"messages":[{}]}}"#, repeated(&message_of_parts, bytes)),
        ),
        (
            "empty messages",
            format!(
                r#"{{"messages":[{}]}}"#,
                repeated(r#"{"role":"user","content":""}"#, bytes)
            ),
        ),
        (
            "calls",
            format!(
                r#"{{"messages":[{{"role":"assistant","tool_calls":[{}]}}]}}"#,
                repeated(call, bytes)
            ),
        ),
        (
            "annotations",
            format!(
                r#"{{"messages":[{{"role":"assistant","annotations":[{}]}}]}}"#,
                repeated("0", bytes)
            ),
        ),
        ("nested arrays", chat("[".repeat(bytes))),
        (
            "members of a schema",
            tool(format!("{{{}}}", members(bytes))),
        ),
        (
            "items of a schema",
            tool(format!(r#"{{"enum":[{}]}}"#, repeated("1", bytes))),
        ),
        (
            "objects of a schema",
            tool(format!(
                r#"{{"enum":[{}]}}"#,
                repeated(r#"{"a":{}}"#, bytes)
            )),
        ),
        (
            "tools",
            with(format!(r#""tools":[{}]"#, repeated("{}", bytes))),
        ),
        (
            "biases",
            with(format!(r#""logit_bias":{{{}}}"#, members(bytes))),
        ),
        (
            "one long stop",
            with(format!(r#""stop":"{}""#, "a".repeat(bytes))),
        ),
        (
            "four long stops",
            with(format!(
                r#""stop":[{}]"#,
                ["\"a", &"a".repeat(bytes / 4), "\""].concat()
            )),
        ),
        (
            "a long user",
            with(format!(r#""user":"{}""#, "a".repeat(bytes))),
        ),
        (
            "a long number",
            with(format!(r#""temperature":0.{}"#, "1".repeat(bytes))),
        ),
        ("a long name", with(format!(r#""{}":1"#, "a".repeat(bytes)))),
        ("unknown names", with(members(bytes))),
        ("letters", chat(format!("\"{}\"", "a".repeat(bytes)))),
        (
            "escaped letters",
            chat(format!("\"{}\"", "\\u0061".repeat(bytes / 6))),
        ),
    ]
}

/// Enough for everybody who asks here.
fn settings() -> Settings {
    Settings::new()
        .with("server.body_timeout = \"60s\"")
        .on_sqlite()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_body_takes_more_than_four_times_its_bytes() {
    let door = Door::open(settings()).await;
    let mallory = door.user("mallory");
    counted(&mallory).await; // loads the vocabulary, which stays
    for (what, body) in cheap_bodies(8 * MIB - 1000) {
        forget_peak(&door.process);
        let (before, begun) = (door.process.memory(), Instant::now());
        let answer = send(&mallory, body).await.unwrap();
        let grown = peak(&door.process).saturating_sub(before);
        eprintln!(
            "{what}: {} with {grown} MiB in {:?}",
            answer.status,
            begun.elapsed()
        );
        // What is taken and left out, or is short for the model, is served.
        assert!(
            [200, 400].contains(&answer.status),
            "{what}: {:.300}",
            answer.text()
        );
        assert!(grown <= 4 * 8 + 8, "8 MiB of {what} took {grown} MiB");
    }
    door.close().await;
}

/// A body in pieces of one byte, with five of framing for each.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_in_the_smallest_chunks_takes_no_more() {
    let door = Door::open(settings()).await;
    let mallory = door.user("mallory");
    let body = format!(
        r#"{{"messages":[{{"role":"user","content":"{}"}}]}}"#,
        "a".repeat(2 * MIB)
    );
    let mut chunks = Vec::with_capacity(body.len() * 6 + 5);
    for byte in body.bytes() {
        chunks.extend([b'1', b'\r', b'\n', byte, b'\r', b'\n']);
    }
    chunks.extend(b"0\r\n\r\n");
    let mut wire = Wire::open(door.front.address()).await;
    forget_peak(&door.process);
    let before = door.process.memory();
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n",
        mallory.token
    );
    wire.send(format!("{head}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    wire.send(&chunks).await.unwrap();
    let (text, _) = wire.read(Duration::from_secs(20)).await;
    assert!(text.starts_with("HTTP/1.1 400 "), "{text:.300}");
    let grown = peak(&door.process).saturating_sub(before);
    assert!(
        grown <= 4 * 2 + 8,
        "2 MiB in the smallest chunks took {grown} MiB"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_bodies_at_once_take_no_more_than_a_users_share_and_all_is_given_back() {
    let door = Door::open(settings()).await;
    let (mallory, bob) = (door.user("mallory"), door.user("bob"));
    bob.ask(chat("before")).await.expect(200);
    let bodies = cheap_bodies(8 * MIB - 1000);
    let kinds = [
        "empty parts",
        "empty text parts",
        "letters",
        "items of a schema",
    ];
    let before = door.process.memory();
    forget_peak(&door.process);
    let sending: Vec<_> = (0..28)
        .map(|number| {
            let (user, kind) = (mallory.clone(), kinds[number % kinds.len()]);
            let body = bodies
                .iter()
                .find(|(name, _)| *name == kind)
                .unwrap()
                .1
                .clone();
            tokio::spawn(async move { send(&user, body).await.map(|answer| answer.status) })
        })
        .collect();
    sleep(Duration::from_millis(300)).await;
    bob.ask(chat("meanwhile")).await.expect(200);
    for one in sending {
        let status = one.await.unwrap().unwrap();
        assert!([400, 429].contains(&status), "{status}");
    }
    let grown = peak(&door.process).saturating_sub(before);
    sleep(Duration::from_secs(2)).await;
    let kept = door.process.memory().saturating_sub(before);
    eprintln!("28 bodies of 8 MiB took {grown} MiB, of which {kept} MiB stay");
    assert!(
        grown <= 4 * 4 * 8 + 16,
        "28 bodies of 8 MiB took {grown} MiB"
    );
    assert!(kept <= 48, "{kept} MiB are not given back");
    door.close().await;
}

/// Each announces 8 MiB and sends a little now and then.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_announced_and_do_not_come_keep_nobody_else_out() {
    let door = Door::open(settings().with("server.body_timeout = \"20s\"")).await;
    let mut wires = Vec::new();
    for number in 0..60 {
        let mallory = door.user(&format!("mallory-{}", number / 6));
        let mut wire = Wire::open(door.front.address()).await;
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n",
            mallory.token
        );
        wire.send(format!("{head}Content-Length: {}\r\n\r\n", 8 * MIB - 1).as_bytes())
            .await
            .unwrap();
        wire.send(&vec![b' '; 20_000]).await.unwrap();
        wires.push(wire);
    }
    sleep(Duration::from_millis(500)).await;
    let long = and(
        chat(""),
        &json!({"messages": [{"role": "user", "content": "ab ".repeat(700_000)}]}),
    );
    let begun = Instant::now();
    let answer = door.user("bob").ask(long).await;
    assert_eq!(
        answer.status,
        400,
        "it is read, and too long for the plan: {:.300}",
        answer.text()
    );
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "it waited for {:?}",
        begun.elapsed()
    );
    drop(wires);
    door.close().await;
}

/// A prompt that has to be counted: by its bytes it does not fit the plan, by its tokens it does.
fn to_be_counted() -> Value {
    let content = format!(
        "{} canary-prompt-5f1c",
        "somewhat longer words ".repeat(18 * 1024 / 22)
    );
    and(
        chat(""),
        &json!({"messages": [{"role": "user", "content": content}]}),
    )
}

async fn counted(user: &User) -> Duration {
    let begun = Instant::now();
    let answer = user.ask(to_be_counted()).await;
    assert_eq!(answer.status, 200, "{:.300}", answer.text());
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn long_prompts_of_one_user_do_not_keep_another_waiting() {
    let door = Door::open(settings()).await;
    let (mallory, bob) = (door.user("mallory"), door.user("bob"));
    counted(&bob).await; // loads the vocabulary
    let alone = counted(&bob).await;
    // Some cannot fit whatever they say, some have to be counted to know.
    let sending: Vec<_> = (0..30)
        .map(|number| {
            let user = mallory.clone();
            let bytes = if number % 3 == 0 { MIB } else { 8 * MIB - 1000 };
            let body = cheap_bodies(bytes)
                .into_iter()
                .find(|(what, _)| *what == "letters")
                .unwrap()
                .1;
            tokio::spawn(async move { send(&user, body).await.map(|answer| answer.status) })
        })
        .collect();
    // The bodies take a while to arrive; nobody is counted before that.
    let mut waited = Vec::new();
    while waited.len() < 20 {
        sleep(Duration::from_millis(150)).await;
        waited.push(counted(&bob).await);
    }
    eprintln!("alone {alone:?}, beside 30 long prompts {waited:?}");
    let all: Duration = waited.iter().sum();
    assert!(
        all < alone * 100 + Duration::from_secs(2),
        "alone {alone:?}, beside 30 long prompts {waited:?}"
    );
    for one in sending {
        let status = one.await.unwrap().unwrap();
        assert!([400, 429].contains(&status), "{status}");
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_who_hang_up_while_they_are_counted_leave_no_more_counts_than_there_are_permits() {
    // By its bytes it does not fit the limit, so it is counted, to its end.
    let long = "plans.free.max_input_tokens = 2000000000\nplans.free.limits = [{ per = \"day\", tokens = 500000 }]";
    let door = Door::open(settings().with(long)).await;
    let users: Vec<User> = (0..8)
        .map(|number| door.user(&format!("mallory-{number}")))
        .collect();
    let body = cheap_bodies(8 * MIB - 1000)
        .into_iter()
        .find(|(what, _)| *what == "letters")
        .unwrap()
        .1;
    let mut most = 0;
    for number in 0..24 {
        let user = &users[number % users.len()];
        let call = Call::new("POST", PATH)
            .header("content-type", "application/json")
            .bearer(&user.token);
        let begun = user.front.begin(call.bytes(body.clone())).await.unwrap();
        sleep(Duration::from_millis(250)).await;
        begun.hang_up();
        most = most.max(busy_threads(&door.process));
    }
    for _ in 0..20 {
        most = most.max(busy_threads(&door.process));
        sleep(Duration::from_millis(50)).await;
    }
    eprintln!("{most} threads were busy at once");
    // The counts, and the threads that do everything else.
    assert!(
        most <= 2 * processors() + 2,
        "{most} threads were busy at once"
    );
    door.process.kill9();
    door.start().await;
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_take_little_of_the_kernel_and_are_not_made_in_advance() {
    let door = Door::open(settings()).await;
    let before = of_the_kernel();
    let requests = "GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n".repeat(200);
    let mut wires = Vec::new();
    for _ in 0..300 {
        let mut wire = Wire::open_narrow(door.front.address()).await;
        wire.send(requests.as_bytes()).await.unwrap();
        wires.push(wire);
    }
    sleep(Duration::from_secs(3)).await;
    let grown = of_the_kernel().saturating_sub(before);
    let answered = door.process.output().matches("/openapi.json").count();
    eprintln!(
        "300 connections that read nothing: {grown} MiB of the kernel, {answered} answers made"
    );
    assert!(
        grown < 150,
        "300 connections that read nothing took {grown} MiB of the kernel"
    );
    assert!(
        answered < 300 * 25,
        "{answered} answers were made for callers who read none"
    );
    // Who reads gets all of them, one after the other.
    let mut reader = wires.pop().unwrap();
    let mut text = String::new();
    let begun = Instant::now();
    while text.matches("HTTP/1.1 200").count() < 200 && begun.elapsed() < Duration::from_secs(30) {
        text += &reader.read(Duration::from_millis(200)).await.0;
    }
    assert_eq!(text.matches("HTTP/1.1 200").count(), 200);
    drop(wires);
    door.close().await;
}

/// So many requests of one user, all of today, as the product would have written them.
fn write_history(door: &Door, user: Uuid, rows: usize) {
    let ledger = rusqlite::Connection::open(door.directory().join("data/tollgate.db")).unwrap();
    ledger.busy_timeout(Duration::from_secs(20)).unwrap();
    let sql = "insert into requests (id, user_id, plan, endpoint, model, upstream, state, held_input_tokens,
                   held_output_tokens, held_micros, input_tokens, output_tokens, cost_micros, started_at, ended_at, owner)
               with recursive numbers(n) as (select 1 union all select n + 1 from numbers where n < ?2)
               select printf('%08x-0000-7000-8000-%012x', n, n), ?1, 'free', '/v1/chat/completions', 'gpt-4o-mini',
                   'openai', 'settled', 10, 10, 10, 10, 10, 10, ?3 + n % 1000, ?3 + n % 1000, 'a test' from numbers";
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_millis() as i64;
    ledger
        .execute(sql, (user.to_string(), rows as i64, now - 2000))
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_history_read_many_times_at_once_makes_nobody_else_slow() {
    let door = Door::open(settings()).await;
    let (mallory, bob) = (door.user("mallory"), door.user("bob"));
    bob.ask(chat("before")).await.expect(200);
    tokio::task::block_in_place(|| write_history(&door, mallory.id, 400_000));
    let begun = Instant::now();
    let page = mallory.get("/api/usage").await.expect(200).json();
    let alone = begun.elapsed();
    assert_eq!(page["rows"][0]["requests"], 400_000, "{page}");
    let reading: Vec<_> = (0..30)
        .map(|_| {
            let user = mallory.clone();
            tokio::spawn(async move { user.get("/api/usage").await.status })
        })
        .collect();
    sleep(alone / 4).await;
    let mut waited = Vec::new();
    while waited.len() < 5 && reading.iter().any(|one| !one.is_finished()) {
        let begun = Instant::now();
        bob.get("/api/usage").await.expect(200);
        let read = begun.elapsed();
        bob.ask(chat("meanwhile")).await.expect(200);
        waited.push((read, begun.elapsed().saturating_sub(read)));
    }
    eprintln!("a history of 400,000 rows takes {alone:?}; beside 30 of them: {waited:?}");
    waited.sort();
    let (read, asked) = waited[waited.len() / 2];
    assert!(
        read < alone / 4 + Duration::from_secs(1),
        "beside 30 reads of {alone:?} another took {read:?}"
    );
    assert!(
        asked < alone / 4 + Duration::from_secs(1),
        "and a request {asked:?}"
    );
    for one in reading {
        let status = one.await.unwrap();
        assert!([200, 429].contains(&status), "{status}");
    }
    door.close_unjudged();
}
