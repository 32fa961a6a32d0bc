//! How long a connection may take to begin a request, and to send its head.
//!
//! hyper has one timer for both: it starts when the last answer was given, and ends with the head. A balancer keeps idle
//! connections for a minute and sends on one of them at any moment, and a head must not take as long. So hyper gets this
//! timer, which looks at the connection: nothing of the next request has come, and it runs to `keep_alive`; something has,
//! and from then on it runs to `header_timeout`. It holds no state of its own beyond one wait.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

use super::seats::Seat;

/// The timer of one connection.
pub(super) struct HeadTimer {
    seat: Arc<Seat>,
    header_timeout: Duration,
}

impl HeadTimer {
    pub(super) const fn new(seat: Arc<Seat>, header_timeout: Duration) -> Self {
        Self { seat, header_timeout }
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        let now = Instant::now();
        self.sleep_until(now.checked_add(duration).unwrap_or(now))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.seat.expects_head();
        let (seat, header_timeout) = (self.seat.clone(), self.header_timeout);
        Box::pin(HeadSleep { seat, header_timeout, idle_until: deadline, began: false, sleep: None })
    }
}

/// A wait for one head.
struct HeadSleep {
    seat: Arc<Seat>,
    header_timeout: Duration,
    idle_until: Instant,
    /// Some of the head has come, and the wait was set for the rest of it.
    began: bool,
    /// Made when it is first waited for: a head that is there at once costs no timer.
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Sleep for HeadSleep {}

impl Future for HeadSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let (is_news, idle_until) = (!self.began && self.seat.has_begun(), self.idle_until);
        if is_news {
            self.began = true;
            let now = tokio::time::Instant::now();
            let deadline = now.checked_add(self.header_timeout).unwrap_or(now);
            match &mut self.sleep {
                Some(sleep) => sleep.as_mut().reset(deadline),
                none => *none = Some(Box::pin(tokio::time::sleep_until(deadline))),
            }
        }
        self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(idle_until.into()))).as_mut().poll(context)
    }
}
