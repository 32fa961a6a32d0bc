//! `/v1/images/generations` and `/v1/images/edits`: images that are made of a prompt, or of a prompt and images. Pure.
//!
//! What is ordered is bounded: how many, how large, how good ([`size`]), the partial ones, the prompt and the images in it
//! ([`inputs`]). A provider works on when nobody listens any more, and bills it, so an answer is always read to its end.

mod inputs;
mod request;
mod size;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use http::HeaderValue;
use serde::Serialize;
use uuid::Uuid;

use self::inputs::FormImages;
use self::request::Request;
use self::size::ImageKind;
use super::form::{Boundary, FormBody, FormWriter};
use crate::dialect::{Dialect, Manner};
use crate::endpoint::field_error::FieldError;
use crate::endpoint::json;
use crate::endpoint::model_choice::{self, OrderedModel};
use crate::endpoint::{
    Endpoint, Incoming, JSON, MULTIPART, Reader, Settable, Spec, Terms, UserInput, settings,
};
use crate::error::Refusal;
use crate::meter::images::{self, ANSWER_BYTES_MAX, ImageOrder};
use crate::meter::{Measured, Meter};
use crate::model::Capability;
use crate::plan::{Plan, Quote};
use crate::price::tokenizer;
use crate::price::{Price, Quantities, Usage};

/// What a provider may write around a prompt, in tokens.
const FRAME: u64 = 96;
/// The longest that an image of so many pixels is in an answer: four bytes a pixel, and four for three of them in base64. A
/// JPEG has at most half of that.
const PIXEL_BYTES: (u64, u64) = (16, 3);

/// What is made of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Generation,
    Edit,
}

/// OpenAI's own path for images of a prompt.
pub static GENERATIONS: Spec = Spec {
    paths: &["/v1/images/generations"],
    bodies: &[JSON],
    upstream_path: "/images/generations",
    operation: "image_generation",
    capability: Capability::Images,
    settable: SETTABLE,
    answer_bytes_max: ANSWER_BYTES_MAX,
    parse: |incoming, terms| {
        let order = ImagesOrder::parse(incoming, Operation::Generation, terms)?;
        Ok(Box::new(order))
    },
};

/// OpenAI's own path for images of images.
pub static EDITS: Spec = Spec {
    paths: &["/v1/images/edits"],
    bodies: &[JSON, MULTIPART],
    upstream_path: "/images/edits",
    operation: "image_edit",
    capability: Capability::Images,
    settable: SETTABLE,
    answer_bytes_max: ANSWER_BYTES_MAX,
    parse: |incoming, terms| {
        let order = ImagesOrder::parse(incoming, Operation::Edit, terms)?;
        Ok(Box::new(order))
    },
};

const SETTABLE: Settable = Settable {
    fields: &request::SETTABLE,
    check: |fields| Ok(request::check_fields(&json::read(fields.as_bytes())?)?),
};

/// A request that may be sent.
#[derive(Clone)]
pub struct ImagesOrder {
    operation: Operation,
    /// Without model and user, which are written anew; with the size and the quality that were chosen.
    request: Request,
    /// What came as a form, and goes as one.
    form: Option<(FormImages, Boundary)>,
    model: OrderedModel,
    kind: ImageKind,
    /// At least as many tokens as the prompt, and the images in it, will be billed as.
    text_tokens: u64,
    image_tokens: u64,
    narrowed: bool,
}

/// Without the prompt.
impl fmt::Debug for ImagesOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImagesOrder")
            .field("operation", &self.operation)
            .field("model", &self.model.name)
            .field("size", &self.kind.size)
            .finish_non_exhaustive()
    }
}

impl ImagesOrder {
    /// Reads a request. Without a model it is the plan's first that makes images.
    ///
    /// # Errors
    /// `invalid_request`, `unsupported_field` (both name the field), `model_not_allowed`.
    fn parse(
        incoming: &Incoming,
        operation: Operation,
        terms: &Terms<'_>,
    ) -> Result<Self, Refusal> {
        let (mut request, form) = read(incoming)?;
        let caps = &terms.plan.images;
        request::check(&mut request, operation, caps)?;
        if operation == Operation::Edit && form.is_none() && count_of(&request) == 0 {
            return Err(FieldError::missing("images").into());
        }
        let asked = request.model.as_deref();
        let choice = model_choice::choose(asked, terms, Capability::Images)?;
        if let Some(alias) = choice.alias {
            settings::apply(&mut request, alias, |_, _| ())?;
            request::check(&mut request, operation, caps)?;
        }
        let (name, price) = (choice.name, choice.price);
        let wished = (request.size.as_deref(), request.quality.as_deref());
        let kind = size::choose(wished, caps, (name, price))?;
        check_answer(&request, &kind)?;
        request.size = Some(kind.size_word.clone());
        request.quality.clone_from(&kind.quality_word);
        (request.model, request.user) = (None, None);
        let prompt = request.prompt.as_deref().unwrap_or_default();
        Ok(Self {
            operation,
            text_tokens: tokenizer::bytes_bound(price.tokenizer, prompt).saturating_add(FRAME),
            image_tokens: inputs::tokens(name, &request, form.as_ref().map(|(images, _)| images)),
            request,
            form,
            model: choice.into_ordered(),
            kind,
            narrowed: false,
        })
    }

    /// How many are ordered.
    fn count(&self) -> u64 {
        let n = self.request.n.and_then(|n| u64::try_from(n).ok());
        n.unwrap_or(1)
    }

    fn input_tokens(&self) -> u64 {
        self.text_tokens.saturating_add(self.image_tokens)
    }

    /// The most that it uses.
    fn most(&self) -> Quantities {
        let count = self.count();
        // Each image of a stream may report the prompt anew.
        let prompts = if self.stream() { count } else { 1 };
        let partial = self
            .request
            .partial_images
            .and_then(|n| u64::try_from(n).ok());
        let partial = size::partial_tokens(partial.unwrap_or(0));
        let has_tokens = size::has_token_price(&self.kind.price);
        let one = self
            .kind
            .tokens
            .saturating_add(if has_tokens { partial } else { 0 });
        let output = one.saturating_mul(count);
        Quantities {
            input_tokens: self.input_tokens().saturating_mul(prompts),
            image_input_tokens: self.image_tokens.saturating_mul(prompts),
            output_tokens: output,
            image_output_tokens: output,
            images: count,
            ..Quantities::NONE
        }
    }

    /// What its answer is read by.
    fn image_order(&self) -> ImageOrder {
        ImageOrder {
            operation: match self.operation {
                Operation::Generation => "image_generation",
                Operation::Edit => "image_edit",
            },
            count: self.count(),
            takes_images: self.operation == Operation::Edit,
            has_token_price: size::has_token_price(&self.kind.price),
            has_image_price: !self.kind.price.is_free() && self.kind.price.rates.image.0 > 0,
        }
    }
}

/// What stands in a request, in either form.
fn read(incoming: &Incoming) -> Result<(Request, Option<(FormImages, Boundary)>), Refusal> {
    if !incoming.is_form() {
        return Ok((json::read(&incoming.body)?, None));
    }
    let mut form = FormBody::read(incoming)?;
    let images = FormImages::take(&mut form)?;
    Ok((form.into_fields()?, Some((images, Boundary::random()?))))
}

fn count_of(request: &Request) -> usize {
    request.images.as_ref().map_or(0, |images| images.0.len())
}

/// An answer that would be longer than is read of any would be paid for and lost.
fn check_answer(request: &Request, kind: &ImageKind) -> Result<(), FieldError> {
    let (bytes, pixels) = PIXEL_BYTES;
    let is_jpeg = request.output_format.as_deref() == Some("jpeg");
    let of_area = kind.size.area().saturating_mul(bytes).div_ceil(pixels);
    let one = of_area.div_ceil(if is_jpeg { 2 } else { 1 });
    let most = u64::try_from(ANSWER_BYTES_MAX)
        .unwrap_or(u64::MAX)
        .checked_div(one)
        .unwrap_or(0);
    let count = request.n.and_then(|n| u64::try_from(n).ok()).unwrap_or(1);
    if count <= most {
        return Ok(());
    }
    let what = format!(
        "may come to more bytes than any answer that is read: at most {most} of this size at once, or twice that with \
         `output_format` \"jpeg\""
    );
    Err(FieldError::invalid("n", what))
}

impl Endpoint for ImagesOrder {
    fn ordered_model(&self) -> &OrderedModel {
        &self.model
    }

    fn price(&self) -> &Price {
        &self.kind.price
    }

    fn user_input(&self) -> Result<UserInput<'_>, Refusal> {
        let refs = self.request.images.iter().flat_map(|images| &images.0);
        let urls = refs.filter_map(|image| image.image_url.as_deref());
        let files = self.form.iter().flat_map(|(images, _)| images.urls());
        Ok(UserInput {
            texts: self.request.prompt.as_deref().into_iter().collect(),
            images: urls.map(Cow::Borrowed).chain(files).collect(),
        })
    }

    fn stream(&self) -> bool {
        self.request.stream == Some(true)
    }

    fn quote(&self, _: u32) -> Quote {
        Quote {
            price: self.kind.price.clone(),
            base: self.most(),
            output_cap: 0,
            output_floor: 0,
            choices: 1,
        }
    }

    fn check_input(&self, plan: &Plan) -> Result<(), Refusal> {
        let (bound, cap) = (self.input_tokens(), plan.max_input_tokens);
        if bound <= u64::from(cap) {
            return Ok(());
        }
        let message = format!(
            "The prompt and its images are too long: they may come to {bound} tokens, and the plan allows {cap} a request."
        );
        Err(Refusal::invalid("prompt", message))
    }

    fn check_least_input(&self, plan: &Plan) -> Result<(), Refusal> {
        let prompt = self.request.prompt.as_deref().unwrap_or_default();
        let least = tokenizer::least(self.kind.price.tokenizer, prompt);
        if least.saturating_add(self.image_tokens) <= u64::from(plan.max_input_tokens) {
            return Ok(());
        }
        self.check_input(plan)
    }

    fn narrow(&mut self, most: u64) {
        if self.narrowed {
            return;
        }
        let prompt = self.request.prompt.as_deref().unwrap_or_default();
        let tokenizer = self.kind.price.tokenizer;
        let counted = tokenizer::bound_of_bare_texts(tokenizer, most, |count| count(prompt));
        if let Some(counted) = counted {
            self.text_tokens = self.text_tokens.min(counted.saturating_add(FRAME));
        }
        self.narrowed = true;
    }

    fn is_narrowed(&self) -> bool {
        self.narrowed
    }

    fn body(&self, _: u32, manner: Manner, user: &str) -> Bytes {
        let outgoing = OutgoingImages {
            model: &self.model.name,
            request: &self.request,
            user: (manner.dialect == Dialect::Openai).then_some(user),
        };
        let Some((images, boundary)) = &self.form else {
            // Writing to memory cannot fail, and no value in a request is one that JSON cannot write.
            return Bytes::from(serde_json::to_vec(&outgoing).unwrap_or_default());
        };
        let mut form = FormWriter::new(boundary, images.bytes());
        form.texts(&outgoing);
        images.write(&mut form);
        form.finish()
    }

    fn content_type(&self) -> HeaderValue {
        let form = self.form.as_ref();
        form.map_or(
            HeaderValue::from_static(JSON.media_type),
            |(_, boundary)| boundary.content_type(),
        )
    }

    fn works_on(&self) -> bool {
        true
    }

    fn reader(&self, _: Uuid) -> Reader {
        let order = self.image_order();
        if self.stream() {
            Reader::Stream(Box::new(Meter::images(order)))
        } else {
            Reader::whole(move |body| images::read(body, &order))
        }
    }

    /// Only of a prompt that was refused: an answer without a report is charged by the piece, or as it was held.
    fn estimate(&self, _: &Measured) -> Usage {
        let prompt = self.request.prompt.as_deref().unwrap_or_default();
        let counted = tokenizer::count(self.kind.price.tokenizer, prompt);
        Usage {
            input_tokens: counted
                .saturating_add(self.image_tokens)
                .min(self.input_tokens()),
            image_input_tokens: self.image_tokens,
            ..Usage::default()
        }
    }
}

/// A request on its way out.
#[derive(Serialize)]
struct OutgoingImages<'a> {
    model: &'a str,
    #[serde(flatten)]
    request: &'a Request,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
}
