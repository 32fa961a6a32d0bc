//! What each endpoint takes, what it may cost, what is sent and how its answer is read. Pure.
//!
//! An endpoint is a row of [`ALL`] and an implementation of [`Endpoint`]; everything else (token, plan, hold, dispatch,
//! meter, settlement, row, log line, span, metrics) is the one path in `proxy`. To add one: write its file with a [`Spec`],
//! put that in [`ALL`], and describe its route in `server::endpoints`.
//!
//! Why a trait object and not a type parameter: an order is asked a dozen questions in its life and none for each event, so
//! a call through a table costs nothing that can be measured, and the path behind it is compiled once, not once an endpoint.

pub mod audio;
pub mod chat;
pub(crate) mod data_url;
mod effort;
pub mod embeddings;
pub(crate) mod field_error;
pub(crate) mod form;
mod image;
pub mod image_generation;
pub mod image_size;
mod json;
pub(crate) mod json_text;
mod members;
pub mod messages;
mod model_choice;
pub mod moderations;
mod nested_list;
pub mod responses;
mod route;
mod schema;
mod settings;
pub mod speech;
mod token_bound;
pub mod transcriptions;
mod user_input;
mod weight;

use std::fmt;

use bytes::Bytes;
use http::HeaderValue;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::dialect::Manner;
use crate::error::Refusal;
use crate::meter::whole::Whole;
use crate::meter::{Measured, Meter};
use crate::model::{Capability, ModelTable};
use crate::plan::{Plan, Quote};
use crate::price::{Price, PriceTable, Usage};
use crate::prompt::Prompts;

pub use model_choice::OrderedModel;
pub use route::Route;
pub use settings::Settable;
pub use user_input::UserInput;

/// Every endpoint.
pub static ALL: [&Spec; 11] = [
    &chat::SPEC,
    &chat::prompt::SPEC,
    &embeddings::SPEC,
    &moderations::SPEC,
    &messages::SPEC,
    &messages::count::SPEC,
    &responses::SPEC,
    &speech::SPEC,
    &image_generation::GENERATIONS,
    &image_generation::EDITS,
    &transcriptions::SPEC,
];

/// What is known of an endpoint before there is a request.
#[derive(Debug)]
pub struct Spec {
    /// The paths that end up here; the last segment may be `{name}`. The one that was called stands in the row, the log,
    /// the span and the metrics, in the last two without what stands for the name.
    pub paths: &'static [&'static str],
    /// The forms that its bodies may have. The first is that of a body without a Content-Type.
    pub bodies: &'static [BodyForm],
    /// What follows an upstream's base URL.
    pub upstream_path: &'static str,
    /// The operation's name by OpenTelemetry's conventions for generative AI.
    pub operation: &'static str,
    /// What a model must be able to do.
    pub capability: Capability,
    /// Which fields the operator may add to a request.
    pub settable: Settable,
    /// The longest answer that is not a stream.
    pub answer_bytes_max: usize,
    /// Reads a request, or says what is wrong with it.
    pub parse: Parse,
}

/// How what came in becomes a request that may be sent.
type Parse = fn(&Incoming, &Terms<'_>) -> Result<Box<dyn Endpoint>, Refusal>;

/// A form that a body may have.
#[derive(Debug)]
pub struct BodyForm {
    /// Its media type, in lower case and without parameters.
    pub media_type: &'static str,
    /// The most bytes of such a body, by the settings.
    pub bytes_max: fn(&BodyBounds) -> usize,
}

/// How long bodies may be, by the settings.
#[derive(Clone, Copy, Debug)]
pub struct BodyBounds {
    /// `[server] body_bytes_max`
    pub body_bytes_max: usize,
    /// `[server] file_bytes_max`
    pub file_bytes_max: usize,
}

/// JSON, within `[server] body_bytes_max`.
pub const JSON: BodyForm = BodyForm {
    media_type: "application/json",
    bytes_max: |bounds| bounds.body_bytes_max,
};

/// A form with files, within `[server] file_bytes_max`.
pub const MULTIPART: BodyForm = BodyForm {
    media_type: "multipart/form-data",
    bytes_max: |bounds| bounds.file_bytes_max,
};

/// A request as its endpoint gets to see it.
#[derive(Clone)]
pub struct Incoming {
    /// Where it came in.
    pub route: Route,
    /// Its Content-Type with all parameters, where it has one; of a form that the endpoint takes.
    pub content_type: Option<HeaderValue>,
    /// Its body, whole and within the bound of its form.
    pub body: Bytes,
}

impl Incoming {
    /// Its body is a form, and not JSON.
    pub(crate) fn is_form(&self) -> bool {
        let kind = self.content_type.as_ref().map(HeaderValue::as_bytes);
        let essence = kind.and_then(|kind| kind.split(|byte| *byte == b';').next());
        essence.is_some_and(|essence| {
            essence
                .trim_ascii()
                .eq_ignore_ascii_case(MULTIPART.media_type.as_bytes())
        })
    }
}

/// Without the body.
impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("route", &self.route)
            .field("content_type", &self.content_type)
            .finish_non_exhaustive()
    }
}

impl Spec {
    /// It is Anthropic's API: its requests name a version of that, and its refusals have the shape that its clients decode.
    #[must_use]
    pub fn is_anthropics(&self) -> bool {
        self.capability == Capability::Messages
    }

    /// The route of this endpoint that is `path`, if one is.
    #[must_use]
    pub fn route(&self, path: &str) -> Option<Route> {
        self.paths
            .iter()
            .find_map(|pattern| Route::of(pattern, path))
    }

    /// The models that may answer for an entry of a plan here, by the names that the settings list them by, in their order.
    pub fn candidates<'a>(
        &self,
        entry: &'a str,
        models: &'a ModelTable,
    ) -> impl Iterator<Item = &'a str> {
        let needed = self.capability;
        models
            .candidates(entry)
            .filter(move |model| models.serves(model, needed))
    }
}

/// The route of an endpoint that is `path`, if one is.
#[must_use]
pub fn route(path: &str) -> Option<Route> {
    ALL.into_iter().find_map(|spec| spec.route(path))
}

/// What a request is measured by: the caller's plan, and the price and the ways of every model.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The caller's plan.
    pub plan: &'a Plan,
    /// Every priced model.
    pub prices: &'a PriceTable,
    /// What else is known of models.
    pub models: &'a ModelTable,
    /// The prompts that live on the server.
    pub prompts: &'a Prompts,
    /// Which models are still there.
    pub now: Timestamp,
    /// Which of the models that may answer for the name that is asked for is to: one of [`Spec::candidates`]. The first,
    /// where nothing is said.
    pub candidate: Option<&'a str>,
}

impl<'a> Terms<'a> {
    /// The model that answers for a candidate, and its price: itself, or the successor of one that its provider shut down.
    #[must_use]
    pub fn answering(&self, candidate: &'a str) -> Option<(&'a str, &'a Price)> {
        let prices = &self.prices.models;
        let (model, price) = prices
            .get_key_value(self.models.living(candidate, self.now))
            .or_else(|| prices.get_key_value(candidate))?;
        Some((model, price))
    }
}

/// One request that may be sent, as its endpoint understands it: made by [`Spec::parse`] and by nothing else.
///
/// Its fields are allowed, its output is capped, its price is fixed and its prompt bounded. It knows nothing of limits and
/// money left. Invariant: what is priced is exactly what [`Endpoint::body`] writes. `Debug` shows no prompt.
pub trait Endpoint: fmt::Debug + Send + Sync {
    /// The model that it is for.
    fn ordered_model(&self) -> &OrderedModel;

    /// The canonical name of the model: it has a price, is in the plan and serves this endpoint.
    fn model(&self) -> &str {
        &self.ordered_model().name
    }

    /// The name that the caller asked for, where that is another than [`Endpoint::model`].
    fn requested_model(&self) -> Option<&str> {
        self.ordered_model().requested.as_deref()
    }

    /// The entry of the plan that allows the model: the operator's name for it, or its own. Limits for one model go by it.
    fn plan_entry(&self) -> &str {
        let model = self.ordered_model();
        model.entry.as_deref().unwrap_or(&model.name)
    }

    /// The version of the server's prompt that it begins with, if it does. What a provider says of such a request may quote
    /// the prompt, and is not told.
    fn prompt_version(&self) -> Option<&str> {
        None
    }

    /// The price that it is ordered at: the model's.
    fn price(&self) -> &Price {
        &self.ordered_model().price
    }

    /// What the user said since the last answer, for a plan that has it checked. An endpoint that takes no words of a user's
    /// leaves it as it is.
    ///
    /// # Errors
    /// It cannot be read: tokens in place of texts.
    fn user_input(&self) -> Result<UserInput<'_>, Refusal> {
        Ok(UserInput::default())
    }

    /// How many answers are generated.
    fn choices(&self) -> u32 {
        1
    }

    /// The output cap of one choice, in tokens: the caller's, lowered to the plan's; 0 where nothing is generated.
    fn output_cap(&self) -> u32 {
        0
    }

    /// The answer is streamed.
    fn stream(&self) -> bool {
        false
    }

    /// Tokens may be billed that nobody sees: the model may reason before it answers.
    fn may_reason(&self) -> bool {
        false
    }

    /// What the request needs: the bound of its prompt as it is now, and its cap, that may shrink to
    /// `min_output_tokens` where that is less.
    fn quote(&self, min_output_tokens: u32) -> Quote;

    /// Whether the prompt, by its bound as it is now, is within the plan.
    ///
    /// # Errors
    /// `invalid_request` about the field that is too long.
    fn check_input(&self, plan: &Plan) -> Result<(), Refusal>;

    /// Whether the prompt may be within the plan if each of its tokens is as long as any is: cheap, and certain where it
    /// says no.
    ///
    /// # Errors
    /// As [`Endpoint::check_input`].
    fn check_least_input(&self, plan: &Plan) -> Result<(), Refusal>;

    /// Narrows the bound of the prompt with the model's own tokenizer, or with the dearest where it is not known; it never
    /// grows. A prompt of more than `most` tokens is not counted to its end, and keeps the bound that it has. Takes time
    /// with the tokens counted (tens of milliseconds a megabyte of prose, up to a few hundred of worse).
    fn narrow(&mut self, most: u64);

    /// [`Endpoint::narrow`] was called: the bound will not become any narrower.
    fn is_narrowed(&self) -> bool;

    /// The body to send, with an output cap of at most `output_cap` tokens a choice, in the way that the upstream wants it.
    ///
    /// `user` (at most 64 characters, told to OpenAI only) tells the provider one user from another without naming anybody.
    fn body(&self, output_cap: u32, manner: Manner, user: &str) -> Bytes;

    /// The Content-Type of what [`Endpoint::body`] writes.
    fn content_type(&self) -> HeaderValue {
        HeaderValue::from_static(JSON.media_type)
    }

    /// The Content-Type of an answer in one piece.
    fn answer_type(&self) -> &'static str {
        JSON.media_type
    }

    /// Its provider does not stop when the connection is cut, and bills all the work: it is read to its end whoever
    /// listens.
    fn works_on(&self) -> bool {
        false
    }

    /// How the answer to the request with this id is read.
    fn reader(&self, request_id: Uuid) -> Reader;

    /// It is charged nothing, and counts as a request per minute and hour only.
    fn is_free(&self) -> bool {
        false
    }

    /// What was most likely used, for when the upstream does not say: the prompt, and what was seen of the answer. Never
    /// above the bound in its prompt. Takes time as [`Endpoint::narrow`] does.
    fn estimate(&self, seen: &Measured) -> Usage;
}

/// Reads an answer in one piece: what was measured, and what the caller gets.
pub type WholeReader = Box<dyn FnOnce(Bytes) -> Whole + Send>;

/// How an answer is read.
pub enum Reader {
    /// In one piece.
    Whole(WholeReader),
    /// Event by event.
    Stream(Box<Meter>),
    /// Byte by byte, as it comes.
    Bytes(ByteAnswer),
}

/// An answer of which nothing is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteAnswer {
    /// What its media type begins with: `audio/`.
    pub family: &'static str,
    /// What it is where its upstream does not say.
    pub media_type: &'static str,
    /// What it used, however much of it comes; none where only an estimate can say that.
    pub usage: Option<Usage>,
}

impl Reader {
    /// In one piece.
    #[must_use]
    pub fn whole(read: impl FnOnce(Bytes) -> Whole + Send + 'static) -> Self {
        Self::Whole(Box::new(read))
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(_) => f.write_str("Whole"),
            Self::Stream(meter) => f.debug_tuple("Stream").field(meter).finish(),
            Self::Bytes(answer) => f.debug_tuple("Bytes").field(answer).finish(),
        }
    }
}
