//! The body that a caller reads while the meter watches, and that tells its owner once how it ended.
//!
//! Money hangs on that one call: it comes before the caller can see the end, or, when the caller leaves first, from
//! `Drop`, with what is needed to read the upstream on. No timer is set on the path of an event. Its clock runs only
//! while the caller reads: a caller who stops reading is the server's to cut.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http_body::{Body, Frame};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::ahead::{Ahead, Rest};
use super::{Fault, Measured, Meter};

/// After so long without anything else, the caller gets a comment (iOS gives up after 60 s of silence).
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The comment.
pub(crate) const KEEP_ALIVE_COMMENT: &[u8] = b": keep-alive\n\n";
/// How long the upstream may take from `[DONE]` to its usage, where that comes so late, and to the end of its body, so that
/// its connection can be used again.
pub(super) const TAIL_TIMEOUT: Duration = Duration::from_millis(100);
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
pub struct Ended<B> {
    /// How it ended.
    pub end: End,
    /// Why, if it failed.
    pub fault: Option<Fault>,
    /// What was seen until then.
    pub measured: Measured,
    /// If the caller left: what is needed to read on. Dropping it cuts the upstream.
    pub rest: Option<Rest<B>>,
}

/// How long a stream may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest silence of the upstream.
    pub idle_timeout: Duration,
    /// When it must be at its end.
    pub deadline: Instant,
}

type OnEnd<B> = Box<dyn FnOnce(Ended<B>) + Send>;

/// A metered stream: an upstream's body in, the caller's body out.
pub struct Metered<B: Body<Data = Bytes> + Unpin> {
    /// Gone once the end was told.
    open: Option<Open<B>>,
    /// The upstream's body after `[DONE]`.
    tail: Option<B>,
    out: BytesMut,
    on_first: Option<Box<dyn FnOnce() + Send>>,
    /// It failed while it was read ahead: the caller is not told yet.
    fault: Option<Fault>,
    /// Until when the usage may come, once `[DONE]` came without it.
    waits_until: Option<Instant>,
    /// The server stops: what is not at its end ends now.
    stop: Option<CancellationToken>,
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
        formatter
            .debug_struct("Metered")
            .field("open", &self.open.is_some())
            .finish_non_exhaustive()
    }
}

impl<B: Body<Data = Bytes> + Unpin> Metered<B> {
    /// Watches `body` with `meter`. `on_end` is called exactly once, also when this is dropped at once; it must not
    /// block.
    pub fn new(
        body: B,
        meter: Meter,
        limits: Limits,
        on_end: impl FnOnce(Ended<B>) + Send + 'static,
    ) -> Self {
        Self::of(Ahead::new(body, meter), limits, on_end)
    }

    /// [`Metered::new`] for a stream whose beginning was read already.
    pub fn of(
        ahead: Ahead<B>,
        limits: Limits,
        on_end: impl FnOnce(Ended<B>) + Send + 'static,
    ) -> Self {
        let now = Instant::now();
        let Ahead {
            rest,
            out,
            fault,
            last_read,
        } = ahead;
        let is_waiting = rest.meter.is_waiting();
        Self {
            open: Some(Open {
                rest,
                on_end: Box::new(on_end),
            }),
            tail: None,
            out,
            on_first: None,
            fault,
            waits_until: is_waiting.then(|| later(now, TAIL_TIMEOUT)),
            stop: None,
            limits,
            last_read,
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

    /// Ends as failed once `stop` is cancelled. Whoever polls this must be woken by it: nothing is registered here, on the
    /// path of an event.
    #[must_use]
    pub fn until(mut self, stop: CancellationToken) -> Self {
        self.stop = Some(stop);
        self
    }

    /// What was read ahead, or else one read of the upstream.
    fn read_next(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        match self.fault.take() {
            Some(fault) => Poll::Ready(Err(fault)),
            // Nothing is left here between two polls.
            None if !self.out.is_empty() => Poll::Ready(Ok(())),
            None => self.read(context),
        }
    }

    /// One read of the upstream: what is to be done next.
    fn read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let Some(Open { rest, .. }) = &mut self.open else {
            return Poll::Ready(Ok(()));
        };
        let Poll::Ready(next) = Pin::new(&mut rest.body).poll_frame(context) else {
            return Poll::Pending;
        };
        self.last_read = Instant::now();
        let read = match next {
            _ if self.last_read >= self.limits.deadline => Err(Fault::Deadline),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => rest.meter.push(&data, &mut self.out),
                // Trailers.
                Err(_) => Ok(()),
            },
            Some(Err(_)) => Err(Fault::Broken),
            None => rest.meter.finish(&mut self.out),
        };
        if rest.meter.is_waiting() {
            let until = *self
                .waits_until
                .get_or_insert(later(self.last_read, TAIL_TIMEOUT));
            if read.is_err() || self.last_read >= until {
                rest.meter.close(&mut self.out);
            }
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(read)
    }

    /// Nothing to read: a comment when the caller has heard nothing for long, a fault when the upstream has not.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        if self
            .stop
            .as_ref()
            .is_some_and(CancellationToken::is_cancelled)
        {
            return Poll::Ready(Err(Fault::Stopped));
        }
        loop {
            let now = Instant::now();
            if self.waits_until.is_some_and(|until| now >= until) {
                if let Some(Open { rest, .. }) = &mut self.open {
                    rest.meter.close(&mut self.out);
                }
                return Poll::Ready(Ok(()));
            }
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
            let next = self.waits_until.map_or(next, |until| next.min(until));
            // An alarm that rings too early costs less than one that is set anew for each event.
            if self.alarm.is_elapsed() || self.alarm.deadline() > next {
                self.alarm.as_mut().reset(next);
            }
            if self.alarm.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn tell_first(&mut self) {
        if let Some(first) = self.on_first.take() {
            first();
        }
    }

    /// Tells the owner the end, once.
    fn end(&mut self, end: End, fault: Option<Fault>) {
        let Some(Open { rest, on_end }) = self.open.take() else {
            return;
        };
        let ended = if end == End::Cancelled {
            Ended {
                end,
                fault,
                measured: rest.meter.measured(),
                rest: Some(rest),
            }
        } else {
            let Rest { body, meter } = rest;
            self.tail = Some(body).filter(|_| end == End::Complete);
            Ended {
                end,
                fault,
                measured: meter.into_measured(),
                rest: None,
            }
        };
        on_end(ended);
    }

    fn fail(&mut self, fault: Fault) {
        if let Some(Open { rest, .. }) = &mut self.open {
            rest.meter.fail(fault, &mut self.out);
        }
        self.end(End::Failed, Some(fault));
    }

    /// All is told and handed out. A connection whose body is not at its end cannot be used again, so this waits a
    /// moment for the end, and for nothing else.
    fn poll_tail(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(body) = &mut self.tail else {
            return Poll::Ready(());
        };
        if Pin::new(body).poll_frame(context).is_pending()
            && self.alarm.as_mut().poll(context).is_pending()
        {
            return Poll::Pending;
        }
        self.tail = None;
        Poll::Ready(())
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

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        for _ in 0..READS_PER_POLL {
            if this.open.is_none() {
                return this.poll_tail(context).map(|()| None);
            }
            let (outcome, is_event) = match this.read_next(context) {
                Poll::Ready(outcome) => (outcome, true),
                Poll::Pending => match this.wait(context) {
                    Poll::Ready(outcome) => (outcome, false),
                    Poll::Pending => return Poll::Pending,
                },
            };
            if is_event && !this.out.is_empty() {
                this.tell_first();
            }
            // The end is told before the caller can see it.
            if let Err(fault) = outcome {
                this.fail(fault);
            } else if this
                .open
                .as_ref()
                .is_some_and(|open| open.rest.meter.is_done())
            {
                this.end(End::Complete, None);
                this.alarm
                    .as_mut()
                    .reset(later(this.last_read, TAIL_TIMEOUT));
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
pub(crate) fn later(from: Instant, wait: Duration) -> Instant {
    from.checked_add(wait)
        .unwrap_or_else(|| later(from, Duration::from_hours(24 * 365)))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use http_body_util::BodyExt;

    use super::*;
    use crate::meter::drain::drain;

    const TEXT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\n";
    const USAGE: &str =
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2}}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    enum Step {
        Say(&'static str),
        Wait(u64),
        Break,
        Hang,
    }
    use Step::{Break, Hang, Say, Wait};

    /// An upstream that does as it is told, and ends.
    struct Script {
        steps: VecDeque<Step>,
        sleep: Option<Pin<Box<Sleep>>>,
    }

    impl Body for Script {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            loop {
                if let Some(sleep) = &mut self.sleep {
                    std::task::ready!(sleep.as_mut().poll(context));
                    self.sleep = None;
                }
                match self.steps.pop_front() {
                    Some(Say(text)) => {
                        return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(
                            text.as_bytes(),
                        )))));
                    }
                    Some(Wait(seconds)) => {
                        self.sleep =
                            Some(Box::pin(tokio::time::sleep(Duration::from_secs(seconds))));
                    }
                    Some(Break) => return Poll::Ready(Some(Err("broken"))),
                    Some(Hang) => {
                        self.steps.push_front(Hang);
                        return Poll::Pending;
                    }
                    None => return Poll::Ready(None),
                }
            }
        }
    }

    type Told = Arc<Mutex<Vec<Ended<Script>>>>;

    fn limits() -> Limits {
        Limits {
            idle_timeout: Duration::from_mins(1),
            deadline: later(Instant::now(), Duration::from_mins(5)),
        }
    }

    fn stream(steps: impl IntoIterator<Item = Step>) -> (Metered<Script>, Told) {
        let told = Told::default();
        let tell = told.clone();
        let script = Script {
            steps: steps.into_iter().collect(),
            sleep: None,
        };
        let body = Metered::new(script, Meter::chat(false), limits(), move |end| {
            tell.lock().unwrap().push(end);
        });
        (body, told)
    }

    async fn next(body: &mut Metered<Script>) -> Option<String> {
        let frame = body.frame().await?.unwrap();
        Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
    }

    async fn all(body: &mut Metered<Script>) -> String {
        let mut text = String::new();
        while let Some(part) = next(body).await {
            text.push_str(&part);
        }
        text
    }

    fn only(told: &Told) -> (End, Option<Fault>, u64) {
        let told = told.lock().unwrap();
        assert_eq!(told.len(), 1, "told once");
        (
            told[0].end,
            told[0].fault,
            told[0]
                .measured
                .usage
                .map_or(0, |usage| usage.output_tokens),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_is_told_before_the_caller_can_see_it() {
        let (mut body, told) = stream([Say(TEXT), Say(USAGE), Say(DONE)]);
        assert_eq!(next(&mut body).await.as_deref(), Some(TEXT));
        assert!(told.lock().unwrap().is_empty());
        assert_eq!(next(&mut body).await.as_deref(), Some(DONE));
        assert_eq!(only(&told), (End::Complete, None, 2));
        assert_eq!(next(&mut body).await, None);
        drop(body);
        assert_eq!(only(&told), (End::Complete, None, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_one_event_and_the_end_without_done() {
        let cases = [
            (vec![Say(TEXT), Break], Fault::Broken),
            (vec![Say(TEXT)], Fault::Cut),
            (vec![Say(TEXT), Say("<html>")], Fault::Cut),
            (
                vec![
                    Say(TEXT),
                    Say("data: {\"error\":{\"message\":\"sk-1\"}}\n\n"),
                    Say(DONE),
                ],
                Fault::Upstream,
            ),
            (vec![Say(TEXT), Wait(61), Say(DONE)], Fault::Idle),
            (
                std::iter::once(Say(TEXT))
                    .chain((0..9).flat_map(|_| [Wait(50), Say(":\n")]))
                    .collect(),
                Fault::Deadline,
            ),
        ];
        for (steps, fault) in cases {
            let (mut body, told) = stream(steps);
            let text = all(&mut body).await.replace(": keep-alive\n\n", "");
            let event = format!("data: {}\n\n", fault.refusal().body());
            assert_eq!(text, format!("{TEXT}{event}"), "{fault:?}");
            drop(body);
            assert_eq!(only(&told), (End::Failed, Some(fault), 0));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn usage_after_done_is_waited_for_and_nothing_else_is() {
        let late = [
            vec![Say(USAGE)],
            vec![Say(": c\n\n"), Say(USAGE), Hang],
            vec![Say(USAGE), Break],
        ];
        for steps in late {
            let (mut body, told) = stream([Say(TEXT), Say(DONE)].into_iter().chain(steps));
            assert_eq!(all(&mut body).await, format!("{TEXT}{DONE}"));
            assert_eq!(only(&told), (End::Complete, None, 2));
        }
        let never = [
            vec![],
            vec![Hang],
            vec![Break],
            vec![Wait(1), Say(USAGE)],
            vec![Say("data: x")],
        ];
        for steps in never {
            let start = Instant::now();
            let (mut body, told) = stream([Say(TEXT), Say(DONE)].into_iter().chain(steps));
            assert_eq!(all(&mut body).await, format!("{TEXT}{DONE}"));
            assert_eq!(only(&told), (End::Complete, None, 0));
            assert!(start.elapsed() <= TAIL_TIMEOUT * 3, "{:?}", start.elapsed());
        }
        let flood = std::iter::repeat_with(|| Say(": c\n"))
            .take(100)
            .chain([Wait(0)]);
        let (mut body, told) = stream(
            [Say(TEXT), Say(DONE)]
                .into_iter()
                .chain(flood)
                .chain([Hang]),
        );
        assert_eq!(all(&mut body).await, format!("{TEXT}{DONE}"));
        assert_eq!(only(&told).0, End::Complete);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drained_stream_waits_for_its_usage_too() {
        for (steps, wanted) in [(vec![Say(USAGE)], 2), (vec![Hang], 0), (vec![Break], 0)] {
            let (mut body, told) = stream([Say(TEXT), Say(DONE)].into_iter().chain(steps));
            next(&mut body).await.unwrap();
            drop(body);
            let rest = told.lock().unwrap().pop().unwrap().rest.unwrap();
            let (end, measured) = drain(rest, limits(), std::future::pending()).await;
            assert_eq!(
                (end, measured.usage.map_or(0, |usage| usage.output_tokens)),
                (None, wanted)
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_in_one_piece_is_kept_alive_and_comes_as_events() {
        let whole = r#"{"choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":2}}"#;
        let (start, end) = whole.split_at(40);
        let (mut body, told) = stream([Say(start), Wait(20), Say(end)]);
        assert_eq!(next(&mut body).await.as_deref(), Some(": keep-alive\n\n"));
        let text = all(&mut body).await;
        assert!(
            text.starts_with("data: {") && text.ends_with("data: [DONE]\n\n"),
            "{text}"
        );
        assert_eq!(only(&told), (End::Complete, None, 2));
        let (mut body, told) = stream([Say(start), Break]);
        assert!(all(&mut body).await.starts_with("data: {\"error\""));
        assert!(
            told.lock().unwrap()[0].measured.text_overflow,
            "all may have been generated"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_holds_whoever_is_slow() {
        let (mut body, _) = stream((0..99).flat_map(|_| [Wait(45), Say(":\n")]));
        let start = Instant::now();
        all(&mut body).await;
        assert_eq!(start.elapsed().as_secs(), 300, "the upstream");
        let (mut body, told) = stream([Say(TEXT), Say(TEXT), Say(DONE)]);
        next(&mut body).await.unwrap();
        tokio::time::sleep(Duration::from_mins(6)).await;
        all(&mut body).await;
        assert_eq!(only(&told).1, Some(Fault::Deadline), "the caller");
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_before_a_failure_in_one_read_is_delivered() {
        let (mut body, _) = stream([Say(concat!("data: {\"choices\":[]}\n\n", "data: x\n\n"))]);
        let text = all(&mut body).await;
        assert!(
            text.starts_with("data: {\"choices\":[]}\n\ndata: {\"error\":"),
            "{text}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_who_leaves_at_any_event_is_told_once_with_the_rest() {
        for read in 0..4 {
            let (mut body, told) = stream([
                Say(TEXT),
                Say(TEXT),
                Say(TEXT),
                Wait(30),
                Say(USAGE),
                Say(DONE),
            ]);
            for _ in 0..read {
                next(&mut body).await.unwrap();
            }
            drop(body);
            assert_eq!(only(&told), (End::Cancelled, None, 0));
            let ended = told.lock().unwrap().pop().unwrap();
            assert_eq!(ended.measured.content_events, read);
            let (fault, measured) =
                drain(ended.rest.unwrap(), limits(), std::future::pending()).await;
            assert_eq!((fault, measured.content_events), (None, 3));
            assert_eq!(measured.usage.unwrap().output_tokens, 2);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_in_time() {
        let cases = [
            (vec![Say(TEXT), Hang], 60),
            ((0..99).flat_map(|_| [Wait(50), Say(":\n")]).collect(), 300),
            (vec![Say(TEXT), Break], 0),
        ];
        for (steps, seconds) in cases {
            let (body, told) = stream(steps);
            drop(body);
            let rest = told.lock().unwrap().pop().unwrap().rest.unwrap();
            let start = Instant::now();
            assert!(
                drain(rest, limits(), std::future::pending())
                    .await
                    .0
                    .is_some()
            );
            assert_eq!(start.elapsed().as_secs(), seconds);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_broken_every_fifteen_seconds() {
        let (mut body, _) = stream([Wait(40), Say(":upstream's own\n\n"), Wait(4), Say(DONE)]);
        let start = Instant::now();
        for at in [15, 30] {
            assert_eq!(next(&mut body).await.as_deref(), Some(": keep-alive\n\n"));
            assert_eq!(start.elapsed().as_secs(), at);
        }
        assert_eq!(next(&mut body).await.as_deref(), Some(DONE));
        assert_eq!(start.elapsed().as_secs(), 44);
    }

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_stays_open_after_done_keeps_nobody() {
        let (mut body, told) = stream([Say(DONE), Hang]);
        let start = Instant::now();
        assert_eq!(all(&mut body).await, DONE);
        assert!(start.elapsed() <= Duration::from_millis(110));
        assert_eq!(only(&told).0, End::Complete);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_event_is_told_and_a_comment_is_none() {
        let first = Arc::new(Mutex::new(0));
        let count = first.clone();
        let (body, _) = stream([Wait(16), Say(TEXT), Say(TEXT), Hang]);
        let mut body = body.on_first(move || *count.lock().unwrap() += 1);
        assert_eq!(next(&mut body).await.as_deref(), Some(": keep-alive\n\n"));
        assert_eq!(*first.lock().unwrap(), 0);
        next(&mut body).await;
        assert_eq!(*first.lock().unwrap(), 1);
        next(&mut body).await;
    }
}
