//! What will break, and when: made from the seed before anything runs.

use std::fmt;
use std::time::Duration;

use crate::support::load::Dice;
use crate::support::zoo::{FAMILIES, Family};

/// Which ledger a run is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// A file, one process.
    Sqlite,
    /// A server of the run's own, two processes.
    Postgres,
}

impl Store {
    /// As on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }

    /// By that name; `both` is both.
    pub(crate) fn named(name: &str) -> Option<Vec<Self>> {
        match name {
            "sqlite" => Some(vec![Self::Sqlite]),
            "postgres" => Some(vec![Self::Postgres]),
            "both" => Some(vec![Self::Sqlite, Self::Postgres]),
            _ => None,
        }
    }

    /// How many processes serve.
    pub(crate) const fn processes(self) -> usize {
        match self {
            Self::Sqlite => 1,
            Self::Postgres => 2,
        }
    }
}

/// How the upstream treats everybody for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// As each request's own script says.
    Scripted,
    Resets,
    Stalls,
    FalseUsage,
    Errors,
}

/// One thing that breaks, and how long it stays so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL; started again after a while.
    Kill(usize, Duration),
    /// SIGTERM; started again at once.
    Terminate(usize),
    DiskFull(Duration),
    /// Every file of the process may be no longer than a page: the next write fails, whatever room there is.
    NoGrowth(Duration),
    PostgresCrash,
    /// What Postgres answers gets lost, then every connection breaks: nobody knows what was committed.
    PostgresUnheard(Duration),
    PostgresDown(Duration),
    /// The clock is so many seconds ahead from now on.
    Clock(i64),
    Upstream(Mood, Duration),
    /// Settings that must be refused; then the right ones again.
    BrokenSettings(usize, Duration),
    /// Settings that differ, and in no limit.
    OtherSettings,
}

/// What breaks independently of each other: each lane is a sequence.
const LANES: usize = 5;

/// Clocks are set to these, in seconds ahead: hours, days and months, forth and back.
const CLOCKS: [i64; 9] = [
    0,
    3600,
    -3600,
    86_400,
    -86_400,
    7 * 86_400,
    -10 * 86_400,
    31 * 86_400,
    59,
];

/// Everything that will break.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) lanes: Vec<Vec<(Duration, Fault)>>,
    /// Whether streams are cut or drained when their caller leaves.
    pub(crate) on_disconnect: &'static str,
    /// Where every caller's dice come from.
    pub(crate) load_seed: u64,
    /// Who serves, besides an upstream that may say anything.
    pub(crate) families: Vec<&'static Family>,
}

/// So many providers of the zoo are behind a run.
const FAMILIES_OF_A_RUN: usize = 4;

impl Script {
    /// The same for the same seed.
    pub(crate) fn new(seed: u64, store: Store, length: Duration) -> Self {
        let mut dice = Dice::of(seed);
        let on_disconnect = if dice.below(2) == 0 { "drain" } else { "abort" };
        let load_seed = dice.below(u64::MAX);
        let lanes = (0..LANES).map(|lane| {
            let mut dice = dice.another();
            let mut faults = Vec::new();
            let mut at = Duration::from_millis(500 + dice.below(2500));
            while at + Duration::from_secs(1) < length {
                let fault = fault(lane, store, &mut dice);
                faults.push((at, fault));
                at += Duration::from_millis(1200 + dice.below(4000)) + fault.lasts();
            }
            faults
        });
        let lanes = lanes.collect();
        // Neighbouring seeds have neighbours of the zoo: four seeds see all of it.
        let first = seed as usize * FAMILIES_OF_A_RUN;
        let families = (first..first + FAMILIES_OF_A_RUN)
            .map(|at| &FAMILIES[at % FAMILIES.len()])
            .collect();
        Self {
            lanes,
            on_disconnect,
            load_seed,
            families,
        }
    }
}

fn fault(lane: usize, store: Store, dice: &mut Dice) -> Fault {
    let lasting = Duration::from_millis(200 + dice.below(2300));
    let kind = dice.below(4);
    match lane {
        0 => match kind {
            0 => Fault::Terminate(dice.below(store.processes() as u64) as usize),
            _ => Fault::Kill(dice.below(store.processes() as u64) as usize, lasting / 8),
        },
        1 => match (store, kind) {
            (Store::Sqlite, 2..) => Fault::NoGrowth(lasting),
            (Store::Sqlite, _) | (_, 0) => Fault::DiskFull(lasting),
            (Store::Postgres, 1) => Fault::PostgresDown(lasting * 2),
            (Store::Postgres, 2) => Fault::PostgresUnheard(lasting / 4),
            (Store::Postgres, _) => Fault::PostgresCrash,
        },
        2 => Fault::Clock(CLOCKS[dice.below(CLOCKS.len() as u64) as usize]),
        3 => {
            let mood = [Mood::Resets, Mood::Stalls, Mood::FalseUsage, Mood::Errors][kind as usize];
            Fault::Upstream(mood, lasting / 2)
        }
        _ if kind == 0 => Fault::OtherSettings,
        _ => Fault::BrokenSettings(dice.below(100) as usize, lasting),
    }
}

impl Fault {
    fn lasts(self) -> Duration {
        match self {
            Self::Kill(_, lasts)
            | Self::DiskFull(lasts)
            | Self::NoGrowth(lasts)
            | Self::PostgresUnheard(lasts)
            | Self::PostgresDown(lasts)
            | Self::Upstream(_, lasts)
            | Self::BrokenSettings(_, lasts) => lasts,
            Self::Terminate(_) | Self::PostgresCrash | Self::Clock(_) | Self::OtherSettings => {
                Duration::ZERO
            }
        }
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let families: Vec<&str> = self.families.iter().map(|family| family.name).collect();
        writeln!(
            f,
            "on_disconnect = {}; {}; the schedule of faults:",
            self.on_disconnect,
            families.join(", ")
        )?;
        let mut all: Vec<&(Duration, Fault)> = self.lanes.iter().flatten().collect();
        all.sort_by_key(|(at, _)| *at);
        for (at, fault) in all {
            writeln!(f, "  {:7.3} s  {fault:?}", at.as_secs_f64())?;
        }
        Ok(())
    }
}
