//! The windows of the whole app during one transaction: read once, changed in memory, written back once.
//!
//! Every hold and every ending changes them, so a batch of fifty would write one row a hundred times. Nothing here
//! outlives the transaction: another process may change them after it.

use crate::clock::Timestamp;
use crate::plan::{Amounts, Standing, Window};

/// What an ended hold gives back and uses, or what a new one takes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Change {
    /// Added to what is held; an ending's is negative.
    pub(super) held: Amounts,
    /// Added to what is used.
    pub(super) used: Amounts,
    /// Requests added to what is used per minute and hour, where a refused request counts as load.
    pub(super) rate_requests: i64,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    window: Window,
    standing: Standing,
    changed: bool,
}

/// Those windows of the app that end after [`AppWindows::after`].
#[derive(Debug, Default)]
pub(super) struct AppWindows {
    after: Option<Timestamp>,
    kept: Vec<Kept>,
}

impl AppWindows {
    /// What has to be read before anything is asked of a moment: windows that end after the first and not after the
    /// second. None if they are here.
    pub(super) fn missing(&self, moment: Timestamp) -> Option<(Timestamp, Timestamp)> {
        match self.after {
            None => Some((moment, Timestamp::MAX)),
            Some(after) if moment < after => Some((moment, after)),
            Some(_) => None,
        }
    }

    /// What was read, from `after` on.
    pub(super) fn read(&mut self, after: Timestamp, windows: impl IntoIterator<Item = (Window, Standing)>) {
        self.after = Some(after);
        self.kept.extend(windows.into_iter().map(|(window, standing)| Kept { window, standing, changed: false }));
    }

    /// A window that has just been made.
    pub(super) fn made(&mut self, window: Window, standing: Standing) {
        self.kept.push(Kept { window, standing, changed: false });
    }

    /// Where a window stands.
    pub(super) fn standing(&self, window: &Window) -> Option<Standing> {
        self.kept.iter().find(|kept| kept.window == *window).map(|kept| kept.standing)
    }

    /// Changes every window that contains `moment`.
    pub(super) fn change(&mut self, moment: Timestamp, change: &Change) {
        for kept in &mut self.kept {
            let Window { per, start, end } = kept.window;
            if moment < start || moment >= end {
                continue;
            }
            let used =
                if per.is_rate() { Amounts { requests: change.rate_requests, ..change.used } } else { change.used };
            kept.standing.held = sum(kept.standing.held, change.held);
            kept.standing.used = sum(kept.standing.used, used);
            kept.changed = true;
        }
    }

    /// What is to be written, once.
    pub(super) fn take_changed(&mut self) -> Vec<(Window, Standing)> {
        let changed = std::mem::take(self).kept.into_iter().filter(|kept| kept.changed);
        changed.map(|kept| (kept.window, kept.standing)).collect()
    }
}

fn sum(a: Amounts, b: Amounts) -> Amounts {
    Amounts {
        requests: a.requests.saturating_add(b.requests),
        tokens: a.tokens.saturating_add(b.tokens),
        cost: a.cost.saturating_add(b.cost),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Per;

    fn window(per: Per, start: i64, end: i64) -> Window {
        Window { per, start: Timestamp::from_millis(start), end: Timestamp::from_millis(end) }
    }

    #[test]
    fn a_moment_before_what_was_read_asks_for_what_is_missing() {
        let (early, late) = (Timestamp::from_millis(50), Timestamp::from_millis(150));
        let mut app = AppWindows::default();
        assert_eq!(app.missing(late), Some((late, Timestamp::MAX)));
        app.read(late, [(window(Per::Day, 100, 200), Standing::default())]);
        assert_eq!((app.missing(late), app.missing(Timestamp::from_millis(160))), (None, None));
        assert_eq!(app.missing(early), Some((early, late)));
        app.read(early, [(window(Per::Day, 0, 100), Standing::default())]);
        assert_eq!(app.missing(early), None);
    }

    #[test]
    fn what_changed_is_written_once_and_nothing_is_known_after_it() {
        let (day, before, minute) =
            (window(Per::Day, 100, 200), window(Per::Day, 0, 100), window(Per::Minute, 140, 160));
        let mut app = AppWindows::default();
        app.read(Timestamp::EPOCH, [day, before, minute].map(|window| (window, Standing::default())));
        let held = Amounts { requests: 1, tokens: 9, cost: 5 };
        let back = Amounts { requests: -1, tokens: -9, cost: -5 };
        let at = Timestamp::from_millis(150);
        app.change(at, &Change { held, ..Change::default() });
        assert_eq!(app.standing(&day).unwrap().held, held);
        let used = Amounts { requests: 0, tokens: 0, cost: 0 };
        app.change(at, &Change { held: back, used, rate_requests: 1 });
        let changed = app.take_changed();
        assert_eq!(changed.iter().map(|(window, _)| *window).collect::<Vec<_>>(), [day, minute]);
        assert_eq!(changed.iter().map(|(_, standing)| standing.used.requests).collect::<Vec<_>>(), [0, 1], "load");
        assert!(changed.iter().all(|(_, standing)| standing.held == Amounts::default()));
        assert!(app.standing(&day).is_none() && app.missing(at).is_some());
    }
}
