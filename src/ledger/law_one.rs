//! Law 1 is decided by two texts: `plan::admit` on SQLite, and `fitting` in postgres/functions.sql. One table of cases
//! goes to both, and they must agree on each.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "of small numbers and JSON, in tests"
)]

use jiff::tz::TimeZone;
use secrecy::SecretString;
use serde_json::{Value, json};
use uuid::Uuid;

use super::postgres::Lane;
use super::{HoldRequest, decide};
use crate::clock::Timestamp;
use crate::pg::tests::Postgres;
use crate::plan::{Amounts, Balance, Limit, Per, Quote, Unit, Window};
use crate::price::{Price, Quantities, Rate, Rates};

/// How many cases one call decides.
const AT_ONCE: usize = 500;

/// A hold, and what it is asked against.
#[derive(Clone, Debug)]
struct Case {
    request: HoldRequest,
    /// In the order of the request's limits.
    standings: Vec<Balance>,
    ceiling: Option<Balance>,
    open: i64,
}

/// Around zero, around an amount, and where 64 bits end.
fn around(amount: i64) -> Vec<i64> {
    let below = amount.saturating_sub(1).max(0);
    let mut all = vec![
        0,
        1,
        below,
        amount,
        amount.saturating_add(1),
        i64::MAX - 1,
        i64::MAX,
    ];
    all.sort_unstable();
    all.dedup();
    all
}

/// So much of every unit. A request counts as one, whatever it asks.
fn each(amount: i64) -> Amounts {
    Amounts {
        requests: amount,
        tokens: amount,
        cost: amount,
        images: amount,
        audio_seconds: amount,
        characters: amount,
    }
}

fn window(per: Per, start: i64) -> Window {
    Window {
        per,
        start: Timestamp::from_millis(start),
        end: Timestamp::from_millis(start + 1_000_000),
    }
}

/// A hold of so many tokens that cost a micro-dollar each, and of as much of everything else, of a user of its own.
fn request(number: usize, asked: i64) -> HoldRequest {
    let count = u64::try_from(asked).unwrap();
    let base = Quantities {
        images: count,
        audio_seconds: count,
        characters: count,
        ..Quantities::of_input(count)
    };
    let rate = Rate(1_000_000);
    let rates = Rates {
        input: rate,
        cached_input: rate,
        cache_write: rate,
        output: rate,
        ..Rates::default()
    };
    let price = Price {
        rates,
        ..Price::default()
    };
    let id = Uuid::from_u128(u128::try_from(number).unwrap() + 1);
    HoldRequest {
        id,
        user_id: id,
        now: Timestamp::from_millis(1),
        plan: "p".to_owned(),
        endpoint: "/v1/chat/completions".into(),
        model: "m".to_owned(),
        plan_model: None,
        requested_model: None,
        feature: None,
        prompt_version: None,
        upstream: "u".to_owned(),
        quote: Quote {
            price,
            base,
            output_cap: 0,
            output_floor: 0,
            choices: 1,
        },
        limits: Vec::new(),
        concurrent: None,
        ceiling: None,
        idempotency: None,
        replaces: None,
        credits: false,
    }
}

/// Amounts of a limit, what is used and held of each, and what is asked: at and around each edge.
fn edges() -> Vec<(i64, (i64, i64), i64)> {
    let amounts = [1, 2, 1000, i64::MAX - 1, i64::MAX].into_iter();
    let taken = amounts.flat_map(|amount| {
        let pairs = around(amount).into_iter();
        pairs.flat_map(move |used| {
            around(amount)
                .into_iter()
                .map(move |held| (amount, used, held))
        })
    });
    let asked = taken.flat_map(|(amount, used, held)| {
        let left = amount.saturating_sub(used.saturating_add(held)).max(0);
        around(left)
            .into_iter()
            .map(move |asked| (amount, (used, held), asked))
    });
    asked.collect()
}

/// All cases: a limit of each unit, for all requests and for one name of the plan; the ceiling, open requests, and two
/// limits together.
fn table() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (amount, taken, asked) in edges() {
        for unit in Unit::ALL {
            let limit = Limit::of_all(Per::Day, unit, amount);
            cases.push(one_limit(cases.len(), limit, taken, asked));
        }
        // The app's windows are read one by one: fewer of them.
        if amount == 1000 {
            for unit in Unit::ALL {
                let limit = for_model(&Limit::of_all(Per::Day, unit, amount));
                cases.push(one_limit(cases.len(), limit, taken, asked));
            }
            cases.push(with_ceiling(cases.len(), amount, taken, asked));
        }
    }
    for concurrent in [None, Some(0), Some(1), Some(2), Some(u32::MAX)] {
        for open in 0..4 {
            let request = HoldRequest {
                concurrent,
                ..request(cases.len(), 1)
            };
            cases.push(Case {
                request,
                standings: Vec::new(),
                ceiling: None,
                open,
            });
        }
    }
    // Of two limits each alone may be the one that is in the way.
    for (first, second) in Unit::ALL
        .into_iter()
        .flat_map(|a| Unit::ALL.map(|b| (a, b)))
    {
        for (used, more) in [(9, 9), (9, 10), (10, 9), (10, 10)] {
            let first = Limit::of_all(Per::Day, first, 10);
            let second = Limit::of_all(Per::Hour, second, 10);
            for (first, second) in [(first.clone(), second.clone()), (first, for_model(&second))] {
                let mut case = one_limit(cases.len(), first, (used, 0), 1);
                let other = one_limit(0, second, (more, 0), 1);
                case.request.limits.extend(other.request.limits);
                case.standings.extend(other.standings);
                cases.push(case);
            }
        }
    }
    cases
}

/// A limit for the name that all cases go by.
fn for_model(limit: &Limit) -> Limit {
    Limit {
        model: Some("m".into()),
        ..limit.clone()
    }
}

fn one_limit(number: usize, limit: Limit, (used, held): (i64, i64), asked: i64) -> Case {
    let mut request = request(number, asked);
    let window = window(limit.per, 0);
    request.limits = vec![(limit, window)];
    let standing = Balance {
        used: each(used),
        held: each(held),
    };
    Case {
        request,
        standings: vec![standing],
        ceiling: None,
        open: 0,
    }
}

fn with_ceiling(number: usize, amount: i64, (used, held): (i64, i64), asked: i64) -> Case {
    let mut request = request(number, asked);
    // A window for each place where it may stand.
    let place = around(amount).iter().position(|one| *one == used).unwrap() * 100
        + around(amount).iter().position(|one| *one == held).unwrap();
    let start = -i64::try_from(place).unwrap() - 1;
    request.ceiling = Some((amount, window(Per::Day, start)));
    let standing = Balance {
        used: each(used),
        held: each(held),
    };
    Case {
        request,
        standings: Vec::new(),
        ceiling: Some(standing),
        open: 0,
    }
}

/// The rows of the windows that a case is asked against.
fn windows_of(case: &Case) -> Vec<Value> {
    let row = |user: &str, window: &Window, standing: &Balance| {
        let Balance { used, held } = standing;
        json!({
            "user_id": user, "per": window.per.as_str(),
            "starts_at": window.start.millis(), "ends_at": window.end.millis(),
            "requests_used": used.requests, "tokens_used": used.tokens, "micros_used": used.cost,
            "requests_held": held.requests, "tokens_held": held.tokens, "micros_held": held.cost,
        })
    };
    let user = case.request.user_id.to_string();
    let limits = case.request.limits.iter().zip(&case.standings);
    let mut rows: Vec<_> = limits
        .map(|((_, window), standing)| row(&user, window, standing))
        .collect();
    let open = Balance {
        used: Amounts::default(),
        held: each(case.open),
    };
    let lifetime = Window {
        per: Per::Lifetime,
        start: Timestamp::EPOCH,
        end: Timestamp::MAX,
    };
    rows.push(row(&user, &lifetime, &open));
    if let (Some((_, window)), Some(standing)) = (&case.request.ceiling, &case.ceiling) {
        rows.push(row("app", window, standing));
    }
    rows
}

/// The rows of the tallies that a case is asked against.
fn tallies_of(case: &Case) -> Vec<Value> {
    let limits = case.request.limits.iter().zip(&case.standings);
    let row = |((limit, window), Balance { used, held }): (&(Limit, Window), &Balance)| {
        Some(json!({
            "user_id": case.request.user_id, "model": limit.tally()?, "per": window.per.as_str(),
            "starts_at": window.start.millis(), "ends_at": window.end.millis(),
            "requests_used": used.requests, "tokens_used": used.tokens, "micros_used": used.cost,
            "images_used": used.images, "audio_seconds_used": used.audio_seconds,
            "characters_used": used.characters,
            "requests_held": held.requests, "tokens_held": held.tokens, "micros_held": held.cost,
            "images_held": held.images, "audio_seconds_held": held.audio_seconds,
            "characters_held": held.characters,
        }))
    };
    limits.filter_map(row).collect()
}

/// The rows of the windows that a case is asked against; those beside a tally say nothing.
fn plain_windows_of(case: &Case) -> Vec<Value> {
    let mut case = case.clone();
    let limits = case.request.limits.iter().zip(&mut case.standings);
    for ((limit, _), standing) in limits {
        if limit.tally().is_some() {
            *standing = Balance::default();
        }
    }
    windows_of(&case)
}

/// The numbers of the cases on which the two do not agree.
async fn differences(lane: &Lane, cases: &[Case]) -> Vec<usize> {
    let mut different = Vec::new();
    for (chunk, first) in cases.chunks(AT_ONCE).zip((0..).step_by(AT_ONCE)) {
        let holds: Vec<_> = chunk.iter().map(|case| &case.request).collect();
        let fitting = lane.fitting(&holds).await.unwrap();
        for (case, n) in chunk.iter().zip(0..) {
            let admitted = decide(
                &case.request,
                &case.standings,
                case.ceiling,
                case.open,
                None,
            )
            .is_ok();
            if admitted != fitting.contains(&n) {
                different.push(first + n);
            }
        }
    }
    different
}

#[test]
fn both_texts_of_law_1_decide_every_case_alike() {
    let Some(server) = Postgres::start(&[]) else {
        return;
    };
    let url: SecretString = server.url("");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let lane = Lane::for_laws(&url, TimeZone::UTC).await;
        let cases = table();
        assert!(cases.len() > 2000, "{} cases", cases.len());
        for chunk in cases.chunks(AT_ONCE) {
            lane.insert_windows(chunk.iter().flat_map(plain_windows_of).collect())
                .await;
            lane.insert_tallies(chunk.iter().flat_map(tallies_of).collect())
                .await;
        }
        let different = differences(&lane, &cases).await;
        if let Some(n) = different.first() {
            let case = &cases[*n];
            panic!("{} cases, the first of them: {case:?}", different.len());
        }
        // A table that would not notice a difference proves nothing.
        for (name, wrong) in [
            ("one too many", "greatest(greatest(amount - used, 0) - held, 0) + case when amount < 9223372036854775807 and used < amount then 1 else 0 end"),
            ("below zero", "case when used > amount then -1 else greatest(greatest(amount - used, 0) - held, 0) end"),
            ("what is held", "greatest(amount - used, 0)"),
        ] {
            lane.by_hand(&format!(
                "create or replace function tollgate_ledger.remaining_v0(amount bigint, used bigint, held bigint) returns bigint
                 language sql immutable as $$ select {wrong} $$"
            ))
            .await;
            assert!(!differences(&lane, &cases).await.is_empty(), "{name}");
        }
    });
}

#[test]
fn a_unit_that_the_functions_do_not_know_lets_nothing_through() {
    let Some(server) = Postgres::start(&[]) else {
        return;
    };
    let url: SecretString = server.url("");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let lane = Lane::for_laws(&url, TimeZone::UTC).await;
        let dollars = Limit::of_all(Per::Day, Unit::CostUsd, 10);
        let limited = one_limit(0, dollars.clone(), (0, 0), 1);
        let capped = with_ceiling(1, 10, (0, 0), 1);
        let of_model = one_limit(2, for_model(&dollars), (0, 0), 1);
        for case in [limited, capped, of_model] {
            lane.insert_windows(plain_windows_of(&case)).await;
            lane.insert_tallies(tallies_of(&case)).await;
            assert_eq!(lane.fitting(&[&case.request]).await.unwrap(), [0]);
            let error = lane.fitting_in(&[&case.request], "parsecs").await;
            assert!(error.unwrap_err().message.contains("no unit parsecs"));
        }
    });
}
