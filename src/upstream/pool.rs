//! Connections to upstreams: dialled, kept for the next request, and driven by whoever reads their answer.
//!
//! hyper speaks HTTP. What is ours is that a connection has no task of its own: the request's task moves its bytes, so an
//! event of a stream wakes one task and not two, and what is given up cannot be sent by anybody else a moment later. The
//! price is that a close by the upstream is noticed only when the connection is looked at again, which is before each use.
//! Invariant: nobody but whoever polls the exchange moves its bytes.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Response, Uri, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::rt::Executor;
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tower::ServiceExt;

use super::{ANSWER_HEAD_BYTES_MAX, BoxError, IDLE_CONNECTIONS_MAX, Watched};

type Io = MaybeHttpsStream<TokioIo<TcpStream>>;
/// Where a connection leads.
type Origin = (Scheme, Authority);

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
    of: HashMap<Origin, Vec<(Box<Wire>, Instant)>>,
    /// A task looks for those that were kept for too long.
    is_swept: bool,
}

/// A connection, and the way to give it requests.
struct Wire {
    sender: http1::SendRequest<Watched>,
    /// None once it is at its end. (Only its drop tells who waits for an answer that there will be none.)
    connection: Option<http1::Connection<Io, Watched>>,
    origin: Origin,
}

/// Why there is no answer.
enum Failed {
    /// As it says.
    For(BoxError),
    /// The connection was closed before it took the request, which is given back.
    Unused(Box<Request<Watched>>),
}

impl Pool {
    /// A connection that nobody uses for `keep_alive` is closed. Dials nobody.
    pub(super) fn new(connector: super::Connector, keep_alive: Duration) -> Self {
        Self { connector, stock: Arc::new(Stock { keep_alive, kept: Mutex::default() }) }
    }

    /// Sends a request on a connection that is kept, or else on a new one. It goes to another connection only if one that
    /// was kept had been closed before it took the request.
    pub(super) async fn request(&self, request: Request<Watched>) -> Result<Response<Received>, BoxError> {
        let (origin, mut request) = addressed(request)?;
        while let Some(wire) = self.stock.take(&origin) {
            match self.exchange(wire, request).await {
                Ok(response) => return Ok(response),
                Err(Failed::For(error)) => return Err(error),
                Err(Failed::Unused(unused)) => request = *unused,
            }
        }
        let wire = self.dial(origin).await?;
        match self.exchange(wire, request).await {
            Ok(response) => Ok(response),
            Err(Failed::For(error)) => Err(error),
            Err(Failed::Unused(_)) => Err("the connection was closed as soon as it was made".into()),
        }
    }

    async fn dial(&self, origin: Origin) -> Result<Box<Wire>, BoxError> {
        let (scheme, authority) = origin.clone();
        let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query("/").build()?;
        let io = self.connector.clone().oneshot(uri).await?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(ANSWER_HEAD_BYTES_MAX);
        let (sender, connection) = builder.handshake(io).await?;
        Ok(Box::new(Wire { sender, connection: Some(connection), origin }))
    }

    /// One request and the head of its answer.
    async fn exchange(&self, mut wire: Box<Wire>, request: Request<Watched>) -> Result<Response<Received>, Failed> {
        let answered = wire.sender.try_send_request(request);
        let mut answered = pin!(answered);
        let outcome = poll_fn(|context| {
            wire.advance(context);
            answered.as_mut().poll(context)
        });
        let response = outcome.await.map_err(|mut failed| match failed.take_message() {
            Some(unused) => Failed::Unused(Box::new(unused)),
            None => Failed::For(failed.into_error().into()),
        })?;
        let (stock, wire) = (Arc::downgrade(&self.stock), Some(wire));
        Ok(response.map(|incoming| Received { incoming, wire, stock }))
    }
}

/// What a request says of its way, as HTTP/1.1 has it: the path in its first line, the host in a header (RFC 9112 §3.2.1).
fn addressed(mut request: Request<Watched>) -> Result<(Origin, Request<Watched>), BoxError> {
    let uri = std::mem::take(request.uri_mut()).into_parts();
    let (Some(scheme), Some(authority)) = (uri.scheme, uri.authority) else {
        return Err("an upstream's address has no scheme or no host".into());
    };
    let default_port = if scheme == Scheme::HTTPS { 443 } else { 80 };
    let host = match authority.port_u16() {
        Some(port) if port != default_port => HeaderValue::try_from(format!("{}:{port}", authority.host()))?,
        _ => HeaderValue::from_str(authority.host())?,
    };
    request.headers_mut().insert(header::HOST, host);
    *request.uri_mut() = uri.path_and_query.map(Uri::from).unwrap_or_default();
    Ok(((scheme, authority), request))
}

impl Wire {
    /// Moves bytes in both directions, as far as they go now.
    fn advance(&mut self, context: &mut Context<'_>) {
        let Some(connection) = &mut self.connection else { return };
        if Pin::new(connection).poll(context).is_ready() {
            // Its error reaches whoever waits for the answer or reads it.
            self.connection = None;
        }
    }

    /// Whether it takes a request now. Nobody is woken for it later.
    fn is_usable(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        self.advance(&mut context);
        self.connection.is_some() && matches!(self.sender.poll_ready(&mut context), Poll::Ready(Ok(())))
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
    incoming: Incoming,
    wire: Option<Box<Wire>>,
    stock: Weak<Stock>,
}

impl std::fmt::Debug for Received {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Received").finish_non_exhaustive()
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        // hyper hands over one piece at a time, and only when it was asked for one.
        let mut next = Pin::new(&mut this.incoming).poll_frame(context);
        if let (Poll::Pending, Some(wire)) = (&next, &mut this.wire) {
            wire.advance(context);
            next = Pin::new(&mut this.incoming).poll_frame(context);
        }
        let next = ready!(next);
        if !matches!(next, Some(Ok(_))) {
            let wire = this.wire.take().filter(|_| next.is_none());
            if let Some((wire, stock)) = wire.zip(this.stock.upgrade()) {
                stock.keep(wire);
            }
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        // Whoever stops reading here would have the connection closed.
        self.incoming.is_end_stream() && self.wire.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
