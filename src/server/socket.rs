//! A client's socket: how much the kernel may buffer for it, and what is noticed when it is read and written.
//!
//! The kernel's memory is memory of this machine, and no limit of a process counts it. A client that does not read gets
//! at most [`UNREAD_BYTES_MAX`], and its next request is not answered until it has read them (`ConnectionSlot::is_unread`).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_io_timeout::TimeoutStream;

use crate::server::slots::ConnectionSlot;

/// How much of an answer the kernel takes for a caller who does not read it. It sets aside twice as much, and without this
/// bound up to `net.ipv4.tcp_wmem`, which is 4 MiB for each connection.
const UNREAD_BYTES_MAX: usize = 64 * 1024;
/// How much of a request the kernel takes while nobody reads it here, as above. It bounds how fast a long body comes from far
/// away: 128 KiB each time there and back.
const UNTAKEN_BYTES_MAX: usize = 128 * 1024;

/// Bounds what the kernel keeps for each connection that this listener accepts from now on.
pub(crate) fn bound_buffers(listener: &TcpListener) {
    let bounded = set_socket_send_buffer_size(listener, UNREAD_BYTES_MAX)
        .and_then(|()| set_socket_recv_buffer_size(listener, UNTAKEN_BYTES_MAX));
    if let Err(error) = bounded {
        tracing::warn!(%error, "the kernel's buffers for callers stay as large as the system lets them grow");
    }
}

/// A socket that closes when its client does not read for `write_timeout`, and reports to its slot what passes.
pub(crate) struct Socket {
    stream: Pin<Box<TimeoutStream<TcpStream>>>,
    slot: Arc<ConnectionSlot>,
}

impl Socket {
    pub(crate) fn new(
        stream: TcpStream,
        write_timeout: Duration,
        slot: Arc<ConnectionSlot>,
    ) -> Self {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let mut timed = TimeoutStream::new(stream);
        timed.set_write_timeout(Some(write_timeout));
        Self {
            stream: Box::pin(timed),
            slot,
        }
    }

    fn wrote<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.slot.wrote(written.is_pending());
        written
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = self.stream.as_mut().poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.slot.begins();
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.stream.as_mut().poll_write(context, bytes);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.stream.as_mut().poll_write_vectored(context, slices);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(context)
    }
}
