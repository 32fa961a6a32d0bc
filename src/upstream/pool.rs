//! Connections to upstreams: dialled, and kept for the next request.
//!
//! What is ours is that a connection has no task of its own: the request's task moves its bytes, so an event of a stream
//! wakes one task and not two. The price is that a close by the upstream is noticed only when the connection is looked at
//! again, which is before each use. Invariant: a connection is kept only when its answer is at its end and nothing came
//! behind it, and what was sent on one goes on no other.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use hyper_util::rt::TokioExecutor;
use tokio::time::Instant;
use tower::ServiceExt;

use super::answer::Answer;
use super::framing::Framing;
use super::head::Head;
use super::request::{Origin, Request};
use super::wire::Wire;
use super::{BoxError, IDLE_CONNECTIONS_MAX};

/// Makes connections and keeps those that nobody uses. Cheap to clone; clones share them.
#[derive(Clone)]
pub(super) struct Pool {
    connector: super::Connector,
    stock: Arc<Stock>,
}

/// Connections that nobody uses.
struct Stock {
    /// How long one is kept without use.
    keep_alive: Duration,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    // The newest are last: they are used first, and the oldest are found first.
    of: HashMap<Origin, Vec<(Box<Wire>, Instant)>, foldhash::fast::RandomState>,
    /// A task looks for those that were kept for too long.
    is_swept: bool,
}

impl Pool {
    /// A connection that nobody uses for `keep_alive` is closed. Dials nobody.
    pub(super) fn new(connector: super::Connector, keep_alive: Duration) -> Self {
        Self { connector, stock: Arc::new(Stock { keep_alive, kept: Mutex::default() }) }
    }

    /// Sends a request on a connection that is kept and open, or else on a new one: on one only, since what was written
    /// may have been read.
    pub(super) async fn request(&self, request: Request) -> Result<Answer, BoxError> {
        let mut wire = match self.stock.take(&request.origin) {
            Some(wire) => wire,
            None => self.dial(request.origin.clone()).await?,
        };
        let (Head { status, headers, framing, keeps }, ahead) = wire.exchange(request).await?;
        let stock = Arc::downgrade(&self.stock);
        let mut body = Received { framing, ahead, wire: Some(wire), keeps, stock };
        if body.framing.is_ended() {
            body.end();
        }
        Ok(Answer { status, headers, body })
    }

    async fn dial(&self, origin: Origin) -> Result<Box<Wire>, BoxError> {
        let (scheme, authority) = origin.clone();
        let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query("/").build()?;
        let io = self.connector.clone().oneshot(uri).await?;
        let mut wire = Box::new(Wire::new(io, origin));
        if !wire.is_usable() {
            return Err("the connection was closed as soon as it was made".into());
        }
        Ok(wire)
    }
}

impl Stock {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that was used last and is still open.
    fn take(&self, origin: &Origin) -> Option<Box<Wire>> {
        loop {
            let (mut wire, since) = self.kept().of.get_mut(origin)?.pop()?;
            if since.elapsed() < self.keep_alive && wire.is_usable() {
                return Some(wire);
            }
        }
    }

    /// Keeps a connection whose answer is at its end, unless it was closed or there are enough.
    fn keep(self: &Arc<Self>, mut wire: Box<Wire>) {
        if !wire.is_usable() {
            return;
        }
        let mut kept = self.kept();
        let of = kept.of.entry(wire.origin.clone()).or_default();
        if of.len() < IDLE_CONNECTIONS_MAX {
            of.push((wire, Instant::now()));
        }
        if !std::mem::replace(&mut kept.is_swept, true) {
            drop(kept);
            TokioExecutor::new().execute(sweep(Arc::downgrade(self), self.keep_alive));
        }
    }

    /// Closes what was kept for too long; true if anything is still kept.
    fn forget_old(&self) -> bool {
        let mut kept = self.kept();
        let mut old = Vec::new();
        for of in kept.of.values_mut() {
            let fresh = of.iter().position(|(_, since)| since.elapsed() < self.keep_alive);
            old.extend(of.drain(..fresh.unwrap_or(of.len())));
        }
        kept.of.retain(|_, of| !of.is_empty());
        kept.is_swept = !kept.of.is_empty();
        let is_kept = kept.is_swept;
        drop(kept);
        // Closing a connection takes a moment, and needs no lock.
        drop(old);
        is_kept
    }
}

/// Closes connections in time although nobody asks for one; ends with the last of them.
async fn sweep(stock: Weak<Stock>, keep_alive: Duration) {
    let every = keep_alive.max(Duration::from_millis(10));
    loop {
        tokio::time::sleep(every).await;
        match stock.upgrade() {
            Some(stock) if stock.forget_old() => {}
            _ => return,
        }
    }
}

/// The body of an answer, which moves its connection as it is read.
///
/// At its end the connection is kept for the next request; dropped before, it is closed.
pub struct Received {
    framing: Framing,
    /// Read and not looked at yet: what came together with the head.
    ahead: Bytes,
    /// Gone at the end.
    wire: Option<Box<Wire>>,
    /// The connection can be used again.
    keeps: bool,
    stock: Weak<Stock>,
}

impl std::fmt::Debug for Received {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Received").finish_non_exhaustive()
    }
}

impl Received {
    /// The payload of one read. None at the end.
    fn poll_payload(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        while let Some(wire) = &mut self.wire {
            let taken = if self.ahead.is_empty() {
                ready!(wire.poll(context, |read| self.framing.take(read)))
            } else {
                self.framing.take(&std::mem::take(&mut self.ahead)).map_err(io::Error::from)
            };
            let payload = match taken {
                Ok((payload, rest)) => {
                    self.ahead = rest;
                    payload
                }
                Err(error) => {
                    self.wire = None;
                    return Poll::Ready(Some(Err(error)));
                }
            };
            if self.framing.is_ended() {
                self.end();
            }
            if !payload.is_empty() {
                return Poll::Ready(Some(Ok(payload)));
            }
        }
        Poll::Ready(None)
    }

    /// The body is at its end: its connection is free, unless more came than was asked for.
    fn end(&mut self) {
        let wire = self.wire.take().filter(|_| self.keeps && self.ahead.is_empty());
        if let Some((wire, stock)) = wire.zip(self.stock.upgrade()) {
            stock.keep(wire);
        }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.poll_payload(context).map_ok(Frame::data)
    }

    fn is_end_stream(&self) -> bool {
        // Whoever stops reading before would have the connection closed.
        self.wire.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.framing {
            Framing::Length(left) => SizeHint::with_exact(left),
            _ => SizeHint::default(),
        }
    }
}
