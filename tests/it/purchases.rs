//! Purchases from the door: what each store must prove, what its events make of a plan, and what an app may bind to its user.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::apple::{Apple, Flaw};
use crate::support::caller::{Answer, Call, User, and, chat};
use crate::support::door::Door;
use crate::support::oracle::Row;
use crate::support::postgrest::{Grants, Rest};
use crate::support::project::{Project, WAYS, until};
use crate::support::raw::{Wire, statuses};
use crate::support::reply::Talk;
use crate::support::settings::{Settings, micros};
use crate::support::tools::{Tool, installed};

pub(crate) const DAY: i64 = 86_400_000;

pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_millis() as i64
}

pub(crate) fn settings() -> Settings {
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

pub(crate) async fn open(roots: &[&Apple]) -> Door {
    open_with(settings(), roots).await
}

pub(crate) async fn open_with(settings: Settings, roots: &[&Apple]) -> Door {
    let door = Door::prepare(settings).await;
    let roots: String = roots.iter().map(|apple| apple.root_pem()).collect();
    door.write_file("root.pem", &roots);
    door.start().await;
    door
}

/// A transaction of `StoreKit`, whose time is not over.
pub(crate) fn bought(id: &str, more: &Value) -> Value {
    let transaction = json!({
        "transactionId": id, "originalTransactionId": id, "bundleId": "com.example.app",
        "productId": "com.example.pro", "purchaseDate": now() - DAY, "expiresDate": now() + 29 * DAY,
        "quantity": 1, "type": "Auto-Renewable Subscription", "environment": "Production",
        "signedDate": now() - 1000,
    });
    and(transaction, more)
}

/// A notification about it.
pub(crate) fn notified(apple: &Apple, kind: &str, transaction: &Value, more: &Value) -> Value {
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

pub(crate) async fn tell(
    door: &Door,
    channel: &str,
    body: &Value,
    headers: &[(&str, &str)],
) -> Answer {
    let call = Call::post(&format!("/webhooks/{channel}"), body);
    let call = headers
        .iter()
        .fold(call, |call, (name, value)| call.header(name, value));
    door.send(call).await
}

pub(crate) async fn apple_tells(door: &Door, apple: &Apple, payload: &Value) -> Answer {
    let body = json!({"signedPayload": apple.sign(payload)});
    tell(door, "appstore", &body, &[]).await
}

pub(crate) fn outcome(answer: Answer) -> String {
    let body = answer.expect(200).json();
    body["outcome"].as_str().unwrap().to_owned()
}

/// The plan's name and its source.
pub(crate) async fn plan(user: &User) -> String {
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

pub(crate) fn timed(secret: &str, seconds: i64, body: &Value) -> String {
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

/// An event of RevenueCat about a transaction of a user.
pub(crate) fn told_by_revenuecat(
    kind: &str,
    user: &User,
    transaction: &str,
    more: &Value,
) -> Value {
    let event = json!({
        "id": uuid::Uuid::now_v7().to_string(), "type": kind, "event_timestamp_ms": now(), "app_user_id": user.id,
        "product_id": "com.example.pro", "purchased_at_ms": now() - DAY, "expiration_at_ms": now() + 29 * DAY,
        "environment": "PRODUCTION", "store": "PLAY_STORE", "transaction_id": transaction,
        "original_transaction_id": transaction,
    });
    json!({"api_version": "1.0", "event": and(event, more)})
}

pub(crate) async fn revenuecat_tells(door: &Door, body: &Value) -> String {
    let agreed = [("Authorization", "Bearer canary-rc-auth-5c0d")];
    outcome(tell(door, "revenuecat", body, &agreed).await)
}

/// Asks until the plan is this one. No answer to what was asked a second after `told` or later may still say another.
pub(crate) async fn counts_within_a_second(user: &User, wanted: &str, told: Instant) {
    loop {
        let asked = told.elapsed();
        let plan = plan(user).await;
        if plan == wanted {
            return;
        }
        assert!(asked < Duration::from_secs(1), "{plan} after {asked:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purchase_counts_at_once_where_it_is_told_and_within_a_second_in_every_other_process() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let apple = Apple::new();
    let door = open_with(settings().on_postgres(), &[&apple]).await;
    let sibling = door.beside().await;
    for name in ["alice", "bob", "carol"] {
        let here = door.user(name);
        let there = sibling.of(&here);
        for user in [&here, &there] {
            assert_eq!(plan(user).await, "free by default");
        }
        let event = |kind: &str, more: &Value| told_by_revenuecat(kind, &here, name, more);
        let steps = [
            ("INITIAL_PURCHASE", json!({}), "pro by purchase"),
            (
                "EXPIRATION",
                json!({"expiration_at_ms": now() - 1}),
                "free by default",
            ),
        ];
        for (kind, more, after) in steps {
            let told = revenuecat_tells(&door, &event(kind, &more)).await;
            assert_eq!(told, "applied", "{kind}");
            let at = Instant::now();
            assert_eq!(plan(&here).await, after, "{kind}");
            counts_within_a_second(&there, after, at).await;
        }
    }
    door.close().await;
}

/// Credits of `com.example.credits`: $0.002, where a whole answer costs 600 micro-dollars and the plan has 100.
pub(crate) fn settings_with_credits() -> Settings {
    settings().with(
        r#"
        plans.free.limits = [{ per = "month", cost_usd = "0.0001" }, { per = "hour", requests = 100 }]
        products."com.example.credits" = { credit_usd = "0.002", expires = "365d" }
        "#,
    )
}

pub(crate) async fn row_of_whole(door: &Door, user: &User) -> Row {
    let answer = user
        .ask(and(chat("a"), &json!({"max_tokens": 1000})))
        .await
        .expect(200);
    door.quiet_rows().await;
    door.row(&answer).await
}

pub(crate) async fn credits(user: &User) -> Option<i64> {
    let credits = user.me().await["credits"].clone();
    credits["remaining"].as_str().map(micros)
}

#[tokio::test(flavor = "multi_thread")]
async fn credits_that_were_bought_pay_a_request_and_a_refund_takes_its_share() {
    let mut stores = vec![settings_with_credits()];
    if installed(&[Tool::Postgres]) {
        stores.push(settings_with_credits().on_postgres());
    }
    for settings in stores {
        let apple = Apple::new();
        let door = open_with(settings, &[&apple]).await;
        door.upstream.always(|seen| Talk::to_the_cap().reply(seen));
        let alice = door.user("alice");
        let consumable = |id: &str, more: &Value| {
            let about = json!({
                "appAccountToken": alice.id, "productId": "com.example.credits", "type": "Consumable",
                "expiresDate": null, "signedDate": now() - 60_000,
            });
            bought(id, &and(about, more))
        };
        let charge = consumable("c1", &json!({}));
        let charged = notified(
            &apple,
            "ONE_TIME_CHARGE",
            &charge,
            &json!({"signedDate": now() - 50_000}),
        );
        assert_eq!(
            outcome(apple_tells(&door, &apple, &charged).await),
            "applied"
        );
        assert_eq!(credits(&alice).await, Some(2000));
        // Told again, by another event and by the app: it is the same transaction.
        let again = notified(
            &apple,
            "ONE_TIME_CHARGE",
            &charge,
            &json!({"signedDate": now() - 40_000}),
        );
        apple_tells(&door, &apple, &again).await.expect(200);
        let sent = json!({"transaction": apple.sign(&charge)});
        alice.post("/api/purchases", &sent).await.expect(200);
        assert_eq!(credits(&alice).await, Some(2000));
        // The sandbox gives none.
        let tested = consumable("c2", &json!({"environment": "Sandbox"}));
        let tested = notified(&apple, "ONE_TIME_CHARGE", &tested, &json!({}));
        apple_tells(&door, &apple, &tested).await.expect(200);
        assert_eq!(credits(&alice).await, Some(2000));

        let row = row_of_whole(&door, &alice).await;
        assert_eq!(row.paid_by.as_deref(), Some("credits"), "{row:?}");
        let left = 2000 - row.cost();
        assert_eq!(credits(&alice).await, Some(left));

        // Half of it is refunded, and the refund is taken back; then all of it is, which is what is left.
        let half = json!({"revocationDate": now() - 1, "revocationPercentage": 50_000});
        let half = notified(
            &apple,
            "REFUND",
            &consumable("c1", &half),
            &json!({"signedDate": now() - 30_000}),
        );
        apple_tells(&door, &apple, &half).await.expect(200);
        assert_eq!(credits(&alice).await, Some(left - 1000));
        let reversed = notified(
            &apple,
            "REFUND_REVERSED",
            &charge,
            &json!({"signedDate": now() - 20_000}),
        );
        apple_tells(&door, &apple, &reversed).await.expect(200);
        assert_eq!(credits(&alice).await, Some(left));
        let whole = consumable("c1", &json!({"revocationDate": now() - 1}));
        let whole = notified(
            &apple,
            "REFUND",
            &whole,
            &json!({"signedDate": now() - 10_000}),
        );
        apple_tells(&door, &apple, &whole).await.expect(200);
        assert_eq!(credits(&alice).await.unwrap_or_default(), 0);
        let row = row_of_whole(&door, &alice).await;
        assert_eq!(row.paid_by.as_deref(), Some("plan"), "{row:?}");
        door.must(&["ledger", "check"]);
        door.close().await;
    }
}

type Headers = Vec<(&'static str, String)>;

/// Bodies and headers of somebody who has no secret.
fn unsigned() -> Vec<(Vec<u8>, Headers)> {
    let seconds = now() / 1000;
    let deep = [vec![b'['; 60_000], vec![b']'; 1000]].concat();
    let bodies: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"null".to_vec(),
        b"{".to_vec(),
        deep,
        vec![0xff; 1000],
        format!("{{\"signedPayload\": \"{}\"}}", ".".repeat(60_000)).into_bytes(),
        format!(
            "{{\"signedPayload\": \"{}.e30.AA\"}}",
            "eyJ4NWMiOltdfQ".repeat(3000)
        )
        .into_bytes(),
        json!({"event": {"id": "x", "type": "INITIAL_PURCHASE"}})
            .to_string()
            .into_bytes(),
    ];
    let long = format!(
        "t={seconds}{}",
        format!(",v1={}", "ab".repeat(32)).repeat(40)
    );
    let headers: Vec<Vec<(&'static str, String)>> = vec![
        Vec::new(),
        vec![("authorization", "Bearer".to_owned())],
        vec![
            ("stripe-signature", format!("t={seconds},v1=")),
            (SIGNATURE, format!("t={seconds},v1=zz")),
            ("webhook-signature", "v1,".to_owned()),
        ],
        vec![
            ("stripe-signature", long.clone()),
            (SIGNATURE, long),
            ("webhook-id", "m".repeat(4000)),
            ("webhook-timestamp", seconds.to_string()),
            (
                "webhook-signature",
                format!("v1,{} ", "A".repeat(44)).repeat(40),
            ),
        ],
        vec![
            (
                "stripe-signature",
                "t=99999999999999999999,v1=00".to_owned(),
            ),
            ("webhook-timestamp", "-1".to_owned()),
        ],
    ];
    let mut all = Vec::new();
    for body in &bodies {
        all.extend(
            headers
                .iter()
                .map(|headers| (body.clone(), headers.clone())),
        );
    }
    all
}

const CHANNELS: [&str; 4] = ["appstore", "revenuecat", "superwall", "stripe"];

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_without_a_secret_gets_401_and_leaves_nothing_behind() {
    let apple = Apple::new();
    let door = open(&[&apple]).await;
    let alice = door.user("alice");
    alice.me().await;
    let begun = Instant::now();
    for channel in CHANNELS {
        for (body, headers) in unsigned() {
            let call = Call::post(&format!("/webhooks/{channel}"), &json!({})).bytes(body.clone());
            let call = headers
                .iter()
                .fold(call, |call, (name, value)| call.header(name, value));
            let answer = door.send(call).await;
            let start = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
            assert_eq!(
                answer.refusal(),
                (401, "invalid_signature".to_owned()),
                "{channel} {start} with {} headers",
                headers.len()
            );
        }
    }
    let told = door.must(&["purchases", "--events", "--json"]);
    assert!(!told.contains("INITIAL_PURCHASE"), "{told}");
    // A stranger writes no log of ours: what is wrong is said once in a while.
    let lines = door.process.output();
    let lines = lines.matches("a webhook is not taken").count();
    let may_be = 40 * (1 + usize::try_from(begun.elapsed().as_secs() / 10).unwrap());
    assert!(lines <= may_be, "{lines} lines for 160 requests");

    // Below HTTP: too long, by its word or in fact; and one that never ends.
    for channel in CHANNELS {
        let head = |rest: &str| {
            format!(
                "POST /webhooks/{channel} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n{rest}\r\n\r\n"
            )
        };
        for (what, bytes) in [
            ("its word", head("content-length: 1073741824")),
            (
                "in chunks",
                format!(
                    "{}{}",
                    head("transfer-encoding: chunked"),
                    format!("4000\r\n{}\r\n", "x".repeat(0x4000)).repeat(5)
                ),
            ),
        ] {
            let mut wire = Wire::open(door.front.address()).await;
            let _ = wire.send(bytes.as_bytes()).await;
            if what == "its word" {
                let _ = wire.send("x".repeat(70_000).as_bytes()).await;
            }
            let (text, _) = wire.read(Duration::from_secs(3)).await;
            assert_eq!(statuses(&text).first(), Some(&413), "{channel} {what}");
        }
    }
    let encoded = Call::post("/webhooks/stripe", &json!({})).header("content-encoding", "gzip");
    door.send(encoded)
        .await
        .refused(415, "unsupported_media_type");
    assert_eq!(plan(&alice).await, "free by default");
    door.close().await;
}

/// Keeps what `on_purchase` was told.
const KEEP: &str = "
    create table public.told (place bigserial, entry jsonb);
    create function tollgate.on_purchase(entry jsonb) returns void
    language sql security definer set search_path = pg_catalog, pg_temp
    as $f$ insert into public.told (entry) values (entry) $f$;";

async fn told_to(project: &Project) -> Vec<Value> {
    let sql = "select entry from public.told order by place";
    let rows = project.owner().await.query(sql, &[]).await.unwrap();
    let mut told: Vec<Value> = rows.iter().map(|row| row.get(0)).collect();
    // At least once.
    told.dedup();
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn the_developers_on_purchase_hears_of_each_change_once_it_is_there() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let patience = Duration::from_secs(40);
    for way in WAYS {
        let apple = Apple::new();
        let rest = Rest::with_script(Grants::New).await;
        let project = Project::prepare_on(rest, way, settings()).await;
        let door = &project.door;
        door.write_file("root.pem", &apple.root_pem());
        door.start().await;
        let (alice, bob) = (door.user("alice"), door.user("bob"));
        let first = told_by_revenuecat("INITIAL_PURCHASE", &alice, "GPA.1", &json!({}));
        assert_eq!(revenuecat_tells(door, &first).await, "applied");
        assert_eq!(plan(&alice).await, "pro by purchase");
        alice.ask(chat("recorded as ever")).await.expect(200);
        until("the request", patience, async || {
            project.usage().await.len() == 1
        })
        .await;
        assert!(
            !door.process.output().contains("on_purchase"),
            "a database without it is as it should be"
        );

        project.sql(KEEP).await;
        // It is looked for again within a minute, and at a start.
        door.restart().await;
        until("what was bought before", patience, async || {
            told_to(&project).await.len() == 1
        })
        .await;
        // What is said and what is killed right after it arrive, in order.
        let refund = json!({"cancel_reason": "CUSTOMER_SUPPORT"});
        let refund = told_by_revenuecat("CANCELLATION", &alice, "GPA.1", &refund);
        assert_eq!(revenuecat_tells(door, &refund).await, "applied");
        until("the refund", patience, async || {
            told_to(&project).await.len() == 2
        })
        .await;
        let max = json!({"product_id": "com.example.max"});
        let max = told_by_revenuecat("INITIAL_PURCHASE", &bob, "GPA.2", &max);
        assert_eq!(revenuecat_tells(door, &max).await, "applied");
        door.process.kill9();
        door.start().await;
        until("bob's", patience, async || {
            told_to(&project).await.len() >= 3
        })
        .await;
        let told = told_to(&project).await;
        let seen: Vec<_> = told
            .iter()
            .map(|entry| {
                let text = |name: &str| entry[name].as_str().unwrap_or_default();
                (text("transaction_id"), text("state"), text("plan"))
            })
            .collect();
        assert_eq!(
            seen,
            [
                ("GPA.1", "live", "pro"),
                ("GPA.1", "revoked", "pro"),
                ("GPA.2", "live", "max")
            ]
        );
        assert_eq!(
            (&told[0]["user_id"], &told[2]["user_id"]),
            (&json!(alice.id), &json!(bob.id))
        );
        assert_eq!(
            (&told[0]["store"], &told[0]["environment"]),
            (&json!("play_store"), &json!("production"))
        );
        assert_eq!(told[1]["refunded_share"], "1.00000");
        let revision = |entry: &Value| entry["revision"].as_i64().unwrap();
        assert!(told.is_sorted_by_key(revision), "{told:?}");
        project.close().await;
    }
}
