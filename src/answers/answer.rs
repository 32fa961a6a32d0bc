//! One answer: what is there of it, who follows it, and whether anybody still waits for more.
//!
//! One task writes it (`run`), any number of followers read it, each at its own pace. None of them waits for another, but
//! for one case: an answer that is too long to be kept goes on to its own caller alone, and that caller's pace is then the
//! pace of the upstream, as it is without a key.

use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::log::AnswerLog;

/// How far the caller of an answer that is not kept may be behind.
pub(super) const UNKEPT_BYTES_MAX: usize = 256 * 1024;

/// What a request is known by that may be sent again.
#[derive(Debug)]
pub(super) struct RequestName {
    /// The `X-Request-Id` of its answer.
    pub(super) id: Uuid,
    pub(super) user_id: Uuid,
    pub(super) key: Box<str>,
    pub(super) digest: [u8; 32],
}

/// One answer, shared by the task that writes it and all that follow it.
#[derive(Debug)]
pub(super) struct KeptAnswer {
    pub(super) name: RequestName,
    state: Mutex<State>,
    /// For the task that writes it: somebody came, left, or wants it to stop.
    attendance: Notify,
    /// For the same task: its caller has read on, or left.
    room: Notify,
}

/// What there is of an answer.
#[derive(Debug)]
pub(super) struct State {
    pub(super) head: AnswerHead,
    pub(super) log: AnswerLog,
    pub(super) is_complete: bool,
    /// It is in the index: another who asks may follow it.
    pub(super) is_kept: bool,
    pub(super) is_stopped: bool,
    /// All who follow it, its caller among them.
    pub(super) followers: usize,
    /// Since when there is none.
    pub(super) alone_since: Option<Instant>,
    /// How much of it its own caller has read, while that caller is there.
    pub(super) caller_at: Option<usize>,
    wakers: Vec<Waker>,
}

/// The head of an answer, or why there is none.
#[derive(Clone, Debug)]
pub(super) enum AnswerHead {
    Awaited,
    Here(StatusCode, HeaderMap),
    /// Nothing was sent, and nothing will be: the key is as it was.
    Unsent,
    /// It is kept no longer.
    Gone,
}

impl KeptAnswer {
    pub(super) fn new(name: RequestName) -> Self {
        Self {
            name,
            state: Mutex::new(State {
                head: AnswerHead::Awaited,
                log: AnswerLog::default(),
                is_complete: false,
                is_kept: true,
                is_stopped: false,
                followers: 0,
                alone_since: None,
                caller_at: None,
                wakers: Vec::new(),
            }),
            attendance: Notify::new(),
            room: Notify::new(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes it, and wakes whoever waits for a change.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let (changed, wakers) = {
            let mut state = self.state();
            let changed = change(&mut state);
            (changed, std::mem::take(&mut state.wakers))
        };
        wakers.into_iter().for_each(Waker::wake);
        changed
    }

    /// Somebody came, left, or wants it to stop.
    pub(super) fn attend<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state());
        self.attendance.notify_one();
        self.room.notify_one();
        changed
    }

    /// Its caller has read on.
    pub(super) fn makes_room(&self) {
        self.room.notify_one();
    }

    /// What it takes is given back: nobody gets any more of it.
    pub(super) fn empty(&self) {
        self.change(|state| state.empty(AnswerHead::Gone));
    }

    /// Waits until nothing more is written.
    pub(super) async fn ended(&self) {
        poll_fn(|context| {
            let mut state = self.state();
            if state.is_complete {
                return Poll::Ready(());
            }
            state.wake_later(context.waker());
            Poll::Pending
        })
        .await;
    }

    /// Waits until it was stopped, or nobody has followed it for so long.
    pub(super) async fn given_up(&self, patience: Duration) {
        loop {
            let alone_since = {
                let state = self.state();
                if state.is_stopped {
                    return;
                }
                state.alone_since
            };
            let changed = self.attendance.notified();
            let Some(until) = alone_since.and_then(|since| since.checked_add(patience)) else {
                changed.await;
                continue;
            };
            if timeout_at(until, changed).await.is_err() && self.is_alone_until(until, patience) {
                return;
            }
        }
    }

    fn is_alone_until(&self, until: Instant, patience: Duration) -> bool {
        let since = self.state().alone_since;
        since.is_some_and(|since| since.checked_add(patience) == Some(until))
    }

    /// Waits until more may be written: an answer that is not kept waits for its caller, if that is there.
    pub(super) async fn has_room(&self) {
        loop {
            let changed = self.room.notified();
            {
                let state = self.state();
                let behind = |at| state.log.end().saturating_sub(at) <= UNKEPT_BYTES_MAX;
                if state.is_kept || state.caller_at.is_none_or(behind) {
                    return;
                }
            }
            changed.await;
        }
    }
}

impl State {
    /// Wakes this task at the next change.
    pub(super) fn wake_later(&mut self, waker: &Waker) {
        if !self.wakers.iter().any(|known| known.will_wake(waker)) {
            self.wakers.push(waker.clone());
        }
    }

    /// What it takes is given back, and this is told in its place.
    pub(super) fn empty(&mut self, head: AnswerHead) {
        self.head = head;
        self.is_kept = false;
        self.log.clear();
    }

    /// Nobody but its caller may follow it from now on.
    pub(super) fn is_kept_no_longer(&mut self) {
        self.is_kept = false;
        match self.caller_at {
            Some(at) => self.log.drop_before(at),
            None => self.log.clear(),
        }
    }
}
