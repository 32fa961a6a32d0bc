//! The product from outside: the real binary between a fake Supabase, a fake upstream and callers of every kind.
//!
//! One test is one sentence about what a caller, an operator or an upstream sees. Nothing here knows how the product
//! is built; it knows `CONTRACT.md`, and after every test the oracle compares what the ledger says with what the
//! upstream really served (see [`support::oracle`]). [`support::door`] is where to start reading.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    clippy::float_arithmetic,
    clippy::float_cmp,
    clippy::excessive_nesting,
    clippy::format_collect,
    clippy::needless_pass_by_value,
    clippy::redundant_closure_for_method_calls,
    clippy::similar_names,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::string_slice,
    clippy::let_underscore_must_use,
    reason = "a test that stumbles should stop loudly, and the fakes own their tasks and their clock"
)]

mod support;

mod admin;
mod answers;
mod app_attest;
mod backups;
mod before_the_hold;
mod built_in_plan;
mod clock;
mod connections;
mod containers;
mod credits;
mod devices;
mod disasters;
mod doctor;
mod embeddings;
mod ends;
mod errors_page;
mod fake_database;
mod fakes;
mod fallback;
mod false_usage;
mod families;
mod fields;
mod first_steps;
mod fuzz_corpora;
mod hostile_client;
mod hostile_upstream;
mod idempotency;
mod identity;
mod images;
mod init;
mod issuers;
mod ledger_file;
mod limits;
mod limits_page;
mod log_lines;
mod messages;
mod metrics;
mod mixed;
mod model_limits;
mod models;
mod moderation;
mod moving;
mod operations;
mod operator_commands;
mod otlp;
mod outbox;
mod phone;
mod pictures;
mod plan_reasons;
mod plans_from_database;
mod postgres_outages;
mod postgres_tls;
mod processes;
mod promises;
mod prompts;
mod published_keys;
mod purchase_times;
mod purchases;
mod quantities;
mod reported_usage;
mod responses;
mod rotation;
mod routes;
mod secrets;
mod settings_page;
mod shadowing;
mod silent_databases;
mod slow_client;
mod slow_strangers;
mod smuggling;
mod sockets;
mod speech;
mod sql_script;
mod startup;
mod streams;
mod stripe;
mod tidy;
mod token_headers;
mod transcriptions;
mod unseen_work;
mod upstream_errors;
mod upstream_tls;
mod upstream_way;
mod verdicts;
mod webhook_commands;
mod zoo;
