//! The way in for events while a server runs: one connection to the ledger, how many may be on their way, and what became of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use super::event::{Channel, PurchaseEvent, Rules};
use super::records::{self, EventEffect, Outcome, PurchaseConflict};
use super::unknown_products;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::error::{Code, Refusal};
use crate::ledger::Ledger;
use crate::ledger::read::report::Desk;
use crate::ledger::read::shared::SharedConnection;

/// How many webhooks may be on their way: each has a body of at most 64 KiB.
const OPEN_MAX: usize = 128;
/// How long a store waits for the ledger; then it tries again later.
const LEDGER_TIMEOUT: Duration = Duration::from_secs(10);
/// A refusal is told in the log once in this time for each reason, and so many reasons are.
const TELL_EVERY: Duration = Duration::from_secs(10);
const REASONS_MAX: usize = 32;

/// What became of what a channel sent, for metrics and the operator.
#[derive(Debug, Default)]
pub struct ChannelCounts {
    applied: AtomicU64,
    unchanged: AtomicU64,
    repeated: AtomicU64,
    no_user: AtomicU64,
    no_product: AtomicU64,
    refused: AtomicU64,
    unreadable: AtomicU64,
    /// When the last one was taken, in milliseconds; 0 for none since the start.
    last_at: AtomicI64,
    last_refusal: Mutex<Option<(Timestamp, String)>>,
    /// Reasons that were told of late.
    reported: Mutex<BTreeMap<String, Timestamp>>,
}

impl ChannelCounts {
    fn of(&self, outcome: Outcome) -> &AtomicU64 {
        match outcome {
            Outcome::Applied => &self.applied,
            Outcome::Unchanged => &self.unchanged,
            Outcome::Repeated => &self.repeated,
            Outcome::NoUser => &self.no_user,
            Outcome::NoProduct => &self.no_product,
        }
    }

    /// How many, by what became of them.
    #[must_use]
    pub fn all(&self) -> [(&'static str, u64); 7] {
        [
            ("applied", &self.applied),
            ("unchanged", &self.unchanged),
            ("repeated", &self.repeated),
            ("no_user", &self.no_user),
            ("no_product", &self.no_product),
            ("invalid_signature", &self.refused),
            ("unreadable", &self.unreadable),
        ]
        .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
    }

    /// When the last one was taken since the start.
    #[must_use]
    pub fn last_at(&self) -> Option<Timestamp> {
        let at = self.last_at.load(Ordering::Relaxed);
        (at > 0).then(|| Timestamp::from_millis(at))
    }

    /// When the last one was not taken since the start, and why.
    #[must_use]
    pub fn last_refusal(&self) -> Option<(Timestamp, String)> {
        let last = self.last_refusal.lock();
        last.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The way in. Cheap to clone.
#[derive(Clone)]
pub struct Intake {
    ledger: Ledger,
    desk: Arc<SharedConnection<Desk>>,
    permits: Arc<Semaphore>,
    counts: Arc<[ChannelCounts; Channel::ALL.len()]>,
}

impl Intake {
    /// Of a server's ledger.
    #[must_use]
    pub fn new(ledger: &Ledger) -> Self {
        Self {
            ledger: ledger.clone(),
            desk: Arc::new(SharedConnection::changing(ledger)),
            permits: Arc::new(Semaphore::new(OPEN_MAX)),
            counts: Arc::default(),
        }
    }

    /// A place for a webhook.
    ///
    /// # Errors
    /// `overloaded`: all are taken.
    pub fn place(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let permit = self.permits.clone().try_acquire_owned();
        permit.map_err(|_| Refusal::new(Code::Overloaded, "Too many events at once: try again."))
    }

    /// What became of what a channel sent.
    #[must_use]
    pub fn counts(&self, channel: Channel) -> Option<&ChannelCounts> {
        let mut all = Channel::ALL.into_iter().zip(self.counts.iter());
        all.find(|(of, _)| *of == channel).map(|(_, counts)| counts)
    }

    /// Takes an event. A caller who leaves does not undo it.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub async fn take(
        &self,
        event: PurchaseEvent,
        config: Arc<Config>,
        now: Timestamp,
    ) -> Result<EventEffect, Refusal> {
        let summary = EventSummary::of(&event);
        let taking = self
            .desk
            .ask(move |desk| records::take(desk, &event, rules_of(&config, now), false));
        let taken = in_time(taking).await?;
        self.count(&summary, &taken, now);
        Ok(taken)
    }

    /// Binds a transaction to the user who sent it.
    ///
    /// # Errors
    /// The ledger cannot be written. Inside: it is somebody else's.
    pub async fn bind(
        &self,
        event: PurchaseEvent,
        user: Uuid,
        (config, now): (Arc<Config>, Timestamp),
    ) -> Result<Result<EventEffect, PurchaseConflict>, Refusal> {
        let summary = EventSummary::of(&event);
        let binding = self
            .desk
            .ask(move |desk| records::bind(desk, &event, user, rules_of(&config, now)));
        let bound = in_time(binding).await?;
        if let Ok(taken) = &bound {
            self.count(&summary, taken, now);
        }
        Ok(bound)
    }

    /// Something came without its store's proof, or cannot be read.
    pub fn refused(&self, channel: Channel, why: &str, is_proven: bool, now: Timestamp) {
        let Some(counts) = self.counts(channel) else {
            return;
        };
        let count = if is_proven {
            &counts.unreadable
        } else {
            &counts.refused
        };
        count.fetch_add(1, Ordering::Relaxed);
        let last = counts.last_refusal.lock();
        *last.unwrap_or_else(PoisonError::into_inner) = Some((now, why.to_owned()));
        let reported = counts.reported.lock();
        let mut reported = reported.unwrap_or_else(PoisonError::into_inner);
        // A stranger writes no log of ours, also not by turns for several reasons.
        reported.retain(|_, at| now.since(*at) < TELL_EVERY);
        if reported.len() < REASONS_MAX && !reported.contains_key(why) {
            tracing::warn!(channel = channel.as_str(), why, "a webhook is not taken");
            reported.insert(why.to_owned(), now);
        }
    }

    /// Gives what was bought before the settings had its product. Whose purchases it touched.
    ///
    /// # Errors
    /// The ledger cannot be written: what, for a log.
    pub(crate) async fn catch_up(
        &self,
        config: Arc<Config>,
        now: Timestamp,
    ) -> Result<Vec<Uuid>, String> {
        if config.products.by_name.is_empty() {
            return Ok(Vec::new());
        }
        let catching_up = self
            .desk
            .ask(move |desk| unknown_products::catch_up(desk, rules_of(&config, now)));
        let users = catching_up.await?;
        if !users.is_empty() {
            self.ledger.tell_of_purchases();
        }
        Ok(users)
    }

    fn count(&self, event: &EventSummary, taken: &EventEffect, now: Timestamp) {
        let channel = event.channel;
        if let Some(counts) = self.counts(channel) {
            counts.of(taken.outcome).fetch_add(1, Ordering::Relaxed);
            counts.last_at.store(now.millis(), Ordering::Relaxed);
        }
        let (channel, product) = (channel.as_str(), event.product.as_deref());
        if !matches!(taken.outcome, Outcome::Unchanged | Outcome::Repeated) {
            self.ledger.tell_of_purchases();
        }
        if taken.outcome == Outcome::NoProduct {
            let fix = "write it under [products]: what it gives is given then";
            tracing::warn!(
                channel,
                product,
                fix,
                "what was bought is in no [products] and gives nothing"
            );
        }
        let user = taken.users.first().map(Uuid::to_string);
        let outcome = taken.outcome.as_str();
        tracing::info!(
            channel,
            kind = event.kind,
            outcome,
            user_id = user,
            "an event of a store"
        );
    }
}

/// An event, for the log.
struct EventSummary {
    channel: Channel,
    kind: String,
    product: Option<String>,
}

impl EventSummary {
    fn of(event: &PurchaseEvent) -> Self {
        let facts = event
            .change
            .as_ref()
            .and_then(|change| change.facts.as_ref());
        Self {
            channel: event.channel,
            kind: event.kind.clone(),
            product: facts.map(|facts| facts.product.clone()),
        }
    }
}

fn rules_of(config: &Config, now: Timestamp) -> Rules<'_> {
    let products = &config.products;
    Rules { products, now }
}

async fn in_time<T>(asking: impl Future<Output = Result<T, String>>) -> Result<T, Refusal> {
    let unavailable = |error: &str| {
        tracing::error!(error, "an event of a store cannot be written");
        Refusal::new(
            Code::StoreUnavailable,
            "The ledger cannot be written right now: send this again.",
        )
    };
    let asked = tokio::time::timeout(LEDGER_TIMEOUT, asking).await;
    let asked = asked.map_err(|_| unavailable("it takes too long"))?;
    asked.map_err(|error| unavailable(&error))
}
