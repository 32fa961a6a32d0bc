//! Counters of this process, and their page for Prometheus.
//!
//! Labels are few and fixed: error codes, our paths, and the names of models, plans and upstreams in the settings;
//! anything else is `other`. There are no labels for users. Counting takes no lock and allocates nothing, because every
//! cell exists before it is counted in. What another part knows already is read from it when the page is asked for.

mod cells;
mod devices;
mod moderation;
mod page;
mod process;
mod stores;
#[cfg(test)]
mod tests;
mod upstream_outcome;
mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::auth::Device;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::endpoint;
use crate::error::Code;
use crate::ledger::{Charge, EndState, Flag, Settlement};
use crate::plan::{Hold, PaidBy};
use crate::price::Usage;
use cells::{Counter, CounterTable, Histogram};

pub use moderation::ModerationOutcome;
pub(crate) use page::{CeilingReading, MetricsSnapshot};
pub(crate) use stores::StoreReading;
pub use upstream_outcome::UpstreamOutcome;

/// The label of whatever has no name here.
const OTHER: &str = "other";
/// The paths that are told apart beside those of the endpoints; the last is all others.
const PATHS: [&str; 9] = [
    "/",
    "/health/ready",
    "/openapi.json",
    "/api/me",
    "/api/usage",
    "/api/answers/{id}",
    "/v1/models",
    "/v1/models/{id}",
    OTHER,
];

/// Every path that is told apart.
fn paths() -> impl Iterator<Item = &'static str> {
    let of_endpoints = endpoint::ALL.into_iter().flat_map(|spec| spec.paths);
    of_endpoints.copied().chain(PATHS)
}
/// How an upstream's answer came out; `cancelled` is nobody's fault: the caller left first.
const OUTCOMES: &[&str] = &[
    "ok",
    "cancelled",
    "connect",
    "timeout",
    "unauthorized",
    "forbidden",
    "budget",
    "busy",
    "broken",
    "error",
    OTHER,
];
/// `cached_input` and `cache_write` are parts of `input`, `reasoning` is a part of `output`.
const KINDS: &[&str] = &[
    "input",
    "cached_input",
    "cache_write",
    "output",
    "reasoning",
];

/// Upper bounds of the buckets, in microseconds.
const FIRST_BYTE_BUCKETS: &[u64] = &[
    25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000,
    20_000_000, 40_000_000, 80_000_000,
];
/// Upper bounds of the buckets, in microseconds.
const DURATION_BUCKETS: &[u64] = &[
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    120_000_000,
    300_000_000,
    900_000_000,
];
/// Upper bounds of the buckets, in microseconds.
const LEDGER_BUCKETS: &[u64] = &[
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    5_000_000,
];

/// How a request ended, as its caller sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestOutcome {
    /// Served.
    Ok,
    /// The caller left before an answer began.
    Cancelled,
    /// Refused.
    Refused(Code),
}

impl RequestOutcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Cancelled => "cancelled",
            Self::Refused(code) => code.as_str(),
        }
    }
}

/// An upstream's requests since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamCount {
    /// Its name in the settings.
    pub name: String,
    /// Requests that were dispatched to it and have ended.
    pub requests: u64,
    /// Those of them that it failed.
    pub errors: u64,
}

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    started: Timestamp,
    /// By endpoint.
    requests: Vec<CounterTable<RequestOutcome>>,
    durations: Vec<Histogram>,
    first_byte: Histogram,
    ledger_writes: Histogram,
    ended: CounterTable<EndState>,
    flags: CounterTable<Flag>,
    moderations: CounterTable<ModerationOutcome>,
    devices: CounterTable<Device>,
    credits: Counter,
    named: ArcSwap<NamedCounters>,
}

/// What is counted by names in the settings. A name that a reload takes away keeps its counts.
#[derive(Clone, Debug, Default)]
struct NamedCounters {
    upstreams: BTreeMap<String, Arc<CounterTable<&'static str>>>,
    models: BTreeMap<String, Arc<ModelCounters>>,
}

/// What was used of a model.
#[derive(Clone, Debug)]
struct ModelCounters {
    tokens: Arc<CounterTable<&'static str>>,
    /// Micro-dollars by plan.
    cost: BTreeMap<String, Arc<Counter>>,
}

impl Metrics {
    /// Nothing counted yet, with the names of these settings.
    #[must_use]
    pub fn new(config: &Config, started: Timestamp) -> Self {
        let told = || {
            [RequestOutcome::Ok, RequestOutcome::Cancelled]
                .into_iter()
                .chain(Code::ALL.iter().copied().map(RequestOutcome::Refused))
        };
        // A sweep ends rows of a process that is gone, in the ledger alone.
        let flags = Flag::ALL
            .iter()
            .copied()
            .filter(|flag| *flag != Flag::Swept);
        let metrics = Self {
            started,
            requests: paths().map(|_| CounterTable::new(told())).collect(),
            durations: paths().map(|_| Histogram::new(DURATION_BUCKETS)).collect(),
            first_byte: Histogram::new(FIRST_BYTE_BUCKETS),
            ledger_writes: Histogram::new(LEDGER_BUCKETS),
            ended: CounterTable::new(EndState::ENDED.into_iter()),
            flags: CounterTable::new(flags),
            moderations: CounterTable::new(ModerationOutcome::ALL.into_iter()),
            devices: CounterTable::new(Device::ALL.into_iter()),
            credits: Counter::default(),
            named: ArcSwap::default(),
        };
        metrics.adopt(config);
        metrics
    }

    /// Makes cells for the names of new settings; what was counted stays.
    pub fn adopt(&self, config: &Config) {
        let mut named = NamedCounters::clone(&self.named.load());
        let upstreams = config
            .upstreams
            .iter()
            .map(|upstream| upstream.name.as_str());
        for upstream in upstreams.chain([OTHER]) {
            let cells = || Arc::new(CounterTable::new(OUTCOMES.iter().copied()));
            named
                .upstreams
                .entry(upstream.to_owned())
                .or_insert_with(cells);
        }
        let of_plan = |(plan, rules): (&String, &Arc<crate::plan::Plan>)| {
            rules
                .models
                .iter()
                .map(|model| (model.clone(), plan.clone()))
                .collect::<Vec<_>>()
        };
        let pairs = config.plans.by_name.iter().flat_map(of_plan);
        for (model, plan) in pairs.chain([(OTHER.to_owned(), OTHER.to_owned())]) {
            let model = Arc::make_mut(
                named
                    .models
                    .entry(model)
                    .or_insert_with(|| Arc::new(ModelCounters::new())),
            );
            model.cost.entry(plan).or_default();
        }
        self.named.store(Arc::new(named));
    }

    /// A request on the users' listener has ended.
    pub fn request(&self, path: &str, told: RequestOutcome, took: Duration) {
        let endpoint = path_index(path);
        if let (Some(requests), Some(durations)) =
            (self.requests.get(endpoint), self.durations.get(endpoint))
        {
            requests.add(&told, 1);
            durations.observe(took);
        }
    }

    /// The ledger answered a hold after this time.
    pub fn ledger_write(&self, took: Duration) {
        self.ledger_writes.observe(took);
    }

    /// What a user said was put to a moderation model.
    pub fn moderation(&self, outcome: ModerationOutcome) {
        self.moderations.add(&outcome, 1);
    }

    /// A request to an upstream has ended.
    pub fn upstream(&self, name: &str, outcome: UpstreamOutcome) {
        let named = self.named.load();
        let cells = named.upstreams.get(name);
        if let Some(cells) = cells.or_else(|| named.upstreams.get(OTHER)) {
            cells.add(&outcome.as_str(), 1);
        }
    }

    /// A hold has ended.
    pub fn ended(&self, model: &str, plan: &str, hold: &Hold, settlement: &Settlement) {
        let (usage, micros) = match settlement.charge {
            Charge::Voided { .. } => (None, 0),
            Charge::Settled { usage, cost } => (Some(usage), cost.0),
            Charge::WholeHold | Charge::Lost => (None, hold.amounts.cost),
        };
        self.ended.add(&settlement.charge.end_state(), 1);
        for flag in &settlement.flags {
            self.flags.add(flag, 1);
        }
        if let Some(ms) = settlement.ttft_ms {
            self.first_byte
                .observe(Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
        }
        let micros = u64::try_from(micros).unwrap_or(0);
        if hold.paid_by == PaidBy::Credits {
            self.credits.add(micros);
        }
        let named = self.named.load();
        named.charge((model, plan), usage.as_ref(), micros);
    }

    /// Refusals since the start, by code; those that never happened are left out.
    #[must_use]
    pub fn refusals(&self) -> Vec<(&'static str, u64)> {
        let count = |code: &Code| {
            let told = RequestOutcome::Refused(*code);
            (
                code.as_str(),
                self.requests
                    .iter()
                    .fold(0_u64, |sum, table| sum.saturating_add(table.get(&told))),
            )
        };
        Code::ALL
            .iter()
            .map(count)
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// Every upstream's requests since the start, by name.
    #[must_use]
    pub fn upstreams(&self) -> Vec<UpstreamCount> {
        let well = ["ok", "cancelled"];
        let count = |(name, cells): (&String, &Arc<CounterTable<&'static str>>)| {
            let sum = |which: &dyn Fn(&str) -> bool| {
                let wanted = cells.iter().filter(|(outcome, _)| which(outcome));
                wanted.fold(0_u64, |sum, (_, count)| sum.saturating_add(count))
            };
            let (requests, errors) = (sum(&|_| true), sum(&|outcome| !well.contains(&outcome)));
            UpstreamCount {
                name: name.clone(),
                requests,
                errors,
            }
        };
        let named = self.named.load();
        named
            .upstreams
            .iter()
            .map(count)
            .filter(|count| count.name != OTHER || count.requests > 0)
            .collect()
    }
}

impl NamedCounters {
    fn charge(&self, (model, plan): (&str, &str), usage: Option<&Usage>, micros: u64) {
        let Some(model) = self.models.get(model).or_else(|| self.models.get(OTHER)) else {
            return;
        };
        let other = || self.models.get(OTHER)?.cost.get(OTHER);
        if let Some(cost) = model.cost.get(plan).or_else(other) {
            cost.add(micros);
        }
        let Some(usage) = usage else { return };
        let by_kind = [
            usage.input_tokens,
            usage.cached_input_tokens,
            usage.cache_write_tokens,
            usage.output_tokens,
            usage.reasoning_tokens,
        ];
        for (kind, tokens) in KINDS.iter().zip(by_kind) {
            model.tokens.add(kind, tokens);
        }
    }
}

impl ModelCounters {
    fn new() -> Self {
        Self {
            tokens: Arc::new(CounterTable::new(KINDS.iter().copied())),
            cost: BTreeMap::new(),
        }
    }
}

/// The place of a path in [`paths`].
fn path_index(path: &str) -> usize {
    let place = |path: &str| paths().position(|known| known == path);
    let pattern = || {
        if path.starts_with("/v1/models/") {
            return place("/v1/models/{id}");
        }
        if path.starts_with("/api/answers/") {
            return place("/api/answers/{id}");
        }
        place(endpoint::route(path)?.pattern)
    };
    let other = || paths().count().saturating_sub(1);
    place(path).or_else(pattern).unwrap_or_else(other)
}
