//! What the tests stand on: the door (the product, running), its fakes, its callers, and the oracle.

pub(crate) mod caller;
pub(crate) mod collector;
pub(crate) mod disk;
pub(crate) mod door;
pub(crate) mod faketime;
pub(crate) mod jwks;
pub(crate) mod keys;
pub(crate) mod leaks;
pub(crate) mod load;
pub(crate) mod oracle;
pub(crate) mod pgbouncer;
pub(crate) mod postgres;
pub(crate) mod postgrest;
pub(crate) mod process;
pub(crate) mod project;
pub(crate) mod raw;
pub(crate) mod relay;
pub(crate) mod reply;
mod rpc;
pub(crate) mod settings;
pub(crate) mod sibling;
pub(crate) mod store;
pub(crate) mod tokens;
pub(crate) mod upstream;
pub(crate) mod wire;
pub(crate) mod zoo;
