//! One piece of work that several wait for, done once.
//!
//! A [`SingleFlight`] stands in the state of whoever starts the work, under its lock, so that looking and starting are one
//! step. It knows nothing of the work and does not bound it: those who wait do, each for itself. Invariants: at most one is
//! under way; a leader that is gone, however it went, lets everybody go on and keeps nobody from starting another.

use tokio::sync::watch;

/// The work under way, if any.
#[derive(Debug, Default)]
pub(crate) struct SingleFlight(Option<Landing>);

/// The end of one piece of work, which any number may wait for.
#[derive(Clone, Debug)]
pub(crate) struct Landing(watch::Receiver<()>);

/// Held by whoever does the work. Its drop is the end of it.
#[derive(Debug)]
pub(crate) struct Leader {
    // Nothing is ever sent: the channel closes.
    _ended: watch::Sender<()>,
}

impl SingleFlight {
    /// The work under way. One whose leader died without a word does not count.
    pub(crate) fn current(&self) -> Option<&Landing> {
        self.0
            .as_ref()
            .filter(|landing| landing.0.has_changed().is_ok())
    }

    /// Starts the work. To be called when there is no [`SingleFlight::current`].
    pub(crate) fn begin(&mut self) -> (Leader, Landing) {
        let (ended, landing) = watch::channel(());
        let landing = Landing(landing);
        self.0 = Some(landing.clone());
        (Leader { _ended: ended }, landing)
    }

    /// Ends it. Those who wait are woken, and look at the state once its lock is free.
    pub(crate) fn end(&mut self, leader: Leader) {
        self.0 = None;
        drop(leader);
    }
}

impl Landing {
    /// Waits until the leader is gone, whichever way.
    pub(crate) async fn landed(mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(10);

    #[tokio::test(start_paused = true)]
    async fn all_wait_for_the_one_that_is_under_way_and_the_next_begins_anew() {
        let mut flight = SingleFlight::default();
        assert!(flight.current().is_none());
        let (leader, first) = flight.begin();
        let second = flight.current().cloned().unwrap();
        assert!(timeout(SOON, second.clone().landed()).await.is_err());
        flight.end(leader);
        assert!(flight.current().is_none());
        first.landed().await;
        second.landed().await;
        let (_leader, third) = flight.begin();
        assert!(timeout(SOON, third.landed()).await.is_err());
    }

    #[tokio::test]
    async fn a_leader_that_dies_lets_everybody_go_on() {
        let mut flight = SingleFlight::default();
        let (leader, landing) = flight.begin();
        #[allow(clippy::disallowed_methods, reason = "it dies at once")]
        let died = tokio::spawn(async move {
            let _leader = leader;
            panic!("as a defect would");
        });
        assert!(died.await.is_err());
        landing.landed().await;
        assert!(flight.current().is_none(), "another may begin");
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_hangs_is_waited_for_as_long_as_each_likes_and_stays_the_only_one() {
        let mut flight = SingleFlight::default();
        let (_hangs, landing) = flight.begin();
        assert!(timeout(SOON, landing.landed()).await.is_err());
        assert!(flight.current().is_some());
    }
}
