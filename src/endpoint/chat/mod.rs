//! An admitted request: its fields allowed, its output capped, its price fixed, its prompt bounded. Pure.
//!
//! [`Order::parse`] reads the caller's body once. What is priced is exactly what is sent: [`Endpoint::body`] writes the
//! request from what was understood, with the cap that was granted. It knows nothing of limits and money left:
//! [`Endpoint::quote`] says what the request needs, and `plan::admit` decides.

mod bound;
mod check;
mod image;
pub mod prompt;
mod reasoning;
mod said;
#[cfg(test)]
mod tests;
mod user_input;
mod wire;

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Serialize;

use crate::dialect::{CapName, Dialect, Manner};
use crate::endpoint::field_error::FieldError;
use crate::endpoint::model_choice::{self, Choice, OrderedModel};
use crate::endpoint::{Endpoint, JSON, Reader, Settable, Spec, Terms, UserInput, json, settings};
use crate::error::Refusal;
use crate::meter::{Measured, Meter, whole};
use crate::model::{Capability, Tokenizer};
use crate::plan::{Plan, Quote};
use crate::price::tokenizer;
use crate::price::{Quantities, Usage};

use wire::{ImageUrl, Message, Request, StreamOptions};

/// The longest whole completion.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// `/v1/chat/completions`, and the seed's own path to it.
pub static SPEC: Spec = CHAT;

const CHAT: Spec = Spec {
    paths: &["/v1/chat/completions", "/api/chat"],
    bodies: &[JSON],
    upstream_path: "/chat/completions",
    operation: "chat",
    capability: Capability::Chat,
    settable: Settable {
        fields: &check::SETTABLE,
        check: |fields| Ok(check::settings(&json::read(fields.as_bytes())?)?),
    },
    answer_bytes_max: ANSWER_BYTES_MAX,
    parse: |incoming, terms| Ok(Box::new(Order::parse(&incoming.body, terms)?)),
};

/// A chat request that may be sent. Made only by [`Order::parse`].
#[derive(Clone, PartialEq)]
pub struct Order {
    /// As it will be sent, without what is always said anew: model, cap, stream options, and what is merely accepted.
    request: Request,
    model: OrderedModel,
    choices: u32,
    output_cap: u32,
    wants_usage: bool,
    /// The version of the server's prompt that it begins with, if it does.
    prompt_version: Option<String>,
    /// The values of its variables, which are the caller's words too.
    prompt_values: Vec<String>,
    /// The model does not reason before it answers, for sure.
    is_plain: bool,
    /// At least as many tokens as the prompt will be billed as.
    input_tokens: u64,
    counted: bool,
}

/// Without the prompt.
impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order")
            .field("model", &self.model.name)
            .field("choices", &self.choices)
            .field("output_cap", &self.output_cap)
            .field("input_tokens", &self.input_tokens)
            .finish_non_exhaustive()
    }
}

impl Order {
    /// Reads a chat request.
    ///
    /// The output cap is lowered to the plan's; without one it is the plan's. Without a model it is the plan's first.
    ///
    /// # Errors
    /// `invalid_request`, `unsupported_field` (both name the field), `model_not_allowed`.
    pub fn parse(body: &[u8], terms: &Terms<'_>) -> Result<Self, Refusal> {
        let mut request: Request = json::read(body)?;
        check::request(&request, terms.plan)?;
        image::prepare(&mut request)?;
        let choice = model_choice::choose(request.model.as_deref(), terms, Capability::Chat)?;
        Self::of_checked(request, choice, terms)
    }

    /// A request that was checked, for the model that was chosen, with what goes with its name.
    fn of_checked(
        request: Request,
        choice: Choice<'_>,
        terms: &Terms<'_>,
    ) -> Result<Self, Refusal> {
        let mut request = request;
        if let Some(alias) = choice.alias {
            settings::apply(&mut request, alias, one_cap)?;
            check::request(&request, terms.plan)?;
        }
        let is_plain = reasoning::settle(&mut request, &choice, terms.plan);
        let model = choice.into_ordered();
        let cap = request.max_completion_tokens.or(request.max_tokens);
        let cap = cap
            .and_then(|cap| u32::try_from(cap).ok())
            .unwrap_or(u32::MAX);
        let options = request.stream_options.take();
        clear_rewritten_fields(&mut request);
        let weight = bound::in_bytes(&request, &model.name, model.price.tokenizer);
        Ok(Self {
            model,
            choices: request.n.and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
            output_cap: cap.min(terms.plan.max_output_tokens),
            is_plain,
            wants_usage: options
                .and_then(|options| options.include_usage)
                .unwrap_or(false),
            input_tokens: weight.bound(),
            counted: false,
            prompt_version: None,
            prompt_values: Vec::new(),
            request,
        })
    }

    /// The caller asked for the chunk with the usage at the end of the stream.
    #[must_use]
    pub const fn wants_usage(&self) -> bool {
        self.wants_usage
    }

    /// The refusal that names an image, where the prompt would fit without its images.
    fn image_refusal(&self, cap: u64) -> Option<Refusal> {
        // The caller does not see the server's prompt, which is the first message.
        let hidden = usize::from(self.prompt_version.is_some());
        let images = image::all(&self.request, (&self.model.name, self.is_openai()), hidden);
        let total = images
            .iter()
            .fold(0_u64, |total, (_, tokens)| total.saturating_add(*tokens));
        // Of several that cost the same, the first.
        let (path, tokens) = images.into_iter().rev().max_by_key(|(_, tokens)| *tokens)?;
        if self.input_tokens.saturating_sub(total) > cap {
            return None;
        }
        let message = format!(
            "The prompt is too long: `{path}` may come to {tokens} tokens, all of it to {}, and the plan allows {cap}. Send \
             a smaller image inline (a data: URL).",
            self.input_tokens
        );
        Some(Refusal::invalid(path, message))
    }

    /// What the prompt will most likely be billed as, in tokens, for when the upstream does not say: a count without a
    /// margin, images at their most. Never above the bound. Takes time as [`Endpoint::narrow`] does.
    #[must_use]
    pub fn estimate_input_tokens(&self) -> u64 {
        let weight = bound::likely(&self.request, &self.model.name, self.model.price.tokenizer);
        weight.estimate().min(self.input_tokens)
    }

    /// The model is one of OpenAI's: so says its tokenizer.
    fn is_openai(&self) -> bool {
        self.model.price.tokenizer != Tokenizer::Unknown
    }

    fn messages(&self) -> impl Iterator<Item = &Message> {
        self.request.messages.iter().flat_map(|list| &list.0)
    }
}

impl Endpoint for Order {
    fn ordered_model(&self) -> &OrderedModel {
        &self.model
    }

    fn prompt_version(&self) -> Option<&str> {
        self.prompt_version.as_deref()
    }

    fn user_input(&self) -> Result<UserInput<'_>, Refusal> {
        Ok(user_input::of(self))
    }

    fn choices(&self) -> u32 {
        self.choices
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
            output_floor: min_output_tokens.min(self.output_cap),
            choices: self.choices,
        }
    }

    fn check_input(&self, plan: &Plan) -> Result<(), Refusal> {
        if self.input_tokens <= u64::from(plan.max_input_tokens) {
            return Ok(());
        }
        let (bound, cap) = (self.input_tokens, plan.max_input_tokens);
        if let Some(refusal) = self.image_refusal(u64::from(cap)) {
            return Err(refusal);
        }
        let message = format!(
            "The prompt is too long: messages and tools may come to {bound} tokens, and the plan allows {cap}. Shorten them."
        );
        Err(Refusal::invalid("messages", message))
    }

    fn check_least_input(&self, plan: &Plan) -> Result<(), Refusal> {
        let tokenizer = self.model.price.tokenizer;
        let least = |text: &str| tokenizer::least(tokenizer, text);
        let least =
            bound::counted(&self.request, &self.model.name, tokenizer, &least).bound_with_margin();
        if least <= u64::from(plan.max_input_tokens) {
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
        let Manner {
            dialect,
            cap_name,
            stream_usage,
        } = manner;
        let cap = output_cap.min(self.output_cap);
        let openai = dialect == Dialect::Openai;
        let asks_usage = self.stream() && stream_usage;
        let request = if openai && self.messages().any(Message::has_thoughts) {
            Cow::Owned(without_thoughts(&self.request))
        } else {
            Cow::Borrowed(&self.request)
        };
        let outgoing = OutgoingBody {
            model: &self.model.name,
            request: &request,
            max_completion_tokens: (cap_name != CapName::MaxTokens).then_some(cap),
            max_tokens: (cap_name != CapName::MaxCompletionTokens).then_some(cap),
            stream_options: asks_usage.then_some(StreamOptions {
                include_usage: Some(true),
                unknown: None,
            }),
            store: openai.then_some(false),
            service_tier: openai.then_some("default"),
            safety_identifier: openai.then_some(user),
        };
        // Room for most; a longer one grows.
        let mut written = Vec::with_capacity(1024);
        // Writing to memory cannot fail, and no value in a request is one that JSON cannot write.
        if serde_json::to_writer(&mut written, &outgoing).is_err() {
            written.clear();
        }
        Bytes::from(written)
    }

    fn reader(&self, _: uuid::Uuid) -> Reader {
        if self.stream() {
            Reader::Stream(Box::new(Meter::chat(self.wants_usage)))
        } else {
            Reader::whole(whole::read)
        }
    }

    fn estimate(&self, seen: &Measured) -> Usage {
        Usage {
            input_tokens: self.estimate_input_tokens(),
            output_tokens: tokenizer::count(self.model.price.tokenizer, &seen.text),
            ..Usage::default()
        }
    }
}

/// The URL of an image in the form that is sent.
///
/// # Errors
/// It may not be passed on.
pub(super) fn image_url(url: String) -> Result<String, FieldError> {
    let mut image = ImageUrl {
        url: Some(url),
        ..ImageUrl::default()
    };
    image::read(&mut image)?;
    Ok(image.url.unwrap_or_default())
}

/// The output cap has two names, and two caps would disagree.
fn one_cap(over: &Request, under: &mut Request) {
    if over.max_tokens.or(over.max_completion_tokens).is_some() {
        (under.max_tokens, under.max_completion_tokens) = (None, None);
    }
}

/// A request on its way out.
#[derive(Serialize)]
struct OutgoingBody<'a> {
    model: &'a str,
    #[serde(flatten)]
    request: &'a Request,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    safety_identifier: Option<&'a str>,
}

/// Removes what [`Endpoint::body`] says itself, and what is accepted and not passed on.
fn clear_rewritten_fields(request: &mut Request) {
    request.model = None;
    request.max_tokens = None;
    request.max_completion_tokens = None;
    request.store = None;
    request.service_tier = None;
    request.modalities = None;
    request.user = None;
    for message in request.messages.iter_mut().flat_map(|list| &mut list.0) {
        message.tidy();
    }
}

/// For OpenAI, which refuses members that others have.
fn without_thoughts(request: &Request) -> Request {
    let mut request = request.clone();
    for message in request.messages.iter_mut().flat_map(|list| &mut list.0) {
        message.forget_thoughts();
    }
    request
}
