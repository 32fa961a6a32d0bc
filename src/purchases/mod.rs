//! What stores tell of purchases, and what becomes of it.
//!
//! A store's event is verified, read into an [`event::PurchaseEvent`] in our own words, and merged into the rows of its purchase
//! ([`chain`], pure). The state is what all events together say, each by the store's own time: in which order they come, how
//! often, and by which channel makes no difference. Which purchase decides a user's plan is not decided here, but by
//! [`crate::plan::Products::live`].

pub mod appstore;
pub mod chain;
mod credits;
pub mod event;
pub mod intake;
pub mod jws;
pub mod records;
pub mod replay;
pub mod revenuecat;
mod rows;
pub mod signature;
pub mod stripe;
pub mod superwall;
#[cfg(test)]
mod tests;
pub(crate) mod unknown_products;
