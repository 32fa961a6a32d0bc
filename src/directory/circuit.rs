//! A circuit breaker for a database that does not answer.
//!
//! A database that fails reports an error at once; one that hangs makes everybody wait. This tracks which calls are in
//! progress and when an answer last arrived; it does not know what the calls ask. Invariants:
//! - A database that answers is never called silent, however slow it is and however many wait for it.
//! - A silent database gets one call in `PROBE_EVERY`, and its first answer closes the circuit.
//! - A call that hangs while others are answered affects only its own caller.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

/// How long a database may be silent before callers stop waiting for it. The first call after a pause is
/// a new connection with TLS and a sign-in: eight times the way there and back, which may be 150 ms.
pub(super) const PATIENCE: Duration = Duration::from_millis(1500);
/// How often a silent database is asked whether it answers again.
const PROBE_EVERY: Duration = Duration::from_millis(500);

/// The calls of one kind to one database. Clones are the same.
#[derive(Clone)]
pub(super) struct Circuit(Arc<CircuitState>);

struct CircuitState {
    /// What is asked, for the log.
    name: &'static str,
    calls: Mutex<Calls>,
}

/// The permission to make one call.
pub(super) struct Permit {
    circuit: Circuit,
    number: u64,
    /// Its caller waits at least until then.
    waits_until: Instant,
}

impl Circuit {
    /// A circuit that opens after so much silence.
    pub(super) fn new(name: &'static str, patience: Duration) -> Self {
        Self(Arc::new(CircuitState {
            name,
            calls: Mutex::new(Calls::new(patience)),
        }))
    }

    /// A permit for one call. `None` while the circuit is open and a probe was made a moment ago (half-open).
    pub(super) fn permit(&self) -> Option<Permit> {
        let now = Instant::now();
        let mut calls = self.lock();
        let Some((number, waits_until)) = calls.begin(now) else {
            if !std::mem::replace(&mut calls.told, true) {
                tracing::error!(
                    "{} does not answer: until it does, what it said lately counts",
                    self.0.name
                );
            }
            return None;
        };
        Some(Permit {
            circuit: self.clone(),
            number,
            waits_until,
        })
    }

    /// Nothing was heard for too long.
    pub(super) fn is_silent(&self) -> bool {
        let now = Instant::now();
        self.lock().is_silent(now)
    }

    /// Waits for something that needs an answer: as long as there are any, and until `at_least`.
    pub(super) async fn while_answering<T>(
        &self,
        at_least: Instant,
        wanted: impl Future<Output = T>,
    ) -> Option<T> {
        let mut wanted = std::pin::pin!(wanted);
        loop {
            let until = self.lock().silent_from(Instant::now()).max(at_least);
            if let Ok(had) = timeout_at(until, wanted.as_mut()).await {
                return Some(had);
            }
            // Others may have been answered meanwhile.
            if self.is_silent() {
                return None;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.0.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// The caller waits for the answer at least until then, even if the circuit opens.
    pub(super) const fn waits_until(&self) -> Instant {
        self.waits_until
    }

    /// Records how the call ended. An error is an answer too: it is not silence.
    pub(super) fn over<T, E>(self, brought: Result<T, E>) -> Result<T, E> {
        let now = Instant::now();
        let mut calls = self.circuit.lock();
        if brought.is_err() {
            calls.failed(self.number, now);
        } else if calls.answered(self.number, now) {
            tracing::info!("{} answers again", self.circuit.0.name);
        }
        brought
    }
}

impl Drop for Permit {
    /// Without a word of what it brought: it was not made, or its task died.
    fn drop(&mut self) {
        self.circuit.lock().waiting.remove(&self.number);
    }
}

/// The state of the calls. `now` is an argument.
struct Calls {
    patience: Duration,
    begun: u64,
    /// Those under way, and when each began; but for those that began before one that was answered.
    waiting: BTreeMap<u64, Instant>,
    heard: Option<Instant>,
    /// One ended after a long silence, and nothing was heard since.
    gave_up: bool,
    probed: Option<Instant>,
    /// The silence has been logged.
    told: bool,
}

impl Calls {
    const fn new(patience: Duration) -> Self {
        let waiting = BTreeMap::new();
        Self {
            patience,
            begun: 0,
            waiting,
            heard: None,
            gave_up: false,
            probed: None,
            told: false,
        }
    }

    /// The number of a new call, and until when it is waited for at least; `None`: not now.
    fn begin(&mut self, now: Instant) -> Option<(u64, Instant)> {
        let is_silent = self.is_silent(now);
        if is_silent
            && self
                .probed
                .is_some_and(|at| now.saturating_duration_since(at) < PROBE_EVERY)
        {
            return None;
        }
        if is_silent {
            self.probed = Some(now);
        }
        self.begun = self.begun.saturating_add(1);
        self.waiting.insert(self.begun, now);
        Some((
            self.begun,
            if is_silent {
                self.after_patience(now)
            } else {
                now
            },
        ))
    }

    /// True if it was said to be silent.
    fn answered(&mut self, number: u64, now: Instant) -> bool {
        // Those that began earlier were overtaken: their silence says nothing about the database.
        self.waiting = self.waiting.split_off(&number.saturating_add(1));
        self.heard = Some(now);
        self.gave_up = false;
        self.probed = None;
        std::mem::take(&mut self.told)
    }

    fn failed(&mut self, number: u64, now: Instant) {
        let Some(began) = self.waiting.remove(&number) else {
            return;
        };
        let silence =
            now.saturating_duration_since(self.heard.map_or(began, |heard| heard.max(began)));
        self.gave_up |= silence >= self.patience;
    }

    fn is_silent(&self, now: Instant) -> bool {
        self.silent_from(now) <= now
    }

    /// From when on it is silent, if nothing is heard until then.
    fn silent_from(&self, now: Instant) -> Instant {
        if self.gave_up {
            return now;
        }
        // Without a waiting call there is no silence.
        let earliest = self
            .waiting
            .first_key_value()
            .map_or(now, |(_, began)| *began);
        self.after_patience(self.heard.map_or(earliest, |heard| heard.max(earliest)))
    }

    fn after_patience(&self, moment: Instant) -> Instant {
        moment.checked_add(self.patience).unwrap_or(moment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls() -> (Calls, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        (Calls::new(PATIENCE), move |ms| {
            start.checked_add(Duration::from_millis(ms)).unwrap()
        })
    }

    #[test]
    fn a_database_that_answers_one_of_many_each_third_of_a_second_is_never_silent() {
        let (mut calls, at) = calls();
        for _ in 0..100 {
            assert!(calls.begin(at(0)).is_some());
        }
        for number in 1..=100 {
            let now = at(number * 300);
            assert!(!calls.is_silent(now), "after {number} answers");
            // The last ones give up in the end, having waited for their turn.
            if number % 10 == 0 {
                calls.failed(number, now);
            } else {
                calls.answered(number, now);
            }
            let another = calls.begin(now).unwrap();
            assert_eq!(another.1, now, "nobody is a probe");
            calls.waiting.remove(&another.0);
        }
    }

    #[test]
    fn one_that_says_nothing_is_asked_twice_a_second_until_it_answers() {
        let (mut calls, at) = calls();
        assert!(
            calls.begin(at(0)).is_some()
                && calls.begin(at(1499)).is_some()
                && !calls.is_silent(at(1499))
        );
        let asked = |calls: &mut Calls, range: std::ops::Range<u64>| {
            let made: Vec<_> = range
                .step_by(10)
                .filter_map(|ms| calls.begin(at(ms)))
                .collect();
            made
        };
        assert_eq!(asked(&mut calls, 1500..3500).len(), 4);
        // All of them end without an answer, and no new call comes for a long time.
        for number in 1..=6 {
            calls.failed(number, at(6500));
        }
        assert!(calls.is_silent(at(60_000)));
        let probe = asked(&mut calls, 60_000..60_500);
        assert_eq!(
            probe.iter().map(|probe| probe.1).collect::<Vec<_>>(),
            [at(61_500)],
            "a probe is waited for"
        );
        calls.answered(probe[0].0, at(60_500));
        assert_eq!(asked(&mut calls, 60_500..61_500).len(), 100);
    }

    #[test]
    fn a_call_that_hangs_while_others_are_answered_silences_nobody() {
        let (mut calls, at) = calls();
        let (hangs, _) = calls.begin(at(0)).unwrap();
        let (other, _) = calls.begin(at(100)).unwrap();
        calls.answered(other, at(200));
        assert!(!calls.is_silent(at(60_000)));
        calls.failed(hangs, at(60_000));
        assert!(!calls.is_silent(at(60_000)));
    }

    #[test]
    fn an_error_that_comes_soon_is_no_silence_and_one_that_comes_late_is() {
        let (mut calls, at) = calls();
        let (soon, _) = calls.begin(at(0)).unwrap();
        calls.failed(soon, at(1499));
        assert!(!calls.is_silent(at(5000)));
        let (late, _) = calls.begin(at(5000)).unwrap();
        calls.failed(late, at(6500));
        assert!(calls.is_silent(at(6500)));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_when_it_falls_silent_is_let_go_and_a_probe_waits_anyway() {
        let circuit = Circuit::new("it", PATIENCE);
        let begun = Instant::now();
        let first = circuit.permit().unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let never = std::future::pending::<()>();
        assert_eq!(circuit.while_answering(Instant::now(), never).await, None);
        assert_eq!(begun.elapsed().as_millis().div_euclid(100), 15);
        let probe = circuit.permit().unwrap();
        assert!(circuit.permit().is_none() && circuit.is_silent());
        let answer = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            probe.circuit.clone()
        };
        assert!(
            circuit
                .while_answering(probe.waits_until(), answer)
                .await
                .is_some()
        );
        assert_eq!(probe.over(Ok::<_, ()>(())), Ok(()));
        assert!(!circuit.is_silent() && circuit.permit().is_some());
        drop(first);
    }
}
