//! What the last traffic with an upstream saw, and its circuit breaker. Pure: it dials nobody, and `now` is an argument.
//!
//! The breaker stops nothing: an upstream whose breaker is open is only tried after the others that could answer.

use std::time::Duration;

use serde::ser::{Serialize, SerializeStruct, Serializer};
use uuid::Uuid;

use crate::clock::Timestamp;

/// After so many failures in a row that say "out of use", an upstream is.
const FAILURES_MAX: u32 = 3;

/// An outage that was last seen longer ago than this says nothing any more.
const OUTAGE_COUNTS: Duration = Duration::from_mins(1);

/// How long an upstream whose breaker is open is tried last, until one request is let through to it first again: the probe.
const PROBE_EVERY: Duration = Duration::from_secs(10);

/// Whether an upstream is tried in its turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Breaker {
    /// It is.
    #[default]
    Closed,
    /// It failed lately: it is tried last.
    Open,
    /// The next request, or one that is under way, tries it in its turn; the others try it last.
    HalfOpen,
}

impl Breaker {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// A word for people and for labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// How an upstream failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// It cannot be reached.
    Connect,
    /// It did not answer in time.
    TimedOut,
    /// It refuses the operator's key.
    Unauthorized,
    /// It forbids a request (403) without a word of the key: it may be about one model, or about what one caller sent.
    Forbidden,
    /// The operator's budget there is used up.
    Budget,
    /// It says that it is busy (429, 503).
    Busy,
    /// The connection broke in mid-answer.
    Broken,
    /// It answered 5xx, or nonsense.
    Error,
}

impl Failure {
    /// A word for people and for labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::TimedOut => "timeout",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Budget => "budget",
            Self::Busy => "busy",
            Self::Broken => "broken",
            Self::Error => "error",
        }
    }

    /// Whether no request can succeed while it lasts.
    const fn is_outage(self) -> bool {
        matches!(self, Self::Connect | Self::TimedOut | Self::Unauthorized)
    }
}

/// Whether an upstream is in use, and its last failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// False after three outcomes in a row that say that it is out of use; true again with the first success.
    pub ok: bool,
    /// The last failure, until a success.
    pub last_error: Option<Failure>,
    /// When the last outcome was seen.
    pub at: Option<Timestamp>,
    /// As it stands at the moment that was asked for.
    pub breaker: Breaker,
    /// In a row, of every kind that is the upstream's own.
    failures: u32,
    /// Since when it is tried last, and whether a probe is under way since then.
    open_since: Option<(Timestamp, bool)>,
    outages: u32,
    /// Whose request timed out last, in this row of outages.
    timed_out_for: Option<Uuid>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            ok: true,
            last_error: None,
            at: None,
            breaker: Breaker::Closed,
            failures: 0,
            open_since: None,
            outages: 0,
            timed_out_for: None,
        }
    }
}

impl Health {
    /// As it counts at `now`: what was seen too long ago says nothing. (A balancer that obeys readiness sends no traffic
    /// that could show that the upstream is back.)
    pub(super) fn at(&self, now: Timestamp) -> Self {
        let is_old = self.at.is_some_and(|at| now.since(at) >= OUTAGE_COUNTS);
        Self {
            ok: self.ok || is_old,
            breaker: self.breaker_at(now),
            ..self.clone()
        }
    }

    fn breaker_at(&self, now: Timestamp) -> Breaker {
        match self.open_since {
            None => Breaker::Closed,
            Some((since, false)) if !is_over(since, now) => Breaker::Open,
            Some(_) => Breaker::HalfOpen,
        }
    }

    /// Whether a request tries other upstreams first.
    pub(super) fn is_tried_last(&self, now: Timestamp) -> bool {
        self.open_since
            .is_some_and(|(since, _)| !is_over(since, now))
    }

    /// A request goes to the upstream: if it is time for a probe, it is this one, and the next is due after as long again.
    pub(super) fn dialled(&mut self, now: Timestamp) {
        if self.open_since.is_some() && !self.is_tried_last(now) {
            self.open_since = Some((now, true));
        }
    }

    pub(super) fn succeeded(&mut self, now: Timestamp) {
        *self = Self {
            at: Some(now),
            ..Self::default()
        };
    }

    /// Timeouts of one user in a row count once: what a single caller asks may take longer than we wait.
    pub(super) fn failed(&mut self, failure: Failure, user_id: Uuid, now: Timestamp) {
        let is_timeout = failure == Failure::TimedOut;
        let is_again = is_timeout && self.timed_out_for == Some(user_id);
        if !failure.is_outage() {
            self.outages = 0;
            self.timed_out_for = None;
        } else if !is_again {
            self.outages = self.outages.saturating_add(1);
        }
        if is_timeout {
            self.timed_out_for = Some(user_id);
        }
        if !is_again && failure != Failure::Forbidden {
            self.failures = self.failures.saturating_add(1);
        }
        if self.failures >= FAILURES_MAX {
            self.open_since = Some((now, false));
        }
        // Another kind of failure ends the row, but does not show that the upstream is back.
        self.ok = self.ok && self.outages < FAILURES_MAX;
        self.last_error = Some(failure);
        self.at = Some(now);
    }
}

/// A clock that was set back keeps no breaker open.
fn is_over(since: Timestamp, now: Timestamp) -> bool {
    now < since || now.since(since) >= PROBE_EVERY
}

/// `{"ok", "last_error", "at", "breaker"}`: a word and RFC 3339, or null.
impl Serialize for Health {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Health", 4)?;
        object.serialize_field("ok", &self.ok)?;
        object.serialize_field("last_error", &self.last_error.map(Failure::as_str))?;
        object.serialize_field("at", &self.at.map(Timestamp::rfc3339))?;
        object.serialize_field("breaker", self.breaker.as_str())?;
        object.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alice() -> Uuid {
        Uuid::from_u128(1)
    }

    #[test]
    fn timeouts_count_as_an_outage_only_where_several_users_see_them() {
        let now = Timestamp::from_secs(5);
        let bob = Uuid::from_u128(2);
        let mut health = Health::default();
        for _ in 0..9 {
            health.failed(Failure::TimedOut, alice(), now);
        }
        assert!(health.ok, "one user");
        health.failed(Failure::TimedOut, bob, now);
        health.failed(Failure::TimedOut, alice(), now);
        assert!(!health.ok, "several");
    }

    #[test]
    fn three_outages_in_a_row_put_an_upstream_out_of_use_until_it_succeeds() {
        let now = Timestamp::from_secs(5);
        let mut health = Health::default();
        for failure in [
            Failure::Connect,
            Failure::Unauthorized,
            Failure::Error,
            Failure::TimedOut,
            Failure::Connect,
        ] {
            health.failed(failure, alice(), now);
            assert!(health.ok, "{failure:?}");
        }
        health.failed(Failure::Connect, alice(), now);
        assert!(!health.ok);
        health.failed(Failure::Error, alice(), now);
        assert!(!health.ok, "an error is no success");
        assert!(
            !health.at(now.plus(Duration::from_secs(59))).ok
                && health.at(now.plus(Duration::from_mins(1))).ok
        );
        health.succeeded(now);
        assert_eq!(
            health,
            Health {
                at: Some(now),
                ..Health::default()
            }
        );
    }

    #[test]
    fn it_is_written_for_the_readiness_page() {
        let mut health = Health::default();
        health.failed(Failure::TimedOut, alice(), Timestamp::from_secs(0));
        let text = serde_json::to_string(&health).unwrap();
        assert_eq!(
            text,
            r#"{"ok":true,"last_error":"timeout","at":"1970-01-01T00:00:00Z","breaker":"closed"}"#
        );
    }

    #[test]
    fn three_failures_in_a_row_open_the_breaker_until_a_probe_succeeds() {
        let now = Timestamp::from_secs(100);
        let later = |secs| now.plus(Duration::from_secs(secs));
        let mut health = Health::default();
        for failure in [Failure::Error, Failure::Forbidden, Failure::Busy] {
            health.failed(failure, alice(), now);
            assert!(!health.is_tried_last(now), "{failure:?}");
        }
        health.succeeded(now);
        for failure in [Failure::Busy, Failure::Error, Failure::Connect] {
            assert_eq!(health.at(now).breaker, Breaker::Closed);
            health.failed(failure, alice(), now);
        }
        assert!(health.ok && health.is_tried_last(later(9)));
        assert_eq!(health.at(later(9)).breaker, Breaker::Open);
        // One that goes there as a last resort is no probe.
        health.dialled(later(9));
        assert_eq!(health.at(later(9)).breaker, Breaker::Open);
        // One probe at a time, and not for ever.
        assert!(!health.is_tried_last(later(10)));
        assert_eq!(health.at(later(10)).breaker, Breaker::HalfOpen);
        health.dialled(later(10));
        assert!(health.is_tried_last(later(11)));
        assert_eq!(health.at(later(11)).breaker, Breaker::HalfOpen);
        assert!(!health.is_tried_last(later(20)));
        // It fails again.
        health.failed(Failure::Connect, alice(), later(12));
        assert_eq!(health.at(later(21)).breaker, Breaker::Open);
        assert!(!health.is_tried_last(Timestamp::from_secs(50)), "set back");
        health.dialled(later(22));
        health.succeeded(later(23));
        assert_eq!(health.at(later(23)).breaker, Breaker::Closed);
        health.failed(Failure::Error, alice(), later(24));
        assert!(!health.is_tried_last(later(24)));
    }
}
