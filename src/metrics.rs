//! Counters of this process, and their page for Prometheus.
//!
//! It knows labels that are few and fixed: codes, paths of ours, and the names of models, plans and upstreams in the
//! settings; whatever else is asked for is `other`. It never knows a user. Counting takes no lock and allocates nothing:
//! every cell is there before it is counted in. What another part knows already is not counted again but read from it
//! when the page is asked for.

mod cells;
mod page;
mod process;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::clock::Timestamp;
use crate::config::Config;
use crate::error::Code;
use crate::ledger::{Charge, Settlement};
use crate::plan::Hold;
use crate::price::Usage;
use crate::upstream::health::Failure;
use cells::{Count, Histogram, Table};

pub(crate) use page::metrics;

/// The label of whatever has no name here.
const OTHER: &str = "other";
/// The paths that are told apart.
const ENDPOINTS: &[&str] = &[
    "/",
    "/health/ready",
    "/openapi.json",
    "/api/me",
    "/api/usage",
    "/api/chat",
    "/v1/chat/completions",
    "/v1/models",
    "/v1/models/{id}",
    OTHER,
];
/// Every flag that a row may carry.
const FLAGS: &[&str] = &[
    "cancelled",
    "content_filter",
    "cut",
    "estimated",
    "max_completion_tokens_refused",
    "max_tokens_refused",
    "nonsense",
    "not_connected",
    "other_model",
    "other_tier",
    "overrun",
    "refused_late",
    "shutdown",
    "stream_options_refused",
    "timeout",
    "upstream_failed",
    "upstream_rejected",
    "usage_nonsense",
    OTHER,
];
const ENDS: &[&str] = &["settled", "voided", "lost"];
/// How an upstream's answer came out; `cancelled` is nobody's fault: the caller left first.
const OUTCOMES: &[&str] =
    &["ok", "cancelled", "connect", "timeout", "unauthorized", "forbidden", "budget", "busy", "broken", "error", OTHER];
/// `cached_input` and `cache_write` are parts of `input`, `reasoning` is a part of `output`.
const KINDS: &[&str] = &["input", "cached_input", "cache_write", "output", "reasoning"];

/// Upper bounds of the buckets, in microseconds.
const FIRST_BYTE_BUCKETS: &[u64] = &[
    25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 20_000_000, 40_000_000,
    80_000_000,
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
const LEDGER_BUCKETS: &[u64] =
    &[250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000];

/// How a request ended for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Served.
    Ok,
    /// The caller left before anything was sent.
    Cancelled,
    /// Refused.
    Refused(Code),
}

impl Told {
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
    requests: Vec<Table<Told>>,
    durations: Vec<Histogram>,
    first_byte: Histogram,
    ledger_writes: Histogram,
    ended: Table<&'static str>,
    flags: Table<&'static str>,
    named: ArcSwap<Named>,
}

/// What is counted by names in the settings. A name that a reload takes away keeps its counts.
#[derive(Clone, Debug, Default)]
struct Named {
    upstreams: BTreeMap<String, Arc<Table<&'static str>>>,
    models: BTreeMap<String, Arc<Model>>,
}

/// What was used of a model.
#[derive(Clone, Debug)]
struct Model {
    tokens: Arc<Table<&'static str>>,
    /// Micro-dollars by plan.
    cost: BTreeMap<String, Arc<Count>>,
}

impl Metrics {
    /// Nothing counted yet, with the names of these settings.
    #[must_use]
    pub fn new(config: &Config, started: Timestamp) -> Self {
        let told = || [Told::Ok, Told::Cancelled].into_iter().chain(Code::ALL.iter().copied().map(Told::Refused));
        let metrics = Self {
            started,
            requests: ENDPOINTS.iter().map(|_| Table::new(told())).collect(),
            durations: ENDPOINTS.iter().map(|_| Histogram::new(DURATION_BUCKETS)).collect(),
            first_byte: Histogram::new(FIRST_BYTE_BUCKETS),
            ledger_writes: Histogram::new(LEDGER_BUCKETS),
            ended: Table::new(ENDS.iter().copied()),
            flags: Table::new(FLAGS.iter().copied()),
            named: ArcSwap::default(),
        };
        metrics.adopt(config);
        metrics
    }

    /// Makes cells for the names of new settings; what was counted stays.
    pub fn adopt(&self, config: &Config) {
        let mut named = Named::clone(&self.named.load());
        let upstreams = config.upstreams.iter().map(|upstream| upstream.name.as_str());
        for upstream in upstreams.chain([OTHER]) {
            let cells = || Arc::new(Table::new(OUTCOMES.iter().copied()));
            named.upstreams.entry(upstream.to_owned()).or_insert_with(cells);
        }
        let of_plan = |(plan, rules): (&String, &Arc<crate::plan::Plan>)| {
            rules.models.iter().map(|model| (model.clone(), plan.clone())).collect::<Vec<_>>()
        };
        let pairs = config.plans.by_name.iter().flat_map(of_plan);
        for (model, plan) in pairs.chain([(OTHER.to_owned(), OTHER.to_owned())]) {
            let model = Arc::make_mut(named.models.entry(model).or_insert_with(|| Arc::new(Model::new())));
            model.cost.entry(plan).or_default();
        }
        self.named.store(Arc::new(named));
    }

    /// A request on the users' listener has ended.
    pub fn request(&self, path: &str, told: Told, took: Duration) {
        let endpoint = endpoint(path);
        if let (Some(requests), Some(durations)) = (self.requests.get(endpoint), self.durations.get(endpoint)) {
            requests.add(&told, 1);
            durations.observe(took);
        }
    }

    /// A hold was answered by the ledger after so long.
    pub fn ledger_write(&self, took: Duration) {
        self.ledger_writes.observe(took);
    }

    /// A dispatched request came out so: none is well; a caller who left first is told apart.
    pub fn upstream(&self, name: &str, outcome: Outcome) {
        let named = self.named.load();
        if let Some(cells) = named.upstreams.get(name).or_else(|| named.upstreams.get(OTHER)) {
            cells.add(&outcome.as_str(), 1);
        }
    }

    /// A hold has ended.
    pub fn ended(&self, model: &str, plan: &str, hold: &Hold, settlement: &Settlement) {
        let (end, usage, micros) = match settlement.charge {
            Charge::Voided { .. } => ("voided", None, 0),
            Charge::Settled { usage, cost } => ("settled", Some(usage), cost.0),
            Charge::WholeHold => ("settled", None, hold.amounts.cost),
            Charge::Lost => ("lost", None, hold.amounts.cost),
        };
        self.ended.add(&end, 1);
        for flag in &settlement.flags {
            let known = if FLAGS.contains(flag) { *flag } else { OTHER };
            self.flags.add(&known, 1);
        }
        if let Some(ms) = settlement.ttft_ms {
            self.first_byte.observe(Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
        }
        self.named.load().charge((model, plan), usage.as_ref(), u64::try_from(micros).unwrap_or(0));
    }

    /// Refusals since the start, by code; those that never happened are left out.
    #[must_use]
    pub fn refusals(&self) -> Vec<(&'static str, u64)> {
        let count = |code: &Code| {
            let told = Told::Refused(*code);
            (code.as_str(), self.requests.iter().fold(0_u64, |sum, table| sum.saturating_add(table.get(&told))))
        };
        Code::ALL.iter().map(count).filter(|(_, count)| *count > 0).collect()
    }

    /// Every upstream's requests since the start, by name.
    #[must_use]
    pub fn upstreams(&self) -> Vec<UpstreamCount> {
        let well = ["ok", "cancelled"];
        let count = |(name, cells): (&String, &Arc<Table<&'static str>>)| {
            let sum = |which: &dyn Fn(&str) -> bool| {
                let wanted = cells.iter().filter(|(outcome, _)| which(outcome));
                wanted.fold(0_u64, |sum, (_, count)| sum.saturating_add(count))
            };
            let (requests, errors) = (sum(&|_| true), sum(&|outcome| !well.contains(&outcome)));
            UpstreamCount { name: name.clone(), requests, errors }
        };
        let named = self.named.load();
        named.upstreams.iter().map(count).filter(|count| count.name != OTHER || count.requests > 0).collect()
    }
}

impl Named {
    fn charge(&self, (model, plan): (&str, &str), usage: Option<&Usage>, micros: u64) {
        let Some(model) = self.models.get(model).or_else(|| self.models.get(OTHER)) else { return };
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

impl Model {
    fn new() -> Self {
        Self { tokens: Arc::new(Table::new(KINDS.iter().copied())), cost: BTreeMap::new() }
    }
}

/// What became of a request at an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered as it should; also when it refused the user's own request.
    Ok,
    /// The caller left first.
    Cancelled,
    /// It failed.
    Failed(Failure),
}

impl Outcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Cancelled => "cancelled",
            Self::Failed(failure) => failure.as_str(),
        }
    }
}

/// The place of a path in [`ENDPOINTS`].
fn endpoint(path: &str) -> usize {
    let known = if path.starts_with("/v1/models/") { "/v1/models/{id}" } else { path };
    let last = ENDPOINTS.len().saturating_sub(1);
    ENDPOINTS.iter().position(|endpoint| *endpoint == known).unwrap_or(last)
}
