//! `/v1/messages/count_tokens`: how many tokens a prompt has, as the provider counts them. Nothing is generated and nothing
//! is charged. Pure.

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::wire::{Request, Thinking};
use super::{MessagesOrder, check};
use crate::dialect::Manner;
use crate::endpoint::{Endpoint, JSON, OrderedModel, Reader, Settable, Spec, Terms, json};
use crate::error::Refusal;
use crate::meter::whole::Whole;
use crate::meter::{Fault, Measured};
use crate::model::Capability;
use crate::plan::{Plan, Quote};
use crate::price::{Price, Quantities, Usage};

/// The longest answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The one path, Anthropic's own.
pub static SPEC: Spec = Spec {
    paths: &["/v1/messages/count_tokens"],
    bodies: &[JSON],
    upstream_path: "/messages/count_tokens",
    operation: "count_tokens",
    capability: Capability::Messages,
    // What can be set for the name of its model is said by the messages.
    settable: Settable {
        fields: &[],
        check: |_| Ok(()),
    },
    answer_bytes_max: ANSWER_BYTES_MAX,
    parse: |incoming, terms| Ok(Box::new(CountOrder::parse(&incoming.body, terms)?)),
};

/// A request to count that may be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct CountOrder {
    order: MessagesOrder,
    /// Of nothing.
    price: Price,
}

impl CountOrder {
    /// Reads a request.
    ///
    /// # Errors
    /// `invalid_request`, `unsupported_field` (both name the field), `model_not_allowed`.
    pub fn parse(body: &[u8], terms: &Terms<'_>) -> Result<Self, Refusal> {
        let request: Request = json::read(body)?;
        check::count(&request)?;
        let mut order = MessagesOrder::of_checked(request, terms)?;
        order.keep_the_prompt();
        Ok(Self {
            order,
            price: Price::default(),
        })
    }
}

impl Endpoint for CountOrder {
    fn ordered_model(&self) -> &OrderedModel {
        self.order.ordered_model()
    }

    fn price(&self) -> &Price {
        &self.price
    }

    fn quote(&self, _: u32) -> Quote {
        Quote {
            price: self.price.clone(),
            base: Quantities::NONE,
            output_cap: 0,
            output_floor: 0,
            choices: 1,
        }
    }

    /// A prompt that is too long for the plan may be counted.
    fn check_input(&self, _: &Plan) -> Result<(), Refusal> {
        Ok(())
    }

    fn check_least_input(&self, _: &Plan) -> Result<(), Refusal> {
        Ok(())
    }

    fn narrow(&mut self, _: u64) {}

    fn is_narrowed(&self) -> bool {
        true
    }

    fn body(&self, _: u32, _: Manner, _: &str) -> Bytes {
        let outgoing = OutgoingCount {
            model: self.order.model(),
            request: &self.order.request,
            thinking: self.order.thinking.as_ref(),
        };
        // Writing to memory cannot fail, and no value in a request is one that JSON cannot write.
        Bytes::from(serde_json::to_vec(&outgoing).unwrap_or_default())
    }

    fn reader(&self, _: Uuid) -> Reader {
        Reader::whole(read)
    }

    fn is_free(&self) -> bool {
        true
    }

    fn estimate(&self, _: &Measured) -> Usage {
        Usage::default()
    }
}

/// A request on its way out.
#[derive(Serialize)]
struct OutgoingCount<'a> {
    model: &'a str,
    #[serde(flatten)]
    request: &'a Request,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<&'a Thinking>,
}

/// Reads a whole answer, which passes as it came.
fn read(body: Bytes) -> Whole {
    let answer = serde_json::from_slice::<Value>(&body).unwrap_or_default();
    let is_count = answer.get("input_tokens").is_some_and(Value::is_u64);
    Whole {
        measured: Measured::default(),
        body: if is_count {
            Ok(body)
        } else {
            Err(Fault::Nonsense)
        },
    }
}
