//! An answer that passes byte for byte, and of which nothing is read: speech.
//!
//! Nothing can be said in the middle of it, so where it fails its connection breaks, and the caller sees that a part is
//! missing. As with a stream of events, its owner is told the end once, before the caller can see it or from `Drop`, and its
//! clock runs only while the caller reads.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Fault;
use super::body::{End, Limits, later};

/// How many frames without a byte one poll may read, before it lets others run.
const READS_PER_POLL: usize = 32;

type OnEnd = Box<dyn FnOnce(End, Option<Fault>) + Send>;

/// An upstream's body in, the caller's body out, the same bytes.
pub struct ByteBody<B> {
    /// Gone once the end was told.
    open: Option<(B, OnEnd)>,
    /// How many more bytes there may be.
    left: usize,
    on_first: Option<Box<dyn FnOnce() + Send>>,
    stop: CancellationToken,
    limits: Limits,
    last_read: Instant,
    alarm: Pin<Box<Sleep>>,
}

impl<B> fmt::Debug for ByteBody<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ByteBody")
            .field("open", &self.open.is_some())
            .finish_non_exhaustive()
    }
}

impl<B: Body<Data = Bytes> + Unpin> ByteBody<B> {
    /// Passes `body` on, at most `bytes_max` bytes of it. It fails once `stop` is cancelled; whoever polls this must be woken
    /// by that. `on_end` is called exactly once, also when this is dropped at once; it must not block.
    pub fn new(
        body: B,
        bytes_max: usize,
        (limits, stop): (Limits, CancellationToken),
        on_end: impl FnOnce(End, Option<Fault>) + Send + 'static,
    ) -> Self {
        let now = Instant::now();
        Self {
            open: Some((body, Box::new(on_end))),
            left: bytes_max,
            on_first: None,
            stop,
            limits,
            last_read: now,
            alarm: Box::pin(sleep_until(now)),
        }
    }

    /// Calls `first` when the first bytes are handed out.
    #[must_use]
    pub fn on_first(mut self, first: impl FnOnce() + Send + 'static) -> Self {
        self.on_first = Some(Box::new(first));
        self
    }

    /// One read: bytes (perhaps none), the end, or why there is none.
    fn read(
        &mut self,
        next: Option<Result<Frame<Bytes>, B::Error>>,
    ) -> Result<Option<Bytes>, Fault> {
        self.last_read = Instant::now();
        if self.last_read >= self.limits.deadline {
            return Err(Fault::Deadline);
        }
        let frame = match next {
            None => return Ok(None),
            Some(frame) => frame.map_err(|_| Fault::Broken)?,
        };
        // Trailers are no bytes of it.
        let data = frame.into_data().unwrap_or_default();
        let left = self.left.checked_sub(data.len());
        self.left = left.ok_or(Fault::EventTooLarge)?;
        Ok(Some(data))
    }

    /// Nothing to read: why it is not waited for any longer.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<Fault> {
        if self.stop.is_cancelled() {
            return Poll::Ready(Fault::Stopped);
        }
        loop {
            let now = Instant::now();
            let idle_end = later(self.last_read, self.limits.idle_timeout);
            if now >= self.limits.deadline {
                return Poll::Ready(Fault::Deadline);
            }
            if now >= idle_end {
                return Poll::Ready(Fault::Idle);
            }
            let next = idle_end.min(self.limits.deadline);
            // An alarm that rings too early costs less than one that is set anew for each piece.
            if self.alarm.is_elapsed() || self.alarm.deadline() > next {
                self.alarm.as_mut().reset(next);
            }
            if self.alarm.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl<B> ByteBody<B> {
    /// Tells the owner the end, once. What is left of the body is dropped, and its connection with it.
    fn end(&mut self, end: End, fault: Option<Fault>) {
        if let Some((_, on_end)) = self.open.take() {
            on_end(end, fault);
        }
    }

    fn fail(&mut self, fault: Fault) -> io::Error {
        self.end(End::Failed, Some(fault));
        io::Error::other(fault.as_str())
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for ByteBody<B> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        for _ in 0..READS_PER_POLL {
            let Some((body, _)) = &mut this.open else {
                return Poll::Ready(None);
            };
            let read = match Pin::new(body).poll_frame(context) {
                Poll::Ready(next) => this.read(next),
                Poll::Pending => match this.wait(context) {
                    Poll::Ready(fault) => Err(fault),
                    Poll::Pending => return Poll::Pending,
                },
            };
            match read {
                Ok(Some(data)) if data.is_empty() => {}
                Ok(Some(data)) => {
                    if let Some(first) = this.on_first.take() {
                        first();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(None) => {
                    this.end(End::Complete, None);
                    return Poll::Ready(None);
                }
                Err(fault) => return Poll::Ready(Some(Err(this.fail(fault)))),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<B> Drop for ByteBody<B> {
    fn drop(&mut self) {
        self.end(End::Cancelled, None);
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "small numbers, in tests")]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use http_body_util::BodyExt;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Pieces, then nothing more for ever.
    struct Hanging(VecDeque<&'static [u8]>);

    impl Body for Hanging {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
            match self.0.pop_front() {
                Some(piece) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(piece))))),
                None => Poll::Pending,
            }
        }
    }

    type Told = Arc<Mutex<Vec<(End, Option<Fault>)>>>;

    fn passed<B: Body<Data = Bytes> + Unpin>(
        body: B,
        bytes_max: usize,
        deadline: Duration,
    ) -> (ByteBody<B>, Told) {
        let told = Told::default();
        let limits = Limits {
            idle_timeout: SECOND * 3,
            deadline: Instant::now() + deadline,
        };
        let teller = told.clone();
        let on_end = move |end, fault| teller.lock().unwrap().push((end, fault));
        let rules = (limits, CancellationToken::new());
        (ByteBody::new(body, bytes_max, rules, on_end), told)
    }

    fn hanging(pieces: &[&'static [u8]]) -> Hanging {
        Hanging(pieces.iter().copied().collect())
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_pass_as_they_come_and_the_end_is_told_once() {
        let whole = http_body_util::Full::new(Bytes::from_static(b"sound"));
        let (mut body, told) = passed(whole, 5, SECOND * 10);
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, "sound");
        assert!(body.frame().await.is_none());
        drop(body);
        assert_eq!(*told.lock().unwrap(), [(End::Complete, None)]);

        let (mut body, told) = passed(hanging(&[b"so", b""]), 5, SECOND * 10);
        assert!(body.frame().await.unwrap().is_ok());
        drop(body);
        assert_eq!(*told.lock().unwrap(), [(End::Cancelled, None)]);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_length_and_time_are_bounded_and_break_it() {
        for (pieces, deadline, fault, after) in [
            (&[&b"so"[..]][..], 10, Fault::Idle, 3),
            (&[&b"so"[..]][..], 2, Fault::Deadline, 2),
            (&[&b"so"[..], b"unds"][..], 10, Fault::EventTooLarge, 0),
        ] {
            let (mut body, told) = passed(hanging(pieces), 5, SECOND * deadline);
            let begun = Instant::now();
            assert!(body.frame().await.unwrap().is_ok());
            assert!(body.frame().await.unwrap().is_err());
            assert_eq!(begun.elapsed(), SECOND * after, "{fault:?}");
            assert!(body.frame().await.is_none());
            drop(body);
            assert_eq!(*told.lock().unwrap(), [(End::Failed, Some(fault))]);
        }
    }
}
