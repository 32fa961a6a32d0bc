//! Callers: what they send, what they hear, and when they hang up.
//!
//! Everything heard is kept for the oracle, which checks each answer against the contract: no test has to.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use uuid::Uuid;

/// Stands in every prompt and must never stand in a log, an answer or the ledger.
pub(crate) const PROMPT_CANARY: &str = "canary-prompt-5f1c";

/// No answer, and no piece of one, takes longer than this.
const PATIENCE: Duration = Duration::from_secs(40);

static SERIAL: AtomicU64 = AtomicU64::new(1);

/// The body of an ordinary request. Each has a serial in its prompt, by which the oracle finds the upstream's line.
pub(crate) fn chat(prompt: &str) -> Value {
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let content = format!("{prompt} {PROMPT_CANARY} ask-{serial};");
    json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": content}]})
}

/// The same, as a stream.
pub(crate) fn chat_stream(prompt: &str) -> Value {
    and(chat(prompt), &json!({"stream": true}))
}

/// A body with more fields, or others.
pub(crate) fn and(mut body: Value, fields: &Value) -> Value {
    body.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    body
}

/// The serial in a body that [`chat`] made.
pub(crate) fn serial_in(body: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(body);
    let (_, rest) = text.split_once(" ask-")?;
    rest.split_once(';')?.0.parse().ok()
}

/// A request to the product.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    method: String,
    path: String,
    host: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Call {
    /// Any method, no body.
    pub(crate) fn new(method: &str, path: &str) -> Self {
        let (method, path, host) = (
            method.to_owned(),
            path.to_owned(),
            "tollgate.test".to_owned(),
        );
        Self {
            method,
            path,
            host,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// A GET.
    pub(crate) fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// A POST of JSON.
    pub(crate) fn post(path: &str, body: &Value) -> Self {
        Self::new("POST", path)
            .header("content-type", "application/json")
            .bytes(body.to_string())
    }

    /// One more header; the same name may come again.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With an access token.
    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// Whether it is a GET.
    pub(crate) fn is_get(&self) -> bool {
        self.method == "GET"
    }

    /// With another method.
    pub(crate) fn method(mut self, method: &str) -> Self {
        method.clone_into(&mut self.method);
        self
    }

    /// To another path.
    pub(crate) fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    /// To another host's name.
    pub(crate) fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    /// This body, whatever it is.
    pub(crate) fn bytes(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    fn request(&self) -> http::Request<Full<Bytes>> {
        let mut request = http::Request::builder()
            .method(self.method.as_str())
            .uri(&self.path)
            .header("host", &self.host);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request
            .body(Full::new(Bytes::from(self.body.clone())))
            .unwrap()
    }
}

/// What was heard.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    /// Method and path of the call.
    pub(crate) what: String,
    /// The serial of its prompt.
    pub(crate) serial: Option<u64>,
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// It was read to its end.
    pub(crate) whole: bool,
}

impl Answer {
    /// A header's value; `""` where there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .iter()
            .find(|(header, _)| header == name)
            .map_or("", |(_, value)| value)
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null where it is not.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// `error.code`; `""` where there is none.
    pub(crate) fn code(&self) -> String {
        let body = self.json();
        // Anthropic's shape has no code.
        let code = if body["type"] == "error" {
            Some(self.header("x-tollgate-error"))
        } else {
            body["error"]["code"].as_str()
        };
        code.unwrap_or("").to_owned()
    }

    /// The status and the code, for one assertion on both.
    pub(crate) fn refusal(&self) -> (u16, String) {
        (self.status, self.code())
    }

    /// The id of the ledger's row.
    pub(crate) fn id(&self) -> Option<Uuid> {
        self.header("x-request-id").parse().ok()
    }

    /// Every `data:` payload of a stream.
    pub(crate) fn events(&self) -> Vec<String> {
        self.text()
            .split("\n\n")
            .filter_map(|block| {
                let data = |line: &str| line.strip_prefix("data: ").map(str::to_owned);
                block.lines().find_map(data)
            })
            .collect()
    }

    /// What the model said, in a stream or not.
    pub(crate) fn said(&self) -> String {
        if let Some(content) = self.json()["choices"][0]["message"]["content"].as_str() {
            return content.to_owned();
        }
        if let Some(blocks) = self.json()["content"].as_array() {
            let texts = blocks.iter().map(|block| {
                let text = block["text"].as_str().unwrap_or("");
                format!("{text}{}", block["input"])
            });
            return texts.collect();
        }
        if let Some(items) = self.json()["output"].as_array() {
            let texts = items.iter().map(|item| &item["content"][0]["text"]);
            return texts.filter_map(Value::as_str).collect();
        }
        let chunks = self
            .events()
            .into_iter()
            .filter_map(|event| serde_json::from_str::<Value>(&event).ok());
        chunks
            .filter_map(|chunk| {
                let delta = &chunk["delta"];
                let anthropics = delta["text"].as_str().or(delta["partial_json"].as_str());
                let said = chunk["choices"][0]["delta"]["content"].as_str();
                said.or(anthropics).or(delta.as_str()).map(str::to_owned)
            })
            .collect()
    }

    /// Asserts the status, and shows the body where it is another.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}: {}", self.what, self.text());
        self
    }

    /// Asserts a refusal.
    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str) -> Self {
        assert_eq!(
            self.refusal(),
            (status, code.to_owned()),
            "{}: {}",
            self.what,
            self.text()
        );
        self
    }
}

/// Where the product listens now, and everything anybody heard from it.
#[derive(Debug)]
pub(crate) struct Front {
    address: Mutex<SocketAddr>,
    heard: Mutex<Vec<Answer>>,
}

impl Front {
    /// Nothing heard yet.
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            address: Mutex::new(address),
            heard: Mutex::default(),
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        *self.address.lock().unwrap()
    }

    /// It listens there from now on.
    pub(crate) fn moved(&self, address: SocketAddr) {
        *self.address.lock().unwrap() = address;
    }

    /// All that was heard.
    pub(crate) fn heard(&self) -> Vec<Answer> {
        self.heard.lock().unwrap().clone()
    }

    /// Sends a call and reads the answer to its end.
    pub(crate) async fn send(self: &Arc<Self>, call: Call) -> Answer {
        let what = format!("{} {}", call.method, call.path);
        self.try_send(call)
            .await
            .unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// The same, for when the product may be gone.
    pub(crate) async fn try_send(self: &Arc<Self>, call: Call) -> io::Result<Answer> {
        let mut open = self.open(call).await?;
        while open.read_more().await? {}
        Ok(open.answer())
    }

    /// Sends a call and reads the head of the answer.
    pub(crate) async fn open(self: &Arc<Self>, call: Call) -> io::Result<Open> {
        let begin = self.begin(call).await?;
        begin.head().await
    }

    /// Sends a call and does not wait for anything.
    pub(crate) async fn begin(self: &Arc<Self>, call: Call) -> io::Result<Begun> {
        let stream = TcpStream::connect(self.address()).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let connection = Connection(tokio::spawn(async move {
            let _ = connection.await;
        }));
        let heard = Answer {
            what: format!("{} {}", call.method, call.path),
            serial: serial_in(&call.body),
            ..Answer::default()
        };
        let request = call.request();
        let response = tokio::spawn(async move { sender.send_request(request).await });
        Ok(Begun {
            front: self.clone(),
            connection,
            heard,
            response,
        })
    }
}

/// A connection that closes when it is dropped.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A call that was sent.
pub(crate) struct Begun {
    front: Arc<Front>,
    connection: Connection,
    heard: Answer,
    response: JoinHandle<hyper::Result<http::Response<Incoming>>>,
}

impl Begun {
    /// Waits for the head of the answer.
    pub(crate) async fn head(mut self) -> io::Result<Open> {
        let response = timeout(PATIENCE, self.response)
            .await
            .map_err(|_| io::ErrorKind::TimedOut)?;
        let (head, body) = response
            .map_err(io::Error::other)?
            .map_err(io::Error::other)?
            .into_parts();
        self.heard.status = head.status.as_u16();
        let text =
            |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        self.heard.headers = head
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect();
        Ok(Open {
            front: self.front,
            _connection: self.connection,
            heard: self.heard,
            body,
            taken: 0,
        })
    }

    /// Leaves before the head.
    pub(crate) fn hang_up(self) {
        self.response.abort();
    }
}

/// An answer whose body is still coming. Dropping it hangs up.
pub(crate) struct Open {
    front: Arc<Front>,
    _connection: Connection,
    heard: Answer,
    body: Incoming,
    taken: usize,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.front
            .heard
            .lock()
            .unwrap()
            .push(std::mem::take(&mut self.heard));
    }
}

impl Open {
    /// What was heard so far.
    pub(crate) fn so_far(&self) -> &Answer {
        &self.heard
    }

    /// The next block of the stream, without its blank line: an event or a comment. `None` at the end.
    pub(crate) async fn next_block(&mut self) -> Option<String> {
        loop {
            let rest = &self.heard.body[self.taken..];
            if let Some(at) = rest.windows(2).position(|pair| pair == b"\n\n") {
                let block = String::from_utf8_lossy(&rest[..at]).into_owned();
                self.taken += at + 2;
                return Some(block);
            }
            if !self.read_more().await.unwrap_or(false) {
                return None;
            }
        }
    }

    /// Reads so many blocks.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<String> {
        let mut blocks = Vec::new();
        while blocks.len() < count
            && let Some(block) = self.next_block().await
        {
            blocks.push(block);
        }
        blocks
    }

    /// Reads one piece more. False at the end, and where the connection broke.
    pub(crate) async fn read_on(&mut self) -> bool {
        self.read_more().await.unwrap_or(false)
    }

    /// Reads to the end, or to where the connection broke.
    pub(crate) async fn rest(mut self) -> Answer {
        while self.read_more().await.unwrap_or(false) {}
        self.answer()
    }

    /// Leaves.
    pub(crate) fn hang_up(self) {
        drop(self);
    }

    fn answer(self) -> Answer {
        self.heard.clone()
    }

    /// Whether there was more.
    async fn read_more(&mut self) -> io::Result<bool> {
        let frame = timeout(PATIENCE, self.body.frame())
            .await
            .map_err(|_| io::ErrorKind::TimedOut)?;
        match frame {
            None => {
                self.heard.whole = true;
                Ok(false)
            }
            Some(Err(error)) => Err(io::Error::other(error)),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.heard.body.extend_from_slice(data);
                }
                Ok(true)
            }
        }
    }
}

/// Somebody with an access token.
#[derive(Clone)]
pub(crate) struct User {
    pub(crate) id: Uuid,
    pub(crate) token: String,
    pub(crate) front: Arc<Front>,
}

impl User {
    /// A GET with the token.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.front.send(Call::get(path).bearer(&self.token)).await
    }

    /// A POST of JSON with the token.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.front
            .send(Call::post(path, body).bearer(&self.token))
            .await
    }

    /// A chat completion, read to its end.
    pub(crate) async fn ask(&self, body: Value) -> Answer {
        self.post("/v1/chat/completions", &body).await
    }

    /// The same where the product may be gone.
    pub(crate) async fn try_ask(&self, body: Value) -> io::Result<Answer> {
        self.front.try_send(self.call(&body)).await
    }

    /// A chat completion, read as far as its head.
    pub(crate) async fn open(&self, body: Value) -> Open {
        self.front.open(self.call(&body)).await.unwrap()
    }

    /// A chat completion that is sent and not waited for.
    pub(crate) async fn begin(&self, body: Value) -> Begun {
        self.front.begin(self.call(&body)).await.unwrap()
    }

    /// `GET /api/me`.
    pub(crate) async fn me(&self) -> Value {
        self.get("/api/me").await.expect(200).json()
    }

    /// The call of a chat completion.
    pub(crate) fn call(&self, body: &Value) -> Call {
        Call::post("/v1/chat/completions", body).bearer(&self.token)
    }
}
