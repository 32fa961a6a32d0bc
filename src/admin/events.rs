//! The overview as it changes, event by event, for whoever looks at the dashboard.

/// Who listens.
#[derive(Debug, Default)]
pub(super) struct Events {}
