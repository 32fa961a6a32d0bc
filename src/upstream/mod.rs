//! Providers: the way out, with every wait bounded.
//!
//! It knows how to dial a server that speaks OpenAI's API, what of an answer may be told to a caller, and when a
//! provider is out of use. It knows nothing of users, plans or money. Nothing of the caller's reaches the upstream but
//! the body it is given. Invariant: [`SendError::Connect`] means that the upstream cannot have seen the request.

pub mod answer;
mod error_body;
mod framing;
mod head;
pub mod health;
mod pool;
mod request;
mod rotation;
mod strip;
mod way;
mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, Uri};
use tower::Service;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::config::{Proxy, UpstreamConfig};
use crate::error::{Code, Refusal};

use self::answer::Answer;
use self::health::{Failure, Health};
use self::pool::Pool;
pub use self::pool::Received;
use self::request::Request;
use self::rotation::{Rotation, Second};
use self::way::{Https, Reach};

/// The longest head of an answer, in bytes.
const ANSWER_HEAD_BYTES_MAX: usize = 64 * 1024;
/// Idle connections kept for each host.
const IDLE_CONNECTIONS_MAX: usize = 256;
/// The longest answer to a question of [`Upstreams::ask`].
const ASKED_BYTES_MAX: usize = 4 * 1024 * 1024;

type Connector = Bounded<Https>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The upstream that serves `model`: the first, in the order of the settings, one of whose patterns matches.
#[must_use]
pub fn route<'a>(upstreams: &'a [Arc<UpstreamConfig>], model: &str) -> Option<&'a Arc<UpstreamConfig>> {
    upstreams.iter().find(|upstream| upstream.serves(model))
}

/// The names that a request goes by at an upstream.
#[derive(Clone, Debug)]
pub struct Names {
    /// Ours.
    pub request_id: Uuid,
    /// The span that it belongs to (W3C Trace Context), where traces are made.
    pub traceparent: Option<HeaderValue>,
}

impl From<Uuid> for Names {
    fn from(request_id: Uuid) -> Self {
        Self { request_id, traceparent: None }
    }
}

/// The connections to all upstreams, and what their last traffic saw. Cheap to clone; clones share both.
#[derive(Clone)]
pub struct Upstreams {
    connect_timeout: Duration,
    /// How long the head of an answer is waited for.
    head_timeout: Duration,
    // One for each way of reaching upstreams: there are few.
    pools: Arc<Mutex<Vec<(Reach, Pool)>>>,
    seen: Arc<Mutex<BTreeMap<String, Health>>>,
    rotation: Rotation,
}

impl fmt::Debug for Upstreams {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Upstreams").finish_non_exhaustive()
    }
}

impl Upstreams {
    /// Pools with the timeouts of `[proxy]`. Dials nobody.
    #[must_use]
    pub fn new(proxy: &Proxy) -> Self {
        Self {
            connect_timeout: proxy.connect_timeout,
            head_timeout: proxy.first_byte_timeout.min(proxy.total_timeout),
            pools: Arc::default(),
            seen: Arc::default(),
            rotation: Rotation::default(),
        }
    }

    /// The same connections and the same health, with the timeouts of newly read settings.
    ///
    /// A changed `connect_timeout` needs new pools, so then idle connections are let go.
    #[must_use]
    pub fn with_settings(&self, proxy: &Proxy) -> Self {
        let pools = if proxy.connect_timeout == self.connect_timeout { self.pools.clone() } else { Arc::default() };
        Self {
            connect_timeout: proxy.connect_timeout,
            head_timeout: proxy.first_byte_timeout.min(proxy.total_timeout),
            pools,
            seen: self.seen.clone(),
            rotation: self.rotation.clone(),
        }
    }

    /// Sends a chat request: `body` is the JSON as priced, `stream` whether it asks for events.
    ///
    /// Nothing is dialled before the [`Exchange`] is polled. It ends within `first_byte_timeout` and `total_timeout`, the second try with a previous key included. A redirect is an
    /// answer like any other; a request is repeated only on another connection, when nothing of it had been sent.
    pub fn send(&self, to: &UpstreamConfig, body: Bytes, stream: bool, names: impl Into<Names>) -> Exchange {
        let sent = Arc::new(AtomicBool::new(false));
        let names = names.into();
        let with_key = |key, body: Bytes| Request::chat((to, key), (body, sent.clone()), stream, &names);
        let again = to.api_key_previous.as_ref();
        let again = again.and_then(|key| with_key(Some(key), body.clone()));
        let again = again.map(|request| Second { request, rotation: self.rotation.clone(), upstream: to.name.clone() });
        let pending = self.pool(to).zip(with_key(to.api_key.as_ref(), body));
        let limit = self.head_timeout;
        let was_sent = sent.clone();
        let answer = async move {
            let Some((pool, request)) = pending else { return Err(SendError::Connect) };
            // "Not sent" is certain knowledge: not a byte had been given away.
            let unless_unsent = |error| if was_sent.load(Ordering::Acquire) { error } else { SendError::Connect };
            let answered = async {
                let first = pool.request(request).await?;
                match again {
                    None => Ok(first),
                    Some(second) => second.unless_known(first, &pool, &was_sent).await,
                }
            };
            match tokio::time::timeout(limit, answered).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(error)) => {
                    let error: BoxError = error;
                    tracing::debug!(?error, "no answer from the upstream");
                    Err(unless_unsent(SendError::Broken))
                }
                Err(_) => Err(unless_unsent(SendError::TimedOut)),
            }
        };
        Exchange { answer: Box::pin(answer), sent }
    }

    /// Asks an upstream something that is no request of a user, and costs nothing: the way is the same, with the key in
    /// force. `path` follows its base URL.
    ///
    /// # Errors
    /// Why there is no answer, in plain words.
    pub async fn ask(&self, to: &UpstreamConfig, path: &str) -> Result<(StatusCode, Bytes), String> {
        let request = Request::question(to, path).ok_or("its address or a header cannot be written as HTTP")?;
        let pool = self.pool(to).ok_or("TLS cannot be set up")?;
        let limit = self.head_timeout;
        let answered = tokio::time::timeout(limit, pool.request(request)).await.map_err(|_| "no answer in time")?;
        let Answer { status, body, .. } = answered.map_err(|error| trouble(&*error))?;
        let deadline = tokio::time::Instant::now().checked_add(limit).unwrap_or_else(tokio::time::Instant::now);
        let body = answer::read(body, ASKED_BYTES_MAX, limit, deadline).await;
        let body = body.map_err(|_| "the answer broke off, or was longer than 4 MiB")?;
        Ok((status, body))
    }

    fn pool(&self, to: &UpstreamConfig) -> Option<Pool> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, pool)) = pools.iter().find(|(reach, _)| reach.is_of(to)) {
            return Some(pool.clone());
        }
        let reach = Reach::of(to);
        let https = reach.connector(self.connect_timeout);
        let https = https
            .inspect_err(|error| tracing::error!(%error, "TLS cannot be set up: no upstream can be reached"))
            .ok()?;
        let pool = Pool::new(Bounded { inner: https, limit: self.connect_timeout }, to.keep_alive);
        pools.push((reach, pool.clone()));
        Some(pool)
    }

    /// Notes that `upstream` answered as it should.
    pub fn record_ok(&self, upstream: &str, now: Timestamp) {
        self.note(upstream, |health| health.succeeded(now));
    }

    /// Notes that `upstream` failed.
    pub fn record_failure(&self, upstream: &str, failure: Failure, now: Timestamp) {
        self.note(upstream, |health| health.failed(failure, now));
    }

    fn note(&self, upstream: &str, change: impl FnOnce(&mut Health)) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(health) = seen.get_mut(upstream) {
            return change(health);
        }
        change(seen.entry(upstream.to_owned()).or_default());
    }

    /// What the last traffic of each of `upstreams` saw, by name; one without traffic is taken to be in use.
    #[must_use]
    pub fn health(&self, upstreams: &[Arc<UpstreamConfig>], now: Timestamp) -> BTreeMap<String, Health> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |to: &Arc<UpstreamConfig>| seen.get(&to.name).map(|health| health.at(now)).unwrap_or_default();
        upstreams.iter().map(|to| (to.name.clone(), of(to))).collect()
    }
}

/// What kept an answer away: the first cause is the one that says something (`Connection refused`).
fn trouble(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let what = if error.is::<std::io::Error>() { "the connection broke" } else { "cannot connect" };
    format!("{what}: {cause}")
}

/// A request on its way: resolves to the head of the answer.
///
/// It can be moved to another task half-way, so that an answer is read on when its caller has left. Dropping it closes
/// the connection.
#[must_use = "nothing is sent until it is polled"]
pub struct Exchange {
    answer: Pin<Box<dyn Future<Output = Result<Answer, SendError>> + Send>>,
    sent: Arc<AtomicBool>,
}

impl Exchange {
    /// Whether the upstream may have the request. While false, it certainly has not.
    #[must_use]
    pub fn sent(&self) -> bool {
        self.sent.load(Ordering::Acquire)
    }

    /// [`Exchange::sent`], for one who gives the exchange away.
    #[must_use]
    pub fn sent_flag(&self) -> Arc<AtomicBool> {
        self.sent.clone()
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Exchange").field("sent", &self.sent()).finish_non_exhaustive()
    }
}

impl Future for Exchange {
    type Output = Result<Answer, SendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.answer.as_mut().poll(context)
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// It could not be reached, and nothing was sent: no name, no connection, no TLS, or none in time.
    Connect,
    /// Sent, and no head of an answer in time. It may be running.
    TimedOut,
    /// Sent, and the connection broke before the head of an answer. It may be running.
    Broken,
}

impl SendError {
    /// What the caller is told.
    #[must_use]
    pub fn refusal(self) -> Refusal {
        match self {
            Self::Connect => Refusal::new(Code::UpstreamUnavailable, "The model's provider cannot be reached."),
            Self::TimedOut => Refusal::new(Code::UpstreamTimeout, "The model's provider did not answer in time."),
            Self::Broken => Refusal::new(Code::UpstreamError, "The model's provider broke off before it answered."),
        }
    }

    /// What its health is told.
    #[must_use]
    pub const fn failure(self) -> Failure {
        match self {
            Self::Connect => Failure::Connect,
            Self::TimedOut => Failure::TimedOut,
            Self::Broken => Failure::Broken,
        }
    }
}

/// A connector whose whole work is bounded: the name, the connection and the TLS handshake.
///
/// The connector's own timeout covers the connection only.
#[derive(Clone)]
struct Bounded<C> {
    inner: C,
    limit: Duration,
}

impl<C> Service<Uri> for Bounded<C>
where
    C: Service<Uri, Error = BoxError>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = tokio::time::timeout(self.limit, self.inner.call(uri));
        Box::pin(async move { connecting.await? })
    }
}

#[cfg(test)]
mod tests;
