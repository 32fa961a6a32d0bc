//! Chaos: the real binary under mixed load, while a script made from a seed breaks whatever can break.
//!
//! `just chaos [--seed N] [--seeds HOW_MANY] [--minutes M | --seconds S] [--on sqlite|postgres|both]`. The upstream's log
//! is the truth; the laws of the ledger are checked in the database itself, what is open every 10 ms, all of it several times
//! a second, and once all is quiet.
//!
//! A seed decides every fault and its moment, and what each caller does next: the same seed replays both. How the
//! threads of the product, of the callers and of the database interleave is not the seed's: a failure that hangs on it
//! may need several replays.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    clippy::float_arithmetic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::string_slice,
    clippy::let_underscore_must_use,
    reason = "a test that stumbles should stop loudly, and the fakes own their tasks and their clock"
)]

#[allow(
    dead_code,
    reason = "the harness of tests/it; not all of it is needed here"
)]
#[path = "../it/support/mod.rs"]
mod support;

mod credits;
mod endpoints;
mod judge;
mod ledger;
mod load;
mod run;
mod script;
mod world;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use script::Store;

/// What was asked for.
struct Wanted {
    seed: u64,
    seeds: u64,
    length: Duration,
    on: Vec<Store>,
}

const USAGE: &str = "just chaos [--seed N] [--seeds HOW_MANY] [--minutes M | --seconds S] [--on sqlite|postgres|both]";

impl Wanted {
    /// `Ok(None)`: `cargo test` runs everything, and does not mean this.
    fn read(mut words: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        if words.next().as_deref() != Some("run") {
            return Ok(None);
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_millis() as u64;
        let minute = Duration::from_mins(1);
        let mut wanted = Self {
            seed: now % 1_000_000,
            seeds: 1,
            length: minute,
            on: vec![Store::Sqlite, Store::Postgres],
        };
        while let Some(name) = words.next() {
            let value = words
                .next()
                .ok_or_else(|| format!("{name} wants a value"))?;
            let number = || {
                value
                    .parse::<u64>()
                    .map_err(|error| format!("{name} {value}: {error}"))
            };
            match name.as_str() {
                "--seed" => wanted.seed = number()?,
                "--seeds" => wanted.seeds = number()?,
                "--minutes" => wanted.length = minute * number()? as u32,
                "--seconds" => wanted.length = Duration::from_secs(number()?),
                "--on" => {
                    wanted.on = Store::named(&value).ok_or_else(|| format!("--on {value}"))?;
                }
                _ => return Err(format!("{name} is unknown")),
            }
        }
        Ok(Some(wanted))
    }
}

fn main() -> ExitCode {
    let wanted = match Wanted::read(std::env::args().skip(1)) {
        Ok(Some(wanted)) => wanted,
        Ok(None) => {
            println!("chaos is run by: {USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(what) => {
            eprintln!("{what}: {USAGE}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let (mut failed, mut untried) = (Vec::new(), BTreeSet::new());
    for seed in wanted.seed..wanted.seed + wanted.seeds {
        for store in &wanted.on {
            let (store, length) = (*store, wanted.length);
            // A task of its own: a run that panics has failed, and the next one goes on.
            if let Ok(left_out) = runtime.block_on(runtime.spawn(run::run(seed, store, length))) {
                untried.extend(left_out);
            } else {
                let replay = format!(
                    "--seed {seed} --seconds {} --on {}",
                    length.as_secs(),
                    store.name()
                );
                println!(
                    "FAILED, replay with: just chaos {replay}\n{}",
                    script::Script::new(seed, store, length)
                );
                failed.push(replay);
            }
        }
    }
    // `.ci/run` lists these lines at its end.
    for what in &untried {
        println!("NOT CHECKED: {what}");
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("failed: {}", failed.join("; "));
    ExitCode::FAILURE
}
