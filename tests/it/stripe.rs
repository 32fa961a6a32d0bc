//! Stripe's payments that are no subscription: what a checkout names is given once, and a refund of the payment takes its share.

use serde_json::{Value, json};

use crate::purchases::{
    credits, now, open_with, outcome, plan, row_of_whole, settings_with_credits, tell, timed,
};
use crate::support::apple::Apple;
use crate::support::caller::{User, and};
use crate::support::door::Door;
use crate::support::reply::Talk;
use crate::support::settings::Settings;
use crate::support::tools::{Tool, installed};

const COMPLETED: &str = "checkout.session.completed";
const PAID_LATER: &str = "checkout.session.async_payment_succeeded";
const REFUNDED: &str = "charge.refunded";

/// Stripe's account, as the door hears of it.
struct Stripe<'a> {
    door: &'a Door,
    is_live: bool,
}

impl Stripe<'_> {
    /// Tells of an object, at a second before now; what became of it.
    async fn tells(&self, id: &str, kind: &str, ago: i64, object: &Value) -> String {
        let seconds = now() / 1000;
        let body = json!({
            "id": id, "object": "event", "type": kind, "created": seconds - ago, "livemode": self.is_live,
            "data": {"object": object},
        });
        let header = timed("whsec_canary_stripe_1b2c", seconds, &body);
        let answer = tell(self.door, "stripe", &body, &[("Stripe-Signature", &header)]).await;
        outcome(answer)
    }
}

/// A checkout of one payment, which names credits.
fn checkout(user: &User, payment: &str, more: &Value) -> Value {
    let session = json!({
        "id": format!("cs_{payment}"), "object": "checkout.session", "mode": "payment", "payment_intent": payment,
        "customer": "cus_1", "client_reference_id": user.id, "payment_status": "paid",
        "metadata": {"product": "com.example.credits"},
    });
    and(session, more)
}

/// A charge of that payment, of which so much was refunded in all.
fn charge(payment: &str, refunded: i64) -> Value {
    json!({
        "id": format!("ch_{payment}"), "object": "charge", "payment_intent": payment, "amount": 500,
        "amount_refunded": refunded, "refunded": refunded == 500,
    })
}

fn stores() -> Vec<Settings> {
    let mut stores = vec![settings_with_credits()];
    if installed(&[Tool::Postgres]) {
        stores.push(settings_with_credits().on_postgres());
    }
    stores
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_gives_its_credits_once_and_each_refund_takes_its_share() {
    for settings in stores() {
        let door = open_with(settings, &[&Apple::new()]).await;
        door.upstream.always(|seen| Talk::to_the_cap().reply(seen));
        let erin = door.user("erin");
        let stripe = Stripe {
            door: &door,
            is_live: true,
        };
        let paid = checkout(&erin, "pi_1", &json!({}));
        let told = stripe.tells("evt_1", COMPLETED, 60, &paid).await;
        assert_eq!(
            (told.as_str(), credits(&erin).await),
            ("applied", Some(2000))
        );
        // The same event, and another one about the same payment.
        let told = stripe.tells("evt_1", COMPLETED, 60, &paid).await;
        assert_eq!(told, "repeated");
        stripe.tells("evt_2", PAID_LATER, 59, &paid).await;
        assert_eq!(credits(&erin).await, Some(2000));

        let row = row_of_whole(&door, &erin).await;
        assert_eq!(row.paid_by.as_deref(), Some("credits"), "{row:?}");
        let left = 2000 - row.cost();
        assert_eq!(credits(&erin).await, Some(left));

        // A fifth is refunded, then all: what is left, and no debt.
        let told = stripe
            .tells("evt_3", REFUNDED, 30, &charge("pi_1", 100))
            .await;
        assert_eq!(
            (told.as_str(), credits(&erin).await),
            ("applied", Some(left - 400))
        );
        stripe
            .tells("evt_4", REFUNDED, 20, &charge("pi_1", 500))
            .await;
        // Stripe keeps no order: what was said before comes after.
        stripe
            .tells("evt_5", REFUNDED, 31, &charge("pi_1", 50))
            .await;
        assert_eq!(credits(&erin).await.unwrap_or_default(), 0);
        let row = row_of_whole(&door, &erin).await;
        assert_eq!(row.paid_by.as_deref(), Some("plan"), "{row:?}");
        door.must(&["ledger", "check"]);
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_comes_before_its_payment_and_money_that_never_came_count_as_well() {
    let door = open_with(settings_with_credits(), &[&Apple::new()]).await;
    let erin = door.user("erin");
    let stripe = Stripe {
        door: &door,
        is_live: true,
    };
    // By bank transfer: the checkout is over before the money is there.
    let owed = json!({"payment_status": "unpaid"});
    let told = stripe
        .tells("evt_1", COMPLETED, 60, &checkout(&erin, "pi_1", &owed))
        .await;
    assert_eq!((told.as_str(), credits(&erin).await), ("unchanged", None));
    let paid = checkout(&erin, "pi_1", &json!({}));
    stripe.tells("evt_2", PAID_LATER, 50, &paid).await;
    assert_eq!(credits(&erin).await, Some(2000));

    // Half of another payment is refunded, and that is told first.
    stripe
        .tells("evt_3", REFUNDED, 10, &charge("pi_2", 250))
        .await;
    assert_eq!(credits(&erin).await, Some(2000));
    let paid = checkout(&erin, "pi_2", &json!({}));
    stripe.tells("evt_4", COMPLETED, 20, &paid).await;
    assert_eq!(credits(&erin).await, Some(3000));
    // All of a third: it never gives any.
    stripe
        .tells("evt_5", REFUNDED, 10, &charge("pi_3", 500))
        .await;
    let paid = checkout(&erin, "pi_3", &json!({}));
    stripe.tells("evt_6", COMPLETED, 20, &paid).await;
    assert_eq!(credits(&erin).await, Some(3000));

    // Whose a customer is was said by the first checkout.
    let customers = json!({"client_reference_id": null});
    let paid = checkout(&erin, "pi_4", &customers);
    stripe.tells("evt_7", COMPLETED, 5, &paid).await;
    assert_eq!(credits(&erin).await, Some(5000));

    // Test mode is the sandbox, and a payment for what is no product gives nothing.
    let test = Stripe {
        door: &door,
        is_live: false,
    };
    let paid = checkout(&erin, "pi_5", &json!({}));
    test.tells("evt_8", COMPLETED, 5, &paid).await;
    let mug = json!({"metadata": {"product": "mug"}});
    stripe
        .tells("evt_9", COMPLETED, 5, &checkout(&erin, "pi_6", &mug))
        .await;
    let nothing = json!({"metadata": {}});
    let nothing = checkout(&erin, "pi_7", &nothing);
    assert_eq!(
        stripe.tells("evt_10", COMPLETED, 5, &nothing).await,
        "unchanged"
    );
    assert_eq!(credits(&erin).await, Some(5000));

    // The refund of a subscription's invoice is nobody's here, and shows no purchase.
    let invoice = charge("pi_8", 500);
    stripe.tells("evt_11", REFUNDED, 5, &invoice).await;
    assert_eq!(plan(&erin).await, "free by default");
    let shown = door.must(&["purchases", "--json"]);
    assert!(!shown.contains("pi_8"), "{shown}");
    door.must(&["ledger", "check"]);
    door.close().await;
}
