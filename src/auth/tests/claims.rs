//! Claims at their edges, of the wrong type, and those that users write themselves.

use super::*;

#[tokio::test]
async fn times_are_whole_seconds_with_thirty_seconds_of_leeway() {
    let project = Project::new().await;
    let now = Timestamp::from_secs(1_800_000_000);
    let base = project.claims_but(json!({"exp": 1_800_000_100, "iat": 1_799_999_000}));
    let but = |name: &str, value: Value| {
        let mut claims = base.clone();
        claims[name] = value;
        claims
    };
    for exp in [
        json!(1_799_999_971),
        json!(1_800_000_000.0),
        json!(1.8e9),
        json!(253_402_207_200_i64),
    ] {
        assert!(
            project.judge(&but("exp", exp.clone()), now).is_ok(),
            "{exp}"
        );
    }
    for exp in [json!(1_799_999_970), json!(1), json!(0), json!(0.0)] {
        assert_eq!(
            project.judge(&but("exp", exp.clone()), now).unwrap_err(),
            Code::TokenExpired,
            "{exp}"
        );
    }
    let justly = Timestamp::from_millis(1_800_000_129_999);
    assert!(project.judge(&base, justly).is_ok());
    assert_eq!(
        project
            .judge(&base, justly.plus(Duration::from_millis(1)))
            .unwrap_err(),
        Code::TokenExpired
    );
    for name in ["nbf", "iat"] {
        for time in [json!(1_800_000_030), json!(1_800_000_030.0), json!(0)] {
            assert!(
                project.judge(&but(name, time.clone()), now).is_ok(),
                "{name} {time}"
            );
        }
        for time in [json!(1_800_000_031), json!(9_999_999_999_i64)] {
            assert_eq!(
                project.judge(&but(name, time.clone()), now).unwrap_err(),
                Code::InvalidToken,
                "{name} {time}"
            );
        }
    }
    let nonsense = json!([
        "1800000100",
        "",
        null,
        true,
        [1_800_000_100],
        {},
        -1,
        -1.0,
        -0.5,
        1_800_000_100.5,
        1e300,
        -1e300,
        1e15,
        253_402_300_800_i64,
        u64::MAX,
        i64::MIN
    ]);
    for name in ["exp", "nbf", "iat"] {
        for value in nonsense.as_array().unwrap() {
            let code = project.judge(&but(name, value.clone()), now).unwrap_err();
            assert_eq!(code, Code::InvalidToken, "{name} {value}");
        }
    }
    assert_eq!(
        project
            .judge(&project.claims_without("exp"), project.now())
            .unwrap_err(),
        Code::InvalidToken
    );
    assert!(
        project
            .judge(&project.claims_without("iat"), project.now())
            .is_ok()
    );
}

#[tokio::test]
async fn expired_is_said_only_when_nothing_else_is_wrong() {
    let project = Project::new().await;
    let past = json!(project.now().secs() - 31);
    let expired = project.claims_but(json!({"exp": past}));
    assert_eq!(
        project.code(&project.hs256(&expired)).await,
        Code::TokenExpired
    );
    assert_eq!(
        project.code(&project.es256("ec", &expired)).await,
        Code::TokenExpired
    );
    let header = json!({"alg": "HS256"});
    assert_eq!(
        project
            .code(&hmac_signed(&header, &expired, b"another secret"))
            .await,
        Code::InvalidToken
    );
    for change in [
        json!({"aud": "other"}),
        json!({"role": "anon"}),
        json!({"iss": "https://other.example/auth/v1"}),
        json!({"sub": "nobody"}),
        json!({"is_anonymous": 1}),
        json!({"nbf": project.now().secs() + 3600}),
    ] {
        let mut claims = expired.clone();
        claims
            .as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        assert_eq!(
            project.code(&project.hs256(&claims)).await,
            Code::InvalidToken,
            "{change}"
        );
    }
}

#[tokio::test]
async fn audience_role_and_issuer_are_exactly_those_of_a_user_of_this_project() {
    let mut project = Project::new().await;
    let ok = |project: &Project, changes: Value| {
        project
            .judge(&project.claims_but(changes), project.now())
            .is_ok()
    };
    assert!(
        ok(&project, json!({"aud": ["authenticated"]}))
            && ok(&project, json!({"aud": ["x", "authenticated"]}))
    );
    for aud in [
        json!("anon"),
        json!("Authenticated"),
        json!(""),
        json!([]),
        json!(["x"]),
        json!(["authenticated", 1]),
    ] {
        assert!(!ok(&project, json!({"aud": aud})), "{aud}");
    }
    for wrong in [
        Value::Null,
        json!(1),
        json!({"authenticated": true}),
        json!("supabase_admin"),
        json!(["anon"]),
    ] {
        assert!(
            !ok(&project, json!({"aud": wrong})) && !ok(&project, json!({"role": wrong})),
            "{wrong}"
        );
    }
    assert!(!ok(&project, json!({"role": ["authenticated"]})));
    let issuer = project.auth.issuer.clone();
    for iss in [
        json!(""),
        Value::Null,
        json!([issuer]),
        json!(format!("{issuer}/")),
        json!("https://x.supabase.co/auth/v1"),
    ] {
        assert!(!ok(&project, json!({"iss": iss})), "{iss}");
    }
    for required in ["aud", "role", "iss", "sub", "exp"] {
        assert!(
            project
                .judge(&project.claims_without(required), project.now())
                .is_err(),
            "{required}"
        );
    }
    project.auth.issuer = String::new();
    assert!(ok(
        &project,
        json!({"iss": "https://x.supabase.co/auth/v1"})
    ));
    assert!(
        project
            .judge(&project.claims_without("iss"), project.now())
            .is_ok()
    );
}

#[tokio::test]
async fn one_user_in_any_spelling_and_nobody_else() {
    let project = Project::new().await;
    let user = Uuid::parse_str(USER).unwrap();
    let simple = USER.replace('-', "");
    for sub in [
        USER.to_uppercase(),
        simple,
        format!("{{{USER}}}"),
        format!("urn:uuid:{USER}"),
    ] {
        let grant = project
            .judge(&project.claims_but(json!({"sub": sub})), project.now())
            .unwrap();
        assert_eq!(grant.principal.user_id(), user);
    }
    let nil = Uuid::nil().to_string();
    for sub in [
        json!(""),
        json!("me"),
        json!(nil),
        json!(nil.replace('-', "")),
        json!(7),
        Value::Null,
        json!([USER]),
        json!(format!("{USER} ")),
        json!(format!("{USER}\u{0}")),
        json!("' or 1=1 --"),
    ] {
        assert!(
            project
                .judge(&project.claims_but(json!({"sub": sub})), project.now())
                .is_err(),
            "{sub}"
        );
    }
}

#[tokio::test]
async fn api_keys_are_never_users_and_are_told_so() {
    let mut project = Project::new().await;
    project.auth.issuer = String::new();
    let later = project.now().secs() + 3600;
    for role in ["anon", "service_role"] {
        let legacy = json!({"iss": "supabase", "ref": "abcdefghijklmnopqrst", "role": role, "iat": 1, "exp": later});
        let refusal = project.ask(&project.hs256(&legacy)).await.unwrap_err();
        assert_eq!(
            (refusal.code, refusal.message.as_str()),
            (Code::InvalidToken, API_KEY_MESSAGE)
        );
        let renamed = project.claims_but(json!({"iss": "supabase"}));
        assert_eq!(
            project
                .ask(&project.hs256(&renamed))
                .await
                .unwrap_err()
                .message,
            API_KEY_MESSAGE
        );
        let dressed_up = project.claims_but(json!({"role": role}));
        assert_eq!(
            project.code(&project.hs256(&dressed_up)).await,
            Code::InvalidToken
        );
    }
    for key in [
        "sb_publishable_ACJWlzQHlZjBrEguHvfOxg_3BJgxAaH",
        "sb_secret_N7UND0UgjKTVK-Uodkm0Hg_xSvEMPvz",
    ] {
        let refusal = project.ask(key).await.unwrap_err();
        assert_eq!(
            (refusal.code, refusal.message.as_str()),
            (Code::InvalidToken, API_KEY_MESSAGE)
        );
    }
}

#[tokio::test]
async fn what_users_write_themselves_decides_nothing() {
    let mut project = Project::new().await;
    let claims = project.claims_but(json!({
        "app_metadata": {"provider": "email"},
        "user_metadata": {"plan": "pro", "role": "service_role", "app_metadata": {"plan": "pro"}, "is_anonymous": false},
        "plan": "top",
    }));
    assert_eq!(
        project
            .ask(&project.hs256(&claims))
            .await
            .unwrap()
            .plan_claim(),
        None
    );
    project.auth.plan_claim = vec!["user_metadata".into(), "plan".into()];
    assert_eq!(
        project
            .ask(&project.hs256(&claims))
            .await
            .unwrap()
            .plan_claim(),
        None
    );
    project.auth.plan_claim = vec!["plan".into()];
    assert_eq!(
        project
            .ask(&project.hs256(&claims))
            .await
            .unwrap()
            .plan_claim(),
        Some("top")
    );
    project.auth.plan_claim = vec![];
    assert_eq!(
        project
            .ask(&project.hs256(&claims))
            .await
            .unwrap()
            .plan_claim(),
        None
    );
}

#[tokio::test]
async fn a_plan_or_address_that_is_no_short_text_is_none() {
    let project = Project::new().await;
    let grant = |changes: Value| {
        project
            .judge(&project.claims_but(changes), project.now())
            .unwrap()
            .principal
    };
    for plan in [
        json!(""),
        json!("p".repeat(65)),
        json!(1),
        Value::Null,
        json!(["pro"]),
        json!({"name": "pro"}),
    ] {
        assert_eq!(
            grant(json!({"app_metadata": {"plan": plan}})).plan_claim(),
            None,
            "{plan}"
        );
    }
    for metadata in [json!("plan"), json!(["plan"]), Value::Null] {
        assert_eq!(grant(json!({"app_metadata": metadata})).plan_claim(), None);
    }
    let longest = "p".repeat(64);
    assert_eq!(
        grant(json!({"app_metadata": {"plan": longest}})).plan_claim(),
        Some(longest.as_str())
    );
    for email in [json!(""), json!("e".repeat(321)), json!(1), Value::Null] {
        assert_eq!(grant(json!({"email": email})).email(), None, "{email}");
    }
}

#[tokio::test]
async fn anonymous_users_need_a_plan_of_their_own() {
    let mut project = Project::new().await;
    let token = project.hs256(&project.claims_but(json!({"is_anonymous": true})));
    assert_eq!(project.code(&token).await, Code::AnonymousNotAllowed);
    project.auth.anonymous_plan = Some("guest".into());
    assert!(project.ask(&token).await.unwrap().is_anonymous());
    project.auth.anonymous_plan = None;
    assert_eq!(
        project.code(&token).await,
        Code::AnonymousNotAllowed,
        "what was remembered is forgotten"
    );
    for wrong in [
        json!("true"),
        json!("false"),
        json!(0),
        Value::Null,
        json!([]),
    ] {
        let token = project.hs256(&project.claims_but(json!({"is_anonymous": wrong})));
        assert_eq!(project.code(&token).await, Code::InvalidToken, "{wrong}");
    }
    assert!(
        !project
            .ask(&project.hs256(&project.claims_without("is_anonymous")))
            .await
            .unwrap()
            .is_anonymous()
    );
}
