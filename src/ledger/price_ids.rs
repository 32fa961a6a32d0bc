//! By which rates a row is priced: their ids, and which of them a ledger is known to have. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};

use crate::ledger::hex::hex;
use crate::price::{LongPrice, Price, Rates};

/// How many bytes of the rates' SHA-256 are their id: 64 bits for the few prices that an operator ever has.
const ID_BYTES: usize = 8;

/// The rates that a ledger is known to have, with their ids. As many as there were prices since the start.
#[derive(Debug, Default)]
pub(super) struct PriceIds {
    known: HashMap<(Rates, Option<LongPrice>), Arc<str>, foldhash::fast::RandomState>,
}

impl PriceIds {
    /// The id of a price that the ledger is known to have.
    pub(super) fn known(&self, price: &Price) -> Option<Arc<str>> {
        self.known.get(&(price.rates, price.long)).cloned()
    }

    /// The ledger has a price under this id.
    pub(super) fn note(&mut self, price: &Price, id: Arc<str>) {
        self.known.insert((price.rates, price.long), id);
    }
}

/// The id of a price by its rates as they are stored.
pub(super) fn id_of(stored: &str) -> Arc<str> {
    let digest = digest(&SHA256, stored.as_bytes());
    hex(digest.as_ref().get(..ID_BYTES).unwrap_or_default()).into()
}
