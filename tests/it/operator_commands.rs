//! The operator's command line beside a running server: credits, plans for a while, who spends what, the laws checked.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::caller::{Answer, Call, User, and, chat, chat_stream};
use crate::support::door::Door;
use crate::support::faketime;
use crate::support::process::Printed;
use crate::support::reply::{Reply, Step, Talk};
use crate::support::settings::Settings;
use crate::support::tools::{Tool, installed};

const DAY: i64 = 86_400;

fn limited(limits: &str) -> Settings {
    Settings::new().with(&format!("plans.free.limits = [{limits}]"))
}

/// Asks until the answer is as wanted.
async fn soon(user: &User, wanted: impl Fn(&Answer) -> bool) -> Answer {
    let begun = Instant::now();
    loop {
        let answer = user.ask(chat("is it so yet")).await;
        if wanted(&answer) || begun.elapsed() > Duration::from_secs(5) {
            return answer;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// A command's lines, each an object.
fn objects(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect()
}

#[track_caller]
fn fails_with_advice(printed: &Printed, words: &[&str]) {
    assert_eq!(printed.code, Some(1), "{printed:?}");
    assert!(
        printed.stderr.contains("\nnext: "),
        "it says what to do: {printed:?}"
    );
    for word in words {
        assert!(printed.stderr.contains(word), "{word}: {printed:?}");
    }
}

async fn a_credit_lets_a_user_go_on_and_ends_with_its_day(settings: Settings) {
    let limits = r#"plans.free.limits = [{ per = "day", requests = 2 }, { per = "lifetime", requests = 9 }]"#;
    let door = Door::prepare(faketime::movable(settings.with(limits))).await;
    faketime::ahead(&door, 0);
    door.start().await;
    let (alice, bob) = (door.user("alice"), door.user("bob"));
    let id = alice.id.to_string();
    for _ in 0..2 {
        alice.ask(chat("a")).await.expect(200);
        bob.ask(chat("a")).await.expect(200);
    }
    alice.ask(chat("a")).await.refused(402, "quota_exceeded");
    let told = door.must(&["user", "credit", &id, "day", "requests", "3"]);
    assert!(
        told.contains("3 more requests per day until") && told.contains("used 2 of 5"),
        "{told}"
    );
    soon(&alice, |answer| answer.status == 200)
        .await
        .expect(200);
    // All of what is left at once: the raised limit is as hard as the plan's own.
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let alice = alice.clone();
        asked.spawn(async move { alice.ask(chat("at once")).await.status });
    }
    let statuses = asked.join_all().await;
    assert_eq!(
        statuses.iter().filter(|status| **status == 200).count(),
        2,
        "{statuses:?}"
    );
    let limit = alice.me().await["limits"][0].clone();
    assert_eq!(
        (&limit["limit"], &limit["used"], &limit["remaining"]),
        (&json!(5), &json!(5), &json!(0))
    );
    let refused = alice
        .ask(chat("a"))
        .await
        .refused(402, "quota_exceeded")
        .json();
    assert_eq!(refused["error"]["limit"]["limit"], 5);
    bob.ask(chat("not mine"))
        .await
        .refused(402, "quota_exceeded");
    let shown = objects(&door.must(&["user", "show", &id, "--json"])).remove(0);
    assert_eq!(
        (&shown["limits"][0]["limit"], &shown["credits"][0]["amount"]),
        (&json!(5), &json!(3))
    );
    assert_eq!(shown["credits"][0]["until"], limit["resets_at"]);

    faketime::ahead(&door, DAY);
    let alice = door.user("alice");
    let limit = alice.me().await["limits"][0].clone();
    assert_eq!(
        (&limit["limit"], &limit["used"]),
        (&json!(2), &json!(0)),
        "the next day is as the plan says"
    );
    door.lowers_a_limit();
    faketime::ahead(&door, 0);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credit_lets_a_user_go_on_and_ends_with_its_day_on_a_file() {
    if !installed(&[Tool::Faketime]) {
        return;
    }
    a_credit_lets_a_user_go_on_and_ends_with_its_day(Settings::new().on_sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credit_lets_a_user_go_on_and_ends_with_its_day_on_postgres() {
    if !installed(&[Tool::Postgres, Tool::Faketime]) {
        return;
    }
    a_credit_lets_a_user_go_on_and_ends_with_its_day(Settings::new().on_postgres()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credit_in_dollars_pays_for_a_longer_answer() {
    // Too little for one answer of the plan's length; enough with the credit.
    let door = Door::open(limited(r#"{ per = "month", cost_usd = "0.0001" }"#)).await;
    let alice = door.user("alice");
    let capped = and(chat("a"), &json!({"max_tokens": 1000}));
    alice.ask(capped.clone()).await.expect(200);
    let row = door.quiet_rows().await.remove(0);
    assert!(row.held_micros.unwrap() <= 100, "{row:?}");
    door.must(&[
        "user",
        "credit",
        &alice.id.to_string(),
        "month",
        "cost_usd",
        "0.50",
    ]);
    let begun = Instant::now();
    while alice.me().await["limits"][0]["limit"] != "0.500100" {
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "not raised: {}",
            alice.me().await
        );
        sleep(Duration::from_millis(50)).await;
    }
    let answer = alice
        .ask(and(chat("b"), &json!({"max_tokens": 1000})))
        .await
        .expect(200);
    assert!(
        door.row(&answer).await.held_micros.unwrap() > 500,
        "the whole answer is paid for"
    );
    for wrong in [
        ["month", "cost_usd", "0"],
        ["day", "requests", "1.5"],
        ["day", "tokens", "-1"],
    ] {
        let refused =
            door.tollgate(&[&["user", "credit", &alice.id.to_string()], &wrong[..]].concat());
        assert!(
            refused.code == Some(1) || refused.code == Some(2),
            "{refused:?}"
        );
    }
    let refused = door.tollgate(&[
        "user",
        "credit",
        &alice.id.to_string(),
        "week",
        "requests",
        "1",
    ]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    let told = door.tollgate(&[
        "user",
        "credit",
        &alice.id.to_string(),
        "hour",
        "requests",
        "1",
    ]);
    assert!(
        told.code == Some(0) && told.stderr.contains("has no such limit"),
        "{told:?}"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_for_a_while_falls_back_to_what_it_would_be_without() {
    if !installed(&[Tool::Faketime]) {
        return;
    }
    let plans =
        "[plans.pro]\nmodels = [\"gpt-4o-mini\"]\nlimits = [{ per = \"day\", requests = 500 }]\n";
    let door = Door::prepare(faketime::movable(Settings::new().with(plans))).await;
    faketime::ahead(&door, 0);
    door.start().await;
    let id = door.user("alice").id.to_string();
    let plan = async || {
        let me = door.user("alice").me().await;
        (
            me["plan"]["name"].as_str().unwrap().to_owned(),
            me["plan"]["source"].as_str().unwrap().to_owned(),
        )
    };
    let is = |name: &str, source: &str| (name.to_owned(), source.to_owned());
    let until = jiff::Timestamp::now()
        .checked_add(jiff::SignedDuration::from_hours(36))
        .unwrap();
    let told = door.must(&["user", "plan", &id, "pro", "--until", &until.to_string()]);
    assert!(told.contains("until"), "{told}");
    let begun = Instant::now();
    while plan().await != is("pro", "local") {
        assert!(begun.elapsed() < Duration::from_secs(5));
        sleep(Duration::from_millis(50)).await;
    }
    faketime::ahead(&door, DAY);
    assert_eq!(plan().await, is("pro", "local"));
    faketime::ahead(&door, 2 * DAY);
    assert_eq!(plan().await, is("free", "default"));
    let shown = objects(&door.must(&["user", "show", &id, "--json"])).remove(0);
    assert_eq!(
        (&shown["plan"], &shown["until"]),
        (&json!("free"), &Value::Null)
    );
    faketime::ahead(&door, 0);
    let over = door.tollgate(&["user", "plan", &id, "pro", "--until", "2020-01-01"]);
    fails_with_advice(&over, &["2020-01-01", "--none"]);
    door.must(&["user", "plan", &id, "--none"]);
    let begun = Instant::now();
    while plan().await != is("free", "default") {
        assert!(begun.elapsed() < Duration::from_secs(5));
        sleep(Duration::from_millis(50)).await;
    }
    door.close().await;
}

/// Requests of two users, two models and every end.
async fn busy(settings: Settings) -> (Door, [User; 2]) {
    let door = Door::open(settings.with("[proxy]\nfirst_byte_timeout = \"1s\"\n")).await;
    let users = ["alice", "bob"].map(|name| door.user(name));
    for _ in 0..3 {
        users[0]
            .ask(and(chat("a"), &json!({"model": "gpt-4o"})))
            .await
            .expect(200);
    }
    users[1].ask(chat_stream("b")).await.expect(200);
    door.upstream
        .next(|_| Reply::error(500, "server_error", "no"));
    users[1].ask(chat("voided")).await;
    door.upstream.next(|_| Reply::headless(Step::Stall));
    users[1].ask(chat("lost")).await.expect(504);
    door.quiet_rows().await;
    (door, users)
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_says_who_and_what_and_when_as_table_json_and_csv() {
    let (door, [alice, bob]) = busy(Settings::new()).await;
    let total = |rows: &[Value]| {
        rows.iter()
            .map(|row| row["requests"].as_i64().unwrap())
            .sum::<i64>()
    };
    for by in ["model", "day", "user", "plan"] {
        let rows = objects(&door.must(&["usage", "--by", by, "--json"]));
        assert_eq!(total(&rows), 5, "by {by}: {rows:?}");
        let csv = door.must(&["usage", "--by", by, "--csv"]);
        let head = format!(
            "{by},requests,input_tokens,cached_input_tokens,output_tokens,images,audio_seconds,characters,cost_usd"
        );
        assert_eq!(
            (csv.lines().next().unwrap(), csv.lines().count()),
            (head.as_str(), rows.len() + 1)
        );
        let table = door.must(&["usage", "--by", by]);
        assert!(
            table.starts_with(by) && !table.contains('\u{1b}'),
            "no colour off a terminal: {table:?}"
        );
    }
    let spenders = objects(&door.must(&["usage", "--by", "user", "--json"]));
    // What is lost is charged its hold, which is more than three short answers.
    assert_eq!(
        (&spenders[0]["user"], &spenders[1]["user"]),
        (&json!(bob.id), &json!(alice.id)),
        "the most first"
    );
    let first = objects(&door.must(&["usage", "--by", "user", "--json", "--top", "1"]));
    assert_eq!(first, spenders[..1]);
    let mine = objects(&door.must(&["usage", "--json", "--user", &bob.id.to_string()]));
    assert_eq!(
        (total(&mine), &mine[0]["model"]),
        (2, &json!("gpt-4o-mini"))
    );
    let today = jiff::Timestamp::now().to_string()[..10].to_owned();
    assert_eq!(
        total(&objects(&door.must(&[
            "usage",
            "--json",
            "--since",
            "2026-01-01"
        ]))),
        5
    );
    assert!(objects(&door.must(&["usage", "--json", "--until", "2026-01-01"])).is_empty());
    let days = objects(&door.must(&["usage", "--by", "day", "--json"]));
    assert!(
        days.iter().any(|row| row["day"] == today.as_str()),
        "{days:?}"
    );
    let rows = door.must(&["usage", "--requests", "--csv"]);
    assert!(
        rows.starts_with("id,user_id,plan,endpoint,model,upstream,state,flags,")
            && rows.lines().count() == 7
    );
    fails_with_advice(
        &door.tollgate(&["usage", "--since", "2026-02-01", "--until", "2026-01-01"]),
        &["--until"],
    );
    for wrong in [
        &["usage", "--since", "yesterday"][..],
        &["usage", "--by", "moon"],
        &["usage", "--csv", "--json"],
    ] {
        assert_eq!(door.tollgate(wrong).code, Some(2), "{wrong:?}");
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fields_of_a_request_are_those_that_scripts_read() {
    let (door, _) = busy(Settings::new()).await;
    let promised = [
        "id",
        "user_id",
        "plan",
        "endpoint",
        "model",
        "upstream",
        "state",
        "flags",
        "input_tokens",
        "cached_input_tokens",
        "output_tokens",
        "reasoning_tokens",
        "held_micros",
        "cost_micros",
        "started_at",
        "ended_at",
        "requested_model",
        "paid_by",
        "price_id",
        "feature",
        "prompt_version",
    ];
    let quantities = [
        "cache_write_tokens",
        "cache_write_1h_tokens",
        "cached_image_input_tokens",
        "image_input_tokens",
        "image_output_tokens",
        "audio_input_tokens",
        "audio_output_tokens",
        "audio_seconds",
        "characters",
        "images",
    ];
    for row in objects(&door.must(&["usage", "--requests", "--json"])) {
        let members = row.as_object().unwrap();
        let names = members.keys().map(String::as_str);
        let names: Vec<&str> = names.filter(|name| promised.contains(name)).collect();
        assert_eq!(names, promised, "{row}");
        for quantity in quantities {
            assert!(members[quantity].is_u64(), "{quantity} {row}");
        }
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_listed_by_what_they_spend_and_blocked_ones_are_marked() {
    let (door, [alice, bob]) = busy(Settings::new()).await;
    door.must(&["user", "block", &bob.id.to_string()]);
    let rows = objects(&door.must(&["user", "list", "--json"]));
    assert_eq!(
        (&rows[0]["id"], &rows[1]["id"]),
        (&json!(bob.id), &json!(alice.id))
    );
    assert_eq!(
        (&rows[0]["blocked"], &rows[1]["blocked"]),
        (&json!(true), &json!(false))
    );
    alice.ask(chat("the last")).await.expect(200);
    let recent = objects(&door.must(&["user", "list", "--sort", "recent", "--json"]));
    assert_eq!(recent[0]["id"], json!(alice.id));
    let one = door.must(&["user", "list", &alice.id.to_string()[..9]]);
    assert!(
        one.contains(&alice.id.to_string()) && !one.contains(&bob.id.to_string()),
        "{one}"
    );
    let table = door.must(&["user", "list"]);
    assert!(
        table.contains("BLOCKED") && table.starts_with("user"),
        "{table}"
    );
    door.must(&["user", "unblock", &bob.id.to_string()]);
    assert!(!door.must(&["user", "list"]).contains("BLOCKED"));
    soon(&bob, |answer| answer.status == 200).await.expect(200);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn top_shows_open_requests_and_the_ceiling_as_plain_lines_off_a_terminal() {
    let door = Door::open(Settings::new().with("ceiling.cost_usd_per_day = \"7\"")).await;
    door.upstream.always(|seen| {
        Talk::words(30)
            .every(Duration::from_millis(100))
            .reply(seen)
    });
    let alice = door.user("alice");
    let mut open = alice.open(chat_stream("a")).await;
    open.take(2).await;
    let told = door.must(&["top", "--once"]);
    assert!(!told.contains('\u{1b}'), "{told:?}");
    for words in [
        "open         1 requests",
        "of $7.000000 spent",
        &alice.id.to_string(),
        "last minute",
    ] {
        assert!(told.contains(words), "{words} in {told}");
    }
    open.rest().await;
    door.quiet_rows().await;
    door.must(&["pause", "--reason", "the bill looks wrong"]);
    let told = door.must(&["top", "--once"]);
    assert!(
        told.contains("the bill looks wrong") && told.contains("today's top spenders"),
        "{told}"
    );
    assert!(told.contains("open         0 requests"), "{told}");
    door.must(&["resume"]);
    door.close().await;
}

/// Does something to the ledger's tables that the product never would.
pub(crate) async fn by_hand(door: &Door, is_file: bool, sql: &str) {
    if is_file {
        let ledger = rusqlite::Connection::open(door.directory().join("data/tollgate.db")).unwrap();
        ledger.busy_timeout(Duration::from_secs(5)).unwrap();
        assert!(ledger.execute(sql, []).unwrap() > 0, "{sql}");
        return;
    }
    let sql = sql.replacen("update ", "update tollgate_ledger.", 1);
    assert!(
        door.database()
            .connect()
            .await
            .execute(&sql, &[])
            .await
            .unwrap()
            > 0,
        "{sql}"
    );
}

#[allow(clippy::too_many_lines, reason = "one story, step by step")]
async fn a_ledger_is_checked_law_by_law(settings: Settings, is_file: bool) {
    let settings = settings.with(
        r#"plans.free.limits = [{ per = "lifetime", requests = 500, model = "gpt-4o-mini" }]"#,
    );
    let (door, [_, bob]) = busy(settings).await;
    let told = door.must(&["ledger", "check"]);
    assert!(
        told.contains("6 requests") && told.contains("the laws hold"),
        "{told}"
    );
    // A server goes on meanwhile, and so do open requests.
    door.upstream.always(|seen| {
        Talk::words(20)
            .every(Duration::from_millis(100))
            .reply(seen)
    });
    let mut open = bob.open(chat_stream("open")).await;
    open.take(2).await;
    door.must(&["ledger", "check"]);
    open.rest().await;
    door.quiet_rows().await;
    let id = |state: &str| {
        let rows = objects(&door.must(&["usage", "--requests", "--json"]));
        rows.iter().find(|row| row["state"] == state).unwrap()["id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    for (state, break_it, mend_it, law) in [
        (
            "settled",
            "cost_micros = cost_micros + 1000000",
            "cost_micros = cost_micros - 1000000",
            "law 6",
        ),
        (
            "settled",
            "input_tokens = input_tokens + 1",
            "input_tokens = input_tokens - 1",
            "law 4",
        ),
        (
            "lost",
            "cost_micros = cost_micros - 1",
            "cost_micros = cost_micros + 1",
            "law 3",
        ),
        ("voided", "cost_micros = 5", "cost_micros = 0", "law 3"),
        (
            "lost",
            "ended_at = started_at - 1",
            "ended_at = started_at",
            "law 3",
        ),
    ] {
        let id = id(state);
        by_hand(
            &door,
            is_file,
            &format!("update requests set {break_it} where id = '{id}'"),
        )
        .await;
        let found = door.tollgate(&["ledger", "check"]);
        fails_with_advice(&found, &["laws"]);
        assert!(found.stdout.contains(law), "{law}, {break_it}: {found:?}");
        let by_name = law == "law 4" || found.stdout.contains(&id);
        assert!(by_name, "the row is named: {found:?}");
        by_hand(
            &door,
            is_file,
            &format!("update requests set {mend_it} where id = '{id}'"),
        )
        .await;
    }
    // In a file, what is held stands nowhere but in the rows.
    let sums: &[(&str, &str, &str)] = if is_file {
        &[
            ("window_sums", "requests_used", "law 4"),
            ("tally_sums", "requests_used", "law 4"),
            ("tally_sums", "characters_used", "law 4"),
        ]
    } else {
        &[
            ("windows", "requests_used", "law 4"),
            ("windows", "micros_held", "law 5"),
            ("tallies", "images_used", "law 4"),
            ("tallies", "audio_seconds_held", "law 5"),
        ]
    };
    for (sums, column, law) in sums {
        let lifetime = format!("where per = 'lifetime' and user_id = '{}'", bob.id);
        by_hand(
            &door,
            is_file,
            &format!("update {sums} set {column} = {column} + 1 {lifetime}"),
        )
        .await;
        let found = door.tollgate(&["ledger", "check", "--json"]);
        fails_with_advice(&found, &[]);
        let told = objects(&found.stdout).remove(0);
        assert_eq!(told["broken"], 1, "{told}");
        let named = told["named"][0].to_string();
        assert!(
            named.contains(&bob.id.to_string())
                && format!("law {}", told["named"][0]["law"]) == *law,
            "{named}"
        );
        by_hand(
            &door,
            is_file,
            &format!("update {sums} set {column} = {column} - 1 {lifetime}"),
        )
        .await;
    }
    door.must(&["ledger", "check"]);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_in_a_file_is_checked_law_by_law() {
    a_ledger_is_checked_law_by_law(Settings::new().on_sqlite(), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_on_postgres_is_checked_law_by_law() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    a_ledger_is_checked_law_by_law(Settings::new().on_postgres(), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_requests_are_forgotten_at_a_word_and_stay_counted() {
    if !installed(&[Tool::Faketime]) {
        return;
    }
    let settings =
        limited(r#"{ per = "month", requests = 500 }, { per = "lifetime", requests = 500 }"#)
            .on_sqlite();
    let door = Door::prepare(faketime::movable(settings)).await;
    faketime::ahead(&door, -10 * DAY);
    door.start().await;
    for _ in 0..2 {
        door.user("alice").ask(chat("long ago")).await.expect(200);
    }
    door.quiet_rows().await;
    faketime::ahead(&door, 0);
    let alice = door.user("alice");
    alice.ask(chat("now")).await.expect(200);
    door.quiet_rows().await;
    fails_with_advice(
        &door.tollgate(&["prune", "--older-than", "1d"]),
        &["too short", "2d"],
    );
    let would = door.must(&["prune", "--older-than", "5d", "--dry-run"]);
    assert!(
        would.contains("would") && door.ledger_rows().len() == 3,
        "{would}"
    );
    by_hand(&door, true, "update requests set unsent = 1").await;
    fails_with_advice(
        &door.tollgate(&["prune", "--older-than", "5d"]),
        &["2 of them", "--even-unsent"],
    );
    assert_eq!(door.ledger_rows().len(), 3);
    let told = door.must(&["prune", "--older-than", "5d", "--even-unsent"]);
    assert!(told.contains("2 rows"), "{told}");
    assert_eq!(door.ledger_rows().len(), 1);
    assert_eq!(
        alice.me().await["limits"][1]["used"],
        3,
        "what is forgotten stays counted"
    );
    let checked = door.must(&["ledger", "check"]);
    assert!(
        checked.contains("forgotten") && checked.contains("the laws hold"),
        "{checked}"
    );
    door.close_unjudged();
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_tokens_are_made_once_listed_and_revoked() {
    let door = Door::open(Settings::new()).await;
    let made = door.tollgate(&["admin-token", "create", "laptop", "--scope", "write"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let token = made.stdout.trim();
    assert!(
        token.starts_with("tga_") && !token.contains(char::is_whitespace),
        "bare on stdout: {made:?}"
    );
    fails_with_advice(
        &door.tollgate(&["admin-token", "create", "laptop"]),
        &["laptop"],
    );
    let listed = objects(&door.must(&["admin-token", "list", "--json"])).remove(0);
    assert_eq!(
        (&listed["name"], &listed["scope"], &listed["revoked_at"]),
        (&json!("laptop"), &json!("write"), &Value::Null)
    );
    assert!(!door.must(&["admin-token", "list"]).contains(token));
    door.must(&["admin-token", "revoke", "laptop"]);
    let listed = objects(&door.must(&["admin-token", "list", "--json"])).remove(0);
    assert!(listed["revoked_at"].is_string(), "{listed}");
    fails_with_advice(
        &door.tollgate(&["admin-token", "revoke", "laptop"]),
        &["admin-token list"],
    );
    for name in ["two words", "", "TOLLGATE_ADMIN_TOKEN"] {
        assert_eq!(
            door.tollgate(&["admin-token", "create", name]).code,
            Some(2),
            "{name}"
        );
    }
    door.send(Call::get("/")).await.expect(200);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shell_gets_its_completions_and_every_command_its_examples() {
    let door = Door::open(Settings::new()).await;
    for shell in ["bash", "zsh", "fish"] {
        let script = door.must(&["completions", shell]);
        assert!(
            script.contains("tollgate") && script.contains("admin-token"),
            "{shell}"
        );
    }
    for command in [
        "user",
        "usage",
        "top",
        "ledger",
        "prune",
        "admin-token",
        "completions",
    ] {
        let help = door.must(&[command, "--help"]);
        assert!(
            help.contains("Example") && help.contains(&format!("tollgate {command}")),
            "{help}"
        );
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_without_a_ledger_says_so_and_an_old_one_is_to_be_migrated() {
    let door = Door::prepare(Settings::new().on_sqlite()).await;
    for command in [
        &["usage"][..],
        &["user", "list"],
        &["top", "--once"],
        &["ledger", "check"],
        &["admin-token", "list"],
    ] {
        fails_with_advice(&door.tollgate(command), &["there is no ledger"]);
    }
    door.start().await;
    door.process.term(Duration::from_secs(10)).await;
    // The file of an earlier build: the first two of its scripts were run.
    let path = door.directory().join("data/tollgate.db");
    fs::remove_file(&path).unwrap();
    let ledger = rusqlite::Connection::open(path).unwrap();
    for script in ["0001_ledger.sql", "0002_outbox.sql"] {
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("migrations")
            .join(script);
        ledger
            .execute_batch(&fs::read_to_string(script).unwrap())
            .unwrap();
    }
    ledger
        .execute_batch("pragma journal_mode = wal; pragma user_version = 2")
        .unwrap();
    drop(ledger);
    fails_with_advice(&door.tollgate(&["user", "list"]), &["tollgate migrate"]);
    door.must(&["migrate"]);
    door.must(&["user", "list"]);
    door.close().await;
}
