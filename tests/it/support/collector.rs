//! A collector of traces and metrics: it keeps what it was sent, as it stood on the wire.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

use super::wire::{self, Request};

/// A collector. It keeps what it was sent, and answers 200, unless it is to say nothing.
pub(crate) struct Collector {
    pub(crate) url: String,
    got: Arc<Mutex<Vec<Request>>>,
    listening: tokio::task::JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Collector {
    /// Listens on a port of its own, and answers or never does.
    pub(crate) async fn start(answers: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let got: Arc<Mutex<Vec<Request>>> = Arc::default();
        let kept = got.clone();
        let listening = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.spawn(serve(stream, kept.clone(), answers));
            }
        });
        Self {
            url,
            got,
            listening,
        }
    }

    /// Everything that it was sent, as it stood on the wire.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.got.lock().unwrap().clone()
    }

    /// The bodies that came to a path.
    pub(crate) fn bodies(&self, path: &str) -> Vec<Vec<u8>> {
        let got = self.got.lock().unwrap();
        got.iter()
            .filter(|request| request.target == path)
            .map(|request| request.body.clone())
            .collect()
    }

    /// Every span so far.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let batches = self
            .bodies("/v1/traces")
            .into_iter()
            .map(|body| ExportTraceServiceRequest::decode(&*body).unwrap());
        let spans = batches
            .flat_map(|batch| batch.resource_spans)
            .flat_map(|of| of.scope_spans);
        spans.flat_map(|scope| scope.spans).collect()
    }

    /// Waits for so many spans.
    pub(crate) async fn until_spans(&self, count: usize) -> Vec<Span> {
        let begun = Instant::now();
        while self.spans().len() < count {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "{:#?}",
                self.spans()
            );
            sleep(Duration::from_millis(50)).await;
        }
        self.spans()
    }
}

async fn serve(stream: TcpStream, kept: Arc<Mutex<Vec<Request>>>, answers: bool) {
    let mut stream = BufReader::new(stream);
    while let Ok(Some(request)) = wire::read_request(&mut stream).await {
        kept.lock().unwrap().push(request);
        if !answers {
            sleep(Duration::from_hours(1)).await;
        }
        if stream
            .write_all(&wire::answer(200, "application/x-protobuf", b""))
            .await
            .is_err()
        {
            return;
        }
    }
}
