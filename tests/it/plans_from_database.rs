//! Plans from the developer's own database, over REST and over Postgres: what counts, how soon, and what happens when
//! nobody can be asked.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::caller::{Call, and, chat};
use crate::support::door::Door;
use crate::support::postgres::free_port;
use crate::support::postgrest::{Behave, Grants, Rest, script};
use crate::support::project::{Project, WAYS, Way, joined, limit, plan, until};
use crate::support::settings::Settings;
use crate::support::tokens::user_id;
use crate::support::tools::{Tool, installed};

/// `plan_cache` is 1 s in these tests; a look-up and a slow machine come on top.
const SOON: Duration = Duration::from_secs(4);
const CHECK: &str = "tollgate_check_user_limits";

fn names(plan: &str, source: &str) -> (String, String) {
    (plan.to_owned(), source.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purchase_shows_within_plan_cache_and_a_blocked_user_is_refused() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    for way in WAYS {
        let project = Project::open(way, Settings::new()).await;
        let alice = project.door.user("alice");
        assert_eq!(plan(&alice).await, names("free", "default"), "{way:?}");
        alice.ask(chat("before")).await.expect(200);

        project.subscribe("alice", "'pro'").await;
        until("bought", SOON, async || {
            plan(&alice).await == names("pro", "database")
        })
        .await;
        let answer = alice.ask(chat("after")).await.expect(200);
        assert_eq!(project.door.row(&answer).await.plan.as_deref(), Some("pro"));

        let before = project.door.upstream.count();
        project.subscribe("alice", "'pro', null, null, false").await;
        until("blocked", SOON, async || {
            alice.get("/api/me").await.status == 403
        })
        .await;
        alice
            .ask(chat("blocked"))
            .await
            .refused(403, "user_blocked");
        assert_eq!(project.door.upstream.count(), before);

        project.sql("delete from tollgate.subscriptions").await;
        until("back", SOON, async || {
            alice.get("/api/me").await.status == 200
        })
        .await;
        assert_eq!(plan(&alice).await, names("free", "default"));
        project.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purchase_shows_at_once_when_the_operator_says_so() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    for way in WAYS {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let settings = Settings::new()
            .with(r#"directory.plan_cache = "10m""#)
            .env("TOLLGATE_SERVER__ADMIN_BIND", &address.to_string());
        let project = Project::open(way, settings).await;
        let alice = project.door.user("alice");
        assert_eq!(plan(&alice).await, names("free", "default"), "{way:?}");
        project.subscribe("alice", "'pro'").await;
        assert_eq!(
            plan(&alice).await,
            names("free", "default"),
            "an answer is kept for ten minutes"
        );

        let admin = project.door.office(address);
        let path = format!("/admin/users/{}/refresh", alice.id);
        let call = |path: &str| Call::post(path, &json!({}));
        admin.send(call(&path)).await.refused(401, "missing_token");
        for token in [
            "",
            "x",
            &alice.token,
            project.door.operator_key(),
            &project.door.admin_token()[1..],
        ] {
            assert_eq!(
                admin.send(call(&path).bearer(token)).await.status,
                401,
                "{token:?}"
            );
        }
        let token = project.door.admin_token();
        admin
            .send(
                call(&path)
                    .bearer(token)
                    .header("Origin", "https://evil.test"),
            )
            .await
            .refused(401, "invalid_token");
        admin
            .send(call("/admin/users/7/refresh").bearer(token))
            .await
            .refused(400, "invalid_request");
        admin
            .send(Call::get(&path).bearer(token))
            .await
            .refused(405, "method_not_allowed");
        admin
            .send(Call::get("/api/me").bearer(token))
            .await
            .refused(404, "not_found");
        project
            .door
            .send(call(&path).bearer(token))
            .await
            .refused(404, "not_found");
        assert_eq!(
            plan(&alice).await,
            names("free", "default"),
            "none of these did anything"
        );

        admin.send(call(&path).bearer(token)).await.expect(204);
        assert_eq!(plan(&alice).await, names("pro", "database"));
        project.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_the_answer_replace_those_of_the_plan_and_are_enforced() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    for way in WAYS {
        let project = Project::open(way, Settings::new()).await;
        let (alice, bob) = (project.door.user("alice"), project.door.user("bob"));
        project
            .subscribe(
                "alice",
                r#"'pro', null, null, true, '[{"per": "day", "requests": 2}]'"#,
            )
            .await;
        // Without a plan of its own the answer changes the limits of the plan that is found elsewhere.
        project
            .subscribe(
                "bob",
                r#"null, null, null, true, '[{"per": "lifetime", "requests": 1}]'"#,
            )
            .await;

        let me = alice.me().await;
        assert_eq!(me["limits"].as_array().unwrap().len(), 1, "{me}");
        assert_eq!(limit(&me, "day")["limit"], 2);
        for _ in 0..2 {
            alice.ask(chat("in")).await.expect(200);
        }
        let refused = alice.ask(chat("over")).await.refused(402, "quota_exceeded");
        assert_eq!(refused.json()["error"]["limit"]["limit"], 2);
        assert_eq!(plan(&bob).await, names("free", "default"));
        bob.ask(chat("in")).await.expect(200);
        bob.ask(chat("over")).await.refused(402, "quota_exceeded");
        assert_eq!(project.door.upstream.count(), 3);

        // A limit may be for one model, under any name that the model has.
        project
            .subscribe(
                "dora",
                r#"'free', null, null, true, '[{"per": "day", "requests": 1, "model": "gpt-4o-2024-08-06"}]'"#,
            )
            .await;
        let dora = project.door.user("dora");
        let large = || and(chat("large"), &json!({"model": "gpt-4o"}));
        dora.ask(large()).await.expect(200);
        let refused = dora.ask(large()).await.refused(402, "quota_exceeded");
        assert_eq!(refused.json()["error"]["limit"]["model"], "gpt-4o");
        dora.ask(chat("small")).await.expect(200);
        dora.ask(chat("small")).await.expect(200);

        // What is no limit is never passed over: nobody is let in on a guess.
        project
            .subscribe(
                "carol",
                r#"'pro', null, null, true, '[{"per": "fortnight", "requests": 2}]'"#,
            )
            .await;
        let carol = project.door.user("carol");
        carol
            .ask(chat("nonsense"))
            .await
            .refused(503, "directory_unavailable");
        project.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_period_of_the_answer_is_the_window_of_limits_per_period() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    for way in WAYS {
        let project = Project::open(way, Settings::new()).await;
        let alice = project.door.user("alice");
        let period = |from: &str, to: &str| {
            format!("'pro', now() + interval '{from}', now() + interval '{to}'")
        };
        project
            .subscribe("alice", &period("-10 days", "20 days"))
            .await;
        for _ in 0..3 {
            alice.ask(chat("in")).await.expect(200);
        }
        let me = alice.me().await;
        let ends = me["plan"]["period_ends_at"]
            .as_str()
            .expect("an end of the period")
            .to_owned();
        assert_eq!(
            (
                limit(&me, "period")["used"].as_i64(),
                limit(&me, "period")["remaining"].as_i64()
            ),
            (Some(3), Some(0))
        );
        assert_eq!(limit(&me, "period")["resets_at"], ends.as_str());
        let refused = alice.ask(chat("over")).await.refused(402, "quota_exceeded");
        assert_eq!(refused.json()["error"]["limit"]["resets_at"], ends.as_str());

        project
            .subscribe("alice", &period("0 days", "30 days"))
            .await;
        until("renewed", SOON, async || {
            limit(&alice.me().await, "period")["used"] == 0
        })
        .await;
        assert_eq!(
            limit(&alice.me().await, "day")["used"],
            3,
            "the day goes on"
        );
        alice.ask(chat("in the new period")).await.expect(200);
        assert_eq!(limit(&alice.me().await, "period")["used"], 1);
        project.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_comes_before_the_claim_before_the_local_table_before_the_default() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let settings = Settings::new().with("[plans.team]\nmodels = [\"gpt-4o\"]\nlimits = []\n");
    for way in WAYS {
        let project = Project::open(way, settings.clone()).await;
        let id = user_id("alice").to_string();
        let without = project.door.user("alice");
        let claiming = project
            .door
            .user_with("alice", &json!({"app_metadata": {"plan": "team"}}));

        assert_eq!(plan(&without).await, names("free", "default"));
        project.door.must(&["user", "plan", &id, "team"]);
        until("the local table", SOON, async || {
            plan(&without).await == names("team", "local")
        })
        .await;
        assert_eq!(plan(&claiming).await, names("team", "claim"));
        project.subscribe("alice", "'pro'").await;
        until("the database", SOON, async || {
            plan(&without).await == names("pro", "database")
        })
        .await;
        assert_eq!(plan(&claiming).await, names("pro", "database"));

        for no_answer in [
            "'{\"plan\": \"nonesuch\"}'::jsonb",
            "null::jsonb",
            "'{}'::jsonb",
            "'{\"plan\": null}'::jsonb",
        ] {
            project.answers("'{\"plan\": \"pro\"}'::jsonb").await;
            until("pro again", SOON, async || {
                plan(&claiming).await == names("pro", "database")
            })
            .await;
            project.answers(no_answer).await;
            until(no_answer, SOON, async || {
                plan(&claiming).await == names("team", "claim")
            })
            .await;
            assert_eq!(plan(&without).await, names("team", "local"), "{no_answer}");
        }
        assert!(
            project.door.process.output().contains("nonesuch"),
            "an unknown plan is logged"
        );
        // A block of one's own counts, whatever the database says.
        project.answers("'{\"plan\": \"pro\"}'::jsonb").await;
        project.door.must(&["user", "block", &id]);
        until("blocked here", SOON, async || {
            without.get("/api/me").await.status == 403
        })
        .await;
        project.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_function_plans_come_from_elsewhere_until_it_is_there() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    for way in WAYS {
        let project = Project::open_on(Rest::start(Grants::New).await, way, Settings::new()).await;
        let alice = project.door.user("alice");
        assert_eq!(plan(&alice).await, names("free", "default"), "{way:?}");
        alice.ask(chat("without")).await.expect(200);
        assert!(
            project.door.process.output().contains("tollgate sql"),
            "it says what to do"
        );

        project.rest.run_as_editor(script()).await;
        project.subscribe("alice", "'pro'").await;
        until("the function", SOON, async || {
            plan(&alice).await == names("pro", "database")
        })
        .await;
        project.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_down_what_it_said_lately_counts_and_nobody_else_is_let_in() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let settings = Settings::new().with("[directory]\nplan_stale = \"8s\"\n");
    for way in WAYS {
        let project = Project::open(way, settings.clone()).await;
        let (known, stranger) = (project.door.user("alice"), project.door.user("stranger"));
        project.subscribe("alice", "'pro'").await;
        known.ask(chat("known")).await.expect(200);
        let asked = Instant::now();
        let before = project.door.upstream.count();

        project.rest.postgres().stop("immediate");
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        known.ask(chat("down")).await.expect(200);
        assert_eq!(plan(&known).await, names("pro", "database"));
        let refused = stranger
            .ask(chat("down"))
            .await
            .refused(503, "directory_unavailable");
        assert!(refused.header("retry-after").parse::<u64>().unwrap() > 0);
        assert_eq!(
            project.door.upstream.count(),
            before + 1,
            "nobody was dialled for the stranger"
        );
        let ready = project
            .door
            .send(Call::get("/health/ready"))
            .await
            .expect(200)
            .json();
        let part = &ready["parts"]["directory"];
        assert_eq!(
            (&part["ok"], part["error"].is_string()),
            (&json!(false), true),
            "{ready}"
        );
        assert_eq!(
            part["via"],
            if way == Way::Rest { "rest" } else { "postgres" }
        );
        tokio::time::sleep(Duration::from_millis(8_300).saturating_sub(asked.elapsed())).await;
        known
            .ask(chat("too old"))
            .await
            .refused(503, "directory_unavailable");

        project.rest.postgres().start_again();
        until("up again", Duration::from_secs(10), async || {
            known.get("/api/me").await.status == 200
        })
        .await;
        assert_eq!(plan(&known).await, names("pro", "database"));
        until("the stranger too", SOON, async || {
            stranger.get("/api/me").await.status == 200
        })
        .await;
        assert_eq!(
            project
                .door
                .send(Call::get("/health/ready"))
                .await
                .expect(200)
                .json()["parts"]["directory"]["ok"],
            true
        );
        project.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_hangs_makes_nobody_wait_for_long() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    for way in WAYS {
        let project = Project::open(way, Settings::new()).await;
        let (known, stranger) = (project.door.user("alice"), project.door.user("stranger"));
        known.ask(chat("known")).await.expect(200);
        match way {
            Way::Rest => project.rest.behave(Behave::Hang),
            Way::Postgres => {
                project
                    .answers("(select '{}'::jsonb from pg_catalog.pg_sleep(60))")
                    .await;
            }
        }
        tokio::time::sleep(Duration::from_millis(1_200)).await;

        let begun = Instant::now();
        let (stranger_answer, known_answer) =
            tokio::join!(stranger.ask(chat("hangs")), known.ask(chat("hangs")));
        stranger_answer.refused(503, "directory_unavailable");
        known_answer.expect(200);
        assert!(
            begun.elapsed() < Duration::from_secs(9),
            "{way:?}: {:?}",
            begun.elapsed()
        );
        let begun = Instant::now();
        stranger
            .ask(chat("hangs"))
            .await
            .refused(503, "directory_unavailable");
        assert!(begun.elapsed() < Duration::from_secs(9));

        project.rest.behave(Behave::Up);
        project.answers("null::jsonb").await;
        until("it answers again", Duration::from_secs(15), async || {
            stranger.get("/api/me").await.status == 200
        })
        .await;
        project.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_first_requests_of_a_user_are_one_look_up() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let settings = Settings::new().with("[directory]\nplan_cache = \"60s\"\n");
    for way in WAYS {
        let project = Project::open(way, settings.clone()).await;
        let counting = "create table public.asked (user_id uuid);
             create or replace function tollgate.check_user_limits(user_id uuid) returns jsonb
             language plpgsql volatile security definer set search_path = '' as $f$ begin
                 insert into public.asked values (check_user_limits.user_id);
                 perform pg_catalog.pg_sleep(0.3);
                 return '{\"plan\": \"free\"}';
             end $f$";
        project.sql(counting).await;
        let alice = project.door.user("alice");

        let many = (0..50).map(|_| {
            let alice = alice.clone();
            tokio::spawn(async move { alice.ask(chat("first")).await })
        });
        for answer in all(many.collect()).await {
            answer.expect(200);
        }

        let asked = project
            .owner()
            .await
            .query_one("select count(*) from public.asked", &[])
            .await
            .unwrap();
        assert_eq!(asked.get::<_, i64>(0), 1, "{way:?}");
        assert_eq!(project.calls(CHECK), usize::from(way == Way::Rest));
        project.close().await;
    }
}

async fn all<T: Send + 'static>(tasks: Vec<tokio::task::JoinHandle<T>>) -> Vec<T> {
    let mut done = Vec::new();
    for task in tasks {
        done.push(task.await.unwrap());
    }
    done
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_key_goes_where_supabase_wants_it_and_a_key_of_the_app_is_none() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let rest = Rest::with_script(Grants::New).await;
    let keys = rest.keys().clone();
    let with =
        |key: &str| joined(Settings::new(), Way::Rest, &rest).env("SUPABASE_SERVICE_KEY", key);
    let give = format!(
        "insert into tollgate.subscriptions values ('{}', 'pro')",
        user_id("alice")
    );
    rest.postgres()
        .connect_as("editor", "postgres")
        .await
        .batch_execute(&give)
        .await
        .unwrap();

    for (key, bearer) in [
        (&keys.secret, None),
        (
            &keys.service_role,
            Some(format!("Bearer {}", keys.service_role)),
        ),
    ] {
        let seen = rest.calls().len();
        let door = Door::open(with(key)).await;
        assert_eq!(plan(&door.user("alice")).await, names("pro", "database"));
        for call in &rest.calls()[seen..] {
            assert_eq!(call.request.header("apikey"), Some(key.as_str()));
            assert_eq!(call.request.header("authorization"), bearer.as_deref());
            assert!(
                !call
                    .request
                    .header("user-agent")
                    .unwrap()
                    .contains("Mozilla")
            );
        }
        assert!(rest.calls().len() > seen && !door.process.output().contains(key.as_str()));
        door.close().await;
    }
    for public in [&keys.anon, &keys.publishable] {
        let told = Door::refused_to_start(with(public)).await;
        assert!(
            told.stderr.contains("SUPABASE_SERVICE_KEY") && told.code == Some(1),
            "{told:?}"
        );
        assert!(!told.stderr.contains(public.as_str()), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_check_session_a_token_counts_only_while_its_session_does() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let settings = Settings::new().with("[auth]\ncheck_session = true\n");
    for way in WAYS {
        let project = Project::open(way, settings.clone()).await;
        let (alice, bob) = (project.door.user("alice"), project.door.user("bob"));
        let auth = project.rest.postgres().connect("postgres").await;
        for name in ["alice", "bob"] {
            let (id, session) = (user_id(name), user_id(&format!("session of {name}")));
            auth.execute("insert into auth.users (id) values ($1)", &[&id])
                .await
                .unwrap();
            auth.execute(
                "insert into auth.sessions (id, user_id) values ($1, $2)",
                &[&session, &id],
            )
            .await
            .unwrap();
        }
        alice.ask(chat("alive")).await.expect(200);
        bob.ask(chat("alive")).await.expect(200);
        let no_session = project
            .door
            .user_with("carol", &json!({"session_id": null}));
        no_session
            .ask(chat("no session"))
            .await
            .refused(401, "invalid_token");
        project
            .door
            .user("dora")
            .ask(chat("unknown"))
            .await
            .refused(401, "invalid_token");
        let before = project.door.upstream.count();

        auth.execute(
            "delete from auth.sessions where user_id = $1",
            &[&user_id("alice")],
        )
        .await
        .unwrap();
        auth.execute(
            "update auth.users set banned_until = now() + '1 hour' where id = $1",
            &[&user_id("bob")],
        )
        .await
        .unwrap();
        until("signed out", SOON, async || {
            alice.get("/api/me").await.status == 401
        })
        .await;
        until("banned", SOON, async || {
            bob.get("/api/me").await.status == 401
        })
        .await;
        alice
            .ask(chat("signed out"))
            .await
            .refused(401, "invalid_token");
        bob.ask(chat("banned")).await.refused(401, "invalid_token");
        assert_eq!(project.door.upstream.count(), before);

        auth.execute("update auth.users set banned_until = null", &[])
            .await
            .unwrap();
        until("no more banned", SOON, async || {
            bob.get("/api/me").await.status == 200
        })
        .await;
        project.close().await;
    }
}
