//! The script of `tollgate sql`, run as an operator runs it, and then looked at as every role of the database sees it.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio_postgres::{Client, SimpleQueryMessage};
use uuid::Uuid;

use crate::support::caller::{Call, Front};
use crate::support::postgres::Postgres;
use crate::support::postgrest::{Grants, Rest, script};
use crate::support::tokens::user_id;
use crate::support::tools::{Tool, installed};

/// Every function of the script, as a role may call it.
const CALLS: [&str; 10] = [
    "select tollgate.check_user_limits('7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11')",
    "select tollgate.log_request('{}')",
    "select tollgate.check_user('7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11', null)",
    "select tollgate.check_caller('7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11', null, 'i', 's')",
    "select public.tollgate_check_caller('7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11', null, 'i', 's')",
    "select tollgate.log_requests('[]')",
    "select public.tollgate_check_user_limits('7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11', null)",
    "select public.tollgate_log_requests('[]')",
    "select tollgate.on_purchases('[]')",
    "select public.tollgate_on_purchases('[]')",
];

/// Every way to read or write what is not one's own.
const FORBIDDEN: [&str; 8] = [
    "insert into tollgate.usage (id) values (gen_random_uuid())",
    "update tollgate.usage set cost_usd = 0",
    "delete from tollgate.usage",
    "truncate tollgate.usage",
    "select * from tollgate.subscriptions",
    "insert into tollgate.subscriptions (user_id, plan) values (gen_random_uuid(), 'pro')",
    "update tollgate.subscriptions set plan = 'pro'",
    "create table tollgate.mine (n int)",
];

fn front(rest: &Rest) -> Arc<Front> {
    let address: SocketAddr = rest.url().trim_start_matches("http://").parse().unwrap();
    Arc::new(Front::new(address))
}

fn entry(user: &str, cost: &str) -> Value {
    json!({
        "id": Uuid::now_v7(), "user_id": user_id(user), "plan": "free", "endpoint": "/v1/chat/completions",
        "model": "gpt-4o-mini", "upstream": "openai", "started_at": "2026-11-24T10:00:00.123Z",
        "ended_at": "2026-11-24T10:00:02Z", "end": "settled", "flags": ["estimated"], "input_tokens": 12,
        "cached_input_tokens": 2, "output_tokens": 30, "reasoning_tokens": 0, "cost_usd": cost, "ttft_ms": null,
        "duration_ms": 1877,
    })
}

/// Does something as a role of the API, with a user's claims: as PostgREST does. The SQLSTATE where it fails.
async fn as_role(
    client: &Client,
    role: &str,
    user: &str,
    sql: &str,
) -> Result<Vec<String>, String> {
    let claims = json!({"sub": user_id(user), "role": role});
    let begin = format!("begin; set local role {role}; set local request.jwt.claims = '{claims}'");
    client.batch_execute(&begin).await.unwrap();
    let told = client.simple_query(sql).await;
    client.batch_execute("rollback").await.unwrap();
    let messages = told.map_err(|error| {
        error
            .code()
            .map_or(error.to_string(), |code| code.code().to_owned())
    })?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    });
    Ok(rows.collect())
}

async fn log(client: &Client, entries: &Value) {
    client
        .query("select tollgate.log_requests($1)", &[entries])
        .await
        .unwrap();
}

async fn count(client: &Client, table: &str) -> i64 {
    client
        .query_one(&format!("select count(*) from {table}"), &[])
        .await
        .unwrap()
        .get(0)
}

async fn plan_of(client: &Client, user: &str) -> Option<Value> {
    client
        .query_one("select tollgate.check_user($1, null)", &[&user_id(user)])
        .await
        .unwrap()
        .get(0)
}

/// The commented parts of the script that begin with `Adapt:`, without their headings.
fn examples() -> Vec<&'static str> {
    let blocks = script().split("/* Adapt:").skip(1);
    blocks
        .map(|block| {
            block
                .split("*/")
                .next()
                .unwrap()
                .split_once("\n\n")
                .unwrap()
                .1
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_runs_again_and_keeps_the_functions_and_rows_that_are_the_developers() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let rest = Rest::with_script(Grants::New).await;
    let editor = rest.postgres().connect_as("editor", "postgres").await;
    let shipped = plan_of(&editor, "alice").await;
    let edits = "
        create or replace function tollgate.check_user_limits(user_id uuid) returns jsonb language sql
            as $$ select '{\"plan\": \"edited\"}'::jsonb $$;
        create or replace function tollgate.check_user(user_id uuid, session_id uuid default null) returns jsonb
            language sql as $$ select null::jsonb $$;";
    editor.batch_execute(edits).await.unwrap();
    log(&editor, &json!([entry("alice", "0.000123")])).await;

    rest.run_as_editor(script()).await;
    rest.postgres()
        .psql("editor", "postgres", script())
        .unwrap();

    assert_eq!(shipped, None);
    assert_eq!(
        plan_of(&editor, "alice").await,
        Some(json!({"plan": "edited"}))
    );
    assert_eq!(count(&editor, "tollgate.usage").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_reads_their_own_usage_and_nobody_but_the_service_role_does_anything_else() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    for grants in [Grants::New, Grants::Old] {
        let rest = Rest::with_script(grants).await;
        let owner = rest.postgres().connect_as("editor", "postgres").await;
        log(
            &owner,
            &json!([
                entry("alice", "0.1"),
                entry("alice", "0.2"),
                entry("bob", "0.4")
            ]),
        )
        .await;
        owner
            .execute(
                "insert into tollgate.subscriptions values ($1, 'pro')",
                &[&user_id("alice")],
            )
            .await
            .unwrap();
        let api = rest
            .postgres()
            .connect_as("authenticator", "postgres")
            .await;
        assert_roles(&api).await;
    }
}

/// What each of the API's roles may and may not do, with two rows of Alice's and one of Bob's.
async fn assert_roles(api: &Client) {
    let usage = "select cost_usd from tollgate.usage order by cost_usd";
    let (denied, none) = (Err("42501".to_owned()), Vec::<String>::new());
    assert_eq!(
        as_role(api, "authenticated", "alice", usage).await.unwrap(),
        ["0.1", "0.2"]
    );
    assert_eq!(
        as_role(api, "authenticated", "bob", usage).await.unwrap(),
        ["0.4"]
    );
    assert_eq!(
        as_role(api, "authenticated", "carol", usage).await.unwrap(),
        none
    );
    assert_eq!(as_role(api, "anon", "alice", usage).await, denied);
    for role in ["anon", "authenticated"] {
        for sql in CALLS.iter().chain(&FORBIDDEN) {
            assert_eq!(
                as_role(api, role, "alice", sql).await,
                denied,
                "{role}: {sql}"
            );
        }
    }
    let logs = format!("select tollgate.log_request('{}')", entry("alice", "0.3"));
    for sql in CALLS
        .iter()
        .filter(|sql| !sql.contains("log_request('{}')"))
        .copied()
        .chain([logs.as_str()])
    {
        assert!(
            as_role(api, "service_role", "alice", sql).await.is_ok(),
            "{sql}"
        );
    }
    assert_eq!(
        as_role(api, "service_role", "alice", usage).await.unwrap(),
        ["0.1", "0.2", "0.4"]
    );
    assert!(
        as_role(api, "service_role", "alice", FORBIDDEN[6])
            .await
            .is_ok()
    );
    for sql in &FORBIDDEN[..4] {
        assert_eq!(
            as_role(api, "service_role", "alice", sql).await,
            denied,
            "{sql}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_run_takes_away_what_was_granted_too_widely() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let rest = Rest::with_script(Grants::New).await;
    let owner = rest.postgres().connect_as("editor", "postgres").await;
    let wide = "
        grant usage, create on schema tollgate to anon, authenticated;
        grant all on all tables in schema tollgate to anon, authenticated, public;
        grant execute on all functions in schema tollgate to anon, authenticated, public;
        grant execute on function public.tollgate_log_requests to public;
        alter table tollgate.usage disable row level security;
        drop function tollgate.check_user_limits;
        drop policy own_rows on tollgate.usage;";
    owner.batch_execute(wide).await.unwrap();

    rest.run_as_editor(script()).await;

    log(
        &owner,
        &json!([
            entry("alice", "0.1"),
            entry("alice", "0.2"),
            entry("bob", "0.4")
        ]),
    )
    .await;
    assert_roles(
        &rest
            .postgres()
            .connect_as("authenticator", "postgres")
            .await,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_comes_twice_is_one_row_and_a_batch_is_written_whole_or_not_at_all() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let rest = Rest::with_script(Grants::New).await;
    let owner = rest.postgres().connect_as("editor", "postgres").await;
    let (one, two) = (entry("alice", "0.000123"), entry("bob", "1"));

    log(&owner, &json!([one, one, two])).await;
    log(&owner, &json!([two])).await;

    let rows = owner
        .query(
            "select to_jsonb(u) from tollgate.usage u order by cost_usd",
            &[],
        )
        .await
        .unwrap();
    let mut stored: Vec<Value> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(stored.len(), 2);
    let mut expected = one.clone();
    expected["cost_usd"] = json!(0.000_123);
    expected["started_at"] = json!("2026-11-24T10:00:00.123+00:00");
    expected["ended_at"] = json!("2026-11-24T10:00:02+00:00");
    assert_eq!(stored.remove(0), expected);

    let mut broken = entry("alice", "2");
    broken["user_id"] = json!("nobody");
    let told = owner
        .query(
            "select tollgate.log_requests($1)",
            &[&json!([entry("alice", "3"), broken])],
        )
        .await;
    assert_eq!(told.unwrap_err().code().unwrap().code(), "22P02");
    assert_eq!(count(&owner, "tollgate.usage").await, 2);
    owner
        .batch_execute("create table seen (place serial, id uuid)")
        .await
        .unwrap();
    let order =
        "create or replace function tollgate.log_request(entry jsonb) returns void language sql as
        $$ insert into public.seen (id) values ((entry ->> 'id')::uuid) $$";
    owner.batch_execute(order).await.unwrap();
    let many: Vec<Value> = (0..50).map(|_| entry("alice", "1")).rev().collect();
    log(&owner, &Value::from(many.clone())).await;
    let seen: Vec<Uuid> = owner
        .query("select id from seen order by place", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(
        json!(seen),
        many.iter()
            .map(|entry| entry["id"].clone())
            .collect::<Value>()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_answer_is_the_users_row_while_its_period_lasts() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let postgres = Postgres::start(false).await;
    postgres.psql("postgres", "postgres", script()).unwrap();
    let client = postgres.connect("postgres").await;
    let set = async |user: &str, values: &str| {
        let sql = format!(
            "insert into tollgate.subscriptions values ('{}', {values})",
            user_id(user)
        );
        client
            .batch_execute(&sql)
            .await
            .map_err(|error| error.code().unwrap().code().to_owned())
    };
    set(
        "alice",
        "'pro', '2026-01-01Z', '2999-01-01Z', true, '[{\"per\": \"day\", \"requests\": 9}]'",
    )
    .await
    .unwrap();
    set("bob", "'pro'").await.unwrap();
    set("lapsed", "'pro', '2020-01-01Z', '2020-02-01Z'")
        .await
        .unwrap();
    set("blocked", "'pro', '2020-01-01Z', '2020-02-01Z', false")
        .await
        .unwrap();

    assert_eq!(plan_of(&client, "stranger").await, None);
    assert_eq!(
        plan_of(&client, "alice").await.unwrap(),
        json!({"plan": "pro", "allowed": true, "period_start": "2026-01-01T00:00:00+00:00",
               "period_end": "2999-01-01T00:00:00+00:00", "limits": [{"per": "day", "requests": 9}]})
    );
    assert_eq!(
        plan_of(&client, "bob").await.unwrap(),
        json!({"plan": "pro", "allowed": true, "period_start": null, "period_end": null})
    );
    assert_eq!(plan_of(&client, "lapsed").await, None);
    assert_eq!(plan_of(&client, "blocked").await.unwrap()["allowed"], false);
    for wrong in [
        "'p', 'infinity'",
        "'p', '2026-02-01Z', '2026-01-01Z'",
        "'p', null, null, true, '{}'",
    ] {
        assert_eq!(set("dora", wrong).await, Err("23514".to_owned()), "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_developers_function_answers_is_passed_on_and_nonsense_is_an_error() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let postgres = Postgres::start(false).await;
    postgres.psql("postgres", "postgres", script()).unwrap();
    let client = postgres.connect("postgres").await;
    let answers = async |expression: &str| {
        let edit = format!(
            "create or replace function tollgate.check_user_limits(user_id uuid) returns jsonb language sql
             as $$ select {expression} $$"
        );
        client.batch_execute(&edit).await.unwrap();
        let row = client
            .query_one("select tollgate.check_user($1, $1)", &[&user_id("alice")])
            .await;
        row.map(|row| row.get::<_, Option<Value>>(0))
            .map_err(|error| error.code().unwrap().code().to_owned())
    };

    assert_eq!(answers("'null'::jsonb").await, Ok(None));
    assert_eq!(answers("null::jsonb").await, Ok(None));
    assert_eq!(
        answers("'{\"plan\": \"team\"}'::jsonb").await,
        Ok(Some(json!({"plan": "team"})))
    );
    assert_eq!(answers("'\"pro\"'::jsonb").await, Err("P0001".to_owned()));
    assert_eq!(answers("'[]'::jsonb").await, Err("P0001".to_owned()));
    assert_eq!(
        answers("(select jsonb_build_object('plan', 1 / 0))").await,
        Err("22012".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_and_the_ban_come_with_the_plan_over_rest_and_over_postgres() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let rest = Rest::with_script(Grants::New).await;
    let (alice, session) = (user_id("alice"), user_id("session"));
    let owner = rest.postgres().connect("postgres").await;
    let front = front(&rest);
    let facts = async |user: Uuid, session: Option<Uuid>| -> Value {
        let mut body = json!({"user_id": user});
        if let Some(session) = session {
            body["session_id"] = json!(session);
        }
        let call = Call::post("/rest/v1/rpc/tollgate_check_user_limits", &body)
            .header("apikey", &rest.keys().secret);
        let over_rest = front.send(call).await.expect(200).json();
        let row = owner
            .query_one("select tollgate.check_user($1, $2)", &[&user, &session])
            .await
            .unwrap();
        assert_eq!(
            over_rest,
            row.get::<_, Option<Value>>(0).unwrap_or_default()
        );
        over_rest
    };

    assert_eq!(facts(alice, None).await, Value::Null);
    assert_eq!(
        facts(alice, Some(session)).await,
        json!({"session_alive": false, "banned": false})
    );
    owner
        .execute(
            "insert into auth.users (id) values ($1), ($2)",
            &[&alice, &user_id("bob")],
        )
        .await
        .unwrap();
    owner
        .execute(
            "insert into auth.sessions (id, user_id) values ($1, $2)",
            &[&session, &alice],
        )
        .await
        .unwrap();
    owner
        .execute(
            "insert into tollgate.subscriptions (user_id, plan) values ($1, 'pro')",
            &[&alice],
        )
        .await
        .unwrap();

    let known = facts(alice, Some(session)).await;
    assert_eq!(
        (&known["plan"], &known["session_alive"], &known["banned"]),
        (&json!("pro"), &json!(true), &json!(false))
    );
    assert_eq!(
        facts(user_id("bob"), Some(session)).await["session_alive"],
        false,
        "another user's session"
    );
    assert_eq!(facts(alice, None).await.get("session_alive"), None);
    for (until, banned) in [
        ("now() + interval '1 hour'", true),
        ("now() - interval '1 hour'", false),
    ] {
        owner
            .batch_execute(&format!("update auth.users set banned_until = {until}"))
            .await
            .unwrap();
        assert_eq!(facts(alice, Some(session)).await["banned"], banned);
    }
    owner.batch_execute("delete from auth.users").await.unwrap();
    assert_eq!(facts(alice, Some(session)).await["session_alive"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_api_knows_the_functions_at_once_and_answers_only_the_service_key() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    for grants in [Grants::New, Grants::Old] {
        let rest = Rest::start(grants).await;
        let front = front(&rest);
        let keys = rest.keys().clone();
        let call = |apikey: &str| {
            let body = json!({"entries": [entry("alice", "1")]});
            Call::post("/rest/v1/rpc/tollgate_log_requests", &body).header("apikey", apikey)
        };
        assert_eq!(
            front.send(call(&keys.secret)).await.json()["code"],
            "PGRST202"
        );

        rest.run_as_editor(script()).await;

        assert_eq!(front.send(call(&keys.secret)).await.status, 204);
        assert_eq!(
            front
                .send(call(&keys.service_role).bearer(&keys.service_role))
                .await
                .status,
            204
        );
        let refused = front.send(call(&keys.publishable)).await;
        assert_eq!(
            (refused.status, &refused.json()["code"]),
            (401, &json!("42501"))
        );
        let owner = rest.postgres().connect("postgres").await;
        assert_eq!(count(&owner, "tollgate.usage").await, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_postgres_without_supabases_roles_takes_the_script_twice() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let postgres = Postgres::start(false).await;
    postgres.psql("postgres", "postgres", script()).unwrap();
    let client = postgres.connect("postgres").await;
    client.batch_execute(script()).await.unwrap();
    client
        .batch_execute("create role somebody login")
        .await
        .unwrap();

    let definers = "select proname::text from pg_proc where prosecdef and proconfig = array['search_path=pg_catalog, pg_temp']";
    assert_eq!(
        client.query(definers, &[]).await.unwrap().len(),
        CALLS.len()
    );
    let odd = "select proname::text from pg_proc p join pg_namespace n on n.oid = p.pronamespace
        where (nspname = 'tollgate' or nspname = 'public') and proconfig is distinct from array['search_path=pg_catalog, pg_temp']
          and proname <> 'tollgate_examine'";
    assert!(
        client.query(odd, &[]).await.unwrap().is_empty(),
        "every function has the setting"
    );
    let somebody = postgres.connect_as("somebody", "postgres").await;
    for sql in CALLS.iter().chain(&FORBIDDEN) {
        let error = somebody.batch_execute(sql).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42501", "{sql}");
    }
    log(&client, &json!([entry("alice", "1")])).await;
    assert_eq!(count(&client, "tollgate.usage").await, 1);
}

/// Tables as the examples expect them, with Alice's plan in each.
fn tables_of_the_examples() -> String {
    let alice = user_id("alice");
    let upper = alice.to_string().to_uppercase();
    format!(
        "create schema stripe;
         create table public.subscriptions (id text primary key, user_id uuid, status text, price_id text,
             current_period_start timestamptz, current_period_end timestamptz);
         insert into public.subscriptions values ('a', '{alice}', 'canceled', 'price_1Team', now(), now() + '1 year'),
             ('b', '{alice}', 'active', 'price_1Pro', now(), now() + '1 month');
         create table stripe.customers (id text primary key, metadata jsonb);
         insert into stripe.customers values ('cus_1', '{{\"user_id\": \"{alice}\"}}');
         create table stripe.subscriptions (id text primary key, customer text, status text, metadata jsonb,
             current_period_start int, current_period_end int);
         insert into stripe.subscriptions values ('sub_1', 'cus_1', 'active', '{{}}', 1700000000, 2000000000);
         create table public.revenuecat_subscriptions (app_user_id text, entitlement text, purchased_at timestamptz,
             expires_at timestamptz);
         insert into public.revenuecat_subscriptions values ('{upper}', 'old', now() - interval '1 year', now() - interval '1 day'),
             ('{upper}', 'pro', now(), now() + '1 month');
         insert into auth.users (id, raw_app_meta_data) values ('{alice}', '{{\"plan\": \"pro\"}}');
         create table public.spending (user_id uuid primary key, spent_usd numeric not null);
         create table public.llm_requests (id uuid primary key, user_id uuid, model text, tokens bigint, cost_usd numeric,
             created_at timestamptz);"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_in_the_comments_is_sql_that_works() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let rest = Rest::with_script(Grants::Old).await;
    let owner = rest.postgres().connect_as("editor", "postgres").await;
    owner
        .batch_execute(&tables_of_the_examples())
        .await
        .unwrap();
    let examples = examples();
    let about = |name: &str| {
        examples
            .iter()
            .filter(|sql| sql.contains(name))
            .copied()
            .collect::<Vec<_>>()
    };

    let plans = about("function tollgate.check_user_limits(");
    for sql in &plans {
        owner.batch_execute(sql).await.unwrap();
        let answer = plan_of(&owner, "alice").await.unwrap();
        assert_eq!(
            (&answer["plan"], &answer["allowed"]),
            (&json!("pro"), &json!(true)),
            "{sql}"
        );
        assert_eq!(plan_of(&owner, "stranger").await, None, "{sql}");
    }
    let logs = about("function tollgate.log_request(");
    for sql in &logs {
        owner.batch_execute(sql).await.unwrap();
        let twice = entry("alice", "0.25");
        log(&owner, &json!([twice, twice])).await;
    }
    let spent = "select spent_usd::text from public.spending";
    assert_eq!(
        owner
            .query_one(spent, &[])
            .await
            .unwrap()
            .get::<_, String>(0),
        "0.25"
    );
    assert_eq!(
        (
            count(&owner, "tollgate.usage").await,
            count(&owner, "public.llm_requests").await
        ),
        (1, 1)
    );

    owner.batch_execute(about("my_usage")[0]).await.unwrap();
    log(&owner, &json!([entry("bob", "1")])).await;
    let api = rest
        .postgres()
        .connect_as("authenticator", "postgres")
        .await;
    let view = "select cost_usd from public.my_usage";
    assert_eq!(
        as_role(&api, "authenticated", "alice", view).await.unwrap(),
        ["0.25"]
    );
    assert_eq!(
        as_role(&api, "anon", "alice", view).await,
        Err("42501".to_owned())
    );
    owner
        .batch_execute(about("create role tollgate_app")[0])
        .await
        .unwrap();
    assert_eq!((plans.len(), logs.len(), examples.len()), (4, 2, 9));
    assert_purchases(&rest, about("function tollgate.on_purchase(")[0]).await;
    assert_app_role(&rest).await;
}

/// The example that keeps purchases: what comes twice or late changes nothing, and no user may call it.
async fn assert_purchases(rest: &Rest, example: &str) {
    let owner = rest.postgres().connect_as("editor", "postgres").await;
    let api = rest
        .postgres()
        .connect_as("authenticator", "postgres")
        .await;
    let tell = async |entries: Value| -> bool {
        let sql = "select tollgate.on_purchases($1)";
        owner.query_one(sql, &[&entries]).await.unwrap().get(0)
    };
    let purchase = |revision: i64, state: &str| {
        json!({
            "id": format!("{revision}:app_store:1"), "revision": revision, "user_id": user_id("alice"),
            "store": "app_store", "transaction_id": "1", "original_transaction_id": "1",
            "product": "com.example.pro", "plan": "pro", "credit_usd": null, "quantity": 1, "state": state,
            "until": "2026-12-24T10:00:00Z", "purchased_at": "2026-11-24T10:00:00Z",
            "environment": "production", "refunded_share": "0.00000", "changed_at": "2026-11-24T10:00:00Z",
        })
    };
    assert!(!tell(json!([purchase(1, "live")])).await, "there is none");
    owner.batch_execute(example).await.unwrap();
    assert!(
        tell(json!([
            purchase(3, "live"),
            purchase(5, "ended"),
            purchase(3, "live")
        ]))
        .await
    );
    let sql = "select state || ' ' || revision from tollgate.purchases";
    let state: String = owner.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(state, "ended 5");
    // Another run keeps it, mends its search_path and takes back what was granted too widely.
    owner
        .batch_execute(
            "grant execute on function tollgate.on_purchase(jsonb) to public;
             alter function tollgate.on_purchase(jsonb) set search_path = ''",
        )
        .await
        .unwrap();
    rest.run_as_editor(script()).await;
    let call = "select tollgate.on_purchase('{}')";
    for role in ["anon", "authenticated"] {
        assert_eq!(
            as_role(&api, role, "alice", call).await,
            Err("42501".to_owned()),
            "{role}"
        );
    }
    let path = "select array_to_string(proconfig, '') from pg_proc where proname = 'on_purchase'";
    let path: String = owner.query_one(path, &[]).await.unwrap().get(0);
    assert!(path.ends_with("pg_temp"), "{path}");
    // What fails takes the whole batch back.
    let broken = json!([purchase(6, "live"), {"state": "live"}]);
    let sql = "select tollgate.on_purchases($1)";
    owner.query_one(sql, &[&broken]).await.unwrap_err();
    assert!(tell(json!([purchase(4, "live")])).await);
}

/// What the role of the last example can do: call, keep a ledger, and nothing else.
async fn assert_app_role(rest: &Rest) {
    let app = rest.postgres().connect_as("tollgate_app", "postgres").await;
    assert!(plan_of(&app, "alice").await.is_some());
    log(&app, &json!([entry("carol", "1")])).await;
    app.batch_execute("create table tollgate_ledger.requests (id uuid)")
        .await
        .unwrap();
    for sql in [
        "select * from tollgate.usage",
        "select * from auth.users",
        FORBIDDEN[5],
        "create table public.t ()",
    ] {
        assert_eq!(
            app.batch_execute(sql)
                .await
                .unwrap_err()
                .code()
                .unwrap()
                .code(),
            "42501",
            "{sql}"
        );
    }
}
