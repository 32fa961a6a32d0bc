//! Carrying the ledger from SQLite to Postgres: everybody finds what they had used, to the micro-dollar, and what is not
//! a whole and true export leaves nothing behind.

use std::time::Duration;

use serde_json::Value;

use crate::support::caller::{User, chat, chat_stream};
use crate::support::door::Door;
use crate::support::oracle::Row;
use crate::support::postgres::Postgres;
use crate::support::postgrest::{Grants, Rest};
use crate::support::process::Printed;
use crate::support::project::{Way, joined};
use crate::support::reply::{Reply, Step};
use crate::support::settings::Settings;
use crate::support::tokens::user_id;
use crate::support::tools::{Tool, installed};

const PATIENCE: Duration = Duration::from_secs(20);

/// A product on a file, with requests of every end, plans of its own, and a pause that is over.
async fn used(settings: Settings) -> (Door, Vec<User>) {
    let door = Door::open(settings.with("[proxy]\nfirst_byte_timeout = \"1s\"\n")).await;
    let users: Vec<User> = ["alice", "bob", "carol"]
        .map(|name| door.user(name))
        .to_vec();
    for user in &users {
        user.ask(chat("whole")).await.expect(200);
        user.ask(chat_stream("streamed")).await.expect(200);
    }
    door.upstream
        .next(|_| Reply::error(500, "server_error", "no"));
    assert!(users[0].ask(chat("voided")).await.status >= 500);
    door.upstream.next(|_| Reply::headless(Step::Stall));
    assert_eq!(
        users[0].ask(chat("lost")).await.refusal(),
        (504, "upstream_timeout".to_owned())
    );
    door.must(&[
        "user",
        "credit",
        &users[2].id.to_string(),
        "day",
        "requests",
        "7",
    ]);
    door.must(&["user", "grant", &users[2].id.to_string(), "5"]);
    door.must(&["user", "plan", &users[1].id.to_string(), "team"]);
    door.must(&["user", "block", &user_id("blocked").to_string()]);
    door.must(&["admin-token", "create", "laptop"]);
    door.quiet_rows().await;
    (door, users)
}

fn settings() -> Settings {
    Settings::new()
        .on_sqlite()
        .with("[plans.team]\nmodels = [\"gpt-4o-mini\"]\nlimits = [{ per = \"lifetime\", tokens = 99999 }]\n")
}

/// What everybody is told, but the moments at which windows of a minute or an hour end.
async fn told(users: &[User]) -> Vec<Value> {
    let mut told = Vec::new();
    for user in users {
        told.push(user.me().await);
    }
    told
}

/// Runs a command with the ledger elsewhere.
fn on(door: &Door, postgres: &Postgres, database: &str, arguments: &[&str]) -> Printed {
    door.tollgate_with(
        arguments,
        &[("TOLLGATE_STORE__URL", &postgres.url(database))],
    )
}

fn file(door: &Door, name: &str) -> String {
    std::fs::read_to_string(door.directory().join(name)).unwrap()
}

/// Every row of the ledger's tables there, to see that nothing was kept.
async fn rows_in(postgres: &Postgres, database: &str) -> i64 {
    let tables = [
        "requests",
        "windows",
        "subscriptions",
        "switches",
        "credits",
        "grants",
        "admin_tokens",
        "audit",
    ];
    let client = postgres.connect(database).await;
    let mut count = 0;
    for table in tables {
        let sql = format!("select count(*) from tollgate_ledger.{table}");
        count += client.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0);
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_finds_what_they_had_used_and_a_second_export_is_the_same_to_the_byte() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let (mut door, users) = used(settings()).await;
    let postgres = Postgres::start(false).await;
    let before = told(&users).await;
    let rows = door.quiet_rows().await;
    let serving = door.tollgate(&["ledger", "export", "serving.jsonl"]);
    assert_eq!(
        serving.code,
        Some(1),
        "an export while it serves: {serving:?}"
    );
    assert!(
        serving.stderr.contains("next:"),
        "it says what to do: {serving:?}"
    );
    door.process.term(PATIENCE).await;

    door.must(&["ledger", "export", "sqlite.jsonl"]);
    let to_stdout = door.must(&["ledger", "export"]);
    assert_eq!(to_stdout, file(&door, "sqlite.jsonl"));
    let imported = on(
        &door,
        &postgres,
        "postgres",
        &["ledger", "import", "sqlite.jsonl"],
    );
    assert_eq!(imported.code, Some(0), "{imported:?}");
    let again = on(
        &door,
        &postgres,
        "postgres",
        &["ledger", "export", "postgres.jsonl"],
    );
    assert_eq!(again.code, Some(0), "{again:?}");
    assert_eq!(file(&door, "postgres.jsonl"), file(&door, "sqlite.jsonl"));

    door.moves_to("TOLLGATE_STORE__URL", &postgres.url("postgres"));
    door.start().await;
    assert_eq!(told(&users).await, before);
    let key = |row: &Row| format!("{row:?}");
    let moved: Vec<String> = door.quiet_rows().await.iter().map(key).collect();
    assert_eq!(moved, rows.iter().map(key).collect::<Vec<_>>());
    door.user("blocked")
        .ask(chat("blocked"))
        .await
        .refused(403, "user_blocked");
    users[2].ask(chat("after")).await.expect(200);

    let serving = on(
        &door,
        &postgres,
        "postgres",
        &["ledger", "export", "serving.jsonl"],
    );
    assert_eq!(
        serving.code,
        Some(1),
        "an export while it serves: {serving:?}"
    );
    let not_empty = door.tollgate(&["ledger", "import", "sqlite.jsonl"]);
    assert_eq!(not_empty.code, Some(1), "{not_empty:?}");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_goes_back_to_a_file_as_it_came() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let (door, _users) = used(settings()).await;
    let postgres = Postgres::start(false).await;
    door.process.term(PATIENCE).await;
    door.must(&["ledger", "export", "one.jsonl"]);
    assert_eq!(
        on(
            &door,
            &postgres,
            "postgres",
            &["ledger", "import", "one.jsonl"]
        )
        .code,
        Some(0)
    );
    assert_eq!(
        on(
            &door,
            &postgres,
            "postgres",
            &["ledger", "export", "two.jsonl"]
        )
        .code,
        Some(0)
    );
    let elsewhere = [("TOLLGATE_STORE__URL", "sqlite:back/ledger.db")];
    let back = door.tollgate_with(&["ledger", "import", "two.jsonl"], &elsewhere);
    assert_eq!(back.code, Some(0), "{back:?}");
    assert_eq!(
        door.tollgate_with(&["ledger", "export", "three.jsonl"], &elsewhere)
            .code,
        Some(0)
    );
    assert_eq!(file(&door, "three.jsonl"), file(&door, "one.jsonl"));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cut_or_altered_or_comes_to_a_used_ledger_leaves_nothing_behind() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let (door, _users) = used(settings()).await;
    let postgres = Postgres::start(false).await;
    door.process.term(PATIENCE).await;
    door.must(&["ledger", "export", "good.jsonl"]);
    let good = file(&door, "good.jsonl");
    let lines: Vec<&str> = good.lines().collect();
    let last = lines.len() - 1;
    let cell = |place: usize, change: &dyn Fn(&mut Value)| {
        let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        let mut value: Value = serde_json::from_str(&lines[place]).unwrap();
        change(&mut value);
        lines[place] = value.to_string();
        lines.join("\n")
    };
    let column = |place: usize, column: usize| {
        cell(place, &move |row| {
            let value = &mut row[1][column];
            *value = match &value {
                Value::Number(number) => Value::from(number.as_i64().unwrap() + 1),
                Value::String(text) => Value::from(format!("{text}x")),
                _ => Value::from(7),
            };
        })
    };
    let swapped = {
        let mut lines: Vec<&str> = lines.clone();
        lines.remove(1);
        lines.join("\n")
    };
    let mut bad: Vec<(String, String)> = vec![
        ("without its last line".to_owned(), lines[..last].join("\n")),
        (
            "cut in the middle of a line".to_owned(),
            good[..good.len() / 2].to_owned(),
        ),
        ("without its first line".to_owned(), lines[1..].join("\n")),
        ("empty".to_owned(), String::new()),
        (
            "of another version".to_owned(),
            good.replacen("tollgate ledger 2", "tollgate ledger 9", 1),
        ),
        ("without a row".to_owned(), swapped),
        (
            "with a row twice".to_owned(),
            good.replacen(lines[1], &format!("{}\n{}", lines[1], lines[1]), 1),
        ),
        (
            "with lines after its end".to_owned(),
            format!("{good}{}\n", lines[1]),
        ),
    ];
    let row: Value = serde_json::from_str(lines[1]).unwrap();
    for place in 0..row[1].as_array().unwrap().len() {
        bad.push((
            format!("with column {place} of a request altered"),
            column(1, place),
        ));
    }
    let import = |file: &str| on(&door, &postgres, "postgres", &["ledger", "import", file]);
    for (name, text) in &bad {
        door.write_file("bad.jsonl", text);
        let printed = import("bad.jsonl");
        assert_eq!(
            printed.code,
            Some(1),
            "an export {name} was taken: {printed:?}"
        );
        assert_eq!(
            rows_in(&postgres, "postgres").await,
            0,
            "an export {name} left something: {printed:?}"
        );
    }
    assert_eq!(import("good.jsonl").code, Some(0));
    let kept = rows_in(&postgres, "postgres").await;
    let twice = import("good.jsonl");
    assert_eq!(
        (twice.code, rows_in(&postgres, "postgres").await),
        (Some(1), kept),
        "{twice:?}"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_is_killed_half_way_was_never_there() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let (door, _users) = used(settings()).await;
    let postgres = Postgres::start(false).await;
    door.process.term(PATIENCE).await;
    door.must(&["ledger", "export", "good.jsonl"]);
    let good = file(&door, "good.jsonl");
    let (all_but_the_end, _) = good.trim_end().rsplit_once('\n').unwrap();
    for url in [
        "sqlite:killed/ledger.db".to_owned(),
        postgres.url("postgres"),
    ] {
        let elsewhere = [("TOLLGATE_STORE__URL", url.as_str())];
        door.killed_while_reading(
            &["ledger", "import"],
            &elsewhere,
            &format!("{all_but_the_end}\n"),
        );
        let left =
            patiently(|| door.tollgate_with(&["ledger", "export", "left.jsonl"], &elsewhere));
        assert_eq!(left.code, Some(0), "{left:?}");
        assert_eq!(
            file(&door, "left.jsonl").lines().count(),
            2,
            "a head and an end, and nothing between, in {url}"
        );
        let again = door.tollgate_with(&["ledger", "import", "good.jsonl"], &elsewhere);
        assert_eq!(again.code, Some(0), "{again:?}");
        assert_eq!(
            door.tollgate_with(&["ledger", "export", "again.jsonl"], &elsewhere)
                .code,
            Some(0)
        );
        assert_eq!(file(&door, "again.jsonl"), good);
    }
    door.close().await;
}

/// A server notices within seconds that a client is gone, and lets go of what it had locked.
fn patiently(run: impl Fn() -> Printed) -> Printed {
    for _ in 0..5 {
        let printed = run();
        if printed.code == Some(0) {
            return printed;
        }
    }
    run()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_had_not_reached_the_usage_table_reaches_it_from_the_new_ledger() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let rest = Rest::start(Grants::New).await;
    let mut door = Door::open(joined(Settings::new().on_sqlite(), Way::Rest, &rest)).await;
    let answer = door
        .user("alice")
        .ask(chat("before the move"))
        .await
        .expect(200);
    door.row(&answer).await;
    door.process.term(PATIENCE).await;
    door.must(&["ledger", "export", "ledger.jsonl"]);
    rest.run_as_editor(crate::support::postgrest::script())
        .await;
    let database = rest.postgres().url_as("editor", "postgres");

    // DATABASE_URL is ledger and directory at once.
    let imported = door.tollgate_with(
        &["ledger", "import", "ledger.jsonl"],
        &[("DATABASE_URL", &database)],
    );
    assert_eq!(imported.code, Some(0), "{imported:?}");
    door.moves_to("DATABASE_URL", &database);
    door.start().await;
    let owner = rest.postgres().connect_as("editor", "postgres").await;
    crate::support::project::until("it arrived", PATIENCE, async || {
        let rows = owner
            .query("select id from tollgate.usage", &[])
            .await
            .unwrap();
        rows.len() == 1 && rows[0].get::<_, uuid::Uuid>(0) == answer.id().unwrap()
    })
    .await;
    door.close().await;
}
