//! What the operator sees and changes: on the command line, over HTTP, on the dashboard.

pub(crate) mod api;
pub mod cli;
pub mod demo_model;
pub mod doctor;
pub mod queries;
