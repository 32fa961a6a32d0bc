//! Tollgate: the backend between a mobile app and an LLM.
//!
//! One request is one sentence: a bearer token becomes a [`auth::Principal`], the principal gets a [`plan::Plan`],
//! the body becomes an [`order::Order`], its worst cost becomes a durable [`ledger::Reservation`], the upstream answers,
//! and the [`ledger::Settlement`] says what it really cost. Start reading in [`proxy`].

pub mod account;
mod admin;
pub mod app;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod database;
pub mod directory;
pub mod doctor;
pub mod error;
pub mod jwks;
pub mod ledger;
pub mod meter;
pub mod metrics;
pub mod model;
mod openapi;
pub mod operator;
pub mod order;
pub mod otlp;
pub mod outbox;
pub mod pg;
pub mod plan;
pub mod price;
pub mod proxy;
pub mod standin;
pub mod telemetry;
pub mod tokens;
pub mod upstream;
pub mod visible;
