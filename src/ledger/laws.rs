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
use secrecy::SecretString;
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::moving::Still;
use super::postgres::Lane;
use super::sqlite::Book;
use super::{Charge, Ending, HoldRequest, Lag, Mark, NoHold, Settlement, UserStanding};
use crate::clock::Timestamp;
use crate::config::StoreUrl;
use crate::plan::{
    Amounts, Ask, Credit, Granted, Hold, Limit, Per, Period, Plan, PlanSource, Standing, Unit, Window, window,
};
use crate::price::{MicroUsd, PerMillion, Price, Tokenizer, Usage};

#[path = "../../tests/it/support/postgres.rs"]
#[allow(
    dead_code,
    clippy::all,
    clippy::pedantic,
    clippy::let_underscore_must_use,
    reason = "the door tests' own server; they use all of it"
)]
mod server;
use server::Postgres;

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
    Hold {
        user: u8,
        plan: u8,
        input: u64,
        cap: u32,
    },
    Settle {
        which: usize,
        input: u64,
        output: u64,
    },
    WholeHold {
        which: usize,
    },
    Void {
        which: usize,
        load: bool,
    },
    Lose {
        which: usize,
    },
    EndAgain {
        which: usize,
    },
    Crash,
    MoveClock {
        seconds: i64,
    },
    Prune,
    /// What comes next shares a transaction (on SQLite), until it is committed or undone.
    Begin,
    Commit,
    Undo,
    Credit {
        user: u8,
        plan: u8,
        which: usize,
        amount: i64,
    },
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
        1 => Just(Step::Prune),
        3 => Just(Step::Begin),
        2 => Just(Step::Commit),
        1 => Just(Step::Undo),
        2 => (0..3u8, 0..3u8, which(), 1..2_000i64)
            .prop_map(|(user, plan, which, amount)| Step::Credit { user, plan, which, amount })
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

/// A ledger on one of the two databases, as the laws see it.
enum Subject {
    Sqlite { path: PathBuf, book: Box<Book>, is_open: bool },
    Postgres { runtime: Runtime, lane: Box<Lane> },
}

impl Subject {
    fn sqlite() -> Self {
        let path = std::env::temp_dir().join(format!("tollgate-laws-{}.db", Uuid::now_v7()));
        let book = Box::new(Book::open(&path, Uuid::now_v7()).unwrap());
        book.forget_durability();
        Self::Sqlite { path, book, is_open: false }
    }

    /// A lane to an emptied database.
    fn postgres(url: &SecretString) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let lane = Box::new(runtime.block_on(Lane::for_laws(url, zone())));
        runtime.block_on(lane.empty());
        Self::Postgres { runtime, lane }
    }

    fn hold(&mut self, request: HoldRequest) -> Result<Hold, NoHold> {
        match self {
            Self::Sqlite { book, is_open, .. } => step(book, *is_open, |book| book.batch().hold(&request)).unwrap(),
            Self::Postgres { runtime, lane } => runtime.block_on(lane.hold(request)),
        }
    }

    fn end(&mut self, ending: &Ending, now: Timestamp) -> bool {
        match self {
            Self::Sqlite { book, is_open, .. } => step(book, *is_open, |book| book.end(ending, now)).unwrap(),
            Self::Postgres { runtime, lane } => runtime.block_on(lane.end(ending.clone(), now)),
        }
    }

    /// The process dies and another one starts. How many requests the sweep ended.
    fn crash(&mut self, now: Timestamp) -> usize {
        match self {
            Self::Sqlite { path, book, is_open } => {
                if std::mem::take(is_open) {
                    book.roll_back();
                }
                **book = Book::open(path, Uuid::now_v7()).unwrap();
                book.forget_durability();
                step(book, false, |book| book.sweep(now, true, u32::MAX)).unwrap()
            }
            Self::Postgres { runtime, lane } => runtime.block_on(lane.die_and_sweep(now)),
        }
    }

    fn prune(&mut self, before: Timestamp, now: Timestamp) -> usize {
        match self {
            Self::Sqlite { book, is_open, .. } => {
                step(book, *is_open, |book| book.prune(before, now, &zone())).unwrap()
            }
            Self::Postgres { runtime, lane } => runtime.block_on(lane.prune(before, now)),
        }
    }

    fn standing(&self, user: Uuid, now: Timestamp, windows: &[Window]) -> UserStanding {
        match self {
            Self::Sqlite { book, .. } => book.standing(user, now, windows).unwrap(),
            Self::Postgres { runtime, lane } => runtime.block_on(lane.standing(user, windows)),
        }
    }

    fn sum_of_rows(&self, user: Uuid, window: &Window) -> Standing {
        match self {
            Self::Sqlite { book, .. } => book.sum_of_rows(&user.to_string(), window).unwrap(),
            Self::Postgres { runtime, lane } => runtime.block_on(lane.sum_of_rows(user, window)),
        }
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let Self::Sqlite { path, .. } = self else { return };
        for suffix in ["", "-wal", "-shm"] {
            let mut name = path.clone().into_os_string();
            name.push(suffix);
            drop(std::fs::remove_file(name));
        }
    }
}

/// In the transaction that is open, or in one of its own.
fn step<T>(book: &Book, is_open: bool, step: impl FnOnce(&Book) -> T) -> T {
    if is_open {
        return step(book);
    }
    book.begin().unwrap();
    let done = step(book);
    book.commit().unwrap();
    done
}

struct World {
    ledger: Subject,
    rows: Vec<Row>,
    now: Timestamp,
    made: u64,
    /// Whose, which limit's, how much, and when it was given.
    credits: Vec<(Uuid, Limit, Timestamp)>,
    /// The rows as they were before the transaction that is open.
    before: Option<Vec<Row>>,
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
    fn new(ledger: Subject) -> Self {
        let now = Timestamp::parse("2026-03-28T23:59:20Z").unwrap();
        Self { ledger, rows: Vec::new(), now, made: 0, credits: Vec::new(), before: None }
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

    fn request(&mut self, user: u8, plan: u8, input: u64, cap: u32) -> HoldRequest {
        self.made += 1;
        let id = uuid::Builder::from_unix_timestamp_millis(
            u64::try_from(self.now.millis()).unwrap(),
            &self.made.to_be_bytes().repeat(2)[6..16].try_into().unwrap(),
        )
        .into_uuid();
        HoldRequest {
            id,
            user_id: Self::user(user),
            now: self.now,
            plan: plan.to_string(),
            endpoint: "/v1/chat/completions",
            model: "m".to_owned(),
            upstream: "u".to_owned(),
            ask: Ask { price: price(), input_tokens: input, output_cap: cap, output_floor: cap.min(64), choices: 1 },
            limits: self.granted(Self::user(user), plan).limits_at(self.now, &zone()),
            concurrent: Some(CONCURRENT),
            ceiling: Some((CEILING, self.window(Per::Day))),
        }
    }

    /// A plan as it applies to a user, with all credits that the user ever had.
    fn granted(&self, user: Uuid, plan: u8) -> Granted {
        let mine = self.credits.iter().filter(|(whose, ..)| *whose == user);
        let credit = |(_, limit, given_at): &(Uuid, Limit, Timestamp)| {
            let Limit { per, unit, amount } = *limit;
            Credit { per, unit, amount, given_at: *given_at }
        };
        let credits = mine.map(credit).collect();
        let plan = Plan {
            name: plan.to_string(),
            models: vec!["m".to_owned()],
            max_output_tokens: u32::MAX,
            max_input_tokens: u32::MAX,
            max_choices: 1,
            reasoning_effort_max: None,
            concurrent_requests: Some(CONCURRENT),
            limits: limits(plan),
        };
        let period = Some(period());
        Granted { plan: Arc::new(plan), source: PlanSource::Default, period, unknown: Vec::new(), credits }
    }

    /// Law 1 in its own words: a limit, and what was given on top in this very window.
    fn raised(&self, user: Uuid, limit: Limit) -> (Limit, Window) {
        let window = self.window(limit.per);
        let more = self.credits.iter().filter(|(whose, of, at)| {
            *whose == user && (of.per, of.unit) == (limit.per, limit.unit) && window.start <= *at && *at < window.end
        });
        (Limit { amount: limit.amount + more.map(|(_, of, _)| of.amount).sum::<i64>(), ..limit }, window)
    }

    fn hold(&mut self, user: u8, plan: u8, input: u64, cap: u32) {
        let request = self.request(user, plan, input, cap);
        let HoldRequest { id, user_id: user, ask, .. } = request.clone();
        let limits: Vec<_> = limits(plan).into_iter().map(|limit| self.raised(user, limit)).collect();
        let open = self.rows.iter().filter(|row| row.user == user && row.ended.is_none()).count();
        let answer = self.ledger.hold(request);
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
        let Row { id, user: user_id, .. } = self.rows[*place];
        let ending = Ending { id, user_id, settlement: Settlement { charge, flags: vec![], ttft_ms: None } };
        assert!(self.ledger.end(&ending, self.now));
        self.rows[*place].ended = Some(charge);
    }

    /// Law 3: an end that comes twice, or for a request that was never held, changes nothing.
    fn end_again(&mut self, which: usize) {
        let ended: Vec<_> = self.rows.iter().filter(|row| row.ended.is_some()).map(|row| row.id).collect();
        let id = ended.get(which.checked_rem(ended.len()).unwrap_or(0)).copied().unwrap_or_else(Uuid::now_v7);
        let ending = Ending { id, user_id: Self::user(0), settlement: Settlement::lost() };
        assert!(!self.ledger.end(&ending, self.now), "law 3: a request ended twice");
    }

    /// Law 5: what a process held is lost when the next one starts.
    fn crash(&mut self) {
        self.rows = self.before.take().unwrap_or_else(|| std::mem::take(&mut self.rows));
        let swept = self.ledger.crash(self.now);
        let open = self.rows.iter().filter(|row| row.ended.is_none()).count();
        assert_eq!(swept, open, "law 5: the sweep ends what is open, once");
        for row in self.rows.iter_mut().filter(|row| row.ended.is_none()) {
            row.ended = Some(Charge::Lost);
        }
    }

    /// Begins a transaction, or ends the one that is open.
    fn transaction(&mut self, step: &Step) {
        let Subject::Sqlite { book, is_open, .. } = &mut self.ledger else { return };
        match (step, *is_open) {
            (Step::Begin, false) => {
                book.begin().unwrap();
                (*is_open, self.before) = (true, Some(self.rows.clone()));
            }
            (Step::Commit, true) => {
                book.commit().unwrap();
                (*is_open, self.before) = (false, None);
            }
            (Step::Undo, true) => {
                book.roll_back();
                *is_open = false;
                self.rows = self.before.take().unwrap();
            }
            _ => {}
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Begin | Step::Commit | Step::Undo => self.transaction(step),
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
            Step::Prune => drop(self.ledger.prune(Timestamp::EPOCH, self.now).to_string()),
            Step::Credit { user, plan, which, amount } => {
                let limits = limits(plan);
                let limit = Limit { amount, ..limits[which % limits.len()] };
                self.credits.push((Self::user(user), limit, self.now));
            }
        }
        self.check();
    }

    /// Laws 4 and 5, for every user and window.
    fn check(&self) {
        let windows: Vec<_> = ALL.iter().map(|per| self.window(*per)).collect();
        for user in (0..3).map(Self::user) {
            let said = self.ledger.standing(user, self.now, &windows);
            for (window, standing) in windows.iter().zip(&said.windows) {
                let sum = self.ledger.sum_of_rows(user, window);
                assert_eq!(*standing, sum, "law 4: the rows of a window are what it says: {window:?}");
                assert_eq!(*standing, self.expected(Some(user), window), "the model agrees: {window:?}");
            }
            let open = self.rows.iter().filter(|row| row.user == user && row.ended.is_none()).count();
            assert_eq!(said.open, i64::try_from(open).unwrap(), "law 5: open requests are what is held");
        }
        if let Subject::Sqlite { book, is_open: false, .. } = &self.ledger
            && let Some(said) = book.app_standing(self.now, &self.window(Per::Day))
        {
            assert_eq!(said, self.expected(None, &self.window(Per::Day)), "law 4 for the whole app");
        }
        let ids: HashSet<_> = self.rows.iter().map(|row| row.id).collect();
        assert_eq!(ids.len(), self.rows.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 384, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_laws_hold_after_every_step_on_sqlite(steps in steps()) {
        let mut world = World::new(Subject::sqlite());
        for step in steps {
            world.apply(&step);
        }
    }
}

#[test]
fn the_laws_hold_after_every_step_on_postgres() {
    let server = Postgres::start_blocking(false, "");
    let url = SecretString::from(server.url("postgres"));
    let config = ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() };
    let tried = proptest::test_runner::TestRunner::new(config).run(&steps(), |steps| {
        let mut world = World::new(Subject::postgres(&url));
        for step in &steps {
            world.apply(step);
        }
        Ok(())
    });
    tried.unwrap();
}

/// One of a batch: a hold of a user, or the end of what somebody has open, which may come twice.
#[derive(Clone, Debug)]
enum Piece {
    Hold { user: u8, input: u64, cap: u32 },
    End { which: usize, charge: Charge, twice: bool },
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let charge = prop_oneof![
        3 => Just(Charge::Voided { load: true }),
        1 => Just(Charge::WholeHold),
        1 => Just(Charge::Lost),
    ];
    let piece = prop_oneof![
        3 => (0..3u8, 1..300u64, 1..800u32).prop_map(|(user, input, cap)| Piece::Hold { user, input, cap }),
        2 => (any::<usize>(), charge, any::<bool>()).prop_map(|(which, charge, twice)| Piece::End { which, charge, twice }),
    ];
    prop::collection::vec(piece, 1..24)
}

impl World {
    /// A batch goes in as a whole. What was open before it can be ended in it.
    fn batch(&mut self, pieces: &[Piece]) {
        let mut open: Vec<_> = (0..self.rows.len()).filter(|n| self.rows[*n].ended.is_none()).collect();
        let (mut jobs, mut asked) = (Vec::new(), Vec::new());
        for piece in pieces {
            match piece {
                // Each user has a plan of their own: what it says then holds for all that they have.
                Piece::Hold { user, input, cap } => {
                    let request = self.request(*user, *user, *input, *cap);
                    asked.push((request.id, request.user_id));
                    jobs.push(Ok(request));
                }
                Piece::End { which, charge, twice } if !open.is_empty() => {
                    let row = &mut self.rows[open.remove(which % open.len())];
                    row.ended = Some(*charge);
                    let settlement = Settlement { charge: *charge, flags: vec![], ttft_ms: None };
                    let ending = Ending { id: row.id, user_id: row.user, settlement };
                    jobs.extend(std::iter::repeat_n(Err(ending), 1 + usize::from(*twice)));
                }
                Piece::End { .. } => {}
            }
        }
        let Subject::Postgres { runtime, lane } = &mut self.ledger else { panic!("made on Postgres") };
        let answers = runtime.block_on(lane.all(jobs));
        for ((id, user), answer) in asked.into_iter().zip(answers) {
            if let Ok(hold) = answer {
                self.rows.push(Row { id, user, at: self.now, held: hold.amounts, ended: None });
            }
        }
        self.check();
        self.check_limits();
    }

    /// Law 1, where nobody is charged more than was held.
    fn check_limits(&self) {
        let all = |standing: Standing, unit| standing.used.plus(standing.held).of(unit);
        for user in 0..3_u8 {
            for limit in limits(user) {
                let said = self.expected(Some(Self::user(user)), &self.window(limit.per));
                assert!(all(said, limit.unit) <= limit.amount, "law 1: {limit:?} of user {user} is at {said:?}");
            }
            let open = self.rows.iter().filter(|row| row.user == Self::user(user) && row.ended.is_none()).count();
            assert!(open <= CONCURRENT as usize, "law 1: {open} requests are open");
        }
        let app = self.expected(None, &self.window(Per::Day));
        assert!(all(app, Unit::CostUsd) <= CEILING, "law 1: the ceiling is at {app:?}");
        let Subject::Postgres { runtime, lane } = &self.ledger else { panic!("made on Postgres") };
        if self.rows.iter().any(|row| self.window(Per::Day).start <= row.at) {
            assert_eq!(runtime.block_on(lane.app_window(&self.window(Per::Day))), app, "law 4 for the whole app");
        }
    }
}

#[test]
fn the_laws_hold_after_every_batch_whoever_is_in_it_how_often() {
    let server = Postgres::start_blocking(false, "");
    let url = SecretString::from(server.url("postgres"));
    let config = ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() };
    let batches = prop::collection::vec((pieces(), 0..20_000i64), 1..12);
    let tried = proptest::test_runner::TestRunner::new(config).run(&batches, |batches| {
        let mut world = World::new(Subject::postgres(&url));
        for (pieces, seconds) in &batches {
            world.batch(pieces);
            world.now = world.now.plus(Duration::from_secs(u64::try_from(*seconds).unwrap()));
        }
        Ok(())
    });
    tried.unwrap();
}

/// The month was never limited, so no window of it was made while the rows were there.
fn rows_that_are_pruned_leave_every_window_as_it_was(ledger: Subject) {
    let mut world = World::new(ledger);
    world.hold(0, 1, 100, 100);
    world.end(0, |_| Charge::Settled { usage: Usage { input_tokens: 70, ..Usage::default() }, cost: MicroUsd(11) });
    let month = world.window(Per::Month);
    let later = world.now.plus(Duration::from_hours(24 * 3));
    assert!(world.ledger.prune(later, later) > 0);
    assert_eq!(world.ledger.sum_of_rows(World::user(0), &month), Standing::default());
    let lifetime = window(Per::Lifetime, later, &zone(), None);
    let said = world.ledger.standing(World::user(0), world.now, &[lifetime, month]);
    let used = Amounts { requests: 1, tokens: 70, cost: 11 };
    assert_eq!((said.windows[0].used, said.windows[1].used), (used, used));
}

#[test]
fn pruning_on_sqlite_changes_no_window() {
    rows_that_are_pruned_leave_every_window_as_it_was(Subject::sqlite());
}

#[test]
fn pruning_on_postgres_changes_no_window() {
    let server = Postgres::start_blocking(false, "");
    rows_that_are_pruned_leave_every_window_as_it_was(Subject::postgres(&SecretString::from(server.url("postgres"))));
}

/// An export of a ledger, from a thread that may block.
fn exported(store: &StoreUrl) -> String {
    let mut text = Vec::new();
    Still::open(store).unwrap().export(&mut text, |_| {}).unwrap();
    String::from_utf8(text).unwrap()
}

/// An altered export whose checksum is right.
fn sealed(text: &str) -> String {
    let (rows, end) = text.trim_end().rsplit_once('\n').unwrap();
    let rows = format!("{rows}\n");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, rows.as_bytes());
    let mut end: serde_json::Value = serde_json::from_str(end).unwrap();
    end["sha256"] = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat().into();
    format!("{rows}{end}\n")
}

#[test]
fn a_ledger_moves_to_postgres_and_back_exactly_or_not_at_all() {
    let server = Postgres::start_blocking(false, "");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let mut world = World::new(Subject::sqlite());
    for step in 0..40_u32 {
        world.hold(u8::try_from(step % 3).unwrap(), 3, 50, 40);
        world
            .end(0, |row| if step % 2 == 0 { Charge::Lost } else { Charge::Voided { load: row.at.millis() % 2 == 0 } });
        world.now = world.now.plus(Duration::from_secs(977));
    }
    world.hold(0, 1, 50, 40);
    let Subject::Sqlite { path, .. } = &world.ledger else { panic!("made on SQLite") };
    let sqlite = StoreUrl::Sqlite(path.clone());
    let text = exported(&sqlite);
    let postgres = StoreUrl::Postgres(SecretString::from(server.url("postgres")));
    let import = |text: &str| Still::open_or_make(&postgres).unwrap().import(text.as_bytes(), |_| {});
    let without_lifetime = text.lines().filter(|line| !line.contains("\"lifetime\"")).collect::<Vec<_>>().join("\n");
    for (wrong, why) in [
        (text.lines().take(20).collect::<Vec<_>>().join("\n"), "cut short"),
        (text.replacen("\"lost\"", "\"gone\"", 1), "Postgres"),
        (sealed(&without_lifetime), "adds up"),
        (without_lifetime, "not as it was written"),
        (format!("{text}{{}}\n"), "more lines follow"),
        ("{}".to_owned(), "does not begin"),
    ] {
        let told = import(&wrong).unwrap_err().to_string();
        assert!(told.contains(why), "{why}: {told}");
    }
    import(&text).unwrap();
    assert_eq!(exported(&postgres), text, "what went in comes out");
    assert!(import(&text).unwrap_err().to_string().contains("not empty"));
    let Subject::Sqlite { path: other, .. } = &Subject::sqlite() else { panic!("made on SQLite") };
    let back = StoreUrl::Sqlite(other.clone());
    Still::open_or_make(&back).unwrap().import(exported(&postgres).as_bytes(), |_| {}).unwrap();
    assert_eq!(exported(&back), text);
}

#[test]
fn what_was_never_sent_is_pruned_all_the_same_and_said_aloud() {
    let said = Arc::new(Mutex::new(Vec::new()));
    let (mut world, writer) = (World::new(Subject::sqlite()), said.clone());
    let Subject::Sqlite { path, book, .. } = &mut world.ledger else { panic!("made on SQLite") };
    **book = Book::open(path, Uuid::now_v7()).unwrap().with_outbox(true);
    for _ in 0..3 {
        world.hold(0, 3, 100, 100);
        world.end(0, |_| Charge::Lost);
    }
    let Subject::Sqlite { book, .. } = &world.ledger else { panic!("made on SQLite") };
    let sent = book.unsent(1, &[]).unwrap().remove(0).id;
    book.mark(&[sent], Mark::Sent).unwrap();
    let later = world.now.plus(Duration::from_hours(24 * 3));
    let log = tracing_subscriber::fmt().with_writer(move || Said(writer.clone())).finish();
    let gone = tracing::subscriber::with_default(log, || world.ledger.prune(later, later));
    assert!(gone >= 3);
    let Subject::Sqlite { book, .. } = &world.ledger else { panic!("made on SQLite") };
    assert_eq!(book.unsent_lag().unwrap(), Lag::default());
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

#[test]
fn a_hold_that_comes_in_after_it_was_voided_is_not_made() {
    let server = Postgres::start_blocking(false, "");
    let mut world = World::new(Subject::postgres(&SecretString::from(server.url("postgres"))));
    let request = world.request(0, 3, 100, 100);
    let Subject::Postgres { runtime, lane } = &mut world.ledger else { panic!("made on Postgres") };
    assert_eq!(runtime.block_on(lane.hold_late(request)), 0, "law 5: nothing is held when nothing is open");
}

fn void(row: &Row) -> Ending {
    Ending { id: row.id, user_id: row.user, settlement: Settlement::void() }
}

#[test]
fn what_is_refused_for_its_values_takes_no_ending_with_it() {
    let server = Postgres::start_blocking(false, "");
    let mut world = World::new(Subject::postgres(&SecretString::from(server.url("postgres"))));
    world.hold(0, 3, 100, 100);
    let odd = HoldRequest { model: "no\0text".to_owned(), ..world.request(0, 3, 100, 100) };
    let ending = void(&world.rows[0]);
    let Subject::Postgres { runtime, lane } = &mut world.ledger else { panic!("made on Postgres") };
    runtime.block_on(lane.batch(vec![odd], vec![ending]));
    assert_eq!(runtime.block_on(lane.standing(World::user(0), &[])).open, 0);
}

#[test]
fn an_ending_waits_until_the_operator_has_put_the_database_right() {
    let server = Postgres::start_blocking(false, "");
    let mut world = World::new(Subject::postgres(&SecretString::from(server.url("postgres"))));
    world.hold(0, 3, 100, 100);
    let ending = void(&world.rows[0]);
    let Subject::Postgres { runtime, lane } = &mut world.ledger else { panic!("made on Postgres") };
    runtime.block_on(async {
        lane.by_hand("alter function tollgate_ledger.write rename to mislaid").await;
        lane.batch(Vec::new(), vec![ending]).await;
        lane.by_hand("alter function tollgate_ledger.mislaid rename to write").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        lane.batch(Vec::new(), Vec::new()).await;
        assert_eq!(lane.standing(World::user(0), &[]).await.open, 0);
    });
}

#[test]
fn a_database_that_hangs_is_waited_for_once_and_not_by_each() {
    let server = Postgres::start_blocking(false, "");
    let mut world = World::new(Subject::postgres(&SecretString::from(server.url("postgres"))));
    let holds = (0..3).map(|user| world.request(user, 3, 100, 100)).collect();
    let (now, more) = (world.now, world.request(0, 3, 100, 100));
    let Subject::Postgres { runtime, lane } = &mut world.ledger else { panic!("made on Postgres") };
    runtime.block_on(async {
        lane.by_hand(
            "create or replace function tollgate_ledger.write(jobs jsonb) returns jsonb language plpgsql as $$ begin
                if jsonb_array_length(jobs) > 1 then raise exception using errcode = '22023'; end if;
                perform pg_sleep(100);
                return '[]';
             end $$",
        )
        .await;
        let begun = std::time::Instant::now();
        lane.batch(holds, Vec::new()).await;
        lane.batch(vec![more], Vec::new()).await;
        assert_eq!(lane.ask_standing(World::user(0), now).await, None);
        let waited = begun.elapsed();
        assert!(waited < Duration::from_secs(7), "{waited:?}");
    });
}

#[test]
fn a_role_may_be_given_an_empty_schema_to_fill() {
    let server = Postgres::start_blocking(false, "");
    let by_operator = "create role tollgate login; create schema tollgate_ledger authorization tollgate";
    server.psql("postgres", "postgres", by_operator).unwrap();
    let mut world = World::new(Subject::postgres(&SecretString::from(server.url_as("tollgate", "postgres"))));
    world.hold(0, 0, 100, 100);
    world.check();
}

/// Each user of a limit by the minute leaves a window a minute: they must go as fast as they come.
#[test]
fn forgotten_windows_count_as_pruned_so_that_more_are_looked_for() {
    let server = Postgres::start_blocking(false, "");
    let mut world = World::new(Subject::postgres(&SecretString::from(server.url("postgres"))));
    world.hold(0, 0, 100, 100);
    world.end(0, |_| Charge::Voided { load: true });
    let later = world.now.plus(Duration::from_hours(24 * 3));
    assert!(world.ledger.prune(Timestamp::EPOCH, later) > 0);
}

#[test]
fn a_new_day_of_the_ceiling_begins_while_the_table_is_vacuumed() {
    let server = Postgres::start_blocking(false, "");
    let mut world = World::new(Subject::postgres(&SecretString::from(server.url("postgres"))));
    let request = world.request(0, 3, 100, 100);
    let Subject::Postgres { runtime, lane } = &mut world.ledger else { panic!("made on Postgres") };
    runtime.block_on(async {
        let _vacuum = lane.vacuum().await;
        tokio::time::timeout(Duration::from_secs(3), lane.hold(request)).await.unwrap().unwrap();
    });
}

/// Several processes begin a day of the ceiling at once: it says what their rows add up to.
#[test]
fn a_new_day_of_the_ceiling_misses_nobodys_rows() {
    let server = Postgres::start_blocking(false, "");
    let url = SecretString::from(server.url("postgres"));
    let mut world = World::new(Subject::postgres(&url));
    let runtime = Runtime::new().unwrap();
    for _ in 0..10 {
        world.now = world.now.plus(Duration::from_hours(24));
        let day = world.window(Per::Day);
        let requests: Vec<_> = (0..24).map(|user| world.request(user, 3, 10, 10)).collect();
        runtime.block_on(async {
            let mut holds = tokio::task::JoinSet::new();
            for mut request in requests {
                let url = url.clone();
                // Some have no ceiling, and make none.
                request.concurrent = None;
                request.ceiling = request.ceiling.filter(|_| request.user_id.as_u128() % 2 == 0);
                holds.spawn(async move { Lane::for_laws(&url, zone()).await.hold(request).await.unwrap() });
            }
            holds.join_all().await;
        });
        let Subject::Postgres { runtime, lane } = &world.ledger else { panic!("made on Postgres") };
        assert_eq!(runtime.block_on(lane.app_window(&day)), runtime.block_on(lane.sum_for("app", &day)));
    }
}

/// Each of them fits into what is left of it, all of them do not.
#[test]
fn many_users_in_one_batch_never_pass_the_ceiling_together() {
    let server = Postgres::start_blocking(false, "");
    let mut world = World::new(Subject::postgres(&SecretString::from(server.url("postgres"))));
    for users in [0..100, 100..200] {
        let holds = users.map(|user| Ok(world.request(user, 3, 500, 400))).collect();
        let day = world.window(Per::Day);
        let Subject::Postgres { runtime, lane } = &mut world.ledger else { panic!("made on Postgres") };
        let answers = runtime.block_on(lane.all(holds));
        let held = runtime.block_on(lane.app_window(&day)).held.cost;
        let granted: i64 = answers.iter().flatten().map(|hold| hold.amounts.cost).sum();
        assert!(answers.iter().any(Result::is_err), "all of {} fit: ask for more", answers.len());
        assert!(held <= CEILING && held > CEILING / 2, "{held} of {CEILING} are held");
        assert!(granted <= held, "{granted} were granted, {held} are held");
    }
}

/// Else many processes at one ceiling are soon busy with nothing but waiting for it.
#[test]
fn a_batch_waits_for_the_ceiling_once_and_not_by_user() {
    let server = Postgres::start_blocking(false, "");
    let mut world = World::new(Subject::postgres(&SecretString::from(server.url("postgres"))));
    world.hold(0, 3, 10, 10);
    let holds = (1..9).map(|user| world.request(user, 3, 10, 10)).collect();
    let Subject::Postgres { runtime, lane } = &mut world.ledger else { panic!("made on Postgres") };
    runtime.block_on(async {
        let slow = lane.spend_slowly().await;
        let begun = std::time::Instant::now();
        lane.batch(holds, Vec::new()).await;
        assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
        drop(slow);
        tokio::time::sleep(Duration::from_millis(100)).await;
        lane.batch(Vec::new(), Vec::new()).await;
        assert_eq!(lane.standing(World::user(8), &[]).await.open, 1, "it is kept, and goes in afterwards");
    });
}
