//! Reservation → answer → Settlement: from the moment the upstream may have been told to the end of its answer.
//!
//! [`Dispatched`] owns the reservation and ends it exactly once, by what became of the request. Whatever happens to the
//! caller, the exchange goes on as `on_disconnect` says: [`Outliving`] takes it over before the answer's head, and the
//! metered body's end after it.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use tokio::time::Instant;
use uuid::Uuid;

use super::Admitted;
use super::anthropic;
use super::bill::Bill;
use super::byte_stream::ByteStream;
use super::heads;
use super::outliving::Outliving;
use super::replay;
use super::request_context::{Alternatives, ReservedOrder};
use super::request_log::{Reported, RequestLog};
use super::settle::{self, Basis, End, Leaver, Progress, Verdict};
use crate::answers::KeyHandle;
use crate::app::{App, Place};
use crate::clock::Timestamp;
use crate::config::{Config, UpstreamConfig};
use crate::endpoint::{Endpoint, Reader, Spec};
use crate::error::Refusal;
use crate::ledger::{Charge, Flag, Reservation};
use crate::meter::Measured;
use crate::meter::ahead::Ahead;
use crate::observe::metrics::UpstreamOutcome;
use crate::upstream::rejection::{Rejection, Work};
use crate::upstream::{Exchange, Names, Outgoing, UpstreamBody};

/// Sends an admitted request and answers the caller.
pub(super) async fn send(app: Arc<App>, admitted: Admitted, log: RequestLog) -> Response {
    let Admitted {
        config,
        user_hash,
        spec,
        reserved,
        betas,
        turn,
    } = admitted;
    let ReservedOrder {
        order,
        reservation,
        candidate,
        place,
        alternatives,
    } = reserved;
    let mut log = log;
    log.held(app.clock.now().since(reservation.started_at()));
    let mut dispatched = Dispatched {
        sent: Arc::default(),
        refusing: Arc::default(),
        app: app.clone(),
        deadline: after(config.proxy.total_timeout),
        config: config.clone(),
        upstream: candidate.upstream,
        spec,
        order: Arc::from(order),
        user_hash,
        caller_left: Arc::new(OnceLock::new()),
        first_byte_ms: Arc::new(AtomicI64::new(-1)),
        refused_work: None,
        past_work: None,
        betas,
        id: reservation.id(),
        held_at: reservation.started_at(),
        key: turn.as_ref().map(|turn| turn.run.key()),
        open: Some(Open { reservation, log }),
        alternatives,
        is_fallback: !candidate.is_first,
        place: Some(place),
    };
    let Some(exchange) = dispatched.dial() else {
        return heads::stopped();
    };
    if let Some(turn) = turn {
        let cut = app.cut.clone();
        let exchange = dispatched.follow(exchange);
        app.work
            .spawn(turn.run.drive(exchange, heads::stopped, cut));
        return replay::first(&app, turn.caller).await;
    }
    let caller_left = dispatched.caller_left.clone();
    let (sent, refusing) = (dispatched.sent.clone(), dispatched.refusing.clone());
    let works_on = dispatched.order.works_on();
    Outliving {
        future: Some(Box::pin(dispatched.follow(exchange))),
        app,
        config,
        caller_left,
        sent,
        refusing,
        works_on,
    }
    .await
}

fn after(wait: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(wait).unwrap_or(now)
}

/// What is owed once for every request: the end of its hold, and its log line.
pub(super) struct Open {
    pub(super) reservation: Reservation,
    pub(super) log: RequestLog,
}

/// A request that the upstream may have been told.
pub(super) struct Dispatched {
    pub(super) app: Arc<App>,
    pub(super) config: Arc<Config>,
    pub(super) upstream: Arc<UpstreamConfig>,
    pub(super) spec: &'static Spec,
    pub(super) order: Arc<dyn Endpoint>,
    /// What OpenAI knows the user by.
    user_hash: String,
    /// The upstream may have the request.
    pub(super) sent: Arc<AtomicBool>,
    /// It refuses, and is about to say why: what it bills stands in the body, which takes seconds at most.
    refusing: Arc<AtomicBool>,
    /// When the caller left, if so.
    pub(super) caller_left: Arc<OnceLock<Instant>>,
    /// Milliseconds from the hold to the first byte for the caller; negative before it.
    pub(super) first_byte_ms: Arc<AtomicI64>,
    /// The end of everything.
    pub(super) deadline: Instant,
    /// How much of the work was done by the status of an answer that is a refusal; also if the caller leaves before it
    /// is told.
    pub(super) refused_work: Option<Work>,
    /// The same of the upstream that was asked before this one.
    past_work: Option<Work>,
    /// What the caller asks for of Anthropic's API.
    betas: String,
    id: Uuid,
    /// When its hold was asked for: what a row counts from.
    pub(super) held_at: Timestamp,
    /// The request may be sent again by this key, and its answer is kept.
    pub(super) key: Option<KeyHandle>,
    pub(super) open: Option<Open>,
    /// Who else may be asked.
    pub(super) alternatives: Option<Box<Alternatives>>,
    /// It was not the first of the settings that was asked last.
    pub(super) is_fallback: bool,
    pub(super) place: Option<Place>,
}

/// An answer that can be given to the caller.
enum Ready {
    Whole(Response),
    Stream(Box<Ahead<UpstreamBody>>),
    Bytes(Box<ByteStream>),
}

/// What became of a request that has no answer, and what was seen of it.
pub(super) type Failed = Box<(End, Measured)>;

pub(super) fn failed(end: End) -> Failed {
    Box::new((end, Measured::default()))
}

impl Dispatched {
    /// Sends the request to the upstream that its hold was made for. None once it has ended.
    pub(super) fn dial(&mut self) -> Option<Exchange> {
        let Open { reservation, log } = self.open.as_mut()?;
        let (to, upstreams) = (&self.upstream, self.app.upstreams());
        let cap = reservation.hold().output_cap;
        let outgoing = Outgoing {
            path: self.spec.upstream_path,
            body: self.order.body(cap, to.manner, &self.user_hash),
            content_type: self.order.content_type(),
            stream: self.order.stream(),
            anthropic_beta: anthropic::passing(self.spec, &self.betas, to),
        };
        let names = Names {
            request_id: reservation.id(),
            traceparent: log.dispatched(&*self.order, &to.name, &self.user_hash),
        };
        upstreams.record_dial(&to.name, self.app.clock.now());
        let exchange = upstreams.send_as(to, outgoing, (names, self.sent.clone()));
        reservation.dispatched();
        self.past_work = self.refused_work.take().or(self.past_work);
        self.refusing.store(false, Ordering::Release);
        Some(exchange)
    }

    /// Waits for the answer and ends the request, or hands it to the body that streams. Where an upstream did nothing,
    /// the next is asked.
    async fn follow(mut self, exchange: Exchange) -> Response {
        let mut exchange = exchange;
        loop {
            let (end, measured) = match self.answer(exchange).await {
                Ok(Ready::Whole(response)) => return response,
                Ok(Ready::Stream(ahead)) => return self.stream(*ahead),
                Ok(Ready::Bytes(bytes)) => return self.bytes(*bytes),
                Err(failed) => *failed,
            };
            let may_fall_back = settle::did_nothing(&end) && self.is_waited_for();
            let verdict = settle::verdict(end, &measured);
            self.record(verdict.upstream);
            exchange = match self.fall_back_if(may_fall_back).await {
                Some(next) => next,
                None => return self.refuse(verdict, measured),
            };
        }
    }

    async fn fall_back_if(&mut self, may_fall_back: bool) -> Option<Exchange> {
        if may_fall_back {
            self.fall_back().await
        } else {
            None
        }
    }

    /// Somebody is to get the answer.
    fn is_waited_for(&self) -> bool {
        self.caller_left.get().is_none() && !self.app.cut.is_cancelled()
    }

    /// The answer of the upstream that is asked, or why there is none.
    async fn answer(&mut self, exchange: Exchange) -> Result<Ready, Failed> {
        let answer = exchange
            .await
            .map_err(|error| failed(End::Unanswered(error)))?;
        if answer.status != StatusCode::OK {
            self.refused_work = settle::work_by_status(answer.status);
            self.refusing.store(true, Ordering::Release);
            let now = self.app.clock.now();
            let rejection = Rejection::read(answer, &self.upstream, now).await;
            return Err(failed(End::Refused(rejection)));
        }
        // Compressed although that was not asked for.
        if !answer.encoding_ok() {
            return Err(failed(End::Nonsense));
        }
        // In whatever form it comes, it is delivered in the one that was asked for.
        match self.order.reader(self.id) {
            Reader::Stream(meter) => {
                let ahead = self.look_ahead(answer, *meter).await?;
                Ok(Ready::Stream(Box::new(ahead)))
            }
            Reader::Whole(read) => self.whole(answer, read).await.map(Ready::Whole),
            Reader::Bytes(expected) => {
                let bytes = self.check_bytes(answer, expected).await?;
                Ok(Ready::Bytes(Box::new(bytes)))
            }
        }
    }

    /// Ends the hold, and tells the caller why there is no answer.
    fn refuse(&mut self, verdict: Verdict, measured: Measured) -> Response {
        let hides = self.order.prompt_version().is_some();
        match self.close(verdict, measured) {
            Some(refusal) if hides => refusal.without_quotes().into_response(),
            refusal => refusal.map_or_else(heads::stopped, IntoResponse::into_response),
        }
    }

    /// Ends the hold by what became of the request, once. What the caller is to be told in place of an answer.
    pub(super) fn end(&mut self, end: End, measured: Measured) -> Option<Refusal> {
        self.open.as_ref()?;
        let verdict = settle::verdict(end, &measured);
        self.record(verdict.upstream);
        self.close(verdict, measured)
    }

    fn close(&mut self, verdict: Verdict, measured: Measured) -> Option<Refusal> {
        let Open { reservation, log } = self.open.take()?;
        let Verdict {
            basis,
            mut flags,
            reported,
            refusal,
            ..
        } = verdict;
        flags.extend(self.is_fallback.then_some(Flag::Fallback));
        let basis = basis.of(&*self.order);
        let bill = Bill {
            order: self.order.clone(),
            measured,
            basis,
            flags,
            ttft_ms: self.ttft_ms(),
        };
        let is_free = matches!(basis, Basis::Fixed(Charge::Voided { .. }));
        let needs_count = bill.needs_count();
        let close = move || close(Open { reservation, log }, &bill, reported);
        if needs_count {
            self.app.work.spawn_blocking(close);
        } else {
            close();
        }
        // Only now: the next request with the key finds this one ended.
        if let Some(key) = self.key.as_ref().filter(|_| is_free) {
            key.free();
        }
        refusal
    }

    /// What the upstream's health and the metrics are told, once for each that was asked.
    fn record(&self, outcome: UpstreamOutcome) {
        let Some(Open { reservation, .. }) = &self.open else {
            return;
        };
        let user_id = reservation.user_id();
        let (name, now) = (&self.upstream.name, self.app.clock.now());
        let upstreams = self.app.upstreams();
        match outcome {
            UpstreamOutcome::Ok => upstreams.record_ok(name, now),
            UpstreamOutcome::Failed(failure) => {
                upstreams.record_failure(name, failure, user_id, now);
            }
            UpstreamOutcome::Cancelled => {}
        }
        self.app.metrics.upstream(name, outcome);
    }

    pub(super) fn mark_first_byte(&self) {
        let waited = self.app.clock.now().since(self.held_at);
        self.first_byte_ms.store(millis(waited), Ordering::Relaxed);
    }

    /// Why nobody waits any more.
    pub(super) fn leaver(&self) -> Leaver {
        if self.caller_left.get().is_none() && self.app.cut.is_cancelled() {
            Leaver::Server
        } else {
            Leaver::Caller
        }
    }

    fn ttft_ms(&self) -> Option<i64> {
        Some(self.first_byte_ms.load(Ordering::Relaxed)).filter(|ms| *ms >= 0)
    }
}

pub(super) fn millis(wait: Duration) -> i64 {
    i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)
}

/// Ends the hold, writes the log line, and counts.
fn close(open: Open, bill: &Bill, reported: Reported) {
    let Open {
        reservation,
        mut log,
    } = open;
    let settlement = bill.settlement(&reservation.hold());
    if settlement.flags.contains(&Flag::Overrun) {
        tracing::error!(request_id = %reservation.id(), "the upstream reports more than it was capped to");
    }
    if let Some(model) = &bill.measured.model {
        log.answered_by(model);
    }
    log.ended(reported, &reservation.hold(), &settlement);
    reservation.end(settlement);
}

impl Drop for Dispatched {
    /// Given up before the head of an answer (or in the middle of one that is no stream): the caller left, and the drain
    /// took too long, or `abort` says so, or the server stops.
    fn drop(&mut self) {
        if self.open.is_none() {
            return;
        }
        let progress = match self.refused_work {
            Some(work) => Progress::Refused(work),
            None if self.sent.load(Ordering::Acquire) => Progress::Sent,
            None => self.past_work.map_or(Progress::Unsent, Progress::Refused),
        };
        let end = End::Abandoned(self.leaver(), progress);
        drop(self.end(end, Measured::default()));
    }
}
