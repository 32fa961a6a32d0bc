//! The real client, from `http1/` and `src/upstream/pool.rs`, with the little that it needs around it.
#![allow(dead_code, reason = "not all of it is used here")]

#[path = "../../../src/upstream/pool.rs"]
mod pool;

use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http::uri::Scheme;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

pub use self::pool::UpstreamBody;

mod answer {
    #[derive(Debug)]
    pub(super) struct Answer {
        pub(super) status: http::StatusCode,
        pub(super) headers: http::HeaderMap,
        pub(super) body: super::UpstreamBody,
    }
}

pub type Io = hyper_rustls::MaybeHttpsStream<TokioIo<TcpStream>>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;
const IDLE_CONNECTIONS_MAX: usize = 256;

#[derive(Clone)]
struct Connector;

impl tower::Service<Uri> for Connector {
    type Response = Io;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Io, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(async move {
            let authority = uri.authority().ok_or("no address")?.as_str().to_owned();
            connect(&authority).await
        })
    }
}

pub async fn connect(authority: &str) -> Result<Io, BoxError> {
    let socket = TcpStream::connect(authority).await?;
    socket.set_nodelay(true)?;
    Ok(Io::Http(TokioIo::new(socket)))
}

#[derive(Clone)]
pub struct Client(pool::Pool);

impl Client {
    pub fn new() -> Self {
        Self(pool::Pool::new(Connector, Duration::from_secs(60)))
    }

    pub async fn request(
        &self,
        authority: &str,
        kind: &str,
        headers: &str,
        body: &'static str,
    ) -> UpstreamBody {
        let mut head = Vec::with_capacity(512);
        write!(
            head,
            "POST /{kind} HTTP/1.1\r\nhost: {authority}\r\n{headers}content-length: {}\r\n\r\n",
            body.len()
        )
        .unwrap();
        let request = tollgate_http1::Request {
            origin: (Scheme::HTTP, authority.parse().unwrap()),
            head: head.into(),
            body: Bytes::from_static(body.as_bytes()),
            sent: Arc::default(),
        };
        let answer = self.0.request(request).await.unwrap();
        assert_eq!(answer.status, 200);
        answer.body
    }
}
