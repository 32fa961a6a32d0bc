//! The outbox with a real ledger and a `log_request` that fails, hangs, forgets to answer and refuses.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use jiff::tz::TimeZone;
use uuid::Uuid;

use super::*;
use crate::clock::{Clock, Timestamp};
use crate::config::StoreUrl;
use crate::ledger::purchase_queue::PurchaseQueue;
use crate::ledger::read::report::{Desk, ReportRange, Reports};
use crate::ledger::{Charge, HoldRequest, Lag, Settings, Settlement, Writer, versioned};
use crate::plan::{Product, Products, Quote};
use crate::price::{MicroUsd, Price, Rate, Rates, Usage};
use crate::purchases::event::{
    Channel, Facts, PurchaseChange, PurchaseEvent, PurchaseState, ReportedState, Rules,
};
use crate::purchases::records;

/// A ledger's file, gone with the test.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("tollgate-outbox-{}.db", Uuid::now_v7())))
    }

    fn open(&self, outbox: bool) -> (Ledger, Writer) {
        let settings = Settings {
            store: StoreUrl::Sqlite(self.0.clone()),
            lease: Duration::from_mins(1),
            keep_requests: Duration::from_hours(24 * 400),
            time_zone: TimeZone::UTC,
            outbox,
        };
        Ledger::open(settings, Clock::system()).unwrap()
    }

    /// The ids of ended rows by user, in the order in which they ended.
    fn ended(&self) -> BTreeMap<String, Vec<String>> {
        let mut rows = Vec::new();
        let each = |row| -> Result<(), Failure> {
            rows.push(row);
            Ok(())
        };
        Reports::open(&StoreUrl::Sqlite(self.0.clone()))
            .unwrap()
            .requests(ReportRange::default(), each)
            .unwrap();
        rows.retain(|row| row.state == "settled" || row.state == "lost");
        rows.sort_by_key(|row| {
            (
                Timestamp::parse(row.ended_at.as_ref().unwrap()).unwrap(),
                row.id.clone(),
            )
        });
        let mut by_user = BTreeMap::<_, Vec<_>>::new();
        for row in rows {
            by_user.entry(row.user_id).or_default().push(row.id);
        }
        by_user
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-shm", ".lock"] {
            let mut name = self.0.clone().into_os_string();
            name.push(suffix);
            drop(std::fs::remove_file(name));
        }
    }
}

fn price() -> Price {
    let (input, output) = (Rate(150_000), Rate(600_000));
    let rates = Rates {
        input,
        cached_input: input,
        cache_write: input,
        output,
        ..Rates::default()
    };
    Price {
        rates,
        ..Price::default()
    }
}

/// Holds and ends one request of a user; gives back its id.
async fn request(ledger: &Ledger, user: u128, charge: Charge) -> String {
    let request = HoldRequest {
        id: Uuid::now_v7(),
        user_id: Uuid::from_u128(user),
        now: Clock::system().now(),
        plan: "free".to_owned(),
        endpoint: "/api/chat".into(),
        model: "m".to_owned(),
        plan_model: None,
        requested_model: Some("asked-for".to_owned()),
        feature: Some("coach".to_owned()),
        prompt_version: None,
        upstream: "u".to_owned(),
        quote: Quote {
            price: price(),
            base: Usage::of_input(100),
            output_cap: 100,
            output_floor: 64,
            choices: 1,
        },
        limits: Vec::new(),
        concurrent: None,
        ceiling: None,
        idempotency: None,
        replaces: None,
        credits: false,
    };
    let reservation = ledger.hold(request).await.unwrap();
    let id = reservation.id().to_string();
    reservation.end(Settlement {
        charge,
        flags: Vec::new(),
        ttft_ms: Some(7),
    });
    id
}

fn settled() -> Charge {
    let usage = Usage {
        input_tokens: 10,
        output_tokens: 5,
        ..Usage::default()
    };
    Charge::Settled {
        usage,
        cost: MicroUsd(42),
    }
}

/// What the fake does with a call.
#[derive(Clone, Copy, Debug)]
enum Act {
    Take,
    Fail,
    Hang,
    TakeAndFail,
    TakeAndHang,
}

/// A `log_request` that is idempotent by id, and what it saw.
struct Fake {
    act: Box<dyn FnMut(usize) -> Act + Send>,
    /// Refused whatever happens.
    poison: HashSet<String>,
    refuse_all: bool,
    /// Ids in the order in which they were first taken.
    applied: BTreeMap<String, Vec<String>>,
    entries: Vec<Value>,
    /// How many entries each call carried.
    calls: Vec<usize>,
    /// How often something was delivered that had already been taken.
    again: usize,
}

type Shared = Arc<Mutex<Fake>>;

impl Fake {
    fn new(act: impl FnMut(usize) -> Act + Send + 'static) -> Shared {
        Arc::new(Mutex::new(Self {
            act: Box::new(act),
            poison: HashSet::new(),
            refuse_all: false,
            applied: BTreeMap::new(),
            entries: Vec::new(),
            calls: Vec::new(),
            again: 0,
        }))
    }

    fn call(&mut self, entries: &[Value]) -> Option<Result<(), DatabaseFailure>> {
        self.calls.push(entries.len());
        let act = (self.act)(self.calls.len());
        let down = || Some(Err(DatabaseFailure::Unavailable("down".to_owned())));
        if matches!(act, Act::Fail | Act::Hang) {
            return if matches!(act, Act::Hang) {
                None
            } else {
                down()
            };
        }
        let text = |entry: &Value, field: &str| entry[field].as_str().unwrap().to_owned();
        if self.refuse_all
            || entries
                .iter()
                .any(|entry| self.poison.contains(&text(entry, "id")))
        {
            return Some(Err(DatabaseFailure::Refused("P0001".to_owned())));
        }
        for entry in entries {
            let ids = self.applied.entry(text(entry, "user_id")).or_default();
            if ids.contains(&text(entry, "id")) {
                self.again = self.again.saturating_add(1);
                continue;
            }
            ids.push(text(entry, "id"));
            self.entries.push(entry.clone());
        }
        match act {
            Act::TakeAndHang => None,
            Act::TakeAndFail => down(),
            _ => Some(Ok(())),
        }
    }
}

fn count(fake: &Shared) -> usize {
    fake.lock().unwrap().entries.len()
}

fn outbox(ledger: &Ledger, fake: &Shared) -> Outbox {
    let timing = OutboxTiming {
        poll: Duration::from_millis(20),
        gather: Duration::from_millis(1),
        call_timeout: Duration::from_millis(20),
        renew_turn_after: Duration::from_millis(5),
        backoff: Backoff::new(Duration::from_millis(1), Duration::from_millis(8)),
    };
    with_pace(ledger, fake, timing)
}

fn with_pace(ledger: &Ledger, fake: &Shared, timing: OutboxTiming) -> Outbox {
    let fake = fake.clone();
    let deliver = move |entries: Vec<Value>| -> Delivery {
        let answer = fake.lock().unwrap().call(&entries);
        Box::pin(async move {
            match answer {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        })
    };
    Outbox::with_pace(
        EntryQueue::Requests(ledger.clone()),
        Box::new(deliver),
        timing,
    )
}

/// An outbox that runs; dropping it is a crash.
struct Running {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    #[allow(clippy::disallowed_methods, reason = "the test owns the task")]
    fn start(outbox: Outbox) -> Self {
        let stop = CancellationToken::new();
        Self {
            task: tokio::spawn(outbox.run(stop.clone())),
            stop,
        }
    }

    async fn stop(mut self) -> Duration {
        let begun = Instant::now();
        self.stop.cancel();
        (&mut self.task).await.unwrap();
        begun.elapsed()
    }

    async fn crash(mut self) {
        self.task.abort();
        drop((&mut self.task).await);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits until something is so; fails after a generous time.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "never came: {what}"
        );
        sleep(Duration::from_millis(5)).await;
    }
}

async fn until_nothing_waits(ledger: &Ledger) {
    until("nothing waits", async || {
        ledger.unsent_lag().await.unwrap().unsent == 0
    })
    .await;
}

#[tokio::test]
async fn what_is_settled_or_lost_arrives_and_nothing_else() {
    let place = Place::new();
    let (ledger, writer) = place.open(true);
    let fake = Fake::new(|_| Act::Take);
    let first = request(&ledger, 1, settled()).await;
    request(&ledger, 1, Charge::Voided { load: true }).await;
    let second = request(&ledger, 2, Charge::Lost).await;
    let running = Running::start(outbox(&ledger, &fake));
    until_nothing_waits(&ledger).await;
    running.stop().await;
    let entries = fake.lock().unwrap().entries.clone();
    assert_eq!(entries.len(), 2, "{entries:?}");
    assert_eq!(
        (&entries[0]["id"], &entries[0]["end"]),
        (&Value::from(first), &Value::from("settled"))
    );
    assert_eq!(
        (&entries[1]["id"], &entries[1]["end"]),
        (&Value::from(second), &Value::from("lost"))
    );
    assert_eq!(
        (&entries[0]["cost_usd"], &entries[0]["ttft_ms"]),
        (&Value::from("0.000042"), &Value::from(7))
    );
    assert!(entries[0]["duration_ms"].is_u64());
    writer.close();
}

#[tokio::test]
async fn a_row_that_ends_wakes_the_outbox() {
    let place = Place::new();
    let (ledger, writer) = place.open(true);
    let fake = Fake::new(|_| Act::Take);
    let slow = OutboxTiming {
        poll: Duration::from_hours(1),
        ..OutboxTiming::default()
    };
    let running = Running::start(with_pace(&ledger, &fake, slow));
    sleep(Duration::from_millis(50)).await;
    request(&ledger, 1, settled()).await;
    until("the entry", async || count(&fake) == 1).await;
    running.stop().await;
    writer.close();
}

#[tokio::test]
async fn a_ledger_without_outbox_keeps_nothing_waiting() {
    let place = Place::new();
    let (ledger, writer) = place.open(false);
    request(&ledger, 1, settled()).await;
    assert_eq!(ledger.unsent_lag().await.unwrap(), Lag::default());
    writer.close();
}

#[tokio::test]
async fn a_ledger_of_an_earlier_version_starts_with_an_empty_outbox() {
    let place = Place::new();
    let old = rusqlite::Connection::open(&place.0).unwrap();
    old.execute_batch(include_str!("../../migrations/0001_ledger.sql"))
        .unwrap();
    old.execute_batch(
        "insert into requests (id, user_id, plan, endpoint, model, upstream, state, held_input_tokens,
                               held_output_tokens, held_micros, started_at, ended_at, owner)
         values ('0193', 'u', 'p', 'e', 'm', 'u', 'settled', 1, 1, 1, 1, 2, 'o');
         pragma user_version = 1;",
    )
    .unwrap();
    drop(old);
    let (ledger, writer) = place.open(true);
    assert_eq!(ledger.unsent_lag().await.unwrap(), Lag::default());
    request(&ledger, 1, settled()).await;
    assert_eq!(ledger.unsent_lag().await.unwrap().unsent, 1);
    writer.close();
}

#[tokio::test]
async fn a_backlog_goes_in_full_batches() {
    let place = Place::new();
    let (ledger, writer) = place.open(true);
    for number in 0..230 {
        request(&ledger, number % 3, settled()).await;
    }
    let fake = Fake::new(|_| Act::Take);
    let running = Running::start(outbox(&ledger, &fake));
    until_nothing_waits(&ledger).await;
    running.stop().await;
    assert_eq!(fake.lock().unwrap().calls, [100, 100, 30]);
    assert_eq!(fake.lock().unwrap().applied, place.ended());
    writer.close();
}

#[tokio::test]
async fn a_call_that_is_too_much_at_once_is_tried_smaller() {
    let place = Place::new();
    let (ledger, writer) = place.open(true);
    for _ in 0..120 {
        request(&ledger, 1, settled()).await;
    }
    let fake = Fake::new(|call| if call <= 3 { Act::Fail } else { Act::Take });
    let running = Running::start(outbox(&ledger, &fake));
    until_nothing_waits(&ledger).await;
    running.stop().await;
    assert_eq!(fake.lock().unwrap().calls, [100, 50, 25, 12, 24, 48, 36]);
    writer.close();
}

/// At least once, in order for a user, and counted once by a function that is idempotent: whatever the database does
/// and whenever the process dies.
#[tokio::test]
async fn nothing_is_lost_or_overtaken_through_failures_and_crashes() {
    let place = Place::new();
    let mut dice = 0x9E37_79B9_7F4A_7C15_u64;
    let acts = [
        Act::Take,
        Act::Fail,
        Act::TakeAndFail,
        Act::TakeAndHang,
        Act::Hang,
        Act::TakeAndFail,
    ];
    let fake = Fake::new(move |_| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        acts[usize::try_from(dice % 6).unwrap()]
    });
    for life in 0..8_u64 {
        let (ledger, writer) = place.open(true);
        let running = Running::start(outbox(&ledger, &fake));
        for number in 0..40 {
            request(
                &ledger,
                number % 4,
                if number % 7 == 0 {
                    Charge::Lost
                } else {
                    settled()
                },
            )
            .await;
        }
        sleep(Duration::from_millis(3 * life)).await;
        running.crash().await;
        drop(ledger);
        writer.close();
    }
    fake.lock().unwrap().act = Box::new(|_| Act::Take);
    let (ledger, writer) = place.open(true);
    let running = Running::start(outbox(&ledger, &fake));
    until_nothing_waits(&ledger).await;
    running.stop().await;
    writer.close();
    let fake = fake.lock().unwrap();
    assert!(
        fake.again > 0,
        "no answer was lost after its entries were taken: the test tried nothing"
    );
    assert_eq!(fake.applied, place.ended());
    assert_eq!(fake.entries.len(), 8 * 40);
}

#[tokio::test]
async fn a_poisoned_entry_holds_up_its_user_alone_and_is_left_behind_in_the_end() {
    let place = Place::new();
    let (ledger, writer) = place.open(true);
    let mut ids = Vec::new();
    for number in 0..12 {
        ids.push(request(&ledger, number % 3, settled()).await);
    }
    let fake = Fake::new(|_| Act::Take);
    // The second entry of user 1.
    fake.lock().unwrap().poison.insert(ids[4].clone());
    let outbox = outbox(&ledger, &fake);
    let progress = outbox.progress.clone();
    let running = Running::start(outbox);
    until("the others", async || count(&fake) == 9).await;
    assert_eq!(
        fake.lock().unwrap().applied[&Uuid::from_u128(1).to_string()],
        ids[1..2]
    );
    sleep(Duration::from_millis(200)).await;
    let lag = ledger.unsent_lag().await.unwrap();
    assert_eq!((lag.unsent, lag.given_up), (3, 0));
    assert_eq!(
        count(&fake),
        9,
        "what came after a refused entry waits, while nothing shows that the function works"
    );
    // Others are served meanwhile, which shows it.
    for _ in 0..40 {
        request(&ledger, 2, settled()).await;
        sleep(Duration::from_millis(10)).await;
    }
    until("the end of waiting", async || count(&fake) == 9 + 40 + 2).await;
    let mut expected = place.ended();
    expected
        .get_mut(&Uuid::from_u128(1).to_string())
        .unwrap()
        .retain(|id| *id != ids[4]);
    assert_eq!(fake.lock().unwrap().applied, expected);
    until_nothing_waits(&ledger).await;
    assert_eq!(ledger.unsent_lag().await.unwrap().given_up, 1);
    until("readiness", async || {
        progress.health(Timestamp::EPOCH).given_up == 1
    })
    .await;
    running.stop().await;
    writer.close();
}

#[tokio::test]
async fn a_user_with_a_poisoned_entry_and_many_more_hides_nobody_behind_them() {
    let place = Place::new();
    let (ledger, writer) = place.open(true);
    let poisoned = request(&ledger, 1, settled()).await;
    for _ in 0..150 {
        request(&ledger, 1, settled()).await;
    }
    request(&ledger, 2, settled()).await;
    let fake = Fake::new(|_| Act::Take);
    fake.lock().unwrap().poison.insert(poisoned);
    let running = Running::start(outbox(&ledger, &fake));
    until("the other user's entry", async || count(&fake) == 1).await;
    assert!(
        fake.lock()
            .unwrap()
            .applied
            .contains_key(&Uuid::from_u128(2).to_string())
    );
    running.stop().await;
    writer.close();
}

#[tokio::test]
async fn a_call_that_hangs_is_left_and_tried_again() {
    let place = Place::new();
    let (ledger, writer) = place.open(true);
    request(&ledger, 1, settled()).await;
    let fake = Fake::new(|call| {
        if call <= 2 {
            Act::TakeAndHang
        } else {
            Act::Take
        }
    });
    let running = Running::start(outbox(&ledger, &fake));
    until_nothing_waits(&ledger).await;
    assert_eq!((count(&fake), fake.lock().unwrap().again), (1, 2));
    running.stop().await;
    writer.close();
}

#[tokio::test]
async fn a_function_that_refuses_everything_loses_nothing() {
    let place = Place::new();
    let (ledger, writer) = place.open(true);
    let fake = Fake::new(|_| Act::Take);
    fake.lock().unwrap().refuse_all = true;
    for number in 0..20 {
        request(&ledger, number % 5, settled()).await;
    }
    let running = Running::start(outbox(&ledger, &fake));
    until("many refusals", async || {
        fake.lock().unwrap().calls.len() > 200
    })
    .await;
    let lag = ledger.unsent_lag().await.unwrap();
    assert_eq!((lag.unsent, lag.given_up), (20, 0));
    fake.lock().unwrap().refuse_all = false;
    until_nothing_waits(&ledger).await;
    assert_eq!(fake.lock().unwrap().applied, place.ended());
    running.stop().await;
    writer.close();
}

#[tokio::test]
async fn it_stops_within_a_second_whatever_the_database_does() {
    let place = Place::new();
    let (ledger, writer) = place.open(true);
    request(&ledger, 1, settled()).await;
    let fake = Fake::new(|_| Act::Hang);
    let running = Running::start(with_pace(&ledger, &fake, OutboxTiming::default()));
    until("a call", async || !fake.lock().unwrap().calls.is_empty()).await;
    assert!(running.stop().await < Duration::from_millis(1500));
    assert_eq!(ledger.unsent_lag().await.unwrap().unsent, 1);
    writer.close();
}

#[tokio::test]
async fn what_ended_last_is_sent_before_it_stops() {
    let place = Place::new();
    let (ledger, writer) = place.open(true);
    let fake = Fake::new(|_| Act::Take);
    let slow = OutboxTiming {
        poll: Duration::from_hours(1),
        gather: Duration::from_hours(1),
        ..OutboxTiming::default()
    };
    let running = Running::start(with_pace(&ledger, &fake, slow));
    sleep(Duration::from_millis(50)).await;
    request(&ledger, 1, settled()).await;
    running.stop().await;
    assert_eq!(count(&fake), 1);
    writer.close();
}

#[tokio::test]
async fn readiness_tells_how_far_behind_it_is() {
    let place = Place::new();
    let (ledger, writer) = place.open(true);
    let fake = Fake::new(|_| Act::Fail);
    request(&ledger, 1, settled()).await;
    request(&ledger, 1, settled()).await;
    let outbox = outbox(&ledger, &fake);
    let progress = outbox.progress.clone();
    let now = Clock::system().now();
    assert_eq!(
        progress.health(now),
        OutboxHealth {
            ok: true,
            unsent: 0,
            oldest_seconds: None,
            given_up: 0
        }
    );
    let running = Running::start(outbox);
    until("the lag", async || progress.health(now).unsent == 2).await;
    assert!(progress.health(now.plus(Duration::from_secs(200))).ok);
    let late = progress.health(now.plus(Duration::from_secs(400)));
    assert!(!late.ok && late.oldest_seconds.unwrap() >= 399, "{late:?}");
    fake.lock().unwrap().act = Box::new(|_| Act::Take);
    until("no lag", async || progress.health(now).unsent == 0).await;
    assert!(progress.health(now.plus(Duration::from_secs(400))).ok);
    running.stop().await;
    writer.close();
}

/// Two processes, as it were, on a Postgres whose clock goes four times as fast: a turn is over after 3.75 s.
struct Processes {
    server: crate::pg::tests::Postgres,
    ledgers: Vec<(Ledger, Writer)>,
    by_hand: crate::pg::Database,
}

impl Processes {
    async fn start() -> Option<Self> {
        let server = crate::pg::tests::Postgres::start(&[])?;
        let open = || {
            let settings = Settings {
                store: StoreUrl::Postgres(server.url("")),
                lease: Duration::from_mins(1),
                keep_requests: Duration::from_hours(24 * 400),
                time_zone: TimeZone::UTC,
                outbox: true,
            };
            Ledger::open(settings, Clock::system()).unwrap()
        };
        let ledgers = vec![open(), open()];
        let settings = crate::pg::PgSettings {
            connections: 1,
            call_timeout: Duration::from_secs(10),
        };
        let by_hand = crate::pg::Database::new(
            &server.url(""),
            settings,
            tokio_util::task::TaskTracker::new(),
        )
        .unwrap();
        let fast = "create or replace function tollgate_ledger.clock_ms_v0() returns bigint
                    language sql volatile set search_path = '' as
                    $$ select (extract(epoch from pg_catalog.clock_timestamp()) * 4000)::bigint $$";
        by_hand.batch(versioned(fast)).await.unwrap();
        Some(Self {
            server,
            ledgers,
            by_hand,
        })
    }

    fn ledger(&self, process: usize) -> &Ledger {
        &self.ledgers[process].0
    }

    /// Gives the turn to somebody who is not here, until so long from now on the database's clock.
    async fn turn_of_another(&self, until_ms: i64) {
        let sql = "insert into tollgate_ledger.switches values ('outbox', 'another', tollgate_ledger.clock_ms_v0() + $1)
                   on conflict (name) do update set value = excluded.value, updated_at = excluded.updated_at";
        self.by_hand
            .query(versioned(sql), vec![until_ms.into()])
            .await
            .unwrap();
    }

    fn end(self) {
        for (ledger, writer) in self.ledgers {
            drop(ledger);
            writer.close();
        }
        drop(self.server);
    }
}

/// An outbox whose calls take so long each.
fn slow_outbox(ledger: &Ledger, fake: &Shared, call: Duration, backoff: Backoff) -> Outbox {
    let quick = outbox(ledger, fake).timing;
    let fake = fake.clone();
    let deliver = move |entries: Vec<Value>| -> Delivery {
        let fake = fake.clone();
        Box::pin(async move {
            sleep(call).await;
            let answer = fake.lock().unwrap().call(&entries);
            answer.unwrap()
        })
    };
    let timing = OutboxTiming {
        call_timeout: Duration::from_secs(30),
        renew_turn_after: Duration::ZERO,
        backoff,
        ..quick
    };
    Outbox::with_pace(
        EntryQueue::Requests(ledger.clone()),
        Box::new(deliver),
        timing,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_that_sends_entry_by_entry_for_longer_than_a_turn_keeps_it() {
    let Some(both) = Processes::start().await else {
        return;
    };
    let fake = Fake::new(|_| Act::Take);
    let poison = request(both.ledger(0), 1, settled()).await;
    fake.lock().unwrap().poison.insert(poison);
    for user in 2..26 {
        request(both.ledger(0), user, settled()).await;
    }
    until("the rows", async || {
        both.ledger(0).unsent_lag().await.unwrap().unsent == 25
    })
    .await;
    let (begun, soon) = (
        Instant::now(),
        Backoff::new(Duration::from_millis(1), Duration::from_millis(8)),
    );
    let first = Running::start(slow_outbox(
        both.ledger(0),
        &fake,
        Duration::from_millis(300),
        soon,
    ));
    until("its first call", async || {
        !fake.lock().unwrap().calls.is_empty()
    })
    .await;
    let idle = Fake::new(|_| Act::Take);
    let second = Running::start(outbox(both.ledger(1), &idle));
    until("the others", async || {
        both.ledger(0).unsent_lag().await.unwrap().unsent == 1
    })
    .await;
    assert!(
        begun.elapsed() > Duration::from_secs(7),
        "it took no longer than a turn: the test tried nothing"
    );
    assert_eq!(
        (
            count(&fake),
            fake.lock().unwrap().again,
            idle.lock().unwrap().calls.len()
        ),
        (24, 0, 0)
    );
    // And while it tries the refused one again and again, it is still its turn.
    sleep(Duration::from_secs(5)).await;
    assert_eq!(idle.lock().unwrap().calls.len(), 0);
    first.crash().await;
    until("the other's turn", async || count(&idle) == 1).await;
    second.stop().await;
    both.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_entry_that_another_process_has_sent_meanwhile_is_forgotten() {
    let Some(both) = Processes::start().await else {
        return;
    };
    let fake = Fake::new(|_| Act::Take);
    let id = request(both.ledger(0), 1, settled()).await;
    fake.lock().unwrap().poison.insert(id.clone());
    until("the row", async || {
        both.ledger(0).unsent_lag().await.unwrap().unsent == 1
    })
    .await;
    let later = Backoff::new(Duration::from_secs(2), Duration::from_secs(2));
    let mut outbox = slow_outbox(both.ledger(0), &fake, Duration::ZERO, later);
    until("its refusal", async || {
        assert!(outbox.send_some().await.is_err() || !outbox.refused.is_empty());
        !outbox.refused.is_empty()
    })
    .await;
    both.turn_of_another(-1).await;
    both.by_hand
        .batch("update tollgate_ledger.requests set unsent = 0")
        .await
        .unwrap();
    fake.lock().unwrap().poison.clear();
    // Before it is due again, and after.
    assert!(matches!(outbox.send_some().await, Ok(false)));
    sleep(Duration::from_millis(2100)).await;
    for _ in 0..3 {
        assert!(matches!(outbox.send_some().await, Ok(false)));
    }
    assert_eq!(count(&fake), 0, "it was sent twice");
    drop(outbox);
    both.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_of_a_clock_that_was_set_back_is_nobodys() {
    let Some(both) = Processes::start().await else {
        return;
    };
    request(both.ledger(0), 1, settled()).await;
    until("the row", async || {
        both.ledger(0).unsent_lag().await.unwrap().unsent == 1
    })
    .await;
    let given = async |process: usize| {
        both.ledger(process)
            .unsent(10, Vec::new())
            .await
            .unwrap()
            .len()
    };
    both.turn_of_another(14_000).await;
    assert_eq!(
        (given(0).await, both.ledger(0).outbox_turn().await.unwrap()),
        (0, Turn::HeldElsewhere)
    );
    both.turn_of_another(-1).await;
    assert_eq!((given(0).await, given(1).await), (1, 0));
    // An hour ahead, and a day.
    for ahead in [3_600_000, 86_400_000] {
        both.turn_of_another(ahead).await;
        assert_eq!(
            both.ledger(1).outbox_turn().await.unwrap(),
            Turn::Acquired,
            "{ahead}"
        );
        assert_eq!((given(0).await, given(1).await), (0, 1), "{ahead}");
    }
    both.end();
}

/// Tells a ledger's file of purchases as a webhook does.
struct Shop(Desk);

impl Shop {
    fn of(place: &Place) -> Self {
        Self(Desk::open(&StoreUrl::Sqlite(place.0.clone())).unwrap())
    }

    fn tell(&self, user: u128, transaction: &str, state: PurchaseState, at: i64) {
        let products = Products::default();
        let event = PurchaseEvent {
            channel: Channel::RevenueCat,
            id: Uuid::now_v7().to_string(),
            kind: "RENEWAL".to_owned(),
            at: Timestamp::from_millis(at),
            change: Some(PurchaseChange {
                store: "play_store".to_owned(),
                transaction: transaction.to_owned(),
                original: transaction.to_owned(),
                owner: Some(Uuid::from_u128(user).to_string()),
                facts: Some(Facts {
                    product: "pro.month".to_owned(),
                    purchased_at: Timestamp::from_millis(1000),
                    quantity: 1,
                    is_sandbox: false,
                }),
                state: Some(ReportedState::of(state)),
                ..PurchaseChange::default()
            }),
            moves: Vec::new(),
        };
        let rules = Rules {
            products: &products,
            now: Clock::system().now(),
        };
        records::take(&self.0, &event, rules, false).unwrap();
    }

    /// Until a moment.
    fn renew(&self, user: u128, transaction: &str, at: i64) {
        let until = Timestamp::from_millis(at.saturating_add(1_000_000));
        self.tell(user, transaction, PurchaseState::Live(Some(until)), at);
    }
}

/// An outbox of purchases; `pro.month` gives the plan `pro`.
fn purchase_outbox(ledger: &Ledger, fake: &Shared) -> Outbox {
    let requests = outbox(ledger, fake);
    let products = || {
        let product = Product {
            plan: Some("pro".to_owned()),
            credit: Some(MicroUsd(2_000_000)),
            ..Product::default()
        };
        Products {
            by_name: [("pro.month".to_owned(), product)].into(),
            sandbox_plan: None,
        }
    };
    let queue = EntryQueue::Purchases(PurchaseQueue::new(ledger.clone()), Box::new(products));
    Outbox {
        queue,
        timing: OutboxTiming {
            call_timeout: Duration::from_millis(500),
            ..requests.timing
        },
        ..requests
    }
}

/// What was taken of each transaction, in order: its state and its end.
fn heard(fake: &Shared) -> Vec<(String, String, Value)> {
    let fake = fake.lock().unwrap();
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap().to_owned();
    let of = |entry: &Value| {
        (
            text(entry, "transaction_id"),
            text(entry, "state"),
            entry["until"].clone(),
        )
    };
    fake.entries.iter().map(of).collect()
}

#[tokio::test]
async fn a_purchase_that_changed_is_told_as_it_stands_and_one_that_did_not_is_not() {
    let place = Place::new();
    let (ledger, writer) = place.open(true);
    let shop = Shop::of(&place);
    let fake = Fake::new(|_| Act::Take);
    shop.renew(1, "a", 1000);
    shop.renew(2, "b", 1000);
    shop.renew(1, "a", 2000);
    let running = Running::start(purchase_outbox(&ledger, &fake));
    until("both", async || count(&fake) == 2).await;
    let told = fake.lock().unwrap().entries.clone();
    assert_eq!(
        heard(&fake)
            .iter()
            .map(|(id, ..)| id.as_str())
            .collect::<Vec<_>>(),
        ["b", "a"],
        "in the order of their last changes, both changes of a at once"
    );
    let entry = &told[1];
    assert_eq!(
        (&entry["plan"], &entry["credit_usd"], &entry["environment"]),
        (
            &Value::from("pro"),
            &Value::from("2.000000"),
            &Value::from("production")
        )
    );
    assert_eq!(entry["until"], "1970-01-01T00:16:42Z");
    assert_eq!(entry["user_id"], Uuid::from_u128(1).to_string());
    // The same again, by a later event: nothing is told. Then something.
    let again = Timestamp::from_millis(1_002_000);
    shop.tell(1, "a", PurchaseState::Live(Some(again)), 3000);
    shop.tell(
        2,
        "b",
        PurchaseState::Ended(Timestamp::from_millis(4000)),
        4000,
    );
    until("the end", async || count(&fake) == 3).await;
    assert_eq!(heard(&fake)[2].0, "b");
    running.stop().await;
    assert_eq!(count(&fake), 3);
    // What changes while it is sent waits on.
    shop.renew(1, "a", 5000);
    let queue = PurchaseQueue::new(ledger.clone());
    let sent = queue.unsent(10, Vec::new()).await.unwrap();
    shop.renew(1, "a", 6000);
    let ids = sent.into_iter().map(|row| row.id).collect();
    queue.mark(ids, Mark::Sent).await.unwrap();
    let waiting = queue.unsent(10, Vec::new()).await.unwrap();
    assert_eq!(waiting.len(), 1);
    writer.close();
}

#[tokio::test]
async fn purchases_survive_failures_and_crashes_and_a_refused_one_delays_its_user_alone() {
    let place = Place::new();
    let (ledger, writer) = place.open(true);
    let shop = Shop::of(&place);
    let trouble = [Act::Fail, Act::TakeAndFail, Act::TakeAndHang, Act::Hang];
    let fake = Fake::new(move |call| *trouble.get(call - 1).unwrap_or(&Act::Take));
    for round in 1..=4 {
        shop.renew(1, "a", round * 1000);
        shop.renew(2, "b", round * 1000);
        let running = Running::start(purchase_outbox(&ledger, &fake));
        sleep(Duration::from_millis(60)).await;
        running.crash().await;
    }
    let running = Running::start(purchase_outbox(&ledger, &fake));
    let last = |fake: &Shared, id: &str| {
        let mut of = heard(fake).into_iter().filter(|(it, ..)| it == id);
        of.next_back().map(|(.., until)| until)
    };
    let end = Value::from("1970-01-01T00:16:44Z");
    until("the last state of both", async || {
        last(&fake, "a") == Some(end.clone()) && last(&fake, "b") == Some(end.clone())
    })
    .await;
    running.stop().await;

    // A poisoned change.
    shop.renew(1, "a", 9000);
    let id = {
        let queue = PurchaseQueue::new(ledger.clone());
        let waiting = queue.unsent(10, Vec::new()).await.unwrap();
        assert_eq!(waiting.len(), 1, "what was taken waits no longer");
        waiting[0].id.clone()
    };
    fake.lock().unwrap().poison.insert(id);
    shop.renew(1, "c", 9000);
    shop.renew(2, "b", 9000);
    let running = Running::start(purchase_outbox(&ledger, &fake));
    let told = count(&fake);
    until("bob's", async || count(&fake) > told).await;
    assert_eq!(heard(&fake).last().unwrap().0, "b");
    // A later change of it is told instead, and what waited behind it.
    shop.renew(1, "a", 10_000);
    for round in 10..40 {
        shop.renew(2, "b", round * 1000);
        sleep(Duration::from_millis(10)).await;
    }
    until("c, and a as it is now", async || {
        last(&fake, "c").is_some() && last(&fake, "a") == Some("1970-01-01T00:16:50Z".into())
    })
    .await;
    running.stop().await;
    writer.close();
}

#[tokio::test]
async fn a_database_without_the_function_is_left_alone_and_nothing_is_lost() {
    let place = Place::new();
    let (ledger, writer) = place.open(true);
    let shop = Shop::of(&place);
    shop.renew(1, "a", 1000);
    let fake = Fake::new(|_| Act::Take);
    let mut outbox = purchase_outbox(&ledger, &fake);
    let there = outbox.deliver;
    outbox.deliver = Box::new(|_| Box::pin(async { Err(DatabaseFailure::Missing) }));
    assert_eq!(outbox.round().await, Next::Later(ABSENT_WAIT));
    assert_eq!(outbox.setbacks, 0, "nobody is told of it");
    outbox.deliver = there;
    assert_eq!(outbox.round().await, Next::GoOn);
    assert_eq!(heard(&fake).len(), 1);
    assert_eq!(outbox.round().await, Next::Wait);
    writer.close();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_processes_on_postgres_one_at_a_time_tells_of_purchases() {
    let Some(processes) = Processes::start().await else {
        return;
    };
    tokio::task::block_in_place(|| {
        let shop = Shop(Desk::open(&StoreUrl::Postgres(processes.server.url(""))).unwrap());
        for number in 0..20 {
            shop.renew(number % 3, &format!("t{number}"), 1000);
        }
    });
    let queues = [0, 1].map(|process| PurchaseQueue::new(processes.ledger(process).clone()));
    let first = queues[0].unsent(5, Vec::new()).await.unwrap();
    assert_eq!(first.len(), 5);
    assert!(queues[1].unsent(5, Vec::new()).await.unwrap().is_empty());
    assert_eq!(queues[0].turn().await.unwrap(), Turn::Renewed);
    assert_eq!(queues[1].turn().await.unwrap(), Turn::HeldElsewhere);
    // Its turn to send requests is another matter.
    assert_eq!(
        processes.ledger(1).outbox_turn().await.unwrap(),
        Turn::Acquired
    );
    let ids = first.iter().map(|row| row.id.clone()).collect();
    queues[0].mark(ids, Mark::Sent).await.unwrap();
    let besides = vec![Uuid::from_u128(0).to_string()];
    let rest = queues[0].unsent(100, besides).await.unwrap();
    let of_nobody = Some(Uuid::from_u128(0).to_string());
    assert!(rest.iter().all(|row| row.user_id != of_nobody));
    assert_eq!(rest.len(), 10);
    processes.end();
}
