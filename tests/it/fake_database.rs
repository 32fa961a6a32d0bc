//! The Postgres and the stand-in for Supabase's REST API are tried before the product is: see `fakes.rs`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::caller::{Answer, Call, Front};
use crate::support::postgres::Postgres;
use crate::support::postgrest::{Behave, Grants, Rest};
use crate::support::tokens;
use crate::support::tools::{Tool, installed};

const CALL: &str = "/rest/v1/rpc/probe";

/// Functions that show what PostgREST makes of them.
const PROBES: &str = "
    create function public.probe(wanted text, extra int default 7) returns jsonb language sql as
        $$ select jsonb_build_object('role', current_user, 'wanted', wanted, 'extra', extra, 'sub', auth.uid()) $$;
    create function public.nothing() returns void language plpgsql as $$ begin perform 1; end $$;
    create function public.rows(n int) returns setof int language sql as $$ select generate_series(1, n) $$;
    create function public.fail(state text) returns void language plpgsql as
        $$ begin raise exception 'failed as told' using errcode = state, hint = 'a hint', detail = 'a detail'; end $$;
    notify pgrst, 'reload schema';";

fn front(rest: &Rest) -> Arc<Front> {
    let address: SocketAddr = rest.url().trim_start_matches("http://").parse().unwrap();
    Arc::new(Front::new(address))
}

fn secret_call(rest: &Rest, path: &str, body: &Value) -> Call {
    Call::post(path, body).header("apikey", &rest.keys().secret)
}

fn said(answer: &Answer) -> (u16, String) {
    (
        answer.status,
        answer.json()["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_keeps_what_was_committed_when_it_crashes_and_leaves_nothing_behind() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let postgres = Postgres::start(true).await;
    let log_of = postgres.put_file("marker", "x");
    postgres.create_database("other").await;
    let client = postgres.connect("other").await;
    client
        .batch_execute("create table t as select 1 as n")
        .await
        .unwrap();

    postgres.restart_immediate();

    assert!(
        client.batch_execute("select 1").await.is_err(),
        "the old connection is broken"
    );
    assert_eq!(
        postgres
            .psql("postgres", "other", "\\t on\nselect n from t")
            .unwrap()
            .trim(),
        "1"
    );
    assert!(
        postgres
            .psql("postgres", "other", "select 1/0; select 2")
            .unwrap_err()
            .contains("division by zero")
    );
    postgres.stop("fast");
    assert!(
        tokio_postgres::connect(&postgres.url("other"), tokio_postgres::NoTls)
            .await
            .is_err()
    );
    drop(postgres);
    assert!(!log_of.exists(), "the directory is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_key_is_the_role_that_supabase_makes_of_it() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let rest = Rest::start(Grants::New).await;
    rest.run_as_editor(PROBES).await;
    let (front, keys) = (front(&rest), rest.keys().clone());
    let user = tokens::sign(
        &crate::support::keys::Key::hs256(keys.jwt_secret.clone()),
        &tokens::claims("alice", "https://x.test/auth/v1", tokens::now()),
    );
    let body = json!({"wanted": "who"});
    let call = |apikey: &str| Call::post(CALL, &body).header("apikey", apikey);
    let bearer = |apikey: &str, token: &str| {
        call(apikey).header("authorization", &format!("Bearer {token}"))
    };

    for (call, role) in [
        (call(&keys.secret), "service_role"),
        (
            bearer(&keys.service_role, &keys.service_role),
            "service_role",
        ),
        (call(&keys.service_role), "anon"),
        (call(&keys.publishable), "anon"),
        (bearer(&keys.anon, &keys.anon), "anon"),
        (bearer(&keys.publishable, &user), "authenticated"),
    ] {
        let answer = front.send(call).await.expect(200);
        assert_eq!(answer.json()["role"], role);
    }
    let alice = front
        .send(bearer(&keys.anon, &user))
        .await
        .expect(200)
        .json();
    assert_eq!(alice["sub"], tokens::user_id("alice").to_string());
    for refused in [
        Call::post(CALL, &body),
        call("sb_secret_wrong"),
        bearer(&keys.secret, &keys.secret),
        bearer(&keys.anon, "a.b.c"),
        call(&keys.secret).header("user-agent", "Mozilla/5.0 (Macintosh) Safari/605.1"),
    ] {
        assert_eq!(front.send(refused).await.status, 401);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_are_found_called_and_answered_as_postgrest_does() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let rest = Rest::start(Grants::New).await;
    rest.run_as_editor(PROBES).await;
    let front = front(&rest);
    let send = async |path: &str, body: Value| front.send(secret_call(&rest, path, &body)).await;

    assert_eq!(send(CALL, json!({"wanted": "x"})).await.json()["extra"], 7);
    for body in [json!({}), json!({"wanted": "x", "other": 1})] {
        assert_eq!(said(&send(CALL, body).await), (404, "PGRST202".to_owned()));
    }
    let nothing = send("/rest/v1/rpc/nothing", json!({})).await;
    assert_eq!((nothing.status, nothing.text()), (204, String::new()));
    assert_eq!(
        send("/rest/v1/rpc/rows", json!({"n": 2})).await.json(),
        json!([1, 2])
    );
    let one = |n: u8| {
        secret_call(&rest, "/rest/v1/rpc/rows", &json!({"n": n}))
            .header("accept", "application/vnd.pgrst.object+json")
    };
    assert_eq!(front.send(one(1)).await.json(), json!(1));
    assert_eq!(
        said(&front.send(one(2)).await),
        (406, "PGRST116".to_owned())
    );
    let profile =
        secret_call(&rest, CALL, &json!({"wanted": "x"})).header("content-profile", "tollgate");
    assert_eq!(
        said(&front.send(profile).await),
        (406, "PGRST106".to_owned())
    );

    for (state, status) in [
        ("42501", 403),
        ("23505", 409),
        ("40001", 500),
        ("53300", 503),
        ("57014", 500),
        ("P0001", 400),
        ("PT402", 402),
    ] {
        let answer = send("/rest/v1/rpc/fail", json!({"state": state})).await;
        let told = json!({"code": state, "details": "a detail", "hint": "a hint", "message": "failed as told"});
        assert_eq!((answer.status, answer.json()), (status, told));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_fails_as_told_counts_its_calls_and_comes_back_with_its_database() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let rest = Rest::start(Grants::New).await;
    rest.run_as_editor(PROBES).await;
    let front = front(&rest);
    let probe = || secret_call(&rest, CALL, &json!({"wanted": "x"}));
    front.send(probe()).await.expect(200);

    rest.behave(Behave::Answer(500, "{}".to_owned()));
    assert_eq!(front.send(probe()).await.status, 500);
    rest.behave(Behave::Down);
    assert!(front.try_send(probe()).await.is_err());
    rest.behave(Behave::LoseAnswer);
    assert!(front.try_send(probe()).await.is_err());
    rest.behave(Behave::Hang);
    assert!(
        tokio::time::timeout(Duration::from_millis(200), front.try_send(probe()))
            .await
            .is_err()
    );
    rest.behave(Behave::Slow(Duration::from_millis(200)));
    let begun = Instant::now();
    front.send(probe()).await.expect(200);
    assert!(begun.elapsed() >= Duration::from_millis(200));

    rest.behave(Behave::Up);
    rest.postgres().stop("immediate");
    assert_eq!(
        said(&front.send(probe()).await),
        (503, "PGRST000".to_owned())
    );
    rest.postgres().start_again();
    front.send(probe()).await.expect(200);
    let statuses: Vec<u16> = rest.calls().iter().map(|call| call.status).collect();
    assert_eq!(statuses, [200, 500, 0, 200, 0, 200, 503, 200]);
    assert_eq!(rest.calls_of("probe"), 8);
    assert_eq!(
        rest.calls()[0].request.header("apikey"),
        Some(rest.keys().secret.as_str())
    );

    rest.publish_keys(vec![json!({"kid": "one"})]);
    let keys = front
        .send(Call::get("/auth/v1/.well-known/jwks.json"))
        .await;
    assert_eq!(keys.json(), json!({"keys": [{"kid": "one"}]}));
    assert_eq!(rest.calls().len(), 8);
}
