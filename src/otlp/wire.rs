//! The HTTP client of the exporters, on our own runtime and TLS.
//!
//! The exporters run on threads of their own that know no runtime, so a call is carried out by a task of ours and waited
//! for from there. Every call is bounded, and what goes wrong is told once, not once a batch.

use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use opentelemetry_http::{HttpClient, HttpError};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a call to the collector may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long calls may take in all once the server stops.
const LAST_CALLS_TIMEOUT: Duration = Duration::from_millis(1500);
/// The longest answer of a collector that is read.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// How long an idle connection is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// A client. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Wire(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    runtime: Handle,
    stopping: CancellationToken,
    deadline: OnceLock<Instant>,
    /// Calls in a row that failed.
    failures: AtomicU32,
}

impl Wire {
    pub(super) fn new() -> Result<Self, String> {
        let runtime = Handle::try_current().map_err(|error| error.to_string())?;
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(rustls::crypto::aws_lc_rs::default_provider())
            .map_err(|error| format!("TLS cannot be set up: {error}"))?
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEEP_ALIVE)
            .build(connector);
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
        self.0.deadline.get_or_init(|| now.checked_add(LAST_CALLS_TIMEOUT).unwrap_or(now));
        self.0.stopping.cancel();
    }
}

impl Inner {
    async fn call(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = async {
            let (head, body) = self.client.request(request.map(Full::new)).await?.into_parts();
            let body = Limited::new(body, BODY_BYTES_MAX).collect().await?;
            Ok::<_, HttpError>(Response::from_parts(head, body.to_bytes()))
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
        let tries = self.failures.fetch_add(1, Ordering::AcqRel).saturating_add(1);
        if tries.is_power_of_two() {
            tracing::warn!(error = problem, tries, "the collector does not take traces and metrics: they are dropped");
        }
    }
}

impl HttpClient for Wire {
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
