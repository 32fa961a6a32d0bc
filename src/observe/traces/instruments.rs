//! The metrics that go to a collector: the three histograms of OpenTelemetry's conventions for generative AI.
//!
//! They are told of the same end of a request as the counters of Prometheus, and no other; they have the names, labels and
//! buckets that the conventions ask for, so neither can be made of the other.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Histogram, MeterProvider};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::SdkMeterProvider;

use super::SCOPE;
use crate::ledger::{Charge, Settlement};

/// Bounds in seconds, as the conventions advise for times of models.
const SECONDS: &[f64] = &[
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
];
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

/// What a request adds to.
pub(super) struct Instruments {
    meters: SdkMeterProvider,
    tokens: Histogram<u64>,
    durations: Histogram<f64>,
    first_token: Histogram<f64>,
}

impl Instruments {
    pub(super) fn new(meters: SdkMeterProvider) -> Self {
        let meter = meters.meter(SCOPE);
        let seconds = |name: &'static str, what: &'static str| {
            let histogram = meter
                .f64_histogram(name)
                .with_unit("s")
                .with_description(what);
            histogram.with_boundaries(SECONDS.to_vec()).build()
        };
        let tokens = meter
            .u64_histogram("gen_ai.client.token.usage")
            .with_unit("{token}");
        Self {
            tokens: tokens
                .with_description("Tokens used")
                .with_boundaries(TOKENS.to_vec())
                .build(),
            durations: seconds(
                "gen_ai.client.operation.duration",
                "From the request to the end of its answer",
            ),
            first_token: seconds(
                "gen_ai.server.time_to_first_token",
                "From the request to the first of its answer",
            ),
            meters,
        }
    }

    /// A request to an upstream has ended.
    pub(super) fn record(
        &self,
        about: &[KeyValue],
        took: Duration,
        settlement: Option<&Settlement>,
    ) {
        self.durations.record(took.as_secs_f64(), about);
        let Some(settlement) = settlement else { return };
        if let Some(ms) = settlement.ttft_ms {
            let waited = Duration::from_millis(u64::try_from(ms).unwrap_or(0));
            self.first_token.record(waited.as_secs_f64(), about);
        }
        if let Charge::Settled { usage, .. } = settlement.charge {
            for (kind, tokens) in [
                ("input", usage.input_tokens),
                ("output", usage.output_tokens),
            ] {
                let with_kind = [about, &[KeyValue::new("gen_ai.token.type", kind)]].concat();
                self.tokens.record(tokens, &with_kind);
            }
        }
    }

    pub(super) fn shutdown(&self) -> OTelSdkResult {
        self.meters.shutdown()
    }
}
