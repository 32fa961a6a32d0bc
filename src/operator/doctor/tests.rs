//! One deployment, and all that can be wrong with it: each time the line and what to type.

use serde_json::{Value, json};

use super::fake::{Fake, Says};
use super::*;
use crate::config::Sources;

const SECRET: &str = "sb_secret_canary0123456789abcd_12345678";
const ANON: &str = "sb_publishable_0123456789abcdefghijk_12345678";
const JWT_SECRET: &str = "f3kP0s9ZQm1xT7vB2nR8cJ5wL4hD6gYa";
const PLANS: &str = "[plans.free]\ndefault = true\nmodels = [\"gpt-4o-mini\"]\nlimits = [{ per = \"day\", requests = 5 }]\n";

fn folder() -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("tollgate-doctor-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Examines a deployment whose Supabase and upstream are at these URLs; `more` are variables.
async fn examination(supabase: &str, upstream: &str, more: &[(&str, &str)]) -> Report {
    let directory = folder();
    let base = format!("{upstream}/v1");
    let quick = [
        ("SUPABASE_URL", supabase),
        ("SUPABASE_SERVICE_KEY", SECRET),
        ("OPENAI_API_KEY", "sk-canary-key"),
        ("OPENAI_BASE_URL", &base),
        ("TOLLGATE_UPSTREAMS__0__PRESET", "openai"),
    ];
    let env = quick
        .iter()
        .chain(more)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    std::fs::write(directory.join("tollgate.toml"), PLANS).unwrap();
    let config = Config::load(&Sources {
        file: None,
        env,
        directory: directory.clone(),
    })
    .unwrap();
    let anon = more
        .iter()
        .find(|(name, _)| *name == "ANON")
        .map_or(ANON, |(_, key)| key);
    let anon = (!anon.is_empty()).then(|| SecretString::from(anon));
    let report = examine(&Deployment::new(config, anon, Clock::system()), |_, _| {}).await;
    assert!(
        report
            .checks
            .iter()
            .all(|check| check.status != Status::Fail || check.fix.is_some()),
        "{report:?}"
    );
    let told = serde_json::to_string(&report).unwrap();
    assert!(!told.contains("canary"), "{told}");
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);
    std::fs::remove_dir_all(directory).unwrap();
    report
}

async fn examined_with(says: Says) -> Report {
    let fake = Fake::start(says).await;
    examination(&fake.url, &fake.url, &[]).await
}

/// The one line of a name; its status, detail and fix in one text.
fn line<'a>(report: &'a Report, name: &str) -> (Status, String, &'a Check) {
    let lines: Vec<&Check> = report
        .checks
        .iter()
        .filter(|check| check.name == name)
        .collect();
    assert_eq!(lines.len(), 1, "{name} in {report:#?}");
    let fix = lines[0].fix.clone().unwrap_or_default();
    (
        lines[0].status,
        format!("{} | {fix}", lines[0].detail),
        lines[0],
    )
}

#[track_caller]
fn is(report: &Report, name: &str, status: Status, words: &[&str]) {
    let (found, told, _) = line(report, name);
    assert_eq!(found, status, "{name}: {told}");
    for word in words {
        assert!(told.contains(word), "`{word}` in {name}: {told}");
    }
    assert_eq!(
        report.ok,
        report
            .checks
            .iter()
            .all(|check| check.status != Status::Fail)
    );
}

#[tokio::test]
async fn a_good_deployment_has_a_tick_in_every_line() {
    let fake = Fake::start(Says::well()).await;
    let report = examination(&fake.url, &fake.url, &[]).await;
    assert!(report.ok, "{report:#?}");
    let good = [
        "ledger",
        "clock",
        "jwks",
        "supabase key",
        "supabase tollgate_check_user_limits",
        "supabase grants",
    ];
    for name in good.iter().chain(&[
        "supabase tollgate_log_requests",
        "upstream openai",
        "models of openai",
    ]) {
        is(&report, name, Status::Ok, &[]);
    }
    is(
        &report,
        "jwks",
        Status::Ok,
        &["1 ES256", "does not tell how old"],
    );
    is(&report, "database", Status::Skip, &["via = \"rest\""]);
    let (_, prices, _) = line(&report, "prices");
    assert!(prices.contains("the built-in prices are of 20"), "{prices}");
    is(&report, "models of openai", Status::Ok, &["gpt-4o-mini"]);
    let calls = fake.requests_to("/rest/v1/rpc/tollgate_log_requests");
    assert!(
        calls
            .iter()
            .all(|call| call.body == json!({"entries": []}) && call.method == http::Method::POST)
    );
    let key = |name: &str| {
        calls
            .iter()
            .filter(|call| call.headers.contains_key(name))
            .count()
    };
    assert!(
        calls
            .iter()
            .all(|call| call.headers["content-profile"] == "public")
    );
    assert_eq!(
        (calls.len(), key("apikey"), key("authorization")),
        (2, 2, 0),
        "new keys stand in apikey alone"
    );
}

#[tokio::test]
async fn a_dead_host_is_a_cross_with_the_command_that_shows_it() {
    let fake = Fake::start(Says::well()).await;
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    let report = examination(&dead, &fake.url, &[]).await;
    let jwks = format!("curl -sv {dead}/auth/v1/.well-known/jwks.json");
    is(
        &report,
        "jwks",
        Status::Fail,
        &["refused", "SUPABASE_URL", &jwks],
    );
    is(
        &report,
        "supabase rest",
        Status::Fail,
        &["refused", "SUPABASE_URL"],
    );
    is(&report, "upstream openai", Status::Ok, &[]);
    let report = examination(&fake.url, &dead, &[]).await;
    is(
        &report,
        "upstream openai",
        Status::Fail,
        &["refused", "OPENAI_BASE_URL", "curl -sv"],
    );
}

#[tokio::test]
async fn a_host_that_never_answers_costs_five_seconds_and_no_more() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let begun = std::time::Instant::now();
    let report = examination(&url, &url, &[]).await;
    assert!(
        begun.elapsed() < Duration::from_secs(9),
        "{:?}",
        begun.elapsed()
    );
    for name in ["jwks", "supabase", "upstream openai"] {
        is(
            &report,
            name,
            Status::Fail,
            &["no answer within 5 s", "firewall"],
        );
    }
    is(&report, "clock", Status::Warn, &["could not be compared"]);
    is(&report, "ledger", Status::Ok, &[]);
}

#[tokio::test]
async fn a_skewed_clock_is_a_cross() {
    for (skew, words) in [(95, "behind Supabase"), (-95, "ahead of Supabase")] {
        let report = examined_with(Says {
            skew,
            ..Says::well()
        })
        .await;
        is(
            &report,
            "clock",
            Status::Fail,
            &[words, "refused beyond 30 s", "timedatectl set-ntp true"],
        );
    }
    is(
        &examined_with(Says {
            skew: 20,
            ..Says::well()
        })
        .await,
        "clock",
        Status::Warn,
        &["behind"],
    );
}

#[tokio::test]
async fn keys_that_cannot_verify_are_told() {
    let with = |status, keys| async move {
        examined_with(Says {
            keys: (status, keys),
            ..Says::well()
        })
        .await
    };
    is(
        &with(200, json!({"keys": []})).await,
        "jwks",
        Status::Fail,
        &["HS256 only", "set JWT_SECRET"],
    );
    is(
        &with(404, Value::Null).await,
        "jwks",
        Status::Fail,
        &["status 404", "SUPABASE_URL"],
    );
    is(
        &with(200, json!([])).await,
        "jwks",
        Status::Fail,
        &["no JSON Web Key Set"],
    );
    is(
        &with(200, json!({"keys": [{"kty": "oct"}]})).await,
        "jwks",
        Status::Fail,
        &["kty", "ES256"],
    );
    let fake = Fake::start(Says {
        keys: (200, json!({"keys": []})),
        ..Says::well()
    })
    .await;
    let report = examination(&fake.url, &fake.url, &[("JWT_SECRET", JWT_SECRET)]).await;
    is(
        &report,
        "jwks",
        Status::Warn,
        &["JWT_SECRET verifies that", "Migrate JWT secret"],
    );
}

fn jwt(claims: &Value) -> String {
    use base64::Engine as _;
    let encode = |text: String| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    format!(
        "{}.{}.c2ln",
        encode("{}".to_owned()),
        encode(claims.to_string())
    )
}

#[tokio::test]
async fn the_wrong_kind_of_key_is_told_before_it_is_sent() {
    let fake = Fake::start(Says::well()).await;
    let with = async |key: &str| {
        examination(
            &fake.url,
            &fake.url,
            &[("SUPABASE_SERVICE_KEY", key), ("ANON", "")],
        )
        .await
    };
    // Keys of apps do not get so far: the settings refuse them.
    let expired = with(&jwt(&json!({"role": "service_role", "exp": 1000}))).await;
    is(
        &expired,
        "supabase key",
        Status::Fail,
        &[
            "expired at 1970-01-01T00:16:40Z",
            "set SUPABASE_SERVICE_KEY",
        ],
    );
    assert!(
        fake.requests_to("/rest/v1/rpc/tollgate_check_user_limits")
            .is_empty()
    );
    let legacy = with(&jwt(&json!({"role": "service_role"}))).await;
    is(
        &legacy,
        "supabase key",
        Status::Ok,
        &["legacy service-role key"],
    );
    let sent = fake.requests_to("/rest/v1/rpc/tollgate_check_user_limits");
    assert!(
        sent[0].headers.contains_key("apikey") && sent[0].headers.contains_key("authorization")
    );
    is(
        &with("whatever").await,
        "supabase key",
        Status::Warn,
        &["nothing that looks like"],
    );
}

#[tokio::test]
async fn a_key_that_supabase_refuses_is_a_cross() {
    let refused = (
        401,
        json!({"message": format!("Invalid API key {SECRET}"), "hint": "…"}),
    );
    let report = examined_with(Says {
        check: refused.clone(),
        log: refused,
        ..Says::well()
    })
    .await;
    is(
        &report,
        "supabase key",
        Status::Fail,
        &[
            "Supabase refuses",
            "Invalid API key [secret]",
            "set SUPABASE_SERVICE_KEY",
        ],
    );
}

#[tokio::test]
async fn functions_that_are_missing_shut_or_broken_are_told_apart() {
    const NAME: &str = "supabase tollgate_check_user_limits";
    let with = |status, body| async move {
        examined_with(Says {
            check: (status, body),
            ..Says::well()
        })
        .await
    };
    let missing = with(
        404,
        json!({"code": "PGRST202", "message": "Could not find the function"}),
    )
    .await;
    is(
        &missing,
        NAME,
        Status::Fail,
        &["no such function", "tollgate sql", "reload schema"],
    );
    is(&missing, "supabase tollgate_log_requests", Status::Ok, &[]);
    let shut = with(
        403,
        json!({"code": "42501", "message": "permission denied"}),
    )
    .await;
    is(&shut, NAME, Status::Fail, &["may not call", "tollgate sql"]);
    let broken = with(
        404,
        json!({"code": "42P01", "message": "relation \"subs\u{1b}\" does not exist"}),
    )
    .await;
    is(
        &broken,
        NAME,
        Status::Fail,
        &[
            "42P01",
            "\\u001b",
            "select public.tollgate_check_user_limits",
        ],
    );
    let down = with(503, json!({"code": "PGRST001", "message": "no connection"})).await;
    is(
        &down,
        "supabase rest",
        Status::Fail,
        &["status 503 PGRST001", "SUPABASE_URL"],
    );
    is(
        &with(200, json!({"plan": "gold"})).await,
        NAME,
        Status::Warn,
        &["`gold`, which there is not"],
    );
    is(
        &with(200, json!({"plan": "free", "limits": "none"})).await,
        NAME,
        Status::Fail,
        &["edit tollgate.check_user_limits"],
    );
    is(
        &with(200, json!({"plan": "free"})).await,
        NAME,
        Status::Ok,
        &["`free`"],
    );
    is(
        &with(200, json!({"allowed": false})).await,
        NAME,
        Status::Warn,
        &["whoever signs up is refused"],
    );
}

#[tokio::test]
async fn functions_that_anybody_may_call_are_a_cross() {
    let stranger = |status, body| async move {
        examined_with(Says {
            stranger: (status, body),
            ..Says::well()
        })
        .await
    };
    let words = [
        "everybody with the app can call",
        "tollgate_check_user_limits and tollgate_log_requests",
        "tollgate sql",
    ];
    is(
        &stranger(200, Value::Null).await,
        "supabase grants",
        Status::Fail,
        &words,
    );
    // It was let in, and failed inside.
    is(
        &stranger(404, json!({"code": "42P01"})).await,
        "supabase grants",
        Status::Fail,
        &words,
    );
    // Nobody got as far as the function.
    for (status, body) in [
        (503, json!({"code": "PGRST002"})),
        (502, Value::Null),
        (503, json!({"code": "53300"})),
    ] {
        is(
            &stranger(status, body).await,
            "supabase grants",
            Status::Warn,
            &["nothing is proved"],
        );
    }
    let unknown = stranger(401, json!({"message": "Invalid API key"})).await;
    is(
        &unknown,
        "supabase grants",
        Status::Warn,
        &["nothing is proved", "set SUPABASE_ANON_KEY"],
    );
    let fake = Fake::start(Says::well()).await;
    let report = examination(&fake.url, &fake.url, &[("ANON", "")]).await;
    is(
        &report,
        "supabase grants",
        Status::Skip,
        &["--anon-key", "SUPABASE_ANON_KEY"],
    );
    let report = examination(&fake.url, &fake.url, &[("ANON", SECRET)]).await;
    is(
        &report,
        "supabase grants",
        Status::Fail,
        &["is a secret key", "publishable"],
    );
}

#[tokio::test]
async fn an_upstream_that_refuses_the_key_or_lacks_a_model_is_a_cross() {
    let with = |status, body| async move {
        examined_with(Says {
            models: (status, body),
            ..Says::well()
        })
        .await
    };
    let refused = with(
        401,
        json!({"error": {"message": "Incorrect API key provided: sk-canary-key"}}),
    )
    .await;
    is(
        &refused,
        "upstream openai",
        Status::Fail,
        &["status 401", "the key is refused", "set OPENAI_API_KEY"],
    );
    let scoped = with(
        403,
        json!({"error": {"message": "Missing scopes: api.model.read"}}),
    )
    .await;
    is(
        &scoped,
        "upstream openai",
        Status::Warn,
        &["may not list models"],
    );
    is(
        &with(404, Value::Null).await,
        "upstream openai",
        Status::Fail,
        &["status 404", "ends in /v1"],
    );
    is(
        &with(500, Value::Null).await,
        "upstream openai",
        Status::Fail,
        &["status 500", "curl"],
    );
    is(
        &with(429, Value::Null).await,
        "upstream openai",
        Status::Warn,
        &["budget"],
    );
    let lacking = with(200, json!({"data": [{"id": "gpt-4o"}]})).await;
    is(
        &lacking,
        "models of openai",
        Status::Fail,
        &["not listed: gpt-4o-mini", "take the model out"],
    );
    is(
        &with(200, json!("x")).await,
        "models of openai",
        Status::Warn,
        &["no list of models"],
    );
}

#[test]
fn old_prices_are_told_with_their_age() {
    let written = PriceTable::written_on().unwrap();
    let after = |days: u64| {
        let start = Timestamp::parse(&format!("{written}T00:00:00Z")).unwrap();
        price_table(start.plus(Duration::from_hours(24 * days))).unwrap()
    };
    assert_eq!(after(90).status, Status::Ok);
    assert!(after(3).detail.ends_with("3 days old"), "{:?}", after(3));
    let old = after(91);
    assert_eq!(old.status, Status::Warn);
    assert!(old.fix.unwrap().contains("[prices]"));
}

#[tokio::test]
async fn the_end_of_a_model_is_told_and_the_providers_own_word_counts() {
    let with = |list: Value| async move {
        examined_with(Says {
            models: (200, list),
            ..Says::well()
        })
        .await
    };
    let soon = with(json!({"data": [
        {"id": "gpt-4o-mini", "shutdown_date": "2020-02-03"}, {"id": "gpt-6-luna"}]}))
    .await;
    is(
        &soon,
        "shutdowns at openai",
        Status::Warn,
        &[
            "gpt-4o-mini on 2020-02-03 (models.toml says 2027-01-14), then gpt-6-luna",
            "[models.\"NAME\"] use = ",
        ],
    );
    let later = with(json!({"data": [{"id": "gpt-4o-mini", "shutdown_date": "2999-01-01"}]})).await;
    let told = |report: &Report| {
        let mut checks = report.checks.iter();
        checks.any(|check| check.name.starts_with("shutdowns"))
    };
    assert!(!told(&later), "{later:#?}");
}

#[tokio::test]
async fn a_local_server_may_serve_more_than_it_lists() {
    let list = json!({"data": [{"id": "gpt-4o-mini:latest"}]});
    let fake = Fake::start(Says {
        models: (200, list),
        ..Says::well()
    })
    .await;
    let compatible = [("TOLLGATE_UPSTREAMS__0__DIALECT", "compatible")];
    is(
        &examination(&fake.url, &fake.url, &compatible).await,
        "models of openai",
        Status::Ok,
        &[],
    );
    let fake = Fake::start(Says {
        models: (200, json!({"data": []})),
        ..Says::well()
    })
    .await;
    is(
        &examination(&fake.url, &fake.url, &compatible).await,
        "models of openai",
        Status::Warn,
        &["not listed"],
    );
    let fake = Fake::start(Says {
        models: (404, Value::Null),
        ..Says::well()
    })
    .await;
    is(
        &examination(&fake.url, &fake.url, &compatible).await,
        "upstream openai",
        Status::Warn,
        &["does not list"],
    );
}

#[tokio::test]
async fn a_ledger_that_cannot_be_written_is_a_cross() {
    let fake = Fake::start(Says::well()).await;
    let file = folder().join("in-the-way");
    std::fs::write(&file, "no folder").unwrap();
    let url = format!("sqlite:{}", file.display());
    let report = examination(&fake.url, &fake.url, &[("DATABASE_URL", &url)]).await;
    is(
        &report,
        "ledger",
        Status::Fail,
        &["not a database", "[store] url", "chown"],
    );
}

#[tokio::test]
async fn a_dead_postgres_is_a_cross_that_tells_no_password() {
    let fake = Fake::start(Says::well()).await;
    let more = [(
        "DATABASE_URL",
        "postgres://user:canary-password@127.0.0.1:1/d",
    )];
    let report = examination(&fake.url, &fake.url, &more).await;
    for name in ["ledger", "database"] {
        is(
            &report,
            name,
            Status::Fail,
            &["127.0.0.1:1", "refused", "psql \"$DATABASE_URL\""],
        );
    }
    is(
        &report,
        "supabase key",
        Status::Skip,
        &["via = \"postgres\""],
    );
    is(&report, "supabase grants", Status::Ok, &[]);
}

/// The functions as `tollgate sql` makes them, in short.
const SQL: &str = "
    create role anon; create role authenticated;
    create schema tollgate; create table tollgate.usage (id uuid);
    create function tollgate.check_user_limits(user_id uuid) returns jsonb language sql as $$ select '{\"plan\": \"free\"}'::jsonb $$;
    create function tollgate.check_user(user_id uuid, session_id uuid) returns jsonb
        language sql as $$ select tollgate.check_user_limits(user_id) $$;
    create function tollgate.log_request(entry jsonb) returns void language sql as $$ select $$;
    create function tollgate.log_requests(entries jsonb) returns void language sql as $$ select $$;
    revoke all on all functions in schema tollgate from public;
    create role app login; grant usage on schema tollgate to app";

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "one table of cases")]
async fn a_postgres_is_connected_to_and_its_functions_and_grants_are_read() {
    let Some(server) = crate::pg::tests::Postgres::start(&[]) else {
        return;
    };
    let settings = crate::pg::PgSettings {
        connections: 1,
        call_timeout: LIMIT,
    };
    let owner = crate::pg::Database::new(
        &server.url(""),
        settings,
        tokio_util::task::TaskTracker::new(),
    )
    .unwrap();
    let fake = Fake::start(Says::well()).await;
    let url = server.url("").expose_secret().to_owned();
    let with = async |url: &str| examination(&fake.url, &fake.url, &[("DATABASE_URL", url)]).await;

    let report = with(&url).await;
    is(
        &report,
        "ledger",
        Status::Ok,
        &["Postgres 1", "ms a round trip"],
    );
    is(&report, "database", Status::Ok, &["127.0.0.1:"]);
    is(
        &report,
        "database check_user_limits",
        Status::Fail,
        &["no function tollgate.check_user", "tollgate sql"],
    );
    is(
        &report,
        "database log_request",
        Status::Fail,
        &["no function tollgate.log_requests", "tollgate sql"],
    );

    owner.batch(SQL).await.unwrap();
    let report = with(&url).await;
    is(
        &report,
        "database check_user_limits",
        Status::Ok,
        &["`free`"],
    );
    is(&report, "database log_request", Status::Ok, &[]);
    is(
        &report,
        "database grants",
        Status::Ok,
        &["neither users nor strangers"],
    );

    let app = with(&url.replace("postgres@", "app@")).await;
    is(
        &app,
        "ledger",
        Status::Fail,
        &["may not make the schema", "grant create on database"],
    );
    is(
        &app,
        "database log_request",
        Status::Fail,
        &[
            "may not call",
            "grant execute on function tollgate.log_requests",
        ],
    );

    let wide = "grant execute on function tollgate.log_request(jsonb) to anon; grant insert on tollgate.usage to public";
    owner.batch(wide).await.unwrap();
    let words = [
        "anon can call tollgate.log_request(jsonb)",
        "authenticated can write tollgate.usage",
        "tollgate sql",
    ];
    is(&with(&url).await, "database grants", Status::Fail, &words);

    let tables = include_str!("../../../migrations/postgres/0001_ledger.sql");
    owner
        .batch(format!("create schema tollgate_ledger; {tables}"))
        .await
        .unwrap();
    is(
        &with(&url).await,
        "ledger",
        Status::Ok,
        &["ms a round trip"],
    );
    let left = owner
        .query("select 1 from tollgate_ledger.owners", Vec::new())
        .await
        .unwrap();
    assert!(left.is_empty(), "the doctor takes back what it wrote");
    owner
        .batch("alter database postgres set default_transaction_read_only = on")
        .await
        .unwrap();
    is(
        &with(&url).await,
        "ledger",
        Status::Fail,
        &["no row can be written", "tollgate_ledger"],
    );
    owner
        .batch("alter database postgres reset default_transaction_read_only")
        .await
        .unwrap();

    let unknown = with(
        &url.replace("/postgres", "/nowhere")
            .replace("//nowhere", "//postgres"),
    )
    .await;
    is(
        &unknown,
        "database",
        Status::Fail,
        &["3D000", "database's name"],
    );
}
