//! What users bought, and what stores told of it.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use super::caller::MayRead;
use super::input::{AdminRefusals, StrictQuery, slice};
use super::{AdminState, page_of};
use crate::clock::Timestamp;
use crate::error::Refusal;
use crate::operator::queries::Page;
use crate::operator::queries::purchases::{self, ChannelRow, PurchaseRow, StoreEvent};
use crate::purchases::event::Channel;
use crate::purchases::records::last_events;

/// Which purchases.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct PurchasesQuery {
    /// Of this user only.
    user: Option<Uuid>,
    /// The most rows on a page.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// What users bought: a row a transaction, those that changed last first
#[utoipa::path(
    get,
    path = "/admin/purchases",
    tag = "purchases",
    params(PurchasesQuery),
    responses((status = 200, body = Page<PurchaseRow>), AdminRefusals)
)]
pub(super) async fn all_purchases(
    State(state): State<AdminState>,
    _: MayRead,
    StrictQuery(query): StrictQuery<PurchasesQuery>,
) -> Result<Json<Page<PurchaseRow>>, Refusal> {
    let slice = slice(query.limit, query.cursor.as_deref())?;
    let (config, now) = (state.app.config(), state.app.clock.now());
    state
        .read(move |reports| purchases::list(reports, &config, query.user, &slice, now))
        .await
        .map(Json)
}

/// Which events.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// The most rows on a page.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// What stores told in the last ninety days, the newest first
#[utoipa::path(
    get,
    path = "/admin/purchases/events",
    tag = "purchases",
    params(EventsQuery),
    responses((status = 200, body = Page<StoreEvent>), AdminRefusals)
)]
pub(super) async fn store_events(
    State(state): State<AdminState>,
    _: MayRead,
    StrictQuery(query): StrictQuery<EventsQuery>,
) -> Result<Json<Page<StoreEvent>>, Refusal> {
    let slice = slice(query.limit, query.cursor.as_deref())?;
    state
        .read(move |reports| purchases::events(reports, &slice))
        .await
        .map(Json)
}

/// Each way to tell: whether it is set, its last event, its last refusal
#[utoipa::path(
    get,
    path = "/admin/purchases/channels",
    tag = "purchases",
    responses((status = 200, body = Page<ChannelRow>), AdminRefusals)
)]
pub(super) async fn channels(
    State(state): State<AdminState>,
    _: MayRead,
) -> Result<Json<Page<ChannelRow>>, Refusal> {
    let last = state.read(|reports| last_events(reports.db())).await?;
    let config = state.app.config();
    let row = |channel: Channel| {
        let counts = state.app.intake.counts(channel);
        let refusal = counts.and_then(crate::purchases::intake::ChannelCounts::last_refusal);
        let (refused_at, why) = refusal.unzip();
        let event = last.iter().find(|(of, _)| *of == channel);
        ChannelRow {
            channel: channel.as_str(),
            is_set: config.webhooks.has(channel.as_str()),
            last_event_at: event.map(|(_, at)| at.rfc3339()),
            last_refusal_at: refused_at.map(Timestamp::rfc3339),
            last_refusal: why,
        }
    };
    Ok(page_of(Channel::ALL.map(row).into()))
}
