//! The HTTP client of the exporters, on our own runtime and TLS.
//!
//! The exporters run on threads without a runtime, so a task of ours makes the call and the thread waits for it. Every
//! call is bounded. An error is logged once, not once a batch.

use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use opentelemetry_http::HttpError;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::http_client::HttpClient;

/// How long a call to the collector may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long calls may take in all once the server stops.
const LAST_CALLS_TIMEOUT: Duration = Duration::from_millis(1500);
/// The longest answer of a collector that is read.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Two exporters, for traces and for metrics.
const IDLE_CONNECTIONS_MAX: usize = 2;

/// A client. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct CollectorClient(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: HttpClient,
    runtime: Handle,
    stopping: CancellationToken,
    deadline: OnceLock<Instant>,
    /// Calls in a row that failed.
    failures: AtomicU32,
}

impl CollectorClient {
    pub(super) fn new() -> Result<Self, String> {
        let runtime = Handle::try_current().map_err(|error| error.to_string())?;
        let client = HttpClient::new(BODY_BYTES_MAX, IDLE_CONNECTIONS_MAX)
            .map_err(|error| format!("TLS cannot be set up: {error}"))?;
        let inner = Inner {
            client,
            runtime,
            stopping: CancellationToken::new(),
            deadline: OnceLock::new(),
            failures: AtomicU32::new(0),
        };
        Ok(Self(Arc::new(inner)))
    }

    /// From here on calls end soon.
    pub(super) fn stop(&self) {
        let now = Instant::now();
        self.0
            .deadline
            .get_or_init(|| now.checked_add(LAST_CALLS_TIMEOUT).unwrap_or(now));
        self.0.stopping.cancel();
    }
}

impl Inner {
    async fn call(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = async {
            let (head, body) = self.client.send(request).await?.into_parts();
            let body = self.client.read(body).await?;
            Ok::<_, HttpError>(Response::from_parts(head, body))
        };
        let cut = async {
            self.stopping.cancelled().await;
            tokio::time::sleep_until(*self.deadline.get_or_init(Instant::now)).await;
        };
        tokio::select! {
            done = tokio::time::timeout(CALL_TIMEOUT, answer) => done.map_err(|_| "no answer in time")?,
            () = cut => Err("the server stops".into()),
        }
    }

    /// Tells of a failure, and of the end of a row of them. Never the URL or a header, which may hold a token.
    fn note(&self, outcome: &Result<Response<Bytes>, HttpError>) {
        let problem = match outcome {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answered {}", answer.status().as_u16())),
            Err(error) => Some(error.to_string()),
        };
        let Some(problem) = problem else {
            if self.failures.swap(0, Ordering::AcqRel) > 0 {
                tracing::info!("the collector takes traces and metrics again");
            }
            return;
        };
        let tries = self
            .failures
            .fetch_add(1, Ordering::AcqRel)
            .saturating_add(1);
        if tries.is_power_of_two() {
            tracing::warn!(
                error = problem,
                tries,
                "the collector does not take traces and metrics: they are dropped"
            );
        }
    }
}

impl opentelemetry_http::HttpClient for CollectorClient {
    fn send_bytes<'life0, 'async_trait>(
        &'life0 self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        let inner = self.0.clone();
        // Its owner is the exporter's thread, which waits for it.
        let call = self.0.runtime.spawn(async move {
            let outcome = inner.call(request).await;
            inner.note(&outcome);
            outcome
        });
        Box::pin(async move { call.await? })
    }
}
