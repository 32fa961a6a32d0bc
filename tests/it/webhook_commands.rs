//! `tollgate webhook test`: a signed event for a running server, as each store would send it.

use crate::purchases::{open, plan};
use crate::support::apple::Apple;

#[tokio::test(flavor = "multi_thread")]
async fn a_test_event_of_each_store_is_taken_changes_nothing_and_shows_a_wrong_secret() {
    let door = open(&[&Apple::new()]).await;
    let alice = door.user("alice");
    for store in ["revenuecat", "superwall", "stripe"] {
        let doctor = door.tollgate(&["doctor"]).stdout;
        let line = |text: &str| {
            let name = format!("events of {store}");
            let mut lines = text.lines().filter(|line| line.contains(&name));
            lines.next().unwrap_or_default().to_owned()
        };
        assert!(line(&doctor).contains("none has come yet"), "{doctor}");
        let told = door.must(&["webhook", "test", store]);
        let taken = told.contains("took it") && told.contains("unchanged");
        assert!(taken, "{store}: {told}");
        let doctor = door.tollgate(&["doctor"]).stdout;
        assert!(line(&doctor).contains("the last came at"), "{doctor}");
    }
    let events = door.must(&["purchases", "--events", "--json"]);
    assert_eq!(events.lines().count(), 3, "{events}");
    assert_eq!(plan(&alice).await, "free by default");

    let other = [("STRIPE_SECRET", "whsec_another_secret_0000")];
    let refused = door.tollgate_with(&["webhook", "test", "stripe"], &other);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    let told = refused.stderr;
    assert!(
        told.contains("401") && told.contains("another secret"),
        "{told}"
    );
    let refused = door.tollgate(&["webhook", "test", "appstore"]);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("only Apple can sign"),
        "{}",
        refused.stderr
    );
    door.close().await;
}
