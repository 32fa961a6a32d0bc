//! Whoever may call a function of the script cannot have code of their own run as its owner.
//!
//! A session's temporary types, views, functions and operators come before the built-in ones wherever a `search_path`
//! does not name `pg_temp` last. So here each role makes a shadow of every built-in thing that the script's text names,
//! found in the catalogue by the words of the text, and calls every function: no shadow may run as anybody else.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::postgrest::{Grants, Rest, script};
use crate::support::tokens::user_id;
use crate::support::tools::{Tool, installed};

/// The SQLSTATE of a shadow that ran as somebody else.
const ESCALATED: &str = "TG666";

/// Words and operators of a text, for the catalogue.
fn named(text: &str) -> (Vec<String>, Vec<String>) {
    let lower = text.to_lowercase();
    let words = lower.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let signs = lower.split(|letter: char| !"+-*/<>=~!@#%^&|`?".contains(letter));
    let kept = |parts: Vec<&str>| {
        let parts: BTreeSet<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        parts.into_iter().map(str::to_owned).collect()
    };
    (kept(words.collect()), kept(signs.collect()))
}

/// Everything that `text` names and the database has built in gets a shadow in this session. What has one, by kind.
#[allow(clippy::too_many_lines, reason = "one statement, written out")]
async fn shadow(client: &Client, text: &str) -> Vec<(String, String)> {
    let (words, signs) = named(text);
    let list = |names: &[String]| {
        names
            .iter()
            .map(|name| format!("'{}'", name.replace('\'', "''")))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let (words, signs) = (list(&words), list(&signs));
    // What cannot be shadowed (pseudo-types, aggregates) is passed over; a test below sees that enough is left.
    let make = format!(
        "set search_path = pg_catalog, pg_temp;
         do $make$
         declare
             one record;
         begin
             execute format($evil$
                 create function pg_temp.evil() returns boolean language plpgsql as $body$ begin
                     if current_user <> %L then
                         raise exception 'a shadow ran as %%', current_user using errcode = '{ESCALATED}';
                     end if;
                     return true;
                 end $body$ $evil$, current_user);
             for one in
                 select 'function ' || p.oid::regprocedure as what, format(
                     'create function pg_temp.%I(%s) returns %s language plpgsql as
                      $f$ begin perform pg_temp.evil(); return null; end $f$',
                     p.proname, pg_get_function_identity_arguments(p.oid), pg_get_function_result(p.oid)) as sql
                 from pg_proc p
                 where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind = 'f' and p.proname in ({words})
                 union all
                 select 'operator ' || o.oid::regoperator, format(
                     'create function pg_temp.%I(%s, %s) returns %s language plpgsql as
                      $f$ begin perform pg_temp.evil(); return null; end $f$;
                      create operator pg_temp.%s (leftarg = %2$s, rightarg = %3$s, function = pg_temp.%1$I)',
                     'sign_' || o.oid, o.oprleft::regtype, o.oprright::regtype, o.oprresult::regtype, o.oprname)
                 from pg_operator o join pg_type l on l.oid = o.oprleft join pg_type r on r.oid = o.oprright
                 where o.oprnamespace = 'pg_catalog'::regnamespace and o.oprname in ({signs})
                   and l.typname in ({words}) and r.typname in ({words})
                 union all
                 select 'type ' || t.typname, format(
                     'create domain pg_temp.%I as pg_catalog.%1$I check (pg_temp.evil())', t.typname)
                 from pg_type t
                 where t.typnamespace = 'pg_catalog'::regnamespace and t.typtype = 'b' and t.typname in ({words})
                 union all
                 select 'view ' || c.relname, format(
                     'create view pg_temp.%I as select * from %I.%1$I where pg_temp.evil()', c.relname, n.nspname)
                 from pg_class c join pg_namespace n on n.oid = c.relnamespace
                 where n.nspname in ('pg_catalog', 'tollgate', 'auth', 'public') and c.relkind in ('r', 'v')
                   and c.relname in ({words})
             loop
                 begin
                     execute one.sql;
                     perform set_config('shadows.made', current_setting('shadows.made', true) || one.what || E'\\n', false);
                 exception when others then
                     null;
                 end;
             end loop;
         end $make$;
         set search_path = pg_temp, public, tollgate, pg_catalog;"
    );
    client.batch_execute("set shadows.made = ''").await.unwrap();
    client.batch_execute(&make).await.unwrap();
    let made = client
        .query_one(
            "select pg_catalog.current_setting('shadows.made') collate pg_catalog.\"C\"",
            &[],
        )
        .await;
    let made: String = made.unwrap().get(0);
    made.lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(kind, name)| (kind.to_owned(), name.to_owned()))
        .collect()
}

fn entry(user: &str) -> Value {
    json!({
        "id": Uuid::now_v7(), "user_id": user_id(user), "plan": "free", "endpoint": "/v1/chat/completions",
        "model": "gpt-4o-mini", "upstream": "openai", "started_at": "2026-11-24T10:00:00.123Z",
        "ended_at": "2026-11-24T10:00:02Z", "end": "settled", "flags": ["estimated"], "input_tokens": 12,
        "cached_input_tokens": 2, "output_tokens": 30, "reasoning_tokens": 0, "cost_usd": "0.25", "ttft_ms": null,
        "duration_ms": 1877,
    })
}

/// A purchase, for `on_purchase`.
const PURCHASE: &str = r#"{"store": "app_store", "transaction_id": "1", "user_id": null, "product": "p", "plan": "pro",
    "credit_usd": null, "state": "live", "until": null, "environment": "production", "revision": 1}"#;

/// A call of every function that the script makes, each with arguments that go all the way.
async fn calls(owner: &Client) -> Vec<String> {
    let found = owner
        .query(
            "select p.oid::regprocedure::text, p.proname::text, p.pronargs::int8
             from pg_proc p where p.prokind = 'f' and (p.pronamespace = 'tollgate'::regnamespace
                 or p.pronamespace = 'public'::regnamespace and p.proname like 'tollgate\\_%') order by 1",
            &[],
        )
        .await
        .unwrap();
    let (alice, session) = (user_id("alice"), user_id("session"));
    let call = |row: &tokio_postgres::Row| -> String {
        let (signature, name): (String, String) = (row.get(0), row.get(1));
        let arguments = match (name.as_str(), row.get::<_, i64>(2)) {
            (_, 0) => String::new(),
            ("refuse_shadows", 1) => "'pg_catalog.now()'".to_owned(),
            ("log_request", 1) => format!("'{}'", entry("alice")),
            ("log_requests" | "tollgate_log_requests", 1) => format!("'[{}]'", entry("alice")),
            ("on_purchase", 1) => format!("'{PURCHASE}'"),
            ("on_purchases" | "tollgate_on_purchases", 1) => format!("'[{PURCHASE}]'"),
            (_, 1) => format!("'{alice}'"),
            (_, 2) => format!("'{alice}', '{session}'"),
            (_, 4) => format!("'{alice}', '{session}', 'https://issuer.test', 'subject'"),
            _ => panic!("say here how {signature} is called"),
        };
        let qualified = signature.split('(').next().unwrap();
        format!("select {qualified}({arguments})")
    };
    found.iter().map(call).collect()
}

/// The project with the script, in which everybody may call everything: a grant too many is no way in either.
async fn project() -> (Rest, Client) {
    let rest = Rest::with_script(Grants::New).await;
    let root = rest.postgres().connect("postgres").await;
    let open = format!(
        "create role somebody login;
         grant usage on schema tollgate to public;
         grant execute on all functions in schema tollgate, public to public;
         insert into auth.users (id) values ('{0}');
         insert into auth.sessions (id, user_id) values ('{1}', '{0}');
         insert into tollgate.subscriptions (user_id, plan, limits) values ('{0}', 'pro', '[]');",
        user_id("alice"),
        user_id("session")
    );
    root.batch_execute(&open).await.unwrap();
    let app = script()
        .split("create role tollgate_app")
        .nth(1)
        .unwrap()
        .split("*/")
        .next()
        .unwrap();
    root.batch_execute(&format!("create role tollgate_app{app}"))
        .await
        .unwrap();
    (rest, root)
}

/// A session of a role, as an attacker has one.
async fn session(rest: &Rest, role: &str) -> Client {
    let is_of_api = matches!(role, "anon" | "authenticated" | "service_role");
    let client = rest
        .postgres()
        .connect_as(if is_of_api { "authenticator" } else { role }, "postgres")
        .await;
    if is_of_api {
        client
            .batch_execute(&format!("set role {role}"))
            .await
            .unwrap();
    }
    client
}

/// The SQLSTATE of what a call came to; none where it ran.
async fn sqlstate(client: &Client, sql: &str) -> Option<String> {
    let failed = client.simple_query(sql).await.err()?;
    Some(
        failed
            .code()
            .map_or_else(|| failed.to_string(), |code| code.code().to_owned()),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn no_role_has_its_own_code_run_by_any_function_of_the_script() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let (rest, root) = project().await;
    let calls = calls(&root).await;
    assert!(calls.len() >= 8, "{calls:?}");
    for role in [
        "anon",
        "authenticated",
        "service_role",
        "tollgate_app",
        "somebody",
        "editor",
    ] {
        let attacker = session(&rest, role).await;
        let made = shadow(&attacker, script()).await;
        let has = |kind: &str, name: &str| {
            made.iter()
                .any(|made| *made == (kind.to_owned(), name.to_owned()))
        };
        for name in [
            "jsonb",
            "uuid",
            "text",
            "timestamptz",
            "regclass",
            "regprocedure",
            "name",
        ] {
            assert!(
                has("type", name) || !script().contains(name),
                "{role}: no shadow of {name}"
            );
        }
        assert!(
            has("view", "pg_proc") && has("view", "pg_type") && has("view", "pg_roles"),
            "{role}: {made:?}"
        );
        for kind in ["function", "operator"] {
            assert!(
                made.iter().filter(|(of, _)| of == kind).count() > 20,
                "{role}: {made:?}"
            );
        }
        for call in &calls {
            assert_eq!(sqlstate(&attacker, call).await, None, "{role}: {call}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shadows_do_run_where_a_search_path_lets_them() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let (rest, root) = project().await;
    for (number, (path, is_open)) in [
        ("set search_path = ''", true),
        ("set search_path = public", true),
        ("set search_path = pg_temp, pg_catalog", true),
        ("", true),
        ("set search_path = pg_catalog, pg_temp", false),
        ("set search_path = public, pg_temp", false),
    ]
    .into_iter()
    .enumerate()
    {
        let sql = format!(
            "create function public.trial_{number}() returns void language plpgsql security definer {path} as
             $f$ declare x jsonb := '{{}}'; begin perform x; end $f$"
        );
        root.batch_execute(&sql).await.unwrap();
        let attacker = session(&rest, "somebody").await;
        shadow(&attacker, script()).await;
        let told = sqlstate(&attacker, &format!("select public.trial_{number}()")).await;
        assert_eq!(told, is_open.then(|| ESCALATED.to_owned()), "{path}");
    }
}

/// Versions of the two functions as developers write them.
fn edited(path: &str) -> [String; 2] {
    [
        format!(
            "create or replace function tollgate.check_user_limits(user_id uuid) returns jsonb
             language plpgsql security definer {path} as
             $f$ declare x jsonb := '{{\"plan\": \"pro\"}}'; begin return x::text::jsonb; end $f$"
        ),
        format!(
            "create or replace function tollgate.log_request(entry jsonb) returns void
             language plpgsql security definer {path} as
             $f$ declare id uuid := (entry ->> 'id')::uuid; begin perform id::text; end $f$"
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_developers_own_versions_let_nobody_in_however_they_were_written() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let (rest, root) = project().await;
    let called = [
        "select tollgate.check_user('7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11', null)".to_owned(),
        format!("select tollgate.log_requests('[{}]')", entry("alice")),
        "select public.tollgate_check_user_limits('7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11', null)"
            .to_owned(),
        format!(
            "select public.tollgate_log_requests('[{}]')",
            entry("alice")
        ),
    ];
    let editor = session(&rest, "editor").await;
    for (path, told) in [
        ("set search_path = pg_catalog, pg_temp", None),
        ("set search_path = public, pg_temp", None),
        ("", None),
        ("set search_path = ''", Some("42501")),
        ("set search_path = public", Some("42501")),
        ("set search_path = pg_temp, public", Some("42501")),
    ] {
        editor.batch_execute(&edited(path).join(";")).await.unwrap();
        let attacker = session(&rest, "somebody").await;
        shadow(&attacker, script()).await;
        for call in &called {
            assert_eq!(
                sqlstate(&attacker, call).await.as_deref(),
                told,
                "{path}: {call}"
            );
        }
        let honest = session(&rest, "somebody").await;
        for call in &called {
            assert_eq!(
                sqlstate(&honest, call).await,
                None,
                "{path}: without temporary objects it goes on"
            );
        }
        // Another run of the script puts the setting right, and leaves the rest of the function alone.
        rest.run_as_editor(script()).await;
        root.batch_execute("grant usage on schema tollgate to public; grant execute on all functions in schema tollgate, public to public").await.unwrap();
        for call in &called {
            assert_eq!(
                sqlstate(&attacker, call).await,
                None,
                "{path}: after another run"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_version_to_copy_lets_anybody_in() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let (rest, root) = project().await;
    let alice = user_id("alice");
    let tables = format!(
        "create schema stripe;
         create table public.subscriptions (user_id uuid, status text, price_id text, current_period_start timestamptz,
             current_period_end timestamptz);
         insert into public.subscriptions values ('{alice}', 'active', 'price_1Pro', now(), now() + '1 month');
         create table stripe.customers (id text primary key, metadata jsonb);
         insert into stripe.customers values ('cus_1', '{{\"user_id\": \"{alice}\"}}');
         create table stripe.subscriptions (customer text, status text, metadata jsonb, current_period_start int,
             current_period_end int);
         insert into stripe.subscriptions values ('cus_1', 'active', '{{}}', 1700000000, 2000000000);
         create table public.revenuecat_subscriptions (app_user_id text, entitlement text, purchased_at timestamptz,
             expires_at timestamptz);
         insert into public.revenuecat_subscriptions values ('{alice}', 'pro', now(), now() + '1 month');
         create table public.spending (user_id uuid primary key, spent_usd numeric not null);
         create table public.llm_requests (id uuid primary key, user_id uuid, model text, tokens bigint, cost_usd numeric,
             created_at timestamptz);"
    );
    // The functions stay the editor's, and so are the tables.
    let editor = session(&rest, "editor").await;
    editor.batch_execute(&tables).await.unwrap();
    let versions: Vec<&str> = script()
        .split("/* Adapt:")
        .skip(1)
        .filter_map(|block| {
            block
                .split("*/")
                .next()?
                .split_once("\n\n")
                .map(|(_, sql)| sql)
        })
        .filter(|sql| sql.contains("create or replace function tollgate."))
        .collect();
    assert_eq!(versions.len(), 7);
    for sql in versions {
        editor.batch_execute(sql).await.unwrap();
        root.batch_execute("grant execute on all functions in schema tollgate to public")
            .await
            .unwrap();
        let attacker = session(&rest, "somebody").await;
        shadow(&attacker, script()).await;
        for call in calls(&root).await {
            assert_eq!(sqlstate(&attacker, &call).await, None, "{call} of {sql}");
        }
    }
}
