//! Callers below HTTP: bytes on a socket, as slowly or as wrongly as a test likes.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// A connection to the product.
pub(crate) struct Wire(TcpStream);

impl Wire {
    /// Connects.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    /// Connects with the smallest buffer for what is received: a reader that does not read is felt at once.
    pub(crate) async fn open_narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(2048).unwrap();
        Self(socket.connect(address).await.unwrap())
    }

    /// Sends bytes. An error means that the product closed.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }

    /// Reads until the product closes, or until it is silent for so long. What came, and whether it closed.
    pub(crate) async fn read(&mut self, patience: Duration) -> (String, bool) {
        let mut all = Vec::new();
        let mut buffer = vec![0; 16 * 1024];
        loop {
            match timeout(patience, self.0.read(&mut buffer)).await {
                Err(_) => return (String::from_utf8_lossy(&all).into_owned(), false),
                Ok(Ok(0) | Err(_)) => return (String::from_utf8_lossy(&all).into_owned(), true),
                Ok(Ok(count)) => all.extend_from_slice(&buffer[..count]),
            }
        }
    }

    /// Whether the product closes within so long.
    pub(crate) async fn is_closed_within(&mut self, patience: Duration) -> bool {
        timeout(patience, self.read(patience)).await.is_ok_and(|(_, closed)| closed)
    }
}

/// The statuses of the answers in what was read, in order.
pub(crate) fn statuses(text: &str) -> Vec<u16> {
    let heads = text.split("HTTP/1.").skip(1);
    heads.filter_map(|rest| rest.get(2..5)?.parse().ok()).collect()
}
