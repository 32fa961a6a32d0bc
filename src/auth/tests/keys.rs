//! The set of keys: floods, rotation, outages, settings without one.

use super::*;

#[tokio::test]
async fn a_flood_of_unknown_kids_costs_one_fetch() {
    let project = Project::new().await;
    let good = project.es256("ec", &project.claims());
    project.ask(&good).await.unwrap();
    project.server.delay(Duration::from_secs(1));
    let mut flood = tokio::task::JoinSet::new();
    for n in 0..2000 {
        let (who, auth, now) = (project.who.clone(), project.auth.clone(), project.now());
        let token = project.es256(&format!("kid-{n}"), &json!({"sub": n}));
        flood.spawn(async move {
            let mut headers = HeaderMap::new();
            headers.insert(
                header::AUTHORIZATION,
                format!("Bearer {token}").parse().unwrap(),
            );
            who.verify((&headers, "/"), &auth, now)
                .await
                .unwrap_err()
                .code
        });
        if n == 1000 {
            let fresh = project.es256("ec", &project.claims_but(json!({"phone": "1"})));
            let begun = std::time::Instant::now();
            project.ask(&fresh).await.unwrap();
            assert!(
                begun.elapsed() < Duration::from_millis(900),
                "a good token does not wait for the flood's fetch"
            );
        }
    }
    while let Some(code) = flood.join_next().await {
        assert_eq!(code.unwrap(), Code::InvalidToken);
    }
    assert_eq!(project.server.hits(), 2);
    let begun = std::time::Instant::now();
    assert_eq!(
        project
            .code(&project.es256("one more", &project.claims()))
            .await,
        Code::InvalidToken
    );
    assert!(
        begun.elapsed() < Duration::from_millis(900),
        "within the cool-down nobody waits"
    );
    project.clock.shift(31_000);
    assert_eq!(
        project
            .code(&project.es256("later", &project.claims()))
            .await,
        Code::InvalidToken
    );
    assert_eq!(project.server.hits(), 3);
}

#[tokio::test]
async fn a_rotation_is_noticed_at_once_and_what_the_old_key_verified_is_forgotten() {
    let project = Project::new().await;
    let old = project.es256("ec", &project.claims());
    project.ask(&old).await.unwrap();
    let next = ec_pair();
    project.publish(&[ec_jwk("ec", &project.ec), ec_jwk("next", &next)]);
    let new = ec_signed(
        &json!({"alg": "ES256", "kid": "next"}),
        &project.claims(),
        &next,
    );
    project.ask(&new).await.unwrap();
    project.ask(&old).await.unwrap();
    assert_eq!(project.server.hits(), 2);
    // The old key is revoked; the set is asked for again when it is ten minutes old.
    project.publish(&[ec_jwk("next", &next)]);
    project.clock.shift(10 * MINUTE_MS);
    project.ask(&old).await.unwrap();
    project.until_hits(3).await;
    project.ask(&new).await.unwrap();
    assert_eq!(project.code(&old).await, Code::InvalidToken);
    // The same kid with another key is another key.
    project.publish(&[ec_jwk("next", &project.ec)]);
    project.clock.shift(10 * MINUTE_MS);
    project.ask(&new).await.unwrap();
    project.until_hits(5).await;
    assert_eq!(project.code(&new).await, Code::InvalidToken);
}

#[tokio::test]
async fn keys_ten_minutes_old_are_refreshed_behind_the_request() {
    let project = Project::new().await;
    let token = project.es256("ec", &project.claims());
    project.ask(&token).await.unwrap();
    project.clock.shift(10 * MINUTE_MS - 1000);
    project.ask(&token).await.unwrap();
    assert_eq!(project.server.hits(), 1);
    project.clock.shift(1000);
    project.server.delay(Duration::from_secs(1));
    let begun = std::time::Instant::now();
    project
        .ask(&project.es256("ec", &project.claims_but(json!({"phone": "1"}))))
        .await
        .unwrap();
    assert!(
        project
            .who
            .shared
            .current
            .load()
            .jwks
            .as_ref()
            .unwrap()
            .is_fetching(),
        "a token not seen before refreshes"
    );
    for _ in 0..20 {
        project.ask(&token).await.unwrap();
    }
    assert!(
        begun.elapsed() < Duration::from_millis(900),
        "nobody waits for the refresh"
    );
    project.until_hits(2).await;
    project.ask(&token).await.unwrap();
    assert_eq!(project.server.hits(), 2);
}

#[tokio::test]
async fn with_the_jwks_down_keys_serve_for_an_hour_and_then_nobody_is_let_in() {
    let project = Project::new().await;
    let lasting = project.claims_but(json!({"exp": project.now().secs() + 86_400}));
    let remembered = project.es256("ec", &lasting);
    project.ask(&remembered).await.unwrap();
    project.server.say(500, "");
    project.clock.shift(59 * MINUTE_MS);
    project.ask(&remembered).await.unwrap();
    project
        .ask(&project.es256("ec", &project.claims()))
        .await
        .unwrap();
    project.until_hits(2).await;
    project.ask(&remembered).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(
        project.server.hits(),
        2,
        "a refresh that failed is tried again after the cool-down"
    );
    assert!(project.who.health(project.now()).ok);
    assert_eq!(
        project.who.health(project.now()).error.as_deref(),
        Some("answered with status 500")
    );
    project.clock.shift(2 * MINUTE_MS);
    assert_eq!(project.code(&remembered).await, Code::AuthUnavailable);
    assert_eq!(
        project.code(&project.es256("ec", &project.claims())).await,
        Code::AuthUnavailable
    );
    assert_eq!(
        project.server.hits(),
        3,
        "the second is within the cool-down"
    );
    assert!(!project.who.health(project.now()).ok);
    project
        .ask(&project.hs256(&project.claims()))
        .await
        .unwrap();
    project.publish(&[ec_jwk("ec", &project.ec)]);
    project.clock.shift(MINUTE_MS);
    project.ask(&remembered).await.unwrap();
    assert!(project.who.health(project.now()).ok);
}

#[tokio::test]
async fn an_unknown_kid_is_unavailable_while_the_jwks_fails_and_the_good_set_stays() {
    let project = Project::new().await;
    project
        .ask(&project.es256("ec", &project.claims()))
        .await
        .unwrap();
    let not_json: [(u16, &str); 5] = [
        (200, "<html>maintenance</html>"),
        (200, ""),
        (200, "[]"),
        (503, r#"{"keys":[]}"#),
        (404, ""),
    ];
    for (status, body) in not_json {
        project.server.say(status, body);
        let refusal = project
            .ask(&project.es256("new", &project.claims()))
            .await
            .unwrap_err();
        assert_eq!(refusal.code, Code::AuthUnavailable, "{status} {body}");
        assert!(refusal.retry_after.is_some());
        assert_eq!(
            project
                .code(&project.es256("new2", &project.claims()))
                .await,
            Code::AuthUnavailable
        );
        project
            .ask(&project.es256("ec", &project.claims_but(json!({"phone": body}))))
            .await
            .unwrap();
        project.clock.shift(31_000);
    }
    assert_eq!(project.server.hits(), 6);
}

#[tokio::test]
async fn down_at_start_is_not_ready_and_never_open() {
    let project = Project::new().await;
    project.server.say(503, "");
    assert!(
        !project.who.health(project.now()).ok,
        "nothing was fetched yet"
    );
    project.who.warm_up();
    project.until_hits(1).await;
    let health = project.who.health(project.now());
    assert!(!health.ok && health.error.is_some() && health.algorithms == ["HS256"]);
    for kid in ["ec", "x"] {
        assert_eq!(
            project.code(&project.es256(kid, &project.claims())).await,
            Code::AuthUnavailable
        );
    }
    assert_eq!(project.server.hits(), 2);
    project
        .ask(&project.hs256(&project.claims()))
        .await
        .unwrap();
    project.publish(&[ec_jwk("ec", &project.ec)]);
    project.who.warm_up();
    project.until_hits(3).await;
    project
        .ask(&project.es256("ec", &project.claims()))
        .await
        .unwrap();
    assert!(project.who.health(project.now()).ok);
    // The fetch that ended the outage was nobody's answer to an unknown kid: a rotation right after it is noticed.
    let next = ec_pair();
    project.publish(&[ec_jwk("next", &next)]);
    project
        .ask(&ec_signed(
            &json!({"alg": "ES256", "kid": "next"}),
            &project.claims(),
            &next,
        ))
        .await
        .unwrap();
}

#[tokio::test]
async fn an_empty_set_is_an_answer() {
    let mut project = Project::new().await;
    project.publish(&[]);
    assert_eq!(
        project.code(&project.es256("ec", &project.claims())).await,
        Code::InvalidToken
    );
    project
        .ask(&project.hs256(&project.claims()))
        .await
        .unwrap();
    let health = project.who.health(project.now());
    assert!(health.ok && health.keys == 0 && health.algorithms == ["HS256"]);
    project.auth.jwt_secret = None;
    assert_eq!(
        project.code(&project.hs256(&project.claims())).await,
        Code::InvalidToken
    );
    assert!(
        !project.who.health(project.now()).ok,
        "no token whatever can be verified"
    );
}

#[tokio::test]
async fn without_a_url_public_keys_verify_nothing_and_health_says_so() {
    let mut project = Project::new().await;
    project.auth.supabase_url = None;
    assert_eq!(
        project.code(&project.es256("ec", &project.claims())).await,
        Code::InvalidToken
    );
    project
        .ask(&project.hs256(&project.claims()))
        .await
        .unwrap();
    let health = project.who.health(project.now());
    assert!(health.ok && health.note.is_some());
    assert!(!serde_json::to_string(&health).unwrap().contains(SECRET));
}

#[tokio::test]
async fn a_caller_who_leaves_does_not_take_the_fetch_along() {
    let project = Project::new().await;
    project.server.delay(Duration::from_millis(300));
    let token = project.es256("ec", &project.claims());
    let hasty = tokio::time::timeout(Duration::from_millis(30), project.ask(&token)).await;
    assert!(hasty.is_err());
    project.ask(&token).await.unwrap();
    assert_eq!(project.server.hits(), 1);
}

#[tokio::test]
async fn an_idle_server_keeps_its_keys_fresh_by_itself() {
    let project = Project::new().await;
    let who = project.who.clone();
    let keeper = project.tracker.spawn(async move { who.keep_fresh().await });
    project.until_hits(1).await;
    keeper.abort();
    assert!(project.who.health(project.now()).ok);
    project.clock.shift(120 * MINUTE_MS);
    assert!(!project.who.health(project.now()).ok);
    project.who.warm_up();
    project.until_hits(2).await;
    assert!(project.who.health(project.now()).ok);
}

#[tokio::test]
async fn a_clock_set_back_by_days_neither_stops_fetches_nor_lets_the_future_in() {
    let project = Project::new().await;
    project
        .ask(&project.es256("ec", &project.claims()))
        .await
        .unwrap();
    let token = project.es256("ec", &project.claims());
    project.clock.shift(-10 * 24 * 60 * MINUTE_MS);
    assert_eq!(project.code(&token).await, Code::InvalidToken);
    project
        .ask(&project.es256("ec", &project.claims()))
        .await
        .unwrap();
    let next = ec_pair();
    project.publish(&[ec_jwk("next", &next)]);
    project
        .ask(&ec_signed(
            &json!({"alg": "ES256", "kid": "next"}),
            &project.claims(),
            &next,
        ))
        .await
        .unwrap();
}
