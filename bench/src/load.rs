//! The loader. Closed loop: so many at once, each followed by the next. Open loop: at a fixed rate, whatever becomes of
//! those before; a request's time begins when it was due, so waiting counts (no coordinated omission).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::http::{AnswerHead, Wire};
use crate::stats::{Dice, Durations, due};

/// Arguments of `load`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Such as `http://127.0.0.1:8080/v1/chat/completions`; the body is of the API that it ends with (`/responses` too)
    #[arg(long)]
    url: String,
    /// A file with an access token a line; the requests take turns
    #[arg(long)]
    tokens: Option<PathBuf>,
    /// The number of the first token's user, and from one to the next: as given to `tokens`
    #[arg(long, default_value_t = 0)]
    first: u64,
    #[arg(long, default_value_t = 1)]
    step: u64,
    /// Closed loop: how many at once
    #[arg(long, default_value_t = 64)]
    concurrency: u64,
    /// Closed loop: begin them evenly over so many milliseconds
    #[arg(long, default_value_t = 0)]
    ramp_ms: u64,
    /// Open loop instead: requests a second
    #[arg(long)]
    rate: Option<f64>,
    /// How many requests
    #[arg(long)]
    requests: Option<u64>,
    /// Begin none after so many seconds
    #[arg(long)]
    seconds: Option<f64>,
    /// Ask for streams
    #[arg(long)]
    stream: bool,
    /// Tokens of an answer, which are events of a stream
    #[arg(long, default_value_t = 16)]
    events: u64,
    /// Microseconds between two events
    #[arg(long, default_value_t = 0)]
    interval_us: u64,
    /// Microseconds before the upstream answers
    #[arg(long, default_value_t = 0)]
    delay_us: u64,
    /// The output cap that is asked for; 0 for none
    #[arg(long, default_value_t = 256)]
    max_tokens: u64,
    /// The share of requests that hang up at a random moment
    #[arg(long, default_value_t = 0.0)]
    hang_up: f64,
    /// The latest moment to hang up, in milliseconds from the start
    #[arg(long, default_value_t = 1000.0)]
    hang_up_within_ms: f64,
    /// Give up a request after so many seconds
    #[arg(long, default_value_t = 120)]
    timeout: u64,
    /// One more header, as `name: value`
    #[arg(long)]
    header: Option<String>,
    /// A file that is the body of every request, in place of a chat
    #[arg(long)]
    body: Option<PathBuf>,
    /// What that file is
    #[arg(long, default_value = "application/json")]
    content_type: String,
    /// The model that is asked for; empty for none
    #[arg(long, default_value = "gpt-4o-mini")]
    model: String,
}

const INSTRUCTIONS: &str = "You are a helpful assistant in a mobile app. Answer briefly, in the language of the question, and \
                            say so when you do not know.";

/// What became of all requests.
#[derive(Debug, Default)]
struct Tally {
    statuses: BTreeMap<u16, u64>,
    errors: BTreeMap<String, u64>,
    hung_up: u64,
    /// Streams that ended without `[DONE]`.
    unfinished: u64,
    events: u64,
    whole: Durations,
    first: Durations,
    /// How late a request of an open loop was begun: the loader's own fault, and counted against the target all the same.
    late: Durations,
}

struct Load {
    args: Args,
    address: String,
    path: String,
    tokens: Vec<String>,
    body: Option<Vec<u8>>,
    idle: RefCell<Vec<Wire>>,
    begun: Cell<u64>,
    tally: RefCell<Tally>,
    dice: RefCell<Dice>,
    start: Instant,
}

/// What is seen of a body as it comes in.
#[derive(Debug, Default)]
struct Seen {
    first: Option<Instant>,
    events: u64,
    last_byte: u8,
    /// The last bytes, in which `[DONE]` would stand.
    tail: Vec<u8>,
}

impl Seen {
    fn add(&mut self, piece: &[u8], stream: bool) {
        if self.first.is_none() {
            self.first = Some(Instant::now());
        }
        if !stream {
            return;
        }
        for at in memchr::memchr_iter(b'\n', piece) {
            let before = if at == 0 {
                self.last_byte
            } else {
                piece.get(at - 1).copied().unwrap_or(0)
            };
            self.events += u64::from(before == b'\n');
        }
        self.last_byte = piece.last().copied().unwrap_or(self.last_byte);
        self.tail.extend_from_slice(
            piece
                .get(piece.len().saturating_sub(16)..)
                .unwrap_or_default(),
        );
        self.tail.drain(..self.tail.len().saturating_sub(16));
    }

    fn is_done(&self) -> bool {
        memchr::memmem::find(&self.tail, b"[DONE]").is_some()
    }
}

/// Sends them all and prints what became of them.
pub(crate) async fn run(args: Args) -> Result<(), String> {
    let rest = args
        .url
        .strip_prefix("http://")
        .ok_or("--url must begin with http://")?;
    let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
    let tokens = match &args.tokens {
        Some(file) => {
            let text =
                fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
            text.lines().map(str::to_owned).collect()
        }
        None => vec!["none".to_owned()],
    };
    if tokens.is_empty() || (args.requests.is_none() && args.seconds.is_none()) {
        return Err("wanted: a token at least, and --requests or --seconds".to_owned());
    }
    let body = args
        .body
        .as_ref()
        .map(|file| fs::read(file).map_err(|error| format!("{}: {error}", file.display())));
    let load = Rc::new(Load {
        body: body.transpose()?,
        address: address.to_owned(),
        path: format!("/{path}"),
        tokens,
        idle: RefCell::default(),
        begun: Cell::new(0),
        tally: RefCell::default(),
        dice: RefCell::new(Dice::new(1)),
        start: Instant::now(),
        args,
    });
    match load.args.rate {
        Some(rate) => load.clone().open_loop(rate).await?,
        None => load.clone().closed_loop().await,
    }
    println!("{}", load.told());
    Ok(())
}

impl Load {
    /// The number of the next request, while there is one.
    fn next(&self) -> Option<u64> {
        let index = self.begun.get();
        let over = self.args.requests.is_some_and(|requests| index >= requests)
            || self
                .args
                .seconds
                .is_some_and(|seconds| self.start.elapsed().as_secs_f64() >= seconds);
        if over {
            return None;
        }
        self.begun.set(index + 1);
        Some(index)
    }

    async fn closed_loop(self: Rc<Self>) {
        let mut workers = JoinSet::new();
        for worker in 0..self.args.concurrency {
            let load = Rc::clone(&self);
            workers.spawn_local(async move {
                let wait = Duration::from_millis(load.args.ramp_ms)
                    .mul_f64(worker as f64 / load.args.concurrency as f64);
                tokio::time::sleep(wait).await;
                while let Some(index) = load.next() {
                    load.request(index, Instant::now()).await;
                }
            });
        }
        while workers.join_next().await.is_some() {}
    }

    /// A thread of its own keeps the time: the runtime's timers have milliseconds.
    async fn open_loop(self: Rc<Self>, rate: f64) -> Result<(), String> {
        let (ring, mut bell) = mpsc::unbounded_channel();
        let seconds = self
            .args
            .seconds
            .map_or(Duration::MAX, Duration::from_secs_f64);
        let requests = self.args.requests.unwrap_or(u64::MAX);
        let start = Instant::now();
        let clock = std::thread::spawn(move || {
            for index in 0..requests {
                let at = due(index, rate);
                if at >= seconds {
                    break;
                }
                std::thread::sleep((start + at).saturating_duration_since(Instant::now()));
                if ring.send((index, start + at)).is_err() {
                    break;
                }
            }
        });
        let mut running = JoinSet::new();
        while let Some((index, at)) = bell.recv().await {
            self.begun.set(index + 1);
            self.tally.borrow_mut().late.add(at.elapsed());
            let load = Rc::clone(&self);
            running.spawn_local(async move { load.request(index, at).await });
            while running.try_join_next().is_some() {}
        }
        while running.join_next().await.is_some() {}
        clock.join().map_err(|_| "the clock failed".to_owned())
    }

    /// One request, counted from when it was due.
    async fn request(&self, index: u64, due: Instant) {
        let patience = self.patience();
        let limit = patience.unwrap_or(Duration::from_secs(self.args.timeout));
        let mut seen = Seen::default();
        let done =
            tokio::time::timeout_at((due + limit).into(), self.exchange(index, &mut seen)).await;
        let mut tally = self.tally.borrow_mut();
        tally.events += seen.events;
        match done {
            Err(_) if patience.is_some() => tally.hung_up += 1,
            Err(_) => *tally.errors.entry("timeout".to_owned()).or_default() += 1,
            Ok(Err(error)) => *tally.errors.entry(error.kind().to_string()).or_default() += 1,
            Ok(Ok(head)) => {
                *tally.statuses.entry(head.status).or_default() += 1;
                if head.status == 200 {
                    tally.whole.add(due.elapsed());
                    tally.first.add(
                        seen.first
                            .map_or(Duration::ZERO, |first| first.saturating_duration_since(due)),
                    );
                    // (A stream of responses has no such mark.)
                    let has_mark = self.args.stream && !self.is_responses() && self.body.is_none();
                    tally.unfinished += u64::from(has_mark && !seen.is_done());
                }
            }
        }
    }

    /// For one that hangs up, how long it waits.
    fn patience(&self) -> Option<Duration> {
        let mut dice = self.dice.borrow_mut();
        (dice.roll() < self.args.hang_up)
            .then(|| Duration::from_secs_f64(dice.roll() * self.args.hang_up_within_ms / 1000.0))
    }

    async fn exchange(&self, index: u64, seen: &mut Seen) -> io::Result<AnswerHead> {
        let request = self.written(index);
        let idle = self.idle.borrow_mut().pop();
        let (mut wire, head) = match idle {
            Some(wire) => self.again(wire, &request).await?,
            None => self.anew(&request).await?,
        };
        let stream = self.args.stream && head.status == 200;
        wire.body(head.framing, |piece| seen.add(piece, stream))
            .await?;
        if head.keep {
            self.idle.borrow_mut().push(wire);
        }
        Ok(head)
    }

    /// On a kept connection; if the other side has closed it meanwhile, on a new one.
    async fn again(&self, mut wire: Wire, request: &[u8]) -> io::Result<(Wire, AnswerHead)> {
        if wire.write(request).await.is_ok()
            && let Ok(head) = wire.answer_head().await
        {
            return Ok((wire, head));
        }
        self.anew(request).await
    }

    async fn anew(&self, request: &[u8]) -> io::Result<(Wire, AnswerHead)> {
        let mut wire = Wire::connect(&self.address).await?;
        wire.write(request).await?;
        let head = wire.answer_head().await?;
        Ok((wire, head))
    }

    fn is_responses(&self) -> bool {
        self.path.ends_with("/responses")
    }

    fn written(&self, index: u64) -> Vec<u8> {
        let place = index % self.tokens.len() as u64;
        let token = self.tokens.get(place as usize).map_or("", String::as_str);
        let args = &self.args;
        let user = args.first + place * args.step;
        let Args {
            events,
            interval_us,
            delay_us,
            ..
        } = args;
        let model = if args.model.is_empty() {
            String::new()
        } else {
            format!("\"model\":\"{}\",", args.model)
        };
        let (cap_name, streams) = if self.is_responses() {
            ("max_output_tokens", ",\"stream\":true")
        } else {
            let streams = ",\"stream\":true,\"stream_options\":{\"include_usage\":true}";
            ("max_tokens", streams)
        };
        let cap = if args.max_tokens > 0 {
            format!(",\"{cap_name}\":{}", args.max_tokens)
        } else {
            String::new()
        };
        let stream = if args.stream { streams } else { "" };
        let asked = format!(
            "bench:user={user},events={events},interval={interval_us},delay={delay_us}; What should I cook tonight with \
             rice, two eggs and a leek, if I have twenty minutes and one pan?"
        );
        let said = if self.is_responses() {
            format!("\"instructions\":\"{INSTRUCTIONS}\",\"input\":\"{asked}\"")
        } else {
            format!(
                "\"messages\":[{{\"role\":\"system\",\"content\":\"{INSTRUCTIONS}\"}},{{\"role\":\"user\",\"content\":\
                 \"{asked}\"}}]"
            )
        };
        let chat = || format!("{{{model}{said},\"temperature\":0.7{cap}{stream}}}").into_bytes();
        let body = self.body.clone().unwrap_or_else(chat);
        let more = args
            .header
            .as_ref()
            .map(|header| format!("{header}\r\n"))
            .unwrap_or_default();
        let (path, address, length) = (&self.path, &self.address, body.len());
        let content_type = &args.content_type;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\ncontent-type: {content_type}\r\n\
             accept: */*\r\nuser-agent: tollgate-bench\r\n{more}content-length: {length}\r\n\r\n"
        );
        [head.as_bytes(), &body].concat()
    }

    fn told(&self) -> Value {
        let mut tally = self.tally.borrow_mut();
        let seconds = self.start.elapsed().as_secs_f64();
        let requests = self.begun.get();
        json!({
            "requests": requests,
            "ok": tally.statuses.get(&200).copied().unwrap_or(0),
            "statuses": tally.statuses.iter().map(|(status, count)| (status.to_string(), json!(count))).collect::<serde_json::Map<_, _>>(),
            "errors": tally.errors.clone(),
            "hung_up": tally.hung_up,
            "unfinished": tally.unfinished,
            "events": tally.events,
            "seconds": seconds,
            "per_second": requests as f64 / seconds,
            "whole_ms": tally.whole.summary(),
            "first_ms": tally.first.summary(),
            "late_ms": tally.late.summary(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_however_the_stream_is_cut() {
        let stream = b"data: a\n\ndata: b\n\ndata: [DONE]\n\n";
        for cut in 1..=stream.len() {
            let mut seen = Seen::default();
            stream.chunks(cut).for_each(|piece| seen.add(piece, true));
            assert_eq!((seen.events, seen.is_done()), (3, true), "{cut}");
        }
    }
}
