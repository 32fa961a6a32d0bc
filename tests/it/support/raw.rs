//! Callers below HTTP: bytes on a socket, as slowly or as wrongly as a test likes.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

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

    /// Sends a request, however odd, and when it is answered an ordinary one behind it: everything that the product took
    /// for a request is answered before that one is. The statuses without that last one, and what became of the connection.
    pub(crate) async fn ask_and_look_behind(&mut self, bytes: &[u8]) -> (Vec<u16>, After) {
        let _ = self.send(bytes).await;
        let mut text = String::new();
        let begun = Instant::now();
        while statuses(&text).is_empty() && begun.elapsed() < Duration::from_secs(8) {
            let (more, closed) = self.read(Duration::from_millis(100)).await;
            text += &more;
            if closed {
                return (statuses(&text), After::Closed);
            }
        }
        if statuses(&text).is_empty() {
            return (Vec::new(), After::Waiting);
        }
        let _ = self
            .send(b"GET / HTTP/1.1\r\nHost: behind.test\r\nConnection: close\r\n\r\n")
            .await;
        let (behind, closed) = self.read(Duration::from_secs(8)).await;
        assert!(closed, "it was asked to close: {behind}");
        text += &behind;
        let mut all = statuses(&text);
        let is_alive = behind
            .rsplit("HTTP/1.1 ")
            .next()
            .is_some_and(|last| last.starts_with("200") && last.contains("tollgate"));
        if !is_alive {
            return (all, After::Closed);
        }
        all.pop();
        (all, After::Open)
    }
}

/// What became of a connection after an odd request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// The product closed it.
    Closed,
    /// The next request on it was answered.
    Open,
    /// Nothing came: the product waits for more.
    Waiting,
}

/// An answer as the page of odd requests has it.
pub(crate) fn told((statuses, after): (&[u16], After)) -> String {
    let statuses: Vec<String> = statuses.iter().map(ToString::to_string).collect();
    match (statuses.join(", then "), after) {
        (none, After::Closed) if none.is_empty() => "closed without an answer".to_owned(),
        (none, After::Waiting) if none.is_empty() => "none: it waits for the rest".to_owned(),
        (all, After::Closed) => format!("{all}, closed"),
        (all, _) => all,
    }
}

/// The statuses of the answers in what was read, in order.
pub(crate) fn statuses(text: &str) -> Vec<u16> {
    let heads = text.split("HTTP/1.").skip(1);
    heads
        .filter_map(|rest| rest.get(2..5)?.parse().ok())
        .collect()
}
