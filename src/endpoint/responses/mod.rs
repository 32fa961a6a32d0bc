//! `/v1/responses`: OpenAI's Responses API, without any state. Pure.
//!
//! By OpenAI's description of `CreateResponse`. Nothing is stored at the provider, so a request carries all that it is about;
//! what refers to something stored is refused, and so is what costs money by rules of its own.

mod bound;
mod check;
mod items;
mod rules;
mod settle;
#[cfg(test)]
mod tests;
mod tools;
mod user_input;
mod wire;

use std::borrow::Cow;
use std::fmt::{self, Write};

use aws_lc_rs::digest;
use bytes::Bytes;
use serde::Serialize;
use uuid::Uuid;

use self::wire::ResponsesBody;
use super::json::TextOr;
use super::model_choice::{self, OrderedModel};
use super::{Endpoint, JSON, Reader, Settable, Spec, Terms, UserInput, json};
use crate::dialect::{Dialect, Manner};
use crate::error::Refusal;
use crate::meter::{Measured, Meter, responses};
use crate::model::{Capability, Tokenizer};
use crate::plan::{Plan, Quote};
use crate::price::tokenizer;
use crate::price::{Quantities, Usage};

/// The longest whole response: it repeats the instructions and tools of its request.
const ANSWER_BYTES_MAX: usize = 24 * 1024 * 1024;

/// The one path, OpenAI's own.
pub static SPEC: Spec = Spec {
    paths: &["/v1/responses"],
    bodies: &[JSON],
    upstream_path: "/responses",
    operation: "chat",
    capability: Capability::Responses,
    settable: Settable {
        fields: &check::SETTABLE,
        check: |fields| Ok(check::settings(&json::read(fields.as_bytes())?)?),
    },
    answer_bytes_max: ANSWER_BYTES_MAX,
    parse: |incoming, terms| Ok(Box::new(ResponseOrder::parse(&incoming.body, terms)?)),
};

/// A request for a response that may be sent.
#[derive(Clone, PartialEq)]
pub struct ResponseOrder {
    /// As it will be sent, without what is always said anew, and what is merely accepted.
    request: ResponsesBody,
    model: OrderedModel,
    output_cap: u32,
    prompt_cache_key: Option<String>,
    /// The model does not reason before it answers, for sure.
    is_plain: bool,
    /// At least as many tokens as the input will be billed as.
    input_tokens: u64,
    counted: bool,
}

/// Without the input.
impl fmt::Debug for ResponseOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseOrder")
            .field("model", &self.model.name)
            .field("output_cap", &self.output_cap)
            .field("input_tokens", &self.input_tokens)
            .finish_non_exhaustive()
    }
}

impl ResponseOrder {
    /// Reads a request.
    ///
    /// The output cap is lowered to the plan's; without one it is the plan's. Without a model it is the plan's first that
    /// serves responses.
    ///
    /// # Errors
    /// `invalid_request`, `unsupported_field` (both name the field), `model_not_allowed`.
    pub fn parse(body: &[u8], terms: &Terms<'_>) -> Result<Self, Refusal> {
        let mut request: ResponsesBody = json::read(body)?;
        check::request(&request)?;
        items::prepare(&mut request)?;
        let choice = model_choice::choose(request.model.as_deref(), terms, Capability::Responses)?;
        if let Some(alias) = choice.alias {
            settle::apply(&mut request, alias)?;
        }
        let is_plain = settle::effort(&mut request, &choice, terms.plan);
        let model = choice.into_ordered();
        let cap = request.max_output_tokens.take();
        let cap = cap
            .and_then(|cap| u32::try_from(cap).ok())
            .unwrap_or(u32::MAX);
        let prompt_cache_key = request.prompt_cache_key.take();
        clear_rewritten_fields(&mut request);
        let weight = bound::in_bytes(&request, &model.name, model.price.tokenizer);
        Ok(Self {
            model,
            output_cap: cap.min(terms.plan.max_output_tokens),
            prompt_cache_key,
            is_plain,
            input_tokens: weight.bound(),
            counted: false,
            request,
        })
    }

    /// The refusal that names an image, where the input would fit without its images.
    fn image_refusal(&self, cap: u64) -> Option<Refusal> {
        let model = (self.model.name.as_str(), self.is_openai());
        let images = items::images(&self.request);
        let images: Vec<_> = images
            .map(|(path, url, detail)| (path, super::image::tokens_max(model, url, detail)))
            .collect();
        let total = images
            .iter()
            .fold(0_u64, |total, (_, tokens)| total.saturating_add(*tokens));
        // Of several that cost the same, the first.
        let (path, tokens) = images.into_iter().rev().max_by_key(|(_, tokens)| *tokens)?;
        if self.input_tokens.saturating_sub(total) > cap {
            return None;
        }
        let message = format!(
            "The input is too long: `{path}` may come to {tokens} tokens, all of it to {}, and the plan allows {cap}. Send a \
             smaller image inline (a data: URL).",
            self.input_tokens
        );
        Some(Refusal::invalid(path, message))
    }

    /// The model is one of OpenAI's: so says its tokenizer.
    fn is_openai(&self) -> bool {
        self.model.price.tokenizer != Tokenizer::Unknown
    }

    /// What OpenAI gets: it keeps nothing, so it could not find reasoning that it is to know by its id.
    fn without_unsealed_reasoning(&self) -> Cow<'_, ResponsesBody> {
        let is_unsealed = |request: &ResponsesBody| match &request.input {
            Some(TextOr::Other(items)) => items.0.iter().any(wire::InputItem::is_reasoning_by_id),
            _ => false,
        };
        if !is_unsealed(&self.request) {
            return Cow::Borrowed(&self.request);
        }
        let mut request = self.request.clone();
        if let Some(TextOr::Other(items)) = &mut request.input {
            items.0.retain(|item| !item.is_reasoning_by_id());
        }
        Cow::Owned(request)
    }
}

impl Endpoint for ResponseOrder {
    fn ordered_model(&self) -> &OrderedModel {
        &self.model
    }

    fn user_input(&self) -> Result<UserInput<'_>, Refusal> {
        Ok(user_input::of(&self.request))
    }

    fn output_cap(&self) -> u32 {
        self.output_cap
    }

    fn stream(&self) -> bool {
        self.request.stream == Some(true)
    }

    fn may_reason(&self) -> bool {
        !self.is_plain
    }

    fn quote(&self, min_output_tokens: u32) -> Quote {
        Quote {
            price: self.model.price.clone(),
            base: Quantities::of_input(self.input_tokens),
            output_cap: self.output_cap,
            output_floor: min_output_tokens.max(check::CAP_MIN).min(self.output_cap),
            choices: 1,
        }
    }

    fn check_input(&self, plan: &Plan) -> Result<(), Refusal> {
        let (bound, cap) = (self.input_tokens, plan.max_input_tokens);
        if bound <= u64::from(cap) {
            return Ok(());
        }
        if let Some(refusal) = self.image_refusal(u64::from(cap)) {
            return Err(refusal);
        }
        let message = format!(
            "The input is too long: instructions, items and tools may come to {bound} tokens, and the plan allows {cap}. \
             Shorten them."
        );
        Err(Refusal::invalid("input", message))
    }

    fn check_least_input(&self, plan: &Plan) -> Result<(), Refusal> {
        let tokenizer = self.model.price.tokenizer;
        let least = |text: &str| tokenizer::least(tokenizer, text);
        let least = bound::counted(&self.request, &self.model.name, tokenizer, &least);
        if least.bound_with_margin() <= u64::from(plan.max_input_tokens) {
            return Ok(());
        }
        self.check_input(plan)
    }

    fn narrow(&mut self, most: u64) {
        let tokenizer = self.model.price.tokenizer;
        if !self.counted {
            let exact = tokenizer::bound_of_all(tokenizer, most, |count| {
                bound::counted(&self.request, &self.model.name, tokenizer, count)
                    .bound_with_margin()
            });
            self.input_tokens =
                exact.map_or(self.input_tokens, |exact| self.input_tokens.min(exact));
        }
        self.counted = true;
    }

    fn is_narrowed(&self) -> bool {
        self.counted
    }

    fn body(&self, output_cap: u32, manner: Manner, user: &str) -> Bytes {
        let openai = manner.dialect == Dialect::Openai;
        let request = if openai {
            self.without_unsealed_reasoning()
        } else {
            Cow::Borrowed(&self.request)
        };
        let cache_key = self.prompt_cache_key.as_deref().filter(|_| openai);
        let outgoing = OutgoingResponse {
            model: &self.model.name,
            request: &request,
            max_output_tokens: output_cap.min(self.output_cap),
            store: false,
            service_tier: openai.then_some("default"),
            safety_identifier: openai.then_some(user),
            prompt_cache_key: cache_key.map(|key| hashed(user, key)),
        };
        // Writing to memory cannot fail, and no value in a request is one that JSON cannot write.
        Bytes::from(serde_json::to_vec(&outgoing).unwrap_or_default())
    }

    fn reader(&self, _: Uuid) -> Reader {
        if self.stream() {
            Reader::Stream(Box::new(Meter::responses()))
        } else {
            Reader::whole(responses::whole::read)
        }
    }

    fn estimate(&self, seen: &Measured) -> Usage {
        let tokenizer = self.model.price.tokenizer;
        let count = |text: &str| tokenizer::count(tokenizer, text);
        let likely = bound::counted(&self.request, &self.model.name, tokenizer, &count).estimate();
        Usage {
            input_tokens: likely.min(self.input_tokens),
            output_tokens: count(&seen.text),
            ..Usage::default()
        }
    }
}

/// A cache key that no two users share.
fn hashed(user: &str, key: &str) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [user, "\n", key] {
        context.update(part.as_bytes());
    }
    let digest = context.finish();
    let mut hashed = String::new();
    for byte in digest.as_ref().iter().take(16) {
        // Writing to memory cannot fail.
        write!(hashed, "{byte:02x}").unwrap_or_default();
    }
    hashed
}

/// A request on its way out.
#[derive(Serialize)]
struct OutgoingResponse<'a> {
    model: &'a str,
    #[serde(flatten)]
    request: &'a ResponsesBody,
    max_output_tokens: u32,
    store: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    safety_identifier: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache_key: Option<String>,
}

/// Removes what [`Endpoint::body`] says itself, and what is accepted and not passed on.
fn clear_rewritten_fields(request: &mut ResponsesBody) {
    request.model = None;
    (request.store, request.background) = (None, None);
    (request.service_tier, request.max_tool_calls) = (None, None);
    (request.user, request.safety_identifier) = (None, None);
    request.metadata = None;
}
