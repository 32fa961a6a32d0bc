//! Answers that are kept in memory for whoever asks for them again: by the key of the request, or by the answer's id.
//!
//! It knows users, keys and bytes; it does not know what a request says, what it costs, or who may send one. The writer of
//! an answer is a [`Run`], a task that no caller can cancel; its readers are [`Follower`]s. Nothing is on disk, and a
//! process knows no answers but its own.
//!
//! Invariants:
//! - What all kept answers take is bounded, and a user's part of it; so is each answer.
//! - No answer is found longer than `keep` after its end.
//! - No follower waits for another, and the writer waits for none but the caller of an answer too long to be kept.

mod answer;
mod follower;
mod index;
mod log;
mod run;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use self::answer::{KeptAnswer, RequestName};
use self::index::Index;
use crate::config::AnswerLimits;

pub(crate) use self::follower::{Follower, HeadOutcome};
pub(crate) use self::index::GoneBy;
pub(crate) use self::run::{KeyHandle, Run};

/// How often answers are looked through for those whose time is over. (None is found after its time.)
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// All answers that this process keeps.
#[derive(Debug)]
pub(crate) struct Answers {
    limits: AnswerLimits,
    index: Mutex<Index>,
}

/// What a request with a key is to do.
#[derive(Debug)]
pub(crate) enum Claim {
    /// It is the first with its key: it runs, and its caller follows it.
    First(Run, Follower),
    /// Another one runs or has ended, with this answer.
    Again(Follower),
    /// The key stands for another request.
    Other,
}

/// What is known here of an answer.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// It is kept.
    Here(Follower),
    /// It was kept, and is no longer.
    Gone,
    /// Nothing, or it is somebody else's.
    Unknown,
}

/// What is kept at a moment.
#[derive(Debug)]
pub(crate) struct AnswersReading {
    pub(crate) answers: usize,
    pub(crate) bytes: usize,
    /// How often one was given once more.
    pub(crate) replays: u64,
    /// How many are kept no longer, by reason.
    pub(crate) gone: Vec<(GoneBy, u64)>,
}

impl Answers {
    /// None yet.
    pub(crate) fn new(limits: AnswerLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            index: Mutex::default(),
        })
    }

    /// What a request is to do that names itself by a key of its user. `id` is its own.
    pub(crate) fn claim(
        self: &Arc<Self>,
        user_id: Uuid,
        (key, digest): (&str, &[u8; 32]),
        id: Uuid,
    ) -> Claim {
        let mut index = self.index();
        let kept = index.of_key(user_id, key, self.oldest());
        if let Some(answer) = kept {
            return if answer.name.digest == *digest {
                Claim::Again(Follower::new(answer))
            } else {
                Claim::Other
            };
        }
        let name = RequestName {
            id,
            user_id,
            key: key.into(),
            digest: *digest,
        };
        let answer = Arc::new(KeptAnswer::new(name));
        index.insert(&answer);
        let caller = Follower::caller_of(answer.clone());
        Claim::First(Run::new(self.clone(), answer), caller)
    }

    /// The answer with this id, if it is this user's.
    pub(crate) fn find(&self, user_id: Uuid, id: Uuid) -> Lookup {
        let index = self.index();
        let found = index.of_id(id, self.oldest());
        match found.filter(|answer| answer.name.user_id == user_id) {
            Some(answer) => Lookup::Here(Follower::new(answer)),
            None if index.is_gone(user_id, id) => Lookup::Gone,
            None => Lookup::Unknown,
        }
    }

    /// Ends an answer that a follower found: what runs is cut off, and it is kept no longer. Ends once that is done.
    pub(crate) async fn stop(&self, follower: Follower) {
        let answer = follower.into_answer();
        self.let_go(&answer, Some(GoneBy::Stop));
        answer.attend(|state| state.is_stopped = true);
        answer.ended().await;
        answer.empty();
    }

    /// Lets go of all answers of a user: nobody finds them any more. Whoever reads one reads it to its end.
    pub(crate) fn forget(&self, user_id: Uuid) {
        self.index().forget(user_id);
    }

    /// An answer was given once more.
    pub(crate) fn note_replay(&self) {
        self.index().note_replay();
    }

    /// What is kept now.
    pub(crate) fn reading(&self) -> AnswersReading {
        let index = self.index();
        AnswersReading {
            answers: index.len(),
            bytes: index.bytes(),
            replays: index.replays(),
            gone: index.counts().collect(),
        }
    }

    /// Gives back what answers take whose time is over. Never ends: its owner drops it at shutdown.
    pub(crate) async fn keep_swept(&self) {
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            if let Some(oldest) = self.oldest() {
                self.index().expire(oldest);
            }
        }
    }

    /// What ended then, or before, is kept no longer.
    fn oldest(&self) -> Option<Instant> {
        Instant::now().checked_sub(self.limits.keep)
    }

    fn let_go(&self, answer: &KeptAnswer, by: Option<GoneBy>) {
        self.index().remove(answer, by);
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
