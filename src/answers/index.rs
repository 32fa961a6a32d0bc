//! Which answers are kept, by their ids and keys, and what they take. Pure but for the answers that it empties.
//!
//! Invariant: `bytes` is the sum of what the entries were given, never above `bytes_max`; a user's never above a user's part.
//! Whoever needs more gets it from the oldest finished answers that nobody follows, or is kept no longer.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;
use uuid::Uuid;

use super::answer::KeptAnswer;
use crate::config::AnswerLimits;

/// What an answer takes beside its bytes: its name, its head, its places in the index.
pub(super) const ENTRY_BYTES: usize = 2560;
/// How many answers that are kept no longer are known by their ids.
const GONE_MAX: usize = 64 * 1024;

/// Why an answer is kept no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum GoneBy {
    /// Its time is over.
    Age,
    /// Others needed its room.
    Room,
    /// It is longer than an answer may be, or there was no room for all of it.
    Length,
    /// Its user stopped it.
    Stop,
}

impl GoneBy {
    pub(crate) const ALL: [Self; 4] = [Self::Age, Self::Room, Self::Length, Self::Stop];

    /// A word for labels.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Room => "room",
            Self::Length => "length",
            Self::Stop => "stop",
        }
    }
}

/// All kept answers.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: HashMap<Uuid, Entry>,
    by_key: HashMap<(Uuid, Box<str>), Uuid>,
    /// In the order in which they ended.
    finished: BTreeSet<Turn>,
    users: HashMap<Uuid, UserShare>,
    bytes: usize,
    /// The oldest first.
    gone: VecDeque<(Uuid, Uuid)>,
    gone_of: HashSet<(Uuid, Uuid)>,
    next_turn: u64,
    replays: u64,
    counts: [u64; GoneBy::ALL.len()],
}

/// The place of a finished answer in the order of their ends.
type Turn = (u64, Uuid);

#[derive(Debug)]
struct Entry {
    answer: Arc<KeptAnswer>,
    bytes: usize,
    finished: Option<(u64, Instant)>,
}

/// What the answers of one user take.
#[derive(Debug, Default)]
struct UserShare {
    bytes: usize,
    finished: BTreeSet<Turn>,
}

impl Index {
    /// An answer by the key of its user, if it is kept at this moment.
    pub(super) fn of_key(
        &self,
        user_id: Uuid,
        key: &str,
        since: Option<Instant>,
    ) -> Option<Arc<KeptAnswer>> {
        let id = self.by_key.get(&(user_id, Box::from(key)))?;
        self.of_id(*id, since)
    }

    /// An answer by its id, unless it ended before `since`.
    pub(super) fn of_id(&self, id: Uuid, since: Option<Instant>) -> Option<Arc<KeptAnswer>> {
        let entry = self.entries.get(&id)?;
        let is_over = |(_, ended): (u64, Instant)| since.is_some_and(|since| ended <= since);
        (!entry.finished.is_some_and(is_over)).then(|| entry.answer.clone())
    }

    /// Whether it was kept here, for this user.
    pub(super) fn is_gone(&self, user_id: Uuid, id: Uuid) -> bool {
        self.gone_of.contains(&(user_id, id))
    }

    /// Takes in an answer of which nothing is there. Another one that has its key has it no longer.
    pub(super) fn insert(&mut self, answer: &Arc<KeptAnswer>) {
        let name = &answer.name;
        self.by_key
            .insert((name.user_id, name.key.clone()), name.id);
        let entry = Entry {
            answer: answer.clone(),
            bytes: 0,
            finished: None,
        };
        self.entries.insert(name.id, entry);
    }

    /// Another request may have the key of this one.
    pub(super) fn free_key(&mut self, answer: &KeptAnswer) {
        let key = (answer.name.user_id, answer.name.key.clone());
        if self.by_key.get(&key) == Some(&answer.name.id) {
            self.by_key.remove(&key);
        }
    }

    /// Gives an answer room for so many bytes in all, if there is as much.
    pub(super) fn make_room(
        &mut self,
        answer: &KeptAnswer,
        bytes: usize,
        limits: &AnswerLimits,
    ) -> bool {
        let Some(had) = self.entries.get(&answer.name.id).map(|entry| entry.bytes) else {
            return false;
        };
        let bytes = bytes.saturating_add(ENTRY_BYTES);
        let more = bytes.saturating_sub(had);
        let user_id = answer.name.user_id;
        let Some(most) = limits.user_bytes_max().checked_sub(more) else {
            return false;
        };
        while self.user_bytes(user_id) > most {
            let of_user = self.users.get(&user_id).map(|share| &share.finished);
            if !self.evict(of_user.and_then(|finished| self.first_unread(finished))) {
                return false;
            }
        }
        while self.bytes > limits.bytes_max.saturating_sub(more) {
            if !self.evict(self.first_unread(&self.finished)) {
                return false;
            }
        }
        self.account(answer, bytes);
        true
    }

    /// An answer has ended, and takes so many bytes.
    pub(super) fn finish(&mut self, answer: &KeptAnswer, bytes: usize, now: Instant) {
        self.account(answer, bytes.saturating_add(ENTRY_BYTES));
        let turn = self.next_turn;
        self.next_turn = turn.saturating_add(1);
        let Some(entry) = self.entries.get_mut(&answer.name.id) else {
            return;
        };
        entry.finished = Some((turn, now));
        let place = (turn, answer.name.id);
        self.finished.insert(place);
        let share = self.users.entry(answer.name.user_id).or_default();
        share.finished.insert(place);
    }

    /// Lets go of an answer: nobody finds it any more. With a reason it is known as gone.
    pub(super) fn remove(&mut self, answer: &KeptAnswer, by: Option<GoneBy>) {
        self.free_key(answer);
        let Some(entry) = self.entries.remove(&answer.name.id) else {
            return;
        };
        let user_id = answer.name.user_id;
        self.bytes = self.bytes.saturating_sub(entry.bytes);
        if let Some((turn, _)) = entry.finished {
            self.finished.remove(&(turn, answer.name.id));
        }
        if let Some(share) = self.users.get_mut(&user_id) {
            share.bytes = share.bytes.saturating_sub(entry.bytes);
            if let Some((turn, _)) = entry.finished {
                share.finished.remove(&(turn, answer.name.id));
            }
            if share.bytes == 0 {
                self.users.remove(&user_id);
            }
        }
        if let Some(by) = by {
            self.note_gone((user_id, answer.name.id), by);
        }
    }

    /// Lets go of what ended before `since` and nobody reads.
    pub(super) fn expire(&mut self, since: Instant) {
        let ended = |turn: &Turn| Some(self.entries.get(&turn.1)?.finished?.1);
        let over = self.finished.iter();
        let over = over.take_while(|turn| ended(turn).is_some_and(|ended| ended <= since));
        let unread: Vec<_> = over.filter_map(|turn| self.unread(turn)).collect();
        for answer in unread {
            self.remove(&answer, Some(GoneBy::Age));
            answer.empty();
        }
    }

    /// Lets go of all answers of a user, and of the ids of those that are kept no longer.
    pub(super) fn forget(&mut self, user_id: Uuid) {
        let all = self.entries.values().map(|entry| entry.answer.clone());
        let of_user: Vec<_> = all
            .filter(|answer| answer.name.user_id == user_id)
            .collect();
        for answer in of_user {
            self.remove(&answer, None);
        }
        self.gone.retain(|(whose, _)| *whose != user_id);
        self.gone_of.retain(|(whose, _)| *whose != user_id);
    }

    fn user_bytes(&self, user_id: Uuid) -> usize {
        self.users.get(&user_id).map_or(0, |share| share.bytes)
    }

    pub(super) const fn note_replay(&mut self) {
        self.replays = self.replays.saturating_add(1);
    }

    pub(super) const fn replays(&self) -> u64 {
        self.replays
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn counts(&self) -> impl Iterator<Item = (GoneBy, u64)> + use<> {
        GoneBy::ALL.into_iter().zip(self.counts)
    }

    fn evict(&mut self, answer: Option<Arc<KeptAnswer>>) -> bool {
        let Some(answer) = answer else { return false };
        self.remove(&answer, Some(GoneBy::Room));
        answer.empty();
        true
    }

    fn first_unread(&self, finished: &BTreeSet<Turn>) -> Option<Arc<KeptAnswer>> {
        finished.iter().find_map(|turn| self.unread(turn))
    }

    /// A finished answer that nobody follows.
    fn unread(&self, (_, id): &Turn) -> Option<Arc<KeptAnswer>> {
        let entry = self.entries.get(id)?;
        (entry.answer.state().followers == 0).then(|| entry.answer.clone())
    }

    fn account(&mut self, answer: &KeptAnswer, bytes: usize) {
        let Some(entry) = self.entries.get_mut(&answer.name.id) else {
            return;
        };
        let had = std::mem::replace(&mut entry.bytes, bytes);
        let anew = |sum: usize| sum.saturating_sub(had).saturating_add(bytes);
        self.bytes = anew(self.bytes);
        let share = self.users.entry(answer.name.user_id).or_default();
        share.bytes = anew(share.bytes);
    }

    fn note_gone(&mut self, name: (Uuid, Uuid), by: GoneBy) {
        if let Some(count) = GoneBy::ALL
            .iter()
            .position(|known| *known == by)
            .and_then(|at| self.counts.get_mut(at))
        {
            *count = count.saturating_add(1);
        }
        if self.gone.len() >= GONE_MAX
            && let Some(oldest) = self.gone.pop_front()
        {
            self.gone_of.remove(&oldest);
        }
        if self.gone_of.insert(name) {
            self.gone.push_back(name);
        }
    }
}
