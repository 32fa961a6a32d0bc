//! Entries that `log_request` refused, and when each becomes a dead letter. Pure: `now` is an argument.
//!
//! A user whose entry was refused waits here with that entry, so that their later entries do not overtake it. An entry
//! is given up only if the entry seems to be at fault and not the function: after `TRIES` refusals with another entry
//! accepted between them, or after that many refusals over a whole day.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::backoff::Backoff;
use super::entry::Entry;

/// Refusals that count before an entry is given up.
pub(super) const TRIES: u32 = 8;
/// How many users may wait. The entries of others are tried again with the next batch.
const USERS_MAX: usize = 100;
/// If no other entry is accepted, an entry is given up after this time.
const GIVE_UP_AFTER: Duration = Duration::from_hours(24);

/// Users who wait, each with the entry that was refused.
#[derive(Debug, Default)]
pub(super) struct RetryQueue {
    by_user: BTreeMap<String, Retry>,
}

#[derive(Debug)]
struct Retry {
    entry: Entry,
    since: Instant,
    due: Instant,
    backoff: Backoff,
    refusals: u32,
    /// Refusals that count, and how much had been taken at the last of them.
    counted: u32,
    taken: u64,
}

impl RetryQueue {
    /// Nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.by_user.is_empty()
    }

    /// The users whose entries wait.
    pub(super) fn users(&self) -> Vec<String> {
        self.by_user.keys().cloned().collect()
    }

    /// When the next entry is to be tried again.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.by_user.values().map(|retry| retry.due).min()
    }

    /// The entries that are to be tried again.
    pub(super) fn due(&self, now: Instant) -> Vec<Entry> {
        self.by_user
            .values()
            .filter(|retry| retry.due <= now)
            .map(|retry| retry.entry.clone())
            .collect()
    }

    /// An entry was refused; `taken` counts what was taken so far. True if it is to be given up.
    pub(super) fn refused(
        &mut self,
        entry: &Entry,
        now: Instant,
        backoff: Backoff,
        taken: u64,
    ) -> bool {
        if !self.by_user.contains_key(&entry.user_id) && self.by_user.len() >= USERS_MAX {
            return false;
        }
        let retry = self
            .by_user
            .entry(entry.user_id.clone())
            .or_insert_with(|| Retry {
                entry: entry.clone(),
                since: now,
                due: now,
                backoff,
                refusals: 0,
                counted: 0,
                taken,
            });
        retry.refusals = retry.refusals.saturating_add(1);
        if retry.refusals == 1 || taken > retry.taken {
            retry.counted = retry.counted.saturating_add(1);
            retry.taken = taken;
        }
        retry.due = now.checked_add(retry.backoff.wait()).unwrap_or(now);
        let for_a_day = now.saturating_duration_since(retry.since) >= GIVE_UP_AFTER;
        retry.counted >= TRIES || (for_a_day && retry.refusals >= TRIES)
    }

    /// The entry was taken or given up: its user waits no longer.
    pub(super) fn release(&mut self, user_id: &str) {
        self.by_user.remove(user_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(user: usize) -> Entry {
        Entry {
            id: format!("id-{user}"),
            user_id: format!("user-{user:03}"),
            value: serde_json::Value::Null,
        }
    }

    fn second() -> Backoff {
        Backoff::new(Duration::from_secs(1), Duration::from_mins(1))
    }

    #[test]
    fn an_entry_is_given_up_when_others_were_taken_between_its_refusals() {
        let (mut refused, now) = (RetryQueue::default(), Instant::now());
        let last = u64::from(TRIES - 1);
        assert!((0..last).all(|taken| !refused.refused(&entry(1), now, second(), taken)));
        assert!(refused.refused(&entry(1), now, second(), last));
    }

    #[test]
    fn a_function_that_refuses_everything_costs_no_entry_for_a_day() {
        let (mut refused, now) = (RetryQueue::default(), Instant::now());
        let day = now + GIVE_UP_AFTER;
        assert!((0..1000).all(|_| !refused.refused(&entry(1), now, second(), 7)));
        assert!(refused.refused(&entry(1), day, second(), 7));
        assert!(!refused.refused(&entry(2), now, second(), 7));
        assert!(
            !refused.refused(&entry(2), day, second(), 7),
            "twice in a day is too little to tell"
        );
    }

    #[test]
    fn a_refused_entry_is_due_again_after_its_back_off() {
        let (mut refused, now) = (RetryQueue::default(), Instant::now());
        refused.refused(&entry(1), now, second(), 0);
        assert!(refused.due(now).is_empty());
        assert!(refused.next_due().unwrap() <= now + Duration::from_secs(1));
        assert_eq!(refused.due(now + Duration::from_secs(1)).len(), 1);
        refused.release("user-001");
        assert_eq!((refused.users(), refused.next_due()), (Vec::new(), None));
    }

    #[test]
    fn only_so_many_users_are_remembered() {
        let (mut refused, now) = (RetryQueue::default(), Instant::now());
        for user in 0..USERS_MAX + 50 {
            refused.refused(&entry(user), now, second(), 0);
        }
        assert_eq!(refused.users().len(), USERS_MAX);
    }
}
