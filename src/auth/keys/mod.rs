//! The public keys of the project: fetched, kept, rotated.
//!
//! It knows one URL and what it last said. It does not know tokens or users: it is asked for the set that should have
//! a `kid`. Invariants: at most one fetch is under way; requests cause at most one fetch in [`COOL_DOWN`]; a failed
//! fetch never replaces a good set; no set serves longer than [`STALE_MAX`] after the fetch that brought it.
//!
//! A fetch runs in a task of its own on the tracker, so that a caller who leaves cannot cancel it for the others.

mod set;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use serde::Serialize;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

pub(crate) use self::set::KeySet;
use self::set::read_set;
use crate::auth::key::{Algorithm, PublicKey};
use crate::clock::{Clock, Timestamp};
use crate::http_client::{HttpClient, USER_AGENT};
use crate::single_flight::{Landing, Leader, SingleFlight};

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

/// What readiness tells about the keys. Fields with nothing to say are null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeysHealth {
    /// Whether the project's keys are at hand, or none are needed.
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

impl KeysHealth {
    /// Some configured way to verify a token works. The shared secret needs no keys: it alone suffices.
    #[must_use]
    pub fn can_verify(&self) -> bool {
        self.ok || self.algorithms.contains(&"HS256")
    }
}

/// The keys could not be fetched: nobody can say whether a token is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unavailable;

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

/// One URL of keys. Clones share what is held.
#[derive(Clone)]
pub(crate) struct Jwks {
    shared: Arc<KeySource>,
}

struct KeySource {
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
    flight: SingleFlight,
}

impl State {
    fn usable(&self, now: Timestamp) -> Option<&Arc<KeySet>> {
        self.held
            .as_ref()
            .filter(|set| set.fetched.age(now) <= STALE_MAX)
    }
}

/// What a caller with a `kid` is to do.
enum Step {
    Serve(Arc<KeySet>),
    Wait(Landing),
    Decide,
}

impl Jwks {
    /// The keys at `url`, none of them fetched yet.
    pub(crate) fn new(url: String, tracker: TaskTracker, clock: Clock) -> Self {
        // No connection is kept: the next fetch is minutes away.
        let client = HttpClient::new(BODY_BYTES_MAX, 0)
            .inspect_err(|error| tracing::error!(%error, "TLS could not be set up"))
            .ok();
        Self {
            shared: Arc::new(KeySource {
                url,
                client,
                tracker,
                clock,
                state: Mutex::default(),
            }),
        }
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
            Step::Wait(landing) => {
                if timeout(FETCH_TIMEOUT, landing.landed()).await.is_err() {
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
            None if state.flight.current().is_none() => drop(self.fetch_in_background(&mut state)),
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
            algorithms: set
                .map(|set| set.algorithms().map(Algorithm::as_str).collect())
                .unwrap_or_default(),
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
        self.state().flight.current().is_some()
    }

    fn step(&self, kid: Option<&str>, algorithm: Algorithm, now: Timestamp) -> Step {
        let mut state = self.state();
        if let Some(set) = state
            .usable(now)
            .filter(|set| set.knows(kid, algorithm))
            .map(Arc::clone)
        {
            self.refresh_when_old(&mut state, &set, now);
            return Step::Serve(set);
        }
        if let Some(landing) = state.flight.current() {
            return Step::Wait(landing.clone());
        }
        if state.asked.is_some_and(|asked| asked.age(now) < COOL_DOWN) {
            return Step::Decide;
        }
        state.asked = Some(self.moment());
        Step::Wait(self.fetch_in_background(&mut state))
    }

    fn refresh_when_old(&self, state: &mut State, set: &KeySet, now: Timestamp) {
        let tried_lately = state.tried.is_some_and(|tried| tried.age(now) < COOL_DOWN);
        if set.fetched.age(now) >= FRESH && !tried_lately && state.flight.current().is_none() {
            drop(self.fetch_in_background(state));
        }
    }

    /// Starts the one fetch.
    fn fetch_in_background(&self, state: &mut State) -> Landing {
        let (leader, landing) = state.flight.begin();
        let begun = self.moment();
        state.tried = Some(begun);
        let jwks = self.clone();
        self.shared.tracker.spawn(async move {
            let outcome = jwks.shared.fetch().await;
            jwks.land(leader, begun, outcome);
        });
        landing
    }

    /// Takes in what a fetch brought.
    fn land(&self, leader: Leader, begun: Moment, outcome: Result<Vec<PublicKey>, String>) {
        let mut state = self.state();
        state.flight.end(leader);
        let keys = match outcome {
            Ok(keys) => keys,
            Err(reason) => {
                tracing::warn!(
                    reason,
                    url = self.shared.url,
                    "the JWKS could not be fetched"
                );
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
        state.held = Some(Arc::new(KeySet {
            keys,
            generation: state.generations,
            fetched: begun,
        }));
    }

    fn moment(&self) -> Moment {
        Moment {
            wall: self.shared.clock.now(),
            monotonic: Instant::now(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeySource {
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
            .header(header::USER_AGENT, USER_AGENT)
            .body(Bytes::new())
            .map_err(|_| "supabase_url does not make a URL")?;
        let response = client.send(request).await.map_err(|error| {
            tracing::debug!(%error, "the JWKS was not reached");
            error.summary()
        })?;
        if response.status() != StatusCode::OK {
            return Err(format!(
                "answered with status {}",
                response.status().as_u16()
            ));
        }
        let body = client.read(response.into_body()).await;
        let body = body.map_err(|error| error.to_string())?;
        read_set(&body)
    }
}
