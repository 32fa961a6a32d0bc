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
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tollgate_http1::{Framing, Head, Origin, Request};
use tower::ServiceExt;

use super::answer::Answer;
use super::{BoxError, IDLE_CONNECTIONS_MAX};

type Connection = tollgate_http1::Connection<MaybeHttpsStream<TokioIo<TcpStream>>>;

/// Makes connections and keeps those that nobody uses. Cheap to clone; clones share them.
#[derive(Clone)]
pub(super) struct Pool {
    connector: super::Connector,
    idle: Arc<IdleConnections>,
}

/// Connections that nobody uses.
struct IdleConnections {
    /// How long one is kept without use.
    keep_alive: Duration,
    state: Mutex<IdleState>,
}

#[derive(Default)]
struct IdleState {
    // The newest are last: they are used first, and the oldest are found first.
    by_origin: HashMap<Origin, Vec<IdleConnection>, foldhash::fast::RandomState>,
    /// A task looks for those that were kept for too long.
    is_swept: bool,
}

struct IdleConnection {
    connection: Box<Connection>,
    since: Instant,
}

impl Pool {
    /// A connection that nobody uses for `keep_alive` is closed. Dials nobody.
    pub(super) fn new(connector: super::Connector, keep_alive: Duration) -> Self {
        Self {
            connector,
            idle: Arc::new(IdleConnections {
                keep_alive,
                state: Mutex::default(),
            }),
        }
    }

    /// Sends a request on a connection that is kept and open, or else on a new one: on one only, since what was written
    /// may have been read.
    pub(super) async fn request(&self, request: Request) -> Result<Answer, BoxError> {
        let mut connection = match self.idle.take(&request.origin) {
            Some(connection) => connection,
            None => self.dial(request.origin.clone()).await?,
        };
        let (
            Head {
                status,
                headers,
                framing,
                keeps,
            },
            ahead,
        ) = connection.exchange(request).await?;
        let mut body = UpstreamBody {
            framing,
            ahead,
            connection: Some(connection),
            keeps,
            idle: Arc::downgrade(&self.idle),
        };
        if body.framing.is_ended() {
            body.end();
        }
        Ok(Answer {
            status,
            headers,
            body,
        })
    }

    async fn dial(&self, origin: Origin) -> Result<Box<Connection>, BoxError> {
        let (scheme, authority) = origin.clone();
        let uri = Uri::builder()
            .scheme(scheme)
            .authority(authority)
            .path_and_query("/")
            .build()?;
        let io = self.connector.clone().oneshot(uri).await?;
        let mut connection = Box::new(Connection::new(io, origin));
        if !connection.is_usable() {
            return Err("the connection was closed as soon as it was made".into());
        }
        Ok(connection)
    }
}

impl IdleConnections {
    fn state(&self) -> MutexGuard<'_, IdleState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that was used last and is still open.
    fn take(&self, origin: &Origin) -> Option<Box<Connection>> {
        loop {
            let newest = self.state().by_origin.get_mut(origin)?.pop()?;
            let mut connection = newest.connection;
            if newest.since.elapsed() < self.keep_alive && connection.is_usable() {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose answer is at its end, unless it was closed or there are enough.
    fn keep(self: &Arc<Self>, mut connection: Box<Connection>) {
        if !connection.is_usable() {
            return;
        }
        let mut state = self.state();
        let here = state
            .by_origin
            .entry(connection.origin.clone())
            .or_default();
        if here.len() < IDLE_CONNECTIONS_MAX {
            let since = Instant::now();
            here.push(IdleConnection { connection, since });
        }
        if !std::mem::replace(&mut state.is_swept, true) {
            drop(state);
            TokioExecutor::new().execute(sweep(Arc::downgrade(self), self.keep_alive));
        }
    }

    /// Closes what was kept for too long; true if anything is still kept.
    fn close_old(&self) -> bool {
        let mut state = self.state();
        let mut old = Vec::new();
        for here in state.by_origin.values_mut() {
            let fresh = here
                .iter()
                .position(|idle| idle.since.elapsed() < self.keep_alive);
            old.extend(here.drain(..fresh.unwrap_or(here.len())));
        }
        state.by_origin.retain(|_, here| !here.is_empty());
        state.is_swept = !state.by_origin.is_empty();
        let is_kept = state.is_swept;
        drop(state);
        // Closing a connection takes a moment, and needs no lock.
        drop(old);
        is_kept
    }
}

/// Closes connections in time although nobody asks for one; ends with the last of them.
async fn sweep(idle: Weak<IdleConnections>, keep_alive: Duration) {
    let every = keep_alive.max(Duration::from_millis(10));
    loop {
        tokio::time::sleep(every).await;
        match idle.upgrade() {
            Some(idle) if idle.close_old() => {}
            _ => return,
        }
    }
}

/// The body of an answer, which moves its connection as it is read.
///
/// At its end the connection is kept for the next request; dropped before, it is closed.
pub struct UpstreamBody {
    framing: Framing,
    /// Read and not looked at yet: what came together with the head.
    ahead: Bytes,
    /// Gone at the end.
    connection: Option<Box<Connection>>,
    /// The connection can be used again.
    keeps: bool,
    idle: Weak<IdleConnections>,
}

impl std::fmt::Debug for UpstreamBody {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("UpstreamBody")
            .finish_non_exhaustive()
    }
}

impl UpstreamBody {
    /// The payload of one read. None at the end.
    fn poll_payload(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        while let Some(connection) = &mut self.connection {
            let taken = if self.ahead.is_empty() {
                ready!(connection.poll(context, |read| self.framing.take(read)))
            } else {
                self.framing
                    .take(&std::mem::take(&mut self.ahead))
                    .map_err(io::Error::from)
            };
            let payload = match taken {
                Ok((payload, rest)) => {
                    self.ahead = rest;
                    payload
                }
                Err(error) => {
                    self.connection = None;
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
        let connection = self
            .connection
            .take()
            .filter(|_| self.keeps && self.ahead.is_empty());
        if let Some((connection, idle)) = connection.zip(self.idle.upgrade()) {
            idle.keep(connection);
        }
    }
}

impl Body for UpstreamBody {
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
        self.connection.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.framing {
            Framing::Length(left) => SizeHint::with_exact(left),
            _ => SizeHint::default(),
        }
    }
}
