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
use crate::endpoint::model_choice::{self, Choice};
use crate::endpoint::{Endpoint, JSON, Reader, Settable, Spec, Terms};
use crate::error::Refusal;
use crate::meter::Measured;
use crate::model::{Capability, Tokenizer};
use crate::plan::{Plan, Quote};
use crate::price::tokenizer;
use crate::price::{Price, Quantities, Usage};

use self::input::Request;

/// What OpenAI takes where a request names no model.
pub(crate) const DEFAULT_MODEL: &str = "omni-moderation-latest";
/// What a server whose tokenizer is not known may add to each input.
const FRAME_UNKNOWN: u64 = 32;
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
    model: String,
    requested_model: Option<String>,
    entry: Option<String>,
    price: Price,
    /// At least as many tokens as its texts will be billed as; none where it is free.
    input_tokens: u64,
    narrowed: bool,
}

/// Without the inputs.
impl fmt::Debug for ModerationOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModerationOrder")
            .field("model", &self.model)
            .field("input_tokens", &self.input_tokens)
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
        let Choice {
            name,
            price,
            requested,
            entry,
            ..
        } = model_choice::choose(asked, terms, Capability::Moderations)?;
        if !price.is_free() {
            request.check_has_no_images()?;
        }
        request.model = None;
        let mut order = Self {
            request,
            model: name.to_owned(),
            requested_model: requested,
            entry,
            price: price.clone(),
            input_tokens: 0,
            narrowed: price.is_free(),
        };
        if !price.is_free() {
            order.input_tokens = order.bound(&|text| tokenizer::bytes_bound(price.tokenizer, text));
        }
        Ok(order)
    }

    /// All texts, by a count of a text, and what may be added to each.
    fn bound(&self, count: &dyn Fn(&str) -> u64) -> u64 {
        let frame = if self.price.tokenizer == Tokenizer::Unknown {
            FRAME_UNKNOWN
        } else {
            0
        };
        let texts = self.request.texts();
        texts.fold(0_u64, |sum, text| {
            sum.saturating_add(count(text)).saturating_add(frame)
        })
    }
}

impl Endpoint for ModerationOrder {
    fn model(&self) -> &str {
        &self.model
    }

    fn requested_model(&self) -> Option<&str> {
        self.requested_model.as_deref()
    }

    fn plan_entry(&self) -> &str {
        self.entry.as_deref().unwrap_or(&self.model)
    }

    fn price(&self) -> &Price {
        &self.price
    }

    fn quote(&self, _: u32) -> Quote {
        Quote {
            price: self.price.clone(),
            base: Quantities::of_input(self.input_tokens),
            output_cap: 0,
            output_floor: 0,
            choices: 1,
        }
    }

    fn check_input(&self, plan: &Plan) -> Result<(), Refusal> {
        let (bound, cap) = (self.input_tokens, plan.max_input_tokens);
        if bound <= u64::from(cap) {
            return Ok(());
        }
        let message = format!(
            "The input is too long: it may come to {bound} tokens in all, and the plan allows {cap} a request. Send less of it at once."
        );
        Err(Refusal::invalid("input", message))
    }

    fn check_least_input(&self, plan: &Plan) -> Result<(), Refusal> {
        let tokenizer = self.price.tokenizer;
        let texts = self.request.texts();
        let least = texts.fold(0_u64, |sum, text| {
            sum.saturating_add(tokenizer::least(tokenizer, text))
        });
        if least <= u64::from(plan.max_input_tokens) {
            return Ok(());
        }
        self.check_input(plan)
    }

    fn narrow(&mut self, most: u64) {
        if self.narrowed {
            return;
        }
        let tokenizer = self.price.tokenizer;
        let counted = tokenizer::bound_of_bare_texts(tokenizer, most, |count| self.bound(count));
        self.input_tokens =
            counted.map_or(self.input_tokens, |counted| self.input_tokens.min(counted));
        self.narrowed = true;
    }

    fn is_narrowed(&self) -> bool {
        self.narrowed
    }

    fn body(&self, _: u32, _: Manner, _: &str) -> Bytes {
        let outgoing = OutgoingBody {
            model: &self.model,
            request: &self.request,
        };
        // Writing to memory cannot fail, and no value in a request is one that JSON cannot write.
        Bytes::from(serde_json::to_vec(&outgoing).unwrap_or_default())
    }

    fn reader(&self, _: Uuid) -> Reader {
        Reader::whole(if self.price.is_free() {
            answer::read_free
        } else {
            answer::read_priced
        })
    }

    fn estimate(&self, _: &Measured) -> Usage {
        let tokenizer = self.price.tokenizer;
        let texts = self.request.texts();
        let counted = texts.fold(0_u64, |sum, text| {
            sum.saturating_add(tokenizer::count(tokenizer, text))
        });
        Usage {
            input_tokens: counted.min(self.input_tokens),
            ..Usage::default()
        }
    }
}

/// A request on its way out.
#[derive(Serialize)]
struct OutgoingBody<'a> {
    model: &'a str,
    #[serde(flatten)]
    request: &'a Request,
}
