//! What the last traffic with an upstream saw. Pure: it dials nobody, and `now` is an argument.

use std::time::Duration;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::clock::Timestamp;

/// After so many failures in a row that say "out of use", an upstream is.
const FAILURES_MAX: u32 = 3;

/// An outage that was last seen longer ago than this says nothing any more.
const OUTAGE_COUNTS: Duration = Duration::from_mins(1);

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

    /// Whether no request can succeed while it lasts. What one caller can cause is none.
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
    outages: u32,
}

impl Default for Health {
    fn default() -> Self {
        Self { ok: true, last_error: None, at: None, outages: 0 }
    }
}

impl Health {
    /// As it counts at `now`: what was seen too long ago says nothing. (A balancer that obeys readiness sends no traffic
    /// that could show that the upstream is back.)
    pub(super) fn at(&self, now: Timestamp) -> Self {
        let is_old = self.at.is_some_and(|at| now.since(at) >= OUTAGE_COUNTS);
        Self { ok: self.ok || is_old, ..self.clone() }
    }

    pub(super) fn succeeded(&mut self, now: Timestamp) {
        *self = Self { at: Some(now), ..Self::default() };
    }

    pub(super) fn failed(&mut self, failure: Failure, now: Timestamp) {
        self.outages = if failure.is_outage() { self.outages.saturating_add(1) } else { 0 };
        // Another kind of failure ends the row, but does not show that the upstream is back.
        self.ok = self.ok && self.outages < FAILURES_MAX;
        self.last_error = Some(failure);
        self.at = Some(now);
    }
}

/// `{"ok", "last_error", "at"}`: a word and RFC 3339, or null.
impl Serialize for Health {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Health", 3)?;
        object.serialize_field("ok", &self.ok)?;
        object.serialize_field("last_error", &self.last_error.map(Failure::as_str))?;
        object.serialize_field("at", &self.at.map(Timestamp::rfc3339))?;
        object.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_outages_in_a_row_put_an_upstream_out_of_use_until_it_succeeds() {
        let now = Timestamp::from_secs(5);
        let mut health = Health::default();
        for failure in [Failure::Connect, Failure::Unauthorized, Failure::Error, Failure::TimedOut, Failure::Connect] {
            health.failed(failure, now);
            assert!(health.ok, "{failure:?}");
        }
        health.failed(Failure::Connect, now);
        assert!(!health.ok);
        health.failed(Failure::Error, now);
        assert!(!health.ok, "an error is no success");
        assert!(!health.at(now.plus(Duration::from_secs(59))).ok && health.at(now.plus(Duration::from_mins(1))).ok);
        health.succeeded(now);
        assert_eq!(health, Health { at: Some(now), ..Health::default() });
    }

    #[test]
    fn it_is_written_for_the_readiness_page() {
        let mut health = Health::default();
        health.failed(Failure::TimedOut, Timestamp::from_secs(0));
        let text = serde_json::to_string(&health).unwrap();
        assert_eq!(text, r#"{"ok":true,"last_error":"timeout","at":"1970-01-01T00:00:00Z"}"#);
    }
}
