//! The page of `GET /metrics`, in the OpenMetrics text format. What it says comes in a [`MetricsSnapshot`].

use std::fmt::Error;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::cells::millionths;
use super::process::{self, ProcessMetric};
use super::stores::{self, StoreReading};
use super::writer::PageWriter;
use super::{Metrics, paths};
use crate::answers::AnswersReading;
use crate::config::ModelEnd;
use crate::error::Code;
use crate::outbox::OutboxHealth;
use crate::plan::Balance;
use crate::upstream::health::Breaker;

/// What the page says, read at one moment.
pub(crate) struct MetricsSnapshot {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) open_requests: usize,
    pub(crate) ledger_up: bool,
    /// `None` without a ceiling in the settings.
    pub(crate) ceiling: Option<CeilingReading>,
    /// `None` without an outbox.
    pub(crate) outbox: Option<OutboxHealth>,
    /// The age of the project's keys; `None` where there is no key set.
    pub(crate) keys_age: Option<Duration>,
    /// Look-ups of plans in the developer's database, by how they ended.
    pub(crate) lookups: Vec<(&'static str, u64)>,
    /// Every upstream's breaker.
    pub(crate) breakers: Vec<(String, Breaker)>,
    /// Models of the plans that are shut down soon.
    pub(crate) model_ends: Vec<ModelEnd>,
    /// Answers that are kept for whoever asks again.
    pub(crate) answers: AnswersReading,
    /// What stores told of purchases.
    pub(crate) stores: Vec<StoreReading>,
}

/// The ceiling of the whole app, in micro-dollars.
pub(crate) struct CeilingReading {
    pub(crate) limit: u64,
    /// What the day has used and holds; `None` while the ledger cannot be read.
    pub(crate) day: Option<Balance>,
}

impl std::fmt::Debug for MetricsSnapshot {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Snapshot").finish_non_exhaustive()
    }
}

impl MetricsSnapshot {
    /// The page as text.
    ///
    /// # Errors
    /// The library cannot encode it.
    pub(crate) fn encoded(self) -> Result<String, Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Collector for MetricsSnapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut out = PageWriter(encoder);
        self.requests(&mut out)?;
        self.money(&mut out)?;
        self.ledger(&mut out)?;
        self.parts(&mut out)?;
        self.process(&mut out)
    }
}

impl MetricsSnapshot {
    fn requests(&self, out: &mut PageWriter<'_>) -> Result<(), Error> {
        let metrics = &self.metrics;
        let by_endpoint = || paths().zip(&metrics.requests);
        let requests = by_endpoint().flat_map(|(endpoint, table)| {
            let seen = table
                .iter()
                .filter(|(told, count)| *count > 0 || *told == super::RequestOutcome::Ok);
            seen.map(move |(told, count)| {
                ([("endpoint", endpoint), ("code", told.as_str())], count)
            })
        });
        out.counters(
            "tollgate_requests",
            "Requests of users that have ended, by what they were told",
            requests,
        )?;
        let refusals = Code::ALL.iter().map(|code| {
            let told = super::RequestOutcome::Refused(*code);
            let sum = metrics
                .requests
                .iter()
                .fold(0_u64, |sum, table| sum.saturating_add(table.get(&told)));
            ([("code", code.as_str())], sum)
        });
        out.counters("tollgate_refusals", "Refused requests", refusals)?;
        let durations = paths()
            .zip(&metrics.durations)
            .map(|(name, times)| ([("endpoint", name)], times));
        out.histograms(
            "tollgate_request_duration",
            "From the head of a request to the end of its answer",
            durations,
        )?;
        let help = "From a request to the first byte of its answer for the caller";
        out.histograms(
            "tollgate_time_to_first_token",
            help,
            [([("", ""); 0], &metrics.first_byte)],
        )?;
        out.gauge(
            "tollgate_open_requests",
            "Requests that are open",
            self.open_requests,
        )?;
        let moderations = metrics.moderations.iter();
        out.counters(
            "tollgate_moderations",
            "Requests of plans with moderation that were put to the model for it",
            moderations.map(|(outcome, count)| ([("outcome", outcome.as_str())], count)),
        )?;
        let devices = metrics.devices.iter();
        out.counters(
            "tollgate_devices",
            "Requests of users, by what their device proves; none with [attest] mode = off",
            devices.map(|(device, count)| ([("device", device.as_str())], count)),
        )?;
        let named = metrics.named.load();
        let upstreams = named.upstreams.iter().flat_map(|(name, cells)| {
            cells.iter().map(move |(outcome, count)| {
                ([("upstream", name.as_str()), ("outcome", outcome)], count)
            })
        });
        out.counters(
            "tollgate_upstream_requests",
            "Requests that were dispatched to an upstream",
            upstreams,
        )
    }

    fn money(&self, out: &mut PageWriter<'_>) -> Result<(), Error> {
        let named = self.metrics.named.load();
        let cost = named.models.iter().flat_map(|(model, cells)| {
            let labels = move |plan| [("model", model.as_str()), ("plan", plan)];
            cells
                .cost
                .iter()
                .map(move |(plan, micros)| (labels(plan.as_str()), millionths(micros.get())))
        });
        out.counters(
            "tollgate_cost_usd",
            "What ended requests were charged, in US dollars",
            cost,
        )?;
        let by_credits = millionths(self.metrics.credits.get());
        out.counters(
            "tollgate_credits_usd",
            "What requests were charged that users' credits paid for, in US dollars",
            [([("", ""); 0], by_credits)],
        )?;
        let tokens = named.models.iter().flat_map(|(model, cells)| {
            cells
                .tokens
                .iter()
                .map(move |(kind, count)| ([("model", model.as_str()), ("kind", kind)], count))
        });
        let kinds = "Tokens charged; cached_input and cache_write are parts of input, reasoning is a part of output";
        out.counters("tollgate_tokens", kinds, tokens)?;
        let Some(ceiling) = &self.ceiling else {
            return Ok(());
        };
        out.gauge(
            "tollgate_ceiling_usd",
            "What the whole app may spend today",
            millionths(ceiling.limit),
        )?;
        let Some(day) = &ceiling.day else {
            return Ok(());
        };
        let dollars = |micros: i64| millionths(u64::try_from(micros).unwrap_or(0));
        let (spent, held) = (dollars(day.used.cost), dollars(day.held.cost));
        out.gauge(
            "tollgate_ceiling_spent_usd",
            "What the whole app has spent today",
            spent,
        )?;
        out.gauge(
            "tollgate_ceiling_held_usd",
            "What is set aside today for requests that are open",
            held,
        )
    }

    fn ledger(&self, out: &mut PageWriter<'_>) -> Result<(), Error> {
        let metrics = &self.metrics;
        let ended = metrics
            .ended
            .iter()
            .map(|(end, count)| ([("end", end.as_str())], count));
        out.counters("tollgate_ended", "Holds that have ended", ended)?;
        let flags = metrics
            .flags
            .iter()
            .map(|(flag, count)| ([("flag", flag.as_str())], count));
        out.counters(
            "tollgate_flagged",
            "Flags on ended holds; one may carry several",
            flags,
        )?;
        let help = "How long a hold took to be answered by the ledger";
        out.histograms(
            "tollgate_ledger_write",
            help,
            [([("", ""); 0], &metrics.ledger_writes)],
        )?;
        out.gauge(
            "tollgate_ledger_up",
            "1 while the ledger can be written",
            u32::from(self.ledger_up),
        )?;
        let Some(outbox) = self.outbox else {
            return Ok(());
        };
        out.gauge(
            "tollgate_outbox_waiting",
            "Rows that log_request has not taken, up to 100000",
            outbox.unsent,
        )?;
        let help = "Rows that log_request refused for good, up to 100000";
        out.gauge("tollgate_outbox_given_up", help, outbox.given_up)?;
        let waited = Duration::from_secs(outbox.oldest_seconds.unwrap_or(0)).as_secs_f64();
        out.seconds(
            "tollgate_outbox_oldest",
            "How long the oldest of them has waited",
            waited,
        )
    }

    fn parts(&self, out: &mut PageWriter<'_>) -> Result<(), Error> {
        if let Some(age) = self.keys_age {
            out.seconds(
                "tollgate_jwks_age",
                "Since the project's keys were fetched",
                age.as_secs_f64(),
            )?;
        }
        let lookups = self
            .lookups
            .iter()
            .map(|(outcome, count)| ([("outcome", *outcome)], *count));
        out.counters(
            "tollgate_directory_lookups",
            "Look-ups of plans in the developer's database",
            lookups,
        )?;
        self.breakers(out)?;
        self.model_ends(out)?;
        self.answers(out)?;
        stores::write(&self.stores, out)?;
        let labels = [("version", env!("CARGO_PKG_VERSION"))];
        let mut build =
            out.0
                .encode_descriptor("tollgate_build", "What runs here", None, MetricType::Info)?;
        build.encode_info(&labels)
    }

    /// One for the state that each is in, and none for the others.
    fn breakers(&self, out: &mut PageWriter<'_>) -> Result<(), Error> {
        let mut family = out.0.encode_descriptor(
            "tollgate_upstream_breaker",
            "The state of an upstream's breaker; one whose breaker is open is tried last",
            None,
            MetricType::Gauge,
        )?;
        for (upstream, breaker) in &self.breakers {
            for state in Breaker::ALL {
                let labels = [("upstream", upstream.as_str()), ("state", state.as_str())];
                family
                    .encode_family(&labels)?
                    .encode_gauge(&i64::from(state == *breaker))?;
            }
        }
        Ok(())
    }

    fn model_ends(&self, out: &mut PageWriter<'_>) -> Result<(), Error> {
        let mut family = out.0.encode_descriptor(
            "tollgate_model_days_left",
            "Days on which the provider still serves a model of a plan, or of a prompt (prompt/NAME); only in its last 60 days",
            None,
            MetricType::Gauge,
        )?;
        for end in &self.model_ends {
            let successor = end.successor.as_deref().unwrap_or("none");
            for plan in end.users() {
                let labels = [
                    ("model", end.model.as_str()),
                    ("plan", plan.as_str()),
                    ("successor", successor),
                ];
                family
                    .encode_family(&labels)?
                    .encode_gauge(&end.days_left)?;
            }
        }
        Ok(())
    }

    fn answers(&self, out: &mut PageWriter<'_>) -> Result<(), Error> {
        let AnswersReading {
            answers,
            bytes,
            replays,
            gone,
        } = &self.answers;
        out.gauge(
            "tollgate_answers",
            "Answers that are kept, and those to requests with a key that are still open",
            *answers,
        )?;
        out.gauge(
            "tollgate_answers_bytes",
            "What they take of [answers] bytes_max",
            *bytes,
        )?;
        out.counters(
            "tollgate_answers_replayed",
            "Requests that were sent again and got the answer of the first",
            [([("", ""); 0], *replays)],
        )?;
        let gone = gone
            .iter()
            .map(|(by, count)| ([("reason", by.as_str())], *count));
        out.counters(
            "tollgate_answers_gone",
            "Answers that are kept no longer, by reason",
            gone,
        )
    }

    fn process(&self, out: &mut PageWriter<'_>) -> Result<(), Error> {
        let ProcessMetric {
            cpu_seconds,
            resident_bytes,
            open_fds,
            max_fds,
        } = process::facts();
        let cpu = [([("", ""); 0], cpu_seconds)];
        out.counters("process_cpu_seconds", "Time on a processor", cpu)?;
        let started = u64::try_from(self.metrics.started.millis()).unwrap_or(0);
        let started = Duration::from_millis(started).as_secs_f64();
        out.seconds(
            "process_start_time",
            "When the process began, in Unix time",
            started,
        )?;
        let gauges = [
            (
                "process_resident_memory_bytes",
                "Memory that is resident",
                resident_bytes,
            ),
            ("process_open_fds", "Descriptors that are open", open_fds),
            ("process_max_fds", "Descriptors that may be open", max_fds),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                out.gauge(name, help, value)?;
            }
        }
        Ok(())
    }
}
