//! `/v1/messages`: Anthropic's Messages API, whole and streamed. Pure.
//!
//! A request is read, checked and bounded as a chat is, by Anthropic's names and rules: `max_tokens` is always there, and
//! thoughts have a budget within it. [`count`] passes on requests that only count a prompt.

mod blocks;
mod bound;
mod check;
pub mod count;
mod image;
mod members;
#[cfg(test)]
mod tests;
mod thinking;
mod user_input;
mod wire;

use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use uuid::Uuid;

use crate::dialect::Manner;
use crate::endpoint::model_choice::{self, OrderedModel};
use crate::endpoint::{Endpoint, JSON, Reader, Settable, Spec, Terms, UserInput, json, settings};
use crate::error::Refusal;
use crate::meter::{Measured, Meter, messages};
use crate::model::{Capability, Tokenizer};
use crate::plan::{Plan, Quote};
use crate::price::tokenizer;
use crate::price::{Quantities, Usage};

use self::bound::PromptWeight;
use self::wire::{CacheControl, InnerBlock, Metadata, Request, Thinking, inner};

/// The longest whole answer.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The one path, Anthropic's own.
pub static SPEC: Spec = Spec {
    paths: &["/v1/messages"],
    bodies: &[JSON],
    upstream_path: "/messages",
    operation: "chat",
    capability: Capability::Messages,
    settable: Settable {
        fields: &check::SETTABLE,
        check: |fields| Ok(check::settings(&json::read(fields.as_bytes())?)?),
    },
    answer_bytes_max: ANSWER_BYTES_MAX,
    parse: |incoming, terms| Ok(Box::new(MessagesOrder::parse(&incoming.body, terms)?)),
};

/// A request that may be sent. Made only by [`MessagesOrder::parse`].
#[derive(Clone, PartialEq)]
pub struct MessagesOrder {
    /// As it will be sent, without what is always said anew: model, cap, thinking, tier and user.
    request: Request,
    thinking: Option<Thinking>,
    model: OrderedModel,
    output_cap: u32,
    /// Some part of the prompt is to be kept for an hour, at a higher price.
    keeps_for_an_hour: bool,
    /// At least as many tokens as the prompt will be billed as.
    input_tokens: u64,
    narrowed: bool,
}

/// Without the prompt.
impl fmt::Debug for MessagesOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessagesOrder")
            .field("model", &self.model.name)
            .field("output_cap", &self.output_cap)
            .field("input_tokens", &self.input_tokens)
            .finish_non_exhaustive()
    }
}

impl MessagesOrder {
    /// Reads a request. The output cap is lowered to the plan's. Without a model it is the plan's first that serves messages.
    ///
    /// # Errors
    /// `invalid_request`, `unsupported_field` (both name the field), `model_not_allowed`, `quota_exceeded`.
    pub fn parse(body: &[u8], terms: &Terms<'_>) -> Result<Self, Refusal> {
        let request: Request = json::read(body)?;
        check::request(&request)?;
        let order = Self::of_checked(request, terms)?;
        thinking::check_cap(order.thinking.as_ref(), order.output_cap, terms.plan)?;
        Ok(order)
    }

    /// A request that was checked, for the model that it names.
    fn of_checked(request: Request, terms: &Terms<'_>) -> Result<Self, Refusal> {
        let mut request = request;
        let choice = model_choice::choose(request.model.as_deref(), terms, Capability::Messages)?;
        if let Some(alias) = choice.alias {
            settings::apply(&mut request, alias, |_, _| ())?;
        }
        thinking::settle(&mut request, &choice, terms.plan);
        let cap = request.max_tokens.and_then(|cap| u32::try_from(cap).ok());
        let input_tokens = PromptWeight::in_bytes(&request);
        let keeps_for_an_hour = keeps_for_an_hour(&request);
        (request.model, request.max_tokens) = (None, None);
        (request.metadata, request.service_tier) = (None, None);
        Ok(Self {
            model: choice.into_ordered(),
            output_cap: cap.unwrap_or(u32::MAX).min(terms.plan.max_output_tokens),
            keeps_for_an_hour,
            input_tokens,
            narrowed: false,
            thinking: request.thinking.take(),
            request,
        })
    }

    /// Leaves only what a prompt is counted by: what the operator's name for a model adds may be more.
    fn keep_the_prompt(&mut self) {
        let request = &mut self.request;
        (request.temperature, request.top_p, request.top_k) = (None, None, None);
        (request.stop_sequences, request.stream) = (None, None);
    }

    fn least_cap(&self) -> u32 {
        thinking::least_cap(self.thinking.as_ref())
    }
}

impl Endpoint for MessagesOrder {
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

    /// Thoughts that nobody asked for show themselves: a block of them begins before they do.
    fn may_reason(&self) -> bool {
        self.thinking.as_ref().is_some_and(Thinking::is_on)
    }

    fn quote(&self, min_output_tokens: u32) -> Quote {
        let mut base = Quantities::of_input(self.input_tokens);
        if self.keeps_for_an_hour {
            base.cache_write_1h_tokens = self.input_tokens;
        }
        Quote {
            price: self.model.price.clone(),
            base,
            output_cap: self.output_cap,
            output_floor: min_output_tokens.max(self.least_cap()).min(self.output_cap),
            choices: 1,
        }
    }

    fn check_input(&self, plan: &Plan) -> Result<(), Refusal> {
        let (bound, cap) = (self.input_tokens, plan.max_input_tokens);
        if bound <= u64::from(cap) {
            return Ok(());
        }
        let message = format!(
            "The prompt is too long: `system`, `messages` and `tools` may come to {bound} tokens, and the plan allows {cap}. \
             Shorten them."
        );
        Err(Refusal::invalid("messages", message))
    }

    fn check_least_input(&self, plan: &Plan) -> Result<(), Refusal> {
        if PromptWeight::least(&self.request) <= u64::from(plan.max_input_tokens) {
            return Ok(());
        }
        self.check_input(plan)
    }

    fn narrow(&mut self, most: u64) {
        if !self.narrowed
            && let Some(counted) = PromptWeight::narrow(&self.request, most)
        {
            self.input_tokens = self.input_tokens.min(counted);
        }
        self.narrowed = true;
    }

    fn is_narrowed(&self) -> bool {
        self.narrowed
    }

    fn body(&self, output_cap: u32, _: Manner, user: &str) -> Bytes {
        let cap = output_cap.min(self.output_cap);
        let outgoing = OutgoingBody {
            model: &self.model.name,
            max_tokens: cap,
            request: &self.request,
            thinking: self
                .thinking
                .as_ref()
                .map(|thinking| thinking::within(thinking, cap)),
            metadata: Metadata {
                user_id: Some(user.to_owned()),
                unknown: None,
            },
            // Another tier has another price.
            service_tier: "standard_only",
        };
        // Writing to memory cannot fail, and no value in a request is one that JSON cannot write.
        Bytes::from(serde_json::to_vec(&outgoing).unwrap_or_default())
    }

    fn reader(&self, request_id: Uuid) -> Reader {
        if self.stream() {
            Reader::Stream(Box::new(Meter::messages(
                self.keeps_for_an_hour,
                request_id,
            )))
        } else if self.keeps_for_an_hour {
            Reader::whole(messages::read_of_an_hour)
        } else {
            Reader::whole(messages::read)
        }
    }

    fn estimate(&self, seen: &Measured) -> Usage {
        let input_tokens = PromptWeight::likely(&self.request).min(self.input_tokens);
        let written = if self.keeps_for_an_hour {
            input_tokens
        } else {
            0
        };
        Usage {
            input_tokens,
            cache_write_1h_tokens: written,
            output_tokens: tokenizer::count(Tokenizer::Unknown, &seen.text),
            ..Usage::default()
        }
    }
}

/// A request on its way out.
#[derive(Serialize)]
struct OutgoingBody<'a> {
    model: &'a str,
    max_tokens: u32,
    #[serde(flatten)]
    request: &'a Request,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<Thinking>,
    metadata: Metadata,
    service_tier: &'a str,
}

/// Whether any mark in a request asks for an hour.
fn keeps_for_an_hour(request: &Request) -> bool {
    let is_hour = |control: &Option<Box<CacheControl>>| {
        let ttl = control.as_ref().and_then(|control| control.ttl.as_deref());
        ttl == Some("1h")
    };
    let any_inner = |blocks: &[InnerBlock]| {
        blocks.iter().any(|block| {
            let source = block.source.as_ref();
            let within = source.map_or(&[][..], |source| inner(source.content.as_ref()));
            is_hour(&block.cache_control)
                || within.iter().any(|block| is_hour(&block.cache_control))
        })
    };
    let mut blocks = request
        .messages
        .iter()
        .flat_map(|messages| &messages.0)
        .flat_map(wire::Message::blocks);
    let mut tools = request.tools.iter().flat_map(|tools| &tools.0);
    is_hour(&request.cache_control)
        || any_inner(inner(request.system.as_ref()))
        || tools.any(|tool| is_hour(&tool.cache_control))
        || blocks.any(|block| {
            let source = block.source.as_ref();
            let within = source.map_or(&[][..], |source| inner(source.content.as_ref()));
            is_hour(&block.cache_control)
                || any_inner(inner(block.content.as_ref()))
                || any_inner(within)
        })
}
