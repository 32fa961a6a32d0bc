//! The directory over a REST API and a ledger of one test's own.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::auth::Authenticator;
use crate::clock::Clock;
use crate::config::{Sources, Via};
use crate::ledger::read::report::{By, Desk, SubscriptionRow};
use crate::ledger::{Settings, Writer};
use crate::operator::queries::users;
use crate::plan::PlanSource;
use crate::supabase::tests::RestServer;

const SECRET: &str = "f3kP0s9ZQm1xT7vB2nR8cJ5wL4hD6gYa";
const PLANS: &str = r#"
    [plans.free]
    default = true
    models = ["gpt-4o-mini"]
    limits = [{ per = "day", requests = 1 }]
    [plans.pro]
    models = ["gpt-4o-mini"]
    limits = [{ per = "day", requests = 100 }]
    [plans.team]
    models = ["gpt-4o-mini"]
    limits = [{ per = "day", requests = 1000 }]
"#;

/// A directory with all that it stands on.
struct Room {
    server: RestServer,
    directory: Directory,
    config: Config,
    clock: Clock,
    tasks: TaskTracker,
    dir: std::path::PathBuf,
    writer: Option<Writer>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.writer.take().unwrap().close();
        std::fs::remove_dir_all(&self.dir).unwrap();
    }
}

async fn room(more: &str) -> Room {
    let (tasks, clock) = (TaskTracker::new(), Clock::system());
    let server = RestServer::start(&tasks).await;
    let dir = std::env::temp_dir().join(format!("tollgate-directory-{}", Uuid::now_v7()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("tollgate.toml"), format!("{more}\n{PLANS}")).unwrap();
    let env = [
        ("JWT_SECRET", SECRET),
        ("OPENAI_API_KEY", "sk-x"),
        ("SUPABASE_URL", &server.url),
        ("SUPABASE_SERVICE_KEY", "sb_secret_x"),
    ];
    let env = env
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let config = Config::load(&Sources {
        file: None,
        env,
        directory: dir.clone(),
    })
    .unwrap();
    assert!(matches!(config.directory.via, Via::Rest { .. }));
    let settings = Settings {
        store: crate::config::StoreUrl::Sqlite(dir.join("ledger.db")),
        lease: config.store.lease,
        keep_requests: config.store.keep_requests,
        time_zone: config.server.time_zone.clone(),
        outbox: false,
    };
    let (ledger, writer) = Ledger::open(settings, clock.clone()).unwrap();
    let database = DeveloperDatabase::new(&config.directory.via, tasks.clone()).unwrap();
    let directory = Directory::new(ledger, database, tasks.clone());
    Room {
        server,
        directory,
        config,
        clock,
        tasks,
        dir,
        writer: Some(writer),
    }
}

impl Room {
    async fn caller(&self, user: u128, more: serde_json::Value) -> Principal {
        let now = self.clock.now().secs();
        let mut claims = json!({
            "sub": Uuid::from_u128(user), "aud": "authenticated", "role": "authenticated", "iat": now,
            "iss": self.config.auth.issuer, "exp": now.saturating_add(864_000), "session_id": Uuid::from_u128(99), "is_anonymous": false,
        });
        claims
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().cloned().unwrap_or_default());
        let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
        let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap();
        let headers = [(
            http::header::AUTHORIZATION,
            format!("Bearer {token}").parse().unwrap(),
        )]
        .into_iter()
        .collect();
        let auth = Authenticator::new(&self.config.auth, self.tasks.clone(), self.clock.clone());
        auth.verify((&headers, "/"), &self.config.auth, self.clock.now())
            .await
            .unwrap()
    }

    async fn plan(&self, caller: &Principal) -> Result<(String, PlanSource, i64), Code> {
        let granted = self
            .directory
            .plan_of(caller, &self.config, self.clock.now())
            .await
            .map_err(|no| no.code)?;
        let first = granted.plan.limits.first().map_or(0, |limit| limit.amount);
        Ok((granted.plan.name.clone(), granted.source, first))
    }

    fn later(&self, seconds: i64) {
        self.clock.shift(seconds.saturating_mul(1000));
    }
}

#[allow(clippy::unnecessary_wraps, reason = "it stands beside refusals")]
fn is(name: &str, source: PlanSource, first: i64) -> Result<(String, PlanSource, i64), Code> {
    Ok((name.to_owned(), source, first))
}

#[tokio::test]
async fn the_database_comes_first_and_its_limits_go_with_its_plan() {
    use PlanSource::{Claim, Database, Default, Local};
    let room = room("[directory]\nplan_cache = \"0s\"\n[auth]\nanonymous_plan = \"team\"").await;
    let claims = room
        .caller(1, json!({"app_metadata": {"plan": "team"}}))
        .await;
    let plain = room.caller(2, json!({})).await;
    let anonymous = room.caller(3, json!({"is_anonymous": true})).await;
    let limits = json!([{"per": "day", "requests": 7}]);
    for (answer, of_claims, of_plain, of_anonymous) in [
        (
            json!(null),
            is("team", Claim, 1000),
            is("free", Default, 1),
            is("team", Default, 1000),
        ),
        (
            json!({"plan": "pro"}),
            is("pro", Database, 100),
            is("pro", Database, 100),
            is("pro", Database, 100),
        ),
        (
            json!({"plan": "pro", "limits": limits}),
            is("pro", Database, 7),
            is("pro", Database, 7),
            is("pro", Database, 7),
        ),
        (
            json!({"limits": limits}),
            is("team", Claim, 7),
            is("free", Default, 7),
            is("team", Default, 7),
        ),
        (
            json!({"plan": "gold", "limits": limits}),
            is("team", Claim, 1000),
            is("free", Default, 1),
            is("team", Default, 1000),
        ),
        (
            json!({"plan": "pro", "allowed": false}),
            Err(Code::UserBlocked),
            Err(Code::UserBlocked),
            Err(Code::UserBlocked),
        ),
    ] {
        room.server.say(200, &answer);
        let told = [
            room.plan(&claims).await,
            room.plan(&plain).await,
            room.plan(&anonymous).await,
        ];
        assert_eq!(told, [of_claims, of_plain, of_anonymous], "{answer}");
    }
    // The local table is behind the database, and blocks nevertheless.
    let desk = Desk::open(&crate::config::StoreUrl::Sqlite(room.dir.join("ledger.db"))).unwrap();
    let row = SubscriptionRow {
        plan: Some("team".to_owned()),
        ..SubscriptionRow::default()
    };
    let by = By {
        name: "a test",
        at: room.clock.now(),
    };
    users::set_plan(&desk, plain.user_id(), &row, by).unwrap();
    room.server.say(200, &json!({"plan": "pro"}));
    assert_eq!(room.plan(&plain).await, is("pro", Database, 100));
    room.server.say(200, &json!(null));
    assert_eq!(room.plan(&plain).await, is("team", Local, 1000));
    users::set_blocked(&desk, plain.user_id(), true, by).unwrap();
    room.server.say(200, &json!({"plan": "pro"}));
    assert_eq!(room.plan(&plain).await, Err(Code::UserBlocked));
}

/// `now() - interval '30 days'` would be a new window at each look-up.
#[tokio::test]
async fn a_period_that_is_counted_from_now_is_no_new_window_each_time() {
    const DAY: i64 = 86_400;
    const AGO: i64 = -30 * DAY;
    let room = room("[directory]\nplan_cache = \"0s\"").await;
    let caller = room.caller(1, json!({})).await;
    let at = |seconds: i64| {
        Timestamp::from_millis(
            room.clock
                .now()
                .millis()
                .saturating_add(seconds.saturating_mul(1000)),
        )
        .rfc3339()
    };
    let look = async |start: i64, end: &str| {
        room.server.say(
            200,
            &json!({"plan": "pro", "period_start": at(start), "period_end": end}),
        );
        let granted = room
            .directory
            .plan_of(&caller, &room.config, room.clock.now())
            .await
            .unwrap();
        granted.period.unwrap().start.secs()
    };
    let (first, ends) = (look(AGO, "infinity").await, at(400 * DAY));
    for seconds in [1, 7, 60, 3600, 12 * 3600] {
        room.later(seconds);
        assert_eq!(look(AGO, "infinity").await, first, "after {seconds} s");
    }
    room.later(DAY);
    let second = look(AGO, "infinity").await;
    assert!(
        second > first.saturating_add(DAY),
        "a window that is a day behind is over"
    );
    room.later(3600);
    assert_eq!(look(AGO, "infinity").await, second);
    // What does not move with the clock counts at once: a purchase, and another an hour later.
    let bought = look(0, &ends).await;
    assert!(bought > second);
    room.later(3600);
    assert_eq!(look(-3600, &ends).await, bought);
    assert!(look(0, &ends).await > bought);
}

#[tokio::test]
async fn the_period_of_the_database_is_the_period_of_its_plan() {
    let room = room("[directory]\nplan_cache = \"0s\"").await;
    let caller = room.caller(1, json!({})).await;
    room.server.say(
        200,
        &json!({"plan": "pro", "period_start": "2026-11-05T00:00:00Z", "period_end": "2026-12-05T00:00:00Z"}),
    );
    let granted = room
        .directory
        .plan_of(&caller, &room.config, room.clock.now())
        .await
        .unwrap();
    assert_eq!(
        granted.period.unwrap().end.rfc3339(),
        "2026-12-05T00:00:00Z"
    );
}

#[tokio::test]
async fn an_answer_is_fresh_for_seconds_and_a_refresh_asks_at_once() {
    let room = room("").await;
    let caller = room.caller(1, json!({})).await;
    room.server.say(200, &json!({"plan": "pro"}));
    for _ in 0..5 {
        assert_eq!(
            room.plan(&caller).await,
            is("pro", PlanSource::Database, 100)
        );
    }
    assert_eq!(room.server.hits(), 1);
    room.server.say(200, &json!({"plan": "team"}));
    room.later(14);
    assert_eq!(
        room.plan(&caller).await,
        is("pro", PlanSource::Database, 100)
    );
    room.later(1);
    assert_eq!(
        room.plan(&caller).await,
        is("team", PlanSource::Database, 1000)
    );
    // No answer is an answer, and is kept as well.
    room.server.say(200, &json!(null));
    room.directory.refresh(caller.user_id());
    assert_eq!(room.plan(&caller).await, is("free", PlanSource::Default, 1));
    assert_eq!(room.plan(&caller).await, is("free", PlanSource::Default, 1));
    assert_eq!(room.server.hits(), 3);
}

#[tokio::test]
async fn many_requests_of_a_user_are_one_look_up_that_outlives_whoever_asked_first() {
    let room = room("").await;
    let caller = room.caller(1, json!({})).await;
    room.server.say(200, &json!({"plan": "pro"}));
    room.server.delay(Duration::from_millis(300));
    assert!(
        tokio::time::timeout(Duration::from_millis(50), room.plan(&caller))
            .await
            .is_err()
    );
    let ((one, two), three) = tokio::join!(
        async { tokio::join!(room.plan(&caller), room.plan(&caller)) },
        room.plan(&caller)
    );
    assert_eq!(
        [one, two, three],
        [0, 1, 2].map(|_| is("pro", PlanSource::Database, 100))
    );
    assert_eq!(room.server.hits(), 1);
}

#[tokio::test]
async fn while_the_database_is_down_an_answer_serves_on_and_then_nobody_is_let_in() {
    let room = room("").await;
    let (known, stranger) = (
        room.caller(1, json!({})).await,
        room.caller(2, json!({})).await,
    );
    assert!(room.directory.health().ok);
    room.server.say(200, &json!({"plan": "pro"}));
    assert_eq!(
        room.plan(&known).await,
        is("pro", PlanSource::Database, 100)
    );
    room.server.say(503, &json!(null));
    room.later(60);
    assert_eq!(
        room.plan(&known).await,
        is("pro", PlanSource::Database, 100)
    );
    let health = room.directory.health();
    assert!(!health.ok && health.via == "rest" && health.error.is_some());
    assert_eq!(room.plan(&stranger).await, Err(Code::DirectoryUnavailable));
    // A failure is not repeated for every request.
    let hits = room.server.hits();
    assert_eq!(room.plan(&stranger).await, Err(Code::DirectoryUnavailable));
    assert_eq!(
        room.plan(&known).await,
        is("pro", PlanSource::Database, 100)
    );
    assert_eq!(room.server.hits(), hits);
    // The ten minutes run from the last answer, not from the last try.
    room.later(539);
    assert_eq!(
        room.plan(&known).await,
        is("pro", PlanSource::Database, 100)
    );
    room.later(1);
    let refusal = room
        .directory
        .plan_of(&known, &room.config, room.clock.now())
        .await
        .unwrap_err();
    assert!(refusal.code == Code::DirectoryUnavailable && refusal.retry_after.is_some());
    // It comes back by itself.
    room.server.say(200, &json!({"plan": "team"}));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(
        room.plan(&known).await,
        is("team", PlanSource::Database, 1000)
    );
    assert!(room.directory.health().ok);
}

#[tokio::test]
async fn a_silent_database_serves_nobody_longer_than_one_that_is_down() {
    let room = room("").await;
    let (alice, bob) = (
        room.caller(1, json!({})).await,
        room.caller(2, json!({})).await,
    );
    room.server.say(200, &json!({"plan": "pro"}));
    for caller in [&alice, &bob] {
        assert_eq!(
            room.plan(caller).await,
            is("pro", PlanSource::Database, 100)
        );
    }
    room.server.delay(Duration::from_secs(30));
    room.later(60);
    assert_eq!(
        room.plan(&alice).await,
        is("pro", PlanSource::Database, 100)
    );
    // The first of them asks whether it speaks again, the second asks nobody.
    let hits = room.server.hits();
    let (stranger, known) = (room.caller(3, json!({})).await, room.plan(&bob));
    let (stranger, known) = tokio::join!(room.plan(&stranger), known);
    assert_eq!(
        (stranger, known),
        (
            Err(Code::DirectoryUnavailable),
            is("pro", PlanSource::Database, 100)
        )
    );
    assert_eq!(room.server.hits(), hits.saturating_add(1));
    room.later(540);
    let stranger = room.caller(4, json!({})).await;
    let (_, known) = tokio::join!(room.plan(&stranger), room.plan(&bob));
    assert_eq!(known, Err(Code::DirectoryUnavailable));
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_lets_nobody_in() {
    let room = room("[directory]\nplan_cache = \"0s\"\nplan_stale = \"0s\"").await;
    for (user, answer) in [
        (
            1,
            json!({"plan": "pro", "limits": [{"per": "day", "requests": -1}]}),
        ),
        (2, json!("pro")),
    ] {
        room.server.say(200, &answer);
        let caller = room.caller(user, json!({})).await;
        assert_eq!(
            room.plan(&caller).await,
            Err(Code::DirectoryUnavailable),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_session_that_is_over_is_a_token_no_more() {
    let room = room("[auth]\ncheck_session = true\n[directory]\nplan_cache = \"0s\"").await;
    let caller = room.caller(1, json!({})).await;
    for (answer, told) in [
        (
            json!({"session_alive": true, "banned": false}),
            is("free", PlanSource::Default, 1),
        ),
        (
            json!({"session_alive": true}),
            is("free", PlanSource::Default, 1),
        ),
        (
            json!({"session_alive": false, "banned": false}),
            Err(Code::InvalidToken),
        ),
        (
            json!({"session_alive": true, "banned": true}),
            Err(Code::InvalidToken),
        ),
        (json!({"plan": "pro"}), Err(Code::DirectoryUnavailable)),
        (json!(null), Err(Code::DirectoryUnavailable)),
    ] {
        room.server.say(200, &answer);
        assert_eq!(room.plan(&caller).await, told, "{answer}");
        assert_eq!(
            room.server.asked().2["session_id"],
            json!(Uuid::from_u128(99))
        );
    }
    let nameless = room.caller(2, json!({"session_id": null})).await;
    assert_eq!(room.plan(&nameless).await, Err(Code::InvalidToken));
}

#[tokio::test]
async fn sessions_are_not_asked_about_unless_they_are_to_be_checked() {
    let room = room("").await;
    let caller = room.caller(1, json!({})).await;
    room.server
        .say(200, &json!({"session_alive": false, "banned": true}));
    assert_eq!(room.plan(&caller).await, is("free", PlanSource::Default, 1));
    assert_eq!(room.server.asked().2["session_id"], json!(null));
}
