//! The public keys of the project: fetched, kept, rotated.
//!
//! It knows one URL and what it last said. It does not know tokens or users: it is asked for the set that should have
//! a `kid`. Invariants: at most one fetch is under way; requests cause at most one fetch in [`COOL_DOWN`]; a failed
//! fetch never replaces a good set; no set serves longer than [`STALE_MAX`] after the fetch that brought it.
//!
//! A fetch runs in a task of its own on the tracker, so that a caller who leaves cannot cancel it for the others.

pub(crate) mod key;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use crate::clock::{Clock, Timestamp};
use key::{Algorithm, PublicKey};

/// How long a set is served without asking again. Supabase's own caches and clients keep it as long.
const FRESH: Duration = Duration::from_mins(10);
/// How long a set serves on while it cannot be fetched again.
const STALE_MAX: Duration = Duration::from_hours(1);
/// How often, at most, requests may cause a fetch.
const COOL_DOWN: Duration = Duration::from_secs(30);
/// How long a fetch may take from the name look-up to the last byte, and how long a caller waits for one.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// How often [`Jwks::tick`] is to be called, and so how soon a server that started without keys finds them.
pub(crate) const TICK: Duration = Duration::from_secs(10);
/// The longest answer that is read.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// The most keys a set may have.
const KEYS_MAX: usize = 64;
/// How many keys are tried for one token: several have its `kid`, or it names none.
const TRIED_MAX: usize = 8;

/// What readiness tells about the keys. Fields with nothing to say are null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeysHealth {
    /// Whether tokens can be verified.
    pub ok: bool,
    /// How many public keys are held.
    pub keys: usize,
    /// What is accepted: `HS256` by the shared secret, the others by the keys held.
    pub algorithms: Vec<&'static str>,
    /// When the set that is held was fetched, RFC 3339.
    pub fetched_at: Option<String>,
    /// Why the last fetch failed, or what is amiss, in plain words.
    pub error: Option<String>,
    /// What an operator may want to know though nothing is wrong.
    pub note: Option<&'static str>,
}

/// The keys could not be fetched: nobody can say whether a token is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unavailable;

/// A set as it was fetched.
#[derive(Debug)]
pub(crate) struct KeySet {
    keys: Vec<PublicKey>,
    generation: u64,
    fetched: Moment,
}

impl KeySet {
    /// Changes exactly when the keys do: what was verified by another generation must be verified again.
    pub(crate) const fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether one of the keys that this `kid` and algorithm choose signed the message.
    pub(crate) fn verifies(&self, kid: Option<&str>, algorithm: Algorithm, signed: (&[u8], &[u8])) -> bool {
        self.keys
            .iter()
            .filter(|key| key.algorithm() == algorithm && (kid.is_none() || key.kid() == kid))
            .take(TRIED_MAX)
            .any(|key| key.verifies(signed.0, signed.1))
    }

    /// Whether fetching again could not help: the `kid` is here, or, without one, a key of the algorithm.
    fn knows(&self, kid: Option<&str>, algorithm: Algorithm) -> bool {
        self.keys.iter().any(|key| kid.map_or(key.algorithm() == algorithm, |kid| key.kid() == Some(kid)))
    }

    fn algorithms(&self) -> impl Iterator<Item = Algorithm> {
        self.keys.iter().map(PublicKey::algorithm).collect::<BTreeSet<_>>().into_iter()
    }
}

/// A point in time by both clocks: wall time may be set back by days, the monotonic clock cannot be stepped by tests.
#[derive(Clone, Copy, Debug)]
struct Moment {
    wall: Timestamp,
    monotonic: Instant,
}

impl Moment {
    /// How long ago it was by the clock that says longer, so that a step of the wall clock never stretches a wait.
    fn age(self, now: Timestamp) -> Duration {
        now.since(self.wall).max(self.monotonic.elapsed())
    }
}

type HttpClient = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// One URL of keys. Clones share what is held.
#[derive(Clone)]
pub(crate) struct Jwks {
    shared: Arc<Shared>,
}

struct Shared {
    url: String,
    client: Option<HttpClient>,
    tracker: TaskTracker,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: Option<Arc<KeySet>>,
    generations: u64,
    tried: Option<Moment>,
    asked: Option<Moment>,
    error: Option<String>,
    flight: Option<watch::Receiver<()>>,
}

impl State {
    fn usable(&self, now: Timestamp) -> Option<&Arc<KeySet>> {
        self.held.as_ref().filter(|set| set.fetched.age(now) <= STALE_MAX)
    }

    /// The fetch under way. One whose task died without a word has closed its channel and does not count.
    fn flight(&self) -> Option<&watch::Receiver<()>> {
        self.flight.as_ref().filter(|flight| flight.has_changed().is_ok())
    }
}

/// What a caller with a `kid` is to do.
enum Step {
    Serve(Arc<KeySet>),
    Wait(watch::Receiver<()>),
    Decide,
}

impl Jwks {
    /// The keys at `url`, none of them fetched yet.
    pub(crate) fn new(url: String, tracker: TaskTracker, clock: Clock) -> Self {
        let client = http_client();
        Self { shared: Arc::new(Shared { url, client, tracker, clock, state: Mutex::default() }) }
    }

    /// Where they are fetched.
    pub(crate) fn url(&self) -> &str {
        &self.shared.url
    }

    /// The set that is held, if it may still serve; one past [`FRESH`] is refreshed in the background meanwhile.
    pub(crate) fn usable(&self, now: Timestamp) -> Option<Arc<KeySet>> {
        let mut state = self.state();
        let set = Arc::clone(state.usable(now)?);
        self.refresh_when_old(&mut state, &set, now);
        Some(set)
    }

    /// The set to verify a token by. A `kid` that it does not have causes one shared fetch, which is waited for;
    /// within [`COOL_DOWN`] of the last such fetch the set is given as it is, and the token will match no key of it.
    ///
    /// # Errors
    /// There is no set that may serve, or the last fetch failed and the `kid` might be a new one.
    pub(crate) async fn set_for(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
        now: Timestamp,
    ) -> Result<Arc<KeySet>, Unavailable> {
        match self.step(kid, algorithm, now) {
            Step::Serve(set) => return Ok(set),
            Step::Decide => {}
            // The sender says nothing: it is dropped when the fetch has ended, whichever way.
            Step::Wait(mut flight) => {
                if timeout(FETCH_TIMEOUT, flight.changed()).await.is_err() {
                    return Err(Unavailable);
                }
            }
        }
        let state = self.state();
        let set = state.usable(now).ok_or(Unavailable)?;
        if state.error.is_some() && !set.knows(kid, algorithm) {
            return Err(Unavailable);
        }
        Ok(Arc::clone(set))
    }

    /// Fetches what is missing or old; to be called every [`TICK`], so that keys come back without any request.
    /// Needs a tokio runtime.
    pub(crate) fn tick(&self, now: Timestamp) {
        let mut state = self.state();
        match state.usable(now).map(Arc::clone) {
            Some(set) => self.refresh_when_old(&mut state, &set, now),
            None if state.flight().is_none() => drop(self.fetch_in_background(&mut state)),
            None => {}
        }
    }

    /// What is known, without asking anybody.
    pub(crate) fn health(&self, now: Timestamp) -> KeysHealth {
        let state = self.state();
        let set = state.usable(now);
        let unusable = match (set, &state.held) {
            (Some(_), _) => None,
            (None, None) => Some("the keys were not fetched yet"),
            (None, Some(_)) => Some("the keys held are more than an hour old"),
        };
        KeysHealth {
            ok: set.is_some(),
            keys: set.map_or(0, |set| set.keys.len()),
            algorithms: set.map(|set| set.algorithms().map(Algorithm::as_str).collect()).unwrap_or_default(),
            fetched_at: state.held.as_ref().map(|set| set.fetched.wall.rfc3339()),
            error: state.error.clone().or_else(|| unusable.map(str::to_owned)),
            note: None,
        }
    }

    /// How long ago the set that is held was fetched.
    pub(crate) fn age(&self, now: Timestamp) -> Option<Duration> {
        self.state().held.as_ref().map(|set| set.fetched.age(now))
    }

    /// Whether a fetch is under way.
    #[cfg(test)]
    pub(crate) fn is_fetching(&self) -> bool {
        self.state().flight().is_some()
    }

    fn step(&self, kid: Option<&str>, algorithm: Algorithm, now: Timestamp) -> Step {
        let mut state = self.state();
        if let Some(set) = state.usable(now).filter(|set| set.knows(kid, algorithm)).map(Arc::clone) {
            self.refresh_when_old(&mut state, &set, now);
            return Step::Serve(set);
        }
        if let Some(flight) = state.flight() {
            return Step::Wait(flight.clone());
        }
        if state.asked.is_some_and(|asked| asked.age(now) < COOL_DOWN) {
            return Step::Decide;
        }
        state.asked = Some(self.moment());
        Step::Wait(self.fetch_in_background(&mut state))
    }

    fn refresh_when_old(&self, state: &mut State, set: &KeySet, now: Timestamp) {
        let tried_lately = state.tried.is_some_and(|tried| tried.age(now) < COOL_DOWN);
        if set.fetched.age(now) >= FRESH && !tried_lately && state.flight().is_none() {
            drop(self.fetch_in_background(state));
        }
    }

    /// Starts the one fetch; the receiver closes when it has ended.
    fn fetch_in_background(&self, state: &mut State) -> watch::Receiver<()> {
        let (ended, flight) = watch::channel(());
        let begun = self.moment();
        state.tried = Some(begun);
        state.flight = Some(flight.clone());
        let jwks = self.clone();
        self.shared.tracker.spawn(async move {
            let outcome = jwks.shared.fetch().await;
            jwks.land(begun, outcome);
            drop(ended);
        });
        flight
    }

    /// Takes in what a fetch brought.
    fn land(&self, begun: Moment, outcome: Result<Vec<PublicKey>, String>) {
        let mut state = self.state();
        state.flight = None;
        let keys = match outcome {
            Ok(keys) => keys,
            Err(reason) => {
                tracing::warn!(reason, url = self.shared.url, "the JWKS could not be fetched");
                state.error = Some(reason);
                return;
            }
        };
        state.error = None;
        if state.usable(begun.wall).is_none() {
            // The fetch that ends an outage is no answer to an unknown kid: the next one may ask at once.
            state.asked = None;
        }
        if state.held.as_ref().is_none_or(|held| held.keys != keys) {
            state.generations = state.generations.saturating_add(1);
            tracing::info!(keys = keys.len(), "the keys of the JWKS changed");
        }
        state.held = Some(Arc::new(KeySet { keys, generation: state.generations, fetched: begun }));
    }

    fn moment(&self) -> Moment {
        Moment { wall: self.shared.clock.now(), monotonic: Instant::now() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    async fn fetch(&self) -> Result<Vec<PublicKey>, String> {
        match timeout(FETCH_TIMEOUT, self.fetch_unbounded()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {} s", FETCH_TIMEOUT.as_secs())),
        }
    }

    /// One GET. Redirects are not followed: only the operator says where keys come from.
    async fn fetch_unbounded(&self) -> Result<Vec<PublicKey>, String> {
        let client = self.client.as_ref().ok_or("TLS could not be set up")?;
        let request = Request::get(&self.url)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("tollgate/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .map_err(|_| "supabase_url does not make a URL")?;
        let response = client.request(request).await.map_err(|error| {
            tracing::debug!(%error, "the JWKS was not reached");
            if error.is_connect() { "cannot connect" } else { "the connection broke" }
        })?;
        if response.status() != StatusCode::OK {
            return Err(format!("answered with status {}", response.status().as_u16()));
        }
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX)
            .collect()
            .await
            .map_err(|_| "the answer broke off or was longer than 256 KiB")?;
        read_set(&body.to_bytes())
    }
}

/// Reads `{"keys": […]}`; keys that cannot be used are left out, a set of none is a set.
fn read_set(body: &[u8]) -> Result<Vec<PublicKey>, String> {
    let set: Value = serde_json::from_slice(body).map_err(|_| "the answer is not JSON")?;
    let keys = set.get("keys").and_then(Value::as_array).ok_or("the answer is not a JSON Web Key Set")?;
    if keys.len() > KEYS_MAX {
        return Err(format!("the set has more than {KEYS_MAX} keys"));
    }
    Ok(keys.iter().filter_map(usable_key).collect())
}

fn usable_key(jwk: &Value) -> Option<PublicKey> {
    PublicKey::from_jwk(jwk).map_err(|reason| tracing::debug!(reason, "a key of the JWKS is left out")).ok()
}

/// HTTP/1.1, TLS by rustls with the web's public roots; no connection is kept, as the next fetch is minutes away.
fn http_client() -> Option<HttpClient> {
    let connector = HttpsConnectorBuilder::new()
        .with_provider_and_webpki_roots(rustls::crypto::aws_lc_rs::default_provider())
        .map_err(|error| tracing::error!(%error, "TLS could not be set up"))
        .ok()?
        .https_or_http()
        .enable_http1()
        .build();
    Some(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector))
}

#[cfg(test)]
pub(crate) mod tests;
