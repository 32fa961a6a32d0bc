//! The HTTP client for all that is not a user's request: keys, the developer's REST API, the questions of `doctor` and
//! `health`, a collector of traces. Requests to providers go through `upstream/`.
//!
//! HTTP/1.1, TLS by rustls with the web's public roots. Redirects are not followed, so a key goes to the host that the
//! operator named and to no other. Answers are bounded in bytes here. Time is bounded by the caller, whose wait may cover
//! more than the call.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// What the other side is told of the caller. A plain name: Supabase refuses secret keys from what looks like a browser.
pub(crate) const USER_AGENT: &str = concat!("tollgate/", env!("CARGO_PKG_VERSION"));

/// How long an idle connection is kept: shorter than what stands in front of PostgREST keeps it.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// A client. Clones share its connections.
#[derive(Clone, Debug)]
pub(crate) struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    answer_bytes_max: usize,
}

impl HttpClient {
    /// A client that reads at most `answer_bytes_max` of an answer's body, and keeps so many idle connections to a host
    /// for [`KEEP_ALIVE`]. Dials nobody.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub(crate) fn new(
        answer_bytes_max: usize,
        idle_connections_max: usize,
    ) -> Result<Self, rustls::Error> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        // Nagle with delayed ACK costs 40 ms on the small writes of a request.
        tcp.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(rustls::crypto::aws_lc_rs::default_provider())?
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        // A call that met a stale connection before anything was sent is sent again: hyper's default.
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEEP_ALIVE)
            .pool_max_idle_per_host(idle_connections_max)
            .build(connector);
        Ok(Self {
            client,
            answer_bytes_max,
        })
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn send(
        &self,
        request: Request<Bytes>,
    ) -> Result<Response<Incoming>, HttpError> {
        let sent = self.client.request(request.map(Full::new)).await;
        sent.map_err(|error| {
            if error.is_connect() {
                HttpError::Connect(innermost(&error))
            } else {
                HttpError::Broken(innermost(&error))
            }
        })
    }

    /// Reads the body of an answer.
    pub(crate) async fn read(&self, body: Incoming) -> Result<Bytes, HttpError> {
        let read = Limited::new(body, self.answer_bytes_max).collect().await;
        read.map(http_body_util::Collected::to_bytes)
            .map_err(|_| HttpError::Unread {
                bytes_max: self.answer_bytes_max,
            })
    }
}

/// Why there is no answer. It holds neither the URL nor a header, which may be secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HttpError {
    /// No name, no connection or no TLS: nothing was sent. With the cause.
    Connect(String),
    /// The connection broke before the head of an answer. With the cause.
    Broken(String),
    /// The answer broke off, or was longer than so many bytes.
    Unread {
        /// The bound.
        bytes_max: usize,
    },
}

impl HttpError {
    /// What happened, for those who are not told the cause.
    pub(crate) const fn summary(&self) -> &'static str {
        match self {
            Self::Connect(_) => "cannot connect",
            Self::Broken(_) => "the connection broke",
            Self::Unread { .. } => "the answer broke off or was too long",
        }
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(cause) | Self::Broken(cause) => {
                write!(f, "{}: {cause}", self.summary())
            }
            Self::Unread { bytes_max } => write!(
                f,
                "the answer broke off or was longer than {} KiB",
                bytes_max.div_euclid(1024)
            ),
        }
    }
}

impl Error for HttpError {}

/// The first cause is the one that says something (`Connection refused`).
fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Asks a server that writes `answer` to whatever it is sent and closes.
    async fn asked(answer: &'static str, bytes_max: usize) -> Result<Bytes, HttpError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let client = HttpClient::new(bytes_max, 0).unwrap();
        let serve = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            assert!(socket.read(&mut [0; 4096]).await.unwrap() > 0);
            socket.write_all(answer.as_bytes()).await.unwrap();
        };
        let ask = async {
            let response = client.send(Request::get(&url).body(Bytes::new()).unwrap());
            client.read(response.await?.into_body()).await
        };
        tokio::join!(serve, ask).1
    }

    #[tokio::test]
    async fn an_answer_is_read_whole_or_not_at_all() {
        let whole = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfour";
        assert_eq!(asked(whole, 4).await.unwrap(), "four");
        let unread = Err(HttpError::Unread { bytes_max: 3 });
        assert_eq!(asked(whole, 3).await, unread);
        let cut = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfour";
        assert!(asked(cut, 5).await.is_err());
        let broken = asked("", 5).await.unwrap_err();
        assert_eq!(broken.summary(), "the connection broke");
    }

    #[tokio::test]
    async fn nobody_there_is_told_with_its_cause() {
        let client = HttpClient::new(1, 0).unwrap();
        let nobody = Request::get("http://127.0.0.1:9/").body(Bytes::new());
        let told = client.send(nobody.unwrap()).await.unwrap_err().to_string();
        assert!(
            told.starts_with("cannot connect: ") && told.contains("refused"),
            "{told}"
        );
    }
}
