//! Our HTTP/1 client (`http1/`) beside hyper's `client::conn::http1`, whose connection is polled in the task of its
//! request: `just bench-client`.
//!
//!     tollgate-bench-client server PORT
//!     tollgate-bench-client ours|hyper PORT KIND COUNT [AT_ONCE] [BUFFER_BYTES]
//!
//! KIND is `whole` (one JSON answer), `stream` (64 events, each a chunk of its own) or `hold` (three events, then silence:
//! what a stream takes of memory is printed).

mod upstream;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use upstream::{Client, Io};

const BODY: &str = r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Say something about the sea, in three sentences, please."}],"stream":true,"max_tokens":300}"#;
const HEAD: &str = "content-type: application/json\r\naccept-encoding: identity\r\nuser-agent: tollgate/0.1\r\naccept: text/event-stream\r\nx-client-request-id: 0190a0b0-0000-7000-8000-000000000000\r\nauthorization: Bearer sk-0123456789012345678901234567890123456789\r\n";
const EVENT: &str = "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"gpt-4o-mini\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\"finish_reason\":null}]}\n\n";
const ANSWER_HEADERS: &str = "date: Mon, 30 Nov 2026 06:00:00 GMT\r\nopenai-organization: org\r\nopenai-processing-ms: 100\r\nopenai-version: 2020-10-01\r\nx-ratelimit-limit-requests: 10000\r\nx-ratelimit-remaining-requests: 9999\r\nx-request-id: req_0123456789\r\nserver: x\r\n";

async fn serve(port: u16) {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    loop {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        tokio::task::spawn_local(async move {
            let mut buffer = vec![0; 16384];
            loop {
                let mut have = 0;
                loop {
                    let n = socket.read(&mut buffer[have..]).await.unwrap_or(0);
                    if n == 0 {
                        return;
                    }
                    have += n;
                    if let Some(at) = memchr::memmem::find(&buffer[..have], b"\r\n\r\n") {
                        if have >= at + 4 + BODY.len() {
                            break;
                        }
                    }
                }
                let text = String::from_utf8_lossy(&buffer[..have]).into_owned();
                if text.starts_with("POST /whole") {
                    let body = format!(
                        "{{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"choices\":[{{\"index\":0,\"message\":{{\"role\":\"assistant\",\"content\":\"{}\"}}}}],\"usage\":{{\"prompt_tokens\":20,\"completion_tokens\":60,\"total_tokens\":80}}}}",
                        "word ".repeat(60)
                    );
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\n{ANSWER_HEADERS}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    socket.write_all(answer.as_bytes()).await.unwrap();
                    continue;
                }
                let is_held = text.starts_with("POST /hold");
                socket.write_all(format!("HTTP/1.1 200 OK\r\n{ANSWER_HEADERS}content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n").as_bytes()).await.unwrap();
                let chunk = format!("{:x}\r\n{EVENT}\r\n", EVENT.len());
                for _ in 0..if is_held { 3 } else { 64 } {
                    socket.write_all(chunk.as_bytes()).await.unwrap();
                    tokio::task::yield_now().await;
                }
                if is_held {
                    std::future::pending::<()>().await;
                }
                socket.write_all(b"0\r\n\r\n").await.unwrap();
            }
        });
    }
}

type Conn = Connection<Io, Full<Bytes>>;
struct IdleConnection {
    send: SendRequest<Full<Bytes>>,
    conn: Box<Conn>,
}
type Idle = Arc<Mutex<Vec<IdleConnection>>>;

/// hyper's connection, polled in the task of the request.
struct HyperBody {
    kept: Option<IdleConnection>,
    body: hyper::body::Incoming,
    idle: Idle,
}

impl IdleConnection {
    fn is_usable(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(&mut *self.conn).poll(&mut context).is_pending() && self.send.is_ready()
    }
}

impl Body for HyperBody {
    type Data = Bytes;
    type Error = hyper::Error;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        loop {
            if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
                if frame.is_none()
                    && let Some(mut kept) = this.kept.take()
                    && kept.is_usable()
                {
                    this.idle.lock().unwrap().push(kept);
                }
                return Poll::Ready(frame);
            }
            let Some(kept) = &mut this.kept else {
                return Poll::Pending;
            };
            let done = Pin::new(&mut *kept.conn).poll(context);
            if done.is_ready() {
                this.kept = None;
                continue;
            }
            match Pin::new(&mut this.body).poll_frame(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(frame) => {
                    if frame.is_none()
                        && let Some(mut kept) = this.kept.take()
                        && kept.is_usable()
                    {
                        this.idle.lock().unwrap().push(kept);
                    }
                    return Poll::Ready(frame);
                }
            }
        }
    }
}

async fn hyper_request(
    authority: &str,
    kind: &str,
    idle: &Idle,
    buffer: usize,
) -> (http::StatusCode, HyperBody) {
    let kept = loop {
        let Some(mut kept) = idle.lock().unwrap().pop() else {
            break None;
        };
        if kept.is_usable() {
            break Some(kept);
        }
    };
    let mut kept = match kept {
        Some(kept) => kept,
        None => {
            let io = upstream::connect(authority).await.unwrap();
            let mut builder = Builder::new();
            builder.read_buf_exact_size(Some(buffer)).writev(true);
            let (send, conn) = builder.handshake(io).await.unwrap();
            IdleConnection {
                send,
                conn: Box::new(conn),
            }
        }
    };
    let mut request = http::Request::post(format!("/{kind}")).header("host", authority);
    for line in HEAD.trim_end().split("\r\n") {
        let (name, value) = line.split_once(": ").unwrap();
        request = request.header(
            http::HeaderName::from_static(known(name)),
            http::HeaderValue::from_str(value).unwrap(),
        );
    }
    let request = request
        .body(Full::new(Bytes::from_static(BODY.as_bytes())))
        .unwrap();
    let mut answer = Box::pin(kept.send.send_request(request));
    let answer = poll_fn(|context| {
        loop {
            if let Poll::Ready(answer) = answer.as_mut().poll(context) {
                return Poll::Ready(answer);
            }
            let conn = Pin::new(&mut *kept.conn).poll(context);
            if let Poll::Ready(answer) = answer.as_mut().poll(context) {
                return Poll::Ready(answer);
            }
            if conn.is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await
    .unwrap();
    let (head, body) = answer.into_parts();
    (
        head.status,
        HyperBody {
            kept: Some(kept),
            body,
            idle: idle.clone(),
        },
    )
}

fn known(name: &str) -> &'static str {
    [
        "content-type",
        "accept-encoding",
        "user-agent",
        "accept",
        "x-client-request-id",
        "authorization",
    ]
    .into_iter()
    .find(|known| *known == name)
    .unwrap()
}

async fn drain<B>(mut body: B) -> usize
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Debug,
{
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame.unwrap().into_data().unwrap().len();
    }
    bytes
}

fn rss() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit_once(") ").unwrap().1.split(' ').collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let port: u16 = args[1].parse().unwrap();
    if args[0] == "server" {
        tokio::task::LocalSet::new().run_until(serve(port)).await;
        return;
    }
    let (which, kind, count) = (
        args[0].clone(),
        args[2].clone(),
        args[3].parse::<usize>().unwrap(),
    );
    let at_once: usize = args.get(4).map_or(1, |n| n.parse().unwrap());
    let buffer: usize = args.get(5).map_or(8192, |n| n.parse().unwrap());
    let authority = format!("127.0.0.1:{port}");
    let client = Client::new();
    let idle: Idle = Arc::default();
    if kind == "hold" {
        let before = rss();
        let mut tasks = Vec::new();
        for _ in 0..count {
            let (client, idle, authority, which) = (
                client.clone(),
                idle.clone(),
                authority.clone(),
                which.clone(),
            );
            tasks.push(tokio::spawn(async move {
                if which == "ours" {
                    let body = client.request(&authority, "hold", HEAD, BODY).await;
                    drain(body).await
                } else {
                    let (_, body) = hyper_request(&authority, "hold", &idle, buffer).await;
                    drain(body).await
                }
            }));
            if tasks.len() % 50 == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        println!(
            "{which} hold {count}: {} bytes a stream",
            (rss() - before) / count as u64
        );
        return;
    }
    let begun = cpu();
    let mut tasks = Vec::new();
    for _ in 0..at_once {
        let (client, idle, authority, which, kind) = (
            client.clone(),
            idle.clone(),
            authority.clone(),
            which.clone(),
            kind.clone(),
        );
        tasks.push(tokio::spawn(async move {
            let mut bytes = 0;
            for _ in 0..count / at_once {
                if which == "ours" {
                    let body = client.request(&authority, &kind, HEAD, BODY).await;
                    bytes += drain(body).await;
                } else {
                    let (status, body) = hyper_request(&authority, &kind, &idle, buffer).await;
                    assert_eq!(status, 200);
                    bytes += drain(body).await;
                }
            }
            bytes
        }));
    }
    let mut bytes = 0;
    for task in tasks {
        bytes += task.await.unwrap();
    }
    println!(
        "{which} {kind} {count}: {bytes} bytes, {:.1} µs of CPU each",
        (cpu() - begun) * 1e6 / count as f64
    );
}
