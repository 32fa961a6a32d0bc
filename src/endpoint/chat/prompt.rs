//! `/api/prompts/{name}`: a chat that begins with a prompt of the server's. Pure.
//!
//! The caller sends the values of the prompt's variables and what is said after it; the text, the model and the cap are
//! the server's. Underneath it is a chat like any other: [`Order`] is what is priced and sent. No refusal repeats the text.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::wire::{Message, Messages, Request};
use super::{CHAT, Order, check, image};
use crate::endpoint::field_error::{Checked, FieldError, tidy};
use crate::endpoint::json::{self, Name, object};
use crate::endpoint::nested_list::NestedList;
use crate::endpoint::{Incoming, Settable, Spec, Terms, model_choice};
use crate::error::{Code, Refusal};
use crate::model::Capability;
use crate::prompt::{FILLED_BYTES_MAX, Misfit, Prompt, VARIABLES_MAX};

/// The prompts of the settings, by name.
pub static SPEC: Spec = Spec {
    paths: &["/api/prompts/{name}"],
    // What can be set for the name of its model is said by the chat.
    settable: Settable {
        fields: &[],
        check: |_| Ok(()),
    },
    parse: |incoming, terms| Ok(Box::new(parse(incoming, terms)?)),
    ..CHAT
};

/// How much of an unknown name is told.
const NAME_CHARS_MAX: usize = 64;

object! {
    /// A request for a prompt, as it is written.
    PromptBody {
        variables = "variables": Variables,
        messages = "messages": Messages,
        stream = "stream": bool,
    }
}

/// The values of variables, each a text.
#[derive(Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub(super) struct Variables(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Variables {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ByName)
    }
}

/// Reads an object of variables, each named once.
struct ByName;

impl<'de> Visitor<'de> for ByName {
    type Value = Variables;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Variables, A::Error> {
        let mut values = BTreeMap::new();
        while let Some(Name(name)) = map.next_key::<Name<'de>>()? {
            if values.contains_key(name.as_ref()) {
                let twice = A::Error::custom(format_args!("duplicate field `{name}`"));
                return Err(twice);
            }
            if values.len() >= VARIABLES_MAX {
                return Err(A::Error::custom(format_args!(
                    "must have at most {VARIABLES_MAX} variables"
                )));
            }
            let value = map.next_value()?;
            values.insert(name.into_owned(), value);
        }
        Ok(Variables(values))
    }
}

/// Reads a request for a prompt.
///
/// # Errors
/// `not_found`, `model_not_allowed`: there is no such prompt, or not in this plan. `invalid_request`, `unsupported_field`:
/// both name the field or the variable.
fn parse(incoming: &Incoming, terms: &Terms<'_>) -> Result<Order, Refusal> {
    let prompt = find(incoming.route.parameter.as_deref(), terms)?;
    let request: PromptBody = json::read(&incoming.body)?;
    check::known(request.unknown.as_deref())?;
    let values = request.variables.unwrap_or_default().0;
    let system = prompt.system.fill(&values).map_err(misfit)?;
    let mut chat = Request {
        messages: request.messages.filter(|messages| !messages.0.is_empty()),
        stream: request.stream,
        max_tokens: prompt.max_output_tokens.map(i64::from),
        ..Request::default()
    };
    if chat.messages.is_some() {
        check::request(&chat, terms.plan)?;
        check_roles(&chat)?;
        image::prepare(&mut chat)?;
    }
    let mut messages = vec![Message::system(system)];
    messages.extend(chat.messages.into_iter().flat_map(|messages| messages.0));
    chat.messages = Some(NestedList(messages));
    let choice = model_choice::of_prompt(&prompt.model, terms, Capability::Chat)?;
    let order = Order::of_checked(chat, choice, terms)?;
    Ok(Order {
        prompt_version: Some(prompt.version.clone()),
        prompt_values: values.into_values().collect(),
        ..order
    })
}

/// The prompt of a name, if the caller's plan may use it.
fn find<'a>(name: Option<&str>, terms: &Terms<'a>) -> Result<&'a Prompt, Refusal> {
    let name = name.unwrap_or_default();
    let told = tidy(name, NAME_CHARS_MAX);
    let prompt = terms
        .prompts
        .get(name)
        .ok_or_else(|| Refusal::new(Code::NotFound, format!("There is no prompt `{told}`.")))?;
    if prompt.is_for(&terms.plan.name) {
        return Ok(prompt);
    }
    let message = format!("The prompt `{told}` is not in this plan.");
    Err(Refusal::new(Code::ModelNotAllowed, message))
}

fn misfit(misfit: Misfit) -> FieldError {
    let about = |name: String, what: String| FieldError::invalid(name, what).under("variables");
    match misfit {
        Misfit::Missing(name) => FieldError::missing(name).under("variables"),
        Misfit::Unknown(name) => about(name, "is not a variable of this prompt".to_owned()),
        Misfit::TooLong(name) => {
            let what = format!("makes the prompt longer than {FILLED_BYTES_MAX} bytes");
            about(name, what)
        }
    }
}

/// What the model is to do is said by the prompt, and by nobody else.
fn check_roles(request: &Request) -> Checked {
    let messages = request.messages.iter().flat_map(|list| &list.0);
    for (place, message) in messages.enumerate() {
        if let Some(role @ ("system" | "developer")) = message.role.as_deref() {
            let what = format!("cannot be `{role}`: the prompt says what the model is to do");
            let fault = FieldError::invalid("role", what);
            return Err(fault.under(format_args!("messages[{place}]")));
        }
    }
    Ok(())
}
