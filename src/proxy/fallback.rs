//! From one candidate to the next, where it is certain that the one before did nothing.
//!
//! Before the next is dialled its own hold takes the place of the one that is there, in one step of the ledger: so at each
//! moment the row holds what the upstream that may be at work can cost. A candidate whose hold does not fit is passed over.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::admission::{self, HoldSlot, Unfit};
use super::candidates::Candidate;
use super::dispatch::{Dispatched, Open};
use super::request_context::{Alternatives, RequestContext};
use crate::upstream::Exchange;
use crate::upstream::rejection::Work;

impl Dispatched {
    /// Dials the next candidate whose hold fits; none if there is no other, or the ledger cannot say what is held.
    pub(super) async fn fall_back(&mut self) -> Option<Exchange> {
        if self.refused_work.is_none() && self.sent.load(Ordering::Acquire) {
            self.refused_work = Some(Work::Failed);
        }
        // Nobody is at work: a caller who leaves now is waited for by nobody.
        self.sent.store(false, Ordering::Release);
        let mut alternatives = self.alternatives.take()?;
        let Alternatives { request, left } = &mut *alternatives;
        let candidate = self.take_next(request, left).await?;
        tracing::info!(
            from = self.upstream.name,
            to = candidate.upstream.name,
            model = self.order.model(),
            "the next is asked for the same"
        );
        self.upstream = candidate.upstream;
        self.is_fallback = !candidate.is_first;
        self.alternatives = Some(alternatives).filter(|others| !others.left.is_empty());
        self.dial()
    }

    /// Puts the hold of the next candidate that it fits with in the place of the one that is there.
    async fn take_next(
        &mut self,
        request: &RequestContext,
        left: &mut VecDeque<Candidate>,
    ) -> Option<Candidate> {
        while let Some(candidate) = left.pop_front() {
            if Instant::now() >= self.deadline {
                return None;
            }
            let order = request.order(&self.config, &mut self.place, Some(&candidate));
            let Ok(order) = order.await else { continue };
            let Open { reservation, log } = self.open.as_mut()?;
            let context = request.context(&self.app, &self.config, &candidate.upstream.name);
            let slot = HoldSlot::Replace(reservation);
            let reserved = admission::reserve(&context, order, (&mut self.place, slot), log);
            match reserved.await {
                Ok(order) => {
                    log.model(order.model());
                    self.order = Arc::from(order);
                    return Some(candidate);
                }
                Err(Unfit {
                    may_fit_another, ..
                }) if may_fit_another => {}
                Err(_) => return None,
            }
        }
        None
    }
}
