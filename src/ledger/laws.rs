//! The laws of the ledger, tried with random holds, endings, crashes, clock steps and prunings against a plain model.
//!
//! The model is a list of requests; what a window says is the sum over that list, by the law's own words. After each
//! step the book must say the same.

#![allow(clippy::arithmetic_side_effects, clippy::as_conversions, reason = "a model of small numbers, in a test")]

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::tz::TimeZone;
use proptest::prelude::*;
use uuid::Uuid;

use super::sqlite::Book;
use super::{Charge, Ending, HoldRequest, Lag, Mark, NoHold, Settlement};
use crate::clock::Timestamp;
use crate::plan::{Amounts, Ask, Limit, Per, Period, Standing, Unit, Window, window};
use crate::price::{MicroUsd, PerMillion, Price, Tokenizer, Usage};

const ALL: [Per; 6] = [Per::Minute, Per::Hour, Per::Day, Per::Month, Per::Period, Per::Lifetime];

fn price() -> Price {
    let (input, output) = (PerMillion(150_000), PerMillion(600_000));
    Price {
        input,
        cached_input: input,
        cache_write: input,
        output,
        long: None,
        reasoning: false,
        tokenizer: Tokenizer::Unknown,
    }
}

#[derive(Clone, Debug)]
enum Step {
    Hold { user: u8, plan: u8, input: u64, cap: u32 },
    Settle { which: usize, input: u64, output: u64 },
    WholeHold { which: usize },
    Void { which: usize, load: bool },
    Lose { which: usize },
    EndAgain { which: usize },
    Crash,
    MoveClock { seconds: i64 },
    Prune,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let which = || any::<usize>();
    let clock = prop_oneof![
        6 => 0..90i64,
        2 => 0..90_000i64,
        1 => Just(30 * 86_400),
        1 => Just(-10 * 86_400),
        1 => -7_200..0i64
    ];
    let step = prop_oneof![
        8 => (0..3u8, 0..4u8, 1..3_000u64, 1..2_000u32).prop_map(|(user, plan, input, cap)| Step::Hold { user, plan, input, cap }),
        5 => (which(), 0..4_000u64, 0..3_000u64).prop_map(|(which, input, output)| Step::Settle { which, input, output }),
        1 => which().prop_map(|which| Step::WholeHold { which }),
        2 => (which(), any::<bool>()).prop_map(|(which, load)| Step::Void { which, load }),
        1 => which().prop_map(|which| Step::Lose { which }),
        1 => which().prop_map(|which| Step::EndAgain { which }),
        1 => Just(Step::Crash),
        4 => clock.prop_map(|seconds| Step::MoveClock { seconds }),
        1 => Just(Step::Prune)
    ];
    prop::collection::vec(step, 1..60)
}

/// A request as the laws describe it.
#[derive(Clone, Debug)]
struct Row {
    id: Uuid,
    user: Uuid,
    at: Timestamp,
    held: Amounts,
    ended: Option<Charge>,
}

impl Row {
    fn standing(&self, per: Per) -> Standing {
        let Some(charge) = self.ended else {
            return Standing { used: Amounts::default(), held: self.held };
        };
        let used = match charge {
            Charge::Voided { load } => Amounts { requests: i64::from(load && per.is_rate()), tokens: 0, cost: 0 },
            Charge::Settled { usage, cost } => {
                let tokens = i64::try_from(usage.input_tokens + usage.output_tokens).unwrap();
                Amounts { requests: 1, tokens, cost: cost.0 }
            }
            Charge::WholeHold | Charge::Lost => self.held,
        };
        Standing { used, held: Amounts::default() }
    }
}

struct World {
    path: PathBuf,
    book: Book,
    rows: Vec<Row>,
    now: Timestamp,
    made: u64,
}

/// Four plans, from tight to none, with every window and unit in one of them.
fn limits(plan: u8) -> Vec<Limit> {
    let limit = |per, unit, amount| Limit { per, unit, amount };
    match plan {
        0 => vec![
            limit(Per::Minute, Unit::Requests, 3),
            limit(Per::Day, Unit::Requests, 6),
            limit(Per::Month, Unit::CostUsd, 2_000),
        ],
        1 => vec![limit(Per::Hour, Unit::Tokens, 9_000), limit(Per::Lifetime, Unit::CostUsd, 9_000)],
        2 => vec![
            limit(Per::Period, Unit::Tokens, 12_000),
            limit(Per::Hour, Unit::Requests, 5),
            limit(Per::Day, Unit::CostUsd, 1_500),
        ],
        _ => Vec::new(),
    }
}

const CEILING: i64 = 6_000;
const CONCURRENT: u32 = 4;

fn zone() -> TimeZone {
    TimeZone::get("Europe/Berlin").unwrap()
}

fn period() -> Period {
    let day = Timestamp::parse("2026-03-20T10:30:00Z").unwrap();
    Period { start: day, end: day.plus(Duration::from_hours(24 * 12)) }
}

impl World {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("tollgate-laws-{}.db", Uuid::now_v7()));
        let book = Book::open(&path, Uuid::now_v7()).unwrap();
        book.forget_durability();
        let now = Timestamp::parse("2026-03-28T23:59:20Z").unwrap();
        Self { path, book, rows: Vec::new(), now, made: 0 }
    }

    fn user(number: u8) -> Uuid {
        Uuid::from_u128(u128::from(number) + 1)
    }

    fn window(&self, per: Per) -> Window {
        window(per, self.now, &zone(), Some(period()))
    }

    /// What a window says, by the words of law 4.
    fn expected(&self, user: Option<Uuid>, window: &Window) -> Standing {
        let inside =
            |row: &&Row| user.is_none_or(|user| row.user == user) && window.start <= row.at && row.at < window.end;
        self.rows.iter().filter(inside).map(|row| row.standing(window.per)).fold(Standing::default(), |sum, row| {
            Standing { used: sum.used.plus(row.used), held: sum.held.plus(row.held) }
        })
    }

    fn in_transaction<T>(&self, step: impl FnOnce(&Book) -> T) -> T {
        self.book.begin().unwrap();
        let done = step(&self.book);
        self.book.commit().unwrap();
        done
    }

    fn hold(&mut self, user: u8, plan: u8, input: u64, cap: u32) {
        self.made += 1;
        let id = uuid::Builder::from_unix_timestamp_millis(
            u64::try_from(self.now.millis()).unwrap(),
            &self.made.to_be_bytes().repeat(2)[6..16].try_into().unwrap(),
        )
        .into_uuid();
        let user = Self::user(user);
        let limits: Vec<_> = limits(plan).into_iter().map(|limit| (limit, self.window(limit.per))).collect();
        let ask = Ask { price: price(), input_tokens: input, output_cap: cap, output_floor: cap.min(64), choices: 1 };
        let request = HoldRequest {
            id,
            user_id: user,
            now: self.now,
            plan: plan.to_string(),
            endpoint: "/v1/chat/completions",
            model: "m".to_owned(),
            upstream: "u".to_owned(),
            ask: ask.clone(),
            limits: limits.clone(),
            concurrent: Some(CONCURRENT),
            ceiling: Some((CEILING, self.window(Per::Day))),
        };
        let open = self.rows.iter().filter(|row| row.user == user && row.ended.is_none()).count();
        let answer = self.in_transaction(|book| book.hold(&request)).unwrap();
        let fits = |user: Option<Uuid>, limit: &Limit, window: &Window, amounts: Amounts| {
            let now = self.expected(user, window);
            let taken = now.used.plus(now.held).of(limit.unit);
            taken.saturating_add(amounts.of(limit.unit)) <= limit.amount
        };
        let everything_fits = |amounts: Amounts| {
            let ceiling = Limit { per: Per::Day, unit: Unit::CostUsd, amount: CEILING };
            limits.iter().all(|(limit, window)| fits(Some(user), limit, window, amounts))
                && fits(None, &ceiling, &self.window(Per::Day), amounts)
        };
        match answer {
            Ok(hold) => {
                assert!(everything_fits(hold.amounts), "law 1: a hold was granted that passes a limit");
                assert!(open < CONCURRENT as usize, "more open requests than the plan allows");
                assert!(hold.output_cap >= ask.output_floor && hold.output_cap <= cap);
                let more = ask.amounts(hold.output_cap + 1);
                assert!(hold.output_cap == cap || !everything_fits(more), "law 7: the cap shrank more than it had to");
                self.rows.push(Row { id, user, at: self.now, held: hold.amounts, ended: None });
            }
            Err(NoHold::Concurrent { .. }) => assert!(open >= CONCURRENT as usize),
            Err(_) => {
                assert!(!everything_fits(ask.amounts(ask.output_floor)), "law 7: refused although the floor fits");
            }
        }
    }

    fn end(&mut self, which: usize, of: impl FnOnce(&Row) -> Charge) {
        let open: Vec<_> = (0..self.rows.len()).filter(|n| self.rows[*n].ended.is_none()).collect();
        let Some(place) = open.get(which.checked_rem(open.len()).unwrap_or(0)) else { return };
        let charge = of(&self.rows[*place]);
        let ending =
            Ending { id: self.rows[*place].id, settlement: Settlement { charge, flags: vec![], ttft_ms: None } };
        assert!(self.in_transaction(|book| book.end(&ending, self.now)).unwrap());
        self.rows[*place].ended = Some(charge);
    }

    /// Law 3: an end that comes twice, or for a request that was never held, changes nothing.
    fn end_again(&mut self, which: usize) {
        let ended: Vec<_> = self.rows.iter().filter(|row| row.ended.is_some()).map(|row| row.id).collect();
        let id = ended.get(which.checked_rem(ended.len()).unwrap_or(0)).copied().unwrap_or_else(Uuid::now_v7);
        let ending = Ending { id, settlement: Settlement::lost() };
        assert!(!self.in_transaction(|book| book.end(&ending, self.now)).unwrap(), "law 3: a request ended twice");
    }

    /// Law 5: what a process held is lost when the next one starts.
    fn crash(&mut self) {
        self.book = Book::open(&self.path, Uuid::now_v7()).unwrap();
        self.book.forget_durability();
        let now = self.now;
        let swept = self.in_transaction(|book| book.sweep(now, true, u32::MAX)).unwrap();
        let open = self.rows.iter().filter(|row| row.ended.is_none()).count();
        assert_eq!(swept, open, "law 5: the sweep ends what is open, once");
        for row in self.rows.iter_mut().filter(|row| row.ended.is_none()) {
            row.ended = Some(Charge::Lost);
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Hold { user, plan, input, cap } => self.hold(user, plan, input, cap),
            Step::Settle { which, input, output } => self.end(which, |_| {
                let usage = Usage { input_tokens: input, output_tokens: output, ..Usage::default() };
                Charge::Settled { usage, cost: price().cost(&usage) }
            }),
            Step::WholeHold { which } => self.end(which, |_| Charge::WholeHold),
            Step::Void { which, load } => self.end(which, |_| Charge::Voided { load }),
            Step::Lose { which } => self.end(which, |_| Charge::Lost),
            Step::EndAgain { which } => self.end_again(which),
            Step::Crash => self.crash(),
            Step::MoveClock { seconds } => self.now = Timestamp::from_millis(self.now.millis() + seconds * 1000),
            // Windows that ended are forgotten and made anew from the rows if the clock comes back to them.
            Step::Prune => drop(self.in_transaction(|book| book.prune(Timestamp::EPOCH, self.now, &zone())).unwrap()),
        }
        self.check();
    }

    /// Laws 4 and 5, for every user and window.
    fn check(&self) {
        let windows: Vec<_> = ALL.iter().map(|per| self.window(*per)).collect();
        for user in (0..3).map(Self::user) {
            let said = self.book.standing(user, self.now, &windows).unwrap();
            for (window, standing) in windows.iter().zip(&said.windows) {
                let sum = self.book.sum_of_rows(&user.to_string(), window).unwrap();
                assert_eq!(*standing, sum, "law 4: the rows of a window are what it says: {window:?}");
                assert_eq!(*standing, self.expected(Some(user), window), "the model agrees: {window:?}");
            }
            let open = self.rows.iter().filter(|row| row.user == user && row.ended.is_none()).count();
            assert_eq!(said.open, i64::try_from(open).unwrap(), "law 5: open requests are what is held");
        }
        let ids: HashSet<_> = self.rows.iter().map(|row| row.id).collect();
        assert_eq!(ids.len(), self.rows.len());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-shm"] {
            let mut name = self.path.clone().into_os_string();
            name.push(suffix);
            drop(std::fs::remove_file(name));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_laws_hold_after_every_step(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.apply(&step);
        }
    }
}

#[test]
fn rows_that_are_pruned_leave_every_window_as_it_was() {
    let mut world = World::new();
    // The month was never limited, so no window of it was made while the rows were there.
    world.hold(0, 1, 100, 100);
    world.end(0, |_| Charge::Settled { usage: Usage { input_tokens: 70, ..Usage::default() }, cost: MicroUsd(11) });
    let month = world.window(Per::Month);
    let later = world.now.plus(Duration::from_hours(24 * 3));
    assert!(world.in_transaction(|book| book.prune(later, later, &zone())).unwrap() > 0);
    assert_eq!(world.book.sum_of_rows(&World::user(0).to_string(), &month).unwrap(), Standing::default());
    let lifetime = window(Per::Lifetime, later, &zone(), None);
    let said = world.book.standing(World::user(0), world.now, &[lifetime, month]).unwrap();
    let used = Amounts { requests: 1, tokens: 70, cost: 11 };
    assert_eq!((said.windows[0].used, said.windows[1].used), (used, used));
}

#[test]
fn what_was_never_sent_is_pruned_all_the_same_and_said_aloud() {
    let said = Arc::new(Mutex::new(Vec::new()));
    let (mut world, writer) = (World::new(), said.clone());
    world.book = Book::open(&world.path, Uuid::now_v7()).unwrap().with_outbox(true);
    for _ in 0..3 {
        world.hold(0, 3, 100, 100);
        world.end(0, |_| Charge::Lost);
    }
    let sent = world.book.unsent(1, &[]).unwrap().remove(0).id;
    world.book.mark(&[sent], Mark::Sent).unwrap();
    let later = world.now.plus(Duration::from_hours(24 * 3));
    let log = tracing_subscriber::fmt().with_writer(move || Said(writer.clone())).finish();
    let gone = tracing::subscriber::with_default(log, || {
        world.in_transaction(|book| book.prune(later, later, &zone())).unwrap()
    });
    assert!(gone >= 3);
    assert_eq!(world.book.unsent_lag().unwrap(), Lag::default());
    let said = String::from_utf8(said.lock().unwrap().clone()).unwrap();
    assert!(said.contains("never reached log_request") && said.contains('2'), "{said:?}");
}

/// A log to read.
struct Said(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
