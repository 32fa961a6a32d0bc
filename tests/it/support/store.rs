//! Where a door keeps its ledger: in a SQLite file of its own, or in a database of its own on one Postgres that all doors
//! of this test process share.
//!
//! `TOLLGATE_TESTS_ON=postgres` moves every door there that does not say otherwise: the same tests, the other ledger.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::postgres::Postgres;
use super::settings::{Settings, Store};

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Everything in the ledger's tables, as text.
const DUMP: &str = "\\t on
    select r::text from tollgate_ledger.requests r;
    select s::text from tollgate_ledger.subscriptions s;
    select s::text from tollgate_ledger.switches s;
    select o::text from tollgate_ledger.owners o;
    select c::text from tollgate_ledger.credits c;
    select t::text from tollgate_ledger.admin_tokens t;
    select a::text from tollgate_ledger.audit a;
    select o::text from tollgate_ledger.purchase_origins o;
    select p::text from tollgate_ledger.purchases p;
    select m::text from tollgate_ledger.purchase_moves m;
    select e::text from tollgate_ledger.purchase_events e;";

/// A database of a door's own.
pub(crate) struct Database {
    name: String,
}

impl Database {
    /// A new one, where these settings want their ledger on the shared Postgres.
    pub(crate) async fn wanted_by(settings: &Settings) -> Option<Self> {
        let wanted = match settings.store() {
            Store::Postgres => true,
            Store::Sqlite | Store::Told => false,
            Store::Either => tests_are_on_postgres(),
        };
        if wanted {
            Some(Self::new().await)
        } else {
            None
        }
    }

    /// An empty database.
    pub(crate) async fn new() -> Self {
        let name = format!("door_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        tokio::task::spawn_blocking(shared)
            .await
            .unwrap()
            .create_database(&name)
            .await;
        Self { name }
    }

    /// What `store.url` is set to.
    pub(crate) fn url(&self) -> String {
        shared().url(&self.name)
    }

    /// A connection beside the product's.
    pub(crate) async fn connect(&self) -> tokio_postgres::Client {
        shared().connect(&self.name).await
    }

    /// What the ledger holds, as text.
    pub(crate) fn dump(&self) -> Vec<u8> {
        // A product that never started left no tables.
        tokio::task::block_in_place(|| shared().psql("postgres", &self.name, DUMP))
            .unwrap_or_default()
            .into_bytes()
    }
}

/// Whether doors keep their ledger on Postgres unless they say otherwise.
fn tests_are_on_postgres() -> bool {
    match std::env::var("TOLLGATE_TESTS_ON").as_deref() {
        Err(_) | Ok("" | "sqlite") => false,
        Ok("postgres") => true,
        Ok(other) => panic!("TOLLGATE_TESTS_ON is sqlite or postgres, not {other:?}"),
    }
}

/// Started by the first door that wants it, and stopped by its keeper when this process ends.
fn shared() -> &'static Postgres {
    static SHARED: OnceLock<Postgres> = OnceLock::new();
    SHARED.get_or_init(|| Postgres::start_blocking(false, "max_connections = 400"))
}
