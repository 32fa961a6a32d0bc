//! How requests to upstreams come out.

use crate::upstream::health::Failure;

/// What became of a request at an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamOutcome {
    /// It answered as it should; also when it refused the user's own request.
    Ok,
    /// The caller left first.
    Cancelled,
    /// It failed.
    Failed(Failure),
}

impl UpstreamOutcome {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Cancelled => "cancelled",
            Self::Failed(failure) => failure.as_str(),
        }
    }
}
