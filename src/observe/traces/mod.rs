//! Traces and metrics by OTLP, named by OpenTelemetry's conventions for generative AI.
//!
//! It is off unless `[telemetry] otlp_endpoint` names a collector; then a request carries an empty option and nothing
//! else. It knows models, tokens and codes, never a prompt, an answer or a user's id: a user appears as the keyed hash
//! that the upstream gets too. A collector that is down, slow or silent costs requests nothing: spans go into a bounded
//! queue that a thread of its own sends, and what does not fit is dropped.

mod instruments;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{
    Link, Span, SpanContext, SpanKind, Status, TraceContextExt, TraceId, Tracer, TracerProvider,
};
use opentelemetry::{Context, Key, KeyValue};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_otlp::{
    MetricExporter, Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    IdGenerator, RandomIdGenerator, SamplingDecision, SamplingResult, SdkTracer, SdkTracerProvider,
    ShouldSample,
};
use uuid::Uuid;

use crate::config;
use crate::endpoint::{Endpoint, Route};
use crate::ledger::{Charge, Settlement};
use instruments::Instruments;
use wire::CollectorClient;

/// How long a stop waits for what is still to be sent.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// The name of the instruments' scope.
const SCOPE: &str = "tollgate";
const TRACEPARENT: &str = "traceparent";

/// The way to the collector.
pub struct Telemetry {
    tracer: SdkTracer,
    traces: SdkTracerProvider,
    instruments: Instruments,
    wire: CollectorClient,
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

impl Telemetry {
    /// As the settings say; `None` without a collector. Needs a tokio runtime, and does not connect yet.
    ///
    /// # Errors
    /// TLS or the exporter cannot be set up: why.
    pub fn start(settings: &config::TelemetryConfig) -> Result<Option<Arc<Self>>, String> {
        let Some(endpoint) = &settings.otlp_endpoint else {
            return Ok(None);
        };
        let wire = CollectorClient::new()?;
        let once = || RetryPolicy::disabled();
        let wrong = |error: &dyn std::fmt::Display| {
            format!("[telemetry] otlp_endpoint cannot be used: {error}")
        };
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
        let traces = SdkTracerProvider::builder()
            .with_sampler(OwnDecision::default())
            .with_batch_exporter(spans);
        let traces = traces.with_resource(resource.clone()).build();
        let meters = SdkMeterProvider::builder()
            .with_periodic_exporter(points)
            .with_resource(resource)
            .build();
        Ok(Some(Arc::new(Self::over(traces, meters, wire))))
    }

    fn over(traces: SdkTracerProvider, meters: SdkMeterProvider, wire: CollectorClient) -> Self {
        Self {
            tracer: traces.tracer(SCOPE),
            traces,
            instruments: Instruments::new(meters),
            wire,
        }
    }

    /// A request has come in: its span begins, below the caller's own if it names one (W3C Trace Context).
    #[must_use]
    pub fn begin(self: &Arc<Self>, headers: &HeaderMap, route: &Route, id: Uuid) -> Trace {
        let parent = match headers.get(TRACEPARENT) {
            Some(parent) if is_well_formed(parent, headers) => TraceContextPropagator::new()
                .extract_with_context(&Context::new(), &HeaderExtractor(headers)),
            _ => Context::new(),
        };
        let attributes = [
            KeyValue::new("http.request.method", "POST"),
            KeyValue::new("http.route", route.pattern),
            KeyValue::new("url.path", route.path()),
            KeyValue::new("tollgate.request_id", id.to_string()),
        ];
        let builder = self.tracer.span_builder(format!("POST {}", route.pattern));
        let builder = builder
            .with_kind(SpanKind::Server)
            .with_attributes(attributes);
        let server = self.tracer.build_with_context(builder, &parent);
        Trace {
            telemetry: self.clone(),
            server,
            client: None,
        }
    }

    /// Sends what is still to be sent, for a few seconds.
    pub async fn stop(self: Arc<Self>) {
        self.wire.stop();
        let stopping = tokio::task::spawn_blocking(move || {
            let spans = self.traces.shutdown_with_timeout(STOP_TIMEOUT);
            let points = self.instruments.shutdown();
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
        Self {
            sampler: opentelemetry_sdk::trace::Config::default().sampler,
        }
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
            let decision = if ours.is_sampled() {
                SamplingDecision::RecordAndSample
            } else {
                SamplingDecision::Drop
            };
            return SamplingResult {
                decision,
                attributes: Vec::new(),
                trace_state: ours.trace_state().clone(),
            };
        }
        let id = RandomIdGenerator::default().new_trace_id();
        self.sampler
            .should_sample(None, id, name, kind, attributes, links)
    }
}

/// Whether it is the one `traceparent` of its request, as W3C Trace Context §3.2 writes it; another is as none.
fn is_well_formed(parent: &HeaderValue, headers: &HeaderMap) -> bool {
    let is_hex = |part: &[u8]| {
        part.iter()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let mut parts = parent.as_bytes().split(|byte| *byte == b'-');
    let mut part = |bytes: usize| {
        parts
            .next()
            .is_some_and(|part| part.len() == bytes && is_hex(part))
    };
    let has_parts = part(2) && part(32) && part(16) && part(2);
    let is_version_0 = parent.as_bytes().starts_with(b"00-");
    let is_whole = has_parts
        && (!is_version_0 || parts.next().is_none())
        && !parent.as_bytes().starts_with(b"ff");
    is_whole && headers.get_all(TRACEPARENT).iter().nth(1).is_none()
}

/// Who we are: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`, else `tollgate`.
fn resource() -> Resource {
    let named = Resource::builder().build().get(&Key::new("service.name"));
    let is_named = named.is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let builder = Resource::builder()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if is_named {
        builder.build()
    } else {
        builder.with_service_name("tollgate").build()
    }
}

/// The spans of one request. Dropped before [`Trace::ended`], they end as they are.
#[derive(Debug)]
pub struct Trace {
    telemetry: Arc<Telemetry>,
    server: opentelemetry_sdk::trace::Span,
    client: Option<UpstreamSpan>,
}

/// The request as the upstream gets it.
#[derive(Debug)]
struct UpstreamSpan {
    span: opentelemetry_sdk::trace::Span,
    /// The attributes of what is measured.
    about: Vec<KeyValue>,
}

/// How a forwarded request ended.
pub(crate) struct SpanEnd<'a> {
    pub(crate) status: u16,
    pub(crate) word: Option<&'static str>,
    pub(crate) settlement: Option<&'a Settlement>,
    pub(crate) took: Duration,
}

impl Trace {
    /// The request goes to an upstream: the span of that begins. The `traceparent` that goes with it; the caller's
    /// `tracestate` does not, as it is a stranger's text.
    pub fn dispatched(
        &mut self,
        (operation, order): (&'static str, &dyn Endpoint),
        upstream: &str,
        user_hash: &str,
    ) -> Option<HeaderValue> {
        let about = vec![
            KeyValue::new("gen_ai.operation.name", operation),
            KeyValue::new("gen_ai.provider.name", upstream.to_owned()),
            KeyValue::new("gen_ai.request.model", order.model().to_owned()),
        ];
        // An endpoint that generates nothing has no cap.
        let cap = Some(i64::from(order.output_cap())).filter(|cap| *cap > 0);
        let cap = cap.map(|cap| KeyValue::new("gen_ai.request.max_tokens", cap));
        let more = [
            KeyValue::new("gen_ai.request.stream", order.stream()),
            KeyValue::new("enduser.pseudo.id", user_hash.to_owned()),
        ];
        let tracer = &self.telemetry.tracer;
        let builder = tracer
            .span_builder(format!("{operation} {}", order.model()))
            .with_kind(SpanKind::Client);
        let builder = builder.with_attributes(about.iter().cloned().chain(cap).chain(more));
        let parent = Context::new().with_remote_span_context(self.server.span_context().clone());
        let span = tracer.build_with_context(builder, &parent);
        let header = traceparent(span.span_context());
        self.client = Some(UpstreamSpan { span, about });
        header
    }

    /// The model that the upstream says it used.
    pub fn answered_by(&mut self, model: &str) {
        if let Some(call) = &mut self.client {
            call.span
                .set_attribute(KeyValue::new("gen_ai.response.model", model.to_owned()));
        }
    }

    /// The request has ended.
    pub(crate) fn ended(mut self, plan: Option<&str>, outcome: &SpanEnd<'_>) {
        let error = outcome.word.map(|word| KeyValue::new("error.type", word));
        if let Some(call) = self.client.take() {
            self.telemetry.call_ended(call, error.clone(), outcome);
        }
        self.server.set_attribute(KeyValue::new(
            "http.response.status_code",
            i64::from(outcome.status),
        ));
        if let Some(plan) = plan {
            self.server
                .set_attribute(KeyValue::new("tollgate.plan", plan.to_owned()));
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
    fn call_ended(&self, call: UpstreamSpan, error: Option<KeyValue>, outcome: &SpanEnd<'_>) {
        let UpstreamSpan {
            mut span,
            mut about,
        } = call;
        if let Some(error) = error {
            span.set_status(Status::error(""));
            span.set_attribute(error.clone());
            about.push(error);
        }
        self.instruments
            .record(&about, outcome.took, outcome.settlement);
        if let Some(settlement) = outcome.settlement {
            settled(&mut span, settlement);
        }
        span.end();
    }
}

/// What a settlement says, as attributes of a span.
fn settled(span: &mut impl Span, settlement: &Settlement) {
    if !settlement.flags.is_empty() {
        span.set_attribute(KeyValue::new("tollgate.flags", settlement.flag_words()));
    }
    let Charge::Settled { usage, cost } = settlement.charge else {
        return;
    };
    span.set_attribute(KeyValue::new("tollgate.cost_micros", cost.0));
    for (name, tokens) in [
        ("gen_ai.usage.input_tokens", usage.input_tokens),
        ("gen_ai.usage.output_tokens", usage.output_tokens),
    ] {
        let tokens = i64::try_from(tokens).unwrap_or(i64::MAX);
        span.set_attribute(KeyValue::new(name, tokens));
    }
}

/// W3C Trace Context §3.2: `00-<trace>-<span>-<flags>`.
fn traceparent(context: &SpanContext) -> Option<HeaderValue> {
    let flags = context.trace_flags().to_u8();
    HeaderValue::from_str(&format!(
        "00-{}-{}-{flags:02x}",
        context.trace_id(),
        context.span_id()
    ))
    .ok()
}
