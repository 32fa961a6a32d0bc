//! HTTP/1.1 on one connection to an upstream: a request goes out while its answer comes in.
//!
//! It has no task and, between two events, no buffer: what is read lands on the stack of whoever reads, and only a head that
//! is not whole yet is kept. Nobody but whoever polls an exchange moves its bytes, so what is given up cannot be sent by
//! anybody else a moment later. Invariant: `sent` is true before the first byte of a request can be on its way.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker, ready};

use bytes::buf::Chain;
use bytes::{Buf, Bytes};
use http::uri::{Authority, Scheme};
use hyper::rt::{Read, ReadBuf, Write};

use crate::framing::ProtocolError;
use crate::head::{Head, HeadReader};

/// The most that is read at once, in bytes.
const READ_BYTES: usize = 8 * 1024;

/// Where a connection leads.
pub type Origin = (Scheme, Authority);

/// A request as bytes, and where it goes. Its head is sent as it is: whoever wrote it answers for it.
///
/// Not [`Debug`](std::fmt::Debug): its head has a key.
pub struct Request {
    /// Where it goes.
    pub origin: Origin,
    /// Its head, to the empty line.
    pub head: Bytes,
    /// What follows the head.
    pub body: Bytes,
    /// True from the moment at which the upstream may have any of it.
    pub sent: Arc<AtomicBool>,
}

/// A connection, and what is still to be sent on it.
pub struct Connection<T> {
    io: T,
    /// Where it leads.
    pub origin: Origin,
    outgoing: Option<RequestRest>,
    /// The request could not be sent to its end.
    is_cut: bool,
}

/// What is left of a request.
struct RequestRest {
    bytes: Chain<Bytes, Bytes>,
    sent: Arc<AtomicBool>,
}

impl RequestRest {
    fn poll<T: Write + Unpin>(
        &mut self,
        io: &mut T,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.bytes.has_remaining() {
            self.sent.store(true, Ordering::Release);
            let mut parts = [IoSlice::new(&[]); 2];
            let count = self.bytes.chunks_vectored(&mut parts);
            let parts = parts.get(..count).unwrap_or_default();
            let written = ready!(Pin::new(&mut *io).poll_write_vectored(context, parts))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.bytes.advance(written.min(self.bytes.remaining()));
        }
        Pin::new(io).poll_flush(context)
    }
}

impl<T: Read + Write + Unpin> Connection<T> {
    /// A connection that was made, on which nothing was sent.
    pub fn new(io: T, origin: Origin) -> Self {
        Self {
            io,
            origin,
            outgoing: None,
            is_cut: false,
        }
    }

    /// Whether nobody has closed it or sent what was not asked for. Nobody is woken for it later.
    pub fn is_usable(&mut self) -> bool {
        // A task that has read much is told that there is nothing, to let others run: that must not be believed here.
        let look = tokio::task::unconstrained(poll_fn(|context| self.poll(context, |_| Ok(()))));
        pin!(look)
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_pending()
    }

    /// Sends a request and reads the head of its answer, and what came together with it.
    ///
    /// # Errors
    /// The connection broke, or what came is no answer ([`ProtocolError`]).
    pub async fn exchange(&mut self, request: Request) -> io::Result<(Head, Bytes)> {
        let Request {
            head, body, sent, ..
        } = request;
        self.outgoing = Some(RequestRest {
            bytes: head.chain(body),
            sent,
        });
        let mut heads = HeadReader::default();
        poll_fn(|context| self.poll_head(&mut heads, context)).await
    }

    fn poll_head(
        &mut self,
        heads: &mut HeadReader,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<(Head, Bytes)>> {
        loop {
            if let Some((mut head, ahead)) = ready!(self.poll(context, |read| heads.take(read)))? {
                // It answered before it had the request: nobody knows whether it will take the rest.
                head.keeps &= self.outgoing.is_none() && !self.is_cut;
                return Poll::Ready(Ok((head, ahead)));
            }
        }
    }

    /// Sends on, as far as it goes now, and reads once. What was read is given to `take`; nothing read means that the
    /// connection was closed.
    ///
    /// # Errors
    /// The connection broke, or `take` refused what was read.
    pub fn poll<R>(
        &mut self,
        context: &mut Context<'_>,
        take: impl FnOnce(&[u8]) -> Result<R, ProtocolError>,
    ) -> Poll<io::Result<R>> {
        if let Some(outgoing) = &mut self.outgoing
            && let Poll::Ready(outcome) = outgoing.poll(&mut self.io, context)
        {
            self.outgoing = None;
            // An upstream may answer and close before it took the request. What it said, or that it left, is read now.
            self.is_cut = outcome.is_err();
        }
        // Whoever waits for more holds no buffer meanwhile.
        let mut space = [MaybeUninit::uninit(); READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.io).poll_read(context, buffer.unfilled()))?;
        Poll::Ready(take(buffer.filled()).map_err(io::Error::from))
    }
}
