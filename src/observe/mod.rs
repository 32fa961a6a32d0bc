//! What can be seen of the running server: log lines, metrics, traces.

pub mod log;
pub mod metrics;
pub mod traces;
pub mod visible;
