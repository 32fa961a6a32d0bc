//! How long a connection may stay idle before a request, and how long the request's head may take.
//!
//! hyper has one timer for both: it starts when the last answer was sent, and ends with the head. A load balancer keeps
//! idle connections for a minute and may send on one of them at any moment, but a head must not take that long. So
//! hyper gets this timer, which looks at the connection: as long as nothing of the next request has arrived it runs to
//! `keep_alive`, and from the first byte on to `header_timeout`. It has no state beyond one wait.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

use crate::server::slots::ConnectionSlot;

/// The timer of one connection.
pub(crate) struct HeadTimer {
    slot: Arc<ConnectionSlot>,
    header_timeout: Duration,
}

impl HeadTimer {
    pub(crate) const fn new(slot: Arc<ConnectionSlot>, header_timeout: Duration) -> Self {
        Self {
            slot,
            header_timeout,
        }
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        let now = Instant::now();
        self.sleep_until(now.checked_add(duration).unwrap_or(now))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.slot.expects_head();
        let (slot, header_timeout) = (self.slot.clone(), self.header_timeout);
        Box::pin(HeadSleep {
            slot,
            header_timeout,
            idle_until: deadline,
            began: false,
            sleep: None,
        })
    }
}

/// A wait for one head.
struct HeadSleep {
    slot: Arc<ConnectionSlot>,
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
        let (is_news, idle_until) = (!self.began && self.slot.has_begun(), self.idle_until);
        if is_news {
            self.began = true;
            let now = tokio::time::Instant::now();
            let deadline = now.checked_add(self.header_timeout).unwrap_or(now);
            match &mut self.sleep {
                Some(sleep) => sleep.as_mut().reset(deadline),
                none => *none = Some(Box::pin(tokio::time::sleep_until(deadline))),
            }
        }
        self.sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(idle_until.into())))
            .as_mut()
            .poll(context)
    }
}
