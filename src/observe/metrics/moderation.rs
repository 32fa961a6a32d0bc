//! How checks of what users say come out.

/// What came of putting a user's words to a moderation model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModerationOutcome {
    /// Nothing was wrong.
    Passed,
    /// They were flagged.
    Flagged,
    /// It could not be asked.
    Failed,
}

impl ModerationOutcome {
    pub(super) const ALL: [Self; 3] = [Self::Passed, Self::Flagged, Self::Failed];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Flagged => "flagged",
            Self::Failed => "failed",
        }
    }
}
