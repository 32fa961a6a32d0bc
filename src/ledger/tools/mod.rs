//! What is done to a whole ledger: backup, export and import, check, probe, prune.

pub mod backup;
pub mod check;
mod check_app;
mod check_credits;
mod check_tallies;
pub mod export;
pub mod probe;
pub mod prune;
