//! One run: the world, the load, the faults, the live check; then the quiet and the judgement.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::credits::{self, Till, Watched, beyond_grants};
use crate::judge;
use crate::ledger::{
    Place, Reader, Snapshot, beyond_limits, held_unlike_the_rows, unlike_the_rows,
};
use crate::load::{CALLERS, Crowd, PlanFacts, keeps_calling};
use crate::script::{Script, Store};
use crate::support::caller::chat;
use crate::support::disk;
use crate::support::load::Dice;
use crate::world::World;

/// How often the ledger is looked at.
const EVERY: Duration = Duration::from_millis(10);
/// So many looks a second, and looks at all of it, there are at least, over a run: servers are down for a part of it, and the
/// machine has other things to do.
const LOOKS_MIN: u64 = 10;
const WHOLE_LOOKS_MIN: f64 = 0.5;
/// At the end the clock is so far ahead, in days: where no ceiling is used up.
const DAYS_AHEAD: i64 = 200;
/// How long it may take until nothing is open any more.
const QUIET_WITHIN: Duration = Duration::from_secs(15);

/// A run that is this long has requests of every endpoint.
const ENOUGH: Duration = Duration::from_secs(20);

/// How often the ledger was looked at.
#[derive(Default)]
struct Looks {
    all: AtomicU64,
    /// Those that saw every row.
    whole: AtomicU64,
}

impl Looks {
    /// A watcher that sees nothing finds nothing wrong.
    fn were_enough(&self, length: Duration) {
        let (all, whole) = (
            self.all.load(Ordering::Relaxed),
            self.whole.load(Ordering::Relaxed),
        );
        assert!(
            all >= LOOKS_MIN * length.as_secs(),
            "the ledger was looked at only {all} times"
        );
        assert!(
            whole as f64 >= WHOLE_LOOKS_MIN * length.as_secs_f64(),
            "all of it was looked at only {whole} times"
        );
    }
}

/// Runs a seed; panics where a law is broken. What could not be tried here.
pub(crate) async fn run(seed: u64, store: Store, length: Duration) -> Option<&'static str> {
    let script = Script::new(seed, store, length);
    let families: Vec<&str> = script.families.iter().map(|family| family.name).collect();
    let (seconds, families) = (length.as_secs(), families.join(" "));
    println!(
        "chaos: seed {seed}, {seconds} s on {}, {}, {families}",
        store.name(),
        script.on_disconnect
    );
    let world = Arc::new(World::new(&script, store).await);
    let crowd = Arc::new(Crowd::of(&world.door, length, script.families.clone()));
    let plans = Arc::new(crowd.plans());
    let looks = Arc::new(Looks::default());
    let mut dice = Dice::of(script.load_seed);
    let callers = (0..CALLERS).map(|_| dice.another()).collect::<Vec<_>>();
    let till = Arc::new(Till::default());
    credits::sells_in_advance(&world, &crowd, &till, &mut dice).await;
    let seller = credits::keeps_selling(world.clone(), crowd.clone(), till.clone(), dice.another());
    let seller = tokio::spawn(seller);
    let callers: Vec<_> = callers
        .into_iter()
        .map(|dice| tokio::spawn(keeps_calling(world.clone(), crowd.clone(), dice)))
        .collect();
    let watch = tokio::spawn(watch(world.clone(), plans.clone(), looks.clone()));
    let lanes: Vec<_> = script
        .lanes
        .iter()
        .map(|lane| tokio::spawn(follow(world.clone(), lane.clone())))
        .collect();

    let mut told = Duration::ZERO;
    while world.elapsed() < length || lanes.iter().any(|lane| !lane.is_finished()) {
        sleep(Duration::from_millis(50)).await;
        world.look_for_the_dead();
        stop_if_broken(&world, &script);
        if world.elapsed().saturating_sub(told) > Duration::from_secs(5) {
            told = world.elapsed();
            progress(&world, &looks);
        }
    }
    end(callers).await;
    till.close();
    seller.await.unwrap();
    for lane in lanes {
        lane.await.unwrap();
    }
    served_again(&world).await;
    let left = quiet(&world).await;
    end(vec![watch]).await;
    stop_if_broken(&world, &script);
    progress(&world, &looks);
    looks.were_enough(length);
    let untried = world.untried();
    let mut found = credits_at_the_end(&world, &crowd, &till, &left).await;
    let endpoints = judge::endpoints(&left, &world.door.upstream.log());
    let counts: Vec<String> = endpoints
        .iter()
        .map(|(path, [served, charged])| format!("{served} {path} ({charged})"))
        .collect();
    println!("served (charged): {}", counts.join(", "));
    if length >= ENOUGH {
        // (Of the two for images one is enough: they are one in the ledger.)
        let unasked = endpoints
            .iter()
            .filter(|(path, [_, charged])| *charged == 0 && **path != "/v1/images/edits");
        found.extend(unasked.map(|(path, _)| format!("{path} was never paid for")));
    }
    close(world, &left, &plans, found).await;
    println!(
        "chaos: seed {seed} on {} holds: {}",
        store.name(),
        told_of(&left)
    );
    untried
}

async fn follow(world: Arc<World>, lane: Vec<(Duration, crate::script::Fault)>) {
    for (at, fault) in lane {
        sleep(at.saturating_sub(world.elapsed())).await;
        world.suffer(fault).await;
    }
}

/// Looks at the ledger again and again, and checks what can be checked in one instant.
async fn watch(
    world: Arc<World>,
    plans: Arc<HashMap<String, &'static PlanFacts>>,
    looks: Arc<Looks>,
) {
    let place = world.place();
    let mut look_again = Instant::now();
    let mut watched = Watched::default();
    loop {
        // A server that is down, or a ledger that is locked while it is recovered, is looked at a moment later.
        let Ok(reader) = Reader::connect(&place).await else {
            sleep(EVERY).await;
            continue;
        };
        for _ in 0..200 {
            let begun = Instant::now();
            let whole = begun >= look_again;
            let Ok(seen) = (if whole {
                reader.look().await
            } else {
                reader.glance().await
            }) else {
                break;
            };
            let mut found = beyond_limits(&seen, &plans);
            found.extend(held_unlike_the_rows(&seen));
            found.extend(beyond_grants(&seen, whole));
            found.extend(watched.spent_again(&seen));
            if whole {
                looks.whole.fetch_add(1, Ordering::Relaxed);
                found.extend(unlike_the_rows(&seen));
                look_again = Instant::now() + (begun.elapsed() * 9).max(Duration::from_millis(300));
            }
            for what in found {
                world.complain(format!("{:.3} s: {what}", world.elapsed().as_secs_f64()));
            }
            looks.all.fetch_add(1, Ordering::Relaxed);
            sleep(EVERY.saturating_sub(begun.elapsed())).await;
        }
    }
}

fn stop_if_broken(world: &World, script: &Script) {
    let complaints = world.complaints();
    if let Some(first) = complaints.first() {
        println!(
            "BROKEN after {:.1} s ({} complaints): {first}",
            world.elapsed().as_secs_f64(),
            complaints.len()
        );
        panic!(
            "{}\n{script}",
            complaints[..complaints.len().min(5)].join("\n")
        );
    }
}

fn progress(world: &World, looks: &Looks) {
    let mut answers: BTreeMap<String, usize> = BTreeMap::new();
    for number in 0..2 {
        let front = world.front(number);
        if number == 1 && Arc::ptr_eq(&front, &world.front(0)) {
            continue;
        }
        for answer in front.heard() {
            let code = answer.header("x-tollgate-error");
            let name = if code.is_empty() {
                answer.status.to_string()
            } else {
                format!("{} {code}", answer.status)
            };
            *answers.entry(name).or_default() += 1;
        }
    }
    let answers: Vec<String> = answers
        .iter()
        .map(|(name, count)| format!("{name}: {count}"))
        .collect();
    println!(
        "{:5.1} s  {} faults, {} looks ({} at all of it), {} served upstream; {}",
        world.elapsed().as_secs_f64(),
        world.faults.load(Ordering::SeqCst),
        looks.all.load(Ordering::Relaxed),
        looks.whole.load(Ordering::Relaxed),
        world.door.upstream.count(),
        answers.join(", ")
    );
}

async fn end(tasks: Vec<JoinHandle<()>>) {
    for task in &tasks {
        task.abort();
    }
    for task in tasks {
        if let Err(error) = task.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

/// Everything is mended: each process serves within seconds, by itself.
async fn served_again(world: &World) {
    crate::support::faketime::ahead(&world.door, DAYS_AHEAD * 86_400);
    let user = Crowd::newcomer(&world.door);
    let begun = Instant::now();
    for number in 0..2 {
        let user = crate::support::caller::User {
            front: world.front(number),
            ..user.clone()
        };
        loop {
            let answer = user.try_ask(chat("do-words-5; is all well again")).await;
            if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
                break;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "mended, and not served in ten seconds: {answer:?}"
            );
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The ledger once nothing is open any more.
async fn quiet(world: &World) -> Snapshot {
    let begun = Instant::now();
    loop {
        let seen = Reader::connect(&world.place())
            .await
            .unwrap()
            .look()
            .await
            .unwrap();
        if seen.rows.iter().all(|row| row.state != "held") || begun.elapsed() > QUIET_WITHIN {
            return seen;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Law 9 once nothing is open: what was given is what was sold, and what is left is what users are told.
async fn credits_at_the_end(
    world: &World,
    crowd: &Crowd,
    till: &Till,
    seen: &Snapshot,
) -> Vec<String> {
    let mut found = beyond_grants(seen, true);
    found.extend(till.disagreements(seen));
    let front = (&world.front(0), DAYS_AHEAD * 86_400_000);
    found.extend(credits::told_of_another_rest(crowd, seen, front).await);
    let paid = seen
        .rows
        .iter()
        .filter(|row| row.is_by_credits && row.is_charged());
    if paid.count() == 0 {
        found.push("credits paid for nothing".to_owned());
    }
    let check = tokio::task::block_in_place(|| world.door.tollgate(&["ledger", "check"]));
    if check.code != Some(0) {
        found.push(format!("`ledger check`: {check:?}"));
    }
    found
}

async fn close(
    world: Arc<World>,
    seen: &Snapshot,
    plans: &HashMap<String, &'static PlanFacts>,
    mut found: Vec<String>,
) {
    found.extend(beyond_limits(seen, plans));
    found.extend(unlike_the_rows(seen));
    found.extend(judge::violations(
        seen,
        &world.door.upstream.log(),
        world.settings(),
    ));
    let count = found.len();
    found.truncate(20);
    assert!(
        found.is_empty(),
        "{count} complaints at the end:\n- {}",
        found.join("\n- ")
    );
    if let Place::File(path) = world.place() {
        let integrity = tokio::task::block_in_place(|| disk::integrity(&path));
        assert_eq!(integrity, "ok", "pragma integrity_check");
    }
    let world = Arc::into_inner(world).expect("nobody else has the world any more");
    world.close().await;
}

fn told_of(seen: &Snapshot) -> String {
    let mut states: BTreeMap<String, usize> = BTreeMap::new();
    for row in &seen.rows {
        *states.entry(row.state.clone()).or_default() += 1;
        for flag in row.flags.split(',').filter(|flag| !flag.is_empty()) {
            *states.entry(format!("({flag})")).or_default() += 1;
        }
        if row.is_by_credits {
            *states.entry("(by credits)".to_owned()).or_default() += 1;
        }
    }
    let states: Vec<String> = states
        .iter()
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    let credits = credits::summary(seen);
    format!("{} rows: {}; {credits}", seen.rows.len(), states.join(", "))
}
