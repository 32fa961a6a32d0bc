//! `tollgate doctor` on a real project: what it says of a good one, and of each thing that can be wrong with it.
//!
//! Nothing of a project may be changed by looking at it, and no secret may be printed.

use serde_json::{Value, json};

use crate::support::door::Door;
use crate::support::postgres::Postgres;
use crate::support::postgrest::{Behave, Grants, Rest, script};
use crate::support::project::{Project, Way, joined};
use crate::support::reply::Reply;
use crate::support::settings::Settings;
use crate::support::tools::{Tool, installed};
use crate::support::upstream::Seen;

/// A project whose upstream lists its models, as OpenAI does; nothing serves.
async fn project_on(rest: Rest, way: Way, settings: Settings) -> Project {
    let anon = rest.keys().publishable.clone();
    let project = Project::prepare_on(rest, way, settings.env("SUPABASE_ANON_KEY", &anon)).await;
    project
        .door
        .upstream
        .always(|seen| models(seen, &["gpt-4o-mini", "gpt-4o"]));
    project
}

async fn project(way: Way, settings: Settings) -> Project {
    project_on(Rest::with_script(Grants::New).await, way, settings).await
}

fn models(seen: &Seen, names: &[&str]) -> Reply {
    assert_eq!(
        (seen.request.method.as_str(), seen.request.target.as_str()),
        ("GET", "/v1/models")
    );
    let data: Vec<Value> = names
        .iter()
        .map(|id| json!({"id": id, "object": "model"}))
        .collect();
    let now = jiff::fmt::rfc2822::DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&jiff::Timestamp::now())
        .unwrap();
    let reply = Reply::status(
        200,
        "application/json",
        json!({"object": "list", "data": data}).to_string(),
    );
    reply.header("date", &now)
}

/// What the doctor says, as text and as JSON, which must agree; ends with 1 where anything fails.
fn examine(project: &Project) -> Value {
    let printed = project.tollgate(&["doctor", "--json"]);
    let report: Value = serde_json::from_str(&printed.stdout)
        .unwrap_or_else(|error| panic!("{error}: {printed:?}"));
    let checks = report["checks"].as_array().unwrap();
    let ok = checks.iter().all(|check| check["status"] != "fail");
    assert_eq!(
        (&report["ok"], printed.code),
        (&json!(ok), Some(i32::from(!ok))),
        "{printed:?}"
    );
    for check in checks {
        let is_fixed =
            check["status"] != "fail" || check["fix"].as_str().is_some_and(|fix| !fix.is_empty());
        assert!(
            is_fixed && check["detail"].is_string(),
            "a failure without a fix: {check}"
        );
    }
    let text = project.tollgate(&["doctor"]);
    assert_eq!(text.code, printed.code);
    let marked = |mark: char| {
        text.stdout
            .lines()
            .filter(|line| line.starts_with(mark))
            .count()
    };
    for (mark, status) in [('✓', "ok"), ('!', "warn"), ('✗', "fail"), ('-', "skip")] {
        let count = checks
            .iter()
            .filter(|check| check["status"] == status)
            .count();
        assert_eq!(marked(mark), count, "{mark} in {}", text.stdout);
    }
    report
}

/// The one line of a name: its status, and its detail and fix.
#[track_caller]
fn assert_line(report: &Value, name: &str, status: &str, words: &[&str]) {
    let lines: Vec<&Value> = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|it| it["name"] == name)
        .collect();
    assert_eq!(lines.len(), 1, "{name} in {report:#}");
    assert_eq!(lines[0]["status"], status, "{}", lines[0]);
    let told = format!("{} {}", lines[0]["detail"], lines[0]["fix"]);
    for word in words {
        assert!(told.contains(word), "{word:?} in {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_project_over_rest_has_a_tick_everywhere_and_is_left_as_it_was() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let project = project(Way::Rest, Settings::new()).await;
    let report = examine(&project);
    assert_eq!(report["ok"], true, "{report:#}");
    for name in [
        "config",
        "ledger",
        "supabase key",
        "supabase grants",
        "upstream openai",
        "models of openai",
        "clock",
    ] {
        assert_line(&report, name, "ok", &[]);
    }
    assert_line(
        &report,
        "supabase tollgate_check_user_limits",
        "ok",
        &["is there"],
    );
    assert_line(
        &report,
        "supabase tollgate_log_requests",
        "ok",
        &["is there"],
    );
    assert_line(&report, "database", "skip", &["rest"]);
    assert_eq!(project.usage().await.len(), 0);
    assert!(
        !project.door.directory().join("data").exists(),
        "it makes no ledger"
    );
    project.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_that_signs_as_another_is_a_cross_with_the_line_that_mends_it() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let project = project(Way::Rest, Settings::new()).await;
    assert_line(&examine(&project), "issuer", "skip", &["does not tell"]);
    let own = project.door.claims("alice")["iss"]
        .as_str()
        .unwrap()
        .to_owned();
    for same in [own.clone(), own.replace("127.0.0.1", "localhost")] {
        project.rest.signs_as(&same);
        assert_line(&examine(&project), "issuer", "ok", &[&same]);
    }
    project.rest.signs_as("https://auth.example.com/auth/v1");
    let words = [
        own.as_str(),
        "[auth] issuer",
        "https://auth.example.com/auth/v1",
        "TOLLGATE_AUTH__ISSUER",
        "every user",
    ];
    assert_line(&examine(&project), "issuer", "fail", &words);
    project.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_that_are_missing_or_open_to_everybody_are_crosses_that_the_script_mends() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let rest = Rest::start(Grants::New).await;
    let project = project_on(rest, Way::Rest, Settings::new()).await;
    let report = examine(&project);
    for name in [
        "supabase tollgate_check_user_limits",
        "supabase tollgate_log_requests",
    ] {
        assert_line(&report, name, "fail", &["tollgate sql", "no such function"]);
    }
    project.rest.run_as_editor(script()).await;
    assert_eq!(examine(&project)["ok"], true);

    for (grant, open) in [
        (
            "grant execute on function public.tollgate_check_user_limits to anon",
            "tollgate_check_user_limits",
        ),
        (
            "grant execute on function public.tollgate_log_requests to public",
            "tollgate_log_requests",
        ),
    ] {
        project.sql(grant).await;
        assert_line(
            &examine(&project),
            "supabase grants",
            "fail",
            &["everybody", open, "tollgate sql"],
        );
        project.rest.run_as_editor(script()).await;
        assert_line(&examine(&project), "supabase grants", "ok", &[]);
    }
    project
        .sql("revoke execute on function public.tollgate_log_requests from service_role")
        .await;
    assert_line(
        &examine(&project),
        "supabase tollgate_log_requests",
        "fail",
        &["service role", "tollgate sql"],
    );
    project
        .answers("(select jsonb_build_object('plan', 1 / 0))")
        .await;
    assert_line(
        &examine(&project),
        "supabase tollgate_check_user_limits",
        "fail",
        &["22012", "SQL Editor"],
    );
    project.answers("'{\"plan\": \"nonesuch\"}'::jsonb").await;
    assert_line(
        &examine(&project),
        "supabase tollgate_check_user_limits",
        "warn",
        &["nonesuch"],
    );
    project.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_than_one_for_servers_is_a_cross() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let rest = Rest::with_script(Grants::New).await;
    let keys = rest.keys().clone();
    let mut shown = Vec::new();
    for key in [
        &keys.anon,
        &keys.publishable,
        "sb_secret_of_another_project_1234",
    ] {
        let door = Door::prepare(
            joined(Settings::new(), Way::Rest, &rest).env("SUPABASE_SERVICE_KEY", key),
        )
        .await;
        door.upstream
            .always(|seen| models(seen, &["gpt-4o-mini", "gpt-4o"]));
        let printed = door.tollgate(&["doctor", "--json"]);
        assert_eq!(printed.code, Some(1), "{printed:?}");
        assert!(
            !format!("{}{}", printed.stdout, printed.stderr).contains(key),
            "{printed:?}"
        );
        shown.push(printed.stdout);
        if key.starts_with("sb_secret") {
            door.close().await;
        } else {
            door.never_starts();
        }
    }
    for told in &shown {
        assert!(
            told.contains("sb_secret_") && told.contains("SUPABASE_SERVICE_KEY"),
            "{told}"
        );
    }
    assert!(shown[2].contains("refuses"), "{}", shown[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_dead_or_refuses_the_key_or_lacks_a_model_is_a_cross() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let project = project(Way::Rest, Settings::new()).await;
    project
        .door
        .upstream
        .always(|_| Reply::error(401, "invalid_api_key", "Incorrect API key provided: sk-…"));
    assert_line(
        &examine(&project),
        "upstream openai",
        "fail",
        &["401", "OPENAI_API_KEY"],
    );
    project
        .door
        .upstream
        .always(|seen| models(seen, &["gpt-4o-mini"]));
    assert_line(
        &examine(&project),
        "models of openai",
        "fail",
        &["gpt-4o", "not listed"],
    );
    project
        .door
        .upstream
        .always(|_| Reply::error(500, "server_error", "no"));
    assert_line(
        &examine(&project),
        "upstream openai",
        "fail",
        &["500", "curl"],
    );

    let dead = "[[upstreams]]\nname = \"openai\"\nbase_url = \"http://127.0.0.1:9/v1\"\n\
                api_key_env = \"OPENAI_API_KEY\"\nmodels = [\"*\"]\ndialect = \"openai\"\n";
    project.door.write_settings(&Settings::new().with(dead));
    assert_line(
        &examine(&project),
        "upstream openai",
        "fail",
        &["refused", "base_url"],
    );

    project
        .door
        .write_settings(&Settings::new().with("[plans.free]\nmodels = [\"gpt-nonesuch\"]\n"));
    assert_line(
        &examine(&project),
        "config",
        "fail",
        &["gpt-nonesuch", "price"],
    );
    project.door.write_settings(&Settings::new());
    project.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_wrong_is_a_cross() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let project = project(Way::Rest, Settings::new()).await;
    for (date, words) in [
        ("Sun, 06 Nov 1994 08:49:37 GMT", "ahead of"),
        ("Sun, 06 Nov 2044 08:49:37 GMT", "behind"),
    ] {
        project.door.upstream.always(move |_| {
            let list = json!({"data": [{"id": "gpt-4o-mini"}, {"id": "gpt-4o"}]}).to_string();
            Reply::status(200, "application/json", list).header("date", date)
        });
        assert_line(&examine(&project), "clock", "fail", &[words, "timedatectl"]);
    }
    project.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_is_down_or_hangs_is_told_within_seconds() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let project = project(Way::Rest, Settings::new()).await;
    project.rest.behave(Behave::Down);
    assert_line(
        &examine(&project),
        "supabase rest",
        "fail",
        &["SUPABASE_URL"],
    );
    project.rest.behave(Behave::Hang);
    let begun = std::time::Instant::now();
    let report = examine(&project);
    assert!(
        begun.elapsed() < std::time::Duration::from_secs(16),
        "two runs took {:?}",
        begun.elapsed()
    );
    assert_line(&report, "supabase", "fail", &["no answer within 5 s"]);
    assert_line(&report, "clock", "ok", &["openai"]);
    project.rest.behave(Behave::Up);
    project.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_and_a_ledger_on_postgres_are_examined_too() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let project = project(Way::Postgres, Settings::new()).await;
    let report = examine(&project);
    assert_eq!(report["ok"], true, "{report:#}");
    for name in [
        "database check_user_limits",
        "database log_request",
        "database grants",
    ] {
        assert_line(&report, name, "ok", &[]);
    }
    project
        .sql("grant execute on function tollgate.check_user(uuid, uuid) to authenticated")
        .await;
    assert_line(
        &examine(&project),
        "database grants",
        "fail",
        &["authenticated", "check_user", "tollgate sql"],
    );
    project.sql("drop schema tollgate cascade").await;
    let report = examine(&project);
    assert_line(
        &report,
        "database check_user_limits",
        "fail",
        &["tollgate sql"],
    );
    assert_line(&report, "database log_request", "fail", &["tollgate sql"]);
    project.rest.postgres().stop("immediate");
    assert_eq!(examine(&project)["ok"], false);
    assert_line(&examine(&project), "database", "fail", &["127.0.0.1"]);
    project.rest.postgres().start_again();
    project.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_database_url_is_the_ledger_and_the_directory() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let postgres = Postgres::start(false).await;
    postgres.psql("postgres", "postgres", script()).unwrap();
    let rest = Rest::start(Grants::New).await;
    let settings = Settings::new().env("DATABASE_URL", &postgres.url("postgres"));
    let project = project_on(rest, Way::Rest, settings).await;
    let report = examine(&project);
    assert_eq!(report["ok"], true, "{report:#}");
    assert_line(&report, "ledger", "ok", &["Postgres"]);
    assert_line(&report, "database check_user_limits", "ok", &[]);
    postgres.stop("immediate");
    assert_line(&examine(&project), "ledger", "fail", &["127.0.0.1"]);
    postgres.start_again();
    project.close().await;
}

/// The script as older versions installed it, and two functions that a developer wrote by its advice.
fn of_before() -> String {
    let old = script().replace(
        "set search_path = pg_catalog, pg_temp",
        "set search_path = ''",
    );
    format!(
        "{old}; drop function public.tollgate_examine(), public.tollgate_on_purchases(jsonb), tollgate.on_purchases(jsonb),
             public.tollgate_check_caller(uuid, uuid, text, text), tollgate.check_caller(uuid, uuid, text, text);
         do $$ begin execute (select string_agg('alter function ' || p.oid::regprocedure || $q$ set search_path = ''$q$, ';')
             from pg_proc p where p.proname in ('check_user_limits', 'log_request')); end $$;
         alter function tollgate.refuse_shadows set search_path = pg_catalog, pg_temp;
         notify pgrst, 'reload schema'"
    )
}

/// Every `alter function` line that the doctor prints.
fn alters(report: &Value) -> Vec<String> {
    let fixes = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|check| check["fix"].as_str());
    let lines = fixes.filter(|fix| fix.starts_with("alter function "));
    lines
        .map(|fix| format!("{};", fix.split(';').next().unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_scripts_functions_are_found_with_the_lines_that_mend_them() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    for way in [Way::Postgres, Way::Rest] {
        let project = project(way, Settings::new()).await;
        let line = if way == Way::Rest {
            "supabase functions"
        } else {
            "database functions"
        };
        assert_line(&examine(&project), line, "ok", &[]);
        project.rest.run_as_editor(&of_before()).await;
        let lines = alters(&examine(&project));
        assert_eq!(lines.len(), 6, "{lines:?}");
        for name in [
            "tollgate.check_user_limits(",
            "tollgate.log_request(",
            "public.tollgate_log_requests(",
        ] {
            let is_its = |line: &String| {
                line.contains(name) && line.ends_with(" set search_path = pg_catalog, pg_temp;")
            };
            assert!(lines.iter().any(is_its), "{name} in {lines:?}");
        }
        project
            .rest
            .postgres()
            .psql("editor", "postgres", &lines.join("\n"))
            .unwrap();
        if way == Way::Postgres {
            assert_line(&examine(&project), line, "ok", &[]);
        }
        project.rest.run_as_editor(script()).await;
        assert_line(&examine(&project), line, "ok", &[]);
        // Who edits one and forgets the setting is told, too.
        let editor = project
            .rest
            .postgres()
            .connect_as("editor", "postgres")
            .await;
        let edit =
            "create or replace function tollgate.log_request(entry jsonb) returns void language sql
                        security definer set search_path = public as 'select'";
        editor.batch_execute(edit).await.unwrap();
        assert_line(
            &examine(&project),
            line,
            "fail",
            &["log_request", "public, pg_temp;"],
        );
        project.door.never_starts();
    }
}

/// A table that decides on plans, written by users in ways that row-level security and grants let through or do not.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_users_can_write_is_found_however_the_function_reaches_it() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let project = project(Way::Postgres, Settings::new()).await;
    let root = project.rest.postgres().connect("postgres").await;
    let run = async |sql: &str| root.batch_execute(sql).await.unwrap();
    run(
        "create table public.profiles (id uuid primary key, plan text, name text);
         create view public.plans as select id, plan from public.profiles;
         create function public.plan_of(who uuid) returns text language sql as
             'select plan from public.profiles where id = who';
         revoke all on public.profiles, public.plans from anon, authenticated;
         alter table public.profiles enable row level security;
         set check_function_bodies = off",
    )
    .await;
    let bodies = [
        "select jsonb_build_object('plan', p.plan) from public.profiles p where p.id = check_user_limits.user_id",
        "select jsonb_build_object('plan', plan) from plans v where id = check_user_limits.user_id",
        "select jsonb_build_object('plan', public.plan_of(check_user_limits.user_id))",
        "select to_jsonb(p) from \"public\" . \"profiles\" p",
    ];
    let tables = |status: &str, words: &[&str]| {
        assert_line(&examine(&project), "database tables", status, words);
    };
    for body in bodies {
        run(&format!(
            "create or replace function tollgate.check_user_limits(user_id uuid) returns jsonb language sql stable
             security definer set search_path = public, pg_temp as $f$ {body} $f$"
        ))
        .await;
        tables("ok", &[]);
        run("grant select, update on public.profiles to authenticated").await;
        tables("ok", &[]);
        run("create policy own on public.profiles for update to authenticated using (true)").await;
        tables("fail", &["authenticated can update", "profiles", "plan"]);
        run("revoke update on public.profiles from authenticated;
             grant update (name) on public.profiles to authenticated")
        .await;
        tables(
            if body.contains("to_jsonb") {
                "fail"
            } else {
                "ok"
            },
            &[],
        );
        run(
            "drop policy own on public.profiles; revoke all on public.profiles from authenticated;
             revoke update (name) on public.profiles from authenticated",
        )
        .await;
    }
    project.door.never_starts();
}

#[tokio::test(flavor = "multi_thread")]
async fn views_inserts_and_triggers_are_looked_at_as_well() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let project = project(Way::Rest, Settings::new()).await;
    let root = project.rest.postgres().connect("postgres").await;
    let run = async |sql: &str| root.batch_execute(sql).await.unwrap();
    let reads = async |body: &str| {
        run(&format!(
            "create or replace function tollgate.check_user_limits(user_id uuid) returns jsonb language sql stable
             security definer set search_path = pg_catalog, pg_temp as $f$ {body} $f$"
        ))
        .await;
    };
    run("create table public.profiles (id uuid primary key, plan text);
         create table public.\"Paid Users\" (id uuid primary key, plan text);
         create view public.plans as select id, plan from public.profiles;
         revoke all on public.profiles, public.plans, public.\"Paid Users\" from anon, authenticated;
         alter table public.\"Paid Users\" enable row level security;")
    .await;
    let tables = |status: &str, words: &[&str]| {
        assert_line(&examine(&project), "supabase tables", status, words);
    };
    reads("select jsonb_build_object('plan', p.plan) from public.profiles p where p.id = check_user_limits.user_id")
        .await;
    run("grant update on public.plans to anon").await;
    tables("fail", &["anon can update", "plans", "profiles"]);
    run("revoke update on public.plans from anon; grant update on public.profiles to anon").await;
    reads(
        "select jsonb_build_object('plan', p.plan) -- not: from public.profiles
           from public.\"Paid Users\" p where p.id = check_user_limits.user_id",
    )
    .await;
    tables("ok", &[]);
    run("grant insert on public.\"Paid Users\" to authenticated;
         create policy mine on public.\"Paid Users\" for insert with check (true)")
    .await;
    tables("fail", &["authenticated can insert", "Paid Users"]);
    run("create function public.no() returns trigger language plpgsql as 'begin return null; end';
         create trigger guard before insert on public.\"Paid Users\" for each row execute function public.no()")
    .await;
    tables("warn", &["trigger"]);
    project.door.never_starts();
}
