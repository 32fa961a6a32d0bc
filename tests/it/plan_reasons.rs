//! `tollgate user show` says in one line why a user has their plan, and which they would have without that.

use std::time::Duration;

use serde_json::json;

use crate::purchases::{DAY, now, open, revenuecat_tells, settings, told_by_revenuecat};
use crate::support::apple::Apple;
use crate::support::caller::{User, chat};
use crate::support::door::Door;
use crate::support::postgrest::{Grants, Rest};
use crate::support::project::{Project, WAYS, until};
use crate::support::tools::{Tool, installed};

fn why(door: &Door, user: &User) -> String {
    let shown = door.must(&["user", "show", &user.id.to_string()]);
    let line = shown.lines().find(|line| line.starts_with("why"));
    line.unwrap()["why".len()..].trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_decides_is_told_with_what_would_decide_without_it() {
    let door = open(&[&Apple::new()]).await;
    let alice = door.user("alice");
    let id = alice.id.to_string();
    assert_eq!(why(&door, &alice), "free: the default");

    let tells = async |kind: &str, transaction: &str, product: &str, end: i64| {
        let more = json!({"product_id": product, "expiration_at_ms": end});
        let event = told_by_revenuecat(kind, &alice, transaction, &more);
        assert_eq!(revenuecat_tells(&door, &event).await, "applied");
    };
    let (pro, max) = ("com.example.pro", "com.example.max");
    tells("INITIAL_PURCHASE", "GPA.1", pro, now() + DAY).await;
    let told = why(&door, &alice);
    let begin = "pro: bought as com.example.pro in play_store until 20";
    assert!(told.starts_with(begin), "{told}");
    assert!(told.ends_with("; without it free: the default"), "{told}");
    alice.ask(chat("by what was bought")).await.expect(200);
    tells("INITIAL_PURCHASE", "GPA.2", max, now() + DAY).await;
    let told = why(&door, &alice);
    assert!(
        told.starts_with("max: bought as com.example.max in"),
        "{told}"
    );
    assert!(told.contains("; without it pro: bought as"), "{told}");

    door.must(&["user", "plan", &id, "free"]);
    let told = why(&door, &alice);
    let both = "free: given by an operator; without it max: bought as";
    assert!(told.starts_with(both), "{told}");
    door.must(&["user", "plan", &id, "--none"]);

    // What the last request had is not what the user has: that ended.
    tells("EXPIRATION", "GPA.1", pro, now() - 2000).await;
    tells("EXPIRATION", "GPA.2", max, now() - 1000).await;
    let told = why(&door, &alice);
    let begin = "free: the default; com.example.max in play_store ended at 20";
    assert!(told.starts_with(begin), "{told}");

    // What the token names is known by what was asked with it.
    let bob = door.user_with("bob", &json!({"app_metadata": {"plan": "pro"}}));
    bob.ask(chat("by the token")).await.expect(200);
    let by_token = "pro: the plan of the last request; without it free: the default";
    assert_eq!(why(&door, &bob), by_token);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_developers_database_is_asked_and_goes_first() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    for way in WAYS {
        let rest = Rest::with_script(Grants::New).await;
        let project = Project::prepare_on(rest, way, settings()).await;
        let door = &project.door;
        door.write_file("root.pem", &Apple::new().root_pem());
        door.start().await;
        let alice = door.user("alice");
        let event = told_by_revenuecat("INITIAL_PURCHASE", &alice, "GPA.1", &json!({}));
        assert_eq!(revenuecat_tells(door, &event).await, "applied");
        project.subscribe("alice", "'max'").await;
        let told = why(door, &alice);
        let begin = "max: named by your database; without it pro: bought as";
        assert!(told.starts_with(begin), "{way:?} {told}");
        project.subscribe("alice", "'max', null, null, false").await;
        let told = why(door, &alice);
        assert!(told.ends_with("; your database blocks this user"), "{told}");
        project.sql("delete from tollgate.subscriptions").await;
        until("nothing is named", Duration::from_secs(4), async || {
            why(door, &alice).starts_with("pro: bought as")
        })
        .await;
        project.close().await;
    }
}
