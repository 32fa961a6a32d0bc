//! Bodies that are on their way from senders who show no token: stores, and whoever else knows the path of a webhook. What proves
//! a store is in the body, so it must be read from anybody.
//!
//! Their number is fixed, and a new one never waits. When all are taken, the address that has the most loses its oldest: a body
//! that is there at once always finds a place, and strangers who send slowly evict each other.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::error::{Code, Refusal};

/// How many of them may be on their way: each has at most 64 KiB.
const OPEN_MAX: usize = 128;
/// How long one may take to arrive: stores have good lines. With a shorter `[server] body_timeout`, that.
const STRANGER_TIMEOUT: Duration = Duration::from_secs(5);

/// Those that are on their way, the oldest first. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct StrangerBodies(Arc<Mutex<OpenBodies>>);

#[derive(Default)]
struct OpenBodies {
    by_number: BTreeMap<u64, OpenBody>,
    last: u64,
}

/// From where it comes, and who is told when it is evicted.
struct OpenBody {
    address: Option<IpAddr>,
    evicted: Arc<Notify>,
}

/// Gives the place back when it is dropped.
struct BodyPlace {
    bodies: StrangerBodies,
    number: u64,
    evicted: Arc<Notify>,
}

impl StrangerBodies {
    /// Reads a body whole.
    ///
    /// # Errors
    /// It is longer than `bytes_max`, takes longer than five seconds or `body_timeout`, breaks off; or others needed its place
    /// (`overloaded`).
    pub(crate) async fn read(
        &self,
        body: Body,
        address: Option<IpAddr>,
        (bytes_max, body_timeout): (usize, Duration),
    ) -> Result<Bytes, Refusal> {
        let place = self.place(address);
        let reading = whole(body, bytes_max, body_timeout.min(STRANGER_TIMEOUT));
        tokio::select! {
            biased;
            read = reading => read,
            () = place.evicted.notified() => {
                let message = "Too many bodies are on their way: send it again, at once and whole.";
                Err(Refusal::new(Code::Overloaded, message))
            }
        }
    }

    fn place(&self, address: Option<IpAddr>) -> BodyPlace {
        let evicted = Arc::new(Notify::new());
        let mut open = self.open();
        if open.by_number.len() >= OPEN_MAX {
            open.evict_one();
        }
        open.last = open.last.wrapping_add(1);
        let number = open.last;
        let body = OpenBody {
            address,
            evicted: evicted.clone(),
        };
        open.by_number.insert(number, body);
        BodyPlace {
            bodies: self.clone(),
            number,
            evicted,
        }
    }

    fn open(&self) -> MutexGuard<'_, OpenBodies> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenBodies {
    /// Of the address that has the most, the oldest.
    fn evict_one(&mut self) {
        let mut counts: HashMap<Option<IpAddr>, usize> = HashMap::new();
        for body in self.by_number.values() {
            let count = counts.entry(body.address).or_default();
            *count = count.saturating_add(1);
        }
        let count_of = |body: &OpenBody| counts.get(&body.address).copied();
        let most = counts.values().copied().max();
        let mut numbered = self.by_number.iter();
        let oldest = numbered.find(|(_, body)| count_of(body) == most);
        let Some(number) = oldest.map(|(number, _)| *number) else {
            return;
        };
        if let Some(body) = self.by_number.remove(&number) {
            body.evicted.notify_one();
        }
    }
}

impl Drop for BodyPlace {
    fn drop(&mut self) {
        self.bodies.open().by_number.remove(&self.number);
    }
}

/// Reads a body of at most so many bytes, within a time.
///
/// # Errors
/// It is longer, takes longer, or breaks off.
pub(crate) async fn whole(body: Body, bytes_max: usize, time: Duration) -> Result<Bytes, Refusal> {
    let reading = Limited::new(body, bytes_max).collect();
    let slow = |_| Refusal::new(Code::InvalidRequest, "The body took too long to arrive.");
    let read = timeout(time, reading).await.map_err(slow)?;
    let read = read.map_err(|error| {
        if error.is::<LengthLimitError>() {
            let message = format!("The body is larger than {bytes_max} bytes.");
            return Refusal::new(Code::BodyTooLarge, message);
        }
        Refusal::new(Code::InvalidRequest, "The body did not arrive whole.")
    })?;
    Ok(read.to_bytes())
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    /// A body of which nothing comes.
    fn silent() -> Body {
        Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up_after_five_seconds_or_sooner() {
        let bodies = StrangerBodies::default();
        for (body_timeout, told) in [(30, 5), (2, 2)] {
            let begun = tokio::time::Instant::now();
            let bounds = (1000, Duration::from_secs(body_timeout));
            let read = bodies.read(silent(), None, bounds).await;
            assert_eq!(read.unwrap_err().code_str(), "invalid_request");
            assert_eq!(begun.elapsed().as_secs(), told);
        }
        assert!(
            bodies.open().by_number.is_empty(),
            "its place is free again"
        );
    }

    #[tokio::test]
    async fn the_address_that_has_the_most_loses_its_oldest() {
        let bodies = StrangerBodies::default();
        let address = |last| Some(IpAddr::from([192, 0, 2, last]));
        let store = bodies.place(address(1));
        let mut others: Vec<_> = (1..OPEN_MAX).map(|_| bodies.place(address(2))).collect();
        let newest = bodies.place(address(3));
        let is_evicted = |place: &BodyPlace| !bodies.open().by_number.contains_key(&place.number);
        assert!(is_evicted(&others.remove(0)));
        assert!(![&store, &newest].into_iter().chain(&others).any(is_evicted));
    }
}
