//! `GET /metrics`: what was counted, and what the other parts know at this moment, as Prometheus reads it.

use std::fmt::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::cells::{Histogram, millionths};
use super::process::{self, Facts};
use super::{ENDPOINTS, Metrics};
use crate::app::App;
use crate::error::{Code, Refusal};
use crate::outbox;
use crate::plan::{self, Per, Standing};

/// How long the ledger may take to say what the day has cost; after that the page goes without it.
const CEILING_TIMEOUT: Duration = Duration::from_secs(2);
/// The type of the page (`OpenMetrics` 1.0).
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `GET /metrics`. Who may ask is decided where it is mounted.
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let page = Page::look(&app).await;
    let mut registry = Registry::default();
    registry.register_collector(Box::new(page));
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, CONTENT_TYPE), (header::CACHE_CONTROL, "no-store")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the page of metrics cannot be written");
            Refusal::new(Code::Overloaded, "The metrics cannot be written.").into_response()
        }
    }
}

/// All that is told, seen at one moment.
struct Page {
    metrics: Arc<Metrics>,
    open_requests: usize,
    ledger_up: bool,
    ceiling: Option<Ceiling>,
    outbox: Option<outbox::Health>,
    keys_age: Option<Duration>,
    lookups: Vec<(&'static str, u64)>,
    process: Facts,
}

struct Ceiling {
    limit: u64,
    /// Where the day stands; none while the ledger cannot be read.
    day: Option<Standing>,
}

impl std::fmt::Debug for Page {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Page").finish_non_exhaustive()
    }
}

impl Page {
    async fn look(app: &App) -> Self {
        let now = app.clock.now();
        Self {
            metrics: app.metrics.clone(),
            open_requests: app.open_requests(),
            ledger_up: app.ledger.is_writable(),
            ceiling: ceiling(app).await,
            outbox: app.outbox_health(now),
            keys_age: app.auth.keys_age(now),
            lookups: app.directory.lookups(),
            process: process::facts(),
        }
    }
}

async fn ceiling(app: &App) -> Option<Ceiling> {
    let config = app.config();
    let limit = u64::try_from(config.ceiling?.0).unwrap_or(0);
    let window = plan::window(Per::Day, app.clock.now(), &config.server.time_zone, None);
    let reading = async { app.directory.reader().read(move |reports| reports.app_window(&window)).await };
    let day = tokio::time::timeout(CEILING_TIMEOUT, reading).await.ok().and_then(Result::ok);
    Some(Ceiling { limit, day })
}

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut out = Writer(encoder);
        self.requests(&mut out)?;
        self.money(&mut out)?;
        self.ledger(&mut out)?;
        self.parts(&mut out)?;
        self.process(&mut out)
    }
}

impl Page {
    fn requests(&self, out: &mut Writer<'_>) -> Result<(), Error> {
        let metrics = &self.metrics;
        let by_endpoint = || ENDPOINTS.iter().zip(&metrics.requests);
        let requests = by_endpoint().flat_map(|(endpoint, table)| {
            let seen = table.iter().filter(|(told, count)| *count > 0 || *told == super::Told::Ok);
            seen.map(|(told, count)| ([("endpoint", *endpoint), ("code", told.as_str())], count))
        });
        out.counters("tollgate_requests", "Requests of users that have ended, by what they were told", requests)?;
        let refusals = Code::ALL.iter().map(|code| {
            let told = super::Told::Refused(*code);
            let sum = metrics.requests.iter().fold(0_u64, |sum, table| sum.saturating_add(table.get(&told)));
            ([("code", code.as_str())], sum)
        });
        out.counters("tollgate_refusals", "Refused requests", refusals)?;
        let durations = ENDPOINTS.iter().zip(&metrics.durations).map(|(name, times)| ([("endpoint", *name)], times));
        out.histograms("tollgate_request_duration", "From the head of a request to the end of its answer", durations)?;
        let help = "From a request to the first byte of its answer for the caller";
        out.histograms("tollgate_time_to_first_token", help, [([("", ""); 0], &metrics.first_byte)])?;
        out.gauge("tollgate_open_requests", "Requests that are open", self.open_requests)?;
        let named = metrics.named.load();
        let upstreams = named.upstreams.iter().flat_map(|(name, cells)| {
            cells.iter().map(move |(outcome, count)| ([("upstream", name.as_str()), ("outcome", outcome)], count))
        });
        out.counters("tollgate_upstream_requests", "Requests that were dispatched to an upstream", upstreams)
    }

    fn money(&self, out: &mut Writer<'_>) -> Result<(), Error> {
        let named = self.metrics.named.load();
        let cost = named.models.iter().flat_map(|(model, cells)| {
            let labels = move |plan| [("model", model.as_str()), ("plan", plan)];
            cells.cost.iter().map(move |(plan, micros)| (labels(plan.as_str()), millionths(micros.get())))
        });
        out.counters("tollgate_cost_usd", "What ended requests were charged, in US dollars", cost)?;
        let tokens = named.models.iter().flat_map(|(model, cells)| {
            cells.tokens.iter().map(move |(kind, count)| ([("model", model.as_str()), ("kind", kind)], count))
        });
        let kinds = "Tokens charged; cached_input and cache_write are parts of input, reasoning is a part of output";
        out.counters("tollgate_tokens", kinds, tokens)?;
        let Some(ceiling) = &self.ceiling else { return Ok(()) };
        out.gauge("tollgate_ceiling_usd", "What the whole app may spend today", millionths(ceiling.limit))?;
        let Some(day) = &ceiling.day else { return Ok(()) };
        let dollars = |micros: i64| millionths(u64::try_from(micros).unwrap_or(0));
        let (spent, held) = (dollars(day.used.cost), dollars(day.held.cost));
        out.gauge("tollgate_ceiling_spent_usd", "What the whole app has spent today", spent)?;
        out.gauge("tollgate_ceiling_held_usd", "What is set aside today for requests that are open", held)
    }

    fn ledger(&self, out: &mut Writer<'_>) -> Result<(), Error> {
        let metrics = &self.metrics;
        let ended = metrics.ended.iter().map(|(end, count)| ([("end", end)], count));
        out.counters("tollgate_ended", "Holds that have ended", ended)?;
        let flags = metrics.flags.iter().map(|(flag, count)| ([("flag", flag)], count));
        out.counters("tollgate_flagged", "Flags on ended holds; one may carry several", flags)?;
        let help = "How long a hold took to be answered by the ledger";
        out.histograms("tollgate_ledger_write", help, [([("", ""); 0], &metrics.ledger_writes)])?;
        out.gauge("tollgate_ledger_up", "1 while the ledger can be written", u32::from(self.ledger_up))?;
        let Some(outbox) = self.outbox else { return Ok(()) };
        out.gauge("tollgate_outbox_waiting", "Rows that log_request has not taken, up to 100000", outbox.unsent)?;
        let help = "Rows that log_request refused for good, up to 100000";
        out.gauge("tollgate_outbox_given_up", help, outbox.given_up)?;
        let waited = Duration::from_secs(outbox.oldest_seconds.unwrap_or(0)).as_secs_f64();
        out.seconds("tollgate_outbox_oldest", "How long the oldest of them has waited", waited)
    }

    fn parts(&self, out: &mut Writer<'_>) -> Result<(), Error> {
        if let Some(age) = self.keys_age {
            out.seconds("tollgate_jwks_age", "Since the project's keys were fetched", age.as_secs_f64())?;
        }
        let lookups = self.lookups.iter().map(|(outcome, count)| ([("outcome", *outcome)], *count));
        out.counters("tollgate_directory_lookups", "Look-ups of plans in the developer's database", lookups)?;
        let labels = [("version", env!("CARGO_PKG_VERSION"))];
        let mut build = out.0.encode_descriptor("tollgate_build", "What runs here", None, MetricType::Info)?;
        build.encode_info(&labels)
    }

    fn process(&self, out: &mut Writer<'_>) -> Result<(), Error> {
        let Facts { cpu_seconds, resident_bytes, open_fds, max_fds } = self.process;
        let cpu = [([("", ""); 0], cpu_seconds)];
        out.counters("process_cpu_seconds", "Time on a processor", cpu)?;
        let started = u64::try_from(self.metrics.started.millis()).unwrap_or(0);
        let started = Duration::from_millis(started).as_secs_f64();
        out.seconds("process_start_time", "When the process began, in Unix time", started)?;
        let gauges = [
            ("process_resident_memory_bytes", "Memory that is resident", resident_bytes),
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

/// The library's encoder, a family at a time.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn counters<'l, const N: usize, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = ([(&'l str, &'l str); N], V)>,
    ) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            if N == 0 {
                family.encode_counter::<NoLabelSet, V, f64>(&value, None)?;
            } else {
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, V, f64>(&value, None)?;
            }
        }
        Ok(())
    }

    /// Times, in seconds: the unit ends their name.
    fn histograms<'l, 'h, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = ([(&'l str, &'l str); N], &'h Histogram)>,
    ) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (labels, times) in samples {
            let read = times.read();
            if N == 0 {
                family.encode_histogram::<NoLabelSet>(read.sum, read.count, &read.counts, None)?;
            } else {
                family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                    read.sum,
                    read.count,
                    &read.counts,
                    None,
                )?;
            }
        }
        Ok(())
    }

    fn gauge<V: EncodeGaugeValue + Copy>(&mut self, name: &str, help: &str, value: V) -> Result<(), Error> {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn seconds(&mut self, name: &str, help: &str, value: f64) -> Result<(), Error> {
        self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?.encode_gauge(&value)
    }
}
