//! Reservation → answer → Settlement: from the moment the upstream may have been told to the end of its answer.
//!
//! [`Dispatched`] owns the reservation and ends it exactly once, by what became of the request. Whatever happens to the
//! caller, the exchange goes on as `on_disconnect` says: [`Outliving`] takes it over before the answer's head, and the
//! metered body's end after it.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use tokio::time::Instant;

use super::Admitted;
use super::line::{Answered, Line};
use super::settle::{Open, Settle};
use crate::app::{App, Place};
use crate::config::{Config, OnDisconnect, UpstreamConfig};
use crate::error::{Code, Refusal};
use crate::ledger::Settlement;
use crate::meter::body::{self, End, Ended, Metered, Rest};
use crate::meter::compressed::is_compressed;
use crate::meter::{Fault, Measured, Meter, measure_json};
use crate::metrics::Outcome;
use crate::order::Order;
use crate::upstream::answer::{self, Answer};
use crate::upstream::health::Failure;
use crate::upstream::{Exchange, Names, Received, SendError};

/// The longest answer that is not a stream.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Sends an admitted request and answers the caller.
pub(super) async fn send(app: Arc<App>, admitted: Admitted, line: Line) -> Response {
    let Admitted { config, user_hash, order, mut reservation, upstream, place } = admitted;
    let mut line = line;
    let body = order.body(reservation.hold().output_cap, upstream.dialect, &user_hash);
    let traceparent = line.dispatched(&order, &upstream.name, &user_hash);
    let names = Names { request_id: reservation.id(), traceparent };
    let exchange = app.upstreams().send(&upstream, body, order.stream(), names);
    reservation.dispatched();
    let dispatched = Dispatched {
        sent: exchange.sent_flag(),
        app: app.clone(),
        deadline: after(config.proxy.total_timeout),
        config: config.clone(),
        upstream,
        order: Arc::new(order),
        caller_left: Arc::new(OnceLock::new()),
        first_byte_ms: Arc::new(AtomicI64::new(-1)),
        free: None,
        outcome: Outcome::Cancelled,
        open: Some(Open { reservation, line }),
        _place: place,
    };
    let caller_left = dispatched.caller_left.clone();
    Outliving { future: Some(Box::pin(dispatched.follow(exchange))), app, config, caller_left }.await
}

fn after(wait: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(wait).unwrap_or(now)
}

/// A completion, with room for the headers that are added on its way out.
fn completion<const N: usize>(headers: [(HeaderName, &'static str); N], body: Body) -> Response {
    let mut response = Response::new(body);
    let written = response.headers_mut();
    written.reserve(8);
    for (name, value) in headers {
        written.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// A request that the upstream may have been told.
struct Dispatched {
    app: Arc<App>,
    config: Arc<Config>,
    upstream: Arc<UpstreamConfig>,
    order: Arc<Order>,
    /// The upstream may have the request.
    sent: Arc<AtomicBool>,
    /// When the caller left, if so.
    caller_left: Arc<OnceLock<Instant>>,
    /// Milliseconds from the request to the first byte for the caller; negative before it.
    first_byte_ms: Arc<AtomicI64>,
    /// The end of everything.
    deadline: Instant,
    /// How it ends, now that the upstream has refused it; also if the caller leaves before it is told.
    free: Option<Settlement>,
    /// How the upstream did; that the caller left, as long as nothing else is known.
    outcome: Outcome,
    open: Option<Open>,
    _place: Place,
}

impl Dispatched {
    /// Waits for the answer and ends the request, or hands it to the body that streams.
    async fn follow(self, exchange: Exchange) -> Response {
        match exchange.await {
            Ok(answer) if answer.status != StatusCode::OK => self.refused(answer).await,
            Ok(answer) if !answer.encoding_ok() => self.encoded(),
            Ok(answer) if !answer.is_event_stream() => self.whole(answer).await,
            Ok(answer) if self.order.stream() => self.stream(answer),
            Ok(_) => self.nonsense(Measured::default()),
            Err(error) => self.unanswered(error),
        }
    }

    /// There is no answer: nothing was sent, or nobody knows what became of it.
    fn unanswered(mut self, error: SendError) -> Response {
        self.health(Some(error.failure()));
        let settlement = match error {
            SendError::Connect => Settlement::void().flag("not_connected"),
            SendError::TimedOut => Settlement::lost().flag("timeout"),
            SendError::Broken => Settlement::lost().flag("cut"),
        };
        self.refuse(error.refusal(), settlement)
    }

    /// An answer other than 200.
    async fn refused(mut self, answer: Answer) -> Response {
        self.free = free(answer.status);
        let refused = answer.refusal(&self.upstream, self.app.clock.now()).await;
        self.health(refused.failure);
        match self.free.take() {
            Some(settlement) => self.refuse(refused.refusal, settlement),
            None => self.estimate_and_refuse(refused.refusal, Measured::default(), "nonsense"),
        }
    }

    /// A 200 that is not what was asked for.
    fn nonsense(mut self, measured: Measured) -> Response {
        self.health(Some(Failure::Error));
        let message = "The model's provider answered something that is not what was asked for.";
        self.estimate_and_refuse(Refusal::new(Code::UpstreamError, message), measured, "nonsense")
    }

    /// An answer that is compressed although that was not asked for, whether or not it says so: what it used is hidden in it, so all counts as used.
    fn encoded(self) -> Response {
        self.nonsense(Measured { text_overflow: true, ..Measured::default() })
    }

    /// A completion in one piece.
    async fn whole(mut self, answer: Answer) -> Response {
        let idle = self.config.proxy.idle_timeout;
        let body = match answer::read(answer.body, ANSWER_BYTES_MAX, idle, self.deadline).await {
            Ok(body) => body,
            Err(error) => {
                // A whole answer is generated before it is sent: what it cost is not known from the part that came.
                self.health(Some(Failure::Broken));
                return self.refuse(error.refusal(), Settlement::lost().flag("cut"));
            }
        };
        if is_compressed(&body) {
            return self.encoded();
        }
        let measured = measure_json(&body);
        if !measured.is_completion || self.order.stream() {
            return self.nonsense(measured);
        }
        self.health(None);
        self.mark_first_byte();
        let flags: &[&str] = if self.caller_left.get().is_some() { &["cancelled"] } else { &[] };
        self.finish(measured, flags);
        let headers = [
            (header::CONTENT_TYPE, "application/json"),
            (header::CACHE_CONTROL, "no-store"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ];
        completion(headers, Body::from(body))
    }

    /// A completion as a stream of events.
    fn stream(self, answer: Answer) -> Response {
        let limits = body::Limits { idle_timeout: self.config.proxy.idle_timeout, deadline: self.deadline };
        let meter = Meter::new(self.order.wants_usage());
        let first_byte = self.first_byte_ms.clone();
        let so_far = self.elapsed_ms();
        let since = Instant::now();
        let on_first = move || {
            let waited = i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX);
            first_byte.store(so_far.saturating_add(waited), Ordering::Relaxed);
        };
        let metered = Metered::new(answer.body, meter, limits, move |ended| self.streamed(ended)).on_first(on_first);
        let headers = [
            (header::CONTENT_TYPE, "text/event-stream"),
            (header::CACHE_CONTROL, "no-cache, no-transform"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (HeaderName::from_static("x-accel-buffering"), "no"),
        ];
        completion(headers, Body::new(metered))
    }

    /// The stream has ended, or its caller has left it.
    fn streamed(mut self, ended: Ended<Received>) {
        match (ended.end, ended.rest) {
            (End::Complete, _) => {
                self.health(None);
                self.finish(ended.measured, &[]);
            }
            (End::Failed, _) => {
                self.health(Some(Failure::Broken));
                let flag = if ended.fault == Some(Fault::Compressed) { "nonsense" } else { "cut" };
                self.finish(ended.measured, &[flag]);
            }
            (End::Cancelled, Some(rest)) if self.config.proxy.on_disconnect == OnDisconnect::Drain => {
                let app = self.app.clone();
                app.work.spawn(self.drain(rest));
            }
            (End::Cancelled, _) => self.finish(ended.measured, &["cancelled"]),
        }
    }

    /// Reads a left stream on to its end, for its usage; at most until `drain_timeout` after the caller left.
    async fn drain(mut self, rest: Rest<Received>) {
        let left = *self.caller_left.get_or_init(Instant::now);
        let until = left.checked_add(self.config.proxy.drain_timeout).unwrap_or(left).min(self.deadline);
        let cut = self.app.cut.clone();
        let idle = self.config.proxy.idle_timeout;
        let limits = body::Limits { idle_timeout: idle, deadline: until };
        let (end, measured) = body::drain(rest, limits, cut.cancelled()).await;
        let flags: &[&str] = if end == End::Failed { &["cancelled", "cut"] } else { &["cancelled"] };
        self.finish(measured, flags);
    }

    /// Ends the hold by what was measured: the upstream's own usage, or an estimate.
    fn finish(&mut self, measured: Measured, flags: &[&'static str]) {
        self.settle(measured, flags, (200, None));
    }

    /// Ends the hold as estimated and tells the caller that it failed.
    fn estimate_and_refuse(mut self, refusal: Refusal, measured: Measured, flag: &'static str) -> Response {
        self.settle(measured, &[flag], (refusal.status().as_u16(), Some(refusal.code)));
        refusal.into_response()
    }

    fn settle(&mut self, measured: Measured, flags: &[&'static str], told: (u16, Option<Code>)) {
        let Some(open) = self.open.take() else { return };
        self.count();
        let (config, order) = (self.config.clone(), self.order.clone());
        let settle = Settle { config, order, measured, ttft_ms: self.ttft_ms(), flags: flags.to_vec(), told };
        settle.run(open, &self.app);
    }

    /// Ends the hold as it is known to end and tells the caller that it failed.
    fn refuse(&mut self, refusal: Refusal, settlement: Settlement) -> Response {
        if let Some(Open { reservation, line }) = self.open.take() {
            let told = Answered { status: refusal.status().as_u16(), code: Some(refusal.code) };
            line.ended(told, &reservation.hold(), &settlement);
            self.count();
            reservation.end(settlement);
        }
        refusal.into_response()
    }

    /// What the upstream's health and the metrics are told.
    fn health(&mut self, failure: Option<Failure>) {
        let now = self.app.clock.now();
        self.outcome = failure.map_or(Outcome::Ok, Outcome::Failed);
        match failure {
            None => self.app.upstreams().record_ok(&self.upstream.name, now),
            Some(failure) => self.app.upstreams().record_failure(&self.upstream.name, failure, now),
        }
    }

    /// Counts the request at its upstream: at the one place where it ends.
    fn count(&self) {
        self.app.metrics.upstream(&self.upstream.name, self.outcome);
    }

    fn elapsed_ms(&self) -> i64 {
        self.open.as_ref().map_or(0, |open| open.line.elapsed_ms())
    }

    fn mark_first_byte(&self) {
        self.first_byte_ms.store(self.elapsed_ms(), Ordering::Relaxed);
    }

    fn ttft_ms(&self) -> Option<i64> {
        Some(self.first_byte_ms.load(Ordering::Relaxed)).filter(|ms| *ms >= 0)
    }
}

/// The end of a request that the upstream refused by this status; none if something may have run (202, 204, …).
fn free(status: StatusCode) -> Option<Settlement> {
    if status.is_client_error() {
        return Some(Settlement::refused_upstream());
    }
    Some(Settlement::void().flag("upstream_failed")).filter(|_| !status.is_success())
}

impl Drop for Dispatched {
    /// Given up before the head of an answer (or in the middle of one that is no stream): the caller left, and the drain
    /// took too long, or `abort` says so, or the server stops. Estimated from the prompt: nothing was delivered.
    fn drop(&mut self) {
        if self.open.is_none() {
            return;
        }
        if let Some(settlement) = self.free.take() {
            drop(self.refuse(Refusal::new(Code::UpstreamError, "cancelled"), settlement.flag("cancelled")));
        } else if !self.sent.load(Ordering::Acquire) {
            drop(self.refuse(Refusal::new(Code::UpstreamError, "cancelled"), Settlement::void().flag("cancelled")));
        } else {
            self.finish(Measured::default(), &["cancelled"]);
        }
    }
}

/// A future that its caller's leaving does not end: dropped unfinished, it goes on in a task of the app, until
/// `drain_timeout` or the server's end; with `abort` it is dropped at once.
struct Outliving {
    future: Option<Pin<Box<dyn Future<Output = Response> + Send>>>,
    app: Arc<App>,
    config: Arc<Config>,
    caller_left: Arc<OnceLock<Instant>>,
}

impl Future for Outliving {
    type Output = Response;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Response> {
        let Some(future) = self.future.as_mut() else { return Poll::Pending };
        let done = future.as_mut().poll(context);
        if done.is_ready() {
            self.future = None;
        }
        done
    }
}

impl Drop for Outliving {
    fn drop(&mut self) {
        let Some(future) = self.future.take() else { return };
        self.caller_left.get_or_init(Instant::now);
        if self.config.proxy.on_disconnect == OnDisconnect::Abort {
            return;
        }
        let (limit, cut) = (self.config.proxy.drain_timeout, self.app.cut.clone());
        self.app.work.spawn(async move {
            tokio::select! {
                () = cut.cancelled() => {}
                // A stream that begins only now is dropped, and with that drained on.
                done = tokio::time::timeout(limit, future) => drop(done),
            }
        });
    }
}
