//! Closes a listener without turning away anybody who has connected.
//!
//! The kernel completes connections and keeps them in a queue. Closing the listener resets those: a proxy has sent its
//! request by then, and may not send it again, because it could have been processed. A client that cannot connect may
//! try again. So new connections are refused first, then the queue is emptied, and only then is the listener closed.

use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

/// How long no connection may arrive before the queue counts as empty: handshakes that were half-way get this long.
const QUIET: Duration = Duration::from_millis(50);
/// The most that are taken in then; no queue is longer.
const CALLERS_MAX: usize = 4096;

/// Shuts the door, and gives back who was in the queue. The listener is to be dropped then.
pub(crate) async fn last_callers(listener: &TcpListener) -> Vec<TcpStream> {
    if let Err(error) = shut(listener) {
        tracing::debug!(%error, "who connects just now may be cut off");
    }
    let mut callers = Vec::new();
    while callers.len() < CALLERS_MAX
        && let Ok(Ok((stream, _))) = tokio::time::timeout(QUIET, listener.accept()).await
    {
        callers.push(stream);
    }
    callers
}

/// Makes the kernel drop new SYN packets: the client retries a second later, and is refused then.
#[cfg(target_os = "linux")]
fn shut(listener: &TcpListener) -> std::io::Result<()> {
    use socket2::{SockFilter, SockRef};
    // Where the flags are in a TCP header, and the one that opens a connection.
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    // Load a byte, mask it; not zero: the first return, which drops the packet.
    let (load, and, if_equal, give_back) = (0x30, 0x54, 0x15, 0x06);
    SockRef::from(listener).attach_filter(&[
        SockFilter::new(load, 0, 0, FLAGS),
        SockFilter::new(and, 0, 0, SYN),
        SockFilter::new(if_equal, 1, 0, 0),
        SockFilter::new(give_back, 0, 0, 0),
        SockFilter::new(give_back, 0, 0, u32::MAX),
    ])
}

/// There is no such filter elsewhere.
#[cfg(not(target_os = "linux"))]
fn shut(_: &TcpListener) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn who_waits_in_the_queue_is_served_and_who_comes_later_cannot_connect() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let waiting = (
            TcpStream::connect(address).await.unwrap(),
            TcpStream::connect(address).await.unwrap(),
        );
        let mut callers = last_callers(&listener).await;
        assert_eq!(callers.len(), 2);
        let mut late = Box::pin(TcpStream::connect(address));
        let soon = tokio::time::timeout(Duration::from_millis(100), &mut late).await;
        assert!(soon.is_err(), "it is not let in, and not refused yet");
        drop(listener);
        assert_eq!(
            late.await.unwrap_err().kind(),
            std::io::ErrorKind::ConnectionRefused
        );
        // What was accepted is whole.
        callers.remove(0).write_all(b"yes").await.unwrap();
        let mut said = String::new();
        let mut first = waiting.0;
        first.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "yes");
    }
}
