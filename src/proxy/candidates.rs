//! Who may answer a request: the models behind the name that was asked for, each at every upstream that serves it.
//!
//! They are tried in the order of the settings, but for those whose upstream failed lately, which come last.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::config::UpstreamConfig;
use crate::dialect::Dialect;
use crate::endpoint::{Endpoint, Spec, Terms};
use crate::upstream::{self, Upstreams};

/// How many are tried for one request.
const CANDIDATES_MAX: usize = 8;

/// A model at an upstream.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// The model's name in the settings: one of [`Spec::candidates`].
    pub(super) name: String,
    pub(super) upstream: Arc<UpstreamConfig>,
    /// It is the first by the settings.
    pub(super) is_first: bool,
}

/// All who may answer a request, in the order in which they are to be tried. Empty where no upstream serves any of the models.
pub(super) fn find(
    upstreams: (&Upstreams, &[Arc<UpstreamConfig>]),
    spec: &Spec,
    order: &dyn Endpoint,
    terms: &Terms<'_>,
) -> VecDeque<Candidate> {
    let (state, configured) = upstreams;
    let mut found: Vec<(&str, Candidate)> = Vec::new();
    for name in spec.candidates(order.plan_entry(), terms.models) {
        let Some((model, _)) = terms.answering(name) else {
            continue;
        };
        // Anthropic's API speaks nothing else; a compatible server may speak it too.
        let speaks = |to: &&Arc<UpstreamConfig>| {
            spec.is_anthropics() || to.manner.dialect != Dialect::Anthropic
        };
        for upstream in upstream::routes(configured, model).filter(speaks) {
            let is_there = |(other, there): &(&str, Candidate)| {
                *other == model && there.upstream.name == upstream.name
            };
            if found.len() < CANDIDATES_MAX && !found.iter().any(is_there) {
                let candidate = Candidate {
                    name: name.to_owned(),
                    upstream: upstream.clone(),
                    is_first: found.is_empty(),
                };
                found.push((model, candidate));
            }
        }
    }
    if found.len() > 1 {
        // The sort is stable: of those that failed lately, too, the first comes first.
        found.sort_by_cached_key(|(_, candidate)| {
            state.is_tried_last(&candidate.upstream.name, terms.now)
        });
    }
    found.into_iter().map(|(_, candidate)| candidate).collect()
}
