//! A wire between the product and a server that the test can make one-way, or cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Passes everything on, until told otherwise.
pub(crate) struct Relay {
    port: u16,
    mute: Arc<AtomicBool>,
    cut: watch::Sender<u64>,
    listening: JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Relay {
    /// Listens on a port of its own, for a server on 127.0.0.1.
    pub(crate) async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mute = Arc::new(AtomicBool::new(false));
        let cut = watch::Sender::new(0);
        let (hears, cuts) = (mute.clone(), cut.clone());
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else {
                    continue;
                };
                let ((from_client, to_client), (from_server, to_server)) =
                    (client.into_split(), server.into_split());
                tokio::spawn(pass(
                    from_client,
                    to_server,
                    Arc::default(),
                    cuts.subscribe(),
                ));
                tokio::spawn(pass(
                    from_server,
                    to_client,
                    hears.clone(),
                    cuts.subscribe(),
                ));
            }
        });
        Self {
            port,
            mute,
            cut,
            listening,
        }
    }

    /// Where it listens.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// What the server says gets lost from now on; what it is told still arrives.
    pub(crate) fn lose_answers(&self) {
        self.mute.store(true, Ordering::SeqCst);
    }

    /// What the server says arrives again. Whoever waits for what got lost waits on.
    pub(crate) fn hear_again(&self) {
        self.mute.store(false, Ordering::SeqCst);
    }

    /// Breaks every connection; new ones work.
    pub(crate) fn cut(&self) {
        self.mute.store(false, Ordering::SeqCst);
        self.cut.send_modify(|count| *count += 1);
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mute: Arc<AtomicBool>,
    mut cut: watch::Receiver<u64>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = tokio::select! {
            count = from.read(&mut buffer) => count.unwrap_or(0),
            _ = cut.changed() => 0,
        };
        let lost = mute.load(Ordering::SeqCst);
        if count == 0 || !lost && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
