//! What every request gets on its way in and out: an id, a log line, CORS.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use uuid::Uuid;

use super::{App, unread};
use crate::clock::Timestamp;
use crate::error::{CODE_HEADER, Code, Refusal};
use crate::metrics::Told;
use crate::proxy;

const ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Says that an answer is the one that was given before.
const REPLAYED_HEADER: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The id of a request, made by us: the `X-Request-Id` of its answer and the id of its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId(pub Uuid);

/// All that a request gets on its way where there is no CORS, as one layer: each layer is a few boxes and copies for each
/// request.
pub(super) async fn receive(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    received(&app, request, |request| next.run(request)).await
}

/// The same for a chat request, which has this one handler: the way through the routes is a dozen boxes and copies more.
pub(super) async fn receive_chat(app: Arc<App>, request: Request) -> Response {
    let chat = |request: Request| proxy::chat(State(app.clone()), RequestId::of(request.headers()), request);
    received(&app, request, chat).await
}

async fn received<F>(app: &Arc<App>, request: Request, rest: impl FnOnce(Request) -> F) -> Response
where
    F: Future<Output = Response>,
{
    let request = unread::let_finish_body(request, app);
    named(app, request, |request| logged(app, request, rest, true)).await
}

/// Whether a request is for [`proxy::chat`], by whichever of its paths.
pub(super) fn is_chat<B>(request: &http::Request<B>) -> bool {
    request.method() == Method::POST && proxy::ENDPOINTS.contains(&request.uri().path())
}

/// Gives the request its id, whatever the client sent, and the answer the same.
pub(crate) async fn name_request(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    named(&app, request, |request| next.run(request)).await
}

async fn named<F>(app: &App, mut request: Request, rest: impl FnOnce(Request) -> F) -> Response
where
    F: Future<Output = Response>,
{
    let id = new_id(app.clock.now());
    let Ok(value) = HeaderValue::from_str(id.hyphenated().encode_lower(&mut Uuid::encode_buffer())) else {
        return rest(request).await;
    };
    request.headers_mut().insert(ID_HEADER, value.clone());
    let begun = Instant::now();
    let mut response = match odd_framing(&request) {
        Some(refusal) => {
            let told = Told::Refused(Code::InvalidRequest);
            app.metrics.request(request.uri().path(), told, begun.elapsed());
            refusal
        }
        None => rest(request).await,
    };
    response.headers_mut().insert(ID_HEADER, value);
    response
}

/// What two readers may read in two ways is answered with 400 and the end of the connection: a transfer coding other than one
/// plain `chunked` (RFC 9112 §6.1, §7; what stands before this server may have seen the end of the body elsewhere), and
/// several hosts (§3.2).
fn odd_framing(request: &Request) -> Option<Response> {
    let headers = request.headers();
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let is_plain = codings.next().is_none_or(|first| first.as_bytes().eq_ignore_ascii_case(b"chunked"));
    let message = if !is_plain || codings.next().is_some() {
        "Send one Transfer-Encoding, chunked, or a Content-Length."
    } else if headers.get_all(header::HOST).iter().nth(1).is_some() {
        "Send one Host header."
    } else {
        return None;
    };
    let mut response = Refusal::new(Code::InvalidRequest, message).into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    Some(response)
}

/// A `UUIDv7` of our own clock (RFC 9562 §5.7).
fn new_id(now: Timestamp) -> Uuid {
    let ms = u64::try_from(now.millis()).unwrap_or(0);
    let (seconds, rest) = (ms.div_euclid(1000), ms.rem_euclid(1000));
    let nanos = u32::try_from(rest.saturating_mul(1_000_000)).unwrap_or(0);
    Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, nanos))
}

impl<S: Send + Sync> FromRequestParts<S> for RequestId {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::of(&parts.headers))
    }
}

impl RequestId {
    /// As [`named`] has written it.
    fn of(headers: &HeaderMap) -> Self {
        let named = headers.get(ID_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
        Self(named.unwrap_or_else(Uuid::now_v7))
    }
}

/// One line a request. What is forwarded logs itself when it has ended (`proxy`), so here only the rest is told. A head
/// that is too large gets no further.
pub(crate) async fn log_request(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    logged(&app, request, |request| next.run(request), true).await
}

/// The same on the operator's listener, whose requests are not counted among those of users.
pub(crate) async fn log_admin_request(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    logged(&app, request, |request| next.run(request), false).await
}

async fn logged<F>(app: &App, request: Request, rest: impl FnOnce(Request) -> F, is_users: bool) -> Response
where
    F: Future<Output = Response>,
{
    let path = request.uri().path();
    let bytes_max = app.config().server.header_bytes_max;
    let is_too_large = head_bytes(&request) > bytes_max;
    if is_chat(&request) && !is_too_large {
        return rest(request).await;
    }
    // A path is the stranger's text: bounded, and escaped by the log's format.
    let path: String = path.chars().take(128).collect();
    let method = request.method().clone();
    let id = request.headers().get(ID_HEADER).cloned();
    let begun = Instant::now();
    let response = if is_too_large {
        let message = format!("The request's line and headers are larger than {bytes_max} bytes.");
        Refusal::new(Code::HeadersTooLarge, message).into_response()
    } else {
        rest(request).await
    };
    let code = response.headers().get(CODE_HEADER).and_then(|code| code.to_str().ok());
    let known = code.and_then(|code| Code::ALL.iter().find(|known| known.as_str() == code));
    if is_users {
        app.metrics.request(&path, known.map_or(Told::Ok, |code| Told::Refused(*code)), begun.elapsed());
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
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let field = |(name, value): (&HeaderName, &HeaderValue)| {
        // A colon and a line ending.
        name.as_str().len().saturating_add(value.len()).saturating_add(3)
    };
    // The id is ours.
    let sent = request.headers().iter().filter(|(name, _)| *name != ID_HEADER);
    sent.map(field).fold(target, usize::saturating_add)
}

/// Browsers may call from the configured origins; without any there is no such layer.
pub(super) fn cors(origins: &[String]) -> Option<CorsLayer> {
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
        .expose_headers([ID_HEADER, HeaderName::from_static(CODE_HEADER), header::RETRY_AFTER, REPLAYED_HEADER])
        .max_age(std::time::Duration::from_mins(10));
    Some(layer)
}
