//! A stream that is read to its end with nobody listening.

use std::future::Future;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout, timeout_at};

use super::ahead::Rest;
use super::body::{Limits, TAIL_TIMEOUT, later};
use super::{Fault, Measured};

/// Reads a stream to its end with nobody listening, for its exact usage.
///
/// Without a fault at `[DONE]`, with one at anything else, at the latest at the deadline or when `stop` ends.
pub async fn drain<B>(
    rest: Rest<B>,
    limits: Limits,
    stop: impl Future<Output = ()>,
) -> (Option<Fault>, Measured)
where
    B: Body<Data = Bytes> + Unpin,
{
    let Rest {
        mut body,
        mut meter,
    } = rest;
    let mut nowhere = BytesMut::new();
    let mut stop = std::pin::pin!(stop);
    let mut deadline = limits.deadline;
    while !meter.is_done() {
        let next = tokio::select! {
            next = timeout_at(deadline, timeout(limits.idle_timeout, body.frame())) => next,
            () = &mut stop => return (Some(Fault::Stopped), meter.into_measured()),
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
        if meter.is_waiting() {
            deadline = deadline.min(later(Instant::now(), TAIL_TIMEOUT));
            if read.is_err() {
                meter.close(&mut nowhere);
            }
        } else if let Err(fault) = read {
            return (Some(fault), meter.into_measured());
        }
        nowhere.clear();
    }
    // An error means that the connection is lost, which is no matter now.
    drop(timeout(TAIL_TIMEOUT, body.frame()).await);
    (None, meter.into_measured())
}
