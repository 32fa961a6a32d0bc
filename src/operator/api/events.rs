//! The overview as server-sent events, for the dashboard.
//!
//! Invariants: at most [`LISTENERS_MAX`] listen, they share one read of the ledger, and every stream ends with the
//! server or with its token.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderName, header};
use http_body_util::channel::{Channel, Sender};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use super::AdminState;
use super::caller::MayRead;
use super::digest::Digest;
use super::input::AdminRefusals;
use crate::error::{Code, Refusal};
use crate::openapi::SseEvent;

/// How many may listen.
const LISTENERS_MAX: usize = 16;
/// How often the overview is sent.
const EVERY: Duration = Duration::from_secs(2);
/// How long one read of the ledger serves all listeners.
const FRESH: Duration = Duration::from_millis(1_900);
/// Events that wait for a reader.
const WAITING_MAX: usize = 2;

/// The listeners, and the last overview that was sent.
pub(super) struct Events {
    places: Arc<Semaphore>,
    last: Mutex<Option<(Instant, Bytes)>>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(LISTENERS_MAX)),
            last: Mutex::new(None),
        }
    }
}

/// The overview every two seconds, as server-sent events
///
/// Each is `event: overview` with the object of `/admin/overview` as `data:`. At most 16 may listen.
#[utoipa::path(
    get,
    path = "/admin/events",
    tag = "usage",
    responses((status = 200, content_type = "text/event-stream", body = SseEvent), AdminRefusals)
)]
pub(super) async fn events(
    State(state): State<AdminState>,
    MayRead(admin): MayRead,
) -> Result<Response, Refusal> {
    let place = state.shared.events.places.clone().try_acquire_owned();
    let place =
        place.map_err(|_| Refusal::new(Code::Overloaded, "Too many listen to this already."))?;
    let (sender, body) = Channel::<Bytes>::new(WAITING_MAX);
    let (work, telling) = (
        state.app.work.clone(),
        tell(state, admin.token, sender, place),
    );
    work.spawn(telling);
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache, no-transform"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::new(body)).into_response())
}

/// Until the listener leaves, the token is revoked, or the server stops.
async fn tell(
    state: AdminState,
    token: Digest,
    mut listener: Sender<Bytes>,
    place: OwnedSemaphorePermit,
) {
    let telling = async {
        let mut tick = tokio::time::interval(EVERY);
        loop {
            tick.tick().await;
            let may = state.shared.tokens.still(&state.app, token).await;
            let event = match may {
                Ok(None) => break,
                Ok(Some(_)) => event(&state).await,
                Err(_) => None,
            };
            // Nothing can be said right now: that the line is alive can.
            let event = event.unwrap_or(Bytes::from_static(b": keep-alive\n\n"));
            if listener.send_data(event).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = state.shared.stop.cancelled() => {}
        () = telling => {}
    }
    drop(place);
}

/// The event of this moment, which all listeners share.
async fn event(state: &AdminState) -> Option<Bytes> {
    let mut last = state.shared.events.last.lock().await;
    if let Some((_, event)) = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
        return Some(event.clone());
    }
    let overview = state.overview().await.ok()?;
    let event = Bytes::from(format!(
        "event: overview\ndata: {}\n\n",
        serde_json::to_string(&overview).ok()?
    ));
    *last = Some((Instant::now(), event.clone()));
    Some(event)
}
