//! A stream that is read up to its first content before anybody gets any of it.
//!
//! It says whether the upstream failed before it did anything. What was read is given to the caller afterwards, as it came.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use super::{Fault, Measured, Meter};

/// The part of a stream that its caller did not get.
#[derive(Debug)]
pub struct Rest<B> {
    pub(super) body: B,
    pub(super) meter: Meter,
}

/// A stream of which nothing was given away yet.
#[derive(Debug)]
pub struct Ahead<B> {
    pub(super) rest: Rest<B>,
    /// What the caller is to get of what was read.
    pub(super) out: BytesMut,
    pub(super) fault: Option<Fault>,
    pub(super) last_read: Instant,
}

impl<B: Body<Data = Bytes> + Unpin> Ahead<B> {
    /// Nothing was read yet.
    pub fn new(body: B, meter: Meter) -> Self {
        Self {
            rest: Rest { body, meter },
            out: BytesMut::new(),
            fault: None,
            last_read: Instant::now(),
        }
    }

    /// Reads until there is content, the stream fails or ends, or there is nothing for so long: for the first event, and
    /// for content after it.
    pub async fn look(
        &mut self,
        (first, content): (Duration, Duration),
        deadline: Instant,
        is_content: impl Fn(&Measured) -> bool,
    ) {
        let within = |wait| {
            let end = Instant::now().checked_add(wait);
            end.unwrap_or(deadline).min(deadline)
        };
        let mut until = within(first);
        while !self.is_over() && !is_content(&self.measured()) {
            let Ok(next) = timeout_at(until, self.rest.body.frame()).await else {
                return;
            };
            self.last_read = Instant::now();
            let was_empty = self.out.is_empty();
            let read = match next {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest.meter.push(&data, &mut self.out),
                    Err(_) => Ok(()),
                },
                Some(Err(_)) => Err(Fault::Broken),
                None => self.rest.meter.finish(&mut self.out),
            };
            self.fault = read.err();
            if was_empty && !self.out.is_empty() {
                until = within(content);
            }
        }
    }

    fn is_over(&self) -> bool {
        let meter = &self.rest.meter;
        self.fault.is_some() || meter.is_done() || meter.is_waiting()
    }

    /// What was seen.
    #[must_use]
    pub fn measured(&self) -> Measured {
        self.rest.meter.measured()
    }

    /// Why it failed, if it did.
    #[must_use]
    pub const fn fault(&self) -> Option<Fault> {
        self.fault
    }
}
