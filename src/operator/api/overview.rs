//! The day at a glance: what the ledger knows of it, and what this process has counted since it started.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AdminState;
use super::caller::{MayRead, MayWrite};
use super::input::{AdminRefusals, ChangeRefusals, JsonBody};
use crate::config::{AttestMode, ModelEnd};
use crate::error::Refusal;
use crate::operator::queries::overview::{self, CeilingStatus, Today, Ttft};
use crate::operator::queries::pause;

/// The longest reason of a pause, in bytes.
const REASON_BYTES_MAX: usize = 500;

/// The day at a glance.
#[derive(Serialize, ToSchema)]
pub(super) struct Overview {
    now: String,
    version: &'static str,
    /// When this process started: since then refusals and upstreams are counted.
    started_at: String,
    /// Why the app is paused; null while it goes on.
    paused: Option<String>,
    today: Today,
    /// The ceiling of the whole app; null where there is none.
    ceiling: Option<CeilingStatus>,
    /// Open requests of every process.
    open: i64,
    /// What waits for the developer's `log_request`; null where there is no database for it.
    outbox: Option<OutboxStatus>,
    upstreams: Vec<Upstream>,
    refusals: Vec<RefusalCount>,
    /// Milliseconds to the first token, of the last answers of today; null where there were none.
    ttft_ms: Option<Ttft>,
    /// Users' requests since the start, by what their device proves; null with `[attest] mode = "off"`.
    devices: Option<DeviceShare>,
    /// Models of the plans that are shut down within 60 days, or were and nothing takes their place.
    model_ends: Vec<ModelEnd>,
}

/// What waits for the developer's `log_request`.
#[derive(Serialize, ToSchema)]
#[schema(as = Outbox)]
struct OutboxStatus {
    waiting: i64,
    oldest_seconds: Option<u64>,
}

/// Users' requests since the start.
#[derive(Serialize, ToSchema)]
struct DeviceShare {
    /// From attested devices.
    attested: u64,
    /// All.
    requests: u64,
}

/// An upstream since the start.
#[derive(Serialize, ToSchema)]
struct Upstream {
    name: String,
    /// It is in use, as far as the last traffic shows.
    ok: bool,
    /// `closed`; `open`: it failed lately, and is tried after the others that could answer; `half_open`: one request tries
    /// it first.
    breaker: &'static str,
    errors: u64,
    requests: u64,
}

/// Refusals of one kind since the start.
#[derive(Serialize, ToSchema)]
#[schema(as = Refused)]
struct RefusalCount {
    code: &'static str,
    count: u64,
}

/// The day at a glance
#[utoipa::path(
    get,
    path = "/admin/overview",
    tag = "usage",
    responses((status = 200, body = Overview), AdminRefusals)
)]
pub(super) async fn overview(
    State(state): State<AdminState>,
    _: MayRead,
) -> Result<Json<Overview>, Refusal> {
    state.overview().await.map(Json)
}

impl AdminState {
    /// The day at a glance, now.
    pub(super) async fn overview(&self) -> Result<Overview, Refusal> {
        let (app, now) = (&self.app, self.app.clock.now());
        let config = app.config();
        let asked = config.clone();
        let day = self
            .read(move |reports| overview::overview(reports, &asked, now))
            .await?;
        let health = app.upstreams().health(&config.upstreams, now);
        let counted = app.metrics.upstreams().into_iter();
        let upstreams = counted.map(|count| Upstream {
            ok: health.get(&count.name).is_none_or(|health| health.ok),
            breaker: health
                .get(&count.name)
                .map(|health| health.breaker)
                .unwrap_or_default()
                .as_str(),
            name: count.name,
            errors: count.errors,
            requests: count.requests,
        });
        let outbox = app.outbox_health(now);
        let refusals = app.metrics.refusals().into_iter();
        let (attested, requests) = app.metrics.devices();
        let devices = DeviceShare { attested, requests };
        Ok(Overview {
            now: now.rfc3339(),
            version: env!("CARGO_PKG_VERSION"),
            started_at: self.shared.started_at.rfc3339(),
            paused: day.paused,
            today: day.today,
            ceiling: day.ceiling,
            open: day.open,
            outbox: outbox.map(|health| OutboxStatus {
                waiting: health.unsent,
                oldest_seconds: health.oldest_seconds,
            }),
            upstreams: upstreams.collect(),
            refusals: refusals
                .map(|(code, count)| RefusalCount { code, count })
                .collect(),
            ttft_ms: day.ttft_ms,
            devices: Some(devices).filter(|_| config.attest.mode != AttestMode::Off),
            model_ends: config.model_ends(now),
        })
    }
}

/// Why everybody is refused.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Reason {
    /// For the log and for the operator's pages; users are not told.
    reason: String,
}

/// Refuse every new request of every user, with 503 `paused`
///
/// Open requests go on. Every server on the ledger sees it within a second.
#[utoipa::path(
    post,
    path = "/admin/pause",
    tag = "server",
    request_body = Reason,
    responses((status = 204, description = "Paused"), ChangeRefusals)
)]
pub(super) async fn pause_all(
    State(state): State<AdminState>,
    MayWrite(admin): MayWrite,
    JsonBody(Reason { reason }): JsonBody<Reason>,
) -> Result<StatusCode, Refusal> {
    if reason.trim().is_empty() || reason.len() > REASON_BYTES_MAX || reason.contains('\0') {
        return Err(Refusal::invalid(
            "reason",
            format!("reason is a text of at most {REASON_BYTES_MAX} bytes."),
        ));
    }
    state
        .change(admin, move |desk, by| pause::pause(desk, &reason, by))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Let the app go on
#[utoipa::path(
    post,
    path = "/admin/resume",
    tag = "server",
    responses((status = 204, description = "It goes on"), ChangeRefusals)
)]
pub(super) async fn resume(
    State(state): State<AdminState>,
    MayWrite(admin): MayWrite,
) -> Result<StatusCode, Refusal> {
    state.change(admin, pause::resume).await?;
    Ok(StatusCode::NO_CONTENT)
}
