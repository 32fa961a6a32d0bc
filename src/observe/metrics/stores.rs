//! What stores told of purchases, on the page of metrics.

use std::fmt::Error;

use prometheus_client::metrics::MetricType;

use super::writer::PageWriter;
use crate::clock::Timestamp;

/// What became of what one channel sent.
pub(crate) struct StoreReading {
    /// `appstore`, `revenuecat` …
    pub(crate) channel: &'static str,
    /// Events since the start, by what became of them.
    pub(crate) events: [(&'static str, u64); 7],
    /// When the last one was taken, by any process; `None` for none that is known.
    pub(crate) last_at: Option<Timestamp>,
}

/// Only channels that are set or were ever used have any.
pub(super) fn write(stores: &[StoreReading], out: &mut PageWriter<'_>) -> Result<(), Error> {
    let events = stores.iter().flat_map(|store| {
        let counts = store.events.iter();
        counts.map(|(outcome, count)| {
            let labels = [("channel", store.channel), ("outcome", *outcome)];
            (labels, *count)
        })
    });
    out.counters(
        "tollgate_store_events",
        "What stores told of purchases, by what became of it",
        events,
    )?;
    let mut family = out.0.encode_descriptor(
        "tollgate_store_last_event_timestamp_seconds",
        "When a store last told anything that was taken",
        None,
        MetricType::Gauge,
    )?;
    for store in stores {
        let Some(at) = store.last_at else { continue };
        family
            .encode_family(&[("channel", store.channel)])?
            .encode_gauge(&at.secs())?;
    }
    Ok(())
}
