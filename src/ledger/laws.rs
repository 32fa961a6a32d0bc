//! The laws of the ledger, tried with random holds, endings, crashes, clock steps and prunings against a plain model.
//!
//! The model is a list of requests; what a window says is the sum over that list, by the law's own words. After each
//! step the book must say the same.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "a model of small numbers, in a test"
)]

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::tz::TimeZone;
use proptest::prelude::*;
use secrecy::SecretString;
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::postgres::Lane;
use super::sqlite::Book;
use super::{
    Charge, Ending, Failure, HoldRequest, IdempotencyKey, Lag, Mark, NoHold, Repetition,
    Settlement, UserBalance, grants,
};
use crate::clock::Timestamp;
use crate::config::StoreUrl;
use crate::ledger::grants::{NewGrant, WHOLE_SHARE};
use crate::ledger::read::connection::{Db, sqlite_query};
use crate::ledger::tools::export::Still;
use crate::plan::{
    Amounts, Balance, Credit, CreditBalance, EffectivePlan, Hold, Limit, LimitCounter, PaidBy, Per,
    Period, Plan, PlanSource, Quote, Unit, Window, window,
};
use crate::price::{MicroUsd, Price, Rate, Rates, Usage};

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

#[path = "../../tests/it/support/tools.rs"]
#[allow(
    dead_code,
    clippy::all,
    clippy::pedantic,
    reason = "the door tests' own; they use all of it"
)]
mod tools;
use tools::{Tool, installed};

const ALL: [Per; 6] = [
    Per::Minute,
    Per::Hour,
    Per::Day,
    Per::Month,
    Per::Period,
    Per::Lifetime,
];

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

/// A key, and which of two requests it is sent with.
#[derive(Clone, Copy, Debug)]
struct Key {
    name: u8,
    body: u8,
}

fn key() -> impl Strategy<Value = Option<Key>> {
    prop::option::of((0..3u8, 0..2u8).prop_map(|(name, body)| Key { name, body }))
}

#[derive(Clone, Debug)]
enum Step {
    Hold {
        user: u8,
        plan: u8,
        input: u64,
        cap: u32,
        key: Option<Key>,
    },
    Settle {
        which: usize,
        input: u64,
        output: u64,
    },
    WholeHold {
        which: usize,
    },
    /// Another model is to answer: its hold takes the place of the one that an open request has.
    Replace {
        which: usize,
        input: u64,
        cap: u32,
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
    Grant {
        user: u8,
        amount: i64,
        seconds: Option<u64>,
    },
    Refund {
        which: usize,
        share: u32,
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
        8 => (0..3u8, 0..4u8, 1..3_000u64, 1..2_000u32, key())
            .prop_map(|(user, plan, input, cap, key)| Step::Hold { user, plan, input, cap, key }),
        5 => (which(), 0..4_000u64, 0..3_000u64).prop_map(|(which, input, output)| Step::Settle { which, input, output }),
        1 => which().prop_map(|which| Step::WholeHold { which }),
        4 => (which(), 1..3_000u64, 1..2_000u32).prop_map(|(which, input, cap)| Step::Replace { which, input, cap }),
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
            .prop_map(|(user, plan, which, amount)| Step::Credit { user, plan, which, amount }),
        3 => (0..3u8, 1..2_500i64, prop::option::of(0..100_000u64))
            .prop_map(|(user, amount, seconds)| Step::Grant { user, amount, seconds }),
        2 => (which(), prop_oneof![Just(0), Just(WHOLE_SHARE), 0..WHOLE_SHARE])
            .prop_map(|(which, share)| Step::Refund { which, share })
    ];
    prop::collection::vec(step, 1..60)
}

/// A request as the laws describe it.
#[derive(Clone, Debug)]
struct Row {
    id: Uuid,
    user: Uuid,
    /// The name in the plan that it goes by.
    model: &'static str,
    at: Timestamp,
    held: Amounts,
    ended: Option<Charge>,
    key: Option<Key>,
    /// What it was held by, and what it holds. (Of the tests of batches nothing is replaced.)
    hold: Option<(Box<HoldRequest>, Hold)>,
    paid_by: PaidBy,
    /// What each grant, by its place, holds of it; then what it paid.
    grants: Vec<(usize, i64)>,
}

/// A grant as law 9 describes it.
#[derive(Clone, Debug)]
struct GrantModel {
    user: Uuid,
    source: String,
    amount: i64,
    at: Timestamp,
    end: Option<Timestamp>,
    refunded: i64,
    spent: i64,
    held: i64,
}

impl GrantModel {
    fn left(&self) -> i64 {
        (self.amount - self.spent - self.held - self.refunded).max(0)
    }

    fn lives_at(&self, now: Timestamp) -> bool {
        self.end.is_none_or(|end| now < end)
    }
}

/// The names of every plan.
const MODELS: [&str; 2] = ["fast", "smart"];

/// The name that a request of so much input goes by.
fn model_of(input: u64) -> &'static str {
    MODELS[usize::try_from(input % 2).unwrap()]
}

/// What a request uses beside tokens, by its tokens.
fn beside_tokens(input_tokens: u64, output_tokens: u64) -> Usage {
    Usage {
        input_tokens,
        output_tokens,
        images: input_tokens % 3,
        audio_seconds: input_tokens % 7,
        characters: input_tokens % 11,
        ..Usage::default()
    }
}

impl Row {
    /// What credits pay, or hold while it is open.
    fn of_credits(&self) -> i64 {
        self.grants.iter().map(|(_, part)| part).sum()
    }

    /// What counts in the windows of its user.
    fn user_standing(&self, per: Per) -> Balance {
        let mut standing = self.standing(per);
        let of = if self.ended.is_none() {
            &mut standing.held
        } else {
            &mut standing.used
        };
        of.cost -= self.of_credits();
        standing
    }

    fn standing(&self, per: Per) -> Balance {
        let Some(charge) = self.ended else {
            return Balance {
                used: Amounts::default(),
                held: self.held,
            };
        };
        let used = match charge {
            Charge::Voided { load } => Amounts {
                requests: i64::from(load && per.is_rate()),
                ..Amounts::default()
            },
            Charge::Settled { usage, cost } => {
                let count = |count: u64| i64::try_from(count).unwrap();
                Amounts {
                    requests: 1,
                    tokens: count(usage.input_tokens + usage.output_tokens),
                    cost: cost.0,
                    images: count(usage.images),
                    audio_seconds: count(usage.audio_seconds),
                    characters: count(usage.characters),
                }
            }
            Charge::WholeHold | Charge::Lost => self.held,
        };
        Balance {
            used,
            held: Amounts::default(),
        }
    }
}

/// A ledger on one of the two databases, as the laws see it.
enum Subject {
    Sqlite {
        path: PathBuf,
        book: Box<Book>,
        is_open: bool,
    },
    Postgres {
        runtime: Runtime,
        lane: Box<Lane>,
    },
}

impl Subject {
    fn sqlite() -> Self {
        let path = std::env::temp_dir().join(format!("tollgate-laws-{}.db", Uuid::now_v7()));
        let book = Box::new(Book::open(&path, Uuid::now_v7()).unwrap());
        book.forget_durability();
        Self::Sqlite {
            path,
            book,
            is_open: false,
        }
    }

    /// A lane to an emptied database.
    fn postgres(url: &SecretString) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let lane = Box::new(runtime.block_on(Lane::for_laws(url, zone())));
        runtime.block_on(lane.empty());
        Self::Postgres { runtime, lane }
    }

    fn hold(&mut self, request: HoldRequest) -> Result<Hold, NoHold> {
        match self {
            Self::Sqlite { book, is_open, .. } => {
                step(book, *is_open, |book| book.batch().hold(&request)).unwrap()
            }
            Self::Postgres { runtime, lane } => runtime.block_on(lane.hold(request)),
        }
    }

    fn end(&mut self, ending: &Ending, now: Timestamp) -> bool {
        match self {
            Self::Sqlite { book, is_open, .. } => {
                step(book, *is_open, |book| book.end(ending, now)).unwrap()
            }
            Self::Postgres { runtime, lane } => runtime.block_on(lane.end(ending.clone(), now)),
        }
    }

    /// The process dies and another one starts. How many requests the sweep ended.
    fn crash(&mut self, now: Timestamp) -> usize {
        match self {
            Self::Sqlite {
                path,
                book,
                is_open,
            } => {
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

    /// So many keys of requests that nobody made.
    fn make_keys(&mut self, user: Uuid, count: u32, made_at: i64) {
        let numbers = format!(
            "with recursive numbers(n) as (select 1 union all select n + 1 from numbers where n < {count})"
        );
        let values =
            format!("{numbers} select '{user}', 'old-' || n, '', '', {made_at} from numbers");
        match self {
            Self::Sqlite { book, .. } => {
                let sql = format!("insert into idempotency_keys {values}");
                book.db.execute_batch(&sql).unwrap();
            }
            Self::Postgres { runtime, lane } => {
                let sql = format!("insert into tollgate_ledger.idempotency_keys {values}");
                runtime.block_on(lane.by_hand(&sql));
            }
        }
    }

    fn count_keys(&self) -> i64 {
        match self {
            Self::Sqlite { book, .. } => {
                let sql = "select count(*) from idempotency_keys";
                book.db.query_row(sql, [], |row| row.get(0)).unwrap()
            }
            Self::Postgres { runtime, lane } => runtime.block_on(lane.count_keys()),
        }
    }

    fn standing(&self, user: Uuid, now: Timestamp, counters: &[LimitCounter]) -> UserBalance {
        match self {
            Self::Sqlite { book, .. } => book.standing(user, now, counters).unwrap(),
            Self::Postgres { runtime, lane } => {
                runtime.block_on(lane.standing(user, now, counters))
            }
        }
    }

    /// Another process changes something, as an operator or a store does.
    fn beside<T>(&self, step: impl FnOnce(&Db) -> Result<T, Failure>) -> T {
        let db = match self {
            Self::Sqlite { path, .. } => {
                let book = Book::existing(path, Uuid::nil()).unwrap();
                book.forget_durability();
                Db::Sqlite(Box::new(book))
            }
            Self::Postgres { runtime, lane } => {
                Db::Postgres(lane.database(), runtime.handle().clone())
            }
        };
        db.in_transaction(step).unwrap()
    }

    /// What the ledger says of every grant: its source, and what is refunded, spent and held of it; the last two by what it
    /// says of requests, too.
    fn grants(&self) -> Vec<(String, [i64; 5])> {
        let sql = "select g.source, g.refunded_micros, g.spent_micros, g.held_micros,
                       (select cast(coalesce(sum(n.spent_micros), 0) as bigint) from ledger.grant_uses n
                        where n.grant_id = g.id),
                       (select cast(coalesce(sum(n.held_micros), 0) as bigint) from ledger.grant_uses n
                        where n.grant_id = g.id)
                   from ledger.grants g order by g.id";
        let rows = match self {
            Self::Sqlite { book, .. } => {
                sqlite_query(&book.db, &sql.replace("ledger.", "main."), &[]).unwrap()
            }
            Self::Postgres { .. } => self.beside(|db| db.query(sql, &[])),
        };
        let grant = |row: &crate::ledger::read::connection::Row| {
            let amounts = [1, 2, 3, 4, 5].map(|column| row.int(column).unwrap());
            (row.text(0).unwrap(), amounts)
        };
        rows.iter().map(grant).collect()
    }

    /// What rows say that credits paid of them.
    fn credit_of_rows(&self) -> i64 {
        let sql = "select cast(coalesce(sum(credit_micros), 0) as bigint) from ledger.requests
                   where paid_by = 'credits'";
        match self {
            Self::Sqlite { book, .. } => {
                let sql = sql.replace("ledger.", "main.");
                sqlite_query(&book.db, &sql, &[]).unwrap()[0]
                    .int(0)
                    .unwrap()
            }
            Self::Postgres { .. } => self.beside(|db| db.query(sql, &[]))[0].int(0).unwrap(),
        }
    }

    fn sum_of_rows(&self, user: Uuid, window: &Window) -> Balance {
        match self {
            Self::Sqlite { book, .. } => book.sum_of_rows(&user.to_string(), window).unwrap(),
            Self::Postgres { runtime, lane } => runtime.block_on(lane.sum_of_rows(user, window)),
        }
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let Self::Sqlite { path, .. } = self else {
            return;
        };
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
    /// Which row took each key of each user last.
    keys: Keys,
    /// The clock went back at some time.
    is_turned_back: bool,
    grants: Vec<GrantModel>,
    /// The rows, keys and grants as they were before the transaction that is open.
    before: Option<(Vec<Row>, Keys, Vec<GrantModel>)>,
}

/// Places of rows.
type Keys = HashMap<(Uuid, u8), usize>;

/// Four plans, from tight to none, with every window and unit in one of them, for all names of the plan and for one.
fn limits(plan: u8) -> Vec<Limit> {
    let limit = Limit::of_all;
    let of = |model: &str, per, unit, amount| Limit {
        model: Some(model.into()),
        ..limit(per, unit, amount)
    };
    match plan {
        0 => vec![
            limit(Per::Minute, Unit::Requests, 3),
            limit(Per::Day, Unit::Requests, 6),
            limit(Per::Month, Unit::CostUsd, 2_000),
            of("smart", Per::Day, Unit::Requests, 2),
            limit(Per::Month, Unit::Images, 5),
        ],
        1 => vec![
            limit(Per::Hour, Unit::Tokens, 9_000),
            limit(Per::Lifetime, Unit::CostUsd, 9_000),
            of("fast", Per::Hour, Unit::Tokens, 4_000),
            of("smart", Per::Hour, Unit::Images, 3),
            limit(Per::Lifetime, Unit::AudioSeconds, 60),
        ],
        2 => vec![
            limit(Per::Period, Unit::Tokens, 12_000),
            limit(Per::Hour, Unit::Requests, 5),
            limit(Per::Day, Unit::CostUsd, 1_500),
            of("smart", Per::Period, Unit::CostUsd, 900),
            of("fast", Per::Minute, Unit::Requests, 1),
            limit(Per::Day, Unit::Characters, 40),
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
    Period {
        start: day,
        end: day.plus(Duration::from_hours(24 * 12)),
    }
}

impl World {
    fn new(ledger: Subject) -> Self {
        let now = Timestamp::parse("2026-03-28T23:59:20Z").unwrap();
        Self {
            ledger,
            rows: Vec::new(),
            now,
            made: 0,
            credits: Vec::new(),
            keys: Keys::new(),
            is_turned_back: false,
            grants: Vec::new(),
            before: None,
        }
    }

    fn user(number: u8) -> Uuid {
        Uuid::from_u128(u128::from(number) + 1)
    }

    fn window(&self, per: Per) -> Window {
        window(per, self.now, &zone(), Some(period()))
    }

    /// What a window says, by the words of law 4.
    fn expected(&self, user: Option<Uuid>, window: &Window) -> Balance {
        let Balance { used, held } = self.expected_of(user, window, None);
        Balance {
            used: used.in_windows(),
            held: held.in_windows(),
        }
    }

    /// The same of a tally: of the requests that go by a name, or of all.
    fn expected_of(&self, user: Option<Uuid>, window: &Window, model: Option<&str>) -> Balance {
        let inside = |row: &&Row| {
            user.is_none_or(|user| row.user == user)
                && model.is_none_or(|model| row.model == model)
                && window.start <= row.at
                && row.at < window.end
        };
        self.rows
            .iter()
            .filter(inside)
            .map(|row| match user {
                Some(_) => row.user_standing(window.per),
                None => row.standing(window.per),
            })
            .fold(Balance::default(), |sum, row| Balance {
                used: sum.used.plus(row.used),
                held: sum.held.plus(row.held),
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
            endpoint: "/v1/chat/completions".into(),
            // Some are answered by another model than the plan names.
            model: if cap.is_multiple_of(2) {
                model_of(input)
            } else {
                "m"
            }
            .to_owned(),
            plan_model: Some(model_of(input).to_owned()).filter(|_| cap % 2 == 1),
            requested_model: None,
            feature: None,
            prompt_version: None,
            upstream: "u".to_owned(),
            quote: Quote {
                price: price(),
                base: beside_tokens(input, 0),
                output_cap: cap,
                output_floor: cap.min(64),
                choices: 1,
            },
            limits: self
                .granted(Self::user(user), plan)
                .limits_at(self.now, &zone())
                .into_iter()
                .filter(|(limit, _)| limit.counts(model_of(input)))
                .collect(),
            concurrent: Some(CONCURRENT),
            ceiling: Some((CEILING, self.window(Per::Day))),
            idempotency: None,
            replaces: None,
            credits: !cap.is_multiple_of(5),
        }
    }

    /// A plan as it applies to a user, with all credits that the user ever had.
    fn granted(&self, user: Uuid, plan: u8) -> EffectivePlan {
        let mine = self.credits.iter().filter(|(whose, ..)| *whose == user);
        let credit = |(_, limit, given_at): &(Uuid, Limit, Timestamp)| {
            let Limit {
                per, unit, amount, ..
            } = *limit;
            Credit {
                per,
                unit,
                amount,
                given_at: *given_at,
            }
        };
        let credits = mine.map(credit).collect();
        let plan = Plan {
            name: plan.to_string(),
            models: MODELS.map(str::to_owned).to_vec(),
            max_output_tokens: u32::MAX,
            max_input_tokens: u32::MAX,
            max_choices: 1,
            images: crate::plan::ImageCaps::default(),
            audio_seconds_max: 600,
            reasoning_effort_max: None,
            moderates_input: false,
            attested: None,
            concurrent_requests: Some(CONCURRENT),
            limits: limits(plan),
        };
        let period = Some(period());
        EffectivePlan {
            plan: Arc::new(plan),
            source: PlanSource::Default,
            period,
            unknown: Vec::new(),
            credits,
            purchase: None,
        }
    }

    /// Law 1 in its own words: a limit, and what was given on top in this very window.
    fn raised(&self, user: Uuid, limit: Limit) -> (Limit, Window) {
        let window = self.window(limit.per);
        let more = self.credits.iter().filter(|(whose, of, at)| {
            *whose == user
                && limit.model.is_none()
                && (of.per, of.unit) == (limit.per, limit.unit)
                && window.start <= *at
                && *at < window.end
        });
        (
            Limit {
                amount: limit.amount + more.map(|(_, of, _)| of.amount).sum::<i64>(),
                ..limit
            },
            window,
        )
    }

    /// The request that has this key, in the words of the promise: it is open, or was charged, within a day.
    fn taken(&self, user: Uuid, key: Key) -> Option<Repetition> {
        let row = &self.rows[*self.keys.get(&(user, key.name))?];
        let is_free = matches!(row.ended, Some(Charge::Voided { .. })) || self.is_a_day_old(row);
        (!is_free).then(|| Repetition {
            id: row.id,
            same: row.key.unwrap().body == key.body,
            state: row.ended.map(|charge| charge.end_state()),
            cost: MicroUsd(row.standing(Per::Lifetime).used.cost),
        })
    }

    fn is_a_day_old(&self, row: &Row) -> bool {
        row.at.millis() + 24 * 3_600_000 <= self.now.millis()
    }

    fn keyed(request: HoldRequest, key: Option<Key>) -> HoldRequest {
        let idempotency = key.map(|Key { name, body }| IdempotencyKey {
            key: format!("key-{name}"),
            digest: [body; 32],
        });
        HoldRequest {
            idempotency,
            ..request
        }
    }

    /// A hold was granted.
    fn held(&mut self, row: Row) {
        if let Some(key) = row.key {
            self.keys.insert((row.user, key.name), self.rows.len());
        }
        self.rows.push(row);
        self.hold_credits(self.rows.len() - 1);
    }

    /// Credits hold what an open request holds that they pay for, in place of what they held of it before.
    fn hold_credits(&mut self, place: usize) {
        for (grant, held) in std::mem::take(&mut self.rows[place].grants) {
            self.grants[grant].held -= held;
        }
        let Row {
            user,
            at,
            held,
            paid_by,
            ..
        } = self.rows[place];
        if paid_by == PaidBy::Plan {
            return;
        }
        let mut rest = held.cost;
        for grant in self.live_grants(user, at) {
            let part = rest.min(self.grants[grant].left());
            if part > 0 {
                self.grants[grant].held += part;
                self.rows[place].grants.push((grant, part));
                rest -= part;
            }
        }
        assert_eq!(rest, 0, "law 9: more is held than was granted");
    }

    /// A request has ended: by the words of law 9, credits pay from what they held, then from what is left of them, and
    /// give back the rest.
    fn paid(&mut self, place: usize) {
        let row = &self.rows[place];
        if row.paid_by == PaidBy::Plan {
            return;
        }
        let (user, at) = (row.user, row.at.max(self.now));
        let mut rest = row.standing(Per::Lifetime).used.cost;
        let mut paid: HashMap<usize, i64> = HashMap::new();
        for (grant, held) in row.grants.clone() {
            let part = rest.min(held);
            self.grants[grant].held -= held;
            self.grants[grant].spent += part;
            *paid.entry(grant).or_default() += part;
            rest -= part;
        }
        for grant in self.live_grants(user, at) {
            let part = rest.min(self.grants[grant].left());
            self.grants[grant].spent += part;
            *paid.entry(grant).or_default() += part;
            rest -= part;
        }
        self.rows[place].grants = paid.into_iter().collect();
    }

    /// The grants of a user that may be spent from, the one that ends first in front.
    fn live_grants(&self, user: Uuid, at: Timestamp) -> Vec<usize> {
        let mut places: Vec<_> = (0..self.grants.len())
            .filter(|place| {
                let grant = &self.grants[*place];
                grant.user == user && grant.lives_at(at)
            })
            .collect();
        places.sort_by_key(|place| {
            let grant = &self.grants[*place];
            (grant.end.unwrap_or(Timestamp::MAX), grant.at, *place)
        });
        places
    }

    /// The same, at the moment of an open request, as if it held nothing.
    fn credits_left_without(&self, row: &Row) -> i64 {
        let live = self.live_grants(row.user, row.at);
        let left = |place: &usize| {
            let mut grant = self.grants[*place].clone();
            let own = row.grants.iter().filter(|(of, _)| of == place);
            grant.held -= own.map(|(_, held)| held).sum::<i64>();
            grant.left()
        };
        live.iter().map(left).sum()
    }

    /// What is left of a user's credits.
    fn credits_left(&self, user: Uuid) -> i64 {
        let live = self.live_grants(user, self.now);
        live.iter().map(|place| self.grants[*place].left()).sum()
    }

    fn is_in_transaction(&self) -> bool {
        matches!(self.ledger, Subject::Sqlite { is_open: true, .. })
    }

    /// Gives credits, twice: the same transaction of a store gives them once.
    fn grant(&mut self, user: u8, amount: i64, seconds: Option<u64>) {
        if self.is_in_transaction() {
            return;
        }
        let end = seconds.map(|seconds| self.now.plus(Duration::from_secs(seconds)));
        let new = NewGrant {
            user_id: Self::user(user),
            source: format!("store:{}", self.grants.len()),
            amount: MicroUsd(amount),
            until: end,
        };
        let now = self.now;
        assert!(self.ledger.beside(|db| grants::grant(db, &new, now)));
        let again = NewGrant {
            user_id: Self::user(2),
            ..new.clone()
        };
        assert!(!self.ledger.beside(|db| grants::grant(db, &again, now)));
        self.grants.push(GrantModel {
            user: new.user_id,
            source: new.source,
            amount,
            at: now,
            end,
            refunded: 0,
            spent: 0,
            held: 0,
        });
    }

    /// A store takes back a share of what a purchase gave, or gives it back.
    fn refund(&mut self, which: usize, share: u32) {
        let count = self.grants.len();
        if self.is_in_transaction() || count == 0 {
            return;
        }
        let grant = &mut self.grants[which % count];
        let before = grant.refunded;
        grant.refunded = grant.amount * i64::from(share) / i64::from(WHOLE_SHARE);
        let source = grant.source.clone();
        let is_changed = grant.refunded != before;
        let changed = self.ledger.beside(|db| grants::refund(db, &source, share));
        assert_eq!(changed, is_changed, "{source}");
    }

    /// Law 9, for every grant and every user.
    fn check_credits(&self) {
        let said = self.ledger.grants();
        let of = |grant: &GrantModel| {
            assert!(grant.spent + grant.held <= grant.amount, "law 9: {grant:?}");
            let GrantModel {
                refunded,
                spent,
                held,
                ..
            } = *grant;
            (grant.source.clone(), [refunded, spent, held, spent, held])
        };
        let expected: Vec<_> = self.grants.iter().map(of).collect();
        assert_eq!(said, expected, "law 9: every credit spent stands in a row");
        let spent: i64 = self.grants.iter().map(|grant| grant.spent).sum();
        assert_eq!(self.ledger.credit_of_rows(), spent, "law 9, by the rows");
        for user in (0..3).map(Self::user) {
            let live = self.live_grants(user, self.now);
            let held: i64 = self
                .grants
                .iter()
                .filter(|grant| grant.user == user)
                .map(|grant| grant.held)
                .sum();
            let expected = (!live.is_empty() || held > 0).then(|| CreditBalance {
                remaining: self.credits_left(user),
                held,
                next_expiry: live
                    .iter()
                    .filter(|place| self.grants[**place].left() > 0)
                    .find_map(|place| self.grants[*place].end),
            });
            let said = self.ledger.standing(user, self.now, &[]).credits;
            assert_eq!(said, expected, "what the user is told");
        }
    }

    /// No two requests with one key are charged, or may yet be, within a day.
    fn check_keys(&self) {
        if self.is_turned_back {
            return;
        }
        let mut last: HashMap<(Uuid, u8), &Row> = HashMap::new();
        let counts = |row: &&Row| !matches!(row.ended, Some(Charge::Voided { .. }));
        for row in self.rows.iter().filter(counts) {
            let Some(key) = row.key else { continue };
            if let Some(first) = last.insert((row.user, key.name), row) {
                let apart = row.at.since(first.at);
                assert!(
                    apart >= Duration::from_hours(24),
                    "{first:?} and {row:?} have one key"
                );
            }
        }
    }

    fn fits(&self, user: Option<Uuid>, limit: &Limit, window: &Window, amounts: Amounts) -> bool {
        let now = self.expected_of(user, window, limit.model.as_deref());
        let taken = now.used.plus(now.held).of(limit.unit);
        // What takes nothing of a unit fits, also where another plan has let the user go past this limit.
        amounts.of(limit.unit) <= limit.amount.saturating_sub(taken).max(0)
    }

    fn ceiling_fits(&self, amounts: Amounts) -> bool {
        let ceiling = Limit::of_all(Per::Day, Unit::CostUsd, CEILING);
        self.fits(None, &ceiling, &self.window(Per::Day), amounts)
    }

    /// Whether so much fits everything that a request is bound by that the plan pays for.
    fn plan_fits(&self, user: Uuid, limits: &[(Limit, Window)], amounts: Amounts) -> bool {
        let fits =
            |(limit, window): &(Limit, Window)| self.fits(Some(user), limit, window, amounts);
        limits.iter().all(fits) && self.ceiling_fits(amounts)
    }

    /// The same where credits pay: every limit but those in dollars, and what is left of the credits.
    fn credits_fit(&self, user: Uuid, limits: &[(Limit, Window)], amounts: Amounts) -> bool {
        let fits = |(limit, window): &(Limit, Window)| {
            limit.unit == Unit::CostUsd || self.fits(Some(user), limit, window, amounts)
        };
        limits.iter().all(fits)
            && amounts.cost <= self.credits_left(user)
            && self.ceiling_fits(amounts)
    }

    fn hold(&mut self, user: u8, plan: u8, input: u64, cap: u32) {
        self.hold_with(user, plan, (input, cap), None);
    }

    fn hold_with(&mut self, user: u8, plan: u8, (input, cap): (u64, u32), key: Option<Key>) {
        let request = Self::keyed(self.request(user, plan, input, cap), key);
        let HoldRequest {
            id,
            user_id: user,
            quote,
            ..
        } = request.clone();
        let asked = request.clone();
        let model = model_of(input);
        let limits: Vec<_> = limits(plan)
            .into_iter()
            .filter(|limit| limit.counts(model))
            .map(|limit| self.raised(user, limit))
            .collect();
        let open = self
            .rows
            .iter()
            .filter(|row| row.user == user && row.ended.is_none())
            .count();
        let taken = key.and_then(|key| self.taken(user, key));
        let may_use_credits = request.credits;
        let answer = self.ledger.hold(request);
        if let Some(first) = taken {
            assert_eq!(answer, Err(NoHold::Repeated(first)), "its key is taken");
            return;
        }
        let everything_fits = |amounts: Amounts| self.plan_fits(user, &limits, amounts);
        let credits_fit =
            |amounts: Amounts| may_use_credits && self.credits_fit(user, &limits, amounts);
        let (whole, least) = (quote.amounts(cap), quote.amounts(quote.output_floor));
        match answer {
            Ok(hold) => {
                assert!(
                    open < CONCURRENT as usize,
                    "more open requests than the plan allows"
                );
                assert!(hold.output_cap >= quote.output_floor && hold.output_cap <= cap);
                let more = quote.amounts(hold.output_cap + 1);
                let is_whole = hold.output_cap == cap;
                match hold.paid_by {
                    PaidBy::Plan => {
                        assert!(
                            everything_fits(hold.amounts),
                            "law 1: a hold was granted that passes a limit"
                        );
                        assert!(
                            is_whole || !everything_fits(more),
                            "law 7: the cap shrank more than it had to"
                        );
                        assert!(
                            is_whole || !credits_fit(whole),
                            "credits pay before an answer is made shorter"
                        );
                    }
                    PaidBy::Credits => {
                        assert!(
                            credits_fit(hold.amounts),
                            "laws 1 and 9: credits passed a limit"
                        );
                        assert!(!everything_fits(whole), "the plan pays first");
                        assert!(
                            is_whole || !credits_fit(more),
                            "law 7: the cap shrank more than it had to"
                        );
                        assert!(
                            is_whole || !everything_fits(least),
                            "the plan pays first for a shorter answer, too"
                        );
                    }
                }
                self.held(Row {
                    id,
                    user,
                    model,
                    at: self.now,
                    held: hold.amounts,
                    ended: None,
                    key,
                    hold: Some((Box::new(asked), hold)),
                    paid_by: hold.paid_by,
                    grants: Vec::new(),
                });
            }
            Err(NoHold::Repeated(first)) => panic!("its key is free: {first:?}"),
            Err(NoHold::Concurrent { .. }) => assert!(open >= CONCURRENT as usize),
            Err(_) => {
                assert!(
                    !everything_fits(least) && !credits_fit(least),
                    "law 7: refused although the floor fits"
                );
            }
        }
    }

    fn end(&mut self, which: usize, of: impl FnOnce(&Row) -> Charge) {
        let open: Vec<_> = (0..self.rows.len())
            .filter(|n| self.rows[*n].ended.is_none())
            .collect();
        let Some(place) = open.get(which.checked_rem(open.len()).unwrap_or(0)) else {
            return;
        };
        let charge = of(&self.rows[*place]);
        let Row {
            id, user: user_id, ..
        } = self.rows[*place];
        let ending = Ending {
            id,
            user_id,
            settlement: Settlement {
                charge,
                flags: vec![],
                ttft_ms: None,
            },
        };
        assert!(self.ledger.end(&ending, self.now));
        self.rows[*place].ended = Some(charge);
        self.paid(*place);
    }

    /// Law 1 for a hold in the place of another: it fits as if the other were not there, in the windows in which that was
    /// held, or the other stays.
    fn replace(&mut self, which: usize, input: u64, cap: u32) {
        let open: Vec<_> = (0..self.rows.len())
            .filter(|n| self.rows[*n].ended.is_none() && self.rows[*n].hold.is_some())
            .collect();
        let Some(place) = open.get(which.checked_rem(open.len()).unwrap_or(0)) else {
            return;
        };
        let row = self.rows[*place].clone();
        let (first, old) = row.hold.clone().unwrap();
        let request = HoldRequest {
            model: "other".to_owned(),
            plan_model: Some(row.model.to_owned()),
            quote: Quote {
                base: beside_tokens(input, 0),
                output_cap: cap,
                output_floor: cap.min(64),
                ..first.quote.clone()
            },
            concurrent: None,
            replaces: Some(old),
            ..*first.clone()
        };
        let answer = self.ledger.hold(request.clone());
        let without = |window: &Window, user: Option<Uuid>, model: Option<&str>| {
            let now = self.expected_of(user, window, model);
            let own = match user {
                Some(_) => row.user_standing(window.per).held,
                None => row.held,
            };
            now.used.plus(now.held).minus(own)
        };
        let left = self.credits_left_without(&row);
        let fits_by = |amounts: Amounts, paid_by: PaidBy| {
            let (ceiling, day) = request.ceiling.unwrap();
            let in_limit = |(limit, window): &(Limit, Window)| {
                let taken = without(window, Some(row.user), limit.model.as_deref());
                let is_for_credits = paid_by == PaidBy::Credits && limit.unit == Unit::CostUsd;
                is_for_credits
                    || amounts.of(limit.unit) <= (limit.amount - taken.of(limit.unit)).max(0)
            };
            request.limits.iter().all(in_limit)
                && amounts.cost <= (ceiling - without(&day, None, None).cost).max(0)
                && (paid_by == PaidBy::Plan || (request.credits && amounts.cost <= left))
        };
        let least = request.quote.amounts(request.quote.output_floor);
        match answer {
            Ok(hold) => {
                let fits = |amounts: Amounts| fits_by(amounts, hold.paid_by);
                assert!(fits(hold.amounts), "law 1: a hold grew past a limit");
                let more = request.quote.amounts(hold.output_cap + 1);
                assert!(
                    hold.output_cap == cap || !fits(more),
                    "law 7: the cap shrank more than it had to"
                );
                let row = &mut self.rows[*place];
                row.held = hold.amounts;
                row.paid_by = hold.paid_by;
                row.hold = Some((Box::new(request.clone()), hold));
                self.hold_credits(*place);
            }
            Err(NoHold::Limit(_) | NoHold::Ceiling(_)) => assert!(
                !fits_by(least, PaidBy::Plan) && !fits_by(least, PaidBy::Credits),
                "law 7: refused although the floor fits"
            ),
            Err(no) => panic!("{no:?}"),
        }
        // A request that has ended, or holds something else, is not held again.
        let ended = self.rows.iter().find(|row| row.ended.is_some());
        for (id, old) in [
            ended.map(|row| (row.id, old)),
            Some((
                row.id,
                Hold {
                    amounts: Amounts {
                        cost: old.amounts.cost + 1,
                        ..old.amounts
                    },
                    ..old
                },
            )),
        ]
        .into_iter()
        .flatten()
        {
            let late = HoldRequest {
                id,
                replaces: Some(old),
                limits: Vec::new(),
                ceiling: None,
                ..request.clone()
            };
            assert_eq!(self.ledger.hold(late), Err(NoHold::Store));
        }
    }

    /// Law 3: an end that comes twice, or for a request that was never held, changes nothing.
    fn end_again(&mut self, which: usize) {
        let ended: Vec<_> = self
            .rows
            .iter()
            .filter(|row| row.ended.is_some())
            .map(|row| row.id)
            .collect();
        let id = ended
            .get(which.checked_rem(ended.len()).unwrap_or(0))
            .copied()
            .unwrap_or_else(Uuid::now_v7);
        let ending = Ending {
            id,
            user_id: Self::user(0),
            settlement: Settlement::lost(),
        };
        assert!(
            !self.ledger.end(&ending, self.now),
            "law 3: a request ended twice"
        );
    }

    /// Law 5: what a process held is lost when the next one starts.
    fn crash(&mut self) {
        if let Some(before) = self.before.take() {
            (self.rows, self.keys, self.grants) = before;
        }
        let swept = self.ledger.crash(self.now);
        let open = self.rows.iter().filter(|row| row.ended.is_none()).count();
        assert_eq!(swept, open, "law 5: the sweep ends what is open, once");
        for place in 0..self.rows.len() {
            if self.rows[place].ended.is_none() {
                self.rows[place].ended = Some(Charge::Lost);
                self.paid(place);
            }
        }
    }

    /// Begins a transaction, or ends the one that is open.
    fn transaction(&mut self, step: &Step) {
        let Subject::Sqlite { book, is_open, .. } = &mut self.ledger else {
            return;
        };
        match (step, *is_open) {
            (Step::Begin, false) => {
                book.begin().unwrap();
                let before = (self.rows.clone(), self.keys.clone(), self.grants.clone());
                (*is_open, self.before) = (true, Some(before));
            }
            (Step::Commit, true) => {
                book.commit().unwrap();
                (*is_open, self.before) = (false, None);
            }
            (Step::Undo, true) => {
                book.roll_back();
                *is_open = false;
                (self.rows, self.keys, self.grants) = self.before.take().unwrap();
            }
            _ => {}
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Begin | Step::Commit | Step::Undo => self.transaction(step),
            Step::Hold {
                user,
                plan,
                input,
                cap,
                key,
            } => self.hold_with(user, plan, (input, cap), key),
            Step::Settle {
                which,
                input,
                output,
            } => self.end(which, |_| {
                let usage = beside_tokens(input, output);
                Charge::Settled {
                    usage,
                    cost: price().cost(&usage),
                }
            }),
            Step::WholeHold { which } => self.end(which, |_| Charge::WholeHold),
            Step::Replace { which, input, cap } => self.replace(which, input, cap),
            Step::Void { which, load } => self.end(which, |_| Charge::Voided { load }),
            Step::Lose { which } => self.end(which, |_| Charge::Lost),
            Step::EndAgain { which } => self.end_again(which),
            Step::Crash => self.crash(),
            Step::MoveClock { seconds } => {
                self.now = Timestamp::from_millis(self.now.millis() + seconds * 1000);
                self.is_turned_back |= seconds < 0;
            }
            // Windows that ended are forgotten and made anew from the rows if the clock comes back to them.
            Step::Prune => {
                self.ledger.prune(Timestamp::EPOCH, self.now);
                let mut keys = std::mem::take(&mut self.keys);
                keys.retain(|_, place| !self.is_a_day_old(&self.rows[*place]));
                self.keys = keys;
            }
            Step::Credit {
                user,
                plan,
                which,
                amount,
            } => {
                let limits = limits(plan);
                let limit = Limit {
                    amount,
                    ..limits[which % limits.len()].clone()
                };
                self.credits.push((Self::user(user), limit, self.now));
            }
            Step::Grant {
                user,
                amount,
                seconds,
            } => self.grant(user, amount, seconds),
            Step::Refund { which, share } => self.refund(which, share),
        }
        self.check();
    }

    /// Laws 4 and 5, for every user and window; and that no key is charged twice.
    fn check(&self) {
        self.check_keys();
        self.check_credits();
        let windows: Vec<_> = ALL.iter().map(|per| self.window(*per)).collect();
        let tallies = [None, Some(""), Some("fast"), Some("smart")];
        let counters: Vec<_> = tallies
            .iter()
            .flat_map(|tally| {
                windows.iter().map(|window| LimitCounter {
                    window: *window,
                    tally: tally.map(Arc::from),
                })
            })
            .collect();
        for user in (0..3).map(Self::user) {
            let said = self.ledger.standing(user, self.now, &counters);
            for (counter, standing) in counters.iter().zip(&said.windows).skip(windows.len()) {
                let model = counter.tally.as_deref().filter(|name| !name.is_empty());
                assert_eq!(
                    *standing,
                    self.expected_of(Some(user), &counter.window, model),
                    "law 4: the rows of a tally are what it says: {counter:?}"
                );
            }
            for (window, standing) in windows.iter().zip(&said.windows) {
                let sum = self.ledger.sum_of_rows(user, window);
                assert_eq!(
                    *standing, sum,
                    "law 4: the rows of a window are what it says: {window:?}"
                );
                assert_eq!(
                    *standing,
                    self.expected(Some(user), window),
                    "the model agrees: {window:?}"
                );
            }
            let open = self
                .rows
                .iter()
                .filter(|row| row.user == user && row.ended.is_none())
                .count();
            assert_eq!(
                said.open,
                i64::try_from(open).unwrap(),
                "law 5: open requests are what is held"
            );
        }
        if let Subject::Sqlite {
            book,
            is_open: false,
            ..
        } = &self.ledger
            && let Some(said) = book.app_standing(self.now, &self.window(Per::Day))
        {
            assert_eq!(
                said,
                self.expected(None, &self.window(Per::Day)),
                "law 4 for the whole app"
            );
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
fn a_limit_that_is_passed_stops_nothing_that_takes_none_of_it() {
    let mut world = World::new(Subject::sqlite());
    // Four pictures under plans that allow more than the third does, whose limit is three; the last one draws none.
    for (plan, input) in [(0, 1991), (2, 11), (1, 2661)] {
        world.hold(0, plan, input, 1);
        world.check();
    }
    assert_eq!(world.rows.len(), 3);
}

#[test]
fn the_laws_hold_after_every_step_on_postgres() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let server = Postgres::start_blocking(false, "");
    let url = SecretString::from(server.url("postgres"));
    let config = ProptestConfig {
        cases: 32,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
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
    Hold {
        user: u8,
        input: u64,
        cap: u32,
        key: Option<Key>,
    },
    End {
        which: usize,
        charge: Charge,
        twice: bool,
    },
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let charge = prop_oneof![
        3 => Just(Charge::Voided { load: true }),
        1 => Just(Charge::WholeHold),
        1 => Just(Charge::Lost),
    ];
    let piece = prop_oneof![
        3 => (0..3u8, 1..300u64, 1..800u32, key())
            .prop_map(|(user, input, cap, key)| Piece::Hold { user, input, cap, key }),
        2 => (any::<usize>(), charge, any::<bool>()).prop_map(|(which, charge, twice)| Piece::End { which, charge, twice }),
    ];
    prop::collection::vec(piece, 1..24)
}

impl World {
    /// A batch goes in as a whole. What was open before it can be ended in it.
    fn batch(&mut self, pieces: &[Piece]) {
        let mut open: Vec<_> = (0..self.rows.len())
            .filter(|n| self.rows[*n].ended.is_none())
            .collect();
        let (mut jobs, mut asked) = (Vec::new(), Vec::new());
        for piece in pieces {
            match piece {
                // Each user has a plan of their own: what it says then holds for all that they have.
                Piece::Hold {
                    user,
                    input,
                    cap,
                    key,
                } => {
                    let request = self.request(*user, *user, *input, *cap);
                    asked.push((request.id, request.user_id, model_of(*input), *key));
                    jobs.push(Ok(Self::keyed(request, *key)));
                }
                Piece::End {
                    which,
                    charge,
                    twice,
                } if !open.is_empty() => {
                    let place = open.remove(which % open.len());
                    self.rows[place].ended = Some(*charge);
                    self.paid(place);
                    let row = &self.rows[place];
                    let settlement = Settlement {
                        charge: *charge,
                        flags: vec![],
                        ttft_ms: None,
                    };
                    let ending = Ending {
                        id: row.id,
                        user_id: row.user,
                        settlement,
                    };
                    jobs.extend(std::iter::repeat_n(Err(ending), 1 + usize::from(*twice)));
                }
                Piece::End { .. } => {}
            }
        }
        let Subject::Postgres { runtime, lane } = &mut self.ledger else {
            panic!("made on Postgres")
        };
        let answers = runtime.block_on(lane.all(jobs));
        // A hold that shrinks is asked for again, after those that came later: what was granted is known first.
        let mut answers: Vec<_> = asked.into_iter().zip(answers).collect();
        answers.sort_by_key(|(_, answer)| answer.is_err());
        for ((id, user, model, key), answer) in answers {
            match answer {
                Ok(hold) => self.held(Row {
                    id,
                    user,
                    model,
                    at: self.now,
                    held: hold.amounts,
                    ended: None,
                    key,
                    hold: None,
                    paid_by: hold.paid_by,
                    grants: Vec::new(),
                }),
                // Whether it had ended when it was asked for hangs on its place in the batch.
                Err(NoHold::Repeated(first)) => {
                    let row = self.rows.iter().find(|row| row.id == first.id).unwrap();
                    let (taken, asked) = (row.key.unwrap(), key.unwrap());
                    assert_eq!((row.user, taken.name), (user, asked.name));
                    assert_eq!(first.same, taken.body == asked.body);
                }
                Err(_) => {}
            }
        }
        self.check();
        self.check_limits();
    }

    /// Law 1, where nobody is charged more than was held.
    fn check_limits(&self) {
        let all = |standing: Balance, unit| standing.used.plus(standing.held).of(unit);
        for user in 0..3_u8 {
            for limit in limits(user) {
                let user_id = Some(Self::user(user));
                let window = self.window(limit.per);
                let said = self.expected_of(user_id, &window, limit.model.as_deref());
                assert!(
                    all(said, limit.unit) <= limit.amount,
                    "law 1: {limit:?} of user {user} is at {said:?}"
                );
            }
            let open = self
                .rows
                .iter()
                .filter(|row| row.user == Self::user(user) && row.ended.is_none())
                .count();
            assert!(
                open <= CONCURRENT as usize,
                "law 1: {open} requests are open"
            );
        }
        let app = self.expected(None, &self.window(Per::Day));
        assert!(
            all(app, Unit::CostUsd) <= CEILING,
            "law 1: the ceiling is at {app:?}"
        );
        let Subject::Postgres { runtime, lane } = &self.ledger else {
            panic!("made on Postgres")
        };
        if self
            .rows
            .iter()
            .any(|row| self.window(Per::Day).start <= row.at)
        {
            assert_eq!(
                runtime.block_on(lane.app_window(&self.window(Per::Day))),
                app,
                "law 4 for the whole app"
            );
        }
    }
}

#[test]
fn the_laws_hold_after_every_batch_whoever_is_in_it_how_often() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let server = Postgres::start_blocking(false, "");
    let url = SecretString::from(server.url("postgres"));
    let config = ProptestConfig {
        cases: 32,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let batches = prop::collection::vec((pieces(), 0..20_000i64), 1..12);
    let tried = proptest::test_runner::TestRunner::new(config).run(&batches, |batches| {
        let mut world = World::new(Subject::postgres(&url));
        // One grant each, without an end: it does not matter then which of a batch is paid from it first.
        for (user, amount) in [(0, 300), (1, 3_000)] {
            world.grant(user, amount, None);
        }
        for (pieces, seconds) in &batches {
            world.batch(pieces);
            world.now = world
                .now
                .plus(Duration::from_secs(u64::try_from(*seconds).unwrap()));
        }
        Ok(())
    });
    tried.unwrap();
}

fn counter(window: Window, tally: Option<&str>) -> LimitCounter {
    LimitCounter {
        window,
        tally: tally.map(Arc::from),
    }
}

/// The month was never limited, so no window of it was made while the rows were there.
fn rows_that_are_pruned_leave_every_window_as_it_was(ledger: Subject) {
    let mut world = World::new(ledger);
    world.hold(0, 1, 100, 100);
    world.end(0, |_| Charge::Settled {
        usage: Usage {
            input_tokens: 70,
            images: 2,
            ..Usage::default()
        },
        cost: MicroUsd(11),
    });
    let month = world.window(Per::Month);
    let later = world.now.plus(Duration::from_hours(24 * 3));
    assert!(world.ledger.prune(later, later) > 0);
    assert_eq!(
        world.ledger.sum_of_rows(World::user(0), &month),
        Balance::default()
    );
    let lifetime = window(Per::Lifetime, later, &zone(), None);
    let said = world.ledger.standing(
        World::user(0),
        world.now,
        &[
            counter(lifetime, None),
            counter(month, None),
            counter(month, Some("fast")),
            counter(month, Some("smart")),
        ],
    );
    let used = Amounts {
        requests: 1,
        tokens: 70,
        cost: 11,
        ..Amounts::default()
    };
    let of_fast = Amounts { images: 2, ..used };
    let used_in: Vec<_> = said.windows.iter().map(|balance| balance.used).collect();
    assert_eq!(used_in, [used, used, of_fast, Amounts::default()]);
}

#[test]
fn pruning_on_sqlite_changes_no_window() {
    rows_that_are_pruned_leave_every_window_as_it_was(Subject::sqlite());
}

#[test]
fn pruning_on_postgres_changes_no_window() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let server = Postgres::start_blocking(false, "");
    rows_that_are_pruned_leave_every_window_as_it_was(Subject::postgres(&SecretString::from(
        server.url("postgres"),
    )));
}

/// Old keys go some at a time, and what is younger than a day stays.
fn old_keys_are_forgotten(ledger: Subject) {
    let mut world = World::new(ledger);
    world.hold_with(0, 3, (50, 40), Some(Key { name: 0, body: 0 }));
    let old = World::user(1);
    let made_at = world.now.millis();
    world.ledger.make_keys(old, 1200, made_at);
    world.now = world.now.plus(Duration::from_hours(24));
    world.hold_with(0, 3, (50, 40), Some(Key { name: 1, body: 0 }));
    for left in [702, 202, 1, 1] {
        world.ledger.prune(Timestamp::EPOCH, world.now);
        assert_eq!(world.ledger.count_keys(), left);
    }
    world.hold_with(0, 3, (50, 40), Some(Key { name: 1, body: 0 }));
}

#[test]
fn keys_are_forgotten_after_a_day_on_sqlite() {
    old_keys_are_forgotten(Subject::sqlite());
}

#[test]
fn keys_are_forgotten_after_a_day_on_postgres() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let server = Postgres::start_blocking(false, "");
    old_keys_are_forgotten(Subject::postgres(&SecretString::from(
        server.url("postgres"),
    )));
}

/// An export of a ledger, from a thread that may block.
fn exported(store: &StoreUrl) -> String {
    let mut text = Vec::new();
    Still::open(store)
        .unwrap()
        .export(&mut text, |_| {})
        .unwrap();
    String::from_utf8(text).unwrap()
}

/// An altered export whose checksum is right.
fn sealed(text: &str) -> String {
    let (rows, end) = text.trim_end().rsplit_once('\n').unwrap();
    let rows = format!("{rows}\n");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, rows.as_bytes());
    let mut end: serde_json::Value = serde_json::from_str(end).unwrap();
    end["sha256"] = digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .concat()
        .into();
    format!("{rows}{end}\n")
}

#[test]
fn a_ledger_moves_to_postgres_and_back_exactly_or_not_at_all() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let server = Postgres::start_blocking(false, "");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let _inside = runtime.enter();
    let mut world = World::new(Subject::sqlite());
    for step in 0..40_u32 {
        world.hold(u8::try_from(step % 3).unwrap(), 3, 50, 40);
        world.end(0, |row| {
            if step % 2 == 0 {
                Charge::Lost
            } else {
                Charge::Voided {
                    load: row.at.millis() % 2 == 0,
                }
            }
        });
        world.now = world.now.plus(Duration::from_secs(977));
    }
    world.hold_with(0, 1, (50, 40), Some(Key { name: 0, body: 1 }));
    let Subject::Sqlite { path, .. } = &world.ledger else {
        panic!("made on SQLite")
    };
    let sqlite = StoreUrl::Sqlite(path.clone());
    let text = exported(&sqlite);
    let postgres = StoreUrl::Postgres(SecretString::from(server.url("postgres")));
    let import = |text: &str| {
        Still::open_or_make(&postgres)
            .unwrap()
            .import(text.as_bytes(), |_| {})
    };
    let without_lifetime = text
        .lines()
        .filter(|line| !line.contains("\"lifetime\""))
        .collect::<Vec<_>>()
        .join("\n");
    for (wrong, why) in [
        (
            text.lines().take(20).collect::<Vec<_>>().join("\n"),
            "cut short",
        ),
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
    let Subject::Sqlite { path: other, .. } = &Subject::sqlite() else {
        panic!("made on SQLite")
    };
    let back = StoreUrl::Sqlite(other.clone());
    Still::open_or_make(&back)
        .unwrap()
        .import(exported(&postgres).as_bytes(), |_| {})
        .unwrap();
    assert_eq!(exported(&back), text);
}

#[test]
fn what_was_never_sent_is_pruned_all_the_same_and_said_aloud() {
    let said = Arc::new(Mutex::new(Vec::new()));
    let (mut world, writer) = (World::new(Subject::sqlite()), said.clone());
    let Subject::Sqlite { path, book, .. } = &mut world.ledger else {
        panic!("made on SQLite")
    };
    **book = Book::open(path, Uuid::now_v7()).unwrap().with_outbox(true);
    for _ in 0..3 {
        world.hold(0, 3, 100, 100);
        world.end(0, |_| Charge::Lost);
    }
    let Subject::Sqlite { book, .. } = &world.ledger else {
        panic!("made on SQLite")
    };
    let sent = book.unsent(1, &[]).unwrap().remove(0).id;
    book.mark(&[sent], Mark::Sent).unwrap();
    let later = world.now.plus(Duration::from_hours(24 * 3));
    let log = tracing_subscriber::fmt()
        .with_writer(move || LogBuffer(writer.clone()))
        .finish();
    let gone = tracing::subscriber::with_default(log, || world.ledger.prune(later, later));
    assert!(gone >= 3);
    let Subject::Sqlite { book, .. } = &world.ledger else {
        panic!("made on SQLite")
    };
    assert_eq!(book.unsent_lag().unwrap(), Lag::default());
    let said = String::from_utf8(said.lock().unwrap().clone()).unwrap();
    assert!(
        said.contains("never reached log_request") && said.contains('2'),
        "{said:?}"
    );
}

/// A log to read.
struct LogBuffer(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for LogBuffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_hold_that_comes_in_after_it_was_voided_is_not_made() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let server = Postgres::start_blocking(false, "");
    let mut world = World::new(Subject::postgres(&SecretString::from(
        server.url("postgres"),
    )));
    let request = world.request(0, 3, 100, 100);
    let Subject::Postgres { runtime, lane } = &mut world.ledger else {
        panic!("made on Postgres")
    };
    assert_eq!(
        runtime.block_on(lane.hold_late(request)),
        0,
        "law 5: nothing is held when nothing is open"
    );
}

fn void(row: &Row) -> Ending {
    Ending {
        id: row.id,
        user_id: row.user,
        settlement: Settlement::void(),
    }
}

#[test]
fn what_is_refused_for_its_values_takes_no_ending_with_it() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let server = Postgres::start_blocking(false, "");
    let mut world = World::new(Subject::postgres(&SecretString::from(
        server.url("postgres"),
    )));
    world.hold(0, 3, 100, 100);
    let odd = HoldRequest {
        model: "no\0text".to_owned(),
        ..world.request(0, 3, 100, 100)
    };
    let ending = void(&world.rows[0]);
    let Subject::Postgres { runtime, lane } = &mut world.ledger else {
        panic!("made on Postgres")
    };
    runtime.block_on(lane.batch(vec![odd], vec![ending]));
    assert_eq!(
        runtime
            .block_on(lane.standing(World::user(0), Timestamp::EPOCH, &[]))
            .open,
        0
    );
}

#[test]
fn an_ending_waits_until_the_operator_has_put_the_database_right() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let server = Postgres::start_blocking(false, "");
    let mut world = World::new(Subject::postgres(&SecretString::from(
        server.url("postgres"),
    )));
    world.hold(0, 3, 100, 100);
    let ending = void(&world.rows[0]);
    let Subject::Postgres { runtime, lane } = &mut world.ledger else {
        panic!("made on Postgres")
    };
    runtime.block_on(async {
        lane.by_hand("alter function tollgate_ledger.write_v0 rename to mislaid")
            .await;
        lane.batch(Vec::new(), vec![ending]).await;
        lane.by_hand("alter function tollgate_ledger.mislaid rename to write_v0")
            .await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        lane.batch(Vec::new(), Vec::new()).await;
        assert_eq!(
            lane.standing(World::user(0), Timestamp::EPOCH, &[])
                .await
                .open,
            0
        );
    });
}

#[test]
fn a_database_that_hangs_is_waited_for_once_and_not_by_each() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let server = Postgres::start_blocking(false, "");
    let mut world = World::new(Subject::postgres(&SecretString::from(
        server.url("postgres"),
    )));
    let holds = (0..3)
        .map(|user| world.request(user, 3, 100, 100))
        .collect();
    let (now, more) = (world.now, world.request(0, 3, 100, 100));
    let Subject::Postgres { runtime, lane } = &mut world.ledger else {
        panic!("made on Postgres")
    };
    runtime.block_on(async {
        lane.by_hand(
            "create or replace function tollgate_ledger.write_v0(jobs jsonb) returns jsonb language plpgsql as $$ begin
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
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let server = Postgres::start_blocking(false, "");
    let by_operator =
        "create role tollgate login; create schema tollgate_ledger authorization tollgate";
    server.psql("postgres", "postgres", by_operator).unwrap();
    let mut world = World::new(Subject::postgres(&SecretString::from(
        server.url_as("tollgate", "postgres"),
    )));
    world.hold(0, 0, 100, 100);
    world.check();
}

#[test]
fn a_later_release_may_add_columns_while_this_one_serves() {
    let server = Postgres::start_blocking(false, "");
    let mut world = World::new(Subject::postgres(&SecretString::from(
        server.url("postgres"),
    )));
    let Subject::Postgres { runtime, lane } = &mut world.ledger else {
        panic!("made on Postgres")
    };
    runtime.block_on(lane.by_hand(
        "alter table tollgate_ledger.windows add column added bigint not null default 0;
         alter table tollgate_ledger.requests add column added bigint not null default 0",
    ));
    world.hold(0, 0, 100, 100);
    world.end(0, |_| Charge::Lost);
    world.hold(0, 0, 100, 100);
    world.check();
}

/// A process of an older release holds, ends and sweeps beside this one: it knows no tallies, and they count it.
#[test]
fn tallies_say_what_an_older_release_held_and_ended_too() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let server = Postgres::start_blocking(false, "");
    let mut world = World::new(Subject::postgres(&SecretString::from(
        server.url("postgres"),
    )));
    // Tallies are there from now on.
    for plan in 0..3 {
        world.hold(0, plan, 10, 10);
    }
    for turn in 0..24_u64 {
        world.turn_with_older_release(turn);
        world.check();
        world.now = world.now.plus(Duration::from_secs(40));
    }
    assert!(world.rows.iter().all(|row| row.ended.is_some()));
}

impl World {
    /// A hold by one of two releases and its end by another, of each kind.
    fn turn_with_older_release(&mut self, turn: u64) {
        let (input, cap) = (30 + turn, u32::try_from(20 + turn).unwrap());
        let mut request = self.request(0, 3, input, cap);
        // An older release writes the name that answers.
        if turn.is_multiple_of(2) {
            request.model = model_of(input).to_owned();
            request.plan_model = None;
        }
        let (id, user_id) = (request.id, request.user_id);
        let is_older = turn.is_multiple_of(2);
        let amounts = request.quote.amounts(cap);
        let held = if is_older {
            amounts.in_windows()
        } else {
            amounts
        };
        let Subject::Postgres { runtime, lane } = &mut self.ledger else {
            panic!("made on Postgres")
        };
        let is_held = runtime.block_on(async {
            if is_older {
                lane.hold_by_older_release(&request).await
            } else {
                lane.hold(request).await.is_ok()
            }
        });
        assert!(is_held, "{turn}");
        self.rows.push(Row {
            id,
            user: user_id,
            model: model_of(input),
            at: self.now,
            held,
            ended: None,
            key: None,
            hold: None,
            paid_by: PaidBy::Plan,
            grants: Vec::new(),
        });
        self.check();
        let by_older = turn % 4 < 2;
        for place in 0..self.rows.len() {
            if self.rows[place].ended.is_none() {
                self.end_by(place, by_older, turn);
                self.check();
            }
        }
    }

    fn end_by(&mut self, place: usize, by_older: bool, turn: u64) {
        let charge = match turn % 3 {
            0 => Charge::Lost,
            1 => Charge::Voided { load: true },
            _ => {
                let usage = Usage {
                    input_tokens: 5,
                    output_tokens: 3,
                    images: u64::from(!by_older),
                    ..Usage::default()
                };
                Charge::Settled {
                    usage,
                    cost: MicroUsd(7),
                }
            }
        };
        let row = &mut self.rows[place];
        row.ended = Some(charge);
        let ending = Ending {
            id: row.id,
            user_id: row.user,
            settlement: Settlement {
                charge,
                flags: vec![],
                ttft_ms: None,
            },
        };
        let (now, Subject::Postgres { runtime, lane }) = (self.now, &mut self.ledger) else {
            panic!("made on Postgres")
        };
        runtime.block_on(async {
            if by_older {
                lane.end_by_older_release(&ending, now).await;
            } else {
                assert!(lane.end(ending, now).await);
            }
        });
    }
}

/// Each user of a limit by the minute leaves a window a minute: they must go as fast as they come.
#[test]
fn forgotten_windows_count_as_pruned_so_that_more_are_looked_for() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let server = Postgres::start_blocking(false, "");
    let mut world = World::new(Subject::postgres(&SecretString::from(
        server.url("postgres"),
    )));
    world.hold(0, 0, 100, 100);
    world.end(0, |_| Charge::Voided { load: true });
    let later = world.now.plus(Duration::from_hours(24 * 3));
    assert!(world.ledger.prune(Timestamp::EPOCH, later) > 0);
}

#[test]
fn a_new_day_of_the_ceiling_begins_while_the_table_is_vacuumed() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let server = Postgres::start_blocking(false, "");
    let mut world = World::new(Subject::postgres(&SecretString::from(
        server.url("postgres"),
    )));
    let request = world.request(0, 3, 100, 100);
    let Subject::Postgres { runtime, lane } = &mut world.ledger else {
        panic!("made on Postgres")
    };
    runtime.block_on(async {
        let _vacuum = lane.vacuum().await;
        tokio::time::timeout(Duration::from_secs(3), lane.hold(request))
            .await
            .unwrap()
            .unwrap();
    });
}

/// Several processes begin a day of the ceiling at once: it says what their rows add up to.
#[test]
fn a_new_day_of_the_ceiling_misses_nobodys_rows() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
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
                request.ceiling = request
                    .ceiling
                    .filter(|_| request.user_id.as_u128() % 2 == 0);
                holds.spawn(async move {
                    Lane::for_laws(&url, zone())
                        .await
                        .hold(request)
                        .await
                        .unwrap()
                });
            }
            holds.join_all().await;
        });
        let Subject::Postgres { runtime, lane } = &world.ledger else {
            panic!("made on Postgres")
        };
        assert_eq!(
            runtime.block_on(lane.app_window(&day)),
            runtime.block_on(lane.sum_for("app", &day))
        );
    }
}

/// Each of them fits into what is left of it, all of them do not.
#[test]
fn many_users_in_one_batch_never_pass_the_ceiling_together() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let server = Postgres::start_blocking(false, "");
    let mut world = World::new(Subject::postgres(&SecretString::from(
        server.url("postgres"),
    )));
    for users in [0..100, 100..200] {
        let holds = users
            .map(|user| Ok(world.request(user, 3, 500, 400)))
            .collect();
        let day = world.window(Per::Day);
        let Subject::Postgres { runtime, lane } = &mut world.ledger else {
            panic!("made on Postgres")
        };
        let answers = runtime.block_on(lane.all(holds));
        let held = runtime.block_on(lane.app_window(&day)).held.cost;
        let granted: i64 = answers.iter().flatten().map(|hold| hold.amounts.cost).sum();
        assert!(
            answers.iter().any(Result::is_err),
            "all of {} fit: ask for more",
            answers.len()
        );
        assert!(
            held <= CEILING && held > CEILING / 2,
            "{held} of {CEILING} are held"
        );
        assert!(granted <= held, "{granted} were granted, {held} are held");
    }
}

/// Else many processes at one ceiling are soon busy with nothing but waiting for it.
#[test]
fn a_batch_waits_for_the_ceiling_once_and_not_by_user() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let server = Postgres::start_blocking(false, "");
    let mut world = World::new(Subject::postgres(&SecretString::from(
        server.url("postgres"),
    )));
    world.hold(0, 3, 10, 10);
    let holds = (1..9).map(|user| world.request(user, 3, 10, 10)).collect();
    let Subject::Postgres { runtime, lane } = &mut world.ledger else {
        panic!("made on Postgres")
    };
    runtime.block_on(async {
        let slow = lane.spend_slowly().await;
        let begun = std::time::Instant::now();
        lane.batch(holds, Vec::new()).await;
        assert!(
            begun.elapsed() < Duration::from_millis(900),
            "{:?}",
            begun.elapsed()
        );
        drop(slow);
        tokio::time::sleep(Duration::from_millis(100)).await;
        lane.batch(Vec::new(), Vec::new()).await;
        assert_eq!(
            lane.standing(World::user(8), Timestamp::EPOCH, &[])
                .await
                .open,
            1,
            "it is kept, and goes in afterwards"
        );
    });
}
