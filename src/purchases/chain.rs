//! A purchase from its first transaction on, and what an event makes of it. Pure.
//!
//! Every part is the latest word by the store's own time; of two words of the same time a fixed one counts. So the outcome is the
//! same in whatever order events are taken, and however often.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::event::{Facts, PurchaseChange, PurchaseState, ReportedState, user_named};
use crate::clock::Timestamp;

/// What is known of a purchase.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Whose it is, as the store says.
    pub owner: Option<Owner>,
    /// Whether it will be renewed, and when that was said.
    pub renewal: Option<(Timestamp, bool)>,
    /// Its transactions, by the store's ids.
    pub rows: BTreeMap<String, StoreTransaction>,
}

/// The name of an owner, and when it was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// A user's id, or another name.
    pub name: String,
    /// When it was said.
    pub at: Timestamp,
}

/// What is known of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreTransaction {
    /// What was bought, and when that was said.
    pub facts: Option<(Timestamp, Facts)>,
    /// Whether it counts, and when that was said.
    pub state: Option<(Timestamp, ReportedState)>,
    /// The end of what was paid for, as it was said last.
    pub grace: Option<(Timestamp, Option<Timestamp>)>,
}

impl Owner {
    /// A user goes before a name that stands for nobody, then the later word counts.
    fn key(&self) -> (bool, Timestamp, &str) {
        (user_named(&self.name).is_some(), self.at, &self.name)
    }
}

impl Chain {
    /// Takes in what was said at a moment.
    pub fn take(&mut self, change: &PurchaseChange, at: Timestamp) {
        if let Some(name) = &change.owner {
            let name = name.clone();
            let said = Owner { name, at };
            if self.owner.as_ref().is_none_or(|it| it.key() < said.key()) {
                self.owner = Some(said);
            }
        }
        if let Some(renews) = change.will_renew {
            // Of two words of the same time the end counts.
            let key = |(at, renews): (Timestamp, bool)| (at, !renews);
            if self
                .renewal
                .is_none_or(|known| key(known) < key((at, renews)))
            {
                self.renewal = Some((at, renews));
            }
        }
        // What says nothing of whether a transaction counts changes nothing of it.
        if change.state.is_none() && change.grace_until.is_none() {
            return;
        }
        let row = self.rows.entry(change.transaction.clone()).or_default();
        row.take(change, at);
    }

    /// When a transaction stops to count; `None` for never. A later transaction for another product ends it: an upgrade.
    #[must_use]
    pub fn ends_at(&self, row: &StoreTransaction) -> Option<Timestamp> {
        let own = row.ends_at();
        let Some((_, facts)) = &row.facts else {
            return own;
        };
        let others = self.rows.values().filter_map(|other| {
            let (_, other) = other.facts.as_ref().filter(|_| other.state.is_some())?;
            let replaces =
                other.product != facts.product && other.purchased_at > facts.purchased_at;
            replaces.then_some(other.purchased_at)
        });
        others.chain(own).min()
    }

    /// Some transaction counts at a moment.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.rows
            .values()
            .filter(|row| row.state.is_some())
            .any(|row| self.ends_at(row).is_none_or(|end| now < end))
    }

    /// Whose it is: the name that was said last, and whom it was moved to since. `moves` are those from a name, in the order of
    /// their time.
    #[must_use]
    pub fn user(&self, moves: impl Fn(&str) -> Vec<(Timestamp, String)>) -> Option<Uuid> {
        /// How many moves of a name are followed.
        const STEPS_MAX: usize = 16;
        let mut owner = self.owner.clone()?;
        for _ in 0..STEPS_MAX {
            // A name that stands for nobody belongs to whoever it was last said to; a user's are moved by what came later.
            let is_user = user_named(&owner.name).is_some();
            let later = moves(&owner.name)
                .into_iter()
                .filter(|(at, _)| !is_user || *at > owner.at);
            let next = if is_user { later.min() } else { later.max() };
            let Some((at, name)) = next else { break };
            owner = Owner { name, at };
        }
        user_named(&owner.name)
    }
}

impl StoreTransaction {
    fn take(&mut self, change: &PurchaseChange, at: Timestamp) {
        if let Some(facts) = &change.facts {
            let said = (at, facts.clone());
            if self.facts.as_ref().is_none_or(|known| *known < said) {
                self.facts = Some(said);
            }
        }
        if let Some(said) = change.state {
            let key = |(at, said): &(Timestamp, ReportedState)| (*at, said.rank, said.state);
            let said = (at, said);
            if self.state.is_none_or(|known| key(&known) < key(&said)) {
                self.state = Some(said);
            }
        }
        if let Some(until) = change.grace_until {
            let said = (at, until);
            if self.grace.is_none_or(|known| known < said) {
                self.grace = Some(said);
            }
        }
    }

    /// The end of what was paid for, where there is one.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        match self.state?.1.state {
            PurchaseState::Live(until) => until,
            PurchaseState::Ended(at) | PurchaseState::Revoked { at, .. } => Some(at),
        }
    }

    /// By itself.
    fn ends_at(&self) -> Option<Timestamp> {
        let grace = self.grace.and_then(|(_, until)| until);
        match self.state.map(|(_, said)| said.state) {
            Some(PurchaseState::Live(until)) => {
                until.map(|until| grace.map_or(until, |it| it.max(until)))
            }
            Some(PurchaseState::Ended(at) | PurchaseState::Revoked { at, .. }) => Some(at),
            None => Some(Timestamp::EPOCH),
        }
    }
}
