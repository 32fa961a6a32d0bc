//! Who may have a connection: a fixed number at once, and idle connections make room for new ones.
//!
//! Each connection has a [`ConnectionSlot`]. It is busy while a request on it is answered, and idle before and after that.
//! When all slots are taken, a new connection evicts the one that has been idle longest, so strangers who send nothing
//! evict each other. Invariant: a busy connection is never closed for another one.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;

/// Slots beyond the limit, for as long as evicted connections take to close.
const LEAVING_MAX: usize = 16;

/// All slots of a listener.
#[derive(Debug)]
pub(crate) struct Slots {
    most: usize,
    taken: Mutex<HashMap<u64, Arc<ConnectionSlot>>>,
    /// Counts the times that a connection became idle, from 1.
    turns: AtomicU64,
    /// A connection waits for a slot, and all are busy.
    is_wanted: AtomicBool,
    changed: Notify,
}

/// The slot of one connection.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    slots: Arc<Slots>,
    number: u64,
    /// The turn at which it became idle; or [`ConnectionSlot::WORKS`], or [`ConnectionSlot::EVICTED`].
    since: AtomicU64,
    evicted: Notify,
    /// Something of the next request's head has come.
    has_begun: AtomicBool,
    /// The kernel took no more of the last answer: the caller does not read.
    is_unread: AtomicBool,
    read_on: Notify,
}

/// Frees the slot when it is dropped.
#[derive(Debug)]
pub(crate) struct SlotGuard(Arc<ConnectionSlot>);

impl Slots {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            taken: Mutex::default(),
            turns: AtomicU64::new(1),
            is_wanted: AtomicBool::new(false),
            changed: Notify::new(),
        })
    }

    /// Waits until there is a slot for one more.
    pub(crate) async fn room(&self) {
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
        taken.len() < self.most
            || (leaving < LEAVING_MAX && taken.values().any(|slot| slot.turn().is_some()))
    }

    /// Takes a slot: a free one, else that of the connection that has been idle longest.
    pub(crate) fn take(self: &Arc<Self>) -> SlotGuard {
        let turn = self.turns.fetch_add(1, Ordering::SeqCst);
        let since = AtomicU64::new(turn);
        let slot = Arc::new(ConnectionSlot {
            slots: self.clone(),
            number: turn,
            since,
            evicted: Notify::new(),
            has_begun: AtomicBool::new(false),
            is_unread: AtomicBool::new(false),
            read_on: Notify::new(),
        });
        let mut taken = self.taken();
        if taken.len() >= self.most {
            evict_one(&taken);
        }
        taken.insert(turn, slot.clone());
        SlotGuard(slot)
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<u64, Arc<ConnectionSlot>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_changed(&self) {
        if self.is_wanted.load(Ordering::SeqCst) {
            self.changed.notify_one();
        }
    }
}

fn evict_one(taken: &HashMap<u64, Arc<ConnectionSlot>>) {
    let longest = taken
        .values()
        .filter_map(|slot| Some((slot.turn()?, slot)))
        .min_by_key(|(turn, _)| *turn);
    let Some((turn, slot)) = longest else { return };
    // Unless it has begun to work this moment.
    if slot
        .since
        .compare_exchange(
            turn,
            ConnectionSlot::EVICTED,
            Ordering::SeqCst,
            Ordering::SeqCst,
        )
        .is_ok()
    {
        slot.evicted.notify_one();
    }
}

impl ConnectionSlot {
    /// A request is answered.
    const WORKS: u64 = 0;
    /// Another connection has its place.
    const EVICTED: u64 = u64::MAX;

    /// Since which turn it waits, if it does.
    fn turn(&self) -> Option<u64> {
        Some(self.since.load(Ordering::SeqCst))
            .filter(|since| ![Self::WORKS, Self::EVICTED].contains(since))
    }

    /// The whole head of a request has come.
    pub(crate) fn works(&self) {
        self.since.store(Self::WORKS, Ordering::SeqCst);
    }

    /// A head is waited for, of which nothing has come.
    pub(crate) fn expects_head(&self) {
        self.has_begun.store(false, Ordering::Relaxed);
    }

    /// Bytes have come.
    pub(crate) fn begins(&self) {
        self.has_begun.store(true, Ordering::Relaxed);
    }

    /// Some of the head that is waited for has come.
    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// The kernel was given a piece of an answer, and took it or is full.
    pub(crate) fn wrote(&self, is_full: bool) {
        if self.is_unread.load(Ordering::Relaxed) != is_full {
            self.is_unread.store(is_full, Ordering::Relaxed);
            self.read_on.notify_one();
        }
    }

    /// The caller has not read the last answer.
    pub(crate) fn is_unread(&self) -> bool {
        self.is_unread.load(Ordering::Relaxed)
    }

    /// Waits until the caller has read enough that nothing waits to be sent.
    pub(crate) async fn read_up(&self) {
        while self.is_unread() {
            self.read_on.notified().await;
        }
    }

    fn waits(&self) {
        self.since.store(
            self.slots.turns.fetch_add(1, Ordering::SeqCst),
            Ordering::SeqCst,
        );
        self.slots.has_changed();
    }
}

impl SlotGuard {
    pub(crate) fn slot(&self) -> Arc<ConnectionSlot> {
        self.0.clone()
    }

    /// Waits until another connection has its place: then it is to be closed at once.
    pub(crate) async fn evicted(&self) {
        self.0.evicted.notified().await;
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        self.0.slots.taken().remove(&self.0.number);
        self.0.slots.has_changed();
    }
}

/// The body of an answer. When it is gone, the answer is given, and the connection waits.
pub(crate) struct AnswerBody<B> {
    body: B,
    slot: Arc<ConnectionSlot>,
}

impl<B> AnswerBody<B> {
    pub(crate) const fn new(body: B, slot: Arc<ConnectionSlot>) -> Self {
        Self { body, slot }
    }
}

impl<B> Drop for AnswerBody<B> {
    fn drop(&mut self) {
        self.slot.waits();
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for AnswerBody<B> {
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
        std::pin::pin!(future)
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_ready()
    }

    #[test]
    fn whoever_has_waited_longest_goes_and_nobody_who_works() {
        let slots = Slots::new(3);
        let (first, second, third) = (slots.take(), slots.take(), slots.take());
        first.slot().works();
        assert!(is_ready(slots.room()), "two of three wait");
        let fourth = slots.take();
        let gone = |all: [&SlotGuard; 4]| all.map(|slot| is_ready(slot.evicted()));
        assert_eq!(
            gone([&first, &second, &third, &fourth]),
            [false, true, false, false]
        );
        drop(second);
        // It has answered, and has waited shorter now than the third.
        first.slot().waits();
        let fifth = slots.take();
        assert_eq!(
            gone([&first, &third, &fourth, &fifth]),
            [false, true, false, false]
        );
    }

    #[test]
    fn where_all_work_the_next_waits_until_one_has_answered_or_left() {
        let slots = Slots::new(2);
        let (first, second) = (slots.take(), slots.take());
        first.slot().works();
        second.slot().works();
        let mut room = std::pin::pin!(slots.room());
        let mut context = Context::from_waker(Waker::noop());
        assert!(room.as_mut().poll(&mut context).is_pending());
        drop(AnswerBody::new(axum::body::Body::empty(), first.slot()));
        assert!(room.as_mut().poll(&mut context).is_ready(), "one waits");
        first.slot().works();
        let mut room = std::pin::pin!(slots.room());
        assert!(room.as_mut().poll(&mut context).is_pending());
        drop(second);
        assert!(room.as_mut().poll(&mut context).is_ready(), "one left");
    }

    #[test]
    fn not_many_are_let_in_before_those_they_evicted_have_gone() {
        let slots = Slots::new(100);
        let mut taken: Vec<_> = (0..100).map(|_| slots.take()).collect();
        while is_ready(slots.room()) {
            taken.push(slots.take());
        }
        assert_eq!(taken.len(), 100 + LEAVING_MAX);
    }
}
