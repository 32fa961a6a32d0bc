//! Random histories of one subscription, told in any order, twice, and by several channels, against a model that is told them once
//! and in order.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a model of small numbers, in a test"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use super::chain::Chain;
use super::event::{PurchaseEvent, PurchaseState, Rules, user_named};
use super::records::{self, Outcome};
use super::{appstore, jws, revenuecat, stripe, superwall};
use crate::clock::{Clock, Timestamp};
use crate::config::{AppStore, StoreUrl};
use crate::ledger::read::report::{Desk, Reports};
use crate::ledger::{Ledger, Settings};
use crate::plan::{Product, Products, Purchase};
use crate::x509::TrustedRoot;

const USER: &str = "0b9c7c1e-96f3-4f0c-8f2e-0d9f4c8a7e11";
const DAY: i64 = 86_400_000;
const START: i64 = 1_790_000_000_000;

/// A generator of its own for each history.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    fn shuffle<T>(&mut self, things: &mut [T]) {
        for last in (1..things.len()).rev() {
            let other = self.roll(last as u64 + 1) as usize;
            things.swap(last, other);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Buy,
    Renew,
    Fail,
    Over,
    Off,
    On,
    Upgrade,
    Refund,
    Reverse,
    Extend,
}

#[derive(Clone, Debug)]
struct Step {
    kind: Kind,
    at: i64,
    transaction: String,
    product: &'static str,
    bought: i64,
    until: i64,
    grace: Option<i64>,
}

/// What may happen to a subscription, in order.
fn history(dice: &mut Dice) -> Vec<Step> {
    let mut steps = vec![Step {
        kind: Kind::Buy,
        at: START,
        transaction: "1".to_owned(),
        product: "basic",
        bought: START,
        until: START + 30 * DAY,
        grace: None,
    }];
    let mut number = 1;
    let mut is_back = true;
    for _ in 0..dice.roll(12) {
        let last = steps.last().unwrap().clone();
        let next = |kind, at| Step {
            kind,
            at,
            grace: None,
            ..last.clone()
        };
        let mut renewed = |kind, at, bought, product| {
            number += 1;
            is_back = true;
            Step {
                kind,
                at,
                transaction: number.to_string(),
                product,
                bought,
                until: bought + 30 * DAY,
                grace: None,
            }
        };
        let soon = last.at + 1000 + dice.roll(5 * DAY as u64) as i64;
        let end = last.until.max(last.at + 1000);
        let is_over = matches!(last.kind, Kind::Over | Kind::Refund);
        steps.push(match dice.roll(9) {
            _ if last.kind == Kind::Refund && dice.roll(2) == 0 => next(Kind::Reverse, soon),
            _ if is_over => renewed(Kind::Renew, soon, soon, last.product),
            _ if last.kind == Kind::Fail && dice.roll(2) == 0 => {
                let at = last.grace.unwrap();
                next(Kind::Over, at)
            }
            _ if last.kind == Kind::Fail => renewed(Kind::Renew, soon, soon, last.product),
            0 | 1 => renewed(Kind::Renew, end, end, last.product),
            2 => Step {
                grace: Some(end + 6 * DAY),
                ..next(Kind::Fail, end)
            },
            3 => next(Kind::Over, end),
            4 if soon < last.until => next(Kind::Off, soon),
            5 if soon < last.until => next(Kind::On, soon),
            6 if last.product == "basic" && soon < last.until => {
                renewed(Kind::Upgrade, soon, soon, "top")
            }
            7 => Step {
                until: last.until + 7 * DAY,
                ..next(Kind::Extend, soon.min(last.until))
            },
            _ => next(Kind::Refund, soon),
        });
        // Nothing happens at the same moment as something else.
        let count = steps.len();
        let before = steps[count - 2].at;
        let last = &mut steps[count - 1];
        last.at = last.at.max(before + 1000);
    }
    steps
}

/// The same, told once and in order: until when each transaction counts.
fn model(steps: &[Step]) -> BTreeMap<String, (&'static str, i64)> {
    let mut counts: BTreeMap<String, (&'static str, i64)> = BTreeMap::new();
    for step in steps {
        let until = match step.kind {
            Kind::Buy | Kind::Renew | Kind::Reverse | Kind::Extend => step.until,
            Kind::Fail => step.grace.unwrap(),
            Kind::Over => step.until.min(step.at),
            Kind::Refund => step.at,
            Kind::Off | Kind::On => continue,
            Kind::Upgrade => {
                for (product, until) in counts.values_mut() {
                    if *product != step.product {
                        *until = step.at.min(*until);
                    }
                }
                step.until
            }
        };
        let id = step.transaction.clone();
        counts.insert(id, (step.product, until));
    }
    counts
}

fn by_apple(step: &Step) -> PurchaseEvent {
    let (kind, subtype) = match step.kind {
        Kind::Buy => ("SUBSCRIBED", "INITIAL_BUY"),
        Kind::Renew => ("DID_RENEW", ""),
        Kind::Fail => ("DID_FAIL_TO_RENEW", "GRACE_PERIOD"),
        Kind::Over => ("EXPIRED", "VOLUNTARY"),
        Kind::Off => ("DID_CHANGE_RENEWAL_STATUS", "AUTO_RENEW_DISABLED"),
        Kind::On => ("DID_CHANGE_RENEWAL_STATUS", "AUTO_RENEW_ENABLED"),
        Kind::Upgrade => ("DID_CHANGE_RENEWAL_PREF", "UPGRADE"),
        Kind::Refund => ("REFUND", ""),
        Kind::Reverse => ("REFUND_REVERSED", ""),
        Kind::Extend => ("RENEWAL_EXTENDED", ""),
    };
    let id = format!("{kind}-{}", step.at);
    let payload = json!({
        "notificationType": kind, "subtype": subtype, "notificationUUID": id, "signedDate": step.at,
    });
    let mut bought = json!({
        "transactionId": step.transaction, "originalTransactionId": "1", "bundleId": "com.example",
        "productId": step.product, "purchaseDate": step.bought, "expiresDate": step.until,
        "appAccountToken": USER, "environment": "Production", "signedDate": step.at,
    });
    if step.kind == Kind::Refund {
        bought["revocationDate"] = json!(step.at);
    }
    let renewal = json!({ "gracePeriodExpiresDate": step.grace });
    appstore::unsigned(payload, bought, renewal)
}

/// RevenueCat tells a little later, and an upgrade in two events.
fn by_revenuecat(step: &Step) -> Vec<PurchaseEvent> {
    let kinds: &[&str] = match step.kind {
        Kind::Buy => &["INITIAL_PURCHASE"],
        Kind::Renew => &["RENEWAL"],
        Kind::Fail => &["BILLING_ISSUE"],
        Kind::Over => &["EXPIRATION"],
        Kind::Off | Kind::Refund => &["CANCELLATION"],
        Kind::On => &["UNCANCELLATION"],
        Kind::Upgrade => &["PRODUCT_CHANGE", "RENEWAL"],
        Kind::Reverse => &["REFUND_REVERSED"],
        Kind::Extend => &["SUBSCRIPTION_EXTENDED"],
    };
    let reason = match step.kind {
        Kind::Refund => "CUSTOMER_SUPPORT",
        _ => "UNSUBSCRIBE",
    };
    let told = |kind: &&str| {
        let body = json!({ "api_version": "1.0", "event": {
            "id": format!("{kind}-{}", step.at), "type": kind, "event_timestamp_ms": step.at + 300,
            "app_user_id": "$RCAnonymousID:1", "aliases": ["$RCAnonymousID:1", USER.to_ascii_uppercase()],
            "product_id": step.product, "purchased_at_ms": step.bought, "expiration_at_ms": step.until,
            "grace_period_expiration_at_ms": step.grace, "environment": "PRODUCTION", "store": "APP_STORE",
            "transaction_id": step.transaction, "original_transaction_id": "1", "cancel_reason": reason,
        }});
        revenuecat::event(body.to_string().as_bytes()).unwrap()
    };
    kinds.iter().map(told).collect()
}

/// Superwall tells later still, and knows neither grace nor what was reversed or extended: no history with those is told by it.
fn by_superwall(step: &Step) -> Option<PurchaseEvent> {
    let kind = match step.kind {
        Kind::Buy => "initial_purchase",
        Kind::Renew | Kind::Upgrade => "renewal",
        Kind::Over => "expiration",
        Kind::Off | Kind::Refund => "cancellation",
        Kind::On => "uncancellation",
        Kind::Fail | Kind::Reverse | Kind::Extend => return None,
    };
    let price = if step.kind == Kind::Refund {
        -9.99
    } else {
        9.99
    };
    let body = json!({ "object": "event", "type": kind, "timestamp": step.at + 600, "data": {
        "name": kind, "productId": step.product, "purchasedAt": step.bought, "expirationAt": step.until,
        "originalAppUserId": USER, "environment": "PRODUCTION", "store": "APP_STORE", "price": price,
        "transactionId": step.transaction, "originalTransactionId": "1",
    }});
    let id = format!("{kind}-{}", step.at);
    Some(superwall::event(&id, body.to_string().as_bytes()).unwrap())
}

/// What is told of a history: by one channel or several, some of it twice, in any order.
fn told(steps: &[Step], dice: &mut Dice) -> Vec<PurchaseEvent> {
    let by_superwall: Option<Vec<PurchaseEvent>> = steps.iter().map(by_superwall).collect();
    // Bits: who tells of it; at least one does.
    let channels = match &by_superwall {
        Some(_) => dice.roll(7) + 1,
        None => dice.roll(3) + 1,
    };
    let mut events = Vec::new();
    for step in steps {
        if channels & 1 != 0 {
            events.push(by_apple(step));
        }
        if channels & 2 != 0 {
            events.extend(by_revenuecat(step));
        }
    }
    if channels & 4 != 0 {
        events.extend(by_superwall.into_iter().flatten());
    }
    let twice: Vec<PurchaseEvent> = events
        .iter()
        .filter(|_| dice.roll(3) == 0)
        .cloned()
        .collect();
    events.extend(twice);
    dice.shuffle(&mut events);
    events
}

/// Products that count at a moment.
fn counted(model: &BTreeMap<String, (&'static str, i64)>, now: i64) -> Vec<String> {
    let live = model.values().filter(|(_, until)| now < *until);
    let mut live: Vec<String> = live.map(|(product, _)| (*product).to_owned()).collect();
    live.sort();
    live.dedup();
    live
}

fn moments(steps: &[Step]) -> Vec<i64> {
    let end = steps.last().unwrap().at + 1000;
    [0, 1, 5, 8, 20, 31, 40].map(|days| end + days * DAY).into()
}

#[test]
fn a_history_told_in_any_order_twice_and_by_several_channels_ends_as_it_is_in_order() {
    for seed in 0..1000 {
        let mut dice = Dice(seed);
        let steps = history(&mut dice);
        let mut chain = Chain::default();
        for event in told(&steps, &mut dice) {
            chain.take(event.change.as_ref().unwrap(), event.at);
        }
        assert_eq!(chain.user(|_| Vec::new()), user_named(USER));
        let model = model(&steps);
        for now in moments(&steps) {
            let ends = |row| chain.ends_at(row).map_or(i64::MAX, Timestamp::millis);
            let live = chain.rows.values().filter(|row| now < ends(row));
            let products = live.map(|row| row.facts.as_ref().unwrap().1.product.clone());
            let mut products: Vec<String> = products.collect();
            products.sort();
            products.dedup();
            assert_eq!(
                products,
                counted(&model, now),
                "seed {seed} at {now}: {steps:#?}"
            );
        }
    }
}

/// What a status of Stripe's makes of a subscription whose period goes on.
const STRIPE_STATUSES: [(&str, bool); 6] = [
    ("active", true),
    ("trialing", true),
    ("past_due", true),
    ("unpaid", false),
    ("canceled", false),
    ("paused", false),
];

#[test]
fn a_subscription_of_stripe_told_in_any_order_and_twice_ends_as_it_is_in_order() {
    let products = Products::default();
    let rules = stripe::StripeRules {
        products: &products,
        grace: Duration::from_hours(24 * 7),
    };
    for seed in 0..1000 {
        let mut dice = Dice(seed);
        let (start, mut second) = (START / 1000, START / 1000);
        let mut counts = false;
        let mut events = Vec::new();
        let checkout = json!({"id": "cs_1", "customer": "cus_1", "client_reference_id": USER,
            "subscription": "sub_1", "mode": "subscription"});
        let mut tell = |kind: &str, second: i64, object: &serde_json::Value| {
            let body = json!({"id": format!("{kind}-{second}"), "type": kind, "created": second, "livemode": true,
                "data": {"object": object}});
            events.push(stripe::event(body.to_string().as_bytes(), rules).unwrap());
        };
        tell(
            "checkout.session.completed",
            second + dice.roll(100) as i64,
            &checkout,
        );
        for number in 0..=dice.roll(10) {
            // A new one and its first change may be of one second.
            second += if number == 1 {
                dice.roll(2) as i64
            } else {
                1 + dice.roll(1000) as i64
            };
            let (mut status, mut is_live) = STRIPE_STATUSES[dice.roll(6) as usize];
            let kind = match number {
                0 => "customer.subscription.created",
                _ if dice.roll(9) == 0 => "customer.subscription.deleted",
                _ => "customer.subscription.updated",
            };
            if kind.ends_with("deleted") {
                (status, is_live) = ("canceled", false);
            }
            counts = is_live;
            let object = json!({"id": "sub_1", "customer": "cus_1", "status": status, "items": {"data": [{
                "current_period_start": start, "current_period_end": start + 30 * 86_400,
                "price": {"id": "price_1"}}]}});
            tell(kind, second, &object);
            if kind.ends_with("deleted") {
                break;
            }
        }
        let twice: Vec<PurchaseEvent> = events
            .iter()
            .filter(|_| dice.roll(3) == 0)
            .cloned()
            .collect();
        events.extend(twice);
        dice.shuffle(&mut events);
        let mut chain = Chain::default();
        for event in &events {
            chain.take(event.change.as_ref().unwrap(), event.at);
        }
        assert_eq!(chain.user(|_| Vec::new()), user_named(USER), "seed {seed}");
        let later = Timestamp::from_secs(second + 1);
        assert_eq!(chain.is_live(later), counts, "seed {seed}: {events:#?}");
    }
}

/// A ledger in a folder of its own.
fn ledger() -> (StoreUrl, crate::ledger::Writer, std::path::PathBuf) {
    let folder = std::env::temp_dir().join(format!("tollgate-purchases-{}", Uuid::now_v7()));
    let store = StoreUrl::Sqlite(folder.join("ledger.db"));
    let settings = Settings {
        store: store.clone(),
        outbox: false,
        lease: Duration::from_mins(1),
        keep_requests: Duration::from_hours(24 * 400),
        time_zone: jiff::tz::TimeZone::UTC,
    };
    let (_, writer) = Ledger::open(settings, Clock::system()).unwrap();
    (store, writer, folder)
}

const fn rules(products: &Products) -> Rules<'_> {
    let now = Timestamp::from_millis(START);
    Rules { products, now }
}

fn owned(reports: &Reports, user: Uuid, now: i64) -> Vec<Purchase> {
    let now = Timestamp::from_millis(now);
    reports.said_of(user, now).unwrap().purchases
}

/// How many histories are told to a ledger, where `just purchases` does not say another number.
fn histories(usually: u64) -> u64 {
    #[allow(
        clippy::disallowed_methods,
        reason = "how long a test takes is no setting"
    )]
    let said = std::env::var("TOLLGATE_PURCHASE_HISTORIES");
    said.map_or(usually, |said| said.parse().unwrap())
}

#[test]
fn the_rows_of_a_ledger_say_the_same_and_an_event_is_taken_once() {
    let (store, writer, folder) = ledger();
    rows_say_the_same(&store, histories(200));
    writer.close();
    drop(std::fs::remove_dir_all(folder));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rows_of_a_ledger_on_postgres_say_the_same() {
    let Some(server) = crate::pg::tests::Postgres::start(&[]) else {
        return;
    };
    let store = StoreUrl::Postgres(server.url(""));
    // Each question is planned anew there: a history takes sixty milliseconds.
    tokio::task::block_in_place(|| rows_say_the_same(&store, histories(50)));
}

/// So many histories are told in one transaction: what a commit costs is not what is tried here.
const HISTORIES_AT_ONCE: usize = 50;
/// The first of them are told as a store tells them, each event in a transaction of its own.
const HISTORIES_ALONE: u64 = 5;

fn rows_say_the_same(store: &StoreUrl, histories: u64) {
    let (desk, reports) = (
        Desk::open_or_make(store).unwrap().0,
        Reports::open(store).unwrap(),
    );
    let products = Products::default();
    let rules = rules(&products);
    for seed in 0..HISTORIES_ALONE {
        let history = History::of(seed);
        let take = |event: &PurchaseEvent| records::take(&desk, event, rules, false).unwrap();
        history.is_taken_once(take);
        history.stands_in_rows(&reports);
    }
    let seeds: Vec<u64> = (HISTORIES_ALONE..histories).collect();
    for seeds in seeds.chunks(HISTORIES_AT_ONCE) {
        let told: Vec<History> = seeds.iter().map(|seed| History::of(*seed)).collect();
        let told_at_once = desk.db().in_transaction(|db| {
            for history in &told {
                let take =
                    |event: &PurchaseEvent| records::take_within(db, event, rules, false).unwrap();
                history.is_taken_once(take);
            }
            Ok(())
        });
        told_at_once.unwrap();
        for history in &told {
            history.stands_in_rows(&reports);
        }
    }
}

/// A history of a user of its own, and what is told of it.
struct History {
    seed: u64,
    user: Uuid,
    steps: Vec<Step>,
    events: Vec<PurchaseEvent>,
}

impl History {
    fn of(seed: u64) -> Self {
        let mut dice = Dice(seed * 7919);
        let steps = history(&mut dice);
        let user = Uuid::from_u128(u128::from(seed) + 1);
        let mut events = told(&steps, &mut dice);
        for event in &mut events {
            event.id = format!("{seed}-{}", event.id);
            if let Some(change) = &mut event.change {
                change.owner = Some(user.to_string());
                change.original = format!("{seed}-{}", change.original);
                change.transaction = format!("{seed}-{}", change.transaction);
            }
        }
        Self {
            seed,
            user,
            steps,
            events,
        }
    }

    fn is_taken_once(&self, take: impl Fn(&PurchaseEvent) -> records::EventEffect) {
        let again = |event: &&PurchaseEvent| take(event).outcome == Outcome::Repeated;
        let again = self.events.iter().filter(again).count();
        let ids = self.events.iter().map(|event| (event.channel, &event.id));
        let mut ids: Vec<_> = ids.collect();
        ids.sort();
        ids.dedup();
        assert_eq!(again, self.events.len() - ids.len());
    }

    fn stands_in_rows(&self, reports: &Reports) {
        let model = model(&self.steps);
        // At every moment; of the later ones at two that differ from one history to the next.
        let step = if self.seed < 30 { 1 } else { 4 };
        let first = self.seed as usize % step;
        for now in moments(&self.steps).into_iter().skip(first).step_by(step) {
            let mut products: Vec<String> = owned(reports, self.user, now)
                .into_iter()
                .map(|purchase| purchase.product)
                .collect();
            products.sort();
            products.dedup();
            let seed = self.seed;
            assert_eq!(products, counted(&model, now), "seed {seed} at {now}");
        }
    }
}

fn transfer(from: &str, to: &str, at: i64) -> PurchaseEvent {
    let body = json!({ "event": {
        "id": format!("transfer-{at}"), "type": "TRANSFER", "event_timestamp_ms": at,
        "transferred_from": [from], "transferred_to": ["$RCAnonymousID:9", to],
    }});
    revenuecat::event(body.to_string().as_bytes()).unwrap()
}

#[test]
fn a_transfer_moves_what_was_bought_before_it_in_whatever_order_both_come() {
    let (store, writer, folder) = ledger();
    let (desk, reports) = (Desk::open(&store).unwrap(), Reports::open(&store).unwrap());
    let basic = Product {
        plan: Some("basic".to_owned()),
        ..Product::default()
    };
    let products = Products {
        by_name: [("basic".to_owned(), basic)].into(),
        sandbox_plan: None,
    };
    let [alice, bob, carol] = [1_u128, 2, 3].map(|number| Uuid::from_u128(number << 100 | number));
    let bought = |id: &str, owner: &str, at: i64| {
        let body = json!({ "event": {
            "id": format!("buy-{id}"), "type": "INITIAL_PURCHASE", "event_timestamp_ms": at, "app_user_id": owner,
            "product_id": "basic", "purchased_at_ms": at, "environment": "PRODUCTION", "store": "PLAY_STORE",
            "transaction_id": id,
        }});
        revenuecat::event(body.to_string().as_bytes()).unwrap()
    };
    let name = alice.to_string();
    let take =
        |event: &PurchaseEvent| records::take(&desk, event, rules(&products), false).unwrap();
    let events = [
        transfer(&bob.to_string(), &carol.to_string(), START + 20),
        bought("before", &name, START),
        transfer(&name, &bob.to_string(), START + 10),
        bought("late", &name, START + 5),
        bought("after", &name, START + 30),
        bought("nobody", "$RCAnonymousID:7", START + 40),
    ];
    let outcomes = events.each_ref().map(|event| take(event).outcome);
    assert_eq!(outcomes[5], Outcome::NoUser);
    let of = |user| owned(&reports, user, START + 50).len();
    assert_eq!([of(alice), of(bob), of(carol)], [1, 0, 2]);
    // A name that stands for nobody belongs to whoever it is moved to, whenever it was bought.
    let taken = take(&transfer("$RCAnonymousID:7", &name, START + 35));
    assert_eq!(
        (taken.outcome, taken.users),
        (Outcome::Applied, vec![alice])
    );
    assert_eq!(of(alice), 2);
    writer.close();
    drop(std::fs::remove_dir_all(folder));
}

/// Where Apple's own test data lies, if somebody has it: it is no part of the project.
fn vectors() -> Option<std::path::PathBuf> {
    #[allow(
        clippy::disallowed_methods,
        reason = "where test data lies is no setting"
    )]
    let named = std::env::var_os("TOLLGATE_APPSTORE_VECTORS").map(std::path::PathBuf::from);
    let beside =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors/appstore");
    let found = named.or(Some(beside)).filter(|path| path.is_dir());
    if found.is_none() {
        use std::io::Write;
        let line = "NOT CHECKED: Apple's own signed test data: TOLLGATE_APPSTORE_VECTORS names no directory with it\n";
        // Past the harness, which shows what a test prints only when it fails.
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
    found
}

#[test]
fn what_apples_own_test_authority_signed_is_taken_with_its_root_and_never_without() {
    let Some(place) = vectors() else { return };
    let read = |name: &str| std::fs::read_to_string(place.join(name)).unwrap();
    let signed = |name: &str| read(name).trim().to_owned();
    let root = std::fs::read(place.join("testCA.der")).unwrap();
    let trust = |bundle: &str, roots: &[TrustedRoot]| AppStore {
        bundle_ids: vec![bundle.to_owned()],
        app_apple_id: Some(1234),
        roots: roots.to_vec(),
    };
    let roots = [TrustedRoot::from_der(&root).unwrap()];
    for name in ["transactionInfo", "renewalInfo"] {
        let (value, by): (serde_json::Value, _) = jws::verify(&signed(name), &roots).unwrap();
        assert_eq!(
            (&value["environment"], by),
            (&json!("Sandbox"), jws::Signer::Store)
        );
        jws::verify::<serde_json::Value>(&signed(name), &[]).unwrap_err();
    }
    let told = |name: &str, trust: &AppStore| {
        let body = json!({ "signedPayload": signed(name) });
        appstore::notification(body.to_string().as_bytes(), trust)
    };
    let ours = trust("com.example", &roots);
    let event = told("testNotification", &ours).unwrap();
    assert_eq!((event.kind.as_str(), &event.change), ("TEST", &None));
    told("testNotification", &trust("com.example", &[])).unwrap_err();
    told("testNotification", &trust("com.example.other", &roots)).unwrap_err();
    for name in [
        "wrongBundleId",
        "missingX5CHeaderClaim",
        "transactionInfo",
        "legacyTransaction",
    ] {
        told(name, &ours).unwrap_err();
    }
    // A byte of the signature, of what was signed, of a certificate.
    let good = signed("transactionInfo");
    for place in [good.len() - 5, good.rfind('.').unwrap() - 5, 200] {
        let mut bent = good.clone().into_bytes();
        bent[place] = if bent[place] == b'A' { b'B' } else { b'A' };
        let bent = String::from_utf8(bent).unwrap();
        jws::verify::<serde_json::Value>(&bent, &roots).unwrap_err();
    }
    // What nobody signed: the members are as Apple names them.
    let json_of = |name: &str| serde_json::from_str(&read(name)).unwrap();
    let mut payload: serde_json::Value = json_of("signedNotification.json");
    payload["signedDate"] = json!(1_698_148_900_000_i64);
    let renewal = json_of("signedRenewalInfo.json");
    let event = appstore::unsigned(payload, json_of("signedTransaction.json"), renewal);
    let change = event.change.unwrap();
    assert_eq!(event.kind, "SUBSCRIBED");
    assert_eq!(
        (change.transaction.as_str(), change.original.as_str()),
        ("23456", "12345")
    );
    assert!(change.facts.unwrap().is_sandbox && change.will_renew.is_some());
    let refund = json!({"notificationType": "REFUND", "notificationUUID": "1", "signedDate": 1_698_148_950_000_i64});
    let bought = json_of("signedTransactionWithRevocation.json");
    let change = appstore::unsigned(refund, bought, json!({}))
        .change
        .unwrap();
    let state = change.state.unwrap().state;
    assert!(matches!(state, PurchaseState::Revoked { .. }), "{state:?}");
}
