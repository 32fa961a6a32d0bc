//! What every request gets on its way in and out: an id, a log line, CORS.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use tower::ServiceBuilder;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use uuid::Uuid;

use super::lingering;
use crate::app::sender_address::PEER_HEADER;
use crate::app::{App, RequestId};
use crate::endpoint;
use crate::error::{CODE_HEADER, Code, Refusal, anthropic_shape};
use crate::observe::metrics::RequestOutcome;
use crate::proxy::replay::REPLAYED_HEADER;

/// The longest refusal that is read.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// Whose requests pass the layers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listener {
    Users,
    /// Its requests are not counted among those of users, and no foreign page may call it.
    Operator,
}

/// Puts the layers around all routes of a listener: the one way in, listed from the outside to the inside.
pub(crate) fn around<S>(routes: Router<S>, listener: Listener, app: &Arc<App>) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    let cors = match listener {
        Listener::Users => cors(&app.config().server.cors_origins),
        Listener::Operator => None,
    };
    routes.layer(
        ServiceBuilder::new()
            // Before all that answers: every answer has an id, a refusal and a preflight too.
            .layer(from_fn_with_state((app.clone(), listener), receive))
            // Outside the log: a browser's preflight is no request of a user's, and what the log refuses is readable.
            .option_layer(cors)
            // Innermost: it sees what the routes say.
            .layer(from_fn_with_state((app.clone(), listener), log_request)),
    )
}

/// Gives the request its id, whatever the client sent, and the answer the same. What could be read in two ways goes no further.
async fn receive(
    State((app, listener)): State<(Arc<App>, Listener)>,
    request: Request,
    next: Next,
) -> Response {
    // Whatever answers from here on may do so while the caller still sends.
    let mut request = lingering::let_finish(app.clone(), request);
    let id = RequestId::new(app.clock.now()).0;
    let Ok(value) = HeaderValue::from_str(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
    else {
        return next.run(request).await;
    };
    request
        .headers_mut()
        .insert(RequestId::HEADER, value.clone());
    let is_anthropics = is_anthropics(request.uri().path());
    let mut response = match odd_framing(request.headers()) {
        Some(message) => refuse_odd_framing((&app, listener), request.uri().path(), message),
        None => next.run(request).await,
    };
    if is_anthropics && response.headers().contains_key(CODE_HEADER) {
        let said = response.headers().get(RequestId::HEADER).cloned();
        response = in_anthropics_shape(response, said.as_ref().unwrap_or(&value)).await;
    }
    // An answer that was begun by another request has the id of that one.
    response
        .headers_mut()
        .entry(RequestId::HEADER)
        .or_insert(value);
    response
}

/// Whether a path is of Anthropic's API, whose clients decode refusals of its shape.
fn is_anthropics(path: &str) -> bool {
    let rest = path.strip_prefix("/v1/messages");
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A refusal as Anthropic's clients decode it. One place for all of them, whichever layer or route they come from.
async fn in_anthropics_shape(response: Response, id: &HeaderValue) -> Response {
    let (mut head, body) = response.into_parts();
    // It is ours, and all there.
    let body = to_bytes(body, REFUSAL_BYTES_MAX).await.unwrap_or_default();
    let body = anthropic_shape(head.status, &body, id.to_str().unwrap_or_default());
    head.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(head, Body::from(body.to_string()))
}

/// 400 and the end of the connection.
fn refuse_odd_framing(
    (app, listener): (&App, Listener),
    path: &str,
    message: &'static str,
) -> Response {
    if listener == Listener::Users {
        let outcome = RequestOutcome::Refused(Code::InvalidRequest);
        app.metrics.request(path, outcome, Duration::ZERO);
    }
    let mut response = Refusal::new(Code::InvalidRequest, message).into_response();
    response
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// What to tell the sender of a request whose framing or host two readers may read in two ways: a transfer coding other than
/// one plain `chunked` (RFC 9112 §6.1, §7; what stands before this server may have seen the end of the body elsewhere), and
/// several hosts (§3.2).
fn odd_framing(headers: &HeaderMap) -> Option<&'static str> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let is_plain = codings
        .next()
        .is_none_or(|first| first.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if !is_plain || codings.next().is_some() {
        Some("Send one Transfer-Encoding, chunked, or a Content-Length.")
    } else if headers.get_all(header::HOST).iter().nth(1).is_some() {
        Some("Send one Host header.")
    } else {
        None
    }
}

/// Whether a request is for an endpoint, which logs it when it has ended.
fn logs_itself(request: &Request) -> bool {
    request.method() == Method::POST && endpoint::route(request.uri().path()).is_some()
}

/// One line a request. What is forwarded logs itself when it has ended (`proxy`), so here only the rest is told. A head
/// that is too large gets no further.
async fn log_request(
    State((app, listener)): State<(Arc<App>, Listener)>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let bytes_max = app.config().server.header_bytes_max;
    let is_too_large = head_bytes(&request) > bytes_max;
    if logs_itself(&request) && !is_too_large {
        return next.run(request).await;
    }
    // A path is the stranger's text: bounded, and escaped by the log's format.
    let path: String = path.chars().take(128).collect();
    let method = request.method().clone();
    let id = request.headers().get(RequestId::HEADER).cloned();
    let begun = Instant::now();
    let response = if is_too_large {
        let message = format!("The request's line and headers are larger than {bytes_max} bytes.");
        Refusal::new(Code::HeadersTooLarge, message).into_response()
    } else {
        next.run(request).await
    };
    let code = response
        .headers()
        .get(CODE_HEADER)
        .and_then(|code| code.to_str().ok());
    let known = code.and_then(|code| Code::ALL.iter().find(|known| known.as_str() == code));
    if listener == Listener::Users {
        app.metrics.request(
            &path,
            known.map_or(RequestOutcome::Ok, |code| RequestOutcome::Refused(*code)),
            begun.elapsed(),
        );
    }
    // Docker, Kubernetes and load balancers ask every few seconds whether it is well; that it is, is no news.
    if response.status().is_success() && path.starts_with("/health/") {
        return response;
    }
    tracing::info!(
        request_id = id.as_ref().and_then(|id| id.to_str().ok()),
        %method,
        path,
        status = response.status().as_u16(),
        code,
        duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        open = app.open_requests(),
        "request"
    );
    response
}

/// At most as many bytes as the head came in. (hyper reads a buffer on before it looks at its own bound.)
fn head_bytes(request: &Request) -> usize {
    let target = request
        .uri()
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    let field = |(name, value): (&HeaderName, &HeaderValue)| {
        // A colon and a line ending.
        name.as_str()
            .len()
            .saturating_add(value.len())
            .saturating_add(3)
    };
    // Two are ours.
    let sent = request
        .headers()
        .iter()
        .filter(|(name, _)| *name != RequestId::HEADER && *name != PEER_HEADER);
    sent.map(field).fold(target, usize::saturating_add)
}

/// Browsers may call from the configured origins; without any there is no such layer.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let origin = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| origin.parse().ok()))
    };
    let layer = CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        // Any: OpenAI's own client sends a dozen `x-stainless-…`. None decides anything but the token, which no browser
        // adds by itself.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([
            RequestId::HEADER,
            HeaderName::from_static(CODE_HEADER),
            header::RETRY_AFTER,
            REPLAYED_HEADER,
        ])
        .max_age(Duration::from_mins(10));
    Some(layer)
}
