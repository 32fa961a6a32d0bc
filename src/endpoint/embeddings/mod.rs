//! `/v1/embeddings`: texts, or tokens, that become vectors. Nothing is generated, and the answer comes in one piece. Pure.
//!
//! By OpenAI's description of `CreateEmbeddingRequest`. The hold is the bound of all inputs together; so is what the plan's
//! `max_input_tokens` bounds.

mod answer;
mod input;
#[cfg(test)]
mod tests;

use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use uuid::Uuid;

use crate::dialect::{Dialect, Manner};
use crate::endpoint::field_error::{Checked, FieldError};
use crate::endpoint::json::{self, object};
use crate::endpoint::model_choice::{self, OrderedModel};
use crate::endpoint::token_bound::{BareTexts, TokenBound, input_too_long};
use crate::endpoint::{Endpoint, JSON, Reader, Settable, Spec, Terms, UserInput, settings};
use crate::error::Refusal;
use crate::meter::Measured;
use crate::model::Capability;
use crate::plan::{Plan, Quote};
use crate::price::{Quantities, Usage};

use self::input::Input;

/// The most dimensions that can be asked for. (OpenAI's largest model has 3072.)
const DIMENSIONS_MAX: i64 = 65_536;
/// The longest `user`, in bytes.
const USER_BYTES_MAX: usize = 1024;
/// The longest answer: 2048 vectors of OpenAI's largest model in base64, twice.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The dimensions of OpenAI's largest model, which count where none are asked for.
const DIMENSIONS_ASSUMED: u64 = 3072;
/// A number as it is written, on a line of its own: `        -0.006929283,`.
const NUMBER_BYTES: u64 = 24;
/// A number of four bytes in base64, rounded up.
const NUMBER_BYTES_BASE64: u64 = 6;

/// The one path, OpenAI's own.
pub static SPEC: Spec = Spec {
    paths: &["/v1/embeddings"],
    bodies: &[JSON],
    upstream_path: "/embeddings",
    operation: "embeddings",
    capability: Capability::Embeddings,
    settable: Settable {
        fields: &["dimensions"],
        check: |fields| Ok(check_dimensions(&json::read(fields.as_bytes())?)?),
    },
    answer_bytes_max: ANSWER_BYTES_MAX,
    parse: |incoming, terms| Ok(Box::new(EmbeddingsOrder::parse(&incoming.body, terms)?)),
};

object! {
    /// A request, as it is written.
    Request {
        model = "model": String,
        input = "input": Input,
        encoding_format = "encoding_format": String,
        dimensions = "dimensions": i64,
        user = "user": String,
    }
}

/// A request that may be sent.
#[derive(Clone, PartialEq)]
pub struct EmbeddingsOrder {
    /// Without model and user, which are written anew.
    request: Request,
    model: OrderedModel,
    /// Of all inputs.
    bound: TokenBound,
}

/// Without the inputs.
impl fmt::Debug for EmbeddingsOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddingsOrder")
            .field("model", &self.model.name)
            .field("input_tokens", &self.bound.tokens())
            .finish_non_exhaustive()
    }
}

impl EmbeddingsOrder {
    /// Reads a request. Without a model it is the plan's first that serves embeddings.
    ///
    /// # Errors
    /// `invalid_request`, `unsupported_field` (both name the field), `model_not_allowed`.
    pub fn parse(body: &[u8], terms: &Terms<'_>) -> Result<Self, Refusal> {
        let mut request: Request = json::read(body)?;
        check(&request)?;
        let asked = request.model.as_deref();
        let choice = model_choice::choose(asked, terms, Capability::Embeddings)?;
        if let Some(alias) = choice.alias {
            settings::apply(&mut request, alias, |_, _| ())?;
            check(&request)?;
        }
        let model = choice.into_ordered();
        (request.model, request.user) = (None, None);
        let bound = TokenBound::in_bytes(&request, model.price.tokenizer);
        Ok(Self {
            request,
            model,
            bound,
        })
    }
}

impl BareTexts for Request {
    fn tokens(&self, count: &dyn Fn(&str) -> u64) -> u64 {
        let input = self.input.as_ref();
        input.map_or(0, |input| input.tokens(count))
    }

    fn texts(&self) -> u64 {
        self.input.as_ref().map_or(0, Input::inputs)
    }
}

impl Endpoint for EmbeddingsOrder {
    fn ordered_model(&self) -> &OrderedModel {
        &self.model
    }

    fn user_input(&self) -> Result<UserInput<'_>, Refusal> {
        let texts = match &self.request.input {
            Some(Input::Text(text)) => vec![text.as_str()],
            Some(Input::Texts(texts)) => texts.iter().map(String::as_str).collect(),
            None => Vec::new(),
            Some(Input::Tokens(_) | Input::TokenLists(_)) => {
                let what =
                    "cannot be tokens in this plan, which has its users' words checked: send text";
                return Err(FieldError::unsupported("input", what).into());
            }
        };
        Ok(UserInput {
            texts,
            images: Vec::new(),
        })
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

    fn body(&self, _: u32, manner: Manner, user: &str) -> Bytes {
        let outgoing = OutgoingBody {
            model: &self.model.name,
            request: &self.request,
            user: (manner.dialect == Dialect::Openai).then_some(user),
        };
        // Writing to memory cannot fail, and no value in a request is one that JSON cannot write.
        Bytes::from(serde_json::to_vec(&outgoing).unwrap_or_default())
    }

    fn reader(&self, _: Uuid) -> Reader {
        Reader::whole(answer::read)
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
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
}

/// The allow-list: what is passed on, in which type and range.
fn check(request: &Request) -> Checked {
    if let Some(unknown) = request.unknown.as_deref() {
        let what = "is not supported: remove it";
        return Err(FieldError::unsupported(&unknown.name, what));
    }
    check_input(request.input.as_ref())?;
    if !matches!(
        request.encoding_format.as_deref(),
        None | Some("float" | "base64")
    ) {
        let what = "must be `float` or `base64`";
        return Err(FieldError::invalid("encoding_format", what));
    }
    check_dimensions(request)?;
    let user = request.user.as_ref();
    if user.is_some_and(|user| user.len() > USER_BYTES_MAX) {
        let what = format!("must not have more than {USER_BYTES_MAX} bytes");
        return Err(FieldError::invalid("user", what));
    }
    check_answer(request)
}

fn check_dimensions(request: &Request) -> Checked {
    let dimensions = request.dimensions;
    if dimensions.is_some_and(|dimensions| !(1..=DIMENSIONS_MAX).contains(&dimensions)) {
        let what = format!("must be between 1 and {DIMENSIONS_MAX}");
        return Err(FieldError::invalid("dimensions", what));
    }
    Ok(())
}

fn check_input(input: Option<&Input>) -> Checked {
    let input = input.ok_or_else(|| FieldError::missing("input"))?;
    let empty = |path: String| Err(FieldError::invalid(path, "must not be empty"));
    let first_empty = match input {
        Input::Text(text) if text.is_empty() => return empty("input".to_owned()),
        Input::Tokens(tokens) if tokens.is_empty() => return empty("input".to_owned()),
        Input::Text(_) | Input::Tokens(_) => None,
        Input::Texts(texts) => texts.iter().position(String::is_empty),
        Input::TokenLists(lists) => lists.iter().position(Vec::is_empty),
    };
    first_empty.map_or(Ok(()), |place| empty(format!("input[{place}]")))
}

/// An answer that would be longer than is read of any would be paid for and lost.
fn check_answer(request: &Request) -> Checked {
    let dimensions = request
        .dimensions
        .and_then(|dimensions| u64::try_from(dimensions).ok());
    let number = if request.encoding_format.as_deref() == Some("base64") {
        NUMBER_BYTES_BASE64
    } else {
        NUMBER_BYTES
    };
    let vector = dimensions
        .unwrap_or(DIMENSIONS_ASSUMED)
        .saturating_mul(number);
    let most = u64::try_from(ANSWER_BYTES_MAX)
        .unwrap_or(u64::MAX)
        .checked_div(vector)
        .unwrap_or(0);
    if request.input.as_ref().map_or(0, Input::inputs) <= most {
        return Ok(());
    }
    let what = format!(
        "has more than {most} items, whose vectors may be longer than any answer that is read: send fewer at once, or \
         ask for `encoding_format` \"base64\""
    );
    Err(FieldError::invalid("input", what))
}
