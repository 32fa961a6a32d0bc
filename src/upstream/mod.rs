//! Providers: the way out, with every wait bounded.
//!
//! It knows how to dial a server that speaks OpenAI's API, what of an answer may be told to a caller, and when a
//! provider is out of use. It knows nothing of users, plans or money. Nothing of the caller's reaches the upstream but
//! the body it is given. Invariant: [`SendError::Connect`] means that the upstream cannot have seen the request.

mod advice;
pub mod answer;
mod connector;
mod error_body;
mod exchange;
pub mod health;
mod pool;
mod redact;
pub mod rejection;
mod request;
mod rotation;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::config::{Proxy, UpstreamConfig};

pub use self::advice::Advice;
use self::answer::Answer;
use self::connector::{Https, PoolKey, TimeoutConnector};
pub use self::exchange::{Exchange, SendError};
use self::health::{Failure, Health};
use self::pool::Pool;
pub use self::pool::UpstreamBody;
use self::rotation::{Rotation, SecondTry};

/// Idle connections kept for each host.
const IDLE_CONNECTIONS_MAX: usize = 256;
/// The longest answer to a question of [`Upstreams::ask`].
const QUERY_ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

type Connector = TimeoutConnector<Https>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The upstreams that serve `model`, in the order of the settings: those of whose patterns one matches.
pub fn routes<'a>(
    upstreams: &'a [Arc<UpstreamConfig>],
    model: &str,
) -> impl Iterator<Item = &'a Arc<UpstreamConfig>> {
    upstreams
        .iter()
        .filter(move |upstream| upstream.serves(model))
}

/// A request on its way out, as it was priced.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// What follows the base URL.
    pub path: &'static str,
    /// The body.
    pub body: Bytes,
    /// What the body is.
    pub content_type: HeaderValue,
    /// It asks for events.
    pub stream: bool,
    /// For Anthropic's API: what else of it the request asks for (`anthropic-beta`), which may be nothing.
    pub anthropic_beta: Option<String>,
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
        Self {
            request_id,
            traceparent: None,
        }
    }
}

/// The connections to all upstreams, and what their last traffic saw. Cheap to clone; clones share both.
#[derive(Clone)]
pub struct Upstreams {
    connect_timeout: Duration,
    /// How long the head of an answer is waited for.
    head_timeout: Duration,
    // One for each way of reaching upstreams: there are few.
    pools: Arc<Mutex<Vec<(PoolKey, Pool)>>>,
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
        let pools = if proxy.connect_timeout == self.connect_timeout {
            self.pools.clone()
        } else {
            Arc::default()
        };
        Self {
            connect_timeout: proxy.connect_timeout,
            head_timeout: proxy.first_byte_timeout.min(proxy.total_timeout),
            pools,
            seen: self.seen.clone(),
            rotation: self.rotation.clone(),
        }
    }

    /// [`Upstreams::send_as`], of which nobody else needs to know whether it was sent.
    pub fn send(
        &self,
        to: &UpstreamConfig,
        outgoing: Outgoing,
        names: impl Into<Names>,
    ) -> Exchange {
        self.send_as(to, outgoing, (names.into(), Arc::default()))
    }

    /// Sends a request of a user. `sent` is set as [`Exchange::sent`] is: several that follow each other may share it.
    ///
    /// Nothing is dialled before the [`Exchange`] is polled. It ends within `first_byte_timeout` and `total_timeout`, the second try with a previous key included. A redirect is an
    /// answer like any other; a request is repeated only on another connection, when nothing of it had been sent.
    pub fn send_as(
        &self,
        to: &UpstreamConfig,
        outgoing: Outgoing,
        (names, sent): (Names, Arc<AtomicBool>),
    ) -> Exchange {
        sent.store(false, Ordering::Release);
        let with_key =
            |key, outgoing: Outgoing| request::paid((to, key), (outgoing, sent.clone()), &names);
        let again = to.api_key_previous.as_ref();
        let again = again.and_then(|key| with_key(Some(key), outgoing.clone()));
        let again = again.map(|request| SecondTry {
            request,
            rotation: self.rotation.clone(),
            upstream: to.name.clone(),
        });
        let pending = self.pool(to).zip(with_key(to.api_key.as_ref(), outgoing));
        let limit = self.head_timeout;
        let was_sent = sent.clone();
        let answer = async move {
            let Some((pool, request)) = pending else {
                return Err(SendError::Connect);
            };
            // "Not sent" is certain knowledge: not a byte had been given away.
            let unless_unsent = |error| {
                if was_sent.load(Ordering::Acquire) {
                    error
                } else {
                    SendError::Connect
                }
            };
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
        Exchange::new(answer, sent)
    }

    /// Asks an upstream something that is no request of a user, and costs nothing: the way is the same, with the key in
    /// force. `path` follows its base URL.
    ///
    /// # Errors
    /// Why there is no answer, in plain words.
    pub async fn ask(
        &self,
        to: &UpstreamConfig,
        path: &str,
    ) -> Result<(StatusCode, Bytes), String> {
        let request = request::question(to, path)
            .ok_or("its address or a header cannot be written as HTTP")?;
        let pool = self.pool(to).ok_or("TLS cannot be set up")?;
        let limit = self.head_timeout;
        let answered = tokio::time::timeout(limit, pool.request(request))
            .await
            .map_err(|_| "no answer in time")?;
        let Answer { status, body, .. } = answered.map_err(|error| trouble(&*error))?;
        let deadline = tokio::time::Instant::now()
            .checked_add(limit)
            .unwrap_or_else(tokio::time::Instant::now);
        let body = answer::read(body, QUERY_ANSWER_BYTES_MAX, limit, deadline).await;
        let body = body.map_err(|_| "the answer broke off, or was longer than 4 MiB")?;
        Ok((status, body))
    }

    fn pool(&self, to: &UpstreamConfig) -> Option<Pool> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, pool)) = pools.iter().find(|(key, _)| key.is_of(to)) {
            return Some(pool.clone());
        }
        let key = PoolKey::of(to);
        let https = key.connector(self.connect_timeout);
        let https = https
            .inspect_err(
                |error| tracing::error!(%error, "TLS cannot be set up: no upstream can be reached"),
            )
            .ok()?;
        let pool = Pool::new(
            TimeoutConnector {
                inner: https,
                limit: self.connect_timeout,
            },
            to.keep_alive,
        );
        pools.push((key, pool.clone()));
        Some(pool)
    }

    /// Whether `upstream` failed lately, so that others are tried before it.
    #[must_use]
    pub fn is_tried_last(&self, upstream: &str, now: Timestamp) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(upstream)
            .is_some_and(|health| health.is_tried_last(now))
    }

    /// Notes that a request goes to `upstream`: it may be the probe of its breaker.
    pub fn record_dial(&self, upstream: &str, now: Timestamp) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(health) = seen.get_mut(upstream) {
            health.dialled(now);
        }
    }

    /// Notes that `upstream` answered as it should.
    pub fn record_ok(&self, upstream: &str, now: Timestamp) {
        self.note(upstream, |health| health.succeeded(now));
    }

    /// Notes that `upstream` failed a request of this user.
    pub fn record_failure(&self, upstream: &str, failure: Failure, user_id: Uuid, now: Timestamp) {
        self.note(upstream, |health| health.failed(failure, user_id, now));
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
    pub fn health(
        &self,
        upstreams: &[Arc<UpstreamConfig>],
        now: Timestamp,
    ) -> BTreeMap<String, Health> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |to: &Arc<UpstreamConfig>| {
            seen.get(&to.name)
                .map(|health| health.at(now))
                .unwrap_or_default()
        };
        upstreams
            .iter()
            .map(|to| (to.name.clone(), of(to)))
            .collect()
    }
}

/// What kept an answer away: the first cause is the one that says something (`Connection refused`).
fn trouble(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let what = if error.is::<std::io::Error>() {
        "the connection broke"
    } else {
        "cannot connect"
    };
    format!("{what}: {cause}")
}
