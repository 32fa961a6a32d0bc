//! Who may have a connection: so many at once, and nobody for whoever only waits while others want in.
//!
//! Each connection has a [`Seat`]. It works while a request on it is answered, and waits before and after that. When all
//! seats are taken, the next connection gets the place of the one that has waited longest: strangers who say nothing
//! displace each other. Invariant: no connection is closed for another while it works.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;

/// Seats beyond all, for as long as those who were displaced take to go.
const LEAVING_MAX: usize = 16;

/// All seats of a listener.
#[derive(Debug)]
pub(super) struct Seats {
    most: usize,
    taken: Mutex<HashMap<u64, Arc<Seat>>>,
    /// Counts whatever begins to wait, from 1.
    turns: AtomicU64,
    /// Somebody wants in, and all work.
    is_wanted: AtomicBool,
    changed: Notify,
}

/// One connection's.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    number: u64,
    /// Since which turn it waits; or [`Seat::WORKS`], or [`Seat::DISPLACED`].
    since: AtomicU64,
    displaced: Notify,
    /// Something of the next request's head has come.
    has_begun: AtomicBool,
    /// The kernel took no more of the last answer: the caller does not read.
    is_unread: AtomicBool,
    read_on: Notify,
}

/// A seat that is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Taken(Arc<Seat>);

impl Seats {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            taken: Mutex::default(),
            turns: AtomicU64::new(1),
            is_wanted: AtomicBool::new(false),
            changed: Notify::new(),
        })
    }

    /// Waits until there is a seat for one more.
    pub(super) async fn room(&self) {
        while !self.has_room() {
            self.is_wanted.store(true, Ordering::SeqCst);
            // Once more: the last change may have come before anybody was told to tell of it.
            if self.has_room() {
                break;
            }
            self.changed.notified().await;
        }
        self.is_wanted.store(false, Ordering::SeqCst);
    }

    fn has_room(&self) -> bool {
        let taken = self.taken();
        let leaving = taken.len().saturating_sub(self.most);
        taken.len() < self.most || (leaving < LEAVING_MAX && taken.values().any(|seat| seat.turn().is_some()))
    }

    /// Takes a seat: a free one, else that of whoever has waited longest.
    pub(super) fn take(self: &Arc<Self>) -> Taken {
        let turn = self.turns.fetch_add(1, Ordering::SeqCst);
        let since = AtomicU64::new(turn);
        let seat = Arc::new(Seat {
            seats: self.clone(),
            number: turn,
            since,
            displaced: Notify::new(),
            has_begun: AtomicBool::new(false),
            is_unread: AtomicBool::new(false),
            read_on: Notify::new(),
        });
        let mut taken = self.taken();
        if taken.len() >= self.most {
            displace_one(&taken);
        }
        taken.insert(turn, seat.clone());
        Taken(seat)
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<u64, Arc<Seat>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_changed(&self) {
        if self.is_wanted.load(Ordering::SeqCst) {
            self.changed.notify_one();
        }
    }
}

fn displace_one(taken: &HashMap<u64, Arc<Seat>>) {
    let longest = taken.values().filter_map(|seat| Some((seat.turn()?, seat))).min_by_key(|(turn, _)| *turn);
    let Some((turn, seat)) = longest else { return };
    // Unless it has begun to work this moment.
    if seat.since.compare_exchange(turn, Seat::DISPLACED, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
        seat.displaced.notify_one();
    }
}

impl Seat {
    /// A request is answered.
    const WORKS: u64 = 0;
    /// Another connection has its place.
    const DISPLACED: u64 = u64::MAX;

    /// Since which turn it waits, if it does.
    fn turn(&self) -> Option<u64> {
        Some(self.since.load(Ordering::SeqCst)).filter(|since| ![Self::WORKS, Self::DISPLACED].contains(since))
    }

    /// The whole head of a request has come.
    pub(super) fn works(&self) {
        self.since.store(Self::WORKS, Ordering::SeqCst);
    }

    /// A head is waited for, of which nothing has come.
    pub(super) fn expects_head(&self) {
        self.has_begun.store(false, Ordering::Relaxed);
    }

    /// Bytes have come.
    pub(super) fn begins(&self) {
        self.has_begun.store(true, Ordering::Relaxed);
    }

    /// Some of the head that is waited for has come.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// The kernel was given a piece of an answer, and took it or is full.
    pub(super) fn wrote(&self, is_full: bool) {
        if self.is_unread.load(Ordering::Relaxed) != is_full {
            self.is_unread.store(is_full, Ordering::Relaxed);
            self.read_on.notify_one();
        }
    }

    /// The caller has not read the last answer.
    pub(super) fn is_unread(&self) -> bool {
        self.is_unread.load(Ordering::Relaxed)
    }

    /// Waits until the caller has read enough that nothing waits to be sent.
    pub(super) async fn read_up(&self) {
        while self.is_unread() {
            self.read_on.notified().await;
        }
    }

    fn waits(&self) {
        self.since.store(self.seats.turns.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
        self.seats.has_changed();
    }
}

impl Taken {
    pub(super) fn seat(&self) -> Arc<Seat> {
        self.0.clone()
    }

    /// Waits until another connection has its place: then it is to be closed at once.
    pub(super) async fn displaced(&self) {
        self.0.displaced.notified().await;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.seats.taken().remove(&self.0.number);
        self.0.seats.has_changed();
    }
}

/// The body of an answer. When it is gone, the answer is given, and the connection waits.
pub(super) struct Answering<B> {
    body: B,
    seat: Arc<Seat>,
}

impl<B> Answering<B> {
    pub(super) const fn new(body: B, seat: Arc<Seat>) -> Self {
        Self { body, seat }
    }
}

impl<B> Drop for Answering<B> {
    fn drop(&mut self) {
        self.seat.waits();
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answering<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::Waker;

    use super::*;

    fn is_ready(future: impl Future<Output = ()>) -> bool {
        std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn whoever_has_waited_longest_goes_and_nobody_who_works() {
        let seats = Seats::new(3);
        let (first, second, third) = (seats.take(), seats.take(), seats.take());
        first.seat().works();
        assert!(is_ready(seats.room()), "two of three wait");
        let fourth = seats.take();
        let gone = |all: [&Taken; 4]| all.map(|seat| is_ready(seat.displaced()));
        assert_eq!(gone([&first, &second, &third, &fourth]), [false, true, false, false]);
        drop(second);
        // It has answered, and has waited shorter now than the third.
        first.seat().waits();
        let fifth = seats.take();
        assert_eq!(gone([&first, &third, &fourth, &fifth]), [false, true, false, false]);
    }

    #[test]
    fn where_all_work_the_next_waits_until_one_has_answered_or_left() {
        let seats = Seats::new(2);
        let (first, second) = (seats.take(), seats.take());
        first.seat().works();
        second.seat().works();
        let mut room = std::pin::pin!(seats.room());
        let mut context = Context::from_waker(Waker::noop());
        assert!(room.as_mut().poll(&mut context).is_pending());
        drop(Answering::new(axum::body::Body::empty(), first.seat()));
        assert!(room.as_mut().poll(&mut context).is_ready(), "one waits");
        first.seat().works();
        let mut room = std::pin::pin!(seats.room());
        assert!(room.as_mut().poll(&mut context).is_pending());
        drop(second);
        assert!(room.as_mut().poll(&mut context).is_ready(), "one left");
    }

    #[test]
    fn not_many_are_let_in_before_those_they_displaced_have_gone() {
        let seats = Seats::new(100);
        let mut taken: Vec<_> = (0..100).map(|_| seats.take()).collect();
        while is_ready(seats.room()) {
            taken.push(seats.take());
        }
        assert_eq!(taken.len(), 100 + LEAVING_MAX);
    }
}
