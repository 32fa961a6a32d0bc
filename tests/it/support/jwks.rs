//! The fake Supabase: a server on a socket that publishes keys, and counts who asks for them.
//!
//! It knows one path, `/auth/v1/.well-known/jwks.json`; to everything else it answers as PostgREST does when a
//! function is missing. It can be told to fail in the ways a project that is paused, broken or mistyped does.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::wire::{self, Request};

const PATH: &str = "/auth/v1/.well-known/jwks.json";

/// What the fake does with a request for its keys.
#[derive(Clone, Debug)]
pub(crate) enum Publish {
    /// These keys (each a JWK).
    Keys(Vec<Value>),
    /// This answer instead.
    Answer(u16, &'static str, &'static str),
    /// The head, and then nothing.
    Hang,
    /// Closes the connection without a word.
    Down,
}

struct State {
    publish: Mutex<Publish>,
    fetches: Mutex<u64>,
    requests: Mutex<Vec<Request>>,
}

/// The fake Supabase, running until it is dropped.
pub(crate) struct Supabase {
    state: Arc<State>,
    url: String,
    listening: JoinHandle<()>,
}

impl Drop for Supabase {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Supabase {
    /// Listens on a port of its own and publishes no key: a project whose only key is the shared secret.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            publish: Mutex::new(Publish::Keys(Vec::new())),
            fetches: Mutex::default(),
            requests: Mutex::default(),
        });
        let listening = tokio::spawn(accept(listener, state.clone()));
        Self {
            state,
            url,
            listening,
        }
    }

    /// What `SUPABASE_URL` is set to.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// What `iss` is in this project's tokens.
    pub(crate) fn issuer(&self) -> String {
        format!("{}/auth/v1", self.url)
    }

    /// Changes what is published from now on.
    pub(crate) fn publish(&self, publish: Publish) {
        *self.state.publish.lock().unwrap() = publish;
    }

    /// How often the keys were fetched.
    pub(crate) fn fetches(&self) -> u64 {
        *self.state.fetches.lock().unwrap()
    }

    /// Everything that was asked, the keys included.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().unwrap().clone()
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, state.clone()));
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    let mut stream = BufReader::new(stream);
    while let Ok(Some(request)) = wire::read_request(&mut stream).await {
        let asks_for_keys = request.target == PATH;
        state.requests.lock().unwrap().push(request.clone());
        if asks_for_keys {
            *state.fetches.lock().unwrap() += 1;
        }
        let publish = Some(state.publish.lock().unwrap().clone()).filter(|_| asks_for_keys);
        let Some(publish) = publish else {
            // Whatever happens to the keys: a project in which nobody ran `tollgate sql`.
            let missing = json!({"code": "PGRST202", "message": "no function", "details": null, "hint": null});
            if stream
                .write_all(&wire::answer(
                    404,
                    "application/json",
                    missing.to_string().as_bytes(),
                ))
                .await
                .is_err()
            {
                return;
            }
            continue;
        };
        let bytes = match publish {
            Publish::Down => return,
            Publish::Hang => {
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n")
                    .await;
                tokio::time::sleep(Duration::from_hours(1)).await;
                return;
            }
            Publish::Answer(status, content_type, body) => {
                wire::answer(status, content_type, body.as_bytes())
            }
            Publish::Keys(keys) => wire::answer(
                200,
                "application/json",
                json!({"keys": keys}).to_string().as_bytes(),
            ),
        };
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
