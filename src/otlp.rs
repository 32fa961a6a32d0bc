//! Traces and metrics by OTLP, in the words of OpenTelemetry's conventions for generative AI.
//!
//! Off unless `[telemetry] otlp_endpoint` names a collector; then nothing of this is made, and a request carries an empty
//! option. It knows models, tokens and codes, never a prompt, an answer or a user's id: of a user it tells the keyed hash
//! that the upstream is told. A collector that is down, slow or silent costs requests nothing: spans go into a bounded
//! queue whose own thread sends them, and what does not fit is dropped.

mod wire;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use opentelemetry::metrics::{Histogram, MeterProvider};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{
    Link, Span, SpanContext, SpanKind, Status, TraceContextExt, TraceId, Tracer, TracerProvider,
};
use opentelemetry::{Context, Key, KeyValue};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_otlp::{MetricExporter, Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    IdGenerator, RandomIdGenerator, SamplingDecision, SamplingResult, SdkTracer, SdkTracerProvider, ShouldSample,
};
use uuid::Uuid;

use crate::config;
use crate::ledger::{Charge, Settlement};
use crate::order::Order;
use wire::Wire;

/// How long a stop waits for what is still to be sent.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// The name of the instruments' scope.
const SCOPE: &str = "tollgate";
/// Bounds in seconds, as the conventions advise for times of models.
const SECONDS: &[f64] = &[0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
/// Bounds in tokens, as the conventions advise.
const TOKENS: &[f64] = &[
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

const TRACEPARENT: &str = "traceparent";

/// The way to the collector.
pub struct Telemetry {
    tracer: SdkTracer,
    traces: SdkTracerProvider,
    meters: SdkMeterProvider,
    tokens: Histogram<u64>,
    durations: Histogram<f64>,
    first_token: Histogram<f64>,
    wire: Wire,
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

impl Telemetry {
    /// What the settings ask for; none without a collector. Needs a tokio runtime, and dials nobody yet.
    ///
    /// # Errors
    /// TLS or the exporter cannot be set up: why.
    pub fn start(settings: &config::Telemetry) -> Result<Option<Arc<Self>>, String> {
        let Some(endpoint) = &settings.otlp_endpoint else { return Ok(None) };
        let wire = Wire::new()?;
        let once = || RetryPolicy::disabled();
        let wrong = |error: &dyn std::fmt::Display| format!("[telemetry] otlp_endpoint cannot be used: {error}");
        let spans = SpanExporter::builder()
            .with_http()
            .with_http_client(wire.clone())
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{endpoint}/v1/traces"))
            .with_retry_policy(once())
            .build()
            .map_err(|error| wrong(&error))?;
        let points = MetricExporter::builder()
            .with_http()
            .with_http_client(wire.clone())
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{endpoint}/v1/metrics"))
            .with_retry_policy(once())
            .build()
            .map_err(|error| wrong(&error))?;
        let resource = resource();
        let traces = SdkTracerProvider::builder().with_sampler(OwnDecision::default()).with_batch_exporter(spans);
        let traces = traces.with_resource(resource.clone()).build();
        let meters = SdkMeterProvider::builder().with_periodic_exporter(points).with_resource(resource).build();
        Ok(Some(Arc::new(Self::over(traces, meters, wire))))
    }

    fn over(traces: SdkTracerProvider, meters: SdkMeterProvider, wire: Wire) -> Self {
        let meter = meters.meter(SCOPE);
        let seconds = |name: &'static str, what: &'static str| {
            let histogram = meter.f64_histogram(name).with_unit("s").with_description(what);
            histogram.with_boundaries(SECONDS.to_vec()).build()
        };
        let tokens = meter.u64_histogram("gen_ai.client.token.usage").with_unit("{token}");
        Self {
            tracer: traces.tracer(SCOPE),
            tokens: tokens.with_description("Tokens used").with_boundaries(TOKENS.to_vec()).build(),
            durations: seconds("gen_ai.client.operation.duration", "From the request to the end of its answer"),
            first_token: seconds("gen_ai.server.time_to_first_token", "From the request to the first of its answer"),
            traces,
            meters,
            wire,
        }
    }

    /// A request has come in: its span begins, below the caller's own if it names one (W3C Trace Context).
    #[must_use]
    pub fn begin(self: &Arc<Self>, headers: &HeaderMap, endpoint: &'static str, id: Uuid) -> Trace {
        let parent = match headers.get(TRACEPARENT) {
            Some(parent) if is_well_formed(parent, headers) => {
                TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(headers))
            }
            _ => Context::new(),
        };
        let attributes = [
            KeyValue::new("http.request.method", "POST"),
            KeyValue::new("http.route", endpoint),
            KeyValue::new("tollgate.request_id", id.to_string()),
        ];
        let builder = self.tracer.span_builder(format!("POST {endpoint}"));
        let builder = builder.with_kind(SpanKind::Server).with_attributes(attributes);
        let server = self.tracer.build_with_context(builder, &parent);
        Trace { telemetry: self.clone(), server, client: None }
    }

    /// Sends what is still to be sent, for a few seconds.
    pub async fn stop(self: Arc<Self>) {
        self.wire.stop();
        let stopping = tokio::task::spawn_blocking(move || {
            let spans = self.traces.shutdown_with_timeout(STOP_TIMEOUT);
            let points = self.meters.shutdown();
            spans.and(points)
        });
        let stopped = tokio::time::timeout(STOP_TIMEOUT, stopping).await;
        if !matches!(stopped, Ok(Ok(Ok(())))) {
            tracing::warn!("the last traces and metrics did not reach the collector");
        }
    }
}

/// Whether a request is traced is decided here, as `OTEL_TRACES_SAMPLER` says: a caller names the trace that theirs is
/// part of, and neither turns ours on nor off, not by an id that a ratio would take either.
#[derive(Clone, Debug)]
struct OwnDecision {
    sampler: Box<dyn ShouldSample>,
}

impl Default for OwnDecision {
    fn default() -> Self {
        Self { sampler: opentelemetry_sdk::trace::Config::default().sampler }
    }
}

impl ShouldSample for OwnDecision {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        _: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let ours = parent.map(|parent| parent.span().span_context().clone());
        if let Some(ours) = ours.filter(|parent| parent.is_valid() && !parent.is_remote()) {
            let decision = if ours.is_sampled() { SamplingDecision::RecordAndSample } else { SamplingDecision::Drop };
            return SamplingResult { decision, attributes: Vec::new(), trace_state: ours.trace_state().clone() };
        }
        let id = RandomIdGenerator::default().new_trace_id();
        self.sampler.should_sample(None, id, name, kind, attributes, links)
    }
}

/// Whether it is the one `traceparent` of its request, as W3C Trace Context §3.2 writes it; another is as none.
fn is_well_formed(parent: &HeaderValue, headers: &HeaderMap) -> bool {
    let is_hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut parts = parent.as_bytes().split(|byte| *byte == b'-');
    let mut part = |bytes: usize| parts.next().is_some_and(|part| part.len() == bytes && is_hex(part));
    let has_parts = part(2) && part(32) && part(16) && part(2);
    let is_version_0 = parent.as_bytes().starts_with(b"00-");
    let is_whole = has_parts && (!is_version_0 || parts.next().is_none()) && !parent.as_bytes().starts_with(b"ff");
    is_whole && headers.get_all(TRACEPARENT).iter().nth(1).is_none()
}

/// Who we are: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`, else `tollgate`.
fn resource() -> Resource {
    let named = Resource::builder().build().get(&Key::new("service.name"));
    let is_named = named.is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let builder = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if is_named { builder.build() } else { builder.with_service_name("tollgate").build() }
}

/// The spans of one request. Dropped before [`Trace::ended`], they end as they are.
#[derive(Debug)]
pub struct Trace {
    telemetry: Arc<Telemetry>,
    server: opentelemetry_sdk::trace::Span,
    client: Option<Call>,
}

/// The request as the upstream gets it.
#[derive(Debug)]
struct Call {
    span: opentelemetry_sdk::trace::Span,
    /// The attributes of what is measured.
    about: Vec<KeyValue>,
}

/// How a forwarded request ended.
pub(crate) struct Outcome<'a> {
    pub(crate) status: u16,
    pub(crate) word: Option<&'static str>,
    pub(crate) settlement: Option<&'a Settlement>,
    pub(crate) took: Duration,
}

impl Trace {
    /// The request goes to an upstream: the span of that begins. The `traceparent` that goes with it; the caller's
    /// `tracestate` does not, as it is a stranger's text.
    pub fn dispatched(&mut self, order: &Order, upstream: &str, user_hash: &str) -> Option<HeaderValue> {
        let about = vec![
            KeyValue::new("gen_ai.operation.name", "chat"),
            KeyValue::new("gen_ai.provider.name", upstream.to_owned()),
            KeyValue::new("gen_ai.request.model", order.model().to_owned()),
        ];
        let more = [
            KeyValue::new("gen_ai.request.max_tokens", i64::from(order.output_cap())),
            KeyValue::new("gen_ai.request.stream", order.stream()),
            KeyValue::new("enduser.pseudo.id", user_hash.to_owned()),
        ];
        let tracer = &self.telemetry.tracer;
        let builder = tracer.span_builder(format!("chat {}", order.model())).with_kind(SpanKind::Client);
        let builder = builder.with_attributes(about.iter().cloned().chain(more));
        let parent = Context::new().with_remote_span_context(self.server.span_context().clone());
        let span = tracer.build_with_context(builder, &parent);
        let header = traceparent(span.span_context());
        self.client = Some(Call { span, about });
        header
    }

    /// The model that the upstream says it used.
    pub fn answered_by(&mut self, model: &str) {
        if let Some(call) = &mut self.client {
            call.span.set_attribute(KeyValue::new("gen_ai.response.model", model.to_owned()));
        }
    }

    /// The request has ended.
    pub(crate) fn ended(mut self, plan: Option<&str>, outcome: &Outcome<'_>) {
        let error = outcome.word.map(|word| KeyValue::new("error.type", word));
        if let Some(call) = self.client.take() {
            self.telemetry.call_ended(call, error.clone(), outcome);
        }
        self.server.set_attribute(KeyValue::new("http.response.status_code", i64::from(outcome.status)));
        if let Some(plan) = plan {
            self.server.set_attribute(KeyValue::new("tollgate.plan", plan.to_owned()));
        }
        if let Some(error) = error {
            self.server.set_attribute(error);
        }
        if outcome.status >= 500 {
            self.server.set_status(Status::error(""));
        }
        self.server.end();
    }
}

impl Telemetry {
    fn call_ended(&self, call: Call, error: Option<KeyValue>, outcome: &Outcome<'_>) {
        let Call { mut span, mut about } = call;
        if let Some(error) = error {
            span.set_status(Status::error(""));
            span.set_attribute(error.clone());
            about.push(error);
        }
        self.durations.record(outcome.took.as_secs_f64(), &about);
        if let Some(settlement) = outcome.settlement {
            self.settled(&mut span, &about, settlement);
        }
        span.end();
    }

    fn settled(&self, span: &mut impl Span, about: &[KeyValue], settlement: &Settlement) {
        if !settlement.flags.is_empty() {
            span.set_attribute(KeyValue::new("tollgate.flags", settlement.flags.join(",")));
        }
        if let Some(ms) = settlement.ttft_ms {
            let waited = Duration::from_millis(u64::try_from(ms).unwrap_or(0));
            self.first_token.record(waited.as_secs_f64(), about);
        }
        let Charge::Settled { usage, cost } = settlement.charge else { return };
        span.set_attribute(KeyValue::new("tollgate.cost_micros", cost.0));
        for (kind, name, tokens) in [
            ("input", "gen_ai.usage.input_tokens", usage.input_tokens),
            ("output", "gen_ai.usage.output_tokens", usage.output_tokens),
        ] {
            span.set_attribute(KeyValue::new(name, i64::try_from(tokens).unwrap_or(i64::MAX)));
            let with_kind = [about, &[KeyValue::new("gen_ai.token.type", kind)]].concat();
            self.tokens.record(tokens, &with_kind);
        }
    }
}

/// W3C Trace Context §3.2: `00-<trace>-<span>-<flags>`.
fn traceparent(context: &SpanContext) -> Option<HeaderValue> {
    let flags = context.trace_flags().to_u8();
    HeaderValue::from_str(&format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id())).ok()
}
