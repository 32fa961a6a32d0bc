//! Purchases from the door: what each store must prove, what its events make of a plan, and what an app may bind to its user.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::apple::{Apple, Flaw};
use crate::support::caller::{Answer, Call, User, and};
use crate::support::door::Door;
use crate::support::settings::Settings;

const DAY: i64 = 86_400_000;

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_millis() as i64
}

fn settings() -> Settings {
    Settings::new()
        .with(
            r#"
            [plans.pro]
            models = ["gpt-4o-mini"]
            rank = 1
            limits = [{ per = "period", requests = 1000 }]
            [plans.max]
            models = ["gpt-4o-mini"]
            rank = 2
            limits = [{ per = "day", requests = 1000 }]
            [products."com.example.pro"]
            plan = "pro"
            [products."com.example.max"]
            plan = "max"
            [products."com.example.week"]
            plan = "pro"
            duration = "7d"
            [webhooks]
            revenuecat_secret_env = "RC_SECRET"
            revenuecat_authorization_env = "RC_AUTHORIZATION"
            superwall_secret_env = "SUPERWALL_SECRET"
            stripe_secret_env = "STRIPE_SECRET"
            appstore = { bundle_ids = ["com.example.app"], app_apple_id = 123, root_ca_file = "root.pem" }
            "#,
        )
        .env("RC_SECRET", "canary-rc-secret-a9d1")
        .env("RC_SECRET_PREVIOUS", "canary-rc-before-77aa")
        .env("RC_AUTHORIZATION", "Bearer canary-rc-auth-5c0d")
        .env("SUPERWALL_SECRET", "whsec_c3VwZXJ3YWxsLWNhbmFyeQ==")
        .env("STRIPE_SECRET", "whsec_canary_stripe_1b2c")
}

async fn open(roots: &[&Apple]) -> Door {
    let door = Door::prepare(settings()).await;
    let roots: String = roots.iter().map(|apple| apple.root_pem()).collect();
    door.write_file("root.pem", &roots);
    door.start().await;
    door
}

/// A transaction of `StoreKit`, whose time is not over.
fn bought(id: &str, more: &Value) -> Value {
    let transaction = json!({
        "transactionId": id, "originalTransactionId": id, "bundleId": "com.example.app",
        "productId": "com.example.pro", "purchaseDate": now() - DAY, "expiresDate": now() + 29 * DAY,
        "quantity": 1, "type": "Auto-Renewable Subscription", "environment": "Production",
        "signedDate": now() - 1000,
    });
    and(transaction, more)
}

/// A notification about it.
fn notified(apple: &Apple, kind: &str, transaction: &Value, more: &Value) -> Value {
    let mut payload = json!({
        "notificationType": kind, "notificationUUID": uuid::Uuid::now_v7().to_string(), "version": "2.0",
        "signedDate": now(),
        "data": {"appAppleId": 123, "bundleId": "com.example.app", "environment": transaction["environment"],
                 "signedTransactionInfo": apple.sign(transaction)},
    });
    if let Some(renewal) = more.get("renewal") {
        payload["data"]["signedRenewalInfo"] = json!(apple.sign(renewal));
    }
    and(payload, more)
}

async fn tell(door: &Door, channel: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
    let call = Call::post(&format!("/webhooks/{channel}"), body);
    let call = headers
        .iter()
        .fold(call, |call, (name, value)| call.header(name, value));
    door.send(call).await
}

async fn apple_tells(door: &Door, apple: &Apple, payload: &Value) -> Answer {
    let body = json!({"signedPayload": apple.sign(payload)});
    tell(door, "appstore", &body, &[]).await
}

fn outcome(answer: Answer) -> String {
    let body = answer.expect(200).json();
    body["outcome"].as_str().unwrap().to_owned()
}

/// The plan's name and its source.
async fn plan(user: &User) -> String {
    let me = user.me().await;
    let text = |name| me["plan"][name].as_str().unwrap().to_owned();
    format!("{} by {}", text("name"), text("source"))
}

/// Waits until the plan is this one.
async fn becomes(user: &User, wanted: &str) {
    let begun = Instant::now();
    while plan(user).await != wanted {
        assert!(begun.elapsed() < Duration::from_secs(5), "not yet {wanted}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_apple_notifies_becomes_a_plan_and_ends_it() {
    let apple = Apple::new();
    let door = open(&[&apple]).await;
    let alice = door.user("alice");
    let me = alice.me().await;
    assert_eq!(
        (&me["plan"]["source"], &me["purchase"]),
        (&json!("default"), &Value::Null)
    );
    let of_alice = json!({"appAccountToken": alice.id.to_string().to_uppercase()});
    let transaction = bought("2000", &of_alice);
    let until = transaction["expiresDate"].as_i64().unwrap();
    let renewal =
        json!({"renewal": {"autoRenewStatus": 1, "signedDate": now()}, "subtype": "INITIAL_BUY"});
    let subscribed = notified(&apple, "SUBSCRIBED", &transaction, &renewal);
    let answer = apple_tells(&door, &apple, &subscribed).await;
    assert_eq!(outcome(answer), "applied");

    let me = alice.me().await;
    assert_eq!(
        (&me["plan"]["name"], &me["plan"]["source"]),
        (&json!("pro"), &json!("purchase"))
    );
    let bought_now = &me["purchase"];
    assert_eq!(
        (
            &bought_now["product"],
            &bought_now["store"],
            &bought_now["will_renew"]
        ),
        (&json!("com.example.pro"), &json!("app_store"), &json!(true))
    );
    let expires: jiff::Timestamp = bought_now["expires_at"].as_str().unwrap().parse().unwrap();
    assert_eq!(expires.as_millisecond(), until);
    assert_eq!(me["plan"]["period_ends_at"], bought_now["expires_at"]);
    assert_eq!(me["limits"][0]["resets_at"], bought_now["expires_at"]);

    // Told again, told late, told of what changes nothing.
    let again = apple_tells(&door, &apple, &subscribed).await;
    assert_eq!(outcome(again), "repeated");
    let off = json!({"subtype": "AUTO_RENEW_DISABLED"});
    let off = notified(&apple, "DID_CHANGE_RENEWAL_STATUS", &transaction, &off);
    assert_eq!(outcome(apple_tells(&door, &apple, &off).await), "applied");
    let me = alice.me().await;
    assert_eq!(
        (&me["plan"]["name"], &me["purchase"]["will_renew"]),
        (&json!("pro"), &json!(false))
    );
    let old = json!({"signedDate": now() - 10 * DAY});
    let old = notified(&apple, "EXPIRED", &transaction, &old);
    apple_tells(&door, &apple, &old).await.expect(200);
    let news = notified(&apple, "A_TYPE_OF_TOMORROW", &transaction, &json!({}));
    assert_eq!(
        outcome(apple_tells(&door, &apple, &news).await),
        "unchanged"
    );
    let test = json!({
        "notificationType": "TEST", "notificationUUID": "t", "signedDate": now(),
        "data": {"appAppleId": 123, "bundleId": "com.example.app", "environment": "Production"},
    });
    assert_eq!(
        outcome(apple_tells(&door, &apple, &test).await),
        "unchanged"
    );
    assert_eq!(plan(&alice).await, "pro by purchase");

    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_refunds_grace_and_the_sandbox_count_as_apple_means_them() {
    let apple = Apple::new();
    let door = open(&[&apple]).await;
    let alice = door.user("alice");
    let of_alice = json!({"appAccountToken": alice.id});
    let first = bought("2000", &of_alice);
    let first = notified(
        &apple,
        "SUBSCRIBED",
        &first,
        &json!({"signedDate": now() - 60_000}),
    );
    apple_tells(&door, &apple, &first).await.expect(200);

    // An upgrade ends what it replaces; its refund ends both, and is taken back.
    let upgrade = bought(
        "2001",
        &and(
            of_alice.clone(),
            &json!({
                "originalTransactionId": "2000", "productId": "com.example.max", "purchaseDate": now() - 2000,
            }),
        ),
    );
    let up = notified(
        &apple,
        "DID_CHANGE_RENEWAL_PREF",
        &upgrade,
        &json!({"subtype": "UPGRADE"}),
    );
    apple_tells(&door, &apple, &up).await.expect(200);
    assert_eq!(plan(&alice).await, "max by purchase");
    let revoked = and(upgrade.clone(), &json!({"revocationDate": now() - 1}));
    let refund = notified(&apple, "REFUND", &revoked, &json!({}));
    apple_tells(&door, &apple, &refund).await.expect(200);
    assert_eq!(plan(&alice).await, "free by default");
    let reversed = notified(
        &apple,
        "REFUND_REVERSED",
        &upgrade,
        &json!({"signedDate": now() + 5}),
    );
    apple_tells(&door, &apple, &reversed).await.expect(200);
    assert_eq!(plan(&alice).await, "max by purchase");

    // An operator's word goes first; without it the purchase counts again.
    let id = alice.id.to_string();
    door.must(&["user", "plan", &id, "pro"]);
    becomes(&alice, "pro by local").await;
    door.must(&["user", "plan", &id, "--none"]);
    becomes(&alice, "max by purchase").await;
    let shown = door.must(&["user", "show", &id]);
    assert!(
        shown.contains("com.example.max") && shown.contains("free"),
        "{shown}"
    );

    // Grace, and its end to the second, without an event.
    let bob = door.user("bob");
    let of_bob = json!({"appAccountToken": bob.id, "expiresDate": now() - 1000});
    let grace = json!({"subtype": "GRACE_PERIOD", "renewal": {
        "gracePeriodExpiresDate": now() + 2500, "autoRenewStatus": 1, "signedDate": now(),
    }});
    let failed = notified(
        &apple,
        "DID_FAIL_TO_RENEW",
        &bought("3000", &of_bob),
        &grace,
    );
    apple_tells(&door, &apple, &failed).await.expect(200);
    assert_eq!(plan(&bob).await, "pro by purchase");

    // Nobody pays in the sandbox.
    let carol = door.user("carol");
    let sandbox = json!({"appAccountToken": carol.id, "environment": "Sandbox"});
    let sandbox = notified(&apple, "SUBSCRIBED", &bought("4000", &sandbox), &json!({}));
    apple_tells(&door, &apple, &sandbox).await.expect(200);
    assert_eq!(plan(&carol).await, "free by default");
    becomes(&bob, "free by default").await;
    door.close().await;
}

/// A good text, bent.
fn bent(good: &str) -> Vec<(&'static str, Value)> {
    let (unsigned, signature) = good.rsplit_once('.').unwrap();
    [
        ("no signature", unsigned.to_owned()),
        ("an empty signature", format!("{unsigned}.")),
        ("a fourth part", format!("{good}.{signature}")),
        ("white space", format!(" {good}")),
    ]
    .map(|(what, text)| (what, json!({"signedPayload": text})))
    .into()
}

/// What proves nothing, each by one fault.
fn not_proven(apple: &Apple, transaction: &Value, payload: &Value) -> Vec<(&'static str, Value)> {
    let good = apple.sign(payload);
    let stranger = Apple::new();
    let with = |changes: Value| apple.sign(&and(payload.clone(), &changes));
    let data = |name: &str, value: Value| {
        let mut payload = payload.clone();
        payload["data"][name] = value;
        apple.sign(&payload)
    };
    let [leaf, between, root] = apple.x5c.clone();
    let header = |x5c: Value| apple.sign_with(payload, &json!({"alg": "ES256", "x5c": x5c}));
    let other =
        |name: &str, value: &Value| apple.sign(&and(transaction.clone(), &json!({name: value})));
    let mut wrong = vec![
        ("nothing", json!({})),
        ("no text", json!({"signedPayload": 7})),
        ("an empty text", json!({"signedPayload": ""})),
        (
            "another root",
            json!({"signedPayload": stranger.sign(payload)}),
        ),
        (
            "another leaf's signature",
            json!({"signedPayload": stranger.sign_with(payload, &json!({
            "alg": "ES256", "x5c": apple.x5c}))}),
        ),
        (
            "a root beside a strange chain",
            json!({"signedPayload": stranger.sign_with(payload, &json!({
            "alg": "ES256", "x5c": [stranger.x5c[0], stranger.x5c[1], root]}))}),
        ),
        (
            "another algorithm",
            json!({"signedPayload": apple.sign_with(payload, &json!({
            "alg": "none", "x5c": apple.x5c}))}),
        ),
        (
            "two certificates",
            json!({"signedPayload": header(json!([leaf, between]))}),
        ),
        (
            "one certificate",
            json!({"signedPayload": header(json!([leaf]))}),
        ),
        (
            "another order",
            json!({"signedPayload": header(json!([between, leaf, root]))}),
        ),
        (
            "no certificates",
            json!({"signedPayload": header(json!([]))}),
        ),
        (
            "no signedDate",
            json!({"signedPayload": with(json!({"signedDate": null}))}),
        ),
        (
            "before the certificates",
            json!({"signedPayload": with(json!({"signedDate": 1_500_000_000_000_i64}))}),
        ),
        (
            "another bundle",
            json!({"signedPayload": data("bundleId", json!("com.example.other"))}),
        ),
        (
            "another app",
            json!({"signedPayload": data("appAppleId", json!(124))}),
        ),
        (
            "no app",
            json!({"signedPayload": data("appAppleId", Value::Null)}),
        ),
        (
            "a strange transaction",
            json!({"signedPayload":
            data("signedTransactionInfo", json!(stranger.sign(transaction)))}),
        ),
        (
            "a transaction of another bundle",
            json!({"signedPayload":
            data("signedTransactionInfo", json!(other("bundleId", &json!("com.example.other"))))}),
        ),
        (
            "a strange renewal",
            json!({"signedPayload":
            data("signedRenewalInfo", json!(stranger.sign(&json!({"signedDate": now()}))))}),
        ),
    ];
    wrong.extend(bent(&good));
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn what_apple_did_not_sign_for_this_app_is_no_proof() {
    let apple = Apple::new();
    let flawed = [
        Flaw::LeafWithoutMark,
        Flaw::IntermediateWithoutMark,
        Flaw::LeafEnded,
        Flaw::IntermediateEnded,
        Flaw::IntermediateIsNoAuthority,
    ]
    .map(|flaw| (flaw, Apple::with(flaw)));
    // Their roots are trusted: what is wrong is what stands below them.
    let roots: Vec<&Apple> = flawed
        .iter()
        .map(|(_, flawed)| flawed)
        .chain([&apple])
        .collect();
    let door = open(&roots).await;
    let alice = door.user("alice");
    let transaction = bought("1", &json!({"appAccountToken": alice.id}));
    let payload = notified(&apple, "SUBSCRIBED", &transaction, &json!({}));
    let wrong = not_proven(&apple, &transaction, &payload);
    for (what, body) in &wrong {
        let answer = tell(&door, "appstore", body, &[]).await;
        assert_eq!(
            answer.refusal(),
            (401, "invalid_signature".to_owned()),
            "{what}"
        );
        assert_eq!(answer.header("www-authenticate"), "", "{what}");
        let text = body["signedPayload"].as_str().unwrap_or_default();
        let sent = alice
            .post("/api/purchases", &json!({"transaction": text}))
            .await;
        assert_eq!(
            sent.json()["error"]["param"],
            "transaction",
            "{what}: {}",
            sent.text()
        );
    }
    for (flaw, flawed) in &flawed {
        let answer = apple_tells(&door, flawed, &payload).await;
        assert_eq!(
            answer.refusal(),
            (401, "invalid_signature".to_owned()),
            "{flaw:?}"
        );
    }
    assert_eq!(plan(&alice).await, "free by default");
    let long = json!({"signedPayload": "x".repeat(66_000)});
    let answer = tell(&door, "appstore", &long, &[]).await;
    assert_eq!(answer.refusal(), (413, "body_too_large".to_owned()));
    let get = door.send(Call::get("/webhooks/appstore")).await;
    assert_eq!((get.status, get.header("allow")), (405, "POST"));
    // What is right is taken, years old or not.
    let old = json!({"signedDate": 1_600_000_000_000_i64});
    let answer = apple_tells(
        &door,
        &apple,
        &notified(&apple, "SUBSCRIBED", &transaction, &old),
    )
    .await;
    assert_eq!(outcome(answer), "applied");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_binds_what_apple_signed_to_its_user_and_to_nobody_else() {
    let apple = Apple::new();
    let door = open(&[&apple]).await;
    let (alice, bob) = (door.user("alice"), door.user("bob"));
    let send = async |user: &User, transaction: &Value| {
        let body = json!({"transaction": apple.sign(transaction)});
        user.post("/api/purchases", &body).await
    };
    let code = bought("10", &json!({}));
    let notified = notified(
        &apple,
        "OFFER_REDEEMED",
        &code,
        &json!({"signedDate": now() - 500}),
    );
    assert_eq!(
        outcome(apple_tells(&door, &apple, &notified).await),
        "no_user"
    );
    let me = send(&alice, &code).await.expect(200).json();
    assert_eq!(
        (&me["plan"]["name"], &me["purchase"]["product"]),
        (&json!("pro"), &json!("com.example.pro"))
    );
    send(&alice, &code).await.expect(200);
    send(&bob, &code).await.refused(409, "purchase_taken");
    assert_eq!(plan(&bob).await, "free by default");

    // A later transaction of the same purchase belongs to its user, and ends with it.
    let later = bought(
        "11",
        &json!({"originalTransactionId": "10", "productId": "com.example.max",
        "purchaseDate": now() - 1000}),
    );
    let renewed = self::notified(&apple, "DID_RENEW", &later, &json!({}));
    assert_eq!(
        outcome(apple_tells(&door, &apple, &renewed).await),
        "applied"
    );
    assert_eq!(plan(&alice).await, "max by purchase");
    let ended = self::notified(&apple, "EXPIRED", &later, &json!({"signedDate": now() + 1}));
    apple_tells(&door, &apple, &ended).await.expect(200);
    assert_eq!(plan(&alice).await, "free by default");
    // Now nobody has it live.
    let again = bought(
        "12",
        &json!({"originalTransactionId": "10", "purchaseDate": now() - 500}),
    );
    send(&bob, &again).await.expect(200);
    assert_eq!(plan(&bob).await, "pro by purchase");

    let of_alice = bought("20", &json!({"appAccountToken": alice.id}));
    send(&bob, &of_alice).await.refused(409, "purchase_taken");
    send(&alice, &of_alice).await.expect(200);
    let refunded = and(
        of_alice,
        &json!({"revocationDate": now() - 1, "signedDate": now()}),
    );
    send(&alice, &refunded).await.expect(200);
    assert_eq!(plan(&alice).await, "free by default");
    for body in [
        json!({}),
        json!({"transaction": 1}),
        json!({"transaction": "x", "more": 1}),
        json!([]),
    ] {
        let answer = alice.post("/api/purchases", &body).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["param"]),
            (400, &json!("transaction"))
        );
    }
    let body = json!({"transaction": apple.sign(&code)});
    let nobody = door.send(Call::post("/api/purchases", &body)).await;
    nobody.refused(401, "missing_token");
    door.close().await;
}

const SIGNATURE: &str = "X-RevenueCat-Webhook-Signature";

fn hex_hmac(key: &str, text: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    let signed = hmac::sign(&key, text.as_bytes());
    signed
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn timed(secret: &str, seconds: i64, body: &Value) -> String {
    format!(
        "t={seconds},v1={}",
        hex_hmac(secret, &format!("{seconds}.{body}"))
    )
}

/// Events in their order, and the plan after each.
fn revenuecat_table() -> Vec<(&'static str, Value, &'static str)> {
    vec![
        (
            "CANCELLATION",
            json!({"cancel_reason": "UNSUBSCRIBE"}),
            "pro by purchase",
        ),
        (
            "PRODUCT_CHANGE",
            json!({"new_product_id": "com.example.max"}),
            "pro by purchase",
        ),
        ("SUBSCRIPTION_PAUSED", json!({}), "pro by purchase"),
        ("TEST", json!({}), "pro by purchase"),
        ("A_TYPE_OF_TOMORROW", json!({}), "pro by purchase"),
        (
            "BILLING_ISSUE",
            json!({"expiration_at_ms": now() - 1, "grace_period_expiration_at_ms": now() + DAY}),
            "pro by purchase",
        ),
        (
            "EXPIRATION",
            json!({"expiration_at_ms": now() - 1}),
            "free by default",
        ),
        (
            "RENEWAL",
            json!({"transaction_id": "GPA.1..0", "product_id": "com.example.max"}),
            "max by purchase",
        ),
        (
            "CANCELLATION",
            json!({"transaction_id": "GPA.1..0", "product_id": "com.example.max",
            "cancel_reason": "CUSTOMER_SUPPORT"}),
            "free by default",
        ),
        (
            "NON_RENEWING_PURCHASE",
            json!({"transaction_id": "GPA.2", "original_transaction_id": null,
            "product_id": "com.example.week", "expiration_at_ms": null}),
            "pro by purchase",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn revenuecat_tells_by_its_signature_or_by_what_was_agreed() {
    let apple = Apple::new();
    let door = open(&[&apple]).await;
    let (alice, bob) = (door.user("alice"), door.user("bob"));
    let seconds = now() / 1000;

    let event = |kind: &str, more: &Value| {
        let event = json!({
            "id": uuid::Uuid::now_v7().to_string(), "type": kind, "event_timestamp_ms": now(),
            "app_user_id": "$RCAnonymousID:1", "aliases": ["$RCAnonymousID:1", alice.id],
            "product_id": "com.example.pro", "purchased_at_ms": now() - DAY, "expiration_at_ms": now() + 29 * DAY,
            "environment": "PRODUCTION", "store": "PLAY_STORE", "transaction_id": "GPA.1",
            "original_transaction_id": "GPA.1",
        });
        json!({"api_version": "1.0", "event": and(event, more)})
    };
    let first = event("INITIAL_PURCHASE", &json!({}));
    let signed = |secret: &str, body: &Value| timed(secret, seconds, body);
    for header in [
        signed("no", &first),
        timed("canary-rc-secret-a9d1", seconds - 301, &first),
        signed("canary-rc-secret-a9d1", &json!({})),
        String::new(),
    ] {
        let headers = [
            (SIGNATURE, header.as_str()),
            ("Authorization", "Bearer canary-rc-auth-5c0d"),
        ];
        let answer = tell(&door, "revenuecat", &first, &headers).await;
        assert_eq!(
            answer.refusal(),
            (401, "invalid_signature".to_owned()),
            "{header}"
        );
    }
    tell(&door, "revenuecat", &first, &[("Authorization", "no")])
        .await
        .refused(401, "invalid_signature");
    assert_eq!(plan(&alice).await, "free by default");
    for secret in ["canary-rc-secret-a9d1", "canary-rc-before-77aa"] {
        let header = signed(secret, &first);
        tell(&door, "revenuecat", &first, &[(SIGNATURE, &header)])
            .await
            .expect(200);
    }
    assert_eq!(plan(&alice).await, "pro by purchase");
    let agreed = [("Authorization", "Bearer canary-rc-auth-5c0d")];
    for (kind, more, after) in revenuecat_table() {
        let body = event(kind, &more);
        tell(&door, "revenuecat", &body, &agreed).await.expect(200);
        assert_eq!(plan(&alice).await, after, "{kind}");
    }
    let transfer = json!({"event": {"id": "t1", "type": "TRANSFER", "event_timestamp_ms": now(), "store": "PLAY_STORE",
        "transferred_from": [alice.id], "transferred_to": [bob.id], "environment": "PRODUCTION"}});
    tell(&door, "revenuecat", &transfer, &agreed)
        .await
        .expect(200);
    assert_eq!(
        [plan(&alice).await, plan(&bob).await],
        ["free by default", "pro by purchase"]
    );
    let broken = tell(&door, "revenuecat", &json!({"event": {}}), &agreed).await;
    assert_eq!(broken.refusal(), (400, "invalid_request".to_owned()));
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn superwall_tells_as_standard_webhooks_do() {
    let apple = Apple::new();
    let door = open(&[&apple]).await;
    let carol = door.user("carol");
    let seconds = now() / 1000;
    let superwall = json!({"object": "event", "type": "initial_purchase", "timestamp": now(), "data": {
        "id": "e1", "name": "initial_purchase", "productId": "com.example.pro", "expirationAt": now() + DAY,
        "originalAppUserId": carol.id, "originalTransactionId": "s1", "transactionId": "s1",
        "environment": "PRODUCTION", "store": "APP_STORE", "price": 4.99, "purchasedAt": now() - 1000}});
    let standard = |id: &str, body: &Value| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"superwall-canary");
        let text = format!("{id}.{seconds}.{body}");
        format!("v1,{}", STANDARD.encode(hmac::sign(&key, text.as_bytes())))
    };
    let at = seconds.to_string();
    let wrong: [(&str, &str); 3] = [
        ("svix-id", "m2"),
        ("svix-timestamp", &at),
        ("svix-signature", &standard("m1", &superwall)),
    ];
    tell(&door, "superwall", &superwall, &wrong)
        .await
        .refused(401, "invalid_signature");
    let right: [(&str, &str); 3] = [
        ("svix-id", "m1"),
        ("svix-timestamp", &at),
        ("svix-signature", &standard("m1", &superwall)),
    ];
    assert_eq!(
        outcome(tell(&door, "superwall", &superwall, &right).await),
        "applied"
    );
    assert_eq!(
        outcome(tell(&door, "superwall", &superwall, &right).await),
        "repeated"
    );
    assert_eq!(plan(&carol).await, "pro by purchase");
    let mut refund = and(superwall, &json!({"timestamp": now() + 1}));
    refund["data"]["price"] = json!(-4.99);
    let headers: [(&str, &str); 3] = [
        ("webhook-id", "m3"),
        ("webhook-timestamp", &at),
        ("webhook-signature", &standard("m3", &refund)),
    ];
    tell(&door, "superwall", &refund, &headers)
        .await
        .expect(200);
    assert_eq!(plan(&carol).await, "free by default");

    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stripes_subscriptions_and_payments_end_by_their_own_events() {
    let apple = Apple::new();
    let door = open(&[&apple]).await;
    let dave = door.user("dave");
    let seconds = now() / 1000;
    let stripe = async |id: &str, kind: &str, second: i64, object: Value| {
        let body = json!({"id": id, "object": "event", "type": kind, "created": second, "livemode": true,
            "data": {"object": object}});
        let header = timed("whsec_canary_stripe_1b2c", seconds, &body);
        outcome(tell(&door, "stripe", &body, &[("Stripe-Signature", &header)]).await)
    };
    let subscription = |status: &str| {
        json!({"id": "sub_1", "object": "subscription", "customer": "cus_1",
        "status": status, "cancel_at_period_end": false, "items": {"data": [{
            "current_period_start": seconds - 60, "current_period_end": seconds + 86_400,
            "price": {"id": "com.example.max", "product": "prod_1"}}]}})
    };
    let checkout = json!({"id": "cs_1", "customer": "cus_1", "client_reference_id": dave.id,
        "subscription": "sub_1", "mode": "subscription"});
    let (created, updated, deleted) = (
        "customer.subscription.created",
        "customer.subscription.updated",
        "customer.subscription.deleted",
    );
    // Two of the same second, in the wrong order; and whose it is, last.
    for (id, kind, second, object, told, after) in [
        (
            "evt_1",
            updated,
            5,
            subscription("active"),
            "no_user",
            "free by default",
        ),
        (
            "evt_2",
            created,
            5,
            subscription("incomplete"),
            "unchanged",
            "free by default",
        ),
        (
            "evt_3",
            "checkout.session.completed",
            5,
            checkout,
            "applied",
            "max by purchase",
        ),
        (
            "evt_4",
            deleted,
            4,
            subscription("canceled"),
            "applied",
            "free by default",
        ),
        (
            "evt_5",
            updated,
            4,
            subscription("active"),
            "unchanged",
            "free by default",
        ),
    ] {
        assert_eq!(
            stripe(id, kind, seconds - second, object).await,
            told,
            "{id}"
        );
        assert_eq!(plan(&dave).await, after, "{id}");
    }
    // A payment, told after its refund; and one without.
    let refund = json!({"payment_intent": "pi_1", "amount": 500, "amount_refunded": 500});
    let paid = |payment: &str| {
        json!({"id": "cs_2", "payment_intent": payment, "customer": "cus_1", "payment_status": "paid",
            "metadata": {"product": "com.example.week"}})
    };
    let completed = "checkout.session.completed";
    stripe("evt_6", "charge.refunded", seconds - 1, refund).await;
    stripe("evt_7", completed, seconds - 3, paid("pi_1")).await;
    assert_eq!(plan(&dave).await, "free by default");
    stripe("evt_8", completed, seconds - 3, paid("pi_2")).await;
    assert_eq!(plan(&dave).await, "pro by purchase");
    door.close().await;
}
