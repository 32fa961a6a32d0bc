//! An answer as a stream of events: looked into before it is given away, where another could still be asked, and read on
//! when its caller leaves it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use tokio::time::Instant;

use super::dispatch::{Dispatched, millis};
use super::heads;
use super::settle::{self, End};
use crate::config::OnDisconnect;
use crate::meter::ahead::{Ahead, Rest};
use crate::meter::body::{self, Ended, Metered};
use crate::meter::drain::drain;
use crate::meter::{Fault, Measured, Meter};
use crate::upstream::UpstreamBody;
use crate::upstream::answer::Answer;
use crate::upstream::rejection::Rejection;

/// How long the first event of a stream is waited for before the stream is given away, where another upstream could be
/// asked instead: less than a caller waits for a comment.
const FIRST_EVENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long its content is, once there are events.
const CONTENT_TIMEOUT: Duration = Duration::from_millis(500);

impl Dispatched {
    pub(super) fn limits(&self) -> body::Limits {
        body::Limits {
            idle_timeout: self.config.proxy.idle_timeout,
            deadline: self.deadline,
        }
    }

    /// Reads a stream up to its content, where another could be asked if that is an error instead.
    pub(super) async fn look_ahead(
        &self,
        answer: Answer,
        meter: Meter,
    ) -> Result<Ahead<UpstreamBody>, Box<(End, Measured)>> {
        let mut ahead = Ahead::new(answer.body, meter);
        if self.alternatives.is_none() {
            return Ok(ahead);
        }
        let patience = FIRST_EVENT_TIMEOUT.min(self.config.proxy.idle_timeout);
        ahead
            .look((patience, CONTENT_TIMEOUT), self.deadline, |measured| {
                !settle::is_empty(measured)
            })
            .await;
        let measured = ahead.measured();
        if ahead.fault() == Some(Fault::Upstream) && settle::is_empty(&measured) {
            return Err(Box::new((End::Refused(Rejection::failed()), measured)));
        }
        Ok(ahead)
    }

    /// What notes that the caller gets the first bytes.
    pub(super) fn on_first(&self) -> impl FnOnce() + Send + 'static {
        let (first_byte, held_at) = (self.first_byte_ms.clone(), self.held_at);
        let clock = self.app.clock.clone();
        move || first_byte.store(millis(clock.now().since(held_at)), Ordering::Relaxed)
    }

    /// Gives a stream to the caller.
    pub(super) fn stream(self, ahead: Ahead<UpstreamBody>) -> Response {
        let (limits, on_first) = (self.limits(), self.on_first());
        let cut = self.app.cut.clone();
        let metered = Metered::of(ahead, limits, move |ended| {
            self.streamed(ended);
        });
        let metered = metered.on_first(on_first).until(cut);
        heads::events(Body::new(metered))
    }

    /// The stream has ended, or its caller has left it.
    fn streamed(mut self, ended: Ended<UpstreamBody>) {
        let Ended {
            end,
            fault,
            measured,
            rest,
        } = ended;
        let end = match (end, rest) {
            (body::End::Complete, _) => End::Streamed,
            (body::End::Failed, _) => End::Failed(fault.unwrap_or(Fault::Broken)),
            (body::End::Cancelled, Some(rest)) if self.drains() => {
                let app = self.app.clone();
                app.work.spawn(self.drain(rest));
                return;
            }
            (body::End::Cancelled, _) => End::Left(self.leaver()),
        };
        self.end(end, measured);
    }

    /// Whether a stream that its caller left is read on. (One that is kept is left when nobody is to get any more of it.)
    fn drains(&self) -> bool {
        let is_drained = self.config.proxy.on_disconnect == OnDisconnect::Drain;
        self.key.is_none() && (is_drained || self.order.works_on()) && !self.app.cut.is_cancelled()
    }

    /// Reads a left stream on to its end, for its usage; at most until `drain_timeout` after the caller left, or where the
    /// provider works on until the end of everything.
    async fn drain(mut self, rest: Rest<UpstreamBody>) {
        let left = *self.caller_left.get_or_init(Instant::now);
        let drained = left.checked_add(self.config.proxy.drain_timeout);
        let until = drained
            .filter(|_| !self.order.works_on())
            .map_or(self.deadline, |drained| drained.min(self.deadline));
        let cut = self.app.cut.clone();
        let limits = body::Limits {
            deadline: until,
            ..self.limits()
        };
        let (fault, measured) = drain(rest, limits, cut.cancelled()).await;
        self.end(End::Drained(fault), measured);
    }
}
