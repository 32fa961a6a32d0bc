//! Two keys of one upstream while the operator changes from one to the other.
//!
//! The key in force is tried first. Only when the upstream does not know it (401, for which nothing is billed) the same
//! request goes once more, with the key before it. Invariant: after a refused first try the request counts as not sent
//! until the second one is.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::StatusCode;
use tollgate_http1::Request;

use super::BoxError;
use super::answer::Answer;
use super::pool::Pool;

/// The upstreams whose previous key was the one that was taken last.
#[derive(Clone, Debug, Default)]
pub(super) struct Rotation(Arc<Mutex<BTreeSet<String>>>);

/// The same request with the previous key.
pub(super) struct SecondTry {
    pub(super) request: Request,
    pub(super) rotation: Rotation,
    pub(super) upstream: String,
}

impl SecondTry {
    /// The first answer, or the second one where the upstream did not know the key of the first.
    pub(super) async fn unless_known(
        self,
        first: Answer,
        pool: &Pool,
        sent: &AtomicBool,
    ) -> Result<Answer, BoxError> {
        if first.status != StatusCode::UNAUTHORIZED {
            if first.status.is_success() {
                self.rotation.note(&self.upstream, false);
            }
            return Ok(first);
        }
        drop(first);
        sent.store(false, Ordering::Release);
        let second = pool.request(self.request).await?;
        if second.status.is_success() {
            self.rotation.note(&self.upstream, true);
        }
        Ok(second)
    }
}

impl Rotation {
    /// Tells which key is in use when that has changed.
    fn note(&self, upstream: &str, is_previous: bool) {
        let mut previous = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if is_previous && previous.insert(upstream.to_owned()) {
            tracing::warn!(
                upstream,
                "the upstream does not know its key: the previous one is used"
            );
        } else if !is_previous && previous.remove(upstream) {
            tracing::info!(
                upstream,
                "the upstream knows its key now: the previous one is not used any more"
            );
        }
    }
}
