//! Reading the ledger beside its writer.

pub(crate) mod connection;
pub mod report;
pub mod shared;
