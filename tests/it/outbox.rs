//! What was charged arrives in the developer's tables, each request once, whatever breaks on the way.
//!
//! `tollgate usage --requests --json` is the truth that `tollgate.usage` is held against.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::caller::{Answer, Call, chat, chat_stream};
use crate::support::oracle::{Row, millis};
use crate::support::postgrest::{Behave, Grants, Rest};
use crate::support::project::{Project, WAYS, Way, until};
use crate::support::reply::{Reply, Step};
use crate::support::settings::{Settings, micros};
use crate::support::tokens::user_id;
use crate::support::tools::{Tool, installed};

const LOG: &str = "tollgate_log_requests";
/// The outbox looks every five seconds, gives a call twenty, and waits longer after failures.
const PATIENCE: Duration = Duration::from_secs(40);

/// Plans are known, whatever happens to the API.
const LONG_CACHE: &str = "[directory]\nplan_cache = \"10m\"\n";

/// Lets `log_request` note the order in which entries come, beside what it does as installed.
const NOTE_ORDER: &str = "
    create table public.came (place bigserial, id uuid);
    alter function tollgate.log_request(jsonb) rename to log_as_installed;
    create function tollgate.log_request(entry jsonb) returns void
    language plpgsql security definer set search_path = '' as $f$ begin
        insert into public.came (id) values ((entry ->> 'id')::uuid);
        perform tollgate.log_as_installed(entry);
    end $f$;";

/// Makes [`NOTE_ORDER`]'s function take so many seconds an entry.
const SLOW: &str = "
    create or replace function tollgate.log_request(entry jsonb) returns void
    language plpgsql security definer set search_path = '' as $f$ begin
        perform pg_catalog.pg_sleep(seconds);
        perform tollgate.log_as_installed(entry);
    end $f$;";

/// Waits until every charged row of the ledger has arrived; the rows of both sides.
async fn arrived(project: &Project, patience: Duration) -> (Vec<Row>, BTreeMap<Uuid, Value>) {
    let rows = project.door.quiet_rows().await;
    let charged = rows.iter().filter(|row| row.is_charged()).count();
    until("all arrived", patience, async || {
        project.usage().await.len() >= charged
    })
    .await;
    let id = |row: &Value| row["id"].as_str().unwrap().parse::<Uuid>().unwrap();
    (
        rows,
        project
            .usage()
            .await
            .into_iter()
            .map(|row| (id(&row), row))
            .collect(),
    )
}

/// Each charged row stands in `tollgate.usage`, the same in every field, and nothing else does.
async fn assert_all_arrived(project: &Project) -> Vec<Row> {
    let (rows, usage) = arrived(project, PATIENCE).await;
    for row in rows.iter().filter(|row| row.is_charged()) {
        assert_same(
            row,
            usage
                .get(&row.id)
                .unwrap_or_else(|| panic!("{row:?} never arrived")),
        );
    }
    let charged: BTreeSet<Uuid> = rows
        .iter()
        .filter(|row| row.is_charged())
        .map(|row| row.id)
        .collect();
    assert_eq!(usage.keys().copied().collect::<BTreeSet<_>>(), charged);
    rows
}

fn assert_same(row: &Row, usage: &Value) {
    let number = |name: &str| usage[name].as_i64();
    let text = |name: &str| usage[name].as_str().map(str::to_owned);
    assert_eq!(
        text("user_id"),
        Some(row.user_id.to_string()),
        "{row:?} {usage}"
    );
    let named = (
        text("plan"),
        text("endpoint"),
        text("model"),
        text("upstream"),
        text("end"),
    );
    let (plan, endpoint, model, upstream) = (
        row.plan.clone(),
        row.endpoint.clone(),
        row.model.clone(),
        row.upstream.clone(),
    );
    assert_eq!(
        named,
        (plan, endpoint, model, upstream, Some(row.state.clone())),
        "{row:?} {usage}"
    );
    assert_eq!(usage["flags"], json!(row.flags), "{row:?} {usage}");
    let tokens = [
        "input_tokens",
        "cached_input_tokens",
        "output_tokens",
        "reasoning_tokens",
    ]
    .map(number);
    let expected = [
        row.input_tokens,
        row.cached_input_tokens,
        row.output_tokens,
        row.reasoning_tokens,
    ];
    assert_eq!(tokens, expected, "{row:?} {usage}");
    assert_eq!(
        micros(usage["cost_usd"].as_str().unwrap()),
        row.cost(),
        "{row:?} {usage}"
    );
    let (started, ended) = (
        millis(&row.started_at),
        millis(row.ended_at.as_deref().unwrap()),
    );
    assert_eq!(
        (
            millis(&text("started_at").unwrap()),
            millis(&text("ended_at").unwrap())
        ),
        (started, ended)
    );
    assert_eq!(
        number("duration_ms"),
        Some(ended - started),
        "{row:?} {usage}"
    );
    assert!(
        usage["ttft_ms"].is_null() || number("ttft_ms").is_some_and(|ttft| ttft >= 0),
        "ttft: {usage}"
    );
}

async fn outbox(project: &Project) -> Value {
    project.door.send(Call::get("/health/ready")).await.json()["parts"]["outbox"].clone()
}

/// Requests of every end: settled, streamed, hung up on, voided, lost.
async fn ask_in_every_way(project: &Project) {
    let (alice, bob) = (project.door.user("alice"), project.door.user("bob"));
    alice.ask(chat("whole")).await.expect(200);
    bob.ask(chat_stream("streamed")).await.expect(200);
    project
        .door
        .upstream
        .next(|_| Reply::error(500, "server_error", "no"));
    assert!(alice.ask(chat("voided")).await.status >= 500);
    project.door.upstream.next(|_| Reply::headless(Step::Stall));
    assert_eq!(
        alice.ask(chat("lost")).await.refusal(),
        (504, "upstream_timeout".to_owned())
    );
    alice.open(chat_stream("hung up")).await.hang_up();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_charged_request_arrives_once_and_as_the_ledger_has_it() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let settings = Settings::new().with("[proxy]\nfirst_byte_timeout = \"1s\"\n");
    for way in WAYS {
        let project = Project::open(way, settings.clone()).await;
        project.sql(NOTE_ORDER).await;

        ask_in_every_way(&project).await;

        let rows = assert_all_arrived(&project).await;
        let states: BTreeSet<&str> = rows.iter().map(|row| row.state.as_str()).collect();
        assert_eq!(states, BTreeSet::from(["lost", "settled", "voided"]));
        let came = project
            .owner()
            .await
            .query("select id from public.came order by place", &[])
            .await
            .unwrap();
        let came: Vec<Uuid> = came.iter().map(|row| row.get(0)).collect();
        for name in ["alice", "bob"] {
            let mut ended: Vec<&Row> = rows
                .iter()
                .filter(|row| row.is_charged() && row.user_id == user_id(name))
                .collect();
            ended.sort_by_key(|row| (millis(row.ended_at.as_deref().unwrap()), row.id));
            let ended: Vec<Uuid> = ended.iter().map(|row| row.id).collect();
            let of_user: Vec<Uuid> = came
                .iter()
                .copied()
                .filter(|id| ended.contains(id))
                .collect();
            assert_eq!(
                of_user, ended,
                "each once, in the order in which they ended"
            );
        }
        assert_eq!(outbox(&project).await["ok"], true);
        project.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_and_an_api_that_fails_or_hangs_lose_nothing_and_double_nothing() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let project = Project::open(Way::Rest, Settings::new().with(LONG_CACHE)).await;
    let alice = project.door.user("alice");
    let troubles = [
        Behave::LoseAnswer,
        Behave::Answer(500, "{}".to_owned()),
        Behave::Answer(
            503,
            json!({"code": "PGRST001", "message": "no", "details": null, "hint": null}).to_string(),
        ),
        Behave::Answer(401, "<html>".to_owned()),
        // A page of whatever stands in between is no word of the function.
        Behave::Answer(200, "<html>".to_owned()),
        Behave::Answer(200, "{}".to_owned()),
        Behave::Down,
        Behave::Hang,
    ];
    alice.ask(chat("known")).await.expect(200);
    for behave in troubles {
        let tried = project.calls(LOG);
        project.rest.behave(behave);
        alice.ask(chat("in trouble")).await.expect(200);
        until("tried", PATIENCE, async || project.calls(LOG) > tried).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        project.rest.behave(Behave::Up);
        assert_all_arrived(&project).await;
    }
    project.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_between_the_call_and_its_answer_loses_nothing_and_doubles_nothing() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let project = Project::open(Way::Rest, Settings::new().with(LONG_CACHE)).await;
    let alice = project.door.user("alice");
    for behave in [
        Behave::LoseAnswer,
        Behave::Hang,
        Behave::Slow(Duration::from_secs(2)),
        Behave::Down,
    ] {
        alice.me().await;
        let tried = project.calls(LOG);
        project.rest.behave(behave);
        for _ in 0..3 {
            alice.ask(chat("before the kill")).await.expect(200);
        }
        until("tried", PATIENCE, async || project.calls(LOG) > tried).await;
        project.door.process.kill9();
        project.rest.behave(Behave::Up);
        project.door.start().await;
        assert_all_arrived(&project).await;
    }
    assert_eq!(project.usage().await.len(), 12);
    project.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_while_the_database_works_on_a_call_loses_nothing_and_doubles_nothing() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let project = Project::open(Way::Postgres, Settings::new().with(LONG_CACHE)).await;
    project.sql(NOTE_ORDER).await;
    project.sql(&SLOW.replace("seconds", "1.5")).await;
    let alice = project.door.user("alice");
    for _ in 0..2 {
        for _ in 0..2 {
            alice.ask(chat("before the kill")).await.expect(200);
        }
        let working =
            "select 1 from pg_stat_activity where query like '%log_request%' and state = 'active'
                       and pid <> pg_backend_pid()";
        let owner = project.rest.postgres().connect("postgres").await;
        until("it works on a call", PATIENCE, async || {
            !owner.query(working, &[]).await.unwrap().is_empty()
        })
        .await;
        project.door.process.kill9();
        project.door.start().await;
        assert_all_arrived(&project).await;
    }
    project.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_down_for_a_whole_run_gets_all_of_it_afterwards() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    for way in WAYS {
        let project = Project::open(way, Settings::new()).await;
        let users: Vec<_> = ["alice", "bob", "carol"]
            .map(|name| project.door.user(name))
            .to_vec();
        for user in &users {
            user.me().await;
        }
        project.rest.postgres().stop("immediate");
        for _ in 0..5 {
            for user in &users {
                user.ask(chat("down")).await.expect(200);
            }
        }
        until("the lag shows", PATIENCE, async || {
            let outbox = outbox(&project).await;
            outbox["unsent"] == 15
                && outbox["oldest_seconds"]
                    .as_u64()
                    .is_some_and(|seconds| seconds >= 1)
        })
        .await;
        assert_eq!(
            outbox(&project).await["ok"],
            true,
            "a minute is no fault yet"
        );
        project.door.process.term(Duration::from_secs(20)).await;

        project.rest.postgres().start_again();
        project.door.start().await;
        assert_eq!(assert_all_arrived(&project).await.len(), 15);
        until("no lag", PATIENCE, async || {
            outbox(&project).await["unsent"] == 0
        })
        .await;
        assert_eq!(outbox(&project).await["oldest_seconds"], Value::Null);
        project.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_log_request_refuses_keeps_nobody_elses_waiting() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let poisoned = "create or replace function tollgate.log_request(entry jsonb) returns void
        language plpgsql security definer set search_path = '' as $f$ begin
            if entry ->> 'model' = 'gpt-4o' then raise exception 'I want no %', entry ->> 'model'; end if;
            insert into tollgate.usage select (jsonb_populate_record(null::tollgate.usage, entry)).*
            on conflict (id) do nothing;
        end $f$";
    for way in WAYS {
        let project = Project::open(way, Settings::new()).await;
        project.sql(poisoned).await;
        let (alice, bob) = (project.door.user("alice"), project.door.user("bob"));
        let mut poison = chat("poison");
        poison["model"] = json!("gpt-4o");
        let poison = alice.ask(poison).await.expect(200);
        let mut others: Vec<Answer> = Vec::new();
        for _ in 0..3 {
            others.push(bob.ask(chat("other")).await.expect(200));
        }
        until("the others", PATIENCE, async || {
            project.usage().await.len() == 3
        })
        .await;
        let ids: BTreeSet<_> = others
            .iter()
            .map(|answer| answer.id().unwrap().to_string())
            .collect();
        let there: BTreeSet<_> = project
            .usage()
            .await
            .iter()
            .map(|row| row["id"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(there, ids, "{way:?}");
        // What ended after the poison waits, where it is of the same user.
        alice.ask(chat("after the poison")).await.expect(200);
        bob.ask(chat("another")).await.expect(200);
        until("the other", PATIENCE, async || {
            project.usage().await.len() == 4
        })
        .await;
        assert!(
            project
                .usage()
                .await
                .iter()
                .all(|row| row["user_id"] != user_id("alice").to_string())
        );
        assert!(
            project
                .door
                .process
                .output()
                .contains(&poison.id().unwrap().to_string()),
            "the log names the entry"
        );

        project
            .sql(&poisoned.replace("'gpt-4o'", "'nonesuch'"))
            .await;
        until("mended", Duration::from_secs(40), async || {
            project.usage().await.len() == 6
        })
        .await;
        assert_all_arrived(&project).await;
        project.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_is_installed_late_gets_what_was_charged_before() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    for way in WAYS {
        let project = Project::open_on(Rest::start(Grants::New).await, way, Settings::new()).await;
        project
            .door
            .user("alice")
            .ask(chat("early"))
            .await
            .expect(200);
        until("it waits", PATIENCE, async || {
            outbox(&project).await["unsent"] == 1
        })
        .await;
        project
            .rest
            .run_as_editor(crate::support::postgrest::script())
            .await;
        assert_eq!(assert_all_arrived(&project).await.len(), 1);
        project.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_in_user_reads_the_own_rows_and_no_others() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let project = Project::open(Way::Rest, Settings::new()).await;
    for name in ["alice", "bob"] {
        project.door.user(name).ask(chat("mine")).await.expect(200);
    }
    assert_all_arrived(&project).await;
    let mut api = project
        .rest
        .postgres()
        .connect_as("authenticator", "postgres")
        .await;
    for name in ["alice", "bob", "stranger"] {
        let transaction = api.transaction().await.unwrap();
        let claims = json!({"sub": user_id(name), "role": "authenticated"}).to_string();
        let settings = "select set_config('role', 'authenticated', true), set_config('request.jwt.claims', $1, true)";
        transaction.query(settings, &[&claims]).await.unwrap();
        let rows = transaction
            .query("select user_id from tollgate.usage", &[])
            .await
            .unwrap();
        let users: Vec<Uuid> = rows.iter().map(|row| row.get(0)).collect();
        let expected = if name == "stranger" {
            vec![]
        } else {
            vec![user_id(name)]
        };
        assert_eq!(users, expected, "{name}");
        transaction.rollback().await.unwrap();
    }
    project.close().await;
}
