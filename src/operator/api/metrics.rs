//! `GET /metrics`: reads what the parts of the app know at this moment, and answers with the page for Prometheus.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header;

use crate::app::App;
use crate::error::{Code, Refusal};
use crate::observe::metrics::{CeilingReading, MetricsSnapshot, StoreReading};
use crate::plan::{self, Per};
use crate::purchases::event::Channel;
use crate::purchases::records::last_events;

/// How long the ledger may take to say what the day has cost. After that the page is sent without it.
const CEILING_TIMEOUT: Duration = Duration::from_secs(2);
/// The type of the page (`OpenMetrics` 1.0).
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The page, as a response. Who may ask is decided by the route.
pub(super) async fn page(app: &App) -> Response {
    match snapshot(app).await.encoded() {
        Ok(text) => (
            [
                (header::CONTENT_TYPE, CONTENT_TYPE),
                (header::CACHE_CONTROL, "no-store"),
            ],
            text,
        )
            .into_response(),
        Err(error) => {
            tracing::error!(%error, "the page of metrics cannot be written");
            Refusal::new(Code::Overloaded, "The metrics cannot be written.").into_response()
        }
    }
}

async fn snapshot(app: &App) -> MetricsSnapshot {
    let now = app.clock.now();
    MetricsSnapshot {
        metrics: app.metrics.clone(),
        open_requests: app.open_requests(),
        ledger_up: app.ledger.is_writable(),
        ceiling: ceiling(app).await,
        outbox: app.outbox_health(now),
        keys_age: app.auth.keys_age(now),
        lookups: app.directory.lookups(),
        breakers: app
            .upstreams()
            .health(&app.config().upstreams, now)
            .into_iter()
            .map(|(name, health)| (name, health.breaker))
            .collect(),
        model_ends: app.config().model_ends(now),
        answers: app.answers.reading(),
        stores: stores(app).await,
    }
}

/// What each store told; when the last of it came, is known of all processes.
async fn stores(app: &App) -> Vec<StoreReading> {
    let reading = async {
        let reader = app.directory.reader();
        reader.read(|reports| last_events(reports.db())).await
    };
    let last = tokio::time::timeout(CEILING_TIMEOUT, reading).await;
    let last = last.ok().and_then(Result::ok).unwrap_or_default();
    let config = app.config();
    let reading = |channel: Channel| {
        let counts = app.intake.counts(channel)?;
        let told = last.iter().find(|(of, _)| *of == channel);
        let last_at = told.map(|(_, at)| *at).max(counts.last_at());
        let is_used = config.webhooks.has(channel.as_str()) || last_at.is_some();
        is_used.then(|| StoreReading {
            channel: channel.as_str(),
            events: counts.all(),
            last_at,
        })
    };
    Channel::ALL.into_iter().filter_map(reading).collect()
}

async fn ceiling(app: &App) -> Option<CeilingReading> {
    let config = app.config();
    let limit = u64::try_from(config.ceiling?.0).unwrap_or(0);
    let window = plan::window(Per::Day, app.clock.now(), &config.server.time_zone, None);
    let reading = async {
        app.directory
            .reader()
            .read(move |reports| reports.app_window(&window))
            .await
    };
    let day = tokio::time::timeout(CEILING_TIMEOUT, reading)
        .await
        .ok()
        .and_then(Result::ok);
    Some(CeilingReading { limit, day })
}
