//! What the windows of users and of the whole app say, in the writer's memory: read once, changed by each hold and ending.
//!
//! The file has what was used; what is held is the sum of the open rows. Both are here, so a hold asks the file nothing. It
//! is a memory and no record: whoever undoes a transaction, or finds that somebody else has written, forgets all of it.
//! Only what the whole app used waits here to be written, until the batch that used it is committed: every ending changes it.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::clock::Timestamp;
use crate::plan::{Amounts, Balance, Window};

/// The windows of the whole app stand under this name in place of a user's id.
pub(crate) const APP: &str = "app";

/// How many users are known at most; one takes some 500 bytes.
const USERS_MAX: usize = 4096;
/// A user has a new window a minute, and needs the last one of each kind.
const WINDOWS_MAX: usize = 16;

/// What an ended hold gives back and uses, or what a new one takes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Change {
    /// Added to what is held; an ending's is negative.
    pub(crate) held: Amounts,
    /// Added to what is used.
    pub(crate) used: Amounts,
    /// Requests added to what is used per minute and hour, where a refused request counts as load.
    pub(crate) rate_requests: i64,
}

impl Change {
    /// Without what credits hold and pay of it, in micro-dollars.
    pub(crate) const fn without(&self, (held, used): (i64, i64)) -> Self {
        let mut rest = *self;
        rest.held.cost = rest.held.cost.saturating_sub(held);
        rest.used.cost = rest.used.cost.saturating_sub(used);
        rest
    }

    fn spent_in(&self, window: &Window) -> Amounts {
        if window.per.is_rate() {
            Amounts {
                requests: self.rate_requests,
                ..self.used
            }
        } else {
            self.used
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct WindowEntry {
    window: Window,
    standing: Balance,
    /// Used, and not in the file yet.
    unwritten: Amounts,
}

/// All windows of a user, or of the app, that end after a moment.
#[derive(Debug)]
struct Windows {
    after: Timestamp,
    /// The user has tallies, which are in the file only.
    has_tallies: bool,
    kept: Vec<WindowEntry>,
}

/// By user.
#[derive(Debug, Default)]
pub(crate) struct Known {
    of: HashMap<String, Windows, RandomState>,
}

impl Known {
    /// Whether the windows that contain `moment` are to be read first.
    pub(crate) fn lacks(&self, user: &str, moment: Timestamp) -> bool {
        self.of
            .get(user)
            .is_none_or(|windows| moment < windows.after)
    }

    /// All windows of a user that end after `after`, as the file has them, and whether there are tallies. What was known
    /// before counts no more.
    pub(crate) fn read(
        &mut self,
        user: &str,
        (after, has_tallies): (Timestamp, bool),
        found: impl IntoIterator<Item = (Window, Balance)>,
    ) {
        if self.of.len() >= USERS_MAX && !self.of.contains_key(user) {
            self.of.retain(|user, _| user == APP);
        }
        let kept = found.into_iter().map(|(window, standing)| WindowEntry {
            window,
            standing,
            unwritten: Amounts::default(),
        });
        self.of.insert(
            user.to_owned(),
            Windows {
                after,
                has_tallies,
                kept: kept.collect(),
            },
        );
    }

    /// A user has tallies from now on.
    pub(crate) fn has_tallies(&mut self, user: &str) {
        if let Some(windows) = self.of.get_mut(user) {
            windows.has_tallies = true;
        }
    }

    /// Whether a user may have tallies: nobody knows it of one whose windows were not read.
    pub(crate) fn may_have_tallies(&self, user: &str) -> bool {
        self.of.get(user).is_none_or(|windows| windows.has_tallies)
    }

    /// A window that has just been made.
    pub(crate) fn made(&mut self, user: &str, window: Window, standing: Balance) {
        let Some(windows) = self.of.get_mut(user) else {
            return;
        };
        windows.kept.push(WindowEntry {
            window,
            standing,
            unwritten: Amounts::default(),
        });
        if windows.kept.len() > WINDOWS_MAX && user != APP {
            self.of.remove(user);
        }
    }

    /// Where a window stands; none where it has not been made.
    pub(crate) fn standing(&self, user: &str, window: &Window) -> Option<Balance> {
        let kept = self
            .of
            .get(user)?
            .kept
            .iter()
            .find(|kept| kept.window == *window);
        kept.map(|kept| kept.standing)
    }

    /// Changes every window that contains `moment`, of those that are known.
    pub(crate) fn change(&mut self, user: &str, moment: Timestamp, change: &Change) {
        let Some(windows) = self.of.get_mut(user) else {
            return;
        };
        let contain =
            |kept: &&mut WindowEntry| kept.window.start <= moment && moment < kept.window.end;
        for kept in windows.kept.iter_mut().filter(contain) {
            let spent = change.spent_in(&kept.window);
            let Balance { used, held } = kept.standing;
            kept.standing = Balance {
                used: used.plus(spent),
                held: held.plus(change.held),
            };
            kept.unwritten = kept.unwritten.plus(spent);
        }
    }

    /// What the app used in each of its windows and is not in the file, once.
    pub(crate) fn take_unwritten(&mut self) -> Vec<(Window, Amounts)> {
        let Some(windows) = self.of.get_mut(APP) else {
            return Vec::new();
        };
        let changed = windows
            .kept
            .iter_mut()
            .filter(|kept| kept.unwritten != Amounts::default());
        changed
            .map(|kept| (kept.window, std::mem::take(&mut kept.unwritten)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Per;

    fn window(per: Per, start: i64, end: i64) -> Window {
        Window {
            per,
            start: Timestamp::from_millis(start),
            end: Timestamp::from_millis(end),
        }
    }

    fn nothing(window: Window) -> (Window, Balance) {
        (window, Balance::default())
    }

    #[test]
    fn a_moment_before_what_was_read_is_lacking() {
        let (early, late) = (Timestamp::from_millis(50), Timestamp::from_millis(150));
        let mut known = Known::default();
        assert!(known.lacks("alice", late));
        known.read(
            "alice",
            (late, false),
            [nothing(window(Per::Day, 100, 200))],
        );
        assert!(!known.lacks("alice", late) && !known.lacks("alice", Timestamp::from_millis(160)));
        assert!(known.lacks("alice", early) && known.lacks("bob", late));
    }

    #[test]
    fn what_the_app_used_is_written_once_and_goes_on_being_known() {
        let (day, before, minute) = (
            window(Per::Day, 100, 200),
            window(Per::Day, 0, 100),
            window(Per::Minute, 140, 160),
        );
        let mut app = Known::default();
        app.read(
            APP,
            (Timestamp::EPOCH, false),
            [day, before, minute].map(nothing),
        );
        let held = Amounts {
            requests: 1,
            tokens: 9,
            cost: 5,
            ..Amounts::default()
        };
        let back = Amounts {
            requests: -1,
            tokens: -9,
            cost: -5,
            ..Amounts::default()
        };
        let at = Timestamp::from_millis(150);
        app.change(
            APP,
            at,
            &Change {
                held,
                ..Change::default()
            },
        );
        assert_eq!(app.standing(APP, &day).unwrap().held, held);
        assert!(
            app.take_unwritten().is_empty(),
            "what is held is written nowhere"
        );
        let used = Amounts {
            requests: 0,
            tokens: 0,
            cost: 7,
            ..Amounts::default()
        };
        app.change(
            APP,
            at,
            &Change {
                held: back,
                used,
                rate_requests: 1,
            },
        );
        let unwritten = app.take_unwritten();
        assert_eq!(
            unwritten,
            [
                (day, used),
                (
                    minute,
                    Amounts {
                        requests: 1,
                        ..used
                    }
                )
            ],
            "load counts by the minute"
        );
        assert!(app.take_unwritten().is_empty());
        assert_eq!(
            app.standing(APP, &day).unwrap(),
            Balance {
                used,
                held: Amounts::default()
            }
        );
        assert_eq!(app.standing(APP, &before), Some(Balance::default()));
    }

    #[test]
    fn few_users_and_few_windows_of_each_are_kept() {
        let mut known = Known::default();
        known.read(APP, (Timestamp::EPOCH, false), []);
        for user in 0..=USERS_MAX {
            known.read(&user.to_string(), (Timestamp::EPOCH, false), []);
        }
        assert!(
            known.of.len() <= USERS_MAX && !known.lacks(APP, Timestamp::EPOCH),
            "{} users",
            known.of.len()
        );
        known.read("alice", (Timestamp::EPOCH, false), []);
        for minute in 0..i64::try_from(WINDOWS_MAX).unwrap() {
            known.made(
                "alice",
                window(Per::Minute, minute, minute + 1),
                Balance::default(),
            );
        }
        assert!(!known.lacks("alice", Timestamp::EPOCH));
        known.made("alice", window(Per::Minute, 99, 100), Balance::default());
        assert!(
            known.lacks("alice", Timestamp::EPOCH),
            "what is there is read anew"
        );
    }
}
