//! Windows, and a clock that jumps: check 16 of the threats. It runs the product under libfaketime.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::caller::{User, chat, chat_stream};
use crate::support::door::Door;
use crate::support::faketime;
use crate::support::oracle::{amount, millis};
use crate::support::reply::Talk;
use crate::support::settings::Settings;
use crate::support::tokens::now;
use crate::support::tools::{Tool, installed};

const DAY: i64 = 86_400;

/// A door whose clock the test moves.
struct Moved(Door);

impl Moved {
    async fn open(settings: Settings) -> Self {
        let door = Self(Door::prepare(faketime::movable(settings)).await);
        door.ahead(0);
        door.0.start().await;
        door
    }

    /// The product's clock is so many seconds ahead of ours from now on.
    fn ahead(&self, seconds: i64) {
        faketime::ahead(&self.0, seconds);
    }

    /// The product's clock stands at this time now, and goes on from there.
    fn at(&self, time: &str) {
        self.ahead(millis(time) / 1000 - now());
    }

    /// Alice, with a token that is good at the product's present time.
    fn alice(&self) -> User {
        self.0.user("alice")
    }

    async fn limit(&self, index: usize) -> Value {
        self.alice().me().await["limits"][index].clone()
    }
}

fn limited(limits: &str) -> Settings {
    Settings::new().with(&format!("plans.free.limits = [{limits}]"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_forth_and_back_grants_nothing_twice() {
    if !installed(&[Tool::Faketime]) {
        return;
    }
    let door = Moved::open(limited(
        r#"{ per = "day", requests = 2 }, { per = "lifetime", requests = 50 }"#,
    ))
    .await;
    for _ in 0..2 {
        door.alice().ask(chat("today")).await.expect(200);
    }
    door.alice()
        .ask(chat("today"))
        .await
        .refused(402, "quota_exceeded");
    door.ahead(30 * DAY);
    for _ in 0..2 {
        door.alice().ask(chat("in a month")).await.expect(200);
    }
    door.alice()
        .ask(chat("in a month"))
        .await
        .refused(402, "quota_exceeded");
    door.ahead(0);
    door.alice()
        .ask(chat("today again"))
        .await
        .refused(402, "quota_exceeded");
    door.ahead(-10 * DAY);
    door.alice().ask(chat("ten days ago")).await;
    let lifetime = door.limit(1).await;
    assert!(
        amount(&lifetime, "used") >= 4 && lifetime["held"] == 0,
        "{lifetime}"
    );
    door.ahead(0);
    door.0.quiet_rows().await;
    door.alice()
        .ask(chat("today again"))
        .await
        .refused(402, "quota_exceeded");
    door.0.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_under_open_streams_strands_no_hold() {
    if !installed(&[Tool::Faketime]) {
        return;
    }
    for jump in [30 * DAY, -10 * DAY] {
        let settings =
            limited(r#"{ per = "day", requests = 50 }, { per = "lifetime", cost_usd = "5" }"#)
                .with(r#"store.lease = "5s""#);
        let door = Moved::open(settings).await;
        door.0
            .upstream
            .always(|seen| Talk::words(4).every(Duration::from_millis(700)).reply(seen));
        let mut open = door.alice().open(chat_stream("open while it jumps")).await;
        open.take(2).await;
        door.ahead(jump);
        sleep(Duration::from_millis(300)).await;
        door.alice().ask(chat("after the jump")).await.expect(200);
        let answer = open.rest().await;
        let row = door.0.row(&answer).await;
        assert!(row.is_charged() && row.cost() > 0, "{row:?}");
        let lifetime = door.limit(1).await;
        assert_eq!(amount(&lifetime, "held"), 0, "{lifetime}");
        door.0.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_belongs_to_the_window_in_which_it_was_held() {
    if !installed(&[Tool::Faketime]) {
        return;
    }
    let door = Moved::open(limited(
        r#"{ per = "day", requests = 1 }, { per = "month", requests = 10 }"#,
    ))
    .await;
    door.at("2027-01-31T23:59:54Z");
    door.0
        .upstream
        .next(|seen| Talk::words(4).every(Duration::from_secs(2)).reply(seen));
    let mut open = door.alice().open(chat_stream("over midnight")).await;
    open.take(1).await;
    let before = door.limit(0).await;
    assert_eq!(
        (&before["held"], &before["resets_at"]),
        (&json!(1), &json!("2027-02-01T00:00:00Z"))
    );
    door.ahead(millis("2027-02-01T00:00:01Z") / 1000 - now());
    door.alice()
        .ask(chat("in the new window, while the other is open"))
        .await
        .expect(200);
    let answer = open.rest().await.expect(200);
    let row = door.0.row(&answer).await;
    assert!(
        row.started_at.starts_with("2027-01-31T23:59:5")
            && row.ended_at.unwrap().starts_with("2027-02-01T00:00:")
    );
    for index in [0, 1] {
        let limit = door.limit(index).await;
        assert_eq!(
            (&limit["used"], &limit["held"]),
            (&json!(1), &json!(0)),
            "only its own is in the new one: {limit}"
        );
    }
    door.alice()
        .ask(chat("in the new window"))
        .await
        .refused(402, "quota_exceeded");
    door.at("2027-01-31T23:59:54Z");
    for index in [0, 1] {
        let limit = door.limit(index).await;
        assert_eq!(
            (&limit["used"], &limit["held"]),
            (&json!(1), &json!(0)),
            "the old one has what it held: {limit}"
        );
    }
    door.alice()
        .ask(chat("in the old window"))
        .await
        .refused(402, "quota_exceeded");
    door.0.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn days_and_months_end_when_their_zone_says_so() {
    if !installed(&[Tool::Faketime]) {
        return;
    }
    for (zone, moment, day_ends, month_ends) in [
        // Clocks go forward: a day of 23 hours.
        (
            "Europe/Berlin",
            "2027-03-27T23:30:00Z",
            "2027-03-28T22:00:00Z",
            "2027-03-31T22:00:00Z",
        ),
        // Clocks go back: a day of 25 hours.
        (
            "America/New_York",
            "2027-11-07T04:30:00Z",
            "2027-11-08T05:00:00Z",
            "2027-12-01T05:00:00Z",
        ),
        // No midnight: the day begins at one.
        (
            "Africa/Cairo",
            "2027-04-29T21:30:00Z",
            "2027-04-29T22:00:00Z",
            "2027-04-30T21:00:00Z",
        ),
        // A leap day, in the zone of the date line.
        (
            "Pacific/Auckland",
            "2028-02-28T12:00:00Z",
            "2028-02-29T11:00:00Z",
            "2028-02-29T11:00:00Z",
        ),
        (
            "UTC",
            "2028-02-29T23:00:00Z",
            "2028-03-01T00:00:00Z",
            "2028-03-01T00:00:00Z",
        ),
        // The last moment of a year.
        (
            "Asia/Kolkata",
            "2026-12-31T18:29:00Z",
            "2026-12-31T18:30:00Z",
            "2026-12-31T18:30:00Z",
        ),
    ] {
        let settings = limited(r#"{ per = "day", requests = 3 }, { per = "month", requests = 9 }"#);
        let door = Moved::open(settings.with(&format!("server.time_zone = {zone:?}"))).await;
        door.at(moment);
        door.alice().ask(chat("before")).await.expect(200);
        door.0.quiet_rows().await;
        let (day, month) = (door.limit(0).await, door.limit(1).await);
        assert_eq!(
            (&day["resets_at"], &day["used"]),
            (&json!(day_ends), &json!(1)),
            "{zone} at {moment}"
        );
        assert_eq!(
            (&month["resets_at"], &month["used"]),
            (&json!(month_ends), &json!(1)),
            "{zone} at {moment}"
        );
        let last = millis(day_ends) / 1000 - 20;
        door.ahead(last - now());
        assert_eq!(
            door.limit(0).await["used"],
            1,
            "{zone}: still the same day twenty seconds before its end"
        );
        door.ahead(last + 21 - now());
        assert_eq!(door.limit(0).await["used"], 0, "{zone}: a new day");
        door.0.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn minutes_and_hours_are_those_on_the_clock() {
    if !installed(&[Tool::Faketime]) {
        return;
    }
    let door = Moved::open(limited(
        r#"{ per = "minute", requests = 1 }, { per = "hour", requests = 2 }"#,
    ))
    .await;
    door.at("2027-05-01T10:00:30Z");
    door.alice().ask(chat("a")).await.expect(200);
    let refused = door
        .alice()
        .ask(chat("a"))
        .await
        .refused(429, "rate_limited");
    let wait: i64 = refused.header("retry-after").parse().unwrap();
    assert!(
        (15..=30).contains(&wait),
        "{wait} s at half past the minute"
    );
    assert_eq!(
        refused.json()["error"]["limit"]["resets_at"],
        "2027-05-01T10:01:00Z"
    );
    door.at("2027-05-01T10:01:01Z");
    door.alice().ask(chat("a")).await.expect(200);
    door.at("2027-05-01T10:02:01Z");
    let refused = door
        .alice()
        .ask(chat("a"))
        .await
        .refused(429, "rate_limited");
    assert_eq!(refused.json()["error"]["limit"]["per"], "hour");
    door.at("2027-05-01T11:00:01Z");
    door.alice().ask(chat("a")).await.expect(200);
    door.0.close().await;
}
