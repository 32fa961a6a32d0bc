//! The body that a caller reads while the meter watches, and that tells its owner once how it ended.
//!
//! Money hangs on that one call: it comes before the caller can see the end, or, when the caller leaves first, from
//! `Drop`, with what is needed to read the upstream on. No timer lies on the path of an event. Its clock runs only
//! while the caller reads: a caller who stops reading is the server's to cut.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until, timeout, timeout_at};

use super::{Fault, Measured, Meter};

/// After so long without anything else, the caller gets a comment (iOS gives up after 60 s of silence).
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);
const KEEP_ALIVE_COMMENT: &[u8] = b": keep-alive\n\n";
/// How many reads that give nothing to the caller one poll may do, before it lets others run.
const READS_PER_POLL: usize = 32;

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At its end.
    Complete,
    /// The upstream failed: the caller was told by an event.
    Failed,
    /// The caller left.
    Cancelled,
}

/// What the owner of a stream is told, once.
#[derive(Debug)]
pub struct Ended<B = Incoming> {
    /// How it ended.
    pub end: End,
    /// Why, if it failed.
    pub fault: Option<Fault>,
    /// What was seen until then.
    pub measured: Measured,
    /// If the caller left: what is needed to read on. Dropping it cuts the upstream.
    pub rest: Option<Rest<B>>,
}

/// The part of a stream that its caller did not wait for.
#[derive(Debug)]
pub struct Rest<B = Incoming> {
    body: B,
    meter: Meter,
}

/// How long a stream may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest silence of the upstream.
    pub idle_timeout: Duration,
    /// When it must be at its end.
    pub deadline: Instant,
}

/// Reads a stream to its end with nobody listening, for its exact usage.
///
/// Ends as `Complete` at `[DONE]`, as `Failed` with anything else, at the latest at the deadline or when `stop` ends.
pub async fn drain<B>(rest: Rest<B>, limits: Limits, stop: impl Future<Output = ()>) -> (End, Measured)
where
    B: Body<Data = Bytes> + Unpin,
{
    let Rest { mut body, mut meter } = rest;
    let mut nowhere = BytesMut::new();
    let mut stop = std::pin::pin!(stop);
    while !meter.is_done() {
        let next = tokio::select! {
            next = timeout_at(limits.deadline, timeout(limits.idle_timeout, body.frame())) => next,
            () = &mut stop => return (End::Failed, meter.into_measured()),
        };
        let read = match next {
            Ok(Ok(Some(Ok(frame)))) => match frame.into_data() {
                Ok(data) => meter.push(&data, &mut nowhere),
                Err(_) => Ok(()),
            },
            Ok(Ok(None)) => meter.finish(&mut nowhere),
            Ok(Ok(Some(Err(_)))) => Err(Fault::Broken),
            Ok(Err(_)) => Err(Fault::Idle),
            Err(_) => Err(Fault::Deadline),
        };
        nowhere.clear();
        if read.is_err() {
            return (End::Failed, meter.into_measured());
        }
    }
    (End::Complete, meter.into_measured())
}

type OnEnd<B> = Box<dyn FnOnce(Ended<B>) + Send>;

/// A metered stream: an upstream's body in, the caller's body out.
pub struct Metered<B: Body<Data = Bytes> + Unpin = Incoming> {
    /// Gone once the end was told.
    open: Option<Open<B>>,
    out: BytesMut,
    on_first: Option<Box<dyn FnOnce() + Send>>,
    limits: Limits,
    last_read: Instant,
    last_written: Instant,
    alarm: Pin<Box<Sleep>>,
}

struct Open<B> {
    rest: Rest<B>,
    on_end: OnEnd<B>,
}

impl<B: Body<Data = Bytes> + Unpin> fmt::Debug for Metered<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Metered").field("open", &self.open.is_some()).finish_non_exhaustive()
    }
}

impl<B: Body<Data = Bytes> + Unpin> Metered<B> {
    /// Watches `body` with `meter`. `on_end` is called exactly once, also when this is dropped at once; it must not
    /// block.
    pub fn new(body: B, meter: Meter, limits: Limits, on_end: impl FnOnce(Ended<B>) + Send + 'static) -> Self {
        let now = Instant::now();
        Self {
            open: Some(Open { rest: Rest { body, meter }, on_end: Box::new(on_end) }),
            out: BytesMut::new(),
            on_first: None,
            limits,
            last_read: now,
            last_written: now,
            alarm: Box::pin(sleep_until(now)),
        }
    }

    /// Calls `first` when the first event is handed out.
    #[must_use]
    pub fn on_first(mut self, first: impl FnOnce() + Send + 'static) -> Self {
        self.on_first = Some(Box::new(first));
        self
    }

    /// One read of the upstream: what is to be done next.
    fn read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let Some(Open { rest, .. }) = &mut self.open else { return Poll::Ready(Ok(())) };
        let Poll::Ready(next) = Pin::new(&mut rest.body).poll_frame(context) else { return Poll::Pending };
        self.last_read = Instant::now();
        if self.last_read >= self.limits.deadline {
            return Poll::Ready(Err(Fault::Deadline));
        }
        Poll::Ready(match next {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => rest.meter.push(&data, &mut self.out),
                // Trailers.
                Err(_) => Ok(()),
            },
            Some(Err(_)) => Err(Fault::Broken),
            None => rest.meter.finish(&mut self.out),
        })
    }

    /// Nothing to read: a comment when the caller has heard nothing for long, a fault when the upstream has not.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        loop {
            let now = Instant::now();
            let idle_end = later(self.last_read, self.limits.idle_timeout);
            let comment_at = later(self.last_written, KEEP_ALIVE);
            if now >= self.limits.deadline {
                return Poll::Ready(Err(Fault::Deadline));
            }
            if now >= idle_end {
                return Poll::Ready(Err(Fault::Idle));
            }
            if now >= comment_at {
                self.out.put_slice(KEEP_ALIVE_COMMENT);
                return Poll::Ready(Ok(()));
            }
            let next = idle_end.min(comment_at).min(self.limits.deadline);
            if self.alarm.deadline() != next {
                self.alarm.as_mut().reset(next);
            }
            if self.alarm.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Tells the owner the end, once.
    fn end(&mut self, end: End, fault: Option<Fault>) {
        let Some(Open { rest, on_end }) = self.open.take() else { return };
        let ended = match end {
            End::Cancelled => Ended { end, fault, measured: rest.meter.measured(), rest: Some(rest) },
            End::Complete | End::Failed => Ended { end, fault, measured: rest.meter.into_measured(), rest: None },
        };
        on_end(ended);
    }

    fn fail(&mut self, fault: Fault) {
        let event = fault.refusal().body().to_string();
        self.out.put_slice(b"data: ");
        self.out.put_slice(event.as_bytes());
        self.out.put_slice(b"\n\n");
        self.end(End::Failed, Some(fault));
    }

    /// What is ready for the caller.
    fn take(&mut self) -> Frame<Bytes> {
        self.last_written = Instant::now();
        Frame::data(self.out.split().freeze())
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Metered<B> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        for _ in 0..READS_PER_POLL {
            if this.open.is_none() {
                return Poll::Ready(None);
            }
            let (outcome, is_event) = match this.read(context) {
                Poll::Ready(outcome) => (outcome, true),
                Poll::Pending => match this.wait(context) {
                    Poll::Ready(outcome) => (outcome, false),
                    Poll::Pending => return Poll::Pending,
                },
            };
            if is_event && !this.out.is_empty() {
                if let Some(first) = this.on_first.take() {
                    first();
                }
            }
            // The end is told before the caller can see it.
            if let Err(fault) = outcome {
                this.fail(fault);
            } else if this.open.as_ref().is_some_and(|open| open.rest.meter.is_done()) {
                this.end(End::Complete, None);
            }
            if !this.out.is_empty() {
                return Poll::Ready(Some(Ok(this.take())));
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<B: Body<Data = Bytes> + Unpin> Drop for Metered<B> {
    fn drop(&mut self) {
        self.end(End::Cancelled, None);
    }
}

/// A moment far away when there is no such moment.
fn later(from: Instant, wait: Duration) -> Instant {
    from.checked_add(wait).unwrap_or_else(|| later(from, Duration::from_hours(24 * 365)))
}
