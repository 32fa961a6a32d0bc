//! Laying the members of one object over those of another.

/// An object whose members can be laid over those of another. What `unknown` says stays as it is.
pub(super) trait Members {
    /// Takes every member that `over` has in place of its own.
    fn cover(&mut self, over: Self);
    /// Takes every member that it does not have.
    fn fill(&mut self, under: Self);
}
