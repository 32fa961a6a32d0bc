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
use super::settle::{Open, Settle, Unreported};
use crate::app::{App, Place};
use crate::clock::Timestamp;
use crate::config::{Config, OnDisconnect, UpstreamConfig};
use crate::error::{Code, Refusal};
use crate::ledger::Settlement;
use crate::meter::body::{self, End, Ended, Metered, Rest};
use crate::meter::compressed::is_compressed;
use crate::meter::whole::{self, Whole};
use crate::meter::{Fault, Measured, Meter};
use crate::metrics::Outcome;
use crate::order::Order;
use crate::upstream::answer::{self, Answer, Refused, Work};
use crate::upstream::health::Failure;
use crate::upstream::{Exchange, Names, Received, SendError};

/// The longest answer that is not a stream.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Sends an admitted request and answers the caller.
pub(super) async fn send(app: Arc<App>, admitted: Admitted, line: Line) -> Response {
    let Admitted { config, user_hash, order, mut reservation, upstream, place } = admitted;
    let mut line = line;
    let body = order.body(reservation.hold().output_cap, upstream.manner, &user_hash);
    line.held(app.clock.now().since(reservation.started_at()));
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
        known: None,
        outcome: Outcome::Cancelled,
        held_at: reservation.started_at(),
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
    /// Milliseconds from the hold to the first byte for the caller; negative before it.
    first_byte_ms: Arc<AtomicI64>,
    /// The end of everything.
    deadline: Instant,
    /// How it ends by the status of its answer; also if the caller leaves before it is told.
    known: Option<Settlement>,
    /// How the upstream did; that the caller left, as long as nothing else is known.
    outcome: Outcome,
    /// When its hold was asked for: what a row counts from.
    held_at: Timestamp,
    open: Option<Open>,
    _place: Place,
}

impl Dispatched {
    /// Waits for the answer and ends the request, or hands it to the body that streams.
    async fn follow(self, exchange: Exchange) -> Response {
        match exchange.await {
            Ok(answer) if answer.status != StatusCode::OK => self.refused(answer).await,
            // Compressed although that was not asked for.
            Ok(answer) if !answer.encoding_ok() => self.nonsense(),
            // In whatever form it comes, it is delivered in the one that was asked for.
            Ok(answer) if self.order.stream() => self.stream(answer),
            Ok(answer) => self.whole(answer).await,
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
        self.known = known(answer.status);
        let refused = answer.refusal(&self.upstream, self.app.clock.now()).await;
        self.end_refused(refused)
    }

    /// Ends the hold by how much the upstream had done.
    fn end_refused(mut self, refused: Refused) -> Response {
        let Refused { refusal, work, failure, advice } = refused;
        self.health(failure);
        let settlement = match work {
            Work::Refused => Settlement::refused_upstream(),
            Work::Failed => Settlement::void().flag("upstream_failed"),
            Work::Unknown => Settlement::lost().flag("refused_late"),
            Work::TimedOut => Settlement::lost().flag("timeout"),
            Work::Prompt => return self.estimate_and_refuse(refusal, Unreported::Prompt, "content_filter"),
            Work::Output => return self.estimate_and_refuse(refusal, Unreported::Hold, "content_filter"),
            Work::Strange => return self.estimate_and_refuse(refusal, Unreported::Hold, "nonsense"),
        };
        let settlement = advice.iter().fold(settlement, |settlement, advice| settlement.flag(advice.flag));
        self.refuse(refusal, settlement)
    }

    /// A 200 that is not what was asked for: what it used is hidden in it.
    fn nonsense(mut self) -> Response {
        self.health(Some(Failure::Error));
        let message = "The model's provider answered something that is not what was asked for.";
        self.estimate_and_refuse(Refusal::new(Code::UpstreamError, message), Unreported::Hold, "nonsense")
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
            return self.nonsense();
        }
        if let Some(refused) = answer::error_in(&body, &self.upstream) {
            return self.end_refused(refused);
        }
        let Whole { measured, body } = whole::read(body);
        let body = match body {
            Ok(body) => body,
            Err(Fault::Upstream) if is_empty(&measured) => return self.end_refused(Refused::failed()),
            Err(_) => return self.nonsense(),
        };
        self.health(None);
        self.mark_first_byte();
        let flags: &[&str] = if self.caller_left.get().is_some() { &["cancelled"] } else { &[] };
        self.finish(measured, Unreported::Seen, flags);
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
        let (first_byte, clock, held_at) = (self.first_byte_ms.clone(), self.app.clock.clone(), self.held_at);
        let on_first = move || first_byte.store(millis(clock.now().since(held_at)), Ordering::Relaxed);
        let cut = self.app.cut.clone();
        let metered = Metered::new(answer.body, meter, limits, move |ended| self.streamed(ended));
        let metered = metered.on_first(on_first).until(cut);
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
        let Ended { end, fault, measured, rest } = ended;
        match (end, rest) {
            (End::Complete, _) => {
                self.health(None);
                self.finish(measured, Unreported::Seen, &[]);
            }
            (End::Failed, _) => self.failed(fault.unwrap_or(Fault::Broken), measured, &[]),
            (End::Cancelled, Some(rest)) if self.drains() => {
                let app = self.app.clone();
                app.work.spawn(self.drain(rest));
            }
            (End::Cancelled, _) => {
                let (flag, part) = (self.given_up().0, of_part(&measured));
                self.finish(measured, part, &[flag]);
            }
        }
    }

    /// Whether a stream that its caller left is read on.
    fn drains(&self) -> bool {
        self.config.proxy.on_disconnect == OnDisconnect::Drain && !self.app.cut.is_cancelled()
    }

    /// The stream has failed before its end.
    fn failed(&mut self, fault: Fault, measured: Measured, flags: &[&'static str]) {
        let part = of_part(&measured);
        if fault == Fault::Stopped {
            return self.finish(measured, part, &[flags, &["shutdown"]].concat());
        }
        let failure = if fault == Fault::Upstream { Failure::Error } else { Failure::Broken };
        self.health(Some(failure));
        if fault == Fault::Upstream && is_empty(&measured) {
            let settlement = Settlement::void().flag("upstream_failed").first_byte_after(self.ttft_ms());
            let settlement = flags.iter().copied().fold(settlement, Settlement::flag);
            drop(self.refuse(fault.refusal(), settlement));
            return;
        }
        let flag = if fault == Fault::Compressed { "nonsense" } else { "cut" };
        self.finish(measured, part, &[flags, &[flag]].concat());
    }

    /// Reads a left stream on to its end, for its usage; at most until `drain_timeout` after the caller left.
    async fn drain(mut self, rest: Rest<Received>) {
        let left = *self.caller_left.get_or_init(Instant::now);
        let until = left.checked_add(self.config.proxy.drain_timeout).unwrap_or(left).min(self.deadline);
        let cut = self.app.cut.clone();
        let idle = self.config.proxy.idle_timeout;
        let limits = body::Limits { idle_timeout: idle, deadline: until };
        let (fault, measured) = body::drain(rest, limits, cut.cancelled()).await;
        let part = of_part(&measured);
        match fault {
            None => self.finish(measured, Unreported::Seen, &["cancelled"]),
            Some(Fault::Upstream) => self.failed(Fault::Upstream, measured, &["cancelled"]),
            // What ended it was our own patience: that is no news of the upstream.
            Some(_) => self.finish(measured, part, &["cancelled", "cut"]),
        }
    }

    /// Ends the hold by what was measured: the upstream's own usage, or what is charged without it.
    fn finish(&mut self, measured: Measured, unreported: Unreported, flags: &[&'static str]) {
        self.settle((measured, unreported), flags, (200, None));
    }

    /// Ends the hold as estimated and tells the caller that it failed.
    fn estimate_and_refuse(mut self, refusal: Refusal, unreported: Unreported, flag: &'static str) -> Response {
        let told = (refusal.status().as_u16(), Some(refusal.code));
        self.settle((Measured::default(), unreported), &[flag], told);
        refusal.into_response()
    }

    fn settle(
        &mut self,
        (measured, unreported): (Measured, Unreported),
        flags: &[&'static str],
        told: (u16, Option<Code>),
    ) {
        let Some(open) = self.open.take() else { return };
        self.count();
        let (order, ttft_ms, flags) = (self.order.clone(), self.ttft_ms(), flags.to_vec());
        Settle { order, measured, unreported, ttft_ms, flags, told }.run(open, &self.app);
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

    fn mark_first_byte(&self) {
        let waited = self.app.clock.now().since(self.held_at);
        self.first_byte_ms.store(millis(waited), Ordering::Relaxed);
    }

    /// Why nobody waits any more, and what the log says that was told: the caller left, or the server stops.
    fn given_up(&self) -> (&'static str, (u16, Option<Code>)) {
        if self.caller_left.get().is_none() && self.app.cut.is_cancelled() {
            return ("shutdown", (Code::Overloaded.status(), Some(Code::Overloaded)));
        }
        ("cancelled", (200, None))
    }

    fn ttft_ms(&self) -> Option<i64> {
        Some(self.first_byte_ms.load(Ordering::Relaxed)).filter(|ms| *ms >= 0)
    }
}

fn millis(wait: Duration) -> i64 {
    i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)
}

/// The end of a request by the status of its answer alone; none if something may have run (202, 204, …).
fn known(status: StatusCode) -> Option<Settlement> {
    match status.as_u16() {
        408 | 504 | 524 => Some(Settlement::lost().flag("timeout")),
        424 | 499 => Some(Settlement::lost().flag("refused_late")),
        400..500 => Some(Settlement::refused_upstream()),
        200..300 => None,
        _ => Some(Settlement::void().flag("upstream_failed")),
    }
}

/// Nothing of an answer was seen.
fn is_empty(measured: &Measured) -> bool {
    measured.usage.is_none() && measured.text.is_empty() && !measured.text_overflow
}

/// What is charged for a part of a stream: without any text of it, nobody knows what was generated.
fn of_part(measured: &Measured) -> Unreported {
    if measured.text.is_empty() { Unreported::Hold } else { Unreported::Seen }
}

/// What a caller is told whose request the stopping server does not finish.
fn stopping() -> Refusal {
    Refusal::new(Code::Overloaded, "The server is stopping; try again in a moment.")
}

impl Drop for Dispatched {
    /// Given up before the head of an answer (or in the middle of one that is no stream): the caller left, and the drain
    /// took too long, or `abort` says so, or the server stops. Nothing was delivered, so nobody knows what was generated.
    fn drop(&mut self) {
        if self.open.is_none() {
            return;
        }
        let (flag, told) = self.given_up();
        let known = self.known.take();
        let unsent = || (!self.sent.load(Ordering::Acquire)).then(Settlement::void);
        match known.or_else(unsent) {
            Some(settlement) => {
                let refusal = if flag == "shutdown" { stopping() } else { Refusal::new(Code::UpstreamError, flag) };
                drop(self.refuse(refusal, settlement.flag(flag)));
            }
            None => self.settle((Measured::default(), Unreported::Hold), &[flag], told),
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
            return done;
        }
        // The connection's task is woken when the grace is over, and with it this.
        if self.app.cut.is_cancelled() {
            self.future = None;
            return Poll::Ready(stopping().into_response());
        }
        Poll::Pending
    }
}

impl Drop for Outliving {
    fn drop(&mut self) {
        let Some(future) = self.future.take() else { return };
        // A connection that the stopping server closes was not left by its caller.
        if !self.app.cut.is_cancelled() {
            self.caller_left.get_or_init(Instant::now);
        }
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
