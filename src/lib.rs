//! Tollgate: the backend between a mobile app and an LLM.
//!
//! One request is one sentence: a bearer token becomes a [`auth::Principal`], the principal gets a [`plan::Plan`],
//! the body becomes an [`endpoint::chat::Order`], its worst cost becomes a durable [`ledger::Reservation`], the upstream answers,
//! and the [`ledger::Settlement`] says what it really cost. Start reading in [`proxy`].

pub mod account;
pub(crate) mod answers;
pub mod app;
mod attest;
pub mod auth;
pub mod clock;
pub mod config;
pub mod dialect;
pub mod directory;
pub mod endpoint;
pub mod error;
pub(crate) mod http_client;
pub mod ledger;
pub mod meter;
pub mod model;
pub mod observe;
mod openapi;
pub mod operator;
pub mod outbox;
pub mod pg;
pub mod plan;
pub mod price;
pub mod prompt;
pub mod proxy;
pub mod purchases;
pub mod server;
pub(crate) mod single_flight;
pub mod supabase;
pub mod upstream;
pub mod x509;
