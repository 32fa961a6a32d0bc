//! **U**, the fake upstream: a server on a socket that speaks OpenAI's chat API, honestly or as badly as a test says.
//!
//! It logs each request that it read to the end: what it was asked, what it answered, what it would bill, and whether
//! the peer left first. That log is the ground truth of the oracle. A request it could not read in full is no request.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::reply::{Bill, Books, Reply, Step, honest};
use super::wire::{self, Request};

/// A request that the upstream read.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) request: Request,
    /// Its body, or the fields of its form; null where it is neither.
    pub(crate) body: Value,
}

impl Seen {
    fn new(request: Request) -> Self {
        let body = serde_json::from_slice(&request.body).ok();
        let body = body.or_else(|| super::transcriptions::fields(&request));
        let body = body.unwrap_or(Value::Null);
        Self { request, body }
    }

    /// Whether it asks for a stream.
    pub(crate) fn is_stream(&self) -> bool {
        self.body["stream"] == Value::Bool(true)
    }

    /// Whether it asks for the usage chunk.
    pub(crate) fn include_usage(&self) -> bool {
        self.body["stream_options"]["include_usage"] == Value::Bool(true)
    }

    /// Its output cap, by any name.
    pub(crate) fn cap(&self) -> Option<u64> {
        let names = ["max_completion_tokens", "max_tokens", "max_output_tokens"];
        names.iter().find_map(|name| self.body[*name].as_u64())
    }

    /// Whether it asks for a response.
    pub(crate) fn is_responses(&self) -> bool {
        self.request.target == "/v1/responses"
    }

    /// Whether it asks for embeddings.
    pub(crate) fn is_embeddings(&self) -> bool {
        self.request.target == "/v1/embeddings"
    }

    /// Whether it asks what is wrong with something.
    pub(crate) fn is_moderation(&self) -> bool {
        self.request.target == "/v1/moderations"
    }

    /// Whether it asks for images.
    pub(crate) fn is_images(&self) -> bool {
        self.request.target.starts_with("/v1/images/")
    }

    /// Whether it asks for speech.
    pub(crate) fn is_speech(&self) -> bool {
        self.request.target == "/v1/audio/speech"
    }

    /// Whether it asks for a transcript.
    pub(crate) fn is_transcription(&self) -> bool {
        self.request.target == "/v1/audio/transcriptions"
    }

    /// How many choices it asks for.
    pub(crate) fn choices(&self) -> u64 {
        self.body["n"].as_u64().unwrap_or(1)
    }

    /// A count of the prompt that no tokenizer goes below: its words, and OpenAI's own overhead of a message.
    pub(crate) fn prompt_tokens(&self) -> u64 {
        if self.is_embeddings() {
            return super::embeddings::tokens(&self.body["input"]);
        }
        if self.is_responses() {
            return super::responses::prompt_tokens(&self.body);
        }
        let messages = self.body["messages"]
            .as_array()
            .map_or(&[] as &[Value], Vec::as_slice);
        let words = messages.iter().map(|message| {
            let content = &message["content"];
            content
                .as_str()
                .map_or(1, |text| text.split_whitespace().count() as u64)
        });
        words.map(|words| words + 3).sum::<u64>() + 3
    }

    /// The serial of the `ask-N` in its prompt (see [`super::caller::chat`]).
    pub(crate) fn serial(&self) -> Option<u64> {
        super::caller::serial_in(&self.request.body)
    }
}

/// One line of the upstream's log.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) seen: Arc<Seen>,
    /// The status it wrote, if it came to that.
    pub(crate) answered: Option<u16>,
    /// Tokens generated so far: those that were written, and those that nobody is shown.
    pub(crate) generated: u64,
    /// What the provider enters into its books whatever it says, where it is one of the zoo.
    pub(crate) books: Option<Books>,
    /// What was billed when the answer was complete; `None` when it never was.
    pub(crate) billed: Option<Bill>,
    /// It wrote the answer to its end.
    pub(crate) finished: bool,
    /// The peer left before that.
    pub(crate) peer_left: bool,
}

impl Served {
    /// What is on the operator's invoice: what stands in the books; without any the answer, or as much of it as was
    /// generated, and errors are free.
    pub(crate) fn bill(&self) -> Bill {
        if let Some(books) = self.books {
            return books.after(self.generated);
        }
        if self.answered.is_some_and(|status| status >= 300) {
            return Bill::default();
        }
        let so_far = Bill {
            prompt: self.seen.prompt_tokens(),
            completion: self.generated,
            ..Bill::default()
        };
        self.billed.unwrap_or(so_far)
    }

    /// Something is surely billed for it, now or when it ends: there must be a row that is charged.
    pub(crate) fn is_owed(&self) -> bool {
        match self.books {
            Some(books) => !books.is_free(),
            // A redirect is an answer, and no refusal: which, is left open.
            None => self.answered.is_none_or(|status| status < 300),
        }
    }

    /// Nothing is billed for it: it was refused or failed before any work.
    pub(crate) fn is_free(&self) -> bool {
        match self.books {
            Some(books) => books.is_free(),
            None => self.answered.is_some_and(|status| status >= 400),
        }
    }
}

type Recipe = Box<dyn Fn(&Seen) -> Reply + Send + Sync>;

struct State {
    log: Mutex<Vec<Served>>,
    next: Mutex<VecDeque<Recipe>>,
    always: Mutex<Recipe>,
    open: Mutex<Vec<JoinHandle<()>>>,
    connections: Mutex<usize>,
}

/// The fake upstream, running until it is dropped.
pub(crate) struct Upstream {
    state: Arc<State>,
    base_url: String,
    listening: JoinHandle<()>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.listening.abort();
        for connection in self.state.open.lock().unwrap().drain(..) {
            connection.abort();
        }
    }
}

impl Upstream {
    /// Listens on a port of its own.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        let state = Arc::new(State {
            log: Mutex::default(),
            next: Mutex::default(),
            always: Mutex::new(Box::new(honest)),
            open: Mutex::default(),
            connections: Mutex::default(),
        });
        let listening = tokio::spawn(accept(listener, state.clone()));
        Self {
            state,
            base_url,
            listening,
        }
    }

    /// What `base_url` is set to.
    pub(crate) fn base_url(&self) -> &str {
        &self.base_url
    }

    /// Answers the next request so, then the one after it with what is queued next.
    pub(crate) fn next(&self, recipe: impl Fn(&Seen) -> Reply + Send + Sync + 'static) {
        self.state.next.lock().unwrap().push_back(Box::new(recipe));
    }

    /// Answers every request so for which nothing is queued.
    pub(crate) fn always(&self, recipe: impl Fn(&Seen) -> Reply + Send + Sync + 'static) {
        *self.state.always.lock().unwrap() = Box::new(recipe);
    }

    /// Everything served so far.
    pub(crate) fn log(&self) -> Vec<Served> {
        self.state.log.lock().unwrap().clone()
    }

    /// How many requests were served so far.
    pub(crate) fn count(&self) -> usize {
        self.state.log.lock().unwrap().len()
    }

    /// How many connections were accepted so far.
    pub(crate) fn connections(&self) -> usize {
        *self.state.connections.lock().unwrap()
    }

    /// The last request served.
    pub(crate) fn last(&self) -> Served {
        self.log().pop().expect("the upstream got no request")
    }

    /// Waits until the log satisfies a condition.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&[Served]) -> bool) {
        let begun = Instant::now();
        while !holds(&self.log()) {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "the upstream never saw: {what}; its log: {:#?}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until it has got so many requests.
    pub(crate) async fn until_served(&self, count: usize) {
        self.until(&format!("{count} requests"), |log| log.len() >= count)
            .await;
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    loop {
        // A connection that was reset before it was taken, or too many open files, is no reason to stop for good.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            continue;
        };
        *state.connections.lock().unwrap() += 1;
        let serving = tokio::spawn(serve(stream, state.clone()));
        state.open.lock().unwrap().push(serving);
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    let _ = stream.set_nodelay(true);
    let mut stream = BufReader::new(stream);
    while let Ok(Some(request)) = wire::read_request(&mut stream).await {
        let seen = Arc::new(Seen::new(request));
        let recipe = state.next.lock().unwrap().pop_front();
        let reply = match recipe {
            Some(recipe) => recipe(&seen),
            None => (state.always.lock().unwrap())(&seen),
        };
        let line = log_line(&state, &seen, reply.books);
        let played = play(&reply, &mut stream, |change| {
            change(&mut state.log.lock().unwrap()[line]);
        })
        .await;
        let keep = matches!(played, Ok(true));
        let served = &mut state.log.lock().unwrap()[line];
        served.finished = keep;
        served.peer_left = played.is_err();
        if !keep {
            return;
        }
    }
}

fn log_line(state: &State, seen: &Arc<Seen>, books: Option<Books>) -> usize {
    let mut log = state.log.lock().unwrap();
    log.push(Served {
        seen: seen.clone(),
        answered: None,
        generated: 0,
        books,
        billed: None,
        finished: false,
        peer_left: false,
    });
    log.len() - 1
}

/// Plays a reply. `Ok(true)`: to its end. `Ok(false)`: the script broke off. `Err`: the peer left.
async fn play(
    reply: &Reply,
    stream: &mut BufReader<TcpStream>,
    note: impl Fn(&dyn Fn(&mut Served)),
) -> io::Result<bool> {
    wait(stream, reply.before_head).await?;
    if let Some(head) = reply.head() {
        note(&|served| served.answered = reply.status);
        stream.write_all(&head).await?;
    }
    for step in &reply.steps {
        match step {
            Step::Body(bytes) => send(stream, reply.chunked, bytes).await?,
            Step::Generated(bytes, tokens) => {
                send(stream, reply.chunked, bytes).await?;
                note(&|served| served.generated += tokens);
            }
            Step::Hidden(tokens) => note(&|served| served.generated += tokens),
            Step::Billed(bill) => note(&|served| served.billed = Some(*bill)),
            Step::Flood(bytes, limit) => flood(stream, reply.chunked, bytes, *limit).await?,
            Step::Wait(pause) => wait(stream, *pause).await?,
            Step::Stall => wait(stream, Duration::from_hours(1)).await?,
            Step::Reset => {
                stream.get_ref().set_zero_linger()?;
                return Ok(false);
            }
            Step::Close => return Ok(false),
        }
    }
    if reply.chunked {
        stream.write_all(b"0\r\n\r\n").await?;
    }
    Ok(reply.status.is_some())
}

async fn send(stream: &mut BufReader<TcpStream>, chunked: bool, bytes: &[u8]) -> io::Result<()> {
    if !chunked {
        return stream.write_all(bytes).await;
    }
    stream.write_all(&wire::chunk(bytes)).await
}

async fn flood(
    stream: &mut BufReader<TcpStream>,
    chunked: bool,
    bytes: &[u8],
    limit: usize,
) -> io::Result<()> {
    for _ in 0..limit.div_ceil(bytes.len()) {
        send(stream, chunked, bytes).await?;
    }
    Ok(())
}

/// Waits, unless the peer leaves first.
async fn wait(stream: &mut BufReader<TcpStream>, pause: Duration) -> io::Result<()> {
    if pause.is_zero() {
        return Ok(());
    }
    let pause = tokio::time::sleep(pause);
    tokio::select! {
        () = pause => Ok(()),
        more = stream.fill_buf() => match more {
            Ok(bytes) if !bytes.is_empty() => Ok(()),
            _ => Err(io::ErrorKind::ConnectionAborted.into()),
        },
    }
}
