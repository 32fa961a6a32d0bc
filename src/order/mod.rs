//! An admitted request: its fields allowed, its output capped, its price fixed, its prompt bounded. Pure.
//!
//! [`Order::parse`] reads the caller's body once. What is priced is exactly what is sent: [`Order::body`] writes the
//! request anew from what was understood, with the cap that was granted. It knows nothing of limits and money left:
//! [`Order::ask`] says what the request needs, and `plan::admit` decides.

mod bound;
mod check;
mod data_url;
mod fault;
mod image;
mod image_size;
mod json_text;
mod reasoning;
mod said;
mod schema;
#[cfg(test)]
mod tests;
mod wire;

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use bytes::Bytes;
use serde::Serialize;

use crate::clock::Timestamp;
use crate::config::{CapName, Dialect, Manner};
use crate::error::{Code, Refusal};
use crate::model::{Model, ModelTable};
use crate::plan::{Ask, Plan};
use crate::price::{Price, PriceTable, Tokenizer};
use crate::tokens;

use bound::Weight;
use fault::{Fault, tidy};
use wire::{Message, Request, StreamOptions};

/// How many model names a refusal lists.
const LISTED_MODELS_MAX: usize = 20;

/// What a request is measured by: the caller's plan, and the price and the ways of every model.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The caller's plan.
    pub plan: &'a Plan,
    /// Every priced model.
    pub prices: &'a PriceTable,
    /// What else is known of models.
    pub models: &'a ModelTable,
    /// Which of them are still there.
    pub now: Timestamp,
}

/// A chat request that may be sent. Made only by [`Order::parse`].
#[derive(Clone, PartialEq)]
pub struct Order {
    /// As it will be sent, without what is always said anew: model, cap, stream options, and what is merely accepted.
    request: Request,
    model: String,
    price: Price,
    choices: u32,
    output_cap: u32,
    wants_usage: bool,
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
            .field("model", &self.model)
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
        let mut request = read(body)?;
        check::request(&request, terms.plan)?;
        image::prepare(&mut request)?;
        let (model, price, known) = model(request.model.as_deref(), terms)?;
        let is_plain = reasoning::settle(&mut request, price, known, terms.plan);
        let cap = request.max_completion_tokens.or(request.max_tokens);
        let cap = cap.and_then(|cap| u32::try_from(cap).ok()).unwrap_or(u32::MAX);
        let options = request.stream_options.take();
        said_anew(&mut request);
        let weight = Weight::in_bytes(&request, model, price.tokenizer);
        Ok(Self {
            model: model.to_owned(),
            price: price.clone(),
            choices: request.n.and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
            output_cap: cap.min(terms.plan.max_output_tokens),
            is_plain,
            wants_usage: options.and_then(|options| options.include_usage).unwrap_or(false),
            input_tokens: weight.bound(),
            counted: false,
            request,
        })
    }

    /// The canonical name of the model: it has a price and is in the plan.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The answer is streamed.
    #[must_use]
    pub fn stream(&self) -> bool {
        self.request.stream == Some(true)
    }

    /// The caller asked for the chunk with the usage at the end of the stream.
    #[must_use]
    pub const fn wants_usage(&self) -> bool {
        self.wants_usage
    }

    /// How many answers are generated.
    #[must_use]
    pub const fn choices(&self) -> u32 {
        self.choices
    }

    /// The price of the model.
    #[must_use]
    pub const fn price(&self) -> &Price {
        &self.price
    }

    /// Tokens may be billed that nobody sees: the model may reason before it answers.
    #[must_use]
    pub const fn may_reason(&self) -> bool {
        !self.is_plain
    }

    /// The output cap of one choice, in tokens: the caller's, lowered to the plan's.
    #[must_use]
    pub const fn output_cap(&self) -> u32 {
        self.output_cap
    }

    /// What the request needs: the bound of its prompt as it is now, and its cap, that may shrink to
    /// `min_output_tokens` where that is less.
    #[must_use]
    pub fn ask(&self, min_output_tokens: u32) -> Ask {
        Ask {
            price: self.price.clone(),
            input_tokens: self.input_tokens,
            output_cap: self.output_cap,
            output_floor: min_output_tokens.min(self.output_cap),
            choices: self.choices,
        }
    }

    /// Narrows the bound of the prompt with the model's own tokenizer, or with the dearest where it is not known; it never
    /// grows. A prompt of more than `most` tokens is not counted to its end, and keeps the bound that it has. Takes time with the tokens counted
    /// (tens of milliseconds a megabyte of prose, up to a few hundred of worse).
    pub fn count_exactly(&mut self, most: u64) {
        let tokenizer = self.price.tokenizer;
        if !self.counted {
            let left = Cell::new(Some(most));
            let count = |text: &str| {
                let Some(before) = left.get() else { return 0 };
                let tokens = tokens::bound_up_to(tokenizer, text, before);
                left.set(before.checked_sub(tokens));
                tokens
            };
            let exact = Weight::counted(&self.request, &self.model, tokenizer, &count).bound_with_margin();
            if left.get().is_some() {
                self.input_tokens = self.input_tokens.min(exact);
            }
        }
        self.counted = true;
    }

    /// Whether the prompt may be within the plan if each of its tokens is as long as any is: cheap, and certain where it
    /// says no.
    ///
    /// # Errors
    /// `invalid_request` about `messages`.
    pub fn check_least_input(&self, plan: &Plan) -> Result<(), Refusal> {
        let tokenizer = self.price.tokenizer;
        let least = |text: &str| tokens::least(tokenizer, text);
        let least = Weight::counted(&self.request, &self.model, tokenizer, &least).bound_with_margin();
        if least <= u64::from(plan.max_input_tokens) {
            return Ok(());
        }
        self.check_input(plan)
    }

    /// [`Self::count_exactly`] was called: the bound will not become any narrower.
    #[must_use]
    pub const fn is_counted(&self) -> bool {
        self.counted
    }

    /// Whether the prompt, by its bound as it is now, is within the plan.
    ///
    /// # Errors
    /// `invalid_request` about `messages`.
    pub fn check_input(&self, plan: &Plan) -> Result<(), Refusal> {
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

    /// The refusal that names an image, where the prompt would fit without its images.
    fn image_refusal(&self, cap: u64) -> Option<Refusal> {
        let images = image::all(&self.request, &self.model, self.is_openai());
        let total = images.iter().fold(0_u64, |total, (_, tokens)| total.saturating_add(*tokens));
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
    /// margin, images at their most. Never above the bound. Takes time as [`Self::count_exactly`] does.
    #[must_use]
    pub fn estimate_input_tokens(&self) -> u64 {
        let weight = Weight::likely(&self.request, &self.model, self.price.tokenizer);
        weight.estimate().min(self.input_tokens)
    }

    /// The body to send, with an output cap of at most `output_cap` tokens a choice, by the name that the server knows
    /// whatever the caller called it: a cap that is not understood is none.
    ///
    /// `safety_identifier` (at most 64 characters, OpenAI only) tells the provider one user from another without naming
    /// anybody.
    #[must_use]
    pub fn body(&self, output_cap: u32, manner: impl Into<Manner>, safety_identifier: &str) -> Bytes {
        let Manner { dialect, cap_name, stream_usage } = manner.into();
        let cap = output_cap.min(self.output_cap);
        let openai = dialect == Dialect::Openai;
        let asks_usage = self.stream() && stream_usage;
        let request = if openai && self.messages().any(Message::has_thoughts) {
            Cow::Owned(without_thoughts(&self.request))
        } else {
            Cow::Borrowed(&self.request)
        };
        let outgoing = Outgoing {
            model: &self.model,
            request: &request,
            max_completion_tokens: (cap_name != CapName::MaxTokens).then_some(cap),
            max_tokens: (cap_name != CapName::MaxCompletionTokens).then_some(cap),
            stream_options: asks_usage.then_some(StreamOptions { include_usage: Some(true), unknown: None }),
            store: openai.then_some(false),
            service_tier: openai.then_some("default"),
            safety_identifier: openai.then_some(safety_identifier),
        };
        // Room for most; a longer one grows.
        let mut written = Vec::with_capacity(1024);
        // Writing to memory cannot fail, and no value in a request is one that JSON cannot write.
        if serde_json::to_writer(&mut written, &outgoing).is_err() {
            written.clear();
        }
        Bytes::from(written)
    }

    /// The model is one of OpenAI's: so says its tokenizer.
    fn is_openai(&self) -> bool {
        self.price.tokenizer != Tokenizer::Unknown
    }

    fn messages(&self) -> impl Iterator<Item = &Message> {
        self.request.messages.iter().flat_map(|list| &list.0)
    }
}

/// A request on its way out.
#[derive(Serialize)]
struct Outgoing<'a> {
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

/// Removes what [`Order::body`] says itself, and what is accepted and not passed on.
fn said_anew(request: &mut Request) {
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

fn read(body: &[u8]) -> Result<Request, Refusal> {
    let not_json = |why: &str| Refusal::new(Code::InvalidRequest, format!("The body is not valid JSON: {why}."));
    let text = std::str::from_utf8(body).map_err(|_| not_json("it is not UTF-8"))?;
    if text.starts_with('\u{FEFF}') {
        return Err(not_json("it starts with a byte order mark"));
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let request = Request::read(&mut reader).map_err(|(error, path)| Fault::of_json(&error, path))?;
    reader.end().map_err(|_| not_json("something follows the object"))?;
    Ok(request)
}

/// A model's canonical name, its price, and what else is known of it.
type Ordered<'a> = (&'a str, &'a Price, Option<&'a Model>);

/// The canonical name and the price of the model asked for, or else of the plan's first.
fn model<'a>(asked: Option<&str>, terms: &Terms<'a>) -> Result<Ordered<'a>, Refusal> {
    let models = &terms.plan.models;
    let name = asked.or(models.first().map(String::as_str)).unwrap_or_default();
    let asked = terms.prices.resolve(name).filter(|(name, _)| models.iter().any(|model| model == name));
    let asked = asked.ok_or_else(|| not_allowed(name, models))?;
    let known = terms.models.get(asked.0);
    if known.is_none_or(|model| model.successor(terms.now).is_none()) {
        return Ok((asked.0, asked.1, known));
    }
    // A name that its provider shut down is answered, and paid, as its successor.
    let living = terms.prices.models.get_key_value(terms.models.living(asked.0, terms.now));
    let (name, price) = living.map_or(asked, |(name, price)| (name.as_str(), price));
    Ok((name, price, terms.models.get(name)))
}

fn not_allowed(name: &str, models: &[String]) -> Refusal {
    let listed: Vec<&str> = models.iter().take(LISTED_MODELS_MAX).map(String::as_str).collect();
    let more = if models.len() > LISTED_MODELS_MAX { ", and others" } else { "" };
    let message = format!("The model `{}` is not in this plan. It has: {}{more}.", tidy(name, 64), listed.join(", "));
    Refusal::new(Code::ModelNotAllowed, message).at("model")
}
