//! `/v1/moderations`: texts and pictures that are sorted by what is wrong with them. Nothing is generated. Pure.
//!
//! By OpenAI's description of `CreateModerationRequest`. It is free there, so nothing is held, and no limit but those in
//! requests counts it. A model that somebody has given a price is held and charged by its texts.

mod answer;
mod input;
#[cfg(test)]
mod tests;
pub(crate) mod verdict;

use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use uuid::Uuid;

use crate::dialect::Manner;
use crate::endpoint::json;
use crate::endpoint::model_choice::{self, OrderedModel};
use crate::endpoint::token_bound::{TokenBound, input_too_long};
use crate::endpoint::{Endpoint, JSON, Reader, Settable, Spec, Terms};
use crate::error::Refusal;
use crate::meter::Measured;
use crate::model::Capability;
use crate::plan::{Plan, Quote};
use crate::price::{Quantities, Usage};

use self::input::Request;

/// What OpenAI takes where a request names no model.
pub(crate) const DEFAULT_MODEL: &str = "omni-moderation-latest";
/// The longest answer: some 2 KiB for each of the most inputs.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The one path, OpenAI's own.
pub static SPEC: Spec = Spec {
    paths: &["/v1/moderations"],
    bodies: &[JSON],
    upstream_path: "/moderations",
    operation: "moderation",
    capability: Capability::Moderations,
    settable: Settable {
        fields: &[],
        check: |_| Ok(()),
    },
    answer_bytes_max: ANSWER_BYTES_MAX,
    parse: |incoming, terms| Ok(Box::new(ModerationOrder::parse(&incoming.body, terms)?)),
};

/// A request that may be sent.
#[derive(Clone, PartialEq)]
pub struct ModerationOrder {
    /// Without its model, which is written anew.
    request: Request,
    model: OrderedModel,
    /// Of its texts; none where it is free.
    bound: TokenBound,
}

/// Without the inputs.
impl fmt::Debug for ModerationOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModerationOrder")
            .field("model", &self.model.name)
            .field("input_tokens", &self.bound.tokens())
            .finish_non_exhaustive()
    }
}

impl ModerationOrder {
    /// Reads a request. Without a model it is the provider's own default, if the plan has that, else the plan's first that
    /// serves moderations.
    ///
    /// # Errors
    /// `invalid_request`, `unsupported_field` (both name the field), `model_not_allowed`.
    pub fn parse(body: &[u8], terms: &Terms<'_>) -> Result<Self, Refusal> {
        let mut request: Request = json::read(body)?;
        request.prepare()?;
        let has_default = || terms.plan.models.iter().any(|entry| entry == DEFAULT_MODEL);
        let asked = request.model.as_deref();
        let asked = asked.or_else(|| has_default().then_some(DEFAULT_MODEL));
        let choice = model_choice::choose(asked, terms, Capability::Moderations)?;
        let model = choice.into_ordered();
        request.model = None;
        let tokenizer = model.price.tokenizer;
        let bound = if model.price.is_free() {
            TokenBound::free(tokenizer)
        } else {
            request.check_has_no_images()?;
            TokenBound::in_bytes(&request, tokenizer)
        };
        Ok(Self {
            request,
            model,
            bound,
        })
    }
}

impl Endpoint for ModerationOrder {
    fn ordered_model(&self) -> &OrderedModel {
        &self.model
    }

    fn quote(&self, _: u32) -> Quote {
        Quote {
            price: self.model.price.clone(),
            base: Quantities::of_input(self.bound.tokens()),
            output_cap: 0,
            output_floor: 0,
            choices: 1,
        }
    }

    fn check_input(&self, plan: &Plan) -> Result<(), Refusal> {
        self.bound.check(plan, input_too_long)
    }

    fn check_least_input(&self, plan: &Plan) -> Result<(), Refusal> {
        self.bound.check_least(&self.request, plan, input_too_long)
    }

    fn narrow(&mut self, most: u64) {
        self.bound.narrow(&self.request, most);
    }

    fn is_narrowed(&self) -> bool {
        self.bound.is_narrowed()
    }

    fn body(&self, _: u32, _: Manner, _: &str) -> Bytes {
        let outgoing = OutgoingBody {
            model: &self.model.name,
            request: &self.request,
        };
        // Writing to memory cannot fail, and no value in a request is one that JSON cannot write.
        Bytes::from(serde_json::to_vec(&outgoing).unwrap_or_default())
    }

    fn reader(&self, _: Uuid) -> Reader {
        Reader::whole(if self.model.price.is_free() {
            answer::read_free
        } else {
            answer::read_priced
        })
    }

    fn estimate(&self, _: &Measured) -> Usage {
        Usage::of_input(self.bound.likely(&self.request))
    }
}

/// A request on its way out.
#[derive(Serialize)]
struct OutgoingBody<'a> {
    model: &'a str,
    #[serde(flatten)]
    request: &'a Request,
}
