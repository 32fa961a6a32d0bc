//! Traces and metrics to a collector that is here, that is not, and that says nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value as Any};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use prost::Message;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::support::caller::{Call, and, chat, chat_stream};
use crate::support::collector::Collector;
use crate::support::door::Door;
use crate::support::reply::Reply;
use crate::support::settings::Settings;

fn settings(url: &str) -> Settings {
    Settings::new()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .env("OTEL_METRIC_EXPORT_INTERVAL", "300")
}

fn attributes(of: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &KeyValue| match value.value.as_ref().and_then(|value| value.value.as_ref())
    {
        Some(Any::StringValue(text)) => text.clone(),
        Some(Any::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    of.iter()
        .map(|pair| (pair.key.clone(), text(pair)))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_two_spans_below_the_callers_own_and_the_upstream_is_told() {
    let collector = Collector::start(true).await;
    let door = Door::open(settings(&collector.url)).await;
    let alice = door.user("alice");
    let (trace, caller) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let call = Call::post("/v1/chat/completions", &chat_stream("a"))
        .bearer(&alice.token)
        .header("traceparent", &format!("00-{trace}-{caller}-01"))
        .header("tracestate", "stranger=text");
    let answer = door.send(call).await.expect(200);
    let row = door.row(&answer).await;
    let spans = collector.until_spans(2).await;
    let named = |name: &str| {
        spans
            .iter()
            .find(|span| span.name == name)
            .unwrap_or_else(|| panic!("{name}: {spans:#?}"))
    };
    let (server, client) = (
        named("POST /v1/chat/completions"),
        named("chat gpt-4o-mini"),
    );
    assert_eq!(
        (hex(&server.trace_id), hex(&server.parent_span_id)),
        (trace.to_owned(), caller.to_owned())
    );
    assert_eq!(
        (&client.trace_id, &client.parent_span_id),
        (&server.trace_id, &server.span_id)
    );

    let told = attributes(&client.attributes);
    let expected = [
        ("gen_ai.operation.name", "chat".to_owned()),
        ("gen_ai.provider.name", "openai".to_owned()),
        ("gen_ai.request.model", "gpt-4o-mini".to_owned()),
        (
            "gen_ai.usage.input_tokens",
            row.input_tokens.unwrap().to_string(),
        ),
        (
            "gen_ai.usage.output_tokens",
            row.output_tokens.unwrap().to_string(),
        ),
        ("tollgate.cost_micros", row.cost().to_string()),
    ];
    for (name, value) in expected {
        assert_eq!(told.get(name), Some(&value), "{name} in {told:#?}");
    }
    assert!(told.contains_key("gen_ai.response.model"), "{told:#?}");
    assert_eq!(
        attributes(&server.attributes)["tollgate.request_id"],
        row.id.to_string()
    );

    let sent = door.upstream.last().seen.request.clone();
    assert_eq!(
        sent.header("traceparent"),
        Some(format!("00-{trace}-{}-01", hex(&client.span_id)).as_str())
    );
    assert_eq!(sent.header("tracestate"), None, "a stranger's text");
    let all = format!("{spans:?}");
    assert!(
        !all.contains(&alice.id.to_string()) && !all.contains("canary"),
        "{all}"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_neither_turns_our_traces_off_nor_on() {
    let (trace, caller) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    // An id that every ratio would take: the decision goes by its low half.
    let lowest = "00000000000000010000000000000000";
    for (sampler, parent, wanted) in [
        (
            "parentbased_always_on",
            format!("00-{trace}-{caller}-00"),
            true,
        ),
        (
            "parentbased_always_off",
            format!("00-{trace}-{caller}-01"),
            false,
        ),
        ("traceidratio", format!("00-{lowest}-{caller}-01"), false),
        (
            "parentbased_traceidratio",
            format!("00-{lowest}-{caller}-01"),
            false,
        ),
    ] {
        let collector = Collector::start(true).await;
        let settings = settings(&collector.url).env("OTEL_TRACES_SAMPLER", sampler);
        let door = Door::open(settings.env("OTEL_TRACES_SAMPLER_ARG", "0.000001")).await;
        let alice = door.user("alice");
        let call = Call::post("/v1/chat/completions", &chat("a"))
            .bearer(&alice.token)
            .header("traceparent", &parent);
        door.send(call).await.expect(200);
        let sent = door.upstream.last().seen.request.clone();
        let flags = if wanted { "-01" } else { "-00" };
        assert!(
            sent.header("traceparent").unwrap().ends_with(flags),
            "{sampler}: {sent:?}"
        );
        if wanted {
            assert_eq!(
                hex(&collector.until_spans(2).await[0].trace_id),
                trace,
                "{sampler}"
            );
        } else {
            sleep(Duration::from_millis(500)).await;
            assert!(collector.bodies("/v1/traces").is_empty(), "{sampler}");
        }
        door.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_well_formed_parent_is_one() {
    let collector = Collector::start(true).await;
    let door = Door::open(settings(&collector.url)).await;
    let alice = door.user("alice");
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let odd = [
        good.to_uppercase(),
        format!("{good}-more"),
        format!("{good} "),
        good.replacen("00-", "ff-", 1),
        good.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
        good.replace("b7ad6b7169203331", &"0".repeat(16)),
        good[..54].to_owned(),
        String::new(),
    ];
    let calls = odd.len() + 1;
    for parent in &odd[..] {
        let call = Call::post("/v1/chat/completions", &chat("a")).bearer(&alice.token);
        door.send(call.header("traceparent", parent))
            .await
            .expect(200);
    }
    let twice = Call::post("/v1/chat/completions", &chat("a")).bearer(&alice.token);
    door.send(
        twice
            .header("traceparent", good)
            .header("traceparent", good),
    )
    .await
    .expect(200);
    let spans = collector.until_spans(2 * calls).await;
    let own = spans
        .iter()
        .filter(|span| span.name.starts_with("POST"))
        .filter(|span| span.parent_span_id.is_empty());
    // White space at an end of a header's value is none of it.
    assert_eq!(own.count(), calls - 1, "{spans:#?}");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_one_span_and_a_broken_parent_begins_a_trace() {
    let collector = Collector::start(true).await;
    let door = Door::open(settings(&collector.url)).await;
    let alice = door.user("alice");
    let refused = and(chat("a"), &json!({"model": "gpt-9"}));
    let call = Call::post("/v1/chat/completions", &refused)
        .bearer(&alice.token)
        .header("traceparent", "00-zz-zz-01");
    door.send(call).await.refused(403, "model_not_allowed");
    door.upstream
        .next(|_| Reply::status(500, "text/plain", "no"));
    alice.ask(chat("b")).await.refused(502, "upstream_error");
    door.upstream
        .next(|_| Reply::error(400, "word_of_the_upstream", "no"));
    alice.ask(chat("c")).await.expect(400);
    let spans = collector.until_spans(5).await;
    let refused = attributes(&spans[0].attributes);
    assert_eq!(
        (
            refused["error.type"].as_str(),
            refused["http.response.status_code"].as_str()
        ),
        ("model_not_allowed", "403")
    );
    assert!(spans[0].parent_span_id.is_empty() && spans[0].trace_id.iter().any(|byte| *byte != 0));
    let failed = spans.iter().filter(|span| {
        attributes(&span.attributes)
            .get("error.type")
            .is_some_and(|it| it == "upstream_error")
    });
    assert_eq!(failed.count(), 2, "the request, and the call in it");
    assert!(
        !format!("{spans:?}").contains("word_of_the_upstream"),
        "a label takes no words but ours"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_times_are_told_in_the_words_of_the_conventions() {
    let collector = Collector::start(true).await;
    let door = Door::open(settings(&collector.url)).await;
    let alice = door.user("alice");
    alice.ask(chat_stream("a")).await.expect(200);
    door.quiet_rows().await;
    let begun = Instant::now();
    loop {
        let batches = collector.bodies("/v1/metrics").into_iter();
        let batches = batches.map(|body| ExportMetricsServiceRequest::decode(&*body).unwrap());
        let metrics = batches
            .flat_map(|batch| batch.resource_metrics)
            .flat_map(|of| of.scope_metrics);
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for metric in metrics.flat_map(|scope| scope.metrics) {
            let Some(Data::Histogram(histogram)) = metric.data else {
                panic!("no histogram: {}", metric.name)
            };
            counts.insert(
                metric.name,
                histogram.data_points.iter().map(|point| point.count).sum(),
            );
        }
        let of = |name: &str| counts.get(name).copied().unwrap_or(0);
        let told = [
            "gen_ai.client.token.usage",
            "gen_ai.client.operation.duration",
            "gen_ai.server.time_to_first_token",
        ]
        .map(of);
        if told == [2, 1, 1] {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{counts:?}");
        sleep(Duration::from_millis(50)).await;
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_gone_or_silent_costs_nobody_anything() {
    let silent = Collector::start(false).await;
    let gone = Collector::start(true).await;
    let url = gone.url.clone();
    drop(gone);
    for url in [&silent.url, &url] {
        let door = Door::open(settings(url)).await;
        let alice = door.user("alice");
        for _ in 0..20 {
            alice.ask(chat("a")).await.expect(200);
        }
        door.quiet_rows().await;
        // It stops within the time that it gives the collector, whatever that does.
        door.process.term(Duration::from_secs(15)).await;
        door.start().await;
        door.close().await;
    }
    assert!(!silent.bodies("/v1/traces").is_empty(), "it was tried");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_nothing_is_passed_on() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    let call = Call::post("/v1/chat/completions", &chat("a"))
        .bearer(&alice.token)
        .header(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        );
    door.send(call).await.expect(200);
    assert_eq!(
        door.upstream.last().seen.request.header("traceparent"),
        None
    );
    door.close().await;
}
