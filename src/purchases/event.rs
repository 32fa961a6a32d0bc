//! What a store says, in our own words.

use uuid::Uuid;

use crate::clock::Timestamp;
use crate::plan::Products;

/// A whole, in the parts that a share is told in: 100 % = 100,000.
pub const WHOLE_SHARE: i64 = 100_000;
/// The longest id or name that is taken from a store.
pub const NAME_BYTES_MAX: usize = 256;

/// Who tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    /// App Store Server Notifications.
    AppStore,
    /// RevenueCat's webhook.
    RevenueCat,
    /// Superwall's webhook.
    Superwall,
    /// Stripe's webhook.
    Stripe,
    /// The user's own app, with a transaction that Apple signed.
    App,
}

impl Channel {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::AppStore,
        Self::RevenueCat,
        Self::Superwall,
        Self::Stripe,
        Self::App,
    ];

    /// As in paths, settings, metrics and rows.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AppStore => "appstore",
            Self::RevenueCat => "revenuecat",
            Self::Superwall => "superwall",
            Self::Stripe => "stripe",
            Self::App => "app",
        }
    }
}

/// An event of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PurchaseEvent {
    /// Who tells.
    pub channel: Channel,
    /// The event's own id, by which it is taken once.
    pub id: String,
    /// Its type, as the store calls it; for people.
    pub kind: String,
    /// When it happened, by the store's clock.
    pub at: Timestamp,
    /// What it says of a transaction, if it is about one.
    pub change: Option<PurchaseChange>,
    /// What belongs to another name from now on.
    pub moves: Vec<OwnerMove>,
}

/// Whatever belonged to one name belongs to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerMove {
    /// From this name.
    pub from: String,
    /// To this one.
    pub to: String,
}

/// What is said of one transaction. What is not said stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PurchaseChange {
    /// `app_store`, `play_store`, `stripe` …
    pub store: String,
    /// The store's id of the transaction.
    pub transaction: String,
    /// The id of the first transaction of the same purchase.
    pub original: String,
    /// Whose it is, as the store calls them: a user's id, or another name.
    pub owner: Option<String>,
    /// What was bought.
    pub facts: Option<Facts>,
    /// Whether it counts.
    pub state: Option<ReportedState>,
    /// The end of the time that the store waits for the money in; `Some(None)` where it does not, or no longer.
    pub grace_until: Option<Option<Timestamp>>,
    /// Whether it will be renewed.
    pub will_renew: Option<bool>,
}

/// What was bought.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Facts {
    /// The store's name of the product.
    pub product: String,
    /// When.
    pub purchased_at: Timestamp,
    /// How many of it; at least 1.
    pub quantity: i64,
    /// No money was paid.
    pub is_sandbox: bool,
}

/// Whether a transaction counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PurchaseState {
    /// Until its end; `None` for no end.
    Live(Option<Timestamp>),
    /// It ended.
    Ended(Timestamp),
    /// The store took it back, so much of it.
    Revoked {
        /// When.
        at: Timestamp,
        /// In parts of [`WHOLE_SHARE`].
        share: i64,
    },
}

/// A state, and which of two counts that were said at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportedState {
    /// What was said.
    pub state: PurchaseState,
    /// The higher one counts.
    pub rank: i64,
}

impl ReportedState {
    /// Of two at the same time the one that ends counts.
    #[must_use]
    pub const fn of(state: PurchaseState) -> Self {
        let rank = match state {
            PurchaseState::Live(_) => 1,
            PurchaseState::Ended(_) => 2,
            PurchaseState::Revoked { .. } => 3,
        };
        Self { state, rank }
    }
}

/// By what an event is taken.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// What products give.
    pub products: &'a Products,
    /// The present moment.
    pub now: Timestamp,
}

/// A user by the name that a store knows them by, which is their id in its usual spelling.
#[must_use]
pub fn user_named(name: &str) -> Option<Uuid> {
    let is_hyphenated = name.len() == 36;
    name.parse().ok().filter(|_| is_hyphenated)
}
