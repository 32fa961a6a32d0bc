//! A REST API of one test's own, and what is asked of it and understood of its answers.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use secrecy::SecretString;
use serde_json::json;

use super::*;
use crate::clock::Timestamp;
use crate::pg;
use crate::plan::{DatabaseAnswer, Limit, Per, Period, Unit};

/// A server that answers every path with what it was last told to, and remembers what it was asked.
#[derive(Clone)]
pub(crate) struct RestServer {
    pub(crate) url: String,
    said: Arc<Mutex<(u16, String, Duration)>>,
    asked: Arc<Mutex<Vec<(String, HeaderMap, Value)>>>,
    hits: Arc<AtomicUsize>,
}

impl RestServer {
    pub(crate) async fn start(tasks: &TaskTracker) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let said = Arc::new(Mutex::new((200, "null".to_owned(), Duration::ZERO)));
        let server = Self {
            url,
            said,
            asked: Arc::default(),
            hits: Arc::default(),
        };
        let serving = server.clone();
        let app = Router::new().fallback(move |request: Request| serving.clone().respond(request));
        tasks.spawn(async move { axum::serve(listener, app).await });
        server
    }

    async fn respond(self, request: Request) -> Response {
        self.hits.fetch_add(1, Ordering::SeqCst);
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        let place = format!("{} {}", parts.method, parts.uri);
        self.asked.lock().unwrap().push((
            place,
            parts.headers,
            serde_json::from_slice(&body).unwrap(),
        ));
        let (status, text, delay) = self.said.lock().unwrap().clone();
        tokio::time::sleep(delay).await;
        let mut response = text.into_response();
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response
            .headers_mut()
            .insert("location", "/elsewhere".parse().unwrap());
        response
    }

    pub(crate) fn say(&self, status: u16, body: &Value) {
        let mut said = self.said.lock().unwrap();
        (said.0, said.1) = (status, body.to_string());
    }

    pub(crate) fn delay(&self, delay: Duration) {
        self.said.lock().unwrap().2 = delay;
    }

    pub(crate) fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }

    pub(crate) fn asked(&self) -> (String, HeaderMap, Value) {
        self.asked.lock().unwrap().last().unwrap().clone()
    }

    fn database(&self, key: &str) -> DeveloperDatabase {
        let via = Via::Rest {
            supabase_url: self.url.clone(),
            service_key: SecretString::from(key),
        };
        DeveloperDatabase::new(&via, TaskTracker::new())
            .unwrap()
            .unwrap()
    }
}

const USER: Uuid = Uuid::from_u128(7);
const SESSION: Uuid = Uuid::from_u128(8);

fn read(value: &Value) -> Result<Option<PlanAnswer>, DatabaseFailure> {
    PlanAnswer::read(value)
}

#[test]
fn an_answer_is_understood_whole_or_refused() {
    let answer = read(&json!({
        "plan": "pro", "allowed": false, "period_start": "2026-11-01T00:00:00+00:00", "period_end": "infinity",
        "limits": [{"per": "day", "requests": 5}, {"per": "month", "cost_usd": "0.50"}], "session_alive": true, "x": 1,
    }));
    let answer = answer.unwrap().unwrap();
    assert_eq!(
        (answer.allowed, answer.session_alive, answer.banned),
        (false, Some(true), None)
    );
    let limits = answer.assigned.limits.unwrap();
    assert_eq!(limits[0], Limit::of_all(Per::Day, Unit::Requests, 5));
    assert_eq!(limits[1], Limit::of_all(Per::Month, Unit::CostUsd, 500_000));
    let start = Timestamp::parse("2026-11-01T00:00:00Z").unwrap();
    assert_eq!(
        answer.assigned.period,
        Some(Period {
            start,
            end: Timestamp::MAX
        })
    );

    assert_eq!(read(&Value::Null), Ok(None));
    let bare = read(&json!({"plan": null, "limits": null, "period_end": "2026-11-01T00:00:00Z"}))
        .unwrap()
        .unwrap();
    assert_eq!(
        (bare.assigned, bare.allowed),
        (DatabaseAnswer::default(), true)
    );
    assert_eq!(
        read(&json!({"limits": []}))
            .unwrap()
            .unwrap()
            .assigned
            .limits,
        Some(vec![])
    );
    for (wrong, word) in [
        (json!("pro"), "object"),
        (json!([{"plan": "pro"}]), "object"),
        (json!({"plan": 5}), "plan"),
        (json!({"plan": "x".repeat(65)}), "plan"),
        (json!({"allowed": "no"}), "allowed"),
        (json!({"session_alive": 1}), "session_alive"),
        (json!({"period_start": 5}), "period_start"),
        (json!({"period_end": "2026-11-01T00:00:00"}), "period_end"),
        (
            json!({"period_start": "2026-11-02T00:00:00Z", "period_end": "2026-11-01T00:00:00Z"}),
            "before",
        ),
        (json!({"limits": {"per": "day"}}), "limits"),
        (
            json!({"limits": [{"per": "day", "requests": 0}]}),
            "limits[0].requests",
        ),
        (
            json!({"limits": [{"per": "day", "requests": 1, "model": ""}]}),
            "limits[0].model",
        ),
        (
            json!({"limits": [{"per": "day", "requests": 1, "model": 7}]}),
            "limits[0].model",
        ),
        (
            json!({"limits": [{"per": "day", "requests": null}]}),
            "limits[0].requests",
        ),
        (
            json!({"limits": [{"per": "day", "cost_usd": 0.5}]}),
            "limits[0].cost_usd",
        ),
        (
            json!({"limits": [{"per": "week", "requests": 1}]}),
            "limits[0].per",
        ),
        (
            json!({"limits": [{"per": "day", "request": 1, "tokens": 1}]}),
            "limits[0].request",
        ),
        (
            json!({"limits": [{"per": "day", "requests": 18_446_744_073_709_551_615_u64}]}),
            "limits[0].requests",
        ),
    ] {
        let Err(DatabaseFailure::Unavailable(told)) = read(&wrong) else {
            panic!("accepted: {wrong}")
        };
        assert!(told.contains(word), "{wrong}: {told}");
    }
}

const fn asked(session_id: Option<Uuid>) -> AskedUser<'static> {
    AskedUser {
        user_id: USER,
        session_id,
        subject: None,
    }
}

#[tokio::test]
async fn the_rest_api_is_asked_by_the_wrapper_with_the_key_where_it_belongs() {
    let server = RestServer::start(&TaskTracker::new()).await;
    server.say(200, &json!({"plan": "pro"}));
    let answer = server
        .database("sb_secret_canary")
        .check_user_limits(asked(Some(SESSION)))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(answer.assigned.plan.as_deref(), Some("pro"));
    let (place, headers, body) = server.asked();
    assert_eq!(place, "POST /rest/v1/rpc/tollgate_check_user_limits");
    assert_eq!(body, json!({"user_id": USER, "session_id": SESSION}));
    assert_eq!(
        (
            headers["apikey"].to_str().unwrap(),
            headers.get("authorization")
        ),
        ("sb_secret_canary", None)
    );
    assert!(
        headers["user-agent"]
            .to_str()
            .unwrap()
            .starts_with("tollgate/")
    );
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["content-profile"], "public");

    server.say(204, &Value::Null);
    server
        .database("eyJ.legacy.key")
        .log_requests(&[json!({"id": 1}), json!({"id": 2})])
        .await
        .unwrap();
    let (place, headers, body) = server.asked();
    assert_eq!(place, "POST /rest/v1/rpc/tollgate_log_requests");
    assert_eq!(body, json!({"entries": [{"id": 1}, {"id": 2}]}));
    assert_eq!(headers["authorization"], "Bearer eyJ.legacy.key");
    assert_eq!(headers["apikey"], "eyJ.legacy.key");
}

#[tokio::test]
async fn a_project_without_the_rest_api_has_no_functions_and_one_that_answered_does_not_lose_them()
{
    let server = RestServer::start(&TaskTracker::new()).await;
    let database = server.database("sb_secret_canary");
    for status in [404, 405, 501] {
        server.say(status, &Value::Null);
        assert_eq!(
            database.check_user_limits(asked(None)).await,
            Ok(None),
            "{status}"
        );
        assert_eq!(
            database.log_requests(&[]).await,
            Err(DatabaseFailure::Missing),
            "{status}"
        );
    }
    server.say(200, &Value::Null);
    assert_eq!(database.check_user_limits(asked(None)).await, Ok(None));
    for status in [404, 405, 501] {
        server.say(status, &Value::Null);
        assert!(
            matches!(
                database.log_requests(&[]).await,
                Err(DatabaseFailure::Unavailable(_))
            ),
            "{status}"
        );
    }
}

#[tokio::test]
async fn every_failure_of_the_rest_api_is_told_apart() {
    let server = RestServer::start(&TaskTracker::new()).await;
    let database = server.database("sb_secret_canary");
    let error =
        |code: &str| json!({"code": code, "message": "why", "details": "row data", "hint": null});
    let missing = error("PGRST202");
    let unavailable =
        |failure: &DatabaseFailure| matches!(failure, DatabaseFailure::Unavailable(_));
    for (status, body, refused) in [
        (400, error("P0001"), true),
        (400, error("22P02"), true),
        (409, error("23505"), true),
        (413, Value::Null, true),
        (400, error("42703"), false),
        (404, error("42P01"), false),
        (401, error("42501"), false),
        (403, error("42501"), false),
        (406, error("PGRST106"), false),
        (429, Value::Null, false),
        (302, Value::Null, false),
        (500, error("P0001"), false),
        (503, error("53300"), false),
    ] {
        server.say(status, &body);
        let failure = database.log_requests(&[]).await.unwrap_err();
        assert_eq!(
            !unavailable(&failure),
            refused,
            "{status} {body}: {failure:?}"
        );
        assert!(
            !failure.to_string().contains("row data") && !failure.to_string().contains("canary"),
            "{failure}"
        );
        assert!(
            database.check_user_limits(asked(None)).await.is_err(),
            "{status}"
        );
    }
    server.say(404, &missing);
    assert_eq!(
        database.log_requests(&[]).await,
        Err(DatabaseFailure::Missing)
    );
    assert_eq!(database.check_user_limits(asked(None)).await, Ok(None));
    let hits = server.hits();
    server.say(200, &json!("x".repeat(300 * 1024)));
    assert!(unavailable(
        &database.check_user_limits(asked(None)).await.unwrap_err()
    ));
    assert_eq!(server.hits(), hits + 1);
    server.say(200, &json!({}));
    server.delay(CHECK_TIMEOUT + Duration::from_secs(2));
    let begun = tokio::time::Instant::now();
    assert!(unavailable(
        &database.check_user_limits(asked(None)).await.unwrap_err()
    ));
    assert!(begun.elapsed() < CHECK_TIMEOUT + Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_is_asked_by_the_newest_function_that_is_there() {
    let Some(server) = pg::tests::Postgres::start(&[]) else {
        return;
    };
    let url = server.url("");
    let settings = pg::PgSettings {
        connections: 1,
        call_timeout: Duration::from_secs(10),
    };
    let operator = pg::Database::new(&url, settings, TaskTracker::new()).unwrap();
    let database = DeveloperDatabase::new(&Via::Postgres(url), TaskTracker::new())
        .unwrap()
        .unwrap();
    let plan = async || {
        database
            .check_user_limits(asked(Some(SESSION)))
            .await
            .map(|a| a.and_then(|a| a.assigned.plan))
    };
    let make = async |sql: &str| operator.batch(sql).await.unwrap();
    let body = |name: &str, sql: &str| {
        format!(
            "create or replace function tollgate.{name} returns jsonb language plpgsql as 'begin {sql} end'"
        )
    };
    assert_eq!(plan().await, Ok(None));
    assert_eq!(
        database.log_requests(&[json!({})]).await,
        Err(DatabaseFailure::Missing)
    );
    make("create schema tollgate").await;
    assert_eq!(plan().await, Ok(None));
    make(&body(
        "check_user_limits(user_id uuid)",
        "return jsonb_build_object(''plan'', user_id::text);",
    ))
    .await;
    assert_eq!(plan().await, Ok(Some(USER.to_string())));
    make(&body(
        "check_user(u uuid, s uuid)",
        "return jsonb_build_object(''plan'', s::text);",
    ))
    .await;
    assert_eq!(plan().await, Ok(Some(SESSION.to_string())));
    make(&body("check_user(u uuid, s uuid)", "return null;")).await;
    assert_eq!(plan().await, Ok(None));
    // A function that is there and broken is no missing one.
    for broken in [
        "return no_such(1);",
        "raise exception ''no'';",
        "return nope.f();",
    ] {
        make(&body("check_user(u uuid, s uuid)", broken)).await;
        assert!(plan().await.is_err(), "{broken}");
    }
    make("create table log (id int8 primary key)").await;
    let log = "insert into log select (e ->> ''id'')::int8 from jsonb_array_elements(entries) e; return null;";
    make(&body("log_requests(entries jsonb)", log)).await;
    database
        .log_requests(&[json!({"id": 1}), json!({"id": 2})])
        .await
        .unwrap();
    assert!(matches!(
        database
            .log_requests(&[json!({"id": 3}), json!({"id": 1})])
            .await,
        Err(DatabaseFailure::Refused(_))
    ));
    let logged: i64 = operator
        .query("select count(*) from log", vec![])
        .await
        .unwrap()[0]
        .get(0);
    assert_eq!(logged, 2);
    server.down();
    assert!(matches!(
        database.log_requests(&[]).await,
        Err(DatabaseFailure::Unavailable(_))
    ));
    assert!(matches!(plan().await, Err(DatabaseFailure::Unavailable(_))));
}
