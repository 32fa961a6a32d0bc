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
use hyper::rt::{Read, ReadBuf, Write};
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::framing::ProtocolError;
use super::head::{Head, HeadReader};
use super::request::{Origin, Request};

pub(super) type Io = MaybeHttpsStream<TokioIo<TcpStream>>;

/// The most that is read at once, in bytes.
const READ_BYTES: usize = 8 * 1024;

/// A connection, and what is still to be sent on it.
pub(super) struct Connection {
    io: Io,
    pub(super) origin: Origin,
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
    fn poll(&mut self, io: &mut Io, context: &mut Context<'_>) -> Poll<io::Result<()>> {
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

impl Connection {
    pub(super) fn new(io: Io, origin: Origin) -> Self {
        Self {
            io,
            origin,
            outgoing: None,
            is_cut: false,
        }
    }

    /// Whether nobody has closed it or sent what was not asked for. Nobody is woken for it later.
    pub(super) fn is_usable(&mut self) -> bool {
        // A task that has read much is told that there is nothing, to let others run: that must not be believed here.
        let look = tokio::task::unconstrained(poll_fn(|context| self.poll(context, |_| Ok(()))));
        pin!(look)
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_pending()
    }

    /// Sends a request and reads the head of its answer, and what came together with it.
    pub(super) async fn exchange(&mut self, request: Request) -> io::Result<(Head, Bytes)> {
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

    /// Sends on, as far as it goes now, and reads once.
    pub(super) fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        take: impl FnOnce(&[u8]) -> Result<T, ProtocolError>,
    ) -> Poll<io::Result<T>> {
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
