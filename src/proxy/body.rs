//! A request's body as it arrives: bounded in bytes, in time, and in what it takes of the server while it comes.
//!
//! A short one is taken as it comes. A longer one is copied piece by piece into one buffer, and takes its bytes of the
//! budget (`Place::make_room`) before it does: a caller who sends it in pieces of one byte costs no more than any other.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::Body as _;
use http_body_util::{BodyExt, Limited};
use tokio::time::{Instant, timeout_at};

use crate::app::Place;
use crate::app::places::SMALL_BODY_BYTES_MAX;
use crate::config::Server;
use crate::error::{Code, Refusal};

/// Reads a body to its end; JSON as it is, or nothing is read at all.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    server: &Server,
    place: &mut Place,
) -> Result<Bytes, Refusal> {
    check_media_type(headers)?;
    let now = Instant::now();
    let deadline = now.checked_add(server.body_timeout).unwrap_or(now);
    let announced = body.size_hint().exact().map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    match announced {
        Some(bytes) if bytes > server.body_bytes_max => Err(too_large(server)),
        Some(bytes) if bytes <= SMALL_BODY_BYTES_MAX => {
            let reading = Limited::new(body, server.body_bytes_max).collect();
            let read = timeout_at(deadline, reading).await.map_err(|_| slow())?;
            read.map(http_body_util::Collected::to_bytes).map_err(|_| broken())
        }
        _ => read_long(body, announced, server, (place, deadline)).await,
    }
}

async fn read_long(
    mut body: Body,
    announced: Option<usize>,
    server: &Server,
    (place, mut deadline): (&mut Place, Instant),
) -> Result<Bytes, Refusal> {
    let most = announced.unwrap_or(server.body_bytes_max);
    let mut read = Vec::with_capacity(announced.unwrap_or(0));
    while let Some(frame) = timeout_at(deadline, body.frame()).await.map_err(|_| slow())? {
        let Ok(piece) = frame.map_err(|_| broken())?.into_data() else { continue };
        let bytes = read.len().saturating_add(piece.len());
        if bytes > server.body_bytes_max {
            return Err(too_large(server));
        }
        if !place.has_room(bytes) {
            let begun = Instant::now();
            place.make_room(bytes, most).await?;
            // It is not the caller who was slow.
            deadline = deadline.checked_add(begun.elapsed()).unwrap_or(deadline);
        }
        read.extend_from_slice(&piece);
    }
    place.body_is(read.len());
    Ok(Bytes::from(read))
}

fn slow() -> Refusal {
    Refusal::new(Code::InvalidRequest, "The body took too long to arrive.")
}

fn broken() -> Refusal {
    Refusal::new(Code::InvalidRequest, "The body did not arrive whole.")
}

fn too_large(server: &Server) -> Refusal {
    Refusal::new(Code::BodyTooLarge, format!("The body is larger than {} bytes.", server.body_bytes_max))
}

/// JSON or no Content-Type is taken; anything else, and any Content-Encoding, is not.
pub(crate) fn check_media_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let refuse = |message: &str| Err(Refusal::new(Code::UnsupportedMediaType, message));
    if headers.contains_key(header::CONTENT_ENCODING) {
        return refuse("Send the body as it is, without Content-Encoding.");
    }
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let kind = kind.to_str().unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    refuse("Send JSON, with Content-Type: application/json.")
}
