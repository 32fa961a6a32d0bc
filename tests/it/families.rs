//! Family Sharing of the App Store: each member has transactions of their own, which name no user, and loses them by `REVOKE`.

use serde_json::{Value, json};

use crate::purchases::{apple_tells, bought, notified, now, open, outcome, plan};
use crate::support::apple::Apple;
use crate::support::caller::{User, and};

/// A transaction of a member of a family.
fn shared(id: &str, more: &Value) -> Value {
    let of_family = json!({"inAppOwnershipType": "FAMILY_SHARED", "signedDate": now() - 9_000});
    bought(id, &and(of_family, more))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_a_family_has_the_plan_until_it_is_shared_no_longer() {
    let apple = Apple::new();
    let door = open(&[&apple]).await;
    let (alice, bob, carol) = (door.user("alice"), door.user("bob"), door.user("carol"));
    let send = async |user: &User, transaction: &Value| {
        let body = json!({"transaction": apple.sign(transaction)});
        user.post("/api/purchases", &body).await
    };
    let own = json!({"appAccountToken": alice.id, "inAppOwnershipType": "PURCHASED"});
    let payload = notified(&apple, "SUBSCRIBED", &bought("100", &own), &json!({}));
    let told = apple_tells(&door, &apple, &payload).await;
    assert_eq!(outcome(told), "applied");

    // Apple tells of the member's transaction too, and does not say whose it is: the app of the member does.
    let at = |ago: i64| json!({"signedDate": now() - ago});
    let of_bob = shared("200", &json!({"expiresDate": now() - 7_000}));
    let payload = notified(&apple, "SUBSCRIBED", &of_bob, &at(8_000));
    let told = apple_tells(&door, &apple, &payload).await;
    assert_eq!(outcome(told), "no_user");
    send(&bob, &of_bob).await.expect(200);
    // It is renewed for each of them.
    let renewed = json!({"originalTransactionId": "200", "purchaseDate": now() - 7_000});
    let renewed = shared("201", &renewed);
    let payload = notified(&apple, "DID_RENEW", &renewed, &at(6_000));
    let told = apple_tells(&door, &apple, &payload).await;
    assert_eq!(outcome(told), "applied");
    send(&carol, &renewed).await.refused(409, "purchase_taken");
    let of_carol = shared("300", &json!({}));
    send(&carol, &of_carol).await.expect(200);
    for user in [&alice, &bob, &carol] {
        assert_eq!(plan(user).await, "pro by purchase");
    }

    // Bob leaves the family: his ends, and nobody else's. What was signed before brings nothing back.
    let revoked = and(
        renewed.clone(),
        &json!({"revocationDate": now() - 5_000, "revocationType": "FAMILY_REVOKE", "revocationReason": 0}),
    );
    let payload = notified(&apple, "REVOKE", &revoked, &at(4_000));
    let told = apple_tells(&door, &apple, &payload).await;
    assert_eq!(outcome(told), "applied");
    assert_eq!(plan(&bob).await, "free by default");
    send(&bob, &renewed).await.expect(200);
    let late = notified(&apple, "DID_RENEW", &renewed, &at(6_100));
    apple_tells(&door, &apple, &late).await.expect(200);
    assert_eq!(plan(&bob).await, "free by default");
    for user in [&alice, &carol] {
        assert_eq!(plan(user).await, "pro by purchase");
    }
    door.close().await;
}
