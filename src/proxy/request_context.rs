//! A request that came in, with all that an order for one of its candidates is made of; and the first of these orders that is
//! paid for.

use std::collections::VecDeque;
use std::sync::Arc;

use uuid::Uuid;

use super::admission::{self, HoldContext, HoldSlot};
use super::candidates::{self, Candidate};
use super::request_log::RequestLog;
use crate::app::{App, Place};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::endpoint::{Endpoint, Incoming, Spec};
use crate::error::{Code, Refusal};
use crate::ledger::{IdempotencyKey, Reservation};
use crate::plan::EffectivePlan;

/// A request that came in, and by whom and under which rules: what an order for another candidate is made of.
pub(super) struct RequestContext {
    pub(super) spec: &'static Spec,
    pub(super) incoming: Incoming,
    pub(super) user_id: Uuid,
    pub(super) granted: EffectivePlan,
    pub(super) feature: Option<String>,
    pub(super) idempotency: Option<IdempotencyKey>,
    /// When it was read: by this it is known which models are still there.
    pub(super) now: Timestamp,
}

/// What can still be tried for a request.
pub(super) struct Alternatives {
    pub(super) request: RequestContext,
    pub(super) left: VecDeque<Candidate>,
}

/// What was reserved, for whom.
pub(super) struct ReservedOrder {
    pub(super) order: Box<dyn Endpoint>,
    pub(super) reservation: Reservation,
    pub(super) candidate: Candidate,
    pub(super) place: Place,
    pub(super) alternatives: Option<Box<Alternatives>>,
}

impl RequestContext {
    pub(super) fn context<'a>(
        &'a self,
        app: &'a App,
        config: &'a Config,
        upstream: &'a str,
    ) -> HoldContext<'a> {
        HoldContext {
            app,
            config,
            granted: &self.granted,
            user_id: self.user_id,
            upstream,
            feature: self.feature.as_deref(),
            idempotency: self.idempotency.as_ref(),
        }
    }

    pub(super) async fn order(
        &self,
        config: &Arc<Config>,
        place: &mut Option<Place>,
        candidate: Option<&Candidate>,
    ) -> Result<Box<dyn Endpoint>, Refusal> {
        let candidate = candidate.map(|candidate| candidate.name.as_str());
        let asked = (self.incoming.clone(), place);
        let when = (self.now, candidate);
        admission::parse(self.spec, (config, &self.granted.plan), when, asked).await
    }

    /// Reads the order, and holds what it may cost at most with the candidate that is to be tried first. One that comes
    /// before the first of the settings, as that failed lately, is passed over where the order does not fit with it.
    ///
    /// # Errors
    /// What is wrong with the request, or what it does not fit.
    pub(super) async fn reserve(
        self,
        app: &App,
        config: &Arc<Config>,
        place: Place,
        log: &mut RequestLog,
    ) -> Result<ReservedOrder, Refusal> {
        let mut place = Some(place);
        let first = self.order(config, &mut place, None).await?;
        log.model(first.model());
        let (mut left, first_model) = {
            let upstreams = app.upstreams();
            let terms = admission::terms(config, &self.granted.plan, (self.now, None));
            let to = (&*upstreams, &*config.upstreams);
            let left = candidates::find(to, self.spec, &*first, &terms);
            let mut models = self.spec.candidates(first.plan_entry(), &config.models);
            (left, models.next().map(str::to_owned))
        };
        let mut first = Some(first);
        while let Some(candidate) = left.pop_front() {
            let is_it = first_model.as_ref() == Some(&candidate.name);
            let order = match first.take_if(|_| is_it) {
                Some(order) => order,
                None => match self.order(config, &mut place, Some(&candidate)).await {
                    Ok(order) => order,
                    Err(refusal) if candidate.is_first => return Err(refusal),
                    Err(_) => continue,
                },
            };
            log.model(order.model());
            let mut reservation = None;
            let context = self.context(app, config, &candidate.upstream.name);
            let slot = HoldSlot::New(&mut reservation);
            match admission::reserve(&context, order, (&mut place, slot), log).await {
                Ok(order) => {
                    let reserved = (order, reservation, place);
                    return self.reserved(reserved, candidate, left);
                }
                // The first of the settings is still to come.
                Err(unfit) if unfit.may_fit_another && !candidate.is_first => {}
                Err(unfit) => return Err(unfit.refusal),
            }
        }
        Err(no_upstream())
    }

    fn reserved(
        self,
        (order, reservation, place): (Box<dyn Endpoint>, Option<Reservation>, Option<Place>),
        candidate: Candidate,
        left: VecDeque<Candidate>,
    ) -> Result<ReservedOrder, Refusal> {
        let alternatives = (!left.is_empty()).then(|| {
            Box::new(Alternatives {
                request: self,
                left,
            })
        });
        Ok(ReservedOrder {
            order,
            candidate,
            reservation: reservation.ok_or_else(no_upstream)?,
            place: place.ok_or_else(no_upstream)?,
            alternatives,
        })
    }
}

/// A model that the plan names and no upstream serves; the settings are checked for it, so only a reload gets here.
fn no_upstream() -> Refusal {
    Refusal::new(
        Code::UpstreamUnavailable,
        "No provider serves this model right now.",
    )
}
