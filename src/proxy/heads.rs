//! The heads of answers: what is said of each to whoever stands between this server and the app. Pure.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, header};

use crate::meter::Fault;

/// An answer in one piece.
pub(super) fn whole(content_type: &'static str, body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    completion(headers, body)
}

/// An answer as a stream of events.
pub(super) fn events(body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache, no-transform"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    completion(headers, body)
}

/// An answer that passes byte by byte.
pub(super) fn bytes(media_type: HeaderValue, body: Body) -> Response {
    let headers = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    let mut response = completion(headers, body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, media_type);
    response
}

/// What is told in place of an answer when the server stops.
pub(super) fn stopped() -> Response {
    Fault::Stopped.refusal().into_response()
}

/// With room for the headers that are added on its way out.
fn completion<const N: usize>(headers: [(HeaderName, &'static str); N], body: Body) -> Response {
    let mut response = Response::new(body);
    let written = response.headers_mut();
    written.reserve(8);
    for (name, value) in headers {
        written.insert(name, HeaderValue::from_static(value));
    }
    response
}
